"""The process in which a method is examined: it may hang, crash or leave without harm to others.

Run as `python -m benchmark.contract.child`: one job as JSON on the standard input, answers as lines
of JSON to the file descriptor that the job names.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import methods
from benchmark import handbook
from benchmark.contract.checks import CHECKS, ask, failures
from benchmark.contract.examining import Subject
from benchmark.contract.sources import Source, load
from benchmark.contract.watching import watched
from benchmark.distributed import steady
from benchmark.errors import BenchmarkError

# A second process that has not answered after so many seconds does not count.
_WAIT = 60.0


def main() -> None:
    """Does the job of this process."""
    job: dict[str, Any] = json.load(sys.stdin)
    source = Source(
        job["spelling"],
        job["file"],
        tuple(job["folders"]),
        tuple((name, value) for name, value in job["entries"]),
    )

    def say(kind: str, **content: object) -> None:
        line = json.dumps({"kind": kind, **content}) + "\n"
        os.write(job["pipe"], line.encode())

    with steady(), tempfile.TemporaryDirectory() as scratch:
        say("ready")
        if job["digests"]:
            _limit_memory(job["memory"])
            _digests(source, Path(scratch), say)
            return
        with _second_process(job) as elsewhere:
            _limit_memory(job["memory"])
            _examine(source, Path(scratch), elsewhere, say)


def _examine(
    source: Source,
    scratch: Path,
    elsewhere: Callable[[], dict[str, str]],
    say: Callable[..., None],
) -> None:
    say("check", name="loads")
    problem = ""
    with watched() as seen:
        try:
            spelling = load(source, scratch)
        except BenchmarkError as error:
            problem = str(error)
    if not problem and seen.printed:
        problem = f"wrote '{seen.printed}' while it loaded"
    if not problem and seen.moved:
        problem = f"{seen.moved[0]} changed while it loaded"
    say("answer", name="loads", problems=[problem] if problem else [], detail="", skipped="")
    if problem:
        return
    subject = Subject(spelling, notice=lambda text: say("case", text=text))
    subject.elsewhere = elsewhere
    say("method", name=subject.name, spelling=spelling)
    failed = False
    for name in CHECKS:
        say("check", name=name)
        answer = ask(subject, name)
        failed |= bool(answer.problems)
        say("answer", name=name, **asdict(answer))
    for facts in subject.all:
        say(
            "cost",
            case=str(facts.case),
            seconds=facts.seconds,
            megabytes=facts.megabytes,
        )
    if not failed and subject.name in methods.own_names():
        cells = handbook.in_words(subject.kind, failures(subject))
        line = handbook.row(subject.name, subject.kind.info.summary, cells)
        say("page", text=handbook.page(subject.name), row=line)
    say("end")


def _digests(source: Source, scratch: Path, say: Callable[..., None]) -> None:
    try:
        subject = Subject(load(source, scratch))
        found = {str(case): subject.facts(case).digest for case in subject.sample}
    except BenchmarkError:
        found = {}
    say("digests", found=found)


@contextlib.contextmanager
def _second_process(job: dict[str, Any]) -> Iterator[Callable[[], dict[str, str]]]:
    """Starts a second process with another order of sets; yields what waits for its digests."""
    here, there = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name],
        stdin=subprocess.PIPE,
        pass_fds=(there,),
        env=os.environ | {"PYTHONHASHSEED": "2"},
        text=True,
    )
    os.close(there)
    assert process.stdin is not None  # it is a pipe
    json.dump({**job, "digests": True, "pipe": there}, process.stdin)
    process.stdin.close()

    def digests() -> dict[str, str]:
        try:
            process.wait(_WAIT)
        except subprocess.TimeoutExpired:
            return {}
        with os.fdopen(here) as stream:
            answers = [json.loads(line) for line in stream]
        found: dict[str, str] = answers[-1].get("found", {}) if answers else {}
        return found

    try:
        yield digests
    finally:
        process.kill()
        process.wait()


def _limit_memory(megabytes: float) -> None:
    """Bounds the memory that this process may ask for beyond what it has, where that works."""
    if not sys.platform.startswith("linux"):
        return
    import resource  # elsewhere there is none, or none that bounds this

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + int(megabytes * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Neither a core nor an endless file may fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
