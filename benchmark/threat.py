"""Threat models: what an adversary may change. Parse, print, measure, project, check."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from benchmark.errors import ContractError, shorten

Norm = Literal["Linf", "L2"]

# Slack of our own check. Float32 has 24 significant bits: the sum x + delta for x and delta
# in [0, 1] is rounded by at most 6e-8, so an honest attack stays well inside 1e-6 and a wrong
# epsilon (8/255 against 0.0314) does not.
TOLERANCE = 1e-6

# Plain fractions and decimals only: an exponent could ask for a number of a billion digits.
_EPSILON = re.compile(r"[0-9]{1,20}(/[0-9]{1,20}|\.[0-9]{1,20})?")


@dataclass(frozen=True)
class ThreatModel:
    """All inputs in the box [0, 1] within distance epsilon of the original.

    Attributes:
        norm: `Linf` or `L2`, of the flattened difference.
        epsilon: exact fraction in [0, 1] pixel units (for L2 it may exceed 1).
    """

    norm: Norm
    epsilon: Fraction

    def __post_init__(self) -> None:
        """Refuses unknown norms, and epsilons that are negative or not exact."""
        if self.norm not in ("Linf", "L2"):
            raise ContractError(
                f"expected norm Linf or L2, got '{shorten(str(self.norm))}'; others have no attacks"
            )
        if not isinstance(self.epsilon, Fraction) or self.epsilon < 0:
            raise ContractError(
                f"expected epsilon as a fraction >= 0, got {shorten(repr(self.epsilon))}; "
                "give it exactly, in [0, 1] pixel units"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the threat model printed as `text`.

        >>> str(ThreatModel.parse("Linf 8/255"))
        'Linf 8/255'

        Raises:
            ContractError: the text is not `<norm> <fraction>`.
        """
        norm, _, epsilon = text.partition(" ")
        try:
            if _EPSILON.fullmatch(epsilon) is None:
                raise ValueError(epsilon)
            return cls(cast(Norm, norm), Fraction(epsilon))  # other norms are refused there
        except (ValueError, ZeroDivisionError) as error:
            raise ContractError(
                f"expected '<norm> <fraction>' such as 'Linf 8/255', got '{shorten(text)}'; "
                "write epsilon as a fraction"
            ) from error

    def __str__(self) -> str:
        """Returns the printed form, such as `Linf 8/255`."""
        return f"{self.norm} {self.epsilon}"

    def with_epsilon(self, epsilon: Fraction) -> "ThreatModel":
        """Returns the same norm with another epsilon."""
        return ThreatModel(self.norm, epsilon)

    def distances(self, adversarial: Tensor, inputs: Tensor) -> Tensor:
        """Returns the distance of each pair.

        Args:
            adversarial: (N, ...) changed inputs.
            inputs: (N, ...) originals.

        Returns:
            (N,) float64 distances in pixel units, NaN where an input holds one. All is computed in
            double precision, so that the check adds no rounding of its own.
        """
        difference = (adversarial.double() - inputs.double()).flatten(1)
        order = float("inf") if self.norm == "Linf" else 2
        distances: Tensor = torch.linalg.vector_norm(difference, order, dim=1)
        return distances

    def contains(self, adversarial: Tensor, inputs: Tensor) -> Tensor:
        """Returns (N,) bool: inside the box, inside epsilon (+1e-6) and free of NaN.

        Args:
            adversarial: (N, C, H, W) candidates.
            inputs: (N, C, H, W) originals in [0, 1].
        """
        flat = adversarial.flatten(1)
        in_box = ((flat >= 0) & (flat <= 1)).all(dim=1)
        near = self.distances(adversarial, inputs) <= float(self.epsilon) + TOLERANCE
        return in_box & near

    def project(self, candidates: Tensor, inputs: Tensor) -> Tensor:
        """Returns the candidates moved into the ball and the box.

        Args:
            candidates: (N, C, H, W) any finite values.
            inputs: (N, C, H, W) originals in [0, 1].

        Returns:
            (N, C, H, W): for Linf the nearest point of ball and box; for L2 scaled into the ball,
            then clamped to the box (the clamp moves each coordinate towards the original's side, so
            the distance does not grow).
        """
        epsilon = float(self.epsilon)
        if self.norm == "Linf":
            lowest, highest = inputs - epsilon, inputs + epsilon
            return torch.minimum(torch.maximum(candidates, lowest), highest).clamp(0, 1)
        difference = candidates - inputs
        norms = _norms(difference)
        scaled = inputs + difference * (epsilon / norms)
        # A point of the ball stays what it is, to the bit.
        return torch.where(norms <= epsilon, candidates, scaled).clamp(0, 1)

    def random_start(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Returns a random point of the ball for each input, then moved into the box.

        Args:
            inputs: (N, C, H, W) originals in [0, 1], on the generator's device.
            generator: source of the draws.

        Returns:
            (N, C, H, W): before the move uniform in the ball of either norm.
        """
        like: dict[str, Any] = {
            "generator": generator,
            "device": inputs.device,
            "dtype": inputs.dtype,
        }
        if self.norm == "Linf":
            noise = 2 * torch.rand(inputs.shape, **like) - 1
            return self.project(inputs + noise * float(self.epsilon), inputs)
        noise = torch.randn(inputs.shape, **like)
        radius = torch.rand((len(inputs), *[1] * (inputs.dim() - 1)), **like)
        radius = radius.pow(1 / inputs.shape[1:].numel()) * float(self.epsilon)
        return self.project(inputs + noise * (radius / _norms(noise)), inputs)


def _norms(difference: Tensor) -> Tensor:
    """Returns (N, 1, ..., 1) L2 norms that can be divided by."""
    norms: Tensor = torch.linalg.vector_norm(difference.flatten(1), dim=1).clamp_min(1e-12)
    return norms.view(-1, *[1] * (difference.dim() - 1))
