"""Imports into a project: entry, refusals, the command line, links and Google Drive's pages."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from serving import Site, serving
from tiny import trained, untrained

from benchmark.cli import app
from benchmark.datasets import describe
from benchmark.downloads import Rules
from benchmark.errors import (
    BenchmarkError,
    ContractError,
    DownloadFailed,
    ManifestError,
    UnknownName,
)
from benchmark.foreign import Request
from benchmark.foreign.apbench import FILE, Link, link, links
from benchmark.manifest import load_model, read_manifest
from benchmark.pipeline import Project
from benchmark.pipeline.importing import Said, bring_link, claim_of, prepare, store
from benchmark.pipeline.project import silent
from benchmark.pruning import mask_from_scores, measure, prunable_parameters
from benchmark.recipes import RECIPES

LOCAL = Rules(schemes=("http",), timeout=5.0)


def pruned_file(folder: Path, model: torch.nn.Module, share: float = 0.5) -> Path:
    scores = {name: p.detach().abs() for name, p in prunable_parameters(model).items()}
    mask_from_scores(scores, share, "layerwise").apply(model)
    path = folder / "theirs.pt"
    torch.save({"state_dict": model.state_dict()}, path)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def request_of(path: Path, **said: object) -> Request:
    return Request(path, describe("digits", None), format="plain", sparsity=0.5, **said)


def test_an_import_is_a_checkpoint_like_any_other(project: Project, tmp_path: Path) -> None:
    model = trained()
    path = pruned_file(tmp_path, model)
    imported = prepare(project, request_of(path), Said("theirs", paper="A Paper"))
    assert store(project, imported)
    (entry,) = read_manifest(project.manifest_path).checkpoints
    assert entry.id == "theirs/digits/cnn-tiny/adversarial/unstructured-50/seed0"
    assert entry == imported.entry and entry.licence == entry.extra_data == "not stated"
    ours = load_model(entry, project.root)
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert imported.accuracy is not None and imported.accuracy > 0.5
    # Trained by nobody here: no recipe of ours, and no control of ours compares.
    assert entry.recipe == "published theirs" and entry.recipe not in RECIPES
    assert entry.recipe_digest not in {recipe.digest for recipe in RECIPES.values()}
    assert not store(project, imported)


def test_a_taken_id_keeps_its_weights(project: Project, tmp_path: Path) -> None:
    first = prepare(project, request_of(pruned_file(tmp_path, trained())), Said("theirs"))
    store(project, first)
    before = project.manifest_path.read_bytes()
    other = trained()
    other.body[0].bias.data.add_(1e-3)
    second = prepare(project, request_of(pruned_file(tmp_path, other)), Said("theirs"))
    with pytest.raises(ManifestError, match="has other weights"):
        store(project, second)
    assert project.manifest_path.read_bytes() == before
    load_model(first.entry, project.root)


def test_a_network_that_guesses_is_refused(project: Project, tmp_path: Path) -> None:
    path = pruned_file(tmp_path, untrained())
    with pytest.raises(ManifestError, match="of 100 images right, as of a trained network"):
        prepare(project, request_of(path), Said("theirs"))
    assert prepare(project, request_of(path), Said("theirs"), least=0.0)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Said("No Slug"), ManifestError),
        (Said("a/b"), ManifestError),
        (Said("theirs", paper="line\nbreak"), ManifestError),
        (Said("theirs", authors=("\u202e",)), ManifestError),
        (Said("theirs", objective="none"), UnknownName),
    ],
)
def test_metadata_that_the_manifest_does_not_take(
    said: Said, error: type[Exception], project: Project, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        prepare(project, request_of(pruned_file(tmp_path, trained())), said)
    assert str(caught.value).isprintable() and not project.manifest_path.exists()


def test_claims_are_kept_where_the_weights_allow_it(tmp_path: Path) -> None:
    model = trained()
    pruned_file(tmp_path, model, 0.9)
    found = measure(model, model.shape)
    assert claim_of(found, 0.9) == 0.9
    assert claim_of(found, None) == 0.9
    assert claim_of(found, 0.9009) == 0.9  # nine units off: more than half a unit a layer
    model.body[5].weight.data[0] = 0
    wider = measure(model, model.shape)
    claim = claim_of(wider, 0.9)
    assert abs(wider.removed_units - claim * wider.total_units) <= len(wider.layers) / 2


# --- The command line -----------------------------------------------------------------------------


def invoke(project: Project, *arguments: str) -> str:
    from typer.testing import CliRunner

    answer = CliRunner().invoke(app, ["--root", str(project.root), *arguments])
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_a_dry_run_tells_and_writes_nothing(project: Project, tmp_path: Path) -> None:
    path = pruned_file(tmp_path, trained())
    said = ("--dataset", "digits", "--format", "plain", "--method", "theirs", "--sparsity", "0.5")
    text = invoke(project, "import", str(path), *said, "--dry-run")
    for word in (
        "torch file",
        "cnn-tiny",
        "state_dict",
        "by the file",
        "50.000 %",
        "of 100 images",
    ):
        assert word in text
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert "would enter theirs/digits/" in text and not project.manifest_path.exists()
    assert "entered theirs/digits/" in invoke(project, "import", str(path), *said)
    assert "there already" in invoke(project, "import", str(path), *said)


def test_one_command_brings_files_of_weights_and_trusted_code(
    project: Project, tmp_path: Path
) -> None:
    path = tmp_path / "net.py"
    path.write_text("import torch\ndef make(): return torch.nn.Linear(2, 2)\n")
    with pytest.raises(ContractError, match="got no --dataset, --method, --objective, --name"):
        invoke(project, "import", f"{path}:make", "--trust")
    said = ("--dataset", "digits", "--method", "dense", "--objective", "benign", "--name", "net")
    with pytest.raises(BenchmarkError, match="--trust"):
        invoke(project, "import", f"{path}:make", *said)
    with pytest.raises(ContractError, match="give --dataset"):
        invoke(project, "import", str(tmp_path / "theirs.pt"))


def test_trusted_code_is_entered_as_files_of_weights_are(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed({seed})\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    source = path.read_text()
    said = ("--dataset", "digits", "--method", "dense", "--objective", "benign", "--name", "net")
    command = ("import", f"{path}:make", "--trust", *said, "--source", "theirs")

    path.write_text(source.format(seed=0))
    with pytest.raises(ContractError, match="expected no --format, --density with a Python file"):
        invoke(project, *command, "--format", "plain", "--density", "0.5")
    assert "would enter dense/digits/" in invoke(project, *command, "--dry-run")
    assert not project.manifest_path.exists()
    assert "entered dense/digits/" in invoke(project, *command)
    (entry,) = project.manifest().checkpoints
    assert entry.recipe == "published theirs" and entry.sparsity == 0
    assert "there already" in invoke(project, *command)

    path.write_text(source.format(seed=1))
    with pytest.raises(ManifestError, match="which has other weights"):
        invoke(project, *command)
    assert project.manifest().checkpoints == (entry,)
    assert load_model(entry, project.root)


def test_the_command_lists_the_links(project: Project) -> None:
    text = invoke(project, "list", "apbench")
    assert all(key in text for key in links())


# --- Links ----------------------------------------------------------------------------------------


def test_the_table_of_links_is_what_its_source_says() -> None:
    table = json.loads(FILE.read_text())
    assert len(links()) == len(table["checkpoints"]) == 83
    assert len(table["source"]["commit"]) == 40 and table["source"]["repository"]
    for key, one in links().items():
        # The key spells the rest: METHOD_AuthorYear_R18_CIFAR10_US_90.
        method, _, net, dataset, unit, percent = key.split("_")
        assert method == one.method and net == {"ResNet18": "R18", "VGG16": "V16"}[one.architecture]
        assert dataset.lower() == one.dataset and int(percent) == round(100 * one.sparsity)
        assert (unit == "US") == (one.structure == "unstructured")
    with pytest.raises(UnknownName, match="HYDRA_Sehwag2020Hydra_R18_CIFAR10_US_90"):
        link("HYDRA_Sehwag2020Hydra_R18_CIFAR10_US_9")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as about:
        yield about


def one_link(**changes: object) -> Link:
    known = replace(link("HARP_Zhao2023Holistic_R18_CIFAR10_US_90"), dataset="digits")
    return replace(known, **changes)


def brought(project: Project, site: Site, wanted: Link | None = None) -> Path:
    host = site.address("").rstrip("/")
    return bring_link(project, wanted or one_link(), silent, LOCAL, host)


def test_a_linked_file_comes_once_and_is_remembered(project: Project, site: Site) -> None:
    path = brought(project, site)
    assert path.read_bytes() == site.content and "confirm=t" in site.asked[0][0]
    asked = len(site.asked)
    assert brought(project, site) == path and len(site.asked) == asked
    path.unlink()
    site.content = site.content[:-1] + b"!"
    with pytest.raises(DownloadFailed, match="it was changed there"):
        brought(project, site)
    site.content = site.content[:100]
    with pytest.raises(DownloadFailed, match="100 bytes instead of"):
        brought(project, site)


PAGES = {
    "<html><head><title>Google Drive - Quota exceeded</title>": "try again tomorrow",
    "<!DOCTYPE html><title>Google Drive - Virus scan warning</title>": "even after confirming",
    "<html><base href='https://accounts.google.com/v3/signin/'>": "not public any more",
    "<html><title>Error 404 (Not Found)!!1</title>": "no such file there any more",
    "<html><title>Our new \x07home page</title>": "page titled 'Our new ?home page'",
    "<html><body>hello": "a web page instead of the file",
}


@pytest.mark.parametrize("page", PAGES)
def test_pages_instead_of_the_file_are_told_apart(page: str, project: Project, site: Site) -> None:
    site.content, site.kind = page.encode(), "text/html; charset=utf-8"
    with pytest.raises(DownloadFailed) as caught:
        brought(project, site)
    assert PAGES[page] in str(caught.value) and str(caught.value).isprintable()
    # The page that warns is confirmed, once.
    assert len(site.asked) == (2 if "Virus" in page else 1)
    assert not list((project.cache / "foreign").glob("*.json"))


def test_refusals_of_the_network_are_told_apart(project: Project, site: Site) -> None:
    for status, word in ((404, "no such file"), (403, "quota"), (429, "wait a while")):
        site.status = status
        with pytest.raises(DownloadFailed, match=word):
            brought(project, site)


def test_the_second_file_of_a_key_is_tried(project: Project, site: Site) -> None:
    site.status = 404
    ids = ("a" * 30, "b" * 30)
    with pytest.raises(DownloadFailed):
        brought(project, site, one_link(drive_id=ids))
    assert [asked.split("id=")[1].split("&")[0] for asked, _ in site.asked] == list(ids)


def test_a_mirror_works_without_a_network(project: Project, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    wanted = one_link()
    path = mirror / f"{wanted.key}{wanted.extension}"
    shutil.copy(pruned_file(tmp_path, trained()), path)
    offline = replace(project, mirror=mirror)
    assert bring_link(offline, wanted, silent) == path
    memory = project.cache / "foreign" / f"{wanted.key}.json"
    memory.parent.mkdir(parents=True)
    memory.write_text(json.dumps({"bytes": 3, "sha256": "0" * 64}))
    with pytest.raises(ManifestError, match="got another file"):
        bring_link(offline, wanted, silent)
    memory.write_text("[]")
    with pytest.raises(ManifestError, match="delete it"):
        bring_link(offline, wanted, silent)
