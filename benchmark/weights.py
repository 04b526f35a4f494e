"""Weights on disk: safetensors in which mostly-zero tensors are stored as places and values.

The places are a bitmap, or for the sparsest tensors the gaps between values, a byte each: at 99 % a
ResNet-18 has 1.4 MB of bits, but 0.6 MB of gaps and values. Quantised weights take few values, so
these are listed once, in a codebook, and the entries are indices into it, of 1 to 8 bits. The
encoding is exactly reversible, bit for bit: an entry counts as zero only if all its bits are. A
tensor is stored the way that is smallest. Nothing is ever unpickled.
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
CODEBOOK, INDICES = "::codebook", "::indices"

# What a further entry costs in the file's header, roughly; tensors that save less stay as they are.
_ENTRY_COST = 128

# An index takes 8 bits at most. Tensors of more values are recognised by a few of their entries.
LARGEST_CODEBOOK = 256
_SAMPLE = 4096

# In a list of gaps this byte says: as many zeros, and no value behind them yet.
_SKIP = 255

# A WideResNet-28-10 has 38 million weights; a file that unpacks to more than 268 million entries is
# not one of ours. A few bytes of gaps could promise any number of zeros.
LARGEST_STATE = 1 << 28
_MOST_DIMENSIONS = 16

# Metadata is one entry: the shapes of sparse tensors, or these and what the network is.
_METADATA, _DESCRIBED = "robustprune", "robustprune-described"

# Of a description as JSON; a thousand layers have 200 bytes each.
LARGEST_DESCRIPTION = 1 << 20


def encode(state: Mapping[str, Tensor], description: object = None) -> bytes:
    """Returns a state dict as safetensors bytes, sparse where that is smaller.

    Args:
        state: tensors of any dtype and shape; names must not contain `::`.
        description: of the network as JSON data, for one that no table knows; else None.

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
        parts = _smallest_parts(plain, raw)
        if len(parts) > 1:
            shapes[name] = list(plain.shape)
        stored |= {name + kind: part for kind, part in parts.items()}
    # safetensors sorts the header by dtype and name, but its metadata is a hash map: a single entry
    # keeps the bytes the same from run to run.
    if description is None:
        return save(stored, metadata={_METADATA: json.dumps(shapes, sort_keys=True)})
    said = {"shapes": shapes, "description": description}
    return save(stored, metadata={_DESCRIBED: json.dumps(said, sort_keys=True)})


def _smallest_parts(plain: Tensor, raw: Tensor) -> dict[str, Tensor]:
    """Returns what is stored of one tensor, by suffix: all of it, or places and values.

    Args:
        plain: the tensor.
        raw: its entries' bytes, see `_bytes_of`.
    """
    occupied = raw.ne(0).any(dim=1).numpy()
    kind, places = _smallest_places(occupied)
    values = raw[torch.from_numpy(occupied)].flatten().view(plain.dtype)
    where = {kind: torch.from_numpy(places)}
    ways = [{"": plain}, where | {VALUES: values}]
    if coded := _coded(values):
        ways.append(where | coded)
    # The first of equals, so that a new way of storing leaves files as they are.
    return min(ways, key=_cost)


def _cost(parts: Mapping[str, Tensor]) -> int:
    """Returns the bytes that some parts take in a file, entries beyond the first included."""
    return sum(part.nbytes for part in parts.values()) + _ENTRY_COST * (len(parts) - 1)


def _coded(values: Tensor) -> dict[str, Tensor]:
    """Returns codebook and indices of some values; empty where they are too many, or none."""
    size = values.element_size()
    if size > 8:
        return {}
    # Equal are values of equal bits: 0.0 is not -0.0, and each NaN is itself.
    words = _bytes_of(values).numpy().view(f"u{size}").ravel()
    if not 0 < len(np.unique(words[:_SAMPLE])) <= LARGEST_CODEBOOK:
        return {}
    codebook, indices = np.unique(words, return_inverse=True)
    if len(codebook) > LARGEST_CODEBOOK:
        return {}
    bits = np.unpackbits(indices.astype(np.uint8)[:, None], axis=1)[:, -_width(len(codebook)) :]
    book = torch.from_numpy(codebook.view(np.uint8)).view(values.dtype)
    return {CODEBOOK: book, INDICES: torch.from_numpy(np.packbits(bits))}


def _width(entries: int) -> int:
    """Returns how many bits an index into a codebook takes, at least 1."""
    return max(1, (entries - 1).bit_length())


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
        shapes, _ = _said(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        # The last two are torch's, of sizes that no tensor can have.
        raise ManifestError(
            f"expected a whole safetensors file, got '{shorten(str(error))}'; restore the original"
        ) from error
    kinds = {name: _kinds(name, stored) for name in shapes}
    sparse = {name: _expand(name, stored, shape, kinds[name]) for name, shape in shapes.items()}
    plain = {name: tensor for name, tensor in stored.items() if "::" not in name}
    parts = sum(map(len, kinds.values()))
    if len(plain) + parts != len(stored) or plain.keys() & sparse.keys():
        raise ManifestError(
            "expected each tensor plain or as places and values, got loose or double ones; "
            "restore the original"
        )
    return plain | sparse


def description_of(data: bytes) -> object:
    """Returns the description that was stored beside a state dict, as JSON data; None without one.

    It may come from anybody: `described.parse` checks it.

    Raises:
        ManifestError: the bytes are truncated, tampered with or not of this format.
    """
    try:
        return _said(data)[1]
    except (ValueError, KeyError, AttributeError) as error:
        raise ManifestError(
            f"expected a whole safetensors file, got '{shorten(str(error))}'; restore the original"
        ) from error


def _said(data: bytes) -> tuple[dict[str, list[int]], object]:
    """Returns what the header says: shapes of the sparse tensors by name, and a description.

    Raises:
        ValueError: not a table of shapes, more entries than any network of ours has, or a
            description longer than any.
    """
    size = int.from_bytes(data[:8], "little")
    # pydantic's parser bounds its depth by itself. The standard library's trusts the interpreter's
    # recursion limit, and where that was raised a nested header ends the process.
    metadata = from_json(data[8 : 8 + size]).get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError("no table of metadata")
    shapes, description = from_json(metadata.get(_METADATA, "{}")), None
    if _DESCRIBED in metadata:
        if len(metadata) > 1 or len(metadata[_DESCRIBED]) > LARGEST_DESCRIPTION:
            raise ValueError("no description alone, or too long a one")
        said = from_json(metadata[_DESCRIBED])
        if not isinstance(said, dict) or said.keys() != {"shapes", "description"}:
            raise ValueError("no shapes and description")
        shapes, description = said["shapes"], said["description"]
    if not isinstance(shapes, dict) or not all(_is_shape(shape) for shape in shapes.values()):
        raise ValueError("no table of shapes")
    if sum(math.prod(shape) for shape in shapes.values()) > LARGEST_STATE:
        raise ValueError(f"more than {LARGEST_STATE} entries")
    return shapes, description


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= _MOST_DIMENSIONS
        and all(type(size) is int and 0 <= size <= LARGEST_STATE for size in shape)
    )


def _kinds(name: str, stored: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Returns the suffixes of what is stored of a sparse tensor: places first, then values.

    Raises:
        ManifestError: a part is missing.
    """
    kinds = (
        BITMAP if name + BITMAP in stored else GAPS,
        *((INDICES, CODEBOOK) if name + CODEBOOK in stored else (VALUES,)),
    )
    if any(name + kind not in stored for kind in kinds):
        raise _damaged(name, "only a part of them")
    return kinds


def _expand(
    name: str, stored: Mapping[str, Tensor], shape: list[int], kinds: tuple[str, ...]
) -> Tensor:
    """Returns a tensor from its parts."""
    count = math.prod(shape)
    places = _packed(name, stored[name + kinds[0]])
    if kinds[0] == BITMAP:
        if len(places) != math.ceil(count / 8):
            raise _damaged(name, f"{len(places)} bytes for {count} entries")
        positions = np.flatnonzero(np.unpackbits(places))
    else:
        kept = np.count_nonzero(places != _SKIP)
        if len(places) > kept + count // _SKIP:
            raise _damaged(name, f"{len(places)} gaps for {kept} values of {count}")
        positions = _positions(places)
    if positions.max(initial=-1) >= count:
        raise _damaged(name, f"places beyond {count} entries")
    if kinds[1] == VALUES:
        values = stored[name + VALUES]
    else:
        indices = _packed(name, stored[name + INDICES])
        values = _looked_up(name, stored[name + CODEBOOK], indices, len(positions))
    if len(positions) != values.numel():
        raise _damaged(name, f"{values.numel()} values for {len(positions)} places of {count}")
    raw = torch.zeros(count, values.element_size(), dtype=torch.uint8)
    raw[torch.from_numpy(positions)] = _bytes_of(values)
    return raw.flatten().view(values.dtype).view(shape)


def _packed(name: str, part: Tensor) -> Bytes:
    """Returns the bytes of a packed part.

    Raises:
        ManifestError: it is none.
    """
    if part.dtype != torch.uint8 or part.dim() != 1:
        raise _damaged(name, f"{part.dtype} in {part.dim()} dimensions for packed bytes")
    packed: Bytes = part.numpy()
    return packed


def _looked_up(name: str, codebook: Tensor, indices: Bytes, count: int) -> Tensor:
    """Returns (count,) entries of a codebook.

    Args:
        name: of the tensor, for messages.
        codebook: 1 to 256 values.
        indices: packed, each of as many bits as the codebook needs, zeros behind the last.
        count: how many there must be.

    Raises:
        ManifestError: another number of indices, or one beyond the codebook.
    """
    if codebook.dim() != 1 or not 0 < len(codebook) <= LARGEST_CODEBOOK:
        raise _damaged(name, f"a codebook of shape {tuple(codebook.shape)}")
    width = _width(len(codebook))
    used = count * width
    if len(indices) != math.ceil(used / 8):
        raise _damaged(name, f"{len(indices)} bytes of indices for {count} places")
    bits = np.unpackbits(indices)
    # A row of bits packs into one byte, its first bit highest.
    chosen = np.packbits(bits[:used].reshape(count, width), axis=1).ravel() >> (8 - width)
    if bits[used:].any() or chosen.max(initial=0) >= len(codebook):
        raise _damaged(name, f"indices beyond a codebook of {len(codebook)}")
    found = _bytes_of(codebook)[torch.from_numpy(chosen.astype(np.int64))]
    return found.flatten().view(codebook.dtype)


def _damaged(name: str, found: str) -> ManifestError:
    return ManifestError(
        f"expected places and values of '{shorten(name)}', got {found}; restore the original"
    )
