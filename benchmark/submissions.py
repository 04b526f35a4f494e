"""Submissions: what a new method hands in, as one JSON file of a bundle that anyone can re-check.

Its author writes a draft in TOML: who made what, and which checkpoints of the project to hand in.

This module knows the format alone. That weights, records and evidence are what the submission says
is checked by the readers of each.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from benchmark.bundles import LONGEST_PATH, SAFE_PATH
from benchmark.digests import digest_of
from benchmark.errors import RecordError, shorten
from benchmark.files import read_bounded, read_toml, write_atomically
from benchmark.manifest import Address, Checkpoint, CheckpointId, Digest, Line, Strict, explain

LARGEST_SUBMISSION = 64 << 20
LARGEST_DRAFT = 1 << 20

# Names of a bundle's own two files; the others lie where they will in a project.
SUBMISSION = "submission.json"
COMPARISON = "comparison.md"

# Relative to the bundle.
RelativePath = Annotated[str, Field(max_length=LONGEST_PATH, pattern=SAFE_PATH)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]


class SubmittedMethod(Strict):
    """The method, as tables and pages will show it.

    Attributes:
        name: registered name, lower-case words joined by hyphens.
        title: name in tables.
        authors: of the method, at least one.
        paper: reference with year and, where there is one, arXiv number; or empty.
        code: https address of the method's public code, or empty.
        licence: of that code, or empty.
        summary: one sentence.
    """

    name: Name
    title: Line = Field(min_length=1)
    authors: tuple[Line, ...] = Field(strict=False, min_length=1, max_length=100)
    paper: Line
    code: Address
    licence: Line
    summary: Line = Field(min_length=1)


class BundledFile(Strict):
    """One file of the bundle.

    Attributes:
        file: path relative to the bundle.
        bytes: size of the file.
        sha256: of the file.
    """

    file: RelativePath
    bytes: int = Field(ge=1, lt=2**40)
    sha256: Digest


class SubmittedRecord(BundledFile):
    """The record of one checkpoint, as a file of the bundle; its outcomes lie beside it.

    Attributes:
        checkpoint_id: one of the submission's checkpoints.
        content_digest: of the record's repeatable content, as the record itself says.
    """

    checkpoint_id: CheckpointId
    content_digest: Digest


class Statement(Strict):
    """What the submitters vouch for, since no file can prove it.

    Attributes:
        extra_data: training data beyond the data set's own, or empty if no checkpoint saw any.
        test_data_unused: true: no test example took part in training, in choosing checkpoints, or
            in tuning; nothing else can be handed in.
    """

    extra_data: Line
    # Not Literal[True], which takes the number 1 as well.
    test_data_unused: bool = Field(json_schema_extra={"const": True})

    @field_validator("test_data_unused")
    @classmethod
    def _is_true(cls, value: bool) -> bool:
        if not value:
            raise ValueError("expected true, got false")
        return value


class Submission(Strict):
    """A method with its checkpoints, records and evidence.

    Attributes:
        schema_version: of this format.
        name: of the submission, for its branch and its folder; lower-case words joined by hyphens.
        contact: how to reach the submitters.
        method: who made what.
        checkpoints: entries for the manifest, by id; controls may be among them.
        records: by protocol, one record a checkpoint.
        evidence: every other file of the bundle, by path: outcomes, adversarial inputs, comparison.
        boards: by protocol, the digest of the board that the comparison was made with.
        statement: what the submitters vouch for.
        content_digest: of all of the above.
    """

    schema_version: Literal[1] = 1
    name: Name
    contact: Line = Field(min_length=1)
    method: SubmittedMethod
    checkpoints: tuple[Checkpoint, ...] = Field(strict=False, min_length=1, max_length=10_000)
    records: dict[Line, Annotated[tuple[SubmittedRecord, ...], Field(strict=False)]]
    evidence: tuple[BundledFile, ...] = Field(strict=False, max_length=100_000)
    boards: dict[Line, Digest] = {}
    statement: Statement
    content_digest: Digest

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        ids = [entry.id for entry in self.checkpoints]
        _once("checkpoint", ids)
        if not any(entry.method == self.method.name for entry in self.checkpoints):
            raise ValueError(f"expected a checkpoint of {self.method.name}, got none")
        for protocol, entries in self.records.items():
            named = [entry.checkpoint_id for entry in entries]
            _once(f"record under {shorten(protocol)}", named)
            if foreign := sorted(set(named) - set(ids)):
                raise ValueError(f"expected records of its checkpoints, got one of {foreign[0]}")
        weights = [entry.file for entry in self.checkpoints]
        _once("file", [*weights, *(bundled.file for bundled in self.files())])
        for entry in self.checkpoints:
            if entry.extra_data and not self.statement.extra_data:
                raise ValueError(f"expected the extra data of {entry.id} to be stated, got none")
        return self

    def files(self) -> list[BundledFile]:
        """Returns records and evidence: all files of the bundle but weights and this one."""
        records = [entry for entries in self.records.values() for entry in entries]
        return [*records, *self.evidence]


class DraftedMethod(Strict):
    """The method, as its author describes it; what is left out is taken from its checkpoints.

    Attributes:
        name: registered name, lower-case words joined by hyphens.
        title: name in tables.
        authors: of the method.
        paper: reference with year and, where there is one, arXiv number.
        code: https address of the method's public code.
        licence: of that code.
        summary: one sentence.
    """

    name: Name
    title: Line | None = None
    authors: tuple[Line, ...] | None = Field(default=None, strict=False)
    paper: Line | None = None
    code: Address | None = None
    licence: Line = ""
    summary: Line | None = None


class Draft(Strict):
    """What its author says of a submission, in a file `submission.toml`.

    Attributes:
        schema_version: of this format.
        name: of the submission, for its branch and its files; lower-case words joined by hyphens.
        contact: how to reach the submitters.
        checkpoints: patterns of ids in the project's manifest, such as `my-method/digits/*`.
        protocols: ids of the protocols under which they are handed in.
        tier: quick, standard or full: how many examples; records of more are taken as they are.
        method: who made what.
        statement: what the submitters vouch for.
    """

    schema_version: Literal[1] = 1
    name: Name
    contact: Line = Field(min_length=1)
    checkpoints: tuple[Line, ...] = Field(strict=False, min_length=1, max_length=1_000)
    protocols: tuple[Line, ...] = Field(strict=False, min_length=1, max_length=100)
    tier: Literal["quick", "standard", "full"] = "standard"
    method: DraftedMethod
    statement: Statement


def read_draft(path: Path) -> Draft:
    """Returns the draft of a submission in a TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: not TOML, or a field that breaks the format; the message names it.
        ManifestError: a file larger than any draft.
        StorageError: the disk refuses.
    """
    found = read_toml(path, LARGEST_DRAFT)
    try:
        return Draft.model_validate(found)
    except ValidationError as error:
        raise RecordError(
            f"expected a complete draft in {shorten(str(path), 400)}, got {explain(error)}; "
            "correct that field"
        ) from error


def _once(what: str, names: Iterable[str]) -> None:
    """Refuses a name that occurs twice.

    Raises:
        ValueError: names the first such one.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"expected each {what} once, got {shorten(name, 200)} twice")
        seen.add(name)


def content_digest(submission: Submission) -> str:
    """Returns the digest of all that a submission says but the digest itself."""
    return digest_of(submission.model_dump(mode="json", exclude={"content_digest"}))


def submission_of(**said: object) -> Submission:
    """Returns a submission, signed with the digest of what it says.

    Args:
        **said: the fields of `Submission` but for its digest.

    Raises:
        RecordError: a field breaks the format.
    """
    try:
        draft = Submission.model_validate({**said, "content_digest": "0" * 64})
    except ValidationError as error:
        raise RecordError(
            f"expected a valid submission, got {explain(error)}; correct that field"
        ) from error
    return draft.model_copy(update={"content_digest": content_digest(draft)})


def read(path: Path) -> Submission:
    """Returns the submission in a file, its digest checked.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: not a submission as it was written; the message names the place.
        ManifestError: a file larger than any submission.
        StorageError: the disk refuses.
    """
    shown = shorten(str(path), 400)
    try:
        submission = Submission.model_validate_json(read_bounded(path, LARGEST_SUBMISSION))
    except ValidationError as error:
        raise RecordError(
            f"expected a valid submission in {shown}, got {explain(error)}; correct that field"
        ) from error
    if submission.content_digest != content_digest(submission):
        raise RecordError(
            f"expected an unaltered submission in {shown}, got another content_digest; restore the "
            "file or make it again"
        )
    return submission


def write(path: Path, submission: Submission) -> None:
    """Writes a submission atomically, one field a line.

    Raises:
        StorageError: the disk refuses.
    """
    text = json.dumps(submission.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode())
