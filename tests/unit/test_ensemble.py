"""The four attacks: the same walks as pyautoattack's, and draws that belong to an example."""

from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_projections import projection_l2, projection_linf
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from scipy.optimize import linprog
from tiny import digits, rng, trained
from torch import nn

from benchmark.ensemble import (
    Apgd,
    FabTargeted,
    Square,
    Targets,
    cross_entropy,
    dlr,
    dlr_targeted,
    onto_hyperplane,
)
from benchmark.ensemble import square as square_module
from benchmark.ensemble.base import margins
from benchmark.errors import ContractError
from benchmark.threat import ThreatModel

LINF = ThreatModel("Linf", Fraction(3, 20))
L2 = ThreatModel("L2", Fraction(3, 4))
NORMS = {"Linf": LINF, "L2": L2}


@lru_cache(maxsize=1)
def attackable(count: int = 60) -> tuple[nn.Module, Targets]:
    model, examples = trained().requires_grad_(False), digits(count)
    right = model(examples.inputs).argmax(1) == examples.labels
    return model, Targets(examples.inputs[right], examples.labels[right], examples.indices[right])


def start_of(targets: Targets, threat: ThreatModel) -> torch.Tensor:
    return threat.project(
        targets.inputs + torch.randn(targets.inputs.shape, generator=rng(4)), targets.inputs
    )


class Recording(nn.Module):
    """Keeps the logits of every pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.logits = model, []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        answer = self.model(inputs)
        self.logits.append(answer.detach())
        return answer


# --- APGD


LOSSES = {
    "ce": (cross_entropy, APGDAttack, {"loss": "ce"}),
    "dlr": (dlr, APGDAttack, {"loss": "dlr"}),
    "dlr-targeted": (dlr_targeted, APGDAttack_targeted, {}),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", LOSSES)
def test_apgd_has_the_loss_trace_of_the_package_from_the_same_start(name, norm):
    model, targets = attackable()
    loss, theirs, options = LOSSES[name]
    threat = NORMS[norm]
    start = start_of(targets, threat)
    aims = model(targets.inputs).argsort(1, descending=True)[:, 1]

    recording = Recording(model)
    reference = theirs(recording, norm=norm, eps=float(threat.epsilon), device="cpu", **options)
    reference.init_hyperparam(targets.inputs)
    reference.y_target = aims
    robust = reference.attack_single_run(targets.inputs, targets.labels, x_init=start)[1]
    expected = torch.stack([loss(o, targets.labels, aims) for o in recording.logits])

    ours = Apgd(threat, loss, 100, 9, 0, "any")
    walk, broken = ours.begun(model, targets, aims, start)
    assert torch.equal(walk.loss, expected[0])
    steps = 0

    def watch(walk):
        nonlocal steps
        steps += 1
        # Sums over a batch that has become smaller are rounded in another order.
        assert torch.allclose(walk.loss, expected[steps][walk.rows], atol=1e-4), steps

    rows, found = ours.ended(model, walk, broken, watch)
    assert steps == 100 == len(expected) - 1
    assert sorted(rows.tolist()) == torch.nonzero(~robust.bool()).flatten().tolist()
    assert 0 < len(rows) < len(targets)
    assert bool(threat.contains(found, targets.inputs[rows]).all())
    assert bool((model(found).argmax(1) != targets.labels[rows]).all())


def test_the_losses_by_hand():
    logits = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 4.0, 1.0]])
    labels, aims = torch.tensor([0, 1]), torch.tensor([1, 0])
    # -(z_y - max other) / (z_1st - z_3rd)
    assert dlr(logits, labels, aims).tolist() == pytest.approx([-2 / 3, 2 / 3])
    # (z_t - z_y) / (z_1st - (z_3rd + z_4th) / 2)
    assert dlr_targeted(logits, labels, aims).tolist() == pytest.approx([-2 / 3.5, -2 / 3.5])
    assert margins(logits, labels).tolist() == [2, -2]


def test_who_falls_at_a_check_is_shown_where_it_fell():
    """A network that answers wrong at one step alone, the one behind which steps are checked."""

    class Once(nn.Module):
        passes = 0

        def forward(self, inputs):
            self.passes += 1
            own = inputs.flatten(1).sum(1)
            # The start is pass 1, the first check follows step 22. Two rivals that nearly catch up
            # make a larger loss than one that does.
            if self.passes == 23:
                return torch.stack([own, own + 0.01, own - 99], dim=1)
            near = own - 0.01 * self.passes
            return torch.stack([own, near, near], dim=1)

    inputs = torch.full((2, 1, 4, 4), 0.5)
    targets = Targets(inputs, torch.zeros(2).long(), torch.arange(2))
    walker = Apgd(LINF, cross_entropy, 100, 0, 0, "any")
    start = start_of(targets, LINF)
    model, seen = Once(), []
    walk, broken = walker.begun(model, targets, targets.labels, start)

    def watch(walk):
        seen.append(walk.here.clone())

    rows, found = walker.ended(model, walk, broken, watch)
    assert rows.tolist() == [0, 1] and len(seen) == 22
    assert torch.equal(found, seen[-1])


# --- FAB


@pytest.mark.parametrize(("norm", "project"), [("Linf", projection_linf), ("L2", projection_l2)])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1, 30])
def test_projections_are_those_of_the_package(norm, project, scale):
    points = torch.rand(50, 30, generator=rng(1)) * (torch.rand(50, 30, generator=rng(2)) > 0.4)
    normals = torch.randn(50, 30, generator=rng(3)) * (torch.rand(50, 30, generator=rng(4)) > 0.3)
    gaps = scale * torch.randn(50, generator=rng(5))
    moves = onto_hyperplane(points, normals, gaps, NORMS[norm])
    expected = project(points, normals, (normals * points).sum(1) + gaps)
    assert torch.allclose(moves, expected, atol=2e-5)
    moved = points + moves
    assert bool(((moved >= -1e-6) & (moved <= 1 + 1e-6)).all())


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.05, 0.5, 3.0]))
def test_a_projection_in_linf_is_the_optimum_of_its_linear_programme(seed, scale):
    size, generator = 5, rng(seed)
    point = torch.rand(size, generator=generator).round(decimals=1)
    normal = torch.randn(size, generator=generator) * (torch.rand(size, generator=generator) > 0.2)
    gap = scale * float(torch.randn((), generator=generator))
    move = onto_hyperplane(point[None], normal[None], torch.tensor([gap]), LINF)[0]
    # Minimise r with -r <= d <= r, 0 <= x + d <= 1 and <w, d> = g.
    x, w = point.double().numpy(), normal.double().numpy()
    identity, ones = np.eye(size), np.ones((size, 1))
    found = linprog(
        [0.0] * size + [1.0],
        A_ub=np.block([[identity, -ones], [-identity, -ones]]),
        b_ub=np.zeros(2 * size),
        A_eq=np.append(w, 0.0)[None],
        b_eq=[gap],
        bounds=[(-a, 1 - a) for a in x] + [(0, None)],
    )
    if found.status == 2:  # the box does not reach the hyperplane: as far as it goes
        way = np.sign(gap) * np.sign(w)
        assert move.tolist() == pytest.approx(np.where(way > 0, 1 - x, -x * (way < 0)), abs=1e-6)
    else:
        assert float(move.abs().max()) == pytest.approx(found.fun, abs=1e-5)
        assert float((normal * move).sum()) == pytest.approx(gap, abs=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_fab_breaks_the_examples_that_the_package_breaks(norm):
    model, targets = attackable()
    threat = NORMS[norm]
    with torch.random.fork_rng([]):
        reference = FABAttack_PT(
            model,
            norm=norm,
            n_restarts=1,
            n_iter=20,
            eps=float(threat.epsilon),
            targeted=True,
            device="cpu",
            n_target_classes=3,
        )
        theirs = reference.perturb(targets.inputs, targets.labels)
    ours, stuck = FabTargeted(threat, 20, 3).run(model, targets)
    broken = model(ours).argmax(1) != targets.labels
    assert broken.tolist() == (model(theirs).argmax(1) != targets.labels).tolist()
    assert 0 < int(broken.sum()) < len(targets) and stuck == 0
    assert bool(threat.contains(ours, targets.inputs).all())


def test_fab_stays_where_there_is_no_slope():
    class Flat(nn.Module):
        def forward(self, inputs):
            return 0 * inputs.flatten(1)[:, :4] + torch.tensor([1.0, 0, 0, 0])

    targets = Targets(
        torch.rand(3, 1, 4, 4, generator=rng()), torch.zeros(3).long(), torch.arange(3)
    )
    found, _ = FabTargeted(LINF, 3, 2).run(Flat(), targets)
    assert torch.equal(found, targets.inputs)


# --- Square


def test_the_sides_of_squares_are_those_of_the_package():
    reference = SquareAttack(nn.Identity(), eps=0.1, n_queries=10_000, resc_schedule=False)
    for query in (*range(0, 60), 199, 200, 201, 500, 501, 1001, 2001, 4001, 6001, 8001, 9999):
        for height, width in ((28, 28), (8, 8), (32, 32), (8, 20)):
            share = reference.p_selection(query)
            side = max(round((share * height * width) ** 0.5), 1)
            expected = min(side, height, width)
            assert square_module.side_of_square(query, height, width) == expected


def test_square_finds_what_chance_finds_and_stays_in_the_ball():
    model, targets = attackable()
    found, stuck = Square(LINF, 200, 0).run(model, targets)
    broken = model(found).argmax(1) != targets.labels
    assert stuck == 0 and 0 < int(broken.sum()) < len(targets)
    assert bool(LINF.contains(found, targets.inputs).all())
    assert torch.equal(found[~broken], targets.inputs[~broken])
    more = model(Square(LINF, 600, 0).run(model, targets)[0]).argmax(1) != targets.labels
    # More queries go on where fewer ended.
    assert bool((more | ~broken).all()) and int(more.sum()) > int(broken.sum())
    with torch.random.fork_rng([]):
        reference = SquareAttack(
            model, eps=float(LINF.epsilon), n_queries=600, resc_schedule=False, device="cpu"
        )
        theirs = reference.perturb(targets.inputs, targets.labels)
    counts = [int(m.sum()) for m in (more, model(theirs).argmax(1) != targets.labels)]
    assert abs(counts[0] - counts[1]) <= 5


def test_square_moves_squares_of_twice_epsilon(monkeypatch):
    """On a network that always prefers what is asked, each query is kept."""

    class Eager(nn.Module):
        asked: list[torch.Tensor] = []

        def forward(self, inputs):
            self.asked.append(inputs.clone())
            falling = 10.0 - len(self.asked)
            return torch.tensor([[falling, 0.0]]).expand(len(inputs), 2)

    model, threat = Eager(), ThreatModel("Linf", Fraction(1, 8))
    inputs = torch.full((1, 2, 8, 8), 0.5)
    Square(threat, 6, 0).run(model, Targets(inputs, torch.zeros(1).long(), torch.tensor([3])))
    start, *asked = model.asked
    stripes = (start - inputs) * 8
    assert set(stripes.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))  # vertical
    before = start
    for query, now in enumerate(asked):
        side = square_module.side_of_square(query, 8, 8)
        for channel in (now - before)[0]:
            rows, columns = (channel != 0).any(1).nonzero(), (channel != 0).any(0).nonzero()
            if len(rows):
                assert int(rows.max() - rows.min()) < side
                assert int(columns.max() - columns.min()) < side
                assert len(channel[channel != 0].sign().unique()) == 1
        assert bool(threat.contains(now, inputs).all())
        before = now


def test_square_is_for_linf():
    with pytest.raises(ContractError, match="expected Linf for Square, got L2"):
        Square(L2, 10, 0)


# --- draws


ATTACKS = {
    "apgd-ce": Apgd(LINF, cross_entropy, 20, 0, 0, "apgd-ce"),
    "apgd-t": Apgd(LINF, dlr_targeted, 10, 3, 0, "apgd-t"),
    "apgd-t in L2": Apgd(L2, dlr_targeted, 10, 3, 0, "apgd-t"),
    "fab-t": FabTargeted(LINF, 10, 3),
    "square": Square(LINF, 60, 0),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_batch_does_not_matter(attack):
    model, targets = attackable()
    whole, _ = attack.run(model, targets)
    order = torch.randperm(len(targets), generator=rng(7))
    parts = [attack.run(model, targets.at(part))[0] for part in order.split(17)]
    again = torch.empty_like(whole)
    again[order] = torch.cat(parts)
    assert torch.allclose(again, whole, atol=1e-5)
    assert not torch.equal(whole, targets.inputs)


def test_draws_depend_on_seed_attack_stage_and_example():
    _, targets = attackable()
    one = Apgd(LINF, cross_entropy, 1, 0, 0, "a")
    start = one.start(targets, 0)
    assert torch.equal(start, one.start(targets, 0))
    others = [
        Apgd(LINF, cross_entropy, 1, 0, 1, "a").start(targets, 0),
        Apgd(LINF, cross_entropy, 1, 0, 0, "b").start(targets, 0),
        one.start(targets, 1),
        one.start(Targets(targets.inputs, targets.labels, targets.indices + 1), 0),
    ]
    for other in others:
        assert bool((other != start).flatten(1).any(dim=1).all())
    assert bool(LINF.contains(start, targets.inputs).all())


def test_nobody_to_attack_is_no_error():
    model, targets = attackable()
    nobody = targets.at(torch.zeros(0, dtype=torch.long))
    for attack in ATTACKS.values():
        found, stuck = attack.run(model, nobody)
        assert found.shape == (0, 1, 8, 8) and stuck == 0
