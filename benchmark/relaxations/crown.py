"""CROWN through every layer of a sequential network, for evaluation alone.

Each unit that intervals leave undecided, one example and one unit at a time, is followed back to
the input as a row of coefficients; behind a convolution the row holds the window that the unit
sees, and no more. Units that intervals decide have exact lines already. So the work is that of the
undecided ones, and no example's bound depends on another's.

Source: H. Zhang et al., "Efficient Neural Network Robustness Certification with General Activation
Functions", NeurIPS 2018 (arXiv 1811.00866), section 3, with the lower lines of slope 0 or 1
("CROWN-Ada").
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.relaxations.lines import (
    UNCHANGING,
    Box,
    affine_constant,
    affine_line,
    interval_boxes,
    is_plain_convolution,
    transposed,
    upper_line,
)

# Units followed back at a time.
_ROWS = 1024

# A convolution goes back over windows as one matrix, if it has no more entries than this.
_MATRIX = 1 << 22

# Layers whose lines are known here. Poolings have other relaxations in auto_LiRPA.
_KNOWN = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.Flatten, *UNCHANGING)


def known_to_crown(network: nn.Module) -> list[nn.Module] | None:
    """Returns the layers of a network that are all that it computes, or None if there is more.

    A subclass, a hook or a replaced method may compute something else than the layer's name says.
    """
    if "forward" in vars(network) or network._forward_hooks or network._forward_pre_hooks:
        return None
    if type(network) is nn.Sequential:
        parts = [known_to_crown(child) for child in network]
        if any(part is None for part in parts):
            return None
        return [layer for part in parts if part is not None for layer in part]
    plain = type(network) in _KNOWN
    if isinstance(network, nn.Conv2d):
        plain = plain and is_plain_convolution(network)
    if isinstance(network, nn.BatchNorm2d):
        plain = plain and network.running_var is not None
    return [network] if plain else None


@torch.no_grad()
def crown_rows(layers: list[nn.Module], box: Box, rows: Tensor) -> Tensor:
    """Returns (N, R) lower bounds of rows times logits.

    One example after the other: what a passage works on then fits into a processor's cache.

    Args:
        layers: of `known_to_crown`.
        box: of the network's inputs, (N, C, H, W) each.
        rows: (N, R, K) coefficients of the logits.
    """
    boxes = interval_boxes(layers[:-1], *box)
    matrices: dict[tuple[int, int, int], Tensor] = {}
    found = []
    for number, wanted in enumerate(rows):
        levels = [_level(low[number], high[number]) for low, high in boxes]
        relus = [index for index, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
        # Before the first ReLU all is affine, and intervals of one affine layer are exact.
        for index in relus[1:]:
            levels[index] = _tightened(layers[:index], levels[: index + 1], matrices)
        found.append(_lower(layers, levels, _Whole(wanted)))
    return torch.stack(found)


# --- One example


@dataclass(frozen=True)
class _Level:
    """What is known of the inputs of a layer, and of the lines if the layer is a ReLU.

    Attributes:
        lower: (*shape) smallest values.
        upper: (*shape) largest values.
        slope: (*shape) of the upper lines.
        height: (*shape) of the upper lines at 0.
        gentle: (*shape) slopes of the lower lines, 0 or 1.
    """

    lower: Tensor
    upper: Tensor
    slope: Tensor
    height: Tensor
    gentle: Tensor


def _level(lower: Tensor, upper: Tensor) -> _Level:
    slope, height = upper_line((lower, upper))
    return _Level(lower, upper, slope, height, (slope > 0.5).to(slope.dtype))


def _tightened(
    layers: list[nn.Module], levels: list[_Level], matrices: dict[tuple[int, int, int], Tensor]
) -> _Level:
    """Returns the last level, that of some layers' outputs, once its units are followed back.

    Only those that may be on or off by what is known of them are followed.
    """
    (*known, last) = levels
    units = ((last.lower < 0) & (last.upper > 0)).flatten().nonzero().flatten()
    if len(units) == 0:
        return last
    lower, upper = last.lower.flatten().clone(), last.upper.flatten().clone()
    local = not any(isinstance(layer, nn.Flatten | nn.Linear) for layer in layers)
    for chosen in torch.split(units, _ROWS):
        for sign, ends, tighter in ((1, lower, torch.maximum), (-1, upper, torch.minimum)):
            rows: _Whole | _Window
            if local:
                rows = _windows_of(chosen, sign, last.lower, matrices)
            else:
                rows = _whole_of(chosen, sign, last.lower)
            ends[chosen] = tighter(ends[chosen], sign * _lower(layers, known, rows))
    return _level(lower.view_as(last.lower), upper.view_as(last.upper))


def _lower(layers: list[nn.Module], levels: list[_Level], rows: "_Whole | _Window") -> Tensor:
    """Returns (P,) lower bounds of rows times the outputs of some layers."""
    total: Tensor | float = 0.0
    for layer, level in zip(reversed(layers), reversed(levels), strict=True):
        if isinstance(layer, nn.ReLU):
            rows, raised = _relaxed(rows, level)
            total = total + raised
        elif not isinstance(layer, UNCHANGING):
            if (constant := affine_constant(layer)) is not None:
                total = total + rows.shift(constant)
            rows = rows.back(layer, level.lower.shape)
    first = levels[0]
    negative = rows.values.clamp_max(0)
    ends = _dot(negative, rows.of(first.upper)), _dot(rows.values - negative, rows.of(first.lower))
    return total + ends[0] + ends[1]


def _relaxed(rows: "_Whole | _Window", level: _Level) -> tuple["_Whole | _Window", Tensor]:
    """Returns rows of a ReLU's inputs below those of its outputs, and (P,) what they lack.

    Negative coefficients take the upper line, others the lower one.
    """
    negative = rows.values.clamp_max(0)
    raised = _dot(negative, rows.of(level.height))
    values = (rows.values - negative).mul_(rows.of(level.gentle))
    return replace(rows, values=values.add_(negative.mul_(rows.of(level.slope)))), raised


# --- Rows of coefficients


@dataclass(frozen=True)
class _Whole:
    """Rows over all units of a layer.

    Attributes:
        values: (P, *shape).
    """

    values: Tensor

    def of(self, units: Tensor) -> Tensor:
        """Returns the units (*shape) that belong to the coefficients, in a shape that expands."""
        return units.unsqueeze(0)

    def shift(self, constant: Tensor) -> Tensor:
        """Returns (P,) sums of coefficients times (C, 1, 1) or (F,) values of the units."""
        sums = self.values.sum((-2, -1)) if constant.dim() == 3 else self.values
        return sums @ constant.flatten()

    def back(self, layer: nn.Module, shape: torch.Size) -> "_Whole":
        """Returns coefficients of an affine layer's inputs, of `shape`, from its outputs'."""
        if isinstance(layer, nn.Flatten):
            return _Whole(self.values.view(-1, *shape))
        if isinstance(layer, nn.Linear):
            return _Whole(self.values @ layer.weight)
        if isinstance(layer, nn.Conv2d):
            return _Whole(_through_convolution(layer, self.values, shape))
        return _Whole(self.values * affine_line(layer)[0])


@dataclass(frozen=True)
class _Window:
    """Rows over the window of a layer that a unit behind convolutions sees.

    The unit in place (i, j) sees the window from (i, j) * stride - padding on. What lies beyond the
    edge is no unit: it counts as zero.

    Attributes:
        values: (P, C, h, w).
        places: (P, 2) row and column of the unit in its own layer.
        shape: (C, H, W) of the layer.
        matrices: convolutions over windows, by layer and height and width of the window.
        stride: from window to window, down and right.
        padding: from the first window to the edge, down and right.
    """

    values: Tensor
    places: Tensor
    shape: torch.Size
    matrices: dict[tuple[int, int, int], Tensor] = field(repr=False)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def of(self, units: Tensor) -> Tensor:
        """Returns (P, C, h, w) the units (C, H, W) in each window, zero beyond the edge."""
        size = self.values.shape[-2:]
        columns = functional.unfold(units[None], size, stride=self.stride, padding=self.padding)
        wide = (self.shape[2] + 2 * self.padding[1] - size[1]) // self.stride[1] + 1
        at = self.places[:, 0] * wide + self.places[:, 1]
        return columns[0].T.contiguous()[at].view(self.values.shape)

    def shift(self, constant: Tensor) -> Tensor:
        """Returns (P,) sums of coefficients times (C, 1, 1) values of the units."""
        return _dot(self.values, self.of(constant.expand(self.shape)))

    def back(self, layer: nn.Module, shape: torch.Size) -> "_Window":
        """Returns coefficients of an affine layer's inputs, of `shape`, from its outputs'."""
        if not isinstance(layer, nn.Conv2d):
            return replace(self, values=self.values * affine_line(layer)[0])
        inside = self.values
        if any(self.padding):
            inside = inside * self.of(inside.new_ones(self.shape))
        (down, right), (first, second) = self.stride, layer.stride
        above, before = (int(size) for size in layer.padding)
        return replace(
            self,
            values=self._transposed(layer, inside),
            shape=shape,
            stride=(down * first, right * second),
            padding=(self.padding[0] * first + above, self.padding[1] * second + before),
        )

    def _transposed(self, layer: nn.Conv2d, values: Tensor) -> Tensor:
        """Returns (P, C', h', w') from (P, C, h, w), by a matrix unless it is too large.

        Transposed convolutions of tiny images are many times slower than their arithmetic.
        """
        key = (id(layer), *values.shape[2:])
        if key not in self.matrices:
            size = values[0].numel()
            unit = torch.zeros(1, *values.shape[1:], dtype=values.dtype, device=values.device)
            if size * transposed(layer, unit).numel() > _MATRIX:
                return transposed(layer, values)
            eye = torch.eye(size, dtype=values.dtype, device=values.device)
            self.matrices[key] = transposed(layer, eye.view(size, *values.shape[1:]))
        matrix = self.matrices[key]
        return (values.flatten(1) @ matrix.flatten(1)).view(len(values), *matrix.shape[1:])


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Returns (P,) inner products of rows (P, ...) with rows (P or 1, ...)."""
    flat, other = left.flatten(1), right.flatten(1)
    return flat @ other[0] if len(other) == 1 else torch.linalg.vecdot(flat, other)


def _whole_of(units: Tensor, sign: int, like: Tensor) -> _Whole:
    """Returns rows with coefficient `sign` of one unit each, of a layer as large as `like`."""
    values = torch.zeros(len(units), like.numel(), dtype=like.dtype, device=like.device)
    values.scatter_(1, units[:, None], sign)
    return _Whole(values.view(-1, *like.shape))


def _windows_of(
    units: Tensor, sign: int, like: Tensor, matrices: dict[tuple[int, int, int], Tensor]
) -> _Window:
    """Returns the same as windows of one place."""
    channels, height, width = like.shape
    places = torch.stack([units // width % height, units % width], dim=1)
    values = sign * functional.one_hot(units // (height * width), channels).to(like.dtype)
    return _Window(values[:, :, None, None], places, like.shape, matrices)


def _through_convolution(layer: nn.Conv2d, images: Tensor, shape: torch.Size) -> Tensor:
    """Returns (P, *shape) coefficients of a convolution's inputs from (P, D, h, w) of its outputs.

    Few channels of inputs make the library's transposed convolution slow; a product and a sum of
    overlapping windows is the same.
    """
    if layer.in_channels > 4 or layer.groups > 1:
        return transposed(layer, images, shape)
    columns = layer.weight.flatten(1).T @ images.flatten(2)
    return functional.fold(
        columns,
        shape[1:],
        kernel_size=layer.kernel_size,
        dilation=layer.dilation,
        padding=layer.padding,  # type: ignore[arg-type]
        stride=layer.stride,
    )
