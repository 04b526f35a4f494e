"""Square attack: random search with squares of shrinking size; it asks for logits alone.

Source: M. Andriushchenko, F. Croce, N. Flammarion, M. Hein, "Square Attack: a Query-Efficient
Black-Box Adversarial Attack via Random Search", ECCV 2020 (arXiv 1912.00049), algorithms 1 and 2.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.ensemble import draws
from benchmark.ensemble.base import Batch, Targets, margins
from benchmark.errors import ContractError
from benchmark.threat import ThreatModel

# Share of the image that the first squares cover, and after which of 10,000 queries it is halved.
# The authors' code does not stretch this schedule to the number of queries, nor does AutoAttack.
_FIRST_SHARE = 0.8
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def side_of_square(query: int, height: int, width: int) -> int:
    """Returns the side of the square of a query, counted from 0, in pixels.

    >>> [side_of_square(query, 28, 28) for query in (0, 10, 11, 4999)]
    [25, 25, 18, 2]
    """
    share = _FIRST_SHARE / 2 ** sum(query > limit for limit in _HALVINGS)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


@dataclass
class _Search(Batch):
    """The state of each search."""

    labels: Tensor
    lowest: Tensor
    highest: Tensor
    best: Tensor
    margin: Tensor


@dataclass(frozen=True)
class _Draws:
    """All that chance decides.

    Attributes:
        stripes: (N, C, 1, W) signs of the start.
        places: (Q, N, 2) in [0, 1): where in its range each square lies, from the top and the left.
        signs: (Q, N, C) of each square.
    """

    stripes: Tensor
    places: Tensor
    signs: Tensor


@dataclass(frozen=True)
class Square:
    """Square attack on the margin, in Linf.

    Attributes:
        threat: ball and box, in Linf.
        queries: most of them, at least 1.
        seed: of the draws.

    Raises:
        ContractError: another norm.
    """

    threat: ThreatModel
    queries: int
    seed: int

    def __post_init__(self) -> None:
        """Refuses other norms."""
        if self.threat.norm != "Linf":
            raise ContractError(
                f"expected Linf for Square, got {self.threat.norm}; use the engine pyautoattack"
            )

    def run(self, model: nn.Module, targets: Targets) -> tuple[Tensor, int]:
        """Attacks each example; see `Attack`. It needs no gradient."""
        found = targets.inputs.clone()
        if len(targets) == 0:
            return found, 0
        drawn = self._drawn(targets)
        with torch.no_grad():
            search = _left(self._begun(model, targets, drawn.stripes), found)
            for query in range(self.queries):
                if len(search.rows) == 0:
                    break
                self._ask(model, search, drawn, query)
                search = _left(search, found)
        return found, 0

    def _drawn(self, targets: Targets) -> _Draws:
        channels, _, width = targets.inputs.shape[1:]
        stripes, places, signs = [], [], []
        for source in draws.generators(self.seed, "square", targets.indices.tolist()):
            stripes.append(2 * source.integers(2, size=(channels, 1, width), dtype=np.int8) - 1)
            places.append(source.random((self.queries, 2), dtype=np.float32))
            signs.append(2 * source.integers(2, size=(self.queries, channels), dtype=np.int8) - 1)
        device = targets.inputs.device
        return _Draws(
            torch.from_numpy(np.stack(stripes)).to(device),
            torch.from_numpy(np.stack(places, axis=1)).to(device),
            torch.from_numpy(np.stack(signs, axis=1)).to(device),
        )

    def _begun(self, model: nn.Module, targets: Targets, stripes: Tensor) -> _Search:
        """Returns searches that begin at vertical stripes of plus and minus epsilon."""
        epsilon, inputs = float(self.threat.epsilon), targets.inputs
        best = (inputs + epsilon * stripes).clamp(0, 1)
        return _Search(
            rows=torch.arange(len(targets), device=inputs.device),
            labels=targets.labels,
            lowest=(inputs - epsilon).clamp_min(0),
            highest=(inputs + epsilon).clamp_max(1),
            best=best,
            margin=margins(model(best), targets.labels),
        )

    def _ask(self, model: nn.Module, search: _Search, drawn: _Draws, query: int) -> None:
        """Moves a square by twice epsilon up or down, and keeps what lowers the margin."""
        height, width = search.best.shape[2:]
        side = side_of_square(query, height, width)
        places = drawn.places[query][search.rows]
        # As in the authors' code, the last row and column of places are never taken.
        rows = _within((places[:, 0] * (height - side)).long(), side, height)
        columns = _within((places[:, 1] * (width - side)).long(), side, width).to(search.best)
        signs = drawn.signs[query][search.rows].to(search.best)
        sizes = 2 * float(self.threat.epsilon) * signs[:, :, None, None]
        asked = torch.addcmul(search.best, sizes * rows[:, None, :, None], columns[:, None, None])
        asked.clamp_(search.lowest, search.highest)
        margin = margins(model(asked), search.labels)
        chosen = (margin < search.margin).nonzero().flatten()
        search.best[chosen] = asked[chosen]
        search.margin[chosen] = margin[chosen]


def _left(search: _Search, found: Tensor) -> _Search:
    """Writes what is misclassified into `found` (N, C, H, W), and returns the rest."""
    broken = search.margin < 0
    if not bool(broken.any()):
        return search
    found[search.rows[broken]] = search.best[broken]
    return search.kept(~broken)


def _within(first: Tensor, side: int, length: int) -> Tensor:
    """Returns (N, length) bool: the `side` places from `first` (N,) on."""
    places = torch.arange(length, device=first.device)
    return (places >= first[:, None]) & (places < first[:, None] + side)
