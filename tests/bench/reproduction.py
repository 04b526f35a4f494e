"""Trains and evaluates what the papers' main claims need on MNIST, and reports each claim.

Usage: python tests/bench/reproduction.py PROJECT --data-root DATA [--seeds 0,1,2] [--claims …]

PROJECT is a folder for checkpoints and records; it is made if it is not there. Everything resumes:
run it again after a kill. The report goes to stdout as Markdown.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmark import records
from benchmark.attacks import deepfool
from benchmark.datasets import load
from benchmark.errors import UnknownName
from benchmark.leaderboard import compare
from benchmark.manifest import Manifest, load_model, write_manifest
from benchmark.pipeline import Order, Project, compress_all, evaluate_all
from benchmark.protocols import protocol
from benchmark.pruning import as_sparsity

PROTOCOL, ARCHITECTURE = "mnist-linf", "cnn-small"
PLAIN, CERTIFIED = ("mnist-short", "adversarial"), ("mnist-certified", "crown-ibp")
DENSE = ("dense", "0")

# PwoA with the weights of its bottleneck that its authors have for MNIST.
PWOA = "pwoa:lambda-x=0.0002:lambda-y=5e-05"

# How fast sparsity rises: the share of all training by which it is reached.
ENDS = ("0.2", "0.4", "0.6")
# DeepFool looks at the closest classes only: `same_perturbations` measures what that changes.
CANDIDATES = 4
BAP = (
    tuple(f"bap:end={end}:candidates={CANDIDATES}" for end in ENDS),
    tuple(f"adversarial-gradual:end={end}" for end in ENDS),
)

# Networks that are proven or broken fast are measured on 1,000 images, the others on 250.
TIERS = {"hydra": "standard", "certified": "standard"}

# (method, sparsity, (recipe, objective)) of each claim; every seed has them all.
Cell = tuple[str, str, tuple[str, str]]
CLAIMS: dict[str, tuple[Cell, ...]] = {
    "hydra": (("lwm-layerwise", "0.99", PLAIN), ("hydra", "0.99", PLAIN)),
    # Where magnitude still leaves a network that learns.
    "hydra-95": (("lwm-layerwise", "0.95", PLAIN), ("hydra", "0.95", PLAIN)),
    "compact": (
        (*DENSE, PLAIN),
        ("compact-robust", "0.9", PLAIN),
        (*DENSE, CERTIFIED),
        ("compact-robust", "0.9", CERTIFIED),
    ),
    "pwoa": (
        (*DENSE, PLAIN),
        (PWOA, "0.75", PLAIN),
        (PWOA, "0.9", PLAIN),
        ("compact-robust", "0.9", PLAIN),
    ),
    "certified": ((*DENSE, CERTIFIED), ("hydra", "0.9", CERTIFIED)),
    "bap": tuple((name, "0.9", PLAIN) for names in BAP for name in names),
}

Row = dict[Any, Any]


def orders(claims: Sequence[str], seeds: Sequence[int]) -> list[Order]:
    """Returns what the claims need, each network once."""
    cells = dict.fromkeys(cell for claim in claims for cell in CLAIMS[claim])
    return [
        Order(
            method=method,
            architecture=ARCHITECTURE,
            objective=objective,
            structure="unstructured",
            sparsity=as_sparsity(level),
            seed=seed,
            recipe=recipe,
        )
        for seed in seeds
        for method, level, (recipe, objective) in cells
    ]


def tell(done: int, total: int, text: str) -> None:
    """Writes a line of progress to stderr."""
    sys.stderr.write(f"[{done}/{total}] {text}\n")
    sys.stderr.flush()


class Found:
    """Finished rows of a tier by method, sparsity, objective and seed."""

    def __init__(self, project: Project, tier: str, seeds: Sequence[int]) -> None:
        """Reads all records of the project that cover the tier."""
        table = records.frame(records.load_all(project.results, project.manifest()))
        rows: list[Row] = table[table["tier"] == tier].to_dict("records")
        self._rows = {
            (r["method"], as_sparsity(r["sparsity"]), r["objective"], r["seed"]): r for r in rows
        }
        self.budgets = {c.id: c.budget for c in project.manifest().checkpoints}
        self.seeds, self.project = seeds, project

    def __call__(self, method: str, level: str, cell: tuple[str, str]) -> list[Row]:
        """Returns one row a seed.

        Raises:
            UnknownName: a network that was not evaluated.
        """
        keys = [(method, Fraction(level), cell[1], seed) for seed in self.seeds]
        if missing := [key for key in keys if key not in self._rows]:
            raise UnknownName(f"expected a record of {missing[0]}, found none; evaluate it first")
        return [self._rows[key] for key in keys]


def robust(row: Row) -> float:
    """Returns the robust accuracy in percent."""
    return 100 * float(row["robust_accuracy"])


def certified(row: Row) -> float:
    """Returns the certified accuracy in percent."""
    return 100 * float(row["certified_accuracy"])


def over(rows: Sequence[Row], parents: Sequence[Row], measure: Callable[[Row], float]) -> str:
    """Returns what share of its parent each network keeps, in percent, and the mean."""
    shares = [100 * measure(r) / measure(p) for r, p in zip(rows, parents, strict=True)]
    return f"{_list(shares)}, mean {fmean(shares):.1f}"


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _hydra(found: Found, level: str = "0.99") -> Iterator[str]:
    title = f"at {100 * float(level):g} %"
    theirs, ours = (found(name, level, PLAIN) for name in ("lwm-layerwise", "hydra"))
    yield f"robust accuracy {title}, LWM layerwise: {_list([robust(r) for r in theirs])}"
    yield f"robust accuracy {title}, HYDRA: {_list([robust(r) for r in ours])}"
    for seed, first, second in zip(found.seeds, ours, theirs, strict=True):
        said = compare(first, second)
        gain = said.difference
        yield (
            f"{title}, seed {seed}: {100 * gain.value:+.1f} points "
            f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}], McNemar p = {said.p:.2g}"
        )


def _compact(found: Found) -> Iterator[str]:
    for cell in (PLAIN, CERTIFIED):
        parents, ours = found(*DENSE, cell), found("compact-robust", "0.9", cell)
        yield f"{cell[1]}: dense robust {_list([robust(r) for r in parents])}"
        yield f"{cell[1]}: kept of the dense robust accuracy, %: {over(ours, parents, robust)}"
        yield f"{cell[1]}: dense certified {_list([certified(r) for r in parents])}"
        yield f"{cell[1]}: kept of dense certified accuracy, %: {over(ours, parents, certified)}"


def _pwoa(found: Found) -> Iterator[str]:
    parents = found(*DENSE, PLAIN)
    yield f"robust accuracy of the teacher: {_list([robust(r) for r in parents])}"
    for name, level in ((PWOA, "0.75"), (PWOA, "0.9"), ("compact-robust", "0.9")):
        rows = found(name, level, PLAIN)
        spent = [found.budgets[row["checkpoint_id"]] for row in rows]
        hours = _list([60 * budget.hours for budget in spent])
        steps = sorted({budget.attack_steps for budget in spent})
        title = f"{name} at {100 * float(level):g} %"
        yield f"{title}: robust {_list([robust(r) for r in rows])}"
        yield f"{title}: kept of the teacher's, %: {over(rows, parents, robust)}"
        yield f"{title}: minutes of prune and finetune {hours}; attack steps {steps}"


def _certified(found: Found) -> Iterator[str]:
    parents, rows = found(*DENSE, CERTIFIED), found("hydra", "0.9", CERTIFIED)
    yield f"dense, certified accuracy: {_list([certified(r) for r in parents])}"
    yield f"hydra at 90 %, certified accuracy: {_list([certified(r) for r in rows])}"
    yield f"hydra at 90 %, kept of the dense, %: {over(rows, parents, certified)}"


def _bap(found: Found) -> Iterator[str]:
    yield same_perturbations(found.project)
    for names in BAP:
        method = names[0].partition(":")[0]
        by_schedule = [found(name, "0.9", PLAIN) for name in names]
        for epsilon in ("0", "1/20", "1/10", "3/20"):
            values = [[_curve(row, epsilon) for row in rows] for rows in by_schedule]
            spreads = [stdev(schedules) for schedules in zip(*values, strict=True)]
            yield (
                f"{method} at 90 %, epsilon {epsilon}: "
                + "; ".join(f"end {e}: {_list(v)}" for e, v in zip(ENDS, values, strict=True))
                + f"; standard deviation over the ends, by seed: {_list(spreads)}, "
                f"mean {fmean(spreads):.1f} points"
            )


def _curve(row: Row, epsilon: str) -> float:
    """Returns robust accuracy in percent at an epsilon; only the protocol's own has AutoAttack."""
    (point,) = (point for point in row["curve"] if point["epsilon"] == epsilon)
    return 100 * float(point["robust_accuracy"])


def same_perturbations(project: Project) -> str:
    """Returns how often DeepFool's way is the same with fewer candidates, on held-out images."""
    entry = next(c for c in project.manifest().checkpoints if c.method == BAP[0][1])
    network = load_model(entry, project.root).eval()
    split = load("mnist", "validation", project.data_root)
    inputs = split.inputs(torch.arange(min(500, len(split))))
    with torch.no_grad():
        left = network(inputs).argmax(dim=1)
    few, all_of_them = (
        deepfool(network, inputs, left, steps=5, candidates=count) for count in (CANDIDATES, 10)
    )
    share = (few - all_of_them).abs().flatten(1).amax(dim=1).le(1e-6).float().mean()
    return (
        f"DeepFool with {CANDIDATES} candidates goes where it goes with all ten on "
        f"{float(100 * share):.1f} % of {len(inputs)} held-out images"
    )


REPORTS: dict[str, Callable[[Found], Iterator[str]]] = {
    "hydra": _hydra,
    "hydra-95": partial(_hydra, level="0.95"),
    "compact": _compact,
    "pwoa": _pwoa,
    "certified": _certified,
    "bap": _bap,
}


def main() -> None:
    """Makes, evaluates and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--claims", default=",".join(CLAIMS))
    parser.add_argument("--workers", type=int, default=0)
    chosen = parser.parse_args()
    claims, seeds = chosen.claims.split(","), [int(seed) for seed in chosen.seeds.split(",")]
    chosen.project.mkdir(parents=True, exist_ok=True)
    project = Project(chosen.project.resolve(), chosen.data_root, workers=chosen.workers)
    if not project.manifest_path.exists():
        write_manifest(project.manifest_path, Manifest())
    compress_all(project, orders(claims, seeds), watch=tell)
    for claim in claims:
        tier = TIERS.get(claim, "quick")
        wanted = {(o.method, o.objective, o.sparsity) for o in orders([claim], seeds)}
        entries = [
            entry
            for entry in project.manifest().checkpoints
            if (entry.method, entry.objective, as_sparsity(entry.sparsity)) in wanted
        ]
        evaluate_all(project, entries, protocol(PROTOCOL), tier, tell)
        found = Found(project, tier, seeds)
        sys.stdout.write(f"\n### {claim}, tier {tier}\n\n")
        sys.stdout.writelines(f"- {line}\n" for line in REPORTS[claim](found))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
