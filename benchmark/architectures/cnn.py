"""Small networks that verification can handle: strided convolutions, no pooling, no batch norm."""

from torch import nn

from benchmark.architectures.base import Shape


def cnn_tiny(shape: Shape, classes: int) -> nn.Module:
    """Returns our network for 8x8 digits: two convolutions and one linear layer.

    Args:
        shape: (C, H, W) with even H and W.
        classes: number of logits.
    """
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=1, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), classes),
    )


def cnn_small(shape: Shape, classes: int) -> nn.Module:
    """Returns HYDRA's `mnist_model` or `cifar_model`; keys 0, 2, 5, 7.

    Args:
        shape: (C, H, W) with H and W multiples of 4.
        classes: number of logits.

    Source: Sehwag et al., HYDRA, NeurIPS 2020, arXiv 2002.10509 (network of Wong et al. 2018).
    """
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


def cnn_large(shape: Shape, classes: int) -> nn.Module:
    """Returns HYDRA's `mnist_model_large` or `cifar_model_large`; keys 0, 2, 4, 6, 9, 11, 13.

    Args:
        shape: (C, H, W) with H and W multiples of 4.
        classes: number of logits.

    Source: Sehwag et al., HYDRA, NeurIPS 2020, arXiv 2002.10509 (network of Wong et al. 2018).
    """
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, stride=1, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=1, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )
