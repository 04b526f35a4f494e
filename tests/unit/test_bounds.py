"""Margin bounds against closed forms, a plain implementation, hand computations and attacks."""

import copy
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.architectures import Classifier, Normalise
from benchmark.architectures.resnet import BasicBlock
from benchmark.bounds import (
    METHODS,
    ROUNDING,
    MarginBounds,
    UnboundableNetwork,
    engine_version,
    interval_bounds,
    margin_bounds,
    relaxed_units,
    rounding_allowance,
    specification,
)
from benchmark.errors import ContractError, ExtraMissing
from benchmark.threat import TOLERANCE, ThreatModel

CLASSES = 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def filled(module: nn.Module, seed: int = 1) -> nn.Module:
    """Gives every parameter and statistic its own value, so that no term of a bound is idle."""
    source = generator(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # Of either sign: a negative scale swaps the ends of an interval.
            layer.weight.copy_(torch.linspace(-1.5, 1.0, len(layer.weight)))
            layer.bias.copy_(torch.randn(layer.bias.shape, generator=source) * 0.1)
            layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=source) * 0.1)
            layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=source) + 0.5)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            weight = torch.randn(layer.weight.shape, generator=source)
            layer.weight.copy_(weight * (2 / fan_in) ** 0.5)
            if layer.bias is not None:
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=source) * 0.1)
    return module.eval()


def bodies() -> dict[str, nn.Module]:
    return {
        "convolutions": nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96, 12),
            nn.ReLU(),
            nn.Linear(12, CLASSES),
        ),
        "poolings": nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, CLASSES),
        ),
        "residual": nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            BasicBlock(4, 4, 1),
            BasicBlock(4, 8, 2),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(8, CLASSES),
        ),
    }


def classifier(
    body: nn.Module, channels: int = 2, size: int = 8, classes: int = CLASSES
) -> nn.Module:
    mean, std = [0.3, 0.6, 0.5][:channels], [0.4, 0.8, 0.5][:channels]
    return Classifier(
        Normalise(mean, std),
        filled(body),
        architecture="test",
        shape=(channels, size, size),
        classes=classes,
    ).eval()


def networks(*names: str) -> list[pytest.param]:
    made = bodies()
    return [pytest.param(classifier(made[name]), id=name) for name in names or made]


def data(count: int = 6) -> Tensor:
    inputs = torch.rand((count, 2, 8, 8), generator=generator(7))
    # Corners of the box, where the ball is cut.
    inputs[:1, 0, 0], inputs[:1, 0, 1] = 0.0, 1.0
    return inputs


def linf(epsilon: Fraction | int) -> ThreatModel:
    return ThreatModel("Linf", Fraction(epsilon))


def margins_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    logits = model(inputs)
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return own - others.amax(dim=1)


# --- oracles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_exact_on_an_affine_network(method: str) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(128, CLASSES))
    model = classifier(body)
    inputs = data()
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    radius = Fraction(1, 10)
    # f_y - f_j is w.x + b; its minimum takes, pixel by pixel, the corner of the clipped box.
    mean, std = model.normalise.mean.double(), model.normalise.std.double()
    weight, bias = body[1].weight.double(), body[1].bias.double()
    step = float(radius) + TOLERANCE
    corners = [
        ((corner.clamp(0, 1) - mean) / std).flatten(1)
        for corner in (inputs.double() - step, inputs.double() + step)
    ]
    expected = []
    for example, label in enumerate(labels.tolist()):
        difference = weight[label] - weight
        lowest = torch.minimum(difference * corners[0][example], difference * corners[1][example])
        values = lowest.sum(dim=1) + bias[label] - bias
        expected.append(min(value for j, value in enumerate(values.tolist()) if j != label))
    found = margin_bounds(model, inputs, labels, linf(radius), method)
    # float32 sums of 128 terms of size 1: 1e-5 is two orders above their rounding.
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_bound_inside_the_box_is_margin_minus_epsilon_times_l1_norm() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 0.25]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    model[1].weight.data, model[1].bias.data = weight, torch.tensor([0.5, 0.0])
    inputs = torch.tensor([0.5, 0.4, 0.6]).view(1, 1, 1, 3)
    # w = (1, -3, 0.25), b = 0.5: 0.5 - 1.2 + 0.15 + 0.5 - 0.1 * 4.25.
    found = margin_bounds(model, inputs, torch.tensor([0]), linf(Fraction(1, 10)), "ibp")
    assert found.item() == pytest.approx(-0.475, abs=1e-5)


@pytest.mark.parametrize("model", networks("convolutions", "poolings"))
@pytest.mark.parametrize("epsilon", [Fraction(1, 255), Fraction(1, 10)])
def test_library_intervals_equal_the_plain_ones(model: nn.Module, epsilon: Fraction) -> None:
    inputs, labels = data(), torch.tensor([0, 1, 2, 3, 4, 0])
    plain = margin_bounds(model, inputs, labels, linf(epsilon), "ibp-plain")
    library = margin_bounds(model, inputs, labels, linf(epsilon), "ibp")
    torch.testing.assert_close(library, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("first", "bias", "last", "constant", "expected"),
    [
        # Box [1/4, 3/4]^2. h1 = x1 - x2 in [-1/2, 1/2], h2 = x1 + x2 - 1/2 in [0, 1].
        # Margin -relu(h1) + relu(h2) + 1/4. CROWN: relu(h1) <= h1 / 2 + 1/4, so the margin is at
        # least x1 / 2 + 3/2 x2 - 1/2 >= 0. Intervals: -1/2 + 0 + 1/4.
        ([[1, -1], [1, 1]], [0, -0.5], [-1, 1], 0.25, {"crown": 0.0, "ibp": -0.25}),
        # h = x1 - x2 + 1/10 in [-4/10, 6/10]. Margin relu(h): the adaptive lower line is h itself,
        # as the upper slope 6/10 exceeds 1/2; its minimum is -4/10. Intervals know relu(h) >= 0,
        # and the best slope is 0.
        (
            [[1, -1]],
            [0.1],
            [1],
            0.0,
            {"crown": -0.4, "crown-ibp": -0.4, "ibp": 0, "alpha-crown": 0},
        ),
    ],
    ids=["upper line", "lower line"],
)
def test_two_layers_by_hand(
    first: list[list[float]],
    bias: list[float],
    last: list[float],
    constant: float,
    expected: dict[str, float],
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, len(bias)), nn.ReLU(), nn.Linear(len(bias), 2))
    model[1].weight.data, model[1].bias.data = torch.tensor(first).float(), torch.tensor(bias)
    model[3].weight.data = torch.tensor([last, [0] * len(last)]).float()
    model[3].bias.data = torch.tensor([constant, 0])
    inputs = torch.full((1, 1, 1, 2), 0.5)
    for method, value in expected.items():
        found = margin_bounds(model, inputs, torch.tensor([0]), linf(Fraction(1, 4)), method)
        # The box is wider by 1e-6 a side; slopes of size 2 turn that into less than 1e-5.
        assert found.item() == pytest.approx(value, abs=1e-5), method


@pytest.mark.parametrize("model", networks())
@pytest.mark.parametrize("epsilon", [Fraction(1, 100), Fraction(1, 8)])
def test_bounds_stay_below_every_margin_inside_the_region(
    model: nn.Module, epsilon: Fraction
) -> None:
    inputs = data(4)
    labels = model(inputs).argmax(dim=1)
    smallest = smallest_margin_found(model, inputs, labels, linf(epsilon))
    methods = [method for method in METHODS if method not in ("ibp-plain", "alpha-crown")]
    for method in methods:
        bound = margin_bounds(model, inputs, labels, linf(epsilon), method)
        assert bound.isfinite().all(), method
        # Rounding of float32 bounds of size 1 to 100.
        assert (bound.double() <= smallest + 1e-5).all(), method


def smallest_margin_found(
    model: nn.Module, inputs: Tensor, labels: Tensor, threat: ThreatModel
) -> Tensor:
    """Searches the region by random points, random corners and sign-gradient steps in float64."""
    # A copy in double precision; the tests share the networks.
    exact = copy.deepcopy(model).double()
    inputs, source = inputs.double(), generator(3)
    smallest = torch.full((len(inputs),), torch.inf, dtype=torch.float64)
    step = float(threat.epsilon) / 4
    for trial in range(30):
        noise = torch.rand(inputs.shape, generator=source, dtype=torch.float64) * 2 - 1
        noise = noise.sign() if trial % 2 else noise
        points = threat.project(inputs + noise * float(threat.epsilon), inputs)
        for _ in range(8):
            points.requires_grad_()
            margins = margins_of(exact, points, labels)
            (gradient,) = torch.autograd.grad(margins.sum(), points)
            smallest = torch.minimum(smallest, margins.detach())
            points = threat.project((points - step * gradient.sign()).detach(), inputs)
    return smallest


def test_crown_is_not_vacuous() -> None:
    # Soundness alone would accept -1000; on a small ball CROWN loses little.
    (model,) = (parameter.values[0] for parameter in networks("residual"))
    inputs = data(4)
    labels = model(inputs).argmax(dim=1)
    clean = margins_of(model, inputs, labels)
    bound = margin_bounds(model, inputs, labels, linf(Fraction(1, 1000)), "crown")
    assert ((clean - bound) < 0.1).all()


def test_epsilon_zero_gives_the_clean_margin() -> None:
    (model,) = (parameter.values[0] for parameter in networks("convolutions"))
    inputs, labels = data(), torch.tensor([0, 1, 2, 3, 4, 0])
    for method in ("ibp", "crown"):
        bound = margin_bounds(model, inputs, labels, linf(0), method)
        # The slack of 1e-6 a pixel through 128 pixels and a few layers.
        torch.testing.assert_close(bound, margins_of(model, inputs, labels), atol=2e-3, rtol=0)


# --- plain intervals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False),
        nn.BatchNorm2d(2),
        nn.BatchNorm2d(2, affine=False),
        nn.Dropout(0.5),
    ],
    ids=lambda layer: repr(layer)[:40],
)
def test_intervals_of_one_layer_are_reached(layer: nn.Module) -> None:
    if not isinstance(layer, nn.BatchNorm2d) or layer.affine:
        filled(layer)
    lower = torch.rand((1, 2, 5, 5), generator=generator(2)) - 0.5
    upper = lower + torch.rand(lower.shape, generator=generator(4))
    low, high = interval_bounds(layer, lower, upper)
    layer.eval()
    for place in [(0, 0, 0, 0), (0, 1, 2, 1)]:
        # The gradient of an affine layer says which corner makes this output smallest.
        probe = lower.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(layer(probe)[place], probe)
        smallest = layer(torch.where(gradient > 0, lower, upper))[place]
        largest = layer(torch.where(gradient > 0, upper, lower))[place]
        assert low[place].item() == pytest.approx(smallest.item(), abs=1e-5)
        assert high[place].item() == pytest.approx(largest.item(), abs=1e-5)


def test_intervals_ignore_the_training_flag() -> None:
    body = nn.Sequential(filled(nn.BatchNorm2d(2)), nn.Dropout(0.5))
    lower, upper = torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    expected = interval_bounds(body, lower, upper)
    assert all(map(torch.equal, interval_bounds(body.train(), lower, upper), expected))


class Reversed(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        return -super().forward(inputs)


@pytest.mark.parametrize("layer", [nn.Tanh(), Reversed(nn.ReLU())], ids=["layer", "container"])
def test_intervals_refuse_what_they_do_not_know(layer: nn.Module) -> None:
    with pytest.raises(ContractError, match=type(layer).__name__):
        interval_bounds(nn.Sequential(layer), torch.zeros(1, 2), torch.ones(1, 2))


# --- behaviour ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", networks())
@pytest.mark.parametrize("method", ["ibp", "crown", "crown-ibp"])
def test_a_bound_does_not_depend_on_its_neighbours(model: nn.Module, method: str) -> None:
    inputs = data(8)
    # Examples of very different brightness have different unstable units. None is uniform: there
    # the bounds under a max-pooling tie exactly, and rounding picks one.
    inputs = inputs * torch.linspace(0.2, 1, 8).view(-1, 1, 1, 1)
    labels = model(inputs).argmax(dim=1)
    bounds = [
        MarginBounds(model, method, chunk)(inputs, labels, linf(Fraction(1, 50)))
        for chunk in (1, 3, 8)
    ]
    for other in bounds[1:]:
        torch.testing.assert_close(other, bounds[0], atol=1e-5, rtol=1e-5)


def test_one_object_serves_several_epsilons_in_any_order() -> None:
    (model,) = (parameter.values[0] for parameter in networks("convolutions"))
    inputs, labels = data(), torch.tensor([0, 1, 2, 3, 4, 0])
    shared = MarginBounds(model, "crown")
    epsilons = [Fraction(1, 10), Fraction(1, 100), Fraction(1, 10)]
    found = [shared(inputs, labels, linf(epsilon)) for epsilon in epsilons]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], margin_bounds(model, inputs, labels, linf(epsilons[1]), "crown"))
    assert (found[0] < found[1]).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_network_and_the_global_state_stay_as_they_were(method: str) -> None:
    body = bodies()["convolutions"]
    model = classifier(body).train()
    parameters = dict(model.named_parameters())
    parameters["body.0.weight"].requires_grad_(False)
    parameters["body.0.bias"].grad = torch.ones(4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = [tensor.data_ptr() for tensor in parameters.values()]
    draws = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with torch.no_grad():
        inputs, labels = data(2), torch.tensor([0, 1])
        found = margin_bounds(model, inputs, labels, linf(Fraction(1, 50)), method)
        assert not torch.is_grad_enabled()
    assert not found.requires_grad
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == draws[1:]
    assert all(module.training for module in model.modules())
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert [tensor.data_ptr() for tensor in parameters.values()] == places
    assert [name for name, p in parameters.items() if not p.requires_grad] == ["body.0.weight"]
    assert [name for name, p in parameters.items() if p.grad is not None] == ["body.0.bias"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bound_that_is_no_number_is_minus_infinity(
    method: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    model = classifier(bodies()["convolutions"])
    with torch.no_grad():
        model.body[2].weight[0, 0, 0, 0] = value
    bound = margin_bounds(model, data(2), torch.tensor([0, 1]), linf(Fraction(1, 50)), method)
    assert bound.tolist() == [-torch.inf, -torch.inf]
    assert capsys.readouterr().out == ""


def test_no_examples_no_bounds() -> None:
    model = classifier(bodies()["convolutions"])
    empty = margin_bounds(model, data(0), torch.empty(0, dtype=torch.int64), linf(0), "crown")
    assert empty.shape == (0,) and empty.dtype == torch.float32


def test_specification_has_one_row_for_each_other_class() -> None:
    rows = specification(torch.tensor([1]), 3)
    assert rows.tolist() == [[[-1, 1, 0], [0, 1, -1]]]


def test_relaxed_units_count_layers_functions_and_poolings() -> None:
    made = bodies()
    assert relaxed_units(classifier(made["convolutions"]), (2, 8, 8)) == 256 + 96 + 12
    assert relaxed_units(classifier(made["poolings"]), (2, 8, 8)) == 2 * 256 + 2 * 96
    # The blocks call the function: two ReLUs each, after the one of the first layer.
    assert relaxed_units(classifier(made["residual"]), (2, 8, 8)) == 256 + 2 * 256 + 2 * 128


# --- refusals -------------------------------------------------------------------------------------


def test_other_norms_are_refused() -> None:
    with pytest.raises(ContractError, match="Linf"):
        margin_bounds(
            nn.Flatten(), data(2), torch.zeros(2).long(), ThreatModel.parse("L2 1/2"), "ibp"
        )


def test_unknown_methods_and_chunks_are_refused() -> None:
    with pytest.raises(ContractError, match="crown-ibp.*got 'crow'"):
        MarginBounds(nn.Flatten(), "crow")
    with pytest.raises(ContractError, match="got 0"):
        MarginBounds(nn.Flatten(), "ibp", chunk=0)


def test_crown_refuses_overlapping_poolings() -> None:
    pooled = nn.Sequential(nn.MaxPool2d(3, stride=2), nn.Flatten(), nn.Linear(18, 2))
    inputs, labels = data(2), torch.tensor([0, 1])
    with pytest.raises(UnboundableNetwork, match="overlapping"):
        margin_bounds(pooled, inputs, labels, linf(Fraction(1, 50)), "crown-ibp")
    found = [
        margin_bounds(pooled, inputs, labels, linf(Fraction(1, 50)), method)
        for method in ("ibp", "ibp-plain")
    ]
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("labels", [[0, 5], [-1, 0]])
def test_labels_outside_the_classes_are_refused(labels: list[int]) -> None:
    model = classifier(bodies()["convolutions"])
    with pytest.raises(ContractError, match=r"labels in \[0, 5\)"):
        margin_bounds(model, data(2), torch.tensor(labels), linf(0), "ibp")


def test_labels_must_match_the_inputs() -> None:
    with pytest.raises(ContractError, match="expected 2 labels"):
        margin_bounds(nn.Flatten(), data(2), torch.tensor([0]), linf(0), "ibp")


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


def ends_in(last: nn.Module) -> nn.Module:
    return filled(nn.Sequential(nn.Flatten(), nn.Linear(128, CLASSES), last))


UNBOUNDABLE = {
    "an operation without bounds": (nn.GELU(), "NotImplementedError"),
    "a layer that breaks the library": (nn.LayerNorm(CLASSES), "AttributeError"),
    # The graph of these would be that of the traced example alone.
    "a branch on values": (Calls(lambda x: x if x[0].sum() > 0 else -x), "TracerWarning.*boolean"),
    "a number read out": (Calls(lambda x: x * x[0].max().item()), "TracerWarning.*number"),
    "an array in between": (Calls(lambda x: torch.from_numpy(x.numpy() * 2)), "TracerWarning"),
    # And these answer by more than the example.
    "noise": (Calls(lambda x: x + torch.randn_like(x)), "two passes"),
    "Python's noise": (Calls(lambda x: x * random.random()), "two passes"),
    "numpy's noise": (Calls(lambda x: x * np.random.rand()), "two passes"),
    "dropout": (Calls(lambda x: nn.functional.dropout(x, 0.5, training=True)), "two passes"),
    "neighbours": (Calls(lambda x: x - x.mean(dim=0)), "two passes"),
    "the size of a batch": (nn.BatchNorm1d(CLASSES, track_running_stats=False), "ValueError"),
}


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize(("last", "reason"), UNBOUNDABLE.values(), ids=UNBOUNDABLE)
def test_what_cannot_be_bounded_is_named_and_leaves_no_trace(
    last: nn.Module,
    reason: str,
    method: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Warnings are errors here, so that none leaks either; nor may an error inside decide.
    model, inputs, labels = ends_in(last), data(3), torch.tensor([0, 1, 2])
    before = inputs.clone(), torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    with pytest.raises(UnboundableNetwork, match=reason) as caught:
        margin_bounds(model, inputs, labels, linf(Fraction(1, 50)), method)
    assert f"expected a network that {method} bounds, got '{caught.value.reason}'" in str(caught)
    assert len(caught.value.reason) <= 80
    assert capfd.readouterr() == ("", "") and caplog.records == []
    assert torch.equal(inputs, before[0]) and torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2] and (np.random.get_state()[1] == before[3]).all()
    assert torch.is_grad_enabled() and not torch.jit.is_tracing()
    assert not torch.onnx.is_in_onnx_export()


@pytest.mark.parametrize(
    "last", [nn.Softmax(dim=1), nn.Sigmoid(), Calls(lambda x: x - x.amax(dim=1, keepdim=True))]
)
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_other_ends_are_bounded_soundly_or_not_at_all(last: nn.Module, method: str) -> None:
    model = ends_in(last)
    inputs = data(4)
    labels = model(inputs).argmax(dim=1)
    threat = linf(Fraction(1, 100))
    try:
        bound = margin_bounds(model, inputs, labels, threat, method)
    except UnboundableNetwork:
        return
    assert (bound.double() <= smallest_margin_found(model, inputs, labels, threat) + 1e-5).all()


def test_a_reason_repeats_although_addresses_do_not() -> None:
    def fails(inputs: Tensor) -> Tensor:
        raise AssertionError(f"at {hex(id(inputs))}\nand more")

    with pytest.raises(UnboundableNetwork) as caught:
        relaxed_units(Calls(fails), (2, 8, 8))
    assert caught.value.reason == "AssertionError: at 0x..."
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.reason) == (str(caught.value), caught.value.reason)


def test_contract_errors_come_first_and_are_others() -> None:
    model = ends_in(nn.GELU())
    inputs, labels = data(2), torch.tensor([0, 1])
    cases = [
        (inputs, labels, ThreatModel.parse("L2 1/2")),
        (inputs, labels[:1], linf(0)),
        (inputs, labels + CLASSES, linf(0)),
    ]
    for case in cases:
        with pytest.raises(ContractError) as caught:
            margin_bounds(model, *case, "ibp")
        assert type(caught.value) is ContractError
    assert len(margin_bounds(model, inputs[:0], labels[:0], linf(0), "ibp")) == 0


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: no memory")],
    ids=lambda error: type(error).__name__,
)
def test_a_small_machine_is_no_property_of_the_network(error: Exception) -> None:
    def fails(inputs: Tensor) -> Tensor:
        raise error

    with pytest.raises(type(error)) as caught:
        margin_bounds(ends_in(Calls(fails)), data(1), torch.tensor([0]), linf(0), "ibp")
    assert caught.value is error


def test_a_failure_does_not_spoil_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = (parameter.values[0] for parameter in networks("convolutions"))
    inputs, labels = data(2), torch.tensor([0, 1])
    bound = MarginBounds(model, "crown-ibp")
    expected = bound(inputs, labels, linf(Fraction(1, 50)))
    with monkeypatch.context() as patch:
        patch.setattr(bound._bounded, "compute_bounds", lambda **_: 1 / 0)
        with pytest.raises(UnboundableNetwork, match="ZeroDivisionError"):
            bound(inputs, labels, linf(Fraction(1, 50)))
    assert torch.equal(bound(inputs, labels, linf(Fraction(1, 50))), expected)


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_a_network_that_overwrites_its_input_is_bounded_at_the_input(method: str) -> None:
    tail = [nn.Flatten(), nn.Linear(128, CLASSES)]
    overwriting = filled(nn.Sequential(Calls(lambda x: x.mul_(0.5)), *tail))
    plain = nn.Sequential(Calls(lambda x: x * 0.5), *tail).eval()
    inputs, labels = data(2), torch.tensor([0, 1])
    before = inputs.clone()
    expected = margin_bounds(plain, inputs, labels, linf(Fraction(1, 50)), method)
    try:
        found = margin_bounds(overwriting, inputs, labels, linf(Fraction(1, 50)), method)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    except UnboundableNetwork:
        pass
    rounding_allowance(overwriting, inputs)
    assert torch.equal(inputs, before)


# --- rounding -------------------------------------------------------------------------------------


def test_the_rounding_allowance_follows_the_terms_of_the_last_layer() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    model[1].weight.data = torch.tensor([[100.0, -100.0], [1.0, 2.0]])
    model[1].bias.data = torch.tensor([-3.0, 0.0])
    inputs = torch.tensor([[0.5, 0.5], [0.0, 0.0]]).view(2, 1, 1, 2)
    # The terms of the first sum cancel: 50 - 50 - 3; its logit says nothing of their rounding.
    expected = torch.tensor([103.0, 3.0]) * ROUNDING
    torch.testing.assert_close(rounding_allowance(model, inputs), expected)
    # Of another end only the answer is known.
    scaled = nn.Sequential(model, Calls(lambda x: 2 * x))
    torch.testing.assert_close(
        rounding_allowance(scaled, inputs), torch.tensor([6.0, 6]) * ROUNDING
    )
    assert len(rounding_allowance(model, inputs[:0])) == 0


def wide(seed: int) -> nn.Module:
    body = nn.Sequential(
        nn.Conv2d(2, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 64, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )
    return filled(body, seed)


@torch.no_grad()
def test_rounding_of_the_logits_stays_well_below_the_allowance() -> None:
    worst = 0.0
    for seed in range(5):
        model, inputs = wide(seed), data(16)
        exact = copy.deepcopy(model).double()(inputs.double())
        error = (model(inputs).double() - exact).abs().amax(dim=1)
        # A margin is the difference of two logits.
        worst = max(worst, (2 * error / rounding_allowance(model, inputs)).max().item())
    assert 0 < worst < 0.1


@pytest.mark.parametrize("method", ["ibp", "ibp-plain"])
@pytest.mark.parametrize("epsilon", [Fraction(1, 1_000_000), Fraction(1, 10_000), Fraction(1, 255)])
def test_rounding_that_intervals_amplify_stays_within_the_slack(
    method: str, epsilon: Fraction
) -> None:
    # Of a box as small as its own rounding the error is large; the wider box allows for it.
    without = linf(epsilon - Fraction(1, 1_000_000))
    for seed in range(3):
        model, inputs = wide(seed), data(4)
        labels = model(inputs).argmax(dim=1)
        exact = MarginBounds(copy.deepcopy(model).double(), "ibp-plain")
        expected = exact(inputs.double(), labels, without)
        found = margin_bounds(model, inputs, labels, linf(epsilon), method)
        assert (found < expected).all()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.bounds import _engine

    _engine.cache_clear()
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    with pytest.raises(ExtraMissing, match=r"auto_LiRPA.*requirements-nodeps\.txt"):
        engine_version()


IMPORT = """
import logging, os, sys, warnings
import numpy, torch, appdirs
from benchmark.bounds import engine_version
filters, handlers = list(warnings.filters), list(logging.getLogger().handlers)
folder = appdirs.user_data_dir("auto_LiRPA")
print(engine_version())
assert warnings.filters == filters and logging.getLogger().handlers == handlers
assert logging.root.manager.disable == 0
assert appdirs.user_data_dir("auto_LiRPA") == folder and not os.path.exists(folder)
assert "numpy.lib.arraysetops" not in sys.modules
assert not hasattr(torch.onnx.symbolic_helper, "_set_opset_version")
assert not hasattr(torch._C.Node, "__getitem__")
"""


def test_importing_the_library_leaves_no_trace(tmp_path: object) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("XDG_DATA_HOME", None)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    name, version = run.stdout.split()
    assert name == "auto_LiRPA" and version[0].isdigit()


def test_the_recursion_limit_stays_what_it_was() -> None:
    """Release 0.3 sets it to a million on import, where a deep file ends the process."""
    import subprocess
    import sys

    code = (
        "import sys; before = sys.getrecursionlimit();"
        "from benchmark.bounds import engine_version; engine_version();"
        "assert sys.getrecursionlimit() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
