"""Shares of examples with their intervals, and the two ends of a row's own interval."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from benchmark.report.wording import MISSING, entries, mapping, number, percent, points, text
from benchmark.statistics import clopper_pearson, wilson

Row = Mapping[Any, Any]


@dataclass(frozen=True)
class Share:
    """A share of examples.

    Attributes:
        value: in [0, 1]; NaN when missing.
        interval: its 95 % Wilson interval in percent, such as `67.1–74.3`; empty when unknown.
        reason: why it is missing; empty when it is not.
    """

    value: float
    interval: str = ""
    reason: str = ""

    @property
    def printed(self) -> str:
        """Returns percent with one decimal, or an em dash."""
        return percent(self.value)

    @property
    def known(self) -> bool:
        """Returns whether there is a number."""
        return math.isfinite(self.value)

    @property
    def order(self) -> str:
        """Returns what the share is sorted by; empty when it is missing."""
        return f"{self.value:.9g}" if self.known else ""

    @property
    def width(self) -> str:
        """Returns the share as a coordinate in a bar of width 100."""
        return f"{100 * self.value:.2f}" if self.known else "0"


@dataclass(frozen=True)
class Interval:
    """The interval of a row, [certified, attacked]; its clean accuracy is the mark beside it.

    Attributes:
        certified: the lower end.
        attacked: the upper end: robust accuracy, or best known accuracy where that is lower.
        clean: accuracy on unmodified inputs.
        lowered: whether a challenge lowered the upper end.
    """

    certified: Share
    attacked: Share
    clean: Share
    lowered: bool = False

    @property
    def known(self) -> bool:
        """Returns whether at least the upper end is known."""
        return self.attacked.known

    @property
    def ends(self) -> str:
        """Returns what the two ends are."""
        return "[certified, best known]" if self.lowered else "[certified, attacked]"

    @property
    def printed(self) -> str:
        """Returns both ends in percent."""
        return f"[{self.certified.printed}, {self.attacked.printed}]"

    @property
    def open_width(self) -> str:
        """Returns the width of the part neither proven nor broken, in a bar of width 100."""
        low = self.certified.value if self.certified.known else 0.0
        return f"{max(0.0, 100 * (self.attacked.value - low)):.2f}" if self.known else "0"

    @property
    def words(self) -> str:
        """Returns the bar's content as a sentence."""
        if not self.known:
            return "No result."
        proven = (
            f"{self.certified.printed} % certified"
            if self.certified.known
            else "no certified accuracy"
        )
        upper = "best known" if self.lowered else "robust"
        return f"{proven}, {self.attacked.printed} % {upper}, {self.clean.printed} % clean."


@dataclass(frozen=True)
class Gain:
    """A lead over the magnitude control, in points of best known accuracy.

    Attributes:
        value: such as `+2.3`; an em dash where there is none.
        interval: its 95 % interval, such as `[−0.4, +5.0]`; empty when unknown.
        over: checkpoint id of the control; empty where there is none.
        order: what the gain is sorted by; empty where there is none.
    """

    value: str = MISSING
    interval: str = ""
    over: str = ""
    order: str = ""

    @property
    def known(self) -> bool:
        """Returns whether there is a number."""
        return self.value != MISSING

    @property
    def printed(self) -> str:
        """Returns value and interval."""
        return f"{self.value} {self.interval}".strip()


def share(row: Row, column: str) -> Share:
    """Returns an accuracy of a row with its interval, or why it is missing."""
    value, examples = number(row.get(column)), number(row.get("examples"))
    if not math.isfinite(value):
        return Share(math.nan, reason=why_missing(row))
    return counted(value, examples)


def attack_share(row: Row, evaluation: str) -> Share:
    """Returns the accuracy under one attacking evaluation alone, or why it is missing."""
    value = number(mapping(row.get("attack_accuracies")).get(evaluation))
    if not math.isfinite(value):
        return Share(math.nan, reason=why_missing(row))
    return counted(value, number(row.get("examples")))


def counted(value: float, examples: float) -> Share:
    """Returns a share with the Wilson interval of so many examples (none below one example)."""
    if not examples >= 1:
        return Share(value)
    return Share(value, _ends(wilson(*_counts(value, examples))))


def exact(value: float, examples: float) -> str:
    """Returns the exact (Clopper-Pearson) 95 % interval of a share in percent, or nothing.

    Args:
        value: share in [0, 1]; NaN has no interval.
        examples: how many it was counted on.
    """
    if not examples >= 1 or not math.isfinite(value):
        return ""
    return _ends(clopper_pearson(*_counts(value, examples)))


def _counts(value: float, examples: float) -> tuple[int, int]:
    """Returns the examples counted and looked at."""
    total = int(examples)
    return min(total, max(0, round(value * total))), total


def _ends(interval: tuple[float, float]) -> str:
    return f"{percent(interval[0])}–{percent(interval[1])}"


def why_missing(row: Row) -> str:
    """Returns why a row lacks a number."""
    status, reason = text(row.get("status"), 20), text(row.get("reason"), 200)
    if status == "done":
        return "not part of this evaluation"
    return f"{status}: {reason}" if reason else status or "not evaluated"


def upper_end(row: Row) -> float:
    """Returns the upper end of a row's interval: what neither attacks nor challenges broke."""
    robust, known = number(row.get("robust_accuracy")), number(row.get("best_known_accuracy"))
    return known if math.isfinite(known) and known < robust else robust


def lowered(row: Row) -> bool:
    """Returns whether challenges lowered the upper end of a row's interval."""
    return upper_end(row) < number(row.get("robust_accuracy"))


def interval(row: Row) -> Interval:
    """Returns the interval of a row."""
    attacked = share(row, "robust_accuracy")
    if lowered(row):
        attacked = counted(upper_end(row), number(row.get("examples")))
    return Interval(
        share(row, "certified_accuracy"),
        attacked,
        share(row, "clean_accuracy"),
        lowered(row),
    )


def gain(row: Row) -> Gain:
    """Returns a row's lead over the magnitude control of its cell."""
    value, over = number(row.get("gain")), text(row.get("gain_over"), 300)
    # A control has no lead over itself.
    if not math.isfinite(value) or over == text(row.get("checkpoint_id"), 300):
        return Gain()
    low, high = number(row.get("gain_low")), number(row.get("gain_high"))
    known = math.isfinite(low) and math.isfinite(high)
    ends = f"[{points(low)}, {points(high)}]" if known else ""
    return Gain(points(value), ends, over, f"{value:.9g}")


def own_epsilon(row: Row) -> str:
    """Returns the printed epsilon of a row's protocol."""
    return text(row.get("threat")).partition(" ")[2]


@lru_cache(4096)
def fraction(printed: str) -> Fraction | None:
    """Returns a printed epsilon as a number, or None where it is none.

    >>> fraction("8/255"), fraction("1e999999999")
    (Fraction(8, 255), None)
    """
    # The shape keeps out exponents, whose powers of ten could fill the memory.
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}|/[0-9]{0,8}[1-9][0-9]{0,8})?", printed):
        return None
    return Fraction(printed)


def same_epsilon(first: str, second: str) -> bool:
    """Returns whether two printed epsilons are one number, however they are written."""
    one, other = fraction(first), fraction(second)
    return first == second if one is None or other is None else one == other


def attacked_curve(row: Row) -> Iterator[dict[str, Any]]:
    """Yields the attacked epsilons of a row with their robust accuracy, challenges included.

    A challenge's inputs lie within the protocol's epsilon, and so within every larger one.
    """
    own = fraction(own_epsilon(row))
    for entry in entries(row.get("curve")):
        robust, value = number(entry.get("robust_accuracy")), number(entry.get("value"))
        beyond = own is not None and value >= float(own)
        if beyond and lowered(row) and upper_end(row) < robust:
            entry = {**entry, "robust_accuracy": upper_end(row)}
        yield entry
