"""One shard: the unit of work and of resumption.

A shard's result is a pure function of protocol, checkpoint, examples and package versions, which
are its address in the cache. It is written atomically, so it is there whole or not at all.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmark.datasets import Split, describe, example_list, load
from benchmark.digests import digest_of
from benchmark.distributed import choose_device, engine_digest, environment, steady, timed
from benchmark.errors import BenchmarkError, RecordError
from benchmark.evaluations import Examples, Flag, Measured, run_evaluation
from benchmark.files import read_bounded, write_atomically
from benchmark.manifest import Checkpoint, load_model
from benchmark.outcomes import LARGEST_OUTCOMES, Array, encode_arrays, read_arrays
from benchmark.pipeline.project import Project
from benchmark.protocols import Protocol

_META = "meta"
_COLUMN, _POSITIONS, _INPUTS = "column/", "positions/", "inputs/"


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
    """

    project: Project
    checkpoint: Checkpoint
    protocol: Protocol
    evaluation: str
    start: int
    stop: int
    data_digest: str

    @property
    def path(self) -> Path:
        """Where the result lies once it is there."""
        address = digest_of(
            {
                "protocol": self.protocol.digest,
                "weights": self.checkpoint.sha256,
                "network": [self.checkpoint.dataset, self.checkpoint.architecture],
                "data": self.data_digest,
                "environment": environment(choose_device(self.project.device)),
                "engine": engine_digest(),
            }
        )
        name = f"{self.evaluation}-{self.start:06d}.npz"
        return self.project.cache / "shards" / address[:2] / address[2:32] / name


@dataclass(frozen=True)
class ShardResult:
    """What a shard file holds.

    Attributes:
        columns: name within the evaluation → (n,) array.
        adversarial: attack → positions (n,) in the shard and changed inputs (n, C, H, W).
        flags: as the evaluation raised them.
        forwards: in examples.
        backwards: in examples.
        seconds: it took.
    """

    columns: dict[str, Array]
    adversarial: dict[str, tuple[Array, Array]]
    flags: tuple[Flag, ...]
    forwards: int
    backwards: int
    seconds: float


def encode(measured: Measured, seconds: float) -> ShardResult:
    """Returns a measurement as the value that is stored."""
    result = measured.result
    return ShardResult(
        dict(result.columns),
        dict(result.adversarial),
        result.flags,
        measured.forwards,
        measured.backwards,
        seconds,
    )


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
    for attack, (positions, inputs) in shard.adversarial.items():
        arrays[_POSITIONS + attack] = positions
        arrays[_INPUTS + attack] = inputs
    data = encode_arrays(arrays)
    if sum(values.nbytes for values in arrays.values()) > LARGEST_OUTCOMES:
        raise RecordError(
            f"expected a shard of at most {LARGEST_OUTCOMES} bytes, got more in {path.name}; "
            "choose a smaller shard size in the protocol"
        )
    write_atomically(path, data)


def read_outcomes(path: Path) -> ShardResult | None:
    """Returns a stored shard without its adversarial inputs, which are most of it."""
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
        meta = json.loads(arrays[_META].tobytes())
        flags = tuple(Flag(**flag) for flag in meta["flags"])
        numbers = (int(meta["forwards"]), int(meta["backwards"]), float(meta["seconds"]))
    except (FileNotFoundError, BenchmarkError, KeyError, ValueError, TypeError):
        return None
    attacks = [name.removeprefix(_INPUTS) for name in arrays if name.startswith(_INPUTS)]
    return ShardResult(
        {n.removeprefix(_COLUMN): v for n, v in arrays.items() if n.startswith(_COLUMN)},
        {attack: (arrays[_POSITIONS + attack], arrays[_INPUTS + attack]) for attack in attacks},
        flags,
        *numbers,
    )


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


@lru_cache(maxsize=4)
def _network(checkpoint: Checkpoint, root: Path, device: torch.device) -> nn.Module:
    return load_model(checkpoint, root).to(device)


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
            )
        )
    return encode(measured, seconds)


def run_shard(job: ShardJob) -> None:
    """Computes a shard and stores it, unless it is stored already."""
    if read_shard(job.path) is not None:
        return
    chosen = job.protocol
    device = choose_device(job.project.device)
    model = _network(job.checkpoint, job.project.root, device)
    examples = examples_of(job.project, chosen, job.start, job.stop)
    write_shard(job.path, measure_shard(model, chosen, job.evaluation, examples, job.start))
