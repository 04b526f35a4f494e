"""DeepFool against affine networks, where its answer is a closed form, and against a plain loop."""

import pytest
import torch
from tiny import Linear, digits, rng, trained, untouched
from torch import nn

from benchmark.attacks import _shortest_way, deepfool
from benchmark.errors import ContractError

SHAPE = (3, 4, 4)
PIXELS = 48
CLASSES = 5
# CleverHans' slack at the boundary, in units of the gap between two logits.
SLACK = 1e-5


def affine_problem(count=24, seed=0):
    """Returns an affine network of five classes, inputs far from the box, and predicted classes."""
    weight = torch.randn(CLASSES, PIXELS, generator=rng(seed))
    inputs = 0.5 + 0.05 * torch.randn(count, *SHAPE, generator=rng(seed + 1))
    model = Linear(weight, -weight.sum(dim=1) / 2).requires_grad_(False)
    return model, inputs, model(inputs).argmax(1)


def nearest_boundary(model, inputs, label, classes):
    """Returns class, distance and unit direction of the nearest boundary of one input."""
    weight, logits = model.layer.weight, model(inputs[None])[0]
    found = []
    for other in classes:
        slope = weight[label] - weight[other]
        gap = float(logits[label] - logits[other]) + SLACK
        found.append((gap / float(slope.norm()), other, -slope / slope.norm()))
    distance, other, direction = min(found, key=lambda entry: entry[0])
    return other, distance, direction.view(SHAPE)


@pytest.mark.parametrize("steps", [1, 5])
def test_on_an_affine_network_the_nearest_boundary_is_reached_in_one_step(steps):
    model, inputs, labels = affine_problem()
    found = deepfool(model, inputs, labels, steps=steps, overshoot=0.02)
    for start, end, label in zip(inputs, found, labels.tolist(), strict=True):
        others = [k for k in range(CLASSES) if k != label]
        other, distance, direction = nearest_boundary(model, start, label, others)
        # Pixels are rounded at 6e-8, the gap between two logits of 10 at 1e-6.
        torch.testing.assert_close(end, start + 1.02 * distance * direction, atol=1e-6, rtol=0)
        assert int(model(end[None]).argmax()) == other


def test_a_boundary_that_was_just_crossed_is_left_behind():
    # Two boundaries of slope (3, 4): the way is as long whichever side of them one is on.
    slopes = torch.tensor([3.0, 4.0]).view(1, 1, 1, 1, 2).expand(2, 2, 1, 1, 2)
    found = _shortest_way(torch.tensor([[1.0, -1.0], [2.0, 2.0]]), slopes)
    expected = torch.tensor([-0.12, -0.16]).view(1, 1, 1, 2).expand(2, 1, 1, 2)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_the_overshoot_lengthens_the_whole_way():
    model, inputs, labels = affine_problem()
    ways = [
        deepfool(model, inputs, labels, steps=1, overshoot=share) - inputs for share in (0, 0.5)
    ]
    torch.testing.assert_close(ways[1], 1.5 * ways[0], atol=1e-6, rtol=0)
    assert ways[0].flatten(1).norm(dim=1).min() > 1e-4


def test_only_the_closest_competitors_are_candidates():
    model, inputs, labels = affine_problem()
    ranked = model(inputs).argsort(dim=1, descending=True)
    nearer = 0
    for candidates in (2, 3):
        found = deepfool(model, inputs, labels, steps=1, candidates=candidates, overshoot=0.0)
        for start, end, row in zip(inputs, found, ranked.tolist(), strict=True):
            _, distance, direction = nearest_boundary(model, start, row[0], row[1:candidates])
            torch.testing.assert_close(end, start + distance * direction, atol=1e-5, rtol=0)
            nearer += nearest_boundary(model, start, row[0], row[1:])[1] < distance - 1e-6
    # The restriction matters: some boundary beyond the candidates lies nearer.
    assert nearer > 0


def test_more_candidates_than_classes_are_all_classes():
    model, inputs, labels = affine_problem()
    every, more = (deepfool(model, inputs, labels, steps=2, candidates=k) for k in (CLASSES, 99))
    assert torch.equal(every, more)


def test_who_is_misclassified_already_stays_as_it_is():
    model, inputs, labels = affine_problem()
    wrong = labels.clone()
    wrong[::3] = (wrong[::3] + 1) % CLASSES
    found = deepfool(model, inputs, wrong, steps=5)
    assert torch.equal(found[::3], inputs[::3])
    others = torch.arange(len(inputs)) % 3 != 0
    assert (found[others] != inputs[others]).flatten(1).any(dim=1).all()


def by_the_book(model, inputs, labels, steps, candidates):
    """Algorithm 2 for one input at a time, one gradient at a time."""
    found = []
    for start, label in zip(inputs, labels.tolist(), strict=True):
        current, end = start.clone(), start
        for _ in range(steps):
            if int(model(end[None]).argmax()) != label:
                break
            leaf = current[None].clone().requires_grad_()
            logits = model(leaf)[0]
            best = (float("inf"), None)
            for other in logits.argsort(descending=True)[:candidates].tolist():
                if other == label:
                    continue
                gap = logits[label] - logits[other]
                (slope,) = torch.autograd.grad(gap, leaf, retain_graph=True)
                distance = (abs(gap.item()) + SLACK) / slope.norm().item()
                best = min(best, (distance, -slope[0] / slope.norm()), key=lambda entry: entry[0])
            current = (current + best[0] * best[1]).clamp(0, 1)
            end = (start + 1.02 * (current - start)).clamp(0, 1)
        found.append(end)
    return torch.stack(found)


@pytest.mark.parametrize(("steps", "candidates"), [(1, 10), (4, 10), (4, 3)])
def test_on_a_network_it_is_the_plain_algorithm(steps, candidates):
    model, examples = trained(), digits(12)
    found = deepfool(model, examples.inputs, examples.labels, steps=steps, candidates=candidates)
    expected = by_the_book(model, examples.inputs, examples.labels, steps, candidates)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_few_steps_fool_a_trained_network():
    model, examples = trained(), digits(60)
    right = model(examples.inputs).argmax(1) == examples.labels
    found = deepfool(model, examples.inputs, examples.labels, steps=10)
    fooled = model(found).argmax(1) != examples.labels
    assert right.float().mean() > 0.8 and fooled.float().mean() > 0.95
    assert found.min() >= 0 and found.max() <= 1
    # Half of the pixels of digits are 0 or 1 already, so the box is met.
    assert ((found == 0) | (found == 1)).float().mean() > 0.1


class Watcher(nn.Module):
    """Counts the inputs of every pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.sizes = []

    def forward(self, inputs):
        self.sizes.append(len(inputs))
        return self.model(inputs)


def test_the_fooled_leave():
    model, inputs, labels = affine_problem()
    watcher = Watcher(model)
    labels[:10] = (labels[:10] + 1) % CLASSES
    deepfool(watcher, inputs, labels, steps=50)
    # A look at all; the gradients of those still right; a look at them, and nobody is left.
    assert watcher.sizes == [24, 14, 14]


def test_no_example_depends_on_its_batch():
    model, examples = trained(), digits(20)
    whole = deepfool(model, examples.inputs, examples.labels, steps=3)
    alone = [
        deepfool(model, x[None], y[None], steps=3)[0]
        for x, y in zip(examples.inputs, examples.labels, strict=True)
    ]
    # Sums of float32 in a batch of another size.
    torch.testing.assert_close(whole, torch.stack(alone), atol=1e-5, rtol=0)
    last = deepfool(model, examples.inputs[7:], examples.labels[7:], steps=3)
    torch.testing.assert_close(whole[7:], last, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-44])
def test_flat_networks_are_left_alone(scale):
    weight = scale * torch.randn(CLASSES, PIXELS, generator=rng())
    model = Linear(weight, torch.arange(CLASSES, 0, -1).float()).requires_grad_(False)
    inputs = torch.rand(4, *SHAPE, generator=rng(1))
    found = deepfool(model, inputs, torch.zeros(4, dtype=torch.int64), steps=3)
    assert torch.equal(found, inputs)


def test_far_boundaries_are_met_at_the_box():
    weight = torch.zeros(2, PIXELS)
    weight[0] = 1e-8
    model = Linear(weight, torch.tensor([1.0, 0.0])).requires_grad_(False)
    inputs = torch.rand(4, *SHAPE, generator=rng(1))
    found = deepfool(model, inputs, torch.zeros(4, dtype=torch.int64), steps=3)
    assert torch.equal(found, torch.zeros_like(found))


def test_network_and_generators_are_untouched():
    model, examples = trained(), digits(4)
    with untouched(model):
        found = deepfool(model, examples.inputs, examples.labels, steps=2)
    assert not found.requires_grad
    assert torch.equal(found, deepfool(model, examples.inputs, examples.labels, steps=2))


def test_nobody_to_fool():
    model, inputs, labels = affine_problem()
    assert deepfool(model, inputs[:0], labels[:0], steps=3).shape == (0, *SHAPE)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 1, "candidates": 1}])
def test_settings_that_attack_nothing_are_refused(settings):
    model, inputs, labels = affine_problem()
    with pytest.raises(ContractError, match="candidates >= 2"):
        deepfool(model, inputs, labels, **settings)


@pytest.mark.filterwarnings("ignore")  # the compiler's own deprecations are not ours
def test_a_compiled_network_is_asked_as_it_is():
    # Batches shrink with each step: every one of them would be compiled anew.
    asked = []

    def backend(graph, inputs):
        asked.append(graph)
        return graph

    model, examples = trained(), digits(6)
    found = deepfool(model, examples.inputs, examples.labels, steps=3)
    model.compile(backend=backend)
    again = deepfool(model, examples.inputs, examples.labels, steps=3)
    assert asked == [] and torch.equal(found, again)
    with torch.no_grad():
        model(examples.inputs)
    assert asked
