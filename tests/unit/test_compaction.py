"""Compaction: the same function on every architecture, and by hand what leaves."""

import copy
import json
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from tiny import digits, rng, trained
from torch import nn

from benchmark import compaction
from benchmark.architectures import ARCHITECTURES, Classifier, build, initialise
from benchmark.architectures.base import Normalise
from benchmark.compaction import (
    Compact,
    NotCompactable,
    Operation,
    as_published,
    compact,
    describe,
    multiply_adds,
    parameters,
    restore,
)
from benchmark.errors import BenchmarkError, ContractError, UnknownName
from benchmark.pruning import measure, prunable_parameters

SMALL = {"cnn-tiny": (1, 8, 8), "resnet50": (3, 32, 32)}
# Those of the same layers as another, with more of them or more channels.
SKIPPED = (
    *("wrn-28-10", "wrn-34-10", "wrn-16-8", "resnet34", "vgg16-bn-4096", "vgg16-bn-512"),
    *("vgg16-bn-mad", "vgg16-bn-twinrep", "vgg16-bn-pwoa"),
)


def network(name: str) -> Classifier:
    accepted = ARCHITECTURES[name].shapes
    shape = SMALL.get(name) or (accepted.exact[0] if accepted.exact else (3, 32, 32))
    model = build(name, shape=shape, classes=10, mean=[0.4] * shape[0], std=[0.2] * shape[0]).eval()
    initialise(model, rng(1))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=rng(2))
            module.running_var.uniform_(0.5, 2, generator=rng(3))
            nn.init.uniform_(module.weight, 0.5, 2, generator=rng(4))
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, generator=rng(5))
    return model


@torch.no_grad()
def prune(model: nn.Module, share: float, generator: torch.Generator) -> None:
    """Removes a share of the weights, and half as large a share of filters and inputs."""
    for weight in prunable_parameters(model).values():
        weight[torch.rand(len(weight), generator=generator) < share / 2] = 0
        weight[:, torch.rand(weight.shape[1], generator=generator) < share / 2] = 0
        weight[torch.rand(weight.shape, generator=generator) < share] = 0


def weights(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in SKIPPED])
def test_the_function_stays(name):
    model = network(name)
    inputs = torch.rand(3, *model.shape, generator=rng(6))
    sizes = []
    for share in (0.0, 0.5, 0.9, 1.0):
        prune(model, share, rng(7))
        small = compact(model).eval()
        with torch.no_grad():
            expected, found = model(inputs), small(inputs)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        sizes.append(weights(small))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 50


@pytest.mark.parametrize("name", ["cnn-small", "cnn-large", "resnet18", "wrn-28-4"])
def test_input_gradients_stay(name):
    model = network(name)
    prune(model, 0.6, rng(7))
    inputs = torch.rand(2, *model.shape, generator=rng(6)).requires_grad_()
    gradients = []
    for each in (model, compact(model)):
        logits = each(inputs)
        gradients.append(torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), inputs)[0])
    scale = float(gradients[0].abs().max())
    assert scale > 0
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4 * scale)


def classifier(*layers: nn.Module, shape=(1, 4, 4), classes=2) -> Classifier:
    return Classifier(
        Normalise([0.5], [0.25]),
        nn.Sequential(*layers),
        architecture="by hand",
        shape=shape,
        classes=classes,
    ).eval()


def by_hand() -> Classifier:
    """Channels of the first layer: 0 lives, 1 is a constant, 2 lives and nobody looks at it."""
    first, second, last = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3), nn.Linear(8, 2)
    for number, layer in enumerate((first, second, last)):
        nn.init.normal_(layer.weight, generator=rng(number))
        nn.init.normal_(layer.bias, generator=rng(number + 5))
    with torch.no_grad():
        first.weight[1] = 0
        first.bias[1] = 0.7
        second.weight[:, 2] = 0
    return classifier(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), last)


def shapes(small: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(o.tensors["weight"].shape) for o in small.operations if "weight" in o.tensors]


def test_constant_and_unseen_channels_leave():
    model = by_hand()
    small = compact(model)
    assert shapes(small) == [(1, 1, 3, 3), (2, 1, 3, 3), (2, 8)]
    # Without padding behind it the constant is a bias: 0.7 times the sum of its weights more.
    second = model.body[2]
    expected = second.bias + 0.7 * second.weight[:, 1].sum(dim=(1, 2))
    bias = next(
        o
        for o in small.operations
        if o.kind == "convolution" and len(o.inputs) and o.tensors["weight"].shape[0] == 2
    ).tensors["bias"]
    assert torch.allclose(bias, expected)


def test_a_constant_beside_a_border_becomes_an_image():
    model = by_hand()
    padded = nn.Conv2d(3, 2, 3, padding=1)
    padded.load_state_dict(model.body[2].state_dict())
    model.body[2], model.body[5] = padded, nn.Linear(32, 2)
    small = compact(model)
    (image,) = [o.tensors["image"] for o in small.operations if "image" in o.tensors]
    assert image.shape == (2, 4, 4)
    assert not torch.allclose(image[:, 0, 0], image[:, 1, 1])
    inputs = torch.rand(5, 1, 4, 4, generator=rng())
    with torch.no_grad():
        assert torch.allclose(small(inputs), model(inputs), atol=1e-6)


def test_a_batch_norm_joins_its_convolution_only_if_nobody_else_looks():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
            self.flatten, self.last = nn.Flatten(), nn.Linear(8, 2)

        def forward(self, inputs):
            found = self.convolution(inputs)
            return self.last(self.flatten(self.norm(found) + found))

    model = classifier(nn.Identity())
    model.body = Forked().eval()
    model.body.norm.running_mean.fill_(0.3)
    with torch.no_grad():
        model.body.norm.weight.copy_(torch.tensor([2.0, -1.0]))
    small = compact(model)
    assert [o.kind for o in small.operations].count("affine") == 2
    inputs = torch.rand(5, 1, 4, 4, generator=rng())
    with torch.no_grad():
        assert torch.allclose(small(inputs), model(inputs), atol=1e-6)


def test_a_network_without_a_path_is_a_constant():
    model = by_hand()
    with torch.no_grad():
        model.body[2].weight.zero_()
    small = compact(model)
    inputs = torch.rand(5, 1, 4, 4, generator=rng())
    with torch.no_grad():
        assert torch.allclose(small(inputs), model(inputs), atol=1e-6)
    assert shapes(small)[0] == (1, 1, 3, 3)


def test_a_trained_network_answers_alike_and_stays_as_it_was():
    model, examples = trained(), digits(60)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = compact(model)
    with torch.no_grad():
        assert torch.equal(small(examples.inputs).argmax(1), model(examples.inputs).argmax(1))
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)), "Tanh"),
        ((nn.Conv2d(1, 2, 3, padding_mode="circular", padding=1),), "plain convolutions"),
        ((nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1, groups=2)), "plain convolutions"),
        ((nn.AdaptiveAvgPool2d(2),), "one place"),
        ((nn.Flatten(0),), "first dimension"),
        ((nn.BatchNorm2d(1, track_running_stats=False),), "statistics"),
    ],
)
def test_what_cannot_be_followed_is_refused(layers, said):
    with pytest.raises(NotCompactable, match=said):
        compact(classifier(*layers))


def test_branches_and_unknown_functions_are_refused():
    class Branch(nn.Module):
        def forward(self, inputs):
            return inputs if inputs.sum() > 0 else -inputs

    class Unknown(nn.Module):
        def forward(self, inputs):
            return torch.sigmoid(inputs)

    for body, said in ((Branch(), "branches"), (Unknown(), "known functions")):
        model = classifier(nn.Identity())
        model.body = body
        with pytest.raises(NotCompactable, match=said):
            compact(model)


# --- Sizes


def test_sizes_by_hand():
    small = compact(by_hand())
    # Shapes (1, 1, 3, 3) on 4x4 with a border, (2, 1, 3, 3) on 2x2 places, (2, 8); three biases,
    # and two numbers of the normalisation.
    assert parameters(small) == 9 + 18 + 16 + (1 + 2 + 2) + 2
    assert multiply_adds(small, (1, 4, 4)) == 9 * 16 + 18 * 4 + 16


@pytest.mark.parametrize("name", ["cnn-small", "resnet18", "vgg16-bn"])
def test_as_published_has_all_that_the_network_has(name):
    model = network(name)
    prune(model, 0.5, rng(7))
    whole = as_published(model).eval()
    found = measure(model, model.shape)
    assert multiply_adds(whole, model.shape) == sum(one.multiply_adds_dense for one in found.layers)
    inputs = torch.rand(2, *model.shape, generator=rng(6))
    with torch.no_grad():
        expected = model(inputs)
        assert torch.allclose(whole(inputs), expected, atol=1e-4 * float(expected.abs().max()))
    assert multiply_adds(compact(model), model.shape) < multiply_adds(whole, model.shape)
    assert parameters(compact(model)) < parameters(whole)


def test_sums_that_differ_by_rounding_are_one_bias():
    model = by_hand()
    operations = compaction._folded(compaction._traced(model))
    known = compaction._constants(operations, model.shape)
    kept = compaction._needed(operations, known)
    at = [at for at, o in enumerate(operations) if o.kind == "convolution"][1]
    real = operations[at]

    class Rough(Operation):
        spread = 1e-14

        def __call__(self, *values):
            found = super().__call__(*values)
            return found + self.spread * found.abs().max() * torch.arange(4.0).view(1, 1, 2, 2)

    operations[at] = Rough(real.kind, real.inputs, real.tensors, real.settings)
    assert "bias" in compaction._cut(operations, known, kept, at).tensors
    Rough.spread = 1e-9
    assert "image" in compaction._cut(operations, known, kept, at).tensors


def test_values_leave_memory_behind_their_last_reader():
    model = network("resnet18")
    small, held = as_published(model).eval(), []

    def counting(function):
        def run(tensors, settings, *values):
            frame = sys._getframe(1)
            held.append(len(frame.f_locals["values"]))
            return function(tensors, settings, *values)

        return run

    small._steps = tuple((counting(step[0]), *step[1:]) for step in small._steps)
    with torch.no_grad():
        small(torch.rand(1, *model.shape, generator=rng()))
    # One value, beside it that of a shortcut and that of its sum.
    assert max(held) <= 3 < len(held)


# --- Descriptions


def described(small: Compact) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    return json.loads(json.dumps(describe(small))), small.state_dict()


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in SKIPPED])
def test_descriptions_come_back_to_the_bit(name):
    model = network(name)
    prune(model, 0.5, rng(7))
    inputs = torch.rand(2, *model.shape, generator=rng(6))
    for small in (compact(model), as_published(model)):
        again = restore(*described(small), list(model.shape))
        with torch.no_grad():
            assert torch.equal(small(inputs), again(inputs))


def test_every_kind_has_a_form():
    assert set(compaction._FORMS) == set(compaction._KINDS)


def at(*way: Any, value: Any):
    """Returns a change of one place in a description."""

    def change(description: Any) -> None:
        for key in way[:-1]:
            description = description[key]
        description[way[-1]] = value

    return change


# Operations of the network by hand: 0 affine, 1 convolution, 2 relu, 3 convolution, 4 relu, ...
CONVOLUTION = 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.clear(), "list of 1 to 4096 operations, got list"),
        (lambda d: d.extend([d[2]] * 5000), "list of 1 to 4096 operations"),
        (at(0, value=[]), "kind, inputs, tensors and settings of operation 0, got list"),
        (at(0, "kind", value=3), "of operation 0, got dict"),
        (at(0, "more", value=3), "of operation 0, got dict"),
        (at(2, "inputs", value=[9]), "1 inputs from before operation 2, got list"),
        (at(2, "inputs", value=[-1]), "1 inputs"),
        (at(2, "inputs", value=[1, 1]), "1 inputs"),
        (at(2, "inputs", value=[True]), "1 inputs"),
        (at(2, "inputs", value="1"), "1 inputs"),
        (at(2, "inputs", value=[10**30]), "1 inputs"),
        (at(2, "tensors", value=["weight"]), "tensors of a relu in operation 2, got list"),
        (at(1, "tensors", value=["weight"]), "tensors of a convolution in operation 1"),
        (at(1, "tensors", value={"weight": 1}), "tensors of a convolution in operation 1"),
        (at(1, "settings", value={}), "settings .* of operation 1"),
        (at(1, "settings", value=None), "settings .* of operation 1, got NoneType"),
        (at(1, "settings", "groups", value=1), "settings .* of operation 1"),
        (at(1, "settings", "stride", value=[0, 1]), "stride of operation 1 as whole numbers, 1"),
        (at(1, "settings", "stride", value=[1, 1, 1]), "stride of operation 1"),
        (at(1, "settings", "padding", value=float("nan")), "padding of operation 1 .* got float"),
        (at(1, "settings", "padding", value=-1), "padding of operation 1 .* got -1"),
        (at(1, "settings", "padding", value="same"), "padding of operation 1 .* got same"),
        (at(1, "settings", "padding", value=10**5000), "padding of operation 1 .* got int"),
        (at(1, "settings", "padding", value=[4000, 4000]), "at most 67108864 entries, got more"),
        (at(1, "settings", "dilation", value=4096), "operations that fit each other"),
        (lambda d: d.pop(), "tensors of the description only, got 6-"),
    ],
)
def test_descriptions_of_something_else_are_refused(change, said):
    model = by_hand()
    model.body[0] = padded = nn.Conv2d(1, 3, 3, padding=1)
    nn.init.normal_(padded.weight, generator=rng())
    description, state = described(as_published(model))
    change(description)
    with pytest.raises(ContractError, match=f"^expected .*{said}.*; export again$") as caught:
        restore(description, state, model.shape)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("1-weight", torch.zeros(3, 1, 3, 3, dtype=torch.float64), "4 dimensions of float32"),
        ("1-weight", torch.zeros(3, 9), r"4 dimensions of float32 in 1-weight, got .3, 9."),
        ("1-weight", torch.zeros(0, 1, 3, 3), "4 dimensions"),
        ("1-weight", torch.full((3, 1, 3, 3), float("nan")), "finite numbers in 1-weight"),
        ("1-weight", torch.zeros(3, 2, 3, 3), "operations that fit each other"),
        ("1-bias", torch.full((3,), float("inf")), "finite numbers in 1-bias"),
        ("1-bias", torch.zeros(2), "operations that fit each other"),
        ("0-scale", torch.ones(3), "operations that fit each other with affine"),
        ("more", torch.zeros(1), "tensors of the description only, got more"),
        ("1-weight", None, "tensors of the description, got none named 1-weight"),
    ],
)
def test_other_tensors_are_refused(name, tensor, said):
    model = by_hand()
    description, state = described(as_published(model))
    state = {key: value for key, value in state.items() if key != name}
    state |= {name: tensor} if tensor is not None else {}
    with pytest.raises(ContractError, match=said):
        restore(description, state, model.shape)


@pytest.mark.parametrize(
    "shape",
    [None, [], [1, 4], [1, 4, 4, 4], [1, 4, 0], [1, 4, 4.0], [1, 4, 1 << 40], "144", [1, 5, 5]],
)
def test_other_shapes_are_refused(shape):
    description, state = described(as_published(by_hand()))
    with pytest.raises(ContractError, match="shape|fit each other"):
        restore(description, state, shape)


def test_an_image_at_the_end_is_no_logits():
    small = Compact([Operation("relu", (0,))])
    with pytest.raises(ContractError, match=r"logits \(N, K\) at the end, got \(1, 1, 4, 4\)"):
        restore(describe(small), {}, (1, 4, 4))


def test_unknown_kinds_have_near_matches():
    description, state = described(as_published(by_hand()))
    description[1]["kind"] = "convolutional"
    with pytest.raises(UnknownName, match="unknown operation 'convolutional'; did you mean convol"):
        restore(description, state, (1, 4, 4))


JSON = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.integers(-2, 9)
    | some.floats()
    | some.sampled_from(["", "relu", "add", "flatten", "mean", "weight", "bias", "image", "same"])
    | some.text(max_size=4),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(some.sampled_from(["kind", "inputs", "stride"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [way] if way else []
    for key, item in inner if isinstance(value, dict | list) else ():
        found += places(item, (*way, key)) if isinstance(item, dict | list) else [(*way, key)]
    return found


@settings(deadline=None, max_examples=150)
@given(some.data())
def test_any_description_is_restored_or_refused_in_a_line(drawn):
    before, state = described(compact(by_hand()))
    description = copy.deepcopy(before)
    for _ in range(drawn.draw(some.integers(1, 3))):
        way = drawn.draw(some.sampled_from(places(description) or [(0,)]))
        try:
            at(*way, value=drawn.draw(JSON))(description)
        except (IndexError, TypeError, KeyError):
            continue
    try:
        found = restore(description, state, (1, 4, 4))
    except BenchmarkError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 400 and ";" in message
    else:
        with torch.no_grad():
            assert found(torch.zeros(2, 1, 4, 4)).dim() == 2


@settings(deadline=None, max_examples=50)
@given(JSON, JSON)
def test_anything_else_is_refused(description, shape):
    with pytest.raises(BenchmarkError):
        restore(description, {}, shape)
