"""Fuzzing of everything that reads files: mutated files in, typed errors or sound values out."""

import sys
from pathlib import Path

# Where the small projects, outcomes and records live that the unit tests share.
sys.path.append(str(Path(__file__).parents[1] / "unit"))
