"""robustprune: benchmark and leaderboard of pruning methods for adversarially robust networks.

>>> import benchmark
>>> model = benchmark.load_model("dense/digits/cnn-tiny/adversarial/unstructured-0/seed0")
"""

import importlib
from typing import Any

__all__ = ["compare", "evaluate", "load_model", "results"]


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    # Loaded on first use: every module of the package passes through here, the low rows included.
    if name in __all__:
        return getattr(importlib.import_module("benchmark.interface"), name)
    raise AttributeError(f"module 'benchmark' has no attribute '{name}'")
