"""What was evaluated of all that could be: methods × sparsities, each cell filled or with a reason.

The grid is the protocol's; which methods there are and what they cannot do comes from the caller.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.failures import Failure
from benchmark.findings.scope import UNSTRUCTURED
from benchmark.leaderboard import DENSE, SANITY, has_result, rankable
from benchmark.report.remarks import unrankable
from benchmark.report.shares import Row, why_missing
from benchmark.report.views import checkpoint_path
from benchmark.report.wording import MISSING, number, slug, sparsity_percent, text

# Why a method cannot do something: of method, sparsity, structure and objective; empty if it can.
Refusal = Callable[[str, float, str, str], str]

NOT_YET = "not evaluated yet"
ASKED_FOR = "only where asked for"

# So that the page stays a page.
MOST_LINES = 500
MOST_OFF_GRID = 12
MOST_SEEDS = 5


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
        note: what was left out, or stands instead of lines.
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
        failed: cells with a network that could not be trained.
        open: cells that were not evaluated yet.
        left_out: lines beyond `MOST_LINES`.
    """

    tables: tuple[Table, ...]
    filled: int
    refused: int
    failed: int
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
    failures: Iterable[Failure] = (),
) -> Coverage:
    """Returns what was evaluated.

    Args:
        rows: of one protocol, of all tiers.
        grid: sparsities by structure; 0 is the dense network's.
        methods: those that could be evaluated, beside those that were.
        refusal: why a method cannot do something.
        failures: networks that could not be trained.
    """
    lost: dict[_Training, dict[_Place, list[Failure]]] = {}
    for one in sorted(failures, key=lambda one: one.network.seed):
        it = one.network
        level = sparsity_percent(float(it.sparsity))
        place = (DENSE, DENSE, "0") if it.method == DENSE else (it.structure, it.method, level)
        failed = lost.setdefault((it.objective, it.architecture, one.recipe), {})
        failed.setdefault(place, []).append(one)
    trainings: dict[_Training, dict[_Place, list[Row]]] = {}
    for row in rows:
        training = (text(row["objective"]), text(row["architecture"]), text(row.get("recipe")))
        trainings.setdefault(training, {}).setdefault(_place(row), []).append(row)
    tables: list[Table] = []
    room, left_out = MOST_LINES, 0
    for training in sorted({*trainings, *lost}):
        places, failed = trainings.get(training, {}), lost.get(training, {})
        for structure, levels in grid.items():
            # A table without lines takes the room of one.
            made = _table(
                _Cells(training, structure, levels, places, failed, methods, refusal), room
            )
            left_out += made[1]
            if made[0] is not None:
                tables.append(made[0])
                room -= max(1, len(made[0].lines))
    slots = [slot for table in tables for line in table.lines for slot in line.slots]
    return Coverage(
        tables=tuple(tables),
        filled=sum(place[0] != DENSE for places in trainings.values() for place in places),
        refused=sum(slot.span for slot in slots if slot.reason.startswith(_REFUSED)),
        failed=sum(place[0] in grid for failed in lost.values() for place in failed),
        open=sum(slot.span for slot in slots if slot.reason == NOT_YET),
        left_out=left_out,
    )


_REFUSED = "not supported"


def _place(row: Row) -> _Place:
    if row["method"] == DENSE:
        return DENSE, DENSE, "0"
    level = sparsity_percent(number(row.get("sparsity")))
    return text(row["structure"]), text(row["method"]), level


@dataclass(frozen=True)
class _Cells:
    """What one table is made from.

    Attributes:
        training: objective, architecture and recipe.
        structure: of what is removed.
        grid: sparsities of the protocol.
        places: rows of the training, of all structures.
        lost: what could not be trained of it.
        methods: those that could be evaluated.
        refusal: why one cannot do something.
    """

    training: _Training
    structure: str
    grid: Sequence[float]
    places: Mapping[_Place, Sequence[Row]]
    lost: Mapping[_Place, Sequence[Failure]]
    methods: Sequence[str]
    refusal: Refusal | None

    def at(self, place: _Place) -> Slot | None:
        """Returns the cell of networks that were tried; None where none was."""
        return _filled(self.places.get(place, ()), self.lost.get(place, ()))

    def why(self, method: str, sparsity: float) -> str:
        """Returns why a cell is empty."""
        if method not in self.methods:
            # Variants and controls of a method are no part of the grid.
            known = method.partition(":")[0] in self.methods or method.startswith(SANITY)
            return ASKED_FOR if known else NOT_YET
        if sparsity not in self.grid:
            return ASKED_FOR
        if self.refusal is None:
            return NOT_YET
        reason = self.refusal(method, sparsity, self.structure, self.training[0])
        return f"{_REFUSED}: {reason}" if reason else NOT_YET


def _table(cells: _Cells, room: int) -> tuple[Table | None, int]:
    """Returns a table of at most so many lines, and how many more there are.

    None where nothing of this structure was trained, and nothing could be.
    """
    tried = {*cells.places, *cells.lost}
    own = {place for place in tried if place[0] == cells.structure}
    names = sorted({*(m for m in cells.methods if m != DENSE), *(method for _, method, _ in own)})
    if room <= 0:
        return None, len(names) if own else 0
    parts = (cells.training[0], cells.structure, *cells.training[1:])
    title = ", ".join(part for part in parts if part)
    dense = cells.at((DENSE, DENSE, "0")) or Slot(reason=NOT_YET)
    if not own:
        note = _untrained(cells)
        return (Table(slug(title), title, (), dense, (), note) if note else None), 0
    levels, note = _columns(cells, own)
    variants = _variants(place for place in cells.places if place[0] == cells.structure)
    lines = tuple(_line(cells, method, levels, variants) for method in names[:room])
    return Table(slug(title), title, tuple(levels), dense, lines, note), len(names) - len(lines)


def _untrained(cells: _Cells) -> str:
    """Returns what could be trained where nothing was; said once, of single weights."""
    if cells.structure != UNSTRUCTURED:
        return ""
    largest = max(cells.grid, default=0.0)
    can = [m for m in cells.methods if m != DENSE and cells.why(m, largest) == NOT_YET]
    if not can:
        return ""
    return f"{_no_network(cells, 'pruned network')} was evaluated yet: {', '.join(can)} could be."


def _no_network(cells: _Cells, network: str) -> str:
    """Returns which networks there are none of; those of other structures may have been evaluated.

    >>> _no_network(_Cells(("adversarial", "cnn", "a"), "filter", (), {}, {}, (), None), "network")
    'No network of this training with pruned filters'
    """
    if cells.structure != UNSTRUCTURED:
        return f"No network of this training with pruned {cells.structure}s"
    if any(structure not in (DENSE, UNSTRUCTURED) for structure, _, _ in cells.places):
        return "No network of this training with single weights pruned"
    return f"No {network} of this training"


def _columns(cells: _Cells, own: Iterable[_Place]) -> tuple[dict[str, float], str]:
    """Returns sparsities at which anything stands, by their words, and what is no column.

    A sparsity at which no method was trained so is no hole in a comparison: it is told once.
    """
    reached = {level for _, _, level in own}
    grid = {sparsity_percent(level): level for level in cells.grid if level > 0}
    others = sorted(reached - grid.keys(), key=_share)
    shown = {level: share for level, share in grid.items() if level in reached}
    shown |= {level: _share(level) for level in others[:MOST_OFF_GRID]}
    bare = [f"{level} %" for level in grid if level not in reached]
    notes = [f"{_no_network(cells, 'network')} was evaluated at {', '.join(bare)}."] if bare else []
    if (more := len(others) - MOST_OFF_GRID) > 0:
        notes.append(f"{more:,} more sparsities off the grid are left out.")
    return dict(sorted(shown.items(), key=lambda one: one[1])), " ".join(notes)


def _share(level: str) -> float:
    return 0.0 if level == MISSING else float(level) / 100


def _line(
    cells: _Cells, method: str, levels: Mapping[str, float], variants: Mapping[tuple[str, str], str]
) -> Line:
    slots = []
    for level, sparsity in levels.items():
        filled = cells.at((cells.structure, method, level))
        reason = cells.why(method, sparsity)
        if reason == NOT_YET and (variant := variants.get((method, level))):
            reason = f"only as {variant}"
        slots.append(filled or Slot(reason=reason))
    return Line(method, tuple(_joined(slots)))


def _variants(own: Iterable[_Place]) -> dict[tuple[str, str], str]:
    """Returns a variant of a method at a level, where there is one."""
    found: dict[tuple[str, str], str] = {}
    for _, method, level in sorted(own):
        if ":" in method:
            found.setdefault((method.partition(":")[0], level), method)
    return found


def _filled(rows: Sequence[Row], lost: Sequence[Failure]) -> Slot | None:
    """Returns the cell of one network's rows, of all seeds and tiers; None without any.

    Seeds that could not be trained are named beside those that could.
    """
    untrained = _untrainable(lost)
    if not rows:
        return Slot(reason=untrained) if lost else None
    standing = [row for row in rows if has_result(row)]
    if not standing:
        reason = _joined_words(why_missing(rows[0]), untrained)
        return Slot(href=checkpoint_path(rows[0]), reason=reason)
    # Each seed by its largest tier.
    trained: dict[float, Row] = {}
    for row in sorted(standing, key=lambda row: number(row["examples"])):
        trained[number(row.get("seed"))] = row
    seeds = [trained[seed] for seed in sorted(trained)]
    largest = max(seeds, key=lambda row: number(row["examples"]))
    alike = sum(row["tier"] == largest["tier"] for row in seeds)
    apart = [row for row in seeds if not rankable(row)]
    some = f"{len(apart)} of {len(seeds)} seeds without rank" if len(seeds) > 1 else "no rank"
    unranked = f"{some}: {unrankable(apart[0])}" if apart else ""
    return Slot(
        seeds=f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {text(seeds[0].get('seed'), 20)}",
        tier=f"{text(largest['tier'])}{f' for {alike}' if alike < len(seeds) else ''}",
        href=checkpoint_path(seeds[0]),
        reason=_joined_words(unranked, untrained),
    )


def _joined_words(*reasons: str) -> str:
    return "; ".join(reason for reason in reasons if reason)


def _untrainable(lost: Sequence[Failure]) -> str:
    """Returns which seeds could not be trained, and what stopped the first; empty without any."""
    if not lost:
        return ""
    seeds = ", ".join(str(one.network.seed) for one in lost[:MOST_SEEDS])
    more = ", …" if len(lost) > MOST_SEEDS else ""
    return f"could not be trained (seed {seeds}{more}): {text(lost[0].error, 300)}"


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
