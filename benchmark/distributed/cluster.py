"""Jobs on a Ray cluster: cores and accelerators of one machine, or of many.

Machines of a cluster share the project's folder, under one path, and have the same version of this
package. Each job writes its result there, as everywhere else.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from benchmark.distributed.crew import Queue
from benchmark.distributed.machine import resident, steady
from benchmark.errors import ContractError, ExtraMissing, shorten
from benchmark.workers import Workers

Job = TypeVar("Job")
Answer = TypeVar("Answer")

# How often limits are looked at, in seconds.
_TICK = 1.0


def run(
    function: Callable[[Job], Answer],
    jobs: Sequence[Job],
    workers: Workers,
    device: torch.device,
    after: Mapping[int, int] | None = None,
) -> Iterator[tuple[Job, Answer]]:
    """Yields each job with its answer as it finishes; arguments and errors as for `map_jobs`."""
    with _session(workers) as ray:
        accelerators = 1 if device.type == "cuda" else 0
        call = ray.remote(num_cpus=1, num_gpus=accelerators, max_retries=0)(_call)
        have = ray.cluster_resources()
        count = workers.count or int(have.get("GPU" if accelerators else "CPU", 1)) or 1
        queue = Queue(jobs, workers.losses, after)
        running: dict[Any, tuple[int, float]] = {}
        failed: Exception | None = None
        while queue or running:
            while queue and len(running) < count:
                number = queue.take()
                running[call.remote(function, jobs[number], workers.gigabytes)] = (
                    number,
                    time.monotonic(),
                )
            done, _ = ray.wait(list(running), num_returns=1, timeout=_TICK)
            late = [ref for ref, (_, since) in running.items() if _late(since, workers)]
            for ref in [*done, *(ref for ref in late if ref not in done)]:
                number, _ = running.pop(ref)
                if ref not in done:
                    ray.cancel(ref, force=True)
                    queue.lost(number, f"took more than {workers.minutes:g} minutes")
                    continue
                try:
                    answer, failure = ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    # The job itself raises nothing, so it could not even begin.
                    raise ContractError(
                        "expected Ray's workers to have this package and what it uses, got "
                        f"{shorten(str(error.cause), 200)}; install the same on all machines"
                    ) from error
                except ray.exceptions.RayError as lost:
                    queue.lost(number, f"were lost ({type(lost).__name__})")
                    continue
                if failure is None:
                    queue.done(number)
                    yield jobs[number], answer
                else:
                    failed = failed or failure
                    queue.drop()
        if failed is not None:
            raise failed


def _late(since: float, workers: Workers) -> bool:
    return workers.minutes > 0 and time.monotonic() - since > 60 * workers.minutes


@contextmanager
def _session(workers: Workers) -> Iterator[Any]:
    """Joins a cluster, or starts one on this machine, and leaves it."""
    try:
        import ray
    except ImportError as error:
        raise ExtraMissing(
            "expected ray for the executor ray, found none; pip install 'robustprune[cluster]'"
        ) from error
    there = ray.is_initialized()
    if not there:
        local = {} if workers.address else {"num_cpus": workers.count or None}
        try:
            ray.init(
                address=workers.address or "local",
                include_dashboard=None if workers.address else False,
                log_to_driver=False,
                # Workers import from where this process does, as other processes do.
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
                logging_level="ERROR",
                **local,
            )
        except (ConnectionError, ValueError) as error:
            raise ContractError(
                f"expected a Ray cluster at '{workers.address}', found none; start one with `ray "
                "start --head`, or leave --address out"
            ) from error
    try:
        yield ray
    finally:
        if not there:
            ray.shutdown()


def _call(
    function: Callable[[Any], object], job: object, gigabytes: float
) -> tuple[object, Exception | None]:
    """Runs a job on a worker; what it raises travels as a value, so that it arrives as it is."""
    over = threading.Event()
    if gigabytes:
        # Ray's own limit is that of the machine.
        threading.Thread(target=_leave_when_full, args=(gigabytes, over), daemon=True).start()
    with steady():
        try:
            return function(job), None
        except Exception as error:  # whatever a job raises is the caller's
            return None, error
        finally:
            over.set()


def _leave_when_full(gigabytes: float, over: threading.Event) -> None:
    """Ends this worker if it holds more than a number of gigabytes before its job is over."""
    while not over.wait(_TICK):
        if resident(os.getpid()) > 1e9 * gigabytes:
            os._exit(1)
