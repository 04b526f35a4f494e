"""Files of weights that others made: torch (zip and older), safetensors, NumPy, Keras.

A file is read once, whole and bounded, and every size in it is checked against the bytes that are
there before memory is reserved. What comes back is a tree of plain Python values whose leaves are
tensors that are read only when they are asked for.
"""

import io
import math
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from benchmark import weights
from benchmark.errors import ManifestError, shorten
from benchmark.files import read_bounded
from benchmark.foreign.pickles import (
    STORAGES,
    Inert,
    Name,
    Persistent,
    Pickled,
    TensorOf,
    read_pickle,
)
from benchmark.weights import LARGEST_STATE

# A WideResNet-34-10 with its scores and its optimiser's moments has 0.8 GB.
LARGEST_FILE = 2 << 30
_LARGEST_PICKLE = 32 << 20
_MOST_ENTRIES = 1 << 16
_MOST_DIMENSIONS = 16

# What stands at the front of a torch file from before 2020: a pickled number.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# The dtypes that weights, statistics and masks have.
_DTYPES = {name: getattr(torch, name) for name in STORAGES.values()}


@dataclass(frozen=True)
class Leaf:
    """A tensor in a file.

    Attributes:
        shape: its shape.
        load: reads it.
    """

    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def entries(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Opened:
    """What a file holds.

    Attributes:
        kind: of container, in words.
        tree: dicts with text keys, lists, tuples, numbers, texts, `Leaf` and `Inert`.
    """

    kind: str
    tree: object


def open_file(path: Path) -> tuple[Opened, bytes]:
    """Returns what a file of weights holds, and its bytes.

    Raises:
        ManifestError: no such file, too large, damaged, or not a file of weights.
        StorageError: the disk refuses.
        ExtraMissing: a Keras file, and no package that reads it.
    """
    try:
        data = read_bounded(path, LARGEST_FILE)
    except FileNotFoundError as error:
        raise ManifestError(
            f"expected a file of weights, found none at {shorten(str(path), 400)}; check the path"
        ) from error
    return open_container(data), data


def open_container(data: bytes) -> Opened:
    """Returns what the bytes of a file of weights hold.

    Raises:
        ManifestError: damaged, or not a file of weights.
        ExtraMissing: a Keras file, and no package that reads it.
    """
    if data.startswith(b"PK\x03\x04"):
        return _open_zip(data)
    if data.startswith(_LEGACY):
        return Opened("torch file of before 2020", _legacy(data))
    if data.startswith(b"\x89HDF\r\n\x1a\n"):
        from benchmark.foreign.keras import keras_tree

        return Opened("Keras file", keras_tree(data))
    if len(data) > 9 and data[8:9] == b"{":
        tensors = weights.decode(data)
        return Opened("safetensors", {name: _ready(tensor) for name, tensor in tensors.items()})
    raise ManifestError(
        f"expected a file of weights (torch, safetensors, .npz or Keras .h5), got {_what(data)}; "
        "bring the original file"
    )


def _what(data: bytes) -> str:
    """Returns what a file is that holds no weights, in words."""
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if data[257:262] == b"ustar":
        return "a tar archive"
    if data.startswith(b"\x80"):
        return "a bare pickle"
    return f"{len(data):,} bytes of something else" if data else "an empty file"


def _ready(tensor: Tensor) -> Leaf:
    return Leaf(tuple(tensor.shape), lambda: tensor)


# --- Zip archives: torch and NumPy ----------------------------------------------------------------


def _open_zip(data: bytes) -> Opened:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = _entries(archive, len(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise _damaged(str(error)) from error
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) == 1:
        return Opened("torch file", _torch_tree(archive, entries, pickles[0][: -len("data.pkl")]))
    if entries and all(name.endswith(".npy") for name in entries):
        return Opened("NumPy archive", _numpy_tree(archive, entries))
    raise ManifestError(
        f"expected a torch file or a .npz, got a zip archive of {len(entries)} other files; "
        "unpack it and bring the file of weights"
    )


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the files of an archive by name.

    Raises:
        ManifestError: too many, two of one name, encrypted, or more than the archive can hold.
    """
    infos = archive.infolist()
    entries = {info.filename: info for info in infos}
    if len(infos) > _MOST_ENTRIES or len(entries) != len(infos):
        raise _damaged(f"{len(infos):,} entries, {len(entries):,} names")
    if any(info.flag_bits & 1 for info in infos):
        raise _damaged("encrypted entries")
    # Entries that share their bytes add up to more than the file; deflated ones are bounded alone.
    if sum(info.compress_size for info in infos) > size:
        raise _damaged("entries larger than the file together")
    return entries


def _damaged(found: str) -> ManifestError:
    return ManifestError(
        f"expected a whole archive of weights, got '{shorten(found)}'; bring the original file"
    )


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """Returns a file of an archive that has at most `limit` bytes."""
    if info.file_size > limit:
        raise _damaged(f"{info.file_size:,} bytes in {shorten(info.filename, 40)}")
    try:
        content = archive.read(info)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise _damaged(str(error)) from error
    except Exception as error:  # zlib's and lzma's errors have no common base
        raise _damaged(type(error).__name__) from error
    if len(content) != info.file_size:
        raise _damaged(f"{len(content):,} bytes for {info.file_size:,}")
    return content


def _torch_tree(
    archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], folder: str
) -> object:
    """Returns the tree of a torch file.

    Raises:
        ManifestError: a program, compressed, of another byte order, or damaged.
    """
    if any(name.startswith((f"{folder}code/", f"{folder}constants.pkl")) for name in entries):
        raise ManifestError(
            "expected weights as data, got a TorchScript program; save its state_dict() and bring "
            "that"
        )
    # torch stores without compression, so that nothing can unfold to more than the file has.
    if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
        raise _damaged("compressed entries, which torch never writes")
    order = entries.get(f"{folder}byteorder")
    if order is not None and _content(archive, order, 16).strip() != b"little":
        raise _damaged("another byte order than little")
    pickled = _content(archive, entries[f"{folder}data.pkl"], _LARGEST_PICKLE)
    value = read_pickle(pickled).value

    def bytes_of(key: str, expected: int) -> bytes:
        info = entries.get(f"{folder}data/{key}")
        if info is None:
            raise _damaged(f"no storage {shorten(key, 40)}")
        if info.file_size != expected:
            raise _damaged(f"{info.file_size:,} bytes in a storage of {expected:,}")
        return _content(archive, info, expected)

    return _resolved(value, bytes_of)


def _numpy_tree(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> object:
    return {name.removesuffix(".npy"): _numpy_leaf(archive, info) for name, info in entries.items()}


def _numpy_leaf(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Leaf:
    """Returns an array of a .npz, of which only the header is read.

    Raises:
        ManifestError: damaged, or of objects.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        with archive.open(info) as stream, warnings.catch_warnings():
            # Of headers in the spelling of another Python, which are as good.
            warnings.simplefilter("ignore")
            version = npy.read_magic(stream)
            shape, fortran, dtype = readers[version](stream, max_header_size=10_000)
    except Exception as error:  # the header is Python text that NumPy parses
        raise _damaged(f"{type(error).__name__} in {info.filename}") from error
    if dtype.kind not in "fiub" or dtype.name not in _DTYPES:
        raise _damaged(f"an array of {dtype.name}")
    _check_shape(shape)

    def load() -> Tensor:
        count = math.prod(shape)
        content = _content(archive, info, count * dtype.itemsize + 10_240)
        flat = np.frombuffer(content[len(content) - count * dtype.itemsize :], dtype=dtype)
        array = flat.reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(np.array(array, dtype=dtype.newbyteorder("="), order="C"))

    return Leaf(tuple(shape), load)


# --- Torch's storages -----------------------------------------------------------------------------

_BytesOf = Callable[[str, int], bytes]


def _legacy(data: bytes) -> object:
    """Returns the tree of a torch file of before 2020: five pickles, then the storages.

    Raises:
        ManifestError: damaged.
    """
    parts: list[Pickled] = []
    for _ in range(5):
        parts.append(read_pickle(data, parts[-1].end if parts else 0))
    system, pickled, keys = parts[2].value, parts[3], parts[4].value
    if isinstance(system, dict) and system.get("little_endian", True) is not True:
        raise _damaged("another byte order than little")
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise _damaged("no list of storages")
    storages = [_storage(reference) for reference in pickled.references]
    sizes = {storage.key: storage.dtype.itemsize for storage in storages}
    places = _places(data, parts[4].end, keys, sizes)

    def bytes_of(key: str, expected: int) -> bytes:
        begin, size = places.get(key, (0, -1))
        if size != expected:
            raise _damaged(f"{size:,} bytes in a storage of {expected:,}")
        return data[begin : begin + size]

    return _resolved(pickled.value, bytes_of)


def _places(
    data: bytes, place: int, keys: list[str], sizes: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
    """Returns where in an old torch file each storage begins, and how many bytes it has."""
    found: dict[str, tuple[int, int]] = {}
    for key in keys:
        count = int.from_bytes(data[place : place + 8], "little", signed=True)
        size = count * sizes.get(key, 0)
        if key not in sizes or count < 0 or place + 8 + size > len(data):
            raise _damaged(f"a storage of {count:,} entries at its end")
        found[key] = (place + 8, size)
        place += 8 + size
    return found


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    entries: int


def _storage(found: object) -> _Storage:
    """Returns the description of a storage.

    Raises:
        ManifestError: it is none.
    """
    parts = found.reference if isinstance(found, Persistent) else None
    if not isinstance(parts, tuple) or len(parts) < 5 or parts[0] != "storage":
        raise _damaged("a tensor without a storage")
    kind, key, count = parts[1], parts[2], parts[4]
    dtype = STORAGES.get(kind.name) if isinstance(kind, Name) else None
    if dtype is None or type(key) is not str or type(count) is not int:
        raise _damaged("a storage without kind, key or size")
    if not 0 <= count <= LARGEST_FILE or (len(parts) > 5 and parts[5] is not None):
        raise _damaged(f"a storage of {count:,} entries")
    return _Storage(key, _DTYPES[dtype], count)


def _resolved(value: object, bytes_of: _BytesOf) -> object:
    """Returns a tree in which described tensors are leaves, to the depth that checkpoints have."""
    return _replace(value, lambda tensor: _leaf(tensor, bytes_of), depth=4)


def _replace(value: object, leaf_of: Callable[[TensorOf], Leaf], depth: int) -> object:
    if isinstance(value, TensorOf):
        return leaf_of(value)
    if isinstance(value, Name):
        return Inert(str(value))
    if not isinstance(value, dict):
        return value
    # Dicts alone lead to weights. Below the depth, and in lists, stands what training left.
    if depth == 0:
        return Inert("dict")
    return {key: _replace(item, leaf_of, depth - 1) for key, item in value.items()}


def _leaf(tensor: TensorOf, bytes_of: _BytesOf) -> Leaf:
    """Returns a described tensor, its description checked.

    Raises:
        ManifestError: sizes that make no sense, or entries outside its storage.
    """
    storage = _storage(tensor.storage)
    shape, stride = _numbers(tensor.size), _numbers(tensor.stride)
    (offset,) = _numbers((tensor.offset,))
    _check_shape(shape)
    if len(stride) != len(shape):
        raise _damaged("a tensor of other dimensions than its strides")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= storage.entries:
        raise _damaged("a tensor that reaches beyond its storage")

    def load() -> Tensor:
        raw = bytes_of(storage.key, storage.entries * storage.dtype.itemsize)
        if not math.prod(shape):
            return torch.empty(shape, dtype=storage.dtype)
        flat = torch.frombuffer(bytearray(raw), dtype=storage.dtype)
        return flat.as_strided(shape, stride, offset).contiguous().clone()

    return Leaf(shape, load)


def _numbers(values: object) -> tuple[int, ...]:
    plain = values if isinstance(values, tuple | list) else ("?",)
    if not all(type(value) is int and 0 <= value <= LARGEST_FILE for value in plain):
        raise _damaged("a tensor of no proper size")
    return tuple(plain)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) > _MOST_DIMENSIONS or math.prod(shape) > LARGEST_STATE:
        raise _damaged(f"a tensor of shape {shorten(str(shape), 60)}")
