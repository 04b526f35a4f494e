"""How methods compare: two rows example by example, fronts, methods along sparsity and epsilon.

Pure functions from rows of the frame that `leaderboard.rank` returns to frozen values; pages,
figures and the command line print these. "Right" is the best known outcome: what no attack of the
protocol and no accepted challenge broke. `docs/statistics.md` says what each number means.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import numpy as np
import pandas as pd

from benchmark.errors import ContractError, shorten
from benchmark.leaderboard import (
    DENSE,
    KEPT,
    SIGNIFICANCE,
    Row,
    as_number,
    best_known,
    curves,
    has_result,
    rankable,
    sparsity_of,
    stacked,
)
from benchmark.statistics import (
    Estimate,
    difference_interval,
    holm,
    hull,
    mcnemar_exact,
    seeds_interval,
    wilson,
)

# What a network may cost, by column of the frame: less is better.
COSTS = ("bytes_stored", "compact_multiply_adds", "multiply_adds_sparse", "latency_compact")

# Times of two machines say nothing about two networks.
_TIMED = "latency_compact"

_BOARD = ("protocol", "protocol_digest", "data_digest", "tier")
_ORIGIN = (*_BOARD, "architecture", "recipe", "objective")
_LADDER = (*_ORIGIN, "structure", "method")

_UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class HeadToHead:
    """Two rows on the examples that they share.

    Attributes:
        first: checkpoint id.
        second: checkpoint id.
        both: examples that both get right.
        only_first: examples that the first alone gets right.
        only_second: examples that the second alone gets right.
        neither: examples that none of them gets right.
        difference: accuracy of the first minus that of the second, with its 95 % interval.
        p: of the exact McNemar test of "both are right equally often".
        first_wins: positions in the test split of what the first alone gets right, in the order of
            the protocol's list.
        second_wins: the same for the second.
    """

    first: str
    second: str
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: Estimate
    p: float
    first_wins: tuple[int, ...]
    second_wins: tuple[int, ...]

    @property
    def examples(self) -> int:
        """Returns how many examples were compared."""
        return self.both + self.only_first + self.only_second + self.neither

    def mirrored(self) -> "HeadToHead":
        """Returns the same, seen from the second row."""
        ours = self.difference
        return HeadToHead(
            first=self.second,
            second=self.first,
            both=self.both,
            only_first=self.only_second,
            only_second=self.only_first,
            neither=self.neither,
            # Never -0.0, so that a mirror image compares and prints as the original does.
            difference=Estimate(0.0 - ours.value, 0.0 - ours.high, 0.0 - ours.low),
            p=self.p,
            first_wins=self.second_wins,
            second_wins=self.first_wins,
        )


@dataclass(frozen=True)
class Rung:
    """What a method reaches at one sparsity, all its seeds together.

    Attributes:
        sparsity: claimed, in [0, 1].
        measured: mean over the seeds of the sparsity that was counted.
        seeds: in ascending order.
        examples: behind each accuracy.
        clean: accuracy on unmodified inputs, mean over the seeds.
        robust: best known robust accuracy; Wilson's interval for a single seed, else the interval
            over seeds and examples.
        certified: certified accuracy, likewise; NaN where a seed has none.
        gain: over the magnitude control, mean over the seeds that have one. A single one has its
            paired interval, several that from the lowest to the highest end of theirs.
        rows: of the frame, one a seed, in the order of `seeds`.
    """

    sparsity: float
    measured: float
    seeds: tuple[int, ...]
    examples: int
    clean: float
    robust: Estimate
    certified: Estimate
    gain: Estimate
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Ladder:
    """A method along its sparsities: one board, architecture, recipe, objective and structure.

    Attributes:
        protocol: id.
        tier: of the examples.
        architecture: name.
        recipe: of its training.
        objective: of its training.
        structure: of what it removes; that of a dense network is `dense`.
        method: name.
        rungs: ascending in sparsity; rows without a result and unrankable ones are left out.
        dense: the dense network of the same recipe and objective, None where there is none.
        levels: sparsities under `area` and `kept`, the dense network's first; empty where the dense
            network is missing.
        area: mean best known accuracy over the levels; several seeds as for `Rung.gain`.
        kept: largest sparsity that keeps `kept_share` of the dense accuracy; likewise.
        kept_share: that share.
        kept_at_least: whether it is kept up to the last level, for every seed.
        left_out: rows with a result that a flag keeps off the ranking.
    """

    protocol: str
    tier: str
    architecture: str
    recipe: str
    objective: str
    structure: str
    method: str
    rungs: tuple[Rung, ...]
    dense: Rung | None
    levels: tuple[float, ...]
    area: Estimate
    kept: Estimate
    kept_share: float
    kept_at_least: bool
    left_out: tuple[Row, ...]


@dataclass(frozen=True)
class AtEpsilon:
    """An accuracy at an epsilon, with its Wilson interval.

    Attributes:
        printed: the exact epsilon, such as `3/16`.
        epsilon: the same as a float.
        accuracy: share in [0, 1].
    """

    printed: str
    epsilon: float
    accuracy: Estimate


@dataclass(frozen=True)
class SecurityCurve:
    """Accuracies of a row against epsilon: between the two lines lies what nobody knows.

    Attributes:
        checkpoint: id.
        norm: `Linf` or `L2`.
        own: the protocol's epsilon, printed.
        attacked: ascending in epsilon, from clean accuracy at 0; challenges included from the
            protocol's epsilon on. Empty where no epsilon was attacked.
        certified: the same for certified accuracy.
    """

    checkpoint: str
    norm: str
    own: str
    attacked: tuple[AtEpsilon, ...]
    certified: tuple[AtEpsilon, ...]


# --- Two rows -------------------------------------------------------------------------------------


def head_to_head(first: Row, second: Row) -> HeadToHead:
    """Returns how two rows compare, example by example.

    Args:
        first: a finished row of the frame.
        second: another one of the same protocol and tier.

    Raises:
        ContractError: rows of different protocols, a row without outcomes, or rows over different
            examples.
    """
    names = _text(first, "checkpoint_id"), _text(second, "checkpoint_id")
    _check_one_protocol(first, second)
    ours, theirs = stacked((first, second))
    index = np.asarray(first["outcomes"].get("index", np.arange(len(ours))))
    only_first, only_second = ours & ~theirs, theirs & ~ours
    return HeadToHead(
        first=names[0],
        second=names[1],
        both=int(np.count_nonzero(ours & theirs)),
        only_first=int(np.count_nonzero(only_first)),
        only_second=int(np.count_nonzero(only_second)),
        neither=int(np.count_nonzero(~ours & ~theirs)),
        difference=difference_interval(ours, theirs),
        p=mcnemar_exact(ours, theirs),
        first_wins=tuple(index[only_first].tolist()),
        second_wins=tuple(index[only_second].tolist()),
    )


def adjusted(contests: Iterable[HeadToHead]) -> tuple[float, ...]:
    """Returns the p of each contest after Holm's correction for all that are shown together."""
    return holm([contest.p for contest in contests])


def winner(contest: HeadToHead, p: float) -> Literal["first", "second", ""]:
    """Returns which row is better, or nothing where the test cannot tell them apart.

    Args:
        contest: of two rows.
        p: its own, or that of `adjusted`.
    """
    if p > SIGNIFICANCE:
        return ""
    return "first" if contest.only_first > contest.only_second else "second"


def pairs(first: Sequence[Row], second: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Returns which rows of two methods meet: those of one sparsity, and of one seed if there are.

    Where the two have no sparsity in common and one of them is a single row, such as a dense
    network, it meets every row of the other.

    Args:
        first: rows of one method, at several sparsities and of several seeds.
        second: rows of another one.

    Returns:
        Pairs in ascending sparsity, then seed.
    """
    met = [(a, b) for a in first for b in second if sparsity_of(a) == sparsity_of(b)]
    if not met and 1 in (len(first), len(second)):
        met = [(a, b) for a in first for b in second]
        return sorted(met, key=lambda pair: (_order(pair[0]), _order(pair[1])))
    found: list[tuple[Row, Row]] = []
    for sparsity in sorted({sparsity_of(a) for a, _ in met}):
        here = [pair for pair in met if sparsity_of(pair[0]) == sparsity]
        own = [(a, b) for a, b in here if as_number(a.get("seed")) == as_number(b.get("seed"))]
        here.sort(key=lambda pair: (_order(pair[0]), _order(pair[1])))
        found += sorted(own, key=lambda pair: _order(pair[0])) or here[:1]
    return found


def _order(row: Row) -> tuple[float, float, str]:
    return sparsity_of(row), as_number(row.get("seed")), _text(row, "checkpoint_id")


def _check_one_protocol(first: Row, second: Row) -> None:
    for column in ("protocol", "protocol_digest", "tier"):
        found = [_text(row, column) for row in (first, second)]
        if found[0] != found[1]:
            ids = [f"'{_text(row, 'checkpoint_id')}'" for row in (first, second)]
            # Of digests the first digits are enough.
            shown = [f"'{name[:8] if column.endswith('digest') else name}'" for name in found]
            raise ContractError(
                f"expected rows of one {column.replace('_', ' ')}, got {shown[0]} of {ids[0]} and "
                f"{shown[1]} of {ids[1]}; compare rows of one protocol and tier"
            )


# --- Fronts ---------------------------------------------------------------------------------------


def pareto(rows: Iterable[Row], cost: str) -> list[Row]:
    """Returns the rows that no other row beats in best known robust accuracy and cost together.

    A row is beaten by one that is at least as accurate and at most as costly, and better in one of
    the two; rows equal in both stay together. This is about the measured shares: whether two rows
    of a front differ is for a paired test to say.

    Args:
        rows: of one protocol and tier. Rows without a result, unrankable ones and those without
            this cost neither stand on the front nor beat another.
        cost: one of `COSTS`; rows with a latency must be of one processor (`by_processor`).

    Returns:
        Rows in ascending cost, equal ones by checkpoint id.

    Raises:
        ContractError: another cost, rows of several boards, or latencies of several processors.
    """
    if cost not in COSTS:
        raise ContractError(f"expected one of {', '.join(COSTS)}, got '{shorten(cost)}'")
    known = [row for row in rows if rankable(row) and math.isfinite(as_number(row.get(cost)))]
    for row in known[1:]:
        _check_one_board(known[0], row)
    if cost == _TIMED and len(by_processor(known)) > 1:
        raise ContractError(
            "expected latencies of one processor, got those of "
            f"{', '.join(sorted(by_processor(known)))}; take one group of `by_processor`"
        )
    known.sort(
        key=lambda row: (as_number(row[cost]), -best_known(row), _text(row, "checkpoint_id"))
    )
    front: list[Row] = []
    for row in known:
        if not front or best_known(row) > best_known(front[-1]) or _equal(row, front[-1], cost):
            front.append(row)
    return front


def by_processor(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Returns the rows whose latency was measured, by the processor that it was taken on."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        name = _text(row, "latency_processor")
        if name and math.isfinite(as_number(row.get(_TIMED))):
            groups.setdefault(name, []).append(row)
    return dict(sorted(groups.items()))


def _equal(row: Row, other: Row, cost: str) -> bool:
    return best_known(row) == best_known(other) and as_number(row[cost]) == as_number(other[cost])


def _check_one_board(first: Row, row: Row) -> None:
    if _values(first, _BOARD) != _values(row, _BOARD):
        raise ContractError(
            f"expected rows of one board, got '{_text(first, 'checkpoint_id')}' under "
            f"{_text(first, 'protocol')} {_text(first, 'tier')} and "
            f"'{_text(row, 'checkpoint_id')}' under {_text(row, 'protocol')} {_text(row, 'tier')}; "
            "choose rows of one protocol and tier, evaluated alike"
        )


# --- Along sparsity -------------------------------------------------------------------------------


def ladders(rows: Iterable[Row]) -> list[Ladder]:
    """Returns the methods along their sparsities, one ladder a method and setting.

    Dense networks are ladders of a single rung at sparsity 0, besides being the reference of those
    with their recipe and objective.

    Args:
        rows: of the ranked frame, any protocols and tiers; rows without a result are left out.

    Returns:
        Ladders by protocol, tier, architecture, recipe, objective, structure and method.

    Raises:
        ContractError: a finished row without outcomes, or rows of a ladder over different examples.
    """
    shown = [row for row in rows if has_result(row)]
    grouped: dict[tuple[str, ...], list[Row]] = {}
    for row in shown:
        grouped.setdefault(_ladder_of(row), []).append(row)
    lines: dict[tuple[str, ...], list[Row]] = {}
    if shown:
        for line in curves(pd.DataFrame(shown)).to_dict("records"):
            lines.setdefault(_values(line, _LADDER), []).append(line)
    dense = {key[: len(_ORIGIN)]: members for key, members in grouped.items() if key[-1] == DENSE}
    return [
        _ladder(key, grouped[key], dense.get(key[: len(_ORIGIN)], []), lines.get(key, []))
        for key in sorted(grouped)
    ]


def _ladder_of(row: Row) -> tuple[str, ...]:
    key = _values(row, _LADDER)
    # Nothing is removed from a dense network, whatever structure it is filed under.
    return (*key[:-2], DENSE, DENSE) if key[-1] == DENSE else key


def _ladder(
    key: tuple[str, ...], rows: Sequence[Row], dense: Sequence[Row], lines: Sequence[Row]
) -> Ladder:
    named = dict(zip(_LADDER, key, strict=True))
    rungs, reference = _rungs(rows), _rungs(dense)
    area, kept = _together(lines, "area"), _together(lines, "kept")
    levels = _most_levels(lines)
    return Ladder(
        **{name: value for name, value in named.items() if not name.endswith("_digest")},
        rungs=rungs,
        dense=reference[0] if reference else None,
        levels=levels,
        area=area,
        kept=kept,
        kept_share=KEPT,
        kept_at_least=bool(levels) and kept.low == kept.value == levels[-1],
        left_out=tuple(sorted((row for row in rows if not rankable(row)), key=_order)),
    )


def _rungs(rows: Sequence[Row]) -> tuple[Rung, ...]:
    counted = sorted((row for row in rows if rankable(row)), key=_order)
    sparsities = sorted({sparsity_of(row) for row in counted})
    return tuple(_rung(s, [row for row in counted if sparsity_of(row) == s]) for s in sparsities)


def _rung(sparsity: float, rows: Sequence[Row]) -> Rung:
    measured = fmean(as_number(row.get("measured_sparsity")) for row in rows)
    return Rung(
        sparsity=sparsity,
        measured=measured if math.isfinite(measured) else sparsity,
        seeds=tuple(int(row["seed"]) for row in rows),
        examples=int(rows[0]["examples"]),
        clean=fmean(as_number(row.get("clean_accuracy")) for row in rows),
        robust=_over_seeds(rows, "best_known"),
        certified=_over_seeds(rows, "certified"),
        gain=hull([_estimate(row, "gain", "gain_low", "gain_high") for row in rows]),
        rows=tuple(rows),
    )


def _over_seeds(rows: Sequence[Row], outcome: str) -> Estimate:
    """Returns an accuracy of one setting, over its seeds; NaN where one lacks it."""
    if outcome == "certified" and not all(_has_certificates(row) for row in rows):
        return _UNKNOWN
    found = seeds_interval(stacked(rows, outcome))
    return Estimate(found.mean, found.low, found.high)


def _has_certificates(row: Row) -> bool:
    outcomes = row.get("outcomes")
    counted = isinstance(outcomes, Mapping) and "certified" in outcomes
    return counted and math.isfinite(as_number(row.get("certified_accuracy")))


def _most_levels(lines: Sequence[Row]) -> tuple[float, ...]:
    """Returns the levels of the seed that has most of them, of those with a dense network."""
    found = [tuple(line["levels"]) for line in lines if math.isfinite(as_number(line["area"]))]
    return max(found, key=lambda levels: (len(levels), levels), default=())


def _together(lines: Sequence[Row], what: Literal["area", "kept"]) -> Estimate:
    """Returns what the curves of several seeds come to; those over other levels do not count."""
    levels = _most_levels(lines)
    columns = {
        "area": ("area", "area_low", "area_high"),
        "kept": ("kept_sparsity", "kept_low", "kept_high"),
    }[what]
    return hull([_estimate(line, *columns) for line in lines if tuple(line["levels"]) == levels])


def _estimate(row: Row, value: str, low: str, high: str) -> Estimate:
    return Estimate(*(as_number(row.get(column)) for column in (value, low, high)))


# --- Along epsilon --------------------------------------------------------------------------------


def security_curves(rows: Iterable[Row]) -> list[SecurityCurve]:
    """Returns accuracy against epsilon, attacked and certified, of each row that has some.

    Args:
        rows: of the frame; rows without a result, or with fewer than two epsilons, 0 included, are
            left out.
    """
    found = (_security(row) for row in rows if has_result(row))
    return [curve for curve in found if max(len(curve.attacked), len(curve.certified)) > 1]


def _security(row: Row) -> SecurityCurve:
    norm, _, own = _text(row, "threat").partition(" ")
    attacked = _measured(row, "curve", "robust_accuracy")
    certified = _measured(row, "certified_curve", "certified_accuracy")
    return SecurityCurve(
        checkpoint=_text(row, "checkpoint_id"),
        norm=norm,
        own=own,
        attacked=_challenged(attacked, row, own),
        certified=certified,
    )


def _measured(row: Row, column: str, accuracy: str) -> tuple[AtEpsilon, ...]:
    """Returns the points of a curve of the frame; at 0 all curves start from clean accuracy."""
    entries, examples = row.get(column), int(row["examples"])
    filled = entries if isinstance(entries, list | tuple) else []
    listed = [entry for entry in filled if isinstance(entry, Mapping)]
    points = {0.0: ("0", as_number(row.get("clean_accuracy")))} if listed else {}
    for entry in listed:
        value = as_number(entry.get("value"))
        points[value] = (shorten(str(entry.get("epsilon")), 20), as_number(entry.get(accuracy)))
    return tuple(
        AtEpsilon(printed, value, _banded(share, examples))
        for value, (printed, share) in sorted(points.items())
        if math.isfinite(value) and math.isfinite(share)
    )


def _challenged(points: tuple[AtEpsilon, ...], row: Row, own: str) -> tuple[AtEpsilon, ...]:
    """Returns attacked points, lowered to what challenges left from the protocol's epsilon on.

    A challenge's inputs lie within that epsilon, and so within every larger one.
    """
    start = next((point.epsilon for point in points if point.printed == own), math.inf)
    left, examples = best_known(row), int(row["examples"])
    return tuple(
        replace(point, accuracy=_banded(left, examples))
        if point.epsilon >= start and left < point.accuracy.value
        else point
        for point in points
    )


def _banded(share: float, examples: int) -> Estimate:
    low, high = wilson(min(examples, max(0, round(share * examples))), examples)
    return Estimate(share, min(low, share), max(high, share))


# --- Cells of the frame ---------------------------------------------------------------------------


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    return "" if value is None else shorten(str(value), 300)


def _values(row: Row, columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in columns)
