"""Rendered sites for the tests of the pages, each with the template that every page came from."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fast import DENSE, FAST, SPARSE, make_project
from report_frame import (
    SPARSITIES,
    evidence_frame,
    make_row,
    np,
    other_pages,
    outcomes_of,
    protocol_page,
)

from benchmark.manifest import Checkpoint, Manifest, write_manifest
from benchmark.pipeline import Project, evaluate_all, report
from benchmark.pipeline.reporting import method_pages, page
from benchmark.protocols import PROTOCOLS
from benchmark.report import render, site

CELL = "digits/cnn-tiny/adversarial"
CHECKPOINTS = (
    DENSE,
    SPARSE,
    f"lwm-layerwise/{CELL}/unstructured-50/seed0",
    f"lwm-layerwise/{CELL}/unstructured-99/seed0",
    f"hydra/{CELL}/unstructured-90/seed0",
    f"lwm-layerwise/{CELL}/filter-50/seed0",
    "hydra/digits/cnn-tiny/smoothing/unstructured-90/seed0",
    "dense/digits/cnn-tiny/benign/unstructured-0/seed0",
)

# What hostile text tries. It sets a mark where a script of it runs.
MARK = "window.hostile"
SCRIPT = f"<script>{MARK}=1;alert(1)</script>"
# Letters that run from right to left, with digits that go along with them.
LEFTWARD = "אבגד 12 זחט"
# Marks that turn the direction of what follows: the first kind a manifest refuses, not the second.
OVERRIDES = "\u202e\u202d\u2066\u2067"
MARKS = "\u200f\u200e\u061c"

# Fields that are addresses or none: what follows https:// is the author's own.
ADDRESSES = ("url", "mirrors")
# Manifest fields with text of the author's own, and those that a format or the id binds.
FREE = (
    "display_name",
    "authors",
    "paper",
    "code",
    "licence",
    "extra_data",
    "recipe",
    "file",
    *ADDRESSES,
)
BOUND = {
    *("id", "method", "dataset", "architecture", "objective", "structure", "sparsity", "seed"),
    *("zeros", "prunable", "recipe_digest", "budget", "format", "bytes", "sha256"),
}


@dataclass(frozen=True)
class Site:
    """A rendered site.

    Attributes:
        root: its folder.
        pages: path under it → stem of the template that the page was made from.
    """

    root: Path
    pages: dict[str, str]

    def made_from(self, template: str) -> list[Path]:
        """Returns the pages made from a template, the smallest first."""
        found = [self.root / path for path, name in self.pages.items() if name == template]
        return sorted(found, key=lambda path: (path.stat().st_size, path))


def rendered(root: Path, make: Callable[[], object], **settings: Any) -> Site:
    """Returns the site that a call renders; `settings` replace constants of the renderer."""
    pages: dict[str, str] = {}
    original = site.Pages.page

    def noted(self: site.Pages, path: str, template: str, **values: Any) -> bytes:
        pages[path] = template.partition(".")[0]
        return original(self, path, template, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.Pages, "page", noted)
        for name, value in settings.items():
            patch.setattr(site, name, value)
        make()
    return Site(root, pages)


def evaluated(root: Path) -> Project:
    """Returns a project of small networks that were evaluated in truth, and briefly."""
    project = make_project(root, *CHECKPOINTS)
    evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    return project


def board(project: Project) -> Site:
    """Renders real records."""
    return rendered(project.site, lambda: report(project))


def _of_frame(root: Path, frame: pd.DataFrame, **settings: Any) -> Site:
    pages = {page.id: page for page in (protocol_page(), *other_pages())}
    return rendered(root, lambda: render(frame, root, pages), **settings)


def empty(root: Path) -> Site:
    """Renders the pages of all protocols without any record, published figures of others alone."""
    pages = {name: page(protocol) for name, protocol in PROTOCOLS.items()}
    return rendered(root, lambda: render(pd.DataFrame(), root, pages, methods=method_pages()))


def flagged(root: Path) -> Site:
    """Renders drawn records with all that may befall a row, after a report of fewer."""
    _of_frame(root, evidence_frame().head(9))
    return _of_frame(root, evidence_frame())


def parts(root: Path) -> Site:
    """Renders the same on as many pages as a large board takes."""
    return _of_frame(root, evidence_frame(), ROWS_A_PAGE=6)


def large(root: Path) -> Site:
    """Renders a board of more rows than a page holds."""
    generator = np.random.default_rng(0)
    rows = [make_row("dense", 0.0, outcomes_of(0.72, generator))]
    count = site.ROWS_A_PAGE // len(SPARSITIES) + 1
    for method, sparsity in ((f"m{n}", s) for n in range(count) for s in SPARSITIES):
        robust = 0.3 + 0.4 * generator.random()
        rows.append(make_row(method, sparsity, outcomes_of(robust, generator)))
    return _of_frame(root, pd.DataFrame(rows))


def _attacks() -> tuple[Callable[[str], str], ...]:
    """Returns the ways in which text is hostile; each makes a value for a field."""
    return (
        lambda field: f"=1+1 {field} {SCRIPT}",
        lambda field: f"{field}\"'><img src=x onerror={MARK}=1>{{{{7*7}}}}{MARKS}",
        lambda field: LEFTWARD,
        lambda field: f"{field}{'W' * 400}"[:400],
        lambda field: f"javascript:{MARK}=1//{field}",
        lambda field: f'https://example.org/{field}"onclick="{MARK}=1',
    )


def _address(attack: str) -> str:
    """Returns hostile text as an address, as far as the format of addresses lets it through."""
    return "https://" + "".join(letter for letter in attack if "!" <= letter <= "~")[:390]


def hostile(project: Project, root: Path) -> Site:
    """Renders real records whose manifest is hostile in every field."""
    shutil.copytree(project.root, root)
    attacks, entries = _attacks(), []
    for place, entry in enumerate(project.manifest().checkpoints):
        attack = attacks[place % len(attacks)]
        values: dict[str, Any] = {field: attack(field) for field in FREE}
        address = _address(attack("url"))
        values |= {"url": address, "mirrors": [address] * 20}
        values["authors"] = [attack("author"), "Ada"] * 50
        values["budget"] = {**entry.budget.model_dump(), "device": attack("device")}
        entries.append(Checkpoint.model_validate({**entry.model_dump(), **values}))
    write_manifest(root / "checkpoints_manifest.json", Manifest(checkpoints=tuple(entries)))
    copy = replace(project, root=root)
    return rendered(copy.site, lambda: report(copy))


def long(root: Path) -> Site:
    """Renders drawn rows in which each text is 10,000 characters long and turns around."""
    rows = [{str(k): v for k, v in r.items()} for r in evidence_frame().to_dict("records")]
    # What rows are grouped by, and what the frame itself checks.
    kept = {"protocol", "status", "protocol_digest", "structure"}
    worst = [
        {name: value if name in kept else _swollen(name, value) for name, value in row.items()}
        for row in rows[-3:]
    ]
    for place, row in enumerate(worst):
        row["checkpoint_id"] = f"{place}{row['checkpoint_id']}"
    return _of_frame(root, pd.DataFrame([*rows[:-3], *worst]), ROWS_A_PAGE=6)


def _swollen(name: str, value: Any) -> Any:
    """Returns a value with every text in it, keys left alone, replaced by a hostile one."""
    if isinstance(value, str):
        return f"{name}{OVERRIDES}{SCRIPT}{'W' * 10_000}"
    if isinstance(value, list):
        return [_swollen(name, item) for item in value]
    if isinstance(value, dict) and name != "outcomes":
        return {key: _swollen(str(key), item) for key, item in value.items()}
    return value
