"""Wide residual networks with pre-activation, as the public robust checkpoints store them."""

from collections import OrderedDict
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.architectures.base import Shape


class PreActivationBlock(nn.Module):
    """Norm, ReLU and convolution twice, beside a shortcut."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        """Makes a block from `channels` to `outputs` that divides height and width by `stride`."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        # The spelling is that of the public checkpoints.
        self.convShortcut = (
            nn.Conv2d(channels, outputs, 1, stride=stride, bias=False)
            if channels != outputs
            else None
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns (N, outputs, H / stride, W / stride) features of (N, channels, H, W) inputs."""
        activated = F.relu(self.bn1(inputs))
        features: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        # A convolution in the shortcut sees activated inputs; an identity passes the raw ones on.
        if self.convShortcut is None:
            return inputs + features
        shortcut: Tensor = self.convShortcut(activated)
        return shortcut + features


def _stage(blocks: int, channels: int, outputs: int, stride: int) -> nn.Module:
    first = PreActivationBlock(channels, outputs, stride)
    rest = [PreActivationBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *rest)))


class WideResNet(nn.Module):
    """WRN-depth-widen of the TRADES code family, with its unused second copy of the first stage.

    Source: Zagoruyko and Komodakis, BMVC 2016, arXiv 1605.07146; Sehwag et al., HYDRA, arXiv
    2002.10509.
    """

    # The public code makes this stage and never calls it, so public checkpoints hold its weights.
    dead_modules: ClassVar[tuple[str, ...]] = ("sub_block1",)

    def __init__(
        self, shape: Shape, classes: int, *, depth: int, widen: int, copied: bool = True
    ) -> None:
        """Makes the network; see `WideResNet`.

        Args:
            shape: (C, H, W).
            classes: number of logits.
            depth: 6n + 4 for stages of n blocks.
            widen: the stages have 16, 32 and 64 times as many channels.
            copied: with the unused copy of the first stage.
        """
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)
        self.block1 = _stage(blocks, 16, 16 * widen, 1)
        if copied:
            self.sub_block1 = _stage(blocks, 16, 16 * widen, 1)
        self.block2 = _stage(blocks, 16 * widen, 32 * widen, 2)
        self.block3 = _stage(blocks, 32 * widen, 64 * widen, 2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64 * widen, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns (N, K) logits of normalised (N, C, H, W) inputs."""
        features = self.block3(self.block2(self.block1(self.conv1(inputs))))
        pooled = self.pool(F.relu(self.bn1(features)))
        logits: Tensor = self.fc(self.flatten(pooled))
        return logits


def wrn_28_4(shape: Shape, classes: int) -> nn.Module:
    """Returns WRN-28-4 for (C, H, W) inputs."""
    return WideResNet(shape, classes, depth=28, widen=4)


def wrn_28_10(shape: Shape, classes: int) -> nn.Module:
    """Returns WRN-28-10 for (C, H, W) inputs."""
    return WideResNet(shape, classes, depth=28, widen=10)


def wrn_34_10(shape: Shape, classes: int) -> nn.Module:
    """Returns WRN-34-10 for (C, H, W) inputs."""
    return WideResNet(shape, classes, depth=34, widen=10)


def wrn_16_8(shape: Shape, classes: int) -> nn.Module:
    """Returns ATMC's WRN-16-8 for (C, H, W) inputs, whose code makes no unused copy."""
    return WideResNet(shape, classes, depth=16, widen=8, copied=False)
