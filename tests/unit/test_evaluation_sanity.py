"""The sanity evaluation against closed forms, and against networks that each check is made for."""

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact
from tiny import L2, LINF, Linear, digits, rng, trained, untouched
from torch import nn

from benchmark.attacks import Steps
from benchmark.datasets import example_list, load
from benchmark.errors import ContractError
from benchmark.evaluations import Examples, Sanity, run_evaluation
from benchmark.evaluations.engine import Guard
from benchmark.evaluations.sanity import (
    VANISHING,
    contract_flags,
    margins,
    random_point,
    single_step,
    vanishing,
)
from benchmark.threat import ThreatModel

QUICK = Sanity(draws=10, planted_examples=12)


def linear(seed=2, classes=2, spread=1.0):
    return Linear(spread * torch.randn(classes, 9, generator=rng(seed)), torch.zeros(classes))


def labelled(model, count=30, classes=2, seed=1):
    """Returns random inputs with the labels that the model gives them."""
    inputs = torch.rand(count, 1, 3, 3, generator=rng(seed))
    labels = model(inputs).argmax(1)
    return Examples(inputs, labels, torch.arange(count), classes)


@lru_cache(maxsize=1)
def shard():
    return digits(40)


@lru_cache(maxsize=1)
def training():
    split = load("digits", "train", None)
    chosen = example_list("digits:training", split.labels)[:150]
    return split.inputs(chosen), split.labels[chosen]


class Changed(nn.Module):
    """The trained network with its inputs or its logits changed."""

    def __init__(self, before=None, after=None):
        super().__init__()
        self.body = trained()
        self.before, self.after = before or (lambda x: x), after or (lambda x: x)

    def forward(self, inputs):
        return self.after(self.body(self.before(inputs)))


def measure(model, examples=None, settings=QUICK, threat=LINF):
    return run_evaluation(
        model,
        examples or shard(),
        name="sanity",
        settings=settings,
        threat=threat,
        seed=("test",),
    ).result


def correct(model, examples):
    with torch.no_grad():
        return (model(examples.inputs).argmax(1) == examples.labels).numpy()


# --- noise and single step


def test_one_step_breaks_a_linear_network_exactly_where_it_can_be_broken():
    model = linear()
    examples = labelled(model)
    difference = (model.layer.weight[0] - model.layer.weight[1]).detach()
    margin = margins(model(examples.inputs), examples.labels).detach()
    # Away from the box each pixel moves by epsilon towards the other class; inside, up to the box.
    direction = difference.sign() * torch.where(examples.labels == 0, -1, 1)[:, None]
    flat = examples.inputs.flatten(1)
    reach = ((flat + 0.1 * direction).clamp(0, 1) - flat).abs() @ difference.abs()
    expected = (margin < reach).numpy()
    found = measure(model, examples)
    assert found.columns["broken_by"].dtype == np.int8
    assert ((found.columns["broken_by"] >= 0) == expected).all()
    assert 0 < expected.sum() < len(expected)


def test_a_step_is_full_and_stays_in_ball_and_box():
    model, examples = trained(), shard()
    for threat in (LINF, L2):
        moved = single_step(model, examples.inputs, examples.labels, threat)
        assert threat.contains(moved, examples.inputs).all()
        inside = (moved > 0) & (moved < 1)
        if threat is LINF:
            steps = (moved - examples.inputs)[inside].abs()
            assert steps.max() == pytest.approx(0.1, abs=1e-6)
            assert (steps > 0.0999).float().mean() > 0.9


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_noise_is_half_uniform_and_half_at_the_rim(threat):
    inputs = torch.full((50, 1, 6, 6), 0.5)
    generator = rng()
    uniform = threat.distances(random_point(0, inputs, threat, generator), inputs)
    rim = random_point(1, inputs, threat, generator)
    assert threat.distances(rim, inputs).allclose(torch.tensor(float(threat.epsilon)).double())
    assert uniform.max() <= float(threat.epsilon) + 1e-6
    assert uniform.min() < threat.distances(rim, inputs).min()
    if threat is LINF:
        assert ((rim - inputs).abs() - 0.1).abs().max() < 1e-6
        uniform_points = random_point(2, inputs, threat, generator)
        assert (uniform_points - inputs).abs().mean() == pytest.approx(0.05, rel=0.1)


def test_the_best_of_the_draws_is_tried():
    model, examples = trained(), shard()
    threat = ThreatModel("Linf", Fraction(1, 4))
    settings = replace(QUICK, draws=6)
    lowest = torch.full((40,), torch.inf)
    generator = rng(7)
    with torch.no_grad():
        for draw in range(6):
            points = random_point(draw, examples.inputs, threat, generator)
            lowest = torch.minimum(lowest, margins(model(points), examples.labels))
    expected = (lowest < 0).numpy() & correct(model, examples)
    found = settings.run(Guard(model, 10), examples, threat, rng(7)).columns["broken_by"] == 0
    assert found.tolist() == expected.tolist()
    assert 0 < expected.sum() < expected.size


def test_noise_of_an_example_does_not_depend_on_the_others():
    model = trained()
    threat = ThreatModel("Linf", Fraction(1, 4))
    whole = QUICK.run(Guard(model, 10), shard(), threat, rng(3))
    wrong = replace(shard(), labels=shard().labels.clone())
    wrong.labels[::2] = (wrong.labels[::2] + 1) % 10
    part = QUICK.run(Guard(model, 10), wrong, threat, rng(3))
    odd = np.arange(40) % 2 == 1
    noise = whole.columns["broken_by"] == 0
    assert (noise[odd] == (part.columns["broken_by"] == 0)[odd]).all()
    assert noise[odd].any()


def test_examples_proven_robust_are_attacked_too():
    model, examples = trained(), shard()
    threat = ThreatModel("Linf", Fraction(1, 5))
    proven = replace(examples, proven={threat.epsilon: torch.ones(40, dtype=torch.bool)})
    plain = measure(model, examples, threat=threat)
    again = measure(model, proven, threat=threat)
    for name, values in plain.columns.items():
        assert values.tolist() == again.columns[name].tolist()
    assert (plain.columns["broken_by"] >= 0).any()


def test_every_success_is_shown_once():
    found = measure(trained(), threat=ThreatModel("Linf", Fraction(1, 5)))
    column = found.columns["broken_by"]
    assert {-1, 0, 1} <= set(column.tolist())
    for index, attack in enumerate(Sanity.attacks):
        positions, inputs = found.adversarial[attack]
        assert positions.tolist() == np.flatnonzero(column == index).tolist()
        assert inputs.shape == (len(positions), 1, 8, 8)
    wrong = ~correct(trained(), shard())
    assert ((column == -2) == wrong).all()


def test_a_network_that_is_wrong_everywhere_is_left_alone():
    examples = replace(shard(), labels=(trained()(shard().inputs).argmax(1) + 1) % 10)
    found = measure(trained(), examples)
    assert set(found.columns["broken_by"].tolist()) == {-2}
    assert not found.columns["huge_survived"].any()
    assert not found.columns["vanishing_gradient"].any()
    assert set(found.columns["planted"].tolist()) == {-2}


# --- a huge epsilon


def test_nobody_survives_any_image_unless_gradients_lead_nowhere():
    model = trained()
    assert not measure(model).columns["huge_survived"].any()
    stepped = Changed(before=lambda x: (4 * x).round() / 4)
    survived = measure(stepped).columns["huge_survived"]
    assert survived.dtype == np.bool_
    assert survived.sum() > 12  # a tenth would be chance
    assert not (survived & ~correct(stepped, shard())).any()


# --- gradients that float32 loses


@pytest.mark.parametrize(("scale", "lost"), [(1.0, False), (4.0, False), (1e3, True), (1e6, True)])
def test_saturated_losses_are_told_from_flat_networks(scale, lost):
    model = Changed(after=lambda logits: scale * logits)
    right = correct(model, shard())
    found = measure(model).columns["vanishing_gradient"]
    assert found.sum() == pytest.approx(right.sum() if lost else 0, abs=2)
    assert not (found & ~right).any()
    flat = Changed(before=lambda x: (4 * x).round() / 4, after=lambda logits: scale * logits)
    assert not measure(flat).columns["vanishing_gradient"].any()


@pytest.mark.parametrize(("power", "lost"), [(100, False), (104, True), (126, True), (200, True)])
def test_the_limit_is_where_float32_begins_to_lose_digits(power, lost):
    # Two logits, margin m: cross-entropy has 1 / (1 + e^m) of the margin's gradient, and in float32
    # half of that, since the label's own share is rounded away.
    margin = power * np.log(2)
    model = Linear(torch.zeros(2, 9), torch.zeros(2))
    with torch.no_grad():
        model.layer.weight[0], model.layer.weight[1] = margin / 18, -margin / 18
    examples = Examples(torch.ones(3, 1, 3, 3), torch.zeros(3).long(), torch.arange(3), 2)
    assert vanishing(model, examples).tolist() == [lost] * 3
    assert 2.0**-104 < VANISHING < 2.0**-100


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0])
def test_small_logits_are_no_lost_gradients(scale):
    model = Changed(after=lambda logits: scale * logits)
    assert not measure(model).columns["vanishing_gradient"].any()


# --- planted examples


def test_planted_examples_are_found_on_networks_with_gradients():
    whole = replace(QUICK, planted_examples=40)
    for model, examples in ((trained(), shard()), (linear(), labelled(linear()))):
        planted = measure(model, examples, whole).columns["planted"]
        assert planted.dtype == np.int8
        assert (planted[correct(model, examples)] == 1).all()
    logits_times = Changed(after=lambda logits: 1e6 * logits)
    assert (measure(logits_times, settings=whole).columns["planted"] != 0).all()


def test_planted_examples_are_missed_where_gradients_lead_nowhere():
    whole = replace(QUICK, planted_examples=40)
    stepped = Changed(before=lambda x: (4 * x).round() / 4)
    planted = measure(stepped, settings=whole).columns["planted"]
    assert (planted == 0).sum() >= 0.9 * correct(stepped, shard()).sum()
    backwards = Changed(before=lambda x: x - 2 * (x - x.detach()))
    planted = measure(backwards, settings=whole).columns["planted"]
    assert (planted == 0).sum() >= 0.9 * correct(backwards, shard()).sum()


def test_nothing_is_planted_in_a_constant_network():
    constant = Linear(torch.zeros(10, 64), torch.arange(10.0))
    examples = replace(shard(), labels=torch.full((40,), 9))
    assert set(measure(constant, examples).columns["planted"].tolist()) == {-2}


def test_only_the_first_correct_examples_are_tested():
    planted = measure(trained(), settings=replace(QUICK, planted_examples=5)).columns["planted"]
    right = np.flatnonzero(correct(trained(), shard()))
    assert np.flatnonzero(planted >= 0).tolist() == right[:5].tolist()


# --- contract and memory


def names(flags):
    return {flag.name: flag for flag in flags}


def test_honest_networks_break_no_contract():
    model = trained()
    with untouched(model):
        assert contract_flags(model, shard()) == ()
    assert contract_flags(Guard(model, 10), shard()) == ()


def test_contract_breakers_are_named_with_their_rate():
    batched = Changed(before=lambda x: x - x.mean(0) + 0.3)
    found = names(contract_flags(batched, shard()))
    assert set(found) == {"batch-dependent"}
    assert 0.5 < found["batch-dependent"].rate <= 1

    def inner(x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return x - 0 * torch.autograd.grad(leaf.square().sum(), leaf)[0]

    assert set(names(contract_flags(Changed(before=inner), shard()))) == {"dynamic-forward"}
    dense = torch.randn(10, 10, generator=rng(1))
    found = names(contract_flags(Changed(after=lambda x: x @ dense.T), shard()))
    assert set(found) == {"hidden-weights"}
    assert 0 < found["hidden-weights"].rate < 0.1


def test_only_networks_that_know_the_test_examples_beat_training():
    examples = replace(digits(60), training=training())
    assert measure(trained(), examples).flags == ()
    assert measure(trained(), examples, threat=ThreatModel("Linf", Fraction(1, 4))).flags == ()
    bank, answers = examples.inputs.flatten(1), examples.labels

    class Memory(nn.Module):
        def __init__(self, radius):
            super().__init__()
            self.body, self.radius = trained(), radius
            self.register_buffer("bank", bank)

        def forward(self, inputs):
            logits = self.body(inputs)
            distances = torch.cdist(inputs.flatten(1), self.bank, p=float("inf"))
            near, which = distances.min(1)
            known = nn.functional.one_hot(answers[which], 10).float() * 9 + 0 * logits
            return torch.where((near <= self.radius)[:, None], known, logits)

    threat = ThreatModel("Linf", Fraction(1, 4))
    flag = names(measure(Memory(0.3), examples, threat=threat).flags)["test-beats-training"]
    assert "under PGD" in flag.detail
    assert 0.1 < flag.rate < 1
    # Without training examples nobody can tell.
    alone = replace(examples, training=None)
    assert "test-beats-training" not in names(measure(Memory(0.3), alone, threat=threat).flags)


def test_worse_on_training_examples_by_chance_is_not_enough():
    examples = digits(60)
    mixed = replace(examples, training=(training()[0], training()[1].clone()))
    # With some training examples mislabelled, p is somewhere under a hundredth.
    mixed.training[1][:25] = (mixed.training[1][:25] + 1) % 10
    wrong = [
        int((~correct(trained(), replace(examples, inputs=x, labels=y))).sum())
        for x, y in ((examples.inputs, examples.labels), mixed.training)
    ]
    table = [[60 - wrong[0], wrong[0]], [150 - wrong[1], wrong[1]]]
    assert 1e-5 < fisher_exact(table, alternative="greater").pvalue < 1e-2
    assert "test-beats-training" not in names(measure(trained(), mixed).flags)
    mixed.training[1][:60] = (training()[1][:60] + 1) % 10
    found = names(measure(trained(), mixed).flags)
    assert "test-beats-training" in found
    assert found["test-beats-training"].rate > 0.3


@pytest.mark.parametrize(
    "change", [{"draws": 0}, {"planted_examples": 0}, {"planted_draws": 1}, {"draws": -1}]
)
def test_settings_that_look_at_nothing_are_refused(change):
    with pytest.raises(ContractError, match="at least 1"):
        Sanity(**change)
    with pytest.raises(ContractError):
        Sanity(huge_steps=Steps(0, Fraction(1)))


def test_many_classes_and_few_run():
    for classes in (2, 12):
        model = linear(classes=classes)
        found = measure(model, labelled(model, classes=classes))
        assert (found.columns["planted"] == 1).any()
