"""Bringing any network of torch: a stranger's file runs once, in a process of its own.

What comes back is data: a description of the network and its weights, read as a stranger's. The
board never runs the file again, and nobody who looks at the board ever has to.

The process keeps the file from this program's memory, its open files and its environment, and from
running on for ever. It does not keep it from what the user may do: it reads and writes the same
files, and reaches the same network. So nothing runs without `trusted`.
"""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark import weights
from benchmark.architectures import Classifier, Shape, described
from benchmark.architectures.described import Description
from benchmark.architectures.tracing import SAME_LOGITS, answers, difference
from benchmark.datasets import describe, example_list, load
from benchmark.errors import (
    ContractError,
    DataUnavailable,
    ManifestError,
    UnknownName,
    shorten,
)
from benchmark.factories import ANSWER, INPUTS, LEFT_OUT, LOGITS, REFUSAL, REQUEST
from benchmark.files import write_atomically
from benchmark.manifest import Checkpoint
from benchmark.pipeline.entering import Network, Said, entry_of
from benchmark.pipeline.project import Project
from benchmark.pruning import Structure

# Random inputs, and examples of the data set where it is at hand, on which answers are compared.
RANDOM_INPUTS = 32
EXAMPLES = 100

_REFUSAL_BYTES = 4096
_SAID_BYTES = 4096

# What a process needs of the environment to find its programs and its libraries; no more is passed
# on, so that tokens and keys stay here.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")

_CHILD = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from pathlib import Path; from benchmark.factories import run; run(Path(sys.argv[2]))"
)


@dataclass(frozen=True)
class Means:
    """What a stranger's process may use.

    Attributes:
        seconds: of time, on the clock and on the processor.
        memory: bytes of address space; importing torch alone takes several thousand million.
        largest: bytes of a file that it writes, the answer included.
    """

    seconds: int = 300
    memory: int = 16 << 30
    largest: int = 1 << 30


@dataclass(frozen=True)
class Brought:
    """A stranger's network as data.

    Attributes:
        description: of its layers, checked.
        state: its state dict, checked against the description.
        difference: largest one between its logits and those of the stranger's module, in double
            precision, as a share of the largest.
        inputs: number of random inputs and of examples on which they were compared.
        left_out: number of parameters that the module never uses, and that the description lacks.
    """

    description: Description
    state: dict[str, Tensor]
    difference: float
    inputs: tuple[int, int]
    left_out: int


def describe_foreign(
    file: Path,
    factory: str,
    *,
    name: str,
    dataset: str,
    project: Project,
    trusted: bool,
    means: Means = Means(),
) -> Brought:
    """Returns the network that a function in a Python file returns, as data.

    Args:
        file: Python file of the stranger's, or of the user's own.
        factory: name of a function without arguments that returns a `torch.nn.Module` from inputs
            in [0, 1] to logits, its weights loaded.
        name: of the architecture: lower-case words joined by hyphens.
        dataset: that it classifies; gives the shape of an input and the number of classes.
        project: where data lie.
        trusted: that the user wants the file to run.
        means: what it may use.

    Raises:
        ContractError: it is not trusted, runs too long, ends without an answer, is no network that
            a description can say, or answers otherwise than its description.
        UnknownName: no such data set.
    """
    if not trusted:
        raise ContractError(
            f"expected --trust to run {shorten(file.name)}, got none; a Python file may do "
            "anything that you may do, so read it first: it runs once, in a process of its own, "
            "and what comes back is data"
        )
    if not file.is_file():
        raise ContractError(f"expected a Python file, found none at {shorten(str(file), 400)}")
    about = describe(dataset, None)
    inputs, counts = _inputs(dataset, about.shape, project)
    request = {
        "file": str(file.resolve()),
        "factory": factory,
        "name": name,
        "shape": list(about.shape),
        "classes": about.classes,
        "memory": means.memory,
        "seconds": means.seconds,
        "largest": means.largest,
    }
    data = _run(request, inputs, means)
    description, state, wanted, left_out = _read(data, about.shape, about.classes, name)
    network = loaded(description, state)
    apart = difference(answers(network, inputs), wanted)
    if not apart <= SAME_LOGITS:
        raise ContractError(
            f"expected the described network to answer as {factory} does, to {SAME_LOGITS:g} of "
            f"the largest logit, got {apart:.2g}; avoid in-place operations on values that are "
            "read again, and randomness"
        )
    return Brought(description, state, apart, counts, left_out)


def loaded(description: Description, state: dict[str, Tensor]) -> Classifier:
    """Returns a described network with its weights, in evaluation mode.

    Raises:
        ContractError: tensors of other names, shapes or types, or a normalisation that is none.
    """
    channels = description.shape[0]
    network = described.build(description, mean=(0.0,) * channels, std=(1.0,) * channels)
    expected = network.state_dict()
    if odd := sorted(expected.keys() ^ state.keys()):
        raise ContractError(
            f"expected the tensors of {description.architecture}, got {len(odd)} that do not "
            f"match, '{shorten(odd[0])}' among them; describe it again"
        )
    for tensor_name, tensor in state.items():
        wanted = expected[tensor_name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise ContractError(
                f"expected {shorten(tensor_name)} as {tuple(wanted.shape)} {wanted.dtype}, got "
                f"{shorten(str(tuple(tensor.shape)))} {tensor.dtype}; describe it again"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ContractError(
                f"expected finite weights, got NaN or infinity in {shorten(tensor_name)}; train it "
                "again"
            )
    network.load_state_dict(state, strict=True)
    if not bool((network.normalise.std > 0).all()):
        raise ContractError("expected a positive normalise.std; describe it again")
    return network.eval()


# --- Into the manifest


def row_of(
    brought: Brought,
    dataset: str,
    said: Said,
    structure: Structure = "unstructured",
    claimed: float | None = None,
) -> tuple[Checkpoint, bytes]:
    """Returns the entry of a stranger's network and its weights, its description among them.

    Args:
        brought: of `describe_foreign`.
        dataset: that it classifies.
        said: of it.
        structure: what was removed as a unit.
        claimed: share of units removed; None for what is counted.

    Raises:
        ManifestError: a claim that the weights do not keep, or words that no entry may have.
        UnknownName: no such objective.
    """
    model = loaded(brought.description, brought.state)
    data = weights.encode(model.state_dict(), brought.description.plain())
    return entry_of(Network(model, dataset, structure, data), said, claimed), data


# --- What is compared


def _inputs(dataset: str, shape: Shape, project: Project) -> tuple[Tensor, tuple[int, int]]:
    """Returns random inputs and examples of the data set, and how many of each."""
    draws = torch.Generator().manual_seed(0)
    random = torch.rand(RANDOM_INPUTS, *shape, generator=draws)
    try:
        split = load(dataset, "test", project.data_root, download=False)
        chosen = example_list(dataset, split.labels)[:EXAMPLES]
    except DataUnavailable:
        return random, (len(random), 0)
    examples = split.inputs(chosen)
    return torch.cat([random, examples]), (len(random), len(examples))


# --- The process


def _run(request: dict[str, object], inputs: Tensor, means: Means) -> bytes:
    """Returns what the process answered.

    Raises:
        ContractError: it took too long, ended without an answer, or says why there is none.
    """
    with tempfile.TemporaryDirectory(prefix="robustprune-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        write_atomically(folder / REQUEST, json.dumps(request).encode(), durable=False)
        write_atomically(folder / INPUTS, weights.encode({"inputs": inputs}), durable=False)
        code, said = _finished(folder, means)
        shown = f"; it said '{shorten(said, 200)}'" if said else ""
        if code is None:
            raise ContractError(
                f"expected an answer of {request['factory']} in {means.seconds} s, got none"
                f"{shown}; make it faster or give it more time"
            )
        refusal = _bounded(folder / REFUSAL, _REFUSAL_BYTES)
        if refusal is not None:
            raise ContractError(shorten(refusal.decode(errors="replace"), 600))
        answer = _bounded(folder / ANSWER, means.largest)
        if answer is None:
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise ContractError(
                f"expected an answer of {request['factory']}, got {ended}{shown}; mend the file"
            )
        return answer


def _finished(folder: Path, means: Means) -> tuple[int | None, str]:
    """Runs the process and returns its exit code, None if it took too long, and what it said."""
    command = [sys.executable, "-I", "-B", "-c", _CHILD, json.dumps(_search_path()), str(folder)]
    # A group of its own, so that what it started ends with it.
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        close_fds=True,
    )
    with _listening(process) as heard:
        try:
            code: int | None = process.wait(timeout=means.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = b"".join(heard)[-_SAID_BYTES:].decode(errors="replace").strip().splitlines()
    # Of a traceback the last line says what happened.
    return code, lines[-1].strip() if lines else ""


@contextlib.contextmanager
def _listening(process: "subprocess.Popen[bytes]") -> Iterator[deque[bytes]]:
    """Reads all that a process says and keeps the end of it."""
    heard: deque[bytes] = deque(maxlen=4)
    stream = process.stdout
    assert stream is not None

    def listen() -> None:
        with contextlib.suppress(OSError, ValueError):
            while piece := os.read(stream.fileno(), _SAID_BYTES):
                heard.append(piece)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield heard
    finally:
        # A process that left the group could hold the pipe open: it is not waited for.
        listener.join(timeout=1)
        if not listener.is_alive():
            stream.close()


def _search_path() -> list[str]:
    """Returns where the process finds packages: where this one does, but not in the folder here."""
    ours = str(Path(__file__).resolve().parents[2])
    return list(dict.fromkeys([ours, *(path for path in sys.path if path and path != ".")]))


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    here = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(folder))
    return {**kept, **here, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


# --- What comes back


def _bounded(path: Path, limit: int) -> bytes | None:
    """Returns the bytes of a stranger's file; None where there is none.

    Raises:
        ContractError: it is a link, a pipe or the like, or larger than the limit.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ContractError(
            f"expected an answer in a plain file, got '{error.strerror}'; mend the file"
        ) from error
    with os.fdopen(handle, "rb") as stream:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ContractError("expected an answer in a plain file, got another kind of file")
        data = stream.read(min(about.st_size, limit) + 1)
    if len(data) > limit:
        raise ContractError(
            f"expected an answer of at most {limit} bytes, got more; bring a smaller network"
        )
    return data


def _read(
    data: bytes, shape: Shape, classes: int, name: str
) -> tuple[Description, dict[str, Tensor], Tensor, int]:
    """Returns description, state, logits and the number of parameters left out of an answer.

    Raises:
        ContractError: it is none, or of another network than was asked for.
    """
    try:
        state = weights.decode(data)
        description = described.parse(weights.description_of(data))
    except (ManifestError, ContractError, UnknownName) as error:
        raise ContractError(f"expected a network as data, got '{error}'") from error
    logits, left_out = state.pop(LOGITS, None), state.pop(LEFT_OUT, None)
    if (description.shape, description.classes, description.name) != (shape, classes, name):
        raise ContractError("expected a description of what was asked for, got another")
    if logits is None or logits.dtype != torch.float64 or left_out is None or left_out.dim():
        raise ContractError("expected logits beside the network, got none")
    return description, state, logits, int(left_out)
