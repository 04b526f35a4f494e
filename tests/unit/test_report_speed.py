"""Size and speed on the pages: what was measured, beside the machine, and no rank from it."""

import numpy as np
import pandas as pd
import pytest
from report_frame import HOSTILE, board_frame, make_row, outcomes_of, speed_of
from test_report import PAGES, Page, detail

from benchmark.leaderboard import rank
from benchmark.report import render
from benchmark.report.speed import NETWORKS, milliseconds, speed, speeds


def row_of(method="a", sparsity=0.9, structure="filter", **changes):
    outcomes = outcomes_of(0.5, np.random.default_rng(0))
    return make_row(method, sparsity, outcomes, structure=structure, **changes)


def test_a_rows_times_by_hand():
    found = speed(row_of())
    assert [times.batch for times in found.times] == ["1 image", "64 images"]
    dense, masked, small = found.times[0].times
    assert (dense.median, dense.spread) == ("0.250", "0.240 – 0.312")
    assert (masked.median, small.median) == ("0.240", "0.050")
    assert found.times[0].ratio == found.times[1].ratio == "4.80×"
    assert found.times[1].times[2].median == "3.20"
    assert (found.parameters, found.multiply_adds) == ("5 k", "100 k → 10 k")
    assert [fact.value for fact in found.facts][-1] == "AMD EPYC 7B13 64-Core Processor"


def test_networks_that_were_not_there_have_no_time():
    found = speed(row_of(**speed_of(0.9, "filter", (1,), ("masked",))))
    [times] = found.times
    assert [time.median for time in times.times] == ["—", "0.240", "—"]
    assert times.times[0].spread == "" and times.ratio == "—"


@pytest.mark.parametrize("latency", [[], float("nan"), None, [3], [{"network": "another"}]])
def test_without_latencies_there_is_nothing(tmp_path, latency):
    row = row_of(latency=latency, compact_parameters=float("nan"))
    assert speed(row) is None
    render(pd.DataFrame([row]), tmp_path, PAGES)
    pages = {path.name: path.read_text() for path in (tmp_path / "digits-linf").glob("*.html")}
    assert "latency.html" not in pages
    assert not any("Size and speed" in page for page in pages.values())


def test_milliseconds_have_three_digits_and_no_more_decimals():
    shown = [milliseconds(value) for value in (0.0004, 0.0614, 0.999, 1.0, 9.876, 87.65, 2345.6)]
    assert shown == ["0.000", "0.061", "0.999", "1.00", "9.88", "87.7", "2,346"]
    assert [milliseconds(value) for value in (None, float("nan"), "x", True)] == ["—"] * 4


def test_a_page_lists_each_checkpoint_once_in_order():
    rows = [
        row_of("b", 0.9),
        row_of("b", 0.5),
        row_of("b", 0.5, tier="quick"),
        row_of("a", 0.5, structure="unstructured"),
        row_of("a", 0.9, **speed_of(0.9, "filter", (1,))),
        row_of("a", 0.5, latency=[]),
    ]
    found = speeds(rows)
    assert [(row.name, row.network) for row in found.rows] == [
        ("a 90 %", "cnn-tiny, filter"),
        ("b 50 %", "cnn-tiny, filter"),
        ("b 90 %", "cnn-tiny, filter"),
        ("a 50 %", "cnn-tiny, unstructured"),
    ]
    # Every row has every column.
    assert found.batches == ("1 image", "64 images")
    assert {len(row.times) for row in found.rows} == {2}
    assert found.rows[0].times[1].ratio == "—"
    assert speeds([row_of(latency=[])]) is None


def test_no_rank_depends_on_a_latency():
    frame = board_frame()
    before = rank(frame)
    for at in frame.index:
        frame.at[at, "latency"] = speed_of(0.01 * (at % 7), "filter")["latency"]
    after = rank(frame)
    for name in ("checkpoint_id", "rank", "cell", "gain", "rank_low", "rank_high"):
        assert before[name].equals(after[name])


def test_pages_show_times_with_spread_and_machine(tmp_path):
    frame = pd.DataFrame([row_of("dense", 0.0, "unstructured"), row_of("a", 0.9)])
    render(frame, tmp_path, PAGES)
    folder = tmp_path / "digits-linf"
    board = Page((folder / "index.html").read_text())
    assert "../digits-linf/latency.html" in board.links
    page = Page((folder / "latency.html").read_text())
    for name in NETWORKS.values():
        assert name in page.text
    line = "a 90 % 90 % 100 k → 10 k 5 k 0.250 0.240 – 0.312 0.240 0.230 – 0.300 0.050 0.048 – 0.06"
    assert "4.80× adversarial, digits-1, seed 0 cnn-tiny, filter AMD EPYC 7B13" in page.text
    assert line in page.text and "compare between checkpoints only where the processor" in page.text
    [path] = folder.glob("a-*.html")
    own = Page(path.read_text()).text
    assert "dense parent 0.250 0.240 – 0.312 16.0 15.4 – 20.0 as published 0.240" in own
    assert "published over compact 4.80× 4.80×" in own and "AMD EPYC 7B13 64-Core Processor" in own


def test_hostile_values_stay_text(tmp_path):
    bad = {"network": "masked", "batch": HOSTILE, "median": "<b>", "lower": -1.0, "upper": 1e300}
    entries = [bad, {**bad, "batch": 1}, {**bad, "batch": 64, "median": 0.0}, None]
    row = row_of(latency=entries, latency_processor=HOSTILE, compact_parameters="<i>")
    assert speed(row).times[0].times[1].median == "—"
    detail([row])
    render(pd.DataFrame([row]), tmp_path, PAGES)
    for path in tmp_path.rglob("*.html"):
        assert "<script>" not in path.read_text() and "<b>" not in path.read_text()
    assert HOSTILE in Page((tmp_path / "digits-linf" / "latency.html").read_text()).text
