"""Figures: they show the numbers given, look the same every time, and never open a window."""

import itertools
import math
import re
import subprocess
import sys
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from report_frame import board_frame, make_row, outcomes_of

from benchmark.comparison import COSTS, by_processor, ladders, pareto, security_curves
from benchmark.errors import UnknownName
from benchmark.figures import Look, Named, accuracies, fronts, gains, rendered, security
from benchmark.figures.style import FORMATS, PRESETS, WIDTHS, strokes
from benchmark.leaderboard import best_known, rank

SERIF = Look()
LOOKS = [Look(preset, width) for preset in PRESETS for width in WIDTHS]
HOSTILE = "$x_{ <script>alert(1)</script> \\frac{ %s & # " + 300 * "long "


def ranked():
    rows = [one for one in board_frame().to_dict("records") if one["tier"] == "full"]
    for row in rows:
        single = next((x for x in row["latency"] if x["batch"] == 1), None)
        row["latency_compact"] = single["median"] if single else math.nan
    return rank(pd.DataFrame(rows)).to_dict("records")


ROWS = ranked()
NAMED = [Named(one.method, one) for one in ladders(ROWS) if one.objective == "adversarial"]
FEW = NAMED[:3]
CURVES = [
    (row["method"], security_curves([row])[0])
    for row in ROWS
    if row["sparsity"] == 0.99 and row["status"] == "done"
]


def every_figure(look):
    found = {
        "accuracy": accuracies(NAMED, look),
        "gain": gains(NAMED, look),
        "pareto": fronts(ROWS, COSTS, look),
        "security": security(CURVES, look),
    }
    assert all(found.values())
    return found


def drawn(axes):
    """The lines of an axes by colour and marker: (x, y) of each."""
    lines = {}
    for line in axes.lines:
        points = list(zip(np.ravel(line.get_xdata()), np.ravel(line.get_ydata()), strict=True))
        lines.setdefault((line.get_color(), line.get_marker()), []).extend(points)
    return lines


# --- They show what they are given ----------------------------------------------------------------


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_accuracies_are_those_of_the_ladders(look) -> None:
    robust, certified = accuracies(NAMED, look).axes[:2]
    styles = strokes(one.label for one in NAMED if one.label != "dense")
    for axes, measure in ((robust, "robust"), (certified, "certified")):
        for one in NAMED[1:]:
            stroke = styles[one.label]
            shown = drawn(axes)[stroke.colour, stroke.marker]
            known = [r for r in one.ladder.rungs if math.isfinite(getattr(r, measure).value)]
            expected = [(1 - r.measured, getattr(r, measure).value) for r in known]
            assert np.array(shown) == pytest.approx(np.array(expected))
    assert robust.get_xscale() == "log"
    # Left is dense, right is sparse.
    assert robust.get_xlim()[0] > 1 > robust.get_xlim()[1]
    assert [text.get_text() for text in _ticks(robust)] == ["0", "50", "75", "90", "95", "99"]


def _ticks(axes):
    axes.figure.draw_without_rendering()
    return axes.get_xticklabels()


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_gains_are_those_of_the_ladders(look) -> None:
    figure = gains(NAMED, look)
    styles = strokes(one.label for one in NAMED if one.label != "dense")
    shown = {}
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_marker() != "None":
                shown.setdefault(line.get_color() + line.get_marker(), []).append(
                    line.get_xdata()[0]
                )
    for one in NAMED[1:]:
        stroke = styles[one.label]
        expected = [100 * r.gain.value for r in one.ladder.rungs if math.isfinite(r.gain.value)]
        assert shown.get(stroke.colour + stroke.marker, []) == pytest.approx(expected)


def test_a_front_is_the_stair_through_its_rows() -> None:
    figure = fronts(ROWS, COSTS, SERIF)
    for axes, cost in zip(figure.axes, COSTS, strict=True):
        rows = by_processor(ROWS)["AMD EPYC 7B13 64-Core Processor"] if "lat" in cost else ROWS
        front = pareto(rows, cost)
        stair = axes.lines[0]
        corners = list(zip(stair.get_xdata(), stair.get_ydata(), strict=True))
        assert corners[:-1] == [(row[cost], best_known(row)) for row in front]
        points = sum(line.get_marker() not in ("None", "") for line in axes.lines)
        assert points == sum(row["status"] == "done" for row in rows)


def test_latencies_of_the_processor_with_most_rows_are_drawn() -> None:
    rows = [dict(row) for row in ROWS]
    rows[0]["latency_processor"] = "another"
    (axes,) = fronts(rows, ["latency_compact"], SERIF).axes
    points = sum(line.get_marker() not in ("None", "") for line in axes.lines)
    assert points == sum(row["status"] == "done" for row in rows) - 1


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_security_curves_are_those_given(look) -> None:
    axes = security(CURVES, look).axes
    for label, curve in CURVES:
        stroke = strokes(label for label, _ in CURVES)[label]
        expected = [(p.epsilon, p.accuracy.value) for p in (*curve.attacked, *curve.certified)]
        shown = [xy for one in axes for xy in drawn(one).get((stroke.colour, stroke.marker), [])]
        assert np.array(shown) == pytest.approx(np.array(expected))
    assert [text.get_text() for text in _ticks(axes[0])] == ["0", "1/16", "1/8", "3/16", "1/4"]


def test_there_is_no_figure_of_nothing() -> None:
    assert accuracies([], SERIF) is None
    assert accuracies([one for one in NAMED if one.label == "dense"], SERIF) is None
    assert gains([one for one in NAMED if one.label == "dense"], SERIF) is None
    assert fronts([], COSTS, SERIF) is None
    assert fronts([make_row(status="failed")], COSTS, SERIF) is None
    assert security([], SERIF) is None


def test_a_network_without_a_weight_still_has_a_place() -> None:
    row = make_row("random", 1.0 - 1e-12, outcomes_of(0.1, np.random.default_rng(0)))
    row["sparsity"], row["measured_sparsity"] = 1.0, 1.0
    figure = accuracies([Named("random", ladders([row])[0])], SERIF)
    assert rendered(figure, SERIF, "png").startswith(b"\x89PNG")


# --- They can be told apart and printed -----------------------------------------------------------


def test_any_two_methods_differ_without_colour() -> None:
    labels = ["dense", "random", "lwm-layerwise", "lwm-global", *(f"m{n}" for n in range(24))]
    found = strokes(labels)
    seen = [(s.marker, str(s.dashes), s.filled) for s in found.values()]
    assert len(set(seen)) == len(labels)
    # Within six methods, colour and marker and dash need not be looked at together.
    first = [found[f"m{n}"] for n in range(6)]
    assert len({s.colour for s in first}) == len({s.marker for s in first}) == 6


def _luminance(colour):
    parts = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in mpl.colors.to_rgb(colour)
    ]
    return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))


def test_colours_stand_out_from_paper() -> None:
    for stroke in strokes(["dense", "random", "lwm-global", *(f"m{n}" for n in range(6))]).values():
        assert 1.05 / (_luminance(stroke.colour) + 0.05) > 2, stroke


# As people with protanopia and deuteranopia see linear RGB (Viénot, Brettel & Mollon 1999).
BLIND = {
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
}


@pytest.mark.parametrize("kind", BLIND)
def test_neighbouring_colours_differ_for_the_colour_blind(kind) -> None:
    colours = [s.colour for s in strokes(f"m{n}" for n in range(6)).values()]
    seen = [np.array(BLIND[kind]) @ np.power(mpl.colors.to_rgb(c), 2.2) for c in colours]
    for (one, first), (other, second) in itertools.combinations(zip(colours, seen, strict=True), 2):
        assert np.abs(first - second).max() > 0.04, (one, other)


@pytest.mark.parametrize("look", [LOOKS[0], LOOKS[-1]], ids=str)
def test_pdfs_hold_truetype_letters_and_no_date(look) -> None:
    for figure in every_figure(look).values():
        data = rendered(figure, look, "pdf")
        assert b"/FontFile2" in data
        assert b"/Type3" not in data
        assert b"Date" not in data
        assert PRESETS[look.preset].replace(" ", "").encode() in data
        width = float(re.search(rb"/MediaBox \[ ?0 0 ([0-9.]+)", data)[1])
        assert width == pytest.approx(72 * WIDTHS[look.width], abs=0.01)


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_figure_is_the_same_bytes(form) -> None:
    first, second = (
        [rendered(figure, SERIF, form) for figure in (accuracies(FEW, SERIF), gains(FEW, SERIF))]
        for _ in range(2)
    )
    assert first == second
    for data in first:
        assert not re.search(rb"20[0-9]{2}-[01][0-9]-", data)
        assert b"atplotlib v" not in data


def test_settings_of_the_user_neither_matter_nor_change() -> None:
    plain = rendered(accuracies(FEW, SERIF), SERIF, "svg")
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.facecolor": "red"}):
        before = dict(mpl.rcParams)
        assert rendered(accuracies(FEW, SERIF), SERIF, "svg") == plain
        assert dict(mpl.rcParams) == before


def test_hostile_labels_are_letters() -> None:
    named = [replace(NAMED[1], label=HOSTILE), replace(NAMED[2], label="=cmd|' /C calc'!A0")]
    curves = [(HOSTILE, CURVES[0][1])]
    for figure in (accuracies(named, SERIF), gains(named, SERIF), security(curves, SERIF)):
        for form in FORMATS:
            data = rendered(figure, SERIF, form)
            assert len(data) > 1000
            assert b"<script" not in data


def test_unknown_names_have_near_matches() -> None:
    with pytest.raises(UnknownName, match="did you mean serif"):
        Look("serifs")
    with pytest.raises(UnknownName, match="did you mean column"):
        Look(width="columns")
    with pytest.raises(UnknownName, match="known: pdf, png, svg"):
        rendered(accuracies(NAMED, SERIF), SERIF, "gif")


LAZY = """
import sys
import benchmark.cli, benchmark.pipeline, benchmark.interface
assert "matplotlib" not in sys.modules
import benchmark.figures
assert "matplotlib.pyplot" not in sys.modules
assert not any(name.startswith(("tkinter", "PyQt", "gi.")) for name in sys.modules)
"""


def test_nobody_else_pays_for_matplotlib_and_no_window_is_opened() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
