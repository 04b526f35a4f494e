"""Outcomes of a small protocol that obey every rule, for tests that then break one of them."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from benchmark.attacks import Steps
from benchmark.evaluations import AutoAttack, Bounds, CarliniWagner, Clean, Fgsm, Pgd, Smoothing
from benchmark.outcomes import Outcomes
from benchmark.protocols import Protocol
from benchmark.threat import ThreatModel

MAIN = Fraction(1, 10)
SMALL, LARGE = Fraction(1, 20), Fraction(1, 5)
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
EXAMPLES = 40

SMALL_PROTOCOL = Protocol(
    id="small-linf",
    version=3,
    dataset="digits",
    threat=ThreatModel("Linf", MAIN),
    tiers=(("quick", 10), ("standard", 20), ("full", EXAMPLES)),
    shard_size=5,
    seed=0,
    evaluations=(
        ("clean", Clean()),
        ("bounds", Bounds(epsilons=(LARGE, SMALL, MAIN), crown_max_units=1)),
        ("pgd", Pgd(Steps(10, Fraction(1, 4)), restarts=1)),
        ("curve", Pgd(Steps(4, Fraction(1, 2)), restarts=1, epsilons=(SMALL, LARGE))),
        ("autoattack", AutoAttack()),
        ("smoothing", Smoothing(sigma=0.25, n0=10, n=100, alpha=0.01, batch=10, examples=15)),
    ),
    smoothed_radius=Fraction(1, 2),
    certify_first=False,
)
SPARING_PROTOCOL = replace(SMALL_PROTOCOL, certify_first=True)

# The five attacks; the longer PGD stands neither first nor last.
FIVE_PROTOCOL = replace(
    SPARING_PROTOCOL,
    id="small-linf-five",
    evaluations=(
        ("clean", Clean()),
        ("bounds", Bounds(epsilons=(SMALL, MAIN), crown_max_units=1)),
        ("fgsm", Fgsm()),
        ("pgd-3", Pgd(Steps(3, Fraction(1, 4)), restarts=9)),
        ("pgd-6", Pgd(Steps(6, Fraction(1, 4)), restarts=1)),
        ("pgd-4", Pgd(Steps(4, Fraction(1, 4)), restarts=9)),
        ("cw", CarliniWagner(Steps(5, Fraction(1, 4)))),
        ("autoattack", AutoAttack()),
    ),
)


def blank(count: int = EXAMPLES) -> dict[str, Any]:
    """Returns columns of a perfect network: all correct, nothing broken, nothing proven."""
    columns: dict[str, Any] = {
        "index": np.arange(100, 100 + count, dtype=np.int32),
        "label": np.arange(count, dtype=np.int16) % 10,
        "clean.prediction": np.arange(count, dtype=np.int16) % 10,
        "clean.zero_gradient": np.zeros(count, dtype=np.bool_),
        f"pgd.broken_step@{MAIN}": np.full(count, -1, dtype=np.int16),
        "autoattack.broken_by": np.full(count, -1, dtype=np.int8),
        "smoothing.prediction": np.full(count, -2, dtype=np.int16),
        "smoothing.radius": np.full(count, np.nan, dtype=np.float32),
        "smoothing.count": np.full(count, -2, dtype=np.int32),
        "smoothing.selected": np.full(count, -2, dtype=np.int16),
    }
    for epsilon in (SMALL, LARGE):
        columns[f"curve.broken_step@{epsilon}"] = np.full(count, -1, dtype=np.int16)
    for epsilon in (SMALL, MAIN, LARGE):
        columns[f"bounds.margin@{epsilon}"] = np.full(count, -1, dtype=np.float32)
        columns[f"bounds.method@{epsilon}"] = np.zeros(count, dtype=np.int8)
    seen = columns["smoothing.prediction"][:15]
    seen[:] = columns["label"][:15]
    columns["smoothing.radius"][:15] = 0.75
    return columns


def five(count: int = EXAMPLES) -> dict[str, Any]:
    """Returns such columns for the protocol of five attacks."""
    columns = blank(count)
    kept = ("index", "label", "clean.", "autoattack.")
    found = {name: values for name, values in columns.items() if name.startswith(kept)}
    for epsilon in (SMALL, MAIN):
        for name in (f"bounds.margin@{epsilon}", f"bounds.method@{epsilon}"):
            found[name] = columns[name]
    found["fgsm.broken_by"] = np.full(count, -1, dtype=np.int8)
    for name in ("pgd-3", "pgd-6", "pgd-4", "cw"):
        found[f"{name}.broken_step@{MAIN}"] = np.full(count, -1, dtype=np.int16)
    return found


def misclassify(columns: dict[str, Any], positions: slice | list[int]) -> None:
    """Makes some examples wrong unmodified, and so not attacked and not proven."""
    columns["clean.prediction"][positions] = (columns["label"][positions] + 1) % 10
    for name, values in columns.items():
        if ".broken_" in name:
            values[positions] = -2
        if ".margin@" in name:
            values[positions] = -np.inf


def spare(columns: dict[str, Any]) -> None:
    """Marks what is proven as not attacked, as a protocol that certifies first does."""
    for name in columns:
        if ".broken_" in name:
            epsilon = Fraction(name.partition("@")[2] or MAIN)
            larger = [e for e in (SMALL, MAIN, LARGE) if e >= epsilon]
            larger = [e for e in larger if f"bounds.margin@{e}" in columns]
            proven = np.any([columns[f"bounds.margin@{e}"] > 1e-4 for e in larger], axis=0)
            columns[name] = np.where(proven, -3, columns[name]).astype(columns[name].dtype)


def consistent(seed: int, count: int = EXAMPLES) -> Outcomes:
    """Returns drawn outcomes as an honest engine would write them.

    Each example has a true radius: attacks may break it above, bounds may prove it below.
    """
    draw = np.random.default_rng(seed)
    columns = blank(count)
    radius = draw.choice([0.0, 0.02, 0.07, 0.15, 0.3], count)
    wrong = draw.random(count) < 0.2
    for name, values in columns.items():
        epsilon = float(Fraction(name.partition("@")[2] or MAIN))
        found = draw.random(count) < 0.7
        if ".broken_step" in name:
            steps = draw.integers(0, 5, count)
            columns[name] = np.where(found & (radius < epsilon), steps, values).astype(np.int16)
        elif ".broken_by" in name:
            by = draw.integers(0, 4, count)
            columns[name] = np.where(found & (radius < epsilon), by, values).astype(np.int8)
        elif ".margin" in name:
            columns[name] = np.where(found & (radius >= epsilon), 1, values).astype(np.float32)
    misclassify(columns, wrong.nonzero()[0].tolist())
    return Outcomes(columns)
