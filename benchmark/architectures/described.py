"""Networks given as data: a list of layers in JSON, from which the network is built.

Such a network has the layers of torch under names of its own, so that pruning, bounds and
compaction treat it as any other, and no code of its author ever runs. A description may come from
anybody: it is read strictly, and its shapes are computed without any memory before a tensor is
made.

Its name among architectures is made from its content, so that no other network can take it.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from benchmark.architectures.base import Architecture, Classifier, Shape, Shapes, assemble
from benchmark.digests import digest_of_plain
from benchmark.errors import ContractError, lookup, shorten

PREFIX = "described-"
FORMAT = 1

# Lower-case words joined by hyphens; with prefix and digest it still fits the columns of a page.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST_NAME = 16
_ID = re.compile(rf"{PREFIX}([a-z0-9-]{{1,{_LONGEST_NAME}}})-([0-9a-f]{{12}})")

# A path of submodules. No part begins with an underscore: torch keeps such names for itself.
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]{0,63}(\.[A-Za-z0-9][A-Za-z0-9_]{0,63}){0,15}")
_LONGEST_PATH = 200
# Read from modules by name, by us or by torch, without being attributes of every module.
_KEPT = frozenset({"dead_modules", "parametrizations"})

# A ResNet-50 on ImageNet has 176 layers, 26 million parameters, 38 million values for one image and
# 4 thousand million multiply-adds; a VGG-16 there has 138 million parameters.
MOST_LAYERS = 1024
LARGEST_SIZE = 1 << 12
MOST_PARAMETERS = 1 << 28
MOST_VALUES = 1 << 26
MOST_MULTIPLY_ADDS = 1 << 36


@dataclass(frozen=True)
class _Kind:
    """What a layer of one kind says of itself.

    Attributes:
        make: channels or features of its input, and settings -> the layer; None for a sum.
        rank: dimensions of its inputs, batch included; 0 for any.
        inputs: their number.
        counts: settings that are one whole number, at least 1.
        pairs: settings that are pairs of whole numbers, and the least they may be.
        switches: settings that are true or false.
        fractions: settings that are numbers in (0, 1].
    """

    make: Callable[..., nn.Module] | None
    rank: int = 4
    inputs: int = 1
    counts: tuple[str, ...] = ()
    pairs: Mapping[str, int] = field(default_factory=dict)
    switches: tuple[str, ...] = ()
    fractions: tuple[str, ...] = ()

    @property
    def settings(self) -> set[str]:
        """The names of all settings."""
        return {*self.counts, *self.pairs, *self.switches, *self.fractions}


_WINDOW = {"kernel_size": 1, "stride": 1, "padding": 0}
_KINDS: dict[str, _Kind] = {
    "conv2d": _Kind(
        lambda channels, outputs, **settings: nn.Conv2d(channels, outputs, **settings),
        counts=("outputs",),
        pairs={**_WINDOW, "dilation": 1},
        switches=("bias",),
    ),
    "batchnorm2d": _Kind(
        lambda channels, **settings: nn.BatchNorm2d(channels, **settings),
        switches=("affine",),
        fractions=("eps",),
    ),
    "linear": _Kind(
        lambda features, outputs, bias: nn.Linear(features, outputs, bias),
        rank=2,
        counts=("outputs",),
        switches=("bias",),
    ),
    "relu": _Kind(lambda channels: nn.ReLU(), rank=0),
    "max-pool": _Kind(
        lambda channels, **settings: nn.MaxPool2d(**settings),
        pairs={**_WINDOW, "dilation": 1},
        switches=("ceil_mode",),
    ),
    "average-pool": _Kind(
        lambda channels, **settings: nn.AvgPool2d(**settings),
        pairs=_WINDOW,
        switches=("ceil_mode", "count_include_pad"),
    ),
    "mean": _Kind(lambda channels: nn.AdaptiveAvgPool2d((1, 1))),
    "flatten": _Kind(lambda channels: nn.Flatten()),
    "add": _Kind(None, rank=0, inputs=2),
}
KINDS = tuple(_KINDS)

# They hold the weights that are pruned.
WEIGHTED = ("conv2d", "linear")


@dataclass(frozen=True)
class Layer:
    """One layer of a description.

    Attributes:
        name: path of the submodule, such as `layer1.0.conv2`.
        kind: one of `KINDS`.
        inputs: positions of the values that it takes: 0 is the normalised input, 1 the first
            layer's value, and so on.
        settings: of its kind: whole numbers, pairs of them, switches, and epsilon of a batch norm.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Returns the layer as JSON data."""
        said = {name: _plain(value) for name, value in sorted(self.settings.items())}
        return {"name": self.name, "kind": self.kind, "inputs": list(self.inputs), **said}


@dataclass(frozen=True)
class Description:
    """A network as data, checked: `parse` makes one.

    Attributes:
        name: lower-case words joined by hyphens.
        shape: (C, H, W) of one input.
        classes: number of logits.
        layers: in order; the last gives the logits.
    """

    name: str
    shape: Shape
    classes: int
    layers: tuple[Layer, ...]

    def plain(self) -> dict[str, Any]:
        """Returns the description as JSON data, always the same for the same network."""
        return {
            "format": FORMAT,
            "name": self.name,
            "shape": list(self.shape),
            "classes": self.classes,
            "layers": [layer.plain() for layer in self.layers],
        }

    @cached_property
    def architecture(self) -> str:
        """The id of the architecture: `described-<name>-<first 12 digits of its digest>`."""
        return f"{PREFIX}{self.name}-{digest_of_plain(self.plain())[:12]}"


def is_described(architecture: str) -> bool:
    """Returns whether an id is of a described architecture."""
    return architecture.startswith(PREFIX)


def title(architecture: str) -> str:
    """Returns the name for readers of a described architecture, from its id alone."""
    match = _ID.fullmatch(architecture)
    return f"{match[1]} (described)" if match else shorten(architecture)


def parse(found: object) -> Description:
    """Returns the description in JSON data, whoever wrote it.

    Args:
        found: what a JSON parser gave.

    Raises:
        ContractError: not a description, layers that do not fit each other or give other logits
            than promised, or a network larger than any of ours. Nothing was allocated.
        UnknownName: a kind of layer that nobody here knows.
    """
    if not isinstance(found, Mapping) or found.keys() != {
        *("format", "name", "shape", "classes", "layers")
    }:
        _refuse("a description with format, name, shape, classes and layers", found)
    if type(found["format"]) is not int or found["format"] != FORMAT:
        _refuse(f"a description of format {FORMAT}", found["format"])
    name, layers = found["name"], found["layers"]
    if type(name) is not str or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        _refuse(f"a name of at most {_LONGEST_NAME} letters a-z, digits and hyphens", name)
    shape = _numbers(found["shape"], 1, 3)
    if shape is None:
        _refuse(f"an input of shape (C, H, W), each 1 to {LARGEST_SIZE}", found["shape"])
    classes = _numbers([found["classes"]], 2, 1)
    if classes is None:
        _refuse(f"2 to {LARGEST_SIZE} classes", found["classes"])
    if not isinstance(layers, list | tuple) or not 0 < len(layers) <= MOST_LAYERS:
        _refuse(f"a list of 1 to {MOST_LAYERS} layers", layers)
    channels, height, width = shape
    made = tuple(_layer(number, entry) for number, entry in enumerate(layers))
    description = Description(name, (channels, height, width), classes[0], made)
    _check_names(made)
    _check_order(made)
    _check_shapes(description)
    _check_ends(description)
    return description


def build(description: Description, *, mean: Sequence[float], std: Sequence[float]) -> Classifier:
    """Returns a described network, its weights still zero; no random number is drawn.

    Args:
        description: of `parse`.
        mean: one a channel, in [0, 1] pixel units.
        std: one a channel, in [0, 1] pixel units, positive.

    Raises:
        ContractError: mean or std make no sense.
    """
    architecture = Architecture(
        description.architecture,
        title(description.architecture),
        lambda shape, classes: _body(description),
        Shapes(exact=(description.shape,)),
        "described by data",
    )
    return assemble(
        architecture, shape=description.shape, classes=description.classes, mean=mean, std=std
    )


# --- Reading a description


def _layer(number: int, found: object) -> Layer:
    if not isinstance(found, Mapping) or type(found.get("kind")) is not str:
        _refuse(f"a layer with a kind in place {number}", found)
    kind = lookup("kind of layer", found["kind"], _KINDS)
    wanted = {"name", "kind", "inputs"} | kind.settings
    if found.keys() != wanted:
        _refuse(
            f"{', '.join(sorted(wanted))} of a {found['kind']} in place {number}",
            ", ".join(sorted(map(str, found)))[:200],
        )
    name = found["name"]
    if type(name) is not str or len(name) > _LONGEST_PATH or not _PATH.fullmatch(name):
        _refuse(f"a path of letters, digits and underscores as name of layer {number}", name)
    inputs = _numbers(found["inputs"], 0, kind.inputs)
    if inputs is None or max(inputs) > number:
        _refuse(f"{kind.inputs} inputs from before layer {number}", found["inputs"])
    settings = {setting: _setting(name, kind, setting, found[setting]) for setting in kind.settings}
    return Layer(name, found["kind"], inputs, settings)


def _setting(layer: str, kind: _Kind, setting: str, value: object) -> object:
    said = f"{setting} of {shorten(layer)}"
    if setting in kind.switches:
        if type(value) is not bool:
            _refuse(f"true or false as {said}", value)
        return value
    if setting in kind.fractions:
        if type(value) not in (int, float) or not 0 < value <= 1:  # type: ignore[operator]
            _refuse(f"a number in (0, 1] as {said}", value)
        return float(value)  # type: ignore[arg-type]
    if setting in kind.counts:
        count = _numbers([value], 1, 1)
        if count is None:
            _refuse(f"1 to {LARGEST_SIZE} as {said}", value)
        return count[0]
    least = kind.pairs[setting]
    pair = _numbers(value, least, 2)
    if pair is None:
        _refuse(f"two whole numbers, {least} to {LARGEST_SIZE}, as {said}", value)
    return pair


def _numbers(found: object, least: int, count: int) -> tuple[int, ...] | None:
    """Returns whole numbers from `least` on; None where they are none, or not as many."""
    if not isinstance(found, list | tuple) or len(found) != count:
        return None
    fine = all(type(size) is int and least <= size <= LARGEST_SIZE for size in found)
    return tuple(found) if fine else None


def _check_names(layers: Sequence[Layer]) -> None:
    """Checks that each layer can have its name beside all others.

    Raises:
        ContractError: a name twice, below that of another layer, or kept by torch.
    """
    plain = nn.Sequential()
    for layer in layers:
        for part in layer.name.split("."):
            if part in _KEPT or hasattr(plain, part):
                _refuse("names of layers that torch does not keep for itself", layer.name)
    names = sorted(layer.name.split(".") for layer in layers)
    # In this order, what lies below a name follows it at once.
    for first, second in pairwise(names):
        if second[: len(first)] == first:
            _refuse("each layer under a name of its own", ".".join(second))


def _check_order(layers: Sequence[Layer]) -> None:
    """Checks that every value is used: the last alone is the answer.

    Raises:
        ContractError: a value that nothing reads, or no weights at all.
    """
    read = {position for layer in layers for position in layer.inputs}
    unread = [layer.name for at, layer in enumerate(layers[:-1], 1) if at not in read]
    if unread:
        _refuse("one output, of the last layer, and every other value read", unread[0])
    if not any(layer.kind in WEIGHTED for layer in layers):
        _refuse(f"at least one layer of {' or '.join(WEIGHTED)}", "none")


def _check_shapes(description: Description) -> None:
    """Checks that the layers fit each other and stay within bounds, without computing anything.

    Raises:
        ContractError: they do not.
    """
    with torch.device("meta"):
        values = [torch.empty(1, *description.shape)]
        parameters = entries = multiply_adds = 0
        for layer in description.layers:
            inputs = [values[position] for position in layer.inputs]
            parameters += _weights_of(layer, inputs)
            if parameters > MOST_PARAMETERS:
                _refuse(f"at most {MOST_PARAMETERS} parameters", f"more by {layer.name}")
            try:
                value = _value(layer, inputs)
            except (RuntimeError, ValueError, TypeError, OverflowError) as error:
                _refuse(f"layers that fit each other, {layer.name} among them", error)
            entries += value.numel()
            multiply_adds += _weights_of(layer, inputs) * math.prod(value.shape[2:])
            if entries > MOST_VALUES or multiply_adds > MOST_MULTIPLY_ADDS:
                _refuse(
                    f"at most {MOST_VALUES} values and {MOST_MULTIPLY_ADDS} multiply-adds for one "
                    "input",
                    f"more by {layer.name}",
                )
            values.append(value)
    found = tuple(values[-1].shape)
    if found != (1, description.classes):
        _refuse(f"logits (N, {description.classes}) from the last layer", found)


def _weights_of(layer: Layer, inputs: Sequence[Tensor]) -> int:
    """Returns the number of entries of a layer's weight, as a number of any size."""
    if layer.kind not in WEIGHTED:
        return 0
    window = math.prod(layer.settings.get("kernel_size", (1,)))
    outputs: int = layer.settings["outputs"]
    return outputs * inputs[0].shape[1] * int(window)


def _value(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Returns what a layer gives for one input, its shape only.

    Raises:
        ValueError: inputs of another rank, or of two shapes where they are added.
        RuntimeError: whatever else does not fit.
    """
    rank = _KINDS[layer.kind].rank
    shapes = [tuple(value.shape) for value in inputs]
    if any(rank not in (0, len(shape)) for shape in shapes) or len(set(shapes)) > 1:
        raise ValueError(f"inputs of shape {', '.join(map(str, shapes))}")
    module = _module(layer, inputs[0].shape[1])
    # In evaluation a batch norm needs no more than one value a channel.
    value: Tensor = inputs[0] + inputs[1] if module is None else module.eval()(inputs[0])
    if value.numel() == 0:
        raise ValueError("an empty value")
    return value


def _check_ends(description: Description) -> None:
    """Checks that the first and last layer with weights are so in order of names, too.

    Structured pruning spares the pixels and the logits, and finds both by that order.

    Raises:
        ContractError: they are not.
    """
    weighted = [layer.name for layer in description.layers if layer.kind in WEIGHTED]
    with torch.device("meta"):
        body = _body(description)
    named = [name for name, _ in body.named_modules() if name in set(weighted)]
    if (named[0], named[-1]) != (weighted[0], weighted[-1]):
        _refuse("names that keep the first layer first and the logits last", named[-1])


def _refuse(expected: str, found: object) -> NoReturn:
    """Raises the error of a description that is none; what was found may be huge."""
    short = isinstance(found, str | Exception) or (
        isinstance(found, int | float) and abs(found) < 1 << 64
    )
    if isinstance(found, tuple) and all(isinstance(part, int) for part in found):
        short = len(found) <= 8
    shown = str(found) if short else type(found).__name__
    raise ContractError(f"expected {expected}, got '{shorten(shown, 120)}'; describe it again")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# --- From a description to a network


class Branching(nn.Module):
    """A network whose values are read in several places; layers lie under their own names."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Takes the order of the layers; `_put` adds the layers themselves."""
        super().__init__()
        last = {position: at for at, layer in enumerate(layers) for position in layer.inputs}
        # Behind its last reader a value only holds memory.
        self._steps = tuple(
            (
                "" if layer.kind == "add" else layer.name,
                layer.inputs,
                tuple(position for position in set(layer.inputs) if last[position] == at),
            )
            for at, layer in enumerate(layers)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits (N, K) of normalised (N, C, H, W) inputs."""
        values = {0: inputs}
        for at, (name, sources, over) in enumerate(self._steps, 1):
            chosen = [values[source] for source in sources]
            values[at] = self.get_submodule(name)(*chosen) if name else chosen[0] + chosen[1]
            for position in over:
                del values[position]
        return values[len(self._steps)]


def _body(description: Description) -> nn.Module:
    """Returns the network behind the normalisation: a sequence of torch's where it is one.

    Bounds of a sequence take the short way, and so do the losses that train them.
    """
    modules = _modules(description)
    straight = all(layer.inputs == (at,) for at, layer in enumerate(description.layers))
    if straight:
        body = _put(modules, nn.Sequential())
        # Names may order the layers otherwise than they run.
        if [name for name, _ in body.named_modules() if name in modules] == list(modules):
            return body
    return _put(modules, Branching(description.layers))


def _modules(description: Description) -> dict[str, nn.Module]:
    """Returns the layers that are modules, by name, on the default device."""
    widths = [description.shape[0]]
    with torch.device("meta"):
        values = [torch.empty(1, *description.shape)]
        for layer in description.layers:
            values.append(_value(layer, [values[position] for position in layer.inputs]))
            widths.append(values[-1].shape[1])
    made = {layer.name: _module(layer, widths[layer.inputs[0]]) for layer in description.layers}
    return {name: module for name, module in made.items() if module is not None}


def _module(layer: Layer, width: int) -> nn.Module | None:
    """Returns a layer as a module of torch; None for a sum.

    Args:
        layer: any.
        width: channels or features of its input.
    """
    make = _KINDS[layer.kind].make
    return None if make is None else make(width, **layer.settings)


def _put(modules: Mapping[str, nn.Module], root: nn.Module) -> nn.Module:
    """Puts modules under their paths, in containers of torch that are made for them."""
    container = nn.Sequential if isinstance(root, nn.Sequential) else nn.Module
    for path, module in modules.items():
        *folders, name = path.split(".")
        place = root
        for folder in folders:
            if folder not in dict(place.named_children()):
                place.add_module(folder, container())
            place = place.get_submodule(folder)
        place.add_module(name, module)
    return root
