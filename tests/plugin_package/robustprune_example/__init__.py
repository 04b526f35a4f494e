"""A method from outside: keeps the first weights of each layer.

Departures: none; this is no paper's method.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import nn

from benchmark.pruning import Scope, Structure, mask_from_scores, prunable_parameters
from methods import Info, Pruned, Task


@dataclass(frozen=True)
class FirstWeights:
    """Scores fall with the position."""

    info: ClassVar[Info] = Info(
        title="First weights",
        authors=("A third party",),
        paper="",
        code="",
        summary="Keeps the first weights of each layer.",
    )
    structures: ClassVar[tuple[Structure, ...]] = ("unstructured",)
    scope: ClassVar[Scope] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the model with the last weights of each layer zeroed."""
        scores = {
            name: -torch.arange(p.numel(), dtype=torch.float32).view(p.shape)
            for name, p in prunable_parameters(model).items()
        }
        mask = mask_from_scores(scores, task.sparsity, self.scope, task.structure)
        mask.apply(model)
        return Pruned(model, mask)
