"""Compact and robust: the smallest weights or filters go in stages, under one robust objective.

Source: V. Sehwag, S. Wang, P. Mittal and S. Jana, "Towards Compact and Robust Deep Neural
Networks", 2019 (arXiv 1906.06110). Documented are the three steps (pretrain, prune, finetune), that
the first and last share the robust objective (adversarial or verifiable), that the criterion is the
magnitude of weights or filters whatever the objective, and that pruning is iterative.

Code: none public.

Departures, all of them reconstructions, since no more of the paper's procedure is published:
- Sparsity after stage t of T is 1 - (1 - sparsity)^(t / T): each stage removes the same share of
  what is left.
- Each layer loses the same share. Two summaries of the paper disagree on layerwise or global.
- Filters are ranked by their L1 norm. Biases and norms of removed filters stay, as for every method
  of this benchmark.
- Between stages the survivors train under the same objective; these epochs share out the recipe's
  prune stage. After the last stage they are finetuned like any other method's.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from benchmark.errors import ContractError, lookup
from benchmark.objectives import Benign
from benchmark.pruning import Mask, Scope, Structure, mask_from_scores, prunable_parameters
from methods import Info, Pruned, Task, register


@register("compact-robust")
@dataclass(frozen=True)
class CompactRobust:
    """Removes the smallest weights or filters of each layer in stages, training in between.

    Attributes:
        stages: pruning steps (reconstruction; one is one-shot pruning).
        start: objective of the dense parent, if not the cell's: `benign` is the mismatch "benign
            pretraining, robust finetuning".
        retrain: `benign` trains the survivors without the cell's objective, between stages and at
            the end: the mismatch "robust pretraining, benign finetuning".

    Raises:
        ContractError: fewer than one stage.
        UnknownName: no such objective to retrain with.
    """

    info: ClassVar[Info] = Info(
        title="Compact and robust",
        authors=("Vikash Sehwag", "Shiqi Wang", "Prateek Mittal", "Suman Jana"),
        paper="Towards Compact and Robust Deep Neural Networks, 2019, arXiv 1906.06110",
        code="",
        summary="Magnitude pruning in stages; the robust objective before, between and after.",
    )
    structures: ClassVar[tuple[Structure, ...]] = ("unstructured", "filter")
    scope: ClassVar[Scope] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    stages: int = 5
    start: str = ""
    retrain: Literal["", "benign"] = ""

    def __post_init__(self) -> None:
        """Refuses settings without a meaning."""
        if self.stages < 1:
            raise ContractError(f"expected stages >= 1, got {self.stages}; 1 prunes in one shot")
        lookup("objective to retrain with", self.retrain, _RETRAIN)

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the model after its last stage; finetuned already if without the objective."""
        objective = _RETRAIN[self.retrain]
        mask = Mask.ones(model)
        # Training after the last stage is finetuning.
        gaps = [*shares(task.prune.left, self.stages - 1), 0]
        for level, epochs in zip(sparsities(task.sparsity, self.stages), gaps, strict=True):
            scores = magnitudes(model, mask)
            mask = mask_from_scores(scores, level, self.scope, task.structure)
            mask.apply(model)
            if epochs:
                task.prune.fit(model, epochs=epochs, mask=mask, objective=objective)
        if objective:
            task.finetune.fit(model, mask=mask, objective=objective)
        return Pruned(model, mask, finetuned=objective is not None)


# None stands for the cell's own.
_RETRAIN: dict[str, Benign | None] = {"": None, "benign": Benign()}


def sparsities(last: Fraction, stages: int) -> list[Fraction]:
    """Returns the sparsity after each stage, each removing the same share of what is left.

    >>> sparsities(Fraction(3, 4), 2)
    [Fraction(1, 2), Fraction(3, 4)]
    """
    density = float(1 - last)
    # Rounded, so that the last bit of a power cannot decide a count.
    early = [1 - Fraction(density ** (t / stages)) for t in range(1, stages)]
    return [*(min(last, level.limit_denominator(10_000)) for level in early), last]


def shares(epochs: int, parts: int) -> list[int]:
    """Returns how many epochs each part gets, as even as whole numbers can be, in sum all of them.

    >>> shares(10, 4)
    [2, 3, 2, 3]
    """
    return [epochs * (i + 1) // parts - epochs * i // parts for i in range(parts)]


def magnitudes(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """Returns |w| of kept weights and -1 for removed ones, so that what is removed stays removed.

    A kept weight may be zero too, and ties go by position.
    """
    parameters = prunable_parameters(model)
    return {
        name: torch.where(kept, parameters[name].detach().cpu().abs(), -1.0)
        for name, kept in mask.items()
    }
