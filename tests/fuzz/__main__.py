"""Reads many mutated files with every reader and prints what became of them: `make fuzz`."""

import argparse
import sys
import time
from pathlib import Path

import torch

from fuzz import cases
from fuzz.readers import READERS
from fuzz.running import Tally, apart

# Of the suite, rounded up to whole thousands a reader.
_TOTAL = 100_000

_COLUMNS = ("reader", "inputs", "accepted", "refused, by class", "failed", "slowest", "largest")


def main() -> int:
    """Returns 0 where every input was refused as it should be or made sound values."""
    asked = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    each = -(-_TOTAL // len(READERS) // 1000) * 1000
    asked.add_argument("--inputs", type=int, default=each, help="for each reader")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--keep", type=Path, help="folder for failing inputs, reduced")
    asked.add_argument("names", nargs="*", metavar="reader", help="these alone")
    said = asked.parse_args()
    torch.set_num_threads(1)
    chosen = [reader for reader in READERS if not said.names or reader.name in said.names]
    rows, failures, started = [], [], time.monotonic()
    for reader in chosen:
        tally = apart(reader, said.seed, said.inputs)
        rows.append(_row(reader.name, tally))
        print(
            f"{reader.name}: {tally.inputs} inputs, {tally.outcomes['FAILED']} failed", flush=True
        )
        for problem, numbers in tally.failures.items():
            failures.append(f"{reader.name}: {problem} (inputs {numbers})")
            if said.keep:
                cases.keep(said.keep, reader, said.seed, numbers[0])
    print(_table([_COLUMNS, *rows]))
    total = sum(int(row[1]) for row in rows)
    print(f"\n{total} inputs, seed {said.seed}, {time.monotonic() - started:.0f} s")
    print("".join(f"\n{line}" for line in failures))
    return 1 if failures else 0


def _row(name: str, tally: Tally) -> tuple[str, ...]:
    classes = sorted(tally.outcomes.keys() - {"accepted", "FAILED"})
    refused = ", ".join(f"{name} {tally.outcomes[name]}" for name in classes)
    numbers = (tally.inputs, tally.outcomes["accepted"], refused, tally.outcomes["FAILED"])
    return (name, *map(str, numbers), f"{tally.slowest:.2f} s", f"{tally.largest:.0f} MB")


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
