"""ADMM against exhaustive projections, written-out updates and problems with known solutions."""

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from tiny import CPU, random_split, rng, same_bits, state_of, untrained
from torch import nn

from benchmark.digests import digest_of
from benchmark.errors import ContractError
from benchmark.objectives import Benign, Moment
from benchmark.pruning import mask_from_scores, prunable_parameters
from benchmark.training import Run, Stage, fit
from methods._admm import Penalised, Schedule, Variables, nearest

HALF = Fraction(1, 2)
PWOA = Schedule(Fraction(3, 50), 0.01, 1.35, 1.0)
RADMM = Schedule(Fraction(1, 10), 0.001, 1.3)
STAGE = Stage(epochs=4, learning_rate=0.05, batch_size=10)


def updates(schedule, epochs, batches):
    """Returns (epoch, batch) of each step before which an interval ended."""
    found, before = [], 0
    for epoch in range(epochs):
        for batch in range(batches):
            now = schedule.intervals(Moment(epoch + batch / batches, epochs))
            if now > before:
                found.append((epoch, batch))
            before = now
    return found


def test_updates_come_when_the_papers_make_them():
    # PwoA: first batch of epochs 4, 7, 10, ... of 50; RADMM: after every 20 of 200.
    assert updates(PWOA, 50, 391) == [(epoch, 0) for epoch in range(3, 50, 3)]
    assert updates(RADMM, 200, 391) == [(epoch, 0) for epoch in range(20, 200, 20)]
    assert updates(RADMM, 40, 469) == [(epoch, 0) for epoch in range(4, 40, 4)]


@pytest.mark.parametrize("batches", [2, 3, 7, 23])
def test_a_short_stage_has_updates_too(batches):
    found = updates(PWOA, 1, batches)
    assert 1 <= len(found) <= min(16, batches - 1)
    assert updates(PWOA, 10, batches)[-1][0] >= 8


def test_rho_grows_to_its_cap():
    assert [PWOA.strength(n) for n in (0, 1, 2)] == pytest.approx([0.01, 0.0135, 0.018225])
    assert PWOA.strength(15) < 1.0 == PWOA.strength(16)
    assert RADMM.strength(40) == pytest.approx(0.001 * 1.3**40)


@pytest.mark.parametrize(
    "settings",
    [(Fraction(0), 1, 1), (Fraction(1), 1, 1), (HALF, 0, 1), (HALF, 1, -1), (-HALF, 1, 1)],
)
def test_schedules_that_mean_nothing_are_refused(settings):
    with pytest.raises(ContractError, match="expected an interval"):
        Schedule(*settings)


def closest(rows, removed):
    """Returns which rows stay in the nearest array with some rows zero, trying all choices."""
    costs = {
        gone: float((rows[list(gone)].astype(np.float64) ** 2).sum())
        for gone in combinations(range(len(rows)), removed)
    }
    least = min(costs.values())
    # Of equals the earliest positions go.
    gone = min(choice for choice, cost in costs.items() if cost <= least * (1 + 1e-12))
    return np.array([row not in gone for row in range(len(rows))])


@pytest.mark.parametrize("sparsity", [Fraction(n, 8) for n in range(9)])
@pytest.mark.parametrize("ties", [False, True])
def test_nearest_is_the_projection(sparsity, ties):
    weights = {"a": torch.randn(8, generator=rng(1)), "b": torch.randn(2, 4, generator=rng(2))}
    if ties:
        weights = {name: (2 * weight).round() / 2 for name, weight in weights.items()}
    mask = nearest(weights, sparsity, "unstructured")
    for name, weight in weights.items():
        expected = closest(weight.reshape(-1, 1).numpy(), round(sparsity * 8))
        assert mask[name].flatten().tolist() == expected.tolist()


@pytest.mark.parametrize("ties", [False, True])
def test_nearest_filters_have_the_largest_l2_norms(ties):
    weights = {"a": torch.randn(8, 3, 2, 2, generator=rng(1)), "last": torch.zeros(4, 2)}
    # Large L1 and small L2 norm, and the other way round.
    weights["a"][0], weights["a"][1] = 0.55, 0.0
    weights["a"][1, 0, 0, 0] = 2.0
    if ties:
        weights["a"][4] = -weights["a"][5].flip(0)
        weights["a"][6] = weights["a"][5]
    for removed in range(9):
        mask = nearest(weights, Fraction(removed, 8), "filter")
        expected = closest(weights["a"].flatten(1).numpy(), removed)
        assert mask["a"].flatten(1).all(1).tolist() == expected.tolist()
        assert mask["a"].flatten(1).any(1).tolist() == expected.tolist()
        assert bool(mask["last"].all())
    by_mean = mask_from_scores(
        {name: weight.abs() for name, weight in weights.items()},
        Fraction(1, 8),
        "layerwise",
        "filter",
    )
    assert not torch.equal(by_mean["a"], nearest(weights, Fraction(1, 8), "filter")["a"])


def test_an_update_projects_w_plus_u_and_adds_the_rest():
    network = nn.Sequential(nn.Linear(4, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3.0, -1.0, 0.5, 2.0], [-4.0, 0.1, 0.2, 5.0]]))
    variables = Variables(network, HALF, "unstructured")
    w = np.array([3, -1, 0.5, 2, -4, 0.1, 0.2, 5])
    assert variables.targets.tolist() == [3, 0, 0, 2, -4, 0, 0, 5]
    assert variables.duals.tolist() == [0] * 8
    u = np.array([0, 4, 0, 0, 4, 0, 0, 0])
    variables.duals.copy_(torch.from_numpy(u))
    variables.update()
    z = np.array([3, 3, 0, 2, 0, 0, 0, 5])  # of W + U = 3, 3, .5, 2, 0, .1, .2, 5
    assert variables.targets.tolist() == z.tolist()
    np.testing.assert_allclose(variables.duals.numpy(), u + w - z, rtol=1e-6)
    np.testing.assert_allclose(
        float(variables.distance().detach()), ((w - z + u + w - z) ** 2).sum(), rtol=1e-6
    )


def test_each_layer_gets_its_own_share():
    model = untrained()
    variables = Variables(model, Fraction(9, 10), "unstructured")
    parts = variables.targets.split([p.numel() for p in prunable_parameters(model).values()])
    assert [int((part == 0).sum()) for part in parts] == [round(0.9 * len(p)) for p in parts]


def test_layers_that_are_never_pruned_or_frozen_take_no_part():
    model = untrained()
    sizes = [p.numel() for p in prunable_parameters(model).values()]
    assert len(Variables(model, HALF, "unstructured").duals) == sum(sizes)
    assert len(Variables(model, HALF, "filter").duals) == sum(sizes[:-1])
    list(prunable_parameters(model).values())[0].requires_grad_(False)
    assert len(Variables(model, HALF, "unstructured").duals) == sum(sizes[1:])


@dataclass(frozen=True)
class Pull:
    """Half of curvature * (w - goal)^2, summed."""

    goal: tuple[float, ...]
    curvature: tuple[float, ...]

    attack_steps = 3

    def loss(self, model, inputs, labels, *, moment, generator):
        (weight,) = model.parameters()
        away = weight.flatten() - torch.tensor(self.goal)
        return (torch.tensor(self.curvature) * away**2).sum() / 2


def plain(*weights):
    """Returns a network of one linear layer without bias."""
    network = nn.Sequential(nn.Linear(len(weights), 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([weights]))
    return network


def test_the_penalty_and_its_gradient():
    network = plain(1.0, -2.0, 3.0, 4.0)
    variables = Variables(network, HALF, "unstructured")
    variables.duals.copy_(torch.tensor([0.5, 0.0, -0.5, 1.0]))
    penalised = Penalised(Pull((0,) * 4, (0,) * 4), Schedule(HALF, 0.3, 2.0))
    loss = penalised.loss(variables, None, None, moment=Moment(0, 1), generator=None)
    away = torch.tensor([1.5, -2.0, -0.5, 1.0])  # W - Z + U with Z = 0, 0, 3, 4
    torch.testing.assert_close(loss, 0.15 * (away**2).sum())
    loss.backward()
    torch.testing.assert_close(network[0].weight.grad.flatten(), 0.3 * away)
    assert penalised.attack_steps == 3
    assert len(digest_of(penalised)) == 64


def solve(network, penalised, sparsity=HALF, steps=2000):
    """Runs gradient descent; returns the variables and |W - Z| before each update."""
    variables = Variables(network, sparsity, "unstructured")
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    residuals, done = [], 0
    for step in range(steps):
        with torch.no_grad():
            residual = float((variables.weights() - variables.targets).norm())
        loss = penalised.loss(variables, None, None, moment=Moment(step / steps, 1), generator=None)
        if int(variables.done) > done:
            residuals.append(residual)
        done = int(variables.done)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return variables, residuals


def test_the_primal_residual_falls_to_zero_at_the_best_sparse_weights():
    goal = (1.0, -2.0, 3.0, 0.5)
    variables, residuals = solve(
        plain(0.9, -0.7, 0.1, 0.3), Penalised(Pull(goal, (1,) * 4), Schedule(Fraction(1, 20), 1, 1))
    )
    assert len(residuals) == 19
    # After the support has settled each update brings W nearer to Z.
    tail = residuals[4:]
    assert all(later < earlier for earlier, later in zip(tail, tail[1:], strict=False))
    assert residuals[-1] < 1e-3 * residuals[0]
    torch.testing.assert_close(
        variables.weights().detach(), torch.tensor([0.0, -2.0, 3.0, 0.0]), rtol=0, atol=2e-3
    )


def test_what_the_loss_needs_stays_though_it_is_smaller():
    # Magnitude removes 0.9; without it the loss is 8.1 / 2, without 1.0 only 1.0 / 2. With rho = 2
    # the first is no fixed point (h a / rho = 4.5 > 1.0), the second is (0.5 < 0.9).
    goal, curvature = (0.9, 1.0), (10.0, 1.0)
    variables, residuals = solve(
        plain(*goal), Penalised(Pull(goal, curvature), Schedule(Fraction(1, 30), 2, 1))
    )
    assert nearest({"w": torch.tensor(goal)}, HALF, "unstructured")["w"].tolist() == [False, True]
    torch.testing.assert_close(
        variables.weights().detach(), torch.tensor([0.9, 0.0]), rtol=0, atol=1e-3
    )
    assert residuals[-1] < 1e-3


def test_one_update_for_several_intervals_at_once(monkeypatch):
    variables = Variables(plain(1.0, 2.0), HALF, "unstructured")
    calls = []
    monkeypatch.setattr(variables, "update", lambda: calls.append(1))
    penalised = Penalised(Pull((0, 0), (0, 0)), PWOA)
    losses = [
        float(penalised.loss(variables, None, None, moment=Moment(m, 1), generator=None).detach())
        for m in (0.0, 0.5, 0.5)
    ]
    assert calls == [1] and int(variables.done) == 8
    # rho is that of the paper at this share of the stage.
    assert losses == pytest.approx([0.005, 0.005 * 1.35**8, 0.005 * 1.35**8])


@dataclass(frozen=True)
class Watch(Benign):
    """The benign loss, which notes on which object it was called."""

    def loss(self, model, inputs, labels, **rest):
        SEEN.append(model)
        return super().loss(model, inputs, labels, **rest)


SEEN: list[nn.Module] = []


def test_the_loss_is_called_on_the_network_itself():
    model = untrained()
    stage = replace(STAGE, epochs=1)
    fit(
        Variables(model, HALF, "unstructured"),
        random_split(),
        Penalised(Watch(), PWOA),
        stage,
        Run(CPU, seed=0),
    )
    assert SEEN and all(seen is model for seen in SEEN)


class Killed(Exception):
    pass


# Updates at almost every step; and two, both far from the end of the second epoch.
@pytest.mark.parametrize("schedule", [PWOA, Schedule(Fraction(2, 5), 0.01, 1.35)])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, schedule):
    def train(run):
        variables = Variables(untrained(), HALF, "unstructured")
        fit(variables, random_split(), Penalised(Benign(), schedule), STAGE, run)
        return variables

    def kill(done, epochs, loss):
        if done == 2:
            raise Killed

    expected = train(Run(CPU, seed=0))
    state = tmp_path / "run.state"
    with pytest.raises(Killed):
        train(Run(CPU, seed=0, state=state, report=kill))
    resumed = []
    found = train(Run(CPU, seed=0, state=state, report=lambda done, *rest: resumed.append(done)))
    assert resumed == [3, 4]
    assert same_bits(state_of(found), state_of(expected))
    assert float(expected.duals.abs().max()) > 0
