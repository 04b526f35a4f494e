"""What code does behind the engine's back: prints, files, sockets, processes, global state."""

import contextlib
import io
import os
import random
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from types import FrameType
from typing import Any

import numpy as np
import torch

from benchmark.errors import shorten

# Of each kind, so many are kept; one is told.
_KEPT = 20

# Audit events of Python (PEP 578) by what they mean; a name that ends in a dot stands for all that
# begin with it.
_EVENTS = {
    "open": "opened",
    "os.listdir": "listed",
    "os.scandir": "listed",
    "os.remove": "removed",
    "os.rename": "renamed",
    "os.mkdir": "made folder",
    "os.rmdir": "removed folder",
    "os.system": "ran",
    "os.exec": "ran",
    "os.posix_spawn": "ran",
    "os.spawn": "ran",
    "os.fork": "forked the process",
    "os.forkpty": "forked the process",
    "subprocess.Popen": "ran",
    "socket.": "used a socket:",
    "sqlite3.connect": "opened",
    "ctypes.dlopen": "loaded library",
    "builtins.input": "asked for input",
}

# Reading sources is Python's own business: imports, warnings and tracebacks do it.
_BY_IMPORTS = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "ctypes.dlopen")
_READERS = ("<frozen importlib", "/linecache.py", "/tokenize.py", "/inspect.py", "/traceback.py")


@dataclass
class Seen:
    """What was seen of some code.

    Attributes:
        printed: the first of what it wrote to the output or error streams.
        reached: files, sockets and processes it used.
        moved: global state that it left changed.
    """

    printed: str = ""
    reached: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)


_watching: list[Seen] = []


@contextlib.contextmanager
def watched(draws: int = 0) -> Iterator[Seen]:
    """Watches what is run inside, and puts back the global state that it changed.

    Args:
        draws: the global generators are set to another state for each number, so that results
            which depend on them differ.
    """
    _listen()
    seen = Seen()
    before = _state()
    with _other_generators(draws), _captured(seen):
        inside = _state()
        _watching.append(seen)
        try:
            yield seen
        finally:
            _watching.remove(seen)
            after = _state()
            seen.moved += [name for name, value in inside.items() if after[name] != value]
            _restore(before)


@cache
def _listen() -> None:
    """Adds the audit hook, which stays for as long as the process lives."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    word = _EVENTS.get(event) or _EVENTS.get(f"{event.partition('.')[0]}.")
    if word is None or (event in _BY_IMPORTS and _source_is_read(sys._getframe())):
        return
    target = shorten(repr(arguments[0])) if arguments and event != "os.fork" else ""
    if len(_watching[-1].reached) < _KEPT:
        _watching[-1].reached.append(f"{word} {target}".strip())


def _source_is_read(frame: FrameType | None) -> bool:
    while frame is not None:
        if any(reader in frame.f_code.co_filename for reader in _READERS):
            return True
        frame = frame.f_back
    return False


def _state() -> dict[str, object]:
    """Returns the global state that results may depend on, by how it is called."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    backends = torch.backends
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's global generator": (kind, np.asarray(keys).tobytes(), rest),
        "Python's global generator": random.getstate(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's anomaly mode": torch.is_anomaly_enabled(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's matmul precision": torch.get_float32_matmul_precision(),
        "cuDNN's settings": (backends.cudnn.deterministic, backends.cudnn.benchmark),
        "numpy's treatment of errors": np.geterr(),
        "the environment": dict(os.environ),
        "the working folder": os.getcwd(),
        "the running threads": {thread.ident for thread in threading.enumerate()},
    }


def _restore(before: dict[str, Any]) -> None:
    """Puts back what would spoil later cases; generators are put back by themselves."""
    if torch.get_num_threads() != before["torch's number of threads"]:
        torch.set_num_threads(before["torch's number of threads"])
    torch.set_grad_enabled(before["torch's gradient mode"])
    torch.set_default_dtype(before["torch's default dtype"])
    if torch.get_default_device() != before["torch's default device"]:
        torch.set_default_device(before["torch's default device"])
    torch.autograd.set_detect_anomaly(before["torch's anomaly mode"], check_nan=True)
    if dict(os.environ) != before["the environment"]:
        os.environ.clear()
        os.environ.update(before["the environment"])
    if os.getcwd() != before["the working folder"]:
        os.chdir(before["the working folder"])


@contextlib.contextmanager
def _other_generators(draws: int) -> Iterator[None]:
    """Sets the global generators to a state that no usual seed gives, and back."""
    kept = torch.get_rng_state(), random.getstate(), np.random.get_state()
    seed = 0x5EED0000 + draws
    torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
    random.setstate(random.Random(seed).getstate())
    np.random.set_state(np.random.RandomState(seed).get_state())
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(kept[2])


@contextlib.contextmanager
def _captured(seen: Seen) -> Iterator[None]:
    """Notes what is written to the streams, by Python or past it, instead of showing it."""
    streams = sys.stdout, sys.stderr
    for stream in streams:
        with contextlib.suppress(Exception):
            stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        text = io.TextIOWrapper(io.FileIO(os.dup(file.fileno()), "w"), write_through=True)
        sys.stdout = sys.stderr = text
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            with contextlib.suppress(Exception):
                text.close()
            file.seek(0)
            seen.printed = shorten(file.read(200).decode(errors="replace").strip())
