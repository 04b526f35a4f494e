"""The benign objective: plain cross-entropy on unmodified inputs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.objectives.base import Moment


@dataclass(frozen=True)
class Benign:
    """Cross-entropy on unmodified inputs."""

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
        """Returns the mean cross-entropy of a batch."""
        return functional.cross_entropy(model(inputs), labels)
