"""The PGD evaluation: cross-entropy PGD at one or more epsilons, with its convergence on record."""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import nn

from benchmark.attacks import Steps, cross_entropy
from benchmark.evaluations.base import Examples, Result
from benchmark.evaluations.iterated import Search
from benchmark.threat import ThreatModel


@dataclass(frozen=True)
class Pgd:
    """PGD on cross-entropy.

    Attributes:
        steps: gradient steps; their size is a share of epsilon.
        restarts: random starts.
        epsilons: the epsilons to attack at; empty for the protocol's own.

    Columns, one an epsilon: `broken_step@<epsilon>` int16: the step of the first misclassified
    iterate (0 = the start), -1 where the example survived, -2 where it was misclassified unmodified
    and -3 where it is proven robust, neither of which is attacked. Whether half the steps would
    have done is thus on record.
    """

    kind: ClassVar[str] = "pgd"

    steps: Steps
    restarts: int
    epsilons: tuple[Fraction, ...] = ()

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Attacks the examples of a shard that are correct and not proven, at each epsilon."""
        search = Search(self.kind, cross_entropy, self.steps, self.restarts, self.epsilons)
        return search.run(model, examples, threat, generator)
