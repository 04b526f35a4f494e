"""The transfer evaluation: attacks on the parent, judged on the child."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny import L2, LINF, Linear, digits, rng, same_bits, state_of, trained, untouched, untrained
from torch import nn
from torch.nn import functional

from benchmark.attacks import Steps, ascend
from benchmark.errors import ContractError
from benchmark.evaluations import Examples, Transfer, run_evaluation
from benchmark.evaluations.engine import Guard
from benchmark.evaluations.transfer import _Loss
from benchmark.threat import ThreatModel

QUICK = Transfer(Steps(10, Fraction(1, 4)))
LARGE = ThreatModel("Linf", Fraction(1, 5))


def measure(model, examples, settings=QUICK, threat=LARGE, seed=0):
    return run_evaluation(
        model, examples, name="transfer", settings=settings, threat=threat, seed=("test", seed)
    ).result


def shard(parent, count=40):
    return replace(digits(count), parent=parent)


def test_without_a_parent_nothing_is_run():
    found = measure(trained(), shard(None))
    assert set(found.columns["broken_by"].tolist()) == {-4}
    assert found.columns["broken_by"].dtype == np.int8
    assert found.adversarial == {} and found.flags == ()


def two_classes(count=12, slope=1.0):
    """Returns a linear network on one pixel and inputs at radius 0.05 from its boundary."""
    weight = torch.zeros(2, 4)
    weight[0, 0], weight[1, 0] = slope, -slope
    inputs = torch.full((count, 1, 2, 2), 0.5)
    inputs[:, 0, 0, 0] += torch.where(torch.arange(count) % 2 == 0, 0.05, -0.05)
    model = Linear(weight, torch.tensor([-0.5, 0.5]) * slope)
    return model, Examples(inputs, torch.arange(count) % 2, torch.arange(count), 2)


@pytest.mark.parametrize(("distance", "broken"), [("1/25", False), ("3/50", True)])
def test_a_parent_that_is_the_child_breaks_what_can_be_broken(distance, broken):
    model, examples = two_classes()
    examples = replace(examples, parent=model)
    threat = ThreatModel("Linf", Fraction(distance))
    column = measure(model, examples, threat=threat).columns["broken_by"]
    assert set(column.tolist()) == {0 if broken else -1}


def test_a_parent_that_looks_elsewhere_breaks_nothing():
    model, examples = two_classes()
    weight = torch.zeros(2, 4)
    weight[0, 3], weight[1, 3] = 1.0, -1.0
    # Its gradient ignores the pixel; only random starts move it, by 4/100 at most.
    elsewhere = replace(examples, parent=Linear(weight, torch.zeros(2)))
    threat = ThreatModel("Linf", Fraction(1, 25))
    assert set(measure(model, elsewhere, threat=threat).columns["broken_by"].tolist()) == {-1}


class Masked(nn.Module):
    """The trained network behind a step function: its own gradients lead nowhere."""

    def __init__(self):
        super().__init__()
        self.body = trained()

    def forward(self, inputs):
        return self.body((16 * inputs).round() / 16 + 0 * inputs)


def test_a_parent_breaks_a_child_that_masks_its_gradients():
    honest = measure(trained(), shard(trained())).columns["broken_by"]
    masked = measure(Masked(), shard(trained())).columns["broken_by"]
    own = measure(Masked(), shard(Masked())).columns["broken_by"]
    assert (masked == 0).sum() >= 0.8 * (honest == 0).sum() > 0
    assert (own == 0).sum() < 0.5 * (masked == 0).sum()


def test_successes_are_shown_and_the_wrong_ones_left_out():
    examples = shard(trained())
    found = measure(trained(), examples)
    column = found.columns["broken_by"]
    right = (trained()(examples.inputs).argmax(1) == examples.labels).numpy()
    assert {-2, -1, 0} == set(column.tolist())
    assert ((column == -2) == ~right).all()
    positions, inputs = found.adversarial["transfer"]
    assert positions.tolist() == np.flatnonzero(column == 0).tolist()
    assert LARGE.contains(torch.from_numpy(inputs), examples.inputs[positions]).all()


def test_the_proven_are_attacked_too():
    examples = shard(trained())
    proven = replace(examples, proven={LARGE.epsilon: torch.ones(40, dtype=torch.bool)})
    plain, again = measure(trained(), examples), measure(trained(), proven)
    assert plain.columns["broken_by"].tolist() == again.columns["broken_by"].tolist()


def test_the_climb_does_not_stop_and_keeps_the_best():
    parent, examples = trained(), digits(10)
    last, best = QUICK._climb(Guard(parent, 10), examples, LARGE, rng(3))
    current = LARGE.random_start(examples.inputs, rng(3))
    seen = []
    for _ in range(QUICK.steps.count):
        seen.append(current)
        following = ascend(
            parent,
            lambda logits: functional.cross_entropy(logits, examples.labels, reduction="sum"),
            examples.inputs,
            current,
            threat=LARGE,
            steps=Steps(1, QUICK.steps.size),
        )
        current = following
    assert torch.equal(last, current)
    with torch.no_grad():
        losses = torch.stack(
            [functional.cross_entropy(parent(x), examples.labels, reduction="none") for x in seen]
        )
    order = losses.argmax(0)
    expected = torch.stack([seen[step][i] for i, step in enumerate(order)])
    assert torch.equal(best, expected)
    assert len(set(order.tolist())) > 1


def test_either_candidate_counts():
    class Last(Transfer):
        def _climb(self, parent, examples, threat, generator):
            moved = examples.inputs.clone()
            moved[:, 0, 0, 0] += torch.where(examples.labels == 0, -0.1, 0.1)
            still = examples.inputs.clone()
            first, second = moved.clone(), still.clone()
            first[1::2], second[1::2] = still[1::2], moved[1::2]
            return first, second

    model, examples = two_classes()
    examples = replace(examples, parent=model)
    assert set(measure(model, examples, Last()).columns["broken_by"].tolist()) == {0}


def test_the_parent_is_measured_as_a_frozen_copy():
    parent = trained().train()
    examples = shard(parent)
    before = state_of(parent)
    with untouched(parent):
        measure(trained(), examples)
    assert same_bits(before, state_of(parent))

    class Wide(nn.Module):
        def forward(self, inputs):
            return inputs.flatten(1)

    with pytest.raises(ContractError, match="logits of shape"):
        measure(trained(), shard(Wide()))


def test_another_norm():
    found = measure(trained(), shard(untrained()), threat=L2).columns["broken_by"]
    assert set(found.tolist()) <= {-2, -1, 0}
    same = measure(trained(), shard(trained()), threat=L2).columns["broken_by"]
    assert (same == 0).sum() > (found == 0).sum()


def test_starts_come_from_the_seed():
    examples = shard(trained())
    first, again, other = (
        measure(trained(), examples, threat=LINF, seed=seed).adversarial["transfer"][1].tobytes()
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_loss_sums_and_keeps_each_value():
    watch = _Loss(torch.tensor([0, 1]))
    total = watch(torch.tensor([[0.0, 0.0], [3.0, 3.0]]))
    assert watch.values.tolist() == pytest.approx([np.log(2)] * 2)
    assert float(total) == pytest.approx(2 * np.log(2))
