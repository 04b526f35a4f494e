"""Certified objectives against hand computations, auto_LiRPA and their written-out formulas."""

import math
from fractions import Fraction

import pytest
import torch
from test_bounds import bodies, classifier
from tiny import L2, LINF, rng, untouched
from torch import Tensor, nn
from torch.nn import functional

from benchmark import bounds
from benchmark.bounds import MarginBounds
from benchmark.errors import ContractError
from benchmark.objectives import OBJECTIVES, CrownIbp, MixTrain, Moment, Ramp, Smoothing
from benchmark.objectives.worst_case import worst_case_cross_entropy
from benchmark.threat import TOLERANCE, ThreatModel

LAST = Moment(0.5, 10)  # of an objective without a ramp
HALF = Fraction(1, 2)


def loss_of(objective, model, inputs, labels, moment=LAST, seed=3):
    return objective.loss(model, inputs, labels, moment=moment, generator=rng(seed))


def value_of(*given, **named):
    return float(loss_of(*given, **named).detach())


def affine(weight, bias=(0.0, 0.0)):
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(weight[0]), len(weight)))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor(weight))
        model[1].bias.copy_(torch.tensor(bias))
    return model.train()


def one_unit(last):
    """f_0 - f_1 = last * relu(x - 0.4) + 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).train()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.fill_(-0.4)
        model[3].weight.copy_(torch.tensor([[last], [0.0]]))
        model[3].bias.copy_(torch.tensor([1.0, 0.0]))
    return model


def pixels(*rows):
    return torch.tensor(rows).unsqueeze(1).unsqueeze(1)


# --- ramps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "share"),
    [(0.0, 0), (1.0, 0), (2.0, 0), (2.5, 0.125), (4.0, 0.5), (5.9, 0.975), (6.0, 1), (9.99, 1)],
)
def test_a_ramp_is_flat_then_linear_in_steps_then_flat(epoch, share):
    ramp = Ramp(Fraction(1, 5), Fraction(2, 5))
    assert ramp.at(Moment(epoch, 10)) == pytest.approx(share)
    assert ramp.end == Fraction(3, 5)


def test_the_ends_of_a_ramp_are_exact():
    for start, length in (
        (0, 1),
        (Fraction(1, 3), Fraction(1, 3)),
        (Fraction(1, 7), Fraction(1, 9)),
    ):
        ramp = Ramp(Fraction(start), Fraction(length))
        shares = [ramp.at(Moment(step / 100, 10)) for step in range(1000)]
        assert shares == sorted(shares)
        assert all(0 <= share <= 1 for share in shares)
        assert ramp.at(Moment(float(ramp.end) * 10 + 1e-9, 10)) == 1.0
        if start:
            assert ramp.at(Moment(float(start) * 10 - 1e-9, 10)) == 0.0
    assert Ramp().at(Moment(0.0, 10)) == 1.0


# --- worst case -----------------------------------------------------------------------------------


def test_the_worst_case_is_the_cross_entropy_of_the_lowest_margins():
    margins = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    labels = torch.tensor([1, 2])
    # Class by class, with 0 for the label.
    logits = torch.tensor([[-1.0, 0.0, 2.0], [-0.5, -3.0, 0.0]])
    expected = functional.cross_entropy(logits, labels)
    torch.testing.assert_close(worst_case_cross_entropy(margins), expected)


def test_nothing_in_the_ball_is_worse_than_the_worst_case():
    model, inputs = classifier(bodies()["convolutions"]), torch.rand(6, 2, 8, 8, generator=rng(1))
    labels = torch.arange(6) % 5
    worst = loss_of(CrownIbp(LINF, Ramp()), model, inputs, labels)
    for seed in range(20):
        near = LINF.random_start(inputs, rng(seed))
        assert functional.cross_entropy(model(near), labels) < worst


# --- CROWN-IBP ------------------------------------------------------------------------------------


def test_crown_ibp_of_an_affine_network_by_hand():
    model, inputs = affine([[1.0, -3.0], [0.0, 0.0]]), pixels([0.5, 0.0], [0.9, 0.4])
    objective = CrownIbp(ThreatModel("Linf", Fraction(1, 5)), Ramp())
    # x1 - 3 x2 at the corner that is smallest for class 0 and, in the second, largest for class 1;
    # the box ends at 0 and 1.
    margins = (0.3 - 3 * 0.2, -(1.0 - 3 * 0.2))
    expected = sum(math.log1p(math.exp(-margin)) for margin in margins) / 2
    found = value_of(objective, model, inputs, torch.tensor([0, 1]))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("epoch", "epsilon", "beta", "kappa"),
    [(0.0, 0.0, 1.0, 1.0), (2.0, 0.125, 0.5, 0.75), (4.0, 0.25, 0.0, 0.5), (9.0, 0.25, 0.0, 0.5)],
)
def test_crown_ibp_of_one_unit_by_hand(epoch, epsilon, beta, kappa):
    objective = CrownIbp(
        ThreatModel("Linf", Fraction(1, 4)), Ramp(Fraction(0), Fraction(2, 5)), 1.0, 0.5
    )
    model, inputs = one_unit(2.0), pixels([0.5])
    lower, upper = 0.5 - epsilon - 0.4, 0.5 + epsilon - 0.4
    intervals = 1 + 2 * max(lower, 0)
    # The lower line of a unit that is rather on than off is its input.
    assert upper / (upper - lower) > 0.5 if epsilon else True
    lines = 1 + 2 * lower
    margin = beta * lines + (1 - beta) * intervals
    clean = 1 + 2 * 0.1
    expected = kappa * math.log1p(math.exp(-clean)) + (1 - kappa) * math.log1p(math.exp(-margin))
    found = value_of(objective, model, inputs, torch.tensor([0]), Moment(epoch, 10))
    assert found == pytest.approx(expected, abs=1e-6)


def library_margins(model, inputs, labels, threat, method, monkeypatch):
    """Returns all K - 1 margins by auto_LiRPA, which hands out the smallest of those it is asked.

    Its ball is wider by the slack of the evaluation, which is taken off here.
    """
    every = bounds.specification
    threat = threat.with_epsilon(threat.epsilon - Fraction(TOLERANCE).limit_denominator(10**6))
    found = []
    for other in range(4):
        with monkeypatch.context() as patch:
            patch.setattr(
                bounds, "specification", lambda *given, j=other: every(*given)[:, j : j + 1]
            )
            found.append(MarginBounds(model, method)(inputs, labels, threat))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(("epoch", "share"), [(1.0, Fraction(1, 6)), (3.0, HALF), (6.0, 1)])
def test_crown_ibp_equals_the_loss_from_the_library_s_bounds(epoch, share, monkeypatch):
    model = classifier(bodies()["convolutions"]).train()
    inputs, labels = torch.rand(6, 2, 8, 8, generator=rng(1)), torch.arange(6) % 5
    full = ThreatModel("Linf", Fraction(1, 20))
    threat = full.with_epsilon(full.epsilon * share)
    intervals, lines = (
        library_margins(model, inputs, labels, threat, method, monkeypatch)
        for method in ("ibp", "crown-ibp")
    )
    beta = float(1 - share)
    scores = functional.pad(-(beta * lines + (1 - beta) * intervals), (0, 1))
    expected = scores.logsumexp(dim=1).mean()
    found = loss_of(CrownIbp(full), model, inputs, labels, Moment(epoch, 10))
    # The loss changes no faster than the margins, which agree to float32 rounding of bounds of size
    # 1 to 100: see test_relaxations.
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-5)
    # The two bounds differ by far more: neither stands for the other.
    assert (intervals - lines).abs().mean() > 0.1


def test_crown_ibp_starts_as_plain_training_and_ends_without_lines(monkeypatch):
    model = classifier(bodies()["convolutions"]).train()
    inputs, labels = torch.rand(6, 2, 8, 8, generator=rng(1)), torch.arange(6) % 5
    first = loss_of(CrownIbp(LINF), model, inputs, labels, Moment(0.0, 10))
    torch.testing.assert_close(first, functional.cross_entropy(model(inputs), labels))
    asked = []
    original = bounds.training_margins

    def spy(*given):
        asked.append(given[3:])
        return original(*given)

    monkeypatch.setattr("benchmark.objectives.crown_ibp.training_margins", spy)
    loss_of(CrownIbp(LINF), model, inputs, labels, Moment(6.0, 10))
    loss_of(CrownIbp(LINF, Ramp()), model, inputs, labels, Moment(0.0, 10))
    assert asked == [(0.1, "ibp")] * 2


# --- MixTrain -------------------------------------------------------------------------------------


def test_mixtrain_of_an_affine_network_by_hand():
    model, inputs = affine([[1.0, -3.0], [0.0, 0.0]]), pixels([0.5, 0.1])
    objective = MixTrain(
        ThreatModel("Linf", Fraction(1, 5)), Ramp(), probability=1.0, picked=3, weight=7.0
    )
    natural = math.log1p(math.exp(-(0.5 - 0.3)))
    worst = math.log1p(math.exp(-(0.3 - 3 * 0.3)))
    found = value_of(objective, model, inputs, torch.tensor([0]))
    assert found == pytest.approx(natural + 7 * worst, abs=1e-5)


@pytest.mark.parametrize("last", [2.0, -2.0])
def test_mixtrain_of_one_unit_by_hand(last):
    objective = MixTrain(
        ThreatModel("Linf", Fraction(1, 4)), Ramp(), probability=1.0, picked=1, weight=1.0
    )
    # x - 0.4 in [-0.15, 0.35]; its ReLU in a band from 0.7 times that, 0.105 high.
    margin = 1 + (2 * 0.7 * -0.15 if last > 0 else -2 * (0.7 * 0.35 + 0.105))
    natural = math.log1p(math.exp(-(1 + last * 0.1)))
    found = value_of(objective, one_unit(last), pixels([0.5]), torch.tensor([0]))
    assert found == pytest.approx(natural + math.log1p(math.exp(-margin)), abs=1e-6)


def test_mixtrain_adds_the_worst_case_of_the_drawn_examples_with_the_stated_probability():
    model = affine([[1.0, -3.0], [0.0, 0.0]])
    inputs, labels = torch.rand(8, 1, 1, 2, generator=rng(1)), torch.arange(8) % 2
    objective = MixTrain(LINF, Ramp(), picked=3, weight=2.0)
    natural = float(functional.cross_entropy(model(inputs), labels).detach())
    added = 0
    for seed in range(400):
        generator = rng(seed)
        chance = torch.rand((), generator=generator)
        expected = natural
        if chance < 0.8:
            picks = torch.randint(8, (3,), generator=generator)
            sides = torch.where(labels == 0, 1.0, -1.0)[picks]
            slopes = sides.view(-1, 1) * torch.tensor([1.0, -3.0])
            lower, upper = ((inputs[picks].flatten(1) + e).clamp(0, 1) for e in (-0.1, 0.1))
            margins = torch.minimum(slopes * lower, slopes * upper).sum(1)
            expected += 2 * float(functional.softplus(-margins).mean())
            added += 1
        found = value_of(objective, model, inputs, labels, seed=seed)
        assert found == pytest.approx(expected, abs=1e-5)
    assert 0.7 < added / 400 < 0.9
    never = MixTrain(LINF, Ramp(), probability=0.0)
    assert all(
        value_of(never, model, inputs, labels, seed=seed) == pytest.approx(natural)
        for seed in range(10)
    )


@pytest.mark.parametrize(
    ("epoch", "weight"),
    [
        *((epoch, 0.1) for epoch in (0, 9, 10, 14.9)),
        (15, 0.25),
        (20, 0.625),
        (40, 0.1 * 2.5**6),
        (45, 50.0),  # 0.1 * 2.5^7 = 61
        (59.9, 50.0),
    ],
)
def test_mixtrain_s_weight_follows_hydra_s_schedule_over_its_60_epochs(epoch, weight):
    # min(0.1 * 2.5^floor(max(e - 10, 0) / 5), 50)
    assert MixTrain(LINF).weight_at(Moment(epoch, 60)) == pytest.approx(weight)


def test_mixtrain_s_epsilon_rises_over_a_sixth_and_without_a_ramp_its_weight_alone_rises():
    objective, settled = MixTrain(LINF), MixTrain(LINF, Ramp())
    assert [objective.ramp.at(Moment(epoch, 60)) for epoch in (0, 5, 10)] == [0, 0.5, 1]
    assert settled.ramp.at(Moment(0.0, 60)) == 1
    weights = [settled.weight_at(Moment(epoch, 60)) for epoch in (0, 4.9, 5, 10, 35)]
    assert weights == pytest.approx([0.1, 0.1, 0.25, 0.625, 50])


# --- smoothing ------------------------------------------------------------------------------------


def test_smoothing_of_an_affine_network_by_hand():
    model, inputs, labels = affine([[2.0], [0.0]]), pixels([0.3], [0.9]), torch.tensor([0, 1])
    noise = torch.randn(2, 1, 1, 1, generator=rng(3)).flatten().tolist()
    expected = 0.0
    for x, label, n in zip((0.3, 0.9), (0, 1), noise, strict=True):
        # Two classes: the logistic function of twice the pixel, which noise may push outside [0,1].
        p, q = (1 / (1 + math.exp(-2 * value)) for value in (x, x + 0.25 * n))
        expected += -math.log(p if label == 0 else 1 - p) / 2
        divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        expected += 6.0 * divergence / 2
    assert value_of(Smoothing(), model, inputs, labels) == pytest.approx(expected, abs=1e-6)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_smoothing_has_gradients_through_both_branches():
    model = classifier(bodies()["convolutions"]).train()
    inputs, labels = torch.rand(6, 2, 8, 8, generator=rng(1)), torch.arange(6) % 5
    noisy = inputs + 0.5 * torch.randn(inputs.shape, generator=rng(3))
    assert (noisy < 0).any() and (noisy > 1).any()

    def formula(target: Tensor) -> Tensor:
        change = target.log_softmax(1) - model(noisy).log_softmax(1)
        divergence = (target.softmax(1) * change).sum(1).mean()
        return functional.cross_entropy(model(inputs), labels) + 2.0 * divergence

    found = gradients(model, loss_of(Smoothing(0.5, 2.0), model, inputs, labels))
    expected = gradients(model, formula(model(inputs)))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    cut = gradients(model, formula(model(inputs).detach()))
    assert max((a - b).abs().max() for a, b in zip(cut, found, strict=True)) > 1e-3


class Watched(nn.Module):
    """Adds up the pixels it sees, and remembers its mode."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.modes, self.seen = [], []

    def forward(self, inputs):
        self.modes.append(self.training)
        self.seen.append(inputs.detach())
        return inputs.flatten(1).sum(1, keepdim=True) * self.scale


def test_both_passes_of_smoothing_train_and_the_noise_has_its_size():
    model, inputs = Watched().train(), torch.zeros(64, 1, 20, 20)
    loss_of(Smoothing(), model, inputs, torch.zeros(64).long())
    assert model.modes == [True, True]
    clean, noisy = model.seen
    assert torch.equal(clean, inputs)
    # 25,600 draws: the standard deviation errs by 0.0011.
    assert float(noisy.std()) == pytest.approx(0.25, abs=0.005)


# --- all ------------------------------------------------------------------------------------------


CERTIFIED = ("smoothing", "mixtrain", "crown-ibp")


@pytest.mark.parametrize("name", CERTIFIED)
@pytest.mark.parametrize("epoch", [0.0, 3.0, 9.5])
def test_losses_leave_everything_but_gradients_alone(name, epoch):
    model = classifier(bodies()["convolutions"]).train()
    model.body[2].eval()  # a method may freeze a layer
    inputs, labels = torch.rand(6, 2, 8, 8, generator=rng(1)), torch.arange(6) % 5
    objective = OBJECTIVES[name](LINF)
    assert objective.attack_steps == 0
    with untouched(model):
        losses = [
            loss_of(objective, model, inputs, labels, Moment(epoch, 10), seed) for seed in (1, 1, 2)
        ]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2]) == (name == "crown-ibp")
    losses[0].backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert losses[0].dim() == 0


@pytest.mark.parametrize("kind", [MixTrain, CrownIbp])
def test_bounds_are_for_linf_alone(kind):
    with pytest.raises(ContractError, match="objective smoothing"):
        kind(L2)
