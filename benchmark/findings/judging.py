"""Judges of claims: each looks at the networks that a claim needs and says whether it holds.

What counts is fixed by the arguments, before any row is looked at. Each measured number comes from
outcomes by example: paired differences with Tango's interval and exact McNemar tests, corrected
after Holm for all tests of a claim; kept shares with the interval of a ratio.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from benchmark.datasets import DATASETS
from benchmark.findings.scope import Network, Scope, Together, dense
from benchmark.findings.values import (
    Sentence,
    Verdict,
    counted,
    level,
    listed,
    name,
    percent,
    points,
    probability,
    seeds_in_words,
    sentence,
    share,
)
from benchmark.leaderboard import DENSE, SIGNIFICANCE, Row, as_number, best_known, stacked
from benchmark.statistics import (
    Bools,
    Estimate,
    difference_interval,
    holm,
    hull,
    mcnemar_exact,
    ratio_interval,
    seeds_interval,
)

# What a share of examples is of, by the outcome that it counts.
MEASURES = {
    "best_known": "robust accuracy",
    "certified": "certified accuracy",
    "smoothed": "accuracy of the smoothed network at its certified radius",
}

# The device of a budget that nobody knows: its other numbers are zero because they must be numbers.
NOT_STATED = "not stated"

# An accuracy of this many times that of guessing says little.
NEAR_CHANCE = 1.5

# What is missing where none did.
NO_LEARNERS = "networks that learn"


@dataclass(frozen=True)
class Judged:
    """What became of a claim: a verdict on what was measured, or what is missing for one."""

    verdict: Verdict
    sentences: tuple[Sentence, ...] = ()
    missing: tuple[str, ...] = ()
    asides: tuple[str, ...] = ()


Judge = Callable[[Scope], Judged]

# What a row of a network lacks for a judgement, in words; empty if nothing.
_Lack = Callable[[Network, Row], str]
# Networks that have to meet, mostly a method's and the one it is held against.
_Pair = Sequence[Network]
# Those that do; what is missing beside them; what is missing where none do.
_Met = tuple[list[Together], tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class _Part:
    """What one training says about a claim: how many of its tests or shares hold, in words."""

    held: int
    of: int
    sentences: tuple[Sentence, ...]


# --- One accuracy against another -----------------------------------------------------------------


@dataclass(frozen=True)
class Better:
    """A method beats another at a sparsity, trained alike, for every seed.

    Where neither of two networks learned, clean accuracies being near chance, there is nothing to
    compare, and the seed does not count.

    Attributes:
        first: method that should be better.
        second: method that it is compared with.
        sparsity: of both.
        objectives: trainings that the claim is about; those with rows count, one is needed.
        measure: outcome, of `MEASURES`.
    """

    first: str
    second: str
    sparsity: float
    objectives: tuple[str, ...]
    measure: str = "best_known"

    def __call__(self, scope: Scope) -> Judged:
        """Returns what the rows say."""
        found, asides, missing = self._found(scope)
        if not found:
            return Judged("not measured here", missing=missing)
        learned = [_learned(one) for one in found]
        tests = [(n, place) for n, places in enumerate(learned) for place in places]
        ps = holm([mcnemar_exact(*self._pair(found[n], place)) for n, place in tests])
        adjusted = dict(zip(tests, ps, strict=True))
        parts = [
            self._part(one, {place: adjusted[n, place] for place in learned[n]}, len(ps))
            for n, one in enumerate(found)
        ]
        return _judged(parts, asides)

    def _found(self, scope: Scope) -> _Met:
        pairs = [
            [Network(method, self.sparsity, o, recipe) for method in (self.first, self.second)]
            for recipe, o in _trainings(scope, self.objectives)
        ]
        return _met(scope, pairs, self._lack)

    def _lack(self, network: Network, row: Row) -> str:
        return _no_outcome(network, row, self.measure)

    def _pair(self, together: Together, place: int) -> Bools:
        rows = [rows[place] for rows in together.rows.values()]
        return stacked(rows, self.measure)

    def _part(self, together: Together, ps: Mapping[int, float], tests: int) -> _Part:
        said, held, leads = [], 0, []
        corrected = f" after Holm over {tests} tests" if tests > 1 else ""
        ours, theirs = together.rows.values()
        for place, seed in enumerate(together.seeds):
            if place not in ps:
                said.append(self._unlearned(together, place))
                continue
            p = ps[place]
            first, second = self._pair(together, place)
            lead = difference_interval(first, second)
            held += p <= SIGNIFICANCE and lead.value > 0
            leads.append(lead)
            text = (
                f"{_training(ours[0])}, seed {seed}: {self.first} {percent(first.mean())}, "
                f"{self.second} {percent(second.mean())} {MEASURES[self.measure]} on "
                f"{_on(together, len(first))}; {points(lead)}, {probability(p)}{corrected}."
            )
            said.append(sentence(text, (ours[place], theirs[place])))
        if len(leads) < len(together.seeds):
            return _Part(held, len(leads), tuple(said))
        if len(leads) > 1:
            said.append(self._seeds_together(together, leads))
        if warning := self._near_chance(together):
            said.append(warning)
        return _Part(held, len(leads), tuple(said))

    def _seeds_together(self, together: Together, leads: Sequence[Estimate]) -> Sentence:
        means = [_over_seeds(rows, self.measure) for rows in together.rows.values()]
        text = (
            f"{_training(together.every[0])}, {len(leads)} seeds together: {self.first} "
            f"{share(means[0])}, {self.second} {share(means[1])} over seeds and examples; mean "
            f"lead {points(hull(leads))}, between the outermost ends of the seeds' intervals."
        )
        return sentence(text, together.every)

    def _unlearned(self, together: Together, place: int) -> Sentence:
        rows = [rows[place] for rows in together.rows.values()]
        first, second = (float(stacked([row], "clean").mean()) for row in rows)
        text = (
            f"{_training(rows[0])}, seed {together.seeds[place]}: neither network learned, with "
            f"{self.first} at {percent(first)} and {self.second} at {percent(second)} clean "
            f"accuracy, where guessing gives {percent(_chance(rows[0]))}; this does not count."
        )
        return sentence(text, rows)

    def _near_chance(self, together: Together) -> Sentence | None:
        theirs = list(together.rows.values())[1]
        chance = _chance(theirs[0])
        most = max(float(stacked([row], self.measure).mean()) for row in theirs)
        if self.measure != "best_known" or most > NEAR_CHANCE * chance:
            return None
        text = (
            f"{self.second} is near chance ({percent(chance)}) for every seed, at {percent(most)} "
            f"or less: the comparison says that networks of {self.first} still learn, not by how "
            "much they are better than ones that do."
        )
        return sentence(text, theirs)


# --- A share of what the dense network has --------------------------------------------------------


@dataclass(frozen=True)
class Keeps:
    """A method keeps a share of an accuracy of another network, the dense one if none is named.

    Attributes:
        methods: spellings of the method, in the order in which they count: the first with rows.
        sparsity: of the method's network, and of `of` if that is named.
        at_least: share that the mean over the seeds must reach.
        objectives: trainings that the claim is about.
        measure: outcome, of `MEASURES`.
        of: another method, of the same sparsity; empty for the dense network.
    """

    methods: tuple[str, ...]
    sparsity: float
    at_least: float
    objectives: tuple[str, ...]
    measure: str = "best_known"
    of: str = ""

    def __call__(self, scope: Scope) -> Judged:
        """Returns what the rows say."""
        trainings = _trainings(scope, self.objectives)
        spellings = [
            [
                [Network(method, self.sparsity, objective, recipe), self._base(objective, recipe)]
                for recipe, objective in trainings
            ]
            for method in self.methods
        ]
        found, asides, missing = _first_met(scope, spellings, self._lack)
        if not found:
            return Judged("not measured here", missing=missing)
        return _judged([self._part(one) for one in found], asides)

    def _base(self, objective: str, recipe: str) -> Network:
        if self.of:
            return Network(self.of, self.sparsity, objective, recipe)
        return dense(objective, recipe)

    def _lack(self, network: Network, row: Row) -> str:
        if lacking := _no_outcome(network, row, self.measure):
            return lacking
        if network.method == (self.of or DENSE) and not stacked([row], self.measure).any():
            measure = MEASURES[self.measure]
            return f"{measure} above 0 of {network.words} (of nothing no share can be kept)"
        return ""

    def _part(self, together: Together) -> _Part:
        kept, seeds = [], []
        for rows in zip(*together.rows.values(), strict=True):
            first, second = stacked(rows, self.measure)
            kept.append(ratio_interval(first, second))
            seeds.append(self._seed(together, rows, kept[-1]))
        mean = hull(kept)
        holds = mean.value >= self.at_least
        verdict = self._side(mean, holds)
        if len(kept) == 1:
            said = (sentence(f"{seeds[0]}: {verdict}.", together.every),)
            return _Part(int(holds), 1, said)
        rows_of = zip(*together.rows.values(), strict=True)
        single = [sentence(f"{text}.", rows) for text, rows in zip(seeds, rows_of, strict=True)]
        text = (
            f"{_training(together.every[0])}, mean over {len(kept)} seeds: {share(mean)}, "
            f"{verdict}."
        )
        return _Part(int(holds), 1, (*single, sentence(text, together.every)))

    def _seed(self, together: Together, rows: Sequence[Row], ratio: Estimate) -> str:
        first, second = stacked(rows, self.measure)
        ours, theirs = (name(row, "method") for row in rows)
        return (
            f"{_training(rows[0])}, seed {name(rows[0], 'seed', 20)}: {ours} at "
            f"{level(self.sparsity)} keeps {share(ratio)} of the {MEASURES[self.measure]} of "
            f"{theirs}, {percent(first.mean())} of {percent(second.mean())}, on "
            f"{_on(together, len(first))}"
        )

    def _side(self, mean: Estimate, holds: bool) -> str:
        doubt = mean.low < self.at_least if holds else mean.high >= self.at_least
        unsure = ", though the interval reaches to the other side" if doubt else ""
        return f"{'at or above' if holds else 'below'} {percent(self.at_least)}{unsure}"


# --- What training costs --------------------------------------------------------------------------


@dataclass(frozen=True)
class Cheaper:
    """A method trains without an attack, and in less time than another.

    Attributes:
        methods: spellings of the method, as for `Keeps`.
        other: method with as many epochs that attacks while it trains.
        sparsity: of both.
        objectives: trainings that the claim is about.
    """

    methods: tuple[str, ...]
    other: str
    sparsity: float
    objectives: tuple[str, ...]

    def __call__(self, scope: Scope) -> Judged:
        """Returns what the budgets in the manifest say."""
        found, asides, missing = _first_met(scope, _spellings(scope, self), _no_budget)
        if not found:
            return Judged("not measured here", missing=missing)
        return _judged([_costs(one) for one in found], asides)


def _costs(together: Together) -> _Part:
    said, free, faster = [], [], []
    for seed, ours, theirs in zip(together.seeds, *together.rows.values(), strict=True):
        (steps, hours, device), (their_steps, their_hours, their_device) = map(
            budget_of, (ours, theirs)
        )
        free.append(steps == 0)
        faster.append(device == their_device and hours < their_hours)
        apart = "" if device == their_device else "; the machines differ, so hours do not compare"
        text = (
            f"{_training(ours)}, seed {seed}: {name(ours, 'method')} takes "
            f"{_spent(steps, hours)}, {name(theirs, 'method')} {_spent(their_steps, their_hours)} "
            f"of pruning and finetuning{apart}."
        )
        said.append(sentence(text, (ours, theirs)))
    return _Part(int(all(free)) + int(all(faster)), 2, tuple(said))


def budget_of(row: Row) -> tuple[float, float, str]:
    """Returns attack steps a batch, hours of prune and finetune, and the device; NaN if unknown."""
    found = row.get("budget")
    budget = found if isinstance(found, dict) else {}
    device = name(budget, "device")
    if device == NOT_STATED:
        return math.nan, math.nan, device
    return as_number(budget.get("attack_steps")), as_number(budget.get("hours")), device


def _spent(steps: float, hours: float) -> str:
    return f"{counted(int(steps), 'attack step')} a batch and {hours_in_words(hours)}"


def hours_in_words(hours: float) -> str:
    """Returns hours as the manifest keeps them, to a hundredth."""
    return f"{hours:.2f} h"


# --- Along epsilon, and over schedules ------------------------------------------------------------


@dataclass(frozen=True)
class HigherCurve:
    """A method's accuracy against epsilon lies above another's on average, for every seed.

    Attributes:
        methods: spellings of the method that should be better, as for `Keeps`.
        other: method that it is compared with.
        sparsity: of both.
        objectives: trainings that the claim is about.
    """

    methods: tuple[str, ...]
    other: str
    sparsity: float
    objectives: tuple[str, ...]

    def __call__(self, scope: Scope) -> Judged:
        """Returns what the rows say."""
        found, asides, missing = _first_met(scope, _spellings(scope, self), _no_curve)
        if not found:
            return Judged("not measured here", missing=missing)
        return _judged([_curves(one) for one in found], asides)


def _curves(together: Together) -> _Part:
    said, held = [], 0
    for seed, ours, theirs in zip(together.seeds, *together.rows.values(), strict=True):
        first, second = (
            Estimate(*(as_number(row.get(f"aer_{end}")) for end in ("robustness", "low", "high")))
            for row in (ours, theirs)
        )
        held += first.low > second.high
        apart = "intervals overlap" if first.low <= second.high else "intervals do not overlap"
        if first.high < second.low:
            apart = "intervals do not overlap, the other way round"
        text = (
            f"{_training(ours)}, seed {seed}: {name(ours, 'method')} {share(first)}, "
            f"{name(theirs, 'method')} {share(second)} on average up to epsilon "
            f"{name(ours, 'aer_epsilon', 20)}, on {together.words}; the {apart}."
        )
        said.append(sentence(text, (ours, theirs)))
    return _Part(held, len(together.seeds), tuple(said))


@dataclass(frozen=True)
class Steadier:
    """A method's results vary less over the ends of its pruning schedule than another's.

    Attributes:
        first: method that should vary less, without settings.
        second: method that it is compared with.
        sparsity: of both.
        objectives: trainings that the claim is about.
    """

    first: str
    second: str
    sparsity: float
    objectives: tuple[str, ...]

    def __call__(self, scope: Scope) -> Judged:
        """Returns what the rows say."""
        every = []
        for recipe, objective in _trainings(scope, self.objectives):
            schedules = [
                _schedules(scope, method, self.sparsity, objective, recipe)
                for method in (self.first, self.second)
            ]
            ends = sorted(schedules[0].keys() & schedules[1].keys())
            if len(ends) > 1:
                every.append([schedule[end] for schedule in schedules for end in ends])
        found, asides, missing = _met(scope, every, _no_curve)
        flagged = self._flagged(scope)
        if found:
            return _judged([_spreads(one) for one in found], (*asides, *flagged))
        if not every:
            objective = _trainings(scope, self.objectives)[0][1]
            wanted = f"with two or more ends of the schedule, {objective}, {level(self.sparsity)}"
            missing = tuple(f"{one}:end=… {wanted}" for one in (self.first, self.second))
        return Judged("not measured here", missing=(*missing, *flagged))

    def _flagged(self, scope: Scope) -> list[str]:
        """Returns in words the ends of either schedule that flags keep out."""
        ends = [
            network
            for recipe, objective in _trainings(scope, self.objectives)
            for network in scope.flagged
            for method in (self.first, self.second)
            if _end(network, Network(method, self.sparsity, objective, recipe))
        ]
        return [words for network in ends for words in scope.missing([network])]


def _schedules(
    scope: Scope, method: str, sparsity: float, objective: str, recipe: str
) -> dict[str, Network]:
    """Returns networks of a method by the end of their schedule, all other settings alike."""
    groups: dict[str, dict[str, Network]] = {}
    for network in scope.trained:
        if found := _end(network, Network(method, sparsity, objective, recipe)):
            rest, end = found
            groups.setdefault(rest, {})[end] = network
    return max(groups.values(), key=len, default={})


def _end(network: Network, plain: Network) -> tuple[str, str] | None:
    """Returns the other settings of a method and the end of its schedule; None without an end.

    Args:
        network: to look at.
        plain: what it is to be, but for its settings.
    """
    base, *settings = network.method.split(":")
    end = [one.removeprefix("end=") for one in settings if one.startswith("end=")]
    if not end or replace(network, method=base) != plain:
        return None
    return ":".join(one for one in settings if not one.startswith("end=")), end[0]


def _spreads(together: Together) -> _Part:
    networks = list(together.rows)
    ends = len(networks) // 2
    halves = networks[:ends], networks[ends:]
    said, spreads = [], []
    for place, seed in enumerate(together.seeds):
        for half in halves:
            rows = [together.rows[network][place] for network in half]
            known = [best_known(row) for row in rows]
            area = [as_number(row.get("aer_robustness")) for row in rows]
            spreads.append((stdev(known), stdev(area)))
            accuracies = listed([share(_over_seeds([row], "best_known")) for row in rows])
            text = (
                f"{_training(rows[0])}, seed {seed}: {listed([one.method for one in half])} reach "
                f"{accuracies} robust accuracy on {together.words}, a standard deviation of "
                f"{100 * stdev(known):.1f} points; that of their AER is "
                f"{100 * stdev(area):.1f} points."
            )
            said.append(sentence(text, rows))
    means = [[fmean(s[m] for s in spreads[half::2]) for half in (0, 1)] for m in (0, 1)]
    names = [half[0].method.partition(":")[0] for half in halves]
    text = "; ".join(
        f"{what}: {names[0]} {100 * ours:.1f}, {names[1]} {100 * theirs:.1f} points"
        for what, (ours, theirs) in zip(("robust accuracy", "AER"), means, strict=True)
    )
    head = f"Standard deviation over ends, mean of {counted(len(together.seeds), 'seed')}"
    said.append(sentence(f"{head}: {text}.", together.every))
    return _Part(sum(ours < theirs for ours, theirs in means), 2, tuple(said))


# --- What judges share ----------------------------------------------------------------------------


def _judged(parts: Sequence[_Part], asides: tuple[str, ...]) -> Judged:
    held, of = (sum(getattr(part, what) for part in parts) for what in ("held", "of"))
    said = tuple(s for part in parts for s in part.sentences)
    if not of:
        return Judged("not measured here", said, (NO_LEARNERS,), asides)
    verdict: Verdict = "reproduced" if held == of else "partly" if held else "not reproduced"
    return Judged(verdict, said, asides=asides)


def _learned(together: Together) -> list[int]:
    """Returns the places of seeds for which at least one network's clean accuracy beats chance."""
    learned = []
    for place in range(len(together.seeds)):
        rows = [rows[place] for rows in together.rows.values()]
        if any(stacked([row], "clean").mean() > NEAR_CHANCE * _chance(row) for row in rows):
            learned.append(place)
    return learned


def _trainings(scope: Scope, objectives: Iterable[str]) -> list[tuple[str, str]]:
    """Returns (recipe, objective) of a claim's objectives, in their order; at least one."""
    wanted = tuple(objectives)
    found = [one for o in wanted for one in scope.trainings if one[1] == o]
    return found or [(scope.recipes[-1], wanted[0])]


def _spellings(scope: Scope, judge: Cheaper | HigherCurve) -> list[list[_Pair]]:
    """Returns for each spelling of a method its networks, each with the one it is held against."""
    trainings = _trainings(scope, judge.objectives)
    return [
        [
            [Network(one, judge.sparsity, objective, recipe) for one in (method, judge.other)]
            for recipe, objective in trainings
        ]
        for method in judge.methods
    ]


def _first_met(scope: Scope, spellings: Sequence[Sequence[_Pair]], lack: _Lack) -> _Met:
    """Returns what `_met` says of the first spelling of a method that meets anybody.

    Flags that cost a spelling before it its place are told beside it. Where none meets anybody,
    what is missing is told of one that was evaluated, or else of the one that lacks least, the last
    of equals.
    """
    lacking = []
    passed: list[str] = []
    for pairs in spellings:
        found, asides, missing = _met(scope, pairs, lack)
        if found:
            return found, tuple(dict.fromkeys((*asides, *passed))), ()
        passed += _met(scope, [pair for pair in pairs if pair[0] in scope.apart], lack)[-1]
        evaluated = any(all(one in scope.trained for one in pair) for pair in pairs)
        lacking.append((not evaluated, len(missing), missing))
    return [], (), min(reversed(lacking), key=lambda one: one[:2])[-1]


def _met(scope: Scope, pairs: Sequence[_Pair], lack: _Lack) -> _Met:
    """Returns the networks that meet, and what is missing for others, beside them or at all."""
    found: list[Together] = []
    missing: list[str] = []
    for pair in pairs:
        if together := scope.together(pair):
            seeds, lacking = _complete(together, lack)
            missing += (*lacking, *scope.dropped(together))
            if seeds:
                found.append(together.of_seeds(seeds))
        else:
            missing += scope.missing(pair)
    lacks = tuple(dict.fromkeys(missing))
    return (found, lacks, ()) if found else ([], (), lacks)


def _complete(together: Together, lack: _Lack) -> tuple[list[int], list[str]]:
    """Returns the seeds of which no network lacks anything, and in words what the others lack."""
    without: dict[str, list[int]] = {}
    for network, rows in together.rows.items():
        for seed, row in zip(together.seeds, rows, strict=True):
            if lacking := lack(network, row):
                without.setdefault(lacking, []).append(seed)
    gone = {seed for seeds in without.values() for seed in seeds}
    said = [
        lacking if len(seeds) == len(together.seeds) else f"{lacking}, {seeds_in_words(seeds)}"
        for lacking, seeds in without.items()
    ]
    return [seed for seed in together.seeds if seed not in gone], said


def _no_budget(network: Network, row: Row) -> str:
    known = all(math.isfinite(spent) for spent in budget_of(row)[:2])
    return "" if known else f"attack steps and hours of {network.words} (its entry states none)"


def _no_outcome(network: Network, row: Row, measure: str) -> str:
    there = measure == "best_known" or measure in row["outcomes"]
    return "" if there else f"{MEASURES[measure]} of {network.words}"


def _no_curve(network: Network, row: Row) -> str:
    known = math.isfinite(as_number(row.get("aer_robustness")))
    return "" if known else f"accuracy at several epsilons of {network.words}"


def _over_seeds(rows: Sequence[Row], measure: str) -> Estimate:
    found = seeds_interval(stacked(rows, measure))
    return Estimate(found.mean, found.low, found.high)


def _training(row: Row) -> str:
    return f"Objective {name(row, 'objective', 40)} ({name(row, 'recipe', 60)})"


def _on(together: Together, examples: int) -> str:
    """Returns the examples in words; of the smoothed network there may be fewer."""
    if examples == together.examples:
        return together.words
    return f"{examples:,} of {together.words}"


def _chance(row: Row) -> float:
    data = DATASETS.get(name(row, "dataset"))
    return 1 / data.classes if data else 0.0
