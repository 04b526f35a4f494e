"""Exports: the same predictions, files that come back, and no export where networks disagree."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fast import DENSE, make_project
from hypothesis import given, settings
from hypothesis import strategies as some
from test_compaction import network
from torch import nn

from benchmark.compaction import compact
from benchmark.errors import (
    BenchmarkError,
    ContractError,
    ExtraMissing,
    InvariantViolation,
    ManifestError,
    StorageError,
)
from benchmark.manifest import load_model
from benchmark.pipeline import Form, export, load_export
from benchmark.pipeline import exporting as module
from benchmark.protocols import protocol
from benchmark.pruning import mask_from_scores, prunable_parameters

NAME = "lwm-layerwise/digits/cnn-tiny/adversarial/unstructured-99/seed0"
DIGITS = protocol("digits-linf")
QUICK = (DIGITS, "quick")


@pytest.fixture
def project(tmp_path: Path):
    return make_project(tmp_path, NAME)


def inputs_of(count: int, shape=(1, 8, 8)) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smaller", [True, False])
def test_an_export_comes_back_as_the_same_function(project, smaller):
    entry = project.manifest().find(NAME)
    found = export(project, entry, QUICK, Form(smaller))
    assert found.same.examples == 150 and found.same.difference < 1e-5
    assert found.onnx_same is None
    for before, after in (found.parameters, found.multiply_adds):
        assert after < before / 5 if smaller else after == before
    assert sorted(p.name for p in found.folder.iterdir()) == [module.NETWORK, module.WEIGHTS]
    with torch.no_grad():
        again, published = load_export(found.folder), load_model(entry, project.root)
        assert torch.allclose(again(inputs_of(8)), published(inputs_of(8)), atol=1e-5)
    about = json.loads((found.folder / module.NETWORK).read_text())
    assert about["format"] == "robustprune-export-1"
    assert about["form"] == ("compact" if smaller else "as published")
    assert about["checkpoint_sha256"] == entry.sha256
    compared = about["same_predictions"]
    assert (compared["protocol"], compared["protocol_digest"]) == (DIGITS.id, DIGITS.digest)
    assert compared["networks"][module.NETWORK]["examples"] == 150
    assert about["multiply_adds"]["written"] == found.multiply_adds[1]
    # No dense parent in this project; the compact network is timed whatever is written.
    times = about["milliseconds"]
    assert times["dense"] == [] and times["processor"]
    for each in (times["masked"], times["compact"]):
        assert [one["batch"] for one in each] == [1, 64]


def test_the_dense_parent_is_timed_where_it_is_at_hand(tmp_path):
    project = make_project(tmp_path, DENSE, NAME)
    found = export(project, project.manifest().find(NAME), QUICK)
    assert [one.batch for one in found.latency.dense] == [1, 64]


def test_other_predictions_end_the_export(project, monkeypatch):
    def spoiled(network):
        small = compact(network)
        name = [name for name, _ in small.named_buffers() if name.endswith("bias")][-1]
        getattr(small, name).copy_(torch.arange(10.0) * 5)
        return small

    monkeypatch.setattr(module, "compact", spoiled)
    with pytest.raises(InvariantViolation, match=r"network.json .* other predictions, at test ex"):
        export(project, project.manifest().find(NAME), QUICK)
    assert not (project.root / "exports").exists()


def test_the_default_folder_stays_inside_the_project(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (project.root / "exports").symlink_to(outside)
    with pytest.raises(ManifestError, match="leads outside"):
        export(project, project.manifest().find(NAME), QUICK)
    assert not list(outside.iterdir())


def test_a_file_in_the_folders_place_is_one_line(project):
    (project.root / "exports").write_text("mine")
    with pytest.raises(StorageError, match="expected to write"):
        export(project, project.manifest().find(NAME), QUICK)
    assert (project.root / "exports").read_text() == "mine"


def test_what_cannot_be_removed_is_one_line(project, tmp_path):
    (tmp_path / "out" / module.ONNX).mkdir(parents=True)
    with pytest.raises(StorageError, match="expected to remove"):
        export(project, project.manifest().find(NAME), QUICK, folder=tmp_path / "out")
    assert not (tmp_path / "out" / module.NETWORK).exists()


def test_a_link_in_a_files_place_is_replaced_and_not_followed(project, tmp_path):
    folder, mine = tmp_path / "out", tmp_path / "mine"
    folder.mkdir()
    mine.write_text("mine")
    for name in (module.NETWORK, module.WEIGHTS):
        (folder / name).symlink_to(mine)
    export(project, project.manifest().find(NAME), QUICK, folder=folder)
    assert mine.read_text() == "mine" and load_export(folder)


def test_an_onnx_model_of_an_earlier_export_leaves(project, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / module.ONNX).write_bytes(b"of other weights")
    export(project, project.manifest().find(NAME), QUICK, folder=tmp_path / "out")
    assert not (tmp_path / "out" / module.ONNX).exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    project = make_project(tmp_path_factory.mktemp("exported"), NAME)
    return export(project, project.manifest().find(NAME), QUICK).folder


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.pop("operations"),
        lambda about: about["operations"][0].update(kind="pickle"),
        lambda about: about["operations"][0].update(inputs=[7]),
        lambda about: about["operations"][0].update(tensors=["elsewhere"]),
        lambda about: about.update(operations=[[]]),
        lambda about: about.update(format="robustprune-export-2"),
        lambda about: about.update(input=[1, 8, 8]),
        lambda about: about["input"].update(shape=[1, 9, 9]),
        lambda about: about["input"].update(shape=[1 << 40, 8, 8]),
        lambda about: about["files"].pop(module.WEIGHTS),
        lambda about: about.update(files=[]),
        lambda about: about["files"][module.WEIGHTS].update(bytes=1),
    ],
)
def test_altered_descriptions_are_refused(folder, change):
    path = folder / module.NETWORK
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    with pytest.raises(BenchmarkError, match="expected|unknown") as caught:
        load_export(folder)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"null", b"3", b"\xff", b"[" * 100_000, b'{"a":' * 100_000),
        *(b'{"format": NaN}', b'{"format": "robustprune-export-1"}', b" " * (2 << 20)),
        b'{"format": "robustprune-export-1", "operations": 1, "input": 2, "files": 3}',
    ],
)
def test_what_is_no_description_is_refused(folder, data):
    (folder / module.NETWORK).write_bytes(data)
    with pytest.raises(ManifestError, match="network.json|at most"):
        load_export(folder)


def test_other_weights_are_refused(folder):
    path = folder / module.WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ManifestError, match=r"weights.safetensors that network.json names"):
        load_export(folder)
    path.unlink()
    with pytest.raises(ManifestError, match="found not both; make them with `robustprune export`"):
        load_export(folder)
    with pytest.raises(ManifestError, match="robustprune export"):
        load_export(folder / "nowhere")


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(name=some.sampled_from(["format", "operations", "input", "files"]), value=JSON)
def test_any_value_in_a_description_is_refused_in_a_line(tmp_path_factory, exported, name, value):
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("any") / "copy"))
    about = json.loads((folder / module.NETWORK).read_text())
    (folder / module.NETWORK).write_text(json.dumps({**about, name: value}))
    with pytest.raises(BenchmarkError) as caught:
        load_export(folder)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


# --- ONNX


def running(model: bytes):
    """Returns what runs a model, whichever of the two programs for it is installed."""
    found = module._runtime(model)
    if found:
        return found[module.ONNX]
    reference = pytest.importorskip("onnx.reference", reason="neither onnxruntime nor onnx")
    session = reference.ReferenceEvaluator(model)
    return lambda inputs: torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


@pytest.mark.parametrize("smaller", [True, False])
def test_onnx_answers_alike(project, smaller):
    pytest.importorskip("onnxscript")
    found = export(project, project.manifest().find(NAME), QUICK, Form(smaller, onnx=True))
    data = (found.folder / module.ONNX).read_bytes()
    about = json.loads((found.folder / module.NETWORK).read_text())
    assert about["files"][module.ONNX] == module._named(data)
    if module._runtime(data):
        assert found.onnx_same is not None and found.onnx_same.examples == 150
        assert about["same_predictions"]["networks"][module.ONNX]["examples"] == 150
    model = running(data)
    for count in (1, 5):
        with torch.no_grad():
            expected = load_export(found.folder)(inputs_of(count))
        assert torch.allclose(model(inputs_of(count)), expected, atol=1e-5)


def test_onnx_that_predicts_otherwise_ends_the_export(project, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(module, "_runtime", lambda _: {module.ONNX: lambda x: torch.eye(10)[:1]})
    with pytest.raises(InvariantViolation, match=r"expected network.onnx to predict"):
        export(project, project.manifest().find(NAME), QUICK, Form(onnx=True))
    assert not (project.root / "exports").exists()


def test_onnx_without_the_packages_says_what_to_install(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'robustprune\[export\]'"):
        export(project, project.manifest().find(NAME), QUICK, Form(onnx=True))
    assert not (project.root / "exports").exists()


def without_a_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def test_without_a_runtime_an_onnx_model_claims_nothing(project, monkeypatch):
    pytest.importorskip("onnxscript")
    without_a_runtime(monkeypatch)
    found = export(project, project.manifest().find(NAME), QUICK, Form(onnx=True))
    assert found.onnx_same is None
    about = json.loads((found.folder / module.NETWORK).read_text())
    assert module.ONNX in about["files"]
    assert module.ONNX not in about["same_predictions"]["networks"]


MASKS = {
    "half the filters": (0.5, "filter"),
    "90 % unstructured": (0.9, "unstructured"),
    "99 % unstructured": (0.99, "unstructured"),
    "a dead layer": (1.0, "unstructured"),
}


@torch.no_grad()
def masked(name: str, masks: str) -> Any:
    model = network(name)
    sparsity, structure = MASKS[masks]
    weights = prunable_parameters(model)
    scores = {key: weight.detach().abs() for key, weight in weights.items()}
    if sparsity < 1:
        mask_from_scores(scores, sparsity, "layerwise", structure).apply(model)
    else:
        list(weights.values())[len(weights) // 2].zero_()
    return model


SIZES = ["cnn-tiny", "cnn-small", "lenet5", "lenet5-caffe", "lenet3", "lenet-radmm"]
LARGE = ["cnn-large", "vgg16-bn", "resnet18", "wrn-28-4"]


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(
    "name", [*SIZES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
def test_every_architecture_becomes_an_onnx_model(name, masks):
    pytest.importorskip("onnxscript")
    model = masked(name, masks)
    small = compact(model).eval()
    run = running(module._onnx(small, model.shape))
    inputs = inputs_of(3, model.shape)
    with torch.no_grad():
        expected = model(inputs)
        scale = float(expected.abs().max())
        for found in (run(inputs), small(inputs), run(inputs[:1])):
            assert torch.allclose(found, expected[: len(found)], rtol=1e-4, atol=1e-4 * scale)
        assert torch.equal(run(inputs).argmax(1), expected.argmax(1))


def test_what_is_no_operation_is_not_exported(project, monkeypatch):
    model = network("cnn-tiny")
    model.body = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(64, 10)).eval()
    monkeypatch.setattr(module, "load_model", lambda *_: model)
    with pytest.raises(ContractError, match="known layers, got Tanh"):
        export(project, project.manifest().find(NAME), QUICK)
