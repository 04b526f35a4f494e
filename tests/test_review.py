"""Review: what a pull request changes is found, and put to every check, without touching it."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fast import DENSE, EPSILON, FAST, SPARSE, make_project
from handed_in import MINE, RANDOM, SPARSEST, HandedIn, copy_of, entered, handed_in

from benchmark import cli, records
from benchmark.attacks import Steps, pgd
from benchmark.errors import BenchmarkError, ManifestError, RecordError
from benchmark.evaluations import Clean, Pgd
from benchmark.manifest import load_model, slug, write_manifest
from benchmark.outcomes import attacked
from benchmark.pipeline import Draw, Project, evaluate_all, reviewing, verdicts
from benchmark.pipeline.challenging import Sender, challenge, standing
from benchmark.pipeline.changing import Proposal, changes
from benchmark.pipeline.receiving import Validation
from benchmark.pipeline.reviewing import Review, review
from benchmark.protocols import PROTOCOLS

DRAW = Draw(0, 0.5)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> HandedIn:
    return handed_in(tmp_path_factory)


@pytest.fixture
def head(honest: HandedIn, tmp_path: Path) -> Project:
    """The board as a pull request has it before it changes anything."""
    return copy_of(honest.board, tmp_path / "head")


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def reviewed(honest: HandedIn, head: Project, **how: Any) -> Review:
    """Reviews a folder, and sees to it that neither side was written to."""
    before = files(honest.board.root), files(head.root)
    found = review(honest.board, Proposal(head.root), DRAW, **how)
    assert (files(honest.board.root), files(head.root)) == before
    return found


def direct(honest: HandedIn, head: Project) -> None:
    """Enters the submitted rows by hand: entry, weights, records and evidence."""
    for name in (MINE, SPARSEST):
        entry = honest.author.manifest().find(name)
        write_manifest(head.manifest_path, head.manifest().with_entry(entry))
        shutil.copyfile(honest.author.root / entry.file, head.root / entry.file)
        for part in ("results", "evidence"):
            for path in (honest.author.root / "reports" / part / FAST.id).glob(f"{slug(name)}*"):
                target = head.root / path.relative_to(honest.author.root)
                copy = shutil.copytree if path.is_dir() else shutil.copyfile
                target.parent.mkdir(parents=True, exist_ok=True)
                copy(path, target)


def test_no_change_is_nothing_to_look_at(honest: HandedIn, head: Project) -> None:
    found = reviewed(honest, head)
    assert found.changes == changes(honest.board.root, honest.board.root)
    assert not found.submitted and not found.verified and not found.audits and not found.problems


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_a_bundle_is_validated_verified_and_audited(
    honest: HandedIn, head: Project, form: str
) -> None:
    folder = head.root / "submissions"
    folder.mkdir()
    if form == "archive":
        shutil.copyfile(honest.bundle, folder / "my-entry.zip")
    else:
        shutil.unpack_archive(honest.bundle, folder / "my-entry")
    found = reviewed(honest, head)
    assert found.problems == ()
    [(_, answer)] = found.submitted
    assert isinstance(answer, Validation) and answer.standings
    assert {one.checkpoint for one in found.verified} == {MINE, SPARSEST}
    assert {one.report.checkpoint_id for one in found.audits} == {MINE, SPARSEST}
    text = verdicts.review(found)
    assert "**Nothing speaks against it.**" in text and "## Records audited" in text
    assert f"`{MINE}`" in text


def test_rows_entered_by_hand_are_looked_at_as_well(honest: HandedIn, head: Project) -> None:
    direct(honest, head)
    found = reviewed(honest, head)
    assert found.problems == ()
    assert found.changes.added == (MINE, SPARSEST)
    assert found.changes.records == ((FAST.id, MINE), (FAST.id, SPARSEST))
    assert len(found.verified) == len(found.audits) == 2
    # Each meets the rows of the board, as those of a bundle do.
    assert f"| `{RANDOM}` |" in verdicts.review(found)


def damage(honest: HandedIn, head: Project, name: str, change: Callable[[Path], None]) -> Review:
    direct(honest, head)
    change(head.root / name)
    return reviewed(honest, head)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_other_weights_are_noticed(honest: HandedIn, head: Project) -> None:
    file = honest.author.manifest().find(MINE).file
    found = damage(honest, head, file, _flip)
    assert any(MINE in problem for problem in found.problems)
    with pytest.raises(RecordError, match="got [0-9]+ problems; the first"):
        reviewing.refuse(found)


def test_missing_weights_and_evidence_are_noticed(honest: HandedIn, head: Project) -> None:
    file = honest.author.manifest().find(MINE).file
    found = damage(honest, head, file, Path.unlink)
    assert any(f"expected weights of {MINE} in {file}" in p for p in found.problems)
    evidence = records.evidence_folder(head.evidence, FAST.id, SPARSEST)
    shutil.rmtree(evidence)
    assert any(p.startswith(f"{SPARSEST}: ") for p in reviewed(honest, head).problems)


def test_an_altered_record_is_noticed(honest: HandedIn, head: Project) -> None:
    path = records.record_path(head.results, FAST.id, SPARSE)
    said = json.loads(path.read_text())
    said["cost"]["clean"]["forwards"] += 1
    path.write_text(json.dumps(said))
    found = reviewed(honest, head)
    assert found.changes.records == ((FAST.id, SPARSE),)
    assert any("altered" in problem or "sealed" in problem for problem in found.problems)


def test_what_is_gone_or_replaced_is_named(honest: HandedIn, head: Project) -> None:
    manifest = head.manifest()
    [altered] = [e.model_copy(update={"licence": "other"}) for e in [manifest.find(DENSE)]]
    kept = [e for e in manifest.checkpoints if e.id != RANDOM]
    write_manifest(head.manifest_path, type(manifest)(checkpoints=tuple(kept)).with_entry(altered))
    records.record_path(head.results, FAST.id, RANDOM).unlink()
    found = reviewed(honest, head)
    assert f"{RANDOM} is gone from the manifest" in found.problems
    assert any(DENSE in problem and "another entry" in problem for problem in found.problems)
    lost = records.record_path(Path("reports/results"), FAST.id, RANDOM)
    assert f"{lost} is gone" in found.problems
    assert found.changes.altered == (DENSE,)
    # What is said of the weights is another thing now, so its record is looked at again.
    assert [one.checkpoint for one in found.verified] == [DENSE]


def test_a_row_without_a_record_is_none(honest: HandedIn, head: Project) -> None:
    direct(honest, head)
    for path in (head.results / FAST.id).glob(f"{slug(MINE)}*"):
        path.unlink()
    assert f"{MINE} is new and has no record" in reviewed(honest, head).problems


def test_a_bundle_that_is_none_is_refused_with_a_reason(honest: HandedIn, head: Project) -> None:
    (head.root / "submissions").mkdir()
    (head.root / "submissions" / "x.zip").write_bytes(b"PK no archive")
    found = reviewed(honest, head)
    [(path, answer)] = found.submitted
    assert isinstance(answer, BenchmarkError) and path == "submissions/x.zip"
    assert len(found.problems) == 1 and "**Refused.**" in verdicts.review(found)


def test_links_out_of_the_folder_are_not_followed(
    honest: HandedIn, head: Project, tmp_path: Path
) -> None:
    direct(honest, head)
    file = head.root / honest.author.manifest().find(MINE).file
    outside = tmp_path / "outside"
    shutil.move(file, outside)
    file.symlink_to(outside)
    with pytest.raises(RecordError, match="got a link or a device 'checkpoints/"):
        reviewed(honest, head)
    file.unlink()
    (head.root / "submissions").mkdir()
    (head.root / "submissions" / "x.zip").symlink_to(honest.bundle)
    with pytest.raises(RecordError, match="got a link or a device 'submissions/x.zip'"):
        changes(honest.board.root, head.root)


def test_a_broken_manifest_stops_the_review(honest: HandedIn, head: Project) -> None:
    head.manifest_path.write_text("{")
    with pytest.raises(ManifestError, match="as JSON"):
        review(honest.board, Proposal(head.root), DRAW)


def test_too_much_at_a_time_is_refused(
    honest: HandedIn, head: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviewing, "MOST_RECORDS", 1)
    direct(honest, head)
    with pytest.raises(ManifestError, match="hand in fewer"):
        review(honest.board, Proposal(head.root), DRAW)


def test_a_long_report_is_cut(honest: HandedIn, head: Project) -> None:
    found = replace(reviewed(honest, head), problems=("`<b>" * 100,) * 5_000)
    text = verdicts.review(found)
    assert len(text) < verdicts.LARGEST_REVIEW + 100
    assert "and 4900 more" in text and "`<b>`<b>" not in text


def test_the_command(
    honest: HandedIn,
    head: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    direct(honest, head)

    def run() -> int:
        options = ["--root", str(honest.board.root), "--workers", "1", "--device", "cpu"]
        arguments = ["review", str(head.root), "--report", str(tmp_path / "r.md"), "--seed", "0"]
        monkeypatch.setattr(sys, "argv", ["robustprune", *options, *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0)

    assert run() == 0
    assert "0 bundles, 2 new checkpoints, 2 new or altered records" in capsys.readouterr().out
    assert (tmp_path / "r.md").read_text().startswith("# Review\n\n**Nothing speaks against it.**")
    shutil.rmtree(records.evidence_folder(head.evidence, FAST.id, MINE))
    assert run() == 9
    assert f"problem: {MINE}" in capsys.readouterr().err
    assert "**Something speaks against it.**" in (tmp_path / "r.md").read_text()


def test_records_that_a_board_has_and_nobody_ships_are_not_lost(
    honest: HandedIn, head: Project, tmp_path: Path
) -> None:
    """The digits board is remade on each machine: what is in git is what proposals change."""
    base = copy_of(honest.board, tmp_path / "base")
    for side in (base, head):
        for folder in (side.results, side.evidence):
            shutil.rmtree(folder)
    assert reviewed(honest, head).problems
    found = review(honest.board, Proposal(head.root, base.root), DRAW)
    assert found.problems == () and found.changes.lost == ()


WEAK = replace(
    FAST,
    id="weaker-linf",
    evaluations=(("clean", Clean()), ("pgd", Pgd(Steps(1, Fraction(1, 100)), restarts=1))),
)


def test_a_challenge_is_looked_at_with_the_boards_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, WEAK.id, WEAK)
    board = make_project(tmp_path / "board", SPARSE)
    [entry] = board.manifest().checkpoints
    evaluate_all(board, [entry], WEAK, "quick")
    head, sender = copy_of(board, tmp_path / "head"), copy_of(board, tmp_path / "sender")
    where = standing(board, entry, WEAK)
    alive = attacked(where.outcomes, WEAK, EPSILON)
    index = torch.from_numpy(where.index[alive].astype(np.int64))
    trace = pgd(
        load_model(entry, board.root),
        where.split.inputs(index),
        where.split.labels[index],
        threat=WEAK.threat,
        steps=Steps(20, Fraction(1, 8)),
        restarts=1,
        generator=torch.Generator().manual_seed(0),
    )
    np.savez(tmp_path / "sent.npz", index=index.numpy(), inputs=trace.adversarial.numpy())
    ada = Sender("Ada", "PGD", "2026-01-01", "", "")
    sent = challenge(sender, entry, WEAK, tmp_path / "sent.npz", ada)
    shutil.copytree(sender.challenges, head.challenges)
    # Not even the record needs to be shipped.
    shutil.rmtree(head.results)
    base = copy_of(board, tmp_path / "base")
    shutil.rmtree(base.results)
    proposal = Proposal(head.root, base.root)
    found = review(board, proposal, DRAW)
    assert found.problems == () and found.changes.records == ((WEAK.id, SPARSE),)
    assert sent.after < sent.before
    assert [one.attacked for one in found.verified] == [pytest.approx(sent.after)]
    # Inputs that fool nobody are no challenge, whatever their file says.
    [inputs] = head.challenges.rglob("*.npz")
    inputs.write_bytes(inputs.read_bytes()[:-1])
    assert any(SPARSE in problem for problem in review(board, proposal, DRAW).problems)
    for file in [*head.challenges.rglob("*.*")]:
        file.rename(file.with_name(f"x{file.name}"))
    assert review(board, proposal, DRAW).problems


def test_weights_that_changed_behind_an_entry_are_noticed(honest: HandedIn, head: Project) -> None:
    _flip(head.root / head.manifest().find(SPARSE).file)
    found = reviewed(honest, head)
    assert found.changes.moved == (SPARSE,)
    assert any("sha256" in problem for problem in found.problems)


def test_a_mirror_may_be_added(honest: HandedIn, head: Project) -> None:
    entry = head.manifest().find(SPARSE)
    more = entry.model_copy(update={"mirrors": ("https://example.org/weights",)})
    write_manifest(head.manifest_path, head.manifest().with_entry(more))
    found = reviewed(honest, head)
    assert found.changes.moved == (SPARSE,) and not found.changes.altered
    assert found.problems == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"display_name": "=cmd()"}, "display_name of mine/.* has what a spreadsheet takes"),
        ({"authors": ("<img src=x>",)}, "authors.0 of mine/.* has what a browser takes"),
        ({"file": "checkpoints_manifest.json"}, "its weights in checkpoints_manifest.json instead"),
        ({"file": "reports/audits/x.json"}, "has its weights in reports/audits/x.json instead"),
        ({"file": "../x"}, "has its weights in ../x instead"),
    ],
)
def test_entries_made_by_hand_are_held_to_the_rules_of_bundles(
    honest: HandedIn, head: Project, changes: dict[str, Any], words: str
) -> None:
    direct(honest, head)
    entry = head.manifest().find(MINE).model_copy(update=changes)
    write_manifest(head.manifest_path, head.manifest().with_entry(entry))
    found = reviewed(honest, head)
    assert any(re.search(words, problem) for problem in found.problems), found.problems


def test_weights_of_another_row_are_noticed(honest: HandedIn, head: Project) -> None:
    """A copy of a good row under another method's name."""
    entered(head, MINE, SPARSE)
    problems = reviewed(honest, head).problems
    assert f"{MINE} has the weights of {SPARSE}" in problems


def test_weights_may_lie_elsewhere(honest: HandedIn, head: Project, tmp_path: Path) -> None:
    direct(honest, head)
    file = head.root / head.manifest().find(MINE).file
    (tmp_path / "mirror").mkdir()
    shutil.move(file, tmp_path / "mirror" / file.name)
    board = replace(honest.board, mirror=tmp_path / "mirror")
    assert review(board, Proposal(head.root), DRAW).problems == ()
    assert any("found no such file" in problem for problem in reviewed(honest, head).problems)


@pytest.mark.parametrize(
    "name",
    [
        "reports/results/fast-linf/nobody.json",
        "reports/evidence/fast-linf/nobody/0.npz",
        "reports/challenges/fast-linf/nobody/0.json",
        "checkpoints/digits/nobody.safetensors",
        "submissions/loose.json",
    ],
)
def test_what_belongs_to_no_checkpoint_is_named(honest: HandedIn, head: Project, name: str) -> None:
    (head.root / name).parent.mkdir(parents=True, exist_ok=True)
    (head.root / name).write_bytes(b"x")
    assert reviewed(honest, head).problems == (
        f"{name} is of no checkpoint of the manifest, and of no bundle",
    )


def test_a_bundle_altered_after_it_was_accepted_is_looked_at_again(
    honest: HandedIn, head: Project, tmp_path: Path
) -> None:
    folder = head.root / "submissions" / "my-entry"
    shutil.unpack_archive(honest.bundle, folder, "zip")
    base = copy_of(head, tmp_path / "base")
    assert changes(base.root, head.root).bundles == ()
    (folder / "comparison.md").write_text("mine is best")
    found = review(honest.board, Proposal(head.root, base.root), DRAW)
    assert found.changes.bundles == ("submissions/my-entry",)
    assert any("comparison.md" in problem for problem in found.problems)


def test_code_is_counted_and_not_judged(honest: HandedIn, head: Project) -> None:
    (head.root / "methods").mkdir()
    (head.root / "methods" / "mine.py").write_text("raise SystemExit")
    (head.root / "link").symlink_to("/etc/passwd")
    found = reviewed(honest, head)
    assert found.changes.others == ("link", "methods/mine.py") and found.problems == ()
    assert "| other files, not judged here | 2 |" in verdicts.review(found)


@pytest.mark.parametrize("name", ["reports", "checkpoints", "submissions"])
def test_a_folder_of_data_is_no_link(
    honest: HandedIn, head: Project, tmp_path: Path, name: str
) -> None:
    shutil.rmtree(head.root / name, ignore_errors=True)
    (head.root / name).symlink_to(tmp_path)
    with pytest.raises(RecordError, match=f"got a link or a device '{name}'"):
        changes(honest.board.root, head.root)
