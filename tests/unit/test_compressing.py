"""Compress: pretrain (shared), prune, finetune, write; repeatable, resumable, all or nothing."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from torch import Tensor, nn

import methods
from benchmark import training, weights
from benchmark.architectures import build
from benchmark.datasets import DATASETS
from benchmark.errors import ContractError
from benchmark.manifest import Checkpoint, load_model
from benchmark.objectives import Benign
from benchmark.pipeline import Order, Project, compress_all, compressing, plan_orders
from benchmark.pruning import Scope, Structure, mask_from_scores, measure, prunable_parameters
from benchmark.recipes import RECIPES
from benchmark.workers import Workers

TINY = replace(
    RECIPES["digits"],
    id="tiny",
    pretrain=replace(RECIPES["digits"].pretrain, epochs=2),
    finetune=replace(RECIPES["digits"].finetune, epochs=2),
)
ORDER = Order(
    method="lwm-layerwise",
    architecture="cnn-tiny",
    objective="adversarial",
    structure="unstructured",
    sparsity=Fraction(9, 10),
    seed=0,
    recipe="tiny",
)


@pytest.fixture(autouse=True)
def _tiny_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, TINY.id, TINY)


def project(root: Path) -> Project:
    return Project(root, device="cpu", workers=Workers(1))


def make(root: Path, *orders: Order, **options: bool) -> list[Checkpoint]:
    return compress_all(project(root), orders, **options)


def test_entry_keeps_every_promise(tmp_path: Path) -> None:
    [entry] = make(tmp_path, ORDER)
    assert entry.id == "lwm-layerwise/digits/cnn-tiny/adversarial/unstructured-90/seed0"
    assert project(tmp_path).manifest().find(entry.id) == entry
    model = load_model(entry, tmp_path)
    found = measure(model, model.shape)
    assert (found.zeros, found.total) == (entry.zeros, entry.prunable)
    expected = sum(round(Fraction(9, 10) * p.numel()) for p in prunable_parameters(model).values())
    assert found.zeros == expected
    assert entry.budget.pretrain_epochs == entry.budget.finetune_epochs == 2
    assert entry.budget.prune_epochs == 0
    assert entry.budget.attack_steps == TINY.steps.count
    assert entry.recipe_digest == TINY.digest


def test_same_seed_same_bits_other_seed_others(tmp_path: Path) -> None:
    [first] = make(tmp_path / "first", ORDER)
    [again] = make(tmp_path / "again", ORDER)
    [other] = make(tmp_path / "other", replace(ORDER, seed=1))
    assert first.sha256 == again.sha256
    assert first.sha256 != other.sha256


def test_pretraining_is_shared_between_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = []
    original = compressing.fit

    def counting(model, split, objective, stage, run):
        stages.append("pretrain" if run.mask is None else "finetune")
        return original(model, split, objective, stage, run)

    for module in (compressing, methods):
        monkeypatch.setattr(module, "fit", counting)
    make(tmp_path, ORDER, replace(ORDER, method="random"))
    assert sorted(stages) == ["finetune", "finetune", "pretrain"]
    assert make(tmp_path, ORDER) == []
    assert len(stages) == 3


def test_fresh_trains_all_again_to_the_same_bits(tmp_path: Path) -> None:
    [first] = make(tmp_path, ORDER)
    weights = (tmp_path / first.file).read_bytes()
    [again] = make(tmp_path, ORDER, fresh=True)
    assert again.sha256 == first.sha256
    assert (tmp_path / again.file).read_bytes() == weights


def test_interrupted_training_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [expected] = make(tmp_path / "whole", ORDER)
    epochs = []
    original = training._epoch

    def failing(*arguments):
        epochs.append(1)
        # Falls once in the second epoch of each stage.
        if len(epochs) in (2, 5):
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "_epoch", failing)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "parts", ORDER)
        assert not project(tmp_path / "parts").manifest().checkpoints
    [entry] = make(tmp_path / "parts", ORDER)
    assert len(epochs) == 6
    assert entry.sha256 == expected.sha256


def test_hours_are_those_of_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, replace(ORDER, method="dense", sparsity=Fraction(0)))
    # Each look at the clock takes an hour: one as an order begins, one after each epoch, one at
    # the end.
    ticks = count()
    monkeypatch.setattr(
        compressing, "time", SimpleNamespace(perf_counter=lambda: 3600 * next(ticks))
    )
    epochs = []
    original = training._epoch

    def failing(*arguments):
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "_epoch", failing)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, ORDER)
    [entry] = make(tmp_path, ORDER)
    # An hour of the run that was killed in its second epoch, and two of the one that ended.
    assert entry.budget.hours == 3
    assert not list((tmp_path / ".cache" / "training").iterdir())


def test_other_recipe_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [first] = make(tmp_path, ORDER)
    longer = replace(TINY, finetune=replace(TINY.finetune, epochs=3))
    monkeypatch.setitem(RECIPES, TINY.id, longer)
    [second] = make(tmp_path, ORDER)
    assert second.recipe_digest != first.recipe_digest
    assert [e.id for e in project(tmp_path).manifest().checkpoints] == [first.id]


def test_a_share_that_no_float_has_is_found_again(tmp_path: Path) -> None:
    third = replace(ORDER, sparsity=Fraction(1, 3), objective="benign")
    [entry] = make(tmp_path, third)
    assert compressing.id_of(third) == entry.id
    assert compressing.finished(project(tmp_path), [third, ORDER]) == {third: entry}


def test_finetuning_uses_the_cell_s_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    original = compressing.fit

    def spy(model, split, objective, stage, run):
        losses.append(type(objective).__name__)
        return original(model, split, objective, stage, run)

    for module in (compressing, methods):
        monkeypatch.setattr(module, "fit", spy)
    make(tmp_path, replace(ORDER, objective="trades"), replace(ORDER, objective="benign"))
    assert losses == ["Trades", "Trades", "Benign", "Benign"]


def test_dense_is_planned_once_and_others_where_asked() -> None:
    levels = [Fraction(0), Fraction(1, 2), Fraction(9, 10)]
    planned, skipped = plan_orders(["dense", "random"], levels, ORDER)
    assert [(o.method, o.sparsity) for o in planned] == [
        ("dense", Fraction(0)),
        ("random", Fraction(1, 2)),
        ("random", Fraction(9, 10)),
    ]
    assert skipped == [
        "dense reaches sparsity 0, not 0.5: skipped",
        "dense reaches sparsity 0, not 0.9: skipped",
        "random at 0 removes nothing: skipped",
    ]
    alone = replace(ORDER, method="random", sparsity=Fraction(0))
    assert plan_orders(["random", "random"], [Fraction(0)] * 2, ORDER) == ([alone], [])


def test_impossible_combinations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="dense reaches sparsity 0"):
        make(tmp_path, replace(ORDER, method="dense"))


def test_data_set_without_protocol_is_refused() -> None:
    assert "fashion-mnist" in DATASETS
    with pytest.raises(ContractError, match="with a protocol"):
        compressing.threat_of("fashion-mnist")


def test_fresh_network_depends_on_the_seed_alone() -> None:
    first, again = compressing.fresh_network(ORDER), compressing.fresh_network(ORDER)
    other = compressing.fresh_network(replace(ORDER, seed=1))
    plain = build("cnn-tiny", shape=(1, 8, 8), classes=10, mean=(0.0,), std=(1.0,))
    assert first.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert tensor.equal(again.state_dict()[name])
    assert not first.body[0].weight.equal(other.body[0].weight)


@dataclass(frozen=True)
class Starter:
    """A method that starts where it is told and may finetune by itself."""

    info: ClassVar[methods.Info] = methods.Info("Starter", (), "", "", "A test.")
    structures: ClassVar[tuple[Structure, ...]] = ("unstructured",)
    scope: ClassVar[Scope] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)
    objectives: ClassVar[tuple[str, ...]] = ("adversarial",)

    start: str = ""
    own: bool = False

    def compress(self, model: nn.Module, task: methods.Task) -> methods.Pruned:
        """Returns the smallest removed, after one epoch or all."""
        seen.append((task.stage.epochs, {k: t.clone() for k, t in model.state_dict().items()}))
        task.fit(model, epochs=1)
        scores = {name: p.abs() for name, p in prunable_parameters(model).items()}
        mask = mask_from_scores(scores, task.sparsity, "layerwise")
        mask.apply(model)
        if self.own:
            task.finetune.fit(model, epochs=1, mask=mask, objective=Benign())
        return methods.Pruned(model, mask, finetuned=self.own)


seen: list[tuple[int, dict[str, Tensor]]] = []


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(methods, "_registered", dict(methods._registered))
    methods.register("starter")(Starter)
    seen.clear()
    return "starter"


def test_a_method_that_starts_untrained_gets_the_epochs_of_pretraining(
    tmp_path: Path, starter: str
) -> None:
    order = replace(ORDER, method=f"{starter}:start=random")
    [entry] = make(tmp_path, order)
    [(epochs, state)] = seen
    assert epochs == TINY.pretrain.epochs + TINY.prune.epochs
    fresh = compressing.fresh_network(order).state_dict()
    assert all(state[name].equal(fresh[name]) for name in fresh)
    assert entry.budget.pretrain_epochs == 0 and entry.budget.prune_epochs == 1
    assert not (tmp_path / ".cache" / "pretrained").exists()
    assert entry.id.startswith("starter:start=random/")
    assert entry.display_name == "Starter (start=random)"
    assert load_model(entry, tmp_path)


def test_a_method_that_starts_from_another_objective_gets_that_parent(
    tmp_path: Path, starter: str
) -> None:
    make(tmp_path, replace(ORDER, method=f"{starter}:start=benign"), replace(ORDER, method=starter))
    make(tmp_path / "benign", replace(ORDER, method="lwm-layerwise", objective="benign"))
    (epochs, other), (_, own) = seen
    assert epochs == TINY.prune.epochs
    assert any(not other[name].equal(own[name]) for name in own)
    folder = tmp_path / ".cache" / "pretrained"
    assert len(list(folder.glob("*.safetensors"))) == 2
    [benign] = (tmp_path / "benign" / ".cache" / "pretrained").glob("*.safetensors")
    assert (folder / benign.name).read_bytes() == benign.read_bytes()


def test_a_method_may_finetune_by_itself(tmp_path: Path, starter: str) -> None:
    [entry] = make(tmp_path, replace(ORDER, method=f"{starter}:own=yes"))
    assert entry.budget.finetune_epochs == 1  # its own single epoch: the engine added none
    [plain] = make(tmp_path, replace(ORDER, method=starter))
    assert plain.budget.finetune_epochs == TINY.finetune.epochs
    assert plain.budget.attack_steps == TINY.steps.count
    # The pruning epoch attacked even where finetuning did not.
    assert entry.budget.attack_steps == TINY.steps.count


def test_settings_are_part_of_the_checkpoint(tmp_path: Path, starter: str) -> None:
    make(tmp_path, replace(ORDER, method=starter), replace(ORDER, method=f"{starter}:own=yes"))
    entries = project(tmp_path).manifest().checkpoints
    assert [entry.method for entry in entries] == ["starter", "starter:own=yes"]
    assert len({entry.file for entry in entries}) == 2


def test_plans_spell_settings_in_one_way(starter: str) -> None:
    asked = [f"{starter}:own=no", f"{starter}:own=yes:start=", starter]
    planned, _ = plan_orders(asked, [Fraction(1, 2)], ORDER)
    assert [order.method for order in planned] == [starter, f"{starter}:own=yes"]


def test_objectives_that_a_method_refuses_are_not_planned(starter: str) -> None:
    with pytest.raises(ContractError, match="starter works under adversarial, not benign"):
        plan_orders([starter], [Fraction(1, 2)], replace(ORDER, objective="benign"))


def test_a_mended_method_does_not_take_over_what_was_half_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = compressing._Job(project(tmp_path), ORDER, 1)
    before = job.states
    assert job.states == before
    monkeypatch.setattr(compressing, "methods_digest", lambda: "other sources")
    assert job.states != before


# --- several at a time


def several(root: Path) -> Project:
    return Project(root, device="cpu", workers=Workers(2, executor="serial"))


def test_each_checkpoint_waits_for_its_own_parent_only(tmp_path: Path) -> None:
    orders = [
        replace(ORDER, objective=objective, method=method)
        for objective in ("adversarial", "benign")
        for method in ("lwm-layerwise", "bap", "hydra:start=benign")
        if (method, objective) != ("bap", "benign")
    ]
    jobs = [compressing._Job(project(tmp_path), order, 1) for order in orders]
    pieces, after = compressing._pieces(jobs)
    assert [(piece.job.order.objective, piece.parent) for piece in pieces[:2]] == [
        ("adversarial", True),
        ("benign", True),
    ]
    assert [piece.job for piece in pieces[2:]] == jobs
    # BAP trains from random weights: it waits for nobody.
    assert after == {2: 0, 4: 1, 5: 1, 6: 1}


@pytest.mark.parametrize("objectives", [("adversarial", "benign"), ("adversarial",)])
def test_several_at_a_time_are_the_same(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    orders = [replace(ORDER, objective=objective) for objective in objectives]
    told: list[tuple[int, int, str]] = []
    made = compress_all(
        several(tmp_path / "several"), orders, watch=lambda *news: told.append(news)
    )
    assert [entry.sha256 for entry in made] == [e.sha256 for e in make(tmp_path / "one", *orders)]
    assert told[-1] == (2 * len(orders), 2 * len(orders), made[-1].id)
    assert len(project(tmp_path / "several").manifest().checkpoints) == len(orders)


def test_fresh_may_keep_the_parents(tmp_path: Path) -> None:
    [first] = make(tmp_path, ORDER)
    [parent] = (tmp_path / ".cache" / "pretrained").glob("*.safetensors")
    state = weights.decode(parent.read_bytes())
    parent.write_bytes(weights.encode({name: tensor * 2 for name, tensor in state.items()}))
    [kept] = make(tmp_path, ORDER, fresh=True, keep_parents=True)
    assert kept.sha256 != first.sha256
    [again] = make(tmp_path, ORDER, fresh=True)
    assert again.sha256 == first.sha256


ENTRIES = 25


def _enter_many(root: Path, entry: Checkpoint, first: int) -> None:
    for seed in range(first, first + ENTRIES):
        named = {"id": entry.id.replace("seed0", f"seed{seed}"), "seed": seed}
        named["file"] = entry.file.replace("seed0", f"seed{seed}")
        compressing._enter(project(root), entry.model_copy(update=named))


def _pretrain_told(root: Path) -> None:
    def tell(done: int, total: int, text: str) -> None:
        with (root / "epochs").open("a") as stream:
            stream.write("epoch\n")

    RECIPES[TINY.id] = TINY
    compressing._pretrain(compressing._Job(project(root), ORDER, 1), tell)


def both(function: Callable[..., None], *arguments: tuple[object, ...]) -> None:
    """Runs a function in a process for each tuple of arguments, all at a time."""
    context = multiprocessing.get_context("spawn")
    crew = [context.Process(target=function, args=given) for given in arguments]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
        assert process.exitcode == 0


def test_commands_side_by_side_lose_no_entry(tmp_path: Path) -> None:
    [entry] = make(tmp_path, ORDER)
    both(_enter_many, (tmp_path, entry, 1), (tmp_path, entry, 1 + ENTRIES))
    found = sorted(entry.seed for entry in project(tmp_path).manifest().checkpoints)
    assert found == list(range(2 * ENTRIES + 1))


def test_commands_side_by_side_train_a_parent_once(tmp_path: Path) -> None:
    both(_pretrain_told, (tmp_path,), (tmp_path,))
    assert len((tmp_path / "epochs").read_text().split()) == TINY.pretrain.epochs
