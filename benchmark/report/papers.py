"""AER, accuracy, efficiency and robustness of a row as one triple, and VRA by smoothing beside it.

Source: H. Xie, L. Qian, X. Xiang, N. Liu, "Blind Adversarial Pruning: Balance Accuracy, Efficiency
and Robustness", 2020 (arXiv 2004.05913). No formula for AER is documented: clean accuracy, sparsity
and the curve of accuracy against epsilon are. The mean of that curve is our summary of it, a
reconstruction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.leaderboard import DENSE
from benchmark.report.shares import Row, Share, attacked_curve, counted, share
from benchmark.report.views import checkpoint_path, display_name
from benchmark.report.wording import number, percent, sparsity_percent, text

# Width and height of a small curve, in its own units.
WIDTH, HEIGHT = 100.0, 40.0


@dataclass(frozen=True)
class Sketch:
    """A curve of accuracy against epsilon, small enough for a table.

    Attributes:
        line: its points as SVG coordinates.
        area: the same, closed along the axis.
        words: the same in words.
    """

    line: str
    area: str
    words: str


@dataclass(frozen=True)
class Triple:
    """One row's accuracy, efficiency and robustness.

    Attributes:
        name: as displayed; `href` is its page.
        sparsity: of prunable parameters, in percent.
        accuracy: on unmodified inputs.
        density: what is left of the prunable parameters, in percent.
        compression: how many times fewer that is; empty for dense networks.
        robustness: mean accuracy over epsilon in percent; `interval` is its own.
        sketch: the curve that it is the mean of; None where it was not measured.
        smoothed: certified accuracy of the smoothed network, another network.
        training: objective, recipe and seed.
        network: architecture and structure.
    """

    name: str
    href: str
    sparsity: str
    accuracy: Share
    density: str
    compression: str
    robustness: str
    interval: str
    sketch: Sketch | None
    smoothed: Share
    training: str
    network: str


@dataclass(frozen=True)
class Triples:
    """The triples of a board.

    Attributes:
        rows: by network, training and method, from dense to sparse.
        epsilon: the largest that was attacked, with the norm.
        smoothing: radius and noise behind the smoothed accuracies; empty where there are none.
    """

    rows: tuple[Triple, ...]
    epsilon: str
    smoothing: str


def triples(rows: Sequence[Row]) -> Triples | None:
    """Returns the triples of a board's rows; None where no row has a curve of several epsilons.

    Args:
        rows: with a result, of one protocol and tier.
    """
    measured = [row for row in rows if math.isfinite(number(row.get("aer_robustness")))]
    if not measured:
        return None
    first = measured[0]
    smoothed = [row for row in measured if math.isfinite(number(row.get("smoothed_accuracy")))]
    return Triples(
        rows=tuple(_triple(row) for row in sorted(measured, key=_order)),
        epsilon=_largest(first),
        smoothing=_smoothing(smoothed[0]) if smoothed else "",
    )


def triple_in_words(row: Row) -> str:
    """Returns a row's triple as a line; empty where its robustness was not measured."""
    if not math.isfinite(number(row.get("aer_robustness"))):
        return ""
    return (
        f"{percent(number(row.get('clean_accuracy')))} % clean, "
        f"{percent(number(row.get('density')))} % density, "
        f"{percent(number(row.get('aer_robustness')))} {_interval(row)}".rstrip()
        + f" % on average up to {_largest(row)}"
    )


def _order(row: Row) -> tuple[object, ...]:
    columns = ("architecture", "objective", "recipe", "seed")
    own = [str(row.get(name)) for name in columns]
    place = (str(row["structure"]), str(row["method"])) if row["method"] != DENSE else ("", "")
    return (*own, *place, number(row.get("measured_sparsity")), str(row["checkpoint_id"]))


def _triple(row: Row) -> Triple:
    names = {name: text(row.get(name), 40) for name in ("objective", "recipe", "seed")}
    ratio = number(row.get("compression_ratio"))
    smoothed = share(row, "smoothed_accuracy")
    if smoothed.known:
        smoothed = counted(smoothed.value, number(row.get("smoothed_examples")))
    return Triple(
        name=display_name(row),
        href=checkpoint_path(row),
        sparsity=sparsity_percent(number(row.get("measured_sparsity"))),
        accuracy=share(row, "clean_accuracy"),
        density=percent(number(row.get("density"))),
        compression=f"{ratio:.3g}×" if ratio > 1 and math.isfinite(ratio) else "",
        robustness=percent(number(row.get("aer_robustness"))),
        interval=_interval(row),
        sketch=_sketch(row),
        smoothed=smoothed,
        training=f"{names['objective']}, {names['recipe']}, seed {names['seed']}",
        network=f"{text(row['architecture'], 40)}, {text(row['structure'], 40)}",
    )


def _interval(row: Row) -> str:
    ends = [number(row.get(f"aer_{name}")) for name in ("low", "high")]
    known = all(math.isfinite(end) for end in ends)
    return f"[{', '.join(percent(end) for end in ends)}]" if known else ""


def _largest(row: Row) -> str:
    return f"{text(row.get('threat')).partition(' ')[0]} {text(row.get('aer_epsilon'), 20)}"


def _smoothing(row: Row) -> str:
    radius, sigma = number(row.get("smoothed_radius")), number(row.get("smoothed_sigma"))
    return f"L2 {radius:.4g}, sigma {sigma:.4g}"


def _sketch(row: Row) -> Sketch | None:
    """Returns the curve of a row, from clean accuracy at 0 to its largest epsilon."""
    points = {0.0: ("0", number(row.get("clean_accuracy")))}
    for entry in attacked_curve(row):
        printed = text(entry.get("epsilon"), 20)
        points[number(entry.get("value"))] = (printed, number(entry.get("robust_accuracy")))
    known = {at: point for at, point in sorted(points.items()) if math.isfinite(at + point[1])}
    if len(known) < 2 or 0.0 not in known:
        return None
    widest = max(known)
    line = " ".join(
        f"{WIDTH * at / widest:.1f},{HEIGHT * (1 - accuracy):.1f}"
        for at, (_, accuracy) in known.items()
    )
    return Sketch(
        line=line,
        area=f"0,{HEIGHT:g} {line} {WIDTH:g},{HEIGHT:g}",
        words=", ".join(f"{percent(accuracy)} % at {name}" for name, accuracy in known.values()),
    )
