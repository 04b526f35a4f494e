"""Weights that a project does not have: from a folder or the network, verified, then cached."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fast import DENSE, FAST, SPARSE, make_project
from serving import Site, serving

import benchmark
from benchmark import cli, manifest
from benchmark.errors import DownloadFailed, ManifestError
from benchmark.manifest import Checkpoint, Manifest, kept_weights, write_manifest
from benchmark.pipeline import Project, evaluate_all
from benchmark.pipeline.bringing import bring, lacking

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project", DENSE, SPARSE)


def moved(project: Project, folder: Path, by: str = "path") -> list[Checkpoint]:
    """Moves the weights out of a project, into a folder, and returns their entries."""
    entries = list(project.manifest().checkpoints)
    for entry in entries:
        name = {"path": entry.file, "name": Path(entry.file).name, "digest": entry.sha256}[by]
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(project.root / entry.file, target)
    return entries


@pytest.fixture
def run(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Run:
    monkeypatch.delenv("ROBUSTPRUNE_DATA", raising=False)
    monkeypatch.delenv("ROBUSTPRUNE_MIRROR", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        options = ["robustprune", "--root", str(project.root), "--workers", "1", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [*options, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return call


@pytest.mark.parametrize("by", ["path", "name", "digest"])
def test_a_mirror_folder_will_do(project: Project, tmp_path: Path, by: str) -> None:
    entries = moved(project, tmp_path / "mirror", by)
    assert lacking(project, entries) == entries
    mirrored = replace(project, mirror=tmp_path / "mirror")
    assert [one.place for one in bring(mirrored, entries)] == ["mirror", "mirror"]
    # Once brought, nothing but the cache is needed.
    assert [one.place for one in bring(project, entries)] == ["cache", "cache"]
    for entry in entries:
        manifest.load_model(entry, project.root)


def test_a_mirror_is_no_less_verified(project: Project, tmp_path: Path) -> None:
    [first, second] = moved(project, tmp_path / "mirror")
    shutil.copyfile(tmp_path / "mirror" / first.file, tmp_path / "mirror" / second.file)
    mirrored = replace(project, mirror=tmp_path / "mirror")
    with pytest.raises(ManifestError, match="expected at most|sha256"):
        bring(mirrored, [second])
    assert not kept_weights(second, project.root).exists()


def test_without_a_place_the_next_step_is_said(project: Project, tmp_path: Path) -> None:
    [first, _] = moved(project, tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match="it has no address: restore it"):
        bring(project, [first])
    named = first.model_copy(update={"url": "https://example.org/w"})
    with pytest.raises(ManifestError, match="pass --download to get it from https://example.org/w"):
        bring(project, [named])


def test_what_is_hashed_is_what_is_decoded(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes between check and use changes nothing: it is read once."""
    [dense, sparse] = project.manifest().checkpoints
    path, other = (project.root / entry.file for entry in (dense, sparse))
    expected = manifest.load_model(dense, project.root).state_dict()
    honest = manifest.sha256_of_bytes

    def swapped(data: bytes) -> str:
        shutil.copyfile(other, path)
        return honest(data)

    monkeypatch.setattr(manifest, "sha256_of_bytes", swapped)
    found = manifest.load_model(dense, project.root).state_dict()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    # Whoever reads it next sees the other file, and refuses it.
    with pytest.raises(ManifestError, match="sha256"):
        manifest.load_model(dense, project.root)


def altered(entry: Checkpoint, project: Project) -> Path:
    """Alters one bit of what the cache has of a checkpoint."""
    kept = kept_weights(entry, project.root)
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    return kept


def test_what_was_altered_in_the_cache_is_brought_again(project: Project, tmp_path: Path) -> None:
    [entry, other] = moved(project, tmp_path / "mirror")
    mirrored = replace(project, mirror=tmp_path / "mirror")
    bring(mirrored, [entry, other])
    altered(entry, project)
    assert lacking(project, [entry, other]) == [entry]
    with pytest.raises(ManifestError, match="found an altered copy in the cache; it has no addr"):
        bring(project, [entry])
    assert [one.place for one in bring(mirrored, [entry, other])] == ["mirror", "cache"]
    manifest.load_model(entry, project.root)


# --- Over a network -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for localhost, made for this run."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*command, *files, *name], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


@pytest.fixture
def site(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(certificate) as about:
        yield about


@pytest.fixture
def remote(project: Project, site: Site, tmp_path: Path) -> Checkpoint:
    """The sparse checkpoint, its weights on the server alone; the first address is dead."""
    moved(project, tmp_path / "elsewhere")
    entry = project.manifest().find(SPARSE)
    site.content = (tmp_path / "elsewhere" / entry.file).read_bytes()
    entry = entry.model_copy(
        update={"url": "https://localhost:9/gone", "mirrors": (site.address("w.safetensors"),)}
    )
    write_manifest(project.manifest_path, Manifest(checkpoints=(entry,)))
    assert project.manifest().find(SPARSE) == entry
    return entry


def test_a_project_whose_weights_lie_elsewhere_works_to_the_end(
    project: Project, remote: Checkpoint, site: Site, run: Run
) -> None:
    code, out, _ = run("doctor")
    assert code == 0 and "weights       0 at hand; `robustprune fetch` brings 1 more" in out
    code, _, err = run("evaluate", SPARSE, "--tier", "quick")
    assert code == 4 and "pass --download to get it from https://localhost:9/gone" in err
    assert not site.asked
    code, out, _ = run("fetch")
    assert code == 0 and [line.split() for line in out.splitlines()[1:]] == [
        [SPARSE, "network", f"{remote.bytes:,}"]
    ]
    assert len(site.asked) == 1
    assert run("fetch")[1] == "the weights of all checkpoints are at hand\n"
    # From here on nobody is asked.
    site.status = 404
    evaluate_all(project, [remote], FAST, "quick")
    code, out, _ = run("verify", SPARSE)
    assert code == 0 and "verified" in out
    assert benchmark.load_model(SPARSE, root=project.root) is not None
    assert run("report")[0] == 0
    assert len(site.asked) == 1


def test_a_broken_fetch_goes_on(project: Project, remote: Checkpoint, site: Site, run: Run) -> None:
    site.breaks = [1000]
    code, _, err = run("fetch", SPARSE)
    assert code == 14 and "broken off after 1,000 of" in err and "nobody answers there" in err
    assert run("fetch", SPARSE)[0] == 0
    assert [asked for _, asked in site.asked] == ["", "bytes=1000-"]
    manifest.load_model(remote, project.root)


def test_an_altered_cache_is_fetched_again(
    project: Project, remote: Checkpoint, site: Site, run: Run
) -> None:
    assert run("fetch")[0] == 0
    kept = altered(remote, project)
    assert run("fetch")[0] == 0 and len(site.asked) == 2
    assert kept.read_bytes() == site.content
    # Where the network has it no more, what is wrong is not kept as if it were right.
    altered(remote, project)
    site.status = 404
    assert run("fetch")[0] == 14
    with pytest.raises(ManifestError):
        manifest.load_model(remote, project.root)


def test_changed_weights_never_get_in(project: Project, remote: Checkpoint, site: Site) -> None:
    site.content = site.content[:-1] + bytes([site.content[-1] ^ 1])
    with pytest.raises(DownloadFailed, match="other content: sha256"):
        bring(replace(project, download=True), [remote])
    assert not kept_weights(remote, project.root).exists()


def test_an_untrusted_server_is_told_from_a_silent_one(
    project: Project, remote: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DownloadFailed, match="no trustworthy connection"):
        bring(replace(project, download=True), [remote])
