"""The Hilbert-Schmidt information bottleneck: how much hidden layers know of image and label.

The normalised Hilbert-Schmidt independence criterion of two variables over a batch of m examples is

    nHSIC(A, B) = trace(R_A R_B),   R = K H (K H + 1e-5 m I)^-1,   H = I - 1 1' / m

with K the kernel matrix of a variable. It is 0 for independent variables as m grows, and at most
the smaller of the two ranks.

Source: K. Fukumizu et al., "Kernel Measures of Conditional Dependence", NeurIPS 2007; W.-D. K. Ma
et al., "The HSIC Bottleneck", AAAI 2020 (arXiv 1908.01580); Z. Wang et al., "Revisiting
Hilbert-Schmidt Information Bottleneck for Adversarial Robustness", NeurIPS 2021 (arXiv 2106.02734).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Ridge in units of the batch size.
RIDGE = 1e-5


@dataclass(frozen=True)
class Bottleneck:
    """Penalty on what hidden layers know of the image, and reward for what of the label.

    Attributes:
        lambda_x: weight of the dependence on the image.
        lambda_y: weight of the dependence on the label.
        sigma: width of the Gaussian kernels.
    """

    lambda_x: float
    lambda_y: float
    sigma: float

    def penalty(self, hidden: Sequence[Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the sum over hidden layers Z of lambda_x nHSIC(X, Z) - lambda_y nHSIC(Y, Z).

        Args:
            hidden: (N, ...) outputs of each layer.
            inputs: (N, C, H, W).
            labels: (N,).
        """
        of_labels = (labels[:, None] == labels).double()  # the linear kernel of one-hot vectors
        of_inputs = gaussian_kernel(inputs, self.sigma)
        # The trace is linear in either factor: both terms share one product a layer.
        factor = self.lambda_x * operator(of_inputs) - self.lambda_y * operator(of_labels)
        traces = [(operator(gaussian_kernel(z, self.sigma)) * factor).sum() for z in hidden]
        return torch.stack(traces).sum().float()


def gaussian_kernel(features: Tensor, sigma: float) -> Tensor:
    """Returns (N, N) float64 exp(-|a - b|^2 / (2 sigma^2 d)) of (N, ...) features of d entries."""
    # Products in float32 save memory and keep distances to 1e-7 of the squared norms; the inverse,
    # whose condition is up to 1e5, is taken in float64.
    with torch.autocast(features.device.type, enabled=False):
        flat = features.flatten(1).float()
        products = (flat @ flat.T).double()
    squares = products.diagonal()
    distances = (squares[:, None] + squares - 2 * products).clamp_min(0)
    return torch.exp(-distances / (2 * sigma**2 * flat.shape[1]))


def operator(kernel: Tensor) -> Tensor:
    """Returns R, symmetric, of an (N, N) kernel.

    Centred on both sides instead of on one: H is a projection, so the trace of a product of two
    such R is the same, and symmetric matrices need no transposing.
    """
    centred = kernel - kernel.mean(dim=0, keepdim=True)
    centred = centred - centred.mean(dim=1, keepdim=True)
    identity = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    # The two factors of R commute, so solving from the left gives R itself.
    solution: Tensor = torch.linalg.solve(centred + RIDGE * len(kernel) * identity, centred)
    return solution


@contextmanager
def hidden_outputs(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what the hidden layers of a network put out while it runs."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        outputs.append(output)

    hooks = [layer.register_forward_hook(keep) for layer in hidden_layers(network)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def hidden_layers(network: nn.Module) -> list[nn.Module]:
    """Returns the residual blocks, and the ReLU and global pooling layers outside them."""
    found: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, nn.ReLU | nn.AdaptiveAvgPool2d) or _is_block(child, network):
            found.append(child)
        else:
            found += hidden_layers(child)
    return found


def _is_block(module: nn.Module, parent: nn.Module) -> bool:
    """Returns whether a module is one of a row, with convolutions inside and a forward of its own.

    A residual block is recognised by its place, since its class differs by network.
    """
    own = not isinstance(module, nn.Sequential | nn.Conv2d)
    inside = any(isinstance(part, nn.Conv2d) for part in module.modules())
    return isinstance(parent, nn.Sequential) and own and inside
