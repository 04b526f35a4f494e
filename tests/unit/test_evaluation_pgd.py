"""The PGD evaluation on a network with a known radius, and on digits."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from test_attacks import linear_problem
from tiny import LINF, digits, rng, trained

from benchmark.attacks import Steps
from benchmark.errors import ContractError
from benchmark.evaluations import Examples, Pgd, run_evaluation
from benchmark.threat import ThreatModel

STEPS = Steps(20, Fraction(1, 5))
THREAT = ThreatModel("Linf", Fraction(1, 8))


def problem(norm="Linf"):
    model, inputs, labels, radii = linear_problem(norm)
    labels = labels.clone()
    labels[::5] = 1 - labels[::5]  # misclassified unmodified
    return model, Examples(inputs, labels, torch.arange(len(labels)), 2), radii


def measure(model, examples, settings, threat=THREAT, seed=0):
    return run_evaluation(
        model, examples, name="pgd", settings=settings, threat=threat, seed=("test", seed)
    ).result


def test_columns_follow_the_radius_at_every_epsilon():
    model, examples, radii = problem()
    epsilons = (Fraction(1, 20), Fraction(1, 8), Fraction(1, 4))
    result = measure(model, examples, Pgd(STEPS, 1, epsilons))
    assert list(result.columns) == [f"broken_step@{epsilon}" for epsilon in epsilons]
    assert list(result.adversarial) == [f"pgd@{epsilon}" for epsilon in epsilons]
    wrong = np.arange(len(radii)) % 5 == 0
    for epsilon in epsilons:
        column = result.columns[f"broken_step@{epsilon}"]
        assert column.dtype == np.int16
        assert (column[wrong] == -2).all()
        certain = np.abs(radii.numpy() / float(epsilon) - 1) > 1e-4
        expected = (radii < float(epsilon)).numpy()
        assert ((column >= 0) == expected)[certain & ~wrong].all()
        assert (column[~wrong & ~expected & certain] == -1).all()
        positions, inputs = result.adversarial[f"pgd@{epsilon}"]
        assert positions.tolist() == np.flatnonzero(column >= 0).tolist()
        assert inputs.shape == (len(positions), *examples.inputs.shape[1:])
        ball = THREAT.with_epsilon(epsilon)
        assert ball.contains(torch.as_tensor(inputs), examples.inputs[positions]).all()


def test_without_epsilons_the_protocols_own_is_attacked():
    model, examples, _ = problem()
    result = measure(model, examples, Pgd(STEPS, 1))
    assert list(result.columns) == ["broken_step@1/8"]
    explicit = measure(model, examples, Pgd(STEPS, 1, (Fraction(1, 8),)))
    assert np.array_equal(result.columns["broken_step@1/8"], explicit.columns["broken_step@1/8"])


def test_steps_record_how_soon_an_example_fell():
    model, examples, _ = problem()
    slow, fast = (
        measure(model, examples, Pgd(Steps(20, size), 1)).columns["broken_step@1/8"]
        for size in (Fraction(1, 20), Fraction(1, 5))
    )
    # From the same starts, steps of a quarter of the size need at least as many and more in all.
    both = (slow >= 0) & (fast >= 0)
    assert (slow[both] >= fast[both]).all() and slow[both].sum() > 2 * fast[both].sum()
    assert 5 < slow.max() <= 20


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_shard_of_misclassified_examples_is_not_attacked(norm):
    model, examples, _ = problem(norm)
    examples = Examples(
        examples.inputs, 1 - model(examples.inputs).argmax(1), examples.indices, examples.classes
    )
    result = measure(model, examples, Pgd(STEPS, 2), ThreatModel(norm, Fraction(1, 8)))
    assert set(result.columns["broken_step@1/8"].tolist()) == {-2}
    assert len(result.adversarial["pgd@1/8"][0]) == 0


def test_epsilons_do_not_disturb_each_other():
    model, examples = trained(), digits(40)
    settings = Pgd(Steps(3, Fraction(1, 2)), 2, (Fraction(1, 1000), LINF.epsilon))
    other = Pgd(Steps(3, Fraction(1, 2)), 2, (Fraction(1, 2), LINF.epsilon))
    first, second = (measure(model, examples, s, LINF) for s in (settings, other))
    assert np.array_equal(first.columns["broken_step@1/10"], second.columns["broken_step@1/10"])


def test_same_seed_same_outcomes_and_more_restarts_never_lose():
    model, examples = trained(), digits(40)
    once, again = (measure(model, examples, Pgd(STEPS, 1), LINF) for _ in range(2))
    thrice = measure(model, examples, Pgd(STEPS, 3), LINF)
    column = once.columns["broken_step@1/10"]
    assert np.array_equal(column, again.columns["broken_step@1/10"])
    assert np.array_equal(once.adversarial["pgd@1/10"][1], again.adversarial["pgd@1/10"][1])
    assert ((thrice.columns["broken_step@1/10"] >= 0) >= (column >= 0)).all()
    assert 0 < (column >= 0).sum() < len(column)


def test_no_restarts_are_refused():
    model, examples, _ = problem()
    with pytest.raises(ContractError, match="restarts >= 1"):
        Pgd(STEPS, 0).run(model, examples, THREAT, rng())
