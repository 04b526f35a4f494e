"""Commands that set methods side by side: compare, figures."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.base import app, err, out, print_table, where
from benchmark.errors import lookup

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    from benchmark.comparison import Ladder, Rung
    from benchmark.leaderboard import Row
    from benchmark.pipeline.comparing import Compared, Meeting
    from benchmark.statistics import Estimate


Preset = Annotated[str, typer.Option(help="Letters of figures: serif or sans.")]
Width = Annotated[str, typer.Option(help="Of figures: column or text of a two-column page.")]
Formats = Annotated[
    str, typer.Option("--format", help="Of figures, comma-separated: pdf, svg, png.")
]


@app.command()
def compare(
    name: Annotated[
        list[str],
        typer.Argument(help="Methods or checkpoint ids, two or more; the start of an id will do."),
    ],
    protocol: Annotated[str, typer.Option(help="Default: the only one with records.")] = "",
    tier: Annotated[
        str, typer.Option(help="Default: the largest that has most rows of each.")
    ] = "",
    objective: Annotated[str, typer.Option(help="Which curve of a method is meant.")] = "",
    structure: Annotated[str, typer.Option(help="Likewise.")] = "",
    architecture: Annotated[str, typer.Option(help="Likewise.")] = "",
    recipe: Annotated[str, typer.Option(help="Likewise.")] = "",
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Write tables and figures there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    form: Formats = "pdf",
    preset: Preset = "serif",
    width: Width = "column",
) -> None:
    """Compares methods along their sparsities, and example by example where they meet.

    Intervals are at 95 %. Two rows are told apart by an exact McNemar test on the examples they
    share, corrected for the number of tests shown.
    """
    from benchmark.pipeline import comparing

    setting = comparing.Setting(architecture, recipe, objective, structure)
    found = comparing.compare(where.project, name, protocol, tier, setting)
    if as_json:
        # Not through the console: a terminal's width must not fold it.
        typer.echo(comparing.document(found))
    else:
        _print_comparison(found)
    if out_folder is not None:
        from benchmark.figures import Look
        from benchmark.pipeline import drawing

        files = drawing.write(found, out_folder, Look(preset, width), _formats(form))
        err.print(f"{len(files)} files in {out_folder}", soft_wrap=True)


def _formats(asked: str) -> list[str]:
    from benchmark.figures import FORMATS

    names = [part.strip() for part in asked.split(",")]
    lookups = [lookup("format", name, {known: known for known in FORMATS}) for name in names]
    return list(dict.fromkeys(lookups))


def _print_comparison(found: "Compared") -> None:
    ladders = [(one.label, one.ladder) for one in found.entrants]
    examples = max((rung.examples for _, one in ladders for rung in one.rungs), default=0)
    out.print(f"{found.protocol}, {found.tier}: {examples:,} examples", soft_wrap=True)
    out.print()
    print_table(_RUNG, [_rung_cells(label, rung) for label, one in ladders for rung in one.rungs])
    for label, one in ladders:
        for row in one.left_out:
            out.print(
                f"{label}: {row['checkpoint_id']} left out: {row['unrankable']}", soft_wrap=True
            )
    out.print()
    print_table(_LADDER, [_ladder_cells(label, one) for label, one in ladders])
    out.print()
    if not found.meetings:
        out.print("no two of them at a common sparsity, so nothing to test", soft_wrap=True)
        return
    print_table(_MEETING, [_meeting_cells(meeting) for meeting in found.meetings])
    tests = len(found.meetings)
    out.print(
        f"p: exact McNemar, Holm-adjusted over the {tests} test{'s'[: tests > 1]} shown",
        soft_wrap=True,
    )


_RUNG = (
    *("method", "sparsity", "clean", "[certified, attacked]", "95 % of attacked", "of certified"),
    *("rank", "gain over magnitude"),
)
_LADDER = ("method", "levels", "mean accuracy over them", "keeps 90 % of dense up to")
_MEETING = (
    *("first : second", "sparsity", "both", "first only", "second only", "neither"),
    *("difference", "p", "verdict"),
)


def _rung_cells(label: str, rung: "Rung") -> tuple[str, ...]:
    return (
        label,
        _sparse(rung.sparsity) + (f" ({len(rung.seeds)} seeds)" if len(rung.seeds) > 1 else ""),
        f"{rung.clean:.1%}",
        f"[{_share(rung.certified.value)}, {_share(rung.robust.value)}]",
        _range(rung.robust),
        _range(rung.certified),
        ", ".join(_place(row) for row in rung.rows),
        _points(rung.gain),
    )


def _place(row: "Row") -> str:
    """Returns a rank with its interval, and whether it is shared with the best of the cell."""
    tied = " tied" if row["tied_with_best"] else ""
    return f"{row['rank']}{tied} of {row['rivals'] + 1} [{row['rank_low']}, {row['rank_high']}]"


def _ladder_cells(label: str, ladder: "Ladder") -> tuple[str, ...]:
    last = ladder.levels[-1] if ladder.levels else 1.0
    kept = [
        f"{'≥ ' if end == last else ''}{_share(end)}"
        for end in (ladder.kept.value, ladder.kept.low, ladder.kept.high)
    ]
    known = math.isfinite(ladder.kept.value)
    return (
        label,
        ", ".join(_sparse(level) for level in ladder.levels) or "—",
        f"{_share(ladder.area.value)} {_range(ladder.area)}" if ladder.levels else "—",
        f"{kept[0]} [{kept[1]}, {kept[2]}]" if known else "—",
    )


def _meeting_cells(meeting: "Meeting") -> tuple[str, ...]:
    contest, levels = meeting.contest, dict.fromkeys(map(_sparse, meeting.sparsities))
    return (
        f"{meeting.first} : {meeting.second}",
        " : ".join(levels),
        f"{contest.both:,}",
        f"{contest.only_first:,}",
        f"{contest.only_second:,}",
        f"{contest.neither:,}",
        _points(contest.difference),
        f"{meeting.p:.2g}",
        meeting.verdict,
    )


def _sparse(share: float) -> str:
    return f"{100 * share:.4f}".rstrip("0").rstrip(".") + " %"


def _share(share: float) -> str:
    return f"{share:.1%}" if math.isfinite(share) else "—"


def _range(found: "Estimate") -> str:
    return f"[{_share(found.low)}, {_share(found.high)}]" if math.isfinite(found.value) else "—"


def _points(found: "Estimate") -> str:
    """Returns a difference of shares in points, with its interval."""
    if not math.isfinite(found.value):
        return "—"
    ends = [round(100 * end, 1) for end in (found.value, found.low, found.high)]
    value, low, high = (f"{end:+.1f}" if end else "0.0" for end in ends)
    return f"{value} [{low}, {high}]"


@app.command()
def figures(
    protocol: Annotated[
        list[str] | None, typer.Option(help="Only these protocols; default: all with records.")
    ] = None,
    tier: Annotated[
        str, typer.Option(help="Default: the largest that has most rows of its protocol.")
    ] = "",
    form: Formats = "pdf",
    preset: Preset = "serif",
    width: Width = "column",
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Default: reports/figures of the project.")
    ] = None,
) -> None:
    """Draws records for a paper: accuracy, gain, fronts and security curves."""
    from benchmark.figures import Look
    from benchmark.pipeline import drawing

    folder = out_folder or where.project.root / "reports" / "figures"
    style = Look(preset, width), _formats(form)
    files = drawing.figures(where.project, protocol or [], tier, folder, style)
    out.print(f"{len(files)} figures in {folder}", soft_wrap=True)
