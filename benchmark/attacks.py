"""Gradient attacks as pure functions: PGD in training and as an evaluation, DeepFool in training.

Sources: A. Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
2018, equation 3 (arXiv 1706.06083); S.-M. Moosavi-Dezfooli et al., "DeepFool: A Simple and Accurate
Method to Fool Deep Neural Networks", CVPR 2016, algorithm 2 (arXiv 1511.04599).
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

# Added to the gap between two logits, so that a step ends behind the boundary and not on it; as in
# the implementation of DeepFool in CleverHans 3.
_BEHIND = 1e-5

# Maps labels (N,) to such a loss.
LabelLoss = Callable[[Tensor], LogitLoss]


def cross_entropy(labels: Tensor) -> LogitLoss:
    """Returns the loss that attacks raise, summed so that examples do not dilute each other."""
    return lambda logits: functional.cross_entropy(logits, labels, reduction="sum")


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


def worst_found(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel,
    steps: Steps,
    generator: torch.Generator,
) -> Tensor:
    """Returns PGD examples for training: from a random start, up the cross-entropy.

    Args:
        model: its mode (train or eval) is the caller's choice.
        inputs: (N, C, H, W) originals in [0, 1].
        labels: (N,) classes to be left.
        threat: ball and box of the result.
        steps: number and size of steps.
        generator: of the start.

    Returns:
        (N, C, H, W) inside ball and box, detached.

    Source: Madry et al. 2018, equation 3.
    """
    start = threat.random_start(inputs, generator)
    return ascend(model, cross_entropy(labels), inputs, start, threat=threat, steps=steps)


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
    loss: LabelLoss = cross_entropy,
) -> Trace:
    """Runs PGD from random starts; broken examples leave, survivors restart.

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
        loss: what is raised, given the labels; cross-entropy unless said otherwise.

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
            logits, gradient = _climb(model, loss(chosen), current)
            fooled = logits.argmax(dim=1) != chosen
            adversarial[alive[fooled]] = current[fooled]
            broken_step[alive[fooled]] = step
            alive, kept = alive[~fooled], ~fooled
            moved = current[kept] + size * _direction(gradient[kept], threat)
            current = threat.project(moved, inputs[alive])
    return Trace(adversarial, broken_step)


@torch.no_grad()
def deepfool(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    steps: int,
    candidates: int = 10,
    overshoot: float = 0.02,
) -> Tensor:
    """Moves each input behind its nearest decision boundary, as far as that takes in L2.

    Each step solves the linearised network exactly: of the boundaries between the label and its
    closest competitors, the nearest is crossed at a right angle. Whoever is misclassified, at the
    start or at the end of the lengthened way, leaves.

    Args:
        model: network in eval mode.
        inputs: (N, C, H, W) in [0, 1].
        labels: (N,) classes to be left: the true ones, or those predicted.
        steps: most steps, at least 1.
        candidates: classes with the largest logits that are looked at, the label's own among them,
            at least 2. Each but that one costs a backward pass a step.
        overshoot: share by which the whole way is lengthened.

    Returns:
        (N, C, H, W) inside the box, detached. Inputs that were misclassified come back as they are.

    Raises:
        ContractError: no step, or no class to go to.

    Source: Moosavi-Dezfooli et al. 2016, algorithm 2. The number of candidates, the slack at the
    boundary and the box are those of CleverHans. Who has left is asked of the lengthened way, as in
    the authors' code; CleverHans asks before it is lengthened, which takes about twice the steps
    for ways that differ in length by less than the overshoot.
    """
    if steps < 1 or candidates < 2:
        raise ContractError(
            f"expected steps >= 1 and candidates >= 2, got {steps} and {candidates}; nothing would "
            "be attacked"
        )
    moved, lengthened = inputs.clone(), inputs.clone()
    alive = torch.arange(len(inputs), device=inputs.device)
    # Batches shrink from step to step, and a compiled network answers no batch of gradients.
    with torch.compiler.set_stance("force_eager"):
        for _ in range(steps if len(inputs) else 0):
            alive = alive[model(lengthened[alive]).argmax(dim=1) == labels[alive]]
            if len(alive) == 0:
                break
            gaps, slopes = _boundaries(model, moved[alive], labels[alive], candidates - 1)
            moved[alive] = (moved[alive] + _shortest_way(gaps, slopes)).clamp(0, 1)
            way = moved[alive] - inputs[alive]
            lengthened[alive] = (inputs[alive] + (1 + overshoot) * way).clamp(0, 1)
    return lengthened


def _boundaries(
    model: nn.Module, inputs: Tensor, labels: Tensor, competitors: int
) -> tuple[Tensor, Tensor]:
    """Returns how far the label's logit is ahead of its closest competitors, and the gradients.

    Returns:
        (K, N) gaps and (K, N, C, H, W) gradients of them.
    """
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_()
        logits = model(leaf).float()
        own = labels[:, None]
        others = logits.scatter(1, own, -torch.inf)
        closest = others.topk(min(competitors, logits.shape[1] - 1), dim=1).values
        gaps = (logits.gather(1, own) - closest).T
        # One pass back for each gap, all of them at once: row k of this stack asks for gap k.
        chosen = torch.eye(len(gaps), device=gaps.device)[:, :, None].expand(-1, *gaps.shape)
        (slopes,) = torch.autograd.grad(gaps, leaf, chosen, is_grads_batched=True)
    return gaps.detach(), slopes


def _shortest_way(gaps: Tensor, slopes: Tensor) -> Tensor:
    """Returns (N, C, H, W) steps behind the nearest of K boundaries, zero where there is no slope.

    Args:
        gaps: (K, N) differences of logits; below 0 where a boundary was crossed, but only just.
        slopes: (K, N, C, H, W) their gradients.
    """
    norms = torch.linalg.vector_norm(slopes.flatten(2), dim=2)
    distances, nearest = ((gaps.abs() + _BEHIND) / norms).min(dim=0)
    examples = torch.arange(len(nearest), device=nearest.device)
    slope, norm = slopes[nearest, examples], norms[nearest, examples]
    way = -_per_example(distances, slope) * (slope / _per_example(norm, slope))
    return torch.where(_per_example(distances.isfinite(), slope), way, 0.0)
