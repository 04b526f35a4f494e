"""All that a project in git must keep, looked up without running a network: `oddities`.

Records of protocols that are evaluated anew on each machine are nobody's promise and left out.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmark import challenges, records, submissions
from benchmark.architectures import ARCHITECTURES
from benchmark.architectures.described import is_described
from benchmark.datasets import describe
from benchmark.digests import sha256_of_bytes
from benchmark.errors import BenchmarkError
from benchmark.manifest import Checkpoint, Manifest, encode, slug, weights_path
from benchmark.objectives import OBJECTIVES
from benchmark.outcomes import check_columns
from benchmark.pipeline import Project
from benchmark.pipeline.evaluating import parent_of
from benchmark.pipeline.receiving import harmful
from benchmark.protocols import PROTOCOLS
from benchmark.recipes import RECIPES
from benchmark.records import Row

# Git keeps every version of a file, and whoever clones takes all of them. Larger weights have
# addresses instead, larger evidence lies elsewhere.
LARGEST_SHIPPED = {"checkpoints": 2 << 20, "reports": 4 << 20}
ALL_SHIPPED = 64 << 20


@dataclass(frozen=True)
class Board:
    """A project, and the protocols whose records are not looked at."""

    project: Project
    remade: Collection[str] = ()

    @cached_property
    def manifest(self) -> Manifest:
        return self.project.manifest()

    @cached_property
    def stems(self) -> dict[str, Checkpoint]:
        return {slug(entry.id): entry for entry in self.manifest.checkpoints}

    @cached_property
    def paths(self) -> list[Path]:
        every = records.paths(self.project.results)
        return [path for path in every if path.parent.name not in self.remade]

    def rows(self) -> Iterator[Row]:
        yield from records.load(
            self.paths, self.project.results, self.manifest, self.project.challenges
        )

    def folders(self, kind: str) -> Iterator[Path]:
        """Yields the folders of protocols below a folder of reports."""
        for path in sorted((self.project.root / "reports" / kind).glob("*")):
            if path.is_dir() and path.name not in self.remade:
                yield path

    def shown(self, path: Path) -> str:
        return str(path.relative_to(self.project.root))


def oddities(board: Board) -> list[str]:
    """Returns what is not as it must be, a line each; empty where all is well."""
    found: list[str] = []
    for look in LOOKS:
        try:
            found += look(board)
        except BenchmarkError as error:
            found.append(str(error))
            if look is _manifest:  # the others would say it again
                break
    return found


def _manifest(board: Board) -> Iterator[str]:
    """In the one spelling, in order, every id, file and content once."""
    entries = board.manifest.checkpoints
    if board.project.manifest_path.read_bytes() != encode(board.manifest):
        yield "the manifest is not as it is written: order, spaces or spelling differ"
    if [entry.id for entry in entries] != sorted(entry.id for entry in entries):
        yield "the manifest is not in order of id"
    for what in ("file", "sha256"):
        for value, count in Counter(getattr(entry, what) for entry in entries).items():
            if count > 1:
                yield f"{what} {value} belongs to {count} checkpoints"


def _entries(board: Board) -> Iterator[str]:
    """Names that are known, texts for readers, a place of its own for each file."""
    for entry in board.manifest.checkpoints:
        # The weights of a described network hold its architecture; loading them checks the name.
        built = entry.architecture in ARCHITECTURES or is_described(entry.architecture)
        if not built or entry.objective not in OBJECTIVES:
            yield f"{entry.id}: unknown architecture or objective"
        describe(entry.dataset, None)
        if entry.recipe in RECIPES and RECIPES[entry.recipe].digest != entry.recipe_digest:
            yield f"{entry.id}: its recipe is another by now"
        if entry.file != weights_path(entry):
            yield f"{entry.id}: weights in {entry.file} instead of {weights_path(entry)}"
        texts = (entry.display_name, entry.paper, entry.code, entry.licence, entry.extra_data)
        for text in (*texts, *entry.authors):
            if reason := harmful(text):
                yield f"{entry.id}: {reason}"


def _weights(board: Board) -> Iterator[str]:
    """Shipped, and then to the last byte; or with an address."""
    for entry in board.manifest.checkpoints:
        path = board.project.root / entry.file
        if not path.is_file():
            if not entry.sources:
                yield f"{entry.id}: no weights and no address"
            continue
        data = path.read_bytes()
        if (len(data), sha256_of_bytes(data)) != (entry.bytes, entry.sha256):
            yield f"{entry.id}: other weights than the manifest says"


def _plain(board: Board) -> Iterator[str]:
    """Weights, records and evidence are files, each of somebody, none too large for git."""
    known = {entry.file for entry in board.manifest.checkpoints}
    total = 0
    for kind, limit in LARGEST_SHIPPED.items():
        for path in sorted((board.project.root / kind).rglob("*")):
            name = board.shown(path)
            if path.is_symlink():
                yield f"{name} is a link"
            elif path.is_file() and not _is_made(board, path):
                size = path.stat().st_size
                total += size
                if size > limit:
                    yield f"{name} has {size} bytes, too many for git"
                if kind == "checkpoints" and name not in known:
                    yield f"{name} belongs to no checkpoint"
    if total > ALL_SHIPPED:
        yield f"all data together have {total} bytes, too many for git"


def _is_made(board: Board, path: Path) -> bool:
    """Returns whether a file can be remade, and git ignores it."""
    kind, _, rest = board.shown(path).removeprefix("reports/").partition("/")
    return kind in ("site", "figures", "evidence") or rest.partition("/")[0] in board.remade


def _results(board: Board) -> Iterator[str]:
    """Folders of known protocols, in them records and outcomes in pairs, and nothing else."""
    for folder in board.folders("results"):
        names = {path.name for path in folder.iterdir()} - {".gitkeep"}
        if folder.name not in PROTOCOLS:
            yield f"{board.shown(folder)} is of no protocol"
        for name in sorted(names):
            stem, _, kind = name.rpartition(".")
            other = {"json": "npz", "npz": "json"}.get(kind)
            if other is None or f"{stem}.{other}" not in names or stem not in board.stems:
                yield f"{board.shown(folder)}/{name} is no half of a checkpoint's record"


def _records(board: Board) -> Iterator[str]:
    """Of the checkpoint and the protocol as they are now, unaltered, free of contradictions."""
    for row in board.rows():
        entry, chosen, record = row.checkpoint, row.protocol, row.record
        where = f"the record of {entry.id} under {chosen.id}"
        if entry.dataset != chosen.dataset:
            yield f"{where} is of another data set"
        if record.status != "done":
            yield f"{where} has status {record.status}"
        check_columns(row.outcomes, chosen)
        parent = parent_of(entry, board.manifest)
        if parent is not None and record.parent_sha256 != parent.sha256:
            yield f"{where} was made with another dense parent"
        spans = [(part.start, part.stop) for part in chosen.ranges(record.examples)]
        if [(file.start, file.stop) for file in record.evidence] != spans:
            yield f"{where} lacks evidence of a range"
        table = records.frame([row])
        # Without bounds nothing is said to be certified, and nothing compares with that.
        above = (table.certified_accuracy > table.robust_accuracy).any()
        if above or (table.robust_accuracy > table.clean_accuracy).any():
            yield f"{where} has accuracies out of order"


def _evidence(board: Board) -> Iterator[str]:
    """What is at hand is what a record names."""
    named = {}
    for path in board.paths:
        record, _ = records.read(path)
        folder = records.evidence_folder(
            board.project.evidence, record.protocol, record.checkpoint_id
        )
        named |= {folder / file.name: file for file in record.evidence}
    for folder in board.folders("evidence"):
        for path in sorted(folder.rglob("*")):
            if path.is_dir():
                continue
            file = named.get(path)
            if file is None:
                yield f"{board.shown(path)} is evidence of no record"
            elif sha256_of_bytes(path.read_bytes()) != file.sha256:
                yield f"{board.shown(path)} is not the evidence that its record names"


def _challenges(board: Board) -> Iterator[str]:
    """Each against a checkpoint of the manifest; those against its weights of today are counted."""
    for folder in board.folders("challenges"):
        for place in sorted(folder.iterdir()):
            entry = board.stems.get(place.name)
            if entry is None or folder.name not in PROTOCOLS:
                yield f"{board.shown(place)} is against no checkpoint"
                continue
            known = [path for _, path in challenges.read_all(folder.parent, folder.name, entry.id)]
            expected = {p.with_suffix(s).name for p in known for s in (".json", ".npz")}
            for name in sorted({path.name for path in place.iterdir()} ^ expected):
                yield f"{board.shown(place)}/{name} is no half of a challenge"


def _submissions(board: Board) -> Iterator[str]:
    """What was accepted is on the board as it was handed in."""
    for path in sorted((board.project.root / "reports" / "submissions").glob("*")):
        said = submissions.read(path)
        known = {entry.id: entry.sha256 for entry in board.manifest.checkpoints}
        for entry in said.checkpoints:
            if known.get(entry.id) != entry.sha256:
                yield f"{board.shown(path)}: {entry.id} is gone, or has other weights"


LOOKS: tuple[Callable[[Board], Iterator[str]], ...] = (
    _manifest,
    _entries,
    _weights,
    _plain,
    _results,
    _records,
    _evidence,
    _challenges,
    _submissions,
)
