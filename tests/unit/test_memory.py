"""A network that does not fit with all examples at once: the same outcomes, from parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fast import FAST
from tiny import LINF, digits, trained
from torch import Tensor, nn

from benchmark.errors import ContractError, OutOfMemory
from benchmark.evaluations import AutoAttack, CarliniWagner, Fgsm, Settings
from benchmark.evaluations.engine import Guard, Measured, run_evaluation
from benchmark.evaluations.memory import halving, in_parts
from benchmark.evidence import compact

SETTINGS: dict[str, Settings] = {
    **dict(FAST.evaluations),
    "fgsm": Fgsm(),
    "cw": CarliniWagner(),
    "package": AutoAttack(iterations=4, queries=20, targets=3, engine="pyautoattack"),
}


class Greedy(nn.Module):
    """Takes no more than so many examples at once."""

    refused = 0

    def __init__(self, most: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.model, self.most, self.error = trained(), most, error

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > self.most:
            Greedy.refused += 1
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        answer: Tensor = self.model(inputs)
        return answer


def measure(name: str, most: int, error: type[Exception] = torch.OutOfMemoryError) -> Measured:
    examples = digits(40)
    if name == "transfer":
        examples = replace(examples, parent=Greedy(most, error))
    if name == "sanity":
        examples = replace(examples, training=(examples.inputs, examples.labels))
    return run_evaluation(
        Greedy(most, error),
        examples,
        name=name,
        settings=SETTINGS[name],
        threat=LINF,
        seed=(0, name, 0),
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_outcomes_and_counts_do_not_depend_on_how_many_fit(name: str) -> None:
    whole = measure(name, 1000)
    Greedy.refused = 0
    parts = measure(name, 16)
    assert Greedy.refused and (whole.inner, parts.inner) == (0, 10)
    assert parts.result.columns.keys() == whole.result.columns.keys()
    for column, values in whole.result.columns.items():
        found = parts.result.columns[column]
        assert found.dtype == values.dtype
        # Margins of bounds differ by rounding; everything else is a decision.
        exact = not np.issubdtype(values.dtype, np.floating)
        assert np.array_equal(found, values) if exact else np.allclose(found, values, atol=1e-4)
    assert parts.result.flags == whole.result.flags
    assert (parts.forwards, parts.backwards) == (whole.forwards, whole.backwards)
    for attack, (positions, inputs) in whole.result.adversarial.items():
        assert np.array_equal(parts.result.adversarial[attack][0], positions)
        assert np.allclose(parts.result.adversarial[attack][1], inputs, atol=1e-4)


def test_evidence_is_judged_in_the_parts_in_which_it_was_found() -> None:
    examples = digits(40)
    found = measure("pgd", 16)
    shown = compact(Greedy(16), examples, found.result.adversarial, LINF, found.inner)
    assert shown["pgd@1/10"].positions.tolist() == found.result.adversarial["pgd@1/10"][0].tolist()
    with pytest.raises(torch.OutOfMemoryError):
        compact(Greedy(16), examples, found.result.adversarial, LINF)


def test_one_example_that_does_not_fit_is_an_error_of_one_line() -> None:
    with pytest.raises(OutOfMemory, match=r"^expected an accelerator .* one example, .*\.?$"):
        halving(40, lambda inner: Greedy(0)(digits(1).inputs))


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_on_the_cpu_nothing_is_divided(error: type[Exception]) -> None:
    Greedy.refused = 0
    with pytest.raises(OutOfMemory, match="memory for 40 examples, .* fewer --workers"):
        measure("pgd", 30, error)
    assert Greedy.refused == 1


def test_other_errors_pass() -> None:
    def fail(inner: int) -> None:
        raise RuntimeError("another matter")

    with pytest.raises(RuntimeError, match="another matter"):
        halving(40, fail)


def test_attempts_halve_until_they_fit() -> None:
    tried = []

    def attempt(inner: int) -> int:
        tried.append(inner)
        if not 0 < inner <= 3:
            raise torch.OutOfMemoryError
        return inner

    assert halving(41, attempt) == 3 and tried == [0, 21, 11, 6, 3]


def test_gradients_of_parts_are_those_of_the_whole() -> None:
    examples = digits(10)
    guard = Guard(trained(), 10)
    slopes = []
    for size in (0, 4):
        leaf = examples.inputs.clone().requires_grad_()
        logits = in_parts(guard.network, leaf, size) if size else guard.network(leaf)
        first = torch.autograd.grad(logits.square().sum(), leaf, retain_graph=True)[0]
        slopes.append(torch.stack([first, torch.autograd.grad(logits[:, 3].sum(), leaf)[0]]))
    assert torch.allclose(slopes[0], slopes[1], atol=1e-5) and bool(slopes[0].abs().sum() > 0)


def test_a_network_without_gradients_is_refused_in_parts_too() -> None:
    class Detached(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            answer: Tensor = trained()(inputs).detach()
            return answer

    leaf = digits(4).inputs.clone().requires_grad_()
    with pytest.raises(ContractError, match="expected logits with a gradient"):
        torch.autograd.grad(in_parts(Detached(), leaf, 2).sum(), leaf)
