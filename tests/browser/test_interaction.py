"""What a reader does with pages: sort, filter, come back to a view, toggle a curve, download."""

import csv
from pathlib import Path

import pytest
from browsing import Opener, faint, shoot, violations
from report_frame import evidence_frame

from benchmark.comparison import head_to_head
from benchmark.leaderboard import rank

BOARD = "board-flagged"
COMPARE = "compare-flagged"


def visible(page):
    """Returns the rows that a reader sees on a board, each as its cells' texts."""
    return page.evaluate(
        """() => [...document.querySelectorAll("#board tbody tr:not(.cell)")]
        .map(row => [...row.cells].map(cell => cell.textContent.trim().replace(/\\s+/g, " ")))"""
    )


def column(page, key):
    place = page.evaluate(
        "key => [...document.querySelectorAll('#board thead th')].findIndex("
        "head => head.dataset.key === key)",
        key,
    )
    return [row[place] for row in visible(page)]


def orders(page, key):
    """Returns what the cells of a column are sorted by."""
    return page.evaluate(
        """key => {
            const heads = [...document.querySelectorAll("#board thead th")];
            const place = heads.findIndex(head => head.dataset.key === key);
            const rows = [...document.querySelectorAll("#board tbody tr:not(.cell)")];
            return rows.map(row => row.cells[place].dataset.order);
        }""",
        key,
    )


def head(page, key):
    return page.locator(f"#board thead th[data-key='{key}']")


def sorts(page, key, way):
    """Waits until a board is sorted by a column; the library does so after its event."""
    page.wait_for_selector(f"#board thead th[data-key='{key}'][aria-sort='{way}']")


def choose(page, facet, *values):
    page.locator(f"[data-facet='{facet}'] summary").click()
    for value in values:
        page.locator(f"[data-facet='{facet}'] input[value='{value}']").check()
    page.keyboard.press("Escape")


def rows():
    found = rank(evidence_frame()).to_dict("records")
    return [row for row in found if row["tier"] == "full"]


def test_a_column_sorts_both_ways_and_back(open_page: Opener) -> None:
    page = open_page(BOARD)
    before = visible(page)
    groups = page.locator("#board tr.cell").count()
    assert groups > 3
    head(page, "clean").click()
    sorts(page, "clean", "descending")
    down = [float(value) for value in orders(page, "clean") if value]
    assert down == sorted(down, reverse=True) and len(set(down)) > 3
    assert head(page, "clean").get_attribute("aria-sort") == "descending"
    # Rows of all groups are mixed now, so no heading may stand over them.
    assert page.locator("#board tr.cell").count() == 0
    head(page, "clean").click()
    sorts(page, "clean", "ascending")
    up = [float(value) for value in orders(page, "clean") if value]
    assert up == down[::-1]
    assert "sort=clean.asc" in page.url
    head(page, "clean").click()
    page.wait_for_selector("#board:not(:has(th[aria-sort]))")
    assert visible(page) == before
    assert page.locator("#board tr.cell").count() == groups


def test_sorting_works_from_the_keyboard(open_page: Opener) -> None:
    page = open_page(BOARD)
    head(page, "gain").locator("[tabindex]").first.focus()
    page.keyboard.press("Enter")
    sorts(page, "gain", "descending")
    found = [float(value) for value in orders(page, "gain") if value]
    assert found == sorted(found, reverse=True) and len(found) > 3


def test_filters_and_search_leave_what_matches(open_page: Opener) -> None:
    page = open_page(BOARD)
    total = len(visible(page))
    assert total == len(rows())
    choose(page, "sparsity", "90 %", "99 %")
    left = visible(page)
    assert 0 < len(left) < total
    assert {float(value) for value in column(page, "sparsity")} == {90.0, 99.0}
    assert page.locator("#shown").text_content() == f"{len(left)} of {total} rows"
    page.fill("#search", "lwm-global")
    assert all("lwm-global" in row[1] for row in visible(page))
    # Headings stand over groups that have a row left, and over no other.
    assert page.locator("#board tr.cell").count() == 2
    page.fill("#search", "no such method")
    assert "No row matches." in page.locator("#board tbody").text_content()
    page.click("#reset")
    assert len(visible(page)) == total and page.url.rstrip("#").endswith(".html")


def test_a_view_is_restored_from_its_address(open_page: Opener) -> None:
    page = open_page(BOARD)
    choose(page, "objective", "adversarial")
    page.fill("#search", "lwm")
    head(page, "sparsity").click()
    sorts(page, "sparsity", "descending")
    page.locator("#columns summary").click()
    page.locator("#columns input[value='bytes']").check()
    wanted, address = visible(page), page.url
    shoot(page, "board-view")
    page.goto("about:blank")
    page.goto(address)
    assert visible(page) == wanted and page.url == address
    assert page.locator("#board th.c-bytes").is_visible()
    assert not page.locator("#board th.c-recipe").is_visible()
    assert page.input_value("#search") == "lwm"
    # Another address in the same tab is another view.
    page.evaluate("() => { location.hash = 'q=random' }")
    page.wait_for_function("() => document.getElementById('search').value === 'random'")
    assert all("random" in row[1] for row in visible(page))


@pytest.mark.parametrize("kind", [BOARD, "board-reported"])
def test_open_choices_are_accessible(kind: str, open_page: Opener) -> None:
    for theme in ("light", "dark"):
        page = open_page(kind, theme, 390)
        page.locator("#columns summary").click()
        assert violations(page) == []
        assert faint(page) == []
        shoot(page, f"{kind}-choices-{theme}")


def test_a_row_leads_to_its_checkpoint(open_page: Opener) -> None:
    page = open_page(BOARD)
    link = page.locator("#board tbody th.name a").nth(3)
    name = link.text_content()
    link.click()
    assert name in page.locator("h1").text_content()
    assert page.locator("h2#result").count() == 1


def test_a_downloaded_csv_holds_the_frame_s_numbers(open_page: Opener) -> None:
    page = open_page(BOARD)
    with page.expect_download() as started:
        page.click(".downloads >> text=CSV")
    with Path(started.value.path()).open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(rows())
    for line, row in zip(lines, rows(), strict=True):
        assert line["checkpoint_id"] == str(row["checkpoint_id"])
        for name in ("robust_accuracy", "certified_accuracy", "clean_accuracy", "gain"):
            known = row[name] == row[name]
            assert float(line[name]) == row[name] if known else line[name] == ""


# The comparison


def drawn(page, place):
    """Waits until a chart is there, and returns how often it was drawn."""
    page.wait_for_function(f"() => document.querySelector('#{place}').dataset.drawn")
    return int(page.locator(f"#{place}").get_attribute("data-drawn"))


def labels(page):
    """Returns the legend of the chart of methods, and which of its entries are shown."""
    return page.evaluate(
        """() => {
            const plots = Bokeh.documents.flatMap(one => one.roots());
            const legends = plots.filter(one => String(one.below[0].axis_label)
                .startsWith("sparsity")).flatMap(one => one.right)
                .filter(one => one.type.endsWith("Legend"));
            return legends[0].items.map(
                item => [JSON.stringify(item.label), item.renderers.some(r => r.visible)]);
        }"""
    )


def test_methods_can_be_chosen_and_the_address_keeps_them(open_page: Opener) -> None:
    page = open_page(COMPARE)
    before = drawn(page, "curves-chart")
    boxes = page.locator("#methods input")
    assert boxes.count() > 3
    page.click("#none")
    boxes.nth(1).check()
    boxes.nth(2).check()
    page.wait_for_function(
        "least => Number(document.querySelector('#curves-chart').dataset.drawn) > least",
        arg=before + 1,
    )
    shoot(page, "compare-two")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    drawn(page, "curves-chart")
    ticked = [boxes.nth(place).is_checked() for place in range(boxes.count())]
    assert [place for place, on in enumerate(ticked) if on] == [1, 2]


@pytest.mark.parametrize("measure", ["robust", "certified", "clean", "gain"])
def test_each_measure_is_drawn(measure: str, open_page: Opener) -> None:
    page = open_page(COMPARE)
    before = drawn(page, "curves-chart")
    page.select_option("#measure", "clean" if measure == "robust" else measure)
    page.select_option("#measure", measure)
    page.wait_for_function(
        "least => Number(document.querySelector('#curves-chart').dataset.drawn) > least",
        arg=before,
    )
    assert violations(page) == []


def test_a_legend_toggles_its_curve(open_page: Opener) -> None:
    page = open_page(COMPARE)
    drawn(page, "curves-chart")
    before = labels(page)
    assert all(on for _, on in before) and len(before) > 3
    box = page.locator("#curves-chart").bounding_box()
    # The legend is drawn on a canvas, so its first entry is looked for where it must be.
    place = page.evaluate(
        """() => {
            const find = (node) => [...node.querySelectorAll("*")].flatMap(
                one => [one, ...(one.shadowRoot ? find(one.shadowRoot) : [])]);
            const all = find(document.getElementById("curves-chart"));
            const entry = all.find(one => one.classList?.contains("bk-item")
                || one.classList?.contains("bk-glyph"));
            if (!entry) return null;
            const { left, top, width, height } = entry.getBoundingClientRect();
            return [left + width / 2, top + height / 2];
        }"""
    )
    assert place is not None and box is not None
    page.mouse.click(*place)
    page.wait_for_timeout(200)
    after = labels(page)
    assert [on for _, on in after].count(False) == 1


@pytest.mark.parametrize("pair", [(0, 1), (4, 9), (2, 2), (3, 12)])
def test_two_checkpoints_meet_as_in_python(pair, open_page: Opener) -> None:
    standing = [row for row in rows() if row["status"] == "done"]
    first, second = (standing[place] for place in pair)
    page = open_page(COMPARE)
    drawn(page, "security-chart")
    for name, place in zip(("first", "second"), pair, strict=True):
        page.select_option(f"#{name}", str(place))
    contest = head_to_head(first, second)
    for name in ("both", "only-first", "only-second", "neither"):
        wanted = getattr(contest, name.replace("-", "_"))
        assert page.locator(f"#{name}").text_content() == f"{wanted:,}"
    shown = page.locator("#p").get_attribute("data-value")
    assert float(shown) == pytest.approx(contest.p, rel=1e-9)
    low, high = (
        float(page.locator("#difference").get_attribute(f"data-{end}")) for end in ("low", "high")
    )
    assert (low, high) == pytest.approx((contest.difference.low, contest.difference.high), abs=1e-9)
    told = page.locator("#verdict").text_content()
    assert ("tells them apart" in told) == (contest.p <= 0.05 and pair[0] != pair[1])
    page.locator("summary", has_text="the first alone").click()
    wins = ", ".join(map(str, contest.first_wins)) or "none"
    assert page.locator("#first-wins").text_content() == wins
    ids = [page.locator(f"#links a >> nth={n}").get_attribute("href") for n in (0, 1)]
    assert all((Path(page.url.partition("#")[0].removeprefix("file://")).parent / i).is_file()
               for i in ids)  # fmt: skip
    # The address leads back to the same two.
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    drawn(page, "security-chart")
    assert page.locator("#both").text_content() == f"{contest.both:,}"


def test_the_front_of_each_cost_is_drawn(open_page: Opener) -> None:
    page = open_page(COMPARE)
    before = drawn(page, "front-chart")
    options = page.locator("#cost option").count()
    assert options > 1
    for place in range(options):
        page.select_option("#cost", index=place)
    page.wait_for_function(
        "least => Number(document.querySelector('#front-chart').dataset.drawn) >= least",
        arg=before + 1,
    )


def test_charts_follow_the_theme(open_page: Opener) -> None:
    page = open_page(COMPARE, "light")
    before = drawn(page, "curves-chart")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "least => Number(document.querySelector('#curves-chart').dataset.drawn) > least",
        arg=before,
    )
    assert faint(page) == []


def test_the_best_at_a_sparsity_is_found_from_the_index(open_page: Opener) -> None:
    """The way of a newcomer: the index names it, and leads to the test behind it."""
    page = open_page("index-flagged")
    line = page.locator("section tr", has_text="99 % sparsity").first
    verdict = line.locator("td a").last
    assert "separable" in verdict.text_content()
    verdict.click()
    drawn(page, "security-chart")
    assert "compare.html#first=" in page.url
    told = page.locator("#verdict").text_content()
    assert "paired test" in told
