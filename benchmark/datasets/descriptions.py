"""What is known about each data set before any of its files is opened."""

from dataclasses import dataclass
from typing import Literal

Augmentation = Literal["none", "crop", "crop-flip"]
# As published: training data, from which the validation part is cut, and test data.
Half = Literal["train", "test"]


@dataclass(frozen=True)
class Description:
    """One data set.

    Attributes:
        name: the key in `DATASETS`, or `folder:NAME`.
        title: the name in print.
        shape: (channels, height, width) of one input.
        classes: number of labels; they run from 0.
        mean: per channel, of inputs in [0, 1], over training data.
        std: per channel, same data and unit.
        augmentation: what training does to inputs: nothing, padded random crops, crops and
            horizontal flips.
        source: whom to cite, and where the originals are.
        licence: terms of the data, as stated by its authors.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    source: str
    licence: str


_CIFAR_SOURCE = (
    "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; "
    "https://www.cs.toronto.edu/~kriz/cifar.html"
)
_CIFAR_LICENCE = "none stated; the authors ask to be cited"

# Means and deviations are those in common use, computed by others over all training pixels. Two
# data sets have none in common use: for `digits` and `cifar10-jpeg` they are computed over all
# pixels of the train part as this package cuts it (without validation and test examples), rounded
# to four digits, and a test recomputes them.
DATASETS: dict[str, Description] = {
    "digits": Description(
        name="digits",
        title="Digits 8x8",
        shape=(1, 8, 8),
        classes=10,
        mean=(0.3044,),
        std=(0.3755,),
        # Eight pixels a side leave no room for shifts, and mirrored digits are other symbols.
        augmentation="none",
        source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998; "
        "https://doi.org/10.24432/C50P49 (the copy in scikit-learn)",
        licence="CC BY 4.0",
    ),
    "mnist": Description(
        name="mnist",
        title="MNIST",
        shape=(1, 28, 28),
        classes=10,
        mean=(0.1307,),
        std=(0.3081,),
        augmentation="none",
        source="LeCun, Cortes and Burges, The MNIST Database of Handwritten Digits, 1998; "
        "http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0",
    ),
    "fashion-mnist": Description(
        name="fashion-mnist",
        title="Fashion-MNIST",
        shape=(1, 28, 28),
        classes=10,
        mean=(0.2860,),
        std=(0.3530,),
        augmentation="none",
        source="Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747; "
        "https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
    ),
    "cifar10": Description(
        name="cifar10",
        title="CIFAR-10",
        shape=(3, 32, 32),
        classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        # Over all pixels. The also common 0.2023, 0.1994, 0.2010 averages the deviations of images.
        std=(0.2470, 0.2435, 0.2616),
        augmentation="crop-flip",
        source=_CIFAR_SOURCE,
        licence=_CIFAR_LICENCE,
    ),
    "cifar10-jpeg": Description(
        name="cifar10-jpeg",
        title="CIFAR-10 (JPEG copy)",
        shape=(3, 32, 32),
        classes=10,
        mean=(0.4912, 0.4821, 0.4465),
        std=(0.2453, 0.2429, 0.2607),
        augmentation="crop-flip",
        source=f"{_CIFAR_SOURCE} (recompressed as JPEG: pixels differ from the originals)",
        licence=_CIFAR_LICENCE,
    ),
    "cifar100": Description(
        name="cifar100",
        title="CIFAR-100",
        shape=(3, 32, 32),
        classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        augmentation="crop-flip",
        source=_CIFAR_SOURCE,
        licence=_CIFAR_LICENCE,
    ),
    "svhn": Description(
        name="svhn",
        title="SVHN",
        shape=(3, 32, 32),
        classes=10,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        # Mirrored house numbers are other symbols, so no flips, although some papers flip them.
        augmentation="crop",
        source="Netzer et al., Reading Digits in Natural Images with Unsupervised Feature "
        "Learning, 2011; http://ufldl.stanford.edu/housenumbers/",
        licence="non-commercial use only",
    ),
    "imagenet": Description(
        name="imagenet",
        title="ImageNet (ILSVRC 2012)",
        shape=(3, 224, 224),
        classes=1000,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        augmentation="crop-flip",
        source="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, "
        "arXiv:1409.0575; https://image-net.org",
        licence="non-commercial research and education only, by agreement with its owners",
    ),
}
