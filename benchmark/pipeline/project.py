"""Where a project's files lie, and how progress is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from benchmark.workers import Workers

if TYPE_CHECKING:
    from benchmark.manifest import Manifest

MANIFEST = "checkpoints_manifest.json"


class Watch(Protocol):
    """Whoever is told of progress."""

    def __call__(self, done: int, total: int, text: str, left: float | None = None) -> None:
        """Is told of progress.

        Args:
            done: pieces that are done.
            total: pieces in all.
            text: `<checkpoint>: <what runs, or was done last>`, or a part of that.
            left: seconds, where somebody knows.
        """


def find_root(start: Path) -> Path:
    """Returns the nearest folder at or above `start` that holds a manifest, else `start`."""
    for folder in (start, *start.parents):
        if (folder / MANIFEST).is_file():
            return folder
    return start


def silent(done: int, total: int, text: str, left: float | None = None) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Project:
    """A folder with a manifest, and the machine's part of a run.

    Attributes:
        root: folder of `checkpoints_manifest.json`.
        data_root: where data sets lie, or None for embedded data only.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.
        workers: where jobs run.
        download: fetch missing data sets and weights where there is a network.
        mirror: folder that holds weights which the manifest only names, or None.
    """

    root: Path
    data_root: Path | None = None
    device: str = "auto"
    workers: Workers = Workers()
    download: bool = False
    mirror: Path | None = None

    @property
    def manifest_path(self) -> Path:
        """The manifest."""
        return self.root / MANIFEST

    @property
    def manifest_lock(self) -> Path:
        """Held by whoever changes the manifest, see `files.alone`."""
        return self.cache / "manifest.lock"

    @property
    def results(self) -> Path:
        """Records, one folder a protocol."""
        return self.root / "reports" / "results"

    @property
    def evidence(self) -> Path:
        """Adversarial inputs behind the records, one folder a protocol; few are in git."""
        return self.root / "reports" / "evidence"

    @property
    def challenges(self) -> Path:
        """Adversarial inputs that others found, one folder a protocol."""
        return self.root / "reports" / "challenges"

    @property
    def failures(self) -> Path:
        """Networks that could not be trained, and why."""
        return self.root / "reports" / "failures"

    @property
    def site(self) -> Path:
        """Rendered pages."""
        return self.root / "reports" / "site"

    @property
    def cache(self) -> Path:
        """Shards, pretrained networks and training states: all of it can be remade."""
        return self.root / ".cache"

    def manifest(self) -> "Manifest":
        """Returns the manifest as it is on disk now."""
        from benchmark.manifest import read_manifest  # with torch, which this class does without

        return read_manifest(self.manifest_path)
