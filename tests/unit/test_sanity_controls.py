"""The sanity controls: what is moved, what is drawn anew, and what stays, against plain oracles."""

import dataclasses
from fractions import Fraction
from itertools import permutations
from typing import Any, ClassVar

import pytest
import torch
from scipy.stats import chisquare
from tiny import CPU, LINF, random_split, rng, same_bits, state_of, untrained
from torch import Tensor, nn

import methods
from benchmark.architectures import build, initialise
from benchmark.attacks import Steps
from benchmark.datasets import describe
from benchmark.errors import ContractError
from benchmark.objectives import Adversarial
from benchmark.pruning import Mask, mask_from_scores, prunable_parameters, removed_units
from benchmark.training import Run, Stage
from methods import Info, Pruned, Task, register
from methods._sanity_controls import shuffle

PARENTS = ("lwm-layerwise", "lwm-global", "random")
STRUCTURES = ("unstructured", "filter", "channel")
OVER_PARENTS = pytest.mark.parametrize("parent", PARENTS)
OVER_STRUCTURES = pytest.mark.parametrize("structure", STRUCTURES)
HALF = Fraction(1, 2)

# Chance of a false alarm of each statistical test below; the draws are fixed, so it falls once.
ALARM = 1e-3


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what a test registers, but not the parents: a file registers itself only once."""
    for name in PARENTS:
        methods.method(name)
    monkeypatch.setattr(methods, "_registered", dict(methods._registered))


def task_of(structure: Any = "unstructured", sparsity: Fraction = HALF, seed: int = 0) -> Task:
    return Task(
        sparsity=sparsity,
        structure=structure,
        generator=rng(seed),
        prune=training_of(seed),
        finetune=training_of(seed + 1),
    )


def training_of(seed: int) -> methods.Training:
    return methods.Training(
        split=random_split(),
        objective=Adversarial(LINF, Steps(1, Fraction(1))),
        stage=Stage(epochs=2, learning_rate=0.01, batch_size=20),
        run=Run(CPU, seed=seed),
    )


def compressed(name: str, task: Task, model: nn.Module | None = None) -> Pruned:
    return methods.compress(name, methods.method(name)(), model or untrained(7), task)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in prunable_parameters(model).items()}


# --- shuffled


@OVER_PARENTS
@OVER_STRUCTURES
def test_shuffling_keeps_the_count_of_each_layer_and_moves_places(
    parent: str, structure: str
) -> None:
    ours = compressed(f"shuffled-{parent}", task_of(structure)).mask
    # The parent draws first, so with the same seed it finds the mask that was shuffled.
    theirs = compressed(parent, task_of(structure)).mask
    counts = [removed_units(mask, structure) for mask in theirs.values()]
    assert [removed_units(mask, structure) for mask in ours.values()] == counts
    assert [int((~mask).sum()) for mask in ours.values()] == [
        int((~mask).sum()) for mask in theirs.values()
    ]
    for name in theirs:
        whole = bool(theirs[name].all())
        assert torch.equal(ours[name], theirs[name]) == whole, name


@OVER_STRUCTURES
def test_the_shuffled_network_is_the_pretrained_one_but_for_the_mask(structure: str) -> None:
    model = untrained(7)
    before = state_of(model)
    pruned = compressed("shuffled-lwm-global", task_of(structure), model)
    after = state_of(pruned.model)
    for name, tensor in before.items():
        kept = pruned.mask[name] if name in pruned.mask else torch.ones_like(tensor).bool()
        assert torch.equal(after[name], torch.where(kept, tensor, torch.zeros_like(tensor))), name


def test_two_layers_are_not_shuffled_alike() -> None:
    # Layers of one shape and one mask: a shared permutation would leave them equal.
    mask = Mask({name: torch.arange(500) < 250 for name in ("one", "two")})
    ours = shuffle(mask, "unstructured", rng())
    assert not torch.equal(ours["one"], ours["two"])
    assert list(ours) == ["one", "two"]


def test_every_order_of_a_small_layer_is_equally_likely() -> None:
    kept = torch.tensor([True, True, False, False])
    orders = sorted(set(permutations(kept.tolist())))
    generator = rng(0)
    counts = dict.fromkeys(orders, 0)
    for _ in range(3000):
        drawn = shuffle(Mask({"layer": kept}), "unstructured", generator)["layer"]
        counts[tuple(drawn.tolist())] += 1
    assert len(orders) == 6
    assert chisquare(list(counts.values())).pvalue > ALARM


@pytest.mark.parametrize(("structure", "dimension"), [("filter", 0), ("channel", 1)])
def test_every_unit_is_equally_likely_to_go(structure: Any, dimension: int) -> None:
    kept = torch.ones(5, 5, 2, 2, dtype=torch.bool)
    kept.select(dimension, 0).fill_(False)
    generator = rng(1)
    counts = torch.zeros(5)
    for _ in range(1500):
        drawn = shuffle(Mask({"layer": kept}), structure, generator)["layer"]
        rows = drawn.transpose(0, dimension).flatten(1)
        # One unit is gone, whole, and nothing else.
        assert sorted(rows.sum(dim=1).tolist()) == [0, 20, 20, 20, 20]
        counts += ~rows.any(dim=1)
    assert chisquare(counts.numpy()).pvalue > ALARM


# --- reinitialised


@OVER_PARENTS
@OVER_STRUCTURES
def test_reinitialising_keeps_the_mask_of_the_parent(parent: str, structure: str) -> None:
    ours = compressed(f"reinitialised-{parent}", task_of(structure)).mask
    theirs = compressed(parent, task_of(structure)).mask
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_reinitialising_leaves_nothing_of_the_pretrained_weights() -> None:
    model = untrained(7)
    for parameter in model.parameters():  # as training would leave them
        parameter.data.add_(0.1)
    before = state_of(model)
    pruned = compressed("reinitialised-lwm-layerwise", task_of(), model)
    mask = pruned.mask
    for name, tensor in state_of(pruned.model).items():
        if name in mask:
            assert not bool((tensor[mask[name]] == before[name][mask[name]]).any()), name
        elif name.endswith("bias"):
            assert not bool(tensor.any()), name
        else:
            assert torch.equal(tensor, before[name]), name  # the data set's normalisation


def test_reinitialised_weights_are_what_initialise_draws() -> None:
    name, generator = "reinitialised-lwm-global", rng(0)
    pruned = compressed(name, task_of())  # this parent draws nothing
    fresh = untrained(99)
    initialise(fresh, generator)
    pruned.mask.apply(fresh)
    assert same_bits(state_of(pruned.model), state_of(fresh))


def test_reinitialised_weights_have_the_variance_of_the_initialisation() -> None:
    about = describe("digits", None)
    model = build(
        "cnn-tiny", shape=about.shape, classes=about.classes, mean=about.mean, std=about.std
    )
    for parameter in model.parameters():
        parameter.data.fill_(5)  # far from any initialisation
    pruned = compressed("reinitialised-random", task_of(), model)
    for name, weight in weights_of(pruned.model).items():
        drawn = weight[pruned.mask[name]].double()
        ratio = float(drawn.square().mean()) * weight[0].numel() / 2
        # A mean of n squared normals has the relative spread sqrt(2 / n); five of them.
        assert abs(ratio - 1) < 5 * (2 / len(drawn)) ** 0.5, name
        assert abs(float(drawn.mean())) < 5 * (2 / weight[0].numel() / len(drawn)) ** 0.5, name


def test_batch_norms_start_as_the_identity_without_statistics() -> None:
    about = describe("cifar10", None)
    model = build(
        "resnet18", shape=about.shape, classes=about.classes, mean=about.mean, std=about.std
    )
    initialise(model, rng(1))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.fill_(3)
        norm.weight.data.fill_(2)
        norm.bias.data.fill_(1)
    kind = methods.method("reinitialised-lwm-layerwise")
    task = task_of()
    task = dataclasses.replace(task, prune=dataclasses.replace(task.prune, split=coloured()))
    model = methods.compress("reinitialised-lwm-layerwise", kind(), model, task).model
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    for norm in norms:
        assert bool((norm.weight == 1).all()) and not bool(norm.bias.any())
        assert not bool(norm.running_mean.any()) and bool((norm.running_var == 1).all())


def coloured() -> Any:
    from benchmark.datasets import TensorSplit

    pixels = torch.randint(0, 256, (4, 3, 32, 32), generator=rng(2)).to(torch.uint8)
    return TensorSplit(pixels, torch.arange(4), 255)


def test_a_network_of_other_layers_is_refused_with_a_reason() -> None:
    model = untrained(7)
    model.body.insert(0, nn.PReLU())
    with pytest.raises(ContractError, match="Conv2d, Linear and BatchNorm2d only, got .*PReLU"):
        compressed("reinitialised-random", task_of(), model)


# --- both


@OVER_PARENTS
@pytest.mark.parametrize("word", ["shuffled", "reinitialised"])
def test_draws_depend_on_the_generator_alone(parent: str, word: str) -> None:
    name = f"{word}-{parent}"
    torch.rand(3)  # wherever the global generator stands
    first, again = (compressed(name, task_of()) for _ in range(2))
    other = compressed(name, task_of(seed=1))
    assert same_bits(state_of(first.model), state_of(again.model))
    assert not same_bits(state_of(first.model), state_of(other.model))
    if word == "shuffled":
        assert any(not torch.equal(first.mask[key], other.mask[key]) for key in first.mask)


@dataclasses.dataclass(frozen=True)
class Training:
    """Trains while it prunes, changes a bias, and hands back another object."""

    info: ClassVar[Info] = Info("Training", (), "", "", "A test.")
    structures: ClassVar[tuple[Any, ...]] = ("unstructured",)
    scope: ClassVar[Any] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    epochs: int = 1

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        task.fit(model, epochs=self.epochs)
        other = untrained(3)
        other.load_state_dict(model.state_dict())
        scores = {name: p.abs() for name, p in prunable_parameters(other).items()}
        mask = mask_from_scores(scores, task.sparsity, self.scope)
        mask.apply(other)
        return Pruned(other, mask)


@pytest.mark.parametrize(("word", "bias"), [("shuffled", 0.25), ("reinitialised", 0.0)])
def test_training_of_the_parent_is_metered_and_taken_back(word: str, bias: float) -> None:
    register("training")(Training)
    kind = methods.method(f"{word}-training")
    model, task = untrained(7), task_of()
    biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    for name in biases:
        model.get_parameter(name).data.fill_(0.25)
    before = state_of(model)
    pruned = methods.compress(f"{word}-training", kind(), model, task)
    assert (task.meter.epochs, task.meter.calls) == (1, 1)
    after = state_of(pruned.model)
    assert biases and all(bool((after[name] == bias).all()) for name in biases)
    for name, kept in pruned.mask.items():
        same = torch.equal(after[name][kept], before[name][kept])
        assert same == (word == "shuffled"), name


@pytest.mark.parametrize("word", ["shuffled", "reinitialised"])
def test_a_parent_may_be_given_other_settings(word: str) -> None:
    register("training")(Training)
    task = task_of()
    chosen = methods.method(f"{word}-training")(parent=Training(epochs=2))
    methods.compress(f"{word}-training", chosen, untrained(7), task)
    assert task.meter.epochs == 2


def test_a_control_cannot_spend_more_than_the_stage() -> None:
    register("training")(Training)
    kind = methods.method("shuffled-training")
    with pytest.raises(ContractError, match="'training' broke .* at most 2 epochs"):
        methods.compress(
            "shuffled-training", kind(parent=Training(epochs=3)), untrained(7), task_of()
        )


@pytest.mark.parametrize("name", ["gradual", "bap", "atmc", "pwoa"])
def test_the_mask_is_that_of_the_parent_in_the_same_task(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Schedules that run over all training must not notice that finetuning is left out.
    def long() -> Task:
        task = task_of(sparsity=Fraction(9, 10))
        stage = dataclasses.replace(task.finetune.stage, epochs=5)
        return dataclasses.replace(task, finetune=dataclasses.replace(task.finetune, stage=stage))

    parent = compressed(name, long())
    task = long()
    control = compressed(f"reinitialised-{name}", task)
    assert all(torch.equal(parent.mask[key], control.mask[key]) for key in parent.mask)
    assert not control.finetuned
    assert (task.finetune.meter.epochs, task.finetune.meter.calls) == (0, 0)


def test_a_control_of_what_is_not_finetuned_is_not_finetuned_either() -> None:
    chosen = methods.configured("shuffled-hydra:finetune=no")
    assert methods.compress("shuffled-hydra", chosen, untrained(7), task_of()).finetuned
    chosen = methods.configured("shuffled-hydra")
    assert not methods.compress("shuffled-hydra", chosen, untrained(7), task_of()).finetuned
