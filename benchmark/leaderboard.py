"""From the frame of records to ranked boards: a board per protocol and tier, a ranking per cell.

A cell holds what may be compared: same protocol and examples, architecture, structure and sparsity.
"Better" is a claim, so it takes a paired test: rows that the test cannot separate from the best of
their cell share its rank.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmark.errors import ContractError, shorten
from benchmark.protocols import UNSTRUCTURED
from benchmark.statistics import holm, mcnemar_exact

Row = Mapping[Any, Any]

# The sparsities of the protocols' grids; a row in between competes at the next lower one.
GRID = tuple(float(level) for level in UNSTRUCTURED)

SIGNIFICANCE = 0.05

DENSE = "dense"
RANDOM = "random"
MAGNITUDE = ("lwm-layerwise", "lwm-global")


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


def rank(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows sorted as a leaderboard, with their place in it.

    Added columns: `bucket` (grid sparsity), `cell` (name of what the row is compared with), `rank`
    (Int64, missing for rows without a result), `tied_with_best`, `p_best` (Holm-adjusted exact
    McNemar p against the best of the cell, NaN for the best itself), `rivals` (other ranked rows of
    the cell), `missing_controls` (names, comma-separated) and `incomplete`.

    Args:
        frame: one row a checkpoint, protocol and tier, as `records.frame` gives it; left unchanged.

    Raises:
        ContractError: a finished row without per-example robust outcomes, or rows of one cell over
            different examples.
    """
    ranked = frame.reset_index(drop=True)
    rows: Sequence[Row] = ranked.to_dict("records")
    ranked["bucket"] = pd.Series([_bucket_of(row) for row in rows], dtype="float64")
    ranked["cell"] = pd.Series([_cell(row) for row in rows], dtype="str")
    places = _places(rows, list(ranked["cell"]))
    ranked["rank"] = pd.array([place[0] for place in places], dtype="Int64")
    ranked["tied_with_best"] = pd.Series([place[1] for place in places], dtype="bool")
    ranked["p_best"] = pd.Series([place[2] for place in places], dtype="float64")
    ranked["rivals"] = _rivals(ranked)
    missing = _missing_controls(rows, list(ranked["cell"]))
    ranked["missing_controls"] = pd.Series([", ".join(names) for names in missing], dtype="str")
    ranked["incomplete"] = pd.Series([bool(names) for names in missing], dtype="bool")
    return _sorted(ranked)


def has_result(row: Row) -> bool:
    """Returns whether the row was evaluated to the end and so can take a place."""
    return row["status"] == "done" and math.isfinite(_number(row["robust_accuracy"]))


def _number(value: object) -> float:
    if isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    return math.nan


def _bucket_of(row: Row) -> float:
    claimed = _number(row["sparsity"])
    return bucket(claimed if math.isfinite(claimed) else _number(row.get("measured_sparsity")))


def _cell(row: Row) -> str:
    # The digests keep rows apart that were evaluated under another version of the protocol, or on
    # other pixels.
    version = f"{str(row['protocol_digest'])[:8]}-{str(row['data_digest'])[:8]}"
    sparsity = _bucket_of(row)
    structure = row["structure"] if sparsity > 0 else DENSE
    return (
        f"{row['protocol']}@{version}/{row['tier']}/{row['architecture']}"
        f"/{row['recipe']}/{structure}/{100 * sparsity:g}"
    )


def _members(cells: Iterable[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for position, cell in enumerate(cells):
        positions.setdefault(cell, []).append(position)
    return positions


def _places(rows: Sequence[Row], cells: list[str]) -> list[tuple[int | None, bool, float]]:
    """Returns (rank, tied with the best, adjusted p) of each row, or (None, False, NaN)."""
    places: list[tuple[int | None, bool, float]] = [(None, False, math.nan)] * len(rows)
    for positions in _members(cells).values():
        standing = sorted(
            (p for p in positions if has_result(rows[p])), key=lambda p: _key(rows[p])
        )
        if not standing:
            continue
        best, *others = standing
        outcomes = _robust(rows[best])
        adjusted = holm([mcnemar_exact(outcomes, _robust(rows[p])) for p in others])
        tied = {p: value > SIGNIFICANCE for p, value in zip(others, adjusted, strict=True)}
        places[best] = (1, any(tied.values()), math.nan)
        accuracies = [float(rows[p]["robust_accuracy"]) for p in standing]
        for position, value in zip(others, adjusted, strict=True):
            higher = sum(other > rows[position]["robust_accuracy"] for other in accuracies)
            places[position] = (1 if tied[position] else 1 + higher, tied[position], value)
    return places


def _rivals(ranked: pd.DataFrame) -> pd.Series:
    sizes = ranked.loc[ranked["rank"].notna(), "cell"].value_counts()
    return (ranked["cell"].map(sizes).fillna(1) - 1).astype("int64")


def _key(row: Row) -> tuple[float, float, str]:
    """Returns the order inside a cell: more robust, then more certified, then by name."""
    certified = _number(row.get("certified_accuracy"))
    certified = certified if math.isfinite(certified) else -1.0
    return -_number(row["robust_accuracy"]), -certified, str(row["checkpoint_id"])


def _robust(row: Row) -> np.ndarray[Any, np.dtype[np.bool_]]:
    outcomes = row.get("outcomes")
    if not isinstance(outcomes, Mapping) or "robust" not in outcomes:
        raise ContractError(
            f"expected per-example robust outcomes of '{shorten(str(row['checkpoint_id']))}', got "
            "none; evaluate it again"
        )
    return np.asarray(outcomes["robust"])


def _missing_controls(rows: Sequence[Row], cells: list[str]) -> list[tuple[str, ...]]:
    """Returns which controls of its recipe each row lacks: dense parent, random, magnitude."""
    parents = {_family(row) for row in rows if has_result(row) and row["method"] == DENSE}
    present = {
        (cell, _training(row), row["method"])
        for row, cell in zip(rows, cells, strict=True)
        if has_result(row)
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


def _family(row: Row) -> tuple[str, ...]:
    columns = ("protocol", "protocol_digest", "tier", "architecture")
    return (*(str(row[column]) for column in columns), *_training(row))


def _training(row: Row) -> tuple[str, str]:
    # A control tells something only if it was trained alike: same recipe, same objective.
    return str(row["recipe"]), str(row["objective"])


def _sorted(ranked: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows board by board, larger tiers first; inside by cell and rank."""
    if ranked.empty:
        return ranked
    sizes = ranked.groupby(["protocol", "tier"])["examples"].max().fillna(0).to_dict()
    rows = ranked.to_dict("records")
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
