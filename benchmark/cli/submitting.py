"""Commands about submissions: submit, validate, accept."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.base import (
    app,
    err,
    out,
    print_table,
    progress_bar,
    project_manifest,
    where,
)
from benchmark.errors import BenchmarkError
from benchmark.files import write_atomically

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    from benchmark.pipeline.receiving import Scrutiny, Validation
    from benchmark.pipeline.standing import Standing

Bundle = Annotated[
    Path, typer.Argument(help="A bundle of `robustprune submit`, or the folder of an unpacked one.")
]
Bounds = Annotated[
    float, typer.Option(help="Share of the examples whose bounds are computed again, in [0, 1].")
]
DrawSeed = Annotated[
    int | None,
    typer.Option(min=0, help="Of the choice of those examples; default: nobody knows it before."),
]


@app.command()
def submit(
    folder: Annotated[Path, typer.Argument(help="Holds submission.toml; gets bundle and patch.")],
    init: Annotated[
        bool, typer.Option("--init", help="Write a submission.toml to complete, and stop.")
    ] = False,
    method: Annotated[
        str, typer.Option(help="With --init: the method; default: named as the folder.")
    ] = "",
    bounds: Bounds = 0.1,
    seed: DrawSeed = None,
) -> None:
    """Makes a bundle of a method's checkpoints, and the change of the manifest that goes with it.

    Evaluates what is missing, checks everything as the board's keepers will, and compares each row
    with every other of its cell. Nothing is sent anywhere.
    """
    from benchmark.pipeline import submitting

    project_manifest()
    if init:
        path = submitting.write_draft(where.project, folder, method)
        out.print(f"complete {path}, then run `robustprune submit {folder}`", soft_wrap=True)
        return
    with progress_bar("submit") as watch:
        made = submitting.submit(where.project, folder, _scrutiny(bounds, seed), watch)
    out.print(f"evaluated {len(made.evaluated)} records that were missing", soft_wrap=True)
    _conclude(made.validation)
    out.print(f"bundle   {made.bundle} ({made.bundle.stat().st_size:,} bytes)", soft_wrap=True)
    out.print(f"manifest {made.patch}, for `git apply` in the board's project", soft_wrap=True)


@app.command()
def validate(
    bundle: Bundle,
    report: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    bounds: Bounds = 0.1,
    seed: DrawSeed = None,
) -> None:
    """Checks a submission against this project, offline; the project stays as it is.

    Every file is read once, into a private folder; nothing of it is run. The exit code is that of
    the first problem.
    """
    from benchmark.pipeline import receiving, verdicts

    project_manifest()
    try:
        with progress_bar("validate") as watch:
            scrutiny = _scrutiny(bounds, seed)
            found = receiving.validate(where.project, bundle, scrutiny, watch)
    except BenchmarkError as error:
        if report is not None:
            write_atomically(report, verdicts.refusal(bundle, error).encode())
        raise
    if report is not None:
        write_atomically(report, verdicts.report(found).encode())
    _conclude(found)
    out.print("the submission holds; `robustprune accept` enters it", soft_wrap=True)


@app.command()
def accept(bundle: Bundle, bounds: Bounds = 0.1, seed: DrawSeed = None) -> None:
    """Checks a submission and enters checkpoints, records and evidence, all or nothing."""
    from benchmark.pipeline import receiving

    project_manifest()
    with progress_bar("accept") as watch:
        done = receiving.accept(where.project, bundle, _scrutiny(bounds, seed), watch)
    _conclude(done.validation)
    for protocol, name in done.kept:
        out.print(f"kept the project's own record of {name} under {protocol}", soft_wrap=True)
    out.print(
        f"entered {len(done.entered)} checkpoints and {len(done.records)} records; `robustprune "
        "report` shows them",
        soft_wrap=True,
    )


@app.command()
def review(
    folder: Annotated[
        Path, typer.Argument(help="The project as a pull request would have it; only read.")
    ],
    base: Annotated[
        Path | None,
        typer.Option(help="The project as the folder found it; default: this one."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    fraction: Annotated[
        float, typer.Option(help="Share of each record's examples measured again, in (0, 1].")
    ] = 0.1,
    bounds: Bounds = 0.1,
    seed: DrawSeed = None,
) -> None:
    """Validates, verifies and audits what a folder changes on this board: bundles, entries, rows.

    Nothing of the folder is run, and neither it nor the board is written to. The exit code is 9 if
    anything speaks against the change.
    """
    from benchmark.pipeline import reviewing, verdicts
    from benchmark.pipeline.auditing import Draw
    from benchmark.pipeline.changing import Proposal

    project_manifest()
    scrutiny = _scrutiny(bounds, seed)
    try:
        with progress_bar("review") as watch:
            found = reviewing.review(
                where.project,
                Proposal(folder, base),
                Draw(scrutiny.seed, fraction),
                bounds,
                watch,
            )
    except BenchmarkError as error:
        if report is not None:
            write_atomically(report, verdicts.refusal(folder, error).encode())
        raise
    if report is not None:
        write_atomically(report, verdicts.review(found).encode())
    changed = found.changes
    out.print(
        f"{len(changed.bundles)} bundles, {len(changed.added)} new checkpoints, "
        f"{len(changed.records)} new or altered records; {len(found.verified)} records verified, "
        f"{len(found.audits)} audited",
        soft_wrap=True,
    )
    for problem in found.problems:
        err.print(f"problem: {problem}", soft_wrap=True)
    reviewing.refuse(found)


def _scrutiny(bounds: float, seed: int | None) -> "Scrutiny":
    from benchmark.pipeline.receiving import Scrutiny

    drawn = secrets.randbits(32) if seed is None else seed
    out.print(f"bounds of {bounds:.0%} of the examples, seed {drawn}", soft_wrap=True)
    return Scrutiny(bounds, drawn)


def _conclude(found: "Validation") -> None:
    """Prints what was found.

    Raises:
        BenchmarkError: the first problem, if there is any.
    """
    from benchmark.pipeline.receiving import missing_controls, refuse

    for note in found.notes:
        err.print(f"note: {note}", soft_wrap=True)
    for problem in found.problems:
        err.print(f"problem: {problem}", soft_wrap=True)
    refuse(found)
    _print_standings(found.standings)
    if lacking := missing_controls(found.standings):
        out.print(
            f"missing controls of the same recipe: {', '.join(lacking)}; `robustprune compress` "
            "makes them",
            soft_wrap=True,
        )
    reasons = dict.fromkeys(line.narrow for line in found.standings if line.narrow)
    out.print(f"narrow: {'; '.join(reasons) or 'no'}", soft_wrap=True)


def _print_standings(lines: Sequence["Standing"]) -> None:
    from benchmark.pipeline.standing import remarks

    heads = ("checkpoint", "tier", "[certified, attacked]", "rank", "95 %")
    print_table(
        (*heads, "better than", "worse than", "not separable", "remarks"),
        [
            (
                line.checkpoint,
                f"{line.tier} ({line.examples:,})",
                f"[{line.certified:.1%}, {line.attacked:.1%}]",
                line.rank,
                line.rank_range,
                *(str(line.count(v)) for v in ("better", "worse", "not separable")),
                remarks(line),
            )
            for line in lines
        ],
    )
