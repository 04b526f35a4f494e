"""Random numbers that belong to an example, whatever batch, shard or process it is attacked in."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.digests import seed_from


def generators(seed: int, purpose: str, indices: Iterable[int]) -> list[np.random.Generator]:
    """Returns a generator for each example.

    Args:
        seed: of the attack.
        purpose: attack and stage; another purpose has unrelated draws.
        indices: positions in the test split.
    """
    key = seed_from(seed, purpose)
    # Philox takes two words: one says for what, the other for whom.
    return [
        np.random.Generator(np.random.Philox(key=np.array([key, index], dtype=np.uint64)))
        for index in indices
    ]


def uniform(sources: Iterable[np.random.Generator], like: Tensor) -> Tensor:
    """Returns (N, C, H, W) uniform draws in [-1, 1), on the device of `like`."""
    shape = tuple(like.shape[1:])
    return _stacked([2 * source.random(shape, dtype=np.float32) - 1 for source in sources], like)


def normal(sources: Iterable[np.random.Generator], like: Tensor) -> Tensor:
    """Returns (N, C, H, W) standard normal draws, on the device of `like`."""
    shape = tuple(like.shape[1:])
    return _stacked([source.standard_normal(shape, dtype=np.float32) for source in sources], like)


def _stacked(drawn: list[NDArray[np.float32]], like: Tensor) -> Tensor:
    if not drawn:
        return torch.empty_like(like)
    return torch.from_numpy(np.stack(drawn)).to(like)
