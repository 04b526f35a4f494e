"""The page that compares methods across sparsity: what it shows, and the data its script draws."""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from benchmark.comparison import Ladder, Rung, by_processor, ladders, pareto
from benchmark.leaderboard import DENSE, KEPT, has_result, rankable
from benchmark.report.columns import level
from benchmark.report.curves import (
    GAIN,
    Chart,
    Line,
    Point,
    Scatter,
    Spot,
    labels,
    reached,
    security_curve,
)
from benchmark.report.remarks import ranked
from benchmark.report.shares import (
    Interval,
    Row,
    Share,
    interval,
    upper_end,
)
from benchmark.report.views import checkpoint_path, display_name
from benchmark.report.wording import (
    MISSING,
    milliseconds,
    number,
    percent,
    points,
    scaled,
    slug,
    sparsity_percent,
    text,
)
from benchmark.statistics import Estimate

# Rows of a board whose outcomes its comparison page carries, for tests of any two of them.
MOST_ROWS = 1500

# What a front is drawn against: column of the frame, heading, and how a value reads.
COSTS = (
    ("bytes_stored", "stored size", lambda value: scaled(value, "B")),
    ("multiply_adds_sparse", "multiply-adds without zero weights", scaled),
    ("latency_compact", "latency of the compact network, ms", milliseconds),
)


@dataclass(frozen=True)
class Step:
    """A method at one level of sparsity: its interval and gain; empty where there is no row."""

    interval: Interval | None = None
    gain: str = ""
    href: str = ""
    words: str = ""


@dataclass(frozen=True)
class Method:
    """A method along its sparsities, in words.

    Attributes:
        key: its name in addresses.
        label: its name in legends.
        style: index of its colour, -1 for a dense network.
        training: objective and recipe.
        steps: one a level of its network, in order.
        area: mean robust accuracy over its levels, with the ends of its interval.
        kept: largest sparsity that keeps the share of the dense accuracy, likewise.
    """

    key: str
    label: str
    style: int
    training: str
    steps: tuple[Step, ...]
    area: str
    kept: str


@dataclass(frozen=True)
class Network:
    """All methods of one architecture and structure.

    Attributes:
        key: its name in addresses.
        title: architecture and structure.
        levels: sparsities in percent.
        methods: dense networks first.
        charts: the gain over magnitude, where known; the board has those of accuracies.
    """

    key: str
    title: str
    levels: tuple[str, ...]
    methods: tuple[Method, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class FrontRow:
    """A checkpoint that no other beats in accuracy and cost together."""

    name: str
    detail: str
    href: str
    cost: str
    interval: Interval


@dataclass(frozen=True)
class Front:
    """What accuracy costs, by a column of the frame: what nothing beats, and a picture of all."""

    column: str
    title: str
    rows: tuple[FrontRow, ...]
    scatter: Scatter


@dataclass(frozen=True)
class Comparison:
    """The page of a board.

    Attributes:
        networks: by architecture and structure.
        fronts: by kind of cost.
        data: what the script draws, as JSON that is safe inside a page.
        kept_share: share of dense accuracy behind `Method.kept`, in percent.
        left_out: rows whose outcomes the page does not carry.
    """

    networks: tuple[Network, ...]
    fronts: tuple[Front, ...]
    data: Markup
    kept_share: str
    left_out: int


def networks_of(rows: Iterable[Row]) -> list[str]:
    """Returns the titles of the networks that a comparison may have: there is none without any."""
    found = {
        f"{text(row['architecture'], 40)}, {text(row['structure'], 40)}"
        for row in rows
        if rankable(row) and row["method"] != DENSE
    }
    return sorted(found)


def comparison(rows: Sequence[Row]) -> Comparison:
    """Returns the comparison of a board's rows.

    Args:
        rows: of one protocol and tier, ranked, in the order of the board; at least one of a pruned
            network has a rank (`networks_of`).
    """
    standing = [row for row in rows if has_result(row)]
    found = [ladder for ladder in ladders(standing) if ladder.rungs]
    names = labels({_key(ladder) for ladder in found})
    pruned = sorted({_key(ladder) for ladder in found if ladder.method != DENSE})
    styles = {key: number_ for number_, key in enumerate(pruned)}
    networks = tuple(
        _network(place, members, names, styles) for place, members in _places(found).items()
    )
    fronts = tuple(front for front in _fronts(standing) if len(front.rows) > 1)
    carried = standing[:MOST_ROWS]
    return Comparison(
        networks=networks,
        fronts=fronts,
        data=safe_json(_data(carried, found, names, styles)),
        kept_share=sparsity_percent(KEPT),
        left_out=len(standing) - len(carried),
    )


Key = tuple[str, str, str]


def _key(ladder: Ladder) -> Key:
    return text(ladder.method, 40), text(ladder.objective, 40), text(ladder.recipe, 40)


def _places(found: Iterable[Ladder]) -> dict[tuple[str, str], list[Ladder]]:
    """Returns ladders by (architecture, structure); dense ones stand in each of their network."""
    known = list(found)
    places: dict[tuple[str, str], list[Ladder]] = {}
    for ladder in known:
        if ladder.method != DENSE:
            place = text(ladder.architecture, 40), text(ladder.structure, 40)
            places.setdefault(place, []).append(ladder)
    for (architecture, _), members in places.items():
        wanted = {(one.objective, one.recipe) for one in members}
        members[:0] = [
            one
            for one in known
            if one.method == DENSE
            and text(one.architecture, 40) == architecture
            and (one.objective, one.recipe) in wanted
        ]
    # What most methods share comes first.
    return dict(sorted(places.items(), key=lambda item: (-len(item[1]), item[0])))


def _network(
    place: tuple[str, str],
    members: Sequence[Ladder],
    names: Mapping[Key, str],
    styles: Mapping[Key, int],
) -> Network:
    levels = sorted({rung.sparsity for ladder in members for rung in ladder.rungs})
    methods = tuple(_method(one, levels, names, styles) for one in members)
    return Network(
        key=slug(" ".join(place), 30),
        title=", ".join(place),
        levels=tuple(sparsity_percent(level) for level in levels),
        methods=methods,
        charts=tuple(_charts(", ".join(place), members, names, styles)),
    )


def _method(
    ladder: Ladder, levels: Sequence[float], names: Mapping[Key, str], styles: Mapping[Key, int]
) -> Method:
    key = _key(ladder)
    rungs = {rung.sparsity: rung for rung in ladder.rungs}
    ends = ladder.levels
    return Method(
        key=slug("/".join(key), 40),
        label=names[key],
        style=styles.get(key, -1),
        training=f"{key[1]}, {key[2]}",
        steps=tuple(_step(rungs.get(level)) for level in levels),
        area=_ranged(ladder.area, percent),
        kept=_ranged(ladder.kept, lambda sparsity: reached(sparsity, ends)),
    )


def _step(rung: Rung | None) -> Step:
    if rung is None:
        return Step()
    gain = rung.gain
    known = math.isfinite(gain.value)
    several = f"mean of {len(rung.seeds)} seeds" if len(rung.seeds) > 1 else ""
    return Step(
        interval=_interval_of(rung),
        gain=f"{points(gain.value)} [{points(gain.low)}, {points(gain.high)}]" if known else "",
        href=checkpoint_path(rung.rows[0]),
        words=several,
    )


def _interval_of(rung: Rung) -> Interval:
    """Returns the interval of a rung: that of its row, or of means over several seeds."""
    if len(rung.rows) == 1:
        return interval(rung.rows[0])
    return Interval(Share(rung.certified.value), Share(rung.robust.value), Share(rung.clean))


def _ranged(estimate: Estimate, printed: Any) -> str:
    if not math.isfinite(estimate.value):
        return MISSING
    return f"{printed(estimate.value)} [{printed(estimate.low)}, {printed(estimate.high)}]"


# --- charts ---------------------------------------------------------------------------------------


def _charts(
    group: str, members: Sequence[Ladder], names: Mapping[Key, str], styles: Mapping[Key, int]
) -> Iterable[Chart]:
    """Yields the gain over magnitude; robust and certified accuracy are the board's figures."""
    lines = []
    for ladder in members:
        at = [
            Point(rung.measured, rung.gain.value, rung.gain.low, rung.gain.high)
            for rung in ladder.rungs
            if math.isfinite(rung.gain.value)
        ]
        if at and ladder.method != DENSE:
            lines.append(Line(names[_key(ladder)], styles[_key(ladder)], tuple(at)))
    if lines:
        first = members[0].rungs[0].rows[0]
        examples = max(rung.examples for ladder in members for rung in ladder.rungs)
        yield Chart(GAIN, group, text(first["threat"]), examples, tuple(lines))


def _fronts(rows: Sequence[Row]) -> Iterable[Front]:
    for column, title, printed in COSTS:
        known = [row for row in rows if ranked(row) and number(row.get(column)) > 0]
        if column == "latency_compact":
            # Times of two machines say nothing about two networks: the one with most rows counts.
            groups = by_processor(known)
            known = max(groups.values(), key=len, default=[])
        if not known:
            continue
        front = pareto(known, column)
        chosen = {str(row["checkpoint_id"]) for row in front}
        spots = tuple(
            Spot(
                number(row[column]),
                upper_end(row),
                str(row["checkpoint_id"]) in chosen,
                display_name(row),
            )
            for row in known
        )
        shown = tuple(
            FrontRow(
                display_name(row),
                _detail(row),
                checkpoint_path(row),
                printed(row[column]),
                interval(row),
            )
            for row in front
        )
        examples = max(int(row["examples"]) for row in known)
        yield Front(column, title, shown, Scatter(title, text(known[0]["threat"]), examples, spots))


def _detail(row: Row) -> str:
    """Returns what tells a row from others of its method."""
    level = sparsity_percent(number(row.get("measured_sparsity")))
    return f"{level} %, {text(row.get('objective'), 40)}"


# --- data for the script --------------------------------------------------------------------------


def _data(
    rows: Sequence[Row],
    found: Sequence[Ladder],
    names: Mapping[Key, str],
    styles: Mapping[Key, int],
) -> dict[str, Any]:
    index = rows[0]["outcomes"].get("index", np.arange(int(rows[0]["examples"])))
    return {
        "threat": text(rows[0].get("threat"), 40),
        "examples": int(rows[0]["examples"]),
        "index": np.asarray(index).tolist(),
        "rows": [_row(row) for row in rows],
        "networks": [
            {
                "key": slug(" ".join(place), 30),
                "title": ", ".join(place),
                "lines": [_line(one, names, styles) for one in members],
            }
            for place, members in _places(found).items()
        ],
    }


def _line(ladder: Ladder, names: Mapping[Key, str], styles: Mapping[Key, int]) -> dict[str, Any]:
    key = _key(ladder)
    return {
        "key": slug("/".join(key), 40),
        "label": names[key],
        "style": styles.get(key, -1),
        "origin": _rung_data(ladder.dense) if ladder.dense and ladder.method != DENSE else None,
        "rungs": [_rung_data(rung) for rung in ladder.rungs],
    }


def _rung_data(rung: Rung) -> dict[str, Any]:
    return {
        "at": rung.measured,
        "seeds": len(rung.seeds),
        "clean": _finite(rung.clean),
        "robust": _ends(rung.robust),
        "certified": _ends(rung.certified),
        "gain": _ends(rung.gain),
    }


def _row(row: Row) -> dict[str, Any]:
    outcomes = row["outcomes"]
    curve = security_curve(row)
    names = {value: printed for printed, value in curve.ticks} if curve else {}
    return {
        "id": text(row["checkpoint_id"], 300),
        "name": display_name(row),
        "detail": f"{_detail(row)}, {text(row['structure'], 40)}, {text(row['architecture'], 40)}, "
        f"seed {text(row.get('seed'), 20)}",
        "href": checkpoint_path(row),
        "group": f"{level(row)}, {text(row['structure'], 40)}, {text(row['architecture'], 40)}",
        "dense": row["method"] == DENSE,
        "ends": interval(row).printed,
        "robust": _finite(upper_end(row)),
        "cost": {column: _finite(number(row.get(column))) for column, *_ in COSTS},
        "processor": text(row.get("latency_processor"), 120),
        "ranked": ranked(row),
        "curve": _curve(curve.robust, names) if curve else [],
        "proofs": _curve(curve.certified, names) if curve else [],
        "bits": {"robust": _bits(outcomes.get("best_known", outcomes["robust"]))},
    }


def _curve(points_: Iterable[Point], names: Mapping[float, str]) -> list[tuple[Any, ...]]:
    """Returns (printed epsilon, epsilon, accuracy, low, high) of each point."""
    return [(names[p.at], p.at, p.accuracy, p.low, p.high) for p in points_]


def _bits(outcomes: Any) -> str:
    """Returns (N,) outcomes as base64 of their bits, the first example in the highest."""
    return base64.b64encode(np.packbits(np.asarray(outcomes, dtype=bool)).tobytes()).decode()


def _ends(estimate: Estimate) -> list[float] | None:
    values = [estimate.value, estimate.low, estimate.high]
    return values if all(math.isfinite(value) for value in values) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def safe_json(data: object) -> Markup:
    """Returns data as JSON that ends no script element, whatever it holds."""
    printed = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        printed = printed.replace(character, f"\\u{ord(character):04x}")
    return Markup(printed)  # noqa: S704 (nothing is left that HTML would read)
