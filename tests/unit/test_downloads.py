"""Downloads against a server of our own: resumed, bounded, verified, and each failure by name."""

import hashlib
import http.server
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import CONTENT, Site, serving

from benchmark.downloads import Expected, Request, Rules, fetch
from benchmark.errors import DownloadFailed, StorageError

SHA256 = hashlib.sha256(CONTENT).hexdigest()
LOCAL = Rules(schemes=("http",), timeout=5.0)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as about:
        yield about


@pytest.fixture
def ask(site: Site, tmp_path: Path) -> Callable[..., Request]:
    def make(*sources: str, **known: Any) -> Request:
        expected = Expected(
            **{"largest": 1 << 24, "bytes": len(CONTENT), "sha256": SHA256, **known}
        )
        return Request(
            sources or (site.address(),), tmp_path / "cache" / "weights.bin", expected, LOCAL
        )

    return make


def left(request: Request) -> set[str]:
    """Returns what lies in the folder, the lock aside."""
    return {path.name for path in request.target.parent.iterdir()} - {"weights.bin.lock"}


def refused(request: Request) -> str:
    with pytest.raises(DownloadFailed) as caught:
        fetch(request)
    message = str(caught.value)
    assert message.isprintable() and message.startswith("expected weights.bin from ")
    assert not request.target.exists()
    return message


def test_a_file_comes_whole_and_alone(site: Site, ask: Callable[..., Request]) -> None:
    seen = []
    request = ask()
    assert fetch(request, lambda done, whole: seen.append((done, whole))) == request.target
    assert request.target.read_bytes() == CONTENT and left(request) == {"weights.bin"}
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)


def test_what_is_there_is_verified_and_taken(site: Site, ask: Callable[..., Request]) -> None:
    request = ask()
    fetch(request)
    fetch(request)
    assert len(site.asked) == 1
    request.target.write_bytes(CONTENT[:-1] + b"x")
    fetch(request)
    assert len(site.asked) == 2 and request.target.read_bytes() == CONTENT


@pytest.mark.parametrize("point", [1, 700, 300_000, len(CONTENT) - 1])
def test_a_broken_download_goes_on_where_it_stopped(
    site: Site, ask: Callable[..., Request], point: int
) -> None:
    site.breaks = [point]
    request = ask()
    assert f"broken off after {point:,} of" in refused(request)
    assert left(request) == {"weights.bin.part", "weights.bin.origin"}
    fetch(request)
    assert request.target.read_bytes() == CONTENT and left(request) == {"weights.bin"}
    assert [asked for _, asked in site.asked] == ["", f"bytes={point}-"]


def test_a_server_without_ranges_starts_again(site: Site, ask: Callable[..., Request]) -> None:
    site.ranges, site.breaks = False, [1000]
    request = ask()
    refused(request)
    fetch(request)
    assert request.target.read_bytes() == CONTENT


@pytest.mark.parametrize("mark", ["", 'W/"weak"'])
def test_without_a_mark_nothing_is_continued(
    site: Site, ask: Callable[..., Request], mark: str
) -> None:
    site.mark, site.breaks = mark, [1000]
    request = ask()
    refused(request)
    fetch(request)
    assert [asked for _, asked in site.asked] == ["", ""]
    assert request.target.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_starts_again(
    site: Site, ask: Callable[..., Request]
) -> None:
    site.content, site.breaks = CONTENT[::-1], [1000]
    request = ask()
    refused(request)
    site.content, site.mark = CONTENT, '"two"'
    fetch(request)
    assert request.target.read_bytes() == CONTENT


def test_a_piece_of_another_file_is_noticed_at_the_end(
    site: Site, ask: Callable[..., Request]
) -> None:
    site.breaks = [1000]
    request = ask()
    refused(request)
    part = request.target.with_name("weights.bin.part")
    part.write_bytes(b"x" * 1000)
    fetch(request)
    # Continued, found to be another file, and fetched once more from the start.
    assert [asked for _, asked in site.asked] == ["", "bytes=1000-", ""]
    assert request.target.read_bytes() == CONTENT


def test_more_kept_than_there_is_starts_again(site: Site, ask: Callable[..., Request]) -> None:
    site.breaks = [1000]
    request = ask()
    refused(request)
    request.target.with_name("weights.bin.part").write_bytes(CONTENT)
    fetch(request)
    assert request.target.read_bytes() == CONTENT and left(request) == {"weights.bin"}


def test_mirrors_are_tried_in_order_and_each_failure_is_named(
    site: Site, ask: Callable[..., Request], tmp_path: Path
) -> None:
    other = f"http://127.0.0.1:{unused_port()}/weights.bin"
    request = ask(other, site.address())
    fetch(request)
    assert request.target.read_bytes() == CONTENT
    request.target.unlink()
    site.status = 404
    message = refused(request)
    assert "from 2 sources" in message
    assert f"{other}: nobody answers there" in message
    assert f"{site.address()}: no such file there (404)" in message


def unused_port() -> int:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        return int(server.server_address[1])


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "asks for a password"),
        (403, "quota used up"),
        (404, "no such file there"),
        (410, "removed from there"),
        (429, "asked too often"),
        (500, "refused with status 500"),
        (503, "overloaded"),
    ],
)
def test_refusals_are_told_apart(
    site: Site, ask: Callable[..., Request], status: int, words: str
) -> None:
    site.status = status
    assert words in refused(ask())


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("text/html; charset=utf-8", b"anything"),
        ("application/octet-stream", b"\n <!DOCTYPE HTML><title>Quota"),
        ("application/octet-stream", b"<html><body>Sign in"),
    ],
)
def test_pages_are_no_weights(
    site: Site, ask: Callable[..., Request], kind: str, content: bytes
) -> None:
    site.kind, site.content = kind, content
    request = ask(bytes=None)
    assert "a web page instead of the file" in refused(request)
    assert left(request) == set()


@pytest.mark.parametrize(
    ("content", "known", "words"),
    [
        (CONTENT[:-1], {}, "bytes instead of"),
        (CONTENT + b"x", {}, "it was changed there"),
        (CONTENT[::-1], {}, "other content: sha256"),
        (CONTENT, {"bytes": None, "largest": 1000}, "more than 1,000 bytes"),
    ],
)
def test_other_files_are_refused_and_leave_nothing(
    site: Site, ask: Callable[..., Request], content: bytes, known: dict[str, Any], words: str
) -> None:
    site.content = content
    request = ask(**known)
    assert words in refused(request)
    assert left(request) == set()


def test_a_stream_without_a_size_is_cut_at_the_bound(
    site: Site, ask: Callable[..., Request]
) -> None:
    site.sized = False
    request = ask(bytes=None, largest=5000)
    assert "more than 5,000 bytes" in refused(request)
    part = request.target.with_name("weights.bin.part")
    assert not part.exists() or part.stat().st_size <= 5000


def test_redirects_are_few_and_stay_within_the_schemes(
    site: Site, ask: Callable[..., Request]
) -> None:
    assert "redirected too often" in refused(ask(site.address("loop")))
    assert len(site.asked) < 10
    site.location = "ftp://127.0.0.1/weights.bin"
    assert "an address that is not http: ftp://" in refused(ask())
    site.location = "file:///etc/hostname"
    assert "or to where nobody follows" in refused(ask())


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1/x", "file:///etc/passwd", "https://", "https://a b/c", "", "https://ä/x"],
)
def test_only_proper_https_addresses_are_asked(ask: Callable[..., Request], address: str) -> None:
    request = replace(ask(address), rules=Rules())
    assert "an address that is not https" in refused(request)


def test_without_an_address_there_is_nothing_to_ask(ask: Callable[..., Request]) -> None:
    assert "no address at all" in refused(replace(ask(), sources=()))


def test_a_disk_that_refuses_is_said_to(
    site: Site, ask: Callable[..., Request], tmp_path: Path
) -> None:
    request = ask()
    request.target.with_name("weights.bin.part").mkdir(parents=True)
    with pytest.raises(StorageError, match="expected to write"):
        fetch(request)


def test_silence_is_given_up(ask: Callable[..., Request]) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        request = ask(f"http://127.0.0.1:{server.server_address[1]}/x")
        request = replace(request, rules=Rules(("http",), timeout=0.2))
        assert "no answer in time" in refused(request)
