"""The same function in a smaller network: what pruning has left without effect is taken out.

A channel leaves where nothing reaches it from the input, so that it is a constant, or where nothing
behind it looks at it. Constants move into the biases of the layers that read them; next to a padded
border a constant channel adds less than inside, and such a bias is then an image of its own. Batch
norms become part of the convolution before them. Through residual sums, pooling and flattening the
same channels stay on every side.

The answers are the same function of the input but for rounding: sums have fewer terms.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from benchmark.architectures import Classifier
from benchmark.errors import ContractError, lookup


class NotCompactable(ContractError):
    """A network with layers whose channels nobody here knows how to follow."""


@dataclass(frozen=True)
class Operation:
    """One step of a network.

    Attributes:
        kind: key of `_KINDS`.
        inputs: positions of the operations whose values it takes.
        tensors: weights, by name.
        settings: whole numbers and pairs of them, by name.
    """

    kind: str
    inputs: tuple[int, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *values: Tensor) -> Tensor:
        """Returns its value for those of its inputs."""
        return _KINDS[self.kind](self.tensors, self.settings, *values)


class _Narrow(torch.autograd.Function):
    """A convolution of few channels, whose input gradient is a product and a sum of windows.

    For so few channels the library's way back takes twice as long as that.
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Mapping[str, Any]
    ) -> Tensor:
        context.save_for_backward(weight)
        context.size, context.settings = x.shape[2:], settings
        return functional.conv2d(x, weight, bias, **settings)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = context.saved_tensors
        columns = weight.flatten(1).T @ gradient.flatten(2)
        back = functional.fold(columns, context.size, weight.shape[2:], **context.settings)
        return back, None, None, None


# Input channels up to which that pays.
_FEW = 4


def _convolution(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], x: Tensor) -> Tensor:
    weight, bias = tensors["weight"], tensors.get("bias")
    if x.requires_grad and torch.is_grad_enabled() and weight.shape[1] <= _FEW and not x.is_cuda:
        found = cast(Tensor, _Narrow.apply(x, weight, bias, settings))
    else:
        found = functional.conv2d(x, weight, bias, **settings)
    return found + tensors["image"] if "image" in tensors else found


def _affine(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], x: Tensor) -> Tensor:
    return torch.addcmul(tensors["shift"][:, None, None], x, tensors["scale"][:, None, None])


_KINDS: dict[str, Callable[..., Tensor]] = {
    "affine": _affine,
    "convolution": _convolution,
    "linear": lambda tensors, settings, x: functional.linear(x, tensors["weight"], tensors["bias"]),
    "relu": lambda tensors, settings, x: functional.relu(x),
    "max-pool": lambda tensors, settings, x: functional.max_pool2d(x, **settings),
    "average-pool": lambda tensors, settings, x: functional.avg_pool2d(x, **settings),
    "mean": lambda tensors, settings, x: x.mean(dim=(2, 3), keepdim=True),
    "flatten": lambda tensors, settings, x: x.flatten(1),
    "add": lambda tensors, settings, x, y: x + y,
}
# They mix channels; all others keep them apart.
_MIXING = ("convolution", "linear")


class Compact(nn.Module):
    """A network as a list of operations; the first value is the input, the last the logits.

    Attributes:
        operations: in order; position 0 of their inputs is the network's input, 1 the first
            operation's value, and so on.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        """Takes the operations' tensors as buffers."""
        super().__init__()
        self.operations = tuple(operations)
        for number, operation in enumerate(operations):
            for name, tensor in operation.tensors.items():
                self.register_buffer(f"{number}-{name}", tensor)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits (N, K) of (N, C, H, W) inputs in [0, 1]."""
        values: list[Tensor] = [inputs]
        for number, operation in enumerate(self.operations):
            tensors = {name: getattr(self, f"{number}-{name}") for name in operation.tensors}
            chosen = (values[position] for position in operation.inputs)
            values.append(_KINDS[operation.kind](tensors, operation.settings, *chosen))
        return values[-1]


def compact(model: Classifier) -> Compact:
    """Returns the same function without what has no effect on it.

    Args:
        model: in eval mode; left untouched.

    Raises:
        NotCompactable: a layer or function whose channels cannot be followed.
    """
    operations = _folded(_traced(model))
    known = _constants(operations, model.shape)
    kept = _needed(operations, known)
    return Compact([_cut(operations, known, kept, at) for at in range(len(operations))])


# --- Reading a network


def _traced(model: Classifier) -> list[Operation]:
    """Returns the operations of a network, with weights in double precision."""
    std, mean = model.normalise.std.double().flatten(), model.normalise.mean.double().flatten()
    operations = [Operation("affine", (0,), {"scale": 1 / std, "shift": -mean / std})]
    try:
        graph = fx.symbolic_trace(model.body).graph
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError) as error:
        raise NotCompactable(
            f"expected a network without branches on values, got {error}; use it as it is"
        ) from error
    positions: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            positions[node] = 1
        elif node.op == "output":
            if positions[node.args[0]] != len(operations):
                raise NotCompactable("expected the last layer to give the logits, got another")
        else:
            made = _operation(model.body, node)
            inputs = tuple(positions[argument] for argument in _values(node))
            operations.append(replace(made, inputs=inputs))
            positions[node] = len(operations)
    return operations


def _values(node: fx.Node) -> Iterator[fx.Node]:
    return (argument for argument in node.args if isinstance(argument, fx.Node))


def _operation(body: nn.Module, node: fx.Node) -> Operation:
    if node.op == "call_module":
        layer = body.get_submodule(cast(str, node.target))
        if type(layer) in _LAYERS:
            return _LAYERS[type(layer)](layer)
        raise NotCompactable(f"expected known layers, got {type(layer).__name__}; use it as it is")
    kind = _FUNCTIONS.get(node.target)
    plain = not node.kwargs or node.kwargs == {"inplace": False}
    if kind == "flatten" and tuple(node.args[1:]) != (1,):
        kind = None
    if kind is None or not plain or len(list(_values(node))) != (2 if kind == "add" else 1):
        raise NotCompactable(f"expected known functions, got {node.format_node()}; use it as it is")
    return Operation(kind)


_FUNCTIONS: dict[Any, str] = {
    functional.relu: "relu",
    torch.relu: "relu",
    operator.add: "add",
    torch.add: "add",
    torch.flatten: "flatten",
}


def _read_convolution(layer: Any) -> Operation:
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise NotCompactable(f"expected plain convolutions, got {layer}; use the network as it is")
    bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
    return Operation(
        "convolution",
        tensors={"weight": layer.weight.detach().double(), "bias": bias.detach().double()},
        settings={"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation},
    )


def _read_norm(layer: Any) -> Operation:
    if layer.running_mean is None:
        raise NotCompactable("expected batch norms with statistics, got one without")
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    shift = -layer.running_mean.double() * scale
    if layer.affine:
        scale = scale * layer.weight.detach().double()
        shift = shift * layer.weight.detach().double() + layer.bias.detach().double()
    return Operation("affine", tensors={"scale": scale, "shift": shift})


def _read_linear(layer: Any) -> Operation:
    bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
    tensors = {"weight": layer.weight.detach().double(), "bias": bias.detach().double()}
    return Operation("linear", tensors=tensors)


def _read_pooling(layer: Any) -> Operation:
    settings = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding")}
    settings["ceil_mode"] = layer.ceil_mode
    if isinstance(layer, nn.AvgPool2d):
        settings["count_include_pad"] = layer.count_include_pad
        return Operation("average-pool", settings=settings)
    return Operation("max-pool", settings=settings | {"dilation": layer.dilation})


def _read_mean(layer: Any) -> Operation:
    if layer.output_size not in (1, (1, 1)):
        raise NotCompactable(f"expected pooling to one place, got {layer.output_size}")
    return Operation("mean")


def _read_flatten(layer: Any) -> Operation:
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise NotCompactable("expected all but the first dimension flattened, got others")
    return Operation("flatten")


_LAYERS: dict[type[nn.Module], Callable[[Any], Operation]] = {
    nn.Conv2d: _read_convolution,
    nn.BatchNorm2d: _read_norm,
    nn.Linear: _read_linear,
    nn.ReLU: lambda layer: Operation("relu"),
    nn.MaxPool2d: _read_pooling,
    nn.AvgPool2d: _read_pooling,
    nn.AdaptiveAvgPool2d: _read_mean,
    nn.Flatten: _read_flatten,
}


def _folded(operations: list[Operation]) -> list[Operation]:
    """Returns the operations with each affine one inside the convolution that it alone follows."""
    readers = [sum(at + 1 in o.inputs for o in operations) for at in range(len(operations))]
    folded: list[Operation] = []
    new: dict[int, int] = {0: 0}
    for at, operation in enumerate(operations):
        before = operation.inputs[0] - 1
        joins = (
            operation.kind == "affine"
            and before >= 0
            and operations[before].kind == "convolution"
            and readers[before] == 1
        )
        if joins:
            made = folded[new[before + 1] - 1]
            scale, shift = operation.tensors["scale"], operation.tensors["shift"]
            tensors = {
                "weight": made.tensors["weight"] * scale[:, None, None, None],
                "bias": made.tensors["bias"] * scale + shift,
            }
            folded[new[before + 1] - 1] = replace(made, tensors=tensors)
            new[at + 1] = new[before + 1]
        else:
            folded.append(replace(operation, inputs=tuple(new[i] for i in operation.inputs)))
            new[at + 1] = len(folded)
    return folded


# --- Following channels


@dataclass(frozen=True)
class _Value:
    """What is known of a value before any input is seen.

    Attributes:
        varies: (C,) bool, or (F,) behind flattening: does the input reach the channel?
        constant: (1, C, H, W) or (1, F): the value of channels that do not vary, 0 elsewhere.
    """

    varies: Tensor
    constant: Tensor


def _masked(values: Tensor, channels: Tensor) -> Tensor:
    """Returns values (1, C, ...) that are 0 but at some channels (C,)."""
    return torch.where(channels.view(1, -1, *[1] * (values.dim() - 2)), values, 0.0)


def _constants(operations: list[Operation], shape: tuple[int, int, int]) -> list[_Value]:
    """Returns what is known of the input and of each operation's value."""
    device = operations[0].tensors["scale"].device
    empty = torch.zeros(1, *shape, dtype=torch.float64, device=device)
    values = [_Value(torch.ones(shape[0], dtype=torch.bool, device=device), empty)]
    for operation in operations:
        inputs = [values[position] for position in operation.inputs]
        varies = _varies(operation, inputs)
        constant = operation(*(value.constant for value in inputs))
        values.append(_Value(varies, _masked(constant, ~varies)))
    return values


def _varies(operation: Operation, inputs: list[_Value]) -> Tensor:
    first = inputs[0].varies
    if operation.kind in _MIXING:
        weight = operation.tensors["weight"][:, first]
        return (weight != 0).flatten(1).any(dim=1)
    if operation.kind == "affine":
        return first & (operation.tensors["scale"] != 0)
    if operation.kind == "add":
        return first | inputs[1].varies
    if operation.kind == "flatten":
        return first.repeat_interleave(inputs[0].constant[0, 0].numel())
    return first


def _needed(operations: list[Operation], known: list[_Value]) -> list[Tensor]:
    """Returns for the input and each value (C,) or (F,) bool: which channels have to be there.

    Values that are added, or of which one follows from the other channel by channel, keep the same
    channels. Among those a channel is needed where a layer that is needed itself looks at it while
    it varies; to know one may take the other, so that this is repeated until nothing is added.
    """
    kept = [torch.zeros_like(value.varies) for value in known]
    kept[0][:] = kept[-1][:] = True
    _spread(operations, known, kept)
    for channels in kept:
        # A layer without any channel is none that can be run.
        if not bool(channels.any()):
            channels[0] = True
            _spread(operations, known, kept)
    return kept


def _spread(operations: list[Operation], known: list[_Value], kept: list[Tensor]) -> None:
    """Marks what is needed by what is marked, until nothing is added."""
    before = -1
    while before != (before := sum(int(channels.sum()) for channels in kept)):
        for at in reversed(range(len(operations))):
            operation, here = operations[at], kept[at + 1]
            if operation.kind in _MIXING:
                source = operation.inputs[0]
                weight = operation.tensors["weight"][here]
                looked_at = (weight != 0).transpose(0, 1).flatten(1).any(dim=1)
                kept[source] |= looked_at & known[source].varies
            elif operation.kind == "flatten":
                source = operation.inputs[0]
                kept[source] |= here.view(len(kept[source]), -1).any(dim=1)
                here[:] = kept[source].repeat_interleave(len(here) // len(kept[source]))
            else:
                for source in operation.inputs:
                    kept[source] |= here
                for source in operation.inputs:
                    here |= kept[source]
                    kept[source] |= here


def _cut(
    operations: list[Operation], known: list[_Value], kept: list[Tensor], at: int
) -> Operation:
    """Returns an operation on the channels that stay, in single precision."""
    operation, out = operations[at], kept[at + 1]
    tensors: dict[str, Tensor] = {}
    if operation.kind == "affine":
        tensors = {name: tensor[out] for name, tensor in operation.tensors.items()}
    elif operation.kind in _MIXING:
        source = operation.inputs[0]
        # What the left-out channels add is the operation's answer to them alone.
        answer = operation(_masked(known[source].constant, ~kept[source]))[0, out]
        weight = operation.tensors["weight"][out][:, kept[source]]
        flat = answer.flatten(1) if answer.dim() > 1 else answer[:, None]
        if bool((flat == flat[:, :1]).all()):
            tensors = {"weight": weight, "bias": flat[:, 0]}
        else:
            tensors = {"weight": weight, "image": answer}
    return replace(
        operation,
        tensors={
            name: t.float().clone(memory_format=torch.contiguous_format)
            for name, t in tensors.items()
        },
    )


# --- On disk


def describe(network: Compact) -> list[dict[str, Any]]:
    """Returns a network's operations as plain JSON data; its state dict holds the tensors."""
    return [
        {
            "kind": operation.kind,
            "inputs": list(operation.inputs),
            "tensors": sorted(operation.tensors),
            "settings": {name: _plain(value) for name, value in operation.settings.items()},
        }
        for operation in network.operations
    ]


def restore(description: Sequence[Mapping[str, Any]], state: Mapping[str, Tensor]) -> Compact:
    """Returns the network of a description and a state dict.

    Raises:
        ContractError: an operation that nobody here knows, inputs that come later, or tensors that
            are not those of the description.
    """
    operations = []
    for number, entry in enumerate(description):
        kind = str(entry["kind"])
        lookup("operation", kind, _KINDS)
        inputs = tuple(int(position) for position in entry["inputs"])
        if not all(0 <= position <= number for position in inputs):
            raise ContractError(f"expected inputs from before operation {number}, got {inputs}")
        names = [f"{number}-{name}" for name in entry["tensors"]]
        if missing := [name for name in names if name not in state]:
            raise ContractError(f"expected tensors of the description, got none named {missing[0]}")
        tensors = {name: state[f"{number}-{name}"] for name in entry["tensors"]}
        settings = {name: _paired(value) for name, value in entry["settings"].items()}
        operations.append(Operation(kind, inputs, tensors, settings))
    return Compact(operations)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _paired(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
