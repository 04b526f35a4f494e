"""The site: what it says, what it never says, its links, its bytes, its files."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from report_frame import (
    EXAMPLES,
    HOSTILE,
    board_frame,
    make_row,
    other_pages,
    outcomes_of,
    protocol_page,
)

from benchmark.errors import InvariantViolation, StorageError, UnknownName
from benchmark.leaderboard import rank
from benchmark.report import render
from benchmark.report.curves import Chart, Line, charts, point, security_curve
from benchmark.report.details import checkpoint
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
from benchmark.report.site import LISTING, Site, environment
from benchmark.report.views import boards, counted
from benchmark.report.wording import FLAGS, duration, folder, link, number, percent, scaled, slug

PAGES = {page.id: page for page in (protocol_page(), *other_pages())}
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
    render(board_frame(), root, PAGES)
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
    assert len(list((site / "digits-linf").glob("*.html"))) == 1 + 17
    assert (site / "static" / "style.css").is_file()
    # Two measures and one curve for each of the 16 finished checkpoints, each in two themes.
    assert len(list((site / "figures").glob("*.svg"))) == 2 * (2 + 16)


def test_render_returns_the_files_it_wrote(tmp_path):
    paths = render(board_frame().head(3), tmp_path, PAGES)
    assert paths == sorted(path for path in tmp_path.rglob("*") if path.is_file())


def test_names_are_safe_and_bounded(site):
    for path in site.rglob("*"):
        if path.is_file() and path.name != LISTING:
            assert re.fullmatch(r"[a-z0-9-]{1,100}\.(html|svg|css)", path.name)


def test_every_link_and_picture_leads_to_a_file(site, pages):
    for path, page in pages.items():
        targets = [*page.links, *page.requests]
        for target in targets:
            if target.startswith(("https://", "#", "data:")):
                continue
            name, _, anchor = target.partition("#")
            assert (path.parent / name).resolve().is_relative_to(site.resolve())
            assert (path.parent / name).is_file(), f"{target} in {path}"
            assert not anchor
        assert len(set(page.ids)) == len(page.ids)


def test_nothing_is_requested_from_elsewhere(site, pages):
    for page in pages.values():
        assert not any("//" in request for request in page.requests)
        assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
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
                assert values["scope"] in ("col", "row", "rowgroup")


# What the pages say


def test_the_board_shows_the_numbers(pages, site):
    words = pages[site / "digits-linf" / "index.html"].text
    frame = board_frame()
    row = frame[frame["method"] == "lwm-global"].iloc[-1]
    shares = [row[f"{name}_accuracy"] for name in ("clean", "pgd", "autoattack", "certified")]
    line = " ".join(percent(share) for share in shares)
    ends = f"[{percent(row['certified_accuracy'])}, {percent(row['robust_accuracy'])}]"
    assert f"lwm-global 99 % {ends} 99.0 {line} adversarial cnn-tiny unstructured" in words
    assert "594 examples" in words
    # Half of 594: 1.96 sqrt(0.25 / 594) = 0.0402, hardly narrowed by Wilson's correction.
    assert "± 4.0 points" in words


def test_numbers_never_appear_as_nan(site):
    for name, data in contents(site).items():
        if name.endswith((".html", ".svg")):
            assert not re.search(rb"\b(nan|NaN|None|inf|<NA>|NaT)\b", data), name


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
    assert cell.note == "2 of 3 share the first rank"
    assert "less robust than the best" in cell.rows[2].rank_words
    assert cell.rows[0].notes == ("lacks controls: dense, random, magnitude",)


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
        "attack steps in training 10",
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


def test_the_tier_with_most_results_comes_first():
    generator = np.random.default_rng(1)
    rows = [
        make_row(m, 0.9, outcomes_of(0.5, generator, 100), tier="quick", examples=100) for m in "ab"
    ]
    rows.append(make_row("a", 0.9, outcomes_of(0.5, generator)))
    ranked = rank(pd.DataFrame(rows)).to_dict("records")
    assert [board.tier for board in boards(protocol_page(), ranked)] == ["quick", "full"]


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
    assert "No records yet" in empty and "Linf 3/10" in empty
    index = pages[site / "index.html"].text
    assert (
        "MNIST, Linf Linf 3/10 — — — no records yet quick 200, standard 1,000, full 10,000" in index
    )
    assert "Digits, Linf Linf 3/16 4 17 1 full (594), quick (100)" in index


def test_an_empty_frame_renders(tmp_path):
    render(pd.DataFrame(), tmp_path, PAGES)
    assert "no records yet" in (tmp_path / "index.html").read_text()


def test_a_row_of_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="unknown protocol 'digits-linf'"):
        render(board_frame(), tmp_path, {"mnist-linf": other_pages()[0]})
    assert not list(tmp_path.iterdir())


# Hostile input


def test_hostile_strings_stay_text(site, pages):
    assert not any("<script" in path.read_text() for path in pages)
    assert not any("<img src=x" in path.read_text() for path in pages)
    hostile = page_of(pages, "etc-")
    assert HOSTILE in hostile.text
    assert "javascript:alert(1)" in hostile.text
    assert not any(href.startswith("javascript") for page in pages.values() for href in page.links)


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
    content = Site()
    content.add("a.html", b"")
    with pytest.raises(InvariantViolation, match="one page at a.html"):
        content.add("a.html", b"")


# Bytes and files


def test_rendering_twice_gives_the_same_bytes(site, tmp_path):
    shuffled = board_frame().sample(frac=1.0, random_state=1)
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
    left = contents(tmp_path)
    assert left.pop("notes.html") == left.pop("mnist-linf/own.html") == b"mine"
    assert left == contents(expected)
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

    def failing(path, data):
        if len(written) == 12:
            raise StorageError("disk full")
        written.append(path)
        original(path, data)

    monkeypatch.setattr(module, "write_atomically", failing)
    with pytest.raises(StorageError, match="disk full"):
        render(board_frame().head(6), tmp_path, PAGES)
    monkeypatch.undo()
    render(pd.DataFrame(), tmp_path, {})
    assert sorted(contents(tmp_path)) == ["index.html", LISTING, "static/style.css"]


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
    (chart,) = charts(finished(), "robust_accuracy", "robust accuracy")
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
    (chart,) = charts(rank(pd.DataFrame(rows)).to_dict("records"), "robust_accuracy", "x")
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
    found = charts(rank(pd.DataFrame(rows)).to_dict("records"), "robust_accuracy", "x")
    assert [chart.group for chart in found] == ["cnn-tiny, filter", "cnn-tiny, unstructured"]
    assert all({line.label for line in chart.lines} == {"dense", "random"} for chart in found)


def test_dense_rows_alone_draw_nothing():
    rows = [make_row("dense", 0.0, outcomes_of(0.7, np.random.default_rng(0)))]
    assert charts(rank(pd.DataFrame(rows)).to_dict("records"), "robust_accuracy", "x") == []


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
    texts = svg_texts(draw_security_curve(security_curve(row)).light)
    assert {"robust", "certified", "protocol: 3/16"} <= set(texts)


def test_a_measure_nobody_has_draws_nothing():
    rows = [{**row, "certified_accuracy": float("nan")} for row in finished()]
    assert charts(rows, "certified_accuracy", "certified accuracy") == []


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
