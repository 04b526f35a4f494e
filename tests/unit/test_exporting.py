"""Exports: the same predictions, files that come back, and no export where networks disagree."""

import json
from pathlib import Path

import pytest
import torch
from fast import make_project

from benchmark.errors import InvariantViolation, ManifestError
from benchmark.manifest import load_model
from benchmark.pipeline import export, load_export
from benchmark.pipeline import exporting as module
from benchmark.protocols import protocol

NAME = "lwm-layerwise/digits/cnn-tiny/adversarial/unstructured-99/seed0"
DIGITS = protocol("digits-linf")


@pytest.fixture
def project(tmp_path: Path):
    return make_project(tmp_path, NAME)


def test_an_export_comes_back_as_the_same_function(project):
    entry = project.manifest().find(NAME)
    found = export(project, entry, DIGITS, "quick")
    assert found.examples == 150 and found.difference < 1e-5
    assert found.parameters[1] < found.parameters[0] / 5
    assert sorted(p.name for p in found.folder.iterdir()) == [module.NETWORK, module.WEIGHTS]
    inputs = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        again, published = load_export(found.folder)(inputs), load_model(entry, project.root)
        assert torch.allclose(again, published(inputs), atol=1e-5)
    about = json.loads((found.folder / module.NETWORK).read_text())
    assert about["checkpoint_sha256"] == entry.sha256
    assert about["same_predictions"]["examples"] == 150
    for each in about["milliseconds"].values():
        assert [one["batch"] for one in each] == [1, 64]
        assert all(0 < one["quartiles"][0] <= one["median"] <= one["quartiles"][1] for one in each)


def test_other_predictions_end_the_export(project, monkeypatch):
    def spoiled(network):
        small = real(network)
        name = [name for name, _ in small.named_buffers() if name.endswith("bias")][-1]
        getattr(small, name).copy_(torch.arange(10.0) * 5)
        return small

    real = module.compact
    monkeypatch.setattr(module, "compact", spoiled)
    with pytest.raises(InvariantViolation, match="other predictions, at test examples"):
        export(project, project.manifest().find(NAME), DIGITS, "quick")
    assert not (project.root / "exports").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.pop("operations"),
        lambda about: about["operations"][0].update(kind="pickle"),
        lambda about: about["operations"][0].update(inputs=[7]),
        lambda about: about["operations"][0].update(tensors=["elsewhere"]),
        lambda about: about.update(operations=[[]]),
    ],
)
def test_altered_descriptions_are_refused(project, change):
    folder = export(project, project.manifest().find(NAME), DIGITS, "quick").folder
    path = folder / module.NETWORK
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    with pytest.raises(Exception, match="expected|unknown") as caught:
        load_export(folder)
    assert type(caught.value).__module__ == "benchmark.errors"
    with pytest.raises(ManifestError, match="robustprune export"):
        load_export(folder / "nowhere")


def test_onnx_answers_alike(project):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found = export(project, project.manifest().find(NAME), DIGITS, "quick", onnx=True)
    session = runtime.InferenceSession((found.folder / module.ONNX).read_bytes())
    for count in (1, 5):
        inputs = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        (logits,) = session.run(None, {"inputs": inputs.numpy()})
        with torch.no_grad():
            expected = load_export(found.folder)(inputs)
        assert torch.allclose(torch.from_numpy(logits), expected, atol=1e-5)
