"""What findings are made of, and how their numbers read."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.errors import shorten
from benchmark.leaderboard import Row
from benchmark.statistics import Estimate

Verdict = Literal["reproduced", "partly", "not reproduced", "not measured here", ""]

MISSING = "—"


@dataclass(frozen=True)
class Sentence:
    """A statement about records.

    Attributes:
        text: the statement, its numbers in words.
        rows: checkpoint ids whose records it rests on, at least one.
    """

    text: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What records say about one question.

    Attributes:
        key: names it within all findings.
        title: heading.
        sentences: what was measured; none where nothing could be.
        verdict: on a paper's claim; empty where the question is no claim.
        says: the claim, in a sentence.
        source: who makes it, and the figures printed there.
        counts_as: what counts as reproduced, fixed whatever the rows say.
        missing: networks without which nothing can be said.
        asides: what further networks would be needed for other parts of the same question, and
            which seeds are left out, with the reason.
    """

    key: str
    title: str
    sentences: tuple[Sentence, ...]
    verdict: Verdict = ""
    says: str = ""
    source: str = ""
    counts_as: str = ""
    missing: tuple[str, ...] = ()
    asides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Findings that belong together.

    Attributes:
        key: names it within all sections.
        title: heading.
        lead: how the findings were made; it holds no measured number.
        findings: in the order to read them.
        left_out: what was not looked at, to bound the page; empty where nothing was left out.
    """

    key: str
    title: str
    lead: str
    findings: tuple[Finding, ...]
    left_out: str = ""


@dataclass(frozen=True)
class Findings:
    """All that the records of one protocol say."""

    sections: tuple[Section, ...]

    @property
    def sentences(self) -> Iterator[Sentence]:
        """Yields every sentence."""
        for section in self.sections:
            for finding in section.findings:
                yield from finding.sentences


def sentence(text: str, rows: Iterable[Row]) -> Sentence:
    """Returns a statement about rows, each named once."""
    return Sentence(text, tuple(dict.fromkeys(name(row, "checkpoint_id", 300) for row in rows)))


# --- Words ----------------------------------------------------------------------------------------


def name(row: Row, column: str, limit: int = 200) -> str:
    """Returns text of a row, bounded, in one line."""
    value = row.get(column)
    return "" if value is None else shorten(str(value), limit)


def percent(share: float) -> str:
    """Returns a share in percent with one decimal, or a dash.

    >>> percent(0.8725), percent(float("nan"))
    ('87.2 %', '—')
    """
    return f"{100 * share:.1f} %" if math.isfinite(share) else MISSING


def level(sparsity: float) -> str:
    """Returns a sparsity in percent with as many decimals as it needs.

    >>> level(0.9), level(0.995)
    ('90 %', '99.5 %')
    """
    return f"{100 * sparsity:.6g} %"


def share(estimate: Estimate) -> str:
    """Returns a share with its interval, in percent."""
    if not math.isfinite(estimate.value):
        return MISSING
    high = f"{100 * estimate.high:.1f}" if math.isfinite(estimate.high) else "∞"
    return f"{percent(estimate.value)} [{100 * estimate.low:.1f}, {high}]"


def points(estimate: Estimate) -> str:
    """Returns a difference of shares with its interval, in points.

    >>> points(Estimate(0.031, -0.002, 0.06))
    '+3.1 points [−0.2, +6.0]'
    """
    ends = [f"{100 * end:+.1f}" for end in (estimate.value, estimate.low, estimate.high)]
    value, low, high = (end.replace("-", "−") if float(end) else "0.0" for end in ends)
    return f"{value} points [{low}, {high}]"


def probability(p: float) -> str:
    """Returns a p with two digits; what is too small for a float is not zero."""
    return f"p = {p:.2g}" if p >= 1e-300 else "p < 1e-300"


def listed(words: Sequence[str]) -> str:
    """Returns words as a list in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def counted(amount: int, one: str, many: str = "") -> str:
    """Returns a number of things.

    >>> counted(1, "seed"), counted(1200, "example")
    ('1 seed', '1,200 examples')
    """
    return f"{amount:,} {one if amount == 1 else many or f'{one}s'}"


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Returns which seeds.

    >>> seeds_in_words([1]), seeds_in_words([0, 1, 4])
    ('seed 1', 'seeds 0, 1 and 4')
    """
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {listed([str(seed) for seed in seeds])}"
