"""Ranking: what shares a rank, what competes with what, and what cannot be ranked."""

import numpy as np
import pandas as pd
import pytest
from report_frame import board_frame, make_row

from benchmark.errors import ContractError
from benchmark.leaderboard import GRID, bucket, rank

N = 400


def nested(correct, order=None):
    """Outcomes in which the first `correct` examples of an order are robust, the others not."""
    order = np.arange(N) if order is None else order
    robust = np.zeros(N, dtype=bool)
    robust[order[:correct]] = True
    return {"clean": np.ones(N, dtype=bool), "robust": robust, "certified": np.zeros(N, dtype=bool)}


def entry(method, correct, sparsity=0.9, **changes):
    return make_row(method, sparsity, nested(correct), examples=N, **changes)


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


@pytest.mark.parametrize("changes", [{"recipe": "other"}, {"objective": "benign"}])
def test_controls_trained_in_another_way_do_not_count(changes):
    rows = [entry("hydra", 290)]
    for method, sparsity in (("dense", 0.0), ("random", 0.9), ("lwm-global", 0.9)):
        rows.append(entry(method, 200, sparsity, **changes))
    ranked = rank(pd.DataFrame(rows)).set_index("method")
    assert ranked.loc["hydra", "missing_controls"] == "dense, random, magnitude"


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


def test_rows_of_one_cell_over_different_examples_are_refused():
    short = entry("random", 200)
    short["outcomes"] = {name: values[:-1] for name, values in short["outcomes"].items()}
    with pytest.raises(ContractError, match="on the same examples"):
        rank(pd.DataFrame([short, entry("lwm-global", 300)]))
