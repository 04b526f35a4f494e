"""From ranked rows to the lines of a chart: values only, nothing is drawn here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmark.leaderboard import DENSE
from benchmark.report.wording import entries, number, percent, sparsity_percent, text
from benchmark.statistics import wilson

Row = Mapping[Any, Any]
Key = tuple[str, str, str]


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
        measure: "robust accuracy" or "certified accuracy".
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
                f"{percent(point.accuracy)} % at {sparsity_percent(point.at)} %"
                for point in line.points[int(line.parent) :]
            )
            for line in self.lines
        ]
        head = f"{self.measure.capitalize()} under {self.threat} against sparsity, {self.group}."
        return f"{head} {'; '.join(parts)}."


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


def point(at: float, accuracy: float, examples: int) -> Point:
    """Returns a point with the 95 % Wilson interval of its accuracy.

    Args:
        at: sparsity or epsilon.
        accuracy: share in [0, 1].
        examples: how many it was counted on, at least 1.
    """
    low, high = wilson(min(examples, max(0, round(accuracy * examples))), examples)
    return Point(at, accuracy, min(low, accuracy), max(high, accuracy))


def charts(rows: Sequence[Row], column: str, measure: str) -> list[Chart]:
    """Returns one chart for each architecture and structure with pruned rows.

    Args:
        rows: ranked rows with a result, of one protocol and tier.
        column: the accuracy to draw; rows that lack it are left out.
        measure: its name for axis and text.
    """
    drawn = [row for row in rows if math.isfinite(number(row[column]))]
    styles = {
        key: index
        for index, key in enumerate(sorted({_key(row) for row in drawn if not _dense(row)}))
    }
    labels = _labels({_key(row) for row in drawn})
    found = []
    for architecture, structure in _groups(drawn):
        members = [row for row in drawn if row["architecture"] == architecture]
        members = [row for row in members if _dense(row) or row["structure"] == structure]
        group = f"{text(architecture)}, {text(structure)}"
        examples = max(int(row["examples"]) for row in members)
        lines = _lines(members, column, styles, labels)
        found.append(Chart(measure, group, text(members[0]["threat"]), examples, lines))
    return found


def _groups(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Returns the (architecture, structure) pairs; dense rows alone make no curve."""
    return sorted({(row["architecture"], row["structure"]) for row in rows if not _dense(row)})


def _dense(row: Row) -> bool:
    return bool(row["method"] == DENSE)


def _key(row: Row) -> Key:
    return text(row["method"], 40), text(row["objective"], 40), text(row["recipe"], 40)


def _labels(keys: Iterable[Key]) -> dict[Key, str]:
    """Returns the shortest label of each key that tells it from all others."""
    known = sorted(keys)
    labels = {}
    for key in known:
        options = (key[0], f"{key[0]}, {key[1]}", ", ".join(key))
        depth = 1 + max((_shared(key, other) for other in known if other != key), default=0)
        labels[key] = options[min(depth, 3) - 1]
    return labels


def _shared(key: Key, other: Key) -> int:
    """Returns how many leading parts two keys share."""
    if key[0] != other[0]:
        return 0
    return 1 if key[1] != other[1] else 2


def _lines(
    rows: Sequence[Row], column: str, styles: Mapping[Key, int], labels: Mapping[Key, str]
) -> tuple[Line, ...]:
    lines = []
    for key in sorted({_key(row) for row in rows}):
        members = [row for row in rows if _key(row) == key]
        points = _points(members, column)
        if _dense(members[0]):
            lines.append(Line(labels[key], -1, points))
            continue
        parents = _points([row for row in rows if _dense(row) and _key(row)[1:] == key[1:]], column)
        lines.append(Line(labels[key], styles[key], (*parents[:1], *points), bool(parents)))
    return tuple(lines)


def _points(rows: Sequence[Row], column: str) -> tuple[Point, ...]:
    """Returns one point for each claimed sparsity: the mean over seeds, at the sparsity measured.

    Seeds share their examples, so averaging them does not narrow the interval, which is about the
    examples.
    """
    points = []
    for claimed in sorted({number(row["sparsity"]) for row in rows}):
        seeds = [row for row in rows if number(row["sparsity"]) == claimed]
        measured = fmean(number(row["measured_sparsity"]) for row in seeds)
        accuracy = fmean(number(row[column]) for row in seeds)
        examples = min(int(row["examples"]) for row in seeds)
        points.append(point(measured if math.isfinite(measured) else claimed, accuracy, examples))
    return tuple(points)


def security_curve(row: Row) -> SecurityCurve | None:
    """Returns the accuracies of a row against epsilon, or None where fewer than two are known."""
    examples = number(row["examples"])
    norm, _, epsilon = text(row["threat"]).partition(" ")
    robust = _measured(entries(row.get("curve")), "robust_accuracy")
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
