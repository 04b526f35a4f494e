"""Magnitude pruning while a network trains from random weights: what its three methods share.

Source: M. Zhu and S. Gupta, "To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model
Compression", ICLR 2018 workshop (arXiv 1710.01878), equation 1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from benchmark.errors import ContractError
from benchmark.objectives import Moment, Objective
from benchmark.pruning import Mask, Scope, Structure, mask_from_scores, prunable_parameters
from benchmark.training import Stage
from methods import Pruned, Task

# Into how many parts a ramp shorter than this many intervals is cut: with the paper's 100 steps
# between two masks, a short training would see its sparsity jump.
_FEWEST_UPDATES = 10


@dataclass(frozen=True)
class Ramp:
    """At which optimiser steps masks are recomputed, and to which sparsity.

    Attributes:
        initial: sparsity at the first of them.
        final: sparsity at the last, and from then on.
        first: step.
        last: step, not before the first.
        frequency: steps from one mask to the next; the last step has one in any case.
    """

    initial: Fraction
    final: Fraction
    first: int
    last: int
    frequency: int

    def due(self, step: int) -> bool:
        """Returns whether masks are recomputed before this step."""
        if not self.first <= step <= self.last:
            return False
        return (step - self.first) % self.frequency == 0 or step == self.last

    def sparsity(self, step: int) -> Fraction:
        """Returns the sparsity of the masks made before a step: equation 1 of Zhu and Gupta."""
        if step >= self.last:
            return self.final
        left = 1 - Fraction(step - self.first, self.last - self.first)
        return self.final + (self.initial - self.final) * left**3


class Thinning(nn.Module):
    """A network with its masks of the moment, which a killed run must not lose."""

    def __init__(self, network: nn.Module) -> None:
        """Removes nothing yet."""
        super().__init__()
        self.network = network
        for place, parameter in enumerate(prunable_parameters(network).values()):
            self.register_buffer(f"kept_{place}", torch.ones_like(parameter, dtype=torch.bool))

    def masked(self) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
        """Yields name, weight and mask of each prunable parameter."""
        for place, (name, parameter) in enumerate(prunable_parameters(self.network).items()):
            yield name, parameter, self.get_buffer(f"kept_{place}")

    @torch.no_grad()
    def advance(self, ramp: Ramp, step: int) -> None:
        """Recomputes the masks if they are due, and zeroes what is removed.

        Removed weights have moved since: their gradients are not stopped. So what grows back past
        the smallest weights is kept again when masks are recomputed, and zeroed otherwise.
        """
        if ramp.due(step):
            scores = {name: parameter.abs() for name, parameter, _ in self.masked()}
            mask = mask_from_scores(scores, ramp.sparsity(step), "layerwise")
            for name, _, kept in self.masked():
                kept.copy_(mask[name])
        for _, parameter, kept in self.masked():
            parameter.masked_fill_(~kept, 0.0)

    @property
    def mask(self) -> Mask:
        """The masks of the moment."""
        return Mask({name: kept for name, _, kept in self.masked()})


@dataclass(frozen=True)
class WhileThinning:
    """A loss of a network inside `Thinning`, which advances by a step first.

    Attributes:
        objective: loss of the network itself.
        ramp: of the sparsity.
        batches: steps an epoch.
    """

    objective: Objective
    ramp: Ramp
    batches: int

    @property
    def attack_steps(self) -> int:
        """Those of the loss."""
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
        """Returns the loss of the network under its masks."""
        thinning = cast(Thinning, model)
        thinning.advance(self.ramp, round(moment.epoch * self.batches))
        return self.objective.loss(
            thinning.network, inputs, labels, moment=moment, generator=generator
        )


@dataclass(frozen=True)
class GradualPruning:
    """The settings of all three, and the stage in which sparsity rises."""

    structures: ClassVar[tuple[Structure, ...]] = ("unstructured",)
    scope: ClassVar[Scope] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)
    start: ClassVar[str] = "random"

    begin: Fraction = Fraction(0)
    end: Fraction = Fraction(3, 7)
    initial_sparsity: Fraction = Fraction(0)
    frequency: int = 100
    optimiser: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        """Refuses ramps that end before they begin, and sparsities that are none."""
        shares = (self.begin, self.end, self.initial_sparsity)
        if not all(0 <= share <= 1 for share in shares) or self.end < self.begin:
            raise ContractError(
                "expected 0 <= begin <= end <= 1 and an initial sparsity in [0, 1], got "
                f"{', '.join(str(float(share)) for share in shares)}"
            )
        if self.frequency < 1:
            raise ContractError(f"expected a frequency >= 1, got {self.frequency}")

    def settings(self, stage: Stage) -> Stage:
        """Returns a stage with the method's optimiser and learning rate."""
        return replace(stage, optimiser=self.optimiser, learning_rate=self.learning_rate)

    def ramp(self, task: Task, batches: int) -> Ramp:
        """Returns when masks are recomputed, for `batches` steps an epoch."""
        whole = (task.prune.stage.epochs + task.finetune.stage.epochs) * batches
        limit = task.prune.left * batches
        first, last = (min(round(share * whole), limit) for share in (self.begin, self.end))
        longest = max(1, (last - first) // _FEWEST_UPDATES)
        return Ramp(self.initial_sparsity, task.sparsity, first, last, min(self.frequency, longest))

    def thin(self, model: nn.Module, task: Task, objective: Objective) -> Mask:
        """Spends the prune stage on training `model` while its sparsity rises; returns its mask."""
        batches = math.ceil(len(task.split) / task.stage.batch_size)
        ramp, epochs = self.ramp(task, batches), task.prune.left
        thinning = Thinning(model)
        task.prune.fit(
            thinning,
            objective=WhileThinning(objective, ramp, batches),
            stage=self.settings(task.stage),
        )
        # The ramp may end with the stage; and the last step has moved what was removed.
        thinning.advance(ramp, epochs * batches)
        return thinning.mask

    def train_throughout(self, model: nn.Module, task: Task, objective: Objective) -> Pruned:
        """Spends finetuning too, under the same loss and settings."""
        mask = self.thin(model, task, objective)
        settings = self.settings(task.finetune.stage)
        task.finetune.fit(model, mask=mask, objective=objective, stage=settings)
        return Pruned(model, mask, finetuned=True)
