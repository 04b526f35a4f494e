"""Comparison: hand-computed tables, an independent McNemar, and what must hold for any rows."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_frame import board_frame, evidence_frame, make_row, outcomes_of
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar

from benchmark.comparison import (
    COSTS,
    adjusted,
    by_processor,
    head_to_head,
    ladders,
    pairs,
    pareto,
    security_curves,
    winner,
)
from benchmark.errors import ContractError
from benchmark.leaderboard import best_known, curves, rank
from benchmark.statistics import Estimate, seeds_interval, wilson

INDEX = np.array([7, 3, 11, 5, 2, 19, 13, 1])


def outcomes(right, index=INDEX, certified=None):
    right = np.asarray(right, dtype=bool)
    proven = np.zeros_like(right) if certified is None else np.asarray(certified, dtype=bool)
    clean = np.ones_like(right)
    return {"index": index, "clean": clean, "robust": right, "certified": proven}


def row(name, right, sparsity=0.9, index=INDEX, certified=None, **changes):
    return make_row(
        name, sparsity, outcomes(right, index, certified), examples=len(right), **changes
    )


def costing(name, right, **changes):
    """Of 100 examples the first are right."""
    known = np.arange(100) < right
    return row(name, known, index=np.arange(100), **changes)


def ranked(rows):
    return rank(pd.DataFrame(rows)).to_dict("records")


# --- Two rows -------------------------------------------------------------------------------------


def test_the_table_of_two_rows_by_hand() -> None:
    first = row("a", [1, 1, 1, 0, 0, 1, 0, 1])
    second = row("b", [1, 0, 0, 1, 0, 1, 0, 0])
    found = head_to_head(first, second)
    # Right in both: positions 0 and 5; first alone: 1, 2, 7; second alone: 3; neither: 4, 6.
    assert (found.both, found.only_first, found.only_second, found.neither) == (2, 3, 1, 2)
    assert (found.first_wins, found.second_wins) == ((3, 11, 1), (5,))
    assert found.difference.value == 2 / 8
    # Four fair coins, three or more on one side: 2 · (4 + 1) / 16.
    assert found.p == pytest.approx(0.625)
    assert (found.examples, winner(found, found.p)) == (8, "")


def test_challenges_count_in_a_table() -> None:
    first = row("a", [1] * 8)
    first["outcomes"]["best_known"] = np.array([False] * 3 + [True] * 5)
    found = head_to_head(first, row("b", [1] * 8))
    assert (found.only_first, found.only_second, found.second_wins) == (0, 3, (7, 3, 11))


def test_the_winner_is_who_wins_more_and_only_if_a_test_says_so() -> None:
    better = head_to_head(row("a", [1] * 8), row("b", [1, 1, 0, 0, 0, 0, 0, 0]))
    assert better.p == pytest.approx(2 / 2**6)
    assert winner(better, better.p) == "first"
    assert winner(better.mirrored(), better.p) == "second"
    # Holm: of two such tests the smaller p counts twice.
    assert adjusted([better, better]) == pytest.approx((4 / 2**6, 4 / 2**6))
    assert winner(better, adjusted([better, better])[0]) == ""


bits = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(bits)
def test_any_table_sums_mirrors_and_agrees_with_two_other_mcnemars(pairs_of_bits) -> None:
    ours, theirs = (list(one) for one in zip(*pairs_of_bits, strict=True))
    index = np.arange(len(ours))
    first, second = row("a", ours, index=index), row("b", theirs, index=index)
    found, mirror = head_to_head(first, second), head_to_head(second, first)
    assert found.both + found.only_first + found.only_second + found.neither == len(ours)
    assert found.examples == len(ours)
    assert found.both + found.only_first == sum(ours)
    assert found.difference.value == pytest.approx((sum(ours) - sum(theirs)) / len(ours))
    assert found.difference.low <= found.difference.value <= found.difference.high
    assert mirror == found.mirrored()
    assert found.mirrored().mirrored() == found
    assert set(found.first_wins) == {n for n in index if ours[n] and not theirs[n]}
    assert set(found.second_wins) == {n for n in index if theirs[n] and not ours[n]}
    table = [[found.both, found.only_first], [found.only_second, found.neither]]
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    differ = found.only_first + found.only_second
    assert found.p == pytest.approx(
        binomtest(found.only_first, max(1, differ)).pvalue if differ else 1
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": "mnist-linf"}, "one protocol"),
        ({"protocol_digest": "other"}, "one protocol digest"),
        ({"tier": "quick"}, "one tier"),
        ({"data_digest": "other"}, "same examples"),
        ({"index": INDEX[::-1].copy()}, "same examples"),
        ({"outcomes": {}}, "evaluate it again"),
    ],
)
def test_rows_that_are_not_paired_are_refused_in_one_line(changes, said) -> None:
    index = changes.pop("index", INDEX)
    other = {**row("b", [1] * 8, index=index), **changes}
    with pytest.raises(ContractError, match=said) as refusal:
        head_to_head(row("a", [1] * 8), other)
    assert "\n" not in str(refusal.value)


def test_rows_over_fewer_examples_are_refused() -> None:
    with pytest.raises(ContractError, match="over 8 .* over 4"):
        head_to_head(row("a", [1] * 8), row("b", [1] * 4, index=INDEX[:4]))


def test_methods_meet_at_common_sparsities_and_by_seed() -> None:
    ours = [row("a", [1] * 8, s, seed=seed) for s in (0.99, 0.5, 0.9) for seed in (1, 0)]
    theirs = [row("b", [1] * 8, s, seed=seed) for s in (0.9, 0.95, 0.99) for seed in (0, 2)]
    met = [(a["sparsity"], a["seed"], b["seed"]) for a, b in pairs(ours, theirs)]
    assert met == [(0.9, 0, 0), (0.99, 0, 0)]
    # Seeds 1 and 2 have none in common: the lowest of each meet.
    others = [one for one in theirs if one["seed"] == 2]
    met = [(a["sparsity"], a["seed"], b["seed"]) for a, b in pairs(ours, others)]
    assert met == [(0.9, 0, 2), (0.99, 0, 2)]


def test_a_single_row_meets_every_level_where_none_is_common() -> None:
    dense, ours = row("dense", [1] * 8, 0.0), [row("a", [1] * 8, s) for s in (0.9, 0.5)]
    assert [b["sparsity"] for _, b in pairs([dense], ours)] == [0.5, 0.9]
    assert [a["sparsity"] for a, _ in pairs(ours, [dense])] == [0.5, 0.9]
    assert [b["sparsity"] for _, b in pairs([row("b", [1] * 8, 0.9)], ours)] == [0.9]
    assert pairs(ours, [row("b", [1] * 8, s) for s in (0.75, 0.95)]) == []


# --- Fronts ---------------------------------------------------------------------------------------


def names(rows):
    return [one["method"] for one in rows]


def test_a_front_by_hand() -> None:
    rows = [
        costing("small", 40, bytes_stored=10),
        costing("middle", 60, bytes_stored=20),
        costing("wasteful", 60, bytes_stored=21),
        costing("worse", 59, bytes_stored=20),
        costing("large", 61, bytes_stored=30),
        costing("larger", 50, bytes_stored=40),
    ]
    assert names(pareto(rows, "bytes_stored")) == ["small", "middle", "large"]
    assert names(pareto(rows[::-1], "bytes_stored")) == ["small", "middle", "large"]
    assert pareto([], "bytes_stored") == []


def test_equal_rows_stay_together_and_what_is_not_known_stays_out() -> None:
    rows = [
        costing("b", 60, bytes_stored=20),
        costing("a", 60, bytes_stored=20),
        costing("unknown", 99, bytes_stored=math.nan),
        costing("failed", 99, bytes_stored=1, status="failed"),
        costing("doubtful", 99, bytes_stored=1, unrankable="zero-gradients at 31.0 %"),
        costing("unmeasured", 99, bytes_stored=1, robust_accuracy=math.nan),
    ]
    assert names(pareto(rows, "bytes_stored")) == ["a", "b"]


def test_challenges_move_a_front() -> None:
    broken = costing("broken", 90, bytes_stored=10, best_known_accuracy=0.5)
    assert names(pareto([broken, costing("a", 60, bytes_stored=20)], "bytes_stored")) == [
        "broken",
        "a",
    ]


def test_latencies_of_two_processors_make_no_front() -> None:
    slow = costing("slow", 60, latency_compact=2.0, latency_processor="old")
    fast = costing("fast", 60, latency_compact=1.0, latency_processor="new")
    none = costing("none", 60, latency_compact=math.nan, latency_processor="")
    with pytest.raises(ContractError, match="one processor, got those of new, old"):
        pareto([slow, fast], "latency_compact")
    groups = by_processor([slow, none, fast])
    assert {name: names(rows) for name, rows in groups.items()} == {
        "new": ["fast"],
        "old": ["slow"],
    }
    assert names(pareto([slow, none], "latency_compact")) == ["slow"]


def test_a_front_is_of_one_board_and_a_known_cost() -> None:
    with pytest.raises(ContractError, match="one board"):
        pareto([costing("a", 60), costing("b", 60, tier="quick")], "bytes_stored")
    with pytest.raises(ContractError, match="bytes_stored, .* got 'price'"):
        pareto([], "price")


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.one_of(st.integers(0, 5), st.just(math.nan))), max_size=12
    ),
    st.sampled_from(COSTS),
)
def test_nothing_on_a_front_is_beaten_and_all_else_is(points, cost) -> None:
    rows = [
        costing(f"m{n}", 10 * right, **{cost: float(price)})
        for n, (right, price) in enumerate(points)
    ]
    front = pareto(rows, cost)
    known = [one for one in rows if not math.isnan(one[cost])]

    def beats(a, b):
        better = (best_known(a) >= best_known(b), a[cost] <= b[cost])
        strictly = best_known(a) > best_known(b) or a[cost] < b[cost]
        return all(better) and strictly

    expected = {one["method"] for one in known if not any(beats(a, one) for a in known)}
    assert set(names(front)) == expected
    assert len(front) == len(expected)
    assert [one[cost] for one in front] == sorted(one[cost] for one in front)


# --- Along sparsity -------------------------------------------------------------------------------


def board():
    return {ladder.method: ladder for ladder in ladders(ranked(board_rows()))}


def board_rows():
    rows = [row for row in board_frame().to_dict("records") if row["tier"] == "full"]
    return [row for row in rows if row["objective"] == "adversarial"]


def test_a_ladder_repeats_what_the_frame_says() -> None:
    found = board()
    frame = rank(pd.DataFrame(board_rows()))
    lines = curves(frame).set_index("method")
    assert list(found) == ["dense", "lwm-global", "lwm-layerwise", "random"]
    for method in ("lwm-global", "lwm-layerwise", "random"):
        ladder, line = found[method], lines.loc[method]
        assert ladder.levels == tuple(line["levels"])
        assert ladder.area == Estimate(line["area"], line["area_low"], line["area_high"])
        assert ladder.kept.value == line["kept_sparsity"]
        assert ladder.dense == found["dense"].rungs[0]
        for rung in ladder.rungs:
            one = frame[(frame["method"] == method) & (frame["sparsity"] == rung.sparsity)].iloc[0]
            share, examples = one["robust_accuracy"], int(one["examples"])
            assert rung.robust == Estimate(share, *wilson(round(share * examples), examples))
            assert rung.gain.value == one["gain"] or math.isnan(one["gain"])
            assert (rung.seeds, rung.examples) == ((0,), examples)


def test_a_level_that_failed_is_no_rung() -> None:
    assert [rung.sparsity for rung in board()["random"].rungs] == [0.5, 0.75, 0.95, 0.99]


def test_certified_accuracy_that_is_not_known_is_not_guessed() -> None:
    ladder = board()["lwm-layerwise"]
    unknown = [rung.sparsity for rung in ladder.rungs if math.isnan(rung.certified.value)]
    assert unknown == [0.9]
    assert all(r.certified.value <= r.robust.value for r in ladder.rungs if r.sparsity != 0.9)


def test_seeds_of_a_level_stand_on_one_rung() -> None:
    rows = [row for row in ranked(evidence_frame().to_dict("records")) if row["tier"] == "full"]
    ladder = next(
        one for one in ladders(rows) if (one.method, one.objective) == ("lwm-global", "adversarial")
    )
    rung = next(one for one in ladder.rungs if one.sparsity == 0.9)
    assert rung.seeds == (0, 1, 2)
    together = seeds_interval(np.stack([one["outcomes"]["best_known"] for one in rung.rows]))
    assert rung.robust == Estimate(together.mean, together.low, together.high)
    # Gains of seeds: their mean, and the hull of their intervals.
    gains = [one["gain"] for one in rung.rows if not math.isnan(one["gain"])]
    lows = [one["gain_low"] for one in rung.rows if not math.isnan(one["gain"])]
    assert (
        rung.gain.value == pytest.approx(np.mean(gains)) if gains else math.isnan(rung.gain.value)
    )
    assert not lows or rung.gain.low == min(lows)


def test_gains_of_several_seeds_are_averaged_within_a_hull() -> None:
    index = np.arange(100)
    rows = []
    for seed, (right, control) in enumerate([(60, 50), (80, 50)]):
        rows.append(costing("a", right, seed=seed))
        rows.append(costing("lwm-global", control, seed=seed))
    ladder = next(one for one in ladders(ranked(rows)) if one.method == "a")
    alone = [one for one in ranked(rows) if one["method"] == "a"]
    gain = ladder.rungs[0].gain
    assert gain.value == pytest.approx((0.1 + 0.3) / 2)
    assert gain.low == min(one["gain_low"] for one in alone)
    assert gain.high == max(one["gain_high"] for one in alone)
    assert len(index) == ladder.rungs[0].examples


def test_areas_of_seeds_are_averaged_over_the_same_levels_alone() -> None:
    rows = []
    for seed in (0, 1):
        rows += [costing("dense", 80, sparsity=0.0, seed=seed)]
        rows += [costing("a", 70 - 20 * seed, sparsity=0.5, seed=seed)]
    rows.append(costing("a", 10, sparsity=0.9, seed=0))
    rows += [costing("dense", 80, sparsity=0.0, seed=2), costing("a", 60, sparsity=0.9, seed=2)]
    ladder = next(one for one in ladders(ranked(rows)) if one.method == "a")
    lines = curves(pd.DataFrame(rows))
    assert ladder.levels == (0.0, 0.5, 0.9)
    assert ladder.area.value == lines["area"][0]
    both = [one for one in rows if one["seed"] < 2 and one["sparsity"] < 0.9]
    ladder = next(one for one in ladders(ranked(both)) if one.method == "a")
    assert ladder.area.value == pytest.approx((0.75 + 0.65) / 2)


def test_unrankable_rows_are_named_and_do_not_count() -> None:
    rows = [costing("a", 70, sparsity=0.5), costing("a", 60, sparsity=0.9)]
    rows[1]["unrankable"] = "zero-gradients at 31.0 %"
    (ladder,) = ladders(ranked(rows))
    assert [rung.sparsity for rung in ladder.rungs] == [0.5]
    assert [one["sparsity"] for one in ladder.left_out] == [0.9]
    assert ladder.dense is None
    assert math.isnan(ladder.area.value)
    assert not ladder.kept_at_least


def test_ladders_of_nothing() -> None:
    assert ladders([]) == []
    assert ladders([make_row(status="failed")]) == []


def test_settings_make_ladders_of_their_own() -> None:
    rows = [
        costing("a", 60),
        costing("a", 60, objective="benign"),
        costing("a", 60, structure="filter"),
        costing("a", 60, recipe="other"),
        costing("a", 60, architecture="cnn-large"),
        costing("a", 60, tier="quick"),
        costing("dense", 60, sparsity=0.0),
        costing("dense", 50, sparsity=0.0, structure="filter", seed=1),
    ]
    found = ladders(ranked(rows))
    assert len(found) == 7
    (dense,) = (one for one in found if one.method == "dense")
    assert (dense.structure, dense.rungs[0].seeds) == ("dense", (0, 1))


# --- Along epsilon --------------------------------------------------------------------------------


def test_a_security_curve_has_both_accuracies_from_clean_on() -> None:
    one = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)))
    (curve,) = security_curves([one])
    assert (curve.norm, curve.own) == ("Linf", "3/16")
    for points in (curve.attacked, curve.certified):
        assert [point.printed for point in points] == ["0", "1/16", "1/8", "3/16", "1/4"]
        assert points[0].accuracy.value == one["clean_accuracy"]
        assert all(p.accuracy.low <= p.accuracy.value <= p.accuracy.high for p in points)
    own = curve.attacked[3].accuracy
    assert own == Estimate(own.value, *wilson(round(own.value * 594), 594))
    assert all(
        c.accuracy.value <= a.accuracy.value
        for a, c in zip(curve.attacked, curve.certified, strict=True)
    )


def test_challenges_lower_a_security_curve_from_the_protocols_epsilon_on() -> None:
    one = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0), best_known=0.3))
    (curve,) = security_curves([one])
    shares = [point.accuracy.value for point in curve.attacked]
    assert shares[2] > 0.5
    assert shares[3] == one["best_known_accuracy"] == pytest.approx(0.3, abs=0.001)
    assert shares[4] <= shares[3]


def test_rows_without_a_curve_have_none() -> None:
    one = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)))
    bare = [{**one, "curve": empty, "certified_curve": math.nan} for empty in ([], None, math.nan)]
    assert security_curves([*bare, make_row(status="failed")]) == []
    (curve,) = security_curves([{**one, "certified_curve": []}])
    assert curve.certified == ()
