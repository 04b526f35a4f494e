"""What holds on each kind of page, in both themes and at three widths."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from browsing import (
    KINDS,
    PAPER,
    THEMES,
    WIDTHS,
    Opener,
    faint,
    first_paint,
    overflow,
    shoot,
    shown,
    violations,
)

# These show a table of figures and a curve, whatever else they show.
DRAWN = ("board", "checkpoint", "compare")
# Say in words that there is nothing yet.
BARE = ("board-empty", "changes-first")


@dataclass(frozen=True)
class Visit:
    """An open page, and what it did while it was loaded."""

    page: Any
    problems: list[str]
    paint: float


VISITS = [
    pytest.param((kind, theme, width), id=f"{kind}-{theme}-{width}")
    for kind in KINDS
    for theme in THEMES
    for width in WIDTHS
]


# One load serves all tests of a page.
@pytest.fixture(scope="module", params=VISITS)
def visit(request: pytest.FixtureRequest, browser, sites) -> Iterator[Visit]:
    kind, theme, width = request.param
    opener = Opener(browser, sites)
    page = opener(kind, theme, width)
    paint = first_paint(page)
    shoot(page, f"{kind}-{theme}-{width}")
    yield Visit(page, opener.problems, paint)
    opener.close()


def test_page_makes_no_error_and_asks_for_nothing_outside(visit: Visit) -> None:
    assert visit.problems == []


def test_page_itself_does_not_scroll_sideways(visit: Visit) -> None:
    assert overflow(visit.page) == 0


def test_content_is_painted_within_a_second_from_disk(visit: Visit) -> None:
    # First contentful paint, from the start of navigation, as the browser itself reports it.
    assert 0 < visit.paint < 1000


def test_page_is_accessible(visit: Visit) -> None:
    assert violations(visit.page) == []


def test_text_stands_out_from_its_background(visit: Visit) -> None:
    assert faint(visit.page) == []


@pytest.mark.parametrize("kind", KINDS)
def test_tables_and_figures_are_there_without_scripts(kind: str, open_page: Opener) -> None:
    page = open_page(kind, scripts=False)
    there, seen = shown(page, "table tr")
    assert there == seen
    assert (seen > 0) == (kind not in BARE)
    there, seen = shown(page, "figure img, figure svg")
    assert there == seen
    assert seen > 0 or kind not in DRAWN
    empty = page.evaluate("() => [...document.images].filter(i => !i.naturalWidth).map(i => i.src)")
    assert empty == []
    # Without scripts they would do nothing.
    assert shown(page, "button, input, select, textarea")[1] == 0


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_rows_are_printed_dark_on_light(kind: str, theme: str, open_page: Opener) -> None:
    whole = shown(open_page(kind, scripts=False), "table tr")
    page = open_page(kind, theme, PAPER)
    page.emulate_media(media="print")
    shoot(page, f"{kind}-{theme}-print")
    assert shown(page, "table tr")[1] >= whole[1]
    assert (whole[1] > 0) == (kind not in BARE)
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert faint(page) == []


def test_full_page_of_a_large_board_is_painted_within_a_second(browser, sites) -> None:
    opener = Opener(browser, sites)
    site = sites["large"]
    for template in ("part", "latency"):
        page = opener.path(site.made_from(template)[-1], site.root)
        assert 0 < first_paint(page) < 1000
    assert opener.close() == []
