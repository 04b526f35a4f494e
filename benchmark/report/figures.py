"""Charts as SVG: those of a board as files for light and for dark pages, a row's curve in its page.

Written as text, since a page for each of thousands of checkpoints has a curve. Colours carry a
role; the dark picture is the light one with the role's other colour.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from math import ceil, cos, floor, log10, pi, sin

from benchmark.report.curves import GAIN, Chart, Line, Point, Scatter, SecurityCurve
from benchmark.report.wording import scaled, sparsity_percent, text

# In points; the browser scales the picture to its column.
WIDTH = 418.0
LEFT, TOP = 48.0, 22.0

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


def _corners(*angles: float, inner: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Returns corners at angles in degrees, counted clockwise from the top, every other inside."""
    turns = [(pi * angle / 180, inner if place % 2 else 1.0) for place, angle in enumerate(angles)]
    return tuple((radius * sin(turn), -radius * cos(turn)) for turn, radius in turns)


_PLUS = (
    *((-0.33, -1.0), (0.33, -1.0), (0.33, -0.33), (1.0, -0.33), (1.0, 0.33), (0.33, 0.33)),
    *((0.33, 1.0), (-0.33, 1.0), (-0.33, 0.33), (-1.0, 0.33), (-1.0, -0.33), (-0.33, -0.33)),
)
_STAR = _corners(*range(0, 360, 36), inner=0.4)
# Corners in a circle of radius 1; the first marker is the circle itself.
MARKERS = (
    (),
    _corners(45, 135, 225, 315),
    _corners(0, 120, 240),
    _corners(0, 90, 180, 270),
    _corners(60, 180, 300),
    _PLUS,
    tuple((0.7 * (x - y), 0.7 * (x + y)) for x, y in _PLUS),
    _corners(*range(0, 360, 60)),
    _corners(30, 150, 270),
    _corners(90, 210, 330),
    _corners(*range(0, 360, 72)),
)

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


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


class _Plot:
    """A pair of axes in points, and what is drawn on them, in drawing order."""

    def __init__(
        self,
        height: float,
        right: float,
        bottom: float,
        across: tuple[float, float],
        top: float,
        lowest: float = 0.0,
    ) -> None:
        """Starts an empty picture.

        Args:
            height: of the picture.
            right: margin for the names of lines.
            bottom: margin for ticks and the axis' name.
            across: ends of the horizontal axis.
            top: upper end of the vertical axis.
            lowest: lower end of it, 0 or less.
        """
        self.height = height
        self.end, self.base = WIDTH - right, height - bottom
        self._across, self._top, self._lowest = across, top, lowest
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        """Returns where a value lies across."""
        low, high = self._across
        return LEFT + (self.end - LEFT) * (value - low) / (high - low)

    def y(self, percent: float) -> float:
        """Returns where a percentage lies down."""
        return self.base - (self.base - TOP) * self._height(percent)

    def _height(self, percent: float) -> float:
        """Returns where a percentage lies between both ends of the axis, in [0, 1]."""
        return (percent - self._lowest) / (self._top - self._lowest)

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, width: float, dashes: str = ""
    ) -> None:
        """Draws a line through points of the picture."""
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(
            f'<polyline points="{_joined(points)}" fill="none" stroke="{colour}" '
            f'stroke-width="{width:g}"{dashed}/>'
        )

    def area(self, points: Sequence[tuple[float, float]], colour: str, opacity: float) -> None:
        """Fills the area inside points of the picture."""
        self.parts.append(
            f'<polygon points="{_joined(points)}" fill="{colour}" fill-opacity="{opacity:g}"/>'
        )

    def mark(self, x: float, y: float, colour: str, marker: int, size: float = 2.9) -> None:
        """Draws a marker, the star for -1."""
        corners = _STAR if marker < 0 else MARKERS[marker % len(MARKERS)]
        if corners:
            radius = size * (1.5 if marker < 0 else 1.2)
            at = [(x + radius * across, y + radius * down) for across, down in corners]
            self.parts.append(f'<polygon points="{_joined(at)}" fill="{colour}"/>')
        else:
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" fill="{colour}"/>')

    def words(
        self, words: str, x: float, y: float, colour: str, anchor: str = "middle", turn: str = ""
    ) -> None:
        """Writes a line of text with its baseline at a point."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{turn}>'
            f"{escape(words)}</text>"
        )

    def axes(
        self,
        across: Sequence[tuple[float, str, str]],
        titles: tuple[str, str],
    ) -> None:
        """Draws the grid with its ticks, two lines of text each, and names both axes."""
        # A clear step of 20, 10, 5, 2 or 1 points, whichever gives at least four lines.
        whole = self._top - self._lowest
        step = next((step for step in (20, 10, 5, 2) if whole / step >= 4), 1)
        for percent in range(step * ceil(self._lowest / step), int(self._top) + 1, step):
            self.line(((LEFT, self.y(percent)), (self.end, self.y(percent))), GRID[0], 0.8)
            self.words(str(percent).replace("-", "−"), LEFT - 6, self.y(percent) + 4, INK[0], "end")
        for value, printed, below in across:
            self.line(((self.x(value), TOP), (self.x(value), self.base)), GRID[0], 0.8)
            self.words(printed, self.x(value), self.base + 15, INK[0])
            if below:
                self.words(below, self.x(value), self.base + 28, INK[0])
        self.line(((LEFT, TOP), (LEFT, self.base), (self.end, self.base)), FRAME[0], 0.8)
        middle, centre = (TOP + self.base) / 2, (LEFT + self.end) / 2
        self.words(titles[0], centre, self.height - 6, INK[0])
        turn = f' transform="rotate(-90 13 {middle:.1f})"'
        self.words(titles[1], 13, middle, INK[0], turn=turn)

    def curve(
        self, points: Sequence[Point], colour: str, marker: int, *, skip_first: int = 0
    ) -> None:
        """Draws a line with its Wilson band; markers only where there is a row of its own."""
        if not points:
            return
        at = [(self.x(point.at), self.y(100 * point.accuracy)) for point in points]
        lows = [(self.x(point.at), self.y(100 * point.low)) for point in points]
        highs = [(self.x(point.at), self.y(100 * point.high)) for point in points]
        if len(points) > 1:
            self.area([*lows, *reversed(highs)], colour, 0.13)
            self.line(at, colour, 1.7)
        else:
            self.line((lows[0], highs[0]), colour, 1.2)
        for x, y in at[skip_first:]:
            self.mark(x, y, colour, marker)

    def names(self, ends: Sequence[tuple[str, Point, str]]) -> None:
        """Writes each name right of the axes, level with its line's end but never over another."""
        ordered = sorted(ends, key=lambda end: (end[1].accuracy, end[0]))
        room = self.base - TOP
        wanted = [self._height(100 * point.accuracy) for _, point, _ in ordered]
        levels = spread(wanted, gap=14.5 / room)
        for (name, point, colour), level in zip(ordered, levels, strict=True):
            y = self.base - room * level
            start = (self.x(point.at) + 4, self.y(100 * point.accuracy))
            # Dotted where it crosses the axes: it must not pass for a stretch of the line itself.
            near = start[0] > self.end - 0.05 * (self.end - LEFT)
            self.line((start, (self.end + 12, y)), colour, 0.6, "" if near else "0.7 3.5")
            self.words(name, self.end + 14, y + 3.6, colour, "start")

    def svg(self, attributes: str) -> str:
        """Returns the picture; what is drawn outside the axes is a name or nothing."""
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {self.height:g}" '
            f"{attributes}>\n{body}\n</svg>\n"
        )


def draw_chart(chart: Chart) -> Drawing:
    """Returns an accuracy against sparsity, a line a method, named at the line's end."""
    top = max(point.high for line in chart.lines for point in line.points)
    low = min(point.low for line in chart.lines for point in line.points)
    gain = chart.measure == GAIN
    farthest = max(_place(point.at) for line in chart.lines for point in line.points)
    last = max(farthest, _place(0.9)) + 0.06
    plot = _Plot(
        max(252.0, 79 + 15.1 * len(chart.lines)),
        _label_width(chart.lines),
        52.0,
        (-0.06, last),
        _highest(top),
        min(-5.0, 108 * low) if gain else 0.0,
    )
    ticks = [share for share in TICKS if share <= 0.9 or _place(share) <= farthest + 0.05]
    if farthest > _place(0.99) + 0.3:
        ticks.append(0.999)
    across = [(_place(s), sparsity_percent(s), f"{round(1 / (1 - s))}×") for s in ticks]
    plot.axes(
        across,
        ("sparsity (%) and compression ratio", f"{chart.measure} ({'points' if gain else '%'})"),
    )
    if gain:
        plot.line(((LEFT, plot.y(0)), (plot.end, plot.y(0))), INK[0], 0.9)
    ends = []
    for line in chart.lines:
        points = [replace(point, at=_place(point.at)) for point in line.points]
        if line.style < 0:
            level = plot.y(100 * points[0].accuracy)
            plot.line(((LEFT, level), (plot.end, level)), INK[0], 0.9, "1 2.5")
        plot.curve(points, _colour(line), line.style, skip_first=int(line.parent))
        # The dotted level of a dense network runs to the edge, so its name belongs there.
        end = points[-1] if line.style >= 0 else replace(points[-1], at=last)
        ends.append((_label(line.label), end, _colour(line)))
    plot.names(ends)
    size = f'width="{WIDTH:g}" height="{plot.height:g}"'
    light = plot.svg(f'{size} font-family="{FONTS}" font-size="11"')
    return Drawing(light.encode(), darkened(light).encode(), chart.words())


def draw_scatter(scatter: Scatter) -> Drawing:
    """Returns robust accuracy against cost, what nothing beats joined and named."""
    costs = [log10(spot.cost) for spot in scatter.spots]
    low, high = min(costs), max(costs)
    margin = max(0.06 * (high - low), 0.02)
    top = _highest(max(spot.accuracy for spot in scatter.spots))
    plot = _Plot(300.0, 20.0, 42.0, (low - margin, high + margin), top)
    plot.axes(_decades(low, high), (scatter.cost, "robust accuracy (%)"))
    front = sorted((s for s in scatter.spots if s.front), key=lambda spot: spot.cost)
    plot.line([(plot.x(log10(s.cost)), plot.y(100 * s.accuracy)) for s in front], PROVEN[0], 1.2)
    for spot in sorted(scatter.spots, key=lambda spot: spot.front):
        colour = PROVEN[0] if spot.front else FRAME[0]
        x, y = plot.x(log10(spot.cost)), plot.y(100 * spot.accuracy)
        plot.mark(x, y, colour, 0, 3.4 if spot.front else 2.2)
    size = f'width="{WIDTH:g}" height="{plot.height:g}"'
    light = plot.svg(f'{size} font-family="{FONTS}" font-size="11"')
    return Drawing(light.encode(), darkened(light).encode(), scatter.words())


def _decades(low: float, high: float) -> list[tuple[float, str, str]]:
    """Returns the ticks of a logarithmic axis: 1, 2 and 5 times the powers of ten on it."""
    found = [
        (log10(factor) + power, scaled(factor * 10.0**power), "")
        for power in range(floor(low), ceil(high) + 1)
        for factor in ((1, 2, 5) if high - low < 2 else (1,))
    ]
    return [tick for tick in found if low - 0.05 <= tick[0] <= high + 0.05]


def draw_security_curve(curve: SecurityCurve) -> str:
    """Returns robust and certified accuracy against epsilon, the unknown between them shaded.

    SVG for the page itself: the page's style sheet knows its classes, in both themes.
    """
    last = curve.ticks[-1][1]
    points = (*curve.robust, *curve.certified)
    top = _highest(max(point.high for point in points))
    plot = _Plot(238.0, 83.0, 42.0, (-0.015 * last, 1.02 * last), top)
    shown: list[tuple[float, str, str]] = []
    for printed, value in curve.ticks:
        if not shown or value - shown[-1][0] >= 0.09 * last:
            shown.append((value, printed, ""))
    plot.axes(shown, (f"epsilon ({curve.norm}, pixels in [0, 1])", "accuracy (%)"))
    _shade_unknown(plot, curve)
    # A curve is drawn with the two roles that the interval bars have, not as two methods.
    plot.curve(curve.robust, ATTACKED[0], 0)
    plot.curve(curve.certified, PROVEN[0], 1)
    printed, value = curve.epsilon
    if value > 0:
        plot.line(((plot.x(value), TOP), (plot.x(value), plot.base)), FRAME[0], 1, "4 3")
        plot.words(f"protocol: {printed}", plot.x(value), TOP - 5, INK[0])
    _name_curves(plot, curve)
    drawn = plot.svg(f'class="plot" role="img" aria-label="{escape(curve.words())}"')
    return re.sub(
        r'(fill|stroke)="(#[0-9a-f]{6})"', lambda m: f'class="{m[1]}-{_ROLES[m[2]]}"', drawn
    )


# What the style sheet calls the colours of a curve.
_ROLES = {
    INK[0]: "ink",
    GRID[0]: "grid",
    FRAME[0]: "frame",
    PROVEN[0]: "proven",
    ATTACKED[0]: "attacked",
}


def _name_curves(plot: _Plot, curve: SecurityCurve) -> None:
    """Names both curves: right of the axes, or below a certified curve that ends before them."""
    last = curve.ticks[-1][1]
    ends = [("robust", curve.robust, ATTACKED[0]), ("certified", curve.certified, PROVEN[0])]
    ends = [(name, points, colour) for name, points, colour in ends if points]
    plot.names([(name, p[-1], colour) for name, p, colour in ends if p[-1].at == last])
    for name, points, colour in ends:
        if points[-1].at < last:
            x, y = plot.x(points[-1].at), plot.y(100 * points[-1].accuracy)
            # Above it where there is no room below.
            plot.words(name, x - 7, y + 15 if y + 18 < plot.base else y - 7, colour, "end")


def _shade_unknown(plot: _Plot, curve: SecurityCurve) -> None:
    """Shades between certified and robust accuracy where both were measured."""
    robust = {point.at: point.accuracy for point in curve.robust}
    both = [(p.at, p.accuracy, robust[p.at]) for p in curve.certified if p.at in robust]
    if len(both) > 1:
        lows = [(plot.x(at), plot.y(100 * low)) for at, low, _ in both]
        highs = [(plot.x(at), plot.y(100 * high)) for at, _, high in both]
        plot.area([*lows, *reversed(highs)], FRAME[0], 0.14)


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _highest(share: float) -> float:
    """Returns the upper end of an axis in percent that has room for a share."""
    return min(100.0, max(5.0, 108 * share))


def _label_width(lines: Sequence[Line]) -> float:
    longest = max(len(_label(line.label)) for line in lines)
    return 32.0 + 6.3 * longest


def _label(label: str) -> str:
    return text(label, 26)


def _colour(line: Line) -> str:
    return INK[0] if line.style < 0 else SERIES[line.style % len(SERIES)][0]


def _place(sparsity: float) -> float:
    """Returns where a sparsity lies on the axis: the compression ratio's logarithm to base 10."""
    return -log10(max(1 - sparsity, SMALLEST_DENSITY))


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


def darkened(svg: str) -> str:
    """Returns a light picture in the colours for dark pages."""
    pairs = dict((INK, GRID, FRAME, PROVEN, ATTACKED, *SERIES))
    return re.sub(
        r'((?:fill|stroke)=")(#[0-9a-f]{6})',
        lambda match: match[1] + pairs.get(match[2], match[2]),
        svg,
    )
