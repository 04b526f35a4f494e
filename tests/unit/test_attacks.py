"""PGD against networks whose robust radius is known in closed form."""

from fractions import Fraction

import pytest
import torch
from tiny import L2, LINF, Linear, rng
from torch import nn

from benchmark.attacks import Steps, ascend, pgd
from benchmark.errors import ContractError
from benchmark.threat import ThreatModel

PIXELS = 48
SHAPE = (3, 4, 4)
FINE = Steps(40, Fraction(1, 10))


def linear_problem(norm, count=41, scale=1.0, seed=0):
    """Returns a two-class linear network, inputs, labels and each input's exact robust radius.

    With logits (w x + b, -(w x + b)), an input of class 0 is misclassified once w x + b < 0, and a
    change of size epsilon lowers w x by at most epsilon * dual norm of w. All balls of radius 0.3
    around the inputs lie inside the box, so the box never helps.
    """
    weight = torch.randn(PIXELS, generator=rng(seed))
    dual = weight.abs().sum() if norm == "Linf" else weight.norm()
    radii = torch.linspace(0.02, 0.25, count)
    centre = torch.full((PIXELS,), 0.5)
    steepest = weight.sign() if norm == "Linf" else weight / weight.norm()
    bias = -(weight @ centre)
    inputs = (centre + radii[:, None] * steepest).view(count, *SHAPE)
    labels = torch.zeros(count, dtype=torch.int64)
    labels[1::2] = 1
    inputs[1::2] = 1 - inputs[1::2]  # mirrored at the centre, where the other class is right
    model = Linear(torch.stack([weight, -weight]) * scale, torch.stack([bias, -bias]) * scale)
    margins = (weight @ inputs.flatten(1).T + bias).abs()
    torch.testing.assert_close(margins / dual, radii)
    assert torch.equal(model(inputs).argmax(1), labels)
    return model.requires_grad_(False), inputs, labels, radii


def attack(model, inputs, labels, threat, steps=FINE, restarts=1, seed=0):
    return pgd(
        model, inputs, labels, threat=threat, steps=steps, restarts=restarts, generator=rng(seed)
    )


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("epsilon", [Fraction(1, 20), Fraction(1, 8), Fraction(1, 5)])
def test_a_linear_network_breaks_exactly_within_its_radius(norm, epsilon):
    model, inputs, labels, radii = linear_problem(norm)
    threat = ThreatModel(norm, epsilon)
    trace = attack(model, inputs, labels, threat)
    broken = trace.broken_step >= 0
    # In Linf the corner is reached exactly, up to float32 rounding of the margin. In L2 each
    # projected step of epsilon / 10 turns the iterate towards the optimum; 40 steps leave 2 %.
    slack = 1e-4 if norm == "Linf" else 0.02
    certain = (radii / float(epsilon) - 1).abs() > slack
    assert torch.equal(broken[certain], radii[certain] < float(epsilon))
    assert certain.sum() >= len(radii) - 2
    assert threat.contains(trace.adversarial, inputs).all()
    assert (model(trace.adversarial).argmax(1)[broken] != labels[broken]).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_what_survives_keeps_its_original(norm):
    model, inputs, labels, _ = linear_problem(norm)
    trace = attack(model, inputs, labels, ThreatModel(norm, Fraction(1, 8)))
    survived = trace.broken_step == -1
    assert 0 < survived.sum() < len(inputs)
    assert torch.equal(trace.adversarial[survived], inputs[survived])
    assert trace.broken_step.dtype == torch.int16
    assert trace.broken_step.min() == -1


def test_the_iterate_after_the_last_step_is_scored():
    model, inputs, labels, radii = linear_problem("Linf")
    threat = ThreatModel("Linf", Fraction(1, 8))
    near = (radii > 0.1) & (radii < 0.12)
    assert near.any()
    # One step of two epsilons reaches the corner from anywhere in the ball; a random start does
    # not come near it in 48 dimensions.
    trace = attack(model, inputs[near], labels[near], threat, Steps(1, Fraction(2)))
    assert trace.broken_step.tolist() == [1] * int(near.sum())


def test_broken_step_counts_steps_from_the_start():
    model, inputs, labels, radii = linear_problem("Linf")
    wrong = 1 - labels  # misclassified at once: broken at the start
    trace = attack(model, inputs, wrong, ThreatModel("Linf", Fraction(1, 100)))
    assert trace.broken_step.tolist() == [0] * len(inputs)
    # A step of epsilon / 10 moves each pixel by at most that, so step k has moved by k / 10.
    trace = attack(model, inputs, labels, ThreatModel("Linf", Fraction(1, 4)))
    broken = trace.broken_step >= 0
    least = (radii - 0.04).clamp_min(0) / 0.025  # a random start gains a little, far below 0.04
    assert (trace.broken_step[broken] >= least[broken].floor()).all()


class Watcher(nn.Module):
    """Keeps every batch that a network sees."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.batches = []

    def forward(self, inputs):
        self.batches.append(inputs.detach().clone())
        return self.model(inputs)


def test_restarts_attack_survivors_only():
    model, inputs, labels, radii = linear_problem("Linf")
    threat = ThreatModel("Linf", Fraction(1, 8))
    steps = Steps(3, Fraction(1))
    watcher = Watcher(model)
    trace = attack(watcher, inputs, labels, threat, steps, restarts=3)
    sizes = [len(batch) for batch in watcher.batches]
    left = int((radii >= 0.125).sum())
    assert sizes[0] == len(inputs)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[4:] == [left] * 8
    assert int((trace.broken_step < 0).sum()) == left


def test_starts_do_not_depend_on_the_fate_of_others():
    model, inputs, labels, _ = linear_problem("Linf")
    threat = ThreatModel("Linf", Fraction(1, 1000))
    inputs, labels = inputs[20:], labels[20:]
    doomed = labels.clone()
    doomed[:7] = 1 - doomed[:7]
    seen = []
    for chosen in (labels, doomed):
        watcher = Watcher(model)
        attack(watcher, inputs, chosen, threat, Steps(2, Fraction(1)), restarts=2)
        seen.append(watcher.batches[3])
    assert torch.equal(seen[0][7:], seen[1])


def test_draws_after_an_attack_do_not_depend_on_who_fell():
    model, inputs, labels, _ = linear_problem("Linf")
    after = []
    for epsilon in (Fraction(1, 1000), Fraction(1, 2)):
        generator = rng(3)
        pgd(
            model,
            inputs,
            labels,
            threat=ThreatModel("Linf", epsilon),
            steps=Steps(5, Fraction(1)),
            restarts=4,
            generator=generator,
        )
        after.append(torch.rand(4, generator=generator))
    assert torch.equal(*after)


@pytest.mark.parametrize("threat", [LINF, L2])
def test_iterates_stay_inside_ball_and_box(threat):
    inputs = torch.rand(6, *SHAPE, generator=rng(1)).round(decimals=1).clamp(0, 1)
    inputs[0], inputs[1] = 0.0, 1.0
    model, _, _, _ = linear_problem("Linf")
    watcher = Watcher(model)
    attack(watcher, inputs, model(inputs).argmax(1), threat, Steps(9, Fraction(1, 2)), restarts=2)
    for batch in watcher.batches:
        assert batch.min() >= 0 and batch.max() <= 1
        if len(batch) == len(inputs):
            assert threat.contains(batch, inputs).all()


def test_gradients_too_small_to_square_still_point_somewhere():
    # Logits of 1e-25 have gradients whose squares are zero in float32; their direction is not.
    model, inputs, labels, radii = linear_problem("L2", scale=1e-25)
    leaf = inputs.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(leaf), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert 0 < gradient.abs().max() < 1e-24
    trace = attack(model, inputs, labels, ThreatModel("L2", Fraction(3, 10)))
    assert (trace.broken_step >= 0).all() and radii.max() < 0.3


def test_no_gradient_is_no_step():
    model = Linear(torch.zeros(3, PIXELS), torch.tensor([1.0, 0.0, 0.0])).requires_grad_(False)
    inputs = torch.rand(4, *SHAPE, generator=rng(2))
    for threat in (LINF, L2):
        trace = attack(model, inputs, torch.zeros(4, dtype=torch.int64), threat)
        assert trace.broken_step.tolist() == [-1] * 4
        assert torch.equal(trace.adversarial, inputs)


def test_same_generator_same_bits():
    model, inputs, labels, _ = linear_problem("L2")
    first, second, other = (
        attack(model, inputs, labels, L2, Steps(2, Fraction(1, 4)), seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first.adversarial, second.adversarial)
    assert torch.equal(first.broken_step, second.broken_step)
    assert not torch.equal(first.adversarial, other.adversarial)


@pytest.mark.parametrize("threat", [LINF, L2])
def test_nobody_to_attack(threat):
    model, inputs, labels, _ = linear_problem("Linf")
    trace = attack(model, inputs[:0], labels[:0], threat)
    assert trace.adversarial.shape == (0, *SHAPE)
    assert trace.broken_step.shape == (0,)


def test_settings_that_attack_nothing_are_refused():
    model, inputs, labels, _ = linear_problem("Linf")
    with pytest.raises(ContractError, match="restarts >= 1"):
        attack(model, inputs, labels, LINF, restarts=0)
    for count, size in ((0, Fraction(1)), (1, Fraction(0)), (-1, Fraction(1)), (3, Fraction(-1))):
        with pytest.raises(ContractError, match="steps >= 1"):
            Steps(count, size)


def test_ascend_reaches_the_corner_and_leaves_weights_without_gradients():
    model, inputs, labels, _ = linear_problem("Linf")
    model.requires_grad_(True)
    ends = ascend(
        model,
        lambda logits: nn.functional.cross_entropy(logits, labels, reduction="sum"),
        inputs,
        inputs,
        threat=LINF,
        steps=Steps(4, Fraction(1, 2)),
    )
    away = torch.where((labels == 0).view(-1, 1), -1.0, 1.0) * model.layer.weight[0].sign()
    corner = (inputs.flatten(1) + 0.1 * away).detach()
    torch.testing.assert_close(ends.flatten(1), corner, atol=1e-6, rtol=0)
    assert not ends.requires_grad
    assert all(p.grad is None for p in model.parameters())
