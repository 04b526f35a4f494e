"""Methods that each break one promise, as files that a user might write."""

from pathlib import Path

HEAD = '''"""A method that breaks a promise.

Departures: none.
"""

{imports}
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import nn

from benchmark.pruning import Mask, mask_from_scores, prunable_parameters
from methods import Info, Pruned, Task, register

{before}

@register("bad-one")
@dataclass(frozen=True)
class Bad:
    """Magnitudes, and one thing that is wrong."""

    info: ClassVar[Info] = Info("Bad", (), "", "", "Breaks a promise.")
    structures: ClassVar[tuple[str, ...]] = ("unstructured",)
    scope: ClassVar[str] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)
{members}
    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the pruned network."""
{begin}
        scores = {{name: p.detach().abs() for name, p in prunable_parameters(model).items()}}
{scored}
        mask = mask_from_scores(scores, task.sparsity, self.scope, task.structure)
{masked}
        mask.apply(model)
{end}
        return Pruned(model, mask)
'''


def source(imports="", before="", members="", begin="", scored="", masked="", end=""):
    """Returns the text of a method with some lines put in."""

    def indented(text):
        return "\n".join(f"        {line}" for line in text.splitlines())

    return HEAD.format(
        imports=imports,
        before=before,
        members="".join(f"    {line}\n" for line in members.splitlines()),
        **{
            key: indented(text)
            for key, text in {
                "begin": begin,
                "scored": scored,
                "masked": masked,
                "end": end,
            }.items()
        },
    )


def write(folder: Path, **parts: str) -> Path:
    """Writes a bad method, and returns its file."""
    file = folder / "bad_one.py"
    file.write_text(source(**parts))
    return file


TIES = """
kept = {}
for name, score in scores.items():
    ordered = score.flatten().sort().values
    threshold = ordered[min(round(task.sparsity * len(ordered)), len(ordered) - 1)]
    kept[name] = score >= threshold if task.sparsity < 1 else torch.zeros_like(score).bool()
    if task.sparsity == 0:
        kept[name] = torch.ones_like(score).bool()
mask = Mask(kept)
"""

# Lines of the method; the check that must fail, and a part of what it says.
INSIDE = {
    "no paper's authors": (
        {"members": "info: ClassVar[Info] = Info('Bad', (), 'A paper', '', 'Bad.')"},
        ("described", "a paper without authors"),
    ),
    "a setting of another type": ({"members": "rate: int = 0.5"}, ("settings", "whole number")),
    "a setting that raises": (
        {"members": "rate: float = 0.5\ndef __post_init__(self):\n    1 / (self.rate - 0.25)"},
        ("settings", "raised ZeroDivisionError"),
    ),
    "raises": ({"begin": "raise ValueError('torn')"}, ("returns", "ValueError: torn (bad_one.py")),
    "leaves": ({"begin": "raise SystemExit(3)"}, ("returns", "raised SystemExit: 3")),
    "a tuple": ({"end": "return model, mask"}, ("returns", "got tuple")),
    "wrong count": (
        {"masked": "mask = Mask({n: torch.ones_like(m) for n, m in mask.items()})"},
        ("count", "units removed"),
    ),
    "ties": ({"masked": TIES}, ("count", "weights of one magnitude: expected")),
    "zeros of its own": (
        {"end": "next(iter(prunable_parameters(model).values())).data.zero_()"},
        ("count", "zero, and"),
    ),
    "removed weights that are not zero": (
        {"end": "for p in prunable_parameters(model).values(): p.data.add_(1e-9)"},
        ("zeros", "exactly 0"),
    ),
    "weights that come back in a pass": (
        {
            "end": "def back(module, inputs):\n"
            "    for p in prunable_parameters(module).values(): p.data.add_(1e-9)\n"
            "model.register_forward_pre_hook(back)"
        },
        # The registry's own look at logits is such a pass.
        ("zeros", "back in a pass"),
    ),
    "weights that come back in finetuning": (
        {
            "end": "from torch.optim.optimizer import register_optimizer_step_post_hook as after\n"
            "after(lambda o, a, k: [q.data.add_(1e-9) for g in o.param_groups "
            "for q in g['params']])"
        },
        ("zeros", "back in finetuning"),
    ),
    "NaN": (
        {"end": "list(model.parameters())[-1].data[0] = torch.nan"},
        ("logits", "finite logits"),
    ),
    "frozen": ({"end": "model.requires_grad_(False)"}, ("gradients", "frozen")),
    "dead": (
        {
            "members": "scope: ClassVar[str] = 'global'",
            "scored": "first = next(iter(scores))\nscores[first] = scores[first] * 0",
        },
        ("gradients", "gradients of 0 in"),
    ),
    "hook": (
        {"end": "model.register_forward_hook(lambda *_: None)"},
        ("bare", "forward hooks on the network"),
    ),
    "another forward": (
        {"end": "model.forward = type(model).forward.__get__(model)"},
        ("bare", "another forward"),
    ),
    "training mode": ({"end": "model.train()"}, ("bare", "training mode")),
    "state between calls": (
        {
            "before": "CALLS = []",
            "begin": "CALLS.append(1)",
            "scored": "scores = {n: s * (1 + len(CALLS) * (s < s.mean())) for n, s in "
            "scores.items()}",
        },
        ("repeats", "other bits"),
    ),
    "global draws": (
        {"scored": "scores = {n: torch.rand(s.shape) for n, s in scores.items()}"},
        ("global state", "torch's global generator changed"),
    ),
    "too long": ({"begin": "task.fit(model, epochs=task.stage.epochs + 1)"}, ("budget", "at most")),
    "a loop of its own": (
        {
            "begin": "optimiser = torch.optim.SGD(model.parameters(), lr=0.0)\n"
            "for _ in range(9): optimiser.step()"
        },
        ("budget", "9 steps of optimisers"),
    ),
    "finetunes without a word": (
        {"begin": "task.finetune.fit(model)"},
        ("budget", "finetuned is False"),
    ),
    "prints": ({"begin": "print('hello')"}, ("silent", "wrote 'hello'")),
    "prints past Python": (
        {"imports": "import os", "begin": "os.write(2, b'low')"},
        ("silent", "wrote 'low'"),
    ),
    "reads": ({"begin": "open('/etc/hostname').close()"}, ("secluded", "opened '/etc/hostname'")),
    "reads by pathlib": (
        {"imports": "from pathlib import Path", "begin": "Path('/etc/hostname').read_text()"},
        ("secluded", "/etc/hostname"),
    ),
    "lists": ({"imports": "import os", "begin": "os.listdir('/')"}, ("secluded", "listed '/'")),
    "connects": (
        {"imports": "import socket", "begin": "socket.socket().close()"},
        ("secluded", "used a socket"),
    ),
    "runs": (
        {"imports": "import subprocess", "begin": "subprocess.run(['true'])"},
        ("secluded", "ran 'true'"),
    ),
    "seeds torch": ({"begin": "torch.manual_seed(0)"}, ("global state", "torch's global gen")),
    "seeds numpy": (
        {"imports": "import numpy", "begin": "numpy.random.seed(0)"},
        ("global state", "numpy's global generator changed"),
    ),
    "seeds Python": (
        {"imports": "import random", "begin": "random.seed(0)"},
        ("global state", "Python's global generator changed"),
    ),
    "threads": (
        {"begin": "torch.set_num_threads(torch.get_num_threads() + 1)"},
        ("global state", "torch's number of threads changed"),
    ),
    "gradient mode": (
        {"begin": "torch.set_grad_enabled(False)"},
        ("global state", "gradient mode"),
    ),
    "dtype": (
        {"end": "torch.set_default_dtype(torch.float64)"},
        ("global state", "default dtype changed"),
    ),
    "environment": (
        {"imports": "import os", "begin": "os.environ['BAD'] = '1'"},
        ("global state", "the environment changed"),
    ),
    "an objective that fails": (
        {"begin": "if type(task.objective).__name__ == 'Trades': raise ValueError('trades')"},
        ("objectives", "trades"),
    ),
    # More than the process may have kept of what earlier tests gave back.
    "much memory": (
        {"begin": "torch.ones(300_000_000).sum()"},
        ("cost", "MB of memory"),
    ),
}

# Those that only a second process, or a look at this one from outside, can notice.
OUTSIDE = {
    "order of sets": (
        {
            "scored": "first = hash('a') % 7 + 1\n"
            "scores = {n: s % (1 / first) for n, s in scores.items()}"
        },
        ("processes", "second process"),
    ),
    "does not load": ({"before": "raise ValueError('torn')"}, ("loads", "ValueError: torn")),
    "leaves while it loads": ({"before": "raise SystemExit(0)"}, ("loads", "SystemExit: 0")),
    "prints while it loads": ({"before": "print('hello')"}, ("loads", "wrote 'hello'")),
    "endless": ({"begin": "while True: pass"}, ("finishes", "not at its end after 3 s during")),
    "leaves at once": (
        {"imports": "import os", "begin": "os._exit(5)"},
        ("finishes", "left with exit code 5"),
    ),
    "crashes": (
        {"imports": "import os, signal", "begin": "os.kill(os.getpid(), signal.SIGSEGV)"},
        ("finishes", "killed by SIGSEGV"),
    ),
    "all memory": (
        {"begin": "torch.ones(10_000_000_000)"},
        ("returns", "allocate"),
    ),
}
