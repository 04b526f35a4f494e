"""One input judged: what the reader did with it, and what of that it must not do.

A reader may raise its own typed errors, in one printable line, or return a value that comes back
the same from its own writer. It may not warn, write, start or connect to anything, unpickle, open
files elsewhere, take long, or take much memory.
"""

import os
import re
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.mutants import Folder

# What no reader does. Prefixes of the events that Python announces to audit hooks.
_FORBIDDEN = (
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename", "os.rmdir"),
    *("os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "os.putenv"),
    *("subprocess.", "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request"),
    *("pickle.find_class", "shutil.", "tempfile.", "ctypes.dlopen", "code.__new__", "exec"),
)
# Modules that are imported on first use are read, compiled and run from here.
_LIBRARIES = tuple({sys.prefix, sys.base_prefix, *(str(Path(p).resolve()) for p in sys.path if p)})
_SYSTEM = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "__editable__")

LONGEST_MESSAGE = 2000


@dataclass(frozen=True)
class Reader:
    """One reader, and what is asked of it.

    Attributes:
        name: in the table.
        seeds: makes sound folders.
        read: reads a folder; raises or returns a value.
        again: writes the value that was read into an empty folder and reads it again, and checks
            what else must hold of it; raises AssertionError where that fails.
        mend: makes the digests in a folder right again; None where there are none.
        refusals: what may be raised beside the benchmark's own errors.
        may_write: whether the reader keeps something beside what it reads.
        megabytes: that it may take for one input.
        seconds: likewise, of processor time.
    """

    name: str
    seeds: Callable[[], list[Folder]]
    read: Callable[[Path], Any]
    again: Callable[[Any, Path], None]
    mend: Callable[[Folder], Folder] | None = None
    refusals: tuple[type[Exception], ...] = ()
    may_write: bool = False
    megabytes: int = 200
    seconds: float = 3.0


@dataclass(frozen=True)
class Verdict:
    """What became of one input.

    Attributes:
        outcome: `accepted`, the class of the error it was refused with, or `FAILED`.
        problem: what the reader did that it must not, in one line; empty if nothing.
        seconds: of processor time.
        megabytes: that the process grew by meanwhile.
    """

    outcome: str
    problem: str
    seconds: float
    megabytes: float


class Stuck(BaseException):
    """Raised into a reader that takes too long; no reader can take it for an error of a file."""


class _Watch:
    """Notes what a reader does beside reading, between `start` and `stop`."""

    def __init__(self) -> None:
        self.inside = ""
        self.may_write = False
        self.noted: list[str] = []
        sys.addaudithook(self._heard)

    @contextmanager
    def over(self, folder: Path, may_write: bool) -> Iterator[list[str]]:
        self.noted, self.inside, self.may_write = [], str(folder), may_write
        try:
            yield self.noted
        finally:
            self.inside = ""

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.inside:
            return
        if event == "open":
            self._opened(*args)
        elif event.startswith(_FORBIDDEN) and not self._allowed(event, args):
            self.noted.append(f"{event} {args!r:.80}")

    def _allowed(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "ctypes.dlopen":
            return str(args[0]).startswith(_LIBRARIES)
        if event in ("exec", "code.__new__"):
            # Imports run modules; what a file brings along has no path of a library's.
            name = getattr(args[0], "co_filename", "") if event == "exec" else str(args[1])
            return name.startswith(("<frozen", *_LIBRARIES)) or name == "<string>"
        within = all(str(a).startswith(self.inside) for a in args if isinstance(a, str | Path))
        return self.may_write and within

    def _opened(self, path: object, mode: object, flags: object) -> None:
        name = os.fsdecode(path) if isinstance(path, str | bytes) else ""
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        inside = name.startswith(self.inside) or not name
        if writes and not (inside and self.may_write):
            self.noted.append(f"opened {name!r:.80} for writing")
        elif not inside and not name.startswith((*_LIBRARIES, *_SYSTEM)):
            self.noted.append(f"opened {name!r:.80}, which is elsewhere")


_watch: _Watch | None = None


def _watching() -> _Watch:
    # Hooks cannot be taken away again: one for the process.
    global _watch
    _watch = _watch or _Watch()
    return _watch


def lay(folder: Folder, place: Path) -> None:
    """Makes a place hold just the files of a folder."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for path, data in folder.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)


def judge(reader: Reader, folder: Folder, place: Path) -> Verdict:
    """Returns what a reader does with a folder.

    Args:
        reader: whom.
        folder: what.
        place: a folder to lay it in; whatever is there goes.
    """
    lay(folder, place)
    before, started = _resident(), time.process_time()
    with (
        warnings.catch_warnings(record=True) as warned,
        _watching().over(place, reader.may_write) as noted,
    ):
        warnings.simplefilter("always")
        outcome, problem, value = _read(reader, place)
    seconds, grown = time.process_time() - started, max(0.0, _peak() - before)
    problems = [problem, *noted, *(f"warned '{one.message}'" for one in warned)]
    if grown > reader.megabytes:
        problems.append(f"took {grown:.0f} MB for {sum(map(len, folder.values()))} bytes")
    if seconds > reader.seconds:
        problems.append(f"took {seconds:.1f} s for {sum(map(len, folder.values()))} bytes")
    if not reader.may_write and _listed(place) != sorted(folder):
        problems.append("left other files behind")
    if outcome == "accepted":
        problems.append(_again(reader, value, place.with_name(f"{place.name}-again")))
    found = next((p for p in problems if p), "")
    return Verdict("FAILED" if found else outcome, found[:400], seconds, grown)


def _read(reader: Reader, place: Path) -> tuple[str, str, Any]:
    from benchmark.errors import BenchmarkError

    signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 4 * reader.seconds)
    try:
        return "accepted", "", reader.read(place)
    except (BenchmarkError, *reader.refusals) as error:
        return type(error).__name__, _message_fault(error), None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "FAILED", f"{type(error).__name__} at {_line(error)}: {error!s:.150}", None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _stop(*_: object) -> None:
    raise Stuck("takes too long")


def _message_fault(error: BaseException) -> str:
    """Returns what is wrong with an error's message; empty if nothing is."""
    message = str(error)
    if not isinstance(error, OSError) and (not message or not message.isprintable()):
        where = f"{type(error).__name__} at {_line(error)}"
        return f"{where} with a message of other than one line: {message!r:.150}"
    if len(message) > LONGEST_MESSAGE:
        return (
            f"{type(error).__name__} at {_line(error)} with a message of {len(message)} characters"
        )
    return ""


def _line(error: BaseException) -> str:
    """Returns the last line of ours that an error passed, as file and function."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if re.search(r"/(benchmark|methods)/", f.filename)] or frames[-1:]
    return f"{Path(own[-1].filename).name} {own[-1].name}" if own else "nowhere"


def _again(reader: Reader, value: Any, place: Path) -> str:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        reader.again(value, place)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        return f"accepted, but {type(error).__name__} at {_line(error)}: {said}"
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return ""


def _listed(place: Path) -> list[str]:
    return sorted(str(p.relative_to(place)) for p in place.rglob("*") if not p.is_dir())


def _resident() -> float:
    """Returns the megabytes of the process now, and starts the count of its peak anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:  # another system than Linux, where memory is not counted
        return 0.0


def _peak() -> float:
    try:
        return _status("VmHWM")
    except OSError:
        return 0.0


def _status(name: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) / 1024
