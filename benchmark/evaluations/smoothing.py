"""The smoothing evaluation: certified L2 radii of the Gaussian-smoothed classifier.

The smoothed classifier is another network than the one it is built from: its certificates say
nothing about the base network, and hold with probability at least 1 - alpha for each example.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from benchmark.errors import ContractError
from benchmark.evaluations.base import Examples, Result
from benchmark.threat import ThreatModel

ABSTAIN = -1

# Noise is always drawn in blocks of this many samples, because what a generator returns depends on
# how much is asked for at once; so the batch size changes memory and speed but no draw.
BLOCK = 100


@dataclass(frozen=True)
class Smoothing:
    """Randomised smoothing by CERTIFY.

    Attributes:
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        n0: samples that select the class.
        n: samples that estimate its probability.
        alpha: probability that a certificate is wrong.
        batch: samples in one forward pass.
        examples: how many examples of the list are certified; the engine hands over no more.

    Columns: `prediction` int16, ABSTAIN (-1) where the vote is not clear enough; `radius` float32,
    L2 in pixel units, 0 where abstaining; `selected` int16, the class of the selection; `count`
    int32, its votes among n.

    Source: Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
        procedure CERTIFY in section 3.2.
    """

    kind: ClassVar[str] = "smoothing"

    sigma: float
    n0: int
    n: int
    alpha: float
    batch: int
    examples: int

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Certifies each example of a shard in order; radii are L2 whatever the threat model."""
        selected = np.zeros(len(examples.labels), dtype=np.int16)
        count = np.zeros(len(examples.labels), dtype=np.int32)
        for position, example in enumerate(examples.inputs):
            selection = self._votes(model, example, self.n0, examples.classes, generator)
            # Fresh samples: the bound holds only if they did not choose the class themselves.
            estimation = self._votes(model, example, self.n, examples.classes, generator)
            selected[position] = selection.argmax()
            count[position] = estimation[selected[position]]
        columns: dict[str, np.ndarray] = {"count": count, "selected": selected}
        columns |= self.conclude(selected, count)
        return Result(columns=columns, adversarial={}, flags=())

    def conclude(self, selected: np.ndarray, count: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what the votes prove: the columns `prediction` and `radius`.

        Args:
            selected: (N,) class of the selection.
            count: (N,) its votes among the n samples of the estimation.
        """
        lower = lower_confidence_bound(count, self.n, self.alpha)
        certified = lower >= 0.5
        # Phi^-1 is negative below 1/2, where the vote proves nothing.
        radius = np.where(certified, self.sigma * stats.norm.ppf(lower), 0.0)
        return {
            "prediction": np.where(certified, selected, ABSTAIN).astype(np.int16),
            "radius": radius.astype(np.float32),
        }

    @torch.no_grad()
    def _votes(
        self,
        model: nn.Module,
        example: Tensor,
        samples: int,
        classes: int,
        generator: torch.Generator,
    ) -> np.ndarray:
        """Returns (K,) votes of the noisy copies of one example (C, H, W)."""
        votes = torch.zeros(classes, dtype=torch.int64, device=example.device)
        for noise in self._noise(example, samples, generator):
            # The noise is not clipped: the theorem is about the Gaussian, not about the box.
            for copies in torch.split(example + self.sigma * noise, self.batch):
                logits = model(copies)
                # A NaN would win every argmax; no answer is no vote.
                answers = logits.argmax(dim=1)[logits.isfinite().all(dim=1)]
                votes += torch.bincount(answers, minlength=classes)
        return votes.cpu().numpy()

    def _noise(self, example: Tensor, samples: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yields standard normal noise for one example, as many blocks at once as a batch takes."""
        blocks = [min(BLOCK, samples - start) for start in range(0, samples, BLOCK)]
        together = max(1, self.batch // BLOCK)
        for start in range(0, len(blocks), together):
            yield torch.cat(
                [
                    torch.randn((size, *example.shape), generator=generator, device=example.device)
                    for size in blocks[start : start + together]
                ]
            )


def lower_confidence_bound(successes: np.ndarray, trials: int, alpha: float) -> np.ndarray:
    """Returns exact one-sided lower confidence bounds of binomial probabilities.

    >>> lower_confidence_bound(np.array([0, 100]), 100, 0.001).round(4).tolist()
    [0.0, 0.9333]

    Args:
        successes: (N,) counts in [0, trials].
        trials: number of samples, at least 1.
        alpha: probability that a bound exceeds the true probability, in (0, 1).

    Returns:
        (N,) float64 bounds in [0, 1): Clopper-Pearson, the alpha quantile of
        Beta(successes, trials - successes + 1).

    Raises:
        ContractError: counts outside [0, trials], or alpha outside (0, 1).

    Source: Clopper & Pearson, Biometrika 1934; LowerConfBound of Cohen et al. 2019, section 3.2.2.
    """
    counts = np.asarray(successes)
    if trials < 1 or not 0 < alpha < 1 or ((counts < 0) | (counts > trials)).any():
        raise ContractError(
            f"expected counts in [0, {trials}] and alpha in (0, 1), got counts up to "
            f"{counts.max(initial=0)} and alpha {alpha}; check the smoothing settings"
        )
    # Beta(0, .) is the point mass at 0, which scipy calls NaN.
    bounds = stats.beta.ppf(alpha, np.maximum(counts, 1), trials - counts + 1)
    return np.where(counts == 0, 0.0, bounds)
