"""Failures of training: written, read as a stranger's file, and dropped once they say nothing."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import failures
from benchmark.errors import RecordError, StorageError
from benchmark.failures import Failure
from benchmark.manifest import Checkpoint

ID = "atmc:bits=8/digits/cnn-tiny/benign/unstructured-99.5/seed3"
KNOWN = Failure(
    checkpoint_id=ID,
    recipe="digits",
    recipe_digest="a" * 64,
    error="expected a finite loss, got nan in epoch 1",
    environment={"torch": "2"},
)


def test_an_id_says_what_was_to_be_made() -> None:
    named = ("atmc:bits=8", "digits", "cnn-tiny", "benign", "unstructured")
    assert KNOWN.network == (*named, Fraction(995, 1000), 3)


@given(st.text(min_size=1, max_size=50), st.integers(0, 10**9 - 1), st.integers(0, 100))
def test_what_is_written_is_read(tmp_path_factory, error: str, seed: int, percent: int) -> None:
    folder = tmp_path_factory.mktemp("failures")
    said = "".join(character for character in error if character.isprintable()) or "-"
    name = f"snip/digits/cnn-tiny/benign/filter-{percent}/seed{seed}"
    failure = KNOWN.model_copy(update={"checkpoint_id": name, "error": said})
    failures.write(folder, KNOWN)
    failures.write(folder, failure)
    assert failures.read_all(folder) == sorted([KNOWN, failure], key=lambda f: f.checkpoint_id)
    failures.forget(folder, name)
    failures.forget(folder, name)
    assert failures.read_all(folder) == [KNOWN]


def test_no_folder_has_no_failures(tmp_path: Path) -> None:
    assert failures.read_all(tmp_path / "nowhere") == []


def test_a_failure_says_something_while_its_recipe_stands_and_nothing_was_made() -> None:
    def left(digests: dict[str, str], *there: Checkpoint) -> list[Failure]:
        return failures.standing([KNOWN], digests, there)

    def made(name: str = "another", digest: str = "a" * 64) -> Checkpoint:
        return Checkpoint.model_construct(id=name, recipe_digest=digest)

    now = {"digits": "a" * 64}
    assert left(now, made()) == left(now, made(ID, "b" * 64)) == [KNOWN]
    assert left({"digits": "b" * 64}) == left({}) == left(now, made(ID)) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"checkpoint_id": "../../x"}, "expected checkpoint_id method/dataset/"),
        ({"checkpoint_id": ID.replace("99.5", "100.5")}, "expected checkpoint_id method/dataset/"),
        ({"checkpoint_id": ID.replace("atmc", "ATMC")}, "expected checkpoint_id method/dataset/"),
        ({"error": "two\nlines"}, "error: "),
        ({"error": ""}, "error: "),
        ({"recipe_digest": "short"}, "recipe_digest: "),
        ({"more": 1}, "more: "),
        ({"schema_version": 2}, "update this one"),
        ({"environment": {"torch": 2}}, "environment.torch: "),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    path = failures.write(tmp_path, KNOWN)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RecordError) as raised:
        failures.read_all(tmp_path)
    assert told in str(raised.value) and path.name in str(raised.value)
    assert "remove" in str(raised.value) and "\n" not in str(raised.value)


def test_files_that_are_no_failures(tmp_path: Path) -> None:
    path = failures.write(tmp_path, KNOWN)
    path.rename(tmp_path / "another.json")
    with pytest.raises(RecordError, match="under its own name"):
        failures.read_all(tmp_path)
    path.symlink_to(tmp_path / "another.json")
    (tmp_path / "another.json").rename(tmp_path / "elsewhere")
    with pytest.raises(RecordError, match="got a link"):
        failures.read_all(tmp_path)
    # Neither does a link lead what removes a failure astray.
    failures.forget(tmp_path, ID)
    assert (tmp_path / "elsewhere").exists() and not path.is_symlink()
    path.write_bytes(b"[" * (failures.LARGEST_FAILURE + 1))
    with pytest.raises(RecordError, match="at most 65536 bytes"):
        failures.read_all(tmp_path)


def test_what_is_removed_meanwhile_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = failures.write(tmp_path, KNOWN)
    monkeypatch.setattr(Path, "glob", lambda *_: iter([path, path.with_name("gone.json")]))
    assert failures.read_all(tmp_path) == [KNOWN]


def test_a_folder_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="expected to remove"):
        failures.forget(tmp_path / "file", ID)
