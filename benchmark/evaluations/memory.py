"""A shard on an accelerator with too little memory for it: the network sees it in parts.

What an evaluation draws and what it decides belongs to the whole shard, whatever the memory. Only
the passes through the network are divided, and those are what fills the memory.
"""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchmark.errors import ContractError, OutOfMemory

Answer = TypeVar("Answer")

DETACHED = "expected logits with a gradient, got detached ones; attacks would find nothing"


def halving(examples: int, attempt: Callable[[int], Answer]) -> Answer:
    """Returns what an attempt does; where an accelerator's memory runs out, begins it again.

    Each time the network sees half as many examples at once. One number holds for the whole
    attempt, so that what was decided in it is decided in the same way when it is checked.

    On the CPU nothing is divided: there, records promise the same bits on every machine.

    Args:
        examples: of the shard.
        attempt: of the largest number of examples in a pass; 0 for all of them.

    Raises:
        OutOfMemory: one example alone is too much, or the CPU's memory has run out.
    """
    inner = 0
    while True:
        try:
            return attempt(inner)
        except torch.OutOfMemoryError as error:
            inner = ((inner or examples) + 1) // 2 if (inner or examples) > 1 else 0
            if inner == 0:
                raise OutOfMemory(
                    "expected an accelerator with memory for one example, got one without; run on "
                    "another, or with --device cpu"
                ) from error
        except (MemoryError, RuntimeError) as error:
            # The CPU's allocator has no error class of its own.
            if not isinstance(error, MemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
            raise OutOfMemory(
                f"expected memory for {examples} examples, got too little; run with fewer --workers"
            ) from error
        # Outside of the handler, which would keep the tensors of the failure alive.
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def in_parts(network: nn.Module, inputs: Tensor, size: int) -> Tensor:
    """Returns logits (N, K) of inputs (N, C, H, W), of which the network sees `size` at a time."""
    if torch.is_grad_enabled() and inputs.requires_grad:
        logits: Tensor = _Parts.apply(network, inputs, size)
        return logits
    return torch.cat([network(part) for part in torch.split(inputs, size)])


class _Parts(torch.autograd.Function):
    """Passes back one part at a time, each behind a forward pass of its own.

    Nothing is kept between the two passes but the inputs.
    """

    @staticmethod
    def forward(context: Any, network: nn.Module, inputs: Tensor, size: int) -> Tensor:
        context.network, context.size = network, size
        context.save_for_backward(inputs)
        # A network may overwrite what it is given.
        return torch.cat([network(part.clone()) for part in torch.split(inputs, size)])

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[None, Tensor, None]:
        (inputs,), (wanted,) = context.saved_tensors, gradients
        slopes: list[Tensor] = []
        for part, weights in zip(
            torch.split(inputs, context.size), torch.split(wanted, context.size), strict=True
        ):
            with torch.enable_grad():
                leaf = part.detach().clone().requires_grad_()
                logits = context.network(leaf)
                if not logits.requires_grad:
                    raise ContractError(DETACHED)
                slopes += torch.autograd.grad(logits, leaf, weights)
        return None, torch.cat(slopes), None
