"""What a training objective is: a frozen value with a name and a loss."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Moment:
    """Where in training a step is, for objectives with a ramp.

    Attributes:
        epoch: epochs done, with the fraction of the current one.
        epochs: epochs in all.
    """

    epoch: float
    epochs: int

    @property
    def progress(self) -> float:
        """Share of training done, in [0, 1)."""
        return self.epoch / self.epochs


class Objective(Protocol):
    """A training loss: a frozen dataclass, whose fields enter recipe digests."""

    @property
    def attack_steps(self) -> int:
        """Gradient steps of the inner attack a batch; 0 where there is none."""

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        moment: Moment,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns the mean loss of a batch (scalar), differentiable in the model's parameters.

        Args:
            model: in train mode; an implementation that switches to eval mode switches back.
            inputs: (N, C, H, W) in [0, 1].
            labels: (N,) classes.
            moment: where in training this step is.
            generator: source of every random draw, on the inputs' device.
        """
