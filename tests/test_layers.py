"""The import arrows of docs/architecture.md: a module imports only from rows above its own."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Rows from low to high. A module imports from lower rows and within its own package alone.
ROWS: tuple[tuple[str, ...], ...] = (
    ("benchmark.errors",),
    (
        "benchmark.digests",
        "benchmark.files",
        "benchmark.forks",
        "benchmark.tuning",
        "benchmark.workers",
    ),
    ("benchmark.bundles", "benchmark.downloads", "benchmark.migrations"),
    ("benchmark.threat", "benchmark.datasets", "benchmark.architectures"),
    ("benchmark.pruning", "benchmark.weights", "benchmark.relaxations"),
    (
        "benchmark.attacks",
        "benchmark.bounds",
        "benchmark.compaction",
        "benchmark.ensemble",
        "benchmark.factories",
    ),
    ("benchmark.objectives", "benchmark.unrolling"),
    ("benchmark.training", "benchmark.evaluations"),
    ("benchmark.protocols", "benchmark.recipes", "benchmark.manifest", "benchmark.foreign"),
    (
        "benchmark.campaigns",
        "benchmark.failures",
        "benchmark.outcomes",
        "benchmark.reported",
        "benchmark.statistics",
    ),
    ("benchmark.flags", "benchmark.evidence", "benchmark.challenges"),
    ("benchmark.records", "benchmark.submissions"),
    ("benchmark.schemas",),
    ("methods",),
    ("methods._*",),
    ("methods.*",),
    ("benchmark.leaderboard", "benchmark.distributed"),
    ("benchmark.comparison", "benchmark.findings", "benchmark.handbook"),
    ("benchmark.figures", "benchmark.report", "benchmark.contract", "benchmark.scaffolding"),
    ("benchmark.pipeline",),
    ("benchmark.interface", "benchmark.cli"),
    ("benchmark",),
)

# Foreign packages that only one module or package may know.
CONFINED = {
    "pyautoattack": ("benchmark.evaluations",),
    "auto_LiRPA": ("benchmark.bounds",),
    "matplotlib": ("benchmark.figures",),
    "jinja2": ("benchmark.report",),
    "PIL": ("benchmark.report", "benchmark.datasets"),
    "ray": ("benchmark.distributed",),
    "torchvision": ("benchmark.datasets", "benchmark.architectures"),
    "typer": ("benchmark.cli",),
    "rich": ("benchmark.cli",),
    "statsmodels": (),
    "scipy": (
        "benchmark.statistics",
        "benchmark.evaluations",
        "benchmark.datasets",
        "benchmark.unrolling",
    ),
    "sklearn": ("benchmark.datasets",),
    "safetensors": ("benchmark.weights",),
}

# What a method file may see: the rows up to training, without evaluations.
ALLOWED = {
    "benchmark.architectures",
    "benchmark.attacks",
    "benchmark.bounds",
    "benchmark.errors",
    "benchmark.objectives",
    "benchmark.pruning",
    "benchmark.threat",
    "benchmark.training",
}

SOURCES = sorted((ROOT / "benchmark").rglob("*.py")) + sorted((ROOT / "methods").glob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def house(module: str) -> str:
    """Returns the entry of ROWS that a module belongs to."""
    if module.startswith("methods."):
        return "methods._*" if module.startswith("methods._") else "methods.*"
    parts = module.split(".")
    return ".".join(parts[:2])


def row(module: str) -> int:
    return next(number for number, names in enumerate(ROWS) if house(module) in names)


def imports(path: Path) -> list[tuple[str, int]]:
    """Returns every imported module or name of a file, dotted, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: absolute imports only"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                found.append((dotted if dotted in MODULES else str(node.module), node.lineno))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    here = module_name(path)
    for target, line in imports(path):
        top = target.split(".")[0]
        if top in ("benchmark", "methods"):
            same_package = house(target) == house(here) and house(here)[-1] != "*"
            assert same_package or row(target) < row(here), (
                f"{path}:{line}: {here} (row {row(here)}) imports {target} (row {row(target)})"
            )
        elif top in CONFINED:
            assert here.startswith(CONFINED[top]), f"{path}:{line}: {here} may not know {top}"


def test_every_module_has_a_row() -> None:
    listed = {name for names in ROWS for name in names}
    assert {house(module) for module in MODULES} == listed


def test_methods_do_not_evaluate() -> None:
    for path in set((ROOT / "methods").glob("*.py")) - {ROOT / "methods" / "__init__.py"}:
        for target, line in imports(path):
            ours = target.startswith("benchmark.")
            assert not ours or target in ALLOWED or house(target) in ALLOWED, (
                f"{path}:{line} imports {target}"
            )


def test_the_rule_can_fire(tmp_path: Path) -> None:
    offender = tmp_path / "offender.py"
    offender.write_text("from benchmark.cli import app\nimport benchmark.pruning\n")
    assert [row(target) for target, _ in imports(offender)] == [
        row("benchmark.cli"),
        row("benchmark.pruning"),
    ]
    assert row("benchmark.cli") > row("benchmark.threat")


@pytest.mark.parametrize("folder", ["benchmark", "methods"])
def test_nobody_prints_seeds_globally_or_swallows(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{where}: bare except"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "print" or path.parent.name == "cli", f"{where}: prints"
                assert called not in ("torch.manual_seed", "np.random.seed", "random.seed"), where
                assert called not in ("pickle.load", "pickle.loads"), where
