"""Compaction: the same function on every architecture, and by hand what leaves."""

import pytest
import torch
from tiny import digits, rng, trained
from torch import nn

from benchmark.architectures import ARCHITECTURES, Classifier, build, initialise
from benchmark.architectures.base import Normalise
from benchmark.compaction import NotCompactable, compact
from benchmark.pruning import prunable_parameters

SMALL = {"cnn-tiny": (1, 8, 8), "resnet50": (3, 32, 32)}
SKIPPED = ("wrn-28-10",)  # is WRN-28-4 with more channels


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
