"""Adversarial training: PGD on cross-entropy, and TRADES.

Sources: A. Madry et al., ICLR 2018 (arXiv 1706.06083), equation 2.1; H. Zhang et al.,
"Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019 (arXiv 1901.08573),
equation 5.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from benchmark.attacks import Steps, ascend, worst_found
from benchmark.objectives.base import Moment
from benchmark.threat import ThreatModel

# TRADES starts its inner attack at x + 0.001 * N(0, 1) in pixel units, since at x itself the
# gradient of the divergence is zero.
TRADES_START = 0.001


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Sets a model up for an inner attack, and back: only inputs take gradients.

    In eval mode an attack neither uses nor moves batch statistics; each layer gets its own mode
    back, since a method may keep some in eval mode while it trains others. Frozen weights keep a
    compiled pass from computing their gradients with those of the inputs. Weights that a method
    makes of others are made once for all steps of the attack.
    """
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with _made_once(model):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


@contextmanager
def _made_once(model: nn.Module) -> Iterator[None]:
    """Keeps what parametrisations make, so long as no compiler has them in its own program."""
    modules = list(model.modules())
    made = any(parametrize.is_parametrized(module) for module in modules)
    compiled = any(module._compiled_call_impl is not None for module in modules)
    with parametrize.cached() if made and not compiled else nullcontext():
        yield


@dataclass(frozen=True)
class Adversarial:
    """Cross-entropy on PGD examples (Madry et al. 2018).

    Attributes:
        threat: ball of the inner attack.
        steps: inner steps.
        warmup: share of training over which epsilon rises linearly from 0. Small networks fall into
            a constant answer when they meet the full epsilon at once; 0 switches it off.
    """

    threat: ThreatModel
    steps: Steps = Steps(10, Fraction(1, 4))
    warmup: Fraction = Fraction(0)

    @property
    def attack_steps(self) -> int:
        """Inner gradient steps a batch."""
        return self.steps.count

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        moment: Moment,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns the mean cross-entropy at the worst inputs found from a random start."""
        threat = ramped(self.threat, self.warmup, moment)
        with evaluating(model):
            adversarial = worst_found(
                model, inputs, labels, threat=threat, steps=self.steps, generator=generator
            )
        return functional.cross_entropy(model(adversarial), labels)


def ramped(threat: ThreatModel, warmup: Fraction, moment: Moment) -> ThreatModel:
    """Returns the threat model with the epsilon of this moment of a linear ramp."""
    if moment.progress >= warmup:
        return threat
    share = Fraction(moment.progress).limit_denominator(10_000) / warmup
    return threat.with_epsilon(threat.epsilon * share)


@dataclass(frozen=True)
class Trades:
    """Cross-entropy plus beta times the divergence to the worst neighbour (Zhang et al. 2019).

    The gradient flows through both branches of the divergence, as in the authors' code.
    Unlike theirs, the attack's start is clamped to the box as well as its steps; on MNIST, where
    most pixels lie on the border, that moves the loss by up to 4 % (docs/fidelity.md).

    Attributes:
        threat: ball of the inner attack.
        steps: inner steps.
        beta: weight of the divergence (1 / lambda in the paper; 6 for CIFAR-10).
    """

    threat: ThreatModel
    steps: Steps = Steps(10, Fraction(1, 4))
    beta: float = 6.0

    @property
    def attack_steps(self) -> int:
        """Inner gradient steps a batch."""
        return self.steps.count

    def loss(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        *,
        moment: Moment,
        generator: torch.Generator,
    ) -> Tensor:
        """Returns CE(f(x), y) + beta * mean KL(f(x) || f(x_adv)), x_adv raising the divergence."""
        with evaluating(model):
            with torch.no_grad():
                target = _log_shares(model(inputs))
            noise = torch.randn(
                inputs.shape, generator=generator, device=inputs.device, dtype=inputs.dtype
            )
            adversarial = ascend(
                model,
                lambda logits: _divergence(logits, target),
                inputs,
                self.threat.project(inputs + TRADES_START * noise, inputs),
                threat=self.threat,
                steps=self.steps,
            )
        logits = model(inputs)
        robust = _divergence(model(adversarial), _log_shares(logits))
        return functional.cross_entropy(logits, labels) + self.beta * robust / len(inputs)


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the summed KL(target || softmax(logits)); `target` holds log-probabilities."""
    return functional.kl_div(_log_shares(logits), target, reduction="sum", log_target=True)


def _log_shares(logits: Tensor) -> Tensor:
    """Returns (N, K) log-probabilities.

    Two answers of neighbours are nearly equal: in half precision their divergence is rounding.
    """
    return functional.log_softmax(logits.float(), dim=1)
