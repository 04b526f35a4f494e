"""A new method works as it is written: it keeps the contract, and nothing else has to change."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import handbook, scaffolding
from benchmark.errors import ContractError, StorageError
from benchmark.scaffolding import Wish, writing

ROOT = Path(__file__).parents[2]
LONGEST = Wish("a" * 32, "T" * 64, ("A" * 64,))


def run(*command: str, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )


@pytest.fixture
def clone(tmp_path):
    """The sources of this project, and nothing that was made of them."""
    for folder in ("benchmark", "methods", "tests", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "browser", "bench")
        shutil.copytree(ROOT / folder, tmp_path / "clone" / folder, ignore=ignored)
    for file in ("pyproject.toml", "checkpoints_manifest.json", "Makefile"):
        shutil.copy(ROOT / file, tmp_path / "clone")
    return tmp_path / "clone"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow(50)
def test_a_new_method_of_a_clone_needs_no_edit(clone):
    before = files(clone)
    made = run(
        "-m", "benchmark.cli", "new-method", "my-idea", "--author", "Ada", cwd=clone, path=clone
    )
    assert made.returncode == 0, made.stderr
    after = files(clone)
    own = {"methods/my_idea.py", "tests/unit/test_method_my_idea.py", "docs/methods/my-idea.md"}
    assert set(after) - set(before) == own
    assert {name for name in before if before[name] != after[name]} == {"docs/methods/README.md"}
    checked = run("-m", "benchmark.cli", "check-method", "my-idea", cwd=clone, path=clone)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # What was written at first is what running every combination finds.
    assert files(clone).keys() == after.keys()
    assert files(clone)["docs/methods/README.md"] == after["docs/methods/README.md"]
    for linter in (("check",), ("format", "--check")):
        assert run("-m", "ruff", *linter, ".", cwd=clone).returncode == 0
    suites = ["tests/unit/test_method_my_idea.py", "tests/test_layers.py", "tests/contract/"]
    tested = run(
        *("-m", "pytest", "-n", "0", "-k", "my_idea or my-idea or layers or page or table"),
        *(*suites, "tests/unit/test_handbook.py"),
        cwd=clone,
        path=clone,
    )
    assert tested.returncode == 0, tested.stdout


def test_a_new_package_keeps_the_contract_before_it_is_installed(tmp_path):
    folder = tmp_path / "package"
    made = scaffolding.write_package(folder, Wish("other-idea", "Other", ("Ada", "Bob")))
    assert {str(path.relative_to(folder)) for path in made} == set(files(folder))
    for linter in (("check",), ("format", "--check")):
        assert run("-m", "ruff", *linter, ".", cwd=folder).returncode == 0
    # Its own test examines it, in one more process.
    tested = run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert tested.returncode == 0, tested.stdout


@pytest.mark.parametrize("wish", [LONGEST, Wish("b2", "Ü & <b>", ("Ada", "B" * 64))])
def test_what_is_written_is_formatted_whatever_its_names(tmp_path, wish):
    scaffolding.write_package(tmp_path / "package", wish)
    for linter in (("check",), ("format", "--check")):
        linted = run("-m", "ruff", *linter, ".", cwd=tmp_path / "package")
        assert linted.returncode == 0, linted.stdout


@pytest.mark.slow
def test_what_is_written_has_types(tmp_path):
    made = scaffolding.write_package(tmp_path / "package", LONGEST)
    checked = run(
        *("-m", "mypy", "--strict", "--follow-imports=silent", "--config-file", os.devnull),
        *("--cache-dir", str(ROOT / ".mypy_cache"), str(made[0])),
        cwd=ROOT,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "My-Idea"}, "lower-case words"),
        ({"name": "../up"}, "lower-case words"),
        ({"name": "shuffled-x"}, "kept for controls"),
        ({"name": "3d"}, "Python module"),
        ({"name": "class"}, "Python module"),
        ({"name": "a" * 33}, "at most 32 letters"),
        ({"name": "hydra"}, "which is taken"),
        ({"name": "x", "title": 'a"b'}, "without quotes"),
        ({"name": "x", "title": "a\nb"}, "printable"),
        ({"name": "x", "title": "$name"}, "without quotes"),
        ({"name": "x", "authors": ("a" * 65,)}, "at most 64"),
    ],
)
def test_names_that_files_cannot_hold_are_refused(settings, message):
    with pytest.raises(ContractError, match=message):
        Wish(**settings)


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    for folder in ("methods", "tests/unit", "docs/methods"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(writing, "is_clone", lambda root: True)
    (tmp_path / "docs" / "methods" / "my-idea.md").write_text("mine")
    before = files(tmp_path)
    with pytest.raises(ContractError, match="got something there"):
        scaffolding.write_here(tmp_path, Wish("my-idea"))
    assert files(tmp_path) == before

    def full(*arguments):
        raise StorageError("disk full")

    monkeypatch.setattr(handbook, "write_one", full)
    with pytest.raises(StorageError, match="disk full"):
        scaffolding.write_here(tmp_path, Wish("my-other-idea"))
    assert files(tmp_path) == before
    with pytest.raises(ContractError, match="got something there"):
        scaffolding.write_package(tmp_path, Wish("my-idea"))
    assert files(tmp_path) == before
    assert not [path for path in tmp_path.rglob(".new-method-*")]


def test_only_the_clone_that_runs_gets_files(tmp_path):
    with pytest.raises(ContractError, match="--package FOLDER"):
        scaffolding.write_here(tmp_path, Wish("my-idea"))
    assert scaffolding.is_clone(ROOT)


def test_a_line_of_the_overview_finds_its_place():
    page = "# M\n\n| method |\n|---|\n| [`b`](b.md) |\n| [`d`](d.md) |\n\nrest\n"
    for name, neighbour in (("a", "|---|"), ("c", "| [`b`](b.md) |"), ("e", "| [`d`](d.md) |")):
        lines = handbook.with_row(page, name, f"| [`{name}`] new |").splitlines()
        assert lines[lines.index(f"| [`{name}`] new |") - 1] == neighbour
        assert len(lines) == len(page.splitlines()) + 1
    replaced = handbook.with_row(page, "d", "| [`d`] new |")
    assert replaced == page.replace("| [`d`](d.md) |", "| [`d`] new |")
