"""The command that fills a board: campaign."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.base import (
    Address,
    Executor,
    Gigabytes,
    Listing,
    Minutes,
    app,
    err,
    limit,
    out,
    print_table,
    progress_bar,
    where,
)
from benchmark.errors import ContractError, DataUnavailable, RecordError, shorten

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    from benchmark.campaigns import Campaign
    from benchmark.pipeline.campaigning import Network, Plan, Progress
    from benchmark.protocols import Protocol

# Combinations that are not supported, and failures, shown before the rest is only counted.
_SHOWN = 12


@app.command()
def campaign(
    file: Annotated[
        Path, typer.Argument(help="What the board consists of: campaigns/ has our boards'.")
    ],
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what is there, what is left and how long it takes.")
    ] = False,
    part: Annotated[
        str, typer.Option(help="One of several machines: 2/3 does the second third.")
    ] = "1/1",
    only: Annotated[str, typer.Option(help="train or evaluate alone; empty for both.")] = "",
    collect: Annotated[
        Path | None,
        typer.Option(help="Take over what another machine did of it, from its project folder."),
    ] = None,
    check: Annotated[
        int, typer.Option(min=0, help="Make so many of its networks again and compare digests.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Which networks --check draws.")] = 0,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of a training run; part of its result.")
    ] = 1,
    executor: Executor = "auto",
    address: Address = "",
    minutes: Minutes = 0.0,
    gigabytes: Gigabytes = 0.0,
) -> None:
    """Fills a board as a file says: trains and evaluates what is missing, then renders the pages.

    It may be killed at any time, and goes on where it stopped. With --part, each of several
    machines does its part in a project of its own; --collect then brings them together, and a last
    run looks closer at who comes first.
    """
    from benchmark.campaigns import read_campaign
    from benchmark.errors import lookup
    from benchmark.pipeline.campaigning import Share, plan_campaign, share_of
    from benchmark.pipeline.forecasting import cost
    from benchmark.protocols import protocol as find

    limit(executor, address, minutes, gigabytes)
    share = Share.parse(part)
    lookup("work", only or "train", {"train": "train", "evaluate": "evaluate"})
    said = read_campaign(file)
    chosen = find(said.protocol)
    whole = plan_campaign(said)
    networks = share_of(whole.networks, share, lambda network: cost(network, chosen))
    if not networks:
        raise ContractError(
            f"expected networks in part {part}, got none; there are "
            f"{len({network.cell for network in whole.networks})} cells to deal"
        )
    if collect is not None:
        _collect(collect, chosen, whole.networks)
    _print_plan(said, whole, networks, chosen)
    if check:
        _check(chosen, networks, check, seed, threads)
    elif not plan:
        _fill(said, networks, share.count == 1, only, threads)


def _print_plan(
    said: "Campaign", whole: "Plan", networks: "Sequence[Network]", chosen: "Protocol"
) -> None:
    """Prints what a campaign comes to, how far it has come, and how long the rest takes."""
    from benchmark.pipeline.campaigning import progress_of
    from benchmark.pipeline.forecasting import forecast

    out.print(f"{said.title}: {len(networks)} networks under {chosen.id}", soft_wrap=True)
    _print_some("left out", whole.left_out)
    _print_some("failed before", _failures(networks))
    try:
        progress = progress_of(where.project, chosen.id, networks)
        left = forecast(where.project, chosen, networks, progress)
    except DataUnavailable as error:
        err.print(f"no estimate: {error}", soft_wrap=True)
        return
    print_table(*_table(networks, progress))
    from benchmark.distributed import choose_device

    workers = where.project.workers.on(choose_device(where.project.device))
    if progress.untrained or progress.unevaluated:
        out.print(
            f"left: about {_clock(left.training / workers)} of training and "
            f"{_clock(left.evaluation / workers)} of evaluation with {workers} "
            f"worker{'s' * (workers > 1)}, {left.basis}",
            soft_wrap=True,
        )
    elif said.top and networks == whole.networks:
        out.print(
            f"all is trained and evaluated; whoever may be first is looked at up to {said.top} "
            "unless that is done",
            soft_wrap=True,
        )
    else:
        out.print("nothing is left", soft_wrap=True)


def _print_some(head: str, lines: "Sequence[str]") -> None:
    """Prints the first lines of many, and how many more there are."""
    for line in lines[:_SHOWN]:
        out.print(f"{head}: {line}", soft_wrap=True)
    if (more := len(lines) - _SHOWN) > 0:
        out.print(f"{head}: {more} more of this kind", soft_wrap=True)


def _failures(networks: "Sequence[Network]") -> list[str]:
    """Returns which of the networks that are left were tried before, and what stopped them."""
    from benchmark.pipeline.compressing import failures_of, id_of

    names = {id_of(network.order) for network in networks}
    known = [one for one in failures_of(where.project) if one.checkpoint_id in names]
    return [f"{one.checkpoint_id}: {one.error}" for one in known]


def _clock(seconds: float) -> str:
    """Returns a time as `1:02:00`, to the minute."""
    return str(timedelta(minutes=max(1, round(seconds / 60)) if seconds > 0 else 0))


def _table(networks: "Sequence[Network]", progress: "Progress") -> Listing:
    """Returns one line a recipe, objective, structure, seed and tier."""
    heads = ("networks", "objective", "structure", "sparsities", "seed", "tier", "recipe")
    lines: dict[tuple[str, ...], list[Network]] = {}
    for network in networks:
        order = network.order
        key = (order.objective, order.structure, str(order.seed), network.tier, order.recipe)
        lines.setdefault(key, []).append(network)
    rows: list[tuple[str, ...]] = []
    behind = set(progress.unevaluated)
    for (objective, structure, seed, tier, recipe), some in lines.items():
        trained = [network for network in some if network in progress.trained]
        evaluated = sum(network not in behind for network in trained)
        levels = sorted({network.order.sparsity for network in some})
        rows.append(
            (
                str(len(some)),
                objective,
                structure,
                ", ".join(f"{float(100 * level):g}%" for level in levels),
                seed,
                tier,
                recipe,
                str(len(trained)),
                str(evaluated),
            )
        )
    return (*heads, "trained", "evaluated"), rows


def _collect(folder: Path, chosen: "Protocol", networks: "Sequence[Network]") -> None:
    from benchmark.pipeline.collecting import collect
    from benchmark.pipeline.project import MANIFEST, Project

    if not (folder / MANIFEST).is_file():
        raise RecordError(
            f"expected a project with {MANIFEST} in {shorten(str(folder), 400)}, found none; "
            "name the folder that the other machine worked in"
        )
    found = collect(where.project, Project(folder.resolve()), chosen, networks)
    out.print(
        f"collected {len(found.checkpoints)} checkpoints and {len(found.records)} records"
        f"{f', and why {len(found.failures)} could not be trained' if found.failures else ''}",
        soft_wrap=True,
    )
    for line in found.refused:
        err.print(f"not collected: {line}", soft_wrap=True)
    if found.refused:
        raise RecordError(
            f"expected all of {shorten(str(folder), 400)} to fit, got {len(found.refused)} that do "
            "not, named above; the rest was taken"
        )


def _fill(
    said: "Campaign", networks: "Sequence[Network]", whole: bool, only: str, threads: int
) -> None:
    from benchmark.cli.boards import report
    from benchmark.pipeline.campaigning import fill

    with progress_bar("campaign") as watch:
        done = fill(
            where.project,
            said,
            networks,
            with_top=whole,
            train=only != "evaluate",
            evaluate=only != "train",
            threads=threads,
            watch=watch,
        )
    out.print(f"{len(done.trained)} trained, {len(done.evaluated)} evaluated", soft_wrap=True)
    for order, error in done.failed.items():
        level = f"{float(100 * order.sparsity):g} %"
        err.print(
            f"failed: {order.method}, {order.objective}, {order.structure} {level}, "
            f"seed {order.seed}: {error}",
            soft_wrap=True,
        )
    if only != "train":
        report()
    if done.failed:
        raise ContractError(
            f"expected every network to be made, got {len(done.failed)} that could not be, named "
            "above; all others were"
        )


def _check(
    chosen: "Protocol", networks: "Sequence[Network]", count: int, seed: int, threads: int
) -> None:
    from benchmark.pipeline.campaigning import progress_of
    from benchmark.pipeline.remaking import draw, remake

    progress = progress_of(where.project, chosen.id, networks)
    drawn = draw(progress, count, seed)
    with progress_bar("check") as watch:
        found = remake(where.project, chosen, progress, drawn, threads=threads, watch=watch)
    print_table(
        ("checkpoint", "weights", "record"),
        [
            (
                one.checkpoint.id,
                "same" if one.weights == one.checkpoint.sha256 else "other",
                f"{'same' if one.content == one.expected else 'other'}, {one.tier}"
                if one.expected
                else "none to compare with",
            )
            for one in found
        ],
    )
    if odd := [one for one in found if not one.same]:
        raise RecordError(
            f"expected the same digests, got others for {len(odd)} of {len(found)}; bits are those "
            "of one kind of machine, one version of torch and one number of threads"
        )
