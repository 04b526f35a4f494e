"""Campaigns: what a board consists of, as one TOML file that makes it again.

A campaign names networks in groups (methods x objectives x sparsities x seeds, trained by one
recipe) and the tier at which each group is evaluated. This module knows the format alone; what it
takes to fill the board is worked out by `pipeline/campaigning.py`.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from benchmark.architectures import ARCHITECTURES
from benchmark.errors import BenchmarkError, RecordError, lookup, shorten
from benchmark.files import read_toml
from benchmark.manifest import Line, Strict, explain
from benchmark.objectives import OBJECTIVES
from benchmark.protocols import TIERS, protocol
from benchmark.pruning import Structure, as_sparsity
from benchmark.recipes import recipe

LARGEST_CAMPAIGN = 1 << 20

# Networks that one campaign may order.
MOST_NETWORKS = 100_000

Tier = Literal["quick", "standard", "full"]
_Names = Annotated[tuple[Line, ...], Field(strict=False, min_length=1, max_length=1_000)]


class Group(Strict):
    """Networks that are trained by one recipe and evaluated at one tier.

    Every method is made under every objective, at every sparsity, from every seed, but for what it
    does not support. The dense control is made once for each objective and seed.

    Attributes:
        recipe: training recipe, see `robustprune list recipes`; it names the data set.
        architecture: of the networks; the recipe's own where empty.
        methods: names, with settings as in `hydra:start=benign`.
        objectives: training losses.
        structure: what is removed as a unit.
        sparsities: shares removed, in (0, 1]; numbers in the file, read as the text that they are.
        seeds: of training.
        tier: quick, standard or full: on how many examples the networks are evaluated.
    """

    recipe: Line
    architecture: Line = ""
    methods: _Names
    objectives: _Names
    structure: Structure = "unstructured"
    sparsities: _Names
    seeds: tuple[Annotated[int, Field(ge=0, lt=10**9)], ...] = Field(
        default=(0,), strict=False, min_length=1, max_length=1_000
    )
    tier: Tier = "quick"

    @field_validator("sparsities")
    @classmethod
    def _are_shares(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            level = _said(as_sparsity, value)
            if level == 0:
                raise ValueError("expected sparsities above 0, got 0; name the method dense")
            # The manifest keeps a float; it must name this share and no other.
            if as_sparsity(float(level)) != level:
                raise ValueError(
                    f"expected sparsities with at most 15 digits, got {shorten(value)}; round it"
                )
        return values

    @field_validator("objectives")
    @classmethod
    def _are_objectives(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            _said(lookup, "objective", value, OBJECTIVES)
        return values

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        _said(recipe, self.recipe)
        if self.architecture:
            _said(lookup, "architecture", self.architecture, ARCHITECTURES)
        for name in ("methods", "objectives", "sparsities", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"expected each of {name} once, got one twice")
        return self

    @property
    def size(self) -> int:
        """Returns how many networks it names, supported or not."""
        counts = (self.methods, self.objectives, self.sparsities, self.seeds)
        return prod(map(len, counts))


class Campaign(Strict):
    """A board: the networks on it, in the order in which they are made.

    Attributes:
        schema_version: of this format.
        title: what the board is about, in a few words.
        protocol: under which the networks are evaluated.
        top: tier up to which whoever may be first in a cell is evaluated, once all else is there,
            fewer and fewer on more and more examples; empty for none.
        networks: groups; where several name the same network, it is evaluated at the largest tier.
    """

    schema_version: Literal[1] = 1
    title: Line = Field(min_length=1)
    protocol: Line
    top: Literal["", "quick", "standard", "full"] = ""
    networks: tuple[Group, ...] = Field(strict=False, min_length=1, max_length=1_000)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        chosen = _said(protocol, self.protocol)
        for group in self.networks:
            if (found := recipe(group.recipe).dataset) != chosen.dataset:
                raise ValueError(
                    f"expected recipes for {chosen.dataset}, the data of {chosen.id}, got "
                    f"{group.recipe} for {found}"
                )
        if (size := sum(group.size for group in self.networks)) > MOST_NETWORKS:
            raise ValueError(f"expected at most {MOST_NETWORKS:,} networks, got {size:,}")
        return self


def _said(check: Any, *values: Any) -> Any:
    """Returns what a check of this package says, its refusal as one of a field."""
    try:
        return check(*values)
    except BenchmarkError as error:
        raise ValueError(str(error)) from error


def larger(first: Tier, second: Tier) -> Tier:
    """Returns the tier of more examples."""
    return max(first, second, key=TIERS.index)


def read_campaign(path: Path) -> Campaign:
    """Returns the campaign in a TOML file.

    Raises:
        RecordError: no such file, not TOML, or a field that breaks the format; the message names
            it.
        ManifestError: a file larger than any campaign.
        StorageError: the disk refuses.
    """
    shown = shorten(str(path), 400)
    try:
        # Sparsities as they are written: 0.9 is nine tenths, and no float.
        found = read_toml(path, LARGEST_CAMPAIGN, number=str)
    except FileNotFoundError as error:
        raise RecordError(
            f"expected a campaign in {shown}, found no file; campaigns/ has those of the boards"
        ) from error
    try:
        return Campaign.model_validate(_with_text(found))
    except ValidationError as error:
        raise RecordError(
            f"expected a campaign in {shown}, got {explain(error)}; correct that field"
        ) from error


def _with_text(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the document with sparsities as text where they were written as whole numbers."""
    groups = found.get("networks")
    if not isinstance(groups, list):
        return dict(found)
    return {**found, "networks": [_group_with_text(group) for group in groups]}


def _group_with_text(group: Any) -> Any:
    levels = group.get("sparsities") if isinstance(group, dict) else None
    if not isinstance(levels, list):
        return group
    # Others than these are refused as they are; one of many digits could not even be written out.
    text = [str(level) if type(level) is int and level in (0, 1) else level for level in levels]
    return {**group, "sparsities": text}
