"""The literal table of networks, and building one by its name."""

from collections.abc import Sequence

from benchmark.architectures.base import Architecture, Classifier, Shape, Shapes, assemble
from benchmark.architectures.cnn import cnn_large, cnn_small, cnn_tiny
from benchmark.architectures.imagenet import resnet50
from benchmark.architectures.lenet import lenet3, lenet5, lenet5_caffe, lenet_radmm
from benchmark.architectures.resnet import preact_resnet18, resnet18, resnet34
from benchmark.architectures.vgg import (
    vgg16_bn,
    vgg16_bn_512,
    vgg16_bn_4096,
    vgg16_bn_li20,
    vgg16_bn_mad,
    vgg16_bn_pwoa,
    vgg16_bn_twinrep,
)
from benchmark.architectures.wideresnet import wrn_16_8, wrn_28_4, wrn_28_10, wrn_34_10
from benchmark.errors import lookup

MNIST_OR_CIFAR = Shapes(exact=((1, 28, 28), (3, 32, 32)))
QUARTERS = Shapes(multiple=4)
CIFAR = Shapes(exact=((3, 32, 32),))
HYDRA = "HYDRA, Sehwag et al. 2020, arXiv 2002.10509"
ATMC = "ATMC, Gui et al. 2019, arXiv 1902.03538"
PWOA = "PwoA, Jian et al. 2022, arXiv 2210.04311"
RADMM = "RADMM, Ye et al. 2019, arXiv 1903.12561"
FLYING_BIRD = "FlyingBird, Chen et al. 2022, arXiv 2202.09844"

ARCHITECTURES: dict[str, Architecture] = {
    entry.name: entry
    for entry in (
        Architecture("cnn-tiny", "CNN tiny", cnn_tiny, Shapes(multiple=2), "this project"),
        Architecture("cnn-small", "CNN small", cnn_small, MNIST_OR_CIFAR, HYDRA),
        Architecture("cnn-large", "CNN large", cnn_large, MNIST_OR_CIFAR, HYDRA),
        Architecture(
            "lenet5-caffe",
            "LeNet-5 (Caffe)",
            lenet5_caffe,
            Shapes(exact=((1, 28, 28),)),
            ATMC,
        ),
        Architecture(
            "lenet5",
            "LeNet-5 (BAP)",
            lenet5,
            QUARTERS,
            "Blind Adversarial Pruning, Xie et al. 2020, arXiv 2004.05913",
        ),
        Architecture("lenet3", "LeNet-3", lenet3, QUARTERS, PWOA),
        Architecture(
            "lenet-radmm",
            "LeNet (width 4)",
            lenet_radmm,
            QUARTERS,
            RADMM,
        ),
        Architecture("vgg16-bn", "VGG-16-BN", vgg16_bn, Shapes(multiple=32), HYDRA),
        Architecture("vgg16-bn-512", "VGG-16-BN (RADMM)", vgg16_bn_512, CIFAR, RADMM),
        Architecture(
            "vgg16-bn-twinrep",
            "VGG-16-BN (TwinRep)",
            vgg16_bn_twinrep,
            CIFAR,
            "TwinRep, Li et al. 2023",
        ),
        Architecture(
            "vgg16-bn-mad",
            "VGG-16-BN (MAD)",
            vgg16_bn_mad,
            CIFAR,
            "MAD, Lee et al. 2022, arXiv 2204.02738",
        ),
        Architecture(
            "vgg16-bn-li20",
            "VGG-16-BN (Li20)",
            vgg16_bn_li20,
            CIFAR,
            "Boosting tickets, Li et al. 2020, arXiv 2003.05733",
        ),
        Architecture(
            "vgg16-bn-pwoa",
            "VGG-16-BN (PwoA, published)",
            vgg16_bn_pwoa,
            CIFAR,
            "Piras et al. 2024, arXiv 2409.01249",
        ),
        Architecture("vgg16-bn-4096", "VGG-16-BN (PwoA)", vgg16_bn_4096, CIFAR, PWOA),
        Architecture("resnet18", "ResNet-18", resnet18, QUARTERS, HYDRA),
        Architecture("resnet34", "ResNet-34", resnet34, QUARTERS, ATMC),
        Architecture("preact-resnet18", "PreActResNet-18", preact_resnet18, QUARTERS, FLYING_BIRD),
        Architecture("wrn-16-8", "WRN-16-8", wrn_16_8, QUARTERS, ATMC),
        Architecture("wrn-28-4", "WRN-28-4", wrn_28_4, QUARTERS, HYDRA),
        Architecture("wrn-28-10", "WRN-28-10", wrn_28_10, QUARTERS, HYDRA),
        Architecture("wrn-34-10", "WRN-34-10", wrn_34_10, QUARTERS, PWOA),
        Architecture(
            "resnet50",
            "ResNet-50",
            resnet50,
            Shapes(channels=3, multiple=32),
            "torchvision; He et al. 2016, arXiv 1512.03385",
        ),
    )
}


def build(
    name: str, *, shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float]
) -> Classifier:
    """Returns a network by name, its weights still zero; no random number is drawn.

    Args:
        name: key of `ARCHITECTURES`.
        shape: (C, H, W) of one input.
        classes: number of logits, at least 2.
        mean: one a channel, in [0, 1] pixel units.
        std: one a channel, in [0, 1] pixel units, positive.

    Raises:
        UnknownName: no such network.
        ContractError: the network is not defined for the shape, or classes, mean or std make no
            sense.
    """
    architecture = lookup("architecture", name, ARCHITECTURES)
    return assemble(architecture, shape=shape, classes=classes, mean=mean, std=std)
