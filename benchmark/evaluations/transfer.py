"""The transfer evaluation: adversarial inputs of the dense parent, tried on its pruned child.

Gradients of another network cannot be masked by this one. Where they break what the network's own
gradients did not, those led nowhere.

Source: Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018
(arXiv 1802.00420), section 3.1: black-box attacks must not beat white-box attacks.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.attacks import Steps, ascend
from benchmark.evaluations.base import MISCLASSIFIED, NOT_RUN, SURVIVED, Examples, Result
from benchmark.evaluations.confirm import fooled, predictions
from benchmark.evaluations.engine import Guard
from benchmark.threat import ThreatModel


@dataclass(frozen=True)
class Transfer:
    """PGD on the dense parent, without stopping at its first success, moved to the child.

    Attributes:
        steps: gradient steps; their size is a share of epsilon.

    Column: `broken_by` int8: 0 where the last iterate or the one of the parent's largest loss
    breaks the child, -1 where it survives both, -2 where it is misclassified unmodified; -4
    everywhere without a parent. Examples proven robust are attacked, too.
    """

    kind: ClassVar[str] = "transfer"
    attacks: ClassVar[tuple[str, ...]] = ("transfer",)

    steps: Steps = Steps(50, Fraction(1, 8))

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Attacks the correct examples of a shard through `examples.parent`."""
        if examples.parent is None:
            nowhere = np.full(len(examples.labels), NOT_RUN, dtype=np.int8)
            return Result({"broken_by": nowhere}, {}, ())
        # A frozen copy, as of every network that is measured.
        inner = model.inner if isinstance(model, Guard) else 0
        parent = Guard(examples.parent, examples.classes, inner)
        correct = predictions(model, examples.inputs) == examples.labels
        broken_by = torch.where(correct, SURVIVED, MISCLASSIFIED).to(torch.int8)
        adversarial = examples.inputs.clone()
        for candidates in self._climb(parent, examples, threat, generator):
            alive = (broken_by == SURVIVED).nonzero().flatten()
            broken = alive[fooled(model, examples, alive, candidates[alive], threat)]
            broken_by[broken] = 0
            adversarial[broken] = candidates[broken]
        found = (broken_by == 0).nonzero().flatten()
        shown = (found.cpu().numpy(), adversarial[found].cpu().numpy())
        return Result({"broken_by": broken_by.cpu().numpy()}, {"transfer": shown}, ())

    def _climb(
        self, parent: nn.Module, examples: Examples, threat: ThreatModel, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Returns (N, C, H, W) the last iterates and those of the largest loss before them."""
        current = threat.random_start(examples.inputs, generator)
        best, highest = current, torch.full(examples.labels.shape, -torch.inf).to(current)
        for _ in range(self.steps.count):
            watch = _Loss(examples.labels)
            following = ascend(
                parent,
                watch,
                examples.inputs,
                current,
                threat=threat,
                steps=Steps(1, self.steps.size),
            )
            better = watch.values > highest
            best = torch.where(better.view(-1, 1, 1, 1), current, best)
            highest = torch.where(better, watch.values, highest)
            current = following
        return current, best


class _Loss:
    """The summed cross-entropy that keeps its value at each example."""

    def __init__(self, labels: Tensor) -> None:
        """Takes (N,) labels."""
        self._labels = labels
        self.values = torch.zeros(labels.shape, device=labels.device)

    def __call__(self, logits: Tensor) -> Tensor:
        """Returns the sum over examples."""
        losses = functional.cross_entropy(logits, self._labels, reduction="none")
        self.values = losses.detach()
        return losses.sum()
