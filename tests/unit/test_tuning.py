"""This machine's tuning: kept, read back, and part of what tells results apart."""

import pytest
import torch

from benchmark.distributed import (
    environment,
    evaluation_environment,
    machine,
    measured_tuning,
    store_tuning,
    tuning,
    tuning_path,
)
from benchmark.errors import ContractError, ManifestError
from benchmark.tuning import DEFAULT, Tuning

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTPRUNE_TUNING", str(tmp_path / "kept" / "tuning.json"))
    machine.tuning.cache_clear()
    yield
    machine.tuning.cache_clear()


def test_without_a_file_it_is_the_default():
    assert tuning() == DEFAULT
    assert evaluation_environment(CPU) == environment(CPU)


def test_it_is_kept_and_named_by_records():
    store_tuning(Tuning(2.5))
    assert tuning() == Tuning(2.5)
    assert evaluation_environment(CPU)["tuning"] == "sparse cost 2.5"


def test_it_lies_in_the_cache_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("ROBUSTPRUNE_TUNING")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tuning_path() == tmp_path / "robustprune" / "tuning.json"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"sparse_cost": -1}', '{"sparse_cost": NaN}', "[" * 5000]
)
def test_another_file_is_refused(text):
    tuning_path().parent.mkdir(parents=True)
    tuning_path().write_text(text)
    with pytest.raises(ManifestError, match="expected this machine's tuning"):
        tuning()


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(ContractError, match="above 0"):
        Tuning(0.0)


def test_it_can_be_measured():
    # Sums over sparse rows take longer a piece than dense blocks, and no thousand times as long.
    assert 0.5 < measured_tuning().sparse_cost < 1000
