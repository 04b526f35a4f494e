"""What a proposal changes of a project: two folders compared, file by file, nothing of them run.

A proposal is a copy of a project as somebody else would have it, such as a pull request's files. It
is foreign: no link in it is followed, and what it names is looked up, never believed.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import RecordError, StorageError, shorten
from benchmark.manifest import Checkpoint, Manifest, read_manifest, slug
from benchmark.pipeline.project import MANIFEST
from benchmark.pipeline.standing import entry_digest

MOST_FILES = 200_000
_PIECE = 1 << 20

# Where others put what they hand in: a bundle, or the folder of an unpacked one.
HANDED_IN = "submissions"

# Folders whose files belong to a checkpoint under a protocol, as protocol/checkpoint.
_MEASURED = ("reports/results", "reports/evidence", "reports/challenges")
_DATA = ("checkpoints", HANDED_IN, "reports")

# What tools leave behind, and no project consists of.
_LEFT = re.compile(
    r"\.(git|venv|cache|data|mypy_cache|ruff_cache|benchmarks|hypothesis)|__pycache__"
)

# Pages are made from the rest.
_MADE = ("reports/site/", "reports/figures/", "reports/audits/")


@dataclass(frozen=True)
class Proposal:
    """A project as somebody would have it.

    Attributes:
        folder: foreign; nothing of it is run.
        base: folder of the project as the proposal found it; None: that of the board. They differ
            where a board has records that are never shipped, which no proposal lacks.
    """

    folder: Path
    base: Path | None = None


@dataclass(frozen=True)
class Changes:
    """What a proposal changes.

    Attributes:
        bundles: what is handed in, archives and folders of unpacked ones, relative to the proposal.
        added: ids of checkpoints that are new in the manifest.
        altered: ids of checkpoints whose entry says something else.
        moved: ids of checkpoints whose weights lie elsewhere, or are other files.
        removed: ids that are no longer in the manifest.
        records: protocol and id of checkpoints whose record, evidence or challenges are other.
        strays: files of data that belong to no checkpoint of the proposal.
        lost: files of data that the proposal lacks.
        others: all other files that differ: code, documents, workflows.
    """

    bundles: tuple[str, ...]
    added: tuple[str, ...]
    altered: tuple[str, ...]
    moved: tuple[str, ...]
    removed: tuple[str, ...]
    records: tuple[tuple[str, str], ...]
    strays: tuple[str, ...]
    lost: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """All checkpoints of the proposal that are concerned, in order of id."""
        entries = (*self.added, *self.altered, *self.moved)
        return tuple(sorted({*entries, *(name for _, name in self.records)}))


def changes(base: Path, folder: Path) -> Changes:
    """Returns what a proposal changes.

    Args:
        base: the project as the proposal found it.
        folder: the project as it would be.

    Raises:
        ManifestError: a manifest that breaks the format.
        RecordError: a link or a device among the proposal's data, or more files than any project.
        StorageError: the disk refuses.
    """
    before, after = _files(base), _files(folder)
    _check_plain(after)
    old, new = read_manifest(base / MANIFEST), read_manifest(folder / MANIFEST)
    differing = {n for n in after if not _same(base / n, folder / n, before.get(n), after[n])}
    gone = sorted(before.keys() - after.keys())
    data = sorted(name for name in differing if _is_data(name))
    lost = tuple(name for name in gone if _is_data(name))
    belonging, strays = _belonging(data, new)
    known = {entry.id: entry for entry in old.checkpoints}
    both = [(known[entry.id], entry) for entry in new.checkpoints if entry.id in known]
    altered = tuple(now.id for was, now in both if entry_digest(was) != entry_digest(now))
    return Changes(
        bundles=_bundles([*data, *lost], after),
        added=_only_in(new, old),
        altered=altered,
        moved=tuple(
            now.id
            for was, now in both
            if now.id not in altered and (was != now or _plain(now) in {*differing, *gone})
        ),
        removed=_only_in(old, new),
        records=tuple(sorted(belonging)),
        strays=tuple(strays),
        lost=tuple(name for name in lost if not name.startswith(f"{HANDED_IN}/")),
        others=tuple(sorted(n for n in {*differing, *gone} if not _is_data(n))),
    )


def _files(root: Path) -> dict[str, int]:
    """Returns the files below a folder and what kind each is; no link is followed.

    Raises:
        RecordError: more than any project has.
        StorageError: the disk refuses.
    """
    found: dict[str, int] = {}
    waiting = [""]
    try:
        while waiting:
            place = waiting.pop()
            with os.scandir(root / place) as entries:
                for entry in entries:
                    name = f"{place}{entry.name}"
                    if _LEFT.fullmatch(entry.name) or f"{name}/" in _MADE:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{name}/")
                    else:
                        found[name] = _kind(entry.stat(follow_symlinks=False).st_mode)
            if len(found) + len(waiting) > MOST_FILES:
                raise RecordError(
                    f"expected at most {MOST_FILES} files in {shorten(str(root), 200)}, got more; "
                    "compare fresh copies"
                )
    except OSError as error:
        raise _unreadable(root, error) from error
    return found


def _kind(mode: int) -> int:
    """Returns of a mode what belongs to a file, whoever may read it here."""
    return stat.S_IFMT(mode) | mode & stat.S_IXUSR


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"expected to read {shorten(str(path), 300)}, got '{error.strerror}'; check the path and "
        "its permissions"
    )


def _is_data(name: str) -> bool:
    return name == MANIFEST or name.partition("/")[0] in _DATA


def _check_plain(files: Mapping[str, int]) -> None:
    """Refuses data that lie somewhere else.

    Raises:
        RecordError: names a link or a device.
    """
    for name, mode in files.items():
        # A link in the place of a whole folder of data is a file of that name.
        if _is_data(name) and not stat.S_ISREG(mode):
            raise RecordError(
                f"expected plain files in the proposal, got a link or a device "
                f"'{shorten(name, 200)}'; put the file itself there"
            )


def _same(ours: Path, theirs: Path, before: int | None, after: int) -> bool:
    """Returns whether a file is the same in both, executable or not included."""
    if before != after:
        return False
    try:
        if stat.S_ISLNK(after):
            return os.readlink(ours) == os.readlink(theirs)
        # A pipe, opened, would wait for somebody to write.
        return stat.S_ISREG(after) and _same_bytes(ours, theirs)
    except OSError as error:
        raise _unreadable(theirs, error) from error


def _same_bytes(ours: Path, theirs: Path) -> bool:
    if ours.stat().st_size != theirs.stat().st_size:
        return False
    with ours.open("rb") as first, theirs.open("rb") as second:
        while piece := first.read(_PIECE):
            if piece != second.read(_PIECE):
                return False
    return True


def _only_in(manifest: Manifest, other: Manifest) -> tuple[str, ...]:
    known = {entry.id for entry in other.checkpoints}
    return tuple(entry.id for entry in manifest.checkpoints if entry.id not in known)


def _plain(entry: Checkpoint) -> str:
    """Returns the path of an entry's weights in the one spelling in which files are listed."""
    return os.path.normpath(entry.file)


def _bundles(data: Iterable[str], there: Iterable[str]) -> tuple[str, ...]:
    """Returns what was handed in anew or differently and is still there, once each."""
    found = {_bundle_of(name) for name in data}
    return tuple(sorted(found & {_bundle_of(name) for name in there} - {""}))


def _bundle_of(name: str) -> str:
    """Returns the archive or folder that a file belongs to; empty where there is none."""
    folder, _, rest = name.partition("/")
    if folder != HANDED_IN or ("/" not in rest and not rest.endswith(".zip")):
        return ""
    return f"{folder}/{rest.partition('/')[0]}"


def _belonging(data: Iterable[str], manifest: Manifest) -> tuple[set[tuple[str, str]], list[str]]:
    """Returns protocol and checkpoint of what was measured, and the files that belong nowhere."""
    by_stem = {slug(entry.id): entry.id for entry in manifest.checkpoints}
    weights = {_plain(entry) for entry in manifest.checkpoints}
    measured, strays = set(), []
    for name in data:
        kind = next((folder for folder in _MEASURED if name.startswith(f"{folder}/")), None)
        if kind is None:
            if _belongs_nowhere(name, weights):
                strays.append(name)
            continue
        protocol, _, rest = name.removeprefix(f"{kind}/").partition("/")
        stem = rest.partition("/")[0]
        if kind == "reports/results":
            stem = stem.removesuffix(".json").removesuffix(".npz")
        if rest and stem in by_stem:
            measured.add((protocol, by_stem[stem]))
        elif Path(name).name != ".gitkeep":
            strays.append(name)
    return measured, strays


def _belongs_nowhere(name: str, weights: set[str]) -> bool:
    """Returns whether a file outside the folders of records is no weights, bundle or note."""
    if Path(name).name in (".gitkeep", "README.md"):
        return False
    if name.startswith(f"{HANDED_IN}/"):
        return not _bundle_of(name)
    return name.startswith("checkpoints/") and name not in weights
