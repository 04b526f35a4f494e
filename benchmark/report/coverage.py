"""What was evaluated of all that could be: methods × sparsities, each cell filled or with a reason.

The grid is the protocol's; which methods there are and what they cannot do comes from the caller.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.leaderboard import DENSE, SANITY, has_result, rankable
from benchmark.report.remarks import unrankable
from benchmark.report.shares import Row, why_missing
from benchmark.report.views import checkpoint_path
from benchmark.report.wording import number, slug, sparsity_percent, text

# Why a method cannot do something: of method, sparsity, structure and objective; empty if it can.
Refusal = Callable[[str, float, str, str], str]

NOT_YET = "not evaluated yet"
ASKED_FOR = "only where asked for"

# So that the page stays a page.
MOST_LINES = 500


@dataclass(frozen=True)
class Slot:
    """One cell of a table.

    Attributes:
        seeds: how many, in words; empty where nothing was evaluated.
        tier: the largest, of any seed; with its examples.
        href: of the page of the first seed.
        reason: why there is no number, or no rank.
        span: columns that share the reason.
    """

    seeds: str = ""
    tier: str = ""
    href: str = ""
    reason: str = ""
    span: int = 1


@dataclass(frozen=True)
class Line:
    """A method's cells."""

    method: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Table:
    """Methods × sparsities of one training and structure.

    Attributes:
        anchor: names it on the page.
        title: objective, structure, network and recipe.
        levels: sparsities, in percent.
        dense: the dense network of the same training.
        lines: a method each.
        note: what must be said instead of lines where there are none.
    """

    anchor: str
    title: str
    levels: tuple[str, ...]
    dense: Slot
    lines: tuple[Line, ...]
    note: str = ""


@dataclass(frozen=True)
class Coverage:
    """All tables of a protocol, and what they come to.

    Attributes:
        tables: of each training that occurs.
        filled: cells with a record.
        refused: cells that a method does not support.
        open: cells that were not evaluated yet.
        left_out: lines beyond `MOST_LINES`.
    """

    tables: tuple[Table, ...]
    filled: int
    refused: int
    open: int
    left_out: int


# Objective, architecture and recipe.
_Training = tuple[str, str, str]
# Structure, method and level in percent.
_Place = tuple[str, str, str]


def coverage(
    rows: Iterable[Row],
    grid: Mapping[str, Sequence[float]],
    methods: Sequence[str],
    refusal: Refusal | None = None,
) -> Coverage:
    """Returns what was evaluated.

    Args:
        rows: of one protocol, of all tiers.
        grid: sparsities by structure; 0 is the dense network's.
        methods: those that could be evaluated, beside those that were.
        refusal: why a method cannot do something.
    """
    trainings: dict[_Training, dict[_Place, list[Row]]] = {}
    for row in rows:
        training = (text(row["objective"]), text(row["architecture"]), text(row.get("recipe")))
        places = trainings.setdefault(training, {})
        places.setdefault(_place(row), []).append(row)
    tables: list[Table] = []
    room = MOST_LINES
    for training, places in sorted(trainings.items()):
        for structure, levels in grid.items():
            made = _table(training, structure, levels, places, methods, refusal)
            if made is not None:
                tables.append(made)
    found, left_out = [], 0
    for table in tables:
        shown = table.lines[:room]
        room -= len(shown)
        left_out += len(table.lines) - len(shown)
        if shown or table.note:
            found.append(Table(**{**vars(table), "lines": shown}))
    slots = [slot for table in tables for line in table.lines for slot in line.slots]
    filled = sum(bool(slot.href) for slot in slots)
    unfilled = sum(slot.span for slot in slots if slot.reason == NOT_YET)
    refused = sum(slot.span for slot in slots if slot.reason.startswith(_REFUSED))
    return Coverage(tuple(found), filled, refused, unfilled, left_out)


_REFUSED = "not supported"


def _place(row: Row) -> _Place:
    if row["method"] == DENSE:
        return DENSE, DENSE, "0"
    level = sparsity_percent(number(row.get("sparsity")))
    return text(row["structure"]), text(row["method"]), level


def _table(
    training: _Training,
    structure: str,
    levels: Sequence[float],
    places: Mapping[_Place, Sequence[Row]],
    methods: Sequence[str],
    refusal: Refusal | None,
) -> Table | None:
    """Returns a table; None where nothing of this structure was trained, and nothing could be."""
    objective, architecture, recipe = training
    own = {place: rows for place, rows in places.items() if place[0] == structure}
    title = ", ".join(part for part in (objective, structure, architecture, recipe) if part)
    dense = _filled(places.get((DENSE, DENSE, "0"), ())) or Slot(reason=NOT_YET)
    head = {"anchor": slug(title), "title": title, "dense": dense}
    if not own:
        can = [m for m in methods if m != DENSE and not _refused(refusal, m, levels, training)]
        if structure != "unstructured" or not can:
            return None
        note = f"No pruned network of this training was evaluated yet: {', '.join(can)} could be."
        return Table(**head, levels=(), lines=(), note=note)  # type: ignore[arg-type]
    # Levels off the grid that occur are shown, too.
    wanted = {sparsity_percent(level): level for level in levels if level > 0}
    wanted |= {level: float(level) / 100 for _, _, level in own if level not in wanted}
    columns = sorted(wanted, key=lambda level: wanted[level])
    names = sorted({*(m for m in methods if m != DENSE), *(method for _, method, _ in own)})
    lines = []
    for method in names:
        slots = []
        for level in columns:
            slot = _filled(own.get((structure, method, level), ()))
            if slot is None and wanted[level] not in levels:
                slot = Slot(reason=ASKED_FOR)
            elif slot is None:
                why = _why(refusal, method, wanted[level], structure, objective, methods)
                slot = Slot(reason=why)
            slots.append(slot)
        lines.append(Line(method, tuple(_joined(slots))))
    return Table(**head, levels=tuple(columns), lines=tuple(lines))  # type: ignore[arg-type]


def _refused(
    refusal: Refusal | None, method: str, levels: Sequence[float], training: _Training
) -> str:
    largest = max(levels, default=0.0)
    return refusal(method, largest, "unstructured", training[0]) if refusal else ""


def _why(
    refusal: Refusal | None,
    method: str,
    sparsity: float,
    structure: str,
    objective: str,
    methods: Sequence[str],
) -> str:
    """Returns why a cell is empty."""
    base = method.partition(":")[0]
    if method not in methods:
        # Variants and controls of a method are no part of the grid.
        return ASKED_FOR if base in methods or method.startswith(SANITY) else NOT_YET
    reason = refusal(method, sparsity, structure, objective) if refusal else ""
    return f"{_REFUSED}: {reason}" if reason else NOT_YET


def _filled(rows: Sequence[Row]) -> Slot | None:
    """Returns the cell of one network's rows, of all seeds and tiers; None without any."""
    if not rows:
        return None
    standing = [row for row in rows if has_result(row)]
    if not standing:
        return Slot(href=checkpoint_path(rows[0]), reason=why_missing(rows[0]))
    # Each seed by its largest tier.
    trained: dict[float, Row] = {}
    for row in sorted(standing, key=lambda row: number(row["examples"])):
        trained[number(row.get("seed"))] = row
    seeds = [trained[seed] for seed in sorted(trained)]
    largest = max(seeds, key=lambda row: number(row["examples"]))
    alike = sum(row["tier"] == largest["tier"] for row in seeds)
    apart = [row for row in seeds if not rankable(row)]
    some = f"{len(apart)} of {len(seeds)} seeds without rank" if len(seeds) > 1 else "no rank"
    return Slot(
        seeds=f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {text(seeds[0].get('seed'), 20)}",
        tier=f"{text(largest['tier'])}{f' for {alike}' if alike < len(seeds) else ''}",
        href=checkpoint_path(seeds[0]),
        reason=f"{some}: {unrankable(apart[0])}" if apart else "",
    )


def _joined(slots: Iterable[Slot]) -> Iterable[Slot]:
    """Yields cells, neighbours that are empty for the same reason as one."""
    waiting: Slot | None = None
    for slot in slots:
        alike = waiting is not None and not waiting.href and slot == Slot(reason=waiting.reason)
        if waiting is not None and alike:
            waiting = Slot(reason=waiting.reason, span=waiting.span + 1)
            continue
        if waiting is not None:
            yield waiting
        waiting = slot
    if waiting is not None:
        yield waiting
