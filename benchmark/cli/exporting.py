"""Commands that write something for elsewhere: export, schemas, handbook."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.base import (
    Tier,
    app,
    out,
    print_table,
    progress_bar,
    project_manifest,
    protocol_of,
    where,
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

    entry = project_manifest().find(checkpoint)
    chosen = find(protocol or protocol_of({entry.dataset}))
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
    print_table(("network", "images", "ms a pass, one thread", "quartiles"), rows)
    out.print(f"times of {found.latency.processor}", soft_wrap=True)
    out.print(f"written to {found.folder}", soft_wrap=True)


@app.command()
def schemas(
    folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path("docs/schemas"),
) -> None:
    """Writes the JSON Schema of every format: manifest, record, submission, campaign and others."""
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
