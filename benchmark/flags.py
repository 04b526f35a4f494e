"""Flags that outcomes decide: signs that an attack was misled, as data with a rate.

Rates are shares of all examples. Missing or lost gradients cast doubt on undecided examples alone:
those that are correct, survived every attack at the protocol's epsilon, and are not certified
there. Where every example is proven or broken, nothing is left to doubt, whatever the gradients
look like. `docs/protocols.md` names the source of each threshold.

Which examples are concerned is asked of a stack of records at once, (R, N); each record's counts
then decide about its own flags.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from benchmark.evaluations import AutoAttack, Clean, Fgsm, Flag, Iterated, Pgd, Sanity, Transfer
from benchmark.outcomes import (
    Attempt,
    Bools,
    Outcomes,
    attacked,
    attempts,
    certified,
    clean_correct,
    counts_of,
    main_pgd,
    once,
    stacked,
    survived,
)
from benchmark.protocols import Protocol
from benchmark.statistics import clopper_pearson

# In shares of the examples, to be exceeded. The first is AutoAttack's own (Croce & Hein 2020, flags
# of the released code); docs/protocols.md argues the others.
SQUARE_GAIN = Fraction(2, 1000)
PGD_LEAD = Fraction(5, 100)  # to be reached
STEPS_GAIN = Fraction(1, 100)
PGD_STRONGER = Fraction(0)
EPSILON_RISE = Fraction(1, 100)

# In shares of the planted examples that were looked for.
PLANTED_MISSED = Fraction(5, 100)

# Chance that as many examples survive an unbounded attack that leaves chance level to nobody.
HUGE_CHANCE = 0.001

# AutoAttack's members that follow gradients, by the start of their names.
GRADIENT_ATTACKS = ("apgd", "fab")


# A flag, and the position in the stack of the record that it is raised about.
Raised = tuple[int, Flag]


def all_flags(raised: Iterable[Flag], outcomes: Outcomes, protocol: Protocol) -> tuple[Flag, ...]:
    """Returns the flags raised while evaluating and those that outcomes decide, each once, by name.

    Args:
        raised: by the evaluations; an outcome's verdict under the same name replaces it.
        outcomes: of the examples in question.
        protocol: they are evaluated under.
    """
    return merged(raised, flags_of(outcomes, protocol))


def merged(raised: Iterable[Flag], decided: Iterable[Flag]) -> tuple[Flag, ...]:
    """Returns the flags that evaluations raised and outcomes decided, each once, by name."""
    found = {flag.name: flag for flag in raised}
    # Two curves may raise one flag; what counts is the larger rate.
    found |= {flag.name: flag for flag in sorted(decided, key=lambda flag: flag.rate)}
    return tuple(found[name] for name in sorted(found))


def unrankable_reasons(flags: Iterable[Flag], protocol: Protocol) -> list[str]:
    """Returns the names of the flags whose rate the protocol does not tolerate in a ranked row."""
    tolerated = dict(protocol.unrankable)
    # As floats: a rate of exactly a tenth, stored as a float, is a little more than the fraction.
    return [f.name for f in flags if f.name in tolerated and f.rate > float(tolerated[f.name])]


def flags_of(outcomes: Outcomes, protocol: Protocol) -> tuple[Flag, ...]:
    """Returns the flags that outcomes decide (design rule 4), with their rates."""
    [found] = each_flags(stacked([outcomes]), protocol)
    return found


def each_flags(stack: Outcomes, protocol: Protocol) -> list[tuple[Flag, ...]]:
    """Returns the flags that outcomes decide of each record of a stack of those that are alike."""
    found: list[list[Flag]] = [[] for _ in stack.columns["label"]]
    for record, flag in _decided(stack, protocol):
        found[record].append(flag)
    return [tuple(flags) for flags in found]


def _decided(stack: Outcomes, protocol: Protocol) -> Iterator[Raised]:
    for name, settings in protocol.evaluations:
        if isinstance(settings, Clean):
            yield from _flat(stack, name, protocol)
        elif isinstance(settings, AutoAttack):
            yield from _square(stack, name, settings)
        elif isinstance(settings, Iterated) and settings.epsilons:
            yield from _rise(stack, name, settings)
        elif isinstance(settings, Sanity):
            yield from _saturated(stack, name, protocol)
            yield from _unbounded(stack, name, protocol)
            yield from _planted(stack, name, protocol)
    if pgd := main_pgd(protocol):
        yield from _convergence(stack, *pgd, protocol)
    yield from _disagreement(stack, protocol)
    yield from _beaten(stack, protocol)


@once
def undecided(outcomes: Outcomes, protocol: Protocol) -> Bools:
    """Returns (..., N) whether an example survived all at the protocol's epsilon, unproven."""
    epsilon = protocol.threat.epsilon
    open_still = attacked(outcomes, protocol, epsilon)
    for proven_at, proven in certified(outcomes, protocol).items():
        if proven_at >= epsilon:
            open_still = open_still & ~proven
    return open_still


def white_box(outcomes: Outcomes, protocol: Protocol) -> tuple[Bools, Bools]:
    """Returns (..., N) whether iterated gradient attacks on the network itself tried, broke each.

    These are PGD and CW at the protocol's epsilon and below, and AutoAttack without Square.
    """
    tried = np.zeros_like(clean_correct(outcomes))
    broke = tried.copy()
    kinds = dict(protocol.evaluations)
    for attempt in attempts(outcomes, protocol):
        settings = kinds[attempt.evaluation]
        follows = isinstance(settings, AutoAttack) and attempt.attack.startswith(GRADIENT_ATTACKS)
        inside = attempt.epsilon <= protocol.threat.epsilon
        if follows or (isinstance(settings, Iterated) and inside):
            tried, broke = tried | attempt.tried, broke | attempt.broken
    return tried, broke


# --- gradients that lead nowhere ------------------------------------------------------------------


def _flat(stack: Outcomes, name: str, protocol: Protocol) -> Iterator[Raised]:
    """Looks for undecided examples at which the network is flat, not the loss alone."""
    flat = stack.columns[f"{name}.zero_gradient"] & undecided(stack, protocol)
    for other, settings in protocol.evaluations:
        if isinstance(settings, Sanity):
            flat = flat & ~stack.columns[f"{other}.vanishing_gradient"]
    text = "the loss has no gradient at these undecided examples"
    yield from _raised("zero-gradients", flat, text)


def _saturated(stack: Outcomes, name: str, protocol: Protocol) -> Iterator[Raised]:
    """Looks for undecided examples at which the loss has saturated."""
    lost = stack.columns[f"{name}.vanishing_gradient"] & undecided(stack, protocol)
    text = "the loss is saturated at these undecided examples, the network is not"
    yield from _raised("vanishing-gradients", lost, text)


def _unbounded(stack: Outcomes, name: str, protocol: Protocol) -> Iterator[Raised]:
    """Looks for more undecided survivors of an unbounded attack than chance gives.

    A network that gives everything one answer is right for all examples of one class, so chance is
    the share of the largest class.
    """
    left = stack.columns[f"{name}.huge_survived"] & undecided(stack, protocol)
    total = len(stack)
    for record, count in enumerate(counts_of(left)):
        largest = int(np.bincount(stack.columns["label"][record]).max())
        # The one-sided exact binomial test: half the level of what a two-sided interval leaves out.
        lowest, _ = clopper_pearson(count, total, 1 - 2 * HUGE_CHANCE)
        if lowest > largest / total:
            text = f"{count} undecided examples survive PGD over the whole box; at chance {largest}"
            rate = (count - largest) / total
            yield record, Flag("not-at-chance-for-huge-epsilon", rate, f"{text} would")


def _planted(stack: Outcomes, name: str, protocol: Protocol) -> Iterator[Raised]:
    """Looks for planted adversarial examples that gradients do not lead to.

    Only some undecided examples are tested; the rate is what their share of failures makes of all
    undecided ones.
    """
    doubtful = undecided(stack, protocol)
    planted = stack.columns[f"{name}.planted"]
    sets = doubtful, doubtful & (planted >= 0), doubtful & (planted == 0)
    each = zip(*(counts_of(examples) for examples in sets), strict=True)
    for record, (doubted, tested, missed) in enumerate(each):
        if _exceeds(missed, tested, PLANTED_MISSED):
            text = f"{missed} of {tested} planted adversarial examples were missed among the"
            rate = missed * doubted / (tested * len(stack))
            yield record, Flag("planted-missed", rate, f"{text} undecided")


def _rise(stack: Outcomes, name: str, settings: Iterated) -> Iterator[Raised]:
    """Looks at a curve for an accuracy that is higher at a larger epsilon.

    Each point stands by itself here: an input found at a smaller epsilon is not carried over. The
    protocol's own PGD is no point of the curve: it takes more steps and starts, so accuracy after
    it would seem to rise for any network.
    """
    standing = [
        counts_of(survived(stack.columns[f"{name}.broken_step@{epsilon}"]))
        for epsilon in sorted(settings.epsilons)
    ]
    rises = [0] * len(stack.columns["label"])
    for lesser, larger in zip(standing, standing[1:], strict=False):
        rises = [max(r, more - less) for r, less, more in zip(rises, lesser, larger, strict=True)]
    text = "a larger ball held fewer successes"
    yield from _exceeding("accuracy-rises-with-epsilon", rises, len(stack), text, EPSILON_RISE)


# --- attacks against each other -------------------------------------------------------------------


def _square(stack: Outcomes, name: str, settings: AutoAttack) -> Iterator[Raised]:
    if "square" in settings.attacks:
        by_square = stack.columns[f"{name}.broken_by"] == settings.attacks.index("square")
        text = "Square broke examples that survived every gradient attack"
        yield from _raised("square-lowers-accuracy", by_square, text, SQUARE_GAIN)


def _convergence(stack: Outcomes, name: str, settings: Pgd, protocol: Protocol) -> Iterator[Raised]:
    """Looks for examples that are lost to the second half of PGD's steps and to nothing else.

    What another attack breaks as well does not depend on the number of steps. PGD's fixed step
    keeps it circling near boundaries that AutoAttack's shrinking steps find at once: that is a
    weakness of the attack, on any network.
    """
    column = stack.columns[f"{name}.broken_step@{protocol.threat.epsilon}"]
    late = column > settings.steps.count // 2
    for attempt in attempts(stack, protocol):
        if attempt.evaluation != name and attempt.epsilon <= protocol.threat.epsilon:
            late = late & ~attempt.broken
    text = f"only the second half of {settings.steps.count} PGD steps broke these examples"
    yield from _raised("pgd-not-converged", late, text, STEPS_GAIN)


def _disagreement(stack: Outcomes, protocol: Protocol) -> Iterator[Raised]:
    """Compares PGD and AutoAttack example by example; what is proven survived both."""
    attack = next((n for n, s in protocol.evaluations if isinstance(s, AutoAttack)), None)
    pgd = main_pgd(protocol)
    if attack is None or pgd is None:
        return
    left_by_attack = survived(stack.columns[f"{attack}.broken_by"])
    left_by_pgd = survived(stack.columns[f"{pgd[0]}.broken_step@{protocol.threat.epsilon}"])
    stronger = left_by_attack & ~left_by_pgd & clean_correct(stack)
    text = "PGD broke examples that survived AutoAttack"
    yield from _raised("pgd-stronger-than-autoattack", stronger, text, PGD_STRONGER)
    text, limit = "AutoAttack lies at least 5 points under PGD", PGD_LEAD * len(stack)
    both = zip(counts_of(left_by_pgd), counts_of(left_by_attack), strict=True)
    for record, (more, less) in enumerate(both):
        if more - less >= limit:
            yield record, Flag("autoattack-far-below-pgd", (more - less) / len(stack), text)


def _beaten(stack: Outcomes, protocol: Protocol) -> Iterator[Raised]:
    """Looks for examples that weak attacks broke and iterated gradient attacks did not."""
    tried, broke = white_box(stack, protocol)
    withstood = tried & ~broke
    by_weak = {attempt.attack: attempt.broken & withstood for attempt in _weak(stack, protocol)}
    nothing = np.zeros_like(withstood)
    one_step = by_weak.get("single-step", nothing) | by_weak.get("fgsm", nothing)
    yield from _raised(
        "noise-beats-gradients",
        by_weak.get("noise", nothing),
        "random points broke examples that iterated gradient attacks did not",
    )
    yield from _raised(
        "single-step-beats-iterated",
        one_step,
        "one full step broke examples that iterated gradient attacks did not",
    )
    yield from _raised(
        "transfer-beats-white-box",
        # One step is white box, too.
        by_weak.get("transfer", nothing) & ~one_step,
        "inputs from the dense parent broke examples that gradient attacks did not",
    )


def _weak(stack: Outcomes, protocol: Protocol) -> Iterator[Attempt]:
    """Yields what noise, single steps (FGSM is one) and transfer did."""
    kinds = dict(protocol.evaluations)
    for attempt in attempts(stack, protocol):
        if isinstance(kinds[attempt.evaluation], Fgsm | Sanity | Transfer):
            yield attempt


def _raised(
    name: str, examples: Bools, text: str, above: Fraction = Fraction(0)
) -> Iterator[Raised]:
    """Yields the flag for each record in which it concerns more than a share of the examples."""
    yield from _exceeding(name, counts_of(examples), examples.shape[-1], text, above)


def _exceeding(
    name: str, counts: Sequence[int], total: int, text: str, above: Fraction
) -> Iterator[Raised]:
    """Yields the flag for each record whose count, as a share of `total`, lies above a limit."""
    for record, count in enumerate(counts):
        if _exceeds(count, total, above):
            yield record, Flag(name, count / total, text)


def _exceeds(count: int, total: int, limit: Fraction) -> bool:
    """Returns whether a share is larger, exactly: 0.35 - 0.30 is a little less than 0.05."""
    return count * limit.denominator > limit.numerator * total
