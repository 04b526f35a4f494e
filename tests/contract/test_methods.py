"""Registered means tested: the contract, on every method, structure and sparsity of the grid."""

from fractions import Fraction
from functools import lru_cache

import pytest
import torch
from tiny import CPU, LINF, random_split, rng, same_bits, state_of, untrained

import methods
from benchmark.attacks import Steps
from benchmark.contract import CHECKS, Subject, ask
from benchmark.contract.cell import cases
from benchmark.objectives import Adversarial
from benchmark.protocols import PROTOCOLS
from benchmark.pruning import prunable_parameters
from benchmark.training import Run, Stage

# Every method; the sanity controls stand for themselves over two parents, one of each scope.
PARENTS = ("lwm-layerwise", "lwm-global")
TESTED = [n for n in methods.names() if methods.controls().get(n, PARENTS[0]) in PARENTS]

# A second process is started by `examined` alone (tests/unit/test_checking.py). What works under
# each objective, and after training, is run by tests/unit/test_handbook.py and below.
HERE = [name for name in CHECKS if name not in ("processes", "objectives", "dry run")]


@lru_cache(maxsize=1)
def subject_of(name):
    """Returns a method with what is known of it, which all its checks share."""
    return Subject(name)


@pytest.mark.parametrize("name", TESTED)
def test_a_method_keeps_its_contract(name):
    answers = {check: ask(subject_of(name), check) for check in HERE}
    broken = {check: answer.problems for check, answer in answers.items() if answer.problems}
    assert broken == {}
    assert [check for check, answer in answers.items() if answer.skipped] == []


@pytest.mark.parametrize("name", TESTED)
def test_a_method_is_examined_at_every_level_of_every_claimed_structure(name):
    kind = methods.method(name)
    grid = {
        "unstructured": (0, 50, 75, 90, 95, 99),
        "filter": (0, 50, 75, 90),
        "channel": (0, 50, 75, 90),
    }
    expected = {
        (structure, Fraction(percent, 100))
        for structure in kind.structures
        for percent in grid[structure]
        if Fraction(percent, 100) <= kind.largest_sparsity
    }
    assert {(c.structure, c.sparsity) for c in cases(kind) if not c.tied} == expected
    assert {c.structure for c in cases(kind) if c.tied} == set(kind.structures)
    published = PROTOCOLS["digits-linf"]
    assert {s for _, s in expected} <= {*published.unstructured, *published.structured}


def test_a_dry_run_tells_accuracies():
    assert "clean accuracy" in ask(Subject("random"), "dry run").detail


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
