"""Files from elsewhere: resumed where they broke off, bounded, verified before they have a name.

A download has several sources, tried in order. Beside the file that it becomes lies what is there
already (`<name>.part`) and where that is from (`<name>.origin`); both go when it is whole. What is
to come is known beforehand wherever possible, by size and SHA-256, and nothing else gets the name.
Why each source failed is told apart, since the next step differs.
"""

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from benchmark.errors import DownloadFailed, StorageError, shorten
from benchmark.files import alone, read_bounded, write_atomically

# Told the bytes that are there, and those of the whole file, or 0 where nobody knows.
Told = Callable[[int, int], None]

_REDIRECTS = 5
_PIECE = 1 << 18
# How much of an answer is looked at to tell a page from a file.
_HEAD = 512
_LARGEST_ORIGIN = 1 << 14
# A server that says more to tell two versions apart is not asked to go on.
_LONGEST_MARK = 1000


class SourceFailed(Exception):
    """One source did not give the file; the text says why, without the source's name."""


@dataclass(frozen=True)
class Rules:
    """What a download may do.

    Attributes:
        schemes: of addresses, redirected ones included.
        timeout: seconds without a byte after which a source is given up.
    """

    schemes: tuple[str, ...] = ("https",)
    timeout: float = 20.0


@dataclass(frozen=True)
class Expected:
    """What is known of a file beforehand.

    Attributes:
        largest: bytes that it may have at most.
        bytes: its size, or None.
        sha256: of its content, or empty.
    """

    largest: int
    bytes: int | None = None
    sha256: str = ""

    @property
    def most(self) -> int:
        """Bytes after which more is too much."""
        return self.largest if self.bytes is None else min(self.largest, self.bytes)


# Looks at an answer's headers and first bytes, and raises SourceFailed if it is no file. Returns
# the address to ask instead, or an empty text to take the answer.
Judge = Callable[[Mapping[str, str], bytes], str]


def no_page(headers: Mapping[str, str], head: bytes) -> str:
    """Refuses a web page where a file is expected.

    Raises:
        SourceFailed: the answer is HTML by its own word, or begins like it.
    """
    start = head.lstrip().lower()
    if headers.get("content-type", "").startswith("text/html") or start.startswith(
        (b"<!doctype html", b"<html")
    ):
        raise SourceFailed("a web page instead of the file; open the address in a browser")
    return ""


@dataclass(frozen=True)
class Request:
    """A file to have.

    Attributes:
        sources: addresses, the preferred one first.
        target: what it becomes.
        expected: what is known of it.
        rules: what the download may do.
        judge: tells a page from a file.
    """

    sources: Sequence[str]
    target: Path
    expected: Expected
    rules: Rules = Rules()
    judge: Judge = field(default=no_page)


def quietly(done: int, whole: int) -> None:
    """Tells nobody."""


def fetch(request: Request, told: Told = quietly) -> Path:
    """Returns the target, fetched from the first source that gives what is expected.

    A target that is there already is verified and taken. Two processes that want the same file take
    turns, and the second finds it.

    Raises:
        DownloadFailed: no source gave it; the message says of each why.
        StorageError: the disk refuses.
    """
    target = request.target
    with alone(target.with_name(f"{target.name}.lock")):
        if target.is_file():
            problem = _differs(target, request.expected)
            if not problem:
                return target
            # Once verified, and altered since.
            _discard(target)
        failures = []
        for source in dict.fromkeys(request.sources):
            try:
                _take(source, request, told)
            except SourceFailed as failure:
                failures.append(f"{shorten(source, 200)}: {failure}")
            else:
                return target
    raise DownloadFailed(
        f"expected {shorten(target.name, 100)} from {len(failures) or 'no'} "
        f"source{'' if len(failures) == 1 else 's'}, got "
        f"{'; '.join(failures) or 'no address at all'}; try again later, or bring the file yourself"
    )


def _take(source: str, request: Request, told: Told) -> None:
    """Brings the file from one source, from where an earlier try broke off.

    Raises:
        SourceFailed: it does not give what is expected.
        StorageError: the disk refuses.
    """
    part = request.target.with_name(f"{request.target.name}.part")
    origin = request.target.with_name(f"{request.target.name}.origin")
    for again in range(2):
        known = _resumable(source, part, origin)
        try:
            _append(source, request, (part, origin), known, told)
        except _Restart:
            _discard(part, origin)
            continue
        problem = _differs(part, request.expected)
        if not problem:
            with _disk(request.target):
                part.replace(request.target)
            _discard(origin)
            return
        _discard(part, origin)
        # A piece of another file may have been kept: once more from the start tells.
        if not known or again:
            raise SourceFailed(problem)
    raise SourceFailed("another file each time it is asked; try again later")


class _Restart(Exception):
    """What is kept cannot be continued."""


def _resumable(source: str, part: Path, origin: Path) -> dict[str, str]:
    """Returns the headers that continue what is kept of this source, none where nothing is."""
    try:
        kept = json.loads(read_bounded(origin, _LARGEST_ORIGIN))
        size = part.stat().st_size
    except (OSError, ValueError, RecursionError, StorageError):
        return {}
    if not isinstance(kept, dict) or kept.get("source") != source or not size:
        return {}
    mark = kept.get("mark")
    if not isinstance(mark, str) or not mark.isprintable() or not 0 < len(mark) <= _LONGEST_MARK:
        return {}
    return {"Range": f"bytes={size}-", "If-Range": mark}


def _append(
    source: str,
    request: Request,
    files: tuple[Path, Path],
    known: Mapping[str, str],
    told: Told,
) -> None:
    """Writes what a source answers behind what is kept, or anew where it starts from the front.

    Raises:
        SourceFailed: refused, unreachable, a page, too large or broken off.
        StorageError: the disk refuses.
        _Restart: the source has less than what is kept.
    """
    part, origin = files
    address = source
    for _ in range(_REDIRECTS):
        with _answer(address, known, request.rules) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            resumed = answer.status == 206
            if resumed and not _continues(headers, part):
                raise _Restart
            head = answer.read(_HEAD)
            address = "" if resumed else request.judge(headers, head)
            if address:
                continue
            start = _size(part) if resumed else 0
            done, whole = start, _announced(headers, start)
            if whole > request.expected.most:
                raise SourceFailed(_too_large(request.expected))
            if not resumed:
                _remember(origin, source, headers)
            with _disk(part), part.open("ab" if resumed else "wb") as stream:
                for done in _pieces(answer, head, (stream, start), request.expected):
                    told(done, whole or request.expected.bytes or 0)
            if done < whole:
                raise SourceFailed(
                    f"broken off after {done:,} of {whole:,} bytes; run again to go on from there"
                )
            return
    raise SourceFailed(f"more than {_REDIRECTS} addresses one after the other")


def _continues(headers: Mapping[str, str], part: Path) -> bool:
    """Returns whether a part of a file begins where what is kept ends."""
    return headers.get("content-range", "").startswith(f"bytes {_size(part)}-")


def _size(part: Path) -> int:
    with _disk(part):
        return part.stat().st_size


def _pieces(
    answer: http.client.HTTPResponse, head: bytes, kept: tuple[IO[bytes], int], what: Expected
) -> Iterator[int]:
    """Writes an answer piece by piece behind what is kept; yields how many bytes are there."""
    (stream, done), piece = kept, head
    while piece:
        done += len(piece)
        if done > what.most:
            raise SourceFailed(_too_large(what))
        stream.write(piece)
        yield done
        with _network():
            piece = answer.read(_PIECE)


def _too_large(what: Expected) -> str:
    if what.bytes is not None and what.bytes <= what.largest:
        return f"more than the {what.bytes:,} bytes that it should have; it was changed there"
    return f"more than {what.largest:,} bytes"


def _announced(headers: Mapping[str, str], start: int) -> int:
    """Returns the size that the whole file will have by the answer's word; 0 where it says none."""
    length = headers.get("content-length", "")
    return start + int(length) if length.isascii() and length.isdigit() else 0


def _remember(origin: Path, source: str, headers: Mapping[str, str]) -> None:
    """Keeps what tells whether the file is still the same when it is continued."""
    tag = headers.get("etag", "")
    # A weak tag promises the same meaning, not the same bytes.
    mark = tag if tag and not tag.startswith("W/") else headers.get("last-modified", "")
    write_atomically(origin, json.dumps({"source": source, "mark": mark}).encode(), durable=False)


def _differs(path: Path, expected: Expected) -> str:
    """Returns how a file differs from what is expected, or an empty text."""
    with _disk(path), path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
    if size > expected.largest:
        return _too_large(expected)
    if expected.bytes is not None and size != expected.bytes:
        return f"{size:,} bytes instead of {expected.bytes:,}; it was changed there"
    if expected.sha256 and found != expected.sha256:
        return (
            f"other content: sha256 {found[:12]}… instead of {expected.sha256[:12]}…; it was "
            "changed there"
        )
    return ""


def _discard(*files: Path) -> None:
    for path in files:
        with _disk(path):
            path.unlink(missing_ok=True)


# --- The network ----------------------------------------------------------------------------------


class _Bounded(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but few, and none to a scheme that is not allowed."""

    max_redirections = _REDIRECTS
    max_repeats = 2

    def __init__(self, schemes: Sequence[str]) -> None:
        self._schemes = schemes

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Returns the next request."""
        _check_address(newurl, self._schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _check_address(address: str, schemes: Sequence[str]) -> None:
    """Refuses an address that may not be asked.

    Raises:
        SourceFailed: another scheme, or no host.
    """
    try:
        parts = urlsplit(address)
        fine = parts.scheme in schemes and bool(parts.hostname)
    except ValueError:
        fine = False
    if not fine or not address.isascii() or not address.isprintable() or " " in address:
        raise SourceFailed(
            f"an address that is not {' or '.join(schemes)}: {shorten(address, 100)}"
        )


@contextlib.contextmanager
def _answer(
    address: str, headers: Mapping[str, str], rules: Rules
) -> Iterator[http.client.HTTPResponse]:
    """Yields a source's answer.

    Raises:
        SourceFailed: an address that may not be asked, nobody there, or a refusal.
        _Restart: nothing lies behind what is kept.
    """
    _check_address(address, rules.schemes)
    asked = urllib.request.Request(
        address, headers={"User-Agent": "robustprune", "Accept-Encoding": "identity", **headers}
    )
    # What the environment says of proxies holds; cookies and passwords are kept for nobody.
    opener = urllib.request.build_opener(_Bounded(rules.schemes))
    with _network(), opener.open(asked, timeout=rules.timeout) as answer:
        yield answer


# What a refusal means, by status.
_REFUSALS = {
    **dict.fromkeys((301, 302, 303, 307, 308), "redirected too often, or to where nobody follows"),
    401: "it asks for a password (401)",
    403: "forbidden (403): it may be private, or its quota used up",
    404: "no such file there (404)",
    410: "removed from there (410)",
    429: "asked too often (429); wait a while",
    503: "overloaded (503); wait a while",
}


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Turns what a network does into words.

    Raises:
        SourceFailed: nobody there, a refusal, or silence.
        _Restart: nothing lies behind what is kept.
    """
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise _Restart from error
        raise SourceFailed(
            _REFUSALS.get(error.code, f"refused with status {error.code}")
        ) from error
    except urllib.error.URLError as error:
        raise SourceFailed(_unreachable(error.reason)) from error
    except TimeoutError as error:
        raise SourceFailed("no answer in time") from error
    except http.client.HTTPException as error:
        # A body that ends too early is noticed by its size; the rest is no HTTP.
        raise SourceFailed(f"no proper answer ({type(error).__name__})") from error
    except OSError as error:
        raise SourceFailed(_unreachable(error)) from error


def _unreachable(reason: Any) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, socket.gaierror):
        return "no such host, or no network"
    if isinstance(reason, ConnectionRefusedError):
        return "nobody answers there"
    if isinstance(reason, ssl.SSLError):
        return f"no trustworthy connection ({shorten(str(reason.reason or reason), 60)})"
    return f"not reachable ({shorten(str(reason), 80)})"


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turns a disk that refuses into a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"expected to write {shorten(str(path), 400)}, got "
            f"'{error.strerror or type(error).__name__}'; free space or choose a writable folder, "
            "then run again"
        ) from error
