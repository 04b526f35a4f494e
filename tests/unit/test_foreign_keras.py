"""Keras files of the layout that the blind adversarial pruning code writes; needs h5py."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.datasets import describe
from benchmark.errors import ExtraMissing, ManifestError
from benchmark.foreign import Request, convert

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = tmp_path / "0.9_model.h5"
    path.write_bytes(SIGNATURE + b"\0" * 100)
    with pytest.raises(ExtraMissing, match=r"robustprune\[keras\]"):
        convert(Request(path, describe("mnist", None), "bap"))


def lenet5() -> nn.Sequential:
    """Channels last where Keras flattens: the columns are moved when it is stored."""
    pool = nn.MaxPool2d(2)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), pool),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), pool),
        *(nn.Flatten(), nn.Linear(3136, 84), nn.ReLU(), nn.Linear(84, 10)),
    ).eval()


def arrays(net: nn.Sequential) -> list[list[np.ndarray]]:
    """Returns kernel and bias of each layer as Keras has them."""
    found = []
    for place in (0, 3, 7, 9):
        weight = net[place].weight.detach().numpy()
        if place == 7:  # (out, C, H, W) -> (out, H, W, C)
            weight = weight.reshape(84, 64, 7, 7).transpose(0, 2, 3, 1).reshape(84, -1)
        kernel = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        found.append([kernel, net[place].bias.detach().numpy()])
    return found


def keras_file(path: Path, net: nn.Sequential) -> Any:
    h5py = pytest.importorskip("h5py")
    names = ["conv2d", "max_pooling2d", "conv2d_1", "flatten", "dense", "dense_1"]
    parts = dict(zip(("conv2d", "conv2d_1", "dense", "dense_1"), arrays(net), strict=True))
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            layer = group.create_group(name)
            stored = dict(
                zip((f"{name}/kernel:0", f"{name}/bias:0"), parts.get(name, ()), strict=False)
            )
            layer.attrs["weight_names"] = [part.encode() for part in stored]
            for part, array in stored.items():
                layer.create_dataset(part, data=array)
    return h5py


def test_equal_logits(tmp_path: Path) -> None:
    net, path = lenet5(), tmp_path / "0.9_model.h5"
    with torch.no_grad():
        net[7].weight[torch.rand(84, 3136) < 0.9] = 0
    keras_file(path, net)
    found = convert(Request(path, describe("mnist", None), "bap"))
    assert found.model.architecture == "lenet5" and found.container == "Keras file"
    inputs = torch.rand(5, 1, 28, 28)
    with torch.no_grad():
        expected = net(inputs)
        assert torch.allclose(found.model(inputs), expected, rtol=0, atol=1e-6)
    assert found.sparsity["unstructured"].zeros == int((net[7].weight == 0).sum())


@pytest.mark.parametrize("kind", ["soft", "external", "virtual", "data", "cut"])
def test_links_out_of_the_file_are_not_followed(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "model.h5", tmp_path / "other.h5"
    h5py = keras_file(path, lenet5())
    keras_file(other, lenet5())
    with h5py.File(path, "a") as file:
        layer = file["model_weights/dense/dense"]
        del layer["kernel:0"]
        if kind == "soft":
            layer["kernel:0"] = h5py.SoftLink("/model_weights/dense_1/dense_1/kernel:0")
        elif kind == "external":
            layer["kernel:0"] = h5py.ExternalLink(str(other), "model_weights/dense/dense/kernel:0")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3136, 84), "f4")
            layout[:] = h5py.VirtualSource(
                str(other), "model_weights/dense/dense/kernel:0", (3136, 84)
            )
            layer.create_virtual_dataset("kernel:0", layout)
        elif kind == "data":
            size = 3136 * 84 * 4
            raw = tmp_path / "secret.bin"
            raw.write_bytes(b"\0" * size)
            layer.create_dataset("kernel:0", (3136, 84), "f4", external=[(str(raw), 0, size)])
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ManifestError) as caught:
        convert(Request(path, describe("mnist", None), "bap"))
    assert str(caught.value).isprintable()
    assert ("outside" in str(caught.value) or "link" in str(caught.value)) or kind == "cut"
