"""Differentiable bounds of sequential networks as pure tensor functions: intervals and lines.

Three relaxations, each sound whatever the weights:

- intervals: every unit lies in a box, carried forward layer by layer;
- symbolic intervals: every unit lies in a band around an affine function of the input, with one
  error term a ReLU that may be on or off;
- CROWN-IBP: the boxes say which ReLUs may be on or off, and one pass back from the margins replaces
  those by lines.

Sums of the last two run from the bounded units back to the input, so that they hold one row of
coefficients a bounded unit. Symbolic intervals are usually written the other way round, one row an
input and one an unstable unit: the numbers are the same, and rows that do not yet depend on the
example (a layer's own weights) are shared by the whole batch.

Layers may carry torch parametrizations: `layer.weight` is read, never the raw parameter. Batch
norms act as in evaluation, and dropout as the identity, whatever the training flag says.

Sources: S. Gowal et al., "On the Effectiveness of Interval Bound Propagation", 2018 (arXiv
1810.12715), equation 6; S. Wang et al., "Efficient Formal Safety Analysis of Neural Networks",
NeurIPS 2018 (arXiv 1809.08098), section 3.1, and "MixTrain" (arXiv 1811.02625); H. Zhang et al.,
"Towards Stable and Efficient Training of Verifiably Robust Neural Networks", ICLR 2020 (arXiv
1906.06316), section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.architectures import Classifier, Normalise
from benchmark.errors import ContractError, shorten

Layer = TypeVar("Layer", bound=nn.Module)

# (N, ...) smallest and (N, ...) largest values of the units of one layer.
Box = tuple[Tensor, Tensor]

# Layers that decrease in no input: the two extreme corners of a box give the extreme outputs.
MONOTONE = (
    nn.ReLU,
    nn.Flatten,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.MaxPool2d,
    nn.Identity,
    nn.Dropout,
)

# Layers that hand on what they are given, in evaluation.
UNCHANGING = (nn.Identity, nn.Dropout)


class UnboundableNetwork(ContractError):
    """A network that a method cannot bound: nothing is proven, and nothing need be wrong with it.

    Attributes:
        reason: what went wrong, one short line without addresses, so that it repeats.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        """Takes the whole message, and the reason alone."""
        super().__init__(message)
        self.reason = reason


def specification(labels: Tensor, classes: int) -> Tensor:
    """Returns (N, K - 1, K): one row e_y - e_j for each other class j, in increasing order of j.

    Args:
        labels: (N,) true classes y.
        classes: K, at least 2.

    Raises:
        ContractError: fewer than two classes, or labels outside [0, K).
    """
    if classes < 2 or bool(((labels < 0) | (labels >= classes)).any()):
        raise ContractError(
            f"expected labels in [0, {classes}) of at least 2 classes, "
            f"got {int(labels.min())} to {int(labels.max())}; check the data set"
        )
    identity = torch.eye(classes, device=labels.device)
    rows = identity[labels].unsqueeze(1) - identity
    others = torch.arange(classes, device=labels.device) != labels.unsqueeze(1)
    return rows[others].view(len(labels), classes - 1, classes)


def layers_of(module: nn.Module) -> list[nn.Module]:
    """Returns the layers of a sequential network in order, containers opened."""
    if isinstance(module, Classifier):
        return [module.normalise, *layers_of(module.body)]
    # A subclass may override what a sequence does; only the plain meaning is opened.
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return [layer for child in module for layer in layers_of(child)]
    return [module]


# --- intervals ------------------------------------------------------------------------------------


def interval_bounds(module: nn.Module, lower: Tensor, upper: Tensor) -> Box:
    """Returns a box that holds every output of a network over a box of inputs.

    Args:
        module: a `Classifier` with a sequential body, or nested `nn.Sequential` of convolutions,
            linear layers, batch norms (as in evaluation), ReLUs, flattening and poolings.
        lower: (N, ...) smallest input values.
        upper: (N, ...) largest input values.

    Returns:
        (N, ...) smallest and (N, ...) largest output values, up to float rounding.

    Raises:
        UnboundableNetwork: a layer of another kind.

    Source: Gowal et al., "On the Effectiveness of Interval Bound Propagation", 2018, equation 6.
    """
    return interval_boxes(layers_of(module), lower, upper)[-1]


def interval_boxes(layers: list[nn.Module], lower: Tensor, upper: Tensor) -> list[Box]:
    """Returns the box of each layer's inputs, and last that of the outputs; see above."""
    boxes = [(lower, upper)]
    for layer in layers:
        boxes.append(_through(layer, *boxes[-1]))
    return boxes


def interval_margins(layers: list[nn.Module], boxes: list[Box], rows: Tensor) -> Tensor:
    """Returns (N, R) lower bounds of rows times logits, merged with a last linear layer.

    Args:
        layers: the network.
        boxes: of each layer's inputs, in order.
        rows: (N, R, K) coefficients of the logits.

    Raises:
        UnboundableNetwork: a layer of another kind.
    """
    last, (lower, upper) = layers[-1], boxes[-1]
    bias: Tensor | float = 0.0
    if _is(last, nn.Linear):
        if last.bias is not None:
            bias = rows @ last.bias
        rows = rows @ last.weight
    else:
        lower, upper = _through(last, lower, upper)
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    spread = (rows.abs() @ radius.unsqueeze(-1)).squeeze(-1)
    return (rows @ centre.unsqueeze(-1)).squeeze(-1) + bias - spread


def _is(layer: nn.Module, kind: type[Layer]) -> TypeGuard[Layer]:
    """Returns whether a layer is of a kind, and not of a subclass that computes something else."""
    return isinstance(layer, kind) and type(layer).forward is kind.forward


def _unknown(layer: nn.Module) -> UnboundableNetwork:
    kind = shorten(type(layer).__name__)
    return UnboundableNetwork(
        f"expected layers that interval bounds know, got {kind}; evaluate with method ibp, which "
        f"traces any network, and train under an objective without bounds",
        f"layer {kind}",
    )


def _through(layer: nn.Module, lower: Tensor, upper: Tensor) -> Box:
    if isinstance(layer, MONOTONE):
        # Dropout is the identity at evaluation; calling it would ask for the training flag.
        return (lower, upper) if isinstance(layer, nn.Dropout) else (layer(lower), layer(upper))
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    if _is(layer, nn.Conv2d):
        centre, spread = layer(centre), layer._conv_forward(radius, layer.weight.abs(), None)
    elif _is(layer, nn.Linear):
        centre, spread = layer(centre), functional.linear(radius, layer.weight.abs())
    elif isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
        scale, shift = _batch_norm_line(layer)
        centre, spread = centre * scale + shift, radius * scale.abs()
    elif isinstance(layer, Normalise):
        centre, spread = layer(centre), radius / layer.std.abs()
    else:
        raise _unknown(layer)
    return centre - spread, centre + spread


def _batch_norm_line(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Returns scale and shift, (C, 1, 1) each, of a batch norm that uses its running statistics."""
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None and variance is not None
    scale = (variance + layer.eps).rsqrt()
    shift = -mean * scale
    if layer.affine:
        scale, shift = scale * layer.weight, shift * layer.weight + layer.bias
    return scale.view(-1, 1, 1), shift.view(-1, 1, 1)


# --- coefficients ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dense:
    """Coefficients of every unit of a layer, one row a sum.

    Attributes:
        values: (1 or N, R, *shape); 1 where all examples have the same.
    """

    values: Tensor

    def sum(self, units: Tensor) -> Tensor:
        """Returns (N, R) sums of coefficients times (1 or N, *shape) units."""
        rows, terms = self.values.flatten(2), units.flatten(1)
        if len(rows) == 1:
            return functional.linear(terms, rows[0])
        return (rows @ terms.unsqueeze(-1)).squeeze(-1)

    def shift(self, constant: Tensor) -> Tensor:
        """Returns (1 or N, R) sums of coefficients times (C, 1, 1) or (F,) values of the units."""
        values = self.values.sum((-2, -1)) if constant.dim() == 3 else self.values
        return (values * constant.flatten()).flatten(2).sum(2)

    def absolute(self) -> "_Dense":
        """Returns the coefficients without their signs."""
        return _Dense(self.values.abs())

    def times(self, units: Tensor) -> "_Dense":
        """Returns the coefficients times (1 or N, *shape) units."""
        return _Dense(self.values * units.unsqueeze(1))

    def back(self, layer: nn.Module, shape: torch.Size) -> "_Dense":
        """Returns coefficients of an affine layer's inputs, of `shape`, from its outputs'."""
        if isinstance(layer, nn.Flatten):
            return _Dense(self.values.reshape(*self.values.shape[:2], *shape))
        if _is(layer, nn.Linear):
            return _Dense(self.values @ layer.weight)
        images = self.values.flatten(0, 1)
        if is_plain_convolution(layer):
            images = transposed(layer, images, shape)
        elif isinstance(layer, nn.AvgPool2d | nn.AdaptiveAvgPool2d) or _is(layer, nn.Conv2d):
            # Of poolings and rare paddings the derivative is taken, which is the same everywhere.
            images = torch.func.vjp(layer, images.new_zeros((len(images), *shape)))[1](images)[0]
        else:
            images = images * affine_line(layer)[0]
        return _Dense(images.view(*self.values.shape[:2], *shape))


@dataclass(frozen=True)
class _Patches:
    """Coefficients of the window of a layer that each unit of a convolution sees.

    The unit in place (i, j) sees the window from (i, j) * stride - padding on. What lies beyond the
    edge is no unit: sums skip it and products make it zero.

    Attributes:
        values: (1 or N, 1 or L, R, C, h, w) for R channels in L places; 1 where all examples, or
            all places, have the same.
        shape: (C, H, W) of the layer's units.
        stride: from window to window, down and right.
        padding: from the first window to the edge, down and right.
    """

    values: Tensor
    shape: torch.Size
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def sum(self, units: Tensor) -> Tensor:
        """Returns (N, R * L) sums of coefficients times (1 or N, C, H, W) units."""
        rows, terms = self.values.flatten(3), self._windows(units)
        if rows.shape[:2] == (1, 1):
            sums = functional.linear(terms, rows[0, 0])
        else:
            sums = (rows @ terms.unsqueeze(-1)).squeeze(-1)
        return sums.transpose(1, 2).flatten(1)

    def shift(self, constant: Tensor) -> Tensor:
        """Returns (1, R * L) sums of coefficients times (C, 1, 1) values of the units."""
        return self.sum(constant.expand(1, *self.shape))

    def absolute(self) -> "_Patches":
        """Returns the coefficients without their signs."""
        return replace(self, values=self.values.abs())

    def times(self, units: Tensor) -> "_Patches":
        """Returns the coefficients times (1 or N, C, H, W) units."""
        windows = self._windows(units)
        windows = windows.view(*windows.shape[:2], 1, *self.values.shape[3:])
        return replace(self, values=self.values * windows)

    def back(self, layer: nn.Module, shape: torch.Size) -> "_Patches":
        """Returns coefficients of an affine layer's inputs, of `shape`, from its outputs'."""
        if not is_plain_convolution(layer):
            return replace(self, values=self.values * affine_line(layer)[0])
        inside = self.times(self.values.new_ones(1, *self.shape)) if any(self.padding) else self
        images = transposed(layer, inside.values.flatten(0, 2))
        (down, right), (first, second) = self.stride, layer.stride
        above, before = (int(size) for size in layer.padding)
        return _Patches(
            images.view(*inside.values.shape[:3], *images.shape[1:]),
            shape,
            stride=(down * first, right * second),
            padding=(
                self.padding[0] * first + above,
                self.padding[1] * second + before,
            ),
        )

    def _windows(self, units: Tensor) -> Tensor:
        """Returns (N, L, C * h * w) units in each window, zero beyond the edge."""
        size = self.values.shape[-2:]
        columns = functional.unfold(units, size, stride=self.stride, padding=self.padding)
        return columns.transpose(1, 2)


Rows = _Dense | _Patches


def _of_each_unit(layers: list[nn.Module], shape: torch.Size, like: Tensor) -> _Dense | _Patches:
    """Returns the coefficient 1 of each unit of a layer, which some layers lead to."""
    pooled = [index for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    local = layers[pooled[-1] + 1 :] if pooled else layers
    windows = (nn.BatchNorm2d, Normalise, *UNCHANGING, nn.ReLU)
    if all(is_plain_convolution(layer) or isinstance(layer, windows) for layer in local):
        identity = torch.eye(shape[0], dtype=like.dtype, device=like.device)
        return _Patches(identity.view(1, 1, shape[0], shape[0], 1, 1), shape)
    identity = torch.eye(shape.numel(), dtype=like.dtype, device=like.device)
    return _Dense(identity.view(1, -1, *shape))


def is_plain_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Returns whether a layer is a convolution whose padding is a number of zeros."""
    return (
        _is(layer, nn.Conv2d)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def transposed(layer: nn.Conv2d, images: Tensor, shape: torch.Size | None = None) -> Tensor:
    """Returns (n, C, H, W) coefficients of a convolution's inputs from (n, D, h, w) of its outputs.

    Args:
        layer: a plain convolution.
        images: coefficients of its outputs.
        shape: of its inputs; without it they are all that the outputs see, padding included.
    """
    weight, stride, dilation = layer.weight, layer.stride, layer.dilation
    if shape is None:
        return functional.conv_transpose2d(
            images, weight, stride=stride, groups=layer.groups, dilation=dilation
        )
    # A stride may leave lines at the far edges unused; they come back as zeros.
    unused = [
        shape[axis + 1]
        + 2 * int(layer.padding[axis])
        - (images.shape[axis + 2] - 1) * stride[axis]
        - dilation[axis] * (layer.kernel_size[axis] - 1)
        - 1
        for axis in (0, 1)
    ]
    padding = [int(size) for size in layer.padding]
    return functional.conv_transpose2d(
        images, weight, None, stride, padding, unused, layer.groups, dilation
    )


# --- sums back to a box ---------------------------------------------------------------------------


def crown_margins(layers: list[nn.Module], boxes: list[Box], rows: Tensor) -> Tensor:
    """Returns (N, R) lower bounds of rows times logits by one pass back through the network.

    A ReLU that may be on or off lies below the line through (l, 0) and (u, u), and above the line
    through 0 of slope 1 if u / (u - l) > 1/2, else of slope 0. The pass ends at the last
    max-pooling, at its box of outputs, or else at the inputs.

    Args:
        layers: the network.
        boxes: of each layer's inputs, in order.
        rows: (N, R, K) coefficients of the logits.

    Raises:
        UnboundableNetwork: a layer of another kind than in `interval_bounds`.

    Source: Zhang et al., "Towards Stable and Efficient Training of Verifiably Robust Neural
        Networks", ICLR 2020, section 3.2.
    """
    centre, spread = _back_to_a_box(layers, boxes, _Dense(rows), _adaptive_lines)
    return centre - spread


def symbolic_margins(layers: list[nn.Module], box: Box, rows: Tensor) -> Tensor:
    """Returns (N, R) lower bounds of rows times logits by symbolic intervals.

    A ReLU that may be on or off becomes the band between two lines of slope u / (u - l), through 0
    and through (l, 0): half the band's height is the error that it adds. Boxes of hidden units
    follow from the same rule, layer by layer. A max-pooling turns its outputs into plain boxes.

    Args:
        layers: the network.
        box: of its inputs.
        rows: (N, R, K) coefficients of the logits.

    Raises:
        UnboundableNetwork: a layer of another kind than in `interval_bounds`.

    Source: Wang et al., "Efficient Formal Safety Analysis of Neural Networks", NeurIPS 2018,
        section 3.1; "MixTrain", 2018, section 3.
    """
    # Of most layers only the shape is needed, which the boxes bring along. They are made with
    # gradients all the same: a weight that a parametrization makes here may be kept for later.
    boxes = interval_boxes(layers[:-1], *box)
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.ReLU | nn.MaxPool2d):
            boxes[index] = _symbolic_box(layers[:index], boxes[: index + 1])
    centre, spread = _back_to_a_box(layers, boxes, _Dense(rows), _bands)
    return centre - spread


def _symbolic_box(layers: list[nn.Module], boxes: list[Box]) -> Box:
    """Returns the box of some layers' outputs from the boxes of their inputs.

    One more box, the last, has the shape of the outputs.
    """
    (*known, (like, _)) = boxes
    rows = _of_each_unit(layers, like.shape[1:], like)
    centre, spread = _back_to_a_box(layers, known, rows, _bands)
    return (centre - spread).view(like.shape), (centre + spread).view(like.shape)


def _back_to_a_box(
    layers: list[nn.Module],
    boxes: list[Box],
    rows: Rows,
    relax: Callable[[Rows, Box], tuple[Rows, Tensor, Tensor | float]],
) -> tuple[Tensor, Tensor]:
    """Returns centre and spread, (N, R) each, of sums over the outputs of some layers.

    Args:
        layers: whose outputs.
        boxes: of each layer's inputs, in order.
        rows: coefficients of the outputs.
        relax: coefficients of a ReLU's outputs and the box of its inputs -> coefficients of the
            inputs, and what centre and spread gain.
    """
    end = boxes[0]
    centre: Tensor | float = 0.0
    spread: Tensor | float = 0.0
    for layer, box in zip(reversed(layers), reversed(boxes), strict=True):
        if isinstance(layer, nn.MaxPool2d):
            end = _through(layer, *box)
            break
        if isinstance(layer, nn.ReLU):
            rows, shift, slack = relax(rows, box)
            centre, spread = centre + shift, spread + slack
        elif not isinstance(layer, UNCHANGING):
            if (constant := affine_constant(layer)) is not None:
                centre = centre + rows.shift(constant)
            rows = rows.back(layer, box[0].shape[1:])
    middle, radius = (end[0] + end[1]) / 2, (end[1] - end[0]) / 2
    return centre + rows.sum(middle), spread + rows.absolute().sum(radius)


def _adaptive_lines(rows: Rows, box: Box) -> tuple[Rows, Tensor, float]:
    """Returns a line below the sum: negative coefficients take the ReLU's upper line."""
    slope, height = upper_line(box)
    lower_slope = (slope > 0.5).to(slope.dtype)
    negative = replace(rows, values=-functional.relu(-rows.values))
    lines = rows.times(lower_slope).values + negative.times(slope - lower_slope).values
    return replace(rows, values=lines), negative.sum(height), 0.0


def _bands(rows: Rows, box: Box) -> tuple[Rows, Tensor, Tensor]:
    """Returns the middle of the bands, and half their heights as spread."""
    slope, height = upper_line(box)
    return rows.times(slope), rows.sum(height / 2), rows.absolute().sum(height / 2)


def upper_line(box: Box) -> tuple[Tensor, Tensor]:
    """Returns slope u / (u - l) and value at 0, -l u / (u - l), of the lines above ReLUs.

    Units that are always on have slope 1, units that are always off slope 0, and both value 0.
    """
    lower, upper = box
    unstable = (lower < 0) & (upper > 0)
    # The other units must not divide: their gradient would be 0 times infinity.
    width = torch.where(unstable, upper - lower, 1.0)
    slope = torch.where(unstable, upper / width, (lower >= 0).to(lower.dtype))
    return slope, torch.where(unstable, -lower * slope, 0.0)


def affine_constant(layer: nn.Module) -> Tensor | None:
    """Returns what an affine layer adds, in a shape that expands to its outputs; None for 0."""
    if isinstance(layer, nn.Conv2d) and layer.bias is not None:
        return layer.bias.view(-1, 1, 1)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        return layer.bias
    if isinstance(layer, nn.BatchNorm2d | Normalise):
        return affine_line(layer)[1]
    return None


def affine_line(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns scale and shift, (C, 1, 1) each, of a layer that treats each unit by itself."""
    if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
        return _batch_norm_line(layer)
    if isinstance(layer, Normalise):
        return 1 / layer.std, -layer.mean / layer.std
    raise _unknown(layer)
