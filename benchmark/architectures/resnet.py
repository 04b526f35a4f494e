"""ResNet-18 for small images: a 3x3 stem without pooling, four stages, global average pooling."""

from collections import OrderedDict

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


def resnet18(shape: Shape, classes: int) -> nn.Module:
    """Returns HYDRA's `resnet18`; keys conv1, bn1, layer1 to layer4 and linear.

    Args:
        shape: (C, H, W); 32x32 in the papers, any size works because the pooling is global.
        classes: number of logits.

    Source: He et al., CVPR 2016, arXiv 1512.03385; Sehwag et al., HYDRA, arXiv 2002.10509.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 64, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
            layer1=nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1)),
            layer2=nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1)),
            layer3=nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1)),
            layer4=nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1)),
            pool=nn.AdaptiveAvgPool2d((1, 1)),
            flatten=nn.Flatten(),
            linear=nn.Linear(512, classes),
        )
    )
