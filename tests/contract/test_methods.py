"""Registered means tested: the contract, on every method, structure and sparsity of the grid."""

import builtins
import io
import os
from fractions import Fraction

import pytest
import torch
from tiny import CPU, LINF, random_split, rng, same_bits, state_of, untrained
from torch.nn import functional
from torch.nn.utils import parametrize

import methods
from benchmark import training
from benchmark.attacks import Steps
from benchmark.objectives import Adversarial
from benchmark.pruning import prunable_parameters
from benchmark.training import Run, Stage

UNSTRUCTURED = tuple(Fraction(p, 100) for p in (0, 50, 75, 90, 95, 99))
STRUCTURED = tuple(Fraction(p, 100) for p in (0, 50, 75, 90))

# Every method; the sanity controls stand for themselves over two parents, one of each scope.
PARENTS = ("lwm-layerwise", "lwm-global")
TESTED = [n for n in methods.names() if methods.controls().get(n, PARENTS[0]) in PARENTS]

CASES = [
    (name, structure, sparsity)
    for name in TESTED
    for structure in methods.method(name).structures
    for sparsity in (UNSTRUCTURED if structure == "unstructured" else STRUCTURED)
    if not methods.supports(methods.method(name), name, sparsity, structure)
]
OVER_ALL = pytest.mark.parametrize(("name", "structure", "sparsity"), CASES)
OVER_METHODS = pytest.mark.parametrize("name", TESTED)


def task_of(sparsity, structure, seed=0, epochs=1, folder=None):
    return methods.Task(
        sparsity=sparsity,
        structure=structure,
        generator=rng(seed),
        prune=training_of(seed, epochs, folder and folder / "prune.state"),
        finetune=training_of(seed + 1, epochs, folder and folder / "finetune.state"),
    )


def training_of(seed, epochs, state):
    return methods.Training(
        split=random_split(),
        objective=Adversarial(LINF, Steps(1, Fraction(1))),
        stage=Stage(epochs=epochs, learning_rate=0.01, batch_size=20),
        run=Run(CPU, seed=seed, state=state),
    )


def compress(name, structure, sparsity, seed=0):
    task = task_of(sparsity, structure, seed)
    return methods.compress(name, methods.method(name)(), untrained(7), task)


def removed(weight, structure):
    """Returns how many units of a weight are entirely zero, and how many there are."""
    if structure == "unstructured":
        rows = weight.reshape(-1, 1)
    elif structure == "filter":
        rows = weight.reshape(weight.shape[0], -1)
    else:
        rows = weight.transpose(0, 1).reshape(weight.shape[1], -1)
    return int((rows == 0).all(1).sum()), len(rows)


@OVER_ALL
def test_exactly_the_asked_number_of_units_is_removed(name, structure, sparsity):
    pruned = compress(name, structure, sparsity)
    parameters = list(prunable_parameters(pruned.model).items())
    # The last layer's filters are the logits, the first layer's channels the pixels.
    eligible = {"filter": parameters[:-1], "channel": parameters[1:]}.get(structure, parameters)
    in_mask = [removed(pruned.mask[key].float(), structure) for key, _ in eligible]
    in_weights = [removed(p.detach(), structure) for _, p in eligible]
    if methods.method(name).scope == "layerwise":
        assert [count for count, _ in in_mask] == [round(sparsity * n) for _, n in in_mask]
    else:
        total = sum(n for _, n in in_mask)
        assert sum(count for count, _ in in_mask) == round(sparsity * total)
    # The random weights have no zeros of their own.
    assert in_weights == in_mask
    outside = {key for key, _ in parameters} - {key for key, _ in eligible}
    assert all(bool(pruned.mask[key].all()) for key in outside)


@OVER_ALL
def test_same_task_same_bits(name, structure, sparsity):
    first, second = (compress(name, structure, sparsity) for _ in range(2))
    assert same_bits(state_of(first.model), state_of(second.model))
    assert all(torch.equal(first.mask[key], second.mask[key]) for key in first.mask)


@OVER_ALL
def test_what_comes_back_can_be_finetuned(name, structure, sparsity):
    pruned = compress(name, structure, sparsity)
    split = random_split()
    logits = pruned.model(split.inputs(torch.arange(20)))
    functional.cross_entropy(logits, split.labels[:20]).backward()
    for key, parameter in pruned.model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
    last = list(pruned.model.parameters())[-1]
    assert last.grad.abs().sum() > 0


@OVER_METHODS
def test_a_method_is_silent_and_touches_nothing_global(name, monkeypatch, capsys):
    compress(name, methods.method(name).structures[0], methods.method(name).largest_sparsity / 2)
    state, threads = torch.get_rng_state(), torch.get_num_threads()

    def refuse(*args, **kwargs):
        raise AssertionError(f"a method opened {args[0]!r}")

    kind = methods.method(name)
    model, task = untrained(7), task_of(kind.largest_sparsity / 2, kind.structures[0])
    with monkeypatch.context() as patch:
        for module in (builtins, io, os):
            patch.setattr(module, "open", refuse)
        methods.compress(name, kind(), model, task)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert capsys.readouterr() == ("", "")


def half_of(name, **settings):
    kind = methods.method(name)
    task = task_of(kind.largest_sparsity / 2, kind.structures[0], **settings)
    return methods.compress(name, kind(), untrained(7), task), task


@OVER_METHODS
def test_nothing_is_left_on_the_network(name):
    pruned, _ = half_of(name)
    for module in pruned.model.modules():
        assert not parametrize.is_parametrized(module)
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert not module._backward_hooks
    assert not pruned.model.training
    assert type(pruned.model) is type(untrained(7))


@OVER_METHODS
def test_a_method_stays_within_its_budget(name):
    for epochs in (0, 3):
        pruned, task = half_of(name, epochs=epochs)
        assert 0 <= task.prune.meter.epochs <= epochs
        assert task.finetune.meter.epochs == 0 or pruned.finetuned
        assert task.finetune.meter.epochs <= epochs


@OVER_METHODS
def test_a_killed_method_goes_on_to_the_same_bits(name, tmp_path, monkeypatch):
    expected, task = half_of(name, epochs=2)
    spent = task.prune.meter.epochs + task.finetune.meter.epochs
    original, calls = training._epoch, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", failing)
        for _ in range(spent - 1):
            with pytest.raises(KeyboardInterrupt):
                half_of(name, epochs=2, folder=tmp_path)
        again, _ = half_of(name, epochs=2, folder=tmp_path)
    assert same_bits(state_of(expected.model), state_of(again.model))
    assert all(torch.equal(expected.mask[key], again.mask[key]) for key in expected.mask)
    # Each kill lost the epoch it struck, and nothing else was trained twice.
    assert len(calls) == max(2 * spent - 1, 0)


@OVER_METHODS
def test_a_method_says_who_made_it(name):
    kind = methods.method(name)
    assert kind.info.title and kind.info.summary.endswith(".")
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")
    assert bool(kind.info.authors) == bool(kind.info.paper)


def test_the_controls_are_there():
    assert {"dense", "random", "lwm-layerwise", "lwm-global"} <= set(TESTED)
    assert {f"{p}-{n}" for p in ("shuffled", "reinitialised") for n in PARENTS} <= set(TESTED)


def weights(pruned):
    return {n: p.detach() for n, p in prunable_parameters(pruned.model).items()}


def test_dense_changes_nothing():
    pruned = compress("dense", "unstructured", Fraction(0))
    assert same_bits(state_of(pruned.model), state_of(untrained(7)))
    assert pruned.mask.zeros == 0


@pytest.mark.parametrize("name", ["lwm-layerwise", "lwm-global"])
def test_magnitude_removes_the_smallest(name):
    pruned = compress(name, "unstructured", Fraction(9, 10))
    before = prunable_parameters(untrained(7))
    kept = {n: before[n].detach().abs()[pruned.mask[n]] for n in before}
    gone = {n: before[n].detach().abs()[~pruned.mask[n]] for n in before}
    if name == "lwm-global":
        assert torch.cat(list(gone.values())).max() <= torch.cat(list(kept.values())).min()
    else:
        assert all(gone[n].max() <= kept[n].min() for n in before)
    for key, value in weights(pruned).items():
        assert torch.equal(value[pruned.mask[key]], before[key].detach()[pruned.mask[key]])


def test_random_depends_on_the_generator_and_not_on_the_weights():
    first = compress("random", "unstructured", Fraction(1, 2))
    other = compress("random", "unstructured", Fraction(1, 2), seed=1)
    assert any(not torch.equal(first.mask[key], other.mask[key]) for key in first.mask)
    model = untrained(99)
    same = methods.compress(
        "random", methods.method("random")(), model, task_of(Fraction(1, 2), "unstructured")
    )
    assert all(torch.equal(first.mask[key], same.mask[key]) for key in first.mask)
