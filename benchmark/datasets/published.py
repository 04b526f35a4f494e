"""Data sets published as a few files with known checksums, through torchvision; and digits.

The layout under the data root is torchvision's own, so folders made by other projects are found.
"""

import contextlib
import hashlib
import io
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.descriptions import DATASETS, Half
from benchmark.datasets.examples import held_out
from benchmark.datasets.splits import TensorSplit
from benchmark.errors import DataUnavailable, shorten

Arrays = tuple[Tensor, Tensor]

# Without a network the answer must come in seconds; torchvision would wait as long as the system.
_NETWORK_TIMEOUT_SECONDS = 10.0

_DIGITS_EXAMPLES = 1797
# 60 of each class, a third of all.
_DIGITS_TEST_EXAMPLES = 600


@dataclass(frozen=True)
class Published:
    """How one data set lies on disk.

    Attributes:
        files: path under the data root → MD5, for each half: what must be intact before reading.
        examples: how many each half has.
        read: (data root, half) → pixels (N, C, H, W) uint8 and labels (N,) int64.
        download: puts the files of a half, at least, under the given folder.
    """

    files: Mapping[Half, Mapping[str, str]]
    examples: Mapping[Half, int]
    read: Callable[[Path, Half], Arrays]
    download: Callable[[Path, Half], object]


def _read_idx(folder: str) -> Callable[[Path, Half], Arrays]:
    def read(root: Path, half: Half) -> Arrays:
        from torchvision.datasets.mnist import read_image_file, read_label_file

        stem = root / folder / "raw" / ("train" if half == "train" else "t10k")
        return read_image_file(f"{stem}-images-idx3-ubyte").unsqueeze(1), read_label_file(
            f"{stem}-labels-idx1-ubyte"
        )

    return read


def _read_cifar(class_name: str) -> Callable[[Path, Half], Arrays]:
    def read(root: Path, half: Half) -> Arrays:
        import torchvision.datasets

        # The files are pickles. torchvision checks their MD5 as well, right before it opens them.
        archive = getattr(torchvision.datasets, class_name)(root, train=half == "train")
        pixels = torch.from_numpy(archive.data).permute(0, 3, 1, 2).contiguous()
        return pixels, torch.tensor(archive.targets, dtype=torch.int64)

    return read


def _read_svhn(root: Path, half: Half) -> Arrays:
    from torchvision.datasets import SVHN

    archive = SVHN(root, split=half)
    return torch.from_numpy(np.ascontiguousarray(archive.data)), torch.from_numpy(archive.labels)


def _downloader(class_name: str) -> Callable[[Path, Half], object]:
    def download(folder: Path, half: Half) -> object:
        import torchvision.datasets

        choice = {"split": half} if class_name == "SVHN" else {"train": half == "train"}
        return getattr(torchvision.datasets, class_name)(folder, download=True, **choice)

    return download


def _idx_files(folder: str, md5: tuple[str, str, str, str]) -> dict[Half, dict[str, str]]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    paths = [f"{folder}/raw/{name}-ubyte" for name in names]
    return {
        "train": dict(zip(paths[:2], md5[:2], strict=True)),
        "test": dict(zip(paths[2:], md5[2:], strict=True)),
    }


# torchvision opens a CIFAR archive only if both halves and the class names are there.
_CIFAR10_FILES = {
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
    "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
_CIFAR100_FILES = {
    "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
    "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48",
}

PUBLISHED: dict[str, Published] = {
    "mnist": Published(
        _idx_files(
            "MNIST",
            (
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
        {"train": 60_000, "test": 10_000},
        _read_idx("MNIST"),
        _downloader("MNIST"),
    ),
    "fashion-mnist": Published(
        _idx_files(
            "FashionMNIST",
            (
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
        ),
        {"train": 60_000, "test": 10_000},
        _read_idx("FashionMNIST"),
        _downloader("FashionMNIST"),
    ),
    "cifar10": Published(
        {"train": _CIFAR10_FILES, "test": _CIFAR10_FILES},
        {"train": 50_000, "test": 10_000},
        _read_cifar("CIFAR10"),
        _downloader("CIFAR10"),
    ),
    "cifar100": Published(
        {"train": _CIFAR100_FILES, "test": _CIFAR100_FILES},
        {"train": 50_000, "test": 10_000},
        _read_cifar("CIFAR100"),
        _downloader("CIFAR100"),
    ),
    "svhn": Published(
        {
            "train": {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373"},
            "test": {"test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"},
        },
        {"train": 73_257, "test": 26_032},
        _read_svhn,
        _downloader("SVHN"),
    ),
}


def read_published(name: str, half: Half, root: Path) -> TensorSplit:
    """Returns a half of a published data set, after checking every byte of it.

    Raises:
        DataUnavailable: a file is missing, truncated or changed, or does not hold what it should.
    """
    published = PUBLISHED[name]
    verify(name, half, root)
    try:
        pixels, labels = published.read(root, half)
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AssertionError) as error:
        raise DataUnavailable(
            f"expected {DATASETS[name].title} under {shorten(str(root), 400)}, "
            f"got '{_reason(error)}'; restore the original files"
        ) from error
    expected = (published.examples[half], *DATASETS[name].shape)
    if tuple(pixels.shape) != expected or len(labels) != len(pixels):
        raise DataUnavailable(
            f"expected pixels {expected} and as many labels in {DATASETS[name].title} {half}, "
            f"got {tuple(pixels.shape)} and {len(labels)}; restore the original files"
        )
    return TensorSplit(pixels, labels, 255)


def verify(name: str, half: Half, root: Path) -> None:
    """Checks presence and MD5 of every file that a half needs.

    Raises:
        DataUnavailable: the first file that is missing, unreadable or changed.
    """
    for relative, expected in PUBLISHED[name].files[half].items():
        _verify_file(name, root / relative, expected)


def _verify_file(name: str, path: Path, expected: str) -> None:
    shown = shorten(str(path), 400)
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            found = hashlib.file_digest(stream, _md5).hexdigest()
    except OSError as error:
        raise DataUnavailable(
            f"expected {DATASETS[name].title} in {shown}, got '{error.strerror}'; point "
            "--data-root or ROBUSTPRUNE_DATA at the folder that holds it, or pass --download"
        ) from error
    if found != expected:
        raise DataUnavailable(
            f"expected {shown} with MD5 {expected}, got {found} ({size} bytes: truncated or "
            "changed); restore the original file, or pass --download"
        )


def _md5() -> "hashlib._Hash":
    # Declared as no security measure, so that hardened systems allow the publishers' checksums.
    return hashlib.md5(usedforsecurity=False)


def download_published(name: str, half: Half, root: Path) -> None:
    """Downloads the files of a half into the data root, where only whole, checked files appear.

    Raises:
        DataUnavailable: no network, a broken download, or a data root that cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as folder:
            staging = Path(folder)
            with _short_timeout(), contextlib.redirect_stdout(io.StringIO()):
                PUBLISHED[name].download(staging, half)
            verify(name, half, staging)
            _move_files(name, staging, root)
    except (
        *(DataUnavailable, OSError, RuntimeError, ValueError),
        *(HTTPException, TarError, EOFError, zlib.error),
    ) as error:
        raise DataUnavailable(
            f"expected to download {DATASETS[name].title} into {shorten(str(root), 400)}, got "
            f"'{_reason(error)}'; check network and disk, or point --data-root or ROBUSTPRUNE_DATA "
            "at a copy"
        ) from error


def _move_files(name: str, staging: Path, root: Path) -> None:
    # Some downloads bring both halves, others only the one that was asked for.
    files = PUBLISHED[name].files
    for relative, expected in {**files["train"], **files["test"]}.items():
        if (staging / relative).is_file():
            _verify_file(name, staging / relative, expected)
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            (staging / relative).replace(root / relative)


@contextlib.contextmanager
def _short_timeout() -> Iterator[None]:
    # urllib, inside torchvision, takes no timeout from us: only the process-wide default does it.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: BaseException) -> str:
    return shorten(" ".join(str(error).split()) or type(error).__name__, 200)


def read_digits(half: Half) -> TensorSplit:
    """Returns a half of the digits, which scikit-learn carries in 17 grey levels and undivided.

    Raises:
        DataUnavailable: scikit-learn is missing or carries other data.
    """
    try:
        from sklearn.datasets import load_digits

        images, targets = load_digits(return_X_y=True)
    except (ImportError, OSError) as error:
        raise DataUnavailable(
            f"expected the digits inside scikit-learn, got '{_reason(error)}'; "
            "install scikit-learn again"
        ) from error
    pixels = torch.from_numpy(images.astype(np.uint8)).view(-1, *DATASETS["digits"].shape)
    labels = torch.from_numpy(targets.astype(np.int64))
    if len(pixels) != _DIGITS_EXAMPLES or len(labels) != _DIGITS_EXAMPLES:
        raise DataUnavailable(
            f"expected {_DIGITS_EXAMPLES} digits inside scikit-learn, got {len(pixels)}; "
            "install scikit-learn again"
        )
    test = held_out("digits:test", labels, _DIGITS_TEST_EXAMPLES)
    chosen = test if half == "test" else ~test
    return TensorSplit(pixels[chosen], labels[chosen], 16)
