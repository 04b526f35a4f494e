"""Keras files (`.h5`), as the blind adversarial pruning code writes them; needs h5py.

Only hard links within the file and data inside it are followed: an HDF5 file may name others.
"""

import io
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import ExtraMissing, ManifestError, shorten
from benchmark.foreign.containers import Leaf
from benchmark.weights import LARGEST_STATE

_MOST_LAYERS = 200
# What Keras calls the parts of a layer, and what torch does.
_PARTS = {"kernel": "weight", "bias": "bias"}


def keras_tree(data: bytes) -> object:
    """Returns the weights of a Keras model in torch's layout, named `<number>.<part>`.

    Layers that have weights are numbered in the model's order. A kernel of (H, W, in, out) becomes
    (out, in, H, W), one of (in, out) becomes (out, in); columns of a linear layer behind a
    flattening keep Keras' order of (H, W, C), see `flattened`.

    Raises:
        ExtraMissing: h5py is not installed.
        ManifestError: damaged, no model, or data outside the file.
    """
    try:
        import h5py
    except ImportError as error:
        raise ExtraMissing(
            "expected h5py to read a Keras file, found none; pip install 'robustprune[keras]', or "
            "save its weights as .npz with torch's names and shapes and import that"
        ) from error
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            return _leaves(h5py, file)
    except ManifestError:
        raise
    except Exception as error:  # HDF5's own errors have no common base
        raise _damaged(f"{type(error).__name__}: {error}") from error


def _damaged(found: str) -> ManifestError:
    return ManifestError(
        f"expected the weights of a Keras model, got '{shorten(found)}'; bring the original file"
    )


def _leaves(h5py: Any, file: Any) -> dict[str, Leaf]:
    group = _child(h5py, file, "model_weights") if "model_weights" in file else file
    names = [_text(name) for name in group.attrs.get("layer_names", ())]
    if not 0 < len(names) <= _MOST_LAYERS:
        raise _damaged(f"{len(names)} layers")
    found: dict[str, Leaf] = {}
    number = 0
    for name in names:
        layer = _child(h5py, group, name)
        parts = [_text(part) for part in layer.attrs.get("weight_names", ())]
        for part in parts[:4]:
            kind = _PARTS.get(re.sub(r":\d+$", "", part).rsplit("/", 1)[-1])
            if kind is None:
                raise _damaged(f"a part '{part}'")
            found[f"{number}.{kind}"] = _ready(_tensor(h5py, layer, part))
        number += bool(parts)
    return found


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _child(h5py: Any, group: Any, path: str) -> Any:
    """Returns what a path of hard links leads to."""
    for step in path.split("/"):
        if not isinstance(group.get(step, getlink=True), h5py.HardLink):
            raise _damaged(f"a link out of the file as '{step}'")
        group = group[step]
    return group


def _tensor(h5py: Any, layer: Any, path: str) -> Tensor:
    data = _child(h5py, layer, path)
    outside = data.external or data.is_virtual
    if outside or data.dtype.kind != "f" or not 0 < data.size <= LARGEST_STATE:
        raise _damaged(f"{'data outside the file' if outside else data.dtype} in '{path}'")
    array = np.asarray(data[()], dtype=data.dtype.newbyteorder("="))
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim)))
    return torch.from_numpy(np.ascontiguousarray(array.transpose(order)))


def _ready(tensor: Tensor) -> Leaf:
    return Leaf(tuple(tensor.shape), lambda: tensor)


def flattened(weight: Tensor, channels: int) -> Tensor:
    """Returns a linear weight whose columns count (C, H, W), from Keras' (H, W, C).

    Args:
        weight: (outputs, H * W * C).
        channels: C.
    """
    outputs, inputs = weight.shape
    return weight.view(outputs, inputs // channels, channels).transpose(1, 2).reshape(weight.shape)
