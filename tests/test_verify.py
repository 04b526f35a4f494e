"""Verification by mutation: whatever is altered, it fails and says what differs."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fast import DENSE, EPSILON, FAST, SPARSE, make_project

from benchmark import bounds, cli, records
from benchmark.bounds import rounding_allowance
from benchmark.digests import sha256_of_bytes
from benchmark.errors import ContractError
from benchmark.evidence import Found, decode, encode
from benchmark.manifest import load_model
from benchmark.outcomes import Outcomes
from benchmark.pipeline import Project, evaluate_all, verifying
from benchmark.pipeline.shards import examples_of
from benchmark.pipeline.verifying import (
    Verification,
    VerifyJob,
    _Subject,
    verify_all,
    verify_record,
)
from benchmark.records import ResultRecord


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("honest"), DENSE, SPARSE)
    evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    shutil.rmtree(project.cache)
    return project


@pytest.fixture
def project(honest: Project, tmp_path: Path) -> Project:
    """Returns a copy that a test may damage."""
    shutil.copytree(honest.root, tmp_path / "copy")
    return replace(honest, root=tmp_path / "copy")


def record_path(project: Project) -> Path:
    return records.record_path(project.results, FAST.id, SPARSE)


def verify(project: Project, share: float = 1.0) -> Verification:
    return verify_record(VerifyJob(project, record_path(project), share, seed=0))


def findings(project: Project, share: float = 1.0) -> str:
    found = verify(project, share).findings
    assert found, "the change was not noticed"
    assert all(line.isprintable() for line in found)
    return "\n".join(found)


def test_an_honest_record_holds(honest: Project) -> None:
    paths = [records.record_path(honest.results, FAST.id, name) for name in (DENSE, SPARSE)]
    first = verify_all(honest, paths, share=1.0, seed=0)
    for answer in first:
        assert answer.findings == () and answer.ties == 0
        assert answer.bounds == answer.examples == 20
        assert answer.inputs > 0 and 0 <= answer.certified <= answer.attacked <= 1
    _, outcomes = records.read(paths[1])
    robust = (outcomes.columns["autoattack.broken_by"] >= 0).sum()
    assert first[1].inputs >= robust
    assert verify_all(honest, paths[::-1], share=1.0, seed=0) == first[::-1]


def test_the_share_says_how_many_bounds_are_computed_again(honest: Project) -> None:
    assert [verify(honest, share).bounds for share in (0.0, 0.11, 0.5)] == [0, 3, 10]
    with pytest.raises(ContractError, match="share of the bounds"):
        verify_all(honest, [], share=1.5, seed=0)


def test_a_sample_that_looks_like_a_range_has_its_own_allowances(honest: Project) -> None:
    """Both begin with the same example and are as long; rounding is allowed for by example."""
    subject = _Subject(VerifyJob(honest, record_path(honest), 1.0, seed=0))
    whole, chosen = subject.examples(range(20)), torch.tensor([0, *range(11, 20)])
    sample = replace(
        whole,
        inputs=whole.inputs[chosen],
        labels=whole.labels[chosen],
        indices=whole.indices[chosen],
    )
    subject.allowance(subject.examples(range(10)))
    expected = rounding_allowance(subject.model, sample.inputs).numpy()
    assert np.array_equal(subject.allowance(sample), expected)


# --- the record -----------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the way to every number and text in a JSON value, and to every empty list or table."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for position, item in enumerate(value):
            yield from leaves(item, (*path, position))
    else:
        yield path


def other(value: Any) -> Any:
    """Returns a value of the same kind that is not this one."""
    if isinstance(value, str):
        tail = "0" if value[-1:] != "0" else "1"
        return value[:-1] + tail
    if isinstance(value, int | float):
        return value + 1
    return {"extra": "x"} if isinstance(value, dict) else ["x"]


def changed(content: Any, path: tuple[Any, ...]) -> Any:
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = other(inner[path[-1]])
    return copy


def test_every_field_of_a_record_is_sealed(project: Project) -> None:
    path = record_path(project)
    content = json.loads(path.read_text())
    ways = list(leaves(content))
    assert {way[0] for way in ways} == set(ResultRecord.model_fields)
    for way in ways:
        path.write_text(json.dumps(changed(content, way)))
        found = findings(project)
        # A broken seal is named by the field that it does not fit.
        named = way[1] if way[0] == "seals" else way[0]
        assert str(named) in found, (way, found)


@pytest.mark.parametrize("name", sorted(ResultRecord.model_fields))
def test_every_field_of_a_record_is_missed(project: Project, name: str) -> None:
    path = record_path(project)
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    assert name in findings(project)


def test_a_space_in_a_record_is_an_altered_byte(project: Project) -> None:
    path = record_path(project)
    path.write_text(path.read_text().replace('"tier": ', '"tier":  ', 1))
    assert "not as it was written" in findings(project, 0.0)


def reseal(project: Project, **changes: Any) -> None:
    """Alters a record as somebody would who also makes its digests fit."""
    path = record_path(project)
    record = ResultRecord.model_validate_json(json.dumps(json.loads(path.read_text()) | changes))
    path.write_bytes(records.encode(records.sealed(record)))


ZEROS = "0" * 64


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"checkpoint_sha256": ZEROS}, "weights sha256"),
        ({"checkpoint_id": DENSE}, "expected"),
        ({"checkpoint_id": "no/such"}, "unknown checkpoint"),
        ({"protocol": "digits-linf"}, "expected"),
        ({"protocol": "no-such"}, "unknown protocol"),
        ({"protocol_version": 7}, "protocol version"),
        ({"protocol_digest": ZEROS}, "protocol digest"),
        ({"tier": "standard"}, "examples of its tier"),
        ({"examples": 19}, "expected 19 outcomes"),
        ({"data_digests": {"quick": ZEROS}}, "data_digests.quick"),
        ({"data_digests": {}}, "data digests"),
        ({"outcomes_sha256": ZEROS}, "outcomes with sha256"),
        ({"evidence": []}, "evidence: expected a file"),
        ({"parent_sha256": ZEROS}, "parent_sha256"),
        ({"cost": {}}, "cost."),
        ({"flags": [{"name": "softmax-output", "rate": 1.0, "detail": "x"}]}, "softmax-output"),
        ({"flags": [{"name": "hidden-weights", "rate": 1.0, "detail": "x"}]}, "hidden-weights"),
        ({"status": "skipped"}, "status is skipped"),
    ],
)
def test_a_resealed_record_is_told_from_the_truth(
    project: Project, changes: dict[str, Any], named: str
) -> None:
    reseal(project, **changes)
    assert named in findings(project)


@pytest.mark.parametrize(
    "name", ["weight_zeros", "weight_total", "parameter_zeros", "parameter_total", "bytes_dense"]
)
def test_resealed_counts_are_counted_again(project: Project, name: str) -> None:
    size = json.loads(record_path(project).read_text())["size"]
    reseal(project, size=size | {name: size[name] + 1})
    assert f"size.{name}" in findings(project)


@pytest.mark.parametrize("name", ["parameters", "multiply_adds", None])
def test_a_resealed_compact_size_is_counted_again(project: Project, name: str | None) -> None:
    compact = json.loads(record_path(project).read_text())["compact"]
    reseal(project, compact=compact | {name: compact[name] - 1} if name else None)
    assert "compact differs" in findings(project)


def test_latencies_are_times_that_nothing_can_count_again(project: Project) -> None:
    reseal(project, latency=None, compact=None)
    assert verify(project, 0.0).findings == ()


@pytest.mark.parametrize("name", ["shape", "name", "multiply_adds_sparse", "multiply_adds_dense"])
def test_resealed_layers_are_counted_again(project: Project, name: str) -> None:
    size = json.loads(record_path(project).read_text())["size"]
    value = size["layers"][0][name]
    size["layers"][0][name] = [*value, 1] if isinstance(value, list) else other(value)
    reseal(project, size=size)
    assert "size.layers" in findings(project)


@pytest.mark.parametrize("name", ["attacked", "proven", "forwards_saved"])
def test_resealed_counts_of_attacks_are_counted_again(project: Project, name: str) -> None:
    cost = json.loads(record_path(project).read_text())["cost"]
    cost["pgd"][name] += 1
    reseal(project, cost=cost)
    assert "cost.pgd" in findings(project)


@pytest.mark.parametrize("name", ["start", "stop", "inputs", "bytes", "sha256"])
def test_resealed_evidence_entries_are_checked(project: Project, name: str) -> None:
    evidence = json.loads(record_path(project).read_text())["evidence"]
    evidence[0][name] = other(evidence[0][name])
    reseal(project, evidence=evidence)
    assert "evidence" in findings(project)


# --- outcomes -------------------------------------------------------------------------------------


def alter_outcomes(project: Project, change: Callable[[dict[str, Any]], None]) -> None:
    """Alters outcomes and makes every digest fit."""
    path = record_path(project)
    _, outcomes = records.read(path)
    columns = {name: values.copy() for name, values in outcomes.columns.items()}
    change(columns)
    data = Outcomes(columns).encode()
    path.with_suffix(".npz").write_bytes(data)
    reseal(project, outcomes_sha256=sha256_of_bytes(data))


def test_an_altered_byte_of_the_outcomes_is_noticed(project: Project) -> None:
    path = record_path(project).with_suffix(".npz")
    data = path.read_bytes()
    for position in range(0, len(data), 101):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert "outcomes with sha256" in findings(project)


def first(columns: dict[str, Any], name: str, value: int) -> int:
    return int(np.flatnonzero(columns[name] == value)[0])


def shift(name: str) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        values = columns[name]
        position = int(np.flatnonzero(np.isfinite(values.astype(float)))[0])
        values[position] = ~values[position] if values.dtype == bool else values[position] + 1

    return change


def hide(name: str) -> Callable[[dict[str, Any]], None]:
    """Calls a broken example unbroken."""

    def change(columns: dict[str, Any]) -> None:
        columns[name][np.flatnonzero(columns[name] >= 0)[0]] = -1

    return change


def invent(name: str) -> Callable[[dict[str, Any]], None]:
    """Calls an unbroken example broken."""

    def change(columns: dict[str, Any]) -> None:
        columns[name][first(columns, name, -1)] = 0

    return change


def fewer_votes(columns: dict[str, Any]) -> None:
    columns["smoothing.count"][np.flatnonzero(columns["smoothing.radius"] > 0)[0]] -= 1


def by_another(columns: dict[str, Any]) -> None:
    name = "autoattack.broken_by"
    columns[name][first(columns, name, 0)] = 1


def claim(columns: dict[str, Any]) -> None:
    """Certifies an example that no bound proves, and takes its attacks out to fit."""
    position = first(columns, "autoattack.broken_by", -1)
    columns[f"bounds.margin@{EPSILON}"][position] = 1.0
    for name, values in columns.items():
        if name.startswith(("pgd.", "curve.", "autoattack.")):
            values[position] = -3


PGD, BY = f"pgd.broken_step@{EPSILON}", "autoattack.broken_by"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (shift("index"), "column index"),
        (shift("label"), "column label"),
        (shift("clean.prediction"), "clean.prediction differs"),
        (shift("clean.zero_gradient"), "clean.zero_gradient"),
        (shift(f"bounds.margin@{EPSILON}"), f"margin@{EPSILON}"),
        (shift("bounds.margin@1/16"), "1/16"),
        (shift(f"bounds.method@{EPSILON}"), "bounds.method"),
        (fewer_votes, "smoothing.radius"),
        (lambda columns: columns["smoothing.count"].fill(51), "51"),
        (shift("smoothing.radius"), "smoothing.radius"),
        (shift("smoothing.prediction"), "smoothing.prediction"),
        (hide(PGD), "unbroken with evidence"),
        (hide(BY), "unbroken with evidence"),
        (invent(PGD), "broken without evidence"),
        (invent(BY), "broken without evidence"),
        (by_another, "broken without evidence"),
        (claim, "proves nothing"),
        (lambda columns: columns["transfer.broken_by"].fill(-4), "transfer"),
        (lambda columns: columns["transfer.broken_by"].fill(-3), "left out in transfer"),
        (lambda columns: columns["sanity.broken_by"].fill(-3), "sanity.broken_by"),
        (shift("sanity.vanishing_gradient"), "sanity.vanishing_gradient"),
        (lambda columns: columns[f"bounds.margin@{EPSILON}"].fill(np.nan), "NaN"),
        (lambda columns: columns.pop("smoothing.count"), "smoothing.count"),
        (lambda columns: columns.update(odd=columns["label"]), "odd"),
    ],
)
def test_resealed_outcomes_are_told_from_the_truth(
    project: Project, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    alter_outcomes(project, change)
    assert named in findings(project)


def test_certificates_against_one_class_alone_are_computed_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound that forgets all classes but one proves too much; no attack need notice."""
    every_class = bounds.specification
    monkeypatch.setattr(bounds, "specification", lambda *given: every_class(*given)[:, :1])
    model = load_model(project.manifest().find(SPARSE), project.root)
    settings = dict(FAST.evaluations)["bounds"]
    examples = examples_of(project, FAST, 0, 20)
    false = settings.run(model, examples, FAST.threat, torch.Generator()).columns
    monkeypatch.undo()

    def believe(columns: dict[str, Any]) -> None:
        wrongly = settings.proven(false)[EPSILON] & (columns[BY] == -1) & (columns[PGD] == -1)
        assert wrongly.any(), "no false certificate to find"
        for name, values in false.items():
            columns[f"bounds.{name}"][wrongly] = values[wrongly]
        for name, values in columns.items():
            if name.startswith(("pgd.", "curve.", "autoattack.")):
                values[wrongly] = -3

    alter_outcomes(project, believe)
    assert "proves nothing" in findings(project)


# --- evidence -------------------------------------------------------------------------------------


def evidence_files(project: Project) -> list[Path]:
    return sorted(records.evidence_folder(project.evidence, FAST.id, SPARSE).iterdir())


def test_an_altered_byte_of_the_evidence_is_noticed(project: Project) -> None:
    path = evidence_files(project)[0]
    data = path.read_bytes()
    for position in range(0, len(data), 601):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert "evidence with sha256" in findings(project, 0.0)


def test_evidence_is_named_as_the_protocol_names_its_attacks(project: Project) -> None:
    for odd in ("pgd@1/20", "pgd@0.1875", "other@3/16", "pgd"):
        record, _ = records.read(record_path(project))
        entries = [file.model_dump(mode="json") for file in record.evidence]
        path = evidence_files(project)[1]
        found = decode(path.read_bytes(), entries[1]["sha256"])
        before = next(iter(found["pgd"].values()))
        data = encode(found | {"pgd": {odd: before}})
        path.write_bytes(data)
        entries[1] |= {"bytes": len(data), "sha256": sha256_of_bytes(data)}
        reseal(project, evidence=entries)
        assert "pgd" in findings(project, 0.0)


def test_a_range_has_one_file(project: Project) -> None:
    evidence = json.loads(record_path(project).read_text())["evidence"]
    reseal(project, evidence=[*evidence, evidence[0] | {"inputs": 10**9}])
    assert "ranges" in findings(project, 0.0)


def test_missing_evidence_is_named(project: Project) -> None:
    evidence_files(project)[1].unlink()
    assert "000010.npz is missing" in findings(project, 0.0)


def test_missing_evidence_may_be_counted_and_altered_evidence_never(project: Project) -> None:
    gone, kept = evidence_files(project)[1], evidence_files(project)[0]
    gone.unlink()

    def found() -> Verification:
        (answer,) = verify_all(project, [record_path(project)], share=0, seed=0, complete=False)
        return answer

    answer = found()
    assert (answer.findings, answer.unseen) == ((), 10) and answer.inputs > 0
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert "expected evidence with sha256" in found().findings[0]


def test_the_command_takes_what_is_at_hand(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ROBUSTPRUNE_DATA", raising=False)

    def run(*arguments: str, download: bool = False) -> tuple[int, str, str]:
        front = ["robustprune", "--root", str(project.root), "--workers", "1"]
        front += [*(["--download"] if download else []), "verify"]
        monkeypatch.setattr(sys, "argv", [*front, "--bounds", "0", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    evidence_files(project)[1].unlink()
    elsewhere = project.results / "mnist-linf"
    elsewhere.mkdir()
    for path in (record_path(project), record_path(project).with_suffix(".npz")):
        shutil.copyfile(path, elsewhere / path.name)
    code, out, err = run()
    assert code == 0 and out.count("verified") == 2 and "FAILED" not in out
    assert "1 records name adversarial inputs that are not at hand" in err
    assert "1 records left out for want of mnist" in err
    for more in ([SPARSE, "--protocol", FAST.id], ["--complete"]):
        code, _, err = run(*more)
        assert code == 9 and "000010.npz is missing" in err
    code, _, err = run("--protocol", "mnist-linf")
    assert code != 0
    # What may be fetched is not left out.
    tried: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(verifying, "verify_all", lambda _, paths, **__: tried.extend(paths) or [])
        run(download=True)
    assert {path.parent.name for path in tried} == {FAST.id, "mnist-linf"}
    shutil.rmtree(project.results / FAST.id)
    code, _, err = run()
    assert code == 5 and "expected data of mnist" in err


def alter_evidence(project: Project, change: Callable[[Found], Found]) -> None:
    """Alters what one attack found and makes every digest fit."""
    record, _ = records.read(record_path(project))
    entries = [file.model_dump(mode="json") for file in record.evidence]
    for path, entry in zip(evidence_files(project), entries, strict=True):
        found = decode(path.read_bytes(), entry["sha256"])
        if "pgd" in found:
            finds = change(found["pgd"][f"pgd@{EPSILON}"])
            data = encode(found | {"pgd": {f"pgd@{EPSILON}": finds}})
            path.write_bytes(data)
            total = sum(len(f) for attacks in found.values() for f in attacks.values())
            lost = len(found["pgd"][f"pgd@{EPSILON}"]) - len(finds)
            entry |= {
                "bytes": len(data),
                "sha256": sha256_of_bytes(data),
                "inputs": total - lost,
            }
            reseal(project, evidence=entries)
            return
    raise AssertionError("PGD found nothing")


def floats(found: Found, inputs: Any) -> Found:
    return replace(found, inputs=inputs, rounded=np.zeros_like(found.rounded))


def outside_the_ball(found: Found) -> Found:
    moved = found.originals[:1] + np.sign(found.inputs[:1] - found.originals[:1]) * np.float32(
        float(EPSILON) + 1e-5
    )
    return floats(found, np.concatenate([np.clip(moved, 0, 1), found.inputs[1:]]))


def outside_the_box(found: Found) -> Found:
    inputs = found.inputs.copy()
    inputs[0].flat[0] = np.float32(-1e-3)
    return floats(found, inputs)


def no_number(found: Found) -> Found:
    inputs = found.inputs.copy()
    inputs[0].flat[0] = np.nan
    return floats(found, inputs)


def unmodified(found: Found) -> Found:
    return floats(found, np.concatenate([found.originals[:1], found.inputs[1:]]))


def cut(found: Found) -> Found:
    short = found.inputs[:, :, :4]
    return replace(floats(found, short), originals=found.originals[:, :, :4])


def without_the_first(found: Found) -> Found:
    fields = {name: value[1:] for name, value in vars(found).items() if name != "originals"}
    kept = np.concatenate([found.originals[1:], found.originals[:0]])
    return Found(**fields, originals=kept)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (outside_the_ball, "an input that is none"),
        (outside_the_box, "an input that is none"),
        (no_number, "an input that is none"),
        (unmodified, "an input that is none"),
        (without_the_first, "broken without evidence"),
        (lambda f: replace(f, predictions=(f.predictions + 1) % 10), "prediction"),
        (lambda f: replace(f, margins=f.margins - 1), "margin"),
        (lambda f: replace(f, margins=f.margins * np.float32(np.nan)), "margin"),
        (cut, "another shape"),
        (lambda f: replace(f, originals=f.originals * np.float32(0.5)), "originals"),
        (lambda f: replace(f, positions=f.positions + 100), "beyond the range"),
        (lambda f: replace(f, positions=(f.positions + 1) % 10), "pgd"),
    ],
)
def test_resealed_evidence_is_told_from_the_truth(
    project: Project, change: Callable[[Found], Found], named: str
) -> None:
    alter_evidence(project, change)
    assert named in findings(project, 0.0)


# --- weights and manifest -------------------------------------------------------------------------


def test_an_altered_byte_of_the_weights_is_noticed(project: Project) -> None:
    path = project.root / project.manifest().find(SPARSE).file
    data = path.read_bytes()
    for position in range(0, len(data), 499):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert "weights" in findings(project, 0.0) or "sha256" in findings(project, 0.0)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('"zeros": 8885', '"zeros": 8886', "zeros"),
        ('"prunable": 9872', '"prunable": 9873', "prunable"),
        ('"bytes": 6143', '"bytes": 6144', "bytes"),
        ('"architecture": "cnn-tiny"', '"architecture": "cnn-small"', "id"),
    ],
)
def test_an_altered_manifest_is_noticed(
    project: Project, before: str, after: str, named: str
) -> None:
    text = project.manifest_path.read_text()
    assert before in text
    project.manifest_path.write_text(text.replace(before, after))
    assert named in findings(project, 0.0)


# --- challenges -----------------------------------------------------------------------------------


def challenged(project: Project, epsilon: float) -> Path:
    """Sends in a changed input of one unbroken example, as near as it is asked for."""
    from benchmark.challenges import challenge_of, write

    record, outcomes = records.read(record_path(project))
    examples = examples_of(project, FAST, 0, 20)
    inputs = np.clip(examples.inputs.numpy() + np.float32(epsilon), 0, 1).astype(np.float32)
    position = int(np.flatnonzero(outcomes.columns[BY] == -1)[0])
    index = outcomes.columns["index"][[position]].astype(np.int64)
    arrays = {"index": index, "inputs": inputs[[position]]}
    said = {
        "checkpoint_id": SPARSE,
        "checkpoint_sha256": record.checkpoint_sha256,
        "protocol": FAST.id,
        "protocol_digest": FAST.digest,
        "norm": "Linf",
        "epsilon": str(EPSILON),
        "credit": "Ada",
        "attack": "none",
        "date": "2026-01-01",
    }
    return write(project.challenges, challenge_of(arrays, **said), arrays)


def test_challenges_are_checked_again(project: Project) -> None:
    before = verify(project, 0.0).attacked
    path = challenged(project, 0.0)
    assert "an input that is none" in findings(project, 0.0)
    assert verify(project, 0.0).attacked == before - 1 / 20
    path.write_text(path.read_text().replace("Ada", "Eve"))
    assert "content_digest" in findings(project, 0.0)
