"""The networks that pruning papers call LeNet: two pooled 5x5 convolutions, two linear layers.

All return logits. Some of the public codes end in a log-softmax instead; it changes neither the
predicted class nor the cross-entropy nor any difference of two outputs, so it is left out.
"""

from collections import OrderedDict

from torch import nn

from benchmark.architectures.base import Shape


def lenet5_caffe(shape: Shape, classes: int) -> nn.Module:
    """Returns ATMC's `CaffeLeNet`, which has no ReLU behind its convolutions.

    Args:
        shape: (C, 28, 28).
        classes: number of logits.

    Source: Gui et al., ATMC, NeurIPS 2019, arXiv 1902.03538, code `mnist/caffelenet`.
    """
    features = nn.Sequential(
        nn.Conv2d(shape[0], 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)
    )
    # 28 -> 24 -> 12 -> 8 -> 4.
    classifier = nn.Sequential(nn.Linear(50 * 4 * 4, 500), nn.ReLU(), nn.Linear(500, classes))
    return nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    )


def lenet5(shape: Shape, classes: int) -> nn.Module:
    """Returns BAP's `lenet5` with ReLU throughout.

    The published code is Keras, so the names are ours; a converted linear layer needs its columns
    reordered from (H, W, C) to (C, H, W).

    Args:
        shape: (C, H, W) with H and W multiples of 4.
        classes: number of logits.

    Source: Xie et al., Blind Adversarial Pruning, arXiv 2004.05913.
    """
    channels, height, width = shape
    features = nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    classifier = nn.Sequential(
        nn.Linear(64 * (height // 4) * (width // 4), 84), nn.ReLU(), nn.Linear(84, classes)
    )
    return nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    )


def lenet_radmm(shape: Shape, classes: int, *, width: int = 4) -> nn.Module:
    """Returns RADMM's LeNet of a given width; keys conv1, conv2, fc1, fc2.

    Args:
        shape: (C, H, W) with H and W multiples of 4.
        classes: number of logits.
        width: w; the layers have 2w and 4w channels and 64w hidden units.

    Source: Ye et al., RADMM, ICCV 2019, arXiv 1903.12561.
    """
    channels, rows, columns = shape
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 2 * width, 5, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(2 * width, 4 * width, 5, padding=2),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(4 * width * (rows // 4) * (columns // 4), 64 * width),
            relu3=nn.ReLU(),
            fc2=nn.Linear(64 * width, classes),
        )
    )


def lenet3(shape: Shape, classes: int) -> nn.Module:
    """Returns PwoA's `LeNet3`, which is RADMM's LeNet of width 16.

    Args:
        shape: (C, H, W) with H and W multiples of 4.
        classes: number of logits.

    Source: Jian et al., PwoA, ICDM 2022, arXiv 2210.04311.
    """
    return lenet_radmm(shape, classes, width=16)
