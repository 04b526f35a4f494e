"""The command that tells what a machine has: doctor."""

import importlib.util
import os
from collections import Counter
from collections.abc import Callable
from typing import Annotated, NamedTuple

import typer

from benchmark.cli.base import app, how_to_fill, out, project_manifest, where
from benchmark.errors import BenchmarkError, ExtraMissing, ManifestError, shorten


class _Finding(NamedTuple):
    """A line of the diagnosis; `good` where the embedded board can do with it."""

    name: str
    words: str
    good: bool = True


@app.command()
def doctor(
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure what is fast on this machine, and keep it.")
    ] = False,
) -> None:
    """Tells versions, devices, what data are there, and how to get what is missing."""
    if tune:
        from benchmark.distributed import measured_tuning, store_tuning

        store_tuning(measured_tuning())
    findings = [*_machine(), *_packages(), *_project()]
    for finding in findings:
        out.print(f"{finding.name:14}{finding.words}", soft_wrap=True)
    out.print()
    found = _print_data()
    bad = [finding.name for finding in findings if not finding.good]
    bad += [] if found else [_EMBEDDED]
    if bad:
        raise ExtraMissing(
            f"expected all that the embedded board needs, got trouble with {', '.join(bad)}; "
            "mend what the lines above call broken"
        )


# The data set of the embedded board.
_EMBEDDED = "digits"


def _look(name: str, look: Callable[[], str]) -> _Finding:
    """Returns what a look finds; an error is a finding too."""
    try:
        return _Finding(name, look())
    except BenchmarkError as error:
        return _Finding(name, f"broken: {error}", good=False)


def _machine() -> list[_Finding]:
    import torch

    from benchmark.distributed import choose_device, environment

    device = _look("device", lambda: environment(choose_device(where.project.device))["device"])
    usable = choose_device(where.project.device if device.good else "cpu")
    versions = [_Finding(*pair) for pair in environment(usable).items() if pair[0] != "device"]
    return [
        *versions,
        device,
        _Finding("accelerators", str(torch.cuda.device_count())),
        _Finding("cores", str(os.cpu_count())),
        _look("tuning", _tuning),
    ]


def _tuning() -> str:
    from benchmark.distributed import tuning, tuning_path
    from benchmark.tuning import DEFAULT

    found = tuning()
    source = "default; --tune measures it" if found == DEFAULT else f"measured, {tuning_path()}"
    return f"a sparse multiply-add takes {found.sparse_cost:.2g} dense ones ({source})"


def _packages() -> list[_Finding]:
    from benchmark.bounds import engine_version

    return [_look("bounds", engine_version), _look("attacks", _attacks)]


def _attacks() -> str:
    if importlib.util.find_spec("pyautoattack") is None:
        raise ExtraMissing(
            "expected the package pyautoattack for attacks, found none; run pip install "
            "pyautoattack"
        )
    return "pyautoattack"


def _project() -> list[_Finding]:
    project = where.project
    manifest = _look("manifest", _count_checkpoints)
    return [
        _Finding("project", str(project.root)),
        manifest,
        *([_look("weights", _count_weights)] if manifest.good else []),
        _look("records", _count_records),
        _Finding("data root", str(project.data_root or "none (embedded data only)")),
    ]


def _count_checkpoints() -> str:
    entries = project_manifest().checkpoints
    if not any(entry.dataset == _EMBEDDED for entry in entries):
        raise ManifestError(
            f"expected checkpoints for {_EMBEDDED}, found none; {how_to_fill(_EMBEDDED)}"
        )
    return f"{len(entries)} checkpoints"


def _count_weights() -> str:
    from benchmark.pipeline.bringing import lacking

    entries = project_manifest().checkpoints
    missing = lacking(where.project, entries)
    lost = [entry.id for entry in missing if not entry.sources]
    if lost:
        raise ManifestError(
            f"expected weights of {len(entries)} checkpoints, found none of {lost[0]}"
            f"{f' and {len(lost) - 1} more' if lost[1:] else ''}, which have no address; restore "
            "or remake them"
        )
    if missing:
        first = missing[0]
        return (
            f"{len(entries) - len(missing)} at hand; `robustprune fetch` brings {len(missing)} "
            f"more, {first.id} from {first.sources[0]}"
        )
    return f"{len(entries)} at hand"


def _count_records() -> str:
    found = Counter(path.parent.name for path in where.project.results.glob("*/*.json"))
    each = ", ".join(f"{shorten(name)} {count}" for name, count in sorted(found.items()))
    return f"{found.total()} ({each})" if found else "0"


def _print_data() -> bool:
    """Prints what there is of each data set; returns whether the embedded one is there."""
    from benchmark.datasets import DATASETS, status

    for name in DATASETS:
        found = status(name, where.project.data_root)
        state = "found" if found.found else "missing"
        out.print(f"{name:14}{state:9}{found.detail}", soft_wrap=True)
        if not found.found:
            out.print(f"    {found.how_to_get}", soft_wrap=True)
    return status(_EMBEDDED, where.project.data_root).found
