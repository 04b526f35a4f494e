"""ResNets for small images: a 3x3 stem without pooling, four stages, global average pooling."""

from collections import OrderedDict
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.architectures.base import Shape


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the size changes."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        """Makes a block from `channels` to `outputs` that divides height and width by `stride`."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns (N, outputs, H / stride, W / stride) features of (N, channels, H, W) inputs."""
        features = F.relu(self.bn1(self.conv1(inputs)))
        features = self.bn2(self.conv2(features))
        return F.relu(features + self.shortcut(inputs))


def _stages(
    block: Callable[[int, int, int], nn.Module], blocks: tuple[int, ...]
) -> dict[str, nn.Module]:
    """Returns layer1, layer2, ... of so many blocks each, the first 64 channels wide."""
    stages: dict[str, nn.Module] = {}
    channels = 64
    for number, count in enumerate(blocks):
        outputs = 64 << number
        first = block(channels, outputs, 2 if number else 1)
        rest = [block(outputs, outputs, 1) for _ in range(count - 1)]
        stages[f"layer{number + 1}"] = nn.Sequential(first, *rest)
        channels = outputs
    return stages


def _resnet(shape: Shape, classes: int, blocks: tuple[int, ...]) -> nn.Module:
    """Returns a residual network of four stages of so many blocks."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 64, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
            **_stages(BasicBlock, blocks),
            pool=nn.AdaptiveAvgPool2d((1, 1)),
            flatten=nn.Flatten(),
            linear=nn.Linear(512, classes),
        )
    )


def resnet18(shape: Shape, classes: int) -> nn.Module:
    """Returns HYDRA's `resnet18`; keys conv1, bn1, layer1 to layer4 and linear.

    Args:
        shape: (C, H, W); 32x32 in the papers, any size works because the pooling is global.
        classes: number of logits.

    Source: He et al., CVPR 2016, arXiv 1512.03385; Sehwag et al., HYDRA, arXiv 2002.10509.
    """
    return _resnet(shape, classes, (2, 2, 2, 2))


def resnet34(shape: Shape, classes: int) -> nn.Module:
    """Returns ATMC's ResNet-34, of the same blocks; keys as in `resnet18`.

    Args:
        shape: (C, H, W).
        classes: number of logits.

    Source: He et al., CVPR 2016, arXiv 1512.03385; Gui et al., ATMC, arXiv 1902.03538.
    """
    return _resnet(shape, classes, (3, 4, 6, 3))


class PreActBlock(nn.Module):
    """Norm, ReLU and convolution twice, beside a shortcut that sees activated inputs."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        """Makes a block from `channels` to `outputs` that divides height and width by `stride`."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(channels, outputs, 1, stride=stride, bias=False))
            if stride != 1 or channels != outputs
            else None
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns (N, outputs, H / stride, W / stride) features of (N, channels, H, W) inputs."""
        activated = F.relu(self.bn1(inputs))
        features: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        # An identity passes the raw inputs on.
        if self.shortcut is None:
            return inputs + features
        shortcut: Tensor = self.shortcut(activated)
        return shortcut + features


def preact_resnet18(shape: Shape, classes: int) -> nn.Module:
    """Returns FlyingBird's pre-activation ResNet-18; keys conv1, layer1 to layer4, bn and linear.

    Args:
        shape: (C, H, W).
        classes: number of logits.

    Source: He et al., ECCV 2016, arXiv 1603.05027; Chen et al., ICLR 2022, arXiv 2202.09844.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 64, 3, padding=1, bias=False),
            **_stages(PreActBlock, (2, 2, 2, 2)),
            bn=nn.BatchNorm2d(512),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d((1, 1)),
            flatten=nn.Flatten(),
            linear=nn.Linear(512, classes),
        )
    )
