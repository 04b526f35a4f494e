"""MixTrain: cross-entropy, and now and then the worst case of a few examples.

Sources: S. Wang et al., "MixTrain: Scalable Training of Verifiably Robust Neural Networks", 2018
(arXiv 1811.02625); schedules and settings as in HYDRA (Sehwag et al., NeurIPS 2020, arXiv
2002.10509) and its code.

Departures from that code: times are shares of training, so that schedules fit a training of any
length, and epsilon rises from step to step instead of from epoch to epoch; the box is [0, 1]
instead of the range of the images at hand, which would be optimistic.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.bounds import training_margins
from benchmark.objectives.base import Moment
from benchmark.objectives.ramps import Ramp
from benchmark.objectives.worst_case import check_ball, worst_case_cross_entropy
from benchmark.threat import ThreatModel


@dataclass(frozen=True)
class MixTrain:
    """Cross-entropy plus, in most steps, the weighted worst case of a few examples of the batch.

    The worst case comes from symbolic intervals. HYDRA's 10 epochs of ramp, and its 5 epochs from
    one weight to the next, are here such shares of its 60. A stage without a ramp has the whole
    ball at once, but its weight starts low again, as in HYDRA's scripts.

    Attributes:
        threat: Linf ball of the worst case.
        ramp: how epsilon rises in training from random weights.
        probability: of a worst case in a step.
        picked: examples drawn for it, with replacement; k in the paper's notation.
        weight: of the worst case until the ramp ends.
        growth: factor by which the weight rises ...
        period: ... after each such share of training.
        largest: where the weight stops.
    """

    threat: ThreatModel
    ramp: Ramp = Ramp(Fraction(0), Fraction(10, 60))
    probability: float = 0.8
    picked: int = 5
    weight: float = 0.1
    growth: float = 2.5
    period: Fraction = Fraction(5, 60)
    largest: float = 50.0

    def __post_init__(self) -> None:
        """Refuses balls that the bounds do not know."""
        check_ball(self.threat)

    @property
    def attack_steps(self) -> int:
        """None: there is no inner attack."""
        return 0

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        moment: Moment,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns the cross-entropy, with the worst case added where chance says so."""
        natural = functional.cross_entropy(model(inputs), labels)
        chance = torch.rand((), generator=generator, device=generator.device)
        if float(chance) >= self.probability:
            return natural
        picks = torch.randint(
            len(inputs), (self.picked,), generator=generator, device=generator.device
        ).to(inputs.device)
        epsilon = float(self.threat.epsilon) * self.ramp.at(moment)
        margins = training_margins(model, inputs[picks], labels[picks], epsilon, "symbolic")
        return natural + self.weight_at(moment) * worst_case_cross_entropy(margins)

    def weight_at(self, moment: Moment) -> float:
        """Returns the weight of the worst case at a moment."""
        periods = max(moment.progress - float(self.ramp.end), 0) / float(self.period)
        # Rounding must not put the edge of a period before it.
        rises = math.floor(periods + 1e-9)
        return min(self.weight * self.growth**rises, self.largest)
