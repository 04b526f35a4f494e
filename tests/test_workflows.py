"""The workflows: no secret and no right to write where anything of a pull request is looked at."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_layers import imports
from typer.main import get_command

from benchmark.cli import app

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in GITHUB.rglob("*.yml")}
RUN = {name: found for name, found in WORKFLOWS.items() if "jobs" in found}
OVER_WORKFLOWS = pytest.mark.parametrize("name", RUN)

# Whoever could change one of these could change what the workflow does.
FOREIGN = re.compile(
    r"\$\{\{[^}]*(github\.event|head_ref|github\.actor|inputs|steps\.|env\.)[^}]*\}\}"
)
# A part of the event that nobody but the repository's owners chooses.
HARMLESS = {"github.event.repository.default_branch"}


def triggers(workflow: dict[Any, Any]) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    found = workflow[True]
    return found if isinstance(found, dict) else dict.fromkeys(found)


def steps(workflow: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def test_all_are_here() -> None:
    assert set(RUN) == {"ci", "submission", "comment"}
    assert {p.name for p in (GITHUB / "ISSUE_TEMPLATE").iterdir()} == {
        *("config.yml", "bug.yml", "submission.yml", "wrong-row.yml")
    }
    assert (GITHUB / "PULL_REQUEST_TEMPLATE.md").is_file()


@OVER_WORKFLOWS
def test_nobody_runs_a_pull_request_with_rights(name: str) -> None:
    workflow = RUN[name]
    assert "pull_request_target" not in triggers(workflow)
    assert "secrets." not in (GITHUB / "workflows" / f"{name}.yml").read_text()
    for job in workflow["jobs"].values():
        assert "permissions" not in job  # those of the file hold
        assert job["timeout-minutes"] <= 120
    if "pull_request" in triggers(workflow):
        assert workflow["permissions"] == {"contents": "read"}


def test_who_may_write_takes_nothing_but_a_text() -> None:
    workflow = RUN["comment"]
    assert workflow["permissions"] == {
        **{"actions": "read", "contents": "read"},
        "pull-requests": "write",
    }
    assert list(triggers(workflow)) == ["workflow_run"]
    assert triggers(workflow)["workflow_run"]["workflows"] == [RUN["submission"]["name"]]
    checkout, post = steps(workflow)
    # What is run is the default branch's, with the standard library alone.
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"]["ref"] == "${{ github.event.repository.default_branch }}"
    assert post["run"] == "python3 .github/scripts/post_report.py"
    assert post["env"] == {"GITHUB_TOKEN": "${{ github.token }}"}
    for target, _ in imports(GITHUB / "scripts" / "post_report.py"):
        assert target.partition(".")[0] in sys.stdlib_module_names


@OVER_WORKFLOWS
def test_nothing_foreign_becomes_part_of_a_command(name: str) -> None:
    for step in steps(RUN[name]):
        assert "${{" not in step.get("run", "")
        for value in step.get("with", {}).values():
            for found in FOREIGN.finditer(str(value)):
                inside = found.group().strip("${} ").strip()
                assert inside in HARMLESS, inside
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])


def test_what_is_handed_in_is_data_to_the_program_of_the_base_branch() -> None:
    found = list(steps(RUN["submission"]))
    assert [step["uses"].partition("@")[0] for step in found if "uses" in step] == [
        *("actions/checkout", "actions/setup-python", "actions/upload-artifact")
    ]
    [checkout] = [step["with"] for step in found if "checkout" in step.get("uses", "")]
    # By default it is the merge, whose first parent is the tip of the base branch.
    assert checkout == {"path": "head", "fetch-depth": 2, "persist-credentials": False}
    [parents] = [step["run"] for step in found if "run" in step and "working-directory" not in step]
    assert parents.splitlines() == [
        f"git -C head worktree add --detach ../{name} HEAD^1" for name in ("board", "base")
    ]
    for step in found:
        if "working-directory" in step:
            assert step["working-directory"] == "board"
            words = shlex.split(step["run"])
            assert "../head" not in words or words[:3] == [
                *(".venv/bin/robustprune", "review", "../head")
            ]
    assert "cache" not in {word for step in found for word in step.get("with", {})}


def commands() -> Iterator[list[str]]:
    for workflow in RUN.values():
        for step in steps(workflow):
            for line in step.get("run", "").splitlines():
                words = shlex.split(line)
                if words and words[0].endswith("robustprune"):
                    yield words[1:]


def test_every_command_exists_with_its_options() -> None:
    known = get_command(app)
    seen = list(commands())
    assert [words[0] for words in seen] == ["run", "review"]
    for words in seen:
        command = known.commands[words[0]]  # type: ignore[attr-defined]
        parameters = [*command.params, *known.params]
        options = {option for parameter in parameters for option in parameter.opts}
        assert {word for word in words[1:] if word.startswith("--")} <= options


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for workflow in RUN.values():
        for step in steps(workflow):
            for target in re.findall(r"^make ([a-z-]+)", step.get("run", ""), re.M):
                assert target in targets


@pytest.mark.parametrize("name", ["bug", "submission", "wrong-row"])
def test_forms_ask_for_what_they_need(name: str) -> None:
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "title", "body"} <= set(form) | {"title"}
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert ids and len(ids) == len(set(ids))
    assert any(part.get("validations", {}).get("required") for part in form["body"])
