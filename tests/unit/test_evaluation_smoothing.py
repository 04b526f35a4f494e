"""Randomised smoothing against closed forms: constant and linear classifiers, exact bounds."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from benchmark.errors import ContractError
from benchmark.evaluations.base import Examples
from benchmark.evaluations.smoothing import ABSTAIN, Smoothing, lower_confidence_bound
from benchmark.threat import ThreatModel

THREAT = ThreatModel.parse("Linf 1/10")


def settings(**changes: object) -> Smoothing:
    values = {"sigma": 0.25, "n0": 20, "n": 500, "alpha": 0.001, "batch": 100, "examples": 100}
    return Smoothing(**{**values, **changes})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shard(count: int, classes: int = 2) -> Examples:
    inputs = torch.rand((count, 1, 2, 2), generator=generator(5))
    zeros = torch.zeros(count, dtype=torch.int64)
    return Examples(inputs, zeros, torch.arange(count), classes)


def run(
    model: nn.Module, examples: Examples, chosen: Smoothing, seed: int = 0
) -> dict[str, np.ndarray]:
    return chosen.run(model, examples, THREAT, generator(seed)).columns


class Constant(nn.Module):
    """Says class 2 whatever it sees."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 2.0]).expand(len(inputs), 3)


class Linear(nn.Module):
    """Says class 1 where the first pixel exceeds a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs.clone())
        first = inputs[:, 0, 0, 0] - self.threshold
        return torch.stack([-first, first], dim=1)


class Broken(nn.Module):
    """Answers NaN for about a third of the noisy inputs, class 1 otherwise."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits = torch.tensor([0.0, 1.0]).repeat(len(inputs), 1)
        logits[inputs[:, 0, 0, 0] > 0.6] = torch.nan
        return logits


def test_constant_classifier_has_the_largest_radius_the_samples_allow() -> None:
    columns = run(Constant(), shard(3, classes=3), settings())
    # All n votes agree, so p = alpha^(1 / n).
    radius = 0.25 * stats.norm.ppf(0.001 ** (1 / 500))
    assert columns["prediction"].tolist() == columns["selected"].tolist() == [2, 2, 2]
    assert columns["count"].tolist() == [500, 500, 500]
    assert columns["radius"] == pytest.approx([radius] * 3, rel=1e-6)
    types = {name: column.dtype for name, column in columns.items()}
    assert types == {
        "prediction": np.int16,
        "radius": np.float32,
        "count": np.int32,
        "selected": np.int16,
    }


def test_linear_classifier_is_never_certified_beyond_its_distance() -> None:
    # The smoothed boundary is the boundary itself, |x1 - threshold| away. With alpha 1e-6 even one
    # excess among 40 examples has probability 4e-5.
    examples = shard(40)
    columns = run(Linear(0.5), examples, settings(alpha=1e-6, n=2000))
    first = examples.inputs[:, 0, 0, 0].numpy()
    distance = np.abs(first - 0.5)
    certified = columns["prediction"] != ABSTAIN
    assert (columns["radius"] <= distance).all()
    assert (columns["prediction"] == (first > 0.5))[certified].all()
    # Not vacuous: clear cases are certified for a good part of their distance.
    clear = distance > 0.2
    assert clear.sum() > 5 and certified[clear].all()
    assert (columns["radius"][clear] > 0.6 * distance[clear]).all()
    # Below one half the bound proves nothing: abstention and radius 0 go together.
    assert (columns["radius"][~certified] == 0).all() and (~certified).any()
    assert (columns["radius"][certified] > 0).all()


def test_vote_shares_match_the_gaussian() -> None:
    examples = shard(4)
    columns = run(Linear(0.5), examples, settings(n=4000))
    share = stats.norm.cdf((examples.inputs[:, 0, 0, 0].numpy() - 0.5) / 0.25)
    share = np.where(columns["selected"] == 1, share, 1 - share)
    # Five standard deviations of a share of 4,000 votes.
    assert columns["count"] / 4000 == pytest.approx(share, abs=5 * 0.5 / 4000**0.5)


def test_an_undecided_vote_abstains() -> None:
    examples = shard(1)
    on_the_boundary = Linear(float(examples.inputs[0, 0, 0, 0]))
    columns = run(on_the_boundary, examples, settings())
    assert columns["prediction"].tolist() == [ABSTAIN]
    assert columns["radius"].tolist() == [0]


def test_answers_that_are_not_finite_are_no_votes() -> None:
    columns = run(Broken(), shard(2), settings(sigma=1.0))
    assert columns["selected"].tolist() == [1, 1]
    assert ((columns["count"] > 0) & (columns["count"] < 450)).all()


@pytest.mark.parametrize("batch", [1, 7, 99, 250, 10_000])
def test_the_batch_size_changes_nothing(batch: int) -> None:
    examples, chosen = shard(3), settings(n=350, n0=130)
    expected = run(Linear(0.5), examples, chosen)
    model = Linear(0.5)
    found = run(model, examples, settings(n=350, n0=130, batch=batch))
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column)
    sizes = [len(inputs) for inputs in model.seen]
    assert max(sizes) <= batch and sum(sizes) == 3 * 480


def test_an_example_does_not_depend_on_those_after_it() -> None:
    examples = shard(3)
    first = Examples(examples.inputs[:1], examples.labels[:1], examples.indices[:1], 2)
    alone, together = (run(Linear(0.4), part, settings()) for part in (first, examples))
    for name in alone:
        assert alone[name][0] == together[name][0]


def test_noise_is_fresh_unclipped_and_of_the_right_size() -> None:
    model, examples = Linear(0.5), shard(1)
    run(model, examples, settings(n=4000, n0=100, sigma=0.5))
    noise = (torch.cat(model.seen) - examples.inputs) / 0.5
    assert noise.shape == (4100, 1, 2, 2)
    assert len(noise.flatten(1).unique(dim=0)) == 4100
    assert noise.mean().abs() < 0.04 and (noise.std() - 1).abs() < 0.04
    assert torch.cat(model.seen).min() < 0 and torch.cat(model.seen).max() > 1


def test_only_the_passed_generator_is_used() -> None:
    everywhere = torch.get_rng_state()
    examples = shard(2)
    first, again, other = (run(Linear(0.5), examples, settings(), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), everywhere)
    assert first["count"].tolist() == again["count"].tolist() != other["count"].tolist()


def test_no_gradients_are_kept() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    run(model, shard(1), settings(n=10, n0=10))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("successes", [0, 1, 50, 99, 100])
def test_lower_bound_is_the_exact_one_sided_one(successes: int, alpha: float) -> None:
    found = lower_confidence_bound(np.array([successes]), 100, alpha)
    # scipy's two-sided interval at 1 - 2 alpha has alpha on each side.
    test = stats.binomtest(successes, 100)
    assert found == pytest.approx(test.proportion_ci(1 - 2 * alpha, method="exact").low, abs=1e-12)
    if successes:
        # By definition: under that probability so many successes occur with probability alpha.
        assert stats.binom.sf(successes - 1, 100, found) == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize(
    ("successes", "trials", "alpha"), [(-1, 10, 0.1), (11, 10, 0.1), (1, 10, 0), (1, 0, 0.1)]
)
def test_impossible_counts_are_refused(successes: int, trials: int, alpha: float) -> None:
    with pytest.raises(ContractError, match="smoothing settings"):
        lower_confidence_bound(np.array([successes]), trials, alpha)
