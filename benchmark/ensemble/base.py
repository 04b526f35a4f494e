"""What the attacks of the ensemble take and share."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from benchmark.threat import ThreatModel

Part = TypeVar("Part", bound="Batch")


@dataclass(frozen=True)
class Targets:
    """Correctly classified examples that an attack is to break.

    Attributes:
        inputs: (N, C, H, W) in [0, 1].
        labels: (N,) int64.
        indices: (N,) int64 positions in the test split; they name the draws.
    """

    inputs: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        """Returns N."""
        return len(self.labels)

    def at(self, positions: Tensor) -> "Targets":
        """Returns those at some positions."""
        return Targets(self.inputs[positions], self.labels[positions], self.indices[positions])


class Attack(Protocol):
    """One attack of the ensemble."""

    def run(self, model: nn.Module, targets: Targets) -> tuple[Tensor, int]:
        """Attacks each example.

        Args:
            model: in eval mode; classifies each original correctly.
            targets: what is attacked.

        Returns:
            (N, C, H, W) misclassified inputs, and the originals where none was found; and at how
            many starting points a loss that should have a gradient had none.
        """


@dataclass
class Batch:
    """Tensors of one attack, each with a row an example; what is broken leaves all of them.

    Attributes:
        rows: (n,) which examples of the attack's targets are still in it.
    """

    rows: Tensor

    def kept(self: Part, chosen: Tensor) -> Part:
        """Returns the rows at (n,) bool."""
        return replace(self, **{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns (N,) logit of the label less the largest other one.

    >>> margins(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
    [1.0]
    """
    own = labels[:, None]
    rivals = logits.scatter(1, own, -torch.inf).amax(dim=1)
    return logits.gather(1, own).squeeze(1) - rivals


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Returns (N,) values in a shape that broadcasts against `like` (N, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def ranked_rivals(model: nn.Module, targets: Targets, count: int) -> Tensor:
    """Returns (N, count) the classes with the largest logits but for the largest of all."""
    with torch.no_grad():
        logits: Tensor = model(targets.inputs)
    return logits.argsort(dim=1, descending=True)[:, 1 : count + 1]


def by_turns(
    targets: Targets, aims: Tensor, turn: Callable[[Targets, Tensor, int], tuple[Tensor, Tensor]]
) -> Tensor:
    """Attacks what is left once for each aim.

    Args:
        targets: N examples.
        aims: (N, T) classes.
        turn: maps examples that are left (n), their aims (n,) and the number of the turn to which
            of them were broken (m,) and the inputs that did it (m, C, H, W).

    Returns:
        (N, C, H, W) those inputs, and the originals where none was found.
    """
    found = targets.inputs.clone()
    alive = torch.arange(len(targets), device=found.device)
    for number in range(aims.shape[1]):
        if len(alive) == 0:
            break
        rows, broken = turn(targets.at(alive), aims[alive, number], number)
        found[alive[rows]] = broken
        survived = torch.ones_like(alive, dtype=torch.bool)
        survived[rows] = False
        alive = alive[survived]
    return found


def scaled(directions: Tensor, threat: ThreatModel) -> Tensor:
    """Returns directions (N, ...) divided by their norm, to which 1e-12 is added."""
    order = float("inf") if threat.norm == "Linf" else 2
    norms = torch.linalg.vector_norm(directions.flatten(1), order, dim=1)
    return directions / per_example(norms + 1e-12, directions)
