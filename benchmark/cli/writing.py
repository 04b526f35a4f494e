"""Commands for who writes a method: new-method, check-method."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.base import app, out, print_table, progress_bar, where
from benchmark.errors import ContractError

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    from benchmark.contract import Report


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="Lower-case words joined by hyphens.")],
    package: Annotated[
        Path | None,
        typer.Option(help="Write an installable package here, instead of files of this clone."),
    ] = None,
    title: Annotated[str, typer.Option(help="Name in tables; default: from the name.")] = "",
    author: Annotated[list[str] | None, typer.Option(help="Of the method; one or more.")] = None,
) -> None:
    """Writes a method that works, with its test and its page, to be changed where it says so."""
    from benchmark import scaffolding

    order = scaffolding.Wish(name, title, tuple(author or ()))
    if package is None:
        made, target = scaffolding.write_here(where.project.root, order), name
    else:
        made, target = scaffolding.write_package(package, order), str(package)
    for path in made:
        out.print(str(path), soft_wrap=True)
    out.print(f"next: change {made[0]}, then `robustprune check-method {target}`", soft_wrap=True)


@app.command("check-method")
def check_method(
    target: Annotated[
        str,
        typer.Argument(
            help="A method with its settings, a Python file, or the folder of a package."
        ),
    ],
    name: Annotated[str, typer.Option(help="Which method of a file or package of several.")] = "",
    seconds: Annotated[
        float, typer.Option(min=1, help="What all of it may take; 0.1 s a case is usual.")
    ] = 60.0,
) -> None:
    """Examines whether a method keeps the contract, in a process of its own, on tiny data.

    For a method of this project that passes, its page of the handbook is written anew.
    """
    from benchmark import contract

    source = contract.source_of(target, name)
    with progress_bar("check") as watch:
        limits = contract.Limits(seconds=seconds)
        report = contract.examined(source, limits, watch)
    _show(report)
    if report.failed:
        broken = ", ".join(finding.check for finding in report.failed)
        raise ContractError(f"expected method '{report.name}' to keep its contract, got {broken}")
    _write_page(report)


def _show(report: "Report") -> None:
    rows: list[tuple[str, str, str]] = []
    for finding in report.findings:
        answer = finding.answer
        rows.append((finding.check, answer.status, answer.skipped or answer.detail))
    print_table(("check", "result", ""), rows)
    for finding in report.failed:
        first, *rest = finding.answer.problems
        more = f" (and {len(rest)} more)" if rest else ""
        out.print(f"\n{finding.check}: expected that it {finding.promise}, got", soft_wrap=True)
        out.print(f"  {first}{more}", soft_wrap=True)
        out.print(f"  to do: {finding.advice}", soft_wrap=True)
    if report.costs:
        rows = [(c.case, f"{c.seconds:.3f}", f"{c.megabytes:.0f}") for c in report.costs]
        out.print("")
        print_table(("case", "seconds", "MB"), rows)
    out.print(f"{report.name}: {report.seconds:.0f} s in all", soft_wrap=True)


def _write_page(report: "Report") -> None:
    """Writes the page of a method that lies in this project's own folder."""
    from benchmark import handbook, scaffolding

    folder = where.project.root / "docs" / "methods"
    if report.page and scaffolding.is_clone(where.project.root) and folder.is_dir():
        name = report.name.partition(":")[0]
        for path in handbook.write_one(folder, name, report.page, report.row):
            out.print(f"written: {path}", soft_wrap=True)
