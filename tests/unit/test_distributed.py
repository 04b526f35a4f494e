"""Jobs in this process and in several; workers that die, and parents that do."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmark.distributed import choose_device, environment, map_jobs, steady, timed
from benchmark.errors import ContractError, UnknownName, WorkerLost
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
    "two processes": Workers(2),
    "ray": Workers(2, executor="ray"),
}


def workers_of(name: str) -> Workers:
    if name == "ray":
        pytest.importorskip("ray")
    return WORKERS[name]


@pytest.mark.parametrize("name", WORKERS)
def test_a_job_begins_when_another_is_done(name: str, tmp_path: Path) -> None:
    jobs = [str(tmp_path / name) for name in ("slow", "quick", "quick then", "slow then")]
    found = dict(map_jobs(leave_trace, jobs, workers_of(name), CPU, {3: 0, 2: 1}))
    assert found == {job: job for job in jobs}


def test_a_job_waits_for_no_other_than_its_own(tmp_path: Path) -> None:
    jobs = [str(tmp_path / name) for name in ("patient", "quick", "patient then", "quick then")]
    found = [job for job, _ in map_jobs(leave_trace, jobs, Workers(2), CPU, {2: 0, 3: 1})]
    assert found == [jobs[1], jobs[3], jobs[0], jobs[2]]


def test_what_waits_for_a_failure_is_dropped() -> None:
    with pytest.raises(ContractError, match="anything else, got 1"):
        list(map_jobs(refuse, [1, 2], Workers(2), CPU, {1: 0}))


@pytest.mark.parametrize("name", WORKERS)
def test_every_job_answers_once(name: str) -> None:
    answers = sorted(map_jobs(square, [3, 1, 2], workers_of(name), CPU))
    assert answers == [(1, 1), (2, 4), (3, 9)]
    assert list(map_jobs(square, [], workers_of(name), CPU)) == []


@pytest.mark.parametrize("name", WORKERS)
def test_errors_of_jobs_arrive_whole(name: str) -> None:
    with pytest.raises(ContractError, match="expected anything else"):
        list(map_jobs(refuse, [1, 2], workers_of(name), CPU))
    with pytest.raises(ZeroDivisionError):
        list(map_jobs(fail, [1, 2], workers_of(name), CPU))


@pytest.mark.parametrize("name", ["two processes", "ray"])
def test_what_a_lost_worker_held_runs_elsewhere(name: str, tmp_path: Path) -> None:
    jobs = [str(tmp_path / str(number)) for number in range(4)]
    assert sorted(job for job, _ in map_jobs(die_once, jobs, workers_of(name), CPU)) == jobs


@pytest.mark.parametrize("name", ["two processes", "ray"])
def test_a_job_that_is_lost_again_and_again_ends_the_run(name: str) -> None:
    with pytest.raises(WorkerLost, match="what is done is kept"):
        list(map_jobs(die, [1, 2], workers_of(name), CPU))


@pytest.mark.parametrize("name", ["two processes", "ray"])
def test_jobs_have_limits_of_time_and_memory(name: str, tmp_path: Path) -> None:
    workers = workers_of(name)
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
    time.sleep(60)
if __name__ == "__main__":
    import sys
    list(map_jobs(wait, [sys.argv[1] + "/a", sys.argv[1] + "/b"], Workers(2), torch.device("cpu")))
"""


def test_workers_leave_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    files = [tmp_path / "a", tmp_path / "b"]
    deadline = time.monotonic() + 60
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
