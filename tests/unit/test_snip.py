"""SNIP: sensitivities with a closed form, which loss scores, what is trained, vanishing layers."""

import dataclasses
from fractions import Fraction

import pytest
import torch
from tiny import CPU, LINF, Linear, random_split, rng, same_bits, state_of, untouched, untrained
from torch import nn
from torch.func import functional_call
from torch.nn import functional

import methods
from benchmark.attacks import Steps
from benchmark.errors import ContractError
from benchmark.objectives import OBJECTIVES, Adversarial, Benign
from benchmark.pruning import mask_from_scores, prunable_parameters
from benchmark.training import Run, Stage
from methods.snip import Snip

HALF = Fraction(1, 2)
ATTACK = Adversarial(LINF, Steps(2, HALF))
SHORT = Stage(epochs=2, learning_rate=0.05, batch_size=20)


def training_of(objective=ATTACK, stage=SHORT, seed=0, split=None, **run):
    return methods.Training(split or random_split(), objective, stage, Run(CPU, seed, **run))


def task_of(sparsity=HALF, *, prune=None, finetune=None, seed=0):
    return methods.Task(
        sparsity, "unstructured", rng(seed), prune or training_of(), finetune or training_of()
    )


def linear(seed=3):
    return Linear(torch.randn(10, 64, generator=rng(seed)), torch.randn(10, generator=rng(9)))


def scores_of(model, method=None, **task):
    return (method or Snip())._sensitivities(model, task_of(**task))


# --- sensitivities


def test_a_softmax_layer_has_known_sensitivities():
    """Cross-entropy of logits Wx + b has the gradient mean of (p - y) x^T; written out by hand."""
    model, split = linear(), random_split()
    found = scores_of(model, finetune=training_of(Benign()))["layer.weight"]
    inputs = split.inputs(torch.arange(40)).flatten(1).double()
    weight, bias = model.layer.weight.detach().double(), model.layer.bias.detach().double()
    probabilities = torch.softmax(inputs @ weight.T + bias, dim=1)
    gradient = (probabilities - functional.one_hot(split.labels, 10)).T @ inputs / 40
    torch.testing.assert_close(found.double(), (weight * gradient).abs(), rtol=1e-4, atol=1e-9)


def test_sensitivity_is_the_derivative_of_the_mask():
    """Against masks of real numbers, differentiated at 1, as the paper defines it."""
    model, split = untrained(3), random_split()
    found = scores_of(model, finetune=training_of(Benign()))
    weights = {name: p.detach() for name, p in prunable_parameters(model).items()}
    masks = {name: torch.ones_like(w).requires_grad_() for name, w in weights.items()}
    changed = {name: weights[name] * masks[name] for name in masks}
    logits = functional_call(model, changed, (split.inputs(torch.arange(40)),))
    functional.cross_entropy(logits, split.labels).backward()
    for name, mask in masks.items():
        torch.testing.assert_close(found[name], mask.grad.abs(), rtol=1e-4, atol=1e-8)


@dataclasses.dataclass(frozen=True)
class Watch:
    """Plain cross-entropy that keeps what it is called with."""

    calls: list = dataclasses.field(default_factory=list)
    attack_steps = 0

    def loss(self, model, inputs, labels, *, moment, generator):
        self.calls.append((inputs, labels, model.training))
        return functional.cross_entropy(model(inputs), labels)


def test_gradients_are_summed_over_batches_of_different_examples():
    watch = Watch()
    method = Snip(batch_size=8, batches=3)
    found = scores_of(linear(), method, finetune=training_of(watch))["layer.weight"]
    assert [len(labels) for _, labels, _ in watch.calls] == [8, 8, 8]
    seen = torch.cat([inputs for inputs, _, _ in watch.calls])
    assert len(torch.unique(seen.flatten(1), dim=0)) == 24
    model = linear()
    for inputs, labels, _ in watch.calls:
        functional.cross_entropy(model(inputs), labels).backward()
    expected = (model.layer.weight * model.layer.weight.grad).abs().detach()
    torch.testing.assert_close(found, expected)


def test_a_batch_larger_than_the_data_is_all_of_the_data():
    watch = Watch()
    scores_of(linear(), Snip(batch_size=100, batches=2), finetune=training_of(watch))
    assert [len(labels) for _, labels, _ in watch.calls] == [40]


def test_the_loss_of_the_finetune_stage_scores():
    """The prune stage's has a ramp, at whose start epsilon is 0 and the loss no longer robust."""
    ramped = dataclasses.replace(ATTACK, warmup=Fraction(1))
    prune, finetune = training_of(ramped), training_of(ATTACK)
    robust = scores_of(untrained(), prune=prune, finetune=finetune)
    benign = scores_of(untrained(), prune=prune, finetune=training_of(Benign()))
    again = scores_of(untrained(), finetune=finetune)
    name = "body.5.weight"
    assert torch.equal(robust[name], again[name])
    assert not torch.allclose(robust[name], benign[name], rtol=0.01)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(256, 10)

    def forward(self, inputs):
        return self.last(functional.relu(self.norm(self.conv(inputs))).flatten(1))


def test_scoring_leaves_the_network_alone_and_uses_batch_statistics():
    with torch.random.fork_rng([]):
        torch.manual_seed(4)
        model = Normed().eval()
    watch = Watch()
    with untouched(model):
        scores_of(model, finetune=training_of(watch))
    assert [training for _, _, training in watch.calls] == [True]


def test_the_batch_comes_from_the_generator_alone():
    for objective in (Benign(), ATTACK):
        first, again, other = (
            scores_of(untrained(), Snip(5), seed=seed, finetune=training_of(objective))
            for seed in (1, 1, 2)
        )
        assert same_bits(first, again)
        assert not same_bits(first, other)


# --- what is kept and what is trained


@pytest.mark.parametrize("percent", [0, 50, 75, 90, 95, 99, 100])
def test_one_ranking_over_all_layers(percent):
    sparsity = Fraction(percent, 100)
    scores = scores_of(untrained())
    mask = Snip().compress(untrained(), task_of(sparsity)).mask
    joined = torch.cat([scores[name].flatten() for name in mask])
    kept = torch.cat([mask[name].flatten() for name in mask])
    assert int((~kept).sum()) == round(sparsity * len(joined))
    if 0 < percent < 100:
        assert joined[~kept].max() <= joined[kept].min()
        shares = [float(mask[name].float().mean()) for name in mask]
        assert max(shares) > 2 * min(shares)  # unlike a layerwise ranking


def test_all_epochs_are_spent_on_the_sparse_network(monkeypatch):
    starts = []

    @dataclasses.dataclass(frozen=True)
    class First(Watch):
        def loss(self, model, inputs, labels, *, moment, generator):
            starts.append(state_of(model))
            return super().loss(model, inputs, labels, moment=moment, generator=generator)

    stage = dataclasses.replace(SHORT, epochs=3)
    task = task_of(Fraction(9, 10), prune=training_of(First(), stage))
    pruned = Snip().compress(untrained(), task)
    assert (task.prune.meter.epochs, task.finetune.meter.epochs) == (3, 0)
    assert not pruned.finetuned
    before = untrained()
    pruned.mask.apply(before)
    assert same_bits(starts[0], state_of(before))  # the weights that were scored
    after = prunable_parameters(pruned.model)
    for name, kept in pruned.mask.items():
        assert torch.count_nonzero(after[name].detach()[~kept]) == 0
        assert (after[name].detach()[kept] != starts[0][name][kept]).float().mean() > 0.5


def test_it_starts_untrained():
    assert methods.start_of(Snip()) == methods.UNTRAINED
    assert methods.start_of(methods.configured("snip:batches=2")) == methods.UNTRAINED


def test_a_network_whose_layers_vanish_still_trains():
    """One weight is left of the whole network; the others' layers are empty."""
    sparsity = 1 - Fraction(1, 9872)
    pruned = methods.compress("snip", Snip(), untrained(), task_of(sparsity))
    left = {name: int(kept.sum()) for name, kept in pruned.mask.items()}
    assert sorted(left.values()) == [0, 0, 1]
    assert all(torch.isfinite(p).all() for p in pruned.model.parameters())
    split = random_split()
    logits = pruned.model(split.inputs(torch.arange(40)))
    assert len(torch.unique(logits.detach(), dim=0)) == 1  # constant: no path from the pixels
    functional.cross_entropy(logits, split.labels).backward()
    assert all(torch.isfinite(p.grad).all() for p in pruned.model.parameters())
    assert prunable_parameters(pruned.model).keys() == left.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_works_under_every_objective(name):
    training = training_of(OBJECTIVES[name](LINF))
    task = task_of(Fraction(9, 10), prune=training, finetune=training)
    pruned = methods.compress("snip", Snip(), untrained(7), task)
    assert pruned.mask.zeros == round(Fraction(9, 10) * 9872)


class Killed(Exception):
    pass


def test_a_killed_run_continues_to_the_same_bits(tmp_path):
    def task(**run):
        return task_of(Fraction(9, 10), prune=training_of(**run))

    def report(done, count, loss):
        raise Killed

    whole = Snip().compress(untrained(), task())
    path = tmp_path / "run.state"
    with pytest.raises(Killed):
        Snip().compress(untrained(), task(state=path, report=report))
    seen = []
    resumed = Snip().compress(
        untrained(), task(state=path, report=lambda done, *_: seen.append(done))
    )
    assert seen == [2]
    assert same_bits(state_of(resumed.model), state_of(whole.model))
    assert all(torch.equal(resumed.mask[name], whole.mask[name]) for name in whole.mask)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"batches": 0}, {"batches": -1}])
def test_nothing_to_score_with_is_refused(settings):
    with pytest.raises(ContractError, match="batch to score with"):
        Snip(**settings)


def test_ties_go_by_position():
    """Dead units have sensitivity 0 everywhere; which of their weights go is still determined."""
    model = untrained()
    with torch.no_grad():
        model.body[0].weight.zero_()
        model.body[0].bias.fill_(-1.0)
    scores = scores_of(model)
    assert torch.count_nonzero(scores["body.0.weight"]) == 0
    mask = mask_from_scores(scores, Fraction(1, 100), "global")
    assert mask["body.0.weight"].flatten().tolist() == [False] * 99 + [True] * 45
