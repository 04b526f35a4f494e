"""Receiving a submission: every claim checked on a private copy, then entered into a project.

Nothing of a bundle is run, unpickled or believed. Its files are copied once into a private folder
and are from then on what was hashed there; weights are loaded strictly and counted, records are
verified as any other, and each row meets the rows of the project by paired tests.
"""

import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import methods
from benchmark import outcomes as measured
from benchmark import records, submissions
from benchmark.bundles import Kept, check_files, snapshot
from benchmark.datasets import describe
from benchmark.digests import digest_of, sha256_of_bytes
from benchmark.errors import BenchmarkError, ManifestError, RecordError, StorageError, shorten
from benchmark.evidence import LARGEST_EVIDENCE
from benchmark.files import alone, inside, read_bounded, write_atomically
from benchmark.leaderboard import SANITY, is_control
from benchmark.manifest import (
    Checkpoint,
    Manifest,
    is_whole,
    load_model,
    weights_path,
    write_manifest,
)
from benchmark.outcomes import read_arrays
from benchmark.pipeline.evaluating import data_digest
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.pipeline.standing import (
    Standing,
    board_digest,
    comparison,
    entry_digest,
    rows_under,
    standings,
)
from benchmark.pipeline.verifying import Verification, verify_all
from benchmark.protocols import Protocol, protocol
from benchmark.records import ResultRecord
from benchmark.submissions import COMPARISON, SUBMISSION, Submission

# Words about weights may be this long whatever the weights' size; else no longer than the weights.
SMALL_TEXT = 256 << 10

# Attacks whose evidence one file may hold, more than any protocol runs.
_MOST_ATTACKS = 64

# Folders of a project, relative to it.
RESULTS, EVIDENCE = Path("reports/results"), Path("reports/evidence")
SUBMISSIONS = Path("reports/submissions")

# What a spreadsheet takes for a formula, and what a browser takes for markup.
_FORMULA = ("=", "+", "-", "@")
_MARKUP = re.compile(r"<\s*[A-Za-z/!?]|javascript:|data:text", re.IGNORECASE)
_ADDRESS = re.compile(r"(https://[!-~]+)?")


@dataclass(frozen=True)
class Scrutiny:
    """How much of what takes longer is computed again.

    Attributes:
        share: of the examples whose bounds are, in [0, 1].
        seed: of that choice.
    """

    share: float
    seed: int


@dataclass(frozen=True)
class Validation:
    """What came of the checks.

    Attributes:
        submission: what was handed in.
        digest: of all its files.
        scrutiny: how much was computed again.
        problems: why it is refused; empty if it is not.
        notes: what could not be told, or is worth knowing.
        verified: what came of verifying each record.
        standings: where its rows stand on this board; empty if it is refused.
        comparison: the same in Markdown.
    """

    submission: Submission
    digest: str
    scrutiny: Scrutiny
    problems: tuple[BenchmarkError, ...]
    notes: tuple[str, ...]
    verified: tuple[Verification, ...]
    standings: tuple[Standing, ...]
    comparison: str


@dataclass(frozen=True)
class Accepted:
    """What was entered.

    Attributes:
        validation: what came of the checks.
        entered: ids that are new in the manifest.
        records: records that are new, as protocol and id.
        kept: records that the project has already, and keeps.
    """

    validation: Validation
    entered: tuple[str, ...]
    records: tuple[tuple[str, str], ...]
    kept: tuple[tuple[str, str], ...]


@dataclass
class _Case:
    """A submission in a private folder, with the project that it is for."""

    board: Project
    manifest: Manifest
    own: Project
    files: dict[str, Kept]
    submission: Submission
    scrutiny: Scrutiny
    watch: Watch
    notes: list[str] = field(default_factory=list)
    verified: list[Verification] = field(default_factory=list)

    @property
    def ids(self) -> set[str]:
        return {entry.id for entry in self.submission.checkpoints}

    @property
    def entries(self) -> dict[str, Checkpoint]:
        return {entry.id: entry for entry in self.submission.checkpoints}


def validate(
    project: Project, source: Path, scrutiny: Scrutiny, watch: Watch = silent
) -> Validation:
    """Checks a submission against a project, which stays as it is.

    Args:
        project: the board, and where data are.
        source: a bundle, or the folder of an unpacked one.
        scrutiny: how much is computed again.
        watch: told after each file and each record.

    Raises:
        RecordError: no bundle, or no submission in it.
        StorageError: the disk refuses.
    """
    with _received(project, source, scrutiny, watch) as case:
        return _validated(case)


def accept(project: Project, source: Path, scrutiny: Scrutiny, watch: Watch = silent) -> Accepted:
    """Checks a submission and enters it: all of it, or nothing.

    Weights, evidence and outcomes come first; nothing reads them before the manifest, which
    follows in one step, names their checkpoints. Records come last, since each needs its entry. So
    a kill at any moment leaves a project that works, and running again completes it.

    Raises:
        RecordError, ManifestError and others: why it is refused.
        StorageError: the disk refuses.
    """
    with _received(project, source, scrutiny, watch) as case:
        found = _validated(case)
        refuse(found)
        # Compressing writes the manifest under the same lock.
        with alone(project.manifest_lock):
            # Another one may have come in meanwhile.
            case.manifest = project.manifest()
            for problem in (*_against_board(case), *_names(case)):
                raise problem  # the first
            return _enter(case, found)


def refuse(found: Validation) -> None:
    """Raises the first problem of a validation, if it has any.

    Raises:
        BenchmarkError: of the kind of the first problem, with the number of all.
    """
    if found.problems:
        first, others = found.problems[0], len(found.problems) - 1
        raise type(first)(f"{first}{f' (and {others} more)' if others else ''}") from first


@contextmanager
def _received(project: Project, source: Path, scrutiny: Scrutiny, watch: Watch) -> Iterator[_Case]:
    """Gives a private copy of a submission, which is gone afterwards."""
    with private_folder() as folder:
        files = copied(source, folder, watch)
        submission = _read(folder, files)
        yield _Case(
            board=project,
            manifest=project.manifest(),
            # What is handed in is all there is: nothing is fetched for it.
            own=replace(project, root=folder, mirror=None),
            files=files,
            submission=submission,
            scrutiny=scrutiny,
            watch=watch,
        )


@contextmanager
def private_folder() -> Iterator[Path]:
    """Gives an empty folder that nobody else can look into, and that is gone afterwards.

    Raises:
        StorageError: there is no room for one.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="robustprune-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(
            f"expected room for a private copy, got '{error.strerror}'; set TMPDIR"
        ) from error
    with folder as name:
        yield Path(name).resolve()


def copied(source: Path, folder: Path, watch: Watch = silent) -> dict[str, Kept]:
    """Copies a bundle's files to an empty private folder and returns what they are.

    Raises:
        RecordError: there is no bundle, or something else.
        StorageError: the disk refuses.
    """
    try:
        return snapshot(source, folder, lambda done, total: watch(done, total, "files"))
    except FileNotFoundError as error:
        raise RecordError(
            f"expected a bundle {shorten(str(source), 300)}, found none; check the path"
        ) from error


def _read(folder: Path, files: dict[str, Kept]) -> Submission:
    if SUBMISSION not in files:
        raise RecordError(
            f"expected {SUBMISSION} in the bundle, found none; make it again with `robustprune "
            "submit`"
        )
    try:
        # Files of a private copy lie where nobody can look for them.
        return submissions.read(folder / SUBMISSION)
    except BenchmarkError as error:
        said = str(error).replace(f"{folder}/", "")
        raise RecordError(said) from error


# --- The checks, in this order --------------------------------------------------------------------


def _validated(case: _Case) -> Validation:
    problems: list[BenchmarkError] = []
    for group in _GROUPS:
        for check in group:
            try:
                problems += check(case)
            except BenchmarkError as error:
                problems.append(error)
        # What is not what it says is not looked into.
        if problems:
            break
    found: tuple[Standing, ...] = ()
    text = ""
    if not problems:
        try:
            found, text = _compared(case)
        except BenchmarkError as error:
            problems.append(error)
    return Validation(
        submission=case.submission,
        digest=digest_of(sorted((name, kept.sha256) for name, kept in case.files.items())),
        scrutiny=case.scrutiny,
        problems=tuple(_without_folder(case, problem) for problem in problems),
        notes=tuple(case.notes),
        verified=tuple(case.verified),
        standings=found,
        comparison=text,
    )


def _without_folder(case: _Case, problem: BenchmarkError) -> BenchmarkError:
    """Returns a problem that names files as the bundle does."""
    return type(problem)(str(problem).replace(f"{case.own.root}/", ""))


def _listed(case: _Case) -> Iterator[BenchmarkError]:
    """The files are those that the submission lists, to the last byte."""
    weights = {e.file: Kept(e.bytes, e.sha256) for e in case.submission.checkpoints}
    others = {f.file: Kept(f.bytes, f.sha256) for f in case.submission.files()}
    expected = {**weights, **others, SUBMISSION: case.files[SUBMISSION]}
    for difference in check_files(case.files, expected):
        yield RecordError(
            f"expected the files that the submission lists, got others: {difference}; make the "
            "bundle again"
        )


def _placed(case: _Case) -> Iterator[BenchmarkError]:
    """Files lie where a project has them, so that none takes the place of anything else."""
    for entry in case.submission.checkpoints:
        if entry.file != weights_path(entry):
            yield _misplaced(f"the weights of {entry.id}", weights_path(entry), entry.file)
    for name, entries in case.submission.records.items():
        for record in entries:
            own = records.record_path(RESULTS, name, record.checkpoint_id).as_posix()
            if record.file != own:
                yield _misplaced(f"the record of {record.checkpoint_id}", own, record.file)


def _misplaced(what: str, expected: str, got: str) -> RecordError:
    return RecordError(f"expected {what} as {expected}, got {shorten(got, 200)}; move it there")


def _texts(case: _Case) -> Iterator[BenchmarkError]:
    """No text is meant for a browser, a spreadsheet or a terminal instead of a reader."""
    said = case.submission.model_dump(mode="json")
    for place, value in strings(said):
        if reason := harmful(value):
            yield ManifestError(
                f"expected text for readers in {shorten(place, 100)}, got {reason}: "
                f"'{shorten(value, 80)}'; write it differently"
            )
    for entry in case.submission.checkpoints:
        if not _ADDRESS.fullmatch(entry.code):
            yield ManifestError(
                f"expected an https address or nothing in code of {entry.id}, got "
                f"'{shorten(entry.code)}'; correct it"
            )


def strings(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yields every text of plain data with its place, keys included."""
    if isinstance(value, dict):
        for key, item in value.items():
            inner = f"{place}.{key}" if place else str(key)
            yield inner, str(key)
            yield from strings(item, inner)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from strings(item, f"{place}.{number}")
    elif isinstance(value, str):
        yield place, value


def harmful(value: str) -> str:
    """Returns what a text would do to a program that shows it, in words; empty if nothing."""
    if not value.isprintable():
        return "characters that control or reorder what is shown"
    if value.startswith(_FORMULA):
        return "what a spreadsheet takes for a formula"
    if _MARKUP.search(value):
        return "what a browser takes for markup"
    return ""


def _sizes(case: _Case) -> Iterator[BenchmarkError]:
    """No words are larger than the weights that they are about."""
    weights = {entry.id: entry.bytes for entry in case.submission.checkpoints}
    about = [(SUBMISSION, sum(weights.values())), (COMPARISON, sum(weights.values()))]
    for entries in case.submission.records.values():
        about += [(record.file, weights[record.checkpoint_id]) for record in entries]
    for name, limit in about:
        found = case.files[name].bytes if name in case.files else 0
        if found > max(limit, SMALL_TEXT):
            yield RecordError(
                f"expected at most {max(limit, SMALL_TEXT)} bytes in {name}, as many as its "
                f"weights have, got {found}; shorten it"
            )
    for entry in case.submission.checkpoints:
        with (case.own.root / entry.file).open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        # One that does not fit into the file is no header, as reading the weights will tell.
        if max(entry.bytes // 2, SMALL_TEXT) < header < entry.bytes:
            yield ManifestError(
                f"expected a header smaller than the weights of {entry.id}, got {header} of "
                f"{entry.bytes} bytes; write them anew"
            )


def _against_board(case: _Case) -> Iterator[BenchmarkError]:
    """Ids, weights and names are new, or what the board has under them already."""
    known = {entry.id: entry for entry in case.manifest.checkpoints}
    owners = {entry.sha256: entry.id for entry in case.manifest.checkpoints}
    places = {entry.file: entry.id for entry in case.manifest.checkpoints}
    for entry in case.submission.checkpoints:
        there = known.get(entry.id)
        if there is not None and there.sha256 != entry.sha256:
            yield ManifestError(
                f"expected a new id, got {entry.id}, which the board has with other weights "
                f"(sha256 {there.sha256[:12]}…, not {entry.sha256[:12]}…); choose another seed or "
                "setting"
            )
        elif there is not None and entry_digest(there) != entry_digest(entry):
            yield ManifestError(
                f"expected the entry of {entry.id} as the board has it, got another "
                f"{_odd_field(there, entry)}; take the board's"
            )
        elif there is None and (other := owners.get(entry.sha256)):
            yield ManifestError(
                f"expected weights of its own in {entry.id}, got those of {other}; hand in what "
                "the method made"
            )
        if places.get(entry.file, entry.id) != entry.id:
            yield ManifestError(
                f"expected a file of its own for {entry.id}, got {entry.file}, which holds "
                f"{places[entry.file]}; choose another id"
            )


def _odd_field(first: Checkpoint, second: Checkpoint) -> str:
    names = [name for name in type(first).model_fields if name not in ("file", "url", "mirrors")]
    return next(name for name in names if getattr(first, name) != getattr(second, name))


def _names(case: _Case) -> Iterator[BenchmarkError]:
    """The method is its authors' own, by name and by title; others come along as controls alone."""
    ours = case.submission.method
    if is_control(ours.name):
        yield ManifestError(
            f"expected a method's name, got {ours.name}, which is kept for controls; choose another"
        )
    derived = {f"{prefix}{ours.name}" for prefix in SANITY}
    for entry in case.submission.checkpoints:
        base = entry.method.partition(":")[0]
        if base == ours.name:
            yield from _own_entry(case.submission, entry)
        elif base not in derived and (not is_control(base) or base.startswith(SANITY)):
            yield ManifestError(
                f"expected checkpoints of {ours.name} and its controls, got {entry.id}; hand it in "
                "by itself"
            )
        else:
            yield from _control_entry(case.manifest, entry)
    for there in case.manifest.checkpoints:
        base = there.method.partition(":")[0]
        if base == ours.name and there.authors != ours.authors:
            yield ManifestError(
                f"expected a new method's name, got {ours.name}, which belongs to "
                f"{shorten(', '.join(there.authors), 120)}; choose another"
            )
            return
        if base != ours.name and _folded(there.display_name) == _folded(ours.title):
            yield ManifestError(
                f"expected a title of its own for {ours.name}, got '{shorten(ours.title)}', which "
                f"is that of {base}; choose another"
            )
            return
    yield from _submission_name(case)
    _note_owner(case)


def _note_owner(case: _Case) -> None:
    """Says where a name is known, since no file can tell who hands in more of a method."""
    name = case.submission.method.name
    others = [entry for entry in case.manifest.checkpoints if entry.id not in case.ids]
    if any(entry.method.partition(":")[0] == name for entry in others):
        case.notes.append(
            f"{name} is on this board already, with the same authors; whether it is they who hand "
            "this in, ask them"
        )
    elif len(others) == len(case.manifest.checkpoints) and name in methods.names():
        # Not loaded: what is handed in may have come with code.
        case.notes.append(
            f"a method {name} is installed here and not on this board; compare its authors"
        )


def _folded(title: str) -> str:
    """Returns a title as a hurried reader sees it, without settings."""
    plain = unicodedata.normalize("NFKC", title).casefold().partition(" (")[0]
    return "".join(character for character in plain if character.isalnum())


def _own_entry(submission: Submission, entry: Checkpoint) -> Iterator[BenchmarkError]:
    """An entry of the method says of it what the submission says."""
    ours = submission.method
    for name in ("authors", "paper", "code"):
        if getattr(entry, name) != getattr(ours, name):
            yield ManifestError(
                f"expected {name} of {entry.id} as in method.{name}, got "
                f"'{shorten(str(getattr(entry, name)))}'; use one of them in both"
            )
    if entry.display_name != ours.title and not entry.display_name.startswith(f"{ours.title} ("):
        yield ManifestError(
            f"expected a display_name that begins with '{shorten(ours.title)}' in {entry.id}, got "
            f"'{shorten(entry.display_name)}'; use method.title"
        )


def _control_entry(manifest: Manifest, entry: Checkpoint) -> Iterator[BenchmarkError]:
    """An entry of a control says of it what the board says."""
    for there in manifest.checkpoints:
        if there.method == entry.method:
            for name in ("display_name", "authors", "paper", "code"):
                if getattr(there, name) != getattr(entry, name):
                    yield ManifestError(
                        f"expected {name} of the control {entry.id} as on the board, got "
                        f"'{shorten(str(getattr(entry, name)))}'; take the board's"
                    )
            return


def _submission_name(case: _Case) -> Iterator[BenchmarkError]:
    path = case.board.root / SUBMISSIONS / f"{case.submission.name}.json"
    if path.exists() and submissions.read(path).method.name != case.submission.method.name:
        yield RecordError(
            f"expected a new name for the submission, got {case.submission.name}, which is of "
            "another method; choose another"
        )


def _weights(case: _Case) -> Iterator[BenchmarkError]:
    """Weights load strictly, and hold as many zeros as claimed."""
    for number, entry in enumerate(case.submission.checkpoints, 1):
        try:
            load_model(entry, case.own.root)
        except BenchmarkError as error:
            yield error
        case.watch(number, len(case.submission.checkpoints), f"{entry.id}: weights")


def _records(case: _Case) -> Iterator[BenchmarkError]:
    """Each checkpoint has a record; records, outcomes and evidence are all that is handed in."""
    expected, whole = {COMPARISON}, True
    for name, entries in case.submission.records.items():
        chosen = protocol(name)
        for listed in entries:
            expected.add(str(Path(listed.file).with_suffix(".npz")))
            try:
                record = _record(case, chosen, listed)
            except BenchmarkError as error:
                whole = False
                yield error
                continue
            folder = records.evidence_folder(EVIDENCE, chosen.id, record.checkpoint_id)
            expected |= {(folder / file.name).as_posix() for file in record.evidence}
            if not record.evidence:
                yield RecordError(
                    f"expected evidence in the record of {record.checkpoint_id} under {name}, got "
                    "none; evaluate again"
                )
    lone = case.ids - {r.checkpoint_id for each in case.submission.records.values() for r in each}
    for name in sorted(lone):
        yield RecordError(f"expected a record of {name}, got none; leave it out or evaluate it")
    found = {file.file for file in case.submission.evidence}
    # What a record that does not hold would name, nobody knows.
    for name in sorted(expected ^ found) if whole else ():
        kind = "missing" if name in expected else "left over"
        yield RecordError(
            f"expected the outcomes and evidence that the records name, got {name} {kind}; make "
            "the bundle again"
        )


def _record(case: _Case, chosen: Protocol, listed: submissions.SubmittedRecord) -> ResultRecord:
    """Returns a record that speaks of a submitted checkpoint and the protocol as it stands.

    Raises:
        RecordError: it does not.
        InvariantViolation: its outcomes contradict each other.
    """
    name, entry = listed.checkpoint_id, case.entries[listed.checkpoint_id]
    if entry.dataset != chosen.dataset:
        raise RecordError(
            f"expected a protocol for {entry.dataset}, got {chosen.id} for {name}; leave it out"
        )
    record, outcomes = records.read(case.own.root / listed.file)
    if reason := records.stale(record, entry, chosen):
        raise RecordError(f"{reason} in the record of {name} under {chosen.id}; evaluate again")
    if record.content_digest != listed.content_digest:
        raise RecordError(
            f"expected the record of {name} with content digest {listed.content_digest[:12]}…, got "
            f"{record.content_digest[:12]}…; make the bundle again"
        )
    for place, value in strings(record.model_dump(mode="json", exclude={"seals"})):
        # A sentence about a flag may begin as it likes: tables show it behind the flag's name.
        if (reason := harmful(value)) and "formula" not in reason:
            raise RecordError(
                f"expected text for readers in {shorten(place, 100)} of the record of {name}, got "
                f"{reason}; evaluate again"
            )
    measured.check_columns(outcomes, chosen)
    measured.check_invariants(outcomes, chosen)
    return record


def _nested(case: _Case) -> Iterator[BenchmarkError]:
    """Evidence unpacks to no more than the protocol's examples can have."""
    for name, entries in case.submission.records.items():
        chosen = protocol(name)
        pixels = prod(describe(chosen.dataset, None).shape)
        for listed in entries:
            folder = records.evidence_folder(EVIDENCE, chosen.id, listed.checkpoint_id)
            # An input takes four bytes a pixel and a few more, and so do the originals beside it.
            limit = (2 * 4 * pixels + 64) * chosen.shard_size * _MOST_ATTACKS
            for file in case.submission.evidence:
                if Path(file.file).parent == folder:
                    data = read_bounded(case.own.root / file.file, LARGEST_EVIDENCE)
                    try:
                        read_arrays(data, lambda _: False, min(limit, LARGEST_EVIDENCE))
                    except RecordError as error:
                        yield RecordError(f"{error} ({file.file})")


def _evidence(case: _Case) -> Iterator[BenchmarkError]:
    """Records hold against weights, data and evidence: all that `verify` checks."""
    merged = {entry.id: entry for entry in case.manifest.checkpoints} | case.entries
    write_manifest(
        case.own.manifest_path, Manifest(checkpoints=tuple(merged[n] for n in sorted(merged)))
    )
    paths: list[Path] = []
    for name, entries in case.submission.records.items():
        try:
            # Missing data have an error of their own.
            data_digest(case.own, protocol(name), "quick")
        except BenchmarkError as error:
            yield error
            continue
        paths += [case.own.root / listed.file for listed in entries]
    scrutiny = case.scrutiny
    found = verify_all(case.own, paths, share=scrutiny.share, seed=scrutiny.seed, watch=case.watch)
    case.verified += found
    for one in found:
        for finding in one.findings:
            yield RecordError(
                f"expected the record of {one.checkpoint} under {one.protocol} to hold, got: "
                f"{finding}"
            )


_Check = Callable[[_Case], Iterator[BenchmarkError]]

# What one group refuses, the next does not look at.
_GROUPS: tuple[tuple[_Check, ...], ...] = (
    (_listed, _placed),
    (_texts, _sizes, _names, _against_board),
    (_weights, _nested, _records),
    (_evidence,),
)


# --- Comparison -----------------------------------------------------------------------------------


def _compared(case: _Case) -> tuple[tuple[Standing, ...], str]:
    """Returns where the rows stand on this board, in values and in words.

    Raises:
        RecordError: the comparison that was handed in is another, for the same board.
    """
    boards: dict[str, str] = {}
    found: list[Standing] = []
    for name in sorted(case.submission.records):
        others = board_rows(case.board, case.manifest, name, case.ids)
        ours = rows_under(name, case.own.results, case.own.manifest(), case.board.challenges)
        boards[name] = board_digest(others)
        found += standings(others, ours)
    text = comparison(case.submission.name, boards, found)
    shipped = read_bounded(case.own.root / COMPARISON, submissions.LARGEST_SUBMISSION)
    if boards != case.submission.boards:
        case.notes.append(
            f"{COMPARISON} was made with another board than this one; the comparison with this "
            "one is the one to read"
        )
    elif shipped != text.encode():
        raise RecordError(
            f"expected {COMPARISON} as this board gives it, got another; make the bundle again"
        )
    return tuple(found), text


def board_rows(
    project: Project, manifest: Manifest, name: str, without: set[str]
) -> list[records.Row]:
    """Returns the rows of a project under a protocol, without those that are handed in."""
    return rows_under(name, project.results, manifest, project.challenges, without)


# --- Entering -------------------------------------------------------------------------------------


def _enter(case: _Case, found: Validation) -> Accepted:
    """Enters what was checked; see `accept` for the order."""
    known = {entry.id: entry for entry in case.manifest.checkpoints}
    new = [entry for entry in case.submission.checkpoints if entry.id not in known]
    wanted, kept = _wanted(case)
    documents = [name for name in wanted if name.endswith(".json")]
    for entry in case.submission.checkpoints:
        # A manifest may have been patched before the files came.
        if not is_whole(there := known.get(entry.id, entry), case.board.root):
            _install(case, entry.file, there.file)
    for name in wanted:
        if name not in documents:
            _install(case, name)
    _install(case, SUBMISSION, (SUBMISSIONS / f"{case.submission.name}.json").as_posix())
    manifest = case.manifest
    for entry in new:
        manifest = manifest.with_entry(entry)
    if new:
        write_manifest(case.board.manifest_path, manifest)
    for name in documents:
        _install(case, name)
    return Accepted(
        validation=found,
        entered=tuple(entry.id for entry in new),
        records=tuple(
            (name, listed.checkpoint_id)
            for name, entries in case.submission.records.items()
            for listed in entries
            if (name, listed.checkpoint_id) not in kept
        ),
        kept=tuple(kept),
    )


def _wanted(case: _Case) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the files of records that the project lacks, and the records that it keeps.

    What the board measured itself is not replaced by what somebody hands in.
    """
    wanted: list[str] = []
    kept: list[tuple[str, str]] = []
    for name, entries in case.submission.records.items():
        for listed in entries:
            if _stands(case, protocol(name), listed):
                kept.append((name, listed.checkpoint_id))
                continue
            folder = records.evidence_folder(EVIDENCE, name, listed.checkpoint_id)
            wanted += [
                file.file for file in case.submission.evidence if Path(file.file).parent == folder
            ]
            wanted += [str(Path(listed.file).with_suffix(".npz")), listed.file]
    return wanted, kept


def _stands(case: _Case, chosen: Protocol, listed: submissions.SubmittedRecord) -> bool:
    """Returns whether the project has a valid record of its own, other than this one."""
    path = records.record_path(case.board.results, chosen.id, listed.checkpoint_id)
    try:
        record, _ = records.read(path)
    except RecordError:
        return False
    stale = records.stale(record, case.entries[listed.checkpoint_id], chosen)
    return not stale and record.content_digest != listed.content_digest


def _bytes(case: _Case, name: str) -> bytes:
    """Returns a file of the private copy, once more compared with what was checked."""
    kept = case.files[name]
    data = read_bounded(case.own.root / name, kept.bytes)
    if sha256_of_bytes(data) != kept.sha256:
        raise StorageError(
            f"expected the private copy of {name} as it was checked, got other bytes; run again"
        )
    return data


def _install(case: _Case, name: str, place: str = "") -> None:
    """Writes a file of the private copy into the project, by default to the same place."""
    write_atomically(inside(case.board.root, place or name), _bytes(case, name))


def missing_controls(lines: Sequence[Standing]) -> list[str]:
    """Returns the controls that any row lacks, once each."""
    found = [name for line in lines for name in line.missing_controls.split(", ") if name]
    return list(dict.fromkeys(found))
