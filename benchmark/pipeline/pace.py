"""How long shards take: which to begin first, and how much time is left."""

import time
from collections import Counter
from collections.abc import Sequence

from benchmark.evaluations import (
    AutoAttack,
    Bounds,
    CarliniWagner,
    Pgd,
    Sanity,
    Settings,
    Smoothing,
    Transfer,
)
from benchmark.pipeline.shards import ShardJob, certifies_first

# A pass forward and one back cost about three forward; a step of FAB asks once more.
_STEP, _FAB_STEP = 3, 4

# What takes the same time: the same evaluation of the same kind of network.
_Kind = tuple[str, str]
_Key = tuple[_Kind, str, int]


def passes(settings: Settings) -> int:
    """Returns about how many forward passes an evaluation costs an example that nothing breaks."""
    match settings:
        case AutoAttack():
            costs = {
                "apgd-t": settings.targets * settings.iterations * _STEP,
                "fab-t": settings.targets * settings.iterations * _FAB_STEP,
                "square": settings.queries,
            }
            return sum(costs.get(name, settings.iterations * _STEP) for name in settings.attacks)
        case Pgd() | CarliniWagner():
            balls = max(1, len(settings.epsilons))
            return settings.steps.count * settings.restarts * balls * _STEP
        case Smoothing():
            return settings.n0 + settings.n
        case Sanity():
            steps = settings.huge_steps.count + settings.planted_steps.count
            return settings.draws + steps * _STEP
        case Transfer():
            return settings.steps.count * _STEP
        case Bounds():
            return len(settings.methods) * len(settings.epsilons) * _STEP
        case _:
            return _STEP


def by_urgency(jobs: Sequence[ShardJob]) -> list[ShardJob]:
    """Returns jobs in the order in which they should begin.

    Bounds come first and what spares the proven last, so that nobody waits for bounds or computes
    them twice; among each, the longest first, so that no worker is left alone with a long one.
    """

    def urgency(job: ShardJob) -> tuple[bool, bool, int]:
        spares = certifies_first(job.protocol, job.settings)
        return spares, not isinstance(job.settings, Bounds), -passes(job.settings)

    return sorted(jobs, key=urgency)


class Pace:
    """Estimates the time left from what shards of this run took; stored ones do not count.

    A shard is expected to take as long as the others of its evaluation on its architecture did;
    before any has ended, as long as its passes take at the pace of all that have.
    """

    def __init__(self, jobs: Sequence[ShardJob]) -> None:
        """Takes the jobs that are to run."""
        self._waiting = Counter(map(_kind, jobs))
        self._passes = {_kind(job): passes(job.settings) for job in jobs}
        self._running: dict[_Key, tuple[ShardJob, float]] = {}
        self._ended: Counter[_Kind] = Counter()
        self._seconds: dict[_Kind, float] = {}
        self._together = 1

    def begin(self, job: ShardJob) -> None:
        """Notes that a job begins; again where it was lost."""
        if _key(job) not in self._running:
            self._waiting[_kind(job)] -= 1
        self._running[_key(job)] = job, time.monotonic()
        self._together = max(self._together, len(self._running))

    def end(self, job: ShardJob, seconds: float) -> None:
        """Notes that a job has ended, and what it took without the start of its worker."""
        del self._running[_key(job)]
        self._ended[_kind(job)] += 1
        self._seconds[_kind(job)] = self._seconds.get(_kind(job), 0.0) + seconds

    def oldest(self) -> ShardJob | None:
        """Returns the job that runs for the longest time, None where none runs."""
        return next((job for job, _ in self._running.values()), None)

    def left(self) -> float | None:
        """Returns the seconds that are left, None before anything has ended."""
        if not self._ended:
            return None
        now = time.monotonic()
        waiting = sum(count * self._expected(kind) for kind, count in self._waiting.items())
        running = sum(
            max(0.0, self._expected(kind) - (now - since))
            for (kind, *_), (_, since) in self._running.items()
        )
        jobs = self._waiting.total() + len(self._running)
        return (waiting + running) / max(1, min(self._together, jobs))

    def _expected(self, kind: _Kind) -> float:
        """Returns the seconds that a job of a kind should take."""
        if self._ended[kind]:
            return self._seconds[kind] / self._ended[kind]
        known = sum(self._passes[each] * count for each, count in self._ended.items())
        return self._passes[kind] * sum(self._seconds.values()) / known


def _kind(job: ShardJob) -> _Kind:
    return job.checkpoint.architecture, job.evaluation


def _key(job: ShardJob) -> _Key:
    return _kind(job), job.checkpoint.id, job.start
