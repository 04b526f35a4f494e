"""Audits, end to end: honest records hold, forged ones are found, and the rest gets a bound."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fast import DENSE, EPSILON, FAST, SPARSE, make_project
from torch import nn

from benchmark import cli, records
from benchmark.cli import evidence as evidence_commands
from benchmark.digests import sha256_of_bytes
from benchmark.errors import ContractError, InvariantViolation, RecordError
from benchmark.evaluations import Bounds, Examples, Flag
from benchmark.evidence import decode
from benchmark.outcomes import Outcomes, attacked, certified, clean_correct
from benchmark.pipeline import Project, auditing, evaluate_all
from benchmark.pipeline.auditing import Audit, AuditReport, Draw, audit_all, sample
from benchmark.pipeline.challenging import Sender, Standing, challenge, standing
from benchmark.pipeline.shards import ShardResult
from benchmark.protocols import BROKEN_CONTRACT
from benchmark.statistics import upper_bound_of_wrong
from benchmark.workers import Workers

ALL = Draw(seed=3, fraction=1.0)
HALF = Draw(seed=3, fraction=0.5)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("original"), DENSE, SPARSE)
    evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    return project


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Project:
    shutil.copytree(original.root, tmp_path / "project")
    return replace(original, root=tmp_path / "project")


def read(project: Project, checkpoint: str = SPARSE) -> tuple[records.ResultRecord, Outcomes]:
    return records.read(records.record_path(project.results, FAST.id, checkpoint))


def audited(project: Project, draw: Draw = ALL, *checkpoints: str) -> list[Audit]:
    manifest = project.manifest()
    entries = [manifest.find(name) for name in checkpoints or (SPARSE,)]
    return audit_all(project, entries, FAST, draw)


def forge(project: Project, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a record's outcomes and signs it again, as whoever made it could."""
    record, outcomes = read(project)
    columns = {name: values.copy() for name, values in outcomes.columns.items()}
    change(columns)
    forged = Outcomes(columns)
    sha256 = sha256_of_bytes(forged.encode())
    signed = records.sealed(record.model_copy(update={"outcomes_sha256": sha256}))
    records.write(project.results, signed, forged)


def claim(columns: dict[str, Any], position: int, code: int) -> None:
    """Writes what attacks say of an example: -1 survived, unless proven anyway; -3 proven.

    Checks and transfer spare nobody, so there a proven one survived.
    """
    for name, values in columns.items():
        spares = not name.startswith(("sanity.", "transfer."))
        if ".broken_" in name and (values[position] >= 0 or (code == -3 and spares)):
            values[position] = code if spares else -1


def certify(columns: dict[str, Any], position: int) -> None:
    for epsilon in dict(FAST.evaluations)["bounds"].epsilons:
        columns[f"bounds.margin@{epsilon}"][position] = 1
        columns[f"bounds.method@{epsilon}"][position] = 0
    claim(columns, position, -3)


def broken_positions(outcomes: Outcomes) -> np.ndarray:
    alive = attacked(outcomes, FAST, EPSILON)
    return np.flatnonzero(clean_correct(outcomes) & ~alive)


# --- Honest records -------------------------------------------------------------------------------


def test_an_honest_record_holds(project: Project) -> None:
    record, outcomes = read(project)
    [found] = audited(project)
    report = found.report
    alive, proven = attacked(outcomes, FAST, EPSILON), certified(outcomes, FAST)
    claims = {finding.kind: finding.claims for finding in report.findings}
    assert claims == {
        "clean": 20,
        "zero-gradient": 20,
        "certificate": np.any(list(proven.values()), axis=0).sum(),
        "smoothed": (outcomes.columns["smoothing.prediction"] >= 0).sum(),
        "robust": (alive & ~proven[EPSILON]).sum(),
        "broken": len(broken_positions(outcomes)),
        "flags": 0,
    }
    del claims["flags"]
    assert min(claims.values()) > 0, "the test needs examples of every kind"
    assert all(f.sampled == f.claims for f in report.findings)
    assert all(f.wrong == 0 for f in report.findings if f.kind != "robust")
    assert report.finding("broken").again >= claims["broken"] - 1
    assert report.sampled == tuple(sorted(outcomes.columns["index"].tolist()))
    assert report.record_digest == record.content_digest and report.same_environment
    auditing.refuse_contradictions([found])


def test_bounds_are_those_of_the_statistics(project: Project) -> None:
    draw = replace(HALF, confidence=0.9)
    [found] = audited(project, draw)
    assert len(found.report.sampled) == 10
    for finding in found.report.findings:
        assert finding.claims >= finding.sampled >= finding.wrong
        if finding.kind in ("broken", "flags"):
            assert finding.at_most is None
        else:
            counts = finding.wrong, finding.sampled, finding.claims
            assert finding.at_most == upper_bound_of_wrong(*counts, 0.9)
    clean = found.report.finding("clean")
    assert (clean.wrong, clean.sampled, clean.claims) == (0, 10, 20) and clean.at_most > 0


def test_one_example_is_enough_for_a_sample(project: Project) -> None:
    [found] = audited(project, Draw(seed=0, fraction=1e-9))
    assert len(found.report.sampled) == 1
    assert found.report.finding("clean").at_most == upper_bound_of_wrong(0, 1, 20, 0.95)


@pytest.mark.parametrize(("fraction", "size"), [(0.001, 1), (0.1, 4), (0.5, 20), (1.0, 40)])
def test_samples_are_simple_and_random(fraction: float, size: int) -> None:
    drawn = [sample(40, fraction, seed, "a") for seed in range(400)]
    assert all(len(np.unique(chosen)) == len(chosen) == size for chosen in drawn)
    assert all((np.diff(chosen) > 0).all() for chosen in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=40)
    # Each count is binomial: six standard deviations are never seen.
    share = size / 40
    assert (np.abs(counts - 400 * share) <= 6 * np.sqrt(400 * share * (1 - share))).all()
    assert len(counts) == 40
    if size < 40:
        assert not np.array_equal(sample(40, 0.5, 1, "a"), sample(40, 0.5, 1, "b"))


def test_the_seed_decides_all(project: Project, original: Project, tmp_path: Path) -> None:
    [first] = audited(project, HALF)
    shutil.copytree(original.root, tmp_path / "other")
    [second] = audited(replace(original, root=tmp_path / "other"), HALF)
    assert first.path.read_bytes() == second.path.read_bytes()
    [third] = audited(project, replace(HALF, seed=4))
    assert third.report.sampled != first.report.sampled and third.path != first.path


@pytest.mark.slow
def test_workers_do_not_matter(project: Project, original: Project, tmp_path: Path) -> None:
    shutil.copytree(original.root, tmp_path / "other")
    several = replace(original, root=tmp_path / "other", workers=Workers(2))
    told: list[tuple[int, int, str]] = []
    entries = [several.manifest().find(name) for name in (DENSE, SPARSE)]
    second = audit_all(several, entries, FAST, HALF, lambda *news: told.append(news))
    first = audited(project, HALF, DENSE, SPARSE)
    assert [a.report.checkpoint_id for a in first] == [DENSE, SPARSE]
    for one, other in zip(first, second, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
    assert [news[:2] for news in told] == [(0, 2), (1, 2), (2, 2)]


def test_all_that_a_protocol_does_is_done_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks and transfer too, from the dense parent, and on examples that are proven."""
    seconds, look = [], auditing._look

    def watched(*arguments: Any) -> Any:
        seconds.append(look(*arguments))
        return seconds[-1]

    monkeypatch.setattr(auditing, "_look", watched)
    audited(project, HALF)
    columns = seconds[0].columns
    assert columns.keys() == dict(FAST.evaluations).keys() - {"clean"}
    attacks = {
        f"{name}.{column}": values
        for name, part in columns.items()
        for column, values in part.items()
        if column.startswith("broken_")
    }
    assert attacks.keys() >= {"sanity.broken_by", "transfer.broken_by", "autoattack.broken_by"}
    for values in attacks.values():
        assert len(values) == 10 and (values >= -2).all()  # neither spared (-3) nor left out (-4)


def test_fresh_draws_are_fresh_and_nothing_else_is() -> None:
    first, second = (auditing.fresh(FAST, seed) for seed in (1, 2))
    attacks = [dict(p.evaluations)["autoattack"] for p in (FAST, first, second)]
    assert len({p.seed for p in (FAST, first, second)}) == 3
    assert len({attack.seed for attack in attacks}) == 3
    assert auditing.fresh(FAST, 1) == first
    for made, attack in ((first, attacks[1]), (second, attacks[2])):
        assert replace(attack, seed=attacks[0].seed) == attacks[0]
        evaluations = {**dict(made.evaluations), "autoattack": attacks[0]}
        assert replace(made, seed=FAST.seed, evaluations=tuple(evaluations.items())) == FAST


def test_what_an_attack_finds_must_stand_on_whole_shards(project: Project) -> None:
    where = standing(project, project.manifest().find(SPARSE), FAST)
    folder = records.evidence_folder(project.evidence, FAST.id, SPARSE)
    [file, _] = where.record.evidence
    stored = decode((folder / file.name).read_bytes(), file.sha256)["autoattack"]
    attack, finds = next((name, f) for name, f in stored.items() if len(f))
    places, model = finds.positions.astype(np.int64), where.network()
    originals = where.examples(range(10)).inputs.numpy()[places]

    def confirmed(inputs: np.ndarray) -> list[int]:
        evidence = {attack: replace(finds, inputs=inputs)}
        shard = ShardResult({}, evidence, (), 0, 0, 0.0)
        parts = auditing._confirmed(model, where, np.arange(20), shard)
        return [int(place) for part in parts for place in part.positions]

    assert confirmed(finds.inputs) == places.tolist() and confirmed(originals) == []
    mixed = np.concatenate([originals[:1], finds.inputs[1:]])
    assert confirmed(mixed) == places.tolist()[1:]


def test_the_documents_example_is_computed() -> None:
    words = (Path(__file__).parents[1] / "docs" / "evidence.md").read_text().replace("\n", " ")
    most = upper_bound_of_wrong(0, 60, 600)
    assert (
        f"a tenth of 600 examples bounds the wrong ones by {most}, or {most / 600:.1%}".replace(
            "%", " %"
        )
        in words
    )


# --- Forged records -------------------------------------------------------------------------------


def test_a_broken_example_claimed_robust_is_found_and_can_be_sent(project: Project) -> None:
    position = int(broken_positions(read(project)[1])[0])
    forge(project, lambda columns: claim(columns, position, -1))
    example = int(read(project)[1].columns["index"][position])
    [found] = audited(project)
    robust = found.report.finding("robust")
    assert example in robust.examples and robust.wrong == len(robust.examples)
    auditing.refuse_contradictions([found])  # the record may have been unlucky
    assert found.challenge is not None
    arrays = np.load(found.challenge)
    assert arrays["index"].tolist() == list(robust.examples)
    sender = Sender("Ada", "audit", "2026-02-28")
    entry = project.manifest().find(SPARSE)
    answer = challenge(project, entry, FAST, found.challenge, sender)
    assert answer.broken == answer.verified == robust.wrong


@pytest.mark.parametrize("which", ["broken", "survivor"])
def test_a_false_certificate_is_a_contradiction(project: Project, which: str) -> None:
    _, outcomes = read(project)
    undecided = attacked(outcomes, FAST, EPSILON) & ~certified(outcomes, FAST)[EPSILON]
    places = broken_positions(outcomes) if which == "broken" else np.flatnonzero(undecided)
    position = int(places[0])
    forge(project, lambda columns: certify(columns, position))
    [found] = audited(project)
    example = int(outcomes.columns["index"][position])
    assert found.report.finding("certificate").examples == (example,)
    with pytest.raises(InvariantViolation, match=f"certificate of {SPARSE} at .{example}."):
        auditing.refuse_contradictions([found])


def test_an_attack_refutes_what_broken_bounds_prove_twice(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = int(broken_positions(read(project)[1])[0])
    forge(project, lambda columns: certify(columns, position))
    run = Bounds.run

    def proves_all(self: Bounds, model: nn.Module, *rest: Any) -> Any:
        result = run(self, model, *rest)
        columns = {name: np.abs(values) + 1 for name, values in result.columns.items()}
        return replace(result, columns=columns)

    monkeypatch.setattr(Bounds, "run", proves_all)
    [found] = audited(project)
    example = int(read(project)[1].columns["index"][position])
    assert found.report.finding("certificate").examples == (example,)


def test_another_prediction_is_a_contradiction(project: Project) -> None:
    _, outcomes = read(project)
    labels, said = outcomes.columns["label"], outcomes.columns["clean.prediction"]
    position = int(np.flatnonzero(said != labels)[0])
    other = next(k for k in range(10) if k not in (labels[position], said[position]))
    for forged in (other, 999):

        def change(columns: dict[str, Any], forged: int = forged) -> None:
            columns["clean.prediction"][position] = forged

        forge(project, change)
        [found] = audited(project)
        assert found.report.finding("clean").examples == (outcomes.columns["index"][position],)
        with pytest.raises(InvariantViolation, match="clean of "):
            auditing.refuse_contradictions([found])


@pytest.mark.parametrize("column", ["clean.zero_gradient", "sanity.vanishing_gradient"])
def test_gradients_that_are_others_are_a_contradiction(project: Project, column: str) -> None:
    def change(columns: dict[str, Any]) -> None:
        columns[column][4] = ~columns[column][4]

    forge(project, change)
    [found] = audited(project)
    example = int(read(project)[1].columns["index"][4])
    assert found.report.finding("zero-gradient").examples == (example,)
    with pytest.raises(InvariantViolation, match="zero-gradient of "):
        auditing.refuse_contradictions([found])


def restate(project: Project, *flags: str) -> None:
    """Signs the record again with other flags."""
    record, outcomes = read(project)
    entries = tuple(records.FlagEntry(name=name, rate=1.0, detail="") for name in flags)
    signed = records.sealed(record.model_copy(update={"flags": entries}))
    records.write(project.results, signed, outcomes)


class Probabilities(nn.Module):
    """Gives probabilities, which is no contract."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs).softmax(dim=1)


def test_a_flag_that_the_record_lacks_is_a_contradiction(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Standing.network
    monkeypatch.setattr(Standing, "network", lambda self: Probabilities(network(self)))
    [found] = audited(project)
    assert found.report.finding("flags").flags == ("softmax-output",)
    assert found.report.finding("flags").wrong == 1
    with pytest.raises(InvariantViolation, match=f"flags of {SPARSE} softmax-output"):
        auditing.refuse_contradictions([found])
    restate(project, "softmax-output")
    [found] = audited(project)
    assert found.report.finding("flags").flags == ()


@pytest.mark.parametrize("name", BROKEN_CONTRACT)
def test_every_flag_of_the_contract_counts(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Wherever it is raised: in one pass over a range, on a sample, or beside training examples."""
    measure, alone = auditing.measure_shard, {"randomised-output": "clean"}

    def raising(model: Any, chosen: Any, evaluation: str, examples: Any, start: int) -> Any:
        shard = measure(model, chosen, evaluation, examples, start)
        trained = examples.training is not None
        where = trained if name == "test-beats-training" else alone.get(name, "pgd") == evaluation
        flag = Flag(name, 0.5, "raised")
        return replace(shard, flags=(*shard.flags, flag)) if where else shard

    monkeypatch.setattr(auditing, "measure_shard", raising)
    draw = Draw(seed=3, fraction=1e-9)
    [found] = audited(project, draw)
    assert found.report.finding("flags").flags == (name,)
    restate(project, name)
    [found] = audited(project, draw)
    assert found.report.finding("flags").wrong == 0


def test_checks_beside_training_examples_are_drawn_as_recorded(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = standing(project, project.manifest().find(SPARSE), FAST)
    measure, seen = auditing.measure_shard, []

    def watched(model: Any, chosen: Any, evaluation: str, examples: Any, start: int) -> Any:
        shard = measure(model, chosen, evaluation, examples, start)
        seen.append((chosen, start, examples.training is not None, shard.columns))
        return shard

    monkeypatch.setattr(auditing, "measure_shard", watched)
    auditing._beside_training(where.network(), where)
    [(chosen, start, trained, columns)] = seen
    assert (chosen, start, trained) == (FAST, 0, True)
    for column, values in columns.items():
        assert np.array_equal(values, where.outcomes.columns[f"sanity.{column}"][:10])


@pytest.mark.parametrize("lie", ["class", "radius", "NaN"])
def test_smoothed_certificates_that_the_votes_rule_out(project: Project, lie: str) -> None:
    _, outcomes = read(project)
    seen = outcomes.columns["smoothing.prediction"][:10]
    votes = outcomes.columns["smoothing.count"][:10]
    position = int(np.flatnonzero((seen >= 0) & (votes < 50))[0])

    def change(columns: dict[str, Any]) -> None:
        if lie == "class":
            columns["smoothing.prediction"][position] = (seen[position] + 1) % 10
        else:
            columns["smoothing.radius"][position] = 2.0 if lie == "radius" else np.nan

    forge(project, change)
    [found] = audited(project)
    assert found.report.finding("smoothed").examples == (outcomes.columns["index"][position],)


def test_ties_are_no_contradiction() -> None:
    class Constant(nn.Module):
        def __init__(self, gap: float) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3)
            with torch.no_grad():
                self.last.weight.zero_()
                self.last.bias.copy_(torch.tensor([1.0, 1.0 + gap, 0.0]))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.last(inputs.flatten(1))

    labels = torch.zeros(3, dtype=torch.int64)
    examples = Examples(torch.full((3, 1, 2, 2), 0.5), labels, labels, 3)
    said = np.array([0, 1, 2], dtype=np.int16)
    for gap, expected in ((1e-6, [True, True, False]), (1e-3, [False, True, False])):
        found = auditing._predicted(Constant(gap).eval(), examples, said)
        assert found.tolist() == expected


# --- Stored reports -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_finished_audit_is_not_done_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = int(broken_positions(read(project)[1])[0])
    forge(project, lambda columns: claim(columns, position, -1))
    [first] = audited(project)
    measure, runs = auditing._measure, []

    def counted(*arguments: Any) -> Any:
        runs.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(auditing, "_measure", counted)
    assert audited(project) == [first] and not runs
    assert first.challenge is not None
    text = first.path.read_text()
    assert AuditReport.model_validate_json(text) == first.report
    for harm in (
        lambda: first.challenge.unlink(),
        lambda: first.path.write_text(text.replace('"wrong": 0', '"wrong": 1', 1)),
        lambda: first.path.write_text(text[:-20]),
        lambda: first.path.write_text(text.replace('"tier"', '"extra": 1, "tier"')),
    ):
        harm()
        before = len(runs)
        assert audited(project) == [first] and len(runs) == before + 1
        assert first.path.read_text() == text
    [other] = audited(project, replace(ALL, confidence=0.5))
    assert other.report.confidence == 0.5 and len(runs) == 5
    forge(project, lambda columns: claim(columns, int(broken_positions(Outcomes(columns))[0]), -1))
    audited(project, replace(ALL, confidence=0.5))
    assert len(runs) == 6


def test_an_audit_needs_a_record(project: Project) -> None:
    records.record_path(project.results, FAST.id, DENSE).unlink()
    with pytest.raises(RecordError, match=f"expected a record of {DENSE} under fast-linf, found"):
        audited(project, ALL, SPARSE, DENSE)
    assert not (project.root / "reports" / "audits").exists()


@pytest.mark.parametrize(
    "change", [{"fraction": 0.0}, {"fraction": 1.1}, {"confidence": 1.0}, {"seed": -1}]
)
def test_draws_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="expected a fraction in"):
        replace(ALL, **change)
    with pytest.raises(ContractError):
        Draw(0, float("nan"))


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def command(project: Project, *arguments: str) -> tuple[int, str, str]:
        options = ["robustprune", "--root", str(project.root), "--device", "cpu", "--workers", "1"]
        monkeypatch.setattr(sys, "argv", [*options, *arguments, "--protocol", FAST.id])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        return (int(left.value.code or 0), *capsys.readouterr())

    return command


def test_the_command_says_what_it_means(
    run: Callable[..., tuple[int, str, str]], project: Project
) -> None:
    record, outcomes = read(project)
    drawn = sample(20, 0.9, 8, record.checkpoint_sha256)
    position = int(np.intersect1d(broken_positions(outcomes), drawn)[0])
    forge(project, lambda columns: claim(columns, position, -1))
    code, out, _ = run(project, "audit", SPARSE, "--fraction", "0.9", "--seed", "8")
    assert code == 0
    [path] = (project.root / "reports" / "audits").rglob("*.json")
    report = AuditReport.model_validate_json(path.read_text())
    lines = out.splitlines()
    assert lines[:2] == [
        "seed 8",
        f"{SPARSE}: 18 of 20 examples (quick) measured again under fast-linf",
    ]
    most = upper_bound_of_wrong(0, 18, 20, 0.95)
    assert lines[2] == (
        "  predicted classes: 0 wrong of 18 sampled; with 95 % confidence at most "
        f"{most} of 20 outcomes are wrong ({most / 20:.1%})"
    )
    robust = report.finding("robust")
    assert int(outcomes.columns["index"][position]) in robust.examples
    assert f"  survivors: {robust.wrong} newly broken of {robust.sampled} sampled; with 95 %" in out
    again = report.finding("broken")
    assert f"  broken examples: {again.again} of {again.sampled} sampled broken again" in lines
    [command] = [line for line in lines if line.startswith("    robustprune challenge ")]
    words = shlex.split(command)[1:]
    words = [word for word in words if word not in ("--protocol", FAST.id)]
    code, out, err = run(project, *words)
    assert (code, err) == (0, ""), err
    assert f"newly broken {robust.wrong}, attacked bound from" in out


def test_contradictions_leave_with_8_and_the_report(
    run: Callable[..., tuple[int, str, str]], project: Project
) -> None:
    position = int(broken_positions(read(project)[1])[0])
    forge(project, lambda columns: certify(columns, position))
    code, out, err = run(project, "audit", SPARSE, "--fraction", "1", "--seed", "8")
    example = int(read(project)[1].columns["index"][position])
    assert code == 8
    assert f"certificate of {SPARSE} at [{example}]" in err.splitlines()[-1]
    assert "  certificates: 1 wrong of " in out and "report in " in out


def test_seeds_come_from_the_system_unless_given(
    run: Callable[..., tuple[int, str, str]], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        evidence_commands.secrets, "randbits", lambda bits: 1234 if bits == 32 else None
    )
    code, out, _ = run(project, "audit", SPARSE, "--fraction", "0.05")
    assert code == 0 and out.startswith("seed 1234\n")
    [path] = (project.root / "reports" / "audits").rglob("*.json")
    assert path.name.endswith("-1234.json") and json.loads(path.read_text())["seed"] == 1234
    assert run(project, "audit", SPARSE, "--fraction", "0")[0] == 7
    assert run(project, "audit", "nobody")[0] == 3
