"""What of a data set is on this machine, told without opening its files."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from benchmark.datasets.descriptions import DATASETS, Half
from benchmark.datasets.folders import PREFIX, Tree, class_names, how_to_get_tree, tree_of
from benchmark.datasets.published import PUBLISHED
from benchmark.errors import DataUnavailable, lookup


@dataclass(frozen=True)
class Status:
    """Whether a data set is at hand.

    Attributes:
        found: everything that loading needs is there; contents are checked only when it is loaded.
        where: where it lies or would lie; None where no folder is involved.
        detail: what was found, or what is missing.
        how_to_get: the next step where it is missing.
    """

    found: bool
    where: Path | None
    detail: str
    how_to_get: str


def status(name: str, root: Path | None) -> Status:
    """Returns whether a data set is at hand; cheap, opens and downloads nothing.

    Args:
        name: a key of `DATASETS`, or `folder:NAME`.
        root: the data root, if there is one.

    Raises:
        UnknownName: no such data set.
    """
    if not name.startswith(PREFIX):
        lookup("data set", name, DATASETS)
    if name == "digits":
        found = importlib.util.find_spec("sklearn") is not None
        detail = "embedded in scikit-learn" if found else "scikit-learn is missing"
        return Status(found, None, detail, "install scikit-learn")
    tree = tree_of(name)
    how_to_get = _how_to_get_published(name) if tree is None else how_to_get_tree(name)
    if root is None:
        detail = "no data root; give --data-root or ROBUSTPRUNE_DATA"
        return Status(False, None, detail, how_to_get)
    if tree is None:
        return _published_status(name, root, how_to_get)
    return _tree_status(name, tree, root, how_to_get)


def _published_status(name: str, root: Path, how_to_get: str) -> Status:
    files = sorted({path for half in PUBLISHED[name].files.values() for path in half})
    missing = [path for path in files if not (root / path).is_file()]
    detail = f"{len(files) - len(missing)} of {len(files)} files"
    if missing:
        detail += f"; missing: {', '.join(missing)}"
    return Status(not missing, root / Path(files[0]).parent, detail, how_to_get)


def _how_to_get_published(name: str) -> str:
    files = PUBLISHED[name].files["train"]
    return (
        "pass --download, or unpack the originals under the data root so that there is "
        f"{next(iter(files))} ({DATASETS[name].source})"
    )


def _tree_status(name: str, tree: Tree, root: Path, how_to_get: str) -> Status:
    halves: tuple[Half, Half] = ("train", "test")
    expected = DATASETS[name].classes if name in DATASETS else None
    found, details = True, []
    for half in halves:
        folder = tree.half(root, half)
        try:
            classes = len(class_names(folder))
        except DataUnavailable:
            classes = 0
        found = found and classes > 0 and expected in (None, classes)
        details.append(f"{folder.name}: {classes} class folders")
    return Status(found, root / tree.folder, ", ".join(details), how_to_get)
