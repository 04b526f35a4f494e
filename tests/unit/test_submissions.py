"""The submission format: what agrees with itself is read as it was written; all else is refused."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from small_project import entry

from benchmark.errors import BenchmarkError, ManifestError, RecordError
from benchmark.submissions import (
    LARGEST_DRAFT,
    LARGEST_SUBMISSION,
    Submission,
    content_digest,
    read,
    read_draft,
    submission_of,
    write,
)

PRUNED = entry(method="mine", extra_data="")
CONTROL = entry(method="random", file="checkpoints/random.safetensors")


def record_entry(checkpoint_id: str, number: int) -> dict[str, Any]:
    return {
        "file": f"records/digits-linf/{number}.json",
        "bytes": 2_000 + number,
        "sha256": f"{number:064d}",
        "checkpoint_id": checkpoint_id,
        "content_digest": f"{number + 5:064d}",
    }


SAID: dict[str, Any] = {
    "name": "my-entry",
    "contact": "ada@example.org",
    "method": {
        "name": "mine",
        "title": "Mine",
        "authors": ["Ada Müller"],
        "paper": "",
        "code": "https://example.org/mine",
        "licence": "MIT",
        "summary": "Removes what is mine.",
    },
    "checkpoints": [entry.model_dump() for entry in (PRUNED, CONTROL)],
    "records": {"digits-linf": [record_entry(PRUNED.id, 1), record_entry(CONTROL.id, 2)]},
    "evidence": [{"file": "evidence/1.npz", "bytes": 5, "sha256": "3" * 64}],
    "statement": {"extra_data": "", "test_data_unused": True},
}


DRAFT: dict[str, Any] = {
    "name": "my-entry",
    "contact": "ada@example.org",
    "checkpoints": ["mine/digits/*"],
    "protocols": ["digits-linf"],
    "method": {"name": "mine"},
    "statement": {"extra_data": "", "test_data_unused": True},
}


def submission(**changes: Any) -> Submission:
    return submission_of(**{**deepcopy(SAID), **changes})


def changed(place: str, value: Any) -> dict[str, Any]:
    """Returns the fields with one of them, given by a dotted path, set to another value."""
    fields = deepcopy(SAID)
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    inner: Any = fields
    for part in path:
        inner = inner[part]
    inner[last] = value
    return fields


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "submission.json"
    original = submission()
    write(path, original)
    assert read(path) == original
    assert original.content_digest == content_digest(original)
    assert [bundled.file for bundled in original.files()] == [
        *("records/digits-linf/1.json", "records/digits-linf/2.json", "evidence/1.npz")
    ]
    first = path.read_bytes()
    write(path, read(path))
    assert path.read_bytes() == first


BAD: list[tuple[str, Any]] = [
    *(("name", value) for value in ("", "My entry", "../x", "x" * 65, 3)),
    ("contact", ""),
    ("method.name", "My Method"),
    ("method.title", ""),
    ("method.authors", []),
    ("method.authors", ["a\nb"]),
    ("method.code", "javascript:alert(1)"),
    ("method.summary", "\u202e"),
    ("method.more", 1),
    ("checkpoints", []),
    ("checkpoints.0.sparsity", "0.9"),
    ("checkpoints.0.zeros", 1.0),
    ("records.digits-linf.0.file", "/etc/passwd"),
    ("records.digits-linf.0.file", "records/../../x"),
    ("records.digits-linf.0.file", "records//x"),
    ("records.digits-linf.0.file", ".hidden"),
    ("records.digits-linf.0.file", "a/.git/config"),
    ("records.digits-linf.0.file", "a\\b"),
    ("records.digits-linf.0.file", "a" * 401),
    ("records.digits-linf.0.sha256", "x"),
    ("records.digits-linf.0.content_digest", ""),
    ("records.digits-linf.0.bytes", 0),
    ("records.digits-linf.0.checkpoint_id", "x" * 201),
    ("records.digits-linf.0.epsilon", 0.1),
    ("evidence.0.bytes", "5"),
    ("evidence.0.file", ""),
    ("statement.test_data_unused", False),
    ("statement.test_data_unused", 1),
    ("statement.test_data_unused", "true"),
    ("statement.extra_data", None),
]


@pytest.mark.parametrize(("place", "value"), BAD)
def test_bad_values_are_refused_and_named(place: str, value: Any) -> None:
    with pytest.raises(RecordError) as raised:
        submission_of(**changed(place, value))
    message = str(raised.value)
    assert message.isprintable() and place in message, message


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"checkpoints": [PRUNED.model_dump()] * 2}, "each checkpoint once, got mine/digits"),
    ({"checkpoints": [CONTROL.model_dump()]}, "a checkpoint of mine, got none"),
    ({"checkpoints": [PRUNED.model_dump()]}, "records of its checkpoints, got one of random/"),
    (
        {"records": {"digits-linf": [record_entry(PRUNED.id, n) for n in (1, 2)]}},
        "each record under digits-linf once, got mine/",
    ),
    (
        {"records": {"digits-linf": [record_entry(i, 1) for i in (PRUNED.id, CONTROL.id)]}},
        "each file once, got records/digits-linf/1.json twice",
    ),
    (
        {"evidence": [{"file": PRUNED.file, "bytes": 5, "sha256": "3" * 64}]},
        "each file once, got checkpoints/tiny.safetensors twice",
    ),
    (
        {
            "checkpoints": [
                entry(method="mine", extra_data="ImageNet").model_dump(),
                CONTROL.model_dump(),
            ]
        },
        "the extra data of mine/.* to be stated, got none",
    ),
]


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        submission(**changes)


def test_records_of_one_checkpoint_under_two_protocols_agree() -> None:
    records = {"digits-linf": [record_entry(PRUNED.id, 1)], "other": [record_entry(PRUNED.id, 2)]}
    assert len(submission(records=records).files()) == 3


ALTERED: list[tuple[str, Any]] = [
    ("name", "other"),
    ("contact", "eve@example.org"),
    ("method.title", "Other"),
    ("checkpoints.0.display_name", "Other"),
    ("records.digits-linf.0.sha256", "f" * 64),
    ("records.digits-linf.1.bytes", 1),
    ("evidence.0.sha256", "f" * 64),
    ("statement.extra_data", "ImageNet"),
]


@pytest.mark.parametrize(("place", "value"), ALTERED)
def test_an_altered_field_is_noticed(tmp_path: Path, place: str, value: Any) -> None:
    path = tmp_path / "submission.json"
    digest = submission().content_digest
    path.write_text(json.dumps({**changed(place, value), "schema_version": 1}))
    with pytest.raises(RecordError, match="content_digest"):
        read(path)
    altered = {**changed(place, value), "schema_version": 1, "content_digest": digest}
    path.write_text(json.dumps(altered))
    with pytest.raises(RecordError, match="unaltered submission .*, got another content_digest"):
        read(path)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_versions_are_refused(tmp_path: Path, version: Any) -> None:
    path = tmp_path / "submission.json"
    write(path, submission())
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(RecordError, match="schema_version"):
        read(path)


@given(some.binary(max_size=200) | some.text(max_size=200).map(str.encode))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.json"
        path.write_bytes(data)
        with pytest.raises(BenchmarkError) as raised:
            read(path)
        assert str(raised.value).isprintable()


def test_size_is_bounded_and_absence_is_told(tmp_path: Path) -> None:
    path = tmp_path / "submission.json"
    with pytest.raises(FileNotFoundError):
        read(path)
    path.write_bytes(b"")
    with path.open("r+b") as stream:
        stream.truncate(LARGEST_SUBMISSION + 1)
    with pytest.raises(ManifestError, match="at most"):
        read(path)


TOML = """\
name = "my-entry"
contact = "ada@example.org"
checkpoints = ["mine/digits/*"]
protocols = ["digits-linf"]

[method]
name = "mine"

[statement]
extra_data = ""
test_data_unused = true
"""


def test_a_draft_is_read(tmp_path: Path) -> None:
    path = tmp_path / "submission.toml"
    path.write_text(TOML)
    found = read_draft(path)
    assert (found.tier, found.method.title, found.method.authors) == ("standard", None, None)
    assert found.checkpoints == ("mine/digits/*",)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("ada@example.org", "", "contact"),
        ("= true", "= false", "statement.test_data_unused: expected true, got false"),
        ("= true", "= 1", "statement.test_data_unused"),
        ('name = "my-entry"', 'name = "My entry"', "name"),
        ('["mine/digits/*"]', "[]", "checkpoints"),
        ('["digits-linf"]', '"digits-linf"', "protocols"),
        ('name = "mine"', 'name = "mine"\ncode = "javascript:alert(1)"', "method.code"),
        ('name = "mine"', 'name = "mine"\nauthors = ["\\u202e"]', "method.authors.0"),
        ("[method]", "more = 1\n[method]", "more"),
        ("[method]", 'tier = "huge"\n[method]', "tier"),
        ("[method]", "[method", "line 6"),
        ("[method]", "\udcff", "expected TOML"),
    ],
)
def test_a_draft_that_is_not_one_is_refused(tmp_path: Path, old: str, new: str, place: str) -> None:
    path = tmp_path / "submission.toml"
    path.write_bytes(TOML.replace(old, new).encode(errors="surrogateescape"))
    with pytest.raises(RecordError) as raised:
        read_draft(path)
    assert place in str(raised.value) and str(raised.value).isprintable()


def test_a_large_draft_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "submission.toml"
    path.write_bytes(b"#" * (LARGEST_DRAFT + 1))
    with pytest.raises(ManifestError, match="at most"):
        read_draft(path)
