"""The registry of pruning methods: the contract, how methods are found, and what is checked.

A method is one file in this folder, or an entry point of the group `robustprune.methods` in any
installed package. Its file is loaded when the method is looked up, not when the registry is, so a
broken plug-in cannot break the listing. First-party files get no privilege.

Two sanity controls come with every method, `shuffled-<method>` and `reinitialised-<method>`: its
mask shuffled within each layer, and its kept weights drawn anew (`_sanity_controls.py`).

A method is spelled `name:field=value:field=value` where it departs from its defaults; `spelling`
and `configured` know that grammar, and nothing else does.
"""

import contextlib
import dataclasses
import importlib
import io
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import EntryPoint, distributions
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

import torch
from torch import Tensor, nn

from benchmark.datasets import Split
from benchmark.digests import seed_from
from benchmark.errors import BenchmarkError, ContractError, lookup, shorten
from benchmark.objectives import OBJECTIVES, Objective
from benchmark.pruning import (
    STRUCTURES,
    Mask,
    Scope,
    Structure,
    check_mask,
    prunable_parameters,
)
from benchmark.training import Run, Stage, fit

GROUP = "robustprune.methods"

# Names become parts of checkpoint ids, file names and addresses. Ids allow 64 letters a part, which
# leaves room for a control's prefix.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST_NAME = 48
_LONGEST_SPELLING = 64

# Where a method may start from, apart from a dense parent trained under a named objective.
PARENT = ""
UNTRAINED = "random"

# How yes and no are spelled in settings.
_WORDS = {"yes": True, "no": False}

# The first word of a control's name, which is also the function that derives it from its parent.
_DERIVED = ("reinitialised", "shuffled")
_DERIVATIONS = f"{__name__}._sanity_controls"
_DERIVED_PLACES = tuple(f"{_DERIVATIONS}.{word}" for word in _DERIVED)

# The dense control removes nothing that could be shuffled. Which other methods reach only 0 is not
# known before they are loaded; their controls are listed, and refused when looked up.
_WITHOUT_CONTROLS = ("dense",)


@dataclass(frozen=True)
class Info:
    """Who made a method and where it is described; copied into manifest entries.

    Attributes:
        title: name in tables.
        authors: of the method.
        paper: reference with year and, where there is one, arXiv number.
        code: address of the authors' code, or empty.
        summary: one sentence.
    """

    title: str
    authors: tuple[str, ...]
    paper: str
    code: str
    summary: str


@dataclass(frozen=True)
class Training:
    """One stage of training that a method may spend.

    Attributes:
        split: training examples; never test data.
        objective: the loss of this cell in this stage, which every method of the cell shares.
        stage: what the method may spend, in all, and the settings it is spent with.
        run: device, seed, augmentation and a file for resumption.
        meter: counts what was spent.
    """

    split: Split
    objective: Objective
    stage: Stage
    run: Run
    meter: "Meter" = dataclasses.field(default_factory=lambda: Meter())

    @property
    def left(self) -> int:
        """Epochs that may still be spent."""
        return self.stage.epochs - self.meter.epochs

    def fit(
        self,
        model: nn.Module,
        *,
        epochs: int | None = None,
        mask: Mask | None = None,
        objective: Objective | None = None,
        stage: Stage | None = None,
    ) -> tuple[float, ...]:
        """Trains a model in place and returns the mean loss of each epoch.

        May be called several times; each call is resumable and has draws of its own.

        Args:
            model: what is trained: the network, or a wrapper whose buffers carry what an algorithm
                needs from step to step.
            epochs: how many of the stage's; all that are left by default.
            mask: entries held at zero meanwhile.
            objective: the cell's loss by default; a method may wrap it, or bring its own.
            stage: other settings than the stage's own; `epochs` counts, not the one in here.

        Raises:
            ContractError: more epochs in all than the stage allows.
        """
        wanted = self.left if epochs is None else epochs
        if wanted > self.left:
            raise ContractError(
                f"expected at most {self.stage.epochs} epochs of training, got "
                f"{self.meter.epochs + wanted}; plan within the task's stages"
            )
        loss = objective or self.objective
        self.meter.epochs += wanted
        self.meter.calls += 1
        if wanted:
            self.meter.attack_steps = max(self.meter.attack_steps, loss.attack_steps)
        settings = dataclasses.replace(stage or self.stage, epochs=wanted)
        return fit(model, self.split, loss, settings, self._run(mask))

    def _run(self, mask: Mask | None) -> Run:
        call, run = self.meter.calls, self.run
        state = run.state and run.state.with_name(f"{run.state.stem}-{call}{run.state.suffix}")
        seed = run.seed if call == 1 else seed_from(run.seed, call)
        return dataclasses.replace(run, mask=mask, state=state, seed=seed)


@dataclass
class Meter:
    """What a method spent so far in one stage.

    Attributes:
        epochs: of training.
        calls: of `Training.fit`.
        attack_steps: most gradient steps of an inner attack that a batch cost.
    """

    epochs: int = 0
    calls: int = 0
    attack_steps: int = 0


@dataclass(frozen=True)
class Task:
    """What the engine hands a method.

    The prune stage is short for `task`: `task.fit` is `task.prune.fit`, and so on.

    Attributes:
        sparsity: share of units to remove, exact, in [0, 1].
        structure: what a unit is.
        generator: source of every draw outside training, on the CPU.
        prune: what the method may spend on finding its mask.
        finetune: what is then spent on the surviving weights; by the engine, unless the method does
            it itself and says so (`Pruned.finetuned`).
    """

    sparsity: Fraction
    structure: Structure
    generator: torch.Generator
    prune: Training
    finetune: Training

    @property
    def split(self) -> Split:
        """Training examples; never test data."""
        return self.prune.split

    @property
    def objective(self) -> Objective:
        """The loss of this cell while it is pruned."""
        return self.prune.objective

    @property
    def stage(self) -> Stage:
        """What the method may spend on finding its mask."""
        return self.prune.stage

    @property
    def run(self) -> Run:
        """Device, seed and augmentation."""
        return self.prune.run

    @property
    def meter(self) -> Meter:
        """What was spent on finding the mask."""
        return self.prune.meter

    @property
    def fit(self) -> Callable[..., tuple[float, ...]]:
        """Trains in the prune stage; see `Training.fit`."""
        return self.prune.fit


@dataclass(frozen=True)
class Pruned:
    """What a method hands back.

    Attributes:
        model: the network, its removed weights exactly zero.
        mask: what was removed.
        finetuned: the method spent `task.finetune` itself, or wants none of it; the engine leaves
            the weights as they are.
    """

    model: nn.Module
    mask: Mask
    finetuned: bool = False


@runtime_checkable
class Method(Protocol):
    """The contract: a frozen dataclass of hyper-parameters, all with defaults, with one verb.

    Attributes:
        info: who and where.
        structures: what it can remove.
        scope: whether each layer or only the whole meets the sparsity exactly.
        largest_sparsity: in [0, 1]; 0 for the dense control.

    Two more attributes are optional. `start`, a field or a class attribute, says which network the
    method gets: the cell's dense parent (empty, the default), an untrained one (`random`; the prune
    stage then holds the epochs of pretraining too), or the dense parent trained under another
    objective (its name). `objectives` names those it works with, where these are not all.
    """

    info: ClassVar[Info]
    structures: ClassVar[tuple[Structure, ...]]
    scope: ClassVar[Scope]
    largest_sparsity: ClassVar[Fraction]

    def compress(self, model: nn.Module, task: Task) -> Pruned:
        """Returns the pruned network; may train `model` in place through the task."""


MethodType = TypeVar("MethodType", bound=type)

_registered: dict[str, type] = {}


def register(name: str) -> Callable[[MethodType], MethodType]:
    """Returns a class decorator that registers a method under a name.

    Args:
        name: lower-case words joined by hyphens, such as `lwm-global`.

    Raises:
        ContractError: the class lacks a part of the contract, or the name belongs to another class.
    """

    def decorate(method: MethodType) -> MethodType:
        if reason := _shortcoming(name, method):
            raise ContractError(
                f"expected method '{shorten(name)}' to keep the contract, got {reason}"
            )
        known = _registered.get(name, method)
        owner = _files().get(name, method.__module__)
        inside = f"{method.__module__}.".startswith(f"{owner}.")
        if _address(known) != _address(method) or not inside:
            raise ContractError(
                f"expected a new name for {_address(method)}, got '{shorten(name)}', which belongs "
                f"to {owner if known is method else _address(known)}"
            )
        _registered[name] = method
        return method

    return decorate


def forget(name: str) -> None:
    """Forgets a method that was registered in this process."""
    _registered.pop(name, None)


def misnamed(name: str) -> str:
    """Returns why no method can have this name, or an empty string if one can."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        return f"a name that is not lower-case words joined by hyphens, {_LONGEST_NAME} letters"
    if name.startswith(_prefixes()):
        return f"a name that begins with {' or '.join(_prefixes())}, which is kept for controls"
    return ""


def _shortcoming(name: str, method: object) -> str:
    """Returns what a class lacks of the contract, or an empty string."""
    parts = ("info", "structures", "scope", "largest_sparsity", "compress")
    missing = [part for part in parts if not hasattr(method, part)]
    if reason := misnamed(name):
        return reason
    if not isinstance(method, type) or not dataclasses.is_dataclass(method):
        return "something else than a dataclass"
    if missing:
        return f"a dataclass without {', '.join(missing)}"
    if not getattr(method, "__dataclass_params__").frozen:  # noqa: B009  # unknown to type checkers
        return "a dataclass that is not frozen"
    return _misdeclared(method)


def _misdeclared(method: type) -> str:
    """Returns which attributes of a method have values that the engine cannot work with."""
    kind: type[Method] = method
    known = {
        "info": isinstance(kind.info, Info) and _worded(kind.info),
        "structures": len(kind.structures) > 0 and set(kind.structures) <= set(STRUCTURES),
        "scope": kind.scope in get_args(Scope),
        "largest_sparsity": isinstance(kind.largest_sparsity, Fraction)
        and 0 <= kind.largest_sparsity <= 1,
    }
    known["objectives"] = set(_objectives(kind)) <= OBJECTIVES.keys()
    empty = (dataclasses.MISSING, dataclasses.MISSING)
    for field in dataclasses.fields(method):
        known[field.name] = (field.default, field.default_factory) != empty
    wrong = [name for name, right in known.items() if not right]
    return f"no default, or an unknown value, for {', '.join(wrong)}" if wrong else ""


def _worded(info: Info) -> bool:
    """Returns whether all of it is text, as tables and manifests need it."""
    words = (info.title, *info.authors, info.paper, info.code, info.summary)
    return isinstance(info.authors, tuple) and all(isinstance(word, str) for word in words)


def _address(method: type) -> str:
    return f"{method.__module__}.{method.__qualname__}"


def _files() -> dict[str, str]:
    """Returns the modules of this folder by method name, without importing them."""
    return {
        module.name.replace("_", "-"): f"{__name__}.{module.name}"
        for module in pkgutil.iter_modules(__path__)
        if not module.name.startswith("_")
    }


def _sources() -> dict[str, list[tuple[str, Callable[[], object]]]]:
    """Returns, by method name, every place it comes from and what loads it from there."""
    sources: dict[str, list[tuple[str, Callable[[], object]]]] = {}
    for name, module in _files().items():
        sources.setdefault(name, []).append((module, _loader(name, module)))
    for entry in _entry_points():
        # One package seen through two folders of the path is still one.
        if entry.value not in [place for place, _ in sources.get(entry.name, [])]:
            sources.setdefault(entry.name, []).append((entry.value, entry.load))
    for name, kind in _registered.items():
        sources.setdefault(name, [(_address(kind), _constant(kind))])
    for parent in _parents(sources):
        for prefix, place in zip(_DERIVED, _DERIVED_PLACES, strict=True):
            sources.setdefault(f"{prefix}-{parent}", []).append((place, _deriver(prefix, parent)))
    return sources


def own_names() -> list[str]:
    """Returns the names of this folder's methods; nothing is loaded."""
    return sorted(_files())


def _entry_points() -> Iterator[EntryPoint]:
    """Yields the group's entry points of every installed package.

    Of two versions of a package the first on the path counts, as for an import. A package whose
    metadata cannot be read has no methods, and all others keep theirs.
    """
    seen = set()
    for distribution in distributions():
        try:
            found = [entry for entry in distribution.entry_points if entry.group == GROUP]
            package = distribution.metadata["Name"] if found else ""
        except Exception:  # whatever an installer, or nobody, wrote there
            continue
        if found and package not in seen:
            yield from found
            seen.add(package)


def _constant(kind: type) -> Callable[[], object]:
    return lambda: kind


def _prefixes() -> tuple[str, ...]:
    return tuple(f"{word}-" for word in _DERIVED)


def _parents(names: Iterable[str]) -> list[str]:
    """Returns the names that controls are derived from: all that a method may be registered by."""
    return [name for name in names if _NAME.fullmatch(name) and not name.startswith(_prefixes())]


def _deriver(prefix: str, parent: str) -> Callable[[], object]:
    def load() -> object:
        kind = method(parent)
        if kind.largest_sparsity == 0:
            raise ContractError(
                f"expected a control of a method that prunes, got '{prefix}-{parent}': {parent} "
                "reaches only sparsity 0; use it as it is"
            )
        derived: object = getattr(importlib.import_module(_DERIVATIONS), prefix)(parent, kind)
        return derived

    return load


def names() -> list[str]:
    """Returns the names of all methods: this folder's, installed plug-ins', registered ones.

    The sanity controls of each are among them, but for those of the dense control. Nothing is
    loaded, so a control is listed even if its parent turns out to be broken.
    """
    without = {f"{prefix}-{name}" for prefix in _DERIVED for name in _WITHOUT_CONTROLS}
    return sorted(_sources().keys() - without)


def controls() -> dict[str, str]:
    """Returns the listed sanity controls, by name, and the method that each is derived from."""
    known = set(names())
    pairs = {f"{p}-{name}": name for name in _parents(known) for p in _DERIVED}
    return {control: pairs[control] for control in sorted(pairs.keys() & known)}


def method(name: str) -> type[Method]:
    """Returns a method class by name, loading its file.

    Raises:
        UnknownName: no such method; near matches are named.
        ContractError: its file does not load, or does not register that name, or several packages
            claim it; or a control of a method that reaches only sparsity 0.
    """
    sources = _sources()
    places = sources.get(name) or lookup("method", name, {key: sources[key] for key in names()})
    if len(places) > 1:
        raise ContractError(
            f"expected one source of method '{shorten(name)}', got "
            f"{' and '.join(place for place, _ in places)}; uninstall or rename one"
        )
    return _loaded(name, *places[0])


def _loaded(name: str, place: str, load: Callable[[], object]) -> type[Method]:
    try:
        # What a plug-in prints while it loads is no part of a command's output.
        with contextlib.redirect_stdout(io.StringIO()):
            loaded = load()
        if not isinstance(loaded, type):
            raise ContractError(
                f"expected method '{shorten(name)}' to be a class, got {type(loaded).__name__}"
            )
        # A control is checked as its parent was; nobody else may register its name.
        return loaded if place in _DERIVED_PLACES else register(name)(loaded)
    except (BenchmarkError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plug-in may fail in any way while it loads
        raise ContractError(
            f"expected method '{shorten(name)}' to load from {shorten(place)}, got {told(error)}"
        ) from error


def told(error: BaseException) -> str:
    """Returns the kind of an error and what it says, as one line, however it was written."""
    try:
        text = str(error)
    except Exception:
        text = "an error without words"
    return f"{shorten(type(error).__name__)}: {shorten(text, 200)}"


def _loader(name: str, module: str) -> Callable[[], object]:
    def load() -> object:
        importlib.import_module(module)
        if name not in _registered:
            raise ContractError(f"expected {module} to register '{name}', got no such name")
        return _registered[name]

    return load


def configured(spelling: str) -> Method:
    """Returns a method with its settings, from `name` or `name:field=value:field=value`.

    Underscores of field names are spelled as hyphens, truth values `yes` and `no`. A sanity control
    takes the settings of its parent.

    Raises:
        UnknownName: no such method, field or start; near matches are named.
        ContractError: a value of another kind, or one that the method refuses; or a spelling too
            long for a checkpoint id.
    """
    if len(spelling) > _LONGEST_SPELLING:
        raise ContractError(
            f"expected at most {_LONGEST_SPELLING} letters of a method and its settings, got "
            f"{len(spelling)} in '{shorten(spelling)}'; register a method of its own"
        )
    name, *settings = spelling.split(":")
    kind: Any = method(name)
    if parent := _parent(name):
        control: Method = kind(parent=configured(":".join([parent, *settings])))
        return control
    fields = {field.name.replace("_", "-"): field.name for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    values = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        field = lookup(f"setting of {name}", key, fields)
        if field in values:
            raise ContractError(f"expected each setting of {name} once, got {shorten(key)} twice")
        values[field] = _read(hints[field], text, f"{name}:{key}")
    chosen: Method = kind(**values)
    start_of(chosen)  # refuses a start that is not known
    return chosen


def _parent(name: str) -> str:
    """Returns the method that a control is derived from; empty for other methods."""
    found = [name.removeprefix(prefix) for prefix in _prefixes() if name.startswith(prefix)]
    return found[0] if found else ""


def _read(hint: object, text: str, place: str) -> object:
    """Returns the value that a setting spells, of the field's type.

    Raises:
        ContractError: a value of another kind.
    """
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    try:
        if choices:
            return {str(choice): choice for choice in choices}[text]
        if hint is bool:
            return _WORDS[text]
        # Only numbers that a spelling, and so an id and a file name, can hold.
        if hint in (int, float, Fraction) and re.fullmatch(r"-?[0-9.]+(e-?[0-9]{1,3})?", text):
            value: Any = hint(text)
            if math.isfinite(value):
                return value
        if hint is str and (not text or _NAME.fullmatch(text)):
            return text
    except (KeyError, ValueError):
        pass
    kind = " or ".join(map(str, choices)) or _KINDS.get(hint, "nothing: it cannot be set here")
    raise ContractError(f"expected {shorten(place)} to be {kind}, got '{shorten(text)}'")


_KINDS: dict[object, str] = {
    bool: "yes or no",
    int: "a whole number",
    float: "a number",
    Fraction: "a number",
    str: "a lower-case name",
}


def spelling(name: str, chosen: Method) -> str:
    """Returns how a configured method is spelled: its name, and what differs from the defaults.

    >>> spelling("lwm-global", configured("lwm-global"))
    'lwm-global'
    """
    if parent := _parent(name):
        plain: Any = chosen
        return name.removesuffix(parent) + spelling(parent, plain.parent)
    default: Any = type(chosen)()
    parts = [name]
    for field in dataclasses.fields(default):
        value = getattr(chosen, field.name)
        if value != getattr(default, field.name):
            parts.append(f"{field.name.replace('_', '-')}={spelled(value)}")
    return ":".join(parts)


def spelled(value: object) -> str:
    """Returns how the value of a setting is spelled, so that an id and a file name can hold it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(float(value) if isinstance(value, Fraction) else value).replace("e+", "e")


def start_of(chosen: Method) -> str:
    """Returns which network a method gets: `PARENT`, `UNTRAINED`, or the name of an objective.

    Raises:
        UnknownName: something else.
    """
    start: str = getattr(chosen, "start", PARENT)
    return start if start in (PARENT, UNTRAINED) else lookup("start", start, _STARTS)


_STARTS = {UNTRAINED: UNTRAINED} | {name: name for name in OBJECTIVES}


def _objectives(kind: type[Method]) -> tuple[str, ...]:
    """Returns the objectives that a method works with."""
    named: tuple[str, ...] = getattr(kind, "objectives", tuple(OBJECTIVES))
    return named


def supports(
    kind: type[Method], name: str, sparsity: Fraction, structure: Structure, objective: str = ""
) -> str:
    """Returns why a method cannot do this, or an empty string if it can.

    Args:
        kind: the method.
        name: how it is called in the answer.
        sparsity: share of units removed.
        structure: what a unit is.
        objective: the cell's; empty asks about none.
    """
    if structure not in kind.structures:
        return f"{name} prunes {', '.join(kind.structures)}, not {structure}"
    if objective and objective not in _objectives(kind):
        return f"{name} works under {', '.join(_objectives(kind))}, not {objective}"
    if sparsity > kind.largest_sparsity:
        return f"{name} reaches sparsity {float(kind.largest_sparsity):g}, not {float(sparsity):g}"
    return ""


def compress(name: str, chosen: Method, model: nn.Module, task: Task) -> Pruned:
    """Runs a method and checks everything it promises.

    Args:
        name: of the method, for messages.
        chosen: the method with its hyper-parameters.
        model: the pretrained network; the method may change it.
        task: what it gets.

    Raises:
        ContractError: names the method and the broken promise.
    """
    if reason := supports(type(chosen), name, task.sparsity, task.structure):
        raise ContractError(f"expected a combination that works, got: {reason}")
    given = tensors_of(model)
    try:
        pruned = chosen.compress(model, task)
        for check in PROMISES.values():
            check(pruned, given, chosen, task)
    except ContractError as error:
        raise ContractError(f"method '{name}' broke its contract: {error}") from error
    return pruned


Tensors = dict[str, tuple[torch.Size, torch.dtype]]


def tensors_of(model: nn.Module) -> Tensors:
    """Returns shape and dtype of each tensor of a network."""
    return {key: (tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()}


def _check_result(pruned: Pruned, given: Tensors, chosen: Method, task: Task) -> None:
    if not isinstance(pruned, Pruned) or not isinstance(pruned.mask, Mask):
        raise ContractError(f"expected Pruned(model, Mask), got {type(pruned).__name__}")
    if tensors_of(pruned.model) != given:
        raise ContractError("expected the tensors of the network it was given, got others")


def _check_count(pruned: Pruned, given: Tensors, chosen: Method, task: Task) -> None:
    check_mask(pruned.mask, pruned.model, task.sparsity, chosen.scope, task.structure)


def _check_zeros(pruned: Pruned, given: Tensors, chosen: Method, task: Task) -> None:
    parameters = prunable_parameters(pruned.model)
    for key, kept in pruned.mask.items():
        if bool((parameters[key].detach().cpu()[~kept] != 0).any()):
            raise ContractError(f"expected removed weights of {key} to be exactly 0, got others")


def _check_trainable(pruned: Pruned, given: Tensors, chosen: Method, task: Task) -> None:
    # Finetuning would leave a frozen weight as it is without a word.
    if frozen := [key for key, p in pruned.model.named_parameters() if not p.requires_grad]:
        raise ContractError(f"expected parameters that can be finetuned, got frozen {frozen[0]}")


def _check_logits(pruned: Pruned, given: Tensors, chosen: Method, task: Task) -> None:
    if not bool(torch.isfinite(_logits(pruned.model, task.split)).all()):
        raise ContractError("expected finite logits, got NaN or infinity")


# What is checked of every result, in this order: each rests on those before it.
PROMISES: dict[str, Callable[[Pruned, Tensors, Method, Task], None]] = {
    "result": _check_result,
    "count": _check_count,
    "zeros": _check_zeros,
    "trainable": _check_trainable,
    "logits": _check_logits,
}


@torch.no_grad()
def _logits(model: nn.Module, split: Split) -> Tensor:
    """Returns (n, K) logits of the first few training examples, in eval mode."""
    device = next(model.parameters()).device
    inputs = split.inputs(torch.arange(min(8, len(split)))).to(device)
    modes = [(module, module.training) for module in model.modules()]
    logits: Tensor = model.eval()(inputs)
    for module, training in modes:
        module.training = training
    return logits
