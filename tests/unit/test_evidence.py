"""Evidence: small, exact where it can be, adversarial still, and refused when damaged."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from tiny import LINF, Linear, digits, rng, trained

from benchmark.attacks import Steps
from benchmark.digests import sha256_of_bytes
from benchmark.errors import RecordError
from benchmark.evaluations import AutoAttack, Examples, Pgd, run_evaluation
from benchmark.evaluations.confirm import judge
from benchmark.evidence import (
    SHOWN,
    Found,
    arrays_of,
    compact,
    counts_in,
    decode,
    encode,
    found_in,
    restore,
    round_inward,
    strip,
)
from benchmark.threat import ThreatModel

COUNT = 24


def measured(settings, count=COUNT):
    model, examples = trained(), digits(count)
    result = run_evaluation(
        model, examples, name="it", settings=settings, threat=LINF, seed=("evidence",)
    ).result
    return model, examples, result


@given(seed=some.integers(0, 2**31), epsilon=some.fractions(Fraction(1, 300), Fraction(1, 2)))
def test_rounding_stays_inside_ball_and_box_and_near(seed: int, epsilon: Fraction) -> None:
    draw = rng(seed)
    inputs = torch.rand((3, 1, 4, 4), generator=draw)
    threat = ThreatModel("Linf", epsilon)
    candidates = threat.random_start(inputs, draw)
    levels = round_inward(candidates, inputs, threat)
    assert levels.dtype == torch.uint8
    short = restore(levels)
    # A ball at least one level wide holds an 8-bit value around every pixel.
    if 2 * float(epsilon) * 255 >= 1:
        assert bool(threat.contains(short, inputs).all())
        assert float((short - candidates).abs().max()) <= 1 / 255 + 1e-6


def test_rounding_moves_inward_where_the_nearest_value_lies_outside() -> None:
    inputs = torch.full((1, 1, 1, 2), 8 / 16)
    threat = ThreatModel("Linf", Fraction(3, 16))
    corner = torch.tensor([[[[11 / 16, 5 / 16]]]])
    # 11/16 is 175.3 levels and 5/16 is 79.7: the nearest to the second, 80, lies inside already.
    assert round_inward(corner, inputs, threat).flatten().tolist() == [175, 80]
    # 0.6 + 3/16 is 200.8 levels: the nearest, 201, lies outside.
    outer = torch.full((1, 1, 1, 1), 0.6)
    assert round_inward(outer + 3 / 16, outer, threat).item() == 200


@pytest.mark.parametrize("numerator", [1, 2, 8])
def test_8_bit_data_reach_the_edge_of_a_ball_of_whole_levels(numerator: int) -> None:
    """Float32 holds k/255 a little off; no level may be lost to that, up or down."""
    threat = ThreatModel("Linf", Fraction(numerator, 255))
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    inputs = restore(levels)
    for sign in (-1, 1):
        corner = (inputs + sign * float(threat.epsilon)).clamp(0, 1)
        found = round_inward(corner, inputs, threat)
        wanted = (levels.int() + sign * numerator).clamp(0, 255)
        assert torch.equal(found.int(), wanted)
        assert bool(threat.contains(restore(found), inputs).all())


def test_inputs_are_counted_without_unpacking_them() -> None:
    data = encode({"pgd": {"pgd@1/10": some_found()}, "autoattack": {"apgd-ce": some_found(3)}})
    assert counts_in(data) == {("pgd", "pgd@1/10"): 11, ("autoattack", "apgd-ce"): 3}


def test_a_ball_without_an_8_bit_value_keeps_floats() -> None:
    """Logits that a change by 1/1000 decides: no 8-bit value lies that near."""
    inputs = torch.full((1, 1, 1, 1), 0.5005)
    model = Linear(torch.tensor([[0.0], [1000.0]]), torch.tensor([0.0, -500.9]))
    examples = Examples(inputs, torch.tensor([0]), torch.tensor([7]), 2)
    threat = ThreatModel("Linf", Fraction(1, 1000))
    adversarial = {"pgd": (np.array([0]), np.full((1, 1, 1, 1), 0.5014, dtype=np.float32))}
    found = compact(model, examples, adversarial, threat)["pgd"]
    assert not found.rounded.any()
    assert found.inputs.tobytes() == adversarial["pgd"][1].tobytes()
    assert found.predictions.tolist() == [1] and float(found.margins[0]) < 0


def test_compact_evidence_still_fools_the_network() -> None:
    model, examples, result = measured(AutoAttack(iterations=5, queries=50, targets=3))
    found = compact(model, examples, result.adversarial, LINF)
    assert sum(map(len, found.values())) == int((result.columns["broken_by"] >= 0).sum()) > 0
    for attack, finds in found.items():
        assert finds.positions.tolist() == result.adversarial[attack][0].tolist()
        chosen = torch.from_numpy(finds.positions.astype(np.int64))
        verdict = judge(model, examples, chosen, torch.from_numpy(finds.inputs), LINF)
        assert bool(verdict.fooled.all())
        assert verdict.margins.numpy().tobytes() == finds.margins.tobytes()
        assert (finds.predictions != examples.labels[finds.positions].numpy()).all()
        assert finds.rounded.any()


def test_an_example_is_kept_at_its_smallest_epsilon_alone() -> None:
    epsilons = (Fraction(1, 5), Fraction(1, 20), Fraction(2, 5))
    model, examples, result = measured(Pgd(Steps(8, Fraction(1, 4)), 1, epsilons))
    found = compact(model, examples, result.adversarial, LINF)
    positions = [p for finds in found.values() for p in finds.positions.tolist()]
    broken = {
        e: set(np.flatnonzero(result.columns[f"broken_step@{e}"] >= 0).tolist()) for e in epsilons
    }
    assert len(positions) == len(set(positions))
    assert set(positions) == set.union(*broken.values())
    assert set(found["pgd@1/20"].positions.tolist()) == broken[Fraction(1, 20)]
    assert set(found["pgd@1/5"].positions.tolist()) == broken[Fraction(1, 5)] - broken[epsilons[1]]


def some_found(count: int = 11) -> Found:
    draw = np.random.default_rng(0)
    rounded = draw.random(count) < 0.5
    inputs = draw.random((count, 1, 8, 8)).astype(np.float32)
    inputs[rounded] = restore(torch.from_numpy((inputs[rounded] * 255).astype(np.uint8))).numpy()
    return Found(
        positions=draw.permutation(20)[:count].astype(np.int32),
        inputs=inputs,
        rounded=rounded,
        predictions=draw.integers(0, 10, count).astype(np.int16),
        margins=-draw.random(count).astype(np.float32),
        originals=inputs[:SHOWN].copy(),
    )


def test_files_give_back_what_was_put_in_to_the_bit() -> None:
    before = {"pgd": {"pgd@1/10": some_found()}, "autoattack": {"apgd-ce": some_found(3)}}
    data = encode(before)
    assert encode(before) == data
    after = decode(data, sha256_of_bytes(data))
    assert after.keys() == before.keys()
    for name, attacks in before.items():
        for attack, finds in attacks.items():
            for field in vars(finds):
                mine, other = getattr(finds, field), getattr(after[name][attack], field)
                assert mine.dtype == other.dtype and mine.tobytes() == other.tobytes(), field


def test_8_bit_inputs_take_a_quarter_of_the_room() -> None:
    found = some_found(200 // 10)
    short = arrays_of({"a": found})
    assert short["bytes:a"].nbytes * 4 == found.inputs[found.rounded].nbytes
    assert short["floats:a"].nbytes == found.inputs[~found.rounded].nbytes


def test_nothing_found_is_a_file_too() -> None:
    data = encode({})
    assert decode(data, sha256_of_bytes(data)) == {}


def test_another_hash_is_refused() -> None:
    with pytest.raises(RecordError, match="expected evidence with sha256"):
        decode(encode({}), "0" * 64)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("positions", lambda a: a[:-1]),
        ("positions", lambda a: np.zeros_like(a)),
        ("positions", lambda a: a - 100),
        ("positions", lambda a: a.astype(np.int64)),
        ("rounded", lambda a: ~a),
        ("rounded", lambda a: a.astype(np.uint8)),
        ("rounded", lambda a: a.reshape(1, -1)),
        ("bytes", lambda a: a[:-1]),
        ("bytes", lambda a: a.astype(np.float32)),
        ("floats", lambda a: a[:, :, :4]),
        ("floats", lambda a: a.astype(np.float64)),
        ("predictions", lambda a: a[:2]),
        ("margins", lambda a: a.astype(np.float64)),
        ("originals", lambda a: a[:3]),
        ("originals", lambda a: a.reshape(len(a), -1)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name, change) -> None:
    arrays = arrays_of({"a": some_found()})
    found_in(arrays)
    arrays[f"{name}:a"] = change(arrays[f"{name}:a"])
    with pytest.raises(RecordError, match="fits together"):
        found_in(arrays)


def test_missing_and_surplus_arrays_are_refused() -> None:
    arrays = arrays_of({"a": some_found()})
    for name in list(arrays):
        with pytest.raises(RecordError, match="missing or left over"):
            found_in({key: value for key, value in arrays.items() if key != name})
    with pytest.raises(RecordError, match="missing or left over"):
        found_in({**arrays, "odd:a": arrays["rounded:a"]})


def test_a_strip_shows_the_first_whose_originals_are_kept() -> None:
    found = some_found(11)
    assert len(strip(found, 5)) == 5
    assert len(strip(found, 100)) == SHOWN
    assert strip(found, 2).positions.tolist() == found.positions[:2].tolist()
