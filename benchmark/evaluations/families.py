"""Families of evaluations, for whoever runs them or reads what they wrote."""

from fractions import Fraction

from benchmark.evaluations.autoattack import AutoAttack
from benchmark.evaluations.carlini_wagner import CarliniWagner
from benchmark.evaluations.fgsm import Fgsm
from benchmark.evaluations.pgd import Pgd
from benchmark.evaluations.sanity import Sanity
from benchmark.evaluations.transfer import Transfer
from benchmark.threat import ThreatModel

# Attacks that climb step by step: a column `broken_step@<epsilon>` for each ball.
Iterated = CarliniWagner | Pgd

# Attacks that say which of their `attacks` was the first to break an example: a column `broken_by`.
Ordered = AutoAttack | Fgsm | Sanity | Transfer

# Attacks that spare what is proven where the protocol certifies first.
Sparing = AutoAttack | CarliniWagner | Fgsm | Pgd


def epsilons_of(settings: Iterated, threat: ThreatModel) -> tuple[Fraction, ...]:
    """Returns the epsilons that an iterated attack runs at under a threat model, in its order."""
    return settings.epsilons or (threat.epsilon,)
