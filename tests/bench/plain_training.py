"""Adversarial training as it is usually written; what this project's loop is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class Plain:
    """Settings of both loops.

    Attributes:
        epsilon: of the Linf ball.
        steps: of the inner attack.
        size: of a step, in pixel units.
        rate: of learning, constant.
        decay: of weights.
    """

    epsilon: float
    steps: int
    size: float
    rate: float
    decay: float


class Padded(Dataset[tuple[Tensor, int]]):
    """Images cropped and flipped one by one, when they are asked for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = functional.pad(images, (4,) * 4)
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        height, width = (side - 8 for side in image.shape[1:])
        row, column = torch.randint(0, 9, (2,)).tolist()
        image = image[:, row : row + height, column : column + width]
        return (image.flip(2) if torch.rand(()) < 0.5 else image), self.labels[index]


def attack(model: nn.Module, inputs: Tensor, labels: Tensor, settings: Plain) -> Tensor:
    """Returns PGD's change of a batch: gradients of everything, the model in train mode."""
    delta = torch.empty_like(inputs).uniform_(-settings.epsilon, settings.epsilon)
    delta.data = (inputs + delta).clamp(0, 1) - inputs
    delta.requires_grad_()
    for _ in range(settings.steps):
        functional.cross_entropy(model(inputs + delta), labels).backward()
        assert delta.grad is not None
        moved = delta.detach() + settings.size * delta.grad.sign()
        moved = moved.clamp(-settings.epsilon, settings.epsilon)
        delta.data = (inputs + moved).clamp(0, 1) - inputs
        delta.grad.zero_()
    return delta.detach()


def train(
    model: nn.Module,
    batches: DataLoader[tuple[Tensor, Tensor]],
    settings: Plain,
    epochs: int,
    told: Sequence[Callable[[], None]] = (),
) -> None:
    """Trains by SGD, and tells after each epoch."""
    device = next(model.parameters()).device
    optimiser = torch.optim.SGD(
        model.parameters(), lr=settings.rate, momentum=0.9, weight_decay=settings.decay
    )
    model.train()
    for _ in range(epochs):
        total = 0.0
        for images, classes in batches:
            inputs, labels = images.to(device), classes.to(device)
            change = attack(model, inputs, labels, settings)
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(inputs + change), labels)
            loss.backward()
            optimiser.step()
            total += loss.item()
        for tell in told:
            tell()
