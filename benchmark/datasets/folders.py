"""Trees of image files, one folder a class: listed, decoded, kept decoded where they are small."""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.datasets.descriptions import DATASETS, Description, Half
from benchmark.datasets.splits import Split, TensorSplit
from benchmark.digests import digest_of
from benchmark.errors import ContractError, DataUnavailable, StorageError, UnknownName, shorten
from benchmark.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

PREFIX = "folder:"
CACHE = ".robustprune-cache"
# Raise it when the same files would decode to other pixels.
_CACHE_VERSION = 1
# A tree whose pixels fit in here is decoded once and kept; larger ones are decoded on demand.
_MEMORY_LIMIT_BYTES = 2**30
_SUFFIXES = (".png", ".jpg", ".jpeg")
_THREADS = 4


@dataclass(frozen=True)
class Tree:
    """Where a tree lies under the data root, and what it must hold.

    Attributes:
        folder: its name under the data root.
        train: the folder of the training half.
        test: the folder of the test half.
        examples: how many images the halves have, where that is known.
        resize: length to which the shorter side is scaled before the centre is cut out; None: every
            image must already have the data set's size.
    """

    folder: str
    train: str = "train"
    test: str = "test"
    examples: tuple[int, int] | None = None
    resize: int | None = None

    def half(self, root: Path, half: Half) -> Path:
        """Returns the folder of a half."""
        return root / self.folder / (self.train if half == "train" else self.test)


TREES: dict[str, Tree] = {
    "cifar10-jpeg": Tree("cifar10-jpeg", examples=(50_000, 10_000)),
    # The labels of the official test images are not public: as in papers, `val` is the test half.
    "imagenet": Tree("imagenet", test="val", examples=(1_281_167, 50_000), resize=256),
}


def tree_of(name: str) -> Tree | None:
    """Returns the tree behind a data set's name, or None if it is not a tree.

    Raises:
        UnknownName: `folder:NAME` whose NAME is not a plain folder name.
    """
    if not name.startswith(PREFIX):
        return TREES.get(name)
    folder = name.removeprefix(PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", folder):
        raise UnknownName(
            f"expected {PREFIX}NAME, a folder in the data root, got '{shorten(name)}'; "
            "use letters, digits, '.', '_' and '-'"
        )
    return Tree(folder)


@dataclass(frozen=True)
class Decoding:
    """How files become pixels.

    Attributes:
        shape: (channels, height, width) of the result.
        resize: as in `Tree`.
    """

    shape: tuple[int, int, int]
    resize: int | None


class FolderSplit(Split):
    """A split whose images are decoded each time they are asked for."""

    def __init__(self, files: Sequence[str], labels: Tensor, decoding: Decoding) -> None:
        """Takes the examples without opening any file.

        Args:
            files: N paths.
            labels: (N,) int64.
            decoding: how the files become pixels.

        Raises:
            ContractError: the numbers of files and labels differ.
        """
        if labels.dtype != torch.int64 or labels.shape != (len(files),):
            raise ContractError(
                f"expected labels ({len(files)},) int64, got {tuple(labels.shape)} {labels.dtype}"
            )
        self.labels = labels
        self.shape = decoding.shape
        self.scale = 255
        self._files = files
        self._decoding = decoding

    def pixels(self, indices: Tensor) -> Tensor:
        """Returns (n, C, H, W) uint8 in [0, 255], freshly decoded."""
        self._check(indices)
        files = [self._files[index] for index in indices.tolist()]
        return torch.from_numpy(_decode_all(files, self._decoding))

    def subset(self, indices: Tensor) -> "FolderSplit":
        """Returns the split that consists of these examples, in this order."""
        self._check(indices)
        files = [self._files[index] for index in indices.tolist()]
        return FolderSplit(files, self.labels[indices], self._decoding)


def read_tree(description: Description, half: Half, root: Path) -> Split:
    """Returns a half of a tree: in memory if it is small, otherwise decoded on demand.

    Raises:
        DataUnavailable: folders or images are missing, too many, damaged, or of another size.
    """
    tree = tree_of(description.name)
    assert tree is not None
    files, targets = _list_images(description, tree, half, root)
    labels = torch.tensor(targets, dtype=torch.int64)
    decoding = Decoding(description.shape, tree.resize)
    if len(files) * int(np.prod(description.shape)) > _MEMORY_LIMIT_BYTES:
        return FolderSplit(files, labels, decoding)
    store = root / CACHE / tree.folder
    key = f"{half}-{_cache_key(root, files, decoding)}"
    return TensorSplit(
        torch.from_numpy(_cached(store / f"{key}.npy", files, decoding)), labels, 255
    )


def describe_tree(name: str, root: Path) -> Description:
    """Returns the description of any tree: shape of its first image, identity normalisation.

    Raises:
        UnknownName: not a plain folder name.
        DataUnavailable: there is no such tree, or its first image cannot be read.
    """
    tree = tree_of(name)
    assert tree is not None
    half: Half = "train" if tree.half(root, "train").is_dir() else "test"
    classes = class_names(tree.half(root, half))
    first = _images_of(tree.half(root, half) / classes[0])[0]
    channels, height, width = _shape_of(first)
    return Description(
        name=name,
        title=f"{tree.folder} (image folder)",
        shape=(channels, height, width),
        classes=len(classes),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        augmentation="none",
        source=f"the folder {tree.folder} in the data root",
        licence="not stated",
    )


def class_names(folder: Path) -> list[str]:
    """Returns the names of the class folders in the order of their labels.

    Raises:
        DataUnavailable: there is no such folder, or it holds no folders.
    """
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()
            ]
    except OSError as error:
        raise _unavailable(folder, error) from error
    if not names:
        raise DataUnavailable(
            f"expected one folder a class in {_shown(folder)}, got none; "
            "lay the images out as <class>/<image>"
        )
    return sorted(names)


def _list_images(
    description: Description, tree: Tree, half: Half, root: Path
) -> tuple[list[str], list[int]]:
    folder = tree.half(root, half)
    names = class_names(folder)
    other = tree.half(root, "test" if half == "train" else "train")
    if len(names) != description.classes or (other.is_dir() and class_names(other) != names):
        raise DataUnavailable(
            f"expected the same {description.classes} class folders in both halves of "
            f"{_shown(folder.parent)}, got {len(names)} or other names in {folder.name}; "
            "restore the tree"
        )
    listed = [
        (path, label) for label, name in enumerate(names) for path in _images_of(folder / name)
    ]
    if tree.examples and len(listed) != tree.examples[half == "test"]:
        raise DataUnavailable(
            f"expected {tree.examples[half == 'test']} images in {_shown(folder)}, "
            f"got {len(listed)}; restore the tree"
        )
    return [path for path, _ in listed], [label for _, label in listed]


def _images_of(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            files = sorted(
                entry.path
                for entry in entries
                if entry.name.lower().endswith(_SUFFIXES) and not entry.name.startswith(".")
            )
    except OSError as error:
        raise _unavailable(folder, error) from error
    if not files:
        raise DataUnavailable(
            f"expected images ({', '.join(_SUFFIXES)}) in {_shown(folder)}, got none; "
            "restore the tree"
        )
    return files


def _cached(path: Path, files: Sequence[str], decoding: Decoding) -> NDArray[np.uint8]:
    pixels = _read_cache(path, (len(files), *decoding.shape))
    if pixels is None:
        pixels = _decode_all(files, decoding)
        _write_cache(path, pixels)
    return pixels


def _cache_key(root: Path, files: Sequence[str], decoding: Decoding) -> str:
    import PIL

    settings = [_CACHE_VERSION, PIL.__version__, decoding]
    total = hashlib.sha256(digest_of(settings).encode())
    for file in files:
        try:
            found = os.stat(file)
        except OSError as error:
            raise _unavailable(Path(file), error) from error
        inside = file.removeprefix(str(root))
        line = f"{inside}\0{found.st_size}\0{found.st_mtime_ns}\n"
        total.update(line.encode(errors="surrogateescape"))
    return total.hexdigest()[:32]


def _read_cache(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    # numpy's own reader believes whatever a file's header says; here only one header is right.
    head, size = _head(shape), int(np.prod(shape))
    try:
        with path.open("rb") as stream:
            if (
                os.fstat(stream.fileno()).st_size != len(head) + size
                or stream.read(len(head)) != head
            ):
                return None
            pixels = np.fromfile(stream, np.uint8, size)
    except OSError:
        # Absent or unreadable: the images themselves are decoded again.
        return None
    return pixels.reshape(shape) if pixels.size == size else None


def _head(shape: tuple[int, ...]) -> bytes:
    """Returns what stands before the pixels in a cache."""
    stream = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, about)
    return stream.getvalue()


def _write_cache(path: Path, pixels: NDArray[np.uint8]) -> None:
    try:
        write_atomically(path, _head(pixels.shape) + pixels.tobytes())
        for stale in path.parent.glob(f"{path.name.partition('-')[0]}-*.npy"):
            if stale != path:
                stale.unlink(missing_ok=True)
    except (StorageError, OSError):
        # The data root may be read-only; then the next run decodes again.
        return


def _decode_all(files: Sequence[str], decoding: Decoding) -> NDArray[np.uint8]:
    pixels = np.empty((len(files), *decoding.shape), dtype=np.uint8)

    def decode_into(position: int) -> None:
        pixels[position] = _decode(files[position], decoding)

    # Pillow lets go of the interpreter while it decodes, which pays for large images only.
    if len(files) < 2 or decoding.resize is None:
        for position in range(len(files)):
            decode_into(position)
        return pixels
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(decode_into, range(len(files))):
            pass
    return pixels


def _decode(file: str, decoding: Decoding) -> NDArray[np.uint8]:
    channels, height, width = decoding.shape
    with _opened(file) as image:
        if channels == 1 and image.mode not in ("1", "L"):
            raise _misfit(file, "a grey image", f"mode {image.mode}")
        if image.mode.startswith(("I", "F")):
            raise _misfit(file, "8 bits a channel", f"mode {image.mode}")
        if decoding.resize is None and image.size != (width, height):
            raise _misfit(file, f"{width}x{height} pixels", f"{image.size[0]}x{image.size[1]}")
        try:
            fitted = image.convert("L" if channels == 1 else "RGB")
        except _UNREADABLE as error:
            raise _damaged(file, error) from error
        if decoding.resize is not None:
            fitted = _cut_centre(fitted, decoding.resize, (height, width))
    pixels = np.asarray(fitted, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _cut_centre(image: "Image", resize: int, size: tuple[int, int]) -> "Image":
    from torchvision.transforms import functional

    cut: Image = functional.center_crop(functional.resize(image, resize), list(size))
    return cut


def _shape_of(file: str) -> tuple[int, int, int]:
    with _opened(file) as image:
        width, height = image.size
        return 1 if image.mode in ("1", "L") else 3, height, width


# What Pillow raises for files that are damaged in one way or another.
_UNREADABLE = (OSError, SyntaxError, ValueError, LookupError, EOFError)


def _opened(file: str) -> "Image":
    from PIL import Image

    # An animation that cannot be played is a picture all the same. Threads decode side by side, so
    # that no list of filters could be put back.
    warnings.filterwarnings("ignore", "Invalid APNG", UserWarning)
    try:
        return Image.open(file, formats=("JPEG", "PNG"))
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        raise _damaged(file, error) from error


def _damaged(file: str, error: Exception) -> DataUnavailable:
    reason = shorten(" ".join(str(error).split()) or type(error).__name__, 200)
    return _misfit(file, "a readable image", f"'{reason}'")


def _misfit(file: str, expected: str, found: str) -> DataUnavailable:
    return DataUnavailable(
        f"expected {expected} in {_shown(Path(file))}, got {found}; restore or convert the image"
    )


def _unavailable(path: Path, error: OSError) -> DataUnavailable:
    return DataUnavailable(
        f"expected images under {_shown(path)}, got '{error.strerror}'; point --data-root or "
        "ROBUSTPRUNE_DATA at the folder that holds them"
    )


def _shown(path: Path) -> str:
    return shorten(str(path), 400)


def how_to_get_tree(name: str) -> str:
    """Returns where the images of a tree come from and how they are laid out."""
    tree = tree_of(name)
    assert tree is not None
    source = f" ({DATASETS[name].source})" if name in DATASETS else ""
    return (
        f"put the images{source} under the data root as {tree.folder}/{tree.train}/<class>/<image> "
        f"and {tree.folder}/{tree.test}/<class>/<image>; they cannot be downloaded from here"
    )
