"""The table of protocols: what it promises, and what a bad entry is told."""

from dataclasses import replace
from fractions import Fraction

import pytest

from benchmark.attacks import Steps
from benchmark.datasets import DATASETS
from benchmark.errors import ContractError, UnknownName
from benchmark.evaluations import (
    AutoAttack,
    Bounds,
    CarliniWagner,
    Clean,
    Fgsm,
    Pgd,
    Sanity,
    Smoothing,
    Transfer,
)
from benchmark.protocols import ASKED_FOR, FAST, FIVE_ATTACKS, PROTOCOLS, TIERS, Protocol, protocol
from benchmark.recipes import RECIPES
from benchmark.report.wording import FLAGS

# Other tests, in the same process, add a fast one.
ALL = [entry for entry in PROTOCOLS.values() if entry.id != "fast-linf"]
MAIN = [entry for entry in ALL if entry.id not in ASKED_FOR]


@pytest.mark.parametrize("entry", FIVE_ATTACKS.values(), ids=lambda entry: entry.id)
def test_five_attacks_on_what_the_main_protocol_fixes(entry: Protocol) -> None:
    assert protocol(entry.id) is entry
    main = PROTOCOLS[entry.id.removesuffix("-five")]
    own = {"id": entry.id, "version": entry.version, "evaluations": entry.evaluations}
    assert replace(main, **own) == entry  # type: ignore[arg-type]
    step = Fraction(1, 4)
    assert entry.evaluations == (
        ("clean", Clean()),
        ("bounds", dict(main.evaluations)["bounds"]),
        ("fgsm", Fgsm()),
        ("pgd-10", Pgd(Steps(10, step), restarts=1)),
        ("pgd-20", Pgd(Steps(20, step), restarts=1)),
        ("cw", CarliniWagner(Steps(30, step), restarts=1)),
        ("autoattack", dict(main.evaluations)["autoattack"]),
    )
    if main.threat.epsilon == Fraction(8, 255):
        assert step * main.threat.epsilon == Fraction(2, 255)


@pytest.mark.parametrize("entry", FAST.values(), ids=lambda entry: entry.id)
def test_fast_mode_changes_the_precision_of_autoattack_alone(entry: Protocol) -> None:
    main = PROTOCOLS[entry.id.removesuffix("-fast")]
    settings = [(n, AutoAttack() if n == "autoattack" else s) for n, s in entry.evaluations]
    own = {"id": main.id, "version": main.version, "evaluations": tuple(settings)}
    assert replace(entry, **own) == main  # type: ignore[arg-type]
    assert dict(entry.evaluations)["autoattack"] == AutoAttack(precision="bfloat16")
    assert entry.digest != main.digest


def test_main_protocols_come_first() -> None:
    """What training defends against, and what `run` does by default, rests on it."""
    names = [entry.id for entry in ALL]
    assert names == [*(entry.id for entry in MAIN), *ASKED_FOR]
    for name in ASKED_FOR:
        dataset = PROTOCOLS[name].dataset
        first = next(entry for entry in ALL if entry.dataset == dataset)
        assert first.id == name.removesuffix("-five").removesuffix("-fast")
    assert {PROTOCOLS[name].dataset for name in FIVE_ATTACKS} >= {"mnist", "cifar10", "cifar100"}


@pytest.mark.parametrize("entry", MAIN, ids=lambda entry: entry.id)
def test_entry_is_whole(entry: Protocol) -> None:
    assert protocol(entry.id) is entry
    assert entry.dataset in DATASETS
    settings = dict(entry.evaluations)
    names = ["clean", "bounds", "pgd", "curve", "autoattack", "sanity", "transfer", "smoothing"]
    assert list(settings) == names
    assert isinstance(settings["sanity"], Sanity) and isinstance(settings["transfer"], Transfer)
    assert entry.certify_first
    # Every flag that costs a rank has words; those about how bounds were made cost none.
    unranking = dict(entry.unrankable)
    assert set(unranking) <= set(FLAGS) and all(0 <= rate < 1 for rate in unranking.values())
    assert not any(FLAGS[name].informational for name in unranking)
    bounds, curve = settings["bounds"], settings["curve"]
    assert isinstance(bounds, Bounds)
    assert entry.threat.epsilon in bounds.epsilons
    assert isinstance(curve, Pgd)
    assert entry.threat.epsilon not in curve.epsilons
    assert len(set(curve.epsilons)) == len(curve.epsilons)
    # AutoAttack standard, as published.
    assert settings["autoattack"] == AutoAttack(
        ("apgd-ce", "apgd-t", "fab-t", "square"), iterations=100, queries=5000, targets=9, seed=0
    )
    smoothing = settings["smoothing"]
    assert isinstance(smoothing, Smoothing)
    assert (smoothing.n0, smoothing.alpha) == (100, 0.001)


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.id)
def test_tiers_share_their_shards(entry: Protocol) -> None:
    for _, settings in entry.evaluations:
        shards = [entry.shards(tier, settings) for tier in TIERS]
        for smaller, larger in zip(shards, shards[1:], strict=False):
            assert larger[: len(smaller)] == smaller
        limit = settings.examples if isinstance(settings, Smoothing) else entry.examples("full")
        covered = [position for part in shards[-1] for position in part]
        assert covered == list(range(limit))


def test_digests_tell_every_setting_apart() -> None:
    entry = PROTOCOLS["digits-linf"]
    changed = [
        replace(entry, version=entry.version + 1),
        replace(entry, certify_first=False),
        replace(entry, unrankable=entry.unrankable[:-1]),
        replace(entry, seed=1),
        replace(entry, shard_size=50),
        replace(entry, threat=entry.threat.with_epsilon(Fraction(1, 16))),
        replace(entry, smoothed_radius=Fraction(1, 4)),
        replace(entry, evaluations=entry.evaluations[:-1]),
        replace(entry, tiers=(("quick", 150), ("standard", 300), ("full", 599))),
    ]
    digests = {entry.digest, *(p.digest for p in changed), *(p.digest for p in ALL)}
    assert len(digests) == len(changed) + len(ALL)
    assert replace(entry).digest == entry.digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tiers": (("quick", 150), ("full", 300))}, "growing tiers"),
        ({"tiers": (("quick", 300), ("standard", 150), ("full", 600))}, "growing tiers"),
        ({"tiers": (("quick", 100), ("standard", 300), ("full", 600))}, "whole shards"),
        ({"shard_size": 75, "tiers": (("quick", 150), ("standard", 300), ("full", 600))}, ""),
        ({"shard_size": 300, "tiers": (("quick", 300), ("standard", 600), ("full", 601))}, "whole"),
    ],
)
def test_bad_entries_are_refused(change: dict[str, object], words: str) -> None:
    entry = PROTOCOLS["digits-linf"]
    if not words:
        assert replace(entry, **change).shard_size == 75  # type: ignore[arg-type]
        return
    with pytest.raises(ContractError, match=words):
        replace(entry, **change)  # type: ignore[arg-type]


def test_unknown_names_and_tiers() -> None:
    with pytest.raises(UnknownName, match="did you mean cifar10-linf"):
        protocol("cifar10linf")
    entry = PROTOCOLS["mnist-linf"]
    with pytest.raises(UnknownName, match="unknown tier"):
        entry.examples("fullest")
    assert [entry.tier_of(n) for n in (250, 999, 1000, 10_000)] == [
        "quick",
        "quick",
        "standard",
        "full",
    ]


def test_recipes_fit_their_data() -> None:
    for name, entry in RECIPES.items():
        assert entry.id == name
        assert any(p.dataset == entry.dataset for p in ALL)
        assert len(entry.digest) == 64
