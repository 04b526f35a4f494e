"""Examining a method from outside: a child process with limits, and a report of what it found."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from benchmark.contract.checks import CHECKS, MEGABYTES, SECONDS, Answer, Check
from benchmark.contract.sources import Source
from benchmark.errors import WorkerLost, shorten

# Loading the engine itself is not the method's doing; a machine may be busy.
_START = 180.0

# What a child may say in all, in bytes: it runs foreign code.
_MOST = 4 << 20

# Two checks beside those of results: they are about the process that runs them.
OUTER: dict[str, tuple[str, str]] = {
    "loads": (
        "loads, silently, and registers its name",
        "mend what was raised; a file only defines things, and `@register` names the method",
    ),
    "finishes": (
        "comes to an end, within the time, in the process it was started in",
        "look at the case that is named: an endless loop, a call of exit, a crash of native code, "
        "or too much work for a network this small (--seconds allows more)",
    ),
}

Notice = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Limits:
    """What a method may take while it is examined.

    Attributes:
        seconds: in all, once the engine is loaded.
        megabytes: of memory, beyond what the engine holds; twice as much ends it.
    """

    seconds: float = SECONDS
    megabytes: float = MEGABYTES


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        promise: what the method promises.
        advice: what to do if it is broken.
        answer: what was found.
    """

    check: str
    promise: str
    advice: str
    answer: Answer


@dataclass(frozen=True)
class Cost:
    """What one case took: its words, seconds, and megabytes of memory (0 if unknown)."""

    case: str
    seconds: float
    megabytes: float


@dataclass
class Report:
    """What the examination of a method found.

    Attributes:
        name: of the method; what the user wrote where it does not load.
        findings: one a check, in order.
        costs: one a case.
        seconds: that all of it took, loading the engine included.
        page: its page of the handbook, for a method of this project that passes.
        row: its line of the handbook's table.
    """

    name: str
    findings: list[Finding] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    seconds: float = 0.0
    page: str = ""
    row: str = ""

    @property
    def failed(self) -> list[Finding]:
        """Findings of broken promises."""
        return [finding for finding in self.findings if finding.answer.problems]


def examined(
    source: Source, limits: Limits | None = None, notice: Notice = lambda done, total, text: None
) -> Report:
    """Returns what the examination of a method finds; its code runs in a child process alone.

    Args:
        source: where the method lies.
        limits: of time and memory.
        notice: told of each check: how many are done, of how many, and which runs.

    Raises:
        WorkerLost: the child did not start, which is not the method's doing.
    """
    limits = limits or Limits()
    report = Report(source.spelling or source.file)
    answers: dict[str, Answer] = {}
    start = time.monotonic()
    with _child(source, limits) as child:
        told = _Told()
        for message in child.messages(limits):
            told.take(message, answers, report)
            if message.get("kind") in ("check", "case"):
                notice(len(answers), len(CHECKS) + 1, told.what)
        end = child.ending()
    report.seconds = time.monotonic() - start
    if not told.ready:
        raise WorkerLost(f"expected a process that examines the method, got {end or 'none'}")
    broken = "" if told.ended or answers.get("loads", Answer()).problems else told.ending(end)
    answers["finishes"] = Answer((broken,) if broken else ())
    report.findings = [_finding(name, answers.get(name), broken) for name in _order()]
    return report


def _order() -> list[str]:
    return ["loads", "finishes", *CHECKS]


def explained(name: str) -> tuple[str, str]:
    """Returns the promise and the advice of a check."""
    if name in OUTER:
        return OUTER[name]
    check: Check = CHECKS[name]
    return check.promise, check.advice


def table() -> str:
    """Returns all checks as a table in Markdown: name, promise, what to do."""
    lines = ["| check | the method … | if not |", "|---|---|---|"]
    for name in _order():
        promise, advice = (text.replace("|", "\\|") for text in explained(name))
        lines.append(f"| {name} | {promise} | {advice} |")
    return "\n".join(lines)


def _finding(name: str, answer: Answer | None, broken: str) -> Finding:
    why = "the examination did not come so far" if broken else "the method does not load"
    return Finding(name, *explained(name), answer or Answer(skipped=why))


class _Told:
    """What a child has told so far."""

    def __init__(self) -> None:
        """Begins with nothing told."""
        self.ready = self.ended = False
        self.what = "loads"
        self.case = ""

    def take(self, message: dict[str, Any], answers: dict[str, Answer], report: Report) -> None:
        """Takes one message of the child; what makes no sense is passed over."""
        kind = message.get("kind")
        self.ready |= kind == "ready"
        self.ended |= kind == "end"
        if kind == "check":
            self.what, self.case = shorten(str(message.get("name"))), ""
        elif kind == "case":
            self.case = shorten(str(message.get("text")))
        elif kind == "method":
            report.name = shorten(str(message.get("spelling")))
        elif kind == "answer" and message.get("name") in _order():
            problems = tuple(shorten(str(text), 400) for text in message.get("problems", ()))
            words = [shorten(str(message.get(key, "")), 400) for key in ("detail", "skipped")]
            answers[message["name"]] = Answer(problems, *words)
        elif kind == "cost":
            numbers = [float(message.get(key, 0.0)) for key in ("seconds", "megabytes")]
            report.costs.append(Cost(shorten(str(message.get("case"))), *numbers))
        elif kind == "page":
            report.page, report.row = str(message["text"]), str(message["row"])

    def ending(self, end: str) -> str:
        """Returns why the child did not come to its end, and where it was."""
        return f"{end} during '{self.what}'" + (f", {self.case}" if self.case else "")


class _Child:
    """A process that examines."""

    def __init__(self, process: subprocess.Popen[str], pipe: int, errors: IO[bytes]) -> None:
        self._process, self._pipe, self._errors = process, pipe, errors
        self._late = ""

    def messages(self, limits: Limits) -> Iterator[dict[str, Any]]:
        """Yields what the child says, until it ends or its time is over."""
        deadline, buffer, total = time.monotonic() + _START, b"", 0
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._pipe], [], [], left)[0]:
                self._late = f"not at its end after {limits.seconds:g} s"
                return
            piece = os.read(self._pipe, 1 << 16)
            total += len(piece)
            if not piece or total > _MOST:
                return
            *lines, buffer = (buffer + piece).split(b"\n")
            for message in _decoded(lines):
                if message.get("kind") == "ready":
                    deadline = time.monotonic() + limits.seconds
                yield message

    def ending(self) -> str:
        """Returns how the child ended, in words."""
        if self._late:
            return self._late
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "a process that no longer answers"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"left with exit code {code}{self._last_words()}"

    def _last_words(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f" ({shorten(lines[-1], 200)})" if lines else ""


def _decoded(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(line)
            if isinstance(message, dict):
                yield message


@contextlib.contextmanager
def _child(source: Source, limits: Limits) -> Iterator[_Child]:
    """Starts a child in a session and a folder of its own; ends all of the session."""
    here, there = os.pipe()
    job = {
        **asdict(source),
        "pipe": there,
        "digests": False,
        # So that a method that takes too much is told by how much, up to twice the limit.
        "memory": 2 * limits.megabytes,
    }
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path),
        "PYTHONSAFEPATH": "1",
        "PYTHONHASHSEED": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmark.contract.child"],
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
            pass_fds=(there,),
            env=environment,
            cwd=folder,
            start_new_session=True,
            text=True,
        )
        os.close(there)
        try:
            assert process.stdin is not None  # it is a pipe
            with contextlib.suppress(BrokenPipeError):
                json.dump(job, process.stdin)
                process.stdin.close()
            yield _Child(process, here, errors)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(here)
