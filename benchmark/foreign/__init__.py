"""Checkpoints that others made: read as data, recognised, and made ours or refused."""

from benchmark.foreign.converting import Converted, Request, convert
from benchmark.foreign.formats import FORMATS, Format

__all__ = ["FORMATS", "Converted", "Format", "Request", "convert"]
