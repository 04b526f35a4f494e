"""Jobs in processes of this machine; what a lost one held runs in another."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from typing import Any, TypeVar

import torch

from benchmark.distributed.crew import Queue
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
    after: Mapping[int, int] | None = None,
) -> Iterator[tuple[Job, Answer]]:
    """Yields each job with its answer as it finishes; arguments and errors as for `map_jobs`."""
    queue = Queue(jobs, workers.losses, after)
    count = min(workers.on(device), len(jobs))
    crew = [_Worker(function, number, device) for number in range(count)]
    error: Exception | None = None
    try:
        while queue or any(worker.busy for worker in crew):
            for worker in crew:
                if queue and not worker.busy:
                    worker.begin(queue.take(), jobs)
            _wait(crew, workers)
            for worker in (w for w in crew if w.busy):
                number, found = worker.number, worker.received()
                assert number is not None  # it is busy
                if found is None:
                    reason = worker.lost(workers)
                    if reason:
                        worker.replace()
                        queue.lost(number, reason)
                    continue
                worker.number = None
                answer, failure = found
                if failure is None:
                    queue.done(number)
                    yield jobs[number], answer
                else:
                    error = error or failure
                    queue.drop()
        if error is not None:
            raise error
    finally:
        for worker in crew:
            worker.end()


def _wait(crew: Sequence["_Worker"], workers: Workers) -> None:
    """Waits until a busy worker has an answer or is gone, or limits are to be looked at."""
    watched = [end for w in crew if w.busy for end in (w.pipe, w.process.sentinel)]
    connection.wait(watched, timeout=_TICK if workers.limited else None)


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

    def begin(self, number: int, jobs: Sequence[object]) -> None:
        """Sends it a job; a process that is gone is noticed later."""
        self.number, self.since = number, time.monotonic()
        try:
            self.pipe.send(jobs[number])
        except (BrokenPipeError, ConnectionResetError):
            pass

    def received(self) -> tuple[Any, Exception | None] | None:
        """Returns its answer and its error; None where there is none, or half of one."""
        try:
            return self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):
            self.process.join()
            return None

    def lost(self, workers: Workers) -> str:
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
            job = pipe.recv()
            try:
                answer, failure = function(job), None
            except Exception as error:  # whatever a job raises is the caller's
                error.add_note(traceback.format_exc())
                answer, failure = None, error
            _send(pipe, answer, failure)


def _send(pipe: connection.Connection, answer: object, failure: Exception | None) -> None:
    """Sends an answer; one that does not pickle becomes an error that says so."""
    try:
        pipe.send((answer, failure))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        pipe.send((None, TypeError(f"expected an answer that pickles, got {error}: {failure}")))


def _leave_with_parent() -> None:
    """Ends this worker when its parent is gone: a killed parent cannot end it, and would not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
