"""Unrolled networks: the same function on every architecture, and by hand what leaves."""

import numpy as np
import pytest
import torch
from test_compaction import SKIPPED, classifier, network, prune
from tiny import rng
from torch import nn

from benchmark import unrolling
from benchmark.architectures import ARCHITECTURES, Classifier
from benchmark.compaction import Compact, compact
from benchmark.pruning import prunable_parameters
from benchmark.tuning import Tuning
from benchmark.unrolling import Unrolled, dense_work, entries, leanest, unroll

# Deeper ones are pruned further, so that their matrices are made in seconds.
SHARES = {"cnn-tiny": (0.0, 0.9, 1.0), "cnn-small": (0.0, 0.9, 1.0)}
PASSES = [name for name in ARCHITECTURES if name not in SKIPPED]


def sparse(name: str, share: float) -> Classifier:
    model = network(name)
    with torch.no_grad():
        for number, weight in enumerate(prunable_parameters(model).values()):
            # All of the last layer would leave a constant too often.
            removed = share if share == 1 or len(weight) != 10 else share / 2
            weight[torch.rand(weight.shape, generator=rng(number)) < removed] = 0
    return model


def unrolled(model: Classifier) -> Unrolled:
    found = unroll(compact(model), model.shape)
    assert found is not None
    return found


def passes(model: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = inputs.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad((logits * torch.arange(10)).sum(), leaf)
    return logits.detach(), gradient


@pytest.mark.parametrize("name", PASSES)
def test_function_and_gradients_stay(name):
    for share in SHARES.get(name, (0.97, 1.0)):
        model = sparse(name, share).double()
        inputs = torch.rand(3, *model.shape, generator=rng(6), dtype=torch.float64)
        logits, gradient = passes(model, inputs)
        found, steep = passes(unrolled(model.float()), inputs.float())
        assert torch.allclose(found.double(), logits, atol=1e-5 * float(logits.abs().max()))
        if share < 1:
            largest = float(gradient.abs().max())
            assert largest > 1e-12
            assert torch.allclose(steep.double(), gradient, atol=1e-4 * largest)
        else:
            assert not steep.any()


def test_whole_filters_and_inputs_leave():
    model = network("resnet18")
    prune(model, 0.9, rng(7))
    inputs = torch.rand(2, *model.shape, generator=rng(6))
    logits, gradient = passes(model, inputs)
    found, steep = passes(unrolled(model), inputs)
    assert torch.allclose(found, logits, atol=1e-4 * float(logits.abs().max()))
    assert torch.allclose(steep, gradient, atol=1e-4 * float(gradient.abs().max()))


def test_an_answer_does_not_depend_on_the_batch():
    model = unrolled(sparse("cnn-small", 0.9))
    inputs = torch.rand(40, 1, 28, 28, generator=rng(6))
    logits, gradient = passes(model, inputs)
    for rows in (slice(0, 1), slice(3, 20), slice(39, None)):
        found, steep = passes(model, inputs[rows])
        assert torch.equal(found, logits[rows]) and torch.equal(steep, gradient[rows])


def by_hand() -> tuple[Classifier, nn.Linear]:
    """A layer of 16 features, of which a linear layer looks at two of one channel."""
    convolution, last = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(32, 2)
    nn.init.normal_(convolution.weight, generator=rng(1))
    with torch.no_grad():
        convolution.weight[1] = 0
        convolution.bias[1] = 0.5
        last.weight.zero_()
        last.weight[0, 5], last.weight[1, 10] = 2.0, 3.0
        last.weight[0, 20] = 4.0  # of the constant channel
    return classifier(convolution, nn.ReLU(), nn.Flatten(), last), last


def test_features_that_nobody_looks_at_leave():
    model, last = by_hand()
    found = unrolled(model)
    first, _, second = found.steps
    # Places 5 and 10 of 4 x 4 see a window of 9 pixels each; the normalisation is inside.
    assert first.matrix.shape == (2, 14) and first.matrix.nnz == 18
    assert second.matrix.toarray().tolist() == [[2.0, 0.0], [0.0, 3.0]]
    left, right = last.bias.tolist()
    assert second.bias == pytest.approx([left + 4 * 0.5, right])
    assert found.work == 20 + 4 * (14 + 2 + 2 + 2)
    inputs = torch.rand(5, 1, 4, 4, generator=rng(2))
    assert torch.allclose(found(inputs), model(inputs), atol=1e-6)


@pytest.mark.parametrize(
    "pooling",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d((2, 3), stride=(1, 2), padding=(1, 0)),
        nn.MaxPool2d(2, stride=2, ceil_mode=True),
        nn.MaxPool2d(2, dilation=2),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1),
    ],
    ids=str,
)
@pytest.mark.parametrize("sign", [1, -1])
def test_poolings(pooling, sign):
    body = nn.Sequential(nn.Conv2d(1, 3, 2), pooling, nn.Flatten())
    nn.init.normal_(body[0].weight, generator=rng(3))
    nn.init.constant_(body[0].bias, 5.0 * sign)  # all values on one side of the padding's zeros
    with torch.no_grad():
        features = body(torch.zeros(1, 1, 7, 7)).shape[1]
    last = nn.Linear(features, 10)
    nn.init.normal_(last.weight, generator=rng(4))
    model = classifier(*body, last, shape=(1, 7, 7), classes=10)
    inputs = torch.rand(6, 1, 7, 7, generator=rng(5))
    expected, gradient = passes(model, inputs)
    found, steep = passes(unrolled(model), inputs)
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(steep, gradient, atol=1e-3)


def test_multiply_adds_are_counted():
    model = classifier(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        model.body[0].weight[0, 0, 0] = 0
    small = compact(model)
    assert entries(small, (1, 4, 4)) == 15 * 4 + 16
    # Features of the input, of normalisation, of the convolution, flattened, and of the logits.
    assert dense_work(small, (1, 4, 4)) == 2 * 9 * 4 + 16 + 40 * (16 + 16 + 8 + 8 + 2)


def test_the_leanest_form_is_chosen():
    dense, thin = network("cnn-small"), sparse("cnn-small", 0.95)
    assert type(leanest(dense, Tuning())) is Compact
    assert type(leanest(thin, Tuning())) is Unrolled
    assert type(leanest(thin, Tuning(sparse_cost=100))) is Compact
    assert leanest(stranger := nn.Linear(2, 2), Tuning()) is stranger
    odd = classifier(nn.Flatten(), nn.Linear(16, 2), nn.GELU())
    assert leanest(odd, Tuning()) is odd


def test_matrices_have_a_limit(monkeypatch):
    monkeypatch.setattr(unrolling, "_LARGEST", 1000)
    model = network("cnn-small")
    assert unroll(compact(model), model.shape) is None


def test_the_published_network_is_left_untouched():
    model = sparse("cnn-small", 0.95)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = leanest(model, Tuning())
    with torch.no_grad():
        found(torch.rand(2, *model.shape))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(step.matrix.dtype == np.float32 for step in found.steps if step.matrix is not None)
