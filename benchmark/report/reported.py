"""Published figures of others as rows of a board: greyed, without a rank, each with its source."""

import math
from collections.abc import Sequence
from typing import Any

from benchmark.leaderboard import DENSE, bucket
from benchmark.report.columns import COLUMNS, FACETS
from benchmark.report.remarks import Badge
from benchmark.report.shares import Gain, Interval, Share
from benchmark.report.views import UNRANKED, BoardRow, Cell
from benchmark.report.wording import MISSING, link, percent, text
from benchmark.reported import Reported


def reported_cell(figures: Sequence[Reported], attacks: int) -> tuple[Cell, ...]:
    """Returns published figures as a group of a board; nothing where there are none.

    Args:
        figures: in the order to show.
        attacks: how many columns of attacks the board has.
    """
    if not figures:
        return ()
    note = "printed by others and not measured here: never ranked with the rows above"
    rows = tuple(reported_row(figure, attacks) for figure in figures)
    return (Cell("Reported by others", note, rows),)


def reported_row(figure: Reported, attacks: int) -> BoardRow:
    """Returns a published figure as a row of a board with so many columns of attacks."""
    clean = math.nan if figure.clean_accuracy is None else figure.clean_accuracy
    reason = "not printed by the source"
    said = f"{figure.source.attack}, {figure.threat}, {figure.source.evaluated}"
    badges = [Badge("reported", "reported", said), Badge("quiet", text(figure.source.label))]
    if figure.note:
        badges.append(Badge("note", "note", text(figure.note, 400)))
    like = as_row(figure)
    return BoardRow(
        rank=MISSING,
        rank_words="no rank: reported by others, not measured here",
        rank_range="",
        order=UNRANKED,
        name=text(figure.method_name),
        variant=f"{text(figure.architecture_name)}, {text(figure.source.attack)}, {figure.threat}",
        href=link(figure.url),
        objective=MISSING,
        gain=Gain(),
        sparsity=percent(figure.sparsity),
        clean=Share(clean, reason="" if math.isfinite(clean) else reason),
        attacks=tuple(Share(math.nan) for _ in range(attacks)),
        interval=Interval(Share(math.nan), Share(figure.robust_accuracy), Share(clean)),
        flags=(),
        badges=tuple(badges),
        extra=tuple(column.value(like) for column in COLUMNS),
        facets=tuple((facet.key, facet.value(like)) for facet in FACETS),
        external=True,
    )


def as_row(figure: Reported) -> dict[str, Any]:
    """Returns what columns and facets ask of a row."""
    return {
        "method": figure.method or "",
        "architecture": figure.architecture or figure.architecture_name,
        "structure": "" if figure.method == DENSE else figure.structure or "not stated",
        "bucket": bucket(figure.sparsity),
        "evidence_level": "reported by others",
        "objective": "not stated",
        "flags": [],
    }
