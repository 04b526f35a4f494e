"""A small, fixed part of the fuzzing on every test run; `make fuzz` reads many more inputs."""

import mmap
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import RecordError
from fuzz import cases
from fuzz.judging import Reader, judge
from fuzz.readers import READERS
from fuzz.running import apart, here, made, warm

BY_NAME = {reader.name: reader for reader in READERS}
INPUTS = 200

each_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)


@each_reader
def test_sound_files_are_accepted(reader: Reader, tmp_path: Path) -> None:
    warm(reader, reader.seeds(), tmp_path / "input")
    verdicts = [judge(reader, folder, tmp_path / "input") for folder in reader.seeds()]
    assert not any(verdict.problem for verdict in verdicts)
    # Pickles are opened by their checksums alone; a cache may hold an archive in a picture's place.
    sound = {"pickled images": 0, "decoded images": 1}.get(reader.name, len(verdicts))
    assert sum(verdict.outcome == "accepted" for verdict in verdicts) == sound


@each_reader
def test_mutated_files_are_refused_with_a_typed_error_or_read_soundly(reader: Reader) -> None:
    tally = here(reader, seed=1, numbers=range(INPUTS))
    assert not tally.failures
    assert tally.inputs == INPUTS and len(tally.outcomes) > 0


@each_reader
def test_inputs_depend_on_their_number_alone(reader: Reader) -> None:
    seeds = reader.seeds()
    forwards = [made(reader, seeds, 5, number) for number in range(4)]
    assert [made(reader, seeds, 5, number) for number in reversed(range(4))] == forwards[::-1]
    assert made(reader, seeds, 6, 0) != forwards[0] or made(reader, seeds, 6, 1) != forwards[1]


@pytest.mark.parametrize("path", sorted(cases.CASES.glob("*.json")), ids=lambda path: path.stem)
def test_what_once_failed_fails_no_more(path: Path, tmp_path: Path) -> None:
    name, files = cases.load(path)
    warm(BY_NAME[name], BY_NAME[name].seeds(), tmp_path / "input")
    assert not judge(BY_NAME[name], files, tmp_path / "input").problem


# --- The harness itself: a reader that misbehaves is caught at it ---------------------------------


def reader_of(read: Any, **changes: Any) -> Reader:
    settings = {"again": lambda found, place: None, **changes}
    return Reader("faulty", lambda: [{"a.json": b'{"a": 1}'}], read, **settings)


def verdict_on(read: Any, tmp_path: Path, **changes: Any) -> str:
    return judge(reader_of(read, **changes), {"a.json": b"{}"}, tmp_path / "input").problem


def raises(error: BaseException) -> Any:
    def read(_: Path) -> None:
        raise error

    return read


def test_a_reader_that_keeps_every_rule_has_no_problem(tmp_path: Path) -> None:
    assert verdict_on(lambda p: (p / "a.json").read_bytes(), tmp_path) == ""
    assert verdict_on(raises(RecordError("expected a, got b; do c")), tmp_path) == ""


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (raises(KeyError("x")), "KeyError"),
        (raises(MemoryError()), "MemoryError"),
        (raises(RecursionError()), "RecursionError"),
        (raises(SystemExit(1)), "SystemExit"),
        (raises(RecordError("two\nlines")), "one line"),
        (raises(RecordError("\x1b[2J")), "one line"),
        (raises(RecordError("long" * 1000)), "4000 characters"),
        (lambda p: (p / "b").write_text("x"), "for writing"),
        (lambda p: (p.parent / "b").write_text("x"), "for writing"),
        (lambda p: (p / "a.json").unlink(), "os.remove"),
        (lambda p: Path(p.parent / "other").exists() or open("/etc/hostname").close(), "elsewhere"),
        (lambda p: __import__("os").system("true"), "os.system"),
        (lambda p: __import__("subprocess").run(["true"]), "subprocess"),
        (lambda p: __import__("pickle").loads(b"cposix\ngetpid\n."), "pickle.find_class"),
        (lambda p: exec(compile("1", "hostile", "exec")), "exec"),
        (lambda p: __import__("warnings").warn("odd", stacklevel=1), "warned 'odd'"),
        # Memory of its own: a large block may lie in what the process has kept of earlier tests.
        (lambda p: mmap.mmap(-1, 64 << 20).write(bytes(64 << 20)), " MB for 2 bytes"),
    ],
)
def test_a_reader_that_breaks_a_rule_is_caught(read: Any, problem: str, tmp_path: Path) -> None:
    assert problem in verdict_on(read, tmp_path, megabytes=30)


def test_a_slow_reader_is_caught_and_an_endless_one_stopped(tmp_path: Path) -> None:
    def slow(_: Path) -> None:
        while True:
            pass

    assert "Stuck" in verdict_on(slow, tmp_path, seconds=0.05)

    def busy(_: Path) -> None:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass

    # Longer than it may, and not yet so long that it is stopped.
    assert "took 0.2 s" in verdict_on(busy, tmp_path, seconds=0.1)


def test_a_value_that_does_not_come_back_is_caught(tmp_path: Path) -> None:
    def again(found: Any, place: Path) -> None:
        assert found == 2, "another value"

    assert "another value" in verdict_on(lambda p: 1, tmp_path, again=again)


def test_a_reader_that_ends_its_process_costs_one_input() -> None:
    def read(place: Path) -> None:
        data = (place / "a.json").read_bytes()
        if data == fatal["a.json"]:
            __import__("os").abort()

    reader = reader_of(read)
    fatal = made(reader, reader.seeds(), 0, 3)
    tally = apart(reader, seed=0, count=6)
    assert tally.inputs == 6
    assert tally.failures == {"killed its process (exit code -6)": [3]}


def test_a_case_is_kept_small_and_comes_back(tmp_path: Path) -> None:
    def read(place: Path) -> None:
        if b"b" in (place / "a.json").read_bytes():
            raise ValueError("b")

    reader = reader_of(read)
    files, problem = cases.reduced(reader, {"a.json": b"aaa" * 100 + b"b" + b"c" * 100})
    assert files == {"a.json": b"b"} and problem.startswith("ValueError")
    cases.keep(tmp_path, reader, 0, 0)
    [path] = tmp_path.iterdir()
    assert cases.load(path)[1].keys() == {"a.json"}
