"""How methods are spelled with their settings: `name:field=value`, and what that changes."""

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import methods
from benchmark.errors import ContractError, UnknownName
from benchmark.pruning import STRUCTURES, mask_from_scores, prunable_parameters
from methods import Info, Pruned, register


@dataclass(frozen=True)
class Knobs:
    """One setting of each kind."""

    info: ClassVar[Info] = Info("Knobs", (), "", "", "A test.")
    structures: ClassVar[tuple[str, ...]] = STRUCTURES
    scope: ClassVar[str] = "layerwise"
    largest_sparsity: ClassVar[Fraction] = Fraction(1)

    start: str = ""
    fine_tune: bool = True
    rate: float = 0.5
    bits: int = 32
    share: Fraction = Fraction(3, 7)
    kind: Literal["one", "two"] = "one"
    inner: tuple[int, ...] = ()

    def compress(self, model, task):
        """Returns the smallest removed."""
        scores = {name: p.abs() for name, p in prunable_parameters(model).items()}
        mask = mask_from_scores(scores, task.sparsity, self.scope, task.structure)
        mask.apply(model)
        return Pruned(model, mask)


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    monkeypatch.setattr(methods, "_registered", dict(methods._registered))
    register("knobs")(Knobs)


@pytest.mark.parametrize(
    ("spelled", "changes"),
    [
        ("knobs", {}),
        ("knobs:start=benign", {"start": "benign"}),
        ("knobs:fine-tune=no", {"fine_tune": False}),
        ("knobs:rate=0.1:bits=8", {"rate": 0.1, "bits": 8}),
        ("knobs:rate=1e-05", {"rate": 1e-5}),
        ("knobs:share=0.25", {"share": Fraction(1, 4)}),
        ("knobs:kind=two", {"kind": "two"}),
    ],
)
def test_spelling_and_settings_are_one(spelled, changes):
    chosen = methods.configured(spelled)
    assert chosen == Knobs(**changes)
    assert methods.spelling("knobs", chosen) == spelled


def test_the_canonical_spelling_drops_defaults_and_orders_the_rest():
    chosen = methods.configured("knobs:bits=8:rate=.50:start=:fine-tune=no")
    assert methods.spelling("knobs", chosen) == "knobs:fine-tune=no:bits=8"


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**9), 10**9))
def test_numbers_come_back_as_they_were(rate, bits):
    chosen = Knobs(rate=rate, bits=bits)
    assert methods.configured(methods.spelling("knobs", chosen)) == chosen


@pytest.mark.parametrize(
    ("spelled", "message"),
    [
        ("knobs:bits=eight", "knobs:bits to be a whole number, got 'eight'"),
        ("knobs:bits=8.5", "to be a whole number"),
        ("knobs:bits", "to be a whole number, got ''"),
        ("knobs:rate=nan", "to be a number"),
        ("knobs:rate=1e999", "to be a number"),
        ("knobs:rate=1e-9999", "to be a number"),
        ("knobs:share=1/0", "to be a number"),
        ("knobs:fine-tune=false", "to be yes or no"),
        ("knobs:kind=three", "to be one or two"),
        ("knobs:start=../x", "to be a lower-case name"),
        ("knobs:inner=1", "cannot be set here"),
        ("knobs:bits=8:bits=4", "bits twice"),
        ("knobs:" + "x" * 60, "at most 64 letters"),
    ],
)
def test_values_of_another_kind_are_refused(spelled, message):
    with pytest.raises(ContractError, match=message):
        methods.configured(spelled)


def test_unknown_settings_get_near_matches():
    with pytest.raises(UnknownName, match="unknown setting of knobs 'bit'; did you mean bits"):
        methods.configured("knobs:bit=8")
    with pytest.raises(UnknownName, match="unknown method 'knob'"):
        methods.configured("knob:bits=8")


def test_a_control_takes_the_settings_of_its_parent():
    chosen = methods.configured("shuffled-knobs:bits=8")
    assert chosen.parent == Knobs(bits=8)
    assert methods.spelling("shuffled-knobs", chosen) == "shuffled-knobs:bits=8"
    assert methods.start_of(methods.configured("reinitialised-knobs:start=random")) == "random"


def test_where_a_method_starts():
    assert methods.start_of(methods.configured("lwm-global")) == methods.PARENT
    assert methods.start_of(Knobs(start="benign")) == "benign"
    with pytest.raises(UnknownName, match="unknown start 'nowhere'"):
        methods.start_of(Knobs(start="nowhere"))
    with pytest.raises(UnknownName, match="unknown start 'nowhere'"):
        methods.configured("knobs:start=nowhere")


def test_objectives_that_a_method_does_not_know():
    kind = dataclasses.dataclass(frozen=True)(type("Few", (Knobs,), {"objectives": ("benign",)}))
    half = Fraction(1, 2)
    assert methods.supports(kind, "few", half, "unstructured", "benign") == ""
    reason = methods.supports(kind, "few", half, "unstructured", "trades")
    assert reason == "few works under benign, not trades"
    odd = dataclasses.dataclass(frozen=True)(type("Odd", (Knobs,), {"objectives": ("nice",)}))
    with pytest.raises(ContractError, match="for objectives"):
        register("odd")(odd)
