"""What new-method writes. `$word` stands for a part of the wish; see `writing`."""

METHOD = '''\
"""$title.

CHANGE THIS to a paragraph on what the method removes, by which score, and how it works. Name the
paper, if there is one, in a line that begins with the word Source and a colon: authors, title,
venue and year, arXiv number, section or equation.

Departures: CHANGE THIS to each place where the code differs from the paper, and why; now none, as
there is no paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

$imports


$decorator@dataclass(frozen=True)
class $kind:
    """CHANGE THIS to what the scores are; now weight magnitudes on the scale of their layer.

    Attributes:
        balance: 1 measures each layer's weights by their mean magnitude, 0 takes them as they are.
            CHANGE THIS: a line for each hyper-parameter, with the section of the paper.
    """

    # CHANGE THIS: what tables and pages show. Authors, paper and code may stay empty; whoever names
    # a paper names its authors.
    info: ClassVar[Info] = Info(
        title="$title",
        authors=$authors,
        paper="",
        code="",
        summary="$summary",
    )
    # CHANGE THIS: what it can remove. Claim no more; each claim is checked.
    structures: ClassVar[tuple[Structure, ...]] = STRUCTURES
    # CHANGE THIS: "layerwise" removes the same share of each layer, "global" of the whole network.
    scope: ClassVar[Scope] = "global"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    # CHANGE THIS: hyper-parameters with the paper's values. Each is a setting for everybody, as in
    # `robustprune compress $name:balance=0`.
    balance: float = 1.0

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the model with its lowest-scored units zeroed."""
        # Here the method may train: `task.fit(model)` spends the epochs it is allowed to, under the
        # loss of the cell. Every draw takes `generator=task.generator`.
        scores = scores_of(prunable_parameters(model), self.balance)
        # Keep these lines: they remove exactly the share that is asked for.
        mask = mask_from_scores(scores, task.sparsity, self.scope, task.structure)
        mask.apply(model)
        return Pruned(model, mask)


def scores_of(weights: Mapping[str, Tensor], balance: float) -> dict[str, Tensor]:
    """Returns a score a weight, by layer; higher = keep.

    CHANGE THIS: the idea of the method, as a function of tensors that a test can call.

    Args:
        weights: of each layer, of any shape.
        balance: see the class.
    """
    scores = {}
    for name, weight in weights.items():
        magnitude = weight.detach().abs()
        scale = magnitude.mean().clamp_min(1e-12) ** balance
        scores[name] = magnitude / scale
    return scores
'''

# The imports of a method: of this project, and of a package, to which it is a library like others.
PRUNING = """\
from benchmark.pruning import STRUCTURES, Scope, Structure, mask_from_scores, prunable_parameters
"""
IMPORTS = f"""\
from torch import Tensor, nn

{PRUNING}from methods import Info, Pruned, Task, register"""
PACKAGE_IMPORTS = f"""\
{PRUNING}from methods import Info, Pruned, Task
from torch import Tensor, nn"""

TEST = '''\
"""$title: known answers, settings."""

$imports
from $module import $kind, scores_of

NAME = "$name"


def test_scores_are_magnitudes_on_the_scale_of_their_layer() -> None:
    # CHANGE THIS: a case small enough to know the answer without running the method.
    weights = {"small": torch.tensor([[0.1, -0.3]]), "large": torch.tensor([[10.0, -30.0]])}
    balanced = scores_of(weights, balance=1.0)
    torch.testing.assert_close(balanced["small"], torch.tensor([[0.5, 1.5]]))
    torch.testing.assert_close(balanced["large"], torch.tensor([[0.5, 1.5]]))
    plain = scores_of(weights, balance=0.0)
    torch.testing.assert_close(plain["large"], torch.tensor([[10.0, 30.0]]))


def test_settings_are_spelled() -> None:
$register    chosen = methods.configured(f"{NAME}:balance=0.5")
    assert chosen == $kind(balance=0.5)
    assert methods.spelling(NAME, chosen) == f"{NAME}:balance=0.5"
$contract'''

TEST_IMPORTS = """\
import torch

import methods"""
PACKAGE_TEST_IMPORTS = """\
from pathlib import Path

import methods
import torch
from benchmark.contract import examined, source_of
"""
# An installed package is known by its entry point; a test may run before that.
REGISTER = """\
    methods.register(NAME)($kind)
"""
CONTRACT = """

def test_it_keeps_the_contract() -> None:
    report = examined(source_of(str(Path(__file__).parents[1])))
    assert [(one.check, one.answer.problems) for one in report.failed] == []
"""

PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "robustprune-$name"
version = "0.1.0"
description = "$title, a pruning method for robustprune"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["robustprune"]

# This makes the method known wherever the package is installed: name = "module:class".
[project.entry-points."robustprune.methods"]
$name = "$module:$kind"

[tool.setuptools]
packages = ["$module"]

[tool.setuptools.package-data]
$module = ["py.typed"]

[tool.ruff]
line-length = 100

[tool.ruff.lint]
select = ["E", "F", "W", "I", "B", "UP"]

[tool.mypy]
strict = true
files = ["$module", "tests"]
"""

README = """# $title

A pruning method for [robustprune](https://pypi.org/project/robustprune/), registered as `$name`.

```
pip install --editable .
robustprune check-method .
robustprune compress $name --recipe digits --sparsity 0.5,0.9,0.99
```

`$module/__init__.py` is the method; its comments say what to change. `tests/` checks its scores and
the contract: `python -m pytest`.
"""
