"""From evidence to what pages show of it: the first adversarial inputs of each attack."""

from typing import Any

import numpy as np

from benchmark import records
from benchmark.datasets import describe
from benchmark.errors import BenchmarkError
from benchmark.evaluations.engine import threat_of
from benchmark.evidence import LARGEST_EVIDENCE, SHOWN, Found, counts_in, decode, strip
from benchmark.files import read_bounded
from benchmark.outcomes import Array
from benchmark.pipeline.project import Project
from benchmark.records import EvidenceFile, Row


def strips_of(project: Project, row: Row) -> list[dict[str, Any]]:
    """Returns what to show of a record's evidence; empty where the files are not at hand.

    For each attack that broke something at the protocol's epsilon there is one entry: `attack`,
    `evaluation`, `epsilon`, `total` (inputs in the evidence), and of the first few in the order of
    the example list `labels`, `predictions`, `originals` and `adversarial` (k, C, H, W). A file
    that is missing or odd is left out: a page shows what there is, and `verify` complains.
    """
    shape = describe(row.protocol.dataset, project.data_root).shape
    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for file in row.record.evidence:
        try:
            _add_file(shown, project, row, file, shape)
        except (FileNotFoundError, BenchmarkError):
            continue
    return list(shown.values())


def _add_file(
    shown: dict[tuple[str, str], dict[str, Any]],
    project: Project,
    row: Row,
    file: EvidenceFile,
    shape: tuple[int, ...],
) -> None:
    """Adds what a file holds; images are unpacked only while there are too few to show."""
    folder = records.evidence_folder(project.evidence, row.protocol.id, row.checkpoint.id)
    data = read_bounded(folder / file.name, LARGEST_EVIDENCE)
    labels = row.outcomes.columns["label"][file.start : file.stop]
    counts = {
        key: count
        for key, count in counts_in(data).items()
        if threat_of(key[1], row.protocol.threat) == row.protocol.threat and count
    }
    full = all(key in shown and len(shown[key]["labels"]) >= SHOWN for key in counts)
    found = {} if full else decode(data, file.sha256)
    for key, count in counts.items():
        evaluation, attack = key
        entry = shown.setdefault(key, _empty(evaluation, attack, row, shape))
        finds = found.get(evaluation, {}).get(attack)
        if finds is not None and finds.originals.shape[1:] == shape:
            _extend(entry, strip(finds, SHOWN - len(entry["labels"])), labels)
        entry["total"] += count


def _empty(evaluation: str, attack: str, row: Row, shape: tuple[int, ...]) -> dict[str, Any]:
    none = np.empty((0, *shape), dtype=np.float32)
    return {
        # What names its epsilon is all that its evaluation tries, and goes by its name.
        "attack": evaluation if "@" in attack else attack,
        "evaluation": evaluation,
        "epsilon": str(row.protocol.threat.epsilon),
        "total": 0,
        "labels": [],
        "predictions": [],
        "originals": none,
        "adversarial": none,
    }


def _extend(entry: dict[str, Any], found: Found, labels: Array) -> None:
    """Adds finds to an entry; which classes they have the outcomes of the range say."""
    if len(found) == 0 or int(found.positions.max()) >= len(labels):
        return
    entry["labels"] += labels[found.positions].tolist()
    entry["predictions"] += found.predictions.tolist()
    entry["originals"] = np.concatenate([entry["originals"], found.originals])
    entry["adversarial"] = np.concatenate([entry["adversarial"], found.inputs])
