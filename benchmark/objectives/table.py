"""The closed set of objectives: name → the objective with default settings for a threat model."""

from collections.abc import Callable

from benchmark.objectives.adversarial import Adversarial, Trades
from benchmark.objectives.base import Objective
from benchmark.objectives.benign import Benign
from benchmark.objectives.crown_ibp import CrownIbp
from benchmark.objectives.mixtrain import MixTrain
from benchmark.objectives.smoothing import Smoothing
from benchmark.threat import ThreatModel

OBJECTIVES: dict[str, Callable[[ThreatModel], Objective]] = {
    "benign": lambda threat: Benign(),
    "adversarial": Adversarial,
    "trades": Trades,
    "smoothing": lambda threat: Smoothing(),
    "mixtrain": MixTrain,
    "crown-ibp": CrownIbp,
}
