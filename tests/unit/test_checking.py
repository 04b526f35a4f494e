"""Each check has a method that it catches, and nothing of such a method reaches who examines it."""

import os
import re
import sys
import time
from pathlib import Path

import bad_methods
import pytest
import torch

import methods
from benchmark import contract
from benchmark.contract import CHECKS, Limits, Subject, ask, examined, source_of
from benchmark.contract.checking import OUTER
from benchmark.contract.examining import Facts
from benchmark.contract.sources import load
from benchmark.errors import ContractError, UnknownName

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "plugin_package"


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    """Forgets what a test registers, and the optimiser hooks that a bad method leaves."""
    from torch.optim import optimizer

    for name in methods.own_names():
        methods.method(name)  # a file loads once: what is forgotten would not come back
    monkeypatch.setattr(methods, "_registered", dict(methods._registered))
    kept = dict(optimizer._global_optimizer_post_hooks)
    yield
    optimizer._global_optimizer_post_hooks.clear()
    optimizer._global_optimizer_post_hooks.update(kept)
    sys.modules.pop("checked_bad_one", None)


def bad_subject(folder, **parts):
    file = bad_methods.write(folder, **parts)
    return Subject(load(source_of(str(file)), folder))


INSIDE = pytest.mark.parametrize(
    ("parts", "expected"), bad_methods.INSIDE.values(), ids=bad_methods.INSIDE
)


@INSIDE
def test_each_check_catches_a_broken_promise(tmp_path, monkeypatch, parts, expected):
    monkeypatch.setattr(contract.checks, "MEGABYTES", 50.0)
    check, message = expected
    answer = ask(bad_subject(tmp_path, **parts), check)
    assert answer.status == "failed"
    assert any(message in problem for problem in answer.problems), answer.problems
    assert all("\n" not in problem for problem in answer.problems)


def test_every_check_of_results_is_caught_at_work():
    # `dry run` and `resumes` have tests of their own.
    caught = {check for _, (check, _) in bad_methods.INSIDE.values()}
    caught |= {check for _, (check, _) in bad_methods.OUTSIDE.values()}
    assert caught | {"dry run", "resumes"} == set(CHECKS) | set(OUTER)


@pytest.mark.parametrize("check", [name for name in CHECKS if name != "processes"])
def test_a_method_without_fault_passes(tmp_path, check):
    answer = ask(bad_subject(tmp_path), check)
    assert answer.status == "ok", answer


def test_what_a_method_changed_is_put_back(tmp_path):
    before = torch.get_rng_state(), torch.get_num_threads(), dict(os.environ)
    for parts in ("seeds torch", "threads", "environment", "gradient mode", "dtype"):
        bad_subject(tmp_path, **bad_methods.INSIDE[parts][0]).facts(Subject("dense").sample[0])
        methods.forget("bad-one")
    assert torch.equal(before[0], torch.get_rng_state())
    assert (torch.get_num_threads(), dict(os.environ)) == before[1:]
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


FORGETS = """
import copy
state = copy.deepcopy(model)
task.fit(state, epochs=1)
extra = TRAINED.setdefault(1, 0)
TRAINED[1] += 1
model.load_state_dict(state.state_dict())
with torch.no_grad():
    next(model.parameters()).add_(0.01 * extra)
"""


def test_a_kill_shows_what_is_carried_outside_of_the_trained_module(tmp_path):
    subject = bad_subject(tmp_path, before="TRAINED = {}", begin=FORGETS)
    answer = ask(subject, "resumes")
    assert answer.status == "failed" and "other bits after kills" in answer.problems[0]


def test_a_dry_run_that_fails_says_so(tmp_path):
    begin = "if len(task.split) > 100: raise __import__('benchmark').errors.ContractError('many')"
    assert ask(bad_subject(tmp_path, begin=begin), "dry run").problems[0].endswith("many")


# --- from outside ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"), bad_methods.OUTSIDE.values(), ids=bad_methods.OUTSIDE
)
def test_no_method_takes_the_examination_with_it(tmp_path, parts, expected):
    file = bad_methods.write(tmp_path, **parts)
    check, message = expected
    limits = Limits(seconds=3.0) if "while True" in parts.get("begin", "") else Limits()
    start = time.monotonic()
    asked = [check] if check in CHECKS else ["returns"]
    report = examined(source_of(str(file)), limits, checks=asked)
    found = {one.check: one.answer for one in report.findings}
    assert found[check].status == "failed"
    assert any(message in problem for problem in found[check].problems), found[check]
    assert list(found) == ["loads", "finishes", *asked]
    assert time.monotonic() - start < 120
    assert "bad-one" not in methods.names()  # nothing was loaded here


def test_a_package_that_is_not_installed_is_examined():
    report = examined(source_of(str(PACKAGE)))
    assert report.name == "example-first-weights"
    assert [(one.check, one.answer.problems) for one in report.failed] == []
    assert [one.check for one in report.findings if one.answer.skipped] == []
    assert len(report.costs) == 7 and max(cost.seconds for cost in report.costs) < 30
    assert "robustprune_example" not in sys.modules


# --- what is examined -----------------------------------------------------------------------------


def test_a_source_is_a_name_a_file_or_a_folder(tmp_path):
    assert source_of("hydra:finetune=no").spelling == "hydra:finetune=no"
    assert source_of(str(ROOT / "methods" / "lwm_global.py")).spelling == "lwm-global"
    file = bad_methods.write(tmp_path)
    assert source_of(str(file)).file == str(file)
    assert source_of(str(PACKAGE)).entries == (
        ("example-first-weights", "robustprune_example:FirstWeights"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got none; `new-method"),
        ("[project]\nname = 3", "got none"),
        ("project = 3", "got none"),
        ("[project.entry-points]\n'robustprune.methods' = 3", "got none"),
        ("[project.entry-points.'robustprune.methods']\na = 'm:A'\nb = 'm:B'", "give --name"),
        ("[project.entry-points.'robustprune.methods']\na = \"m\\n[x]\"", "one line"),
        ("not TOML", "expected TOML"),
        ("a" * (1 << 21), "expected at most"),
        ("a = " + "[" * 100_000, "expected TOML"),
    ],
)
def test_folders_that_hold_no_method_are_refused(tmp_path, text, message):
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ContractError, match=re.escape(message)):
        source_of(str(tmp_path))


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="did you mean hydra"):
        source_of("hydro")
    with pytest.raises(ContractError, match="a package with"):
        source_of(str(tmp_path))
    with pytest.raises(ContractError, match="expected a Python file"):
        source_of(str(tmp_path / "nothing.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ContractError, match="to register one method, got none"):
        load(source_of(str(tmp_path / "empty.py")), tmp_path)


def test_facts_know_when_there_is_nothing_to_look_at():
    case = Subject("dense").sample[0]
    assert Facts(case).complete
    assert not Facts(case, error="torn").complete
    assert not Facts(case, breaches={"result": "x"}).complete


def test_the_page_has_the_table_of_the_checks():
    page = (ROOT / "docs" / "writing-a-method.md").read_text()
    # `benchmark.contract.table` makes it.
    assert page.endswith(f"\n{contract.table()}\n")
    for name in CHECKS:
        promise, advice = contract.explained(name)
        assert promise and advice and not {promise[-1], advice[-1]} & set(".;")
