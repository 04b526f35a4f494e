"""The engine believes nothing: networks, examples and evaluations that break their word."""

import dataclasses
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch
from tiny import LINF, Linear, digits, rng, touch_of, trained, untouched
from torch import nn

from benchmark.attacks import Steps
from benchmark.digests import seed_from
from benchmark.errors import ContractError, InvariantViolation
from benchmark.evaluations import Clean, Examples, Pgd, Result, run_evaluation
from benchmark.evaluations.confirm import fooled, predictions
from benchmark.evaluations.engine import Guard, check_examples, recheck

PGD = Pgd(Steps(5, Fraction(1, 2)), restarts=1)


def simple(count=6, classes=3):
    """Returns a linear network and inputs at radius 0.05 from its boundary, all correct."""
    weight = torch.zeros(classes, 4)
    weight[0, 0], weight[1, 0] = 1.0, -1.0
    model = Linear(weight, torch.tensor([-0.5, 0.5] + [-9.0] * (classes - 2)))
    inputs = torch.full((count, 1, 2, 2), 0.5)
    inputs[:, 0, 0, 0] += torch.where(torch.arange(count) % 2 == 0, 0.05, -0.05)
    labels = torch.arange(count) % 2
    return model, Examples(inputs, labels, torch.arange(100, 100 + count), classes)


def flipped(examples, distance=0.1):
    """Returns every input moved across the boundary of `simple`."""
    moved = examples.inputs.clone()
    moved[:, 0, 0, 0] += torch.where(examples.labels == 0, -distance, distance)
    return moved


def measure(model, examples, settings, threat=LINF):
    return run_evaluation(
        model, examples, name="it", settings=settings, threat=threat, seed=("s", 1)
    )


@dataclasses.dataclass(frozen=True)
class Claim:
    """An evaluation that says whatever it is told to."""

    columns: dict
    adversarial: dict
    kind: ClassVar[str] = "claim"

    def run(self, model, examples, threat, generator):
        return Result(self.columns, self.adversarial, ())


def claim(examples, positions, inputs, attack="a"):
    column = np.full(len(examples.labels), -1, dtype=np.int8)
    column[np.asarray(positions, dtype=int)] = 0
    suffix = attack.partition("@")[1:]
    name = "broken_by" if not suffix[0] else f"broken_step@{suffix[1]}"
    evidence = (np.asarray(positions), np.asarray(inputs))
    return Claim({name: column}, {attack: evidence})


# --- networks


class Answer(nn.Module):
    """A network that answers what a function makes of the true logits."""

    def __init__(self, change):
        super().__init__()
        self.body, _ = simple()
        self.change = change

    def forward(self, inputs):
        return self.change(self.body(inputs))


def with_value(value):
    def change(logits):
        logits = logits.clone()
        logits[1, 2] = value
        return logits

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_value(float("nan")), "finite logits, got NaN"),
        (with_value(float("inf")), "finite logits"),
        (with_value(float("-inf")), "finite logits"),
        (lambda logits: logits[:, :2], r"shape \(6, 3\), got \(6, 2\)"),
        (lambda logits: torch.cat([logits, logits], 1), r"got \(6, 6\); check the number"),
        (lambda logits: logits[:, :, None], r"got \(6, 3, 1\)"),
        (lambda logits: logits.sum(), r"got \(\)"),
        (lambda logits: logits[:2], r"got \(2, 3\)"),
        (lambda logits: (logits, None), "got tuple"),
        (lambda logits: logits.detach(), "detached"),
        (lambda logits: logits.argmax(1, keepdim=True).expand(-1, 3).float(), "detached"),
    ],
)
def test_answers_that_are_no_logits_are_refused(change, message):
    _, examples = simple()
    with pytest.raises(ContractError, match=message):
        measure(Answer(change), examples, Clean())


def test_the_guard_counts_examples_forward_and_backward():
    model, examples = simple()
    guard = Guard(model, 3)
    guard(examples.inputs)
    with torch.no_grad():
        guard(examples.inputs[:2])
    assert (guard.forwards, guard.backwards) == (8, 0)
    leaf = examples.inputs.clone().requires_grad_()
    logits = guard(leaf)
    assert (guard.forwards, guard.backwards) == (14, 0)
    torch.autograd.grad(logits.sum(), leaf, retain_graph=True)
    torch.autograd.grad(logits[:, 0].sum(), leaf)
    assert (guard.forwards, guard.backwards) == (14, 12)


def test_the_guard_is_frozen_and_in_eval_mode():
    model, _ = simple()
    model.train()
    guard = Guard(model, 3)
    assert not any(module.training for module in guard.network.modules())
    assert not any(p.requires_grad for p in guard.parameters())
    assert model.training and all(p.requires_grad for p in model.parameters())
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in guard.parameters()}
    assert not shared


def test_counts_are_reported_without_the_recheck():
    model, examples = simple()
    measured = measure(model, examples, Clean())
    assert (measured.forwards, measured.backwards) == (12, 6)
    # prediction 6; restart: 6 at the start and each step's survivors; then the whole shard.
    alive = measure(model, examples, PGD)
    assert alive.forwards > 18 and alive.backwards == alive.forwards - 12
    nobody = claim(examples, np.arange(6), flipped(examples))
    assert measure(model, examples, nobody).forwards == 0


def test_the_network_and_the_global_generators_stay_as_they_were():
    model = trained().train()
    model.body.zero_grad(set_to_none=True)
    with untouched(model):
        measure(model, digits(8), PGD)
    before = touch_of(model)
    assert all(before.modes)


def test_gradients_in_flight_survive():
    model, examples = simple()
    model(examples.inputs).sum().backward()
    kept = [p.grad.clone() for p in model.parameters()]
    measure(model, examples, PGD)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), kept, strict=True))


# --- examples


def changed(examples, **changes):
    return dataclasses.replace(examples, **changes)


def poked(examples, value):
    inputs = examples.inputs.clone()
    inputs[2, 0, 1, 1] = value
    return changed(examples, inputs=inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: poked(e, 1.0001), r"\[0, 1\], got values outside; leave normalisation"),
        (lambda e: poked(e, -1e-6), r"\[0, 1\]"),
        (lambda e: poked(e, float("nan")), r"\[0, 1\]"),
        (lambda e: poked(e, float("inf")), r"\[0, 1\]"),
        (lambda e: changed(e, labels=e.labels[:3]), "6 labels in 0 … 2"),
        (lambda e: changed(e, labels=e.labels + 2), "labels in 0 … 2"),
        (lambda e: changed(e, labels=e.labels - 1), "labels in 0 … 2"),
        (lambda e: changed(e, indices=e.indices[:3]), "6 labels"),
        (lambda e: changed(e, inputs=e.inputs.flatten(1)), "N, C, H, W"),
        (lambda e: changed(e, inputs=e.inputs.long()), "floats"),
    ],
)
def test_examples_outside_the_contract_are_refused(change, message):
    model, examples = simple()
    check_examples(examples)
    for call in (check_examples, lambda e: measure(model, e, Clean())):
        with pytest.raises(ContractError, match=message):
            call(change(examples))


# --- evidence


def test_honest_evidence_passes():
    model, examples = simple()
    assert (predictions(model, examples.inputs) == examples.labels).all()
    honest = claim(examples, [0, 3, 5], flipped(examples)[[0, 3, 5]])
    assert measure(model, examples, honest).result.adversarial["a"][0].tolist() == [0, 3, 5]
    recheck(model, examples, np.arange(6), flipped(examples).numpy(), LINF, "x")
    recheck(model, examples, np.arange(0), np.zeros((0, 1, 2, 2), np.float32), LINF, "x")


def outside_box(model_examples):
    moved = flipped(model_examples)
    moved[3, 0, 1, 1] = -0.001
    return moved


def spoilt(index, value):
    def change(examples):
        moved = flipped(examples)
        moved[index, 0, 1, 1] = value
        return moved

    return change


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda e: flipped(e, 0.1001), [100, 101, 102, 103, 104, 105]),
        (spoilt(3, float("nan")), [103]),
        (spoilt(4, 0.5 + 0.10001), [104]),
        (lambda e: e.inputs, [100, 101, 102, 103, 104, 105]),
        (lambda e: flipped(e, 0.04), [100, 101, 102, 103, 104, 105]),
        (
            lambda e: torch.where(torch.arange(6).view(-1, 1, 1, 1) == 1, e.inputs, flipped(e)),
            [101],
        ),
    ],
)
def test_evidence_that_is_none_is_refused_by_example(change, names):
    model, examples = simple()
    lie = claim(examples, np.arange(6), change(examples))
    with pytest.raises(InvariantViolation) as caught:
        measure(model, examples, lie)
    assert f"from it.a, got {len(names)} that are not, at test examples {names}" in str(
        caught.value
    )


@pytest.mark.parametrize("value", [-0.001, 1.001])
def test_evidence_outside_the_box_is_refused_even_inside_the_ball(value):
    model, examples = simple()
    inputs = examples.inputs.clone()
    inputs[:, 0, 1, 1] = round(value)
    examples = changed(examples, inputs=inputs)
    moved = flipped(examples)
    moved[3, 0, 1, 1] = value
    assert LINF.distances(moved, inputs).max() <= 0.1 + 1e-6
    with pytest.raises(InvariantViolation, match=r"1 that are not, at test examples \[103\]"):
        measure(model, examples, claim(examples, np.arange(6), moved))


def test_an_epsilon_in_the_name_binds():
    model, examples = simple()
    far = claim(examples, np.arange(6), flipped(examples, 0.19), attack="a@1/5")
    measure(model, examples, far)
    near = claim(examples, np.arange(6), flipped(examples, 0.19), attack="a@1/6")
    with pytest.raises(InvariantViolation, match="Linf 1/6"):
        measure(model, examples, near)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 0, 1], "several for test examples \\[100\\]"),
        ([0, 1, 6], r"positions in 0 … 5"),
        ([0, 1, -1], r"positions in 0 … 5"),
        ([0.0, 1.0, 2.0], r"positions in 0 … 5"),
        ([[0], [1], [2]], r"positions in 0 … 5"),
    ],
)
def test_evidence_for_no_example_or_one_twice_is_refused(positions, message):
    model, examples = simple()
    with pytest.raises(InvariantViolation, match=message):
        recheck(model, examples, np.asarray(positions), flipped(examples)[:3].numpy(), LINF, "x")


@pytest.mark.parametrize(
    "inputs", [np.zeros((3, 4)), np.zeros((2, 1, 2, 2)), np.zeros((3, 1, 2, 2), dtype=np.uint8)]
)
def test_evidence_of_another_shape_is_refused(inputs):
    model, examples = simple()
    with pytest.raises(InvariantViolation, match="adversarial inputs of shape"):
        recheck(model, examples, np.arange(3), inputs, LINF, "x")


def test_an_example_said_to_be_broken_without_evidence_is_refused():
    model, examples = simple()
    honest = claim(examples, [0, 3], flipped(examples)[[0, 3]])
    for said in ([0, 3, 4], [0], [0, 4]):
        column = np.full(6, -1, dtype=np.int8)
        column[said] = 0
        lie = dataclasses.replace(honest, columns={"broken_by": column})
        with pytest.raises(InvariantViolation, match="one adversarial input for each") as caught:
            measure(model, examples, lie)
        disputed = sorted(set(said) ^ {0, 3})
        assert str([100 + position for position in disputed]) in str(caught.value)
    with pytest.raises(InvariantViolation):
        measure(model, examples, dataclasses.replace(honest, adversarial={}))


def test_two_attacks_cannot_both_have_broken_an_example():
    model, examples = simple()
    lie = claim(examples, [0, 3], flipped(examples)[[0, 3]])
    lie.adversarial["b"] = lie.adversarial["a"]
    with pytest.raises(InvariantViolation):
        measure(model, examples, lie)


@dataclasses.dataclass(frozen=True)
class Saboteur:
    """Changes the network and the inputs that it is given, and then shows what breaks those."""

    what: str
    kind: ClassVar[str] = "saboteur"

    def run(self, model, examples, threat, generator):
        if self.what == "weights":
            for parameter in model.parameters():
                parameter.data.neg_()
        elif self.what == "inputs":
            examples.inputs.copy_(1 - examples.inputs)
            examples.inputs[:, 0, 1, 1] = 0.9  # beyond epsilon of what was published
        else:
            examples.labels.copy_(1 - examples.labels)
        return claim(examples, np.arange(6), examples.inputs.clone()).run(0, 0, 0, 0)


@pytest.mark.parametrize("what", ["weights", "inputs", "labels"])
def test_an_evaluation_cannot_change_what_it_is_judged_by(what):
    model, examples = simple()
    # Changed weights are seen as what they are: the network no longer answers as it did.
    expected = ContractError if what == "weights" else InvariantViolation
    with pytest.raises(expected):
        measure(model, examples, Saboteur(what))
    assert (predictions(model, examples.inputs) == examples.labels).all()


@pytest.mark.parametrize("values", [np.zeros(5), np.zeros((6, 1)), np.zeros(())])
def test_columns_of_another_length_are_refused(values):
    model, examples = simple()
    with pytest.raises(ContractError, match="6 outcomes in it.margin"):
        measure(model, examples, Claim({"margin": values}, {}))


# --- seeds and success


def test_the_generator_comes_from_the_seed():
    drawn = []

    @dataclasses.dataclass(frozen=True)
    class Draw:
        def run(self, model, examples, threat, generator):
            drawn.append(torch.rand(3, generator=generator))
            return Result({}, {}, ())

    model, examples = simple()
    measure(model, examples, Draw())
    assert torch.equal(drawn[0], torch.rand(3, generator=rng(seed_from("s", 1))))


def test_success_is_decided_in_the_place_of_the_original():
    sizes = []

    class Watch(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, inputs):
            sizes.append(len(inputs))
            return self.model(inputs)

    model, examples = simple()
    chosen = torch.tensor([4, 1])
    candidates = flipped(examples)[chosen]
    candidates[1] = examples.inputs[1]
    found = fooled(Watch(model), examples, chosen, candidates, LINF)
    assert found.tolist() == [True, False]
    assert sizes == [6]


def test_an_illegal_candidate_is_no_success_even_where_the_original_is_misclassified():
    model, examples = simple()
    examples = changed(examples, labels=1 - examples.labels)
    candidates = examples.inputs[:2].clone()
    candidates[0, 0, 1, 1] = float("nan")
    found = fooled(model, examples, torch.tensor([0, 1]), candidates, LINF)
    assert found.tolist() == [False, True]
