"""What attacks that climb step by step share: the search at each epsilon, and its column."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from benchmark.attacks import LabelLoss, Steps, pgd
from benchmark.evaluations.base import MISCLASSIFIED, PROVEN, SURVIVED, Examples, Result
from benchmark.evaluations.confirm import fooled, predictions
from benchmark.evaluations.engine import attacked
from benchmark.threat import ThreatModel


@dataclass(frozen=True)
class Search:
    """A climb from random starts, at one or more epsilons.

    Attributes:
        attack: its name; in the evidence the epsilon follows, as in `pgd@3/16`.
        loss: what it climbs.
        steps: gradient steps; their size is a share of epsilon.
        restarts: random starts.
        epsilons: the epsilons to attack at; empty for the protocol's own.
    """

    attack: str
    loss: LabelLoss
    steps: Steps
    restarts: int
    epsilons: tuple[Fraction, ...]

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
        looked_at = attacked(model)
        for epsilon in self.epsilons or (threat.epsilon,):
            ball = threat.with_epsilon(epsilon)
            proven = correct & examples.proven_at(epsilon)
            chosen = (correct & ~proven).nonzero().flatten()
            trace = pgd(
                looked_at,
                examples.inputs[chosen],
                examples.labels[chosen],
                threat=ball,
                steps=self.steps,
                restarts=self.restarts,
                generator=generator,
                loss=self.loss,
            )
            # The attack judged in batches of survivors; what counts is the shard as a whole.
            broken = fooled(model, examples, chosen, trace.adversarial, ball)
            broken &= trace.broken_step >= 0
            column = np.where(proven.cpu().numpy(), PROVEN, MISCLASSIFIED).astype(np.int16)
            steps = torch.where(broken, trace.broken_step, SURVIVED)
            column[chosen.cpu().numpy()] = steps.cpu().numpy()
            columns[f"broken_step@{epsilon}"] = column
            adversarial[f"{self.attack}@{epsilon}"] = (
                chosen[broken].cpu().numpy(),
                trace.adversarial[broken].cpu().numpy(),
            )
        return Result(columns=columns, adversarial=adversarial, flags=())
