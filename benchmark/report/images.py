"""Examples, their adversarial inputs and the difference, as one PNG. Only this module knows Pillow.

The same arrays give the same bytes. Gaps between the pictures are transparent and each picture has
a frame, so a sheet reads on light and on dark pages.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

# Pixels of the sheet. The style sheet names GAP once more, to set the answers over their pictures.
SIDE = 64
GAP = 6
FRAME = 1
FRAME_GREY = 139

# Small pictures are magnified to about SIDE; of large ones as many are shown as this holds.
LARGEST_WIDTH = 1024


@dataclass(frozen=True)
class Sheet:
    """A PNG with three lines: originals, adversarial inputs, differences.

    Attributes:
        data: the file.
        width: in pixels.
        height: in pixels.
    """

    data: bytes
    width: int
    height: int


def columns(shape: tuple[int, ...], wanted: int) -> int:
    """Returns how many examples fit on a sheet, at least one.

    Args:
        shape: (N, C, H, W).
        wanted: most examples to show.
    """
    return max(1, min(wanted, shape[0], LARGEST_WIDTH // (shape[3] + GAP)))


def draw(originals: NDArray[Any], adversarial: NDArray[Any], scale: float) -> Sheet:
    """Returns originals over adversarial inputs over differences, one column an example.

    Args:
        originals: (N, C, H, W) in [0, 1]; C is 1 for grey, 3 for red, green and blue.
        adversarial: (N, C, H, W) in [0, 1].
        scale: the change drawn as white, its opposite as black; none is grey. Above 0.
    """
    change = (adversarial.astype(np.float64) - originals) / scale
    lines = [_grey(originals), _grey(adversarial), _grey(0.5 + change / 2)]
    tiles = np.stack([_framed(_magnified(line)) for line in lines])
    sheet = _sheet(tiles)
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, format="PNG", compress_level=9)
    return Sheet(stream.getvalue(), sheet.shape[1], sheet.shape[0])


def _grey(shares: NDArray[Any]) -> Pixels:
    return np.rint(255 * np.clip(shares.astype(np.float64), 0, 1)).astype(np.uint8)


def _magnified(pictures: Pixels) -> Pixels:
    """Repeats pixels, which invents none, until a picture is about SIDE wide or high."""
    times = max(1, round(SIDE / max(pictures.shape[2:])))
    return pictures.repeat(times, axis=2).repeat(times, axis=3)


def _framed(pictures: Pixels) -> Pixels:
    edge = ((0, 0), (0, 0), (FRAME, FRAME), (FRAME, FRAME))
    return np.pad(pictures, edge, constant_values=FRAME_GREY)


def _sheet(tiles: Pixels) -> Pixels:
    """Returns (height, width, C + 1) with the tiles opaque and the gaps between them clear.

    Args:
        tiles: (lines, N, C, H, W).
    """
    lines, count, channels, height, width = tiles.shape
    down, across = height + GAP, width + GAP
    sheet = np.zeros((lines * down - GAP, count * across - GAP, channels + 1), dtype=np.uint8)
    for line in range(lines):
        for column in range(count):
            place = sheet[line * down :, column * across :][:height, :width]
            place[..., :-1] = tiles[line, column].transpose(1, 2, 0)
            place[..., -1] = 255
    return sheet
