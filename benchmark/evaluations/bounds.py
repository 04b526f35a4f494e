"""The bounds evaluation: proven lower bounds of each example's margin at several epsilons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.attacks import Steps, ascend, cross_entropy
from benchmark.bounds import (
    BoundMethod,
    MarginBounds,
    UnboundableNetwork,
    relaxed_units,
    rounding_allowance,
)
from benchmark.evaluations.base import Examples, Flag, Result
from benchmark.evaluations.confirm import fooled, predictions
from benchmark.evaluations.engine import Guard
from benchmark.threat import ThreatModel

# What breaks an example at an epsilon spares bounding it there. At the protocol's own epsilon and
# below that is a single step, so that attacks have much left to refute a wrong bound with; beyond,
# where nearly all networks fall, a few steps cost less than a hundredth of a bound in vain.
_ONE, _CLIMB = Steps(1, Fraction(1)), Steps(10, Fraction(1, 4))


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Margin bounds by several methods, each tried on what those before it have left undecided.

    Nobody is bounded in vain: epsilons come from the largest to the smallest, and what is proven in
    a ball is proven in every smaller one; an example that a single gradient step (beyond
    the protocol's epsilon: ten) breaks at an epsilon is not bounded there or beyond, where there is
    nothing to prove.

    Attributes:
        methods: what to try, the cheapest first.
        epsilons: where to bound, in [0, 1] pixel units.
        crown_max_units: networks with more units to relax (ReLU outputs, max-pooling inputs) get
            CROWN-IBP in place of CROWN, whose cost grows with the square of that number.
        chunk: examples bounded at a time.
        margin: what is left of a bound must exceed this to certify.

    Columns, two an epsilon: `margin@<epsilon>` float32, the best lower bound found less the
    rounding allowance of the example, -inf where the example is misclassified unmodified, broken by
    that step, or no method gave a finite bound; `method@<epsilon>` int8, position in `methods` of
    the one that gave it, -1 with -inf.
    Flags: `crown-ibp-for-crown` where the substitution happened; `bounds-unsupported` where a
    method cannot bound the network, which counts as no proof and not as an error.
    """

    kind: ClassVar[str] = "bounds"

    methods: tuple[BoundMethod, ...] = ("ibp", "crown")
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
        network, inner = (model.network, model.inner) if isinstance(model, Guard) else (model, 0)
        units, allowance, failures = self._probe(network, examples, chosen, inner)
        part = chosen[: len(allowance)]
        # The slopes of alpha-crown are shared by a chunk, which is therefore never divided.
        divided = inner and "alpha-crown" not in self.methods
        chunk = min(self.chunk, inner) if divided else self.chunk
        bounds = [MarginBounds(network, method, chunk) for method in self._methods_for(units)]
        broken = _broken_at_once(model, examples, part, threat, self.epsilons)
        found: dict[Fraction, tuple[Tensor, Tensor]] = {}
        best = torch.full_like(allowance, -torch.inf)
        by = torch.full_like(part, -1, dtype=torch.int8)
        for epsilon in sorted(self.epsilons, reverse=True):
            undecided = (best <= self.margin) & ~broken[epsilon]
            # A bound of a larger ball holds in a smaller one; but here is another to be found.
            best[undecided], by[undecided] = -torch.inf, -1
            for position, bound in enumerate(bounds):
                rows = (undecided & (best <= self.margin)).nonzero().flatten()
                data = (examples.inputs[part[rows]], examples.labels[part[rows]])
                lower = _attempt(bound, (*data, threat.with_epsilon(epsilon)), failures)
                margins = lower - allowance[rows]
                better = margins > best[rows]
                best[rows[better]], by[rows[better]] = margins[better], position
            found[epsilon] = best.clone(), by.clone()
        columns: dict[str, np.ndarray] = {}
        for epsilon in self.epsilons:
            best, by = found[epsilon]
            columns[f"margin@{epsilon}"] = _spread(best, part, len(examples.labels), -np.inf)
            columns[f"method@{epsilon}"] = _spread(by, part, len(examples.labels), -1)
        flags = (*self._substituted(units), *_unsupported(failures, chosen, len(examples.labels)))
        return Result(columns=columns, adversarial={}, flags=flags)

    def proven(self, columns: Mapping[str, np.ndarray]) -> dict[Fraction, np.ndarray]:
        """Returns, by epsilon, (..., N) whether the columns' margin certifies an example there."""
        return {e: np.asarray(columns[f"margin@{e}"] > self.margin) for e in self.epsilons}

    def _probe(
        self, network: nn.Module, examples: Examples, chosen: Tensor, inner: int
    ) -> tuple[int, Tensor, dict[BoundMethod, str]]:
        """Returns units to relax, rounding allowances, and why methods fail before they start.

        There is an allowance for each chosen example, or none at all: then there is nothing to try.
        """
        try:
            units = relaxed_units(network, _shape(examples.inputs))
            parts = torch.split(chosen, inner) if inner else (chosen,)
            allowed = [rounding_allowance(network, examples.inputs[part]) for part in parts]
            return units, torch.cat(allowed), {}
        except UnboundableNetwork as error:
            return 0, examples.inputs.new_empty(0), dict.fromkeys(self.methods, error.reason)

    def _methods_for(self, units: int) -> tuple[BoundMethod, ...]:
        """Returns the methods that run on a network with so many units to relax."""
        if units <= self.crown_max_units:
            return self.methods
        return tuple("crown-ibp" if method == "crown" else method for method in self.methods)

    def _substituted(self, units: int) -> tuple[Flag, ...]:
        if self._methods_for(units) == self.methods:
            return ()
        detail = f"{units} units to relax, full CROWN up to {self.crown_max_units}"
        return (Flag("crown-ibp-for-crown", 1.0, detail),)


def _attempt(
    bound: MarginBounds,
    data: tuple[Tensor, Tensor, ThreatModel],
    failures: dict[BoundMethod, str],
) -> Tensor:
    """Returns (n,) margins by one method; -inf, and the reason among the failures, if it fails."""
    try:
        return bound(*data)
    except UnboundableNetwork as error:
        failures.setdefault(bound.method, error.reason)
        return torch.full(data[1].shape, -torch.inf, device=data[0].device)


def _unsupported(failures: dict[BoundMethod, str], chosen: Tensor, length: int) -> tuple[Flag, ...]:
    """Returns a flag with the share of the shard that methods were asked to bound and could not."""
    if not failures or len(chosen) == 0:
        return ()
    detail = "; ".join(f"{method}: {reason}" for method, reason in failures.items())
    return (Flag("bounds-unsupported", len(chosen) / length, f"no bound by {detail}"),)


def _shape(inputs: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = inputs.shape
    return channels, height, width


def _broken_at_once(
    model: nn.Module,
    examples: Examples,
    part: Tensor,
    threat: ThreatModel,
    epsilons: Sequence[Fraction],
) -> dict[Fraction, Tensor]:
    """Returns by epsilon (n,) whether a gradient step or climb breaks an example there or below."""
    inputs, labels = examples.inputs[part], examples.labels[part]
    broken: dict[Fraction, Tensor] = {}
    so_far = torch.zeros_like(labels, dtype=torch.bool)
    for epsilon in sorted(epsilons):
        ball = threat.with_epsilon(epsilon)
        steps = _ONE if epsilon <= threat.epsilon else _CLIMB
        if len(part):
            moved = ascend(model, cross_entropy(labels), inputs, inputs, threat=ball, steps=steps)
            so_far = so_far | fooled(model, examples, part, moved, ball)
        broken[epsilon] = so_far
    return broken


def _spread(values: Tensor, chosen: Tensor, length: int, missing: float) -> np.ndarray:
    """Returns (length,) with the values at the chosen positions and `missing` elsewhere."""
    chosen_values = values.cpu().numpy()
    column = np.full(length, missing, dtype=chosen_values.dtype)
    column[chosen.cpu().numpy()] = chosen_values
    return column
