"""Published figures of others: what papers and other benchmarks print, with where they print it.

They stand beside a board and are never ranked with it: nobody here evaluated those networks. The
figures lie in `data/reported.json`, one a line; `docs/reported.md` says where they are from.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from benchmark.errors import RecordError, shorten
from benchmark.files import read_bounded
from benchmark.manifest import Line, Strict, explain
from benchmark.migrations import parse
from benchmark.pruning import Structure
from benchmark.threat import Norm

FILE = Path(__file__).parent / "data" / "reported.json"
LARGEST_REPORTED = 4 << 20

Dataset = Literal["cifar10", "svhn"]

# The boards that have published figures beside them, with the data set and norm of these.
BESIDE: dict[str, tuple[Dataset, Norm]] = {
    "cifar10-linf": ("cifar10", "Linf"),
    "svhn-linf": ("svhn", "Linf"),
}

# No quotes, brackets or spaces, so that an address stays one wherever it is shown.
_IN_ADDRESS = r"[A-Za-z0-9._~/?=#&%+-]"
Address = Annotated[
    str, Field(max_length=300, pattern=rf"^https://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+/{_IN_ADDRESS}*$")
]
Name = Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Label = Annotated[Line, Field(min_length=1, max_length=60)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
# A fraction or a decimal number below 1, as the source writes it.
Epsilon = Annotated[str, Field(max_length=20, pattern=r"^([0-9]+/[1-9][0-9]*|0\.[0-9]+)$")]


class Source(Strict):
    """One table, page or file that prints figures, all of one threat model and attack.

    Attributes:
        label: short name for tables.
        title: of the work.
        authors: of the work, as they are cited.
        year: of the work.
        paper: address of the paper.
        url: address of what prints the figures, at a fixed version where there is one.
        evaluated: what was evaluated, how, on which examples and by whom.
        norm: of the threat model.
        epsilon: of the threat model, as the source writes it: 0.031 is not 8/255.
        epsilon_from: `text` if it stands beside the figures, `code` if the source's own published
            code alone says it.
        attack: that robust accuracy is measured with.
        decimals: places after the point of the printed percentages.
        note: what a reader should know before comparing, or empty.
    """

    label: Label
    title: Line = Field(min_length=1)
    authors: Line = Field(min_length=1)
    year: int = Field(ge=1990, le=2100)
    paper: Address
    url: Address
    evaluated: Line = Field(min_length=1)
    norm: Norm
    epsilon: Epsilon
    epsilon_from: Literal["text", "code"]
    attack: Label
    decimals: int = Field(ge=0, le=4)
    note: Line = ""


class Figure(Strict):
    """One network's published accuracies.

    Attributes:
        source: key of the source.
        dataset: data set id.
        method: registered name, or null if no method here is it.
        method_name: as the source calls it.
        architecture: architecture id, or null if the source's network has other layers than any
            here, or if its layers are not known.
        architecture_name: as the source prints it.
        structure: what was removed as a unit; `structured` if the source says no more than that,
            null if it does not even say that.
        sparsity: share of weights or units that the source says were removed, in [0, 1).
        clean_accuracy: percent as printed, or null if it is not.
        robust_accuracy: percent as printed.
        at: what leads from the source's address to the figure: a line, a file; or empty.
        note: what sets this network apart from another of its line, or empty.
    """

    source: Name
    dataset: Dataset
    method: Name | None
    method_name: Label
    architecture: Name | None
    architecture_name: Label
    structure: Structure | Literal["structured"] | None
    sparsity: float = Field(ge=0, lt=1, allow_inf_nan=False)
    clean_accuracy: Percent | None
    robust_accuracy: Percent
    at: str = Field(default="", max_length=200, pattern=rf"^{_IN_ADDRESS}*$")
    note: Line = ""

    @model_validator(mode="after")
    def _robust_is_at_most_clean(self) -> Self:
        clean = self.clean_accuracy
        if clean is not None and self.robust_accuracy > clean:
            raise ValueError(
                f"expected robust accuracy at most {clean}, got {self.robust_accuracy}"
            )
        return self

    def place(self) -> tuple[str, str, str, str, str, float, str]:
        """Returns what tells a figure from all others; the file is in order of it."""
        network = (self.method_name, self.architecture_name, self.structure or "")
        return (self.source, self.dataset, *network, self.sparsity, self.note)


class Published(Strict):
    """The whole file.

    Attributes:
        schema_version: of this format.
        sources: by key; each has figures.
        figures: in order of `Figure.place`, each once.
    """

    schema_version: Literal[1]
    sources: dict[Name, Source] = Field(max_length=100)
    figures: tuple[Figure, ...] = Field(strict=False, max_length=10_000)

    @model_validator(mode="after")
    def _figures_have_sources(self) -> Self:
        used = {figure.source for figure in self.figures}
        if odd := sorted(used ^ self.sources.keys()):
            raise ValueError(f"expected figures of each source and of no other, got {odd[0]}")
        for figure in self.figures:
            decimals = self.sources[figure.source].decimals
            for value in (figure.clean_accuracy, figure.robust_accuracy):
                if value is not None and round(value, decimals) != value:
                    raise ValueError(
                        f"expected {decimals} decimals from {figure.source}, got {value}"
                    )
        return self

    @model_validator(mode="after")
    def _figures_are_in_order(self) -> Self:
        for before, after in zip(self.figures, self.figures[1:], strict=False):
            if before.place() >= after.place():
                place = ", ".join(map(str, after.place()))
                raise ValueError(f"expected figures in order and once, got {place}")
        return self


@dataclass(frozen=True)
class Reported:
    """One published figure with its source, ready to be shown.

    Accuracies and sparsity are shares in [0, 1]; the source's percentages have `source.decimals`
    places, which `percent` restores.

    Attributes:
        source_id: key of the source.
        source: title, authors, addresses, threat model, attack and what was evaluated.
        dataset: data set id.
        method: registered name, or None if no method here is it.
        method_name: as the source calls it.
        architecture: architecture id, or None if none here is it.
        architecture_name: as the source prints it.
        structure: `unstructured`, `filter`, `channel`, `structured` where the source says no more
            than that, or None where it does not even say that.
        sparsity: claimed, never counted.
        clean_accuracy: None where it is not printed.
        robust_accuracy: under `source.attack` within `source.epsilon`.
        url: where the figure is printed.
        note: what sets this network apart, or empty.
    """

    source_id: str
    source: Source
    dataset: str
    method: str | None
    method_name: str
    architecture: str | None
    architecture_name: str
    structure: str | None
    sparsity: float
    clean_accuracy: float | None
    robust_accuracy: float
    url: str
    note: str

    @property
    def threat(self) -> str:
        """The threat model in words, epsilon as the source writes it, such as `Linf 0.031`."""
        return f"{self.source.norm} {self.source.epsilon}"

    def percent(self, share: float | None) -> str:
        """Returns an accuracy as the source prints it, without a sign; empty for None."""
        return "" if share is None else f"{100 * share:.{self.source.decimals}f}"


def read(path: Path = FILE) -> Published:
    """Returns the published figures in a file.

    Raises:
        RecordError: it is missing, not JSON, or breaks the format; the message names the place.
        ManifestError: it is larger than any such file.
        StorageError: it cannot be read.
    """
    shown = shorten(str(path), 400)
    try:
        data = parse("list of published figures", read_bounded(path, LARGEST_REPORTED), shown)
        return Published.model_validate_json(json.dumps(data))
    except (FileNotFoundError, ValidationError) as error:
        found = explain(error) if isinstance(error, ValidationError) else "no such file"
        raise RecordError(
            f"expected published figures in {shown}, got {found}; install robustprune again"
        ) from error


@cache
def every() -> tuple[Reported, ...]:
    """Returns all published figures, in order of sparsity, then from the most robust down.

    Raises:
        RecordError: the file that comes with this package is damaged.
    """
    published = read()
    return tuple(
        _joined(figure, published.sources[figure.source])
        for figure in sorted(published.figures, key=_shown_before)
    )


def reported(protocol_id: str) -> tuple[Reported, ...]:
    """Returns the figures that belong beside a protocol's board, of its data set and norm.

    Args:
        protocol_id: any; the boards without published figures get none.

    Returns:
        In order of sparsity, then robust accuracy from the highest down.

    Raises:
        RecordError: the file that comes with this package is damaged.
    """
    board = BESIDE.get(protocol_id)
    return tuple(row for row in every() if (row.dataset, row.source.norm) == board)


def _shown_before(figure: Figure) -> tuple[float, float, tuple[object, ...]]:
    return figure.sparsity, -figure.robust_accuracy, figure.place()


def _joined(figure: Figure, source: Source) -> Reported:
    return Reported(
        source_id=figure.source,
        source=source,
        dataset=figure.dataset,
        method=figure.method,
        method_name=figure.method_name,
        architecture=figure.architecture,
        architecture_name=figure.architecture_name,
        structure=figure.structure,
        sparsity=figure.sparsity,
        clean_accuracy=_share(figure.clean_accuracy),
        robust_accuracy=figure.robust_accuracy / 100,
        url=source.url + figure.at,
        note=figure.note,
    )


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
