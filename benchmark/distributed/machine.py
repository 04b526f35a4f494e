"""The machine: its device, what records say of it, and computing in a fixed order on it.

On the CPU each job uses one thread: small networks run faster that way, and sums are then taken in
one order whatever the machine.
"""

import contextlib
import ctypes
import functools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import torch

from benchmark.digests import digest_of, sha256_of_file
from benchmark.errors import ContractError, ManifestError, shorten
from benchmark.files import read_bounded, write_atomically
from benchmark.tuning import DEFAULT, Tuning

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


def tuning_path() -> Path:
    """Returns where this machine's tuning lies: $ROBUSTPRUNE_TUNING, or the user's cache folder."""
    chosen = os.environ.get("ROBUSTPRUNE_TUNING")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else caches / "robustprune" / "tuning.json"


@functools.cache
def tuning() -> Tuning:
    """Returns this machine's tuning, the default where none was measured.

    Raises:
        ManifestError: the file is no tuning.
    """
    path = tuning_path()
    try:
        return Tuning(sparse_cost=float(json.loads(read_bounded(path, 10_000))["sparse_cost"]))
    except FileNotFoundError:
        return DEFAULT
    except (
        ValueError,
        LookupError,
        TypeError,
        ArithmeticError,
        RecursionError,
        ContractError,
    ) as error:
        raise ManifestError(
            f"expected this machine's tuning in {path}, got another file; remove it, or measure "
            "again with `robustprune doctor --tune`"
        ) from error


def store_tuning(found: Tuning) -> None:
    """Keeps a tuning for this machine's later runs."""
    text = json.dumps({"sparse_cost": found.sparse_cost})
    write_atomically(tuning_path(), f"{text}\n".encode())
    tuning.cache_clear()


def evaluation_environment(device: torch.device) -> Mapping[str, str]:
    """Returns the environment, and the tuning where it is not the default, which moves rounding."""
    found = environment(device)
    if tuning() == DEFAULT or device.type != "cpu":
        return found
    return {**found, "tuning": f"sparse cost {tuning().sparse_cost:g}"}


@functools.cache
def processor(device: torch.device) -> str:
    """Returns the name of what computes, for times that belong to it; `unknown` if nothing says."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        found = next((line for line in lines if line.startswith("model name")), found)
    name = found.partition(":")[2] or found
    return shorten(" ".join(name.split()), 120) or "unknown"


# What decides an outcome or a trained weight; the rest only stores, ranks or shows it.
_ENGINE = (
    "architectures attacks.py bounds.py compaction.py datasets distributed/machine.py ensemble "
    "evaluations evidence.py manifest.py objectives pipeline/shards.py pruning.py relaxations "
    "threat.py training.py unrolling.py weights.py"
).split()


@functools.cache
def engine_digest() -> str:
    """Returns a digest of the sources that results depend on: a mended bug ends its cache."""
    package = Path(__file__).parents[1]
    files = [f for name in _ENGINE for f in sorted((package / name).rglob("*.py"))]
    files += [package / name for name in _ENGINE if name.endswith(".py")]
    return digest_of([[str(f.relative_to(package)), sha256_of_file(f)] for f in sorted(files)])


def resident(pid: int | None) -> float:
    """Returns the bytes of memory that a process holds; 0 where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


# Numbers of glibc's mallopt(3) for the two thresholds, and what they are set to: blocks up to the
# largest that it takes come from the heap, and the heap is given back from 1 GB of free memory on.
_TRIM, _MMAP = -1, -3
_LARGEST_BLOCK, _KEPT = 32 << 20, 1 << 30


@functools.cache
def keep_freed_memory() -> None:
    """Makes this process use freed memory again instead of asking the system for it each time.

    A fresh page costs more than the arithmetic on it, and attacks make the same few tensors over
    and over: with it they take up to half the time. Where the C library is another, nothing
    happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP, _LARGEST_BLOCK)
        mallopt(_TRIM, _KEPT)


@contextlib.contextmanager
def steady(threads: int = 1) -> Iterator[None]:
    """Fixes the CPU threads, asks for repeatable kernels in full precision, and restores all."""
    keep_freed_memory()
    before = torch.get_num_threads()
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    chosen = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, cuda.matmul.allow_tf32)
    torch.set_num_threads(threads)
    # Read when cuBLAS starts; without it, its sums need not be repeatable.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
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
