"""What a pull request changes on a board, put to every check that there is.

It brings a folder: the project as it would be. Nothing of that folder is run, and nothing is
written to it or to the board: what changed is copied, file by file and bounded, into a private
project, where bundles are accepted, records verified, and a share of each measured again.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.errors import BenchmarkError, ManifestError, RecordError, StorageError, shorten
from benchmark.files import inside, read_bounded, write_atomically
from benchmark.leaderboard import DENSE
from benchmark.manifest import (
    LARGEST_MANIFEST,
    LARGEST_WEIGHTS,
    Checkpoint,
    Manifest,
    read_manifest,
    slug,
    write_manifest,
)
from benchmark.pipeline.auditing import CONTRADICTIONS, Audit, Draw, audit_all
from benchmark.pipeline.bringing import lacking
from benchmark.pipeline.evaluating import parent_of
from benchmark.pipeline.project import MANIFEST, Project, Watch, silent
from benchmark.pipeline.receiving import (
    EVIDENCE,
    RESULTS,
    Scrutiny,
    Validation,
    accept,
    validate,
)
from benchmark.pipeline.verifying import Verification, verify_all
from benchmark.protocols import PROTOCOLS

# Where a pull request puts bundles, as archives or unpacked.
BUNDLES = Path("submissions")

# A pull request with more is looked at by hand.
MOST_BUNDLES, MOST_RECORDS = 20, 2_000


@dataclass(frozen=True)
class Changes:
    """What a folder has that a board has not, and the other way round.

    Attributes:
        bundles: archives and folders of unpacked ones, new or altered, relative to the folder.
        added: checkpoints that are new.
        altered: checkpoints whose entry differs, as the folder has them.
        removed: ids that are gone.
        records: protocol and id of records that are new or altered.
        lost: protocol and id of records that are gone.
    """

    bundles: tuple[Path, ...]
    added: tuple[Checkpoint, ...]
    altered: tuple[Checkpoint, ...]
    removed: tuple[str, ...]
    records: tuple[tuple[str, str], ...]
    lost: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Review:
    """What came of it.

    Attributes:
        changes: what was looked at.
        submitted: each bundle, with what came of validating it, or why there is nothing in it.
        verified: every changed record, those of bundles included.
        audits: of the same records.
        problems: all that speaks against the change.
    """

    changes: Changes
    submitted: tuple[tuple[Path, Validation | BenchmarkError], ...]
    verified: tuple[Verification, ...]
    audits: tuple[Audit, ...]
    problems: tuple[str, ...]


def changes(board: Project, folder: Path) -> Changes:
    """Returns what changed between a board and a folder.

    Raises:
        ManifestError: the folder's manifest breaks the format, or a path leads out of the folder.
        StorageError: it cannot be read.
    """
    before, after = board.manifest(), read_manifest(inside(folder, MANIFEST))
    old = {entry.id: entry for entry in before.checkpoints}
    new = {entry.id: entry for entry in after.checkpoints}
    there, now = _records(board.root), _records(folder)
    touched = {name for name in new if name in old and new[name] != old[name]}
    stems = {slug(name) for name in touched}
    return Changes(
        bundles=tuple(_bundles(board.root, folder)),
        added=tuple(entry for name, entry in new.items() if name not in old),
        altered=tuple(new[name] for name in sorted(touched)),
        removed=tuple(sorted(old.keys() - new.keys())),
        records=tuple(
            key
            for key in sorted(now)
            if key not in there or key[1] in stems or not _same(there[key], now[key])
        ),
        lost=tuple(sorted(there.keys() - now.keys())),
    )


def _records(root: Path) -> dict[tuple[str, str], Path]:
    """Returns the record files of a folder by protocol and stem, those of known protocols."""
    found = {}
    for protocol in PROTOCOLS:
        for path in sorted((root / RESULTS / protocol).glob("*.json")):
            found[protocol, path.stem] = inside(root, str(path.relative_to(root)))
    return found


def _bundles(board: Path, folder: Path) -> Iterator[Path]:
    """Yields bundles that the board's own folder has not, or has with other bytes."""
    for path in sorted((folder / BUNDLES).glob("*")):
        relative = path.relative_to(folder)
        if path.suffix == ".zip" and not path.is_symlink() and path.is_file():
            if not _same(board / relative, inside(folder, str(relative))):
                yield relative
        elif path.is_dir() and (path / "submission.json").exists():
            if not _same(board / relative / "submission.json", path / "submission.json"):
                yield relative


def _same(first: Path, second: Path) -> bool:
    try:
        if first.stat().st_size != second.stat().st_size:
            return False
        return read_bounded(first, LARGEST_WEIGHTS) == read_bounded(second, LARGEST_WEIGHTS)
    except (OSError, BenchmarkError):
        return False


def review(
    board: Project, folder: Path, draw: Draw, share: float = 0.1, watch: Watch = silent
) -> Review:
    """Validates, verifies and audits what a folder changes on a board.

    Args:
        board: as it stands; it stays so.
        folder: the project as it would be, foreign.
        draw: which share is measured again.
        share: of the examples whose bounds are computed again.
        watch: told after each step.

    Raises:
        ManifestError: the folder's manifest breaks the format, or more changed than can be looked
            at.
        StorageError: the disk refuses.
    """
    found = changes(board, folder)
    _refuse_too_much(found)
    with tempfile.TemporaryDirectory(prefix="robustprune-", ignore_cleanup_errors=True) as name:
        private = replace(board, root=Path(name).resolve())
        return _reviewed(board, folder, private, found, (draw, share), watch)


def refuse(found: Review) -> None:
    """Raises the first problem of a review, if it has any.

    Raises:
        RecordError: with the number of all.
    """
    if found.problems:
        raise RecordError(
            f"expected a change that nothing speaks against, got {len(found.problems)} problems; "
            f"the first: {found.problems[0]}"
        )


def _refuse_too_much(found: Changes) -> None:
    if len(found.bundles) > MOST_BUNDLES or len(found.records) > MOST_RECORDS:
        raise ManifestError(
            f"expected at most {MOST_BUNDLES} bundles and {MOST_RECORDS} records at a time, got "
            f"{len(found.bundles)} and {len(found.records)}; hand in fewer"
        )


def _reviewed(
    board: Project,
    folder: Path,
    private: Project,
    found: Changes,
    how: tuple[Draw, float],
    watch: Watch,
) -> Review:
    draw, share = how
    problems = list(_plain_problems(found))
    problems += _copied(board, folder, private, found)
    scrutiny = Scrutiny(share, draw.seed)
    submitted = list[tuple[Path, Validation | BenchmarkError]]()
    for relative in found.bundles:
        answer = _submitted(board, private, folder / relative, scrutiny, watch)
        submitted.append((relative, answer))
        if isinstance(answer, BenchmarkError):
            problems.append(f"{shorten(str(relative))}: {answer}")
        else:
            problems += [f"{shorten(str(relative))}: {problem}" for problem in answer.problems]
    direct = [path for _, path in sorted(_records(private.root).items())]
    verified = verify_all(private, direct, share=share, seed=draw.seed, watch=watch)
    problems += [f"{one.checkpoint}: {line}" for one in verified for line in one.findings]
    sound = {(one.protocol, one.checkpoint) for one in verified if not one.findings}
    audits = _audited(private, sorted(sound), draw, watch)
    problems += _contradicted(audits)
    return Review(found, tuple(submitted), tuple(verified), tuple(audits), tuple(problems))


def _plain_problems(found: Changes) -> Iterator[str]:
    """Yields what needs no look into any file."""
    for name in found.removed:
        yield f"{name} is gone from the manifest"
    for entry in found.altered:
        yield f"{entry.id} has another entry than before: its id needs another seed or method"
    for protocol, stem in found.lost:
        yield f"the record {shorten(stem, 200)} under {protocol} is gone"
    recorded = {stem for _, stem in found.records}
    for entry in found.added:
        if slug(entry.id) not in recorded:
            yield f"{entry.id} is new and has no record"


def _submitted(
    board: Project, private: Project, bundle: Path, scrutiny: Scrutiny, watch: Watch
) -> Validation | BenchmarkError:
    """Returns what came of a bundle, and enters it in the private project if it holds."""
    try:
        answer = validate(board, bundle, scrutiny, watch)
        if not answer.problems:
            accept(private, bundle, scrutiny, watch)
    except BenchmarkError as error:
        return error
    return answer


def _copied(board: Project, folder: Path, private: Project, found: Changes) -> list[str]:
    """Copies what the checks of changed records need; returns why some of it cannot be."""
    problems = []
    entries = [*found.added, *found.altered]
    changed = {slug(entry.id) for entry in entries} | {stem for _, stem in found.records}
    merged = {entry.id: entry for entry in [*board.manifest().checkpoints, *entries]}
    manifest = Manifest(checkpoints=tuple(merged[name] for name in sorted(merged)))
    write_manifest(private.manifest_path, manifest)
    for entry in manifest.checkpoints:
        own = entry.id in {one.id for one in entries}
        if own or slug(entry.id) in changed or entry.method == DENSE:
            source = folder if own else board.root
            problems += _copy(source, private.root, entry.file, entry.bytes)
    for protocol, stem in found.records:
        for suffix in (".json", ".npz"):
            name = str(RESULTS / protocol / f"{stem}{suffix}")
            problems += _copy(folder, private.root, name, LARGEST_MANIFEST)
        evidence = folder / EVIDENCE / protocol / stem
        for path in sorted(evidence.glob("*.npz")):
            name = str(path.relative_to(folder))
            problems += _copy(folder, private.root, name, LARGEST_WEIGHTS)
    return problems


def _copy(source: Path, target: Path, name: str, limit: int) -> list[str]:
    try:
        write_atomically(target / name, read_bounded(inside(source, name), limit), durable=False)
    except FileNotFoundError:
        return [f"{shorten(name, 300)} is missing"]
    except (ManifestError, StorageError) as error:
        return [f"{shorten(name, 300)}: {str(error).replace(str(source), '')}"]
    return []


def _audited(
    private: Project, sound: Sequence[tuple[str, str]], draw: Draw, watch: Watch
) -> list[Audit]:
    """Returns an audit of every record that verified."""
    manifest, found = private.manifest(), list[Audit]()
    for protocol in dict.fromkeys(name for name, _ in sound):
        entries = [manifest.find(name) for board, name in sound if board == protocol]
        at_hand = [entry for entry in entries if not lacking(private, [entry])]
        parents = [parent_of(entry, manifest) for entry in at_hand]
        ready = [
            entry
            for entry, parent in zip(at_hand, parents, strict=True)
            if parent is None or not lacking(private, [parent])
        ]
        found += audit_all(private, ready, PROTOCOLS[protocol], draw, watch)
    return found


def _contradicted(audits: Sequence[Audit]) -> Iterator[str]:
    for one in audits:
        for finding in one.report.findings:
            if finding.wrong and finding.kind in CONTRADICTIONS:
                yield (
                    f"{one.report.checkpoint_id}: an audit contradicts {finding.wrong} of "
                    f"{finding.sampled} outcomes of kind {finding.kind}"
                )
