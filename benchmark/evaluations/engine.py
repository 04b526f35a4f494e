"""Runs one evaluation on one shard and believes nothing it is told.

Every adversarial input is checked again: inside the box, inside epsilon, misclassified by the
network as published, in full precision; and an example counts as broken only where such an input is
shown. Networks that answer NaN or another number of classes stop the run.
"""

import contextlib
import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.architectures import Classifier
from benchmark.compaction import NotCompactable, compact
from benchmark.digests import seed_from
from benchmark.errors import ContractError, InvariantViolation
from benchmark.evaluations.base import Examples, Result, Settings
from benchmark.evaluations.confirm import fooled
from benchmark.evaluations.memory import DETACHED, halving, in_parts
from benchmark.evaluations.probes import Steadiness, explained
from benchmark.threat import ThreatModel


@dataclass(frozen=True)
class Measured:
    """A checked result and what it cost.

    Attributes:
        result: columns, adversarial inputs and flags.
        forwards: forward passes, counted in examples.
        backwards: backward passes, counted in examples.
        inner: how many examples the network saw at a time, for want of memory; 0: all of them.
    """

    result: Result
    forwards: int
    backwards: int
    inner: int = 0


class Guard(nn.Module):
    """A frozen copy of a network that counts its passes and refuses answers that are not logits."""

    def __init__(self, model: nn.Module, classes: int, inner: int = 0) -> None:
        """Copies the network in eval mode; its parameters need no gradients here.

        Args:
            model: the network.
            classes: K.
            inner: how many examples it sees at a time; 0 for all that it is given.
        """
        super().__init__()
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        self.classes, self.inner = classes, inner
        self.forwards = 0
        self.backwards = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the network's logits (N, K).

        Raises:
            ContractError: another shape than (N, K), NaN or infinite logits, or logits that the
                network cut off from inputs whose gradient is asked for.
        """
        return self.checked(self.answer(self.network, inputs), inputs)

    def answer(self, network: nn.Module, inputs: Tensor) -> object:
        """Returns what a network says to inputs, seen in parts where memory asks for it."""
        if 0 < self.inner < len(inputs):
            return in_parts(network, inputs, self.inner)
        return network(inputs)

    def checked(self, answer: object, inputs: Tensor) -> Tensor:
        """Counts a pass, and returns its answer if that is logits; errors as for `forward`."""
        expected = (len(inputs), self.classes)
        if not isinstance(answer, Tensor) or answer.shape != expected:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise ContractError(
                f"expected logits of shape {expected}, got {got}; check the number of classes"
            )
        if not bool(torch.isfinite(answer).all()):
            raise ContractError("expected finite logits, got NaN or infinity; check the weights")
        self.forwards += len(inputs)
        if answer.requires_grad:
            answer.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        elif inputs.requires_grad and torch.is_grad_enabled():
            raise ContractError(DETACHED)
        return answer

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class Attacked(nn.Module):
    """What attacks look at: the network without what has no effect, under the same guard.

    It is the same function but for rounding. What counts is decided on the network as published.
    """

    def __init__(self, guard: Guard) -> None:
        """Compacts the guarded network where that is possible, and else takes it as it is."""
        super().__init__()
        self.guard, self.network = guard, guard.network
        with contextlib.suppress(NotCompactable):
            if type(guard.network) is Classifier:
                self.network = compact(guard.network)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns logits (N, K); the pass is counted by the guard, which may refuse it."""
        return self.guard.checked(self.guard.answer(self.network, inputs), inputs)


def attacked(model: nn.Module) -> nn.Module:
    """Returns what attacks on a network should look at."""
    return Attacked(model) if isinstance(model, Guard) else model


def check_examples(examples: Examples) -> None:
    """Checks that inputs lie in the box and labels are classes.

    Raises:
        ContractError: inputs that are no images of floats, values outside [0, 1] or NaN, labels
            outside 0 … classes - 1, or unequal lengths.
    """
    inputs, labels = examples.inputs, examples.labels
    if inputs.dim() != 4 or not inputs.is_floating_point():
        raise ContractError(
            f"expected inputs (N, C, H, W) of floats, got {tuple(inputs.shape)} {inputs.dtype}"
        )
    if not bool(((inputs >= 0) & (inputs <= 1)).all()):
        raise ContractError(
            "expected inputs in [0, 1], got values outside; leave normalisation to the network"
        )
    lengths = {len(labels), len(inputs), len(examples.indices)}
    if len(lengths) != 1 or not bool(((labels >= 0) & (labels < examples.classes)).all()):
        raise ContractError(
            f"expected {len(inputs)} labels in 0 … {examples.classes - 1}, got others"
        )


def run_evaluation(
    model: nn.Module,
    examples: Examples,
    *,
    name: str,
    settings: Settings,
    threat: ThreatModel,
    seed: tuple[str | int, ...],
) -> Measured:
    """Runs one evaluation on one shard and checks what comes back.

    The evaluation gets copies of network and examples, so whatever it does to them, the check sees
    the published ones. Whether the copy is afterwards what it was before is a flag of the result.

    Args:
        model: the network as published; left untouched.
        examples: the shard, on the network's device.
        name: of the evaluation within its protocol, for messages.
        settings: which evaluation and how.
        threat: the protocol's threat model.
        seed: protocol seed, evaluation and shard, from which the generator is seeded.

    Raises:
        ContractError: the network or the examples break their contract, or the network is no fixed
            function of each input, so that no success against it can be repeated.
        InvariantViolation: an adversarial input that is none, or an example said to be broken
            without one.
        OutOfMemory: one example alone is too much for the accelerator, or the shard for the CPU.
    """
    check_examples(examples)
    return halving(
        len(examples.labels),
        lambda inner: _measured(model, examples, name, settings, threat, seed, inner),
    )


def _measured(
    model: nn.Module,
    examples: Examples,
    name: str,
    settings: Settings,
    threat: ThreatModel,
    seed: tuple[str | int, ...],
    inner: int,
) -> Measured:
    """Does what `run_evaluation` does, with so many examples in a pass."""
    guard = Guard(model, examples.classes, inner)
    generator = torch.Generator(examples.inputs.device).manual_seed(seed_from(*seed))
    # The copy is asked past the guard, so that these passes are not counted.
    steadiness = Steadiness(guard.network, examples.inputs, examples.labels, model)
    result = settings.run(guard, _copied(examples), threat, generator)
    result = replace(result, flags=(*result.flags, *steadiness.flags(len(examples.labels))))
    _check_columns(result, examples, name)
    published = Guard(model, examples.classes, inner)
    with explained(published, examples.inputs, result.flags):
        for attack, (positions, inputs) in result.adversarial.items():
            ball = threat_of(attack, threat)
            recheck(published, examples, positions, inputs, ball, f"{name}.{attack}")
    return Measured(result, guard.forwards, guard.backwards, inner)


def _copied(examples: Examples) -> Examples:
    return replace(
        examples,
        inputs=examples.inputs.clone(),
        labels=examples.labels.clone(),
        indices=examples.indices.clone(),
    )


def _check_columns(result: Result, examples: Examples, name: str) -> None:
    """Checks that columns have one value an example, and that every broken one is shown."""
    for column, values in result.columns.items():
        if values.shape != (len(examples.labels),):
            raise ContractError(
                f"expected {len(examples.labels)} outcomes in {name}.{column}, got {values.shape}"
            )
        if not column.startswith("broken_"):
            continue
        said = np.flatnonzero(values >= 0)
        shown = _shown(result, column.partition("@")[2])
        if not np.array_equal(said, shown):
            disputed = examples.indices.cpu().numpy()[np.setxor1d(said, shown)].tolist()
            raise InvariantViolation(
                f"expected one adversarial input for each example broken in {name}.{column}, got "
                f"{len(shown)} for {len(said)}; they differ at test examples {disputed[:10]}"
            )


def _shown(result: Result, epsilon: str) -> np.ndarray:
    """Returns the sorted positions of all adversarial inputs at an epsilon; empty: the main one."""
    positions = [
        np.asarray(chosen)
        for attack, (chosen, _) in result.adversarial.items()
        if attack.partition("@")[2] == epsilon
    ]
    return np.sort(np.concatenate(positions)) if positions else np.empty(0, dtype=np.int64)


def threat_of(attack: str, threat: ThreatModel) -> ThreatModel:
    """Returns the threat model an attack claims: its name may end in `@<epsilon>`.

    >>> str(threat_of("pgd@1/20", ThreatModel.parse("Linf 1/10")))
    'Linf 1/20'
    """
    _, _, epsilon = attack.partition("@")
    return ThreatModel.parse(f"{threat.norm} {epsilon}") if epsilon else threat


def recheck(
    model: nn.Module,
    examples: Examples,
    positions: np.ndarray,
    adversarial: np.ndarray,
    threat: ThreatModel,
    source: str,
) -> None:
    """Checks that adversarial inputs are what they claim to be.

    Args:
        model: the network as published.
        examples: the shard.
        positions: (n,) which of its examples were changed, each at most once.
        adversarial: (n, C, H, W) the changed inputs.
        threat: ball and box they must lie in.
        source: who claims it, for the message.

    Raises:
        InvariantViolation: positions that name no example, or one twice; an input of another shape,
            outside box or ball, or one that is classified correctly.
    """
    if len(positions) == 0:
        return
    _check_evidence(examples, positions, adversarial, source)
    device = examples.inputs.device
    chosen = torch.as_tensor(positions, dtype=torch.int64, device=device)
    candidates = torch.as_tensor(adversarial, device=device)
    wrong = chosen[~fooled(model, examples, chosen, candidates, threat)]
    if len(wrong):
        names = examples.indices[wrong.to(examples.indices.device)].tolist()
        raise InvariantViolation(
            f"expected adversarial inputs within {threat} from {source}, "
            f"got {len(names)} that are not, at test examples {names[:10]}"
        )


def _check_evidence(
    examples: Examples, positions: np.ndarray, adversarial: np.ndarray, source: str
) -> None:
    """Checks that changed inputs stand for distinct examples, in the examples' shape."""
    count = len(positions)
    whole = positions.shape == (count,) and np.issubdtype(positions.dtype, np.integer)
    # A negative position would silently count from the end.
    if not whole or positions.min() < 0 or positions.max() >= len(examples.labels):
        raise InvariantViolation(
            f"expected positions in 0 … {len(examples.labels) - 1} from {source}, got others"
        )
    repeated = np.flatnonzero(np.bincount(positions) > 1)
    if len(repeated):
        names = examples.indices.cpu().numpy()[repeated].tolist()
        raise InvariantViolation(
            f"expected one adversarial input an example from {source}, got several for test "
            f"examples {names[:10]}"
        )
    expected = (count, *examples.inputs.shape[1:])
    if adversarial.shape != expected or not np.issubdtype(adversarial.dtype, np.floating):
        raise InvariantViolation(
            f"expected adversarial inputs of shape {expected} from {source}, got "
            f"{adversarial.shape} {adversarial.dtype}"
        )
