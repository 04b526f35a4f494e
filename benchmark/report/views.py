"""From ranked rows to what a page shows: small frozen values, every number already in words.

Templates decide where a value stands, never how it reads or what it means.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.leaderboard import DENSE, has_result
from benchmark.report.wording import (
    MISSING,
    count,
    entries,
    flag_words,
    folder,
    number,
    percent,
    slug,
    sparsity_percent,
    text,
)
from benchmark.statistics import wilson

Row = Mapping[Any, Any]


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
    """

    id: str
    title: str
    threat: str
    version: int | str
    digest: str
    description: str
    settings: list[tuple[str, str]]
    tiers: dict[str, int]

    @property
    def folder(self) -> str:
        """Returns the folder of the protocol's pages under the site."""
        return folder(self.id)

    @property
    def paragraphs(self) -> list[str]:
        """Returns the description's paragraphs."""
        return [" ".join(part.split()) for part in self.description.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class Share:
    """A share of examples.

    Attributes:
        value: in [0, 1]; NaN when missing.
        interval: its 95 % Wilson interval in percent, such as `67.1–74.3`; empty when unknown.
        reason: why it is missing; empty when it is not.
    """

    value: float
    interval: str = ""
    reason: str = ""

    @property
    def printed(self) -> str:
        """Returns percent with one decimal, or an em dash."""
        return percent(self.value)

    @property
    def known(self) -> bool:
        """Returns whether there is a number."""
        return math.isfinite(self.value)

    @property
    def width(self) -> str:
        """Returns the share as a coordinate in a bar of width 100."""
        return f"{100 * self.value:.2f}" if self.known else "0"


@dataclass(frozen=True)
class Interval:
    """The interval [certified, attacked] of a row; its clean accuracy is the mark beside it."""

    certified: Share
    attacked: Share
    clean: Share

    @property
    def known(self) -> bool:
        """Returns whether at least the upper end is known."""
        return self.attacked.known

    @property
    def printed(self) -> str:
        """Returns `[certified, attacked]` in percent."""
        return f"[{self.certified.printed}, {self.attacked.printed}]"

    @property
    def open_width(self) -> str:
        """Returns the width of the part neither proven nor broken, in a bar of width 100."""
        low = self.certified.value if self.certified.known else 0.0
        return f"{max(0.0, 100 * (self.attacked.value - low)):.2f}" if self.known else "0"

    @property
    def words(self) -> str:
        """Returns the bar's content as a sentence."""
        if not self.known:
            return "No result."
        proven = (
            f"{self.certified.printed} % certified"
            if self.certified.known
            else "no certified accuracy"
        )
        return f"{proven}, {self.attacked.printed} % robust, {self.clean.printed} % clean."


@dataclass(frozen=True)
class FlagView:
    """A flag in words; `rate` is printed with its sign, `informational` flags cast no doubt."""

    words: str
    meaning: str
    rate: str
    detail: str
    informational: bool


@dataclass(frozen=True)
class BoardRow:
    """One line of a board."""

    rank: str
    rank_words: str
    name: str
    variant: str
    href: str
    objective: str
    architecture: str
    structure: str
    sparsity: str
    clean: Share
    pgd: Share
    autoattack: Share
    interval: Interval
    flags: tuple[FlagView, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """Rows that are ranked against each other."""

    title: str
    note: str
    rows: tuple[BoardRow, ...]

    @property
    def leaders(self) -> tuple[BoardRow, ...]:
        """Returns the rows that share the first rank."""
        return tuple(row for row in self.rows if row.rank in ("1", "=1"))


@dataclass(frozen=True)
class Board:
    """The table of one tier."""

    tier: str
    examples: str
    margin: str
    threat: str
    cells: tuple[Cell, ...]
    unranked: tuple[BoardRow, ...]

    @property
    def ranked(self) -> int:
        """Returns the number of rows with a rank."""
        return sum(len(cell.rows) for cell in self.cells)


def share(row: Row, column: str) -> Share:
    """Returns an accuracy of a row with its interval, or why it is missing."""
    value, examples = number(row.get(column)), number(row.get("examples"))
    if not math.isfinite(value):
        return Share(math.nan, reason=_why_missing(row))
    return counted(value, examples)


def counted(value: float, examples: float) -> Share:
    """Returns a share with the Wilson interval of so many examples (none below one example)."""
    if not examples >= 1:
        return Share(value)
    total = int(examples)
    low, high = wilson(min(total, max(0, round(value * total))), total)
    return Share(value, f"{percent(low)}–{percent(high)}")


def _why_missing(row: Row) -> str:
    status, reason = text(row.get("status"), 20), text(row.get("reason"), 200)
    if status == "done":
        return "not part of this evaluation"
    return f"{status}: {reason}" if reason else status or "not evaluated"


def interval(row: Row) -> Interval:
    """Returns the interval [certified, attacked] of a row."""
    return Interval(
        share(row, "certified_accuracy"),
        share(row, "robust_accuracy"),
        share(row, "clean_accuracy"),
    )


def checkpoint_path(row: Row) -> str:
    """Returns where a checkpoint's page lies under the site."""
    return f"{folder(str(row['protocol']))}/{slug(str(row['checkpoint_id']))}.html"


def flags(row: Row) -> tuple[FlagView, ...]:
    """Returns the row's flags in words, doubts before information."""
    found = []
    for flag in entries(row.get("flags")):
        known = flag_words(text(flag.get("name")))
        rate = number(flag.get("rate"))
        found.append(
            FlagView(
                known.words,
                known.meaning,
                f"{percent(rate)} %" if math.isfinite(rate) else "",
                text(flag.get("detail"), 300),
                known.informational,
            )
        )
    return tuple(sorted(found, key=lambda flag: (flag.informational, flag.words)))


def boards(page: ProtocolPage, rows: Sequence[Row]) -> list[Board]:
    """Returns a board for each tier with rows, the one with most results first.

    Args:
        page: the protocol.
        rows: its ranked rows, in leaderboard order.
    """
    tiers = list(dict.fromkeys(text(row["tier"]) for row in rows))
    found = [
        _board(page, tier, [row for row in rows if text(row["tier"]) == tier]) for tier in tiers
    ]
    sizes = {board.tier: page.tiers.get(board.tier, 0) for board in found}
    return sorted(found, key=lambda board: (-board.ranked, -sizes[board.tier], board.tier))


def _board(page: ProtocolPage, tier: str, rows: Sequence[Row]) -> Board:
    seeds = _seeded(rows)
    standing = [row for row in rows if has_result(row)]
    examples = max((number(row["examples"]) for row in standing), default=math.nan)
    if not math.isfinite(examples):
        examples = number(page.tiers.get(tier))
    margin = ""
    if examples >= 1:
        low, high = wilson(int(examples) // 2, int(examples))
        margin = f"{50 * (high - low):.1f}"
    cells = list(dict.fromkeys(row["cell"] for row in standing))
    return Board(
        tier=tier,
        examples=count(examples),
        margin=margin,
        threat=text(page.threat),
        cells=tuple(
            _cell([row for row in standing if row["cell"] == cell], page, seeds) for cell in cells
        ),
        unranked=tuple(board_row(row, page, seeds) for row in rows if not has_result(row)),
    )


def _seeded(rows: Iterable[Row]) -> frozenset[tuple[str, ...]]:
    """Returns the settings that occur with several seeds: only their rows need to name the seed."""
    seen: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        seen.setdefault(_setting(row), set()).add(text(row.get("seed")))
    return frozenset(setting for setting, seeds in seen.items() if len(seeds) > 1)


def _setting(row: Row) -> tuple[str, ...]:
    columns = ("method", "architecture", "objective", "structure", "sparsity", "recipe", "tier")
    return tuple(str(row[column]) for column in columns)


def _cell(rows: Sequence[Row], page: ProtocolPage, seeds: frozenset[tuple[str, ...]]) -> Cell:
    first = rows[0]
    dense = all(row["method"] == DENSE for row in rows)
    sparsity = f"{sparsity_percent(number(first['bucket']))} % sparsity"
    if first["bucket"] == 0:
        title = DENSE if dense else "below 50 % sparsity"
    else:
        title = f"{sparsity}, {text(first['structure'])}"
    tied = sum(bool(row["rank"] == 1) for row in rows)
    note = f"{tied} of {len(rows)} share the first rank" if tied > 1 else ""
    return Cell(
        f"{title}, {text(first['architecture'])}",
        note,
        tuple(board_row(row, page, seeds) for row in rows),
    )


def board_row(
    row: Row, page: ProtocolPage, seeds: frozenset[tuple[str, ...]] = frozenset()
) -> BoardRow:
    """Returns a row of a board.

    Args:
        row: a ranked row.
        page: its protocol.
        seeds: the settings whose rows must name their seed.
    """
    printed, words = _rank(row)
    measured = number(row.get("measured_sparsity"))
    claimed = number(row.get("sparsity"))
    return BoardRow(
        rank=printed,
        rank_words=words,
        name=display_name(row),
        variant=f"seed {text(row.get('seed'), 20)}" if _setting(row) in seeds else "",
        href=checkpoint_path(row),
        objective=text(row["objective"], 40),
        architecture=text(row["architecture"], 40),
        structure=text(row["structure"], 40),
        sparsity=percent(measured if math.isfinite(measured) else claimed),
        clean=share(row, "clean_accuracy"),
        pgd=share(row, "pgd_accuracy"),
        autoattack=share(row, "autoattack_accuracy"),
        interval=interval(row),
        flags=flags(row),
        notes=(*_status_notes(row), *notes(row, page)),
    )


def display_name(row: Row) -> str:
    """Returns how a row is called on the pages."""
    return text(row.get("display_name")) or text(row["method"])


def _rank(row: Row) -> tuple[str, str]:
    """Returns a rank and what stands behind it."""
    if not has_result(row):
        return MISSING, "no rank: not evaluated to the end"
    place, p = int(row["rank"]), number(row["p_best"])
    if not row["rivals"]:
        return "1", "the only row of its group"
    if place == 1 and not row["tied_with_best"]:
        return "1", "most robust of its group"
    probability = f" (p = {p:.2g}, exact McNemar, Holm-adjusted)" if math.isfinite(p) else ""
    if row["tied_with_best"]:
        return "=1", f"no test tells it from the best of its group{probability}"
    return str(place), f"less robust than the best of its group{probability}"


def _status_notes(row: Row) -> tuple[str, ...]:
    return () if text(row.get("status")) == "done" else (_why_missing(row),)


def notes(row: Row, page: ProtocolPage) -> tuple[str, ...]:
    """Returns what must be said about a row beside its flags."""
    found = []
    if row["incomplete"]:
        found.append(f"lacks controls: {text(row['missing_controls'])}")
    extra = text(row.get("extra_data"), 60)
    if extra and extra.lower() not in ("none", "no", "-"):
        found.append(f"extra data: {extra}")
    digest = text(row.get("protocol_digest"))
    if digest and digest != page.digest:
        found.append("evaluated under another version of the protocol")
    return tuple(found)
