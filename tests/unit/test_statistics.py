"""Statistics against published values and exact integer arithmetic."""

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from benchmark.errors import ContractError
from benchmark.statistics import holm, mcnemar_exact, wilson


# Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3
# (Wilson score without continuity correction), printed to four decimals.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_published_intervals(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_wilson_ends_solve_the_score_equation(confidence):
    """Each end p satisfies (k/n - p)^2 = z^2 p (1 - p) / n, which defines the interval."""
    from scipy.stats import norm

    successes, trials = 37, 100
    z = norm.ppf(0.5 + confidence / 2)
    for end in wilson(successes, trials, confidence):
        left, right = (successes / trials - end) ** 2, z * z * end * (1 - end) / trials
        assert left == pytest.approx(right, rel=1e-9)


def test_wilson_stays_in_the_unit_interval_and_mirrors():
    for successes in range(11):
        low, high = wilson(successes, 10)
        assert 0 <= low <= successes / 10 <= high <= 1
        assert wilson(10 - successes, 10) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(successes, trials):
    with pytest.raises(ContractError, match="expected 0 <= successes <= trials"):
        wilson(successes, trials)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_wilson_refuses_impossible_confidence(confidence):
    with pytest.raises(ContractError, match="expected a confidence in"):
        wilson(1, 2, confidence)


def outcomes(only_first, only_second, both, neither):
    pairs = [(True, False)] * only_first + [(False, True)] * only_second
    pairs += [(True, True)] * both + [(False, False)] * neither
    array = np.array(pairs, dtype=bool).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def exact_p(only_first, only_second):
    """Twice the smaller binomial tail at 1/2, in integers."""
    total = only_first + only_second
    tail = sum(comb(total, k) for k in range(min(only_first, only_second) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**total)))


def test_mcnemar_matches_integer_arithmetic():
    for only_first, only_second in product(range(9), repeat=2):
        first, second = outcomes(only_first, only_second, 3, 2)
        expected = exact_p(only_first, only_second)
        assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_known_value():
    """9 against 1 discordant: 2 (1 + 10) / 2^10."""
    assert mcnemar_exact(*outcomes(9, 1, 50, 40)) == pytest.approx(22 / 1024)


def test_mcnemar_ignores_examples_on_which_both_agree():
    assert mcnemar_exact(*outcomes(7, 2, 0, 0)) == mcnemar_exact(*outcomes(7, 2, 500, 100))


def test_mcnemar_without_disagreement_is_one():
    assert mcnemar_exact(*outcomes(0, 0, 5, 5)) == 1.0
    assert mcnemar_exact(*outcomes(0, 0, 0, 0)) == 1.0


def test_mcnemar_refuses_outcomes_that_are_not_paired():
    with pytest.raises(ContractError, match="on the same examples, got 3 and 4"):
        mcnemar_exact(np.ones(3, dtype=bool), np.ones(4, dtype=bool))


@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((3, 1), dtype=bool), np.ones(3, dtype=int)])
def test_mcnemar_refuses_anything_but_bool_vectors(wrong):
    with pytest.raises(ContractError, match="expected a bool vector"):
        mcnemar_exact(np.ones(3, dtype=bool), wrong)


def test_holm_matches_a_hand_computation():
    """Sorted 0.005·4, 0.01·3, 0.03·2, 0.04·1 = 0.02, 0.03, 0.06, 0.04; then the running maximum."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_holm_matches_an_independent_implementation():
    generator = np.random.default_rng(0)
    for count in (1, 3, 8):
        values = generator.choice([0.0, 0.001, 0.01, 0.02, 0.3, 1.0], size=count)
        expected = multipletests(values, method="holm")[1]
        assert holm(list(values)) == pytest.approx(tuple(expected))


def test_holm_stops_at_one_and_keeps_a_single_test():
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([0.04]) == (0.04,)
    assert holm([]) == ()


@pytest.mark.parametrize("wrong", [[0.1, 1.2], [-0.1], [float("nan")]])
def test_holm_refuses_what_is_no_probability(wrong):
    with pytest.raises(ContractError, match="expected p-values"):
        holm(wrong)
