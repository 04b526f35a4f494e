"""Data sets: contents as written, cuts and lists recomputed, bad data refused in one line each."""

import dataclasses
import hashlib
import os
import pickle
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.datasets import (
    DATASETS,
    FolderSplit,
    TensorSplit,
    describe,
    example_list,
    folders,
    list_digest,
    load,
    published,
    status,
)
from benchmark.datasets.examples import held_out
from benchmark.errors import ContractError, DataUnavailable, StorageError, UnknownName

PUBLISHED_NAMES = ("mnist", "fashion-mnist", "cifar10", "cifar100", "svhn")
TRAIN, TEST = 40, 20
GOLDEN_LIST = "4735d25c9e9423f479b47c76463b0bd17fe63554f01a300f778fc83466000ef1"
GOLDEN_DIGITS = "3f6c7630793a78475ae433434626b30389ae6e47cabf0f83887cec841a77de26"


def everything(split):
    return torch.arange(len(split))


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and message.startswith("expected ") and ", got " in message
    assert ";" in message, "the next step is missing"
    return message


def refused(name, part, root, **options):
    with pytest.raises(DataUnavailable) as error:
        load(name, part, root, **options)
    return one_line(error)


# Writers of each format, from its specification rather than from the reader.


def pixels_for(name, count, seed):
    shape = DATASETS[name].shape
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels_for(count, classes=10):
    return np.arange(count) % classes


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def idx(array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder):
    def writer(root, halves):
        for stem, (pixels, labels) in zip(("train", "t10k"), halves, strict=True):
            raw = root / folder / "raw"
            write(raw / f"{stem}-images-idx3-ubyte", idx(pixels[:, 0]))
            write(raw / f"{stem}-labels-idx1-ubyte", idx(labels))

    return writer


def cifar_batch(pixels, labels, key):
    # The originals are pickles of Python 2; protocol 2 is what it wrote.
    entry = {"data": pixels.reshape(len(pixels), -1), key: labels.tolist()}
    return pickle.dumps(entry, protocol=2)


def write_cifar10(root, halves):
    (pixels, labels), (test_pixels, test_labels) = halves
    folder = root / "cifar-10-batches-py"
    for number, part in enumerate(np.array_split(np.arange(len(labels)), 5), start=1):
        write(folder / f"data_batch_{number}", cifar_batch(pixels[part], labels[part], "labels"))
    write(folder / "test_batch", cifar_batch(test_pixels, test_labels, "labels"))
    write(folder / "batches.meta", pickle.dumps({"label_names": list("abcdefghij")}, protocol=2))


def write_cifar100(root, halves):
    folder = root / "cifar-100-python"
    for stem, (pixels, labels) in zip(("train", "test"), halves, strict=True):
        write(folder / stem, cifar_batch(pixels, labels, "fine_labels"))
    write(folder / "meta", pickle.dumps({"fine_label_names": ["x"] * 100}, protocol=2))


def write_svhn(root, halves):
    from scipy.io import savemat

    for stem, (pixels, labels) in zip(("train", "test"), halves, strict=True):
        # Height, width, channels, examples; the digit 0 carries the label 10.
        matrix = pixels.transpose(2, 3, 1, 0)
        savemat(
            root / f"{stem}_32x32.mat", {"X": matrix, "y": np.where(labels, labels, 10)[:, None]}
        )


WRITERS = {
    "mnist": write_idx("MNIST"),
    "fashion-mnist": write_idx("FashionMNIST"),
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
}


def md5_of(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def expect_files_of(name, root, monkeypatch):
    """Makes the MD5 tables, ours and torchvision's, those of the tiny files under `root`."""
    import torchvision.datasets as originals

    entry = published.PUBLISHED[name]
    files = {h: {path: md5_of(root / path) for path in entry.files[h]} for h in entry.files}
    changed = dataclasses.replace(entry, files=files, examples={"train": TRAIN, "test": TEST})
    monkeypatch.setitem(published.PUBLISHED, name, changed)
    found = {Path(path).name: md5 for half in files.values() for path, md5 in half.items()}
    if name.startswith("cifar"):
        kind = originals.CIFAR10 if name == "cifar10" else originals.CIFAR100
        for attribute in ("train_list", "test_list"):
            rows = [[file, found[file]] for file, _ in getattr(kind, attribute)]
            monkeypatch.setattr(kind, attribute, rows)
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": found[kind.meta["filename"]]})
    if name == "svhn":
        for half in ("train", "test"):
            row = [*originals.SVHN.split_list[half][:2], found[f"{half}_32x32.mat"]]
            monkeypatch.setitem(originals.SVHN.split_list, half, row)


def tiny(name, root, monkeypatch):
    halves = [(pixels_for(name, n, n), labels_for(n)) for n in (TRAIN, TEST)]
    WRITERS[name](root, halves)
    expect_files_of(name, root, monkeypatch)
    return halves


def write_tree(root, folder, halves=("train", "test"), classes=("cat", "dog"), each=4, size=(6, 5)):
    """Writes PNG images of known pixels and returns them by half, in the order of sorted paths."""
    written = {}
    for half in halves:
        images = []
        for label, name in enumerate(classes):
            for number in range(each):
                seed = [len(half), label, number]
                pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
                path = root / folder / half / name / f"{number:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
                images.append(pixels.transpose(2, 0, 1))
        written[half] = np.stack(images)
    return written


# Example lists and cuts.


def test_example_list_is_a_round_robin_over_hash_orders():
    labels = torch.tensor([1, 0, 1, 2, 0, 2, 1, 0, 2, 1, 1])
    queues = {
        label: sorted(
            (i for i in range(len(labels)) if labels[i] == label),
            key=lambda i: hashlib.sha256(f"toy:{i}".encode()).hexdigest(),
        )
        for label in range(3)
    }
    expected = []
    for turn in range(5):
        order = sorted(
            range(3), key=lambda k: hashlib.sha256(f"toy:{turn}:{k}".encode()).hexdigest()
        )
        expected += [queues[label].pop(0) for label in order if queues[label]]
    assert not any(queues.values())
    assert example_list("toy", labels).tolist() == expected


def test_a_prefix_shorter_than_a_round_is_not_the_first_labels():
    labels = torch.arange(5000) % 1000
    chosen = labels[example_list("imagenet", labels)[:100]]
    assert len(chosen.unique()) == 100
    assert 300 < chosen.float().mean() < 700


def test_every_prefix_of_the_example_list_is_balanced():
    labels = load("digits", "test", None).labels
    order = example_list("digits", labels)
    assert sorted(order.tolist()) == list(range(len(labels)))
    for length in range(1, len(order) + 1):
        counts = torch.bincount(labels[order[:length]], minlength=10)
        assert counts.max() - counts.min() <= 1


def test_example_lists_are_frozen():
    # Published numbers rest on these lists: another digest needs a new version of every protocol.
    labels = torch.arange(1000) % 10
    assert list_digest(example_list("mnist", labels)) == GOLDEN_LIST
    assert list_digest(example_list("cifar10", labels)) != GOLDEN_LIST
    digits = load("digits", "test", None)
    assert digits.digest(example_list("digits", digits.labels)) == GOLDEN_DIGITS


def test_list_digest_depends_on_order():
    assert list_digest(torch.tensor([1, 2])) != list_digest(torch.tensor([2, 1]))


def test_held_out_takes_the_same_number_of_each_class():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    mask = held_out("toy", labels, 12)
    assert torch.bincount(labels[mask]).tolist() == [4, 4, 4]
    first = example_list("toy", labels)[:12]
    assert sorted(first.tolist()) == mask.nonzero().flatten().tolist()


def test_held_out_never_empties_a_rare_class():
    labels = torch.tensor([0] * 200 + [1] * 3 + [2])
    mask = held_out("toy", labels, 60)
    assert torch.bincount(labels[mask], minlength=3).tolist() == [20, 1, 0]


# Digits: real data that every machine has.


def test_digits_parts_are_disjoint_complete_and_balanced():
    from sklearn.datasets import load_digits

    parts = {part: load("digits", part, None) for part in ("train", "validation", "test")}
    assert {part: len(split) for part, split in parts.items()} == {
        "train": 1077,
        "validation": 120,
        "test": 600,
    }
    assert torch.bincount(parts["test"].labels).tolist() == [60] * 10
    assert torch.bincount(parts["validation"].labels).tolist() == [12] * 10

    def rows(pixels, labels):
        return sorted((*map(int, row), int(y)) for row, y in zip(pixels, labels, strict=True))

    ours = [
        row
        for split in parts.values()
        for row in rows(split.pixels(everything(split)).flatten(1).tolist(), split.labels)
    ]
    assert sorted(ours) == rows(*load_digits(return_X_y=True))


def test_digits_inputs_are_sixteenths():
    split = load("digits", "train", None)
    inputs = split.inputs(everything(split))
    assert inputs.dtype == torch.float32 and tuple(inputs.shape) == (1077, 1, 8, 8)
    assert inputs.min() == 0 and inputs.max() == 1
    assert torch.equal(inputs * 16, (inputs * 16).round())


def statistics(split):
    total = square = torch.zeros(split.shape[0], dtype=torch.float64)
    for start in range(0, len(split), 5000):
        inputs = split.inputs(everything(split)[start : start + 5000]).double()
        total = total + inputs.sum((0, 2, 3))
        square = square + inputs.square().sum((0, 2, 3))
    count = len(split) * split.shape[1] * split.shape[2]
    mean = total / count
    return mean.tolist(), (square / count - mean.square()).sqrt().tolist()


def test_digits_statistics_are_those_of_the_train_part():
    mean, std = statistics(load("digits", "train", None))
    # Four printed digits: half a unit of the last one.
    assert mean == pytest.approx(DATASETS["digits"].mean, abs=5e-5)
    assert std == pytest.approx(DATASETS["digits"].std, abs=5e-5)


def test_changed_scikit_learn_data_are_refused(monkeypatch):
    import sklearn.datasets

    monkeypatch.setattr(
        sklearn.datasets, "load_digits", lambda **_: (np.zeros((5, 64)), np.zeros(5, int))
    )
    assert "1797" in refused("digits", "train", None)


# Splits.


def toy_split():
    pixels = torch.from_numpy(pixels_for("mnist", 6, 1))
    return pixels, TensorSplit(pixels, torch.arange(6), 255)


def test_inputs_are_exact_quotients_in_the_order_asked_for():
    pixels, split = toy_split()
    indices = torch.tensor([4, 0, 4])
    expected = pixels.numpy()[[4, 0, 4]].astype(np.float32) / np.float32(255)
    assert np.array_equal(split.inputs(indices).numpy(), expected)
    assert split.inputs(indices).max() <= 1


def test_inputs_are_copies():
    _, split = toy_split()
    before = split.inputs(everything(split))
    split.pixels(everything(split)).zero_()
    split.inputs(everything(split)).zero_()
    assert torch.equal(split.inputs(everything(split)), before)


@pytest.mark.parametrize(
    "indices",
    [
        torch.tensor([-1]),
        torch.tensor([6]),
        torch.tensor([True] * 6),
        torch.tensor([0], dtype=torch.int32),
        torch.tensor(0),
    ],
)
def test_indices_outside_the_split_or_of_another_kind_are_refused(indices):
    _, split = toy_split()
    for use in (split.pixels, split.inputs, split.digest, split.subset):
        with pytest.raises(ContractError, match="expected indices"):
            use(indices)


def test_digest_sees_pixels_labels_order_shape_and_scale():
    pixels = torch.arange(2 * 12, dtype=torch.uint8).view(2, 3, 2, 2) % 17
    labels = torch.tensor([0, 1])
    both = torch.tensor([0, 1])
    changed = pixels.clone()
    changed[1, 2, 1, 1] += 1
    digests = [
        TensorSplit(pixels, labels, 16).digest(both),
        TensorSplit(changed, labels, 17).digest(both),
        TensorSplit(pixels, labels, 255).digest(both),
        TensorSplit(changed, labels, 255).digest(both),
        TensorSplit(pixels, labels.flip(0), 16).digest(both),
        TensorSplit(pixels.view(2, 1, 3, 4), labels, 16).digest(both),
        TensorSplit(pixels, labels, 16).digest(both.flip(0)),
        TensorSplit(pixels, labels, 16).digest(both[:1]),
    ]
    assert len(set(digests)) == len(digests)
    assert TensorSplit(pixels.clone(), labels, 16).digest(both) == digests[0]


def test_digest_does_not_depend_on_its_chunks(monkeypatch):
    _, split = toy_split()
    whole = split.digest(everything(split))
    monkeypatch.setattr("benchmark.datasets.splits._DIGEST_CHUNK", 4)
    assert split.digest(everything(split)) == whole


def test_subset_keeps_pixels_with_labels():
    pixels, split = toy_split()
    part = split.subset(torch.tensor([5, 2]))
    assert part.labels.tolist() == [5, 2]
    assert torch.equal(part.pixels(everything(part)), pixels[[5, 2]])


@pytest.mark.parametrize(
    ("pixels", "labels", "scale"),
    [
        (torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), 255),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), 255),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), 255),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2), 255),
        (torch.full((2, 1, 2, 2), 17, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), 16),
    ],
)
def test_tensor_split_refuses_other_types_shapes_and_ranges(pixels, labels, scale):
    with pytest.raises(ContractError, match="expected"):
        TensorSplit(pixels, labels, scale)


# Published files.


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_published_formats_are_read_as_written(name, tmp_path, monkeypatch):
    (pixels, labels), (test_pixels, test_labels) = tiny(name, tmp_path, monkeypatch)
    test = load(name, "test", tmp_path)
    assert torch.equal(test.labels, torch.from_numpy(test_labels))
    assert np.array_equal(test.pixels(everything(test)).numpy(), test_pixels)
    held = held_out(f"{name}:validation", torch.from_numpy(labels), 4).numpy()
    for part, chosen in (("train", ~held), ("validation", held)):
        split = load(name, part, tmp_path)
        assert np.array_equal(split.pixels(everything(split)).numpy(), pixels[chosen])
        assert np.array_equal(split.labels.numpy(), labels[chosen])
    # 4 of 40 is less than one a class, and every class gives at least one.
    assert held.sum() == 10


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_missing_truncated_and_tampered_files_are_named(name, tmp_path, monkeypatch):
    tiny(name, tmp_path, monkeypatch)
    for path in [tmp_path / path for path in published.PUBLISHED[name].files["train"]]:
        original = path.read_bytes()
        path.write_bytes(original[:-1])
        assert str(path) in refused(name, "train", tmp_path)
        path.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        assert "MD5" in refused(name, "train", tmp_path)
        path.unlink()
        message = refused(name, "validation", tmp_path)
        assert str(path) in message and "--data-root" in message and "ROBUSTPRUNE_DATA" in message
        path.write_bytes(original)
    assert len(load(name, "train", tmp_path)) == TRAIN - 10


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_wrong_number_of_examples_is_refused(name, tmp_path, monkeypatch):
    tiny(name, tmp_path, monkeypatch)
    entry = published.PUBLISHED[name]
    examples = {"train": TRAIN + 1, "test": TEST}
    monkeypatch.setitem(published.PUBLISHED, name, dataclasses.replace(entry, examples=examples))
    assert f"got ({TRAIN}, " in refused(name, "train", tmp_path)
    assert len(load(name, "test", tmp_path)) == TEST


def test_wrong_image_size_and_label_count_are_refused(tmp_path, monkeypatch):
    tiny("mnist", tmp_path, monkeypatch)
    raw = tmp_path / "MNIST" / "raw"
    for file, array in (
        ("t10k-images-idx3-ubyte", np.zeros((TEST, 32, 32))),
        ("t10k-labels-idx1-ubyte", np.zeros(TEST - 1)),
    ):
        original = (raw / file).read_bytes()
        (raw / file).write_bytes(idx(array))
        expect_files_of("mnist", tmp_path, monkeypatch)
        assert "restore the original files" in refused("mnist", "test", tmp_path)
        (raw / file).write_bytes(original)


def test_a_reader_that_fails_gives_one_line(tmp_path, monkeypatch):
    tiny("mnist", tmp_path, monkeypatch)
    path = tmp_path / "MNIST/raw/t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    expect_files_of("mnist", tmp_path, monkeypatch)
    assert "restore the original files" in refused("mnist", "test", tmp_path)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_unverified_pickles_are_never_opened(tmp_path, monkeypatch):
    tiny("cifar10", tmp_path, monkeypatch)
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    for file in published.PUBLISHED["cifar10"].files["test"]:
        original = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(trap)
        refused("cifar10", "test", tmp_path)
        (tmp_path / file).write_bytes(original)
    assert not sprung.exists()
    pickle.loads(trap)
    assert sprung.exists(), "the trap itself must work"


def test_checksum_tables_agree_with_torchvision():
    import torchvision.datasets as originals

    def table(kind):
        rows = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
        return {f"{kind.base_folder}/{file}": md5 for file, md5 in rows}

    for name, kind in (("cifar10", originals.CIFAR10), ("cifar100", originals.CIFAR100)):
        files = published.PUBLISHED[name].files
        assert files["train"] == files["test"] == table(kind)
    for half in ("train", "test"):
        _, file, md5 = originals.SVHN.split_list[half]
        assert published.PUBLISHED["svhn"].files[half] == {file: md5}


# Downloads, without a network.


def copy_into(source):
    def download(folder, half):
        print("progress")
        for path in source.rglob("*"):
            if path.is_file():
                write(folder / path.relative_to(source), path.read_bytes())

    return download


def replace_download(name, monkeypatch, download):
    entry = dataclasses.replace(published.PUBLISHED[name], download=download)
    monkeypatch.setitem(published.PUBLISHED, name, entry)


def leftovers(root):
    return sorted(path.name for path in root.rglob("*") if path.is_file() or path.name[0] == ".")


def test_download_fills_the_root_and_is_not_repeated(tmp_path, monkeypatch, capsys):
    tiny("mnist", tmp_path / "origin", monkeypatch)
    replace_download("mnist", monkeypatch, copy_into(tmp_path / "origin"))
    root = tmp_path / "new" / "root"
    assert len(load("mnist", "test", root, download=True)) == TEST
    assert capsys.readouterr().out == ""

    def forbidden(folder, half):
        raise AssertionError("downloaded twice")

    replace_download("mnist", monkeypatch, forbidden)
    assert len(load("mnist", "train", root, download=True)) == TRAIN - 10
    assert leftovers(root) == leftovers(tmp_path / "origin")


def test_download_replaces_a_damaged_file(tmp_path, monkeypatch):
    (tmp_path / "origin").mkdir()
    tiny("svhn", tmp_path / "origin", monkeypatch)
    replace_download("svhn", monkeypatch, copy_into(tmp_path / "origin"))
    write(tmp_path / "root" / "test_32x32.mat", b"half a file")
    refused("svhn", "test", tmp_path / "root")
    assert len(load("svhn", "test", tmp_path / "root", download=True)) == TEST


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left"), RuntimeError("Tried a,\nTried b"), EOFError()]
)
def test_a_broken_download_leaves_nothing_behind(failure, tmp_path, monkeypatch):
    tiny("mnist", tmp_path / "origin", monkeypatch)

    def download(folder, half):
        copy_into(tmp_path / "origin")(folder, half)
        raise failure

    replace_download("mnist", monkeypatch, download)
    assert "download" in refused("mnist", "test", tmp_path / "root", download=True)
    assert leftovers(tmp_path / "root") == []


def test_an_interrupted_download_leaves_nothing_behind(tmp_path, monkeypatch):
    def download(folder, half):
        write(folder / "MNIST/raw/t10k-images-idx3-ubyte", b"half")
        raise KeyboardInterrupt

    replace_download("mnist", monkeypatch, download)
    with pytest.raises(KeyboardInterrupt):
        load("mnist", "test", tmp_path / "root", download=True)
    assert leftovers(tmp_path / "root") == []


def test_a_download_of_other_bytes_is_refused(tmp_path, monkeypatch):
    tiny("mnist", tmp_path / "origin", monkeypatch)

    def download(folder, half):
        copy_into(tmp_path / "origin")(folder, half)
        write(folder / "MNIST/raw/t10k-images-idx3-ubyte", b"other")

    replace_download("mnist", monkeypatch, download)
    assert "MD5" in refused("mnist", "test", tmp_path / "root", download=True)
    assert leftovers(tmp_path / "root") == []


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_download_without_network_gives_one_line_quickly(name, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    started = time.monotonic()
    message = refused(name, "test", tmp_path / "root", download=True)
    assert "Name or service not known" in message or "Error downloading" in message
    assert time.monotonic() - started < 10
    assert leftovers(tmp_path / "root") == []


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "_NETWORK_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        replace_download("mnist", monkeypatch, lambda folder, half: opener.open(address))
        assert "timed out" in refused("mnist", "test", tmp_path, download=True)
    assert socket.getdefaulttimeout() is None


def test_a_root_that_cannot_be_made_gives_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert "download" in refused("mnist", "test", tmp_path / "file" / "root", download=True)


def test_trees_say_that_they_cannot_be_downloaded(tmp_path):
    message = refused("imagenet", "test", tmp_path, download=True)
    assert "cannot be downloaded" in message and "imagenet/val/<class>" in message


# Trees of images.


def test_a_tree_is_read_as_written(tmp_path):
    written = write_tree(tmp_path, "pets", each=6)
    (tmp_path / "pets/train/cat/notes.txt").write_text("not an image")
    (tmp_path / "pets/train/.thumbnails").mkdir()
    test = load("folder:pets", "test", tmp_path)
    assert test.labels.tolist() == [0] * 6 + [1] * 6 and test.shape == (3, 6, 5)
    assert np.array_equal(test.pixels(everything(test)).numpy(), written["test"])
    held = held_out("folder:pets:validation", torch.tensor([0] * 6 + [1] * 6), 1).numpy()
    for part, chosen in (("train", ~held), ("validation", held)):
        split = load("folder:pets", part, tmp_path)
        assert np.array_equal(split.pixels(everything(split)).numpy(), written["train"][chosen])


def test_any_tree_is_described_by_its_first_image(tmp_path):
    write_tree(tmp_path, "pets", classes=("a", "b", "c"))
    found = describe("folder:pets", tmp_path)
    assert (found.name, found.shape, found.classes) == ("folder:pets", (3, 6, 5), 3)
    assert (found.mean, found.std, found.augmentation) == ((0.0,) * 3, (1.0,) * 3, "none")


def test_a_grey_tree_has_one_channel_and_stays_grey(tmp_path):
    for half in ("train", "test"):
        for label, name in enumerate("ab"):
            for number in range(2):
                path = tmp_path / "grey" / half / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((3, 4), 10 * label + number, dtype=np.uint8)).save(path)
    split = load("folder:grey", "test", tmp_path)
    assert split.shape == (1, 3, 4)
    assert split.pixels(everything(split))[:, 0, 0, 0].tolist() == [0, 1, 10, 11]
    Image.new("RGB", (4, 3)).save(tmp_path / "grey/test/b/1.png")
    assert "grey" in refused("folder:grey", "test", tmp_path)


def test_cifar10_jpeg_is_a_tree_with_a_fixed_description(tmp_path, monkeypatch):
    classes = tuple("abcdefghij")
    written = write_tree(tmp_path, "cifar10-jpeg", classes=classes, each=2, size=(32, 32))
    assert "50000" in refused("cifar10-jpeg", "train", tmp_path)
    tree = dataclasses.replace(folders.TREES["cifar10-jpeg"], examples=(20, 20))
    monkeypatch.setitem(folders.TREES, "cifar10-jpeg", tree)
    split = load("cifar10-jpeg", "test", tmp_path)
    assert np.array_equal(split.pixels(everything(split)).numpy(), written["test"])
    assert describe("cifar10-jpeg", None) is DATASETS["cifar10-jpeg"]


@pytest.fixture
def pets(tmp_path):
    write_tree(tmp_path, "pets")
    return tmp_path


def break_class_names(root):
    (root / "pets/test/dog").rename(root / "pets/test/wolf")


def break_class_count(root):
    (root / "pets/test/bird").mkdir()


def break_images(root):
    for path in (root / "pets/test/dog").iterdir():
        path.unlink()


def break_half(root):
    for name in ("cat", "dog"):
        for path in (root / "pets/test" / name).iterdir():
            path.unlink()
        (root / "pets/test" / name).rmdir()
    (root / "pets/test").rmdir()


def break_by_truncation(root):
    path = root / "pets/test/cat/0002.png"
    path.write_bytes(path.read_bytes()[:-40])


def break_by_other_bytes(root):
    (root / "pets/test/cat/0002.png").write_bytes(b"GIF89a nothing of the kind")


def break_size(root):
    Image.new("RGB", (7, 6)).save(root / "pets/test/cat/0002.png")


def break_depth(root):
    deep = np.full((6, 5), 40_000, dtype=np.uint16)
    Image.fromarray(deep).save(root / "pets/test/cat/0002.png")


def break_by_dangling_link(root):
    (root / "pets/test/cat/9.png").symlink_to(root / "nowhere.png")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_class_names, "class folders"),
        (break_class_count, "class folders"),
        (break_images, "dog, got none"),
        (break_half, "No such file"),
        (break_by_truncation, "0002.png"),
        (break_by_other_bytes, "0002.png"),
        (break_size, "5x6 pixels"),
        (break_depth, "8 bits"),
        (break_by_dangling_link, "9.png"),
    ],
)
def test_a_damaged_tree_is_refused(pets, damage, words):
    assert len(load("folder:pets", "test", pets)) == 8
    damage(pets)
    assert words in refused("folder:pets", "test", pets)


def test_a_truncated_jpeg_is_refused(tmp_path):
    for half in ("train", "test"):
        path = tmp_path / "photos" / half / "only" / "1.jpg"
        path.parent.mkdir(parents=True)
        noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    assert "1.jpg" in refused("folder:photos", "test", tmp_path)


def forbid_decoding(monkeypatch):
    def forbidden(files, decoding):
        raise AssertionError("decoded although it was cached")

    monkeypatch.setattr(folders, "_decode_all", forbidden)


def test_small_trees_are_decoded_once(pets, monkeypatch):
    first = load("folder:pets", "test", pets)
    forbid_decoding(monkeypatch)
    again = load("folder:pets", "test", pets)
    assert again.digest(everything(again)) == first.digest(everything(first))
    with pytest.raises(AssertionError, match="decoded"):
        load("folder:pets", "train", pets)


def test_a_changed_image_is_decoded_again_and_stale_copies_go(pets):
    before = load("folder:pets", "test", pets)
    load("folder:pets", "train", pets)
    path = pets / "pets/test/dog/0003.png"
    Image.new("RGB", (5, 6), (9, 8, 7)).save(path)
    os.utime(path, ns=(1, 1))
    after = load("folder:pets", "test", pets)
    assert after.pixels(torch.tensor([7]))[0, :, 0, 0].tolist() == [9, 8, 7]
    assert before.digest(everything(before)) != after.digest(everything(after))
    copies = sorted(path.name[:5] for path in (pets / folders.CACHE / "pets").iterdir())
    assert copies == ["test-", "train"]


def test_a_moved_root_keeps_its_cache(pets, monkeypatch):
    load("folder:pets", "test", pets)
    moved = pets.with_name("moved")
    pets.rename(moved)
    forbid_decoding(monkeypatch)
    assert len(load("folder:pets", "test", moved)) == 8


@pytest.mark.parametrize(
    "data", [b"", b"\x93NUMPY\x01\x00", None, pickle.dumps([1]), "other shape"]
)
def test_a_damaged_cache_is_ignored(pets, data):
    whole = load("folder:pets", "test", pets)
    (copy,) = (pets / folders.CACHE / "pets").glob("test-*.npy")
    if data == "other shape":
        np.save(copy, np.zeros((8, 3, 5, 6), dtype=np.uint8))
    else:
        copy.write_bytes(copy.read_bytes()[:-1] if data is None else data)
    again = load("folder:pets", "test", pets)
    assert again.digest(everything(again)) == whole.digest(everything(whole))


def test_a_read_only_root_works_without_a_cache(pets, monkeypatch):
    def refuse(path, data):
        raise StorageError("read-only")

    monkeypatch.setattr(folders, "write_atomically", refuse)
    assert len(load("folder:pets", "test", pets)) == 8
    assert not (pets / folders.CACHE).exists()


def test_large_trees_are_decoded_on_demand(pets, monkeypatch):
    small = load("folder:pets", "train", pets)
    monkeypatch.setattr(folders, "_MEMORY_LIMIT_BYTES", 8 * 3 * 6 * 5 - 1)
    lazy = load("folder:pets", "train", pets)
    assert isinstance(small, TensorSplit) and isinstance(lazy, FolderSplit)
    assert lazy.digest(everything(lazy)) == small.digest(everything(small))
    order = torch.tensor([5, 0, 3])
    assert torch.equal(lazy.inputs(order), small.inputs(order))
    # Decoded on demand: what breaks after loading shows when it is asked for.
    (pets / "pets/train/cat/0000.png").write_bytes(b"")
    (pets / "pets/train/cat/0001.png").write_bytes(b"")
    with pytest.raises(DataUnavailable) as error:
        lazy.inputs(everything(lazy))
    assert ".png" in one_line(error)


def test_folder_split_refuses_another_number_of_labels():
    decoding = folders.Decoding((3, 2, 2), None)
    with pytest.raises(ContractError, match="expected labels"):
        FolderSplit(["a.png"], torch.zeros(2, dtype=torch.int64), decoding)


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """ImageNet in small: two classes, three pictures each, of several sizes and colour modes."""
    small = dataclasses.replace(DATASETS["imagenet"], classes=2)
    monkeypatch.setitem(DATASETS, "imagenet", small)
    tree = dataclasses.replace(folders.TREES["imagenet"], examples=(6, 6))
    monkeypatch.setitem(folders.TREES, "imagenet", tree)
    sizes, modes = [(300, 400), (512, 256), (90, 60)], ["RGB", "L", "CMYK"]
    for half in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            for number, (size, mode) in enumerate(zip(sizes, modes, strict=True)):
                path = tmp_path / "imagenet" / half / name / f"{name}_{number}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", size, (200, 200, 200)).convert(mode).save(path)
    return tmp_path


@pytest.mark.parametrize("limit", [2**30, 0])
def test_imagenet_is_read_from_train_and_val(imagenet, monkeypatch, limit):
    monkeypatch.setattr(folders, "_MEMORY_LIMIT_BYTES", limit)
    split = load("imagenet", "test", imagenet)
    assert isinstance(split, TensorSplit if limit else FolderSplit)
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1] and split.shape == (3, 224, 224)
    inputs = split.inputs(everything(split))
    assert tuple(inputs.shape) == (6, 3, 224, 224)
    # A uniform image stays uniform; JPEG moves it by two levels at most.
    assert (inputs * 255 - 200).abs().max() <= 2
    assert len(load("imagenet", "train", imagenet)) == 4
    assert len(load("imagenet", "validation", imagenet)) == 2


def test_imagenet_shows_the_centre_of_the_scaled_image(imagenet):
    # 512 x 256 needs no scaling; the centre of 224 runs over columns 144 to 367 and rows 16 to 239.
    marked = np.zeros((256, 512, 3), dtype=np.uint8)
    marked[16:240, 144:368] = 255
    path = imagenet / "imagenet/val/n01440764/n01440764_0.JPEG"
    Image.fromarray(marked).save(path, format="PNG")
    split = load("imagenet", "test", imagenet)
    assert split.inputs(torch.tensor([0])).min() == 1
    marked[16, 144] = 0
    Image.fromarray(marked).save(path, format="PNG")
    os.utime(path, ns=(1, 1))
    dark = load("imagenet", "test", imagenet).pixels(torch.tensor([0]))[0, 0] == 0
    assert dark.nonzero().tolist() == [[0, 0]]


def test_imagenet_with_another_number_of_images_is_refused(imagenet):
    (imagenet / "imagenet/val/n01440764/n01440764_0.JPEG").unlink()
    assert "expected 6 images" in refused("imagenet", "test", imagenet)


# Names, roots, status, imports.


def test_unknown_names_get_near_matches(tmp_path):
    for use in (lambda: describe("mnits", None), lambda: status("mnits", None)):
        with pytest.raises(UnknownName, match="did you mean mnist"):
            use()
    with pytest.raises(UnknownName, match="part 'dev'"):
        load("digits", "dev", None)


@pytest.mark.parametrize(
    "folder", ["", "..", "../up", "/etc", "a/b", ".hidden", "a\nb", "x" * 10**6]
)
def test_folder_names_cannot_leave_the_root(folder, tmp_path):
    for use in (describe, status, lambda name, root: load(name, "test", root)):
        with pytest.raises(UnknownName, match="expected folder:NAME") as error:
            use(f"folder:{folder}", tmp_path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("name", [*sorted(set(DATASETS) - {"digits"}), "folder:pets"])
def test_without_a_data_root_the_next_step_is_named(name):
    message = refused(name, "test", None)
    assert "--data-root" in message and "ROBUSTPRUNE_DATA" in message
    assert not status(name, None).found


@pytest.mark.parametrize("name", [*sorted(set(DATASETS) - {"digits"}), "folder:pets"])
def test_an_empty_data_root_is_refused(name, tmp_path):
    assert str(tmp_path) in refused(name, "test", tmp_path)
    found = status(name, tmp_path)
    assert not found.found and found.how_to_get and found.where is not None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_descriptions_are_complete(name):
    entry = DATASETS[name]
    assert entry.name == name and describe(name, None) is entry
    assert len(entry.mean) == len(entry.std) == entry.shape[0]
    assert all(0 < value < 1 for value in (*entry.mean, *entry.std))
    assert entry.title and entry.source and entry.licence


def test_status_of_what_is_there(tmp_path, monkeypatch, pets, imagenet):
    tiny("mnist", tmp_path, monkeypatch)
    assert status("digits", None).found
    assert status("mnist", tmp_path).detail == "4 of 4 files"
    assert status("mnist", tmp_path).found
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    partial = status("mnist", tmp_path)
    assert not partial.found and "t10k-labels" in partial.detail
    assert partial.where == tmp_path / "MNIST/raw"
    assert status("folder:pets", pets).found
    assert status("imagenet", imagenet).found
    (imagenet / "imagenet/val/n99999999").mkdir()
    assert not status("imagenet", imagenet).found


def test_import_is_light():
    code = (
        "import sys, benchmark.datasets\n"
        "heavy = {'torchvision', 'sklearn', 'PIL', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Real data.


@pytest.fixture
def data_root():
    root = os.environ.get("ROBUSTPRUNE_DATA")
    if not root:
        pytest.skip("ROBUSTPRUNE_DATA does not name a folder with real data")
    return Path(root)


def real(name, root):
    found = status(name, root)
    if not found.found:
        pytest.skip(f"{name} is not under ROBUSTPRUNE_DATA: {found.detail}")
    return root


@pytest.mark.data
def test_real_mnist(data_root):
    root = real("mnist", data_root)
    load("mnist", "test", root)
    train = load("mnist", "train", root)
    assert len(train) == 54_000 and len(load("mnist", "validation", root)) == 6_000
    test = load("mnist", "test", root)
    # The first test digits are known to everyone who ever plotted them.
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    mean, std = statistics(train)
    # The published values are those of all 60,000 images; a tenth held out moves them by less.
    assert mean == pytest.approx(DATASETS["mnist"].mean, abs=1e-3)
    assert std == pytest.approx(DATASETS["mnist"].std, abs=1e-3)


@pytest.mark.data
@pytest.mark.slow
def test_real_cifar10_jpeg(data_root):
    root = real("cifar10-jpeg", data_root)
    train = load("cifar10-jpeg", "train", root)
    assert torch.bincount(train.labels).tolist() == [4500] * 10
    mean, std = statistics(train)
    assert mean == pytest.approx(DATASETS["cifar10-jpeg"].mean, abs=5e-5)
    assert std == pytest.approx(DATASETS["cifar10-jpeg"].std, abs=5e-5)
    test = load("cifar10-jpeg", "test", root)
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    # In alphabetical order, so that labels are those of the original CIFAR-10.
    names = folders.class_names(root / "cifar10-jpeg" / "test")
    original = "airplane automobile bird cat deer dog frog horse ship truck"
    assert names == original.split()
