"""The command that brings checkpoints which others made: import."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from benchmark.cli import trusting
from benchmark.cli.base import Seed, app, out, print_table, progress_bar, where
from benchmark.errors import ContractError, lookup, shorten

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    from benchmark.foreign.apbench import Link
    from benchmark.manifest import Checkpoint
    from benchmark.pipeline.entering import Said
    from benchmark.pipeline.importing import Imported
    from benchmark.pruning import Structure

_SOURCES = {"apbench": "the links of the 2024 benchmark of adversarial pruning"}
_MOST_PRINTED = 120


@app.command("import")
def import_checkpoint(
    file: Annotated[
        str,
        typer.Argument(
            help="File of weights; with --from, a key of its table; with --trust, FILE.py:factory, "
            "a function that returns a torch.nn.Module."
        ),
    ],
    source_table: Annotated[
        str, typer.Option("--from", help="Take the file from a table of links: apbench.")
    ] = "",
    format_name: Annotated[
        str, typer.Option("--format", help="auto, or a format of docs/importing.md.")
    ] = "auto",
    dataset: Annotated[str, typer.Option(help="What it classifies.")] = "",
    method: Annotated[str, typer.Option(help="Method's name; default: the format's.")] = "",
    objective: Annotated[str, typer.Option(help="Training loss.")] = "",
    structure: Annotated[str, typer.Option(help="unstructured, filter or channel.")] = "",
    sparsity: Annotated[
        float | None, typer.Option(min=0, max=1, help="Claimed share of removed units; 90 % is 0.9")
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share that scores keep; default: the rest of the claim."),
    ] = None,
    architecture: Annotated[str, typer.Option(help="Network; default: recognised.")] = "",
    normalise: Annotated[
        str, typer.Option(help="none, dataset, or means/stds; default: what the format's code does")
    ] = "",
    seed: Seed = 0,
    source: Annotated[str, typer.Option(help="Whose training; default: the method's.")] = "",
    title: Annotated[str, typer.Option(help="Name in tables; default: the method's.")] = "",
    author: Annotated[list[str] | None, typer.Option(help="Of the method; repeatable.")] = None,
    paper: Annotated[str, typer.Option(help="Of the method.")] = "",
    code: Annotated[str, typer.Option(help="Address of the method's code.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "not stated",
    extra_data: Annotated[str, typer.Option(help="Training data beyond its own.")] = "not stated",
    least_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of 100 images to get right.")
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run a Python file, in a process of its own: it may do anything that you may do.",
        ),
    ] = False,
    name: Annotated[
        str, typer.Option(help="With --trust, of the architecture: lower-case words and hyphens.")
    ] = "",
    seconds: Annotated[
        int, typer.Option(min=1, help="With --trust, that the file's process may take.")
    ] = 300,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what was recognised; write nothing.")
    ] = False,
) -> None:
    """Brings a checkpoint that others made, or a torch network of known layers, into the project.

    Nothing in a file of weights is run. It is refused if a tensor is missing or left over, if it
    has another sparsity than claimed, or if its network guesses. A Python file runs once and only
    with --trust, in a process of its own; nobody who uses the checkpoint runs it again.
    """
    from benchmark.pipeline.entering import Said
    from benchmark.pipeline.trusting import row_of
    from benchmark.pruning import STRUCTURES

    given = Said(
        method=method,
        objective=objective,
        seed=seed,
        source=source,
        display_name=title,
        authors=tuple(author or ()),
        paper=paper,
        code=code,
        licence=licence,
        extra_data=extra_data,
    )
    lookup("structure", structure or "unstructured", dict.fromkeys(STRUCTURES))
    if trust or file.partition(":")[0].endswith(".py"):
        _refuse_unused(
            {
                "--from": source_table,
                "--format": format_name != "auto",
                "--density": density is not None,
                "--architecture": architecture,
                "--normalise": normalise,
                "--least-accuracy": least_accuracy is not None,
            }
        )
        trusting.check_complete(file, dataset, name, given)
        brought = trusting.describe(file, dataset, name, trusted=trust, seconds=seconds)
        entry, data = row_of(
            brought, dataset, given, cast("Structure", structure or "unstructured"), sparsity
        )
        trusting.tell(brought, entry)
        _enter(entry, data, dry_run)
        return
    from benchmark.datasets import describe
    from benchmark.foreign import Request
    from benchmark.pipeline.importing import prepare

    link = None
    path = Path(file)
    if source_table:
        lookup("table of links", source_table, _SOURCES)
        link, path = _linked(file)
        dataset, format_name = link.dataset, link.format
        sparsity = link.sparsity if sparsity is None else sparsity
        structure = structure or link.structure or ""
        if not structure:
            raise ContractError(
                f"expected to know what {file} had removed as a unit, which its source does not "
                "say; give --structure"
            )
    if not dataset:
        raise ContractError("expected what the network classifies, got none; give --dataset")
    structure = structure or "unstructured"
    request = Request(
        path=path,
        dataset=describe(dataset, where.project.data_root),
        format=format_name,
        architecture=architecture,
        normalise=normalise,
        structure=cast("Structure", structure),
        sparsity=sparsity,
        density=density,
    )
    said = _completed(given, format_name, link)
    imported = prepare(where.project, request, said, _least(least_accuracy, link))
    _tell(imported)
    _enter(imported.entry, imported.weights, dry_run)


def _refuse_unused(options: Mapping[str, object]) -> None:
    """Refuses options that say something of files of weights alone.

    Raises:
        ContractError: names those that were given.
    """
    if given := [option for option, value in options.items() if value]:
        raise ContractError(
            f"expected no {', '.join(given)} with a Python file, whose network says it itself; "
            "got it all the same: leave it out"
        )


def _enter(entry: "Checkpoint", data: bytes, dry_run: bool) -> None:
    """Enters a checkpoint into the project, or tells what it would enter."""
    from benchmark.pipeline.entering import enter

    if dry_run:
        out.print(f"would enter {entry.id}", soft_wrap=True)
    elif enter(where.project, entry, data):
        out.print(f"entered {entry.id}", soft_wrap=True)
    else:
        out.print(f"{entry.id} is there already, with these weights", soft_wrap=True)


def _linked(key: str) -> "tuple[Link, Path]":
    """Returns a link of the table and its file, brought if need be."""
    from benchmark.foreign.apbench import link
    from benchmark.pipeline.importing import bring_link

    found = link(key)
    with progress_bar("import") as watch:
        return found, bring_link(where.project, found, watch)


def _completed(given: "Said", format_name: str, link: "Link | None") -> "Said":
    """Returns what is said of a checkpoint, gaps filled from the table or the format."""
    from dataclasses import replace

    from benchmark.foreign import FORMATS

    if link is not None:
        return replace(
            given,
            method=given.method or link.method.lower(),
            objective=given.objective or link.objective,
            source=given.source or f"apbench {link.method.lower()}",
            display_name=given.display_name or link.method,
            paper=given.paper or link.paper,
            code=given.code or link.code,
        )
    known = FORMATS.get(format_name)
    method = given.method or (known.name if known and known.name != "plain" else "")
    if not method:
        raise ContractError(
            "expected the name of the method that made the checkpoint, got none; give --method"
        )
    return replace(
        given,
        method=method,
        objective=given.objective or "adversarial",
        display_name=given.display_name or (known.title if known and not given.method else method),
        code=given.code or (known.code if known else ""),
    )


def _least(given: float | None, link: "Link | None") -> float:
    """Returns the share of images that a network must get right: as given, or half of them.

    Where a table reports less, so many images may still miss it by chance.
    """
    from benchmark.pipeline.importing import LEAST_ACCURACY

    if given is not None:
        return given
    return min(LEAST_ACCURACY, link.clean_accuracy - 0.15) if link else LEAST_ACCURACY


def _tell(imported: "Imported") -> None:
    """Prints what was recognised."""
    found = imported.converted
    normalise = found.model.normalise
    counted = {
        structure: f"{one.removed_units:,} of {one.total_units:,} units, "
        f"{_percent(one.removed_units, one.total_units)}"
        for structure, one in found.sparsity.items()
    }
    accuracy = imported.accuracy
    print_table(
        ("what", "found"),
        [
            ("file", f"{found.container}, {found.bytes:,} bytes, sha256 {found.sha256}"),
            ("format", found.format),
            ("weights under", found.nest or "the top"),
            ("prefix", shorten(found.prefix) or "none"),
            ("architecture", found.model.architecture),
            ("mean", _numbers(normalise.mean.flatten().tolist())),
            ("std", f"{_numbers(normalise.std.flatten().tolist())}, by {found.scaled}"),
            *(("removed " + structure, text) for structure, text in counted.items()),
            (
                "accuracy",
                "not checked: no data"
                if accuracy is None
                else f"{100 * accuracy:g} % of 100 images",
            ),
            *(("note", note) for note in found.notes),
        ],
    )
    layers = found.sparsity["unstructured"].layers
    print_table(
        ("layer", "zeros", "of", "share"),
        [
            (layer.name, f"{layer.zeros:,}", f"{layer.total:,}", _percent(layer.zeros, layer.total))
            for layer in layers[:_MOST_PRINTED]
        ],
    )


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.3f} %"
