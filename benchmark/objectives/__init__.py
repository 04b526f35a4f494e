"""Training objectives: one file a loss; `OBJECTIVES` builds each for a threat model."""

from benchmark.objectives.adversarial import Adversarial, Trades
from benchmark.objectives.base import Moment, Objective
from benchmark.objectives.benign import Benign
from benchmark.objectives.table import OBJECTIVES

__all__ = ["OBJECTIVES", "Adversarial", "Benign", "Moment", "Objective", "Trades"]
