"""The command that brings a network as a Python file: import --trust."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.base import Seed, app, out, where
from benchmark.errors import ContractError, lookup


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="FILE.py:factory, a function that returns a torch.nn.Module.")
    ],
    dataset: Annotated[str, typer.Option(help="What it classifies.")],
    method: Annotated[str, typer.Option(help="What pruned it; dense for nothing.")],
    objective: Annotated[str, typer.Option(help="Training loss.")],
    name: Annotated[
        str, typer.Option(help="Of the architecture: lower-case words joined by hyphens.")
    ],
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run the file, in a process of its own: it may do anything that you may do.",
        ),
    ] = False,
    title: Annotated[str, typer.Option(help="Name in tables; default: the method's.")] = "",
    structure: Annotated[
        str, typer.Option(help="unstructured, filter or channel.")
    ] = "unstructured",
    sparsity: Annotated[str, typer.Option(help="Claimed; default: what is counted.")] = "",
    seed: Seed = 0,
    author: Annotated[list[str] | None, typer.Option(help="Of the method; repeat it.")] = None,
    paper: Annotated[str, typer.Option(help="Reference of the method.")] = "",
    code: Annotated[str, typer.Option(help="Address of the method's code.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "",
    extra_data: Annotated[str, typer.Option(help="Training data beyond the data set's own.")] = "",
    seconds: Annotated[int, typer.Option(min=1, help="The file's process may take.")] = 300,
) -> None:
    """Brings any network of torch into the project, as data.

    The file runs once and only with --trust, in a process of its own. What comes back is a
    description of the network and its weights; nobody who uses the checkpoint runs the file again.
    """
    from benchmark.pipeline.trusting import Claim, Means, describe_foreign, enter
    from benchmark.pruning import STRUCTURES, as_sparsity

    file, colon, factory = source.rpartition(":")
    if not colon or not file.endswith(".py") or not factory.isidentifier():
        raise ContractError(
            "expected a Python file and a function in it as FILE.py:factory, got another source; "
            "name both"
        )
    claim = Claim(
        method=method,
        objective=objective,
        title=title or method,
        structure=lookup("structure", structure, {known: known for known in STRUCTURES}),
        sparsity=as_sparsity(sparsity) if sparsity else None,
        seed=seed,
        authors=tuple(author or ()),
        paper=paper,
        code=code,
        licence=licence,
        extra_data=extra_data,
    )
    brought = describe_foreign(
        Path(file),
        factory,
        name=name,
        dataset=dataset,
        project=where.project,
        trusted=trust,
        means=Means(seconds=seconds),
    )
    entry = enter(where.project, brought, dataset, claim)
    random, examples = brought.inputs
    out.print(
        f"{len(brought.description.layers)} layers as {entry.architecture}; logits differ by at "
        f"most {brought.difference:.1e} of the largest on {random} random inputs and {examples} "
        "examples",
        soft_wrap=True,
    )
    if brought.left_out:
        out.print(f"{brought.left_out} parameters that it never uses left out", soft_wrap=True)
    out.print(
        f"{entry.id}  {entry.zeros:,} of {entry.prunable:,} zero, {entry.bytes:,} bytes",
        soft_wrap=True,
    )
