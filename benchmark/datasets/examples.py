"""Fixed example lists: which examples are evaluated, in which order, and which are held out."""

import hashlib
from itertools import zip_longest

import torch
from torch import Tensor

from benchmark.digests import digest_of

# One training example in ten is held out for choices (best epoch, thresholds) that test data must
# not make.
VALIDATION_SHARE = 0.1


def example_list(name: str, labels: Tensor) -> Tensor:
    """Returns the fixed order of a split's examples, of which every prefix is class-balanced.

    Classes take turns, in each round in another order, that of the SHA-256 of `name:round:label`;
    inside a class the examples are ordered by the SHA-256 of `name:index`. No random number library
    is involved, so no version changes the list.

    Args:
        name: the data set's name.
        labels: (N,) int, the labels of all examples of the split.

    Returns:
        (N,) int64, a permutation. While no class has run out, class counts of a prefix differ by at
        most one.

    >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
    >>> labels[example_list("digits", labels)].tolist()
    [1, 0, 0, 1, 1, 0]
    """
    rounds = zip_longest(*_class_orders(name, labels))
    order = [i for turn, members in enumerate(rounds) for i in _shuffled(f"{name}:{turn}", members)]
    return torch.tensor(order, dtype=torch.int64)


def _shuffled(name: str, members: tuple[int | None, ...]) -> list[int]:
    """Returns one round's examples, one a class, classes in an order of this round alone.

    With many classes a short prefix is part of one round: it must not be that of the first labels.
    """
    classes = sorted(range(len(members)), key=lambda label: _rank(f"{name}:{label}"))
    return [index for label in classes if (index := members[label]) is not None]


def list_digest(indices: Tensor) -> str:
    """Returns the SHA-256 (64 hex digits) of a list of indices; order matters.

    Args:
        indices: (n,) int.
    """
    return digest_of(indices.tolist())


def held_out(name: str, labels: Tensor, count: int) -> Tensor:
    """Returns a mask of about `count` examples, equally many of each class.

    They are the first of their class in the order of `example_list`.

    Args:
        name: keeps the choice unrelated to other choices from the same data.
        labels: (N,) int.
        count: how many in all; rounded to the same number for each class, at least one.

    Returns:
        (N,) bool, True = held out. A class never gives more than half of its examples.
    """
    orders = _class_orders(name, labels)
    each = max(1, round(count / max(1, len(orders))))
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for order in orders:
        mask[order[: min(each, len(order) // 2)]] = True
    return mask


def _class_orders(name: str, labels: Tensor) -> list[list[int]]:
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(index)

    def rank(index: int) -> bytes:
        return _rank(f"{name}:{index}")

    return [sorted(members[label], key=rank) for label in sorted(members)]


def _rank(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
