"""The boards that are shipped: whole, current, verified, and what their campaigns say."""

from pathlib import Path

import pytest
import torch

from benchmark import failures, records
from benchmark.campaigns import read_campaign
from benchmark.manifest import Checkpoint, is_whole, read_manifest
from benchmark.pipeline import Project
from benchmark.pipeline.campaigning import plan_campaign
from benchmark.pipeline.compressing import failures_of, finished
from benchmark.pipeline.verifying import verify_all
from benchmark.protocols import PROTOCOLS
from benchmark.workers import Workers

ROOT = Path(__file__).parents[1]
PROJECT = Project(ROOT, device="cpu", workers=Workers(1))
# The digits board is evaluated anew on each machine.
SHIPPED = [p for p in records.paths(PROJECT.results) if p.parent.name != "digits-linf"]
# How many records are verified here; `robustprune verify` does all of them.
SAMPLE = 4


@pytest.fixture(scope="module")
def entries() -> dict[str, Checkpoint]:
    return {e.id: e for e in read_manifest(PROJECT.manifest_path).checkpoints}


def test_records_speak_of_checkpoints_and_protocols_as_they_are(
    entries: dict[str, Checkpoint],
) -> None:
    for path in SHIPPED:
        record, outcomes = records.read(path)
        entry = entries[record.checkpoint_id]
        assert records.stale(record, entry, PROTOCOLS[record.protocol]) == "", path
        assert not records.broken_seals(record) and len(outcomes) == record.examples, path
        assert is_whole(entry, ROOT), path


@pytest.mark.parametrize("name", ["mnist", "cifar10-jpeg"])
def test_a_board_holds_what_its_campaign_says(name: str, entries: dict[str, Checkpoint]) -> None:
    plan = plan_campaign(read_campaign(ROOT / "campaigns" / f"{name}.toml"))
    there = finished(PROJECT, [network.order for network in plan.networks])
    found = {entry.id for entry in entries.values() if entry.dataset == name}
    assert {entry.id for entry in there.values()} == found


def test_failures_speak_of_networks_that_there_are_not() -> None:
    assert failures.read_all(PROJECT.failures) == failures_of(PROJECT)


def test_drawn_records_are_verified(data_root: Path) -> None:
    generator = torch.Generator().manual_seed(len(SHIPPED))
    drawn = torch.randperm(len(SHIPPED), generator=generator)[:SAMPLE]
    project = Project(ROOT, data_root, device="cpu", workers=Workers(1))
    paths = [SHIPPED[place] for place in drawn.tolist()]
    for one in verify_all(project, paths, share=0.02, seed=0, complete=False):
        assert one.findings == (), one.checkpoint
