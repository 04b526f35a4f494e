"""From ranked rows to the lines of a chart: values only, nothing is drawn here."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmark.leaderboard import DENSE
from benchmark.report.shares import Row, attacked_curve, own_epsilon, upper_end
from benchmark.report.wording import (
    MISSING,
    entries,
    items,
    number,
    percent,
    points,
    sparsity_percent,
    text,
)
from benchmark.statistics import wilson

Key = tuple[str, str, str]


def _certified(row: Row) -> float:
    return number(row.get("certified_accuracy"))


# What charts draw: a name for axis and text → the accuracy of a row, NaN where it has none.
MEASURES: dict[str, Callable[[Row], float]] = {
    "robust accuracy": upper_end,
    "certified accuracy": _certified,
}


# The measure of a chart that is no accuracy: differences of accuracies, which may be negative.
GAIN = "gain over magnitude"


@dataclass(frozen=True)
class Point:
    """An accuracy at a sparsity (or epsilon), with its Wilson interval; all shares in [0, 1]."""

    at: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A method's points from sparse to sparser.

    Attributes:
        label: what the legend says.
        style: index of colour and marker, the same in every chart of a board; -1 for dense
            networks.
        points: in ascending sparsity; the first may be the dense parent.
        parent: whether the first point is the dense parent, not a row of this method.
    """

    label: str
    style: int
    points: tuple[Point, ...]
    parent: bool = False


@dataclass(frozen=True)
class Chart:
    """An accuracy against sparsity, for one architecture and structure.

    Attributes:
        measure: "robust accuracy", "certified accuracy" or `GAIN`.
        group: architecture and structure, for the heading.
        threat: printed threat model.
        examples: examples behind each accuracy.
        lines: at least one.
    """

    measure: str
    group: str
    threat: str
    examples: int
    lines: tuple[Line, ...]

    def words(self) -> str:
        """Returns the chart's content as text, for readers who do not see it."""
        parts = [
            f"{line.label}: "
            + ", ".join(
                f"{self._printed(point.accuracy)} at {sparsity_percent(point.at)} %"
                for point in line.points[int(line.parent) :]
            )
            for line in self.lines
        ]
        head = f"{self.measure.capitalize()} under {self.threat} against sparsity, {self.group}."
        return f"{head} {'; '.join(parts)}."

    def _printed(self, value: float) -> str:
        return f"{points(value)} points" if self.measure == GAIN else f"{percent(value)} %"


@dataclass(frozen=True)
class Spot:
    """A checkpoint: its cost, its robust accuracy as a share, and whether nothing beats it."""

    cost: float
    accuracy: float
    front: bool
    name: str


@dataclass(frozen=True)
class Scatter:
    """Robust accuracy against cost, a spot a checkpoint.

    Attributes:
        cost: what it is, with its unit.
        threat: printed threat model.
        examples: examples behind each accuracy.
        spots: at least one.
    """

    cost: str
    threat: str
    examples: int
    spots: tuple[Spot, ...]

    def words(self) -> str:
        """Returns the front as text, for readers who do not see it."""
        front = sorted((spot for spot in self.spots if spot.front), key=lambda spot: spot.cost)
        listed = "; ".join(f"{spot.name}: {percent(spot.accuracy)} %" for spot in front)
        head = f"Robust accuracy under {self.threat} against {self.cost}, cheapest first."
        return f"{head} Beaten by none of {len(self.spots)} checkpoints: {listed}."


@dataclass(frozen=True)
class SecurityCurve:
    """Accuracies of one checkpoint against epsilon: between the two lines lies what nobody knows.

    Attributes:
        norm: `Linf` or `L2`.
        epsilon: the protocol's, as (printed, value).
        robust: points in ascending epsilon, from clean accuracy at 0.
        certified: the same for certified accuracy; may be empty.
        ticks: (printed, value) of the epsilons.
        examples: examples behind each accuracy.
    """

    norm: str
    epsilon: tuple[str, float]
    robust: tuple[Point, ...]
    certified: tuple[Point, ...]
    ticks: tuple[tuple[str, float], ...]
    examples: int

    def words(self) -> str:
        """Returns the curve's content as text, for readers who do not see it."""
        names = {value: printed for printed, value in self.ticks}
        parts = [
            f"{title}: " + ", ".join(f"{percent(p.accuracy)} % at {names[p.at]}" for p in points)
            for title, points in (
                ("Robust accuracy", self.robust),
                ("Certified accuracy", self.certified),
            )
            if points
        ]
        return f"Accuracy against epsilon ({self.norm}). {'; '.join(parts)}."


@dataclass(frozen=True)
class Summary:
    """What a method's accuracies along all its sparsities come to, in words.

    Attributes:
        method: its name.
        network: architecture and structure.
        training: objective and recipe, and the seed.
        levels: its sparsities in percent.
        area: mean accuracy over them in percent, with its interval.
        kept: largest sparsity that keeps the share of the dense accuracy, with its interval.
        share: that share, in percent.
    """

    method: str
    network: str
    training: str
    levels: str
    area: str
    kept: str
    share: str


def point(at: float, accuracy: float, examples: int) -> Point:
    """Returns a point with the 95 % Wilson interval of its accuracy.

    Args:
        at: sparsity or epsilon.
        accuracy: share in [0, 1].
        examples: how many it was counted on, at least 1.
    """
    low, high = wilson(min(examples, max(0, round(accuracy * examples))), examples)
    return Point(at, accuracy, min(low, accuracy), max(high, accuracy))


def charts(rows: Sequence[Row], measure: str) -> list[Chart]:
    """Returns one chart for each architecture and structure with pruned rows.

    Args:
        rows: ranked rows with a result, of one protocol and tier.
        measure: which of `MEASURES` to draw; rows that lack it are left out.
    """
    of = MEASURES[measure]
    drawn = [row for row in rows if math.isfinite(of(row))]
    styles = {
        key: index
        for index, key in enumerate(sorted({_key(row) for row in drawn if not _dense(row)}))
    }
    names = labels({_key(row) for row in drawn})
    found = []
    for architecture, structure in _groups(drawn):
        members = [row for row in drawn if row["architecture"] == architecture]
        members = [row for row in members if _dense(row) or row["structure"] == structure]
        group = f"{text(architecture)}, {text(structure)}"
        examples = max(int(row["examples"]) for row in members)
        lines = _lines(members, of, styles, names)
        found.append(Chart(measure, group, text(members[0]["threat"]), examples, lines))
    return found


def summaries(lines: Iterable[Row]) -> tuple[Summary, ...]:
    """Returns the lines of `leaderboard.curves` in words, those without a dense network left out.

    Args:
        lines: of one protocol and tier.
    """
    return tuple(_summary(line) for line in lines if math.isfinite(number(line.get("area"))))


def _summary(line: Row) -> Summary:
    names = {name: text(line.get(name), 40) for name in ("objective", "recipe", "seed")}
    levels = [number(level) for level in items(line.get("levels"))]
    area, *area_ends = (number(line.get(name)) for name in ("area", "area_low", "area_high"))
    kept, *kept_ends = (number(line.get(f"kept_{name}")) for name in ("sparsity", "low", "high"))
    return Summary(
        method=text(line.get("method"), 40),
        network=f"{text(line.get('architecture'), 40)}, {text(line.get('structure'), 40)}",
        training=f"{names['objective']}, {names['recipe']}, seed {names['seed']}",
        levels=", ".join(sparsity_percent(level) for level in levels),
        area=_ranged(percent(area), [percent(end) for end in area_ends]),
        kept=_ranged(reached(kept, levels), [reached(end, levels) for end in kept_ends]),
        share=sparsity_percent(number(line.get("kept_share"))),
    )


def reached(sparsity: float, levels: Sequence[float]) -> str:
    """Returns a sparsity in percent; past the last one measured nothing is known."""
    open_ended = bool(levels) and sparsity == levels[-1]
    return f"≥ {percent(sparsity)}" if open_ended else percent(sparsity)


def _ranged(value: str, ends: Sequence[str]) -> str:
    return value if value == MISSING else f"{value} [{', '.join(ends)}]"


def _groups(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Returns the (architecture, structure) pairs; dense rows alone make no curve."""
    return sorted({(row["architecture"], row["structure"]) for row in rows if not _dense(row)})


def _dense(row: Row) -> bool:
    return bool(row["method"] == DENSE)


def _key(row: Row) -> Key:
    return text(row["method"], 40), text(row["objective"], 40), text(row["recipe"], 40)


def labels(keys: Iterable[Key]) -> dict[Key, str]:
    """Returns the shortest label of each key that tells it from all others."""
    known = sorted(keys)
    found = {}
    for key in known:
        options = (key[0], f"{key[0]}, {key[1]}", ", ".join(key))
        depth = 1 + max((_shared(key, other) for other in known if other != key), default=0)
        found[key] = options[min(depth, 3) - 1]
    return found


def _shared(key: Key, other: Key) -> int:
    """Returns how many leading parts two keys share."""
    if key[0] != other[0]:
        return 0
    return 1 if key[1] != other[1] else 2


def _lines(
    rows: Sequence[Row],
    of: Callable[[Row], float],
    styles: Mapping[Key, int],
    names: Mapping[Key, str],
) -> tuple[Line, ...]:
    lines = []
    keyed: dict[Key, list[Row]] = {}
    dense: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = _key(row)
        keyed.setdefault(key, []).append(row)
        if _dense(row):
            dense.setdefault(key[1:], []).append(row)
    for key, members in sorted(keyed.items(), key=lambda item: item[0]):
        points = _points(members, of)
        if _dense(members[0]):
            lines.append(Line(names[key], -1, points))
            continue
        parents = _points(dense.get(key[1:], []), of)
        lines.append(Line(names[key], styles[key], (*parents[:1], *points), bool(parents)))
    return tuple(lines)


def _points(rows: Sequence[Row], of: Callable[[Row], float]) -> tuple[Point, ...]:
    """Returns one point for each claimed sparsity: the mean over seeds, at the sparsity measured.

    Seeds share their examples, so averaging them does not narrow the interval, which is about the
    examples.
    """
    points = []
    for claimed in sorted({number(row["sparsity"]) for row in rows}):
        seeds = [row for row in rows if number(row["sparsity"]) == claimed]
        measured = fmean(number(row["measured_sparsity"]) for row in seeds)
        accuracy = fmean(of(row) for row in seeds)
        examples = min(int(row["examples"]) for row in seeds)
        points.append(point(measured if math.isfinite(measured) else claimed, accuracy, examples))
    return tuple(points)


def security_curve(row: Row) -> SecurityCurve | None:
    """Returns the accuracies of a row against epsilon, or None where fewer than two are known."""
    examples = number(row["examples"])
    norm, epsilon = text(row["threat"]).partition(" ")[0], own_epsilon(row)
    robust = _measured(attacked_curve(row), "robust_accuracy")
    certified = _measured(entries(row.get("certified_curve")), "certified_accuracy")
    clean = number(row["clean_accuracy"])
    for values in (robust, certified):
        if values and math.isfinite(clean):
            values.setdefault(0.0, ("0", clean))
    if not examples >= 1 or max(len(robust), len(certified)) < 2:
        return None
    ticks = {value: printed for value, (printed, _) in {**robust, **certified}.items()}
    own = next((value for value, printed in ticks.items() if printed == epsilon), math.nan)
    return SecurityCurve(
        norm=norm,
        epsilon=(epsilon, own),
        robust=_curve(robust, int(examples)),
        certified=_curve(certified, int(examples)),
        ticks=tuple((printed, value) for value, printed in sorted(ticks.items())),
        examples=int(examples),
    )


def _measured(measured: Iterable[Mapping[str, Any]], column: str) -> dict[float, tuple[str, float]]:
    """Returns epsilon → (its printed form, accuracy) for the entries that have both."""
    found = {}
    for entry in measured:
        value, accuracy = number(entry.get("value")), number(entry.get(column))
        if math.isfinite(value) and math.isfinite(accuracy):
            found[value] = (text(entry.get("epsilon"), 20), accuracy)
    return found


def _curve(values: Mapping[float, tuple[str, float]], examples: int) -> tuple[Point, ...]:
    return tuple(
        point(value, accuracy, examples) for value, (_, accuracy) in sorted(values.items())
    )
