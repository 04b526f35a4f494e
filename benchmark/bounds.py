"""Lower bounds of classification margins by IBP and CROWN; the only module that knows auto_LiRPA.

The library runs as released (0.3) and as developed upstream (0.7.1). Release 0.3 was written for
older versions of torch and numpy, so three names that it expects are supplied, only while it is
imported or traces a network, and a fourth is mended in its own class. Plain intervals need no
library and serve as method `ibp-plain`; they and the other differentiable bounds of
`benchmark.relaxations` serve training, through `training_margins`.

Bounds are computed in float32 with ordinary rounding, so callers subtract `rounding_allowance` and
ask for a margin above a small positive threshold, not above zero.

A network that a method cannot bound raises `UnboundableNetwork`, whatever went wrong inside the
library or the network; what breaks our own contract raises a plain `ContractError`.
"""

import contextlib
import copy
import functools
import importlib
import inspect
import io
import logging
import random
import re
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.nn.utils import parametrize

from benchmark.architectures import Classifier
from benchmark.errors import ContractError, ExtraMissing, lookup, shorten
from benchmark.relaxations import (
    Box,
    UnboundableNetwork,
    crown_margins,
    crown_rows,
    interval_bounds,
    interval_boxes,
    interval_margins,
    known_to_crown,
    layers_of,
    specification,
    symbolic_margins,
)
from benchmark.threat import TOLERANCE, ThreatModel

__all__ = [
    "ENGINE_METHODS",
    "METHODS",
    "ROUNDING",
    "BoundMethod",
    "MarginBounds",
    "TrainingMethod",
    "UnboundableNetwork",
    "engine_version",
    "interval_bounds",
    "margin_bounds",
    "relaxed_units",
    "rounding_allowance",
    "specification",
    "training_margins",
]

BoundMethod = Literal["ibp", "crown", "crown-ibp", "alpha-crown", "ibp-plain"]
TrainingMethod = Literal["ibp", "crown-ibp", "symbolic"]

# Our names -> the library's.
ENGINE_METHODS = {
    "ibp": "IBP",
    "crown": "CROWN",
    "crown-ibp": "CROWN-IBP",
    "alpha-crown": "CROWN-Optimized",
}
METHODS = (*ENGINE_METHODS, "ibp-plain")

# Frames that the library may use to walk a graph; the stack holds many times as many.
DEPTH = 10_000

# Two passes over one input may differ by rounding, never by this share of the largest logit.
SAME_ANSWER = 1e-3

# Rounding of a float32 margin bound as a share of the last layer's terms; `rounding_allowance` says
# why it is enough.
ROUNDING = 1e-5


# --- margins --------------------------------------------------------------------------------------


class MarginBounds:
    """Lower bounds of the margins of one network by one method; traces the network once.

    The bounds belong to the weights at construction: the object holds a frozen copy, so the network
    itself is never touched.
    """

    def __init__(self, model: nn.Module, method: BoundMethod, chunk: int = 32) -> None:
        """Prepares bounds by `method`, computed for `chunk` examples at a time to bound the memory.

        Raises:
            ContractError: an unknown method, or a chunk below 1.
        """
        if method not in METHODS:
            raise ContractError(f"expected a method of {', '.join(METHODS)}, got '{method}'")
        if chunk < 1:
            raise ContractError(f"expected a chunk of at least 1 example, got {chunk}")
        self.method = method
        self.chunk = chunk
        copied = copy.deepcopy(model).eval().requires_grad_(False)
        self._normalise = copied.normalise if isinstance(copied, Classifier) else nn.Identity()
        self._network = copied.body if isinstance(copied, Classifier) else copied
        self._bounded: Any = None
        self._layers = known_to_crown(self._network) if method == "crown" else None

    def __call__(self, inputs: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """Returns lower bounds of the margin, min over j != y of f_y - f_j, around each input.

        The region is the Linf ball, widened by the slack that attacks are granted, inside the box
        [0, 1]. So a bound above zero also excludes every adversarial input that the engine accepts.

        Args:
            inputs: (N, C, H, W) in [0, 1], on the network's device.
            labels: (N,) in [0, K).
            threat: an Linf threat model.

        Returns:
            (N,) float32; -inf where no finite bound came out. A bound depends on the other examples
            only as rounding depends on their number, which can decide a tie between two units of a
            max-pooling, and under alpha-crown, where they decide which slopes are shared.

        Raises:
            ContractError: another norm, or labels that do not fit.
            UnboundableNetwork: a network beyond the method.
            ExtraMissing: auto_LiRPA is not installed.

        Source: Zhang et al., "Efficient Neural Network Robustness Certification with General
            Activation Functions", NeurIPS 2018 (CROWN); Zhang et al., "Towards Stable and Efficient
            Training of Verifiably Robust Neural Networks", ICLR 2020 (CROWN-IBP); Xu et al., "Fast
            and Complete", ICLR 2021 (alpha-CROWN).
        """
        if threat.norm != "Linf":
            raise ContractError(
                f"expected an Linf threat model for bounds, got {threat}; use smoothing for L2"
            )
        if len(labels) != len(inputs):
            raise ContractError(f"expected {len(inputs)} labels, one an input, got {len(labels)}")
        if len(inputs) == 0:
            return torch.empty(0, device=inputs.device)
        # Grad mode is restored whatever it was; only alpha-crown descends a gradient.
        with torch.set_grad_enabled(self.method == "alpha-crown"):
            parts = [
                self._chunk(*pair, threat)
                for pair in zip(
                    torch.split(inputs, self.chunk), torch.split(labels, self.chunk), strict=True
                )
            ]
        return torch.cat(parts)

    def _chunk(self, inputs: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        epsilon = float(threat.epsilon) + TOLERANCE
        with torch.no_grad():
            # Normalisation inside the bounded graph breaks CROWN on convolutions. It acts
            # on each pixel alone, so mapping the box instead is exact for Linf.
            # A network may overwrite what it is given; the caller's inputs stay.
            centre = self._normalise(inputs.clone())
            logits = self._logits(centre)
            corners = [self._normalise((inputs + side).clamp(0, 1)) for side in (-epsilon, epsilon)]
            # A negative scale turns the box around, so the smaller corner is not always the first.
            lower, upper = torch.minimum(*corners), torch.maximum(*corners)
            rows = specification(labels, logits.shape[-1]).to(inputs.dtype)
        if self.method == "ibp-plain":
            margins = _ibp(layers_of(self._network), (lower, upper), rows)
        elif self._layers is not None:
            margins = self._own_margins(self._layers, (centre, lower, upper), rows)
        else:
            margins = self._engine_margins((centre, lower, upper), rows)
        smallest = margins.detach().amin(dim=1).float()
        return torch.where(smallest.isfinite(), smallest, -torch.inf)

    def _own_margins(
        self, layers: list[nn.Module], box: tuple[Tensor, Tensor, Tensor], rows: Tensor
    ) -> Tensor:
        """Returns (N, K - 1) bounds by CROWN without the library over a box of network inputs."""
        centre, lower, upper = box
        with _foreign(self.method):
            logits = self._network(centre.clone())
            # In a box of one point nothing is relaxed: there the layers must say what the network
            # does, or they are not all of it.
            said = crown_rows(layers, (centre, centre), rows)
            margins = crown_rows(layers, (lower, upper), rows)
        apart = (said - (rows @ logits.unsqueeze(-1)).squeeze(-1)).abs().amax()
        if bool(apart > SAME_ANSWER * logits.abs().amax()):
            raise _unboundable(self.method, "its layers answer otherwise than the network")
        return margins

    def _logits(self, centre: Tensor) -> Tensor:
        """Returns (N, K) logits of network inputs; the first time, checks what tracing supposes.

        A graph is traced from one example and then stands for all. That is the network only if its
        answer depends on the example alone: not on its neighbours, on chance or on a counter.
        """
        with _foreign(self.method):
            logits: Tensor = self._network(centre.clone())
            alone = logits[:1] if self._bounded is not None else self._network(centre[:1].clone())
        slack = SAME_ANSWER * logits[:1].abs().amax()
        # NaN compares false: networks that answer NaN get no bound later on.
        if bool(((alone - logits[:1]).abs() > slack).any()):
            raise _unboundable(self.method, "two passes over one input differ")
        return logits

    def _engine_margins(self, box: tuple[Tensor, Tensor, Tensor], rows: Tensor) -> Tensor:
        """Returns (N, K - 1) bounds by auto_LiRPA over a box of network inputs."""
        if "crown" in self.method and any(map(_overlaps, self._network.modules())):
            raise _unboundable(self.method, "overlapping max-poolings; use ibp")
        # A missing package is no property of the network.
        engine = _engine()
        with _foreign(self.method):
            if self._bounded is None:
                self._bounded = _trace(self._network, box[0][:1].clone())
            try:
                return self._compute(engine, box, rows)
            except Exception:
                # The graph keeps what it had reached; the next call starts afresh.
                self._bounded = None
                raise

    def _compute(
        self, engine: types.ModuleType, box: tuple[Tensor, Tensor, Tensor], rows: Tensor
    ) -> Tensor:
        """Returns (N, K - 1) bounds; every line reads or asks the library's graph."""
        centre, lower, upper = box
        region = engine.PerturbationLpNorm(norm=np.inf, eps=None, x_L=lower, x_U=upper)
        bounded_input = engine.BoundedTensor(centre, region)
        compute = functools.partial(
            self._bounded.compute_bounds, x=(bounded_input,), C=rows, bound_upper=False
        )
        # Without a ReLU there is no slope to optimise, and the optimiser has nothing to hold.
        method = self.method if self._bounded.relus or self.method == "ibp" else "crown"
        optimised = method == "alpha-crown"
        with _ClampWithGradient() if optimised else contextlib.nullcontext():
            known = self._interval_references(compute) if method == "crown" else {}
            margins: Tensor = compute(method=ENGINE_METHODS[method], **known)[0]
        return margins

    def _interval_references(self, compute: Callable[..., object]) -> dict[str, Any]:
        """Returns interval bounds of all ReLU inputs as references for CROWN.

        CROWN bounds only units that are unstable for some example of the chunk. With plain
        intervals as the measure of that, and both bounds intersected, an example's relaxation no
        longer depends on its neighbours, and it is tighter.
        """
        compute(method="IBP")
        nodes = [activation.inputs[0] for activation in self._bounded.relus]
        references = {
            node.name: (
                node.lower.nan_to_num(nan=-torch.inf, neginf=-torch.inf, posinf=torch.inf),
                node.upper.nan_to_num(nan=torch.inf, neginf=-torch.inf, posinf=torch.inf),
            )
            for node in nodes
        }
        return {"reference_bounds": references, "aux_reference_bounds": references}


def _overlaps(module: nn.Module) -> bool:
    """Returns whether a module is a max-pooling whose windows overlap."""
    if not isinstance(module, nn.MaxPool2d):
        return False
    return bool((np.broadcast_to(module.stride, 2) < np.broadcast_to(module.kernel_size, 2)).any())


def margin_bounds(
    model: nn.Module, inputs: Tensor, labels: Tensor, threat: ThreatModel, method: BoundMethod
) -> Tensor:
    """Returns (N,) lower bounds of the margins of one network by one method; see `MarginBounds`.

    Args:
        model: a `Classifier`, or any network from [0, 1] inputs to logits.
        inputs: (N, C, H, W) in [0, 1].
        labels: (N,) in [0, K).
        threat: an Linf threat model.
        method: `ibp`, `crown`, `crown-ibp`, `alpha-crown` or `ibp-plain`.
    """
    return MarginBounds(model, method)(inputs, labels, threat)


# --- training -------------------------------------------------------------------------------------


def training_margins(
    model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float, method: TrainingMethod
) -> Tensor:
    """Returns (N, K - 1) lower bounds of f_y - f_j, differentiable in the network's parameters.

    The region is the Linf ball inside the box [0, 1]. Bounds are in float32 also under autocast.
    Evaluation never uses them: they are not widened and know no rounding allowance.

    Args:
        model: a `Classifier` with a sequential body, or an `nn.Sequential` that ends in a linear
            layer, compiled or not; its layers may carry parametrizations. Batch norms act as in
            evaluation; no mode is switched.
        inputs: (N, C, H, W) in [0, 1].
        labels: (N,) in [0, K).
        epsilon: radius of the ball, in [0, 1] pixel units.
        method: `ibp` (intervals), `crown-ibp` or `symbolic` (symbolic intervals).

    Returns:
        (N, K - 1), for each other class j in increasing order.

    Raises:
        UnboundableNetwork: not sequential, or a layer without a bound.
        ContractError: labels that do not fit.
        UnknownName: no such method.
    """
    margins = lookup("bound for training", method, _TRAINING)
    # What torch.compile returns hides the layers.
    network = getattr(model, "_orig_mod", model)
    box = (inputs - epsilon).clamp(0, 1), (inputs + epsilon).clamp(0, 1)
    # A parametrization may sort all weights of a layer; once a bound is enough.
    with torch.autocast(inputs.device.type, enabled=False), parametrize.cached():
        rows = specification(labels, _classes(network)).to(inputs.dtype)
        return margins(layers_of(network), box, rows)


def _classes(network: nn.Module) -> int:
    """Returns the number of logits."""
    if isinstance(network, Classifier):
        return network.classes
    last = layers_of(network)[-1]
    if isinstance(last, nn.Linear):
        return last.out_features
    raise _unboundable("training", f"no linear layer at the end of {type(network).__name__}")


def _ibp(layers: list[nn.Module], box: Box, rows: Tensor) -> Tensor:
    return interval_margins(layers, interval_boxes(layers[:-1], *box), rows)


def _crown_ibp(layers: list[nn.Module], box: Box, rows: Tensor) -> Tensor:
    return crown_margins(layers, interval_boxes(layers[:-1], *box), rows)


_TRAINING: dict[str, Callable[[list[nn.Module], Box, Tensor], Tensor]] = {
    "ibp": _ibp,
    "crown-ibp": _crown_ibp,
    "symbolic": symbolic_margins,
}


# --- rounding and size ----------------------------------------------------------------------------


class _LastLinear(torch.overrides.TorchFunctionMode):
    """Keeps the answer of the latest linear map, and how large the terms of its sums were."""

    answer: Tensor | None = None
    terms: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is nn.functional.linear:
            magnitudes: list[Any] = [None if part is None else part.abs() for part in args]
            named = {name: part.abs() for name, part in (kwargs or {}).items() if part is not None}
            self.answer, self.terms = result, func(*magnitudes, **named)
        return result


@torch.no_grad()
def rounding_allowance(model: nn.Module, inputs: Tensor) -> Tensor:
    """Returns how much of each example's margin bound may be rounding, and so proves nothing.

    It is `ROUNDING` times the largest sum of absolute terms, over the classes, in the last linear
    layer at the clean input; where the network ends otherwise, times the largest logit. Like the
    rounding itself it grows with the logits: a last layer scaled by a million proves nothing more.

    The constant: the unit roundoff of float32 is 6e-8, and a sum of n terms errs by about sqrt(n)
    of it, which is 4e-6 of the terms for the 4,608 of a 3 x 3 convolution on 512 channels even if
    summed one by one. Layers before the last add to that, in quadrature. Against float64, logits
    and the bounds of vanishing boxes were found at most 4e-7 of the terms off, from two layers to
    the sixteen of VGG-16. So 1e-5 leaves a factor of twenty.

    What intervals or slopes amplify on their way through many layers is another matter, and is not
    allowed for here: they amplify the slack of 1e-6 by which the region is wider just as much, and
    that is seventeen roundoffs of a pixel.

    Args:
        model: the network.
        inputs: (N, C, H, W) in [0, 1].

    Returns:
        (N,) in units of the logits, at least 0.

    Raises:
        UnboundableNetwork: the network fails on these inputs.
    """
    if len(inputs) == 0:
        return torch.empty(0, device=inputs.device)
    copied = copy.deepcopy(model).eval()
    with _foreign("rounding"), _LastLinear() as last:
        logits: Tensor = copied(inputs.clone())
    terms = last.terms if last.answer is logits and last.terms is not None else logits.abs()
    return ROUNDING * terms.flatten(1).amax(dim=1)


class _UnitCounter(torch.overrides.TorchFunctionMode):
    """Counts outputs of ReLUs and inputs of max-poolings, be they layers or functions."""

    units = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("relu", "relu_") or "max_pool2d" in name:
            self.units += args[0].numel()
        # What runs inside is not seen again: torch suspends the mode here.
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def relaxed_units(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Returns the number of units that CROWN bounds one by one; its cost grows with the square.

    Args:
        model: the network; a copy of it runs on one black image.
        shape: (C, H, W) of an input.

    Returns:
        The number of ReLU outputs plus that of max-pooling inputs, for one example.

    Raises:
        UnboundableNetwork: the network fails on that image.
    """
    copied = copy.deepcopy(model).eval()
    device = next((parameter.device for parameter in copied.parameters()), torch.device("cpu"))
    with _foreign("crown"), _UnitCounter() as counter:
        copied(torch.zeros(1, *shape, device=device))
    return int(counter.units)


# --- auto_LiRPA -----------------------------------------------------------------------------------


def engine_version() -> str:
    """Returns what computes the bounds, such as `auto_LiRPA 0.3`.

    Raises:
        ExtraMissing: auto_LiRPA is not installed.
    """
    return f"auto_LiRPA {_engine().__version__}"


@functools.cache
def _engine() -> types.ModuleType:
    """Returns auto_LiRPA, imported without side effects and mended where release 0.3 needs it."""
    try:
        with _names_of_its_day(), _quiet_import():
            engine = importlib.import_module("auto_LiRPA")
    except ImportError as error:
        raise ExtraMissing(
            f"expected the package auto_LiRPA for bounds, got '{error}'; "
            f"run pip install --no-deps -r requirements-nodeps.txt"
        ) from error
    module = engine.BoundedModule
    if "remove_duplicate" not in inspect.signature(module._named_members).parameters:
        module._named_members = _with_duplicate_flag(module._named_members)
    return engine


def _with_duplicate_flag(members: Callable[..., Any]) -> Callable[..., Any]:
    """Returns 0.3's `_named_members` under torch's present signature; duplicates never appear."""

    def named_members(
        self: nn.Module,
        get_members_fn: Callable[..., Any],
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Any:
        return members(self, get_members_fn, prefix, recurse)

    return named_members


def _trace(network: nn.Module, example: Tensor) -> Any:
    """Returns the network as auto_LiRPA's graph.

    Args:
        network: a frozen copy in evaluation mode; its parameters are shared with the graph.
        example: (1, ...) one input of the network.

    Raises:
        TracerWarning: the graph is not the network; and whatever the library raises.
    """
    # Max-pooling reads the bounds of stable units too, which the sparse way leaves at intervals for
    # some chunks and not for others; and in 0.3 only matrices pass all poolings.
    pooled = any(isinstance(module, nn.MaxPool2d) for module in network.modules())
    options = {
        "conv_mode": "matrix" if pooled else "patches",
        "sparse_intermediate_bounds": not pooled,
        "sparse_conv_intermediate_bounds": not pooled,
        # In 0.3 patches of all units at once fail on residual sums; 1 always takes the sparse way.
        "minimum_sparsity": 1.0,
        # Stopping early looks at the whole chunk, and 0.7.1 announces it.
        "optimize_bound_args": {"early_stop_patience": 1_000_000},
    }
    engine = _engine()
    with _names_of_its_day(), warnings.catch_warnings(record=True) as heard:
        # What a trace warns of (a branch on values, a number read out, a constant) holds for the
        # traced example only; bounds of that graph would be bounds of another network. Libraries
        # branch on shapes, which is harmless.
        warnings.filterwarnings("always", category=TracerWarning)
        warnings.filterwarnings("ignore", category=TracerWarning, module=r"torch(vision)?\.")
        bounded = engine.BoundedModule(network, example, bound_opts=options)
        bounded.eval()
    for warning in heard:
        raise TracerWarning(str(warning.message))
    return bounded


class _ClampWithGradient(torch.overrides.TorchFunctionMode):
    """Gives clamping to [0, 1] the gradient 1 also at 0 and 1, as older versions of torch did.

    alpha-CROWN starts at slopes 0 and 1; without gradient there it would never leave them.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.clamp and kwargs == {"min": 0.0, "max": 1.0} and args[0].requires_grad:
            return args[0] + (result - args[0]).detach()
        return result


@contextlib.contextmanager
def _foreign(method: str) -> Iterator[None]:
    """Runs the library or a network: quietly, without a trace in the global random state.

    Raises:
        UnboundableNetwork: whatever went wrong inside, except a machine too small or broken, on
            which no outcome may depend.
    """
    with _quiet(), _random_state(), _deep():
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:
            # The CPU's allocator has no error class of its own.
            if "DefaultCPUAllocator" in str(error):
                raise
            lines = str(error).strip().splitlines()
            reason = ": ".join([type(error).__name__, *lines[:1]])
            # An address differs from run to run.
            raise _unboundable(method, re.sub(r"0x[0-9a-fA-F]+", "0x...", reason)) from error


@contextlib.contextmanager
def _deep() -> Iterator[None]:
    """Allows the library to follow a deep graph, node by node."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _unboundable(method: str, reason: str) -> UnboundableNetwork:
    reason = shorten(reason)
    return UnboundableNetwork(
        f"expected a network that {method} bounds, got '{reason}'; try another method", reason
    )


@contextlib.contextmanager
def _random_state() -> Iterator[None]:
    """Puts the global random states back: a network may draw, and drawing is not measuring."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        # Asking for a GPU's state would start it.
        started = torch.cuda.device_count() if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(range(started)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences prints, warnings and logging; what a failure has to say is in its exception."""
    logger = logging.getLogger("auto_LiRPA")
    # Without any handler, logging would print by itself.
    silent, propagated = logging.NullHandler(), logger.propagate
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.addHandler(silent)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(silent)
            logger.propagate = propagated


@contextlib.contextmanager
def _names_of_its_day() -> Iterator[None]:
    """Supplies, while open, what auto_LiRPA 0.3 takes from older versions of numpy and torch."""
    exporter = sys.modules[torch.onnx.utils._optimize_graph.__module__]
    settings = exporter.GLOBALS
    opset = settings.export_onnx_opset_version

    def set_opset(version: int) -> None:
        settings.export_onnx_opset_version = version

    arrays = types.ModuleType("numpy.lib.arraysetops")
    arrays.__dict__["isin"] = np.isin
    helper = importlib.import_module("torch.onnx.symbolic_helper")
    with contextlib.ExitStack() as stack:
        stack.callback(set_opset, opset)
        stack.enter_context(_supplied(sys.modules, "numpy.lib.arraysetops", arrays))
        stack.enter_context(_supplied(helper.__dict__, "_set_opset_version", set_opset))
        if not hasattr(torch._C.Node, "__getitem__"):
            torch._C.Node.__getitem__ = _node_attribute  # type: ignore[method-assign]
            stack.callback(delattr, torch._C.Node, "__getitem__")
        yield


def _node_attribute(node: Any, name: str) -> Any:
    """Returns an attribute of a traced node by the getter of its kind."""
    return getattr(node, node.kindOf(name))(name)


@contextlib.contextmanager
def _supplied(table: dict[str, Any], name: str, value: object) -> Iterator[None]:
    """Adds an entry while open, where the table has none."""
    missing = name not in table
    if missing:
        table[name] = value
    try:
        yield
    finally:
        if missing:
            table.pop(name, None)


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Undoes what importing the library does to the process: warnings, logging, a folder at home.

    It prepends a warning filter, hangs a handler on the root logger, makes a folder that it never
    uses, and lifts the recursion limit so far that a deep file would end the process instead of
    raising. Its own deprecation warnings concern its authors, so they are dropped.
    """
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers = list(root.handlers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(record=True))
        stack.callback(sys.setrecursionlimit, sys.getrecursionlimit())
        stack.callback(logging.disable, disabled)
        logging.disable(logging.WARNING)
        with contextlib.suppress(ImportError):
            folders: Any = importlib.import_module("appdirs")
            stack.callback(setattr, folders, "user_data_dir", folders.user_data_dir)
            folders.user_data_dir = lambda *_, **__: tempfile.gettempdir()
        try:
            yield
        finally:
            root.handlers[:] = handlers
