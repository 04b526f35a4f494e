"""Posting a report: hostile archives, forged workflows, lively text; against a server of ours."""

import http.server
import importlib.util
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

SCRIPT = Path(__file__).parents[1] / ".github" / "scripts" / "post_report.py"
_spec = importlib.util.spec_from_file_location("post_report", SCRIPT)
assert _spec is not None and _spec.loader is not None
post_report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(post_report)

WORKFLOW = post_report.WORKFLOW
HEAD = "a" * 40
RUN: dict[str, Any] = {
    "id": 7,
    "path": WORKFLOW,
    "head_sha": HEAD,
    "head_branch": "main",
    "head_repository": {"id": 5, "owner": {"login": "ada"}},
    "repository": {"html_url": "https://github.com/us/board"},
}
PULL: dict[str, Any] = {"number": 3, "head": {"sha": HEAD, "repo": {"id": 5}}}


def archive(text: bytes = b"# Review\n", name: str = "review.md", method: int = 8) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as members:
        members.writestr(name, text)
    return data.getvalue()


@dataclass
class GitHub:
    """What the server knows, and what was sent to it."""

    pulls: list[Any] = field(default_factory=lambda: [PULL])
    blobs: dict[str, str] = field(default_factory=lambda: {HEAD: "x", "main": "x"})
    archive: bytes = field(default_factory=archive)
    artifacts: int = 1
    comments: list[Any] = field(default_factory=list)
    sent: list[tuple[str, str, str]] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    storage: str = ""
    asked: dict[str, list[str]] = field(default_factory=dict)

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        if path == "/repos/us/board/pulls":
            self.asked = query
            return self.pulls
        if path == f"/repos/us/board/contents/{WORKFLOW}":
            return {"sha": self.blobs[query["ref"][0]]}
        if path == "/repos/us/board/actions/runs/7/artifacts":
            one = {"id": 9, "name": "review", "expired": False}
            return {"artifacts": [one] * self.artifacts}
        if path == "/repos/us/board/issues/3/comments":
            page = int(query["page"][0])
            return self.comments[100 * (page - 1) : 100 * page]
        return None


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        known: GitHub = self.server.known  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        known.seen.append((parts.path, self.headers.get("Authorization", "")))
        if parts.path.endswith("/actions/artifacts/9/zip"):
            self.send_response(302)
            self.send_header("Location", f"{known.storage}/blob")
            self.end_headers()
            return
        found = known.answer(parts.path, parse_qs(parts.query))
        data = known.archive if parts.path == "/blob" else json.dumps(found).encode()
        self.send_response(404 if found is None and parts.path != "/blob" else 200)
        self.end_headers()
        self.wfile.write(data)

    def _change(self) -> None:
        known: GitHub = self.server.known  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        known.sent.append((self.command, self.path, json.loads(body)["body"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_PATCH = _change  # noqa: N815


@pytest.fixture
def github() -> Iterator[GitHub]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.known = GitHub()  # type: ignore[attr-defined]
    server.known.storage = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.known  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def post(github: GitHub, folder: Path, **changes: Any) -> int:
    event = folder / "event.json"
    said = {"workflow_run": {**RUN, **changes}, "repository": {"default_branch": "main"}}
    event.write_text(json.dumps(said))
    environment = {
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_API_URL": github.storage,
        "GITHUB_REPOSITORY": "us/board",
        "GITHUB_TOKEN": "secret",
    }
    return int(post_report.main(environment))


def posted(github: GitHub) -> str:
    [(method, path, body)] = github.sent
    assert (method, path) == ("POST", "/repos/us/board/issues/3/comments")
    assert body.startswith(post_report.MARK)
    return body.removeprefix(post_report.MARK).strip()


def test_a_report_is_posted_where_the_event_says(github: GitHub, tmp_path: Path) -> None:
    assert post(github, tmp_path) == 0
    assert posted(github) == "# Review"
    assert github.asked["head"] == ["ada:main"] and github.asked["base"] == ["main"]


def test_the_token_stays_with_github(github: GitHub, tmp_path: Path) -> None:
    post(github, tmp_path)
    tokens = dict(github.seen)
    assert tokens.pop("/blob") == ""
    assert set(tokens.values()) == {"Bearer secret"}


def test_a_later_report_takes_the_place_of_an_earlier_one(github: GitHub, tmp_path: Path) -> None:
    bot, mark = "github-actions[bot]", post_report.MARK
    github.comments = [{"id": 1, "user": {"login": "eve"}, "body": f"{mark}\nmine"}] * 100
    github.comments += [{"id": 2, "user": {"login": bot}, "body": f"{mark}\nold"}]
    assert post(github, tmp_path) == 0
    assert [sent[:2] for sent in github.sent] == [("PATCH", "/repos/us/board/issues/comments/2")]


@pytest.mark.parametrize(
    "pulls",
    [
        [],
        [PULL, PULL],
        [{**PULL, "head": {"sha": "b" * 40, "repo": {"id": 5}}}],
        [{**PULL, "head": {"sha": HEAD, "repo": {"id": 6}}}],
        [{**PULL, "head": {"sha": HEAD, "repo": None}}],
    ],
)
def test_no_other_pull_request_gets_the_report(
    github: GitHub, tmp_path: Path, pulls: list[Any]
) -> None:
    github.pulls = pulls
    assert post(github, tmp_path) == 1 and github.sent == []


def test_a_workflow_of_the_same_name_is_not_believed(github: GitHub, tmp_path: Path) -> None:
    assert post(github, tmp_path, path=".github/workflows/mine.yml") == 0
    assert "proves nothing" in posted(github)


def test_a_workflow_that_the_pull_request_changed_is_not_believed(
    github: GitHub, tmp_path: Path
) -> None:
    github.archive = archive(b"**Nothing speaks against it.**")
    github.blobs[HEAD] = "y"
    assert post(github, tmp_path, path=f"{WORKFLOW}@refs/pull/3/merge") == 0
    assert "proves nothing" in posted(github) and "Nothing speaks" not in posted(github)


@pytest.mark.parametrize(
    "content",
    [
        b"PK no archive",
        archive(name="../review.md"),
        archive(name="other.md"),
        archive(bytes(post_report.LARGEST_REPORT + 1)),  # a bomb: a thousandth of that when packed
        bytes(post_report.LARGEST_ARCHIVE + 1),
        archive(b"x" * 100, method=0).replace(b"x" * 100, b"y" * 100),
    ],
    ids=["none", "outside", "other", "bomb", "large", "damaged"],
)
def test_an_archive_that_is_no_report_is_not_shown(
    github: GitHub, tmp_path: Path, content: bytes
) -> None:
    github.archive = content
    assert post(github, tmp_path) == 0
    where = "https://github.com/us/board/actions/runs/7"
    assert posted(github) == (f"The review left no report that can be shown; its log is at {where}")


@pytest.mark.parametrize("count", [0, 2])
def test_one_report_is_one(github: GitHub, tmp_path: Path, count: int) -> None:
    github.artifacts = count
    assert post(github, tmp_path) == 0 and "no report" in posted(github)


@pytest.mark.parametrize(
    "lively",
    [
        *("@all", "`@all`", "#12", "us/board#12", "GH-12", "![](https://x.org/a.png)"),
        *("[a](b)", "[a][b]", "[a]: b", "<img src=x>", "</details>", "<!-- x", "www.x.org"),
        *("HTTPS://x.org", "mailto:a@b.org", "&lt;b&gt;", "&#60;", "a@b.org"),
    ],
)
def test_text_is_lifeless(lively: str) -> None:
    dead = post_report.lifeless(lively)
    assert lively not in dead
    # What a reader sees is the same.
    assert dead.replace("\u200b", "") == lively


def test_what_does_not_print_is_replaced() -> None:
    assert post_report.lifeless("a\x1b[2Jb\u202ec\r\nd") == "a?[2Jb?c\nd"


def test_our_own_reports_read_as_they_are() -> None:
    text = "# Review\n\n| `a/b` | 1.5 |\n|---|---:|\n\n- **Holds.** [61.2, 70.0]\n"
    assert post_report.lifeless(text) == text


def test_a_long_report_is_cut_behind_a_line(github: GitHub, tmp_path: Path) -> None:
    github.archive = archive(b"| a row |\n" * 50_000)
    assert post(github, tmp_path) == 0
    text = posted(github)
    assert len(text) < 65_000 and "The rest is in the report of the run" in text
    assert text.splitlines()[-3] == "| a row |"
