"""What every evaluation takes and returns: examples in, one outcome an example out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.threat import ThreatModel

# What a column named `broken_*` says of an example that no attack broke; 0 and up: broken.
SURVIVED = -1
MISCLASSIFIED = -2  # unmodified already, so there was nothing to attack
PROVEN = -3  # robust at that epsilon or beyond, so it was not attacked: certify first
NOT_RUN = -4  # the attack lacked what it needs


@dataclass(frozen=True)
class Examples:
    """A shard of a fixed example list, and what else the engine knows about it.

    Attributes:
        inputs: (N, C, H, W) in [0, 1].
        labels: (N,) int64.
        indices: (N,) int64 positions in the test split.
        classes: number of classes K.
        proven: epsilon → (N,) bool, correct and proven robust there; empty to attack every example.
        parent: dense network of the same cell, for transfer; None where there is none at hand.
        training: inputs (n, C, H, W) and labels (n,) of training examples to compare with; None
            where no check asks for them.
    """

    inputs: Tensor
    labels: Tensor
    indices: Tensor
    classes: int
    proven: Mapping[Fraction, Tensor] = field(default_factory=dict)
    parent: nn.Module | None = None
    training: tuple[Tensor, Tensor] | None = None

    def proven_at(self, epsilon: Fraction) -> Tensor:
        """Returns (N,) bool: proven robust at `epsilon` or at a larger one."""
        found = torch.zeros_like(self.labels, dtype=torch.bool)
        for certified, proven in self.proven.items():
            if certified >= epsilon:
                found |= proven
        return found


@dataclass(frozen=True)
class Flag:
    """Something a reader must know about a measurement.

    Attributes:
        name: one of the names in `docs/protocols.md`.
        rate: share of the examples it concerns, in [0, 1].
        detail: one sentence.
    """

    name: str
    rate: float
    detail: str


@dataclass(frozen=True)
class Result:
    """Outcomes of one evaluation on one shard.

    Attributes:
        columns: name -> (N,) array, one value an example; the engine prefixes the evaluation.
        adversarial: attack -> positions (n,) in the shard and adversarial inputs (n, C, H, W).
        flags: observations about the whole shard.
    """

    columns: dict[str, np.ndarray]
    adversarial: dict[str, tuple[np.ndarray, np.ndarray]]
    flags: tuple[Flag, ...]


class Settings(Protocol):
    """The settings of one evaluation, a frozen dataclass; running them measures a shard."""

    kind: ClassVar[str]

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Returns one outcome an example.

        Args:
            model: inputs in [0, 1] to logits, in evaluation mode; left as it was.
            examples: the shard, on the model's device.
            threat: the protocol's threat model.
            generator: source of all randomness, on the same device.
        """
        ...
