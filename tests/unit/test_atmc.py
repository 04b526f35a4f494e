"""ATMC: factors against plain matrices, projections against the one selection, ADMM, resumption."""

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from tiny import CPU, LINF, random_split, rng, same_bits, state_of, untrained
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

import methods
from benchmark.architectures import Classifier
from benchmark.attacks import Steps
from benchmark.errors import ContractError
from benchmark.objectives import OBJECTIVES, Adversarial, Benign, Moment
from benchmark.pruning import mask_from_scores, prunable_parameters
from benchmark.training import Run, Stage
from benchmark.weights import encode
from methods import Pruned, Task, Training
from methods._admm import Quantising
from methods._codebooks import codebook, quantised
from methods._factors import compose, factorised, pieces, project
from methods._mixed import Mixed
from methods.atmc import Atmc, _Drawn, _fill_and_prune, _Projected

HALF = Fraction(1, 2)
START = Moment(0.0, 1)

ATTACK = Adversarial(LINF, Steps(1, Fraction(1)))


def training(seed: int, epochs: int, state: Path | None = None) -> Training:
    return Training(
        split=random_split(),
        objective=ATTACK,
        stage=Stage(epochs=epochs, learning_rate=0.05, batch_size=20),
        run=Run(CPU, seed=seed, state=state),
    )


def task_of(
    sparsity: Fraction = Fraction(9, 10),
    prune: int = 2,
    finetune: int = 1,
    folder: Path | None = None,
) -> Task:
    states = [folder and folder / f"{stage}.state" for stage in ("prune", "finetune")]
    return Task(
        sparsity=sparsity,
        structure="unstructured",
        generator=rng(),
        prune=training(0, prune, states[0]),
        finetune=training(1, finetune, states[1]),
    )


def compressed(chosen: Atmc, task: Task) -> Pruned:
    return methods.compress("atmc", chosen, untrained(7), task)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in prunable_parameters(model).items()}


def batch() -> tuple[Tensor, Tensor]:
    split = random_split()
    return split.inputs(torch.arange(20)), split.labels[:20]


def fill(tensors: list[nn.Parameter], seed: int = 3) -> None:
    """Gives every factor values of its own."""
    generator = rng(seed)
    for tensor in tensors:
        tensor.data.normal_(std=0.3, generator=generator)


# --- factors


def test_the_change_of_variables_starts_exactly_at_the_weights() -> None:
    model = untrained(7)
    before, (inputs, _) = state_of(model), batch()
    factored = factorised(model)
    for name, weight in prunable_parameters(model).items():
        layer = factored.get_submodule(name.rpartition(".")[0])
        full, square, rest = layer.parametrizations["weight"].parameters()
        rows, columns = weight.flatten(1).shape
        assert torch.equal(full, weight.flatten(1))
        assert square.shape == (min(rows, columns),) * 2 and not square.any()
        assert rest.shape == (rows, columns) and not rest.any()
        assert torch.equal(layer.weight, weight)
    assert torch.equal(factored.eval()(inputs), model(inputs))
    compose(factored, model)
    assert same_bits(state_of(model), before)


def test_the_weight_is_the_formula_of_the_paper() -> None:
    """On the smaller side stands the identity: cnn-tiny has layers of either kind."""
    model = untrained(7)
    factored = factorised(model)
    fill(pieces(factored))
    sides = set()
    for name, weight in prunable_parameters(model).items():
        layer = factored.get_submodule(name.rpartition(".")[0])
        full, square, rest = (
            piece.detach() for piece in layer.parametrizations["weight"].parameters()
        )
        rows, columns = full.shape
        eye = torch.eye(len(square))
        left = rows < columns
        matrix = (square + eye) @ full + rest if left else full @ (square + eye) + rest
        sides.add(left)
        assert torch.allclose(layer.weight.flatten(1), matrix, atol=1e-6)
        assert layer.weight.shape == weight.shape
    assert sides == {True, False}
    compose(factored, model)
    for name, weight in prunable_parameters(model).items():
        assert torch.equal(weight, factored.get_submodule(name.rpartition(".")[0]).weight)


def test_square_layers_have_their_identity_on_the_right() -> None:
    """As in the authors' code: the rank of a layer is looked for among its inputs first."""
    factored = factorised(nn.Sequential(nn.Linear(3, 3)))
    fill(pieces(factored))
    full, square, rest = (piece.detach() for piece in pieces(factored))
    matrix = full @ (square + torch.eye(3)) + rest
    assert torch.allclose(factored[0].weight, matrix, atol=1e-6)
    assert not torch.allclose(matrix, (square + torch.eye(3)) @ full + rest, atol=1e-3)


def test_half_precision_trains_the_weights_that_are_written_down() -> None:
    model = untrained()
    factored = factorised(model)
    generator = rng(1)
    with torch.no_grad():
        for piece in pieces(factored):
            piece.add_(torch.randn(piece.shape, generator=generator) / 8)
    with torch.autocast("cpu", torch.bfloat16):
        trained = [layer.weight.detach() for layer in _layers(factored)]
    compose(factored, model)
    written = prunable_parameters(model).values()
    assert all(torch.equal(*pair) for pair in zip(trained, written, strict=True))


def _layers(factored: nn.Module) -> list[Any]:
    return [layer for layer in factored.modules() if parametrize.is_parametrized(layer, "weight")]


def test_gradients_reach_every_factor_by_the_product_rule() -> None:
    model = untrained(7)
    factored, (inputs, labels) = factorised(model), batch()
    fill(pieces(factored))
    compose(factored, model)
    for network in (model, factored):
        functional.cross_entropy(network(inputs), labels).backward()
    for name, weight in prunable_parameters(model).items():
        layer = factored.get_submodule(name.rpartition(".")[0])
        full, square, rest = layer.parametrizations["weight"].parameters()
        slope = weight.grad.flatten(1)
        if len(square) == len(full):
            expected = (slope + square.T @ slope, slope @ full.T, slope)
        else:
            expected = (slope + slope @ square.T, full.T @ slope, slope)
        for piece, gradient in zip((full, square, rest), expected, strict=True):
            assert torch.allclose(piece.grad, gradient, atol=1e-5)


def test_everything_else_that_was_learnt_comes_back() -> None:
    model = untrained(7)
    factored = factorised(model)
    for name, parameter in factored.named_parameters():
        if name.endswith("bias"):
            parameter.data += 1
    biases = {name: p for name, p in state_of(factored).items() if name.endswith("bias")}
    compose(factored, model)
    assert biases and all(torch.equal(state_of(model)[name], p) for name, p in biases.items())


# --- projection


@given(
    sizes=some.lists(some.integers(1, 12), min_size=1, max_size=4),
    values=some.sampled_from([1, 2, 1000]),
    share=some.fractions(0, 1),
    seed=some.integers(0, 2**31),
)
def test_the_projection_is_the_one_selection_ties_included(
    sizes: list[int], values: int, share: Fraction, seed: int
) -> None:
    generator = rng(seed)
    tensors = [
        torch.randint(-values, values + 1, (n, 2), generator=generator).float() for n in sizes
    ]
    total = sum(tensor.numel() for tensor in tensors)
    scores = {str(place): tensor.abs() for place, tensor in enumerate(tensors)}
    mask = mask_from_scores(scores, share, "global")
    expected = [tensor * kept for tensor, kept in zip(tensors, mask.values(), strict=True)]
    project(tensors, total - round(share * total))
    assert all(torch.equal(one, two) for one, two in zip(tensors, expected, strict=True))


@pytest.mark.parametrize("kept", range(8))
def test_the_projection_is_the_nearest_point(kept: int) -> None:
    """By trying every choice of entries that may stay."""
    values = torch.tensor([3.0, -1.0, 0.5, -0.25, 2.0, -4.0, 1.5])
    tensors = [values[:3].clone(), values[3:].clone()]
    project(tensors, kept)
    found = torch.cat(tensors)
    assert int((found != 0).sum()) == kept
    lost = [
        values.square().sum() - values[list(choice)].square().sum()
        for choice in combinations(range(7), kept)
    ]
    assert torch.isclose((values - found).square().sum(), min(lost))


def test_all_layers_share_one_budget_at_every_step() -> None:
    model, (inputs, labels) = untrained(7), batch()
    for network in (model, factorised(model)):
        if network is not model:
            fill(pieces(network))
        loss = _Projected(Benign(), HALF, kept=321)
        loss.loss(network, inputs, labels, moment=START, generator=rng())
        counts = [int((piece != 0).sum()) for piece in pieces(network)]
        assert sum(counts) == 321 and len(counts) in (3, 9)
        # A budget of each layer's own would be proportional to its size.
        sizes = [piece.numel() for piece in pieces(network)]
        assert counts != [round(321 * size / sum(sizes)) for size in sizes]


def test_training_ends_on_a_projection_too() -> None:
    model = untrained(7)
    for network in (model, factorised(model)):
        chosen, stage = Atmc(), training(0, 1)
        chosen._project_while_training(network, stage, 1, Fraction(1), kept=321)
        assert sum(int((piece != 0).sum()) for piece in pieces(network)) == 321
        assert stage.left == 0


@pytest.mark.parametrize("clean", [Fraction(0), Fraction(1, 4), Fraction(1)])
def test_the_loss_mixes_clean_and_attacked_inputs(clean: Fraction) -> None:
    model, (inputs, labels) = untrained(7).train(), batch()
    attacked = ATTACK.loss(model, inputs, labels, moment=START, generator=rng(1))
    plain = functional.cross_entropy(model(inputs), labels)
    found = Mixed(ATTACK, clean).loss(model, inputs, labels, moment=START, generator=rng(1))
    assert torch.isclose(found, clean.numerator / clean.denominator * (plain - attacked) + attacked)
    assert not torch.isclose(plain, attacked)
    assert Mixed(ATTACK, clean).attack_steps == 1


# --- what is removed from the composed weights


def filled(now: list[float], before: list[float], removed: int) -> tuple[list[float], list[bool]]:
    model = nn.Sequential(nn.Linear(len(now), 1, bias=False))
    model[0].weight.data.copy_(torch.tensor([now]))
    mask = _fill_and_prune(model, {"0.weight": torch.tensor([before])}, Fraction(removed, len(now)))
    return model[0].weight[0].tolist(), mask["0.weight"][0].tolist()


def test_the_smallest_composed_weights_go() -> None:
    now, before = [3.0, -1.0, 2.0, -4.0, 0.0], [9.0, 9.0, 9.0, 9.0, 9.0]
    assert filled(now, before, 2)[0] == [3.0, 0.0, 2.0, -4.0, 0.0]
    assert filled(now, before, 3)[1] == [True, False, False, True, False]


def test_too_sparse_weights_are_filled_up_with_the_largest_former_ones() -> None:
    # A former weight never takes the place of a present one, however small that is.
    now, before = [0.0, 1e-6, 0.0, 0.0, 2.0], [-5.0, 9.0, 7.0, 0.0, 9.0]
    assert filled(now, before, 3)[0] == pytest.approx([0.0, 1e-6, 0.0, 0.0, 2.0])
    assert filled(now, before, 2)[0] == pytest.approx([0.0, 1e-6, 7.0, 0.0, 2.0])
    assert filled(now, before, 1)[0] == pytest.approx([-5.0, 1e-6, 7.0, 0.0, 2.0])


# --- codebooks


def distortion(values: Tensor, centres: Tensor) -> float:
    nearest = (values[:, None] - centres[None]).abs().min(dim=1).values
    return float(nearest.square().sum())


def best(values: Tensor, size: int) -> float:
    """Returns the least distortion: the best cut of the sorted values into neighbours."""
    order = values.double().sort().values
    cuts = combinations(range(1, len(order)), size - 1)
    return min(
        sum(
            float((part - part.mean()).square().sum())
            for part in torch.tensor_split(order, torch.tensor(cut, dtype=torch.int64))
        )
        for cut in cuts
    )


@given(
    groups=some.lists(some.integers(-50, 50), min_size=2, max_size=3, unique=True),
    each=some.integers(1, 3),
    seed=some.integers(0, 2**31),
)
def test_k_means_finds_the_optimum_of_separate_groups(
    groups: list[int], each: int, seed: int
) -> None:
    noise = torch.rand(len(groups) * each, generator=rng(seed))
    values = torch.tensor(groups).repeat(each) + 0.1 * noise
    centres = codebook(values, len(groups))
    assert len(centres) == len(groups)
    assert distortion(values.double(), centres) == pytest.approx(
        best(values, len(groups)), abs=1e-9
    )


@given(some.lists(some.floats(-1, 1, width=32), min_size=4, max_size=9), some.integers(2, 3))
def test_k_means_is_a_fixed_point_between_its_start_and_the_optimum(
    numbers: list[float], size: int
) -> None:
    values = torch.tensor(numbers).double()
    centres = codebook(values, size)
    found = distortion(values, centres)
    assert centres.tolist() == sorted(centres.tolist()) and len(centres) <= size
    if len(values.unique()) <= size:
        assert found == 0
        return
    order = values.sort().values
    start = order[torch.tensor([len(order) * (2 * i + 1) // (2 * size) for i in range(size)])]
    assert best(values, size) - 1e-12 <= found <= distortion(values, start) + 1e-12


def test_few_values_are_their_own_codebook() -> None:
    values = torch.tensor([3.0, -1.0, 3.0, 2.0, -1.0])
    assert codebook(values, 3).tolist() == [-1.0, 2.0, 3.0]
    assert codebook(torch.zeros(0), 4).tolist() == []
    assert torch.equal(quantised(values, 3), values)
    assert codebook(values, 1).tolist() == pytest.approx([1.2])


def test_zero_is_fixed_and_no_other_weight_becomes_zero() -> None:
    # The mean of all is 0, and so is that of the middle third.
    values = torch.tensor([-9.0, -9.0, -1.0, 0.0, -0.0, 1.0, 9.0, 9.0])
    for size in (1, 2, 3):
        found = quantised(values, size)
        assert torch.equal(found == 0, values == 0)
        assert not found.signbit()[3:5].any()
        assert len(found[found != 0].unique()) <= size
    assert quantised(torch.zeros(3, 2), 4).tolist() == [[0.0, 0.0]] * 3


@given(some.integers(1, 300), some.sampled_from([1, 2, 16, 256]), some.integers(0, 2**31))
def test_quantised_values_are_few_and_each_the_nearest(count: int, size: int, seed: int) -> None:
    values = torch.randn(count, generator=rng(seed))
    values[torch.rand(count, generator=rng(seed + 1)) < 0.5] = 0.0
    found = quantised(values, size)
    assert torch.equal(found == 0, values == 0)
    book = found[found != 0].unique()
    assert len(book) <= size
    if len(book):
        distances = (values[:, None] - book[None]).abs().min(dim=1).values
        away = (values - found).abs()
        assert bool((away <= distances + 1e-6)[values != 0].all())
    assert torch.equal(found, quantised(values, size))
    moved = values[torch.randperm(count, generator=rng(seed))]
    assert sorted(quantised(moved, size).tolist()) == sorted(found.tolist())


# --- ADMM


def test_begin_step_is_the_update_of_admm_every_few_steps() -> None:
    model = untrained(7)
    variables = Quantising(model, partial(quantised, size=2))
    weights = variables.weights().detach().clone()
    parts = [quantised(w.detach().flatten(), 2) for w in prunable_parameters(model).values()]
    nearest = torch.cat(parts)
    for step in range(7):
        variables.begin_step(3)
        if step < 3:
            assert torch.equal(variables.targets, weights) and not variables.duals.any()
        elif step < 6:
            assert torch.equal(variables.targets, nearest)
            assert torch.equal(variables.duals, weights - nearest)
    assert not torch.equal(variables.duals, weights - nearest)
    assert int(variables.steps) == 7
    expected = (weights - variables.targets + variables.duals).square().sum()
    assert torch.isclose(variables.distance(), expected)


def test_the_penalty_is_added_to_the_loss_and_pulls_towards_the_codebook() -> None:
    model, (inputs, labels) = untrained(7), batch()
    variables = Quantising(model, partial(quantised, size=2))
    loss = _Drawn(Benign(), Fraction(0), rho=0.5, interval=1)
    first, second = (
        loss.loss(variables, inputs, labels, moment=START, generator=rng()) for _ in range(2)
    )
    away = variables.weights() - variables.targets + variables.duals
    assert int(variables.steps) == 2 and bool(away.any())
    assert torch.isclose(second - first, 0.25 * away.square().sum())
    functional.cross_entropy(model(inputs), labels).backward()
    plain = [weight.grad.clone() for weight in prunable_parameters(model).values()]
    model.zero_grad()
    second.backward()
    pulls = torch.cat(
        [
            (weight.grad - gradient).flatten()
            for weight, gradient in zip(prunable_parameters(model).values(), plain, strict=True)
        ]
    )
    assert torch.allclose(pulls, 0.5 * away, atol=1e-6)


def residual(rho: float) -> float:
    """Returns how far weights drawn to a point of their own end from a codebook of two values."""
    layer = nn.Linear(6, 6, bias=False)
    layer.weight.data.normal_(generator=rng(1))
    start = layer.weight.detach().clone()
    variables = Quantising(layer, partial(quantised, size=2))
    steps = torch.optim.SGD([layer.weight], lr=0.05)
    for _ in range(300):
        variables.begin_step(5)
        loss = (layer.weight - start).square().sum() / 2 + rho / 2 * variables.distance()
        steps.zero_grad()
        loss.backward()
        steps.step()
    trained = layer.weight.detach().clone()
    variables.settle()
    settled = layer.weight.detach()
    assert len(settled.unique()) == 2
    return float((trained - settled).norm() / trained.norm())


@dataclass(frozen=True)
class Watching(Benign):
    """Refuses anything but a network: certified losses read its layers."""

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, **rest: Any) -> Tensor:
        assert isinstance(model, Classifier)
        return super().loss(model, inputs, labels, **rest)


def test_the_cell_s_loss_is_asked_about_the_network_itself() -> None:
    task, settings = task_of(prune=2, finetune=1), Atmc(bits=3)
    watched = {
        name: replace(getattr(task, name), objective=Watching()) for name in ("prune", "finetune")
    }
    assert compressed(settings, replace(task, **watched)).finetuned


def test_the_residual_falls() -> None:
    """To the stop: a strong enough penalty makes the last projection change next to nothing."""
    without, weak, strong = (residual(rho) for rho in (1e-9, 0.3, 3.0))
    assert strong < 1e-3 < weak < without


# --- the method


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_layers_end_with_few_values_and_the_exact_count_of_zeros(bits: int) -> None:
    pruned = compressed(Atmc(bits=bits), task_of())
    weights = weights_of(pruned.model)
    total = sum(weight.numel() for weight in weights.values())
    assert sum(int((weight == 0).sum()) for weight in weights.values()) == round(0.9 * total)
    for name, weight in weights.items():
        assert len(weight[weight != 0].unique()) <= 2**bits, name
        assert torch.equal(weight != 0, pruned.mask[name])
    assert pruned.finetuned
    # With a bit to spare, at least one layer uses more than half of its codebook.
    assert max(len(w[w != 0].unique()) for w in weights.values()) > 2 ** (bits - 1)


def test_fewer_bits_are_stored_in_fewer_bytes() -> None:
    stored = [
        len(encode(compressed(Atmc(bits=bits), task_of(HALF)).model.state_dict()))
        for bits in (32, 8, 4, 2)
    ]
    assert stored == sorted(stored, reverse=True) and len(set(stored)) == 4


@pytest.mark.parametrize("bits", [32, 3])
def test_the_network_comes_back_as_plain_as_it_was(bits: int) -> None:
    before = untrained(7)
    pruned = compressed(Atmc(bits=bits), task_of())
    assert [type(module) for module in pruned.model.modules()] == [
        type(module) for module in before.modules()
    ]
    assert list(pruned.model.state_dict()) == list(before.state_dict())
    assert all(parameter.requires_grad for parameter in pruned.model.parameters())


@pytest.mark.parametrize(
    ("epochs", "plain_share", "calls"),
    [
        (5, HALF, [2, 3]),
        (4, Fraction(1), [4, 0]),
        (4, Fraction(0), [0, 4]),
        (1, HALF, [0, 1]),
        (0, HALF, [0, 0]),
    ],
)
def test_epochs_are_divided_and_none_is_left(
    epochs: int, plain_share: Fraction, calls: list[int]
) -> None:
    done: list[tuple[int, int]] = []

    def report(epoch: int, of: int, loss: float) -> None:
        done.append((epoch, of))

    task = task_of(prune=epochs)
    task = replace(task, prune=replace(task.prune, run=replace(task.run, report=report)))
    compressed(Atmc(plain_share=plain_share), task)
    assert done == [(epoch + 1, count) for count in calls for epoch in range(count)]
    assert (task.meter.epochs, task.finetune.meter.epochs) == (epochs, 1)
    assert task.finetune.meter.attack_steps == 1


def test_without_training_the_largest_weights_of_the_parent_remain() -> None:
    """With nothing to spend, it is global magnitude pruning."""
    pruned = compressed(Atmc(), task_of(prune=0, finetune=0))
    other = methods.compress("lwm-global", methods.method("lwm-global")(), untrained(7), task_of())
    assert all(torch.equal(pruned.mask[name], other.mask[name]) for name in other.mask)
    assert same_bits(state_of(pruned.model), state_of(other.model))


@pytest.mark.parametrize(
    ("chosen", "prune"),
    [
        (Atmc(plain_rate=Fraction(1, 100)), 2),
        (Atmc(factor_rate=Fraction(1, 100)), 2),
        (Atmc(clean=Fraction(0)), 2),
        (Atmc(clean=Fraction(0)), 0),
        (Atmc(bits=3), 0),
    ],
)
def test_each_step_has_its_settings(chosen: Atmc, prune: int) -> None:
    """With no epochs to prune in, finetuning alone is left to differ."""
    states = [state_of(compressed(c, task_of(prune=prune)).model) for c in (Atmc(), chosen)]
    assert not same_bits(*states)


@pytest.mark.parametrize("clean", [Fraction(0), Fraction(1)])
def test_finetuning_minimises_the_method_s_own_loss(clean: Fraction) -> None:
    """At the ends of the mixture this is the cell's loss, and plain cross-entropy."""
    start, task = task_of(prune=0, finetune=0), task_of(prune=0, finetune=2)
    other = compressed(Atmc(), start)
    training(1, 2).fit(other.model, mask=other.mask, objective=Benign() if clean else ATTACK)
    found, expected = compressed(Atmc(clean=clean), task), state_of(other.model)
    # The attack draws before the clean pass, and changes no weight: the sums are the same.
    for name, tensor in state_of(found.model).items():
        assert torch.allclose(tensor, expected[name], atol=1e-6), name


def counting_task(folder: Path, last: int) -> tuple[Task, list[int]]:
    """Returns a resumable task that is killed after some epochs, and the list of those done."""
    done: list[int] = []

    def report(epoch: int, epochs: int, loss: float) -> None:
        done.append(epoch)
        if len(done) == last:
            raise KeyboardInterrupt

    task = task_of(prune=2, finetune=3, folder=folder)
    stages = {
        name: replace(stage, run=replace(stage.run, report=report))
        for name, stage in (("prune", task.prune), ("finetune", task.finetune))
    }
    return replace(task, **stages), done


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path, killed_at: int) -> None:
    """Killed behind either step of the prune stage, and in the midst of ADMM."""
    chosen = Atmc(bits=2, interval=3)
    killed, _ = counting_task(tmp_path, killed_at)
    with pytest.raises(KeyboardInterrupt):
        compressed(chosen, killed)
    again, done = counting_task(tmp_path, 99)
    found = compressed(chosen, again)
    assert len(done) == 5 - killed_at
    whole = compressed(chosen, task_of(prune=2, finetune=3))
    assert same_bits(state_of(found.model), state_of(whole.model))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_trains_factors(name: str) -> None:
    """Certified objectives read the layers' weights themselves."""
    objective = OBJECTIVES[name](LINF)
    task = task_of(prune=1)
    task = replace(task, prune=replace(task.prune, objective=objective))
    before = weights_of(untrained(7))
    pruned = compressed(Atmc(plain_share=Fraction(0)), task)
    after = weights_of(pruned.model)
    assert any(not torch.equal(after[n][pruned.mask[n]], before[n][pruned.mask[n]]) for n in before)


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 0},
        {"bits": 33},
        {"clean": Fraction(-1)},
        {"clean": Fraction(3, 2)},
        {"plain_share": Fraction(2)},
        {"plain_rate": Fraction(-1, 2)},
        {"factor_rate": Fraction(2)},
        {"rho": 0.0},
        {"rho": float("inf")},
        {"rho": float("nan")},
        {"interval": 0},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ContractError, match="correct the method's settings"):
        Atmc(**settings)


def test_settings_are_spelled() -> None:
    chosen = methods.configured("atmc:bits=8:plain-share=0.25")
    assert chosen == Atmc(bits=8, plain_share=Fraction(1, 4))
    assert methods.spelling("atmc", chosen) == "atmc:bits=8:plain-share=0.25"
