"""What certified objectives share: cross-entropy at the worst logits that bounds allow."""

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.errors import ContractError
from benchmark.threat import ThreatModel


def check_ball(threat: ThreatModel) -> None:
    """Refuses balls that the bounds do not know.

    Raises:
        ContractError: another norm than Linf.
    """
    if threat.norm != "Linf":
        raise ContractError(
            f"expected an Linf threat model for training by bounds, got {threat}; "
            "use objective smoothing for L2"
        )


def worst_case_cross_entropy(margins: Tensor) -> Tensor:
    """Returns the mean cross-entropy of logits that lie below the label's by margin bounds.

    With lower bounds m_j of f_y - f_j, no input of the region has a larger cross-entropy than the
    logits -m_j and, for the label, 0.

    Args:
        margins: (N, K - 1) lower bounds.

    Source: Wong & Kolter, "Provable Defenses via the Convex Outer Adversarial Polytope", ICML 2018,
        theorem 2.
    """
    return torch.logsumexp(functional.pad(-margins, (0, 1)), dim=1).mean()
