"""Flags from outcomes: each rule fires on the smallest case that it is made for, and no earlier."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from small_outcomes import (
    ATTACKS,
    EXAMPLES,
    FIVE_PROTOCOL,
    LARGE,
    MAIN,
    SMALL,
    SMALL_PROTOCOL,
    blank,
    consistent,
    five,
    misclassify,
    spare,
)

from benchmark.evaluations import AutoAttack, CarliniWagner, Clean, Flag, Pgd, Sanity, Transfer
from benchmark.flags import (
    HUGE_CHANCE,
    all_flags,
    flags_of,
    undecided,
    unrankable_reasons,
    white_box,
)
from benchmark.outcomes import Outcomes, check_invariants
from benchmark.protocols import PROTOCOLS

PGD, BY, CURVE = f"pgd.broken_step@{MAIN}", "autoattack.broken_by", f"curve.broken_step@{SMALL}"
ZERO, LOST, HUGE = "clean.zero_gradient", "sanity.vanishing_gradient", "sanity.huge_survived"
WEAK, PLANTED, MOVED = "sanity.broken_by", "sanity.planted", "transfer.broken_by"
NOISE, ONE_STEP, SQUARE = 0, 1, ATTACKS.index("square")

PROTOCOL = replace(
    SMALL_PROTOCOL,
    evaluations=(*SMALL_PROTOCOL.evaluations, ("sanity", Sanity()), ("transfer", Transfer())),
)
Columns = dict[str, Any]


def whole(count: int = EXAMPLES) -> Columns:
    """Returns columns of a perfect network whose gradients lead where they should."""
    columns = blank(count)
    for name in (WEAK, MOVED):
        columns[name] = np.full(count, -1, dtype=np.int8)
    for name in (HUGE, LOST):
        columns[name] = np.zeros(count, dtype=np.bool_)
    columns[PLANTED] = np.full(count, -2, dtype=np.int8)
    return columns


def prove(columns: Columns, positions: slice) -> None:
    columns[f"bounds.margin@{MAIN}"][positions] = 1


def rates(columns: Columns, protocol: Any = PROTOCOL) -> dict[str, float]:
    outcomes = Outcomes(columns)
    check_invariants(outcomes, protocol)
    return {flag.name: flag.rate for flag in flags_of(outcomes, protocol)}


def only(name: str, rate: float, raised: bool) -> dict[str, float]:
    return {name: pytest.approx(rate)} if raised else {}


def test_no_flags_without_cause() -> None:
    assert rates(whole()) == {}
    columns = whole()
    misclassify(columns, slice(0, None))
    assert rates(columns) == {}


def test_undecided_is_neither_broken_nor_proven() -> None:
    columns = whole()
    misclassify(columns, [0])
    columns[PGD][1], columns[BY][2], columns[WEAK][3], columns[MOVED][4] = 0, 1, NOISE, 0
    columns[CURVE][5] = 2
    columns[f"curve.broken_step@{LARGE}"][6] = 2
    prove(columns, slice(7, 8))
    columns[f"bounds.margin@{LARGE}"][8] = 1
    columns[f"bounds.margin@{SMALL}"][9] = 1
    found = undecided(Outcomes(columns), PROTOCOL)
    assert np.flatnonzero(~found).tolist() == [0, 1, 2, 3, 4, 5, 7, 8]


def test_white_box_is_what_follows_gradients_in_the_ball() -> None:
    columns = whole()
    misclassify(columns, [0])
    prove(columns, slice(1, 2))
    spare(columns)
    columns[PGD][2], columns[CURVE][3], columns[f"curve.broken_step@{LARGE}"][4] = 3, 1, 1
    columns[BY][5:9] = range(4)
    columns[WEAK][9], columns[MOVED][10] = ONE_STEP, 0
    tried, broke = white_box(Outcomes(columns), PROTOCOL)
    assert np.flatnonzero(~tried).tolist() == [0, 1]
    assert np.flatnonzero(broke).tolist() == [2, 3, 5, 6, 7]


def decide(by: str) -> Callable[[Columns], None]:
    """Returns what makes example 0 no longer undecided."""

    def change(columns: Columns) -> None:
        if by == "wrong":
            misclassify(columns, [0])
        elif by == "proven":
            prove(columns, slice(0, 1))
        else:
            columns[PGD][0] = columns[BY][0] = 0

    return change


@pytest.mark.parametrize(
    ("column", "name"), [(ZERO, "zero-gradients"), (LOST, "vanishing-gradients")]
)
def test_gradients_matter_at_undecided_examples(column: str, name: str) -> None:
    columns = whole()
    columns[column][:3] = True
    assert rates(columns) == {name: 3 / EXAMPLES}
    for by in ("wrong", "proven", "broken"):
        columns = whole()
        columns[column][:3] = True
        decide(by)(columns)
        assert rates(columns) == {name: 2 / EXAMPLES}, by
        columns[column][1:3] = False
        assert rates(columns) == {}, by


def test_an_example_is_flat_or_saturated_not_both() -> None:
    columns = whole()
    columns[ZERO][:5] = True
    columns[LOST][3:7] = True
    assert rates(columns) == {
        "zero-gradients": 3 / EXAMPLES,
        "vanishing-gradients": 4 / EXAMPLES,
    }
    # Without the evaluation that tells them apart, all are called zero.
    assert rates(blank() | {ZERO: columns[ZERO]}, SMALL_PROTOCOL) == {"zero-gradients": 5 / 40}


@pytest.mark.parametrize(("count", "raised"), [(2, False), (3, True)])
def test_square_over_two_in_a_thousand(count: int, raised: bool) -> None:
    columns = whole(1000)
    columns[BY][:count] = SQUARE
    assert rates(columns) == only("square-lowers-accuracy", count / 1000, raised)


@pytest.mark.parametrize(
    ("count", "step", "raised"), [(10, 6, False), (11, 6, True), (11, 5, False), (11, 10, True)]
)
def test_convergence_over_one_in_a_hundred(count: int, step: int, raised: bool) -> None:
    """Ten steps: those broken after the fifth would have survived half the steps."""
    columns = whole(1000)
    columns[PGD][:count] = step
    bare = replace(PROTOCOL, evaluations=(("clean", Clean()), dict_of("pgd")))
    kept = {n: columns[n] for n in ("index", "label", "clean.prediction", ZERO, PGD)}
    assert rates(kept, bare) == only("pgd-not-converged", count / 1000, raised)
    assert rates(columns).get("pgd-not-converged", 0) == (count / 1000 if raised else 0)


def dict_of(name: str) -> tuple[str, Any]:
    return name, dict(PROTOCOL.evaluations)[name]


@pytest.mark.parametrize("column", [BY, CURVE, WEAK, MOVED])
def test_late_steps_matter_where_nothing_else_broke(column: str) -> None:
    columns = whole(100)
    columns[PGD][:5] = 9
    columns[column][1:5] = 0
    assert "pgd-not-converged" not in rates(columns)
    columns[column][1:3] = -1
    assert rates(columns)["pgd-not-converged"] == 3 / 100


def test_a_larger_ball_does_not_stand_for_the_smaller() -> None:
    columns = whole(100)
    columns[PGD][:5] = 9
    columns[f"curve.broken_step@{LARGE}"][:5] = 0
    assert rates(columns)["pgd-not-converged"] == 5 / 100


@pytest.mark.parametrize(("by_autoattack", "raised"), [(True, False), (False, True)])
def test_pgd_stronger_from_one_example(by_autoattack: bool, raised: bool) -> None:
    columns = whole(1000)
    columns[PGD][0] = 0
    columns[BY][0] = 0 if by_autoattack else -1
    assert rates(columns) == only("pgd-stronger-than-autoattack", 0.001, raised)


@pytest.mark.parametrize(("pgd", "gap", "raised"), [(6, 0, 0), (13, 1, 0), (13, 2, 1), (13, 3, 1)])
def test_autoattack_far_below_from_five_points(pgd: int, gap: int, raised: int) -> None:
    """14/40 - 12/40 is a little less than 0.05 in floating point, yet five points it is."""
    columns = whole()
    columns[PGD][: EXAMPLES - pgd - 1] = 0
    columns[BY][: EXAMPLES - pgd - 1 + gap] = 0
    assert rates(columns) == only("autoattack-far-below-pgd", gap / EXAMPLES, bool(raised))


def test_the_proven_survive_both_attacks() -> None:
    columns = whole()
    prove(columns, slice(0, 30))
    spare_strong = dict(columns)
    spare(spare_strong)
    for name in (WEAK, MOVED):
        spare_strong[name] = columns[name]
    sparing = replace(PROTOCOL, certify_first=True)
    assert rates(spare_strong, sparing) == {}
    spare_strong[PGD][30:35] = 0
    spare_strong[BY][30:37] = 0
    assert rates(spare_strong, sparing) == {"autoattack-far-below-pgd": 2 / EXAMPLES}


def test_weak_attacks_that_beat_strong_ones() -> None:
    columns = whole()
    columns[WEAK][:2], columns[WEAK][2:5] = NOISE, ONE_STEP
    columns[MOVED][4:9] = 0
    assert rates(columns) == {
        "noise-beats-gradients": 2 / EXAMPLES,
        "single-step-beats-iterated": 3 / EXAMPLES,
        # One of its five fell to a single step, which is white box as well.
        "transfer-beats-white-box": 4 / EXAMPLES,
    }


@pytest.mark.parametrize("column", [PGD, CURVE, BY])
def test_what_strong_attacks_break_too_is_no_sign(column: str) -> None:
    columns = whole()
    columns[WEAK][:2], columns[MOVED][:3] = NOISE, 0
    for name in (PGD, BY):
        columns[name][:3] = -1
    columns[column][:3] = 1
    weak = {"noise-beats-gradients", "single-step-beats-iterated", "transfer-beats-white-box"}
    assert not weak & set(rates(columns))


def test_square_is_no_gradient_attack() -> None:
    columns = whole()
    columns[WEAK][:2] = NOISE
    columns[BY][:2] = SQUARE
    assert rates(columns)["noise-beats-gradients"] == 2 / EXAMPLES


def test_nobody_beats_attacks_that_were_not_run() -> None:
    columns = whole()
    columns[WEAK][:2], columns[MOVED][:3] = NOISE, 0
    kinds = [(n, s) for n, s in PROTOCOL.evaluations if not isinstance(s, Pgd | AutoAttack)]
    kept = {n: v for n, v in columns.items() if n not in (PGD, BY) and "curve" not in n}
    assert rates(kept, replace(PROTOCOL, evaluations=tuple(kinds))) == {}


FGSM, CW, SHORT, LONGEST = (
    "fgsm.broken_by",
    *(f"{name}.broken_step@{MAIN}" for name in ("cw", "pgd-3", "pgd-6")),
)


def test_the_five_raise_no_flags_without_cause() -> None:
    columns = five()
    assert rates(columns, FIVE_PROTOCOL) == {}
    misclassify(columns, slice(0, None))
    assert rates(columns, FIVE_PROTOCOL) == {}


@pytest.mark.parametrize("stronger", [SHORT, LONGEST, CW, BY])
def test_fgsm_must_not_beat_what_iterates(stronger: str) -> None:
    columns = five()
    columns[FGSM][:3] = 0
    assert rates(columns, FIVE_PROTOCOL) == {"single-step-beats-iterated": 3 / EXAMPLES}
    columns[stronger][:3] = 1
    assert "single-step-beats-iterated" not in rates(columns, FIVE_PROTOCOL)


def test_of_several_pgds_the_longest_is_asked_whether_it_converged() -> None:
    columns = five()
    # The last step of the short one: what it alone broke, the long one did without.
    columns[SHORT][:5] = 3
    assert rates(columns, FIVE_PROTOCOL) == {}
    columns[LONGEST][10:13] = 4
    found = rates(columns, FIVE_PROTOCOL)
    assert found["pgd-not-converged"] == 3 / EXAMPLES
    # It is the one that is compared with AutoAttack, too.
    assert found["pgd-stronger-than-autoattack"] == 3 / EXAMPLES
    columns[CW][10:13] = 0
    assert "pgd-not-converged" not in rates(columns, FIVE_PROTOCOL)


def test_a_curve_of_cw_must_not_rise_either() -> None:
    """Of two curves the one that rises more is the flag's."""
    steps = dict_of("curve")[1].steps
    extra = ("cw-curve", CarliniWagner(steps, epsilons=(LARGE, SMALL)))
    protocol = replace(PROTOCOL, evaluations=(*PROTOCOL.evaluations, extra))
    columns = whole(100)
    for epsilon, lost, more in ((SMALL, 30, 20), (LARGE, 10, 10)):
        columns[f"cw-curve.broken_step@{epsilon}"] = np.full(100, -1, dtype=np.int16)
        columns[f"cw-curve.broken_step@{epsilon}"][:lost] = 1
        columns[f"curve.broken_step@{epsilon}"][:more] = 1
    found = {flag.name: flag.rate for flag in all_flags((), Outcomes(columns), protocol)}
    assert found["accuracy-rises-with-epsilon"] == pytest.approx(0.2)


def test_transfer_that_was_not_run_says_nothing() -> None:
    columns = whole()
    columns[MOVED][:] = -4
    assert rates(columns) == {}


@pytest.mark.parametrize(
    ("count", "survivors"),
    [(EXAMPLES, n) for n in range(4, 17)] + [(1000, n) for n in range(125, 140)],
)
def test_survivors_of_a_huge_epsilon_beyond_chance(count: int, survivors: int) -> None:
    columns = whole(count)
    columns[HUGE][:survivors] = True
    chance = binomtest(survivors, count, 0.1, alternative="greater").pvalue
    expected = only("not-at-chance-for-huge-epsilon", survivors / count - 0.1, chance < 0.001)
    assert HUGE_CHANCE == 0.001
    assert rates(columns) == expected


def test_chance_is_the_share_of_the_largest_class() -> None:
    columns = whole()
    columns["label"][:20] = columns["clean.prediction"][:20] = 3
    columns[HUGE][:20] = True
    assert rates(columns) == {}
    columns[HUGE][:36] = True
    assert set(rates(columns)) == {"not-at-chance-for-huge-epsilon"}


def test_survivors_that_are_proven_leave_no_doubt() -> None:
    columns = whole()
    columns[HUGE][:30] = True
    prove(columns, slice(0, 25))
    assert rates(columns) == {}


@pytest.mark.parametrize(("less", "more", "raised"), [(50, 60, False), (50, 61, True)])
def test_accuracy_that_rises_over_one_point(less: int, more: int, raised: bool) -> None:
    columns = whole(1000)
    columns[CURVE][less:] = 0
    columns[f"curve.broken_step@{LARGE}"][more:] = 0
    found = rates(columns).get("accuracy-rises-with-epsilon", 0)
    assert found == (pytest.approx((more - less) / 1000) if raised else 0)


def test_the_largest_rise_of_neighbours_counts_the_proven_as_standing() -> None:
    middle = Fraction(3, 20)
    curve = Pgd(dict_of("curve")[1].steps, 1, (LARGE, SMALL, middle))
    evaluations = tuple((n, curve if n == "curve" else s) for n, s in PROTOCOL.evaluations)
    columns = whole(100)
    columns[f"curve.broken_step@{middle}"] = np.full(100, -1, dtype=np.int16)
    for epsilon, standing in ((SMALL, 20), (middle, 50), (LARGE, 40)):
        columns[f"curve.broken_step@{epsilon}"][standing:] = 0
    protocol = replace(PROTOCOL, evaluations=evaluations, certify_first=True)
    outcomes = Outcomes(columns)
    found = {flag.name: flag.rate for flag in flags_of(outcomes, protocol)}
    assert found["accuracy-rises-with-epsilon"] == pytest.approx(0.3)
    columns[CURVE][20:50] = -3
    found = {flag.name: flag.rate for flag in flags_of(outcomes, protocol)}
    assert "accuracy-rises-with-epsilon" not in found


def test_the_stronger_pgd_is_no_point_of_the_curve() -> None:
    columns = whole()
    columns[PGD][:10] = columns[BY][:10] = 0
    assert rates(columns) == {}


@pytest.mark.parametrize(("missed", "raised"), [(0, False), (1, False), (2, True), (20, True)])
def test_planted_examples_missed_over_one_in_twenty(missed: int, raised: bool) -> None:
    columns = whole()
    columns[PLANTED][:20] = 1
    columns[PLANTED][:missed] = 0
    # Half of the undecided are tested, so the share that fails stands for all forty.
    assert rates(columns) == only("planted-missed", missed / 20, raised)


def test_planted_examples_count_among_the_undecided() -> None:
    columns = whole()
    columns[PLANTED][:20] = 0
    prove(columns, slice(0, 10))
    columns[PLANTED][20:30] = 1
    assert rates(columns) == {"planted-missed": pytest.approx(10 / 20 * 30 / 40)}
    prove(columns, slice(10, 20))
    assert rates(columns) == {}
    columns[PLANTED][:] = -2
    assert rates(columns) == {}


@pytest.mark.parametrize("seed", range(30))
def test_honest_outcomes_hold_no_contradiction(seed: int) -> None:
    columns = dict(consistent(seed).columns)
    extra = whole()
    wrong = columns["clean.prediction"] != columns["label"]
    for name in (WEAK, PLANTED, MOVED, HUGE, LOST):
        columns[name] = extra[name]
    for name in (WEAK, MOVED):
        columns[name][wrong] = -2
    assert all(0 < rate <= 1 for rate in rates(columns).values())


def test_outcomes_replace_what_evaluations_said_under_the_same_name() -> None:
    columns = whole()
    columns[ZERO][:4] = True
    raised = [Flag("zero-gradients", 1.0, "old"), Flag("softmax-output", 1.0, "kept")]
    found = all_flags(raised, Outcomes(columns), PROTOCOL)
    assert [(flag.name, flag.rate) for flag in found] == [
        ("softmax-output", 1.0),
        ("zero-gradients", 0.1),
    ]


def test_rows_lose_their_rank_above_what_is_tolerated() -> None:
    tolerant = SimpleNamespace(
        unrankable=(("softmax-output", Fraction(0)), ("zero-gradients", Fraction(1, 10)))
    )

    def reasons(**given: float) -> list[str]:
        flags = [Flag(name.replace("_", "-"), rate, "why") for name, rate in given.items()]
        return unrankable_reasons(flags, tolerant)  # type: ignore[arg-type]

    assert reasons() == []
    assert reasons(softmax_output=1e-9) == ["softmax-output"]
    # 0.1 as a float is a little more than a tenth.
    assert reasons(zero_gradients=0.1) == []
    assert reasons(zero_gradients=0.1001) == ["zero-gradients"]
    assert reasons(bounds_unsupported=1.0) == []
    assert reasons(zero_gradients=0.2, softmax_output=0.5) == ["zero-gradients", "softmax-output"]


def test_protocols_tolerate_flags_that_exist() -> None:
    from benchmark.report.wording import FLAGS

    for protocol in PROTOCOLS.values():
        tolerated = dict(protocol.unrankable)
        assert set(tolerated) <= set(FLAGS)
        assert not any(FLAGS[name].informational for name in tolerated)
        assert all(0 <= rate < 1 for rate in tolerated.values())
