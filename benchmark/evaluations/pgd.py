"""The PGD evaluation: cross-entropy PGD at one or more epsilons, with its convergence on record."""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from benchmark.attacks import Steps, pgd
from benchmark.evaluations.base import MISCLASSIFIED, PROVEN, SURVIVED, Examples, Result
from benchmark.evaluations.confirm import fooled, predictions
from benchmark.threat import ThreatModel


@dataclass(frozen=True)
class Pgd:
    """PGD on cross-entropy.

    Attributes:
        steps: gradient steps; their size is a share of epsilon.
        restarts: random starts.
        epsilons: the epsilons to attack at; empty for the protocol's own.

    Columns, one an epsilon: `broken_step@<epsilon>` int16: the step of the first misclassified
    iterate (0 = the start), -1 where the example survived, -2 where it was misclassified unmodified
    and -3 where it is proven robust, neither of which is attacked. Whether half the steps would
    have done is thus on record.
    """

    kind: ClassVar[str] = "pgd"

    steps: Steps
    restarts: int
    epsilons: tuple[Fraction, ...] = ()

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Attacks the examples of a shard that are correct and not proven, at each epsilon."""
        columns: dict[str, np.ndarray] = {}
        adversarial: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        correct = predictions(model, examples.inputs) == examples.labels
        for epsilon in self.epsilons or (threat.epsilon,):
            ball = threat.with_epsilon(epsilon)
            proven = correct & examples.proven_at(epsilon)
            chosen = (correct & ~proven).nonzero().flatten()
            trace = pgd(
                model,
                examples.inputs[chosen],
                examples.labels[chosen],
                threat=ball,
                steps=self.steps,
                restarts=self.restarts,
                generator=generator,
            )
            # The attack judged in batches of survivors; what counts is the shard as a whole.
            broken = fooled(model, examples, chosen, trace.adversarial, ball)
            broken &= trace.broken_step >= 0
            column = np.where(proven.cpu().numpy(), PROVEN, MISCLASSIFIED).astype(np.int16)
            steps = torch.where(broken, trace.broken_step, SURVIVED)
            column[chosen.cpu().numpy()] = steps.cpu().numpy()
            columns[f"broken_step@{epsilon}"] = column
            adversarial[f"pgd@{epsilon}"] = (
                chosen[broken].cpu().numpy(),
                trace.adversarial[broken].cpu().numpy(),
            )
        return Result(columns=columns, adversarial=adversarial, flags=())
