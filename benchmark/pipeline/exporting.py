"""Exporting a checkpoint as a smaller network that answers alike, with a proof and as ONNX."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark import weights
from benchmark.compaction import Compact, compact, describe, restore
from benchmark.distributed import steady
from benchmark.errors import ContractError, ExtraMissing, InvariantViolation, ManifestError
from benchmark.files import read_bounded, write_atomically
from benchmark.manifest import Checkpoint, load_model, slug
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.pipeline.shards import examples_of
from benchmark.protocols import Protocol

NETWORK, WEIGHTS, ONNX = "network.json", "weights.safetensors", "network.onnx"

# A description has a few hundred bytes an operation; a ResNet-50 has a hundred operations.
_LARGEST_DESCRIPTION = 1 << 20
_LARGEST_WEIGHTS = 1 << 30

# Passes before and while time is taken.
_WARM, _ROUNDS = 3, 30


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass on one thread.

    Attributes:
        batch: images a pass.
        median: over all rounds.
        quartiles: lower and upper.
    """

    batch: int
    median: float
    quartiles: tuple[float, float]


@dataclass(frozen=True)
class Export:
    """What was written, and how it compares.

    Attributes:
        folder: of the files.
        examples: of the protocol on which all predictions agree.
        difference: largest one of two logits there, as a share of the largest logit.
        parameters: entries of the network's tensors as published, and of the compact ones.
        latencies: by variant, `masked` and `compact`, one a batch size.
    """

    folder: Path
    examples: int
    difference: float
    parameters: tuple[int, int]
    latencies: Mapping[str, tuple[Latency, ...]]


def export(
    project: Project,
    checkpoint: Checkpoint,
    chosen: Protocol,
    tier: str,
    folder: Path | None = None,
    *,
    onnx: bool = False,
    watch: Watch = silent,
) -> Export:
    """Writes a checkpoint's compact network and returns how it compares with the published one.

    Args:
        project: where things are.
        checkpoint: manifest entry.
        chosen: protocol on whose examples both must predict the same.
        tier: quick, standard or full.
        folder: default: `exports/<checkpoint>` of the project.
        onnx: writes `network.onnx`, too.
        watch: told after each shard.

    Raises:
        NotCompactable: layers that nobody can follow.
        InvariantViolation: the networks disagree on an example; nothing is written.
        ExtraMissing: ONNX is asked for and not installed.
    """
    target = folder or project.root / "exports" / slug(checkpoint.id)
    network = load_model(checkpoint, project.root)
    small = compact(network).eval()
    count, difference = _compared(project, network, small, chosen, tier, watch)
    inputs = torch.zeros(1, *network.shape)
    model = _onnx(small, inputs) if onnx else b""
    latencies = {
        name: latency(each, inputs) for name, each in (("masked", network), ("compact", small))
    }
    state = small.state_dict()
    found = Export(target, count, difference, (_entries(network), _entries(small)), latencies)
    text = json.dumps(_account(checkpoint, chosen, tier, small, network, found), indent=1)
    target.mkdir(parents=True, exist_ok=True)
    if model:
        write_atomically(target / ONNX, model)
    write_atomically(target / WEIGHTS, weights.encode(state))
    write_atomically(target / NETWORK, f"{text}\n".encode())
    return found


def _account(
    checkpoint: Checkpoint,
    chosen: Protocol,
    tier: str,
    small: Compact,
    network: nn.Module,
    found: Export,
) -> dict[str, object]:
    return {
        "checkpoint_id": checkpoint.id,
        "checkpoint_sha256": checkpoint.sha256,
        "input": {"shape": list(getattr(network, "shape", ())), "range": [0, 1]},
        "classes": getattr(network, "classes", None),
        "operations": describe(small),
        "same_predictions": {
            "protocol": chosen.id,
            "tier": tier,
            "examples": found.examples,
            "largest_relative_difference": found.difference,
        },
        "parameters": dict(zip(("published", "compact"), found.parameters, strict=True)),
        "milliseconds": {
            name: [
                {"batch": one.batch, "median": one.median, "quartiles": list(one.quartiles)}
                for one in each
            ]
            for name, each in found.latencies.items()
        },
    }


@torch.no_grad()
def _compared(
    project: Project,
    network: nn.Module,
    small: nn.Module,
    chosen: Protocol,
    tier: str,
    watch: Watch,
) -> tuple[int, float]:
    """Returns on how many examples the predictions agree, and the largest relative difference."""
    ranges = chosen.ranges(chosen.examples(tier))
    largest = difference = 0.0
    for done, part in enumerate(ranges, 1):
        examples = examples_of(project, chosen, part.start, part.stop)
        inputs = examples.inputs.cpu()
        expected, found = network(inputs), small(inputs)
        odd = (expected.argmax(dim=1) != found.argmax(dim=1)).nonzero().flatten()
        if len(odd):
            named = examples.indices[odd].tolist()[:10]
            raise InvariantViolation(
                "expected the compact network to predict what the published one does, got "
                f"{len(odd)} other predictions, at test examples {named}; nothing was written"
            )
        largest = max(largest, float(expected.abs().max()))
        difference = max(difference, float((expected - found).abs().max()))
        watch(done, len(ranges), "compared")
    return chosen.examples(tier), difference / max(largest, 1e-30)


def _entries(network: nn.Module) -> int:
    return sum(tensor.numel() for tensor in network.state_dict().values())


def latency(network: nn.Module, inputs: Tensor) -> tuple[Latency, ...]:
    """Returns the latency of a network on one thread, for one image and for 64 at a time."""
    with steady(), torch.no_grad():
        return tuple(_timed(network, inputs.expand(batch, -1, -1, -1)) for batch in (1, 64))


def _timed(network: Callable[[Tensor], Tensor], inputs: Tensor) -> Latency:
    inputs = inputs.contiguous()
    for _ in range(_WARM):
        network(inputs)
    spent = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        network(inputs)
        spent.append(1e3 * (time.perf_counter() - start))
    lower, median, upper = statistics.quantiles(spent, n=4)
    return Latency(len(inputs), median, (lower, upper))


def _onnx(small: Compact, inputs: Tensor) -> bytes:
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
        small,
        (inputs.expand(2, -1, -1, -1),),
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
        ManifestError: files that are missing, too large or none of ours.
        ContractError: tensors that do not belong to the description.
    """
    try:
        about = json.loads(read_bounded(folder / NETWORK, _LARGEST_DESCRIPTION))
        state = weights.decode(read_bounded(folder / WEIGHTS, _LARGEST_WEIGHTS))
        return restore(about["operations"], state, about["input"]["shape"]).eval()
    except FileNotFoundError as error:
        raise ManifestError(
            f"expected {NETWORK} and {WEIGHTS} in {folder}, found not both; make them with "
            "`robustprune export`"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(
            f"expected a description of a network in {folder / NETWORK}, got another file; export "
            "the checkpoint again"
        ) from error
