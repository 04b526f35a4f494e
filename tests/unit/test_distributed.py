"""Jobs in this process and in several; workers that die, and parents that do."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmark.distributed import choose_device, environment, map_jobs, steady, timed
from benchmark.errors import ContractError, ExtraMissing, UnknownName, WorkerLost
from benchmark.workers import Workers

CPU = torch.device("cpu")


def square(number: int) -> int:
    assert torch.get_num_threads() == 1
    return number * number


def refuse(number: int) -> int:
    raise ContractError(f"expected anything else, got {number}")


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    raise ZeroDivisionError(number)


def die_once(path: str) -> str:
    """Leaves a trace and dies; where there is one already, answers."""
    if Path(path).exists():
        return path
    Path(path).touch()
    os.kill(os.getpid(), signal.SIGKILL)
    return path


def dawdle_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        time.sleep(300)
    return path


def leave_trace(path: str) -> str:
    """Leaves a trace; `X then` looks for that of X first, `patient` waits for that of `X then`."""
    first, _, then = path.partition(" ")
    assert not then or Path(first).exists(), "began too early"
    end = time.monotonic() + 100
    while first.endswith("patient") and not Path(first).with_name("quick then").exists():
        assert time.monotonic() < end, "waits for nothing"
        time.sleep(0.1)
    Path(path).touch()
    return path


def swell_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        held = bytearray(10**9)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(300)
    return path


WORKERS = {
    "serial": Workers(executor="serial"),
    "one process": Workers(1, executor="processes"),
    "two processes": Workers(2, executor="processes"),
    "ray": Workers(2, executor="ray"),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster of this machine for all tests: starting one takes seconds."""
    pytest.importorskip("ray")
    from benchmark.distributed.cluster import _session

    with _session(WORKERS["ray"]):
        yield


def workers_of(name: str, request: pytest.FixtureRequest) -> Workers:
    if name == "ray":
        request.getfixturevalue("cluster")
    return WORKERS[name]


@pytest.mark.parametrize("name", WORKERS)
def test_a_job_begins_when_another_is_done(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    jobs = [str(tmp_path / name) for name in ("slow", "quick", "quick then", "slow then")]
    given = workers_of(name, request)
    found = dict(map_jobs(leave_trace, jobs, given, CPU, after={3: 0, 2: 1}))
    assert found == {job: job for job in jobs}


def test_a_job_waits_for_no_other_than_its_own(tmp_path: Path) -> None:
    jobs = [str(tmp_path / name) for name in ("patient", "quick", "patient then", "quick then")]
    found = [job for job, _ in map_jobs(leave_trace, jobs, Workers(2), CPU, after={2: 0, 3: 1})]
    assert found == [jobs[1], jobs[3], jobs[0], jobs[2]]


def test_what_waits_for_a_failure_is_dropped() -> None:
    with pytest.raises(ContractError, match="anything else, got 1"):
        list(map_jobs(refuse, [1, 2], Workers(2), CPU, after={1: 0}))


@pytest.mark.parametrize("name", WORKERS)
def test_every_job_answers_once(name: str, request: pytest.FixtureRequest) -> None:
    answers = sorted(map_jobs(square, [3, 1, 2], workers_of(name, request), CPU))
    assert answers == [(1, 1), (2, 4), (3, 9)]
    assert list(map_jobs(square, [], workers_of(name, request), CPU)) == []


@pytest.mark.parametrize("name", WORKERS)
def test_errors_of_jobs_arrive_whole(name: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(ContractError, match="expected anything else"):
        list(map_jobs(refuse, [1, 2], workers_of(name, request), CPU))
    with pytest.raises(ZeroDivisionError):
        list(map_jobs(fail, [1, 2], workers_of(name, request), CPU))


@pytest.mark.parametrize("name", ["two processes", "ray"])
def test_what_a_lost_worker_held_runs_elsewhere(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    jobs = [str(tmp_path / str(number)) for number in range(4)]
    assert (
        sorted(job for job, _ in map_jobs(die_once, jobs, workers_of(name, request), CPU)) == jobs
    )


@pytest.mark.parametrize("name", ["two processes", "ray"])
def test_a_job_that_is_lost_again_and_again_ends_the_run(
    name: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(WorkerLost, match="what is done is kept"):
        list(map_jobs(die, [1, 2], workers_of(name, request), CPU))


class Secret(Exception):
    """An error that cannot be made again from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def keep_secret(number: int) -> Callable[[], int]:
    if number:
        raise Secret(number, number)
    return lambda: number


@pytest.mark.parametrize("name", ["two processes", "ray"])
@pytest.mark.parametrize("number", [0, 1])
def test_answers_and_errors_that_cannot_travel_say_so(
    name: str, number: int, request: pytest.FixtureRequest
) -> None:
    workers = workers_of(name, request)
    if name == "ray" and not number:
        assert [answer() for _, answer in map_jobs(keep_secret, [0], workers, CPU)] == [0]
        return
    with pytest.raises(TypeError, match="expected an answer that pickles"):
        list(map_jobs(keep_secret, [number], workers, CPU))


@pytest.mark.parametrize("name", WORKERS)
def test_whoever_asks_is_told_of_each_job_that_begins(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    begun: list[int] = []
    assert len(list(map_jobs(square, [1, 2], workers_of(name, request), CPU, begun.append))) == 2
    assert begun == [1, 2]


def wait_for_long(path: str) -> str:
    """Leaves the number of its process; where there is one already, answers."""
    if Path(path).exists():
        return path
    Path(f"{path}.new").write_text(str(os.getpid()))
    Path(f"{path}.new").rename(path)
    time.sleep(600)
    return path


@pytest.mark.parametrize("name", ["two processes", "ray"])
def test_a_killed_worker_costs_only_what_it_held(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    held, other = tmp_path / "held", tmp_path / "other"
    other.touch()

    def kill() -> None:
        while not held.exists():
            time.sleep(0.05)
        os.kill(int(held.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    begun: list[str] = []
    jobs = [str(held), *[str(other)] * 5]
    workers = workers_of(name, request)
    done = [job for job, _ in map_jobs(wait_for_long, jobs, workers, CPU, begun.append)]
    assert sorted(done) == sorted(jobs)
    assert sorted(begun) == sorted([*jobs, str(held)])


@pytest.mark.parametrize("name", ["two processes", "ray"])
def test_jobs_have_limits_of_time_and_memory(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    workers = workers_of(name, request)
    late, full = str(tmp_path / "late"), str(tmp_path / "full")
    for function, job, limits in (
        (dawdle_once, late, replace(workers, minutes=0.2)),
        (swell_once, full, replace(workers, gigabytes=0.9)),
    ):
        assert list(map_jobs(function, [job], limits, CPU)) == [(job, job)]
        with pytest.raises(WorkerLost):
            Path(job).unlink()
            list(map_jobs(function, [job], replace(limits, losses=0), CPU))


def test_workers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown executor"):
        Workers(executor="threads")  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="0 or more"):
        Workers(minutes=-1)
    with pytest.raises(ContractError, match="executor ray alone"):
        Workers(address="auto")
    assert Workers(3).on(CPU) == 3 and Workers().on(CPU) == os.cpu_count()
    assert Workers().on(torch.device("cuda", 1)) == 1


PARENT = """
import time
from benchmark.distributed import map_jobs
from benchmark.workers import Workers
import os, torch
def wait(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(600)
if __name__ == "__main__":
    import sys
    workers, files = Workers(2, executor=sys.argv[2]), [sys.argv[1] + "/a", sys.argv[1] + "/b"]
    list(map_jobs(wait, files, workers, torch.device("cpu")))
"""


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_workers_leave_with_their_parent(executor: str, tmp_path: Path) -> None:
    if executor == "ray":
        pytest.importorskip("ray")
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), executor])
    files = [tmp_path / "a", tmp_path / "b"]
    deadline = time.monotonic() + 200
    while not all(f.exists() and f.read_text() for f in files):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pids = [int(f.read_text()) for f in files]
    parent.kill()
    parent.wait()
    while any(_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "an orphaned worker lives on"
        time.sleep(0.1)


def _running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_steady_restores_what_it_changes() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with steady(1):
        assert torch.get_num_threads() == 1
        assert torch.backends.cudnn.deterministic
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_machine_facts() -> None:
    assert choose_device("cpu") == CPU
    assert {"python", "torch", "pyautoattack", "device"} <= environment(CPU).keys()
    with pytest.raises(ContractError, match="expected a device"):
        choose_device("abacus")
    answer, seconds = timed(lambda: 5)
    assert answer == 5
    assert seconds >= 0


KEPT = """
import ctypes, sys, torch
from benchmark.distributed.machine import keep_freed_memory

# What mallinfo(3) of glibc gives: mapped is what it took from the system block by block.
NAMES = "arena free_chunks fast mapped_blocks mapped max fast_free used free top".split()

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in NAMES]

mallinfo = ctypes.CDLL(None).mallinfo
mallinfo.restype = Heap
if sys.argv[1] == "kept":
    keep_freed_memory()
before = mallinfo().mapped
block = torch.ones(1 << 22)
mapped = mallinfo().mapped - before
del block
print(mapped, mallinfo().free)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="knows no other C library's heap")
def test_freed_memory_is_used_again() -> None:
    def heap(how: str) -> list[int]:
        found = subprocess.run(
            [sys.executable, "-c", KEPT, how], capture_output=True, text=True, check=True
        )
        return [int(number) for number in found.stdout.split()]

    size = 4 << 22
    mapped, _ = heap("given back")
    assert mapped >= size
    mapped, free = heap("kept")
    assert mapped == 0
    assert free >= size


def test_without_ray_the_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraMissing, match=r"^expected ray for the executor ray.*\[cluster\]'$"):
        list(map_jobs(square, [1], Workers(1, executor="ray"), CPU))


def test_ray_hands_out_accelerators_itself() -> None:
    with pytest.raises(ContractError, match="expected the device cuda with .*got cuda:1"):
        list(map_jobs(square, [1], Workers(1, executor="ray"), torch.device("cuda:1")))


def test_a_cluster_without_accelerators_is_refused(cluster: None) -> None:
    from benchmark.distributed import cluster as module

    with module._session(Workers(executor="ray")) as ray:
        if "GPU" not in ray.cluster_resources():
            with pytest.raises(ContractError, match="a Ray cluster with a GPU, got none"):
                module._Cluster(ray, square, Workers(executor="ray"), torch.device("cuda"))


def test_machines_that_are_not_alike_are_refused() -> None:
    pytest.importorskip("ray")
    from benchmark.distributed.cluster import _call, _facts, _Task

    workers, facts = Workers(1, executor="ray"), _facts(CPU)
    assert _call(_Task(square, workers, CPU, facts), 3) == (9, None)
    _, failure = _call(_Task(square, workers, CPU, facts | {"torch": "1.0"}), 3)
    assert isinstance(failure, ContractError)
    assert f"got torch '{facts['torch']}' on one and '1.0' here" in str(failure)


JOINING = """
import sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
import torch
from benchmark.distributed import map_jobs
from benchmark.errors import ContractError
from benchmark.workers import Workers
import jobs
if __name__ == "__main__":
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = machines.add_node(num_cpus=1)
    machines.wait_for_nodes()
    workers = Workers(executor="ray", address=machines.address)
    both = [sys.argv[1] + "/a", sys.argv[1] + "/b"]
    for _, node in map_jobs(jobs.together, both, workers, torch.device("cpu")):
        print("node", node)
    machines.remove_node(second)
    for _, node in map_jobs(jobs.alone, [1, 2], workers, torch.device("cpu")):
        print("left", node)
    machines.shutdown()
    try:
        list(map_jobs(jobs.alone, [1], workers, torch.device("cpu")))
    except ContractError as error:
        print(error)
"""

JOBS = """
import ray, time
from pathlib import Path
def together(path):
    Path(path).touch()
    deadline = time.monotonic() + 120
    while len(list(Path(path).parent.glob("?"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    return ray.get_runtime_context().get_node_id()
def alone(number):
    return ray.get_runtime_context().get_node_id()
"""


@pytest.mark.slow
def test_a_running_cluster_of_two_machines_is_joined(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "jobs.py").write_text(JOBS)
    script = tmp_path / "joining.py"
    script.write_text(JOINING)
    met = tmp_path / "met"
    met.mkdir()
    done = subprocess.run(
        [sys.executable, str(script), str(met)], capture_output=True, text=True, timeout=300
    )
    lines = done.stdout.splitlines()
    nodes = {line for line in lines if line.startswith("node")}
    assert len(nodes) == 2, done.stderr
    assert len({line for line in lines if line.startswith("left")}) == 1
    assert lines[-1].startswith("expected a Ray cluster at '"), done.stderr


def test_nobody_starts_a_cluster_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(map_jobs(square, [], Workers(executor="ray"), CPU)) == []
