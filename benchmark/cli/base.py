"""What all commands share: the project they are about, progress, tables."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

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

from benchmark.errors import DataUnavailable, ManifestError, UnknownName, shorten
from benchmark.pipeline.project import MANIFEST, Project, Watch, find_root
from benchmark.workers import EXECUTORS, Workers

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    from benchmark.manifest import Manifest
    from benchmark.workers import Executor as ExecutorName

Item = TypeVar("Item")

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
        bool, typer.Option("--download", help="Fetch missing data and weights over the network.")
    ] = False,
    mirror: Annotated[
        Path | None,
        typer.Option(help="Folder of weights that are not shipped; or $ROBUSTPRUNE_MIRROR."),
    ] = None,
) -> None:
    where.project = Project(
        root=(root or find_root(Path.cwd())).resolve(),
        data_root=data_root or _named_folder("ROBUSTPRUNE_DATA"),
        device=device,
        workers=Workers(workers),
        download=download,
        mirror=mirror or _named_folder("ROBUSTPRUNE_MIRROR"),
    )


def _named_folder(variable: str) -> Path | None:
    """Returns the folder that a variable of the environment names, if it does."""
    named = os.environ.get(variable)
    return Path(named) if named else None


def limit(executor: str, address: str, minutes: float, gigabytes: float) -> None:
    """Says where jobs run; how many at a time stands before the command."""
    workers = replace(
        where.project.workers,
        executor=cast("ExecutorName", executor),
        address=address,
        minutes=minutes,
        gigabytes=gigabytes,
    )
    where.project = replace(where.project, workers=workers)


def project_manifest() -> "Manifest":
    """Returns the manifest of a project that must have one.

    Raises:
        ManifestError: it has none, or one that breaks the format.
    """
    if not where.project.manifest_path.is_file():
        raise ManifestError(f"expected {MANIFEST} in {where.project.root}, found none; give --root")
    return where.project.manifest()


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


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
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


def protocol_of(datasets: set[str]) -> str:
    """Returns the id of the main protocol of the one data set.

    Raises:
        UnknownName: several data sets, or one without a protocol.
    """
    from benchmark.protocols import PROTOCOLS

    if len(datasets) == 1:
        for name, protocol in PROTOCOLS.items():
            if protocol.dataset in datasets:
                return name
    raise UnknownName(
        f"expected checkpoints of one data set with a protocol, got {', '.join(sorted(datasets))}; "
        "give --protocol"
    )


def with_data(
    needs: Sequence[tuple[Item, str]], words: Callable[[Sequence[Item]], str]
) -> list[Item]:
    """Returns what has its data at hand, or may fetch them, and says what is left out.

    Args:
        needs: what is wanted, and the data set that it needs; empty for none.
        words: names some of it.

    Raises:
        DataUnavailable: all of it is left out.
    """
    from benchmark.datasets import status

    known = {name: status(name, where.project.data_root) for _, name in needs if name}
    left = [name for name, found in known.items() if not (where.project.download or found.found)]
    for name in left:
        some = words([one for one, needed in needs if needed == name])
        err.print(f"{some} left out for want of {name}: {known[name].how_to_get}", soft_wrap=True)
    kept = [one for one, name in needs if name not in left]
    if needs and not kept:
        raise DataUnavailable(
            f"expected data of {', '.join(left)}, found none; `robustprune doctor` tells how to "
            "get them"
        )
    return kept


def how_to_fill(dataset: str) -> str:
    """Returns the next step where the manifest has no checkpoints for a data set."""
    from benchmark.recipes import RECIPES

    for name, recipe in RECIPES.items():
        if recipe.dataset == dataset:
            return f"make some with `robustprune compress … --recipe {name}`"
    return "no recipe trains them here, so enter trained ones (docs/records.md has the format)"
