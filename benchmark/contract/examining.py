"""One case of a method, run and looked at: all that the checks ask about is found here."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.optim.optimizer import register_optimizer_step_post_hook

import methods
from benchmark.architectures import Classifier
from benchmark.contract.cell import (
    CPU,
    STAGE,
    STEPS_PER_EPOCH,
    Case,
    cases,
    network,
    objective_for,
    task_of,
)
from benchmark.contract.watching import Seen, watched
from benchmark.digests import digest_of, sha256_of_bytes
from benchmark.errors import ContractError
from benchmark.pruning import Structure, eligible, prunable_parameters, removed_units
from benchmark.training import Run, fit

# Bytes in a megabyte.
_MEGABYTE = 1e6


@dataclass
class Facts:
    """What was found of one case.

    Attributes:
        case: which.
        error: what the method raised; then nothing else is known but `seen` and the cost.
        breaches: refusals of the registry, by promise (`methods.PROMISES`).
        uncounted: layers whose weights have other zeros than the mask says.
        resurrected: where removed weights came back after the method had returned.
        gradients: which gradients are missing or not finite, or that none reaches a layer.
        leftovers: what was left on the network.
        seen: what was done behind the engine's back.
        digest: of the network and the mask.
        spent: epochs of the prune stage and of the finetune stage.
        steps: of optimisers, in all.
        finetuned: the method says that it finetuned.
        seconds: that the method took.
        megabytes: by which the memory of this process grew meanwhile; 0 where nothing says.
    """

    case: Case
    error: str = ""
    breaches: dict[str, str] = field(default_factory=dict)
    uncounted: str = ""
    resurrected: str = ""
    gradients: str = ""
    leftovers: str = ""
    seen: Seen = field(default_factory=Seen)
    digest: str = ""
    spent: tuple[int, int] = (0, 0)
    steps: int = 0
    finetuned: bool = False
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether there is a result that can be looked at."""
        return not self.error and "result" not in self.breaches


class Subject:
    """A method with its settings, and what is known of it; each case runs when it is asked for."""

    def __init__(self, spelling: str, notice: Callable[[str], None] = lambda text: None) -> None:
        """Loads the method.

        Args:
            spelling: its name and settings.
            notice: told what is going on.

        Raises:
            BenchmarkError: no such method, or one that does not load.
        """
        self.name = spelling.partition(":")[0]
        self.chosen = methods.configured(spelling)
        self.kind: type[methods.Method] = type(self.chosen)
        self.notice = notice
        # Digests of some cases in another process, by case; None where there is none.
        self.elsewhere: Callable[[], dict[str, str]] | None = None
        # Why combinations that it declares fail, once they were tried.
        self.failures: dict[tuple[str, Structure], str] = {}
        self._facts: dict[tuple[Case, int], Facts] = {}

    @cached_property
    def objective(self) -> str:
        """The objective that it is examined under."""
        return objective_for(self.kind)

    def task(self, case: Case, **settings: Any) -> methods.Task:
        """Returns the task of a case; settings as for `task_of`."""
        return task_of(case, self.objective, **settings)

    @property
    def cases(self) -> list[Case]:
        """What it is asked to do."""
        return cases(self.kind)

    @property
    def sample(self) -> list[Case]:
        """One case a structure, at half of what the method reaches."""
        return [Case(s, self.kind.largest_sparsity / 2) for s in self.kind.structures]

    def facts(self, case: Case, draws: int = 0) -> Facts:
        """Returns what is found of a case.

        Args:
            case: which.
            draws: the state of the global generators meanwhile.
        """
        if (case, draws) not in self._facts:
            self.notice(str(case))
            self._facts[case, draws] = examine(self, case, draws)
        return self._facts[case, draws]

    @property
    def all(self) -> list[Facts]:
        """What is found of all cases."""
        return [self.facts(case) for case in self.cases]

    @property
    def results(self) -> list[Facts]:
        """What is found of the cases that have a result."""
        return [facts for facts in self.all if facts.complete]


@cache
def _warm() -> None:
    """Trains once: torch loads much of itself at its first step, which is nobody's doing."""
    task = task_of(Case("unstructured", Fraction(0)))
    task.prune.fit(network(Case("unstructured", Fraction(0))))


def examine(subject: Subject, case: Case, draws: int = 0) -> Facts:
    """Runs a case and looks at its result."""
    _warm()
    model, task = network(case), subject.task(case)
    given, kinds = methods.tensors_of(model), _kinds(model)
    facts = Facts(case)
    with _steps() as steps, _cost(facts), watched(draws) as seen:
        pruned = _compressed(subject, model, task, facts)
    facts.seen, facts.steps = seen, steps[0]
    facts.spent = (task.prune.meter.epochs, task.finetune.meter.epochs)
    if facts.error:
        return facts
    for promise, check in methods.PROMISES.items():
        try:
            check(pruned, given, subject.chosen, task)
        except ContractError as error:
            facts.breaches[promise] = str(error)
            if promise == "result":
                return facts
        except (KeyError, RuntimeError, TypeError):
            continue  # a mask of other keys or shapes, which another promise tells
    facts.finetuned = pruned.finetuned
    facts.digest = digest(pruned)
    facts.leftovers = _leftovers(pruned.model, kinds)
    if "count" not in facts.breaches:
        _look_closer(pruned, task, facts)
    return facts


def _compressed(
    subject: Subject, model: Classifier, task: methods.Task, facts: Facts
) -> methods.Pruned:
    try:
        return subject.chosen.compress(model, task)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a method may fail in any way, leaving the process included
        facts.error = methods.told(error) + _place(error)
        return methods.Pruned(model, {})  # type: ignore[arg-type]  # never looked at


def _place(error: BaseException) -> str:
    """Returns where an error was raised: the last line outside of libraries."""
    found, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "site-packages" not in file and not file.startswith("<"):
            found = f" ({Path(file).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found


def _kinds(model: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in model.modules()]


def digest(pruned: methods.Pruned) -> str:
    """Returns a digest of a network and its mask, to the last bit."""
    tensors = {**pruned.model.state_dict(), **{f"mask of {k}": m for k, m in pruned.mask.items()}}
    return digest_of(
        {
            name: sha256_of_bytes(tensor.detach().contiguous().flatten().numpy().tobytes())
            for name, tensor in tensors.items()
        }
    )


def _leftovers(model: nn.Module, kinds: list[type[nn.Module]]) -> str:
    """Returns what a method left on a network, in words; empty for nothing."""
    for name, module in model.named_modules():
        where = name or "the network"
        if parametrize.is_parametrized(module):
            return f"a parametrisation on {where}"
        hooks = [key for key, value in vars(module).items() if "hooks" in key and value]
        if hooks:
            return f"{hooks[0].strip('_').replace('_', ' ')} on {where}"
        if "forward" in vars(module):
            return f"another forward on {where}"
        for key, parameter in module.named_parameters(recurse=False):
            if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
                return f"a hook on {where}.{key}"
    if _kinds(model) != kinds:
        return "modules of other classes"
    return "the network in training mode" if model.training else ""


def _look_closer(pruned: methods.Pruned, task: methods.Task, facts: Facts) -> None:
    """Passes examples through a network, back and forth, trains it, and looks at its zeros."""
    model, some = pruned.model, torch.arange(20)
    inputs, labels = task.split.inputs(some), task.split.labels[some]
    facts.uncounted = _uncounted(pruned, facts.case)
    try:
        with watched() as seen:
            torch.autograd.backward(functional.cross_entropy(model(inputs), labels))
            facts.gradients = _gradients(model, facts.case)
            facts.resurrected = _alive(pruned, "in a pass")
            fit(model, task.split, task.objective, STAGE, Run(CPU, seed=9, mask=pruned.mask))
            facts.resurrected = facts.resurrected or _alive(pruned, "in finetuning")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # hooks that a method left may raise anything
        facts.gradients = facts.gradients or methods.told(error)
    facts.seen.reached += seen.reached
    facts.seen.printed = facts.seen.printed or seen.printed


def _uncounted(pruned: methods.Pruned, case: Case) -> str:
    """Returns a layer in which weights that the mask keeps are zero."""
    parameters = prunable_parameters(pruned.model)
    for name in eligible(list(parameters), case.structure):
        zero = removed_units(parameters[name].detach(), case.structure)
        said = removed_units(pruned.mask[name], case.structure)
        if zero != said:
            return f"{zero} units of {name} zero, and {said} removed by the mask"
    return ""


def _gradients(model: nn.Module, case: Case) -> str:
    """Returns what is wrong with the gradients of a network."""
    for key, parameter in model.named_parameters():
        if parameter.grad is None:
            return f"no gradient for {key}"
        if not bool(torch.isfinite(parameter.grad).all()):
            return f"a gradient of {key} that is not finite"
    *_, last = model.parameters()
    if last.grad is not None and not bool(last.grad.any()):
        return "gradients of 0 in the last layer"
    # Where half of the units are left, something must reach each layer; among equal scores the
    # order alone decides, and may take a whole one.
    if case.sparsity <= 0.5 and not case.tied:
        for name, weight in prunable_parameters(model).items():
            if weight.grad is not None and not bool(weight.grad.any()):
                return f"gradients of 0 in {name}"
    return ""


def _alive(pruned: methods.Pruned, when: str) -> str:
    """Returns where removed weights are no longer zero, and since when."""
    for name, parameter in prunable_parameters(pruned.model).items():
        count = int((parameter.detach()[~pruned.mask[name]] != 0).sum())
        if count:
            return f"{count} removed weights of {name} back {when}"
    return ""


@contextlib.contextmanager
def _steps() -> Iterator[list[int]]:
    """Counts the steps of all optimisers."""
    count = [0]

    def add(optimiser: object, *arguments: object) -> None:
        count[0] += 1

    handle = register_optimizer_step_post_hook(add)
    try:
        yield count
    finally:
        handle.remove()


def most_steps(facts: Facts) -> int:
    """Returns how many steps of an optimiser the epochs of a case amount to."""
    return sum(facts.spent) * STEPS_PER_EPOCH


@contextlib.contextmanager
def _cost(facts: Facts) -> Iterator[None]:
    """Notes the time, and by how much the memory of this process grew."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = _memory("VmRSS"), time.perf_counter()
    try:
        yield
    finally:
        facts.seconds = time.perf_counter() - start
        facts.megabytes = max(0.0, _memory("VmHWM") - before) / _MEGABYTE


def _memory(entry: str) -> float:
    """Returns an entry of this process's status in bytes; 0 where the system has none."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith(f"{entry}:"))
        return 1024.0 * int(line.split()[1])
    return 0.0
