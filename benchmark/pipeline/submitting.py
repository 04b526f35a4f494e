"""Submitting: from checkpoints of a project to a bundle and the exact change of the manifest."""

import difflib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import ValidationError

import methods
from benchmark import records, submissions
from benchmark.bundles import pack
from benchmark.digests import sha256_of_file
from benchmark.errors import ManifestError, RecordError, UnknownName, shorten
from benchmark.files import write_atomically
from benchmark.leaderboard import is_control
from benchmark.manifest import Checkpoint, Manifest, encode, explain, weights_path
from benchmark.pipeline.bringing import bring
from benchmark.pipeline.evaluating import evaluate_all
from benchmark.pipeline.project import MANIFEST, Project, Watch, silent
from benchmark.pipeline.receiving import (
    EVIDENCE,
    RESULTS,
    Scrutiny,
    Validation,
    board_rows,
    harmful,
    validate,
)
from benchmark.pipeline.standing import (
    Standing,
    board_digest,
    comparison,
    rows_under,
    standings,
)
from benchmark.protocols import ASKED_FOR, PROTOCOLS, Protocol, protocol
from benchmark.submissions import COMPARISON, SUBMISSION, Draft

DRAFT, PATCH = "submission.toml", "manifest.patch"

# Lines around a change in a patch.
_CONTEXT = 3


@dataclass(frozen=True)
class Submitted:
    """What was made.

    Attributes:
        bundle: the archive.
        patch: the change of the manifest, for `git apply`.
        evaluated: records that were made on the way, as protocol and id.
        validation: what a board's keepers will find.
    """

    bundle: Path
    patch: Path
    evaluated: tuple[tuple[str, str], ...]
    validation: Validation


def submit(project: Project, folder: Path, scrutiny: Scrutiny, watch: Watch = silent) -> Submitted:
    """Makes a bundle of what a draft names, evaluating what is missing, and checks it.

    Args:
        project: where the checkpoints are; its other rows are the board.
        folder: holds the draft, and gets bundle and patch.
        scrutiny: how much is computed again.
        watch: told of progress.

    Raises:
        RecordError: no draft, or a field of it that breaks the format; the message names it.
        UnknownName: a protocol, or a pattern that fits no checkpoint.
        ManifestError: checkpoints that contradict the draft.
    """
    draft = _draft(folder)
    manifest = project.manifest()
    entries = chosen_entries(draft, manifest)
    wanted = _by_protocol(draft, entries)
    method = _described(draft, entries)
    _refuse_harmful(method, draft)
    made = [
        (chosen.id, name)
        for chosen, own in wanted
        for name, _ in evaluate_all(project, own, chosen, draft.tier, watch, with_evidence=True)
    ]
    bundle, patch = folder / f"{draft.name}.zip", folder / PATCH
    with tempfile.TemporaryDirectory(prefix="robustprune-") as private:
        staged = Path(private).resolve() / "bundle"
        handed_in = tuple(e.model_copy(update={"file": weights_path(e)}) for e in entries)
        _stage(project, staged, draft, method, handed_in, wanted)
        pack(staged, bundle)
    write_atomically(patch, manifest_patch(manifest, handed_in).encode())
    return Submitted(bundle, patch, tuple(made), validate(project, bundle, scrutiny, watch))


def _draft(folder: Path) -> Draft:
    path = folder / DRAFT
    try:
        return submissions.read_draft(path)
    except FileNotFoundError as error:
        raise RecordError(
            f"expected {shorten(str(path), 400)}, found no such file; write one with `robustprune "
            f"submit {shorten(str(folder), 200)} --init`"
        ) from error


def chosen_entries(draft: Draft, manifest: Manifest) -> tuple[Checkpoint, ...]:
    """Returns the checkpoints that a draft's patterns name, in order of id.

    Raises:
        UnknownName: a pattern that fits none.
        ManifestError: none of them is of the method.
    """
    found: dict[str, Checkpoint] = {}
    for number, pattern in enumerate(draft.checkpoints):
        fitting = [entry for entry in manifest.checkpoints if fnmatchcase(entry.id, pattern)]
        if not fitting:
            raise UnknownName(
                f"checkpoints.{number}: expected a pattern of ids in the manifest, got "
                f"'{shorten(pattern)}', which fits none; `robustprune list checkpoints` shows them"
            )
        found |= {entry.id: entry for entry in fitting}
    if not any(_base(entry) == draft.method.name for entry in found.values()):
        others = shorten(", ".join(sorted({_base(entry) for entry in found.values()})), 200)
        raise ManifestError(
            f"method.name: expected a checkpoint of {draft.method.name} among those that "
            f"`checkpoints` names, got {len(found)} of {others}; correct one of them"
        )
    return tuple(found[name] for name in sorted(found))


def _base(entry: Checkpoint) -> str:
    """Returns a method's name without its settings."""
    return entry.method.partition(":")[0]


def _by_protocol(
    draft: Draft, entries: Sequence[Checkpoint]
) -> list[tuple[Protocol, tuple[Checkpoint, ...]]]:
    """Returns each protocol with the checkpoints of its data set.

    Raises:
        UnknownName: no such protocol.
        ManifestError: a protocol without checkpoints, or a checkpoint without a protocol.
    """
    found = []
    for number, name in enumerate(draft.protocols):
        chosen = protocol(name)
        own = tuple(entry for entry in entries if entry.dataset == chosen.dataset)
        if not own:
            raise ManifestError(
                f"protocols.{number}: expected checkpoints for {chosen.dataset} ({chosen.id}), got "
                "none; leave the protocol out or add some"
            )
        found.append((chosen, own))
    covered = {chosen.dataset for chosen, _ in found}
    for entry in entries:
        if entry.dataset not in covered:
            raise ManifestError(
                f"protocols: expected one for {entry.dataset}, got none for {entry.id}; name one "
                "or leave the checkpoint out"
            )
    return found


def _described(draft: Draft, entries: Sequence[Checkpoint]) -> submissions.SubmittedMethod:
    """Returns who made what: the draft's words, else those of the method's checkpoints.

    Raises:
        RecordError: a field that neither has; the message names it.
        ManifestError: words that contradict the checkpoints.
    """
    said, first = draft.method, next(e for e in entries if _base(e) == draft.method.name)
    known = {
        "title": first.display_name.partition(" (")[0],
        "authors": first.authors,
        "paper": first.paper,
        "code": first.code,
    }
    for name, value in known.items():
        if getattr(said, name) not in (None, value):
            raise ManifestError(
                f"method.{name}: expected '{shorten(str(value), 120)}' as in {first.id}, got "
                f"'{shorten(str(getattr(said, name)), 120)}'; leave it out, or correct the "
                "method's file and compress again"
            )
    summary = said.summary or _registered_summary(said.name)
    if not summary:
        raise RecordError("method.summary: expected one sentence on the method, got none; write it")
    try:
        return submissions.SubmittedMethod.model_validate(
            {"name": said.name, "licence": said.licence, "summary": summary, **known}
        )
    except ValidationError as error:
        raise ManifestError(
            f"method.{explain(error)}, as in {first.id}; give the method's Info a title, authors "
            "and an https address of its code or none, and compress again"
        ) from error


def _registered_summary(name: str) -> str:
    """Returns what a method that is installed here says of itself; empty where none is."""
    return methods.method(name).info.summary if name in methods.names() else ""


def _refuse_harmful(method: submissions.SubmittedMethod, draft: Draft) -> None:
    """Refuses at once what every board will refuse.

    Raises:
        RecordError: text that is not for readers; the message names the field.
    """
    said = {f"method.{name}": getattr(method, name) for name in type(method).model_fields}
    said |= {"contact": draft.contact, "statement.extra_data": draft.statement.extra_data}
    for place, value in said.items():
        for text in value if isinstance(value, tuple) else (value,):
            if reason := harmful(text):
                raise RecordError(
                    f"{place}: expected text for readers, got {reason}: '{shorten(text)}'; write "
                    "it differently"
                )


def _stage(
    project: Project,
    staged: Path,
    draft: Draft,
    method: submissions.SubmittedMethod,
    entries: Sequence[Checkpoint],
    wanted: Sequence[tuple[Protocol, Sequence[Checkpoint]]],
) -> None:
    """Copies all files into a folder, as they lie in a project, with what says what they are."""
    manifest = project.manifest()
    for entry in entries:
        (there,) = bring(project, [manifest.find(entry.id)])
        _copy(there.path, staged / entry.file)
    listed = {chosen.id: _staged_records(project, staged, chosen, own) for chosen, own in wanted}
    boards, text = _comparison(project, staged, draft, entries)
    write_atomically(staged / COMPARISON, text.encode(), durable=False)
    documents = {file["file"] for files in listed.values() for file in files}
    documents |= {entry.file for entry in entries}
    rest = [path for path in sorted(staged.rglob("*")) if path.is_file()]
    submission = submissions.submission_of(
        name=draft.name,
        contact=draft.contact,
        method=method.model_dump(),
        checkpoints=[entry.model_dump() for entry in entries],
        records=listed,
        evidence=[
            _described_file(staged, path)
            for path in rest
            if path.relative_to(staged).as_posix() not in documents
        ],
        boards=boards,
        statement=draft.statement.model_dump(),
    )
    submissions.write(staged / SUBMISSION, submission)


def _staged_records(
    project: Project, staged: Path, chosen: Protocol, entries: Sequence[Checkpoint]
) -> list[dict[str, object]]:
    """Copies records with outcomes and evidence, and returns how a submission lists the records."""
    found = []
    for entry in entries:
        record, _ = records.read(records.record_path(project.results, chosen.id, entry.id))
        document = records.record_path(RESULTS, chosen.id, entry.id)
        folder = records.evidence_folder(EVIDENCE, chosen.id, entry.id)
        names = [
            document,
            document.with_suffix(".npz"),
            *(folder / f.name for f in record.evidence),
        ]
        for name in names:
            _copy(project.root / name, staged / name)
        listed = _described_file(staged, staged / document)
        found.append({**listed, "checkpoint_id": entry.id, "content_digest": record.content_digest})
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise RecordError(
            f"expected {shorten(str(source), 400)}, found no such file; evaluate or compress again"
        ) from error


def _described_file(staged: Path, path: Path) -> dict[str, object]:
    return {
        "file": path.relative_to(staged).as_posix(),
        "bytes": path.stat().st_size,
        "sha256": sha256_of_file(path),
    }


def _comparison(
    project: Project, staged: Path, draft: Draft, entries: Sequence[Checkpoint]
) -> tuple[dict[str, str], str]:
    """Returns the digests of the boards, and the comparison with them in words."""
    ids, manifest = {entry.id for entry in entries}, project.manifest()
    boards: dict[str, str] = {}
    found: list[Standing] = []
    for name in sorted(draft.protocols):
        others = board_rows(project, manifest, name, ids)
        own = Manifest(checkpoints=tuple(entries))
        ours = rows_under(name, staged / RESULTS, own, project.challenges)
        boards[name] = board_digest(others)
        found += standings(others, ours)
    return boards, comparison(draft.name, boards, found)


# --- The change of the manifest -------------------------------------------------------------------


def manifest_patch(manifest: Manifest, entries: Sequence[Checkpoint]) -> str:
    """Returns the change that adds entries to a manifest, as a unified diff for `git apply`.

    Args:
        manifest: may have the entries already; the change is that of a manifest without them.
        entries: to add.
    """
    added = {entry.id: entry for entry in entries}
    rest = [entry for entry in manifest.checkpoints if entry.id not in added]
    whole = sorted([*rest, *added.values()], key=lambda entry: entry.id)
    old, new = (_lines(one) for one in (rest, whole))
    head = f"diff --git a/{MANIFEST} b/{MANIFEST}\n"
    if not rest or rest != [entry for entry in whole if entry.id not in added]:
        # The first entries of all, or a manifest that was out of order.
        diff = difflib.unified_diff(old, new, f"a/{MANIFEST}", f"b/{MANIFEST}")
        return "".join([head, *diff])
    changes = _inserted(_blocks(old), _blocks(new), [entry.id in added for entry in whole])
    return "".join([head, f"--- a/{MANIFEST}\n", f"+++ b/{MANIFEST}\n", *_hunks(changes)])


def _lines(entries: Sequence[Checkpoint]) -> list[str]:
    return encode(Manifest(checkpoints=tuple(entries))).decode().splitlines(keepends=True)


# A line of a diff without its mark, and that mark.
_Change = tuple[str, str]


def _blocks(lines: Sequence[str]) -> list[list[str]]:
    """Returns a manifest's lines in blocks: what stands before the entries, each entry, the rest.

    Entries are compared with their own kind: the time of a diff of all lines grows with the square
    of their number.
    """
    starts = [number for number, line in enumerate(lines) if line == "  {\n"]
    ends = [*starts, len(lines) - 2]
    return [
        list(lines[start:end]) for start, end in zip([0, *ends], [*ends, len(lines)], strict=True)
    ]


def _inserted(
    old: Sequence[list[str]], new: Sequence[list[str]], is_new: Sequence[bool]
) -> list[_Change]:
    """Returns the lines of a manifest with the entries that are new marked.

    Args:
        old: blocks of the manifest without them.
        new: blocks of the manifest with them.
        is_new: of each entry.
    """
    known = iter(old)
    changes: list[_Change] = []
    for block, added in zip(new, [False, *is_new, False], strict=True):
        if added:
            changes += [("+", line) for line in block]
            continue
        # The last entry has no comma, so that may come or go.
        for before, after in zip(next(known), block, strict=True):
            same = before == after
            changes += [(" ", after)] if same else [("-", before), ("+", after)]
    return changes


def _hunks(changes: Sequence[_Change]) -> Iterator[str]:
    """Yields the parts of a unified diff around what changed, with three lines of context."""
    touched = [number for number, (mark, _) in enumerate(changes) if mark != " "]
    spans: list[list[int]] = []
    for number in touched:
        if spans and number - spans[-1][1] <= 2 * _CONTEXT:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    before = after = done = 0
    for first, last in spans:
        start, stop = max(0, first - _CONTEXT), last + 1 + _CONTEXT
        before += sum(mark != "+" for mark, _ in changes[done:start])
        after += sum(mark != "-" for mark, _ in changes[done:start])
        part = changes[start:stop]
        sizes = (sum(mark != "+" for mark, _ in part), sum(mark != "-" for mark, _ in part))
        yield f"@@ -{before + 1},{sizes[0]} +{after + 1},{sizes[1]} @@\n"
        yield from (mark + line for mark, line in part)
        before, after, done = before + sizes[0], after + sizes[1], start + len(part)


# --- Drafts ---------------------------------------------------------------------------------------


def write_draft(project: Project, folder: Path, method: str = "") -> Path:
    """Writes a draft with comments, filled with what the project knows, and returns its path.

    Args:
        project: whose manifest and methods are looked at.
        folder: gets the draft; made if it is not there.
        method: its name; by default that of the folder, or the only one of the manifest.

    Raises:
        RecordError: there is a draft already.
        UnknownName: no such method, or several that could be meant.
    """
    path = folder / DRAFT
    if path.exists():
        raise RecordError(
            f"expected no {shorten(str(path), 400)}, found one; complete it, or remove it first"
        )
    manifest = project.manifest()
    known: dict[str, list[Checkpoint]] = {}
    for entry in manifest.checkpoints:
        if not is_control(entry.method):
            known.setdefault(_base(entry), []).append(entry)
    name = method or _meant(folder.resolve().name, known)
    if name not in known:
        raise UnknownName(
            f"expected a method with checkpoints in the manifest, got '{shorten(name)}'; make them "
            f"with `robustprune compress {shorten(name)}`, or choose with --method: "
            f"{shorten(', '.join(sorted(known)) or 'none', 300)}"
        )
    write_atomically(path, _drafted(name, known[name]).encode())
    return path


def _meant(folder: str, known: Mapping[str, Sequence[Checkpoint]]) -> str:
    return next(iter(known)) if len(known) == 1 and folder not in known else folder


_DRAFT = """\
# A submission to the robustprune leaderboard; docs/submissions.md explains each field.
# Complete what is empty, then run: robustprune submit THIS_FOLDER

# Of the submission, for its branch and its files: lower-case words joined by hyphens.
name = {name}
# How to reach you.
contact = ""
# Which checkpoints of this project to hand in: patterns of ids (`robustprune list checkpoints`).
# Controls of your recipe that the board lacks may come along, such as "random/digits/*".
checkpoints = {patterns}
# Under which protocols, and on how many examples: quick, standard or full.
protocols = {protocols}
tier = "standard"

[method]
name = {name}
# Taken from your checkpoints; to change them, correct the method's file and compress again.
# title = {title}
# authors = {authors}
# paper = {paper}
# code = {code}
# Licence of that code, or empty.
licence = ""
# One sentence on what the method does.
summary = {summary}

[statement]
# Training data beyond the data set's own, or empty if no checkpoint saw any.
extra_data = {extra_data}
# Set to true if no test example took part in training, in choosing checkpoints or in tuning.
test_data_unused = false
"""


def _drafted(name: str, entries: Sequence[Checkpoint]) -> str:
    first = entries[0]
    datasets = sorted({entry.dataset for entry in entries})
    fitting = [p.id for p in PROTOCOLS.values() if p.dataset in datasets and p.id not in ASKED_FOR]
    values = {
        "name": name,
        "patterns": [f"{name}{end}/{d}/*" for d in datasets for end in _spellings(entries, d)],
        "protocols": fitting,
        "title": first.display_name.partition(" (")[0],
        "authors": list(first.authors),
        "paper": first.paper,
        "code": first.code,
        "summary": _registered_summary(name),
        "extra_data": next((e.extra_data for e in entries if e.extra_data), ""),
    }
    # JSON's strings and lists of strings are TOML's, too.
    return _DRAFT.format(**{k: json.dumps(v, ensure_ascii=False) for k, v in values.items()})


def _spellings(entries: Sequence[Checkpoint], dataset: str) -> list[str]:
    """Returns what stands behind a method's name in ids of a data set: nothing, or settings."""
    own = [entry.method for entry in entries if entry.dataset == dataset]
    return sorted({":*" if ":" in method else "" for method in own})
