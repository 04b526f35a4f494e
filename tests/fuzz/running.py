"""Many inputs a reader, in processes of their own that may die of one.

A child reads its inputs in turn and says before each which it is about to read. Where it dies, or
says nothing for long, the parent counts that input as failed and goes on behind it with another.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from fuzz.judging import Reader, Verdict, judge
from fuzz.mutants import Folder, mutant

# A child that says nothing for so long is stuck in something that no signal of ours reaches.
_SILENT_SECONDS = 120.0
# On top of what a child holds when it starts: above what any reader may take, far below a machine.
_ADDRESS_SPACE = 3 << 30

# Of every failure of one kind so many are kept.
_KEPT = 3


@dataclass
class Tally:
    """What became of one reader's inputs.

    Attributes:
        inputs: how many there were.
        outcomes: how many were accepted, refused with each class, or failed.
        slowest: processor seconds of the slowest.
        largest: megabytes of the one that took most.
        failures: what each kind of failure says, and the numbers of the first such inputs.
    """

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: float = 0.0
    failures: dict[str, list[int]] = field(default_factory=dict)

    def add(self, number: int, verdict: Verdict) -> None:
        """Counts one input."""
        self.inputs += 1
        self.outcomes[verdict.outcome] += 1
        self.slowest = max(self.slowest, verdict.seconds)
        self.largest = max(self.largest, verdict.megabytes)
        if verdict.problem:
            kind = verdict.problem if len(self.failures) < 50 else "more"
            kept = self.failures.setdefault(kind[:100], [])
            kept += [number] if len(kept) < _KEPT else []


def made(reader: Reader, seeds: list[Folder], seed: int, number: int) -> Folder:
    """Returns input `number` of a reader; the same for the same seed, whatever else is read."""
    return mutant(seeds, reader.mend, Random(f"{seed}:{reader.name}:{number}"))


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Returns a folder for inputs, in memory where the system has such a place."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


def here(reader: Reader, seed: int, numbers: Iterable[int]) -> Tally:
    """Returns what became of a reader's inputs, read in this process."""
    tally, seeds = Tally(), reader.seeds()
    with scratch() as folder:
        place = Path(folder).resolve() / "input"
        warm(reader, seeds, place)
        for number in numbers:
            tally.add(number, judge(reader, made(reader, seeds, seed, number), place))
    return tally


def warm(reader: Reader, seeds: list[Folder], place: Path) -> None:
    """Reads what is sound, so that the first input is not charged for imports and tables."""
    for folder in seeds:
        judge(reader, folder, place)


def apart(reader: Reader, seed: int, count: int) -> Tally:
    """Returns what became of a reader's inputs, read in children with bounded memory."""
    tally, begun = Tally(), 0
    context = multiprocessing.get_context("fork")
    while begun < count:
        mine, its = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(its, reader, seed, range(begun, count)))
        child.start()
        its.close()
        last = _listen(mine, tally, begun)
        child.kill()
        child.join()
        if last < count:
            code = child.exitcode
            why = f"killed its process (exit code {code})" if code != -9 else "never came back"
            tally.add(last, Verdict("FAILED", why, _SILENT_SECONDS, 0.0))
        begun = last + 1
    return tally


def _listen(pipe: Connection, tally: Tally, begun: int) -> int:
    """Counts what a child says until it ends; returns the input that it fell silent at."""
    last = begun
    try:
        while pipe.poll(_SILENT_SECONDS):
            number, verdict = pipe.recv()
            if verdict is not None:
                tally.add(number, verdict)
                last = number + 1
    except EOFError:
        pass
    return last


def _child(pipe: Connection, reader: Reader, seed: int, numbers: range) -> None:
    # What a crash prints would stand in the table.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    seeds = reader.seeds()
    with scratch() as folder:
        place = Path(folder).resolve() / "input"
        warm(reader, seeds, place)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _ADDRESS_SPACE,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in numbers:
            pipe.send((number, judge(reader, made(reader, seeds, seed, number), place)))
    pipe.close()
