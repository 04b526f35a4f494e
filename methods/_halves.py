"""Training on half clean, half adversarial batches with smoothed labels, and DeepFool in it.

Source: H. Xie et al., "Blind Adversarial Pruning: Balance Accuracy, Efficiency and Robustness",
2020 (arXiv 2004.05913), whose code takes the loss from the Keras tutorial of CleverHans.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.attacks import deepfool
from benchmark.errors import ContractError
from benchmark.objectives import Moment
from benchmark.objectives.adversarial import evaluating


class Attack(Protocol):
    """What makes the adversarial half of a batch: a frozen dataclass."""

    @property
    def attack_steps(self) -> int:
        """Gradient steps a batch."""

    def craft(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns (N, C, H, W) meant to leave the classes `labels`; the model is in eval mode."""


@dataclass(frozen=True)
class DeepFool:
    """Minimal perturbations in L2, of whatever size (Moosavi-Dezfooli et al. 2016).

    Attributes:
        steps: most linearisations.
        candidates: classes looked at in each, the own one among them.
        overshoot: share by which the way is lengthened.
    """

    steps: int = 5
    candidates: int = 10
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        """Refuses walks that go nowhere."""
        if self.steps < 1 or self.candidates < 2 or self.overshoot < 0:
            raise ContractError(
                "expected iterations >= 1, candidates >= 2 and overshoot >= 0, got "
                f"{self.steps}, {self.candidates} and {self.overshoot}"
            )

    @property
    def attack_steps(self) -> int:
        """Backward passes: one a step for each other class. Fewer once examples have left."""
        return self.steps * (self.candidates - 1)

    def craft(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns inputs just behind their nearest boundary."""
        return deepfool(
            model,
            inputs,
            labels,
            steps=self.steps,
            candidates=self.candidates,
            overshoot=self.overshoot,
        )


@dataclass(frozen=True)
class Halves:
    """Half the cross-entropy of the inputs and half that of adversarial ones, labels smoothed.

    Attributes:
        attack: leaves the classes that the network predicts, not the true ones.
        smoothing: share of a label that is spread over all classes.
    """

    attack: Attack
    smoothing: float

    def __post_init__(self) -> None:
        """Refuses labels that are none."""
        if not 0 <= self.smoothing < 1:
            raise ContractError(f"expected smoothing in [0, 1), got {self.smoothing}")

    @property
    def attack_steps(self) -> int:
        """Gradient steps a batch."""
        return self.attack.attack_steps

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        moment: Moment,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns CE(f(x), y) / 2 + CE(f(x_adv), y) / 2 for smoothed labels y."""
        with evaluating(model):
            with torch.no_grad():
                predicted = model(inputs).argmax(dim=1)
            adversarial = self.attack.craft(model, inputs, predicted, generator).detach()
        clean, attacked = (
            functional.cross_entropy(model(batch), labels, label_smoothing=self.smoothing)
            for batch in (inputs, adversarial)
        )
        return (clean + attacked) / 2
