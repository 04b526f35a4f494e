"""HYDRA: a score a weight is trained under the robust loss, and the top share of each layer stays.

Source: V. Sehwag et al., "HYDRA: Pruning Adversarially Robust Neural Networks", NeurIPS 2020 (arXiv
2002.10509); details by its code. The gradient that passes through the mask as if it were not there
is that of V. Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?", CVPR 2020.

Code: https://github.com/inspire-group/hydra

Departures:
- Exactly round(sparsity * n) weights of a layer go, the earlier of two equal scores first; the code
  truncates, and leaves ties to its sort.
- Loss, epochs, learning rate, optimiser and weight decay are the recipe's. The paper prunes for 20
  epochs by SGD at 0.1 (adversarial training, smoothing) or Adam at 1e-5 (MixTrain, CROWN-IBP), and
  adds unlabelled images on CIFAR-10. Weight decay acts on the scores, as in the code.
- Masks are selected once a step. The code sorts anew in every pass of the inner attack, which gives
  the same masks, since scores move only at the end of a step.
- The paper states the scaled initialisation up to a constant; the code's is 6.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmark.errors import ContractError, lookup
from benchmark.objectives import Moment, Objective
from benchmark.pruning import Scope, Structure, largest, mask_from_scores, prunable_parameters
from methods import Info, Pruned, Task, register


@register("hydra")
@dataclass(frozen=True)
class Hydra:
    """Trains scores under frozen weights and biases, and keeps the weights with the largest.

    Attributes:
        score_init: `scaled` starts from the order of weight magnitudes (the paper's choice); the
            others are the random ones that the code offers (`scores_init_type`: He's and Glorot's,
            with the gain of ReLU).
        kappa: constant of the scaled initialisation (the code's, `initialize_scaled_score`).
        freeze_bn: also freezes scale and shift of batch norms; their statistics move in any case
            (the code's `freeze-bn`, by default off).
        start: objective of the dense parent, if not the cell's. With `benign` and without
            finetuning this finds robust sub-networks of non-robust networks (the abstract's last
            claim).
        finetune: train the surviving weights afterwards.

    Raises:
        ContractError: kappa is not positive.
        UnknownName: no such initialisation.
    """

    info: ClassVar[Info] = Info(
        title="HYDRA",
        authors=("Vikash Sehwag", "Shiqi Wang", "Prateek Mittal", "Suman Jana"),
        paper="HYDRA: Pruning Adversarially Robust Neural Networks, NeurIPS 2020, arXiv 2002.10509",
        code="https://github.com/inspire-group/hydra",
        summary="A score a weight is trained under the robust loss; the top of each layer stays.",
    )
    structures: ClassVar[tuple[Structure, ...]] = ("unstructured",)
    scope: ClassVar[Scope] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    score_init: Literal[
        "scaled", "kaiming-uniform", "kaiming-normal", "xavier-uniform", "xavier-normal"
    ] = "scaled"
    kappa: float = 6.0
    freeze_bn: bool = False
    start: str = ""
    finetune: bool = True

    def __post_init__(self) -> None:
        """Refuses settings without a meaning."""
        if not 0 < self.kappa < math.inf:
            raise ContractError(f"expected kappa > 0, got {self.kappa}; the paper's code has 6")
        if self.score_init != "scaled":
            lookup("score_init", self.score_init, _RANDOM)

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the model with the weights of lowest trained score zeroed, the others as is."""
        # What is trained is a copy, so that no weight of the model itself can move.
        scored = copy.deepcopy(model)
        layers = self._prepare(scored, task)
        task.prune.fit(scored, objective=_Reselecting(task.objective))
        scores = {name: layer.scores.detach().abs() for name, layer in layers.items()}
        mask = mask_from_scores(scores, task.sparsity, self.scope, task.structure)
        own = model.state_dict()
        trained = {key: tensor for key, tensor in scored.state_dict().items() if key in own}
        model.load_state_dict(own | trained)  # batch norms; what is frozen is as it was
        mask.apply(model)
        return Pruned(model, mask, finetuned=not self.finetune)

    def _prepare(self, model: nn.Module, task: Task) -> "dict[str, _Scored]":
        """Freezes a network but for its batch norms, and puts scores on its prunable weights."""
        weights = prunable_parameters(model)
        model.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(not self.freeze_bn)
        layers = {}
        for name, weight in weights.items():
            layers[name] = _Scored(self._scores(weight, task.generator), task.sparsity)
            owner = model.get_submodule(name.rpartition(".")[0])
            parametrize.register_parametrization(owner, "weight", layers[name])
        return layers

    def _scores(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the first scores of a layer."""
        if self.score_init == "scaled":
            return scaled_scores(weight.detach(), self.kappa)
        return _RANDOM[self.score_init](torch.empty(weight.shape), generator).to(weight.device)


_RANDOM: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "kaiming-uniform": lambda empty, rng: nn.init.kaiming_uniform_(empty, generator=rng),
    "kaiming-normal": lambda empty, rng: nn.init.kaiming_normal_(empty, generator=rng),
    "xavier-uniform": lambda empty, rng: nn.init.xavier_uniform_(empty, 2**0.5, generator=rng),
    "xavier-normal": lambda empty, rng: nn.init.xavier_normal_(empty, 2**0.5, generator=rng),
}


def scaled_scores(weight: Tensor, kappa: float) -> Tensor:
    """Returns scores in the order of the weights, as wide as Kaiming's initialisation for kappa 6.

    Args:
        weight: (outputs, ...) of one layer.
        kappa: positive.

    Source: Sehwag et al. 2020, scaled initialisation: sqrt(kappa / fan_in) * w / max |w|.
    """
    largest = weight.abs().max().clamp_min(torch.finfo(weight.dtype).tiny)
    return math.sqrt(kappa / weight[0].numel()) * weight / largest


def keep_largest(scores: Tensor, sparsity: Fraction) -> Tensor:
    """Returns what `mask_from_scores` keeps of one layer, found on the scores' device.

    Args:
        scores: higher = keep, in float32, none of them NaN.
        sparsity: share removed, in [0, 1].

    Returns:
        Bool tensor of the scores' shape.
    """
    flat = scores.flatten()
    return largest(flat, len(flat) - round(sparsity * len(flat))).view(scores.shape)


class _Scored(nn.Module):
    """The weight of a layer under the mask of its scores; only the scores are trained."""

    mask: Tensor

    def __init__(self, scores: Tensor, sparsity: Fraction) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.sparsity = sparsity
        # In the state of a training, so that one of another sparsity is not taken over.
        self.register_buffer("mask", keep_largest(scores.abs(), sparsity))

    @torch.no_grad()
    def select(self) -> None:
        """Brings the mask up to date with the scores."""
        self.mask.copy_(keep_largest(self.scores.abs(), self.sparsity))

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the masked weight w * m, whose gradient reaches |s| as if it stood for m."""
        through = weight * self.scores.abs()
        return weight.masked_fill(~self.mask, 0.0) + (through - through.detach())


@dataclass(frozen=True)
class _Reselecting:
    """An objective on masks that are selected at the start of each step."""

    objective: Objective

    @property
    def attack_steps(self) -> int:
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
        for module in model.modules():
            if isinstance(module, _Scored):
                module.select()
        return self.objective.loss(model, inputs, labels, moment=moment, generator=generator)
