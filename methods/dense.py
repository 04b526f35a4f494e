"""The dense control: nothing is removed, and everything else is as for the other methods.

Every row of a cell is finetuned for the same epochs with the same objective. The dense control gets
them too, so that what pruning costs is not hidden behind a longer training.

Departures: none; this is no paper's method.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from torch import nn

from benchmark.pruning import STRUCTURES, Mask, Scope, Structure
from methods import Info, Pruned, Task, register


@register("dense")
@dataclass(frozen=True)
class Dense:
    """The pretrained network, whole."""

    info: ClassVar[Info] = Info(
        title="Dense",
        authors=(),
        paper="",
        code="",
        summary="Control: the dense parent, finetuned like every pruned network.",
    )
    structures: ClassVar[tuple[Structure, ...]] = STRUCTURES
    scope: ClassVar[Scope] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(0)

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the model with a mask that keeps everything."""
        return Pruned(model, Mask.ones(model))
