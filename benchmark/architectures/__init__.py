"""Networks by name, with normalisation as the first layer."""

from benchmark.architectures.base import (
    Architecture,
    Classifier,
    Normalise,
    Shape,
    Shapes,
    dead_parameters,
    initialise,
)
from benchmark.architectures.registry import ARCHITECTURES, build

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Classifier",
    "Normalise",
    "Shape",
    "Shapes",
    "build",
    "dead_parameters",
    "initialise",
]
