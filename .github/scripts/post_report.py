"""Posts the report of a finished run of submission.yml as a comment on its pull request.

Runs with a token that may comment, so nothing of the pull request is run or believed:

- the run must be of submission.yml, and that file the same in the pull request as on the default
  branch; otherwise the pull request could have written the report itself;
- which pull request it is follows from the event, never from the report;
- the report is one small file in one small archive, and in its text every mention, link, image,
  reference and tag is made lifeless before it is posted.

Only the standard library: nothing is installed where the token is.
"""

import io
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping
from typing import Any

WORKFLOW = ".github/workflows/submission.yml"
ARTIFACT, REPORT = "review", "review.md"
MARK = "<!-- robustprune review -->"

# Bytes of an archive, of the report in it, and characters of a comment, which ends at 65,536.
LARGEST_ARCHIVE = 1 << 20
LARGEST_REPORT = 1 << 20
LONGEST_COMMENT = 60_000
LARGEST_ANSWER = 16 << 20
MOST_PAGES = 20

# Invisible, and between two characters enough for them to mean nothing together.
_APART = "\u200b"
_ALIVE = (
    re.compile(r"(?<=@)(?=\w)"),  # mentions
    re.compile(r"(?<=[#!])(?=[\w\[])"),  # references, images
    re.compile(r"(?<=\])(?=[(\[:])"),  # links
    re.compile(r"(?<=<)(?=[A-Za-z/!?])"),  # tags and comments
    re.compile(r"(?i)(?<=[a-z]:)(?=//)|(?<=\bwww)(?=\.)|(?<=\bmailto)(?=:)"),  # bare addresses
    re.compile(r"(?<=&)(?=[#\w])"),  # entities
    re.compile(r"(?i)(?<=\bGH)(?=-\d)"),
)


class Refusal(Exception):
    """A reason why nothing of the report can be posted."""


class Api:
    """GitHub's interface for one repository."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Takes address, repository and token from where GitHub's runners have them."""
        repository = environment["GITHUB_REPOSITORY"]
        self._base = f"{environment['GITHUB_API_URL']}/repos/{repository}"
        self._token = environment["GITHUB_TOKEN"]

    def bytes(self, path: str, limit: int, method: str = "GET", data: bytes | None = None) -> bytes:
        """Returns an answer of at most `limit` bytes.

        Raises:
            Refusal: an error, or a longer answer.
        """
        request = urllib.request.Request(f"{self._base}/{path}", data=data, method=method)
        request.add_header("Accept", "application/vnd.github+json")
        # Archives lie on another host, which must not see the token.
        request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found: bytes = answer.read(limit + 1)
        except (OSError, urllib.error.URLError) as error:
            raise Refusal(f"{method} of {path.partition('?')[0]} failed: {error}") from error
        if len(found) > limit:
            raise Refusal(f"expected at most {limit} bytes from {path.partition('?')[0]}, got more")
        return found

    def get(self, path: str, **query: str | int) -> Any:
        """Returns the answer to a question."""
        asked = f"?{urllib.parse.urlencode(query)}" if query else ""
        return json.loads(self.bytes(path + asked, LARGEST_ANSWER))

    def send(self, method: str, path: str, body: object) -> None:
        """Sends a change."""
        self.bytes(path, LARGEST_ANSWER, method, json.dumps(body).encode())


def pull_request(api: Api, run: Mapping[str, Any], default_branch: str) -> int:
    """Returns the number of the one open pull request whose head the run was about.

    Raises:
        Refusal: there is none, or not one alone.
    """
    owner = run["head_repository"]["owner"]["login"]
    found = api.get(
        "pulls",
        state="open",
        base=default_branch,
        head=f"{owner}:{run['head_branch']}",
        per_page=100,
    )
    numbers = [
        pull["number"]
        for pull in found
        if pull["head"]["sha"] == run["head_sha"]
        and (pull["head"]["repo"] or {}).get("id") == run["head_repository"]["id"]
    ]
    if len(numbers) != 1:
        raise Refusal(f"expected one open pull request with this head, got {len(numbers)}")
    return int(numbers[0])


def is_ours(api: Api, run: Mapping[str, Any], default_branch: str) -> bool:
    """Returns whether the run was of our workflow, and the pull request left it as it is."""
    if run["path"].partition("@")[0] != WORKFLOW:
        return False
    theirs, ours = (
        api.get(f"contents/{WORKFLOW}", ref=ref)["sha"] for ref in (run["head_sha"], default_branch)
    )
    return bool(theirs == ours)


def report_of(api: Api, run: Mapping[str, Any]) -> str:
    """Returns the text that a run left behind.

    Raises:
        Refusal: there is none, or something else in its place.
    """
    listed = api.get(f"actions/runs/{int(run['id'])}/artifacts", name=ARTIFACT, per_page=2)
    artifacts = [a for a in listed["artifacts"] if a["name"] == ARTIFACT and not a["expired"]]
    if len(artifacts) != 1:
        raise Refusal(f"expected one report, got {len(artifacts)}")
    archive = api.bytes(f"actions/artifacts/{int(artifacts[0]['id'])}/zip", LARGEST_ARCHIVE)
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as members:
            if members.namelist() != [REPORT]:
                raise Refusal(f"expected {REPORT} alone in the archive, got something else")
            with members.open(REPORT) as stream:
                text = stream.read(LARGEST_REPORT + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise Refusal(f"expected an archive with a report, got '{error}'") from error
    if len(text) > LARGEST_REPORT:
        raise Refusal(f"expected a report of at most {LARGEST_REPORT} bytes, got more")
    return text.decode("utf-8", errors="replace")


def lifeless(text: str) -> str:
    """Returns Markdown in which nothing notifies, links, loads, refers or is a tag."""
    lines = (
        "".join(c if c.isprintable() else "?" for c in line) for line in re.split(r"\r?\n", text)
    )
    plain = "\n".join(lines)
    for place in _ALIVE:
        plain = place.sub(_APART, plain)
    return plain


def shortened(text: str, where: str) -> str:
    """Returns a text that fits into a comment, cut behind a line."""
    if len(text) <= LONGEST_COMMENT:
        return text
    kept = text[:LONGEST_COMMENT].rpartition("\n")[0]
    return f"{kept}\n\n… The rest is in the report of the run: {where}\n"


def comment(api: Api, number: int, text: str) -> None:
    """Posts a comment, in the place of an earlier one."""
    body = {"body": f"{MARK}\n{text}"}
    for page in range(1, MOST_PAGES + 1):
        found = api.get(f"issues/{number}/comments", per_page=100, page=page)
        for earlier in found:
            ours = earlier["user"]["login"] == "github-actions[bot]"
            if ours and earlier["body"].startswith(MARK):
                api.send("PATCH", f"issues/comments/{int(earlier['id'])}", body)
                return
        if len(found) < 100:
            break
    api.send("POST", f"issues/{number}/comments", body)


def said(api: Api, run: Mapping[str, Any], default_branch: str) -> str:
    """Returns what is to be said about a run."""
    # From the event, where the run's number alone differs.
    where = f"{run['repository']['html_url']}/actions/runs/{int(run['id'])}"
    if not is_ours(api, run, default_branch):
        return (
            f"`{WORKFLOW}` of this pull request is not that of the default branch, so its report "
            "proves nothing and is not shown. Update the branch, or change workflows in a pull "
            "request of their own.\n"
        )
    try:
        text = report_of(api, run)
    except Refusal as error:
        print(f"no report: {error}", file=sys.stderr)
        return f"The review left no report that can be shown; its log is at {where}\n"
    return shortened(lifeless(text), where)


def main(environment: Mapping[str, str]) -> int:
    """Posts the report that the event is about; returns the exit code."""
    with open(environment["GITHUB_EVENT_PATH"], encoding="utf-8") as stream:
        event = json.load(stream)
    run, default_branch = event["workflow_run"], event["repository"]["default_branch"]
    api = Api(environment)
    try:
        number = pull_request(api, run, default_branch)
        comment(api, number, said(api, run, default_branch))
    except Refusal as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
