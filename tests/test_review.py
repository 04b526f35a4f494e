"""Review: what a pull request changes is found, and put to every check, without touching it."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fast import DENSE, FAST, SPARSE
from handed_in import MINE, RANDOM, SPARSEST, HandedIn, copy_of, handed_in

from benchmark import cli, records
from benchmark.errors import BenchmarkError, ManifestError, RecordError
from benchmark.manifest import slug, write_manifest
from benchmark.pipeline import Draw, Project, reviewing, verdicts
from benchmark.pipeline.receiving import Validation
from benchmark.pipeline.reviewing import Review, changes, review

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
    found = review(honest.board, head.root, DRAW, **how)
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
    assert found.changes == changes(honest.board, honest.board.root)
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
    assert [entry.id for entry in found.changes.added] == [MINE, SPARSEST]
    assert found.changes.records == ((FAST.id, slug(MINE)), (FAST.id, slug(SPARSEST)))
    assert len(found.verified) == len(found.audits) == 2


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
    assert any(f"{file} is missing" in problem for problem in found.problems)
    evidence = records.evidence_folder(head.evidence, FAST.id, SPARSEST)
    shutil.rmtree(evidence)
    assert any(p.startswith(f"{SPARSEST}: ") for p in reviewed(honest, head).problems)


def test_an_altered_record_is_noticed(honest: HandedIn, head: Project) -> None:
    path = records.record_path(head.results, FAST.id, SPARSE)
    said = json.loads(path.read_text())
    said["cost"]["clean"]["forwards"] += 1
    path.write_text(json.dumps(said))
    found = reviewed(honest, head)
    assert found.changes.records == ((FAST.id, slug(SPARSE)),)
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
    assert any("the record" in problem and "is gone" in problem for problem in found.problems)
    assert found.changes.records == ((FAST.id, slug(DENSE)),)


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
    assert isinstance(answer, BenchmarkError) and str(path) == "submissions/x.zip"
    assert len(found.problems) == 1 and "**Refused.**" in verdicts.review(found)


def test_links_out_of_the_folder_are_not_followed(
    honest: HandedIn, head: Project, tmp_path: Path
) -> None:
    direct(honest, head)
    file = head.root / honest.author.manifest().find(MINE).file
    outside = tmp_path / "outside"
    shutil.move(file, outside)
    file.symlink_to(outside)
    assert any("leads outside" in problem for problem in reviewed(honest, head).problems)
    (head.root / "submissions").mkdir()
    (head.root / "submissions" / "x.zip").symlink_to(honest.bundle)
    assert changes(honest.board, head.root).bundles == ()


def test_a_broken_manifest_stops_the_review(honest: HandedIn, head: Project) -> None:
    head.manifest_path.write_text("{")
    with pytest.raises(ManifestError, match="as JSON"):
        review(honest.board, head.root, DRAW)


def test_too_much_at_a_time_is_refused(
    honest: HandedIn, head: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviewing, "MOST_RECORDS", 1)
    direct(honest, head)
    with pytest.raises(ManifestError, match="hand in fewer"):
        review(honest.board, head.root, DRAW)


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
