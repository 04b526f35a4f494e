"""Whether a campaign gives the same bits again: some of its networks, made and evaluated anew."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

from benchmark import records
from benchmark.digests import seed_from
from benchmark.errors import ContractError, RecordError
from benchmark.leaderboard import DENSE
from benchmark.manifest import Checkpoint
from benchmark.pipeline.campaigning import Network, Progress
from benchmark.pipeline.compressing import Order, compress_all, finished
from benchmark.pipeline.evaluating import evaluate_all
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.protocols import Protocol


@dataclass(frozen=True)
class Remade:
    """A network that was made again.

    Attributes:
        checkpoint: as it is in the project.
        weights: SHA-256 of the weights that came out.
        tier: at which it was evaluated again; empty where the project has no record.
        content: digest of the record that came out; empty likewise.
        expected: digest of the project's record; empty likewise.
    """

    checkpoint: Checkpoint
    weights: str
    tier: str = ""
    content: str = ""
    expected: str = ""

    @property
    def same(self) -> bool:
        """Returns whether both digests are those of the project."""
        return self.weights == self.checkpoint.sha256 and self.content == self.expected


def draw(progress: Progress, count: int, seed: int) -> tuple[Network, ...]:
    """Returns so many of the trained networks, at random, in the order of the campaign.

    Raises:
        ContractError: nothing is trained yet, or a count below 1.
    """
    trained = list(progress.trained)
    if not trained or count < 1:
        raise ContractError(
            f"expected to draw 1 or more trained networks, got {count} of {len(trained)}; "
            "run the campaign first"
        )
    generator = torch.Generator().manual_seed(seed_from(seed, "networks to make again"))
    drawn = torch.randperm(len(trained), generator=generator)[:count]
    return tuple(trained[place] for place in sorted(drawn.tolist()))


def remake(
    project: Project,
    chosen: Protocol,
    progress: Progress,
    networks: Sequence[Network],
    *,
    threads: int = 1,
    watch: Watch = silent,
) -> list[Remade]:
    """Makes networks again from random weights in a folder of their own, and compares digests.

    Nothing of the project is used but its data, and nothing of it changes. Bits are those of one
    kind of machine, one version of torch and one number of threads.

    Args:
        project: whose checkpoints and records are compared with.
        chosen: the campaign's protocol.
        progress: what of the campaign is there.
        networks: of `draw`.
        threads: CPU threads of each training run, as they were.
        watch: told of each piece.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="robustprune-") as folder:
        empty = replace(project, root=Path(folder), mirror=None)
        orders = [network.order for network in networks]
        # Records compare each network with its dense parent as well, the campaign's or another.
        parents = [dense for order in orders if (dense := _dense(project, order)) is not None]
        made = compress_all(
            empty, list(dict.fromkeys([*parents, *orders])), threads=threads, watch=watch
        )
        by_id = {entry.id: entry for entry in made}
        for network in networks:
            known = progress.trained[network]
            found.append(_compared(project, empty, chosen, known, by_id[known.id], watch))
    return found


def _dense(project: Project, order: Order) -> Order | None:
    """Returns the order of the dense network that an order's record rests on; None without one."""
    dense = replace(order, method=DENSE, structure="unstructured", sparsity=Fraction(0))
    return dense if dense != order and finished(project, [dense]) else None


def _compared(
    project: Project,
    empty: Project,
    chosen: Protocol,
    known: Checkpoint,
    entry: Checkpoint,
    watch: Watch,
) -> Remade:
    try:
        before, _ = records.read(records.record_path(project.results, chosen.id, known.id))
    except RecordError:
        return Remade(known, entry.sha256)
    # A record of other weights, or by another version of the protocol, counts as none.
    if records.stale(before, known, chosen):
        return Remade(known, entry.sha256)
    evaluate_all(empty, [entry], chosen, before.tier, watch)
    after, _ = records.read(records.record_path(empty.results, chosen.id, entry.id))
    return Remade(known, entry.sha256, before.tier, after.content_digest, before.content_digest)
