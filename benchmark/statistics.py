"""Statistics of the board: binomial intervals, a paired test, a correction for many tests.

Pure functions over counts and per-example outcomes; the binomial numerics are scipy's.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmark.errors import ContractError


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval of a share.

    Unlike `share ± z · deviation` it stays in [0, 1] and keeps its coverage near 0 and 1, where the
    accuracies of heavily pruned networks lie.

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
    if trials < 1 or not 0 <= successes <= trials:
        raise ContractError(
            f"expected 0 <= successes <= trials and trials >= 1, got {successes} of {trials}"
        )
    if not 0 < confidence < 1:
        raise ContractError(f"expected a confidence in (0, 1), got {confidence}; 0.95 is usual")
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(first_correct: NDArray[np.bool_], second_correct: NDArray[np.bool_]) -> float:
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
    for outcomes in (first_correct, second_correct):
        if outcomes.dtype != np.bool_ or outcomes.ndim != 1:
            raise ContractError(
                f"expected a bool vector of outcomes, got {outcomes.dtype} of shape "
                f"{outcomes.shape}"
            )
    if len(first_correct) != len(second_correct):
        raise ContractError(
            f"expected outcomes on the same examples, got {len(first_correct)} and "
            f"{len(second_correct)}; "
            "compare rows of one protocol and tier"
        )
    only_first = int(np.count_nonzero(first_correct & ~second_correct))
    only_second = int(np.count_nonzero(second_correct & ~first_correct))
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


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
