"""Evaluations: one file each. All return one outcome an example and never judge themselves."""

from benchmark.evaluations.autoattack import AutoAttack
from benchmark.evaluations.base import Examples, Flag, Result, Settings
from benchmark.evaluations.bounds import Bounds
from benchmark.evaluations.carlini_wagner import CarliniWagner
from benchmark.evaluations.clean import Clean
from benchmark.evaluations.engine import Measured, run_evaluation
from benchmark.evaluations.families import Iterated, Ordered, Sparing, epsilons_of
from benchmark.evaluations.fgsm import Fgsm
from benchmark.evaluations.pgd import Pgd
from benchmark.evaluations.sanity import Sanity
from benchmark.evaluations.smoothing import Smoothing
from benchmark.evaluations.transfer import Transfer

__all__ = [
    "AutoAttack",
    "Bounds",
    "CarliniWagner",
    "Clean",
    "Examples",
    "Fgsm",
    "Flag",
    "Iterated",
    "Measured",
    "Ordered",
    "Pgd",
    "Result",
    "Sanity",
    "Settings",
    "Smoothing",
    "Sparing",
    "Transfer",
    "epsilons_of",
    "run_evaluation",
]
