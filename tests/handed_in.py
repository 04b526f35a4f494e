"""A small board, an honest submission to it, and what it takes to forge one that is not.

All of it runs on digits under the protocol of `fast`; each is made once a session.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fast import DENSE, FAST, ROOT, SPARSE, make_project

from benchmark import submissions
from benchmark.bundles import pack
from benchmark.digests import sha256_of_bytes
from benchmark.errors import BenchmarkError
from benchmark.manifest import (
    Checkpoint,
    checkpoint_id,
    read_manifest,
    weights_path,
    write_manifest,
)
from benchmark.pipeline import Project, evaluate_all
from benchmark.pipeline.receiving import Scrutiny, validate
from benchmark.pipeline.submitting import submit

RANDOM = "random/digits/cnn-tiny/adversarial/unstructured-90/seed0"
MINE = "mine/digits/cnn-tiny/adversarial/unstructured-90/seed0"
SPARSEST = "mine/digits/cnn-tiny/adversarial/unstructured-99/seed0"
SOURCES = {
    MINE: "hydra/digits/cnn-tiny/adversarial/unstructured-90/seed0",
    SPARSEST: "hydra/digits/cnn-tiny/adversarial/unstructured-99/seed0",
}
SCRUTINY = Scrutiny(0.1, 0)
AUTHORS = ("Ada Müller", "Bo Li")

DRAFT = """\
name = "my-entry"
contact = "ada@example.org"
checkpoints = ["mine/digits/*"]
protocols = ["fast-linf"]
tier = "quick"
[method]
name = "mine"
licence = "MIT"
summary = "Removes what is mine."
[statement]
extra_data = ""
test_data_unused = true
"""


def entered(project: Project, name: str, source: str, **changes: Any) -> Checkpoint:
    """Enters a copy of an embedded checkpoint into a project as another method's."""
    original = read_manifest(ROOT / "checkpoints_manifest.json").find(source)
    said = {"method": "mine", "display_name": "Mine", "authors": AUTHORS, "paper": "Mine, 2026"}
    entry = original.model_copy(update={**said, "code": "https://example.org/mine", **changes})
    entry = entry.model_copy(update={"id": checkpoint_id(entry)})
    entry = Checkpoint.model_validate({**entry.model_dump(), "file": weights_path(entry)})
    assert entry.id == name
    target = project.root / entry.file
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / original.file, target)
    write_manifest(project.manifest_path, project.manifest().with_entry(entry))
    return entry


@dataclass(frozen=True)
class HandedIn:
    """A board, a project that has the submitted checkpoints as well, and the bundle made there."""

    board: Project
    author: Project
    folder: Path
    bundle: Path


@lru_cache(maxsize=1)
def _made(root: Path) -> HandedIn:
    board = make_project(root / "board", DENSE, SPARSE, RANDOM)
    evaluate_all(board, board.manifest().checkpoints, FAST, "quick")
    shutil.rmtree(board.cache)
    shutil.copytree(board.root, root / "author")
    author = replace(board, root=root / "author")
    for name, source in SOURCES.items():
        entered(author, name, source)
    (root / "entry").mkdir()
    (root / "entry" / "submission.toml").write_text(DRAFT)
    made = submit(author, root / "entry", SCRUTINY)
    assert len(made.evaluated) == 2 and made.validation.problems == ()
    return HandedIn(board, author, root / "entry", made.bundle)


def handed_in(factory: Any) -> HandedIn:
    """Returns the honest submission of this session.

    Args:
        factory: pytest's `tmp_path_factory`.
    """
    return _made(factory.getbasetemp() / "handed-in")


def copy_of(project: Project, root: Path) -> Project:
    """Returns a copy of a project that a test may change."""
    shutil.copytree(project.root, root)
    return replace(project, root=root)


def unpacked(bundle: Path) -> dict[str, bytes]:
    """Returns the files of an honest bundle."""
    import zipfile

    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@dataclass
class Forgery:
    """The files of a bundle, to be changed and then signed as if nothing had happened.

    Attributes:
        files: by name, without the submission.
        said: what the submission says, as plain data.
    """

    files: dict[str, bytes]
    said: dict[str, Any]

    def entry(self, name: str = MINE) -> dict[str, Any]:
        return next(e for e in self.said["checkpoints"] if e["id"] == name)

    def listed(self, name: str = MINE) -> dict[str, Any]:
        return next(r for r in self.said["records"][FAST.id] if r["checkpoint_id"] == name)

    def evidence(self, name: str = MINE) -> list[str]:
        """Names of a checkpoint's evidence files."""
        from benchmark.manifest import slug

        return sorted(n for n in self.files if n.startswith("reports/ev") and slug(name) in n)

    def record(self, name: str = MINE) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.files[self.listed(name)["file"]])
        return found

    def put_record(self, changed: dict[str, Any], name: str = MINE) -> None:
        """Puts a changed record in place, its own digests made anew."""
        from benchmark.records import ResultRecord, encode, sealed

        record = sealed(ResultRecord.model_validate_json(json.dumps(changed)))
        self.files[self.listed(name)["file"]] = encode(record)
        self.listed(name)["content_digest"] = record.content_digest

    def put_outcomes(self, data: bytes, name: str = MINE) -> None:
        record = self.record(name) | {"outcomes_sha256": sha256_of_bytes(data)}
        self.files[self.listed(name)["file"].replace(".json", ".npz")] = data
        self.put_record(record, name)

    def write(self, folder: Path) -> Path:
        """Writes the files to a folder, every digest made anew."""
        known = {"comparison.md", *(e["file"] for e in self.said["checkpoints"])}
        rows = [r for each in self.said["records"].values() for r in each]
        known |= {r["file"] for r in rows}
        for listed in (*self.said["checkpoints"], *rows):
            if listed["file"] in self.files:
                data = self.files[listed["file"]]
                listed |= {"bytes": len(data), "sha256": sha256_of_bytes(data)}
        self.said["evidence"] = [
            {"file": name, "bytes": len(data), "sha256": sha256_of_bytes(data)}
            for name, data in sorted(self.files.items())
            if name == "comparison.md" or name not in known
        ]
        fields = {
            k: v for k, v in self.said.items() if k not in ("schema_version", "content_digest")
        }
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        submissions.write(folder / "submission.json", submissions.submission_of(**fields))
        return folder

    def packed(self, folder: Path) -> Path:
        pack(self.write(folder), folder.with_suffix(".zip"))
        return folder.with_suffix(".zip")


def forgery(bundle: Path) -> Forgery:
    """Returns an honest bundle, ready to be changed."""
    files = unpacked(bundle)
    return Forgery(files, json.loads(files.pop("submission.json")))


def refusals(board: Project, source: Path) -> list[BenchmarkError]:
    """Returns why a board refuses a submission, each reason in one printable line."""
    try:
        found = list(validate(board, source, SCRUTINY).problems)
    except BenchmarkError as error:
        found = [error]
    # Where the private copy lay is nobody's business.
    assert all(str(one).isprintable() and "robustprune-" not in str(one) for one in found)
    return found


Change = Callable[[Forgery], None]
