"""A checkpoint of cnn-tiny that keeps every promise, for tests that then break one of them."""

from pathlib import Path
from typing import Any

import torch

from benchmark import weights
from benchmark.architectures import Classifier, build, initialise
from benchmark.digests import sha256_of_bytes
from benchmark.manifest import Budget, Checkpoint
from benchmark.pruning import Structure, mask_from_scores, measure, prunable_parameters

BUDGET = {
    "pretrain_epochs": 1,
    "prune_epochs": 0,
    "finetune_epochs": 2,
    "attack_steps": 10,
    "hours": 0.5,
    "device": "cpu",
}
FIELDS: dict[str, Any] = {
    "id": "lwm-layerwise/digits/cnn-tiny/adversarial/unstructured-90/seed0",
    "display_name": "LWM, layerwise",
    "method": "lwm-layerwise",
    "dataset": "digits",
    "architecture": "cnn-tiny",
    "objective": "adversarial",
    "structure": "unstructured",
    "sparsity": 0.9,
    "seed": 0,
    "zeros": 8885,
    "prunable": 9872,
    "authors": ["Ada Müller", "Bo Li"],
    "paper": "A paper, 2020",
    "code": "",
    "licence": "MIT",
    "extra_data": "",
    "recipe": "digits",
    "recipe_digest": "0" * 64,
    "budget": BUDGET,
    "file": "checkpoints/tiny.safetensors",
    "url": "",
    "format": "robustprune-safetensors-1",
    "bytes": 1,
    "sha256": "1" * 64,
}


def network(sparsity: float = 0.9, structure: Structure = "unstructured") -> Classifier:
    """Returns cnn-tiny for digits, drawn from a fixed seed and pruned layerwise by magnitude."""
    model = build("cnn-tiny", shape=(1, 8, 8), classes=10, mean=(0.5,), std=(0.25,))
    initialise(model, torch.Generator().manual_seed(0))
    scores = {name: p.detach().abs() for name, p in prunable_parameters(model).items()}
    mask_from_scores(scores, sparsity, "layerwise", structure).apply(model)
    return model.eval()


def entry(**changes: Any) -> Checkpoint:
    """Returns a valid entry; the id follows the fields unless it is given."""
    fields = {**FIELDS, **changes}
    if "id" not in changes:
        percent = f"{100 * fields['sparsity']:g}"
        names = [fields[name] for name in ("method", "dataset", "architecture", "objective")]
        fields["id"] = "/".join(names) + f"/{fields['structure']}-{percent}/seed{fields['seed']}"
    return Checkpoint.model_validate({**fields, "budget": Budget.model_validate(fields["budget"])})


def store(root: Path, state: dict[str, torch.Tensor], **changes: Any) -> Checkpoint:
    """Writes a state dict under the project and returns an entry with its true size and hash."""
    return store_bytes(root, weights.encode(state), **changes)


def store_bytes(root: Path, data: bytes, **changes: Any) -> Checkpoint:
    """Writes any bytes as weights and returns an entry with their true size and hash."""
    path = root / str(changes.get("file", FIELDS["file"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return entry(**{"bytes": len(data), "sha256": sha256_of_bytes(data), **changes})


def claims(model: Classifier, structure: Structure = "unstructured") -> dict[str, int]:
    """Returns the integer claims that a network keeps."""
    found = measure(model, model.shape, structure)
    return {"zeros": found.zeros, "prunable": found.total}
