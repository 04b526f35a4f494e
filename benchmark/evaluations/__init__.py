"""Evaluations: one file each. All return one outcome an example and never judge themselves."""

from benchmark.evaluations.autoattack import AutoAttack
from benchmark.evaluations.base import Examples, Flag, Result, Settings
from benchmark.evaluations.bounds import Bounds
from benchmark.evaluations.clean import Clean
from benchmark.evaluations.engine import Measured, run_evaluation
from benchmark.evaluations.pgd import Pgd
from benchmark.evaluations.sanity import Sanity
from benchmark.evaluations.smoothing import Smoothing
from benchmark.evaluations.transfer import Transfer

__all__ = [
    "AutoAttack",
    "Bounds",
    "Clean",
    "Examples",
    "Flag",
    "Measured",
    "Pgd",
    "Result",
    "Sanity",
    "Settings",
    "Smoothing",
    "Transfer",
    "run_evaluation",
]
