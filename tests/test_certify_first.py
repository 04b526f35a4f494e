"""Certify first: what is proven needs no attack, and the proof survives rounding."""

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
import torch
from fast import FAST, ROOT, SPARSE, make_project
from tiny import digits, rng
from torch import Tensor, nn
from torch.nn import functional

from benchmark.attacks import Steps
from benchmark.bounds import MarginBounds, rounding_allowance
from benchmark.datasets import load
from benchmark.evaluations import (
    AutoAttack,
    Bounds,
    CarliniWagner,
    Examples,
    Fgsm,
    Pgd,
    Sparing,
    run_evaluation,
)
from benchmark.manifest import load_model, read_manifest
from benchmark.outcomes import attacked, certified
from benchmark.pipeline import evaluate_model
from benchmark.threat import ThreatModel

THREAT = ThreatModel("Linf", Fraction(1, 10))
BOUNDS = Bounds(methods=("ibp", "crown"), epsilons=(THREAT.epsilon,), crown_max_units=20_000)


class Perceptron(nn.Module):
    """Two linear layers: small enough for interval propagation in four lines."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 100), nn.Linear(100, 10)
        for layer in (self.first, self.last):
            bound = layer.in_features**-0.5
            layer.weight.data.uniform_(-bound, bound, generator=rng(layer.out_features))
            layer.bias.data.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(functional.relu(self.first(inputs.flatten(1))))

    def worst_case(self, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        """Returns (N, K) logits at their worst over the ball (Gowal et al. 2018, equation 6)."""
        lower, upper = (inputs - epsilon).clamp(0, 1), (inputs + epsilon).clamp(0, 1)
        for layer in (self.first, self.last):
            centre, radius = (lower + upper).flatten(1) / 2, (upper - lower).flatten(1) / 2
            middle, spread = layer(centre), radius @ layer.weight.abs().T
            lower, upper = middle - spread, middle + spread
            if layer is self.first:
                lower, upper = functional.relu(lower), functional.relu(upper)
        own = functional.one_hot(labels, 10).bool()
        return torch.where(own, lower, upper)


@lru_cache(maxsize=1)
def certified_trained() -> Perceptron:
    """Returns a network trained on its own interval bounds, epsilon growing to the protocol's."""
    model, split = Perceptron(), load("digits", "train", None)
    inputs, labels = split.inputs(torch.arange(len(split))), split.labels
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(300):
        epsilon = float(THREAT.epsilon) * min(1.0, step / 150)
        loss = functional.cross_entropy(model.worst_case(inputs, labels, epsilon), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


def proven_of(model: nn.Module, examples: Examples, settings: Bounds = BOUNDS) -> Tensor:
    result = run_evaluation(
        model, examples, name="bounds", settings=settings, threat=THREAT, seed=("first",)
    ).result
    return torch.from_numpy(settings.proven(result.columns)[THREAT.epsilon])


def test_plain_autoattack_breaks_none_of_the_skipped() -> None:
    """Plain pyautoattack, library defaults, on exactly the examples that we would not attack."""
    from pyautoattack import AutoAttack as Plain

    model, examples = certified_trained(), digits(120)
    proven = proven_of(model, examples)
    assert int(proven.sum()) >= 60, "too few proofs to say anything"
    inputs, labels = examples.inputs[proven], examples.labels[proven]
    with torch.random.fork_rng():
        attack = Plain(model, norm="Linf", eps=float(THREAT.epsilon), seed=0, device="cpu")
        adversarial, _ = attack.run_standard_evaluation(inputs, labels, batch_size=len(inputs))
    assert bool((model(adversarial).argmax(dim=1) == labels).all())
    # The attack is alive: it breaks examples of the same list at a larger epsilon.
    with torch.random.fork_rng():
        attack = Plain(model, norm="Linf", eps=0.4, seed=0, device="cpu")
        attack.attacks_to_run = ["apgd-ce"]
        adversarial, _ = attack.run_standard_evaluation(inputs, labels, batch_size=len(inputs))
    assert not bool((model(adversarial).argmax(dim=1) == labels).any())


@pytest.mark.parametrize(
    "settings",
    [
        Pgd(Steps(20, Fraction(1, 4)), 1),
        AutoAttack(iterations=10, queries=100, targets=3),
        CarliniWagner(Steps(20, Fraction(1, 4)), 1),
        Fgsm(),
    ],
    ids=["pgd", "autoattack", "cw", "fgsm"],
)
def test_attacks_spare_exactly_what_is_proven(settings: Sparing) -> None:
    model, examples = certified_trained(), digits(60)
    proven = proven_of(model, examples)
    correct = model(examples.inputs).argmax(dim=1) == examples.labels
    columns = []
    passes = []
    for known in ({}, {THREAT.epsilon: proven}):
        done = run_evaluation(
            model,
            replace(examples, proven=known),
            name="it",
            settings=settings,
            threat=THREAT,
            seed=("first",),
        )
        [column] = done.result.columns.values()
        columns.append(torch.from_numpy(column))
        passes.append(done.forwards)
    everything, spared = columns
    assert torch.equal(spared == -3, proven)
    assert torch.equal(spared == -2, ~correct)
    assert not bool((everything == -3).any())
    assert bool((everything[proven] == -1).all())
    # A single step costs less than the passes that say who is right and who was fooled.
    assert passes[1] < passes[0] / (1 if isinstance(settings, Fgsm) else 2)


def test_a_proof_at_a_larger_epsilon_spares_the_smaller_only() -> None:
    examples = replace(
        digits(4), proven={Fraction(1, 10): torch.tensor([True, False, False, False])}
    )
    assert examples.proven_at(Fraction(1, 20)).tolist() == [True, False, False, False]
    assert examples.proven_at(Fraction(1, 10)).tolist() == [True, False, False, False]
    assert not bool(examples.proven_at(Fraction(1, 5)).any())


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_proofs_hold_in_float64(method: str) -> None:
    """Every float32 certificate is one in float64, and lies within the allowance of it."""
    model, examples = certified_trained(), digits(120)
    _compare_with_float64(model, examples, method, at_least=60)


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_proofs_of_a_committed_checkpoint_hold_in_float64(method: str) -> None:
    entry = read_manifest(ROOT / "checkpoints_manifest.json").find(SPARSE.replace("-90", "-95"))
    _compare_with_float64(load_model(entry, ROOT), digits(60), method, at_least=10)


def _compare_with_float64(
    model: nn.Module, examples: Examples, method: str, *, at_least: int
) -> None:
    allowance = rounding_allowance(model, examples.inputs).double()
    single = MarginBounds(model, method)(examples.inputs, examples.labels, THREAT).double()
    proven = single - allowance > BOUNDS.margin
    assert int(proven.sum()) >= at_least, "too few proofs to say anything"
    double = _double_bounds(model, examples, method)
    assert bool((double[proven] > 0).all())
    # A proof never rests on rounding: what was taken off is more than the two differ by.
    assert float(((single - double).abs() / allowance)[proven].max()) < 0.5


def _double_bounds(model: nn.Module, examples: Examples, method: str) -> Tensor:
    import copy

    whole = copy.deepcopy(model).double()
    return MarginBounds(whole, method)(examples.inputs.double(), examples.labels, THREAT).double()


def test_scaled_logits_certify_no_rounding_noise() -> None:
    """A last layer scaled by a million proves what it proved before and no more."""
    model, examples = certified_trained(), digits(120)
    before = proven_of(model, examples)
    scaled = Perceptron()
    scaled.load_state_dict(model.state_dict())
    scaled.last.weight.data *= 1e6
    scaled.last.bias.data *= 1e6
    double = _double_bounds(model, examples, "crown")
    # Examples that the scaled network certifies in addition are only those whose margin was
    # positive, yet below the absolute threshold.
    more = proven_of(scaled.eval(), examples) & ~before
    assert bool((double[more] > 0).all()) and int(more.sum()) <= 3


def test_with_and_without_the_robust_sets_agree(tmp_path) -> None:
    project = make_project(tmp_path, SPARSE)
    model = load_model(project.manifest().find(SPARSE), tmp_path)
    first, all_of_them = (
        evaluate_model(project, model, replace(FAST, certify_first=chosen), "quick")
        for chosen in (True, False)
    )
    proven = certified(first.outcomes, FAST)[FAST.threat.epsilon]
    assert 0 < proven.sum() < len(proven)
    robust = [attacked(e.outcomes, FAST, FAST.threat.epsilon) for e in (first, all_of_them)]
    assert not np.any(proven & ~robust[1]), "an attack broke a certified example"
    # Attacks share their draws out among the examples of a batch, so an example that a short
    # attack finds only sometimes may differ; what is proven never does.
    assert np.array_equal(robust[0][proven], robust[1][proven])
    assert int((robust[0] != robust[1]).sum()) <= 1
    assert first.cost["autoattack"].proven == int(proven.sum())
    assert all_of_them.cost["autoattack"].proven == 0
    saved = first.cost["pgd"].forwards_saved
    assert 0 < saved <= all_of_them.cost["pgd"].forwards - first.cost["pgd"].forwards
