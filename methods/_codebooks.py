"""Codebooks: weights of few values, by k-means, and ADMM that draws weights towards such ones.

A quantised tensor holds at most 2^bits values besides 0, which stays 0. In training these values
are those of a copy Z of the weights W, and a scaled dual variable U adds up how far the two are
apart:

    minimise  loss(W) + rho / 2 * |W - Z + U|^2,   then   Z := quantised(W + U),   U := U + W - Z

Source: C. Leng et al., "Extremely Low Bit Neural Network: Squeeze the Last Bit Out with ADMM", AAAI
2018 (arXiv 1707.09870), for ADMM; S. Han et al., "Deep Compression", ICLR 2016 (arXiv 1510.00149),
section 3, for codebooks of the non-zero weights of a layer.
"""

import torch
from torch import Tensor, nn

from benchmark.pruning import prunable_parameters

# Lloyd's algorithm ends after so many steps, or when the square of what its centres moved in all is
# below the tolerance.
_STEPS = 20
_TOLERANCE = 1e-4


def codebook(values: Tensor, size: int) -> Tensor:
    """Returns (n,) centres of k-means in one dimension, n <= size, rising, on the CPU.

    Deterministic: it starts at quantiles of the values. No centre is 0 if no value is.

    Args:
        values: (m,), on any device.
        size: the largest number of centres, at least 1.
    """
    # In double precision on the CPU, where sums are taken in one order, it is the same everywhere.
    order = values.detach().cpu().double().sort().values
    distinct = order[order.diff(prepend=order.new_full((1,), -torch.inf)) != 0]
    if len(distinct) <= size:
        return distinct
    count = len(order)
    centres = order[(2 * torch.arange(size) + 1) * count // (2 * size)]
    sums = torch.cat([order.new_zeros(1), order.cumsum(0)])
    for _ in range(_STEPS):
        inner = torch.searchsorted(order, _borders(centres))
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), count)])
        weight, mass = edges.diff(), sums[edges].diff()
        # A centre without values stays where it is, and so does one that would become 0.
        moved = torch.where(mass != 0, mass / weight.clamp(min=1), centres)
        shift = (moved - centres).abs().sum()
        centres = moved
        if shift.square() < _TOLERANCE:
            break
    return centres


def _borders(centres: Tensor) -> Tensor:
    """Returns (n - 1,) the middles between neighbouring centres."""
    return (centres[1:] + centres[:-1]) / 2


def quantised(values: Tensor, size: int) -> Tensor:
    """Returns values set to the nearest entries of their own codebook; zeros stay zeros.

    Args:
        values: of any shape.
        size: the largest number of different values besides 0, at least 1.
    """
    kept = values.detach() != 0
    centres = codebook(values[kept], size)
    result = torch.zeros_like(values)
    if len(centres):
        places = torch.bucketize(values[kept].double(), _borders(centres).to(values.device))
        result[kept] = centres.to(values)[places]
    return result


class Quantising(nn.Module):
    """A network with ADMM's variables beside it, in buffers, so that its training can be resumed.

    Attributes:
        network: what is trained.
        targets: (n,) Z of all prunable weights, layer after layer.
        duals: (n,) U.
        steps: of training that were begun.
    """

    targets: Tensor
    duals: Tensor
    steps: Tensor

    def __init__(self, network: nn.Module, size: int) -> None:
        """Starts at Z = W and U = 0.

        Args:
            network: its removed weights are 0, and stay so if they are masked in training.
            size: the largest number of different values besides 0 in a layer.
        """
        super().__init__()
        self.network, self.size = network, size
        weights = self.weights().detach()
        self.register_buffer("targets", weights.clone())
        self.register_buffer("duals", torch.zeros_like(weights))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=weights.device))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the network's logits."""
        logits: Tensor = self.network(inputs)
        return logits

    def weights(self) -> Tensor:
        """Returns (n,) W."""
        return torch.cat([layer.flatten() for layer in self._layers()])

    def _layers(self) -> list[nn.Parameter]:
        return list(prunable_parameters(self.network).values())

    def _split(self, flat: Tensor) -> list[Tensor]:
        layers = self._layers()
        parts = torch.split(flat, [layer.numel() for layer in layers])
        return [part.view(layer.shape) for part, layer in zip(parts, layers, strict=True)]

    def _nearest(self, flat: Tensor) -> Tensor:
        return torch.cat([quantised(part.flatten(), self.size) for part in self._split(flat)])

    @torch.no_grad()
    def begin_step(self, interval: int) -> None:
        """Counts a step of training, and updates Z and U where a whole interval lies behind it."""
        if int(self.steps) > 0 and int(self.steps) % interval == 0:
            weights = self.weights()
            self.targets.copy_(self._nearest(weights + self.duals))
            self.duals.add_(weights - self.targets)
        self.steps.add_(1)

    def distance(self) -> Tensor:
        """Returns |W - Z + U|^2 (scalar)."""
        return (self.weights() - self.targets + self.duals).square().sum()

    @torch.no_grad()
    def settle(self) -> None:
        """Sets the network's weights to their nearest quantised ones."""
        for layer, values in zip(
            self._layers(), self._split(self._nearest(self.weights())), strict=True
        ):
            layer.copy_(values)
