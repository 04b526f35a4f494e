"""Commands that fill a board: list, compress, evaluate, run, report."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.base import (
    Address,
    Executor,
    Gigabytes,
    Listing,
    Minutes,
    Seed,
    Tier,
    app,
    err,
    how_to_fill,
    limit,
    out,
    print_table,
    progress_bar,
    project_manifest,
    protocol_of,
    where,
    with_data,
)
from benchmark.errors import BenchmarkError, ManifestError, lookup

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    import pandas as pd

    from benchmark.manifest import Checkpoint
    from benchmark.protocols import Protocol


@app.command("list")
def list_names(
    kind: Annotated[
        str,
        typer.Argument(
            help="methods, checkpoints, protocols, data, architectures, objectives, recipes, "
            "reported or apbench."
        ),
    ] = "methods",
) -> None:
    """Lists what there is of one kind."""
    print_table(*lookup("kind", kind, _LISTINGS)())


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
    return ("checkpoint", "bytes", "zeros", "recipe"), [
        (entry.id, f"{entry.bytes:,}", f"{entry.zeros:,} of {entry.prunable:,}", entry.recipe)
        for entry in project_manifest().checkpoints
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
    from benchmark.architectures import ARCHITECTURES, described

    rows = [(name, entry.title, str(entry.shapes)) for name, entry in ARCHITECTURES.items()]
    for entry in where.project.manifest().checkpoints:
        row = entry.architecture, described.title(entry.architecture), f"those of {entry.dataset}"
        if described.is_described(entry.architecture) and row not in rows:
            rows.append(row)
    return ("architecture", "title", "inputs"), list(rows)


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


def _list_reported() -> Listing:
    from benchmark.reported import every

    heads = ("source", "method", "data", "architecture", "structure", "sparsity", "clean", "robust")
    return (*heads, "attack", "threat model", "note"), [
        (
            row.source.label,
            row.method_name,
            row.dataset,
            row.architecture_name,
            row.structure or "not stated",
            f"{100 * row.sparsity:g}%",
            row.percent(row.clean_accuracy) or "not stated",
            row.percent(row.robust_accuracy),
            row.source.attack,
            row.threat,
            row.note,
        )
        for row in every()
    ]


def _list_apbench() -> Listing:
    from benchmark.foreign.apbench import links

    heads = ("checkpoint", "method", "data", "architecture", "structure", "sparsity", "clean")
    return (*heads, "format"), [
        (
            link.key,
            link.method,
            link.dataset,
            link.architecture,
            link.structure or "not stated",
            f"{100 * link.sparsity:g}%",
            f"{100 * link.clean_accuracy:.2f}",
            link.format,
        )
        for link in links().values()
    ]


_LISTINGS: dict[str, Callable[[], Listing]] = {
    "methods": _list_methods,
    "checkpoints": _list_checkpoints,
    "protocols": _list_protocols,
    "data": _list_data,
    "architectures": _list_architectures,
    "objectives": _list_objectives,
    "recipes": _list_recipes,
    "reported": _list_reported,
    "apbench": _list_apbench,
}


@app.command()
def compress(
    method: Annotated[
        list[str],
        typer.Argument(help="One or more methods, with settings as in `hydra:start=benign`."),
    ],
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
    keep_parents: Annotated[
        bool,
        typer.Option("--keep-parents", help="With --fresh, but for dense parents in the cache."),
    ] = False,
) -> None:
    """Pretrains, prunes and finetunes; writes checkpoints and their manifest entries."""
    from benchmark import recipes
    from benchmark.architectures import ARCHITECTURES, described
    from benchmark.objectives import OBJECTIVES
    from benchmark.pipeline import Order, compress_all, plan_orders
    from benchmark.pruning import STRUCTURES, as_sparsity

    chosen = recipes.recipe(recipe)
    lookup("objective", objective, OBJECTIVES)
    if not described.is_described(architecture):
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
    orders, skipped = plan_orders(method, levels, template)
    for line in skipped:
        err.print(line, soft_wrap=True)
    with progress_bar("compress") as watch:
        made = compress_all(
            where.project,
            orders,
            threads=threads,
            fresh=fresh,
            keep_parents=keep_parents,
            watch=watch,
        )
    for entry in made:
        out.print(
            f"{entry.id}  {entry.zeros:,} of {entry.prunable:,} zero, {entry.bytes:,} bytes",
            soft_wrap=True,
        )
    if len(made) < len(orders):
        left = len(orders) - len(made)
        out.print(f"{left} already there; --fresh makes them again", soft_wrap=True)


@app.command()
def evaluate(
    checkpoint: Annotated[list[str], typer.Argument(help="One or more checkpoint ids.")],
    protocol: Annotated[str, typer.Option(help="Default: the protocol of the data set.")] = "",
    tier: Tier = "quick",
    executor: Executor = "auto",
    address: Address = "",
    minutes: Minutes = 0.0,
    gigabytes: Gigabytes = 0.0,
) -> None:
    """Evaluates checkpoints and writes their records; finished records are not computed again.

    Where a record is there and its evidence is not, both are made again.
    """
    from benchmark.protocols import protocol as find

    limit(executor, address, minutes, gigabytes)
    manifest = project_manifest()
    entries = [manifest.find(name) for name in dict.fromkeys(checkpoint)]
    chosen = find(protocol or protocol_of({entry.dataset for entry in entries}))
    _evaluate(entries, chosen, tier, with_evidence=True)
    _print_accuracies(_table_of(entries, chosen, tier), chosen)


def _evaluate(
    entries: Sequence["Checkpoint"],
    protocol: "Protocol",
    tier: str,
    *,
    with_evidence: bool = False,
) -> None:
    from benchmark.pipeline import evaluate_all

    with progress_bar("evaluate") as watch:
        done = evaluate_all(
            where.project, entries, protocol, tier, watch, with_evidence=with_evidence
        )
    for name, reason in done:
        if reason != "no record" and not reason.startswith("record of tier"):
            err.print(
                f"{name}: the old record was refused ({reason}) and made again", soft_wrap=True
            )
    counts = f"{len(done)} evaluated, {len(entries) - len(done)} up to date"
    out.print(f"{protocol.id}, {tier}: {counts}", soft_wrap=True)


def _table_of(entries: Sequence["Checkpoint"], protocol: "Protocol", tier: str) -> "pd.DataFrame":
    """Returns the frame of these checkpoints alone: others' stale records do not matter here."""
    from benchmark import records

    rows = []
    for entry in entries:
        path = records.record_path(where.project.results, protocol.id, entry.id)
        row = records.Row(entry, protocol, *records.read(path))
        rows.append(records.with_challenges(row, where.project.challenges))
    table = records.frame(rows)
    return table[table["tier"] == tier]


def _print_accuracies(table: "pd.DataFrame", protocol: "Protocol") -> None:
    from benchmark.pipeline.reporting import attack_columns

    attacks = attack_columns(protocol)
    rows = [
        (
            str(row["checkpoint_id"]),
            f"{row['clean_accuracy']:.1%}",
            *(f"{row['attack_accuracies'][attack.evaluation]:.1%}" for attack in attacks),
            f"{row['certified_accuracy']:.1%} – {row['best_known_accuracy']:.1%}",
        )
        for row in table.to_dict("records")
    ]
    heads = ("checkpoint", "clean", *(one.label for one in attacks), "[certified, attacked]")
    print_table(heads, rows)


@app.command()
def run(
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="Only these protocols; default: all main ones with checkpoints."),
    ] = None,
    tier: Tier = "standard",
    executor: Executor = "auto",
    address: Address = "",
    minutes: Minutes = 0.0,
    gigabytes: Gigabytes = 0.0,
) -> None:
    """Evaluates what is missing, then renders the leaderboard.

    Without --protocol, protocols whose data are not at hand are left out.
    """
    limit(executor, address, minutes, gigabytes)
    planned = _planned(protocol or [])
    if not protocol:
        needs = [(one, one[0].dataset) for one in planned]
        planned = with_data(needs, lambda some: ", ".join(chosen.id for chosen, _ in some))
    for chosen, entries in planned:
        _evaluate(entries, chosen, tier)
    report()


def _planned(asked: Sequence[str]) -> list[tuple["Protocol", list["Checkpoint"]]]:
    """Returns protocols with their checkpoints: those asked for, or all main ones that have any.

    Raises:
        UnknownName: no such protocol.
        ManifestError: there are no checkpoints to evaluate.
    """
    from benchmark.protocols import ASKED_FOR, PROTOCOLS
    from benchmark.protocols import protocol as find

    chosen = [find(name) for name in dict.fromkeys(asked)]
    chosen = chosen or [entry for name, entry in PROTOCOLS.items() if name not in ASKED_FOR]
    known = project_manifest().checkpoints
    planned = [(p, [entry for entry in known if entry.dataset == p.dataset]) for p in chosen]
    filled = [(p, entries) for p, entries in planned if entries]
    for missing, entries in planned:
        if not entries and (asked or not filled):
            raise ManifestError(
                f"expected checkpoints for {missing.dataset} in the manifest, found none; "
                f"{how_to_fill(missing.dataset)}"
            )
    return filled


@app.command()
def report() -> None:
    """Renders the leaderboard from records alone."""
    from benchmark import pipeline

    project_manifest()
    pages = pipeline.report(where.project)
    index = where.project.site / "index.html"
    out.print(f"{len(pages)} files, start with {index}", soft_wrap=True)
