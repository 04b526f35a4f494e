"""The project's own manifest, checkpoints and records: all of them, on every test run."""

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest

import methods
from benchmark import records
from benchmark.manifest import Checkpoint, load_model, read_manifest
from benchmark.protocols import PROTOCOLS
from benchmark.pruning import as_sparsity
from benchmark.recipes import RECIPES

ROOT = Path(__file__).parents[1]
MANIFEST = read_manifest(ROOT / "checkpoints_manifest.json")
SHIPPED = [entry for entry in MANIFEST.checkpoints if (ROOT / entry.file).exists()]


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.id)
def test_shipped_checkpoint_keeps_its_promises(entry: Checkpoint) -> None:
    # Hash, size, strict names and shapes, finite weights, and every claimed zero.
    assert not load_model(entry, ROOT).training
    assert entry.recipe in RECIPES
    assert entry.recipe_digest == RECIPES[entry.recipe].digest, "recipe changed: retrain"
    assert entry.method in methods.names()


def test_unshipped_checkpoints_say_how_to_get_them() -> None:
    for entry in MANIFEST.checkpoints:
        assert entry in SHIPPED or entry.url or entry.recipe in RECIPES


def test_embedded_board_is_complete() -> None:
    embedded = [e for e in SHIPPED if e.dataset == "digits" and e.objective == "adversarial"]
    grid = {s for s in PROTOCOLS["digits-linf"].unstructured if s > 0}
    for method in ("random", "lwm-layerwise", "lwm-global"):
        found = {as_sparsity(e.sparsity) for e in embedded if e.method == method}
        assert found >= grid, f"{method} lacks {sorted(grid - found)}"
    assert Fraction(0) in {as_sparsity(e.sparsity) for e in embedded if e.method == "dense"}
    assert any(e.objective == "benign" and e.method == "dense" for e in SHIPPED)
    assert sum(e.bytes for e in SHIPPED if e.dataset == "digits") < 500_000


def test_committed_records_are_valid(tmp_path: Path) -> None:
    # The digits board is made on each machine, so what lies there is nobody's promise.
    shutil.copytree(
        ROOT / "reports" / "results",
        tmp_path / "results",
        ignore=shutil.ignore_patterns("digits-linf"),
    )
    # Damage, staleness and contradictory outcomes all raise.
    for row in records.load_all(tmp_path / "results", MANIFEST):
        table = records.frame([row])
        assert (table.certified_accuracy <= table.robust_accuracy).all()
        assert (table.robust_accuracy <= table.clean_accuracy).all()


def test_digits_records_and_pages_are_not_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert "digits-linf" not in listed
    assert "reports/site" not in listed
