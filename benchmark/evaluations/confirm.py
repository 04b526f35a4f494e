"""What counts as a success of an attack, decided in one place and in one way.

Convolutions may round differently in batches of different size. An input whose top two logits
are nearly equal could so be "misclassified" in one batch and not in another. Success is therefore
always decided on the whole shard, with the candidates put in the places of their originals: the
same computation, to the bit, when an attack asks, when the engine re-checks, and in any later
audit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.ensemble import margins
from benchmark.evaluations.base import Examples
from benchmark.threat import ThreatModel


@torch.no_grad()
def predictions(model: nn.Module, inputs: Tensor) -> Tensor:
    """Returns (N,) predicted classes of a whole shard (N, C, H, W)."""
    answer: Tensor = model(inputs).argmax(dim=1)
    return answer


@dataclass(frozen=True)
class Verdict:
    """What the network says about changed inputs.

    Attributes:
        fooled: (n,) bool, inside box and ball, and misclassified.
        predictions: (n,) int64 predicted classes; of the original where an input is illegal.
        margins: (n,) float32 logit of the label less the largest other one, likewise.
    """

    fooled: Tensor
    predictions: Tensor
    margins: Tensor


def fooled(
    model: nn.Module, examples: Examples, positions: Tensor, candidates: Tensor, threat: ThreatModel
) -> Tensor:
    """Returns (n,) bool: inside box and ball, and misclassified; arguments as for `judge`."""
    return judge(model, examples, positions, candidates, threat).fooled


@torch.no_grad()
def judge(
    model: nn.Module, examples: Examples, positions: Tensor, candidates: Tensor, threat: ThreatModel
) -> Verdict:
    """Returns the network's verdict on changed inputs.

    Args:
        model: the network as published.
        examples: the whole shard.
        positions: (n,) which of its examples the candidates replace, each at most once.
        candidates: (n, C, H, W) changed inputs.
        threat: ball and box they must lie in.
    """
    legal = threat.contains(candidates, examples.inputs[positions])
    inputs = examples.inputs.clone()
    # An illegal candidate (NaN, outside the box) never reaches the network.
    inputs[positions[legal]] = candidates[legal].to(inputs.dtype)
    logits: Tensor = model(inputs)
    answers = logits.argmax(dim=1)
    wrong = answers != examples.labels
    margin = margins(logits, examples.labels)[positions].to(torch.float32)
    return Verdict(legal & wrong[positions], answers[positions], margin)
