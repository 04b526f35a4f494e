"""The public Python interface, stable: what the README shows."""

import os
from dataclasses import fields
from pathlib import Path

import pandas as pd
from torch import nn

from benchmark import manifest, records
from benchmark.errors import ContractError, RecordError, lookup
from benchmark.flags import all_flags
from benchmark.outcomes import metrics
from benchmark.pipeline import Evaluation, Project, evaluate_all, evaluate_model
from benchmark.pipeline import results as frame_of
from benchmark.pipeline.bringing import bring
from benchmark.pipeline.comparing import Setting, tables
from benchmark.pipeline.comparing import compare as compare_names
from benchmark.pipeline.project import MANIFEST, find_root
from benchmark.protocols import Protocol
from benchmark.protocols import protocol as find_protocol
from benchmark.workers import Workers


def project(root: Path | str | None = None, workers: int = 1) -> Project:
    """Returns the project at a folder, or the nearest with a manifest from the current folder up.

    Data sets are looked for under the environment variable ROBUSTPRUNE_DATA, weights that are not
    shipped under ROBUSTPRUNE_MIRROR.
    """
    data, mirror = os.environ.get("ROBUSTPRUNE_DATA"), os.environ.get("ROBUSTPRUNE_MIRROR")
    folder = find_root(Path.cwd()) if root is None else Path(root)
    if root is None and not (folder / MANIFEST).is_file():
        # Called from elsewhere, an editable installation still knows its own checkout.
        folder = find_root(Path(__file__).resolve().parent)
    # One process: others would start by running the caller's script again.
    return Project(
        root=folder.resolve(),
        data_root=Path(data) if data else None,
        workers=Workers(workers),
        mirror=Path(mirror) if mirror else None,
    )


def load_model(checkpoint_id: str, *, root: Path | str | None = None) -> nn.Module:
    """Returns a checkpoint's network, in eval mode on the CPU: (N, C, H, W) in [0, 1] to (N, K).

    Args:
        checkpoint_id: as in the manifest; `robustprune list checkpoints` shows all.
        root: project folder; the nearest one by default.

    Raises:
        UnknownName: no such checkpoint; near matches are named.
        ManifestError: its file is missing, altered, or not what the manifest claims.
    """
    where = project(root)
    entry = where.manifest().find(checkpoint_id)
    bring(where, [entry])
    return manifest.load_model(entry, where.root)


def evaluate(
    model: nn.Module | str,
    protocol: str | Protocol,
    *,
    tier: str = "quick",
    root: Path | str | None = None,
    workers: int = 1,
) -> Evaluation:
    """Evaluates a network or a checkpoint under a protocol.

    Args:
        model: a network with inputs in [0, 1] and logits out, or a checkpoint id. A checkpoint's
            record is stored and reused; a bare network's is not stored.
        protocol: id or value.
        tier: quick, standard or full.
        root: project folder; the nearest one by default.
        workers: processes for a checkpoint's shards; above 1 the calling script needs the guard
            `if __name__ == "__main__"`.

    Returns:
        Outcomes, one row an example, and the accuracies computed from them.
    """
    where = project(root, workers)
    chosen = find_protocol(protocol) if isinstance(protocol, str) else protocol
    if not isinstance(model, str | nn.Module):
        raise ContractError(
            f"expected a checkpoint id or a torch.nn.Module, got {type(model).__name__}; wrap it"
        )
    if not isinstance(model, str):
        return evaluate_model(where, model, chosen, tier)
    entry = where.manifest().find(model)
    evaluate_all(where, [entry], chosen, tier)
    record, outcomes = records.read(records.record_path(where.results, chosen.id, entry.id))
    head = outcomes.head(chosen.examples(tier))
    flags = all_flags(records.stored_flags(record), head, chosen)
    return Evaluation(chosen, tier, metrics(head, chosen), head, flags, record.cost, record)


def results(*, outcomes: bool = False, root: Path | str | None = None) -> pd.DataFrame:
    """Returns the ranked frame of all records; `docs/records.md` lists its columns.

    Args:
        outcomes: keep the column of outcomes by example, which `benchmark.comparison` needs.
        root: project folder; the nearest one by default.

    Raises:
        RecordError: there is no record yet, or one that is damaged or stale.
    """
    where = project(root)
    table = frame_of(where)
    if table.empty:
        raise RecordError(
            f"expected records under {where.results}, found none; run `make leaderboard` first"
        )
    return table if outcomes else table.drop(columns="outcomes")


def compare(
    *names: str,
    protocol: str = "",
    tier: str = "",
    root: Path | str | None = None,
    **setting: str,
) -> dict[str, pd.DataFrame]:
    """Compares methods and checkpoints: each level, each curve, and each pair where they meet.

    Args:
        names: two or more. A checkpoint id stands for itself, a method's name (or the start of an
            id) for its curve over sparsities.
        protocol: id; the only one with records by default.
        tier: the largest that has most rows of each by default.
        root: project folder; the nearest one by default.
        setting: which curve of a method is meant: `objective`, `structure`, `architecture` or
            `recipe`.

    Returns:
        Tables `levels`, `curves` and `pairs`; `docs/records.md` lists their columns.

    Raises:
        UnknownName: no such name, protocol, tier or setting, or a name for several curves.
        ContractError: fewer than two names.
        RecordError: no record of a name, or one that is damaged or stale.
    """
    known = {field.name: field.name for field in fields(Setting)}
    chosen = Setting(**{lookup("setting", name, known): setting[name] for name in setting})
    return tables(compare_names(project(root), names, protocol, tier, chosen))
