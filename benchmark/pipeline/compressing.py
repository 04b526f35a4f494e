"""From a method to a checkpoint: pretrain (shared and cached), prune, finetune, write."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path

import torch

import methods
from benchmark import failures, weights
from benchmark.architectures import Classifier, initialise
from benchmark.datasets import Split, describe, load
from benchmark.digests import digest_of, seed_from, sha256_of_bytes, sha256_of_file
from benchmark.distributed import (
    choose_device,
    engine_digest,
    environment,
    map_jobs,
    steady,
)
from benchmark.errors import (
    BenchmarkError,
    ContractError,
    ManifestError,
    OutOfMemory,
    StorageError,
    shorten,
)
from benchmark.failures import Failure
from benchmark.files import alone, read_bounded, write_atomically
from benchmark.manifest import (
    LARGEST_WEIGHTS,
    Budget,
    Checkpoint,
    check_claim,
    checkpoint_id,
    empty_network,
    entry_from,
    find_description,
    is_whole,
    write_manifest,
)
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.protocols import PROTOCOLS
from benchmark.pruning import Structure, measure
from benchmark.recipes import RECIPES, objective_of, recipe
from benchmark.threat import ThreatModel
from benchmark.training import Run, Stage, fit

LICENCE = "MIT"

# What one network may run into without a bearing on others, such as a loss that became infinite.
_OWN_FAULT = (ContractError, OutOfMemory)


@dataclass(frozen=True)
class Order:
    """What to make: one checkpoint.

    Attributes:
        method: registered name, with the settings that differ from its defaults.
        architecture: architecture id.
        objective: training loss of all stages.
        structure: what is removed as a unit.
        sparsity: share of units removed.
        seed: of everything random.
        recipe: id; names the data set too.
    """

    method: str
    architecture: str
    objective: str
    structure: Structure
    sparsity: Fraction
    seed: int
    recipe: str


@dataclass(frozen=True)
class _Job:
    project: Project
    order: Order
    threads: int

    @property
    def states(self) -> Path:
        """Where the training states of this order lie while it is made, but for a suffix."""
        address = digest_of(
            {
                "order": self.order,
                "recipe": recipe(self.order.recipe).digest,
                "data": _data_of(self.project, self.order)[1],
                "threads": self.threads,
                "environment": environment(choose_device(self.project.device)),
                "engine": engine_digest(),
                "methods": methods_digest(),
            }
        )
        return self.project.cache / "training" / f"{address[:32]}.state"

    def forget(self) -> None:
        """Drops those states."""
        for state in self.states.parent.glob(f"{self.states.stem}-*"):
            state.unlink(missing_ok=True)  # another command may have made the same


@cache
def methods_digest() -> str:
    """Returns a digest of the methods' sources: a mended bug ends what was half trained."""
    files = sorted(Path(methods.__file__).parent.glob("*.py"))
    return digest_of([[file.name, sha256_of_file(file)] for file in files])


def plan_orders(
    names: Sequence[str], sparsities: Sequence[Fraction], template: Order
) -> tuple[list[Order], list[str]]:
    """Returns an order for each method and sparsity that it can reach, and why others are left out.

    A method that reaches only 0 (the dense control) is ordered once, at 0; at 0 the others would be
    that same network, so they are ordered only where they were asked for alone.

    Args:
        names: methods.
        sparsities: levels, for each of them.
        template: everything else of the orders.

    Returns:
        Orders, and one line for each departure from what was asked.

    Raises:
        UnknownName: no such method.
        ContractError: a method cannot remove that structure, or nothing is left to make.
    """
    levels = list(dict.fromkeys(sparsities))
    orders: list[Order] = []
    skipped: list[str] = []
    asked = [(name.partition(":")[0], methods.configured(name)) for name in names]
    kinds = {methods.spelling(*pair): type(pair[1]) for pair in asked}
    for name, kind in kinds.items():
        wanted, reasons = _reachable(name, kind, levels, template)
        orders += [replace(template, method=name, sparsity=level) for level in wanted]
        skipped += reasons
    if not orders:
        raise ContractError(f"expected something to make, got nothing: {'; '.join(skipped)}")
    return orders, skipped


def _reachable(
    name: str, kind: type[methods.Method], levels: Sequence[Fraction], template: Order
) -> tuple[list[Fraction], list[str]]:
    """Returns at which levels to make a method, and a line for each other one."""
    structure = template.structure
    if reason := methods.supports(kind, name, Fraction(0), structure, template.objective):
        raise ContractError(f"expected a combination that works, got: {reason}")
    wanted, reasons = [], []
    for level in levels:
        if reason := methods.supports(kind, name, level, structure):
            reasons.append(f"{reason}: skipped")
        elif level == 0 < kind.largest_sparsity and len(levels) > 1:
            reasons.append(f"{name} at 0 removes nothing: skipped")
        else:
            wanted.append(level)
    if not wanted and kind.largest_sparsity == 0:
        return [Fraction(0)], [*reasons, f"{name} is made at 0 instead"]
    return wanted, reasons


def threat_of(dataset: str) -> ThreatModel:
    """Returns the threat model that training for a data set defends against: its protocol's.

    Raises:
        ContractError: no protocol is defined on it.
    """
    for protocol in PROTOCOLS.values():
        if protocol.dataset == dataset:
            return protocol.threat
    raise ContractError(f"expected a data set with a protocol, got '{dataset}'")


def fresh_network(order: Order, description: object = None) -> Classifier:
    """Returns the untrained network of an order, drawn from its seed.

    Args:
        order: what to make.
        description: of its network, as JSON data; None for one of our table.
    """
    model = empty_network(order.architecture, recipe(order.recipe).dataset, description)
    initialise(model, torch.Generator().manual_seed(seed_from(order.seed, "weights")))
    return model


def _description(order: Order, project: Project) -> object:
    """Returns what describes an order's network, as JSON data; None for one of our table."""
    return find_description(project.manifest(), project.root, order.architecture)


def _run(project: Project, order: Order, stage: str, state: Path | None, watch: Watch) -> Run:
    dataset = recipe(order.recipe).dataset
    return Run(
        device=choose_device(project.device),
        seed=seed_from(order.seed, stage),
        augmentation=describe(dataset, None).augmentation,
        state=state,
        report=lambda done, epochs, loss: watch(done, epochs, f"{stage}, loss {loss:.3f}"),
    )


@lru_cache(maxsize=1)
def _training_data(dataset: str, root: Path | None, download: bool) -> tuple[Split, str]:
    """Returns a data set's training split and its digest; kept, since orders of a cell share it."""
    split = load(dataset, "train", root, download=download)
    return split, split.digest(torch.arange(len(split)))


def _data_of(project: Project, order: Order) -> tuple[Split, str]:
    return _training_data(recipe(order.recipe).dataset, project.data_root, project.download)


def pretrain_digest(job_order: Order, project: Project, threads: int) -> str:
    """Returns the digest of all that a pretrained network depends on."""
    chosen = recipe(job_order.recipe)
    threat = threat_of(chosen.dataset)
    return digest_of(
        {
            "data": _data_of(project, job_order)[1],
            "architecture": job_order.architecture,
            "objective": objective_of(job_order.objective, threat, chosen, "pretrain"),
            "stage": chosen.pretrain,
            "seed": job_order.seed,
            "threads": threads,
            "environment": environment(choose_device(project.device)),
            "engine": engine_digest(),
        }
    )


def pretrained(job: _Job, split: Split, watch: Watch) -> Classifier:
    """Returns the dense parent of an order, from the cache or trained now and cached.

    Of commands that run side by side one trains it, and the others wait for it.
    """
    project, order = job.project, job.order
    chosen = recipe(order.recipe)
    path = _parent_file(job)
    model = fresh_network(order, _description(order, project))
    with alone(path.with_suffix(".lock")):
        if path.exists():
            try:
                model.load_state_dict(weights.decode(read_bounded(path, LARGEST_WEIGHTS)))
            except (ManifestError, StorageError):
                path.unlink()
            else:
                return model
        objective = objective_of(order.objective, threat_of(chosen.dataset), chosen, "pretrain")
        run = _run(project, order, "pretrain", path.with_suffix(".state"), watch)
        fit(model, split, objective, chosen.pretrain, run)
        write_atomically(path, weights.encode(model.state_dict()))
        path.with_suffix(".state").unlink(missing_ok=True)
    return model


def _parent_file(job: _Job) -> Path:
    digest = pretrain_digest(job.order, job.project, job.threads)
    return job.project.cache / "pretrained" / f"{digest[:32]}.safetensors"


def _pretrain(job: _Job, watch: Watch) -> None:
    split, _ = _data_of(job.project, job.order)
    # Whoever starts from a parent that cannot be trained meets the same, and tells.
    with steady(job.threads), suppress(*_OWN_FAULT):
        pretrained(job, split, watch)


def parent_of(order: Order) -> Order | None:
    """Returns the order whose dense network a method starts from; None where it is untrained."""
    start = methods.start_of(methods.configured(order.method))
    if start == methods.UNTRAINED:
        return None
    return order if start == methods.PARENT else replace(order, objective=start)


def _started(job: _Job, split: Split, watch: Watch) -> Classifier:
    """Returns the network that the method of an order gets."""
    parent = parent_of(job.order)
    if parent is None:
        return fresh_network(job.order, _description(job.order, job.project))
    return pretrained(replace(job, order=parent), split, watch)


def compress(job: _Job, watch: Watch) -> Checkpoint:
    """Makes one checkpoint: weights on disk, manifest entry returned (the caller stores it)."""
    split, _ = _data_of(job.project, job.order)
    with steady(job.threads):
        model = _started(job, split, watch)
        clock = _Clock(job)
        task = _task(job, split, clock.kept_at_each(watch))
        _prune_and_finetune(job, model, task)
        hours = clock.seconds / 3600
    entry = _store(job, model, _budget(job, task, hours))
    job.forget()
    return entry


class _Clock:
    """What an order has taken, in all runs that it took; a kill loses what it undoes."""

    def __init__(self, job: _Job) -> None:
        self._file = job.states.with_name(f"{job.states.stem}-seconds")
        self._before = 0.0
        with suppress(FileNotFoundError, ManifestError, StorageError, ValueError):
            self._before = max(0.0, float(read_bounded(self._file, 100)))
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Returns the seconds until now."""
        return self._before + time.perf_counter() - self._start

    def kept_at_each(self, watch: Watch) -> Watch:
        """Returns a watch that keeps the time as well: it is told once an epoch is saved."""

        def tell(done: int, total: int, text: str, left: float | None = None) -> None:
            write_atomically(self._file, repr(self.seconds).encode(), durable=False)
            watch(done, total, text, left)

        return tell


def _task(job: _Job, split: Split, watch: Watch) -> methods.Task:
    """Returns what the method of an order is asked to do, and what it may spend."""
    chosen, seed = recipe(job.order.recipe), job.order.seed
    if parent_of(job.order) is None:
        # Whoever starts from random weights may train as long in all as those who do not.
        stage = replace(chosen.pretrain, epochs=chosen.pretrain.epochs + chosen.prune.epochs)
        prune = _training(job, "prune", split, watch, stage, ramp="pretrain")
    else:
        prune = _training(job, "prune", split, watch, chosen.prune)
    return methods.Task(
        sparsity=job.order.sparsity,
        structure=job.order.structure,
        generator=torch.Generator().manual_seed(seed_from(seed, "prune draws")),
        prune=prune,
        finetune=_training(job, "finetune", split, watch, chosen.finetune),
    )


def _training(
    job: _Job, name: str, split: Split, watch: Watch, stage: Stage, ramp: str = ""
) -> methods.Training:
    """Returns one stage of an order; `ramp` names the stage whose ramps its loss has, if others."""
    order, chosen = job.order, recipe(job.order.recipe)
    state = job.states.with_name(f"{job.states.stem}-{name}.state")
    return methods.Training(
        split=split,
        objective=objective_of(order.objective, threat_of(chosen.dataset), chosen, ramp or name),
        stage=stage,
        run=_run(job.project, order, name, state, watch),
    )


def _prune_and_finetune(job: _Job, model: Classifier, task: methods.Task) -> None:
    """Runs the method on the model, in place, and finetunes unless the method did."""
    method = job.order.method
    pruned = methods.compress(method, methods.configured(method), model, task)
    if pruned.model is not model:
        model.load_state_dict(pruned.model.state_dict())
    if not pruned.finetuned:
        task.finetune.fit(model, mask=pruned.mask)


def _store(job: _Job, model: Classifier, budget: Budget) -> Checkpoint:
    """Writes the weights and returns the manifest entry that describes them."""
    order, chosen = job.order, recipe(job.order.recipe)
    info = methods.configured(order.method).info
    model.cpu().to(memory_format=torch.contiguous_format)
    data = weights.encode(model.state_dict(), _description(order, job.project))
    found = measure(model, model.shape, order.structure)
    entry = entry_from(
        display_name=_title(order.method, info.title),
        method=order.method,
        dataset=chosen.dataset,
        architecture=order.architecture,
        objective=order.objective,
        structure=order.structure,
        sparsity=float(order.sparsity),
        seed=order.seed,
        zeros=found.zeros,
        prunable=found.total,
        authors=info.authors,
        paper=info.paper,
        code=info.code,
        licence=LICENCE,
        extra_data="",
        recipe=chosen.id,
        recipe_digest=chosen.digest,
        budget=budget,
        bytes=len(data),
        sha256=sha256_of_bytes(data),
    )
    check_claim(entry, model)
    write_atomically(job.project.root / entry.file, data)
    return entry


def _title(method: str, title: str) -> str:
    """Returns a method's name in tables, with the settings that differ from its defaults."""
    _, _, settings = method.partition(":")
    return f"{title} ({settings.replace(':', ', ')})" if settings else title


def _budget(job: _Job, task: methods.Task, hours: float) -> Budget:
    """Returns what was spent: on the dense parent, by the method, and on finetuning by whomever."""
    device = choose_device(job.project.device)
    parent = parent_of(job.order)
    return Budget(
        pretrain_epochs=recipe(job.order.recipe).pretrain.epochs if parent else 0,
        prune_epochs=task.prune.meter.epochs,
        finetune_epochs=task.finetune.meter.epochs,
        attack_steps=max(task.prune.meter.attack_steps, task.finetune.meter.attack_steps),
        hours=math.ceil(hours * 100) / 100,
        device=environment(device)["device"],
    )


def finished(project: Project, orders: Sequence[Order]) -> dict[Order, Checkpoint]:
    """Returns the checkpoints of those orders that are whole in the project, by the same recipe."""
    known = {entry.id: entry for entry in project.manifest().checkpoints}
    found = {}
    for order in orders:
        there = known.get(id_of(order))
        ours = there is not None and there.recipe_digest == recipe(order.recipe).digest
        if there is not None and ours and is_whole(there, project.root):
            found[order] = there
    return found


def compress_all(
    project: Project,
    orders: Sequence[Order],
    *,
    threads: int = 1,
    fresh: bool = False,
    keep_parents: bool = False,
    failed: dict[Order, BenchmarkError] | None = None,
    watch: Watch = silent,
) -> list[Checkpoint]:
    """Makes every ordered checkpoint that is not there yet and enters each into the manifest.

    Dense parents are trained first, one a cell; an order begins as soon as its own parent is there.
    The manifest is written after each, so a kill loses only those in flight, and their training
    resumes.

    Args:
        project: where things are, and on what they run.
        orders: what to make.
        threads: CPU threads of each training run; part of what makes it repeatable.
        fresh: make everything anew, dense parents included.
        keep_parents: but for those that are there already; they have the same bits.
        failed: takes the orders that could not be made, and why; without it the first such error
            is raised.
        watch: told after each piece.

    Raises:
        UnknownName: no such method, recipe or architecture.
        ContractError: an architecture that does not take the data, or, without `failed`, a network
            that cannot be trained.
    """
    if fresh:
        _forget(project, orders, threads, keep_parents)
    there = {} if fresh else finished(project, orders)
    wanted = [order for order in orders if order not in there]
    check_architectures(wanted, lambda order: _description(order, project))
    jobs = [_Job(project, order, threads) for order in wanted]
    device = choose_device(project.device)
    made = []

    def take(order: Order, found: Checkpoint | BenchmarkError) -> None:
        if isinstance(found, Checkpoint):
            made.append(_enter(project, found))
            return
        _keep_failure(project, order, found)
        if failed is None:
            raise found
        failed[order] = found

    # One worker trains a cell's parents where they are first needed.
    if project.workers.here(device, 1) and project.workers.on(device) == 1:
        for number, job in enumerate(jobs):
            take(job.order, _made(job, _prefixed(watch, job.order, number, len(jobs))))
        return made
    pieces, after = _pieces(jobs)
    if len(after) == len(jobs) and set(after.values()) == {0}:
        # All wait for one: it runs here, epoch by epoch on the progress bar.
        _pretrain(pieces[0].job, watch)
    work = map_jobs(_make, pieces, project.workers, device, after=after)
    for done, (piece, found) in enumerate(work, 1):
        order = piece.job.order
        if found is not None:
            take(order, found)
        watch(done, len(pieces), _outcome(order, found))
    return made


def check_architectures(
    orders: Iterable[Order], described: Callable[[Order], object] = lambda _: None
) -> None:
    """Refuses architectures that do not take a recipe's data: a mistake, and no failed training.

    Args:
        orders: what to make.
        described: returns what describes an order's network; None for one of our table.

    Raises:
        UnknownName: no such architecture.
        ContractError: one that does not take the data.
    """
    with torch.device("meta"):  # shapes alone; nothing is drawn
        for order in {(order.architecture, order.recipe): order for order in orders}.values():
            empty_network(order.architecture, recipe(order.recipe).dataset, described(order))


def _outcome(order: Order, found: Checkpoint | BenchmarkError | None) -> str:
    """Returns in words what came of a piece."""
    if isinstance(found, Checkpoint):
        return found.id
    if found is None:
        return f"pretrained {order.architecture}, {order.objective}"
    return f"{order.method} {float(order.sparsity) * 100:g} %, {order.objective}: failed"


@dataclass(frozen=True)
class _Piece:
    """What a worker does at a time: a dense parent, or a checkpoint from one."""

    job: _Job
    parent: bool


def _make(piece: _Piece) -> Checkpoint | BenchmarkError | None:
    """Trains a dense parent into the cache, or returns the entry of a checkpoint."""
    if not piece.parent:
        return _made(piece.job, silent)
    _pretrain(piece.job, silent)
    return None


def _made(job: _Job, watch: Watch) -> Checkpoint | BenchmarkError:
    """Returns the entry of a checkpoint, or why it could not be made."""
    try:
        return compress(job, watch)
    except _OWN_FAULT as error:
        return error


def _pieces(jobs: Sequence[_Job]) -> tuple[list[_Piece], dict[int, int]]:
    """Returns parents and then checkpoints, and which of these waits for which of those."""
    parents = _parents(jobs)
    places = {digest: place for place, digest in enumerate(parents)}
    pieces = [_Piece(job, parent=True) for job in parents.values()]
    after = {}
    for job in jobs:
        if parent := parent_of(job.order):
            digest = pretrain_digest(parent, job.project, job.threads)
            after[len(pieces)] = places[digest]
        pieces.append(_Piece(job, parent=False))
    return pieces, after


def _parents(jobs: Sequence[_Job]) -> dict[str, _Job]:
    """Returns a job for each dense parent that some jobs start from, by its digest."""
    starts = [(job, parent) for job in jobs if (parent := parent_of(job.order))]
    return {
        pretrain_digest(parent, job.project, job.threads): replace(job, order=parent)
        for job, parent in starts
    }


def _prefixed(watch: Watch, order: Order, number: int, count: int) -> Watch:
    def tell(done: int, total: int, text: str, left: float | None = None) -> None:
        share = f"{float(order.sparsity) * 100:g} %"
        watch(done, total, f"[{number + 1}/{count}] {order.method} {share}: {text}", left)

    return tell


def _enter(project: Project, entry: Checkpoint) -> Checkpoint:
    """Adds an entry to the manifest; commands that run side by side wait for each other."""
    with alone(project.manifest_lock):
        # In this order: a kill between the two leaves a network that is made again.
        failures.forget(project.failures, entry.id)
        write_manifest(project.manifest_path, project.manifest().with_entry(entry))
    return entry


def _keep_failure(project: Project, order: Order, error: BenchmarkError) -> None:
    """Writes down that a network could not be trained, where it would fail so elsewhere, too."""
    if isinstance(error, OutOfMemory):
        return
    chosen = recipe(order.recipe)
    failure = Failure(
        checkpoint_id=id_of(order),
        recipe=chosen.id,
        recipe_digest=chosen.digest,
        error=shorten(str(error), 400),
        environment=dict(environment(choose_device(project.device))),
    )
    failures.write(project.failures, failure)


def id_of(order: Order) -> str:
    """Returns the id of the checkpoint that an order asks for."""
    level = float(order.sparsity)  # as the manifest has it
    fields = asdict(order) | {"dataset": recipe(order.recipe).dataset, "sparsity": level}
    return checkpoint_id(Checkpoint.model_construct(**fields))


def failures_of(project: Project) -> list[Failure]:
    """Returns the failures of training that still say something: see `failures.standing`.

    Raises:
        RecordError: one is damaged.
    """
    digests = {name: one.digest for name, one in RECIPES.items()}
    known = failures.read_all(project.failures)
    return failures.standing(known, digests, project.manifest().checkpoints)


def _forget(project: Project, orders: Sequence[Order], threads: int, keep_parents: bool) -> None:
    """Drops what some orders left half trained and, if so wanted, their dense parents."""
    jobs = [_Job(project, order, threads) for order in orders]
    for job in jobs:
        job.forget()
    for parent in () if keep_parents else _parents(jobs).values():
        path = _parent_file(parent)
        for file in (path, path.with_suffix(".state")):
            file.unlink(missing_ok=True)
