"""Compares AutoAttack by this project's attacks and by pyautoattack, on the embedded checkpoints.

Usage: python tests/bench/engines.py [--examples 150] [--seeds 0,1,2] [--every 1] [--workers 0]

Everything correct is attacked, proven or not. The report goes to stdout as Markdown.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from benchmark.distributed import environment, map_jobs
from benchmark.evaluations import AutoAttack
from benchmark.evaluations.autoattack import Engine
from benchmark.evaluations.engine import run_evaluation
from benchmark.manifest import load_model, read_manifest
from benchmark.pipeline import Project
from benchmark.pipeline.shards import examples_of
from benchmark.protocols import protocol
from benchmark.workers import Workers

ROOT = Path(__file__).parents[2]
SUMMARY = ROOT / "docs" / "speed.json"
PROTOCOL = protocol("digits-linf")
ENGINES: tuple[Engine, ...] = ("pyautoattack", "robustprune")


@dataclass(frozen=True)
class Run:
    """One attack: which checkpoint, by whom, with what seed, on how many examples."""

    checkpoint: str
    engine: Engine
    seed: int
    examples: int


def survivors(run: Run) -> tuple[bool, ...]:
    """Returns which examples survive."""
    entry = read_manifest(ROOT / "checkpoints_manifest.json").find(run.checkpoint)
    measured = run_evaluation(
        load_model(entry, ROOT),
        examples_of(Project(ROOT), PROTOCOL, 0, run.examples),
        name="autoattack",
        settings=AutoAttack(engine=run.engine, seed=run.seed),
        threat=PROTOCOL.threat,
        seed=("engines",),
    )
    return tuple((measured.result.columns["broken_by"] == -1).tolist())


def apart(one: tuple[bool, ...], other: tuple[bool, ...]) -> int:
    """Returns on how many examples two runs differ."""
    return sum(a != b for a, b in zip(one, other, strict=True))


def main() -> None:
    """Attacks and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=150)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--every", type=int, default=1, help="which checkpoints: each n-th")
    parser.add_argument("--workers", type=int, default=0)
    chosen = parser.parse_args()
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    names = [entry.id for entry in read_manifest(ROOT / "checkpoints_manifest.json").checkpoints]
    names = [name for name in names if "/benign/" not in name][:: chosen.every]
    runs = [Run(n, e, s, chosen.examples) for n in names for e in ENGINES for s in seeds]
    found = {}
    for run, answer in map_jobs(survivors, runs, Workers(chosen.workers), torch.device("cpu")):
        found[run] = answer
        sys.stderr.write(f"[{len(found)}/{len(runs)}] {run}\n")
    of = partial(Run, examples=chosen.examples)
    lines = ["| checkpoint | pyautoattack | robustprune | apart | seeds apart |"]
    lines.append("|---|---|---|---:|---:|")
    gaps, between, within = [], [], []
    for name in names:
        theirs, ours = ([found[of(name, engine, seed)] for seed in seeds] for engine in ENGINES)
        pairs = [(a, b) for number, a in enumerate(seeds) for b in seeds[number + 1 :]]
        across = fmean(apart(a, b) for a in theirs for b in ours)
        inside = [
            apart(found[of(name, engine, a)], found[of(name, engine, b)])
            for engine in ENGINES
            for a, b in pairs
        ]
        gaps.append(fmean(map(sum, ours)) - fmean(map(sum, theirs)))
        between.append(across)
        within.append(fmean(inside) if inside else 0.0)
        counts = [" ".join(str(sum(one)) for one in each) for each in (theirs, ours)]
        lines.append(f"| {name} | {counts[0]} | {counts[1]} | {across:.1f} | {within[-1]:.1f} |")
    lines += [
        "",
        f"{len(names)} checkpoints, {chosen.examples} examples each, robust ones counted for seeds "
        f"{', '.join(map(str, seeds))}. robustprune less pyautoattack: {fmean(gaps):+.2f} examples "
        f"in the mean, between {min(gaps):+.1f} and {max(gaps):+.1f}. On {fmean(between):.1f} "
        f"examples the engines differ, on {fmean(within):.1f} two seeds of one engine.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    summary = json.loads(SUMMARY.read_text()) if SUMMARY.is_file() else {}
    summary["engines"] = {
        "checkpoints": len(names),
        "examples": chosen.examples,
        "seeds": seeds,
        "gap": {"mean": fmean(gaps), "least": min(gaps), "most": max(gaps)},
        "between_engines": fmean(between),
        "between_seeds": fmean(within),
        "environment": dict(environment(torch.device("cpu"))),
    }
    SUMMARY.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
