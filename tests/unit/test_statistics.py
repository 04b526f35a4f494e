"""Statistics against R, scipy, statsmodels, published values and exact integer arithmetic.

The values of R were computed with R 4.2.2, by the calls beside them.
"""

import math
from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest, kendalltau, norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from benchmark import statistics
from benchmark.errors import ContractError
from benchmark.statistics import (
    Estimate,
    area_under_curve,
    areas_under_curves,
    break_even,
    check_paired,
    clopper_pearson,
    difference_interval,
    holm,
    hull,
    kendall_tau,
    mcnemar_exact,
    mcnemar_pairs,
    rank_intervals,
    ratio_interval,
    seeds_interval,
    upper_bound_of_wrong,
    wilson,
)

# The same examples on every machine, however busy it is.
steady = settings(derandomize=True)

INTERVALS = {"wilson": wilson, "exact": clopper_pearson}


# R: prop.test(k, n, conf.level = c, correct = FALSE)$conf.int; binom.test(k, n, conf.level = c)
@pytest.mark.parametrize(
    ("method", "successes", "trials", "confidence", "low", "high"),
    [
        ("wilson", 81, 263, 0.95, 0.255288519878, 0.366209576983),
        ("wilson", 0, 20, 0.95, 0.0, 0.161125158053),
        ("wilson", 3, 600, 0.9, 0.0019999579436, 0.0124441492139),
        ("wilson", 597, 600, 0.99, 0.980436040338, 0.998736116306),
        ("exact", 81, 263, 0.95, 0.252736745585, 0.367621922601),
        ("exact", 0, 20, 0.95, 0.0, 0.168433470983),
        ("exact", 3, 600, 0.9, 0.00136416444373, 0.01287164894742),
        ("exact", 600, 600, 0.99, 0.991208345665, 1.0),
    ],
)
def test_intervals_of_a_share_match_r(method, successes, trials, confidence, low, high):
    # R's exact limits come from a root search with a tolerance of about 1e-9.
    assert INTERVALS[method](successes, trials, confidence) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("method", "name"), [("wilson", "wilson"), ("exact", "beta")])
def test_intervals_of_a_share_match_statsmodels(method, name):
    for successes, trials, confidence in product((0, 1, 7, 29, 30), (30, 600), (0.5, 0.95, 0.999)):
        expected = proportion_confint(successes, trials, alpha=1 - confidence, method=name)
        found = INTERVALS[method](successes, trials, confidence)
        assert found == pytest.approx(expected, abs=1e-9)


@steady
@given(some.integers(1, 2000), some.data(), some.floats(0.01, 0.99))
def test_intervals_of_a_share_hold_it_and_mirror(trials, data, confidence):
    successes = data.draw(some.integers(0, trials))
    for interval in INTERVALS.values():
        low, high = interval(successes, trials, confidence)
        assert 0 <= low <= successes / trials + 1e-12
        assert successes / trials - 1e-12 <= high <= 1
        mirrored = interval(trials - successes, trials, confidence)
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_the_exact_interval_ends_where_a_tail_is_too_thin():
    """At its ends the outcome, or one further out, has a probability of 2.5 % exactly."""
    low, high = clopper_pearson(7, 30)

    def tail(share, counts):
        return sum(comb(30, k) * share**k * (1 - share) ** (30 - k) for k in counts)

    assert tail(low, range(7, 31)) == pytest.approx(0.025, rel=1e-6)
    assert tail(high, range(8)) == pytest.approx(0.025, rel=1e-6)


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


@pytest.mark.parametrize("interval", INTERVALS.values(), ids=INTERVALS)
@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(interval, successes, trials):
    with pytest.raises(ContractError, match="expected 0 <= successes <= trials"):
        interval(successes, trials)


PAIR = np.array([True, False]), np.array([True, True])
CURVE = np.array([[True, True], [True, False]])
TAKES_CONFIDENCE = {
    "wilson": lambda confidence: wilson(1, 2, confidence),
    "clopper_pearson": lambda confidence: clopper_pearson(1, 2, confidence),
    "difference": lambda confidence: difference_interval(*PAIR, confidence),
    "ranks": lambda confidence: rank_intervals(CURVE, generator(), 10, confidence),
    "seeds": lambda confidence: seeds_interval(CURVE, confidence),
    "area": lambda confidence: area_under_curve([0.0, 0.5], CURVE, confidence),
    "break-even": lambda confidence: break_even([0.0, 0.5], CURVE, 0.9, confidence),
    "audit": lambda confidence: upper_bound_of_wrong(0, 1, 2, confidence),
}


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("function", TAKES_CONFIDENCE.values(), ids=TAKES_CONFIDENCE)
@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_impossible_confidence_is_refused(function, confidence):
    with pytest.raises(ContractError, match="expected a confidence in"):
        function(confidence)


@pytest.mark.parametrize("function", TAKES_CONFIDENCE.values(), ids=TAKES_CONFIDENCE)
def test_possible_confidence_is_not(function):
    function(0.9)


TAKES_MATRIX = {
    "ranks": lambda outcomes: rank_intervals(outcomes, generator(), 10),
    "seeds": seeds_interval,
    "area": lambda outcomes: area_under_curve([0.0, 0.5], outcomes),
    "break-even": lambda outcomes: break_even([0.0, 0.5], outcomes),
}


@pytest.mark.parametrize("function", TAKES_MATRIX.values(), ids=TAKES_MATRIX)
@pytest.mark.parametrize(
    "wrong",
    [
        np.ones((2, 3)),
        np.ones((2, 3), dtype=int),
        np.ones(3, dtype=bool),
        np.ones((2, 3, 1), dtype=bool),
        np.ones((2, 0), dtype=bool),
        np.ones((0, 3), dtype=bool),
    ],
    ids=lambda wrong: f"{wrong.dtype}-{wrong.shape}",
)
def test_anything_but_a_bool_matrix_is_refused(function, wrong):
    with pytest.raises(ContractError, match="expected a bool matrix of outcomes"):
        function(wrong)


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


# R: binom.test(b, b + c)$p.value
@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(9, 1, 0.021484375), (5, 0, 0.0625), (30, 17, 0.0789406936815), (120, 164, 0.010596257574)],
)
def test_mcnemar_matches_r_and_statsmodels(only_first, only_second, p):
    found = mcnemar_exact(*outcomes(only_first, only_second, 50, 40))
    table = [[50, only_first], [only_second, 40]]
    assert found == pytest.approx(p, rel=1e-9)
    assert found == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)


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


@pytest.mark.parametrize("function", [mcnemar_exact, difference_interval])
@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((3, 1), dtype=bool), np.ones(3, dtype=int)])
def test_anything_but_bool_vectors_is_refused(function, wrong):
    with pytest.raises(ContractError, match="expected a bool vector"):
        function(np.ones(3, dtype=bool), wrong)
    with pytest.raises(ContractError, match="expected a bool vector"):
        function(wrong, np.ones(3, dtype=bool))


# R, with z = qnorm(.5 + c/2) and f(d, s) = b - c - n*d - s - s*z*sqrt(n*(2*q + d*(1 - d))), where
# q = (sqrt(B^2 + 8*n*c*d*(1 - d)) - B) / (4*n) and B = (2*n - b + c)*d - b - c:
# uniroot(f, c(-1 + 1e-12, (b - c)/n), s = 1, tol = 1e-13), uniroot(f, c((b - c)/n, 1 - 1e-12), -1)
@pytest.mark.parametrize(
    ("only_first", "only_second", "examples", "confidence", "low", "high"),
    [
        (1, 7, 21, 0.95, -0.5613083581646, 0.0306603462439),
        (40, 20, 160, 0.95, 0.0244702679637, 0.2243497372001),
        (30, 17, 600, 0.95, -0.00249399326984, 0.04713029170045),
        (30, 17, 600, 0.9, 0.00124192622969, 0.04305068861864),
    ],
)
def test_differences_match_r(only_first, only_second, examples, confidence, low, high):
    pair = outcomes(only_first, only_second, examples - only_first - only_second, 0)
    found = difference_interval(*pair, confidence)
    assert found.value == (only_first - only_second) / examples
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


@steady
@given(some.integers(0, 60), some.integers(0, 60), some.integers(0, 400), some.integers(0, 400))
def test_differences_hold_their_value_and_change_sides(only_first, only_second, both, neither):
    if only_first + only_second + both + neither == 0:
        return
    first, second = outcomes(only_first, only_second, both, neither)
    found, swapped = difference_interval(first, second), difference_interval(second, first)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (swapped.low, swapped.high) == (-found.high, -found.low)
    wider = difference_interval(first, second, 0.99)
    assert wider.low <= found.low and found.high <= wider.high


def test_equal_shares_differ_by_something_still():
    """Even without disagreement a few examples leave room for a difference."""
    found = difference_interval(*outcomes(0, 0, 60, 40))
    assert found.value == 0 and found.low == -found.high
    assert 0.03 < found.high < 0.06
    every = difference_interval(*outcomes(100, 0, 0, 0))
    assert every.value == every.high == 1 and 0.9 < every.low < 1


def test_a_difference_leaves_out_zero_only_where_mcnemar_rejects():
    # The fewest examples won by one side, for each number of examples won by the other.
    for only_second in range(60):
        only_first = next(
            count
            for count in range(only_second, only_second + 60)
            if difference_interval(*outcomes(count, only_second, 200, 100)).low > 0
        )
        assert mcnemar_exact(*outcomes(only_first, only_second, 200, 100)) <= 0.05


def test_a_difference_needs_an_example():
    nothing = np.zeros(0, dtype=bool)
    with pytest.raises(ContractError, match="expected at least one example"):
        difference_interval(nothing, nothing)


def test_all_pairs_have_the_p_of_the_exact_test():
    generator = np.random.default_rng(0)
    outcomes = generator.random((5, 300)) < generator.random((5, 1))
    found = mcnemar_pairs(outcomes)
    for first, second in product(range(5), repeat=2):
        assert found[first, second] == mcnemar_exact(outcomes[first], outcomes[second])


def test_a_kept_share_is_a_ratio_within_its_interval():
    places = np.arange(100)
    found = ratio_interval(places < 60, places < 80)
    assert found.value == 0.75
    assert 0.6 < found.low < 0.75 < found.high < 0.9
    # More examples that disagree leave more doubt about the same ratio.
    wider = ratio_interval(places < 60, places >= 20)
    assert wider.value == 0.75 and wider.low < found.low and found.high < wider.high
    more = np.arange(10_000)
    narrow = ratio_interval(more < 6000, more < 8000)
    assert found.low < narrow.low < 0.75 < narrow.high < found.high


def test_a_kept_share_turned_around_is_its_inverse():
    places = np.arange(100)
    first, second = places < 60, (places >= 10) & (places < 95)
    ours, theirs = ratio_interval(first, second), ratio_interval(second, first)
    assert ours.value == pytest.approx(1 / theirs.value)
    assert (ours.low, ours.high) == pytest.approx((1 / theirs.high, 1 / theirs.low))


def test_kept_shares_at_their_ends():
    places = np.arange(10)
    none, some_, every = places < 0, places < 4, places < 10
    assert ratio_interval(none, some_).value == ratio_interval(none, some_).low == 0
    assert all(math.isnan(end) for end in vars(ratio_interval(some_, none)).values())
    same = ratio_interval(every, every)
    assert same.value == 1 and same.low < 1 < same.high


def test_tau_is_that_of_scipy_with_and_without_ties():
    generator = np.random.default_rng(1)
    for _ in range(20):
        first, second = generator.integers(0, 6, (2, 9)).tolist()
        assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second).statistic)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    assert math.isnan(kendall_tau([1, 1], [1, 2]))
    with pytest.raises(ContractError, match="two values a thing"):
        kendall_tau([1], [1, 2])


def test_a_hull_holds_all_intervals_around_the_mean():
    unknown = Estimate(math.nan, math.nan, math.nan)
    assert hull([Estimate(1, 0, 2), unknown, Estimate(4, 3, 7)]) == Estimate(2.5, 0, 7)
    assert math.isnan(hull([unknown]).value)


def test_holm_matches_a_hand_computation():
    """Sorted 0.005·4, 0.01·3, 0.03·2, 0.04·1 = 0.02, 0.03, 0.06, 0.04; then the running maximum."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_holm_matches_an_independent_implementation():
    generator = np.random.default_rng(0)
    for count in (1, 3, 8):
        values = generator.choice([0.0, 0.001, 0.01, 0.02, 0.3, 1.0], size=count)
        expected = multipletests(values, method="holm")[1]
        assert holm(list(values)) == pytest.approx(tuple(expected))


# R: p.adjust(p, "holm")
def test_holm_matches_r():
    found = holm([0.5, 0.001, 0.02, 0.02, 0.9, 0.0004])
    assert found == pytest.approx((1.0, 0.005, 0.08, 0.08, 1.0, 0.0024), rel=1e-12)


@steady
@given(some.lists(some.floats(0, 1), max_size=12))
def test_holm_never_claims_more_than_the_test_itself(p_values):
    adjusted = holm(p_values)
    assert all(p <= value <= 1 for p, value in zip(p_values, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(p_values, kind="stable")] == sorted(adjusted)


def test_holm_stops_at_one_and_keeps_a_single_test():
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([0.04]) == (0.04,)
    assert holm([]) == ()


@pytest.mark.parametrize("wrong", [[0.1, 1.2], [-0.1], [float("nan")]])
def test_holm_refuses_what_is_no_probability(wrong):
    with pytest.raises(ContractError, match="expected p-values"):
        holm(wrong)


def nested(counts, examples):
    """One row a count: the first so many examples are right."""
    return np.arange(examples)[None, :] < np.array(counts)[:, None]


def test_ranks_of_equal_rows_are_all_ranks():
    low, high = rank_intervals(nested([70, 70, 70], 100), generator())
    assert low.tolist() == [1, 1, 1] and high.tolist() == [3, 3, 3]


def test_ranks_of_rows_far_apart_are_single():
    low, high = rank_intervals(nested([900, 500, 700, 100], 1000), generator())
    assert low.tolist() == high.tolist() == [1, 3, 2, 4]


def test_a_tied_pair_shares_the_best_and_the_worst_of_its_ranks():
    low, high = rank_intervals(nested([900, 502, 500, 100], 1000), generator())
    assert low.tolist() == [1, 2, 2, 4] and high.tolist() == [1, 3, 3, 4]


@pytest.mark.parametrize("lead", [1, 2, 3, 4, 5])
def test_a_handful_of_examples_parts_no_ranks(lead):
    """Nor does the exact test: five examples, all won by one side, have p = 0.0625."""
    low, high = rank_intervals(nested([300 + lead, 300], 600), generator())
    assert low.tolist() == [1, 1] and high.tolist() == [2, 2]


def flipped(row, lost, won):
    """A copy that loses the first examples that are right and wins the first that are wrong."""
    other = row.copy()
    other[np.flatnonzero(row)[:lost]] = False
    other[np.flatnonzero(~row)[:won]] = True
    return other


def test_a_rival_that_differs_widely_does_not_hide_a_small_clear_lead():
    """12 examples, all won by one side, are clear even beside a row that differs in 400."""
    first = nested([500], 1000)[0]
    rows = np.stack([first, flipped(first, 12, 0), flipped(first, 200, 200)])
    low, high = rank_intervals(rows, generator())
    assert low[1] == 2 and high[0] == 2


def test_rivals_that_differ_in_one_example_hide_no_clear_lead():
    """Without the two examples added to each scale such rivals would decide the limit."""
    first = nested([300], 600)[0]
    alike = [first ^ (np.arange(600) == place) for place in range(20)]
    rows = np.stack([first, *alike, flipped(first, 64, 38)])
    _, high = rank_intervals(rows, generator())
    assert high[0] == 21


def test_a_single_row_is_first_and_opposite_rows_are_apart():
    low, high = rank_intervals(nested([3], 10), generator())
    assert low.tolist() == high.tolist() == [1]
    low, high = rank_intervals(nested([0, 50], 50), generator())
    assert low.tolist() == high.tolist() == [2, 1]


def test_ranks_are_those_of_a_bootstrap_written_out():
    """The same rule with resamples drawn one by one; only the draws differ."""
    random = generator(3)
    ability, difficulty = np.array([[0.9], [0.7], [0.65], [0.2], [0.1]]), random.random(400)
    rows = ability + 0.3 * random.standard_normal((5, 400)) > difficulty
    right = rows.sum(axis=1)
    drawn = np.array([rows[:, random.integers(400, size=400)].sum(axis=1) for _ in range(2000)])
    for row, (best, worst) in enumerate(zip(*rank_intervals(rows, generator()), strict=True)):
        spreads = [
            math.sqrt((rows[row] ^ other).sum() + 2 - (int(count) - int(right[row])) ** 2 / 402)
            for other, count in zip(rows, right, strict=True)
        ]
        leads = (right - right[row]) / spreads
        widest = np.abs(drawn - drawn[:, [row]] - (right - right[row])) / spreads
        limit = np.quantile(widest.max(axis=1), 0.95)
        # A draw moves the limit by a few per cent; no lead lies that close to it.
        apart = np.abs(leads) - 1 / np.array(spreads)
        assert not ((apart > 0.9 * limit) & (apart < 1.1 * limit)).any()
        assert best == 1 + ((apart > limit) & (leads > 0)).sum()
        assert worst == 5 - ((apart > limit) & (leads < 0)).sum()


@pytest.mark.parametrize("rows", [2, 12], ids=["few patterns", "many patterns"])
def test_resamples_are_draws_with_replacement(rows):
    """Mean N p, variance N p (1 - p), covariance N (p12 - p1 p2), within four deviations."""
    from benchmark.statistics import _resampled

    values = generator(5).random((rows, 300)) < 0.4
    drawn = _resampled(values, generator(6), 4000)
    shares = values.mean(axis=1)
    assert np.abs(drawn.mean(axis=0) - 300 * shares).max() < 4 * math.sqrt(75 / 4000)
    expected = 300 * (values @ values.T.astype(float) / 300 - np.outer(shares, shares))
    assert np.abs(np.cov(drawn.T) - expected).max() < 4 * 75 * math.sqrt(2 / 4000)


def test_ranks_need_a_resample_and_repeat_with_the_generator():
    rows = generator(1).random((4, 200)) < 0.5
    first, second = (rank_intervals(rows, generator(7)) for _ in range(2))
    assert np.array_equal(first, second)
    with pytest.raises(ContractError, match="expected at least one resample"):
        rank_intervals(rows, generator(), 0)


# The mean squares of R: summary(aov(y ~ seed + example)); the interval from them, as in the
# docstring: v1 = ms[1]/30, v2 = (ms[2] - ms[3])/30, n = p*(1 - p)/(v1 + v2),
# w = (qt(.975, 2)^2*v1 + qnorm(.975)^2*v2) / (v1 + v2) / n,
# (p + w/2 + c(-1, 1)*sqrt(w*p*(1 - p) + w^2/4)) / (1 + w)
def test_seeds_match_r():
    rows = np.array(
        [
            [1, 1, 1, 0, 1, 0, 1, 1, 0, 1],
            [1, 0, 1, 0, 1, 0, 1, 1, 1, 1],
            [1, 1, 0, 0, 0, 0, 1, 1, 0, 1],
        ],
        dtype=bool,
    )
    found = seeds_interval(rows)
    assert (found.seeds, found.covers) == (3, "seeds and examples")
    assert found.mean == pytest.approx(0.633333333333, abs=1e-12)
    assert found.spread == pytest.approx(0.115470053838, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((0.296427063747, 0.876257560589), abs=1e-11)


def test_one_seed_says_that_it_speaks_of_examples_alone():
    found = seeds_interval(nested([37], 100))
    assert found.covers == "examples" and found.seeds == 1
    assert found.mean == 0.37 and math.isnan(found.spread)
    assert (found.low, found.high) == pytest.approx(wilson(37, 100), abs=1e-12)


def test_seeds_that_agree_everywhere_count_as_one():
    """N - 1 in place of N: the variance is estimated, not known."""
    found = seeds_interval(nested([37, 37, 37], 100))
    assert found.spread == 0
    low, high = seeds_interval(nested([37], 100)).low, seeds_interval(nested([37], 100)).high
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)


def test_seeds_that_differ_widen_the_interval():
    alike, apart = (
        seeds_interval(nested([60, 61, 59], 100)),
        seeds_interval(nested([80, 60, 40], 100)),
    )
    assert alike.mean == apart.mean
    assert apart.high - apart.low > 2 * (alike.high - alike.low)


@pytest.mark.parametrize("count", [0, 100])
def test_seeds_at_the_border_have_the_interval_of_a_share(count):
    found = seeds_interval(nested([count, count], 100))
    assert (found.low, found.high) == pytest.approx(wilson(count, 100), abs=1e-12)


def test_seeds_on_disjoint_examples_are_no_more_than_independent():
    """The estimated variance is zero here; S N independent draws are the least that is claimed."""
    rows = np.array([[True, False] * 50, [False, True] * 50])
    found = seeds_interval(rows)
    assert (found.low, found.high) == pytest.approx(wilson(100, 200), abs=1e-12)
    assert seeds_interval(np.array([[True], [False]])).mean == 0.5


MATRICES = arrays(bool, some.tuples(some.integers(1, 5), some.integers(1, 40)))


@steady
@given(MATRICES, some.randoms())
def test_seeds_hold_the_mean_whatever_the_order(rows, random):
    found = seeds_interval(rows)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    order, columns = list(range(len(rows))), list(range(rows.shape[1]))
    random.shuffle(order)
    random.shuffle(columns)
    again = seeds_interval(rows[order][:, columns])
    assert (again.low, again.high) == pytest.approx((found.low, found.high), abs=1e-9)


LEVELS = [0.0, 0.5, 0.75, 0.9]


def test_area_of_a_known_polygon():
    """(0.9 + 0.7)/2 · 0.5 + (0.7 + 0.5)/2 · 0.25 + (0.5 + 0.1)/2 · 0.15 = 0.595, over 0.9."""
    found = area_under_curve(LEVELS, nested([90, 70, 50, 10], 100))
    assert found.value == pytest.approx(0.595 / 0.9, abs=1e-12)
    assert found.value == pytest.approx(np.trapezoid([0.9, 0.7, 0.5, 0.1], LEVELS) / 0.9, abs=1e-12)


def test_area_of_a_flat_curve_is_its_accuracy_with_the_interval_of_a_share():
    found = area_under_curve([0.5, 0.6, 0.9], np.repeat(nested([37], 400), 3, axis=0))
    assert found.value == pytest.approx(0.0925, abs=1e-12)
    assert (found.low, found.high) == pytest.approx(wilson(37, 400), abs=2e-4)


@pytest.mark.parametrize("count", [0, 50])
def test_area_at_the_border_has_the_interval_of_a_share(count):
    found = area_under_curve(LEVELS, nested([count] * 4, 50))
    assert found.value == count / 50
    assert (found.low, found.high) == pytest.approx(wilson(count, 50), abs=1e-12)


def test_area_is_paired_over_the_levels():
    """The same accuracies on the same examples leave more doubt than on others."""
    same, other = nested([50, 50], 100), np.stack([nested([50], 100)[0], ~nested([50], 100)[0]])
    widths = [area_under_curve([0.0, 0.9], rows) for rows in (same, other)]
    assert widths[0].value == widths[1].value == 0.5
    assert widths[0].high - widths[0].low > 2 * (widths[1].high - widths[1].low)


# Accuracies 0.8, 0.76, 0.6, 0.4 and the sparsity at which a share of 0.8 is lost, by hand.
@pytest.mark.parametrize(
    ("kept", "sparsity"),
    [
        (1.0, 0.0),
        (0.95, 0.5),
        (0.9, 0.5 + 0.25 * (0.76 - 0.72) / (0.76 - 0.6)),
        (0.75, 0.75),
        (0.6, 0.75 + 0.15 * (0.6 - 0.48) / (0.6 - 0.4)),
        (0.5, 0.9),
        (0.3, 0.9),
    ],
)
def test_break_even_of_a_known_polygon(kept, sparsity):
    found = break_even(LEVELS, nested([80, 76, 60, 40], 100), kept)
    assert found.value == pytest.approx(sparsity, abs=1e-9)
    assert 0 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 0.9


def test_break_even_takes_the_first_fall():
    """0.7 < 0.9 · 0.8 at 50 %: that it is 0.8 again at 75 % does not count."""
    found = break_even(LEVELS, nested([80, 70, 80, 10], 100))
    assert found.value == pytest.approx(0.5 * 0.08 / 0.1, abs=1e-12)


def test_break_even_of_a_network_that_never_falls_is_the_last_level():
    found = break_even(LEVELS, nested([80, 80, 85, 80], 100))
    assert found.value == found.high == 0.9
    # Not a single example was lost, but 100 examples do not prove that none would be.
    assert 0.5 < found.low <= 0.9
    more = break_even(LEVELS, nested([8000, 8000, 8500, 8000], 10_000))
    assert more.low == more.value == 0.9


def test_break_even_of_a_dense_network_that_gets_nothing_right_is_unknown():
    found = break_even(LEVELS, nested([0, 1, 1, 0], 10))
    assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)


@steady
@given(arrays(bool, some.tuples(some.just(4), some.integers(1, 30))), some.floats(0.1, 1.0))
def test_break_even_is_the_first_fall_on_a_fine_grid(rows, kept):
    found = break_even(LEVELS, rows, kept)
    if not rows[0].any():
        assert math.isnan(found.value)
        return
    examples = rows.shape[1]
    added = np.array([[0, 1], [1, 0], [1, 0], [1, 0]])
    surplus = np.concatenate([rows, added], axis=1) - kept * np.append(rows[0], [0, 1])
    sparsities = np.linspace(0, 0.9, 3601)
    weights = np.array([np.interp(sparsities, LEVELS, row) for row in np.eye(4)]).T
    mean = weights @ surplus[:, :examples].mean(axis=1)
    deviation = np.std(weights @ surplus, axis=1, ddof=1) / math.sqrt(examples)
    for end, sign in ((found.low, -1), (found.value, 0), (found.high, 1)):
        limit = mean + sign * norm.ppf(0.975) * deviation
        # The grid may miss a dip shallower or shorter than its step; the ends then differ, but
        # the limit touches zero at both of them.
        fallen = sparsities[limit < -1e-9]
        if len(fallen) and fallen[0] < end:
            raise AssertionError(f"{end} lies above a fall at {fallen[0]}")
        near = np.interp(end, sparsities, limit)
        assert near == pytest.approx(0, abs=2e-3) or end in (0.0, 0.9)


@steady
@given(arrays(bool, some.tuples(some.just(4), some.integers(1, 60))))
def test_areas_and_break_evens_hold_their_values(rows):
    area, kept = area_under_curve(LEVELS, rows), break_even(LEVELS, rows)
    assert 0 <= area.low <= area.value <= area.high <= 1
    assert math.isnan(kept.value) or 0 <= kept.low <= kept.value <= kept.high <= 0.9
    shuffled = rows[:, generator().permutation(rows.shape[1])]
    assert area_under_curve(LEVELS, shuffled).low == pytest.approx(area.low, abs=1e-9)


@pytest.mark.parametrize(
    "sparsities",
    [[0.0], [0.0, 0.5, 0.9], [0.5, 0.0], [0.5, 0.5], [-0.1, 0.5], [0.0, 1.1], [0.0, math.nan]],
    ids=str,
)
def test_sparsities_that_are_no_curve_are_refused(sparsities):
    for function in (area_under_curve, break_even):
        with pytest.raises(ContractError, match="expected two or more ascending sparsities"):
            function(sparsities, CURVE)


@pytest.mark.parametrize("kept", [0.0, -0.5, 1.1, math.nan])
def test_a_share_to_keep_that_is_none_is_refused(kept):
    with pytest.raises(ContractError, match="expected a share to keep in"):
        break_even([0.0, 0.5], CURVE, kept)


# R: K <- x:(N - m + x); max(K[phyper(x, K, N - K, m) > 1 - c])
@pytest.mark.parametrize(
    ("found", "sampled", "population", "confidence", "bound"),
    [
        (0, 60, 600, 0.95, 27),
        (2, 60, 600, 0.95, 58),
        (1, 150, 600, 0.99, 23),
        (0, 600, 600, 0.95, 0),
        (7, 1000, 10_000, 0.95, 127),
    ],
)
def test_the_bound_of_an_audit_matches_r(found, sampled, population, confidence, bound):
    assert upper_bound_of_wrong(found, sampled, population, confidence) == bound


def exact_bound(found, sampled, population, confidence):
    """The hypergeometric tail in integers, for every number of wrong outcomes there may be."""

    def tail(wrong):
        ways = sum(comb(wrong, k) * comb(population - wrong, sampled - k) for k in range(found + 1))
        return Fraction(ways, comb(population, sampled))

    possible = range(found, population - sampled + found + 1)
    return max(wrong for wrong in possible if tail(wrong) > 1 - confidence)


# No 1/2: a symmetric sample then has a tail of exactly that, and rounding would decide.
@pytest.mark.parametrize("confidence", [Fraction(11, 20), Fraction(95, 100), Fraction(99, 100)])
def test_the_bound_of_an_audit_matches_integer_arithmetic(confidence):
    for population in (1, 2, 9, 24):
        for sampled in range(population + 1):
            for found in range(sampled + 1):
                expected = exact_bound(found, sampled, population, confidence)
                bound = upper_bound_of_wrong(found, sampled, population, float(confidence))
                assert bound == expected, (found, sampled, population)


@pytest.mark.parametrize("counts", [(-1, 5, 9), (6, 5, 9), (1, 10, 9), (0, 0, 0)])
def test_an_audit_of_impossible_counts_is_refused(counts):
    with pytest.raises(ContractError, match="expected 0 <= found <= sampled <= population"):
        upper_bound_of_wrong(*counts)


def test_the_same_examples_in_the_same_order_are_paired():
    check_paired(np.array([4, 1, 7]), np.array([4, 1, 7], dtype=np.int32))
    check_paired(np.zeros(0, dtype=int), np.zeros(0, dtype=int))


@pytest.mark.parametrize(
    ("other", "differ"),
    [([4, 7, 1], "2 of 3"), ([4, 1], "1 of 3"), ([4, 1, 7, 9, 2], "2 of 5"), ([5], "3 of 3")],
)
def test_other_examples_are_refused_with_their_number(other, differ):
    with pytest.raises(ContractError, match=f"on the same examples .*, got {differ} that differ"):
        check_paired(np.array([4, 1, 7]), np.array(other))


@pytest.mark.parametrize(
    "wrong", [np.array([4.0, 1.0]), np.array([[4, 1]]), np.ones(2, dtype=bool)]
)
def test_anything_but_a_vector_of_indices_is_refused(wrong):
    with pytest.raises(ContractError, match="expected a vector of example indices"):
        check_paired(np.array([4, 1]), wrong)


def slow_rank_intervals(outcomes, generator, resamples, confidence):
    """The definition, one row and one comparison after the other."""
    rows, examples = outcomes.shape
    right = outcomes.sum(axis=1)
    shifts = statistics._resampled(outcomes, generator, resamples) - right
    found = []
    for row in range(rows):
        lead = (right - right[row]).astype(float)
        unlike = (outcomes != outcomes[row]).sum(axis=1)
        scale = np.sqrt(unlike + 2 - lead**2 / (examples + 2))
        farthest = (np.abs(shifts - shifts[:, [row]]) / scale).max(axis=1)
        limit = scale * np.quantile(farthest, confidence, method="higher")
        clear = np.abs(lead) - 1 > limit + 1e-6
        found.append((1 + (clear & (lead > 0)).sum(), rows - (clear & (lead < 0)).sum()))
    return found


@pytest.mark.parametrize(
    ("rows", "examples", "resamples", "confidence"),
    [
        (1, 5, 10, 0.9),
        (2, 7, 3, 0.5),
        (30, 200, 777, 0.8),
        (60, 300, 400, 0.95),
        (4, 10, 50, 0.999),
    ],
)
def test_fast_rank_intervals_are_those_of_the_definition(rows, examples, resamples, confidence):
    draw = np.random.default_rng(rows)
    hard = draw.standard_normal(examples) + 0.3 * draw.standard_normal((rows, examples))
    outcomes = hard < draw.random(rows)[:, None]
    low, high = statistics.rank_intervals(outcomes, np.random.default_rng(1), resamples, confidence)
    slow = slow_rank_intervals(outcomes, np.random.default_rng(1), resamples, confidence)
    assert list(zip(low, high, strict=True)) == slow


def test_closed_forms_agree_with_scipys_tests():
    for trials in (1, 2, 7, 250, 1000):
        for successes in {0, 1, trials // 3, trials // 2, trials - 1, trials}:
            test = binomtest(successes, trials)
            for ours, method in (
                (statistics.wilson, "wilson"),
                (statistics.clopper_pearson, "exact"),
            ):
                theirs = test.proportion_ci(0.95, method=method)
                assert ours(successes, trials) == pytest.approx(
                    (theirs.low, theirs.high), abs=1e-11
                )
            first = np.arange(trials) < successes
            assert statistics.mcnemar_exact(first, ~first) == pytest.approx(test.pvalue, rel=1e-11)


def test_quantiles_of_farthest_shifts_are_exact_where_many_lie_close():
    """Shifts a hundred-thousandth apart: single precision puts them on either side of the rim."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        scale, largest = generator.uniform(10, 20), generator.uniform(20, 40)
        apart = 1e-5 * (1 + generator.uniform(-3e-3, 3e-3))
        shifts = np.zeros((4, 2))
        shifts[:, 1] = largest * (1 - np.array([0, apart, 0.1, 0.2]))
        scales = np.array([[1.0, scale], [scale, 1.0]])
        for confidence in (0.5, 0.9):
            place = int(np.ceil(confidence * 3))
            wanted = np.sort(shifts[:, 1] / scale)[place]
            found = statistics._farthest(shifts, scales, confidence)
            assert np.allclose(found, wanted, rtol=1e-12, atol=0)


@given(
    some.lists(some.integers(0, 1000), min_size=2, max_size=5, unique=True),
    some.integers(1, 12),
    some.integers(1, 4),
    some.randoms(use_true_random=False),
)
def test_areas_are_those_of_numpys_trapezoid_and_of_each_curve_alone(levels, examples, count, draw):
    sparsities = [level / 1000 for level in sorted(levels)]
    shape = (count, len(sparsities), examples)
    outcomes = np.array([draw.random() < 0.5 for _ in range(np.prod(shape))]).reshape(shape)
    found = areas_under_curves(sparsities, outcomes)
    for area, curve in zip(found, outcomes, strict=True):
        assert area == area_under_curve(sparsities, curve)
        expected = np.trapezoid(curve.mean(axis=1), sparsities) / (sparsities[-1] - sparsities[0])
        assert area.value == pytest.approx(expected, abs=1e-12)
        # A hair of rounding beside a share of 0 or 1.
        assert -1e-12 <= area.low <= area.value + 1e-12 and area.value <= area.high + 1e-12
