"""One shard: the unit of work and of resumption.

A shard's result is a pure function of protocol, checkpoint, examples and package versions, which
are its address in the cache. It is written atomically, so it is there whole or not at all.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import nn

from benchmark.datasets import Split, describe, example_list, load, status
from benchmark.digests import digest_of, sha256_of_bytes
from benchmark.distributed import (
    choose_device,
    engine_digest,
    evaluation_environment,
    steady,
    timed,
    tuning,
)
from benchmark.errors import BenchmarkError, DataUnavailable, RecordError
from benchmark.evaluations import (
    Bounds,
    Examples,
    Flag,
    Sanity,
    Settings,
    Sparing,
    Transfer,
    run_evaluation,
)
from benchmark.evidence import Found, arrays_of, compact, found_in
from benchmark.files import read_bounded, write_atomically
from benchmark.manifest import Checkpoint, Strict, load_model
from benchmark.outcomes import LARGEST_OUTCOMES, Array, encode_arrays, read_arrays
from benchmark.pipeline.project import Project
from benchmark.protocols import Protocol
from benchmark.records import Count, FlagEntry

_META = "meta"
_COLUMN, _EVIDENCE = "column/", "evidence/"

# Epsilon → (n,) bool, by range: which examples need no attack.
Proofs = dict[Fraction, Array]


@dataclass(frozen=True)
class ShardJob:
    """One evaluation of one checkpoint on one range of the example list.

    Attributes:
        project: where things are.
        checkpoint: manifest entry.
        protocol: under which.
        evaluation: name within the protocol.
        start: first position in the example list.
        stop: one past the last.
        data_digest: of the examples of the shard.
        parent: dense checkpoint of the same cell, for transfer; None where there is none.
        training_digest: of the training examples that sanity compares with; empty without them.
    """

    project: Project
    checkpoint: Checkpoint
    protocol: Protocol
    evaluation: str
    start: int
    stop: int
    data_digest: str
    parent: Checkpoint | None = None
    training_digest: str = ""

    @property
    def settings(self) -> Settings:
        """The evaluation's settings."""
        return dict(self.protocol.evaluations)[self.evaluation]

    @property
    def path(self) -> Path:
        """Where the result lies once it is there."""
        address = digest_of(
            {
                "protocol": self.protocol.digest,
                "weights": self.checkpoint.sha256,
                "network": [self.checkpoint.dataset, self.checkpoint.architecture],
                "data": self.data_digest,
                "parent": self._parent_sha256,
                "training": self.training_digest,
                "environment": evaluation_environment(choose_device(self.project.device)),
                "engine": engine_digest(),
            }
        )
        name = f"{self.evaluation}-{self.start:06d}.npz"
        return self.project.cache / "shards" / address[:2] / address[2:32] / name

    @property
    def _parent_sha256(self) -> str:
        # Only transfer depends on it, so a new parent costs no other evaluation.
        of_transfer = isinstance(self.settings, Transfer) and self.parent is not None
        return self.parent.sha256 if of_transfer and self.parent else ""


@dataclass(frozen=True)
class ShardResult:
    """What a shard file holds.

    Attributes:
        columns: name within the evaluation → (n,) array.
        evidence: attack → what it found.
        flags: as the evaluation raised them.
        forwards: in examples.
        backwards: in examples.
        seconds: it took.
    """

    columns: dict[str, Array]
    evidence: dict[str, Found]
    flags: tuple[Flag, ...]
    forwards: int
    backwards: int
    seconds: float


class _Meta(Strict):
    """What a shard file says of its evaluation beside the arrays."""

    flags: tuple[FlagEntry, ...] = Field(strict=False)
    forwards: Count
    backwards: Count
    seconds: float = Field(ge=0, allow_inf_nan=False)


def write_shard(path: Path, shard: ShardResult) -> None:
    """Writes a shard atomically."""
    meta = {
        "flags": [asdict(flag) for flag in shard.flags],
        "forwards": shard.forwards,
        "backwards": shard.backwards,
        "seconds": shard.seconds,
    }
    arrays: dict[str, Array] = {_META: np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)}
    arrays |= {_COLUMN + name: values for name, values in shard.columns.items()}
    arrays |= {_EVIDENCE + name: values for name, values in arrays_of(shard.evidence).items()}
    data = encode_arrays(arrays)
    if sum(values.nbytes for values in arrays.values()) > LARGEST_OUTCOMES:
        raise RecordError(
            f"expected a shard of at most {LARGEST_OUTCOMES} bytes, got more in {path.name}; "
            "choose a smaller shard size in the protocol"
        )
    write_atomically(path, data)


def read_outcomes(path: Path) -> ShardResult | None:
    """Returns a stored shard without its evidence, which is most of it."""
    return read_shard(path, lambda name: name == _META or name.startswith(_COLUMN))


def _everything(_: str) -> bool:
    return True


def read_shard(path: Path, wanted: Callable[[str], bool] = _everything) -> ShardResult | None:
    """Returns a stored shard, or None where there is none or it is damaged and must be redone.

    Args:
        path: where it lies.
        wanted: says which arrays to unpack; the others are left out.
    """
    try:
        arrays = read_arrays(read_bounded(path, LARGEST_OUTCOMES), wanted)
        meta = _Meta.model_validate_json(arrays[_META].tobytes())
        evidence = found_in(_within(arrays, _EVIDENCE))
    except (FileNotFoundError, BenchmarkError, KeyError, ValidationError):
        return None
    flags = tuple(Flag(**dict(flag)) for flag in meta.flags)
    numbers = (meta.forwards, meta.backwards, meta.seconds)
    return ShardResult(_within(arrays, _COLUMN), evidence, flags, *numbers)


def _within(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}


@lru_cache(maxsize=2)
def evaluated_split(dataset: str, root: Path | None, download: bool) -> tuple[Split, torch.Tensor]:
    """Returns a data set's test split and its example list; kept, since shards share them."""
    split = load(dataset, "test", root, download=download)
    return split, example_list(dataset, split.labels)


@lru_cache(maxsize=4096)
def range_digest(dataset: str, root: Path | None, download: bool, start: int, stop: int) -> str:
    """Returns the digest of a range of a data set's example list; kept, since it reads them all."""
    split, order = evaluated_split(dataset, root, download)
    return split.digest(order[start:stop])


@lru_cache(maxsize=8)
def _network(checkpoint: Checkpoint, root: Path, device: torch.device) -> nn.Module:
    return load_model(checkpoint, root).to(device)


def settled(project: Project) -> Project:
    """Returns a project that means the same in every worker process, wherever that was started."""
    return replace(
        project,
        root=project.root.resolve(),
        data_root=project.data_root and project.data_root.resolve(),
        # `auto` might choose another in a worker process.
        device=str(choose_device(project.device)),
    )


def examples_of(project: Project, chosen: Protocol, start: int, stop: int) -> Examples:
    """Returns a range of a protocol's example list, on the project's device."""
    split, order = evaluated_split(chosen.dataset, project.data_root, project.download)
    device = choose_device(project.device)
    indices = order[start:stop]
    return Examples(
        inputs=split.inputs(indices).to(device),
        labels=split.labels[indices].to(device),
        indices=indices,
        classes=describe(chosen.dataset, project.data_root).classes,
    )


def training_of(project: Project, chosen: Protocol) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Returns as many training examples as a shard has, or None where there are none at hand."""
    found = _training(chosen.dataset, project.data_root, project.download, chosen.shard_size)
    if found is None:
        return None
    device = choose_device(project.device)
    return found[0].to(device), found[1].to(device)


@lru_cache(maxsize=2)
def _training(
    dataset: str, root: Path | None, download: bool, count: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    try:
        split = load(dataset, "train", root, download=download)
    except DataUnavailable:
        if status(dataset, root).found:
            raise  # there and damaged is another matter than not there
        return None
    chosen = example_list(f"{dataset}:training", split.labels)[:count]
    return split.inputs(chosen), split.labels[chosen]


@lru_cache(maxsize=8)
def training_digest(dataset: str, root: Path | None, download: bool, count: int) -> str:
    """Returns the digest of those training examples; empty where there are none at hand."""
    found = _training(dataset, root, download, count)
    if found is None:
        return ""
    inputs, labels = found
    return digest_of([sha256_of_bytes(inputs.numpy().tobytes()), labels.tolist()])


def compares_with_training(settings: Settings, start: int) -> bool:
    """Returns whether a shard looks at training examples: those of the list's first range do."""
    return isinstance(settings, Sanity) and start == 0


def certifies_first(chosen: Protocol, settings: Settings) -> bool:
    """Returns whether an evaluation spares what is proven."""
    return chosen.certify_first and isinstance(settings, Sparing)


def proofs_in(results: Iterable[tuple[Settings, ShardResult]]) -> Proofs:
    """Returns by epsilon which examples of a range the bounds among these results prove."""
    found: Proofs = {}
    for settings, shard in results:
        if isinstance(settings, Bounds):
            for epsilon, proven in settings.proven(shard.columns).items():
                found[epsilon] = found.get(epsilon, np.zeros_like(proven)) | proven
    return found


def measure_shard(
    model: nn.Module, chosen: Protocol, evaluation: str, examples: Examples, start: int
) -> ShardResult:
    """Runs one evaluation on one shard, on one CPU thread or the accelerator."""
    settings = dict(chosen.evaluations)[evaluation]
    with steady():
        measured, seconds = timed(
            lambda: run_evaluation(
                model,
                examples,
                name=evaluation,
                settings=settings,
                threat=chosen.threat,
                seed=(chosen.seed, evaluation, start),
                tuning=tuning(),
            )
        )
        result = measured.result
        evidence = compact(model, examples, result.adversarial, chosen.threat, measured.inner)
    return ShardResult(
        columns=dict(result.columns),
        evidence=evidence,
        flags=result.flags,
        forwards=measured.forwards,
        backwards=measured.backwards,
        seconds=seconds,
    )


def with_proofs(examples: Examples, proofs: Proofs) -> Examples:
    """Returns examples that name what is proven of them."""
    device = examples.labels.device
    proven = {e: torch.from_numpy(values).to(device) for e, values in proofs.items()}
    return replace(examples, proven=proven)


def run_shard(job: ShardJob) -> float:
    """Computes a shard and stores it, unless it is stored already; returns the seconds it took."""
    return timed(lambda: _run_shard(job))[1]


def _run_shard(job: ShardJob) -> None:
    if read_shard(job.path) is not None:
        return
    chosen = job.protocol
    device = choose_device(job.project.device)
    model = _network(job.checkpoint, job.project.root, device)
    examples = examples_of(job.project, chosen, job.start, job.stop)
    if certifies_first(chosen, job.settings):
        examples = with_proofs(examples, _proofs(job))
    if isinstance(job.settings, Transfer) and job.parent is not None:
        examples = replace(examples, parent=_network(job.parent, job.project.root, device))
    if compares_with_training(job.settings, job.start):
        examples = replace(examples, training=training_of(job.project, chosen))
    write_shard(job.path, measure_shard(model, chosen, job.evaluation, examples, job.start))


def _proofs(job: ShardJob) -> Proofs:
    """Returns what is proven of a job's range; the bounds are computed now if nobody has."""
    results = []
    for name, settings in job.protocol.evaluations:
        if isinstance(settings, Bounds):
            bounds = replace(job, evaluation=name, training_digest="")
            run_shard(bounds)
            shard = read_outcomes(bounds.path)
            if shard is None:
                raise RecordError(f"expected bounds in {bounds.path}, found none; run again")
            results.append((settings, shard))
    return proofs_in(results)
