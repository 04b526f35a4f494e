"""What a method promises: one table of checks, each with what to do about a broken promise.

The command `check-method`, the project's own tests and the page `docs/writing-a-method.md` all use
this table, so that there is one contract.
"""

import dataclasses
import inspect
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

import methods
from benchmark import handbook
from benchmark.architectures import Classifier
from benchmark.contract.cell import Case, examples, network, task_of
from benchmark.contract.examining import Facts, Subject, digest, most_steps
from benchmark.errors import BenchmarkError, shorten

# Bounds of a check: the network has ten thousand weights, and forty images are enough to see all.
SECONDS = 60.0
MEGABYTES = 1000.0

# A manifest holds no longer line.
_LONGEST_LINE = 400

# The dry run: images, those held out, and epochs of the dense parent and of each later stage.
_IMAGES, _HELD_OUT = 400, 200
_PARENT_EPOCHS, _STAGE_EPOCHS = 12, 4

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Answer:
    """What a check found.

    Attributes:
        problems: broken promises, in words; none for a kept promise.
        detail: what else is worth knowing.
        skipped: why there was nothing to check; empty where there was.
    """

    problems: tuple[str, ...] = ()
    detail: str = ""
    skipped: str = ""

    @property
    def status(self) -> Status:
        """Ok, failed or skipped."""
        if self.problems:
            return "failed"
        return "skipped" if self.skipped else "ok"


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        promise: what the method promises, after "the method".
        advice: what to do where the promise is broken.
        answer: looks.
    """

    promise: str
    advice: str
    answer: Callable[[Subject], Answer]


# --- what it says of itself -----------------------------------------------------------------------


def _described(subject: Subject) -> Answer:
    kind, info = subject.kind, subject.kind.info
    said = inspect.getdoc(inspect.getmodule(kind)) or ""
    own = kind.__module__.startswith("methods.") and not hasattr(subject.chosen, "parent")
    words = [info.title, *info.authors, info.paper, info.code, info.summary]
    wrong = {
        "no title": not info.title,
        "a summary that is no sentence": not info.summary.endswith("."),
        "a paper without authors": bool(info.paper) and not info.authors,
        "a code address that does not begin with https://": bool(info.code)
        and not info.code.startswith("https://"),
        "a class without a docstring": (kind.__doc__ or f"{kind.__name__}(").startswith(
            f"{kind.__name__}("
        ),
        "a file whose docstring has no 'Departures'": own and "Departures" not in said,
        "a paper, and a file whose docstring has no 'Source:'": own
        and bool(info.paper)
        and "Source:" not in said,
        f"text of more than one line or {_LONGEST_LINE} characters": any(
            len(word) > _LONGEST_LINE or not word.isprintable() for word in words
        ),
    }
    return Answer(tuple(what for what, found in wrong.items() if found))


def _settings(subject: Subject) -> Answer:
    return Answer(tuple(_unspelled(subject)))


def _unspelled(subject: Subject) -> Iterator[str]:
    """Yields which settings do not come back as they were spelled."""
    name, kind = subject.name, subject.kind
    yield from _lost(name, subject.chosen)
    if hasattr(subject.chosen, "parent"):
        return  # a control has its parent's settings
    fields: tuple[Any, ...] = dataclasses.fields(kind)  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for field in fields:
        default = getattr(methods.configured(name), field.name)
        key = field.name.replace("_", "-")
        try:
            again = methods.configured(f"{name}:{key}={methods.spelled(default)}")
        except BenchmarkError as error:
            yield f"{field.name}: {error}"
            continue
        # A fraction is spelled as a number, so 3/7 comes back only as near as that.
        if methods.spelled(getattr(again, field.name)) != methods.spelled(default):
            yield f"{field.name} is {getattr(again, field.name)!r}, spelled as {default!r}"
        for other in _others(hints[field.name], default):
            yield from _changed(name, key, other)


def _changed(name: str, key: str, value: object) -> Iterator[str]:
    """Yields what is wrong with another value of a setting; one that is refused is not."""
    spelling = f"{name}:{key}={methods.spelled(value)}"
    try:
        chosen = methods.configured(spelling)
    except BenchmarkError:
        return
    except Exception as error:  # the method's own check of its settings
        yield f"{key}={methods.spelled(value)} raised {methods.told(error)}, not a ContractError"
        return
    yield from _lost(name, chosen)


def _lost(name: str, chosen: methods.Method) -> Iterator[str]:
    spelling = methods.spelling(name, chosen)
    if methods.configured(spelling) != chosen:
        yield f"'{shorten(spelling)}' does not give back the settings that it spells"


def _others(hint: object, default: Any) -> list[object]:
    """Returns other values of a setting than its default."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if choice != default]
    if hint is bool:
        return [not default]
    if hint is int:
        return [default + 1, -default - 1]
    if hint in (float, Fraction):
        return [default + type(default)(1), default / 2]
    return []


# --- what comes back ------------------------------------------------------------------------------


def _over(
    all_facts: Iterable[Facts], found: Callable[[Facts], Iterable[str]], detail: str = ""
) -> Answer:
    """Returns what was found over all cases, each told once with the first case it was found in."""
    first: dict[str, str] = {}
    count: dict[str, int] = {}
    looked = 0
    for facts in all_facts:
        looked += 1
        for problem in found(facts):
            first.setdefault(problem, str(facts.case))
            count[problem] = count.get(problem, 0) + 1
    if not looked:
        return Answer(skipped="no case has a result")
    more = {problem: f" (so in {number} cases)" for problem, number in count.items() if number > 1}
    problems = tuple(f"{case}: {told}{more.get(told, '')}" for told, case in first.items())
    return Answer(problems, detail or f"{looked} cases")


def _words(*found: str) -> list[str]:
    return [word for word in found if word]


def _breach(promise: str) -> Callable[[Facts], list[str]]:
    return lambda facts: _words(facts.breaches.get(promise, ""))


def _returns(subject: Subject) -> Answer:
    return _over(
        subject.all,
        lambda facts: _words(
            facts.error and f"raised {facts.error}", facts.breaches.get("result", "")
        ),
    )


def _counted(subject: Subject) -> Answer:
    return _over(subject.results, lambda facts: _words(*_breach("count")(facts), facts.uncounted))


def _zeroed(subject: Subject) -> Answer:
    return _over(subject.results, lambda facts: _words(*_breach("zeros")(facts), facts.resurrected))


def _finite(subject: Subject) -> Answer:
    return _over(subject.results, _breach("logits"))


def _trainable(subject: Subject) -> Answer:
    return _over(
        subject.results, lambda facts: _words(*_breach("trainable")(facts), facts.gradients)
    )


def _bare(subject: Subject) -> Answer:
    return _over(subject.results, lambda facts: _words(facts.leftovers))


# --- what it does meanwhile -----------------------------------------------------------------------


def _silent(subject: Subject) -> Answer:
    return _over(
        subject.all,
        lambda facts: [f"wrote '{facts.seen.printed}'"] if facts.seen.printed else [],
    )


def _secluded(subject: Subject) -> Answer:
    return _over(subject.all, lambda facts: dict.fromkeys(facts.seen.reached[:3]))


def _unmoved(subject: Subject) -> Answer:
    return _over(subject.all, lambda facts: [f"{name} changed" for name in facts.seen.moved])


def _frugal(subject: Subject) -> Answer:
    """Looks at what was trained: in the usual cases, without a budget, and with a larger one."""

    def found(facts: Facts) -> list[str]:
        allowed = facts.case.epochs
        prune, finetune = facts.spent
        return _words(
            f"{max(facts.spent)} epochs of {allowed}" if max(facts.spent) > allowed else "",
            "epochs of finetuning, and finetuned is False"
            if finetune and not facts.finetuned
            else "",
            f"{facts.steps} steps of optimisers, and only {prune + finetune} epochs by the task"
            if facts.steps > most_steps(facts)
            else "",
            f"raised {facts.error}" if facts.error and allowed != 1 else "",
        )

    case = subject.sample[0]
    more = [subject.facts(dataclasses.replace(case, epochs=epochs)) for epochs in (0, 3)]
    spent = max(sum(facts.spent) for facts in more)
    known = [facts for facts in subject.all if not facts.error]
    return _over([*known, *more], found, f"spends {spent} of 3 + 3 epochs")


def _affordable(subject: Subject) -> Answer:
    slowest = max(subject.all, key=lambda facts: facts.seconds)
    largest = max(subject.all, key=lambda facts: facts.megabytes)
    return _over(
        subject.all,
        lambda facts: (
            [f"{facts.megabytes:.0f} MB of memory"] if facts.megabytes > MEGABYTES else []
        ),
        f"at most {slowest.seconds:.2f} s ({slowest.case}) and {largest.megabytes:.0f} MB",
    )


# --- the same again -------------------------------------------------------------------------------


def _repeatable(subject: Subject) -> Answer:
    return _over(
        subject.results,
        lambda facts: (
            ["other bits the second time"]
            if subject.facts(facts.case, draws=1).digest != facts.digest
            else []
        ),
    )


def _same_elsewhere(subject: Subject) -> Answer:
    if subject.elsewhere is None:
        return Answer(skipped="there is no second process")
    other = subject.elsewhere()
    facts = [f for f in map(subject.facts, subject.sample) if f.complete]
    return _over(
        facts,
        lambda facts: (
            ["other bits in a second process"] if other.get(str(facts.case)) != facts.digest else []
        ),
    )


class _Killed(BaseException):
    """What a kill after an epoch is played by."""


def _resumable(subject: Subject) -> Answer:
    """Kills the method after each epoch, and lets it go on from the states it left."""
    case = dataclasses.replace(subject.sample[0], epochs=2)
    whole = subject.facts(case)
    if not whole.complete:
        return Answer(skipped="there is no result without a kill")
    trained, spent = 0, sum(whole.spent)

    def kill(done: int, epochs: int, loss: float) -> None:
        nonlocal trained
        trained += 1
        raise _Killed

    with tempfile.TemporaryDirectory() as folder:
        for _ in range(spent + 1):
            task = subject.task(case, folder=Path(folder), report=kill)
            try:
                pruned = subject.chosen.compress(network(case), task)
            except _Killed:
                continue
            same = digest(pruned) == whole.digest
            problem = "" if same else "other bits after kills than without"
            return Answer(tuple(_words(problem)), f"{trained} kills")
    return Answer((f"{trained} epochs trained with kills, and {spent} without",))


# --- what it is good for --------------------------------------------------------------------------


def failures(subject: Subject) -> dict[handbook.Cell, str]:
    """Returns why each claimed objective and structure fails; empty for what works."""
    if not subject.failures:
        for objective, structure in handbook.declared(subject.kind):
            subject.notice(f"{structure} under {objective}")
            failed = handbook.dry_run(subject.name, objective, structure)
            subject.failures[objective, structure] = failed
    return subject.failures


def _versatile(subject: Subject) -> Answer:
    tried = failures(subject)
    problems = [f"{s} under {o}: {failed}" for (o, s), failed in tried.items() if failed]
    return Answer(tuple(problems), f"under {', '.join(dict.fromkeys(o for o, _ in tried))}")


def _learns(subject: Subject) -> Answer:
    """Prunes a trained network to 90 %, finetunes it, and counts on images held out."""
    sparsity = min(Fraction(9, 10), subject.kind.largest_sparsity)
    case = Case(subject.kind.structures[0], sparsity, _STAGE_EPOCHS)
    subject.notice("dry run on digits")
    start = methods.start_of(subject.chosen)
    dense = _parent(subject.objective if start in ("", methods.UNTRAINED) else start)
    try:
        own = _after(subject.chosen, subject.name, case, subject.objective)
        plain = methods.configured("lwm-layerwise")
        usual = _after(plain, "lwm-layerwise", case, subject.objective)
    except BenchmarkError as error:
        return Answer((str(error),))
    return Answer(
        detail=f"at {float(sparsity):g} clean accuracy {own:.1%}, dense {_accuracy(dense):.1%}, "
        f"lwm-layerwise {usual:.1%}; a tiny budget proves nothing"
    )


@cache
def _parent(objective: str) -> Classifier:
    """Returns a network trained for a few epochs."""
    case = Case("unstructured", Fraction(0), _PARENT_EPOCHS)
    model = network(case)
    _task(case, objective).prune.fit(model)
    return model


def _task(case: Case, objective: str) -> methods.Task:
    task = task_of(case, objective)
    split = examples(_IMAGES)
    stages = {
        name: dataclasses.replace(
            stage,
            split=split,
            stage=dataclasses.replace(stage.stage, learning_rate=0.05, batch_size=50),
        )
        for name, stage in (("prune", task.prune), ("finetune", task.finetune))
    }
    return dataclasses.replace(task, **stages)  # type: ignore[arg-type]


def _after(chosen: methods.Method, name: str, case: Case, objective: str) -> float:
    """Returns the clean accuracy of a method's network after finetuning."""
    start = methods.start_of(chosen)
    model = network(case)
    if start == methods.UNTRAINED:
        case = dataclasses.replace(case, epochs=_PARENT_EPOCHS + case.epochs)
    else:
        model.load_state_dict(_parent(start or objective).state_dict())
    task = _task(case, objective)
    pruned = methods.compress(name, chosen, model, task)
    if not pruned.finetuned:
        task.finetune.fit(pruned.model, mask=pruned.mask)
    return _accuracy(pruned.model)


@torch.no_grad()
def _accuracy(model: torch.nn.Module) -> float:
    held_out = examples(_HELD_OUT, first=_IMAGES)
    logits = model.eval()(held_out.inputs(torch.arange(_HELD_OUT)))
    return float((logits.argmax(1) == held_out.labels).float().mean())


CHECKS: dict[str, Check] = {
    "described": Check(
        "says who made it and where it is described",
        "complete `info` and the docstrings: one-line texts, a summary that ends in a full stop, "
        "and in a file of this project the words `Source:` and `Departures`",
        _described,
    ),
    "settings": Check(
        "has settings that come back as they are spelled",
        "give each field a type of bool, int, float, Fraction, str or Literal and a default of "
        "that type, and raise ContractError in `__post_init__` for values without a meaning",
        _settings,
    ),
    "returns": Check(
        "returns `Pruned(model, mask)` for every structure and sparsity that it claims",
        "mend what was raised, or claim less: `structures` and `largest_sparsity` say what it can",
        _returns,
    ),
    "count": Check(
        "removes exactly the asked number of units, ties included",
        "select with `pruning.mask_from_scores`; a threshold keeps or drops all equal scores",
        _counted,
    ),
    "zeros": Check(
        "leaves removed weights exactly zero, and they stay so in finetuning",
        "call `mask.apply(model)` last, and leave no hook, buffer or thread that writes weights",
        _zeroed,
    ),
    "logits": Check(
        "returns a network with finite logits",
        "look for a division by a zero sum or an overflow of the loss",
        _finite,
    ),
    "gradients": Check(
        "returns a network that can be finetuned",
        "set `requires_grad` back on every parameter, and keep something of each layer at 50 %",
        _trainable,
    ),
    "bare": Check(
        "leaves nothing on the network",
        "remove hooks and parametrisations before you return, or train a copy",
        _bare,
    ),
    "repeats": Check(
        "gives the same bits for the same task",
        "draw from `task.generator` alone, and keep no state between calls",
        _repeatable,
    ),
    "processes": Check(
        "gives the same bits in another process",
        "do not depend on the order of sets, on `hash` or `id`, nor on the clock",
        _same_elsewhere,
    ),
    "resumes": Check(
        "goes on to the same bits after a kill",
        "train through `task.fit`, and carry what an algorithm needs from step to step in buffers "
        "of the module that is trained",
        _resumable,
    ),
    "budget": Check(
        "stays within the epochs that the task allows, 0 included",
        "train through `task.fit` and `task.finetune.fit`, plan by `task.prune.left`, and return "
        "`finetuned=True` if you finetune",
        _frugal,
    ),
    "silent": Check(
        "prints nothing",
        "remove prints, warnings and progress bars; the engine reports losses",
        _silent,
    ),
    "secluded": Check(
        "uses no file, socket or process",
        "take data from `task.split` and numbers from settings",
        _secluded,
    ),
    "global state": Check(
        "leaves global state alone: generators, threads, default types, the environment",
        "pass `generator=task.generator` to every draw, and set nothing global",
        _unmoved,
    ),
    "objectives": Check(
        "works under each objective that it claims",
        "wrap `task.objective` instead of replacing it, or name in `objectives` those that work",
        _versatile,
    ),
    "cost": Check(
        "takes little memory on a tiny network",
        "free what you keep of each step, and work layer by layer",
        _affordable,
    ),
    "dry run": Check(
        "prunes, finetunes and predicts on digits",
        "mend what was raised; it fails with training data that a board uses",
        _learns,
    ),
}


def ask(subject: Subject, name: str) -> Answer:
    """Returns the answer of one check; an error of the method's own is one of its problems."""
    try:
        return CHECKS[name].answer(subject)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a method may fail in any way
        return Answer((f"raised {methods.told(error)}",))
