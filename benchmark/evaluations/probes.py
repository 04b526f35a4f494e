"""Probes: is a network one fixed function of each input, made of the weights that it declares?

The contract of a checkpoint is that its answer to an input depends on that input alone and on
registered weights alone. Each probe here looks at one way to break it that no attack would notice:
answers that depend on the batch or on the calls before, gradients taken inside the forward pass,
and weights that are nowhere declared, so that no count of zeros ever sees them.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.errors import ContractError, InvariantViolation
from benchmark.evaluations.base import Flag
from benchmark.pruning import prunable_parameters

# AutoAttack's own threshold (Croce & Hein 2020, checks of the released code) for logits scaled to
# length 1. Float32 sums in another order stay a hundred times below it.
DIFFERENCE = 1e-4

# Gradients scaled to length 1 may differ by this much. Rounding can switch a ReLU that is all but
# off, which moves the gradient of a small network by a few hundredths; one that misleads points
# elsewhere.
TURN = 0.1

# A difference must also be this many times what two passes in a row differ by, so that noise is
# called noise and nothing else.
OVER_NOISE = 10

# Flags of networks that are no longer what they were.
STATES = ("stateful-forward", "revived-weights")

# How many examples are asked one by one, and how many the engine asks around every evaluation.
ALONE = 4
ASKED = 8

# The engine asks about inputs moved by up to this much, too: a network that answers honestly at
# the examples and otherwise snaps to them would look steady at the examples themselves.
MOVED_BY = 0.1


# --- answers --------------------------------------------------------------------------------------


def unit(vectors: Tensor) -> Tensor:
    """Returns (N, D) vectors scaled to length 1; zero stays zero, however small the others are."""
    flat = vectors.detach().flatten(1).double()
    # Squares of gradients of 1e-30 underflow in float32, not in float64.
    return functional.normalize(flat, dim=1, eps=torch.finfo(torch.float64).tiny)


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Returns (N,) distances in [0, 2] between vectors (N, ...) scaled to length 1."""
    found: Tensor = torch.linalg.vector_norm(unit(first) - unit(second), dim=1)
    return found


@torch.no_grad()
def batch_dependent(model: nn.Module, inputs: Tensor) -> Tensor:
    """Returns (N,) bool: the answer differs in another batch by more than noise explains.

    The other batches are the same examples in reversed order, each half, and the first few alone.

    Args:
        model: inputs to logits.
        inputs: (N, C, H, W) in [0, 1].
    """
    whole = model(inputs)
    noise = distance(whole, model(inputs)).amax()
    half = (len(inputs) + 1) // 2
    others = [
        model(inputs.flip(0)).flip(0),
        torch.cat([model(part) for part in torch.split(inputs, half)]),
        _one_by_one(model, inputs, whole),
    ]
    moved = torch.stack([distance(whole, other) for other in others]).amax(dim=0)
    found: Tensor = moved > DIFFERENCE + OVER_NOISE * noise
    return found


@torch.no_grad()
def what_varies(model: nn.Module, inputs: Tensor) -> str:
    """Returns in what way a network is no fixed function of each input, empty where it is one.

    Args:
        model: inputs to logits.
        inputs: (N, C, H, W) in [0, 1].
    """
    if bool((distance(model(inputs), model(inputs)) > DIFFERENCE).any()):
        return "two passes over the same inputs differ"
    if bool(batch_dependent(model, inputs).any()):
        return "the answer to an input depends on the others in its batch"
    return ""


@contextmanager
def explained(model: nn.Module, inputs: Tensor, flags: Iterable[Flag]) -> Iterator[None]:
    """Says why a rule is broken inside, where the network is to blame.

    A success that cannot be repeated is a contradiction on the face of it. On a network that draws
    random numbers, looks at the batch or counts its calls, it is to be expected.

    Args:
        model: inputs to logits.
        inputs: (N, C, H, W) in [0, 1].
        flags: raised so far.

    Raises:
        ContractError: a rule was broken and the network is no fixed function of each input.
        InvariantViolation: a rule was broken, whatever the network.
    """
    try:
        yield
    except InvariantViolation as error:
        states = [flag.detail for flag in flags if flag.name in STATES]
        reason = "; ".join(states) or what_varies(model, inputs)
        if not reason:
            raise
        raise ContractError(
            f"expected a network that is one fixed function of each input, got one where {reason}; "
            "no success against it can be repeated"
        ) from error


def _one_by_one(model: nn.Module, inputs: Tensor, whole: Tensor) -> Tensor:
    """Returns (N, K) logits with the first few rows answered alone."""
    answers = whole.clone()
    for position in range(min(ALONE, len(inputs))):
        try:
            answers[position] = model(inputs[position : position + 1])[0]
        except (ValueError, RuntimeError):
            # Statistics over a batch of one are undefined: such a network has no answer of its own.
            answers[position] = -whole[position]
    return answers


# --- gradients inside the forward pass ------------------------------------------------------------

# What torch's Python side calls to run a backward pass, and to begin a forward-mode derivative.
DERIVATIVES = ("run_backward", "_make_dual")


def computes_gradients(model: nn.Module, inputs: Tensor) -> bool:
    """Returns whether the forward pass itself computes derivatives, with or without grad mode.

    The interpreter reports each call into torch, so it does not matter under which name or through
    which wrapper (`torch.autograd`, `Tensor.backward`, `torch.func`) the network asks for them.

    Args:
        model: inputs to logits.
        inputs: (n, C, H, W), a few are enough.
    """
    calls: list[str] = []

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        name = getattr(argument, "__name__", "") if event == "c_call" else ""
        if name in DERIVATIVES:
            calls.append(name)

    before = sys.getprofile()
    for grads in (False, True):
        with torch.set_grad_enabled(grads):
            asked = inputs.detach().clone().requires_grad_(grads)
            sys.setprofile(watch)
            try:
                model(asked)
            finally:
                # A profiler written in C cannot be put back by its Python face.
                sys.setprofile(before if callable(before) else None)
    return bool(calls)


# --- hidden weights -------------------------------------------------------------------------------

# Operations whose untouched operand acts as the weights of a layer. Statistics and other buffers
# may meet the input elsewhere (to be subtracted, say), but weights must be parameters: nothing else
# is counted when zeros are.
LINEAR = {
    "addbmm",
    "addmm",
    "addmv",
    "baddbmm",
    "bmm",
    "convolution",
    "cudnn_convolution",
    "dot",
    "linear",
    "matmul",
    "miopen_convolution",
    "mkldnn_convolution",
    "mkldnn_linear",
    "mm",
    "mv",
}

# Operations that take an example tensor only for its shape; what they return tells nothing of it.
BLANK = {
    "empty_like",
    "full_like",
    "new_empty",
    "new_empty_strided",
    "new_full",
    "new_ones",
    "new_zeros",
    "ones_like",
    "rand_like",
    "randint_like",
    "randn_like",
    "zeros_like",
}

OVERWRITING = {"copy_", "fill_", "zero_"}
INDEXING = ("embedding", "gather", "index", "scatter", "take")

Key = tuple[str, int]


class Origin(NamedTuple):
    """Where the values of a storage come from.

    Attributes:
        inputs: from the inputs, at least in part.
        leaves: keys of the tensors that it was computed from, none of them from the inputs.
    """

    inputs: bool
    leaves: frozenset[Key]


@torch.no_grad()
def hidden_weights(model: nn.Module, inputs: Tensor) -> float:
    """Returns the share of the weight entries in use that no parameter or buffer declares.

    Two passes are followed operation by operation. What depends on the inputs is marked; whatever
    else meets a marked tensor acts as a weight. Fine are parameters, buffers (but not as the
    weights of a linear map) and what is computed from them with no more non-zero entries than they
    have, such as weight times mask. Everything else is hidden: tensors kept as plain attributes, in
    lists, closures or globals, and non-zero entries that sparse parameters alone could not give.
    Constant tensors (zeros to pad with) tell nothing and do not count, nor do tensors that change
    from pass to pass, which are noise. Altogether no more entries than there are logits are let
    through: means and deviations of a few channels are often kept as plain tensors.

    Args:
        model: inputs to logits.
        inputs: (n, C, H, W) in [0, 1]; two are enough.

    Returns:
        A share in [0, 1]; exactly 0 where every weight is declared.
    """
    used, first, classes = _followed(model, inputs)
    _, second, _ = _followed(model, inputs)
    hidden = sum(entries for digest, entries in first.items() if digest in second)
    return hidden / (hidden + used) if hidden > classes else 0.0


def _followed(model: nn.Module, inputs: Tensor) -> tuple[int, dict[str, int], int]:
    """Returns declared entries in use, hidden entries by a digest of their values, and classes."""
    trail = _Trail(model)
    asked = inputs.detach().clone()
    trail.mark(asked)
    with trail:
        logits = model(asked)
    # Logits that were lost on the way depend on nothing that could be followed.
    trail.meet("output", [logits], logits.numel())
    declared = sum(_entries(tensor) for tensor in trail.used.values())
    return declared, trail.hidden, logits.shape[-1]


class _Trail(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every operation below autograd and keeps what acted as a weight.

    `TorchDispatchMode` sees what layers, functions, scripts and custom autograd functions all
    become. A mode at the level of Python functions would miss the inside of those. Despite the
    underscore in its module's name it is the documented way to watch operations.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters = {_key(tensor) for tensor in model.parameters()}
        self.declared = self.parameters | {_key(tensor) for tensor in model.buffers()}
        self.origins: dict[Key, Origin] = {}
        self.leaves: dict[Key, Tensor] = {}
        self.used: dict[Key, Tensor] = {}
        self.hidden: dict[str, int] = {}
        # Storages stay alive, so that no address is given out twice.
        self.kept: list[Tensor] = [*model.parameters(), *model.buffers()]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        name = str(func).split(".")[1]
        operands = list(_tensors((args, {k: v for k, v in named.items() if k != "out"})))
        answers = list(_tensors(result))
        if name in BLANK:
            self.kept += answers
        elif any(self.origin(operand).inputs for operand in operands):
            self.meet(name, operands, max((answer.numel() for answer in answers), default=0))
            for answer in answers:
                self.mark(answer)
        else:
            self._derive(name, operands, answers)
        return result

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Says no: torch would import its compiler, which takes seconds, to be told to stay out."""
        return False

    def mark(self, tensor: Tensor) -> None:
        """Notes that a tensor depends on the inputs."""
        self.kept.append(tensor)
        self.origins[_key(tensor)] = Origin(True, frozenset())

    def origin(self, tensor: Tensor) -> Origin:
        """Returns where a tensor comes from; one never seen before is its own origin."""
        key = _key(tensor)
        if key not in self.origins:
            self.kept.append(tensor)
            self.leaves[key] = tensor
            self.origins[key] = Origin(False, frozenset([key]))
        return self.origins[key]

    def _derive(self, name: str, operands: list[Tensor], answers: list[Tensor]) -> None:
        """Notes what tensors were computed from, none of it being inputs."""
        sources = operands
        if name in OVERWRITING and operands and operands[0].numel() == _whole(operands[0]).numel():
            sources = operands[1:]
        if not operands:
            return
        leaves = frozenset[Key]().union(*(self.origin(source).leaves for source in sources))
        for answer in answers:
            self.kept.append(answer)
            self.origins[_key(answer)] = Origin(False, leaves)

    def meet(self, name: str, operands: list[Tensor], size: int) -> None:
        """Counts what meets the inputs: declared entries in use, and hidden ones.

        Args:
            name: of the operation.
            operands: all its tensors.
            size: entries of its largest result.
        """
        marked = [operand.numel() for operand in operands if self.origin(operand).inputs]
        # A buffer that spreads one input over several outputs is a weight, too.
        weighs = name in LINEAR or size > max(marked, default=size)
        for operand in operands:
            origin = self.origin(operand)
            positions = not operand.is_floating_point() and any(w in name for w in INDEXING)
            if origin.inputs or positions:
                continue
            declared = {key for key in origin.leaves if key in self.declared}
            self.used |= {key: self.leaves[key] for key in declared}
            for key in origin.leaves - declared:
                self._hide(self.leaves[key], _entries(self.leaves[key]))
            if origin.leaves == declared:
                allowed = declared & self.parameters if weighs else declared
                known = sum(_entries(self.leaves[key]) for key in allowed)
                self._hide(operand, _entries(operand) - known)

    def _hide(self, tensor: Tensor, entries: int) -> None:
        """Keeps a tensor's undeclared entries, unless it is constant; each content once."""
        if entries > 0 and not _constant(tensor):
            self.hidden[_digest(tensor)] = entries


def _key(tensor: Tensor) -> Key:
    """Returns what a tensor shares with its views."""
    if tensor.layout != torch.strided:
        return "tensor", id(tensor)
    return "storage", tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yields the tensors in nested arguments that hold values."""
    if isinstance(values, Tensor):
        if values.numel():
            yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _whole(tensor: Tensor) -> Tensor:
    """Returns all entries behind a tensor, (n,): each once, however it is viewed or expanded."""
    if tensor.layout != torch.strided:
        return tensor.to_dense().flatten()
    entries = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((entries,), (1,), 0)


def _entries(tensor: Tensor) -> int:
    return int(torch.count_nonzero(_whole(tensor)))


def _constant(tensor: Tensor) -> bool:
    whole = _whole(tensor)
    return bool((whole == whole[0]).all())


def _digest(tensor: Tensor) -> str:
    """Returns a digest of a tensor's entries."""
    data = _whole(tensor).contiguous().view(torch.uint8).cpu().numpy().tobytes()
    return hashlib.sha256(data).hexdigest()


# --- state ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answers:
    """One pass.

    Attributes:
        logits: (n, K).
        gradients: (n, ...) of the cross-entropy, by the inputs.
    """

    logits: Tensor
    gradients: Tensor

    def apart(self, other: "_Answers") -> Tensor:
        """Returns (2, n) how far two passes are from each other, in units of what is allowed."""
        logits = distance(self.logits, other.logits) / DIFFERENCE
        return torch.stack([logits, distance(self.gradients, other.gradients) / TURN])


class Steadiness:
    """Remembers what a network answers and what it is made of, to ask again after an evaluation.

    A network that counts its calls (in an attribute, a closure or a global) and after some of them
    changes its answer, or its gradient alone, differs from itself. One that draws random numbers
    differs from call to call, and is not called stateful: `randomised-output` says it already.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        published: nn.Module | None = None,
    ) -> None:
        """Asks the network twice, and copies its parameters and buffers.

        Args:
            network: the very object that the evaluation uses.
            inputs: (N, C, H, W) in [0, 1]; the first few are asked, as they are and moved a little.
            labels: (N,) their classes.
            published: where to look for zeros that must stay; the network itself if not given.
        """
        draws = torch.Generator(inputs.device).manual_seed(0)
        few = inputs[:ASKED].detach()
        noise = torch.rand(few.shape, generator=draws, device=few.device, dtype=few.dtype)
        moved = (few + MOVED_BY * (2 * noise - 1)).clamp(0, 1)
        self._network = network
        self._inputs = torch.cat([few, moved])
        self._labels = labels[:ASKED].repeat(2)
        self._state = _state_of(network)
        self._zeros = {
            name: parameter.detach() == 0
            for name, parameter in prunable_parameters(published or network).items()
        }
        self._before = [self._ask(), self._ask()]

    def flags(self, count: int) -> tuple[Flag, ...]:
        """Returns what has changed: `stateful-forward`, `revived-weights`.

        Args:
            count: examples that were evaluated in between, for the text.
        """
        moved = self._moved([self._ask(), self._ask()])
        revived, zeros = self._revived()
        span = f"while {count} examples were evaluated"
        flags = []
        if moved:
            flags.append(Flag("stateful-forward", moved, f"answers or gradients changed {span}"))
        elif not revived and not _same(self._state, dict(_tensors_of(self._network))):
            flags.append(Flag("stateful-forward", 1.0, f"parameters or buffers changed {span}"))
        if revived:
            text = f"{revived} of {zeros} zero weights came back to life {span}"
            flags.append(Flag("revived-weights", revived / zeros, text))
        return tuple(flags)

    def _ask(self) -> _Answers | None:
        """Returns the network's answers, or None if they are not what logits are.

        Such a network is refused where its answers are used, with a better message.
        """
        with torch.enable_grad():
            leaf = self._inputs.clone().requires_grad_()
            logits: object = self._network(leaf)
            if not isinstance(logits, Tensor) or logits.dim() != 2 or not logits.requires_grad:
                return None
            if len(logits) != len(leaf) or logits.shape[1] <= int(self._labels.max()):
                return None
            loss = functional.cross_entropy(logits, self._labels, reduction="sum")
            (gradients,) = torch.autograd.grad(loss, leaf)
        finite = bool(logits.isfinite().all()) and bool(gradients.isfinite().all())
        return _Answers(logits.detach(), gradients) if finite else None

    def _moved(self, after: list[_Answers | None]) -> float:
        """Returns the share of the examples asked whose answer or gradient has moved."""
        passes = [answers for answers in (*self._before, *after) if answers is not None]
        if len(passes) < 4:
            # Nothing to compare, unless answers were there and are gone.
            return 1.0 if None not in self._before and None in after else 0.0
        pairs = zip(passes, (*passes[1:], passes[0]), strict=True)
        apart = [first.apart(second) for first, second in pairs]
        # Two passes in a row differ at both ends: that is noise. At one end alone: a state.
        noise = torch.minimum(apart[0].amax(dim=1), apart[2].amax(dim=1)).unsqueeze(1)
        moved = torch.stack(apart).amax(dim=0) > 1 + OVER_NOISE * noise
        # An example counts once: as it is or moved a little, by its answer or its gradient.
        return float(moved.view(4, -1).any(dim=0).double().mean())

    def _revived(self) -> tuple[int, int]:
        """Returns how many zero weights are no longer zero, and how many there were."""
        now = prunable_parameters(self._network)
        revived = [
            torch.count_nonzero(now[name].detach()[zero])
            for name, zero in self._zeros.items()
            if name in now and now[name].shape == zero.shape
        ]
        zeros = [torch.count_nonzero(zero) for zero in self._zeros.values()]
        return sum(map(int, revived)), sum(map(int, zeros))


def _tensors_of(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields all parameters and buffers by name, those outside the state dict included."""
    yield from network.named_parameters()
    yield from network.named_buffers()


def _state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _tensors_of(network)}


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )
