"""Files that must never be half there: atomic writes, bounded reads, paths that stay inside."""

import contextlib
import fcntl
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from benchmark.errors import ManifestError, RecordError, StorageError, shorten


def write_atomically(path: Path, data: bytes, durable: bool = True) -> None:
    """Writes `data` so that a reader sees the old file or the whole new one, never a part.

    Args:
        path: where to; missing folders are made.
        data: the whole new content.
        durable: wait until the disk has it, so that it survives a loss of power.

    Raises:
        StorageError: the folder cannot be made, or the disk is full or read-only; the old file is
            whole and nothing else is left behind.
    """
    with written(path, durable) as stream:
        stream.write(data)


@contextlib.contextmanager
def written(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Gives a stream whose content takes a file's place once the block has ended well.

    Args:
        path: where to; missing folders are made.
        durable: wait until the disk has it, so that it survives a loss of power.

    Raises:
        StorageError: as for `write_atomically`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part"
        )
    except OSError as error:
        raise StorageError(_refusal(path, error)) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        # mkstemp makes private files; records and pages are meant to be read by others.
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(_refusal(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process is inside for this path, and keeps others out meanwhile.

    Args:
        path: of a file that is made for the purpose and stays; a process that ends lets go of it.

    Raises:
        StorageError: the file cannot be made, or its file system knows no locks.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(path.open("w"))
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise StorageError(_refusal(path, error)) from error
        yield


def _refusal(path: Path, error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    return (
        f"expected to write {shorten(str(path), 400)}, got '{reason}'; free space or choose a "
        "writable folder, then run again"
    )


def read_bounded(path: Path, limit: int) -> bytes:
    """Returns the bytes of a file that has at most `limit` of them.

    Raises:
        FileNotFoundError: there is no such file.
        ManifestError: the file is larger, so it is not what it claims to be.
        StorageError: there is something else, or the disk refuses.
    """
    shown = shorten(str(path), 400)
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            # Asking for the limit itself would reserve that much memory for any small file.
            data = stream.read(min(size, limit) + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise StorageError(
            f"expected a readable file {shown}, got '{reason}'; check the path and its permissions"
        ) from error
    if len(data) > limit:
        raise ManifestError(
            f"expected at most {limit} bytes in {shown}, got more; restore the original file"
        )
    return data


def read_toml(path: Path, limit: int, number: Callable[[str], object] = float) -> dict[str, Any]:
    """Returns the content of a TOML file that has at most `limit` bytes.

    Args:
        path: of the file.
        limit: larger files are refused.
        number: what becomes of a number with a point, from its text.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: the file is not TOML, or nested too deeply; the message names the line.
        ManifestError: the file is larger.
        StorageError: there is something else, or the disk refuses.
    """
    data = read_bounded(path, limit)
    try:
        return tomllib.loads(data.decode(), parse_float=number)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and bytes that are no text
        raise RecordError(
            f"expected TOML in {shorten(str(path), 400)}, got '{shorten(str(error), 200)}'; "
            "correct that line"
        ) from error


def inside(root: Path, relative: str) -> Path:
    """Returns the path of `relative` under `root`, refusing every way out of it, links included.

    Raises:
        ManifestError: an absolute path, one with `..`, one through a link, or one no file can have.
    """
    candidate = Path(relative)
    if (
        not relative
        or "\0" in relative
        or len(relative) > 1024
        or candidate.is_absolute()
        or ".." in candidate.parts
    ):
        raise ManifestError(
            f"expected a path inside the project, got '{shorten(relative)}'; use a relative path"
        )
    try:
        resolved = (root / candidate).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or no possible name
        raise ManifestError(
            f"expected a path inside the project, got '{shorten(relative)}'; it leads nowhere"
        ) from error
    if not resolved.is_relative_to(root.resolve()):
        raise ManifestError(
            f"expected a path inside the project, got '{shorten(relative)}'; it leads outside"
        )
    return resolved
