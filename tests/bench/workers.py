"""Measures two Ray workers against one, a thread each, and what a killed worker costs.

Usage: python tests/bench/workers.py [PROJECT] [--data-root DATA] [--protocol digits-linf]
    [--tier quick] [--checkpoints 4] [--repeats 3]

One and two workers take turns on the same cluster, each time with an empty cache. Then one of two
is killed in the middle. The report goes to stdout as Markdown. It needs `robustprune[cluster]`.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

# The tests' helpers lie one folder up.
sys.path.insert(0, str(Path(__file__).parents[1]))

from untimed import untimed

from benchmark.distributed import cluster, environment, map_jobs
from benchmark.manifest import Checkpoint, Manifest, read_manifest, write_manifest
from benchmark.pipeline import Project, evaluate_all
from benchmark.pipeline.shards import evaluated_split, measure_shard, settled
from benchmark.protocols import Protocol, protocol
from benchmark.workers import Workers

ROOT = Path(__file__).parents[2]
TWO = 2


@dataclass(frozen=True)
class Run:
    """What a run took and made.

    Attributes:
        seconds: from beginning to end, with workers that have started.
        working: seconds that workers spent on shards, all workers together.
        ended: shards.
        begun: shards that began; more than ended if some were lost.
        files: every record and its evidence, without times.
    """

    seconds: float
    working: float
    ended: int
    begun: int
    files: dict[str, bytes]


class Counter:
    """Counts shards that begin and end, as a watch of `evaluate_all`."""

    def __init__(self) -> None:
        """Has seen nothing."""
        self.begun, self.ended = 0, 0
        self._first = True

    def __call__(self, done: int, total: int, text: str, left: float | None = None) -> None:
        """Is told of progress."""
        self.begun += done == self.ended and not self._first
        self.ended, self._first = done, False
        sys.stderr.write(f"\r{done} of {total} {text[-60:]:>60}")


def project_of(
    entries: Sequence[Checkpoint], source: Path, root: Path, workers: Workers
) -> Project:
    """Returns a project with copies of some checkpoints and an empty cache."""
    for entry in entries:
        (root / entry.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / entry.file, root / entry.file)
    write_manifest(root / "checkpoints_manifest.json", Manifest(checkpoints=tuple(entries)))
    return Project(root, device="cpu", workers=workers)


def evaluated(project: Project, chosen: Protocol, tier: str) -> Run:
    """Evaluates a whole project."""
    watch, start = Counter(), time.perf_counter()
    evaluate_all(project, project.manifest().checkpoints, chosen, tier, watch)
    seconds = time.perf_counter() - start
    files, working = {}, 0.0
    for path in sorted((project.root / "reports").rglob("*.*")):
        if path.suffix == ".json":
            working += sum(
                float(cost["seconds"]) for cost in json.loads(path.read_bytes())["cost"].values()
            )
        files[str(path.relative_to(project.root))] = untimed(path)
    return Run(seconds, working, watch.ended, watch.begun, files)


def warm(job: tuple[Project, Checkpoint, Protocol, Path, int]) -> None:
    """Imports and loads what shards need, and waits until all workers have."""
    from benchmark.manifest import load_model
    from benchmark.pipeline.shards import examples_of

    project, entry, chosen, folder, number = job
    model = load_model(entry, project.root)
    examples = examples_of(project, chosen, 0, 8)
    for name in ("clean", "bounds"):
        measure_shard(model, chosen, name, examples, 0)
    (folder / str(number)).touch()
    deadline = time.monotonic() + 120
    while len(list(folder.iterdir())) < TWO and time.monotonic() < deadline:
        time.sleep(0.05)


def kill_a_worker(after: float) -> threading.Thread:
    """Kills a Ray worker of ours, which runs a shard, after some seconds."""

    def kill() -> None:
        time.sleep(after)
        while not (found := [pid for pid in ours() if runs_a_job(pid)]):
            time.sleep(0.01)
        os.kill(found[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    return killer


def runs_a_job(pid: int) -> bool:
    """Returns whether a process is a Ray worker with a job."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_call")
    except OSError:
        return False


def ours() -> list[int]:
    """Returns all processes below this one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found, new = set(), {os.getpid()}
    while new:
        found |= new
        new = {pid for pid, parent in parents.items() if parent in new}
    return sorted(found - {os.getpid()})


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("project", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--protocol", default="digits-linf")
    parser.add_argument("--tier", default="quick")
    parser.add_argument("--checkpoints", type=int, default=4, help="how many, evenly spread")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    chosen = protocol(asked.protocol)
    known = read_manifest(asked.project / "checkpoints_manifest.json").checkpoints
    known = tuple(entry for entry in known if entry.dataset == chosen.dataset)
    entries = known[:: max(1, len(known) // asked.checkpoints)][: asked.checkpoints]
    with tempfile.TemporaryDirectory() as folder:
        measure(asked, chosen, entries, Path(folder))


def measure(
    asked: argparse.Namespace, chosen: Protocol, entries: Sequence[Checkpoint], folder: Path
) -> None:
    """Runs everything in a folder of its own and writes the report."""

    def run(name: str, count: int) -> Run:
        workers = Workers(count, executor="ray")
        made = project_of(entries, asked.project, folder / name, workers)
        return evaluated(replace(made, data_root=asked.data_root), chosen, asked.tier)

    two = Workers(TWO, executor="ray")
    start = time.perf_counter()
    with cluster._session(two):
        begun = time.perf_counter() - start
        first = project_of(entries, asked.project, folder / "first", two)
        first = settled(replace(first, data_root=asked.data_root))
        evaluated_split(chosen.dataset, first.data_root, False)
        (folder / "met").mkdir()
        jobs = [(first, entries[0], chosen, folder / "met", n) for n in range(TWO)]
        list(map_jobs(warm, jobs, two, torch.device("cpu")))
        warmed = time.perf_counter() - start - begun
        runs = [(run(f"one{n}", 1), run(f"two{n}", TWO)) for n in range(asked.repeats)]
        killer = kill_a_worker(0.4 * median(pair[1].seconds for pair in runs))
        killed = run("killed", TWO)
        killer.join()
    serial = project_of(entries, asked.project, folder / "serial", Workers(executor="serial"))
    alone = evaluated(replace(serial, data_root=asked.data_root), chosen, asked.tier)
    report(asked, chosen, entries, (begun, warmed), runs, killed, alone)


def report(
    asked: argparse.Namespace,
    chosen: Protocol,
    entries: Sequence[Checkpoint],
    started: tuple[float, float],
    runs: Sequence[tuple[Run, Run]],
    killed: Run,
    alone: Run,
) -> None:
    """Writes what was found."""
    lines = ["| one worker | two workers | ratio | with start-up | two: share at work |"]
    lines.append("|---:|---:|---:|---:|---:|")
    for one, two in runs:
        ready = sum(started)
        ratio, cold = one.seconds / two.seconds, (one.seconds + ready) / (two.seconds + ready)
        share = two.working / two.seconds / TWO
        cells = (f"{one.seconds:.1f} s", f"{two.seconds:.1f} s", f"{ratio:.2f}", f"{cold:.2f}")
        lines.append(f"| {' | '.join(cells)} | {share:.0%} |")
    everything = [*(run for pair in runs for run in pair), killed]
    same = all(run.files == alone.files for run in everything)
    ratios = [one.seconds / two.seconds for one, two in runs]
    lines += [
        "",
        f"Median {median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}. {len(entries)} "
        f"checkpoints under {chosen.id}, {asked.tier}, {alone.ended} shards, the serial run took "
        f"{alone.seconds:.1f} s; {environment(torch.device('cpu'))['device']}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.",
        "",
        f"Start-up: {started[0]:.1f} s for the cluster and {started[1]:.1f} s for its workers.",
        "",
        f"One of two workers killed: {killed.begun - killed.ended} of {killed.ended} shards began "
        f"twice, {killed.seconds:.1f} s.",
        "",
        f"Records and evidence of all {len(everything)} runs are "
        f"{'' if same else 'NOT '}those of the serial run, byte for byte but for seconds.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
