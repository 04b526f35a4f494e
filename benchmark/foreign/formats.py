"""The formats of published checkpoints: how each stores its masks, names and normalisation."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmark.errors import ManifestError, lookup
from benchmark.foreign.keras import flattened
from benchmark.foreign.masks import (
    State,
    density_in,
    from_composition,
    from_factors,
    from_learned_rates,
    from_masks,
    from_scores,
    from_soft_masks,
    layers_with,
    without_copies,
)

# Mean and standard deviation a channel.
Scaling = tuple[tuple[float, ...], tuple[float, ...]]

# What a format may leave out because its networks do without: norms that do not scale, and biases
# of the last layer.
NORMS, LAST_BIAS = "norms", "last bias"

IMAGENET: Scaling = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
_SVHN: Scaling = ((0.43090966, 0.4302428, 0.44634357), (0.19759192, 0.20029082, 0.19811132))


@dataclass(frozen=True)
class Question:
    """What is known of a file beside its content.

    Attributes:
        path: its name, which may state a density.
        sparsity: claimed share of removed weights, or None.
        density: share that each layer keeps, if it was said apart.
    """

    path: Path
    sparsity: float | None = None
    density: float | None = None

    def kept(self, format_name: str) -> float:
        """Returns the share of weights that scores keep: as said, as in the path, as claimed.

        Raises:
            ManifestError: nobody says it.
        """
        claimed = None if self.sparsity is None else 1 - self.sparsity
        for density in (self.density, density_in(self.path), claimed):
            if density is not None:
                return density
        raise ManifestError(
            f"expected the share of weights that the scores of a {format_name} file keep, which "
            "the file does not hold; give --density or --sparsity"
        )


@dataclass(frozen=True)
class Format:
    """How one public code writes its checkpoints.

    Attributes:
        name: key in the table.
        title: of the method.
        code: where its code is.
        layout: how masks are stored, in words.
        inputs: how inputs are scaled, in words.
        marks: parts of names that no other format has; empty for those told by their user.
        resolve: makes plain weights of what is stored.
        scalings: mean and std by data set; where a data set is missing, inputs are not scaled.
        renamed: patterns of names, and what our network calls them.
        architectures: the networks of its code, the only ones that are tried; empty for all.
        absent: what its networks do without, see `NORMS` and `LAST_BIAS`.
    """

    name: str
    title: str
    code: str
    layout: str
    inputs: str
    marks: tuple[str, ...]
    resolve: Callable[[State, Question], State]
    scalings: Mapping[str, Scaling]
    renamed: tuple[tuple[str, str], ...] = ()
    architectures: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()

    def scaling(self, dataset: str, channels: int) -> Scaling:
        """Returns what the format's code scales a data set's inputs with."""
        return self.scalings.get(dataset.removesuffix("-jpeg"), self.none(channels))

    @staticmethod
    def none(channels: int) -> Scaling:
        """Returns the scaling that changes nothing."""
        return (0.0,) * channels, (1.0,) * channels

    def rename(self, state: State) -> State:
        """Returns the tensors under our names.

        Raises:
            ManifestError: two get the same name.
        """
        found: State = {}
        for name, tensor in state.items():
            ours = name
            for pattern, replacement in self.renamed:
                ours = re.sub(pattern, replacement, ours)
            if ours in found:
                raise ManifestError(
                    f"expected one tensor for '{ours}', got two; choose the format of the file"
                )
            found[ours] = tensor
        return found


def _masks_alone(state: State, _: Question) -> State:
    return from_masks(state)


def _hydra(state: State, question: Question) -> State:
    if not layers_with(state, "popup_scores"):
        return from_masks(state)
    return from_scores(state, "popup_scores", question.kept("hydra"))


def _harp(state: State, question: Question) -> State:
    if not layers_with(state, "k_score"):
        return from_masks(state)
    return from_learned_rates(state, question.kept("harp"))


def _rst(state: State, question: Question) -> State:
    if not layers_with(state, "scores"):
        return from_masks(state)
    return from_scores(state, "scores", question.kept("rst"))


def _mad(state: State, _: Question) -> State:
    return from_soft_masks(state)


def _twinrep(state: State, _: Question) -> State:
    return from_masks(from_factors(state))


def _li20(state: State, _: Question) -> State:
    return from_masks(without_copies(state))


def _bap(state: State, _: Question) -> State:
    first = state.get("2.weight")
    before = state.get("1.weight")
    if first is None or before is None or first.shape[1] % before.shape[0]:
        raise ManifestError(
            "expected two convolutions and two linear layers of a Keras lenet5, got others; "
            "convert the network to a torch state dict"
        )
    return {**state, "2.weight": flattened(first, before.shape[0])}


def _atmc(state: State, _: Question) -> State:
    return from_composition(state)


# PwoA's VGG-16 counts the convolutions of each block, and our sequence counts through.
_PWOA_FIRST = {(1, 0): 0, (1, 1): 3, (2, 0): 7, (2, 1): 10, (3, 0): 14, (3, 1): 17, (3, 2): 20}
_PWOA_FIRST |= {(4, 0): 24, (4, 1): 27, (4, 2): 30, (5, 0): 34, (5, 1): 37, (5, 2): 40}
_PWOA_NAMES = tuple(
    (rf"^layer{block}\.{place}\.{part}\.", f"features.{first + part}.")
    for (block, place), first in _PWOA_FIRST.items()
    for part in (0, 1)
)

FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            name="hydra",
            title="HYDRA",
            code="https://github.com/inspire-group/hydra",
            layout="`popup_scores` beside each weight, the share that they keep outside the file; "
            "or weights already multiplied (`_dense`)",
            inputs="as they are; ImageNet scaled",
            marks=("popup_scores",),
            resolve=_hydra,
            scalings={"imagenet": IMAGENET},
        ),
        Format(
            name="harp",
            title="HARP",
            code="https://github.com/intellisec/harp",
            layout="`popup_scores` of weights or channels, and `k_score`, from which each layer's "
            "share follows; or weights already multiplied",
            inputs="as they are; ImageNet scaled",
            marks=("k_score",),
            resolve=_harp,
            scalings={"imagenet": IMAGENET},
        ),
        Format(
            name="radmm",
            title="RADMM",
            code="https://github.com/yeshaokai/Robustness-Aware-Pruning-ADMM",
            layout="zeros among the weights",
            inputs="as they are",
            marks=(),
            resolve=_masks_alone,
            scalings={},
            architectures=("resnet18", "vgg16-bn-512", "lenet-radmm"),
        ),
        Format(
            name="pwoa",
            title="PwoA",
            code="https://github.com/neu-spiral/PwoA",
            layout="zeros among the weights",
            inputs="as they are",
            marks=(),
            resolve=_masks_alone,
            scalings={},
            renamed=(
                *_PWOA_NAMES,
                (r"^layer6\.0\.", "classifier.0."),
                (r"^layer6\.1\.", "classifier.norm0."),
                (r"^layer7\.0\.", "classifier.2."),
                (r"^layer7\.1\.", "classifier.norm1."),
                (r"^layer8\.", "classifier.4."),
            ),
            architectures=("resnet18", "wrn-34-10", "vgg16-bn-pwoa", "vgg16-bn-4096", "lenet3"),
        ),
        Format(
            name="twinrep",
            title="TwinRep",
            code="https://github.com/UCAS-LCH/Twin-Rep",
            layout="the dense product; or its factors `weight` and `aux_weight` with a `mask`",
            inputs="as they are",
            marks=("aux_weight",),
            resolve=_twinrep,
            scalings={},
            architectures=("resnet18", "vgg16-bn-twinrep", "wrn-28-4", "wrn-28-10", "wrn-34-10"),
        ),
        Format(
            name="mad",
            title="MAD",
            code="https://github.com/ByungKwanLee/Masking-Adversarial-Damage",
            layout="`mask_weight` and `mask_bias`, whose softplus multiplies weight and bias",
            inputs="scaled, by constants that are not in the file",
            marks=("mask_weight",),
            resolve=_mad,
            scalings={
                "cifar10": (_CIFAR10_MEAN, (0.2023, 0.1994, 0.2010)),
                "svhn": _SVHN,
                "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
            },
            renamed=((r"^feature\.", "features."),),
            architectures=("resnet18", "vgg16-bn-mad", "wrn-28-10"),
        ),
        Format(
            name="li20",
            title="Boosting tickets (Li20)",
            code="https://github.com/boosting-ticket/ticket_robust",
            layout="zeros among the weights; or a `mask` beside them; modules under two names",
            inputs="as they are, unless the training's flag `norm` was set",
            marks=(),
            resolve=_li20,
            scalings={},
            renamed=(
                (r"^(feature|0)\.(?=\d+\.)", "features."),
                (r"^(classifier|3)\.0\.", "classifier.0."),
                (r"^(classifier|3)\.1\.", "classifier.norm0."),
                (r"^(classifier|3)\.3\.", "classifier.2."),
            ),
            architectures=("resnet18", "vgg16-bn-li20"),
        ),
        Format(
            name="rst",
            title="Robust scratch tickets (RST)",
            code="https://github.com/GATECH-EIC/Robust-Scratch-Ticket",
            layout="`scores` of weights, rows, kernels or filters; the share that they keep, its "
            "`prune-rate`, outside the file; norms without scale, a last layer without bias",
            inputs="scaled",
            marks=("scores",),
            resolve=_rst,
            scalings={
                "cifar10": (_CIFAR10_MEAN, (0.2471, 0.2435, 0.2616)),
                "cifar100": (_CIFAR10_MEAN, (0.2471, 0.2435, 0.2616)),
                "svhn": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
                "imagenet": IMAGENET,
            },
            renamed=((r"^fc\.", "linear."),),
            architectures=("resnet18", "vgg16-bn-twinrep"),
            absent=frozenset({NORMS, LAST_BIAS}),
        ),
        Format(
            name="flyingbird",
            title="FlyingBird and RobustBird",
            code="https://github.com/VITA-Group/Sparsity-Win-Robust-Generalization",
            layout="zeros among the weights; or `weight_orig` and `weight_mask`",
            inputs="scaled, by the file's `normalize.mean` and `normalize.std` where it has them",
            marks=("weight_mask", "normalize.mean"),
            resolve=_masks_alone,
            scalings={
                "cifar10": (_CIFAR10_MEAN, (0.2470, 0.2435, 0.2616)),
                "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
                "svhn": ((0.4309, 0.4302, 0.4463), (0.1976, 0.2003, 0.1981)),
            },
            architectures=("preact-resnet18", "vgg16-bn-512", "wrn-28-10", "wrn-34-10"),
        ),
        Format(
            name="atmc",
            title="ATMC",
            code="https://github.com/shupenggui/ATMC",
            layout="factors `weightA`, `weightB`, `weightC` and the constant `eye_const`: "
            "(B + I) A + C, or B (A + I) + C",
            inputs="as they are; CIFAR-100 and SVHN scaled",
            marks=("weightA",),
            resolve=_atmc,
            scalings={
                "cifar100": (_CIFAR10_MEAN, (0.2023, 0.1994, 0.2010)),
                "svhn": (
                    (125.3 / 255, 123.0 / 255, 113.9 / 255),
                    (63.0 / 255, 62.1 / 255, 66.7 / 255),
                ),
            },
            architectures=("lenet5-caffe", "resnet18", "resnet34", "wrn-16-8"),
        ),
        Format(
            name="bap",
            title="Blind adversarial pruning (BAP)",
            code="https://github.com/Lixin-Qian/BAP",
            layout="a Keras `.h5` of `lenet5`, zeros among its kernels; needs the extra `keras`",
            inputs="as they are",
            marks=(),
            resolve=_bap,
            scalings={},
            renamed=(
                (r"^0\.", "features.0."),
                (r"^1\.", "features.3."),
                (r"^2\.", "classifier.0."),
                (r"^3\.", "classifier.2."),
            ),
            architectures=("lenet5",),
        ),
        Format(
            name="robustbench",
            title="RobustBench",
            code="https://github.com/RobustBench/robustbench",
            layout="zeros among the weights (HYDRA's WRN-28-10)",
            inputs="as they are",
            marks=(),
            resolve=_masks_alone,
            scalings={},
            architectures=("wrn-28-10", "wrn-34-10", "resnet18", "preact-resnet18"),
        ),
        Format(
            name="plain",
            title="Any state dict",
            code="",
            layout="zeros among the weights; or a `mask` beside them; or `weight_orig` and "
            "`weight_mask`",
            inputs="as `--normalise` says, or the file's `normalize.mean` and `normalize.std`",
            marks=(),
            resolve=_masks_alone,
            scalings={},
        ),
    )
}


def format_of(name: str, state: Mapping[str, Tensor]) -> Format:
    """Returns a format by its name or, for `auto`, the one whose marks a file's names bear.

    Raises:
        UnknownName: no such format.
        ManifestError: marks of several formats.
    """
    if name != "auto":
        return lookup("format", name, FORMATS)
    # HARP's files have HYDRA's scores beside what is theirs.
    for first in ("harp", *FORMATS):
        if any(_bears(state, mark) for mark in FORMATS[first].marks):
            return FORMATS[first]
    return FORMATS["plain"]


def _bears(state: Mapping[str, Tensor], mark: str) -> bool:
    return any(name == mark or name.endswith(f".{mark}") for name in state)
