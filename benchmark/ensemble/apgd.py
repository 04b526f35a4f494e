"""Auto-PGD: projected gradient ascent with momentum whose step halves where it gets stuck.

Source: F. Croce, M. Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of
Diverse Parameter-free Attacks", ICML 2020 (arXiv 2003.01690), algorithm 1 and section 4.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.ensemble import draws
from benchmark.ensemble.base import (
    Batch,
    Targets,
    by_turns,
    margins,
    per_example,
    ranked_rivals,
    scaled,
)
from benchmark.threat import ThreatModel

# Share of a step that goes along the projected gradient; the rest goes on as the last step did.
_ALPHA = 0.75
# A step size is kept if the loss rose in more than this share of the steps since the last check.
_RHO = 0.75
# The first interval between two checks, what each is shorter than the one before, and the shortest,
# as shares of all steps.
_FIRST, _SHORTER, _SHORTEST = 0.22, 0.03, 0.06

# Maps logits (n, K) and labels (n,), and for a targeted loss classes (n,), to losses (n,).
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, aims: Tensor) -> Tensor:
    """Returns (n,) the cross-entropy of the labels; `aims` is not used."""
    return functional.cross_entropy(logits, labels, reduction="none")


def dlr(logits: Tensor, labels: Tensor, aims: Tensor) -> Tensor:
    """Returns (n,) the difference of logits ratio (equation 6); `aims` is not used."""
    ordered = logits.sort(dim=1, descending=True).values
    return -margins(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def dlr_targeted(logits: Tensor, labels: Tensor, aims: Tensor) -> Tensor:
    """Returns (n,) the targeted difference of logits ratio (equation 7) towards classes `aims`."""
    ordered = logits.sort(dim=1, descending=True).values
    own = logits.gather(1, labels[:, None]).squeeze(1)
    other = logits.gather(1, aims[:, None]).squeeze(1)
    return (other - own) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)


@dataclass
class Walk(Batch):
    """The state of each walk; `best*` belong to the largest loss so far."""

    inputs: Tensor
    lowest: Tensor
    highest: Tensor
    labels: Tensor
    aims: Tensor
    here: Tensor
    before: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    loss: Tensor
    former_loss: Tensor
    step: Tensor
    rises: Tensor
    checked_loss: Tensor
    halved: Tensor


@dataclass(frozen=True)
class Apgd:
    """APGD on one loss, from one random start for each target class, or from one in all.

    Attributes:
        threat: ball and box.
        loss: what is raised.
        iterations: steps, at least 1.
        targets: classes aimed at, those with the largest logits after the label's; 0 for a loss
            without a target.
        seed: of the random starts.
        name: of the attack, which the draws depend on.
    """

    threat: ThreatModel
    loss: Loss
    iterations: int
    targets: int
    seed: int
    name: str

    def run(self, model: nn.Module, targets: Targets) -> tuple[Tensor, int]:
        """Attacks each example; see `Attack`. A cross-entropy without gradient is not counted."""
        counts = [0]

        def turn(left: Targets, aims: Tensor, number: int) -> tuple[Tensor, Tensor]:
            walk, broken = self.begun(model, left, aims, self.start(left, number))
            counts.append(int((walk.gradient.flatten(1) == 0).all(dim=1).sum()))
            return self.ended(model, walk, broken)

        # The classes aimed at are those of the untouched input: one pass tells them all.
        aims = ranked_rivals(model, targets, max(self.targets, 1))
        return by_turns(targets, aims, turn), 0 if self.loss is cross_entropy else max(counts)

    def start(self, targets: Targets, number: int) -> Tensor:
        """Returns (N, C, H, W) random points on the ball's surface, moved into the box."""
        sources = draws.generators(self.seed, f"{self.name} {number}", targets.indices.tolist())
        draw = draws.uniform if self.threat.norm == "Linf" else draws.normal
        direction = scaled(draw(sources, targets.inputs), self.threat)
        return (targets.inputs + float(self.threat.epsilon) * direction).clamp(0, 1)

    def begun(
        self, model: nn.Module, targets: Targets, aims: Tensor, start: Tensor
    ) -> tuple[Walk, Tensor]:
        """Returns walks at their start, and who is misclassified there.

        Args:
            model: in eval mode.
            targets: N examples.
            aims: (N,) classes; a loss without a target does not look at them.
            start: (N, C, H, W) first iterates, inside the box.
        """
        epsilon = float(self.threat.epsilon)
        loss, gradient, broken = self._look(model, start, targets.labels, aims)
        walk = Walk(
            rows=torch.arange(len(targets), device=start.device),
            inputs=targets.inputs,
            lowest=(targets.inputs - epsilon).clamp_min(0),
            highest=(targets.inputs + epsilon).clamp_max(1),
            labels=targets.labels,
            aims=aims,
            here=start,
            before=start,
            gradient=gradient,
            best=start.clone(),
            best_gradient=gradient.clone(),
            best_loss=loss.clone(),
            loss=loss,
            # The authors' code compares the first step's loss with 0, not with that of the start.
            former_loss=torch.zeros_like(loss),
            step=torch.full_like(loss, 2 * epsilon),
            rises=torch.zeros_like(loss),
            checked_loss=loss.clone(),
            # The first check asks for rises alone.
            halved=torch.ones_like(loss, dtype=torch.bool),
        )
        return walk, broken

    def ended(
        self,
        model: nn.Module,
        walk: Walk,
        broken: Tensor,
        watch: Callable[[Walk], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Walks to the end, or until misclassified.

        Args:
            model: in eval mode.
            walk: at its start.
            broken: (N,) who is misclassified there.
            watch: called behind each step.

        Returns:
            (m,) which of the N were broken, and (m, C, H, W) the inputs that did it.
        """
        rows, found = [walk.rows[broken]], [walk.here[broken]]
        walk = walk.kept(~broken)
        interval = max(int(_FIRST * self.iterations), 1)
        since = 0
        for number in range(self.iterations):
            if len(walk.rows) == 0:
                break
            broken = self._step(model, walk, 1.0 if number == 0 else _ALPHA)
            if watch:
                watch(walk)
            # Before the check, which may take a walk back to where it was not broken yet.
            if bool(broken.any()):
                rows.append(walk.rows[broken])
                found.append(walk.here[broken])
                walk = walk.kept(~broken)
            since += 1
            if since == interval:
                self._check(walk, interval)
                shorter = interval - max(int(_SHORTER * self.iterations), 1)
                interval = max(shorter, max(int(_SHORTEST * self.iterations), 1))
                since = 0
        return torch.cat(rows), torch.cat(found)

    def _look(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, aims: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns losses (n,), their gradients (n, C, H, W) and who is misclassified (n,)."""
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            logits: Tensor = model(leaf)
            losses = self.loss(logits, labels, aims)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), gradient, logits.detach().argmax(dim=1) != labels

    def _step(self, model: nn.Module, walk: Walk, along: float) -> Tensor:
        """Takes a step (algorithm 1, lines 6 to 8); returns (n,) who is misclassified after it."""
        linf = self.threat.norm == "Linf"
        ahead = walk.gradient.sign() if linf else scaled(walk.gradient, self.threat)
        ahead.mul_(per_example(walk.step, walk.here)).add_(walk.here)
        ahead = self._projected(ahead, walk)
        momentum = (walk.here - walk.before).mul_(1 - along)
        ahead.sub_(walk.here).mul_(along).add_(walk.here).add_(momentum)
        walk.before, walk.here = walk.here, self._projected(ahead, walk)
        walk.loss, walk.gradient, broken = self._look(model, walk.here, walk.labels, walk.aims)
        walk.rises += walk.loss > walk.former_loss
        walk.former_loss = walk.loss
        better = walk.loss > walk.best_loss
        chosen = better.nonzero().flatten()
        walk.best[chosen] = walk.here[chosen]
        walk.best_gradient[chosen] = walk.gradient[chosen]
        walk.best_loss = torch.where(better, walk.loss, walk.best_loss)
        return broken

    def _projected(self, points: Tensor, walk: Walk) -> Tensor:
        """Returns points moved into ball and box, and overwrites them in Linf."""
        if self.threat.norm == "Linf":
            return points.clamp_(walk.lowest, walk.highest)
        return self.threat.project(points, walk.inputs)

    def _check(self, walk: Walk, interval: int) -> None:
        """Halves steps that got stuck, and goes back to the best point (conditions 1 and 2)."""
        seldom = walk.rises <= _RHO * interval
        in_vain = ~walk.halved & (walk.checked_loss >= walk.best_loss)
        walk.halved = seldom | in_vain
        walk.checked_loss = walk.best_loss.clone()
        walk.step = torch.where(walk.halved, walk.step / 2, walk.step)
        back = per_example(walk.halved, walk.here)
        walk.here = torch.where(back, walk.best, walk.here)
        walk.gradient = torch.where(back, walk.best_gradient, walk.gradient)
        walk.rises = torch.zeros_like(walk.rises)
