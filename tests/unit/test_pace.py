"""Which shards begin first, and how much time is left."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from fast import DENSE, FAST, ROOT, SPARSE

from benchmark.evaluations import Settings
from benchmark.manifest import read_manifest
from benchmark.pipeline import Project, pace
from benchmark.pipeline.pace import Pace, by_urgency, passes
from benchmark.pipeline.shards import ShardJob
from benchmark.protocols import PROTOCOLS

MANIFEST = read_manifest(ROOT / "checkpoints_manifest.json")


def job(evaluation: str, start: int = 0, checkpoint: str = SPARSE) -> ShardJob:
    entry = MANIFEST.find(checkpoint)
    return ShardJob(Project(ROOT), entry, FAST, evaluation, start, start + 10, "")


def jobs(*evaluations: str) -> list[ShardJob]:
    return [job(name, 10 * number) for number, name in enumerate(evaluations)]


def test_bounds_begin_first_and_what_spares_the_proven_last_each_with_the_longest() -> None:
    listed = [job(name, start) for name, _ in FAST.evaluations for start in (0, 10)]
    order = [(each.evaluation, each.start) for each in by_urgency(listed)]
    names = ["bounds", "smoothing", "sanity", "transfer", "clean", "autoattack", "pgd", "curve"]
    assert order == [(name, start) for name in names for start in (0, 10)]


def test_every_evaluation_costs_something_and_autoattack_most() -> None:
    for protocol in PROTOCOLS.values():
        costs = {name: passes(settings) for name, settings in protocol.evaluations}
        assert min(costs.values()) > 0
        assert max(costs, key=lambda name: costs[name]) == "autoattack" or "imagenet" in protocol.id


def test_passes_follow_the_settings() -> None:
    chosen: dict[str, Settings] = dict(FAST.evaluations)
    pgd = chosen["pgd"]
    assert passes(replace(pgd, restarts=3)) == 3 * passes(pgd)  # type: ignore[type-var]
    assert passes(chosen["smoothing"]) == 60


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_time_left_is_unknown_before_anything_has_ended(clock: list[float]) -> None:
    watched = Pace(jobs("clean"))
    assert watched.left() is None
    watched.begin(job("clean"))
    clock[0] += 5
    assert watched.left() is None


def test_time_left_counts_what_the_others_took(clock: list[float]) -> None:
    listed = jobs("pgd", "pgd", "pgd", "pgd")
    watched = Pace(listed)
    watched.begin(listed[0])
    clock[0] += 30
    # A worker that had to start first took longer than its job.
    watched.end(listed[0], 8)
    assert watched.left() == 24
    watched.begin(listed[1])
    clock[0] += 3
    assert watched.left() == 21
    # One that takes longer than expected does not count backwards.
    clock[0] += 50
    assert watched.left() == 16


def test_jobs_side_by_side_share_the_time_left(clock: list[float]) -> None:
    listed = jobs(*["pgd"] * 5)
    watched = Pace(listed)
    for each in listed[:2]:
        watched.begin(each)
    clock[0] += 10
    for each in listed[:2]:
        watched.end(each, 10)
    assert watched.left() == 15
    for each in listed[2:4]:
        watched.begin(each)
        watched.end(each, 0)
    # One job alone gains nothing from a second worker.
    assert watched.left() == 5


def test_what_has_not_run_yet_is_expected_to_take_as_long_as_its_passes(clock: list[float]) -> None:
    listed = jobs("pgd", "autoattack")
    watched = Pace(listed)
    watched.begin(listed[0])
    watched.end(listed[0], 2)
    ratio = passes(listed[1].settings) / passes(listed[0].settings)
    assert watched.left() == pytest.approx(2 * ratio)


def test_a_job_that_was_lost_begins_again(clock: list[float]) -> None:
    listed = jobs("pgd", "pgd")
    watched = Pace(listed)
    watched.begin(listed[0])
    clock[0] += 30
    watched.begin(listed[0])
    watched.end(listed[0], 4)
    assert watched.left() == 4


def test_a_dense_network_and_a_sparse_one_are_of_one_kind(clock: list[float]) -> None:
    listed = [job("pgd"), job("pgd", checkpoint=DENSE)]
    watched = Pace(listed)
    watched.begin(listed[0])
    watched.end(listed[0], 3)
    assert watched.left() == 3


def test_what_runs_for_the_longest_time_is_shown(clock: list[float]) -> None:
    listed = jobs("autoattack", "pgd")
    watched = Pace(listed)
    assert watched.oldest() is None
    for each in listed:
        watched.begin(each)
    assert watched.oldest() == listed[0]
    watched.end(listed[0], 1)
    assert watched.oldest() == listed[1]
