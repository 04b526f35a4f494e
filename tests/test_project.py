"""The project's own manifest, checkpoints and records: all of them, on every test run."""

import json
import re
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import methods
from benchmark.attacks import Steps, pgd
from benchmark.handbook import listed
from benchmark.manifest import Checkpoint, load_model, read_manifest
from benchmark.objectives import OBJECTIVES
from benchmark.pipeline import Project
from benchmark.pipeline.shards import examples_of
from benchmark.protocols import PROTOCOLS
from benchmark.pruning import as_sparsity
from benchmark.recipes import RECIPES
from benchmark.report.wording import FLAGS

ROOT = Path(__file__).parents[1]
MANIFEST = read_manifest(ROOT / "checkpoints_manifest.json")
SHIPPED = [entry for entry in MANIFEST.checkpoints if (ROOT / entry.file).exists()]


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.id)
def test_shipped_checkpoint_keeps_its_promises(entry: Checkpoint) -> None:
    # Hash, size, strict names and shapes, finite weights, and every claimed zero.
    assert not load_model(entry, ROOT).training
    assert entry.recipe in RECIPES
    assert entry.recipe_digest == RECIPES[entry.recipe].digest, "recipe changed: retrain"
    assert (
        methods.spelling(entry.method.partition(":")[0], methods.configured(entry.method))
        == entry.method
    )


def test_benign_network_is_broken_and_adversarial_one_is_not() -> None:
    # What the board's two dense rows must show, in brief: one PGD start on 100 examples.
    protocol = PROTOCOLS["digits-linf"]
    examples = examples_of(Project(ROOT, device="cpu"), protocol, 0, 100)
    robust = {}
    for objective in ("benign", "adversarial"):
        name = f"dense/digits/cnn-tiny/{objective}/unstructured-0/seed0"
        model = load_model(MANIFEST.find(name), ROOT).requires_grad_(False)
        trace = pgd(
            model,
            examples.inputs,
            examples.labels,
            threat=protocol.threat,
            steps=Steps(20, Fraction(1, 8)),
            restarts=1,
            generator=torch.Generator().manual_seed(0),
        )
        robust[objective] = float((trace.broken_step < 0).float().mean())
    assert robust["benign"] < 0.1
    assert robust["adversarial"] > 0.5


def test_every_flag_has_words_and_a_line_in_the_docs() -> None:
    table = (ROOT / "docs" / "protocols.md").read_text().split("## Flags")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", table, flags=re.MULTILINE))
    raised = {
        name
        for path in (ROOT / "benchmark").rglob("*.py")
        if path.parent.name in ("evaluations", "benchmark")
        for name in re.findall(r'(?:Flag|_raised)\(\s*"([a-z-]+)"', path.read_text())
    }
    assert documented == set(FLAGS)
    assert raised <= documented


def test_protocols_change_only_with_their_version() -> None:
    golden = json.loads((ROOT / "tests" / "golden" / "protocols.json").read_text())
    # Other tests, in the same process, add a fast one.
    published = {name: p for name, p in PROTOCOLS.items() if name != "fast-linf"}
    current = {name: [p.version, p.digest] for name, p in published.items()}
    assert current == golden, (
        "a setting changed: raise the version, then write the golden file anew"
    )


def test_embedded_board_is_complete() -> None:
    embedded = [e for e in SHIPPED if e.dataset == "digits" and e.objective == "adversarial"]
    grid = {s for s in PROTOCOLS["digits-linf"].unstructured if s > 0}
    for method in ("random", "lwm-layerwise", "lwm-global"):
        found = {as_sparsity(e.sparsity) for e in embedded if e.method == method}
        assert found >= grid, f"{method} lacks {sorted(grid - found)}"
    assert Fraction(0) in {as_sparsity(e.sparsity) for e in embedded if e.method == "dense"}
    assert any(e.objective == "benign" and e.method == "dense" for e in SHIPPED)
    # A method belongs on the embedded board once `make retrain-digits` makes it.
    made = re.search(r"^METHODS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    papers = set(made[1].split()) if made else set()
    assert "hydra" in papers and papers <= set(listed())
    for level in (Fraction(9, 10), Fraction(99, 100)):
        missing = papers - {e.method for e in embedded if as_sparsity(e.sparsity) == level}
        assert not missing, f"{sorted(missing)} at {level}"
    assert {e.objective for e in SHIPPED if e.dataset == "digits"} == OBJECTIVES.keys() - {"trades"}
    # Fifty files of at most 40 kB; git keeps each version of them.
    assert sum(e.bytes for e in SHIPPED if e.dataset == "digits") < 800_000


def test_digits_records_and_pages_are_not_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert "digits-linf" not in listed
    assert "reports/site" not in listed
