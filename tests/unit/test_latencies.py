"""Latencies: networks in turns, bounded in time, and absent where a network is."""

import statistics
import time
from pathlib import Path

import pytest
import torch
from fast import DENSE, FAST, SPARSE, make_project
from small_project import network
from torch import nn

from benchmark import records
from benchmark.compaction import compact, compacted, multiply_adds, parameters
from benchmark.errors import ManifestError
from benchmark.manifest import load_model
from benchmark.pipeline import evaluate_all
from benchmark.pipeline import latencies as module
from benchmark.pipeline.latencies import dense_parent, in_turns, latencies_of

CPU = torch.device("cpu")


class Clock:
    """A clock that stands still but while a network runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(module.time, "thread_time", lambda: self.now)

    def network(self, name: str, seconds: list[float]) -> nn.Module:
        clock = self

        class Timed(nn.Module):
            shape = (1, 2, 2)

            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                assert torch.get_num_threads() == 1 and not torch.is_grad_enabled()
                clock.calls.append((name, len(inputs)))
                clock.now += seconds[len(clock.calls) // 2 % len(seconds)] * len(inputs)
                return inputs

        return Timed()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@torch.no_grad()
def test_networks_take_turns(clock: Clock) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one, other = clock.network("one", [0.001]), clock.network("other", [0.002, 0.006])
        found = in_turns({"one": one, "other": other}, torch.zeros(3, 1, 2, 2))
    finally:
        torch.set_num_threads(threads)
    names = [name for name, _ in clock.calls]
    assert names == ["one", "other"] * (len(names) // 2)
    assert found["one"].batch == 3 and found["one"].rounds == len(names) // 2 - 2
    assert found["one"].median == pytest.approx(3.0)
    assert (found["other"].lower, found["other"].upper) == pytest.approx((6.0, 18.0))


def test_rounds_fit_into_the_time_within_limits(clock: Clock) -> None:
    rounds = {}
    for seconds in (1e-6, 0.01, 0.3):
        latency = latencies_of(None, clock.network("masked", [seconds]), None, CPU).masked[0]
        rounds[seconds] = latency.rounds
    fitting = int(module._SECONDS / 0.01 + 0.5)
    assert list(rounds.values()) == pytest.approx([module._MOST, fitting, module._FEWEST], abs=1)


def test_a_batch_that_would_take_too_long_is_left_out(clock: Clock) -> None:
    slow = module._LONGEST / 64 / (module._FEWEST + 2)
    for seconds, batches in ((0.99 * slow, [1, 64]), (1.01 * slow, [1])):
        clock.calls.clear()
        found = latencies_of(None, clock.network("masked", [seconds]), None, CPU)
        assert [one.batch for one in found.masked] == batches
        assert {size for _, size in clock.calls} == set(batches)
        assert clock.now < 3 * module._LONGEST
        clock.now = 0.0


def test_what_is_not_there_has_no_latency() -> None:
    masked = network()
    found = latencies_of(None, masked, None, CPU)
    assert (found.dense, found.compact) == ((), ()) and found.processor
    found = latencies_of(network(0.0), masked, compact(masked), CPU)
    for each in (found.dense, found.masked, found.compact):
        assert [one.batch for one in each] == [1, 64]
        assert all(0 < one.lower <= one.median <= one.upper for one in each)
    # What no clock can see is still no time at all.
    assert module._summary(1, [0.0] * 7).median > 0


def test_a_network_that_cannot_be_compacted_has_no_compact_one() -> None:
    model = network()
    assert compacted(model) is not None
    model.body = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(64, 10))
    assert compacted(model) is None


def test_the_quartiles_are_those_of_the_times() -> None:
    times = [float(value) for value in range(1, 12)]
    found = module._summary(4, times)
    assert [found.lower, found.median, found.upper] == statistics.quantiles(times, n=4)
    assert (found.batch, found.rounds) == (4, 11)


@torch.no_grad()
def test_waiting_for_another_program_is_no_time_of_a_network() -> None:
    class Waiting(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            time.sleep(0.02)
            return inputs

    assert in_turns({"waiting": Waiting()}, torch.zeros(1, 1, 2, 2))["waiting"].median < 5


def test_a_parent_that_is_not_at_hand_is_none(tmp_path: Path) -> None:
    project = make_project(tmp_path, DENSE, SPARSE)
    parent = project.manifest().find(DENSE)
    assert dense_parent(project, None) is None
    assert dense_parent(project, parent) is not None
    path = tmp_path / parent.file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ManifestError, match="restore the original"):
        dense_parent(project, parent)
    path.unlink()
    assert dense_parent(project, parent) is None


def test_a_finished_record_has_latencies_and_the_compact_size(tmp_path: Path) -> None:
    project = make_project(tmp_path, DENSE, SPARSE)
    evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    found = {}
    for name in (DENSE, SPARSE):
        record, _ = records.read(records.record_path(project.results, FAST.id, name))
        model = load_model(project.manifest().find(name), tmp_path)
        small = compact(model)
        assert record.compact is not None and record.latency is not None
        assert record.compact.parameters == parameters(small)
        assert record.compact.multiply_adds == multiply_adds(small, model.shape)
        assert record.latency.masked and record.latency.compact
        found[name] = record
    assert found[DENSE].latency.dense == () and found[SPARSE].latency.dense
    # Another run takes other times, and nothing else differs.
    path = records.record_path(project.results, FAST.id, SPARSE)
    path.unlink()
    evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    again, _ = records.read(path)
    assert again.latency != found[SPARSE].latency
    assert again.content_digest == found[SPARSE].content_digest
    timeless = {"latency": None, "seals": {}}
    assert again.model_copy(update=timeless) == found[SPARSE].model_copy(update=timeless)
