"""The checks themselves: each finds the fault that it is there for, and a sound page has none."""

from pathlib import Path

import pytest
from browsing import Opener, controls, faint, first_paint, overflow, shown, spills, violations
from sites import LEFTWARD

SOUND = f"""<!DOCTYPE html><html lang="en"><head><title>Sound</title><meta charset="utf-8">
<link rel="icon" href="data:,"></head><body style="background: #fff; color: #222"><main>
<h1><bdi>{LEFTWARD}</bdi> 50 % sparsity</h1>
<table><tr><th scope="col">Name</th></tr><tr><td><bdi>{LEFTWARD}</bdi>, 90 %</td></tr></table>
<p>A fault belongs here: <!-- here --></p></main></body></html>"""


@pytest.fixture
def opener(browser):
    opener = Opener(browser, {})
    yield opener
    opener.close()


def opened(opener: Opener, folder: Path, fault: str = "", **settings):
    path = folder / "page.html"
    path.write_text(SOUND.replace("<!-- here -->", fault))
    return opener.path(path, folder, **settings)


def test_sound_page_has_no_fault(opener: Opener, tmp_path: Path) -> None:
    page = opened(opener, tmp_path, width=390)
    assert first_paint(page) > 0
    assert violations(page) == faint(page) == controls(page) == spills(page, LEFTWARD) == []
    assert overflow(page) == 0
    assert shown(page, "table tr") == (2, 2)
    assert opener.close() == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("<script>throw new Error('thrown')</script>", "error thrown"),
        ("<script>console.error('said')</script>", "console said"),
        ("<script>alert('asked')</script>", "dialog asked"),
        ("<img alt='' src='https://example.invalid/x.png'>", "request of https://example.invalid"),
        ("<img alt='' src='../elsewhere.png'>", "request of file:///"),
        ("<img alt='' src='lost.png'>", "request failed: file:///"),
    ],
    ids=["error", "console", "dialog", "outside", "elsewhere", "lost"],
)
def test_what_a_page_must_not_do_is_noted(
    opener: Opener, tmp_path: Path, fault: str, words: str
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    opened(opener, folder, fault).wait_for_timeout(200)
    assert any(words in problem for problem in opener.close())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("<input>", "label"),
        ("<span style='color: #999'>pale</span>", "color-contrast"),
        ("<a href='#'></a>", "link-name"),
    ],
)
def test_axe_finds(opener: Opener, tmp_path: Path, fault: str, words: str) -> None:
    assert any(one.startswith(words) for one in violations(opened(opener, tmp_path, fault)))


@pytest.mark.parametrize(
    "fault",
    [
        "<span style='color: #999'>pale</span>",
        "<span style='opacity: 0.3'>pale</span>",
        # All that axe says to these is that it cannot tell.
        "<span style='color: #999; background: linear-gradient(#fff, #fff)'>pale</span>",
        "<svg width='90' height='20'><text y='15' fill='#999'>pale</text></svg>",
        "<span style='background: #345'>dark on dark</span>",
    ],
    ids=["colour", "opacity", "gradient", "drawing", "ground"],
)
def test_pale_text_is_found(opener: Opener, tmp_path: Path, fault: str) -> None:
    [found] = faint(opened(opener, tmp_path, fault))
    assert found.startswith("contrast ")


def test_wide_page_is_found(opener: Opener, tmp_path: Path) -> None:
    page = opened(opener, tmp_path, "<div style='width: 500px'>wide</div>", width=390)
    assert overflow(page) >= 110


def test_late_content_is_measured(opener: Opener, tmp_path: Path) -> None:
    busy = "<script>const end = performance.now() + 700; while (performance.now() < end);</script>"
    path = tmp_path / "late.html"
    path.write_text(SOUND.replace("<body", f"{busy}<body"))
    assert first_paint(opener.path(path, tmp_path)) > 700


def test_hidden_rows_are_missed_and_closed_parts_are_not(opener: Opener, tmp_path: Path) -> None:
    row = "<table><tr{}><td>more</td></tr></table>"
    fault = row.format(" hidden") + f"<details><summary>s</summary>{row.format('')}</details>"
    assert shown(opened(opener, tmp_path, fault), "table tr") == (3, 2)


@pytest.mark.parametrize(
    "fault",
    [f"{LEFTWARD} 50 % sparsity", f"<b>{LEFTWARD}</b> 12 of 13", f"a \u202e b {LEFTWARD} c"],
    ids=["text", "element", "override"],
)
def test_moved_neighbours_are_found(opener: Opener, tmp_path: Path, fault: str) -> None:
    assert spills(opened(opener, tmp_path, fault), LEFTWARD)


@pytest.mark.parametrize("fault", ["a\u202eb", "<b title='a\u200fb'>c</b>"], ids=["text", "title"])
def test_turning_characters_are_found(opener: Opener, tmp_path: Path, fault: str) -> None:
    assert len(controls(opened(opener, tmp_path, fault))) == 1
