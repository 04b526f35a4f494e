"""Which jobs wait, which run, and how often each was lost; shared by the executors."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from benchmark.errors import WorkerLost

Job = TypeVar("Job")


class Queue(Generic[Job]):
    """Jobs by number, in order; a lost one goes first, one that waits for another after that."""

    def __init__(
        self, jobs: Sequence[Job], losses: int, after: Mapping[int, int] | None = None
    ) -> None:
        """Takes the jobs, how many times each may be lost, and which waits for which to be done."""
        self.jobs = jobs
        self._after = after or {}
        self._waiting = deque(n for n in range(len(jobs)) if n not in self._after)
        self._lost: Counter[int] = Counter()
        self._losses = losses

    def __bool__(self) -> bool:
        """Returns whether any job may begin."""
        return bool(self._waiting)

    def take(self) -> int:
        """Returns the number of the next job."""
        return self._waiting.popleft()

    def done(self, number: int) -> None:
        """Lets the jobs begin that waited for this one."""
        self._waiting.extend(n for n, first in self._after.items() if first == number)

    def drop(self) -> None:
        """Forgets what waits."""
        self._waiting.clear()
        self._after = {}

    def lost(self, number: int, reason: str) -> None:
        """Puts a lost job first.

        Raises:
            WorkerLost: it was lost too often.
        """
        self._lost[number] += 1
        if self._lost[number] > self._losses:
            raise WorkerLost(
                f"expected a job to end, got {self._lost[number]} workers that {reason} (out of "
                "memory, or a calling script without its `if __name__ == '__main__'` guard); what "
                "is done is kept, run it again, with fewer workers if it happens again"
            )
        self._waiting.appendleft(number)
