"""The mutated folder of a number: of which seed, which file of it, and changed how."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

from fuzz import archives, pictures, raw, tensors, texts

# Files by path.
Folder = Mapping[str, bytes]

# How files of a kind are changed, by the end of their name; all others as bytes.
_BY_SUFFIX: dict[str, Callable[[bytes, Random, bytes], bytes]] = {
    ".json": texts.mutate,
    ".origin": texts.mutate,
    ".npz": archives.mutate,
    ".zip": archives.mutate,
    ".safetensors": tensors.mutate,
    ".png": pictures.mutate,
}

# Longer mutants only take longer.
_LONGEST = 4 << 20


def mutant(
    seeds: Sequence[Folder], mend: Callable[[Folder], Folder] | None, draw: Random
) -> Folder:
    """Returns a folder near one of the seeds.

    Args:
        seeds: sound folders.
        mend: makes the digests in a folder right again, so that a change gets past them; raises
            anything where it cannot.
        draw: decides all.
    """
    folder = dict(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 1, 2))):
        path = draw.choice(sorted(folder))
        others = [seed[path] for seed in seeds if path in seed]
        folder[path] = _mutated(path, folder[path], draw, draw.choice(others) if others else b"")
    if draw.random() < 0.01:
        del folder[draw.choice(sorted(folder))]
    if mend is not None and draw.random() < 0.75:
        try:
            return mend(folder)
        except Exception:  # whatever is broken stays so, and is what the reader gets
            return folder
    return folder


def _mutated(path: str, data: bytes, draw: Random, other: bytes) -> bytes:
    ways = [way for suffix, way in _BY_SUFFIX.items() if path.endswith(suffix)]
    return (ways[0] if ways else raw.mutate)(data, draw, other)[:_LONGEST]
