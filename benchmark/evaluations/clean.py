"""The clean evaluation: predictions on unmodified inputs, and what the network looks like there."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.evaluations.base import Examples, Flag, Result
from benchmark.evaluations.probes import DIFFERENCE, distance
from benchmark.threat import ThreatModel

# The threshold of AutoAttack's own check (Croce & Hein 2020, checks of the released code): sums of
# 1 within 1e-5.
SOFTMAX_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class Clean:
    """Predictions, and three sanity checks on the same inputs.

    Columns: `prediction` int16; `zero_gradient` bool: the cross-entropy has no input gradient at
    all, be it that the network is flat there or that the loss has saturated (the sanity evaluation
    tells the two apart).
    Flags: `randomised-output`, `softmax-output`.
    """

    kind: ClassVar[str] = "clean"

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Returns predictions of a shard; draws nothing and ignores the threat model."""
        inputs = examples.inputs.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = model(inputs)
            loss = functional.cross_entropy(logits, examples.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
        with torch.no_grad():
            again = model(examples.inputs)
        logits = logits.detach()
        columns = {
            # From the pass without gradients, the one that decides attacks' successes too.
            "prediction": again.argmax(dim=1).to(torch.int16).cpu().numpy(),
            "zero_gradient": (gradient.flatten(1) == 0).all(dim=1).cpu().numpy(),
        }
        return Result(columns=columns, adversarial={}, flags=_flags(logits, again))


def _flags(logits: Tensor, again: Tensor) -> tuple[Flag, ...]:
    flags = []
    moved = distance(logits, again) > DIFFERENCE
    if bool(moved.any()):
        flags.append(
            Flag("randomised-output", _share(moved), "two passes over the same inputs differ")
        )
    summing = (logits.sum(dim=1) - 1).abs() < SOFTMAX_DIFFERENCE
    bounded = (logits > -SOFTMAX_DIFFERENCE).all(dim=1) & (logits < 1 + SOFTMAX_DIFFERENCE).all(
        dim=1
    )
    if bool((summing & bounded).all()):
        flags.append(Flag("softmax-output", 1.0, "outputs are probabilities, not logits"))
    return tuple(flags)


def _share(chosen: Tensor) -> float:
    return float(np.mean(chosen.cpu().numpy()))
