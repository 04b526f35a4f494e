"""From the frame of records to ranked boards: a board per protocol and tier, a ranking per cell.

A cell holds what may be compared: same protocol and examples, architecture, structure and sparsity.
"Better" is a claim, so it takes a paired test: rows that the test cannot separate from the best of
their cell share its rank. Places rest on the best known outcomes: what the protocol's attacks and
accepted challenges left standing. `docs/statistics.md` says what each number means.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark.digests import seed_from
from benchmark.errors import ContractError, shorten
from benchmark.forks import map_forked
from benchmark.protocols import UNSTRUCTURED
from benchmark.statistics import (
    Bools,
    Estimate,
    SeedsInterval,
    area_under_curve,
    break_even,
    check_paired,
    difference_interval,
    holm,
    mcnemar_exact,
    rank_intervals,
    seeds_interval,
)

Row = Mapping[Any, Any]

# The sparsities of the protocols' grids; a row in between competes at the next lower one.
GRID = tuple(float(level) for level in UNSTRUCTURED)

SIGNIFICANCE = 0.05

DENSE = "dense"
RANDOM = "random"
MAGNITUDE = ("lwm-layerwise", "lwm-global")

# What a method's name begins with in the names of its own two sanity controls.
SANITY = ("reinitialised-", "shuffled-")

# Sparsities above 0 that a method needs, with all controls, on one network, or its rows are narrow.
BROAD = 3

# The share of the dense network's robust accuracy that `curves` asks a pruned one to keep.
KEPT = 0.9

# What the points of a curve share with the dense network that it starts from, and with each other.
_ORIGIN = (
    *("protocol", "protocol_digest", "data_digest", "tier"),
    *("architecture", "recipe", "objective", "seed"),
)
_LINE = (*_ORIGIN, "structure", "method")

# What the points of a line share within a board, what a reader asks first in front.
_POINTS = ("architecture", "structure", "objective", "recipe", "method")

_CURVE_COLUMNS = (
    *(*_LINE, "examples", "levels", "area", "area_low", "area_high"),
    *("kept_share", "kept_sparsity", "kept_low", "kept_high", "kept_at_least"),
)

# The columns that decide about rows; the others travel along.
_DECIDING = (
    *(*_LINE, "checkpoint_id", "examples", "status", "unrankable", "outcomes"),
    *("sparsity", "measured_sparsity"),
    *("robust_accuracy", "best_known_accuracy", "certified_accuracy"),
)

# Pairs of rows to compare for which other processes are worth their start.
_MANY = 50_000

_UNKNOWN = Estimate(math.nan, math.nan, math.nan)
_NO_SEEDS = SeedsInterval(0, math.nan, math.nan, math.nan, math.nan, "")


@dataclass(frozen=True)
class Comparison:
    """How two rows compare on the examples that they share.

    Attributes:
        difference: best known robust accuracy of the first minus that of the second, with its 95 %
            interval.
        p: of the exact McNemar test of "both are right equally often".
    """

    difference: Estimate
    p: float


@dataclass(frozen=True)
class _Place:
    """A row's place in its cell; the defaults are those of a row without one."""

    rank: int | None = None
    low: int | None = None
    high: int | None = None
    tied: bool = False
    p: float = math.nan


@dataclass(frozen=True)
class _Standing:
    """What the comparison with the rest of its cell says of a row; the defaults are no result's."""

    place: _Place = _Place()
    gain: Estimate = _UNKNOWN
    gain_over: str = ""
    seeds: SeedsInterval = _NO_SEEDS


def bucket(sparsity: float) -> float:
    """Returns the highest grid sparsity that `sparsity` reaches, so no row competes above its own.

    >>> bucket(0.9), bucket(0.97), bucket(0.3)
    (0.9, 0.95, 0.0)

    Args:
        sparsity: share in [0, 1]; NaN counts as dense.
    """
    # The slack is that of a float: a claim just below a grid sparsity competes at the next lower.
    reached = [grid for grid in GRID if sparsity >= grid - 1e-9]
    return max(reached, default=0.0)


def rank(frame: pd.DataFrame, processes: int = 1) -> pd.DataFrame:
    """Returns the rows sorted as a leaderboard, with their place in it.

    Added columns: `bucket` (grid sparsity), `cell` (name of what the row is compared with), `rank`
    (Int64, missing for rows without a result and for unrankable ones), `rank_low` and `rank_high`
    (Int64, its 95 % interval by paired bootstrap), `tied_with_best`, `p_best` (Holm-adjusted exact
    McNemar p against the best of the cell, NaN for the best itself), `rivals` (other ranked rows of
    the cell), `missing_controls` (names, comma-separated), `incomplete`, `narrow` (why a method's
    results on its board say little of it in general, empty where they do not), `gain`, `gain_low`
    and `gain_high` (accuracy minus that of the better magnitude control, NaN where there is none
    and for that control itself), `gain_over` (that control's checkpoint id, else empty), `seeds`
    (rankable rows of the same setting), `seed_mean`, `seed_spread`, `seed_low` and `seed_high`.

    Args:
        frame: one row a checkpoint, protocol and tier, as `records.frame` gives it; left unchanged.
        processes: how many compare rows at a time, 0 for one a core; results do not depend on it.

    Raises:
        ContractError: a finished row without per-example robust outcomes, or rows of one cell over
            different examples.
    """
    ranked = frame.reset_index(drop=True)
    rows = _rows(ranked, _DECIDING)
    cells = [_cell(row) for row in rows]
    standings = _standings(rows, cells, processes)
    ranked["bucket"] = pd.Series([bucket(sparsity_of(row)) for row in rows], dtype="float64")
    ranked["cell"] = pd.Series(cells, dtype="str")
    _add_places(ranked, [standing.place for standing in standings])
    missing = _missing_controls(rows, cells)
    ranked["missing_controls"] = pd.Series([", ".join(names) for names in missing], dtype="str")
    ranked["incomplete"] = pd.Series([bool(names) for names in missing], dtype="bool")
    ranked["narrow"] = pd.Series(_narrow(rows, missing), dtype="str")
    _add_gains(ranked, standings)
    _add_seeds(ranked, [standing.seeds for standing in standings])
    return _sorted(ranked)


def _rows(frame: pd.DataFrame, columns: Iterable[str]) -> list[Row]:
    """Returns the rows with those of some columns that are there; pandas' own way takes seconds."""
    there = [column for column in columns if column in frame.columns]
    values = (frame[column].astype(object).tolist() for column in there)
    return [dict(zip(there, each, strict=True)) for each in zip(*values, strict=True)]


def has_result(row: Row) -> bool:
    """Returns whether the row was evaluated to the end and so has accuracies to show."""
    return row["status"] == "done" and math.isfinite(as_number(row["robust_accuracy"]))


def rankable(row: Row) -> bool:
    """Returns whether the row may take a place: it has a result, and no flag stands against it."""
    reason = row.get("unrankable")
    return has_result(row) and not (isinstance(reason, str) and reason)


def compare(first: Row, second: Row) -> Comparison:
    """Returns how two rows compare, example by example.

    Args:
        first: a finished row of the frame.
        second: another one, over the same examples.

    Raises:
        ContractError: a row without outcomes, or rows over different examples.
    """
    ours, theirs = stacked((first, second))
    return Comparison(difference_interval(ours, theirs), mcnemar_exact(ours, theirs))


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns one line a curve of best known robust accuracy against sparsity.

    A curve is what one method reaches in one structure with one recipe, objective and seed; it
    starts at the dense network of that recipe, objective and seed. Columns: those that name it
    (`protocol`, `protocol_digest`, `data_digest`, `tier`, `architecture`, `recipe`, `objective`,
    `seed`, `structure`, `method`), `examples`, `levels` (list of its sparsities), `area`,
    `area_low` and `area_high` (mean accuracy over the range of sparsities), `kept_share` (0.9),
    `kept_sparsity`, `kept_low` and `kept_high` (the largest sparsity that keeps this share of the
    dense accuracy) and `kept_at_least` (whether it is kept up to the last level). Numbers are NaN
    where the dense network or any other level is missing.

    Args:
        frame: as for `rank`; rows without a result and unrankable ones are left out.

    Raises:
        ContractError: a finished row without outcomes, or rows of a curve over different examples.
    """
    rows = sorted((row for row in _rows(frame, _DECIDING) if rankable(row)), key=_key)
    starts = {_values(row, _ORIGIN): row for row in reversed(rows) if row["method"] == DENSE}
    pruned = [row for row in rows if row["method"] != DENSE and sparsity_of(row) > 0]
    lines = _members(_values(row, _LINE) for row in pruned)
    found = [
        _curve([pruned[p] for p in lines[line]], starts.get(line[: len(_ORIGIN)]))
        for line in sorted(lines)
    ]
    return pd.DataFrame(found, columns=pd.Index(_CURVE_COLUMNS))


def as_number(value: object) -> float:
    """Returns a cell of the frame as a float; NaN for whatever is missing or no number."""
    if isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    return math.nan


def sparsity_of(row: Row) -> float:
    """Returns the sparsity that a row claims, or the measured one where it claims none."""
    claimed = as_number(row["sparsity"])
    return claimed if math.isfinite(claimed) else as_number(row.get("measured_sparsity"))


def best_known(row: Row) -> float:
    """Returns the best known robust accuracy; a frame without challenges has the attacked one."""
    known = as_number(row.get("best_known_accuracy"))
    return known if math.isfinite(known) else as_number(row["robust_accuracy"])


def _cell(row: Row) -> str:
    # The digests keep rows apart that were evaluated under another version of the protocol, or on
    # other pixels.
    version = f"{str(row['protocol_digest'])[:8]}-{str(row['data_digest'])[:8]}"
    sparsity = bucket(sparsity_of(row))
    structure = row["structure"] if sparsity > 0 else DENSE
    return (
        f"{row['protocol']}@{version}/{row['tier']}/{row['architecture']}"
        f"/{structure}/{100 * sparsity:g}"
    )


def _members(names: Iterable[Any]) -> dict[Any, list[int]]:
    positions: dict[Any, list[int]] = {}
    for position, name in enumerate(names):
        positions.setdefault(name, []).append(position)
    return positions


def _key(row: Row) -> tuple[float, float, str]:
    """Returns the order inside a cell: more robust, then more certified, then by name."""
    certified = as_number(row.get("certified_accuracy"))
    certified = certified if math.isfinite(certified) else -1.0
    return -best_known(row), -certified, str(row["checkpoint_id"])


def _outcomes(row: Row) -> Mapping[str, Any]:
    outcomes = row.get("outcomes")
    if not isinstance(outcomes, Mapping) or "robust" not in outcomes:
        raise ContractError(
            f"expected per-example robust outcomes of '{shorten(str(row['checkpoint_id']))}', got "
            "none; evaluate it again"
        )
    return outcomes


def stacked(rows: Sequence[Row], outcome: str = "best_known") -> Bools:
    """Returns (M, N) outcomes of rows, over the same examples in the same order.

    Args:
        rows: M finished rows of the frame.
        outcome: which of a row's outcomes; where nobody challenges, the best known are the robust.

    Raises:
        ContractError: a row without outcomes, or rows over different examples.
    """
    found = [_outcomes(row) for row in rows]
    for row, outcomes in zip(rows, found, strict=True):
        _check_same_examples(rows[0], found[0], row, outcomes)
    spare = "robust" if outcome == "best_known" else outcome
    return np.stack([np.asarray(o.get(outcome, o.get(spare))) for o in found])


def _check_same_examples(
    first: Row, first_outcomes: Mapping[str, Any], row: Row, outcomes: Mapping[str, Any]
) -> None:
    lengths = len(first_outcomes["robust"]), len(outcomes["robust"])
    digests = str(first.get("data_digest")), str(row.get("data_digest"))
    if digests[0] != digests[1] or lengths[0] != lengths[1]:
        names = [f"'{shorten(str(r['checkpoint_id']))}'" for r in (first, row)]
        raise ContractError(
            f"expected outcomes on the same examples, got {names[0]} over {lengths[0]} of "
            f"{digests[0][:8]} and {names[1]} over {lengths[1]} of {digests[1][:8]}; compare rows "
            "of one protocol and tier"
        )
    indices = first_outcomes.get("index"), outcomes.get("index")
    # Rows that were read together share it.
    if indices[0] is not indices[1] and not any(index is None for index in indices):
        check_paired(*map(np.asarray, indices))


def _standings(rows: Sequence[Row], cells: Sequence[str], processes: int) -> list[_Standing]:
    found = [_Standing()] * len(rows)
    members = _members(cells).items()
    sizes = {cell: sum(rankable(rows[p]) for p in positions) for cell, positions in members}
    # Large cells first: none is begun while the other processes have nothing left to do.
    jobs = sorted((job for job in members if sizes[job[0]]), key=lambda job: -sizes[job[0]])
    few = sum(size**2 for size in sizes.values()) < _MANY

    def compared(job: tuple[str, list[int]]) -> list[_Standing]:
        return _in_cell(job[0], [rows[position] for position in job[1]])

    answers = map_forked(compared, jobs, 1 if few else processes)
    for (_, positions), own in zip(jobs, answers, strict=True):
        for position, standing in zip(positions, own, strict=True):
            found[position] = standing
    return found


def _in_cell(cell: str, rows: Sequence[Row]) -> list[_Standing]:
    """Returns what comparing the rows of a cell with each other says of each."""
    # The best first.
    order = sorted((p for p, row in enumerate(rows) if rankable(row)), key=lambda p: _key(rows[p]))
    ranked = [rows[position] for position in order]
    outcomes = stacked(ranked)
    places = _places(cell, ranked, outcomes)
    gains = _gains(ranked, outcomes)
    seeds = _seeds(rows, {position: outcomes[n] for n, position in enumerate(order)})
    found = [_Standing(seeds=together) for together in seeds]
    for position, place, (gain, over) in zip(order, places, gains, strict=True):
        found[position] = _Standing(place, gain, over, seeds[position])
    return found


def _places(cell: str, rows: Sequence[Row], outcomes: Bools) -> list[_Place]:
    """Returns the places of the rankable rows of a cell, the best first, given their outcomes."""
    adjusted = holm([mcnemar_exact(outcomes[0], other) for other in outcomes[1:]])
    below = [False, *(value <= SIGNIFICANCE for value in adjusted)]
    accuracies = [best_known(row) for row in rows]
    # Seeded by the cell, so that its ends do not depend on what else the board holds.
    lows, highs = rank_intervals(outcomes, np.random.default_rng(seed_from("ranks", cell)))
    places = []
    for number, accuracy in enumerate(accuracies):
        # They fall, so as many are larger as stand before the first that is equal.
        place = 1 + accuracies.index(accuracy) if below[number] else 1
        tied = not below[number] if number else not all(below[1:])
        p = adjusted[number - 1] if number else math.nan
        # What Holm's test cannot tell from the best, the bootstrap sometimes can.
        low = min(place, int(lows[number]))
        places.append(_Place(place, low, int(highs[number]), tied, p))
    return places


def _add_places(ranked: pd.DataFrame, places: Sequence[_Place]) -> None:
    ranked["rank"] = pd.array([place.rank for place in places], dtype="Int64")
    ranked["rank_low"] = pd.array([place.low for place in places], dtype="Int64")
    ranked["rank_high"] = pd.array([place.high for place in places], dtype="Int64")
    ranked["tied_with_best"] = pd.Series([place.tied for place in places], dtype="bool")
    ranked["p_best"] = pd.Series([place.p for place in places], dtype="float64")
    sizes = ranked.loc[ranked["rank"].notna(), "cell"].value_counts()
    ranked["rivals"] = (ranked["cell"].map(sizes).fillna(1) - 1).astype("int64")


def _missing_controls(rows: Sequence[Row], cells: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns which controls of its recipe each row lacks: dense parent, random, magnitude."""
    parents = {_family(row) for row in rows if rankable(row) and row["method"] == DENSE}
    present = {
        (cell, _training(row), row["method"])
        for row, cell in zip(rows, cells, strict=True)
        if rankable(row)
    }
    return [_missing(row, cell, parents, present) for row, cell in zip(rows, cells, strict=True)]


def _missing(
    row: Row,
    cell: str,
    parents: set[tuple[str, ...]],
    present: set[tuple[str, tuple[str, str], Any]],
) -> tuple[str, ...]:
    if row["method"] == DENSE:
        return ()
    missing = [] if _family(row) in parents else [DENSE]
    if (cell, _training(row), RANDOM) not in present:
        missing.append(RANDOM)
    if not any((cell, _training(row), method) in present for method in MAGNITUDE):
        missing.append("magnitude")
    return tuple(missing)


def is_control(method: str) -> bool:
    """Returns whether a method is there for others to be compared with.

    Args:
        method: name, with or without settings.
    """
    name = method.partition(":")[0]
    return name in (DENSE, RANDOM, *MAGNITUDE) or name.startswith(SANITY)


def _narrow(rows: Sequence[Row], missing: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns why each row is narrow: its method has no line of `BROAD` sparsities on its board.

    A line is one method with its settings on one architecture, in one structure, by one recipe and
    objective; only then do its points differ in sparsity alone. Points count where the row may be
    ranked and lacks no control.

    Args:
        rows: of all boards.
        missing: controls that each lacks.
    """
    points: dict[tuple[str, ...], dict[tuple[str, ...], set[float]]] = {}
    for row, lacks in zip(rows, missing, strict=True):
        lines = points.setdefault(_method_on_board(row), {})
        levels = lines.setdefault(_values(row, _POINTS), set())
        if rankable(row) and not lacks and bucket(sparsity_of(row)) > 0:
            levels.add(bucket(sparsity_of(row)))
    said = {key: _too_few(lines) for key, lines in points.items()}
    return ["" if is_control(str(row["method"])) else said[_method_on_board(row)] for row in rows]


def _method_on_board(row: Row) -> tuple[str, ...]:
    # Settings are a part of the method: a variant is not broader or narrower than it.
    return (*_values(row, _ORIGIN[:4]), str(row["method"]).partition(":")[0])


def _too_few(lines: Mapping[tuple[str, ...], set[float]]) -> str:
    """Returns how far the longest line of a method is from being broad; empty if it is."""
    longest = max(lines, key=lambda line: (len(lines[line]), line))
    levels = sorted(lines[longest])
    if len(levels) >= BROAD:
        return ""
    which = ", ".join(f"{100 * level:g} %" for level in levels)
    where = shorten("{}, {}, {}".format(*longest[:3]), 120)
    return (
        f"{len(levels)} of {BROAD} sparsities with all controls"
        f"{f' ({which}; {where})' if levels else ''}"
    )


def _family(row: Row) -> tuple[str, ...]:
    columns = ("protocol", "protocol_digest", "data_digest", "tier", "architecture")
    return (*(str(row[column]) for column in columns), *_training(row))


def _training(row: Row) -> tuple[str, str]:
    # A control tells something only if it was trained alike: same recipe, same objective.
    return str(row["recipe"]), str(row["objective"])


def _gains(rows: Sequence[Row], outcomes: Bools) -> list[tuple[Estimate, str]]:
    """Returns each row's gain over its magnitude control, and that control's checkpoint id.

    Args:
        rows: the rankable ones of a cell.
        outcomes: (M, N) best known outcomes of these rows.
    """
    controls: dict[tuple[str, str], list[int]] = {}
    for position, row in enumerate(rows):
        if row["method"] in MAGNITUDE:
            controls.setdefault(_training(row), []).append(position)
    gains: list[tuple[Estimate, str]] = []
    for position, row in enumerate(rows):
        control = _control(rows, position, controls.get(_training(row), []))
        if control is None or control == position:
            gains.append((_UNKNOWN, ""))
        else:
            gain = difference_interval(outcomes[position], outcomes[control])
            gains.append((gain, str(rows[control]["checkpoint_id"])))
    return gains


def _control(rows: Sequence[Row], position: int, controls: Sequence[int]) -> int | None:
    """Returns the best of a row's magnitude controls, of its own seed if there are such."""
    own = [control for control in controls if rows[control]["seed"] == rows[position]["seed"]]
    return min(own or controls, key=lambda control: _key(rows[control]), default=None)


def _add_gains(ranked: pd.DataFrame, standings: Sequence[_Standing]) -> None:
    gains = [standing.gain for standing in standings]
    ranked["gain"] = pd.Series([gain.value for gain in gains], dtype="float64")
    ranked["gain_low"] = pd.Series([gain.low for gain in gains], dtype="float64")
    ranked["gain_high"] = pd.Series([gain.high for gain in gains], dtype="float64")
    ranked["gain_over"] = pd.Series([standing.gain_over for standing in standings], dtype="str")


def _seeds(rows: Sequence[Row], outcomes: Mapping[int, Bools]) -> list[SeedsInterval]:
    """Returns for each row of a cell what the seeds of its setting say together.

    Args:
        rows: all of the cell.
        outcomes: (N,) best known outcomes of the rankable ones, by position.
    """
    found = [_NO_SEEDS] * len(rows)
    settings = [(str(row["method"]), _training(row), str(sparsity_of(row))) for row in rows]
    for positions in _members(settings).values():
        trained = [outcomes[position] for position in positions if position in outcomes]
        if trained:
            together = seeds_interval(np.stack(trained))
            for position in positions:
                found[position] = together
    return found


def _add_seeds(ranked: pd.DataFrame, found: Sequence[SeedsInterval]) -> None:
    ranked["seeds"] = pd.Series([seeds.seeds for seeds in found], dtype="int64")
    ranked["seed_mean"] = pd.Series([seeds.mean for seeds in found], dtype="float64")
    ranked["seed_spread"] = pd.Series([seeds.spread for seeds in found], dtype="float64")
    ranked["seed_low"] = pd.Series([seeds.low for seeds in found], dtype="float64")
    ranked["seed_high"] = pd.Series([seeds.high for seeds in found], dtype="float64")


def _sorted(ranked: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows board by board, larger tiers first; inside by cell and rank."""
    if ranked.empty:
        return ranked
    sizes = ranked.groupby(["protocol", "tier"])["examples"].max().fillna(0).to_dict()
    rows = _rows(ranked, (*_DECIDING, "bucket", "rank"))
    positions = sorted(range(len(rows)), key=lambda position: _order(rows[position], sizes))
    return ranked.iloc[positions].reset_index(drop=True)


def _order(row: Row, sizes: Mapping[Any, float]) -> tuple[Any, ...]:
    unranked = bool(pd.isna(row["rank"]))
    return (
        str(row["protocol"]),
        -sizes[(row["protocol"], row["tier"])],
        str(row["tier"]),
        unranked,
        str(row["architecture"]),
        str(row["structure"]) if row["bucket"] > 0 else "",
        row["bucket"],
        0 if unranked else int(row["rank"]),
        (0.0, 0.0, str(row["checkpoint_id"])) if unranked else _key(row),
    )


def _values(row: Row, columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in columns)


def _curve(rows: Sequence[Row], start: Row | None) -> dict[str, Any]:
    """Returns the line of a curve, given its pruned rows and the dense row that it starts from."""
    points = {sparsity_of(row): row for row in reversed(rows)} | ({0.0: start} if start else {})
    levels, area, kept = sorted(points), _UNKNOWN, _UNKNOWN
    if start and len(levels) > 1:
        outcomes = stacked([points[level] for level in levels])
        area, kept = area_under_curve(levels, outcomes), break_even(levels, outcomes, KEPT)
    return {
        **{column: rows[0][column] for column in (*_LINE, "examples")},
        "levels": levels,
        "area": area.value,
        "area_low": area.low,
        "area_high": area.high,
        "kept_share": KEPT,
        "kept_sparsity": kept.value,
        "kept_low": kept.low,
        "kept_high": kept.high,
        "kept_at_least": kept.value == levels[-1],
    }
