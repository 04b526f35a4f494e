"""Ranking: what shares a rank, what competes with what, and what cannot be ranked."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from report_frame import board_frame, make_row

from benchmark.errors import ContractError
from benchmark.leaderboard import GRID, KEPT, bucket, compare, curves, rank, rankable
from benchmark.statistics import (
    area_under_curve,
    break_even,
    difference_interval,
    mcnemar_exact,
    seeds_interval,
    wilson,
)

N = 400


def nested(correct, order=None, best_known=None):
    """Outcomes in which the first `correct` examples of an order are robust, the others not."""
    order = np.arange(N) if order is None else order
    outcomes = {"index": np.arange(N), "clean": np.ones(N, dtype=bool)}
    counts = {"robust": correct, "best_known": correct if best_known is None else best_known}
    for name, count in {**counts, "certified": 0}.items():
        outcomes[name] = np.zeros(N, dtype=bool)
        outcomes[name][order[:count]] = True
    return outcomes


def entry(method, correct, sparsity=0.9, best_known=None, **changes):
    outcomes = nested(correct, best_known=best_known)
    return make_row(method, sparsity, outcomes, examples=N, **changes)


def plain(row):
    """A row as frames without challenges and sanity checks have it."""
    names = ("clean", "robust", "certified")
    known = {key: row[key] for key in row if key not in ("best_known_accuracy", "unrankable")}
    return {**known, "outcomes": {name: row["outcomes"][name] for name in names}}


def ranks(frame):
    ranked = rank(frame)
    return dict(zip(ranked["method"], ranked["rank"].tolist(), strict=True))


def test_a_lead_that_no_test_confirms_shares_the_first_rank():
    """5 discordant examples, all on one side: p = 2/2^5 = 0.0625, so the rows tie."""
    ranked = rank(pd.DataFrame([entry("random", 200), entry("lwm-global", 205)]))
    assert ranked["method"].tolist() == ["lwm-global", "random"]
    assert ranked["rank"].tolist() == [1, 1]
    assert ranked["tied_with_best"].tolist() == [True, True]
    assert ranked["p_best"][1] == pytest.approx(0.0625)
    assert ranked["rivals"].tolist() == [1, 1]
    assert np.isnan(ranked["p_best"][0])


def test_a_lead_that_a_test_confirms_does_not():
    """6 discordant examples, all on one side: p = 2/2^6 = 0.03125."""
    ranked = rank(pd.DataFrame([entry("random", 200), entry("lwm-global", 206)]))
    assert ranked["rank"].tolist() == [1, 2]
    assert ranked["tied_with_best"].tolist() == [False, False]


def test_holm_counts_the_tests_of_the_cell():
    """The same 6 examples with a second comparison: 2 · 0.03125 = 0.0625, so they tie again."""
    frame = pd.DataFrame(
        [entry("random", 200), entry("lwm-global", 206), entry("lwm-layerwise", 200)]
    )
    assert ranks(frame) == {"lwm-global": 1, "lwm-layerwise": 1, "random": 1}


def test_rows_below_count_everyone_above_and_equal_accuracies_share():
    rows = [entry("a", 300), entry("b", 299), entry("c", 200), entry("d", 200), entry("e", 100)]
    assert ranks(pd.DataFrame(rows)) == {"a": 1, "b": 1, "c": 3, "d": 3, "e": 5}


def test_a_tie_is_decided_by_pairs_not_by_accuracy():
    """Two points apart, but on disjoint examples: the test is paired and sees no difference."""
    first = make_row("a", 0.9, nested(210), examples=N)
    second = make_row("b", 0.9, nested(202, np.arange(N)[::-1]), examples=N)
    ranked = rank(pd.DataFrame([first, second]))
    assert ranked["rank"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "cnn-large"},
        {"structure": "filter"},
        {"tier": "quick"},
        {"protocol": "mnist-linf"},
        {"protocol_digest": "other"},
        {"sparsity": 0.99},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_rows_of_different_cells_do_not_compete(changes):
    other = entry("random", 50)
    other.update(changes)
    ranked = rank(pd.DataFrame([entry("lwm-global", 300), other]))
    assert ranked["rank"].tolist() == [1, 1]
    assert ranked["cell"].nunique() == 2
    assert not ranked["tied_with_best"].any()


def test_rows_over_other_pixels_do_not_compete():
    rows = [entry("lwm-global", 300), entry("random", 100, data_digest="other")]
    ranked = rank(pd.DataFrame(rows))
    assert ranked["rank"].tolist() == [1, 1]
    assert ranked["cell"].nunique() == 2


def test_dense_rows_compete_whatever_structure_they_are_filed_under():
    rows = [entry("dense", 300, 0.0), entry("dense", 100, 0.0, structure="filter", seed=1)]
    ranked = rank(pd.DataFrame(rows))
    assert ranked["rank"].tolist() == [1, 2]


def test_bucket_never_flatters():
    assert [bucket(grid) for grid in GRID] == list(GRID)
    assert bucket(0.9 - 1e-9) == 0.9
    assert bucket(0.8999) == 0.75
    assert bucket(0.97) == 0.95
    assert bucket(0.3) == 0.0
    assert bucket(1.0) == 0.99
    assert bucket(float("nan")) == 0.0


def test_rows_without_a_result_have_no_rank_and_stand_last():
    failed = make_row("lwm-global", 0.5, status="failed", reason="out of memory", examples=np.nan)
    unmeasured = entry("lwm-layerwise", 300)
    unmeasured["robust_accuracy"] = float("nan")
    ranked = rank(pd.DataFrame([failed, unmeasured, entry("random", 100)]))
    assert ranked["method"].tolist() == ["random", "lwm-global", "lwm-layerwise"]
    assert ranked["rank"].isna().tolist() == [False, True, True]
    assert ranked["rank"].dtype == "Int64"
    assert ranked["rivals"].tolist() == [0, 0, 0]


def test_missing_controls_are_named():
    rows = [
        entry("dense", 300, 0.0),
        entry("hydra", 290, 0.9),
        entry("random", 200, 0.9),
        entry("lwm-global", 250, 0.9),
        entry("hydra", 290, 0.95),
    ]
    ranked = rank(pd.DataFrame(rows)).set_index(["method", "sparsity"])
    assert not ranked.loc[("hydra", 0.9), "incomplete"]
    assert ranked.loc[("hydra", 0.95), "missing_controls"] == "random, magnitude"
    assert ranked.loc[("hydra", 0.95), "incomplete"]
    assert not ranked.loc[("dense", 0.0), "incomplete"]


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": "other"},
        {"objective": "benign"},
        {"architecture": "cnn-large"},
        {"tier": "quick"},
        {"protocol": "mnist-linf"},
        {"protocol_digest": "other"},
        {"data_digest": "other"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_controls_trained_or_measured_in_another_way_do_not_count(changes):
    rows = [entry("hydra", 290)]
    for method, sparsity in (("dense", 0.0), ("random", 0.9), ("lwm-global", 0.9)):
        rows.append(entry(method, 200, sparsity, **changes))
    ranked = rank(pd.DataFrame(rows)).set_index("method")
    assert ranked.loc["hydra", "missing_controls"] == "dense, random, magnitude"


def controlled(levels, **changes):
    """Returns dense, random and magnitude rows of one recipe at some sparsities."""
    rows = [entry("dense", 300, 0.0, **changes)]
    for level in levels:
        rows += [entry(method, 200, level, **changes) for method in ("random", "lwm-global")]
    return rows


def narrowness(rows):
    ranked = rank(pd.DataFrame(rows))
    return {(row.method, row.sparsity): row.narrow for row in ranked.itertuples()}


def test_three_controlled_sparsities_on_one_line_make_a_method_broad():
    rows = controlled((0.5, 0.9, 0.99))
    two = [*rows, *(entry("hydra", 290, level) for level in (0.9, 0.99))]
    found = narrowness(two)
    reason = "2 of 3 sparsities with all controls (90 %, 99 %; cnn-tiny, unstructured, adversarial)"
    assert found[("hydra", 0.9)] == found[("hydra", 0.99)] == reason
    assert {said for (method, _), said in found.items() if method != "hydra"} == {""}
    broad = [*two, entry("hydra", 290, 0.5), entry("hydra", 290, 0.95, objective="benign")]
    # One line is enough for all rows of the method, those without controls included.
    assert set(narrowness(broad).values()) == {""}
    # A sparsity counts as that of the grid at which it competes.
    assert narrowness([*two, entry("hydra", 290, 0.92)])[("hydra", 0.92)] == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"structure": "filter"},
        {"objective": "benign"},
        {"architecture": "cnn-large"},
        {"recipe": "other"},
        {"tier": "quick"},
        {"protocol": "mnist-linf"},
        {"unrankable": "softmax-output"},
        {"method": "hydra:start=benign"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_sparsities_of_several_lines_do_not_add_up(changes):
    rows = controlled((0.5, 0.9, 0.99))
    other = {key: value for key, value in changes.items() if key not in ("unrankable", "method")}
    if other:
        rows += controlled((0.5,), **other)
    rows += [entry("hydra", 290, level) for level in (0.9, 0.99)]
    rows.append(entry(changes.get("method", "hydra"), 290, 0.5, **other))
    if "unrankable" in changes:
        rows[-1]["unrankable"] = changes["unrankable"]
    assert narrowness(rows)[("hydra", 0.9)].startswith("2 of 3 sparsities")


def test_settings_are_part_of_a_method_and_its_sanity_controls_are_controls():
    rows = controlled((0.5, 0.9, 0.99))
    rows += [entry("hydra", 290, level) for level in (0.5, 0.9, 0.99)]
    rows += [entry("hydra:start=benign", 280), entry("shuffled-snip", 90), entry("snip", 210, 0.3)]
    found = narrowness(rows)
    assert found.pop(("snip", 0.3)) == "0 of 3 sparsities with all controls"
    assert set(found.values()) == {""}


def test_failed_controls_do_not_count():
    failed = make_row("random", 0.9, status="failed", reason="crash", examples=np.nan)
    rows = [entry("dense", 300, 0.0), entry("lwm-global", 250), failed]
    ranked = rank(pd.DataFrame(rows)).set_index("method")
    assert ranked.loc["lwm-global", "missing_controls"] == "random"


def test_order_is_independent_of_the_input_and_the_frame_is_left_alone():
    frame = board_frame()
    columns = list(frame.columns)
    ranked = rank(frame)
    shuffled = rank(frame.sample(frac=1.0, random_state=3))
    assert list(frame.columns) == columns
    keys = ["checkpoint_id", "tier", "rank", "cell"]
    pd.testing.assert_frame_equal(ranked[keys], shuffled[keys])
    assert ranked["tier"].tolist()[-1] == "quick"  # the larger tier leads


def test_ranking_twice_changes_nothing():
    ranked = rank(board_frame())
    keys = ["checkpoint_id", "rank", "cell", "tied_with_best", "incomplete"]
    pd.testing.assert_frame_equal(ranked[keys], rank(ranked)[keys])


def test_an_empty_frame_ranks_to_an_empty_frame():
    ranked = rank(board_frame().head(0))
    assert ranked.empty and "rank" in ranked.columns
    assert rank(pd.DataFrame()).empty


def test_a_finished_row_without_outcomes_is_refused():
    row = entry("random", 200)
    row["outcomes"] = {}
    with pytest.raises(ContractError, match="expected per-example robust outcomes of 'random/"):
        rank(pd.DataFrame([row, entry("lwm-global", 300)]))


def shorter(row):
    return {**row, "outcomes": {name: values[:-1] for name, values in row["outcomes"].items()}}


def moved(row):
    outcomes = row["outcomes"]
    return {**row, "outcomes": {**outcomes, "index": outcomes["index"] + (outcomes["index"] > 396)}}


def other_pixels(row):
    return {**row, "data_digest": "0" * 64}


REFUSED = [
    (shorter, "on the same examples, got 'lwm-global/.*' over 400 of .* over 399"),
    (moved, "on the same examples in the same order, got 3 of 400 that differ"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=["fewer", "others"])
def test_rows_of_one_cell_over_different_examples_are_refused(change, message):
    rows = [change(entry("random", 200)), entry("lwm-global", 300)]
    with pytest.raises(ContractError, match=message):
        rank(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [*REFUSED, (other_pixels, "over 400 of 00000000")],
    ids=["fewer", "others", "other pixels"],
)
def test_records_over_different_examples_are_not_compared(change, message):
    with pytest.raises(ContractError, match=message):
        compare(entry("lwm-global", 300), change(entry("random", 200)))


def test_a_comparison_is_paired_and_of_the_best_known():
    first, second = entry("a", 300, best_known=280), entry("b", 250)
    found = compare(first, second)
    known = first["outcomes"]["best_known"], second["outcomes"]["best_known"]
    assert found.p == mcnemar_exact(*known) < 1e-8
    assert found.difference == difference_interval(*known)
    assert found.difference.value == 30 / N


def test_rows_compete_whatever_their_recipe():
    ranked = rank(pd.DataFrame([entry("a", 300), entry("b", 200, recipe="other")]))
    assert ranked["rank"].tolist() == [1, 2] and ranked["cell"].nunique() == 1


def test_places_are_those_of_the_best_known():
    """Attacked alone `a` leads; a challenge left it with less than `b`."""
    rows = [entry("a", 300, best_known=200), entry("b", 250), entry("c", 249)]
    ranked = rank(pd.DataFrame(rows)).set_index("method")
    assert ranked["rank"].to_dict() == {"a": 3, "b": 1, "c": 1}
    assert ranked["tied_with_best"].to_dict() == {"a": False, "b": True, "c": True}


def test_an_old_frame_has_the_places_of_its_robust_outcomes():
    rows = [entry("a", 300), entry("b", 299), entry("c", 200), entry("dense", 320, 0.0)]
    columns = ["rank", "rank_low", "rank_high", "p_best", "gain", "seed_low", "incomplete"]
    new, old = (rank(pd.DataFrame(f)) for f in (rows, [plain(row) for row in rows]))
    pd.testing.assert_frame_equal(new[columns], old[columns])
    # One frame may hold both kinds: the missing column of the old rows is NaN there.
    mixed = rank(pd.DataFrame([*rows[:2], *(plain(row) for row in rows[2:])]))
    pd.testing.assert_frame_equal(new[columns], mixed[columns])


def test_an_unrankable_row_has_no_place_and_helps_nobody_to_one():
    flagged = {"unrankable": "zero-gradients at 31.0 %, tolerated up to 5.0 %"}
    rows = [
        entry("hydra", 290),
        entry("random", 200),
        entry("lwm-global", 395, **flagged),
        entry("dense", 395, 0.0, **flagged),
    ]
    ranked = rank(pd.DataFrame(rows)).set_index("method")
    assert ranked["rank"].isna().to_dict() == {
        "hydra": False,
        "random": False,
        "lwm-global": True,
        "dense": True,
    }
    assert ranked.loc["hydra", "rank"] == 1 and ranked.loc["hydra", "rivals"] == 1
    assert ranked.loc["hydra", "missing_controls"] == "dense, magnitude"
    assert ranked.loc["hydra", "gain_over"] == "" and math.isnan(ranked.loc["hydra", "gain"])
    assert ranked.loc["lwm-global", "seeds"] == 0
    assert math.isnan(ranked.loc["lwm-global", "seed_mean"])
    assert [rankable(row) for row in rows] == [True, True, False, False]
    assert ranked.index.tolist()[-2:] == ["dense", "lwm-global"]


def test_rank_intervals_hold_the_rank_and_widen_with_ties():
    rows = [entry("a", 300), entry("b", 299), entry("c", 200), entry("d", 199), entry("e", 90)]
    ranked = rank(pd.DataFrame(rows)).set_index("method")
    assert ranked["rank_low"].to_dict() == {"a": 1, "b": 1, "c": 3, "d": 3, "e": 5}
    assert ranked["rank_high"].to_dict() == {"a": 2, "b": 2, "c": 4, "d": 4, "e": 5}
    assert ranked["rank_low"].dtype == ranked["rank_high"].dtype == "Int64"


def test_a_rank_never_lies_outside_its_interval():
    ranked = rank(board_frame())
    ranked = ranked[ranked["rank"].notna()]
    assert (ranked["rank_low"] <= ranked["rank"]).all()
    assert (ranked["rank"] <= ranked["rank_high"]).all()
    # Six examples: the exact test parts the rows, the bootstrap by itself does not.
    pair = rank(pd.DataFrame([entry("random", 200), entry("lwm-global", 206)]))
    assert pair["rank"].tolist() == [1, 2]
    assert pair["rank_high"].tolist() == [2, 2] and pair["rank_low"].tolist() == [1, 1]
    # Eight, and eleven equal rivals: Holm counts eleven tests, the bootstrap sees only one.
    rows = [entry("best", 208), *(entry(f"m{number}", 200) for number in range(11))]
    equal = rank(pd.DataFrame(rows))
    assert equal["rank"].tolist() == equal["rank_low"].tolist() == [1] * 12
    assert equal["rank_high"].tolist() == [1] + [12] * 11


def borderline(structure):
    """Two rows that one in two draws parts: 49 examples won by the first, 30 by the second."""
    second = nested(0)
    for name in ("robust", "best_known"):
        second[name][49:79] = True
    changes = {"structure": structure, "examples": N}
    return [make_row("a", 0.9, nested(49), **changes), make_row("b", 0.9, second, **changes)]


def test_rank_intervals_do_not_depend_on_the_rest_of_the_board():
    structures = [f"structure-{number}" for number in range(12)]
    cells = {structure: borderline(structure) for structure in structures}
    ends = {}
    for order in (structures, structures[::-1]):
        frame = pd.DataFrame([row for structure in order for row in cells[structure]])
        ranked = rank(frame).sort_values(["structure", "method"])
        ends[order[0]] = ranked["rank_low"].tolist()
    first, second = ends.values()
    assert first == second
    # Cells have draws of their own, so that not all of them fall on one side.
    assert set(first[1::2]) == {1, 2}
    for number, structure in enumerate(sorted(structures)):
        alone = rank(pd.DataFrame(cells[structure][::-1])).sort_values("method")
        assert alone["rank_low"].tolist() == first[2 * number : 2 * number + 2]


def test_gains_are_over_the_better_magnitude_control():
    rows = [entry("hydra", 290), entry("lwm-global", 250), entry("lwm-layerwise", 270)]
    ranked = rank(pd.DataFrame([*rows, entry("random", 200)])).set_index("method")
    expected = difference_interval(*(row["outcomes"]["best_known"] for row in (rows[0], rows[2])))
    assert ranked.loc["hydra", "gain_over"] == rows[2]["checkpoint_id"]
    assert ranked.loc["hydra", "gain"] == expected.value == 20 / N
    assert ranked.loc["hydra", "gain_low"] == expected.low > 0
    assert ranked.loc["hydra", "gain_high"] == expected.high
    assert ranked.loc["lwm-global", "gain"] == -20 / N
    assert ranked.loc["random", "gain_high"] < 0
    # The control itself has none, not a gain of zero that looks measured.
    assert math.isnan(ranked.loc["lwm-layerwise", "gain"])
    assert ranked.loc["lwm-layerwise", "gain_over"] == ""


def test_gains_are_over_the_control_of_the_same_seed_if_there_is_one():
    rows = [entry("hydra", 290, seed=seed) for seed in (0, 1, 2)]
    rows += [entry("lwm-global", 250 + 10 * seed, seed=seed) for seed in (0, 1)]
    ranked = rank(pd.DataFrame(rows)).set_index(["method", "seed"])
    assert ranked.loc[("hydra", 0), "gain"] == 40 / N
    assert ranked.loc[("hydra", 1), "gain"] == 30 / N
    assert ranked.loc[("hydra", 2), "gain_over"] == rows[4]["checkpoint_id"]


@pytest.mark.parametrize(
    "changes", [{"recipe": "other"}, {"objective": "benign"}, {"sparsity": 0.95}, {"tier": "quick"}]
)
def test_gains_need_a_control_trained_alike_in_the_same_cell(changes):
    control = {**entry("lwm-global", 250), **changes}
    ranked = rank(pd.DataFrame([entry("hydra", 290), control])).set_index("method")
    assert math.isnan(ranked.loc["hydra", "gain"]) and ranked.loc["hydra", "gain_over"] == ""


def test_seeds_of_a_setting_are_told_together():
    rows = [entry("hydra", 280 + 10 * seed, seed=seed) for seed in range(3)]
    rows += [entry("hydra", 100, seed=3, recipe="other"), entry("hydra", 100, 0.93, seed=3)]
    rows += [entry("hydra", 390, seed=4, unrankable="dynamic forward")]
    ranked = rank(pd.DataFrame(rows)).set_index(["recipe", "sparsity", "seed"])
    expected = seeds_interval(np.stack([row["outcomes"]["best_known"] for row in rows[:3]]))
    for seed in (0, 1, 2, 4):
        row = ranked.loc[("digits-1", 0.9, seed)]
        assert row["seeds"] == 3
        assert row["seed_mean"] == pytest.approx(290 / N) == expected.mean
        assert row["seed_spread"] == pytest.approx(10 / N)
        assert (row["seed_low"], row["seed_high"]) == (expected.low, expected.high)
    alone = ranked.loc[("other", 0.9, 3)]
    assert alone["seeds"] == 1 and math.isnan(alone["seed_spread"])
    assert (alone["seed_low"], alone["seed_high"]) == pytest.approx(wilson(100, N), abs=1e-12)


def curve_rows(method="hydra", counts=(290, 280, 240, 100), **changes):
    return [
        entry(method, count, sparsity, **changes)
        for sparsity, count in zip((0.5, 0.75, 0.9, 0.99), counts, strict=True)
    ]


def test_a_curve_starts_at_the_dense_network():
    rows = [entry("dense", 300, 0.0), *curve_rows()]
    (line,) = curves(pd.DataFrame(rows[::-1])).to_dict("records")
    outcomes = np.stack([row["outcomes"]["best_known"] for row in rows])
    levels = [0.0, 0.5, 0.75, 0.9, 0.99]
    area, kept = area_under_curve(levels, outcomes), break_even(levels, outcomes, KEPT)
    assert line["levels"] == levels and line["examples"] == N
    assert (line["method"], line["structure"], line["seed"]) == ("hydra", "unstructured", 0)
    assert (line["area"], line["area_low"], line["area_high"]) == (area.value, area.low, area.high)
    assert line["kept_share"] == 0.9
    # 270 of 400 is nine tenths of 300: a quarter of the way from 280 to 240.
    assert line["kept_sparsity"] == pytest.approx(0.75 + 0.15 / 4)
    assert (line["kept_low"], line["kept_high"]) == (kept.low, kept.high)
    assert not line["kept_at_least"]


def test_a_curve_that_keeps_its_accuracy_says_at_least():
    rows = [entry("dense", 300, 0.0), *curve_rows(counts=(300, 299, 298, 297))]
    (line,) = curves(pd.DataFrame(rows)).to_dict("records")
    assert line["kept_sparsity"] == 0.99 and line["kept_at_least"]


def test_each_setting_and_seed_has_its_curve():
    rows = []
    for seed in (0, 1):
        rows += [entry("dense", 300, 0.0, seed=seed), *curve_rows(seed=seed)]
    rows += [*curve_rows("random"), *curve_rows(structure="filter")]
    rows += [entry("dense", 200, 0.0, objective="benign"), *curve_rows(objective="benign")]
    rows += curve_rows(recipe="other")
    found = curves(pd.DataFrame(rows)).set_index(
        ["recipe", "objective", "seed", "structure", "method"]
    )
    assert len(found) == 6
    assert found["area"].isna().sum() == 1
    assert math.isnan(found.loc[("other", "adversarial", 0, "unstructured", "hydra"), "area"])
    # The benign parent got 200 right, of which the same rows keep nine tenths for longer.
    kept = found.xs(("unstructured", "hydra"), level=["structure", "method"])["kept_sparsity"]
    assert kept[("digits-1", "benign", 0)] > kept[("digits-1", "adversarial", 0)]


@pytest.mark.parametrize("missing", ["dense", "pruned", "unrankable", "other seed", "failed"])
def test_a_curve_without_its_start_or_its_levels_is_unknown(missing):
    dense, pruned = entry("dense", 300, 0.0), curve_rows()
    failed = make_row("dense", 0.0, status="failed", reason="crash", examples=np.nan)
    rows = {
        "dense": pruned,
        "pruned": [dense],
        "unrankable": [{**dense, "unrankable": "dynamic forward"}, *pruned],
        "other seed": [{**dense, "seed": 1}, *pruned],
        "failed": [failed, *pruned],
    }[missing]
    found = curves(pd.DataFrame(rows))
    assert found[["area", "area_low", "kept_sparsity", "kept_high"]].isna().all(axis=None)
    assert not found["kept_at_least"].any()
    assert len(found) == (0 if missing == "pruned" else 1)
    assert "area" in found.columns


def test_no_rows_make_no_curves():
    assert curves(pd.DataFrame()).empty
    assert "kept_at_least" in curves(board_frame().head(0)).columns


def test_a_curve_over_different_examples_is_refused():
    rows = [entry("dense", 300, 0.0), *(moved(row) for row in curve_rows())]
    with pytest.raises(ContractError, match="in the same order, got 3 of 400 that differ"):
        curves(pd.DataFrame(rows))


def test_a_large_board_is_ranked_in_seconds():
    """200 rows over 10,000 examples in five cells; a bootstrap by loops would take minutes."""
    generator = np.random.default_rng(0)
    index, difficulty = np.arange(10_000), generator.random(10_000)
    rows = []
    for place in range(200):
        row = entry(f"m{place // 5}", 0, (0.5, 0.75, 0.9, 0.95, 0.99)[place % 5])
        robust = difficulty + 0.1 * generator.standard_normal(10_000) < 0.3 + 0.002 * place
        row["outcomes"] = {"index": index, "robust": robust}
        rows.append({**row, "robust_accuracy": robust.mean(), "examples": 10_000})
    frame = pd.DataFrame(rows).drop(columns="best_known_accuracy")
    start = time.process_time()
    ranked = rank(frame)
    assert time.process_time() - start < 10  # twice what a slow core needs
    assert (ranked["rivals"] == 39).all()
