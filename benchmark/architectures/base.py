"""What all networks share: normalisation first, logits out, weights from a passed generator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.errors import ContractError

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Shapes:
    """The input shapes a network is defined for.

    Attributes:
        exact: the only shapes it takes; empty if a rule decides.
        channels: the number of channels the rule asks for; 0 for any.
        multiple: what the rule wants height and width to be multiples of.
    """

    exact: tuple[Shape, ...] = ()
    channels: int = 0
    multiple: int = 1

    def accept(self, shape: Shape) -> bool:
        """Returns whether a network can be built for inputs of `shape` (C, H, W)."""
        if self.exact:
            return shape in self.exact
        channels, height, width = shape
        fits = min(shape) > 0 and height % self.multiple == 0 and width % self.multiple == 0
        return fits and self.channels in (0, channels)

    def __str__(self) -> str:
        """Returns the shapes in words, for messages and listings."""
        if self.exact:
            return " or ".join(str(shape) for shape in self.exact)
        channels = self.channels or "C"
        return f"({channels}, H, W) with H and W multiples of {self.multiple}"


@dataclass(frozen=True)
class Architecture:
    """One entry of the table of networks.

    Attributes:
        name: key in the table.
        title: name for readers.
        build: (C, H, W) and number of classes -> the network behind the normalisation, with the
            parameter names of the public checkpoints.
        shapes: inputs it is defined for.
        source: paper or code that defines it.
    """

    name: str
    title: str
    build: Callable[[Shape, int], nn.Module]
    shapes: Shapes
    source: str


class Normalise(nn.Module):
    """Subtracts a mean and divides by a standard deviation, channel by channel.

    Both are buffers of shape (C, 1, 1) and part of the state dict, so a checkpoint carries its own
    normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keeps one mean and one positive standard deviation a channel.

        Raises:
            ContractError: the lengths differ, or a standard deviation is not positive and finite.
        """
        super().__init__()
        if len(mean) != len(std) or not all(0 < value < float("inf") for value in std):
            raise ContractError(
                f"expected one mean and one positive std a channel, got mean {tuple(mean)} and "
                f"std {tuple(std)}; take both from the data set's description"
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns (N, C, H, W) inputs without their mean, in units of the standard deviation."""
        return (inputs - self.mean) / self.std


class Classifier(nn.Module):
    """A network from pixels in [0, 1] to logits, so that epsilon always has pixel units.

    Attributes:
        normalise: first layer; holds the data set's mean and standard deviation.
        body: everything behind it, with the parameter names of the public checkpoints.
        architecture: key in the table of networks.
        shape: (C, H, W) of one input.
        classes: number of logits.
    """

    def __init__(
        self,
        normalise: Normalise,
        body: nn.Module,
        *,
        architecture: str,
        shape: Shape,
        classes: int,
    ) -> None:
        """Joins a normalisation and a network made for `shape` and `classes`."""
        super().__init__()
        self.normalise = normalise
        self.body = body
        self.architecture = architecture
        self.shape = shape
        self.classes = classes

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits.

        Args:
            inputs: (N, C, H, W) in [0, 1].

        Returns:
            (N, K) logits.

        Raises:
            ContractError: the inputs or the body's answers have another shape than promised.
        """
        self._check("inputs", self.shape, inputs)
        logits: Tensor = self.body(self.normalise(inputs))
        self._check("logits", (self.classes,), logits)
        return logits

    def _check(self, what: str, expected: tuple[int, ...], tensor: Tensor) -> None:
        # Under tracing a size is a traced value: comparing it would fix a branch, and torch warns.
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        if tuple(tensor.shape[1:]) == expected:
            return
        wanted, found = ", ".join(map(str, expected)), tuple(tensor.shape)
        raise ContractError(
            f"expected {what} of shape (N, {wanted}) for {self.architecture}, got {found}; "
            f"build the network for the data set it is used with"
        )


def assemble(
    architecture: Architecture,
    *,
    shape: Shape,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Classifier:
    """Returns a network whose weights are still zero; no random number is drawn.

    Args:
        architecture: what to build.
        shape: (C, H, W) of one input.
        classes: number of logits, at least 2.
        mean: one a channel, in [0, 1] pixel units.
        std: one a channel, in [0, 1] pixel units, positive.

    Raises:
        ContractError: the network is not defined for the shape, or classes, mean or std make no
            sense.
    """
    _check_request(architecture, shape, classes, mean)
    # Layers fill themselves from the global generator when they are made. On the meta device there
    # is nothing to fill, so no other draw of the process shifts; `_blank` then sets every value.
    with torch.device("meta"):
        body = architecture.build(shape, classes)
    body.to_empty(device=torch.get_default_device())
    _blank(body)
    return Classifier(
        Normalise(mean, std), body, architecture=architecture.name, shape=shape, classes=classes
    )


def _check_request(
    architecture: Architecture, shape: Shape, classes: int, mean: Sequence[float]
) -> None:
    if not architecture.shapes.accept(shape):
        raise ContractError(
            f"expected inputs of shape {architecture.shapes} for {architecture.name}, got {shape}; "
            f"choose another architecture or data set"
        )
    if classes < 2:
        raise ContractError(
            f"expected at least 2 classes for {architecture.name}, got {classes}; "
            "check the data set"
        )
    if len(mean) != shape[0]:
        raise ContractError(
            f"expected a mean for each of {shape[0]} channels, got {len(mean)}; check the data set"
        )


@torch.no_grad()
def _blank(body: nn.Module) -> None:
    for tensor in (*body.parameters(), *body.buffers()):
        tensor.zero_()
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Fills a network for training from scratch, its dead parameters included.

    Convolutions and linear layers get normal weights of variance 2 / fan_in and zero biases; batch
    norms become the identity and forget their statistics. Draws happen on the generator's device
    and are copied, so one CPU seed gives the same weights on every device.

    Args:
        model: network of convolutions, linear layers and batch norms; changed in place.
        generator: source of the draws.

    Raises:
        ContractError: a layer of another kind holds parameters; nothing is changed then.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 10.
    """
    layers = [module for module in model.modules() if list(module.parameters(recurse=False))]
    for layer in layers:
        if not isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            raise ContractError(
                "expected parameters in Conv2d, Linear and BatchNorm2d only, got them in "
                f"{type(layer).__name__}; initialise such a network yourself"
            )
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight
            draws = torch.randn(
                weight.shape, generator=generator, device=generator.device, dtype=torch.float32
            )
            weight.copy_(draws * (2 / weight[0].numel()) ** 0.5)
            if layer.bias is not None:
                layer.bias.zero_()


def dead_parameters(model: nn.Module) -> frozenset[str]:
    """Returns the names of parameters that the forward pass never uses.

    They exist because public checkpoints hold them. They take no part in the function, so a
    sparsity that counts them says something else than one that does not.

    Args:
        model: a `Classifier`, its body, or a network around one; names are relative to it.
    """
    prefixes = tuple(
        f"{path}.{child}.".lstrip(".")
        for path, module in model.named_modules()
        for child in getattr(module, "dead_modules", ())
    )
    return frozenset(name for name, _ in model.named_parameters() if name.startswith(prefixes))
