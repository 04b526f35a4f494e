"""From names to a comparison: which rows they stand for, who meets whom, and the tables of it."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import pandas as pd

from benchmark.comparison import (
    HeadToHead,
    Ladder,
    adjusted,
    head_to_head,
    ladders,
    pairs,
    winner,
)
from benchmark.errors import ContractError, RecordError, UnknownName, lookup, shorten
from benchmark.leaderboard import DENSE, Row, has_result, sparsity_of
from benchmark.pipeline.project import Project
from benchmark.pipeline.reporting import results
from benchmark.protocols import Protocol
from benchmark.protocols import protocol as find_protocol
from benchmark.records import paths
from benchmark.statistics import Estimate

# Curves that the message about an ambiguous name lists.
_LISTED = 8

# In a checkpoint's id.
_SLASHES = 5


@dataclass(frozen=True)
class Setting:
    """Which setting of a method is meant; empty where any will do.

    Attributes:
        architecture: name.
        recipe: of its training.
        objective: of its training.
        structure: of what it removes; a dense network has none.
    """

    architecture: str = ""
    recipe: str = ""
    objective: str = ""
    structure: str = ""


@dataclass(frozen=True)
class Entrant:
    """What a name stands for.

    Attributes:
        label: what tables and figures call it.
        ladder: the method along its sparsities, or a single checkpoint.
    """

    label: str
    ladder: Ladder

    @property
    def rows(self) -> list[Row]:
        """Returns its rows that may be ranked, ascending in sparsity, then seed."""
        return [row for rung in self.ladder.rungs for row in rung.rows]


@dataclass(frozen=True)
class Meeting:
    """Two rows of two entrants on the same examples.

    Attributes:
        first: label.
        second: label.
        sparsities: of the two rows.
        contest: their table.
        p: of the exact McNemar test, Holm-adjusted over all meetings.
    """

    first: str
    second: str
    sparsities: tuple[float, float]
    contest: HeadToHead
    p: float

    @property
    def verdict(self) -> str:
        """Returns in words who is better, or that nobody can tell."""
        won = winner(self.contest, self.p)
        if not won:
            return "not separable"
        return f"{self.first if won == 'first' else self.second} is better"


@dataclass(frozen=True)
class Compared:
    """Entrants beside each other, under one protocol and tier."""

    protocol: str
    tier: str
    entrants: tuple[Entrant, ...]
    meetings: tuple[Meeting, ...]


def compare(
    project: Project,
    names: Sequence[str],
    protocol: str = "",
    tier: str = "",
    setting: Setting | None = None,
) -> Compared:
    """Compares methods and checkpoints from their records.

    Args:
        project: whose records.
        names: two or more. A checkpoint id stands for itself, a method's name for its curve over
            sparsities; where there are several such curves, so does the start of their ids, such as
            `hydra/digits/cnn-tiny/mixtrain`.
        protocol: id; empty for the only one with records.
        tier: empty for the largest in which no name loses most of its rows.
        setting: which curve of a method is meant.

    Raises:
        UnknownName: no such protocol, tier or name, or a name that stands for several curves.
        ContractError: fewer than two names.
        RecordError: no record of a name, or one that is damaged or stale.
    """
    asked = list(dict.fromkeys(name.rstrip("/") for name in names))
    if len(asked) < 2:
        raise ContractError(
            f"expected two or more different names, got {len(asked)}; `robustprune list "
            "checkpoints` shows what there is"
        )
    chosen = find_protocol(protocol or _only_protocol(project))
    every = rows_of(project, chosen)
    where = chosen_tier(every, chosen, tier, asked, setting)
    rows = [row for row in every if row["tier"] == where]
    found = _Names(project, chosen, where, rows, setting or Setting())
    entrants = _labelled([(name, found.ladder(name)) for name in asked])
    return Compared(chosen.id, where, entrants, _meetings(entrants))


def _only_protocol(project: Project) -> str:
    known = sorted({path.parent.name for path in paths(project.results)})
    if len(known) != 1:
        listed = ", ".join(shorten(name) for name in known) or "no protocol"
        raise UnknownName(f"expected --protocol, got none; there are records under {listed}")
    return known[0]


def rows_of(project: Project, protocol: Protocol) -> list[Row]:
    """Returns the ranked rows of a protocol that have a result.

    Raises:
        RecordError: there is none, or one that is damaged or stale.
    """
    frame = results(project, [protocol.id])
    rows: list[Row] = [row for row in frame.to_dict("records") if has_result(row)]
    if not rows:
        raise RecordError(
            f"expected records under {protocol.id}, found none; make them with `robustprune run "
            f"--protocol {protocol.id}`"
        )
    return rows


def chosen_tier(
    rows: Sequence[Row],
    protocol: Protocol,
    tier: str,
    names: Sequence[str] = (),
    setting: Setting | None = None,
) -> str:
    """Returns the tier asked for, or the largest in which no name loses most of its rows.

    Few networks are evaluated on all examples; a curve of these alone would be no curve.

    Args:
        rows: of a protocol, of all tiers.
        protocol: that protocol.
        tier: asked for, or empty.
        names: of methods and checkpoints; none for all rows together.
        setting: which rows of a name are meant.

    Raises:
        UnknownName: the protocol has no such tier.
    """
    if tier:
        return lookup("tier", tier, {name: name for name, _ in protocol.tiers})
    wanted = [row for row in rows if setting is None or _is_meant(row, setting)]
    sizes = [name for name, _ in reversed(protocol.tiers)]
    # A setting that no row has is told by whoever looks for it, and so is a name without rows.
    for among, least in ((wanted, 0.5), (wanted, 0.0), (rows, 0.0)):
        counts = [
            Counter(str(row["tier"]) for row in among if not name or _stands_for(name, row))
            for name in names or ("",)
        ]
        for size in sizes:
            if all(one[size] > 0 and one[size] >= least * max(one.values()) for one in counts):
                return size
    return str(rows[0]["tier"])


def _is_meant(row: Row, setting: Setting) -> bool:
    wanted = {field.name: getattr(setting, field.name) for field in fields(setting)}
    if row["method"] == DENSE:
        del wanted["structure"]
    return all(not value or row[name] == value for name, value in wanted.items())


def _stands_for(name: str, row: Row) -> bool:
    return f"{_curve_of(str(row['checkpoint_id']))}/".startswith(f"{name}/") or name == str(
        row["checkpoint_id"]
    )


def _curve_of(checkpoint: str) -> str:
    """Returns what the ids of one curve share.

    >>> _curve_of("hydra/digits/cnn-tiny/adversarial/unstructured-90/seed0")
    'hydra/digits/cnn-tiny/adversarial/unstructured'
    """
    *front, structure, _seed = checkpoint.split("/")
    return "/".join([*front, structure.rpartition("-")[0]])


class _Names:
    """What names stand for in one board."""

    def __init__(
        self, project: Project, protocol: Protocol, tier: str, rows: Sequence[Row], setting: Setting
    ) -> None:
        self._project, self._protocol, self._tier = project, protocol, tier
        self._rows, self._setting = rows, setting
        self._ladders = ladders(rows)

    def ladder(self, name: str) -> Ladder:
        """Returns the curve or the single checkpoint that a name stands for."""
        for row in self._rows:
            if row["checkpoint_id"] == name:
                return ladders([row])[0]
        named = [one for one in self._ladders if _stands_for(name, _any_row(one))]
        if not named:
            self._refuse(name)
        meant = [one for one in named if _is_meant(_any_row(one), self._setting)]
        if len(meant) != 1:
            raise _ambiguous(name, meant or named, found=len(meant))
        return meant[0]

    def _refuse(self, name: str) -> NoReturn:
        """Refuses a name without a row: one to evaluate first, or one that nobody knows."""
        entries = self._project.manifest().checkpoints
        ours = [entry.id for entry in entries if entry.dataset == self._protocol.dataset]
        if any(_stands_for(name, {"checkpoint_id": checkpoint}) for checkpoint in ours):
            raise RecordError(
                f"expected a record of {shorten(name, 300)} under {self._protocol.id} for tier "
                f"{self._tier}, found none; make it with `robustprune evaluate`"
            )
        known = {str(row[column]) for row in self._rows for column in ("method", "checkpoint_id")}
        lookup("method or checkpoint", name, dict.fromkeys(known - {name}))
        raise UnknownName(f"unknown method or checkpoint '{shorten(name)}'")


def _any_row(ladder: Ladder) -> Row:
    return (*(row for rung in ladder.rungs for row in rung.rows), *ladder.left_out)[0]


def _ambiguous(name: str, ladders: Sequence[Ladder], found: int) -> UnknownName:
    listed = [
        shorten(f"{_curve_of(str(_any_row(one)['checkpoint_id']))} ({one.recipe})", 200)
        for one in ladders
    ]
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    what = f"{found} of these" if found else "none with that setting; there are"
    return UnknownName(
        f"expected one curve of '{shorten(name)}', got {what}: "
        f"{', '.join(listed[:_LISTED])}{more}; "
        "choose with --objective, --structure, --architecture or --recipe, or write more of the id"
    )


def _labelled(found: Sequence[tuple[str, Ladder]]) -> tuple[Entrant, ...]:
    """Returns the entrants, a curve labelled by its method where that tells it from the others."""
    methods = [ladder.method for _, ladder in found]
    singles = [name.count("/") == _SLASHES for name, _ in found]
    return tuple(
        Entrant(name if single or methods.count(ladder.method) > 1 else ladder.method, ladder)
        for (name, ladder), single in zip(found, singles, strict=True)
    )


def _meetings(entrants: Sequence[Entrant]) -> tuple[Meeting, ...]:
    met = [
        (first.label, second.label, ours, theirs)
        for first, second in itertools.combinations(entrants, 2)
        for ours, theirs in pairs(first.rows, second.rows)
        # A checkpoint may also be a point of a curve.
        if ours["checkpoint_id"] != theirs["checkpoint_id"]
    ]
    contests = [head_to_head(ours, theirs) for _, _, ours, theirs in met]
    return tuple(
        Meeting(first, second, (sparsity_of(ours), sparsity_of(theirs)), contest, p)
        for (first, second, ours, theirs), contest, p in zip(
            met, contests, adjusted(contests), strict=True
        )
    )


# --- Tables ---------------------------------------------------------------------------------------


def tables(compared: Compared) -> dict[str, pd.DataFrame]:
    """Returns the comparison as tidy tables: `levels`, `curves` and `pairs`.

    Columns are described in `docs/records.md`.
    """
    levels = [line for entrant in compared.entrants for line in _levels(entrant)]
    curved = [_curve(entrant) for entrant in compared.entrants]
    met = [_pair(meeting) for meeting in compared.meetings]
    return {
        "levels": pd.DataFrame(levels),
        "curves": pd.DataFrame(curved),
        "pairs": pd.DataFrame(met, columns=pd.Index(_PAIR)),
    }


def _levels(entrant: Entrant) -> list[dict[str, Any]]:
    ladder = entrant.ladder
    named = {"label": entrant.label, **_named(ladder)}
    lines = []
    for rung in ladder.rungs:
        first = rung.rows[0]
        lines.append(
            {
                **named,
                "sparsity": rung.sparsity,
                "measured_sparsity": rung.measured,
                "seeds": list(rung.seeds),
                "examples": rung.examples,
                "clean_accuracy": rung.clean,
                **_columns("certified", rung.certified),
                **_columns("best_known", rung.robust),
                **_columns("gain", rung.gain),
                "gain_over": sorted({str(row["gain_over"]) for row in rung.rows} - {""}),
                "rank": [int(row["rank"]) for row in rung.rows],
                "rank_low": [int(row["rank_low"]) for row in rung.rows],
                "rank_high": [int(row["rank_high"]) for row in rung.rows],
                "tied_with_best": [bool(row["tied_with_best"]) for row in rung.rows],
                "rivals": int(first["rivals"]),
                "cell": str(first["cell"]),
                "checkpoints": [str(row["checkpoint_id"]) for row in rung.rows],
            }
        )
    return lines


def _named(ladder: Ladder) -> dict[str, str]:
    columns = ("protocol", "tier", "method", "architecture", "structure", "objective", "recipe")
    return {column: getattr(ladder, column) for column in columns}


def _columns(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _curve(entrant: Entrant) -> dict[str, Any]:
    ladder = entrant.ladder
    return {
        "label": entrant.label,
        **_named(ladder),
        "levels": list(ladder.levels),
        **_columns("area", ladder.area),
        "kept_share": ladder.kept_share,
        **_columns("kept_sparsity", ladder.kept),
        "kept_at_least": ladder.kept_at_least,
        "left_out": {str(row["checkpoint_id"]): str(row["unrankable"]) for row in ladder.left_out},
    }


_PAIR = (
    *("first", "second", "first_sparsity", "second_sparsity"),
    *("first_checkpoint", "second_checkpoint", "examples", "both", "only_first", "only_second"),
    *("neither", "difference", "difference_low", "difference_high", "p", "p_adjusted", "verdict"),
    *("first_wins", "second_wins"),
)


def _pair(meeting: Meeting) -> dict[str, Any]:
    contest = meeting.contest
    return {
        "first": meeting.first,
        "second": meeting.second,
        "first_sparsity": meeting.sparsities[0],
        "second_sparsity": meeting.sparsities[1],
        "first_checkpoint": contest.first,
        "second_checkpoint": contest.second,
        "examples": contest.examples,
        "both": contest.both,
        "only_first": contest.only_first,
        "only_second": contest.only_second,
        "neither": contest.neither,
        **_columns("difference", contest.difference),
        "p": contest.p,
        "p_adjusted": meeting.p,
        "verdict": meeting.verdict,
        "first_wins": list(contest.first_wins),
        "second_wins": list(contest.second_wins),
    }


def document(compared: Compared) -> str:
    """Returns the comparison as JSON: its tables as lists of objects; unknown numbers are null."""
    found = {name: table.to_dict("records") for name, table in tables(compared).items()}
    content = {"protocol": compared.protocol, "tier": compared.tier, **found}
    return json.dumps(_without_nan(content), indent=1, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_csv(table: pd.DataFrame) -> bytes:
    """Returns a table as CSV: lists in one cell, and no text that a spreadsheet would run."""
    cells = table.map(_cell)
    return cells.to_csv(index=False, lineterminator="\n").encode()


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        value = [f"{key}: {item}" for key, item in value.items()]
    if isinstance(value, list):
        value = "; ".join(str(item) for item in value)
    harmful = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if harmful else value
