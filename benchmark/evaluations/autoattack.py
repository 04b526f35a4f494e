"""AutoAttack standard, attack by attack, by this project's attacks or through pyautoattack.

Source: F. Croce, M. Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of
Diverse Parameter-free Attacks", ICML 2020 (arXiv 2003.01690). No other module knows pyautoattack.
"""

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.ensemble import (
    Apgd,
    Attack,
    FabTargeted,
    Square,
    Targets,
    cross_entropy,
    dlr,
    dlr_targeted,
)
from benchmark.errors import ContractError, lookup
from benchmark.evaluations.base import MISCLASSIFIED, PROVEN, SURVIVED, Examples, Flag, Result
from benchmark.evaluations.confirm import fooled, predictions
from benchmark.evaluations.engine import attacked
from benchmark.threat import ThreatModel

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")

# All attacks of an engine, by name.
Engine = Literal["robustprune", "pyautoattack"]
ATTACKS: Mapping[str, Mapping[str, None]] = {
    "robustprune": dict.fromkeys((*STANDARD, "apgd-dlr")),
    "pyautoattack": dict.fromkeys((*STANDARD, "apgd-dlr", "fab")),
}

# The targeted loss compares four logits.
FEWEST_CLASSES = 4

# What pyautoattack's warnings say, and the flag each becomes. Its warning that Square lowers the
# accuracy needs a run of all attacks at once; outcomes decide that flag.
_WARNINGS = {
    "randomized defense": "randomised-output",
    "probability distribution": "softmax-output",
    "zero gradient": "zero-gradients-in-attack",
    "dynamic defense": "dynamic-forward",
    "DLR loss": "too-few-classes",
    "target classes": "too-few-classes",
}


_COUNTED = re.compile(r"there are (\d+) points with zero gradient")


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack, version standard: each attack sees the survivors of those before it.

    Attributes:
        attacks: in order.
        iterations: of APGD and FAB.
        queries: of Square.
        targets: target classes of the targeted attacks, at most classes - 1.
        seed: given to every attack.
        engine: whose attacks. Those of `robustprune` have draws that belong to an example, in Linf;
            with `pyautoattack` the shard is the batch, as it is for the plain package.

    Column: `broken_by` int8: index into `attacks` of the first that broke the example, -1 where it
    survived all, -2 where it was misclassified unmodified and -3 where it is proven robust, neither
    of which is attacked. Flags: `zero-gradients-in-attack`; from the package its other warnings,
    too, each at most once, with the share of the shard's examples that were in the batch.

    Raises:
        UnknownName: an attack that the engine does not have.
        ContractError: no attacks, or a number below 1.
    """

    kind: ClassVar[str] = "autoattack"

    attacks: tuple[str, ...] = STANDARD
    iterations: int = 100
    queries: int = 5000
    targets: int = 9
    seed: int = 0
    engine: Engine = "robustprune"

    def __post_init__(self) -> None:
        """Refuses settings under which nothing would be attacked."""
        for attack in self.attacks:
            lookup("attack", attack, lookup("engine", self.engine, ATTACKS))
        smallest = min(len(self.attacks), self.iterations, self.queries, self.targets)
        if smallest < 1:
            raise ContractError(f"expected attacks, each with 1 step or more, got {self}")

    def run(
        self,
        model: nn.Module,
        examples: Examples,
        threat: ThreatModel,
        generator: torch.Generator,
    ) -> Result:
        """Attacks the examples that are correct and not proven; `generator` is not used.

        Raises:
            ContractError: fewer than 4 classes, for which the targeted losses are undefined.
        """
        if examples.classes < FEWEST_CLASSES:
            raise ContractError(
                f"expected at least {FEWEST_CLASSES} classes for AutoAttack, got {examples.classes}"
            )
        correct = predictions(model, examples.inputs) == examples.labels
        broken_by = torch.where(correct, SURVIVED, MISCLASSIFIED).to(torch.int8)
        broken_by[correct & examples.proven_at(threat.epsilon)] = PROVEN
        adversarial: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        flags: dict[str, Flag] = {}
        own = self.engine == "robustprune"
        looked_at = attacked(model) if own else model
        for order, attack in enumerate(self.attacks):
            alive = (broken_by == SURVIVED).nonzero().flatten()
            if len(alive) == 0:
                break
            run = self._ours if own else self._theirs
            candidates, warned = run(attack, looked_at, examples, threat, alive)
            for flag in warned:
                if flag.name not in flags or flag.rate > flags[flag.name].rate:
                    flags[flag.name] = flag
            broken = fooled(model, examples, alive, candidates, threat)
            broken_by[alive[broken]] = order
            adversarial[attack] = (
                alive[broken].cpu().numpy(),
                candidates[broken].cpu().numpy(),
            )
        columns = {"broken_by": broken_by.cpu().numpy()}
        return Result(columns, adversarial, tuple(flags.values()))

    def _ours(
        self, attack: str, model: nn.Module, examples: Examples, threat: ThreatModel, alive: Tensor
    ) -> tuple[Tensor, list[Flag]]:
        """Returns one attack's candidates for the survivors (n, C, H, W), and its warnings."""
        made = self._made(attack, threat, examples.classes)
        targets = Targets(
            examples.inputs[alive], examples.labels[alive], examples.indices.to(alive.device)[alive]
        )
        candidates, stuck = made.run(model, targets)
        if stuck == 0:
            return candidates, []
        detail = f"{attack}: at {stuck} starting points the gradient is zero"
        rate = stuck / len(examples.labels)
        return candidates, [Flag("zero-gradients-in-attack", rate, detail)]

    def _made(self, attack: str, threat: ThreatModel, classes: int) -> Attack:
        targets = min(self.targets, classes - 1)
        if attack == "square":
            return Square(threat, self.queries, self.seed)
        if attack == "fab-t":
            return FabTargeted(threat, self.iterations, targets)
        loss, aims = {
            "apgd-ce": (cross_entropy, 0),
            "apgd-dlr": (dlr, 0),
            "apgd-t": (dlr_targeted, targets),
        }[attack]
        return Apgd(threat, loss, self.iterations, aims, self.seed, attack)

    def _theirs(
        self, attack: str, model: nn.Module, examples: Examples, threat: ThreatModel, alive: Tensor
    ) -> tuple[Tensor, list[Flag]]:
        """Returns the same of the package."""
        # The package is imported here so that training and reports do without it.
        from pyautoattack import AutoAttack as Reference

        inputs, labels = examples.inputs[alive], examples.labels[alive]
        with _quarantine(inputs.device) as warnings:
            reference = Reference(
                model,
                norm=threat.norm,
                eps=float(threat.epsilon),
                seed=self.seed,
                device=str(inputs.device),
            )
            self._configure(reference, examples.classes)
            reference.attacks_to_run = [attack]
            candidates, _ = reference.run_standard_evaluation(
                inputs, labels, batch_size=len(inputs)
            )
        total = len(examples.labels)
        flags = [_flag(text, attack, _concerned(text, len(alive)) / total) for text in warnings]
        return candidates.detach(), flags

    def _configure(self, reference: Any, classes: int) -> None:
        targets = min(self.targets, classes - 1)
        for attack in (reference.apgd, reference.apgd_targeted):
            attack.n_iter = attack.n_iter_orig = self.iterations
            # Its checkpoints are shares of the iterations (Croce & Hein 2020, section 3.1), worked
            # out from the default of 100 when it is made.
            attack.n_iter_2 = max(int(0.22 * self.iterations), 1)
            attack.n_iter_min = max(int(0.06 * self.iterations), 1)
            attack.size_decr = max(int(0.03 * self.iterations), 1)
        reference.fab.n_iter = self.iterations
        reference.square.n_queries = self.queries
        reference.apgd_targeted.n_target_classes = reference.fab.n_target_classes = targets


def _concerned(text: str, batch: int) -> int:
    """Returns how many examples a warning means: the number it names, or the whole batch."""
    counted = _COUNTED.search(text)
    return int(counted[1]) if counted else batch


def _flag(text: str, attack: str, rate: float) -> Flag:
    name = next((flag for part, flag in _WARNINGS.items() if part in text), "autoattack-warning")
    return Flag(name, rate, f"{attack}: {text.split(' See ')[0].strip()}")


class _Collector(logging.Handler):
    """Keeps the text of every warning."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _quarantine(device: torch.device) -> Iterator[list[str]]:
    """Runs pyautoattack without its side effects and yields the warnings it logs.

    It seeds the global generators, replaces the interpreter's trace function in its check for
    dynamic networks, counts calls for that check in a global that is never reset, and logs to
    `auto-attack`.
    """
    from pyautoattack import checks

    texts: list[str] = []
    tracer, counts = sys.gettrace(), dict(checks.funcs)
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    try:
        with torch.random.fork_rng(_seeded_devices(device)), _overheard("auto-attack", texts):
            yield texts
    finally:
        sys.settrace(tracer)
        checks.funcs.update(counts)


def _seeded_devices(device: torch.device) -> list[torch.device]:
    """Returns the accelerators whose global generators pyautoattack seeds, a CPU run included."""
    if device.type == "cuda":
        return [device]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return [torch.device("cuda", torch.cuda.current_device())]
    return []


@contextmanager
def _overheard(name: str, texts: list[str]) -> Iterator[None]:
    """Collects a logger's warnings, which go nowhere else, and leaves the logger as it was."""
    logger = logging.getLogger(name)
    before = (logger.level, logger.propagate, logger.disabled, list(logger.handlers))
    # Some logging set-ups disable every logger that they do not know.
    logger.propagate, logger.disabled = False, False
    logger.handlers = [_Collector(texts)]
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        level, logger.propagate, logger.disabled, logger.handlers = before
        logger.setLevel(level)
