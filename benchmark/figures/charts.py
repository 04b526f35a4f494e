"""The figures: accuracy and gain against sparsity, fronts, and accuracy against epsilon.

Each function draws frozen values of `comparison` into a figure of its own, without a window and
without pyplot, which would keep it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmark.comparison import (
    AtEpsilon,
    Ladder,
    Rung,
    SecurityCurve,
    by_processor,
    pareto,
)
from benchmark.errors import shorten
from benchmark.figures.style import Look, Stroke, strokes
from benchmark.leaderboard import DENSE, Row, as_number, best_known, rankable
from benchmark.statistics import Estimate

# More lines than this make bands a fog: their ends are then drawn as whiskers.
_BANDS = 4

# Round numbers on an axis of so many decades.
_STEPS = ((3.0, (1.0,)), (1.2, (1.0, 3.0)), (0.6, (1.0, 2.0, 5.0)))
_FINE = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)

_GREY = "#555555"
_GAIN = "gain over the magnitude control (points)"
_PROVEN = (0, (3, 1.5))

_AXES = {
    "bytes_stored": "bytes stored",
    "compact_multiply_adds": "multiply-adds, compact network",
    "multiply_adds_sparse": "multiply-adds, zeros skipped",
    "latency_compact": "latency, compact network (ms)",
}


@dataclass(frozen=True)
class Named:
    """A ladder as a figure calls it."""

    label: str
    ladder: Ladder


def accuracies(named: Sequence[Named], look: Look) -> Figure | None:
    """Draws best known robust and certified accuracy against sparsity, on a log density axis.

    Returns None without a pruned network.

    Args:
        named: ladders of one board.
        look: of the figure.
    """
    shown = [one for one in named if one.ladder.rungs and one.ladder.method != DENSE]
    if not shown:
        return None
    measures = ("robust", "certified")
    drawn = strokes(one.label for one in shown)
    room = _Room(panels=2, columns=2 if look.wide else 1, height=1.7, entries=len(shown) + 1)
    with _canvas(look, room) as (figure, panels):
        for axes, measure in zip(panels, measures, strict=True):
            for place, one in enumerate(shown):
                shift = _shift(place, len(shown), 0.05)
                _against_sparsity(axes, one, measure, drawn[one.label], shift, len(shown))
            _dense_lines(axes, shown, measure)
            _sparsity_axis(axes, shown)
            _percent_axis(axes, f"{measure} accuracy (%)")
        handles = [_handle(drawn[one.label], one.label) for one in shown]
        _legend(figure, [*handles, *_dense_handle(shown)], look)
    return figure


def gains(named: Sequence[Named], look: Look) -> Figure | None:
    """Draws the gain over the magnitude control at each sparsity, in points; None without any.

    Args:
        named: ladders of one board.
        look: of the figure.
    """
    shown = [one for one in named if any(_has_gain(rung) for rung in one.ladder.rungs)]
    if not shown:
        return None
    drawn = strokes(one.label for one in named if one.ladder.method != DENSE)
    levels = sorted({r.sparsity for one in shown for r in one.ladder.rungs if _has_gain(r)})
    draw = _gains_beside if look.wide else _gains_below
    return draw(shown, levels, drawn, look)


def fronts(rows: Sequence[Row], costs: Sequence[str], look: Look) -> Figure | None:
    """Draws best known robust accuracy against what a network costs, and the front; None if empty.

    Args:
        rows: of one board; of latencies those of the processor with most rows are drawn.
        costs: of `comparison.COSTS`, a panel each; those that no row has are left out.
        look: of the figure.
    """
    panels_of = {cost: _costing(rows, cost) for cost in costs}
    panels_of = {cost: found for cost, found in panels_of.items() if found}
    if not panels_of:
        return None
    methods = sorted({str(row["method"]) for found in panels_of.values() for row in found})
    drawn = strokes(methods)
    columns = min(len(panels_of), 2) if look.wide else 1
    with _canvas(
        look, _Room(len(panels_of), columns, 1.7 if look.wide else 1.3, len(methods) + 1)
    ) as (figure, panels):
        for number, (cost, found) in enumerate(panels_of.items()):
            _cloud(panels[number], found, cost, drawn)
            _percent_axis(panels[number], "" if number % columns else "robust accuracy (%)")
        front = Line2D([], [], color=_GREY, linewidth=0.9, drawstyle="steps-post", label="front")
        handles = [_handle(drawn[name], name, line=False) for name in methods]
        _legend(figure, [*handles, front], look)
    return figure


def security(curves: Sequence[tuple[str, SecurityCurve]], look: Look) -> Figure | None:
    """Draws accuracy against epsilon: solid what attacks left, dashed what is certified.

    Returns None without a curve.

    Args:
        curves: of one protocol, by label.
        look: of the figure.
    """
    if not curves:
        return None
    drawn, bands = strokes(label for label, _ in curves), len(curves) <= _BANDS
    panels_of = 2 if look.wide else 1
    room = _Room(panels_of, panels_of, height=1.9, entries=len(curves) + 3 - panels_of)
    with _canvas(look, room) as (figure, panels):
        for label, curve in curves:
            stroke = drawn[label]
            _against_epsilon(panels[0], curve.attacked, replace(stroke, dashes="-"), bands)
            _against_epsilon(panels[-1], curve.certified, replace(stroke, dashes=_PROVEN), bands)
        for axes in panels:
            _epsilon_axis(axes, [curve for _, curve in curves])
        handles = [_handle(drawn[label], label, line=False) for label, _ in curves]
        _percent_axis(panels[0], "robust accuracy (%)" if look.wide else "accuracy (%)")
        if look.wide:
            _percent_axis(panels[1], "certified accuracy (%)")
        else:
            handles.append(Line2D([], [], color=_GREY, label="attacked"))
            handles.append(Line2D([], [], color=_GREY, linestyle=_PROVEN, label="certified"))
        _legend(figure, handles, look)
    return figure


def _gains_beside(
    shown: Sequence[Named], levels: Sequence[float], drawn: Mapping[str, Stroke], look: Look
) -> Figure:
    """Draws a panel a sparsity; a method has the same place in all of them."""
    height = 0.36 + 0.145 * len(shown)
    room = _Room(len(levels), min(len(levels), 5), height, share=True)
    with _canvas(look, room) as (figure, panels):
        for axes, level in zip(panels, levels, strict=True):
            _gain_axis(axes)
            axes.set_title(f"{_percent(level)} %")
            for place, one in enumerate(shown):
                for gain in _gains_at(one, level):
                    _whisker(axes, place, gain, drawn[one.label])
        panels[0].set_yticks(range(len(shown)), [one.label for one in shown])
        panels[0].set_ylim(len(shown) - 0.4, -0.6)
        figure.supxlabel(_GAIN, fontsize="medium")
    return figure


def _gains_below(
    shown: Sequence[Named], levels: Sequence[float], drawn: Mapping[str, Stroke], look: Look
) -> Figure:
    """Draws one panel with the sparsities below each other, each with the methods that have it."""
    listed: list[tuple[str, Estimate | None, Stroke | None]] = []
    for level in levels:
        listed.append((f"{_percent(level)} % sparse", None, None))
        listed += [
            (one.label, gain, drawn[one.label]) for one in shown for gain in _gains_at(one, level)
        ]
    with _canvas(look, _Room(1, 1, 0.1 + 0.14 * len(listed))) as (figure, panels):
        axes = panels[0]
        _gain_axis(axes)
        for place, (_, gain, stroke) in enumerate(listed):
            if gain is not None and stroke is not None:
                _whisker(axes, place, gain, stroke)
        axes.set_yticks(range(len(listed)), [label for label, *_ in listed])
        for label, (_, gain, _stroke) in zip(axes.get_yticklabels(), listed, strict=True):
            label.set_fontweight("bold" if gain is None else "normal")
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(listed) - 0.4, -0.6)
        axes.set_xlabel(_GAIN)
    return figure


def _gain_axis(axes: Axes) -> None:
    axes.axvline(0, color=_GREY, linewidth=0.6)
    axes.grid(visible=False, axis="y")


def _gains_at(one: Named, level: float) -> list[Estimate]:
    return [r.gain for r in one.ladder.rungs if r.sparsity == level and _has_gain(r)]


# --- Canvas, axes, legend -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Room:
    """What a figure must hold.

    Attributes:
        panels: how many.
        columns: how many of them beside each other.
        height: of one in inches, without labels.
        entries: of the legend.
        share: whether all panels have the same axes.
    """

    panels: int
    columns: int
    height: float
    entries: int = 0
    share: bool = False


@contextmanager
def _canvas(look: Look, room: _Room) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yields a figure with its panels, and room for the legend below them."""
    lines = math.ceil(room.panels / room.columns)
    legend = 0.155 * math.ceil(room.entries / _columns(look))
    size = (look.inches, lines * (room.height + 0.45) + legend)
    with look.applied():
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(
            lines, room.columns, squeeze=False, sharex=room.share, sharey=room.share
        )
        panels = list(grid.flat)
        for spare in panels[room.panels :]:
            spare.remove()
        yield figure, panels[: room.panels]


def _columns(look: Look) -> int:
    return 6 if look.wide else 3


def _legend(figure: Figure, handles: Sequence[Line2D], look: Look) -> None:
    columns = min(len(handles), _columns(look))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _handle(stroke: Stroke, label: str, line: bool = True) -> Line2D:
    return Line2D(
        [],
        [],
        color=stroke.colour,
        marker=stroke.marker,
        markerfacecolor=stroke.face,
        linestyle=stroke.dashes if line else "",
        label=shorten(label, 60),
    )


def _percent_axis(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}"))


def _sparsity_axis(axes: Axes, named: Sequence[Named]) -> None:
    """Lays out sparsities by the logarithm of the density, so that 99 % is as far from 90 as 90."""
    claimed = sorted({rung.sparsity for one in named for rung in one.ladder.rungs})
    if any(one.ladder.dense for one in named):
        claimed = sorted({0.0, *claimed})
    axes.set_xscale("log")
    axes.set_xticks([_density(sparsity) for sparsity in claimed], [_percent(s) for s in claimed])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(1.15 * _density(claimed[0]), _density(claimed[-1]) / 1.15)
    axes.set_xlabel("sparsity (%), log density axis")


def _density(sparsity: float) -> float:
    """Returns the density; that of a network without a weight is none that a log axis has."""
    return max(1e-4, 1 - sparsity)


def _epsilon_axis(axes: Axes, curves: Sequence[SecurityCurve]) -> None:
    points = [point for curve in curves for point in (*curve.attacked, *curve.certified)]
    own = next((p.epsilon for p in points if p.printed == curves[0].own), None)
    ticks = {point.epsilon: point.printed for curve in curves for point in curve.attacked}
    ticks = ticks or {point.epsilon: point.printed for point in points}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlabel(f"epsilon ({curves[0].norm})")
    axes.set_xlim(0, max(ticks))
    if own is not None:
        axes.axvline(own, color=_GREY, linewidth=0.6, zorder=0.5)


def _amount_axis(axes: Axes, amounts: Sequence[float]) -> None:
    """Lays out amounts by their logarithm, with round numbers below."""
    axes.set_xscale("log")
    decades = math.log10(max(amounts) / min(amounts))
    steps = next((steps for least, steps in _STEPS if decades > least), _FINE)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda amount, _: _amount(amount)))


def _amount(amount: float) -> str:
    """Returns a round amount as people write it.

    >>> _amount(30_000), _amount(0.05)
    ('30 k', '0.05')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= factor * (1 - 1e-9):
            return f"{amount / factor:.3g} {prefix}"
    return f"{amount:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.4f}".rstrip("0").rstrip(".")


# --- Lines and points -----------------------------------------------------------------------------


def _against_sparsity(
    axes: Axes, one: Named, measure: str, stroke: Stroke, shift: float, methods: int
) -> None:
    known = [rung for rung in one.ladder.rungs if math.isfinite(_of(rung, measure).value)]
    if not known:
        return
    places = [_density(rung.measured) * 10**shift for rung in known]
    _line(axes, places, [_of(rung, measure) for rung in known], stroke, methods <= _BANDS)


def _against_epsilon(axes: Axes, points: Sequence[AtEpsilon], stroke: Stroke, bands: bool) -> None:
    places, values = [point.epsilon for point in points], [point.accuracy for point in points]
    if points:
        _line(axes, places, values, stroke, bands)


def _line(
    axes: Axes, places: Sequence[float], values: Sequence[Estimate], stroke: Stroke, bands: bool
) -> None:
    """Draws values with their intervals: a band, or whiskers where bands would cover each other."""
    shares = [one.value for one in values]
    lows, highs = [one.low for one in values], [one.high for one in values]
    if bands:
        axes.fill_between(places, lows, highs, color=stroke.colour, alpha=0.14, linewidth=0)
    else:
        axes.vlines(places, lows, highs, color=stroke.colour, linewidth=0.5, alpha=0.7)
    axes.plot(
        places,
        shares,
        color=stroke.colour,
        marker=stroke.marker,
        markerfacecolor=stroke.face,
        markeredgewidth=0.8,
        linestyle=stroke.dashes,
        clip_on=False,
        zorder=3,
    )


def _whisker(axes: Axes, place: float, gain: Estimate, stroke: Stroke) -> None:
    ends = [100 * gain.low, 100 * gain.high]
    axes.plot(ends, [place, place], color=stroke.colour, linewidth=1.0)
    axes.plot(
        [100 * gain.value],
        [place],
        color=stroke.colour,
        marker=stroke.marker,
        markerfacecolor=stroke.face,
        linestyle="",
    )


def _dense_lines(axes: Axes, named: Sequence[Named], measure: str) -> None:
    """Draws the dense network as a level to hold, with its interval."""
    for rung in _dense_rungs(named):
        value = _of(rung, measure)
        if math.isfinite(value.value):
            axes.axhspan(value.low, value.high, color="black", alpha=0.06, linewidth=0, zorder=0.4)
            axes.axhline(value.value, color="black", linewidth=0.8, linestyle=(0, (1, 2)))


def _dense_rungs(named: Sequence[Named]) -> list[Rung]:
    found = {
        (one.ladder.architecture, one.ladder.recipe, one.ladder.objective): one.ladder.dense
        for one in named
        if one.ladder.dense is not None
    }
    return list(found.values())


def _dense_handle(named: Sequence[Named]) -> list[Line2D]:
    if not _dense_rungs(named):
        return []
    return [Line2D([], [], color="black", linewidth=0.8, linestyle=(0, (1, 2)), label=DENSE)]


def _cloud(axes: Axes, rows: Sequence[Row], cost: str, drawn: Mapping[str, Stroke]) -> None:
    front = pareto(rows, cost)
    steps = [as_number(row[cost]) for row in front]
    levels = [best_known(row) for row in front]
    axes.step(
        [*steps, max(as_number(row[cost]) for row in rows)],
        [*levels, levels[-1]],
        where="post",
        color=_GREY,
        linewidth=0.9,
        zorder=1.5,
    )
    best = {str(row["checkpoint_id"]) for row in front}
    for row in rows:
        stroke, inside = drawn[str(row["method"])], str(row["checkpoint_id"]) in best
        axes.plot(
            [as_number(row[cost])],
            [best_known(row)],
            color=stroke.colour,
            marker=stroke.marker,
            markerfacecolor=stroke.face,
            markersize=4.6 if inside else 3.2,
            alpha=1.0 if inside else 0.55,
            linestyle="",
            clip_on=False,
            zorder=3 if inside else 2,
        )
    _amount_axis(axes, [as_number(row[cost]) for row in rows])
    axes.set_xlabel(_AXES[cost])


def _costing(rows: Sequence[Row], cost: str) -> list[Row]:
    known = [row for row in rows if rankable(row) and as_number(row.get(cost)) > 0]
    if cost != "latency_compact":
        return known
    groups = by_processor(known)
    return max(groups.values(), key=len, default=[])


def _of(rung: Rung, measure: str) -> Estimate:
    return rung.robust if measure == "robust" else rung.certified


def _has_gain(rung: Rung) -> bool:
    return math.isfinite(rung.gain.value)


def _shift(place: int, methods: int, width: float) -> float:
    """Returns how far a method stands beside its sparsity, in decades, so that whiskers show."""
    return 0.0 if methods <= _BANDS else width * (place / (methods - 1) - 0.5)
