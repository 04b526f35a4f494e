"""Text that others wrote is shown as text: it runs nothing, widens nothing and turns nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Opener, controls, faint, handlers, overflow, shoot, spills, violations
from sites import BOUND, FREE, LEFTWARD, MARK, SCRIPT, Site

from benchmark.manifest import Checkpoint

KINDS = ("index", "protocol", "checkpoint", "latency", "part")


def test_every_field_of_the_manifest_is_hostile_or_bound() -> None:
    assert set(FREE) | BOUND == set(Checkpoint.model_fields)


@pytest.fixture
def opener(browser, sites) -> Iterator[Opener]:
    opener = Opener(browser, sites)
    yield opener
    opener.close()


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", ["hostile", "long"])
def test_nothing_runs_and_nothing_breaks_out(name: str, width: int, opener: Opener, sites) -> None:
    site, wide, turning = sites[name], {}, {}
    for number, path in enumerate(foreign(site)):
        page = opener.path(path, site.root, width=width)
        shoot(page, f"{name}-{number}-{width}")
        assert page.evaluate(f"() => {MARK}") is None
        schemes = page.evaluate("() => [...document.links].map(a => a.protocol)")
        assert set(schemes) <= {"file:", "http:", "https:"}
        assert handlers(page) == []
        turning[path.name], wide[path.name] = controls(page), overflow(page)
    assert opener.close() == []
    assert {path: found for path, found in turning.items() if found} == {}
    assert {path: pixels for path, pixels in wide.items() if pixels} == {}


def foreign(site: Site) -> list[Path]:
    """The pages with foreign text: the largest of each template, and all small checkpoints'."""
    found = [pages[-1] for kind in KINDS if (pages := site.made_from(kind))]
    return found + site.made_from("checkpoint")[-9:-1]


def test_text_is_shown_as_it_was_written(open_page: Opener, sites) -> None:
    site = sites["hostile"]
    path = next(p for p in site.made_from("checkpoint") if "=1+1 licence" in p.read_text())
    page = open_page.path(path, site.root)
    words = page.inner_text("body")
    for field in ("display_name", "paper", "licence", "extra_data", "recipe"):
        assert f"=1+1 {field} {SCRIPT[:8]}" in words
    assert violations(page) == []
    assert faint(page) == []


def test_text_from_right_to_left_moves_nothing_beside_it(open_page: Opener, sites) -> None:
    site, found = sites["hostile"], {}
    for path in (p for p in map(site.root.joinpath, site.pages) if LEFTWARD in p.read_text()):
        page = open_page.path(path, site.root)
        found[path.name] = spills(page, LEFTWARD)
    assert found
    assert {path: moved for path, moved in found.items() if moved} == {}
