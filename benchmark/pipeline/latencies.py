"""How fast a network is: dense, as published and compact, timed in turns within one run.

On the CPU the clock is the thread's own: it stands still while another program has the core, which
would hit long passes only. What remains (caches, clock rates) disturbs networks in turns alike, so
that their ratios say more than each time. Times belong to the machine; no rank and no digest
depends on them.
"""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from benchmark.architectures import Classifier
from benchmark.compaction import Compact
from benchmark.distributed import processor, steady
from benchmark.files import inside
from benchmark.manifest import Checkpoint, load_model
from benchmark.pipeline.project import Project
from benchmark.records import Latencies, Latency

BATCHES = (1, 64)

# Rounds of one batch size: as many as fit into some seconds, within limits.
_FEWEST, _MOST, _SECONDS = 7, 31, 0.2
# A batch size that would take more seconds than this is left out; one input never is.
_LONGEST = 60.0

_Pass = Callable[[], float]


def dense_parent(project: Project, parent: Checkpoint | None) -> Classifier | None:
    """Returns the network of a dense parent, None where its weights are not at hand.

    Raises:
        ManifestError: weights that are there and not what the manifest says.
    """
    if parent is None or not inside(project.root, parent.file).exists():
        return None
    return load_model(parent, project.root)


def latencies_of(
    dense: Classifier | None, masked: Classifier, small: Compact | None, device: torch.device
) -> Latencies:
    """Returns how long forward passes take, on one thread of the CPU or on the accelerator.

    Args:
        dense: the parent, if at hand.
        masked: the network as published.
        small: the compact network, if there is one.
        device: to take times on; the networks are moved there.
    """
    known = {"dense": dense, "masked": masked, "compact": small}
    networks = {name: each.to(device) for name, each in known.items() if each is not None}
    generator = torch.Generator().manual_seed(0)
    # Random images: a constant one may leave whole layers at zero, which some processors favour.
    images = torch.rand(max(BATCHES), *masked.shape, generator=generator).to(device)
    found: dict[str, list[Latency]] = {name: [] for name in known}
    with steady(), torch.no_grad():
        for batch in BATCHES:
            if _expected(found, batch) > _LONGEST:
                break
            for name, latency in in_turns(networks, images[:batch]).items():
                found[name].append(latency)
    return Latencies(
        processor=processor(device),
        dense=tuple(found["dense"]),
        masked=tuple(found["masked"]),
        compact=tuple(found["compact"]),
    )


def _expected(found: Mapping[str, list[Latency]], batch: int) -> float:
    """Returns how many seconds the fewest rounds take at most, from what one input took."""
    single = sum(each[0].median / each[0].batch for each in found.values() if each)
    return single / 1e3 * batch * (_FEWEST + 2)


def in_turns(networks: Mapping[str, nn.Module], inputs: Tensor) -> dict[str, Latency]:
    """Returns the latency of each network, one pass of each a round.

    Args:
        networks: by name, on the inputs' device; on the CPU they run on this thread alone.
        inputs: (N, C, H, W), one pass.
    """
    passes = {name: _pass(network, inputs) for name, network in networks.items()}
    # The first round prepares kernels and memory; the second tells what a round takes.
    warm = [sum(each() for each in passes.values()) for _ in range(2)]
    rounds = max(_FEWEST, min(_MOST, int(1e3 * _SECONDS / max(warm[1], 1e-3))))
    spent: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds):
        for name, each in passes.items():
            spent[name].append(each())
    return {name: _summary(len(inputs), times) for name, times in spent.items()}


def _pass(network: nn.Module, inputs: Tensor) -> _Pass:
    """Returns a forward pass that answers how many milliseconds it took."""

    def on_one_thread() -> float:
        start = time.thread_time()
        network(inputs)
        return 1e3 * (time.thread_time() - start)

    def on_the_accelerator() -> float:
        start = time.perf_counter()
        network(inputs)
        # Its calls return before its work is done.
        torch.cuda.synchronize(inputs.device)
        return 1e3 * (time.perf_counter() - start)

    return on_the_accelerator if inputs.device.type == "cuda" else on_one_thread


def _summary(batch: int, times: list[float]) -> Latency:
    quartiles = statistics.quantiles(times, n=4)
    # To the microsecond in hundredths: what is finer is noise, and files should not carry it.
    lower, median, upper = (max(round(value, 5), 1e-5) for value in quartiles)
    return Latency(batch=batch, rounds=len(times), lower=lower, median=median, upper=upper)
