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
from benchmark.errors import ContractError, lookup, shorten


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
# As a share of the largest, how far sums of double precision differ by rounding alone; single
# precision, in which they are kept, cannot tell such values apart.
_SAME = 1e-12

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
        last = {position: at for at, o in enumerate(operations) for position in o.inputs}
        # What `forward` looks up is spelled once: in a small network it would take as long as the
        # operations themselves. Behind its last reader a value only holds memory.
        self._steps = tuple(
            (
                _KINDS[operation.kind],
                tuple((name, f"{at}-{name}") for name in operation.tensors),
                operation.settings,
                operation.inputs,
                tuple(position for position in set(operation.inputs) if last[position] == at),
            )
            for at, operation in enumerate(operations)
        )
        for at, operation in enumerate(operations):
            for name, tensor in operation.tensors.items():
                self.register_buffer(f"{at}-{name}", tensor)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits (N, K) of (N, C, H, W) inputs in [0, 1]."""
        values = {0: inputs}
        for at, (function, names, settings, sources, over) in enumerate(self._steps, 1):
            tensors = {name: getattr(self, buffer) for name, buffer in names}
            values[at] = function(tensors, settings, *[values[source] for source in sources])
            for position in over:
                del values[position]
        return values[len(self._steps)]


def parameters(network: Compact) -> int:
    """Returns the number of entries of all its tensors."""
    return sum(tensor.numel() for tensor in network.buffers())


def multiply_adds(network: Compact, shape: tuple[int, int, int]) -> int:
    """Returns those of its convolutions and linear layers for one input, zeros included.

    Args:
        network: any.
        shape: of an input, (C, H, W).
    """
    count = 0
    for operation, value in zip(
        network.operations, shadows(network.operations, shape), strict=True
    ):
        if operation.kind in _MIXING:
            places = value[0, 0].numel()
            count += operation.tensors["weight"].numel() * places
    return count


def shadows(operations: Sequence[Operation], shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yields the value of each operation for one input, its shape only: nothing is computed."""
    values = [torch.empty(1, *shape, device="meta")]
    for operation in operations:
        tensors = {name: tensor.to("meta") for name, tensor in operation.tensors.items()}
        chosen = (values[position] for position in operation.inputs)
        values.append(_KINDS[operation.kind](tensors, operation.settings, *chosen))
        yield values[-1]


def as_published(model: Classifier) -> Compact:
    """Returns a network with all it has, each layer an operation.

    Args:
        model: in eval mode; left untouched.

    Raises:
        NotCompactable: a layer or function that is none of the operations.
    """
    return Compact([replace(o, tensors=_single(o.tensors)) for o in _traced(model)])


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


def compacted(model: Classifier) -> Compact | None:
    """Returns the compact network, None where a network cannot be compacted."""
    try:
        return compact(model).eval()
    except NotCompactable:
        return None


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
        # Whether sums of the same terms agree to the last bit is the machine's affair.
        if bool(((flat - flat[:, :1]).abs() <= _SAME * flat.abs().max()).all()):
            tensors = {"weight": weight, "bias": flat[:, 0]}
        else:
            tensors = {"weight": weight, "image": answer}
    return replace(operation, tensors=_single(tensors))


def _single(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors in single precision, each with memory of its own."""
    return {
        name: tensor.float().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


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


@dataclass(frozen=True)
class _Form:
    """What an operation of a description has to have.

    Attributes:
        inputs: their number.
        tensors: dimensions of each tensor, in one way or another.
        sizes: settings that are whole numbers or pairs of them, and the least they may be.
        switches: settings that are true or false.
    """

    inputs: int = 1
    tensors: tuple[Mapping[str, int], ...] = ({},)
    sizes: Mapping[str, int] = field(default_factory=dict)
    switches: tuple[str, ...] = ()


_WINDOW = {"kernel_size": 1, "stride": 1, "padding": 0}
_FORMS: dict[str, _Form] = {
    "affine": _Form(tensors=({"scale": 1, "shift": 1},)),
    "convolution": _Form(
        tensors=({"weight": 4, "bias": 1}, {"weight": 4, "image": 3}),
        sizes={"stride": 1, "padding": 0, "dilation": 1},
    ),
    "linear": _Form(tensors=({"weight": 2, "bias": 1},)),
    "relu": _Form(),
    "max-pool": _Form(sizes={**_WINDOW, "dilation": 1}, switches=("ceil_mode",)),
    "average-pool": _Form(sizes=_WINDOW, switches=("ceil_mode", "count_include_pad")),
    "mean": _Form(),
    "flatten": _Form(),
    "add": _Form(inputs=2),
}

# A ResNet-50 on ImageNet has 176 operations; their values for one image have 38 million entries.
_MOST_OPERATIONS = 4096
_LARGEST_SIZE = 1 << 12
_MOST_ENTRIES = 1 << 26


def restore(description: object, state: Mapping[str, Tensor], shape: object) -> Compact:
    """Returns the network of a description and a state dict, whoever wrote them.

    Args:
        description: what `describe` returned, as JSON gives it back.
        state: the network's state dict.
        shape: of an input, (C, H, W).

    Raises:
        UnknownName: an operation that nobody here knows.
        ContractError: a description of something else, inputs that come later, tensors that are not
            those of the description, or values too large for any network of ours.
    """
    sides = _sizes(shape, 1, 3)
    if sides is None:
        raise _unlike("an input of shape (C, H, W)", shape)
    if not isinstance(description, list | tuple) or not 0 < len(description) <= _MOST_OPERATIONS:
        raise _unlike(f"a list of 1 to {_MOST_OPERATIONS} operations", description)
    operations = [_restored(number, entry, state) for number, entry in enumerate(description)]
    used = {f"{at}-{name}" for at, o in enumerate(operations) for name in o.tensors}
    if left := sorted(state.keys() - used):
        raise _unlike("tensors of the description only", left[0])
    _check_shapes(operations, sides)
    return Compact(operations)


def _restored(number: int, entry: object, state: Mapping[str, Tensor]) -> Operation:
    """Returns one operation of a description.

    Args:
        number: its place.
        entry: what the description says of it.
        state: tensors of all operations.
    """
    names = {"kind", "inputs", "tensors", "settings"}
    if not isinstance(entry, Mapping) or entry.keys() != names or type(entry["kind"]) is not str:
        raise _unlike(f"kind, inputs, tensors and settings of operation {number}", entry)
    form = lookup("operation", entry["kind"], _FORMS)
    inputs = _sizes(entry["inputs"], 0, form.inputs)
    if inputs is None or max(inputs) > number:
        raise _unlike(f"{form.inputs} inputs from before operation {number}", entry["inputs"])
    listed = entry["tensors"]
    dimensions = next((d for d in form.tensors if sorted(d) == listed), None)
    if dimensions is None:
        raise _unlike(f"tensors of a {entry['kind']} in operation {number}", listed)
    tensors = {name: _tensor(f"{number}-{name}", d, state) for name, d in dimensions.items()}
    settings = _settings(number, form, entry["settings"])
    return Operation(entry["kind"], inputs, tensors, settings)


def _tensor(name: str, dimensions: int, state: Mapping[str, Tensor]) -> Tensor:
    if name not in state:
        raise ContractError(
            f"expected tensors of the description, got none named {name}; export again"
        )
    tensor = state[name]
    if tensor.dtype != torch.float32 or tensor.dim() != dimensions or not tensor.numel():
        found = f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise _unlike(f"{dimensions} dimensions of float32 in {name}", found)
    if not bool(torch.isfinite(tensor).all()):
        raise _unlike(f"finite numbers in {name}", "NaN or infinity")
    return tensor


def _settings(number: int, form: _Form, found: object) -> dict[str, Any]:
    wanted = {*form.sizes, *form.switches}
    if not isinstance(found, Mapping) or found.keys() != wanted:
        raise _unlike(f"settings {sorted(wanted)} of operation {number}", found)
    for name in form.switches:
        if type(found[name]) is not bool:
            raise _unlike(f"true or false as {name} of operation {number}", found[name])
    settings = {name: found[name] for name in form.switches}
    for name, least in form.sizes.items():
        # A single number stands for both sides.
        value = found[name] if isinstance(found[name], list | tuple) else [found[name]] * 2
        sizes = _sizes(value, least, 2)
        if sizes is None:
            said = f"{name} of operation {number} as whole numbers, {least} to {_LARGEST_SIZE}"
            raise _unlike(said, found[name])
        settings[name] = sizes
    return settings


def _sizes(found: object, least: int, count: int) -> tuple[int, ...] | None:
    """Returns whole numbers from `least` on; None where they are none, or not as many."""
    if not isinstance(found, list | tuple) or len(found) != count:
        return None
    fine = all(type(size) is int and least <= size <= _LARGEST_SIZE for size in found)
    return tuple(found) if fine else None


def _check_shapes(operations: Sequence[Operation], shape: tuple[int, ...]) -> None:
    """Checks that the operations fit each other and give logits, without computing anything.

    Raises:
        ContractError: they do not, or their values are too large for any network of ours.
    """
    entries, logits = 0, torch.empty(0)
    try:
        for operation, logits in zip(operations, shadows(operations, shape), strict=True):
            _check_value(operation, logits)
            entries += logits.numel()
            if entries > _MOST_ENTRIES:
                raise _unlike(f"values of at most {_MOST_ENTRIES} entries", "more")
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise _unlike("operations that fit each other", error) from error
    if logits.dim() != 2:
        raise _unlike("logits (N, K) at the end", tuple(logits.shape))


def _check_value(operation: Operation, value: Tensor) -> None:
    """Checks what would be stretched to fit instead of being refused: one number for each channel.

    Raises:
        ContractError: an operation that gives no images or vectors, or tensors of another size.
    """
    fitting = value.dim() in (2, 4) and len(value) == 1
    for name, tensor in operation.tensors.items():
        if name == "image":
            fitting = fitting and tensor.shape == value.shape[1:]
        elif name != "weight":
            fitting = fitting and len(tensor) == value.shape[1]
    if not fitting:
        raise _unlike(f"operations that fit each other with {operation.kind}", tuple(value.shape))


def _unlike(expected: str, found: object) -> ContractError:
    """Returns the error of a description that is none; what was found is cut, and may be huge."""
    short = isinstance(found, str | tuple | Exception)
    short = short or (isinstance(found, int) and found.bit_length() < 64)
    shown = str(found) if short else type(found).__name__
    return ContractError(f"expected {expected}, got {shorten(shown, 120)}; export again")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
