"""Flags that outcomes decide: signs that an attack was misled, as data with a rate.

Rates are shares of all examples. Missing or lost gradients cast doubt on undecided examples alone:
those that are correct, survived every attack at the protocol's epsilon, and are not certified
there. Where every example is proven or broken, nothing is left to doubt, whatever the gradients
look like. `docs/protocols.md` names the source of each threshold.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

from benchmark.evaluations import AutoAttack, Clean, Fgsm, Flag, Iterated, Pgd, Sanity, Transfer
from benchmark.outcomes import (
    Array,
    Attempt,
    Bools,
    Outcomes,
    attacked,
    attempts,
    certified,
    clean_correct,
    main_pgd,
    once,
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


def all_flags(raised: Iterable[Flag], outcomes: Outcomes, protocol: Protocol) -> tuple[Flag, ...]:
    """Returns the flags raised while evaluating and those that outcomes decide, each once, by name.

    Args:
        raised: by the evaluations; an outcome's verdict under the same name replaces it.
        outcomes: of the examples in question.
        protocol: they are evaluated under.
    """
    found = {flag.name: flag for flag in raised}
    # Two curves may raise one flag; what counts is the larger rate.
    decided = sorted(flags_of(outcomes, protocol), key=lambda flag: flag.rate)
    found |= {flag.name: flag for flag in decided}
    return tuple(found[name] for name in sorted(found))


def unrankable_reasons(flags: Iterable[Flag], protocol: Protocol) -> list[str]:
    """Returns the names of the flags whose rate the protocol does not tolerate in a ranked row."""
    # As floats: a rate of exactly a tenth, stored as a float, is a little more than the fraction.
    tolerated = {name: float(rate) for name, rate in protocol.unrankable}
    return [flag.name for flag in flags if flag.rate > tolerated.get(flag.name, 1.0)]


def flags_of(outcomes: Outcomes, protocol: Protocol) -> tuple[Flag, ...]:
    """Returns the flags that outcomes decide (design rule 4), with their rates."""
    flags: list[Flag] = []
    for name, settings in protocol.evaluations:
        if isinstance(settings, Clean):
            flags += _flat(outcomes, name, protocol)
        elif isinstance(settings, AutoAttack):
            flags += _square(outcomes, name, settings)
        elif isinstance(settings, Iterated) and settings.epsilons:
            flags += _rise(outcomes, name, settings)
        elif isinstance(settings, Sanity):
            flags += _saturated(outcomes, name, protocol)
            flags += _unbounded(outcomes, name, protocol)
            flags += _planted(outcomes, name, protocol)
    if pgd := main_pgd(protocol):
        flags += _convergence(outcomes, *pgd, protocol)
    return tuple(flags + _disagreement(outcomes, protocol) + _beaten(outcomes, protocol))


@once
def undecided(outcomes: Outcomes, protocol: Protocol) -> Bools:
    """Returns (N,) whether an example survived all at the protocol's epsilon, without a proof."""
    epsilon = protocol.threat.epsilon
    open_still = attacked(outcomes, protocol, epsilon)
    for proven_at, proven in certified(outcomes, protocol).items():
        if proven_at >= epsilon:
            open_still = open_still & ~proven
    return open_still


def white_box(outcomes: Outcomes, protocol: Protocol) -> tuple[Bools, Bools]:
    """Returns (N,) whether iterated gradient attacks on the network itself tried, and broke, each.

    These are PGD and CW at the protocol's epsilon and below, and AutoAttack without Square.
    """
    tried = np.zeros(len(outcomes), dtype=np.bool_)
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


def _flat(outcomes: Outcomes, name: str, protocol: Protocol) -> list[Flag]:
    """Looks for undecided examples at which the network is flat, not the loss alone."""
    flat = outcomes.columns[f"{name}.zero_gradient"] & undecided(outcomes, protocol)
    for other, settings in protocol.evaluations:
        if isinstance(settings, Sanity):
            flat = flat & ~outcomes.columns[f"{other}.vanishing_gradient"]
    text = "the loss has no gradient at these undecided examples"
    return _raised("zero-gradients", _share(flat), text)


def _saturated(outcomes: Outcomes, name: str, protocol: Protocol) -> list[Flag]:
    """Looks for undecided examples at which the loss has saturated."""
    lost = outcomes.columns[f"{name}.vanishing_gradient"] & undecided(outcomes, protocol)
    text = "the loss is saturated at these undecided examples, the network is not"
    return _raised("vanishing-gradients", _share(lost), text)


def _unbounded(outcomes: Outcomes, name: str, protocol: Protocol) -> list[Flag]:
    """Looks for more undecided survivors of an unbounded attack than chance gives.

    A network that gives everything one answer is right for all examples of one class, so chance is
    the share of the largest class.
    """
    left = outcomes.columns[f"{name}.huge_survived"] & undecided(outcomes, protocol)
    largest = int(np.bincount(outcomes.columns["label"]).max())
    count, total = int(left.sum()), len(outcomes)
    # The one-sided exact binomial test: its level is half of what a two-sided interval leaves out.
    lowest, _ = clopper_pearson(count, total, 1 - 2 * HUGE_CHANCE)
    if lowest <= largest / total:
        return []
    text = f"{count} undecided examples survive PGD over the whole box; at chance {largest} would"
    return _raised("not-at-chance-for-huge-epsilon", Fraction(count - largest, total), text)


def _planted(outcomes: Outcomes, name: str, protocol: Protocol) -> list[Flag]:
    """Looks for planted adversarial examples that gradients do not lead to.

    Only some undecided examples are tested; the rate is what their share of failures makes of all
    undecided ones.
    """
    doubtful = undecided(outcomes, protocol)
    planted = outcomes.columns[f"{name}.planted"]
    tested, missed = int(((planted >= 0) & doubtful).sum()), int(((planted == 0) & doubtful).sum())
    if missed <= PLANTED_MISSED * tested:
        return []
    text = f"{missed} of {tested} planted adversarial examples were missed among the undecided"
    return _raised("planted-missed", Fraction(missed, tested) * _share(doubtful), text)


def _rise(outcomes: Outcomes, name: str, settings: Iterated) -> list[Flag]:
    """Looks at a curve for an accuracy that is higher at a larger epsilon.

    Each point stands by itself here: an input found at a smaller epsilon is not carried over. The
    protocol's own PGD is no point of the curve: it takes more steps and starts, so accuracy after
    it would seem to rise for any network.
    """
    standing = [
        int(survived(outcomes.columns[f"{name}.broken_step@{epsilon}"]).sum())
        for epsilon in sorted(settings.epsilons)
    ]
    pairs = zip(standing, standing[1:], strict=False)
    rise = Fraction(max((more - less for less, more in pairs), default=0), len(outcomes))
    if rise <= EPSILON_RISE:
        return []
    return _raised("accuracy-rises-with-epsilon", rise, "a larger ball held fewer successes")


# --- attacks against each other -------------------------------------------------------------------


def _square(outcomes: Outcomes, name: str, settings: AutoAttack) -> list[Flag]:
    if "square" not in settings.attacks:
        return []
    by_square = outcomes.columns[f"{name}.broken_by"] == settings.attacks.index("square")
    gain = _share(by_square)
    if gain <= SQUARE_GAIN:
        return []
    text = "Square broke examples that survived every gradient attack"
    return _raised("square-lowers-accuracy", gain, text)


def _convergence(outcomes: Outcomes, name: str, settings: Pgd, protocol: Protocol) -> list[Flag]:
    """Looks for examples that are lost to the second half of PGD's steps and to nothing else.

    What another attack breaks as well does not depend on the number of steps. PGD's fixed step
    keeps it circling near boundaries that AutoAttack's shrinking steps find at once: that is a
    weakness of the attack, on any network.
    """
    column = outcomes.columns[f"{name}.broken_step@{protocol.threat.epsilon}"]
    late = column > settings.steps.count // 2
    for attempt in attempts(outcomes, protocol):
        if attempt.evaluation != name and attempt.epsilon <= protocol.threat.epsilon:
            late = late & ~attempt.broken
    if _share(late) <= STEPS_GAIN:
        return []
    text = f"only the second half of {settings.steps.count} PGD steps broke these examples"
    return _raised("pgd-not-converged", _share(late), text)


def _disagreement(outcomes: Outcomes, protocol: Protocol) -> list[Flag]:
    """Compares PGD and AutoAttack example by example; what is proven survived both."""
    columns = outcomes.columns
    attack = next((n for n, s in protocol.evaluations if isinstance(s, AutoAttack)), None)
    pgd = main_pgd(protocol)
    if attack is None or pgd is None:
        return []
    left_by_attack = survived(columns[f"{attack}.broken_by"])
    left_by_pgd = survived(columns[f"{pgd[0]}.broken_step@{protocol.threat.epsilon}"])
    flags = []
    stronger = _share(left_by_attack & ~left_by_pgd & clean_correct(outcomes))
    if stronger > PGD_STRONGER:
        text = "PGD broke examples that survived AutoAttack"
        flags += _raised("pgd-stronger-than-autoattack", stronger, text)
    lead = Fraction(int(left_by_pgd.sum()) - int(left_by_attack.sum()), len(outcomes))
    if lead >= PGD_LEAD:
        text = "AutoAttack lies at least 5 points under PGD"
        flags += _raised("autoattack-far-below-pgd", lead, text)
    return flags


def _beaten(outcomes: Outcomes, protocol: Protocol) -> list[Flag]:
    """Looks for examples that weak attacks broke and iterated gradient attacks did not."""
    tried, broke = white_box(outcomes, protocol)
    withstood = tried & ~broke
    by_weak = {attempt.attack: attempt.broken & withstood for attempt in _weak(outcomes, protocol)}
    nothing = np.zeros(len(outcomes), dtype=np.bool_)
    one_step = by_weak.get("single-step", nothing) | by_weak.get("fgsm", nothing)
    return [
        *_raised(
            "noise-beats-gradients",
            _share(by_weak.get("noise", nothing)),
            "random points broke examples that iterated gradient attacks did not",
        ),
        *_raised(
            "single-step-beats-iterated",
            _share(one_step),
            "one full step broke examples that iterated gradient attacks did not",
        ),
        *_raised(
            "transfer-beats-white-box",
            # One step is white box, too.
            _share(by_weak.get("transfer", nothing) & ~one_step),
            "inputs from the dense parent broke examples that gradient attacks did not",
        ),
    ]


def _weak(outcomes: Outcomes, protocol: Protocol) -> Iterator[Attempt]:
    """Yields what noise, single steps (FGSM is one) and transfer did."""
    kinds = dict(protocol.evaluations)
    for attempt in attempts(outcomes, protocol):
        if isinstance(kinds[attempt.evaluation], Fgsm | Sanity | Transfer):
            yield attempt


def _share(examples: Array) -> Fraction:
    """Returns a share exactly: 0.35 - 0.30 is a little less than 0.05."""
    return Fraction(int(examples.sum()), len(examples))


def _raised(name: str, rate: Fraction, text: str) -> list[Flag]:
    """Returns the flag, unless it concerns nobody."""
    return [Flag(name, float(rate), text)] if rate > 0 else []
