"""What all tests share: one thread, and the folder of helpers on the path."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# How long an example takes is the machine's business: a busy one would fail tests.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# What was measured on a machine moves rounding; tests see the defaults, worker processes too.
os.environ["ROBUSTPRUNE_TUNING"] = str(Path(__file__).with_name("no-tuning.json"))

# A package that a test installs: collected here, its method would be registered twice.
collect_ignore = ["plugin_package"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with long tests first, so that none runs alone at the end while workers idle."""
    longest: dict[Path, float] = {}
    for item in items:
        if mark := item.get_closest_marker("slow"):
            longest[item.path] = max(longest.get(item.path, 0), *mark.args, 10)
    # Whole files, since tests of a file share what is dear to make.
    items.sort(key=lambda item: -longest.get(item.path, 0))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Tests run side by side; more threads each would only fight over the cores.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    # Layers draw from the global generator: a test alone sees what it sees in a suite.
    torch.manual_seed(0)


@pytest.fixture
def data_root() -> Path:
    """The folder of real data, or a skip that says how to get it."""
    root = os.environ.get("ROBUSTPRUNE_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("needs real data: set ROBUSTPRUNE_DATA to a folder with MNIST")
    return Path(root)
