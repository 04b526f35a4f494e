"""Every reader of files that others may have written, with sound files to start from.

Another reader is another entry of `READERS`.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pydantic_core
import torch

from benchmark import (
    bundles,
    campaigns,
    challenges,
    compaction,
    downloads,
    evidence,
    failures,
    manifest,
    migrations,
    outcomes,
    records,
    reported,
    submissions,
    weights,
)
from benchmark.architectures import described
from benchmark.datasets import folders, published
from benchmark.digests import digest_of, sha256_of_bytes
from benchmark.distributed import machine
from benchmark.errors import BenchmarkError, RecordError
from benchmark.evaluations import Flag
from benchmark.foreign import containers, states
from benchmark.pipeline import auditing, challenging, exporting, shards
from benchmark.protocols import PROTOCOLS
from benchmark.report import changes, site
from fuzz.judging import Reader, lay
from fuzz.mutants import Folder

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", errors="surrogatepass")


def _same(first: Any, second: Any) -> None:
    """Raises AssertionError unless two values are alike, arrays and tensors to the bit."""
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and first.shape == second.shape, "another tensor"
        bare = [value.clone(memory_format=torch.contiguous_format) for value in (first, second)]
        raw = [value.reshape(-1).view(torch.uint8) for value in bare]
        assert torch.equal(*raw), "other bits"
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype and first.shape == second.shape, "another array"
        assert first.tobytes() == second.tobytes(), "other bits"
    elif isinstance(first, Mapping):
        assert list(first) == list(second) or sorted(first) == sorted(second), "other names"
        for name in first:
            _same(first[name], second[name])
    elif isinstance(first, tuple | list):
        assert len(first) == len(second), "another length"
        for one, other in zip(first, second, strict=True):
            _same(one, other)
    elif hasattr(first, "__dataclass_fields__"):
        _same(
            {n: v for n, v in vars(first).items() if n[0] != "_"},
            {n: v for n, v in vars(second).items() if n[0] != "_"},
        )
    else:
        assert first == second or (first != first and second != second), "another value"


def _harmless(value: Any) -> None:
    """Raises AssertionError for text that no file, page or terminal takes as it is."""
    if isinstance(value, str):
        value.encode()
        assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in value), "control characters"
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _harmless(name)
            _harmless(item)
    elif isinstance(value, tuple | list):
        for item in value:
            _harmless(item)


# --- Manifest and weights -------------------------------------------------------------------------


@cache
def _shipped() -> manifest.Manifest:
    return manifest.read_manifest(ROOT / "checkpoints_manifest.json")


def _entry(name: str) -> manifest.Checkpoint:
    return _shipped().find(f"{name}/seed0")


_SPARSE = "lwm-layerwise/digits/cnn-tiny/adversarial/unstructured-99"
_CODED = "atmc:bits=8/digits/cnn-tiny/adversarial/unstructured-90"
_FILTERS = "lwm-layerwise/digits/cnn-tiny/adversarial/filter-50"


def _manifests() -> list[Folder]:
    entries = [_entry(name).model_dump(mode="json") for name in (_SPARSE, _CODED)]
    entries[0] |= {"url": "https://example.org/a", "mirrors": ["https://example.org/b"]}
    old = [{k: v for k, v in entry.items() if k != "mirrors"} for entry in entries]
    said = [
        {"schema_version": 2, "checkpoints": entries},
        {"schema_version": 1, "checkpoints": old},
    ]
    return [{"m.json": _json(one)} for one in said]


def _manifest_again(found: manifest.Manifest, place: Path) -> None:
    _harmless(found.model_dump(mode="json"))
    manifest.write_manifest(place / "m.json", found)
    assert manifest.read_manifest(place / "m.json") == found
    for entry in found.checkpoints:
        assert len(manifest.slug(entry.id)) < 220
        try:
            manifest.weights_file(entry, place)
        except BenchmarkError:
            continue


def _weights() -> list[Folder]:
    shipped = [(ROOT / _entry(n).file).read_bytes() for n in (_SPARSE, _CODED, _FILTERS)]
    draw = torch.Generator().manual_seed(0)
    odd = {
        "whole": torch.rand(3, 4, generator=draw),
        "double": torch.eye(40, dtype=torch.float64),
        "integers": torch.arange(6).reshape(2, 3),
        "flags": torch.tensor([True, False]),
        "half": torch.eye(64).to(torch.bfloat16),
        "number": torch.tensor(3),
        "empty": torch.zeros(0, 5),
    }
    return [{"w.safetensors": data} for data in (*shipped, weights.encode(odd))]


def _weights_again(found: dict[str, torch.Tensor], place: Path) -> None:
    assert all(tensor.numel() <= weights.LARGEST_STATE for tensor in found.values())
    _same(found, weights.decode(weights.encode(found)))


def _load_model(place: Path) -> Any:
    data = (place / "w.safetensors").read_bytes()
    about = {"file": "w.safetensors", "bytes": max(1, len(data)), "sha256": sha256_of_bytes(data)}
    return manifest.load_model(_entry(_SPARSE).model_copy(update=about), place)


def _model_again(found: Any, _: Path) -> None:
    state = found.state_dict()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    with torch.no_grad():
        assert found(torch.zeros(1, *found.shape)).shape == (1, found.classes)


# --- Outcomes and records -------------------------------------------------------------------------


@cache
def _small() -> Any:
    import small_outcomes

    return small_outcomes


def _outcome_files() -> list[Folder]:
    found = [_small().consistent(seed).encode() for seed in range(2)]
    return [{"o.npz": data} for data in (*found, (GOLDEN / "record_v2.npz").read_bytes())]


def _read_outcomes(place: Path) -> outcomes.Outcomes:
    data = (place / "o.npz").read_bytes()
    return outcomes.decode(data, sha256_of_bytes(data))


def _outcomes_again(found: outcomes.Outcomes, _: Path) -> None:
    data = found.encode()
    _same(found.columns, outcomes.decode(data, sha256_of_bytes(data)).columns)
    protocol = _small().SMALL_PROTOCOL
    try:
        outcomes.check_columns(found, protocol)
        outcomes.check_invariants(found, protocol)
    except BenchmarkError as error:
        assert str(error).isprintable(), "an error of other than one line"
        return
    if len(found):
        outcomes.metrics(found, protocol)


@cache
def _record_files() -> list[Folder]:
    import tempfile

    from test_records import CHECKPOINT, record_of

    found: list[Folder] = []
    with tempfile.TemporaryDirectory() as folder, _known_protocol():
        for seed in range(2):
            columns = _small().consistent(seed)
            path = records.write(Path(folder), record_of(columns), columns)
            place = path.relative_to(folder)
            found.append(
                {
                    "m.json": _json(
                        {"schema_version": 2, "checkpoints": [CHECKPOINT.model_dump(mode="json")]}
                    ),
                    f"r/{place}": path.read_bytes(),
                    f"r/{place.with_suffix('.npz')}": path.with_suffix(".npz").read_bytes(),
                }
            )
    return found


def _single_records() -> list[Folder]:
    current = [
        {f"r{Path(p).suffix}": d for p, d in one.items() if p[0] == "r"} for one in _record_files()
    ]
    old = [
        {
            f"r{suffix}": (GOLDEN / f"record_v{version}{suffix}").read_bytes()
            for suffix in (".json", ".npz")
        }
        for version in (1, 2)
    ]
    return [*current, *old]


def _known_protocol() -> Any:
    small = _small().SMALL_PROTOCOL
    return mock.patch.dict(PROTOCOLS, {small.id: small})


def _record_again(found: tuple[records.ResultRecord, outcomes.Outcomes], place: Path) -> None:
    record, columns = found
    _harmless(record.model_dump(mode="json"))
    # The same columns may have been packed in another way; and a protocol may have any name.
    said = {"outcomes_sha256": sha256_of_bytes(columns.encode()), "protocol": "p"}
    record = records.sealed(record.model_copy(update=said))
    again, other = records.read(records.write(place, record, columns))
    assert again == record, "another record"
    _same(columns.columns, other.columns)


def _sealed_record(folder: Folder) -> Folder:
    """Seals each record of a folder over the outcomes beside it."""
    mended = dict(folder)
    for path in folder:
        if path.endswith(".json") and path != "m.json":
            data = json.loads(folder[path])
            archive = folder.get(f"{path.removesuffix('.json')}.npz")
            if archive is not None:
                data["outcomes_sha256"] = sha256_of_bytes(archive)
            if data.get("schema_version") == 1:
                data["content_digest"] = migrations.digest_of_record_1(data)
            elif data.get("schema_version") == 2:
                data["content_digest"] = migrations.digest_of_record_2(data)
                data["seals"] = {n: digest_of(v) for n, v in data.items() if n != "seals"}
            else:
                data["content_digest"] = records._content_digest(data)
                data["seals"] = records._seals(data)
            mended[path] = _json(data)
    return mended


def _read_board(place: Path) -> Any:
    with _known_protocol():
        rows = records.load_all(place / "r", manifest.read_manifest(place / "m.json"))
        return records.frame(rows)


def _board_again(found: Any, place: Path) -> None:
    shares = ("clean_accuracy", "robust_accuracy", "certified_accuracy", "best_known_accuracy")
    for name in shares:
        if name in found:
            values = found[name].dropna()
            assert values.between(0, 1).all(), f"{name} outside [0, 1]"
    found.to_json()


# --- Evidence and challenges ----------------------------------------------------------------------


def _evidence_files() -> list[Folder]:
    from test_evidence import some_found

    full = {"pgd": {"pgd@1/10": some_found()}, "autoattack": {"apgd-ce": some_found(3)}}
    return [
        {"e.npz": evidence.encode(one)} for one in (full, {"fgsm": {"fgsm": some_found(2)}}, {})
    ]


def _read_evidence(place: Path) -> Any:
    data = (place / "e.npz").read_bytes()
    found = evidence.decode(data, sha256_of_bytes(data))
    counts = evidence.counts_in(data)
    assert sum(counts.values()) == sum(len(f) for finds in found.values() for f in finds.values())
    return found


def _evidence_again(found: Any, _: Path) -> None:
    data = evidence.encode(found)
    _same(found, evidence.decode(data, sha256_of_bytes(data)))


@cache
def _challenge_files() -> list[Folder]:
    import tempfile

    from test_challenges import arrays_of, stored

    found: list[Folder] = []
    for kind in (np.float32, np.uint8):
        with tempfile.TemporaryDirectory() as folder:
            stored(Path(folder), arrays_of(3, 5, 11, kind=kind))
            paths = [path for path in Path(folder).rglob("*") if path.is_file()]
            found.append({str(p.relative_to(folder)): p.read_bytes() for p in paths})
    return found


def _mended_challenge(folder: Folder) -> Folder:
    [about] = (path for path in folder if path.endswith(".json"))
    [archive] = (path for path in folder if path.endswith(".npz"))
    data, said = folder[archive], json.loads(folder[about])
    digest = sha256_of_bytes(data)
    said |= {"bytes": len(data), "sha256": digest, "file": f"{digest[:16]}.npz"}
    said["content_digest"] = digest_of({n: v for n, v in said.items() if n != "content_digest"})
    place = str(Path(about).parent)
    return {f"{place}/{digest[:16]}.json": _json(said), f"{place}/{digest[:16]}.npz": data}


def _read_challenges(place: Path) -> Any:
    from test_challenges import CHECKPOINT, PROTOCOL

    found = challenges.read_all(place, PROTOCOL.id, CHECKPOINT.id)
    for challenge, _ in found:
        challenges.stale(challenge, CHECKPOINT, PROTOCOL)
    return [(one, challenges.read_inputs(path, one)) for one, path in found]


def _challenges_again(found: Any, place: Path) -> None:
    for challenge, arrays in found:
        _harmless(challenge.model_dump(mode="json"))
        assert arrays["inputs"].dtype == np.float32
        assert ((arrays["inputs"] >= 0) & (arrays["inputs"] <= 1)).all()


def _input_files() -> list[Folder]:
    from test_challenges import arrays_of

    kinds = (np.float32, np.uint8)
    return [{"i.npz": outcomes.encode_arrays(arrays_of(1, 2, kind=kind))} for kind in kinds]


def _inputs_again(found: Any, _: Path) -> None:
    assert found.keys() == {"index", "inputs"}
    _same(found, outcomes.read_arrays(outcomes.encode_arrays(found)))


# --- Failures and campaigns -----------------------------------------------------------------------


def _failure_files() -> list[Folder]:
    from test_failures import KNOWN

    said = KNOWN.model_dump(mode="json")
    name = failures.path_of(Path(), KNOWN.checkpoint_id).name
    other = "pwoa/mnist/cnn-small/benign/unstructured-99/seed0"
    more = {failures.path_of(Path(), other).name: _json(said | {"checkpoint_id": other})}
    return [{name: _json(said)}, {name: _json(said), **more}]


def _failures_again(found: list[failures.Failure], place: Path) -> None:
    for failure in found:
        _harmless(failure.model_dump(mode="json"))
        assert 0 <= failure.network.sparsity <= 1
        failures.write(place, failure)
    assert failures.read_all(place) == found


def _campaign_files() -> list[Folder]:
    return [{"c.toml": path.read_bytes()} for path in sorted((ROOT / "campaigns").glob("*.toml"))]


def _campaign_again(found: campaigns.Campaign, _: Path) -> None:
    _harmless(found.model_dump(mode="json"))
    assert campaigns.Campaign.model_validate(found.model_dump(mode="json")) == found


# --- Submissions, reports and others --------------------------------------------------------------


def _submission_files() -> list[Folder]:
    import tempfile

    from test_submissions import SAID

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.json"
        submissions.write(path, submissions.submission_of(**SAID))
        return [{"s.json": path.read_bytes()}]


def _mended_submission(folder: Folder) -> Folder:
    said = json.loads(folder["s.json"])
    said["content_digest"] = digest_of({n: v for n, v in said.items() if n != "content_digest"})
    return {"s.json": _json(said)}


def _submission_again(found: submissions.Submission, place: Path) -> None:
    _harmless(found.model_dump(mode="json"))
    submissions.write(place / "s.json", found)
    assert submissions.read(place / "s.json") == found


@cache
def _export_files() -> list[Folder]:
    found = []
    for name, smaller in ((_SPARSE, True), (_FILTERS, True), (_CODED, False)):
        model = manifest.load_model(_entry(name), ROOT)
        network = (compaction.compact(model) if smaller else compaction.as_published(model)).eval()
        data = weights.encode(network.state_dict())
        about = {
            "format": exporting.FORMAT,
            "input": {"shape": list(model.shape), "range": [0, 1]},
            "operations": compaction.describe(network),
            "files": {exporting.WEIGHTS: exporting._named(data)},
        }
        found.append({exporting.NETWORK: _json(about), exporting.WEIGHTS: data})
    return found


def _mended_export(folder: Folder) -> Folder:
    about = json.loads(folder[exporting.NETWORK])
    about["files"][exporting.WEIGHTS] = exporting._named(folder[exporting.WEIGHTS])
    return {**folder, exporting.NETWORK: _json(about)}


def _read_export(place: Path) -> Any:
    return exporting.load_export(place), json.loads((place / exporting.NETWORK).read_bytes())[
        "input"
    ]["shape"]


def _export_again(found: Any, _: Path) -> None:
    network, shape = found
    again = compaction.restore(
        json.loads(json.dumps(compaction.describe(network))), network.state_dict(), shape
    )
    if np.prod(shape) <= 4096:
        with torch.no_grad():
            inputs = torch.zeros(1, *shape)
            logits = network(inputs)
            _same(logits, again(inputs))
        assert logits.dim() == 2 and len(logits) == 1


def _shard_files() -> list[Folder]:
    import tempfile

    from test_evidence import some_found

    columns = {"broken_by": np.array([-1, 0, 2], np.int8), "margin@1/10": np.zeros(3, np.float32)}
    shard = shards.ShardResult(
        columns, {"pgd@1/10": some_found(3)}, (Flag("a", 0.5, "b"),), 3, 4, 0.5
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.npz"
        shards.write_shard(path, shard)
        shards.write_shard(bare := Path(folder) / "b.npz", replace(shard, evidence={}, flags=()))
        return [{"s.npz": path.read_bytes()}, {"s.npz": bare.read_bytes()}]


def _read_shard(place: Path) -> Any:
    found = shards.read_shard(place / "s.npz")
    shards.read_outcomes(place / "s.npz")
    return _or_refused(found)


def _or_refused(found: Any) -> Any:
    """Returns what was found; refuses none, which is how caches say that they are damaged."""
    if found is None:
        raise RecordError("expected a whole file, got another; it is made again")
    return found


def _shard_again(found: shards.ShardResult, place: Path) -> None:
    assert found.forwards >= 0 and found.backwards >= 0 and 0 <= found.seconds < float("inf")
    for flag in found.flags:
        _harmless(asdict(flag))
        assert type(flag.name) is str and type(flag.detail) is str and 0 <= float(flag.rate) <= 1
    shards.write_shard(place / "s.npz", found)
    _same(found, _read_shard(place))


def _state_files() -> list[Folder]:
    row = ["Digits, quick", "[0.0 %, 12.0 %]", "=1", "checkpoints/a-b.html"]
    change = {
        "board": "Digits, quick",
        "checkpoint": "a/b",
        "href": "checkpoints/a-b.html",
        "kind": "rank",
        "before": "rank 1",
        "after": "rank 2",
    }
    return [
        {
            "state.json": _json(
                {"rows": {"p|quick|a/b": row, "p|quick|a/c": row}, "changes": [change] * 2}
            )
        }
    ]


def _read_state(place: Path) -> Any:
    rows, listed = changes._read(place / changes.STATE)
    return _or_refused(rows), listed


def _state_again(found: Any, place: Path) -> None:
    rows, listed = found
    _encodable(rows)
    _encodable([list(vars(one).values()) for one in listed])
    state = {"rows": rows, "changes": [vars(one) for one in listed]}
    (place / changes.STATE).write_text(json.dumps(state, ensure_ascii=True))
    assert changes._read(place / changes.STATE) == found
    list(changes._compared(rows, {}))


def _encodable(value: Any) -> None:
    json.dumps(value, ensure_ascii=False).encode()


def _audit_files() -> list[Folder]:
    finding = {
        **{"kind": "clean", "claims": 3, "sampled": 2, "wrong": 0, "at_most": 1, "again": 0},
        **{"examples": [], "flags": []},
    }
    report = {
        **{"schema_version": 2, "checkpoint_id": "a/b", "checkpoint_sha256": "1" * 64},
        **{"protocol": "digits-linf", "protocol_digest": "2" * 64, "record_digest": "3" * 64},
        **{"tier": "quick", "examples": 3, "sampled": [1, 2], "fraction": 0.5},
        **{"confidence": 0.95, "seed": 0, "environment": {"torch": "2"}},
        **{"same_environment": True, "findings": [finding]},
    }
    return [dict(_mended_audit({"a.json": _json(report)}))]


def _mended_audit(folder: Folder) -> Folder:
    said = json.loads(folder["a.json"])
    said["content_digest"] = digest_of({n: v for n, v in said.items() if n != "content_digest"})
    return {"a.json": _json(said)}


def _read_audit(place: Path) -> Any:
    return _or_refused(auditing._read(place / "a.json"))


def _audit_again(found: auditing.AuditReport, place: Path) -> None:
    _harmless(found.model_dump(mode="json"))
    (place / "a.json").write_bytes(_json(found.model_dump(mode="json")))
    assert _read_audit(place) == found


def _reported_files() -> list[Folder]:
    whole = json.loads(reported.FILE.read_bytes())
    figures = whole["figures"][:6]
    kept = {figure["source"] for figure in figures}
    few = {
        **whole,
        "figures": figures,
        "sources": {n: s for n, s in whole["sources"].items() if n in kept},
    }
    return [{"p.json": _json(few)}]


def _reported_again(found: reported.Published, place: Path) -> None:
    _harmless(found.model_dump(mode="json"))
    (place / "p.json").write_bytes(_json(found.model_dump(mode="json")))
    assert reported.read(place / "p.json") == found
    for figure in found.figures:
        reported._joined(figure, found.sources[figure.source])


def _read_tuning(place: Path) -> Any:
    with mock.patch.object(machine, "tuning_path", return_value=place / "t.json"):
        return machine.tuning.__wrapped__()


def _tuning_again(found: Any, place: Path) -> None:
    assert 0 < found.sparse_cost < 1e6
    (place / "t.json").write_bytes(_json(asdict(found)))
    assert _read_tuning(place) == found


def _read_origin(place: Path) -> Any:
    return downloads._resumable("https://example.org/a", place / "w.part", place / "w.origin")


def _origin_again(found: dict[str, str], _: Path) -> None:
    _harmless(found)
    assert found.keys() in ({"Range", "If-Range"}, set())
    assert all(len(value) < 2000 for value in found.values())


def _read_listing(place: Path) -> Any:
    return site._earlier(place)


def _listing_again(found: set[str], _: Path) -> None:
    assert all(name.count("/") <= 1 and ".." not in name and name.isascii() for name in found)


# --- Data sets ------------------------------------------------------------------------------------


def _idx(values: Any) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def _idx_files() -> list[Folder]:
    images = np.arange(4 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(4, 28, 28)
    stem = "MNIST/raw/t10k"
    labels = np.array([1, 2, 3, 4], np.uint8)
    return [{f"{stem}-images-idx3-ubyte": _idx(images), f"{stem}-labels-idx1-ubyte": _idx(labels)}]


def _read_idx(place: Path) -> Any:
    # As if the publisher's checksums were of these files, so that the reader behind them is met.
    with (
        mock.patch.object(published, "verify"),
        mock.patch.dict(published.PUBLISHED["mnist"].examples, {"test": 4}),
    ):
        return published.read_published("mnist", "test", place)


def _split_again(found: Any, _: Path) -> None:
    inputs = found.inputs(torch.arange(len(found)))
    assert bool(((inputs >= 0) & (inputs <= 1)).all()) and inputs.shape[1:] == found.shape
    found.digest(torch.arange(len(found)))


def _pickles() -> list[Folder]:
    import pickle

    batch = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]})
    names = [*published._CIFAR10_FILES, *published._CIFAR100_FILES, "test_32x32.mat"]
    return [{name: batch for name in names}]


def _read_pickles(place: Path) -> Any:
    names = ("cifar10", "cifar100", "svhn")
    errors = []
    for name in names:
        try:
            return published.read_published(name, "test", place)
        except BenchmarkError as error:
            errors.append(error)
    raise errors[0]


def _never(found: Any, _: Path) -> None:
    raise AssertionError("a file with another checksum than its publisher's was read")


@cache
def _trees() -> list[Folder]:
    import io

    from PIL import Image

    found: dict[str, bytes] = {}
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        stream, kind = io.BytesIO(), ("PNG", "JPEG")[number % 2]
        Image.fromarray(pixels).save(stream, kind)
        found[f"tiny/{place}/x.{('png', 'jpg')[number % 2]}"] = stream.getvalue()
    return [found]


def _read_tree(place: Path) -> Any:
    about = folders.describe_tree("folder:tiny", place)
    return folders.read_tree(about, "test", place)


def _pixel_files() -> list[Folder]:
    import io

    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 3, 4, 4), np.uint8))
    return [
        {"c.npy": stream.getvalue()},
        {"c.npy": _record_files()[0][next(p for p in _record_files()[0] if p.endswith(".npz"))]},
    ]


def _read_pixels(place: Path) -> Any:
    return _or_refused(folders._read_cache(place / "c.npy", (2, 3, 4, 4)))


def _pixels_again(found: Any, _: Path) -> None:
    assert found.dtype == np.uint8 and found.shape == (2, 3, 4, 4)


# A file that is gone is the caller's to explain.
_GONE = (FileNotFoundError,)


def _draft_files() -> list[Folder]:
    text = """schema_version = 1
name = "mine"
contact = "ada@example.org"
checkpoints = ["mine/digits/*"]
protocols = ["digits-linf"]
tier = "standard"
[method]
name = "mine"
title = "Mine"
authors = ["Ada Müller"]
paper = ""
summary = "One sentence."
[statement]
extra_data = ""
test_data_unused = true
"""
    return [{"d.toml": text.encode()}]


def _draft_again(found: submissions.Draft, _: Path) -> None:
    _harmless(found.model_dump(mode="json"))


@cache
def _bundle_files() -> list[Folder]:
    import tempfile

    inner = {
        "submission.json": _submission_files()[0]["s.json"],
        "a/b.bin": bytes(range(256)),
        "z": b"",
    }
    with tempfile.TemporaryDirectory() as folder:
        lay(inner, Path(folder) / "in")
        bundles.pack(Path(folder) / "in", Path(folder) / "b.zip")
        return [{"b.zip": (Path(folder) / "b.zip").read_bytes()}]


def _read_bundle(place: Path) -> Any:
    target = place / "private"
    target.mkdir()
    found = bundles.snapshot(place / "b.zip", target)
    bundles.check_names(found)
    return place / "b.zip", target, found


def _bundle_again(found: Any, place: Path) -> None:
    archive, target, kept = found
    listed = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    assert listed == sorted(kept), "other files than were said"
    # An archive has one spelling: what was read packs into the same bytes.
    bundles.pack(target, place / "b.zip")
    assert (place / "b.zip").read_bytes() == archive.read_bytes(), "another spelling"


@cache
def _described_files() -> list[Folder]:
    from test_described import FINE

    return [{"d.json": _json(said)} for said in FINE.values()]


def _read_described(place: Path) -> Any:
    try:
        said = pydantic_core.from_json((place / "d.json").read_bytes(), allow_inf_nan=False)
    except ValueError as error:  # the reader of weights refuses it before
        raise RecordError("expected JSON, got other text") from error
    return described.parse(said)


def _described_again(description: described.Description, _: Path) -> None:
    assert described.parse(json.loads(json.dumps(description.plain()))) == description
    channels = description.shape[0]
    model = described.build(description, mean=(0.5,) * channels, std=(0.25,) * channels).eval()
    if sum(p.numel() for p in model.parameters()) < 10**6 and np.prod(description.shape) < 10**4:
        with torch.no_grad():
            assert model(torch.zeros(1, *description.shape)).shape == (1, description.classes)


@cache
def _foreign_files() -> list[Folder]:
    draw = torch.Generator().manual_seed(0)
    state = {"module.a.weight": torch.randn(4, 3, generator=draw), "module.a.bias": torch.ones(4)}
    nested = {"state_dict": state, "epoch": 3, "arch": "a", "best": 0.5, "args": [1, None, True]}
    seeds: list[Folder] = []
    for tree in (state, nested):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(tree, stream, _use_new_zipfile_serialization=zipped)
            seeds.append({"w.zip" if zipped else "w.pt": stream.getvalue()})
    arrays = io.BytesIO()
    np.savez(arrays, **{name: tensor.numpy() for name, tensor in state.items()})
    return [*seeds, {"w.npz": arrays.getvalue()}]


def _read_foreign(place: Path) -> Any:
    [path] = [p for p in place.iterdir() if p.name.startswith("w.")] or [place / "w.pt"]
    found = states.find_state(containers.open_file(path)[0].tree)
    return found, path.read_bytes()


def _foreign_again(read: Any, place: Path) -> None:
    found, data = read
    (place / "w.pt").write_bytes(data)
    again, _ = _read_foreign(place)
    _same(found.state, again.state)
    assert all(tensor.dtype is not torch.float64 for tensor in found.state.values())


READERS: tuple[Reader, ...] = (
    Reader("manifest", _manifests, lambda p: manifest.read_manifest(p / "m.json"), _manifest_again),
    Reader(
        "weights",
        _weights,
        lambda p: weights.decode((p / "w.safetensors").read_bytes()),
        _weights_again,
        refusals=_GONE,
    ),
    Reader("checkpoint", lambda: _weights()[:1], _load_model, _model_again, refusals=_GONE),
    Reader("outcomes", _outcome_files, _read_outcomes, _outcomes_again, refusals=_GONE),
    Reader(
        "record",
        _single_records,
        lambda p: records.read(p / "r.json"),
        _record_again,
        _sealed_record,
    ),
    Reader("board", _record_files, _read_board, _board_again, _sealed_record),
    Reader("evidence", _evidence_files, _read_evidence, _evidence_again, refusals=_GONE),
    Reader("challenge", _challenge_files, _read_challenges, _challenges_again, _mended_challenge),
    Reader(
        "challenge inputs", _input_files, lambda p: challenging._read(p / "i.npz"), _inputs_again
    ),
    Reader("failure", _failure_files, failures.read_all, _failures_again),
    Reader(
        "campaign",
        _campaign_files,
        lambda p: campaigns.read_campaign(p / "c.toml"),
        _campaign_again,
    ),
    Reader(
        "submission",
        _submission_files,
        lambda p: submissions.read(p / "s.json"),
        _submission_again,
        _mended_submission,
        refusals=_GONE,
    ),
    Reader(
        "draft",
        _draft_files,
        lambda p: submissions.read_draft(p / "d.toml"),
        _draft_again,
        refusals=_GONE,
    ),
    Reader("bundle", _bundle_files, _read_bundle, _bundle_again, refusals=_GONE, may_write=True),
    Reader(
        "described network",
        _described_files,
        _read_described,
        _described_again,
        refusals=_GONE,
    ),
    Reader("foreign weights", _foreign_files, _read_foreign, _foreign_again),
    Reader("export", _export_files, _read_export, _export_again, _mended_export),
    Reader("shard", _shard_files, _read_shard, _shard_again),
    Reader("audit", _audit_files, _read_audit, _audit_again, _mended_audit),
    Reader("report state", _state_files, _read_state, _state_again),
    Reader(
        "report listing",
        lambda: [{site.LISTING: b"index.html\nmethods/a-b.html\n"}],
        _read_listing,
        _listing_again,
    ),
    Reader(
        "published figures", _reported_files, lambda p: reported.read(p / "p.json"), _reported_again
    ),
    Reader("tuning", lambda: [{"t.json": b'{"sparse_cost": 7.5}'}], _read_tuning, _tuning_again),
    Reader(
        "download origin",
        lambda: [
            {
                "w.part": b"abc",
                "w.origin": _json({"source": "https://example.org/a", "mark": '"x"'}),
            }
        ],
        _read_origin,
        _origin_again,
    ),
    Reader("idx images", _idx_files, _read_idx, _split_again),
    Reader("pickled images", _pickles, _read_pickles, _never),
    Reader("image folder", _trees, _read_tree, _split_again, may_write=True),
    Reader("decoded images", _pixel_files, _read_pixels, _pixels_again),
)
