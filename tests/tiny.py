"""Networks small enough for oracles: a linear one, and one trained on digits in seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor, nn

from benchmark.architectures import Classifier, build, initialise
from benchmark.attacks import Steps
from benchmark.datasets import Split, TensorSplit, describe, example_list, load
from benchmark.evaluations import Examples
from benchmark.objectives import Adversarial
from benchmark.threat import ThreatModel
from benchmark.training import Run, Stage, fit

LINF = ThreatModel("Linf", Fraction(1, 10))
L2 = ThreatModel("L2", Fraction(1, 2))
CPU = torch.device("cpu")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """Logits that are affine in the pixels."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(weight.shape[1], weight.shape[0])
        self.layer.weight.data.copy_(weight)
        self.layer.bias.data.copy_(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.flatten(1))


def untrained(seed: int = 0) -> Classifier:
    """Returns cnn-tiny for digits with random weights."""
    about = describe("digits", None)
    model = build(
        "cnn-tiny", shape=about.shape, classes=about.classes, mean=about.mean, std=about.std
    )
    initialise(model, rng(seed))
    return model.eval()


@lru_cache(maxsize=1)
def _trained_state() -> dict[str, Tensor]:
    model = untrained()
    objective = Adversarial(ThreatModel("Linf", Fraction(1, 10)), Steps(3, Fraction(1, 2)))
    stage = Stage(epochs=5, learning_rate=0.05, batch_size=64)
    fit(model, load("digits", "train", None), objective, stage, Run(CPU, seed=0))
    return model.state_dict()


def trained() -> Classifier:
    """Returns cnn-tiny, somewhat robust at Linf 1/10."""
    model = untrained()
    model.load_state_dict(_trained_state())
    return model


def digits(count: int) -> Examples:
    """Returns the first test examples of digits' fixed list."""
    split = load("digits", "test", None)
    order = example_list("digits", split.labels)[:count]
    return Examples(split.inputs(order), split.labels[order], order, 10)


def random_split(count: int = 40, classes: int = 10, seed: int = 5) -> Split:
    """Returns random 8x8 images whose mean depends on the class."""
    labels = torch.arange(count) % classes
    noise = torch.randint(0, 8, (count, 1, 8, 8), generator=rng(seed))
    return TensorSplit((noise + labels.view(-1, 1, 1, 1) % 9).to(torch.uint8), labels, 16)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8))
        if first[name].dim()
        else torch.equal(first[name], second[name])
        for name in first
    )


@dataclass
class Touch:
    """Collects the modules and modes of a network as it was."""

    state: dict[str, Tensor]
    modes: list[bool]
    grads: list[bool]
    trainable: list[bool]


def touch_of(model: nn.Module) -> Touch:
    return Touch(
        state_of(model),
        [module.training for module in model.modules()],
        [p.grad is not None for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
    )


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Asserts that a network and the global generators are afterwards as they were before."""
    import random

    import numpy as np

    before = touch_of(model)
    seeds = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    yield
    after = touch_of(model)
    assert same_bits(before.state, after.state)
    assert (before.modes, before.grads, before.trainable) == (
        after.modes,
        after.grads,
        after.trainable,
    )
    assert torch.equal(seeds[0], torch.get_rng_state())
    assert seeds[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert seeds[2] == random.getstate()
