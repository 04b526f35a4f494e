"""What to use at 90, 95 and 99 %: who comes first by robust or certified accuracy, at what cost.

Over all trainings of a cell. First is the best and every row that exact McNemar tests with Holm's
correction cannot tell from it. Rows that a flag keeps off the ranking are nobody's advice.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from benchmark.findings.judging import budget_of, hours_in_words
from benchmark.findings.scope import UNSTRUCTURED
from benchmark.findings.values import (
    Finding,
    Section,
    Sentence,
    counted,
    level,
    listed,
    name,
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
    has_result,
    rankable,
    sparsity_of,
    stacked,
)
from benchmark.statistics import Estimate, holm, mcnemar_exact, ratio_interval, wilson

LEVELS = (0.9, 0.95, 0.99)

# So that a page stays a page: networks (architecture and structure), and settings that are named.
MOST_NETWORKS, MOST_NAMED = 8, 8

_WORDS = {"best_known": "robust", "certified": "certified"}

_Examples = tuple[str, str]
_Samples = dict[_Examples, list[Row]]
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
    for row in rows:
        network, at = _network(row), bucket(sparsity_of(row))
        if not has_result(row) or _sanity(row):
            continue
        if row["method"] == DENSE and rankable(row):
            parents.setdefault(_parent_of(row), row)
        elif at in LEVELS and not rankable(row):
            flagged.setdefault((network, at), []).append(row)
        elif at in LEVELS:
            sample = name(row, "tier"), str(row.get("data_digest"))
            cells.setdefault(network, {}).setdefault(at, {}).setdefault(sample, []).append(row)
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
    if flagged:
        settings = _settings(flagged)
        text = f"Not considered, since flags cost them their rank: {_cut(list(settings))}."
        said.append(sentence(text, flagged))
    where = f"{level(at)}{unit}, {name(row, 'architecture')}"
    return Finding(key=where, title=where, sentences=tuple(said))


def _first(
    samples: _Samples, outcome: str, parents: Mapping[tuple[str, ...], Row]
) -> Iterable[Sentence]:
    """Yields who comes first by an outcome, what that costs and what it keeps."""
    every = {key: [r for r in rows if outcome in r["outcomes"]] for key, rows in samples.items()}
    rows = max(every.values(), key=_worth, default=[])
    if not rows:
        return
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
    if len(group) == 1:
        text = f"{head}at {share(measured)}, better than every other."
        return sentence(text, group)
    settings = _settings(group[1:])
    named = [_members(setting, members, rows) for setting, members in settings.items()]
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


def _members(setting: str, members: Sequence[Row], rows: Sequence[Row]) -> str:
    """Returns a setting with how many of its seeds are meant, where there are several."""
    every = sum(_setting(row) == setting for row in rows)
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
