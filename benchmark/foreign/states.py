"""From what a file holds to a state dict: the nest it lies in, the prefix of its names, dtypes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.errors import ManifestError, shorten
from benchmark.foreign.containers import Leaf
from benchmark.foreign.pickles import Inert
from benchmark.weights import LARGEST_STATE

# Where training scripts keep the weights beside the rest, the first that is there.
NESTS = ("state_dict", "net", "model_state_dict", "model")
# What wrappers put before the names of a network: DataParallel, attack and ensemble classes.
WRAPPERS = ("module.", "basic_model.", "model.")


@dataclass(frozen=True)
class Found:
    """The weights of a file.

    Attributes:
        state: tensors by name, floats as float32, the prefix stripped.
        nest: key under which they lay, or empty.
        prefix: what stood before every name, or empty.
    """

    state: dict[str, Tensor]
    nest: str
    prefix: str


def find_state(tree: object) -> Found:
    """Returns the weights in a file's tree.

    Raises:
        ManifestError: a pickled network, no weights, or more of them than any network has.
    """
    nest, leaves = _descend(tree)
    entries = sum(leaf.entries for leaf in leaves.values())
    # Scores and factors come beside the weights; they are as large.
    if entries > 2 * LARGEST_STATE:
        raise ManifestError(
            f"expected at most {2 * LARGEST_STATE:,} numbers of one network, got {entries:,}; "
            "bring a file of one network"
        )
    prefix = _prefix(leaves)
    state = {
        name[len(prefix) :]: as_float32(name, leaf.load(), leaf.shape)
        for name, leaf in leaves.items()
    }
    return Found(state, nest, prefix)


def _descend(tree: object) -> tuple[str, dict[str, Leaf]]:
    """Returns the key of the dict that holds the weights, and these."""
    if isinstance(tree, Inert):
        raise ManifestError(
            f"expected a state dict, got a pickled {shorten(tree.of, 60)}; save the network's "
            "state_dict() and bring that"
        )
    if not isinstance(tree, dict):
        raise _none(f"a {type(tree).__name__}")
    for nest in NESTS:
        inner = tree.get(nest)
        if isinstance(inner, dict) and _leaves(inner):
            return nest, _only_tensors(inner)
        if isinstance(inner, Inert):
            return _descend(inner)
    return "", _only_tensors(tree)


def _leaves(table: Mapping[str, object]) -> dict[str, Leaf]:
    return {name: value for name, value in table.items() if isinstance(value, Leaf)}


def _only_tensors(table: Mapping[str, object]) -> dict[str, Leaf]:
    """Returns the tensors of a dict, none of whose other entries may be weights of a network."""
    leaves = _leaves(table)
    if not leaves:
        inner = ", ".join(shorten(name, 30) for name in list(table)[:5])
        raise _none(f"a dict of {inner or 'nothing'}")
    for name, value in table.items():
        if isinstance(value, dict | Inert) and "." in name:
            raise ManifestError(
                f"expected tensors alone among the weights, got something else as "
                f"'{shorten(name)}'; bring a state dict"
            )
    return leaves


def _none(found: str) -> ManifestError:
    return ManifestError(
        f"expected a state dict (alone, or under {', '.join(NESTS)}), got {found}; save the "
        "network's state_dict() and bring that"
    )


def _prefix(names: Mapping[str, object]) -> str:
    """Returns the longest run of wrappers' names that stands before every name."""
    prefix, more = "", True
    while more:
        more = False
        for wrapper in WRAPPERS:
            if all(name.startswith(prefix + wrapper) for name in names):
                prefix, more = prefix + wrapper, True
    return prefix


def as_float32(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns a tensor as float32 if it holds fractions, and as it is if it holds integers.

    Raises:
        ManifestError: not of the shape it promised, not finite, or more digits than float32 has.
    """
    if tuple(tensor.shape) != shape or tensor.numel() != math.prod(shape):
        raise ManifestError(f"expected '{shorten(name)}' of shape {shape}; bring the original file")
    if not tensor.is_floating_point():
        return tensor
    plain = tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise ManifestError(
            f"expected finite weights, got NaN or infinity in '{shorten(name)}'; bring a "
            "checkpoint of before its training diverged"
        )
    if tensor.dtype == torch.float64 and not torch.equal(plain.double(), tensor):
        raise ManifestError(
            f"expected weights that float32 holds, got more digits in '{shorten(name)}'; round "
            "them before, and say so"
        )
    return plain
