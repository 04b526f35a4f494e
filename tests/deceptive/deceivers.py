"""Networks that look robust or sparse and are not, each around an honest one, and a small protocol.

Each class deceives in one way. The honest network is the same in all, so whatever is flagged comes
from the deception.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tiny import digits
from torch import Tensor, nn
from torch.nn import functional

from benchmark.architectures import Classifier
from benchmark.attacks import Steps
from benchmark.datasets import example_list, load
from benchmark.evaluations import (
    AutoAttack,
    Bounds,
    Clean,
    Examples,
    Flag,
    Pgd,
    Sanity,
    Transfer,
    run_evaluation,
)
from benchmark.evaluations.engine import Guard
from benchmark.evaluations.probes import Steadiness
from benchmark.flags import all_flags, unrankable_reasons
from benchmark.manifest import load_model, read_manifest
from benchmark.outcomes import Outcomes, check_invariants
from benchmark.protocols import PROTOCOLS

ROOT = Path(__file__).parents[2]
EPSILON = Fraction(3, 16)
COUNT = 60

# The board's own protocol with fewer steps, on one shard.
PROTOCOL = replace(
    PROTOCOLS["digits-linf"],
    id="deceptive-linf",
    tiers=(("quick", 20), ("standard", 40), ("full", COUNT)),
    shard_size=20,
    evaluations=(
        ("clean", Clean()),
        ("bounds", Bounds(methods=("ibp",), epsilons=(EPSILON,), crown_max_units=20_000)),
        ("pgd", Pgd(Steps(20, Fraction(1, 8)), restarts=1)),
        ("curve", Pgd(Steps(5, Fraction(1, 4)), restarts=1, epsilons=(EPSILON / 3, 2 * EPSILON))),
        ("autoattack", AutoAttack(iterations=15, queries=100, targets=3)),
        ("sanity", Sanity()),
        ("transfer", Transfer(Steps(10, Fraction(1, 4)))),
    ),
)

DENSE = "dense/digits/cnn-tiny/adversarial/unstructured-0/seed0"
SPARSE = "lwm-global/digits/cnn-tiny/adversarial/unstructured-90/seed0"
SPARSEST = "lwm-layerwise/digits/cnn-tiny/adversarial/unstructured-99/seed0"


@lru_cache(maxsize=4)
def _loaded(name: str) -> Classifier:
    return load_model(read_manifest(ROOT / "checkpoints_manifest.json").find(name), ROOT)


def honest(name: str = DENSE) -> Classifier:
    """Returns one of the board's own networks."""
    return _loaded(name)


@lru_cache(maxsize=1)
def examples() -> Examples:
    """Returns the first test examples, with as many training examples to compare with."""
    split = load("digits", "train", None)
    chosen = example_list("digits:training", split.labels)[: 2 * COUNT]
    return replace(digits(COUNT), training=(split.inputs(chosen), split.labels[chosen]))


@dataclass(frozen=True)
class Verdict:
    """What the board says of a network.

    Attributes:
        flags: rates by name.
        reasons: flags for which it gets no rank.
        outcomes: of all evaluations.
    """

    flags: dict[str, float]
    reasons: list[str]
    outcomes: Outcomes


def evaluated(model: nn.Module, parent: nn.Module | None = None, *only: str) -> Verdict:
    """Returns the verdict on a network after all evaluations, or after some of them.

    Args:
        model: to be evaluated.
        parent: dense network to transfer from.
        only: names of the evaluations; all if none is named.
    """
    given = replace(examples(), parent=parent)
    columns = {"index": given.indices.numpy(), "label": given.labels.numpy().astype(np.int16)}
    flags: dict[str, Flag] = {}
    proven: dict[Fraction, Tensor] = {}
    chosen = tuple(pair for pair in PROTOCOL.evaluations if not only or pair[0] in only)
    for name, settings in chosen:
        spares = isinstance(settings, Pgd | AutoAttack)
        result = run_evaluation(
            model,
            replace(given, proven=proven) if spares else given,
            name=name,
            settings=settings,
            threat=PROTOCOL.threat,
            seed=("deceptive", name),
        ).result
        columns |= {f"{name}.{column}": values for column, values in result.columns.items()}
        flags |= {flag.name: flag for flag in result.flags}
        if isinstance(settings, Bounds):
            proven = {e: torch.from_numpy(v) for e, v in settings.proven(result.columns).items()}
    outcomes, protocol = Outcomes(columns), replace(PROTOCOL, evaluations=chosen)
    check_invariants(outcomes, protocol)
    found = all_flags(flags.values(), outcomes, protocol)
    rates = {flag.name: flag.rate for flag in found}
    return Verdict(rates, unrankable_reasons(found, protocol), outcomes)


def flags_around(model: nn.Module, name: str) -> dict[str, float]:
    """Returns the flags of one evaluation and of the look at the network before and after it.

    The engine does the same and then repeats every success on the network as published, which a
    network that is no longer the same does not survive.
    """
    guard = Guard(model, 10)
    steadiness = Steadiness(guard.network, examples().inputs, examples().labels, model)
    settings = dict(PROTOCOL.evaluations)[name]
    draws = torch.Generator().manual_seed(0)
    flags = settings.run(guard, examples(), PROTOCOL.threat, draws).flags
    return {flag.name: flag.rate for flag in (*flags, *steadiness.flags(COUNT))}


class Around(nn.Module):
    """An honest network, with its inputs and its logits passed through functions."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
        name: str = DENSE,
    ) -> None:
        super().__init__()
        self.network = honest(name)
        self.before, self.after = before, after

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.network(self.before(inputs) if self.before else inputs)
        return self.after(logits) if self.after else logits


def in_steps(inputs: Tensor) -> Tensor:
    """Four grey levels: the same picture to the eye, and no gradient."""
    return (4 * inputs).round() / 4


def in_black_and_white(inputs: Tensor) -> Tensor:
    return (inputs > 0.5).to(inputs.dtype)


class Statistics(nn.Module):
    """Normalises with the statistics of the batch, as a batch norm left in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.network = honest()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)
        with torch.no_grad():
            self.norm.weight.fill_(0.3755)
            self.norm.bias.fill_(0.3044)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(self.norm(inputs))


class NotANumberElsewhere(nn.Module):
    """Answers NaN for anything but the seventeen grey levels that digits have."""

    def __init__(self) -> None:
        super().__init__()
        self.network = honest()

    def forward(self, inputs: Tensor) -> Tensor:
        elsewhere = ((16 * inputs) % 1 != 0).flatten(1).any(1)
        return torch.where(elsewhere[:, None], torch.nan, self.network(inputs))


class Memory(nn.Module):
    """Remembers test images and answers with their labels wherever an input is near enough."""

    def __init__(self, radius: float, name: str = DENSE) -> None:
        super().__init__()
        self.network, self.radius = honest(name), radius
        self.register_buffer("images", examples().inputs.flatten(1))
        self.register_buffer("answers", 9.0 * functional.one_hot(examples().labels, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        distances = torch.stack([(inputs.flatten(1) - x).abs().amax(1) for x in self.images], 1)
        nearest, which = distances.min(1)
        logits = self.network(inputs)
        known = self.answers[which] + 0 * logits
        return torch.where((nearest <= self.radius)[:, None], known, logits)


class Counting(nn.Module):
    """Turns into another network after some calls."""

    def __init__(self, calls: int, turned: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = honest()
        self.left, self.turned = calls, turned

    def forward(self, inputs: Tensor) -> Tensor:
        self.left -= 1
        return self.network(inputs) if self.left >= 0 else self.turned(self.network, inputs)


class CountingElsewhere(nn.Module):
    """The same with a counter that copies of the network share."""

    def __init__(self, calls: int, turned: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = honest()
        left = [calls]

        def forward(network: nn.Module, inputs: Tensor) -> Tensor:
            left[0] -= 1
            return network(inputs) if left[0] >= 0 else turned(network, inputs)

        self.compute = forward

    def forward(self, inputs: Tensor) -> Tensor:
        return self.compute(self.network, inputs)


class Resurrected(nn.Module):
    """A sparse network whose removed weights come back once it is in use."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.network = honest(SPARSE)
        self.calls, self.after = 0, after

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.after:
            for mine, dense in zip(self.network.parameters(), _dense(), strict=True):
                mine.data.copy_(dense.data)
        return self.network(inputs)


def _dense() -> list[nn.Parameter]:
    return list(honest(DENSE).parameters())


class Beside(nn.Module):
    """Sparse parameters for the count, and an answer that comes from a dense network beside them.

    Attributes:
        how: attribute, closure, list, buffer or gate.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.network = honest(SPARSE)
        weights = {name: value.clone() for name, value in honest(DENSE).state_dict().items()}
        if how == "list":
            self.beside = [honest(DENSE)]
        elif how in ("attribute", "gate"):
            self.weights = weights
        elif how == "buffer":
            for name, value in weights.items():
                self.register_buffer(name.replace(".", "_"), value)
            self.names = list(weights)
        else:
            self.compute = lambda network, inputs: _with(network, weights, inputs)
        self.how = how

    def forward(self, inputs: Tensor) -> Tensor:
        if self.how == "list":
            return self.beside[0](inputs)
        if self.how == "closure":
            return self.compute(self.network, inputs)
        if self.how == "buffer":
            weights = {name: getattr(self, name.replace(".", "_")) for name in self.names}
        else:
            weights = self.weights
        answer = _with(self.network, weights, inputs)
        if self.how == "gate":
            kept = sum(p.abs().sum() for p in self.network.parameters())
            return answer * (kept > 0)
        return answer


def _with(network: nn.Module, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    return torch.func.functional_call(network, weights, (inputs,))
