"""Challenges, end to end: what is sent is believed only where the network is fooled, legally."""

import io
import json
import pickle
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fast import EPSILON, FAST, SPARSE, make_project

from benchmark import challenges, cli, records
from benchmark.attacks import Steps, pgd
from benchmark.digests import sha256_of_bytes
from benchmark.errors import ContractError, InvariantViolation, RecordError
from benchmark.evaluations import Bounds, Clean, Pgd
from benchmark.evidence import restore, round_inward
from benchmark.manifest import load_model
from benchmark.outcomes import Outcomes, attacked, certified, clean_correct
from benchmark.pipeline import Project, evaluate_all
from benchmark.pipeline.challenging import Answer, Sender, challenge, standing
from benchmark.protocols import PROTOCOLS
from benchmark.threat import TOLERANCE

NARROW = Fraction(1, 8)

# One gradient step: most of what is not certified survives, and a real attack breaks it.
WEAK = replace(
    FAST,
    id="weak-linf",
    evaluations=(
        ("clean", Clean()),
        ("bounds", Bounds(methods=("ibp",), epsilons=(NARROW, EPSILON), crown_max_units=0)),
        ("pgd", Pgd(Steps(1, Fraction(1, 100)), restarts=1)),
    ),
)
ADA = Sender("Ada Müller", "PGD, 40 steps", "2026-02-28", "https://example.org/attack")


@pytest.fixture(scope="module", autouse=True)
def _known_protocol() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, WEAK.id, WEAK)
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("original"), SPARSE)
    evaluate_all(project, project.manifest().checkpoints, WEAK, "standard")
    return project


@dataclass(frozen=True)
class Found:
    """Test-split indices and legal adversarial inputs of survivors, and what else tests need."""

    index: np.ndarray
    inputs: np.ndarray
    originals: np.ndarray
    wrong: int  # an example misclassified unmodified
    beyond: int  # an example beyond the record's tier

    def __len__(self) -> int:
        return len(self.index)


@pytest.fixture(scope="module")
def found(original: Project) -> Found:
    where = standing(original, original.manifest().find(SPARSE), WEAK)
    alive = attacked(where.outcomes, WEAK, EPSILON)
    index = torch.from_numpy(where.index[alive].astype(np.int64))
    model, inputs = load_model(where.checkpoint, original.root), where.split.inputs(index)
    labels, steps = where.split.labels[index], Steps(40, Fraction(1, 8))
    draws = torch.Generator().manual_seed(0)
    trace = pgd(model, inputs, labels, threat=WEAK.threat, steps=steps, restarts=3, generator=draws)
    broken = (trace.broken_step >= 0).numpy()
    assert 5 <= broken.sum() < len(index), "the tests need survivors of both kinds"
    return Found(
        index=index.numpy()[broken],
        inputs=trace.adversarial.numpy()[broken],
        originals=inputs.numpy()[broken],
        wrong=int(where.index[~clean_correct(where.outcomes)][0]),
        beyond=int(np.setdiff1d(np.arange(len(where.split)), where.index)[0]),
    )


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Project:
    shutil.copytree(original.root, tmp_path / "project")
    return replace(original, root=tmp_path / "project")


def save(root: Path, index: Any, inputs: Any, **more: Any) -> Path:
    path = root / "sent.npz"
    np.savez_compressed(path, index=np.asarray(index), inputs=np.asarray(inputs), **more)
    return path


def send(project: Project, file: Path, sender: Sender = ADA) -> Answer:
    return challenge(project, project.manifest().find(SPARSE), WEAK, file, sender)


def frame(project: Project) -> Any:
    rows = records.load_all(project.results, project.manifest(), project.challenges)
    return records.frame(rows).set_index("tier")


def written(project: Project) -> list[Path]:
    return sorted(project.challenges.rglob("*.*"))


def refused(project: Project, file: Path) -> str:
    with pytest.raises(ContractError) as raised:
        send(project, file)
    message = str(raised.value)
    assert message.startswith("expected ") and "got " in message and message.isprintable()
    assert not written(project)
    return message


def forge(project: Project, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a record's outcomes and signs it again, as whoever made it could."""
    path = records.record_path(project.results, WEAK.id, SPARSE)
    record, outcomes = records.read(path)
    columns = {name: values.copy() for name, values in outcomes.columns.items()}
    change(columns)
    forged = Outcomes(columns)
    sha256 = sha256_of_bytes(forged.encode())
    records.write(
        project.results,
        records.sealed(record.model_copy(update={"outcomes_sha256": sha256})),
        forged,
    )


def certify(project: Project, index: Any, epsilon: Fraction) -> None:
    """Forges certificates at an epsilon and below."""

    def change(columns: dict[str, Any]) -> None:
        chosen = np.isin(columns["index"], index)
        for smaller in (NARROW, EPSILON):
            if smaller <= epsilon:
                columns[f"bounds.margin@{smaller}"][chosen] = 1
                columns[f"bounds.method@{smaller}"][chosen] = 0
        if epsilon >= EPSILON:
            columns[f"pgd.broken_step@{EPSILON}"][chosen] = -3

    forge(project, change)


# --- What a challenge changes ---------------------------------------------------------------------


def test_verified_inputs_lower_the_upper_end_with_credit(project: Project, found: Found) -> None:
    before = frame(project)
    answer = send(project, save(project.root, found.index, found.inputs))
    assert (answer.sent, answer.verified, answer.broken) == (len(found),) * 3
    assert not answer.known and answer.left_out == ""
    for tier, line in frame(project).iterrows():
        old = before.loc[tier]
        known = line["outcomes"]["best_known"]
        broken = np.isin(line["outcomes"]["index"], found.index)
        assert (old["challenges"], old["best_known_accuracy"]) == ([], old["robust_accuracy"])
        assert (known == (old["outcomes"]["robust"] & ~broken)).all()
        assert line["best_known_accuracy"] == known.mean() < line["robust_accuracy"]
        assert line["robust_accuracy"] == old["robust_accuracy"]
        [credit] = line["challenges"]
        assert credit == {
            "credit": ADA.credit,
            "attack": ADA.attack,
            "date": ADA.date,
            "url": ADA.url,
            "broken": int(broken.sum()),
        }
    line = frame(project).loc["standard"]
    assert (answer.before, answer.after) == (line["robust_accuracy"], line["best_known_accuracy"])


def test_the_next_challenge_counts_on_top(project: Project, found: Found) -> None:
    send(project, save(project.root, found.index[:3], found.inputs[:3]))
    bo = replace(ADA, credit="Bo Li", date="2026-03-01")
    answer = send(project, save(project.root, found.index[1:5], found.inputs[1:5]), bo)
    assert (answer.verified, answer.repeated, answer.broken) == (4, 2, 2)
    assert answer.left_out == "2 of examples that are broken already"
    assert answer.challenge.examples == tuple(sorted(found.index[3:5].tolist()))
    line = frame(project).loc["standard"]
    assert [(c["credit"], c["broken"]) for c in line["challenges"]] == [
        ("Ada Müller", 3),
        ("Bo Li", 2),
    ]
    lost = round(40 * (line["robust_accuracy"] - line["best_known_accuracy"]))
    assert lost == 5 and answer.after == line["best_known_accuracy"]


def test_nobody_earns_credit_with_what_others_found(project: Project, found: Found) -> None:
    """Resent with one more, and with a day before, or a hash, that would come first."""
    first = send(project, save(project.root, found.index[:3], found.inputs[:3]))
    before = {path: path.read_bytes() for path in written(project)}
    eve = replace(ADA, credit="Eve", date="2026-01-01")
    file = save(project.root, found.index[:4], found.inputs[:4])
    answer = send(project, file, eve)
    assert answer.challenge.examples == (found.index[3],)
    assert not set(first.challenge.examples) & set(answer.challenge.examples)
    assert {path: path.read_bytes() for path in before} == before
    lines = frame(project).loc["standard"]["challenges"]
    assert {line["credit"]: line["broken"] for line in lines} == {"Ada Müller": 3, "Eve": 1}
    after = written(project)
    again = send(project, file, replace(ADA, credit="Somebody Else"))
    assert again.known and again.challenge.credit in ("Ada Müller", "Eve")
    assert written(project) == after


def test_what_others_found_moved_a_little_is_not_new(project: Project, found: Found) -> None:
    send(project, save(project.root, found.index, found.inputs))
    before, inputs = written(project), found.inputs.copy()
    inputs[0] += (found.originals[0] - inputs[0]) * np.float32(0.03)
    with pytest.raises(ContractError) as raised:
        send(project, save(project.root, found.index, inputs), replace(ADA, credit="Eve"))
    message = str(raised.value)
    assert "of examples that are broken already) (already known, from Ada Müller on 2026" in message
    assert "Eve" not in message and message.isprintable() and written(project) == before


def test_what_the_attacks_broke_is_not_stored(project: Project, found: Found) -> None:
    def change(columns: dict[str, Any]) -> None:
        columns[f"pgd.broken_step@{EPSILON}"][np.isin(columns["index"], found.index[:2])] = 1

    forge(project, change)
    file = save(project.root, found.index[:2], found.inputs[:2])
    message = refused(project, file)
    assert "got none in 2 (2 of examples that are broken already); nothing was" in message
    answer = send(project, save(project.root, found.index, found.inputs))
    assert answer.challenge.examples == tuple(sorted(found.index[2:].tolist()))
    assert (answer.verified, answer.repeated) == (len(found), 2)


def test_a_stored_challenge_of_other_images_is_named(project: Project, found: Found) -> None:
    answer = send(project, save(project.root, found.index[:2], found.inputs[:2]))
    arrays = {"index": np.sort(found.index[:2]), "inputs": np.zeros((2, 3, 4, 4), np.uint8)}
    said = answer.challenge.model_dump()
    shutil.rmtree(project.challenges)
    challenges.write(project.challenges, challenges.challenge_of(arrays, **said), arrays)
    with pytest.raises(RecordError, match=r"shape \(1, 8, 8\) in .* got \(3, 4, 4\); remove"):
        send(project, save(project.root, found.index, found.inputs))


def in_8_bits(project: Project, found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Returns index and uint8 inputs of those finds that rounding keeps."""
    where = standing(project, project.manifest().find(SPARSE), WEAK)
    originals = torch.from_numpy(found.originals)
    levels = round_inward(torch.from_numpy(found.inputs), originals, WEAK.threat)
    with torch.no_grad():
        answers = load_model(where.checkpoint, project.root)(restore(levels)).argmax(dim=1)
    kept = (answers != where.split.labels[torch.from_numpy(found.index)]).numpy()
    assert 2 <= kept.sum() < len(found), "the tests need finds of both kinds"
    return found.index[kept], levels.numpy()[kept]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8])
def test_any_spelling_of_the_inputs_is_stored_alike(
    project: Project, found: Found, kind: type[np.generic]
) -> None:
    index, levels = in_8_bits(project, found)
    inputs = levels if kind is np.uint8 else (levels / 255).astype(kind)
    answer = send(project, save(project.root, index, inputs))
    stored = np.load(answer.path.with_suffix(".npz"))
    assert stored["inputs"].dtype == np.uint8
    assert answer.challenge.examples == tuple(stored["index"].tolist()) == tuple(sorted(index))
    assert np.array_equal(stored["inputs"], levels[np.argsort(index)])


def test_stored_in_float32_where_8_bits_would_lose_it(project: Project, found: Found) -> None:
    """An input a hair beyond the decision boundary does not survive rounding."""
    where = standing(project, project.manifest().find(SPARSE), WEAK)
    model = load_model(where.checkpoint, project.root)
    labels = where.split.labels[torch.from_numpy(found.index)]
    low, high = torch.from_numpy(found.originals), torch.from_numpy(found.inputs)
    for _ in range(40):
        middle = (low + high) / 2
        with torch.no_grad():
            fooled = (model(middle).argmax(dim=1) != labels).view(-1, 1, 1, 1)
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
    answer = send(project, save(project.root, found.index, high.numpy()))
    stored = np.load(answer.path.with_suffix(".npz"))
    assert stored["inputs"].dtype == np.float32
    exact = (stored["inputs"] == high.numpy()[np.argsort(found.index)]).all(axis=(1, 2, 3))
    assert exact.any()


def test_the_same_file_again_changes_nothing(project: Project, found: Found) -> None:
    first = send(project, save(project.root, found.index, found.inputs))
    before = {path: path.read_bytes() for path in written(project)}
    other = replace(ADA, credit="Somebody Else", date="2027-01-01")
    again = send(project, save(project.root, found.index[::-1], found.inputs[::-1]), other)
    assert again.known and again.challenge == first.challenge and again.path == first.path
    assert (again.broken, again.before, again.after) == (0, first.after, first.after)
    assert {path: path.read_bytes() for path in written(project)} == before


def test_what_breaks_nothing_new_is_refused(project: Project, found: Found) -> None:
    send(project, save(project.root, found.index, found.inputs))
    before = written(project)
    with pytest.raises(ContractError, match="breaks what was not broken already, got none in 2"):
        send(project, save(project.root, found.index[:2], found.inputs[:2]))
    assert written(project) == before


def test_what_counts_not_is_left_out_and_counted(project: Project, found: Found) -> None:
    where = standing(project, project.manifest().find(SPARSE), WEAK)
    others = np.array([found.wrong, found.beyond])
    index = np.concatenate([found.index[:2], others, found.index[2:4]])
    harmless = found.originals[2:4]
    legal = where.split.inputs(torch.from_numpy(others)).numpy()
    answer = send(
        project, save(project.root, index, np.concatenate([found.inputs[:2], legal, harmless]))
    )
    assert (answer.sent, answer.verified, answer.broken) == (6, 2, 2)
    assert (answer.elsewhere, answer.misclassified, answer.harmless) == (1, 1, 2)
    assert answer.left_out == (
        "1 of examples that the record does not cover, 1 of examples misclassified unmodified, "
        "2 that do not fool the network"
    )
    assert answer.challenge.examples == tuple(sorted(found.index[:2].tolist()))


def test_inputs_that_fool_nobody_are_no_challenge(project: Project, found: Found) -> None:
    message = refused(project, save(project.root, found.index, found.originals))
    assert "an input that fools the network, got none" in message
    assert f"({len(found)} that do not fool the network); nothing was written" in message


# --- What is refused ------------------------------------------------------------------------------


def outside(value: float) -> Callable[[Found], dict[str, Any]]:
    def change(found: Found) -> dict[str, Any]:
        inputs = found.inputs.astype(np.float64)
        inputs[1, 0, 2, 3] = value
        return {"index": found.index, "inputs": inputs}

    return change


REFUSALS: dict[str, tuple[Callable[[Found], dict[str, Any]], str]] = {
    "above 1": (outside(1.0000001), r"values in \[0, 1\] in inputs, got 1.0000001 for test ex"),
    "below 0": (outside(-1e-9), "got -1e-09 for test example"),
    "infinite": (outside(np.inf), "got inf for"),
    "NaN": (outside(np.nan), "got nan for"),
    "0 to 255": (outside(255.0), "divide by 255 or store uint8"),
    "no index": (lambda f: {"inputs": f.inputs}, "arrays index and inputs in .* got inputs;"),
    "more": (
        lambda f: {"index": f.index, "inputs": f.inputs, "labels": f.index},
        "got index, inputs, labels",
    ),
    "half": (
        lambda f: {"index": f.index, "inputs": f.inputs.astype(np.float16)},
        "as float32 or float64 in",
    ),
    "integers": (
        lambda f: {"index": f.index, "inputs": f.inputs.astype(np.int64)},
        "or as uint8, got int64",
    ),
    "flat": (
        lambda f: {"index": f.index, "inputs": f.inputs.reshape(len(f), -1)},
        r"inputs of shape \(\d+, 1, 8, 8\)",
    ),
    "fewer": (lambda f: {"index": f.index, "inputs": f.inputs[1:]}, "inputs of shape"),
    "floats": (
        lambda f: {"index": f.index.astype(np.float32), "inputs": f.inputs},
        "one integer an input",
    ),
    "none": (lambda f: {"index": f.index[:0], "inputs": f.inputs[:0]}, "at least one, got"),
    "twice": (
        lambda f: {"index": np.full_like(f.index, f.index[0]), "inputs": f.inputs},
        "one input an example, got several for test examples",
    ),
    "negative": (lambda f: {"index": -1 - f.index, "inputs": f.inputs}, "positions 0 … "),
    "beyond the split": (
        lambda f: {"index": f.index.astype(np.uint64) + np.uint64(2**63), "inputs": f.inputs},
        "of the test split in index, got",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_files_that_are_not_what_they_must_be(project: Project, found: Found, name: str) -> None:
    change, words = REFUSALS[name]
    path = project.root / "sent.npz"
    np.savez_compressed(path, **change(found))
    message = refused(project, path)
    assert re.search(words, message), message


def test_one_input_beyond_epsilon_refuses_all(project: Project, found: Found) -> None:
    """However little beyond: the slack is that of float32's rounding, and no more."""
    inputs = found.originals.astype(np.float64)
    room = inputs[3] < 0.5
    place = tuple(np.argwhere(room)[0])
    for beyond, legal in ((0.4 * TOLERANCE, True), (1.6 * TOLERANCE, False), (0.1, False)):
        inputs[3] = found.originals[3]
        inputs[3][place] += float(EPSILON) + beyond
        message = refused(project, save(project.root, found.index, inputs))
        if legal:
            assert "an input that fools the network" in message
        else:
            assert f"for test example {found.index[3]}, the farthest of 1 beyond" in message
            assert "expected inputs within Linf 3/16 (a distance of 0.1875) of their" in message
            distance = float(message.split("got ")[1].split()[0])
            assert distance == pytest.approx(float(EPSILON) + beyond, abs=1e-7)


def test_an_input_beyond_epsilon_counts_whomever_it_is_of(project: Project, found: Found) -> None:
    index = [*found.index[:2].tolist(), found.beyond]
    inputs = np.concatenate([found.inputs[:2], 1 - found.originals[:1].round()])
    assert f"for test example {found.beyond}" in refused(project, save(project.root, index, inputs))


def test_archives_of_other_things(project: Project, found: Found) -> None:
    path = project.root / "sent.npz"
    assert "found none" in str(pytest.raises(ContractError, send, project, path).value)
    path.write_bytes(b"PK no archive")
    assert "expected an archive of arrays" in refused(project, path)
    np.savez(path, index=found.index, inputs=np.array([object()] * len(found)))
    assert "no array of numbers" in refused(project, path)
    path.write_bytes(pickle.dumps(found.index))
    refused(project, path)
    member = io.BytesIO()
    np.save(member, np.zeros(300 << 20, dtype=np.uint8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inputs.npy", member.getvalue())
    assert path.stat().st_size < 1 << 20
    assert "several files if it is larger than 256 MiB" in refused(project, path)


@pytest.mark.parametrize("change", [{"credit": ""}, {"credit": "a\nb"}, {"url": "http://a.b"}])
def test_words_that_break_the_format(
    project: Project, found: Found, change: dict[str, str]
) -> None:
    with pytest.raises(ContractError, match="expected a valid challenge, got"):
        send(project, save(project.root, found.index, found.inputs), replace(ADA, **change))
    assert not written(project)


def test_a_challenge_needs_a_record_that_stands(project: Project, found: Found) -> None:
    file = save(project.root, found.index, found.inputs)
    path = records.record_path(project.results, WEAK.id, SPARSE)
    text = path.read_text()
    stale = records.ResultRecord.model_validate_json(
        json.dumps(json.loads(text) | {"protocol_digest": "1" * 64})
    )
    records.write(project.results, records.sealed(stale), records.read(path)[1])
    with pytest.raises(RecordError, match="protocol digest .* with `robustprune evaluate lwm"):
        send(project, file)
    path.unlink()
    with pytest.raises(RecordError, match="found none; make it with `robustprune evaluate lwm"):
        send(project, file)
    assert not written(project)


# --- Certificates ---------------------------------------------------------------------------------


def test_breaking_a_certified_example_refutes_the_certificate(
    project: Project, found: Found
) -> None:
    certify(project, found.index[2:4], EPSILON)
    with pytest.raises(InvariantViolation) as raised:
        send(project, save(project.root, found.index, found.inputs))
    message = str(raised.value)
    assert message.startswith("certificate refuted: expected no adversarial input within Linf 3/16")
    assert f"got 2: test examples {sorted(found.index[2:4].tolist())}" in message
    assert not written(project)


def test_a_certificate_of_a_smaller_ball_is_refuted_from_within_it_alone(
    project: Project, found: Found
) -> None:
    where = standing(project, project.manifest().find(SPARSE), WEAK)
    distances = np.abs(found.inputs - found.originals).reshape(len(found), -1).max(axis=1)
    assert (distances > float(NARROW)).all()
    certify(project, found.index, NARROW)
    assert send(project, save(project.root, found.index, found.inputs)).verified == len(found)
    # Halfway, and still adversarial for some: now the certificates are refuted.
    near = found.originals + (found.inputs - found.originals) * float(NARROW / EPSILON)
    labels = where.split.labels[torch.from_numpy(found.index)]
    with torch.no_grad():
        logits = load_model(where.checkpoint, project.root)(torch.from_numpy(near))
    names = sorted(found.index[(logits.argmax(dim=1) != labels).numpy()].tolist())
    assert names, "the test needs an input that is adversarial halfway"
    with pytest.raises(InvariantViolation, match="within Linf 1/8 of certified") as raised:
        send(project, save(project.root, found.index, near))
    assert f"got {len(names)}: test examples {names[:10]}" in str(raised.value)


def test_a_stored_challenge_that_refutes_a_certificate_stops_the_board(
    project: Project, found: Found
) -> None:
    send(project, save(project.root, found.index, found.inputs))
    certify(project, found.index[:1], EPSILON)
    with pytest.raises(InvariantViolation, match=r"refuted: .* got that of Ada Müller: test examp"):
        frame(project)
    rows = records.load_all(project.results, project.manifest())
    assert certified(rows[0].outcomes, WEAK)[EPSILON].any()


@pytest.mark.parametrize(
    "change", [{"checkpoint_sha256": "9" * 64}, {"epsilon": "1/5"}, {"norm": "L2"}]
)
def test_challenges_of_other_weights_or_balls_are_ignored(
    project: Project, found: Found, change: dict[str, str]
) -> None:
    answer = send(project, save(project.root, found.index, found.inputs))
    arrays = dict(np.load(answer.path.with_suffix(".npz")))
    said = {**answer.challenge.model_dump(), **change}
    shutil.rmtree(project.challenges)
    challenges.write(project.challenges, challenges.challenge_of(arrays, **said), arrays)
    line = frame(project).loc["standard"]
    assert line["challenges"] == [] and line["best_known_accuracy"] == line["robust_accuracy"]


def test_a_challenge_outlives_a_new_version_of_the_protocol(project: Project, found: Found) -> None:
    answer = send(project, save(project.root, found.index, found.inputs))
    arrays = dict(np.load(answer.path.with_suffix(".npz")))
    said = {**answer.challenge.model_dump(), "protocol_digest": "9" * 64}
    shutil.rmtree(project.challenges)
    challenges.write(project.challenges, challenges.challenge_of(arrays, **said), arrays)
    line = frame(project).loc["standard"]
    assert line["best_known_accuracy"] == answer.after


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def command(project: Project, *arguments: str) -> tuple[int, str, str]:
        options = ["robustprune", "--root", str(project.root), "--device", "cpu", "challenge"]
        monkeypatch.setattr(sys, "argv", [*options, *arguments, "--protocol", WEAK.id])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        return (int(left.value.code or 0), *capsys.readouterr())

    return command


def test_the_command_says_what_changes(
    run: Callable[..., tuple[int, str, str]], project: Project, found: Found
) -> None:
    inputs = np.concatenate([found.inputs[:-1], found.originals[-1:]])
    file = save(project.root, found.index, inputs)
    code, out, err = run(project, SPARSE, str(file), "--credit", "[red]Ada[/red] :x:")
    assert (code, err) == (0, "")
    line, new = frame(project).loc["standard"], len(found) - 1
    [path] = project.challenges.rglob("*.json")
    assert out.splitlines() == [
        f"verified {new} of {len(found)} inputs against {SPARSE}; left out: 1 that do not fool "
        "the network",
        f"newly broken {new}, attacked bound from {line['robust_accuracy']:.1%} to "
        f"{line['best_known_accuracy']:.1%} (best known, all challenges together)",
        f"credited to [red]Ada[/red] :x: in {path}",
    ]
    stored = json.loads(path.read_text())
    assert (stored["attack"], stored["url"], stored["contact"]) == ("not stated", "", "")
    code, out, err = run(project, SPARSE, str(file), "--credit", "Bo")
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == f"already known, from [red]Ada[/red] :x: on {stored['date']}"
    assert out.splitlines()[2].startswith("newly broken 0, ") and len(out.splitlines()) == 3


def test_the_commands_exit_codes(
    run: Callable[..., tuple[int, str, str]], project: Project, found: Found
) -> None:
    file, credit = str(save(project.root, found.index, found.originals)), ("--credit", "Ada")
    for code, arguments in (
        (2, (SPARSE, file)),
        (3, (SPARSE.replace("seed0", "seed1"), file, *credit)),
        (7, (SPARSE, file, *credit)),
        (7, (SPARSE, "nowhere.npz", *credit)),
    ):
        answer = run(project, *arguments)
        assert answer[0] == code, answer
        if code > 2:
            assert len(answer[2].splitlines()) == 1 and answer[1] == ""
    certify(project, found.index[:1], EPSILON)
    file = str(save(project.root, found.index, found.inputs))
    assert run(project, SPARSE, file, *credit)[0] == 8
    records.record_path(project.results, WEAK.id, SPARSE).unlink()
    assert run(project, SPARSE, file, *credit)[0] == 9
    assert not written(project)
