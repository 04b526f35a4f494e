"""What a board can show beside its main columns, and what its rows can be filtered by."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmark.leaderboard import DENSE
from benchmark.report.shares import Row
from benchmark.report.wording import (
    MISSING,
    entries,
    milliseconds,
    number,
    percent,
    scaled,
    sparsity_percent,
    text,
)


@dataclass(frozen=True)
class Value:
    """A value as it is printed and as it is sorted: a number, or text where there is none."""

    printed: str
    order: str


@dataclass(frozen=True)
class Column:
    """A column that a reader can add to a board.

    Attributes:
        key: its name in addresses and style sheets.
        label: heading.
        meaning: what it holds.
        value: of a row.
        number: whether it holds numbers.
    """

    key: str
    label: str
    meaning: str
    value: Callable[[Row], Value]
    number: bool = False


@dataclass(frozen=True)
class Facet:
    """A property that rows can be filtered by: name in addresses, heading, and value of a row."""

    key: str
    label: str
    value: Callable[[Row], str]


def _words(name: str) -> Callable[[Row], Value]:
    def value(row: Row) -> Value:
        printed = text(row.get(name), 60)
        return Value(printed or MISSING, printed)

    return value


def _amount(name: str, printed: Callable[[float], str]) -> Callable[[Row], Value]:
    def value(row: Row) -> Value:
        amount = number(row.get(name))
        if not math.isfinite(amount):
            return Value(MISSING, "")
        return Value(printed(amount), f"{amount:.9g}")

    return value


def _seeds(row: Row) -> Value:
    """Returns the row's seed, and how many of its setting there are."""
    seed, seeds = text(row.get("seed"), 20), number(row.get("seeds"))
    printed = f"{seed} of {seeds:.0f}" if seeds > 1 else seed
    return Value(printed or MISSING, seed)


def _latency(row: Row) -> Value:
    """Returns the median latency of the compact network for one image, with its spread."""
    for one in entries(row.get("latency")):
        if text(one.get("network")) == "compact" and number(one.get("batch")) == 1:
            low, high = (milliseconds(one.get(name)) for name in ("lower", "upper"))
            median = number(one.get("median"))
            spread = f" ({low}–{high})" if MISSING not in (low, high) else ""
            return Value(f"{milliseconds(median)}{spread}", f"{median:.9g}")
    return Value(MISSING, "")


COLUMNS: tuple[Column, ...] = (
    Column(
        "certified",
        "Certified, %",
        "VRA, verified robust accuracy: the lower end of the interval",
        _amount("certified_accuracy", percent),
        True,
    ),
    Column("architecture", "Architecture", "network", _words("architecture")),
    Column("structure", "Structure", "what is removed as a whole", _words("structure")),
    Column("recipe", "Recipe", "training recipe", _words("recipe")),
    Column("pipeline", "Pipeline", "stages that spent epochs", _words("pipeline")),
    Column("seed", "Seed", "training seed, and how many there are", _seeds, True),
    Column(
        "compression",
        "Compression",
        "prunable parameters over those left",
        _amount("compression_ratio", lambda ratio: f"{ratio:.1f}×"),
        True,
    ),
    Column(
        "operations",
        "Multiply-adds",
        "of one input, without those by zero weights",
        _amount("multiply_adds_sparse", scaled),
        True,
    ),
    Column(
        "bytes",
        "Stored",
        "size of the weights file",
        _amount("bytes_stored", lambda size: scaled(size, "B")),
        True,
    ),
    Column(
        "latency",
        "Latency",
        "milliseconds of a pass of the compact network for one image, with quartiles",
        _latency,
        True,
    ),
    Column("evidence", "Evidence", "what stands behind the row", _words("evidence_level")),
)


def level(row: Row) -> str:
    """Returns the level of the sparsity grid that a row competes at, in words."""
    bucket = number(row.get("bucket"))
    if not math.isfinite(bucket):
        return ""
    if bucket == 0:
        return DENSE if row["method"] == DENSE else "below 50 %"
    return f"{sparsity_percent(bucket)} %"


def doubts(row: Row) -> str:
    """Returns whether flags stand against a row."""
    if text(row.get("unrankable")):
        return "costs the rank"
    return "flagged" if entries(row.get("flags")) else "none"


FACETS: tuple[Facet, ...] = (
    Facet("sparsity", "Sparsity", level),
    Facet("objective", "Objective", lambda row: text(row.get("objective"), 60)),
    Facet("structure", "Structure", lambda row: text(row.get("structure"), 60)),
    Facet("architecture", "Architecture", lambda row: text(row.get("architecture"), 60)),
    Facet("pipeline", "Pipeline", lambda row: text(row.get("pipeline"), 60)),
    Facet("evidence", "Evidence", lambda row: text(row.get("evidence_level"), 60)),
    Facet("flags", "Flags", doubts),
)
