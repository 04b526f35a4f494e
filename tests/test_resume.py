"""Kill at any moment, run again: the same record, bit for bit, and nothing finished is redone."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fast import DENSE, FAST, SPARSE, make_project
from untimed import untimed

from benchmark import records
from benchmark.pipeline import Project, evaluate_all

DRIVER = Path(__file__).with_name("drive_fast.py")


def start(project: Project, workers: int, executor: str = "auto") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(project.root), str(workers), executor],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"BEGUN": str(begun_log(project))},
    )


def begun_log(project: Project) -> Path:
    return project.root / "begun.log"


def begun_shards(project: Project) -> int:
    """Returns how many computations of shards have begun, over all runs."""
    return len(begun_log(project).read_text().splitlines()) if begun_log(project).exists() else 0


def contents(project: Project) -> dict[str, tuple[str, bytes]]:
    """Returns, by checkpoint, the repeatable content and the outcomes' bytes."""
    found = {}
    for entry in project.manifest().checkpoints:
        path = records.record_path(project.results, FAST.id, entry.id)
        record, _ = records.read(path)
        found[entry.id] = (record.content_digest, path.with_suffix(".npz").read_bytes())
    return found


def finished_shards(project: Project) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in (project.cache / "shards").rglob("*.npz")}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes]]:
    project = make_project(tmp_path_factory.mktemp("reference"), DENSE, SPARSE)
    evaluate_all(project, project.manifest().checkpoints, FAST, "full")
    return contents(project)


@pytest.mark.slow(80)
@pytest.mark.parametrize(("workers", "interruptions"), [(1, 20), (2, 6)])
def test_killed_at_random_moments(
    tmp_path: Path, workers: int, interruptions: int, reference: dict[str, tuple[str, bytes]]
) -> None:
    project = make_project(tmp_path, DENSE, SPARSE)
    moments, kills = random.Random(workers), 0
    every = len(reference) * sum(len(FAST.shards("full", s)) for _, s in FAST.evaluations)
    for left in reversed(range(interruptions)):
        process = start(project, workers)
        assert process.stdout is not None
        process.stdout.readline()
        before = finished_shards(project)
        # Waits for some shards to be done, then for a random moment inside the next one.
        ahead = (every - len(before)) // (left + 2)
        wanted = len(before) + moments.randint(0, max(0, 2 * ahead - 2))
        while len(finished_shards(project)) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.2))
        kills += process.poll() is None
        with contextlib.suppress(ProcessLookupError):  # it has finished, and left no group
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        after = finished_shards(project)
        assert before.items() <= after.items(), "a finished shard was computed again"
        for path in project.results.rglob("*.json"):
            records.read(path)  # whole, or not there
    # The last few may find everything done.
    assert kills >= 0.8 * interruptions, "too few kills met a running process"
    process = start(project, workers)
    out, errors = process.communicate(timeout=600)
    assert "finished" in out, errors
    assert contents(project) == reference
    repeated = begun_shards(project) - every
    assert len(finished_shards(project)) == every
    assert 0 < repeated <= kills * workers, "more than what was in flight was computed again"


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_two_workers_give_the_same_bytes_as_none(tmp_path: Path, executor: str) -> None:
    if executor == "ray":
        pytest.importorskip("ray")
    alone, together = (make_project(tmp_path / name, DENSE, SPARSE) for name in ("one", "two"))
    for project, count, where in ((alone, 1, "serial"), (together, 2, executor)):
        out, errors = start(project, count, where).communicate(timeout=1200)
        assert "finished" in out, errors
    assert reports(together) == reports(alone)
    assert begun_shards(together) == begun_shards(alone), "a shard was computed twice"


def reports(project: Project) -> dict[str, bytes]:
    """Returns every file of records and evidence, without times."""
    paths = sorted((project.root / "reports").rglob("*.*"))
    assert {path.suffix for path in paths} == {".json", ".npz"}
    return {str(path.relative_to(project.root)): untimed(path) for path in paths}


def test_finished_record_is_not_recomputed(tmp_path: Path) -> None:
    project = make_project(tmp_path, SPARSE)
    entries = project.manifest().checkpoints
    assert evaluate_all(project, entries, FAST, "quick") == [(SPARSE, "no record")]
    path = records.record_path(project.results, FAST.id, SPARSE)
    stamp = path.stat().st_mtime_ns
    # Without its shards a recomputation would have to attack again and rewrite the record.
    for shard in (project.cache / "shards").rglob("*.npz"):
        shard.unlink()
    assert evaluate_all(project, entries, FAST, "quick") == []
    assert path.stat().st_mtime_ns == stamp
    assert not list((project.cache / "shards").rglob("*.npz"))


def test_larger_tier_adds_only_new_shards(tmp_path: Path) -> None:
    project = make_project(tmp_path, SPARSE)
    entries = project.manifest().checkpoints
    evaluate_all(project, entries, FAST, "quick")
    before = finished_shards(project)
    assert evaluate_all(project, entries, FAST, "standard") == [(SPARSE, "record of tier quick")]
    after = finished_shards(project)
    assert before.items() < after.items()
    # A record of the larger tier speaks for the smaller one too.
    assert evaluate_all(project, entries, FAST, "quick") == []


def test_damaged_shard_is_computed_again(
    tmp_path: Path, reference: dict[str, tuple[str, bytes]]
) -> None:
    project = make_project(tmp_path, DENSE, SPARSE)
    entries = project.manifest().checkpoints
    evaluate_all(project, entries, FAST, "full")
    shards = sorted(finished_shards(project))
    shards[0].write_bytes(shards[0].read_bytes()[:-7])
    records.record_path(project.results, FAST.id, SPARSE).unlink()
    evaluate_all(project, entries, FAST, "full")
    assert contents(project)[SPARSE] == reference[SPARSE]


@pytest.mark.slow
def test_compress_killed_after_each_epoch_makes_the_same_bits(tmp_path: Path) -> None:
    script = Path(__file__).with_name("drive_compress.py")

    def begin(root: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(script), str(root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def weights(root: Path) -> bytes:
        [entry] = Project(root).manifest().checkpoints
        return (root / entry.file).read_bytes()

    def states(root: Path) -> list[int]:
        return [p.stat().st_mtime_ns for p in (root / ".cache").rglob("*.state")]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    out, errors = begin(whole).communicate(timeout=1200)
    assert "finished" in out, errors
    kills = 0
    for _ in range(3):
        process, before = begin(parts), states(parts)
        while states(parts) == before and process.poll() is None:
            time.sleep(0.005)
        kills += process.poll() is None
        process.kill()
        process.communicate()
    assert kills, "no kill met a running process"
    out, errors = begin(parts).communicate(timeout=1200)
    assert "finished" in out, errors
    assert weights(parts) == weights(whole)
    assert not states(parts), "states are dropped once the checkpoint is there"
