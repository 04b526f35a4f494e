"""The fixed protocols: one literal table. `docs/protocols.md` argues each choice with its source.

A protocol's digest covers every field below, so a changed setting makes another protocol: records
with different digests never rank together. A change that moves numbers also raises the version.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from benchmark.attacks import Steps
from benchmark.bounds import BoundMethod
from benchmark.digests import digest_of
from benchmark.errors import ContractError, lookup
from benchmark.evaluations import (
    AutoAttack,
    Bounds,
    CarliniWagner,
    Clean,
    Fgsm,
    Pgd,
    Sanity,
    Settings,
    Smoothing,
    Transfer,
)
from benchmark.threat import ThreatModel

TIERS = ("quick", "standard", "full")

# The sparsity grids, shared by all protocols.
UNSTRUCTURED = tuple(Fraction(percent, 100) for percent in (0, 50, 75, 90, 95, 99))
STRUCTURED = tuple(Fraction(percent, 100) for percent in (0, 50, 75, 90))

# Flags that keep a row off the ranking, with the largest share of examples that is tolerated. The
# first group breaks the contract that a network is one fixed function of its input; the second
# says that attacks were misled at so many undecided examples that the interval's upper end is no
# measurement. A tenth is more than any gap that a board of a few hundred examples can tell apart.
BROKEN_CONTRACT = (
    "batch-dependent",
    "dynamic-forward",
    "hidden-weights",
    "randomised-output",
    "revived-weights",
    "softmax-output",
    "stateful-forward",
    "test-beats-training",
)
MISLED_ATTACK = (
    "accuracy-rises-with-epsilon",
    "noise-beats-gradients",
    "not-at-chance-for-huge-epsilon",
    "pgd-not-converged",
    "planted-missed",
    "single-step-beats-iterated",
    "square-lowers-accuracy",
    "transfer-beats-white-box",
    "vanishing-gradients",
    "zero-gradients",
)
UNRANKABLE = (
    *((name, Fraction(0)) for name in BROKEN_CONTRACT),
    *((name, Fraction(1, 10)) for name in MISLED_ATTACK),
)


@dataclass(frozen=True)
class Protocol:
    """Data set, examples, threat model and every evaluation with all its settings.

    Attributes:
        id: name, `<data set>-<norm>`, with what sets it apart from the main one behind.
        version: raised by every change that moves a published number.
        dataset: data set id; examples come from its fixed list.
        threat: norm and main epsilon.
        tiers: (name, number of examples); each is a prefix of the next.
        shard_size: examples a shard.
        seed: of every draw; AutoAttack has its own, which is 0 everywhere.
        evaluations: (name, settings) in the order in which they run.
        smoothed_radius: L2 radius at which the smoothed accuracy is read off.
        unrankable: (flag, largest tolerated rate): a row that exceeds one takes no rank.
        certify_first: attacks spare the examples that the bounds prove.
        unstructured: sparsity grid of unstructured pruning, as fractions.
        structured: sparsity grid of filter and channel pruning.
    """

    id: str
    version: int
    dataset: str
    threat: ThreatModel
    tiers: tuple[tuple[str, int], ...]
    shard_size: int
    seed: int
    evaluations: tuple[tuple[str, Settings], ...]
    smoothed_radius: Fraction
    unrankable: tuple[tuple[str, Fraction], ...] = UNRANKABLE
    certify_first: bool = True
    unstructured: tuple[Fraction, ...] = UNSTRUCTURED
    structured: tuple[Fraction, ...] = STRUCTURED

    def __post_init__(self) -> None:
        """Refuses tiers that are not growing prefixes made of whole shards."""
        counts = [count for _, count in self.tiers]
        if [name for name, _ in self.tiers] != list(TIERS) or counts != sorted(set(counts)):
            raise ContractError(f"expected growing tiers {TIERS}, got {self.tiers}")
        if any(count % self.shard_size for count in counts[:-1]):
            raise ContractError(f"expected whole shards of {self.shard_size}, got tiers {counts}")
        for name, settings in self.evaluations:
            if isinstance(settings, Smoothing) and settings.examples % self.shard_size:
                raise ContractError(
                    f"expected {name} of whole shards of {self.shard_size}, got {settings.examples}"
                )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every field."""
        return digest_of(self)

    def examples(self, tier: str) -> int:
        """Returns the number of examples of a tier."""
        return lookup("tier", tier, dict(self.tiers))

    def tier_of(self, examples: int) -> str:
        """Returns the largest tier that a number of examples covers."""
        return [name for name, count in self.tiers if count <= examples][-1]

    def shards(self, tier: str, settings: Settings) -> list[range]:
        """Returns the positions in the example list of each shard of an evaluation."""
        count = self.examples(tier)
        limit = min(count, settings.examples) if isinstance(settings, Smoothing) else count
        return [part for part in self.ranges(count) if part.start < limit]

    def ranges(self, count: int) -> list[range]:
        """Returns the first `count` positions in the example list, cut into shards."""
        size = self.shard_size
        return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _fractions(denominator: int, *numerators: int) -> tuple[Fraction, ...]:
    return tuple(Fraction(numerator, denominator) for numerator in numerators)


def _evaluations(
    *,
    curve: tuple[Fraction, ...],
    certified: tuple[Fraction, ...],
    smoothing: Smoothing,
    bounds: tuple[BoundMethod, ...] = ("ibp", "crown"),
    crown_max_units: int = 8_000,
) -> tuple[tuple[str, Settings], ...]:
    """Returns the evaluations of a protocol; what is the same everywhere stands only here."""
    return (
        ("clean", Clean()),
        (
            "bounds",
            Bounds(methods=bounds, epsilons=certified, crown_max_units=crown_max_units),
        ),
        # 50 steps as in HYDRA's README; half of them cross the ball 1.5 times, so that what the
        # second half still breaks is a lack of convergence and not of reach.
        ("pgd", Pgd(Steps(50, Fraction(1, 8)), restarts=2)),
        ("curve", Pgd(Steps(20, Fraction(1, 8)), restarts=1, epsilons=curve)),
        ("autoattack", AutoAttack()),
        ("sanity", Sanity()),
        ("transfer", Transfer(Steps(50, Fraction(1, 8)))),
        ("smoothing", smoothing),
    )


def _images(protocol: str, dataset: str) -> Protocol:
    """Returns the protocol that CIFAR-10, CIFAR-100 and SVHN share: Linf 8/255."""
    return Protocol(
        id=protocol,
        version=3,
        dataset=dataset,
        threat=ThreatModel("Linf", Fraction(8, 255)),
        tiers=(("quick", 250), ("standard", 1000), ("full", 10_000)),
        shard_size=250,
        seed=0,
        evaluations=_evaluations(
            curve=_fractions(255, 1, 2, 4, 6, 12, 16),
            certified=_fractions(255, 1, 2, 8),
            smoothing=Smoothing(sigma=0.25, n0=100, n=10_000, alpha=0.001, batch=500, examples=250),
        ),
        # The L2 ball that contains the Linf ball 2/255 of 32x32 RGB: sqrt(3072) * 2/255 < 0.4348.
        smoothed_radius=Fraction(4348, 10_000),
    )


_MAIN: dict[str, Protocol] = {
    "digits-linf": Protocol(
        id="digits-linf",
        version=3,
        dataset="digits",
        threat=ThreatModel("Linf", Fraction(3, 16)),
        tiers=(("quick", 150), ("standard", 300), ("full", 600)),
        shard_size=150,
        seed=0,
        evaluations=_evaluations(
            curve=_fractions(16, 1, 2, 4, 5, 6),
            certified=(*_fractions(32, 1), *_fractions(16, 1, 2, 3)),
            smoothing=Smoothing(sigma=0.25, n0=100, n=1_000, alpha=0.001, batch=1000, examples=150),
        ),
        smoothed_radius=Fraction(1, 2),
    ),
    "mnist-linf": Protocol(
        id="mnist-linf",
        version=3,
        dataset="mnist",
        threat=ThreatModel("Linf", Fraction(1, 10)),
        tiers=(("quick", 250), ("standard", 1000), ("full", 10_000)),
        shard_size=250,
        seed=0,
        evaluations=_evaluations(
            curve=_fractions(20, 1, 3, 4, 5, 6),
            certified=(*_fractions(50, 1), *_fractions(20, 1, 2, 4, 6)),
            smoothing=Smoothing(sigma=0.25, n0=100, n=1_000, alpha=0.001, batch=1000, examples=250),
        ),
        smoothed_radius=Fraction(1, 2),
    ),
    "cifar10-linf": _images("cifar10-linf", "cifar10"),
    "cifar10-jpeg-linf": _images("cifar10-jpeg-linf", "cifar10-jpeg"),
    "cifar100-linf": _images("cifar100-linf", "cifar100"),
    "svhn-linf": _images("svhn-linf", "svhn"),
    "imagenet-linf": Protocol(
        id="imagenet-linf",
        version=3,
        dataset="imagenet",
        threat=ThreatModel("Linf", Fraction(4, 255)),
        tiers=(("quick", 100), ("standard", 1000), ("full", 5000)),
        shard_size=100,
        seed=0,
        evaluations=_evaluations(
            curve=_fractions(255, 1, 2, 6, 8),
            certified=_fractions(255, 1, 2, 4),
            bounds=("ibp",),
            smoothing=Smoothing(sigma=0.25, n0=100, n=10_000, alpha=0.001, batch=200, examples=100),
        ),
        smoothed_radius=Fraction(1, 2),
    ),
}


def _five(name: str) -> tuple[str, Protocol]:
    """Returns a main protocol with PwoA's five attacks in place of its own, and its id.

    Steps of epsilon/4 are 2/255 of 8/255, as in the code of PwoA.
    """
    main, step = _MAIN[name], Fraction(1, 4)
    evaluations: tuple[tuple[str, Settings], ...] = (
        ("clean", Clean()),
        ("bounds", dict(main.evaluations)["bounds"]),
        ("fgsm", Fgsm()),
        ("pgd-10", Pgd(Steps(10, step), restarts=1)),
        ("pgd-20", Pgd(Steps(20, step), restarts=1)),
        ("cw", CarliniWagner(Steps(30, step), restarts=1)),
        ("autoattack", AutoAttack()),
    )
    made = replace(main, id=f"{name}-five", version=2, evaluations=evaluations)
    return made.id, made


FIVE_ATTACKS = dict(
    _five(name) for name in ("digits-linf", "mnist-linf", "cifar10-linf", "cifar100-linf")
)


def _fast(name: str) -> tuple[str, Protocol]:
    """Returns a main protocol with AutoAttack in bfloat16, re-checked in float32, and its id."""
    main = _MAIN[name]
    evaluations = tuple(
        (n, replace(s, precision="bfloat16") if isinstance(s, AutoAttack) else s)
        for n, s in main.evaluations
    )
    made = replace(main, id=f"{name}-fast", version=1, evaluations=evaluations)
    return made.id, made


# For accelerators: a first look, which may leave standing what float32 would break.
FAST = dict(
    _fast(name)
    for name in ("cifar10-linf", "cifar10-jpeg-linf", "cifar100-linf", "svhn-linf", "imagenet-linf")
)

# The main protocols come first: training defends against the first of its data set.
PROTOCOLS = _MAIN | FIVE_ATTACKS | FAST

# Evaluated where they are asked for by name, and not by default.
ASKED_FOR = FIVE_ATTACKS | FAST


def protocol(name: str) -> Protocol:
    """Returns a protocol by its id.

    Raises:
        UnknownName: no such protocol.
    """
    return lookup("protocol", name, PROTOCOLS)
