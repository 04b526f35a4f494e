"""RADMM: which loss it trains with, what it draws the weights to, and what it hands back."""

from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
import torch
from tiny import CPU, LINF, random_split, rng, same_bits, state_of, untrained
from torch import nn
from torch.nn import functional

import methods
from benchmark.attacks import Steps
from benchmark.errors import ContractError
from benchmark.objectives import Adversarial, Benign
from benchmark.pruning import prunable_parameters
from benchmark.training import Run, Stage
from methods import radmm
from methods._admm import nearest
from methods.radmm import Radmm

HALF = Fraction(1, 2)
SPARSE = Fraction(9, 10)
STAGE = Stage(epochs=3, learning_rate=0.05, batch_size=10)


def task_of(stage=STAGE, objective=None, structure="unstructured", sparsity=SPARSE, **run):
    def training(seed, objective):
        return methods.Training(
            split=random_split(),
            objective=objective,
            stage=stage,
            run=Run(CPU, seed=seed, **run),
        )

    return methods.Task(
        sparsity=sparsity,
        structure=structure,
        generator=rng(),
        prune=training(0, objective or Adversarial(LINF, Steps(1, Fraction(1)))),
        finetune=training(1, Benign()),
    )


def compress(method=None, **settings):
    task = task_of(**settings)
    return methods.compress("radmm", method or Radmm(), untrained(), task), task


def test_without_epochs_it_is_layerwise_magnitude():
    pruned, _ = compress(stage=replace(STAGE, epochs=0))
    expected = methods.compress(
        "lwm-layerwise", methods.configured("lwm-layerwise"), untrained(), task_of()
    )
    assert same_bits(state_of(pruned.model), state_of(expected.model))


def test_the_schedule_is_that_of_the_paper():
    schedule = Radmm()._schedule()
    assert (schedule.rho, schedule.growth, schedule.largest) == (0.001, 1.3, None)
    assert schedule.interval * 200 == 20 and schedule.interval * 40 == 4


SEEN: list[nn.Module] = []


@dataclass(frozen=True)
class Watch(Benign):
    """The benign loss, which notes on what it was called."""

    def loss(self, model, inputs, labels, **rest):
        SEEN.append(model)
        return functional.cross_entropy(model(inputs), labels)


def test_the_cells_loss_is_called_on_the_network_in_every_step():
    SEEN.clear()
    model = untrained()
    methods.compress("radmm", Radmm(), model, task_of(objective=Watch()))
    assert len(SEEN) == 3 * 4 and all(seen is model for seen in SEEN)


def test_the_stage_is_spent_and_the_attack_is_counted():
    pruned, task = compress()
    assert task.prune.meter.epochs == 3 and task.prune.meter.attack_steps == 1
    assert task.finetune.meter.calls == 0 and not pruned.finetuned


def removed_share(monkeypatch, method, structure="unstructured"):
    """Returns the share of the squared norm of the trained weights that pruning removes."""
    shares = []

    def watch(weights, sparsity, structure):
        mask = nearest(weights, sparsity, structure)
        kept = sum(float(w.detach()[mask[name]].square().sum()) for name, w in weights.items())
        shares.append(1 - kept / sum(float(w.detach().square().sum()) for w in weights.values()))
        return mask

    monkeypatch.setattr(radmm, "nearest", watch)
    compress(method, structure=structure, stage=replace(STAGE, epochs=10), sparsity=HALF)
    return shares[-1]


@pytest.mark.parametrize("structure", ["unstructured", "filter"])
def test_a_stronger_pull_leaves_less_to_remove(monkeypatch, structure):
    shares = [removed_share(monkeypatch, Radmm(rho=rho), structure) for rho in (1e-6, 0.01, 0.1)]
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < shares[0] / 2


@pytest.mark.parametrize("structure", ["unstructured", "filter"])
def test_the_network_comes_back_bare(structure):
    model = untrained()
    keys = list(model.state_dict())
    pruned = methods.compress("radmm", Radmm(), model, task_of(structure=structure))
    assert pruned.model is model and list(model.state_dict()) == keys
    assert all(p.requires_grad for p in model.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    weights = list(prunable_parameters(model).values())
    if structure == "filter":
        empty = [int((w.flatten(1) == 0).all(1).sum()) for w in weights]
        assert empty == [round(SPARSE * 16), round(SPARSE * 32), 0]
    else:
        assert [int((w == 0).sum()) for w in weights] == [
            round(SPARSE * w.numel()) for w in weights
        ]


class Killed(Exception):
    pass


def test_a_killed_compression_resumes_to_the_same_bits(tmp_path):
    def kill(done, epochs, loss):
        if done == 2:
            raise Killed

    expected, _ = compress()
    state = tmp_path / "prune.state"
    with pytest.raises(Killed):
        compress(state=state, report=kill)
    resumed = []
    found, _ = compress(state=state, report=lambda done, *rest: resumed.append(done))
    assert resumed == [3]
    assert same_bits(state_of(found.model), state_of(expected.model))


@pytest.mark.parametrize("spelling", ["interval=0", "interval=1.5", "rho=0", "rho-growth=-1"])
def test_settings_that_mean_nothing_are_refused(spelling):
    with pytest.raises(ContractError, match="expected an interval"):
        methods.configured(f"radmm:{spelling}")


def test_no_weight_is_nan_after_the_smallest_stage():
    pruned, _ = compress(stage=Stage(epochs=1, learning_rate=0.05, batch_size=20))
    assert all(bool(torch.isfinite(t).all()) for t in state_of(pruned.model).values())
