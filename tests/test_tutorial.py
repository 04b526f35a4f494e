"""The tutorial, command by command, as its reader types them; the package is really installed."""

import os
import re
import shutil
import site
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pandas as pd
import pytest
from fast import make_project

import benchmark

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
CELL = "digits/cnn-tiny/adversarial/unstructured"
LEVELS = (50, 90, 99)
CONTROLS = (
    f"dense/{CELL}-0/seed0",
    *(f"{name}/{CELL}-{level}/seed0" for name in ("random", "lwm-layerwise") for level in LEVELS),
)


def blocks(language: str) -> list[str]:
    """Returns the blocks of code of the tutorial in one language, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S)
    return [code for kind, code in found if kind == language]


def commands() -> list[str]:
    return [line for block in blocks("") for line in block.splitlines()]


def environment(folder: Path) -> dict[str, str]:
    """Makes `.venv` in a folder, with all that this one has, and returns what commands see there.

    Installing into the environment of the tests would show the method to all of them.
    """
    home = folder / ".venv"
    venv.create(home, with_pip=True, symlinks=True)
    python = home / "bin" / "python"
    [packages] = (home / "lib").glob("python*/site-packages")
    # An old setuptools of its own would hide the one that these packages are built with.
    for path in packages.glob("setuptools*"):
        shutil.rmtree(path)
    inherited = [str(ROOT), *site.getsitepackages()]
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in inherited)
    (packages / "inherited.pth").write_text(lines)
    script = home / "bin" / "robustprune"
    guard = "if __name__ == '__main__':\n    main()\n"
    script.write_text(f"#!{python}\nfrom benchmark.cli import main\n\n{guard}")
    script.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ROBUSTPRUNE", "PIP_"))}
    # No network: what the package needs is there. Its build needs nothing but setuptools.
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    return {**kept, **offline, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}


def idea(folder: Path) -> None:
    """Puts the function of the tutorial in the place of the one that was scaffolded."""
    [function] = blocks("python")
    file = folder / "first-idea" / "robustprune_first_idea" / "__init__.py"
    before, found, _ = file.read_text().partition("def scores_of(")
    assert found
    file.write_text(before + function)


@pytest.mark.slow(200)
def test_every_command_of_the_tutorial(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    make_project(clone, *CONTROLS)
    make_project(clone / "board", *CONTROLS)
    around = environment(clone)
    for command in commands():
        if command.startswith("robustprune check-method"):
            idea(clone)
        if "--root board accept" in command:
            # The board has records of its own, made where the submission was made.
            shutil.copytree(clone / "reports" / "results", clone / "board/reports/results")
            shutil.copytree(clone / "reports" / "evidence", clone / "board/reports/evidence")
            for path in (clone / "board" / "reports").rglob("first-idea*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        whole = f"source .venv/bin/activate\n{command}"
        done = subprocess.run(
            ["bash", "-ec", whole], cwd=clone, env=around, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if command.startswith("robustprune check-method"):
            assert "failed" not in done.stdout
        if command.startswith("robustprune --root board verify"):
            assert done.stdout.count("verified") >= len(CONTROLS) + len(LEVELS)
            assert "FAILED" not in done.stdout
    check_the_board(clone / "board")


def check_the_board(root: Path) -> None:
    table = benchmark.results(root=root)
    assert isinstance(table, pd.DataFrame)
    rows = table[table["method"] == "first-idea"]
    assert sorted(rows["measured_sparsity"].round(2)) == [0.5, 0.9, 0.99]
    assert rows["rank"].notna().all() and (rows["evidence_level"] == "re-checkable").all()
    assert not rows["narrow"].any() and not rows["incomplete"].any()
    page = (root / "reports" / "site" / "digits-linf" / "index.html").read_text()
    assert "First idea" in page
    assert "first-idea" not in sys.modules


def test_the_tutorial_shows_what_it_says() -> None:
    assert len(commands()) > 10
    assert all(line.startswith(("robustprune ", "pip ", "sed ", "source ")) for line in commands())
    compile(textwrap.dedent(blocks("python")[0]), "tutorial", "exec")
