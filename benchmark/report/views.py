"""From ranked rows to what a page shows: small frozen values, every number already in words.

Templates decide where a value stands, never how it reads or what it means.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar
from urllib.parse import urlencode

from benchmark.failures import Failure
from benchmark.leaderboard import DENSE, has_result
from benchmark.protocols import STRUCTURED, UNSTRUCTURED
from benchmark.report.columns import COLUMNS, FACETS, Value
from benchmark.report.remarks import (
    Badge,
    FlagView,
    badges,
    flags,
    rank_in_words,
    rank_range,
    ranked,
)
from benchmark.report.shares import (
    Gain,
    Interval,
    Row,
    Share,
    attack_share,
    gain,
    interval,
    share,
)
from benchmark.report.wording import (
    count,
    folder,
    number,
    percent,
    slug,
    sparsity_percent,
    text,
)
from benchmark.reported import Reported
from benchmark.statistics import wilson

Key = TypeVar("Key", str, tuple[str, ...])

# The sparsities of all protocols.
_GRID: dict[str, tuple[float, ...]] = {
    "unstructured": tuple(float(level) for level in UNSTRUCTURED),
    **{name: tuple(float(level) for level in STRUCTURED) for name in ("filter", "channel")},
}

# Sorts rows without a rank behind all others.
UNRANKED = 10**9


@dataclass(frozen=True)
class AttackColumn:
    """An evaluation whose accuracy has a column of its own on the board.

    Attributes:
        evaluation: its name in the protocol.
        label: heading.
        meaning: what its accuracy counts.
        era: whether papers mean this one by ERA, empirical robust accuracy.
    """

    evaluation: str
    label: str
    meaning: str
    era: bool = False


@dataclass(frozen=True)
class ProtocolPage:
    """What the pages say about a protocol.

    Attributes:
        id: its name, such as `digits-linf`.
        title: its heading.
        threat: printed threat model, such as `Linf 8/255`.
        version: counts up when a setting changes.
        digest: SHA-256 over all of it.
        description: one or more paragraphs, separated by blank lines.
        settings: (name, value) pairs in the order to show.
        tiers: name → number of examples.
        attacks: evaluations with a column of their own.
        reported: published figures of others that belong beside its boards.
        reasons: why settings are what they are, by name.
        grid: sparsities by structure.
        failures: networks on its data that could not be trained.
    """

    id: str
    title: str
    threat: str
    version: int | str
    digest: str
    description: str
    settings: list[tuple[str, str]]
    tiers: dict[str, int]
    attacks: tuple[AttackColumn, ...]
    reported: tuple[Reported, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    grid: Mapping[str, Sequence[float]] = field(default_factory=lambda: dict(_GRID))
    failures: tuple[Failure, ...] = ()

    @property
    def columns(self) -> int:
        """Returns the number of columns of a board, those included that a reader can add."""
        return 7 + len(self.attacks) + len(COLUMNS)

    @property
    def folder(self) -> str:
        """Returns the folder of the protocol's pages under the site."""
        return folder(self.id)

    def reason(self, name: str) -> str:
        """Returns why a setting is what it is; empty where nothing is said.

        Several evaluations of a kind, such as `pgd-10` and `pgd-20`, share their reason.
        """
        return self.reasons.get(name) or self.reasons.get(name.partition("-")[0], "")

    @property
    def paragraphs(self) -> list[str]:
        """Returns the description's paragraphs."""
        return [" ".join(part.split()) for part in self.description.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class Fact:
    """A name with its value; `href` is safe to link to, `code` asks for a monospaced value."""

    label: str
    value: str
    href: str = ""
    code: bool = False
    note: str = ""


@dataclass(frozen=True)
class Mixed:
    """Where names alone do not tell rows apart.

    Attributes:
        seeds: settings that occur with several seeds.
        recipes: cells that hold several recipes.
    """

    seeds: frozenset[tuple[str, ...]] = frozenset()
    recipes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class BoardRow:
    """One line of a board.

    Attributes:
        rank: as printed, with `rank_words` and `rank_range` behind it.
        order: places it among all rows: the rank, larger than any where there is none.
        name: of the method.
        variant: what tells the row from others of the same name.
        href: of its page.
        objective: it was trained for.
        gain: over the magnitude control.
        sparsity: measured.
        clean: accuracy.
        attacks: accuracy under each attack of the protocol.
        interval: certified and attacked.
        flags: in words.
        badges: what must be said of it.
        extra: a value for each of `COLUMNS`.
        facets: (name, value) of what rows can be filtered by.
        external: whether others published it; `href` then leads to them.
    """

    rank: str
    rank_words: str
    rank_range: str
    order: int
    name: str
    variant: str
    href: str
    objective: str
    gain: Gain
    sparsity: str
    clean: Share
    attacks: tuple[Share, ...]
    interval: Interval
    flags: tuple[FlagView, ...]
    badges: tuple[Badge, ...]
    extra: tuple[Value, ...]
    facets: tuple[tuple[str, str], ...]
    external: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Returns in full what must be said of the row beside its flags."""
        return tuple(one.detail or one.words for one in self.badges if one.kind == "note")


@dataclass(frozen=True)
class Cell:
    """Rows that are ranked against each other, or that share a reason for having no rank.

    Attributes:
        title: what the rows share.
        note: what must be said of all of them.
        rows: all of them; of a group of a large board only the first.
        href: the page where they all are, of a group of a large board.
        total: their number there.
        unnamed: rows of the first rank there that are not in `rows`.
        verdict: whether the first is better than the second, in words; empty for a single row.
        duel: the page where the two meet; empty for a single row.
    """

    title: str
    note: str
    rows: tuple[BoardRow, ...]
    href: str = ""
    total: int = 0
    unnamed: int = 0
    verdict: str = ""
    duel: str = ""

    @property
    def leaders(self) -> tuple[BoardRow, ...]:
        """Returns the rows that share the first rank."""
        return tuple(row for row in self.rows if row.rank in ("1", "=1"))


@dataclass(frozen=True)
class FacetView:
    """What rows can be filtered by: each value that occurs, with its number of rows."""

    key: str
    label: str
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Board:
    """The table of one tier.

    Attributes:
        tier: its name.
        examples: their number.
        margin: half the widest interval of a share, in points.
        threat: printed threat model.
        cells: ranked rows.
        unranked: rows with a result but no rank, then rows without a result.
        facets: what its rows can be filtered by.
        reported: published figures of others.
    """

    tier: str
    examples: str
    margin: str
    threat: str
    cells: tuple[Cell, ...]
    unranked: tuple[Cell, ...]
    facets: tuple[FacetView, ...] = ()
    reported: tuple[Cell, ...] = ()

    @property
    def ranked(self) -> int:
        """Returns the number of rows with a rank."""
        return sum(len(cell.rows) for cell in self.cells)


def checkpoint_path(row: Row) -> str:
    """Returns where a checkpoint's page lies under the site."""
    return f"{folder(str(row['protocol']))}/{slug(str(row['checkpoint_id']))}.html"


@dataclass(frozen=True)
class Group:
    """Rows that are ranked against each other or share a reason for having no rank, as they are.

    Attributes:
        key: one for each group of a board, whatever part of its rows is here.
        title: what the rows share.
        note: what must be said of all of them.
        ranked: whether they have ranks.
        rows: in leaderboard order.
    """

    key: str
    title: str
    note: str
    ranked: bool
    rows: Sequence[Row]


def boards(page: ProtocolPage, rows: Sequence[Row]) -> list[Board]:
    """Returns a board for each tier with rows, the one with most results first.

    Args:
        page: the protocol.
        rows: its ranked rows, in leaderboard order.
    """
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(text(row["tier"]), []).append(row)
    return [
        board(page, tier, members[tier], groups(members[tier]), mixed(members[tier]))
        for tier in order(page, members)
    ]


def order(page: ProtocolPage, members: Mapping[str, Sequence[Row]]) -> list[str]:
    """Returns the tiers that have rows: of those with most ranks the one of most examples leads.

    A few rows more or less do not count: a tier with half as many ranks as another may lead it.
    """
    standing = {tier: sum(ranked(row) for row in rows) for tier, rows in members.items()}
    most = max(standing.values(), default=0)
    sizes = {tier: page.tiers.get(tier, 0) for tier in members}
    return sorted(members, key=lambda tier: (2 * standing[tier] < most, -sizes[tier], tier))


def board(
    page: ProtocolPage,
    tier: str,
    rows: Sequence[Row],
    members: Iterable[Group],
    mixed: Mixed,
    outline: Sequence[Cell] = (),
) -> Board:
    """Returns the table of one tier.

    Args:
        page: the protocol.
        tier: as displayed.
        rows: all of the tier.
        members: the groups to show.
        mixed: where rows must name their seed or recipe.
        outline: groups without their rows, in place of `members`.
    """
    examples = max((number(row["examples"]) for row in rows if has_result(row)), default=math.nan)
    if not math.isfinite(examples):
        examples = number(page.tiers.get(tier))
    margin = ""
    if examples >= 1:
        low, high = wilson(int(examples) // 2, int(examples))
        margin = f"{50 * (high - low):.1f}"
    cells = [(group.ranked, _cell(group, page, mixed)) for group in members]
    cells += [(bool(cell.rows), cell) for cell in outline]
    return Board(
        tier=tier,
        examples=count(examples),
        margin=margin,
        threat=text(page.threat),
        cells=tuple(cell for standing, cell in cells if standing),
        unranked=tuple(cell for standing, cell in cells if not standing),
        facets=facets(rows),
    )


def facets(rows: Iterable[Row]) -> tuple[FacetView, ...]:
    """Returns what tells some rows of a board from others, each with its values in order."""
    found, rows = [], list(rows)
    for facet in FACETS:
        values = Counter(facet.value(row) for row in rows)
        if len(values) > 1:
            ordered = sorted(values.items(), key=lambda item: _natural(item[0]))
            found.append(FacetView(facet.key, facet.label, tuple(ordered)))
    return tuple(found)


def _natural(value: str) -> tuple[float, str]:
    """Returns what values are ordered by: their leading number, those without one first."""
    found = re.match(r"[0-9.]+", value)
    return (float(found[0]) if found and found[0].count(".") < 2 else -1.0), value


def _cell(group: Group, page: ProtocolPage, mixed: Mixed) -> Cell:
    rows = tuple(board_row(row, page, mixed) for row in group.rows)
    return Cell(group.title, group.note, rows, verdict=verdict(group), duel=duel(group, page))


def verdict(group: Group) -> str:
    """Returns whether the first of a group is better than the second; empty for a single row."""
    if not group.ranked or len(group.rows) < 2:
        return ""
    second = group.rows[1]
    p = f"p = {number(second['p_best']):.2g}"
    if second["tied_with_best"]:
        return f"not separable ({p}) from {display_name(second)}"
    return f"separable ({p}) from {display_name(second)}"


def duel(group: Group, page: ProtocolPage) -> str:
    """Returns where the first two of a group meet; empty for a single row."""
    if not group.ranked or len(group.rows) < 2:
        return ""
    ids = [str(row["checkpoint_id"]) for row in group.rows[:2]]
    return f"{page.folder}/compare.html#{urlencode({'first': ids[0], 'second': ids[1]})}"


def groups(rows: Sequence[Row]) -> list[Group]:
    """Returns a board's rows by cell, then those with a result but no rank, then the others."""
    cells: dict[str, list[Row]] = {}
    apart: list[Row] = []
    without: list[Row] = []
    for row in rows:
        if ranked(row):
            cells.setdefault(row["cell"], []).append(row)
        else:
            (apart if has_result(row) else without).append(row)
    found = [Group(cell, *_heading(members), True, members) for cell, members in cells.items()]
    note = "the protocol gives no rank to rows that show these signs"
    found.append(Group("not ranked", "not ranked", note, False, apart))
    found.append(Group("without a result", "without a result", "", False, without))
    return [group for group in found if group.rows]


def cut(members: Iterable[Group], most: int) -> list[list[Group]]:
    """Returns groups over several pages, in order: no page has more than `most` rows.

    A group stays whole where it can. The note of a part of a group says which part it is.
    """
    pages: list[list[Group]] = [[]]
    for group in members:
        if pages[-1] and sum(len(one.rows) for one in pages[-1]) + len(group.rows) > most:
            pages.append([])
        for start in range(0, len(group.rows), most):
            if start:
                pages.append([])
            rows = group.rows[start : start + most]
            note = group.note
            if len(rows) < len(group.rows):
                which = f"rows {start + 1:,}–{start + len(rows):,} of {len(group.rows):,} here"
                note = f"{which}; {note}" if note else which
            pages[-1].append(replace(group, note=note, rows=rows))
    return pages


def mixed(rows: Sequence[Row]) -> Mixed:
    """Returns where the names of a board's rows alone do not tell them apart."""
    return Mixed(
        _several((_setting(row), text(row.get("seed"))) for row in rows),
        _several((str(row["cell"]), text(row.get("recipe"))) for row in rows),
    )


def _several(pairs: Iterable[tuple[Key, str]]) -> frozenset[Key]:
    """Returns the keys that occur with more than one value."""
    seen: dict[Key, set[str]] = {}
    for key, value in pairs:
        seen.setdefault(key, set()).add(value)
    return frozenset(key for key, values in seen.items() if len(values) > 1)


def _setting(row: Row) -> tuple[str, ...]:
    columns = ("method", "architecture", "objective", "structure", "sparsity", "recipe", "tier")
    return tuple(str(row[column]) for column in columns)


def _heading(rows: Sequence[Row]) -> tuple[str, str]:
    """Returns the title of a cell and what must be said of all its rows."""
    first = rows[0]
    dense = all(row["method"] == DENSE for row in rows)
    sparsity = f"{sparsity_percent(number(first['bucket']))} % sparsity"
    if first["bucket"] == 0:
        title = DENSE if dense else "below 50 % sparsity"
    else:
        title = f"{sparsity}, {text(first['structure'])}"
    tied = sum(bool(row["rank"] == 1) for row in rows)
    remarks = []
    if tied > 1:
        remarks.append(f"{tied} of {len(rows)} share the first rank: no test tells them apart")
    if any(row["incomplete"] for row in rows):
        remarks.append("incomplete: controls are missing")
    return f"{title}, {text(first['architecture'])}", "; ".join(remarks)


def board_row(row: Row, page: ProtocolPage, mixed: Mixed = Mixed()) -> BoardRow:
    """Returns a row of a board.

    Args:
        row: a ranked row.
        page: its protocol.
        mixed: where rows must name their seed or recipe.
    """
    printed, words = rank_in_words(row)
    measured = number(row.get("measured_sparsity"))
    claimed = number(row.get("sparsity"))
    return BoardRow(
        rank=printed,
        rank_words=words,
        rank_range=rank_range(row),
        order=int(row["rank"]) if ranked(row) else UNRANKED,
        name=display_name(row),
        variant=_variant(row, mixed),
        href=checkpoint_path(row),
        objective=text(row["objective"], 40),
        gain=gain(row) if ranked(row) else Gain(),
        sparsity=percent(measured if math.isfinite(measured) else claimed),
        clean=share(row, "clean_accuracy"),
        attacks=tuple(attack_share(row, attack.evaluation) for attack in page.attacks),
        interval=interval(row),
        flags=flags(row),
        badges=badges(row, page.digest),
        extra=tuple(column.value(row) for column in COLUMNS),
        facets=tuple((facet.key, facet.value(row)) for facet in FACETS),
    )


def _variant(row: Row, mixed: Mixed) -> str:
    """Returns what neither a row's name nor its group says."""
    apart = not ranked(row)
    structures = apart or (row["bucket"] == 0 and row["method"] != DENSE)
    parts = (
        text(row["architecture"], 40) if apart else "",
        text(row["structure"], 40) if structures else "",
        text(row.get("recipe"), 40) if str(row["cell"]) in mixed.recipes else "",
        f"seed {text(row.get('seed'), 20)}" if _setting(row) in mixed.seeds else "",
    )
    return ", ".join(part for part in parts if part)


def display_name(row: Row) -> str:
    """Returns how a row is called on the pages."""
    return text(row.get("display_name")) or text(row["method"])
