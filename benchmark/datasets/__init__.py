"""Data sets: name → splits as tensors in [0, 1], with shape, classes and per-channel statistics.

Fixed example lists and digests make two machines agree on what was evaluated. Nothing here reads
the environment: the caller says where the data root is.
"""

from benchmark.datasets.descriptions import DATASETS, Augmentation, Description
from benchmark.datasets.examples import example_list, list_digest
from benchmark.datasets.folders import FolderSplit
from benchmark.datasets.loading import Part, describe, load
from benchmark.datasets.presence import Status, status
from benchmark.datasets.splits import Split, TensorSplit

__all__ = [
    "DATASETS",
    "Augmentation",
    "Description",
    "FolderSplit",
    "Part",
    "Split",
    "Status",
    "TensorSplit",
    "describe",
    "example_list",
    "list_digest",
    "load",
    "status",
]
