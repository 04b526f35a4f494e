"""The manifest and all records that are in git, looked over on every run; and what would be seen.

Nothing here runs a network but the small board of the second half, once.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from fast import DENSE, FAST, ROOT, SPARSE, make_project
from orderly import LARGEST_SHIPPED, Board, oddities

from benchmark import records
from benchmark.attacks import Steps
from benchmark.evaluations import Clean, Pgd
from benchmark.manifest import encode, slug, write_manifest
from benchmark.pipeline import Project, evaluate_all
from benchmark.protocols import PROTOCOLS

# Git ignores them: whoever wants the digits board makes it.
REMADE = ("digits-linf",)

PLAIN = replace(
    FAST,
    id="plain-linf",
    evaluations=(("clean", Clean()), ("pgd", Pgd(Steps(1, Fraction(1, 4)), restarts=1))),
)


def test_the_project_is_in_order() -> None:
    assert oddities(Board(Project(ROOT), REMADE)) == []


def test_what_is_remade_is_what_git_ignores() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert [f"/reports/results/{name}/" for name in REMADE] == [
        line for line in ignored if line.startswith("/reports/results/")
    ]
    # All but what is shipped: the inputs of first examples.
    assert "/reports/evidence/*" in ignored


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, PLAIN.id, PLAIN)
        project = make_project(tmp_path_factory.mktemp("board") / "whole", DENSE, SPARSE)
        evaluate_all(project, project.manifest().checkpoints, PLAIN, "quick")
        shutil.rmtree(project.cache)
    return project


@pytest.fixture
def board(whole: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setitem(PROTOCOLS, PLAIN.id, PLAIN)
    shutil.copytree(whole.root, tmp_path / "board")
    return Board(replace(whole, root=tmp_path / "board"))


def results(board: Board, name: str = SPARSE) -> Path:
    return records.record_path(board.project.results, PLAIN.id, name)


def weights(board: Board) -> Path:
    return board.project.root / board.project.manifest().find(SPARSE).file


def evidence(board: Board) -> Path:
    return records.evidence_folder(board.project.evidence, PLAIN.id, SPARSE)


def change(board: Board, name: str = SPARSE, **changes: object) -> None:
    """Changes an entry as somebody would who knows the format."""
    entry = board.project.manifest().find(name).model_copy(update=changes)
    write_manifest(board.project.manifest_path, board.project.manifest().with_entry(entry))


def rewrite(board: Board, **changes: object) -> None:
    """Changes a record and seals it as if it had been made so."""
    record, outcomes = records.read(results(board))
    record = records.sealed(record.model_copy(update=changes))
    records.write(board.project.results, record, outcomes)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def put(board: Board, name: str, data: bytes = b"x") -> None:
    path = board.project.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def link(board: Board) -> None:
    path = weights(board)
    path.rename(path.with_suffix(".there"))
    path.symlink_to(path.with_suffix(".there"))


def reverse(board: Board) -> None:
    manifest = board.project.manifest()
    turned = manifest.model_copy(update={"checkpoints": manifest.checkpoints[::-1]})
    board.project.manifest_path.write_bytes(encode(turned))


def twice(board: Board) -> None:
    """Enters the weights of one checkpoint as those of another."""
    dense, other = (board.project.manifest().find(name) for name in (DENSE, SPARSE))
    change(board, DENSE, sha256=other.sha256, bytes=other.bytes, file=other.file)
    assert dense.file != other.file


DAMAGES: dict[str, tuple[Callable[[Board], object], str]] = {
    "spelling": (
        lambda b: b.project.manifest_path.write_text(
            json.dumps(json.loads(b.project.manifest_path.read_text()))
        ),
        "not as it is written",
    ),
    "order": (reverse, "not in order of id"),
    "no manifest": (lambda b: b.project.manifest_path.write_text("{"), "as JSON"),
    "copied weights": (twice, "belongs to 2 checkpoints"),
    "recipe": (lambda b: change(b, recipe_digest="0" * 64), "recipe is another by now"),
    "place": (lambda b: change(b, file="checkpoints/x"), "weights in checkpoints/x instead"),
    "formula": (lambda b: change(b, display_name="=1+1"), "a spreadsheet takes for a formula"),
    "markup": (lambda b: change(b, authors=("A", "<b>B")), "a browser takes for markup"),
    "no weights": (lambda b: weights(b).unlink(), "no weights and no address"),
    "other weights": (lambda b: flip(weights(b)), "other weights than the manifest says"),
    "other size": (lambda b: change(b, bytes=1), "other weights than the manifest says"),
    "link": (link, "is a link"),
    "orphan": (lambda b: put(b, "checkpoints/digits/x.safetensors"), "belongs to no checkpoint"),
    "large record": (
        lambda b: put(b, "reports/results/big", bytes(LARGEST_SHIPPED["reports"] + 1)),
        "too many for git",
    ),
    "unknown protocol": (lambda b: put(b, "reports/results/x/y.json"), "is of no protocol"),
    "half a record": (lambda b: results(b).unlink(), "no half of a checkpoint's record"),
    "other half": (lambda b: results(b).with_suffix(".npz").unlink(), "no half of a checkpoint's"),
    "orphaned record": (
        lambda b: [put(b, f"reports/results/{PLAIN.id}/x{kind}") for kind in (".json", ".npz")],
        "no half of a checkpoint's record",
    ),
    "copied record": (
        lambda b: [
            shutil.copyfile(results(b, DENSE).with_suffix(k), results(b).with_suffix(k))
            for k in (".json", ".npz")
        ],
        "under its own name",
    ),
    "altered record": (lambda b: flip(results(b)), "reports/results"),
    "altered outcomes": (lambda b: flip(results(b).with_suffix(".npz")), "outcomes"),
    "retrained": (lambda b: change(b, sha256="0" * 64), "evaluate again"),
    "old protocol": (
        lambda b: PROTOCOLS.__setitem__(PLAIN.id, replace(PLAIN, seed=PLAIN.seed + 1)),
        "evaluate again",
    ),
    "another parent": (lambda b: rewrite(b, parent_sha256="0" * 64), "another dense parent"),
    "skipped": (lambda b: rewrite(b, status="skipped", reason="x"), "has status skipped"),
    "less evidence": (lambda b: rewrite(b, evidence=()), "lacks evidence of a range"),
    "altered evidence": (
        lambda b: flip(next(evidence(b).iterdir())),
        "not the evidence that its record names",
    ),
    "evidence of nobody": (
        lambda b: shutil.copytree(evidence(b), evidence(b).with_name("x")),
        "is evidence of no record",
    ),
    "challenge of nobody": (
        lambda b: put(b, f"reports/challenges/{PLAIN.id}/x/y.json"),
        "is against no checkpoint",
    ),
    "half a challenge": (
        lambda b: put(b, f"reports/challenges/{PLAIN.id}/{slug(SPARSE)}/y.npz"),
        "no half of a challenge",
    ),
    "damaged challenge": (
        lambda b: put(b, f"reports/challenges/{PLAIN.id}/{slug(SPARSE)}/y.json"),
        "challenge",
    ),
    "damaged submission": (lambda b: put(b, "reports/submissions/x.json"), "submission"),
}


def test_a_board_in_order_is_so(board: Board) -> None:
    assert oddities(board) == []
    # Evidence may lie elsewhere, and weights too, if they have an address.
    shutil.rmtree(board.project.evidence)
    weights(board).unlink()
    change(board, url="https://example.org/weights")
    assert oddities(Board(board.project)) == []


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_seen(board: Board, name: str) -> None:
    damage, words = DAMAGES[name]
    damage(board)
    found = oddities(Board(board.project))
    assert any(words in line for line in found), found


def test_what_is_remade_is_not_looked_at(board: Board) -> None:
    flip(results(board))
    put(board, f"reports/results/{PLAIN.id}/x.json")
    assert oddities(Board(board.project, (PLAIN.id,))) == []


def test_files_in_git_are_small() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listed.split("\0") if name}
    assert {name: size for name, size in sizes.items() if size > 2 << 20} == {}
