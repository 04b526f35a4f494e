"""Renders the frame of records into a folder of static pages.

The same frame gives the same bytes. A page that an earlier render wrote and this one does not is
removed; nothing else in the folder is touched.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmark.errors import InvariantViolation, ManifestError, StorageError, lookup
from benchmark.files import inside, read_bounded, write_atomically
from benchmark.leaderboard import curves, has_result, rank
from benchmark.report import details, figures, images, views
from benchmark.report.curves import MEASURES, Summary, charts, summaries
from benchmark.report.details import CheckpointView
from benchmark.report.evidence import Strip
from benchmark.report.papers import Triples, triples
from benchmark.report.remarks import ranked
from benchmark.report.shares import Row
from benchmark.report.speed import NETWORKS, Speeds, speeds
from benchmark.report.views import Board, ProtocolPage
from benchmark.report.wording import FLAGS, MISSING, count, slug

HERE = Path(__file__).parent
LISTING = "rendered.txt"
LISTING_LIMIT = 64 * 2**20


@dataclass(frozen=True)
class Picture:
    """A figure in both themes, as the pages link to it."""

    light: str
    dark: str
    title: str
    words: str


@dataclass(frozen=True)
class StripPicture:
    """A strip of evidence with its sheet of images, as the pages link to it."""

    strip: Strip
    path: str
    width: int
    height: int


@dataclass(frozen=True)
class Tier:
    """A board with its figures, what methods come to along their sparsities, and AER triples."""

    board: Board
    pictures: tuple[Picture, ...]
    summaries: tuple[Summary, ...]
    triples: Triples | None


@dataclass(frozen=True)
class Section:
    """A protocol with all that its pages show."""

    page: ProtocolPage
    tiers: tuple[Tier, ...]
    speeds: Speeds | None
    checkpoints: tuple[CheckpointView, ...]
    methods: int
    without_result: int


class Site:
    """The files of a site, collected before any is written.

    Attributes:
        files: path relative to the site → bytes.
    """

    def __init__(self) -> None:
        """Starts an empty site."""
        self.files: dict[str, bytes] = {}
        self._environment = environment()

    def add(self, path: str, data: bytes) -> None:
        """Adds a file.

        Raises:
            InvariantViolation: two pages claim one path.
        """
        if path in self.files:
            raise InvariantViolation(
                f"expected one page at {path}, got two; give the checkpoints different ids"
            )
        self.files[path] = data

    def add_page(self, path: str, template: str, **values: Any) -> None:
        """Adds a page made from a template, which also learns the way to the site's root."""
        root = "../" * path.count("/")
        page = self._environment.get_template(template).render(root=root, **values)
        self.add(path, page.encode())

    def add_picture(self, stem: str, title: str, drawing: figures.Drawing) -> Picture:
        """Adds both themes of a figure and returns how to link to it."""
        paths = (f"figures/{stem}.svg", f"figures/{stem}-dark.svg")
        for path, data in zip(paths, (drawing.light, drawing.dark), strict=True):
            self.add(path, data)
        return Picture(*paths, title, drawing.words)

    def add_strip(self, stem: str, strip: Strip) -> StripPicture:
        """Adds a strip's images and returns how to link to them."""
        sheet = images.draw(strip.originals, strip.adversarial, strip.scale)
        path = f"figures/{stem}.png"
        self.add(path, sheet.data)
        return StripPicture(strip, path, sheet.width, sheet.height)


def environment() -> Environment:
    """Returns the template engine: it escapes everything, and a missing value is an error."""
    # A plain True, because jinja2's own chooser goes by file name and stays silent where it does
    # not apply.
    engine = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    engine.globals.update(missing=MISSING, count=count, networks=tuple(NETWORKS.values()))
    return engine


def render(frame: pd.DataFrame, site: Path, protocols: Mapping[str, ProtocolPage]) -> list[Path]:
    """Renders the leaderboard and returns the paths of all its files, sorted.

    Args:
        frame: one row a checkpoint, protocol and tier, as `records.frame` gives it.
        site: the folder to render into; made if it does not exist.
        protocols: id → what to say about it; those without rows get a page as well.

    Raises:
        UnknownName: a row under a protocol that is not in `protocols`.
        StorageError: the folder cannot be written.
    """
    rows = rank(frame).to_dict("records")
    lines = curves(frame).to_dict("records")
    grouped: dict[str, list[Row]] = {name: [] for name in protocols}
    for row in rows:
        lookup("protocol", str(row["protocol"]), protocols)
        grouped[str(row["protocol"])].append(row)
    content = Site()
    sections = [
        _section(content, page, grouped[name], [line for line in lines if line["protocol"] == name])
        for name, page in protocols.items()
    ]
    # Boards with results lead; the order among them is the caller's.
    sections.sort(key=lambda section: not section.checkpoints)
    content.add_page("index.html", "index.html.jinja", sections=sections)
    for section in sections:
        _add_pages(content, section, sections)
    for asset in sorted((HERE / "static").iterdir()):
        if asset.is_file():
            content.add(f"static/{asset.name}", asset.read_bytes())
    return _publish(content.files, site)


def _section(
    content: Site, page: ProtocolPage, rows: Sequence[Row], lines: Sequence[Row]
) -> Section:
    tiers: list[Tier] = []
    largest = 0
    for board in views.boards(page, rows):
        standing = [row for row in rows if row["tier"] == board.tier and has_result(row)]
        examples = max((int(row["examples"]) for row in standing), default=0)
        # Tiers are prefixes of one list: a smaller one's curves repeat a larger one's. An accuracy
        # that the protocol does not trust enough to rank is not drawn either.
        drawn = [row for row in standing if ranked(row)] if examples > largest else []
        pictures = _board_pictures(content, page, board, drawn)
        along = [line for line in lines if drawn and line["tier"] == board.tier]
        tiers.append(Tier(board, pictures, summaries(along), triples(drawn)))
        largest = max(largest, examples)
    ids = list(dict.fromkeys(str(row["checkpoint_id"]) for row in rows))
    of = {name: [row for row in rows if str(row["checkpoint_id"]) == name] for name in ids}
    checkpoints = tuple(details.checkpoint(page, of[name]) for name in ids)
    return Section(
        page=page,
        tiers=tuple(tiers),
        speeds=speeds(rows),
        checkpoints=checkpoints,
        methods=len({str(row["method"]) for row in rows}),
        without_result=sum(not view.robust.known for view in checkpoints),
    )


def _board_pictures(
    content: Site, page: ProtocolPage, board: Board, rows: Sequence[Row]
) -> tuple[Picture, ...]:
    pictures = []
    for measure in MEASURES:
        for chart in charts(rows, measure):
            stem = slug(f"{page.id} {board.tier} {measure} {chart.group}")
            title = f"{measure.capitalize()} against sparsity, {chart.group}"
            pictures.append(content.add_picture(stem, title, figures.draw_chart(chart)))
    return tuple(pictures)


def _add_pages(content: Site, section: Section, sections: Sequence[Section]) -> None:
    """Adds a protocol's page and the pages of its checkpoints."""
    flags = _flags_seen(section)
    content.add_page(
        f"{section.page.folder}/index.html",
        "protocol.html.jinja",
        section=section,
        sections=sections,
        flags=flags,
    )
    if section.speeds is not None:
        content.add_page(
            f"{section.page.folder}/latency.html",
            "latency.html.jinja",
            section=section,
            sections=sections,
            speeds=section.speeds,
        )
    for view in section.checkpoints:
        content.add_page(
            view.path,
            "checkpoint.html.jinja",
            view=view,
            page=section.page,
            sections=sections,
            picture=_curve_picture(content, view),
            strips=_strip_pictures(content, view),
        )


def _curve_picture(content: Site, view: CheckpointView) -> Picture | None:
    if view.curve is None:
        return None
    stem = f"curve-{_stem(view)}"
    title = f"Robust and certified accuracy, {view.examples} examples"
    return content.add_picture(stem, title, figures.draw_security_curve(view.curve))


def _strip_pictures(content: Site, view: CheckpointView) -> tuple[StripPicture, ...]:
    strips = () if view.evidence is None else view.evidence.strips
    return tuple(
        content.add_strip(f"strip-{_stem(view)}-{number}", strip)
        for number, strip in enumerate(strips, start=1)
    )


def _stem(view: CheckpointView) -> str:
    return view.path.removesuffix(".html").replace("/", "-")


def _flags_seen(section: Section) -> list[tuple[str, str]]:
    """Returns (words, meaning) of the known flags that occur on a protocol's boards."""
    lines = [
        row
        for tier in section.tiers
        for cell in (*tier.board.cells, *tier.board.unranked)
        for row in cell.rows
    ]
    seen = {flag.words for row in lines for flag in row.flags}
    return [(known.words, known.meaning) for known in FLAGS.values() if known.words in seen]


def _publish(files: Mapping[str, bytes], site: Path) -> list[Path]:
    """Writes what changed, removes what only earlier renders wrote, returns all paths."""
    earlier = _earlier(site)
    # Named before written: whatever moment the process is killed at, the next render knows every
    # file of this one.
    _write(site, LISTING, _listing({*earlier, *files}))
    for path, data in files.items():
        _write(site, path, data)
    for path in sorted(earlier - set(files)):
        _remove(site, path)
    _write(site, LISTING, _listing(set(files)))
    return sorted(site / path for path in (*files, LISTING))


def _listing(paths: set[str]) -> bytes:
    return "".join(f"{path}\n" for path in sorted(paths)).encode()


def _earlier(site: Path) -> set[str]:
    """Returns the files that earlier renders listed, without lines that none could have written."""
    try:
        lines = read_bounded(site / LISTING, LISTING_LIMIT).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    shape = re.compile(r"([a-z0-9-]+/)?[a-z0-9-]+\.(html|svg|png|css)")
    return {line for line in lines if shape.fullmatch(line)}


def _write(site: Path, path: str, data: bytes) -> None:
    target = site / path
    if target.is_file() and not target.is_symlink() and target.read_bytes() == data:
        return
    write_atomically(target, data)


def _remove(site: Path, path: str) -> None:
    """Removes a stale file, and its folder once that is empty; never anything behind a link."""
    try:
        target = inside(site, path)
        if target.is_file():
            target.unlink()
            if target.parent != site.resolve() and not any(target.parent.iterdir()):
                target.parent.rmdir()
    except ManifestError:
        return
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StorageError(
            f"expected to remove {site / path}, got '{reason}'; make the folder writable"
        ) from error
