"""From a checkpoint that others made to a row of the manifest."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark import downloads, weights
from benchmark.architectures import Classifier
from benchmark.datasets import example_list, load
from benchmark.digests import sha256_of_file
from benchmark.downloads import Expected, Rules
from benchmark.errors import DataUnavailable, DownloadFailed, ManifestError, lookup, shorten
from benchmark.files import read_bounded, write_atomically
from benchmark.foreign import Converted, Request, convert
from benchmark.foreign.apbench import Link
from benchmark.foreign.containers import LARGEST_FILE
from benchmark.foreign.drive import HOST, address_of, judge_of
from benchmark.manifest import Checkpoint
from benchmark.objectives import OBJECTIVES
from benchmark.pipeline.entering import Network, Said, claim_of, enter, entry_of
from benchmark.pipeline.project import Project, Watch

# A network of random weights is right on a tenth of the images of ten classes.
LEAST_ACCURACY = 0.5
IMAGES = 100
_LARGEST_MEMORY = 1 << 12


@dataclass(frozen=True)
class Imported:
    """A converted checkpoint.

    Attributes:
        entry: of the manifest.
        converted: what was recognised.
        accuracy: share correct of the first images of the data set's list; None if no data.
        weights: its file, encoded.
    """

    entry: Checkpoint
    converted: Converted
    accuracy: float | None
    weights: bytes


def prepare(
    project: Project, request: Request, said: Said, least: float = LEAST_ACCURACY
) -> Imported:
    """Returns what importing a file would add to a project; nothing is written.

    Args:
        project: where its data are.
        request: the file, and what it is said to be.
        said: what goes into the manifest.
        least: share of the data set's first images that the network must get right.

    Raises:
        ManifestError: see `convert`; or a network that is right no more often than `least`; or
            metadata that the manifest does not take.
        UnknownName: no such objective, format or architecture.
    """
    lookup("objective", said.objective, OBJECTIVES)
    converted = convert(request)
    accuracy = _accuracy(project, converted.model, request.dataset.name)
    if accuracy is not None and accuracy <= least:
        raise ManifestError(
            f"expected more than {100 * least:g} % of {IMAGES} images right, as of a trained "
            f"network, got {100 * accuracy:g} %; correct --format, --normalise or --dataset, or "
            "give --least-accuracy if its paper reports so little"
        )
    data = weights.encode(converted.model.state_dict())
    network = Network(converted.model, request.dataset.name, request.structure, data)
    claim = claim_of(converted.sparsity[request.structure], request.sparsity)
    entry = entry_of(network, said, claim)
    return Imported(entry, converted, accuracy, data)


@torch.no_grad()
def _accuracy(project: Project, model: Classifier, dataset: str) -> float | None:
    """Returns the share correct of the first images of the fixed list, or None without data."""
    try:
        split = load(dataset, "test", project.data_root)
    except DataUnavailable:
        return None
    order = example_list(dataset, split.labels)[:IMAGES]
    predicted = model(split.inputs(order)).argmax(dim=1)
    return float((predicted == split.labels[order]).float().mean())


def store(project: Project, imported: Imported) -> bool:
    """Enters an import into the project; returns whether anything was added; see `enter`."""
    return enter(project, imported.entry, imported.weights)


# --- Files that a table links to ------------------------------------------------------------------


def bring_link(
    project: Project, link: Link, watch: Watch, rules: Rules | None = None, host: str = HOST
) -> Path:
    """Returns a linked file: from the mirror, from the cache, or from Google Drive.

    What came first is remembered by its size and hash, so that a file that is changed later is
    noticed.

    Args:
        project: its mirror is looked at first; its cache keeps the file.
        link: which file.
        watch: told of progress.
        rules: what the download may do.
        host: of Google Drive's downloads.

    Raises:
        DownloadFailed: no source gave it; the message says of each why.
        ManifestError: a file of the mirror that differs from the remembered one.
        StorageError: the disk refuses.
    """
    folder = project.cache / "foreign"
    memory = folder / f"{link.key}.json"
    expected = _remembered(memory)
    mirrored = _mirrored(project.mirror, link, expected)
    if mirrored is not None:
        return mirrored
    target = folder / f"{link.key}{link.extension}"
    title = f"{link.key}: download"
    for drive_id in link.drive_id:
        request = downloads.Request(
            sources=(address_of(drive_id, host),),
            target=target,
            expected=expected,
            rules=rules or Rules(),
            judge=judge_of(drive_id, host),
        )
        try:
            downloads.fetch(request, lambda done, whole: watch(done, whole, title))
        except DownloadFailed:
            # Some keys have two files in the table; the next may still be there.
            if drive_id == link.drive_id[-1]:
                raise
        else:
            break
    found = {"bytes": target.stat().st_size, "sha256": sha256_of_file(target)}
    write_atomically(memory, json.dumps(found).encode())
    return target


def _remembered(memory: Path) -> Expected:
    """Returns what is known of a file that was brought before."""
    try:
        kept = json.loads(read_bounded(memory, _LARGEST_MEMORY))
        return Expected(LARGEST_FILE, bytes=int(kept["bytes"]), sha256=str(kept["sha256"]))
    except FileNotFoundError:
        return Expected(LARGEST_FILE)
    except (ValueError, KeyError, TypeError, ManifestError) as error:
        raise ManifestError(
            f"expected size and hash of a file brought before in {shorten(str(memory), 400)}, got "
            "something else; delete it"
        ) from error


def _mirrored(mirror: Path | None, link: Link, expected: Expected) -> Path | None:
    """Returns a linked file in a folder of files, if it has it."""
    if mirror is None:
        return None
    for name in (f"{link.key}{link.extension}", link.key):
        path = mirror / name
        if not path.is_file():
            continue
        if expected.sha256 and sha256_of_file(path) != expected.sha256:
            raise ManifestError(
                f"expected {shorten(str(path), 400)} as it was brought before, sha256 "
                f"{expected.sha256[:12]}…, got another file; restore the original"
            )
        return path
    return None
