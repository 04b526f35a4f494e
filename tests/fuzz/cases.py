"""Inputs that a reader once failed on: made small, kept as files, read again by every test run."""

import base64
import json
import zlib
from pathlib import Path
from random import Random

from fuzz.judging import Reader, judge
from fuzz.mutants import Folder
from fuzz.running import made, scratch

CASES = Path(__file__).parent / "cases"

# Attempts to make one input smaller.
_ATTEMPTS = 400


def keep(folder: Path, reader: Reader, seed: int, number: int) -> None:
    """Stores an input, as small as it gets; one that kills its process, as it is."""
    seeds = reader.seeds()
    files = made(reader, seeds, seed, number)
    why = "kills its process"
    if not _kills(reader, files):
        files, why = reduced(reader, files)
    name = f"{reader.name.replace(' ', '-')}-{number}.json"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {"reader": reader.name, "why": why, "files": {p: _spelled(d) for p, d in files.items()}},
        indent=1,
    )
    (folder / name).write_text(f"{text}\n")


def load(path: Path) -> tuple[str, Folder]:
    """Returns the reader's name and the files of a case."""
    case = json.loads(path.read_text())
    return case["reader"], {place: _read(text) for place, text in case["files"].items()}


def _spelled(data: bytes) -> str | dict[str, str]:
    try:
        if len(data) < 4000 and data.decode().isprintable():
            return data.decode()
    except UnicodeDecodeError:
        pass
    return {"zlib": base64.b64encode(zlib.compress(data, 9)).decode()}


def _read(text: str | dict[str, str]) -> bytes:
    return (
        text.encode() if isinstance(text, str) else zlib.decompress(base64.b64decode(text["zlib"]))
    )


def _kills(reader: Reader, files: Folder) -> bool:
    import os

    if child := os.fork():
        return os.waitpid(child, 0)[1] != 0
    with scratch() as folder:
        judge(reader, files, Path(folder).resolve() / "input")
    os._exit(0)


def reduced(reader: Reader, files: Folder) -> tuple[Folder, str]:
    """Returns a smaller folder with the same problem, and the problem."""
    draw = Random(0)
    with scratch() as folder:
        place = Path(folder).resolve() / "input"

        def problem(of: Folder) -> str:
            return " ".join(judge(reader, of, place).problem.split(" ")[:4])

        wanted, best = problem(files), dict(files)
        for _ in range(_ATTEMPTS):
            path = (
                max(best, key=lambda p: len(best[p]))
                if draw.random() < 0.5
                else draw.choice(sorted(best))
            )
            data = best[path]
            size = draw.choice((len(data) // 2, len(data) // 4, len(data) // 16, 16, 4, 1))
            at = draw.randrange(len(data) + 1)
            smaller = {**best, path: data[:at] + data[at + size :]}
            attempts = [smaller]
            if reader.mend is not None:
                try:
                    attempts.append(dict(reader.mend(smaller)))
                except Exception:
                    pass
            best = next((dict(one) for one in attempts if size and problem(one) == wanted), best)
        return best, judge(reader, best, place).problem
