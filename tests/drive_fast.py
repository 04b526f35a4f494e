"""Evaluates a project under the fast protocol, in a process of its own that a test may kill."""

import sys
from dataclasses import replace
from pathlib import Path

import fast

from benchmark.pipeline import Project, evaluate_all
from benchmark.workers import Workers

if __name__ == "__main__":
    where = replace(Project(Path(sys.argv[1]), device="cpu"), workers=Workers(int(sys.argv[2])))
    print("started", flush=True)
    evaluate_all(where, where.manifest().checkpoints, fast.FAST, "full")
    print("finished", flush=True)
