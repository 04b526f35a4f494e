"""Findings as a page: every sentence with links to the pages of the checkpoints behind it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.findings import Finding, Findings, Section, Sentence, findings
from benchmark.leaderboard import DENSE
from benchmark.report.shares import Row
from benchmark.report.views import checkpoint_path
from benchmark.report.wording import number, slug, sparsity_percent, text

# Checkpoints that a sentence links to by name; of more it says how many and links to the board.
MOST_LINKS = 16

# Classes of the style sheet.
_KINDS = {
    "reproduced": "good",
    "partly": "flag",
    "not reproduced": "unranks",
    "not measured here": "quiet",
}


@dataclass(frozen=True)
class Behind:
    """A checkpoint that a sentence rests on: what links to it say, and its page."""

    label: str
    href: str


@dataclass(frozen=True)
class SentenceView:
    """A sentence with the checkpoints behind it, and how many more there are."""

    text: str
    behind: tuple[Behind, ...]
    more: int


@dataclass(frozen=True)
class FindingView:
    """A finding; texts are as in `findings.Finding`.

    Attributes:
        anchor: names it on the page.
        kind: of its verdict, as a class.
    """

    anchor: str
    title: str
    verdict: str
    kind: str
    says: str
    source: str
    counts_as: str
    sentences: tuple[SentenceView, ...]
    missing: tuple[str, ...]
    asides: tuple[str, ...]


@dataclass(frozen=True)
class SectionView:
    """A section of the page.

    Attributes:
        anchor: names it on the page.
        title: heading.
        lead: how its findings were made.
        findings: with a heading each.
        claims: whether its findings have verdicts.
        left_out: what was not looked at.
    """

    anchor: str
    title: str
    lead: str
    findings: tuple[FindingView, ...]
    claims: bool
    left_out: str


def findings_view(rows: Sequence[Row]) -> tuple[SectionView, ...]:
    """Returns what the page of findings of a protocol shows.

    Args:
        rows: its ranked rows, of all tiers.
    """
    return in_words(findings(rows), rows)


def in_words(found: Findings, rows: Iterable[Row]) -> tuple[SectionView, ...]:
    """Returns findings with links to the pages of the rows that they rest on."""
    known: dict[str, Row] = {}
    for row in rows:
        known.setdefault(text(row["checkpoint_id"], 300), row)
    return tuple(_section(section, known) for section in found.sections)


def _section(section: Section, known: Mapping[str, Row]) -> SectionView:
    return SectionView(
        anchor=section.key,
        title=_together(section.title),
        lead=_together(section.lead),
        findings=tuple(_finding(section, one, known) for one in section.findings),
        claims=any(one.verdict for one in section.findings),
        left_out=section.left_out,
    )


def _finding(section: Section, found: Finding, known: Mapping[str, Row]) -> FindingView:
    return FindingView(
        anchor=slug(f"{section.key} {found.key}"),
        title=_together(found.title),
        verdict=found.verdict,
        kind=_KINDS.get(found.verdict, ""),
        says=_together(found.says),
        source=_together(found.source),
        counts_as=_together(found.counts_as),
        sentences=tuple(_sentence(one, known) for one in found.sentences),
        missing=tuple(map(_together, found.missing)),
        asides=tuple(map(_together, found.asides)),
    )


def _sentence(said: Sentence, known: Mapping[str, Row]) -> SentenceView:
    shown = said.rows[:MOST_LINKS]
    behind = tuple(Behind(_label(known[one]), checkpoint_path(known[one])) for one in shown)
    return SentenceView(_together(said.text), behind, len(said.rows) - len(shown))


def _together(words: str) -> str:
    """Returns words in which a number and its sign stay on one line."""
    return words.replace(" %", "\u00a0%")


def _label(row: Row) -> str:
    """Returns a checkpoint in few words, enough to tell it from others of a sentence."""
    method, structure = text(row["method"], 60), text(row["structure"], 40)
    parts = [method, text(row["objective"], 40), f"seed {text(row.get('seed'), 20)}"]
    if row["method"] != DENSE:
        unit = "" if structure == "unstructured" else f"{structure} "
        parts.insert(1, f"{unit}{sparsity_percent(number(row.get('sparsity')))} %")
    return _together(", ".join(parts))
