"""How the region of a certified objective grows while a network trains from random weights."""

from dataclasses import dataclass
from fractions import Fraction

from benchmark.objectives.base import Moment


@dataclass(frozen=True)
class Ramp:
    """A share that is 0 at first, then rises linearly in steps to 1, and stays there.

    Attributes:
        start: share of training before the rise.
        length: share of training that the rise takes; 0 for 1 at once.
    """

    start: Fraction = Fraction(0)
    length: Fraction = Fraction(0)

    @property
    def end(self) -> Fraction:
        """Share of training after which nothing rises."""
        return self.start + self.length

    def at(self, moment: Moment) -> float:
        """Returns the share of a moment, in [0, 1]."""
        if moment.progress >= float(self.end):
            return 1.0
        risen = (moment.progress - float(self.start)) / float(self.length)
        return min(max(risen, 0.0), 1.0)
