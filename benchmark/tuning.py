"""What is fast on a machine: a number that chooses between forms of one computation.

It moves rounding and no draw. Results made under another number than the default lie apart in the
cache, and their records say so.
"""

from dataclasses import dataclass

from benchmark.errors import ContractError


@dataclass(frozen=True)
class Tuning:
    """What `robustprune doctor --tune` measures.

    Attributes:
        sparse_cost: how many multiply-adds of a dense layer take as long as one of a sparse matrix
            on one CPU thread.

    Raises:
        ContractError: a number that cannot be one.
    """

    sparse_cost: float = 7.0

    def __post_init__(self) -> None:
        """Refuses what means nothing."""
        if not 0 < self.sparse_cost < 1e6:
            raise ContractError(
                f"expected a sparse cost above 0, got {self.sparse_cost}; measure it again with "
                "`robustprune doctor --tune`"
            )


DEFAULT = Tuning()
