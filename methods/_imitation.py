"""Self-distillation: a network imitates a frozen copy of itself, on clean inputs or attacked ones.

Source: T. Jian et al., "Pruning Adversarially Robust Neural Networks without Adversarial Examples",
ICDM 2022 (arXiv 2210.04311).
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.attacks import Steps, worst_found
from benchmark.objectives.adversarial import evaluating
from benchmark.threat import ThreatModel


class Pupil(nn.Module):
    """A network, and beside it a frozen copy of it as it was, its teacher."""

    def __init__(self, student: nn.Module) -> None:
        """Copies the student as it is now."""
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False)

    def train(self, mode: bool = True) -> "Pupil":
        """Sets the mode of the student; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self


@dataclass(frozen=True)
class Mix:
    """Batches replaced by adversarial examples of the network.

    Attributes:
        share: of batches, in (0, 1].
        threat: ball of the attack.
        steps: of the attack.
    """

    share: float
    threat: ThreatModel
    steps: Steps

    def apply(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns the batch or, with a chance of `share`, its adversarial examples."""
        if float(torch.rand((), generator=generator, device=inputs.device)) >= self.share:
            return inputs
        with evaluating(model):
            return worst_found(
                model, inputs, labels, threat=self.threat, steps=self.steps, generator=generator
            )


def distillation(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Returns T^2 times KL(teacher || student), its mean taken over all N K entries.

    Args:
        logits: (N, K) of the student.
        wanted: (N, K) of the teacher.
        temperature: T, which divides both.
    """
    # Soft answers are nearly equal: in half precision their difference would be rounding.
    divergence = functional.kl_div(
        functional.log_softmax(logits.float() / temperature, dim=1),
        functional.log_softmax(wanted.float() / temperature, dim=1),
        reduction="sum",
        log_target=True,
    )
    return temperature**2 * divergence / logits.numel()
