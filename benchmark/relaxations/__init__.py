"""Bounds of sequential networks as pure tensor functions."""

from benchmark.relaxations.crown import crown_rows, known_to_crown
from benchmark.relaxations.lines import (
    Box,
    UnboundableNetwork,
    crown_margins,
    interval_bounds,
    interval_boxes,
    interval_margins,
    layers_of,
    specification,
    symbolic_margins,
)

__all__ = [
    "Box",
    "UnboundableNetwork",
    "crown_margins",
    "crown_rows",
    "interval_bounds",
    "interval_boxes",
    "interval_margins",
    "known_to_crown",
    "layers_of",
    "specification",
    "symbolic_margins",
]
