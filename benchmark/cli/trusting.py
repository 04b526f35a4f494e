"""What `import --trust` does: bring a network as a Python file."""

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.cli.base import out, where
from benchmark.errors import ContractError, shorten

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    from benchmark.manifest import Checkpoint
    from benchmark.pipeline.entering import Said
    from benchmark.pipeline.trusting import Brought


def describe(source: str, dataset: str, name: str, *, trusted: bool, seconds: int) -> "Brought":
    """Returns the network of a Python file as data; the file runs once, in a process of its own.

    Args:
        source: FILE.py:factory, a function that returns a torch.nn.Module.
        dataset: what it classifies.
        name: of the architecture: lower-case words joined by hyphens.
        trusted: run the file: it may do anything that the user may do.
        seconds: that the file's process may take.

    Raises:
        ContractError: no FILE.py:factory, not trusted, or no network that can be described.
    """
    from benchmark.pipeline.trusting import Means, describe_foreign

    file, colon, factory = source.rpartition(":")
    if not colon or not file.endswith(".py") or not factory.isidentifier():
        raise ContractError(
            "expected a Python file and a function in it as FILE.py:factory, got another source; "
            "name both"
        )
    return describe_foreign(
        Path(file),
        factory,
        name=name,
        dataset=dataset,
        project=where.project,
        trusted=trusted,
        means=Means(seconds=seconds),
    )


def check_complete(source: str, dataset: str, name: str, said: "Said") -> None:
    """Refuses a network of which too little is said.

    Raises:
        ContractError: names the options that are missing.
    """
    needed = {
        "--dataset": dataset,
        "--method": said.method,
        "--objective": said.objective,
        "--name": name,
    }
    if missing := [option for option, value in needed.items() if not value]:
        raise ContractError(
            f"expected what an entry of {shorten(source)} must say, got no {', '.join(missing)}; "
            "give each"
        )


def tell(brought: "Brought", entry: "Checkpoint") -> None:
    """Prints what was described, and its entry."""
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
