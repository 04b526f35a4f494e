"""AutoAttack's four attacks, with draws that belong to an example."""

from benchmark.ensemble.apgd import Apgd, cross_entropy, dlr, dlr_targeted
from benchmark.ensemble.base import Attack, Targets, margins
from benchmark.ensemble.fab import FabTargeted, onto_hyperplane
from benchmark.ensemble.square import Square

__all__ = [
    "Apgd",
    "Attack",
    "FabTargeted",
    "Square",
    "Targets",
    "cross_entropy",
    "dlr",
    "dlr_targeted",
    "margins",
    "onto_hyperplane",
]
