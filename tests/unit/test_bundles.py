"""Bundles: one spelling for equal files, and a reason for everything else."""

import io
import os
import socket
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from benchmark import bundles
from benchmark.bundles import Kept, check_files, pack, snapshot
from benchmark.digests import sha256_of_bytes
from benchmark.errors import BenchmarkError, RecordError, StorageError

FILES = {"a.txt": b"first", "b/c.bin": bytes(range(256)) * 9, "b/empty": b"", "z": b"last"}


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    pack(folder_of(tmp_path / "files", FILES), tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


def private(tmp_path: Path) -> Path:
    folder = tmp_path / f"private{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return folder


def refusal(source: Path, tmp_path: Path) -> str:
    target = private(tmp_path)
    with pytest.raises(RecordError) as raised:
        snapshot(source, target)
    message = str(raised.value)
    assert message.isprintable() and len(message) < 600
    return message


def archive(members: list[tuple[str, bytes]], **changes: int) -> bytes:
    """Returns an archive as `pack` writes it, of any names in any order, with fields changed."""
    stream, table, offset = io.BytesIO(), b"", 0
    for name, content in members:
        crc, size, raw = zlib.crc32(content), len(content), name.encode()
        fields = {"flags": 0, "method": 0, "crc": crc, "packed": size, "size": size, **changes}
        sums = (fields["crc"], fields["packed"], fields["size"])
        kind = (20, fields["flags"], fields["method"], 0, 33)
        stream.write(struct.pack("<4s5H3I2H", b"PK\3\4", *kind, *sums, len(raw), 0) + raw + content)
        mode = changes.get("mode", 0o100644) << 16
        rest = (len(raw), 0, 0, 0, 0, mode, offset)
        table += struct.pack("<4s6H3I5H2I", b"PK\1\2", 788, *kind, *sums, *rest) + raw
        offset = stream.tell()
    count = len(members)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(table), offset, 0)
    return stream.getvalue() + table + end


def test_what_is_packed_is_unpacked_and_other_programs_read_it(
    packed: Path, tmp_path: Path
) -> None:
    target = private(tmp_path)
    told: list[tuple[int, int]] = []
    found = snapshot(packed, target, lambda done, total: told.append((done, total)))
    assert found == {n: Kept(len(c), sha256_of_bytes(c)) for n, c in FILES.items()}
    assert {n: (target / n).read_bytes() for n in FILES} == FILES
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with zipfile.ZipFile(packed) as other:
        assert other.testzip() is None
        assert {n: other.read(n) for n in other.namelist()} == FILES
    assert snapshot(tmp_path / "files", private(tmp_path)) == found
    assert packed.read_bytes() == archive(sorted(FILES.items()))


def test_equal_files_give_equal_bytes(packed: Path, tmp_path: Path) -> None:
    again = folder_of(tmp_path / "again", dict(reversed(FILES.items())))
    for path in again.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    pack(again, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_an_archive_has_one_spelling(packed: Path, tmp_path: Path) -> None:
    """Whatever a single changed bit means, it is not read as something else."""
    data = packed.read_bytes()
    original = snapshot(packed, private(tmp_path))
    altered = tmp_path / "altered.zip"
    for place in range(0, len(data), 23):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        altered.write_bytes(changed)
        with pytest.raises(RecordError):
            assert snapshot(altered, private(tmp_path)) == original


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "an absolute path"),
        ("C:/x", "an absolute path"),
        ("\\x", "an absolute path"),
        ("../x", "leads outside"),
        ("a/../../x", "leads outside"),
        ("a\\..\\x", "leads outside"),
        ("a/", "a folder of its own"),
        (".git/config", "hidden"),
        ("a/.x", "hidden"),
        ("a//b", "not made of letters"),
        ("a b", "not made of letters"),
        ("a\nb", "control"),
        ("a\x1b[2Jb", "control"),
        ("a\u202eb", "special"),
        ("a\u200fb", "special"),
        ("é", "special"),
        ("a" * 401, "more than 400 characters"),
        ("", "an absolute path"),
    ],
)
def test_names_that_lead_elsewhere_or_lie(name: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(archive([(name, b"x")]))
    assert reason in refusal(path, tmp_path)
    assert not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a", "a"], "the same name twice, 'a'"),
        (["A", "a"], "capitals alone, 'A' and 'a'"),
        (["A/x", "a/y"], "folders that differ in capitals alone"),
        (["a", "a/b"], "a file 'a' where 'a/b' needs a folder"),
        (["A", "a/b"], "a file 'a' where"),
        (["b", "a"], "not sorted"),
    ],
)
def test_names_that_clash(names: list[str], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(archive([(name, b"x") for name in names]))
    assert reason in refusal(path, tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"flags": 1}, "encrypted"),
        ({"method": 8}, "compressed"),
        ({"method": 14}, "compressed"),
        ({"size": 1 << 30}, "compressed"),
        ({"size": 1 << 30, "packed": 1 << 30}, "bytes that belong to no file"),
        ({"size": 0, "packed": 0}, "bytes that belong to no file"),
        ({"crc": 1}, "another content"),
        ({"flags": 8}, "other flags"),
        ({"mode": 0o120777}, "a link"),
        ({"mode": stat.S_IFCHR | 0o644}, "a device"),
        ({"mode": stat.S_IFIFO | 0o644}, "a device, pipe"),
        ({"mode": 0o40755}, "folder"),
        ({"mode": 0o104755}, "other flags"),
    ],
)
def test_members_of_another_kind(changes: dict[str, int], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(archive([("a", b"content")], **changes))
    assert reason in refusal(path, tmp_path)


def zipped(compression: int, *members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as other:
        for name, content in members:
            other.writestr(name, content)
    return stream.getvalue()


def test_bombs_cost_nothing(tmp_path: Path) -> None:
    inner = zipped(zipfile.ZIP_DEFLATED, ("zeros", bytes(1 << 24)))
    for data in (inner, zipped(zipfile.ZIP_DEFLATED, *((f"{n}.zip", inner) for n in range(9)))):
        (tmp_path / "x.zip").write_bytes(data)
        assert "compressed" in refusal(tmp_path / "x.zip", tmp_path)
    # Two lines of the table over one content: an overlap, as in a zip bomb without nesting.
    data = bytearray(archive([("a", b"x" * 99), ("b", b"x" * 99)]))
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = bytes(4)
    (tmp_path / "x.zip").write_bytes(data)
    assert "a gap or an overlap" in refusal(tmp_path / "x.zip", tmp_path)


def test_a_hundred_thousand_members_are_too_many(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as other:
        other.writestr("a", b"")
        first = other.filelist[0]
        # Only the table matters, and zipfile takes seconds to write so many headers.
        other.filelist = [first] * 100_000
    (tmp_path / "x.zip").write_bytes(stream.getvalue())
    assert "more than 50000 files" in refusal(tmp_path / "x.zip", tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-1], "without an archive's end"),
        (lambda data: data[: len(data) // 2], "without an archive's end"),
        (lambda data: data + b"x", "without an archive's end"),
        (lambda data: b"#!/bin/sh\n" + data, "a table that is not where"),
        (lambda data: data[:-2] + b"\x05\0hello", "without an archive's end"),
        (lambda _: b"", "0 bytes without"),
        (lambda _: b"<!DOCTYPE html><html>quota</html>" * 9, "without an archive's end"),
        (lambda data: data.replace(b"PK\3\4", b"PK\3\5", 1), "another header in front of 'a.txt'"),
        (lambda data: data.replace(b"first", b"worst", 1), "another content of 'a.txt'"),
    ],
)
def test_damaged_archives(
    change: Callable[[bytes], bytes], reason: str, packed: Path, tmp_path: Path
) -> None:
    packed.write_bytes(change(packed.read_bytes()))
    assert reason in refusal(packed, tmp_path)


def test_a_header_that_differs_from_the_table(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    data[18:26] = struct.pack("<2I", 1 << 31, 1 << 31)
    packed.write_bytes(data)
    assert "another header in front of 'a.txt'" in refusal(packed, tmp_path)


def test_folders_hold_plain_files_alone(tmp_path: Path) -> None:
    def with_(make: Callable[[Path], object]) -> str:
        place = private(tmp_path)
        folder_of(place, FILES)
        make(place)
        return refusal(place, tmp_path)

    outside = tmp_path / "secret"
    outside.write_text("secret")
    assert "a link, 'b/link'" in with_(lambda place: (place / "b" / "link").symlink_to(outside))
    assert "a link, 'c'" in with_(lambda place: (place / "c").symlink_to(tmp_path))
    assert "a link, 'c'" in with_(lambda place: (place / "c").symlink_to("c"))
    assert "a device, pipe or socket, 'p'" in with_(lambda place: os.mkfifo(place / "p"))
    with socket.socket(socket.AF_UNIX) as server:
        short = os.getcwd()
        os.chdir(tmp_path)
        try:
            assert "a device, pipe or socket" in with_(
                lambda place: server.bind(os.path.relpath(place / "s", tmp_path))
            )
        finally:
            os.chdir(short)
    assert "hidden" in with_(lambda place: (place / ".git").mkdir())
    assert "control" in with_(lambda place: (place / "a\x07").write_bytes(b""))
    assert "capitals alone" in with_(lambda place: (place / "A.txt").write_bytes(b""))


def test_a_folder_that_becomes_a_link_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_of(tmp_path / "source", FILES)
    outside = folder_of(tmp_path / "outside", {"c.bin": b"secret", "empty": b"secret"})
    listed = bundles._listed

    def swapped(root: int) -> list[str]:
        names = listed(root)
        (source / "b").rename(tmp_path / "moved")
        (source / "b").symlink_to(outside)
        return names

    monkeypatch.setattr(bundles, "_listed", swapped)
    assert "'b/c.bin'; check its permissions" in refusal(source, tmp_path)


def test_size_and_number_are_bounded(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    monkeypatch.setattr(bundles, "LARGEST_BUNDLE", 2000)
    for source in (packed, files):
        assert "more than 2000 bytes; hand in several" in refusal(source, tmp_path)
    before = packed.read_bytes()
    with pytest.raises(RecordError, match="more than 2000 bytes"):
        pack(files, packed)
    assert packed.read_bytes() == before
    monkeypatch.undo()
    monkeypatch.setattr(bundles, "MOST_FILES", 3)
    for source in (packed, files):
        assert "more than 3 files" in refusal(source, tmp_path)


def test_a_file_that_grows_while_it_is_read_ends_at_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "LARGEST_BUNDLE", 100)

    class Endless:
        def read(self, size: int, /) -> bytes:
            return b"x" * min(size, 7)

    kept, _ = bundles._copied(Endless(), tmp_path / "copy", 100)
    assert kept.bytes == 101


def test_what_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        snapshot(tmp_path / "nothing", private(tmp_path))
    with pytest.raises(StorageError, match="readable bundle"):
        snapshot(tmp_path / ("x" * 300), private(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(tmp_path / "pipe", tmp_path)


def test_differences_from_a_list_are_named() -> None:
    listed = {"a": Kept(1, "1" * 64), "b": Kept(2, "2" * 64), "c": Kept(3, "3" * 64)}
    assert list(check_files(listed, listed)) == []
    found = {"b": Kept(2, "f" * 64), "c": Kept(4, "3" * 64), "d": Kept(1, "1" * 64)}
    assert list(check_files(found, listed)) == [
        "a is listed, and missing",
        "d is there, and not listed",
        "b has sha256 ffffffffffff…, and is listed with 222222222222…",
        "c has 4 bytes, and is listed with 3",
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(some.binary(max_size=300))
def test_any_other_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.zip"
    path.write_bytes(data)
    with pytest.raises(BenchmarkError) as raised:
        snapshot(path, private(tmp_path))
    assert str(raised.value).isprintable()
