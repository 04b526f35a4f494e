"""Evidence: the adversarial inputs behind every broken example, small and checkable.

One file holds what the attacks found on one range of the example list. An input is kept in 8 bits
where rounding leaves it an adversarial example, else in float32. Whoever has the weights and the
data can check all of it with one forward pass an attack.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.digests import sha256_of_bytes
from benchmark.errors import InvariantViolation, RecordError, shorten
from benchmark.evaluations import Examples
from benchmark.evaluations.confirm import judge
from benchmark.evaluations.engine import Guard, threat_of
from benchmark.outcomes import Array, encode_arrays, read_arrays
from benchmark.threat import ThreatModel

# The largest value of an 8-bit image; the value v stands for v / 255.
LEVELS = 255

# Slack at the edge of the ball, in 8-bit levels: 4e-7 in pixel units.
EDGE = 1e-4

# The largest file of evidence when unpacked: a hundred images of 224 x 224 from each attack.
LARGEST_EVIDENCE = 1 << 30

# How many originals are kept beside an attack's finds in each file, for pages to show.
SHOWN = 8

_FIELDS = ("positions", "rounded", "bytes", "floats", "predictions", "margins", "originals")


@dataclass(frozen=True)
class Found:
    """What one attack found on one range of the example list.

    Attributes:
        positions: (n,) int32, where in the range.
        inputs: (n, C, H, W) float32 adversarial inputs.
        rounded: (n,) bool, whether an input is kept in 8 bits, exactly.
        predictions: (n,) int16 predicted classes, none of them the label.
        margins: (n,) float32 logit of the label less the largest other one; at most 0.
        originals: (k, C, H, W) float32, the unmodified inputs of the first k finds, k <= SHOWN.
    """

    positions: Array
    inputs: Array
    rounded: Array
    predictions: Array
    margins: Array
    originals: Array

    def __len__(self) -> int:
        """Returns the number of adversarial inputs."""
        return len(self.positions)


def round_inward(candidates: Tensor, inputs: Tensor, threat: ThreatModel) -> Tensor:
    """Returns the nearest 8-bit values, for Linf moved to the nearest ones inside the ball.

    Args:
        candidates: (n, C, H, W) adversarial inputs.
        inputs: (n, C, H, W) originals in [0, 1].
        threat: the ball to stay in; a narrow one may hold no 8-bit value, and then the result lies
            outside.

    Returns:
        (n, C, H, W) uint8.
    """
    levels = (candidates.double() * LEVELS).round()
    if threat.norm == "Linf":
        epsilon = float(threat.epsilon)
        # Float32 holds k / 255 a little off: without the slack, far inside the tolerance of the
        # ball, most levels at its edge would be lost.
        lowest = ((inputs.double() - epsilon) * LEVELS - EDGE).ceil()
        highest = ((inputs.double() + epsilon) * LEVELS + EDGE).floor()
        levels = torch.minimum(torch.maximum(levels, lowest), highest)
    return levels.clamp(0, LEVELS).to(torch.uint8)


def restore(levels: Tensor) -> Tensor:
    """Returns the float32 pixels that 8-bit values stand for."""
    return levels.to(torch.float32) / LEVELS


def compact(
    model: nn.Module,
    examples: Examples,
    adversarial: Mapping[str, tuple[Array, Array]],
    threat: ThreatModel,
    inner: int = 0,
) -> dict[str, Found]:
    """Returns what attacks found in the smallest form in which it is still adversarial.

    An input found at one epsilon lies in every larger ball, so an attack that ran at several keeps
    an example's input at the smallest alone.

    Args:
        model: the network as published.
        examples: the whole shard.
        adversarial: attack → positions (n,) and inputs (n, C, H, W), checked by the engine.
        threat: the protocol's threat model.
        inner: how many examples the network sees at a time, as when the attacks ran; 0: all.

    Raises:
        InvariantViolation: inputs that fool the network alone and not together, so that its answers
            depend on the batch.
    """
    found: dict[str, Found] = {}
    guarded = Guard(model, examples.classes, inner)
    for attacks in _families(adversarial):
        seen: set[int] = set()
        for attack in sorted(attacks, key=lambda name: threat_of(name, threat).epsilon):
            positions, inputs = adversarial[attack]
            new = np.array([int(p) not in seen for p in positions], dtype=np.bool_)
            seen |= {int(p) for p in positions}
            if new.any():
                ball = threat_of(attack, threat)
                found[attack] = _compacted(guarded, examples, positions[new], inputs[new], ball)
    return found


def _families(attacks: Iterable[str]) -> list[list[str]]:
    """Returns attacks grouped by name without epsilon."""
    groups: dict[str, list[str]] = {}
    for attack in attacks:
        groups.setdefault(attack.partition("@")[0], []).append(attack)
    return list(groups.values())


def _compacted(
    model: nn.Module, examples: Examples, positions: Array, inputs: Array, threat: ThreatModel
) -> Found:
    device = examples.inputs.device
    chosen = torch.as_tensor(positions.astype(np.int64), device=device)
    candidates = torch.as_tensor(inputs, device=device).to(torch.float32)
    short = restore(round_inward(candidates, examples.inputs[chosen], threat))
    rounded = judge(model, examples, chosen, short, threat).fooled
    kept = torch.where(rounded.view(-1, 1, 1, 1), short, candidates)
    verdict = judge(model, examples, chosen, kept, threat)
    if not bool(verdict.fooled.all()):
        names = examples.indices.cpu()[chosen[~verdict.fooled].cpu()].tolist()
        raise InvariantViolation(
            f"expected adversarial inputs to fool the network whatever shares their batch, got "
            f"{len(names)} that do not, at test examples {names[:10]}; its answers depend on the "
            "batch"
        )
    return Found(
        positions=positions.astype(np.int32),
        inputs=kept.cpu().numpy(),
        rounded=rounded.cpu().numpy(),
        predictions=verdict.predictions.to(torch.int16).cpu().numpy(),
        margins=verdict.margins.cpu().numpy(),
        originals=examples.inputs[chosen[:SHOWN]].to(torch.float32).cpu().numpy(),
    )


def arrays_of(found: Mapping[str, Found]) -> dict[str, Array]:
    """Returns evidence as named arrays, ready to be stored."""
    arrays: dict[str, Array] = {}
    for attack, finds in found.items():
        levels = np.rint(finds.inputs[finds.rounded].astype(np.float64) * LEVELS)
        values: dict[str, Array] = {
            "positions": finds.positions,
            "rounded": finds.rounded,
            "bytes": levels.astype(np.uint8),
            "floats": finds.inputs[~finds.rounded].astype(np.float32),
            "predictions": finds.predictions,
            "margins": finds.margins,
            "originals": finds.originals,
        }
        arrays |= {f"{field}:{attack}": values[field] for field in _FIELDS}
    return arrays


def found_in(arrays: Mapping[str, Array]) -> dict[str, Found]:
    """Returns the evidence in named arrays.

    Raises:
        RecordError: arrays are missing or do not fit together.
    """
    attacks = [name.removeprefix("positions:") for name in arrays if name.startswith("positions:")]
    expected = {f"{field}:{attack}" for attack in attacks for field in _FIELDS}
    if odd := sorted(expected ^ arrays.keys()):
        raise RecordError(f"expected whole evidence, got {shorten(odd[0])} missing or left over")
    return {attack: _found(attack, arrays) for attack in attacks}


def _found(attack: str, arrays: Mapping[str, Array]) -> Found:
    parts = {field: arrays[f"{field}:{attack}"] for field in _FIELDS}
    _check_parts(attack, parts)
    rounded, levels, floats = (parts[name] for name in ("rounded", "bytes", "floats"))
    inputs = np.empty((len(rounded), *levels.shape[1:]), dtype=np.float32)
    inputs[rounded] = restore(torch.from_numpy(levels)).numpy()
    inputs[~rounded] = floats
    return Found(
        positions=parts["positions"],
        inputs=inputs,
        rounded=rounded,
        predictions=parts["predictions"],
        margins=parts["margins"],
        originals=parts["originals"],
    )


_KINDS = {
    "positions": np.int32,
    "rounded": np.bool_,
    "bytes": np.uint8,
    "floats": np.float32,
    "predictions": np.int16,
    "margins": np.float32,
    "originals": np.float32,
}


def _check_parts(attack: str, parts: Mapping[str, Array]) -> None:
    """Checks dtypes and shapes of one attack's arrays against each other.

    Raises:
        RecordError: anything that does not fit.
    """
    count = len(parts["rounded"]) if parts["rounded"].ndim == 1 else -1
    images = {name: parts[name] for name in ("bytes", "floats", "originals")}
    whole = (
        all(parts[name].dtype == kind for name, kind in _KINDS.items())
        and all(parts[name].shape == (count,) for name in ("positions", "predictions", "margins"))
        and all(array.ndim == 4 for array in images.values())
        and len({array.shape[1:] for array in images.values()}) == 1
        and len(parts["bytes"]) == int(parts["rounded"].sum())
        and len(parts["floats"]) == count - len(parts["bytes"])
        and len(parts["originals"]) == min(count, SHOWN)
        and len(np.unique(parts["positions"])) == count
        and (count == 0 or int(parts["positions"].min()) >= 0)
    )
    if not whole:
        raise RecordError(
            f"expected evidence of {shorten(attack)} that fits together, got other arrays"
        )


def encode(found: Mapping[str, Mapping[str, Found]]) -> bytes:
    """Returns the evidence of a range, evaluation → attack → finds, as the bytes of its file.

    Raises:
        RecordError: more than a reader would take.
    """
    named = {f"{name}/{attack}": f for name, finds in found.items() for attack, f in finds.items()}
    arrays = arrays_of(named)
    if (size := sum(values.nbytes for values in arrays.values())) > LARGEST_EVIDENCE // 2:
        raise RecordError(
            f"expected at most {LARGEST_EVIDENCE // 2} bytes of evidence in a file, got {size}; "
            "choose a smaller shard size in the protocol"
        )
    return encode_arrays(arrays)


def decode(data: bytes, sha256: str) -> dict[str, dict[str, Found]]:
    """Returns the evidence of a range: evaluation → attack → finds.

    Raises:
        RecordError: another hash, or not such a file.
    """
    if (got := sha256_of_bytes(data)) != sha256:
        raise RecordError(
            f"expected evidence with sha256 {sha256[:12]}…, got {got[:12]}…; restore the file or "
            "evaluate again"
        )
    found: dict[str, dict[str, Found]] = {}
    for name, finds in found_in(read_arrays(data, limit=LARGEST_EVIDENCE)).items():
        evaluation, _, attack = name.partition("/")
        found.setdefault(evaluation, {})[attack] = finds
    return found


def counts_in(data: bytes) -> dict[tuple[str, str], int]:
    """Returns how many inputs a file holds, by evaluation and attack, without unpacking them.

    Raises:
        RecordError: not such a file.
    """
    start = "positions:"
    arrays = read_arrays(data, lambda name: name.startswith(start), LARGEST_EVIDENCE)
    found = {}
    for name, positions in arrays.items():
        evaluation, _, attack = name.removeprefix(start).partition("/")
        found[evaluation, attack] = positions.size
    return found


def strip(found: Found, count: int) -> Found:
    """Returns the first `count` finds, of those whose originals are kept."""
    count = min(count, len(found.originals))
    names = ("positions", "inputs", "rounded", "predictions", "margins", "originals")
    return replace(found, **{name: getattr(found, name)[:count] for name in names})
