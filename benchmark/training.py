"""The one training loop; objective, mask and schedule come in as values, and it knows no method.

A run is a pure function of its arguments and can be killed at any time: after each epoch the whole
state, random generators included, is written atomically, and a rerun continues to the same bits.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from benchmark.architectures import Classifier
from benchmark.datasets import Split, TensorSplit
from benchmark.digests import digest_of, seed_from, sha256_of_bytes
from benchmark.errors import ContractError, lookup, shorten
from benchmark.files import write_atomically
from benchmark.objectives import Moment, Objective
from benchmark.pruning import Mask, prunable_parameters

Schedule = Literal["constant", "cosine", "step"]
Precision = Literal["float32", "tf32", "bfloat16"]

# Zero padding of random crops, as usual for CIFAR.
PADDING = 4

# For each augmentation, how many mirrored versions of an image there are; 0 draws nothing.
_MIRRORED = {"none": 0, "crop": 1, "crop-flip": 2}

# Length of the SHA-256 that a state file starts with, in hex digits.
_SEAL = 64


@dataclass(frozen=True)
class Stage:
    """Settings of one run of the loop (pretrain, prune or finetune).

    Attributes:
        epochs: passes over the training data, at least 0.
        learning_rate: at the start of the schedule.
        batch_size: examples a step; an incomplete last batch is used too.
        optimiser: `sgd` (momentum 0.9) or `adam`.
        weight_decay: L2 penalty on all parameters.
        schedule: `cosine` to 0, `step` (x0.1 at 75 %, x0.01 at 90 % of training), or `constant`.
        warmup_epochs: epochs over which the learning rate rises linearly to its start.
        precision: `tf32` rounds the factors of products to 10 bits where the device has such units,
            `bfloat16` runs forward passes under autocast; weights stay float32.
        channels_last: memory layout of images and convolution weights.
        compiled: compile the network's passes (worth it for long runs on an accelerator).

    Raises:
        ContractError: a count or rate that no training can have.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 128
    optimiser: Literal["sgd", "adam"] = "sgd"
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    warmup_epochs: int = 0
    precision: Precision = "float32"
    channels_last: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        """Refuses settings under which nothing, or nonsense, would be learnt."""
        counts = {"epochs": self.epochs, "warmup_epochs": self.warmup_epochs}
        rates = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        for name, value in (counts | rates).items():
            if not 0 <= value < math.inf:
                raise ContractError(f"expected {name} >= 0, got {value}; correct the recipe")
        if self.batch_size < 1:
            raise ContractError(f"expected batch_size >= 1, got {self.batch_size}")


@dataclass(frozen=True)
class Run:
    """Where and how a stage runs, apart from what is learnt.

    Attributes:
        device: of model and data.
        seed: of data order, augmentation and objective.
        augmentation: `none`, `crop` or `crop-flip`.
        mask: entries held at zero, or None.
        state: file that makes the run resumable, or None.
        report: called after each epoch with (epochs done, epochs in all, mean loss).
    """

    device: torch.device
    seed: int
    augmentation: str = "none"
    mask: Mask | None = None
    state: Path | None = None
    report: Callable[[int, int, float], None] = lambda done, epochs, loss: None


def learning_rate(stage: Stage, progress: float) -> float:
    """Returns the learning rate at a share of training done.

    Args:
        stage: names the schedule; at least 1 epoch.
        progress: in [0, 1].

    Raises:
        UnknownName: no such schedule.
    """
    factor = lookup("schedule", stage.schedule, _SCHEDULES)
    warmup = stage.warmup_epochs / stage.epochs
    if progress < warmup:
        return stage.learning_rate * progress / warmup
    return stage.learning_rate * factor(progress, warmup)


def _cosine(progress: float, warmup: float) -> float:
    share = (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    return 0.5 * (1 + math.cos(math.pi * share))


def _stepwise(progress: float, warmup: float) -> float:
    if progress < 0.75:
        return 1.0
    return 0.1 if progress < 0.9 else 0.01


# (share of training done, share of it that is warm-up) -> share of the learning rate.
_SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda progress, warmup: 1.0,
    "cosine": _cosine,
    "step": _stepwise,
}


def make_optimiser(model: nn.Module, stage: Stage) -> Optimizer:
    """Returns the stage's optimiser over the parameters that require gradients.

    Raises:
        UnknownName: no such optimiser.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    rate, decay = stage.learning_rate, stage.weight_decay
    # None leaves the choice to torch: on the CPU, one parameter after the other.
    fused = fusable(parameters) or None
    makers: dict[str, Callable[[], Optimizer]] = {
        "sgd": lambda: SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay, fused=fused),
        "adam": lambda: Adam(parameters, lr=rate, weight_decay=decay, fused=fused),
    }
    return lookup("optimiser", stage.optimiser, makers)()


def fusable(parameters: list[nn.Parameter]) -> bool:
    """Returns whether one kernel may update all parameters: they are on an accelerator."""
    return bool(parameters) and all(parameter.is_cuda for parameter in parameters)


def augment(inputs: Tensor, augmentation: str, generator: torch.Generator) -> Tensor:
    """Returns images shifted at random over a zero padding, and flipped left to right.

    Args:
        inputs: (N, C, H, W).
        augmentation: `none`, `crop` (shifts only), or `crop-flip`.
        generator: on the CPU, so that every device sees the same images. Each image takes one draw,
            so its shift does not depend on how the images are split into batches.

    Raises:
        UnknownName: no such augmentation.
    """
    draws = _draw_shifts(len(inputs), augmentation, generator)
    if draws is None:
        return inputs
    return _shifted(inputs, draws.to(inputs.device)).contiguous()


def _draw_shifts(count: int, augmentation: str, generator: torch.Generator) -> Tensor | None:
    """Returns (count,) draws, each a shift and whether the image is flipped; None for no change."""
    mirrored = lookup("augmentation", augmentation, _MIRRORED)
    if mirrored == 0:
        return None
    shifts = 2 * PADDING + 1
    return torch.randint(0, shifts * shifts * mirrored, (count,), generator=generator)


def _shifted(inputs: Tensor, draws: Tensor) -> Tensor:
    """Returns (N, C, H, W) images after their (N,) draws, on the device of both."""
    count, _, height, width = inputs.shape
    device, draws = inputs.device, draws[:, None]
    padded = nn.functional.pad(inputs, (PADDING,) * 4)
    shifts = 2 * PADDING + 1
    rows = draws % shifts + torch.arange(height, device=device)
    columns = draws // shifts % shifts + torch.arange(width, device=device)
    columns = torch.where(draws >= shifts * shifts, columns.flip(1), columns)
    examples = torch.arange(count, device=device)[:, None, None]
    return padded[examples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Feed:
    """Batches of a split on a device, in an order drawn anew each epoch."""

    def __init__(self, split: Split, stage: Stage, run: Run) -> None:
        """Moves in-memory pixels to the device once; other splits are read batch by batch."""
        everything = torch.arange(len(split))
        resident = isinstance(split, TensorSplit)
        self.pixels = split.pixels(everything).to(run.device) if resident else None
        self.labels = split.labels.to(run.device)
        self.split, self.stage, self.run = split, stage, run
        self.layout = torch.channels_last if stage.channels_last else torch.contiguous_format

    def __len__(self) -> int:
        """Returns the number of batches an epoch."""
        return math.ceil(len(self.split) / self.stage.batch_size)

    def inputs(self, indices: Tensor, chosen: Tensor) -> Tensor:
        """Returns (n, C, H, W) float32 in [0, 1] on the device.

        Args:
            indices: (n,) on the CPU.
            chosen: the same on the device.
        """
        if self.pixels is not None:
            return self.pixels[chosen].to(torch.float32).div_(self.split.scale)
        inputs = self.split.inputs(indices)
        if self.run.device.type == "cuda":
            # From pinned memory the copy goes on beside what the device does.
            inputs = inputs.pin_memory()
        return inputs.to(self.run.device, non_blocking=True)

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (inputs, labels) of every example once, in random order.

        Order and shifts of the whole epoch reach the device at its start: a copy in each step would
        make the CPU wait until the device has caught up.
        """
        order = torch.randperm(len(self.split), generator=generator)
        draws = _draw_shifts(len(order), self.run.augmentation, generator)
        orders = order.to(self.run.device)
        shifts = None if draws is None else draws.to(self.run.device)
        for start in range(0, len(order), self.stage.batch_size):
            batch = slice(start, start + self.stage.batch_size)
            inputs = self.inputs(order[batch], orders[batch])
            if shifts is not None:
                inputs = _shifted(inputs, shifts[batch])
            yield inputs.contiguous(memory_format=self.layout), self.labels[orders[batch]]


def hold_mask(model: nn.Module, mask: Mask | None) -> Callable[[], None]:
    """Zeroes the removed weights and returns what a training step calls before the optimiser.

    With the gradients of removed entries at zero, neither momentum nor weight decay moves an exact
    zero, so masked weights stay zero without touching them again.
    """
    if mask is None:
        return lambda: None
    mask.apply(model)
    parameters = prunable_parameters(model)
    removed = [
        (parameters[name], (~kept).to(parameters[name].device)) for name, kept in mask.items()
    ]

    def silence() -> None:
        for parameter, gone in removed:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(gone, 0.0)

    return silence


class Session:
    """The state of one run that a kill must not lose."""

    def __init__(self, model: nn.Module, stage: Stage, run: Run, identity: str) -> None:
        """Builds optimiser and generators, and takes over a saved state of the same run.

        Args:
            model: on the run's device, before the first step.
            stage: sets the optimiser.
            run: names the state file.
            identity: of all that the run depends on; a state of another run is not taken over.
        """
        self.model, self.run, self.identity = model, run, identity
        self.optimiser = make_optimiser(model, stage)
        self.order = torch.Generator().manual_seed(seed_from(run.seed, "order"))
        self.noise = torch.Generator(run.device).manual_seed(seed_from(run.seed, "noise"))
        self.epoch = 0
        self.losses: list[float] = []
        self._resume()

    def _resume(self) -> None:
        saved = _read_state(self.run.state)
        if saved.get("identity") != self.identity:
            return
        self.model.load_state_dict(saved["model"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.order.set_state(saved["order"])
        self.noise.set_state(saved["noise"])
        self.epoch, self.losses = saved["epoch"], saved["losses"]

    def save(self) -> None:
        """Writes the state atomically, if the run has a file for it."""
        if self.run.state is None:
            return
        buffer = io.BytesIO()
        content = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "epoch": self.epoch,
            "losses": self.losses,
        }
        torch.save(content, buffer)
        data = buffer.getvalue()
        write_atomically(self.run.state, sha256_of_bytes(data).encode() + data)


def _read_state(path: Path | None) -> dict[str, Any]:
    """Returns a saved state; empty where there is none or a damaged one, so the run starts over."""
    try:
        data = path.read_bytes() if path else b""
    except OSError:
        return {}
    # Archives of tensors are read without a checksum: a flipped bit would pass for a weight.
    if sha256_of_bytes(data[_SEAL:]).encode() != data[:_SEAL]:
        return {}
    saved: dict[str, Any] = torch.load(
        io.BytesIO(data[_SEAL:]), map_location="cpu", weights_only=True
    )
    return saved


def _identity(model: nn.Module, split: Split, objective: Objective, stage: Stage, run: Run) -> str:
    """Returns the digest of all that a run's result depends on, its starting weights included.

    Without them, a second run with the same state file would take over the first one's end. Of the
    data only the labels enter: reading every pixel of a large data set would take longer than an
    epoch, and whoever names the state file knows the data.
    """
    entries = {name: _digest(tensor) for name, tensor in model.state_dict().items()}
    kept = {name: _digest(tensor) for name, tensor in (run.mask or {}).items()}
    return digest_of(
        {
            "start": entries,
            "mask": kept,
            "labels": _digest(split.labels),
            "objective": objective,
            "stage": stage,
            "run": [run.device.type, run.seed, run.augmentation],
        }
    )


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().flatten()
    return sha256_of_bytes(flat.view(torch.uint8).numpy().tobytes())


def fit(
    model: nn.Module, split: Split, objective: Objective, stage: Stage, run: Run
) -> tuple[float, ...]:
    """Trains a model in place and returns the mean loss of each epoch.

    Args:
        model: network with inputs in [0, 1]; moved to the run's device.
        split: training examples.
        objective: the loss.
        stage: how long and how fast.
        run: device, seed, mask, resumption.

    Raises:
        ContractError: the loss became NaN or infinite, or there is nothing to learn from.
    """
    if len(split) == 0:
        raise ContractError("expected training examples, got an empty split")
    model.to(run.device)
    if stage.channels_last:
        model.to(memory_format=torch.channels_last)
    session = Session(model, stage, run, _identity(model, split, objective, stage, run))
    silence = hold_mask(model, run.mask)
    feed = Feed(split, stage, run)
    model.train()
    with _tf32(stage.precision == "tf32"), _compiled(model, stage, run.device):
        while session.epoch < stage.epochs:
            session.losses.append(_epoch(feed, objective, session, silence))
            session.epoch += 1
            session.save()
            run.report(session.epoch, stage.epochs, session.losses[-1])
    model.eval()
    return tuple(session.losses)


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    """Lets products be rounded as TF32 does, if that is wanted, and restores what was."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    if wanted:
        cudnn.allow_tf32 = matmul.allow_tf32 = True
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


@contextmanager
def _compiled(model: nn.Module, stage: Stage, device: torch.device) -> Iterator[None]:
    """Compiles the passes of the networks within a model, if the stage asks for it, meanwhile.

    The model stays the object it was, so a method's wrapper, whose own code looks into it, trains
    as before: what is compiled is called as the network inside.
    """
    if not stage.compiled or not stage.epochs:
        yield
        return
    if reason := compiler_missing(device):
        warnings.warn(
            f"expected a working compiler for compiled passes, got {reason}; training goes on "
            "without, slower and rounded otherwise",
            stacklevel=4,
        )
        yield
        return
    inner: list[nn.Module] = [part for part in model.modules() if isinstance(part, Classifier)]
    networks = inner or [model]
    for network in networks:
        network.compile()
    try:
        with _patient_compiler():
            yield
    finally:
        for network in networks:
            network._compiled_call_impl = None
        # Programs are kept by class, not by network: the next run would have to look through them.
        torch.compiler.reset()


# Programs that one run may need: train and eval mode, whole and last batches, with and without
# gradients, student and teacher. Torch's own limit is 8, after which nothing is compiled any more.
_PROGRAMS = 64


@contextmanager
def _patient_compiler() -> Iterator[None]:
    """Sets the compiler up for networks that methods look into, and for repeatable kernels."""
    import torch._dynamo.config
    import torch._inductor.config

    # Methods hang hooks on layers for some passes and not for others. What cannot be compiled runs
    # as it is. Kernels are not chosen by stopwatch: the next run might choose others.
    tracing = torch._dynamo.config.patch(
        skip_nnmodule_hook_guards=False, suppress_errors=True, recompile_limit=_PROGRAMS
    )
    choosing: AbstractContextManager[object] = nullcontext()
    if hasattr(torch._inductor.config, "deterministic"):
        choosing = torch._inductor.config.patch(deterministic=True)
    with tracing, choosing:
        yield


@cache
def compiler_missing(device: torch.device) -> str:
    """Returns why nothing can be compiled for a device here; empty where it can."""
    try:
        torch.compile(_probe)(torch.zeros(8, device=device))
    except Exception as error:  # a missing C compiler, Triton, or driver each raise their own
        return shorten(f"{type(error).__name__}: {error}", 200)
    return ""


def _probe(values: Tensor) -> Tensor:
    return values.sin() + 1


def _epoch(
    feed: Feed, objective: Objective, session: Session, silence: Callable[[], None]
) -> float:
    """Runs one epoch and returns its mean loss over batches.

    Raises:
        ContractError: that mean is NaN or infinite.
    """
    stage, optimiser = feed.stage, session.optimiser
    total = torch.zeros((), device=feed.run.device)
    for batch, (inputs, labels) in enumerate(feed.epoch(session.order)):
        moment = Moment(session.epoch + batch / len(feed), stage.epochs)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(stage, moment.progress)
        with torch.autocast(
            feed.run.device.type, torch.bfloat16, enabled=stage.precision == "bfloat16"
        ):
            loss = objective.loss(
                session.model, inputs, labels, moment=moment, generator=session.noise
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        silence()
        optimiser.step()
        total += loss.detach().float()
    mean = float(total) / len(feed)
    if not math.isfinite(mean):
        raise ContractError(
            f"expected a finite loss, got {mean} in epoch {session.epoch + 1}; lower the learning "
            "rate"
        )
    return mean
