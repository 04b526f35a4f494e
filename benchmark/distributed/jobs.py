"""One interface to three executors: this process, several processes, or a Ray cluster.

A job is a picklable function of one argument that keeps its result on disk, so where and when it
runs cannot change a bit, and it may be run again where a worker was lost.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch

from benchmark.distributed.crew import Begun
from benchmark.distributed.machine import steady
from benchmark.workers import Workers

Job = TypeVar("Job")
Answer = TypeVar("Answer")


def _nobody(job: object) -> None:
    """Tells nobody."""


def map_jobs(
    function: Callable[[Job], Answer],
    jobs: Sequence[Job],
    workers: Workers,
    device: torch.device,
    begun: Begun = _nobody,
    after: Mapping[int, int] | None = None,
) -> Iterator[tuple[Job, Answer]]:
    """Yields each job with its answer as it finishes.

    Args:
        function: picklable unless it runs here.
        jobs: in order of preference, picklable likewise.
        workers: where they run.
        device: on which each runs; with several accelerators each process sees one of them.
        begun: told of each job as it begins; again where it was lost, and runs elsewhere.
        after: which job, by number, begins only when which earlier one is done.

    Raises:
        BenchmarkError: the first that a job raises; jobs in flight end, waiting ones are dropped.
        WorkerLost: a job was lost too often.
        ExtraMissing: Ray is not installed.
    """
    if not jobs:
        return  # nobody starts workers for nothing
    if workers.executor == "ray":
        from benchmark.distributed import cluster

        yield from cluster.run(function, jobs, workers, device, begun, after or {})
    elif workers.here(device, len(jobs)):
        with steady():
            for job in jobs:
                begun(job)
                yield job, function(job)
    else:
        from benchmark.distributed import processes

        yield from processes.run(function, jobs, workers, device, begun, after or {})
