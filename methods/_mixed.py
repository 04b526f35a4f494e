"""A loss that mixes the cell's with the cross-entropy of unmodified inputs.

Source: S. Gui et al., "Model Compression with Adversarial Robustness: A Unified Optimization
Framework", NeurIPS 2019 (arXiv 1902.03538).
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.objectives import Moment, Objective


@dataclass(frozen=True)
class Mixed:
    """The cell's loss and the cross-entropy of unmodified inputs.

    Attributes:
        objective: the cell's loss.
        clean: share of the cross-entropy, in [0, 1].
    """

    objective: Objective
    clean: Fraction

    @property
    def attack_steps(self) -> int:
        """Those of the cell's loss."""
        return self.objective.attack_steps

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        moment: Moment,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns clean * CE + (1 - clean) * the cell's loss, and a penalty if any (scalar)."""
        network = self.begin_step(model)
        robust = self.objective.loss(network, inputs, labels, moment=moment, generator=generator)
        clean = functional.cross_entropy(network(inputs), labels)
        mixed = float(self.clean) * clean + float(1 - self.clean) * robust
        return mixed + self.penalty(model)

    def begin_step(self, model: nn.Module) -> nn.Module:
        """Returns the network inside of what is trained."""
        return model

    def penalty(self, model: nn.Module) -> Tensor | float:
        """Returns what is added to the loss."""
        return 0.0
