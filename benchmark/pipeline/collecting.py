"""Brings together what several machines did of one campaign, each in a project of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import failures, records
from benchmark.digests import sha256_of_bytes
from benchmark.errors import BenchmarkError, ManifestError, RecordError, StorageError
from benchmark.files import inside, read_bounded, write_atomically
from benchmark.manifest import Checkpoint, check_claim, load_model, verified_weights, weights_file
from benchmark.outcomes import Outcomes
from benchmark.pipeline.campaigning import Network
from benchmark.pipeline.compressing import failures_of, finished, id_of
from benchmark.pipeline.entering import enter
from benchmark.pipeline.project import Project
from benchmark.protocols import Protocol
from benchmark.records import EvidenceFile, ResultRecord


@dataclass(frozen=True)
class Collected:
    """What came from another project.

    Attributes:
        checkpoints: ids that were added.
        records: ids of checkpoints whose records were added, or replaced by those of more examples.
        failures: ids of networks that could not be trained there, and are not here.
        refused: why something did not come along, a line each.
    """

    checkpoints: tuple[str, ...]
    records: tuple[str, ...]
    failures: tuple[str, ...]
    refused: tuple[str, ...]


def collect(
    project: Project, other: Project, chosen: Protocol, networks: Sequence[Network]
) -> Collected:
    """Takes over another project's checkpoints, records, evidence and failures of a campaign.

    What is here stays, but for records of fewer examples. It can be killed and called again.

    Args:
        project: takes them.
        other: has them; its files are checked as a stranger's would be.
        chosen: the campaign's protocol.
        networks: of the campaign.

    Raises:
        ManifestError: the other project's manifest breaks its format.
        StorageError: the disk refuses.
    """
    entered: list[str] = []
    taken: list[str] = []
    refused: list[str] = []
    for entry in finished(other, [network.order for network in networks]).values():
        try:
            if enter(project, entry, _weights(other, entry), renew=True):
                entered.append(entry.id)
            if _take_record(project, other, chosen, entry):
                taken.append(entry.id)
        except StorageError:
            raise
        except BenchmarkError as error:
            refused.append(f"{entry.id}: {error}")
    failed, lines = _take_failures(project, other, networks)
    return Collected(tuple(entered), tuple(taken), failed, (*refused, *lines))


def _take_failures(
    project: Project, other: Project, networks: Sequence[Network]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Takes over what could not be trained there and is not here; returns ids, and refusals."""
    made = finished(project, [network.order for network in networks])
    wanted = {id_of(network.order) for network in networks if network.order not in made}
    wanted -= {one.checkpoint_id for one in failures_of(project)}
    try:
        found = [one for one in failures_of(other) if one.checkpoint_id in wanted]
    except RecordError as error:
        return (), (f"failures: {error}",)
    for one in found:
        failures.write(project.failures, one)
    return tuple(one.checkpoint_id for one in found), ()


def _weights(other: Project, entry: Checkpoint) -> bytes:
    """Returns the file of a checkpoint's weights, once they keep what the entry claims."""
    check_claim(entry, load_model(entry, other.root))
    path = weights_file(entry, other.root) or inside(other.root, entry.file)
    return verified_weights(entry, path)


def _take_record(project: Project, other: Project, chosen: Protocol, entry: Checkpoint) -> bool:
    """Takes over the record of a checkpoint, if there is one that says more than the one here."""
    path = records.record_path(other.results, chosen.id, entry.id)
    if not path.exists():
        return False
    record, outcomes = _sound(path, entry, chosen)
    try:
        here, _ = _sound(records.record_path(project.results, chosen.id, entry.id), entry, chosen)
    except RecordError:
        pass  # none, or one that counts as none
    else:
        if here.examples >= record.examples:
            return False
    there = records.evidence_folder(other.evidence, chosen.id, entry.id)
    target = records.evidence_folder(project.evidence, chosen.id, entry.id)
    # The record comes last: with it, all that it names is there.
    for name, data in _evidence(there, record.evidence):
        write_atomically(target / name, data)
    records.write(project.results, record, outcomes)
    return True


def _sound(path: Path, entry: Checkpoint, chosen: Protocol) -> tuple[ResultRecord, Outcomes]:
    record, outcomes = records.read(path)
    if reason := records.stale(record, entry, chosen):
        raise RecordError(reason)
    return record, outcomes


def _evidence(folder: Path, files: Sequence[EvidenceFile]) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a record's evidence that are at hand; it may be kept elsewhere."""
    for file in files:
        try:
            data = read_bounded(folder / file.name, file.bytes)
        except FileNotFoundError:
            continue
        except (ManifestError, StorageError) as error:
            raise RecordError(f"expected {file.name} as its record names it: {error}") from error
        if sha256_of_bytes(data) != file.sha256:
            raise RecordError(
                f"expected {file.name} as its record names it, got another; evaluate again there"
            )
        yield file.name, data
