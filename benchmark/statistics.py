"""Statistics of the board: intervals, paired tests, ranks and curves, all from outcomes by example.

Pure functions over counts and per-example outcomes; the binomial numerics are scipy's, randomness
comes from a passed generator. `docs/statistics.md` argues each choice and holds the coverages that
a simulation measures.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtr, betainccinv, betaincinv, ndtri, stdtrit
from scipy.stats import hypergeom

from benchmark.errors import ContractError

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# The ends of a 95 % interval then differ between draws by 3 % of its half-width (one deviation).
RESAMPLES = 2000

# Resamples drawn at a time, so that 10,000 examples take 20 MB and not 160.
_BLOCK = 250

# A board of thousands of rows asks for the same few thousand counts again and again.
_REMEMBERED = 1 << 16

# Entries of a matrix that stays in the caches while it is worked on.
_CACHED = 1 << 19


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its confidence interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedsInterval:
    """The accuracy of a setting that was trained with several seeds.

    Attributes:
        seeds: number of seeds.
        mean: mean accuracy over the seeds.
        spread: standard deviation of the accuracy over the seeds; NaN for a single one.
        low: lower end of the confidence interval of the mean, in [0, 1].
        high: upper end.
        covers: the sources of variation in the interval, "seeds and examples" or, for a single
            seed, "examples".
    """

    seeds: int
    mean: float
    spread: float
    low: float
    high: float
    covers: str


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval of a share.

    Unlike `share ± z · deviation` it stays in [0, 1] and keeps its coverage near 0 and 1, where the
    accuracies of heavily pruned networks lie. It covers on average over all shares, not for each of
    them; `clopper_pearson` does the latter.

    Args:
        successes: examples counted, in [0, trials].
        trials: examples looked at, at least 1.
        confidence: two-sided coverage in (0, 1).

    Returns:
        Lower and upper end in [0, 1].

    Raises:
        ContractError: counts or confidence outside their ranges.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA
        1927.

    >>> [round(end, 4) for end in wilson(81, 263)]
    [0.2553, 0.3662]
    """
    _check_counts(successes, trials, confidence)
    return _score_interval(successes / trials, trials, float(ndtri(0.5 + confidence / 2)))


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the exact interval of a share: it covers at least as often as promised, always.

    Args:
        successes: examples counted, in [0, trials].
        trials: examples looked at, at least 1.
        confidence: two-sided coverage in (0, 1).

    Returns:
        Lower and upper end in [0, 1].

    Raises:
        ContractError: counts or confidence outside their ranges.

    Source: Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of
        the binomial", Biometrika 1934.

    >>> [round(end, 4) for end in clopper_pearson(0, 20)]
    [0.0, 0.1684]
    """
    return _exact_interval(successes, trials, confidence)


@lru_cache(_REMEMBERED)
def _exact_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    _check_counts(successes, trials, confidence)
    failures, left_out = trials - successes, (1 - confidence) / 2
    # Tails of the binomial in terms of the beta distribution.
    low = betaincinv(successes, failures + 1, left_out) if successes else 0.0
    high = betainccinv(successes + 1, failures, left_out) if failures else 1.0
    return float(low), float(high)


def _check_counts(successes: int, trials: int, confidence: float) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise ContractError(
            f"expected 0 <= successes <= trials and trials >= 1, got {successes} of {trials}"
        )
    _check_confidence(confidence)


def mcnemar_exact(first_correct: Bools, second_correct: Bools) -> float:
    """Returns the two-sided p-value of "both are right equally often" on the same examples.

    Only examples on which the two disagree carry information: under the hypothesis each of them is
    won with probability 1/2.

    Args:
        first_correct: (N,) bool, in the order of the examples.
        second_correct: (N,) bool, in the same order.

    Returns:
        p in (0, 1]; 1 where they never disagree.

    Raises:
        ContractError: not two bool vectors of one length, so the outcomes are not paired.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions",
        Psychometrika 1947, in its exact binomial form.
    """
    only_first, only_second = _discordant(first_correct, second_correct)
    # The binomial of 1/2 is symmetric, so the two-sided test is twice the smaller tail.
    tail = bdtr(min(only_first, only_second), only_first + only_second, 0.5)
    return min(1.0, 2 * float(tail))


def difference_interval(first: Bools, second: Bools, confidence: float = 0.95) -> Estimate:
    """Returns how much larger the first of two shares over the same examples is.

    Tango's score interval with a continuity correction of one example, the one that Edwards gave
    McNemar's test: the interval then covers at least as often as promised, and it leaves out zero
    only where the exact McNemar test rejects.

    Args:
        first: (N,) bool, in the order of the examples, N at least 1.
        second: (N,) bool, in the same order.
        confidence: two-sided coverage in (0, 1).

    Returns:
        Share of the first minus share of the second, with ends in [-1, 1].

    Raises:
        ContractError: not two bool vectors of one length, no example, or no confidence.

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for
        the paired-sample design", Statistics in Medicine 1998; Edwards, "Note on the correction for
        continuity in testing the significance of the difference between correlated proportions",
        Psychometrika 1948.
    """
    only_first, only_second = _discordant(first, second)
    _check_confidence(confidence)
    trials = len(first)
    if trials == 0:
        raise ContractError("expected at least one example, got none; evaluate first")
    quantile = float(ndtri(0.5 + confidence / 2))
    return Estimate(
        (only_first - only_second) / trials,
        _score_low(only_first, only_second, trials, quantile),
        -_score_low(only_second, only_first, trials, quantile),
    )


@lru_cache(_REMEMBERED)
def _score_low(only_first: int, only_second: int, trials: int, quantile: float) -> float:
    """Returns the smallest difference that the score test does not reject."""

    def excess(difference: float) -> float:
        # Tango's restricted estimate of the share that only the second gets right.
        linear = (2 * trials - only_first + only_second) * difference - only_first - only_second
        constant = -only_second * difference * (1 - difference)
        root = math.sqrt(max(0.0, linear**2 - 8 * trials * constant))
        share = (root - linear) / (4 * trials)
        variance = max(0.0, trials * (2 * share + difference * (1 - difference)))
        observed = only_first - only_second - 1
        return observed - trials * difference - quantile * math.sqrt(variance)

    if excess(-1.0) <= 0:
        return -1.0
    return float(brentq(excess, -1.0, (only_first - only_second) / trials, xtol=1e-12))


def ratio_interval(first: Bools, second: Bools, confidence: float = 0.95) -> Estimate:
    """Returns what share of the second of two accuracies the first one is, over the same examples.

    A hybrid: Wilson's limits of either accuracy, among the examples that one of the two gets right,
    at a quantile that is smaller the more the two agree.

    Args:
        first: (N,) bool, in the order of the examples.
        second: (N,) bool, in the same order.
        confidence: two-sided coverage in (0, 1).

    Returns:
        Share of the first over share of the second; all NaN where the second gets nothing right.

    Raises:
        ContractError: not two bool vectors of one length, or no confidence.

    Source: Bonett & Price, "Confidence intervals for a ratio of binomial proportions based on
        paired data", Statistics in Medicine 2006.
    """
    only_first, only_second = _discordant(first, second)
    _check_confidence(confidence)
    both = int(np.count_nonzero(first & second))
    if both + only_second == 0:
        return Estimate(math.nan, math.nan, math.nan)
    low, high = _ratio_ends(both, only_first, only_second, float(ndtri(0.5 + confidence / 2)))
    return Estimate((both + only_first) / (both + only_second), low, high)


def _ratio_ends(
    both: int, only_first: int, only_second: int, quantile: float
) -> tuple[float, float]:
    ours, theirs, seen = both + only_first, both + only_second, both + only_first + only_second
    parts = [math.sqrt((1 - (n + 1) / (seen + 2)) / (n + 1)) for n in (ours, theirs)]
    apart = math.sqrt((only_first + only_second + 2) / ((ours + 1) * (theirs + 1)))
    adjusted = quantile * apart / sum(parts)
    (low, high), (least, most) = (_score_interval(n / seen, seen, adjusted) for n in (ours, theirs))
    return low / most, high / least if least > 0 else math.inf


def hull(estimates: Iterable[Estimate]) -> Estimate:
    """Returns the mean of the known estimates, between the outermost of their ends.

    If each interval holds its own truth, this one holds the mean of the truths.
    """
    known = [estimate for estimate in estimates if math.isfinite(estimate.value)]
    if not known:
        return Estimate(math.nan, math.nan, math.nan)
    lows, highs = [one.low for one in known], [one.high for one in known]
    return Estimate(fmean(one.value for one in known), min(lows), max(highs))


def mcnemar_pairs(outcomes: Bools) -> Floats:
    """Returns (M, M) the p of `mcnemar_exact` of each row against each other, all at once.

    Args:
        outcomes: (M, N) bool, one row a network, over the same examples in the same order.

    Raises:
        ContractError: no (M, N) bool outcomes.
    """
    _check_matrix(outcomes)
    # Counts up to 2^24 are exact in single precision.
    values = outcomes.astype(np.float32)
    alone = np.rint(values @ (1 - values).T).astype(np.int64)
    tails = bdtr(np.minimum(alone, alone.T), alone + alone.T, 0.5)
    return np.asarray(np.minimum(1.0, 2 * tails))


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns how far two measures order the same things alike: Kendall's tau-b, in [-1, 1].

    Args:
        first: one value a thing.
        second: one value a thing, in the same order.

    Returns:
        1 where the orders are the same, -1 where they are opposite; NaN where a measure has a
        single value for all.

    Raises:
        ContractError: measures of different lengths.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 1945.

    >>> kendall_tau([1, 2, 3], [10, 30, 20])
    0.3333333333333333
    """
    if len(first) != len(second):
        raise ContractError(f"expected two values a thing, got {len(first)} and {len(second)}")
    signs = [np.sign(np.subtract.outer(values, values)) for values in (first, second)]
    untied = [float(np.abs(sign).sum()) for sign in signs]
    if 0 in untied:
        return math.nan
    return float((signs[0] * signs[1]).sum()) / math.sqrt(untied[0] * untied[1])


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Returns the p-values adjusted so that the chance of any false claim among them is bounded.

    Args:
        p_values: one p a test, each in [0, 1].

    Returns:
        Adjusted p-values in the same order.

    Raises:
        ContractError: a value that is no probability.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    if not all(0 <= value <= 1 for value in p_values):
        raise ContractError(f"expected p-values in [0, 1], got {list(p_values)}")
    # The statsmodels function collects garbage at each call, which costs a board 0.1 s a cell.
    order = sorted(range(len(p_values)), key=lambda position: p_values[position])
    adjusted, highest = [1.0] * len(p_values), 0.0
    for done, position in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[position]))
        adjusted[position] = highest
    return tuple(adjusted)


def rank_intervals(
    outcomes: Bools,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> tuple[Integers, Integers]:
    """Returns the best and the worst rank that each row may deserve, by paired bootstrap.

    A row's interval counts the rows that are clearly better and those that are clearly worse:
    apart by more than the largest studentised difference that resampling the examples makes from
    this row to any other, less one example for continuity. Rows that are tied therefore hand each
    other the best and the worst of their ranks. The percentiles of the ranks in the resamples,
    the obvious alternative, do not cover where rows lie close together.

    Args:
        outcomes: (M, N) bool, one row a network, over the same examples in the same order.
        generator: of the resamples.
        resamples: number of times that N examples are drawn with replacement.
        confidence: coverage for each row by itself, in (0, 1).

    Returns:
        Lowest (best) and highest (worst) rank, each (M,) in 1 … M.

    Raises:
        ContractError: no (M, N) bool outcomes, no resample or no confidence.

    Source: Mogstad, Romano, Shaikh & Wilhelm, "Inference for ranks with applications to mobility
        across neighbourhoods and academic achievement across countries", Review of Economic
        Studies 2024: marginal confidence sets from simultaneous ones for the differences.
    """
    _check_matrix(outcomes)
    _check_confidence(confidence)
    rows, examples = outcomes.shape
    values = outcomes.astype(np.float64)
    right = values.sum(axis=1)
    shifts = _resampled(outcomes, generator, resamples) - right
    discordant = right[:, None] + right[None, :] - 2 * values @ values.T
    low, high = np.ones(rows, dtype=np.int64), np.full(rows, rows, dtype=np.int64)
    # One more example won by either side (Bonett & Price 2012), so that no scale is zero.
    leads = right - right[:, None]
    scales = np.sqrt(discordant + 2 - leads**2 / (examples + 2))
    quantiles = _farthest(shifts, scales, confidence)
    for row in range(rows):
        lead, limit = leads[row], scales[row] * quantiles[row]
        # Counts: a lead that only rounding puts above the limit lies on it.
        clear = np.abs(lead) - 1 > limit + 1e-6
        low[row] += np.count_nonzero(clear & (lead > 0))
        high[row] -= np.count_nonzero(clear & (lead < 0))
    return low, high


def _farthest(shifts: Floats, scales: Floats, confidence: float) -> Floats:
    """Returns for each row the quantile of its largest studentised shift from any other row.

    Args:
        shifts: (B, M) whole numbers, of each row in each resample.
        scales: (M, M) of the differences, symmetric.
        confidence: the quantile over the resamples, the higher value where it lies between two.
    """
    place = math.ceil(confidence * (len(shifts) - 1))
    found = np.empty(len(scales))
    rough = _roughly_farthest(shifts, scales)
    for row, farthest in enumerate(rough):
        near = float(np.partition(farthest, place)[place])
        # Single precision errs by a few parts in ten million, so the quantile is one of these.
        lowest, highest = np.float32(near * (1 - 1e-5)), np.float32(near * (1 + 1e-5))
        below = int(np.count_nonzero(farthest < lowest))
        close = (farthest >= lowest) & (farthest <= highest)
        exact = np.abs(shifts[close] - shifts[close][:, [row]]) / scales[row]
        found[row] = np.sort(exact.max(axis=1))[place - below]
    return found


def _roughly_farthest(shifts: Floats, scales: Floats) -> NDArray[np.float32]:
    """Returns (M, B) the largest studentised shifts in single precision, which is much faster."""
    rough = np.ascontiguousarray(shifts.T, dtype=np.float32)
    inverse = (1 / scales).astype(np.float32)
    farthest = np.zeros_like(rough)
    step = max(1, _CACHED // len(rough))
    for start in range(0, rough.shape[1], step):
        part = np.ascontiguousarray(rough[:, start : start + step])
        most, room = np.zeros_like(part), np.empty_like(part)
        # Each pair once: what is far from this row is as far the other way round.
        for row in range(len(part) - 1):
            apart = np.subtract(part[row + 1 :], part[row], out=room[row + 1 :])
            np.abs(apart, out=apart)
            apart *= inverse[row + 1 :, row, None]
            np.maximum(most[row], apart.max(axis=0), out=most[row])
            np.maximum(most[row + 1 :], apart, out=most[row + 1 :])
        farthest[:, start : start + step] = most
    return farthest


def seeds_interval(outcomes: Bools, confidence: float = 0.95) -> SeedsInterval:
    """Returns mean and spread of the accuracy over training seeds, and an interval for the mean.

    The interval speaks of other seeds and of other examples alike. Seeds and examples are crossed
    random effects, so the variance of the mean is (MS_seed + MS_example - MS_residual) / (S N). The
    first term is known to S - 1 degrees of freedom and gets Student's quantile, the rest the normal
    one; their half-widths add in squares, around Wilson's centre.

    Args:
        outcomes: (S, N) bool, one row a seed, over the same examples in the same order.
        confidence: two-sided coverage in (0, 1).

    Returns:
        Mean, spread and interval; for a single seed Wilson's, which covers the examples alone.

    Raises:
        ContractError: no (S, N) bool outcomes, or no confidence.

    Source: mean squares as in Dorfman, Berbaum & Metz 1992 (readers and cases in radiology), the
        half-widths as in Zou & Donner, "Construction of confidence limits about effect measures: a
        general approach", Statistics in Medicine 2008.
    """
    _check_matrix(outcomes)
    _check_confidence(confidence)
    seeds, examples = outcomes.shape
    mean = float(outcomes.mean())
    normal = float(ndtri(0.5 + confidence / 2))
    if seeds == 1:
        low, high = _score_interval(mean, examples, normal)
        return SeedsInterval(1, mean, math.nan, low, high, "examples")
    trials, quantile = float(examples), normal
    if 0 < mean < 1:
        by_seed, by_example = _components(outcomes)
        # No less than if each seed had met examples of its own.
        by_example = max(by_example, mean * (1 - mean) / outcomes.size - by_seed)
        wide = float(stdtrit(seeds - 1, 0.5 + confidence / 2))
        squares = wide**2 * by_seed + normal**2 * by_example
        trials = mean * (1 - mean) / (by_seed + by_example)
        quantile = math.sqrt(squares / (by_seed + by_example))
    spread = float(outcomes.sum(axis=1).std(ddof=1)) / examples
    low, high = _score_interval(mean, trials, quantile)
    return SeedsInterval(seeds, mean, spread, low, high, "seeds and examples")


def _components(outcomes: Bools) -> tuple[float, float]:
    """Returns the parts of the variance of the grand mean: of seeds and residual, of examples."""
    seeds, examples = outcomes.shape
    mean, by_seed, by_example = outcomes.mean(), outcomes.mean(axis=1), outcomes.mean(axis=0)
    residual = outcomes - by_seed[:, None] - by_example[None, :] + mean
    square_seed = examples * np.square(by_seed - mean).sum() / (seeds - 1)
    square_example = seeds * np.square(by_example - mean).sum() / max(1, examples - 1)
    square_residual = np.square(residual).sum() / ((seeds - 1) * max(1, examples - 1))
    # An estimate of a variance may come out negative; the variance is not.
    excess = max(0.0, float(square_example - square_residual))
    return float(square_seed) / outcomes.size, excess / outcomes.size


def _score_interval(share: float, trials: float, quantile: float) -> tuple[float, float]:
    """Returns Wilson's interval for any effective number of trials and any quantile."""
    weight = quantile**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def area_under_curve(
    sparsities: Sequence[float], outcomes: Bools, confidence: float = 0.95
) -> Estimate:
    """Returns the mean accuracy over a range of sparsities, by the trapezoidal rule.

    The area under the polygon through the measured accuracies, divided by the range of sparsities:
    a share in [0, 1], to be compared between curves over the same sparsities alone. An example has
    an area too, so the value is a mean over examples; its interval is Wilson's with the number of
    trials that a share of this variance would take.

    Args:
        sparsities: L of them in [0, 1], ascending, at least 2.
        outcomes: (L, N) bool, one row a sparsity, over the same examples in the same order.
        confidence: two-sided coverage in (0, 1).

    Raises:
        ContractError: sparsities or outcomes that are no curve, or no confidence.

    Source: effective number of trials as in Korn & Graubard, "Confidence intervals for proportions
        with small expected number of positive counts estimated from survey data", Survey
        Methodology 1998, here for Wilson's interval.
    """
    [found] = areas_under_curves(sparsities, outcomes[None], confidence)
    return found


def areas_under_curves(
    sparsities: Sequence[float], outcomes: Bools, confidence: float = 0.95
) -> list[Estimate]:
    """Returns `area_under_curve` of each of C curves over the same sparsities, (C, L, N) bool.

    Raises:
        ContractError: as `area_under_curve`.
    """
    levels = _check_curve(sparsities, outcomes[0])
    _check_confidence(confidence)
    gaps = np.diff(levels)
    weights = (np.append(gaps, 0.0) + np.append(0.0, gaps)) / (2 * (levels[-1] - levels[0]))
    areas = weights @ outcomes
    # With an example that is right everywhere and one that is wrong everywhere, as a few examples
    # that happen to agree say little about the variance; it is at most that of a share.
    added = np.broadcast_to([0.0, 1.0], (len(areas), 2))
    variances = np.concatenate([areas, added], axis=1).var(axis=1, ddof=1)
    quantile = float(ndtri(0.5 + confidence / 2))
    each = zip(areas.mean(axis=1).tolist(), variances.tolist(), strict=True)
    return [_area(value, variance, areas.shape[1], quantile) for value, variance in each]


def _area(value: float, variance: float, examples: int, quantile: float) -> Estimate:
    """Returns an area with its interval, from mean and variance over the examples."""
    variance = min(variance, value * (1 - value))
    trials = examples * (value * (1 - value) / variance if variance > 0 else 1.0)
    return Estimate(value, *_score_interval(min(value, 1.0), trials, quantile))


def break_even(
    sparsities: Sequence[float], outcomes: Bools, kept: float = 0.9, confidence: float = 0.95
) -> Estimate:
    """Returns the largest sparsity up to which a share of the dense accuracy is kept.

    Between measured sparsities the accuracy runs along a straight line. The value is where that
    line first falls below `kept` times the accuracy at the first sparsity, whatever happens
    afterwards; where it never does, the last sparsity: read it as "at least". The interval ends
    where the confidence limits of "accuracy here minus `kept` times the dense accuracy", paired by
    example, first fall below zero; an upper end at the last sparsity means "or more" too.

    Args:
        sparsities: L of them in [0, 1], ascending, at least 2; the first is the dense network's.
        outcomes: (L, N) bool, one row a sparsity, over the same examples in the same order.
        kept: share to keep, in (0, 1].
        confidence: two-sided coverage in (0, 1).

    Returns:
        Sparsity with interval; NaN where the dense network gets nothing right.

    Raises:
        ContractError: sparsities or outcomes that are no curve, a share or confidence out of range.

    Source: inversion of a test at every sparsity, as in Fieller, "Some problems in interval
        estimation", Journal of the Royal Statistical Society B 1954.
    """
    levels = _check_curve(sparsities, outcomes)
    _check_confidence(confidence)
    if not 0 < kept <= 1:
        raise ContractError(f"expected a share to keep in (0, 1], got {kept}; 0.9 is usual")
    if not outcomes[0].any():
        return Estimate(math.nan, math.nan, math.nan)
    # An example on which pruning gains and one on which it loses, as `rank_intervals` adds them,
    # count for the variance.
    added = np.array([[False, True]] + [[True, False]] * (len(levels) - 1))
    padded = np.concatenate([outcomes, added], axis=1).astype(np.float64)
    surplus = padded - kept * padded[0]
    means = surplus[:, :-2].mean(axis=1)
    covariance = np.cov(surplus) / outcomes.shape[1]
    quantile = float(ndtri(0.5 + confidence / 2))
    value, low, high = (
        _fall(levels, means, covariance, deviations) for deviations in (0.0, -quantile, quantile)
    )
    return Estimate(value, low, high)


def _fall(levels: Floats, means: Floats, covariance: Floats, deviations: float) -> float:
    """Returns where mean + deviations · standard deviation first falls below zero, else the end.

    Along a straight piece the mean is linear and the variance quadratic, so the sign changes at
    roots of a quadratic, or of the mean, and nowhere else.
    """
    for here in range(len(levels) - 1):
        start, step = float(means[here]), float(means[here + 1] - means[here])
        first, cross = float(covariance[here, here]), float(covariance[here, here + 1])
        bend = first - 2 * cross + float(covariance[here + 1, here + 1])
        square = deviations**2
        roots = (
            *_roots(0.0, step, start),
            *_roots(
                step**2 - square * bend,
                2 * (start * step - square * (cross - first)),
                start**2 - square * first,
            ),
        )
        ends = [0.0, *sorted(root for root in roots if 0 < root < 1), 1.0]
        for left, right in zip(ends, ends[1:], strict=False):
            middle = (left + right) / 2
            variance = first + 2 * (cross - first) * middle + bend * middle**2
            if start + step * middle + deviations * math.sqrt(max(0.0, variance)) < 0:
                return float(levels[here] + left * (levels[here + 1] - levels[here]))
    return float(levels[-1])


def _roots(square: float, linear: float, constant: float) -> tuple[float, ...]:
    """Returns the real roots of a polynomial of degree two or less; none if it is constant."""
    if square == 0:
        return (-constant / linear,) if linear else ()
    inside = linear**2 - 4 * square * constant
    if inside < 0:
        return ()
    # The usual formula cancels digits for one of the two roots; their product does not.
    larger = -(linear + math.copysign(math.sqrt(inside), linear)) / 2
    return (larger / square, constant / larger) if larger else (0.0,)


def _resampled(outcomes: Bools, generator: np.random.Generator, resamples: int) -> Floats:
    """Returns (B, M) how many of N examples drawn with replacement each row gets right."""
    if resamples < 1:
        raise ContractError(f"expected at least one resample, got {resamples}; 2000 is usual")
    # Examples with the same outcomes in all rows are interchangeable, and a few rows have few
    # patterns of outcomes: it is enough to draw how often each pattern occurs.
    _, first, counts = np.unique(
        np.packbits(outcomes, axis=0), axis=1, return_index=True, return_counts=True
    )
    # Whole numbers of this size are exact in single precision, which is twice as fast.
    patterns = outcomes[:, first].T.astype(np.float32)
    sizes = [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]
    drawn = [_drawn(counts, generator, size).astype(np.float32) @ patterns for size in sizes]
    return np.concatenate(drawn).astype(np.float64)


def _drawn(counts: Integers, generator: np.random.Generator, resamples: int) -> Integers:
    """Returns (B, K) how often each of K patterns is drawn, with as many draws as examples."""
    kinds, examples = len(counts), int(counts.sum())
    if 8 * kinds < examples:
        return generator.multinomial(examples, counts / examples, resamples)
    # The same distribution, faster where there are nearly as many patterns as examples.
    owners = np.repeat(np.arange(kinds), counts)
    drawn = owners[generator.integers(examples, size=(resamples, examples))]
    drawn += kinds * np.arange(resamples)[:, None]
    times = np.bincount(drawn.ravel(), minlength=resamples * kinds)
    return times.reshape(resamples, kinds)


def upper_bound_of_wrong(
    found: int, sampled: int, population: int, confidence: float = 0.95
) -> int:
    """Returns how many wrong outcomes a record may hold, given those in a random part of it.

    The largest number of wrong outcomes for which a simple random sample without replacement shows
    as few as were found with a probability above 1 - confidence. Exact for finite populations: a
    full sample leaves no doubt.

    Args:
        found: wrong outcomes in the sample, in [0, sampled].
        sampled: outcomes that were looked at.
        population: all outcomes, at least 1.
        confidence: one-sided coverage in (0, 1).

    Returns:
        A number in [found, population - sampled + found].

    Raises:
        ContractError: counts that do not fit in each other, or no confidence.

    Source: the one-sided test inverted, as in Buonaccorsi, "A note on confidence intervals for
        proportions in finite populations", The American Statistician 1987.

    >>> upper_bound_of_wrong(0, 60, 600)
    27
    """
    if population < 1 or not 0 <= found <= sampled <= population:
        raise ContractError(
            "expected 0 <= found <= sampled <= population and population >= 1, got "
            f"{found}, {sampled}, {population}"
        )
    _check_confidence(confidence)
    low, high = found, population - sampled + found
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.cdf(found, population, middle, sampled) > 1 - confidence:
            low = middle
        else:
            high = middle - 1
    return low


def check_paired(first_index: Integers, second_index: Integers) -> None:
    """Refuses to compare outcomes that are not about the same examples in the same order.

    Args:
        first_index: (N,) integer, the position of each example in its data set.
        second_index: (N,) integer.

    Raises:
        ContractError: they differ, with the number of examples that do, or are no index vectors.
    """
    for index in (first_index, second_index):
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise ContractError(
                f"expected a vector of example indices, got {index.dtype} of shape {index.shape}"
            )
    shared = min(len(first_index), len(second_index))
    longest = max(len(first_index), len(second_index))
    unlike = int(np.count_nonzero(first_index[:shared] != second_index[:shared]))
    differ = unlike + longest - shared
    if differ:
        raise ContractError(
            f"expected outcomes on the same examples in the same order, got {differ} of {longest} "
            "that differ; compare records of one protocol and tier"
        )


def _discordant(first: Bools, second: Bools) -> tuple[int, int]:
    """Returns on how many examples only the first is right, and only the second."""
    for outcomes in (first, second):
        if outcomes.dtype != np.bool_ or outcomes.ndim != 1:
            raise ContractError(
                f"expected a bool vector of outcomes, got {outcomes.dtype} of shape "
                f"{outcomes.shape}"
            )
    if len(first) != len(second):
        raise ContractError(
            f"expected outcomes on the same examples, got {len(first)} and {len(second)}; "
            "compare rows of one protocol and tier"
        )
    return int(np.count_nonzero(first & ~second)), int(np.count_nonzero(second & ~first))


def _check_matrix(outcomes: Bools) -> None:
    if outcomes.dtype != np.bool_ or outcomes.ndim != 2 or 0 in outcomes.shape:
        raise ContractError(
            "expected a bool matrix of outcomes with a row and an example at least, got "
            f"{outcomes.dtype} of shape {outcomes.shape}"
        )


def _check_curve(sparsities: Sequence[float], outcomes: Bools) -> Floats:
    """Returns the sparsities as an array, checked against the rows of outcomes."""
    _check_matrix(outcomes)
    levels = np.asarray(sparsities, dtype=np.float64)
    ascending = len(levels) >= 2 and bool((np.diff(levels) > 0).all())
    if not ascending or not 0 <= levels[0] <= levels[-1] <= 1 or len(levels) != len(outcomes):
        raise ContractError(
            f"expected two or more ascending sparsities in [0, 1], one a row of {len(outcomes)}, "
            f"got {list(sparsities)}"
        )
    return levels


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ContractError(f"expected a confidence in (0, 1), got {confidence}; 0.95 is usual")
