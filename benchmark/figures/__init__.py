"""Paper-ready figures of methods and rows: the only package that knows matplotlib."""

from benchmark.figures.charts import Named, accuracies, fronts, gains, security
from benchmark.figures.style import FORMATS, PRESETS, WIDTHS, Look, Shown, rendered

__all__ = [
    "FORMATS",
    "PRESETS",
    "WIDTHS",
    "Look",
    "Named",
    "Shown",
    "accuracies",
    "fronts",
    "gains",
    "rendered",
    "security",
]
