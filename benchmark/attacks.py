"""Projected gradient ascent as pure functions: inside training, and as an evaluation's attack.

Source: A. Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
equation 3 (arXiv 1706.06083).
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import ContractError
from benchmark.threat import ThreatModel

# Maps logits (N, K) to a scalar that the attack raises.
LogitLoss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Steps:
    """How an ascent walks.

    Attributes:
        count: gradient steps, at least 1.
        size: step size as a share of epsilon.
    """

    count: int
    size: Fraction

    def __post_init__(self) -> None:
        """Refuses walks that go nowhere."""
        if self.count < 1 or self.size <= 0:
            raise ContractError(f"expected steps >= 1 of size > 0, got {self.count} of {self.size}")


def _direction(gradient: Tensor, threat: ThreatModel) -> Tensor:
    """Returns the steepest unit step of the norm: the sign for Linf, the unit gradient for L2."""
    if threat.norm == "Linf":
        return gradient.sign()
    # A confident network has gradients of 1e-25 and less, whose squares are zero in float32: scaled
    # by the largest entry first, they still point somewhere.
    tiny = torch.finfo(gradient.dtype).tiny
    scaled = gradient / _per_example(
        gradient.abs().flatten(1).amax(dim=1).clamp_min(tiny), gradient
    )
    return scaled / _per_example(
        torch.linalg.vector_norm(scaled.flatten(1), dim=1).clamp_min(tiny), gradient
    )


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    """Returns (N,) values in a shape that broadcasts against `like` (N, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _climb(model: nn.Module, loss: LogitLoss, current: Tensor) -> tuple[Tensor, Tensor]:
    """Returns logits (N, K) at `current` and the input gradient there; weights get no gradients."""
    with torch.enable_grad():
        leaf = current.detach().requires_grad_()
        logits = model(leaf)
        (gradient,) = torch.autograd.grad(loss(logits), leaf)
    return logits.detach(), gradient


def ascend(
    model: nn.Module,
    loss: LogitLoss,
    inputs: Tensor,
    start: Tensor,
    *,
    threat: ThreatModel,
    steps: Steps,
) -> Tensor:
    """Returns the last iterate of projected gradient ascent, for use inside training.

    Args:
        model: logits from inputs; its mode (train or eval) is the caller's choice.
        loss: what is raised.
        inputs: (N, C, H, W) originals in [0, 1].
        start: (N, C, H, W) first iterate.
        threat: ball and box of the result.
        steps: number and size of steps.

    Returns:
        (N, C, H, W) inside ball and box, detached.
    """
    current = start
    size = float(steps.size * threat.epsilon)
    for _ in range(steps.count):
        _, gradient = _climb(model, loss, current)
        current = threat.project(current + size * _direction(gradient, threat), inputs)
    return current.detach()


@dataclass(frozen=True)
class Trace:
    """What an attack claims; the engine re-checks all of it.

    Attributes:
        adversarial: (N, C, H, W) the first misclassified iterate, or the original where none was.
        broken_step: (N,) int16, the step (0 = the start) of the first misclassified iterate within
            the restart that found it; -1 where none was.
    """

    adversarial: Tensor
    broken_step: Tensor


@torch.no_grad()
def pgd(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel,
    steps: Steps,
    restarts: int,
    generator: torch.Generator,
) -> Trace:
    """Runs PGD on cross-entropy from random starts; broken examples leave, survivors restart.

    Every iterate is scored, the one after the last step included. Starts are drawn for all examples
    at each restart, so the draws of one example do not depend on the fate of the others.

    Args:
        model: frozen network in eval mode.
        inputs: (N, C, H, W) in [0, 1].
        labels: (N,) true classes.
        threat: ball and box.
        steps: number and size of steps.
        restarts: random starts, at least 1.
        generator: source of the starts, on the inputs' device.

    Raises:
        ContractError: no restarts, which would leave every network unbroken.

    Source: Madry et al. 2018, section 2.1; restarts on survivors as in common practice.
    """
    if restarts < 1:
        raise ContractError(f"expected restarts >= 1, got {restarts}; nothing would be attacked")
    adversarial = inputs.clone()
    broken_step = torch.full((len(inputs),), -1, dtype=torch.int16, device=inputs.device)
    size = float(steps.size * threat.epsilon)
    for _ in range(restarts if len(inputs) else 0):
        # Drawn even where nobody is left, so that what is drawn next never depends on who fell.
        starts = threat.random_start(inputs, generator)
        alive = (broken_step < 0).nonzero().flatten()
        current = starts[alive]
        for step in range(steps.count + 1):
            if len(alive) == 0:
                break
            chosen = labels[alive]
            logits, gradient = _climb(model, _cross_entropy(chosen), current)
            fooled = logits.argmax(dim=1) != chosen
            adversarial[alive[fooled]] = current[fooled]
            broken_step[alive[fooled]] = step
            alive, kept = alive[~fooled], ~fooled
            moved = current[kept] + size * _direction(gradient[kept], threat)
            current = threat.project(moved, inputs[alive])
    return Trace(adversarial, broken_step)


def _cross_entropy(labels: Tensor) -> LogitLoss:
    return lambda logits: functional.cross_entropy(logits, labels, reduction="sum")
