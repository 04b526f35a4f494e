"""Speed, as ratios within one run: `make bench`. Without it each benchmark runs once, as a test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fast import DENSE, FAST, SPARSE, make_project

from benchmark import weights
from benchmark.architectures import build, initialise
from benchmark.compaction import compact
from benchmark.manifest import load_model
from benchmark.pipeline import evaluate_all, report
from benchmark.pipeline.latencies import in_turns
from benchmark.pipeline.shards import examples_of, measure_shard
from benchmark.protocols import PROTOCOLS
from benchmark.pruning import mask_from_scores, prunable_parameters

Benchmark = Callable[..., Any]


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    model = build("resnet18", shape=(3, 32, 32), classes=10, mean=(0.0,) * 3, std=(1.0,) * 3)
    initialise(model, torch.Generator().manual_seed(0))
    return model


@pytest.mark.benchmark(group="selection, 11 million scores")
@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_selection(benchmark: Benchmark, resnet: torch.nn.Module, scope: Any) -> None:
    scores = {name: p.abs() for name, p in prunable_parameters(resnet).items()}
    mask = benchmark(lambda: mask_from_scores(scores, 0.99, scope))
    assert mask.zeros > 0.98 * sum(s.numel() for s in scores.values())


@pytest.mark.benchmark(group="weights on disk, 99 % sparse ResNet-18")
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_weights(benchmark: Benchmark, resnet: torch.nn.Module, way: str) -> None:
    scores = {name: p.abs() for name, p in prunable_parameters(resnet).items()}
    mask_from_scores(scores, 0.99, "layerwise").apply(resnet)
    state = resnet.state_dict()
    data = weights.encode(state)
    benchmark((lambda: weights.encode(state)) if way == "encode" else lambda: weights.decode(data))
    assert len(data) < 700_000


# Shape of an input, and inputs a pass: so many that a pass takes longer than calling it.
SIZES = {"cnn-small": ((1, 28, 28), 64), "resnet18": ((3, 32, 32), 8)}


def forms(name: str, sparsity: float) -> dict[str, torch.nn.Module]:
    """Returns a network dense, with filters at zero, and compact; weights are random."""
    shape = SIZES[name][0]

    def drawn() -> Any:
        made = build(name, shape=shape, classes=10, mean=(0.5,) * shape[0], std=(0.25,) * shape[0])
        initialise(made, torch.Generator().manual_seed(0))
        return made.eval()

    masked = drawn()
    scores = {key: p.detach().abs() for key, p in prunable_parameters(masked).items()}
    mask_from_scores(scores, sparsity, "layerwise", "filter").apply(masked)
    return {"dense": drawn(), "masked": masked, "compact": compact(masked).eval()}


@pytest.mark.benchmark(group="compact networks; ratios of passes taken in turns")
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.9])
@torch.no_grad()
def test_pruned_filters_make_a_network_faster(benchmark: Any, name: str, sparsity: float) -> None:
    shape, count = SIZES[name]
    inputs = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
    networks = forms(name, sparsity)
    # One after the other, another program would disturb one of them and not the next.
    found = in_turns(networks, inputs)
    dense, ratio = (found[way].median / found["compact"].median for way in ("dense", "masked"))
    benchmark.name = f"{name}, {sparsity:.0%} of filters: {ratio:.2f}x faster than masked"
    benchmark.extra_info |= {
        "masked over compact": round(ratio, 2),
        "dense over compact": round(dense, 2),
        "images": count,
        "milliseconds": {way: one.model_dump() for way, one in found.items()},
    }
    benchmark(lambda: networks["compact"](inputs))
    assert ratio > 1


@pytest.mark.benchmark(group="AutoAttack, one shard of digits")
@pytest.mark.parametrize("way", ["plain pyautoattack", "engine"])
def test_autoattack(benchmark: Benchmark, tmp_path: Path, way: str) -> None:
    from pyautoattack import AutoAttack

    project = make_project(tmp_path, SPARSE)
    protocol = PROTOCOLS["digits-linf"]
    settings = dict(protocol.evaluations)["autoattack"]
    # A tenth of Square's queries and of the iterations, for both alike: the ratio is what counts.
    short = replace(settings, iterations=10, queries=500)  # type: ignore[type-var]
    shorter = replace(protocol, evaluations=(("autoattack", short),))
    model = load_model(project.manifest().find(SPARSE), tmp_path).requires_grad_(False)
    examples = examples_of(project, protocol, 0, protocol.shard_size)

    def plain() -> None:
        attack = AutoAttack(model, norm="Linf", eps=float(protocol.threat.epsilon), seed=0)
        short._configure(attack, examples.classes)
        with torch.random.fork_rng():
            attack.run_standard_evaluation(examples.inputs, examples.labels, batch_size=100)

    def engine() -> None:
        measure_shard(model, shorter, "autoattack", examples, 0)

    benchmark(engine if way == "engine" else plain)


@pytest.mark.benchmark(group="pages")
def test_render(benchmark: Benchmark, tmp_path: Path) -> None:
    project = make_project(tmp_path, DENSE, SPARSE)
    evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    assert benchmark(lambda: report(project))
