"""Names to descriptions and splits; the cut of training data into train and validation."""

from pathlib import Path
from typing import Literal

from benchmark.datasets.descriptions import DATASETS, Description, Half
from benchmark.datasets.examples import VALIDATION_SHARE, held_out
from benchmark.datasets.folders import PREFIX, describe_tree, how_to_get_tree, read_tree, tree_of
from benchmark.datasets.published import download_published, read_digits, read_published
from benchmark.datasets.splits import Split
from benchmark.errors import DataUnavailable, lookup, shorten

Part = Literal["train", "validation", "test"]

_PARTS: dict[str, Half] = {"train": "train", "validation": "train", "test": "test"}


def describe(name: str, root: Path | None) -> Description:
    """Returns what is known about a data set.

    Args:
        name: a key of `DATASETS`, or `folder:NAME` for the image tree NAME in the data root.
        root: the data root; only trees that are not in `DATASETS` need it.

    Raises:
        UnknownName: no such data set.
        DataUnavailable: the tree is missing, or its first image cannot be read.
    """
    if not name.startswith(PREFIX):
        return lookup("data set", name, DATASETS)
    tree_of(name)
    return describe_tree(name, _required(name, root))


def load(name: str, part: Part, root: Path | None, *, download: bool = False) -> Split:
    """Returns one part of a data set.

    Args:
        name: as for `describe`.
        part: `test` is the official test split (digits have none: a fixed third, equally many of
            each class). `validation` is a fixed tenth of the training data, equally many of each
            class; `train` is the rest.
        root: the data root; only `digits` do without.
        download: whether published data that are missing or damaged may be fetched into the root.

    Raises:
        UnknownName: no such data set or part.
        DataUnavailable: missing, truncated or damaged data, or a failed download.
    """
    description = describe(name, root)
    half = lookup("part", part, _PARTS)
    whole = _read(description, half, root, download)
    if part == "test":
        return whole
    validation = held_out(f"{name}:validation", whole.labels, round(VALIDATION_SHARE * len(whole)))
    chosen = validation if part == "validation" else ~validation
    return whole.subset(chosen.nonzero().flatten())


def _read(description: Description, half: Half, root: Path | None, download: bool) -> Split:
    name = description.name
    if name == "digits":
        return read_digits(half)
    required = _required(name, root)
    if tree_of(name) is not None:
        return _read_tree(description, half, required, download)
    try:
        return read_published(name, half, required)
    except DataUnavailable:
        if not download:
            raise
    download_published(name, half, required)
    return read_published(name, half, required)


def _read_tree(description: Description, half: Half, root: Path, download: bool) -> Split:
    try:
        return read_tree(description, half, root)
    except DataUnavailable as error:
        if not download:
            raise
        raise DataUnavailable(f"{error}; {how_to_get_tree(description.name)}") from error


def _required(name: str, root: Path | None) -> Path:
    if root is None:
        raise DataUnavailable(
            f"expected a data root that holds {shorten(name)}, got none; "
            "point --data-root or ROBUSTPRUNE_DATA at one"
        )
    return root
