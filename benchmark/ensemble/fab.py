"""FAB: the fast adaptive boundary attack, targeted, in Linf and L2.

It looks for the nearest point behind the boundary to a class: each step projects onto the
linearised boundary, both from where it is and from the original, and goes to a mean of the two.

Source: F. Croce, M. Hein, "Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary
Attack", ICML 2020 (arXiv 1907.02044), algorithm 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.ensemble.base import Batch, Targets, by_turns, per_example, ranked_rivals
from benchmark.threat import ThreatModel

# Largest share of the projection of the original, overshoot, and what is kept of the way once a
# point lies behind the boundary (section 4 of the paper; beta is that of the authors' code).
_ALPHA_MAX, _ETA, _BETA = 0.1, 1.05, 0.9

# More rounds than a projection has ever needed; each settles at least one coordinate.
_ROUNDS = 10_000


def onto_hyperplane(points: Tensor, normals: Tensor, gaps: Tensor, threat: ThreatModel) -> Tensor:
    """Returns the shortest moves onto hyperplanes within the box [0, 1].

    Minimises |d| subject to <w, d> = g and 0 <= x + d <= 1. Where the box does not reach the
    hyperplane, the move goes as near to it as the box allows.

    Args:
        points: (N, D) x, inside the box.
        normals: (N, D) w.
        gaps: (N,) g.
        threat: its norm is the one minimised.

    Returns:
        (N, D) moves d.

    With the moves made positive, an optimal one is min(l * p_i, u_i): u_i the room up to the box, p
    a profile (ones for Linf, |w| for L2), and l the root of sum |w_i| min(l * p_i, u_i) = |g|. The
    left side is concave and piecewise linear in l, so that Newton's method from 0 climbs to the
    root without passing it, and stands there once the right piece is found.
    """
    signs = torch.where(gaps < 0, -1.0, 1.0)[:, None] * normals.sign()
    weights = normals.abs()
    profile = torch.ones_like(weights) if threat.norm == "Linf" else weights
    # Coordinates without weight do not help; their sign is 0.
    room = signs.clamp_min(0) - signs * points
    wanted, slopes, whole = gaps.abs(), weights * profile, weights * room
    level = torch.zeros_like(wanted)
    free, stopped = torch.empty_like(room), torch.empty_like(room)
    for _ in range(_ROUNDS):
        # Comparisons into numbers: what is true or false would have to be converted, which takes
        # ten times as long as the comparison.
        reached = level[:, None] * profile
        torch.lt(reached, room, out=free)
        torch.ge(reached, room, out=stopped)
        slope = torch.linalg.vecdot(slopes, free)
        taken = torch.linalg.vecdot(whole, stopped)
        higher = torch.where(slope > 0, (wanted - taken) / slope, torch.inf)
        if bool((higher <= level).all()):
            break
        level = torch.maximum(level, higher)
    return signs * torch.minimum(torch.nan_to_num(level[:, None] * profile, posinf=1.0), room)


@dataclass
class _Search(Batch):
    """The state of each search."""

    inputs: Tensor
    labels: Tensor
    aims: Tensor
    here: Tensor


@dataclass(frozen=True)
class FabTargeted:
    """FAB towards each of the closest classes, without random restarts: it draws nothing.

    Attributes:
        threat: ball within which a point counts, and box.
        iterations: steps, at least 1.
        targets: classes aimed at, those with the largest logits after the label's.
    """

    threat: ThreatModel
    iterations: int
    targets: int

    def run(self, model: nn.Module, targets: Targets) -> tuple[Tensor, int]:
        """Attacks each example; see `Attack`. Where there is no gradient, it stays."""
        aims = ranked_rivals(model, targets, self.targets)
        return by_turns(targets, aims, lambda left, aim, number: self.search(model, left, aim)), 0

    def search(self, model: nn.Module, targets: Targets, aims: Tensor) -> tuple[Tensor, Tensor]:
        """Searches until a misclassified point within epsilon is found, or to the end.

        Returns:
            (m,) which of the N were broken, and (m, C, H, W) the inputs that did it.
        """
        device = targets.inputs.device
        search = _Search(
            rows=torch.arange(len(targets), device=device),
            inputs=targets.inputs,
            labels=targets.labels,
            aims=aims,
            here=targets.inputs.clone(),
        )
        rows, found = [], []
        for _ in range(self.iterations):
            if len(search.rows) == 0:
                break
            broken = self._step(model, search)
            if bool(broken.any()):
                rows.append(search.rows[broken])
                found.append(search.here[broken])
                search = search.kept(~broken)
        if not rows:
            return search.rows[:0], search.here[:0]
        return torch.cat(rows), torch.cat(found)

    def _step(self, model: nn.Module, search: _Search) -> Tensor:
        """Takes a step (lines 8 to 14); returns (n,) who is broken where it stands now."""
        gaps, slopes = _gaps(model, search)
        flat, middle = search.here.flatten(1), search.inputs.flatten(1)
        normals = slopes.flatten(1)
        # The boundary is where <w, z> = <w, here> - gap; from the original it is further off.
        offset = torch.linalg.vecdot(normals, flat - middle)
        moves = onto_hyperplane(
            torch.cat([flat, middle]),
            torch.cat([normals, normals]),
            torch.cat([-gaps, offset - gaps]),
            self.threat,
        )
        order = float("inf") if self.threat.norm == "Linf" else 2
        ways = torch.linalg.vector_norm(moves, order, dim=1).clamp_min(1e-8)
        near, far = ways.chunk(2)
        share = (near / (near + far)).clamp_max(_ALPHA_MAX)[:, None]
        from_here, from_middle = moves.chunk(2)
        flat = (1 - share) * (flat + _ETA * from_here) + share * (middle + _ETA * from_middle)
        search.here = flat.clamp(0, 1).view_as(search.inputs)
        with torch.no_grad():
            behind = model(search.here).argmax(dim=1) != search.labels
        broken: Tensor = behind & self.threat.contains(search.here, search.inputs)
        # Behind the boundary, but too far from the original: go back part of the way.
        back = search.inputs + _BETA * (search.here - search.inputs)
        search.here = torch.where(per_example(behind & ~broken, back), back, search.here)
        return broken


def _gaps(model: nn.Module, search: _Search) -> tuple[Tensor, Tensor]:
    """Returns (n,) how far the target's logit is ahead of the label's, and the gradients of it."""
    with torch.enable_grad():
        leaf = search.here.detach().requires_grad_()
        logits: Tensor = model(leaf)
        own = logits.gather(1, search.labels[:, None]).squeeze(1)
        gaps = logits.gather(1, search.aims[:, None]).squeeze(1) - own
        (slopes,) = torch.autograd.grad(gaps.sum(), leaf)
    return gaps.detach(), slopes
