"""Files: whole or not at all, whatever the disk says; bounded reads; no path leaves the project."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.errors import ManifestError, RecordError, StorageError
from benchmark.files import alone, inside, read_bounded, read_toml, write_atomically


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(number: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message.isprintable() and len(message) < 1200
    assert message.startswith("expected ") and "got " in message
    return message


def test_writes_new_and_replaces_old(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "record.json"
    write_atomically(path, b"one")
    write_atomically(path, b"")
    assert path.read_bytes() == b""
    write_atomically(path, b"three")
    assert path.read_bytes() == b"three"
    assert listing(path.parent) == ["record.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("os.fsync", errno.ENOSPC),
        ("os.fsync", errno.EDQUOT),
        ("pathlib.Path.replace", errno.EROFS),
        ("pathlib.Path.chmod", errno.EPERM),
        ("tempfile.mkstemp", errno.EROFS),
        ("pathlib.Path.mkdir", errno.EACCES),
    ],
)
def test_refusing_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, number: int
) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(target, refuse(number))
    with pytest.raises(StorageError) as raised:
        write_atomically(path, b"new" * 10_000)
    monkeypatch.undo()
    message = one_line(raised.value)
    assert os.strerror(number) in message and str(path) in message and "run again" in message
    assert path.read_bytes() == b"old"
    assert listing(tmp_path) == ["record.json"]


def test_full_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    path = tmp_path / "record.json"
    write_atomically(path, b"old")
    real = os.fdopen

    def on_full(handle: int, mode: str) -> object:
        os.close(handle)
        return real(os.open("/dev/full", os.O_WRONLY), mode)

    monkeypatch.setattr("os.fdopen", on_full)
    with pytest.raises(StorageError, match="No space left"):
        write_atomically(path, b"x" * 100_000)
    assert path.read_bytes() == b"old" and listing(tmp_path) == ["record.json"]


def test_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and listing(tmp_path) == ["a"]


def test_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_bytes(b"")
    for path in (tmp_path / "a", tmp_path / "b" / "c"):
        with pytest.raises(StorageError):
            write_atomically(path, b"x")
    assert listing(tmp_path) == ["a", "b"] and listing(tmp_path / "a") == []


@pytest.mark.parametrize("name", ["n" * 300, "a\nb" + "\x1b" * 300])
def test_impossible_names_stay_one_short_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError) as raised:
        write_atomically(tmp_path / name, b"x")
    one_line(raised.value)
    assert listing(tmp_path) == []


def test_long_possible_name_is_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("ü" * 120), b"x")
    assert listing(tmp_path) == ["ü" * 120]


def test_reads_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    assert read_bounded(path, 1 << 60) == b"12345"  # reserves no memory for the limit
    with pytest.raises(ManifestError, match="at most 4 bytes"):
        read_bounded(path, 4)
    path.write_bytes(b"")
    assert read_bounded(path, 0) == b""


def test_missing_is_told_apart_from_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none", 5)
    with pytest.raises(StorageError, match="Is a directory"):
        read_bounded(tmp_path, 5)
    with pytest.raises(StorageError) as raised:
        read_bounded(tmp_path / ("n" * 5000), 5)
    one_line(raised.value)
    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr("pathlib.Path.open", refuse(errno.EACCES))
    with pytest.raises(StorageError, match="Permission denied"):
        read_bounded(tmp_path / "a", 5)


def test_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ManifestError, match="at most 1000 bytes"):
        read_bounded(path, 1000)


@pytest.mark.parametrize("relative", ["a", "a/b.txt", "./a", "a//b", "..a/b..", "ä ö"])
def test_inside_paths(tmp_path: Path, relative: str) -> None:
    assert inside(tmp_path, relative) == (tmp_path / relative).resolve()


@pytest.mark.parametrize(
    "relative",
    [
        "",
        "..",
        "../a",
        "a/../../b",
        "a/..",
        "/etc/passwd",
        "//etc/passwd",
        "a\0b",
        "out/secret",
        "loop/a",
        "\ud800",
        "x" * 1025,
        "a/" * 600,
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, relative: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(ManifestError) as raised:
        inside(root, relative)
    assert "inside the project" in one_line(raised.value)


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path, "link/a") == (tmp_path / "real" / "a").resolve()


def test_a_lock_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="expected to write"), alone(tmp_path / "file" / "lock"):
        pass
    with alone(tmp_path / "new" / "lock"), pytest.raises(ZeroDivisionError), alone(tmp_path / "x"):
        raise ZeroDivisionError
    with alone(tmp_path / "x"):  # whoever fails lets go
        pass


def test_toml_is_read_and_numbers_become_what_is_asked(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("a = 0.10")
    assert read_toml(path, 10) == {"a": 0.1}
    assert read_toml(path, 10, number=str) == {"a": "0.10"}


@pytest.mark.parametrize("content", [b"a = ", b"\xff", b"a = " + b"[" * 10_000])
def test_what_is_no_toml_is_told_with_its_path(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="expected TOML in .*a.toml, got"):
        read_toml(path, 1 << 20)
