"""BAP: cutting and scaling by hand, where they do nothing, and training to the same bits there."""

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import pytest
import torch
from test_gradual import task_of
from tiny import digits, rng, same_bits, state_of, trained, untrained

import methods
from benchmark.errors import ContractError
from methods._halves import DeepFool, Halves
from methods.adversarial_gradual import AdversarialGradual
from methods.bap import Bap, CutOffScale

RELEASED = "bap:cal-delta=no:rho=1"


@dataclass(frozen=True)
class Given:
    """An attack whose perturbations are known."""

    changes: ClassVar[torch.Tensor] = torch.empty(0)
    attack_steps: ClassVar[int] = 7

    def craft(self, model, inputs, labels, generator):
        return inputs + self.changes


def shortened(changes, inputs=None, **settings):
    """Returns what is left of perturbations (N, 1, 2, 2) after cutting and scaling."""
    Given.changes = torch.tensor(changes).view(len(changes), 1, 2, 2)
    inputs = torch.full(Given.changes.shape, 0.5) if inputs is None else inputs
    plain = {"order": "2", "cal_delta": False, "delta": 1.0, "rho": 1.0}
    attack = CutOffScale(Given(), **plain | settings)
    assert attack.attack_steps == 7
    found = attack.craft(untrained(), inputs, torch.zeros(len(changes)), rng())
    return (found - inputs).flatten(1)


# Root mean squares 0.1, 0.3 and 0.2; sums 0.4, 0.6 and 0.8; largest 0.1, 0.6 and 0.2.
CHANGES = [[0.1, -0.1, 0.1, 0.1], [0.0, 0.6, 0.0, 0.0], [0.2, -0.2, -0.2, 0.2]]


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({}, [1, 1, 1]),
        ({"rho": 0.9}, [0.9, 0.9, 0.9]),
        ({"delta": 0.15}, [1, 0.5, 0.75]),
        ({"delta": 0.15, "rho": 0.5}, [0.5, 0.25, 0.375]),
        # Bounded by the mean of the three lengths, 0.2.
        ({"cal_delta": True}, [1, 2 / 3, 1]),
        ({"cal_delta": True, "delta": 0.01, "rho": 0.9}, [0.9, 0.6, 0.9]),
        ({"order": "1", "delta": 0.3}, [0.75, 0.5, 0.375]),
        ({"order": "1", "cal_delta": True}, [1, 1, 0.75]),  # 0.6
        ({"order": "1", "delta": 1.0}, [1, 1, 1]),
    ],
)
def test_perturbations_are_shrunk_as_a_whole(settings, factors):
    expected = torch.tensor(CHANGES) * torch.tensor(factors)[:, None]
    torch.testing.assert_close(shortened(CHANGES, **settings), expected, atol=1e-6, rtol=0)


def test_pixel_by_pixel_in_the_largest_norm():
    found = shortened([[0.3, -0.3, 0.05, 0.0]], order="inf", delta=0.2, rho=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.1, -0.1, 0.025, 0.0]]), atol=1e-6, rtol=0)
    # The mean of the largest changes 0.1, 0.6 and 0.2 is 0.3.
    found = shortened(CHANGES, order="inf", cal_delta=True)
    expected = torch.tensor(CHANGES).clamp(-0.3, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("order", ["2", "1", "inf"])
@pytest.mark.parametrize("cal_delta", [True, False])
def test_no_perturbation_stays_none(order, cal_delta):
    found = shortened([[0.0] * 4, [0.1] * 4], order=order, cal_delta=cal_delta, rho=0.9)
    assert torch.equal(found[0], torch.zeros(4))
    assert torch.isfinite(found).all()


def lengths(changes, order):
    flat = changes.flatten(1).double()
    if order == "2":
        return flat.square().mean(1).sqrt()
    return flat.abs().sum(1) if order == "1" else flat.abs().amax(1)


@pytest.mark.parametrize("order", ["2", "1", "inf"])
def test_with_the_batch_mean_as_bound_the_mean_never_grows(order):
    for seed in range(20):
        changes = torch.randn(30, 4, generator=rng(seed)) * torch.rand(30, 1, generator=rng(seed))
        found = shortened((0.1 * changes).tolist(), order=order, cal_delta=True)
        before, after = (lengths(part, order) for part in (0.1 * changes, found))
        # Rounded at 6e-8 by adding the perturbation to the pixels.
        assert (after <= before + 1e-6).all()
        assert after.max() <= before.mean() + 1e-6 and after.mean() < before.mean()


def crafted(attack, count=40):
    examples = digits(count)
    model = trained()
    return attack.craft(model, examples.inputs, model(examples.inputs).argmax(1), rng())


@pytest.mark.parametrize("order", ["2", "inf"])
def test_the_released_settings_do_nothing_to_the_last_bit(order):
    # Neither length of pixels in [0, 1] exceeds 1.
    released = CutOffScale(DeepFool(), order, cal_delta=False, delta=1.0, rho=1.0)
    assert torch.equal(crafted(released), crafted(DeepFool()))
    assert not torch.equal(crafted(dataclasses.replace(released, rho=0.99)), crafted(DeepFool()))


def test_what_is_not_cut_keeps_its_bits_whatever_the_pixels(monkeypatch):
    inputs, ends = torch.rand(2, 500, 1, 8, 8, generator=rng()) ** 4
    assert not torch.equal(inputs + (ends - inputs), ends)  # rounded twice
    monkeypatch.setattr(Given, "craft", lambda *_: ends)
    released = CutOffScale(Given(), "2", cal_delta=False, delta=1.0, rho=1.0)
    assert torch.equal(released.craft(untrained(), inputs, torch.zeros(500), rng()), ends)


def test_inputs_stay_in_the_box():
    for attack in (DeepFool(), CutOffScale(DeepFool(), "2", True, 1.0, 0.9)):
        found = crafted(attack, 200)
        assert found.min() >= 0 and found.max() <= 1


def test_perturbations_of_a_trained_network_are_cut_to_their_mean():
    inputs = digits(40).inputs
    whole = lengths(crafted(DeepFool()) - inputs, "2")
    found = lengths(crafted(CutOffScale(DeepFool(), "2", True, 1.0, 0.9)) - inputs, "2")
    expected = 0.9 * whole.clamp_max(whole.mean())
    assert (whole > whole.mean()).sum() > 5
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_with_the_released_settings_training_is_plain_deepfool_training():
    results = [
        methods.compress(name, methods.configured(name), untrained(7), task_of())
        for name in (RELEASED, "adversarial-gradual:attack=deepfool", "bap")
    ]
    released, plain, meant = (state_of(result.model) for result in results)
    assert same_bits(released, plain) and not same_bits(meant, plain)
    assert all(torch.equal(results[0].mask[n], results[1].mask[n]) for n in results[0].mask)


def test_the_settings_are_those_meant(monkeypatch):
    objectives = []
    monkeypatch.setattr(
        methods.Training, "fit", lambda self, model, **s: objectives.append(s["objective"])
    )
    Bap().compress(untrained(7), task_of())
    attack = CutOffScale(DeepFool(5, 10, 0.02), "2", True, 1.0, 0.9)
    assert objectives[1] == objectives[0].objective == Halves(attack, 0.1)
    # Five steps back for each of nine other classes.
    assert objectives[0].attack_steps == 45
    shared = [field.name for field in dataclasses.fields(methods.method("gradual"))]
    assert [getattr(Bap(), name) for name in shared] == [
        getattr(AdversarialGradual(), name) for name in shared
    ]


def test_both_stages_are_spent_without_an_epsilon():
    task = task_of(sparsity=Fraction(3, 4))
    pruned = methods.compress("bap", Bap(), untrained(7), task)
    assert pruned.finetuned
    assert (task.prune.meter.epochs, task.finetune.meter.epochs) == (5, 2)
    assert task.prune.meter.attack_steps == task.finetune.meter.attack_steps == 45


@pytest.mark.parametrize(
    "settings", [{"delta": 0.0}, {"rho": 0.0}, {"rho": 1.1}, {"delta": math.nan}, {"frequency": 0}]
)
def test_perturbations_that_would_vanish_or_grow_are_refused(settings):
    with pytest.raises(ContractError, match="expected"):
        Bap(**settings)


@pytest.mark.parametrize(
    "spelled",
    [
        "bap:smoothing=2.0",
        "bap:iterations=0",
        "bap:candidates=1",
        "bap:overshoot=-0.1",
        "adversarial-gradual:epsilon=-1",
        "adversarial-gradual:smoothing=1.0",
        "pwoa:rho-largest=-1",
    ],
)
def test_settings_that_mean_nothing_are_refused_before_any_training(spelled):
    with pytest.raises(ContractError, match="expected .*, got"):
        methods.configured(spelled)
