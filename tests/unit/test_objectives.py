"""Objectives against references written out by hand."""

import math
from fractions import Fraction

import pytest
import torch
from tiny import L2, LINF, rng, state_of
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from benchmark.attacks import Steps
from benchmark.digests import digest_of
from benchmark.objectives import OBJECTIVES, Adversarial, Benign, Moment, Trades
from benchmark.objectives.adversarial import _divergence, _log_shares, evaluating, ramped
from benchmark.threat import ThreatModel

NOW = Moment(1.0, 10)
STEPS = Steps(3, Fraction(1, 2))


def network(seed=0):
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
    )
    generator = rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.1)
    return model.train()


def batch():
    inputs = torch.rand(7, 1, 4, 4, generator=rng(1))
    return inputs, torch.arange(7) % 4


def loss_of(objective, model, moment=NOW, seed=2):
    inputs, labels = batch()
    return objective.loss(model, inputs, labels, moment=moment, generator=rng(seed))


def ascended(model, threat, start, inputs, loss):
    """PGD by the book, in eval mode."""
    model.eval()
    epsilon = float(threat.epsilon)
    current = start
    for _ in range(STEPS.count):
        leaf = current.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(leaf)), leaf)
        current = current + 0.5 * epsilon * gradient.sign()
        current = torch.maximum(torch.minimum(current, inputs + epsilon), inputs - epsilon)
        current = current.clamp(0, 1).detach()
    model.train()
    return current


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def test_benign_is_cross_entropy():
    model, (inputs, labels) = network(), batch()
    torch.testing.assert_close(
        loss_of(Benign(), model), functional.cross_entropy(model(inputs), labels)
    )
    assert Benign().attack_steps == 0


def test_adversarial_is_cross_entropy_at_the_end_of_pgd():
    model, (inputs, labels) = network(), batch()
    noise = torch.rand(inputs.shape, generator=rng(2))
    start = (inputs + (2 * noise - 1) * 0.1).clamp(0, 1)
    worst = ascended(model, LINF, start, inputs, lambda out: functional.cross_entropy(out, labels))
    expected = gradients(model, functional.cross_entropy(model(worst), labels))
    model = network()  # with batch statistics as they were
    found = gradients(model, loss_of(Adversarial(LINF, STEPS), model))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_trades_has_gradients_through_both_branches():
    model, (inputs, labels) = network(), batch()
    noise = torch.randn(inputs.shape, generator=rng(2))
    start = (inputs + 0.001 * noise).clamp(0, 1)
    model.eval()
    with torch.no_grad():
        clean = model(inputs).softmax(1)
    worst = ascended(model, LINF, start, inputs, lambda out: -(clean * out.log_softmax(1)).sum())
    natural, robust = model(inputs), model(worst)
    probability = natural.softmax(1)
    divergence = (probability * (natural.log_softmax(1) - robust.log_softmax(1))).sum(1).mean()
    reference = functional.cross_entropy(natural, labels) + 6.0 * divergence
    expected = gradients(model, reference)
    model = network()  # with batch statistics as they were
    loss = loss_of(Trades(LINF, STEPS), model)
    torch.testing.assert_close(loss, reference)
    found = gradients(model, loss)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    # The same with the clean branch cut off differs: the comparison above can tell.
    natural, robust = model(inputs), model(worst)
    target = natural.detach()
    cut = (target.softmax(1) * (target.log_softmax(1) - robust.log_softmax(1))).sum(1).mean()
    other = gradients(model, functional.cross_entropy(natural, labels) + 6.0 * cut)
    assert max((a - b).abs().max() for a, b in zip(other, found, strict=True)) > 1e-3


def test_beta_weighs_the_divergence():
    losses = [float(loss_of(Trades(LINF, STEPS, beta), network()).detach()) for beta in (0, 1, 2)]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)
    assert losses[1] > losses[0]


class ModeWatcher(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body
        self.modes = []

    def forward(self, inputs):
        self.modes.append((self.training, self.body[1].training))
        return self.body(inputs)


@pytest.mark.parametrize("threat", [LINF, L2])
@pytest.mark.parametrize("kind", [Adversarial, Trades])
def test_the_attack_runs_in_eval_mode_and_moves_no_statistics(kind, threat):
    model = ModeWatcher(network())
    loss_of(kind(threat, STEPS), model)
    trained = 1 if kind is Adversarial else 2
    assert model.modes[-trained:] == [(True, True)] * trained
    assert set(model.modes[:-trained]) == {(False, False)}
    assert int(model.body[1].num_batches_tracked) == trained
    assert all(module.training for module in model.modules())


def test_the_attack_leaves_no_weight_gradients():
    for kind in (Adversarial, Trades):
        model = network()
        loss_of(kind(LINF, STEPS), model)
        assert all(p.grad is None for p in model.parameters())


def test_evaluating_gives_each_layer_its_own_mode_back():
    model = network()
    model[1].eval()  # a method may freeze a norm
    with pytest.raises(RuntimeError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("an attack that fails")
    assert [module.training for module in model] == [True, False, True, True, True]


def test_in_an_attack_only_inputs_take_gradients():
    model = network()
    model[0].bias.requires_grad_(False)  # a method may freeze a weight
    trainable = [p.requires_grad for p in model.parameters()]
    with pytest.raises(RuntimeError), evaluating(model):
        assert not any(p.requires_grad for p in model.parameters())
        raise RuntimeError("an attack that fails")
    assert [p.requires_grad for p in model.parameters()] == trainable


def test_a_weight_made_of_others_is_made_once_an_attack():
    made = []

    class Twice(nn.Module):
        def forward(self, weight):
            made.append(torch.is_grad_enabled())
            return 2 * weight

    plain, model = network(), network()
    parametrize.register_parametrization(model[4], "weight", Twice())
    plain[4].weight.data *= 2
    made.clear()
    loss = loss_of(Trades(LINF, STEPS), model)
    # Once for all passes of the attack, and once for each of the two that are trained on.
    assert len(made) == 3
    assert torch.equal(loss, loss_of(Trades(LINF, STEPS), plain))
    loss.backward()
    assert model[4].parametrizations.weight.original.grad.ne(0).any()


@pytest.mark.parametrize("kind", [Adversarial, Trades])
def test_half_precision_trains_every_weight(kind):
    # Older versions of torch keep a weight's copy of an attack, to which no gradient leads back.
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(kind(LINF, STEPS), model)
    loss.backward()
    assert all(p.grad is not None and p.grad.ne(0).any() for p in model.parameters())


def test_the_divergence_of_near_answers_is_not_rounding():
    logits = torch.randn(64, 10, generator=rng()).bfloat16()
    other = logits + torch.randn(64, 10, generator=rng(1)).bfloat16() / 32
    with torch.autocast("cpu", torch.bfloat16):
        found = _divergence(other, _log_shares(logits))
    exact = functional.kl_div(
        other.double().log_softmax(1),
        logits.double().log_softmax(1),
        reduction="sum",
        log_target=True,
    )
    # In bfloat16 the error is as large as the divergence itself.
    assert float(found) == pytest.approx(float(exact), rel=1e-3)


def test_losses_depend_on_the_generator_alone():
    torch.manual_seed(0)  # the global generator, which must not matter
    for kind in (Adversarial, Trades):
        model = network()
        before = torch.get_rng_state()
        first = loss_of(kind(LINF, STEPS), model).detach()
        assert torch.equal(before, torch.get_rng_state())
        torch.rand(3)
        assert torch.equal(first, loss_of(kind(LINF, STEPS), network()).detach())
        assert not torch.equal(first, loss_of(kind(LINF, STEPS), network(), seed=9).detach())


def test_inner_attack_raises_the_loss_and_stays_in_the_ball():
    model, (inputs, labels) = network(), batch()
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    loss = loss_of(Adversarial(LINF, STEPS), model)
    assert LINF.contains(seen[-1], inputs).all()
    assert loss > functional.cross_entropy(model(inputs), labels)


@pytest.mark.parametrize(
    ("epoch", "share"),
    [(0.0, 0), (1.0, Fraction(1, 4)), (2.0, Fraction(1, 2)), (4.0, 1), (7.5, 1), (9.99, 1)],
)
def test_epsilon_rises_linearly_over_the_warmup(epoch, share):
    found = ramped(LINF, Fraction(2, 5), Moment(epoch, 10))
    assert found == LINF.with_epsilon(LINF.epsilon * share)


def test_the_ramp_never_overshoots():
    for step in range(1000):
        for warmup in (Fraction(1, 3), Fraction(1, 4), Fraction(9, 10)):
            assert 0 <= ramped(LINF, warmup, Moment(step / 100, 10)).epsilon <= LINF.epsilon


def test_the_ramp_sets_the_attack():
    objective = Adversarial(LINF, STEPS, warmup=Fraction(1, 2))
    inputs, labels = batch()
    # With epsilon 0 the adversarial loss is the benign one.
    assert torch.equal(loss_of(objective, network(), Moment(0.0, 10)), loss_of(Benign(), network()))
    early, late = (loss_of(objective, network(), Moment(epoch, 10)) for epoch in (1.0, 5.0))
    assert early < late
    assert torch.equal(late, loss_of(Adversarial(LINF, STEPS), network()))
    assert len(inputs) == len(labels)


def test_moment_progress():
    assert Moment(2.5, 10).progress == 0.25
    assert math.isclose(Moment(0.0, 3).progress, 0.0)


def test_the_table_builds_every_objective_for_a_threat_model():
    assert set(OBJECTIVES) == {
        "benign",
        "adversarial",
        "trades",
        "smoothing",
        "mixtrain",
        "crown-ibp",
    }
    built = {name: make(ThreatModel("Linf", Fraction(8, 255))) for name, make in OBJECTIVES.items()}
    assert built["adversarial"].threat.epsilon == Fraction(8, 255)
    assert built["trades"].attack_steps == 10
    assert built["crown-ibp"].threat == built["mixtrain"].threat == built["trades"].threat
    digests = {digest_of(objective) for objective in built.values()}
    assert len(digests) == len(built)
    assert digest_of(Trades(LINF)) != digest_of(Trades(LINF, beta=1.0))


def test_objectives_leave_parameters_as_they_are():
    for make in OBJECTIVES.values():
        model = network()
        before = {n: t for n, t in state_of(model).items() if "1." not in n[:2]}
        loss_of(make(LINF), model)
        assert all(torch.equal(before[name], model.state_dict()[name]) for name in before)
