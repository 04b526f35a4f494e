"""A protocol on digits that runs in seconds, and projects to run it in.

Importing this module adds the protocol to the table, in worker processes too.
"""

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from benchmark.attacks import Steps
from benchmark.evaluations import AutoAttack, Bounds, Clean, Pgd, Sanity, Smoothing, Transfer
from benchmark.manifest import Manifest, read_manifest, write_manifest
from benchmark.pipeline import Project
from benchmark.protocols import PROTOCOLS
from benchmark.workers import Workers

ROOT = Path(__file__).parents[1]
EPSILON = Fraction(3, 16)

SANITY = Sanity(
    draws=4,
    huge_steps=Steps(4, Fraction(1, 4)),
    planted_examples=2,
    planted_draws=4,
    planted_steps=Steps(10, Fraction(1, 4)),
    training_steps=Steps(2, Fraction(1, 2)),
)

FAST = replace(
    PROTOCOLS["digits-linf"],
    id="fast-linf",
    tiers=(("quick", 20), ("standard", 40), ("full", 50)),
    shard_size=10,
    evaluations=(
        ("clean", Clean()),
        (
            "bounds",
            Bounds(
                methods=("ibp", "crown"),
                epsilons=(Fraction(1, 16), EPSILON),
                crown_max_units=20_000,
            ),
        ),
        ("pgd", Pgd(Steps(10, Fraction(1, 4)), restarts=1)),
        ("curve", Pgd(Steps(5, Fraction(1, 2)), restarts=1, epsilons=(Fraction(1, 16),))),
        ("autoattack", AutoAttack(iterations=4, queries=20, targets=3)),
        ("sanity", SANITY),
        ("transfer", Transfer(Steps(5, Fraction(1, 2)))),
        ("smoothing", Smoothing(sigma=0.25, n0=10, n=50, alpha=0.01, batch=50, examples=10)),
    ),
)
PROTOCOLS[FAST.id] = FAST

DENSE = "dense/digits/cnn-tiny/adversarial/unstructured-0/seed0"
SPARSE = "lwm-layerwise/digits/cnn-tiny/adversarial/unstructured-90/seed0"


def make_project(root: Path, *ids: str, workers: int = 1) -> Project:
    """Returns a project with copies of some embedded checkpoints."""
    manifest = read_manifest(ROOT / "checkpoints_manifest.json")
    entries = tuple(manifest.find(name) for name in ids)
    for entry in entries:
        target = root / entry.file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / entry.file, target)
    write_manifest(root / "checkpoints_manifest.json", Manifest(checkpoints=entries))
    return Project(root, device="cpu", workers=Workers(workers))
