"""Charts as SVG, each for light and for dark pages. The only module that knows matplotlib.

Figures are drawn through the object interface on fixed settings, so neither pyplot's state nor a
user's matplotlibrc changes a byte. Colours carry a role; the dark picture is the light one with the
role's other colour.
"""

import io
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import log10
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmark.report.curves import Chart, Line, Point, SecurityCurve
from benchmark.report.wording import sparsity_percent, text

WIDTH = 5.8  # inches; the browser scales the picture to its column
TICKS = (0.0, 0.5, 0.75, 0.9, 0.95, 0.99)
SMALLEST_DENSITY = 1e-4  # a network without any weight left has no place on a logarithmic axis

# (light, dark) colours. The series are told apart under the common colour-vision deficiencies,
# reach a contrast of 3 : 1 on their page, and never stand alone: each has its own marker and its
# name beside the line.
INK = ("#3d4650", "#c3cad3")
GRID = ("#dfe3e8", "#343b44")
FRAME = ("#8b95a1", "#7d8793")
PROVEN = ("#0b6e66", "#3fc1b0")
ATTACKED = ("#2470a8", "#7db8ea")
SERIES = (
    ("#0072b3", "#5ab4ea"),
    ("#bf4e00", "#ff9a52"),
    ("#00815d", "#35c796"),
    ("#a8438c", "#e79bcd"),
    ("#8f6c00", "#e2c247"),
    ("#4a45b5", "#a9a6ff"),
    ("#8a4b2a", "#d3a283"),
    ("#b3243f", "#ff8f9f"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h", "<", ">", "p")

# The thin line from a name to the end of its line.
LEADER = {"arrowstyle": "-", "linewidth": 0.7, "alpha": 0.7, "shrinkA": 2, "shrinkB": 4}

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "robustprune",
    # Text stays text: it can be searched, and takes the reader's own font as the page does.
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "axes.linewidth": 0.8,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Drawing:
    """One chart in both themes.

    Attributes:
        light: SVG for light pages and for print.
        dark: SVG for dark pages.
        words: the content as text.
    """

    light: bytes
    dark: bytes
    words: str


def draw_chart(chart: Chart) -> Drawing:
    """Returns an accuracy against sparsity, a line a method, named at the line's end."""
    with _fixed_settings():
        figure, axes = _canvas(_height(len(chart.lines)), _label_width(chart.lines))
        for line in chart.lines:
            _draw_line(axes, line)
        top = max(point.high for line in chart.lines for point in line.points)
        _percent_axis(axes, top, f"{chart.measure} (%)")
        _sparsity_axis(axes, chart.lines)
        _name_lines(axes, chart.lines)
        return _drawing(figure, chart.words())


def draw_security_curve(curve: SecurityCurve) -> Drawing:
    """Returns robust and certified accuracy against epsilon, the unknown between them shaded."""
    with _fixed_settings():
        figure, axes = _canvas(3.3, 1.15, bottom=0.58)
        _shade_unknown(axes, curve)
        # A curve is drawn with the two roles that the interval bars have, not as two methods.
        for points, colour, marker in (
            (curve.robust, ATTACKED[0], "o"),
            (curve.certified, PROVEN[0], "s"),
        ):
            _draw_points(axes, points, colour, marker)
        _mark_protocol(axes, curve)
        points = (*curve.robust, *curve.certified)
        _percent_axis(axes, max(point.high for point in points), "accuracy (%)")
        _epsilon_axis(axes, curve)
        _name_curves(axes, curve)
        return _drawing(figure, curve.words())


def _mark_protocol(axes: Axes, curve: SecurityCurve) -> None:
    """Marks the protocol's own epsilon, where it is on the axis."""
    printed, value = curve.epsilon
    if not value > 0:
        return
    axes.axvline(value, color=FRAME[0], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"protocol: {printed}",
        (value, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=10,
        color=INK[0],
        parse_math=False,
    )


def _fixed_settings() -> AbstractContextManager[None]:
    return matplotlib.rc_context({**_defaults(), **SETTINGS})


def _defaults() -> dict[Any, Any]:
    # The backend is nobody's business here, and setting it would load one.
    return {
        name: value
        for name, value in matplotlib.rcParamsDefault.items()
        if not name.startswith(("backend", "interactive", "toolbar", "webagg", "tk.", "macosx"))
    }


def _height(lines: int) -> float:
    return max(3.5, 1.1 + 0.21 * lines)


def _label_width(lines: Sequence[Line]) -> float:
    longest = max(len(_label(line.label)) for line in lines)
    return 0.45 + 0.088 * longest


def _label(label: str) -> str:
    return text(label, 26)


def _canvas(height: float, right: float, bottom: float = 0.72) -> tuple[Figure, Axes]:
    """Returns an empty figure whose margins are set in inches, so that no text is ever cut off."""
    left, top = 0.66, 0.3
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    across, up = (WIDTH - left - right) / WIDTH, (height - bottom - top) / height
    axes = figure.add_axes((left / WIDTH, bottom / height, across, up))
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FRAME[0])
    axes.grid(True, color=GRID[0], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FRAME[0], labelcolor=INK[0], length=3)
    return figure, axes


def _colour(line: Line) -> str:
    return INK[0] if line.style < 0 else SERIES[line.style % len(SERIES)][0]


def _marker(line: Line) -> str:
    return "*" if line.style < 0 else MARKERS[line.style % len(MARKERS)]


def _place(sparsity: float) -> float:
    """Returns where a sparsity lies on the axis: the compression ratio's logarithm to base 10."""
    return -log10(max(1 - sparsity, SMALLEST_DENSITY))


def _moved(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(Point(_place(p.at), p.accuracy, p.low, p.high) for p in points)


def _draw_line(axes: Axes, line: Line) -> None:
    points = _moved(line.points)
    _draw_points(axes, points, _colour(line), _marker(line), skip_first=int(line.parent))
    if line.style < 0:
        axes.axhline(
            100 * points[0].accuracy, color=INK[0], linewidth=0.9, linestyle=(0, (1, 2.5)), zorder=1
        )


def _draw_points(
    axes: Axes, points: Sequence[Point], colour: str, marker: str, *, skip_first: int = 0
) -> None:
    """Draws a line with its Wilson band; markers only where there is a row of its own."""
    if not points:
        return
    at = [point.at for point in points]
    shares = [100 * point.accuracy for point in points]
    lows, highs = [100 * p.low for p in points], [100 * p.high for p in points]
    if len(points) > 1:
        axes.fill_between(at, lows, highs, color=colour, alpha=0.13, linewidth=0, zorder=2)
    else:
        axes.plot([at[0], at[0]], [lows[0], highs[0]], color=colour, linewidth=1.2, zorder=2)
    axes.plot(at, shares, color=colour, linewidth=1.7, zorder=3)
    axes.plot(
        at[skip_first:],
        shares[skip_first:],
        color=colour,
        linestyle="none",
        marker=marker,
        markersize=8 if marker == "*" else 5.5,
        markeredgewidth=0,
        zorder=4,
    )


def _shade_unknown(axes: Axes, curve: SecurityCurve) -> None:
    """Shades between certified and robust accuracy where both were measured."""
    robust = {point.at: point.accuracy for point in curve.robust}
    both = [(p.at, p.accuracy, robust[p.at]) for p in curve.certified if p.at in robust]
    if len(both) > 1:
        at, low, high = zip(*both, strict=True)
        axes.fill_between(
            at,
            [100 * share for share in low],
            [100 * share for share in high],
            color=FRAME[0],
            alpha=0.14,
            linewidth=0,
            zorder=1,
        )


def _percent_axis(axes: Axes, highest: float, title: str) -> None:
    top = min(100.0, max(5.0, 108 * highest))
    axes.set_ylim(0, top)
    axes.set_ylabel(title, color=INK[0])
    # A clear step of 20, 10, 5, 2 or 1 points, whichever gives at least four lines.
    step = next((step for step in (20, 10, 5, 2) if top / step >= 4), 1)
    axes.set_yticks([step * index for index in range(int(top // step) + 1)])


def _sparsity_axis(axes: Axes, lines: Sequence[Line]) -> None:
    farthest = max(_place(point.at) for line in lines for point in line.points)
    ticks = [share for share in TICKS if share <= 0.9 or _place(share) <= farthest + 0.05]
    if farthest > _place(0.99) + 0.3:
        ticks.append(0.999)
    axes.set_xlim(-0.06, max(farthest, _place(0.9)) + 0.06)
    axes.set_xticks([_place(share) for share in ticks])
    axes.set_xticklabels([f"{sparsity_percent(s)}\n{round(1 / (1 - s))}×" for s in ticks])
    axes.set_xlabel("sparsity (%) and compression ratio", color=INK[0])


def _epsilon_axis(axes: Axes, curve: SecurityCurve) -> None:
    last = curve.ticks[-1][1]
    axes.set_xlim(-0.015 * last, 1.02 * last)
    shown: list[tuple[str, float]] = []
    for tick in curve.ticks:
        if not shown or tick[1] - shown[-1][1] >= 0.09 * last:
            shown.append(tick)
    axes.set_xticks([value for _, value in shown])
    axes.set_xticklabels([printed for printed, _ in shown], parse_math=False)
    axes.set_xlabel(f"epsilon ({curve.norm}, pixels in [0, 1])", color=INK[0])


def _name_lines(axes: Axes, lines: Sequence[Line]) -> None:
    _, last = axes.get_xlim()
    ends = []
    for line in lines:
        end = _moved(line.points)[-1]
        # The dotted level of a dense network runs to the edge, so its name belongs there.
        end = end if line.style >= 0 else replace(end, at=last)
        ends.append((_label(line.label), end, _colour(line)))
    _place_names(axes, ends)


def _name_curves(axes: Axes, curve: SecurityCurve) -> None:
    """Names both curves: right of the axes, or below a certified curve that ends before them."""
    last = curve.ticks[-1][1]
    ends = [("robust", curve.robust, ATTACKED[0]), ("certified", curve.certified, PROVEN[0])]
    ends = [(name, points, colour) for name, points, colour in ends if points]
    _place_names(axes, [(name, p[-1], colour) for name, p, colour in ends if p[-1].at == last])
    for name, points, colour in ends:
        if points[-1].at < last:
            axes.annotate(
                name,
                (points[-1].at, 100 * points[-1].accuracy),
                xytext=(-7, -7),
                textcoords="offset points",
                ha="right",
                va="top",
                color=colour,
                fontsize=10.5,
            )


def _place_names(axes: Axes, ends: Sequence[tuple[str, Point, str]]) -> None:
    """Writes each name right of the axes, level with its line's end but never over another name."""
    _, top = axes.get_ylim()
    edge = 0.95 * axes.get_xlim()[1]
    height = axes.get_window_extent().height / axes.figure.dpi
    ordered = sorted(ends, key=lambda end: (end[1].accuracy, end[0]))
    levels = spread([100 * point.accuracy / top for _, point, _ in ordered], gap=0.2 / height)
    for (name, point, colour), level in zip(ordered, levels, strict=True):
        axes.annotate(
            name,
            xy=(point.at, 100 * point.accuracy),
            xycoords="data",
            xytext=(1.045, level),
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=10.5,
            annotation_clip=False,
            parse_math=False,
            # Dotted where it crosses the axes: it must not pass for a stretch of the line itself.
            arrowprops={
                **LEADER,
                # From the name's near edge: from its middle the line would cross the name below.
                "relpos": (0, 0.5),
                "color": colour,
                "linestyle": "-" if point.at >= edge else (0, (1, 5)),
            },
        )


def spread(levels: Sequence[float], gap: float) -> list[float]:
    """Returns ascending levels moved apart to at least `gap`, in [0, 1] where there is room.

    >>> [round(level, 2) for level in spread([0.1, 0.12, 0.9], 0.1)]
    [0.1, 0.2, 0.9]

    Args:
        levels: ascending, in [0, 1].
        gap: smallest distance wanted.
    """
    placed: list[float] = []
    for level in levels:
        placed.append(max(level, placed[-1] + gap) if placed else level)
    ceiling = 1.0
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def _drawing(figure: Figure, words: str) -> Drawing:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # Names in scripts that the measuring font lacks are drawn by the browser's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            stream,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": "robustprune"},
        )
    # The document type names an address; a picture on these pages refers to nothing outside itself.
    light = re.sub(r"<!DOCTYPE[^>]*>\n", "", stream.getvalue().decode())
    light = light.replace("'DejaVu Sans'", FONTS)
    return Drawing(light.encode(), darkened(light).encode(), words)


def darkened(svg: str) -> str:
    """Returns a light picture in the colours for dark pages."""
    pairs = dict((INK, GRID, FRAME, PROVEN, ATTACKED, *SERIES))
    return re.sub(
        r"((?:fill|stroke): )(#[0-9a-f]{6})",
        lambda match: match[1] + pairs.get(match[2], match[2]),
        svg,
    )
