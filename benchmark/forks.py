"""The same function over many inputs, in copies of this process that share its memory.

For work on what is in memory already: a copy needs no arguments but a number, and only answers are
sent back. Where there are no such copies (outside Linux), or too little to do, it runs here.
"""

import gc
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from benchmark.errors import WorkerLost

Job = TypeVar("Job")
Answer = TypeVar("Answer")

# What the copies run: set before they are made, so that they have it.
_TASK: list[tuple[Callable[[Any], Any], Sequence[Any]]] = []


def map_forked(
    function: Callable[[Job], Answer], jobs: Sequence[Job], processes: int = 0
) -> Iterator[Answer]:
    """Yields the answer to each job, in the order of the jobs.

    Args:
        function: called in copies of this process, each with one thread.
        jobs: what to call it with; they are not copied.
        processes: how many run at a time; 0 takes the cores there are.

    Raises:
        WorkerLost: a copy was killed.
        Exception: what the function raised, the first in the order of the jobs.
    """
    count = min(processes or os.cpu_count() or 1, len(jobs))
    if count < 2 or not sys.platform.startswith("linux"):
        yield from map(function, jobs)
        return
    _TASK.append((function, jobs))
    # What is here already is not collected again, neither here nor in the copies: a collection
    # would write to, and so copy, all memory that is shared.
    gc.collect()
    gc.freeze()
    try:
        with ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _single) as pool:
            yield from _answers(pool, len(jobs))
    except BrokenProcessPool as error:
        raise WorkerLost(
            "expected answers from all processes, got one killed, most often for memory; try "
            "`robustprune --workers 1`"
        ) from error
    finally:
        gc.unfreeze()
        _TASK.pop()


def _answers(pool: ProcessPoolExecutor, jobs: int) -> Iterator[Any]:
    with warnings.catch_warnings():
        # Python warns of threads in a forked process; those here are idle ones of libraries.
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        waiting: list[Future[Any]] = [pool.submit(_run, number) for number in range(jobs)]
    try:
        # Answers are let go of as they are handed out.
        for number in range(jobs):
            future, waiting[number] = waiting[number], Future()
            yield future.result()
    finally:
        for future in waiting:
            future.cancel()


def _single() -> None:
    """Keeps a copy in its one thread: there is a copy for every core.

    Products of matrices would only take turns with those of other copies. Torch would wait for ever
    for the threads that it had before the copy was made, which a copy lacks.
    """
    threadpool_limits(1)


def _run(number: int) -> Any:
    function, jobs = _TASK[-1]
    return function(jobs[number])
