"""Where submitted rows stand: each against every rankable row of its cell, by paired tests."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark import leaderboard, records
from benchmark.comparison import adjusted, head_to_head, winner
from benchmark.digests import digest_of
from benchmark.leaderboard import Row, as_number, best_known, rankable
from benchmark.manifest import Checkpoint, Manifest
from benchmark.report.markdown import code, table
from benchmark.report.remarks import flags, rank_in_words, rank_range, unrankable
from benchmark.report.wording import percent, points, text
from benchmark.statistics import Estimate

# Of an entry, what may differ between two projects that hold the same checkpoint.
_PLACES = {"file", "url", "mirrors"}


@dataclass(frozen=True)
class Contest:
    """A submitted row against another one of its cell.

    Attributes:
        other: its checkpoint id.
        theirs: its best known accuracy.
        only_ours: examples that the submitted row alone gets right.
        only_theirs: examples that the other alone gets right.
        difference: of best known accuracy, with its 95 % interval.
        p: of the exact McNemar test, after Holm's correction for all contests of the cell.
        verdict: what follows for the submitted row.
    """

    other: str
    theirs: float
    only_ours: int
    only_theirs: int
    difference: Estimate
    p: float
    verdict: Literal["better", "worse", "not separable"]


@dataclass(frozen=True)
class Standing:
    """A submitted row.

    Attributes:
        checkpoint: id.
        protocol: id.
        tier: of its record.
        examples: their number.
        certified: accuracy.
        attacked: best known accuracy.
        rank: as printed.
        rank_range: its 95 % interval, empty where there is none.
        unrankable: why it has no rank, in words; empty where it has one.
        flags: in words.
        missing_controls: names, comma-separated.
        narrow: why it is narrow; empty where it is not.
        contests: with each other rankable row of its cell, the most accurate first.
    """

    checkpoint: str
    protocol: str
    tier: str
    examples: int
    certified: float
    attacked: float
    rank: str
    rank_range: str
    unrankable: str
    flags: tuple[str, ...]
    missing_controls: str
    narrow: str
    contests: tuple[Contest, ...]

    def count(self, verdict: str) -> int:
        """Returns how many contests ended so."""
        return sum(contest.verdict == verdict for contest in self.contests)


def rows_under(
    protocol: str,
    folder: Path,
    manifest: Manifest,
    challenges: Path | None = None,
    without: Collection[str] = (),
) -> list[records.Row]:
    """Returns the records under a protocol.

    Args:
        protocol: id.
        folder: of all records.
        manifest: of their checkpoints.
        challenges: folder of all challenges; None to do without.
        without: ids of checkpoints that are left out.

    Raises:
        RecordError: a record is damaged, stale or in another's place.
        InvariantViolation: outcomes that contradict each other.
    """
    skipped = {records.record_path(folder, protocol, name) for name in without}
    files = [path for path in sorted((folder / protocol).glob("*.json")) if path not in skipped]
    return list(records.load(files, folder, manifest, challenges))


def board_digest(rows: Iterable[records.Row]) -> str:
    """Returns the digest of all that a comparison takes from a board."""
    return digest_of(
        sorted(
            [
                row.checkpoint.id,
                entry_digest(row.checkpoint),
                row.record.content_digest,
                [challenge.content_digest for challenge in row.challenges],
            ]
            for row in rows
        )
    )


def entry_digest(entry: Checkpoint) -> str:
    """Returns the digest of what an entry says but for where its file is."""
    return digest_of(entry.model_dump(mode="json", exclude=_PLACES))


def standings(
    board: Sequence[records.Row], submitted: Sequence[records.Row]
) -> tuple[Standing, ...]:
    """Returns where each submitted row stands at the tier of its record, in the board's order.

    Args:
        board: other rows under the same protocol.
        submitted: rows under one protocol.
    """
    tiers = {row.checkpoint.id: row.record.tier for row in submitted}
    every = records.frame([*board, *submitted])
    ranked = leaderboard.rank(every[every["tier"].isin(set(tiers.values()))])
    lines: Sequence[Row] = ranked.to_dict("records")
    ours = [line for line in lines if tiers.get(str(line["checkpoint_id"])) == line["tier"]]
    cells: dict[str, list[Row]] = {}
    for line in lines:
        if rankable(line):
            cells.setdefault(str(line["cell"]), []).append(line)
    met: dict[str, tuple[Contest, ...]] = {}
    for cell in dict.fromkeys(str(line["cell"]) for line in ours):
        here = [line for line in ours if line["cell"] == cell and rankable(line)]
        met |= _contests(here, cells.get(cell, []))
    return tuple(_standing(line, met.get(str(line["checkpoint_id"]), ())) for line in ours)


def _contests(ours: Sequence[Row], members: Sequence[Row]) -> dict[str, tuple[Contest, ...]]:
    """Returns the contests of the submitted rows of a cell, by checkpoint."""
    names = [str(line["checkpoint_id"]) for line in ours]
    fought = []
    for place, line in enumerate(ours):
        # Two submitted rows meet once, and the test counts once.
        before = set(names[: place + 1])
        fought += [(line, other) for other in members if other["checkpoint_id"] not in before]
    duels = [head_to_head(line, other) for line, other in fought]
    found: dict[str, list[Contest]] = {name: [] for name in names}
    for (line, other), duel, p in zip(fought, duels, adjusted(duels), strict=True):
        for us, them, seen in ((line, other, duel), (other, line, duel.mirrored())):
            if (name := str(us["checkpoint_id"])) in found:
                won = winner(seen, p)
                found[name].append(
                    Contest(
                        other=str(them["checkpoint_id"]),
                        theirs=best_known(them),
                        only_ours=seen.only_first,
                        only_theirs=seen.only_second,
                        difference=seen.difference,
                        p=p,
                        verdict=_VERDICTS[won],
                    )
                )
    return {
        name: tuple(sorted(each, key=lambda one: (-one.theirs, one.other)))
        for name, each in found.items()
    }


_VERDICTS: Mapping[str, Literal["better", "worse", "not separable"]] = {
    "first": "better",
    "second": "worse",
    "": "not separable",
}


def _standing(line: Row, contests: tuple[Contest, ...]) -> Standing:
    return Standing(
        checkpoint=str(line["checkpoint_id"]),
        protocol=str(line["protocol"]),
        tier=str(line["tier"]),
        examples=int(line["examples"]),
        certified=as_number(line["certified_accuracy"]),
        attacked=best_known(line),
        rank=rank_in_words(line)[0],
        rank_range=rank_range(line),
        unrankable=unrankable(line),
        flags=tuple(flag.words for flag in flags(line)),
        missing_controls=text(line["missing_controls"]),
        narrow=text(line["narrow"], 300),
        contests=contests,
    )


# --- In words -------------------------------------------------------------------------------------

_HEAD = """\
Accuracies are in percent; "attacked" is what no attack and no accepted challenge broke. A row is
better or worse than another where the exact McNemar test says so at 5 %, after Holm's correction
for all comparisons of the cell.
"""


def comparison(name: str, boards: Mapping[str, str], found: Iterable[Standing]) -> str:
    """Returns the comparison as Markdown; equal boards and rows give equal text.

    Args:
        name: of the submission.
        boards: protocol → digest of the board that rows were compared with.
        found: where they stand.
    """
    parts = [f"# Comparison of {code(name)}\n", _HEAD]
    lines = list(found)
    for protocol, digest in sorted(boards.items()):
        own = [line for line in lines if line.protocol == protocol]
        parts.append(f"## {code(protocol)}\n\nBoard: digest {code(digest)}.\n")
        parts.append(summary(own) + "\n")
        parts += [_met(line) for line in own]
    return "\n".join(parts)


def summary(lines: Iterable[Standing]) -> str:
    """Returns a table of a row each."""
    heads = ("checkpoint", "tier", "#examples", "[certified, attacked]", "#rank", "#95 %")
    return table(
        (*heads, "#better than", "#worse than", "#not separable", "remarks"),
        [
            (
                code(line.checkpoint),
                code(line.tier),
                str(line.examples),
                f"[{percent(line.certified)}, {percent(line.attacked)}]",
                line.rank,
                line.rank_range,
                *(str(line.count(v)) for v in ("better", "worse", "not separable")),
                code(remarks(line)),
            )
            for line in lines
        ],
    )


def remarks(line: Standing) -> str:
    """Returns what must be said of a row beside its numbers, in one line."""
    said = [f"no rank: {line.unrankable}"] if line.unrankable else []
    said += [f"lacks controls: {line.missing_controls}"] if line.missing_controls else []
    said += [f"narrow: {line.narrow}"] if line.narrow else []
    said += [f"flags: {', '.join(line.flags)}"] if line.flags else []
    return "; ".join(said)


def _met(line: Standing) -> str:
    """Returns a table of the contests of a row."""
    if not line.contests:
        return f"{code(line.checkpoint)} meets no other row.\n"
    heads = ("against", "#attacked", "#only this", "#only the other", "#difference, points")
    rows = [
        (
            code(one.other),
            percent(one.theirs),
            str(one.only_ours),
            str(one.only_theirs),
            f"{points(one.difference.value)} [{points(one.difference.low)}, "
            f"{points(one.difference.high)}]",
            f"{one.p:.2g}",
            one.verdict,
        )
        for one in line.contests
    ]
    return f"{code(line.checkpoint)}:\n\n{table((*heads, '#p', 'this row is'), rows)}\n"
