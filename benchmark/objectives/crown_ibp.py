"""CROWN-IBP: cross-entropy of the worst case, by lines at first and by intervals at last.

Sources: H. Zhang et al., "Towards Stable and Efficient Training of Verifiably Robust Neural
Networks", ICLR 2020 (arXiv 1906.06316), section 3; defaults as in HYDRA (Sehwag et al., NeurIPS
2020, arXiv 2002.10509) and its code.

Departures from HYDRA's code: times are shares of training, so that schedules fit a training of any
length; the box is [0, 1] instead of the range of the images at hand, which would be optimistic;
plain cross-entropy may take part, as in the authors' code.
"""

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

# Below this share the lines are not worth their cost, as in HYDRA's code.
NEGLIGIBLE = 1e-5


@dataclass(frozen=True)
class CrownIbp:
    """Cross-entropy of the worst case in a ball that grows with training.

    The margins are bounded by beta * CROWN-IBP + (1 - beta) * intervals, the loss is
    kappa * cross-entropy + (1 - kappa) * its worst case. Beta falls from 1, and kappa from its
    start, linearly to their ends while epsilon rises; where there is no ramp they are at their ends
    from the beginning. At epsilon 0 the lines are exact, so that training starts from plain
    cross-entropy even with kappa 0.

    Batch norms act as in evaluation inside the bounds; only the plain term of a kappa above 0 moves
    their statistics.

    Attributes:
        threat: Linf ball of the worst case.
        ramp: how epsilon rises in training from random weights; HYDRA's 60 of 100 epochs.
        kappa_start: share of the plain cross-entropy at epsilon 0: 0 in HYDRA, 1 in the authors'
            code.
        kappa_end: the same at full epsilon: 0 in HYDRA, 1/2 in most of the authors' runs.
        beta_end: share of the lines at full epsilon.
    """

    threat: ThreatModel
    ramp: Ramp = Ramp(Fraction(0), Fraction(60, 100))
    kappa_start: float = 0.0
    kappa_end: float = 0.0
    beta_end: float = 0.0

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
        """Returns kappa * CE(f(x), y) + (1 - kappa) * CE of the worst case."""
        share = self.ramp.at(moment)
        epsilon = float(self.threat.epsilon) * share
        beta = 1 + share * (self.beta_end - 1)
        kappa = self.kappa_start + share * (self.kappa_end - self.kappa_start)
        margins = training_margins(model, inputs, labels, epsilon, "ibp")
        if beta >= NEGLIGIBLE:
            lines = training_margins(model, inputs, labels, epsilon, "crown-ibp")
            margins = beta * lines + (1 - beta) * margins
        worst = worst_case_cross_entropy(margins)
        if kappa == 0:
            return worst
        return kappa * functional.cross_entropy(model(inputs), labels) + (1 - kappa) * worst
