"""A package whose entry point fails in any way breaks itself, and no command on anything else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fast import make_project

import methods
from benchmark.errors import ContractError

ROOT = Path(__file__).parents[2]
# Broken by the first attack, so that its evaluation is short.
BENIGN = "dense/digits/cnn-tiny/benign/unstructured-0/seed0"
GLOBAL = "lwm-global/digits/cnn-tiny/adversarial/unstructured-90/seed0"


def install(site: Path, package: str, entries: str, text: str | None = None) -> None:
    """Does what an installer does: metadata and a module on the path."""
    info = site / f"{package}-1.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n")
    (info / "entry_points.txt").write_text(f"[{methods.GROUP}]\n{entries}\n")
    if text is not None:
        (site / f"{package}.py").write_text(text)


# Bodies of a module that never gives its method.
BODIES = {
    "raises": "raise ValueError('torn')",
    "exits": "import sys; sys.exit(0)",
    "no exception": "class Odd(BaseException): pass\nraise Odd('odd')",
    "cancelled": "import asyncio; raise asyncio.CancelledError",
    "no words": "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    "prints": "print('noise ' * 100)\nraise ValueError('torn')",
    "recursion": "def f(): f()\nf()",
    "structures of no kind": (
        "from dataclasses import dataclass\nfrom methods.dense import Dense\n"
        "@dataclass(frozen=True)\nclass Thing(Dense):\n    structures = 3"
    ),
    "no text": (
        "from dataclasses import dataclass\nfrom methods import Info\nfrom methods.dense import "
        "Dense\n@dataclass(frozen=True)\nclass Thing(Dense):\n    info = Info(1, (), '', '', None)"
    ),
    "metaclass": (
        "class Meta(type):\n    @property\n    def structures(cls): raise KeyError('no')\n"
        "class Thing(metaclass=Meta): pass"
    ),
}


@pytest.mark.parametrize("text", BODIES.values(), ids=BODIES)
def test_a_package_that_fails_while_it_loads_is_told_in_one_line(
    tmp_path, monkeypatch, capsys, text
):
    methods.method("dense")  # what is forgotten afterwards does not load twice
    monkeypatch.setattr(methods, "_registered", dict(methods._registered))
    install(tmp_path, "broken_package", "broken-method = broken_package:Thing", text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ContractError, match="broken-method") as caught:
        methods.method("broken-method")
    sys.modules.pop("broken_package", None)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
    assert methods.method("dense").info.title == "Dense"


@pytest.mark.parametrize(
    "entries", [b"[robustprune.methods]\n\xff\xfe = x", b"[robustprune.methods]\nno value", b"]["]
)
def test_metadata_that_cannot_be_read_hide_nothing_else(tmp_path, monkeypatch, entries):
    install(tmp_path, "torn", "")
    (tmp_path / "torn-1.0.0.dist-info" / "entry_points.txt").write_bytes(entries)
    install(tmp_path, "whole", "whole-method = whole:Thing")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"dense", "whole-method"} <= set(methods.names())


@pytest.mark.slow(80)
@pytest.mark.parametrize("body", ["raises", "no exception"])
def test_no_command_breaks(tmp_path, body):
    install(
        tmp_path / "site", "broken_package", "broken-method = broken_package:Thing", BODIES[body]
    )
    project = make_project(tmp_path / "project", BENIGN, GLOBAL).root

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        paths = [str(tmp_path / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        return subprocess.run(
            [sys.executable, "-m", "benchmark.cli", "--root", str(project), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"},
        )

    listed = run("list")
    assert listed.returncode == 0
    assert "broken-method" in listed.stdout and "lwm-global" in listed.stdout
    assert run("compress", "lwm-global", "--sparsity", "0.9").returncode == 0
    if body != "raises":  # the other way to fail takes the same way through the rest
        return
    assert run("evaluate", BENIGN, "--protocol", "digits-linf", "--tier", "quick").returncode == 0
    reported = run("report")
    assert reported.returncode == 0, reported.stderr
    refused = run("compress", "broken-method")
    assert refused.returncode == 7 and len(refused.stderr.splitlines()) == 1
    assert run("check-method", "dense").returncode == 0
    assert run("check-method", "broken-method").returncode == 7
