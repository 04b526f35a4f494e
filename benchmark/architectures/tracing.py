"""From any network of torch to a description of it as data, and its weights.

The network is followed symbolically by torch.fx and then run once on a few random inputs, so that
what reshaping, pooling and constants amount to is seen and not guessed. Nothing is fused: each
layer stays under its own name. What a description cannot say is refused, with the place.
"""

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from benchmark.architectures.base import Classifier, Normalise, Shape
from benchmark.architectures.described import FORMAT, KINDS, Description, parse
from benchmark.errors import ContractError, shorten

# Inputs that the network is run on while it is read.
_BATCH = 3

# How far logits of one function may be apart in double precision, as a share of the largest:
# weights are kept in single precision, and so is the normalisation.
SAME_LOGITS = 1e-6


class NotDescribable(ContractError):
    """A network with something in it that no description can say."""


@dataclass(frozen=True)
class Traced:
    """A network as data.

    Attributes:
        description: of its layers.
        state: state dict of the network that `described.build` returns.
        left_out: parameters that the forward pass never uses; the description lacks them.
    """

    description: Description
    state: Mapping[str, Tensor]
    left_out: tuple[str, ...]


@torch.no_grad()
def trace(module: nn.Module, *, name: str, shape: Shape, classes: int) -> Traced:
    """Returns a network as data.

    Args:
        module: from (N, C, H, W) inputs in [0, 1] to (N, K) logits, on the CPU; it is put into
            evaluation mode and single precision.
        name: of the architecture: lower-case words joined by hyphens.
        shape: (C, H, W) of one input.
        classes: number of logits.

    Raises:
        NotDescribable: a layer, function or branch that a description cannot say, with its place.
        ContractError: the network is no classifier of such inputs, or larger than any of ours.
    """
    module.eval().float()
    normal = _Affine.identity(shape[0])
    if type(module) is Classifier:
        # Its checks of shapes are branches; behind them it is these two.
        normal = _Affine.of(module.normalise)
        module = module.body
    graph = _graph_of(module)
    draws = torch.Generator().manual_seed(0)
    seen = _values(graph, torch.rand(_BATCH, *shape, generator=draws))
    reading = _Reading(graph, seen, normal)
    reading.read()
    description = parse(
        {
            "format": FORMAT,
            "name": name,
            "shape": list(shape),
            "classes": classes,
            "layers": reading.layers,
        }
    )
    used = tuple(reading.used)
    left = [path for path, _ in module.named_parameters() if not path.startswith(used)]
    return Traced(description, {**reading.normalisation(), **reading.state}, tuple(left))


@torch.no_grad()
def answers(module: nn.Module, inputs: Tensor) -> Tensor:
    """Returns logits (N, K) of (N, C, H, W) inputs in double precision, computed by a copy."""
    found: Tensor = copy.deepcopy(module).eval().double()(inputs.double())
    return found


def difference(found: Tensor, wanted: Tensor) -> float:
    """Returns how far logits are apart, as a share of the largest wanted one.

    Args:
        found: (N, K).
        wanted: (N, K).

    Returns:
        The share; infinity for other shapes, or for answers that are no numbers.
    """
    if found.shape != wanted.shape or not bool(wanted.isfinite().all()):
        return float("inf")
    apart = (found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-300)
    return float(apart) if bool(apart.isfinite()) else float("inf")


# --- Following a network


class _Around(nn.Module):
    """A network with its input alone: further arguments keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Any:
        return self.network(inputs)


class _Tracer(fx.Tracer):
    """Follows into everything but the layers of torch, and remembers where it could not."""

    where: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Returns whether a module is a layer by itself."""
        # A subclass that computes what its base does is that layer.
        theirs = str(type(m).forward.__module__).startswith("torch.nn.")
        return (theirs and not isinstance(m, nn.Sequential)) or _is_normalize(m)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Follows a call."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.where is None:
                self.where = self.path_of_module(m)
            raise


def _is_normalize(module: nn.Module) -> bool:
    """Returns whether a module is torchvision's normalisation."""
    kind = type(module)
    return kind.__name__ == "Normalize" and kind.__module__ == "torchvision.transforms.transforms"


@dataclass(frozen=True)
class _Graph:
    """A network as torch.fx sees it.

    Attributes:
        module: with the graph.
        scopes: of each node by name, the path of the module that it belongs to.
    """

    module: fx.GraphModule
    scopes: Mapping[str, str]

    def path(self, node: fx.Node) -> str:
        """Returns the path of the module a node belongs to, empty for the network itself."""
        return _inner(self.scopes.get(node.name, ""))


def _inner(path: str) -> str:
    """Returns a path in the network from one in `_Around`."""
    return path.removeprefix("network").removeprefix(".")


def _graph_of(module: nn.Module) -> _Graph:
    arguments = list(inspect.signature(module.forward).parameters.values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [a for a in arguments if a.default is a.empty and a.kind in plain]
    if len(needed) > 1:
        raise NotDescribable(
            f"expected a network of one input, got {', '.join(a.name for a in needed)}; wrap it so "
            "that forward takes images alone"
        )
    tracer, around = _Tracer(), _Around(module)
    try:
        graph = tracer.trace(around)
    # Whatever the network does to a symbol: branches, loops, conversions to numbers.
    except Exception as error:
        place = _inner(tracer.where or "") or type(module).__name__
        reason = str(error).strip().partition("\n")[0]
        raise NotDescribable(
            f"expected a network without branches on values, got '{shorten(reason, 160)}' in "
            f"{shorten(place)}; write its forward without them"
        ) from error
    scopes = {name: path for name, (path, _) in tracer.node_name_to_scope.items()}
    return _Graph(fx.GraphModule(around, graph), scopes)


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the value of each node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Returns the value of a node."""
        self.seen[n] = super().run_node(n)
        return self.seen[n]


def _values(graph: _Graph, inputs: Tensor) -> dict[fx.Node, Any]:
    """Returns the value of each node for some inputs.

    Raises:
        ContractError: the network fails on them.
    """
    recorder = _Recorder(graph.module)
    try:
        recorder.run(inputs)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ContractError(
            f"expected a network for inputs of shape {tuple(inputs.shape)}, got "
            f"'{shorten(reason, 160)}'; give the data set that it was made for"
        ) from error
    return recorder.seen


# --- What nodes are


@dataclass(frozen=True)
class _Layer:
    """A layer as it will be described.

    Attributes:
        kind: of a description.
        settings: as JSON data.
        tensors: its state, by name.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class _Reshaped:
    """Said of what changes a value's shape at most: nothing, or flattening, as its shapes say."""


class _Pooled:
    """Said of pooling to a given size: the windows follow from the shapes."""


@dataclass(frozen=True)
class _Means:
    """Said of a mean over dimensions."""

    dimensions: tuple[int, ...]


_Read = _Layer | _Reshaped | _Pooled | _Means


class _Unlike(Exception):
    """Said of a layer with a setting that no description has."""


def _pair(value: Any) -> list[int]:
    both = value if isinstance(value, list | tuple) else [value]
    both = list(both) * 2 if len(both) == 1 else list(both)
    return [int(size) for size in both]


def _convolution(
    input: Tensor,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Layer:
    if groups != 1:
        raise _Unlike(f"{groups} groups")
    kernel, wide = _pair(weight.shape[2:]), _pair(dilation)
    if isinstance(padding, str):
        around = [d * (k - 1) for d, k in zip(wide, kernel, strict=True)]
        if padding == "same" and any(size % 2 for size in around):
            raise _Unlike("padding of unequal sides")
        padding = [size // 2 for size in around] if padding == "same" else 0
    settings = {
        "outputs": weight.shape[0],
        "kernel_size": kernel,
        "stride": _pair(stride),
        "padding": _pair(padding),
        "dilation": wide,
        "bias": bias is not None,
    }
    return _Layer("conv2d", settings, _kept(weight=weight, bias=bias))


def _linear(input: Tensor, weight: Any, bias: Any = None) -> _Layer:
    settings = {"outputs": weight.shape[0], "bias": bias is not None}
    return _Layer("linear", settings, _kept(weight=weight, bias=bias))


def _norm(
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> _Layer:
    if training or running_mean is None or running_var is None:
        raise _Unlike("statistics of the batch")
    if (weight is None) != (bias is None):
        raise _Unlike("a scale or a shift alone")
    if input.dim() != 4:
        raise _Unlike(f"values of {input.dim()} dimensions")
    kept = _kept(weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    kept["num_batches_tracked"] = torch.tensor(0)
    return _Layer("batchnorm2d", {"eps": float(eps), "affine": weight is not None}, kept)


def _kept(**tensors: Any) -> dict[str, Tensor]:
    """Returns copies of the tensors among some weights."""
    return {
        name: tensor.detach().float().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
        if tensor is not None
    }


def _max_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> _Layer:
    if return_indices:
        raise _Unlike("indices as well")
    settings = _window(kernel_size, stride, padding)
    return _Layer("max-pool", {**settings, "dilation": _pair(dilation), "ceil_mode": ceil_mode})


def _average_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> _Layer:
    if divisor_override is not None:
        raise _Unlike("a divisor of its own")
    settings = _window(kernel_size, stride, padding)
    settings |= {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return _Layer("average-pool", settings)


def _window(kernel: Any, stride: Any, padding: Any) -> dict[str, Any]:
    step = stride if stride is not None and stride != [] else kernel
    return {"kernel_size": _pair(kernel), "stride": _pair(step), "padding": _pair(padding)}


def _mean(input: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> _Read:
    if dim is None or dtype is not None:
        raise _Unlike("a mean over all or in another type")
    listed = dim if isinstance(dim, list | tuple) else [dim]
    return _Means(tuple(sorted(int(d) % input.dim() for d in listed)))


def _relu(input: Tensor, inplace: bool = False) -> _Layer:
    # What is written in place and read elsewhere shows in the answers, which are compared.
    return _Layer("relu")


def _reshaped(input: Tensor, *others: Any, **settings: Any) -> _Reshaped:
    return _Reshaped()


def _pooled(input: Tensor, output_size: Any) -> _Pooled:
    return _Pooled()


_FUNCTIONS: dict[Any, Callable[..., _Read]] = {
    functional.conv2d: _convolution,
    torch.conv2d: _convolution,
    functional.linear: _linear,
    functional.batch_norm: _norm,
    functional.relu: _relu,
    functional.relu_: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    "relu": _relu,
    "relu_": _relu,
    functional.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    functional.avg_pool2d: _average_pool,
    functional.adaptive_avg_pool2d: _pooled,
    torch.mean: _mean,
    "mean": _mean,
    **dict.fromkeys(
        (
            *(torch.flatten, torch.reshape, torch.squeeze, torch.clone, torch.detach),
            *(functional.dropout, functional.dropout2d, functional.alpha_dropout),
            *("flatten", "reshape", "view", "squeeze", "clone", "contiguous", "detach", "float"),
        ),
        _reshaped,
    ),
}


def _module_of(layer: Any, value: Tensor) -> _Read:
    """Returns what a layer of torch is.

    Raises:
        _Unlike: nothing that a description can say.
    """
    for kind, read in _MODULES.items():
        if isinstance(layer, kind) and type(layer).forward is kind.forward:
            return read(layer, value)
    raise _Unlike("")


def _of_convolution(layer: Any, value: Tensor) -> _Layer:
    if layer.padding_mode != "zeros":
        raise _Unlike(f"padding by {layer.padding_mode}")
    return _convolution(
        value, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )


def _of_norm(layer: Any, value: Tensor) -> _Layer:
    made = _norm(
        value, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
    )
    count = layer.num_batches_tracked
    return _Layer(
        made.kind,
        made.settings,
        {**made.tensors, "num_batches_tracked": count.detach().clone().long()},
    )


_MODULES: dict[type[nn.Module], Callable[[Any, Tensor], _Read]] = {
    nn.Conv2d: _of_convolution,
    nn.BatchNorm2d: _of_norm,
    nn.Linear: lambda layer, value: _linear(value, layer.weight, layer.bias),
    nn.ReLU: lambda layer, value: _Layer("relu"),
    nn.MaxPool2d: lambda layer, value: _max_pool(
        value, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
    ),
    nn.AvgPool2d: lambda layer, value: _average_pool(
        value,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.ceil_mode,
        layer.count_include_pad,
        layer.divisor_override,
    ),
    nn.AdaptiveAvgPool2d: lambda layer, value: _Pooled(),
    **dict.fromkeys(
        (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout),
        lambda layer, value: _Reshaped(),
    ),
}

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_ARITHMETIC: dict[Any, str] = {
    **dict.fromkeys(_ADDITIONS, "+"),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_"), "-"),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), "*"),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), "/"),
}

# What may be asked of a value without looking at its numbers.
_ASKED = ("size", "dim", "ndimension", "shape", "device", "dtype", "ndim")


# --- From nodes to layers


@dataclass(frozen=True)
class _Affine:
    """The input, channel by channel scaled and shifted: what a normalisation does.

    Attributes:
        scale: (C,), in double precision.
        shift: (C,), in double precision.
    """

    scale: Tensor
    shift: Tensor

    @classmethod
    def identity(cls, channels: int) -> "_Affine":
        """Returns the input as it is."""
        ones = torch.ones(channels, dtype=torch.float64)
        return cls(ones, torch.zeros_like(ones))

    @classmethod
    def of(cls, normalise: Normalise) -> "_Affine":
        """Returns what a normalisation of ours does."""
        mean, std = normalise.mean.double().flatten(), normalise.std.double().flatten()
        return cls(1 / std, -mean / std)


class _Reading:
    """Reads a graph node by node.

    Attributes:
        layers: as JSON data.
        state: their weights, by name in the state dict.
        used: beginnings of the names of parameters that were used.
    """

    def __init__(self, graph: _Graph, seen: Mapping[fx.Node, Any], start: _Affine) -> None:
        """Takes the nodes with their values, and what was done to the input before."""
        self._graph, self._seen, self._start = graph, seen, start
        self._channels = len(start.scale)
        # A position in the description; the scaled input as long as nothing else was done to it.
        self._places: dict[fx.Node, int | _Affine] = {}
        self._normal: _Affine | None = None
        self._called: set[str] = set()
        self._alone = Counter(graph.path(node) for node in graph.module.graph.nodes)
        modules = dict(graph.module.named_modules())
        self._taken = {_inner(path) for path in modules}
        self.layers: list[dict[str, Any]] = []
        self.state: dict[str, Tensor] = {}
        self.used: set[str] = set()

    def read(self) -> None:
        """Reads all nodes.

        Raises:
            NotDescribable: one that a description cannot say.
        """
        nodes = list(self._graph.module.graph.nodes)
        needed = self._needed(nodes)
        for node in nodes:
            if node.op == "placeholder":
                self._places[node] = self._start
            elif node.op == "get_attr":
                self.used.add(_inner(str(node.target)))
            elif node.op == "output":
                self._finish(node)
            elif node in needed:
                self._step(node)

    def normalisation(self) -> dict[str, Tensor]:
        """Returns mean and standard deviation, (C, 1, 1) each, by name in the state dict."""
        normal = cast(_Affine, self._normal)
        mean, std = -normal.shift / normal.scale, 1 / normal.scale
        if not bool(((std > 0) & std.isfinite() & mean.isfinite()).all()):
            raise NotDescribable(
                "expected a normalisation by a positive standard deviation, got "
                f"{std.min():g}; fold signs into the first layer"
            )
        shaped = {"normalise.mean": mean + 0.0, "normalise.std": std}
        return {name: value.float().view(-1, 1, 1) for name, value in shaped.items()}

    def _needed(self, nodes: list[fx.Node]) -> set[fx.Node]:
        """Returns the nodes that the answer depends on."""
        needed = {nodes[-1]}
        for node in reversed(nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        return needed

    def _finish(self, node: fx.Node) -> None:
        answer = node.args[0]
        if not isinstance(answer, fx.Node) or not isinstance(self._seen[answer], Tensor):
            self._refuse(node, "one tensor of logits", "an answer of several parts")
        place = self._places.get(answer)
        if not self.layers or place != len(self.layers):
            self._refuse(node, "logits from the last layer", "another answer")

    def _step(self, node: fx.Node) -> None:
        """Reads one node that computes something."""
        sources = [source for source in node.all_input_nodes if source in self._places]
        if not isinstance(self._seen[node], Tensor):
            self._check_asked(node, sources)
            return
        if not sources:
            return  # a constant, whose value is known
        affine = self._scaled(node, sources)
        if affine is not None:
            self._places[node] = affine
            return
        found = self._sum(node, sources) or self._recognised(node)
        if isinstance(found, _Reshaped | _Pooled | _Means):
            self._reshape(node, sources, found)
        else:
            self._add(node, found, sources)

    def _check_asked(self, node: fx.Node, sources: list[fx.Node]) -> None:
        """Checks that a node that is no tensor says nothing of the numbers in one."""
        name = node.args[1] if node.target is getattr else node.target
        if sources and name not in _ASKED:
            self._refuse(node, "layers alone", f"numbers read out by {_shown(node)}")

    # A normalisation is all that may be done to the input before the first layer.
    def _scaled(self, node: fx.Node, sources: list[fx.Node]) -> _Affine | None:
        """Returns the scaled input that a node computes; None where it does something else."""
        place = self._places[sources[0]]
        if not isinstance(place, _Affine) or len(sources) > 1:
            return None
        if node.op == "call_module":
            layer = self._graph.module.get_submodule(str(node.target))
            if not _is_normalize(layer):
                return None
            steps = [("-", layer.mean, False), ("/", layer.std, False)]
        else:
            symbol = _ARITHMETIC.get(node.target)
            if symbol is None or len(node.args) != 2 or node.kwargs:
                return None
            first, second = node.args
            other = second if first is sources[0] else first
            steps = [(symbol, self._value(other), first is not sources[0])]
        for symbol, constant, swapped in steps:
            number = self._by_channel(node, constant)
            place = self._changed(node, place, (symbol, number, swapped))
        return place

    def _changed(self, node: fx.Node, place: _Affine, step: tuple[str, Tensor, bool]) -> _Affine:
        symbol, number, swapped = step
        if symbol == "+":
            return _Affine(place.scale, place.shift + number)
        if symbol == "-":
            sign = -1 if swapped else 1
            return _Affine(sign * place.scale, sign * (place.shift - number))
        if symbol == "/":
            if swapped:
                self._refuse(node, "a normalisation", "a division by the input")
            number = 1 / number
        return _Affine(place.scale * number, place.shift * number)

    def _by_channel(self, node: fx.Node, constant: Any) -> Tensor:
        """Returns (C,) numbers, one a channel, of a constant."""
        found = torch.as_tensor(constant).detach().double()
        if found.numel() == 1:
            return found.flatten().expand(self._channels)
        plain = found.flatten()
        wanted = (self._channels, 1, 1)
        if tuple(found.shape) not in (wanted, (1, *wanted)) and not (
            node.op == "call_module" and found.dim() == 1 and len(found) == self._channels
        ):
            self._refuse(node, "a constant a channel", f"one of shape {tuple(found.shape)}")
        return plain

    def _sum(self, node: fx.Node, sources: list[fx.Node]) -> _Layer | None:
        """Returns the sum of two values; None where a node is something else."""
        if node.target not in _ADDITIONS or node.kwargs or len(node.args) != 2:
            return None
        if not all(argument in self._places for argument in node.args):
            self._refuse(node, "sums of two values", f"a constant added by {_shown(node)}")
        return _Layer("add")

    def _recognised(self, node: fx.Node) -> _Read:
        try:
            if node.op == "call_module":
                layer = self._graph.module.get_submodule(str(node.target))
                return _module_of(layer, self._seen[node.all_input_nodes[0]])
            if read := _FUNCTIONS.get(node.target):
                self._check_weights(node)
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self._seen[n])
                return read(*args, **kwargs)
            self._unknown(node, "")
        except _Unlike as unlike:
            self._unknown(node, str(unlike))
        except TypeError:
            self._unknown(node, "other arguments")

    def _check_weights(self, node: fx.Node) -> None:
        """Checks that only the first argument depends on the input."""
        others = [n for n in node.all_input_nodes if n in self._places and n is not node.args[0]]
        if others or node.args[0] not in self._places:
            self._unknown(node, "weights that depend on the input")

    def _value(self, argument: Any) -> Any:
        return self._seen[argument] if isinstance(argument, fx.Node) else argument

    def _reshape(self, node: fx.Node, sources: list[fx.Node], found: _Read) -> None:
        """Adds what a node amounts to by the shapes of its input and its value."""
        before, after = (tuple(self._seen[n].shape) for n in (sources[0], node))
        if isinstance(found, _Means):
            if len(before) != 4 or found.dimensions != (2, 3):
                self._unknown(node, f"a mean over dimensions {found.dimensions}")
            self._add(node, _Layer("mean"), sources)
            if len(after) == 2:
                self._add(node, _Layer("flatten"), [node])
        elif isinstance(found, _Pooled) and after[2:] == (1, 1):
            self._add(node, _Layer("mean"), sources)
        elif before == after:
            self._places[node] = self._places[sources[0]]
        elif isinstance(found, _Reshaped) and len(before) == 4 and after == _flat(before):
            self._add(node, _Layer("flatten"), sources)
        elif isinstance(found, _Pooled) and _divides(after[2:], before[2:]):
            window = [b // a for a, b in zip(after[2:], before[2:], strict=True)]
            self._add(node, _average_pool(self._seen[node], window), sources)
        else:
            self._unknown(node, f"from {before} to {after}")

    def _add(self, node: fx.Node, layer: _Layer, sources: list[fx.Node]) -> None:
        """Adds a layer that reads some nodes, and makes it what the node gives."""
        # A sum may read one value twice.
        read = list(node.args) if layer.kind == "add" else sources[:1]
        name = self._name(node, layer)
        inputs = [self._position(node, cast(fx.Node, source)) for source in read]
        self.layers.append({"name": name, "kind": layer.kind, "inputs": inputs, **layer.settings})
        self.state |= {f"body.{name}.{part}": t for part, t in layer.tensors.items()}
        self._places[node] = len(self.layers)

    def _position(self, node: fx.Node, source: fx.Node) -> int:
        place = self._places[source]
        if not isinstance(place, _Affine):
            return place
        known = self._normal or place
        if not (torch.equal(known.scale, place.scale) and torch.equal(known.shift, place.shift)):
            self._refuse(node, "one normalised input", "the input scaled in two ways")
        self._normal = known
        return 0

    def _name(self, node: fx.Node, layer: _Layer) -> str:
        """Returns the name of a node's layer: the module's own, or one below the module's."""
        path = self._graph.path(node)
        if node.op == "call_module":
            self.used.add(f"{path}." if path else "")
        # A module that does one thing only is that layer, whether it says so or not.
        whole = self._alone[path] == 1 and not any(p.startswith(f"{path}.") for p in self._taken)
        single = node.op == "call_module" or whole
        if single and path and path not in self._called:
            self._called.add(path)
            return path
        if single and path and layer.tensors:
            self._refuse(node, "each layer used once", f"{shorten(path)} used again")
        base = path if single and path else ".".join([*filter(None, [path]), layer.kind])
        base = base.replace("-", "_")
        names = (base, *(f"{base}_{number}" for number in range(2, 1 << 20)))
        found = next(n for n in names if n not in self._taken and n not in self._called)
        self._called.add(found)
        return found

    def _unknown(self, node: fx.Node, detail: str) -> NoReturn:
        shown = _shown(node, self._graph.module)
        if "softmax" in shown.lower():
            self._refuse(
                node, "logits", f"probabilities by {shown}", "return what goes into it instead"
            )
        found = f"{shown} ({detail})" if detail else shown
        self._refuse(node, f"layers that a description can say ({', '.join(KINDS)})", found)

    def _refuse(
        self, node: fx.Node, expected: str, found: str, advice: str = "write the network without it"
    ) -> NoReturn:
        path = self._graph.path(node)
        place = f"in {shorten(path)}" if path else "in the network itself"
        raise NotDescribable(f"expected {expected}, got {shorten(found, 160)} {place}; {advice}")


def _shown(node: fx.Node, module: nn.Module | None = None) -> str:
    """Returns what a node calls, in a word."""
    if node.op == "call_module" and module is not None:
        return type(module.get_submodule(str(node.target))).__name__
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], shape[1] * shape[2] * shape[3]


def _divides(after: tuple[int, ...], before: tuple[int, ...]) -> bool:
    return all(0 < a <= b and b % a == 0 for a, b in zip(after, before, strict=True))
