"""Pages in a browser: opening each kind of them, and what must hold on any page.

A template that extends the base is a kind of page by itself; a state of a page that deserves a look
of its own gets a line in `KINDS`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from sites import Site

from benchmark.report.site import HERE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request

THEMES = ("light", "dark")
WIDTHS = (1440, 768, 390)
HEIGHT = 900
# An object with what is looked at inside a page.
CHECKS = Path(__file__).with_name("checks.js").read_text().partition("\n")[2].strip()
# A landscape sheet of A4 between the margins of the style sheet, in CSS pixels.
PAPER = 1032

# For a machine without display, sandbox or network.
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Names the folder that screenshots go to; without it none is taken.
SHOTS = "ROBUSTPRUNE_SCREENSHOTS"


@dataclass(frozen=True)
class Kind:
    """A kind of page.

    Attributes:
        template: stem of the template.
        site: which of the rendered sites has it.
        smallest: takes the smallest such page, where otherwise the largest shows most.
        named: part of the page's path.
    """

    template: str
    site: str = "board"
    smallest: bool = False
    named: str = ""


TEMPLATES = sorted(
    path.name.partition(".")[0]
    for path in (HERE / "templates").glob("*.html.jinja")
    if "{% extends" in path.read_text()
)
KINDS: dict[str, Kind] = {
    **{name: Kind(name) for name in TEMPLATES},
    "part": Kind("part", site="parts"),
    "board": Kind("board", named="fast-linf"),
    "changes": Kind("changes", site="flagged"),
    "changes-first": Kind("changes"),
    "index-flagged": Kind("index", site="flagged"),
    "board-empty": Kind("board", smallest=True),
    "board-reported": Kind("board", site="empty"),
    "board-flagged": Kind("board", site="flagged"),
    "board-large": Kind("board", site="parts"),
    "compare-flagged": Kind("compare", site="flagged"),
    "findings-flagged": Kind("findings", site="flagged"),
    "coverage-flagged": Kind("coverage", site="flagged"),
    "checkpoint-failed": Kind("checkpoint", site="flagged", smallest=True),
}


class Opener:
    """Opens pages and notes what they must never do, for as long as they are open."""

    def __init__(self, browser: Browser, sites: Mapping[str, Site]) -> None:
        """Opens nothing yet."""
        self._browser = browser
        self._sites = sites
        self._contexts: list[BrowserContext] = []
        self.problems: list[str] = []

    def __call__(
        self, kind: str, theme: str = "light", width: int = 1440, *, scripts: bool = True
    ) -> Page:
        """Returns the page of a kind, loaded from disk."""
        wanted = KINDS[kind]
        site = self._sites[wanted.site]
        found = [path for path in site.made_from(wanted.template) if wanted.named in str(path)]
        assert found, f"no page of {wanted.template}.html.jinja in the site '{wanted.site}'"
        path = found[0] if wanted.smallest else found[-1]
        return self.path(path, site.root, theme, width, scripts=scripts)

    def path(
        self,
        path: Path,
        root: Path,
        theme: str = "light",
        width: int = 1440,
        *,
        scripts: bool = True,
    ) -> Page:
        """Returns any page of a site under `root`, loaded from disk."""
        context = self._browser.new_context(
            viewport={"width": width, "height": HEIGHT},
            color_scheme=theme,  # type: ignore[arg-type]
            java_script_enabled=scripts,
        )
        self._contexts.append(context)
        page = context.new_page()
        self._watch(page, root)
        page.goto(path.as_uri())
        return page

    def close(self) -> list[str]:
        """Closes all pages and returns what they did and must not do."""
        for context in self._contexts:
            context.close()
        self._contexts.clear()
        return self.problems

    def _watch(self, page: Page, root: Path) -> None:
        def note(problem: str) -> None:
            self.problems.append(f"{page.url.rpartition('/')[2]}: {problem}")

        def asked(request: Request) -> None:
            if not _own(request.url, root):
                note(f"request of {request.url[:200]}")

        def failed(request: Request) -> None:
            # A download ends its request as aborted.
            if request.failure != "net::ERR_ABORTED":
                note(f"request failed: {request.url[:200]}, {request.failure}")

        def said(message: ConsoleMessage) -> None:
            if message.type == "error":
                note(f"console {message.text}")

        def asks(dialog: Dialog) -> None:
            note(f"dialog {dialog.message}")
            dialog.dismiss()

        page.on("request", asked)
        page.on("requestfailed", failed)
        page.on("pageerror", lambda error: note(f"error {error}"))
        page.on("console", said)
        page.on("dialog", asks)


def _own(url: str, root: Path) -> bool:
    """Returns whether a request stays inside a site on disk, or inside the page itself."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc:
        return Path(unquote(parts.path)).resolve().is_relative_to(root.resolve())
    return parts.scheme in ("data", "blob")


def shoot(page: Page, name: str) -> None:
    """Saves a picture of the whole page, if the environment names a folder for that."""
    if folder := os.environ.get(SHOTS):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def violations(page: Page) -> list[str]:
    """Returns what axe-core finds against WCAG 2, levels A and AA."""
    from axe_playwright_python.sync_playwright import Axe

    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    # Its preloading asks for the style sheets again, which a page from disk may not.
    options = {"runOnly": tags, "resultTypes": ["violations"], "preload": False}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{one['id']}: {node['html'][:200]} ({node['failureSummary'][:200]})"
        for one in found
        for node in one["nodes"]
    ]


def faint(page: Page) -> list[str]:
    """Returns texts whose contrast is below AA, one for each kind of element."""
    return _looked(page, "faint")


def overflow(page: Page) -> int:
    """Returns by how many pixels the page itself scrolls sideways."""
    return page.evaluate("() => Math.max(0, document.scrollingElement.scrollWidth - innerWidth)")


def first_paint(page: Page) -> float:
    """Returns the milliseconds from the start of navigation to the first contentful paint."""
    entry = "performance.getEntriesByName('first-contentful-paint')"
    page.wait_for_function(f"() => {entry}.length")
    return float(page.evaluate(f"() => {entry}[0].startTime"))


def shown(page: Page, selector: str) -> tuple[int, int]:
    """Returns how many elements there are outside of closed parts, and how many can be seen."""
    there, seen = _looked(page, "shown", selector)
    return int(there), int(seen)


def spills(page: Page, foreign: str) -> list[str]:
    """Returns where a text of another direction has moved what stands beside it."""
    return _looked(page, "spills", foreign)


def controls(page: Page) -> list[str]:
    """Returns texts and attributes with a character that turns the direction of others."""
    return _looked(page, "controls")


def handlers(page: Page) -> list[str]:
    """Returns attributes in which the page would carry a script."""
    return _looked(page, "handlers")


def _looked(page: Page, name: str, *arguments: str) -> Any:
    return page.evaluate(f"arguments => {CHECKS}.{name}(...arguments)", arguments)
