"""Rows of a protocol by what they are of, and which of them can be held against each other."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmark.findings.values import level, name, seeds_in_words
from benchmark.leaderboard import DENSE, Row, as_number, has_result, rankable, sparsity_of

# Networks trained by bounds take a recipe of their own, which this ending marks.
_CERTIFIED = "-certified"

UNSTRUCTURED = "unstructured"

# Combinations of architecture and recipes whose claims are looked at.
MOST_SCOPES = 6


@dataclass(frozen=True)
class Network:
    """What is trained alike but for its seed.

    Attributes:
        method: with its settings.
        sparsity: claimed, in [0, 1].
        objective: of its training.
        recipe: of its training.
        structure: of what is removed; `dense` where nothing is.
    """

    method: str
    sparsity: float
    objective: str
    recipe: str
    structure: str = UNSTRUCTURED

    @property
    def words(self) -> str:
        """Returns it in words, but for its recipe."""
        if self.method == DENSE:
            return f"{DENSE}, {self.objective}"
        unit = "" if self.structure == UNSTRUCTURED else f"{self.structure} "
        return f"{self.method}, {self.objective}, {unit}{level(self.sparsity)}"


# A tier with the digest of its examples: rows of one are over the same.
Examples = tuple[str, str]
# Rows of a network: by seed, then by examples.
Trained = dict[int, dict[Examples, Row]]


@dataclass(frozen=True)
class Together:
    """Rows of several networks over the same examples, and of the same seeds.

    Attributes:
        tier: of the examples.
        examples: how many.
        seeds: ascending.
        rows: of each network, a row a seed.
    """

    tier: str
    examples: int
    seeds: tuple[int, ...]
    rows: Mapping[Network, tuple[Row, ...]]

    @property
    def every(self) -> list[Row]:
        """Returns all rows."""
        return [row for rows in self.rows.values() for row in rows]

    @property
    def words(self) -> str:
        """Returns the examples in words."""
        return f"{self.examples:,} examples ({self.tier})"

    def of_seeds(self, seeds: Collection[int]) -> "Together":
        """Returns the rows of some of the seeds."""
        places = [place for place, seed in enumerate(self.seeds) if seed in seeds]
        rows = {one: tuple(found[place] for place in places) for one, found in self.rows.items()}
        return replace(self, seeds=tuple(self.seeds[place] for place in places), rows=rows)


@dataclass
class Scope:
    """Networks whose comparison says something: one protocol, architecture and family of recipes.

    Attributes:
        architecture: name.
        recipes: of the family, ascending.
        size: how many rows.
        trained: rows that count, by network.
        apart: rows with a result that do not (`standing`), by network.
    """

    architecture: str
    recipes: tuple[str, ...]
    size: int = 0
    trained: dict[Network, Trained] = field(default_factory=dict)
    apart: dict[Network, Trained] = field(default_factory=dict)

    @property
    def flagged(self) -> list[Network]:
        """Returns networks that were evaluated, but for no seed in rows that count."""
        return [one for one in self.apart if one not in self.trained]

    @property
    def trainings(self) -> list[tuple[str, str]]:
        """Returns (recipe, objective) of its networks, ascending."""
        return sorted({(one.recipe, one.objective) for one in (*self.trained, *self.apart)})

    def together(self, networks: Sequence[Network]) -> Together | None:
        """Returns rows of all networks, over the same examples.

        Of the examples that they share those count on which most seeds have all of them; of these
        the most. None where a network has no row, or none beside the others.
        """
        found: list[tuple[int, int, Examples, tuple[int, ...]]] = []
        first, *others = (self.trained.get(one, {}) for one in networks)
        for key, sample in _samples(first).items():
            seeds = tuple(
                seed
                for seed in sorted(first)
                if all(key in rows.get(seed, {}) for rows in (first, *others))
            )
            if seeds:
                found.append((len(seeds), int(as_number(sample["examples"])), key, seeds))
        if not found:
            return None
        _, examples, key, seeds = max(found)
        rows = {one: tuple(self.trained[one][seed][key] for seed in seeds) for one in networks}
        return Together(key[0], examples, seeds, rows)

    def missing(self, networks: Sequence[Network]) -> tuple[str, ...]:
        """Returns in words which networks are not there, or that they never meet."""
        gone = [
            f"{one.words} {_FLAGGED}" if one in self.apart else one.words
            for one in networks
            if one not in self.trained
        ]
        if gone:
            return tuple(gone)
        pair = " and ".join(one.words for one in networks)
        never = f"a seed of {pair} with the same examples"
        return (never, *(words for one in networks for words in self._without_rank(one)))

    def dropped(self, together: Together) -> tuple[str, ...]:
        """Returns in words which seeds flags keep out of a comparison."""
        found: list[str] = []
        sample = sample_of(together.every[0])
        for network in together.rows:
            found += self._without_rank(network)
            counted = self.trained[network].keys() - together.seeds
            here = [s for s in sorted(counted) if sample in self.apart.get(network, {}).get(s, {})]
            if here:
                found.append(
                    f"{network.words}, {seeds_in_words(here)} (flagged on {together.words})"
                )
        return tuple(found)

    def _without_rank(self, network: Network) -> list[str]:
        gone = sorted(self.apart.get(network, {}).keys() - self.trained.get(network, {}).keys())
        return [f"{network.words}, {seeds_in_words(gone)} {_FLAGGED}"] if gone else []


_FLAGGED = "(evaluated, but flagged and without a rank)"


def standing(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Returns the rows that count, and those with a result that do not.

    A row does not count if a flag keeps it off the ranking, or its network in its largest tier:
    what more examples cast doubt on, fewer do not prove.

    Args:
        rows: of any protocols and tiers.
    """
    shown = [row for row in rows if has_result(row)]
    largest: dict[tuple[object, ...], tuple[float, bool]] = {}
    for row in shown:
        own, size = _checkpoint(row), (as_number(row["examples"]), not rankable(row))
        largest[own] = max(largest.get(own, size), size)
    found: tuple[list[Row], list[Row]] = [], []
    for row in shown:
        doubtful = not rankable(row) or largest[_checkpoint(row)][1]
        found[doubtful].append(row)
    return found


def _checkpoint(row: Row) -> tuple[object, ...]:
    """Returns what the tiers of one network have in common."""
    return str(row.get("protocol_digest")), name(row, "architecture"), network_of(row), seed_of(row)


def _samples(trained: Trained) -> dict[Examples, Row]:
    return {key: row for tiers in trained.values() for key, row in tiers.items()}


def scopes(rows: Iterable[Row], most: int = MOST_SCOPES) -> tuple[list[Scope], int]:
    """Returns the scopes of a protocol's rows, those with most rows first, and how many more.

    Args:
        rows: of one protocol, of any tiers.
        most: scopes to return.
    """
    grouped: dict[tuple[str, str], dict[str, list[tuple[Row, bool]]]] = {}
    for among, counts in zip(standing(rows), (True, False), strict=True):
        for row in among:
            key = str(row.get("protocol_digest")), name(row, "architecture")
            by_recipe = grouped.setdefault(key, {})
            by_recipe.setdefault(name(row, "recipe"), []).append((row, counts))
    found = []
    for key, by_recipe in grouped.items():
        for recipes in families(by_recipe).values():
            found.append((sum(len(by_recipe[recipe]) for recipe in recipes), key, recipes))
    found.sort(key=lambda one: (-one[0], one[1:]))
    made = []
    for size, key, recipes in found[:most]:
        scope = Scope(key[1], recipes, size)
        for recipe in recipes:
            for row, counts in grouped[key][recipe]:
                _add(scope.trained if counts else scope.apart, row)
        made.append(scope)
    return made, len(found) - len(made)


def families(recipes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns recipes that belong together: one for attacks, and those for bounds on its data.

    >>> families(["mnist-short", "mnist-certified", "mnist-trial"])
    {'mnist-short': ('mnist-certified', 'mnist-short'), \
'mnist-trial': ('mnist-certified', 'mnist-trial')}

    Args:
        recipes: names. `mnist-certified` belongs to `mnist` and to all that begin with `mnist-`.
    """
    every = sorted(set(recipes))
    certified = {one for one in every if one.endswith(_CERTIFIED)}
    found: dict[str, tuple[str, ...]] = {}
    for one in every:
        if one not in certified:
            parts = one.split("-")
            stems = ("-".join(parts[:count]) for count in range(1, len(parts) + 1))
            own = {f"{stem}{_CERTIFIED}" for stem in stems} & certified
            found[one] = tuple(sorted({one, *own}))
    joined = {recipe for members in found.values() for recipe in members}
    return found | {one: (one,) for one in every if one not in joined}


def network_of(row: Row) -> Network:
    """Returns what a row is of."""
    method, sparsity = name(row, "method"), round(sparsity_of(row), 6)
    plain = method == DENSE
    return Network(
        method=method,
        sparsity=0.0 if plain else sparsity,
        objective=name(row, "objective"),
        recipe=name(row, "recipe"),
        structure=DENSE if plain else name(row, "structure"),
    )


def dense(objective: str, recipe: str) -> Network:
    """Returns the dense network of a training."""
    return Network(DENSE, 0.0, objective, recipe, DENSE)


def _add(networks: dict[Network, Trained], row: Row) -> None:
    seeds = networks.setdefault(network_of(row), {})
    seeds.setdefault(seed_of(row), {}).setdefault(sample_of(row), row)


def sample_of(row: Row) -> Examples:
    """Returns what a row is over."""
    return name(row, "tier"), str(row.get("data_digest"))


def seed_of(row: Row) -> int:
    """Returns the seed of a row's training; 0 where it states none."""
    seed = as_number(row.get("seed"))
    return int(seed) if math.isfinite(seed) else 0
