"""What runs in a process of its own: a stranger's file is loaded and its network becomes data.

`run` is all that happens there. Whoever started the process trusts the file; the parent trusts
nothing that comes back (`benchmark.pipeline.trusting`).
"""

import contextlib
import importlib.util
import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import weights
from benchmark.architectures.tracing import answers, trace
from benchmark.errors import BenchmarkError, ContractError, shorten
from benchmark.files import write_atomically

REQUEST, INPUTS, ANSWER, REFUSAL = (
    "request.json",
    "inputs.safetensors",
    "answer.safetensors",
    "refusal.txt",
)
LOGITS, LEFT_OUT = "logits", "left-out"

# Threads, sockets and open files that a network needs to be built.
_OPEN_FILES = 256


def run(folder: Path) -> None:
    """Loads the file that a request names, calls its factory and writes the network as data.

    Args:
        folder: with the request and the inputs; the answer, or why there is none, goes there.
    """
    request = json.loads((folder / REQUEST).read_text())
    _limit(request["memory"], request["seconds"], request["largest"])
    try:
        data = _answer(folder, request)
    except BenchmarkError as error:
        refusal = str(error)
    # The file is anybody's: it may raise whatever it likes, SystemExit too.
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".strip()
        refusal = (
            f"expected a network from {shorten(request['factory'])}, got "
            f"'{shorten(reason, 200)}'; mend the file"
        )
    else:
        write_atomically(folder / ANSWER, data, durable=False)
        return
    write_atomically(folder / REFUSAL, refusal.encode(errors="replace"), durable=False)


def _limit(memory: int, seconds: int, largest: int) -> None:
    """Takes the process's own means from it: what it starts has no more."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, largest),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        # A system may know a limit and not keep it, or have a lower one already.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (most, most))


def _answer(folder: Path, request: Mapping[str, Any]) -> bytes:
    """Returns description, weights and logits for the inputs, as one weights file."""
    torch.set_num_threads(1)
    module = _called(Path(request["file"]), request["factory"])
    channels, height, width = request["shape"]
    traced = trace(
        module,
        name=request["name"],
        shape=(channels, height, width),
        classes=request["classes"],
    )
    inputs = weights.decode((folder / INPUTS).read_bytes())["inputs"]
    state: dict[str, Tensor] = {**traced.state, LOGITS: answers(module, inputs)}
    state[LEFT_OUT] = torch.tensor(len(traced.left_out))
    return weights.encode(state, traced.description.plain())


def _called(file: Path, factory: str) -> nn.Module:
    """Returns what a factory in a file returns, on the CPU."""
    # The file finds what lies beside it, as if it had been run.
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location("foreign_network", file)
    if spec is None or spec.loader is None:
        raise ContractError(f"expected a Python file, got {shorten(file.name)}; give one in .py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    found = getattr(loaded, factory, None)
    if not callable(found):
        raise ContractError(
            f"expected a function {shorten(factory)} in {shorten(file.name)}, found none; define it"
        )
    module = found()
    if not isinstance(module, nn.Module):
        raise ContractError(
            f"expected a torch.nn.Module from {shorten(factory)}, got {type(module).__name__}; "
            "return the network"
        )
    return module.cpu()
