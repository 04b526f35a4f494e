"""The five attacks from checkpoint to page, and back through verification, audit and challenge."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from fast import DENSE, EPSILON, SPARSE, make_project

from benchmark import records
from benchmark.cli import base, boards
from benchmark.digests import sha256_of_bytes
from benchmark.evaluations import AutoAttack, Bounds
from benchmark.evidence import decode, encode
from benchmark.manifest import load_model
from benchmark.outcomes import Outcomes, attacked, certified, clean_correct
from benchmark.pipeline import Draw, Project, audit_all, evaluate_all, report, results
from benchmark.pipeline.auditing import refuse_contradictions
from benchmark.pipeline.reporting import attack_columns, page
from benchmark.pipeline.shards import examples_of
from benchmark.pipeline.strips import strips_of
from benchmark.pipeline.verifying import VerifyJob, verify_record
from benchmark.protocols import PROTOCOLS

FIVE = PROTOCOLS["digits-linf-five"]
CHEAP = {
    "bounds": Bounds(
        methods=("ibp", "crown"), epsilons=(Fraction(1, 16), EPSILON), crown_max_units=20_000
    ),
    "autoattack": AutoAttack(iterations=4, queries=20, targets=3),
}
FAST_FIVE = replace(
    FIVE,
    id="fast-linf-five",
    tiers=(("quick", 20), ("standard", 40), ("full", 50)),
    shard_size=10,
    evaluations=tuple((name, CHEAP.get(name, own)) for name, own in FIVE.evaluations),
)
ATTACKS = ("fgsm", "pgd-10", "pgd-20", "cw", "autoattack")
FGSM, CW = "fgsm.broken_by", f"cw.broken_step@{EPSILON}"


@pytest.fixture(scope="module", autouse=True)
def _known_protocol() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, FAST_FIVE.id, FAST_FIVE)
        yield


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("five"), DENSE, SPARSE)
    evaluate_all(project, project.manifest().checkpoints, FAST_FIVE, "quick")
    return project


@pytest.fixture
def project(board: Project, tmp_path: Path) -> Project:
    shutil.copytree(board.root, tmp_path / "copy")
    return replace(board, root=tmp_path / "copy")


def path_of(project: Project, checkpoint: str = SPARSE) -> Path:
    return records.record_path(project.results, FAST_FIVE.id, checkpoint)


def findings(project: Project) -> str:
    return "\n".join(verify_record(VerifyJob(project, path_of(project), 1.0, seed=0)).findings)


def test_each_attack_was_run_and_spared_what_is_proven(board: Project) -> None:
    record, outcomes = records.read(path_of(board))
    proven = certified(outcomes, FAST_FIVE)[EPSILON]
    assert 0 < proven.sum() < clean_correct(outcomes).sum()
    columns = [n for n in outcomes.columns if ".broken_" in n]
    assert len(columns) == len(ATTACKS)
    for name in columns:
        assert np.array_equal(outcomes.columns[name] == -3, proven), name
        assert (outcomes.columns[name] >= 0).any(), name
    for name in ATTACKS:
        assert record.cost[name].proven == proven.sum()
        assert record.cost[name].attacked == (clean_correct(outcomes) & ~proven).sum()
    # One gradient an example, and what that spared: at least one pass each.
    assert record.cost["fgsm"].backwards == record.cost["fgsm"].attacked
    assert record.cost["fgsm"].forwards_saved == proven.sum()
    assert record.cost["cw"].forwards_saved > record.cost["fgsm"].forwards_saved


def test_evidence_stands_behind_every_break(board: Project) -> None:
    record, outcomes = records.read(path_of(board))
    folder = records.evidence_folder(board.evidence, FAST_FIVE.id, SPARSE)
    model = load_model(board.manifest().find(SPARSE), board.root)
    counts = dict.fromkeys(ATTACKS, 0)
    for file in record.evidence:
        examples = examples_of(board, FAST_FIVE, file.start, file.stop)
        found = decode((folder / file.name).read_bytes(), file.sha256)
        for name, attacks in found.items():
            for finds in attacks.values():
                counts[name] += len(finds)
                inputs = torch.from_numpy(finds.inputs)
                away = (inputs - examples.inputs[finds.positions]).abs().max()
                assert 0 <= inputs.min() and inputs.max() <= 1
                assert away <= float(EPSILON) + 1e-6
                guessed = model(inputs).argmax(dim=1)
                assert (guessed != examples.labels[finds.positions]).all()
    columns = outcomes.columns
    lost = {n.partition(".")[0]: int((v >= 0).sum()) for n, v in columns.items() if ".broken_" in n}
    assert counts == lost


def test_an_honest_record_is_verified_and_audited(board: Project) -> None:
    for checkpoint in (DENSE, SPARSE):
        answer = verify_record(VerifyJob(board, path_of(board, checkpoint), 1.0, seed=0))
        assert answer.findings == () and answer.inputs > 0
    entries = [board.manifest().find(SPARSE)]
    [audit] = audit_all(board, entries, FAST_FIVE, Draw(seed=3, fraction=1.0))
    refuse_contradictions([audit])
    _, outcomes = records.read(path_of(board))
    robust = attacked(outcomes, FAST_FIVE, EPSILON)
    claims = {finding.kind: finding.claims for finding in audit.report.findings}
    assert claims["broken"] == (clean_correct(outcomes) & ~robust).sum() > 0
    assert audit.report.finding("broken").again >= claims["broken"] - 1
    assert claims["smoothed"] == 0


@pytest.mark.parametrize(("column", "kind"), [(FGSM, "fgsm"), (CW, "cw")])
def test_a_break_without_evidence_is_noticed(project: Project, column: str, kind: str) -> None:
    record, outcomes = records.read(path_of(project))
    columns = {name: values.copy() for name, values in outcomes.columns.items()}
    columns[column][np.flatnonzero(columns[column] == -1)[0]] = 0
    forged = Outcomes(columns)
    changed = record.model_copy(update={"outcomes_sha256": sha256_of_bytes(forged.encode())})
    records.write(project.results, records.sealed(changed), forged)
    assert f"{kind} ({kind} at 3/16), broken without evidence," in findings(project)


@pytest.mark.parametrize(
    ("name", "attack", "odd"),
    [
        ("fgsm", "fgsm", "fgsm@3/16"),
        ("cw", f"cw@{EPSILON}", f"pgd@{EPSILON}"),
        ("pgd-10", f"pgd@{EPSILON}", f"pgd-10@{EPSILON}"),
    ],
)
def test_evidence_under_another_name_is_noticed(
    project: Project, name: str, attack: str, odd: str
) -> None:
    record, outcomes = records.read(path_of(project))
    folder = records.evidence_folder(project.evidence, FAST_FIVE.id, SPARSE)
    files = list(record.evidence)
    path = folder / files[0].name
    found = decode(path.read_bytes(), files[0].sha256)
    data = encode(found | {name: {odd: found[name][attack]}})
    path.write_bytes(data)
    files[0] = files[0].model_copy(update={"bytes": len(data), "sha256": sha256_of_bytes(data)})
    changed = record.model_copy(update={"evidence": tuple(files)})
    records.write(project.results, records.sealed(changed), outcomes)
    said = findings(project)
    assert f"{name}/{odd} is no attack of the protocol" in said
    assert "broken without evidence" in said


def test_the_frame_has_all_five(board: Project) -> None:
    frame = results(board)
    for line in frame.to_dict("records"):
        _, outcomes = records.read(path_of(board, line["checkpoint_id"]))
        assert list(line["attack_accuracies"]) == list(ATTACKS)
        longest = (outcomes.columns[f"pgd-20.broken_step@{EPSILON}"] < 0) & clean_correct(outcomes)
        assert line["era"] == line["pgd_accuracy"] == longest.mean()
        least = min(line["attack_accuracies"].values())
        assert line["vra_bounds"] <= line["robust_accuracy"] <= least <= line["clean_accuracy"]
        assert line["aer_epsilon"] == "" and line["rank"] == 1
        assert not any(flag["name"] == "single-step-beats-iterated" for flag in line["flags"])


def test_pages_show_all_five_and_their_evidence(project: Project) -> None:
    [row] = [
        row
        for row in records.load_all(project.results, project.manifest())
        if row.checkpoint.id == SPARSE
    ]
    strips = strips_of(project, row)
    named = {(strip["evaluation"], strip["attack"]) for strip in strips}
    assert named >= {(name, name) for name in ATTACKS[:4]}
    assert ("autoattack", "apgd-ce") in named
    paths = report(project)
    own = [p for p in paths if p.parent.name != "methods" and p.suffix == ".html"]
    [path] = [p for p in own if p.name.startswith("lwm-layerwise")]
    words = path.read_text()
    assert "not at hand" not in words and "No images" not in words
    for label in ("FGSM", "PGD-10", "PGD-20", "CW", "AutoAttack"):
        assert f'<th scope="row">{label}' in words
    board, _, _ = path.with_name("index.html").read_text().partition("</thead>")
    heads = re.findall(r'<th scope="col"[^>]*>([A-Za-z0-9-]+) <small>', board)
    assert [h for h in heads if h not in ("Sparsity", "Clean", "Certified")] == [
        "FGSM", "PGD-10", "PGD-20", "CW", "AutoAttack"
    ]  # fmt: skip


def test_a_protocols_page_says_which_set_it_is() -> None:
    words = page(FIVE)
    main = page(PROTOCOLS["digits-linf"])
    assert words.title == f"{main.title}, five attacks" and len(main.paragraphs) == 1
    assert "the five of PwoA" in words.paragraphs[1]
    assert not any(name == "smoothed radius" for name, _ in words.settings)
    assert dict(words.settings)["cw"].startswith("CW: PGD on the margin of Carlini & Wagner")
    assert attack_columns(FIVE)[1].meaning.endswith("descent, 10 steps")
    assert [(a.label, a.era) for a in attack_columns(FIVE)] == [
        ("FGSM", False),
        ("PGD-10", False),
        ("PGD-20", True),
        ("CW", False),
        ("AutoAttack", False),
    ]
    assert [(a.label, a.era) for a in attack_columns(PROTOCOLS["digits-linf"])] == [
        ("PGD", True),
        ("AutoAttack", False),
    ]


def test_the_set_is_run_only_where_it_is_asked_for(
    board: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base.where, "project", board)
    planned = [protocol.id for protocol, _ in boards._planned([])]
    assert "digits-linf" in planned and "digits-linf-five" not in planned
    assert [protocol.id for protocol, _ in boards._planned(["digits-linf-five"])] == [
        "digits-linf-five"
    ]


def test_the_command_line_prints_all_five(
    board: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(base.where, "project", board)
    entries = [board.manifest().find(SPARSE)]
    boards._print_accuracies(boards._table_of(entries, FAST_FIVE, "quick"), FAST_FIVE)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(
        "checkpoint clean FGSM PGD-10 PGD-20 CW AutoAttack [certified, attacked]"
    )
    _, outcomes = records.read(path_of(board))
    assert f"{attacked(outcomes, FAST_FIVE, EPSILON).mean():.1%}" in said


def test_a_record_is_what_it_says(board: Project) -> None:
    """Its costs name the evaluations of the protocol and nothing else."""
    stored = json.loads(path_of(board).read_text())
    assert list(stored["cost"]) == sorted(dict(FAST_FIVE.evaluations))
    assert stored["protocol_digest"] == FAST_FIVE.digest
