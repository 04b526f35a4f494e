"""Weights on disk: safetensors in which mostly-zero tensors are stored as places and values.

The places are a bitmap, or for the sparsest tensors the gaps between values, a byte each: at 99 % a
ResNet-18 has 1.4 MB of bits, but 0.6 MB of gaps and values. The encoding is exactly reversible, bit
for bit: an entry counts as zero only if all its bits are. A tensor is stored the way that is
smallest. Nothing is ever unpickled.
"""

import json
import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic_core import from_json
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from benchmark.errors import ManifestError, shorten

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

BITMAP, GAPS, VALUES = "::bitmap", "::gaps", "::values"

# What a second entry costs in the file's header, roughly; tensors that save less stay as they are.
_ENTRY_COST = 128

# In a list of gaps this byte says: as many zeros, and no value behind them yet.
_SKIP = 255

# A WideResNet-28-10 has 38 million weights; a file that unpacks to more than 268 million entries is
# not one of ours. A few bytes of gaps could promise any number of zeros.
LARGEST_STATE = 1 << 28
_MOST_DIMENSIONS = 16

_METADATA = "robustprune"


def encode(state: Mapping[str, Tensor]) -> bytes:
    """Returns a state dict as safetensors bytes, sparse where that is smaller.

    Args:
        state: tensors of any dtype and shape; names must not contain `::`.

    Raises:
        ManifestError: a name that the format keeps for itself.
    """
    stored: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in state.items():
        if "::" in name:
            raise ManifestError(
                f"expected a tensor name without '::', got '{shorten(name)}'; rename the parameter"
            )
        # A copy: safetensors refuses tensors that share memory.
        plain = tensor.detach().to("cpu", copy=True).contiguous()
        raw = _bytes_of(plain)
        occupied = raw.ne(0).any(dim=1).numpy()
        kind, places = _smallest_places(occupied)
        kept = int(occupied.sum())
        if places.nbytes + kept * plain.element_size() + _ENTRY_COST < plain.nbytes:
            stored[name + kind] = torch.from_numpy(places)
            stored[name + VALUES] = raw[torch.from_numpy(occupied)].flatten().view(plain.dtype)
            shapes[name] = list(plain.shape)
        else:
            stored[name] = plain
    # safetensors sorts the header by dtype and name, but its metadata is a hash map: a single entry
    # keeps the bytes the same from run to run.
    return save(stored, metadata={_METADATA: json.dumps(shapes, sort_keys=True)})


def _smallest_places(occupied: Bools) -> tuple[str, Bytes]:
    """Returns the kind and the bytes of the smaller description of where values are."""
    bitmap, gaps = np.packbits(occupied), _gaps(np.flatnonzero(occupied))
    return (GAPS, gaps) if len(gaps) < len(bitmap) else (BITMAP, bitmap)


def _gaps(positions: Integers) -> Bytes:
    """Returns the number of zeros before each value, skips included."""
    zeros = np.diff(positions, prepend=-1) - 1
    skips = zeros // _SKIP
    gaps = np.full(len(zeros) + int(skips.sum()), _SKIP, dtype=np.uint8)
    gaps[np.cumsum(skips + 1) - 1] = zeros % _SKIP
    return gaps


def _positions(gaps: Bytes) -> Integers:
    """Returns where the values are that gaps describe."""
    is_value = gaps != _SKIP
    ends = np.cumsum(gaps.astype(np.int64) + is_value)
    return np.asarray(ends[is_value] - 1, dtype=np.int64)


def _bytes_of(tensor: Tensor) -> Tensor:
    """Returns (entries, bytes an entry) uint8: zero means that no bit is set, so -0.0 is kept."""
    flat = tensor.flatten()
    return flat.view(torch.uint8).view(flat.numel(), flat.element_size())


def decode(data: bytes) -> dict[str, Tensor]:
    """Returns the state dict that `encode` stored.

    Raises:
        ManifestError: the bytes are truncated, tampered with or not of this format.
    """
    try:
        stored = load(data)
        shapes = _shapes(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ManifestError(
            f"expected a whole safetensors file, got '{shorten(str(error))}'; restore the original"
        ) from error
    sparse = {name: _expand(name, stored, shape) for name, shape in shapes.items()}
    plain = {name: tensor for name, tensor in stored.items() if "::" not in name}
    if len(plain) + 2 * len(sparse) != len(stored) or plain.keys() & sparse.keys():
        raise ManifestError(
            "expected each tensor plain or as places and values, got loose or double ones; "
            "restore the original"
        )
    return plain | sparse


def _shapes(data: bytes) -> dict[str, list[int]]:
    """Returns the shapes of the sparse tensors, by name, from the header.

    Raises:
        ValueError: not a table of shapes, or more entries than any network of ours has.
    """
    size = int.from_bytes(data[:8], "little")
    # pydantic's parser bounds its depth by itself. The standard library's trusts the interpreter's
    # recursion limit, and where that was raised a nested header ends the process.
    header = from_json(data[8 : 8 + size])
    shapes = from_json(header.get("__metadata__", {}).get(_METADATA, "{}"))
    if not isinstance(shapes, dict) or not all(_is_shape(shape) for shape in shapes.values()):
        raise ValueError("no table of shapes")
    if sum(math.prod(shape) for shape in shapes.values()) > LARGEST_STATE:
        raise ValueError(f"more than {LARGEST_STATE} entries")
    return shapes


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= _MOST_DIMENSIONS
        and all(type(size) is int and 0 <= size <= LARGEST_STATE for size in shape)
    )


def _expand(name: str, stored: Mapping[str, Tensor], shape: list[int]) -> Tensor:
    """Returns a tensor from its places and values."""
    kind = BITMAP if name + BITMAP in stored else GAPS
    places, values = stored.get(name + kind), stored.get(name + VALUES)
    count = math.prod(shape)
    if places is None or values is None or places.dtype != torch.uint8 or places.dim() != 1:
        raise _damaged(name, "only a part of them")
    if kind == BITMAP and len(places) != math.ceil(count / 8):
        raise _damaged(name, f"{len(places)} bytes for {count} entries")
    if kind == BITMAP:
        positions = np.flatnonzero(np.unpackbits(places.numpy()))
    else:
        if places.numel() > values.numel() + count // _SKIP:
            raise _damaged(name, f"{places.numel()} gaps for {values.numel()} values of {count}")
        positions = _positions(places.numpy())
    if len(positions) != values.numel() or positions.max(initial=-1) >= count:
        raise _damaged(name, f"{values.numel()} values for {len(positions)} places of {count}")
    raw = torch.zeros(count, values.element_size(), dtype=torch.uint8)
    raw[torch.from_numpy(positions)] = _bytes_of(values)
    return raw.flatten().view(values.dtype).view(shape)


def _damaged(name: str, found: str) -> ManifestError:
    return ManifestError(
        f"expected places and values of '{shorten(name)}', got {found}; restore the original"
    )
