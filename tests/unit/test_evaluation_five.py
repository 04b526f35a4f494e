"""FGSM and CW on networks whose robust radius is known, on saturated ones, and on digits."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from test_attacks import linear_problem
from tiny import LINF, Linear, digits, trained
from torch import nn

from benchmark.attacks import Steps
from benchmark.errors import ContractError
from benchmark.evaluations import CarliniWagner, Examples, Fgsm, Pgd, run_evaluation
from benchmark.evaluations.carlini_wagner import margin_loss
from benchmark.threat import ThreatModel

EPSILON = Fraction(1, 8)
STEPS = Steps(20, Fraction(1, 5))


def problem(norm="Linf", scale=1.0):
    model, inputs, labels, radii = linear_problem(norm, scale=scale)
    labels = labels.clone()
    labels[::5] = 1 - labels[::5]  # misclassified unmodified
    return model, Examples(inputs, labels, torch.arange(len(labels)), 2), radii.numpy()


def measure(model, examples, settings, threat=None, seed=0):
    threat = threat or ThreatModel("Linf", EPSILON)
    return run_evaluation(
        model, examples, name="it", settings=settings, threat=threat, seed=("test", seed)
    )


# FGSM


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("epsilon", [Fraction(1, 20), EPSILON, Fraction(1, 5)])
def test_one_step_is_exact_on_a_linear_network(norm, epsilon):
    """Its gradient is the same everywhere, so one full step reaches the worst point of the ball."""
    model, examples, radii = problem(norm)
    threat = ThreatModel(norm, epsilon)
    found = measure(model, examples, Fgsm(), threat)
    column = found.result.columns["broken_by"]
    wrong = np.arange(len(radii)) % 5 == 0
    certain = np.abs(radii / float(epsilon) - 1) > 1e-4
    assert column.dtype == np.int8
    assert (column[wrong] == -2).all()
    broken = radii < float(epsilon)
    assert ((column == 0) == broken)[certain & ~wrong].all()
    assert ((column == -1) == ~broken)[certain & ~wrong].all()
    assert 0 < (column == 0).sum() < (~wrong).sum()
    positions, inputs = found.result.adversarial["fgsm"]
    assert positions.tolist() == np.flatnonzero(column == 0).tolist()
    # A step of full length: no pixel stays behind in Linf, all of the radius is spent in L2.
    moved = torch.from_numpy(inputs) - examples.inputs[positions]
    if norm == "Linf":
        torch.testing.assert_close(moved.abs(), torch.full_like(moved, float(epsilon)))
    else:
        lengths = moved.flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, float(epsilon)))


def test_one_step_costs_one_gradient():
    model, examples, _ = problem()
    attacked = 41 - 9
    found = measure(model, examples, Fgsm())
    # One pass says who is right, one over those gives the gradient, one judges the whole shard.
    assert (found.forwards, found.backwards) == (41 + attacked + 41, attacked)


def test_one_step_draws_nothing():
    model, examples = trained(), digits(40)
    first, other = (measure(model, examples, Fgsm(), LINF, seed).result for seed in (0, 1))
    assert 0 < (first.columns["broken_by"] == 0).sum()
    assert first.adversarial["fgsm"][1].tobytes() == other.adversarial["fgsm"][1].tobytes()


@pytest.mark.parametrize("settings", [Fgsm(), CarliniWagner(STEPS)], ids=["fgsm", "cw"])
def test_a_shard_of_misclassified_examples_is_not_attacked(settings):
    model, examples, _ = problem()
    wrong = replace(examples, labels=1 - model(examples.inputs).argmax(1))
    found = measure(model, wrong, settings)
    [column] = found.result.columns.values()
    assert set(column.tolist()) == {-2}
    assert sum(len(positions) for positions, _ in found.result.adversarial.values()) == 0
    assert found.backwards == 0


# CW


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_on_a_linear_network_cw_is_pgd(norm):
    """With two classes both losses have gradients of one direction, so all iterates are the same.

    In L2 the two lengths that are divided away may leave another rounding.
    """
    model, examples, radii = problem(norm)
    threat = ThreatModel(norm, EPSILON)
    cw = measure(model, examples, CarliniWagner(STEPS, restarts=2), threat).result
    pgd = measure(model, examples, Pgd(STEPS, restarts=2), threat).result
    column = cw.columns["broken_step@1/8"]
    certain = np.abs(radii / float(EPSILON) - 1) > (1e-4 if norm == "Linf" else 0.02)
    assert column.dtype == np.int16
    assert np.array_equal(column[certain], pgd.columns["broken_step@1/8"][certain])
    right = np.arange(len(radii)) % 5 != 0
    assert ((column >= 0) == (radii < float(EPSILON)))[certain & right].all()
    if norm == "Linf":
        assert list(cw.adversarial) == ["cw@1/8"]
        assert cw.adversarial["cw@1/8"][0].tolist() == pgd.adversarial["pgd@1/8"][0].tolist()
        assert cw.adversarial["cw@1/8"][1].tobytes() == pgd.adversarial["pgd@1/8"][1].tobytes()


def test_cw_follows_the_radius_at_every_epsilon():
    model, examples, radii = problem()
    epsilons = (Fraction(1, 20), EPSILON, Fraction(1, 4))
    found = measure(model, examples, CarliniWagner(STEPS, epsilons=epsilons)).result
    assert list(found.columns) == [f"broken_step@{epsilon}" for epsilon in epsilons]
    right = np.arange(len(radii)) % 5 != 0
    for epsilon in epsilons:
        certain = np.abs(radii / float(epsilon) - 1) > 1e-4
        broken = found.columns[f"broken_step@{epsilon}"] >= 0
        assert (broken == (radii < float(epsilon)))[certain & right].all()


class Saturated(nn.Module):
    """Logits so far apart that float32 has no cross-entropy gradient left."""

    def __init__(self, scale):
        super().__init__()
        self.body, self.scale = trained(), scale

    def forward(self, inputs):
        return self.scale * self.body(inputs)


def test_cw_does_not_mind_a_saturated_loss():
    """A scale changes no prediction, and the direction of no difference of logits."""
    examples = digits(40)
    plain, loud = (
        measure(model, examples, CarliniWagner(STEPS), LINF).result
        for model in (trained(), Saturated(2.0**20))
    )
    column = plain.columns["broken_step@1/10"]
    assert (column >= 0).sum() >= 5
    assert np.array_equal(column, loud.columns["broken_step@1/10"])
    lost = measure(Saturated(2.0**20), examples, Pgd(STEPS, 1), LINF).result
    assert (lost.columns["broken_step@1/10"] >= 0).sum() < (column >= 0).sum()


def test_the_margin_names_the_nearest_rival():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]], requires_grad=True)
    labels = torch.tensor([0, 2])
    loss = margin_loss(labels)(logits)
    assert loss.item() == (2.0 - 3.0) + (5.0 - 1.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.tolist() == [[-1.0, 0.0, 1.0], [0.0, 1.0, -1.0]]


def test_cw_climbs_to_the_rival_that_is_nearest_to_winning():
    """Three classes whose boundaries are known: that of class 2 is the nearer one."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    model = Linear(weight, torch.zeros(3)).requires_grad_(False)
    inputs = torch.tensor([0.6, 0.45]).view(1, 1, 1, 2)
    examples = Examples(inputs, torch.tensor([0]), torch.tensor([0]), 3)
    # Class 2 wins once the two pixels have moved by 0.15 together, so from 0.075 each.
    for epsilon, broken in ((Fraction(7, 100), False), (Fraction(8, 100), True)):
        found = measure(model, examples, CarliniWagner(STEPS), ThreatModel("Linf", epsilon))
        assert (found.result.columns[f"broken_step@{epsilon}"][0] >= 0) == broken


def test_more_restarts_never_lose():
    model, examples = trained(), digits(40)
    once, thrice = (
        measure(model, examples, CarliniWagner(STEPS, n), LINF).result.columns["broken_step@1/10"]
        for n in (1, 3)
    )
    assert ((thrice >= 0) >= (once >= 0)).all()


def test_no_restarts_are_refused():
    model, examples, _ = problem()
    with pytest.raises(ContractError, match="restarts >= 1"):
        measure(model, examples, CarliniWagner(STEPS, restarts=0))


# Both


def test_the_five_in_order_of_strength():
    """On a network trained against PGD the weak attacks do not beat the strong ones."""
    examples = digits(120)
    lost = {}
    for name, settings in {
        "fgsm": Fgsm(),
        "pgd-20": Pgd(Steps(20, Fraction(1, 4)), 1),
        "cw": CarliniWagner(Steps(30, Fraction(1, 4)), 1),
    }.items():
        [column] = measure(trained(), examples, settings, LINF).result.columns.values()
        lost[name] = column >= 0
    assert 0 < lost["fgsm"].sum() < lost["pgd-20"].sum()
    iterated = lost["pgd-20"] | lost["cw"]
    assert not (lost["fgsm"] & ~iterated).any()
