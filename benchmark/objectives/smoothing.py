"""Stability training, for networks whose Gaussian smoothing is certified.

Sources: B. Li et al., "Certified Adversarial Robustness with Additive Noise", NeurIPS 2019 (arXiv
1809.03113); Y. Carmon et al., "Unlabeled Data Improves Adversarial Robustness", NeurIPS 2019 (arXiv
1905.13736), section 3.2, whose loss HYDRA uses (Sehwag et al., NeurIPS 2020, arXiv 2002.10509).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.objectives.base import Moment


@dataclass(frozen=True)
class Smoothing:
    """Cross-entropy plus beta times the divergence to the answer under Gaussian noise.

    The noise is not clipped to the box, as in the certificates, and the gradient flows through both
    branches of the divergence.

    Attributes:
        sigma: standard deviation of the noise, in [0, 1] pixel units; that of the certificates.
        beta: weight of the divergence.
    """

    sigma: float = 0.25
    beta: float = 6.0

    @property
    def attack_steps(self) -> int:
        """None: there is no inner attack."""
        return 0

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        moment: Moment,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns CE(f(x), y) + beta * mean KL(f(x) || f(x + noise))."""
        noise = torch.randn(
            inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype
        )
        logits = model(inputs)
        divergence = functional.kl_div(
            functional.log_softmax(model(inputs + self.sigma * noise), dim=1),
            functional.log_softmax(logits, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return functional.cross_entropy(logits, labels) + self.beta * divergence
