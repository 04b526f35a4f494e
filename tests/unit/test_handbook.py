"""The handbook: pages follow their files, and the table of what works is what running finds."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest

import methods
from benchmark import handbook
from benchmark.objectives import OBJECTIVES
from benchmark.pruning import STRUCTURES
from methods import Pruned
from methods.lwm_layerwise import LayerwiseMagnitude

FOLDER = Path(__file__).parents[2] / "docs" / "methods"
NAMES = handbook.listed()
DECLARED = [
    (name, objective, structure)
    for name in NAMES
    for objective in OBJECTIVES
    for structure in STRUCTURES
    if not methods.supports(methods.method(name), name, Fraction(0), structure, objective)
]


def test_each_method_of_this_project_has_a_page_and_nobody_else():
    assert {"dense", "hydra", "lwm-layerwise"} <= set(NAMES)
    assert {path.stem for path in FOLDER.glob("*.md")} == {*NAMES, "README"}
    assert not set(NAMES) & set(methods.controls())


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_what_the_files_say(name):
    # `robustprune handbook` makes them anew.
    assert (FOLDER / f"{name}.md").read_text() == handbook.page(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_all_that_a_reader_needs(name):
    text = handbook.page(name)
    for part in ("## What it is", "Departures", "## Settings", "## How to run it"):
        assert part in text, part
    assert "Source:" in text or not methods.method(name).info.paper
    for command in re.findall(r"^robustprune compress (\S+)", text, re.MULTILINE):
        assert methods.configured(command)


@pytest.mark.parametrize(("name", "objective", "structure"), DECLARED)
def test_what_the_table_says_works_does(name, objective, structure):
    assert handbook.dry_run(name, objective, structure) == ""


def test_the_table_lists_what_is_declared():
    lines = (FOLDER / "README.md").read_text().splitlines()
    head = next(line for line in lines if line.startswith("| method |"))
    assert [cell.strip() for cell in head.strip("|").split("|")][2:] == list(OBJECTIVES)
    for name in NAMES:
        row = next(line for line in lines if line.startswith(f"| [`{name}`]"))
        cells = [cell.strip() for cell in row.strip("|").split("|")][2:]
        kind = methods.method(name)
        for objective, cell in zip(OBJECTIVES, cells, strict=True):
            words = [
                handbook._WORDS[structure] if kind.largest_sparsity else "nothing"
                for structure in STRUCTURES
                if (name, objective, structure) in DECLARED
            ]
            assert cell == (", ".join(dict.fromkeys(words)) or "–"), (name, objective)


@dataclass(frozen=True)
class Liar(LayerwiseMagnitude):
    """Declares filters, and removes single weights."""

    def compress(self, model, task):
        """Returns scattered zeros."""
        found = LayerwiseMagnitude.compress(self, model, _unstructured(task))
        return Pruned(found.model, found.mask)


def _unstructured(task):
    from dataclasses import replace

    return replace(task, structure="unstructured")


def test_a_combination_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(methods, "_registered", dict(methods._registered))
    methods.register("liar")(Liar)
    assert handbook.dry_run("liar", "benign", "unstructured") == ""
    assert "scattered zeros" in handbook.dry_run("liar", "benign", "filter")
    assert "filters FAIL: " in handbook.works("liar")["benign"]
    assert "reaches" not in handbook.works("liar")["benign"]


def test_formulas_survive_markdown():
    assert handbook._escape("a*b_c <d> `x_y` https://a.b/c_d") == (
        r"a\*b\_c \<d\> `x_y` https://a.b/c_d"
    )
    assert handbook._cell("|w| / max") == r"\|w\| / max"
