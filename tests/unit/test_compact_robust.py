"""Compact and robust: the stages, nested masks, whose objective trains, how epochs are shared."""

import dataclasses
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CPU, LINF, random_split, rng, same_bits, state_of, untrained

import methods
from benchmark.attacks import Steps
from benchmark.errors import ContractError, UnknownName
from benchmark.objectives import Adversarial, Benign
from benchmark.pruning import Mask, check_mask, mask_from_scores, prunable_parameters
from benchmark.training import Run, Stage
from methods.compact_robust import CompactRobust, magnitudes, shares, sparsities

HALF = Fraction(1, 2)
ATTACK = Adversarial(LINF, Steps(2, HALF))
STRUCTURES = CompactRobust.structures


def training_of(epochs=4, objective=ATTACK, **run):
    stage = Stage(epochs=epochs, learning_rate=0.05, batch_size=20)
    return methods.Training(random_split(), objective, stage, Run(CPU, seed=1, **run))


def task_of(sparsity=HALF, structure="unstructured", *, prune=None, finetune=None):
    return methods.Task(
        sparsity, structure, rng(), prune or training_of(), finetune or training_of()
    )


@pytest.fixture
def calls(monkeypatch):
    """Collects what `Training.fit` is called with, and trains all the same."""
    found = []
    fit = methods.Training.fit

    def watch(self, model, *, epochs=None, mask=None, objective=None, stage=None):
        found.append((self.left if epochs is None else epochs, mask, objective or self.objective))
        return fit(self, model, epochs=epochs, mask=mask, objective=objective, stage=stage)

    monkeypatch.setattr(methods.Training, "fit", watch)
    return found


# --- the schedule


def test_stages_have_known_sparsities():
    assert sparsities(Fraction(7, 8), 3) == [HALF, Fraction(3, 4), Fraction(7, 8)]
    assert sparsities(Fraction(99, 100), 2) == [Fraction(9, 10), Fraction(99, 100)]
    assert sparsities(Fraction(1, 3), 1) == [Fraction(1, 3)]
    assert sparsities(Fraction(0), 3) == [Fraction(0)] * 3
    assert sparsities(Fraction(1), 3) == [Fraction(1)] * 3


@given(st.fractions(0, 1), st.integers(1, 40))
def test_stages_only_rise_and_end_where_asked(last, count):
    found = sparsities(last, count)
    assert len(found) == count and found[-1] == last
    assert all(before <= after for before, after in pairwise([Fraction(0), *found]))
    for stage, level in enumerate(found, 1):
        # Each stage keeps the same share of what was left: density^(t / T).
        assert float(level) == pytest.approx(1 - float(1 - last) ** (stage / count), abs=1e-4)


@given(st.integers(0, 200), st.integers(0, 30))
def test_epochs_are_shared_out_evenly(epochs, parts):
    found = shares(epochs, parts)
    assert len(found) == parts
    assert sum(found) == (epochs if parts else 0)
    assert not found or max(found) - min(found) <= 1


@pytest.mark.parametrize(
    ("epochs", "stages", "expected"),
    [(10, 5, [2, 3, 2, 3]), (8, 5, [2, 2, 2, 2]), (1, 5, [1]), (0, 5, []), (4, 2, [4]), (4, 1, [])],
)
def test_all_epochs_lie_between_stages(calls, epochs, stages, expected):
    task = task_of(Fraction(9, 10), prune=training_of(epochs))
    CompactRobust(stages=stages).compress(untrained(), task)
    assert [count for count, _, _ in calls] == expected
    assert (task.prune.meter.epochs, task.finetune.meter.epochs) == (sum(expected), 0)


# --- masks


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("percent", [0, 50, 75, 90, 99, 100])
def test_one_stage_is_layerwise_magnitude(structure, percent):
    task = task_of(Fraction(percent, 100), structure)
    pruned = CompactRobust(stages=1).compress(untrained(), task)
    other = task_of(Fraction(percent, 100), structure)
    expected = methods.configured("lwm-layerwise").compress(untrained(), other)
    assert same_bits(dict(pruned.mask), dict(expected.mask))
    assert same_bits(state_of(pruned.model), state_of(expected.model))
    assert not pruned.finetuned


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("percent", [50, 90, 99])
def test_what_is_removed_stays_removed_and_counts_are_exact(calls, structure, percent):
    sparsity = Fraction(percent, 100)
    model = untrained()
    pruned = CompactRobust().compress(model, task_of(sparsity, structure))
    masks = [mask for _, mask, _ in calls] + [pruned.mask]
    assert len(masks) == 5
    for level, mask in zip(sparsities(sparsity, 5), masks, strict=True):
        check_mask(mask, model, level, "layerwise", structure)
    for before, after in pairwise(masks):
        assert all(not bool((after[name] & ~before[name]).any()) for name in before)
    parameters = prunable_parameters(model)
    assert all(torch.count_nonzero(parameters[n].detach()[~k]) == 0 for n, k in masks[-1].items())


def test_a_kept_zero_goes_after_what_was_removed():
    """Both weigh nothing, and by position alone a removed weight would come back."""
    model = untrained()
    name, weight = "body.5.weight", model.body[5].weight
    gone = torch.zeros(weight.shape, dtype=torch.bool)
    gone[5:] = True
    with torch.no_grad():
        weight.zero_()
    mask = Mask({n: ~gone if n == name else kept for n, kept in Mask.ones(model).items()})
    again = mask_from_scores(magnitudes(model, mask), HALF, "layerwise")
    assert torch.equal(again[name], mask[name])


def test_weights_that_training_sets_to_zero_do_not_bring_others_back(monkeypatch):
    masks = []

    @torch.no_grad()
    def vanish(self, model, *, mask=None, **rest):
        masks.append(mask)
        for weight in prunable_parameters(model).values():
            weight.zero_()

    monkeypatch.setattr(methods.Training, "fit", vanish)
    masks.append(CompactRobust().compress(untrained(), task_of(Fraction(9, 10))).mask)
    for before, after in pairwise(masks):
        assert all(not bool((after[name] & ~before[name]).any()) for name in before)


def test_filters_go_by_their_l1_norm():
    model = untrained()
    with torch.no_grad():
        # Norms 32, 31, 30 ..., and the largest single entry in the filter of smallest norm.
        for i in range(32):
            model.body[2].weight[i] = float(32 - i) / 144
        model.body[2].weight[31] = 0.0
        model.body[2].weight[31, 0, 0, 0] = 0.9
    pruned = CompactRobust(stages=1).compress(model, task_of(Fraction(3, 32), "filter"))
    assert [bool(kept.all()) for kept in pruned.mask["body.2.weight"]] == [True] * 29 + [False] * 3
    assert bool(pruned.mask["body.5.weight"].all())  # its filters are the logits


def test_survivors_train_between_stages():
    trained = CompactRobust().compress(untrained(), task_of(Fraction(9, 10))).mask
    at_once = CompactRobust(stages=1).compress(untrained(), task_of(Fraction(9, 10))).mask
    assert not same_bits(dict(trained), dict(at_once))


# --- objectives


def test_objectives_match_by_default(calls):
    task = task_of(Fraction(9, 10))
    pruned = CompactRobust().compress(untrained(), task)
    assert {objective for _, _, objective in calls} == {ATTACK}
    assert not pruned.finetuned
    assert methods.start_of(CompactRobust()) == methods.PARENT
    assert task.prune.meter.attack_steps == 2


def test_the_mismatch_robust_then_benign(calls):
    task = task_of(Fraction(9, 10), finetune=training_of(3))
    method = methods.configured("compact-robust:retrain=benign")
    pruned = methods.compress("compact-robust", method, untrained(), task)
    assert [(count, objective) for count, _, objective in calls] == [
        *[(1, Benign())] * 4,
        (3, Benign()),
    ]
    assert calls[-1][1] is pruned.mask
    assert pruned.finetuned and methods.start_of(method) == methods.PARENT
    assert task.finetune.meter.attack_steps == 0


def test_the_mismatch_benign_then_robust(calls):
    method = methods.configured("compact-robust:start=benign")
    assert methods.start_of(method) == "benign"
    assert not method.compress(untrained(), task_of()).finetuned
    assert {objective for _, _, objective in calls} == {ATTACK}


def test_settings_without_a_meaning_are_refused():
    with pytest.raises(ContractError, match="stages >= 1"):
        CompactRobust(stages=0)
    with pytest.raises(UnknownName, match="benign"):
        CompactRobust(retrain="bening")


# --- resumption


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_killed_run_continues_to_the_same_bits(tmp_path, after):
    def run(**settings):
        task = task_of(Fraction(9, 10), prune=training_of(6, **settings))
        return CompactRobust(stages=4).compress(untrained(), task)

    reports = []

    def report(done, count, loss):
        reports.append((done, count))
        if len(reports) == after:
            raise Killed

    whole = run()
    path = tmp_path / "run.state"
    with pytest.raises(Killed):
        run(state=path, report=report)
    rest = []
    resumed = run(state=path, report=lambda *entry: rest.append(entry))
    assert len(rest) == 6 - after  # no epoch is done twice
    assert same_bits(state_of(resumed.model), state_of(whole.model))
    assert same_bits(dict(resumed.mask), dict(whole.mask))


def test_stages_of_a_task_are_left_unchanged():
    task = task_of()
    before = dataclasses.replace(task.prune.stage)
    CompactRobust().compress(untrained(), task)
    assert task.prune.stage == before
