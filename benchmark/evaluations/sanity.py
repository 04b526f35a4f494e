"""The sanity evaluation: cheap attacks on every correct example, and signs of misled attacks.

Robust accuracy is only as good as the attacks behind it. What is measured here says how far they
can be trusted on this network: attacks that need no gradient or a single one, an attack without a
bound, a gradient that float32 cannot carry, a planted adversarial example to be found again.
Examples proven robust are included: with certify-first nothing else attacks them, so these attacks
are what can refute a certificate.

Source: Carlini et al., "On Evaluating Adversarial Robustness", 2019 (arXiv 1902.06705); Athalye,
Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018 (arXiv
1802.00420); Zimmermann et al., "Increasing Confidence in Adversarial Robustness Evaluations",
NeurIPS 2022 (arXiv 2206.13991).
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from scipy.stats import fisher_exact
from torch import Tensor, nn

from benchmark.attacks import Steps, ascend, cross_entropy, pgd
from benchmark.ensemble import margins
from benchmark.errors import ContractError
from benchmark.evaluations import probes
from benchmark.evaluations.base import MISCLASSIFIED, SURVIVED, Examples, Flag, Result
from benchmark.evaluations.confirm import fooled, predictions
from benchmark.evaluations.engine import Guard
from benchmark.threat import ThreatModel

# The whole box: any image at all.
ANYTHING = ThreatModel("Linf", Fraction(1))

# A cross-entropy gradient this much smaller than the margin's carries nothing. Float32 keeps all 24
# digits down to 2^-126; under 2^-102 those digits begin to fall off entries of ordinary size. It
# takes margins of 70 and more to get there. Smaller margins only round the label's own term away
# (from 17 on), at no cost that PGD would show.
VANISHING = 2.0**-102

# The planted test: what it says of examples that it was not run on; how close to the planted point
# the search must come, in shares of the way; at most how many classes it climbs to, as many as
# AutoAttack's targeted attacks; and the share of the largest logit by which margins may differ
# through rounding.
NOT_PLANTED = -2
CLOSE = 0.01
TARGETS = 9
ROUNDING = 1e-5

# Chance of raising `test-beats-training` on a network that knows nothing of the test examples. It
# is asked twice a record, so one record in 50,000 is flagged by chance.
MEMORY_CHANCE = 1e-5


@dataclass(frozen=True)
class Sanity:
    """Attacks without or with one gradient, and checks on the attacks that need many.

    Attributes:
        draws: random points of each ball, half of them uniform and half corners.
        huge_steps: of PGD in the whole box.
        planted_examples: correct examples of a shard, from the first, that get a planted one.
        planted_draws: random points from which the planted one is taken.
        planted_steps: of each search for it.
        training_steps: of the short PGD that compares test and training examples.

    Columns: `broken_by` int8: index into `attacks` of the first that broke the example, -1 where it
    survived both, -2 where it was misclassified unmodified. `huge_survived` bool: correct, and
    still so under PGD with an epsilon of 1; at chance level if gradients lead anywhere.
    `vanishing_gradient` bool: the margin has an input gradient, and that of the cross-entropy is 0
    or so much smaller that float32 carries nothing of it: the loss has saturated. Where the margin
    has none either, the network itself is flat, which is `clean.zero_gradient`. `planted` int8: 1
    where gradients lead to an example that random draws found, 0 where they do not, -2 where it was
    not tried or the draws found nothing to plant.
    Flags: `batch-dependent`, `dynamic-forward`, `hidden-weights`, and `test-beats-training` where
    there are training examples to compare with.

    Raises:
        ContractError: a number below 1.
    """

    kind: ClassVar[str] = "sanity"
    attacks: ClassVar[tuple[str, ...]] = ("noise", "single-step")

    draws: int = 100
    huge_steps: Steps = Steps(20, Fraction(1, 8))
    planted_examples: int = 30
    planted_draws: int = 20
    planted_steps: Steps = Steps(20, Fraction(1, 8))
    training_steps: Steps = Steps(10, Fraction(1, 4))

    def __post_init__(self) -> None:
        """Refuses settings under which a check would look at nothing."""
        if min(self.draws, self.planted_examples, self.planted_draws - 1) < 1:
            raise ContractError(
                f"expected draws and examples of at least 1, and 2 draws to plant, got {self}"
            )

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Attacks and checks all correct examples of a shard, the proven ones included."""
        correct = predictions(model, examples.inputs) == examples.labels
        broken_by, adversarial = self._attacked(model, examples, correct, threat, generator)
        columns = {
            "broken_by": broken_by.cpu().numpy(),
            "huge_survived": self._huge(model, examples, correct, generator).cpu().numpy(),
            "vanishing_gradient": vanishing(model, examples).cpu().numpy(),
            "planted": self._planted(model, examples, correct, threat, generator).cpu().numpy(),
        }
        remembered = self._remembered(model, examples, threat, generator)
        return Result(columns, adversarial, (*contract_flags(model, examples), *remembered))

    def _attacked(
        self,
        model: nn.Module,
        examples: Examples,
        correct: Tensor,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Returns (N,) the first attack that broke each example, and the inputs that did."""
        broken_by = torch.where(correct, SURVIVED, MISCLASSIFIED).to(torch.int8)
        adversarial: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for order, attack in enumerate(self.attacks):
            alive = (broken_by == SURVIVED).nonzero().flatten()
            if len(alive) == 0:
                break
            if attack == "noise":
                candidates = self._noise(model, examples, alive, threat, generator)
            else:
                candidates = single_step(
                    model, examples.inputs[alive], examples.labels[alive], threat
                )
            broken = fooled(model, examples, alive, candidates, threat)
            broken_by[alive[broken]] = order
            adversarial[attack] = (alive[broken].cpu().numpy(), candidates[broken].cpu().numpy())
        return broken_by, adversarial

    @torch.no_grad()
    def _noise(
        self,
        model: nn.Module,
        examples: Examples,
        alive: Tensor,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns (n, C, H, W) the random points of lowest margin."""
        best, labels = examples.inputs[alive], examples.labels[alive]
        lowest = torch.full(labels.shape, torch.inf, device=labels.device)
        for draw in range(self.draws):
            # Drawn for the whole shard, so that no example's draws depend on the fate of others.
            points = random_point(draw, examples.inputs, threat, generator)[alive]
            found = margins(model(points), labels)
            better = found < lowest
            best[better], lowest[better] = points[better], found[better]
        return best

    def _huge(
        self, model: nn.Module, examples: Examples, correct: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Returns (N,) bool: correct, and not broken although any image would have done."""
        survived, chosen = correct.clone(), correct.nonzero().flatten()
        trace = pgd(
            model,
            examples.inputs[chosen],
            examples.labels[chosen],
            threat=ANYTHING,
            steps=self.huge_steps,
            restarts=1,
            generator=generator,
        )
        broken = fooled(model, examples, chosen, trace.adversarial, ANYTHING)
        survived[chosen] = ~(broken & (trace.broken_step >= 0))
        return survived

    def _planted(
        self,
        model: nn.Module,
        examples: Examples,
        correct: Tensor,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns (N,) int8: whether gradients lead to a planted adversarial example.

        Shifted by a threshold, the margin makes the best of some random points an adversarial
        example that is known to exist. Gradients must lead from the original to one as bad: towards
        the classes that the planted point leans to, one after the other, as AutoAttack's targeted
        attacks do. What they climb is a difference of logits, which no scale saturates.
        """
        column = torch.full(correct.shape, NOT_PLANTED, dtype=torch.int8, device=correct.device)
        chosen = correct.nonzero().flatten()[: self.planted_examples]
        if len(chosen) == 0:
            return column
        inputs, labels = examples.inputs[chosen], examples.labels[chosen]
        plan = self._plant(model, inputs, labels, threat, generator)
        lowest = torch.full(labels.shape, torch.inf, device=labels.device)
        for targets in plan.targets.unbind(dim=1):
            watch = _Watch(labels, targets)
            last = ascend(model, watch, inputs, inputs, threat=threat, steps=self.planted_steps)
            with torch.no_grad():
                watch(model(last))
            lowest = torch.minimum(lowest, watch.lowest)
        found = (lowest <= plan.threshold).to(torch.int8)
        column[chosen] = torch.where(plan.possible, found, NOT_PLANTED)
        return column

    @torch.no_grad()
    def _plant(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> "_Plan":
        """Returns what to look for, where the draws found anything lower than the original."""
        original = model(inputs)
        start = margins(original, labels)
        drawn = torch.stack(
            [
                model(random_point(draw, inputs, threat, generator))
                for draw in range(self.planted_draws)
            ]
        )
        found = torch.stack([margins(logits, labels) for logits in drawn])
        (best, following), order = found.sort(dim=0).values[:2], found.argmin(dim=0)
        planted = drawn[order, torch.arange(len(labels), device=labels.device)]
        rivals = planted.scatter(1, labels.unsqueeze(1), -torch.inf)
        targets = rivals.topk(min(TARGETS, rivals.shape[1] - 1), dim=1).indices
        way = start - best
        threshold = best + torch.maximum((following - best) / 2, CLOSE * way)
        possible = way > ROUNDING * original.abs().amax(dim=1)
        return _Plan(targets, threshold, possible)

    def _remembered(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> tuple[Flag, ...]:
        """Returns a flag if test examples fare better than training examples beyond chance."""
        if examples.training is None:
            return ()
        pairs = ((examples.inputs, examples.labels), examples.training)
        right, seen = [], [len(labels) for _, labels in pairs]
        for inputs, labels in pairs:
            trace = pgd(
                model,
                inputs,
                labels,
                threat=threat,
                steps=self.training_steps,
                restarts=1,
                generator=generator,
            )
            clean = int((predictions(model, inputs) == labels).sum())
            right.append((clean, int((trace.broken_step < 0).sum())))
        flags = []
        for what, test, training in zip(("unmodified", "under PGD"), *right, strict=True):
            table = [[test, seen[0] - test], [training, seen[1] - training]]
            chance = fisher_exact(table, alternative="greater").pvalue
            shares = test / seen[0], training / seen[1]
            if chance < MEMORY_CHANCE:
                text = f"{what} {shares[0]:.1%} of test, {shares[1]:.1%} of training examples right"
                flags.append(Flag("test-beats-training", shares[0] - shares[1], text))
        return tuple(sorted(flags, key=lambda flag: -flag.rate)[:1])


class _Plan(NamedTuple):
    """A planted example for each of n originals.

    Attributes:
        targets: (n, T) classes to climb to.
        threshold: (n,) margin to reach.
        possible: (n,) bool, whether there is anything to find.
    """

    targets: Tensor
    threshold: Tensor
    possible: Tensor


class _Watch:
    """A loss that climbs from the label's logit to a target's and keeps the lowest margin seen."""

    def __init__(self, labels: Tensor, targets: Tensor) -> None:
        """Takes (n,) labels and targets."""
        self._labels, self._targets = labels, targets
        self.lowest = torch.full(labels.shape, torch.inf, device=labels.device)

    def __call__(self, logits: Tensor) -> Tensor:
        """Returns the sum over examples of the target's logit less the label's."""
        self.lowest = torch.minimum(self.lowest, margins(logits.detach(), self._labels))
        wanted, own = (logits.gather(1, x.unsqueeze(1)) for x in (self._targets, self._labels))
        return (wanted - own).sum()


def random_point(
    draw: int, inputs: Tensor, threat: ThreatModel, generator: torch.Generator
) -> Tensor:
    """Returns a random point of each ball: uniform for even draws, for odd ones at its far end.

    That end is a corner for Linf, where linear functions have their extremes, and the sphere for
    L2.
    """
    if draw % 2 == 0:
        return threat.random_start(inputs, generator)
    noise = torch.randn(inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype)
    # Far outside the ball; the projection brings each point back to its rim.
    far = noise.sign() if threat.norm == "Linf" else 1e3 * noise
    return threat.project(inputs + float(threat.epsilon) * far, inputs)


def single_step(model: nn.Module, inputs: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
    """Returns (n, C, H, W) one step of full epsilon from the originals up the cross-entropy.

    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015.
    """
    return ascend(
        model,
        cross_entropy(labels),
        inputs,
        inputs,
        threat=threat,
        steps=Steps(1, Fraction(1)),
    )


def vanishing(model: nn.Module, examples: Examples) -> Tensor:
    """Returns (N,) bool: the margin has an input gradient, the cross-entropy next to none."""
    leaf = examples.inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        losses = (cross_entropy(examples.labels)(logits), margins(logits, examples.labels).sum())
    sizes = []
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        # In float64, where the squares of tiny numbers are still numbers.
        sizes.append(torch.linalg.vector_norm(gradient.flatten(1).double(), dim=1))
    found: Tensor = sizes[0] < VANISHING * sizes[1]
    return found


def contract_flags(model: nn.Module, examples: Examples) -> tuple[Flag, ...]:
    """Returns flags of a network that is not one fixed function made of its declared weights."""
    network = model.network if isinstance(model, Guard) else model
    flags = []
    moved = probes.batch_dependent(model, examples.inputs)
    if bool(moved.any()):
        text = "the answer to an example depends on the others in its batch"
        flags.append(Flag("batch-dependent", float(moved.double().mean()), text))
    if probes.computes_gradients(network, examples.inputs[:2]):
        flags.append(Flag("dynamic-forward", 1.0, "the forward pass computes gradients itself"))
    hidden = probes.hidden_weights(network, examples.inputs[:2])
    if hidden > 0:
        text = f"{hidden:.1%} of the weight entries in use are no declared parameters"
        flags.append(Flag("hidden-weights", hidden, text))
    return tuple(flags)
