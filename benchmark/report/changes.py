"""What changed since the last report in the same folder.

A report leaves the state of its boards behind. The next one compares, and keeps what it found for
as long as nothing changes again: reports of the same records write the same bytes.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from benchmark.errors import BenchmarkError
from benchmark.files import read_bounded
from benchmark.report.remarks import ranked
from benchmark.report.shares import Row, upper_end
from benchmark.report.views import ProtocolPage, checkpoint_path
from benchmark.report.wording import number, percent, text

STATE = "state.json"
LARGEST_STATE = 64 << 20

# Changes that are listed one by one.
MOST_LISTED = 1000

# What a page of a checkpoint is called; the state may come from anywhere.
_PAGE = re.compile(r"([a-z0-9-]{1,120}/[a-z0-9-]{1,120}\.html)?")

_NEW, _GONE, _INTERVAL, _RANK = "new", "gone", "interval", "rank"


@dataclass(frozen=True)
class Change:
    """A row that is not what it was.

    Attributes:
        board: protocol and tier.
        checkpoint: id.
        href: of its page; empty where it is gone.
        kind: `new`, `gone`, `interval` or `rank`.
        before: in words; empty for a new row.
        after: in words; empty for a row that is gone.
    """

    board: str
    checkpoint: str
    href: str
    kind: str
    before: str
    after: str


@dataclass(frozen=True)
class Changes:
    """What the page says.

    Attributes:
        first: whether no report was there before.
        rows: how many there are now.
        listed: the changes, by board.
        more: how many are not listed.
    """

    first: bool
    rows: int
    listed: tuple[Change, ...]
    more: int


def changes(
    site: Path, boards: Iterable[tuple[ProtocolPage, str, Sequence[Row]]]
) -> tuple[Changes, bytes]:
    """Returns what changed since the report that lies in a folder, and the state to leave there.

    Args:
        site: the folder.
        boards: (protocol, tier, rows) of each board.
    """
    now: dict[str, list[str]] = {}
    for page, tier, rows in boards:
        for row in rows:
            board = f"{page.title}, {tier}"
            key = f"{page.id}|{tier}|{text(row['checkpoint_id'], 300)}"
            now[key] = [board, _ends(row), _rank(row), checkpoint_path(row)]
    before, kept = _read(site / STATE)
    if before is None:
        listed: list[Change] = []
    elif before == now:
        listed = kept
    else:
        listed = list(_compared(before, now))
    first = before is None or (before == now and not kept)
    state = {"rows": now, "changes": [vars(change) for change in listed]}
    data = json.dumps(state, ensure_ascii=True, indent=0, sort_keys=True) + "\n"
    found = Changes(first, len(now), tuple(listed[:MOST_LISTED]), max(0, len(listed) - MOST_LISTED))
    return found, data.encode()


def _ends(row: Row) -> str:
    if not math.isfinite(number(row["robust_accuracy"])):
        return "no result"
    return f"[{percent(number(row.get('certified_accuracy')))}, {percent(upper_end(row))}]"


def _rank(row: Row) -> str:
    if not ranked(row):
        return "no rank"
    return f"{'=' if row['tied_with_best'] else ''}{int(row['rank'])}"


def _compared(before: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> Iterable[Change]:
    """Yields what differs, by board: intervals, then ranks alone, then what came and went."""
    for key in sorted(before.keys() | now.keys()):
        name = key.split("|", 2)[2]
        old, new = before.get(key), now.get(key)
        if old is None and new is not None:
            yield Change(new[0], name, new[3], _NEW, "", f"{new[1]}, rank {new[2]}")
        elif new is None and old is not None:
            yield Change(old[0], name, "", _GONE, f"{old[1]}, rank {old[2]}", "")
        elif old is not None and new is not None and old[1] != new[1]:
            yield Change(new[0], name, new[3], _INTERVAL, old[1], new[1])
        elif old is not None and new is not None and old[2] != new[2]:
            yield Change(new[0], name, new[3], _RANK, f"rank {old[2]}", f"rank {new[2]}")


def _read(path: Path) -> tuple[dict[str, list[str]] | None, list[Change]]:
    """Returns rows and changes of an earlier state; None for a folder without a readable one."""
    try:
        # Bounds its depth by itself, and refuses text that no page can hold.
        state: Any = from_json(read_bounded(path, LARGEST_STATE), allow_inf_nan=False)
        rows = {str(k): [str(part) for part in v] for k, v in state["rows"].items()}
        whole = all(len(parts) == 4 and key.count("|") >= 2 for key, parts in rows.items())
        listed = [Change(**{str(k): str(v) for k, v in one.items()}) for one in state["changes"]]
        whole = whole and all(_PAGE.fullmatch(change.href) for change in listed)
    except (FileNotFoundError, BenchmarkError, ValueError, KeyError, TypeError, AttributeError):
        return None, []
    return (rows, listed) if whole else (None, [])
