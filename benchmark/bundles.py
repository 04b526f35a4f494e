"""Bundles: many files as one, packed in the one way in which equal files give equal bytes.

A bundle is a zip archive of stored members, sorted by name, with fixed times and modes and nothing
between, before or behind them. Nothing else is read: what is not compressed cannot blow up, and an
archive with a single spelling cannot mean two things to two programs. An unpacked folder of the
same files is as good. Both are foreign until proven: each file is read once, into a private folder,
and its bytes there are those that were hashed.
"""

import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Protocol

from benchmark.errors import RecordError, StorageError, shorten
from benchmark.files import written

# What the sizes and counts of a plain zip archive can say; larger submissions are handed in as
# several.
LARGEST_BUNDLE = (1 << 32) - 1
MOST_FILES = 50_000
LONGEST_PATH = 400

# Plain names joined by slashes, none of them hidden and none `..`.
SAFE_PATH = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")

# Made on Unix by version 2.0, needing that; the first day of the format's calendar; a plain file.
_MADE, _NEEDED, _DAY, _MODE = 3 << 8 | 20, 20, 1 << 5 | 1, (stat.S_IFREG | 0o644) << 16

_ENCRYPTED = 1
_PIECE = 1 << 20

# Told the number of files that were read, and that of all.
Told = Callable[[int, int], None]


class _Source(Protocol):
    """Whatever gives its bytes piece by piece."""

    def read(self, size: int, /) -> bytes:
        """Returns up to `size` bytes; none at the end."""


@dataclass(frozen=True)
class Kept:
    """A file as it was read.

    Attributes:
        bytes: size.
        sha256: of its content.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Member:
    """A line of an archive's table."""

    name: str
    crc: int
    size: int
    offset: int

    @property
    def local(self) -> bytes:
        """What stands in front of its content."""
        sizes = (self.crc, self.size, self.size, len(self.name), 0)
        return _LOCAL.pack(b"PK\x03\x04", _NEEDED, 0, 0, 0, _DAY, *sizes) + self.name.encode()

    @property
    def central(self) -> bytes:
        """Its line in the table."""
        sizes = (self.crc, self.size, self.size, len(self.name), 0, 0, 0, 0, _MODE, self.offset)
        fixed = _CENTRAL.pack(b"PK\x01\x02", _MADE, _NEEDED, 0, 0, 0, _DAY, *sizes)
        return fixed + self.name.encode()


def _end(count: int, size: int, offset: int) -> bytes:
    return _END.pack(b"PK\x05\x06", 0, 0, count, count, size, offset, 0)


def _refused(found: str, advice: str = "make it again with `robustprune submit`") -> RecordError:
    return RecordError(f"expected a bundle as `robustprune submit` packs it, got {found}; {advice}")


# --- Names ----------------------------------------------------------------------------------------


def check_names(names: Iterable[str]) -> None:
    """Refuses names that no bundle has.

    Raises:
        RecordError: a way out of the folder, a special character, a name twice or in two spellings,
            or a file where others need a folder.
    """
    seen: set[str] = set()
    folded: dict[str, str] = {}
    for name in names:
        if fault := _fault(name):
            raise _refused(f"{fault} '{shorten(name, 200)}'")
        if name in seen:
            raise _refused(f"the same name twice, '{shorten(name, 200)}'")
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise _refused(f"two names that differ in capitals alone, '{other}' and '{name}'")
        seen.add(name)
    for name in seen:
        parts = name.split("/")
        for count in range(1, len(parts)):
            # On some systems Reports/ and reports/ are one folder.
            start = "/".join(parts[:count])
            if folded.setdefault(f"{start}/".casefold(), start) != start:
                raise _refused(f"two folders that differ in capitals alone, one of them '{start}'")
            if start.casefold() in folded:
                raise _refused(f"a file '{start}' where '{name}' needs a folder")


def _fault(name: str) -> str:
    """Returns what is wrong with a name by itself, in words; empty if nothing is."""
    parts = re.split(r"[/\\]", name)
    if not name.isprintable() or not name.isascii():
        return "a name with control or other special characters,"
    if not parts[0] or re.match(r"[A-Za-z]:", name):
        return "an absolute path,"
    if ".." in parts:
        return "a path that leads outside,"
    if not parts[-1]:
        return "a folder of its own,"
    if len(name) > LONGEST_PATH:
        return f"a name of more than {LONGEST_PATH} characters,"
    if not re.match(SAFE_PATH, name):
        return "a name that is hidden or not made of letters, digits, '.', '-' and '_',"
    return ""


# --- Packing --------------------------------------------------------------------------------------


def pack(folder: Path, target: Path) -> None:
    """Packs all files of a folder; equal files give equal bytes.

    Args:
        folder: of files that nobody else changes meanwhile.
        target: the archive.

    Raises:
        RecordError: a name, a number or a size that no bundle has.
        StorageError: the disk refuses; an archive that was there before is whole.
    """
    with _opened(folder, os.O_DIRECTORY) as root:
        names = sorted(_listed(root))
        check_names(names)
        with written(target) as stream:
            members = [_append(stream, root, name) for name in names]
            table = b"".join(member.central for member in members)
            offset = stream.tell()
            _check_size(offset + len(table) + _END.size)
            stream.write(table + _end(len(members), len(table), offset))


def _append(stream: BinaryIO, root: int, name: str) -> _Member:
    """Writes a file into an archive, its header last, once its size and sum are known."""
    offset, crc, size = stream.tell(), 0, 0
    stream.write(_Member(name, 0, 0, offset).local)
    with _member_of(root, name) as source:
        while piece := os.read(source, _PIECE):
            stream.write(piece)
            crc, size = zlib.crc32(piece, crc), size + len(piece)
            _check_size(stream.tell())
    member = _Member(name, crc, size, offset)
    behind = stream.tell()
    stream.seek(offset)
    stream.write(member.local)
    stream.seek(behind)
    return member


def _check_size(size: int) -> None:
    if size > LARGEST_BUNDLE:
        raise _refused(
            f"more than {LARGEST_BUNDLE} bytes", "hand in several submissions of fewer checkpoints"
        )


# --- Taking a private copy ------------------------------------------------------------------------


def _untold(done: int, total: int) -> None:
    """Tells nobody."""


def snapshot(source: Path, folder: Path, told: Told = _untold) -> dict[str, Kept]:
    """Copies a bundle's files to a private folder, reading each once, and returns what they are.

    Args:
        source: an archive, or the folder of an unpacked one.
        folder: empty, and nobody else's.
        told: after each file.

    Raises:
        FileNotFoundError: there is no such bundle.
        RecordError: an archive that is not as `pack` writes it, or anything in a folder that is not
            a plain file under a plain name.
        StorageError: the disk refuses.
    """
    with _opened(source) as handle:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            return _copied_folder(handle, folder, told)
        if not stat.S_ISREG(mode):
            raise _refused("something that is neither a file nor a folder", "check the path")
        with os.fdopen(os.dup(handle), "rb") as stream:
            return _copied_archive(stream, folder, told)


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    """Opens what the user named; links on the way are the user's own.

    Raises:
        FileNotFoundError: there is nothing.
        StorageError: the disk refuses.
    """
    try:
        # Not blocking: a pipe would wait for somebody to write.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _unreadable(name: str, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return StorageError(
        f"expected a readable bundle {shorten(name, 400)}, got '{reason}'; check the path and its "
        "permissions"
    )


def _copied_folder(root: int, folder: Path, told: Told) -> dict[str, Kept]:
    names = sorted(_listed(root))
    check_names(names)
    found: dict[str, Kept] = {}
    left = LARGEST_BUNDLE
    for name in names:
        with _member_of(root, name) as source, os.fdopen(os.dup(source), "rb") as stream:
            found[name], _ = _copied(stream, folder / name, left)
        left -= found[name].bytes
        if left < 0:
            _check_size(LARGEST_BUNDLE + 1)
        told(len(found), len(names))
    return found


def _listed(root: int) -> list[str]:
    """Returns the paths of all files below a folder, following no link.

    Raises:
        RecordError: something that is no file and no folder, or too many of them.
        StorageError: the disk refuses.
    """
    found: list[str] = []
    waiting = [""]
    visited = 0
    while waiting:
        place = waiting.pop()
        with _member_of(root, place, os.O_DIRECTORY) as here, os.scandir(here) as entries:
            for entry in entries:
                visited += 1
                name = f"{place}/{entry.name}" if place else entry.name
                if visited > 2 * MOST_FILES:
                    raise _refused(f"more than {MOST_FILES} files")
                if entry.is_symlink():
                    raise _refused(f"a link, '{shorten(name, 200)}'", "put the file in its place")
                if entry.is_dir(follow_symlinks=False):
                    if fault := _fault(name):
                        raise _refused(f"{fault} '{shorten(name, 200)}'")
                    waiting.append(name)
                elif entry.is_file(follow_symlinks=False):
                    found.append(name)
                else:
                    raise _refused(f"a device, pipe or socket, '{shorten(name, 200)}'", "remove it")
    if len(found) > MOST_FILES:
        raise _refused(f"more than {MOST_FILES} files")
    return found


@contextmanager
def _member_of(root: int, name: str, flags: int = 0) -> Iterator[int]:
    """Opens a file or folder below another, and closes it.

    Raises:
        RecordError: a link, or anything that is not what was asked for.
    """
    try:
        handle = _below(root, name, flags)
    except (OSError, ValueError) as error:
        raise _refused(
            f"'{getattr(error, 'strerror', None) or error}' for '{shorten(name, 200)}'",
            "check its permissions, and do not change the folder meanwhile",
        ) from error
    try:
        mode = os.fstat(handle).st_mode
        if not (stat.S_ISDIR(mode) if flags & os.O_DIRECTORY else stat.S_ISREG(mode)):
            raise _refused(f"something that is no plain file, '{shorten(name, 200)}'", "remove it")
        yield handle
    finally:
        os.close(handle)


def _below(root: int, name: str, flags: int) -> int:
    """Returns an open file or folder below another, no link on the way to it.

    What was a folder when it was listed may be a link by now, so each step is taken anew.
    """
    plain = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    parts = name.split("/") if name else []
    handle = os.dup(root)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        try:
            below = os.open(part, plain | (flags if last else os.O_DIRECTORY), dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    return handle


def _copied(stream: _Source, target: Path, most: int) -> tuple[Kept, int]:
    """Copies up to one byte more than `most`, and returns what was copied and its CRC-32."""
    digest, size, crc = sha256(), 0, 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as copy:
            while piece := stream.read(min(_PIECE, most + 1 - size)):
                copy.write(piece)
                digest.update(piece)
                size, crc = size + len(piece), zlib.crc32(piece, crc)
    except OSError as error:
        raise StorageError(
            f"expected room for a private copy in {target.parent}, got "
            f"'{error.strerror or type(error).__name__}'; free space or set TMPDIR"
        ) from error
    return Kept(size, digest.hexdigest()), crc


# --- Reading archives -----------------------------------------------------------------------------


def _copied_archive(stream: BinaryIO, folder: Path, told: Told) -> dict[str, Kept]:
    members = _table(stream)
    check_names(member.name for member in members)
    names = [member.name for member in members]
    if names != sorted(names):
        raise _refused("members that are not sorted by name")
    found: dict[str, Kept] = {}
    stream.seek(0)
    for member in members:
        if stream.tell() != member.offset or stream.read(len(member.local)) != member.local:
            raise _refused(f"another header in front of '{member.name}' than the table has")
        kept, crc = _copied(_Part(stream, member.size), folder / member.name, member.size)
        if (kept.bytes, crc) != (member.size, member.crc):
            raise _refused(f"another content of '{member.name}' than was packed", "send it again")
        found[member.name] = kept
        told(len(found), len(members))
    return found


class _Part:
    """The next bytes of a stream, as a stream of their own."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left = stream, size

    def read(self, size: int, /) -> bytes:
        """Returns up to `size` bytes; none at the end of the part."""
        found = self._stream.read(min(size, self._left))
        self._left -= len(found)
        return found


def _table(stream: BinaryIO) -> list[_Member]:
    """Returns the members of an archive from its table, which must be the only one it can have.

    Raises:
        RecordError: anything else.
    """
    whole = stream.seek(0, os.SEEK_END)
    _check_size(whole)
    stream.seek(max(0, whole - _END.size))
    tail = stream.read(_END.size)
    if len(tail) < _END.size or not tail.startswith(b"PK\x05\x06"):
        raise _refused(f"a file of {whole} bytes without an archive's end", "send it again, whole")
    _, _, _, _, count, size, offset, _ = _END.unpack(tail)
    if count > MOST_FILES:
        raise _refused(f"more than {MOST_FILES} files")
    if tail != _end(count, size, offset) or offset + size + _END.size != whole:
        raise _refused("a table that is not where the archive's end says, or a comment behind it")
    if size > count * (_CENTRAL.size + 2 * LONGEST_PATH):
        raise _refused(f"a table of {size} bytes for {count} files")
    stream.seek(offset)
    table, members, place, begins = stream.read(size), [], 0, 0
    for _ in range(count):
        member = _line(table, place)
        place += len(member.central)
        if member.offset != begins:
            raise _refused(f"a gap or an overlap in front of '{member.name}'")
        begins += len(member.local) + member.size
        members.append(member)
    if place != size or begins != offset:
        raise _refused("bytes that belong to no file")
    return members


def _line(table: bytes, place: int) -> _Member:
    """Returns a member from its line in the table.

    Raises:
        RecordError: a line that `pack` does not write; the message says what is odd about it.
    """
    fixed = table[place : place + _CENTRAL.size]
    if len(fixed) < _CENTRAL.size or not fixed.startswith(b"PK\x01\x02"):
        raise _refused("a table that ends early")
    fields = _CENTRAL.unpack(fixed)
    flags, method, crc, packed, size, length = fields[3], fields[4], *fields[7:11]
    raw = table[place + _CENTRAL.size :][:length]
    name = raw.decode("utf-8", errors="replace")
    if fault := _fault(name):
        raise _refused(f"{fault} '{shorten(name, 200)}'")
    member = _Member(name, crc, size, fields[16])
    if fixed + raw != member.central:
        odd = _oddity(flags, method, fields[15] >> 16, (packed, size))
        raise _refused(f"{odd}, '{name}'", "unpack it and validate the folder, if you trust it")
    return member


def _oddity(flags: int, method: int, mode: int, sizes: tuple[int, int]) -> str:
    """Returns what is odd about a line of a table, in words: the worst first."""
    if flags & _ENCRYPTED:
        return "an encrypted member"
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_IFMT(mode) and not stat.S_ISREG(mode):
        return "a device, pipe or folder"
    if method or sizes[0] != sizes[1]:
        return "a compressed member"
    return "a member with other flags, times, modes or notes"


def check_files(found: Mapping[str, Kept], expected: Mapping[str, Kept]) -> Iterator[str]:
    """Yields what differs between the files of a bundle and those that it lists, a line each."""
    for name in sorted(expected.keys() - found.keys()):
        yield f"{name} is listed, and missing"
    for name in sorted(found.keys() - expected.keys()):
        yield f"{name} is there, and not listed"
    for name in sorted(expected.keys() & found.keys()):
        ours, theirs = found[name], expected[name]
        if ours.bytes != theirs.bytes:
            yield f"{name} has {ours.bytes} bytes, and is listed with {theirs.bytes}"
        elif ours.sha256 != theirs.sha256:
            yield (
                f"{name} has sha256 {ours.sha256[:12]}…, and is listed with {theirs.sha256[:12]}…"
            )
