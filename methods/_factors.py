"""Weights made of sparse factors, W = (B + I) A + C, and the projection on the largest entries.

Source: S. Gui et al., "Model Compression with Adversarial Robustness: A Unified Optimization
Framework", NeurIPS 2019 (arXiv 1902.03538); the identity is that of the authors' code.
"""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmark.pruning import largest, prunable_parameters


class Factors(nn.Module):
    """W = (B + I) A + C, or B (A + I) + C where the identity of that one is smaller.

    The factor that holds W at the start is called full, its partner square, and C rest.
    """

    def __init__(self, weight: Tensor) -> None:
        """Takes the shape of a weight; its rows are filters or output neurons."""
        super().__init__()
        self.shape = weight.shape
        rows, columns = weight.flatten(1).shape
        self.side = min(rows, columns)
        self.left = rows < columns

    def forward(self, full: Tensor, square: Tensor, rest: Tensor) -> Tensor:
        """Returns the weight; the product with the identity is written out.

        In full precision under autocast too, so that the network that is trained has the weights
        that `compose` writes down.
        """
        with torch.autocast(full.device.type, enabled=False):
            product = square @ full if self.left else full @ square
        return (full + product + rest).view(self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the factors that give a weight exactly: itself, and zeros."""
        full = weight.flatten(1)
        return full, full.new_zeros(self.side, self.side), torch.zeros_like(full)


def factorised(model: nn.Module) -> nn.Module:
    """Returns a copy of the network whose prunable weights are made of factors."""
    factored = copy.deepcopy(model)
    for name, weight in prunable_parameters(model).items():
        layer = factored.get_submodule(name.rpartition(".")[0])
        parametrize.register_parametrization(layer, "weight", Factors(weight))
    return factored


def pieces(model: nn.Module) -> list[nn.Parameter]:
    """Returns what is projected together: all factors, or a plain network's prunable weights."""
    layers = [layer for layer in model.modules() if parametrize.is_parametrized(layer, "weight")]
    if not layers:
        return list(prunable_parameters(model).values())
    return [
        piece
        for layer in layers
        for piece in cast(nn.ModuleDict, layer.parametrizations)["weight"].parameters()
    ]


@torch.no_grad()
def compose(factored: nn.Module, model: nn.Module) -> None:
    """Copies everything a factorised network has learnt to a plain one."""
    state = factored.state_dict()
    for key, tensor in model.state_dict().items():
        if key in state:
            tensor.copy_(state[key])
    for name, weight in prunable_parameters(model).items():
        layer = factored.get_submodule(name.rpartition(".")[0])
        weight.copy_(cast(Tensor, layer.weight))


@torch.no_grad()
def project(tensors: Sequence[Tensor], kept: int) -> None:
    """Zeroes in place all but the largest magnitudes of some tensors together.

    The selection of `mask_from_scores`, to the entry; but this one stays on the device, since it
    runs at every step.

    Args:
        tensors: what is projected, in order.
        kept: how many entries stay; of equal ones the last.
    """
    sizes = torch.cat([tensor.abs().flatten() for tensor in tensors])
    keep = largest(sizes, kept)
    parts = torch.split(keep, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.masked_fill_(~part.view(tensor.shape), 0.0)
