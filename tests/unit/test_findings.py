"""Findings: verdicts on frames whose right verdict is known, and what every sentence rests on."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from report_frame import evidence_frame, make_row

from benchmark.findings import CLAIMS, advice, findings, judging, orders, worth
from benchmark.findings.advice import recommendations
from benchmark.findings.orders import disagreements
from benchmark.findings.scope import families, scopes
from benchmark.leaderboard import rank
from benchmark.pipeline.entering import NOT_STATED

N = 400
FORWARDS = np.arange(N)
BACKWARDS = FORWARDS[::-1]


def outcomes(right, examples=N, order=FORWARDS, **others):
    """The first `right` examples of an order are right, whatever counts unless told otherwise."""
    order = order[order < examples]
    found = {"index": np.arange(examples)}
    for name in ("clean", "pgd", "autoattack", "robust", "best_known", "certified", "smoothed"):
        count, own = others.get(name, right), order
        if isinstance(count, tuple):
            count, own = count[0], count[1][count[1] < examples]
        found[name] = np.zeros(examples, dtype=bool)
        found[name][own[:count]] = True
    found["clean"][:] = True
    return found


def row(method, right, level=0.99, examples=N, tier="full", budget=None, measures=None, **changes):
    recipe = "digits-certified" if changes.get("objective") in ("crown-ibp", "mixtrain") else "d"
    if budget is not None:
        steps, hours, device = budget
        changes["budget"] = {"attack_steps": steps, "hours": hours, "device": device}
    found = outcomes(right, examples, **(measures or {}))
    defaults = {"recipe": {"d": "digits-1"}.get(recipe, recipe), "tier": tier, "examples": examples}
    return make_row(method, level, found, **{**defaults, **changes})


def said(rows):
    return findings(rank(pd.DataFrame(rows)).to_dict("records"))


def claim(rows, key):
    """The finding on a claim, in the first section."""
    [found] = [one for one in said(rows).sections[0].findings if one.key == key]
    return found


def section(rows, key):
    [found] = [one for one in said(rows).sections if one.key == key]
    return found


# --- One accuracy against another -----------------------------------------------------------------


def test_a_clear_lead_is_reproduced():
    rows = [row("hydra", 300), row("lwm-layerwise", 200)]
    found = claim(rows, "hydra-99")
    assert found.verdict == "reproduced"
    [one] = found.sentences
    assert "hydra 75.0 %, lwm-layerwise 50.0 %" in one.text
    assert "+25.0 points" in one.text and "400 examples (full)" in one.text
    assert set(one.rows) == {str(r["checkpoint_id"]) for r in rows}
    # What counts was said before, and the paper's figure stands beside it.
    assert "0.05" in found.counts_as and "+7.4" in found.source and "+10.0" in found.source


def test_a_lead_that_no_test_confirms_is_not_reproduced():
    """5 discordant examples, all on one side: p = 2/2^5."""
    found = claim([row("hydra", 205), row("lwm-layerwise", 200)], "hydra-99")
    assert found.verdict == "not reproduced"
    assert "p = 0.062" in found.sentences[0].text


def test_a_clear_lead_of_the_other_is_not_reproduced():
    found = claim([row("hydra", 200), row("lwm-layerwise", 300)], "hydra-99")
    assert found.verdict == "not reproduced"
    assert "−25.0 points" in found.sentences[0].text


def test_a_lead_of_some_seeds_is_partly_reproduced():
    rights = {("hydra", 0): 300, ("hydra", 1): 203}
    both = itertools.product(("hydra", "lwm-layerwise"), (0, 1))
    rows = [row(m, rights.get((m, s), 200), seed=s) for m, s in both]
    found = claim(rows, "hydra-99")
    assert found.verdict == "partly"
    assert len(found.sentences) == 3
    together = found.sentences[-1]
    assert "2 seeds together" in together.text and len(together.rows) == 4
    assert "+12.9 points" in together.text  # of +25.0 and +0.75


def test_holm_counts_the_tests_of_a_claim():
    """6 discordant examples: p = 2/2^6 is below 0.05 alone, and above it for each of two seeds."""
    single = [row("hydra", 206), row("lwm-layerwise", 200)]
    assert claim(single, "hydra-99").verdict == "reproduced"
    rows = single + [row("hydra", 206, seed=1), row("lwm-layerwise", 200, seed=1)]
    found = claim(rows, "hydra-99")
    assert found.verdict == "not reproduced"
    assert "p = 0.062 after Holm over 2 tests" in found.sentences[0].text


def test_every_objective_of_a_claim_counts():
    rows = [row("hydra", 300), row("lwm-layerwise", 200)]
    rows += [row("hydra", 200, objective="trades"), row("lwm-layerwise", 200, objective="trades")]
    found = claim(rows, "hydra-99")
    assert found.verdict == "partly"
    assert [("trades" in one.text) for one in found.sentences] == [False, True]


def test_missing_rows_are_named_instead_of_a_verdict():
    rows = [row("lwm-layerwise", 200), row("hydra", 200, 0.9)]
    assert claim(rows, "hydra-99").missing == ("hydra, adversarial, 99 %",)
    assert claim(rows, "hydra-99").verdict == "not measured here"
    assert claim(rows, "hydra-99").sentences == ()
    both = ("hydra, adversarial, 95 %", "lwm-layerwise, adversarial, 95 %")
    assert claim(rows, "hydra-95").missing == both
    assert claim(rows, "compact-robust").missing == (
        "compact-robust, adversarial, 90 %",
        "dense, adversarial",
    )


def test_rows_of_other_seeds_never_meet():
    rows = [row("hydra", 300, seed=1), row("lwm-layerwise", 200, seed=0)]
    [missing] = claim(rows, "hydra-99").missing
    assert "a seed of hydra" in missing


def test_a_flagged_row_is_no_evidence():
    rows = [row("hydra", 300, unrankable=FLAG), row("lwm-layerwise", 200)]
    found = claim(rows, "hydra-99")
    assert found.verdict == "not measured here"
    assert "flagged" in found.missing[0]


def test_what_is_measured_beside_a_missing_objective_counts_and_the_rest_is_named():
    rows = [
        row("hydra", 300, objective="crown-ibp"),
        row("lwm-layerwise", 200, objective="crown-ibp"),
    ]
    rows.append(row("hydra", 300, objective="mixtrain"))
    found = claim(rows, "hydra-certified")
    assert found.verdict == "reproduced"
    assert found.asides == ("lwm-layerwise, mixtrain, 99 %",)


def test_the_smoothed_network_is_compared_over_its_own_examples():
    rows = [
        row("hydra", 300, objective="smoothing"),
        row("lwm-layerwise", 200, objective="smoothing"),
    ]
    for one, right in zip(rows, (40, 20), strict=True):
        one["outcomes"]["smoothed"] = np.arange(50) < right
    found = claim(rows, "hydra-smoothed")
    assert found.verdict == "reproduced"
    assert "80.0 %" in found.sentences[0].text and "50 of 400 examples" in found.sentences[0].text
    for one in rows:
        del one["outcomes"]["smoothed"]
    assert "smoothed network" in claim(rows, "hydra-smoothed").missing[0]


def test_a_comparison_with_networks_at_chance_says_so():
    found = claim([row("hydra", 300), row("lwm-layerwise", 40)], "hydra-99")
    assert "near chance (10.0 %)" in found.sentences[-1].text
    assert found.sentences[-1].rows == (found.sentences[0].rows[1],)
    found = claim([row("hydra", 300), row("lwm-layerwise", 100)], "hydra-99")
    assert "chance" not in found.sentences[-1].text


def guessing(method, **changes):
    """A network that says the same of everything: right on a tenth."""
    found = row(method, 40, **changes)
    found["outcomes"]["clean"][60:] = False
    return found


def test_networks_that_did_not_learn_are_no_evidence():
    found = claim([guessing("hydra"), guessing("lwm-layerwise")], "hydra-99")
    assert (found.verdict, found.missing) == ("not measured here", (judging.NO_LEARNERS,))
    [one] = found.sentences
    assert "neither network learned" in one.text and "guessing gives 10.0 %" in one.text
    assert "hydra at 15.0 % and lwm-layerwise at 15.0 % clean accuracy" in one.text
    # One that learned is enough, whichever it is; a seed that does not count costs no correction.
    rows = [guessing("hydra"), guessing("lwm-layerwise")]
    rows += [row("hydra", 300, seed=1), guessing("lwm-layerwise", seed=1)]
    found = claim(rows, "hydra-99")
    assert found.verdict == "reproduced"
    assert "does not count" in found.sentences[0].text and len(found.sentences) == 2
    assert "after Holm" not in found.sentences[1].text
    rows = [guessing("hydra"), row("lwm-layerwise", 300)]
    assert claim(rows, "hydra-99").verdict == "not reproduced"


# --- Shares that are kept -------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "verdict"), [(370, "reproduced"), (369, "not reproduced")])
def test_the_threshold_is_the_paper_s(right, verdict):
    rows = [row("dense", N, 0.0), row("compact-robust", right, 0.9)]
    found = claim(rows, "compact-robust")
    assert found.verdict == verdict
    [one] = found.sentences
    assert f"keeps {100 * right / N:.1f} %" in one.text
    # 92.5 % lies within the interval of either.
    assert "other side" in one.text


def test_shares_of_several_seeds_are_averaged():
    rows = [row("dense", N, 0.0, seed=seed) for seed in (0, 1)]
    rows += [row("compact-robust", right, 0.9, seed=n) for n, right in enumerate((390, 352))]
    found = claim(rows, "compact-robust")
    assert found.verdict == "reproduced"
    assert "mean over 2 seeds: 92.8 %" in found.sentences[-1].text


def test_certified_accuracy_is_kept_under_certified_training():
    measures = {"certified": 100}
    rows = [row("dense", N, 0.0, objective="crown-ibp", measures=measures)]
    rows.append(row("compact-robust", N, 0.9, objective="crown-ibp", measures={"certified": 84}))
    assert claim(rows, "compact-certified").verdict == "not reproduced"
    rows[1] = row("compact-robust", N, 0.9, objective="crown-ibp", measures={"certified": 85})
    assert claim(rows, "compact-certified").verdict == "reproduced"


NOTHING = "certified accuracy above 0 of dense, crown-ibp (of nothing no share can be kept)"


def certified(method, right, level, seed=0):
    measures = {"certified": right}
    return row(method, N, level, objective="crown-ibp", measures=measures, seed=seed)


@pytest.mark.parametrize("right", [0, 40])
def test_of_nothing_no_share_is_kept(right):
    rows = [certified("dense", 0, 0.0), certified("hydra", right, 0.9)]
    found = claim(rows, "hydra-keeps")
    assert (found.verdict, found.sentences) == ("not measured here", ())
    assert found.missing == (NOTHING,)


def test_a_seed_whose_dense_network_has_nothing_is_left_out_by_name():
    rows = [certified("dense", right, 0.0, seed) for seed, right in enumerate((100, 0, 100))]
    rows += [certified("hydra", right, 0.9, seed) for seed, right in enumerate((100, 60, 94))]
    found = claim(rows, "hydra-keeps")
    assert found.verdict == "reproduced"
    assert f"{NOTHING}, seed 1" in found.asides
    assert "mean over 2 seeds: 97.0 %" in found.sentences[-1].text
    assert len(found.sentences) == 3 and len(found.sentences[-1].rows) == 4
    assert not any("seed1" in name for one in found.sentences for name in one.rows)
    # Of a single seed there is no mean.
    [one] = claim(rows[:2] + rows[3:5], "hydra-keeps").sentences
    assert "seed 0" in one.text and "keeps 100.0 %" in one.text and "mean" not in one.text


def test_the_paper_s_settings_of_pwoa_come_before_the_defaults():
    own = "pwoa:lambda-x=0.0002:lambda-y=5e-05"
    rows = [row("dense", 200, 0.0), row("pwoa", 100, 0.75), row(own, 200, 0.75)]
    assert claim(rows, "pwoa").verdict == "reproduced"
    assert claim(rows[:2], "pwoa").verdict == "not reproduced"


# --- Budgets, curves, schedules -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [
        ((0, 0.1, "cpu"), "reproduced"),
        ((0, 0.3, "cpu"), "partly"),
        ((7, 0.1, "cpu"), "partly"),
        ((7, 0.3, "cpu"), "not reproduced"),
        # Hours of another machine prove nothing.
        ((0, 0.1, "gpu"), "partly"),
    ],
)
def test_cheaper_means_no_attack_and_fewer_hours(budget, verdict):
    rows = [row("pwoa", 200, 0.9, budget=budget)]
    rows.append(row("compact-robust", 200, 0.9, budget=(10, 0.2, "cpu")))
    found = claim(rows, "pwoa-cost")
    assert found.verdict == verdict
    assert f"{budget[0]} attack steps a batch and {budget[1]:.2f} h" in found.sentences[0].text


@pytest.mark.parametrize("unknown", [(0, 0.0, NOT_STATED), (np.nan, 0.1, "cpu")])
def test_a_budget_that_nobody_knows_proves_nothing(unknown):
    rows = [row(method, 200, 0.9, budget=unknown) for method in ("pwoa", "compact-robust")]
    found = claim(rows, "pwoa-cost")
    assert (found.verdict, found.sentences) == ("not measured here", ())
    lacking = "attack steps and hours of {}, adversarial, 90 % (its entry states none)"
    assert found.missing == tuple(map(lacking.format, ("pwoa", "compact-robust")))
    # Seeds whose budgets are known decide.
    rows.append(row("pwoa", 200, 0.9, budget=(0, 0.1, "cpu"), seed=1))
    rows.append(row("compact-robust", 200, 0.9, budget=(10, 0.2, "cpu"), seed=1))
    found = claim(rows, "pwoa-cost")
    assert found.verdict == "reproduced" and len(found.sentences) == 1
    assert f"{lacking.format('pwoa')}, seed 0" in found.asides


def test_what_an_import_does_not_state_reads_so_here():
    assert judging.NOT_STATED == NOT_STATED
    assert all(map(np.isnan, judging.budget_of({"budget": {"device": NOT_STATED, "hours": 0}})[:2]))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.51, 0.6, "reproduced"), (0.49, 0.6, "not reproduced"), (0.2, 0.3, "not reproduced")],
)
def test_curves_are_apart_where_their_intervals_are(low, high, verdict):
    theirs = {"aer_robustness": 0.45, "aer_low": 0.4, "aer_high": 0.5}
    ours = {"aer_robustness": (low + high) / 2, "aer_low": low, "aer_high": high}
    rows = [row("bap", 200, 0.9, **ours), row("adversarial-gradual", 200, 0.9, **theirs)]
    assert claim(rows, "bap-curve").verdict == verdict


def test_a_method_in_another_spelling_stands_for_it():
    theirs = {"aer_robustness": 0.45, "aer_low": 0.4, "aer_high": 0.5}
    ours = {"aer_robustness": 0.65, "aer_low": 0.6, "aer_high": 0.7}
    rows = [
        row("adversarial-gradual", 200, 0.9, **theirs),
        row("bap:candidates=4", 200, 0.9, **ours),
    ]
    assert claim(rows, "bap-curve").verdict == "reproduced"
    assert "bap:candidates=4 65.0 %" in claim(rows, "bap-curve").sentences[0].text
    assert claim(rows[1:], "bap-curve").missing == ("adversarial-gradual, adversarial, 90 %",)


def schedules(method, rights, areas):
    ends = ("0.2", "0.4", "0.6")
    return [
        row(f"{method}:end={end}", right, 0.9, aer_robustness=area)
        for end, right, area in zip(ends, rights, areas, strict=True)
    ]


def test_schedules_are_compared_by_their_spread():
    steady, shaky = (200, 204, 208), (200, 220, 240)
    rows = schedules("bap", steady, (0.5, 0.51, 0.52))
    rows += schedules("adversarial-gradual", shaky, (0.5, 0.52, 0.54))
    found = claim(rows, "bap-schedule")
    assert found.verdict == "reproduced"
    # 200, 204, 208 of 400 are 50, 51, 52 %: one point apart.
    assert "robust accuracy: bap 1.0, adversarial-gradual 5.0 points" in found.sentences[-1].text
    rows = schedules("bap", shaky, (0.5, 0.51, 0.52))
    rows += schedules("adversarial-gradual", steady, (0.5, 0.52, 0.54))
    assert claim(rows, "bap-schedule").verdict == "partly"
    assert claim(rows[:4], "bap-schedule").verdict == "not measured here"


def test_schedules_without_a_curve_are_not_compared():
    """Under a protocol of one epsilon there is no AER."""
    nothing = (np.nan, np.nan, np.nan)
    rows = schedules("bap", (200, 204, 208), nothing)
    rows += schedules("adversarial-gradual", (200, 220, 240), (0.5, 0.52, 0.54))
    found = claim(rows, "bap-schedule")
    assert (found.verdict, found.sentences) == ("not measured here", ())
    lacking = "accuracy at several epsilons of bap:end={}, adversarial, 90 %"
    assert found.missing == tuple(lacking.format(end) for end in ("0.2", "0.4", "0.6"))
    # A seed that has them is compared, and the other one is named.
    for method in ("bap", "adversarial-gradual"):
        areas = (0.5, 0.5, 0.5) if method == "bap" else (0.5, 0.52, 0.54)
        rows += [{**r, "seed": 1} for r in schedules(method, (200, 201, 202), areas)]
    found = claim(rows, "bap-schedule")
    assert f"{lacking.format('0.2')}, seed 0" in found.asides
    assert "mean of 1 seed: robust accuracy" in found.sentences[-1].text


def test_an_end_of_a_schedule_may_be_any_word():
    """Others name their methods; a name is no reason to have no report."""
    both = itertools.product(("bap", "adversarial-gradual"), ("soon", "late"))
    rows = [row(f"{method}:end={end}", 200, 0.9, aer_robustness=0.5) for method, end in both]
    assert claim(rows, "bap-schedule").verdict == "not reproduced"


# --- Flags ----------------------------------------------------------------------------------------

FLAG = "zero-gradients at 31.0 %, tolerated up to 5.0 %"
WITHOUT = "(evaluated, but flagged and without a rank)"


def test_a_flagged_seed_is_left_out_by_name():
    both = itertools.product(("hydra", "lwm-layerwise"), (0, 1, 2))
    rows = [row(method, 300 if method == "hydra" else 200, seed=seed) for method, seed in both]
    rows[1]["unrankable"] = rows[2]["unrankable"] = rows[5]["unrankable"] = FLAG
    found = claim(rows, "hydra-99")
    assert found.verdict == "reproduced" and len(found.sentences) == 1
    assert f"hydra, adversarial, 99 %, seeds 1 and 2 {WITHOUT}" in found.asides
    assert f"lwm-layerwise, adversarial, 99 %, seed 2 {WITHOUT}" in found.asides


def test_a_seed_that_is_flagged_on_the_examples_compared_is_named():
    """Its full tier stands, but the quick one has more seeds."""
    both = itertools.product(("hydra", "lwm-layerwise"), (0, 1, 2))
    rows = [row(method, 90, examples=100, tier="quick", seed=seed) for method, seed in both]
    rows[2]["unrankable"] = FLAG
    rows += [row(method, 300, seed=2) for method in ("hydra", "lwm-layerwise")]
    found = claim(rows, "hydra-99")
    named = "hydra, adversarial, 99 %, seed 2 (flagged on 100 examples (quick))"
    assert found.asides[0] == named
    # Where its full tier is what is compared there is nothing to tell.
    rows += [row(method, 300, seed=0) for method in ("hydra", "lwm-layerwise")]
    found = claim(rows, "hydra-99")
    assert "(full)" in found.sentences[0].text and named not in found.asides


def test_a_flag_in_the_largest_tier_takes_the_smaller_ones_with_it():
    rows = [row("hydra", 90, examples=100, tier="quick"), row("hydra", 300, unrankable=FLAG)]
    other = row("lwm-layerwise", 50, examples=100, tier="quick")
    found = claim([*rows, other], "hydra-99")
    assert found.verdict == "not measured here"
    assert found.missing == (f"hydra, adversarial, 99 % {WITHOUT}",)
    # A flag in the smaller one takes none.
    rows = [row("hydra", 90, examples=100, tier="quick", unrankable=FLAG), row("hydra", 300)]
    rows.append(row("lwm-layerwise", 200))
    assert claim(rows, "hydra-99").verdict == "reproduced"


def test_a_flag_in_the_largest_tier_counts_in_every_section():
    rows = cell((80, 20), (50, 40), examples=100, tier="quick")
    rows.append(row("a", 300, 0.9, unrankable=FLAG))
    assert disagreements(rank(pd.DataFrame(rows)).to_dict("records")) is None
    assert all(
        one.rows == (rows[1]["checkpoint_id"],)
        for one in section(rows, "limits").findings[0].sentences
    )
    assert not worth(rank(pd.DataFrame([rows[0], rows[-1]])).to_dict("records"))


def test_flagged_seeds_that_keep_networks_apart_are_named():
    rows = [row("hydra", 300, seed=0, unrankable=FLAG), row("hydra", 300, seed=1)]
    rows.append(row("lwm-layerwise", 200, seed=0))
    never, flagged = claim(rows, "hydra-99").missing
    assert never.startswith("a seed of hydra")
    assert flagged == f"hydra, adversarial, 99 %, seed 0 {WITHOUT}"


def test_settings_that_a_flag_passes_over_are_named():
    own = "pwoa:lambda-x=0.0002:lambda-y=5e-05"
    rows = [row("dense", 200, 0.0), row("pwoa", 200, 0.75), row(own, 200, 0.75, unrankable=FLAG)]
    found = claim(rows, "pwoa")
    assert found.verdict == "reproduced" and "pwoa at 75 %" in found.sentences[0].text
    assert f"{own}, adversarial, 75 % {WITHOUT}" in found.asides


def test_flagged_ends_of_a_schedule_are_named():
    rows = schedules("bap", (200, 204, 208), (0.5, 0.51, 0.52))
    rows += schedules("adversarial-gradual", (200, 220, 240), (0.5, 0.52, 0.54))
    rows[2]["unrankable"] = FLAG
    found = claim(rows, "bap-schedule")
    assert found.verdict == "reproduced"
    assert "end=0.6" not in " ".join(one.text for one in found.sentences)
    named = f"bap:end=0.6, adversarial, 90 % {WITHOUT}"
    assert found.asides == (named,)
    rows[1]["unrankable"] = FLAG
    found = claim(rows, "bap-schedule")
    assert found.verdict == "not measured here" and named in found.missing


# --- Which rows meet ------------------------------------------------------------------------------


def test_most_seeds_count_before_most_examples():
    rows = []
    for seed, method in itertools.product((0, 1, 2), ("hydra", "lwm-layerwise")):
        rows.append(row(method, 90, examples=100, tier="quick", seed=seed))
    for method in ("hydra", "lwm-layerwise"):
        rows.append(row(method, 300, examples=N, tier="full", seed=0))
    [scope], _ = scopes(rank(pd.DataFrame(rows)).to_dict("records"))
    together = scope.together(sorted(scope.trained, key=str))
    assert (together.tier, together.examples, together.seeds) == ("quick", 100, (0, 1, 2))
    for seed, method in itertools.product((1, 2), ("hydra", "lwm-layerwise")):
        rows.append(row(method, 300, examples=N, tier="full", seed=seed))
    [scope], _ = scopes(rank(pd.DataFrame(rows)).to_dict("records"))
    assert scope.together(sorted(scope.trained, key=str)).tier == "full"


def test_recipes_and_architectures_are_kept_apart():
    rows = [row("hydra", 300), row("lwm-layerwise", 200, recipe="other")]
    rows += [row("lwm-layerwise", 200, architecture="cnn-large")]
    assert claim(rows, "hydra-99").verdict == "not measured here"
    assert families(["a-short", "a-certified", "b", "c-certified"]) == {
        "a-short": ("a-certified", "a-short"),
        "b": ("b",),
        "c-certified": ("c-certified",),
    }


def test_few_combinations_of_architecture_and_recipes_are_looked_at():
    rows = [row("hydra", 300, recipe=f"r-{n}") for n in range(3)]
    rows.append(row("lwm-layerwise", 300, recipe="r-1"))
    found, more = scopes(rank(pd.DataFrame(rows)).to_dict("records"), most=2)
    assert [one.recipes for one in found] == [("r-1",), ("r-0",)] and more == 1
    rows += [row("hydra", 300, recipe=f"s-{n}") for n in range(9)]
    first = said(rows).sections[0]
    assert first.left_out == "6 smaller combinations of architecture and recipes."


# --- Where measures disagree ----------------------------------------------------------------------


def cell(*pairs, level=0.9, **changes):
    """Methods a, b, … with so many examples right under attack, and so many certified."""
    names = "abcdefgh"[: len(pairs)]
    return [
        row(name, attacked, level, measures={"certified": certified}, **changes)
        for name, (attacked, certified) in zip(names, pairs, strict=True)
    ]


def test_a_pair_that_both_measures_separate_and_order_otherwise_is_named():
    found = section(cell((300, 50), (200, 150)), "orders")
    [one] = found.findings
    # PGD orders them as AutoAttack does, so they are one pair, told once.
    assert one.title.endswith("1 pair reversed")
    summary, *pairs = one.sentences
    assert (
        "AutoAttack and certificate: tau-b −1.00, 1 of 1 pair separated, 1 of them" in summary.text
    )
    assert "PGD and AutoAttack: tau-b 1.00, 1 of 1 pair separated, none of them" in summary.text
    assert len(pairs) == 1
    assert "a is ahead of b under AutoAttack (+25.0 points" in pairs[0].text
    assert "behind it by certificate (−25.0 points" in pairs[0].text


def test_of_many_reversed_pairs_the_clearest_are_told_and_the_rest_counted(monkeypatch):
    monkeypatch.setattr(orders, "MOST_PAIRS", 2)
    [one] = section(cell((300, 50), (250, 100), (200, 150)), "orders").findings
    assert one.title.endswith("3 pairs reversed")
    _, first, _, rest = one.sentences
    assert first.text.startswith("a is ahead of c")
    assert rest.text == "1 more pair is ordered otherwise under AutoAttack than by certificate."
    assert len(rest.rows) == 2


def test_a_pair_that_one_measure_does_not_separate_is_not_named():
    [one] = section(cell((203, 50), (200, 150)), "orders").findings
    assert one.title.endswith("no separable disagreement")
    [summary] = one.sentences
    assert "1 reversed in the measured shares" in summary.text


def test_where_measures_agree_the_page_says_so():
    [one] = section(cell((300, 150), (200, 100), (100, 50)), "orders").findings
    [summary] = one.sentences
    assert "tau-b 1.00, 3 of 3 pairs separated, none of them reversed" in summary.text
    assert "measured shares" not in summary.text


def test_a_measure_that_tells_nobody_apart_has_no_tau():
    [one] = section(cell((300, 0), (200, 0)), "orders").findings
    assert "AutoAttack and certificate: one of them gives all methods the same" in (
        one.sentences[0].text
    )


def test_holm_counts_all_pairs_of_the_page():
    """9 discordant examples: p = 2/2^9 = 0.004, which 3 · 2 pairs leave and 3 · 20 do not."""
    few = cell((109, 50), (100, 59))
    many = [r for n in range(20) for r in cell((109, 50), (100, 59), level=0.9, recipe=f"r-{n}")]
    assert section(few, "orders").findings[0].title.endswith("reversed")
    found = section(many, "orders")
    assert all(one.title.endswith("no separable disagreement") for one in found.findings)


def test_only_methods_over_the_same_examples_meet():
    rows = cell((300, 50), (200, 150)) + cell((150, 20), (100, 60), examples=200, tier="quick")
    rows += [row("c", 100, 0.9, examples=200, tier="quick", measures={"certified": 10})]
    [one] = section(rows, "orders").findings
    assert one.sentences[0].text.startswith("3 methods on 200 examples (quick), seed 0.")


def test_a_page_of_orders_is_bounded(monkeypatch):
    monkeypatch.setattr(orders, "MOST_CELLS", 2)
    monkeypatch.setattr(orders, "MOST_METHODS", 2)
    rows = [r for n in range(3) for r in cell((300, 50), (200, 150), (100, 90), recipe=f"r-{n}")]
    found = section(rows, "orders")
    assert len(found.findings) == 2
    assert "2 cells with most methods are looked at, of 3" in found.left_out
    assert "2 most robust methods" in found.left_out
    assert found.findings[0].sentences[0].text.startswith("2 methods")


# --- What to use ----------------------------------------------------------------------------------


def advised(rows, level="90 %"):
    [found] = [one for one in section(rows, "advice").findings if one.title.startswith(level)]
    return [one.text for one in found.sentences]


def test_the_best_and_what_cannot_be_told_from_it_come_first():
    rows = cell((300, 200), (298, 100), (200, 50))
    robust, *others = advised(rows)
    assert robust.startswith("Most robust of 3 networks on 400 examples (full): a (adversarial")
    assert "75.0 % [" in robust and "Not told apart from it by the tests: b (" in robust
    assert "c (" not in robust
    [certified] = [text for text in others if text.startswith("Most certified")]
    assert "a (adversarial" in certified and "better than every other" in certified


def test_a_row_without_a_rank_is_never_recommended():
    rows = cell((300, 200), (200, 100))
    rows.append(row("liar", 390, 0.9, unrankable="zero-gradients at 31.0 %, tolerated 5.0 %"))
    said_ = advised(rows)
    assert "a (adversarial" in said_[0] and "liar" not in said_[0]
    assert said_[-1].startswith("Not considered, since flags cost them their rank: liar")
    assert not any("liar" in text for text in said_[:-1])


def kept_out(rows):
    return [text for text in advised(rows) if text.startswith("Not considered")]


def test_a_network_that_is_considered_is_not_said_to_be_left_out():
    """Its quick tier is flagged, but the full one is what was compared."""
    rows = cell((300, 200), (200, 100))
    quick = {"examples": 100, "tier": "quick", "unrankable": FLAG}
    rows.append(row("a", 90, 0.9, **quick))
    assert kept_out(rows) == []
    # Nor one that stands elsewhere and was flagged elsewhere.
    rows += [row("c", 300, 0.9, examples=200, tier="standard"), row("c", 90, 0.9, **quick)]
    assert kept_out(rows) == []
    # One that nothing stands for is, wherever it was flagged.
    rows.append(row("d", 90, 0.9, **quick))
    [text] = kept_out(rows)
    assert text == "Not considered, since flags cost them their rank: d (adversarial, digits-1)."


def test_of_a_setting_whose_other_seeds_stand_the_flagged_ones_are_named():
    rows = [r for seed in (0, 1, 2) for r in cell((300, 200), (200, 100), seed=seed)]
    rows[0]["unrankable"] = rows[4]["unrankable"] = rows[5]["unrankable"] = FLAG
    [text] = kept_out(rows)
    first, second = "seeds 0 and 2 of a (adversarial, digits-1)", "seed 2 of b"
    assert f"their rank: {first} and {second} (" in text


def test_a_network_that_its_largest_tier_flags_is_never_recommended():
    rows = cell((90, 20), (50, 40), examples=100, tier="quick")
    rows.append(row("a", 300, 0.9, unrankable=FLAG))
    first, *_ = advised(rows)
    assert first.startswith("The only network with a rank") and " is b (" in first
    assert kept_out(rows)[0].endswith("their rank: a (adversarial, digits-1).")


def test_who_is_left_out_is_said_by_outcome_where_that_differs():
    """Most networks have certificates on the quick examples alone, where one is flagged."""
    rows = cell((300, 200), (200, 100), (100, 50))
    for one in rows:
        del one["outcomes"]["certified"]
    quick = cell((90, 20), (50, 40), examples=100, tier="quick")
    quick[0]["unrankable"] = FLAG
    [text] = kept_out([*rows, *quick])
    assert text.startswith("Not considered for certified accuracy, since") and "a (" in text


def test_the_cheapest_of_the_first_group_is_named_with_ties():
    hours = {"a": 0.3, "b": 0.1, "c": 0.1, "d": 0.01}
    rights = {"a": 300, "b": 299, "c": 298, "d": 100}
    rows = [row(m, rights[m], 0.9, budget=(10, hours[m], "cpu")) for m in rights]
    [cheapest] = [text for text in advised(rows) if "cheapest" in text][:1]
    assert "the cheapest to train are, alike, b (" in cheapest and "c (" in cheapest
    assert "a (" not in cheapest and "d (" not in cheapest and "0.10 h" in cheapest
    rows[0] = row("a", 300, 0.9, budget=(10, 0.01, "gpu"))
    [cheapest] = [text for text in advised(rows) if "cheapest" in text][:1]
    assert "is not said" in cheapest
    # Hours that nobody knows are not few.
    rows[0] = row("a", 300, 0.9, budget=(0, 0.0, NOT_STATED))
    assert not any("cheapest" in text or " 0.00 h" in text for text in advised(rows))


def test_a_first_group_is_compared_once_more_on_more_examples():
    rows = cell((90, 10), (88, 10), (50, 10), examples=100, tier="quick")
    rows += cell((360, 40), (300, 40))
    first, second, *_ = advised(rows)
    assert first.startswith("Most robust of 3 networks on 100 examples (quick): a")
    assert second.startswith("Most robust of 2 networks on 400 examples (full): a")
    assert "better than every other" in second
    # With one of them missing there, nothing can be said.
    texts = advised(rows[:-1])
    assert not any("2 networks" in text for text in texts)


def test_what_is_kept_compares_with_the_dense_network_of_the_same_training():
    rows = [*cell((300, 200), (100, 50)), row("dense", 375, 0.0)]
    rows.append(row("dense", 100, 0.0, objective="trades"))
    [kept, *_] = [text for text in advised(rows) if "keeps" in text]
    assert "keeps 80.0 % [" in kept


def test_a_single_network_beats_nobody():
    robust, *_ = advised(cell((300, 200)))
    assert robust.startswith("The only network with a rank and a robust accuracy on 400 examples")
    assert "is a (" in robust and "75.0 % [" in robust
    # It is not the only one with a rank where others were evaluated on other examples.
    rows = [*cell((300, 200)), row("b", 90, 0.9, examples=100, tier="quick")]
    assert "with a rank is" not in advised(rows)[0]


def test_levels_without_rows_have_no_advice():
    found = section(cell((300, 200), (100, 50), level=0.95), "advice")
    assert [one.title for one in found.findings] == ["95 %, cnn-tiny"]


def test_advice_is_bounded(monkeypatch):
    monkeypatch.setattr(advice, "MOST_NETWORKS", 1)
    rows = cell((300, 200), (100, 50)) + cell((300, 200), architecture="cnn-large")
    found = section(rows, "advice")
    assert [one.title for one in found.findings] == ["90 %, cnn-tiny"]
    assert found.left_out.startswith("1 smaller")


# --- Every sentence -------------------------------------------------------------------------------


def everything():
    """Rows with something for each claim, cells that disagree, and flags."""
    generator = np.random.default_rng(7)
    rows = []
    methods = ("hydra", "lwm-layerwise", "lwm-global", "compact-robust", "atmc", "bap", "pwoa")
    methods += ("adversarial-gradual", "atmc:bits=8", "bap:end=0.2", "bap:end=0.4")
    methods += ("adversarial-gradual:end=0.2", "adversarial-gradual:end=0.4")
    for objective, seed in itertools.product(("adversarial", "crown-ibp", "smoothing"), (0, 1)):
        common = {"objective": objective, "seed": seed}
        rows.append(row("dense", 370, 0.0, **common))
        for method, level in itertools.product(methods, (0.75, 0.9, 0.95, 0.99)):
            right = int(generator.integers(120, 360))
            own = {"certified": (int(generator.integers(20, 120)), FORWARDS)}
            rows.append(row(method, right, level, measures=own, **common))
    rows[3]["unrankable"] = "zero-gradients at 31.0 %, tolerated up to 5.0 %"
    return rows


EVERYTHING = everything()


def test_the_frame_of_everything_measures_every_claim():
    verdicts = {one.key: one.verdict for one in said(EVERYTHING).sections[0].findings}
    assert set(verdicts) == {claim.key for claim in CLAIMS}
    assert "not measured here" not in verdicts.values()


@pytest.mark.parametrize("rows", [EVERYTHING, evidence_frame().to_dict("records")])
def test_every_sentence_names_checkpoints_that_are_there(rows):
    ids = {str(r["checkpoint_id"])[:300] for r in rows}
    sentences = list(said(rows).sentences)
    assert sentences
    for one in sentences:
        assert one.text and one.text.endswith(".")
        assert one.rows and len(set(one.rows)) == len(one.rows)
        assert set(one.rows) <= ids
        assert not re.search(r"\bnan\b|\binf\b|None", one.text)


MEASURED = ("robust", "best_known", "certified", "pgd", "autoattack", "smoothed")


def with_fewer(rows, ids):
    """Rows of which those named get only half of what they get right."""
    changed = []
    for one in rows:
        if str(one["checkpoint_id"]) in ids:
            found = dict(one["outcomes"])
            for name in MEASURED:
                right = np.flatnonzero(found[name])
                found[name] = np.isin(np.arange(len(found[name])), right[::2])
            share = float(found["robust"].mean())
            known = {"robust_accuracy": share, "best_known_accuracy": share}
            # Whatever is not counted from outcomes here comes from the frame.
            areas = {f"aer_{end}": one[f"aer_{end}"] / 2 for end in ("robustness", "low", "high")}
            one = {**one, "outcomes": found, **known, **areas}
        changed.append(one)
    return changed


def judged(rows, place):
    [scope], _ = scopes(rows)
    return CLAIMS[place].judge(scope)


def test_numbers_of_a_claim_come_from_its_rows_alone():
    rows = rank(pd.DataFrame(EVERYTHING)).to_dict("records")
    for place, claim_ in enumerate(CLAIMS):
        found = judged(rows, place)
        own = {name for one in found.sentences for name in one.rows}
        others = {str(r["checkpoint_id"]) for r in rows} - own
        assert judged(with_fewer(rows, others), place) == found
        for one in found.sentences:
            after = judged(with_fewer(rows, set(one.rows[:1])), place)
            # Budgets are of the manifest.
            changed = one.text not in [other.text for other in after.sentences]
            assert changed == (claim_.key != "pwoa-cost"), one.text


@pytest.mark.parametrize("made", [disagreements, recommendations])
def test_sentences_of_other_sections_change_with_their_rows(made):
    rows = rank(pd.DataFrame(EVERYTHING)).to_dict("records")
    for finding in made(rows).findings[:3]:
        for one in finding.sentences:
            # A number of pairs may stay what it was if a single row changes.
            changed = one.rows if "more pair" in one.text else one.rows[:1]
            after = made(with_fewer(rows, set(changed))).findings
            texts = [
                other.text
                for found in after
                if found.key == finding.key
                for other in found.sentences
            ]
            kept = one.text.startswith("Not considered")  # says who, and no number
            assert (one.text in texts) == kept, one.text


def test_there_is_nothing_to_say_without_a_pruned_network():
    rows = rank(pd.DataFrame([row("dense", 300, 0.0)])).to_dict("records")
    assert not worth(rows)
    assert worth(rank(pd.DataFrame([row("hydra", 300)])).to_dict("records"))
    # What is said nevertheless stands on its row.
    assert all(one.rows for one in findings(rows).sentences)
    assert findings([]).sections == ()
