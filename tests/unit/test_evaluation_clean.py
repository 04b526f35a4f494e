"""The clean evaluation and its sanity checks."""

import numpy as np
import pytest
import torch
from tiny import LINF, Linear, digits, rng, trained, untouched
from torch import nn

from benchmark.evaluations import Clean, Examples
from benchmark.evaluations.engine import Guard


def examples_of(count=9, classes=4):
    inputs = torch.rand(count, 1, 3, 3, generator=rng(1))
    return Examples(inputs, torch.arange(count) % classes, torch.arange(count), classes)


def linear(classes=4):
    return Linear(torch.randn(classes, 9, generator=rng(2)), torch.zeros(classes))


def run(model, examples):
    return Clean().run(model.eval(), examples, LINF, rng())


def flags_of(model, examples):
    return {flag.name: flag for flag in run(model, examples).flags}


def test_predictions_are_the_argmax():
    model, examples = linear(), examples_of()
    result = run(model, examples)
    prediction = result.columns["prediction"]
    weight = model.layer.weight.detach().numpy()
    expected = (examples.inputs.flatten(1).numpy() @ weight.T).argmax(1)
    assert prediction.dtype == np.int16
    assert prediction.tolist() == expected.tolist()
    assert result.adversarial == {} and result.flags == ()
    assert not result.columns["zero_gradient"].any()


class Partly(nn.Module):
    """Flat for inputs whose first pixel is above one half."""

    def __init__(self):
        super().__init__()
        self.body = linear()

    def forward(self, inputs):
        flat = (inputs[:, 0, 0, 0] > 0.5)[:, None]
        return torch.where(flat, torch.zeros(()), self.body(inputs))


def test_zero_gradients_are_found_example_by_example():
    examples = examples_of()
    found = run(Partly(), examples).columns["zero_gradient"]
    expected = examples.inputs[:, 0, 0, 0] > 0.5
    assert found.dtype == np.bool_ and 0 < found.sum() < len(found)
    assert found.tolist() == expected.tolist()


class Noisy(nn.Module):
    """Adds noise to some of the logits."""

    def __init__(self, share):
        super().__init__()
        self.body, self.share, self.generator = linear(), share, rng(3)

    def forward(self, inputs):
        logits = self.body(inputs)
        noise = torch.rand(logits.shape, generator=self.generator)
        return logits + noise * (torch.arange(len(logits)) < self.share * len(logits))[:, None]


@pytest.mark.parametrize("share", [1.0, 1 / 3])
def test_randomised_outputs_are_flagged_with_their_share(share):
    flag = flags_of(Noisy(share), examples_of())["randomised-output"]
    assert flag.rate == pytest.approx(share)


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = linear()

    def forward(self, inputs):
        return self.body(inputs).softmax(1)


def test_probabilities_are_flagged():
    assert flags_of(Softmax(), examples_of())["softmax-output"].rate == 1.0
    assert flags_of(linear(), examples_of()) == {}


def test_logits_that_happen_to_sum_to_one_are_not_probabilities():
    model = linear()
    with torch.no_grad():
        model.layer.weight -= model.layer.weight.mean(0)
        model.layer.bias.fill_(0.25)
    assert model(examples_of().inputs).sum(1).allclose(torch.ones(9), atol=1e-6)
    assert flags_of(model, examples_of()) == {}


def test_gradients_are_taken_even_where_they_are_off():
    model, examples = trained(), digits(12)
    plain = run(model, examples)
    with torch.no_grad(), untouched(model):
        again = run(Guard(model, 10), examples)
    for name, values in plain.columns.items():
        assert np.array_equal(values, again.columns[name])
    accuracy = (plain.columns["prediction"] == examples.labels.numpy()).mean()
    assert accuracy > 0.7


def test_a_pixel_without_gradient_is_not_an_example_without_one():
    model = linear()
    with torch.no_grad():
        model.layer.weight[:, 0] = 0
    assert not run(model, examples_of()).columns["zero_gradient"].any()
