"""Comparing from names: what they stand for, what is printed and written, what is refused."""

import ast
import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fast import FAST, ROOT, make_project
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

import benchmark
from benchmark import cli, records
from benchmark.errors import ContractError, RecordError, UnknownName
from benchmark.leaderboard import Row
from benchmark.manifest import Manifest, write_manifest
from benchmark.pipeline import Project, evaluate_all, results
from benchmark.pipeline.comparing import Setting, as_csv, chosen_tier, compare, document, tables

TAIL = "digits/cnn-tiny/adversarial"
DENSE = f"dense/{TAIL}/unstructured-0/seed0"
GLOBAL = [f"lwm-global/{TAIL}/unstructured-{level}/seed0" for level in (90, 99)]
LAYERWISE = [f"lwm-layerwise/{TAIL}/unstructured-{level}/seed0" for level in (90, 99)]
RANDOM = f"random/{TAIL}/unstructured-90/seed0"
HYDRA = [
    f"hydra/{TAIL}/unstructured-90/seed0",
    "hydra/digits/cnn-tiny/mixtrain/unstructured-90/seed0",
]
IDS = (DENSE, *GLOBAL, *LAYERWISE, RANDOM, *HYDRA)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose checkpoints have records, the first five of a larger tier, the last none."""
    made = make_project(
        tmp_path_factory.mktemp("compare"), *IDS, f"snip/{TAIL}/unstructured-90/seed0"
    )
    entries = made.manifest().checkpoints
    evaluate_all(made, entries[:-1], FAST, "quick")
    evaluate_all(made, entries[:5], FAST, "standard")
    return made


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project: Project
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    def command(*arguments: str, root: Path = project.root) -> tuple[int, str, str]:
        options = ["robustprune", "--root", str(root), "--workers", "1", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [*options, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    yield command


# --- Names ----------------------------------------------------------------------------------------


def test_a_method_stands_for_its_curve_and_an_id_for_itself(project: Project) -> None:
    found = compare(project, ["lwm-global", LAYERWISE[0]], FAST.id, "quick")
    first, second = found.entrants
    assert (first.label, second.label) == ("lwm-global", LAYERWISE[0])
    assert [row["checkpoint_id"] for row in first.rows] == GLOBAL
    assert [row["checkpoint_id"] for row in second.rows] == [LAYERWISE[0]]
    assert [meeting.contest.first for meeting in found.meetings] == [GLOBAL[0]]


def test_the_largest_tier_that_all_have_is_taken(project: Project) -> None:
    assert compare(project, ["lwm-global", "lwm-layerwise"]).tier == "standard"
    assert compare(project, ["lwm-global", "random"]).tier == "quick"
    assert compare(project, ["lwm-global", "random"]).protocol == FAST.id


def test_a_tier_that_few_networks_have_is_nobody_s_default() -> None:
    def row(name: str, tier: str) -> Row:
        method, _, _, objective, *_ = name.split("/")
        return {"checkpoint_id": name, "method": method, "objective": objective, "tier": tier}

    names = [f"m/digits/c/{o}/unstructured-{n}/seed0" for o in ("a", "b", "c") for n in range(4)]
    rows = [row(name, "quick") for name in names] + [row(name, "standard") for name in names[:4]]
    rows += [row(names[0], "full")]

    def tier(*asked: str, **meant: str) -> str:
        return chosen_tier(rows, FAST, "", asked, Setting(**meant))

    assert tier() == tier("m") == "quick"
    assert tier("m", objective="a") == tier("m/digits/c/a") == "standard"
    assert tier(names[0]) == "full"
    assert tier(names[0], "m") == "quick"
    # None has half of all: one that has any will do.
    assert tier(names[0], names[8]) == "quick"
    assert chosen_tier(rows, FAST, "full", ("m",)) == "full"


def test_a_method_with_several_curves_must_be_chosen(project: Project) -> None:
    with pytest.raises(UnknownName, match=r"one curve of 'hydra', got 2 of these: .*mixtrain") as e:
        compare(project, ["hydra", "lwm-global"])
    assert "\n" not in str(e.value)
    chosen = compare(project, ["hydra", "lwm-global"], setting=Setting(objective="adversarial"))
    assert chosen.entrants[0].rows[0]["checkpoint_id"] == HYDRA[0]
    # The start of the ids tells the two apart, and is then what they are called.
    starts = ["hydra/digits/cnn-tiny/adversarial", "hydra/digits/cnn-tiny/mixtrain/"]
    both = compare(project, starts)
    assert [entrant.label for entrant in both.entrants] == [name.rstrip("/") for name in starts]
    assert [m.contest.second for m in both.meetings] == [HYDRA[1]]
    with pytest.raises(UnknownName, match="none with that setting"):
        compare(project, ["hydra", "lwm-global"], setting=Setting(objective="trades"))


def test_a_dense_network_has_no_structure_to_choose(project: Project) -> None:
    found = compare(project, ["dense", "lwm-global"], setting=Setting(structure="unstructured"))
    assert [meeting.sparsities for meeting in found.meetings] == [(0.0, 0.9), (0.0, 0.99)]


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (["lwm-globl", "random"], UnknownName, "did you mean lwm-global"),
        (["lwm", "random"], UnknownName, "unknown method or checkpoint 'lwm'"),
        (["", "random"], UnknownName, "unknown method or checkpoint ''"),
        (["snip", "random"], RecordError, "expected a record of snip under fast-linf"),
        (["random", "random"], ContractError, "two or more different names, got 1"),
        (["random\x1b[31m\n", "dense"], UnknownName, r"'random\?\[31m\?'"),
    ],
)
def test_names_that_stand_for_nothing_are_refused_in_one_line(
    project: Project, names, error, words
) -> None:
    with pytest.raises(error, match=words) as refusal:
        compare(project, names, FAST.id)
    assert "\n" not in str(refusal.value) and "\x1b" not in str(refusal.value)


def test_unknown_protocols_tiers_and_projects_without_records(project: Project, tmp_path) -> None:
    with pytest.raises(UnknownName, match="did you mean fast-linf"):
        compare(project, ["dense", "random"], "fast-lnf")
    with pytest.raises(UnknownName, match="unknown tier 'huge'"):
        compare(project, ["dense", "random"], FAST.id, "huge")
    with pytest.raises(RecordError, match="for tier full, found none"):
        compare(project, ["dense", "random"], FAST.id, "full")
    with pytest.raises(RecordError, match="expected records under digits-linf, found none"):
        compare(project, ["dense", "random"], "digits-linf")
    write_manifest(tmp_path / "checkpoints_manifest.json", Manifest(checkpoints=()))
    with pytest.raises(UnknownName, match="expected --protocol, got none"):
        compare(Project(tmp_path), ["dense", "random"])


def test_rows_that_cannot_be_ranked_meet_nobody_and_are_named(
    run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(records, "unrankable_reasons", lambda flags, protocol: ["zero-gradients"])
    code, out, err = run("compare", GLOBAL[0], "lwm-layerwise", "--out", str(tmp_path / "out"))
    assert code == 0
    for name in (GLOBAL[0], *LAYERWISE):
        assert f"{name} left out: zero-gradients" in out
    assert "nothing to test" in out and "4 files" in err


# --- Numbers --------------------------------------------------------------------------------------


def test_tables_repeat_the_frame_and_an_independent_mcnemar(project: Project) -> None:
    found = compare(project, ["lwm-global", "lwm-layerwise", "dense"])
    frame = results(project)
    rows = {r["checkpoint_id"]: r for r in frame[frame["tier"] == "standard"].to_dict("records")}
    levels, met = tables(found)["levels"], tables(found)["pairs"]
    assert sum(len(names) for names in levels["checkpoints"]) == len(levels) == 5
    for line in levels.to_dict("records"):
        row = rows[line["checkpoints"][0]]
        assert line["best_known"] == row["best_known_accuracy"]
        assert line["certified"] == row["certified_accuracy"]
        assert line["rank"] == [row["rank"]]
        assert line["gain"] == row["gain"] or np.isnan(row["gain"])
    plain = []
    for line in met.to_dict("records"):
        ours, theirs = (
            rows[line[f"{side}_checkpoint"]]["outcomes"]["best_known"]
            for side in ("first", "second")
        )
        table = [[np.sum(a & b) for b in (theirs, ~theirs)] for a in (ours, ~ours)]
        counts = [line[name] for name in ("both", "only_first", "only_second", "neither")]
        assert counts == list(np.ravel(table))
        plain.append(mcnemar(table, exact=True).pvalue)
        assert line["p"] == pytest.approx(plain[-1])
        assert line["examples"] == FAST.examples("standard") == sum(counts)
        assert len(line["first_wins"]) == line["only_first"]
    assert list(met["p_adjusted"]) == pytest.approx(list(multipletests(plain, method="holm")[1]))
    assert len(met) == 2 + 2 + 2
    assert set(met["verdict"]) <= {
        "not separable",
        *(f"{name} is better" for name in ("dense", "lwm-global", "lwm-layerwise")),
    }
    better = met[met["p_adjusted"] <= 0.05]
    assert all(line.verdict != "not separable" for line in better.itertuples())


def test_order_of_names_turns_a_pair_around_and_nothing_else(project: Project) -> None:
    one = compare(project, ["lwm-global", "random"]).meetings
    other = compare(project, ["random", "lwm-global"]).meetings
    assert [m.contest.mirrored() for m in one] == [m.contest for m in other]
    assert [m.verdict for m in one] == [m.verdict for m in other]


# --- Printed and written --------------------------------------------------------------------------


def test_compare_prints_every_level_and_every_pair(run) -> None:
    code, out, err = run("compare", "lwm-global", "lwm-layerwise", "dense", "--protocol", FAST.id)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "fast-linf, standard: 40 examples"
    assert sum(bool(re.match(r"lwm-global +\d+ %  ", line)) for line in lines) == 2
    assert sum(line.startswith("lwm-global : lwm-layerwise") for line in lines) == 2
    assert any(re.match(r"lwm-global : dense +90 % : 0 %", line) for line in lines)
    assert lines[-1] == "p: exact McNemar, Holm-adjusted over the 6 tests shown"
    assert "not separable" in out or "is better" in out
    level = next(line for line in lines if re.match(r"lwm-global +90 %", line))
    assert re.search(r"\[\d+\.\d%, \d+\.\d%\] .*\d+( tied)? of \d+ \[\d+, \d+\]", level)


def test_compare_says_where_nothing_can_be_tested(run) -> None:
    _, out, _ = run("compare", "random", GLOBAL[1], "--tier", "quick")
    assert f"random : {GLOBAL[1]}" in out  # single rows meet across sparsities
    _, out, _ = run("compare", GLOBAL[0], "lwm-global", "--tier", "quick")
    assert "no two of them at a common sparsity, so nothing to test" in out


def test_json_is_json_and_equals_the_tables(run, project: Project) -> None:
    code, out, _ = run("compare", "lwm-global", "dense", "--json")
    found = compare(project, ["lwm-global", "dense"])
    assert code == 0 and out == document(found) + "\n"
    told = json.loads(out)
    assert list(told) == ["protocol", "tier", "levels", "curves", "pairs"]
    assert told["pairs"][0]["p"] == found.meetings[0].contest.p
    assert told["levels"][-1]["gain"] is None  # a dense network has none
    assert "NaN" not in out


def test_files_are_those_named_and_the_same_again(run, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    arguments = (
        "compare",
        "lwm-global",
        "lwm-layerwise",
        "--out",
        str(folder),
        "--format",
        "pdf,svg",
    )
    code, _, err = run(*arguments)
    names = {path.name for path in folder.iterdir()}
    drawn = {"accuracy", "gain", "pareto", "security-90", "security-99"}
    tabled = {"levels.csv", "curves.csv", "pairs.csv", "comparison.json"}
    assert names == tabled | {f"{name}.{form}" for name in drawn for form in ("pdf", "svg")}
    assert code == 0 and f"{len(names)} files in" in err
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(*arguments)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with (folder / "pairs.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    document = json.loads(before["comparison.json"])
    assert [float(line["p"]) for line in lines] == [pair["p"] for pair in document["pairs"]]
    assert [line["first_wins"].split("; ") for line in lines if line["first_wins"]] == [
        list(map(str, pair["first_wins"])) for pair in document["pairs"] if pair["first_wins"]
    ]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--format", "gif"), "unknown format 'gif'"),
        (("--preset", "serifs"), "did you mean serif"),
        (("--width", "page"), "known: column, text"),
    ],
)
def test_unknown_looks_are_refused_before_anything_is_written(run, tmp_path, option, words) -> None:
    for command in (("compare", "dense", "random"), ("figures",)):
        code, _, err = run(*command, "--out", str(tmp_path / "none"), *option)
        assert code == 3 and words in err and len(err.splitlines()) == 1
        assert not (tmp_path / "none").exists()


def test_text_that_a_spreadsheet_would_run_is_text() -> None:
    table = pd.DataFrame({"a": ["=1+1", "@x", "-2", "plain"], "b": [1.5, float("nan"), -2.0, 0.0]})
    lines = as_csv(table).decode().splitlines()
    assert lines == ["a,b", "'=1+1,1.5", "'@x,", "'-2,-2.0", "plain,0.0"]


def test_foreign_text_is_printed_as_it_is(run, project: Project, tmp_path: Path) -> None:
    # A display name and a recipe may be any line of text; ids may not.
    shutil.copytree(project.root, tmp_path / "copy")
    copy = replace(project, root=tmp_path / "copy")
    hostile = "[red]=SUM(1)[/red] :smile: $x_{"
    entries = tuple(
        entry.model_copy(update={"display_name": hostile, "recipe": hostile})
        for entry in copy.manifest().checkpoints
    )
    write_manifest(copy.manifest_path, Manifest(checkpoints=entries))
    folder = tmp_path / "out"
    code, out, err = run("compare", "hydra", "dense", root=copy.root)
    assert code == 3 and hostile in err
    names = ("lwm-global", "dense")
    code, out, _ = run("compare", *names, "--out", str(folder), root=copy.root)
    assert code == 0 and "[red]" not in out
    assert hostile in (folder / "levels.csv").read_text()
    figures = folder / "figures"
    code, out, _ = run("figures", "--out", str(figures), root=copy.root)
    assert code == 0 and list(figures.rglob("accuracy-*.pdf"))
    assert all(re.fullmatch(r"[a-z0-9.-]+", path.name) for path in figures.rglob("*.pdf"))


def test_figures_draws_every_group_of_a_board(run, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    code, out, _ = run("figures", "--out", str(folder), "--format", "svg", "--width", "text")
    group = "cnn-tiny-unstructured-adversarial-digits"
    names = {path.name.removesuffix(".svg") for path in (folder / "fast-linf-standard").iterdir()}
    assert names == {
        "pareto",
        *(f"{kind}-{group}" for kind in ("accuracy", "gain")),
        *(f"security-{group}-{level}" for level in (90, 99)),
    }
    assert code == 0 and f"{len(names)} figures in {folder}" in out
    run("figures", "--out", str(folder), "--tier", "quick", "--protocol", FAST.id)
    quick = {path.name for path in (folder / "fast-linf-quick").iterdir()}
    assert "accuracy-cnn-tiny-unstructured-mixtrain-digits-certified.pdf" in quick


def test_figures_without_records_says_what_to_do(run, tmp_path: Path) -> None:
    write_manifest(tmp_path / "checkpoints_manifest.json", Manifest(checkpoints=()))
    code, _, err = run("figures", root=tmp_path)
    assert code == 9 and "make them with `robustprune run`" in err


# --- Python and the notebook ----------------------------------------------------------------------


def test_python_gives_the_tables_of_the_command_line(project: Project) -> None:
    found = benchmark.compare(
        "hydra", "lwm-global", root=project.root, objective="adversarial", tier="quick"
    )
    expected = tables(
        compare(
            project, ["hydra", "lwm-global"], FAST.id, "quick", Setting(objective="adversarial")
        )
    )
    assert list(found) == list(expected)
    for name, table in found.items():
        pd.testing.assert_frame_equal(table, expected[name])
    with pytest.raises(UnknownName, match="did you mean objective"):
        benchmark.compare("hydra", "dense", root=project.root, objectiv="adversarial")
    assert "outcomes" in benchmark.results(root=project.root, outcomes=True)
    assert "outcomes" not in benchmark.results(root=project.root)


def executed(cell: str, names: dict[str, Any]) -> Any:
    """Runs a cell as a notebook does and returns the value of its last expression."""
    *body, last = ast.parse(cell).body
    if not isinstance(last, ast.Expr):
        body, last = [*body, last], ast.Expr(ast.Constant(None))
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_the_notebook_runs_and_keeps_no_output(project: Project, monkeypatch) -> None:
    # Without a kernel: nbclient and ipykernel would bring two dozen packages for one exec.
    notebook = json.loads((ROOT / "examples" / "compare.ipynb").read_text())
    cells = notebook["cells"]
    assert notebook["nbformat"] == 4 and len(cells) <= 15
    monkeypatch.chdir(project.root)
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            shown.append(executed("".join(cell["source"]), names))
    assert shown[0] == 5  # checkpoints of the larger tier
    assert all(len(table) for table in shown[1:-1])
    assert set(shown[2]["checkpoint_id"]) <= {GLOBAL[0], LAYERWISE[0]}
    assert shown[-1]._repr_png_().startswith(b"\x89PNG")
    assert not (project.root / "reports" / "figures").exists()


# --- What the documentation promises --------------------------------------------------------------


def documented(section: str) -> list[str]:
    text = (ROOT / "docs" / "records.md").read_text().split(f"\n## {section}\n")[1]
    lines = re.findall(r"^\| (`.*?) \|", text.split("\n## ")[0], flags=re.MULTILINE)
    return [name for line in lines for name in re.findall(r"`([a-z_0-9]+)`", line)]


# Named by a rule instead of one by one: a latency's quartiles.
QUARTILES = {f"latency_{n}_{end}" for n in records.NETWORKS for end in ("low", "high")}


def test_every_column_of_the_frame_is_documented_and_none_besides(project: Project) -> None:
    listed = documented("The frame")
    assert len(listed) == len(set(listed))
    assert set(listed) == set(results(project).columns) - QUARTILES


def test_every_column_of_a_comparison_is_documented(project: Project) -> None:
    found = tables(compare(project, ["lwm-global", "dense"]))
    columns = {column for table in found.values() for column in table.columns}
    assert set(documented("Comparisons")) == columns
