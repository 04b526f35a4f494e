"""Blind adversarial pruning (BAP): gradual pruning against attacks that set their own strength.

Minimal perturbations of each batch are cut to the batch's mean length and then scaled: how strongly
an example is perturbed follows from how robust the network is at that moment, and no epsilon is
chosen.

Source: H. Xie et al., "Blind Adversarial Pruning: Balance Accuracy, Efficiency and Robustness",
2020 (arXiv 2004.05913), also ICME 2021; without pruning: H. Xie et al., "Blind Adversarial
Training: Balance Accuracy and Robustness", 2020 (arXiv 2004.05914). The perturbations are those of
S.-M. Moosavi-Dezfooli et al., "DeepFool", CVPR 2016 (arXiv 1511.04599).

Code: https://github.com/Lixin-Qian/BAP (with tensorflow-model-optimization and CleverHans 3.0.1)

Departures from the code (the papers' own text was not available beyond their abstracts):
- Reconstruction: `cal_delta` is on and `rho` is 0.9, as the abstract's budget that adapts to each
  example asks for. The released settings (`cal_delta=no:delta=1:rho=1`) cut nothing, since no root
  mean square of pixels in [0, 1] exceeds 1: they are plain training on DeepFool examples, and so is
  the released script. 0.9 is the default of the code's own scaling function.
- It brings its own loss, which replaces the cell's: it is offered under the objective closest
  to it, since under any other it would make the same network again. Single weights only, as in the
  code.
- DeepFool lets an example go once the lengthened way fools the network, as its authors' code does.
  CleverHans asks before lengthening, which takes more steps for ways under 2 % longer. Either
  leaves the class that the network predicts, right or wrong.
- With `order=inf` the code clips each pixel at `delta` and ignores `cal_delta`; here the batch mean
  of the largest pixel changes is the bound then.
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

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from benchmark.errors import ContractError
from methods import Info, Pruned, Task, register
from methods._gradual import GradualPruning
from methods._halves import Attack, DeepFool, Halves

Order = Literal["2", "1", "inf"]

# Below this square or sum a perturbation is none; keeps the division finite (the code's).
_NONE = 1e-12


def _lengths(change: Tensor, order: Order) -> Tensor:
    """Returns (N, 1, 1, 1): root mean square over pixels (2), sum (1) or largest change (inf)."""
    if order == "inf":
        return change.abs().amax(dim=(1, 2, 3), keepdim=True)
    if order == "1":
        return change.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(_NONE)
    return change.square().mean(dim=(1, 2, 3), keepdim=True).clamp_min(_NONE).sqrt()


def _cut(change: Tensor, order: Order, bound: float | Tensor) -> Tensor:
    """Returns changes no longer than the bound: shrunk as a whole, or for `inf` pixel by pixel."""
    if order == "inf":
        limit = torch.as_tensor(bound, dtype=change.dtype, device=change.device)
        return change.clamp(-limit, limit)
    return change * (bound / _lengths(change, order)).clamp_max(1)


@dataclass(frozen=True)
class CutOffScale:
    """Another attack's perturbations, cut to a bound and scaled (the code's "CoS").

    Attributes:
        attack: whose they are.
        order: of the lengths.
        cal_delta: bound them by the batch's mean length, instead of by `delta`.
        delta: bound.
        rho: factor after the cut.
    """

    attack: Attack
    order: Order
    cal_delta: bool
    delta: float
    rho: float

    @property
    def attack_steps(self) -> int:
        """Those of the attack."""
        return self.attack.attack_steps

    def craft(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns inputs on the way to those of the attack."""
        adversarial = self.attack.craft(model, inputs, labels, generator)
        change = adversarial - inputs
        bound = _lengths(change, self.order).mean() if self.cal_delta else self.delta
        shorter = self.rho * _cut(change, self.order, bound)
        # What neither was cut nor scaled stays what it is, to the bit.
        return torch.where(shorter == change, adversarial, inputs + shorter)


@register("bap")
@dataclass(frozen=True)
class Bap(GradualPruning):
    """Magnitude pruning of each layer during blind adversarial training from random weights.

    Attributes:
        begin: share of all training after which the ramp begins (code: epoch 0).
        end: share after which it has ended (code: epoch 30 of 70).
        initial_sparsity: at the beginning of the ramp (code: 0).
        frequency: optimiser steps between two masks (code: 100).
        optimiser: of all training (code: Adam).
        learning_rate: of all training (code: 0.001).
        iterations: most steps of DeepFool (code: 5).
        candidates: classes that DeepFool looks at, the own one among them (code: 10).
        overshoot: share by which DeepFool's way is lengthened (code: 0.02).
        order: how long a perturbation is: root mean square over pixels (2), sum of the changes (1),
            or largest change (inf).
        cal_delta: cut perturbations to the mean length of their batch (code: no; see above).
        delta: cut them to this length, without `cal_delta` (code: 1).
        rho: factor after the cut (code: 1; its function's default: 0.9).
        smoothing: share of a label that is spread over all classes (code: 0.1).

    Raises:
        ContractError: a bound or factor that no perturbation can have.
    """

    info: ClassVar[Info] = Info(
        title="BAP",
        authors=("Haidong Xie", "Lixin Qian", "Xueshuang Xiang", "Naijin Liu"),
        paper=(
            "Blind Adversarial Pruning: Balance Accuracy, Efficiency and Robustness, 2020, "
            "arXiv 2004.05913"
        ),
        code="https://github.com/Lixin-Qian/BAP",
        summary="Gradual magnitude pruning during training on half clean, half minimally perturbed "
        "inputs, the perturbations cut to their batch's mean length.",
    )
    objectives: ClassVar[tuple[str, ...]] = ("adversarial",)

    iterations: int = 5
    candidates: int = 10
    overshoot: float = 0.02
    order: Order = "2"
    cal_delta: bool = True
    delta: float = 1.0
    rho: float = 0.9
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        """Refuses perturbations that would vanish or grow."""
        super().__post_init__()
        if not self.delta > 0 or not 0 < self.rho <= 1:
            raise ContractError(
                f"expected delta > 0 and rho in (0, 1], got {self.delta} and {self.rho}"
            )
        self._objective()  # refuses what its parts refuse

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the network trained to the end, finetuning included."""
        return self.train_throughout(model, task, self._objective())

    def _objective(self) -> Halves:
        fool = DeepFool(self.iterations, self.candidates, self.overshoot)
        attack = CutOffScale(fool, self.order, self.cal_delta, self.delta, self.rho)
        return Halves(attack, self.smoothing)
