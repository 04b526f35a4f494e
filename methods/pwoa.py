"""PwoA: a robust network is pruned and retrained on its own soft answers, without any attack.

Source: T. Jian et al., "Pruning Adversarially Robust Neural Networks without Adversarial Examples",
ICDM 2022 (arXiv 2210.04311).

Code: https://github.com/neu-spiral/PwoA

The dense parent, frozen, is the teacher. The prune stage draws the weights towards a sparse copy of
themselves by ADMM while the network imitates the teacher on clean images. The network is then set
to its nearest sparse weights and retrained, imitating the teacher under an information bottleneck:
its hidden layers are to know little of the image and much of the label. What robustness it has is
the teacher's: the cell's own loss is never called.

Departures:
- Exactly round(sparsity * n) units of a layer go, the earlier of two equal ones first; the code
  compares with a percentile. Columns of the unfolded weights are no structure of this benchmark.
- Every convolution and linear layer is pruned; the code prunes linear layers only if their name
  ends in `fc.weight`, so of its LeNet the convolutions alone, 1.6 % of all weights.
- At the start of each epoch the code sets the sparse copy to the nearest weights of W, not of
  W + U, and on a CPU even prunes W itself there. Both are taken for slips: the copy changes at
  updates alone, as in ADMM.
- Updates come at the same shares of the stage as in the code. Where a step of a short stage passes
  several of them there is one update, with the rho of that share.
- Epochs, optimiser and learning rates are the recipe's (the authors': 50 and 100 epochs; SGD at
  0.01 and 0.005, on MNIST Adam), and the last epoch counts, not the best on test data. Within each
  interval their learning rate falls to a hundredth. In the short stages of this benchmark weights
  then have no time to follow and U runs away: on digits at 90 % the robustness was lost.
- The teacher is the cell's dense parent, not a published network, and runs without gradients; the
  code carries gradients through it that nobody uses.
- The kernels are centred on both sides, the code's on one; nHSIC is the same number.
- Hidden layers are, as in the code, the ReLU layers of plain networks and the residual blocks, the
  stem and the pooling of ResNets; of WideResNets the stem is left out. For networks that the code
  does not know this is a reconstruction.
- Held at zero in retraining is what was pruned; the code holds every parameter that happens to be
  zero, fresh biases too.
- In the ablation the attack is the cell's inner attack, in both stages; theirs has settings of its
  own. That their adversarial finetuning starts from the same pruned network is a reconstruction.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from benchmark.attacks import Steps
from benchmark.errors import ContractError
from benchmark.objectives import Moment, Objective
from benchmark.pruning import Mask, Scope, Structure, prunable_parameters
from benchmark.threat import ThreatModel
from methods import Info, Pruned, Task, register
from methods._admm import Penalised, Schedule, Variables, nearest
from methods._hsic import Bottleneck, hidden_outputs
from methods._imitation import Mix, Pupil, distillation


@register("pwoa")
@dataclass(frozen=True)
class Pwoa:
    """Self-distillation with ADMM, then with an information bottleneck under the mask.

    All values are those of the authors' scripts.

    Attributes:
        rho: weight of the ADMM penalty before the first update.
        rho_growth: factor of rho at each update.
        rho_largest: cap of rho.
        interval: share of the prune stage between two updates (3 of 50 epochs).
        temperature: T of the distillation.
        alpha_per_class: weight of the distillation, divided by the number of classes (alpha is 10
            for 10 classes, 100 for 100).
        lambda_x: weight of what hidden layers know of the image (CIFAR-10's; MNIST has 2e-4,
            CIFAR-100 5e-7).
        lambda_y: weight of what they know of the label (CIFAR-10's; MNIST has 5e-5, CIFAR-100
            2e-6).
        sigma: width of the bottleneck's Gaussian kernels.
        mix_ratio: share of batches replaced by adversarial examples of the network, in [0, 1]; the
            paper's ablation, 0 in the method itself.
        finetune: `distill`, or `objective` for finetuning with the cell's loss in its place, as
            every other method does.

    Raises:
        ContractError: a setting outside its range.
    """

    info: ClassVar[Info] = Info(
        title="PwoA",
        authors=("Tong Jian", "Zifeng Wang", "Yanzhi Wang", "Jennifer Dy", "Stratis Ioannidis"),
        paper=(
            "Pruning Adversarially Robust Neural Networks without Adversarial Examples, ICDM 2022, "
            "arXiv 2210.04311"
        ),
        code="https://github.com/neu-spiral/PwoA",
        summary="ADMM pruning and retraining by self-distillation, without adversarial examples.",
    )
    structures: ClassVar[tuple[Structure, ...]] = ("unstructured", "filter")
    scope: ClassVar[Scope] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    rho: float = 0.01
    rho_growth: float = 1.35
    rho_largest: float = 1.0
    interval: Fraction = Fraction(3, 50)
    temperature: float = 30.0
    alpha_per_class: float = 1.0
    lambda_x: float = 2e-5
    lambda_y: float = 1e-4
    sigma: float = 5.0
    mix_ratio: float = 0.0
    finetune: Literal["distill", "objective"] = "distill"

    def __post_init__(self) -> None:
        """Refuses settings that mean nothing."""
        self._schedule()
        if not min(self.temperature, self.sigma) > 0 or not 0 <= self.mix_ratio <= 1:
            raise ContractError(
                "expected a temperature > 0, sigma > 0 and a mix ratio in [0, 1], got "
                f"{self.temperature}, {self.sigma} and {self.mix_ratio}; correct the settings"
            )

    def _schedule(self) -> Schedule:
        return Schedule(self.interval, self.rho, self.rho_growth, self.rho_largest)

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the network pruned and, unless the engine is to do so, retrained."""
        pupil = Pupil(model)
        mix = self._mix(task.prune.objective)
        imitation = Imitation(self.temperature, self.alpha_per_class, mix)
        task.prune.fit(
            Variables(pupil, task.sparsity, task.structure),
            objective=Penalised(imitation, self._schedule()),
        )
        mask = nearest(prunable_parameters(model), task.sparsity, task.structure)
        mask.apply(model)
        if self.finetune == "objective":
            return Pruned(model, mask)
        bottleneck = Bottleneck(self.lambda_x, self.lambda_y, self.sigma)
        inside = Mask({f"student.{name}": kept for name, kept in mask.items()})
        task.finetune.fit(pupil, mask=inside, objective=replace(imitation, bottleneck=bottleneck))
        return Pruned(model, mask, finetuned=True)

    def _mix(self, objective: Objective) -> Mix | None:
        """Returns which batches are attacked, if any, and with the inner attack of which cell."""
        if self.mix_ratio == 0:
            return None
        threat, steps = getattr(objective, "threat", None), getattr(objective, "steps", None)
        if not isinstance(threat, ThreatModel) or not isinstance(steps, Steps):
            raise ContractError(
                f"expected an objective with an inner attack for a mix ratio of {self.mix_ratio}, "
                f"got {type(objective).__name__}; use adversarial or trades"
            )
        return Mix(self.mix_ratio, threat, steps)


@dataclass(frozen=True)
class Imitation:
    """How far a pupil's answers are from its teacher's, with or without the bottleneck.

    Attributes:
        temperature: T.
        alpha_per_class: weight, divided by the number of classes.
        mix: which batches are attacked, or None.
        bottleneck: on hidden layers, or None.
    """

    temperature: float
    alpha_per_class: float
    mix: Mix | None = None
    bottleneck: Bottleneck | None = None

    @property
    def attack_steps(self) -> int:
        """None, but in the ablation."""
        return self.mix.steps.count if self.mix else 0

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        moment: Moment,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns alpha times the distillation, plus the bottleneck where there is one."""
        pupil = cast(Pupil, model)
        if self.mix:
            inputs = self.mix.apply(pupil.student, inputs, labels, generator)
        with torch.no_grad():
            wanted = pupil.teacher(inputs)
        if self.bottleneck is None:
            return self._weighted(pupil.student(inputs), wanted)
        with hidden_outputs(pupil.student) as hidden:
            loss = self._weighted(pupil.student(inputs), wanted)
        return loss + self.bottleneck.penalty(hidden, inputs, labels)

    def _weighted(self, logits: Tensor, wanted: Tensor) -> Tensor:
        alpha = self.alpha_per_class * logits.shape[1]
        return alpha * distillation(logits, wanted, self.temperature)
