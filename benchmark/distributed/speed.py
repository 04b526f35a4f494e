"""Measuring what is fast on this machine."""

import statistics
import time

import torch
from torch import nn

from benchmark.architectures import build, initialise
from benchmark.compaction import compact
from benchmark.distributed.machine import steady
from benchmark.pruning import mask_from_scores, prunable_parameters
from benchmark.tuning import Tuning
from benchmark.unrolling import dense_work, unroll

# A network of which both forms take about as long, on as many examples as a shard has.
_SHAPE, _SPARSITY, _EXAMPLES = (1, 28, 28), 0.9, 250

# Rounds in turns, so that whatever else runs on the machine slows both alike.
_ROUNDS = 20


def measured_tuning() -> Tuning:
    """Returns this machine's tuning, from passes of a 90 % sparse network in both of its forms."""
    source = torch.Generator().manual_seed(0)
    network = build("cnn-small", shape=_SHAPE, classes=10, mean=[0.0], std=[1.0]).eval()
    initialise(network, source)
    scores = {name: weight.abs() for name, weight in prunable_parameters(network).items()}
    mask_from_scores(scores, _SPARSITY, "layerwise").apply(network)
    small = compact(network).eval().to(memory_format=torch.channels_last)
    unrolled = unroll(small, _SHAPE)
    assert unrolled is not None  # it is small
    inputs = torch.rand(_EXAMPLES, *_SHAPE, generator=source).requires_grad_()
    seconds: dict[nn.Module, list[float]] = {small: [], unrolled: []}
    with steady():
        for _ in range(_ROUNDS):
            for form, spent in seconds.items():
                start = time.perf_counter()
                form(inputs).sum().backward()
                spent.append(time.perf_counter() - start)
    each = {form: statistics.median(spent) for form, spent in seconds.items()}
    return Tuning((each[unrolled] / unrolled.work) / (each[small] / dense_work(small, _SHAPE)))
