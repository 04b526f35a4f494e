"""Campaign files: what they may say, and how a mistake is told."""

from pathlib import Path

import pytest

import methods
from benchmark.campaigns import LARGEST_CAMPAIGN, MOST_NETWORKS, larger, read_campaign
from benchmark.errors import BenchmarkError
from benchmark.manifest import read_manifest
from benchmark.pipeline.campaigning import plan_campaign
from benchmark.protocols import STRUCTURED, UNSTRUCTURED, protocol
from benchmark.pruning import as_sparsity
from benchmark.recipes import recipe

CAMPAIGNS = Path(__file__).parents[2] / "campaigns"
FILES = sorted(CAMPAIGNS.glob("*.toml"))

HEAD = 'schema_version = 1\ntitle = "Digits"\nprotocol = "digits-linf"\n'
GROUP = (
    '[[networks]]\nrecipe = "digits"\nmethods = ["dense", "hydra"]\n'
    'objectives = ["benign"]\nsparsities = [0.5, "0.99"]\n'
)


def written(folder: Path, text: str) -> Path:
    path = folder / "campaign.toml"
    path.write_text(text)
    return path


def test_sparsities_are_read_as_they_are_written(tmp_path: Path) -> None:
    said = read_campaign(written(tmp_path, HEAD + GROUP))
    (group,) = said.networks
    assert group.sparsities == ("0.5", "0.99") and group.seeds == (0,) and group.tier == "quick"
    assert said.top == "" and group.structure == "unstructured"
    whole = GROUP.replace('[0.5, "0.99"]', "[1]")
    assert read_campaign(written(tmp_path, HEAD + whole)).networks[0].sparsities == ("1",)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ('title = "Digits"', 'title = ""', "title"),
        ("digits-linf", "digits-l3", "protocol"),
        ('"digits"\n', '"digit"\n', "networks.0"),
        ('"digits"\n', '"mnist-short"\n', "expected recipes for digits"),
        ('"benign"', '"kind"', "objectives"),
        ("0.5", "1.5", r"expected a sparsity in \[0, 1\]"),
        ("0.5", "0.0", "expected sparsities above 0"),
        ("0.5", '"0.5x"', "sparsities"),
        ("0.5", "true", "sparsities"),
        ('"dense", "hydra"', '"hydra", "hydra"', "expected each of methods once"),
        ('"dense", "hydra"', "", "methods"),
        ('["benign"]', '"benign"', "objectives"),
        ("[[networks]]", "[networks]", "networks"),
        ("[[networks]]", "networks = 3\n[other]", "networks"),
        ("sparsities", "seeds = [-1]\nsparsities", "seeds"),
        ("sparsities", "seeds = [0, 0]\nsparsities", "expected each of seeds once"),
        ("sparsities", 'tier = "huge"\nsparsities', "tier"),
        ("sparsities", 'architecture = "cnn-huge"\nsparsities', "architecture"),
        ("sparsities", 'structure = "row"\nsparsities', "structure"),
        ("sparsities", "epochs = 3\nsparsities", "epochs"),
        ("[0.5", "['1/3'", "at most 15 digits"),
        ("[0.5", "[0.12345678901234567890", "at most 15 digits"),
        ("[0.5", f"[0x{'f' * 4000}", "valid string"),
        ("[0.5", "[0.5, [", "expected TOML"),
        ("Digits", "Dig\\u001bits", "title"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = HEAD + GROUP
    assert old in text
    with pytest.raises(BenchmarkError, match=told) as caught:
        read_campaign(written(tmp_path, text.replace(old, new, 1)))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_campaigns(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="found no file"):
        read_campaign(tmp_path / "none.toml")
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BenchmarkError, match="expected TOML"):
        read_campaign(path)
    path.write_bytes(b"#" * (LARGEST_CAMPAIGN + 1))
    with pytest.raises(BenchmarkError, match="bytes"):
        read_campaign(path)


def test_more_networks_than_anybody_makes(tmp_path: Path) -> None:
    seeds = f"seeds = {list(range(1000))}\n"
    groups = (HEAD + (GROUP + seeds) * (MOST_NETWORKS // 4000)) + GROUP
    with pytest.raises(BenchmarkError, match="expected at most 100,000 networks, got 100,004"):
        read_campaign(written(tmp_path, groups))


def test_the_larger_tier() -> None:
    assert larger("quick", "full") == larger("full", "quick") == "full"


# --- The files of the boards ----------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_the_boards_can_be_planned(path: Path) -> None:
    said = read_campaign(path)
    plan = plan_campaign(said)
    chosen = protocol(said.protocol)
    for network in plan.networks:
        order = network.order
        assert recipe(order.recipe).dataset == chosen.dataset
        grid = UNSTRUCTURED if order.structure == "unstructured" else STRUCTURED
        assert order.sparsity in grid


def test_the_embedded_board_is_its_campaign() -> None:
    plan = plan_campaign(read_campaign(CAMPAIGNS / "digits.toml"))
    manifest = read_manifest(CAMPAIGNS.parent / "checkpoints_manifest.json")
    there = {
        (e.method, e.objective, e.structure, as_sparsity(e.sparsity), e.seed, e.recipe)
        for e in manifest.checkpoints
        if e.dataset == "digits"
    }
    orders = [network.order for network in plan.networks]
    named = {(o.method, o.objective, o.structure, o.sparsity, o.seed, o.recipe) for o in orders}
    assert named == there and len(orders) == len(there)


def test_the_mnist_board_leaves_no_method_out() -> None:
    plan = plan_campaign(read_campaign(CAMPAIGNS / "mnist.toml"))
    of_this_folder = set(methods.names()) - set(methods.controls())
    made = {
        (n.order.method.partition(":")[0], n.order.objective, n.order.sparsity)
        for n in plan.networks
    }
    levels = [as_sparsity(text) for text in ("0.9", "0.95", "0.99")]
    for name in of_this_folder:
        kind = type(methods.configured(name))
        for objective in ("benign", "adversarial", "trades", "smoothing", "mixtrain", "crown-ibp"):
            if methods.supports(kind, name, levels[0] * 0, "unstructured", objective):
                continue
            for level in levels if kind.largest_sparsity else [levels[0] * 0]:
                assert (name, objective, level) in made
