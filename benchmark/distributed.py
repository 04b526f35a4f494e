"""Running independent jobs: serially, or in several processes. Results come as they finish.

A job is a picklable function of one argument that keeps its result on disk, so where and when it
runs cannot change a bit. On the CPU each job uses one thread: small networks run faster that way,
and sums are then taken in one order whatever the machine.
"""

import contextlib
import functools
import multiprocessing
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import torch

from benchmark.digests import digest_of, sha256_of_file
from benchmark.errors import ContractError, WorkerLost

Job = TypeVar("Job")
Answer = TypeVar("Answer")

PACKAGES = ("robustprune", "torch", "torchvision", "numpy", "pyautoattack", "auto_LiRPA", "scipy")


def choose_device(name: str) -> torch.device:
    """Returns the device of a name: `auto` takes an accelerator where there is one.

    Raises:
        ContractError: a device that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ContractError(
            f"expected a device of this machine (cpu, cuda, auto), got '{name[:40]}'"
        ) from error
    return device


def choose_workers(asked: int, device: torch.device) -> int:
    """Returns how many processes to use: as asked, or one a core, or one for an accelerator."""
    if asked > 0:
        return asked
    return (os.cpu_count() or 1) if device.type == "cpu" else 1


@functools.cache
def environment(device: torch.device) -> Mapping[str, str]:
    """Returns versions and device, as they are stored in records."""
    machine = f"{sys.platform} {platform.machine()}"
    found = {"python": platform.python_version(), "platform": machine}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return found | {"device": name, "cuda": str(torch.version.cuda)}
    # Kernels are chosen by instruction set, and round differently.
    kernels = torch.backends.cpu.get_cpu_capability()
    return found | {"device": f"cpu ({kernels}), one thread a job"}


# What decides an outcome or a trained weight; the rest only stores, ranks or shows it.
_ENGINE = (
    "architectures attacks.py bounds.py datasets distributed.py evaluations evidence.py "
    "manifest.py objectives pipeline/shards.py pruning.py relaxations.py threat.py training.py "
    "weights.py"
).split()


@functools.cache
def engine_digest() -> str:
    """Returns a digest of the sources that results depend on: a mended bug ends its cache."""
    package = Path(__file__).parent
    files = [f for name in _ENGINE for f in sorted((package / name).rglob("*.py"))]
    files += [package / name for name in _ENGINE if name.endswith(".py")]
    return digest_of([[str(f.relative_to(package)), sha256_of_file(f)] for f in sorted(files)])


@contextlib.contextmanager
def steady(threads: int = 1) -> Iterator[None]:
    """Fixes the CPU threads, asks for repeatable kernels in full precision, and restores all."""
    before = torch.get_num_threads()
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    chosen = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, cuda.matmul.allow_tf32)
    torch.set_num_threads(threads)
    cudnn.deterministic, cudnn.benchmark = True, False
    # TF32 keeps 10 bits of the mantissa: no success of an attack and no certificate rests on that.
    cudnn.allow_tf32 = cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, cuda.matmul.allow_tf32 = chosen


def timed(function: Callable[[], Answer]) -> tuple[Answer, float]:
    """Returns a function's answer and the seconds it took."""
    start = time.perf_counter()
    answer = function()
    return answer, time.perf_counter() - start


def _start_worker() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Ends this worker when its parent is gone: a killed parent cannot end it, and would not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def map_jobs(
    function: Callable[[Job], Answer], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Answer]]:
    """Yields each job with its answer as it finishes.

    Args:
        function: picklable when `workers` > 1.
        jobs: in order of preference.
        workers: processes; 1 runs here.

    Raises:
        BenchmarkError: the first that a job raises; jobs in flight end, waiting ones are dropped.
        WorkerLost: a worker process was killed.
    """
    if workers <= 1 or len(jobs) <= 1:
        with steady():
            for job in jobs:
                yield job, function(job)
        return
    # Fresh interpreters: a forked one would inherit the parent's thread pools in an unusable state.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_start_worker
    )
    try:
        waiting: dict[Future[Answer], Job] = {pool.submit(function, job): job for job in jobs}
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise WorkerLost(
            f"expected {workers} workers to live, got one that ended (out of memory, or a calling "
            "script without its `if __name__ == '__main__'` guard); what is done is kept, run it "
            "again, with fewer workers if it happens again"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
