"""The synthetic project of the benchmarks keeps every promise that real records keep."""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from synthetic import SINGLE, make  # noqa: E402

from benchmark import leaderboard, records  # noqa: E402
from benchmark.errors import RecordError  # noqa: E402
from benchmark.flags import all_flags  # noqa: E402
from benchmark.manifest import read_manifest  # noqa: E402
from benchmark.outcomes import attacked, metrics  # noqa: E402
from benchmark.pipeline import Project, report  # noqa: E402
from benchmark.workers import Workers  # noqa: E402


def test_the_same_seed_gives_the_same_files_that_load_and_rank(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(tmp_path / name, 14, SINGLE, seed=3)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("one", "two")
    )
    assert first == second
    project = Project(tmp_path / "one")
    rows = records.load_all(project.results, read_manifest(project.manifest_path))
    assert len(rows) == 14
    ranked = leaderboard.rank(records.frame(rows))
    assert ranked["rank"].notna().all()
    accuracies = ranked["certified_accuracy"], ranked["robust_accuracy"], ranked["clean_accuracy"]
    assert all(np.all(low <= high) for low, high in zip(accuracies, accuracies[1:], strict=False))


def test_packed_records_give_the_pages_of_whole_ones(tmp_path: Path, monkeypatch) -> None:
    """What several processes pack and send back is what one reads."""
    import benchmark.pipeline.reporting as module
    from benchmark.protocols import PROTOCOLS
    from benchmark.report import render

    make(tmp_path, 14, SINGLE)
    project = Project(tmp_path, workers=Workers(2))
    table = records.frame(records.load_all(project.results, project.manifest()))
    shown = {n: module.page(p) for n, p in PROTOCOLS.items()}
    known, refusal = module.method_pages(), module.refusals()
    render(table, tmp_path / "whole", shown, methods=known, refusal=refusal)
    monkeypatch.setattr(module, "_MANY", 1)
    monkeypatch.setattr(module, "_CHUNK", 4)
    report(project)
    whole, packed = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "whole", project.site)
    )
    assert whole == packed


def test_lines_of_many_records_are_those_of_each_by_itself(tmp_path: Path) -> None:
    """Stacked records and prefixes of tiers count what one record, cut to size, counts alone."""
    make(tmp_path, 14)
    project = Project(tmp_path)
    rows = records.load_all(project.results, project.manifest())
    together = records.lines(rows)
    for row, lines in zip(rows, together, strict=True):
        assert str(lines) == str(records.lines([row])[0])
        for line in lines:
            head = row.outcomes.head(row.protocol.examples(line["tier"]))
            found = metrics(head, row.protocol)
            assert (line["robust_accuracy"], line["clean_accuracy"]) == (found.robust, found.clean)
            flags = all_flags(records.stored_flags(row.record), head, row.protocol)
            assert line["flags"] == [asdict(flag) for flag in flags]
            robust = attacked(head, row.protocol, row.protocol.threat.epsilon)
            assert np.array_equal(line["outcomes"]["robust"], robust)


def test_the_first_record_in_order_that_is_wrong_is_named(tmp_path: Path) -> None:
    """Records are read many at a time; what is said of them is as if it were one by one."""
    make(tmp_path, 14)
    project = Project(tmp_path)
    files = records.paths(project.results)
    manifest = project.manifest()
    whole = [row.record for row in records.load(files, project.results, manifest)]
    for place in (9, 4):
        damaged = files[place].with_suffix(".npz")
        damaged.write_bytes(damaged.read_bytes() + b"x")
        seen = []
        with pytest.raises(RecordError) as caught:
            for row in records.load(files, project.results, manifest):
                seen.append(row.record)
        assert [record.checkpoint_id for record in seen] == [
            record.checkpoint_id for record in whole[:place]
        ]
        assert whole[place].outcomes_sha256[:12] in str(caught.value)
