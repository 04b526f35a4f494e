"""How fast networks are, as a page and as a part of a checkpoint's page.

Times belong to the machine that took them: they stand beside its name, and no rank knows them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.report.shares import Row
from benchmark.report.views import Fact, checkpoint_path, display_name
from benchmark.report.wording import (
    MISSING,
    count,
    entries,
    milliseconds,
    number,
    scaled,
    sparsity_percent,
    text,
)

# As records name them, and as the pages do.
NETWORKS = {"dense": "dense parent", "masked": "as published", "compact": "compact"}


@dataclass(frozen=True)
class Time:
    """Milliseconds of a forward pass: the median over rounds, and the quartiles around it."""

    median: str = MISSING
    spread: str = ""


@dataclass(frozen=True)
class Times:
    """All networks at one batch size.

    Attributes:
        batch: inputs a pass, with their unit.
        times: in the order of `NETWORKS`.
        ratio: how many times the compact network goes into the published one.
    """

    batch: str
    times: tuple[Time, ...]
    ratio: str


@dataclass(frozen=True)
class Speed:
    """One checkpoint's sizes and times.

    Attributes:
        name: as displayed; `href` is its page.
        sparsity: of prunable parameters, in percent.
        parameters: of the compact network.
        multiply_adds: of the published network, zeros included, and of the compact one.
        times: one a batch size.
        processor: what took them.
        training: objective, recipe and seed.
        network: architecture and structure.
    """

    name: str
    href: str
    sparsity: str
    parameters: str
    multiply_adds: str
    times: tuple[Times, ...]
    processor: str
    training: str
    network: str

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Returns what is not in its table of times."""
        return (
            Fact("parameters of the compact network", self.parameters),
            Fact("multiply-adds, dense → compact", self.multiply_adds),
            Fact("times taken on", self.processor),
        )


@dataclass(frozen=True)
class Speeds:
    """The speeds of a protocol's checkpoints.

    Attributes:
        rows: by network, method and sparsity.
        batches: batch sizes with their units; each row has all of them.
    """

    rows: tuple[Speed, ...]
    batches: tuple[str, ...]


def speeds(rows: Sequence[Row]) -> Speeds | None:
    """Returns the speeds of a protocol's rows; None where no record has latencies.

    Args:
        rows: of one protocol; of a checkpoint's several tiers the first counts, since all are of
            one record.
    """
    measured: dict[str, Row] = {}
    for row in rows:
        if _batches(row):
            measured.setdefault(str(row["checkpoint_id"]), row)
    if not measured:
        return None
    batches = sorted({batch for row in measured.values() for batch in _batches(row)})
    return Speeds(
        rows=tuple(_speed(row, batches) for row in sorted(measured.values(), key=_order)),
        batches=tuple(_images(batch) for batch in batches),
    )


def speed(row: Row) -> Speed | None:
    """Returns the speed of a checkpoint, None where its record has no latencies."""
    batches = sorted(_batches(row))
    return _speed(row, batches) if batches else None


def _speed(row: Row, batches: Sequence[float]) -> Speed:
    found = {(text(one.get("network")), number(one.get("batch"))): one for one in _entries(row)}
    dense, small = row.get("multiply_adds_dense"), row.get("compact_multiply_adds")
    names = {name: text(row.get(name), 40) for name in ("objective", "recipe", "seed")}
    return Speed(
        name=display_name(row),
        href=checkpoint_path(row),
        sparsity=sparsity_percent(number(row.get("measured_sparsity"))),
        parameters=scaled(row.get("compact_parameters")),
        multiply_adds=f"{scaled(dense)} → {scaled(small)}",
        times=tuple(_times(found, batch) for batch in batches),
        processor=text(row.get("latency_processor"), 120) or MISSING,
        training=f"{names['objective']}, {names['recipe']}, seed {names['seed']}",
        network=f"{text(row['architecture'], 40)}, {text(row['structure'], 40)}",
    )


def _entries(row: Row) -> list[dict[str, Any]]:
    return [one for one in entries(row.get("latency")) if one.get("network") in NETWORKS]


def _batches(row: Row) -> set[float]:
    return {batch for one in _entries(row) if math.isfinite(batch := number(one.get("batch")))}


def _times(found: Mapping[tuple[str, float], Mapping[str, Any]], batch: float) -> Times:
    entry = {name: found.get((name, batch), {}) for name in NETWORKS}
    masked, small = (number(entry[name].get("median")) for name in ("masked", "compact"))
    return Times(
        batch=_images(batch),
        times=tuple(_time(each) for each in entry.values()),
        ratio=f"{masked / small:.2f}×" if masked > 0 and small > 0 else MISSING,
    )


def _time(entry: Mapping[str, Any]) -> Time:
    ends = [milliseconds(entry.get(name)) for name in ("lower", "upper")]
    return Time(milliseconds(entry.get("median")), "" if MISSING in ends else f"{' – '.join(ends)}")


def _images(batch: float) -> str:
    return "1 image" if batch == 1 else f"{count(batch)} images"


def _order(row: Row) -> tuple[object, ...]:
    columns = ("architecture", "structure", "method")
    sparsity = number(row.get("measured_sparsity"))
    more = (str(row.get(name)) for name in ("objective", "recipe", "seed", "checkpoint_id"))
    return (*(str(row[name]) for name in columns), sparsity, *more)
