"""Markdown for reports that others will render: foreign text stays text."""

from collections.abc import Iterable, Sequence

from benchmark.errors import shorten
from benchmark.report.wording import MISSING


def code(words: str, limit: int = 300) -> str:
    """Returns foreign text as a code span of one line, in which nothing is markup or a link.

    >>> code("a`<b>@c")
    "`a'<b>@c`"

    Args:
        words: any text; what does not print becomes a question mark.
        limit: most characters of it.
    """
    shown = shorten(words, limit).strip()
    if not shown:
        return MISSING
    # A backtick would end the span, and a bar the cell of a table: only there is it escaped so.
    return f"`{shown.replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table, its lines joined.

    Args:
        headers: our own words; those that begin with `#` head columns of numbers.
        rows: cells, foreign text as `code`.
    """
    lines = [[header.removeprefix("#") for header in headers]]
    lines.append(["---:" if header.startswith("#") else "---" for header in headers])
    lines += [list(row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
