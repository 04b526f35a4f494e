"""Each class has its own exit code; look-ups suggest and stay one short line whatever is asked."""

import pytest

from benchmark import errors
from benchmark.errors import BenchmarkError, UnknownName, lookup, shorten

FAMILY = [BenchmarkError, *BenchmarkError.__subclasses__()]


def test_exit_codes_are_distinct_and_free() -> None:
    codes = [kind.exit_code for kind in FAMILY]
    assert len(codes) >= 9 and len(set(codes)) == len(codes)
    # 0 is success, 1 a crash, 2 wrong usage, and shells use 126 and above.
    assert all(2 < code < 126 for code in codes)


def test_whole_family_lives_here() -> None:
    assert {kind.__module__ for kind in FAMILY} == {errors.__name__}


def test_lookup_returns_the_entry() -> None:
    assert lookup("protocol", "b", {"a": 1, "b": 2}) == 2


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("cifar1", "did you mean cifar10"),
        ("CIFAR10", "did you mean cifar10"),
        ("digit", "did you mean digits?"),
        ("zzz", "'zzz'; known: cifar10, cifar100, digits"),
    ],
)
def test_lookup_names_near_matches_and_known_names(asked: str, hint: str) -> None:
    with pytest.raises(UnknownName) as raised:
        lookup("data set", asked, {"digits": 1, "cifar10": 2, "cifar100": 3})
    message = str(raised.value)
    assert message.startswith(f"unknown data set '{asked}'; ")
    assert hint in message
    assert message.endswith("known: cifar10, cifar100, digits")


def test_lookup_in_an_empty_table() -> None:
    with pytest.raises(UnknownName, match="known: none$"):
        lookup("checkpoint", "a", {})


def test_lookup_stays_short_whatever_is_asked_and_known() -> None:
    table = {f"{index:04d}-" + "x" * 150: index for index in range(2000)}
    with pytest.raises(UnknownName) as raised:
        lookup("checkpoint", "0001-" + "y\n\x1b[31m" * 200_000, table)
    message = str(raised.value)
    assert message.isprintable() and len(message) < 2500
    assert message.endswith("and 1980 more")


@pytest.mark.parametrize(
    "hostile", ["a\nb", "a\rb", "a\x1b[2Jb", "a\u2028b", "a\u202eb", "a\ud800b"]
)
def test_shorten_leaves_nothing_that_a_terminal_obeys(hostile: str) -> None:
    assert shorten(hostile).startswith("a?") and shorten(hostile).isprintable()


def test_shorten_cuts_at_its_limit_only() -> None:
    assert shorten("x" * 80) == "x" * 80
    assert shorten("x" * 81) == "x" * 79 + "…"
    assert len(shorten("x" * 10**6, 7)) == 7
    assert shorten("Müller — 90 %") == "Müller — 90 %"
