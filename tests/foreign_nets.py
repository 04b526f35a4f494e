"""Networks as the public codes write them: layers that compute their weight, under their names.

Written for the tests from the descriptions of the formats, without looking at our networks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Layer(nn.Module):
    """A convolution (4 numbers) or linear layer (2) that multiplies with `effective()`."""

    stride, padding = 1, 0

    def __init__(self, *shape: int, bias: bool = False, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        fan = torch.Size(shape[1:]).numel()
        self.weight = nn.Parameter(torch.randn(shape) * (2 / fan) ** 0.5)
        self.bias = nn.Parameter(torch.randn(shape[0]) * 0.1) if bias else None

    def effective(self) -> Tensor:
        return self.weight

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.effective()
        if weight.dim() == 2:
            return F.linear(inputs, weight, self.bias)
        return F.conv2d(inputs, weight, self.bias, self.stride, self.padding)


def lowest_dropped(scores: Tensor, removed: int) -> Tensor:
    kept = torch.ones(scores.numel())
    kept[scores.abs().flatten().argsort()[:removed]] = 0
    return kept.view(scores.shape)


class Popup(Layer):
    """HYDRA: the share `k` of the largest scores stays."""

    k = 0.1
    part, dims = "popup_scores", 4

    def __init__(self, *shape: int, **options: Any) -> None:
        super().__init__(*shape, **options)
        self.register_parameter(self.part, nn.Parameter(torch.randn(shape[: self.dims])))

    def effective(self) -> Tensor:
        scores = getattr(self, self.part)
        kept = lowest_dropped(scores, int((1 - self.k) * scores.numel()))
        return self.weight * kept.view(*kept.shape, *(1,) * (self.weight.dim() - kept.dim()))


class Scored(Popup):
    """RST: the same under another name."""

    part = "scores"


class Rated(Layer):
    """HARP: each layer keeps a share of its own, of weights or of input channels."""

    k, channels = 0.1, False

    def __init__(self, *shape: int, **options: Any) -> None:
        super().__init__(*shape, **options)
        scores = (1, shape[1], *(1,) * (len(shape) - 2)) if self.channels else shape
        self.popup_scores = nn.Parameter(torch.randn(scores))
        self.k_score = nn.Parameter(torch.randn(()) - 2)

    def effective(self) -> Tensor:
        least = 0.1 * self.k
        share = torch.sigmoid(self.k_score) * (1 - least) + least
        count = self.popup_scores.numel()
        if self.channels:
            removed = count - int(torch.round(share * count))
        else:
            removed = int((1 - share) * count)
        return self.weight * lowest_dropped(self.popup_scores, removed)


class RatedChannels(Rated):
    k, channels = 0.5, True


class Soft(Layer):
    """MAD: softplus masks of weights and biases, over weights that are zero."""

    def __init__(self, *shape: int, **options: Any) -> None:
        super().__init__(*shape, **options)
        self.mask_weight = nn.Parameter(torch.rand(shape))
        self.weight.data[torch.rand(shape) < 0.9] = 0
        if self.bias is not None:
            self.mask_bias = nn.Parameter(torch.rand(shape[0]))

    def effective(self) -> Tensor:
        return self.weight * F.softplus(self.mask_weight)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.bias is None:
            return super().forward(inputs)
        return F.linear(inputs, self.effective(), self.bias * F.softplus(self.mask_bias))


class Twin(Layer):
    """TwinRep: a product of two factors and a mask."""

    def __init__(self, *shape: int, **options: Any) -> None:
        super().__init__(*shape, **options)
        self.aux_weight = nn.Parameter(torch.rand(shape) + 0.5)
        self.register_buffer("mask", (torch.rand(shape) < 0.1).float())

    def effective(self) -> Tensor:
        return self.weight * self.aux_weight * self.mask


class TwinChannels(Twin):
    def __init__(self, *shape: int, **options: Any) -> None:
        super().__init__(*shape, **options)
        self.aux_weight = nn.Parameter(torch.randn(shape[0], shape[0]) / shape[0] ** 0.5)

    def effective(self) -> Tensor:
        return (self.aux_weight @ self.weight.flatten(1)).view_as(self.weight) * self.mask


class Zeros(Layer):
    def __init__(self, *shape: int, **options: Any) -> None:
        super().__init__(*shape, **options)
        self.weight.data[torch.rand(shape) < 0.9] = 0


class Composed(nn.Module):
    """ATMC: (B + I) A + C, or B (A + I) + C where the inputs are the rank."""

    def __init__(self, *shape: int, bias: bool = True, **_: int) -> None:
        super().__init__()
        inputs = torch.Size(shape[1:]).numel()
        rank = min(shape[0], inputs)

        def part(*size: int) -> nn.Parameter:
            values = torch.randn(size) * 0.1
            values[torch.rand(size) < 0.8] = 0
            return nn.Parameter(values)

        self.weightA = part(rank, *shape[1:])
        self.weightB = part(shape[0], rank, *(1,) * (len(shape) - 2))
        self.weightC = part(*shape)
        self.register_buffer("eye_const", torch.eye(rank))
        self.bias = nn.Parameter(torch.randn(shape[0]))

    def forward(self, inputs: Tensor) -> Tensor:
        a, b = self.weightA.flatten(1), self.weightB.flatten(1)
        square = len(a) == a.shape[1]
        product = b @ (a + self.eye_const) if square else (b + self.eye_const) @ a
        weight = product.view_as(self.weightC) + self.weightC
        form = F.linear if weight.dim() == 2 else F.conv2d
        return form(inputs, weight, self.bias)


class Scale(nn.Module):
    """A normalisation with its constants, as buffers under some names or outside the state."""

    def __init__(self, mean: list[float], std: list[float], stored: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=stored)
        self.register_buffer("std", torch.tensor(std), persistent=stored)

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean[:, None, None]) / self.std[:, None, None]


class Block(nn.Module):
    def __init__(self, layer: Callable, norm: Callable, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = layer(outs, ins, 3, 3, stride=stride, padding=1)
        self.bn1 = norm(outs)
        self.conv2 = layer(outs, outs, 3, 3, padding=1)
        self.bn2 = norm(outs)
        self.shortcut = nn.Sequential()
        if stride != 1 or ins != outs:
            self.shortcut = nn.Sequential(layer(outs, ins, 1, 1, stride=stride), norm(outs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class PreBlock(nn.Module):
    def __init__(self, layer: Callable, norm: Callable, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = norm(ins), layer(outs, ins, 3, 3, stride=stride, padding=1)
        self.bn2, self.conv2 = norm(outs), layer(outs, outs, 3, 3, padding=1)
        if stride != 1 or ins != outs:
            self.shortcut = nn.Sequential(layer(outs, ins, 1, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        way = self.shortcut(y) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + way


class ResNet(nn.Module):
    """ResNet-18 of small images; `pre` moves norms to the front, `fc` makes the last layer 1x1."""

    def __init__(
        self,
        layer: Callable,
        norm: Callable = nn.BatchNorm2d,
        pre: bool = False,
        last: str = "linear",
        scale: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.last, self.pre = last, pre
        if scale is not None:
            self.normalize = scale
        self.conv1 = layer(64, 3, 3, 3, padding=1)
        if not pre:
            self.bn1 = norm(64)
        block = PreBlock if pre else Block
        for number, (ins, outs) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512))):
            stage = [block(layer, norm, ins, outs, 2 if number else 1)]
            stage.append(block(layer, norm, outs, outs, 1))
            self.add_module(f"layer{number + 1}", nn.Sequential(*stage))
        if pre:
            self.bn = norm(512)
        final = layer(10, 512, 1, 1) if last == "fc" else layer(10, 512, bias=True)
        self.add_module(last, final)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalize(x) if hasattr(self, "normalize") else x
        y = self.conv1(x)
        y = y if self.pre else F.relu(self.bn1(y))
        y = self.layer4(self.layer3(self.layer2(self.layer1(y))))
        y = F.relu(self.bn(y)) if self.pre else y
        y = F.avg_pool2d(y, 4)
        final = getattr(self, self.last)
        return final(y).flatten(1) if self.last == "fc" else final(y.flatten(1))


WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg_convolutions(layer: Callable, bias: bool) -> list[list[nn.Module]]:
    """Returns convolution, norm and ReLU of each stage."""
    stages, ins = [], 3
    for widths in WIDTHS:
        stage: list[nn.Module] = []
        for outs in widths:
            convolution = layer(outs, ins, 3, 3, padding=1, bias=bias)
            stage += [convolution, nn.BatchNorm2d(outs), nn.ReLU()]
            ins = outs
        stages.append(stage)
    return stages


def vgg_features(layer: Callable, bias: bool) -> nn.Sequential:
    """Returns the stages in one sequence, a pooling between two."""
    flat: list[nn.Module] = []
    for stage in vgg_convolutions(layer, bias):
        flat += [*([nn.MaxPool2d(2)] if flat else []), *stage]
    return nn.Sequential(*flat)


class Vgg(nn.Module):
    """A VGG-16 of features, a pooling and one linear layer."""

    def __init__(
        self, layer: Callable, bias: bool, pool: nn.Module, name: str, scale: nn.Module | None
    ) -> None:
        super().__init__()
        self.name, self.pool = name, pool
        self.scale = [scale]  # in a list, so that it is no part of the state
        self.add_module(name, vgg_features(layer, bias))
        self.classifier = layer(10, 512, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale[0](x) if self.scale[0] else x
        return self.classifier(self.pool(getattr(self, self.name)(x)).flatten(1))


class PwoaVgg(nn.Module):
    """PwoA's VGG-16 as published: a block a stage, each with its pooling; three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        for number, stage in enumerate(vgg_convolutions(Zeros, bias=True), 1):
            triples = [nn.Sequential(*stage[i : i + 3]) for i in range(0, len(stage), 3)]
            pool = nn.MaxPool2d(2) if number < 5 else nn.AdaptiveAvgPool2d(2)
            self.add_module(f"layer{number}", nn.Sequential(*triples, pool))
        self.layer6 = nn.Sequential(Zeros(256, 2048, bias=True), nn.ReLU())
        self.layer7 = nn.Sequential(Zeros(256, 256, bias=True), nn.ReLU())
        self.layer8 = Zeros(10, 256, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, 6):
            x = getattr(self, f"layer{number}")(x)
        return self.layer8(self.layer7(self.layer6(x.flatten(1))))


class TicketVgg(nn.Module):
    """Li20's VGG-16, whose parts have two names each."""

    def __init__(self) -> None:
        super().__init__()
        self.feature = vgg_features(Zeros, bias=False)
        self.classifier = nn.Sequential(
            Zeros(512, 512, bias=True),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            Zeros(10, 512, bias=True),
        )
        self.model = nn.Sequential(self.feature, nn.AvgPool2d(2), nn.Flatten(), self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def small_cnn(layer: Callable) -> nn.Sequential:
    """HYDRA's `cifar_model`."""
    return nn.Sequential(
        layer(16, 3, 4, 4, stride=2, padding=1, bias=True),
        nn.ReLU(),
        layer(32, 16, 4, 4, stride=2, padding=1, bias=True),
        nn.ReLU(),
        nn.Flatten(),
        layer(100, 2048, bias=True),
        nn.ReLU(),
        layer(10, 100, bias=True),
    )


class CaffeLeNet(nn.Module):
    """ATMC's LeNet: no ReLU behind the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(2)
        self.features = nn.Sequential(Composed(20, 1, 5, 5), pool, Composed(50, 20, 5, 5), pool)
        self.classifier = nn.Sequential(Composed(500, 800), nn.ReLU(), Composed(10, 500))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def plain_norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, affine=False)


@torch.no_grad()
def settled(net: nn.Module) -> nn.Module:
    """Returns a network in eval mode, with statistics and scales that are not the first ones."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return net.eval()
