"""Gradual and adversarial gradual pruning: schedule and loss by hand, masks step by step."""

import dataclasses
import math
from fractions import Fraction
from typing import ClassVar

import pytest
import torch
from tiny import CPU, L2, LINF, random_split, rng, same_bits, state_of, untrained
from torch.nn import functional

import methods
from benchmark.attacks import Steps
from benchmark.errors import ContractError
from benchmark.objectives import Adversarial, Benign, Moment
from benchmark.pruning import prunable_parameters
from benchmark.training import Run, Stage
from methods._gradual import Ramp, Thinning
from methods._halves import DeepFool, Halves
from methods.adversarial_gradual import AdversarialGradual, Fgsm, Pgd
from methods.gradual import Gradual

NOW = Moment(0.0, 1)
OBJECTIVE = Adversarial(LINF, Steps(1, Fraction(1)))
SHORT = Stage(epochs=5, learning_rate=0.01, batch_size=10)  # of 40 images: 4 steps an epoch


def training_of(stage=SHORT, objective=OBJECTIVE, seed=0, **run):
    return methods.Training(random_split(), objective, stage, Run(CPU, seed=seed, **run))


def task_of(sparsity=Fraction(9, 10), prune=None, finetune=None):
    return methods.Task(
        sparsity=sparsity,
        structure="unstructured",
        generator=rng(),
        prune=prune or training_of(),
        finetune=finetune or training_of(dataclasses.replace(SHORT, epochs=2), seed=1),
    )


# --- the schedule


def test_the_schedule_of_the_paper_by_hand():
    # BAP's code on MNIST: 469 steps an epoch, from epoch 0 to epoch 30.
    ramp = Ramp(Fraction(0), Fraction(9, 10), 0, 14070, 100)
    assert ramp.sparsity(0) == 0
    assert ramp.sparsity(7035) == Fraction(9, 10) * Fraction(7, 8)  # half way: 1 - 1/8 of it
    assert ramp.sparsity(4690) == Fraction(9, 10) * Fraction(19, 27)  # a third: 1 - (2/3)^3
    assert ramp.sparsity(14070) == ramp.sparsity(99999) == Fraction(9, 10)
    assert float(ramp.sparsity(100)) == pytest.approx(0.9 * (1 - (13970 / 14070) ** 3), abs=1e-12)


def test_an_initial_sparsity_is_where_the_schedule_starts():
    ramp = Ramp(Fraction(1, 2), Fraction(9, 10), 20, 40, 7)
    assert ramp.sparsity(20) == Fraction(1, 2)
    assert ramp.sparsity(30) == Fraction(9, 10) - Fraction(4, 10) / 8
    assert ramp.sparsity(40) == Fraction(9, 10)
    assert [step for step in range(60) if ramp.due(step)] == [20, 27, 34, 40]


def test_a_ramp_without_length_is_one_shot():
    ramp = Ramp(Fraction(0), Fraction(9, 10), 3, 3, 1)
    assert ramp.sparsity(3) == Fraction(9, 10)
    assert [step for step in range(9) if ramp.due(step)] == [3]


def of_epochs(prune, finetune, method=None, examples=40):
    """Returns the ramp that a method plans for stages of so many epochs."""
    stage = dataclasses.replace(SHORT, epochs=prune)
    tuned = dataclasses.replace(SHORT, epochs=finetune)
    task = task_of(prune=training_of(stage), finetune=training_of(tuned))
    return (method or Gradual()).ramp(task, math.ceil(examples / SHORT.batch_size))


def test_shares_are_of_all_training():
    # The paper's 70 epochs of 469 steps, 40 of them spent on the mask: it ends with epoch 30.
    assert of_epochs(40, 30, examples=4690) == Ramp(Fraction(0), Fraction(9, 10), 0, 14070, 100)
    late = Gradual(begin=Fraction(1, 10), end=Fraction(1, 2), initial_sparsity=Fraction(1, 4))
    assert of_epochs(40, 30, late, 4690) == Ramp(Fraction(1, 4), Fraction(9, 10), 3283, 16415, 100)


def test_a_ramp_ends_where_finetuning_begins_at_the_latest():
    assert of_epochs(3, 30) == Ramp(Fraction(0), Fraction(9, 10), 0, 12, 1)
    assert of_epochs(0, 30) == Ramp(Fraction(0), Fraction(9, 10), 0, 0, 1)
    beyond = Gradual(begin=Fraction(9, 10), end=Fraction(1))
    assert of_epochs(3, 30, beyond) == Ramp(Fraction(0), Fraction(9, 10), 12, 12, 1)


def test_short_ramps_have_ten_updates():
    assert of_epochs(60, 80).frequency == 24  # 240 steps
    assert of_epochs(400, 400).frequency == 100
    assert of_epochs(60, 80, Gradual(frequency=7)).frequency == 7


@pytest.mark.parametrize(
    "settings",
    [
        {"begin": Fraction(1, 2)},  # after the end
        {"end": Fraction(3, 2)},
        {"begin": Fraction(-1, 2)},
        {"initial_sparsity": Fraction(2)},
        {"frequency": 0},
    ],
)
def test_ramps_that_make_no_sense_are_refused(settings):
    with pytest.raises(ContractError, match="expected"):
        Gradual(**settings)


# --- masks, step by step


@dataclasses.dataclass(frozen=True)
class Watch:
    """Cross-entropy that keeps which weights were zero in each forward pass."""

    seen: ClassVar[list] = []
    attack_steps: ClassVar[int] = 0

    def loss(self, model, inputs, labels, *, moment, generator):
        parameters = prunable_parameters(model)
        self.seen.append({name: p.detach() == 0 for name, p in parameters.items()})
        return functional.cross_entropy(model(inputs), labels)


def watched(method, sparsity=Fraction(9, 10), **changes):
    """Returns zeros by step of the prune stage, the result, and the ramp."""
    Watch.seen.clear()
    prune = training_of(dataclasses.replace(SHORT, **changes), Watch())
    task = task_of(sparsity, prune)
    ramp = method.ramp(task, 4)
    pruned = methods.compress("gradual", method, untrained(7), task)
    return list(Watch.seen), pruned, ramp


RISING = Gradual(optimiser="sgd", learning_rate=0.05, frequency=3)


def updates_before(ramp, step):
    return [s for s in range(step + 1) if ramp.due(s)]


@pytest.mark.parametrize("sparsity", [Fraction(0), Fraction(9, 10), Fraction(99, 100), Fraction(1)])
def test_each_layer_has_exactly_the_share_of_the_last_update(sparsity):
    seen, pruned, ramp = watched(RISING, sparsity)
    assert (ramp.first, ramp.last, ramp.frequency, len(seen)) == (0, 12, 1, 20)
    assert [step for step in range(20) if ramp.due(step)] == list(range(13))
    for step, zeros in enumerate(seen):
        share = ramp.sparsity(updates_before(ramp, step)[-1])
        for gone in zeros.values():
            assert int(gone.sum()) == round(share * gone.numel())
    for name, kept in pruned.mask.items():
        assert torch.equal(kept, ~seen[-1][name])


def test_between_updates_the_same_weights_are_gone():
    method = dataclasses.replace(RISING, frequency=4)
    seen, _, ramp = watched(method, epochs=20)
    assert ramp.frequency == 3  # 38 steps in tenths
    changes = {
        step
        for step in range(1, len(seen))
        if any(not torch.equal(seen[step][name], seen[step - 1][name]) for name in seen[step])
    }
    assert changes <= set(updates_before(ramp, len(seen)))
    assert len(changes) > 8


def grown_back(seen, start, stop):
    """Returns how many weights that were gone at a step are there at the next."""
    return sum(
        int((seen[step - 1][name] & ~seen[step][name]).sum())
        for step in range(start, stop)
        for name in seen[step]
    )


def test_weights_grow_back_before_the_end_of_the_ramp_and_never_after():
    # At this rate a removed weight moves far in one step.
    method = Gradual(optimiser="sgd", learning_rate=0.5, initial_sparsity=Fraction(4, 5))
    seen, pruned, ramp = watched(method, epochs=20)
    assert grown_back(seen, 1, ramp.last + 1) > 100
    assert grown_back(seen, ramp.last + 1, len(seen)) == 0
    assert all(torch.equal(pruned.mask[name], ~seen[ramp.last][name]) for name in pruned.mask)


def test_removed_weights_get_gradients_all_along():
    model = untrained(7).train()
    thinning = Thinning(model)
    ramp = Ramp(Fraction(0), Fraction(1, 2), 0, 0, 1)
    thinning.advance(ramp, 0)
    functional.cross_entropy(model(torch.rand(4, 1, 8, 8)), torch.arange(4)).backward()
    for _, parameter, kept in thinning.masked():
        assert (parameter.detach()[~kept] == 0).all() and (parameter.grad[~kept] != 0).any()


def test_the_smallest_weights_of_the_moment_go():
    thinning = Thinning(untrained(7))
    ramp = Ramp(Fraction(0), Fraction(1, 2), 0, 10, 10)
    before = {name: p.detach().abs().clone() for name, p, _ in thinning.masked()}
    thinning.advance(ramp, 0)
    assert all(bool(kept.all()) for _, _, kept in thinning.masked())
    thinning.advance(ramp, 10)
    for name, _, kept in thinning.masked():
        assert before[name][~kept].max() <= before[name][kept].min()
    # Not due: what has moved is zeroed, and the masks stay.
    held = thinning.mask
    with torch.no_grad():
        for _, parameter, _ in thinning.masked():
            parameter.neg_().sub_(1)
    thinning.advance(ramp, 11)
    for name, parameter, kept in thinning.masked():
        assert torch.equal(kept, held[name]) and torch.equal(parameter.detach() == 0, ~kept)


def test_without_epochs_the_smallest_random_weights_go():
    _, pruned, _ = watched(Gradual(), epochs=0)
    expected = methods.compress(
        "lwm-layerwise", methods.method("lwm-layerwise")(), untrained(7), task_of()
    )
    assert all(torch.equal(pruned.mask[name], expected.mask[name]) for name in pruned.mask)
    assert same_bits(state_of(pruned.model), state_of(expected.model))


def test_the_network_comes_back_as_it_was_made():
    model = untrained(7)
    pruned = methods.compress("gradual", Gradual(), model, task_of())
    assert pruned.model is model and not pruned.finetuned
    assert list(model.state_dict()) == list(untrained(7).state_dict())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


# --- settings and resumption


def test_the_stage_keeps_all_but_optimiser_and_rate(monkeypatch):
    stages = []

    def spy(self, model, **settings):
        stages.append(settings["stage"])
        return ()

    monkeypatch.setattr(methods.Training, "fit", spy)
    task = task_of()
    AdversarialGradual(optimiser="adam", learning_rate=0.25).compress(untrained(7), task)
    assert stages == [
        dataclasses.replace(SHORT, optimiser="adam", learning_rate=0.25),
        dataclasses.replace(SHORT, epochs=2, optimiser="adam", learning_rate=0.25),
    ]


class Killed(Exception):
    pass


def killed_after(epochs):
    left = [epochs]

    def report(done, total, loss):
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    return report


@pytest.mark.parametrize("after", [1, 2, 4, 6])
def test_a_killed_run_continues_to_the_same_bits(tmp_path, after):
    # The ramp ends with epoch 3 of 5; two more epochs are spent on finetuning.
    method = AdversarialGradual(attack="pgd")

    def run(**settings):
        task = task_of(
            prune=training_of(state=settings.get("state"), report=settings["report"]),
            finetune=training_of(
                dataclasses.replace(SHORT, epochs=2),
                seed=1,
                state=settings.get("state") and settings["state"].with_name("finetune.state"),
                report=settings["report"],
            ),
        )
        return methods.compress("adversarial-gradual", method, untrained(7), task)

    whole = run(report=lambda *_: None)
    path = tmp_path / "prune.state"
    with pytest.raises(Killed):
        run(report=killed_after(after), state=path)
    seen = []
    resumed = run(report=lambda *now: seen.append(now), state=path)
    assert len(seen) == 7 - after
    assert same_bits(state_of(resumed.model), state_of(whole.model))
    assert all(torch.equal(resumed.mask[name], whole.mask[name]) for name in whole.mask)


# --- half clean, half adversarial


@dataclasses.dataclass(frozen=True)
class Inverted:
    """An attack that anyone can do by hand; keeps the labels that it was given."""

    labels: ClassVar[list] = []
    attack_steps: ClassVar[int] = 3

    def craft(self, model, inputs, labels, generator):
        assert not model.training
        self.labels.append(labels)
        return 1 - inputs


def batch(count=6):
    split = random_split()
    return split.inputs(torch.arange(count)), split.labels[:count]


def test_the_loss_by_hand():
    model, (inputs, labels) = untrained(7).train(), batch()
    Inverted.labels.clear()
    found = Halves(Inverted(), 0.1).loss(model, inputs, labels, moment=NOW, generator=rng())
    truth = functional.one_hot(labels, 10).float()
    smooth = truth - 0.1 * (truth - 1 / 10)
    halves = [-(smooth * model(x).log_softmax(1)).sum(1).mean() for x in (inputs, 1 - inputs)]
    torch.testing.assert_close(found, 0.5 * halves[0] + 0.5 * halves[1])
    assert model.training
    # The attack leaves what the network says, whatever is true.
    assert torch.equal(Inverted.labels[0], model(inputs).argmax(1))
    assert not torch.equal(Inverted.labels[0], labels)


def test_attacks_are_constants_of_the_loss():
    model, (inputs, labels) = untrained(7).train(), batch()
    loss = Halves(Fgsm(LINF), 0.0).loss(model, inputs, labels, moment=NOW, generator=rng())
    found = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        predicted = model(inputs).argmax(1)
    fixed = Fgsm(LINF).craft(model, inputs, predicted, rng())
    assert not fixed.requires_grad
    halves = [functional.cross_entropy(model(x), labels) for x in (inputs, fixed)]
    expected = torch.autograd.grad(sum(halves) / 2, list(model.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def slope_of(model, inputs, labels):
    leaf = inputs.clone().requires_grad_()
    loss = functional.cross_entropy(model(leaf), labels, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


def test_fgsm_is_one_step_by_hand():
    model, (inputs, labels) = untrained(7), batch()
    slope = slope_of(model, inputs, labels)
    found = Fgsm(LINF).craft(model, inputs, labels, rng())
    torch.testing.assert_close(found, (inputs + 0.1 * slope.sign()).clamp(0, 1))
    norms = slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    found = Fgsm(L2).craft(model, inputs, labels, rng())
    torch.testing.assert_close(found, (inputs + 0.5 * slope / norms).clamp(0, 1))


def test_pgd_starts_at_random_and_stays_in_the_ball():
    model, (inputs, labels) = untrained(7), batch()
    first, second = (Pgd(LINF).craft(model, inputs, labels, rng(seed)) for seed in (0, 1))
    assert LINF.contains(first, inputs).all() and not torch.equal(first, second)
    assert Pgd(LINF).steps == Steps(10, Fraction(1, 6))  # 0.05 of 0.3


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [("fgsm", 1, Fgsm(LINF)), ("pgd", 10, Pgd(LINF)), ("deepfool", 45, DeepFool(5, 10, 0.02))],
)
def test_attacks_have_the_settings_of_the_code(monkeypatch, name, steps, expected):
    objectives = []
    monkeypatch.setattr(
        methods.Training, "fit", lambda self, model, **s: objectives.append(s["objective"])
    )
    AdversarialGradual(attack=name).compress(untrained(7), task_of())
    assert objectives[1] == Halves(expected, 0.1)
    assert objectives[0].objective == objectives[1]
    assert [objective.attack_steps for objective in objectives] == [steps, steps]


def test_epsilon_is_the_cells_unless_given(monkeypatch):
    objectives = []
    monkeypatch.setattr(
        methods.Training, "fit", lambda self, model, **s: objectives.append(s["objective"])
    )
    chosen = methods.configured("adversarial-gradual:epsilon=0.25")
    chosen.compress(untrained(7), task_of())
    assert objectives[1].attack == Fgsm(LINF.with_epsilon(Fraction(1, 4)))


def test_a_loss_without_a_threat_is_refused():
    task = task_of(prune=training_of(objective=Benign()))
    with pytest.raises(ContractError, match="whose epsilon the attack takes, got Benign"):
        AdversarialGradual().compress(untrained(7), task)
    assert "not benign" in methods.supports(
        AdversarialGradual, "adversarial-gradual", Fraction(1, 2), "unstructured", "benign"
    )


def test_a_method_that_trains_throughout_says_so_and_spends_both_stages():
    task = task_of()
    pruned = methods.compress("adversarial-gradual", AdversarialGradual(), untrained(7), task)
    assert pruned.finetuned
    assert (task.prune.meter.epochs, task.finetune.meter.epochs) == (5, 2)
    assert task.finetune.meter.attack_steps == 1
