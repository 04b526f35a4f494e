"""Less precise copies of networks, for the attacks of fast mode."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark.architectures import Classifier
from benchmark.compaction import compacted
from benchmark.errors import ContractError, lookup

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: dict[str, None] = dict.fromkeys(("float32", "tf32", "bfloat16"))


class _Brief(nn.Module):
    """A network in bfloat16: inputs, weights and sums of layers; logits come back in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(torch.bfloat16)

    def forward(self, inputs: Tensor) -> Tensor:
        answer: Tensor = self.network(inputs.to(torch.bfloat16))
        return answer.float()


class _Rough(nn.Module):
    """A network whose products keep 10 bits of the mantissa, where the accelerator knows how."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        # The way back is through the same library calls, and reads the same switches later.
        return _through(self.network, inputs)


def _through(network: nn.Module, inputs: Tensor) -> Tensor:
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    before = cudnn.allow_tf32, cuda.matmul.allow_tf32
    cudnn.allow_tf32 = cuda.matmul.allow_tf32 = True
    try:
        answer: Tensor = network(inputs)
        return answer
    finally:
        cudnn.allow_tf32, cuda.matmul.allow_tf32 = before


def lowered(network: nn.Module, precision: Precision) -> nn.Module:
    """Returns a less precise copy of a network, compacted where that is possible.

    Args:
        network: in eval mode; left untouched.
        precision: `tf32` or `bfloat16`.

    Raises:
        UnknownName: another precision.
        ContractError: float32, which is not less.
    """
    lookup("precision", precision, PRECISIONS)
    if precision == "float32":
        raise ContractError("expected a precision below float32, got float32")
    small = compacted(network) if type(network) is Classifier else None
    if small is not None:
        network = small.to(memory_format=torch.channels_last)
    return _Brief(network) if precision == "bfloat16" else _Rough(network)
