"""PwoA: what it imitates, that it never attacks, and how its two stages differ."""

import sys
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny import CPU, LINF, random_split, rng, same_bits, state_of, untrained
from torch import nn

import methods
from benchmark import attacks
from benchmark.attacks import Steps
from benchmark.digests import digest_of
from benchmark.errors import ContractError
from benchmark.objectives import Adversarial, Benign, Moment, adversarial
from benchmark.pruning import prunable_parameters
from benchmark.training import Run, Stage
from methods._admm import Penalised, Variables
from methods._hsic import Bottleneck
from methods._imitation import Mix, Pupil, distillation
from methods.pwoa import Imitation, Pwoa

SPARSE = Fraction(9, 10)
STAGE = Stage(epochs=3, learning_rate=0.05, batch_size=10)  # 4 batches an epoch
ATTACK = Adversarial(LINF, Steps(2, Fraction(1, 2)))


@dataclass(frozen=True)
class Forbidden(Benign):
    """A loss that nobody may call."""

    def loss(self, *args, **rest):
        raise AssertionError("the cell's loss was called")


def task_of(
    objective=ATTACK,
    structure="unstructured",
    sparsity=SPARSE,
    stage=STAGE,
    folder=None,
    report=lambda *progress: None,
):
    def training(name, seed):
        return methods.Training(
            split=random_split(),
            objective=objective,
            stage=stage,
            run=Run(CPU, seed=seed, state=folder and folder / f"{name}.state", report=report),
        )

    return methods.Task(
        sparsity=sparsity,
        structure=structure,
        generator=rng(),
        prune=training("prune", 0),
        finetune=training("finetune", 1),
    )


def compress(method=None, **settings):
    task = task_of(**settings)
    return methods.compress("pwoa", method or Pwoa(), untrained(), task), task


@pytest.fixture
def ascents(monkeypatch):
    """Collects every ascent on a loss, wherever it is called from."""
    found = []

    def watch(model, loss, inputs, start, **rest):
        found.append((model, inputs))
        return original(model, loss, inputs, start, **rest)

    original = attacks.ascend
    holders = [m for m in list(sys.modules.values()) if getattr(m, "ascend", None) is original]
    assert {attacks, adversarial} < set(holders)
    for module in holders:
        monkeypatch.setattr(module, "ascend", watch)
    return found


def test_nothing_is_attacked_and_the_cells_loss_is_never_called(ascents):
    pruned, task = compress(objective=Forbidden())
    assert ascents == [] and pruned.finetuned
    for training in (task.prune, task.finetune):
        assert training.meter.epochs == 3 and training.meter.attack_steps == 0


def test_with_a_mix_ratio_of_1_every_batch_is_attacked(ascents):
    pruned, task = compress(Pwoa(mix_ratio=1.0))
    assert len(ascents) == 2 * 3 * 4
    assert all(model is pruned.model for model, _ in ascents)
    assert task.prune.meter.attack_steps == task.finetune.meter.attack_steps == 2


def test_a_mix_ratio_between_attacks_some_batches_always_the_same(ascents):
    first, _ = compress(Pwoa(mix_ratio=0.5))
    count = len(ascents)
    assert 4 <= count <= 20
    second, _ = compress(Pwoa(mix_ratio=0.5))
    assert len(ascents) == 2 * count
    assert same_bits(state_of(first.model), state_of(second.model))


def test_attacked_batches_lie_in_the_ball_and_reach_teacher_and_student():
    pupil = Pupil(untrained()).train()
    inputs, labels = torch.rand(6, 1, 8, 8, generator=rng(1)), torch.arange(6)
    seen = []
    for network in (pupil.student, pupil.teacher):
        network.register_forward_pre_hook(
            lambda module, args: seen.append((module, args[0], module.training))
        )
    imitation = Imitation(30.0, 1.0, Mix(1.0, LINF, Steps(2, Fraction(1, 2))))
    imitation.loss(pupil, inputs, labels, moment=Moment(0, 1), generator=rng())
    *attack, (teacher, given, _), (student, same, training) = seen
    assert teacher is pupil.teacher and student is pupil.student and same is given
    # The attack neither uses nor moves batch statistics.
    assert [(module, mode) for module, _, mode in attack] == [(pupil.student, False)] * 2
    assert training
    assert 0 < float((given - inputs).abs().max()) <= 0.1 + 1e-6
    assert pupil.student.training and not pupil.teacher.training


def test_a_mix_ratio_needs_an_attack():
    with pytest.raises(ContractError, match="expected an objective with an inner attack"):
        compress(Pwoa(mix_ratio=0.5), objective=Benign())


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("temperature", [1.0, 30.0])
def test_distillation_is_t_squared_times_the_mean_over_entries(classes, temperature):
    student = torch.randn(7, classes, generator=rng(1)) * 3
    teacher = torch.randn(7, classes, generator=rng(2)) * 3

    def log_probabilities(logits):
        scaled = logits.double().numpy() / temperature
        return scaled - np.log(np.exp(scaled).sum(1, keepdims=True))

    p, q = log_probabilities(teacher), log_probabilities(student)
    mean = (np.exp(p) * (p - q)).mean()
    assert float(distillation(student, teacher, temperature)) == pytest.approx(
        temperature**2 * mean, rel=1e-4
    )
    # alpha is 10 for 10 classes and 100 for 100: alpha / C = 1 in the batch mean.
    pair = nn.Module()
    pair.student, pair.teacher = (lambda inputs: student), (lambda inputs: teacher)
    loss = Imitation(temperature, 1.0).loss(
        pair, torch.zeros(7), None, moment=Moment(0, 1), generator=None
    )
    assert float(loss) == pytest.approx(temperature**2 * mean * classes, rel=1e-4)


def test_the_teacher_neither_learns_nor_moves():
    pupil = Pupil(untrained())
    before = state_of(pupil.teacher)
    pupil.train()
    assert pupil.student.training and not any(m.training for m in pupil.teacher.modules())
    task = task_of()
    task.prune.fit(
        Variables(pupil, SPARSE, "unstructured"),
        objective=Penalised(Imitation(30.0, 1.0), Pwoa()._schedule()),
    )
    assert same_bits(state_of(pupil.teacher), before)
    assert not same_bits(state_of(pupil.student), before)
    assert all(p.grad is None for p in pupil.teacher.parameters())


def test_only_the_students_weights_are_drawn_to_a_projection():
    pupil = Pupil(untrained())
    sizes = [p.numel() for p in prunable_parameters(pupil.student).values()]
    assert len(Variables(pupil, SPARSE, "unstructured").duals) == sum(sizes)
    assert len(Variables(pupil, SPARSE, "filter").duals) == sum(sizes[:-1])


def test_the_bottleneck_is_there_in_finetuning_alone(monkeypatch):
    calls = []

    def watch(self, hidden, inputs, labels):
        calls.append((self, [tuple(z.shape) for z in hidden], len(labels)))
        return original(self, hidden, inputs, labels)

    original = Bottleneck.penalty
    monkeypatch.setattr(Bottleneck, "penalty", watch)
    _, task = compress(Pwoa(finetune="objective"))
    assert task.prune.meter.epochs == 3 and calls == []
    compress()
    assert len(calls) == 3 * 4
    assert {call[0] for call in calls} == {Bottleneck(2e-5, 1e-4, 5.0)}
    assert calls[0][1:] == ([(10, 16, 8, 8), (10, 32, 4, 4)], 10)


def test_the_bottleneck_is_added_as_it_is():
    pupil = Pupil(untrained()).train()
    with torch.no_grad():
        for parameter in pupil.student.parameters():
            parameter.mul_(1.1)
    inputs, labels = torch.rand(9, 1, 8, 8, generator=rng(1)), torch.arange(9) % 3
    bottleneck = Bottleneck(0.3, 0.2, 5.0)

    def loss(imitation):
        return imitation.loss(pupil, inputs, labels, moment=Moment(0, 1), generator=rng())

    body = pupil.student.body
    first = body[1](body[0](pupil.student.normalise(inputs)))
    second = body[3](body[2](first))
    plain = Imitation(30.0, 1.0)
    torch.testing.assert_close(
        loss(replace(plain, bottleneck=bottleneck)),
        loss(plain) + bottleneck.penalty([first, second], inputs, labels),
    )
    assert all(not m._forward_hooks for m in pupil.modules())


def test_finetuning_can_be_left_to_the_engine():
    pruned, task = compress(Pwoa(finetune="objective"))
    assert not pruned.finetuned and task.finetune.meter.calls == 0


@pytest.mark.parametrize("structure", ["unstructured", "filter"])
def test_removed_weights_stay_zero_while_the_rest_is_retrained(structure):
    halfway, _ = compress(Pwoa(finetune="objective"), structure=structure)
    pruned, _ = compress(structure=structure)
    before, after = (dict(prunable_parameters(p.model)) for p in (halfway, pruned))
    for name, kept in pruned.mask.items():
        assert torch.equal(kept, halfway.mask[name])
        assert bool((after[name][~kept] == 0).all())
        assert not torch.equal(after[name][kept], before[name][kept])


def test_without_epochs_it_is_layerwise_magnitude():
    pruned, _ = compress(stage=replace(STAGE, epochs=0))
    expected = methods.compress(
        "lwm-layerwise", methods.configured("lwm-layerwise"), untrained(), task_of()
    )
    assert same_bits(state_of(pruned.model), state_of(expected.model))


def test_the_network_comes_back_bare():
    model = untrained()
    keys = list(model.state_dict())
    pruned = methods.compress("pwoa", Pwoa(), model, task_of())
    assert pruned.model is model and list(model.state_dict()) == keys
    assert all(p.requires_grad for p in model.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_with_nothing_to_remove_the_answers_stay_the_teachers():
    stage = replace(STAGE, weight_decay=0.0)
    pruned, _ = compress(Pwoa(lambda_x=0.0, lambda_y=0.0), sparsity=Fraction(0), stage=stage)
    inputs = random_split().inputs(torch.arange(40))
    torch.testing.assert_close(pruned.model(inputs), untrained()(inputs), rtol=1e-3, atol=1e-3)


def test_retraining_brings_the_answers_back_to_the_teachers():
    inputs = random_split().inputs(torch.arange(40))
    wanted = untrained()(inputs)
    stage = replace(STAGE, epochs=20)
    halfway, _ = compress(Pwoa(finetune="objective"), stage=replace(stage, epochs=0))
    pruned, _ = compress(stage=stage)
    before, after = (distillation(p.model(inputs), wanted, 30.0) for p in (halfway, pruned))
    assert bool(after < before / 4)


class Killed(Exception):
    pass


@pytest.mark.parametrize("fatal", [2, 5])
def test_a_killed_compression_resumes_to_the_same_bits(tmp_path, fatal):
    done = []

    def kill(*progress):
        done.append(progress)
        if len(done) == fatal:
            raise Killed

    expected, _ = compress(Pwoa(mix_ratio=0.5))
    with pytest.raises(Killed):
        compress(Pwoa(mix_ratio=0.5), folder=tmp_path, report=kill)
    done.clear()
    found, _ = compress(
        Pwoa(mix_ratio=0.5), folder=tmp_path, report=lambda *progress: done.append(progress)
    )
    assert len(done) == 6 - fatal
    assert same_bits(state_of(found.model), state_of(expected.model))


@pytest.mark.parametrize(
    "setting",
    ["interval=0", "rho=0", "temperature=0", "sigma=-1", "mix-ratio=1.5", "mix-ratio=-0.1"],
)
def test_settings_that_mean_nothing_are_refused(setting):
    with pytest.raises(ContractError, match="expected"):
        methods.configured(f"pwoa:{setting}")


def test_the_settings_are_those_of_the_scripts():
    chosen = Pwoa()
    schedule = chosen._schedule()
    assert schedule.interval * 50 == 3
    assert (schedule.rho, schedule.growth, schedule.largest) == (0.01, 1.35, 1.0)
    assert (chosen.temperature, chosen.alpha_per_class * 10, chosen.sigma) == (30, 10, 5)


def test_its_losses_have_digests():
    mix = Mix(0.5, LINF, Steps(2, Fraction(1, 2)))
    imitation = Imitation(30.0, 1.0, mix, Bottleneck(0.1, 0.2, 5.0))
    assert len(digest_of(Penalised(imitation, Pwoa()._schedule()))) == 64
