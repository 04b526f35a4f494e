"""HYDRA: the score gradient, the start, what is frozen, masks while training, resumption."""

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from tiny import CPU, LINF, random_split, rng, same_bits, state_of, trained, untrained
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import parametrize

import methods
from benchmark.attacks import Steps
from benchmark.datasets import load
from benchmark.errors import ContractError, UnknownName
from benchmark.objectives import OBJECTIVES, Adversarial, Benign, Moment
from benchmark.pruning import mask_from_scores, prunable_parameters
from benchmark.training import Run, Stage
from methods import hydra
from methods.hydra import Hydra, keep_largest, scaled_scores

HALF = Fraction(1, 2)
ATTACK = Adversarial(LINF, Steps(2, HALF))
SHORT = Stage(epochs=2, learning_rate=0.1, batch_size=20)
INITS = ("kaiming-uniform", "kaiming-normal", "xavier-uniform", "xavier-normal")


class Normed(nn.Module):
    """Convolution, batch norm, linear: everything that has state."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(256, 10)

    def forward(self, inputs):
        return self.last(functional.relu(self.norm(self.conv(inputs))).flatten(1))


def normed():
    with torch.random.fork_rng([]):
        torch.manual_seed(4)
        return Normed().eval()


def task_of(sparsity=HALF, *, objective=ATTACK, stage=SHORT, split=None, seed=0, **run):
    training = methods.Training(split or random_split(), objective, stage, Run(CPU, seed, **run))
    return methods.Task(sparsity, "unstructured", rng(seed), training, training)


def epochs(count, **changes):
    return dataclasses.replace(SHORT, epochs=count, **changes)


def layerwise_magnitude(model, sparsity):
    scores = {name: p.detach().abs() for name, p in prunable_parameters(model).items()}
    return mask_from_scores(scores, sparsity, "layerwise")


def same_masks(first, second):
    return all(torch.equal(first[name], second[name]) for name in second) and len(first) > 0


def scored_layers(model):
    """Returns, by name, the frozen weight of each masked layer and what holds its scores."""
    return {
        f"{name}.weight": (module.parametrizations.weight.original, module.parametrizations.weight)
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight")
    }


# --- the score gradient


@pytest.mark.parametrize("score_init", ["scaled", "kaiming-normal"])
def test_scores_get_the_gradient_of_the_mask_times_their_sign(score_init):
    """Against a dense network whose masks are real numbers, differentiated where they are 0 or 1.

    The paper's rule dL/ds = dL/dw~ * w * sign(s), for removed entries too.
    """
    model = untrained(3)
    split = random_split()
    inputs, labels = split.inputs(torch.arange(40)), split.labels
    scored = untrained(3)
    layers = Hydra(score_init=score_init)._prepare(scored, task_of(Fraction(9, 10)))
    functional.cross_entropy(scored(inputs), labels).backward()

    weights = {name: p.detach() for name, p in prunable_parameters(model).items()}
    scores = {name: layer.scores.detach() for name, layer in layers.items()}
    kept = mask_from_scores({n: s.abs() for n, s in scores.items()}, Fraction(9, 10), "layerwise")
    masks = {name: tensor.float().requires_grad_() for name, tensor in kept.items()}
    changed = {name: weights[name] * masks[name] for name in masks}
    functional.cross_entropy(functional_call(model, changed, (inputs,)), labels).backward()
    for name, layer in layers.items():
        expected = masks[name].grad * scores[name].sign()
        torch.testing.assert_close(layer.scores.grad, expected, rtol=1e-5, atol=1e-8)
        # Not all of them, since units that ReLU switched off pass no gradient on.
        assert layer.scores.grad[~kept[name]].ne(0).float().mean() > 0.4
    assert bool((scores["body.0.weight"] < 0).any())


def test_the_masked_weight_is_exact():
    # Rounding may not reach a weight, however large a score is beside it.
    scores = torch.tensor([0.3, -0.2, 0.1, -0.4, 1e30])
    weight = torch.tensor([1 / 3, -0.0, 7e-39, -1e20, 3.3], requires_grad=False)
    found = hydra._Scored(scores, Fraction(2, 5))(weight).detach()
    assert torch.equal(found, torch.tensor([1 / 3, 0.0, 0.0, -1e20, 3.3]))


# --- which weights a mask keeps


def brute_force(scores, removed):
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    return [i not in order[:removed] for i in range(len(scores))]


TIES = {
    "distinct": [0.3, 0.1, 0.7, 0.2, 0.9, 0.4, 0.5],
    "all alike": [1.0] * 7,
    "zeros of both signs": [0.0, -0.0, 0.0, 1.0, -0.0, 0.0, 2.0],
    "two levels": [2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0],
    "infinite": [math.inf, 1.0, math.inf, 0.0, 3.0, math.inf, 1.0],
}


@pytest.mark.parametrize("scores", TIES.values(), ids=TIES)
@pytest.mark.parametrize("removed", range(8))
def test_exactly_the_lowest_go_and_the_earlier_of_equal_ones(scores, removed):
    kept = keep_largest(torch.tensor(scores), Fraction(removed, 7))
    assert kept.tolist() == brute_force(scores, removed)


@pytest.mark.parametrize("sparsity", [0, 0.5, 0.9, 0.95, 0.99, 0.999, 1])
def test_a_step_selects_what_the_benchmark_selects(sparsity):
    # A grid of 64 values over 1,536 entries: ties wherever one cuts.
    scores = torch.randint(0, 64, (16, 6, 4, 4), generator=rng()) / 64
    share = Fraction(str(sparsity))
    wanted = mask_from_scores({"": scores}, share, "layerwise")[""]
    assert torch.equal(keep_largest(scores, share), wanted)
    strided = scores.to(memory_format=torch.channels_last)
    assert torch.equal(keep_largest(strided, share), wanted)


# --- where scores start


def test_scaled_scores_have_known_values():
    weight = torch.tensor([[[[0.5, -2.0]]], [[[1.0, 0.0]]]])  # two inputs a filter
    expected = torch.tensor([[[[0.25, -1.0]]], [[[0.5, 0.0]]]]) * math.sqrt(3.0)
    torch.testing.assert_close(scaled_scores(weight, 6.0), expected)
    torch.testing.assert_close(scaled_scores(weight, 24.0), 2 * expected)
    assert torch.equal(scaled_scores(torch.zeros(3, 4), 6.0), torch.zeros(3, 4))


@pytest.mark.parametrize("score_init", INITS)
def test_random_scores_have_the_spread_of_their_initialisation(score_init):
    weight = torch.ones(48, 32, 3, 3)
    fan_in, fan_out = 32 * 9, 48 * 9
    found = Hydra(score_init=score_init)._scores(weight, rng(1))
    # With the gain sqrt(2) of ReLU: variance 2 / fan_in (He), 4 / (fan_in + fan_out) (Glorot).
    variance = 2 / fan_in if "kaiming" in score_init else 4 / (fan_in + fan_out)
    # 13,824 draws: the variance is known to 1.3 % (normal) or better.
    assert float(found.var()) == pytest.approx(variance, rel=0.06)
    assert (float(found.abs().max()) <= math.sqrt(3 * variance)) == score_init.endswith("uniform")
    assert torch.equal(found, Hydra(score_init=score_init)._scores(weight, rng(1)))
    assert not torch.equal(found, Hydra(score_init=score_init)._scores(weight, rng(2)))


@pytest.mark.parametrize("make", [untrained, trained, normed])
@pytest.mark.parametrize("percent", [0, 50, 75, 90, 95, 99, 100])
def test_without_training_it_is_layerwise_magnitude(make, percent):
    sparsity = Fraction(percent, 100)
    expected = make()
    mask = layerwise_magnitude(expected, sparsity)
    mask.apply(expected)
    pruned = Hydra().compress(make(), task_of(sparsity, stage=epochs(0)))
    assert same_masks(pruned.mask, mask)
    assert same_bits(state_of(pruned.model), state_of(expected))


def test_random_scores_without_training_are_unrelated_to_magnitude():
    # Another seed than the task's: the same draws would give the same order.
    mask = layerwise_magnitude(untrained(8), HALF)["body.5.weight"]
    task = task_of(HALF, stage=epochs(0))
    found = Hydra(score_init="xavier-normal").compress(untrained(8), task).mask["body.5.weight"]
    # 5,120 pairs of fair coins agree half the time; 5 standard deviations.
    assert abs(float((found == mask).float().mean()) - 0.5) < 5 * 0.5 / math.sqrt(5120)


# --- what is trained and what is frozen


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_only_scores_and_batch_norms_change(freeze_bn):
    model = normed()
    before = state_of(model)
    pruned = Hydra(freeze_bn=freeze_bn).compress(model, task_of(Fraction(9, 10)))
    after = state_of(pruned.model)
    assert list(after) == list(before)
    for name, kept in pruned.mask.items():
        assert torch.equal(after[name][kept], before[name][kept])
        assert torch.equal(after[name][~kept], torch.zeros(int((~kept).sum())))
    assert torch.equal(after["conv.bias"], before["conv.bias"])
    assert torch.equal(after["last.bias"], before["last.bias"])
    for name in ("norm.weight", "norm.bias"):
        assert torch.equal(after[name], before[name]) == freeze_bn
    assert not torch.equal(after["norm.running_mean"], before["norm.running_mean"])
    assert int(after["norm.num_batches_tracked"]) > 0
    assert not same_masks(pruned.mask, layerwise_magnitude(normed(), Fraction(9, 10)))


def test_nothing_of_the_training_stays_behind():
    model = normed()
    pruned = Hydra().compress(model, task_of())
    assert pruned.model is model
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    for module in model.modules():
        assert not parametrize.is_parametrized(module)
        assert not module._forward_hooks and not module._backward_hooks
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in normed().named_parameters()
    ]


@dataclasses.dataclass(frozen=True)
class Flat:
    """A loss without a slope, so that only weight decay moves anything."""

    attack_steps = 0

    def loss(self, model, inputs, labels, *, moment, generator):
        return 0.0 * model(inputs).sum()


def test_weight_decay_acts_on_the_scores(monkeypatch):
    found = []
    monkeypatch.setattr(
        hydra, "mask_from_scores", lambda s, *rest: found.append(s) or mask_from_scores(s, *rest)
    )
    # One step, without the momentum of an earlier one: s <- s - lr * decay * s.
    stage = epochs(1, weight_decay=0.5, batch_size=40)
    Hydra().compress(normed(), task_of(objective=Flat(), stage=stage))
    for name, weight in prunable_parameters(normed()).items():
        start = scaled_scores(weight.detach(), 6.0).abs()
        torch.testing.assert_close(found[0][name], start * (1 - 0.1 * 0.5))


# --- masks while training


def test_the_loss_sees_the_masks_of_its_scores(monkeypatch):
    steps, counts = [], []
    kept = keep_largest
    monkeypatch.setattr(hydra, "keep_largest", lambda *a: counts.append(1) or kept(*a))

    @dataclasses.dataclass(frozen=True)
    class Watch:
        inner: Adversarial = ATTACK
        attack_steps = 2

        def loss(self, model, inputs, labels, *, moment, generator):
            loss = self.inner.loss(model, inputs, labels, moment=moment, generator=generator)
            masks = {}
            for name, (weight, scored) in scored_layers(model).items():
                scores = {name: scored[0].scores.detach().abs()}
                mask = mask_from_scores(scores, Fraction(9, 10), "layerwise")[name]
                owner = model.get_submodule(name.rpartition(".")[0])
                assert torch.equal(owner.weight.detach(), weight.masked_fill(~mask, 0.0))
                assert not weight.requires_grad and scored[0].scores.requires_grad
                masks[name] = mask
            steps.append(masks)
            return loss

    Hydra().compress(untrained(), task_of(Fraction(9, 10), objective=Watch()))
    assert len(steps) == 4
    assert not same_masks(steps[0], steps[-1])
    # Once a layer at the start and in every step, however many passes the attack makes.
    assert len(counts) == 3 * (1 + 4)


def test_removed_weights_may_return():
    """Scores of removed entries are trained, so the mask is not one that only shrinks."""
    before = layerwise_magnitude(trained(), Fraction(9, 10))
    after = Hydra().compress(trained(), task_of(Fraction(9, 10), stage=epochs(4))).mask
    assert any(bool((after[name] & ~before[name]).any()) for name in before)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_works_under_every_objective(name):
    task = task_of(Fraction(9, 10), objective=OBJECTIVES[name](LINF))
    before = untrained(7)
    mask = layerwise_magnitude(before, Fraction(9, 10))
    pruned = methods.compress("hydra", Hydra(), untrained(7), task)
    assert not same_masks(pruned.mask, mask)
    own = prunable_parameters(before)
    for key, weight in prunable_parameters(pruned.model).items():
        assert torch.equal(weight.detach(), own[key].detach().masked_fill(~pruned.mask[key], 0.0))
    assert task.meter.epochs == 2


def test_on_digits_the_trained_mask_has_a_smaller_loss_than_magnitude():
    sparsity, split = Fraction(99, 100), load("digits", "train", None)
    stage = Stage(epochs=3, learning_rate=0.1, batch_size=64)
    by_magnitude = trained()
    layerwise_magnitude(by_magnitude, sparsity).apply(by_magnitude)
    pruned = Hydra().compress(trained(), task_of(sparsity, stage=stage, split=split))

    def loss(model):
        inputs = split.inputs(torch.arange(len(split)))
        moment = Moment(0.0, 1)
        found = ATTACK.loss(model, inputs, split.labels, moment=moment, generator=rng())
        return float(found.detach())

    # Chance is log 10 = 2.30.
    assert loss(pruned.model) < loss(by_magnitude) - 0.3


# --- resumption


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("score_init", ["scaled", "kaiming-uniform"])
def test_a_killed_run_continues_to_the_same_mask(tmp_path, after, score_init):
    method, stage = Hydra(score_init=score_init), epochs(3)
    whole = method.compress(normed(), task_of(stage=stage))

    def report(done, count, loss):
        if done == after:
            raise Killed

    path = tmp_path / "run.state"
    with pytest.raises(Killed):
        method.compress(normed(), task_of(stage=stage, state=path, report=report))
    seen = []
    task = task_of(stage=stage, state=path, report=lambda done, *_: seen.append(done))
    resumed = method.compress(normed(), task)
    assert seen == list(range(after + 1, 4))
    assert same_masks(resumed.mask, whole.mask)
    assert same_bits(state_of(resumed.model), state_of(whole.model))


def test_the_state_of_another_sparsity_is_not_taken_over(tmp_path):
    path = tmp_path / "run.state"
    Hydra().compress(normed(), task_of(HALF, state=path))
    found = Hydra().compress(normed(), task_of(Fraction(9, 10), state=path))
    expected = Hydra().compress(normed(), task_of(Fraction(9, 10)))
    assert same_masks(found.mask, expected.mask)
    assert same_bits(state_of(found.model), state_of(expected.model))


# --- settings


def test_finetuning_can_be_switched_off():
    assert not Hydra().compress(untrained(), task_of(stage=epochs(0))).finetuned
    task = task_of(stage=epochs(0))
    assert methods.configured("hydra:finetune=no").compress(untrained(), task).finetuned
    assert methods.start_of(methods.configured("hydra:start=benign:finetune=no")) == "benign"
    assert methods.start_of(Hydra()) == methods.PARENT


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.inf, math.nan])
def test_a_kappa_without_a_meaning_is_refused(kappa):
    with pytest.raises(ContractError, match="kappa > 0"):
        Hydra(kappa=kappa)


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(UnknownName, match="kaiming-uniform"):
        Hydra(score_init="kaiming-uniforn")


def test_benign_scores_differ_from_robust_ones():
    benign, robust = (
        Hydra().compress(trained(), task_of(Fraction(9, 10), objective=objective)).mask
        for objective in (Benign(), ATTACK)
    )
    assert not same_masks(benign, robust)
