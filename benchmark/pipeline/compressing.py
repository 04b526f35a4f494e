"""From a method to a checkpoint: pretrain (shared and cached), prune, finetune, write."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

import methods
from benchmark import weights
from benchmark.architectures import Classifier, build, initialise
from benchmark.datasets import Split, describe, load
from benchmark.digests import digest_of, seed_from, sha256_of_bytes
from benchmark.distributed import (
    choose_device,
    choose_workers,
    environment,
    map_jobs,
    steady,
    timed,
)
from benchmark.errors import ContractError, ManifestError, StorageError
from benchmark.files import read_bounded, write_atomically
from benchmark.manifest import (
    LARGEST_WEIGHTS,
    Budget,
    Checkpoint,
    checkpoint_id,
    write_manifest,
)
from benchmark.pipeline.project import Project, Watch, silent
from benchmark.protocols import PROTOCOLS
from benchmark.pruning import Mask, Structure, as_sparsity, measure
from benchmark.recipes import Recipe, objective_of, recipe
from benchmark.records import slug
from benchmark.threat import ThreatModel
from benchmark.training import Run, Stage, fit

LICENCE = "MIT"


@dataclass(frozen=True)
class Order:
    """What to make: one checkpoint.

    Attributes:
        method: registered name.
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


def plan_orders(
    names: Sequence[str], sparsities: Sequence[Fraction], template: Order
) -> list[Order]:
    """Returns an order for each method and sparsity that it can reach.

    A method that reaches only 0 (the dense control) is ordered once, at 0; at 0 the others would be
    that same network, so they are ordered only where they were asked for alone.
    """
    orders = []
    for name in names:
        kind = methods.method(name)
        wanted = [s for s in sparsities if s <= kind.largest_sparsity]
        if kind.largest_sparsity > 0 and len(sparsities) > 1:
            wanted = [s for s in wanted if s > 0]
        if not wanted and kind.largest_sparsity == 0:
            wanted = [Fraction(0)]
        orders += [replace(template, method=name, sparsity=s) for s in wanted]
    return orders


def threat_of(dataset: str) -> ThreatModel:
    """Returns the threat model that training for a data set defends against: its protocol's.

    Raises:
        ContractError: no protocol is defined on it.
    """
    for protocol in PROTOCOLS.values():
        if protocol.dataset == dataset:
            return protocol.threat
    raise ContractError(f"expected a data set with a protocol, got '{dataset}'")


def fresh_network(order: Order) -> Classifier:
    """Returns the untrained network of an order, drawn from its seed."""
    description = describe(recipe(order.recipe).dataset, None)
    model = build(
        order.architecture,
        shape=description.shape,
        classes=description.classes,
        mean=description.mean,
        std=description.std,
    )
    initialise(model, torch.Generator().manual_seed(seed_from(order.seed, "weights")))
    return model


def _run(project: Project, order: Order, stage: str, state: Path | None, watch: Watch) -> Run:
    dataset = recipe(order.recipe).dataset
    return Run(
        device=choose_device(project.device),
        seed=seed_from(order.seed, stage),
        augmentation=describe(dataset, None).augmentation,
        state=state,
        report=lambda done, epochs, loss: watch(done, epochs, f"{stage}, loss {loss:.3f}"),
    )


def pretrain_digest(job_order: Order, project: Project, threads: int) -> str:
    """Returns the digest of all that a pretrained network depends on."""
    chosen = recipe(job_order.recipe)
    split = load(chosen.dataset, "train", project.data_root, download=project.download)
    threat = threat_of(chosen.dataset)
    return digest_of(
        {
            "data": split.digest(torch.arange(len(split))),
            "architecture": job_order.architecture,
            "objective": objective_of(job_order.objective, threat, chosen, "pretrain"),
            "stage": chosen.pretrain,
            "seed": job_order.seed,
            "threads": threads,
            "environment": environment(choose_device(project.device)),
        }
    )


def pretrained(job: _Job, split: Split, watch: Watch) -> Classifier:
    """Returns the dense parent of an order, from the cache or trained now and cached."""
    project, order = job.project, job.order
    chosen = recipe(order.recipe)
    digest = pretrain_digest(order, project, job.threads)
    path = project.cache / "pretrained" / f"{digest[:32]}.safetensors"
    model = fresh_network(order)
    if path.exists():
        try:
            model.load_state_dict(weights.decode(read_bounded(path, LARGEST_WEIGHTS)))
        except (ManifestError, StorageError):
            path.unlink()
        else:
            return model
    objective = objective_of(order.objective, threat_of(chosen.dataset), chosen, "pretrain")
    state = path.with_suffix(".state")
    fit(model, split, objective, chosen.pretrain, _run(project, order, "pretrain", state, watch))
    write_atomically(path, weights.encode(model.state_dict()))
    state.unlink(missing_ok=True)
    return model


def _pretrain_job(job: _Job) -> None:
    _pretrain(job, silent)


def _pretrain(job: _Job, watch: Watch) -> None:
    chosen = recipe(job.order.recipe)
    split = load(chosen.dataset, "train", job.project.data_root, download=job.project.download)
    with steady(job.threads):
        pretrained(job, split, watch)


def _compress_job(job: _Job) -> Checkpoint:
    return compress(job, silent)


def compress(job: _Job, watch: Watch) -> Checkpoint:
    """Makes one checkpoint: weights on disk, manifest entry returned (the caller stores it)."""
    chosen = recipe(job.order.recipe)
    split = load(chosen.dataset, "train", job.project.data_root, download=job.project.download)
    with steady(job.threads):
        model = pretrained(job, split, watch)
        mask, prune_seconds = timed(lambda: _prune(job, model, split, watch))
        _, tune_seconds = timed(lambda: _finetune(job, model, mask, split, watch))
    return _store(job, model, (prune_seconds + tune_seconds) / 3600)


def _prune(job: _Job, model: Classifier, split: Split, watch: Watch) -> Mask:
    order, chosen = job.order, recipe(job.order.recipe)
    task = methods.Task(
        sparsity=order.sparsity,
        structure=order.structure,
        split=split,
        objective=objective_of(order.objective, threat_of(chosen.dataset), chosen, "prune"),
        stage=chosen.prune,
        run=_run(job.project, order, "prune", None, watch),
        generator=torch.Generator().manual_seed(seed_from(order.seed, "prune draws")),
    )
    pruned = methods.compress(order.method, methods.method(order.method)(), model, task)
    if pruned.model is not model:
        model.load_state_dict(pruned.model.state_dict())
    return pruned.mask


def _finetune(job: _Job, model: Classifier, mask: Mask, split: Split, watch: Watch) -> None:
    order, chosen = job.order, recipe(job.order.recipe)
    objective = objective_of(order.objective, threat_of(chosen.dataset), chosen, "finetune")
    digest = digest_of(
        {
            "order": [order.method, order.structure, order.sparsity, order.seed],
            "parent": pretrain_digest(order, job.project, job.threads),
            "recipe": chosen.digest,
            "start": sha256_of_bytes(weights.encode(model.state_dict())),
        }
    )
    state = job.project.cache / "finetuning" / f"{digest[:32]}.state"
    run = replace(_run(job.project, order, "finetune", state, watch), mask=mask)
    fit(model, split, objective, chosen.finetune, run)
    state.unlink(missing_ok=True)


def _store(job: _Job, model: Classifier, hours: float) -> Checkpoint:
    """Writes the weights and returns the manifest entry that describes them."""
    order, chosen, kind = job.order, recipe(job.order.recipe), methods.method(job.order.method)
    model.cpu().to(memory_format=torch.contiguous_format)
    data = weights.encode(model.state_dict())
    found = measure(model, model.shape, order.structure)
    objective = objective_of(order.objective, threat_of(chosen.dataset), chosen, "finetune")
    draft = Checkpoint.model_construct(
        display_name=kind.info.title,
        method=order.method,
        dataset=chosen.dataset,
        architecture=order.architecture,
        objective=order.objective,
        structure=order.structure,
        sparsity=float(order.sparsity),
        seed=order.seed,
        zeros=found.zeros,
        prunable=found.total,
        authors=kind.info.authors,
        paper=kind.info.paper,
        code=kind.info.code,
        licence=LICENCE,
        extra_data="",
        recipe=chosen.id,
        recipe_digest=chosen.digest,
        budget=_budget(chosen, kind, objective.attack_steps, hours, job.project),
        bytes=len(data),
        sha256=sha256_of_bytes(data),
    )
    name = checkpoint_id(draft)
    file = f"checkpoints/{chosen.dataset}/{slug(name)}.safetensors"
    # Validated again from plain data: what is written is what a reader will accept.
    entry = Checkpoint.model_validate(
        {**draft.model_dump(exclude_unset=True, warnings=False), "id": name, "file": file}
    )
    write_atomically(job.project.root / file, data)
    return entry


def _budget(
    chosen: Recipe, kind: type[methods.Method], attack_steps: int, hours: float, project: Project
) -> Budget:
    stages: tuple[Stage, ...] = (chosen.pretrain, chosen.prune, chosen.finetune)
    pretrain, prune, finetune = (stage.epochs for stage in stages)
    device = choose_device(project.device)
    return Budget(
        pretrain_epochs=pretrain,
        prune_epochs=prune if kind.trains else 0,
        finetune_epochs=finetune,
        attack_steps=attack_steps,
        hours=math.ceil(hours * 100) / 100,
        device=environment(device)["device"],
    )


def up_to_date(project: Project, order: Order) -> bool:
    """Returns whether the manifest already holds an order's checkpoint, made by the same recipe."""
    for entry in project.manifest().checkpoints:
        same = (entry.method, entry.architecture, entry.objective, entry.structure, entry.seed) == (
            order.method,
            order.architecture,
            order.objective,
            order.structure,
            order.seed,
        )
        if same and as_sparsity(entry.sparsity) == order.sparsity:
            path = project.root / entry.file
            return entry.recipe_digest == recipe(order.recipe).digest and path.exists()
    return False


def compress_all(
    project: Project,
    orders: Sequence[Order],
    *,
    threads: int = 1,
    fresh: bool = False,
    watch: Watch = silent,
) -> list[Checkpoint]:
    """Makes every ordered checkpoint that is not there yet and enters each into the manifest.

    Dense parents are trained first, one a cell; then orders run side by side. The manifest is
    written after each, so a kill loses only those in flight, and their training resumes.

    Args:
        project: where things are, and on what they run.
        orders: what to make.
        threads: CPU threads of each training run; part of what makes it repeatable.
        fresh: make everything anew, dense parents included.
        watch: told after each piece.
    """
    if fresh:
        _forget(project, orders, threads)
    wanted = [order for order in orders if fresh or not up_to_date(project, order)]
    jobs = [_Job(project, order, threads) for order in wanted]
    parents = {pretrain_digest(job.order, project, threads): job for job in jobs}
    workers = choose_workers(project.workers, choose_device(project.device))
    made = []
    if workers <= 1:
        for number, job in enumerate(jobs):
            entry = compress(job, _prefixed(watch, job.order, number, len(jobs)))
            made.append(_enter(project, entry))
        return made
    total = len(parents) + len(jobs)
    if len(parents) == 1:  # then it runs here, epoch by epoch on the progress bar
        _pretrain(next(iter(parents.values())), watch)
    for done, (job, _) in enumerate(map_jobs(_pretrain_job, list(parents.values()), workers), 1):
        watch(done, total, f"pretrained {job.order.architecture}, {job.order.objective}")
    for done, (_, entry) in enumerate(map_jobs(_compress_job, jobs, workers), len(parents) + 1):
        made.append(_enter(project, entry))
        watch(done, total, entry.id)
    return made


def _prefixed(watch: Watch, order: Order, number: int, count: int) -> Watch:
    def tell(done: int, total: int, text: str) -> None:
        share = f"{float(order.sparsity) * 100:g} %"
        watch(done, total, f"[{number + 1}/{count}] {order.method} {share}: {text}")

    return tell


def _enter(project: Project, entry: Checkpoint) -> Checkpoint:
    write_manifest(project.manifest_path, project.manifest().with_entry(entry))
    return entry


def _forget(project: Project, orders: Sequence[Order], threads: int) -> None:
    """Drops the dense parents of some orders, so that they are trained again."""
    for order in orders:
        digest = pretrain_digest(order, project, threads)
        for suffix in (".safetensors", ".state"):
            (project.cache / "pretrained" / f"{digest[:32]}{suffix}").unlink(missing_ok=True)
