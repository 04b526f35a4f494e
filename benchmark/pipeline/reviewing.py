"""What a pull request changes on a board, put to every check that there is.

It brings a folder: the project as it would be. Nothing of that folder is run, and nothing is
written to it or to the board: what changed is copied, file by file and bounded, into a private
project, where bundles are accepted, records verified, and a share of each measured again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmark import records
from benchmark.errors import BenchmarkError, ManifestError, RecordError, StorageError, shorten
from benchmark.files import inside, read_bounded, write_atomically
from benchmark.manifest import (
    LARGEST_WEIGHTS,
    Checkpoint,
    Manifest,
    load_model,
    read_manifest,
    slug,
    weights_file,
    weights_path,
    write_manifest,
)
from benchmark.pipeline.auditing import CONTRADICTIONS, Audit, Draw, audit_all
from benchmark.pipeline.bringing import bring, lacking
from benchmark.pipeline.changing import Changes, Proposal, changes
from benchmark.pipeline.evaluating import parent_of
from benchmark.pipeline.project import MANIFEST, Project, Watch, silent
from benchmark.pipeline.receiving import (
    Scrutiny,
    Validation,
    accept,
    harmful,
    private_folder,
    strings,
    validate,
)
from benchmark.pipeline.standing import (
    Standing,
    board_digest,
    comparison,
    rows_under,
    standings,
)
from benchmark.pipeline.verifying import Verification, verify_all
from benchmark.protocols import PROTOCOLS

# A pull request with more is looked at by hand.
MOST_BUNDLES, MOST_RECORDS = 20, 2_000


@dataclass(frozen=True)
class Review:
    """What came of it.

    Attributes:
        changes: what was looked at.
        submitted: each bundle, with what came of validating it, or why there is nothing in it.
        verified: every changed record, those of bundles included.
        audits: of the same records.
        comparison: of the rows that are entered by hand with the board's, in Markdown.
        problems: all that speaks against the change.
    """

    changes: Changes
    submitted: tuple[tuple[str, Validation | BenchmarkError], ...]
    verified: tuple[Verification, ...]
    audits: tuple[Audit, ...]
    comparison: str
    problems: tuple[str, ...]


@dataclass
class _Case:
    """A proposal and the board that it is for, with the private project where it is looked at."""

    board: Project
    folder: Path
    private: Project
    found: Changes
    draw: Draw
    share: float
    watch: Watch
    problems: list[str] = field(default_factory=list)

    @property
    def scrutiny(self) -> Scrutiny:
        return Scrutiny(self.share, self.draw.seed)


def review(
    board: Project, proposal: Proposal, draw: Draw, share: float = 0.1, watch: Watch = silent
) -> Review:
    """Validates, verifies and audits what a proposal changes on a board.

    Args:
        board: as it stands, with its records; it stays so.
        proposal: the project as it would be.
        draw: which share is measured again.
        share: of the examples whose bounds are computed again.
        watch: told after each step.

    Raises:
        ManifestError: the proposal's manifest breaks the format, or more changed than can be looked
            at.
        RecordError: links or devices among its data.
        StorageError: the disk refuses.
    """
    found = changes(proposal.base or board.root, proposal.folder)
    _refuse_too_much(found)
    with private_folder() as name:
        private = replace(board, root=name)
        return _reviewed(_Case(board, proposal.folder, private, found, draw, share, watch))


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


def _reviewed(case: _Case) -> Review:
    by_hand = _taken(case)
    case.problems += _plain_problems(case.found, by_hand)
    submitted = [(place, _submitted(case, place)) for place in case.found.bundles]
    for place, answer in submitted:
        said = [answer] if isinstance(answer, BenchmarkError) else answer.problems
        case.problems += [f"{shorten(place)}: {problem}" for problem in said]
    private = case.private
    verified = verify_all(
        private,
        records.paths(private.results),
        share=case.share,
        seed=case.draw.seed,
        watch=case.watch,
    )
    case.problems += [f"{one.checkpoint}: {line}" for one in verified for line in one.findings]
    sound = sorted((one.protocol, one.checkpoint) for one in verified if not one.findings)
    audits = _audited(case, sound)
    case.problems += _contradicted(audits)
    text = _compared(case, [key for key in sound if key in by_hand])
    # What lies in the private folder is named as it is in the proposal.
    problems = tuple(line.replace(f"{private.root}/", "") for line in case.problems)
    return Review(case.found, tuple(submitted), tuple(verified), tuple(audits), text, problems)


def _plain_problems(found: Changes, by_hand: set[tuple[str, str]]) -> Iterator[str]:
    """Yields what speaks against a change by itself."""
    for name in found.removed:
        yield f"{name} is gone from the manifest"
    for name in found.altered:
        yield f"{name} has another entry than before: its id needs another seed or method"
    for name in found.lost:
        yield f"{shorten(name, 300)} is gone"
    for name in found.strays:
        yield f"{shorten(name, 300)} is of no checkpoint of the manifest, and of no bundle"
    recorded = {name for _, name in by_hand}
    for name in found.added:
        if name not in recorded:
            yield f"{name} is new and has no record"
    for protocol, name in found.records:
        if (protocol, name) not in by_hand:
            yield (
                f"{name} has evidence or challenges under {shorten(protocol)} and no record there"
            )


def _submitted(case: _Case, place: str) -> Validation | BenchmarkError:
    """Returns what came of a bundle, and enters it in the private project if it holds."""
    try:
        bundle = inside(case.folder, place)
        answer = validate(case.board, bundle, case.scrutiny, case.watch)
        if not answer.problems:
            accept(case.private, bundle, case.scrutiny, case.watch)
    except BenchmarkError as error:
        return error
    return answer


# --- What the checks need, in a private project ---------------------------------------------------


def _taken(case: _Case) -> set[tuple[str, str]]:
    """Takes what is changed by hand, and returns protocol and checkpoint of the records."""
    now = {entry.id: entry for entry in read_manifest(inside(case.folder, MANIFEST)).checkpoints}
    entries = [now[name] for name in case.found.checkpoints]
    merged = {entry.id: entry for entry in [*case.board.manifest().checkpoints, *entries]}
    write_manifest(
        case.private.manifest_path,
        Manifest(checkpoints=tuple(merged[name] for name in sorted(merged))),
    )
    taken = set()
    case.problems += _odd_entries(entries, merged)
    # A record speaks of its entry, so with another entry it is looked at as well.
    for entry in entries:
        # Any other place could be that of something which the checks below believe.
        if entry.file == weights_path(entry):
            _take_weights(case, entry)
        for protocol in PROTOCOLS.values():
            if protocol.dataset == entry.dataset and _take_record(case, protocol.id, entry.id):
                taken.add((protocol.id, entry.id))
    return taken


def _odd_entries(entries: Sequence[Checkpoint], merged: Mapping[str, Checkpoint]) -> Iterator[str]:
    """Yields what a bundle would be refused for, too: texts, places, and weights of others."""
    owners: dict[str, list[str]] = {}
    for entry in merged.values():
        owners.setdefault(entry.sha256, []).append(entry.id)
    for entry in entries:
        for place, value in strings(entry.model_dump(mode="json")):
            if reason := harmful(value):
                yield f"{place} of {entry.id} has {reason}"
        if entry.file != weights_path(entry):
            yield f"{entry.id} has its weights in {entry.file} instead of {weights_path(entry)}"
        if others := [name for name in owners[entry.sha256] if name != entry.id]:
            yield f"{entry.id} has the weights of {others[0]}"


def _take_weights(case: _Case, entry: Checkpoint) -> None:
    """Takes weights from the proposal, else from the board, else from where the entry says."""
    try:
        if not _copy(case, case.folder, entry.file):
            known = weights_file(entry, case.board.root)
            if known is not None:
                data = read_bounded(known, LARGEST_WEIGHTS)
                write_atomically(inside(case.private.root, entry.file), data, durable=False)
        bring(case.private, [entry], case.watch)
        load_model(entry, case.private.root)
    except BenchmarkError as error:
        case.problems.append(str(error))


def _take_record(case: _Case, protocol: str, checkpoint: str) -> bool:
    """Takes a record, its evidence and its challenges, each from the proposal or else the board.

    Returns:
        whether there is a record.
    """
    stem = slug(checkpoint)
    record = [f"reports/results/{protocol}/{stem}{suffix}" for suffix in (".json", ".npz")]
    there = _copy_all(case, record)
    for kind in ("evidence", "challenges"):
        folder = f"reports/{kind}/{protocol}/{stem}"
        sides = (case.folder, case.board.root)
        names = {p.name for side in sides for p in inside(side, folder).glob("*") if p.is_file()}
        _copy_all(case, [f"{folder}/{name}" for name in sorted(names)])
    return there


def _copy_all(case: _Case, names: Sequence[str]) -> bool:
    """Copies files that belong together from one side; returns whether it has any."""
    for side in (case.folder, case.board.root):
        try:
            if any([_copy(case, side, name) for name in names]):
                return True
        except (ManifestError, StorageError) as error:
            case.problems.append(str(error).replace(f"{side}/", ""))
            return True
    return False


def _copy(case: _Case, side: Path, name: str) -> bool:
    """Copies a file; returns whether it is there."""
    try:
        data = read_bounded(inside(side, name), LARGEST_WEIGHTS)
    except FileNotFoundError:
        return False
    write_atomically(inside(case.private.root, name), data, durable=False)
    return True


# --- Audits and comparison ------------------------------------------------------------------------


def _audited(case: _Case, sound: Sequence[tuple[str, str]]) -> list[Audit]:
    """Returns an audit of every record that verified and whose weights are at hand."""
    manifest, found = case.private.manifest(), list[Audit]()
    for protocol in dict.fromkeys(name for name, _ in sound):
        entries = [manifest.find(name) for board, name in sound if board == protocol]
        ready = []
        for entry in entries:
            parent = parent_of(entry, manifest)
            needed = [one for one in (entry, parent) if one is not None]
            for one in lacking(case.private, needed):
                _take_weights(case, one)
            if not lacking(case.private, needed):
                ready.append(entry)
        try:
            found += audit_all(case.private, ready, PROTOCOLS[protocol], case.draw, case.watch)
        except BenchmarkError as error:
            case.problems.append(f"{protocol}: {error}")
    return found


def _contradicted(audits: Sequence[Audit]) -> Iterator[str]:
    for one in audits:
        for finding in one.report.findings:
            if finding.wrong and finding.kind in CONTRADICTIONS:
                yield (
                    f"{one.report.checkpoint_id}: an audit contradicts {finding.wrong} of "
                    f"{finding.sampled} outcomes of kind {finding.kind}"
                )


def _compared(case: _Case, by_hand: Sequence[tuple[str, str]]) -> str:
    """Returns how rows entered by hand compare with the board's; empty where there are none."""
    boards: dict[str, str] = {}
    lines: list[Standing] = []
    board, private = case.board, case.private
    for protocol in dict.fromkeys(name for name, _ in by_hand):
        ids = {name for known, name in by_hand if known == protocol}
        try:
            others = rows_under(protocol, board.results, board.manifest(), board.challenges, ids)
        except BenchmarkError as error:
            case.problems.append(f"the board itself does not hold under {protocol}: {error}")
            continue
        all_of_them = rows_under(protocol, private.results, private.manifest(), private.challenges)
        ours = [row for row in all_of_them if row.checkpoint.id in ids]
        boards[protocol] = board_digest(others)
        lines += standings(others, ours)
    return comparison("rows entered by hand", boards, lines) if lines else ""
