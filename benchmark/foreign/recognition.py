"""Which of our networks a state dict belongs to, by names and shapes alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark.architectures import ARCHITECTURES, dead_parameters
from benchmark.architectures.base import Shape
from benchmark.errors import ManifestError, lookup, shorten
from benchmark.foreign.formats import LAST_BIAS, NORMS, Format

State = dict[str, Tensor]

_COUNTER = ".num_batches_tracked"

# Networks that take seconds to build, and a tensor that a file of theirs has.
_TELLTALE = {"resnet50": "layer1.0.conv3.weight"}


@dataclass(frozen=True)
class Fit:
    """How a state dict fits a network.

    Attributes:
        architecture: the network's name.
        matching: tensors that fit.
        expected: tensors that it has.
        difference: the first that does not fit, in words; empty if all do.
        state: the tensors in the network's shapes, what may be absent filled in; empty if not all
            fit.
        notes: what was filled in.
    """

    architecture: str
    matching: int
    expected: int
    difference: str
    state: State
    notes: tuple[str, ...]


def recognise(
    state: Mapping[str, Tensor], chosen: Format, shape: Shape, classes: int, architecture: str = ""
) -> Fit:
    """Returns the one network whose tensors these are.

    Args:
        state: plain weights under our names.
        chosen: format, which knows the networks of its code.
        shape: (C, H, W) of the data set.
        classes: of the data set.
        architecture: the network that it must be; empty to find it.

    Raises:
        UnknownName: no such architecture.
        ManifestError: none fits, or several do; the message names the closest and what differs.
    """
    names: Sequence[str] = chosen.architectures or tuple(ARCHITECTURES)
    if architecture:
        lookup("architecture", architecture, ARCHITECTURES)
        names = (architecture,)
    elif len(names) > 1:
        names = [name for name in names if _TELLTALE.get(name, "") in ("", *state)]
    usable = [name for name in names if ARCHITECTURES[name].shapes.accept(shape)]
    if not usable:
        raise ManifestError(
            f"expected a network for inputs of shape {shape}, got a {chosen.name} file, whose "
            f"networks are {', '.join(names)}; correct --dataset, --format or --architecture"
        )
    fits = [_fit(name, state, shape, classes, chosen.absent) for name in usable]
    found = [fit for fit in fits if not fit.difference]
    if len(found) > 1:
        several = " and ".join(fit.architecture for fit in found)
        raise ManifestError(
            f"expected one network, got tensors that fit {several}; give --architecture"
        )
    if not found:
        closest = max(fits, key=lambda fit: fit.matching / max(fit.expected, len(state)))
        raise ManifestError(
            f"expected the tensors of one of {', '.join(usable)}, got {len(state)} that fit none; "
            f"closest is {closest.architecture}, where {closest.difference}; correct --format or "
            "--dataset, or bring the network with `import --trust`"
        )
    return found[0]


def _fit(
    name: str, state: Mapping[str, Tensor], shape: Shape, classes: int, absent: frozenset[str]
) -> Fit:
    with torch.device("meta"):
        body = ARCHITECTURES[name].build(shape, classes)
    expected = body.state_dict()
    filled, notes = _fillings(body, state, absent)
    fitted: State = {}
    difference = ""
    for key, wanted in expected.items():
        tensor = state.get(key, filled.get(key))
        view = None if tensor is None else _viewed(tensor, wanted.shape)
        if view is not None:
            fitted[key] = view
        elif not difference:
            found = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            difference = f"'{shorten(key)}' of shape {tuple(wanted.shape)} is {found}"
    left = next((key for key in state if key not in expected), "")
    difference = difference or (f"'{shorten(left)}' is left over" if left else "")
    matching = len(fitted) - len(filled)
    return Fit(name, matching, len(expected), difference, {} if difference else fitted, notes)


def _viewed(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """Returns a tensor in a shape that it has but for dimensions of 1 behind its first two."""
    same = tensor.shape[:2] == shape[:2] and {*tensor.shape[2:], *shape[2:]} <= {1}
    if tensor.shape == shape or (same and {tensor.dim(), len(shape)} == {2, 4}):
        return tensor.reshape(shape)
    return None


def _fillings(
    body: nn.Module, state: Mapping[str, Tensor], absent: frozenset[str]
) -> tuple[State, tuple[str, ...]]:
    """Returns values of tensors that a file may lack without its function being another."""
    filled: State = {}
    notes: list[str] = []
    names = body.state_dict()
    dead = tuple({f"{name.split('.')[0]}." for name in dead_parameters(body)})
    if dead and not any(key.startswith(dead) for key in state):
        filled |= {key: torch.zeros(t.shape) for key, t in names.items() if key.startswith(dead)}
        filled |= {key: torch.ones_like(t) for key, t in filled.items() if "running_var" in key}
        notes.append(f"{len(filled)} tensors of parts that the network never uses are zeros")
    if NORMS in absent:
        for name, module in body.named_modules():
            if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" not in state:
                width = module.num_features
                filled |= {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
                notes.append(f"{name} scales by one, since the file has norms without scale")
    last = list(names)[-1]
    if LAST_BIAS in absent and last.endswith(".bias") and last not in state:
        filled[last] = torch.zeros(names[last].shape)
        notes.append(f"{last} is zero, since the file's last layer has no bias")
    filled |= {key: torch.zeros(()) for key in names if key.endswith(_COUNTER)}
    counters = {key: torch.zeros((), dtype=torch.int64) for key in filled if key.endswith(_COUNTER)}
    filled |= counters
    return {key: tensor for key, tensor in filled.items() if key not in state}, tuple(notes)
