"""Threat models: a linear classifier's exact robust radius in both norms, projections, slack."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor

from benchmark.errors import ContractError
from benchmark.threat import TOLERANCE, ThreatModel

NORMS = ("Linf", "L2")
THREATS = [
    ThreatModel(norm, epsilon)
    for norm in NORMS
    for epsilon in (Fraction(0), Fraction(1, 1000), Fraction(8, 255), Fraction(1, 2), Fraction(3))
]


def draw(seed: int, low: float = 0.0, high: float = 1.0, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(count, 2, 3, 3, generator=generator)


@pytest.mark.parametrize("text", ["Linf 8/255", "Linf 3/16", "L2 1/2", "L2 3", "Linf 0"])
def test_printed_form_round_trips(text: str) -> None:
    assert str(ThreatModel.parse(text)) == text


def test_decimals_are_read_exactly() -> None:
    assert ThreatModel.parse("Linf 0.1") == ThreatModel("Linf", Fraction(1, 10))
    assert ThreatModel.parse("Linf 2/16") == ThreatModel("Linf", Fraction(1, 8))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Linf",
        "Linf ",
        "8/255",
        "linf 8/255",
        "L1 1",
        "Linf -1/2",
        "Linf 1/0",
        "Linf nan",
        "Linf inf",
        "Linf 8/255 ",
        "Linf 8 / 255",
        "Linf 1e999999999",
        "Linf 1_0",
        "Linf " + "9" * 10**6,
        "L2\x1b[31m\n 1" * 10**5,
    ],
)
def test_other_texts_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ContractError) as raised:
        ThreatModel.parse(text)
    message = str(raised.value)
    assert message.startswith("expected ") and "got" in message
    assert message.isprintable() and len(message) < 250


@pytest.mark.parametrize("epsilon", [8 / 255, 1, "1/2", None, Fraction(-1, 3)])
def test_epsilon_is_an_exact_fraction(epsilon: object) -> None:
    with pytest.raises(ContractError, match="fraction >= 0"):
        ThreatModel("Linf", epsilon)  # type: ignore[arg-type]


def test_with_epsilon_keeps_the_norm() -> None:
    assert ThreatModel.parse("L2 1").with_epsilon(Fraction(1, 4)) == ThreatModel.parse("L2 1/4")


def test_distances_by_hand() -> None:
    inputs = torch.zeros(3, 1, 1, 2)
    moved = torch.tensor([[0.0, 0.0], [0.3, -0.4], [0.25, 0.0]]).view(3, 1, 1, 2)
    infinity = ThreatModel.parse("Linf 1").distances(moved, inputs)
    euclid = ThreatModel.parse("L2 1").distances(moved, inputs)
    assert infinity.shape == euclid.shape == (3,)
    assert infinity.tolist() == pytest.approx([0, 0.4, 0.25])
    assert euclid.tolist() == pytest.approx([0, 0.5, 0.25])


def test_distances_do_not_round_away_small_differences() -> None:
    """150,000 entries (ImageNet), each moved by 1e-4: a float32 sum loses digits."""
    inputs = torch.full((1, 3, 224, 224), 0.5)
    moved = inputs + 1e-4
    exact = float((moved - inputs)[0, 0, 0, 0].double()) * (3 * 224 * 224) ** 0.5
    assert ThreatModel.parse("L2 1").distances(moved, inputs).item() == pytest.approx(exact, 1e-12)


@pytest.mark.parametrize("norm", NORMS)
@given(seed=some.integers(0, 2**31), radius=some.floats(0.01, 0.1))
def test_exact_robust_radius_of_a_linear_classifier(norm: str, seed: int, radius: float) -> None:
    """The closest point on the other side of w·x + b = 0 lies at margin / dual norm of w."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(18, generator=generator, dtype=torch.float64)
    # Far enough from the walls of the box that they play no part.
    inputs = 0.4 + 0.2 * torch.rand(1, 2, 3, 3, generator=generator, dtype=torch.float64)
    if norm == "Linf":
        dual, direction = weight.abs().sum(), weight.sign()
    else:
        dual, direction = weight.norm(), weight / weight.norm()
    bias = radius * dual - weight @ inputs.flatten()

    def score(points: Tensor) -> float:
        return float(weight @ points.flatten() + bias)

    step = direction.view_as(inputs)
    for share, flips in ((0.999, False), (1.001, True)):
        threat = ThreatModel(norm, Fraction(radius * share))  # type: ignore[arg-type]
        worst = threat.project(inputs - 3 * radius * step, inputs)
        assert threat.contains(worst, inputs).all()
        assert (score(worst) < 0) == flips
        # Nothing else in the ball gets further.
        for start in range(5):
            other = threat.random_start(inputs, torch.Generator().manual_seed(start))
            assert score(other) >= score(worst) - 1e-12
    crossing = inputs - radius * step
    distance = ThreatModel(norm, Fraction(1)).distances(crossing, inputs)  # type: ignore[arg-type]
    assert distance.item() == pytest.approx(radius, rel=1e-12)


@given(
    threat=some.sampled_from(THREATS),
    seed=some.integers(0, 2**31),
    reach=some.sampled_from([1e-4, 0.1, 1.0, 1e3]),
)
def test_projection_is_inside_and_idempotent(threat: ThreatModel, seed: int, reach: float) -> None:
    inputs = draw(seed)
    candidates = inputs + draw(seed + 1, -reach, reach)
    once = threat.project(candidates, inputs)
    assert threat.contains(once, inputs).all()
    twice = threat.project(once, inputs)
    # Linf is exact; an L2 point on the sphere may be scaled once more by a rounding of its norm.
    slack = 0.0 if threat.norm == "Linf" else 1e-6
    assert (twice - once).abs().max() <= slack
    assert (once >= 0).all() and (once <= 1).all()


@given(threat=some.sampled_from(THREATS), seed=some.integers(0, 2**31))
def test_projection_leaves_points_of_ball_and_box_alone(threat: ThreatModel, seed: int) -> None:
    inputs = draw(seed)
    start = threat.random_start(inputs, torch.Generator().manual_seed(seed))
    shrunk = inputs + (start - inputs) * 0.5
    assert torch.equal(threat.project(shrunk, inputs), shrunk)
    assert torch.equal(threat.project(inputs, inputs), inputs)


@given(seed=some.integers(0, 2**31))
def test_linf_projection_is_the_nearest_point(seed: int) -> None:
    threat = ThreatModel("Linf", Fraction(1, 10))
    inputs = draw(seed)
    candidates = draw(seed + 1, -1, 2)
    nearest = torch.maximum(torch.minimum(candidates, (inputs + 0.1).clamp(max=1)), inputs - 0.1)
    assert torch.equal(threat.project(candidates, inputs), nearest.clamp(min=0))


def test_l2_projection_scales_onto_the_sphere() -> None:
    inputs = torch.full((1, 1, 1, 2), 0.5)
    candidate = torch.tensor([0.5 + 3.0, 0.5 + 4.0]).view(1, 1, 1, 2)
    projected = ThreatModel.parse("L2 1/4").project(candidate, inputs)
    assert projected.flatten().tolist() == pytest.approx([0.65, 0.7])


@given(threat=some.sampled_from(THREATS), seed=some.integers(0, 2**31))
def test_random_start_is_inside_and_repeatable(threat: ThreatModel, seed: int) -> None:
    inputs = draw(seed)
    first = threat.random_start(inputs, torch.Generator().manual_seed(seed))
    again = threat.random_start(inputs, torch.Generator().manual_seed(seed))
    assert threat.contains(first, inputs).all() and torch.equal(first, again)
    if threat.epsilon > 0:
        assert not torch.equal(first, inputs)


def test_random_start_fills_the_ball() -> None:
    """Linf coordinates are uniform; the L2 radius has distribution (r / epsilon)^d."""
    inputs = torch.full((4000, 1, 2, 2), 0.5)
    generator = torch.Generator().manual_seed(0)
    linf = ThreatModel.parse("Linf 1/10")
    moved = (linf.random_start(inputs, generator) - inputs) * 10
    # 16,000 draws of variance 1/3: standard error 0.0046 of the mean.
    assert abs(moved.mean()) < 0.03 and abs(moved.var() - 1 / 3) < 0.02
    euclid = ThreatModel.parse("L2 1/10")
    radii = euclid.distances(euclid.random_start(inputs, generator), inputs) * 10
    # E r = d / (d + 1) = 0.8, standard deviation 0.163, standard error 0.0026.
    assert abs(radii.mean() - 0.8) < 0.015
    assert abs((radii < 0.5).double().mean() - 0.5**4) < 0.02


@pytest.mark.parametrize("norm", NORMS)
def test_draws_depend_neither_on_layout_nor_on_the_global_generator(norm: str) -> None:
    threat = ThreatModel(norm, Fraction(1, 4))  # type: ignore[arg-type]
    inputs = draw(0)
    state = torch.get_rng_state()
    plain = threat.random_start(inputs, torch.Generator().manual_seed(1))
    other = inputs.to(memory_format=torch.channels_last)
    last = threat.random_start(other, torch.Generator().manual_seed(1))
    # The norm is summed in memory order, so L2 may differ in the last bit.
    assert torch.allclose(plain, last, rtol=0, atol=0 if norm == "Linf" else 1e-6)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("norm", NORMS)
def test_contains_at_the_edge(norm: str) -> None:
    threat = ThreatModel(norm, Fraction(1, 4))  # type: ignore[arg-type]
    inputs = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    for over, answer in ((0.0, True), (0.9 * TOLERANCE, True), (1.1 * TOLERANCE, False)):
        for sign in (1, -1):
            moved = inputs + sign * (0.25 + over)
            assert threat.contains(moved, inputs).tolist() == [answer]


def test_contains_tells_an_epsilon_from_a_rounded_one() -> None:
    """8/255 = 0.031372...; an attack that was run at 0.0314 is no attack at 8/255."""
    inputs = torch.full((1, 1, 1, 1), 0.5)
    threat = ThreatModel.parse("Linf 8/255")
    assert threat.contains(inputs + 8 / 255, inputs).all()
    assert not threat.contains(inputs + 0.0314, inputs).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e-7, 1 + 2e-7])
@pytest.mark.parametrize("norm", NORMS)
def test_contains_refuses_nan_and_values_outside_the_box(norm: str, bad: float) -> None:
    threat = ThreatModel(norm, Fraction(10))  # type: ignore[arg-type]
    inputs = draw(0)
    moved = inputs.clone()
    moved[1, 0, 0, 0] = bad
    assert threat.contains(moved, inputs).tolist() == [True, False, True, True]


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_no_examples(threat: ThreatModel) -> None:
    none = torch.empty(0, 1, 2, 2)
    assert threat.distances(none, none).shape == threat.contains(none, none).shape == (0,)
    assert threat.project(none, none).shape == none.shape
    assert threat.random_start(none, torch.Generator()).shape == none.shape


def test_examples_are_projected_one_by_one() -> None:
    inputs, threat = draw(0), ThreatModel.parse("L2 1/4")
    candidates = draw(1, -2, 2)
    together = threat.project(candidates, inputs)
    alone = [threat.project(candidates[i : i + 1], inputs[i : i + 1]) for i in range(4)]
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-7)
