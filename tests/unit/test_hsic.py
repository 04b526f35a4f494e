"""The information bottleneck against its formula in numpy, and what it is at known kernels."""

import numpy as np
import pytest
import torch
from tiny import rng
from torch import nn

from benchmark.architectures import build, initialise
from methods._hsic import Bottleneck, gaussian_kernel, hidden_layers, hidden_outputs, operator


def reference_kernel(features, sigma):
    flat = features.reshape(len(features), -1).astype(np.float64)
    kernel = np.empty((len(flat), len(flat)))
    for row, a in enumerate(flat):
        for column, b in enumerate(flat):
            kernel[row, column] = np.exp(-((a - b) ** 2).sum() / (2 * sigma**2 * len(a)))
    return kernel


def reference(first, second, ridge=1e-5):
    """nHSIC by the book: one-sided centring, an explicit inverse, the trace."""
    m = len(first)
    centring = np.eye(m) - np.ones((m, m)) / m
    parts = []
    for kernel in (first, second):
        centred = kernel @ centring
        parts.append(centred @ np.linalg.inv(centred + ridge * m * np.eye(m)))
    return np.trace(parts[0] @ parts[1])


def nhsic(first, second):
    return float((operator(first) * operator(second)).sum())


def one_hot(labels):
    return (labels[:, None] == labels).astype(np.float64)


def batch(count=24):
    inputs = torch.rand(count, 1, 4, 4, generator=rng(1))
    hidden = [torch.randn(count, n, 3, generator=rng(n)).relu() for n in (5, 8)]
    return inputs, torch.arange(count) % 4, hidden


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
def test_the_kernel_is_gaussian_in_the_mean_squared_difference(sigma):
    _, _, (hidden, _) = batch()
    found = gaussian_kernel(hidden, sigma)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, reference_kernel(hidden.numpy(), sigma), atol=1e-6)
    assert torch.equal(found.diagonal(), torch.ones(24, dtype=torch.float64))


@pytest.mark.parametrize("sigma", [0.3, 5.0])
@pytest.mark.parametrize("count", [1, 2, 24])
def test_the_penalty_is_the_formula(sigma, count):
    inputs, labels, hidden = batch(count)
    x, y = reference_kernel(inputs.numpy(), sigma), one_hot(labels.numpy())
    z = [reference_kernel(outputs.numpy(), sigma) for outputs in hidden]
    expected = sum(0.7 * reference(x, k) - 0.2 * reference(y, k) for k in z)
    found = Bottleneck(0.7, 0.2, sigma).penalty(hidden, inputs, labels)
    assert found.dtype == torch.float32
    # Kernels from float32 products are off by 1e-7, which the ridge of 1e-5 m lets grow 1e-2 fold.
    assert float(found) == pytest.approx(expected, rel=5e-3, abs=1e-6)


def test_a_kernel_with_itself_has_nearly_its_rank():
    labels = torch.arange(60) % 6
    kernel = (labels[:, None] == labels).double()
    # Rank 6, one less once centred; eigenvalues of 10 against a ridge of 6e-4.
    assert nhsic(kernel, kernel) == pytest.approx(5, rel=2e-4)
    features = torch.randn(60, 9, generator=rng(0), dtype=torch.float64)
    assert nhsic(features @ features.T, features @ features.T) == pytest.approx(9, rel=1e-3)
    smooth = gaussian_kernel(features, 5.0)
    assert 9 < nhsic(smooth, smooth) < 59
    assert nhsic(torch.ones_like(kernel), kernel) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("classes", [4, 10])
def test_dependence_on_an_independent_variable_vanishes_and_on_itself_stays(classes):
    # Two random subspaces of dimensions p and q among m - 1 share p q / (m - 1) on average.
    values, own = [], []
    for m in (50, 200, 800):
        labels = torch.arange(m) % classes
        kernel = (labels[:, None] == labels).double()
        features = torch.randn(m, 6, generator=rng(m), dtype=torch.float64)
        values.append(nhsic(features @ features.T, kernel))
        own.append(nhsic(kernel, kernel))
        expected = 6 * (classes - 1) / (m - 1)
        assert values[-1] == pytest.approx(expected, rel=0.6)
    assert values[0] > 2 * values[1] > 4 * values[2]
    assert own == pytest.approx([classes - 1] * 3, rel=1e-3)


def test_gradients_are_the_slopes_of_the_formula():
    inputs, labels, (hidden, _) = batch(12)
    leaf = hidden.clone().requires_grad_()
    Bottleneck(0.7, 0.2, 1.0).penalty([leaf], inputs, labels).backward()
    x, y = reference_kernel(inputs.numpy(), 1.0), one_hot(labels.numpy())
    direction = torch.randn(hidden.shape, generator=rng(9)).numpy().astype(np.float64)

    def at(step):
        z = reference_kernel(hidden.numpy() + step * direction, 1.0)
        return 0.7 * reference(x, z) - 0.2 * reference(y, z)

    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    assert float((leaf.grad.double().numpy() * direction).sum()) == pytest.approx(slope, rel=1e-2)


def test_autocast_does_not_reach_the_kernel():
    inputs, labels, hidden = batch()
    bottleneck = Bottleneck(0.7, 0.2, 5.0)
    expected = bottleneck.penalty(hidden, inputs, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bottleneck.penalty(hidden, inputs, labels), expected)


def network(name, shape):
    mean = (0.5,) * shape[0]
    model = build(name, shape=shape, classes=10, mean=mean, std=mean)
    initialise(model, rng(0))
    return model


@pytest.mark.parametrize(
    ("name", "shape", "kinds"),
    [
        ("cnn-tiny", (1, 8, 8), ["ReLU"] * 2),
        ("lenet3", (1, 28, 28), ["ReLU"] * 3),
        ("resnet18", (3, 8, 8), ["ReLU", *["BasicBlock"] * 8, "AdaptiveAvgPool2d"]),
        ("wrn-28-4", (3, 8, 8), [*["PreActivationBlock"] * 12, "AdaptiveAvgPool2d"]),
    ],
)
def test_hidden_layers_of_each_family(name, shape, kinds):
    model = network(name, shape)
    ran = []
    for module in model.modules():
        module.register_forward_hook(lambda module, inputs, output: ran.append((module, output)))
    with hidden_outputs(model) as outputs:
        logits = model(torch.rand(2, *shape, generator=rng(0)))
    # A container puts out what its last layer did; the layer ran first.
    produced = {id(output): type(module).__name__ for module, output in reversed(ran)}
    assert [produced[id(output)] for output in outputs] == kinds
    assert all(output is not logits for output in outputs)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [("vgg16-bn", (3, 32, 32), 15), ("cnn-large", (3, 32, 32), 6), ("resnet50", (3, 32, 32), 18)],
)
def test_every_network_has_hidden_layers(name, shape, count):
    mean = (0.5,) * 3
    model = build(name, shape=shape, classes=10, mean=mean, std=mean)
    assert len(hidden_layers(model)) == count


def test_hooks_are_removed_even_when_the_network_fails():
    model = network("cnn-tiny", (1, 8, 8))
    with pytest.raises(ZeroDivisionError), hidden_outputs(model):
        raise ZeroDivisionError
    assert all(not module._forward_hooks for module in model.modules())


def test_a_plain_row_of_layers_is_no_block():
    row = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), nn.Conv2d(1, 1, 1), nn.ReLU())
    assert [type(layer).__name__ for layer in hidden_layers(row)] == ["ReLU", "ReLU"]
