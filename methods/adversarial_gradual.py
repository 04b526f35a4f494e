"""Adversarial gradual pruning (AP): gradual pruning on half clean, half adversarial batches.

Source: H. Xie et al., "Blind Adversarial Pruning: Balance Accuracy, Efficiency and Robustness",
2020 (arXiv 2004.05913), whose point of comparison it is: its attacks have one fixed strength. The
schedule is that of M. Zhu and S. Gupta, "To Prune, or Not to Prune", ICLR 2018 workshop (arXiv
1710.01878), equation 1.

Code: https://github.com/Lixin-Qian/BAP (with tensorflow-model-optimization and CleverHans 3.0.1)

Departures from the code (the paper's own text was not available beyond its abstract):
- It brings its own loss, which replaces the cell's: it is offered under the objective closest
  to it, since under any other it would make the same network again. Single weights only, as in the
  code.
- Attacks have the cell's norm and epsilon; the code's default is 0.3 in Linf, on MNIST. Like the
  code's, they leave the class that the network predicts, so that no label leaks into them. A step
  of PGD is the same share of epsilon as there (0.05 of 0.3).
- The ramp takes the share of all training that it takes in the code (30 of 70 epochs), not its
  number of epochs, and at the latest ends where finetuning begins.
- Exactly round(sparsity * n) weights of a layer go, the earlier of two equal ones first. The code
  keeps at least one weight a layer.
- Masks are recomputed at the ramp's very last step too, which the code reaches only if the ramp is
  a multiple of the frequency; and at least ten times, where the ramp is shorter than that.
- Schedule of the learning rate, batch size and weight decay are the recipe's, whose schedule starts
  over where finetuning begins; the paper has a constant rate, batches of 128 and no decay.
- Adam's 0.001 is made for the paper's 33 000 steps. Where a recipe has two thousand (digits),
  `optimiser=sgd:learning-rate=0.05` learned more on held-out training images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from benchmark.attacks import Steps, ascend, cross_entropy, worst_found
from benchmark.errors import ContractError, lookup
from benchmark.threat import ThreatModel
from methods import Info, Pruned, Task, register
from methods._gradual import GradualPruning
from methods._halves import Attack, DeepFool, Halves


@dataclass(frozen=True)
class Fgsm:
    """One step of size epsilon from the input itself.

    Attributes:
        threat: ball of the attack.
    """

    threat: ThreatModel

    @property
    def attack_steps(self) -> int:
        """One."""
        return 1

    def craft(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns the inputs moved along the sign (Linf) or direction (L2) of the gradient."""
        steps = Steps(1, Fraction(1))
        return ascend(model, cross_entropy(labels), inputs, inputs, threat=self.threat, steps=steps)


@dataclass(frozen=True)
class Pgd:
    """Projected steps from a random start.

    Attributes:
        threat: ball of the attack.
        steps: their number and size; CleverHans' ten, and the code's 0.05 of 0.3.
    """

    threat: ThreatModel
    steps: Steps = Steps(10, Fraction(1, 6))

    @property
    def attack_steps(self) -> int:
        """One a step."""
        return self.steps.count

    def craft(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns the last iterates."""
        return worst_found(
            model, inputs, labels, threat=self.threat, steps=self.steps, generator=generator
        )


_ATTACKS: dict[str, Callable[[ThreatModel], Attack]] = {
    "fgsm": Fgsm,
    "pgd": Pgd,
    "deepfool": lambda threat: DeepFool(),
}


@register("adversarial-gradual")
@dataclass(frozen=True)
class AdversarialGradual(GradualPruning):
    """Magnitude pruning of each layer during adversarial training from random weights.

    Attributes:
        begin: share of all training after which the ramp begins (code: epoch 0).
        end: share after which it has ended (code: epoch 30 of 70).
        initial_sparsity: at the beginning of the ramp (code: 0).
        frequency: optimiser steps between two masks (code: 100).
        optimiser: of all training (code: Adam).
        learning_rate: of all training (code: 0.001).
        attack: of the adversarial half (code: any of the three; DeepFool takes 5 steps in L2 and
            ignores epsilon).
        epsilon: of the attack, in pixel units; 0 takes the cell's.
        smoothing: share of a label that is spread over all classes (code: 0.1).
    """

    info: ClassVar[Info] = Info(
        title="Adversarial gradual",
        authors=("Haidong Xie", "Lixin Qian", "Xueshuang Xiang", "Naijin Liu"),
        paper=(
            "Blind Adversarial Pruning: Balance Accuracy, Efficiency and Robustness, 2020, "
            "arXiv 2004.05913"
        ),
        code="https://github.com/Lixin-Qian/BAP",
        summary="Gradual magnitude pruning during training on half clean, half adversarial inputs "
        "of one fixed strength.",
    )
    objectives: ClassVar[tuple[str, ...]] = ("adversarial",)

    attack: Literal["fgsm", "pgd", "deepfool"] = "fgsm"
    epsilon: Fraction = Fraction(0)
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        """Refuses balls and labels that are none."""
        super().__post_init__()
        if self.epsilon < 0:
            raise ContractError(f"expected epsilon >= 0, got {float(self.epsilon):g}")
        Halves(DeepFool(), self.smoothing)  # refuses what it refuses

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the network trained to the end, finetuning included."""
        attack = lookup("attack", self.attack, _ATTACKS)(self._threat(task))
        return self.train_throughout(model, task, Halves(attack, self.smoothing))

    def _threat(self, task: Task) -> ThreatModel:
        threat = getattr(task.objective, "threat", None)
        if not isinstance(threat, ThreatModel):
            raise ContractError(
                "expected an objective with a threat model, whose epsilon the attack takes, got "
                f"{type(task.objective).__name__}"
            )
        return threat.with_epsilon(self.epsilon) if self.epsilon else threat
