"""The contract of evaluations, on each of them."""

import dataclasses
import inspect
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
import torch
from tiny import LINF, digits, rng, same_bits, state_of, trained, untouched, untrained

from benchmark import evaluations
from benchmark.attacks import Steps
from benchmark.digests import digest_of
from benchmark.evaluations import (
    AutoAttack,
    Bounds,
    CarliniWagner,
    Clean,
    Fgsm,
    Iterated,
    Ordered,
    Pgd,
    Sanity,
    Smoothing,
    Sparing,
    Transfer,
    epsilons_of,
    run_evaluation,
)
from benchmark.evaluations.engine import Guard

COUNT = 12
SETTINGS = {
    "clean": Clean(),
    "pgd": Pgd(Steps(4, Fraction(1, 2)), 2),
    "curve": Pgd(Steps(2, Fraction(1, 2)), 1, (Fraction(1, 20), Fraction(1, 5))),
    "fgsm": Fgsm(),
    "cw": CarliniWagner(Steps(4, Fraction(1, 2)), 2),
    "autoattack": AutoAttack(iterations=3, queries=10, targets=2),
    "bounds": Bounds(methods=("ibp", "crown"), epsilons=(Fraction(1, 50),), crown_max_units=20_000),
    "ibp": Bounds(methods=("ibp",), epsilons=(Fraction(1, 50),), crown_max_units=20_000),
    "smoothing": Smoothing(sigma=0.25, n0=10, n=100, alpha=0.01, batch=64, examples=COUNT),
    "sanity": Sanity(draws=4, planted_examples=3),
    "transfer": Transfer(Steps(3, Fraction(1, 2))),
}
OVER_ALL = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


@lru_cache(maxsize=1)
def shard():
    examples = digits(COUNT)
    known = (examples.inputs[:4].clone(), examples.labels[:4].clone())
    return dataclasses.replace(examples, parent=untrained(), training=known)


def measure(settings, seed=0):
    return run_evaluation(
        trained(), shard(), name="it", settings=settings, threat=LINF, seed=("contract", seed)
    )


def test_every_evaluation_is_here():
    kinds = {
        value
        for _, value in inspect.getmembers(evaluations, inspect.isclass)
        if hasattr(value, "kind") and value is not evaluations.Settings
    }
    assert {type(settings) for settings in SETTINGS.values()} == kinds
    assert len({kind.kind for kind in kinds}) == len(kinds)


@OVER_ALL
def test_columns_have_one_value_an_example(settings):
    result = measure(settings).result
    assert result.columns
    for name, values in result.columns.items():
        assert isinstance(values, np.ndarray) and values.shape == (COUNT,), name
        assert values.dtype.kind in "bif", name
        assert "." not in name  # the engine's separator
    for positions, inputs in result.adversarial.values():
        assert inputs.shape == (len(positions), 1, 8, 8)
    assert all(0 <= flag.rate <= 1 and flag.detail for flag in result.flags)


@OVER_ALL
def test_same_seed_same_bits(settings):
    first, second = measure(settings), measure(settings)
    assert first.result.columns.keys() == second.result.columns.keys()
    for name, values in first.result.columns.items():
        assert values.tobytes() == second.result.columns[name].tobytes(), name
    for attack, (positions, inputs) in first.result.adversarial.items():
        assert positions.tolist() == second.result.adversarial[attack][0].tolist()
        assert inputs.tobytes() == second.result.adversarial[attack][1].tobytes()
    assert first.result.flags == second.result.flags
    assert (first.forwards, first.backwards) == (second.forwards, second.backwards)


@OVER_ALL
def test_what_it_is_given_stays_as_it_was(settings, capsys):
    guard = Guard(trained(), 10)
    examples = shard()
    parent = state_of(examples.parent)
    training = [tensor.clone() for tensor in examples.training]
    before = {f.name: getattr(examples, f.name) for f in dataclasses.fields(examples)}
    copies = {k: v.clone() for k, v in before.items() if isinstance(v, torch.Tensor)}
    with untouched(guard):
        settings.run(guard, examples, LINF, rng())
    for name, tensor in copies.items():
        assert torch.equal(tensor, before[name]), name
    assert all(map(torch.equal, training, examples.training))
    assert same_bits(parent, state_of(examples.parent))
    assert not guard._forward_hooks and not guard.network._forward_hooks
    assert same_bits(state_of(guard.network), state_of(trained()))
    assert torch.is_grad_enabled()
    assert capsys.readouterr() == ("", "")


@OVER_ALL
def test_the_engine_leaves_the_network_alone(settings):
    model = trained().train()
    with untouched(model):
        run_evaluation(model, shard(), name="it", settings=settings, threat=LINF, seed=(0,))


@OVER_ALL
def test_settings_are_frozen_and_have_a_digest(settings):
    assert type(settings).__dataclass_params__.frozen
    assert len(digest_of(settings)) == 64
    assert inspect.getdoc(settings)


def test_different_settings_have_different_digests():
    assert len({digest_of(settings) for settings in SETTINGS.values()}) == len(SETTINGS)


def test_cheap_attacks_take_no_account_of_what_is_proven():
    # What spares the proven, and what attacks them because nothing else does.
    everything = {LINF.epsilon: torch.ones(COUNT, dtype=torch.bool)}
    proven = dataclasses.replace(shard(), proven=everything)
    spared = {}
    for name in ("pgd", "fgsm", "cw", "autoattack", "sanity", "transfer"):
        settings = SETTINGS[name]
        result = run_evaluation(
            trained(), proven, name="it", settings=settings, threat=LINF, seed=("contract", 0)
        ).result
        columns = [v for n, v in result.columns.items() if n.startswith("broken_")]
        spared[name] = any((values == -3).any() for values in columns)
    assert spared == {
        **dict.fromkeys(("pgd", "fgsm", "cw", "autoattack"), True),
        **dict.fromkeys(("sanity", "transfer"), False),
    }
    # The families say the same.
    assert {isinstance(SETTINGS[name], Sparing) == spares for name, spares in spared.items()} == {
        True
    }


@OVER_ALL
def test_families_know_the_columns(settings):
    columns = [name for name in measure(settings).result.columns if name.startswith("broken_")]
    steps = [name for name in columns if name.startswith("broken_step@")]
    assert bool(steps) == isinstance(settings, Iterated)
    assert (columns == ["broken_by"]) == isinstance(settings, Ordered)
    if isinstance(settings, Iterated):
        assert steps == [f"broken_step@{epsilon}" for epsilon in epsilons_of(settings, LINF)]
    assert bool(columns) == isinstance(settings, Iterated | Ordered)


@pytest.mark.parametrize("name", ["pgd", "cw", "sanity", "smoothing", "transfer"])
def test_what_is_drawn_comes_from_the_seed(name):
    # In a ball so large that something is found in it.
    wide = LINF.with_epsilon(Fraction(1, 2))
    first, other = (
        run_evaluation(
            trained(),
            shard(),
            name="it",
            settings=SETTINGS[name],
            threat=wide,
            seed=("contract", seed),
        ).result
        for seed in (0, 1)
    )
    if name == "smoothing":
        assert not np.array_equal(first.columns["count"], other.columns["count"])
    else:
        assert any(
            first.adversarial[a][1].tobytes() != other.adversarial[a][1].tobytes()
            for a in first.adversarial
        )
