"""AutoAttack: by the package the same outcomes as plain, flags, no side effects; and by our own."""

import logging
import sys
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, partial

import numpy as np
import pyautoattack
import pytest
import torch
from pyautoattack import checks
from tiny import L2, LINF, Linear, digits, rng, trained, untouched
from torch import nn

from benchmark.compaction import Compact
from benchmark.errors import ContractError, UnknownName
from benchmark.evaluations import AutoAttack, Examples, run_evaluation
from benchmark.evaluations import autoattack as module
from benchmark.evaluations.autoattack import STANDARD
from benchmark.evaluations.precision import lowered
from benchmark.threat import ThreatModel
from benchmark.tuning import Tuning
from benchmark.unrolling import Unrolled, leanest

THREAT = ThreatModel("Linf", Fraction(3, 20))
package = partial(AutoAttack, engine="pyautoattack")
QUICK = package(iterations=12, queries=60)


@lru_cache(maxsize=1)
def shard():
    return digits(60)


def measure(settings, model=None, examples=None, threat=THREAT):
    return run_evaluation(
        model or trained(),
        examples or shard(),
        name="autoattack",
        settings=settings,
        threat=threat,
        seed=("test",),
    )


def plain(model, settings, attacks, threat, classes=10):
    """Returns the package itself, set up as its documentation says."""
    adversary = pyautoattack.AutoAttack(
        model, norm=threat.norm, eps=float(threat.epsilon), seed=settings.seed
    )
    adversary.attacks_to_run = list(attacks)
    for apgd in (adversary.apgd, adversary.apgd_targeted):
        apgd.n_iter = settings.iterations
        # What its constructor would have derived from that number of iterations.
        again = pyautoattack.autopgd_base.APGDAttack(
            model, n_iter=settings.iterations, eps=float(threat.epsilon)
        )
        apgd.n_iter_2, apgd.n_iter_min = again.n_iter_2, again.n_iter_min
        apgd.size_decr = again.size_decr
    adversary.fab.n_iter = settings.iterations
    adversary.square.n_queries = settings.queries
    targets = min(settings.targets, classes - 1)
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = targets
    return adversary


def plain_broken_by(settings, threat, model=None, examples=None):
    """Returns, by plain runs of ever longer prefixes of the attacks, who broke what first."""
    model, examples = model or trained(), examples or shard()
    with torch.no_grad():
        correct = model(examples.inputs).argmax(1) == examples.labels
    broken_by = np.where(correct, -1, -2)
    for count in range(1, len(settings.attacks) + 1):
        with torch.random.fork_rng([]):
            adversary = plain(model, settings, settings.attacks[:count], threat)
            found, _ = adversary.run_standard_evaluation(
                examples.inputs, examples.labels, batch_size=len(examples.labels)
            )
        with torch.no_grad():
            wrong = (model(found).argmax(1) != examples.labels).numpy()
        broken_by[(broken_by == -1) & wrong] = count - 1
    return broken_by


ORDERS = {
    "standard": QUICK,
    "square first": package(
        ("square", "apgd-ce", "apgd-t", "fab-t"), iterations=12, queries=30, targets=4, seed=3
    ),
    "fab first": package(("fab-t", "square", "apgd-ce"), iterations=5, queries=30, targets=3),
    "others": package(("apgd-dlr", "fab"), iterations=5),
}


@pytest.mark.parametrize("settings", ORDERS.values(), ids=ORDERS)
def test_outcomes_agree_with_the_plain_package_example_by_example(settings):
    measured = measure(settings).result
    column = measured.columns["broken_by"]
    assert column.dtype == np.int8
    assert column.tolist() == plain_broken_by(settings, THREAT).tolist()
    assert {-2, -1, 0} <= set(column.tolist())
    if settings.attacks[0] != "apgd-ce":
        assert len(set(column.tolist()) - {-2, -1}) > 1  # several attacks have their share
    for order, attack in enumerate(settings.attacks):
        if attack in measured.adversarial:
            positions, _ = measured.adversarial[attack]
            assert positions.tolist() == np.flatnonzero(column == order).tolist()


def test_outcomes_agree_in_the_l2_norm():
    threat = ThreatModel("L2", Fraction(1, 2))
    settings = package(("square", "apgd-ce"), iterations=10, queries=40)
    column = measure(settings, threat=threat).result.columns["broken_by"]
    assert column.tolist() == plain_broken_by(settings, threat).tolist()
    assert 0 < (column >= 0).sum() < len(column)


@pytest.mark.slow
def test_the_standard_version_agrees_with_the_plain_package_as_it_comes():
    examples = digits(10)
    model = trained()
    column = measure(package(), model, examples).result.columns["broken_by"]
    with torch.random.fork_rng([]):
        adversary = pyautoattack.AutoAttack(model, eps=0.15, norm="Linf", seed=0)
        assert tuple(adversary.attacks_to_run) == STANDARD
        found, _ = adversary.run_standard_evaluation(examples.inputs, examples.labels)
    with torch.no_grad():
        wrong = model(found).argmax(1) != examples.labels
    assert (column != -1).tolist() == wrong.tolist()


def test_defaults_are_those_of_the_standard_version():
    settings = package()
    adversary = pyautoattack.AutoAttack(trained(), eps=0.1, seed=0)
    assert tuple(adversary.attacks_to_run) == settings.attacks
    before = {
        name: dict(vars(getattr(adversary, name)))
        for name in ("apgd", "apgd_targeted", "fab", "square")
    }
    settings._configure(adversary, 10)
    for name, values in before.items():
        now = vars(getattr(adversary, name))
        assert {key: now[key] for key in values} == values, name


def test_few_classes_get_fewer_targets():
    adversary = pyautoattack.AutoAttack(trained(), eps=0.1, seed=0)
    package()._configure(adversary, 5)
    assert adversary.apgd_targeted.n_target_classes == adversary.fab.n_target_classes == 4
    package(targets=3)._configure(adversary, 5)
    assert adversary.apgd_targeted.n_target_classes == adversary.fab.n_target_classes == 3


def test_iterations_and_queries_take_effect():
    def passes(**changes):
        settings = package(**({"attacks": ("square",), "queries": 20} | changes))
        return measure(settings).forwards

    assert passes(queries=60) > 1.5 * passes(queries=20)
    few, many = (measure(package(("apgd-t",), iterations=i, targets=2)).backwards for i in (5, 10))
    assert many > 1.5 * few
    few, many = (measure(package(("fab-t",), iterations=5, targets=t)).backwards for t in (1, 3))
    assert many > 1.5 * few


def test_the_step_size_schedule_follows_the_iterations():
    adversary = pyautoattack.AutoAttack(trained(), eps=0.1, seed=0)
    package(iterations=50)._configure(adversary, 10)
    expected = pyautoattack.autopgd_base.APGDAttack(trained(), n_iter=50, eps=0.1)
    for attack in (adversary.apgd, adversary.apgd_targeted):
        for name in ("n_iter", "n_iter_2", "n_iter_min", "size_decr", "n_iter_orig"):
            assert getattr(attack, name) == getattr(expected, name), name


def test_same_settings_same_evidence_another_seed_another():
    settings = package(("apgd-ce",), iterations=5)
    first, second, other = (
        measure(s).result.adversarial["apgd-ce"][1]
        for s in (settings, settings, package(("apgd-ce",), iterations=5, seed=1))
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


# --- shards that leave little to do


def test_a_shard_of_misclassified_examples_is_not_attacked():
    examples = shard()
    wrong = Examples(examples.inputs, (examples.labels + 1) % 10, examples.indices, 10)
    with torch.no_grad():
        keep = trained()(wrong.inputs).argmax(1) != wrong.labels
    wrong = Examples(wrong.inputs[keep], wrong.labels[keep], wrong.indices[keep], 10)
    measured = measure(QUICK, examples=wrong)
    assert set(measured.result.columns["broken_by"].tolist()) == {-2}
    assert measured.result.adversarial == {} and measured.backwards == 0


def test_one_survivor_is_attacked_like_any_other():
    column = measure(QUICK).result.columns["broken_by"]
    last = int(np.flatnonzero(column == -1)[0])
    alone = Examples(
        *(x[last : last + 1] for x in (shard().inputs, shard().labels, shard().indices)), 10
    )
    assert measure(QUICK, examples=alone).result.columns["broken_by"].tolist() == [-1]
    all_four = measure(QUICK, examples=alone, threat=ThreatModel("Linf", Fraction(1, 1000)))
    assert set(all_four.result.adversarial) == set(STANDARD)


def test_fewer_than_four_classes_are_refused():
    inputs = torch.rand(4, 1, 4, 4, generator=rng())
    for classes in (2, 3):
        model = Linear(torch.randn(classes, 16, generator=rng(1)), torch.zeros(classes))
        labels = model(inputs).argmax(1)
        examples = Examples(inputs, labels, torch.arange(4), classes)
        with pytest.raises(
            ContractError, match=f"at least 4 classes for AutoAttack, got {classes}"
        ):
            measure(QUICK, model, examples)
    model = Linear(torch.randn(4, 16, generator=rng(1)), torch.zeros(4))
    examples = Examples(inputs, model(inputs).argmax(1), torch.arange(4), 4)
    measured = measure(QUICK, model, examples)
    assert (measured.result.columns["broken_by"] >= -1).all()
    assert measured.result.flags == ()


@pytest.mark.parametrize(
    "change", [{"attacks": ()}, {"iterations": 0}, {"queries": 0}, {"targets": 0}]
)
def test_settings_that_attack_nothing_are_refused(change):
    with pytest.raises(ContractError, match="1 step or more"):
        package(**change)


def test_an_unknown_attack_gets_near_matches():
    with pytest.raises(UnknownName, match="did you mean apgd-t"):
        package(("apgd-x",))


# --- warnings become flags


class Wrapped(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.body = trained()
        self.change = change

    def forward(self, inputs):
        return self.change(self.body(inputs), inputs)


def noisy():
    generator = rng(1)
    return lambda logits, inputs: logits + 0.01 * torch.rand(logits.shape, generator=generator)


def flat_where_dark(logits, inputs):
    return torch.where((inputs.mean((1, 2, 3)) > 0.4)[:, None], logits, logits.detach())


def dynamic(logits, inputs):
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        torch.autograd.grad(leaf.sum(), leaf)
    return logits


def run_raw(change, settings):
    model = Wrapped(change).eval().requires_grad_(False)
    return settings.run(model, shard(), THREAT, rng())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (noisy(), "randomised-output"),
        (lambda logits, inputs: logits.softmax(1), "softmax-output"),
        (flat_where_dark, "zero-gradients-in-attack"),
        (dynamic, "dynamic-forward"),
    ],
)
def test_warnings_become_flags(change, name):
    # Targeted APGD is the attack that looks for zero gradients.
    settings = package(("apgd-t", "apgd-ce"), iterations=2, targets=2)
    flags = run_raw(change, settings).flags
    assert [flag.name for flag in flags] == [name]
    # Each once, though both attacks and each target say so, and for what was in the batch.
    with torch.no_grad():
        correct = Wrapped(change)(shard().inputs).argmax(1) == shard().labels
    assert flags[0].rate == pytest.approx(float(correct.float().mean()), abs=0.02)
    assert flags[0].detail.startswith("apgd-t: ")
    assert "flags_doc" not in flags[0].detail


def test_a_plain_network_raises_no_flag():
    assert measure(QUICK).result.flags == ()


@pytest.mark.parametrize(("classes", "attacks"), [(2, "apgd-t"), (3, "apgd-t"), (6, "fab-t")])
def test_the_packages_warning_about_classes_is_known(classes, attacks):
    texts = []
    with module._overheard("auto-attack", texts):
        checks.check_n_classes(classes, [attacks], 9, 9, logger=logging.getLogger("auto-attack"))
    assert module._flag(texts[0], "a", 1.0).name == "too-few-classes"


def test_a_warning_that_nobody_knows_is_kept():
    flag = module._flag("something new. See x for details.", "square", 0.5)
    assert (flag.name, flag.rate, flag.detail) == (
        "autoattack-warning",
        0.5,
        "square: something new.",
    )


def test_the_check_for_dynamic_networks_does_not_see_our_own_counting():
    measured = measure(package(("apgd-ce",), iterations=2))
    assert measured.backwards > 0
    assert "dynamic-forward" not in [flag.name for flag in measured.result.flags]


# --- side effects


def handlers():
    logger = logging.getLogger("auto-attack")
    return (logger.level, logger.propagate, logger.disabled, list(logger.handlers))


def test_nothing_global_changes(capsys):
    logger = logging.getLogger("auto-attack")
    logger.addHandler(logging.NullHandler())
    logger.setLevel(logging.ERROR)
    checks.funcs["grad"] = 7

    def tracer(frame, event, argument):
        return None

    previous, before = sys.gettrace(), handlers()
    model = trained()
    sys.settrace(tracer)
    try:
        with untouched(model):
            measure(package(iterations=2, queries=10, targets=2), model)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(previous)
    assert handlers() == before
    assert checks.funcs == {"grad": 7, "backward": 0, "_make_grads": 0}
    checks.funcs["grad"] = 0
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    assert capsys.readouterr() == ("", "")


def test_nothing_global_changes_when_an_attack_fails():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.left = trained(), 4

        def forward(self, inputs):
            self.left -= 1
            if self.left < 0:
                raise ZeroDivisionError
            return self.body(inputs)

    before, state, previous = handlers(), torch.get_rng_state(), sys.gettrace()
    with pytest.raises(ZeroDivisionError):
        QUICK.run(Failing(), shard(), THREAT, rng())
    assert handlers() == before and sys.gettrace() is previous
    assert torch.equal(state, torch.get_rng_state())


def test_counts_of_an_earlier_run_do_not_make_a_network_dynamic():
    checks.funcs["grad"] = 5
    try:
        measured = measure(package(("apgd-ce",), iterations=2))
    finally:
        checks.funcs["grad"] = 0
    assert measured.result.flags == ()


def test_warnings_are_heard_where_logging_is_set_up_otherwise():
    logger = logging.getLogger("auto-attack")
    logger.disabled = True
    try:
        result = run_raw(noisy(), package(("apgd-ce",), iterations=1))
        assert logger.disabled
    finally:
        logger.disabled = False
    assert [flag.name for flag in result.flags] == ["randomised-output"]


@pytest.mark.parametrize("threat", [LINF, L2])
def test_evidence_lies_in_ball_and_box(threat):
    result = measure(package(("apgd-ce",), iterations=3), threat=threat).result
    positions, inputs = result.adversarial["apgd-ce"]
    assert threat.contains(torch.as_tensor(inputs), shard().inputs[positions]).all()


# --- this project's own attacks


OWN = AutoAttack(iterations=30, queries=200)


def test_the_engine_is_a_setting_and_knows_its_attacks():
    assert AutoAttack().engine == "robustprune"
    with pytest.raises(UnknownName, match="unknown attack 'fab'"):
        AutoAttack(("fab",))
    with pytest.raises(UnknownName, match="unknown engine"):
        AutoAttack(engine="theirs")


def test_both_engines_break_nearly_the_same_examples():
    ours = measure(OWN).result.columns["broken_by"]
    theirs = measure(package(iterations=30, queries=200)).result.columns["broken_by"]
    assert ((ours == -2) == (theirs == -2)).all()
    assert ((ours >= 0) != (theirs >= 0)).sum() <= 2
    assert (ours >= 0).sum() > 5


def test_outcomes_do_not_depend_on_the_shard():
    examples = shard()
    whole = measure(OWN).result.columns["broken_by"]
    parts = [
        Examples(examples.inputs[part], examples.labels[part], examples.indices[part], 10)
        for part in (torch.arange(30), torch.arange(30, 60))
    ]
    columns = [measure(OWN, examples=part).result.columns["broken_by"] for part in parts]
    assert np.concatenate(columns).tolist() == whole.tolist()


def test_attacks_spare_what_is_proven_and_what_is_broken():
    examples = shard()
    proven = torch.arange(60) % 2 == 0
    spared = Examples(
        examples.inputs, examples.labels, examples.indices, 10, proven={THREAT.epsilon: proven}
    )
    whole, half = measure(OWN), measure(OWN, examples=spared)
    before, after = (m.result.columns["broken_by"] for m in (whole, half))
    correct = before != -2
    assert (after[correct & proven.numpy()] == -3).all()
    assert (after[~proven.numpy()] == before[~proven.numpy()]).all()
    assert half.backwards < 0.7 * whole.backwards


@pytest.mark.parametrize("cost", [1e-5, 1e5], ids=["unrolled", "compact"])
def test_only_the_leanest_network_is_attacked_and_the_published_one_decides(monkeypatch, cost):
    model = trained()
    with torch.no_grad():
        model.body[0].weight[::2] = 0
    seen = []

    def watched(network, tuning):
        small = leanest(network, Tuning(cost))
        assert type(small) is (Unrolled if cost < 1 else Compact)
        small.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        return small

    monkeypatch.setattr("benchmark.evaluations.engine.leanest", watched)
    column = measure(OWN, model).result.columns["broken_by"]
    assert sum(seen) > 1000 and {-1, 0} <= set(column.tolist())


def test_the_own_square_refuses_other_norms():
    with pytest.raises(ContractError, match="engine pyautoattack"):
        measure(AutoAttack(("square",), queries=5), threat=L2)
    settings = AutoAttack(("apgd-t", "fab-t"), iterations=10, targets=3)
    assert (measure(settings, threat=L2).result.columns["broken_by"] >= 0).any()


def test_starts_without_gradient_become_a_flag():
    settings = AutoAttack(("apgd-t", "apgd-ce"), iterations=2, targets=2)
    (flag,) = run_raw(flat_where_dark, settings).flags
    assert flag.name == "zero-gradients-in-attack" and flag.detail.startswith("apgd-t: at ")
    with torch.no_grad():
        correct = Wrapped(flat_where_dark)(shard().inputs).argmax(1) == shard().labels
    assert flag.rate == pytest.approx(float(correct.float().mean()), abs=0.02)
    assert run_raw(flat_where_dark, AutoAttack(("apgd-ce",), iterations=2)).flags == ()


def test_fast_mode_is_confirmed_in_float32():
    exact = measure(OWN).result.columns["broken_by"]
    fast = measure(replace(OWN, precision="bfloat16")).result.columns["broken_by"]
    # Every success was shown to the network as published; the engine refuses any other.
    assert ((exact >= 0) == (fast >= 0)).mean() > 0.95 and (fast >= 0).any()
    assert measure(replace(OWN, precision="tf32")).result.columns["broken_by"].tolist() == [
        *exact
    ], "on the CPU there is no TF32"


def test_claims_that_float32_does_not_confirm_are_attacked_there(monkeypatch):
    class Liar(torch.nn.Module):
        """Says of whatever has been changed that it is broken."""

        def forward(self, inputs):
            logits = trained()(inputs)
            moved = (inputs * 16 - (inputs * 16).round()).abs().flatten(1).amax(1) > 1e-3
            return torch.where(moved[:, None], -logits, logits)

    monkeypatch.setattr("benchmark.evaluations.engine.lowered", lambda network, precision: Liar())
    one = replace(OWN, attacks=("apgd-ce",))
    found = measure(replace(one, precision="bfloat16")).result.columns["broken_by"]
    np.testing.assert_array_equal(found, measure(one).result.columns["broken_by"])


def test_precisions_that_mean_nothing_are_refused():
    with pytest.raises(UnknownName, match="precision"):
        AutoAttack(precision="float16")
    with pytest.raises(ContractError, match="engine robustprune"):
        AutoAttack(engine="pyautoattack", precision="bfloat16")
    with pytest.raises(ContractError, match="below float32"):
        lowered(trained(), "float32")
