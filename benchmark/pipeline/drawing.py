"""Comparisons and boards as files: tables, and figures for a paper."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.comparison import COSTS, Ladder, SecurityCurve, ladders, security_curves
from benchmark.digests import sha256_of_bytes
from benchmark.errors import RecordError
from benchmark.files import write_atomically
from benchmark.leaderboard import DENSE, Row
from benchmark.pipeline.comparing import (
    Compared,
    as_csv,
    chosen_tier,
    document,
    rows_of,
    tables,
)
from benchmark.pipeline.project import Project
from benchmark.protocols import protocol as find_protocol
from benchmark.records import paths

if TYPE_CHECKING:  # matplotlib waits until something is drawn
    from benchmark.figures import Look

# Name → a figure of matplotlib, or None where there is nothing to draw.
_Drawn = dict[str, Any]

# Rows that a figure of accuracy against epsilon holds beside the dense one.
_MOST = 6


def write(compared: Compared, folder: Path, look: "Look", forms: Sequence[str]) -> list[Path]:
    """Writes a comparison: its tables as CSV and JSON, and its figures.

    Args:
        compared: what to write.
        folder: where to; files of an earlier comparison are replaced.
        look: of the figures.
        forms: their formats.

    Returns:
        The files.

    Raises:
        StorageError: the disk refuses.
    """
    content = {f"{name}.csv": as_csv(table) for name, table in tables(compared).items()}
    content["comparison.json"] = f"{document(compared)}\n".encode()
    drawn = _figures_of(compared, look)
    return _written(folder, content | _rendered(drawn, look, forms))


def figures(
    project: Project,
    protocols: Sequence[str],
    tier: str,
    folder: Path,
    style: tuple["Look", Sequence[str]],
) -> list[Path]:
    """Draws the records of protocols for a paper.

    For each architecture, structure, objective and recipe: accuracy and gain against sparsity, and
    accuracy against epsilon of the most robust methods at each sparsity; for each protocol the
    fronts of accuracy against size and latency.

    Args:
        project: whose records.
        protocols: ids; all that have records without any.
        tier: of the examples; empty for the largest that has most rows of a protocol.
        folder: where to, a folder a protocol and tier.
        style: look and formats of the figures.

    Returns:
        The files.

    Raises:
        UnknownName: no such protocol or tier.
        RecordError: there is no record, or one that is damaged or stale.
        StorageError: the disk refuses.
    """
    known = sorted({path.parent.name for path in paths(project.results)})
    if not (protocols or known):
        raise RecordError(
            f"expected records under {project.results}, found none; make them with "
            "`robustprune run`"
        )
    found: list[Path] = []
    for name in dict.fromkeys(protocols or known):
        protocol = find_protocol(name)
        every = rows_of(project, protocol)
        where = chosen_tier(every, protocol, tier)
        rows = [row for row in every if row["tier"] == where]
        if not rows:
            raise RecordError(
                f"expected records of {protocol.id} for tier {where}, found none; make them with "
                f"`robustprune run --protocol {protocol.id} --tier {where}`"
            )
        content = _rendered(_figures_of_board(rows, style[0]), *style)
        found += _written(folder / f"{protocol.id}-{where}", content)
    return found


def _written(folder: Path, content: Mapping[str, bytes]) -> list[Path]:
    for name, data in content.items():
        write_atomically(folder / name, data)
    return [folder / name for name in content]


def _rendered(drawn: Mapping[str, Any], look: "Look", forms: Sequence[str]) -> dict[str, bytes]:
    from benchmark.figures import rendered

    return {
        f"{name}.{form}": rendered(figure, look, form)
        for name, figure in drawn.items()
        if figure is not None
        for form in dict.fromkeys(forms)
    }


def _figures_of(compared: Compared, look: "Look") -> _Drawn:
    from benchmark.figures import Named, accuracies, fronts, gains, security

    named = [Named(one.label, one.ladder) for one in compared.entrants]
    drawn: _Drawn = {
        "accuracy": accuracies(named, look),
        "gain": gains(named, look),
        "pareto": fronts([row for one in compared.entrants for row in one.rows], COSTS, look),
    }
    for level in sorted({rung.sparsity for one in named for rung in one.ladder.rungs}):
        shown = [
            (one.label, rung.rows[0])
            for one in named
            for rung in one.ladder.rungs
            # The dense network is the reference at every sparsity.
            if rung.sparsity == level or one.ladder.method == DENSE
        ]
        if len(shown) > 1:
            drawn[f"security-{_percent(level)}"] = security(_curves(shown), look)
    return drawn


def _figures_of_board(rows: Sequence[Row], look: "Look") -> _Drawn:
    from benchmark.figures import Named, accuracies, fronts, gains, security

    drawn: _Drawn = {"pareto": fronts(rows, COSTS, look)}
    groups: dict[tuple[str, str, str, str], list[Ladder]] = {}
    for ladder in ladders(rows):
        if ladder.method != DENSE and ladder.rungs:
            key = (ladder.architecture, ladder.structure, ladder.objective, ladder.recipe)
            groups.setdefault(key, []).append(ladder)
    for key, members in groups.items():
        name = "-".join(_safe(part) for part in key)
        named = [Named(ladder.method, ladder) for ladder in members]
        drawn[f"accuracy-{name}"] = accuracies(named, look)
        drawn[f"gain-{name}"] = gains(named, look)
        for level in sorted({rung.sparsity for one in members for rung in one.rungs}):
            shown = _most_robust(members, level)
            drawn[f"security-{name}-{_percent(level)}"] = security(_curves(shown), look)
    return drawn


def _most_robust(members: Sequence[Ladder], level: float) -> list[tuple[str, Row]]:
    """Returns the dense network and the most robust methods at a sparsity, by label."""
    rungs = [(one.method, rung) for one in members for rung in one.rungs if rung.sparsity == level]
    best = sorted(rungs, key=lambda pair: (-pair[1].robust.value, pair[0]))[:_MOST]
    dense = [(DENSE, members[0].dense)] if members[0].dense else []
    return [(label, rung.rows[0]) for label, rung in [*dense, *best]]


def _curves(shown: Sequence[tuple[str, Row]]) -> list[tuple[str, SecurityCurve]]:
    return [(label, curve) for label, row in shown for curve in security_curves([row])]


def _percent(share: float) -> str:
    return f"{100 * share:.4f}".rstrip("0").rstrip(".")


def _safe(part: str) -> str:
    """Returns a name as part of a file's; where it must change, a digest keeps it apart."""
    plain = re.sub(r"[^a-z0-9.-]+", "-", part.lower())[:60].strip(".-")
    return plain if plain == part else f"{plain}-{sha256_of_bytes(part.encode())[:8]}"
