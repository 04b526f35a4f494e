"""VGG-16 with batch norm, as the robust pruning papers train it on 32x32 images."""

from collections import OrderedDict

from torch import nn

from benchmark.architectures.base import Shape

# Output channels of the convolutions between two poolings; ImageNet's fifth pooling is left out.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_bn(shape: Shape, classes: int) -> nn.Module:
    """Returns HYDRA's `vgg16_bn`; keys features.0 to features.41 and classifier.0, 2, 4.

    Args:
        shape: (C, H, W) with H and W multiples of 32.
        classes: number of logits.

    Source: Sehwag et al., HYDRA, NeurIPS 2020, arXiv 2002.10509.
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    for stage in STAGES:
        if layers:
            layers.append(nn.MaxPool2d(2))
        for outputs in stage:
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
    classifier = nn.Sequential(
        nn.Linear(512 * 2 * 2, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, classes),
    )
    # The public network pools adaptively to 2x2; on multiples of 32 that is this plain pooling,
    # which every bound engine knows.
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*layers),
            avgpool=nn.AvgPool2d((height // 32, width // 32)),
            flatten=nn.Flatten(),
            classifier=classifier,
        )
    )
