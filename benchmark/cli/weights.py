"""The command that brings weights which a project does not ship: fetch."""

from dataclasses import replace
from typing import Annotated

import typer

from benchmark.cli.base import app, out, print_table, progress_bar, project_manifest, where


@app.command()
def fetch(
    checkpoint: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoint ids; default: all whose weights are not shipped."),
    ] = None,
) -> None:
    """Brings weights that are not shipped, verified, so that the rest works without a network.

    What broke off goes on where it stopped. A folder of weights (`--mirror`) is looked at first.
    """
    from benchmark.pipeline.bringing import bring, lacking

    manifest = project_manifest()
    named = [manifest.find(name) for name in dict.fromkeys(checkpoint or [])]
    wanted = named or lacking(where.project, manifest.checkpoints)
    # Asking for it is what the command is for.
    project = replace(where.project, download=True)
    with progress_bar("fetch") as watch:
        brought = [one for entry in wanted for one in bring(project, [entry], watch)]
    if not brought:
        out.print("the weights of all checkpoints are at hand", soft_wrap=True)
        return
    print_table(
        ("checkpoint", "from", "bytes"),
        [(one.checkpoint.id, one.place, f"{one.checkpoint.bytes:,}") for one in brought],
    )
