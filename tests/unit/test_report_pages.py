"""Boards as files, published figures, the comparison, pages of methods, and what changed."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_frame import (
    EXAMPLES,
    HOSTILE,
    board_frame,
    evidence_frame,
    make_row,
    other_pages,
    outcomes_of,
    protocol_page,
)
from test_report import DATA, Page, contents

from benchmark.comparison import head_to_head, pareto
from benchmark.errors import ContractError
from benchmark.failures import Failure
from benchmark.findings import CLAIMS, findings
from benchmark.leaderboard import rank
from benchmark.pipeline.reporting import refusals
from benchmark.report import MethodPage, downloads, render
from benchmark.report.assets import assets, plain
from benchmark.report.changes import STATE, changes
from benchmark.report.columns import COLUMNS, FACETS
from benchmark.report.comparing import comparison, networks_of, safe_json
from benchmark.report.coverage import ASKED_FOR, NOT_YET, coverage
from benchmark.report.findings import MOST_LINKS
from benchmark.report.methods import html, method_path
from benchmark.report.reported import reported_row
from benchmark.report.shares import upper_end
from benchmark.report.views import board_row, checkpoint_path
from benchmark.reported import reported

PAGES = {page.id: page for page in (protocol_page(), *other_pages())}
STATIC = Path(downloads.__file__).parent / "static"


def ranked_rows(frame=None):
    return rank(evidence_frame() if frame is None else frame).to_dict("records")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    render(evidence_frame(), root, PAGES)
    return root


# Files of a board


def test_a_csv_file_holds_the_numbers_of_the_frame(site):
    with (site / "digits-linf" / "board.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    rows = [row for row in ranked_rows() if row["tier"] == "full"]
    assert list(lines[0]) == list(downloads.COLUMNS)
    for line, row in zip(lines, rows, strict=True):
        assert line["checkpoint_id"] == str(row["checkpoint_id"])
        for name in ("robust_accuracy", "certified_accuracy", "rank", "gain_low", "bytes_stored"):
            missing = pd.isna(row[name])
            assert line[name] == "" if missing else float(line[name]) == float(row[name])


def test_a_json_file_holds_the_same(site):
    lines = json.loads((site / "digits-linf" / "board.json").read_text())
    rows = [row for row in ranked_rows() if row["tier"] == "full"]
    for line, row in zip(lines, rows, strict=True):
        assert line == {name: downloads.plain(row.get(name)) for name in downloads.COLUMNS}
    # A row that was not evaluated has nothing, and not NaN.
    assert any(line["robust_accuracy"] is None for line in lines)


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_of_a_csv_file_is_a_formula(start):
    row = {**ranked_rows()[0], "display_name": start, "recipe": f"{start}, x", "gain": -0.25}
    [_, cells] = csv.reader(io.StringIO(downloads.as_csv([row]).decode()))
    found = dict(zip(downloads.COLUMNS, cells, strict=True))
    assert not found["display_name"].startswith(tuple("=+-@\t\r"))
    assert not found["recipe"].startswith(tuple("=+-@\t\r"))
    assert found["gain"] == "-0.25"  # a number is none


def test_a_latex_table_compiles_in_the_mind(site):
    table = (site / "digits-linf" / "board.tex").read_text()
    rows = [row for row in ranked_rows() if row["tier"] == "full" and row["rank"] is not pd.NA]
    shown = [line for line in table.splitlines() if line.endswith("\\\\")]
    assert len(shown) == 1 + sum(pd.notna(row["rank"]) for row in rows)
    assert all(len(re.findall(r"(?<!\\)&", line)) == 6 for line in shown)
    assert len(re.findall(r"(?<!\\){", table)) == len(re.findall(r"(?<!\\)}", table))


def test_hostile_text_is_no_latex():
    words = downloads.escaped(r"\input{x} 50% a_b ^~#$&")
    assert not re.search(r"(?<!\\)[%_#$&]", words)
    assert "\\input" not in words and "\\textbackslash{}input" in words
    entries = {"A/b": {"title": "}@misc{x", "note": ""}}
    assert downloads.as_bibtex(entries) == b"@misc{a-b,\n  title = {\\}@misc\\{x}\n}\n"


# Columns and facets


def test_every_column_has_a_rule_and_a_value():
    style = (STATIC / "style.css").read_text()
    row = ranked_rows()[0]
    for column in COLUMNS:
        assert f".with-{column.key} .c-{column.key}" in style
        assert column.value(row).printed
    assert [column.value({}).printed for column in COLUMNS] == ["—"] * len(COLUMNS)


def test_facets_count_the_rows_of_a_board(site):
    page = Page((site / "digits-linf" / "index.html").read_text())
    rows = [values for tag, values in page.tags if tag == "tr" and "data-objective" in values]
    assert len(rows) == len([row for row in ranked_rows() if row["tier"] == "full"])
    keys = {facet.key for facet in FACETS}
    assert all({f"data-{key}" for key in keys} <= values.keys() for values in rows)
    html_ = (site / "digits-linf" / "index.html").read_text()
    [listed] = re.findall(r'data-facet="sparsity">.*?</details>', html_, re.DOTALL)
    found = dict(re.findall(r'value="([^"]*)">.*?<small>(\d+)</small>', listed))
    counted = pd.Series([values["data-sparsity"] for values in rows]).value_counts().to_dict()
    assert {name: int(number) for name, number in found.items()} == counted
    # A board of one objective offers no choice of it.
    frame = board_frame()
    frame = frame[(frame["objective"] == "adversarial") & (frame["tier"] == "full")]
    only = [board_row(row, protocol_page()) for row in ranked_rows(frame)]
    assert {dict(row.facets)["objective"] for row in only} == {"adversarial"}


# Published figures of others


def test_published_figures_are_greyed_and_never_ranked(tmp_path):
    figures = reported("cifar10-linf")
    assert figures
    page = protocol_page(id="cifar10-linf", reported=figures[:40])
    rows = [{**row, "protocol": "cifar10-linf"} for row in board_frame().to_dict("records")]
    render(pd.DataFrame(rows), tmp_path, {page.id: page})
    board = Page((tmp_path / "cifar10-linf" / "index.html").read_text())
    shown = [values for tag, values in board.tags if tag == "tr" and "data-objective" in values]
    greyed = [values for values in shown if values.get("class") == "reported"]
    assert len(greyed) == 40
    assert shown[-40:] == greyed
    assert all(values["data-evidence"] == "reported by others" for values in greyed)
    assert "never ranked" in board.text
    # Neither in the files nor in the comparison.
    table = pd.read_csv(tmp_path / "cifar10-linf" / "board.csv")
    assert len(table) == len([row for row in rows if row["tier"] == "full"])
    row = reported_row(figures[0], 2)
    assert (row.rank, row.gain.known, row.interval.certified.known) == ("—", False, False)
    assert row.interval.attacked.value == figures[0].robust_accuracy
    assert row.href == figures[0].url and row.external


def test_a_board_without_records_shows_published_figures(tmp_path):
    page = protocol_page(id="svhn-linf", reported=reported("svhn-linf"))
    render(pd.DataFrame(), tmp_path, {page.id: page})
    board = Page((tmp_path / "svhn-linf" / "index.html").read_text())
    assert "No records yet" in board.text and "Reported by others" in board.text
    assert "../static/board.js" in board.requests


# The comparison


def test_the_comparison_carries_the_outcomes_of_its_rows():
    rows = [row for row in ranked_rows() if row["tier"] == "full"]
    found = comparison(rows)
    data = json.loads(found.data)
    standing = [row for row in rows if row["status"] == "done"]
    assert [row["id"] for row in data["rows"]] == [str(row["checkpoint_id"]) for row in standing]
    for line, row in zip(data["rows"], standing, strict=True):
        bits = np.unpackbits(np.frombuffer(base64.b64decode(line["bits"]["robust"]), np.uint8))
        assert (bits[:EXAMPLES].astype(bool) == row["outcomes"]["best_known"]).all()
        assert line["robust"] == upper_end(row)
    assert data["index"] == list(range(EXAMPLES))


def test_the_comparison_s_tables_show_the_rows():
    rows = [row for row in ranked_rows() if row["tier"] == "full"]
    found = comparison(rows)
    [network] = found.networks
    assert network.title == "cnn-tiny, unstructured"
    assert network.levels == ("0", "50", "75", "90", "95", "99")
    by_label = {method.label: method for method in network.methods}
    steps = by_label["lwm-global"].steps
    assert [step.interval is None for step in steps] == [True, *[False] * 5]
    assert steps[3].words == "mean of 3 seeds"
    last = next(r for r in rows if r["method"] == "lwm-global" and r["sparsity"] == 0.99)
    assert steps[5].interval.attacked.value == upper_end(last)
    # A row that was not evaluated leaves its place empty.
    assert by_label["random"].steps[3].interval is None
    for front in found.fronts:
        assert len(front.rows) == sum(spot.front for spot in front.scatter.spots)
    stored = next(front for front in found.fronts if front.title == "stored size")
    assert len(stored.rows) == len(pareto([r for r in rows if pd.notna(r["rank"])], "bytes_stored"))


def test_dense_networks_alone_are_not_compared(tmp_path):
    frame = board_frame().head(2)
    assert networks_of(ranked_rows(frame)) == []
    render(frame, tmp_path, PAGES)
    assert not (tmp_path / "digits-linf" / "compare.html").exists()
    for path in (tmp_path / "digits-linf").glob("*.html"):
        assert "compare.html" not in path.read_text()


def test_data_in_a_page_end_no_element():
    data = safe_json({"name": "</script><!--&", "also": HOSTILE})
    assert not set("<>&") & set(data)
    assert json.loads(data) == {"name": "</script><!--&", "also": HOSTILE}
    with pytest.raises(ValueError, match="Out of range"):
        safe_json(float("nan"))


NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="needs node to run the page's own arithmetic")
def test_the_page_tests_pairs_as_the_board_does():
    """Cut out of the script, since it does nothing else without a browser."""
    script = (STATIC / "compare.js").read_text()
    part = script[script.index("  const bits =") : script.index("  // --- charts")]
    generator = np.random.default_rng(0)
    rows = ranked_rows(
        pd.DataFrame(
            [
                make_row(f"m{n}", 0.9, outcomes_of(share, generator))
                for n, share in enumerate((0.05, 0.3, 0.31, 0.5, 0.72, 0.72))
            ]
        )
    )
    pairs = [(a, b) for a in rows for b in rows]
    contests = [head_to_head(a, b) for a, b in pairs]
    counts = [[c.only_first, c.only_second, c.examples] for c in contests]
    counts += [[0, 0, 10], [10, 0, 10], [1, 0, 1], [600, 580, 2000]]
    packed = base64.b64encode(bytes([0xA1, 0x80])).decode()
    program = (
        f"{part}\nconsole.log(JSON.stringify({json.dumps(counts)}"
        ".map(([b, c, n]) => [mcnemar(b, c), lowest(b, c, n), -lowest(c, b, n)])));"
        f'\nconsole.log(JSON.stringify(bits("{packed}", 9)))'
    )
    done = subprocess.run([NODE, "-e", program], capture_output=True, text=True, check=True)
    found, unpacked = map(json.loads, done.stdout.splitlines())
    assert unpacked == [1, 0, 1, 0, 0, 0, 0, 1, 1]
    for (p, low, high), contest in zip(found, contests, strict=False):
        assert p == pytest.approx(contest.p, rel=1e-9)
        assert low == pytest.approx(contest.difference.low, abs=1e-9)
        assert high == pytest.approx(contest.difference.high, abs=1e-9)


# Findings


def test_every_sentence_of_the_findings_links_to_the_pages_behind_it(site):
    page = (site / "digits-linf" / "findings.html").read_text()
    rows = ranked_rows()
    said = list(findings(rows).sentences)
    shown = re.findall(r'<p class="finding">(.*?) <small>Records: (.*?)</small></p>', page)
    ids = {str(row["checkpoint_id"])[:300]: row for row in rows}
    for (text, links), one in zip(shown, said, strict=True):
        assert unescape(text) == one.text.replace(" %", "\u00a0%")
        hrefs = re.findall(r'href="\.\./([^"]*)"', links)
        assert hrefs == [checkpoint_path(ids[name]) for name in one.rows[:MOST_LINKS]]
        left_out = len(one.rows) - len(hrefs)
        assert (f"and {left_out:,} more on the board" in links) == (left_out > 0)


def test_the_findings_are_linked_from_the_board_and_the_index(site):
    assert "digits-linf/findings.html" in Page((site / "index.html").read_text()).links
    board = (site / "digits-linf" / "index.html").read_text()
    for name in ("findings", "coverage"):
        assert f'href="../digits-linf/{name}.html"' in board


def test_a_verdict_stands_below_what_counts(site):
    page = (site / "digits-linf" / "findings.html").read_text()
    articles = re.findall(r"<article.*?</article>", page, re.DOTALL)
    claims = [article for article in articles if "counts as reproduced" in article]
    assert len(claims) == len(CLAIMS)
    for article in claims:
        counts, verdict = (article.index(words) for words in ("counts as", "verdict here"))
        sentence = article.find('class="finding"')
        assert counts < verdict and (sentence < 0 or verdict < sentence)
        assert ("missing" in article) == (sentence < 0)


def test_seeds_that_a_flag_keeps_out_stand_beside_the_verdict(tmp_path):
    both = [(method, seed) for method in ("hydra", "lwm-layerwise") for seed in (0, 1)]
    rows = [made(method, 0.99, seed=seed) for method, seed in both]
    rows[1]["unrankable"] = "zero-gradients at 31.0 %"
    render(pd.DataFrame(rows), tmp_path, PAGES)
    page = (tmp_path / "digits-linf" / "findings.html").read_text()
    article, *_ = re.findall("<article.*?</article>", page, re.DOTALL)
    assert "hydra, adversarial, 99\u00a0%, seed 1 (evaluated, but flagged" in article
    assert article.count('class="finding"') == 1


def test_without_a_pruned_network_there_are_no_findings(tmp_path):
    render(board_frame().head(2), tmp_path, PAGES)
    folder = tmp_path / "digits-linf"
    assert not (folder / "findings.html").exists() and (folder / "coverage.html").exists()
    for path in tmp_path.rglob("*.html"):
        assert "findings.html" not in path.read_text()
    # Protocols without records have neither.
    assert not (tmp_path / "mnist-linf" / "coverage.html").exists()


# Coverage

GRID = {"unstructured": (0.0, 0.5, 0.9), "filter": (0.0, 0.5)}


def refused(name, sparsity, structure, objective):
    return f"{name} prunes weights" if structure == "filter" and name == "snip" else ""


def covered(rows, known=("dense", "snip", "lwm-global")):
    return coverage(ranked_rows(pd.DataFrame(rows)), GRID, known, refused)


def made(method="lwm-global", level=0.9, **changes):
    generator = np.random.default_rng(0)
    examples = changes.get("examples", EXAMPLES)
    return make_row(method, level, outcomes_of(0.6, generator, examples), **changes)


def slots(table, method):
    [line] = [line for line in table.lines if line.method == method]
    return line.slots


def test_every_cell_is_filled_or_has_its_reason():
    half = made("random", 0.5)
    found = covered([made(), half, made("dense", 0.0), made("lwm-global", 0.5, structure="filter")])
    plain, filters = found.tables
    assert plain.levels == ("50", "90") and filters.levels == ("50",)
    empty, filled = slots(plain, "lwm-global")
    assert (empty.reason, empty.href) == (NOT_YET, "")
    assert (filled.seeds, filled.tier, filled.reason) == ("seed 0", "full", "")
    assert filled.href.startswith("digits-linf/lwm-global")
    assert plain.dense.seeds == "seed 0"
    [joined] = slots(plain, "snip")
    assert (joined.reason, joined.span) == (NOT_YET, 2)
    [refused_] = slots(filters, "snip")
    assert refused_.reason == "not supported: snip prunes weights"
    assert (found.filled, found.refused, found.open) == (3, 1, 4)
    assert not plain.note
    assert not any(line.method == "dense" for line in plain.lines)


def test_seeds_and_tiers_of_a_cell_are_counted():
    rows = [made(seed=0), made(seed=1), made(seed=1, tier="quick", examples=100)]
    rows.append(made(seed=2, tier="quick", examples=100))
    [table] = covered(rows).tables
    [slot] = slots(table, "lwm-global")
    assert (slot.seeds, slot.tier) == ("3 seeds", "full for 2")
    rows[1]["unrankable"] = "zero-gradients at 31.0 %"
    rows[1]["flags"] = [{"name": "zero-gradients", "rate": 0.31, "detail": ""}]
    [table] = covered(rows).tables
    assert slots(table, "lwm-global")[0].reason.startswith("1 of 3 seeds without rank: zero")


def test_variants_stand_beside_the_grid():
    [table] = covered([made("snip:steps=2"), made("stranger"), made("lwm-global", 0.5)]).tables
    assert [slot.reason for slot in slots(table, "snip:steps=2")] == [ASKED_FOR, ""]
    assert [slot.reason for slot in slots(table, "stranger")] == [NOT_YET, ""]
    # A method that was evaluated with other settings alone says so.
    assert [slot.reason for slot in slots(table, "snip")] == [NOT_YET, "only as snip:steps=2"]
    # A level off the grid opens no cell for others.
    [table] = covered([made(level=0.8), made(level=0.9)]).tables
    assert table.levels == ("80", "90")
    assert [slot.reason for slot in slots(table, "snip")] == [ASKED_FOR, NOT_YET]


def test_a_sparsity_at_which_nothing_was_trained_is_told_once():
    found = covered([made(level=0.5)])
    [table] = found.tables
    assert table.levels == ("50",) and found.open == 1
    assert table.note == "No network of this training was evaluated at 90 %."


def test_what_was_not_evaluated_is_told_of_its_structure_alone(monkeypatch):
    """Nothing is said to be missing that stands in the table of another structure."""
    monkeypatch.setitem(GRID, "filter", (0.0, 0.5, 0.9))
    weights, filters = made(level=0.9), made(level=0.5, structure="filter")
    plain, pruned = covered([weights, filters]).tables
    single = "No network of this training with single weights pruned was evaluated"
    assert plain.note == f"{single} at 50 %."
    assert pruned.note == "No network of this training with pruned filters was evaluated at 90 %."
    # Where filters alone were pruned.
    plain, _ = covered([made("dense", 0.0), filters]).tables
    assert plain.lines == () and plain.note == f"{single} yet: snip, lwm-global could be."
    [plain] = covered([made("dense", 0.0)]).tables
    assert plain.note.startswith("No pruned network of this training was evaluated yet: ")


def test_a_row_without_a_result_says_why():
    failed = make_row("lwm-global", 0.9, status="failed", reason="out of memory", examples=np.nan)
    [table] = covered([failed, made("snip")]).tables
    [slot] = slots(table, "lwm-global")
    assert slot.href and slot.reason == "failed: out of memory"


def lost(row, method, level, seed=0, objective=""):
    said = f"{objective or row['objective']}/unstructured-{level}/seed{seed}"
    return Failure(
        checkpoint_id=f"{method}/{row['dataset']}/{row['architecture']}/{said}",
        recipe=row["recipe"],
        recipe_digest="0" * 64,
        error="expected a finite loss, got <nan>",
        environment={},
    )


def test_what_could_not_be_trained_says_why():
    [row] = rows = ranked_rows(pd.DataFrame([made()]))
    failures = [
        lost(row, "snip", 90),
        lost(row, "lwm-global", 90, seed=1),
        lost(row, "snip", 50, objective="x"),
    ]
    found = coverage(rows, GRID, ("dense", "snip", "lwm-global"), refused, failures)
    plain, other = found.tables
    [slot] = slots(plain, "snip")
    assert slot.reason == "could not be trained (seed 0): expected a finite loss, got <nan>"
    assert (slot.href, slot.seeds) == ("", "")
    [slot] = slots(plain, "lwm-global")
    assert slot.seeds == "seed 0" and slot.reason.startswith("could not be trained (seed 1): ")
    # A training of which nothing else is there has a table of its own.
    assert other.title.startswith("x, unstructured") and other.levels == ("50",)
    assert (found.filled, found.failed, found.open) == (1, 3, 1)


def test_failures_open_and_close_no_other_cell():
    [row] = rows = ranked_rows(pd.DataFrame([made()]))
    failures = [
        *(lost(row, "snip:steps=2", 90, seed=seed) for seed in (10, 2)),
        lost(row, "dense", 0),
        lost(row, "lwm-global", 50).model_copy(update={"error": "first"}),
        lost(row, "lwm-global", 50, seed=1),
    ]
    found = coverage(rows, GRID, ("dense", "snip", "lwm-global"), refused, failures)
    [plain] = found.tables
    assert [slot.reason for slot in slots(plain, "snip")] == [NOT_YET]
    assert slots(plain, "snip:steps=2")[1].reason.startswith("could not be trained (seed 2, 10): ")
    assert slots(plain, "lwm-global")[0].reason == "could not be trained (seed 0, 1): first"
    assert plain.dense.reason.startswith("could not be trained (seed 0): ")
    assert (found.filled, found.failed, found.open) == (1, 2, 2)
    # A row without a result, and a seed that could not be trained.
    broken = make_row("lwm-global", 0.9, status="failed", reason="out of memory", examples=np.nan)
    rows = ranked_rows(pd.DataFrame([broken, made("snip")]))
    [plain] = coverage(rows, GRID, (), refused, [lost(row, "lwm-global", 90, seed=1)]).tables
    assert slots(plain, "lwm-global")[0].reason.startswith("failed: out of memory; could not be")


def test_a_training_of_dense_networks_alone_takes_a_line():
    [table] = covered([made("dense", 0.0)]).tables
    assert table.lines == () and "lwm-global" in table.note and "snip" in table.note


def test_a_page_of_coverage_is_bounded(monkeypatch):
    monkeypatch.setattr("benchmark.report.coverage.MOST_LINES", 3)
    found = covered([made(f"m{n}") for n in range(5)])
    assert sum(len(table.lines) for table in found.tables) == 3
    assert found.left_out == 4  # of five, and two of the grid
    assert found.filled == 5
    levels = np.linspace(0.91, 0.97, 20).round(4)
    [table] = covered([made(level=level) for level in levels]).tables
    assert len(table.levels) == 12
    assert table.note.endswith("at 50 %, 90 %. 8 more sparsities off the grid are left out.")


def test_the_page_of_coverage_shows_each_cell(site):
    page = (site / "digits-linf" / "coverage.html").read_text()
    found = coverage(ranked_rows(), protocol_page().grid, ())
    assert f"{found.filled} cells have a record" in page
    for table in found.tables:
        for line in table.lines:
            assert all(slot.href in page and slot.reason in unescape(page) for slot in line.slots)
    assert "no rank: zero gradients" in page


def test_methods_of_this_project_are_asked_what_they_can_do():
    refusal = refusals()
    assert refusal("hydra", 0.9, "filter", "adversarial") == "hydra prunes unstructured, not filter"
    assert refusal("hydra", 0.9, "unstructured", "adversarial") == ""
    assert "works under" in refusal("bap", 0.9, "unstructured", "crown-ibp")
    assert refusal("nobody", 0.9, "unstructured", "adversarial") == ""
    assert "not rows" in refusal("hydra", 0.9, "rows", "adversarial")


# Pages of methods


def test_a_method_s_page_has_its_document_and_its_results(tmp_path):
    known = [
        MethodPage(
            "lwm-global",
            "LWM, global",
            "Smallest weights go.",
            authors="A. Author, B. Author",
            paper="A paper, 2020",
            document="| | |\n|---|---|\n| code | <https://example.org/a> |\n\n## What it is\n\nX.",
        )
    ]
    render(evidence_frame(), tmp_path, PAGES, methods=known)
    page = Page((tmp_path / method_path("lwm-global")).read_text())
    assert "Smallest weights go." in page.text and "What it is" in page.text
    assert "https://example.org/a" in page.links
    rows = [r for r in ranked_rows() if r["tier"] == "full" and r["method"] == "lwm-global"]
    assert f"{len(rows)} checkpoints" in page.text
    # A method that is not registered here has its results alone.
    assert "cnn-tiny, unstructured" in Page((tmp_path / method_path("random")).read_text()).text
    cited = (tmp_path / "cite.bib").read_text()
    assert "@misc{lwm-global," in cited and "author = {A. Author and B. Author}" in cited


def test_a_document_runs_nothing():
    body = html("<script>x</script> [a](javascript:x) [b](README.md) ![i](https://x.org/i.png)")
    assert "<script>" not in body and "javascript:" not in body.replace("(javascript:x)", "")
    assert "href" not in body


# What changed


def boards_of(rows):
    return [(protocol_page(), "full", rows)]


def test_the_first_report_says_so_and_the_next_what_changed(tmp_path):
    frame = board_frame()
    rows = [row for row in ranked_rows(frame) if row["tier"] == "full"]
    first, state = changes(tmp_path, boards_of(rows))
    assert first.first and first.rows == len(rows) and not first.listed
    (tmp_path / STATE).write_bytes(state)
    again, same = changes(tmp_path, boards_of(rows))
    assert again.first and same == state
    other = [dict(row) for row in rows[1:]]
    other[0]["robust_accuracy"] = other[0]["best_known_accuracy"] = 0.25
    other.append({**rows[1], "checkpoint_id": "brand/new", "rank": 7, "tied_with_best": False})
    then, state = changes(tmp_path, boards_of(other))
    kinds = {change.checkpoint: change.kind for change in then.listed}
    assert not then.first
    assert kinds == {
        str(rows[0]["checkpoint_id"]): "gone",
        str(rows[1]["checkpoint_id"]): "interval",
        "brand/new": "new",
    }
    # It stays until something changes again.
    (tmp_path / STATE).write_bytes(state)
    later, kept = changes(tmp_path, boards_of(other))
    assert later.listed == then.listed and kept == state


def test_a_change_of_rank_alone_is_told(tmp_path):
    rows = [row for row in ranked_rows(board_frame()) if pd.notna(row["rank"])]
    (tmp_path / STATE).write_bytes(changes(tmp_path, boards_of(rows))[1])
    other = [dict(row) for row in rows]
    other[3]["rank"] = int(other[3]["rank"]) + 1
    other[3]["tied_with_best"] = False
    [change] = changes(tmp_path, boards_of(other))[0].listed
    assert change.kind == "rank" and change.before != change.after


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"[]",
        b"{}",
        b'{"rows": {"a": []}, "changes": []}',
        b'{"rows": 3, "changes": []}',
        b"\xff",
        b'{"rows": {}, "changes": [{"href": "javascript:x"}]}',
        b'{"rows": {}, "changes": [{"board": "b", "checkpoint": "c", "href": "javascript:x", '
        b'"kind": "new", "before": "", "after": ""}]}',
    ],
)
def test_a_damaged_state_counts_as_none(tmp_path, state):
    (tmp_path / STATE).write_bytes(state)
    found, _ = changes(tmp_path, boards_of(ranked_rows(board_frame())))
    assert found.first and not found.listed


def test_a_report_of_the_same_records_writes_nothing(tmp_path):
    frame = evidence_frame()
    render(frame.head(6), tmp_path, PAGES)
    render(frame, tmp_path, PAGES)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    held = contents(tmp_path)
    render(frame, tmp_path, PAGES)
    assert contents(tmp_path) == held
    # The list of files is written while a report runs.
    changed = {p for p in before if p.is_file() and p.stat().st_mtime_ns != before[p]}
    assert changed <= {tmp_path / "rendered.txt"}


# Libraries


def test_libraries_are_plain_scripts_with_their_licences():
    found = assets()
    assert set(found) == {
        f"static/{name}"
        for name in ("board.js", "charts.js", "compare.js", "style.css", "tables.js")
    }
    tables = found["static/tables.js"].decode()
    assert tables.startswith("(() => {") and "globalThis.tables = {" in tables
    assert not re.search(r"(^|[;}\s])(import|export)\s*[{*]", tables)
    assert "datatables.net/license" in tables
    assert b"Bokeh" in found["static/charts.js"][:4000]
    # No library brings what asks elsewhere when it is loaded.
    for name in ("board.js", "compare.js"):
        assert not re.search(rb"https?:|fetch\(|import\(|XMLHttp", found[f"static/{name}"])


def test_a_module_of_another_shape_is_refused():
    assert plain('var a=1;export{a as default,a as "b"};', "x").count("globalThis.x") == 1
    with pytest.raises(ContractError, match="one list of exports"):
        plain("var a = 1;", "x")


def test_every_page_names_only_files_of_its_own(site):
    for path in site.rglob("*.html"):
        page = Page(path.read_text())
        for request in page.requests:
            if not request.startswith("data:"):
                assert (path.parent / request).resolve().is_relative_to(site.resolve())
        data = [v for tag, v in page.tags if tag == "script" and v.get("type") == DATA]
        assert len(data) == (path.name == "compare.html")
