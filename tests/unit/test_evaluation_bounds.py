"""The bounds evaluation: columns, best method, substitution, and what it leaves alone."""

import copy
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny import digits, trained
from torch import Tensor, nn

from benchmark.architectures import Classifier, Normalise, build, initialise
from benchmark.bounds import margin_bounds, rounding_allowance
from benchmark.errors import ContractError
from benchmark.evaluations.base import Examples
from benchmark.evaluations.bounds import Bounds
from benchmark.evaluations.engine import run_evaluation
from benchmark.threat import ThreatModel

SMALL, LARGE = Fraction(1, 100), Fraction(1, 20)
THREAT = ThreatModel("Linf", LARGE)


def settings(**changes: object) -> Bounds:
    values = {"epsilons": (SMALL, LARGE), "crown_max_units": 10_000, **changes}
    return Bounds(**values)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> Classifier:
    model = build("cnn-tiny", shape=(1, 8, 8), classes=10, mean=[0.3], std=[0.4])
    initialise(model, generator(1))
    return model.eval()


def shard(model: nn.Module, wrong: tuple[int, ...] = ()) -> Examples:
    inputs = torch.rand((6, 1, 8, 8), generator=generator(2))
    labels = model(inputs).argmax(dim=1)
    for position in wrong:
        labels[position] = (labels[position] + 1) % 10
    return Examples(inputs, labels, torch.arange(6), 10)


def run(model: nn.Module, examples: Examples, chosen: Bounds) -> dict[str, np.ndarray]:
    return chosen.run(model, examples, THREAT, generator()).columns


def standing(
    model: nn.Module, examples: Examples, epsilon: Fraction, count: int = 1, size: float = 1
) -> np.ndarray:
    """Returns who survives steps, shares of epsilon, along the sign of the gradient."""
    moved, epsilon = examples.inputs, float(epsilon)
    for _ in range(count):
        leaf = moved.clone().requires_grad_()
        nn.functional.cross_entropy(model(leaf), examples.labels, reduction="sum").backward()
        moved = moved + size * epsilon * leaf.grad.sign()
        moved = torch.min(torch.max(moved, examples.inputs - epsilon), examples.inputs + epsilon)
        moved = moved.clamp(0, 1)
    return (model(moved).argmax(dim=1) == examples.labels).numpy()


def test_beyond_the_protocol_s_epsilon_a_climb_says_where_bounds_are_in_vain() -> None:
    model, known = trained(), digits(60)
    examples = replace(known, labels=model(known.inputs).argmax(dim=1))
    inside, beyond = Fraction(1, 50), Fraction(1, 10)
    chosen = settings(epsilons=(inside, beyond), methods=("ibp",), margin=10.0)
    threat = ThreatModel("Linf", inside)
    columns = chosen.run(model, examples, threat, generator()).columns
    step, climb = standing(model, examples, beyond), standing(model, examples, beyond, 10, 0.25)
    assert (step & ~climb).any()
    bounded = ~np.isneginf(columns["margin@1/10"])
    np.testing.assert_array_equal(bounded, climb & standing(model, examples, inside))
    bounded = ~np.isneginf(columns["margin@1/50"])
    np.testing.assert_array_equal(bounded, standing(model, examples, inside))


def test_columns_hold_the_best_bound_and_its_method() -> None:
    model = network()
    examples = shard(model)
    # With so large a margin nothing is proven, so that each method is asked wherever it could be.
    columns = run(model, examples, settings(margin=10.0))
    assert list(columns) == ["margin@1/100", "method@1/100", "margin@1/20", "method@1/20"]
    for epsilon in (SMALL, LARGE):
        each = torch.stack(
            [
                margin_bounds(
                    model, examples.inputs, examples.labels, ThreatModel("Linf", epsilon), method
                )
                for method in ("ibp", "crown")
            ]
        )
        each = (each - rounding_allowance(model, examples.inputs)).numpy()
        margin, method = columns[f"margin@{epsilon}"], columns[f"method@{epsilon}"]
        assert margin.dtype == np.float32 and method.dtype == np.int8
        stands = standing(model, examples, epsilon)
        assert stands.any()
        np.testing.assert_array_equal(margin, np.where(stands, each.max(axis=0), -np.inf))
        np.testing.assert_array_equal(method, np.where(stands, each.argmax(axis=0), -1))
    assert not standing(model, examples, LARGE).all()


def test_nobody_is_bounded_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Fraction, int]] = []

    class Fixed:
        """Bounds by table: the example's pixel is its margin at 1/20, and more in smaller balls."""

        def __init__(self, network: nn.Module, method: str, chunk: int) -> None:
            self.method = method

        def __call__(self, inputs: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
            asked.append((self.method, threat.epsilon, len(inputs)))
            found = inputs[:, 0, 0, 0] - 0.5 + (0.2 if self.method == "crown" else 0)
            return found + float(LARGE - threat.epsilon) * 10

    monkeypatch.setattr("benchmark.evaluations.bounds.MarginBounds", Fixed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False)).eval()
    model[1].weight.data = torch.eye(4)[:, :] * 10
    inputs = torch.zeros(4, 1, 2, 2)
    # The label is the first pixel's, and the last example falls with one step of 1/20.
    inputs[:, 0, 0, 0] = torch.tensor([0.9, 0.4, 0.2, 0.05])
    examples = Examples(inputs, torch.zeros(4, dtype=torch.long), torch.arange(4), 4)
    columns = run(model, examples, settings())
    assert asked == [
        ("ibp", LARGE, 3),
        ("crown", LARGE, 2),  # the first is proven by intervals
        ("ibp", SMALL, 2),  # the first two are proven in the larger ball
        ("crown", SMALL, 1),  # the third is proven by intervals now
    ]
    assert columns["method@1/20"].tolist() == [0, 1, 1, -1]
    assert columns["margin@1/20"][0] == columns["margin@1/100"][0]
    assert columns["margin@1/20"][3] == -np.inf < columns["margin@1/100"][3]


@pytest.mark.parametrize(("last", "winner"), [([-1.0, 1.0], 1), ([1.0, 0.0], 0)])
def test_either_method_can_win(last: list[float], winner: int) -> None:
    # h1 = x1 - x2 + 1/10, h2 = x1 + x2 - 1/2. Margin 2 - relu(h1) + relu(h2): CROWN keeps the ReLUs
    # together. Margin 2 + relu(h1): its lower line falls below 0 where intervals know better.
    body = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    body[1].weight.data = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    body[1].bias.data = torch.tensor([0.1, -0.5])
    body[3].weight.data = torch.tensor([last, [0.0, 0.0]])
    body[3].bias.data = torch.tensor([2.0, 0.0])
    inputs = torch.full((1, 1, 1, 2), 0.5)
    examples = Examples(inputs, torch.tensor([0]), torch.tensor([0]), 2)
    # With so large a margin neither is enough, and both are asked.
    columns = run(body.eval(), examples, settings(epsilons=(Fraction(1, 4),), margin=10.0))
    assert columns["method@1/4"].tolist() == [winner]


def test_misclassified_examples_have_no_bound() -> None:
    model = network()
    columns = run(model, shard(model, wrong=(1, 4)), settings())
    missing = np.isneginf(columns["margin@1/100"])
    assert missing.tolist() == [False, True, False, False, True, False]
    assert ((columns["method@1/100"] == -1) == missing).all()
    everything = run(model, shard(model, wrong=tuple(range(6))), settings())
    assert np.isneginf(everything["margin@1/20"]).all()


def test_bounds_without_a_finite_value_name_no_method() -> None:
    # Correctly classified although the middle weight overflows float32 in every bound.
    body = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    body[1].weight.data, body[1].bias.data = torch.full((2, 1), 3e38), torch.zeros(2)
    body[3].weight.data, body[3].bias.data = torch.tensor([[9.0, 0], [0, 0]]), torch.ones(2)
    inputs = torch.full((1, 1, 1, 1), 0.9)
    examples = Examples(inputs, torch.tensor([0]), torch.tensor([0]), 2)
    columns = run(body.eval(), examples, settings(epsilons=(LARGE,)))
    assert np.isneginf(columns["margin@1/20"]).all() and columns["method@1/20"].tolist() == [-1]


def test_large_networks_get_crown_ibp_and_say_so() -> None:
    model = network()
    examples = shard(model)
    full = settings(methods=("ibp", "crown"))
    # cnn-tiny: 16 x 8 x 8 + 32 x 4 x 4 ReLU outputs behind convolutions, then a hidden layer.
    limited = settings(methods=("ibp", "crown"), crown_max_units=1000)
    result = limited.run(model, examples, THREAT, generator())
    (flag,) = result.flags
    assert (flag.name, flag.rate) == ("crown-ibp-for-crown", 1.0)
    assert "full CROWN up to 1000" in flag.detail
    explicit = run(model, examples, settings(methods=("ibp", "crown-ibp")))
    for name, column in explicit.items():
        np.testing.assert_array_equal(result.columns[name], column)
    assert full.run(model, examples, THREAT, generator()).flags == ()
    tighter, bounded = run(model, examples, full)["margin@1/20"], explicit["margin@1/20"] > -np.inf
    assert bounded.any() and (tighter[bounded] > explicit["margin@1/20"][bounded]).all()


def test_the_limit_itself_still_gets_full_crown() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 10)).eval()
    examples = shard(body)
    for limit, flags in ((7, 0), (6, 1)):
        chosen = settings(epsilons=(SMALL,), crown_max_units=limit)
        assert len(chosen.run(body, examples, THREAT, generator()).flags) == flags


def test_an_example_alone_gets_the_same_outcome() -> None:
    model = network()
    examples = shard(model)
    together = run(model, examples, settings(chunk=4))
    for position in (0, 5):
        part = slice(position, position + 1)
        alone = Examples(
            examples.inputs[part], examples.labels[part], examples.indices[part], examples.classes
        )
        found = run(model, alone, settings())["margin@1/20"]
        assert found[0] == pytest.approx(together["margin@1/20"][position], abs=1e-5)


def test_the_engine_runs_it_and_gets_the_same_columns() -> None:
    # The engine wraps the network in its own checks, which cannot be traced.
    model = network()
    examples = shard(model, wrong=(2,))
    chosen = settings()
    measured = run_evaluation(
        model, examples, name="bounds", settings=chosen, threat=THREAT, seed=(0, "bounds", 0)
    )
    for name, column in run(model, examples, chosen).items():
        np.testing.assert_array_equal(measured.result.columns[name], column)
    assert measured.result.adversarial == {}


def test_it_draws_nothing() -> None:
    model, source = network(), generator()
    before, everywhere = source.get_state(), torch.get_rng_state()
    settings(epsilons=(SMALL,)).run(model, shard(model), THREAT, source)
    assert torch.equal(source.get_state(), before)
    assert torch.equal(torch.get_rng_state(), everywhere)


def test_other_norms_are_refused() -> None:
    model = network()
    with pytest.raises(ContractError, match="Linf"):
        settings().run(model, shard(model), ThreatModel.parse("L2 1/2"), generator())


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs)


def test_any_module_without_a_leading_normalisation_can_be_bounded() -> None:
    model = network()
    plain = Classifier(
        Normalise([0.0], [1.0]), model.body, architecture="test", shape=(1, 8, 8), classes=10
    ).eval()
    examples = shard(plain)
    expected = run(plain, examples, settings())
    for name, column in run(Wrapped(model.body).eval(), examples, settings()).items():
        np.testing.assert_allclose(column, expected[name], atol=1e-5)


# --- networks that cannot be bounded --------------------------------------------------------------


def ends_in(*last: nn.Module) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), *last)
    with torch.no_grad():
        model[1].weight.copy_(torch.randn((10, 64), generator=generator(3)))
        model[1].bias.zero_()
    return model.eval()


class Branching(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.sum() > 0 else 2 * inputs


class Noisy(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + 0.01 * torch.randn_like(inputs)


@pytest.mark.parametrize("last", [nn.GELU(), Branching(), Noisy(), nn.LayerNorm(10)])
def test_a_network_without_bounds_is_not_certified_and_says_why(
    last: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    model = ends_in(last)
    examples = shard(model, wrong=(3,))
    measured = run_evaluation(
        model, examples, name="bounds", settings=settings(), threat=THREAT, seed=(0, "bounds", 0)
    )
    for epsilon in (SMALL, LARGE):
        assert np.isneginf(measured.result.columns[f"margin@{epsilon}"]).all()
        assert (measured.result.columns[f"method@{epsilon}"] == -1).all()
    (flag,) = measured.result.flags
    assert (flag.name, flag.rate) == ("bounds-unsupported", pytest.approx(5 / 6))
    assert flag.detail.startswith("no bound by ibp: ") and "; crown: " in flag.detail
    assert flag.detail.isprintable() and len(flag.detail) < 250
    assert capfd.readouterr() == ("", "")


def test_an_end_in_softmax_is_measured() -> None:
    model = ends_in(nn.Softmax(dim=1))
    examples = shard(model)
    result = settings().run(model, examples, THREAT, generator())
    assert [flag.name for flag in result.flags] == ["bounds-unsupported"]
    assert "crown" in result.flags[0].detail
    clean = model(examples.inputs).detach().topk(2).values
    assert (result.columns["margin@1/100"] <= (clean[:, 0] - clean[:, 1]).numpy()).all()


def test_the_methods_that_work_count_where_another_fails() -> None:
    # Overlapping poolings: intervals only.
    model = nn.Sequential(nn.MaxPool2d(3, stride=2), nn.Flatten(), nn.Linear(9, 10)).eval()
    model[2].weight.data = torch.randn(10, 9, generator=generator(3))
    model[2].bias.data = torch.linspace(0, 1, 10)
    examples = shard(model)
    result = settings(methods=("crown", "ibp")).run(model, examples, THREAT, generator())
    alone = run(model, examples, settings(methods=("ibp",)))
    for epsilon in (SMALL, LARGE):
        np.testing.assert_array_equal(
            result.columns[f"margin@{epsilon}"], alone[f"margin@{epsilon}"]
        )
        bounded = standing(model, examples, epsilon)
        assert bounded.sum() >= 5
        assert (result.columns[f"method@{epsilon}"] == np.where(bounded, 1, -1)).all()
    (flag,) = result.flags
    assert (flag.rate, flag.detail) == (1.0, "no bound by crown: overlapping max-poolings; use ibp")


class Fussy(nn.Module):
    """Answers for whole shards only."""

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) < 6:
            raise ValueError("too few")
        return inputs.flatten(1)[:, :10]


def test_a_network_that_fails_on_other_inputs_is_not_certified() -> None:
    model = Fussy()
    result = settings().run(model, shard(model), THREAT, generator())
    assert np.isneginf(result.columns["margin@1/100"]).all()
    assert (result.columns["method@1/100"] == -1).all()
    (flag,) = result.flags
    assert flag.detail == "no bound by ibp: ValueError: too few; crown: ValueError: too few"


def test_nothing_to_bound_raises_no_flag() -> None:
    model = ends_in(nn.GELU())
    result = settings().run(model, shard(model, wrong=tuple(range(6))), THREAT, generator())
    assert result.flags == () and np.isneginf(result.columns["margin@1/20"]).all()


def test_what_breaks_the_contract_still_stops_the_run() -> None:
    model = ends_in(nn.GELU())
    with pytest.raises(ContractError, match="Linf"):
        settings().run(model, shard(model), ThreatModel.parse("L2 1/2"), generator())
    examples = shard(model)
    with torch.no_grad():
        model[1].bias[0] = torch.nan
    with pytest.raises(ContractError, match="finite logits"):
        run_evaluation(
            model, examples, name="bounds", settings=settings(), threat=THREAT, seed=(0,)
        )


# --- rounding -------------------------------------------------------------------------------------


def on_the_edge(seed: int, epsilon: Fraction) -> tuple[nn.Module, Tensor]:
    """Returns a network and one input whose interval bound is zero up to a step of the bias."""
    source = generator(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2)).eval()
    inputs = torch.rand((1, 1, 8, 8), generator=source)
    with torch.no_grad():
        for layer in (model[1], model[3]):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=source) / 4)
            layer.bias.copy_(torch.randn(layer.bias.shape, generator=source) / 4)
        for _ in range(2):
            model[3].bias[0] -= exact_bound(model, inputs, epsilon)
    return model, inputs


def exact_bound(model: nn.Module, inputs: Tensor, epsilon: Fraction) -> float:
    doubled = copy.deepcopy(model).double()
    ball, labels = ThreatModel("Linf", epsilon), torch.zeros(1, dtype=torch.int64)
    return margin_bounds(doubled, inputs.double(), labels, ball, "ibp-plain").item()


def times(model: nn.Module, factor: float) -> nn.Module:
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[3].weight.mul_(factor)
        scaled[3].bias.mul_(factor)
    return scaled


def test_rounding_certifies_nothing_at_any_scale() -> None:
    # So small that the rounding of the box shows too.
    epsilon = Fraction(1, 10_000)
    chosen = settings(methods=("ibp",), epsilons=(epsilon,))
    would_have = 0
    for seed in range(20):
        model, inputs = on_the_edge(seed, epsilon)
        examples = Examples(inputs, torch.tensor([0]), torch.tensor([0]), 2)
        for factor in (1e6, 1.0, 1e-6):
            scaled = times(model, factor)
            assert scaled(inputs).argmax() == 0
            if exact_bound(scaled, inputs, epsilon) > 0:
                continue
            margin = run(scaled, examples, chosen)["margin@1/10000"].item()
            assert margin <= chosen.margin, (seed, factor)
            ball = ThreatModel("Linf", epsilon)
            bare = margin_bounds(scaled, inputs, examples.labels, ball, "ibp").item()
            would_have += bare > chosen.margin
    # Without the allowance, rounding alone would have certified these.
    assert would_have >= 3


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_scale_proves_nothing_new_and_hides_little(factor: float) -> None:
    model = network()
    examples = shard(model)
    scaled = copy.deepcopy(model)
    last = [layer for layer in scaled.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(factor)
        last.bias.mul_(factor)
    chosen = settings()
    before, after = run(model, examples, chosen), run(scaled, examples, chosen)
    for epsilon in (SMALL, LARGE):
        proven = before[f"margin@{epsilon}"] > chosen.margin
        again = after[f"margin@{epsilon}"] > chosen.margin
        assert not (again & ~proven).any()
        if factor > 1:
            assert (again == proven).all() and (epsilon == LARGE or proven.any())
