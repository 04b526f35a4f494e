"""How often the intervals hold the truth: measured here, and printed in docs/statistics.md.

Where outcomes are few enough the coverage is a sum over all of them. Elsewhere it is a simulation
with a fixed seed, and a row covers as promised if it lies no more than three standard errors below:
that happens to a right interval once in 700 rows. Rows of intervals that are not used show why.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.special import gammaln, ndtri, stdtrit
from scipy.stats import binom, hypergeom

from benchmark.statistics import (
    _ratio_ends,
    _resampled,
    area_under_curve,
    break_even,
    clopper_pearson,
    difference_interval,
    rank_intervals,
    ratio_interval,
    seeds_interval,
    upper_bound_of_wrong,
    wilson,
)

DOCS = Path(__file__).parents[2] / "docs" / "statistics.md"
NOMINAL = 0.95
Z = ndtri(0.5 + NOMINAL / 2)
LEVELS = np.array([0.0, 0.5, 0.75, 0.9, 0.95, 0.99])


@dataclass(frozen=True)
class Measured:
    """A row of the table; without runs its coverage is exact."""

    interval: str
    case: str
    covered: float
    runs: int = 0
    used: bool = True

    @property
    def line(self):
        how = f"{self.runs:,} runs" if self.runs else "exact"
        used = "yes" if self.used else "no"
        return f"| {self.interval} | {self.case} | {100 * self.covered:.1f} % | {how} | {used} |"


def documented_lines():
    """The lines of the table below its head, by the name of the interval."""
    text = DOCS.read_text().split("## Coverage")[1]
    lines: dict[str, list[str]] = {}
    for line in re.findall(r"^\|.*\|$", text, flags=re.MULTILINE)[2:]:
        lines.setdefault(line.split("|")[1].strip(), []).append(line)
    return lines


def test_the_table_holds_nothing_that_is_not_measured():
    # Each test below compares the lines of its own intervals; together they are these.
    assert set(documented_lines()) == {
        *("Wilson", "Clopper-Pearson", "Tango, corrected", "Tango, plain", "Newcombe, method 10"),
        "kept share",
        *("ranks", "ranks, percentiles", "seeds", "seeds, Satterthwaite"),
        *("area", "break-even", "break-even, bootstrap", "audit"),
    }


def check(rows):
    """The table has these rows of their intervals and no others; those used cover."""
    for row in rows:
        error = math.sqrt(NOMINAL * (1 - NOMINAL) / row.runs) if row.runs else 0.0
        covers = row.covered >= NOMINAL - 3 * error
        assert covers == row.used, row.line
    found, names = documented_lines(), dict.fromkeys(row.interval for row in rows)
    documented = [line for name in names for line in found.get(name, [])]
    measured = [row.line for row in rows]
    assert documented == measured, "docs/statistics.md must say\n" + "\n".join(measured)


def holds(low, truth, high):
    # The slack is that of a float, far below the step between two outcomes.
    return (low - 1e-9 <= truth) & (truth <= high + 1e-9)


def shares_of_one_binomial(interval, examples):
    """Coverage for each of 999 true shares, summed over all counts."""
    counts, shares = np.arange(examples + 1), np.arange(1, 1000) / 1000
    half = np.array([interval(count, examples) for count in range(examples // 2 + 1)])
    # Counts and their complements have mirrored intervals.
    low, high = np.concatenate([half, 1 - half[: (examples + 1) // 2][::-1, ::-1]]).T
    held = holds(low[:, None], shares[None, :], high[:, None])
    return (held * binom.pmf(counts[:, None], examples, shares[None, :])).sum(axis=0)


def test_intervals_of_an_accuracy():
    few, many = (shares_of_one_binomial(wilson, examples) for examples in (150, 600))
    rows = [
        Measured("Wilson", "mean over all accuracies, N = 150", few.mean()),
        Measured("Wilson", "mean over all accuracies, N = 600", many.mean()),
        Measured("Wilson", "worst accuracy, N = 150", few.min(), used=False),
    ]
    for examples in (150, 600):
        lowest = shares_of_one_binomial(clopper_pearson, examples).min()
        rows.append(Measured("Clopper-Pearson", f"worst accuracy, N = {examples}", lowest))
    check(rows)


def tango(only_first, only_second, examples, correction):
    """Tango's limits by bisection, for many tables at once."""
    limits = []
    for b, c in ((only_first, only_second), (only_second, only_first)):
        outside, inside = -np.ones(len(b)), (b - c) / examples
        for _ in range(50):
            middle = (outside + inside) / 2
            linear = (2 * examples - b + c) * middle - b - c
            root = np.sqrt(linear**2 + 8 * examples * c * middle * (1 - middle))
            variance = examples * ((root - linear) / (2 * examples) + middle * (1 - middle))
            rejected = b - c - correction - examples * middle > Z * np.sqrt(np.maximum(variance, 0))
            outside, inside = (
                np.where(rejected, middle, outside),
                np.where(rejected, inside, middle),
            )
        limits.append(inside)
    return limits[0], -limits[1]


def newcombe(both, only_first, only_second, neither):
    """Method 10 of Newcombe 1998 for many tables at once."""
    examples = both + only_first + only_second + neither
    first, second = (both + only_first) / examples, (both + only_second) / examples

    def ends(share):
        centre = share + Z**2 / (2 * examples)
        half = Z * np.sqrt(share * (1 - share) / examples + Z**2 / (4 * examples**2))
        return (centre - half) / (1 + Z**2 / examples), (centre + half) / (1 + Z**2 / examples)

    (low_1, high_1), (low_2, high_2) = ends(first), ends(second)
    product = both * neither - only_first * only_second
    product = np.where(product > 0, np.maximum(product - examples / 2, 0), product)
    scale = np.sqrt(first * (1 - first) * second * (1 - second)) * examples**2
    phi = np.divide(product, scale, out=np.zeros_like(scale), where=scale > 0)
    down = (first - low_1) ** 2 + (high_2 - second) ** 2
    down -= 2 * phi * (first - low_1) * (high_2 - second)
    up = (second - low_2) ** 2 + (high_1 - first) ** 2
    up -= 2 * phi * (second - low_2) * (high_1 - first)
    difference = first - second
    return difference - np.sqrt(np.maximum(down, 0)), difference + np.sqrt(np.maximum(up, 0))


def test_the_alternatives_are_what_they_are_called():
    # Fagerland, Lydersen & Laake 2014, table V, of the counts 1, 1, 7, 12: Tango -0.517 … -0.026,
    # Newcombe's method 10 -0.507 … -0.026.
    both, only_first, only_second, neither = (np.array([count], float) for count in (1, 1, 7, 12))
    low, high = tango(only_first, only_second, 21, 0.0)
    assert (round(low[0], 3), round(high[0], 3)) == (-0.517, -0.026)
    low, high = newcombe(both, only_first, only_second, neither)
    assert (round(low[0], 3), round(high[0], 3)) == (-0.507, -0.026)


def tables(examples):
    """All ways to split the examples: both right, only the first, only the second, neither."""
    b, c, both = np.meshgrid(*[np.arange(examples + 1.0)] * 3, indexing="ij")
    possible = b + c + both <= examples
    b, c, both = b[possible], c[possible], both[possible]
    return both, b, c, examples - both - b - c


def worst_difference(limits, counts, shares):
    """Lowest coverage over true tables, summed over all counts."""
    low, high = limits
    examples = sum(count[0] for count in counts)
    ways = gammaln(examples + 1) - sum(gammaln(count + 1) for count in counts)
    worst = 1.0
    for truth in shares:
        logarithm = ways + sum(c * math.log(s) for c, s in zip(counts, truth, strict=True))
        held = holds(low, truth[-3] - truth[-2], high)
        worst = min(worst, np.exp(logarithm[held]).sum())
    return worst


def test_intervals_of_a_difference():
    generator = np.random.default_rng(1)
    # Accuracies of all sizes; disagreement common, rare, and all on one side.
    truths = np.maximum(generator.dirichlet([1.0, 0.4, 0.4, 1.0], 150), 1e-9)
    merged = np.stack([truths[:, 1], truths[:, 2], truths[:, 0] + truths[:, 3]], axis=1)
    rows = []
    for examples in (60, 150):
        b, c = (grid.ravel() for grid in np.mgrid[: examples + 1, : examples + 1])
        b, c = b[b + c <= examples], c[b + c <= examples]
        limits = np.array([used_difference(*count, examples) for count in zip(b, c, strict=True)]).T
        worst = worst_difference(limits, (b, c, examples - b - c), merged)
        rows.append(Measured("Tango, corrected", f"worst accuracies, N = {examples}", worst))
    b, c = (grid.ravel().astype(float) for grid in np.mgrid[:61, :61])
    b, c = b[b + c <= 60], c[b + c <= 60]
    worst = worst_difference(tango(b, c, 60, 0.0), (b, c, 60 - b - c), merged)
    rows.append(Measured("Tango, plain", "worst accuracies, N = 60", worst, used=False))
    counts = tables(60)
    worst = worst_difference(newcombe(*counts), counts, truths)
    rows.append(Measured("Newcombe, method 10", "worst accuracies, N = 60", worst, used=False))
    check(rows)


def test_intervals_of_a_kept_share():
    generator = np.random.default_rng(5)
    truths = np.maximum(generator.dirichlet([1.0, 0.4, 0.4, 1.0], 150), 1e-9)
    b, c, both = (grid.ravel() for grid in np.mgrid[:61, :61, :61])
    possible = b + c + both <= 60
    b, c, both = b[possible], c[possible], both[possible]
    ends = [used_ratio(*count) for count in zip(both.tolist(), b.tolist(), c.tolist(), strict=True)]
    low, high = np.array(ends).T
    # Where the second gets nothing right there is no ratio.
    known = both + c > 0
    counts = (both, b, c, 60 - both - b - c)
    ways = gammaln(61) - sum(gammaln(count + 1) for count in counts)
    covered = []
    for truth in truths:
        chance = np.exp(ways + sum(n * math.log(s) for n, s in zip(counts, truth, strict=True)))
        held = holds(low, (truth[0] + truth[1]) / (truth[0] + truth[2]), high) & known
        covered.append(chance[held].sum() / chance[known].sum())
    check(
        [
            Measured("kept share", "mean over tables, N = 60", float(np.mean(covered))),
            Measured("kept share", "worst of them, N = 60", min(covered), used=False),
        ]
    )


def used_ratio(both, only_first, only_second):
    if both + only_second == 0:
        return math.nan, math.nan
    return _ratio_ends(both, only_first, only_second, float(Z))


def test_the_ends_of_a_kept_share_are_those_of_the_function():
    for both, only_first, only_second in ((1, 7, 1), (30, 5, 12), (0, 3, 9), (40, 0, 0)):
        places = np.arange(60)
        first = places < both + only_first
        second = (places < both) | ((places >= 59 - only_second) & (places < 59))
        found = ratio_interval(first, second)
        assert (found.low, found.high) == pytest.approx(used_ratio(both, only_first, only_second))


def used_difference(only_first, only_second, examples):
    places = np.arange(examples)
    first = places < only_first
    found = difference_interval(first, (places >= only_first) & (places < only_first + only_second))
    return found.low, found.high


def test_the_interval_of_a_difference_is_tangos_with_a_correction():
    for b, c, examples in ((1, 7, 21), (0, 0, 60), (60, 0, 60), (30, 17, 600)):
        low, high = tango(np.array([float(b)]), np.array([float(c)]), examples, 1.0)
        assert used_difference(b, c, examples) == pytest.approx((low[0], high[0]), abs=1e-9)


def rows_at(generator, thresholds, alike, examples):
    """Outcomes that are right where a normal draw, partly shared by all rows, is low enough."""
    shared = math.sqrt(alike) * generator.standard_normal(examples)
    own = math.sqrt(1 - alike) * generator.standard_normal((len(thresholds), examples))
    return shared + own < thresholds[:, None]


def trained(generator, seeds, examples, share, spread):
    """Outcomes of several seeds, whose thresholds spread so that the mean accuracy is a share."""
    threshold = ndtri(share) * math.sqrt(1 + spread**2)
    thresholds = threshold + spread * generator.standard_normal(seeds)
    return rows_at(generator, thresholds, 0.8, examples)


def satterthwaite(outcomes):
    """Student's interval with the approximate degrees of freedom of the whole variance."""
    seeds, examples = outcomes.shape
    mean, by_seed, by_example = outcomes.mean(), outcomes.mean(axis=1), outcomes.mean(axis=0)
    residual = outcomes - by_seed[:, None] - by_example + mean
    square_seed = examples * by_seed.var(ddof=1)
    square_residual = (residual**2).sum() / ((seeds - 1) * (examples - 1))
    rest = max(0.0, seeds * by_example.var(ddof=1) - square_residual)
    freedom = (square_seed + rest) ** 2 / max(square_seed**2 / (seeds - 1), 1e-12)
    half = stdtrit(freedom, 0.5 + NOMINAL / 2) * math.sqrt((square_seed + rest) / outcomes.size)
    return mean - half, mean + half


def used_seeds(outcomes):
    found = seeds_interval(outcomes)
    return found.low, found.high


def test_intervals_over_seeds():
    runs, rows = 1500, []
    cases = [
        ("2 seeds of one accuracy, N = 600", 2, 600, 0.7, 0.0),
        ("2 seeds that spread by 5 points, N = 600", 2, 600, 0.7, 0.15),
        ("3 seeds that spread by 1 point, N = 150", 3, 150, 0.7, 0.03),
        ("3 seeds that spread by 5 points, N = 600", 3, 600, 0.7, 0.15),
        ("5 seeds near 5 %, N = 150", 5, 150, 0.05, 0.1),
    ]
    for case, seeds, examples, share, spread in cases:
        generator = np.random.default_rng(2)
        samples = (trained(generator, seeds, examples, share, spread) for _ in range(runs))
        covered = np.mean([holds(low, share, high) for low, high in map(used_seeds, samples)])
        rows.append(Measured("seeds", case, float(covered), runs))
    for case, seeds, examples, share, spread in (cases[1], cases[3]):
        generator = np.random.default_rng(2)
        samples = (trained(generator, seeds, examples, share, spread) for _ in range(runs))
        covered = np.mean([holds(low, share, high) for low, high in map(satterthwaite, samples)])
        rows.append(Measured("seeds, Satterthwaite", case, float(covered), runs, used=False))
    check(rows)


def percentile_ranks(outcomes, generator):
    """The ranks in the resamples themselves, cut at 2.5 % and 97.5 %."""
    drawn = _resampled(outcomes, generator, 300)
    above = (drawn[:, None, :] > drawn[:, :, None]).sum(axis=2)
    below = (drawn[:, None, :] < drawn[:, :, None]).sum(axis=2)
    low = np.quantile(1 + above, 0.025, axis=0, method="lower")
    high = np.quantile(drawn.shape[1] - below, 0.975, axis=0, method="higher")
    return low, high


def rarest_rank(ranks, shares, alike, examples, runs):
    """Lowest coverage of any row's true rank."""
    generator, thresholds = np.random.default_rng(3), ndtri(shares)
    truth = 1 + (shares[None, :] > shares[:, None]).sum(axis=1)
    covered = np.zeros(len(shares))
    for _ in range(runs):
        low, high = ranks(rows_at(generator, thresholds, alike, examples), generator)
        covered += holds(low, truth, high)
    return float(covered.min()) / runs


def used_ranks(outcomes, generator):
    return rank_intervals(outcomes, generator, 300)


def test_intervals_of_ranks():
    close, apart = 0.7 + 0.0002 * np.arange(12), 0.5 + 0.04 * np.arange(5)
    rare = np.array([0.975, 0.9751, 0.9752])
    runs = 500
    rows = [
        Measured(
            "ranks",
            "12 rows within 0.2 points, N = 150",
            rarest_rank(used_ranks, close, 0.8, 150, runs),
            runs,
        ),
        Measured(
            "ranks",
            "5 rows 4 points apart, N = 300",
            rarest_rank(used_ranks, apart, 0.8, 300, runs),
            runs,
        ),
        Measured(
            "ranks",
            "3 rows that hardly ever differ, N = 150",
            rarest_rank(used_ranks, rare, 0.97, 150, runs),
            runs,
        ),
        Measured(
            "ranks, percentiles",
            "12 rows within 0.2 points, N = 150",
            rarest_rank(percentile_ranks, close, 0.8, 150, 200),
            200,
            used=False,
        ),
    ]
    check(rows)


CURVES = {
    "slow fall, N = 600": ([0.72, 0.715, 0.70, 0.66, 0.61, 0.42], 600),
    "fast fall, N = 150": ([0.72, 0.60, 0.50, 0.40, 0.30, 0.10], 150),
    "not monotone, N = 600": ([0.72, 0.66, 0.64, 0.645, 0.60, 0.40], 600),
    "12 of 600 right when dense": ([0.02, 0.0194, 0.0186, 0.0166, 0.014, 0.008], 600),
}


def resampled_break_even(outcomes, generator):
    """Its percentiles when the examples are drawn anew."""
    return np.quantile(first_fall_of(_resampled(outcomes, generator, 300)), [0.025, 0.975])


def area_of(accuracies):
    return np.trapezoid(accuracies, LEVELS, axis=-1) / (LEVELS[-1] - LEVELS[0])


def first_fall_of(accuracies):
    """Where curves (B, L), in accuracies or counts, first lose a tenth of their start."""
    surplus = accuracies - 0.9 * accuracies[:, :1]
    curves, after = np.arange(len(surplus)), (surplus < 0).argmax(axis=1)
    before, end = surplus[curves, after - 1], surplus[curves, after]
    part = np.divide(before, before - end, out=np.zeros(len(curves)), where=end < 0)
    found = LEVELS[after - 1] + part * (LEVELS[after] - LEVELS[after - 1])
    return np.where(after > 0, found, LEVELS[-1])


def used_area(outcomes, _):
    found = area_under_curve(LEVELS, outcomes)
    return found.low, found.high


def used_break_even(outcomes, _):
    found = break_even(LEVELS, outcomes)
    return found.low, found.high


def curve_coverage(interval, statistic, case, runs):
    generator = np.random.default_rng(4)
    shares, examples = np.array(CURVES[case][0]), CURVES[case][1]
    thresholds, truth, covered = ndtri(shares), float(statistic(shares[None, :])[0]), 0
    for _ in range(runs):
        low, high = interval(rows_at(generator, thresholds, 0.8, examples), generator)
        covered += bool(holds(low, truth, high))
    return covered / runs


# A percentile bootstrap of either, paired over the levels, falls short where little is right.
FEW = "12 of 600 right when dense"


def test_intervals_of_an_area():
    rows = [
        Measured("area", case, curve_coverage(used_area, area_of, case, 3000), 3000)
        for case in CURVES
    ]
    check(rows)


def test_intervals_of_the_largest_sparsity():
    rows = [
        Measured(
            "break-even", case, curve_coverage(used_break_even, first_fall_of, case, 1000), 1000
        )
        for case in CURVES
    ]
    covered = curve_coverage(resampled_break_even, first_fall_of, FEW, 1000)
    rows.append(Measured("break-even, bootstrap", FEW, covered, 1000, used=False))
    check(rows)


def test_bounds_of_an_audit():
    rows = []
    for sampled, population in ((20, 60), (60, 600)):
        bounds = np.array(
            [upper_bound_of_wrong(k, sampled, population) for k in range(sampled + 1)]
        )
        counts, worst = np.arange(sampled + 1), 1.0
        for wrong in range(population + 1):
            chances = hypergeom.pmf(counts, population, wrong, sampled)
            worst = min(worst, float(chances[bounds >= wrong].sum()))
        case = f"worst number of wrong outcomes, {sampled} of {population}"
        rows.append(Measured("audit", case, worst))
    check(rows)
