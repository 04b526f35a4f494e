"""Outcomes: every rule fires, every number is counted by hand, every damaged file is refused."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from small_outcomes import (
    ATTACKS,
    EXAMPLES,
    FIVE_PROTOCOL,
    LARGE,
    MAIN,
    SMALL,
    SMALL_PROTOCOL,
    SPARING_PROTOCOL,
    blank,
    consistent,
    five,
    misclassify,
    spare,
)

from benchmark.digests import sha256_of_bytes
from benchmark.errors import InvariantViolation, RecordError
from benchmark.evaluations import Bounds, Clean, Transfer
from benchmark.outcomes import (
    LARGEST_OUTCOMES,
    Outcomes,
    attacked,
    attempts,
    broken,
    certified,
    check_columns,
    check_invariants,
    clean_correct,
    decode,
    encode_arrays,
    main_pgd,
    metrics,
    read_arrays,
    survivors,
)
from benchmark.protocols import PROTOCOLS

PGD, BY, CURVE = f"pgd.broken_step@{MAIN}", "autoattack.broken_by", f"curve.broken_step@{SMALL}"
seeds = some.integers(0, 2**31)


def one_line(error: BaseException) -> str:
    message = str(error)
    assert message.isprintable() and len(message) < 500
    assert message.startswith("expected ") and "got " in message and ";" in message
    return message


@given(seed=seeds)
def test_intervals_are_ordered_and_prefixes_too(seed: int) -> None:
    outcomes = consistent(seed)
    check_invariants(outcomes, SMALL_PROTOCOL)
    for count in (10, 20, EXAMPLES):
        part = outcomes.head(count)
        found = metrics(part, SMALL_PROTOCOL)
        assert len(part) == found.examples == count
        assert found.certified <= found.robust <= min(found.pgd, found.autoattack)
        assert max(found.pgd, found.autoattack) <= found.clean
        for epsilon, proven in certified(part, SMALL_PROTOCOL).items():
            survived = attacked(part, SMALL_PROTOCOL, epsilon)
            assert not (proven & ~survived).any() and not (survived & ~clean_correct(part)).any()


@given(seed=seeds)
def test_certified_and_attacked_fall_with_epsilon(seed: int) -> None:
    outcomes = consistent(seed)
    proven = certified(outcomes, SMALL_PROTOCOL)
    survived = {e: attacked(outcomes, SMALL_PROTOCOL, e) for e in (SMALL, MAIN, LARGE)}
    assert list(proven) == [SMALL, MAIN, LARGE]
    for values in (proven, survived):
        assert not (values[MAIN] & ~values[SMALL]).any()
        assert not (values[LARGE] & ~values[MAIN]).any()


@given(seed=seeds)
def test_metrics_equal_a_count_in_plain_python(seed: int) -> None:
    outcomes = consistent(seed)
    rows = [{k: v[i].item() for k, v in outcomes.columns.items()} for i in range(EXAMPLES)]
    right = [row["clean.prediction"] == row["label"] for row in rows]
    whole = [
        ok and row[PGD] == -1 and row[BY] == -1 and row[CURVE] == -1
        for ok, row in zip(right, rows, strict=True)
    ]
    sure = [
        ok and max(row[f"bounds.margin@{MAIN}"], row[f"bounds.margin@{LARGE}"]) > 1e-4
        for ok, row in zip(right, rows, strict=True)
    ]
    found = metrics(outcomes, SMALL_PROTOCOL)
    assert found.clean == sum(right) / EXAMPLES
    assert found.robust == sum(whole) / EXAMPLES
    assert found.certified == sum(sure) / EXAMPLES
    assert found.pgd == sum(row[PGD] == -1 for row in rows) / EXAMPLES
    assert found.autoattack == sum(row[BY] == -1 for row in rows) / EXAMPLES


def test_a_break_at_a_smaller_epsilon_counts_at_the_larger() -> None:
    columns = blank()
    columns[CURVE][3] = 2
    columns[f"curve.broken_step@{LARGE}"][4] = 0
    outcomes = Outcomes(columns)
    lost = {e: (~attacked(outcomes, SMALL_PROTOCOL, e)).nonzero()[0] for e in (SMALL, MAIN, LARGE)}
    assert {e: v.tolist() for e, v in lost.items()} == {SMALL: [3], MAIN: [3], LARGE: [3, 4]}


def test_a_proof_at_a_larger_epsilon_holds_at_the_smaller() -> None:
    columns = blank()
    columns[f"bounds.margin@{LARGE}"][2] = 1
    columns[f"bounds.margin@{MAIN}"][5] = 1
    columns[f"bounds.margin@{SMALL}"][6] = 1
    proven = certified(Outcomes(columns), SMALL_PROTOCOL)
    found = {e: values.nonzero()[0].tolist() for e, values in proven.items()}
    assert found == {SMALL: [2, 5, 6], MAIN: [2, 5], LARGE: [2]}


@pytest.mark.parametrize("margin", [1e-4, 0.0, -1.0, -np.inf, np.nan])
def test_margins_within_rounding_prove_nothing(margin: float) -> None:
    columns = blank()
    columns[f"bounds.margin@{MAIN}"][:] = np.float32(margin)
    # The nearest float32 of 1e-4 is above it by a rounding; the setting is what is compared.
    if margin == 1e-4:
        columns[f"bounds.margin@{MAIN}"][:] = np.nextafter(np.float32(1e-4), np.float32(0))
    assert not certified(Outcomes(columns), SMALL_PROTOCOL)[MAIN].any()


def test_who_broke_what_at_which_epsilon() -> None:
    columns = blank()
    columns[PGD][0], columns[CURVE][1], columns[BY][[2, 3]] = 0, 4, (1, 3)
    found = {
        (name, epsilon): values.nonzero()[0].tolist()
        for name, epsilon, values in broken(Outcomes(columns), SMALL_PROTOCOL)
    }
    assert found == {
        ("pgd", MAIN): [0],
        ("curve", SMALL): [1],
        ("curve", LARGE): [],
        ("apgd-ce", MAIN): [],
        ("apgd-t", MAIN): [2],
        ("fab-t", MAIN): [],
        ("square", MAIN): [3],
    }


def test_smoothed_accuracy_is_over_its_own_examples() -> None:
    columns = blank()
    columns["smoothing.radius"][:5] = [0.5, 0.4999, 0.0, 3.0, np.nan]
    columns["smoothing.prediction"][2], columns["smoothing.prediction"][3] = -1, 9
    found = metrics(Outcomes(columns), SMALL_PROTOCOL)
    assert found.smoothed_examples == 15 and found.smoothed == 11 / 15
    found = metrics(Outcomes(columns).head(10), SMALL_PROTOCOL)
    assert found.smoothed_examples == 10 and found.smoothed == 6 / 10


def test_missing_evaluations_give_nan() -> None:
    bare = replace(SMALL_PROTOCOL, evaluations=(("clean", Clean()),))
    found = metrics(Outcomes(blank()), bare)
    assert found.clean == found.robust == 1.0 and found.smoothed_examples == 0
    assert all(np.isnan([found.pgd, found.autoattack, found.certified, found.smoothed]))
    off = replace(
        SMALL_PROTOCOL,
        evaluations=(("bounds", Bounds(epsilons=(SMALL,), crown_max_units=1)),),
    )
    assert np.isnan(metrics(Outcomes(blank()), off).certified)


def set_to(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns[name][7] = value

    return change


def wrong_then(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        misclassify(columns, [7])
        columns[name][7] = value

    return change


def proven_then(epsilon: Fraction, name: str) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns[f"bounds.margin@{epsilon}"][7] = 1
        columns[name][7] = 0

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (proven_then(MAIN, PGD), "certified at Linf 1/10 yet broken by an attack"),
        (proven_then(MAIN, BY), "certified at Linf 1/10 yet broken by an attack"),
        (proven_then(MAIN, CURVE), "certified at Linf 1/20 yet broken by an attack"),
        (proven_then(LARGE, PGD), "certified at Linf 1/10 yet broken by an attack"),
        (proven_then(SMALL, CURVE), "certified at Linf 1/20 yet broken by an attack"),
        (wrong_then(PGD, -1), f"attacked in {PGD} yet misclassified"),
        (wrong_then(PGD, 4), f"attacked in {PGD} yet misclassified"),
        (wrong_then(BY, -1), f"attacked in {BY} yet misclassified"),
        (wrong_then(BY, 0), f"attacked in {BY} yet misclassified"),
        (wrong_then(CURVE, -1), f"attacked in {CURVE} yet misclassified"),
        (set_to(PGD, -2), f"left out in {PGD} yet correct"),
        (set_to(BY, -2), f"left out in {BY} yet correct"),
        (set_to(CURVE, -2), f"left out in {CURVE} yet correct"),
        (wrong_then(f"bounds.margin@{MAIN}", 1), "proven in bounds@1/10 yet misclassified"),
    ],
)
def test_each_invariant_fires_and_names_the_example(
    change: Callable[[dict[str, Any]], None], rule: str
) -> None:
    columns = blank()
    check_invariants(Outcomes(columns), SMALL_PROTOCOL)
    change(columns)
    with pytest.raises(InvariantViolation) as raised:
        check_invariants(Outcomes(columns), SMALL_PROTOCOL)
    message = one_line(raised.value)
    assert f"expected no example {rule}, got 1: test examples [107]" in message


def test_a_proof_at_a_smaller_epsilon_allows_a_break_at_a_larger() -> None:
    columns = blank()
    columns[f"bounds.margin@{SMALL}"][:] = 1
    columns[PGD][:] = 0
    check_invariants(Outcomes(columns), SMALL_PROTOCOL)
    columns[f"bounds.margin@{MAIN}"][:] = 1
    with pytest.raises(InvariantViolation, match=f"got {EXAMPLES}: test examples") as raised:
        check_invariants(Outcomes(columns), SMALL_PROTOCOL)
    one_line(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (BY, len(ATTACKS)),
        (BY, -4),
        (PGD, 11),
        (PGD, -4),
        (CURVE, 5),
        ("label", -1),
        ("index", -1),
        ("clean.prediction", -1),
        (f"bounds.method@{MAIN}", 2),
    ],
)
def test_values_that_mean_nothing_are_refused(name: str, value: int) -> None:
    columns = blank()
    set_to(name, value)(columns)
    with pytest.raises(RecordError) as raised:
        check_invariants(Outcomes(columns), SMALL_PROTOCOL)
    assert name in one_line(raised.value) and str(value) in str(raised.value)


@pytest.mark.parametrize("name", list(blank()))
def test_missing_and_mistyped_columns_are_refused(name: str) -> None:
    columns = blank()
    values = columns.pop(name)
    with pytest.raises(RecordError, match="got none") as raised:
        check_columns(Outcomes(columns), SMALL_PROTOCOL)
    one_line(raised.value)
    columns[name] = values.astype(np.complex64)
    with pytest.raises(RecordError, match="got complex64"):
        check_columns(Outcomes(columns), SMALL_PROTOCOL)
    columns[name] = values
    with pytest.raises(RecordError, match="expected no outcome column odd") as raised:
        check_columns(Outcomes({**columns, "odd": values}), SMALL_PROTOCOL)
    one_line(raised.value)
    check_columns(Outcomes(columns), SMALL_PROTOCOL)


def test_every_protocol_names_its_columns() -> None:
    for protocol in PROTOCOLS.values():
        with pytest.raises(RecordError, match="outcome column index"):
            check_columns(Outcomes({"label": np.zeros(1, np.int16)}), protocol)


@given(seed=seeds)
def test_certifying_first_changes_no_accuracy(seed: int) -> None:
    outcomes = consistent(seed)
    columns = dict(outcomes.columns)
    spare(columns)
    spared = Outcomes(columns)
    check_invariants(spared, SPARING_PROTOCOL)
    assert metrics(spared, SPARING_PROTOCOL) == metrics(outcomes, SMALL_PROTOCOL)
    for epsilon in (SMALL, MAIN, LARGE):
        whole = attacked(outcomes, SMALL_PROTOCOL, epsilon)
        assert np.array_equal(attacked(spared, SPARING_PROTOCOL, epsilon), whole)


def spared_then(value: int, name: str = PGD) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns[f"bounds.margin@{MAIN}"][7] = 1
        spare(columns)
        columns[name][7] = value

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (spared_then(-1), f"certified yet not left out in {PGD}"),
        (spared_then(0), "certified at Linf 1/10 yet broken by an attack"),
        (set_to(PGD, -3), f"left out in {PGD} as proven yet not certified"),
        (set_to(BY, -3), f"left out in {BY} as proven yet not certified"),
        (set_to(CURVE, -3), f"left out in {CURVE} as proven yet not certified"),
    ],
)
def test_only_what_is_proven_is_spared(change: Callable[[dict[str, Any]], None], rule: str) -> None:
    columns = blank()
    change(columns)
    with pytest.raises(InvariantViolation) as raised:
        check_invariants(Outcomes(columns), SPARING_PROTOCOL)
    assert f"expected no example {rule}, got 1: test examples [107]" in one_line(raised.value)


def test_nobody_is_spared_where_all_are_attacked() -> None:
    columns = blank()
    columns[f"bounds.margin@{MAIN}"][7] = 1
    spare(columns)
    check_invariants(Outcomes(columns), SPARING_PROTOCOL)
    with pytest.raises(InvariantViolation, match="yet not certified"):
        check_invariants(Outcomes(columns), SMALL_PROTOCOL)


def test_attempts_count_members_one_after_another() -> None:
    columns = blank(10)
    misclassify(columns, [0])
    columns[BY][1:4] = [0, 0, 1]
    columns[PGD][5] = 3
    tried = {
        (a.evaluation, a.attack): (int(a.tried.sum()), int(a.broken.sum()))
        for a in attempts(Outcomes(columns), SMALL_PROTOCOL)
        if a.epsilon == MAIN
    }
    assert tried == {
        ("pgd", "pgd"): (9, 1),
        ("autoattack", "apgd-ce"): (9, 2),
        ("autoattack", "apgd-t"): (7, 1),
        ("autoattack", "fab-t"): (6, 0),
        ("autoattack", "square"): (6, 0),
    }


# --- Five attacks ---------------------------------------------------------------------------------

FGSM, CW = "fgsm.broken_by", f"cw.broken_step@{MAIN}"
LONGEST = f"pgd-6.broken_step@{MAIN}"


def test_all_five_count_and_each_is_counted_by_itself() -> None:
    columns = five()
    misclassify(columns, [0])
    columns[FGSM][1:3] = 0
    columns[CW][2:6] = 5
    columns[f"pgd-3.broken_step@{MAIN}"][6] = 3
    columns[LONGEST][6:8] = 6
    columns[BY][8] = 2
    outcomes = Outcomes(columns)
    check_invariants(outcomes, FIVE_PROTOCOL)
    found = metrics(outcomes, FIVE_PROTOCOL)
    lost = {"fgsm": 2, "pgd-3": 1, "pgd-6": 2, "pgd-4": 0, "cw": 4, "autoattack": 1}
    assert found.by_evaluation == {name: (39 - n) / 40 for name, n in lost.items()}
    assert list(found.by_evaluation) == list(lost)
    assert found.robust == (39 - 8) / 40
    assert found.autoattack == 38 / 40
    tried = {
        (a.evaluation, a.attack): int(a.broken.sum()) for a in attempts(outcomes, FIVE_PROTOCOL)
    }
    assert tried[("fgsm", "fgsm")] == 2 and tried[("cw", "cw")] == 4


def test_era_is_the_longest_pgd() -> None:
    columns = five()
    for count, name in enumerate(("pgd-3", "pgd-6", "pgd-4"), start=1):
        columns[f"{name}.broken_step@{MAIN}"][:count] = 0
    found = main_pgd(FIVE_PROTOCOL)
    assert found is not None and found[0] == "pgd-6"
    assert metrics(Outcomes(columns), FIVE_PROTOCOL).pgd == 38 / 40
    # Among equally long ones that of more restarts, and a curve is none, however long.
    [(_, longest)] = [(n, s) for n, s in FIVE_PROTOCOL.evaluations if n == "pgd-6"]
    again = replace(longest, restarts=2)
    curve = replace(longest, steps=replace(longest.steps, count=99), epsilons=(SMALL,))
    more = (*FIVE_PROTOCOL.evaluations, ("again", again), ("curve", curve))
    assert main_pgd(replace(FIVE_PROTOCOL, evaluations=more)) == ("again", again)
    assert main_pgd(replace(FIVE_PROTOCOL, evaluations=())) is None


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (proven_then(MAIN, FGSM), "certified at Linf 1/10 yet broken by an attack"),
        (proven_then(MAIN, CW), "certified at Linf 1/10 yet broken by an attack"),
        (wrong_then(FGSM, 0), f"attacked in {FGSM} yet misclassified"),
        (wrong_then(CW, -1), f"attacked in {CW} yet misclassified"),
        (set_to(FGSM, -2), f"left out in {FGSM} yet correct"),
        (set_to(CW, -2), f"left out in {CW} yet correct"),
        (set_to(FGSM, -3), f"left out in {FGSM} as proven yet not certified"),
        (set_to(CW, -3), f"left out in {CW} as proven yet not certified"),
        (
            lambda c: (spared_then(-3, LONGEST)(c), set_to(FGSM, -1)(c)),
            f"yet not left out in {FGSM}",
        ),
        (lambda c: (spared_then(-3, LONGEST)(c), set_to(CW, -1)(c)), f"yet not left out in {CW}"),
    ],
)
def test_the_rules_hold_for_the_five(change: Callable[[dict[str, Any]], None], rule: str) -> None:
    columns = five()
    check_invariants(Outcomes(columns), FIVE_PROTOCOL)
    change(columns)
    with pytest.raises(InvariantViolation) as raised:
        check_invariants(Outcomes(columns), FIVE_PROTOCOL)
    assert f"{rule}, got 1: test examples [107]" in one_line(raised.value)


def test_what_is_proven_is_spared_by_all_five() -> None:
    columns = five()
    spared_then(-3, LONGEST)(columns)
    check_invariants(Outcomes(columns), FIVE_PROTOCOL)
    found = metrics(Outcomes(columns), FIVE_PROTOCOL)
    assert set(found.by_evaluation.values()) == {1.0} and found.certified == 1 / 40


@pytest.mark.parametrize(("name", "value"), [(FGSM, 1), (FGSM, -4), (CW, 6), (CW, -4)])
def test_values_that_mean_nothing_to_the_five_are_refused(name: str, value: int) -> None:
    columns = five()
    set_to(name, value)(columns)
    with pytest.raises(RecordError) as raised:
        check_invariants(Outcomes(columns), FIVE_PROTOCOL)
    assert name in one_line(raised.value) and str(value) in str(raised.value)


def test_what_was_not_run_has_no_survivors() -> None:
    evaluations = (*SMALL_PROTOCOL.evaluations, ("transfer", Transfer()))
    protocol = replace(SMALL_PROTOCOL, evaluations=evaluations)
    columns = blank()
    columns["transfer.broken_by"] = np.full(EXAMPLES, -4, dtype=np.int8)
    assert set(survivors(Outcomes(columns), protocol)) == {"pgd", "autoattack"}
    columns["transfer.broken_by"][:] = -1
    columns["transfer.broken_by"][:3] = 0
    left = survivors(Outcomes(columns), protocol)
    assert left["transfer"].sum() == EXAMPLES - 3 and left["pgd"].all()


def test_equal_columns_give_equal_bytes_in_any_order() -> None:
    columns = consistent(1).columns
    data = Outcomes(columns).encode()
    assert Outcomes(dict(reversed(columns.items()))).encode() == data
    strided = {n: np.stack([v, v], axis=1)[:, 0] for n, v in columns.items()}
    assert Outcomes(strided).encode() == data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {m.date_time for m in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@given(seed=seeds)
def test_outcomes_round_trip(seed: int) -> None:
    outcomes = consistent(seed)
    data = outcomes.encode()
    found = decode(data, sha256_of_bytes(data))
    assert found.columns.keys() == outcomes.columns.keys()
    for name, values in outcomes.columns.items():
        assert found.columns[name].dtype == values.dtype
        assert np.array_equal(found.columns[name], values, equal_nan=values.dtype.kind == "f")


def test_arrays_of_any_shape_round_trip_and_numpy_reads_them() -> None:
    arrays = {
        "flat": np.arange(5, dtype=np.uint8),
        "none": np.zeros((0, 3, 8, 8), dtype=np.float32),
        "images": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.array(True),
        "with/slash@1/10": np.array([-1], dtype=np.int64),
    }
    data = encode_arrays(arrays)
    found = read_arrays(data)
    with np.load(io.BytesIO(data), allow_pickle=False) as reference:
        for name, values in arrays.items():
            assert found[name].dtype == values.dtype and found[name].shape == values.shape
            assert np.array_equal(found[name], values)
            assert np.array_equal(reference[name], values)
            assert found[name].flags.writeable
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    assert all(np.array_equal(v, arrays[n]) for n, v in read_arrays(buffer.getvalue()).items())


def refused(data: bytes) -> str:
    with pytest.raises(RecordError) as raised:
        decode(data, sha256_of_bytes(data))
    return one_line(raised.value)


def archive_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(values: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def test_another_hash_is_refused() -> None:
    data = consistent(0).encode()
    with pytest.raises(RecordError, match=r"sha256 0{12}…, got [0-9a-f]{12}…") as raised:
        decode(data, "0" * 64)
    one_line(raised.value)


def test_truncated_files_are_refused() -> None:
    data = consistent(0).encode()
    for length in range(0, len(data), 97):
        refused(data[:length])


@given(position=some.integers(0, 10**6), value=some.integers(1, 255))
def test_a_changed_byte_is_refused_or_gives_columns(position: int, value: int) -> None:
    data = bytearray(consistent(0, 10).encode())
    data[position % len(data)] ^= value
    try:
        found = decode(bytes(data), sha256_of_bytes(bytes(data)))
    except RecordError as error:
        one_line(error)
    else:
        assert len(found) == 10


@given(data=some.binary(max_size=300))
def test_noise_is_refused(data: bytes) -> None:
    refused(data)


LABEL = npy(np.zeros(3, dtype=np.int16))


def promising(shape: str, descr: str = "<i2") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (53 - len(header) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 6


@pytest.mark.parametrize(
    "member",
    [
        npy(np.array([{"a": 1}] * 3), allow_pickle=True),
        npy(np.array(["a", "b", "c"])),
        npy(np.zeros(3, dtype=[("a", "<i2")])),
        npy(np.zeros(3, dtype="<c8")),
        npy(np.zeros(3, dtype=">i2")),
        npy(np.zeros(4, dtype=np.int16)),
        npy(np.zeros((3, 2), dtype=np.int16)),
        npy(np.int16(3)),
        LABEL[:-1],
        LABEL + b"\0",
        b"",
        b"plain text",
        promising("(1000000000000,)"),
        promising("(3, 1000000000000)"),
        promising("(-3,)"),
        promising("(3,)", "|O"),
        promising("(3,)", "|V2"),
        promising("(" * 100 + "3" + ")" * 100),
        promising("(3,) if print('run') else (3,)"),
    ],
    ids=lambda member: str(member[:60]),
)
def test_members_that_are_not_plain_columns_are_refused(member: bytes) -> None:
    refused(archive_of(label=LABEL, other=member))


def test_the_promising_header_is_otherwise_sound() -> None:
    data = archive_of(label=LABEL, other=promising("(3,)"))
    assert len(decode(data, sha256_of_bytes(data))) == 3


def test_labels_are_required() -> None:
    refused(archive_of(other=LABEL))
    refused(archive_of())


def test_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    piece = b"\0" * (64 << 20)
    data = archive_of(**{f"a{i}": piece for i in range(5)})
    assert len(data) < 1 << 20
    assert f"more than {LARGEST_OUTCOMES}" in refused(data)


def test_bomb_that_understates_its_size_is_refused() -> None:
    data = archive_of(label=LABEL, other=b"\0" * (1 << 20))
    small = data.replace((1 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert small != data
    refused(small)


def test_the_same_name_twice_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("label.npy", LABEL)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("label.npy", npy(np.ones(3, dtype=np.int16)))
    assert "twice" in refused(buffer.getvalue())


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(compression: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("label.npy", LABEL)
    assert "another compression" in refused(buffer.getvalue())


def test_objects_are_never_stored() -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        encode_arrays({"a": np.array([{}])})
