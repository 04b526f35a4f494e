"""The site: what it says, what it never says, its links, its bytes, its files."""

import ast
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_frame import (
    CHALLENGES,
    EXAMPLES,
    HOSTILE,
    board_frame,
    evidence_frame,
    make_row,
    other_pages,
    outcomes_of,
    protocol_page,
    strip_of,
)
from scipy.stats import beta

from benchmark.errors import InvariantViolation, StorageError, UnknownName
from benchmark.leaderboard import curves as leaderboard_curves
from benchmark.leaderboard import rank
from benchmark.report import AttackColumn, render
from benchmark.report.columns import COLUMNS
from benchmark.report.curves import Chart, Line, charts, point, security_curve, summaries
from benchmark.report.details import checkpoint
from benchmark.report.evidence import evidence
from benchmark.report.figures import (
    ATTACKED,
    FRAME,
    GRID,
    INK,
    PROVEN,
    SERIES,
    darkened,
    draw_chart,
    draw_security_curve,
    spread,
)
from benchmark.report.images import FRAME_GREY, GAP, SIDE, columns, draw
from benchmark.report.papers import triples
from benchmark.report.shares import counted, exact, fraction, gain, interval, same_epsilon
from benchmark.report.site import LISTING, Job, claimed, environment
from benchmark.report.views import Group, boards, cut
from benchmark.report.wording import (
    FLAGS,
    duration,
    folder,
    link,
    number,
    percent,
    points,
    scaled,
    slug,
)

PAGES = {page.id: page for page in (protocol_page(), *other_pages())}
# What a script element holds that no browser runs.
DATA = "application/json"
VOID = {"meta", "link", "img", "source", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects a page's links, ids, text and tags, and checks that tags nest."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.words = [], [], [], [], []
        self.images, self.requests = [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(values["href"])
        if tag == "img":
            self.images.append(values)
        self.requests += [values[name] for name in ("src", "srcset") if name in values]
        if tag == "link":
            self.requests.append(values["href"])
        if "id" in values:
            self.ids.append(values["id"])

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    render(evidence_frame(), root, PAGES)
    return root


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def page_of(pages, start):
    """The page of the only checkpoint whose file name starts so."""
    (found,) = (page for path, page in pages.items() if path.name.startswith(start))
    return found


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def detail(frame_rows, page=None):
    ranked = rank(pd.DataFrame(frame_rows)).to_dict("records")
    return checkpoint(page or protocol_page(), ranked)


# What lies where


def test_every_page_of_the_plan_exists(site):
    assert (site / "index.html").is_file()
    assert all((site / name / "index.html").is_file() for name in PAGES)
    # Two boards, comparison, findings, coverage, latencies, protocol; and a page a checkpoint.
    assert len(list((site / "digits-linf").glob("*.html"))) == 7 + 19
    assert {path.name for path in (site / "digits-linf").glob("*.csv")} == {
        "board.csv",
        "tier-quick.csv",
    }
    assert {path.name for path in (site / "static").iterdir()} == {
        *("board.js", "charts.js", "compare.js", "style.css", "tables.js")
    }
    # Two measures, the gain and two fronts in two themes each.
    assert len(list((site / "figures").glob("*.svg"))) == 5 * 2
    assert len(list((site / "figures").glob("*.png"))) == 3


def test_render_returns_the_files_it_wrote(tmp_path):
    paths = render(board_frame().head(3), tmp_path, PAGES)
    assert paths == sorted(path for path in tmp_path.rglob("*") if path.is_file())


def test_names_are_safe_and_bounded(site):
    for path in site.rglob("*"):
        if path.is_file() and path.name != LISTING:
            assert re.fullmatch(
                r"[a-z0-9-]{1,100}\.(html|svg|png|css|js|csv|json|tex|bib)", path.name
            )


def test_every_link_and_picture_leads_to_a_file(site, pages):
    for path, page in pages.items():
        targets = [*page.links, *page.requests]
        for target in targets:
            if target.startswith(("https://", "#", "data:")):
                continue
            name, _, anchor = target.partition("#")
            assert (path.parent / name).resolve().is_relative_to(site.resolve())
            assert (path.parent / name).is_file(), f"{target} in {path}"
            # A view of a board or comparison, which a script reads.
            assert not anchor or name.endswith("compare.html")
        assert len(set(page.ids)) == len(page.ids)


def test_nothing_is_requested_from_elsewhere(site, pages):
    for page in pages.values():
        assert not any("//" in request for request in page.requests)
        assert not {"iframe", "object", "embed"} & {tag for tag, _ in page.tags}
        for tag, values in page.tags:
            assert tag != "script" or ("src" in values) != (values.get("type") == DATA)
        assert not any(name.startswith("on") for _, values in page.tags for name in values)
        assert not any("style" in values for _, values in page.tags)
    assert not re.search(r"url\(|@import|//", (site / "static" / "style.css").read_text())
    for svg in site.rglob("*.svg"):
        references = re.findall(r"(?:href|src)=\"([^\"]*)\"", svg.read_text())
        assert all(reference.startswith("#") for reference in references)
        assert "<!DOCTYPE" not in svg.read_text() and "<script" not in svg.read_text()


def test_pages_are_accessible(pages):
    for page in pages.values():
        tags = [tag for tag, _ in page.tags]
        assert tags.count("h1") == tags.count("main") == tags.count("title") == 1
        assert ("html", {"lang": "en"}) in page.tags
        assert all(len(image["alt"]) > 40 for image in page.images)
        for tag, values in page.tags:
            if tag == "svg":
                assert values.get("aria-label") or values.get("aria-hidden") == "true"
            if tag == "th":
                assert values["scope"] in ("col", "row", "rowgroup", "colgroup")


# What the pages say


def test_the_board_shows_the_numbers(pages, site):
    words = pages[site / "digits-linf" / "index.html"].text
    frame = board_frame()
    row = frame[frame["method"] == "lwm-global"].iloc[-1]
    shares = [row[f"{name}_accuracy"] for name in ("clean", "pgd", "autoattack")]
    line = " ".join(percent(share) for share in shares)
    ends = f"[{percent(row['certified_accuracy'])}, {percent(row['robust_accuracy'])}]"
    assert re.search(rf"lwm-global 99 % .*?{re.escape(ends)} .*? 99.0 {line} adversarial", words)
    assert "594 examples" in words
    # Half of 594: 1.96 sqrt(0.25 / 594) = 0.0402, hardly narrowed by Wilson's correction.
    assert "± 4.0 points" in words


def test_numbers_never_appear_as_nan(site):
    for name, data in contents(site).items():
        if name.endswith((".html", ".svg")):
            assert not re.search(rb"\b(nan|NaN|None|inf|<NA>|NaT)\b", data), name


def spanned(page):
    """How many columns a board's heading has, and how many its groups and remarks span."""
    html = page[page.index('<table class="board') : page.index("</table>")]
    heads = html[: html.index("</thead>")].count("<th ")
    return heads, {int(span) for span in re.findall(r'colspan="(\d+)"', html)}


FIVE = (
    AttackColumn("fgsm", "FGSM", "correct under one step"),
    AttackColumn("pgd-10", "PGD-10", "correct under PGD"),
    AttackColumn("pgd-20", "PGD-20", "correct under PGD", era=True),
    AttackColumn("cw", "CW", "correct under CW"),
    AttackColumn("autoattack", "AutoAttack", "correct under AutoAttack"),
)


def test_boards_have_a_column_for_each_attack_of_their_protocol(site, tmp_path):
    board = (site / "digits-linf" / "index.html").read_text()
    assert spanned(board) == (9 + len(COLUMNS), {9 + len(COLUMNS)})
    row = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)))
    row["attack_accuracies"] = {
        "autoattack": 0.51, "cw": 0.52, "pgd-10": 0.54, "pgd-20": 0.53, "odd": 0.1
    }  # fmt: skip
    row["flags"] = [{"name": "zero-gradients", "rate": 0.01, "detail": ""}]
    page = protocol_page(attacks=FIVE)
    render(pd.DataFrame([row]), tmp_path, {page.id: page})
    board = (tmp_path / "digits-linf" / "index.html").read_text()
    assert spanned(board) == (12 + len(COLUMNS), {12 + len(COLUMNS)})
    words = Page(board).text
    assert "Clean % FGSM % PGD-10 % PGD-20 ERA % CW % AutoAttack % Objective" in (words)
    clean = percent(row["clean_accuracy"])
    assert f"{clean} — (not part of this evaluation) 54.0 53.0 52.0 51.0 adversarial" in words
    [path] = (tmp_path / "digits-linf").glob("a-*.html")
    words = Page(path.read_text()).text
    assert re.search(r"PGD-20 ERA 53\.0 [-–0-9. ]+ correct under PGD CW 52\.0", words)
    assert re.search(r"certified VRA by bounds 35\.0 ", words)


def test_the_papers_names_stand_at_their_columns(pages, site):
    words = pages[site / "digits-linf" / "index.html"].text
    assert "PGD ERA % AutoAttack % Objective Certified, %" in words
    assert "ERA , empirical robust accuracy, is the accuracy under PGD;" in words
    assert "VRA , verified robust accuracy, is here the accuracy certified by bounds" in words
    assert "AER, accuracy-efficiency-robustness, is a triple" in pages[site / "index.html"].text
    page = page_of(pages, "lwm-layerwise-digits-cnn-tiny-adversarial-unstructured-75").text
    assert "certified accuracy of the smoothed classifier (VRA by smoothing) 81.0 %" in page


# Accuracy, efficiency, robustness


def test_triples_stand_side_by_side_from_dense_to_sparse(pages, site):
    rows = [row for row in ranked_rows() if row["status"] == "done"]
    found = triples(rows)
    assert (found.epsilon, found.smoothing) == ("Linf 1/4", "L2 0.5, sigma 0.25")
    assert len(found.rows) == len(rows)
    names = [row.name for row in found.rows]
    assert names[0] == "dense (adversarial)" and names[-1] == "dense (benign)"
    assert names[1:6] == [f"lwm-global {level} %" for level in (50, 75, 90, 95, 99)]
    last = next(row for row in rows if row["method"] == "lwm-global" and row["sparsity"] == 0.99)
    told = found.rows[5]
    assert (told.sparsity, told.density, told.compression) == ("99", "1.0", "100×")
    assert told.accuracy.value == last["clean_accuracy"]
    printed = [percent(last[f"aer_{name}"]) for name in ("robustness", "low", "high")]
    assert (told.robustness, told.interval) == (printed[0], f"[{printed[1]}, {printed[2]}]")
    words = pages[site / "digits-linf" / "index.html"].text
    mean = f"{told.robustness} {told.interval}"
    line = f"lwm-global 99 % 99 % {told.accuracy.printed} 1.0 100× {mean}"
    assert f"{line} — (not part of this evaluation) adversarial, digits-1, seed 0" in words
    assert "Robustness mean % up to Linf 1/4, 95 %" in words
    assert "documents no formula" in words and "a reconstruction" in words
    page = page_of(pages, "lwm-global-digits-cnn-tiny-adversarial-unstructured-99").text
    assert (
        f"accuracy, efficiency, robustness (AER) {told.accuracy.printed} % clean, 1.0 % density, "
        f"{mean} % on average up to Linf 1/4"
    ) in page


def test_the_smoothed_network_has_a_column_of_its_own(pages, site):
    """Another network under another threat model: it stands with no other accuracy."""
    rows = [row for row in ranked_rows() if row["status"] == "done"]
    smoothed = {row.name: row.smoothed.printed for row in triples(rows).rows if row.smoothed.known}
    assert smoothed == {"lwm-layerwise 75 %": "81.0"}
    # Over the examples that were smoothed, not over all.
    [share] = [row.smoothed for row in triples(rows).rows if row.smoothed.known]
    assert share.interval == counted(0.81, 100).interval
    without = [{**row, "smoothed_accuracy": float("nan")} for row in rows]
    assert triples(without).smoothing == ""
    words = pages[site / "digits-linf" / "index.html"].text
    assert "VRA by smoothing L2 0.5, sigma 0.25, %" in words
    assert "compare that column with no other" in words


def test_a_sketch_goes_from_clean_accuracy_to_the_largest_epsilon():
    row = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)))
    row["clean_accuracy"] = 1.0
    row["curve"] = [
        {"epsilon": "0", "value": 0.0, "robust_accuracy": 1.0},
        {"epsilon": "1/16", "value": 0.0625, "robust_accuracy": 0.75},
        {"epsilon": "1/4", "value": 0.25, "robust_accuracy": 0.5},
    ]
    [told] = triples([row]).rows
    assert told.sketch.line == "0.0,0.0 25.0,10.0 100.0,20.0"
    assert told.sketch.area == "0,40 0.0,0.0 25.0,10.0 100.0,20.0 100,40"
    assert told.sketch.words == "100.0 % at 0, 75.0 % at 1/16, 50.0 % at 1/4"
    assert triples([{**row, "curve": []}]).rows[0].sketch is None


def test_a_sketch_stops_at_what_is_best_known():
    row = lowered_row()
    assert f"{percent(row['best_known_accuracy'])} % at 3/16" in triples([row]).rows[0].sketch.words


def test_without_a_curve_there_are_no_triples(tmp_path):
    row = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)))
    row |= {"aer_robustness": float("nan"), "aer_epsilon": ""}
    assert triples([row]) is None
    render(pd.DataFrame([row]), tmp_path, PAGES)
    assert "(AER)</h3>" not in (tmp_path / "digits-linf" / "index.html").read_text()
    [path] = (tmp_path / "digits-linf").glob("a-*.html")
    assert "(AER)" not in path.read_text()


def test_rows_without_a_rank_have_no_triple(pages, site):
    words = pages[site / "digits-linf" / "index.html"].text
    _, _, aer = words.partition("Accuracy, efficiency, robustness")
    assert "random 95 %" in aer and "random 99 %" not in aer


def test_a_failed_row_is_unranked_and_says_why(pages, site):
    board = pages[site / "digits-linf" / "index.html"].text
    assert "without a result" in board
    assert "failed: RuntimeError: logits are not finite" in board
    failed = page_of(pages, "random-digits-cnn-tiny-adversarial-unstructured-90")
    assert "Failed. RuntimeError: logits are not finite" in failed.text
    assert not failed.images


def test_a_missing_certified_accuracy_is_a_dash_with_a_reason(pages):
    hostile = page_of(pages, "etc-")
    assert "[—, 66.0]" in hostile.text
    assert "not part of this evaluation" in hostile.text


def test_an_unknown_result_draws_no_bar():
    """A grey bar would say "broken", which nobody measured."""
    failed = make_row("random", 0.9, status="failed", reason="crash", examples=np.nan)
    engine = environment()
    template = engine.from_string(
        '{% import "macros.html.jinja" as show %}{{ show.interval_cell(value) }}'
    )
    assert "<svg" not in template.render(value=detail([failed]).line.interval)


def test_ranks_and_ties_are_shown():
    generator = np.random.default_rng(0)
    rows = [
        make_row("a", 0.9, outcomes_of(0.6, generator)),
        make_row("b", 0.9, outcomes_of(0.6, generator)),
        make_row("c", 0.9, outcomes_of(0.3, generator)),
    ]
    (board,) = boards(protocol_page(), rank(pd.DataFrame(rows)).to_dict("records"))
    (cell,) = board.cells
    assert [row.rank for row in cell.rows] == ["=1", "=1", "3"]
    assert [row.name for row in cell.leaders] == ["a 90 %", "b 90 %"]
    assert cell.note == (
        "2 of 3 share the first rank: no test tells them apart; incomplete: controls are missing"
    )
    assert "others cannot be told apart" in cell.rows[0].rank_words
    assert cell.rows[1].rank_words.startswith("cannot be told apart from the best of its group (p")
    assert "less robust than the best" in cell.rows[2].rank_words
    assert cell.rows[0].notes == (
        "incomplete, lacks controls: dense, random, magnitude",
        "narrow: 0 of 3 sparsities with all controls",
    )


def test_flags_are_explained(pages):
    flagged = page_of(pages, "lwm-layerwise-digits-cnn-tiny-adversarial-unstructured-75")
    known = FLAGS["square-lowers-accuracy"]
    assert f"{known.words} 0.4 % of examples {known.meaning} 3 of 594 examples" in flagged.text
    assert "CROWN-IBP in place of CROWN for information" in flagged.text
    assert "brand new <b>flag</b>" in flagged.text
    assert "81.0 % 95 % interval" in flagged.text  # the smoothed classifier's


def test_the_checkpoint_page_shows_how_it_came_about(pages):
    page = page_of(pages, "lwm-global-digits-cnn-tiny-adversarial-unstructured-99")
    for expected in (
        "body.2.weight 32×16×3×3 4,562 4,608 12 k 99.0",
        "apgd-ce autoattack 3/16 300 3 0.5",
        "3/16 protocol",
        "crown 200, ibp 20",
        "attack steps in pruning and finetuning 10",
        "2.3 M",
        "torch 2.14.1",
        board_frame().iloc[16]["sha256"],
        "benchmark.load_model('lwm-global/digits/cnn-tiny/adversarial/unstructured-99/0')",
        "robustprune evaluate lwm-global/digits/cnn-tiny/adversarial/unstructured-99/0 "
        "--protocol digits-linf --tier full",
    ):
        assert expected in page.text


def test_a_checkpoint_shows_all_its_tiers(pages):
    dense = page_of(pages, "dense-digits-cnn-tiny-adversarial")
    assert "All tiers" in dense.text and "quick 100" in dense.text
    assert "tier full, 594 examples" in dense.text


@pytest.mark.parametrize(("methods", "first"), [("ab", "full"), ("abc", "quick")])
def test_the_largest_tier_leads_unless_few_are_on_it(methods, first):
    generator = np.random.default_rng(1)
    rows = [
        make_row(m, 0.9, outcomes_of(0.5, generator, 100), tier="quick", examples=100)
        for m in methods
    ]
    rows.append(make_row("a", 0.9, outcomes_of(0.5, generator)))
    ranked = rank(pd.DataFrame(rows)).to_dict("records")
    assert [board.tier for board in boards(protocol_page(), ranked)][0] == first


def test_seeds_are_named_only_where_there_are_several():
    generator = np.random.default_rng(1)
    rows = [make_row("a", 0.9, outcomes_of(0.5, generator), seed=seed) for seed in (0, 1)]
    rows.append(make_row("b", 0.9, outcomes_of(0.5, generator)))
    (board,) = boards(protocol_page(), rank(pd.DataFrame(rows)).to_dict("records"))
    variants = sorted(row.variant for row in board.cells[0].rows)
    assert variants == ["", "seed 0", "seed 1"]


def test_rows_of_another_protocol_version_say_so():
    row = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)), protocol_digest="f" * 64)
    view = detail([row])
    assert "evaluated under another version of the protocol" in view.line.notes
    assert view.line.rank_words == "the only row of its group"


def test_protocols_without_records_have_a_page(pages, site):
    empty = pages[site / "mnist-linf" / "index.html"].text
    assert "No records yet" in empty
    assert "Linf 3/10" in pages[site / "mnist-linf" / "protocol.html"].text
    index = pages[site / "index.html"].text
    assert (
        "MNIST, Linf Linf 3/10 — — — no records yet quick 200, standard 1,000, full 10,000" in index
    )
    assert "Digits, Linf Linf 3/16 4 19 1 full (594), quick (100)" in index


def test_an_empty_frame_renders(tmp_path):
    render(pd.DataFrame(), tmp_path, PAGES)
    assert "no records yet" in (tmp_path / "index.html").read_text()


def test_a_row_of_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="unknown protocol 'digits-linf'"):
        render(board_frame(), tmp_path, {"mnist-linf": other_pages()[0]})
    assert not list(tmp_path.iterdir())


# Where rows stand


def ranked_pair(**changes):
    """Two ranked rows of one cell; `changes` go to the first, as the leaderboard adds them."""
    generator = np.random.default_rng(0)
    rows = [
        make_row("a", 0.9, outcomes_of(0.6, generator)),
        make_row("lwm-global", 0.9, outcomes_of(0.3, generator)),
    ]
    first, second = rank(pd.DataFrame(rows)).to_dict("records")
    return [{**first, **changes}, second]


def first_line(**changes):
    (board,) = boards(protocol_page(), ranked_pair(**changes))
    return board.cells[0].rows[0]


def test_gains_are_signed_points_with_their_interval():
    line = first_line(gain=0.0234, gain_low=-0.004, gain_high=0.05, gain_over="lwm-global/x")
    assert line.gain.printed == "+2.3 [−0.4, +5.0]"
    assert line.gain.over == "lwm-global/x"
    bare = gain({"gain": -0.1, "gain_low": float("nan"), "gain_over": "x"})
    assert bare.printed == "−10.0"


def test_where_there_is_no_gain_there_is_a_dash():
    own = ranked_pair()[0]["checkpoint_id"]
    zero = {"gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    for changes in ({"gain": float("nan")}, {"gain": None}, {**zero, "gain_over": own}):
        assert first_line(**changes).gain.printed == "—"
    assert first_line(**zero, gain_over="x").gain.printed == "0.0 [0.0, 0.0]"
    assert points(float("nan")) == "—"


def test_rank_intervals_stand_beside_the_rank():
    assert first_line(rank_low=1, rank_high=2).rank_range == "1–2"
    assert first_line(rank_low=1, rank_high=1).rank_range == "1–1"
    assert first_line(rank_low=pd.NA, rank_high=pd.NA).rank_range == ""
    alone = ranked_pair(rank_low=1, rank_high=1, rivals=0)[:1]
    assert boards(protocol_page(), alone)[0].cells[0].rows[0].rank_range == ""


def test_several_seeds_are_summed_up_in_a_note():
    spread_out = {"seed_mean": 0.612, "seed_spread": 0.012, "seed_low": 0.58, "seed_high": 0.641}
    words = "mean of 3 seeds 61.2 [58.0, 64.1], over seeds and examples; spread 1.2 points"
    assert words in first_line(seeds=3, **spread_out).notes
    assert (
        "mean of 2 seeds 61.2"
        in first_line(
            seeds=2, seed_mean=0.612, seed_spread=float("nan"), seed_low=None, seed_high=None
        ).notes
    )
    assert not any("seeds" in note for note in first_line(seeds=1, **spread_out).notes)


def test_a_checkpoints_page_says_how_it_stands():
    standing = {"rank_low": 1, "rank_high": 2, "gain": 0.02, "gain_low": 0.01, "gain_high": 0.03}
    seeds = {"seeds": 3, "seed_mean": 0.5, "seed_spread": 0.1, "seed_low": 0.4, "seed_high": 0.6}
    row = ranked_pair(**standing, **seeds, gain_over="lwm-global/x")[0]
    facts = {fact.label: fact for fact in checkpoint(protocol_page(), [row]).facts.standing}
    assert facts["95 % rank interval"].value == "1–2"
    assert facts["gain over the magnitude control"].value == "+2.0 [+1.0, +3.0] points"
    assert facts["gain over the magnitude control"].note == "over lwm-global/x"
    assert facts["training seeds"].value.startswith("mean of 3 seeds 50.0 [40.0, 60.0]")


def test_recipes_are_named_only_where_a_cell_mixes_them():
    rows = ranked_pair()
    assert [row.variant for row in boards(protocol_page(), rows)[0].cells[0].rows] == ["", ""]
    rows[1]["recipe"] = "short"
    assert [row.variant for row in boards(protocol_page(), rows)[0].cells[0].rows] == [
        "digits-1",
        "short",
    ]


def test_rows_with_unranking_flags_stand_apart_with_the_reason(site, pages):
    ranked = rank(evidence_frame()).to_dict("records")
    full = next(board for board in boards(protocol_page(), ranked) if board.tier == "full")
    apart, absent = full.unranked
    assert (apart.title, absent.title) == ("not ranked", "without a result")
    (row,) = apart.rows
    assert (row.name, row.rank, row.variant) == ("random 99 %", "—", "cnn-tiny, unstructured")
    assert row.rank_words == "no rank: zero gradients at 31.0 %, tolerated up to 5.0 %"
    # The flag says it already.
    assert not any(note.startswith("no rank") for note in row.notes)
    assert not any(line.name == row.name for cell in full.cells for line in cell.rows)
    # A longer name that begins like the reason's is not the reason.
    assert [(flag.words, flag.unranks) for flag in row.flags] == [
        ("zero gradients", True),
        ("zero gradients in attack", False),
    ]
    assert "costs the rank: zero gradients (31.0 %)" in pages[site / "digits-linf/index.html"].text
    page = page_of(pages, "random-digits-cnn-tiny-adversarial-unstructured-99").text
    assert "% [certified, attacked], no rank: zero gradients at 31.0 %" in page
    assert "zero gradients costs the rank 31.0 % of examples" in page


def test_a_longer_reason_does_not_blame_a_shorter_flag():
    names = ("attack", "zero-gradients", "zero-gradients-in-attack")
    flags = [{"name": name} for name in names]
    reason = "zero-gradients-in-attack at 31.0 %, tolerated up to 5.0 %"
    row = ranked_pair(flags=flags, unrankable=reason, gain=0.1, gain_over="x")[0]
    (line,) = boards(protocol_page(), [row])[0].unranked[0].rows
    assert [(flag.words, flag.unranks) for flag in line.flags] == [
        ("zero gradients in attack", True),
        ("attack", False),
        ("zero gradients", False),
    ]
    # Nor is a lead shown that rests on an accuracy nobody trusts.
    assert line.gain.printed == "—"


def test_a_reason_that_no_flag_carries_is_a_note():
    row = ranked_pair(flags=[{"name": ""}, {}], unrankable="withdrawn by its authors")[0]
    (line,) = boards(protocol_page(), [row])[0].unranked[0].rows
    assert "no rank: withdrawn by its authors" in line.notes
    assert not any(flag.unranks for flag in line.flags)


def test_rows_without_a_rank_are_not_drawn(pages, site):
    words = [
        image["alt"]
        for image in pages[site / "digits-linf" / "index.html"].images
        if "Robust accuracy" in image["alt"]
    ]
    # Its row at 99 % shows masked gradients, that at 90 % failed.
    assert len(words) == 1
    drawn = words[0].split("random: ")[1].split(";")[0]
    assert [part.split(" at ")[1] for part in drawn.rstrip(".").split(", ")] == [
        "50 %", "75 %", "95 %"
    ]  # fmt: skip


def test_a_row_that_the_leaderboard_did_not_rank_gets_no_rank():
    line = ranked_pair(rank=pd.NA)
    (board,) = boards(protocol_page(), line)
    assert [row.rank_words for row in board.unranked[0].rows] == ["no rank: no rank was given"]


def test_columns_of_this_version_may_be_missing(tmp_path):
    """Frames of older records, and leaderboards without intervals, still give a board."""
    new = ["unrankable", "challenges", "evidence", "strips", "best_known_accuracy"]
    added = ["rank_low", "rank_high", "gain", "gain_low", "gain_high", "gain_over", "seeds"]
    added += ["attack_accuracies", "aer_robustness", "aer_low", "aer_high", "aer_epsilon"]
    row = ranked_pair()[0]
    bare = {name: value for name, value in row.items() if name not in (*new, *added)}
    bare["cost"] = {"pgd": {"seconds": 1.0, "forwards": 10, "backwards": 10}}
    line = boards(protocol_page(), [bare])[0].cells[0].rows[0]
    assert (line.gain.printed, line.rank_range) == ("—", "")
    assert [value.printed for value in line.attacks] == ["—", "—"]
    view = checkpoint(protocol_page(), [bare])
    assert view.line.interval.printed == "[41.9, 59.9]"
    assert view.facts.standing == ()
    assert [fact.label for fact in view.evidence.proofs] == ["proven at epsilon 3/16"]
    assert view.evidence.held == ""


# Both ends of the interval


def test_a_budget_that_nobody_stated_shows_no_zeros():
    row = dict(ranked_rows()[0])
    nothing = {"attack_steps": 0, "hours": 0.0, "prune_epochs": 0, "device": "not stated"}
    for budget, labels in (
        (nothing, {"recipe", "device"}),
        (nothing | {"device": "cpu"}, {"recipe", "device", "hours"}),
    ):
        facts = checkpoint(protocol_page(), [row | {"budget": budget}]).facts.budget
        assert labels <= {fact.label for fact in facts}
        assert ("hours" in {fact.label for fact in facts}) == ("hours" in labels)


def test_accuracies_carry_both_intervals(pages):
    assert counted(81 / 263, 263).interval == "25.5–36.6"
    low, high = beta.ppf(0.025, 81, 183), beta.ppf(0.975, 82, 182)
    assert exact(81 / 263, 263) == f"{percent(low)}–{percent(high)}" == "25.3–36.8"
    assert exact(float("nan"), 263) == exact(0.5, float("nan")) == ""
    page = page_of(pages, "lwm-global-digits-cnn-tiny-adversarial-unstructured-99").text
    robust = round(0.42 * EXAMPLES)
    ends = beta.ppf(
        [0.025, 0.975], [robust, robust + 1], [EXAMPLES - robust + 1, EXAMPLES - robust]
    )
    printed = "–".join(percent(end) for end in ends)
    wilson_ends = counted(robust / EXAMPLES, EXAMPLES).interval
    assert printed != wilson_ends
    assert f"robust 41.9 {wilson_ends} {printed} correct under every attack" in page


def lowered_row(**changes):
    outcomes = outcomes_of(0.5, np.random.default_rng(0), best_known=0.4)
    return make_row("a", 0.9, outcomes, challenges=CHALLENGES, **changes)


def test_challenges_lower_the_upper_end_with_credit(pages, site):
    ends = interval(lowered_row())
    assert ends.printed == "[35.0, 40.1]"
    assert ends.words == "35.0 % certified, 40.1 % best known, 72.1 % clean."
    assert (
        ends.open_width
        == f"{100 * (round(0.4 * EXAMPLES) - round(0.35 * EXAMPLES)) / EXAMPLES:.2f}"
    )
    note = "upper end lowered from 60.9 to 58.1 by Ada L. with momentum with restarts (15 broken,"
    assert note in pages[site / "digits-linf" / "index.html"].text
    page = page_of(pages, "lwm-global-digits-cnn-tiny-adversarial-unstructured-95").text
    assert "[42.8, 58.1] % [certified, best known]" in page
    assert "best known 58.1 54.1–62.0" in page
    assert "Ada L. momentum with restarts 15 2026-03-01" in page
    linked = [{"credit": "A", "url": "https://example.org/a"}, {"url": "javascript:alert(1)"}]
    challenges = evidence({**lowered_row(), "challenges": linked}).challenges
    assert [one.href for one in challenges] == ["https://example.org/a", ""]


@pytest.mark.parametrize("known", [0.9, float("nan"), None, "0.1"])
def test_best_known_never_raises_the_upper_end(known):
    row = lowered_row(best_known_accuracy=known)
    assert interval(row).printed == "[35.0, 50.0]"
    (chart,) = charts(rank(pd.DataFrame([row])).to_dict("records"), "robust accuracy")
    assert chart.lines[0].points[-1].accuracy == 0.5
    assert not any("lowered" in note for note in detail([row]).line.notes)


def test_curves_and_charts_stop_at_what_is_best_known():
    row = lowered_row()
    accuracies = {p.at: p.accuracy for p in security_curve(row).robust}
    known = row["best_known_accuracy"]
    assert accuracies[0.125] == pytest.approx(row["curve"][1]["robust_accuracy"])
    assert accuracies[0.1875] == known
    # At 1/4 the attacks of the protocol had broken more already, or the challenge counts there too.
    assert accuracies[0.25] == min(known, row["curve"][3]["robust_accuracy"])
    table = {line.epsilon: line.robust.printed for line in detail([row]).tables.epsilons}
    assert table["3/16"] == percent(known)
    (chart,) = charts(rank(pd.DataFrame([row])).to_dict("records"), "robust accuracy")
    assert chart.lines[0].points[-1].accuracy == known


def test_long_lists_of_credits_are_cut_on_the_board():
    many = [{"credit": f"team {place}", "attack": "x", "broken": 1} for place in range(9)]
    (note,) = [
        n for n in detail([{**lowered_row(), "challenges": many}]).line.notes if "upper" in n
    ]
    assert note.endswith("team 2 with x (1 broken, undated); 6 more")


# Evidence


def shown(**changes):
    """The evidence of a row whose attacks all broke something."""
    row = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)), **changes)
    return evidence(row)


def decoded(sheet):
    return np.asarray(Image.open(io.BytesIO(sheet.data)))


def test_a_strip_decodes_to_the_pixels_that_it_was_given():
    originals = np.array([[[[0.0, 1.0], [0.5, 0.25]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    change = np.array([[[[0.1, -0.1], [0.05, 0.0]]], [[[-0.1, -0.1], [0.0, 0.0]]]])
    sheet = draw(originals, originals + change, 0.1)
    pixels = decoded(sheet)
    side = SIDE + 2
    assert pixels.shape == (sheet.height, sheet.width, 2) == (3 * side + 2 * GAP, 2 * side + GAP, 2)
    expected = [
        [[0, 255], [128, 64]],  # original: 127.5 and 63.75 rounded
        [[26, 230], [140, 64]],  # 0.1, 0.9, 0.55, 0.25
        [[255, 0], [191, 128]],  # +epsilon, -epsilon, half of it, nothing
    ]
    for line, wanted in enumerate(expected):
        tile = pixels[line * (side + GAP) :, :side][:side]
        assert (tile[..., 1] == 255).all()
        assert (tile[[0, -1], :, 0] == FRAME_GREY).all() and (
            tile[:, [0, -1], 0] == FRAME_GREY
        ).all()
        inner = tile[1:-1, 1:-1, 0]
        assert (inner == np.kron(wanted, np.ones((SIDE // 2, SIDE // 2)))).all()
    second = pixels[:side, side + GAP :]
    assert (second[1:-1, 1:-1, 0] == 255).all()
    # Between pictures the page shows through.
    assert (pixels[:, side : side + GAP, 1] == 0).all()
    assert (pixels[side : side + GAP, :, 1] == 0).all()


def test_colours_are_drawn_channel_by_channel():
    originals = np.full((1, 3, 1, 1), 0.5)
    adversarial = originals + np.array([0.1, 0.0, -0.1]).reshape(1, 3, 1, 1)
    pixels = decoded(draw(originals, adversarial, 0.1))
    assert pixels.shape[2] == 4
    middle, step = SIDE // 2, SIDE + 2 + GAP
    assert pixels[middle, middle].tolist() == [128, 128, 128, 255]
    assert pixels[middle + 2 * step, middle].tolist() == [255, 128, 0, 255]


def test_the_same_images_give_the_same_bytes():
    strip = strip_of()
    first, second = (
        draw(np.array(strip["originals"], order=order), strip["adversarial"], 3 / 16)
        for order in ("C", "F")
    )
    assert first.data == second.data


def test_small_images_are_magnified_and_large_ones_are_fewer():
    assert columns((100, 1, 8, 8), 8) == columns((8, 3, 96, 96), 8) == 8
    assert columns((100, 3, 224, 224), 8) == 4
    assert columns((100, 3, 9, 5000), 8) == 1
    for side, expected in ((8, 64), (28, 56), (32, 64), (224, 224)):
        picture = np.zeros((1, 1, side, side))
        assert draw(picture, picture, 0.1).width == expected + 2


def test_the_style_sheet_knows_the_gap(site):
    style = (site / "static" / "style.css").read_text()
    assert ".lines {" in style and len(re.findall(rf"gap: {GAP}px", style)) == 2


def test_only_one_module_knows_pillow():
    folder = Path(environment().loader.searchpath[0]).parent
    users = {
        path.name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(n.name.startswith("PIL") for n in node.names))
        or (isinstance(node, ast.ImportFrom) and str(node.module).startswith("PIL"))
    }
    assert users == {"images.py"}


def test_the_page_shows_a_strip_an_attack(site, pages):
    page = page_of(pages, "lwm-global-digits-cnn-tiny-adversarial-unstructured-99")
    strips = [image for image in page.images if image["src"].endswith(".png")]
    assert [image["alt"].split(",")[0] for image in strips] == [
        "The first 8 of 34 adversarial inputs of apgd-ce",
        "All 3 adversarial inputs of apgd-t",
        "The first 8 of 77 adversarial inputs of pgd",
    ]
    assert strips[1]["alt"].endswith(
        "class 0 taken for 1, class 1 taken for 2, class 4 taken for 5."
    )
    for image in strips:
        with Image.open(site / "digits-linf" / image["src"]) as sheet:
            assert (int(image["width"]), int(image["height"])) == sheet.size
    caption = "apgd-ce autoattack: the first 8 of 34 adversarial inputs, in list order original"
    assert caption in page.text
    assert "pgd the first 8 of 77 adversarial inputs, in list order" in page.text
    assert "0 → 1 1 → 2 4 → 5 7 → 8" in page.text
    assert "white and black are +3/16 and −3/16" in page.text
    assert "The evidence files hold 201 adversarial inputs in 39.3 kB, 2 files." in page.text
    assert "robustprune verify lwm-global/digits/cnn-tiny/adversarial/unstructured-99/0 --pro" in (
        page.text
    )
    assert "not at hand" not in page.text


def test_strips_keep_the_order_of_the_list():
    given = strip_of(examples=21)
    (strip,) = shown(strips=[given], attacks=[]).strips
    for name in ("originals", "adversarial"):
        assert np.array_equal(getattr(strip, name), given[name][:8].astype(float))
    assert [label for label, _ in strip.answers] == [str(label) for label in given["labels"][:8]]
    assert strip.scale == 3 / 16


def test_a_single_input_is_no_plural():
    (strip,) = shown(strips=[strip_of(examples=1, total=1)], attacks=[]).strips
    assert strip.caption == "autoattack: the only adversarial input, in list order"
    assert strip.words.startswith("The only adversarial input of apgd-ce, each as original")


def bent(**changes):
    """A strip with its arrays changed in place: name → function of the array."""
    strip = strip_of()
    for name, change in changes.items():
        array = strip[name].copy()
        change(array)
        strip[name] = array
    return strip


def set_first(value):
    return lambda array: array.__setitem__((0, 0, 0, 0), value)


SHAPE = (8, 1, 8, 8)

DECEPTIVE = {
    "not a number": bent(adversarial=set_first(np.nan)),
    "infinite": bent(originals=set_first(np.inf)),
    "above the box": bent(originals=set_first(1.01), adversarial=set_first(1.01)),
    "below the box": bent(originals=set_first(-1e-6), adversarial=set_first(0)),
    "beyond epsilon": bent(originals=set_first(0.5), adversarial=set_first(0.5 + 3 / 16 + 3e-6)),
    "no channels": strip_of(originals=strip_of()["originals"][:, 0]),
    "cropped": strip_of(adversarial=strip_of()["adversarial"][:, :, :4]),
    "empty": strip_of(originals=np.zeros((0, *SHAPE[1:])), adversarial=np.zeros((0, *SHAPE[1:]))),
    "two channels": strip_of(channels=2),
    "huge": strip_of(originals=np.zeros((8, 1, 1, 999)), adversarial=np.zeros((8, 1, 1, 999))),
    "integers": strip_of(originals=np.zeros(SHAPE, int), adversarial=np.zeros(SHAPE, int)),
    "objects": strip_of(originals=np.full(SHAPE, None), adversarial=np.full(SHAPE, None)),
    "a list": strip_of(originals=strip_of()["originals"].tolist()),
    "no originals": strip_of(originals=None),
    "few labels": strip_of(labels=[1, 2]),
    "no labels": strip_of(labels=None),
    "labels in words": strip_of(labels=["<b>"] * 8),
    "truth for labels": strip_of(labels=[True] * 8),
    "classes below zero": strip_of(predictions=[-1] * 8),
    "endless classes": strip_of(predictions=[10**400] * 8),
    "nothing broken": strip_of(predictions=strip_of()["labels"]),
    "more shown than broken": strip_of(total=7),
    "unknown total": strip_of(total=float("nan")),
    "no total": strip_of(total=None),
}


@pytest.mark.parametrize("strip", DECEPTIVE.values(), ids=DECEPTIVE.keys())
def test_a_strip_that_is_not_what_it_should_be_is_left_out(strip):
    found = shown(strips=[strip_of("pgd"), strip, strip_of("apgd-t")])
    assert [one.attack for one in found.strips] == ["pgd", "apgd-t"]
    assert found.remarks == (
        "1 of the strips at hand is not shown: what they hold is no set of images in [0, 1], "
        "inside epsilon and misclassified.",
    )
    assert found.remake.startswith("robustprune evaluate a/digits")


def test_the_edge_of_epsilon_is_inside():
    strip = bent(originals=set_first(0.5), adversarial=set_first(np.float32(0.5 + 3 / 16)))
    assert len(shown(strips=[strip]).strips) == 1


def test_strips_of_another_epsilon_are_not_of_this_page():
    found = shown(strips=[strip_of(epsilon="1/4"), strip_of(epsilon="6/32")], attacks=[])
    assert len(found.strips) == 1 and found.remarks == ()


@pytest.mark.parametrize("threat", ["Linf 0", "Linf", "", "Linf 1e999999999", "Linf x"])
def test_a_threat_without_an_epsilon_shows_no_strip(threat):
    _, _, epsilon = threat.partition(" ")
    assert shown(strips=[strip_of(epsilon=epsilon)], threat=threat).strips == ()


def test_epsilons_compare_as_numbers():
    assert same_epsilon("8/255", "16/510") and same_epsilon("0.5", "1/2")
    assert not same_epsilon("8/255", "0.03137")
    assert same_epsilon("odd", "odd") and not same_epsilon("odd", "1/2")
    for hostile in ("1e999999999", "1/0", "nan", "-1", "", "1_000", "٣"):
        assert fraction(hostile) is None


def test_changes_in_l2_are_drawn_to_their_own_scale():
    """A pixel's share of an L2 change is small: against epsilon all would look grey."""
    strip = strip_of(epsilon="3/2")
    strip["adversarial"] = strip["originals"] * np.float32(0.9)
    found = shown(strips=[strip], threat="L2 3/2")
    assert found.strips[0].scale == pytest.approx(0.09375)
    assert found.scaling == "white and black are the largest change on the strip"
    strip["adversarial"] = strip["originals"] * np.float32(0.5)
    assert shown(strips=[strip], threat="L2 3/2").strips == ()


def test_missing_evidence_is_named_with_the_command_that_makes_it():
    found = shown()
    assert found.remarks == ("The evidence files are not at hand, so there are no images here.",)
    assert found.remake == (
        "robustprune evaluate a/digits/cnn-tiny/adversarial/unstructured-90/0 "
        "--protocol digits-linf --tier full"
    )
    some = shown(strips=[strip_of("pgd", evaluation="pgd"), strip_of("apgd-t", evaluation="x")])
    assert some.remarks == ("No images of apgd-ce, apgd-t are at hand.",)
    none = shown(attacks=[{"name": "pgd", "evaluation": "pgd", "attempted": 9, "broken": 0}])
    assert "No attack broke an example" in none.remarks[0] and none.remake == ""
    other = shown(attacks=[{"name": "curve", "epsilon": "1/4", "attempted": 9, "broken": 9}])
    assert "No attack broke an example" in other.remarks[0]


def test_a_row_without_a_result_has_no_evidence(pages):
    failed = make_row("random", 0.9, status="failed", reason="crash", examples=np.nan)
    assert evidence(failed) is None
    page = page_of(pages, "random-digits-cnn-tiny-adversarial-unstructured-90")
    assert "Evidence" not in page.text


def test_commands_are_quoted_for_a_shell():
    found = shown(checkpoint_id="a b; rm -rf ~")
    assert found.verify == "robustprune verify 'a b; rm -rf ~' --protocol digits-linf"
    assert found.remake.startswith("robustprune evaluate 'a b; rm -rf ~' --protocol")


def test_proofs_say_what_they_spared():
    facts = {fact.label: fact for fact in shown().proofs}
    assert facts["proven at epsilon 3/16"].value == "208 of 594 examples"
    assert facts["proven at epsilon 3/16"].note == "best bound: crown 200, ibp 20"
    assert facts["proven, so not attacked"].value == "pgd 220, autoattack 220"
    assert facts["forward passes saved by that"].value == "at least 1.21 M"
    endless = {"pgd": {"seconds": 1.0, "proven": 5, "forwards_saved": float("inf")}}
    assert [fact.value for fact in shown(cost=endless).proofs[1:]] == ["pgd 5"]
    assert shown(certified_curve=[]).proofs[0].note == "no bounds at this epsilon"


def test_the_cost_table_counts_spared_examples_where_the_record_does(pages):
    page = page_of(pages, "lwm-global-digits-cnn-tiny-adversarial-unstructured-99").text
    assert "Attacked Proven left out Passes saved at least" in page
    assert "autoattack 29.9 s 2.3 M 600 k 300 220 1.2 M" in page
    old = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)))
    old["cost"] = {"pgd": {"seconds": 4.5, "forwards": 130_000, "backwards": 130_000}}
    assert detail([old]).tables.costs[0].proven == ""
    assert "and not proven robust beforehand. Every success" in page


def test_stale_images_go(tmp_path):
    render(evidence_frame().iloc[[16]], tmp_path, PAGES)
    assert len(list(tmp_path.rglob("*.png"))) == 3
    render(board_frame().iloc[[16]], tmp_path, PAGES)
    assert not list(tmp_path.rglob("*.png"))


# Hostile input


def test_hostile_strings_stay_text(site, pages):
    # Only our own scripts, and data that none of them runs.
    for path in pages:
        opened = re.findall(r"<script[^>]*>", path.read_text())
        assert all(re.search(r'src="[./]*static/|type="application/json"', tag) for tag in opened)
    assert not any("<img src=x" in path.read_text() for path in pages)
    hostile = page_of(pages, "etc-")
    assert HOSTILE in hostile.text
    assert "javascript:alert(1)" in hostile.text
    assert not any(href.startswith("javascript") for page in pages.values() for href in page.links)


def test_hostile_credits_and_attack_names_stay_text(tmp_path, pages):
    challenged = page_of(pages, "lwm-global-digits-cnn-tiny-adversarial-unstructured-95")
    assert f"{HOSTILE} </td><script>x 3 <b>soon</b>" in challenged.text
    attack = '"><img src=x onerror=alert(1)>'
    row = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)))
    row.update(
        strips=[strip_of(attack, evaluation="</p><script>")],
        evidence=[{"file": "<u>../../x", "bytes": "<b>", "sha256": HOSTILE, "inputs": -1}, None],
        cost={"<i>": {"seconds": 1, "proven": 5, "forwards_saved": float("inf")}},
        challenges=[{"credit": ["<a>"], "broken": {}}, "x"],
        unrankable="<b>because</b>",
    )
    render(pd.DataFrame([row]), tmp_path, PAGES)
    written = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert not any(re.search(r"<(script|u|i|a|b)>|<img src=x", html) for html in written.values())
    page = next(Page(html) for path, html in written.items() if path.name.startswith("a-digits"))
    assert attack in page.text and "<u>../../x" in page.text and "<b>because</b>" in page.text
    (strip,) = [image for image in page.images if image["src"].endswith(".png")]
    assert re.fullmatch(r"\.\./figures/[a-z0-9-]+\.png", strip["src"]) and attack in strip["alt"]


def test_autoescape_does_not_depend_on_file_names():
    engine = environment()
    assert engine.autoescape is True
    assert engine.from_string("{{ value }}").render(value="<b>") == "&lt;b&gt;"
    for name in engine.list_templates():
        assert engine.get_template(name).environment.autoescape is True


def test_templates_never_switch_escaping_off():
    for path in Path(environment().loader.searchpath[0]).iterdir():
        assert not re.search(r"\|\s*safe|autoescape|Markup", path.read_text()), path


@pytest.mark.parametrize(
    "raw", ["", "../../x", "a\0b", "É\u202e☃", "a" * 100_000, "\ud800", "<script>", "-", ".."]
)
def test_slugs_are_safe_bounded_and_distinct(raw):
    made = slug(raw)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,80}[a-z0-9])?", made)
    assert made != slug(raw + "x") and made == slug(raw)


def test_slugs_of_look_alikes_differ():
    assert len({slug(raw) for raw in ("a/b", "a-b", "A/B", "a b", "a//b")}) == 5


def test_folders_keep_safe_ids_and_never_shadow_the_site():
    assert folder("digits-linf") == "digits-linf"
    for raw in ("figures", "static", "../up", "UP", "a--b", "x" * 61):
        assert re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{10}", folder(raw))


def test_links_are_http_only():
    assert link("https://example.org/a") == "https://example.org/a"
    for unsafe in ("javascript:alert(1)", "data:text/html,x", "//host", "https:", "http://[", None):
        assert link(unsafe) == ""


def test_two_pages_on_one_path_are_refused():
    jobs = [Job(("a.html", "b.html"), dict), Job(("a.html",), dict)]
    assert claimed(jobs[:1]) == {"a.html", "b.html"}
    with pytest.raises(InvariantViolation, match="one page at a.html"):
        claimed(jobs)


# Boards that are too large for a page


@pytest.fixture
def large(tmp_path, monkeypatch):
    """The board of 19 checkpoints with room for four rows a page."""
    monkeypatch.setattr("benchmark.report.site.ROWS_A_PAGE", 4)
    render(evidence_frame(), tmp_path, PAGES)
    return tmp_path


def board_names(html):
    """The links of the table rows of a board, in order, that of each checkpoint's page."""
    table = re.search(r'<table class="board.*?</table>', html, re.DOTALL)
    found = re.findall(r'<th scope="row" class="name"><a href="([^"]*)"', table[0])
    return [Path(link).name for link in found]


def test_no_row_of_a_large_board_is_lost_or_doubled(large, site):
    whole = board_names((site / "digits-linf" / "index.html").read_text())
    parts = (large / "digits-linf").glob("full-rows-*.html")
    ordered = sorted(parts, key=lambda path: int(path.name.split("-")[2]))
    shown = [board_names(path.read_text()) for path in ordered]
    assert max(map(len, shown)) <= 4
    assert [name for names in shown for name in names] == whole


def test_a_large_board_says_where_its_rows_are(large):
    page = Page((large / "digits-linf" / "index.html").read_text())
    assert "This board is too large for one page" in page.text
    parts = [link for link in page.links if "-rows-" in link]
    assert {Path(link).name for link in parts} == {
        path.name for path in (large / "digits-linf").glob("*-rows-*.html")
    }
    assert "rows 1–" in page.text and "Remarks" in page.text


def test_a_group_that_is_larger_than_a_page_says_which_rows_are_here():
    group = Group("a", "title", "a note", True, list(range(7)))
    other = Group("b", "other", "", True, [7, 8])
    pages = cut([group, other], 3)
    assert [[list(part.rows) for part in page] for page in pages] == [
        [[0, 1, 2]], [[3, 4, 5]], [[6], [7, 8]]
    ]  # fmt: skip
    assert pages[1][0].note == "rows 4–6 of 7 here; a note"
    assert cut([other], 3)[0][0] == other


def test_several_processes_give_the_same_bytes(site, tmp_path):
    render(evidence_frame(), tmp_path, PAGES, processes=2)
    assert contents(tmp_path) == contents(site)


# Bytes and files


def test_rendering_twice_gives_the_same_bytes(site, tmp_path):
    shuffled = evidence_frame().sample(frac=1.0, random_state=1)
    render(shuffled, tmp_path, PAGES)
    assert contents(tmp_path) == contents(site)


def test_a_users_matplotlib_settings_change_nothing(tmp_path):
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        render(board_frame().head(3), tmp_path / "own", PAGES)
        assert matplotlib.rcParams["font.size"] == 30
    render(board_frame().head(3), tmp_path / "default", PAGES)
    assert contents(tmp_path / "own") == contents(tmp_path / "default")


def test_unchanged_files_are_not_written_again(tmp_path):
    render(board_frame().head(3), tmp_path, PAGES)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    render(board_frame().head(3), tmp_path, PAGES)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_stale_pages_go_and_other_peoples_files_stay(tmp_path):
    render(board_frame().head(6), tmp_path, PAGES)
    (tmp_path / "notes.html").write_text("mine")
    (tmp_path / "mnist-linf" / "own.html").write_text("mine")
    expected = tmp_path.parent / "fresh"
    digits = {"digits-linf": PAGES["digits-linf"]}
    render(board_frame().head(3), tmp_path, digits)
    render(board_frame().head(3), expected, digits)
    left, fresh = contents(tmp_path), contents(expected)
    assert left.pop("notes.html") == left.pop("mnist-linf/own.html") == b"mine"
    # What changed is told in a folder with an earlier report alone.
    for name in ("changes.html", "state.json"):
        assert left.pop(name) != fresh.pop(name)
    assert left == fresh
    assert not (tmp_path / "cifar10-linf").exists()


def test_a_tampered_listing_deletes_nothing_outside(tmp_path):
    site, outside = tmp_path / "site", tmp_path / "outside"
    outside.mkdir()
    (outside / "page.html").write_text("precious")
    site.mkdir()
    (site / "way").symlink_to(outside)
    (site / "keep.txt").write_text("precious")
    listed = ("../outside/page.html", f"{outside}/page.html", "way/page.html", "keep.txt", "\udcff")
    (site / LISTING).write_text("\n".join(listed), errors="surrogateescape")
    render(board_frame().head(1), site, PAGES)
    assert (outside / "page.html").read_text() == "precious"
    assert (site / "keep.txt").read_text() == "precious"


def test_a_killed_render_leaves_no_orphans(tmp_path, monkeypatch):
    """Whatever was written before the interruption is known to the next render."""
    import benchmark.report.site as module

    original, written = module.write_atomically, []

    def failing(path, data, durable=True):
        if len(written) == 12:
            raise StorageError("disk full")
        written.append(path)
        original(path, data, durable)

    monkeypatch.setattr(module, "write_atomically", failing)
    with pytest.raises(StorageError, match="disk full"):
        render(board_frame().head(6), tmp_path, PAGES)
    monkeypatch.undo()
    render(pd.DataFrame(), tmp_path, {})
    assert sorted(contents(tmp_path)) == [
        *("changes.html", "cite.bib", "index.html", "methods/index.html", LISTING, "state.json"),
        *(f"static/{name}" for name in ("board.js", "charts.js", "compare.js", "style.css")),
        "static/tables.js",
    ]


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "site").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="expected .*rendered.txt, got"):
        render(board_frame().head(1), tmp_path / "site", PAGES)


# Figures


def ranked_rows():
    return [row for row in rank(board_frame()).to_dict("records") if row["tier"] == "full"]


def finished():
    return [row for row in ranked_rows() if row["status"] == "done"]


def test_charts_hold_a_line_a_method_from_its_dense_parent():
    (chart,) = charts(finished(), "robust accuracy")
    lines = {line.label: line for line in chart.lines}
    assert list(lines) == [
        "dense, adversarial", "dense, benign", "lwm-global", "lwm-layerwise", "random"
    ]  # fmt: skip
    sparsities = [p.at for p in lines["lwm-global"].points]
    assert sparsities == [0.0, 0.5, 0.75, 0.9, 0.95, 0.99]
    assert [p.at for p in lines["random"].points] == [0.0, 0.5, 0.75, 0.95, 0.99]
    assert lines["random"].parent
    assert lines["random"].points[0] == lines["dense, adversarial"].points[0]
    assert len({lines[name].style for name in ("lwm-global", "lwm-layerwise", "random")}) == 3


def test_points_carry_their_wilson_interval():
    made = point(0.9, 81 / 263, 263)
    assert (made.low, made.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert counted(81 / 263, 263).interval == "25.5–36.6"


def test_seeds_are_averaged_without_narrowing_the_interval():
    generator = np.random.default_rng(0)
    rows = [
        make_row("a", 0.9, outcomes_of(share, generator), seed=seed)
        for seed, share in ((0, 0.5), (1, 0.6))
    ]
    (chart,) = charts(rank(pd.DataFrame(rows)).to_dict("records"), "robust accuracy")
    (made,) = chart.lines[0].points
    assert made.accuracy == pytest.approx(
        np.mean([round(s * EXAMPLES) for s in (0.5, 0.6)]) / EXAMPLES
    )
    assert made.high - made.low > 0.07


def test_each_structure_has_its_own_chart_with_the_same_parent():
    generator = np.random.default_rng(0)
    rows = [make_row("dense", 0.0, outcomes_of(0.7, generator))]
    for structure in ("filter", "unstructured"):
        rows.append(make_row("random", 0.5, outcomes_of(0.6, generator), structure=structure))
    found = charts(rank(pd.DataFrame(rows)).to_dict("records"), "robust accuracy")
    assert [chart.group for chart in found] == ["cnn-tiny, filter", "cnn-tiny, unstructured"]
    assert all({line.label for line in chart.lines} == {"dense", "random"} for chart in found)


def test_dense_rows_alone_draw_nothing():
    rows = [make_row("dense", 0.0, outcomes_of(0.7, np.random.default_rng(0)))]
    assert charts(rank(pd.DataFrame(rows)).to_dict("records"), "robust accuracy") == []


def test_attacks_at_the_protocols_epsilon_come_first():
    row = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)))
    other = {"name": "curve", "evaluation": "curve", "epsilon": "1/4", "attempted": 9, "broken": 9}
    row["attacks"] = [other, *row["attacks"]]
    attacks = detail([row]).tables.attacks
    assert [attack.name for attack in attacks] == ["pgd", "apgd-ce", "apgd-t", "curve"]
    assert [attack.epsilon for attack in attacks] == ["3/16", "3/16", "3/16", "1/4"]


def test_a_certified_curve_that_ends_early_is_named_at_its_end():
    row = make_row("a", 0.9, outcomes_of(0.5, np.random.default_rng(0)))
    row["certified_curve"] = row["certified_curve"][:2]
    texts = svg_texts(draw_security_curve(security_curve(row)))
    assert {"robust", "certified", "protocol: 3/16"} <= set(texts)


def test_what_methods_come_to_along_their_sparsities_is_told(site, pages):
    lines = leaderboard_curves(evidence_frame()).to_dict("records")
    line = next(one for one in lines if (one["method"], one["seed"]) == ("lwm-global", 0))
    area = " ".join(percent(line[name]) for name in ("area", "area_low"))
    told = summaries([line])[0]
    assert told.area == f"{area.replace(' ', ' [')}, {percent(line['area_high'])}]"
    assert told.levels == "0, 50, 75, 90, 95, 99"
    words = pages[site / "digits-linf" / "index.html"].text
    assert (
        f"lwm-global {told.area} {told.kept} {told.levels} adversarial, digits-1, seed 0 "
        "cnn-tiny, unstructured"
    ) in words
    assert "Keeps 90 % of dense up to" in words
    # Seeds without a dense network of their own come to nothing.
    assert "seed 1 cnn-tiny" not in words.partition("Accuracy, efficiency, robustness")[0]


def test_smaller_tiers_do_not_repeat_curves(tmp_path):
    generator = np.random.default_rng(0)
    rows = [
        make_row(method, sparsity, outcomes_of(0.5, generator, count), tier=tier, examples=count)
        for tier, count in (("full", EXAMPLES), ("quick", 100))
        for method, sparsity in (("dense", 0.0), ("random", 0.5))
    ]
    render(pd.DataFrame(rows), tmp_path, {"digits-linf": protocol_page()})
    page = Page((tmp_path / "digits-linf" / "index.html").read_text())
    assert page.text.count("Keeps 90 % of dense up to") == 1
    assert len(page.images) == 2


def test_a_sparsity_past_the_last_one_measured_is_at_least_that():
    line = {"levels": [0.0, 0.5, 0.9], "area": 0.5, "kept_sparsity": 0.9, "kept_share": 0.9}
    ends = {"kept_low": 0.7, "kept_high": 0.9, "area_low": 0.4, "area_high": 0.6}
    assert summaries([{**line, **ends}])[0].kept == "≥ 90.0 [70.0, ≥ 90.0]"
    assert summaries([{**line, **ends, "kept_sparsity": 0.8}])[0].kept == "80.0 [70.0, ≥ 90.0]"
    assert summaries([{**line, **ends, "area": float("nan")}]) == ()
    assert summaries([{**line, **ends, "kept_sparsity": float("nan")}])[0].kept == "—"


def test_a_measure_nobody_has_draws_nothing():
    rows = [{**row, "certified_accuracy": float("nan")} for row in finished()]
    assert charts(rows, "certified accuracy") == []


def test_the_security_curve_starts_at_clean_accuracy():
    row = next(row for row in finished() if row["method"] == "lwm-global")
    curve = security_curve(row)
    assert curve.robust[0].at == curve.certified[0].at == 0
    assert curve.robust[0].accuracy == curve.certified[0].accuracy == row["clean_accuracy"]
    assert curve.epsilon == ("3/16", 0.1875)
    assert [printed for printed, _ in curve.ticks] == ["0", "1/16", "1/8", "3/16", "1/4"]


def test_no_curve_without_measurements():
    failed = make_row("random", 0.9, status="failed", reason="crash", examples=np.nan)
    assert security_curve(failed) is None


def chart_of(labels):
    lines = tuple(
        Line(label, index, (point(0.5, 0.5, 100), point(0.99, 0.3 + index / 1000, 100)))
        for index, label in enumerate(labels)
    )
    return Chart("robust accuracy", "net", "Linf 8/255", 100, lines)


def svg_texts(data):
    root = ElementTree.fromstring(data)
    return [
        "".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")
    ]


def test_figures_name_axes_ticks_and_lines():
    drawing = draw_chart(chart_of(["alpha", "beta"]))
    texts = svg_texts(drawing.light)
    joined = " ".join(texts)
    for expected in ("robust accuracy (%)", "sparsity (%) and compression ratio", "alpha", "beta"):
        assert expected in joined
    for tick in ("0", "50", "75", "90", "95", "99"):
        assert any(text.split()[:1] == [tick] for text in texts)
    assert "alpha: 50.0 % at 50 %, 30.0 % at 99 %" in drawing.words


@pytest.mark.parametrize("name", [HOSTILE, "$\\frac{1}{$", "神経網", "]]>", "a" * 300, "&amp;"])
def test_hostile_names_draw_as_text(name):
    texts = svg_texts(draw_chart(chart_of([name])).light)
    assert any(text.rstrip("…") and name.startswith(text.rstrip("…")) for text in texts)


def test_names_never_overlap_even_when_lines_end_together():
    data = draw_chart(chart_of([f"method-{index}" for index in range(20)])).light.decode()
    places = re.findall(r'<text[^>]*?(?:y="|translate\([-\d.]+ )([\d.]+)[^>]*>method-', data)
    heights = sorted(float(place) for place in places)
    assert len(heights) == 20
    assert np.diff(heights).min() > 10.5  # the font's size


def test_spread_keeps_order_gap_and_bounds():
    levels = spread([0.0, 0.01, 0.5, 0.98, 0.99, 1.0], 0.1)
    assert levels == sorted(levels)
    assert np.diff(levels).min() >= 0.1 - 1e-12
    assert levels[-1] <= 1.0
    assert levels[2] == 0.5


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_series_are_readable_in_both_themes(site):
    """WCAG: 3 : 1 for graphics, 4.5 : 1 for the names, which have the colour of their line."""
    style = (site / "static" / "style.css").read_text()
    light_page, dark_page = re.findall(r"--page: (#[0-9a-f]{6})", style)
    for light, dark in (*SERIES, INK, PROVEN, ATTACKED):
        assert contrast(light, light_page) >= 4.5, light
        assert contrast(dark, dark_page) >= 4.5, dark
    assert contrast(FRAME[0], light_page) >= 3 and contrast(FRAME[1], dark_page) >= 3


def test_text_colours_are_readable_in_both_themes(site):
    style = (site / "static" / "style.css").read_text()
    for name in ("ink", "quiet", "link", "flag"):
        backgrounds = re.findall(r"--page: (#[0-9a-f]{6})", style)
        for colour, page in zip(
            re.findall(rf"--{name}: (#[0-9a-f]{{6}})", style), backgrounds, strict=True
        ):
            assert contrast(colour, page) >= 4.5, (name, colour)


def test_the_dark_picture_differs_in_colours_only():
    drawing = draw_chart(chart_of(["alpha"]))
    light, dark = drawing.light.decode(), drawing.dark.decode()
    assert dark == darkened(light) != light
    strip = re.compile(r"#[0-9a-f]{6}")
    assert strip.sub("", light) == strip.sub("", dark)
    for colour, _ in (INK, GRID, FRAME, SERIES[0]):
        assert colour in light and colour not in dark


# Words


def test_percentages_have_one_decimal_or_a_dash():
    assert percent(0.5) == "50.0" and percent(1.0) == "100.0"
    assert percent(float("nan")) == percent(float("inf")) == "—"


def test_missing_values_of_every_kind_are_no_numbers():
    for value in (None, float("nan"), pd.NA, pd.NaT, "3", True, np.bool_(True)):
        assert np.isnan(number(value))
    for value in (3, 3.0, np.int64(3), np.float32(3)):
        assert number(value) == 3.0


def test_amounts_and_durations():
    assert (scaled(999), scaled(1000), scaled(2.5e9, "B")) == ("999", "1 k", "2.5 GB")
    assert scaled(None) == duration(float("nan")) == "—"
    assert (duration(59.94), duration(60), duration(3600)) == ("59.9 s", "1 min 00 s", "1 h 00 min")
