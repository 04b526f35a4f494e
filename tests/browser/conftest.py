"""A browser and the sites it opens, each made once, where there is a browser."""

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "unit")]

import browsing  # noqa: E402
import chromium  # noqa: E402
import sites as made  # noqa: E402


def _lacking() -> str:
    """Returns what these tests need and the machine lacks, in a line."""
    if not (find_spec("playwright") and find_spec("axe_playwright_python")):
        return "needs the extra 'browser': run `make test-browser`"
    return "" if chromium.found() else chromium.ADVICE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = _lacking()
    # Whoever names a browser wants these tests to run: then what is lacking fails them.
    skipped = lacking and not os.environ.get(chromium.VARIABLE)
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")
            if skipped:
                item.add_marker(pytest.mark.skip(reason=lacking))


@pytest.fixture(scope="session")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium.found(), args=list(browsing.FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> made.Project:
    return made.evaluated(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def sites(
    evaluated: made.Project, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, made.Site]:
    root = tmp_path_factory.mktemp("sites")
    return {
        "board": made.board(evaluated),
        "empty": made.empty(root / "empty"),
        "flagged": made.flagged(root / "flagged"),
        "parts": made.parts(root / "parts"),
        "large": made.large(root / "large"),
        "hostile": made.hostile(evaluated, root / "hostile"),
        "long": made.long(root / "long"),
    }


@pytest.fixture
def open_page(browser, sites: Mapping[str, made.Site]) -> Iterator[browsing.Opener]:
    """Opens pages by kind, theme and width; none may have done what no page may."""
    opener = browsing.Opener(browser, sites)
    yield opener
    assert opener.close() == []
