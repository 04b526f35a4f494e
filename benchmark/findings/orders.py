"""Where PGD, AutoAttack and the certificate order methods otherwise: by cell, with paired tests."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.findings.scope import UNSTRUCTURED, standing
from benchmark.findings.values import (
    Finding,
    Section,
    Sentence,
    counted,
    level,
    listed,
    name,
    points,
    probability,
    sentence,
)
from benchmark.leaderboard import (
    SIGNIFICANCE,
    Row,
    as_number,
    best_known,
    bucket,
    sparsity_of,
    stacked,
)
from benchmark.statistics import (
    Bools,
    Floats,
    difference_interval,
    holm,
    kendall_tau,
    mcnemar_pairs,
)

# Outcomes by which methods are ordered, and how one is ahead or behind.
MEASURES = {"pgd": "under PGD", "autoattack": "under AutoAttack", "certified": "by certificate"}
NAMES = {"pgd": "PGD", "autoattack": "AutoAttack", "certified": "certificate"}
COMBINATIONS = (("pgd", "autoattack"), ("autoattack", "certified"), ("pgd", "certified"))

# So that a page stays a page: cells, methods of a cell, and reversed pairs of two measures.
MOST_CELLS, MOST_METHODS, MOST_PAIRS = 40, 30, 5

_CELL = ("protocol_digest", "architecture", "structure", "recipe", "objective")

# A cell, then what a row of it is over: its tier, the digest of its examples, and its seed.
_Cell = tuple[str, ...]
_Sample = tuple[str, str, int]


@dataclass(frozen=True)
class Contest:
    """Methods of a cell over the same examples.

    Attributes:
        rows: one a method, the most robust first.
        left_out: methods beyond `MOST_METHODS`.
        outcomes: (M, N) by measure.
    """

    rows: tuple[Row, ...]
    left_out: int
    outcomes: Mapping[str, Bools]

    @property
    def combinations(self) -> list[tuple[str, str]]:
        """Returns the pairs of measures that every row has."""
        return [pair for pair in COMBINATIONS if all(one in self.outcomes for one in pair)]


@dataclass(frozen=True)
class Compared:
    """How two measures order the methods of a cell.

    Attributes:
        measures: the two.
        tau: Kendall's tau-b between them.
        pairs: of methods.
        p: of each pair (upper triangle, row by row), that both measures tell the two apart: the
            larger of two exact McNemar tests.
        signs: of each pair by each measure: 1 where the first is ahead, -1 where it is behind.
    """

    measures: tuple[str, str]
    tau: float
    pairs: tuple[tuple[int, int], ...]
    p: Floats
    signs: tuple[Floats, Floats]


def disagreements(rows: Iterable[Row]) -> Section | None:
    """Returns where the measures disagree about the order of methods; None without two to order.

    Args:
        rows: of one protocol, of any tiers.
    """
    cells = _cells(standing(rows)[0])
    contests = [one for one in map(_contest, cells[:MOST_CELLS]) if one.combinations]
    if not contests:
        return None
    compared = [[_compare(one, pair) for pair in one.combinations] for one in contests]
    # One family for the whole page: a reader looks at all of them.
    flat = [float(p) for each in compared for one in each for p in one.p]
    adjusted, findings, at = holm(flat), [], 0
    for contest, each in zip(contests, compared, strict=True):
        sentences: list[Sentence] = []
        summaries: list[str] = []
        reversed_: set[int] = set()
        for one in each:
            ps = adjusted[at : at + len(one.p)]
            at += len(one.p)
            found = [place for place in _reversed(one, ps) if place not in reversed_]
            # A pair that PGD and AutoAttack order alike is told once.
            reversed_ |= set(found)
            summaries.append(_summary(one, ps))
            sentences += [_pair(contest, one, place, ps[place]) for place in found[:MOST_PAIRS]]
            if len(found) > MOST_PAIRS:
                sentences.append(_rest(contest, one, found[MOST_PAIRS:]))
        findings.append(_finding(contest, summaries, sentences, len(reversed_)))
    findings.sort(key=lambda finding: not finding.title.endswith(_DISAGREE))
    return Section(
        key="orders",
        title="Where the measures order methods otherwise",
        lead=(
            "Within a cell (one architecture, structure, sparsity and training) methods are "
            "ordered by accuracy under PGD, under AutoAttack and by certificate. Tau-b is 1 where "
            "two orders are the same and −1 where they are opposite. A pair is separated where "
            "exact McNemar tests tell the two apart under both measures; the larger of the two p "
            f"is corrected after Holm over all {len(flat):,} pairs of this section. One seed "
            "stands for each method, and none that a flag keeps off the ranking."
        ),
        findings=tuple(findings),
        left_out=_left_out(len(cells), contests),
    )


_DISAGREE = "reversed"


def _left_out(cells: int, contests: Sequence[Contest]) -> str:
    said = []
    if cells > MOST_CELLS:
        said.append(f"the {MOST_CELLS} cells with most methods are looked at, of {cells:,}")
    if any(one.left_out for one in contests):
        said.append(f"of each cell its {MOST_METHODS} most robust methods")
    return listed(said).capitalize() + "." if said else ""


def _cells(rows: Iterable[Row]) -> list[list[Row]]:
    """Returns the rows of each cell that may meet: one a method, those with most methods first."""
    cells: dict[_Cell, dict[_Sample, dict[str, Row]]] = {}
    for row in rows:
        if bucket(sparsity_of(row)) == 0:
            continue
        cell = (*(str(row.get(column)) for column in _CELL), f"{sparsity_of(row):.6f}")
        seed = as_number(row.get("seed"))
        sample = name(row, "tier"), str(row.get("data_digest")), int(seed if seed == seed else 0)
        cells.setdefault(cell, {}).setdefault(sample, {}).setdefault(name(row, "method"), row)
    found = [(cell, _largest(samples)) for cell, samples in cells.items()]
    found.sort(key=lambda one: (-len(one[1]), one[0]))
    return [members for _, members in found if len(members) > 1]


def _largest(samples: Mapping[_Sample, Mapping[str, Row]]) -> list[Row]:
    """Returns rows over the same examples: most methods, then most examples, then lowest seed."""

    def worth(sample: _Sample) -> tuple[float, float, int, str]:
        members = samples[sample]
        examples = max(as_number(row["examples"]) for row in members.values())
        return len(members), examples, -sample[2], sample[1]

    return list(samples[max(samples, key=worth)].values())


def _contest(rows: Sequence[Row]) -> Contest:
    ordered = sorted(rows, key=lambda row: (-best_known(row), name(row, "checkpoint_id", 300)))
    kept = ordered[:MOST_METHODS]
    there = [one for one in MEASURES if all(one in row["outcomes"] for row in kept)]
    outcomes = {one: stacked(kept, one) for one in there}
    return Contest(tuple(kept), len(ordered) - len(kept), outcomes)


def _compare(contest: Contest, measures: tuple[str, str]) -> Compared:
    upper = np.triu_indices(len(contest.rows), 1)
    counts = [contest.outcomes[one].sum(axis=1) for one in measures]
    ps = [mcnemar_pairs(contest.outcomes[one])[upper] for one in measures]
    signs = [np.sign(right[upper[0]] - right[upper[1]]).astype(np.float64) for right in counts]
    return Compared(
        measures=measures,
        tau=kendall_tau(counts[0].tolist(), counts[1].tolist()),
        pairs=tuple(zip(*(places.tolist() for places in upper), strict=True)),
        p=np.maximum(*ps),
        signs=(signs[0], signs[1]),
    )


def _reversed(one: Compared, ps: Sequence[float]) -> Iterator[int]:
    """Yields the places of pairs that both measures tell apart, and order otherwise."""
    opposite = one.signs[0] * one.signs[1] < 0
    found = [place for place, p in enumerate(ps) if p <= SIGNIFICANCE and opposite[place]]
    yield from sorted(found, key=lambda place: (ps[place], place))


def _summary(one: Compared, ps: Sequence[float]) -> str:
    """Returns how far two measures agree, in words."""
    head = " and ".join(NAMES[measure] for measure in one.measures)
    if not math.isfinite(one.tau):
        return f"{head}: one of them gives all methods the same"
    separated = sum(p <= SIGNIFICANCE for p in ps)
    other = sum(1 for _ in _reversed(one, ps))
    swapped = int((one.signs[0] * one.signs[1] < 0).sum())
    tests = f"{separated:,} of {counted(len(ps), 'pair')} separated"
    if separated:
        tests += f", {other or 'none'} of them reversed"
    shares = f" ({swapped:,} reversed in the measured shares)" if swapped else ""
    return f"{head}: tau-b {_signed(one.tau)}, {tests}{shares}"


def _signed(tau: float) -> str:
    # Never -0.00.
    return f"{round(tau, 2) + 0.0:.2f}".replace("-", "−")


def _pair(contest: Contest, one: Compared, place: int, p: float) -> Sentence:
    ahead, behind = one.pairs[place]
    # Named first is who leads by the first measure.
    if one.signs[0][place] < 0:
        ahead, behind = behind, ahead
    leads = [
        difference_interval(contest.outcomes[m][ahead], contest.outcomes[m][behind])
        for m in one.measures
    ]
    rows = contest.rows[ahead], contest.rows[behind]
    first, second = (MEASURES[measure] for measure in one.measures)
    text = (
        f"{name(rows[0], 'method')} is ahead of {name(rows[1], 'method')} {first} "
        f"({points(leads[0])}) and behind it {second} ({points(leads[1])}), {probability(p)}."
    )
    return sentence(text, rows)


def _rest(contest: Contest, one: Compared, places: Sequence[int]) -> Sentence:
    rows = [contest.rows[number] for place in places for number in one.pairs[place]]
    first, second = (MEASURES[measure] for measure in one.measures)
    text = f"{counted(len(places), 'more pair')} are ordered otherwise {first} than {second}."
    return sentence(text.replace("pair are", "pair is"), rows)


def _finding(
    contest: Contest, summaries: Sequence[str], sentences: Sequence[Sentence], reversed_: int
) -> Finding:
    row = contest.rows[0]
    structure = name(row, "structure")
    unit = "" if structure == UNSTRUCTURED else f", {structure}"
    where = f"{level(sparsity_of(row))}{unit}, {name(row, 'objective')}, {name(row, 'recipe')}"
    over = (
        f"{counted(len(contest.rows), 'method')} on {int(row['examples']):,} examples "
        f"({name(row, 'tier')}), seed {name(row, 'seed', 20)}"
    )
    said = f"{counted(reversed_, 'pair')} {_DISAGREE}" if reversed_ else "no separable disagreement"
    return Finding(
        key=f"{name(row, 'architecture')}, {where}",
        title=f"{where}, {name(row, 'architecture')}: {said}",
        sentences=(sentence(f"{over}. {'; '.join(summaries)}.", contest.rows), *sentences),
    )
