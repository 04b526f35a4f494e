"""Codebooks: weights of few values, by k-means.

A quantised tensor holds at most a number of values besides 0, which stays 0.

Source: S. Han et al., "Deep Compression", ICLR 2016 (arXiv 1510.00149), section 3, for codebooks of
the non-zero weights of a layer.
"""

import torch
from torch import Tensor

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
