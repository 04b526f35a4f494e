"""Copies of this process answer in order, and what goes wrong in one is heard of."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from benchmark.errors import RecordError, WorkerLost
from benchmark.forks import map_forked

forked = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs forks")


def test_answers_come_in_order_from_elsewhere() -> None:
    found = list(map_forked(lambda number: (number, os.getpid()), range(20), 2))
    assert [number for number, _ in found] == list(range(20))
    if sys.platform.startswith("linux"):
        assert os.getpid() not in {place for _, place in found}


def test_one_process_is_this_one() -> None:
    assert set(map_forked(lambda _: os.getpid(), range(3), 1)) == {os.getpid()}
    assert list(map_forked(str, [], 4)) == []


def _fails(number: int) -> int:
    if number >= 2:
        raise RecordError(f"expected a record, got none: {number}")
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_error_in_order_is_raised(processes: int) -> None:
    answers = map_forked(_fails, range(10), processes)
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(RecordError, match="none: 2"):
        next(answers)


@forked
def test_a_killed_process_is_a_clear_error() -> None:
    with pytest.raises(WorkerLost, match="--workers 1"):
        list(map_forked(lambda _: os.kill(os.getpid(), signal.SIGKILL), range(4), 2))


def _threads(_: int) -> int:
    return max(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")


_TORCH = """
import torch
from benchmark.forks import map_forked

torch.set_num_threads(2)
values = torch.ones(4_000_000) / 2  # enough for both threads, which no copy has
print(list(map_forked(lambda n: float((values.double() * n).sum()), range(3), 2)))
"""


@forked
def test_a_copy_of_a_process_that_used_torch_can_use_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "[0.0, 2000000.0, 4000000.0]\n"


@forked
def test_a_copy_multiplies_matrices_in_one_thread() -> None:
    with threadpool_limits(2, "blas"):
        np.ones((2, 2)) @ np.ones((2, 2))
        assert list(map_forked(_threads, range(4), 2)) == [1] * 4
        assert _threads(0) == 2
