"""Submit, validate and accept: from a draft to a row on another project's board."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fast import DENSE, FAST, SPARSE
from handed_in import (
    DRAFT,
    MINE,
    RANDOM,
    SCRUTINY,
    SPARSEST,
    HandedIn,
    copy_of,
    entered,
    forgery,
    handed_in,
    unpacked,
)

from benchmark import cli, records, submissions
from benchmark.comparison import adjusted, head_to_head
from benchmark.errors import BenchmarkError, ManifestError, RecordError, UnknownName
from benchmark.manifest import Checkpoint, Manifest, checkpoint_id, encode, read_manifest
from benchmark.pipeline import Draw, audit_all, evaluate_all, receiving, report, results
from benchmark.pipeline.comparing import compare
from benchmark.pipeline.receiving import accept, validate
from benchmark.pipeline.submitting import manifest_patch, submit, write_draft
from benchmark.pipeline.verdicts import refusal
from benchmark.pipeline.verdicts import report as in_words
from benchmark.pipeline.verifying import verify_all


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> HandedIn:
    return handed_in(tmp_path_factory)


@pytest.fixture(scope="module")
def accepted(honest: HandedIn, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The board after it accepted the submission; the method's code is nowhere on this machine."""
    board = copy_of(honest.board, tmp_path_factory.mktemp("accepted") / "board")
    done = accept(board, honest.bundle, SCRUTINY)
    assert done.entered == (MINE, SPARSEST) and done.kept == ()
    assert done.records == ((FAST.id, MINE), (FAST.id, SPARSEST))
    return board


# --- The bundle and the patch ---------------------------------------------------------------------


def test_a_bundle_is_the_same_each_time(honest: HandedIn) -> None:
    before = honest.bundle.read_bytes()
    again = submit(honest.author, honest.folder, SCRUTINY)
    assert again.evaluated == () and again.bundle.read_bytes() == before
    names = list(unpacked(honest.bundle))
    assert names == sorted(names) and "checkpoints_manifest.json" not in names
    said = json.loads(unpacked(honest.bundle)["submission.json"])
    assert said["method"]["authors"] == ["Ada Müller", "Bo Li"]
    assert said["statement"] == {"extra_data": "", "test_data_unused": True}


def test_the_patch_is_what_accepting_does(honest: HandedIn, accepted: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints_manifest.json"
    path.write_bytes(honest.board.manifest_path.read_bytes())
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    patch = honest.folder / "manifest.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    assert path.read_bytes() == accepted.manifest_path.read_bytes()
    added = [line for line in patch.read_text().splitlines() if line.startswith("-")]
    assert added == ["--- a/checkpoints_manifest.json"], "nothing of the others may change"


def test_patches_of_first_and_last_entries(honest: HandedIn, tmp_path: Path) -> None:
    whole = honest.author.manifest()
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    path = tmp_path / "checkpoints_manifest.json"
    for count in range(1, len(whole.checkpoints) + 1):
        for chosen in itertools.combinations(whole.checkpoints, count):
            rest = tuple(entry for entry in whole.checkpoints if entry not in chosen)
            path.write_bytes(encode(Manifest(checkpoints=rest)))
            patch = manifest_patch(whole, chosen)
            subprocess.run(["git", "apply", "-"], cwd=tmp_path, check=True, input=patch, text=True)
            assert path.read_bytes() == encode(whole)


def test_a_patch_of_a_large_manifest_has_its_additions_alone(
    honest: HandedIn, tmp_path: Path
) -> None:
    (pattern,) = (e for e in honest.author.manifest().checkpoints if e.id == MINE)

    def seeded(seed: int) -> Checkpoint:
        changed = pattern.model_copy(update={"seed": seed})
        return changed.model_copy(update={"id": checkpoint_id(changed)})

    every = sorted((seeded(seed) for seed in range(3_000)), key=lambda entry: entry.id)
    whole, chosen = Manifest(checkpoints=tuple(every)), every[5::10]
    size = len(pattern.model_dump_json(indent=1).splitlines())
    marks = Counter(line[0] for line in manifest_patch(whole, chosen).splitlines()[3:])
    assert marks == {"@": 300, " ": 1_800, "+": 300 * size}
    rest = tuple(entry for number, entry in enumerate(every) if number % 10 != 5)
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    path = tmp_path / "checkpoints_manifest.json"
    path.write_bytes(encode(Manifest(checkpoints=rest)))
    patch = manifest_patch(whole, chosen)
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, check=True, input=patch, text=True)
    assert path.read_bytes() == encode(whole)


def test_the_comparison_is_that_of_paired_tests(honest: HandedIn) -> None:
    """Recounted from the outcomes, without the code that is tested."""
    found = validate(honest.board, honest.bundle, SCRUTINY)
    assert found.notes == ()
    first, second = found.standings
    assert (first.checkpoint, second.checkpoint) == (MINE, SPARSEST)
    frame = results(honest.author).query("tier == 'quick'").set_index("checkpoint_id")
    rows = {name: row for name, row in frame.to_dict("index").items()}
    for name, row in rows.items():
        row["checkpoint_id"] = name
    others = [SPARSE, RANDOM]
    duels = [head_to_head(rows[MINE], rows[other]) for other in others]
    expected = {
        other: (duel.only_first, duel.only_second, p)
        for other, duel, p in zip(others, duels, adjusted(duels), strict=True)
    }
    assert {c.other: (c.only_ours, c.only_theirs, c.p) for c in first.contests} == expected
    assert second.contests == () and second.missing_controls == "random, magnitude"
    assert first.missing_controls == ""
    assert first.attacked == rows[MINE]["best_known_accuracy"]
    assert first.narrow == second.narrow
    assert first.narrow.startswith("1 of 3 sparsities with all controls (90 %; cnn-tiny")
    text = unpacked(honest.bundle)["comparison.md"].decode()
    assert text == found.comparison and f"| `{SPARSE}` |" in text


def test_two_submitted_rows_of_a_cell_meet_once(honest: HandedIn, tmp_path: Path) -> None:
    """A variant and the method itself: one test, seen from both, and corrected once."""
    author = copy_of(honest.author, tmp_path / "author")
    variant = "mine:bits=4/digits/cnn-tiny/adversarial/unstructured-90/seed0"
    source = "snip/digits/cnn-tiny/adversarial/unstructured-90/seed0"
    entered(author, variant, source, method="mine:bits=4", display_name="Mine (bits=4)")
    folder = tmp_path / "entry"
    folder.mkdir()
    folder.joinpath("submission.toml").write_text(DRAFT.replace("mine/digits/*", "mine*-90/*"))
    standings = submit(author, folder, SCRUTINY).validation.standings
    met = {line.checkpoint: {c.other: c for c in line.contests} for line in standings}
    assert met.keys() == {MINE, variant}
    ours, theirs = met[MINE][variant], met[variant][MINE]
    assert (ours.only_ours, ours.only_theirs) == (theirs.only_theirs, theirs.only_ours)
    assert ours.p == theirs.p and ours.difference.value == -theirs.difference.value
    assert met[MINE].keys() - {variant} == met[variant].keys() - {MINE} == {SPARSE, RANDOM}


def test_another_board_gets_a_comparison_of_its_own(honest: HandedIn, tmp_path: Path) -> None:
    board = copy_of(honest.board, tmp_path / "board")
    records.record_path(board.results, FAST.id, RANDOM).unlink()
    found = validate(board, honest.bundle, SCRUTINY)
    assert found.problems == () and "made with another board" in found.notes[0]
    assert [c.other for c in found.standings[0].contests] == [SPARSE]
    assert found.standings[0].missing_controls == "random"


# --- Accepting ------------------------------------------------------------------------------------


def test_the_row_is_on_the_board_without_the_methods_code(accepted: Any) -> None:
    written = report(accepted)
    site = accepted.site
    board = (site / FAST.id / "index.html").read_text()
    assert "Mine" in board and "narrow" in board and "1 of 3 sparsities" in board
    page = next(path for path in written if path.parent.name == "methods" and "mine" in path.name)
    text = page.read_text()
    assert "Ada Müller, Bo Li" in text and "Mine, 2026" in text
    assert 'href="https://example.org/mine"' in text
    assert "re-checkable" in board
    assert "narrow" in (site / FAST.id / "board.csv").read_text().splitlines()[0]
    entries = accepted.manifest().checkpoints
    assert evaluate_all(accepted, entries, FAST, "quick", with_evidence=True) == []
    paths = [records.record_path(accepted.results, FAST.id, name) for name in (MINE, SPARSEST)]
    assert all(one.findings == () for one in verify_all(accepted, paths, share=1.0, seed=0))
    assert compare(accepted, [MINE, SPARSE], FAST.id).meetings
    entry = accepted.manifest().find(MINE)
    (audited,) = audit_all(accepted, [entry], FAST, Draw(0, 0.2, 0.95))
    assert audited.report.checkpoint_id == MINE


def test_accepting_again_changes_nothing(honest: HandedIn, accepted: Any) -> None:
    def state() -> dict[str, bytes]:
        kept = ("checkpoints", "reports/results", "reports/evidence", "reports/submissions")
        return {
            str(p): p.read_bytes()
            for name in kept
            for p in (accepted.root / name).rglob("*")
            if p.is_file()
        }

    before = state()
    done = accept(accepted, honest.bundle, SCRUTINY)
    assert done.entered == () and state() == before
    assert "mine is on this board already, with the same authors" in done.validation.notes[0]
    said = accepted.root / "reports" / "submissions" / "my-entry.json"
    assert submissions.read(said).contact == "ada@example.org"


def test_a_kill_at_any_moment_leaves_a_project_that_works(
    honest: HandedIn, accepted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = honest.board.manifest_path.read_bytes()
    new = accepted.manifest_path.read_bytes()
    write, seen = receiving.write_atomically, set()
    # What was checked once is not checked again here: only the writing is at stake.
    found = validate(honest.board, honest.bundle, SCRUTINY)
    monkeypatch.setattr(receiving, "_validated", lambda case: found)
    for moment in itertools.count():
        board = copy_of(honest.board, tmp_path / str(moment))
        left = moment

        def dying(path: Path, data: bytes, durable: bool = True) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            write(path, data, durable)

        monkeypatch.setattr(receiving, "write_atomically", dying)
        try:
            accept(board, honest.bundle, SCRUTINY)
            break
        except KeyboardInterrupt:
            seen.add(board.manifest_path.read_bytes() == new)
            assert board.manifest_path.read_bytes() in (old, new)
            records.load_all(board.results, board.manifest())
        monkeypatch.setattr(receiving, "write_atomically", write)
        if moment % 4 == 0:
            accept(board, honest.bundle, SCRUTINY)
            for part in ("checkpoints", "reports/results", "reports/evidence"):
                same = subprocess.run(
                    ["diff", "-r", str(board.root / part), str(accepted.root / part)], check=False
                )
                assert same.returncode == 0
    assert moment > 8 and seen == {False, True}


def test_files_follow_a_manifest_that_was_patched_before(
    honest: HandedIn, accepted: Any, tmp_path: Path
) -> None:
    board = copy_of(honest.board, tmp_path / "board")
    board.manifest_path.write_bytes(accepted.manifest_path.read_bytes())
    done = accept(board, honest.bundle, SCRUTINY)
    assert done.entered == () and len(done.records) == 2
    for part in ("checkpoints", "reports/results", "reports/evidence"):
        names = [str(root / part) for root in (board.root, accepted.root)]
        assert subprocess.run(["diff", "-r", *names], check=False).returncode == 0


def test_what_the_board_measured_itself_is_kept(honest: HandedIn, tmp_path: Path) -> None:
    board = copy_of(honest.board, tmp_path / "board")
    accept(board, honest.bundle, SCRUTINY)
    path = records.record_path(board.results, FAST.id, MINE)
    record, outcomes = records.read(path)
    own = records.sealed(record.model_copy(update={"training_digest": "a" * 64}))
    records.write(board.results, own, outcomes)
    before = path.read_bytes()
    done = accept(board, honest.bundle, SCRUTINY)
    assert done.kept == ((FAST.id, MINE),) and path.read_bytes() == before


# --- Drafts ---------------------------------------------------------------------------------------


def test_init_writes_a_draft_that_only_lacks_what_its_author_knows(
    honest: HandedIn, tmp_path: Path
) -> None:
    path = write_draft(honest.author, tmp_path / "entry")  # the only method of the manifest
    text = path.read_text()
    assert '# authors = ["Ada Müller", "Bo Li"]' in text and '["mine/digits/*"]' in text
    with pytest.raises(RecordError, match="got contact: .*; correct that field"):
        submissions.read_draft(path)
    path.write_text(text.replace('contact = ""', 'contact = "ada"'))
    with pytest.raises(RecordError, match="statement.test_data_unused: expected true, got false"):
        submissions.read_draft(path)
    path.write_text(path.read_text().replace("unused = false", "unused = true"))
    assert submissions.read_draft(path).protocols[0] == "digits-linf"
    for line in ("title", "authors", "paper", "code"):
        path.write_text(path.read_text().replace(f"# {line} =", f"{line} ="))
    assert submissions.read_draft(path).method.authors == ("Ada Müller", "Bo Li")
    with pytest.raises(RecordError, match="expected no .*submission.toml, found one"):
        write_draft(honest.author, tmp_path / "entry")
    with pytest.raises(UnknownName, match="got 'other'; make them with"):
        write_draft(honest.author, tmp_path / "other", "other")


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("mine/digits", "mime/digits", UnknownName, "checkpoints.0: .*fits none"),
        ("fast-linf", "fast-lin", UnknownName, "did you mean fast-linf"),
        ("fast-linf", "mnist-linf", ManifestError, "protocols.0: expected checkpoints for mnist"),
        ("mine/digits", "random/digits", ManifestError, "method.name: expected a checkpoint of"),
        ('"mine"\n', '"mine"\ntitle = "Other"\n', ManifestError, "method.title: expected 'Mine'"),
        ('"mine"\n', '"mine"\nauthors = ["Eve"]\n', ManifestError, "method.authors: expected"),
        ("summary", "#", RecordError, "method.summary: expected one sentence"),
        ("ada@", "@ada", RecordError, "contact: .*a formula"),
        ("Removes", "<b>", RecordError, "method.summary: .*markup"),
    ],
)
def test_a_draft_that_cannot_be_handed_in_names_the_field(
    old: str, new: str, kind: type[BenchmarkError], message: str, honest: HandedIn, tmp_path: Path
) -> None:
    assert old in DRAFT
    (tmp_path / "submission.toml").write_text(DRAFT.replace(old, new))
    with pytest.raises(kind, match=message) as raised:
        submit(honest.author, tmp_path, SCRUTINY)
    assert str(raised.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["submission.toml"]


def test_a_folder_without_a_draft(honest: HandedIn, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="found no such file; write one with .* --init"):
        submit(honest.author, tmp_path, SCRUTINY)


# --- In words, and on the command line ------------------------------------------------------------


def test_a_report_shows_foreign_text_as_text(honest: HandedIn) -> None:
    found = validate(honest.board, honest.bundle, SCRUTINY)
    hostile = "x`|<img src=x onerror=alert(1)>[a](javascript:b)\u202e\x1b[2J @all #1 **b**"
    method = found.submission.method.model_copy(update={"title": hostile, "authors": (hostile,)})
    said = found.submission.model_copy(update={"method": method, "contact": hostile})
    told = replace(found, submission=said, problems=(ManifestError(hostile),), notes=(hostile,))
    for text in (in_words(told), refusal(Path(hostile), RecordError(hostile))):
        assert all(line.isprintable() for line in text.splitlines())
        outside = []
        for line in text.replace("\\|", "").splitlines():
            parts = line.split("`")
            assert len(parts) % 2 == 1, line
            outside += parts[::2]
        assert not any("<" in part or "[a]" in part or "@all" in part for part in outside)
    assert in_words(found) == in_words(found) and "**Holds.**" in in_words(found)


def test_the_three_commands(
    honest: HandedIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(root: Path, *arguments: str) -> tuple[int, str]:
        options = ["robustprune", "--root", str(root), "--workers", "1", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [*options, *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        answer = capsys.readouterr()
        return int(left.value.code or 0), answer.out + answer.err

    code, text = run(honest.author.root, "submit", str(tmp_path / "entry"), "--init")
    assert code == 0 and "complete" in text
    (tmp_path / "entry" / "submission.toml").write_text(DRAFT)
    code, text = run(honest.author.root, "submit", str(tmp_path / "entry"), "--seed", "0")
    assert code == 0, text
    for words in ("evaluated 0 records", "better than", "missing controls", "narrow: 1 of 3",
                  "my-entry.zip", "manifest.patch"):  # fmt: skip
        assert words in text, text
    bundle = tmp_path / "entry" / "my-entry.zip"
    assert bundle.read_bytes() == honest.bundle.read_bytes()

    board = copy_of(honest.board, tmp_path / "board")
    answer = tmp_path / "report.md"
    code, text = run(board.root, "validate", str(bundle), "--report", str(answer))
    assert code == 0 and "the submission holds" in text
    assert "**Holds.**" in answer.read_text() and f"`{MINE}`" in answer.read_text()
    code, text = run(board.root, "accept", str(bundle))
    assert code == 0 and "entered 2 checkpoints and 2 records" in text

    forged = forgery(bundle)
    forged.entry()["zeros"] += 1
    code, text = run(
        board.root, "validate", str(forged.write(tmp_path / "forged")), "--report", str(answer)
    )
    assert code == 4 and "problem: expected the entry of mine/" in text
    assert "**Refused.**" in answer.read_text() and "another zeros" in answer.read_text()
    code, text = run(board.root, "validate", str(answer), "--report", str(answer))
    assert code == 9 and "without an archive's end" in text
    assert "**Refused.**" in answer.read_text()
    code, text = run(board.root, "accept", str(tmp_path / "nothing.zip"))
    assert code == 9 and "found none; check the path" in text


def test_an_author_may_bring_controls(honest: HandedIn, tmp_path: Path) -> None:
    """What the board has already comes along unharmed; its own record stays."""
    folder = tmp_path / "entry"
    folder.mkdir()
    patterns = '"mine/digits/*", "random/*", "dense/*"'
    folder.joinpath("submission.toml").write_text(DRAFT.replace('"mine/digits/*"', patterns))
    made = submit(honest.author, folder, SCRUTINY)
    shown = {line.checkpoint for line in made.validation.standings}
    assert shown == {DENSE, RANDOM, MINE, SPARSEST}
    board = copy_of(honest.board, tmp_path / "board")
    done = accept(board, made.bundle, SCRUTINY)
    assert done.entered == (MINE, SPARSEST)
    assert read_manifest(board.manifest_path) == honest.author.manifest()
    forged = forgery(made.bundle)
    forged.entry(RANDOM)["authors"] = ["Eve"]
    problems = validate(honest.board, forged.write(tmp_path / "forged"), SCRUTINY).problems
    assert [str(one).partition(" of ")[0] for one in problems[:1]] == ["expected authors"]
    assert "as on the board, got '('Eve',)'" in str(problems[0])
