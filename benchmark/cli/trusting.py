"""What `import --trust` does: bring a network as a Python file."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.cli.base import out, where
from benchmark.errors import ContractError, lookup, shorten


def bring(
    source: str,
    *,
    dataset: str,
    method: str,
    objective: str,
    name: str,
    trust: bool,
    title: str,
    structure: str,
    sparsity: float | None,
    seed: int,
    authors: Sequence[str],
    paper: str,
    code: str,
    licence: str,
    extra_data: str,
    seconds: int,
) -> None:
    """Brings any network of torch into the project, as data, and prints how it went.

    The file runs once and only if trusted, in a process of its own. What comes back is a
    description of the network and its weights; nobody who uses the checkpoint runs the file again.

    Args:
        source: FILE.py:factory, a function that returns a torch.nn.Module.
        dataset: what it classifies.
        method: what pruned it; dense for nothing.
        objective: training loss.
        name: of the architecture: lower-case words joined by hyphens.
        trust: run the file: it may do anything that the user may do.
        title: name in tables; empty for the method's.
        structure: what was removed as a unit.
        sparsity: claimed; None for what is counted.
        seed: of training.
        authors: of the method.
        paper: reference of the method.
        code: address of the method's code.
        licence: of the weights.
        extra_data: training data beyond the data set's own.
        seconds: that the file's process may take.

    Raises:
        ContractError: no FILE.py:factory, or not all that an entry needs.
    """
    from benchmark.pipeline.trusting import Claim, Means, describe_foreign, enter
    from benchmark.pruning import STRUCTURES, as_sparsity

    needed = {"--dataset": dataset, "--method": method, "--objective": objective, "--name": name}
    if missing := [option for option, value in needed.items() if not value]:
        raise ContractError(
            f"expected what an entry of {shorten(source)} must say, got no {', '.join(missing)}; "
            "give each"
        )
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
        sparsity=None if sparsity is None else as_sparsity(sparsity),
        seed=seed,
        authors=tuple(authors),
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
