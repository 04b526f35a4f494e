"""VGG-16 with batch norm, as the robust pruning papers train it on 32x32 images.

All have the same thirteen convolutions. They differ in whether these have biases, in how the last
features are pooled, and in the layers behind.
"""

from collections import OrderedDict

from torch import nn

from benchmark.architectures.base import Shape

# Output channels of the convolutions between two poolings; ImageNet's fifth pooling is left out.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _features(channels: int, bias: bool) -> nn.Sequential:
    """Returns the convolutions, with a pooling between two stages and none behind the last."""
    layers: list[nn.Module] = []
    for stage in STAGES:
        if layers:
            layers.append(nn.MaxPool2d(2))
        for outputs in stage:
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=bias)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
    return nn.Sequential(*layers)


def _three_layers(shape: Shape, classes: int, bias: bool) -> nn.Module:
    channels, height, width = shape
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
            features=_features(channels, bias),
            avgpool=nn.AvgPool2d((height // 32, width // 32)),
            flatten=nn.Flatten(),
            classifier=classifier,
        )
    )


def vgg16_bn(shape: Shape, classes: int) -> nn.Module:
    """Returns HYDRA's `vgg16_bn`; keys features.0 to features.41 and classifier.0, 2, 4.

    Args:
        shape: (C, H, W) with H and W multiples of 32.
        classes: number of logits.

    Source: Sehwag et al., HYDRA, NeurIPS 2020, arXiv 2002.10509.
    """
    return _three_layers(shape, classes, bias=False)


def vgg16_bn_pwoa(shape: Shape, classes: int) -> nn.Module:
    """Returns the VGG-16 of the published PwoA checkpoints: HYDRA's, with biases throughout.

    Args:
        shape: (C, H, W) with H and W multiples of 32.
        classes: number of logits.

    Source: Piras et al., arXiv 2409.01249, code `models/pwoa.py`.
    """
    return _three_layers(shape, classes, bias=True)


def _one_layer(shape: Shape, classes: int, *, bias: bool, pool: nn.Module) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            features=_features(shape[0], bias),
            pool=pool,
            flatten=nn.Flatten(),
            classifier=nn.Linear(512, classes),
        )
    )


def vgg16_bn_512(shape: Shape, classes: int) -> nn.Module:
    """Returns the VGG-16 with one linear layer and biases; keys features.0 to 41 and classifier.

    Args:
        shape: (C, 32, 32).
        classes: number of logits.

    Source: Ye et al., RADMM, ICCV 2019, arXiv 1903.12561; Chen et al., ICLR 2022, arXiv 2202.09844.
    """
    return _one_layer(shape, classes, bias=True, pool=nn.MaxPool2d(2))


def vgg16_bn_twinrep(shape: Shape, classes: int) -> nn.Module:
    """Returns the VGG-16 with one linear layer, whose convolutions have no biases.

    Args:
        shape: (C, 32, 32).
        classes: number of logits.

    Source: Li et al., TwinRep, AAAI 2023; Fu et al., RST, NeurIPS 2021, arXiv 2110.14068.
    """
    return _one_layer(shape, classes, bias=False, pool=nn.MaxPool2d(2))


def vgg16_bn_mad(shape: Shape, classes: int) -> nn.Module:
    """Returns MAD's VGG-16, which averages where the others with one linear layer take the maximum.

    Args:
        shape: (C, 32, 32).
        classes: number of logits.

    Source: Lee et al., MAD, CVPR 2022, arXiv 2204.02738.
    """
    return _one_layer(shape, classes, bias=False, pool=nn.AvgPool2d(2))


def _normed(
    features: nn.Module, pool: nn.Module, widths: tuple[int, ...], classes: int
) -> nn.Module:
    """Returns a VGG whose hidden linear layers are normed; keys classifier.0, norm0, 2 and so on.

    On 1x1 features a linear layer is a 1x1 convolution, whose batch norm every part here knows.
    """
    classifier: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (inputs, outputs) in enumerate(zip((512, *widths), widths, strict=False)):
        classifier[str(2 * number)] = nn.Conv2d(inputs, outputs, 1)
        classifier[f"norm{number}"] = nn.BatchNorm2d(outputs)
        classifier[f"relu{number}"] = nn.ReLU()
    classifier["flatten"] = nn.Flatten()
    classifier[str(2 * len(widths))] = nn.Linear(widths[-1], classes)
    return nn.Sequential(
        OrderedDict(features=features, pool=pool, classifier=nn.Sequential(classifier))
    )


def vgg16_bn_li20(shape: Shape, classes: int) -> nn.Module:
    """Returns the VGG-16 of the boosting tickets: averaged, one hidden normed layer of 512.

    Args:
        shape: (C, 32, 32).
        classes: number of logits.

    Source: Li et al., arXiv 2003.05733.
    """
    return _normed(_features(shape[0], bias=False), nn.AvgPool2d(2), (512,), classes)


def vgg16_bn_4096(shape: Shape, classes: int) -> nn.Module:
    """Returns PwoA's own `VGG16`: biases, a fifth pooling, two hidden normed layers of 4096.

    Args:
        shape: (C, 32, 32).
        classes: number of logits.

    Source: Jian et al., PwoA, ICDM 2022, arXiv 2210.04311.
    """
    return _normed(_features(shape[0], bias=True), nn.MaxPool2d(2), (4096, 4096), classes)
