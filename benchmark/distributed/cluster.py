"""Jobs on a Ray cluster: cores and accelerators of one machine, or of many.

Machines of a cluster share the project's folder, under one path, and have the same version of this
package. Each job writes its result there, as everywhere else.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from benchmark.distributed.crew import Begun, Ending, attempt, work
from benchmark.distributed.machine import engine_digest, evaluation_environment, resident, steady
from benchmark.errors import ContractError, ExtraMissing, shorten
from benchmark.workers import Workers

Job = TypeVar("Job")
Answer = TypeVar("Answer")

# How often limits, and who has joined the cluster, are looked at, in seconds.
_TICK = 1.0

# How long a cluster may take to answer, in seconds.
_PATIENCE = 10.0


def run(
    function: Callable[[Job], Answer],
    jobs: Sequence[Job],
    workers: Workers,
    device: torch.device,
    begun: Begun,
    after: Mapping[int, int],
) -> Iterator[tuple[Job, Answer]]:
    """Yields each job with its answer as it finishes; arguments and errors as for `map_jobs`."""
    if device.index is not None:
        raise ContractError(
            f"expected the device {device.type} with the executor ray, which hands out "
            f"accelerators itself, got {device}"
        )
    with _session(workers) as ray:
        crew = _Cluster(ray, _Task(function, workers, device, _facts(device)), workers, device)
        try:
            yield from work(crew, jobs, workers.losses, begun, after)
        finally:
            crew.leave()


class _Cluster:
    """A crew of whatever a cluster has; Ray decides where a job runs."""

    def __init__(
        self, ray: Any, task: Callable[[Any], Any], workers: Workers, device: torch.device
    ) -> None:
        self._ray, self._count = ray, workers.count
        self._kind = "GPU" if device.type == "cuda" else "CPU"
        accelerators = 1 if self._kind == "GPU" else 0
        # A lost job is handed out again by us, so that it is counted.
        self._call = ray.remote(num_cpus=1, num_gpus=accelerators, max_retries=0)(_call)
        self._task = ray.put(task)
        self._running: dict[Any, int] = {}
        self._limits = ", or went over a limit" if workers.limited else ""
        if self._places() < 1:
            raise ContractError(
                f"expected a Ray cluster with a {self._kind}, got none; give another --device"
            )

    def _places(self) -> int:
        """Returns how many jobs the cluster can run now; machines come and go."""
        return int(self._ray.cluster_resources().get(self._kind, 0))

    def free(self) -> bool:
        """Returns whether the cluster, or the number asked for, allows another job."""
        return len(self._running) < (self._count or max(1, self._places()))

    def busy(self) -> bool:
        """Returns whether any job runs."""
        return bool(self._running)

    def begin(self, number: int, job: object) -> None:
        """Hands a job to the cluster."""
        self._running[self._call.remote(self._task, job)] = number

    def endings(self) -> list[Ending]:
        """Waits until a job has ended, or a little."""
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_TICK)
        return [self._ending(ref, self._running.pop(ref)) for ref in done]

    def _ending(self, ref: Any, number: int) -> Ending:
        errors = self._ray.exceptions
        try:
            return Ending(number, *self._ray.get(ref))
        except errors.RayTaskError as error:
            # The job itself raises nothing, so it could not even begin.
            raise ContractError(
                "expected Ray's workers to have this package and what it uses, got "
                f"{shorten(str(error.cause), 200)}; install the same on all machines"
            ) from error
        except errors.RayError as lost:
            return Ending(number, lost=f"vanished ({type(lost).__name__}){self._limits}")

    def leave(self) -> None:
        """Ends what still runs: results on disk are written whole or not at all."""
        for ref in self._running:
            self._ray.cancel(ref, force=True)


@contextmanager
def _session(workers: Workers) -> Iterator[Any]:
    """Joins a cluster, or starts one on this machine, and leaves it."""
    try:
        import ray
    except ImportError as error:
        raise ExtraMissing(
            "expected ray for the executor ray, found none; pip install 'robustprune[cluster]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    # A cluster of our own tells nobody that it ran, and its workers are no less urgent than we are.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    local = {} if workers.address else {"num_cpus": workers.count or None}
    try:
        _knock(workers.address)
        ray.init(
            address=workers.address or "local",
            include_dashboard=None if workers.address else False,
            log_to_driver=False,
            # Workers import from where this process does, as other processes do.
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
            logging_level="ERROR",
            **local,
        )
    except Exception as error:  # Ray raises bare ones where it does not start in time
        place = f"at '{shorten(workers.address)}'" if workers.address else "on this machine"
        raise ContractError(
            f"expected a Ray cluster {place}, got '{shorten(str(error), 120)}'; start one with "
            "`ray start --head` and give its --address, or take another --executor"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at `<host>:<port>`; Ray would try for many minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


@dataclass(frozen=True)
class _Task:
    """What is the same for all jobs of a run.

    Attributes:
        function: to be called on each.
        workers: with the limits.
        device: on which.
        facts: of the machine that asks; results of another kind would not fit together.
    """

    function: Callable[[Any], object]
    workers: Workers
    device: torch.device
    facts: Mapping[str, str]


def _facts(device: torch.device) -> dict[str, str]:
    """Returns what must be the same on all machines for results to be the same."""
    return {"tuning": "", **evaluation_environment(device), "engine": engine_digest()[:12]}


def _call(task: _Task, job: object) -> tuple[object, Exception | None]:
    """Runs a job on a worker; what it raises travels as a value, so that it arrives as it is."""
    here = _facts(task.device)
    for name, value in task.facts.items():
        if here.get(name) != value:
            return None, ContractError(
                f"expected machines that are alike, got {name} '{here.get(name)}' on one and "
                f"'{value}' here; install the same on all, or ask only those that are alike"
            )
    from ray import cloudpickle

    over = threading.Event()
    if task.workers.limited:
        threading.Thread(target=_leave_when_over, args=(task.workers, over), daemon=True).start()
    with steady():
        try:
            return attempt(task.function, job, cloudpickle.dumps)
        finally:
            over.set()


def _leave_when_over(workers: Workers, over: threading.Event) -> None:
    """Ends this worker where its job takes too long or holds too much.

    The worker itself looks: whoever asks does not know when a job that waits for its turn begins.
    """
    since = time.monotonic()
    while not over.wait(_TICK):
        late = workers.minutes and time.monotonic() - since > 60 * workers.minutes
        if late or (workers.gigabytes and resident(os.getpid()) > 1e9 * workers.gigabytes):
            os._exit(1)
