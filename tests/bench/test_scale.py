"""A project of 10,000 records: read, ranked and rendered, with the memory of each: `make bench`.

Each step runs in a process of its own, whose peak memory is what the system says of it; most of
that is libraries, whose share the first line shows. Pages are shown by a browser in no test.
"""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import make

Benchmark = Callable[..., Any]

# Without `--benchmark-enable` each benchmark runs once as a test, on as many.
FEW, MANY = 60, 10_000

HEAD = """
import json, resource, sys, time
from pathlib import Path
from benchmark import leaderboard, records
from benchmark.pipeline import Project, report, reporting
from benchmark.workers import Workers

project = Project(Path(sys.argv[1]), workers=Workers(0))
files = records.paths(project.results)
"""
# What is measured, by step: (what is made ready before, the step itself).
STEPS = {
    "libraries": ("", "None"),
    "manifest": ("", "project.manifest()"),
    "frame": (
        "manifest = project.manifest()",
        "reporting._gathered(project, files, manifest, 0)[0]",
    ),
    "rank": (
        "table, _ = reporting._gathered(project, files, project.manifest(), 0)",
        "leaderboard.rank(table, 0)",
    ),
    "load, rank and render": ("", "report(project)"),
    "render again, nothing changed": ("", "report(project)"),
}
TAIL = """
peak = lambda who: round(resource.getrusage(who).ru_maxrss / 1024)
spent = lambda who: sum(resource.getrusage(who)[:2])
before = spent(resource.RUSAGE_SELF), spent(resource.RUSAGE_CHILDREN)
start = time.perf_counter()
found = {step}
seconds = time.perf_counter() - start
cpu = spent(resource.RUSAGE_SELF) + spent(resource.RUSAGE_CHILDREN) - sum(before)
print(json.dumps({{
    "seconds": seconds,
    "cpu_seconds": cpu,
    "peak_mb": peak(resource.RUSAGE_SELF),
    "peak_mb_of_a_copy": peak(resource.RUSAGE_CHILDREN),
    "count": 0 if found is None else len(getattr(found, "checkpoints", found)),
}}))
"""


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The configuration disables benchmarks, and that option stays set where `make bench` enables.
    enabled = bool(request.config.getoption("benchmark_enable"))
    made = tmp_path_factory.mktemp("scale")
    make(made, MANY if enabled else FEW, processes=4 if enabled else 1)
    return made


def measured(folder: Path, step: str) -> dict[str, Any]:
    before, what = STEPS[step]
    code = HEAD + before + TAIL.format(step=what)
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.benchmark(group="many records")
@pytest.mark.parametrize("step", STEPS)
def test_scale(benchmark: Benchmark, folder: Path, step: str) -> None:
    found = benchmark.pedantic(measured, args=(folder, step), rounds=1, iterations=1)
    # The benchmark's own clock includes the start of Python; what the step took is here.
    benchmark.extra_info.update(found)
    records = len(list((folder / "reports" / "results").glob("*/*.json")))
    benchmark.extra_info["records"] = records
    if step == "manifest":
        assert found["count"] == records
    if "render" in step:
        assert found["count"] > records
