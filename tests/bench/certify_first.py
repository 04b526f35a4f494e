"""Compares a stored board with the same board attacked everywhere, example by example.

Usage: python tests/bench/certify_first.py PROJECT PROTOCOL [CHECKPOINT…]

For each checkpoint with a record, every evaluation runs again with nobody spared, and the robust
sets are compared. What differs is decided by the attacks' random draws, which AutoAttack hands out
among the examples of a batch; a certified example that differs would be a defect.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark import interface, records
from benchmark.evaluations import Smoothing
from benchmark.outcomes import attacked, certified
from benchmark.pipeline import evaluate_model
from benchmark.protocols import protocol


def compare(root: Path, name: str, chosen: set[str]) -> Iterator[tuple[str, int, list[int], int]]:
    """Yields (checkpoint, examples certified, test examples that differ, certified of them)."""
    project, known = interface.project(root), protocol(name)
    evaluations = [(n, s) for n, s in known.evaluations if not isinstance(s, Smoothing)]
    everywhere = replace(known, certify_first=False, evaluations=tuple(evaluations))
    for row in records.load_all(project.results, project.manifest()):
        if row.protocol != known or (chosen and row.checkpoint.id not in chosen):
            continue
        epsilon = known.threat.epsilon
        model = interface.load_model(row.checkpoint.id, root=root)
        again = evaluate_model(project, model, everywhere, row.record.tier)
        first = attacked(row.outcomes, known, epsilon)
        # A bare network has no dense parent, so what only transfer broke counts for neither.
        by_transfer = row.outcomes.columns["transfer.broken_by"] >= 0
        differ = (first != attacked(again.outcomes, everywhere, epsilon)) & ~by_transfer
        proven = certified(row.outcomes, known)[epsilon]
        indices = row.outcomes.columns["index"][differ].tolist()
        yield row.checkpoint.id, int(proven.sum()), indices, int(np.sum(differ & proven))


if __name__ == "__main__":
    for found in compare(Path(sys.argv[1]), sys.argv[2], set(sys.argv[3:])):
        sys.stdout.write(f"{found}\n")
        sys.stdout.flush()
