"""The bounds evaluation: proven lower bounds of each example's margin at several epsilons."""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.bounds import MarginBounds, Method, relaxed_units
from benchmark.evaluations.base import Examples, Flag, Result
from benchmark.evaluations.confirm import predictions
from benchmark.evaluations.engine import Guard
from benchmark.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Margin bounds, the best of several methods per example.

    Attributes:
        methods: what to try; order decides ties.
        epsilons: radii to bound at, in [0, 1] pixel units.
        crown_max_units: networks with more units to relax (ReLU outputs, max-pooling inputs) get
            CROWN-IBP in place of CROWN, whose cost grows with the square of that number.
        chunk: examples bounded at a time.
        margin: a bound must exceed this to certify; room for float32 rounding.

    Columns, two an epsilon: `margin@<epsilon>` float32, the best lower bound, -inf where the
    example is misclassified unmodified or no method gave a finite bound; `method@<epsilon>` int8,
    position in `methods` of the one that gave it, -1 with -inf.
    Flags: `crown-ibp-for-crown` where the substitution happened.
    """

    kind: ClassVar[str] = "bounds"

    methods: tuple[Method, ...] = ("ibp", "crown")
    epsilons: tuple[Fraction, ...]
    crown_max_units: int
    chunk: int = 32
    margin: float = 1e-4

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Bounds the correctly classified examples of a shard at each epsilon; draws nothing."""
        chosen = (predictions(model, examples.inputs) == examples.labels).nonzero().flatten()
        # The engine's checks around the network are no part of the function to bound.
        network = model.network if isinstance(model, Guard) else model
        units = relaxed_units(network, _shape(examples.inputs))
        used = self._methods_for(units)
        bounds = [MarginBounds(network, method, self.chunk) for method in used]
        columns: dict[str, np.ndarray] = {}
        for epsilon in self.epsilons:
            inputs, labels = examples.inputs[chosen], examples.labels[chosen]
            margins = [bound(inputs, labels, threat.with_epsilon(epsilon)) for bound in bounds]
            best, by = _best(torch.stack(margins))
            columns[f"margin@{epsilon}"] = _spread(best, chosen, len(examples.labels), -np.inf)
            columns[f"method@{epsilon}"] = _spread(by, chosen, len(examples.labels), -1)
        return Result(columns=columns, adversarial={}, flags=self._flags(used, units))

    def _methods_for(self, units: int) -> tuple[Method, ...]:
        """Returns the methods that run on a network with so many units to relax."""
        if units <= self.crown_max_units:
            return self.methods
        return tuple("crown-ibp" if method == "crown" else method for method in self.methods)

    def _flags(self, used: tuple[Method, ...], units: int) -> tuple[Flag, ...]:
        if used == self.methods:
            return ()
        detail = f"{units} units to relax, full CROWN up to {self.crown_max_units}"
        return (Flag("crown-ibp-for-crown", 1.0, detail),)


def _shape(inputs: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = inputs.shape
    return channels, height, width


def _best(margins: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the largest of (M, n) margins and the first method to reach it, -1 where infinite."""
    best = margins.amax(dim=0)
    first = (margins == best).to(torch.int8).argmax(dim=0)
    return best, torch.where(best.isfinite(), first, -1).to(torch.int8)


def _spread(values: Tensor, chosen: Tensor, length: int, missing: float) -> np.ndarray:
    """Returns (length,) with the values at the chosen positions and `missing` elsewhere."""
    chosen_values = values.cpu().numpy()
    column = np.full(length, missing, dtype=chosen_values.dtype)
    column[chosen.cpu().numpy()] = chosen_values
    return column
