"""The command line: arguments, then one call each. The only module that prints or exits.

Exit codes: 0 success; 1 a defect of this program; 2 wrong usage; 3 unknown name; 4 manifest or
weights; 5 data set; 6 missing optional package; 7 broken contract; 8 contradictory outcomes;
9 record; 11 storage; 12 lost worker; 130 interrupted.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from benchmark.errors import BenchmarkError, UnknownName, lookup, shorten
from benchmark.pipeline.project import Project, Watch, find_root

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    import pandas as pd

    from benchmark.manifest import Checkpoint

app = typer.Typer(
    help="Benchmark and leaderboard for pruning methods that keep networks adversarially robust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

Tier = Annotated[str, typer.Option(help="quick, standard or full: how many examples.")]
Seed = Annotated[int, typer.Option(min=0, max=999_999_999, help="Training seed.")]


# Headers, and one row an entry.
Listing = tuple[tuple[str, ...], list[tuple[str, ...]]]


class _Where:
    """The options that stand before the command."""

    project = Project(Path())


where = _Where()


@app.callback()
def _options(
    root: Annotated[
        Path | None,
        typer.Option(help="Project folder; default: the nearest with a manifest, from here up."),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where data sets lie; default: $ROBUSTPRUNE_DATA.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 chooses by machine.")] = 0,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch missing data sets over the network.")
    ] = False,
) -> None:
    environment = os.environ.get("ROBUSTPRUNE_DATA")
    where.project = Project(
        root=(root or find_root(Path.cwd())).resolve(),
        data_root=data_root or (Path(environment) if environment else None),
        device=device,
        workers=workers,
        download=download,
    )


@contextmanager
def progress_bar(title: str) -> Iterator[Watch]:
    """Shows a progress bar on a terminal, and yields what to call after each piece."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=None)

        def watch(done: int, total: int, text: str) -> None:
            progress.update(
                task, completed=done, total=total, description=f"{title} {shorten(text, 70)}"
            )

        yield watch


@app.command("list")
def list_names(
    kind: Annotated[
        str,
        typer.Argument(
            help="methods, checkpoints, protocols, data, architectures, objectives or recipes."
        ),
    ] = "methods",
) -> None:
    """Lists what there is of one kind."""
    headers, rows = lookup("kind", kind, _LISTINGS)()
    table = Table(box=None, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")  # a name that is cut cannot be copied
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _list_methods() -> Listing:
    import methods

    rows: list[tuple[str, ...]] = []
    for name in methods.names():
        try:
            kind = methods.method(name)
            rows.append((name, ", ".join(kind.structures), kind.info.summary))
        except BenchmarkError as error:
            rows.append((name, "broken", str(error)))
    return ("method", "structures", "summary"), rows


def _list_checkpoints() -> Listing:
    entries = where.project.manifest().checkpoints
    return ("checkpoint", "bytes", "zeros", "recipe"), [
        (entry.id, f"{entry.bytes:,}", f"{entry.zeros:,} of {entry.prunable:,}", entry.recipe)
        for entry in entries
    ]


def _list_protocols() -> Listing:
    from benchmark.protocols import PROTOCOLS

    return ("protocol", "version", "threat model", "data", "examples"), [
        (
            protocol.id,
            str(protocol.version),
            str(protocol.threat),
            protocol.dataset,
            ", ".join(f"{name} {count:,}" for name, count in protocol.tiers),
        )
        for protocol in PROTOCOLS.values()
    ]


def _list_data() -> Listing:
    from benchmark.datasets import DATASETS, status

    rows: list[tuple[str, ...]] = []
    for name in DATASETS:
        found = status(name, where.project.data_root)
        rows.append(
            (
                name,
                "found" if found.found else "missing",
                found.detail,
                "" if found.found else found.how_to_get,
            )
        )
    return ("data set", "state", "detail", "how to get it"), rows


def _list_architectures() -> Listing:
    from benchmark.architectures import ARCHITECTURES

    return ("architecture", "title", "inputs"), [
        (name, entry.title, str(entry.shapes)) for name, entry in ARCHITECTURES.items()
    ]


def _list_objectives() -> Listing:
    from benchmark.objectives import OBJECTIVES

    return ("objective",), [(name,) for name in OBJECTIVES]


def _list_recipes() -> Listing:
    from benchmark.recipes import RECIPES

    return ("recipe", "data", "architecture", "epochs: pretrain, prune, finetune"), [
        (
            name,
            entry.dataset,
            entry.architecture,
            f"{entry.pretrain.epochs}, {entry.prune.epochs}, {entry.finetune.epochs}",
        )
        for name, entry in RECIPES.items()
    ]


_LISTINGS: dict[str, Callable[[], Listing]] = {
    "methods": _list_methods,
    "checkpoints": _list_checkpoints,
    "protocols": _list_protocols,
    "data": _list_data,
    "architectures": _list_architectures,
    "objectives": _list_objectives,
    "recipes": _list_recipes,
}


@app.command()
def compress(
    method: Annotated[list[str], typer.Argument(help="One or more methods.")],
    recipe: Annotated[
        str, typer.Option(help="Training recipe; names the data set (see `list recipes`).")
    ] = "digits",
    sparsity: Annotated[
        str, typer.Option(help="Share of weights removed, comma-separated, such as 0.9,0.99.")
    ] = "0.9",
    objective: Annotated[str, typer.Option(help="Loss of all stages.")] = "adversarial",
    structure: Annotated[
        str, typer.Option(help="unstructured, filter or channel.")
    ] = "unstructured",
    architecture: Annotated[str, typer.Option(help="Default: the recipe's.")] = "",
    seed: Seed = 0,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of a training run; part of its result.")
    ] = 1,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train again what is there already.")
    ] = False,
) -> None:
    """Pretrains, prunes and finetunes; writes checkpoints and their manifest entries."""
    from benchmark import recipes
    from benchmark.architectures import ARCHITECTURES
    from benchmark.objectives import OBJECTIVES
    from benchmark.pipeline import Order, compress_all, plan_orders
    from benchmark.pruning import STRUCTURES, as_sparsity

    chosen = recipes.recipe(recipe)
    lookup("objective", objective, OBJECTIVES)
    lookup("architecture", architecture or chosen.architecture, ARCHITECTURES)
    template = Order(
        method=method[0],
        architecture=architecture or chosen.architecture,
        objective=objective,
        structure=lookup("structure", structure, {name: name for name in STRUCTURES}),
        sparsity=as_sparsity("0"),
        seed=seed,
        recipe=recipe,
    )
    levels = [as_sparsity(part.strip()) for part in sparsity.split(",")]
    orders = plan_orders(method, levels, template)
    with progress_bar("compress") as watch:
        made = compress_all(where.project, orders, threads=threads, fresh=fresh, watch=watch)
    for entry in made:
        out.print(
            f"{entry.id}  {entry.zeros:,} of {entry.prunable:,} zero, {entry.bytes:,} bytes",
            soft_wrap=True,
        )
    if len(made) < len(orders):
        out.print(f"{len(orders) - len(made)} already there; --fresh makes them again")


@app.command()
def evaluate(
    checkpoint: Annotated[list[str], typer.Argument(help="One or more checkpoint ids.")],
    protocol: Annotated[str, typer.Option(help="Default: the protocol of the data set.")] = "",
    tier: Tier = "quick",
) -> None:
    """Evaluates checkpoints and writes their records; finished records are not computed again."""
    from benchmark.pipeline import results

    manifest = where.project.manifest()
    entries = [manifest.find(name) for name in checkpoint]
    chosen = protocol or _protocol_of({entry.dataset for entry in entries})
    _evaluate(entries, chosen, tier)
    table = results(where.project)
    _print_rows(table[table["checkpoint_id"].isin(checkpoint) & (table["tier"] == tier)])


def _protocol_of(datasets: set[str]) -> str:
    from benchmark.protocols import PROTOCOLS

    if len(datasets) == 1:
        for name, protocol in PROTOCOLS.items():
            if protocol.dataset in datasets:
                return name
    raise UnknownName(
        f"expected checkpoints of one data set with a protocol, got {', '.join(sorted(datasets))}; "
        "give --protocol"
    )


def _evaluate(entries: Sequence["Checkpoint"], protocol: str, tier: str) -> None:
    from benchmark.pipeline import evaluate_all
    from benchmark.protocols import protocol as find

    with progress_bar("evaluate") as watch:
        done = evaluate_all(where.project, entries, find(protocol), tier, watch)
    for name, reason in done:
        if reason != "no record" and not reason.startswith("record of tier"):
            err.print(f"{name}: the old record was refused ({reason}) and made again")
    out.print(f"{protocol}, {tier}: {len(done)} evaluated, {len(entries) - len(done)} up to date")


def _print_rows(table: "pd.DataFrame") -> None:
    shown = Table("checkpoint", "clean", "PGD", "AutoAttack", "[certified, attacked]", box=None)
    for row in table.to_dict("records"):
        shown.add_row(
            str(row["checkpoint_id"]),
            f"{row['clean_accuracy']:.1%}",
            f"{row['pgd_accuracy']:.1%}",
            f"{row['autoattack_accuracy']:.1%}",
            f"{row['certified_accuracy']:.1%} – {row['robust_accuracy']:.1%}",
        )
    out.print(shown)


@app.command()
def run(
    protocol: Annotated[
        list[str] | None, typer.Option(help="Only these protocols; default: all with checkpoints.")
    ] = None,
    tier: Tier = "standard",
) -> None:
    """Evaluates what is missing, then renders the leaderboard."""
    from benchmark.protocols import PROTOCOLS
    from benchmark.protocols import protocol as find

    entries = where.project.manifest().checkpoints
    datasets = {entry.dataset for entry in entries}
    chosen = protocol or [name for name, p in PROTOCOLS.items() if p.dataset in datasets]
    for name in chosen:
        dataset = find(name).dataset
        _evaluate([entry for entry in entries if entry.dataset == dataset], name, tier)
    report()


@app.command()
def report() -> None:
    """Renders the leaderboard from records alone."""
    from benchmark import pipeline

    pages = pipeline.report(where.project)
    out.print(f"{len(pages)} files, start with {where.project.site / 'index.html'}")


@app.command()
def doctor() -> None:
    """Tells versions, devices, what data are there, and how to get what is missing."""
    import torch

    from benchmark.bounds import engine_version
    from benchmark.distributed import choose_device, environment

    device = choose_device(where.project.device)
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in environment(device).items():
        table.add_row(name, value)
    table.add_row("bounds", engine_version())
    table.add_row("accelerators", str(torch.cuda.device_count()))
    table.add_row("cores", str(os.cpu_count()))
    table.add_row("project", str(where.project.root))
    table.add_row("data root", str(where.project.data_root or "none (embedded data only)"))
    out.print(table)
    out.print()
    list_names("data")


# Options of the project, which a user may also write behind the command.
_PROJECT_OPTIONS = ("--root", "--data-root", "--device", "--workers")


def project_options_first(arguments: list[str]) -> list[str]:
    """Returns the arguments with the project's options moved before the command."""
    front, rest = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--download" or argument.startswith(
            tuple(f"{o}=" for o in _PROJECT_OPTIONS)
        ):
            front.append(argument)
        elif argument in _PROJECT_OPTIONS:
            front += [argument, *[value for value in [next(remaining, None)] if value is not None]]
        else:
            rest.append(argument)
    return front + rest


def main() -> None:
    """Runs the command line; every known error becomes one line and its exit code."""
    try:
        code = app(project_options_first(sys.argv[1:]), standalone_mode=False)
    except BenchmarkError as error:
        err.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; run the same command again to go on")
        sys.exit(130)
    except typer.TyperException as error:
        error.show()  # type: ignore[attr-defined]
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
