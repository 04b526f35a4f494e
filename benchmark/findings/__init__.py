"""What the records of a protocol say: claims of papers, orders that disagree, what to use.

Pure functions from rows of the frame that `leaderboard.rank` returns to frozen values. Every
sentence names the checkpoints that it rests on, and every number in it is computed from their
outcomes or copied from their manifest entries.
"""

from collections.abc import Iterable, Sequence

from benchmark.findings.advice import recommendations
from benchmark.findings.orders import disagreements
from benchmark.findings.papers import CLAIMS
from benchmark.findings.scope import Scope, scopes, standing
from benchmark.findings.values import (
    Finding,
    Findings,
    Section,
    Sentence,
    Verdict,
    counted,
    level,
    listed,
    name,
    sentence,
)
from benchmark.leaderboard import Row, bucket, sparsity_of

__all__ = ["CLAIMS", "Finding", "Findings", "Section", "Sentence", "Verdict", "findings", "worth"]


def worth(rows: Iterable[Row]) -> bool:
    """Returns whether there is something to say: a pruned network whose rows count."""
    return any(bucket(sparsity_of(row)) > 0 for row in standing(rows)[0])


def findings(rows: Iterable[Row]) -> Findings:
    """Returns what the rows of one protocol say.

    Args:
        rows: of the ranked frame, with outcomes; of any tiers, recipes and architectures.

    Raises:
        ContractError: a finished row without outcomes, or rows of one tier over other examples.
    """
    shown = list(rows)
    found = [*_claims(shown), disagreements(shown), recommendations(shown), _limits(shown)]
    return Findings(tuple(section for section in found if section is not None))


def _claims(rows: Sequence[Row]) -> list[Section]:
    """Returns a section for each combination of architecture and recipes that has something."""
    every, more = scopes(rows)
    sections = [_claims_of(scope, number) for number, scope in enumerate(every)]
    # The first says what is missing; that others lack everything is not worth a page.
    kept = [s for n, s in enumerate(sections) if not n or any(f.sentences for f in s.findings)]
    if kept and more:
        last = kept[-1]
        said = f"{counted(more, 'smaller combination')} of architecture and recipes."
        kept[-1] = Section(last.key, last.title, last.lead, last.findings, said)
    return kept


def _claims_of(scope: Scope, number: int) -> Section:
    found = []
    for claim in CLAIMS:
        judged = claim.judge(scope)
        found.append(
            Finding(
                key=claim.key,
                title=claim.title,
                sentences=judged.sentences,
                verdict=judged.verdict,
                says=claim.says,
                source=claim.source,
                counts_as=claim.counts_as,
                missing=judged.missing,
                asides=judged.asides,
            )
        )
    where = f"{scope.architecture}, {listed(scope.recipes)}"
    return Section(
        key=f"claims-{number + 1}",
        title=f"Claims of the papers: {where}",
        lead=(
            "What counts as reproduced is fixed whatever was measured here. Each comparison is "
            "of networks trained alike, seed by seed, over the same examples: of those that all "
            "its networks and seeds have, the most. Brackets hold 95 % intervals, of differences "
            "Tango's, of kept shares Bonett and Price's; over several seeds the mean stands "
            "between the outermost of their ends."
        ),
        findings=tuple(found),
    )


def _limits(rows: Sequence[Row]) -> Section | None:
    """Returns how far the findings reach."""
    used, _ = standing(rows)
    if not used:
        return None
    data = listed(sorted({name(row, "dataset") for row in used})[:5])
    networks = sorted({name(row, "architecture") for row in used})
    seeds = sorted({name(row, "seed", 20) for row in used})
    settings: dict[tuple[str, ...], set[str]] = {}
    columns = ("method", "objective", "recipe", "structure", "architecture")
    for row in used:
        key = (*(name(row, column) for column in columns), level(sparsity_of(row)))
        settings.setdefault(key, set()).add(name(row, "seed", 20))
    single = sum(len(seeds) == 1 for seeds in settings.values())
    tiers = {name(row, "tier"): int(row["examples"]) for row in used}
    sizes = listed([f"{tier} ({size:,})" for tier, size in sorted(tiers.items(), key=_size)])
    threats = listed(sorted({name(row, "threat") for row in used})[:3])
    text = (
        f"All of this is about {data}, {threats}, and "
        f"{counted(len(networks), 'architecture')} ({listed(networks[:6])}); other data, larger "
        "networks and longer training may say otherwise."
    )
    trained = (
        f"Of {counted(len(settings), 'setting')} {single:,} were trained with one seed; seeds: "
        f"{listed(seeds[:10])}{' and more' if len(seeds) > 10 else ''}; tiers and their examples: "
        f"{sizes}."
    )
    said = (sentence(text, used), sentence(trained, used))
    return Section(
        key="limits",
        title="How far this reaches",
        lead=(
            "Robust accuracy is what the protocol's attacks and accepted challenges left standing: "
            "an upper bound. Certified accuracy is what the protocol's bounds prove: a lower one. "
            "Intervals of single networks are about examples, not about other seeds."
        ),
        findings=(Finding("limits", "", said),),
    )


def _size(tier: tuple[str, int]) -> int:
    return tier[1]
