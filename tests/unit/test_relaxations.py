"""Differentiable bounds against closed forms, a second implementation, attacks and differences."""

import copy

import pytest
import torch
from test_bounds import Calls, classifier, data, filled, linf, margins_of, smallest_margin_found
from tiny import rng
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmark.architectures import Normalise
from benchmark.architectures.resnet import BasicBlock
from benchmark.bounds import MarginBounds, UnboundableNetwork, specification, training_margins
from benchmark.errors import ContractError, UnknownName
from benchmark.relaxations import interval_boxes, known_to_crown, layers_of
from benchmark.threat import TOLERANCE, ThreatModel

CLASSES = 5
METHODS = ("ibp", "crown-ibp", "symbolic")
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def bodies() -> dict[str, nn.Module]:
    """Networks for (2, 8, 8) inputs that use every way back through a layer."""
    return {
        "linear": nn.Sequential(
            nn.Flatten(), nn.Linear(128, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), tail(10)
        ),
        "strides": nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            # A row and a column at the far edge are left over.
            nn.Conv2d(4, 6, 3, stride=2, padding=(1, 0)),
            nn.ReLU(),
            nn.Conv2d(6, 4, 2, stride=(1, 2), padding=1, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            tail(40),
        ),
        "norms and groups": nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, groups=2, dilation=2, padding=2),
            # No ReLU in between: what lies beyond the edge must not come back.
            nn.Conv2d(8, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Dropout(0.5),
            nn.ReLU(),
            nn.Flatten(),
            tail(256),
        ),
        "averages": nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 4, 3, padding="same"),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            tail(16),
        ),
        "maxima": nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6, 8),
            nn.ReLU(),
            tail(8),
        ),
    }


def tail(features: int) -> nn.Linear:
    return nn.Linear(features, CLASSES)


def networks(*names: str) -> list[pytest.param]:
    made = bodies()
    return [pytest.param(classifier(made[name]), id=name) for name in names or made]


def smallest(model: nn.Module, epsilon: float, method: str) -> Tensor:
    return training_margins(model, data(), LABELS, epsilon, method).amin(dim=1).detach()


# --- oracles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_exact_on_an_affine_network(method: str) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(128, CLASSES))
    model, inputs, epsilon = classifier(body), data(), 0.1
    mean, std = model.normalise.mean.double(), model.normalise.std.double()
    weight, bias = body[1].weight.double(), body[1].bias.double()
    # f_y - f_j is w.x + b; its minimum takes, pixel by pixel, a corner of the clipped box.
    lower, upper = [
        ((inputs.double() + side).clamp(0, 1) - mean).div(std).flatten(1)
        for side in (-epsilon, epsilon)
    ]
    rows = specification(LABELS, CLASSES).double()
    slopes, shifts = rows @ weight, rows @ bias
    corners = torch.minimum(slopes * lower.unsqueeze(1), slopes * upper.unsqueeze(1))
    found = training_margins(model, inputs, LABELS, epsilon, method)
    # float32 sums of 128 terms of size 1: 1e-5 is two orders above their rounding.
    torch.testing.assert_close(found.double(), corners.sum(2) + shifts, atol=1e-5, rtol=0)


def one_unit(last: float) -> nn.Module:
    """f_0 - f_1 = last * relu(x - 0.4) + 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.fill_(-0.4)
        model[3].weight.copy_(torch.tensor([[last], [0.0]]))
        model[3].bias.copy_(torch.tensor([1.0, 0.0]))
    return model


@pytest.mark.parametrize(
    ("method", "last", "epsilon", "expected"),
    [
        # x in [0.25, 0.75]: l = -0.15, u = 0.35, slope 0.7, band from 0.7 (x - 0.4) up by 0.105.
        ("ibp", 2.0, 0.25, 1.0),
        ("symbolic", 2.0, 0.25, 1 - 2 * 0.7 * 0.15),
        ("crown-ibp", 2.0, 0.25, 1 - 2 * 0.15),  # 0.7 > 1/2: the lower line is the unit's input
        # The upper end of all three is u.
        ("ibp", -2.0, 0.25, 1 - 2 * 0.35),
        ("symbolic", -2.0, 0.25, 1 - 2 * 0.35),
        ("crown-ibp", -2.0, 0.25, 1 - 2 * 0.35),
        # x in [0, 1], where the ball is cut at 0: l = -0.4, u = 0.6.
        ("symbolic", 2.0, 0.75, 1 - 2 * 0.6 * 0.4),
        # x in [0.41, 0.59]: always on, and exact.
        ("crown-ibp", 2.0, 0.09, 1 + 2 * 0.01),
        ("symbolic", -2.0, 0.09, 1 - 2 * 0.19),
    ],
)
def test_one_unit_by_hand(method: str, last: float, epsilon: float, expected: float) -> None:
    inputs, labels = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    found = training_margins(one_unit(last), inputs, labels, epsilon, method)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_a_lower_line_of_slope_zero_by_hand() -> None:
    # x in [0.1, 0.5]: l = -0.3, u = 0.1, slope 1/4 < 1/2.
    inputs, labels = torch.full((1, 1, 1, 1), 0.3), torch.tensor([0])
    found = [
        training_margins(one_unit(2.0), inputs, labels, 0.2, method).item() for method in METHODS
    ]
    assert found == pytest.approx([1.0, 1.0, 1 - 2 * 0.3 / 4], abs=1e-6)


def test_the_box_is_cut_at_zero_and_one() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        model[1].bias.zero_()
    # At a black and a white pixel nothing can lower the first or raise the second.
    corner = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    inside = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    for method in METHODS:
        found = [
            training_margins(model, inputs, torch.tensor([0]), 0.25, method).item()
            for inputs in (corner, inside)
        ]
        assert found == pytest.approx([-1.0, -0.5])


def forward_symbolic(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Symbolic intervals as they are usually written: one row an input, one an unstable unit."""
    margins = []
    for image, rows in zip(inputs, specification(labels, CLASSES).to(inputs.dtype), strict=True):
        lower, upper = (image - epsilon).clamp(0, 1), (image + epsilon).clamp(0, 1)
        centre = (lower + upper).div(2).unsqueeze(0)
        errors = spread_out((upper - lower).div(2))
        for layer in layers_of(model):
            radius = errors.abs().sum(0, keepdim=True)
            low, high = centre - radius, centre + radius
            if isinstance(layer, nn.ReLU):
                unstable = (low < 0) & (high > 0)
                slope = torch.where(unstable, high / (high - low), (low >= 0).to(low.dtype))
                half = torch.where(unstable, -slope * low / 2, 0.0)
                centre, errors = slope * centre + half, slope * errors
                errors = torch.cat([errors, spread_out(half[0])])
            elif isinstance(layer, nn.MaxPool2d):
                low, high = layer(low), layer(high)
                centre, errors = (low + high) / 2, spread_out((high - low)[0] / 2)
            else:
                errors = layer(errors) - layer(torch.zeros_like(errors))
                centre = layer(centre)
        margins.append(rows @ centre[0] - (errors @ rows.T).abs().sum(0))
    return torch.stack(margins)


def spread_out(values: Tensor) -> Tensor:
    """Returns one row a value that is not zero."""
    return values.flatten().diag()[values.flatten() != 0].view(-1, *values.shape)


@pytest.mark.parametrize("model", networks())
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.2])
def test_symbolic_intervals_equal_their_usual_form(model: nn.Module, epsilon: float) -> None:
    exact, inputs = copy.deepcopy(model).double(), data().double()
    expected = forward_symbolic(exact, inputs, LABELS, epsilon)
    found = training_margins(exact, inputs, LABELS, epsilon, "symbolic")
    # Both in float64: only the order of sums differs.
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("model", networks("linear", "strides", "norms and groups", "averages"))
@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
@pytest.mark.parametrize("epsilon", ["1/1000", "1/50", "1/8"])
def test_bounds_equal_the_library_s(model: nn.Module, method: str, epsilon: str) -> None:
    # auto_LiRPA's CROWN-IBP takes the same intervals and the same adaptive lower slopes, merges the
    # last layer with the margins, and does not intersect the result with the intervals. So the two
    # differ by float32 rounding alone: 1e-7 of terms that add up to 1 to 100.
    threat = ThreatModel.parse(f"Linf {epsilon}")
    try:
        library = MarginBounds(model, method)(data(), LABELS, threat)
    except UnboundableNetwork:
        # It knows no circular padding; intervals are compared with the plain ones.
        assert any(getattr(m, "padding_mode", "zeros") != "zeros" for m in model.modules())
        library = MarginBounds(model, "ibp-plain")(data(), LABELS, threat)
        method = "ibp"
    found = smallest(model, float(threat.epsilon) + TOLERANCE, method)
    torch.testing.assert_close(found, library, atol=3e-5, rtol=1e-5)


def textbook_crown(model: nn.Module, inputs: Tensor, epsilon: float) -> Tensor:
    """Returns (N,) bounds by CROWN with every affine stretch as one matrix, in float64.

    A second implementation: forward and upper bounds by mirrored formulas, no windows, no sharing.
    """
    exact, stretches = copy.deepcopy(model).double(), [[]]
    for layer in layers_of(exact):
        stretches[-1].append(layer)
        if isinstance(layer, nn.ReLU):
            stretches.append([])
    found = []
    for example, label in zip(inputs.double(), LABELS, strict=True):
        (rows,) = specification(label[None], CLASSES).double()
        box = (example - epsilon).clamp(0, 1).flatten(), (example + epsilon).clamp(0, 1).flatten()
        matrices, value, relaxed = [], example[None], []
        interval = box
        for number, stretch in enumerate(stretches):
            affine = nn.Sequential(*(layer for layer in stretch if not isinstance(layer, nn.ReLU)))
            jacobian = torch.autograd.functional.jacobian(affine, value)
            weight = jacobian.reshape(-1, value.numel())
            shift = affine(torch.zeros_like(value)).flatten()
            matrices.append((weight, shift))
            after = affine(value)
            if number == len(stretches) - 1:
                ends = _down(rows @ weight, rows @ shift, matrices[:-1], relaxed, box)
                found.append(ends.min())
                break
            middle, radius = (interval[0] + interval[1]) / 2, (interval[1] - interval[0]) / 2
            plain = (
                weight @ middle + shift - weight.abs() @ radius,
                weight @ middle + shift + weight.abs() @ radius,
            )
            low = torch.maximum(plain[0], _down(weight, shift, matrices[:-1], relaxed, box))
            high = torch.minimum(plain[1], -_down(-weight, -shift, matrices[:-1], relaxed, box))
            relaxed.append((low, high))
            interval = tuple(end.clamp_min(0) for end in plain)
            value = after.relu()
    return torch.stack(found)


def _down(rows: Tensor, shift: Tensor, matrices: list, relaxed: list, box: tuple) -> Tensor:
    for (weight, constant), (low, high) in zip(reversed(matrices), reversed(relaxed), strict=True):
        on, off = low >= 0, high <= 0
        slope = torch.where(on, 1.0, torch.where(off, 0.0, high / (high - low)))
        height = torch.where(on | off, 0.0, -low * slope)
        gentle = torch.where(on, 1.0, torch.where(off, 0.0, (high > -low).double()))
        shift = shift + rows.clamp_max(0) @ height
        rows = rows.clamp_min(0) * gentle + rows.clamp_max(0) * slope
        rows, shift = rows @ weight, shift + rows @ constant
    return shift + rows.clamp_min(0) @ box[0] + rows.clamp_max(0) @ box[1]


@pytest.mark.parametrize("name", ["linear", "strides", "norms and groups"])
@pytest.mark.parametrize("limit", ["none", "_MATRIX", "_ROWS"])
@pytest.mark.parametrize("epsilon", ["1/1000", "1/50", "1/8"])
def test_full_crown_equals_the_textbook_s(
    name: str, limit: str, epsilon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit != "none":
        # Windows by convolutions in place of a matrix; one row at a time.
        monkeypatch.setattr(f"benchmark.relaxations.crown.{limit}", 1)
    threat = ThreatModel.parse(f"Linf {epsilon}")
    model = classifier(bodies()[name])
    bound = MarginBounds(model, "crown")
    assert bound._layers is not None
    found = bound(data(), LABELS, threat)
    expected = textbook_crown(model, data(), float(threat.epsilon) + TOLERANCE)
    torch.testing.assert_close(found.double(), expected, atol=3e-5, rtol=1e-5)
    # The passes back to hidden units matter: with intervals there, bounds are another story.
    if epsilon == "1/50":
        assert (smallest(model, 1 / 50, "crown-ibp") < found - 1e-3).any()


@pytest.mark.parametrize("name", ["linear", "norms and groups"])
@pytest.mark.parametrize("epsilon", ["1/1000", "1/50", "1/8"])
def test_full_crown_equals_the_library_s(
    name: str, epsilon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, threat = classifier(bodies()[name]), ThreatModel.parse(f"Linf {epsilon}")
    found = MarginBounds(model, "crown")(data(), LABELS, threat)
    monkeypatch.setattr("benchmark.bounds.known_to_crown", lambda network: None)
    expected = MarginBounds(model, "crown")(data(), LABELS, threat)
    # The same intermediate bounds, slopes and last step, up to the order of float32 sums.
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-5)


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    return layer


def replaced(layer: nn.Module) -> nn.Module:
    layer.forward = lambda inputs: inputs * 2  # type: ignore[method-assign]
    return layer


class Louder(nn.ReLU):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


@pytest.mark.parametrize(
    "layer",
    [
        hooked(nn.ReLU()),
        replaced(nn.ReLU()),
        Louder(),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        parametrize.register_parametrization(nn.Linear(3, 3), "weight", nn.Identity()),
        hooked(nn.Sequential(nn.ReLU())),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_only_layers_that_are_what_they_are_called_are_followed(layer: nn.Module) -> None:
    assert known_to_crown(nn.Sequential(nn.Sequential(nn.ReLU()), nn.Linear(3, 2))) is not None
    assert known_to_crown(nn.Sequential(nn.Sequential(layer), nn.Linear(3, 2))) is None


def test_layers_that_answer_otherwise_prove_nothing() -> None:
    bound = MarginBounds(classifier(bodies()["linear"]), "crown")
    loud = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: output * 5 if isinstance(module, nn.Linear) else None
    )
    try:
        with pytest.raises(UnboundableNetwork, match="answer otherwise"):
            bound(data(), LABELS, ThreatModel.parse("Linf 1/1000"))
    finally:
        loud.remove()


@pytest.mark.parametrize("model", networks())
@pytest.mark.parametrize("epsilon", ["1/100", "1/8"])
def test_bounds_stay_below_every_margin_inside_the_region(model: nn.Module, epsilon: str) -> None:
    threat = ThreatModel.parse(f"Linf {epsilon}")
    reached = smallest_margin_found(model, data(), LABELS, threat)
    for method in METHODS:
        bound = smallest(model, float(threat.epsilon), method)
        assert bound.isfinite().all(), method
        # Rounding of float32 bounds of size 1 to 100.
        assert (bound.double() <= reached + 1e-5).all(), method


@pytest.mark.parametrize("model", networks())
@pytest.mark.parametrize("method", METHODS)
def test_bounds_are_not_vacuous(model: nn.Module, method: str) -> None:
    clean = margins_of(model, data(), LABELS)
    assert (smallest(model, 0.0, method) - clean).abs().max() < 1e-4
    # Of a ball this small every method loses little of margins that vary by 1 to 7.
    assert (clean - smallest(model, 1e-4, method)).max() < (0.2 if method == "ibp" else 0.1)


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bodies())
@pytest.mark.parametrize("method", METHODS)
def test_gradients_equal_differences(name: str, method: str) -> None:
    model = classifier(bodies()[name]).double()
    inputs, parameters = data().double(), list(model.parameters())

    def value() -> Tensor:
        return training_margins(model, inputs, LABELS, 0.05, method).sum()

    gradients = torch.autograd.grad(value(), parameters)
    source, step = rng(11), 1e-7
    for _ in range(3):
        directions = [torch.randn(p.shape, generator=source, dtype=p.dtype) for p in parameters]
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        ends = []
        with torch.no_grad():
            for side in (step, -2 * step, step):
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.add_(direction, alpha=side)
                ends.append(float(value()))
        # Central differences of a function of size 1e3 in float64: about 1e-13 * 1e3 / 1e-7.
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_units_without_an_interior_give_no_gradient_of_infinity(method: str) -> None:
    model = one_unit(2.0)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.zero_()
    inputs, labels = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    training_margins(model, inputs, labels, 0.1, method).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# --- behaviour ------------------------------------------------------------------------------------


class Half(nn.Module):
    """A parametrization that keeps every second weight and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight * (torch.arange(weight.numel()).view(weight.shape) % 2)


@pytest.mark.parametrize("name", bodies())
@pytest.mark.parametrize("method", METHODS)
def test_parametrised_layers_are_read_through_their_parametrization(name: str, method: str) -> None:
    model = classifier(bodies()[name])
    plain = copy.deepcopy(model)
    halves = []
    for layer, other in zip(layers_of(model), layers_of(plain), strict=True):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            halves.append(Half())
            parametrize.register_parametrization(layer, "weight", halves[-1])
            other.weight.data = Half()(other.weight.data)
    calls = [half.calls for half in halves]
    found = training_margins(model, data(), LABELS, 0.05, method)
    assert [half.calls for half in halves] == [count + 1 for count in calls]
    expected = training_margins(plain, data(), LABELS, 0.05, method)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    for layer, other in zip(layers_of(model), layers_of(plain), strict=True):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            gradient = layer.parametrizations.weight.original.grad
            torch.testing.assert_close(gradient, Half()(other.weight.grad), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_training_flag_changes_neither_bounds_nor_statistics(method: str) -> None:
    model = classifier(bodies()["norms and groups"])
    expected = smallest(model, 0.05, method)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert torch.equal(smallest(model.train(), 0.05, method), expected)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_network_and_autocast_change_nothing(method: str) -> None:
    model = classifier(bodies()["strides"])
    expected = smallest(model, 0.05, method)
    assert torch.equal(smallest(torch.compile(model, backend="eager"), 0.05, method), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(smallest(model, 0.05, method), expected)


@pytest.mark.parametrize("name", bodies())
@pytest.mark.parametrize("method", METHODS)
def test_the_memory_layout_changes_nothing_but_rounding(name: str, method: str) -> None:
    model = classifier(bodies()[name])
    expected = training_margins(model, data(), LABELS, 0.05, method)
    model.to(memory_format=torch.channels_last)
    inputs = data().contiguous(memory_format=torch.channels_last)
    found = training_margins(model, inputs, LABELS, 0.05, method)
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_an_example_s_bounds_do_not_depend_on_the_batch(method: str) -> None:
    model = classifier(bodies()["maxima"])
    together = training_margins(model, data(), LABELS, 0.05, method)
    for place in range(len(LABELS)):
        part = slice(place, place + 1)
        alone = training_margins(model, data()[part], LABELS[part], 0.05, method)
        torch.testing.assert_close(alone, together[part], atol=1e-5, rtol=1e-5)


def test_boxes_belong_to_the_inputs_of_each_layer_and_the_outputs() -> None:
    layers = layers_of(classifier(bodies()["strides"]))
    boxes = interval_boxes(layers, data() - 0.1, data() + 0.1)
    values = data()
    for layer, (lower, upper) in zip([*layers, None], boxes, strict=True):
        assert (lower <= values).all() and (values <= upper).all()
        values = layer(values) if layer else values


# --- refusals -------------------------------------------------------------------------------------


class Doubled(nn.Conv2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (BasicBlock(2, 2, 1), "BasicBlock"),
        (nn.Tanh(), "Tanh"),
        (Doubled(2, 2, 1), "Doubled"),
        (nn.BatchNorm2d(2, track_running_stats=False), "BatchNorm2d"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("method", METHODS)
def test_layers_without_a_bound_are_named(layer: nn.Module, named: str, method: str) -> None:
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(128, CLASSES))
    with pytest.raises(UnboundableNetwork, match=f"got {named}; .*objective without bounds") as it:
        training_margins(model, data(), LABELS, 0.1, method)
    assert it.value.reason == f"layer {named}"


def test_networks_without_a_known_number_of_classes_are_refused() -> None:
    with pytest.raises(UnboundableNetwork, match="no linear layer at the end of Calls"):
        training_margins(Calls(lambda x: x), data(), LABELS, 0.1, "ibp")


def test_a_classifier_may_end_in_another_layer() -> None:
    body = filled(nn.Sequential(nn.Flatten(), nn.Linear(128, CLASSES), nn.ReLU()))
    model = classifier(body)
    for method in METHODS:
        bound = smallest(model, 0.01, method)
        assert (bound <= smallest_margin_found(model, data(), LABELS, linf(0)) + 1e-5).all()


def test_unknown_methods_and_labels_are_refused() -> None:
    model = classifier(bodies()["linear"])
    with pytest.raises(UnknownName, match="symbolic"):
        training_margins(model, data(), LABELS, 0.1, "symbolik")
    with pytest.raises(ContractError, match=r"labels in \[0, 5\)"):
        training_margins(model, data(), LABELS + 1, 0.1, "ibp")


def test_a_normalisation_of_negative_scale_turns_the_box_around() -> None:
    normalise = Normalise([0.5, 0.5], [0.5, 0.5])
    normalise.std[0] = -0.5
    model = nn.Sequential(normalise, filled(nn.Sequential(nn.Flatten(), nn.Linear(128, CLASSES))))
    reached = smallest_margin_found(model, data(), LABELS, ThreatModel.parse("Linf 1/10"))
    for method in METHODS:
        assert (smallest(model, 0.1, method).double() <= reached + 1e-5).all()
