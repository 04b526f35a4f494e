"""Fills a board as its campaign says: plan, train what is missing, evaluate it, part by part."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise

import methods
from benchmark.campaigns import Campaign, Group, Tier, larger
from benchmark.errors import BenchmarkError, ContractError, shorten
from benchmark.leaderboard import rank
from benchmark.manifest import Checkpoint
from benchmark.pipeline.compressing import (
    Order,
    check_architectures,
    compress_all,
    finished,
    id_of,
)
from benchmark.pipeline.evaluating import evaluate_all, unevaluated
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.pipeline.reporting import results
from benchmark.protocols import TIERS, Protocol, protocol
from benchmark.pruning import as_sparsity
from benchmark.recipes import recipe

# A cell: networks that share a dense parent of this recipe, architecture, objective and seed.
Cell = tuple[str, str, str, int]


@dataclass(frozen=True)
class Network:
    """One network of a campaign.

    Attributes:
        order: what to make.
        tier: at which to evaluate it.
    """

    order: Order
    tier: Tier

    @property
    def cell(self) -> Cell:
        """Returns what its dense parent is known by."""
        order = self.order
        return order.recipe, order.architecture, order.objective, order.seed


@dataclass(frozen=True)
class Plan:
    """What a campaign comes to.

    Attributes:
        networks: in the order in which they are made, each once.
        left_out: a line for each combination that its method does not support.
    """

    networks: tuple[Network, ...]
    left_out: tuple[str, ...]


def plan_campaign(campaign: Campaign) -> Plan:
    """Returns every network of a campaign, and why other combinations are left out.

    Raises:
        UnknownName: a method that is not installed, or an unknown setting of one.
        ContractError: a method's setting of the wrong kind, an architecture that does not take the
            data, one network by two recipes, or nothing to make.
    """
    tiers: dict[Order, Tier] = {}
    reasons: dict[str, None] = {}
    for group in campaign.networks:
        orders, lines = _orders(group)
        for order in orders:
            tiers[order] = larger(tiers.get(order, group.tier), group.tier)
        reasons |= dict.fromkeys(lines)
    if not tiers:
        raise ContractError(
            f"expected networks that can be made, got none: {'; '.join(reasons)}; name others"
        )
    check_architectures(tiers)
    _check_recipes(tiers)
    return Plan(tuple(Network(*pair) for pair in tiers.items()), tuple(reasons))


def _check_recipes(orders: Iterable[Order]) -> None:
    """Refuses networks that are to be made by two recipes: one would take the other's place."""
    known: dict[str, str] = {}
    for order in orders:
        if (other := known.setdefault(id_of(order), order.recipe)) != order.recipe:
            raise ContractError(
                f"expected each network by one recipe, got {_words(order)} by {other} and "
                f"{order.recipe}, which would have one id; leave one out, or put it on a board "
                "of its own"
            )


def _words(order: Order) -> str:
    level = f"{order.structure} {float(100 * order.sparsity):g} %"
    return f"{order.method}, {order.objective}, {level}, seed {order.seed}"


def refuse_others(project: Project, networks: Sequence[Network]) -> None:
    """Makes sure that no network of a campaign takes the place of one by another recipe.

    An older text of the same recipe gives way: whoever edits a recipe makes its networks again.

    Args:
        project: what is there.
        networks: of the campaign, or of a part of it.

    Raises:
        ContractError: names the first such network.
    """
    known = {entry.id: entry for entry in project.manifest().checkpoints}
    for order in (network.order for network in networks):
        there = known.get(id_of(order))
        if there is not None and there.recipe != order.recipe:
            raise ContractError(
                f"expected {there.id} by {order.recipe}, or not at all, got one by "
                f"'{shorten(there.recipe)}'; fill this board in another project (--root FOLDER), "
                "or take that entry out of the manifest"
            )


def _orders(group: Group) -> tuple[list[Order], list[str]]:
    """Returns a group's networks, parents' cells one after the other, and what is left out."""
    known = [(name.partition(":")[0], methods.configured(name)) for name in group.methods]
    kinds = {methods.spelling(*pair): type(pair[1]) for pair in known}
    levels = [as_sparsity(level) for level in group.sparsities]
    orders, reasons = [], []
    for seed in group.seeds:
        for objective in group.objectives:
            for name, kind in kinds.items():
                wanted, lines = _reached(name, kind, levels, group, objective)
                reasons += lines
                orders += [_order(group, name, objective, level, seed) for level in wanted]
    return orders, reasons


def _reached(
    name: str,
    kind: type[methods.Method],
    levels: Sequence[Fraction],
    group: Group,
    objective: str,
) -> tuple[list[Fraction], list[str]]:
    """Returns at which sparsities a method is made, and a line for whatever it does not support."""
    if reason := methods.supports(kind, name, Fraction(0), group.structure, objective):
        return [], [reason]
    if kind.largest_sparsity == 0:
        return [Fraction(0)], []
    reasons = {level: methods.supports(kind, name, level, group.structure) for level in levels}
    return [level for level in levels if not reasons[level]], [r for r in reasons.values() if r]


def _order(group: Group, method: str, objective: str, level: Fraction, seed: int) -> Order:
    return Order(
        method=method,
        architecture=group.architecture or recipe(group.recipe).architecture,
        objective=objective,
        structure=group.structure,
        sparsity=level,
        seed=seed,
        recipe=group.recipe,
    )


# --- Parts for several machines


@dataclass(frozen=True)
class Share:
    """Which part of a campaign a machine takes.

    Attributes:
        number: of the part, from 1.
        count: of parts.

    Raises:
        ContractError: a number that is none of those.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        """Refuses parts that there are not."""
        if not 1 <= self.number <= self.count:
            raise ContractError(
                f"expected a part such as 1/3 to 3/3, got {self.number}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Returns the part that a text such as `2/3` names.

        Raises:
            ContractError: no such text.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and len(text) < 20):
            raise ContractError(f"expected a part such as 2/3, got '{text[:40]}'")
        return cls(int(number), int(count))


def share_of(
    networks: Sequence[Network], share: Share, cost: Callable[[Network], float]
) -> tuple[Network, ...]:
    """Returns the networks of one part; parts are disjoint, and together they are all networks.

    A cell stays together: its networks start from one dense parent, which transfer attacks use as
    well, and another kind of machine would train that one to other bits. The longest cells are
    dealt first, each to the part that has the least.

    Args:
        networks: all of the campaign.
        share: the part.
        cost: of a network, in any unit; must not depend on the machine.
    """
    weights: dict[Cell, float] = {}
    for network in networks:
        weights[network.cell] = weights.get(network.cell, 0.0) + cost(network)
    loads = [0.0] * share.count
    taken: dict[Cell, int] = {}
    for cell in sorted(weights, key=lambda cell: (-weights[cell], cell)):
        part = loads.index(min(loads))
        loads[part] += weights[cell]
        taken[cell] = part
    return tuple(network for network in networks if taken[network.cell] == share.number - 1)


# --- What is there, and what is left


@dataclass(frozen=True)
class Progress:
    """How far a campaign has come.

    Attributes:
        trained: networks that are in the project, with their checkpoints.
        untrained: networks that are not.
        unevaluated: of the trained ones, those whose record does not reach their tier.
    """

    trained: Mapping[Network, Checkpoint]
    untrained: tuple[Network, ...]
    unevaluated: tuple[Network, ...]


def progress_of(project: Project, chosen: str, networks: Sequence[Network]) -> Progress:
    """Returns what of a campaign is there.

    Args:
        project: where to look.
        chosen: protocol id.
        networks: of the campaign, or of a part of it.

    Raises:
        DataUnavailable: the protocol's data are not at hand.
        ContractError: a network that is there by another recipe.
    """
    refuse_others(project, networks)
    found = finished(project, [network.order for network in networks])
    trained = {n: found[n.order] for n in networks if n.order in found}
    left: list[Network] = []
    for tier, some in _by_tier(trained).items():
        ids = {c.id for c in unevaluated(project, list(some.values()), protocol(chosen), tier)}
        left += [network for network, entry in some.items() if entry.id in ids]
    return Progress(trained, tuple(n for n in networks if n not in trained), tuple(left))


def _by_tier(trained: Mapping[Network, Checkpoint]) -> dict[Tier, dict[Network, Checkpoint]]:
    found: dict[Tier, dict[Network, Checkpoint]] = {}
    for network, entry in trained.items():
        found.setdefault(network.tier, {})[network] = entry
    return found


# --- Filling the board


@dataclass(frozen=True)
class Done:
    """What a run of a campaign did.

    Attributes:
        trained: checkpoints that were made.
        evaluated: (checkpoint id, tier) of records that were made.
        failed: orders that could not be made, and why.
    """

    trained: tuple[Checkpoint, ...]
    evaluated: tuple[tuple[str, str], ...]
    failed: Mapping[Order, BenchmarkError]


def fill(
    project: Project,
    campaign: Campaign,
    networks: Sequence[Network],
    *,
    with_top: bool = True,
    train: bool = True,
    evaluate: bool = True,
    threads: int = 1,
    watch: Watch = silent,
) -> Done:
    """Trains what is missing of a campaign, evaluates it, and looks closer at who comes first.

    Every network is trained and looked at with the first examples, cell by cell, before any gets a
    larger tier: those examples are a part of it, so that a whole board is there early and nothing
    is computed twice. All of it can be killed at any time and goes on where it stopped.

    Args:
        project: where things are, and on what they run.
        campaign: names the protocol, and the tier of the first groups.
        networks: of the campaign, or of a part of it.
        with_top: evaluate the first groups at the campaign's tier for them; only the whole board
            says who they are.
        train: make networks that are missing.
        evaluate: make records that are missing.
        threads: CPU threads of each training run; part of what makes it repeatable.
        watch: told of each piece.

    Raises:
        ContractError: a network that is there by another recipe.
    """
    refuse_others(project, networks)
    chosen = protocol(campaign.protocol)
    trained: list[Checkpoint] = []
    evaluated: list[tuple[str, str]] = []
    failed: dict[Order, BenchmarkError] = {}
    for some in _stretches(networks):
        if train:
            orders = [network.order for network in some]
            trained += compress_all(project, orders, threads=threads, failed=failed, watch=watch)
        if evaluate:
            evaluated += _evaluate(project, chosen, _entries(project, some), "quick", watch)
    for tier in TIERS[1:] if evaluate else ():
        some = [n for n in networks if TIERS.index(n.tier) >= TIERS.index(tier)]
        evaluated += _evaluate(project, chosen, _entries(project, some), tier, watch)
    if evaluate and with_top and campaign.top:
        evaluated += _look_closer(project, campaign, networks, watch)
    return Done(tuple(trained), tuple(evaluated), failed)


def _evaluate(
    project: Project, chosen: Protocol, entries: Sequence[Checkpoint], tier: str, watch: Watch
) -> list[tuple[str, str]]:
    """Evaluates checkpoints, if there are any; returns (checkpoint id, tier) of new records."""
    done = evaluate_all(project, entries, chosen, tier, watch) if entries else []
    return [(name, tier) for name, _ in done]


def _entries(project: Project, networks: Sequence[Network]) -> list[Checkpoint]:
    """Returns the checkpoints of those networks that are trained."""
    return list(finished(project, [network.order for network in networks]).values())


def _stretches(networks: Sequence[Network]) -> list[list[Network]]:
    """Returns neighbours of one cell together: they share a dense parent."""
    return [list(some) for _, some in groupby(networks, key=lambda network: network.cell)]


def _look_closer(
    project: Project, campaign: Campaign, networks: Sequence[Network], watch: Watch
) -> list[tuple[str, str]]:
    """Evaluates whoever may be the first of a cell on more and more examples, up to the last tier.

    Who is first on few examples is looked at on more, with those that no test tells from it; nobody
    else can come first again, so that who is looked at does not depend on what was there before.
    """
    evaluated: list[tuple[str, str]] = []
    chosen, entries = protocol(campaign.protocol), _entries(project, networks)
    for tier, closer in pairwise(TIERS[: TIERS.index(campaign.top) + 1]):
        entries = first_of(project, chosen, entries, tier)
        evaluated += _evaluate(project, chosen, entries, closer, watch)
    return evaluated


def first_of(
    project: Project, chosen: Protocol, entries: Sequence[Checkpoint], tier: str
) -> list[Checkpoint]:
    """Returns the checkpoints that share the first rank of a cell, among some of them.

    Args:
        project: whose records.
        chosen: the protocol.
        entries: compared with each other, and with nobody else.
        tier: on which examples.
    """
    table = results(project, (chosen.id,))
    if not len(table):
        return []
    ours = {entry.id: entry for entry in entries}
    rows = table[(table["tier"] == tier) & table["checkpoint_id"].isin(list(ours))]
    ranked = rank(rows)
    return [ours[name] for name in ranked[ranked["rank"] == 1]["checkpoint_id"]]
