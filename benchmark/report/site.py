"""Renders the frame of records into a folder of static pages.

The same frame gives the same bytes. A page that an earlier render wrote and this one does not is
removed; nothing else in the folder is touched. What a page shows is worked out where the page is
made, in one of several processes, so that thousands of them need neither the memory nor the time.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmark.errors import InvariantViolation, ManifestError, StorageError, lookup
from benchmark.files import inside, read_bounded, write_atomically
from benchmark.findings import worth
from benchmark.forks import map_forked
from benchmark.leaderboard import curves, has_result, rank
from benchmark.report import details, downloads, figures, images, views
from benchmark.report.assets import assets
from benchmark.report.changes import STATE, changes
from benchmark.report.columns import COLUMNS
from benchmark.report.comparing import COSTS, comparison, networks_of
from benchmark.report.coverage import Refusal, coverage
from benchmark.report.curves import GAIN, MEASURES, Chart, Summary, charts, summaries
from benchmark.report.details import CheckpointView
from benchmark.report.evidence import Strip
from benchmark.report.findings import findings_view
from benchmark.report.methods import BoardOf, MethodPage, entries_of, method_views
from benchmark.report.papers import Triples, triples
from benchmark.report.remarks import ranked
from benchmark.report.reported import as_row, reported_cell
from benchmark.report.shares import Row, share
from benchmark.report.speed import NETWORKS, Speeds, speeds
from benchmark.report.views import Board, Cell, Group, Mixed, ProtocolPage
from benchmark.report.wording import (
    FLAGS,
    MISSING,
    count,
    entries,
    flag_words,
    folder,
    number,
    slug,
    text,
)

HERE = Path(__file__).parent
LISTING = "rendered.txt"
LISTING_LIMIT = 64 * 2**20

# More rows than these make a page slow to show; they go to pages of their own. `make bench`
# measures what that comes to.
ROWS_A_PAGE = 500

# Checkpoints whose pages one process makes at a time.
_CHUNK = 20

# Rows of a first rank that a large board names before it says how many more there are.
_NAMED = 5

Details = Callable[[Row], Mapping[str, Any]]

# A board as files: what the link says, the ending, and what makes it of rows and a title.
_FORMATS: tuple[tuple[str, str, Callable[[Sequence[Row], str], bytes]], ...] = (
    ("CSV", "csv", lambda rows, _: downloads.as_csv(rows)),
    ("JSON", "json", lambda rows, _: downloads.as_json(rows)),
    ("LaTeX", "tex", downloads.as_latex),
)


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
class Part:
    """A page that holds a part of a large board.

    Attributes:
        label: which rows.
        href: where it lies under the site.
        groups: their rows; empty on a page of summaries.
        lines: what methods come to along their sparsities.
    """

    label: str
    href: str
    groups: tuple[Group, ...] = ()
    lines: tuple[Summary, ...] = ()


@dataclass(frozen=True)
class Tier:
    """A board with its figures, what methods come to along their sparsities, and AER triples.

    Attributes:
        path: of its page under the site.
        board: its table; of one that is too large for a page, its groups without their rows.
        rows: all of them, in the order of the board.
        mixed: where rows must name their seed or recipe.
        figures: its charts, and how pages link to them.
        summaries: what methods come to, where that fits on the board's page.
        drawn: whether rows with a rank are shown as figures and triples, too.
        triples: AER triples of a board on one page.
        parts: pages with the rows of a large board.
        lines: pages with its summaries.
    """

    path: str
    board: Board
    rows: Sequence[Row]
    mixed: Mixed
    figures: tuple[tuple[Picture, Chart], ...]
    summaries: tuple[Summary, ...]
    drawn: bool
    triples: Triples | None = None
    parts: tuple[Part, ...] = ()
    lines: tuple[Part, ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Returns the figures as pages link to them."""
        return tuple(picture for picture, _ in self.figures)

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Returns (label, path) of the board as files."""
        stem = self.path.removesuffix(".html")
        stem = stem.replace("/index", "/board")
        return tuple((label, f"{stem}.{ending}") for label, ending, _ in _FORMATS)


@dataclass(frozen=True)
class Compared:
    """The page that compares methods on the leading board of a protocol.

    Attributes:
        path: of the page under the site.
        tier: the board.
    """

    path: str
    tier: Tier


@dataclass(frozen=True)
class Section:
    """A protocol with all that its pages show.

    Attributes:
        page: the protocol.
        tiers: its boards, the leading one first.
        compared: methods of the leading board across sparsity, None where there are none.
        speeds: of its checkpoints, None where no record has any.
        checkpoints: id → ranked rows, one a tier.
        methods: how many there are.
        without_result: checkpoints that were not evaluated to the end.
        flags: (words, meaning) of the known flags that occur.
        findings: path of the page of findings; empty where there is nothing to say.
        coverage: path of the page of what was evaluated; empty where nothing was.
    """

    page: ProtocolPage
    tiers: tuple[Tier, ...]
    compared: Compared | None
    speeds: Speeds | None
    checkpoints: Mapping[str, Sequence[Row]]
    methods: int
    without_result: int
    flags: tuple[tuple[str, str], ...]
    findings: str = ""
    coverage: str = ""

    @property
    def rows(self) -> list[Row]:
        """Returns all its rows."""
        return [row for rows in self.checkpoints.values() for row in rows]


@dataclass(frozen=True)
class Job:
    """Files that are made together.

    Attributes:
        paths: all files that it may write, relative to the site.
        make: returns path → bytes.
    """

    paths: tuple[str, ...]
    make: Callable[[], Mapping[str, bytes]]


class Pages:
    """Makes pages from templates, which all know the sections for their navigation."""

    def __init__(self, sections: Sequence[Section]) -> None:
        """Loads all templates, so that no process has to do so again."""
        self._environment = environment()
        self._sections = sections
        for name in self._environment.list_templates():
            self._environment.get_template(name)

    def page(self, path: str, template: str, **values: Any) -> bytes:
        """Returns a page made from a template, which also learns the way to the site's root."""
        root = "../" * path.count("/")
        made = self._environment.get_template(template)
        return made.render(root=root, sections=self._sections, **values).encode()

    def job(self, path: str, template: str, **values: Any) -> Job:
        """Returns the job of making such a page."""
        return Job((path,), lambda: {path: self.page(path, template, **values)})


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
    engine.globals.update(
        missing=MISSING,
        count=count,
        networks=tuple(NETWORKS.values()),
        columns=COLUMNS,
    )
    return engine


def render(
    frame: pd.DataFrame,
    site: Path,
    protocols: Mapping[str, ProtocolPage],
    rest: Details | None = None,
    processes: int = 1,
    methods: Sequence[MethodPage] = (),
    refusal: Refusal | None = None,
) -> list[Path]:
    """Renders the leaderboard and returns the paths of all its files, sorted.

    Args:
        frame: one row a checkpoint, protocol and tier, as `records.frame` gives it.
        site: the folder to render into; made if it does not exist.
        protocols: id → what to say about it; those without rows get a page as well.
        rest: returns the columns of a row that only its own page shows, where the frame does
            without them; `strips_at_most` of the row then says for how many strips there is space.
        processes: how many make pages at a time, 0 for one a core; the files do not depend on it.
        methods: what is known of methods without any result.
        refusal: why a method of `methods` cannot do something, for the pages of coverage.

    Raises:
        UnknownName: a row under a protocol that is not in `protocols`.
        InvariantViolation: two pages claim one path.
        StorageError: the folder cannot be written.
        WorkerLost: a process was killed.
    """
    rows = rank(frame, processes).to_dict("records")
    lines = _by(curves(frame).to_dict("records"), "protocol")
    for row in rows:
        lookup("protocol", str(row["protocol"]), protocols)
    grouped = _by(rows, "protocol")
    sections = [
        _section(page, grouped.get(name, []), lines.get(name, []))
        for name, page in protocols.items()
    ]
    # Boards with results lead; the order among them is the caller's.
    sections.sort(key=lambda section: not section.checkpoints)
    engine = Pages(sections)
    jobs = [
        *_jobs(engine, sections, rest),
        *_summary_jobs(engine, sections, methods, refusal),
        *_method_jobs(engine, sections, methods),
        *_change_jobs(engine, sections, site),
    ]
    return _publish(jobs, site, processes)


def _by(rows: Iterable[Row], column: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row[column]), []).append(row)
    return found


def _section(page: ProtocolPage, rows: Sequence[Row], lines: Sequence[Row]) -> Section:
    tiers: list[Tier] = []
    largest = 0
    # By the words on the page: tiers that read alike share a board.
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(text(row["tier"]), []).append(row)
    for board in views.order(page, members):
        own = members[board]
        standing = [row for row in own if has_result(row)]
        examples = max((int(row["examples"]) for row in standing), default=0)
        # Tiers are prefixes of one list: a smaller one's curves repeat a larger one's. An accuracy
        # that the protocol does not trust enough to rank is not drawn either.
        drawn = [row for row in standing if ranked(row)] if examples > largest else []
        along = [line for line in lines if drawn and text(line["tier"]) == board]
        # The first board is what a protocol's address shows.
        name = folder(f"tier-{board}") if tiers else "index"
        path = f"{page.folder}/{name}.html"
        tiers.append(_tier(page, board, path, own, drawn, summaries(along)))
        largest = max(largest, examples)
    checkpoints = _by(rows, "checkpoint_id")
    leading = (details.leading(found) for found in checkpoints.values())
    return Section(
        page=page,
        tiers=tuple(tiers),
        compared=_compared(page, tiers[0]) if tiers else None,
        speeds=speeds(rows),
        checkpoints=checkpoints,
        methods=len({str(row["method"]) for row in rows}),
        without_result=sum(not share(row, "robust_accuracy").known for row in leading),
        flags=_flags_seen(rows),
        findings=f"{page.folder}/findings.html" if worth(rows) else "",
        coverage=f"{page.folder}/coverage.html" if rows else "",
    )


def _tier(
    page: ProtocolPage,
    name: str,
    path: str,
    rows: Sequence[Row],
    drawn: Sequence[Row],
    along: tuple[Summary, ...],
) -> Tier:
    mixed, groups = views.mixed(rows), views.groups(rows)
    found = [(m, chart) for m in MEASURES for chart in charts(drawn, m)]
    pictures = tuple((_picture(page, name, measure, chart), chart) for measure, chart in found)
    if len(rows) <= ROWS_A_PAGE:
        board = _with_reported(views.board(page, name, rows, groups, mixed), page, rows)
        return Tier(path, board, rows, mixed, pictures, along, bool(drawn), triples(drawn))
    parts = tuple(_parts(page, name, groups))
    outline = _outline(page, groups, mixed, parts)
    board = views.board(page, name, rows, (), mixed, outline)
    lines = _lines(page, name, along)
    return Tier(path, board, rows, mixed, pictures, (), bool(drawn), None, parts, lines)


def _with_reported(board: Board, page: ProtocolPage, rows: Sequence[Row]) -> Board:
    """Returns a board with the published figures that belong beside it."""
    cells = reported_cell(page.reported, len(page.attacks))
    if not cells:
        return board
    return replace(
        board,
        reported=cells,
        facets=views.facets([*rows, *(as_row(figure) for figure in page.reported)]),
    )


def _compared(page: ProtocolPage, tier: Tier) -> Compared | None:
    return Compared(f"{page.folder}/compare.html", tier) if networks_of(tier.rows) else None


def _picture(page: ProtocolPage, tier: str, measure: str, chart: Chart) -> Picture:
    stem = slug(f"{page.id} {tier} {measure} {chart.group}")
    title = f"{measure.capitalize()} against sparsity, {chart.group}"
    return Picture(f"figures/{stem}.svg", f"figures/{stem}-dark.svg", title, chart.words())


def _parts(page: ProtocolPage, tier: str, groups: Sequence[Group]) -> Iterator[Part]:
    """Yields the pages of a large board; a group begins a page unless it fits on the one before."""
    first = 1
    for number_, members in enumerate(views.cut(groups, ROWS_A_PAGE), start=1):
        last = first - 1 + sum(len(group.rows) for group in members)
        path = f"{page.folder}/{slug(f'{tier} rows {number_}')}.html"
        yield Part(f"rows {first:,}–{last:,}", path, tuple(members))
        first = last + 1


def _outline(
    page: ProtocolPage, groups: Sequence[Group], mixed: Mixed, parts: Sequence[Part]
) -> tuple[Cell, ...]:
    """Returns the groups of a large board with no rows but the first, and the page of the rest."""
    places: dict[str, str] = {}
    for part in parts:
        for group in part.groups:
            places.setdefault(group.key, part.href)
    found = []
    for group in groups:
        leaders = [row for row in group.rows if row["rank"] == 1] if group.ranked else []
        shown = tuple(views.board_row(row, page, mixed) for row in leaders[:_NAMED])
        more = len(leaders) - len(shown)
        found.append(
            Cell(
                group.title,
                group.note,
                shown,
                places[group.key],
                len(group.rows),
                more,
                views.verdict(group),
                views.duel(group, page),
            )
        )
    return tuple(found)


def _lines(page: ProtocolPage, tier: str, along: tuple[Summary, ...]) -> tuple[Part, ...]:
    """Returns the pages of what methods come to on a large board."""
    found = []
    for first in range(0, len(along), ROWS_A_PAGE):
        lines = along[first : first + ROWS_A_PAGE]
        path = f"{page.folder}/{slug(f'{tier} lines {first}')}.html"
        found.append(Part(f"lines {first + 1:,}–{first + len(lines):,}", path, lines=lines))
    return tuple(found)


def _jobs(engine: Pages, sections: Sequence[Section], rest: Details | None) -> Iterator[Job]:
    """Yields all jobs; what takes longest comes early, so that nobody waits for it in the end."""
    for section in sections:
        for tier in section.tiers:
            yield from _tier_jobs(engine, section, tier)
        yield from _comparison_jobs(engine, section)
    yield engine.job("index.html", "index.html.jinja")
    for section in sections:
        for tier in section.tiers:
            yield engine.job(
                tier.path, "board.html.jinja", section=section, tier=tier, board=tier.board
            )
        if not section.tiers:
            page = section.page
            empty = _with_reported(views.board(page, "", (), (), Mixed()), page, ())
            path = f"{page.folder}/index.html"
            yield engine.job(path, "board.html.jinja", section=section, tier=None, board=empty)
        path = f"{section.page.folder}/protocol.html"
        yield engine.job(path, "protocol.html.jinja", section=section)
        yield from _latency_jobs(engine, section)
    for section in sections:
        found = list(section.checkpoints.values())
        for start in range(0, len(found), _CHUNK):
            chunk = found[start : start + _CHUNK]
            paths = tuple(path for rows in chunk for path in _paths(rows))
            yield Job(paths, partial(_checkpoints, engine, section, chunk, rest))
    for path, data in assets().items():
        yield Job((path,), partial(dict, {path: data}))


def _tier_jobs(engine: Pages, section: Section, tier: Tier) -> Iterator[Job]:
    for picture, chart in tier.figures:
        yield Job((picture.light, picture.dark), partial(_drawn, picture, chart))
    title = f"{section.page.title}, tier {tier.board.tier}, {tier.board.examples} examples"
    for (_, path), (_, _, make) in zip(tier.files, _FORMATS, strict=True):
        yield Job((path,), partial(_file, path, make, tier.rows, title))
    for part in (*tier.parts, *tier.lines):
        yield Job((part.href,), partial(_part, engine, section, tier, part))


def _comparison_jobs(engine: Pages, section: Section) -> Iterator[Job]:
    """Yields the comparison with its figures: what they are is worked out where they are made."""
    if section.compared is None:
        return
    page, tier = section.page, section.compared.tier
    stems = [_stem(page, tier, GAIN, group) for group in networks_of(tier.rows)]
    stems += [_stem(page, tier, "front", title) for _, title, _ in COSTS]
    figures_ = [path for stem in stems for path in (f"{stem}.svg", f"{stem}-dark.svg")]
    yield Job((section.compared.path, *figures_), partial(_comparison, engine, section))


def _stem(page: ProtocolPage, tier: Tier, *parts: str) -> str:
    return f"figures/{slug(' '.join((page.id, tier.board.tier, *parts)))}"


def _comparison(engine: Pages, section: Section) -> dict[str, bytes]:
    """Returns the page that compares methods, and the figures of its own."""
    compared = section.compared
    assert compared is not None  # there is no job without it
    page, tier = section.page, compared.tier
    found = comparison(tier.rows)
    files: dict[str, bytes] = {}
    gains, fronts = [], []
    for network in found.networks:
        for chart in network.charts:
            stem = _stem(page, tier, GAIN, chart.group)
            title = f"Gain over magnitude against sparsity, {chart.group}"
            gains.append(_add_picture(files, stem, title, figures.draw_chart(chart)))
    for front in found.fronts:
        stem = _stem(page, tier, "front", front.title)
        title = f"Robust accuracy against {front.title}"
        drawing = figures.draw_scatter(front.scatter)
        fronts.append((_add_picture(files, stem, title, drawing), front))
    values = {"section": section, "found": found, "gains": gains, "fronts": fronts}
    files[compared.path] = engine.page(compared.path, "compare.html.jinja", **values)
    return files


def _add_picture(
    files: dict[str, bytes], stem: str, title: str, drawing: figures.Drawing
) -> Picture:
    """Adds a drawing's files and returns how to link to them."""
    picture = Picture(f"{stem}.svg", f"{stem}-dark.svg", title, drawing.words)
    files |= {picture.light: drawing.light, picture.dark: drawing.dark}
    return picture


def _method_jobs(
    engine: Pages, sections: Sequence[Section], methods: Sequence[MethodPage]
) -> Iterator[Job]:
    """Yields a page for each method, that of all, and their citations."""
    leading = [(section.page, section.tiers[0]) for section in sections if section.tiers]
    views_ = method_views(
        methods,
        [
            (BoardOf(page, tier.path, tier.board.tier, tier.board.examples), tier.rows)
            for page, tier in leading
        ],
    )
    for view in views_:
        yield engine.job(view.path, "method.html.jinja", view=view)
    yield engine.job("methods/index.html", "methods.html.jinja", views=views_)
    yield Job(("cite.bib",), lambda: {"cite.bib": downloads.as_bibtex(entries_of(views_))})


def _change_jobs(engine: Pages, sections: Sequence[Section], site: Path) -> Iterator[Job]:
    """Yields the page of what changed, and the state that the next report compares with."""
    boards = [
        (section.page, tier.board.tier, tier.rows) for section in sections for tier in section.tiers
    ]
    found, state = changes(site, boards)
    yield engine.job("changes.html", "changes.html.jinja", found=found)
    yield Job((STATE,), partial(dict, {STATE: state}))


def _summary_jobs(
    engine: Pages,
    sections: Sequence[Section],
    methods: Sequence[MethodPage],
    refusal: Refusal | None,
) -> Iterator[Job]:
    """Yields the pages of findings and of coverage, worked out where they are made."""
    names = [page.name for page in methods if page.document]
    for section in sections:
        if section.findings:
            yield Job((section.findings,), partial(_findings, engine, section))
        if section.coverage:
            yield Job((section.coverage,), partial(_coverage, engine, section, names, refusal))


def _findings(engine: Pages, section: Section) -> dict[str, bytes]:
    """Returns the page of findings."""
    found, path = findings_view(section.rows), section.findings
    return {path: engine.page(path, "findings.html.jinja", section=section, found=found)}


def _coverage(
    engine: Pages, section: Section, names: Sequence[str], refusal: Refusal | None
) -> dict[str, bytes]:
    """Returns the page of what was evaluated."""
    found = coverage(section.rows, section.page.grid, names, refusal, section.page.failures)
    path = section.coverage
    return {path: engine.page(path, "coverage.html.jinja", section=section, found=found)}


def _latency_jobs(engine: Pages, section: Section) -> Iterator[Job]:
    """Yields the pages of latencies of a protocol, each with as many rows as a page may have."""
    if section.speeds is None:
        return
    rows = section.speeds.rows
    starts = range(0, len(rows), ROWS_A_PAGE)
    names = ["latency.html", *(f"latency-{number}.html" for number in range(2, len(starts) + 1))]
    for start, name in zip(starts, names, strict=True):
        shown = replace(section.speeds, rows=rows[start : start + ROWS_A_PAGE])
        yield engine.job(
            f"{section.page.folder}/{name}",
            "latency.html.jinja",
            section=section,
            speeds=shown,
            name=name,
            names=names,
        )


def _file(
    path: str, make: Callable[[Sequence[Row], str], bytes], rows: Sequence[Row], title: str
) -> dict[str, bytes]:
    return {path: make(rows, title)}


def _drawn(picture: Picture, chart: Chart) -> dict[str, bytes]:
    drawing = figures.draw_chart(chart)
    return {picture.light: drawing.light, picture.dark: drawing.dark}


def _part(engine: Pages, section: Section, tier: Tier, part: Part) -> dict[str, bytes]:
    """Returns a page with a part of a large board, and the triples of the same rows."""
    rows = [row for group in part.groups for row in group.rows]
    drawn = [row for row in rows if ranked(row)] if tier.drawn else []
    page = engine.page(
        part.href,
        "part.html.jinja",
        page=section.page,
        tier=tier,
        part=part,
        parts=tier.parts if part.groups else tier.lines,
        board=views.board(section.page, tier.board.tier, rows, part.groups, tier.mixed),
        aer=triples(drawn),
    )
    return {part.href: page}


def _paths(rows: Sequence[Row]) -> Iterator[str]:
    """Yields the files that the page of a checkpoint may have, strips included."""
    row = details.leading(rows)
    path = views.checkpoint_path(row)
    yield path
    most = number(row.get("strips_at_most", len(entries(row.get("strips")))))
    yield from (_strip_path(path, place) for place in range(1, int(most) + 1))


def _strip_path(page: str, place: int) -> str:
    return f"figures/strip-{page.removesuffix('.html').replace('/', '-')}-{place}.png"


def _checkpoints(
    engine: Pages, section: Section, chunk: Sequence[Sequence[Row]], rest: Details | None
) -> dict[str, bytes]:
    """Returns the pages of some checkpoints with their images."""
    files: dict[str, bytes] = {}
    for rows in chunk:
        if rest is not None:
            leading = details.leading(rows)
            whole = {**leading, **rest(leading)}
            rows = [whole if row is leading else row for row in rows]
        view = details.checkpoint(section.page, rows)
        strips = tuple(_add_strips(files, view))
        curve = view.curve and Markup(figures.draw_security_curve(view.curve))
        files[view.path] = engine.page(
            view.path,
            "checkpoint.html.jinja",
            view=view,
            section=section,
            page=section.page,
            curve=curve,
            strips=strips,
        )
    return files


def _add_strips(files: dict[str, bytes], view: CheckpointView) -> Iterator[StripPicture]:
    """Adds the images of a checkpoint's strips and yields how to link to them."""
    strips = () if view.evidence is None else view.evidence.strips
    for place, strip in enumerate(strips, start=1):
        sheet = images.draw(strip.originals, strip.adversarial, strip.scale)
        path = _strip_path(view.path, place)
        files[path] = sheet.data
        yield StripPicture(strip, path, sheet.width, sheet.height)


def _flags_seen(rows: Iterable[Row]) -> tuple[tuple[str, str], ...]:
    """Returns (words, meaning) of the known flags that occur on a protocol's boards."""
    names = {text(flag.get("name")) for row in rows for flag in entries(row.get("flags"))}
    seen = {flag_words(name).words for name in names}
    return tuple((known.words, known.meaning) for known in FLAGS.values() if known.words in seen)


def _publish(jobs: Sequence[Job], site: Path, processes: int) -> list[Path]:
    """Writes what changed, removes what only earlier renders wrote, returns all paths."""
    earlier = _earlier(site)
    # Named before written: whatever moment the process is killed at, the next render knows every
    # file of this one.
    ours = claimed(jobs)
    _write(site, LISTING, _listing({*earlier, *ours}))
    written: set[str] = set()
    for paths in map_forked(partial(_make, site), jobs, processes):
        written.update(paths)
    for path in sorted(earlier - written):
        _remove(site, path)
    # With files that these records might have had: the next report of them lists the same.
    _write(site, LISTING, _listing(ours))
    return sorted(site / path for path in (*written, LISTING))


def claimed(jobs: Iterable[Job]) -> set[str]:
    """Returns the files that jobs may write.

    Raises:
        InvariantViolation: two pages claim one path.
    """
    found: set[str] = set()
    for path in (path for job in jobs for path in job.paths):
        if path in found:
            raise InvariantViolation(
                f"expected one page at {path}, got two; give the checkpoints different ids"
            )
        found.add(path)
    return found


def _make(site: Path, job: Job) -> list[str]:
    """Makes and writes the files of a job, and returns their paths."""
    files = job.make()
    for path, data in files.items():
        if path not in job.paths:
            raise InvariantViolation(f"expected files that were named before, got {path}")
        _write(site, path, data)
    return list(files)


def _listing(paths: set[str]) -> bytes:
    return "".join(f"{path}\n" for path in sorted(paths)).encode()


def _earlier(site: Path) -> set[str]:
    """Returns the files that earlier renders listed, without lines that none could have written."""
    try:
        lines = read_bounded(site / LISTING, LISTING_LIMIT).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    shape = re.compile(r"([a-z0-9-]+/)?[a-z0-9-]+\.(html|svg|png|css|js|csv|json|tex|bib)")
    return {line for line in lines if shape.fullmatch(line)}


def _write(site: Path, path: str, data: bytes) -> None:
    target = site / path
    if target.is_file() and not target.is_symlink() and target.read_bytes() == data:
        return
    # Pages can be made again, so none waits until the disk has it.
    write_atomically(target, data, durable=False)


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
