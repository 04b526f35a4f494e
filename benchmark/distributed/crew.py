"""Which jobs wait, which run, and how often each was lost; shared by the executors."""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from benchmark.errors import WorkerLost

Job = TypeVar("Job")


class Queue(Generic[Job]):
    """Jobs by number, in order; a lost one goes first."""

    def __init__(self, jobs: Sequence[Job], losses: int) -> None:
        """Takes the jobs, and how many times each may be lost."""
        self.jobs = jobs
        self._waiting = deque(range(len(jobs)))
        self._lost: Counter[int] = Counter()
        self._losses = losses

    def __bool__(self) -> bool:
        """Returns whether any job waits."""
        return bool(self._waiting)

    def take(self) -> int:
        """Returns the number of the next job."""
        return self._waiting.popleft()

    def drop(self) -> None:
        """Forgets what waits."""
        self._waiting.clear()

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
