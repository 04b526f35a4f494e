"""The one loop behind the executors with workers: what waits, what runs, what was lost."""

import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol, TypeVar

from benchmark.errors import WorkerLost

Job = TypeVar("Job")

# Told of each job as it begins.
Begun = Callable[[Any], None]


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Attributes:
        number: of the job.
        answer: what it returned.
        failure: what it raised; it ends the run.
        lost: what became of its worker, in words; the job runs again.
    """

    number: int
    answer: Any = None
    failure: Exception | None = None
    lost: str = ""


def attempt(
    function: Callable[[Any], Any],
    job: object,
    dumps: Callable[[object], Any] = ForkingPickler.dumps,
) -> tuple[Any, Exception | None]:
    """Returns a job's answer and what it raised, for a worker to send.

    What does not pickle, or cannot be unpickled, becomes an error that says so.

    Args:
        function: of one job.
        job: the job.
        dumps: how answers travel.
    """
    failure: Exception | None = None
    answer = None
    try:
        answer = function(job)
    except Exception as error:  # whatever a job raises is the caller's
        error.add_note(traceback.format_exc())
        failure = error
    try:
        dumps(answer)
        if failure is not None:
            # An error whose class wants other arguments fails where it arrives.
            ForkingPickler.loads(dumps(failure))
    except Exception as error:  # any class may refuse in any way
        return None, TypeError(f"expected an answer that pickles, got {error}: {failure}")
    return answer, failure


class Crew(Protocol):
    """Workers that take jobs by number."""

    def free(self) -> bool:
        """Returns whether another job may begin."""

    def busy(self) -> bool:
        """Returns whether any job runs."""

    def begin(self, number: int, job: Any) -> None:
        """Hands out a job."""

    def endings(self) -> list[Ending]:
        """Waits a while and returns what has ended, if anything has."""


def work(
    crew: Crew, jobs: Sequence[Job], losses: int, begun: Begun, after: Mapping[int, int]
) -> Iterator[tuple[Job, Any]]:
    """Yields each job with its answer as it finishes.

    Args:
        crew: idle workers.
        jobs: in order of preference; a lost one goes first.
        losses: how many times each may be lost.
        begun: told of each job as it begins, again where it was lost.
        after: which job, by number, begins only when which other is done.

    Raises:
        Exception: the first that a job raises; jobs in flight end, waiting ones are dropped.
        WorkerLost: a job was lost too often.
    """
    waiting, lost = deque(n for n in range(len(jobs)) if n not in after), Counter[int]()
    failure: Exception | None = None
    while waiting or crew.busy():
        while waiting and crew.free():
            number = waiting.popleft()
            begun(jobs[number])
            crew.begin(number, jobs[number])
        for ending in crew.endings():
            if ending.lost:
                lost[ending.number] += 1
                _check(lost[ending.number], losses, ending.lost)
                if failure is None:
                    waiting.appendleft(ending.number)
            elif ending.failure is not None:
                failure = failure or ending.failure
                waiting.clear()
            else:
                if failure is None:
                    waiting.extend(n for n, first in after.items() if first == ending.number)
                yield jobs[ending.number], ending.answer
    if failure is not None:
        raise failure


def _check(count: int, losses: int, reason: str) -> None:
    """Raises where a job was lost too often."""
    if count > losses:
        raise WorkerLost(
            f"expected a job to end, got {count} workers that {reason} (out of memory, or a "
            "calling script without its `if __name__ == '__main__'` guard); what is done is kept, "
            "run it again, with fewer workers if it happens again"
        )
