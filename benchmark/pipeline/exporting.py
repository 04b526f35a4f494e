"""Exporting a checkpoint as a network that answers alike, smaller if asked, with a proof.

A description and a state dict stand for themselves: any program that knows nine operations can run
them. ONNX is for those that know none of ours.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic_core import from_json
from torch import Tensor

from benchmark import weights
from benchmark.architectures import Classifier
from benchmark.compaction import (
    Compact,
    as_published,
    compact,
    compacted,
    describe,
    multiply_adds,
    parameters,
    restore,
)
from benchmark.digests import sha256_of_bytes
from benchmark.errors import (
    ContractError,
    ExtraMissing,
    InvariantViolation,
    ManifestError,
    StorageError,
    shorten,
)
from benchmark.files import inside, read_bounded, write_atomically
from benchmark.manifest import Checkpoint, load_model, slug
from benchmark.pipeline.bringing import bring, with_parents
from benchmark.pipeline.evaluating import parent_of
from benchmark.pipeline.latencies import dense_parent, latencies_of
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.pipeline.shards import examples_of
from benchmark.protocols import Protocol
from benchmark.records import Latencies

NETWORK, WEIGHTS, ONNX = "network.json", "weights.safetensors", "network.onnx"
FORMAT = "robustprune-export-1"

# A description has a few hundred bytes an operation; a ResNet-50 has a hundred operations.
_LARGEST_DESCRIPTION = 1 << 20
_LARGEST_WEIGHTS = 1 << 30

# (n, C, H, W) inputs in [0, 1] to logits (n, K).
_Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Form:
    """What is written.

    Attributes:
        smaller: the compact network; else the network as published, layer by layer.
        onnx: an ONNX model, too.
    """

    smaller: bool = True
    onnx: bool = False


@dataclass(frozen=True)
class Agreement:
    """How a network compares with the published one.

    Attributes:
        examples: of the protocol, all of them with the same predictions.
        difference: largest one of two logits there, as a share of the largest logit.
    """

    examples: int
    difference: float


@dataclass(frozen=True)
class Export:
    """What was written, and how it compares.

    Attributes:
        folder: of the files.
        same: with the network of the description.
        onnx_same: with the ONNX model; None where none was written, or nothing could run it.
        parameters: entries of all tensors as published, and of what was written.
        multiply_adds: of convolutions and linear layers for one input, likewise.
        latency: of dense parent, published and compact network.
    """

    folder: Path
    same: Agreement
    onnx_same: Agreement | None
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    latency: Latencies


def export(
    project: Project,
    checkpoint: Checkpoint,
    examples: tuple[Protocol, str],
    form: Form = Form(),
    folder: Path | None = None,
    watch: Watch = silent,
) -> Export:
    """Writes a checkpoint's network, compact or as published, once its answers are compared.

    Args:
        project: where things are.
        checkpoint: manifest entry.
        examples: protocol and tier on whose examples all must predict the same.
        form: what is written.
        folder: default: `exports/<checkpoint>` of the project.
        watch: told after each range of examples.

    Raises:
        NotCompactable: layers that nobody can follow.
        InvariantViolation: two networks disagree on an example; nothing is written.
        ManifestError: the default folder leads out of the project.
        ExtraMissing: ONNX is asked for and not installed.
    """
    target = folder or inside(project.root, f"exports/{slug(checkpoint.id)}")
    parent_entry = parent_of(checkpoint, project.manifest())
    bring(project, with_parents([checkpoint], [parent_entry]), watch)
    published = load_model(checkpoint, project.root)
    whole = as_published(published).eval()
    written = compact(published).eval() if form.smaller else whole
    files = {WEIGHTS: weights.encode(written.state_dict())}
    others: dict[str, _Forward] = {NETWORK: written}
    if form.onnx:
        files[ONNX] = _onnx(written, published.shape)
        others |= _runtime(files[ONNX])
    same = _compared(project, published, others, examples, watch)
    parent = dense_parent(project, parent_entry)
    small = written if form.smaller else compacted(published)
    found = Export(
        folder=target,
        same=same[NETWORK],
        onnx_same=same.get(ONNX),
        parameters=(parameters(whole), parameters(written)),
        multiply_adds=(
            multiply_adds(whole, published.shape),
            multiply_adds(written, published.shape),
        ),
        latency=latencies_of(parent, published, small, torch.device("cpu")),
    )
    about = {
        "format": FORMAT,
        "checkpoint_id": checkpoint.id,
        "checkpoint_sha256": checkpoint.sha256,
        "form": "compact" if form.smaller else "as published",
        "input": {"shape": list(published.shape), "range": [0, 1]},
        "classes": published.classes,
        "operations": describe(written),
        **_account(examples, found),
        "files": {name: _named(data) for name, data in files.items()},
    }
    _write(target, {**files, NETWORK: f"{json.dumps(about, indent=1)}\n".encode()})
    return found


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files, the description last: it names the others, so a kill is noticed.

    Raises:
        StorageError: the disk refuses.
    """
    for name, data in files.items():
        if name == NETWORK and ONNX not in files:
            # Of an earlier export, and of other weights for all anyone knows.
            _remove(target / ONNX)
        write_atomically(target / name, data)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"expected to remove {shorten(str(path), 400)}, got '{error.strerror}'; remove it or "
            "choose another folder"
        ) from error


def _named(data: bytes) -> dict[str, object]:
    return {"bytes": len(data), "sha256": sha256_of_bytes(data)}


def _account(examples: tuple[Protocol, str], found: Export) -> dict[str, object]:
    """Returns what the description says of the comparison."""
    names = ("published", "written")
    compared = {NETWORK: found.same, ONNX: found.onnx_same}
    return {
        "same_predictions": {
            "protocol": examples[0].id,
            "protocol_digest": examples[0].digest,
            "tier": examples[1],
            "networks": {
                name: {"examples": one.examples, "largest_relative_difference": one.difference}
                for name, one in compared.items()
                if one is not None
            },
        },
        "parameters": dict(zip(names, found.parameters, strict=True)),
        "multiply_adds": dict(zip(names, found.multiply_adds, strict=True)),
        "milliseconds": found.latency.model_dump(mode="json"),
    }


@torch.no_grad()
def _compared(
    project: Project,
    published: Classifier,
    others: Mapping[str, _Forward],
    examples: tuple[Protocol, str],
    watch: Watch,
) -> dict[str, Agreement]:
    """Returns for each other network how it compares on the protocol's examples."""
    chosen, tier = examples
    ranges = chosen.ranges(chosen.examples(tier))
    largest, difference = 0.0, dict.fromkeys(others, 0.0)
    for done, part in enumerate(ranges, 1):
        shown = examples_of(project, chosen, part.start, part.stop)
        inputs = shown.inputs.cpu()
        expected = published(inputs)
        largest = max(largest, float(expected.abs().max()))
        for name, network in others.items():
            found = network(inputs)
            odd = (expected.argmax(dim=1) != found.argmax(dim=1)).nonzero().flatten()
            if len(odd):
                raise InvariantViolation(
                    f"expected {name} to predict what the published network does, got {len(odd)} "
                    f"other predictions, at test examples {shown.indices[odd].tolist()[:10]}; "
                    "nothing was written"
                )
            difference[name] = max(difference[name], float((expected - found).abs().max()))
        watch(done, len(ranges), "compared")
    count = chosen.examples(tier)
    return {name: Agreement(count, d / max(largest, 1e-30)) for name, d in difference.items()}


def _runtime(model: bytes) -> dict[str, _Forward]:
    """Returns what runs an ONNX model, by its name; empty where no runtime is installed."""
    try:
        import onnxruntime
    except ImportError:
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(inputs: Tensor) -> Tensor:
        (logits,) = session.run(None, {"inputs": inputs.numpy()})
        return torch.from_numpy(np.asarray(logits))

    return {ONNX: run}


def _onnx(network: Compact, shape: tuple[int, int, int]) -> bytes:
    """Returns the network as an ONNX model with a free batch size."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExtraMissing(
            "expected onnx and onnxscript, found none; pip install 'robustprune[export]'"
        ) from error
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        network,
        (torch.zeros(2, *shape),),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        input_names=["inputs"],
        output_names=["logits"],
        verbose=False,
    )
    if program is None:
        raise ContractError("expected an ONNX program, got none")
    made = program.model_proto
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def load_export(folder: Path) -> Compact:
    """Returns the network of an export, in eval mode: (N, C, H, W) in [0, 1] to (N, K).

    Raises:
        ManifestError: files that are missing, too large, altered or none of ours.
        UnknownName: an operation that nobody here knows.
        ContractError: operations that do not fit each other, or tensors that are not theirs.
        StorageError: the disk refuses.
    """
    shown = shorten(str(folder), 400)
    try:
        about = _description(read_bounded(folder / NETWORK, _LARGEST_DESCRIPTION), shown)
        data = read_bounded(folder / WEIGHTS, _LARGEST_WEIGHTS)
    except FileNotFoundError as error:
        raise ManifestError(
            f"expected {NETWORK} and {WEIGHTS} in {shown}, found not both; make them with "
            "`robustprune export`"
        ) from error
    if about["files"][WEIGHTS] != _named(data):
        raise ManifestError(
            f"expected the {WEIGHTS} that {NETWORK} names in {shown}, got another one; export the "
            "checkpoint again"
        )
    network = restore(about["operations"], weights.decode(data), about["input"]["shape"])
    return network.eval()


def _description(data: bytes, shown: str) -> dict[str, Any]:
    """Returns the parts of a description that loading needs, of the kinds they must be."""
    try:
        about: Any = from_json(data, allow_inf_nan=False)
        wanted = {name: about[name] for name in ("format", "operations", "input", "files")}
        fine = wanted["format"] == FORMAT and {WEIGHTS} <= wanted["files"].keys()
        fine = fine and {"shape"} <= wanted["input"].keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_export(shown) from error
    if not fine:
        raise _no_export(shown)
    return wanted


def _no_export(shown: str) -> ManifestError:
    return ManifestError(
        f"expected {NETWORK} of {FORMAT} in {shown}, got another file; export the checkpoint again"
    )
