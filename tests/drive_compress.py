"""Compresses in a process of its own that a test may kill."""

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from benchmark.pipeline import Order, Project, compress_all
from benchmark.recipes import RECIPES
from benchmark.workers import Workers

FULL = RECIPES["digits"]
SHORT = replace(
    FULL,
    id="short",
    pretrain=replace(FULL.pretrain, epochs=4),
    finetune=replace(FULL.finetune, epochs=4),
)
RECIPES[SHORT.id] = SHORT
ORDER = Order("random", "cnn-tiny", "adversarial", "unstructured", Fraction(1, 2), 0, SHORT.id)

if __name__ == "__main__":
    print("started", flush=True)
    compress_all(Project(Path(sys.argv[1]), device="cpu", workers=Workers(1)), [ORDER])
    print("finished", flush=True)
