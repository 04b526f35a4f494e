"""The pruning core against integer counts: ties, zeros, all structures and scopes."""

from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor, nn

from benchmark.architectures import build, dead_parameters, initialise
from benchmark.errors import ContractError
from benchmark.pruning import (
    SCOPES,
    STRUCTURES,
    Mask,
    Scope,
    Structure,
    as_sparsity,
    check_mask,
    eligible,
    mask_from_scores,
    measure,
    prunable_parameters,
    removed_units,
    unit_scores,
)

# Few distinct values, so that ties at the threshold are the rule; both zeros, both infinities.
LEVELS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, -float("inf"), float("inf")]
SHAPES = [(1, 1, 1, 1), (1, 3, 2, 2), (4, 1, 3, 3), (5, 4, 1, 1), (7, 3), (1, 9), (6, 1), (1, 1)]
sparsities = some.fractions(0, 1, max_denominator=1000) | some.sampled_from(
    [Fraction(0), Fraction(1, 2), Fraction(99, 100), Fraction(1)]
)


@some.composite
def score_sets(draw: some.DrawFn, levels: tuple[float, ...] = tuple(LEVELS)) -> dict[str, Tensor]:
    shapes = draw(some.lists(some.sampled_from(SHAPES), min_size=1, max_size=4))
    scores = {}
    for number, shape in enumerate(shapes):
        count = torch.Size(shape).numel()
        values = draw(some.lists(some.sampled_from(levels), min_size=count, max_size=count))
        scores[f"layer{number}.weight"] = torch.tensor(values).view(shape)
    return scores


def oracle(values: list[float], count: int) -> list[bool]:
    """Plain Python: sort (value, position), remove the first `count`."""
    order = sorted(range(len(values)), key=lambda position: (values[position], position))
    removed = set(order[:count])
    return [position not in removed for position in range(len(values))]


def removed_slices(mask: Tensor, structure: Structure) -> list[bool]:
    if structure == "unstructured":
        return (~mask).flatten().tolist()
    slices = mask.unbind(0 if structure == "filter" else 1)
    assert all(bool(part.all()) or not bool(part.any()) for part in slices)
    return [not bool(part.any()) for part in slices]


class Net(nn.Module):
    """Prunable parameters of the shapes given, named as in `score_sets`."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        for number, shape in enumerate(shapes):
            if len(shape) == 2:
                layer: nn.Module = nn.Linear(shape[1], shape[0])
            else:
                layer = nn.Conv2d(shape[1], shape[0], shape[2:])
            self.add_module(f"layer{number}", layer)


@given(scores=score_sets(), sparsity=sparsities)
def test_unstructured_layerwise_equals_plain_sorting(
    scores: dict[str, Tensor], sparsity: Fraction
) -> None:
    mask = mask_from_scores(scores, sparsity, "layerwise")
    for name, tensor in scores.items():
        count = round(sparsity * tensor.numel())
        assert mask[name].flatten().tolist() == oracle(tensor.flatten().tolist(), count)


@given(scores=score_sets(), sparsity=sparsities)
def test_unstructured_global_equals_plain_sorting(
    scores: dict[str, Tensor], sparsity: Fraction
) -> None:
    mask = mask_from_scores(scores, sparsity, "global")
    joined = [value for tensor in scores.values() for value in tensor.flatten().tolist()]
    found = [kept for tensor in mask.values() for kept in tensor.flatten().tolist()]
    assert found == oracle(joined, round(sparsity * len(joined)))
    assert mask.zeros == round(sparsity * len(joined))


@pytest.mark.parametrize("structure", ["filter", "channel"])
@pytest.mark.parametrize("scope", SCOPES)
@given(scores=score_sets(levels=(0.0, 1.0, 2.0, -1.0)), sparsity=sparsities)
def test_whole_slices_are_removed_by_their_means(
    scope: Scope, structure: Structure, scores: dict[str, Tensor], sparsity: Fraction
) -> None:
    mask = mask_from_scores(scores, sparsity, scope, structure)
    names = list(scores)
    names = names[:-1] if structure == "filter" else names[1:]
    means: dict[str, list[float]] = {}
    for name in names:
        slices = scores[name].unbind(0 if structure == "filter" else 1)
        exact = [Fraction(int(part.sum()), part.numel()) for part in slices]
        means[name] = [torch.tensor(float(mean)).item() for mean in exact]
    found = {name: removed_slices(mask[name], structure) for name in scores}
    for name in scores.keys() - set(names):
        assert mask[name].all()
    if scope == "layerwise":
        for name in names:
            kept = oracle(means[name], round(sparsity * len(means[name])))
            assert found[name] == [not k for k in kept]
    else:
        joined = [value for name in names for value in means[name]]
        kept = oracle(joined, round(sparsity * len(joined)))
        assert [gone for name in names for gone in found[name]] == [not k for k in kept]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("scope", SCOPES)
@given(scores=score_sets(levels=(0.0, 1.0, 3.0)), sparsity=sparsities)
def test_selected_masks_pass_the_check_and_neighbours_do_not(
    scope: Scope, structure: Structure, scores: dict[str, Tensor], sparsity: Fraction
) -> None:
    model = Net([tuple(tensor.shape) for tensor in scores.values()])
    mask = mask_from_scores(scores, sparsity, scope, structure)
    check_mask(mask, model, sparsity, scope, structure)
    tensors = {name: tensor.clone() for name, tensor in mask.items()}
    names = eligible(list(tensors), structure)
    if not names:
        return
    # One unit more or less, in the first eligible layer.
    chosen = tensors[names[0]]
    if structure == "unstructured":
        chosen.view(-1)[0] ^= True
    elif structure == "filter":
        chosen[0] ^= True
    else:
        chosen[:, 0] ^= True
    with pytest.raises(ContractError, match="units removed in"):
        check_mask(tensors, model, sparsity, scope, structure)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_and_everything(scope: Scope, structure: Structure) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {
        "a": torch.randn(4, 3, 3, 3, generator=generator),
        "b": torch.randn(5, 4, 1, 1, generator=generator),
        "c": torch.randn(2, 5, generator=generator),
    }
    assert all(m.all() for m in mask_from_scores(scores, 0, scope, structure).values())
    removed = mask_from_scores(scores, 1, scope, structure)
    expected = {"unstructured": 108 + 20 + 10, "filter": 108 + 20, "channel": 20 + 10}
    assert removed.zeros == expected[structure]


def test_dense_ties_are_broken_by_position_across_layers() -> None:
    scores = {"a": torch.ones(2, 2), "b": torch.ones(3, 2)}
    mask = mask_from_scores(scores, Fraction(1, 2), "global")
    assert mask["a"].tolist() == [[False, False], [False, False]]
    assert mask["b"].tolist() == [[False, True], [True, True], [True, True]]


def test_global_and_layerwise_differ_where_they_should() -> None:
    scores = {"a": torch.arange(10.0), "b": torch.arange(10.0) + 100}
    scores = {name: tensor.view(2, 5) for name, tensor in scores.items()}
    assert [int((~m).sum()) for m in mask_from_scores(scores, 0.5, "global").values()] == [10, 0]
    assert [int((~m).sum()) for m in mask_from_scores(scores, 0.5, "layerwise").values()] == [5, 5]


def test_counts_are_exact_where_floats_are_not() -> None:
    """int((1 - 0.9) * 10) is 0, and 0.29 * 100 is 28.999…: neither decides a count here."""
    ten, hundred = {"a": torch.arange(10.0).view(1, 10)}, {"a": torch.arange(100.0).view(1, 100)}
    assert mask_from_scores(ten, 0.9, "layerwise").zeros == 9
    assert mask_from_scores(hundred, 0.29, "global").zeros == 29
    assert mask_from_scores(hundred, Fraction(1, 3), "global").zeros == 33


@given(scores=score_sets(levels=(0.0, 1.0, 2.0, -4.0, 0.25)), sparsity=sparsities)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_layout_and_dtype_are_no_matter(
    structure: Structure, scores: dict[str, Tensor], sparsity: Fraction
) -> None:
    def same(other: Mapping[str, Tensor]) -> bool:
        found = mask_from_scores(other, sparsity, "global", structure)
        return all(torch.equal(found[name], plain[name]) for name in plain)

    plain = mask_from_scores(scores, sparsity, "global", structure)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert same({name: tensor.to(dtype) for name, tensor in scores.items()})
    turned = {n: t.transpose(0, 1).contiguous().transpose(0, 1) for n, t in scores.items()}
    assert same(turned)
    assert same({n: t.clone().requires_grad_() for n, t in scores.items()})
    padded = {n: torch.stack([t, t], dim=-1)[..., 1] for n, t in scores.items()}
    assert same(padded)


def test_structured_scores_do_not_depend_on_layout() -> None:
    """Sums in memory order would differ in the last bit and reorder equal filters."""
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(1, 257, 3, 3, generator=generator)
    scores = torch.cat([row, row.flip(1), row.flip(2), row.roll(5, 1)])
    last = scores.to(memory_format=torch.channels_last)
    assert torch.equal(unit_scores(scores, "filter"), unit_scores(last, "filter"))
    # Equal entries in another order are a tie, so position decides.
    mask = mask_from_scores({"a": scores, "b": torch.ones(1, 1)}, 0.5, "layerwise", "filter")
    assert mask["a"].flatten(1).any(dim=1).tolist() == [False, False, True, True]


def test_signed_zeros_tie() -> None:
    scores = {"a": torch.tensor([[0.0, -0.0, 0.0, -0.0]])}
    assert mask_from_scores(scores, 0.5, "global")["a"].tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_nan_scores_are_refused(scope: Scope, structure: Structure, position: int) -> None:
    scores = {name: torch.ones(2, 2) for name in "abc"}
    list(scores.values())[position][1, 1] = float("nan")
    with pytest.raises(ContractError, match="expected scores, got NaN in [abc]; check"):
        mask_from_scores(scores, 0.5, scope, structure)


def test_opposite_infinities_in_one_filter_are_refused() -> None:
    scores = {"a": torch.tensor([[float("inf"), -float("inf")]]), "b": torch.ones(1, 1)}
    with pytest.raises(ContractError, match="NaN in a"):
        mask_from_scores(scores, 0.5, "global", "filter")


@pytest.mark.parametrize(("scope", "structure"), [("Global", "filter"), ("global", "filters")])
def test_misspelt_words_are_refused(scope: str, structure: str) -> None:
    with pytest.raises(ContractError, match="expected a scope of layerwise, global"):
        mask_from_scores({"a": torch.ones(2, 2)}, 0.5, scope, structure)  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_single_layer_keeps_its_slices(scope: Scope) -> None:
    for structure in ("filter", "channel"):
        mask = mask_from_scores({"a": torch.randn(3, 3)}, 0.9, scope, structure)  # type: ignore[arg-type]
        assert mask.zeros == 0


@pytest.mark.parametrize(
    ("value", "exact"),
    [
        (0.9, Fraction(9, 10)),
        ("0.99", Fraction(99, 100)),
        ("1/3", Fraction(1, 3)),
        (Fraction(2, 3), Fraction(2, 3)),
        (0, Fraction(0)),
        (1.0, Fraction(1)),
        (1e-7, Fraction(1, 10**7)),
        (-0.0, Fraction(0)),
    ],
)
def test_sparsities_are_read_as_they_print(value: Fraction | float | str, exact: Fraction) -> None:
    assert as_sparsity(value) == exact


@pytest.mark.parametrize(
    "value",
    [
        *(90, -0.1, 1.0000001, float("nan"), float("inf"), Fraction(101, 100), "yes"),
        *("", "90 %", "1/0", "1e-999999999", "0.9\n\x1b[31m", "9" * 10**6, None),
    ],
)
def test_other_sparsities_are_refused_in_one_line(value: object) -> None:
    with pytest.raises(ContractError) as raised:
        as_sparsity(value)  # type: ignore[arg-type]
    message = str(raised.value)
    assert message.startswith("expected a sparsity in [0, 1], got ") and "90 % is 0.9" in message
    assert message.isprintable() and len(message) < 120


def residual() -> nn.Module:
    return build("wrn-28-4", shape=(3, 32, 32), classes=10, mean=(0.5,) * 3, std=(0.5,) * 3)


def tiny() -> nn.Module:
    model = build("cnn-tiny", shape=(1, 8, 8), classes=10, mean=(0.5,), std=(0.5,))
    initialise(model, torch.Generator().manual_seed(0))
    return model


def test_prunable_parameters_are_conv_and_linear_weights_in_order() -> None:
    assert list(prunable_parameters(tiny())) == ["body.0.weight", "body.2.weight", "body.5.weight"]
    assert list(prunable_parameters(nn.Linear(2, 3))) == ["weight"]
    mixed = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.PReLU(), nn.Linear(2, 1))
    assert list(prunable_parameters(mixed)) == ["0.weight", "3.weight"]


def test_dead_parameters_are_not_prunable() -> None:
    model = residual()
    names = prunable_parameters(model)
    dead = dead_parameters(model)
    assert dead and not dead & names.keys()
    assert dead & {name for name, _ in model.named_parameters() if name.endswith("weight")}


def test_masks_refuse_other_dtypes_and_keep_no_alias() -> None:
    with pytest.raises(ContractError, match="expected a bool mask for a, got torch.float32"):
        Mask({"a": torch.ones(2)})
    source = torch.tensor([True, False])
    mask = Mask({"a": source})
    source[0] = False
    assert mask["a"].tolist() == [True, False] and mask.zeros == 1 and len(mask) == 1
    with pytest.raises(TypeError):
        mask["a"] = source  # type: ignore[index]


def test_apply_zeroes_what_no_product_could() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[float("nan"), float("inf"), -1.0, 2.0]]))
    Mask({"weight": torch.tensor([[False, False, False, True]])}).apply(model)
    assert model.weight.tolist() == [[0.0, 0.0, 0.0, 2.0]]
    assert not model.weight.signbit().any()


def test_mask_of_ones_changes_nothing() -> None:
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Mask.ones(model).apply(model)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    check_mask(Mask.ones(model), model, Fraction(0), "global", "unstructured")


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.ones(1, 1, dtype=torch.bool)},  # would broadcast
        {"bias": torch.ones(3, dtype=torch.bool)},
        {"x\n" * 1000: torch.ones(3, 2, dtype=torch.bool)},
    ],
)
def test_apply_refuses_masks_of_other_networks(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(ContractError) as raised:
        Mask(tensors).apply(nn.Linear(2, 3))
    assert str(raised.value).isprintable() and len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: dict(reversed(m.items())), "in another order"),
        (lambda m: {k: v for k, v in m.items() if k != "body.2.weight"}, "'body.2.weight' in one"),
        (lambda m: m | {"x" * 10**6: m["body.0.weight"]}, "got 4 entries"),
        (lambda m: m | {"body.0.weight": m["body.0.weight"][:1]}, "shape"),
        (lambda m: m | {"body.0.weight": m["body.0.weight"].float()}, "torch.float32"),
    ],
)
def test_check_refuses_other_keys_shapes_and_dtypes(change: object, message: str) -> None:
    model = tiny()
    mask = dict(Mask.ones(model))
    with pytest.raises(ContractError, match="mask_from_scores") as raised:
        check_mask(change(mask), model, Fraction(0), "global", "unstructured")  # type: ignore[operator]
    assert message in str(raised.value) and len(str(raised.value)) < 300


def test_check_refuses_scattered_zeros_and_slices_of_protected_layers() -> None:
    model = tiny()
    mask = {name: tensor.clone() for name, tensor in Mask.ones(model).items()}
    mask["body.2.weight"][0, 0, 0, 0] = False
    with pytest.raises(ContractError, match="whole units removed in body.2.weight"):
        check_mask(mask, model, Fraction(0), "global", "filter")
    mask = {name: tensor.clone() for name, tensor in Mask.ones(model).items()}
    mask["body.5.weight"][0] = False
    with pytest.raises(ContractError, match="whole units removed in body.5.weight"):
        check_mask(mask, model, Fraction(0), "global", "filter")


def test_check_layerwise_refuses_what_global_allows() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    scores = {"0.weight": torch.zeros(4, 4), "1.weight": torch.ones(4, 4)}
    mask = mask_from_scores(scores, 0.5, "global")
    check_mask(mask, model, Fraction(1, 2), "global", "unstructured")
    with pytest.raises(ContractError, match="expected 8 of 16 units removed in 0.weight"):
        check_mask(mask, model, Fraction(1, 2), "layerwise", "unstructured")


class Small(nn.Module):
    """Conv 2→3 k3 s2 p1 on 8x8, batch norm, grouped conv 3→6 k1, linear used on 2 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 6, 1, groups=3, bias=False)
        self.last = nn.Linear(48, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.second(self.norm(self.first(inputs))).flatten(1)
        rows: Tensor = self.last(hidden.view(len(inputs), 2, 48))
        return rows.sum(dim=1)


def small() -> Small:
    model = Small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        model.first.weight[0] = 0.0  # one filter: 18 zeros
        model.first.weight[1, 0, 0, 0] = -0.0
        model.last.weight[:, :10] = 0.0  # 50 zeros
        model.norm.weight[2] = 0.0
        model.first.bias[:2] = 0.0
        model.norm.bias.zero_()
    return model


def test_measure_by_hand() -> None:
    found = measure(small(), (2, 8, 8))
    names = [(layer.name, layer.shape, layer.zeros, layer.total) for layer in found.layers]
    assert names == [
        ("first.weight", (3, 2, 3, 3), 19, 54),
        ("second.weight", (6, 1, 1, 1), 0, 6),
        ("last.weight", (5, 48), 50, 240),
    ]
    # 4x4 output positions; the grouped convolution reads one channel an output; two rows.
    dense = [layer.multiply_adds_dense for layer in found.layers]
    sparse = [layer.multiply_adds_sparse for layer in found.layers]
    assert dense == [16 * 54, 16 * 6, 2 * 240]
    assert sparse == [16 * 35, 16 * 6, 2 * 190]
    assert (found.multiply_adds_dense, found.multiply_adds_sparse) == (sum(dense), sum(sparse))
    # Three denominators: prunable; all weights (+ 3 of the norm); all parameters (+ 3 + 3 + 5).
    assert (found.zeros, found.total) == (69, 300)
    assert (found.weight_zeros, found.weight_total) == (70, 303)
    assert (found.parameter_zeros, found.parameter_total) == (70 + 2 + 3, 303 + 3 + 3 + 5)
    assert found.sparsity == Fraction(69, 300)
    assert (found.removed_units, found.total_units) == (69, 300)


def test_measure_counts_units_of_each_structure() -> None:
    by_filter, by_channel = (measure(small(), (2, 8, 8), s) for s in ("filter", "channel"))  # type: ignore[arg-type]
    assert (by_filter.removed_units, by_filter.total_units) == (1, 3 + 6)
    assert (by_channel.removed_units, by_channel.total_units) == (10, 1 + 48)
    assert by_filter.zeros == by_channel.zeros == 69


def test_measure_of_one_bare_layer() -> None:
    model = nn.Conv2d(1, 2, 3, bias=False)
    assert measure(model, (1, 5, 5)).multiply_adds_dense == 9 * 18


@pytest.mark.parametrize("training", [True, False])
def test_measure_leaves_the_network_as_it_was(training: bool) -> None:
    model = small().train(training)
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    measure(model, (2, 8, 8))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert model.training is training and model.first.training is training
    assert model.norm.training is False
    assert all(not module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_measure_in_training_mode_equals_eval_mode() -> None:
    """Batch norm over 1x1 maps cannot run on one example in training mode."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    assert measure(model.train(), (1, 3, 3)) == measure(model.eval(), (1, 3, 3))


def test_measure_removes_its_hooks_after_a_failure() -> None:
    model = small().train()
    with pytest.raises(RuntimeError):
        measure(model, (7, 8, 8))
    assert all(not module._forward_hooks for module in model.modules()) and model.training


def test_masks_and_measurements_agree() -> None:
    model = tiny()
    scores = {name: p.detach().abs() for name, p in prunable_parameters(model).items()}
    for structure in STRUCTURES:
        mask = mask_from_scores(scores, 0.75, "layerwise", structure)
        pruned = tiny()
        mask.apply(pruned)
        found = measure(pruned, (1, 8, 8), structure)
        assert found.zeros == mask.zeros
        names = eligible(list(mask), structure)
        assert found.removed_units == sum(removed_units(mask[n], structure) for n in names)
