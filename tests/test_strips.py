"""Strips: what pages show of evidence is what the evidence holds, and odd files are left out."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fast import DENSE, EPSILON, FAST, make_project

from benchmark import records
from benchmark.digests import sha256_of_bytes
from benchmark.evidence import SHOWN, decode, encode
from benchmark.pipeline import Project, evaluate_all, report
from benchmark.pipeline.shards import examples_of
from benchmark.pipeline.strips import strips_of
from benchmark.records import Row


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("strips"), DENSE)
    evaluate_all(project, project.manifest().checkpoints, FAST, "standard")
    return project


@pytest.fixture
def project(board: Project, tmp_path: Path) -> Project:
    shutil.copytree(board.root, tmp_path / "copy")
    return replace(board, root=tmp_path / "copy")


def row_of(project: Project) -> Row:
    [row] = records.load_all(project.results, project.manifest())
    return row


def test_strips_show_the_first_finds_beside_their_originals(board: Project) -> None:
    row = row_of(board)
    strips = strips_of(board, row)
    assert {(s["evaluation"], s["attack"]) for s in strips} >= {("pgd", "pgd")}
    whole = examples_of(board, FAST, 0, 40)
    known = {inputs.numpy().tobytes(): n for n, inputs in enumerate(whole.inputs)}
    for shown in strips:
        count = len(shown["labels"])
        assert 0 < count <= SHOWN and count == min(SHOWN, shown["total"])
        assert shown["epsilon"] == str(EPSILON)
        positions = [known[original.tobytes()] for original in shown["originals"]]
        # In the order of the list, none picked.
        assert positions == sorted(positions)
        assert shown["labels"] == whole.labels[positions].tolist()
        assert all(a != b for a, b in zip(shown["labels"], shown["predictions"], strict=True))
        apart = np.abs(shown["adversarial"] - shown["originals"]).max()
        assert 0 < apart <= float(EPSILON) + 1e-6
    total = {s["attack"]: s["total"] for s in strips}
    assert total["pgd"] == int((row.outcomes.columns[f"pgd.broken_step@{EPSILON}"] >= 0).sum())


def folder_of(project: Project) -> Path:
    return records.evidence_folder(project.evidence, FAST.id, DENSE)


def test_without_evidence_there_is_nothing_to_show(project: Project) -> None:
    shutil.rmtree(project.evidence)
    assert strips_of(project, row_of(project)) == []


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x05\x06" + b"\0" * 18, b"\x80\x04K\x01."],
    ids=["empty", "no arrays", "a pickle"],
)
def test_odd_files_are_left_out_and_pages_are_made(project: Project, data: bytes) -> None:
    before = strips_of(project, row_of(project))
    first = sorted(folder_of(project).iterdir())[0]
    first.write_bytes(data)
    after = strips_of(project, row_of(project))
    assert sum(s["total"] for s in after) < sum(s["total"] for s in before)
    assert report(project)


def test_evidence_of_another_shape_or_attack_is_left_out(project: Project) -> None:
    """Sealed as it is, so that only what it says can give it away."""
    row = row_of(project)
    path = sorted(folder_of(project).iterdir())[0]
    entry = row.record.evidence[0]
    found = decode(path.read_bytes(), entry.sha256)
    [finds] = [f for name, f in found["pgd"].items() if name == f"pgd@{EPSILON}"]
    cut = replace(
        finds,
        inputs=finds.inputs[:, :, :4],
        originals=finds.originals[:, :, :4],
        rounded=np.zeros_like(finds.rounded),
    )
    data = encode({"pgd": {f"pgd@{EPSILON}": cut, "foo@x": finds}})
    path.write_bytes(data)
    file = entry.model_copy(update={"bytes": len(data), "sha256": sha256_of_bytes(data)})
    changed = row.record.model_copy(update={"evidence": (file, *row.record.evidence[1:])})
    strips = strips_of(project, replace(row, record=changed))
    assert all(s["originals"].shape[1:] == (1, 8, 8) for s in strips)
