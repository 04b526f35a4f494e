"""How figures look: fonts, widths, and colours, markers and lines that survive grey and print."""

import io
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmark.errors import lookup
from benchmark.leaderboard import DENSE, MAGNITUDE, RANDOM

# Fonts that come with matplotlib: the same version draws the same letters on every machine.
PRESETS = {"serif": "STIXGeneral", "sans": "DejaVu Sans"}

# Inches: a column and the text of a two-column page.
WIDTHS = {"column": 3.35, "text": 6.9}

# What is written beside the picture: without dates and versions, so that bytes repeat.
FORMATS: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": "robustprune", "Producer": None},
    "svg": {"Date": None, "Creator": "robustprune"},
    "png": {"Software": None},
}

# Okabe & Ito 2008, without yellow, which paper swallows; black and greys are for the controls.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))

_SIZES = {"serif": 8.5, "sans": 7.0}


@dataclass(frozen=True)
class Look:
    """How figures are to look.

    Attributes:
        preset: of `PRESETS`.
        width: of `WIDTHS`.
    """

    preset: str = "serif"
    width: str = "column"

    def __post_init__(self) -> None:
        """Checks the names."""
        lookup("preset", self.preset, PRESETS)
        lookup("width", self.width, WIDTHS)

    @property
    def inches(self) -> float:
        """Returns the width of a figure."""
        return WIDTHS[self.width]

    @property
    def wide(self) -> bool:
        """Returns whether panels have room beside each other."""
        return self.width == "text"

    def applied(self) -> AbstractContextManager[None]:
        """Returns a context with the settings of this look, whatever the user's own are."""
        size = _SIZES[self.preset]
        # Keys are typed as the literals of one version of matplotlib.
        settings: dict[Any, Any] = dict(mpl.rcParamsDefault)
        settings |= {
            "backend": "agg",
            "font.family": [PRESETS[self.preset]],
            "font.size": size,
            "axes.titlesize": size,
            "axes.labelsize": size,
            "xtick.labelsize": size - 0.7,
            "ytick.labelsize": size - 0.7,
            "legend.fontsize": size - 0.7,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.linewidth": 0.4,
            "grid.color": "#DDDDDD",
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "xtick.minor.size": 0,
            "lines.linewidth": 1.1,
            "lines.markersize": 3.6,
            "legend.frameon": False,
            "legend.handlelength": 2.6,
            "legend.columnspacing": 1.2,
            "legend.labelspacing": 0.3,
            # Names come from files: a dollar sign is no formula.
            "text.parse_math": False,
            # Letters stay letters: TrueType in a PDF, outlines in an SVG.
            "pdf.fonttype": 42,
            "ps.fonttype": 42,
            "svg.fonttype": "path",
            "svg.hashsalt": "robustprune",
        }
        return mpl.rc_context(settings)


@dataclass(frozen=True)
class Stroke:
    """How a method is drawn, the same in all panels of a figure."""

    colour: str
    marker: str
    dashes: Any
    filled: bool = True

    @property
    def face(self) -> str:
        """Returns the colour inside a marker."""
        return self.colour if self.filled else "white"


# Controls are the backdrop of every figure, so they look alike in all of them.
_CONTROLS = {
    DENSE: Stroke("#000000", "*", (0, (1, 2))),
    MAGNITUDE[0]: Stroke("#444444", "s", "-", filled=False),
    MAGNITUDE[1]: Stroke("#444444", "o", "-", filled=False),
    RANDOM: Stroke("#888888", "x", (0, (3, 2))),
}


def strokes(labels: Iterable[str]) -> dict[str, Stroke]:
    """Returns a stroke for each label; those of controls are fixed, others go by their order.

    Colour alone never tells two apart: markers differ too, until there are more than twelve.
    """
    found, others = {}, 0
    for label in dict.fromkeys(labels):
        if label in _CONTROLS:
            found[label] = _CONTROLS[label]
            continue
        dashes = _DASHES[others // len(_COLOURS) % len(_DASHES)]
        marker = _MARKERS[others % len(_MARKERS)]
        found[label] = Stroke(_COLOURS[others % len(_COLOURS)], marker, dashes)
        others += 1
    return found


def rendered(figure: Figure, look: Look, form: str) -> bytes:
    """Returns a figure as a file: the same bytes for the same figure, in any year.

    Args:
        figure: drawn with this look.
        look: its fonts.
        form: of `FORMATS`.

    Raises:
        UnknownName: no such format.
    """
    metadata = lookup("format", form, FORMATS)
    stream = io.BytesIO()
    with look.applied():
        figure.savefig(stream, format=form, dpi=300, metadata=metadata)
    return stream.getvalue()


@dataclass(frozen=True)
class Shown:
    """A figure as a notebook shows it: the picture itself where it is a cell's last value."""

    figure: Figure
    look: Look

    def _repr_png_(self) -> bytes:
        return rendered(self.figure, self.look, "png")
