"""Training objectives: one file a loss; `OBJECTIVES` builds each for a threat model."""

from benchmark.objectives.adversarial import Adversarial, Trades
from benchmark.objectives.base import Moment, Objective
from benchmark.objectives.benign import Benign
from benchmark.objectives.crown_ibp import CrownIbp
from benchmark.objectives.mixtrain import MixTrain
from benchmark.objectives.ramps import Ramp
from benchmark.objectives.smoothing import Smoothing
from benchmark.objectives.table import OBJECTIVES

__all__ = [
    "OBJECTIVES",
    "Adversarial",
    "Benign",
    "CrownIbp",
    "MixTrain",
    "Moment",
    "Objective",
    "Ramp",
    "Smoothing",
    "Trades",
]
