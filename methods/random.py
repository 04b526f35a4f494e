"""The random control: in each layer a uniformly random share of units is removed.

Source: the baseline of most pruning papers, for instance J. Frankle et al., "Pruning Neural
Networks at Initialization: Why Are We Missing the Mark?", ICLR 2021 (arXiv 2009.08576), section 3.

Departures: none; layerwise, so that no layer is removed as a whole by chance.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import nn

from benchmark.pruning import STRUCTURES, Scope, Structure, mask_from_scores, prunable_parameters
from methods import Info, Pruned, Task, register


@register("random")
@dataclass(frozen=True)
class Random:
    """Uniform scores, drawn from the task's generator."""

    info: ClassVar[Info] = Info(
        title="Random",
        authors=(),
        paper="",
        code="",
        summary="Control: a random share of each layer is removed.",
    )
    structures: ClassVar[tuple[Structure, ...]] = STRUCTURES
    scope: ClassVar[Scope] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the model with random units zeroed."""
        scores = {
            name: torch.rand(parameter.shape, generator=task.generator)
            for name, parameter in prunable_parameters(model).items()
        }
        mask = mask_from_scores(scores, task.sparsity, self.scope, task.structure)
        mask.apply(model)
        return Pruned(model, mask)
