"""What to use at 90, 95 and 99 %: who comes first by robust or certified accuracy, at what cost.

Over all trainings of a cell. First is the best and every row that exact McNemar tests with Holm's
correction cannot tell from it. Rows that a flag keeps off the ranking are nobody's advice.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from benchmark.findings.judging import budget_of, hours_in_words
from benchmark.findings.scope import UNSTRUCTURED, Examples, sample_of, seed_of, standing
from benchmark.findings.values import (
    Finding,
    Section,
    Sentence,
    counted,
    level,
    listed,
    name,
    seeds_in_words,
    sentence,
    share,
)
from benchmark.leaderboard import (
    DENSE,
    SANITY,
    SIGNIFICANCE,
    Row,
    as_number,
    bucket,
    sparsity_of,
    stacked,
)
from benchmark.statistics import Estimate, holm, mcnemar_exact, ratio_interval, wilson

LEVELS = (0.9, 0.95, 0.99)

# So that a page stays a page: networks (architecture and structure), and settings that are named.
MOST_NETWORKS, MOST_NAMED = 8, 8

_WORDS = {"best_known": "robust", "certified": "certified"}

_Samples = dict[Examples, list[Row]]
# Digest of the protocol, architecture and structure.
_Network = tuple[str, str, str]


def recommendations(rows: Iterable[Row]) -> Section | None:
    """Returns who comes first at each sparsity; None where there is nobody.

    Args:
        rows: of one protocol, of any tiers.
    """
    cells: dict[_Network, dict[float, _Samples]] = {}
    parents: dict[tuple[str, ...], Row] = {}
    flagged: dict[tuple[_Network, float], list[Row]] = {}
    counted, apart = standing(rows)
    for row in counted:
        at = bucket(sparsity_of(row))
        if row["method"] == DENSE:
            parents.setdefault(_parent_of(row), row)
        elif at in LEVELS and not _sanity(row):
            samples = cells.setdefault(_network(row), {}).setdefault(at, {})
            samples.setdefault(sample_of(row), []).append(row)
    for row in apart:
        at = bucket(sparsity_of(row))
        if row["method"] != DENSE and at in LEVELS and not _sanity(row):
            flagged.setdefault((_network(row), at), []).append(row)
    found = sorted(cells.items(), key=lambda one: (-_size(one[1]), one[0]))
    findings = [
        _finding(samples, at, parents, flagged.get((network, at), []))
        for network, levels in found[:MOST_NETWORKS]
        for at, samples in sorted(levels.items())
    ]
    if not findings:
        return None
    more = len(found) - MOST_NETWORKS
    return Section(
        key="advice",
        title="What to use at 90, 95 and 99 %",
        lead=(
            "First are, of all trainings at a sparsity, the most accurate network and all that "
            "exact McNemar tests (Holm-corrected over the cell, 0.05) cannot tell from it; where "
            "all of these were evaluated on more examples, they are compared once more there. "
            "Hours are of pruning and finetuning, and of all training for methods that start "
            "untrained, as the manifest keeps them. What is kept compares with the dense network "
            "of the same training and seed."
        ),
        findings=tuple(findings),
        left_out=f"{more} smaller combinations of network and structure." if more > 0 else "",
    )


def _sanity(row: Row) -> bool:
    return name(row, "method").startswith(SANITY)


def _network(row: Row) -> _Network:
    return str(row.get("protocol_digest")), name(row, "architecture"), name(row, "structure")


def _size(levels: Mapping[float, _Samples]) -> int:
    return sum(len(rows) for samples in levels.values() for rows in samples.values())


def _parent_of(row: Row) -> tuple[str, ...]:
    columns = ("protocol_digest", "data_digest", "tier", "architecture", "recipe", "objective")
    return (*(str(row.get(column)) for column in columns), str(row.get("seed")))


def _finding(
    samples: _Samples, at: float, parents: Mapping[tuple[str, ...], Row], flagged: Sequence[Row]
) -> Finding:
    row = next(iter(samples.values()))[0]
    structure = name(row, "structure")
    unit = "" if structure == UNSTRUCTURED else f" {structure}s"
    said: list[Sentence] = []
    for outcome in _WORDS:
        said += _first(samples, outcome, parents)
    said += _not_considered(samples, flagged)
    where = f"{level(at)}{unit}, {name(row, 'architecture')}"
    return Finding(key=where, title=where, sentences=tuple(said))


def _not_considered(samples: _Samples, flagged: Sequence[Row]) -> Iterable[Sentence]:
    """Yields which networks flags keep out, once where they are the same for every outcome."""
    found: dict[tuple[str, ...], tuple[list[str], list[Row]]] = {}
    for outcome, word in _WORDS.items():
        if chosen := _chosen(samples, outcome):
            rows = _kept_out(samples, chosen, flagged)
            ids = tuple(name(row, "checkpoint_id", 300) for row in rows)
            found.setdefault(ids, ([], rows))[0].append(word)
    for words, rows in found.values():
        if rows:
            about = f" for {listed(words)} accuracy" if len(found) > 1 else ""
            named = _cut(_with_seeds(samples, rows))
            text = f"Not considered{about}, since flags cost them their rank: {named}."
            yield sentence(text, rows)


def _kept_out(samples: _Samples, chosen: Examples, flagged: Iterable[Row]) -> list[Row]:
    """Returns flagged rows of networks that nothing stands for among the chosen examples.

    One that stands on other examples and was not flagged on these is no flag's loss: nobody
    evaluated it here.
    """
    here = set(map(_trained, samples[chosen]))
    anywhere = {_trained(row) for rows in samples.values() for row in rows}
    return [
        row
        for row in flagged
        if _trained(row) not in here and (_trained(row) not in anywhere or sample_of(row) == chosen)
    ]


def _with_seeds(samples: _Samples, gone: Sequence[Row]) -> list[str]:
    """Returns the settings of rows, with their seeds where other seeds of the setting stand."""
    absent = set(map(_trained, gone))
    stand = {_trained(row) for rows in samples.values() for row in rows} - absent
    partly = {setting for setting, _ in stand}
    seeds: dict[str, set[int]] = {}
    for setting, seed in absent:
        seeds.setdefault(setting, set()).add(seed)
    return [
        f"{seeds_in_words(sorted(seeds[setting]))} of {setting}" if setting in partly else setting
        for setting in _settings(gone)
    ]


def _trained(row: Row) -> tuple[str, int]:
    return _setting(row), seed_of(row)


def _chosen(samples: _Samples, outcome: str) -> Examples | None:
    """Returns the examples on which most networks have an outcome, of these the most."""
    every = {key: _having(rows, outcome) for key, rows in samples.items()}
    best = max(every, key=lambda key: _worth(every[key]), default=None)
    return best if best and every[best] else None


def _having(rows: Iterable[Row], outcome: str) -> list[Row]:
    return [row for row in rows if outcome in row["outcomes"]]


def _first(
    samples: _Samples, outcome: str, parents: Mapping[tuple[str, ...], Row]
) -> Iterable[Sentence]:
    """Yields who comes first by an outcome, what that costs and what it keeps."""
    chosen = _chosen(samples, outcome)
    if not chosen:
        return
    every = {key: _having(rows, outcome) for key, rows in samples.items()}
    rows = every[chosen]
    group = _group(rows, outcome)
    yield _placed(group, rows, outcome)
    ids = {name(row, "checkpoint_id", 300) for row in group}
    larger = [
        [row for row in others if name(row, "checkpoint_id", 300) in ids]
        for others in every.values()
        if others and _examples(others[0]) > _examples(rows[0])
    ]
    refined = max((r for r in larger if len(r) == len(ids)), key=_worth, default=[])
    if len(refined) > 1:
        group = _group(refined, outcome)
        yield _placed(group, refined, outcome)
    elif refined:
        group = refined
    if cheapest := _cheapest(group):
        yield cheapest
    best = group[0]
    if parent := parents.get(_parent_of(best)):
        kept = ratio_interval(*stacked((best, parent), outcome))
        if math.isfinite(kept.value):
            text = (
                f"{_setting(best)}, seed {name(best, 'seed', 20)}, keeps {share(kept)} of the "
                f"{_WORDS[outcome]} accuracy of its dense network."
            )
            yield sentence(text, (best, parent))


def _worth(rows: Sequence[Row]) -> tuple[int, int]:
    """Returns what a tier is chosen by: most rows, then most examples."""
    return len(rows), _examples(rows[0]) if rows else 0


def _examples(row: Row) -> int:
    return int(as_number(row["examples"]))


def _group(rows: Sequence[Row], outcome: str) -> list[Row]:
    """Returns the rows that cannot be told from the best, the best first."""
    outcomes = stacked(rows, outcome)
    right = outcomes.sum(axis=1)
    names = [name(row, "checkpoint_id", 300) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: (-right[place], names[place]))
    ps = holm([mcnemar_exact(outcomes[order[0]], outcomes[place]) for place in order[1:]])
    return [
        rows[order[0]],
        *(rows[n] for n, p in zip(order[1:], ps, strict=True) if p > SIGNIFICANCE),
    ]


def _placed(group: Sequence[Row], rows: Sequence[Row], outcome: str) -> Sentence:
    """Returns who comes first among rows."""
    best = group[0]
    counts = int(np.count_nonzero(stacked([best], outcome))), _examples(best)
    measured = Estimate(counts[0] / counts[1], *wilson(*counts))
    over = f"{counted(len(rows), 'network')} on {counts[1]:,} examples ({name(best, 'tier')})"
    head = f"Most {_WORDS[outcome]} of {over}: {_setting(best)}, seed {name(best, 'seed', 20)}, "
    if not counts[0]:
        return sentence(f"None of {over} has any {_WORDS[outcome]} accuracy.", group)
    if len(rows) == 1:
        where = f"{counts[1]:,} examples ({name(best, 'tier')})"
        text = (
            f"The only network with a rank and a {_WORDS[outcome]} accuracy on {where} is "
            f"{_setting(best)}, seed {name(best, 'seed', 20)}, at {share(measured)}."
        )
        return sentence(text, group)
    if len(group) == 1:
        text = f"{head}at {share(measured)}, better than every other."
        return sentence(text, group)
    every = Counter(map(_setting, rows))
    settings = _settings(group[1:]).items()
    named = [_members(setting, members, every[setting]) for setting, members in settings]
    text = f"{head}at {share(measured)}. Not told apart from it by the tests: {_cut(named)}."
    return sentence(text, group)


def _cut(named: Sequence[str]) -> str:
    """Returns names as a list, of many the first."""
    more = len(named) - MOST_NAMED
    rest = [counted(more, "more setting")] if more > 0 else []
    return listed([*named[:MOST_NAMED], *rest])


def _settings(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_setting(row), []).append(row)
    return found


def _setting(row: Row) -> str:
    sparsity = sparsity_of(row)
    off_grid = "" if sparsity == bucket(sparsity) else f", {level(sparsity)}"
    return f"{name(row, 'method')} ({name(row, 'objective')}, {name(row, 'recipe')}{off_grid})"


def _members(setting: str, members: Sequence[Row], every: int) -> str:
    """Returns a setting with how many of its seeds are meant, where there are several."""
    return setting if every == 1 else f"{setting}, {len(members)} of {counted(every, 'seed')}"


def _cheapest(group: Sequence[Row]) -> Sentence | None:
    """Returns which setting of a group takes the fewest hours; None where they do not compare."""
    if len(group) < 2:
        return None
    budgets = {setting: [budget_of(r) for r in rows] for setting, rows in _settings(group).items()}
    known = [one for each in budgets.values() for one in each]
    if not all(math.isfinite(hours) for _, hours, _ in known) or len(budgets) < 2:
        return None
    devices = {device for *_, device in known}
    if len(devices) > 1:
        text = (
            f"Which of these is the cheapest to train is not said: they were trained on "
            f"{counted(len(devices), 'kind')} of device."
        )
        return sentence(text, group)
    hours = {setting: fmean(spent for _, spent, _ in each) for setting, each in budgets.items()}
    # As printed: hours that read alike are alike.
    least = min(hours_in_words(one) for one in hours.values() if one == min(hours.values()))
    names = [setting for setting, one in hours.items() if hours_in_words(one) == least]
    tied = "the cheapest to train is" if len(names) == 1 else "the cheapest to train are, alike,"
    text = f"Of these {tied} {_cut(names)}, with {least}."
    return sentence(text, group)
