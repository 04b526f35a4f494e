"""Least weight magnitude (LWM), global: the smallest weights of the whole network are removed.

Source: S. Han et al., "Learning both Weights and Connections for Efficient Neural Networks",
NeurIPS 2015 (arXiv 1506.02626), section 3; as the one-shot baseline "LWM" in V. Sehwag et al.,
"HYDRA: Pruning Adversarially Robust Neural Networks", NeurIPS 2020 (arXiv 2002.10509), section 3.

Departures: exactly round(sparsity * n) units are removed; filters and channels are ranked by the
mean magnitude of their weights.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from torch import nn

from benchmark.pruning import STRUCTURES, Scope, Structure, mask_from_scores, prunable_parameters
from methods import Info, Pruned, Task, register


@register("lwm-global")
@dataclass(frozen=True)
class GlobalMagnitude:
    """Scores are weight magnitudes."""

    info: ClassVar[Info] = Info(
        title="LWM, global",
        authors=("Song Han", "Jeff Pool", "John Tran", "William Dally"),
        paper=(
            "Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, "
            "arXiv 1506.02626"
        ),
        code="",
        summary="Control: the smallest weights of the whole network are removed, one shot.",
    )
    structures: ClassVar[tuple[Structure, ...]] = STRUCTURES
    scope: ClassVar[Scope] = "global"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the model with its smallest units zeroed."""
        scores = {name: parameter.abs() for name, parameter in prunable_parameters(model).items()}
        mask = mask_from_scores(scores, task.sparsity, self.scope, task.structure)
        mask.apply(model)
        return Pruned(model, mask)
