"""Digests: the SHA-256 of a text known by hand, whatever the order of mappings, never guessed."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from benchmark.digests import canonical, digest_of, seed_from, sha256_of_bytes, sha256_of_file


@dataclass(frozen=True)
class Point:
    x: int
    y: Fraction


@dataclass(frozen=True)
class Other:
    x: int
    y: Fraction


def test_digest_is_the_sha256_of_compact_sorted_json() -> None:
    text = b'{"a":[1,"2/3",null],"b":{"class":"Point","x":1,"y":"1/2"}}'
    value = {"b": Point(1, Fraction(2, 4)), "a": (1, Fraction(2, 3), None)}
    assert digest_of(value) == hashlib.sha256(text).hexdigest()


def test_bytes_and_file_agree(tmp_path: Path) -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of_bytes(b"abc") == sha256_of_file(tmp_path / "abc") == known


plain = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=5) | some.fractions(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(some.dictionaries(some.text(max_size=5), plain, min_size=2, max_size=4))
def test_order_of_mappings_is_no_matter(value: dict[str, object]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(value.items())))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Point(1, Fraction(1)), Other(1, Fraction(1))),
        (Point(1, Fraction(1)), Point(1, Fraction(2))),
        ([1, 2], [2, 1]),
        (["ab", "c"], ["a", "bc"]),
        (1, 1.0),
        (1, True),
        ("1", 1),
        ([], {}),
        ("", None),
    ],
)
def test_different_values_differ(one: object, other: object) -> None:
    assert digest_of(one) != digest_of(other)


def test_tuples_and_lists_are_alike() -> None:
    assert digest_of((1, (2,))) == digest_of([1, [2]])


@pytest.mark.parametrize(
    "make",
    [
        lambda: {1, 2},
        lambda: b"x",
        lambda: Path("x"),
        lambda: object(),
        lambda: np.int64(1),
        lambda: torch.zeros(1),
        lambda: Point,
        lambda: {1: "a", "1": "b"},
    ],
)
def test_what_has_no_canonical_form_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="^expected"):
        canonical(make())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_numbers_that_json_cannot_spell_are_refused(value: object) -> None:
    with pytest.raises(ValueError):
        digest_of(value)


def test_seeds_fit_every_generator_and_depend_on_each_part() -> None:
    seeds = {seed_from(a, b, c) for a in (0, 1, "0") for b in range(20) for c in ("pgd", "clean")}
    assert len(seeds) == 120
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**61  # not truncated to fewer bits
    torch.Generator().manual_seed(max(seeds))
    assert seed_from("a", "b") != seed_from("b", "a")
    assert seed_from("a", "b") != seed_from("ab")


def test_seed_is_the_top_of_the_digest() -> None:
    assert seed_from(0, "pgd") == int(digest_of([0, "pgd"]), 16) >> (256 - 63)
