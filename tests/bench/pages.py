"""Writes `docs/speed.md` from `docs/speed.json`, in which all measurements are kept.

Usage: python tests/bench/pages.py [BENCHMARK.json]

With the JSON file of `make bench` (pytest-benchmark), its medians are kept first.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
SUMMARY, PAGE = DOCS / "speed.json", DOCS / "speed.md"

INTRODUCTION = """\
# Speed

Every figure here was written by the command beside it, on the machine that it names; none is typed.
Ratios are of one run on one machine. `make bench` measures the second half of the page again.
"""


COMMANDS = """\
robustprune --root PROJECT --data-root DATA compress dense hydra --recipe mnist-short \\
    --sparsity 0,0.99
robustprune --root PROJECT --data-root DATA compress dense hydra --recipe mnist-certified \\
    --objective crown-ibp --sparsity 0,0.9
python tests/bench/autoattack.py PROJECT CHECKPOINT… --data-root DATA
"""


def taken_from(report: dict[str, Any]) -> dict[str, Any]:
    """Returns what is kept of a report of pytest-benchmark: seconds by group and name."""
    groups: dict[str, Any] = {}
    for one in report["benchmarks"]:
        stats = one["stats"]
        groups.setdefault(one["group"] or one["name"], {})[one["name"]] = {
            "median": stats["median"],
            "iqr": stats["iqr"],
            "rounds": stats["rounds"],
            "extra": one.get("extra_info", {}),
        }
    machine = report["machine_info"]
    return {
        "groups": groups,
        "machine": machine["cpu"].get("brand_raw") or machine["processor"] or "unknown",
        "python": machine["python_version"],
    }


def seconds(value: float) -> str:
    """Returns a time in a unit that suits it.

    >>> seconds(0.0123), seconds(12.3), seconds(4e-5)
    ('12.3 ms', '12.3 s', '40 µs')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def wrapped(text: str) -> str:
    """Returns a paragraph in lines of at most 100 characters."""
    return fill(text, 100, break_long_words=False, break_on_hyphens=False)


def attacks(found: dict[str, Any]) -> Iterator[str]:
    """Yields the section on AutoAttack."""
    yield "## AutoAttack, plain and exact\n"
    yield wrapped(
        "Plain is pyautoattack as its users call it: one process, the library's own number of "
        "threads, version standard, batches of 500. Exact is `robustprune evaluate`: bounds at all "
        "epsilons of the protocol, then the same attacks with the same settings on what is not "
        "proven, one process a core, their start included. Both decide on the network as published."
    )
    yield f"\n```\n{COMMANDS}```\n"
    yield (
        "| network | plain | exact | faster | proven | robust, plain / exact | apart | form |\n"
        "|---|---:|---:|---:|---:|---:|---:|---|"
    )
    for name, one in sorted(found.items()):
        plain, exact = one["plain"], one["exact"]
        yield (
            f"| {name.partition(' ')[2]} | {seconds(plain['seconds'])} | "
            f"{seconds(exact['seconds'])} | **{one['ratio']:.1f}×** | {one['proven']} of "
            f"{one['examples']} | {_standing(one)} | {one['apart']} | "
            f"{one['form'].lower()} |"
        )
    yield ""
    yield (
        "| network | forward passes, plain / exact | backward | of peak | bounds | attacks |\n"
        "|---|---:|---:|---:|---:|---:|"
    )
    for name, one in sorted(found.items()):
        plain, exact = one["plain"], one["exact"]
        yield (
            f"| {name.partition(' ')[2]} | {plain['forwards']:,} / {exact['forwards']:,} | "
            f"{plain['backwards']:,} / {exact['backwards']:,} | {100 * plain['share']:.1f} / "
            f"{100 * exact['share']:.1f} % | {seconds(one['bounds_seconds'])} | "
            f"{seconds(one['attack_seconds'])} |"
        )
    yield ""
    for name, one in sorted(found.items()):
        if fast := one["fast"]:
            times = one["plain"]["seconds"] / fast["seconds"]
            yield wrapped(
                f"Fast mode of {name.partition(' ')[2]}: {seconds(fast['seconds'])}, {times:.1f} "
                f"times as fast as plain, {fast['robust']} robust.\n"
            )
    one = next(iter(found.values()))
    yield wrapped(
        f"{one['device']}, {one['cores']} cores, torch {one['environment']['torch']}, "
        f"pyautoattack {one['environment']['pyautoattack']}. Apart are the examples that survive "
        "one and not the other; random draws differ. Passes are counted in examples. Of peak takes "
        "every pass for one of the published network with its zeros (two operations each) and "
        "divides by what a large product of matrices reaches on all cores. Seconds of bounds and "
        "attacks are summed over processes."
    )
    yield ""


def _standing(one: dict[str, Any]) -> str:
    """Returns how many examples survive plain and exact; of plain's own, where it saw fewer."""
    seen = "" if one["plain_examples"] == one["examples"] else f" of {one['plain_examples']}"
    return f"{one['plain']['robust']}{seen} / {one['exact']['robust']}"


def engines(found: dict[str, Any]) -> Iterator[str]:
    """Yields the section on both engines."""
    gap = found["gap"]
    yield "## The attacks against pyautoattack's\n"
    seeds = ",".join(map(str, found["seeds"]))
    yield (
        "```\npython tests/bench/engines.py --every N "
        f"--examples {found['examples']} --seeds {seeds}\n```\n"
    )
    seeds = ", ".join(map(str, found["seeds"]))
    yield wrapped(
        f"{found['checkpoints']} embedded checkpoints, {found['examples']} examples each, seeds "
        f"{seeds}, nobody spared: our attacks leave {gap['mean']:+.2f} examples more standing than "
        f"the package in the mean over checkpoints, between {gap['least']:+.1f} and "
        f"{gap['most']:+.1f}. On {found['between_engines']:.1f} examples the engines differ, on "
        f"{found['between_seeds']:.1f} two seeds of one engine."
    )
    yield ""


def benches(found: dict[str, Any]) -> Iterator[str]:
    """Yields the section on what `make bench` measures."""
    yield "## `make bench`\n"
    yield wrapped(f"{found['machine']}, Python {found['python']}. Times are against the slowest.")
    for group, names in sorted(found["groups"].items()):
        slowest = max(one["median"] for one in names.values())
        # Benchmarks of different networks say themselves what they are to be compared with.
        own = any(" over " in key for one in names.values() for key in one["extra"])
        yield f"\n### {group}\n"
        if all("peak_mb" in one["extra"] for one in names.values()):
            yield from _steps(names)
            continue
        yield "| | median | spread (IQR) | rounds | |\n|---|---:|---:|---:|---|"
        for name, one in names.items():
            plain = {
                key: value for key, value in one["extra"].items() if not isinstance(value, dict)
            }
            extra = ", ".join(f"{key} {value}" for key, value in plain.items())
            times = f"{slowest / one['median']:.2f}×" if len(names) > 1 and not own else ""
            spent = f"{seconds(one['median'])} | {seconds(one['iqr'])} | {one['rounds']}"
            yield f"| `{name}` | {spent} | {times} {extra} |"
    yield ""


def _steps(names: dict[str, Any]) -> Iterator[str]:
    """Yields the table of steps that ran in processes of their own, whose start does not count."""
    records = {one["extra"]["records"] for one in names.values()}
    yield f"A project of {max(records):,} records; each step in a process of its own.\n"
    yield "| | wall clock | CPU | most memory of a process | of a copy |\n|---|---:|---:|---:|---:|"
    for name, one in sorted(names.items(), key=lambda pair: pair[1]["extra"]["seconds"]):
        found = one["extra"]
        yield (
            f"| {name.partition('[')[2].rstrip(']')} | {seconds(found['seconds'])} | "
            f"{seconds(found['cpu_seconds'])} | {found['peak_mb']:,} MB | "
            f"{found['peak_mb_of_a_copy']:,} MB |"
        )


def main() -> None:
    """Keeps what is given, and writes the page."""
    kept = SUMMARY.read_text() if SUMMARY.is_file() else "{}"
    if len(sys.argv) > 1:
        summary = json.loads(kept)
        summary["bench"] = taken_from(json.loads(Path(sys.argv[1]).read_text()))
        kept = json.dumps(summary, indent=1, sort_keys=True) + "\n"
        SUMMARY.write_text(kept)
    # Read as it is kept, so that the page is the same whenever it is written.
    summary = json.loads(kept)
    sections = {"autoattack": attacks, "engines": engines, "bench": benches}
    lines = [INTRODUCTION]
    for name, written in sections.items():
        if name in summary:
            lines += written(summary[name])
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
