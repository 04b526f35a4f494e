"""Networks described by data: the same as native ones, and nothing hostile gets through."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from small_project import entry, store_bytes
from tiny import digits, trained
from torch import nn

from benchmark import weights
from benchmark.architectures import Classifier, build, described, initialise
from benchmark.architectures.resnet import BasicBlock
from benchmark.architectures.tracing import trace
from benchmark.bounds import margin_bounds
from benchmark.compaction import as_published, compact
from benchmark.digests import sha256_of_bytes
from benchmark.errors import BenchmarkError, ContractError, ManifestError, UnknownName
from benchmark.manifest import (
    Checkpoint,
    Manifest,
    empty_network,
    find_description,
    load_model,
)
from benchmark.pruning import (
    STRUCTURES,
    eligible,
    mask_from_scores,
    measure,
    prunable_parameters,
)
from benchmark.threat import ThreatModel
from benchmark.unrolling import unroll


def native(name: str) -> Classifier:
    model = build(name, shape=(1, 8, 8), classes=10, mean=(0.3,), std=(0.4,))
    initialise(model, torch.Generator().manual_seed(1))
    draws = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(generator=draws)
            module.running_var.uniform_(0.5, 2, generator=draws)
    return model.eval()


def as_data(model: Classifier, name: str = "same") -> Classifier:
    """Returns the network once described, written as JSON, read again and built."""
    traced = trace(copy.deepcopy(model), name=name, shape=model.shape, classes=model.classes)
    data = weights.encode(traced.state, traced.description.plain())
    again = described.parse(weights.description_of(data))
    channels = model.shape[0]
    made = described.build(again, mean=(0.0,) * channels, std=(1.0,) * channels)
    made.load_state_dict(weights.decode(data), strict=True)
    return made.eval()


def plain(name: str = "cnn-tiny") -> dict[str, Any]:
    """Returns a description that is fine, as JSON gives it."""
    said = trace(native(name), name="fine", shape=(1, 8, 8), classes=10).description.plain()
    return json.loads(json.dumps(said))


@pytest.mark.parametrize("name", ["cnn-tiny", "lenet5", "resnet18"])
def test_a_described_network_is_the_native_one(name: str) -> None:
    model = native(name)
    made = as_data(model)
    inputs = torch.rand(3, *model.shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(made(inputs), model(inputs))
    wanted = prunable_parameters(model)
    assert list(prunable_parameters(made)) == list(wanted)
    scores = {name: p.detach().abs() for name, p in wanted.items()}
    # Eleven million weights are pruned once.
    for structure in ("filter",) if name == "resnet18" else STRUCTURES:
        masked = [copy.deepcopy(model), copy.deepcopy(made)]
        for one in masked:
            mask_from_scores(scores, 0.5, "layerwise", structure).apply(one)
        counts = [measure(one, model.shape, structure) for one in masked]
        assert counts[0].layers == counts[1].layers
        assert counts[0].removed_units == counts[1].removed_units > 0
        assert torch.equal(masked[0](inputs), masked[1](inputs))
    small = compact(masked[0]), compact(masked[1])
    assert torch.equal(small[0](inputs), small[1](inputs))
    assert [o.kind for o in as_published(made).operations] == [
        o.kind for o in as_published(model).operations
    ]


@pytest.mark.parametrize("method", ["ibp", "crown", "crown-ibp", "alpha-crown", "ibp-plain"])
def test_bounds_of_a_described_cnn_are_those_of_the_native_one(method: Any) -> None:
    model, examples = trained(), digits(6)
    arguments = examples.inputs, examples.labels, ThreatModel.parse("Linf 1/10"), method
    wanted = margin_bounds(model, *arguments)
    assert torch.equal(margin_bounds(as_data(model), *arguments), wanted)
    assert bool(wanted.isfinite().all())


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_bounds_of_a_described_resnet_are_those_of_the_native_one(method: Any) -> None:
    model, examples = native("resnet18"), digits(1)
    arguments = examples.inputs, examples.labels, ThreatModel.parse("Linf 1/1000"), method
    wanted = margin_bounds(model, *arguments)
    assert torch.equal(margin_bounds(as_data(model), *arguments), wanted)
    assert bool(wanted.isfinite().all())


def test_a_described_network_unrolls_as_the_native_one() -> None:
    model = native("lenet5")
    scores = {name: p.detach().abs() for name, p in prunable_parameters(model).items()}
    mask_from_scores(scores, 0.99, "global").apply(model)
    inputs = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    unrolled = [unroll(compact(one), (1, 8, 8)) for one in (model, as_data(model))]
    assert unrolled[0] is not None and unrolled[1] is not None
    assert torch.equal(unrolled[0](inputs), unrolled[1](inputs))


def test_a_sequence_stays_one_and_branches_are_followed() -> None:
    assert type(as_data(native("lenet5")).body) is nn.Sequential
    assert type(as_data(native("resnet18")).body) is described.Branching


def test_the_id_belongs_to_the_content() -> None:
    said = plain()
    network = described.parse(said)
    assert network.architecture.startswith("described-fine-")
    assert len(network.architecture.rpartition("-")[2]) == 12
    assert described.title(network.architecture) == "fine (described)"
    turned = json.loads(json.dumps(said, sort_keys=True))
    assert described.parse(turned).architecture == network.architecture
    turned["layers"][0]["padding"] = [1, 1]
    assert described.parse(turned).architecture == network.architecture
    said["layers"][1]["name"] = "renamed"
    assert described.parse(said).architecture != network.architecture


def test_nothing_is_drawn_and_everything_is_zero_at_first() -> None:
    network = described.parse(blocks())
    before = torch.get_rng_state()
    made = described.build(network, mean=(0.0,), std=(1.0,))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(bool(p.any()) for p in prunable_parameters(made).values())


# --- Weights files


def test_a_description_travels_with_the_weights_and_changes_no_other_file() -> None:
    model = native("cnn-tiny")
    state, said = model.state_dict(), plain()
    bare, data = weights.encode(state), weights.encode(state, said)
    assert weights.encode(state, None) == bare
    assert (weights.description_of(bare), weights.description_of(data)) == (None, said)
    again = weights.decode(data)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert weights.encode(state, said) == data
    # Frozen: files of before this format had a second kind of header stay as they are.
    fixed = {"a": torch.arange(600.0), "b": torch.zeros(900)}
    assert sha256_of_bytes(weights.encode(fixed))[:16] == FROZEN


FROZEN = "90416601a3cf7d07"


def stored(root: Path, said: object, architecture: str, **changes: Any) -> Checkpoint:
    state = native("cnn-tiny").state_dict()
    claims = {"zeros": 0, "prunable": 9872, "sparsity": 0.0, "architecture": architecture}
    return store_bytes(root, weights.encode(state, said), **claims, **changes)


def test_a_checkpoint_of_a_described_network_loads(tmp_path: Path) -> None:
    said = plain()
    name = described.parse(said).architecture
    made = stored(tmp_path, said, name)
    loaded = load_model(made, tmp_path)
    inputs = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(inputs), native("cnn-tiny")(inputs))
    assert loaded.architecture == name
    found = find_description(Manifest(checkpoints=(made,)), tmp_path, name)
    assert isinstance(empty_network(name, "digits", found), Classifier)
    assert find_description(Manifest(), tmp_path, "cnn-tiny") is None
    with pytest.raises(UnknownName, match="no checkpoint of this project has it"):
        find_description(Manifest(), tmp_path, name)


def test_a_description_that_is_not_of_its_id_is_refused(tmp_path: Path) -> None:
    said = plain()
    name = described.parse(said).architecture
    other = name[:-1] + ("0" if name[-1] != "0" else "1")
    for wrong, architecture, changes, message in (
        (said, other, {}, f"expected the description of {other}, got that of {name}"),
        (None, name, {}, "expected a description with format"),
        (said, "cnn-tiny", {}, "without a description, got one"),
        (said, name, {"dataset": "mnist"}, "and 10 classes of mnist"),
        ("x" * 500, name, {}, "expected a description with format"),
    ):
        made = stored(tmp_path, wrong, architecture, **changes)
        with pytest.raises(ManifestError, match=message):
            load_model(made, tmp_path)


def test_a_metadata_header_that_lies_is_refused() -> None:
    state = {"a": torch.zeros(3)}
    for said in ({"a": "x" * weights.LARGEST_DESCRIPTION}, [[0] * weights.LARGEST_DESCRIPTION]):
        data = weights.encode(state, said)
        for read in (weights.decode, weights.description_of):
            with pytest.raises(ManifestError, match="too long"):
                read(data)
    deep = weights.encode(state, json.loads("[" * 150 + "]" * 150))
    assert weights.description_of(deep) is not None
    header = b'{"__metadata__":{"robustprune-described":"[1]"}}'
    data = len(header).to_bytes(8, "little") + header
    with pytest.raises(ManifestError, match="no shapes and description"):
        weights.description_of(data)


# --- Hostile descriptions


def at(number: int, **changes: Any) -> Any:
    def change(said: dict[str, Any]) -> None:
        said["layers"][number] |= changes

    return change


def drop(said: dict[str, Any]) -> None:
    del said["layers"][0]["stride"]


def dead(said: dict[str, Any]) -> None:
    said["layers"].insert(1, {"name": "dead", "kind": "relu", "inputs": [1]})
    for layer in said["layers"][2:]:
        layer["inputs"] = [i + 1 if i > 1 else i for i in layer["inputs"]]


CHANGES: dict[str, tuple[Any, str]] = {
    "extra": (lambda said: said.update(more=1), "a description with format"),
    "format": (lambda said: said.update(format=True), "of format 1"),
    "name": (lambda said: said.update(name="A<b>"), "a name of at most 16"),
    "long name": (lambda said: said.update(name="a" * 17), "a name of at most 16"),
    "no layers": (lambda said: said.update(layers=[]), "a list of 1 to 1024 layers"),
    "many": (lambda said: said.update(layers=said["layers"] * 400), "a list of 1 to 1024"),
    "shape": (lambda said: said.update(shape=[1, 8, 8.0]), r"shape \(C, H, W\)"),
    "huge shape": (lambda said: said.update(shape=[1, 1 << 70, 8]), r"shape \(C, H, W\)"),
    "classes": (lambda said: said.update(classes=1), "2 to 4096 classes"),
    "other classes": (lambda said: said.update(classes=11), r"logits \(N, 11\)"),
    "kind": (at(0, kind="conv3d"), "unknown kind of layer 'conv3d'"),
    "setting": (drop, "bias, dilation, inputs"),
    "unknown setting": (at(1, cost=1), "inputs, kind, name of a relu"),
    "boolean": (at(0, bias=1), "true or false as bias"),
    "fraction": (at(0, stride=[1.5, 1]), "two whole numbers"),
    "single": (at(0, stride=1), "two whole numbers"),
    "negative": (at(0, padding=[-1, 0]), "two whole numbers"),
    "zero": (at(0, kernel_size=[0, 3]), "two whole numbers"),
    "forward": (at(1, inputs=[3]), "inputs from before layer 1"),
    "itself": (at(1, inputs=[2]), "inputs from before layer 1"),
    "true": (at(0, inputs=[False]), "inputs from before layer 0"),
    "too many inputs": (at(1, inputs=[0, 1]), "1 inputs from before"),
    "path": (at(0, name="../x"), "a path of letters"),
    "hidden": (at(0, name="_forward_hooks"), "a path of letters"),
    "reserved": (at(0, name="forward"), "torch does not keep"),
    "reserved below": (at(0, name="a.training.b"), "torch does not keep"),
    "ours": (at(0, name="dead_modules.x"), "torch does not keep"),
    "newline": (at(0, name="conv\n"), "a path of letters"),
    "twice": (at(0, name="1"), "under a name of its own"),
    "below": (at(0, name="1.x"), "under a name of its own"),
    "deep": (at(0, name=".".join("a" * 17)), "a path of letters"),
    "unread": (dead, "one output, of the last layer"),
    "unfitting": (at(5, inputs=[1]), "one output, of the last layer"),
    "linear on images": (at(4, kind="relu", inputs=[4]), "layers that fit each other"),
    "parameters": (at(5, outputs=4096), r"logits \(N, 10\)"),
    "giant kernel": (at(0, kernel_size=[4096, 4096], outputs=4096), "parameters, got"),
    "giant values": (at(0, padding=[4096, 4096]), "values and"),
    "empty": (at(2, kernel_size=[9, 9], padding=[0, 0]), "layers that fit each other"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_hostile_description_is_refused(case: str) -> None:
    change, message = CHANGES[case]
    said = plain()
    change(said)
    with pytest.raises((ContractError, UnknownName), match=message) as refused:
        described.parse(said)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_a_norm_needs_a_sensible_epsilon() -> None:
    for eps in (0, -1e-5, float("nan"), float("inf"), True, "1", 2):
        said = blocks()
        said["layers"][1]["eps"] = eps
        with pytest.raises(ContractError, match=r"a number in \(0, 1\] as eps"):
            described.parse(said)


def test_names_keep_the_first_layer_first_and_the_logits_last() -> None:
    said = plain()
    # The logits lie beside the first layer, so that among names the second layer would be last.
    for layer, name in zip(said["layers"], ("a.x", "r", "b.x", "s", "f", "a.y"), strict=True):
        layer["name"] = name
    with pytest.raises(ContractError, match="the logits last"):
        described.parse(said)


def test_names_in_another_order_than_the_layers_run_are_followed() -> None:
    said = plain()
    for layer, name in zip(said["layers"], ("a.x", "r", "b.x", "a.s", "f", "y"), strict=True):
        layer["name"] = name
    made = described.build(described.parse(said), mean=(0.0,), std=(1.0,))
    assert type(made.body) is described.Branching
    names = list(prunable_parameters(made))
    assert eligible(names, "filter") == ["body.a.x.weight", "body.b.x.weight"]


def test_whoever_asks_for_too_much_gets_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    said = plain()
    said["layers"][0] |= {"kernel_size": [2048, 2048], "padding": [1024, 1024], "outputs": 64}
    made: list[str] = []
    real = torch.empty

    def noted(*arguments: Any, **settings: Any) -> torch.Tensor:
        found = real(*arguments, **settings)
        made.append(found.device.type)
        return found

    monkeypatch.setattr(torch, "empty", noted)
    with pytest.raises(ContractError, match="parameters"):
        described.parse(said)
    assert set(made) == {"meta"}


LEAVES = some.one_of(
    some.none(),
    some.booleans(),
    some.integers(-(1 << 70), 1 << 70),
    some.floats(),
    some.text(max_size=20),
    some.sampled_from(["conv2d", "relu", "add", "linear", "forward", "1", [1, 1], [0], [], {}]),
)
VALUES = some.recursive(
    LEAVES,
    lambda inner: some.one_of(
        some.lists(inner, max_size=4),
        some.dictionaries(some.text(max_size=8), inner, max_size=4),
    ),
    max_leaves=10,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the path of every part of JSON data."""
    found = [path]
    items: Any = []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def blocks() -> dict[str, Any]:
    """Returns the description of a small network with a norm, a sum and a pooling."""
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        BasicBlock(4, 8, 2),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    return json.loads(
        json.dumps(trace(body, name="fine", shape=(1, 8, 8), classes=10).description.plain())
    )


FINE = {"cnn-tiny": plain("cnn-tiny"), "blocks": blocks()}
PLACES = {name: places(said)[1:] for name, said in FINE.items()}


@settings(max_examples=150)
@given(some.data())
def test_a_changed_description_is_read_or_refused(data: some.DataObject) -> None:
    name = data.draw(some.sampled_from(sorted(FINE)))
    said = copy.deepcopy(FINE[name])
    for _ in range(data.draw(some.integers(1, 3))):
        path = data.draw(some.sampled_from(PLACES[name]))
        place: Any = said
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = data.draw(VALUES)
        except (KeyError, IndexError, TypeError):
            continue
    try:
        network = described.parse(said)
    except BenchmarkError as error:
        assert str(error).isprintable() and len(str(error)) < 1200
    else:
        # What is read is a network that runs, and says the same of itself.
        again = described.parse(json.loads(json.dumps(network.plain())))
        assert again == network
        model = described.build(
            network, mean=(0.0,) * network.shape[0], std=(1.0,) * network.shape[0]
        )
        assert model.eval()(torch.zeros(1, *network.shape)).shape == (1, network.classes)


@settings(max_examples=200)
@given(VALUES)
def test_anything_else_is_refused(found: Any) -> None:
    with pytest.raises(BenchmarkError):
        described.parse(found)


def test_an_entry_may_have_such_an_architecture() -> None:
    longest = f"described-{'a' * 16}-{'0' * 12}"
    assert entry(architecture=longest).architecture == longest
