"""Jobs in processes of this machine; what a lost one held runs in another."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from typing import Any, TypeVar

import torch

from benchmark.distributed.crew import Begun, Ending, attempt, work
from benchmark.distributed.machine import resident, steady
from benchmark.workers import Workers

Job = TypeVar("Job")
Answer = TypeVar("Answer")

# How often limits are looked at, in seconds.
_TICK = 0.5

# Fresh interpreters: a forked one would inherit the parent's thread pools in an unusable state.
_CONTEXT = multiprocessing.get_context("spawn")


def run(
    function: Callable[[Job], Answer],
    jobs: Sequence[Job],
    workers: Workers,
    device: torch.device,
    begun: Begun,
    after: Mapping[int, int],
) -> Iterator[tuple[Job, Answer]]:
    """Yields each job with its answer as it finishes; arguments and errors as for `map_jobs`."""
    count = min(workers.on(device), len(jobs))
    crew = _Processes([_Worker(function, place, device) for place in range(count)], workers)
    try:
        yield from work(crew, jobs, workers.losses, begun, after)
    finally:
        for worker in crew.all:
            worker.end()


class _Processes:
    """A crew of processes."""

    def __init__(self, crew: "list[_Worker]", workers: Workers) -> None:
        self.all, self._workers = crew, workers

    def free(self) -> bool:
        """Returns whether any process has no job."""
        return not all(worker.busy for worker in self.all)

    def busy(self) -> bool:
        """Returns whether any process has a job."""
        return any(worker.busy for worker in self.all)

    def begin(self, number: int, job: object) -> None:
        """Sends a job to the first process that has none."""
        next(worker for worker in self.all if not worker.busy).begin(number, job)

    def endings(self) -> list[Ending]:
        """Waits until a process has an answer or is gone, or limits are to be looked at."""
        busy = [worker for worker in self.all if worker.busy]
        watched = [end for worker in busy for end in (worker.pipe, worker.process.sentinel)]
        connection.wait(watched, timeout=_TICK if self._workers.limited else None)
        found = (worker.ending(self._workers) for worker in busy)
        return [ending for ending in found if ending is not None]


class _Worker:
    """A process that runs one job after the other."""

    def __init__(self, function: Callable[..., object], place: int, device: torch.device) -> None:
        self._start = (function, place, device)
        self.number: int | None = None
        self.since = 0.0
        self.replace()

    def replace(self) -> None:
        """Starts the process, after ending the one before it."""
        self.end()
        self.number = None
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, *self._start), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def busy(self) -> bool:
        """Whether it has a job."""
        return self.number is not None

    def begin(self, number: int, job: object) -> None:
        """Sends it a job; a process that is gone is noticed later."""
        self.number, self.since = number, time.monotonic()
        try:
            self.pipe.send(job)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def ending(self, workers: Workers) -> Ending | None:
        """Returns how its job ended, None while it runs; one that is lost is replaced."""
        number, found = self.number, self._received()
        assert number is not None  # it is busy
        if found is not None:
            self.number = None
            return Ending(number, *found)
        if not (reason := self._lost(workers)):
            return None
        self.replace()
        return Ending(number, lost=reason)

    def _received(self) -> tuple[Any, Exception | None] | None:
        """Returns its answer and its error; None where there is none, or half of one."""
        try:
            return self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):
            self.process.join()
            return None

    def _lost(self, workers: Workers) -> str:
        """Returns what became of it, in words; empty if it is alive and within its limits."""
        if not self.process.is_alive():
            return f"ended with code {self.process.exitcode}"
        if workers.minutes and time.monotonic() - self.since > 60 * workers.minutes:
            return f"took more than {workers.minutes:g} minutes"
        if workers.gigabytes and resident(self.process.pid) > 1e9 * workers.gigabytes:
            return f"held more than {workers.gigabytes:g} GB"
        return ""

    def end(self) -> None:
        """Kills the process, if there is one; results on disk are written whole or not at all."""
        process: Any = getattr(self, "process", None)
        if process is not None:
            process.kill()
            process.join()
            self.pipe.close()


def _serve(
    pipe: connection.Connection,
    function: Callable[[Any], object],
    place: int,
    device: torch.device,
) -> None:
    """Answers jobs until the parent is gone."""
    # An interrupt from the keyboard reaches the whole group; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1:
        torch.cuda.set_device(place % torch.cuda.device_count())
    with steady():
        while True:
            pipe.send(attempt(function, pipe.recv()))


def _leave_with_parent() -> None:
    """Ends this worker when its parent is gone: a killed parent cannot end it, and would not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
