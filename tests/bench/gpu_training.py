"""Adversarial training of ResNet-18 on CIFAR-10's shape: a plain loop, then each option in turn.

Usage: python tests/bench/gpu_training.py [--device cuda] [--batch 128] [--batches 40] [--epochs 3]

Images are random: how long a step takes does not depend on them. Every row trains the same network
for the same steps in one process; the first epoch (start, compilation) is not counted, of the
others the median is. The report goes to stdout as Markdown.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import median
from typing import Any

import plain_training
import torch
from torch.utils.data import DataLoader

from benchmark.architectures import Classifier, build, initialise
from benchmark.attacks import Steps
from benchmark.datasets import TensorSplit
from benchmark.distributed import choose_device, environment, steady
from benchmark.objectives import Adversarial
from benchmark.threat import ThreatModel
from benchmark.training import Run, Stage, compiler_missing, fit

THREAT = ThreatModel("Linf", Fraction(8, 255))
RATE, DECAY = 0.1, 5e-4

# Rows that are this project's loop: what is added to the row above, or takes the place of it.
OURS: dict[str, dict[str, Any]] = {
    "float32": {},
    "channels-last": {"channels_last": True},
    "TF32": {"channels_last": True, "precision": "tf32"},
    "bfloat16": {"channels_last": True, "precision": "bfloat16"},
    "bfloat16, compiled": {"channels_last": True, "precision": "bfloat16", "compiled": True},
    "float32, compiled": {"channels_last": True, "compiled": True},
}
PLAIN = ("plain, float32", "plain, torch's defaults")


@dataclass(frozen=True)
class Scale:
    """How much is trained, and where."""

    device: torch.device
    batch: int
    batches: int
    epochs: int
    steps: Steps
    loaders: int

    @property
    def images(self) -> int:
        """Images an epoch."""
        return self.batch * self.batches


@dataclass(frozen=True)
class Row:
    """What was measured of one way.

    Attributes:
        name: of the way.
        seconds: an epoch, the median.
        first: seconds of the first epoch.
        gigabytes: most memory of the device; 0 where it has none of its own.
        waits: times that the CPU waited for the device, in all epochs; -1 where it cannot be seen.
    """

    name: str
    seconds: float
    first: float
    gigabytes: float
    waits: int


class Clock:
    """Seconds of each epoch, taken when the device is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks = [self._now()]

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def tell(self, *_: object) -> None:
        """Ends an epoch."""
        self.marks.append(self._now())

    @property
    def epochs(self) -> list[float]:
        """Seconds of each."""
        return [end - start for start, end in zip(self.marks, self.marks[1:], strict=False)]


@contextmanager
def counting_waits(device: torch.device) -> Iterator[list[Any]]:
    """Collects a warning for each time that the CPU waits for the device."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        if device.type == "cuda":
            torch.set_warn_always(True)
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
                torch.set_warn_always(False)


def network() -> Classifier:
    """Returns an untrained ResNet-18."""
    model = build("resnet18", shape=(3, 32, 32), classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    initialise(model, torch.Generator().manual_seed(0))
    return model


def split_of(scale: Scale) -> TensorSplit:
    """Returns random images."""
    shape = (scale.images, 3, 32, 32)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    return TensorSplit(pixels.to(torch.uint8), torch.arange(scale.images) % 10, 255)


def plain(scale: Scale, split: TensorSplit, tell: Callable[[], None]) -> None:
    """Trains as it is usually written."""
    cuda = scale.device.type == "cuda"
    data: Any = DataLoader(
        plain_training.Padded(split.inputs(torch.arange(len(split))), split.labels),
        batch_size=scale.batch,
        shuffle=True,
        num_workers=scale.loaders,
        persistent_workers=scale.loaders > 0,
        pin_memory=cuda,
    )
    epsilon = float(THREAT.epsilon)
    settings = plain_training.Plain(
        epsilon, scale.steps.count, float(scale.steps.size) * epsilon, RATE, DECAY
    )
    plain_training.train(network().to(scale.device), data, settings, scale.epochs, [tell])


def ours(
    scale: Scale, split: TensorSplit, tell: Callable[..., None], changes: dict[str, Any]
) -> None:
    """Trains by this project's loop, as it trains checkpoints."""
    stage = Stage(scale.epochs, RATE, scale.batch, weight_decay=DECAY, schedule="constant")
    run = Run(scale.device, seed=0, augmentation="crop-flip", report=tell)
    with steady():
        fit(network(), split, Adversarial(THREAT, scale.steps), replace(stage, **changes), run)


def train(name: str, scale: Scale, split: TensorSplit, tell: Callable[..., None]) -> None:
    """Trains in one of the ways."""
    if name in OURS:
        ours(scale, split, tell, OURS[name])
        return
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    # By default torch rounds convolutions to TF32 and matrix products not.
    cudnn.allow_tf32 = name != PLAIN[0]
    try:
        plain(scale, split, tell)
    finally:
        cudnn.allow_tf32 = before


def measure(name: str, scale: Scale, split: TensorSplit) -> Row:
    """Returns how long an epoch takes in one of the ways."""
    cuda = scale.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(scale.device)
    clock = Clock(scale.device)
    train(name, scale, split, clock.tell)
    gigabytes = torch.cuda.max_memory_allocated(scale.device) / 1e9 if cuda else 0.0
    waits = -1
    if cuda:
        # Once more, since to look for waits takes time.
        with counting_waits(scale.device) as found:
            train(name, replace(scale, epochs=1), split, lambda *_: None)
        waits = sum("synchroniz" in str(warning.message) for warning in found)
    seconds = clock.epochs
    return Row(name, median(seconds[1:] or seconds), seconds[0], gigabytes, waits)


def line(row: Row, scale: Scale, base: Row) -> str:
    """Returns a line of the table."""
    waits = "" if row.waits < 0 else f"{row.waits / scale.batches:.1f}"
    return (
        f"| {row.name} | {scale.batches / row.seconds:.2f} | {scale.images / row.seconds:,.0f} | "
        f"{base.seconds / row.seconds:.2f} | {row.first:.1f} | {row.gigabytes:.2f} | {waits} |"
    )


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=40, help="steps an epoch")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="of the inner attack")
    parser.add_argument("--loaders", type=int, default=4, help="processes of the plain loop")
    parser.add_argument("--rows", default="", help="joined by ;, all by default")
    chosen = parser.parse_args()
    scale = Scale(
        choose_device(chosen.device),
        chosen.batch,
        chosen.batches,
        chosen.epochs,
        Steps(chosen.steps, Fraction(1, 4)),
        chosen.loaders,
    )
    names = [name for name in chosen.rows.split(";") if name] or [*PLAIN, *OURS]
    split = split_of(scale)
    rows = []
    for name in names:
        sys.stderr.write(f"[{len(rows) + 1}/{len(names)}] {name}\n")
        rows.append(measure(name, scale, split))
    about = environment(scale.device)
    compiler = compiler_missing(scale.device) or "works"
    report = [
        f"ResNet-18, {scale.images:,} images of 3x32x32 an epoch in batches of {scale.batch}, PGD "
        f"of {scale.steps.count} steps, SGD, random crops and flips; {about['device']}, torch "
        f"{about['torch']}, Python {about['python']}; compiler: {compiler}. Median of epochs 2 to "
        f"{scale.epochs}.",
        "",
        f"| loop | steps/s | images/s | times {rows[0].name} | first epoch (s) | GB | waits a step "
        "|",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(line(row, scale, rows[0]) for row in rows),
    ]
    sys.stdout.write("\n".join(report) + "\n")


if __name__ == "__main__":
    main()
