"""The command line: arguments, then one call each. The only module that prints or exits.

Exit codes: 0 success; 1 a defect of this program; 2 wrong usage; 3 unknown name; 4 manifest or
weights; 5 data set; 6 missing optional package; 7 broken contract; 8 contradictory outcomes;
9 record; 11 storage; 12 lost worker; 13 memory; 130 interrupted.
"""

import importlib.util
import os
import secrets
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from benchmark.errors import (
    BenchmarkError,
    ExtraMissing,
    ManifestError,
    RecordError,
    UnknownName,
    lookup,
    shorten,
)
from benchmark.files import inside
from benchmark.pipeline.project import MANIFEST, Project, Watch, find_root
from benchmark.workers import EXECUTORS, Workers

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    import pandas as pd

    from benchmark.manifest import Checkpoint, Manifest
    from benchmark.pipeline.auditing import Audit, Finding
    from benchmark.pipeline.challenging import Answer
    from benchmark.pipeline.verifying import Verification
    from benchmark.protocols import Protocol
    from benchmark.workers import Executor as ExecutorName

app = typer.Typer(
    help="Benchmark and leaderboard for pruning methods that keep networks adversarially robust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class _Literal(Console):
    """A console that prints text as it is.

    Names come from files and plug-ins: brackets and colons in them are no commands.
    """

    def __init__(self, *, width: int | None = None, stderr: bool = False) -> None:
        super().__init__(width=width, stderr=stderr, markup=False, highlight=False, emoji=False)


out = _Literal()
err = _Literal(stderr=True)

Tier = Annotated[str, typer.Option(help="quick, standard or full: how many examples.")]
Executor = Annotated[str, typer.Option(help=f"Where shards run: {', '.join(EXECUTORS)}.")]
Address = Annotated[str, typer.Option(help="Of a running Ray cluster, such as auto.")]
Minutes = Annotated[
    float, typer.Option(min=0, help="A shard that takes longer runs again elsewhere; 0: no limit.")
]
Gigabytes = Annotated[
    float, typer.Option(min=0, help="A worker that holds more is replaced; 0: no limit.")
]
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
        workers=Workers(workers),
        download=download,
    )


def _manifest() -> "Manifest":
    """Returns the manifest of a project that must have one.

    Raises:
        ManifestError: it has none, or one that breaks the format.
    """
    if not where.project.manifest_path.is_file():
        raise ManifestError(f"expected {MANIFEST} in {where.project.root}, found none; give --root")
    return where.project.manifest()


# --- Progress and tables --------------------------------------------------------------------------


@contextmanager
def progress_bar(title: str) -> Iterator[Watch]:
    """Shows progress on stderr, a bar on a terminal; yields what to call after each piece."""
    if not (err.is_interactive and err.file.isatty()):
        yield _plain_lines(title)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        _Left(),
    )
    rate = _Rate()
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=None, rate="", end=None)

        def watch(done: int, total: int, text: str, left: float | None = None) -> None:
            pace = rate.after(done)
            progress.update(
                task,
                completed=done,
                total=total,
                description=f"{title} {_short(text)}",
                # Pieces without an estimate, such as epochs, begin again with each stage.
                rate="" if left is None else pace,
                end=None if left is None else time.monotonic() + left,
            )

        yield watch


def _short(text: str) -> str:
    """Returns a text of progress for a bar; a long name is cut before what is done with it."""
    name, colon, what = shorten(text, 300).rpartition(": ")
    what = shorten(colon + what, 40)
    return shorten(name, 72 - len(what)) + what


class _Left(TimeRemainingColumn):
    """The time left as whoever does the work estimates it, and else from the number of pieces."""

    def render(self, task: Task) -> Text:
        """Returns the time left, counting down."""
        end = task.fields["end"]
        if end is None:
            return super().render(task)
        return Text(_clock(end - time.monotonic()), style="progress.remaining")


class _Rate:
    """Pieces a minute since the first call: what was done before took no time now."""

    def __init__(self) -> None:
        self._since: tuple[float, int] | None = None

    def after(self, done: int) -> str:
        """Returns the rate in words, empty before a piece is done."""
        now = time.monotonic()
        since, before = self._since = self._since or (now, done)
        if done == before or now == since:
            return ""
        return f"{60 * (done - before) / (now - since):.3g} a minute"


def _clock(seconds: float) -> str:
    """Returns a time as `1:02:03`."""
    return str(timedelta(seconds=max(0, round(seconds))))


# Where there is no bar, a long piece of work still gives a sign of life this often, in seconds.
_HEARTBEAT = 30.0


def _plain_lines(title: str) -> Watch:
    """Returns a watch for logs: a line for each new checkpoint, the last piece, and a heartbeat."""
    told: set[str] = set()
    last, rate = time.monotonic(), _Rate()

    def watch(done: int, total: int, text: str, left: float | None = None) -> None:
        nonlocal last
        # Texts are `<checkpoint>: <what runs>`, or a checkpoint alone.
        subject, now, pace = text.partition(": ")[0], time.monotonic(), rate.after(done)
        if text and (subject not in told or done == total or now - last >= _HEARTBEAT):
            more = f" ({pace}, {_clock(left)} left)" if pace and left is not None else ""
            err.print(f"{title} {done} of {total}: {shorten(text, 300)}{more}", soft_wrap=True)
            told.add(subject)
            last = now

    return watch


# Columns beside the names get at least this much room, even if the terminal then wraps the line.
_BESIDE = 48
_UNLIMITED = 10_000


def _print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table whose first column, the names, is never cut or folded.

    Without a terminal no line is folded at all, so that it can be searched and cut into fields.
    """
    names = max((len(row[0]) for row in rows), default=0)
    table = Table(box=None, pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, no_wrap=number == 0, overflow="fold" if number else "ignore")
    for row in rows:
        table.add_row(*row)
    width = max(out.width, names + _BESIDE) if out.file.isatty() else _UNLIMITED
    _Literal(width=width).print(table)


@app.command("list")
def list_names(
    kind: Annotated[
        str,
        typer.Argument(
            help="methods, checkpoints, protocols, data, architectures, objectives, recipes or "
            "reported."
        ),
    ] = "methods",
) -> None:
    """Lists what there is of one kind."""
    _print_table(*lookup("kind", kind, _LISTINGS)())


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
        for entry in _manifest().checkpoints
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


_LISTINGS: dict[str, Callable[[], Listing]] = {
    "methods": _list_methods,
    "checkpoints": _list_checkpoints,
    "protocols": _list_protocols,
    "data": _list_data,
    "architectures": _list_architectures,
    "objectives": _list_objectives,
    "recipes": _list_recipes,
    "reported": _list_reported,
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

    _limit(executor, address, minutes, gigabytes)
    manifest = _manifest()
    entries = [manifest.find(name) for name in dict.fromkeys(checkpoint)]
    chosen = find(protocol or _protocol_of({entry.dataset for entry in entries}))
    _evaluate(entries, chosen, tier, with_evidence=True)
    _print_accuracies(_table_of(entries, chosen, tier), chosen)


def _limit(executor: str, address: str, minutes: float, gigabytes: float) -> None:
    """Says where shards run; how many at a time stands before the command."""
    workers = replace(
        where.project.workers,
        executor=cast("ExecutorName", executor),
        address=address,
        minutes=minutes,
        gigabytes=gigabytes,
    )
    where.project = replace(where.project, workers=workers)


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
    _print_table(heads, rows)


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
    """Evaluates what is missing, then renders the leaderboard."""
    _limit(executor, address, minutes, gigabytes)
    for chosen, entries in _planned(protocol or []):
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
    known = _manifest().checkpoints
    planned = [(p, [entry for entry in known if entry.dataset == p.dataset]) for p in chosen]
    filled = [(p, entries) for p, entries in planned if entries]
    for missing, entries in planned:
        if not entries and (asked or not filled):
            raise ManifestError(
                f"expected checkpoints for {missing.dataset} in the manifest, found none; "
                f"{_how_to_fill(missing.dataset)}"
            )
    return filled


def _how_to_fill(dataset: str) -> str:
    """Returns the next step where the manifest has no checkpoints for a data set."""
    from benchmark.recipes import RECIPES

    for name, recipe in RECIPES.items():
        if recipe.dataset == dataset:
            return f"make some with `robustprune compress … --recipe {name}`"
    return "no recipe trains them here, so enter trained ones (docs/records.md has the format)"


@app.command()
def report() -> None:
    """Renders the leaderboard from records alone."""
    from benchmark import pipeline

    _manifest()
    pages = pipeline.report(where.project)
    index = where.project.site / "index.html"
    out.print(f"{len(pages)} files, start with {index}", soft_wrap=True)


# --- Evidence -------------------------------------------------------------------------------------


@app.command()
def verify(
    record: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoint ids or record files; default: every record there is."),
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="Only records under these protocols.")
    ] = None,
    bounds: Annotated[
        float,
        typer.Option(help="Share of the examples whose bounds are computed again, in [0, 1]."),
    ] = 0.1,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of the choice of those examples; default: nobody knows it beforehand."
        ),
    ] = None,
) -> None:
    """Checks again all that a record claims and that can be checked in seconds.

    One forward pass an attack shows that the stored adversarial inputs fool the network; bounds of
    a share of the examples are computed again; zeros are counted and accuracies computed anew. Any
    difference is named, and the exit code is 9.
    """
    from benchmark.pipeline.verifying import verify_all

    paths = _records_named(record or [], protocol or [])
    drawn = secrets.randbits(32) if seed is None else seed
    out.print(f"bounds of {bounds:.0%} of the examples, seed {drawn}", soft_wrap=True)
    with progress_bar("verify") as watch:
        found = verify_all(where.project, paths, share=bounds, seed=drawn, watch=watch)
    rows = [
        (
            one.checkpoint,
            one.protocol,
            "FAILED" if one.findings else "verified",
            f"[{one.certified:.1%}, {one.attacked:.1%}]",
            f"{one.examples:,}",
            f"{one.inputs:,}",
            f"{one.bounds:,}",
            f"{one.ties:,}",
        )
        for one in found
    ]
    headers = ("record", "protocol", "result", "[certified, attacked]", "examples")
    _print_table((*headers, "inputs", "bounds", "ties"), rows)
    _refuse_differences(found)


def _records_named(names: Sequence[str], protocols: Sequence[str]) -> list[Path]:
    """Returns the record files of checkpoint ids and paths; without names those of all records.

    Raises:
        UnknownName: no such protocol or checkpoint.
        RecordError: there is no such record.
    """
    from benchmark import records
    from benchmark.protocols import protocol as find

    results = where.project.results
    chosen = [find(name).id for name in protocols]
    known = [p for p in sorted(results.glob("*/*.json")) if not chosen or p.parent.name in chosen]
    manifest = _manifest()
    paths = [] if names else known
    for name in names:
        if name.endswith(".json"):
            paths.append(Path(name).resolve())
            continue
        stem = records.record_path(results, "", manifest.find(name).id).name
        paths += (found := [path for path in known if path.name == stem])
        if not found:
            raise RecordError(
                f"expected a record of {name}, found none; make it with `robustprune evaluate`"
            )
    if not paths:
        raise RecordError(
            f"expected records under {results}, found none; make them with `robustprune run`"
        )
    return list(dict.fromkeys(paths))


def _refuse_differences(found: Sequence["Verification"]) -> None:
    """Prints what differs.

    Raises:
        RecordError: anything does.
    """
    failed = [one for one in found if one.findings]
    for one in failed:
        for line in one.findings:
            err.print(f"{one.checkpoint}: {line}", soft_wrap=True)
    if failed:
        raise RecordError(
            f"expected {len(found)} records to hold, got {len(failed)} that do not; restore them "
            "or evaluate again"
        )


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint id.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder; default: exports/ of the project.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="Default: the protocol of the data set.")] = "",
    tier: Tier = "standard",
    smaller: Annotated[
        bool,
        typer.Option(
            "--compact/--as-published",
            help="Without what pruning has left without effect, or layer by layer with all zeros.",
        ),
    ] = True,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write an ONNX model, too.")] = False,
) -> None:
    """Writes a checkpoint as a smaller network that predicts the same, and says how fast it is.

    What pruning has left without effect is taken out, unless asked otherwise. On the protocol's
    examples predictions are compared, those of the ONNX model too where onnxruntime is installed,
    and one other prediction ends the export.
    """
    from benchmark.pipeline import Form
    from benchmark.pipeline import export as export_one
    from benchmark.protocols import protocol as find
    from benchmark.records import NETWORKS

    entry = _manifest().find(checkpoint)
    chosen = find(protocol or _protocol_of({entry.dataset}))
    with progress_bar("compare") as watch:
        found = export_one(where.project, entry, (chosen, tier), Form(smaller, onnx), output, watch)
    kind = "compact" if smaller else "as published"
    for name, (before, after) in (
        ("parameters", found.parameters),
        ("multiply-adds", found.multiply_adds),
    ):
        out.print(f"{name}: {before:,} in the checkpoint, {after:,} {kind}", soft_wrap=True)
    for name, same in (("network", found.same), ("ONNX model", found.onnx_same)):
        if same is not None:
            out.print(
                f"{name}: same predictions on {same.examples:,} examples of {chosen.id}; logits "
                f"differ by at most {same.difference:.1e} of the largest",
                soft_wrap=True,
            )
    if onnx and found.onnx_same is None:
        out.print("ONNX model: not run, onnxruntime is not installed", soft_wrap=True)
    rows = [
        (
            name,
            str(one.batch),
            f"{one.median:.3f}",
            f"{one.lower:.3f} – {one.upper:.3f}",
        )
        for name in NETWORKS
        for one in getattr(found.latency, name)
    ]
    _print_table(("network", "images", "ms a pass, one thread", "quartiles"), rows)
    out.print(f"times of {found.latency.processor}", soft_wrap=True)
    out.print(f"written to {found.folder}", soft_wrap=True)


@app.command()
def schemas(
    folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path("docs/schemas"),
) -> None:
    """Writes the JSON Schema of every format: manifest, record, submission, challenge."""
    from benchmark.schemas import export

    for path in export(folder):
        out.print(str(path), soft_wrap=True)


@app.command()
def handbook(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("docs/methods"),
) -> None:
    """Writes a page a method from its file, and a table of what works by running it."""
    from benchmark.handbook import write

    for path in write(folder):
        out.print(str(path), soft_wrap=True)


@app.command()
def challenge(
    checkpoint: Annotated[str, typer.Argument(help="Id of the checkpoint.")],
    file: Annotated[
        Path,
        typer.Argument(
            help="An .npz with index (n,), positions in the test split, and inputs (n, C, H, W), "
            "float in [0, 1] or uint8."
        ),
    ],
    credit: Annotated[str, typer.Option(help="Who found the inputs, as shown to all.")],
    attack: Annotated[str, typer.Option(help="What found them, in one line.")] = "not stated",
    url: Annotated[str, typer.Option(help="https address of a paper or code.")] = "",
    contact: Annotated[str, typer.Option(help="How to reach you.")] = "",
    protocol: Annotated[str, typer.Option(help="Default: the protocol of the data set.")] = "",
) -> None:
    """Verifies anyone's adversarial inputs and lowers the attacked bound, with credit.

    Inputs must lie in the box and within epsilon of their originals, all of them. Those that fool
    the network are stored; one that breaks a certified example refutes the certificate (exit code
    8). A file that breaks nothing new leaves with exit code 7.
    """
    from benchmark.pipeline import challenging
    from benchmark.protocols import protocol as find

    entry = _manifest().find(checkpoint)
    chosen = find(protocol or _protocol_of({entry.dataset}))
    today = datetime.now(UTC).date().isoformat()
    sender = challenging.Sender(credit, attack, today, url, contact)
    answer = challenging.challenge(where.project, entry, chosen, file, sender)
    _print_answer(answer)


def _print_answer(answer: "Answer") -> None:
    made, rest = answer.challenge, answer.left_out
    out.print(
        f"verified {answer.verified} of {answer.sent} inputs against {made.checkpoint_id}"
        f"{f'; left out: {rest}' if rest else ''}",
        soft_wrap=True,
    )
    if answer.known:
        out.print(f"already known, from {made.credit} on {made.date}", soft_wrap=True)
    out.print(
        f"newly broken {answer.broken}, attacked bound from {answer.before:.1%} to "
        f"{answer.after:.1%} (best known, all challenges together)",
        soft_wrap=True,
    )
    if not answer.known:
        out.print(f"credited to {made.credit} in {answer.path}", soft_wrap=True)


@app.command()
def audit(
    checkpoint: Annotated[list[str], typer.Argument(help="One or more checkpoint ids.")],
    protocol: Annotated[str, typer.Option(help="Default: the protocol of the data set.")] = "",
    fraction: Annotated[float, typer.Option(help="Share of the examples, in (0, 1].")] = 0.1,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of sample and draws; default: nobody knows it beforehand."),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the bounds, in (0, 1).")] = 0.95,
) -> None:
    """Measures a random share of each record again and says what that means for the rest.

    Every attack draws afresh and spares nobody. A prediction or a certificate that does not hold is
    a contradiction (exit code 8). A survivor that falls now is an honest effect of random draws;
    the inputs that broke it are kept, ready to be sent as a challenge.
    """
    from benchmark.pipeline import auditing
    from benchmark.protocols import protocol as find

    manifest = _manifest()
    entries = [manifest.find(name) for name in dict.fromkeys(checkpoint)]
    chosen = find(protocol or _protocol_of({entry.dataset for entry in entries}))
    draw = auditing.Draw(secrets.randbits(32) if seed is None else seed, fraction, confidence)
    out.print(f"seed {draw.seed}", soft_wrap=True)
    with progress_bar("audit") as watch:
        audits = auditing.audit_all(where.project, entries, chosen, draw, watch)
    for one in audits:
        _print_audit(one)
    auditing.refuse_contradictions(audits)


# What each kind of finding is about, in words.
_CLAIMS = {
    "clean": "predicted classes",
    "zero-gradient": "zero gradients",
    "certificate": "certificates",
    "smoothed": "smoothed certificates",
    "robust": "survivors",
    "broken": "broken examples",
}


def _print_audit(one: "Audit") -> None:
    report = one.report
    out.print(
        f"{report.checkpoint_id}: {len(report.sampled)} of {report.examples} examples "
        f"({report.tier}) measured again under {report.protocol}",
        soft_wrap=True,
    )
    for finding in report.findings:
        if finding.claims:
            words = _found(finding, report.confidence)
            out.print(f"  {_CLAIMS[finding.kind]}: {words}", soft_wrap=True)
        elif finding.kind == "flags":
            words = ", ".join(finding.flags) or "none raised that the record lacks"
            out.print(f"  flags of the network: {words}", soft_wrap=True)
    if one.challenge is not None:
        _print_newly_broken(one)
    out.print(f"  report in {one.path}", soft_wrap=True)


def _found(finding: "Finding", confidence: float) -> str:
    """Returns what was found of one kind, and what that says about the rest."""
    if not finding.sampled:
        return f"none of {finding.claims} sampled, so nothing is said about them"
    if finding.at_most is None:
        return f"{finding.again} of {finding.sampled} sampled broken again"
    wrong = "newly broken" if finding.kind == "robust" else "wrong"
    return (
        f"{finding.wrong} {wrong} of {finding.sampled} sampled; with {100 * confidence:g} % "
        f"confidence at most {finding.at_most} of {finding.claims} outcomes are wrong "
        f"({finding.at_most / finding.claims:.1%})"
    )


def _print_newly_broken(one: "Audit") -> None:
    report = one.report
    command = ["robustprune", "challenge", report.checkpoint_id, str(one.challenge)]
    command += ["--protocol", report.protocol, "--attack", f"audit with seed {report.seed}"]
    out.print(
        f"  survivors newly broken: test examples {list(report.finding('robust').examples[:10])}; "
        "attacks draw at random, so this is no contradiction but a better bound; send it with",
        soft_wrap=True,
    )
    out.print(f"    {shlex.join(command)} --credit NAME", soft_wrap=True)


# --- Doctor ---------------------------------------------------------------------------------------


class _Finding(NamedTuple):
    """A line of the diagnosis; `good` where the embedded board can do with it."""

    name: str
    words: str
    good: bool = True


@app.command()
def doctor(
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure what is fast on this machine, and keep it.")
    ] = False,
) -> None:
    """Tells versions, devices, what data are there, and how to get what is missing."""
    if tune:
        from benchmark.distributed import measured_tuning, store_tuning

        store_tuning(measured_tuning())
    findings = [*_machine(), *_packages(), *_project()]
    for finding in findings:
        out.print(f"{finding.name:14}{finding.words}", soft_wrap=True)
    out.print()
    found = _print_data()
    bad = [finding.name for finding in findings if not finding.good]
    bad += [] if found else [_EMBEDDED]
    if bad:
        raise ExtraMissing(
            f"expected all that the embedded board needs, got trouble with {', '.join(bad)}; "
            "mend what the lines above call broken"
        )


# The data set of the embedded board.
_EMBEDDED = "digits"


def _look(name: str, look: Callable[[], str]) -> _Finding:
    """Returns what a look finds; an error is a finding too."""
    try:
        return _Finding(name, look())
    except BenchmarkError as error:
        return _Finding(name, f"broken: {error}", good=False)


def _machine() -> list[_Finding]:
    import torch

    from benchmark.distributed import choose_device, environment

    device = _look("device", lambda: environment(choose_device(where.project.device))["device"])
    usable = choose_device(where.project.device if device.good else "cpu")
    versions = [_Finding(*pair) for pair in environment(usable).items() if pair[0] != "device"]
    return [
        *versions,
        device,
        _Finding("accelerators", str(torch.cuda.device_count())),
        _Finding("cores", str(os.cpu_count())),
        _look("tuning", _tuning),
    ]


def _tuning() -> str:
    from benchmark.distributed import tuning, tuning_path
    from benchmark.tuning import DEFAULT

    found = tuning()
    source = "default; --tune measures it" if found == DEFAULT else f"measured, {tuning_path()}"
    return f"a sparse multiply-add takes {found.sparse_cost:.2g} dense ones ({source})"


def _packages() -> list[_Finding]:
    from benchmark.bounds import engine_version

    return [_look("bounds", engine_version), _look("attacks", _attacks)]


def _attacks() -> str:
    if importlib.util.find_spec("pyautoattack") is None:
        raise ExtraMissing(
            "expected the package pyautoattack for attacks, found none; run pip install "
            "pyautoattack"
        )
    return "pyautoattack"


def _project() -> list[_Finding]:
    project = where.project
    return [
        _Finding("project", str(project.root)),
        _look("manifest", _count_checkpoints),
        _look("records", _count_records),
        _Finding("data root", str(project.data_root or "none (embedded data only)")),
    ]


def _count_checkpoints() -> str:
    entries = _manifest().checkpoints
    if not any(entry.dataset == _EMBEDDED for entry in entries):
        raise ManifestError(
            f"expected checkpoints for {_EMBEDDED}, found none; {_how_to_fill(_EMBEDDED)}"
        )
    lost = [e.id for e in entries if not inside(where.project.root, e.file).is_file()]
    if lost:
        raise ManifestError(
            f"expected weights of {len(entries)} checkpoints, found none of {lost[0]}"
            f"{f' and {len(lost) - 1} more' if lost[1:] else ''}; restore or remake them"
        )
    return f"{len(entries)} checkpoints"


def _count_records() -> str:
    found = Counter(path.parent.name for path in where.project.results.glob("*/*.json"))
    each = ", ".join(f"{shorten(name)} {count}" for name, count in sorted(found.items()))
    return f"{found.total()} ({each})" if found else "0"


def _print_data() -> bool:
    """Prints what there is of each data set; returns whether the embedded one is there."""
    from benchmark.datasets import DATASETS, status

    for name in DATASETS:
        found = status(name, where.project.data_root)
        state = "found" if found.found else "missing"
        out.print(f"{name:14}{state:9}{found.detail}", soft_wrap=True)
        if not found.found:
            out.print(f"    {found.how_to_get}", soft_wrap=True)
    return status(_EMBEDDED, where.project.data_root).found


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
        if code == 130:  # typer makes an interruption an answer
            raise KeyboardInterrupt
    except BenchmarkError as error:
        err.print(f"error: {error}", soft_wrap=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; run the same command again to go on", soft_wrap=True)
        sys.exit(130)
    except typer.TyperException as error:
        error.show()  # type: ignore[attr-defined]
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
