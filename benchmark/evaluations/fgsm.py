"""The FGSM evaluation: one step of full epsilon from the original.

Source: I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR
2015 (arXiv 1412.6572), section 4; in L2 the step goes along the gradient itself.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from benchmark.evaluations.base import MISCLASSIFIED, PROVEN, SURVIVED, Examples, Result
from benchmark.evaluations.confirm import fooled, predictions
from benchmark.evaluations.sanity import single_step
from benchmark.threat import ThreatModel


@dataclass(frozen=True)
class Fgsm:
    """The fast gradient sign method: the weakest of gradient attacks, and no measure by itself.

    Column: `broken_by` int8: 0 where the step breaks the example, -1 where it survives, -2 where it
    was misclassified unmodified and -3 where it is proven robust, neither of which is attacked.
    """

    kind: ClassVar[str] = "fgsm"
    attacks: ClassVar[tuple[str, ...]] = ("fgsm",)

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Attacks the examples of a shard that are correct and not proven; draws nothing."""
        correct = predictions(model, examples.inputs) == examples.labels
        broken_by = torch.where(correct, SURVIVED, MISCLASSIFIED).to(torch.int8)
        broken_by[correct & examples.proven_at(threat.epsilon)] = PROVEN
        alive = (broken_by == SURVIVED).nonzero().flatten()
        if len(alive) == 0:
            return Result({"broken_by": broken_by.cpu().numpy()}, {}, ())
        candidates = single_step(model, examples.inputs[alive], examples.labels[alive], threat)
        broken = fooled(model, examples, alive, candidates, threat)
        broken_by[alive[broken]] = 0
        shown = (alive[broken].cpu().numpy(), candidates[broken].cpu().numpy())
        return Result({"broken_by": broken_by.cpu().numpy()}, {"fgsm": shown}, ())
