"""ADMM: training towards a sparse or quantised copy of the weights, one projection after another.

The loss is minimised over the weights W while a copy Z of them is kept sparse, or at few values,
and a scaled dual variable U adds up how far the two are apart:

    minimise  loss(W) + rho / 2 * |W - Z + U|^2,   then   Z := P(W + U),   U := U + W - Z

with P the nearest weights of the wanted sparsity, or of a codebook. Weights that have learnt to
live near their own projection lose little when they are set to it.

Source: S. Boyd et al., "Distributed Optimization and Statistical Learning via the Alternating
Direction Method of Multipliers", 2011, section 9.1 (a cardinality constraint); T. Zhang et al., "A
Systematic DNN Weight Pruning Framework using Alternating Direction Method of Multipliers", ECCV
2018 (arXiv 1804.03294); C. Leng et al., "Extremely Low Bit Neural Network: Squeeze the Last Bit Out
with ADMM", AAAI 2018 (arXiv 1707.09870), for quantised weights.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import torch
from torch import Tensor, nn

from benchmark.errors import ContractError
from benchmark.objectives import Moment, Objective
from benchmark.pruning import Mask, Structure, eligible, mask_from_scores, prunable_parameters


@dataclass(frozen=True)
class Schedule:
    """When Z and U are updated, and how strongly W is drawn to Z.

    Attributes:
        interval: share of the stage between two updates.
        rho: before the first update.
        growth: factor of rho an interval.
        largest: cap of rho, or None.

    Raises:
        ContractError: values under which there would be no update, or no pull.
    """

    interval: Fraction
    rho: float
    growth: float
    largest: float | None = None

    def __post_init__(self) -> None:
        """Refuses schedules that mean nothing."""
        limit = self.rho if self.largest is None else self.largest
        positive = min(self.rho, self.growth, limit) > 0
        if not 0 < self.interval < 1 or not positive:
            raise ContractError(
                f"expected an interval in (0, 1), rho, its growth and its limit > 0, got "
                f"{self.interval}, {self.rho}, {self.growth} and {self.largest}; correct the "
                "method's settings"
            )

    def intervals(self, moment: Moment) -> int:
        """Returns how many whole intervals of the stage are over."""
        # The nearest short fraction is the one that rounding the moment to a float has blurred.
        progress = Fraction(moment.progress).limit_denominator(1_000_000)
        return math.floor(progress / self.interval)

    def strength(self, intervals: int) -> float:
        """Returns rho after some intervals."""
        grown = self.rho * self.growth**intervals
        return grown if self.largest is None else min(self.largest, grown)


def nearest(
    weights: Mapping[str, Tensor], sparsity: Fraction | float, structure: Structure
) -> Mask:
    """Returns what the nearest weights of a sparsity keep, each layer by itself.

    Args:
        weights: of every prunable layer, in order of definition.
        sparsity: share of units removed, in [0, 1].
        structure: the unit.

    Returns:
        The mask of the Euclidean projection: the largest magnitudes, or the units of largest L2
        norm.
    """
    # Units are ranked by the mean of their entries' scores: of squares, that is the order of norms.
    scores = {
        name: weight.abs() if structure == "unstructured" else weight.square()
        for name, weight in weights.items()
    }
    return mask_from_scores(scores, sparsity, "layerwise", structure)


class Splitting(nn.Module):
    """A network with ADMM's variables beside it, in buffers, so that its training can be resumed.

    Only weights that are trained take part; a frozen network inside is left alone.

    Attributes:
        network: what is trained.
        targets: (n,) Z of the layers that take part, one after the other.
        duals: (n,) U.
    """

    targets: Tensor
    duals: Tensor

    def __init__(self, network: nn.Module) -> None:
        """Starts at Z = W and U = 0."""
        super().__init__()
        self.network = network
        weights = self.weights().detach()
        self.register_buffer("duals", torch.zeros_like(weights))
        self.register_buffer("targets", weights.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the network's logits."""
        logits: Tensor = self.network(inputs)
        return logits

    def layers(self) -> dict[str, nn.Parameter]:
        """Returns the weights that take part, in order of definition."""
        parameters = prunable_parameters(self.network)
        return {name: p for name, p in parameters.items() if p.requires_grad}

    def weights(self) -> Tensor:
        """Returns (n,) the weights W of the layers that take part."""
        return torch.cat([weight.flatten() for weight in self.layers().values()])

    def split(self, values: Tensor) -> dict[str, Tensor]:
        """Returns (n,) values by layer, in the layers' shapes."""
        layers = self.layers()
        parts = torch.split(values, [layer.numel() for layer in layers.values()])
        return {
            name: part.view(layer.shape)
            for (name, layer), part in zip(layers.items(), parts, strict=True)
        }

    def project(self, values: Tensor) -> Tensor:
        """Returns (n,) the nearest values that are allowed."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self) -> None:
        """Projects W + U onto what is allowed, and adds what is left between them to U."""
        weights = self.weights()
        self.targets.copy_(self.project(weights + self.duals))
        self.duals.add_(weights - self.targets)

    def distance(self) -> Tensor:
        """Returns |W - Z + U|^2, differentiable in W."""
        return (self.weights() - self.targets + self.duals).square().sum()


class Variables(Splitting):
    """The variables of sparse weights; layers whose units the structure never removes are left out.

    Attributes:
        done: intervals that were over at the last update.
    """

    done: Tensor

    def __init__(self, network: nn.Module, sparsity: Fraction, structure: Structure) -> None:
        """Starts at Z = P(W) and U = 0."""
        self.sparsity, self.structure = sparsity, structure
        super().__init__(network)
        self.targets.copy_(self.project(self.targets))
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def layers(self) -> dict[str, nn.Parameter]:
        """Returns the weights that take part, in order of definition."""
        trained = super().layers()
        return {name: trained[name] for name in eligible([*trained], self.structure)}

    def project(self, values: Tensor) -> Tensor:
        """Returns (n,) the nearest values that have the sparsity in each layer."""
        moved = self.split(values)
        kept = nearest({**super().layers(), **moved}, self.sparsity, self.structure)
        flat = torch.cat([kept[name].flatten() for name in moved])
        return values.masked_fill(~flat.to(values.device), 0.0)


class Quantising(Splitting):
    """The variables of weights that take few values, those of a codebook a layer.

    Attributes:
        quantise: maps the weights of one layer to their nearest allowed values.
        steps: of training that were begun.
    """

    steps: Tensor

    def __init__(self, network: nn.Module, quantise: Callable[[Tensor], Tensor]) -> None:
        """Starts at Z = W and U = 0.

        Removed weights of the network are 0, and stay so if they are masked in training and
        `quantise` keeps zeros.
        """
        super().__init__(network)
        self.quantise = quantise
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def project(self, values: Tensor) -> Tensor:
        """Returns (n,) the nearest quantised values of each layer."""
        return torch.cat([self.quantise(part).flatten() for part in self.split(values).values()])

    def begin_step(self, interval: int) -> None:
        """Counts a step of training, and updates Z and U where a whole interval lies behind it."""
        if int(self.steps) > 0 and int(self.steps) % interval == 0:
            self.update()
        self.steps.add_(1)

    @torch.no_grad()
    def settle(self) -> None:
        """Sets the network's weights to their nearest quantised ones."""
        values = self.split(self.project(self.weights()))
        for name, layer in self.layers().items():
            layer.copy_(values[name])


@dataclass(frozen=True)
class Penalised:
    """A loss of the network within `Variables`, plus ADMM's penalty.

    Attributes:
        objective: the loss; it is called on the network itself.
        schedule: of updates and rho.
    """

    objective: Objective
    schedule: Schedule

    @property
    def attack_steps(self) -> int:
        """Those of the loss."""
        return self.objective.attack_steps

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        moment: Moment,
        generator: torch.Generator,
    ) -> Tensor:
        """Updates Z and U where an interval is over; returns the loss plus rho / 2 |W - Z + U|^2.

        Where several intervals pass between two steps, there is one update for all of them: without
        a step in between, W would have had no time to follow.
        """
        variables = cast(Variables, model)
        over = self.schedule.intervals(moment)
        if over > int(variables.done):
            variables.update()
            variables.done.fill_(over)
        loss = self.objective.loss(
            variables.network, inputs, labels, moment=moment, generator=generator
        )
        return loss + self.schedule.strength(over) / 2 * variables.distance()
