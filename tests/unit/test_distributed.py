"""Jobs in this process and in several; workers that die, and parents that do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmark.distributed import (
    choose_device,
    choose_workers,
    environment,
    map_jobs,
    steady,
    timed,
)
from benchmark.errors import ContractError, WorkerLost


def square(number: int) -> int:
    assert torch.get_num_threads() == 1
    return number * number


def refuse(number: int) -> int:
    raise ContractError(f"expected anything else, got {number}")


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_answers_once(workers: int) -> None:
    assert sorted(map_jobs(square, [3, 1, 2], workers)) == [(1, 1), (2, 4), (3, 9)]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_jobs_arrive_whole(workers: int) -> None:
    with pytest.raises(ContractError, match="expected anything else"):
        list(map_jobs(refuse, [1, 2], workers))


def test_killed_worker_is_one_line() -> None:
    with pytest.raises(WorkerLost, match="what is done is kept"):
        list(map_jobs(die, [1, 2], 2))


PARENT = """
import time
from benchmark.distributed import map_jobs
import os
def wait(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(60)
if __name__ == "__main__":
    import sys
    list(map_jobs(wait, [sys.argv[1] + "/a", sys.argv[1] + "/b"], 2))
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
    cpu = torch.device("cpu")
    assert choose_workers(3, cpu) == 3
    assert choose_workers(0, cpu) == os.cpu_count()
    assert choose_workers(0, torch.device("cuda")) == 1
    assert choose_device("cpu") == cpu
    assert {"python", "torch", "pyautoattack", "device"} <= environment(cpu).keys()
    with pytest.raises(ContractError, match="expected a device"):
        choose_device("abacus")
    answer, seconds = timed(lambda: 5)
    assert answer == 5
    assert seconds >= 0
