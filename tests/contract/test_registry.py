"""The registry: names, duplicates, and every promise of a method that the engine checks."""

import dataclasses
import sys
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from test_methods import task_of
from tiny import untrained
from torch import nn

import methods
from benchmark.errors import ContractError, UnknownName
from benchmark.pruning import STRUCTURES, Mask, mask_from_scores, prunable_parameters
from methods import Info, Pruned, register

PACKAGE = Path(__file__).parents[1] / "plugin_package"
HALF = Fraction(1, 2)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Forgets what a test registers."""
    monkeypatch.setattr(methods, "_registered", dict(methods._registered))


@dataclasses.dataclass(frozen=True)
class Good:
    """Magnitude, the contract kept; tests break one promise each."""

    info: ClassVar[Info] = Info("Good", (), "", "", "A test.")
    structures: ClassVar[tuple[str, ...]] = STRUCTURES
    scope: ClassVar[str] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    def compress(self, model, task):
        scores = {name: p.abs() for name, p in prunable_parameters(model).items()}
        mask = mask_from_scores(scores, task.sparsity, self.scope, task.structure)
        mask.apply(model)
        return self.spoil(Pruned(model, mask))

    def spoil(self, pruned):
        return pruned


def run(spoil=None, sparsity=HALF, structure="unstructured", **members):
    change = {} if spoil is None else {"spoil": lambda self, pruned: spoil(pruned)}
    kind = dataclasses.dataclass(frozen=True)(type("Bad", (Good,), change | members))
    return methods.compress("bad-one", kind(), untrained(3), task_of(sparsity, structure))


def with_mask(change):
    def spoil(pruned):
        tensors = {name: tensor.clone() for name, tensor in pruned.mask.items()}
        return Pruned(pruned.model, Mask(change(tensors) or tensors))

    return spoil


def first(tensors):
    return next(iter(tensors))


def poke(value, where="body"):
    def spoil(pruned):
        parameter = next(iter(prunable_parameters(pruned.model).values()))
        mask = next(iter(pruned.mask.values()))
        position = (mask if where == "kept" else ~mask).nonzero()[0]
        parameter.data[tuple(position)] = value
        return pruned

    return spoil


def another_count(tensors):
    key = first(tensors)
    position = tensors[key].nonzero()[0]
    tensors[key][tuple(position)] = False


def another_model(pruned):
    return Pruned(nn.Linear(3, 2), pruned.mask)


def other_shape(pruned):
    pruned.model.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return pruned


def half_precision(pruned):
    return Pruned(pruned.model.half(), pruned.mask)


def frozen(pruned):
    next(pruned.model.parameters()).requires_grad_(False)
    return pruned


def float_masks(pruned):
    return Pruned(pruned.model, Mask({name: m.float() for name, m in pruned.mask.items()}))


BREACHES = {
    "missing key": (with_mask(lambda t: t.pop(first(t)) is None), "expected a mask"),
    "foreign key": (with_mask(lambda t: t | {"x": torch.ones(1).bool()}), "expected a mask"),
    "float mask": (float_masks, "bool mask"),
    "mask shape": (with_mask(lambda t: t | {first(t): torch.ones(3).bool()}), "mask of shape"),
    "wrong count": (with_mask(another_count), "units removed"),
    "nothing removed": (lambda p: Pruned(p.model, Mask.ones(p.model)), "units removed"),
    "nonzero masked weight": (poke(1e-30), "exactly 0"),
    "NaN masked weight": (poke(float("nan")), "exactly 0"),
    "NaN logits": (poke(float("nan"), "kept"), "finite logits"),
    "infinite logits": (poke(float("inf"), "kept"), "finite logits"),
    "another network": (another_model, "tensors of the network"),
    "other shapes": (other_shape, "tensors of the network"),
    "half precision": (half_precision, "tensors of the network"),
    "frozen weight": (frozen, "frozen"),
    "a tuple": (lambda p: (p.model, p.mask), r"Pruned\(model, Mask\), got tuple"),
    "a plain dict": (lambda p: Pruned(p.model, dict(p.mask)), "Pruned"),
    "nothing": (lambda p: None, "NoneType"),
}


@pytest.mark.parametrize(("spoil", "message"), BREACHES.values(), ids=BREACHES)
def test_each_broken_promise_names_the_method(spoil, message):
    with pytest.raises(ContractError, match=f"^method 'bad-one' broke its contract: .*{message}"):
        run(spoil)


def test_a_kept_promise_passes():
    pruned = run()
    assert pruned.mask.zeros > 0
    pruned = run(lambda p: Pruned(p.model.train(), p.mask))
    assert all(module.training for module in pruned.model.modules())


@pytest.mark.parametrize("structure", ["filter", "channel"])
def test_scattered_zeros_are_no_units(structure):
    def scatter(tensors):
        key = list(tensors)[1]
        tensors[key][tuple(tensors[key].nonzero()[0])] = False

    with pytest.raises(ContractError, match="'bad-one'.*whole units"):
        run(with_mask(scatter), structure=structure)


def test_scores_that_are_no_numbers_name_the_method():
    def compress(self, model, task):
        scores = {n: p.abs() * torch.nan for n, p in prunable_parameters(model).items()}
        return Pruned(model, mask_from_scores(scores, task.sparsity, "layerwise"))

    with pytest.raises(ContractError, match="'bad-one'.*NaN"):
        run(compress=compress)


def test_combinations_that_make_no_sense_are_refused_before_they_run():
    with pytest.raises(ContractError, match="bad-one prunes filter, not channel"):
        run(structures=("filter",), structure="channel")
    with pytest.raises(ContractError, match="bad-one reaches sparsity 0.25, not 0.5"):
        run(largest_sparsity=Fraction(1, 4))


def test_task_fit_holds_the_mask():
    task = task_of(HALF, "unstructured")
    model = untrained(3)
    before = model.body.state_dict()
    scores = {name: p.abs() for name, p in prunable_parameters(model).items()}
    mask = mask_from_scores(scores, HALF, "layerwise")
    assert len(task.fit(model, mask=mask)) == 1
    for name, parameter in prunable_parameters(model).items():
        assert torch.count_nonzero(parameter.detach()[~mask[name]]) == 0
    assert len(before) == len(model.body.state_dict())


def test_task_fit_may_be_called_in_parts_but_not_beyond_the_stage():
    task = task_of(HALF, "unstructured")
    epochs = task.stage.epochs
    longer = dataclasses.replace(task.stage, epochs=3)
    task = dataclasses.replace(task, prune=dataclasses.replace(task.prune, stage=longer))
    model = untrained(3)
    assert len(task.fit(model, epochs=1)) == 1
    assert len(task.fit(model)) == 2
    assert task.meter.epochs == 3 and task.meter.calls == 2
    with pytest.raises(ContractError, match="at most 3 epochs of training, got 4"):
        task.fit(model, epochs=1)
    assert epochs >= 1


# --- names


def test_unknown_names_get_near_matches():
    with pytest.raises(UnknownName, match="unknown method 'lwm-globl'; did you mean lwm-global"):
        methods.method("lwm-globl")
    with pytest.raises(UnknownName, match="known: .*dense"):
        methods.method("q" * 10_000)


def test_registering_makes_a_method_known():
    kind = register("mine")(dataclasses.make_dataclass("Mine", [], bases=(Good,), frozen=True))
    assert "mine" in methods.names()
    assert methods.method("mine") is kind
    register("mine")(kind)  # the same class again, as when its file is loaded twice


def renamed(name):
    kind = dataclasses.dataclass(frozen=True)(type(name, (Good,), {}))
    return kind


def test_duplicates_are_refused():
    register("mine")(renamed("First"))
    with pytest.raises(ContractError, match="expected a new name for .*Second, got 'mine'.*First"):
        register("mine")(renamed("Second"))


def test_a_first_party_name_is_taken_even_before_its_file_is_loaded(monkeypatch):
    monkeypatch.setattr(methods, "_registered", {})
    with pytest.raises(ContractError, match="'dense', which belongs to methods.dense"):
        register("dense")(renamed("Mine"))


@pytest.mark.parametrize(
    "name", ["", "Mine", "my_method", "../x", "a--b", "-a", "a ", "a\n", "ä", "x" * 49, "a/b"]
)
def test_names_that_are_no_names_are_refused(name):
    with pytest.raises(ContractError, match="lower-case words joined by hyphens"):
        register(name)(renamed("Mine"))


# --- sanity controls


CONTROLS = ("shuffled", "reinitialised")


def test_every_method_but_the_dense_control_has_its_sanity_controls():
    register("mine")(renamed("Mine"))
    own = [name for name in methods.names() if name not in methods.controls()]
    assert {"dense", "random", "lwm-global", "mine"} <= set(own)
    expected = {f"{word}-{name}": name for word in CONTROLS for name in own if name != "dense"}
    assert methods.controls() == expected
    assert list(methods.controls()) == sorted(expected)
    assert methods.names() == sorted([*own, *expected])


@pytest.mark.parametrize("word", CONTROLS)
def test_a_control_takes_after_its_parent(word):
    parent = register("mine")(
        dataclasses.dataclass(frozen=True)(
            type(
                "Mine",
                (Good,),
                {
                    "info": Info("My title", ("Ada",), "My paper", "https://my.code", "Mine."),
                    "structures": ("filter",),
                    "scope": "global",
                    "largest_sparsity": HALF,
                },
            )
        )
    )
    kind = methods.method(f"{word}-mine")
    assert (kind.structures, kind.scope, kind.largest_sparsity) == (("filter",), "global", HALF)
    assert kind.info.title == f"My title, {word}"
    assert kind.info.authors[0] == "Ada" and "Michael Carbin" in kind.info.authors
    assert kind.info.paper.startswith("My paper; ") and "2009.08576" in kind.info.paper
    assert kind.info.code == "https://my.code" and "mine" in kind.info.summary
    assert kind().parent == parent()
    # One class a control, which is a method to the letter but for its name.
    assert methods.method(f"{word}-mine") is kind
    assert methods._shortcoming("x", kind) == ""
    with pytest.raises(ContractError, match=f"{word}-mine reaches sparsity 0.5, not 0.75"):
        methods.compress(f"{word}-mine", kind(), untrained(3), task_of(Fraction(3, 4), "filter"))


def test_long_references_stay_within_a_manifest_line():
    info = Info("t" * 400, (), "p" * 400, "", "Mine.")
    register("mine")(dataclasses.dataclass(frozen=True)(type("Mine", (Good,), {"info": info})))
    shown = methods.method("shuffled-mine").info
    assert len(shown.title) == len(shown.paper) == 400
    assert shown.paper.startswith("ppp") and shown.paper.endswith("…")


def test_the_longest_name_still_has_controls():
    name = "x" * 48
    register(name)(renamed("Long"))
    for word in CONTROLS:
        # A part of a checkpoint id has at most 64 letters.
        assert len(f"{word}-{name}") <= 64
        assert methods.method(f"{word}-{name}").info.title.endswith(word)


@pytest.mark.parametrize("word", CONTROLS)
def test_what_removes_nothing_has_no_controls(word):
    whole = dataclasses.dataclass(frozen=True)(
        type("Whole", (Good,), {"largest_sparsity": Fraction(0)})
    )
    register("whole")(whole)
    assert f"{word}-dense" not in methods.names()
    for name in ("dense", "whole"):
        with pytest.raises(ContractError, match=f"'{word}-{name}': {name} reaches only sparsity 0"):
            methods.method(f"{word}-{name}")


@pytest.mark.parametrize(
    "name",
    [
        "shuffled-nope",
        "shuffled-",
        "shuffled",
        "reinitialised-",
        "shuffled-shuffled-random",
        "reinitialised-shuffled-random",
        "Shuffled-random",
    ],
)
def test_controls_of_nothing_are_unknown(name):
    with pytest.raises(UnknownName, match=f"unknown method '{name}'; did you mean "):
        methods.method(name)


def test_near_matches_of_controls_can_be_had():
    with pytest.raises(UnknownName, match="did you mean shuffled-lwm-global"):
        methods.method("shuffled-lwm-globl")
    with pytest.raises(UnknownName, match="did you mean reinitialised-random"):
        methods.method("reinitialized-random")
    with pytest.raises(UnknownName) as caught:
        methods.method("shuffled-dens")
    assert "shuffled-dense" not in str(caught.value)


@pytest.mark.parametrize("name", ["shuffled-mine", "reinitialised-dense", "shuffled-lwm-global"])
def test_names_of_controls_cannot_be_registered(name):
    with pytest.raises(ContractError, match="begins with reinitialised- or shuffled-"):
        register(name)(renamed("Mine"))
    assert name not in methods._registered


def test_a_broken_parent_says_so(tmp_path, monkeypatch):
    first_party(tmp_path, monkeypatch, "torn_method", "this is no Python")
    with pytest.raises(ContractError, match="'torn-method' to load from .*got SyntaxError"):
        methods.method("shuffled-torn-method")


def test_a_parent_that_breaks_its_contract_is_named():
    register("mine")(
        dataclasses.dataclass(frozen=True)(
            type("Mine", (Good,), {"spoil": lambda self, p: Pruned(p.model, Mask.ones(p.model))})
        )
    )
    kind = methods.method("shuffled-mine")
    with pytest.raises(ContractError, match="^method 'shuffled-mine' .*: method 'mine' broke"):
        methods.compress("shuffled-mine", kind(), untrained(3), task_of(HALF, "unstructured"))


MEMBERS = {name: value for name, value in vars(Good).items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (type("Plain", (), MEMBERS), "something else than a dataclass"),
        (Good(), "something else than a dataclass"),
        (lambda model: model, "something else than a dataclass"),
        (dataclasses.make_dataclass("Bare", [], frozen=True), "without info, structures"),
        (
            dataclasses.make_dataclass("Thawed", [], namespace=MEMBERS),
            "not frozen",
        ),
        (dataclasses.make_dataclass("Open", [("k", int)], bases=(Good,), frozen=True), "for k"),
    ],
)
def test_classes_outside_the_contract_are_refused(kind, message):
    with pytest.raises(ContractError, match=message):
        register("mine")(kind)


@pytest.mark.parametrize(
    "members",
    [
        {"info": "me"},
        {"structures": ()},
        {"structures": ("filters",)},
        {"scope": "local"},
        {"largest_sparsity": 1.5},
        {"largest_sparsity": Fraction(3, 2)},
    ],
)
def test_values_that_the_engine_does_not_know_are_refused(members):
    kind = dataclasses.dataclass(frozen=True)(type("Odd", (Good,), members))
    with pytest.raises(ContractError, match=f"for {next(iter(members))}"):
        register("mine")(kind)


def first_party(folder, monkeypatch, name, text):
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, f"methods.{name}", raising=False)


REGISTERS_ANOTHER = """
from dataclasses import dataclass
from methods import register
from methods.dense import Dense

@register("another-name")
@dataclass(frozen=True)
class Other(Dense):
    pass
"""


def test_a_file_that_registers_another_name(tmp_path, monkeypatch):
    first_party(tmp_path, monkeypatch, "lost_method", REGISTERS_ANOTHER)
    assert "lost-method" in methods.names()
    with pytest.raises(ContractError, match="methods.lost_method to register 'lost-method'"):
        methods.method("lost-method")
    monkeypatch.delitem(sys.modules, "methods.lost_method")


def test_a_file_that_does_not_load(tmp_path, monkeypatch):
    first_party(tmp_path, monkeypatch, "torn_method", "this is no Python")
    first_party(tmp_path, monkeypatch, "_private", "raise SystemExit")
    assert "torn-method" in methods.names()
    assert not any("private" in name for name in methods.names())
    with pytest.raises(ContractError, match="'torn-method' to load from .*got SyntaxError"):
        methods.method("torn-method")
    assert methods.method("dense").info.title == "Dense"


# --- plug-ins


def install(site, monkeypatch, name, entry_points):
    """Does what an installer does: metadata on the path."""
    info = site / f"{name.replace('-', '_')}-1.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
    lines = [f"{key} = {value}\n" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("".join([f"[{methods.GROUP}]\n", *lines]))
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The package next door, as if installed."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    install(tmp_path, monkeypatch, project["name"], project["entry-points"][methods.GROUP])
    monkeypatch.syspath_prepend(str(PACKAGE))
    yield "example-first-weights"
    sys.modules.pop("robustprune_example", None)


def test_an_installed_package_is_a_method_like_any_other(plugin):
    assert plugin in methods.names()
    assert "robustprune_example" not in sys.modules  # listed without being loaded
    kind = methods.method(plugin)
    assert kind.info.title == "First weights"
    pruned = methods.compress(plugin, kind(), untrained(3), task_of(HALF, "unstructured"))
    for tensor in pruned.mask.values():
        flat = tensor.flatten()
        assert flat[: len(flat) - round(HALF * len(flat))].all()
        assert not flat[len(flat) - round(HALF * len(flat)) :].any()
    assert methods.method(plugin) is kind


@pytest.mark.parametrize("word", CONTROLS)
def test_an_installed_package_has_its_sanity_controls(plugin, word):
    name = f"{word}-{plugin}"
    assert methods.controls()[name] == plugin
    assert "robustprune_example" not in sys.modules
    kind = methods.method(name)
    assert kind.info.authors[0] == "A third party" and kind.structures == ("unstructured",)
    pruned = methods.compress(name, kind(), untrained(3), task_of(HALF, "unstructured"))
    for tensor in pruned.mask.values():
        assert int((~tensor).sum()) == round(HALF * tensor.numel())


def test_a_package_cannot_take_the_name_of_a_control(tmp_path, monkeypatch, plugin):
    value = "robustprune_example:FirstWeights"
    install(tmp_path / "b", monkeypatch, "other", {"shuffled-random": value, "shuffled-own": value})
    with pytest.raises(ContractError, match="one source of method 'shuffled-random', got .*uninst"):
        methods.method("shuffled-random")
    with pytest.raises(ContractError, match="begins with reinitialised- or shuffled-"):
        methods.method("shuffled-own")
    assert methods.method("shuffled-lwm-global").info.title == "LWM, global, shuffled"
    assert "shuffled-own" not in methods.controls()
    assert "shuffled-own" not in methods.controls().values()


def test_no_place_a_package_names_lets_it_around_the_contract(tmp_path, monkeypatch):
    place = "methods._sanity_controls.shuffled"
    install(
        tmp_path, monkeypatch, "sly", {"sly": place, "slier": "methods._sanity_controls:Pruned"}
    )
    for name in ("sly", "slier"):
        with pytest.raises(ContractError, match=f"'{name}'"):
            methods.method(name)


def test_names_that_are_no_names_have_no_controls(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "odd", {"Odd Name": "no_such_module_anywhere:Thing"})
    assert "Odd Name" in methods.names()
    assert not any("Odd" in name for name in methods.controls())


def test_without_the_package_there_is_no_such_method():
    assert "example-first-weights" not in methods.names()


BROKEN = {
    "no such module": ("no_such_module_anywhere:Thing", None, "ModuleNotFoundError"),
    "no such name": ("broken_plugin:Thing", "", "AttributeError"),
    "raises": ("broken_plugin:Thing", "raise ValueError('torn')", "ValueError: torn"),
    "exits": ("broken_plugin:Thing", "import sys; sys.exit(3)", "SystemExit: 3"),
    "not a class": ("broken_plugin:Thing", "Thing = 3", "be a class, got int"),
    "not a method": ("broken_plugin:Thing", "class Thing: pass", "a dataclass"),
    "no reference": ("broken plugin!", None, "to load from"),
}


@pytest.mark.parametrize(("value", "text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_package_breaks_only_itself(tmp_path, monkeypatch, value, text, message):
    install(tmp_path, monkeypatch, "broken", {"broken-method": value})
    if text is not None:
        (tmp_path / "broken_plugin.py").write_text(text)
    assert {"broken-method", "dense"} <= set(methods.names())
    assert methods.method("dense").info.title == "Dense"
    with pytest.raises(ContractError, match="'broken-method'") as caught:
        methods.method("broken-method")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    sys.modules.pop("broken_plugin", None)


def test_a_package_cannot_take_a_first_party_name(tmp_path, monkeypatch, plugin):
    install(tmp_path / "b", monkeypatch, "usurper", {"dense": "robustprune_example:FirstWeights"})
    with pytest.raises(ContractError, match="one source of method 'dense', got methods.dense and"):
        methods.method("dense")
    assert methods.method("random").info.title == "Random"


def test_two_packages_cannot_share_a_name(tmp_path, monkeypatch, plugin):
    install(tmp_path / "b", monkeypatch, "other", {plugin: "other_module:Thing"})
    with pytest.raises(ContractError, match="uninstall or rename one"):
        methods.method(plugin)
