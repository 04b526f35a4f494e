"""The CW evaluation: PGD on the margin of Carlini and Wagner.

Source: N. Carlini, D. Wagner, "Towards Evaluating the Robustness of Neural Networks", IEEE S&P 2017
(arXiv 1608.04644), the loss f6 with kappa 0, climbed inside the ball as by Madry et al., "Towards
Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018 (arXiv 1706.06083), section 5.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmark.attacks import LogitLoss, Steps
from benchmark.ensemble import margins
from benchmark.evaluations.base import Examples, Result
from benchmark.evaluations.iterated import Search
from benchmark.threat import ThreatModel


@dataclass(frozen=True)
class CarliniWagner:
    """PGD on the largest other logit less the label's, from random starts.

    kappa, the margin by which an example must be misclassified, is 0: an example leaves with its
    first misclassified iterate, so the loss is never clipped. What is climbed is a difference of
    logits, which no scale saturates, as it does cross-entropy.

    Attributes:
        steps: gradient steps; their size is a share of epsilon.
        restarts: random starts.
        epsilons: the epsilons to attack at; empty for the protocol's own.

    Columns as PGD's: `broken_step@<epsilon>` int16, one an epsilon.
    """

    kind: ClassVar[str] = "cw"

    steps: Steps = Steps(30, Fraction(1, 4))
    restarts: int = 1
    epsilons: tuple[Fraction, ...] = ()

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Attacks the examples of a shard that are correct and not proven, at each epsilon."""
        search = Search(self.kind, margin_loss, self.steps, self.restarts, self.epsilons)
        return search.run(model, examples, threat, generator)


def margin_loss(labels: Tensor) -> LogitLoss:
    """Returns the sum over examples of the largest other logit less the label's.

    >>> margin_loss(torch.tensor([0]))(torch.tensor([[3.0, 1.0, 2.0]])).item()
    -1.0
    """
    return lambda logits: -margins(logits, labels).sum()
