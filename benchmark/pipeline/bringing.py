"""Weights that are not shipped: from a cache, a folder at hand, or the network, always verified.

A manifest may name weights by address and digest alone. Whatever brings them puts them under their
digest into the project's cache, so that they are fetched once and then work without a network.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark import downloads
from benchmark.downloads import Expected, Request, Rules
from benchmark.errors import BenchmarkError, ManifestError, StorageError, shorten
from benchmark.files import inside, write_atomically
from benchmark.manifest import (
    LARGEST_WEIGHTS,
    Checkpoint,
    kept_weights,
    verified_weights,
    weights_file,
)
from benchmark.pipeline.project import Project, Watch, silent

_HTTPS = Rules()

Place = Literal["project", "cache", "mirror", "network"]


@dataclass(frozen=True)
class Brought:
    """Where the weights of a checkpoint were found.

    Attributes:
        checkpoint: its entry.
        place: `project` and `cache` were at hand before.
        path: the verified file.
    """

    checkpoint: Checkpoint
    place: Place
    path: Path


def bring(
    project: Project,
    checkpoints: Iterable[Checkpoint],
    watch: Watch = silent,
    rules: Rules = _HTTPS,
) -> list[Brought]:
    """Returns where the weights of each checkpoint are, once all of them are at hand.

    A project's own file is taken without a look: whoever loads it verifies it. What the cache has
    is looked at, since what was altered there can be brought again.

    Args:
        project: where to look; its `mirror` and `download` say where else.
        checkpoints: manifest entries.
        watch: told what is fetched, in bytes.
        rules: of the network.

    Raises:
        ManifestError: weights that are nowhere at hand, where the network may not be asked.
        DownloadFailed: no address gave them.
        StorageError: the disk refuses.
    """
    return [_bring_one(project, entry, watch, rules) for entry in checkpoints]


def lacking(project: Project, checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Returns the checkpoints whose weights are neither in the project nor, whole, in its cache."""
    return [entry for entry in checkpoints if _at_hand(project, entry) is None]


def _at_hand(project: Project, entry: Checkpoint) -> Path | None:
    """Returns the file that holds a checkpoint's weights; what was altered in the cache is none."""
    path = weights_file(entry, project.root)
    if path is None or path != kept_weights(entry, project.root):
        return path
    try:
        verified_weights(entry, path)
    except (FileNotFoundError, ManifestError):  # the first: another process dropped it just now
        return None
    return path


def _bring_one(project: Project, entry: Checkpoint, watch: Watch, rules: Rules) -> Brought:
    kept = kept_weights(entry, project.root)
    path = _at_hand(project, entry)
    if path is not None:
        return Brought(entry, "cache" if path == kept else "project", path)
    if _from_mirror(project, entry, kept):
        return Brought(entry, "mirror", kept)
    if not project.download or not entry.sources:
        found = "an altered copy in the cache" if kept.exists() else "no such file"
        raise ManifestError(
            f"expected weights of {entry.id} in {shorten(entry.file, 200)}, found {found}; "
            f"{_how_to_get(project, entry)}"
        )

    def told(done: int, whole: int) -> None:
        watch(done, whole or entry.bytes, f"{entry.id}: weights")

    expected = Expected(LARGEST_WEIGHTS, entry.bytes, entry.sha256)
    downloads.fetch(Request(entry.sources, kept, expected, rules), told)
    return Brought(entry, "network", kept)


def _how_to_get(project: Project, entry: Checkpoint) -> str:
    looked = f"{shorten(str(project.mirror), 200)} has it neither; " if project.mirror else ""
    if entry.sources:
        return f"{looked}pass --download to get it from {shorten(entry.sources[0], 200)}"
    return f"{looked}it has no address: restore it, or remake it with `robustprune compress`"


def _from_mirror(project: Project, entry: Checkpoint, kept: Path) -> bool:
    """Copies weights from the folder at hand into the cache; returns whether it has them.

    Raises:
        ManifestError: it has a file of that name with other content, and no right one.
    """
    wrong: BenchmarkError | None = None
    for path in _mirrored(project.mirror, entry):
        try:
            data = verified_weights(entry, path)
        except FileNotFoundError:
            continue
        except (ManifestError, StorageError) as error:
            wrong = error
            continue
        write_atomically(kept, data)
        return True
    if wrong is not None and not (project.download and entry.sources):
        raise wrong
    return False


def _mirrored(folder: Path | None, entry: Checkpoint) -> Iterator[Path]:
    """Yields where a mirror may have weights: by digest, by path, and by name alone."""
    if folder is not None:
        for name in dict.fromkeys((entry.sha256, entry.file, Path(entry.file).name)):
            yield inside(folder, name)


def with_parents(
    checkpoints: Sequence[Checkpoint], parents: Iterable[Checkpoint | None]
) -> list[Checkpoint]:
    """Returns checkpoints and their dense parents, each once, in order."""
    every = [*checkpoints, *(parent for parent in parents if parent is not None)]
    return list({entry.id: entry for entry in every}.values())
