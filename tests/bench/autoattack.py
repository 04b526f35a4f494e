"""Times AutoAttack as the package's users call it, and as this project runs it, in one run.

Usage: python tests/bench/autoattack.py PROJECT CHECKPOINT… [--data-root D] [--examples 1000]
    [--device cpu] [--plain-examples 0] [--fast]

Plain: pyautoattack on the network as published, in one process with the library's own number of
threads, version standard, in batches of 500. Exact: what `robustprune evaluate` does for the same
examples: bounds at all the protocol's epsilons, then the attacks on what they leave, in as many
processes as there are cores or accelerators, their start included. With --plain-examples plain
attacks so many only, and its seconds and passes are scaled to all. With --fast the protocol's fast
mode runs as well. On an accelerator that is, with CIFAR-10 of the original files:

    python tests/bench/autoattack.py PROJECT CHECKPOINT --data-root D --protocol cifar10-linf \\
        --examples 10000 --device cuda --plain-examples 1000 --fast

Writes `docs/speed.json`, from which `python tests/bench/pages.py` makes `docs/speed.md`.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.compaction import as_published, multiply_adds
from benchmark.distributed import choose_device, environment, map_jobs, processor
from benchmark.evaluations import AutoAttack, Bounds
from benchmark.evaluations.base import PROVEN, SURVIVED
from benchmark.evaluations.engine import Guard, attacked
from benchmark.manifest import Manifest, load_model, read_manifest, write_manifest
from benchmark.pipeline import Project
from benchmark.pipeline.evaluating import plan
from benchmark.pipeline.shards import examples_of, read_outcomes, run_shard
from benchmark.protocols import PROTOCOLS, Protocol

SUMMARY = Path(__file__).parents[2] / "docs" / "speed.json"
BATCH = 500


@dataclass(frozen=True)
class Run:
    """One way of attacking one network.

    Attributes:
        seconds: by the wall clock, the start of processes included.
        forwards: passes, counted in examples.
        backwards: likewise.
        share: of the peak: twice the multiply-adds of the published network, zeros included, times
            passes, over the seconds and the peak of all cores.
        robust: examples that survive.
    """

    seconds: float
    forwards: int
    backwards: int
    share: float
    robust: int


@dataclass(frozen=True)
class Comparison:
    """Both ways on one network.

    Attributes:
        checkpoint: id.
        protocol: id.
        examples: attacked or proven.
        device: what computed.
        threads: of the plain run, and processes of the exact one.
        form: of the network that the attacks look at.
        multiply_adds: of the published network, zeros included.
        proven: examples that were not attacked.
        bounds_seconds: of the exact run, summed over processes.
        attack_seconds: likewise.
        plain_examples: that the package attacked; its seconds and passes are scaled to all.
        plain: the package; robust counts its own examples.
        exact: this project; robust counts all.
        apart: examples of the package's that survive one and not the other.
        fast: this project in fast mode; None where it was not asked for.
    """

    checkpoint: str
    protocol: str
    examples: int
    device: str
    threads: int
    form: str
    multiply_adds: int
    proven: int
    bounds_seconds: float
    attack_seconds: float
    plain_examples: int
    plain: Run
    exact: Run
    apart: int
    fast: Run | None

    @property
    def ratio(self) -> float:
        """How many times as long plain takes."""
        return self.plain.seconds / self.exact.seconds


class Counted(nn.Module):
    """A network that counts its passes and does nothing else."""

    def __init__(self, network: nn.Module) -> None:
        """Wraps the network."""
        super().__init__()
        self.network, self.forwards, self.backwards = network, 0, 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns its logits."""
        self.forwards += len(inputs)
        logits: Tensor = self.network(inputs)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def peak(device: torch.device) -> float:
    """Returns operations a second of a large product of matrices in float32 on the whole device."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.rand(size, size, device=device) for _ in range(2))
    spent = []
    for _ in range(10):
        start = time.perf_counter()
        # Reading a number waits for the accelerator.
        (left @ right)[0, 0].item()
        spent.append(time.perf_counter() - start)
    return 2 * size**3 / min(spent)


def in_float32() -> None:
    """Turns TF32 off, which some versions of torch use without being asked."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@dataclass(frozen=True)
class Question:
    """What is compared.

    Attributes:
        protocol: id.
        examples: of a tier.
        plain_examples: that the package attacks.
        fast: whether fast mode runs, too.
    """

    protocol: str
    examples: int
    plain_examples: int
    fast: bool


def compare(project: Project, checkpoint_id: str, asked: Question) -> Comparison:
    """Returns how long both ways take on the first examples of a protocol's list."""
    in_float32()
    device = choose_device(project.device)
    chosen, tier = short(asked.protocol, asked.examples)
    network = load_model(project.manifest().find(checkpoint_id), project.root)
    work, top = multiply_adds(as_published(network), network.shape), peak(device)
    form = type(attacked(Guard(network.to(device), network.classes)).network).__name__
    plain, survivors = _plain(project, network, chosen, asked)
    exact, broken_by, seconds = _exact(project, checkpoint_id, chosen, tier)
    fast = None
    if asked.fast:
        quick, left, _ = _exact(
            project, checkpoint_id, *short(f"{asked.protocol}-fast", asked.examples)
        )
        fast = quick, int(standing(left).sum())

    def run(found: tuple[float, int, int], robust: int) -> Run:
        spent, forwards, backwards = found
        share = 2 * work * (forwards + backwards) / spent / top
        return Run(round(spent, 2), forwards, backwards, round(share, 4), robust)

    robust = standing(broken_by)
    return Comparison(
        checkpoint=checkpoint_id,
        protocol=asked.protocol,
        examples=asked.examples,
        device=processor(device),
        threads=project.workers.on(device),
        form=form,
        multiply_adds=work,
        proven=int((broken_by == PROVEN).sum()),
        bounds_seconds=round(seconds["bounds"], 2),
        attack_seconds=round(seconds["autoattack"], 2),
        plain_examples=asked.plain_examples,
        plain=run(plain, int(survivors.sum())),
        exact=run(exact, int(robust.sum())),
        apart=int((robust[: asked.plain_examples] != survivors).sum()),
        fast=None if fast is None else run(*fast),
    )


def standing(broken_by: np.ndarray) -> np.ndarray:
    """Returns which examples are robust."""
    found: np.ndarray = (broken_by == SURVIVED) | (broken_by == PROVEN)
    return found


def short(name: str, examples: int) -> tuple[Protocol, str]:
    """Returns a protocol's bounds and AutoAttack alone, and the tier of so many examples."""
    main = PROTOCOLS[name]
    kept = tuple((n, s) for n, s in main.evaluations if isinstance(s, Bounds | AutoAttack))
    tiers = [tier for tier, count in main.tiers if count == examples]
    if not tiers:
        raise SystemExit(f"expected a tier of {main.tiers}, got {examples} examples")
    return replace(main, evaluations=kept), tiers[0]


def _plain(
    project: Project, network: nn.Module, chosen: Protocol, asked: Question
) -> tuple[tuple[float, int, int], np.ndarray]:
    """Returns seconds and passes of the package, scaled to all examples, and who survives."""
    from pyautoattack import AutoAttack as Package

    shard = examples_of(project, chosen, 0, asked.plain_examples)
    device, epsilon = str(shard.inputs.device), float(chosen.threat.epsilon)
    counted = Counted(network.to(shard.inputs.device))
    with torch.random.fork_rng():
        adversary = Package(counted, norm="Linf", eps=epsilon, seed=0, device=device)
        start = time.perf_counter()
        found, _ = adversary.run_standard_evaluation(shard.inputs, shard.labels, batch_size=BATCH)
        with torch.no_grad():
            survivors = (network(found).argmax(dim=1) == shard.labels).cpu().numpy()
        spent = time.perf_counter() - start
    scale = asked.examples / asked.plain_examples
    passes = round(counted.forwards * scale), round(counted.backwards * scale)
    return (spent * scale, *passes), survivors


def _alone(project: Project, checkpoint_id: str, folder: Path) -> Project:
    """Returns a project with one checkpoint and nothing computed."""
    entry = project.manifest().find(checkpoint_id)
    (folder / entry.file).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(project.root / entry.file, folder / entry.file)
    write_manifest(folder / "checkpoints_manifest.json", Manifest(checkpoints=(entry,)))
    return replace(project, root=folder)


def _exact(
    project: Project, checkpoint_id: str, chosen: Protocol, tier: str
) -> tuple[tuple[float, int, int], np.ndarray, dict[str, float]]:
    """Returns seconds and passes, AutoAttack's outcomes, and seconds by evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        alone = _alone(project, checkpoint_id, Path(folder))
        entry = read_manifest(alone.manifest_path).find(checkpoint_id)
        # As `robustprune evaluate` does: what attacks need first.
        jobs = plan(alone, entry, chosen, tier)
        jobs.sort(key=lambda job: job.evaluation != "bounds")
        start = time.perf_counter()
        for _ in map_jobs(run_shard, jobs, alone.workers, choose_device(project.device)):
            pass
        spent = time.perf_counter() - start
        seconds = {"bounds": 0.0, "autoattack": 0.0}
        forwards = backwards = 0
        parts = []
        for job in sorted(jobs, key=lambda job: job.start):
            shard = read_outcomes(job.path)
            assert shard is not None  # it has just been made
            seconds[job.evaluation] += shard.seconds
            forwards, backwards = forwards + shard.forwards, backwards + shard.backwards
            if job.evaluation == "autoattack":
                parts.append(shard.columns["broken_by"])
    return (spent, forwards, backwards), np.concatenate(parts), seconds


def main() -> None:
    """Times the checkpoints and keeps what was found, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--protocol", default="mnist-linf")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--plain-examples", type=int, default=0, help="0: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fast", action="store_true")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    project = Project(chosen.project.resolve(), data_root=chosen.data_root, device=chosen.device)
    asked = Question(
        chosen.protocol, chosen.examples, chosen.plain_examples or chosen.examples, chosen.fast
    )
    summary = json.loads(SUMMARY.read_text()) if SUMMARY.is_file() else {}
    for name in chosen.checkpoints:
        found = compare(project, name, asked)
        sys.stdout.write(f"{name}: {found.ratio:.2f} times faster, {found}\n")
        sys.stdout.flush()
        facts = {**asdict(found), "ratio": round(found.ratio, 2)}
        facts["environment"] = dict(environment(choose_device(chosen.device)))
        facts["cores"] = os.cpu_count()
        summary.setdefault("autoattack", {})[f"{chosen.protocol} {name}"] = facts
        SUMMARY.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
