"""Each deception is flagged or refused, with the right reason, and costs the row its rank."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import deceivers
import numpy as np
import pytest
import torch
from deceivers import (
    DENSE,
    EPSILON,
    PROTOCOL,
    SPARSE,
    SPARSEST,
    Around,
    Beside,
    Counting,
    CountingElsewhere,
    Memory,
    NotANumberElsewhere,
    Resurrected,
    Statistics,
    Verdict,
    evaluated,
    examples,
    flags_around,
    honest,
    in_black_and_white,
    in_steps,
)
from torch import Tensor, nn
from torch.nn import functional
from unit.small_project import claims, entry, network, store

from benchmark import bounds, manifest
from benchmark.errors import ContractError, InvariantViolation, ManifestError
from benchmark.evaluations import Bounds, Clean, Pgd, Sanity, run_evaluation
from benchmark.evaluations.bounds import _broken_at_once
from benchmark.outcomes import metrics
from benchmark.report.wording import FLAGS

# Everything that says a network deceives; the other flags tell how attacks compare.
DECEPTIONS = {
    *("batch-dependent", "dynamic-forward", "hidden-weights", "randomised-output"),
    *("revived-weights", "softmax-output", "stateful-forward", "test-beats-training"),
    *("zero-gradients", "vanishing-gradients", "planted-missed", "noise-beats-gradients"),
    *("single-step-beats-iterated", "not-at-chance-for-huge-epsilon"),
    *("transfer-beats-white-box", "accuracy-rises-with-epsilon"),
}


@contextmanager
def drawing() -> Iterator[None]:
    """Keeps what a network draws from the global generator inside the test."""
    with torch.random.fork_rng():
        yield


def deceptions(verdict: Verdict) -> set[str]:
    return DECEPTIONS & set(verdict.flags)


# --- the honest ones


@pytest.mark.parametrize("name", [DENSE, SPARSE])
def test_honest_networks_carry_none_of_the_flags(name: str) -> None:
    for model in (honest(name), Around(name=name), Around(torch.clone, torch.clone, name)):
        verdict = evaluated(model, honest(DENSE))
        assert deceptions(verdict) == set()
        assert verdict.reasons == []


def test_every_deception_has_words() -> None:
    assert set(FLAGS) >= DECEPTIONS
    assert dict(PROTOCOL.unrankable).keys() >= DECEPTIONS


# --- gradients


def test_logits_times_a_million() -> None:
    verdict = evaluated(Around(after=lambda logits: 1e6 * logits), honest())
    assert "vanishing-gradients" in verdict.reasons
    assert verdict.flags["vanishing-gradients"] > 0.4
    # It is the loss that is flat, not the network: differences of logits lead somewhere.
    assert not {"zero-gradients", "planted-missed"} & set(verdict.flags)


@pytest.mark.parametrize(
    "before",
    [in_steps, lambda inputs: in_black_and_white(inputs) + 0 * inputs],
    ids=["in steps", "black and white"],
)
def test_inputs_quantised_inside(before: Callable[[Tensor], Tensor]) -> None:
    verdict = evaluated(Around(before), honest())
    assert "zero-gradients" in verdict.reasons
    assert "vanishing-gradients" not in verdict.flags
    assert {"planted-missed", "not-at-chance-for-huge-epsilon"} & set(verdict.reasons)


def test_inputs_thresholded_inside_so_that_nothing_leads_back() -> None:
    with pytest.raises(ContractError, match="logits with a gradient, got detached"):
        evaluated(Around(in_black_and_white))


def test_gradients_that_point_the_other_way() -> None:
    verdict = evaluated(Around(lambda inputs: 2 * inputs.detach() - inputs), honest())
    assert "planted-missed" in verdict.reasons
    assert "transfer-beats-white-box" in verdict.flags


# --- chance, state and company


@pytest.mark.parametrize(
    "before",
    [
        lambda inputs: inputs + 0.05 * torch.randn_like(inputs),
        lambda inputs: functional.dropout(inputs, 0.2, training=True),
    ],
    ids=["noise", "dropout"],
)
def test_random_numbers_in_the_forward_pass(before: Callable[[Tensor], Tensor]) -> None:
    with drawing():
        verdict = evaluated(Around(before), None, "clean")
        assert verdict.reasons == ["randomised-output"]
        reasons = refused_or_unranked(Around(before))
        assert not reasons or "randomised-output" in reasons
        # Chance is not mistaken for state, for company or for weights.
        flags = Sanity().run(Around(before), examples(), PROTOCOL.threat, torch.Generator()).flags
        assert not {flag.name for flag in flags} & (DECEPTIONS - {"test-beats-training"})


def test_statistics_of_the_batch() -> None:
    flags = Sanity().run(Statistics(), examples(), PROTOCOL.threat, torch.Generator()).flags
    assert {flag.name for flag in flags} & DECEPTIONS == {"batch-dependent"}
    assert evaluated(Statistics(), None, "clean").flags == {}
    reasons = refused_or_unranked(Statistics())
    assert not reasons or "batch-dependent" in reasons


def spoilt(network: nn.Module, inputs: Tensor) -> Tensor:
    """Sees only steps of its input from now on: few attacks succeed any more."""
    return network(in_steps(inputs) + 0 * inputs)


def gradient_off(network: nn.Module, inputs: Tensor) -> Tensor:
    """Answers as before; only the gradient is gone."""
    return network(inputs).detach() + 0 * inputs.flatten(1).sum(1, keepdim=True)


def refused_or_unranked(model: nn.Module, *only: str) -> list[str]:
    """Returns the reasons for which a network gets no rank; none if its evaluation is refused."""
    try:
        return evaluated(model, None, *only).reasons
    except (ContractError, InvariantViolation):
        return []


@pytest.mark.parametrize("turned", [spoilt, gradient_off])
@pytest.mark.parametrize("calls", [1, 3, 10, 20])
@pytest.mark.parametrize("kind", [Counting, CountingElsewhere])
def test_counting_calls(
    kind: type[nn.Module], calls: int, turned: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    assert flags_around(kind(calls, turned), "pgd") == {"stateful-forward": 1.0}
    # Where it turns between the attack and the check, successes do not hold and nothing is written.
    reasons = refused_or_unranked(kind(calls, turned), "clean", "pgd")
    assert not reasons or "stateful-forward" in reasons


@pytest.mark.parametrize("kind", [Counting, CountingElsewhere])
def test_counting_calls_to_lose_the_gradient_alone(kind: type[nn.Module]) -> None:
    # All successes hold, so the row is written, with its flag.
    verdict = evaluated(kind(10, gradient_off), None, "clean", "pgd")
    assert verdict.reasons == ["stateful-forward"]


@pytest.mark.parametrize("after", [3, 10])
def test_masked_weights_that_come_back_to_life(after: int) -> None:
    found = flags_around(Resurrected(after), "pgd")
    assert set(found) == {"revived-weights", "stateful-forward"}
    assert found["revived-weights"] > 0.9
    reasons = refused_or_unranked(Resurrected(after), "clean", "pgd")
    assert not reasons or "revived-weights" in reasons


def test_masked_weights_that_come_back_to_life_at_once() -> None:
    assert "revived-weights" in evaluated(Resurrected(1), None, "clean", "pgd").reasons


# --- outputs


def test_softmax_at_the_end() -> None:
    verdict = evaluated(Around(after=lambda logits: logits.softmax(1)), honest())
    assert "softmax-output" in verdict.reasons


def test_not_a_number_off_the_data() -> None:
    assert evaluated(NotANumberElsewhere(), None, "clean").flags == {}
    for name in ("pgd", "autoattack", "sanity"):
        with pytest.raises(ContractError, match="finite logits, got NaN"):
            evaluated(NotANumberElsewhere(), None, name)


# --- memory


def test_test_images_looked_up() -> None:
    verdict = evaluated(Memory(0.0, SPARSEST), None, "clean", "sanity")
    assert "test-beats-training" in verdict.reasons
    # A network that was right anyway gains next to nothing; that its answer is flat shows.
    verdict = evaluated(Memory(0.0), honest())
    assert "zero-gradients" in verdict.reasons


def test_neighbours_of_test_images_looked_up() -> None:
    for name in (DENSE, SPARSEST):
        verdict = evaluated(Memory(1.5 * float(EPSILON), name), honest())
        assert "zero-gradients" in verdict.reasons
        assert metrics(verdict.outcomes, PROTOCOL).robust > 0.95
    assert "test-beats-training" in verdict.reasons


# --- sparsity


@pytest.mark.parametrize("how", ["attribute", "closure", "list", "buffer", "gate"])
def test_a_dense_network_beside_sparse_parameters(how: str) -> None:
    model = Beside(how).eval()
    with torch.no_grad():
        answers = model(examples().inputs)
        assert torch.equal(answers, honest(DENSE)(examples().inputs))
    verdict = evaluated(model, None, "clean", "sanity")
    assert "hidden-weights" in verdict.reasons
    assert deceptions(verdict) == {"hidden-weights"}
    assert verdict.flags["hidden-weights"] > 0.4


def test_tiny_weights_claimed_as_zeros(tmp_path: Path) -> None:
    model = network()
    claimed = claims(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("weight"):
                weight[weight == 0] = 1e-12
    lying = store(tmp_path, model.state_dict(), **claimed)
    with pytest.raises(ManifestError, match=f"expected {claimed['zeros']} zeros of"):
        manifest.load_model(lying, tmp_path)
    with pytest.raises(ManifestError, match=r"got 0 of"):
        manifest.check_claim(entry(**claimed), model)


# --- certificates


def only_against_the_runner_up(model: nn.Module) -> Callable[[Tensor, int], Tensor]:
    """Returns specifications that compare the label with one class: the second of the clean input.

    The bounds ask for the correct examples that a single step does not break, in order and chunk by
    chunk, once an epsilon.
    """
    with torch.no_grad():
        logits = model(examples().inputs)
    labels = examples().labels
    right = logits.argmax(1) == labels
    whom = right.nonzero().flatten()
    broken = _broken_at_once(model, examples(), whom, PROTOCOL.threat, (EPSILON,))[EPSILON]
    rivals = logits.scatter(1, labels[:, None], -torch.inf).argmax(1)[whom[~broken]].tolist()
    queue: list[int] = []

    def rows(labels: Tensor, classes: int) -> Tensor:
        if len(queue) < len(labels):
            queue.extend(rivals)
        seconds = torch.tensor([queue.pop(0) for _ in labels])
        identity = torch.eye(classes)
        return (identity[labels] - identity[seconds]).unsqueeze(1)

    return rows


def certificates(model: nn.Module) -> np.ndarray:
    settings = Bounds(methods=("crown",), epsilons=(EPSILON,), crown_max_units=20_000)
    result = run_evaluation(
        model, examples(), name="b", settings=settings, threat=PROTOCOL.threat, seed=("b",)
    ).result
    return settings.proven(result.columns)[EPSILON]


def test_certificates_against_the_runner_up_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = honest(SPARSE)
    true = certificates(model)
    monkeypatch.setattr(bounds, "specification", only_against_the_runner_up(model))
    false = certificates(model)
    monkeypatch.undo()
    # Recomputed against every class, many of them do not hold.
    assert not (true & ~false).any()
    assert (false & ~true).sum() >= 5


def test_false_certificates_are_refuted_by_attacks_that_spare_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = honest(SPARSEST)
    crown = Bounds(methods=("crown",), epsilons=(EPSILON,), crown_max_units=20_000)
    evaluations = (("clean", Clean()), ("bounds", crown), ("pgd", Pgd(*pgd_of())))
    with_sanity = (*evaluations, ("sanity", Sanity()))
    monkeypatch.setattr(deceivers, "PROTOCOL", replace(PROTOCOL, evaluations=evaluations))
    monkeypatch.setattr(bounds, "specification", only_against_the_runner_up(model))
    # PGD spares what is said to be proven, so it cannot contradict.
    assert metrics(evaluated(model).outcomes, deceivers.PROTOCOL).certified > 0
    monkeypatch.setattr(deceivers, "PROTOCOL", replace(PROTOCOL, evaluations=with_sanity))
    monkeypatch.setattr(bounds, "specification", only_against_the_runner_up(model))
    with pytest.raises(InvariantViolation, match="certified at Linf 3/16 yet broken by an attack"):
        evaluated(model)


def pgd_of() -> tuple:
    settings = dict(PROTOCOL.evaluations)["pgd"]
    return settings.steps, settings.restarts
