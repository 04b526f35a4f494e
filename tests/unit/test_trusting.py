"""A stranger's module becomes data or is refused; his process may end as it likes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.architectures import described
from benchmark.architectures.tracing import NotDescribable, answers, difference, trace
from benchmark.errors import ContractError
from benchmark.manifest import load_model
from benchmark.pipeline import trusting
from benchmark.pipeline.entering import Said, enter
from benchmark.pipeline.project import Project

FACTORY = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.3]).view(1, 1, 1, 1))
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 10)
        self.unused = nn.Linear(2, 2)

    def forward(self, x, features=False):
        x = (x - self.mean) / 0.25
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        y += x
        y = F.adaptive_avg_pool2d(self.relu(y), 1)
        return y if features else self.fc(y.view(y.size(0), -1))

def make():
    torch.manual_seed(0)
    return Net()
"""


def read(module: nn.Module) -> tuple[Any, float]:
    """Returns the trace of a module, and how far its network answers from it."""
    traced = trace(module, name="net", shape=(1, 8, 8), classes=10)
    made = trusting.loaded(traced.description, dict(traced.state))
    inputs = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return traced, difference(answers(made, inputs), answers(module, inputs))


def net() -> nn.Module:
    space: dict[str, Any] = {}
    exec(FACTORY, space)  # noqa: S102
    found: nn.Module = space["make"]()
    return found


def test_functions_constants_and_unused_layers_are_followed() -> None:
    traced, apart = read(net())
    assert apart <= 1e-7
    assert [layer.name for layer in traced.description.layers] == [
        *("conv1", "bn1", "relu", "conv2", "add", "relu_2", "mean", "flatten", "fc"),
    ]
    assert traced.left_out == ("unused.weight", "unused.bias")
    assert traced.state["normalise.mean"].item() == pytest.approx(0.3)
    assert traced.state["normalise.std"].item() == 0.25


class Forward(nn.Module):
    """A network around any function."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.fc = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Any:
        return self.function(self, inputs)


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "softmax": (lambda s, x: s.fc(x.flatten(1)).softmax(1), "probabilities by softmax"),
    "function": (lambda s, x: functional.gelu(s.fc(x.flatten(1))), "got gelu in the network"),
    "branch": (lambda s, x: s.fc(x.flatten(1)) if x.sum() > 0 else x, "branches on values"),
    "numbers": (lambda s, x: s.fc(x.flatten(1)) * x[0, 0, 0, 0].item(), "got getitem in"),
    "constant": (lambda s, x: s.fc(x.flatten(1)) + 1.0, "a constant added"),
    "twice": (lambda s, x: s.fc(x.flatten(1)) + s.fc((x * 2).flatten(1)), "scaled in two ways"),
    "several": (lambda s, x: (s.fc(x.flatten(1)), x), "one tensor of logits"),
    "inverted": (lambda s, x: s.fc((1 - x).flatten(1)), "a positive standard deviation"),
    "mean": (lambda s, x: s.fc(x.flatten(1)).mean(1), "a mean over dimensions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_description_says_is_refused_by_name(case: str) -> None:
    function, message = REFUSED[case]
    with pytest.raises(NotDescribable, match=message):
        read(Forward(function))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(1, 2, 3, padding_mode="reflect"), "padding by reflect"),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1, groups=2)), "2 groups.* in 0.1"),
        (nn.BatchNorm2d(1, track_running_stats=False), "statistics of the batch"),
        (nn.GELU(), "got GELU in 0"),
    ],
)
def test_layers_with_other_settings_are_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(NotDescribable, match=message):
        read(nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(10)))


def test_answers_that_are_no_numbers_are_far() -> None:
    wanted = torch.ones(2, 3)
    assert difference(wanted, wanted) == 0
    assert difference(wanted * float("nan"), wanted) == float("inf")
    assert difference(wanted[:1], wanted) == float("inf")


# --- The process


ENDINGS = {
    "exit": ("import os; os._exit(3)", "got exit code 3"),
    "signal": ("import os; os.kill(os.getpid(), 9)", "got signal 9"),
    "hang": (
        "import time; print('so far', flush=True); time.sleep(60)",
        "in 1 s, got none; it said 'so far'",
    ),
    "link": ("import os; os.symlink('/etc/passwd', 'refusal.txt')", "in a plain file"),
    "pipe": ("import os; os.mkfifo('answer.safetensors')", "another kind of file"),
    "large": ("open('answer.safetensors', 'wb').truncate(3 << 20)", "at most 1048576 bytes"),
    "other": ("open('answer.safetensors', 'wb').write(b'x' * 99)", "a network as data"),
    "text": ("open('refusal.txt', 'wb').write(b'\\x1b[31m\\nno')", r"\?\[31m\?no"),
    "loud": ("print('x' * 9000000); import os; os._exit(1)", "exit code 1; it said 'xxx"),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_a_process_may_end_as_it_likes(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, message = ENDINGS[case]
    monkeypatch.setattr(trusting, "_CHILD", said)
    file = tmp_path / "net.py"
    file.write_text(FACTORY)
    # Only the one that hangs is to run out of time.
    means = trusting.Means(seconds=1 if case == "hang" else 60, largest=1 << 20)
    with pytest.raises(ContractError, match=message) as refused:
        bring(file, tmp_path, means)
    assert str(refused.value).isprintable()


def bring(file: Path, root: Path, means: trusting.Means, trusted: bool = True) -> trusting.Brought:
    return trusting.describe_foreign(
        file,
        "make",
        name="net",
        dataset="digits",
        project=Project(root),
        trusted=trusted,
        means=means,
    )


def test_nothing_runs_without_trust(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("raise SystemExit")
    with pytest.raises(ContractError, match="expected --trust to run net.py"):
        bring(file, tmp_path, trusting.Means(), trusted=False)


def test_the_environment_stays_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    assert "SOME_TOKEN" not in trusting._environment(tmp_path)


def test_a_file_becomes_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(FACTORY)
    brought = bring(file, tmp_path, trusting.Means())
    assert brought.inputs == (32, 100) and brought.difference <= 1e-7 and brought.left_out == 2
    said = Said("dense", "benign", display_name="Net")
    entry, data = trusting.row_of(brought, "digits", said)
    assert enter(Project(tmp_path), entry, data) and not enter(Project(tmp_path), entry, data)
    assert described.is_described(entry.architecture)
    assert Project(tmp_path).manifest().checkpoints == (entry,)
    inputs = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(load_model(entry, tmp_path)(inputs), net().eval()(inputs))
