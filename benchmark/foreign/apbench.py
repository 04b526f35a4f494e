"""The published checkpoints that the 2024 benchmark of adversarial pruning links to.

The table lies in `data/apbench.json`; it was made by `tests/make_apbench.py` from the benchmark's
`taxonomy/models.py` and its leaderboard. Nothing in it was seen to be true of the files: they are
on Google Drive, and the importer checks each when it comes.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmark.errors import ManifestError, lookup
from benchmark.files import read_bounded
from benchmark.foreign.formats import FORMATS
from benchmark.pruning import STRUCTURES, Structure

FILE = Path(__file__).parents[1] / "data" / "apbench.json"
_LARGEST = 1 << 20
_DRIVE_ID = re.compile(r"[A-Za-z0-9_-]{20,60}")


@dataclass(frozen=True)
class Link:
    """One published checkpoint, as its source describes it.

    Attributes:
        key: in the benchmark.
        method: display name of the method.
        format: key of `FORMATS`.
        architecture: as the source names it.
        dataset: data set id.
        structure: what was removed as a unit; empty where the source does not say which.
        sparsity: claimed share of removed units.
        objective: training loss, as far as the source names one that is known here.
        clean_accuracy: reported share correct on 10,000 test images.
        paper: of the method.
        code: of the method.
        drive_id: of the file on Google Drive, the listed one first.
        extension: of the file.
    """

    key: str
    method: str
    format: str
    architecture: str
    dataset: str
    structure: Structure | None
    sparsity: float
    objective: str
    clean_accuracy: float
    paper: str
    code: str
    drive_id: tuple[str, ...]
    extension: str


@cache
def links() -> dict[str, Link]:
    """Returns all links by key.

    Raises:
        ManifestError: the table is damaged.
    """
    rows = json.loads(read_bounded(FILE, _LARGEST))["checkpoints"]
    found = {row["key"]: Link(**{**row, "drive_id": tuple(row["drive_id"])}) for row in rows}
    for link in found.values():
        known = link.format in FORMATS and link.structure in (*STRUCTURES, None)
        if not known or not all(_DRIVE_ID.fullmatch(one) for one in link.drive_id):
            raise ManifestError(
                f"expected a known format and an id of Google Drive for {link.key}; restore "
                f"{FILE.name}"
            )
    return found


def link(key: str) -> Link:
    """Returns a link by its key.

    Raises:
        UnknownName: no such key; near matches are named.
    """
    return lookup("checkpoint of apbench", key, links())
