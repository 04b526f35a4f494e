"""Speed of training, as ratios within one run: `make bench`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import plain_training
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import methods
from benchmark.architectures import Classifier, build, initialise
from benchmark.attacks import Steps, worst_found
from benchmark.datasets import TensorSplit
from benchmark.objectives import Adversarial
from benchmark.objectives.adversarial import evaluating
from benchmark.threat import ThreatModel
from benchmark.training import Run, Stage, fit

Benchmark = Callable[..., Any]

CPU = torch.device("cpu")
EPSILON, COUNT, BATCH = Fraction(3, 10), 512, 128
THREAT, STEPS = ThreatModel("Linf", EPSILON), Steps(7, Fraction(1, 4))
STAGE = Stage(
    epochs=1, learning_rate=0.05, batch_size=BATCH, weight_decay=1e-4, schedule="constant"
)
PLAIN = plain_training.Plain(float(EPSILON), STEPS.count, float(EPSILON / 4), 0.05, 1e-4)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def model() -> Classifier:
    """The network of MNIST."""
    network = build("cnn-small", shape=(1, 28, 28), classes=10, mean=(0.0,), std=(1.0,))
    initialise(network, rng())
    return network


@pytest.fixture(scope="module")
def split() -> TensorSplit:
    """Random images: how long a step takes does not depend on them."""
    pixels = torch.randint(0, 256, (COUNT, 1, 28, 28), generator=rng()).to(torch.uint8)
    return TensorSplit(pixels, torch.arange(COUNT) % 10, 255)


def note(benchmark: Any, examples: int) -> None:
    """Adds the rate to what is stored."""
    benchmark.extra_info["examples"] = examples
    if benchmark.stats is not None:
        rate = examples / benchmark.stats.stats.median
        benchmark.extra_info["examples_per_second"] = round(rate, 1)


def batch_of(split: TensorSplit) -> tuple[Tensor, Tensor]:
    return split.inputs(torch.arange(BATCH)), split.labels[:BATCH]


@pytest.mark.benchmark(group="inner attack, 7 steps, cnn-small")
@pytest.mark.parametrize("way", ["gradients of everything", "gradients of inputs"])
def test_attack(benchmark: Benchmark, model: Classifier, split: TensorSplit, way: str) -> None:
    inputs, labels = batch_of(split)

    def ours() -> Tensor:
        with evaluating(model):
            return worst_found(model, inputs, labels, threat=THREAT, steps=STEPS, generator=rng())

    def plain() -> Tensor:
        return inputs + plain_training.attack(model, inputs, labels, PLAIN)

    found = benchmark(plain if way == "gradients of everything" else ours)
    assert float((found - inputs).abs().max()) <= float(EPSILON) + 1e-6
    moved = all(parameter.grad is not None for parameter in model.parameters())
    assert moved == (way == "gradients of everything")
    note(benchmark, BATCH)


@contextmanager
def made_anew(model: nn.Module) -> Iterator[None]:
    """Eval mode alone: a weight under a mask of scores is made in each pass."""
    model.eval()
    yield
    model.train()


@pytest.mark.benchmark(group="inner attack, 7 steps, cnn-small under HYDRA's scores")
@pytest.mark.parametrize("way", ["weights made a step", "weights made once"])
def test_attack_on_scores(
    benchmark: Benchmark, model: Classifier, split: TensorSplit, way: str
) -> None:
    inputs, labels = batch_of(split)
    training = methods.Training(split, Adversarial(THREAT, STEPS), STAGE, Run(CPU, 0))
    task = methods.Task(Fraction(9, 10), "unstructured", rng(), training, training)
    hydra: Any = methods.configured("hydra")
    hydra._prepare(model.train(), task)
    around = made_anew if way == "weights made a step" else evaluating

    def attack() -> Tensor:
        with around(model):
            return worst_found(model, inputs, labels, threat=THREAT, steps=STEPS, generator=rng())

    found = benchmark(attack)
    model.eval()
    again = worst_found(model, inputs, labels, threat=THREAT, steps=STEPS, generator=rng())
    assert torch.equal(found, again)
    note(benchmark, BATCH)


@pytest.mark.benchmark(group="adversarial epoch of 512 images, cnn-small")
@pytest.mark.parametrize("way", ["plain loop", "this project's"])
def test_epoch(benchmark: Benchmark, model: Classifier, split: TensorSplit, way: str) -> None:
    images = split.inputs(torch.arange(COUNT))
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def plain() -> None:
        data: Any = DataLoader(TensorDataset(images, split.labels), batch_size=BATCH, shuffle=True)
        plain_training.train(model, data, PLAIN, epochs=1)

    def ours() -> None:
        fit(model, split, Adversarial(THREAT, STEPS), STAGE, Run(CPU, 0))

    benchmark(plain if way == "plain loop" else ours)
    pairs = zip(before, model.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in pairs)
    note(benchmark, COUNT)
