"""A synthetic project of any size: manifest, records and outcomes that keep every promise.

    python tests/bench/synthetic.py FOLDER --records 10000

Networks and attacks are drawn, formats and writers are the project's own: what is read, ranked and
rendered cannot tell the difference. The weights do not exist; nothing that makes pages reads them.
The same records and seed give the same bytes.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import records
from benchmark.architectures import build
from benchmark.datasets import DATASETS
from benchmark.digests import digest_of, seed_from, sha256_of_bytes
from benchmark.evaluations import (
    AutoAttack,
    Bounds,
    Clean,
    Iterated,
    Ordered,
    Sanity,
    Smoothing,
    epsilons_of,
)
from benchmark.evaluations.base import MISCLASSIFIED, PROVEN, SURVIVED
from benchmark.manifest import Checkpoint, Manifest, write_manifest
from benchmark.outcomes import Outcomes, attempts, part
from benchmark.protocols import PROTOCOLS, Protocol
from benchmark.pruning import measure
from benchmark.records import ResultRecord


@dataclass(frozen=True)
class Board:
    """A protocol with a share of the records, and the networks under it."""

    protocol: str
    share: float
    architectures: tuple[str, ...]
    recipe: str


SPREAD = (
    Board("cifar10-linf", 0.6, ("resnet18", "vgg16-bn", "wrn-28-4"), "cifar10"),
    Board("mnist-linf", 0.2, ("cnn-small", "cnn-large"), "mnist-short"),
    Board("svhn-linf", 0.1, ("resnet18",), "svhn"),
    Board("digits-linf", 0.1, ("cnn-tiny",), "digits"),
)
SINGLE = (Board("cifar10-linf", 1.0, ("resnet18", "vgg16-bn", "wrn-28-4"), "cifar10"),)

# How much robustness a method keeps when it removes nearly everything.
METHODS = {
    "random": 0.2,
    "lwm-layerwise": 0.6,
    "lwm-global": 0.65,
    "snip": 0.5,
    "gradual": 0.68,
    "adversarial-gradual": 0.75,
    "atmc": 0.72,
    "bap": 0.66,
    "compact-robust": 0.7,
    "hydra": 0.82,
    "pwoa": 0.7,
    "radmm": 0.72,
}
# (clean accuracy, robustness, how much of a true radius bounds prove).
OBJECTIVES = {
    "adversarial": (1.3, 0.6, 0.15),
    "smoothing": (1.4, 0.0, 0.1),
    "mixtrain": (0.9, 0.3, 0.7),
    "crown-ibp": (0.8, 0.4, 0.9),
}
LEVELS = (
    *(("unstructured", Fraction(percent, 100)) for percent in (50, 75, 90, 95, 99)),
    *(("filter", Fraction(percent, 100)) for percent in (50, 75)),
)
ENVIRONMENT = {
    "python": "3.11.7",
    "torch": "2.14.1",
    "numpy": "2.2.0",
    "device": "cpu",
    "processor": "a synthetic one",
    "threads": "1",
    "platform": "Linux",
}


@dataclass(frozen=True)
class Setting:
    """What one network is: everything else follows from it and the seed of the project."""

    board: Board
    method: str
    architecture: str
    objective: str
    structure: str
    sparsity: Fraction
    seed: int

    @property
    def id(self) -> str:
        """Id in the manifest."""
        percent = f"{float(100 * self.sparsity):g}"
        dataset = PROTOCOLS[self.board.protocol].dataset
        names = (self.method, dataset, self.architecture, self.objective)
        return f"{'/'.join(names)}/{self.structure}-{percent}/seed{self.seed}"


def settings_of(board: Board) -> Iterator[Setting]:
    """Yields networks without end: all of one training seed, dense ones first, then the next."""
    seed = 0
    while True:
        for architecture, objective in product(board.architectures, OBJECTIVES):
            yield Setting(
                board, "dense", architecture, objective, "unstructured", Fraction(0), seed
            )
        for (structure, level), method, architecture, objective in product(
            LEVELS, METHODS, board.architectures, OBJECTIVES
        ):
            yield Setting(board, method, architecture, objective, structure, level, seed)
        seed += 1


@cache
def layers_of(architecture: str, dataset: str) -> tuple[Any, ...]:
    """Returns the layers of a network, each with name, shape, entries and multiply-adds."""
    data = DATASETS[dataset]
    channels = data.shape[0]
    model = build(
        architecture,
        shape=data.shape,
        classes=data.classes,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )
    return measure(model, data.shape).layers


def checkpoint_of(setting: Setting) -> Checkpoint:
    """Returns the entry of a network in the manifest."""
    dataset = PROTOCOLS[setting.board.protocol].dataset
    size = size_of(setting)
    finetune = 0 if setting.method == "dense" else 20
    return Checkpoint.model_validate(
        {
            "id": setting.id,
            "display_name": f"{setting.method}, {setting.objective}",
            "method": setting.method,
            "dataset": dataset,
            "architecture": setting.architecture,
            "objective": setting.objective,
            "structure": setting.structure,
            "sparsity": float(setting.sparsity),
            "seed": setting.seed,
            "zeros": sum(layer["zeros"] for layer in size["layers"]),
            "prunable": sum(layer["total"] for layer in size["layers"]),
            "authors": ["Ada Müller", "Bo Li"],
            "paper": "https://arxiv.org/abs/2002.10509",
            "code": "https://example.org/code",
            "licence": "MIT",
            "extra_data": "",
            "recipe": setting.board.recipe,
            "recipe_digest": digest_of(setting.board.recipe),
            "budget": {
                "pretrain_epochs": 100,
                "prune_epochs": finetune,
                "finetune_epochs": 5 * finetune,
                "attack_steps": 10,
                "hours": 1.25,
                "device": "cuda",
            },
            "file": f"checkpoints/{dataset}/{digest_of(setting.id)[:24]}.safetensors",
            "bytes": size["bytes_stored"],
            "sha256": digest_of(["weights", setting.id]),
        }
    )


def size_of(setting: Setting) -> dict[str, Any]:
    """Returns the counts of a record: every layer has lost the same share."""
    dataset = PROTOCOLS[setting.board.protocol].dataset
    layers = []
    for layer in layers_of(setting.architecture, dataset):
        zeros = round(float(setting.sparsity) * layer.total)
        uses = layer.multiply_adds_dense // layer.total
        layers.append(
            {
                "name": layer.name,
                "shape": list(layer.shape),
                "zeros": zeros,
                "total": layer.total,
                "multiply_adds_dense": layer.multiply_adds_dense,
                "multiply_adds_sparse": uses * (layer.total - zeros),
            }
        )
    zeros, total = (sum(layer[name] for layer in layers) for name in ("zeros", "total"))
    return {
        "layers": layers,
        "weight_zeros": zeros,
        "weight_total": total,
        "parameter_zeros": zeros,
        "parameter_total": total + 100,
        "bytes_stored": 4 * (total - zeros) + total // 8 + 1000,
        "bytes_dense": 4 * total + 400,
    }


@cache
def difficulties(protocol_id: str, seed: int) -> np.ndarray:
    """Returns (N,) how hard each example of a protocol is, the same for all networks."""
    count = max(count for _, count in PROTOCOLS[protocol_id].tiers)
    generator = np.random.default_rng(seed_from("examples", protocol_id, seed))
    return generator.standard_normal(count)


def outcomes_of(setting: Setting, examples: int, seed: int) -> Outcomes:
    """Returns what an honest engine would have measured.

    Each example has a true radius: attacks break it above, and may miss it just above; bounds prove
    a share of it.
    """
    protocol = PROTOCOLS[setting.board.protocol]
    draw = np.random.default_rng(seed_from("outcomes", setting.id, seed))
    classes = DATASETS[protocol.dataset].classes
    clean, robust, provable = OBJECTIVES[setting.objective]
    kept = 1.0 if setting.method == "dense" else METHODS[setting.method]
    strength = float(1 - (1 - kept) * setting.sparsity**4) + 0.03 * draw.standard_normal()
    hard = difficulties(protocol.id, seed)[:examples] + 0.4 * draw.standard_normal(examples)
    label = (np.arange(examples) % classes).astype(np.int16)
    correct = clean * strength - hard > 0
    radius = float(protocol.threat.epsilon) * np.exp(1.5 * robust * strength - hard - 0.2)
    proven_radius = radius * provable * draw.beta(4, 2, examples)
    columns = {
        "index": np.arange(examples, dtype=np.int32),
        "label": label,
    }
    guess = np.where(correct, label, (label + 1 + draw.integers(0, classes - 1)) % classes)
    network = _Network(correct, radius, proven_radius, guess.astype(np.int16))
    for name, chosen in protocol.evaluations:
        found = _measured(network, chosen, protocol, draw)
        columns |= {f"{name}.{column}": values for column, values in found.items()}
    return Outcomes(_spared(columns, correct, protocol))


@dataclass(frozen=True)
class _Network:
    correct: np.ndarray
    radius: np.ndarray
    proven_radius: np.ndarray
    guess: np.ndarray


def _measured(
    network: _Network, settings: Any, protocol: Protocol, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns the columns of one evaluation that attacks every example."""
    count = len(network.correct)
    if isinstance(settings, Clean):
        return {"prediction": network.guess, "zero_gradient": np.zeros(count, dtype=np.bool_)}
    if isinstance(settings, Bounds):
        return _bounded(network, settings, draw)
    if isinstance(settings, Iterated):
        missed = 1 + 0.05 * draw.random(count)
        steps = draw.geometric(0.3, count).clip(1, settings.steps.count // 2)
        return {
            f"broken_step@{epsilon}": np.where(
                network.radius * missed < float(epsilon), steps, SURVIVED
            ).astype(np.int16)
            for epsilon in epsilons_of(settings, protocol.threat)
        }
    if isinstance(settings, Smoothing):
        return _smoothed(network, settings, draw)
    if isinstance(settings, Ordered):
        return _ordered(network, settings, float(protocol.threat.epsilon), draw)
    raise TypeError(f"expected a known evaluation, got {type(settings).__name__}; add it here")


def _bounded(
    network: _Network, settings: Bounds, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    columns = {}
    best = draw.integers(0, len(settings.methods), len(network.correct)).astype(np.int8)
    for epsilon in settings.epsilons:
        margin = np.round(10 * (network.proven_radius - float(epsilon)), 4)
        margin = np.where(network.correct, margin, -np.inf)
        columns[f"margin@{epsilon}"] = margin.astype(np.float32)
        columns[f"method@{epsilon}"] = np.where(network.correct, best, -1).astype(np.int8)
    return columns


def _ordered(
    network: _Network, settings: Any, epsilon: float, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns who broke what: AutoAttack nearly all that can be broken, weak attacks little."""
    count = len(network.correct)
    reach = 1.0 if isinstance(settings, AutoAttack) else 0.3
    first = np.minimum(draw.geometric(0.9, count) - 1, len(settings.attacks) - 1)
    if isinstance(settings, AutoAttack):
        # Square finds last what gradients have left, and that is nearly nothing.
        first = np.minimum(first, len(settings.attacks) - 2)
    broken = network.radius < reach * epsilon
    columns = {"broken_by": np.where(broken, first, SURVIVED).astype(np.int8)}
    if isinstance(settings, Sanity):
        columns["huge_survived"] = np.zeros(count, dtype=np.bool_)
        columns["vanishing_gradient"] = np.zeros(count, dtype=np.bool_)
        columns["planted"] = np.full(count, -2, dtype=np.int8)
    return columns


def _smoothed(
    network: _Network, settings: Smoothing, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    seen = np.arange(len(network.correct)) < settings.examples
    votes = draw.integers(settings.n // 2, settings.n, len(seen))
    radius = settings.sigma * draw.random(len(seen)) * 3
    return {
        "prediction": np.where(seen, network.guess, -2).astype(np.int16),
        "radius": np.where(seen, np.round(radius, 4), np.nan).astype(np.float32),
        "selected": np.where(seen, network.guess, -2).astype(np.int16),
        "count": np.where(seen, votes, -2).astype(np.int32),
    }


def _spared(
    columns: Mapping[str, np.ndarray], correct: np.ndarray, protocol: Protocol
) -> dict[str, np.ndarray]:
    """Returns the columns with what was misclassified or proven marked as not attacked."""
    outcomes = Outcomes(columns)
    bounds = [(n, s) for n, s in protocol.evaluations if isinstance(s, Bounds)]
    found = dict(columns)
    for name, settings in protocol.evaluations:
        for column in [column for column in columns if column.startswith(f"{name}.broken_")]:
            epsilon = Fraction(column.partition("@")[2] or protocol.threat.epsilon)
            values = np.where(correct, columns[column], MISCLASSIFIED)
            if "transfer" not in name and not isinstance(settings, Sanity):
                for other, chosen in bounds:
                    for at, proven in chosen.proven(part(outcomes, other)).items():
                        values = np.where(proven & (at >= epsilon), PROVEN, values)
            found[column] = values.astype(columns[column].dtype)
    return found


LATENCIES = [
    {
        "batch": batch,
        "rounds": 31,
        "lower": 0.1 * batch,
        "median": 0.2 * batch,
        "upper": 0.4 * batch,
    }
    for batch in (1, 64)
]


def record_of(setting: Setting, checkpoint: Checkpoint, outcomes: Outcomes) -> ResultRecord:
    """Returns the sealed record of a network."""
    protocol = PROTOCOLS[setting.board.protocol]
    count = len(outcomes)
    tried = {name: 0 for name, _ in protocol.evaluations}
    for attempt in attempts(outcomes, protocol):
        tried[attempt.evaluation] += int(attempt.tried.sum())
    flags = []
    if setting.architecture not in ("cnn-tiny", "cnn-small"):
        flags.append(
            {"name": "crown-ibp-for-crown", "rate": 1.0, "detail": "too many units for CROWN"}
        )
    digest = digest_of(["evidence", setting.id])
    fields = {
        "schema_version": records.SCHEMA_VERSION,
        "checkpoint_id": checkpoint.id,
        "checkpoint_sha256": checkpoint.sha256,
        "protocol": protocol.id,
        "protocol_version": protocol.version,
        "protocol_digest": protocol.digest,
        "tier": protocol.tier_of(count),
        "examples": count,
        "data_digests": {
            name: digest_of([protocol.id, name]) for name, size in protocol.tiers if size <= count
        },
        "status": "done",
        "reason": "",
        "size": size_of(setting),
        "cost": {
            name: {
                "seconds": 0.25 * (1 + number),
                "forwards": count * (1 + number),
                "backwards": count * number,
                "attacked": number,
                "proven": count - min(count, number) if number else 0,
                "forwards_saved": 3 * number,
            }
            for name, number in tried.items()
        },
        "flags": flags,
        "environment": ENVIRONMENT,
        "outcomes_sha256": sha256_of_bytes(outcomes.encode()),
        "evidence": [
            {
                "start": one.start,
                "stop": one.stop,
                "inputs": 120,
                "bytes": 40_000,
                "sha256": digest,
            }
            for one in protocol.ranges(count)
        ],
        "parent_sha256": digest_of(["parent", setting.id]),
        "training_digest": digest_of(["training", protocol.dataset]),
        "compact": {"parameters": 40_000, "multiply_adds": 400_000},
        "latency": {"processor": "none, drawn", **{name: LATENCIES for name in records.NETWORKS}},
        "content_digest": "",
        "seals": {},
    }
    return records.sealed(ResultRecord.model_validate(fields))


def _write(folder: Path, seed: int, settings: Sequence[Setting]) -> list[Checkpoint]:
    found = []
    for setting in settings:
        protocol = PROTOCOLS[setting.board.protocol]
        checkpoint = checkpoint_of(setting)
        outcomes = outcomes_of(setting, min(1000, max(dict(protocol.tiers).values())), seed)
        record = record_of(setting, checkpoint, outcomes)
        records.write(folder / "reports" / "results", record, outcomes)
        found.append(checkpoint)
    return found


def choose(count: int, boards: Sequence[Board]) -> list[Setting]:
    """Returns `count` networks, as many on each board as its share says."""
    chosen: list[Setting] = []
    for board in boards[1:]:
        chosen += islice(settings_of(board), round(board.share * count))
    return [*islice(settings_of(boards[0]), count - len(chosen)), *chosen]


def make(
    folder: Path, count: int, boards: Sequence[Board] = SPREAD, seed: int = 0, processes: int = 1
) -> None:
    """Writes a project of `count` records into a folder.

    Args:
        folder: the project; made if it does not exist.
        count: records, one a checkpoint.
        boards: the protocols that they are spread over, the largest first.
        seed: of all draws.
        processes: how many write at a time; the files do not depend on it.
    """
    settings = choose(count, boards)
    chunks = [settings[start : start + 100] for start in range(0, len(settings), 100)]
    write = partial(_write, folder, seed)
    if processes == 1:
        made = [entry for chunk in chunks for entry in write(chunk)]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            made = [entry for found in pool.map(write, chunks) for entry in found]
    entries = tuple(sorted(made, key=lambda entry: entry.id))
    write_manifest(folder / "checkpoints_manifest.json", Manifest(checkpoints=entries))


def main(arguments: Sequence[str]) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--single-board", action="store_true", help="all under one protocol")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=4)
    chosen = parser.parse_args(arguments)
    boards = SINGLE if chosen.single_board else SPREAD
    make(chosen.folder, chosen.records, boards, chosen.seed, chosen.processes)


if __name__ == "__main__":
    main(sys.argv[1:])
