"""The corridor, end to end on digits: manifest to pages through the command line, then refusals."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from fast import DENSE, FAST, SPARSE, make_project

import benchmark
from benchmark import interface, records
from benchmark.digests import sha256_of_bytes
from benchmark.errors import ContractError, RecordError
from benchmark.evidence import decode
from benchmark.manifest import Checkpoint, Manifest, write_manifest
from benchmark.outcomes import Outcomes
from benchmark.pipeline import Project, evaluate_all, evaluate_model, report, results
from benchmark.pipeline.shards import read_shard
from benchmark.protocols import PROTOCOLS


def command(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "benchmark.cli", "--root", str(project.root), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "HOME": str(project.root)},
    )


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose two checkpoints were evaluated under the real protocol's quick tier."""
    project = make_project(tmp_path_factory.mktemp("board"), DENSE, SPARSE)
    done = command(project, "run", "--protocol", "digits-linf", "--tier", "quick")
    assert done.returncode == 0, done.stderr
    return project


@pytest.mark.slow(30)
def test_manifest_to_pages(board: Project) -> None:
    index = (board.site / "index.html").read_text()
    assert "digits-linf" in index
    page = (board.site / "digits-linf" / "index.html").read_text()
    rows = records.load_all(board.results, board.manifest())
    assert {row.checkpoint.id for row in rows} == {DENSE, SPARSE}
    for row in rows:
        frame = records.frame([row])
        line = frame.iloc[0]
        assert line.certified_accuracy <= line.robust_accuracy <= line.clean_accuracy
        assert line.robust_accuracy <= min(line.pgd_accuracy, line.autoattack_accuracy)
        assert f"{100 * line.robust_accuracy:.1f}" in page
    assert not re.search(r"\bnan\b|https?://[^\"'<]*\.(js|css|woff)", page)


@pytest.mark.slow
def test_rendering_twice_gives_the_same_bytes(board: Project) -> None:
    def snapshot() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in board.site.rglob("*") if p.is_file()}

    report(board)
    first = snapshot()
    report(board)
    assert snapshot() == first


@pytest.mark.slow
def test_second_run_recomputes_nothing(board: Project) -> None:
    stamps = {p: p.stat().st_mtime_ns for p in board.results.rglob("*.npz")}
    done = command(board, "run", "--protocol", "digits-linf", "--tier", "quick")
    assert done.returncode == 0, done.stderr
    assert "0 evaluated, 2 up to date" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in board.results.rglob("*.npz")} == stamps


@pytest.mark.slow
def test_python_interface(board: Project) -> None:
    model = interface.load_model(SPARSE, root=board.root)
    assert not model.training
    stored = interface.evaluate(SPARSE, "digits-linf", root=board.root)
    assert stored.record is not None
    frame = interface.results(root=board.root)
    line = frame[(frame.checkpoint_id == SPARSE) & (frame.tier == "quick")].iloc[0]
    assert line.robust_accuracy == stored.metrics.robust


@pytest.mark.slow
def test_readme_python_block_runs(board: Project) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=board.root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "lwm-layerwise" in done.stdout


def test_interface_refuses_what_it_cannot_evaluate(tmp_path: Path) -> None:
    make_project(tmp_path, SPARSE)
    with pytest.raises(ContractError, match=r"expected a checkpoint id or a torch\.nn\.Module"):
        interface.evaluate(len, "digits-linf", root=tmp_path)  # type: ignore[arg-type]
    other = replace(PROTOCOLS["digits-linf"], seed=1)
    with pytest.raises(ContractError, match="expected a protocol of the table"):
        interface.evaluate(SPARSE, other, root=tmp_path)
    with pytest.raises(RecordError, match="make leaderboard"):
        interface.results(root=tmp_path)
    assert {"evaluate", "load_model", "results"} <= set(dir(benchmark))


def test_records_of_other_examples_are_made_again(tmp_path: Path) -> None:
    project = make_project(tmp_path, SPARSE)
    entry = project.manifest().find(SPARSE)
    evaluate_all(project, [entry], FAST, "quick")
    path = records.record_path(project.results, FAST.id, SPARSE)
    record, outcomes = records.read(path)
    columns = {
        name: values.repeat(len(values))[: len(values)] for name, values in outcomes.columns.items()
    }
    forged = Outcomes(columns)
    changed = record.model_copy(update={"outcomes_sha256": sha256_of_bytes(forged.encode())})
    records.write(project.results, records.sealed(changed), forged)
    [(_, why)] = evaluate_all(project, [entry], FAST, "quick")
    assert "the protocol's examples" in why
    assert records.read(path)[1].encode() == outcomes.encode()


def test_bare_network_gets_the_same_outcomes(tmp_path: Path) -> None:
    project = make_project(tmp_path, SPARSE)
    entry = project.manifest().find(SPARSE)
    evaluate_all(project, [entry], FAST, "standard")
    _, stored = records.read(records.record_path(project.results, FAST.id, SPARSE))
    bare = evaluate_model(project, interface.load_model(SPARSE, root=tmp_path), FAST, "standard")
    assert bare.record is None
    assert bare.outcomes.columns.keys() == stored.columns.keys()
    assert bare.outcomes.encode() == stored.encode()


def test_shards_keep_the_adversarial_inputs(tmp_path: Path) -> None:
    project = make_project(tmp_path, SPARSE)
    evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    shards = [read_shard(path) for path in (project.cache / "shards").rglob("autoattack-*.npz")]
    kept = sum(len(found) for s in shards if s for found in s.evidence.values())
    record, outcomes = records.read(records.record_path(project.results, FAST.id, SPARSE))
    assert kept == int((outcomes.columns["autoattack.broken_by"] >= 0).sum())
    folder = records.evidence_folder(project.evidence, FAST.id, SPARSE)
    assert {file.name for file in record.evidence} == {path.name for path in folder.iterdir()}
    stored = 0
    for file in record.evidence:
        found = decode((folder / file.name).read_bytes(), file.sha256)
        stored += sum(len(finds) for finds in found.get("autoattack", {}).values())
    assert stored == kept


def test_missing_evidence_is_made_again_where_it_is_asked_for(tmp_path: Path) -> None:
    project = make_project(tmp_path, SPARSE)
    entries = project.manifest().checkpoints
    evaluate_all(project, entries, FAST, "quick")
    record, _ = records.read(records.record_path(project.results, FAST.id, SPARSE))
    lost = records.evidence_folder(project.evidence, FAST.id, SPARSE) / record.evidence[0].name
    before = lost.read_bytes()
    lost.unlink()
    assert evaluate_all(project, entries, FAST, "quick") == []
    [(name, why)] = evaluate_all(project, entries, FAST, "quick", with_evidence=True)
    assert (name, why) == (SPARSE, "evidence 000000.npz is missing")
    assert lost.read_bytes() == before
    lost.write_bytes(before[:-1])
    [(_, why)] = evaluate_all(project, entries, FAST, "quick")
    assert "evidence" in why and lost.read_bytes() == before


def test_a_record_never_loses_examples(tmp_path: Path) -> None:
    """Made again for whatever it lacks, a record keeps the larger tier that it has."""
    project = make_project(tmp_path, SPARSE)
    entries = project.manifest().checkpoints
    evaluate_all(project, entries, FAST, "standard")
    path = records.record_path(project.results, FAST.id, SPARSE)
    before = path.read_text()
    shutil.rmtree(project.evidence)
    assert evaluate_all(project, entries, FAST, "quick", with_evidence=True)
    record, _ = records.read(path)
    assert (record.tier, record.examples) == ("standard", 40)
    assert record.content_digest == json.loads(before)["content_digest"]


def test_damaged_evidence_in_a_shard_is_no_evidence_at_all(tmp_path: Path) -> None:
    project = make_project(tmp_path, SPARSE)
    entries = project.manifest().checkpoints
    evaluate_all(project, entries, FAST, "quick")
    [shard] = (project.cache / "shards").rglob("pgd-000000.npz")
    with zipfile.ZipFile(shard) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    kept["evidence/positions:pgd@3/16.npy"] = b"damaged"
    with zipfile.ZipFile(shard, "w") as archive:
        for name, data in kept.items():
            archive.writestr(name, data)
    records.record_path(project.results, FAST.id, SPARSE).unlink()
    with pytest.raises(RecordError, match="damaged one; it is removed"):
        evaluate_all(project, entries, FAST, "quick")
    assert evaluate_all(project, entries, FAST, "quick")


def test_stale_records_are_refused_and_made_again(tmp_path: Path) -> None:
    project = make_project(tmp_path, SPARSE)
    entry = project.manifest().find(SPARSE)
    evaluate_all(project, [entry], FAST, "quick")
    path = records.record_path(project.results, FAST.id, SPARSE)
    content = json.loads(path.read_text())

    for field, wrong, reason in (
        ("checkpoint_sha256", "0" * 64, "weights sha256"),
        ("protocol_digest", "1" * 64, "protocol digest"),
        ("data_digests", {"quick": "2" * 64}, "data digest"),
    ):
        altered = records.ResultRecord.model_validate_json(json.dumps(content | {field: wrong}))
        path.write_text(records.sealed(altered).model_dump_json())
        if field != "data_digests":  # reports do not read data
            with pytest.raises(RecordError, match=reason):
                results(project)
        [(name, why)] = evaluate_all(project, [entry], FAST, "quick")
        assert name == SPARSE
        assert reason in why
        assert json.loads(path.read_text())[field] == content[field]


def test_altered_record_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path, SPARSE)
    evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    path = records.record_path(project.results, FAST.id, SPARSE)
    path.write_text(path.read_text().replace('"zeros": 8885', '"zeros": 8886'))
    text = path.read_text()
    path.write_text(re.sub(r'"parameter_zeros": \d+', '"parameter_zeros": 1', text))
    with pytest.raises(RecordError, match="sealed in size"):
        results(project)


def test_a_refusal_is_one_line_with_its_exit_code(tmp_path: Path) -> None:
    done = command(make_project(tmp_path, DENSE), "report")
    assert done.returncode == 9 and "found none" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not done.stdout


def test_missing_data_names_the_next_step(tmp_path: Path) -> None:
    project = make_project(tmp_path, DENSE)
    entry = project.manifest().find(DENSE)
    other = {"dataset": "mnist", "id": DENSE.replace("digits", "mnist")}
    changed = Checkpoint.model_validate(entry.model_dump() | other)
    write_manifest(project.manifest_path, Manifest(checkpoints=(changed,)))
    done = command(project, "run", "--protocol", "mnist-linf")
    assert done.returncode == 5
    assert "--data-root" in done.stderr


def test_options_may_stand_behind_the_command(tmp_path: Path) -> None:
    project = make_project(tmp_path, DENSE)
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.cli", "list", "checkpoints", "--root", str(tmp_path)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )
    assert done.returncode == 0
    assert DENSE in done.stdout.replace("\n", "")
    assert project.root == tmp_path


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from benchmark.errors import StorageError

    project = make_project(tmp_path, SPARSE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert all(p.suffix in (".safetensors", ".json") for p in written), written
    monkeypatch.undo()
    evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    assert len(results(project)) == 1


def test_empty_manifest_is_no_board(tmp_path: Path) -> None:
    write_manifest(tmp_path / "checkpoints_manifest.json", Manifest())
    with pytest.raises(RecordError, match="found none"):
        report(Project(tmp_path))


def test_every_protocol_has_a_page() -> None:
    from benchmark.pipeline.reporting import page

    for protocol in PROTOCOLS.values():
        words = page(protocol)
        assert words.digest == protocol.digest
        assert [name for name, _ in words.settings][: len(protocol.evaluations)] == [
            name for name, _ in protocol.evaluations
        ]
