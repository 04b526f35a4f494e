"""A page for each method: what it is, and all its results over all protocols."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markupsafe import Markup

from benchmark.report.remarks import ranked
from benchmark.report.shares import Row
from benchmark.report.views import BoardRow, Fact, ProtocolPage, board_row
from benchmark.report.wording import MISSING, link, number, slug, sparsity_percent, text

FOLDER = "methods"

# Results that a method's page lists for a protocol; the board has all.
MOST_RESULTS = 300


@dataclass(frozen=True)
class MethodPage:
    """What is known of a method without any result.

    Attributes:
        name: registered.
        title: in tables.
        summary: one sentence.
        authors: of the method.
        paper: reference, or empty.
        code: address, or empty.
        document: its page of the handbook, in Markdown.
    """

    name: str
    title: str
    summary: str
    authors: str = ""
    paper: str = ""
    code: str = ""
    document: str = ""


@dataclass(frozen=True)
class BoardOf:
    """A leading board: its protocol, the path of its page, its tier and examples in words."""

    page: ProtocolPage
    path: str
    tier: str
    examples: str


@dataclass(frozen=True)
class Result:
    """A row of a board on the page of its method."""

    row: BoardRow
    level: str
    network: str
    recipe: str
    seed: str


@dataclass(frozen=True)
class Results:
    """A method's rows on one board, and how many more it has there."""

    title: str
    href: str
    tier: str
    examples: str
    rows: tuple[Result, ...]
    more: int


@dataclass(frozen=True)
class MethodView:
    """A method's page, before its results are put into words.

    Attributes:
        page: what is known of it without any result.
        path: of the page under the site.
        boards: its rows, by board.
    """

    page: MethodPage
    path: str
    boards: tuple[tuple[BoardOf, Sequence[Row]], ...]

    @property
    def rows(self) -> int:
        """Returns how many rows it has."""
        return sum(len(rows) for _, rows in self.boards)

    @property
    def first(self) -> int:
        """Returns how often it holds a first rank."""
        held = (ranked(row) and row["rank"] == 1 for _, rows in self.boards for row in rows)
        return sum(map(bool, held))

    @property
    def body(self) -> Markup:
        """Returns its document as HTML."""
        return html(self.page.document)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Returns who made it, where no document says so."""
        page = self.page
        if page.document:
            return ()
        paper, code = text(page.paper, 400), text(page.code, 400)
        every = (
            Fact("authors", text(page.authors, 400)),
            Fact("paper", paper, href=link(paper)),
            Fact("code", code, href=link(code)),
        )
        return tuple(fact for fact in every if fact.value)

    @property
    def results(self) -> tuple[Results, ...]:
        """Returns its rows in words, by board."""
        found = []
        for board, rows in self.boards:
            shown = tuple(_result(row, board.page) for row in rows[:MOST_RESULTS])
            more = len(rows) - len(shown)
            found.append(
                Results(board.page.title, board.path, board.tier, board.examples, shown, more)
            )
        return tuple(found)


def method_path(name: str) -> str:
    """Returns where a method's page lies under the site."""
    return f"{FOLDER}/{slug(name)}.html"


def base_of(row: Row) -> str:
    """Returns the registered name of a row's method, without its settings."""
    return text(row.get("method")).partition(":")[0]


def method_views(
    pages: Sequence[MethodPage], boards: Iterable[tuple[BoardOf, Sequence[Row]]]
) -> tuple[MethodView, ...]:
    """Returns the pages of methods by name, those without a document of their own included.

    Args:
        pages: known methods.
        boards: each leading board with its rows, in its order.
    """
    found: dict[str, list[tuple[BoardOf, Sequence[Row]]]] = {}
    for board, rows in boards:
        for name, own in _by_method(rows).items():
            found.setdefault(name, []).append((board, own))
    known = {page.name: page for page in pages}
    others = {name: MethodPage(name, name, "") for name in found.keys() - known.keys()}
    return tuple(
        MethodView(page, method_path(name), tuple(found.get(name, ())))
        for name, page in sorted({**known, **others}.items())
    )


def _by_method(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(base_of(row), []).append(row)
    return found


def _result(row: Row, page: ProtocolPage) -> Result:
    return Result(
        row=board_row(row, page),
        level=f"{sparsity_percent(number(row.get('sparsity')))} %",
        network=f"{text(row['architecture'], 40)}, {text(row['structure'], 40)}",
        recipe=text(row.get("recipe"), 40) or MISSING,
        seed=text(row.get("seed"), 20),
    )


def html(document: str) -> Markup:
    """Returns Markdown as HTML: headings one level down, foreign HTML shown as text.

    Links are kept where they lead to https; others, which lead into the repository, become text.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(document)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
        if token.type in ("th_open",):
            token.attrSet("scope", "col")
        token.attrs.pop("style", None)
        for child in token.children or []:
            if child.type == "link_open" and not str(child.attrGet("href")).startswith("https://"):
                child.attrs.pop("href", None)
    rendered = parser.renderer.render(tokens, parser.options, {})
    # What may scroll must be within reach of the keyboard.
    rendered = rendered.replace("<pre>", '<pre tabindex="0">')
    return Markup(rendered)  # noqa: S704 (the renderer escapes all)


def entries_of(views: Iterable[MethodView]) -> Mapping[str, Mapping[str, str]]:
    """Returns BibTeX entries, key → field → value, of the methods with a paper."""
    return {
        view.page.name: {
            "author": " and ".join(view.page.authors.split(", ")),
            "title": view.page.title,
            "note": view.page.paper,
            "howpublished": view.page.code,
        }
        for view in views
        if view.page.paper
    }
