"""Published figures: the sources' own numbers, refused when damaged, never another board's."""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import methods
from benchmark.architectures import ARCHITECTURES
from benchmark.errors import ManifestError, RecordError
from benchmark.protocols import PROTOCOLS
from benchmark.reported import BESIDE, FILE, LARGEST_REPORTED, every, read, reported

ROOT = Path(__file__).parents[2]
# What the data were made from. It lies beside some checkouts; nothing but these tests looks there.
RESEARCH = ROOT.parent / "shared" / "research"
NUMBER = re.compile(r"\d+\.\d+")

# Names of one document for those of another.
DATASETS = {"CIFAR-10": "cifar10", "SVHN": "svhn"}
UNITS = {
    "weights": "unstructured",
    "filters": "filter",
    "channels": "filter",
    None: "structured",
}

BENCHMARK = ("MAD", "FlyingBird", "HARP", "TwinRep")

Data = dict[str, Any]


def rows(source: str) -> list[Data]:
    """Returns the figures of one source, as they stand in the file."""
    figures = json.loads(FILE.read_text())["figures"]
    return [figure for figure in figures if figure["source"] == source]


def document(name: str) -> str:
    if not (RESEARCH / name).is_file():
        pytest.skip(f"no {name} beside this checkout")
    return (RESEARCH / name).read_text()


def cells(heading: str, first: set[str]) -> list[list[str]]:
    """Returns the rows of the tables under a heading that begin with one of the given cells."""
    section = document("methods.md").partition(f"\n### {heading}")[2].partition("\n### ")[0]
    assert section, f"no section {heading}"
    lines = [line for line in section.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in table if row[0] in first]


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


# --- The sources' own numbers ---------------------------------------------------------------------


def test_figures_of_the_2024_benchmark_are_its_own() -> None:
    data = json.loads(document("apbench_2024.json"))
    expected = [
        (
            DATASETS[row["dataset"]],
            row["method"],
            row["architecture"],
            UNITS[row["pruning_unit"]],
            row["sparsity"],
            row["clean_accuracy"],
            row["aa_robust_accuracy"],
            row["source_url"],
        )
        for row in data["records"]
    ]
    found = [
        (
            row.dataset,
            row.method_name,
            row.architecture_name,
            row.structure,
            row.sparsity,
            float(row.percent(row.clean_accuracy)),
            float(row.percent(row.robust_accuracy)),
            row.url,
        )
        for row in every()
        if row.source_id == "apbench-2024"
    ]
    assert sorted(found) == sorted(expected)
    source, protocol = read().sources["apbench-2024"], data["protocol"]
    assert (source.norm, float(source.epsilon)) == (protocol["norm"], protocol["epsilon"])
    assert (source.url, source.paper) == (data["source"]["readme"], data["source"]["paper"])


def test_hydras_table_is_the_papers() -> None:
    expected = Counter[tuple[str, str, str, float, float]]()
    # The table of smoothed accuracies looks the same and follows: they are another quantity.
    for dataset, network, dense, lwm, hydra, _ in cells("2.9", set(DATASETS))[:4]:
        place = (DATASETS[dataset], network)
        expected[(*place, "Pre-trained", 0.0, float(dense))] += 1
        for method, text in (("LWM", lwm), ("HYDRA", hydra)):
            for sparsity, value in zip((0.9, 0.95, 0.99), numbers(text), strict=True):
                expected[(*place, method, sparsity, value)] += 1
    found = Counter(
        tuple(row[k] for k in ("dataset", "architecture_name", "method_name", "sparsity"))
        + (row["robust_accuracy"],)
        for row in rows("hydra-paper")
    )
    assert found == expected
    assert len(expected) == 28


# Where in a row's numbers clean and robust accuracy of each network stand.
OTHERS = {
    # Robust accuracy at the best and the final epoch, then clean accuracy at these.
    "sparsity-wins": ("7.3", {"CIFAR-10", ""}, ((2, 0), (3, 1))),
    # Clean and robust accuracy from the original weights, then from new ones.
    "boosting-tickets": ("7.8", {"natural training", "FGSM", "PGD"}, ((0, 1), (2, 3))),
    # Clean accuracy, then that under PGD, AutoAttack and two more.
    "eed": ("8.2", {"AT dense", "HYDRA", "R-ADMM", "RST", *BENCHMARK}, ((0, 2),)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_figures_of_other_tables_are_their_own(name: str) -> None:
    heading, first, places = OTHERS[name]
    table = cells(heading, first)
    # CIFAR-100 and Tiny-ImageNet follow under the same heads.
    values = [numbers(" ".join(row)) for row in (table[:4] if "" in first else table)]
    expected = [(row[clean], row[robust]) for row in values for clean, robust in places]
    found = [(row["clean_accuracy"], row["robust_accuracy"]) for row in rows(name)]
    assert sorted(found) == sorted(expected)


def test_the_two_single_figures_of_hydra_are_those_of_their_pages() -> None:
    text = document("methods.md")
    (readme,), (bench,) = rows("hydra-readme"), rows("robustbench")
    printed = [str(readme["clean_accuracy"]), str(readme["robust_accuracy"])]
    assert f"clean {printed[0]}, PGD-50 {printed[1]} (README)" in text
    assert f"clean {bench['clean_accuracy']}, AutoAttack **{bench['robust_accuracy']}**" in text


def test_what_two_sources_print_agrees_or_a_note_says_so() -> None:
    """The same network's clean accuracy, or its robust accuracy under one attack and epsilon."""
    found = 0
    for one, other in combinations(every(), 2):
        same = ("method", "dataset", "architecture", "structure", "sparsity")
        if one.method is None or any(getattr(one, k) != getattr(other, k) for k in same):
            continue
        if one.source_id == other.source_id or one.architecture is None:
            continue
        pairs = [(one.clean_accuracy, other.clean_accuracy)]
        if (one.source.attack, one.threat) == (other.source.attack, other.threat):
            pairs.append((one.robust_accuracy, other.robust_accuracy))
        for mine, theirs in pairs:
            if mine is None or theirs is None or mine == theirs:
                continue
            found += 1
            assert other.percent(theirs) in one.note, f"{one.url}: state {other.percent(theirs)}"
            assert one.percent(mine) in other.note, f"{other.url}: state {one.percent(mine)}"
    assert found == 1  # HYDRA's WRN-28-10: the authors and RobustBench differ in the last digit


# --- The whole file -------------------------------------------------------------------------------


def test_counts_by_source_and_data_set() -> None:
    found = Counter((row.source_id, row.dataset) for row in every())
    assert found == {
        ("apbench-2024", "cifar10"): 84,
        ("apbench-2024", "svhn"): 70,
        ("boosting-tickets", "cifar10"): 6,
        ("eed", "cifar10"): 8,
        ("hydra-paper", "cifar10"): 14,
        ("hydra-paper", "svhn"): 14,
        ("hydra-readme", "cifar10"): 1,
        ("robustbench", "cifar10"): 1,
        ("sparsity-wins", "cifar10"): 8,
    }


def test_counts_by_method() -> None:
    found = Counter(row.method for row in every())
    assert found == {
        "dense": 7,
        "hydra": 27,
        "lwm-layerwise": 12,
        "pwoa": 24,
        "radmm": 16,
        None: 120,
    }
    names = {row.method_name for row in every() if row.source_id == "apbench-2024"}
    assert len(names) == 10


def test_names_are_known_or_null() -> None:
    for row in every():
        assert row.method is None or row.method in methods.names()
        assert row.architecture is None or row.architecture in ARCHITECTURES
        assert (row.method == "dense") == (row.sparsity == 0), row


def test_every_address_is_https_and_every_number_within_range() -> None:
    for row in every():
        for url in (row.url, row.source.url, row.source.paper):
            assert re.fullmatch(r"https://[a-z.]+/[\w./?=#&-]+", url), url
        assert 0 <= row.robust_accuracy <= 1
        assert row.clean_accuracy is None or row.robust_accuracy <= row.clean_accuracy <= 1
        assert 0 <= row.sparsity < 1


def test_0031_is_not_8_over_255_and_the_data_say_so() -> None:
    source = read().sources["apbench-2024"]
    assert source.epsilon == "0.031" and "not 8/255" in source.note
    assert Fraction(source.epsilon) < Fraction(8, 255)
    assert {row.threat for row in every() if row.source_id == "apbench-2024"} == {"Linf 0.031"}


def test_percentages_are_printed_as_in_the_source() -> None:
    shown = {
        (row.source_id, row.percent(row.robust_accuracy))
        for row in every()
        if row.method_name == "HARP" or row.source_id == "hydra-paper"
    }
    assert {("apbench-2024", "45.40"), ("hydra-paper", "53.8")} <= shown
    assert every()[0].percent(None) == ""


def test_one_figure_a_line_without_a_field_to_spare() -> None:
    data = json.loads(FILE.read_text())
    head = json.dumps(data["sources"], indent=1, ensure_ascii=False).replace("\n", "\n ")
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in data["figures"])
    assert FILE.read_text() == (
        f'{{\n "schema_version": 1,\n "sources": {head},\n "figures": [\n{lines}\n ]\n}}\n'
    )
    assert not [row for row in data["figures"] if "" in row.values()]
    assert FILE.stat().st_size < 100_000


def test_the_wheel_holds_every_file_that_is_no_python() -> None:
    """A wheel takes modules by itself, and of other files only what is listed."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package, patterns in listed["package-data"].items():
        folder = ROOT / package
        packed = {path for pattern in patterns for path in folder.glob(pattern)}
        there = {path for path in folder.rglob("*") if path.is_file()}
        missing = {path for path in there - packed if path.suffix not in (".py", ".pyc")}
        assert not missing, f"add {sorted(missing)} to package-data in pyproject.toml"
        assert package != "benchmark" or FILE in packed


# --- Beside the boards ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROTOCOLS)
def test_boards_get_the_figures_of_their_data_and_norm(name: str) -> None:
    found = reported(name)
    assert bool(found) == (name in ("cifar10-linf", "svhn-linf"))
    assert {row.dataset for row in found} <= {PROTOCOLS[name].dataset}
    assert {row.source.norm for row in found} <= {PROTOCOLS[name].threat.norm}


def test_every_figure_is_beside_one_board() -> None:
    shown = [row for name in BESIDE for row in reported(name)]
    assert sorted(map(repr, shown)) == sorted(map(repr, every()))
    assert reported("no-such-board") == ()


def test_figures_come_by_sparsity_then_from_the_most_robust_down() -> None:
    order = [(row.sparsity, -row.robust_accuracy) for row in reported("svhn-linf")]
    assert order == sorted(order)
    assert len({sparsity for sparsity, _ in order}) > 1


# --- Damage ---------------------------------------------------------------------------------------


def figure(**said: object) -> Callable[[Data], None]:
    """Returns what changes the first figure."""

    def change(data: Data) -> None:
        data["figures"][0] |= said

    return change


def source(**said: object) -> Callable[[Data], None]:
    """Returns what changes the first source."""

    def change(data: Data) -> None:
        data["sources"]["apbench-2024"] |= said

    return change


def swap(data: Data) -> None:
    data["figures"][:2] = reversed(data["figures"][:2])


DAMAGE: dict[str, tuple[Callable[[Data], object], str]] = {
    "version": (lambda data: data.update(schema_version=2), "schema_version"),
    "unknown field": (figure(rank=1), "figures.0.rank"),
    "a field less": (lambda data: data["figures"][0].pop("sparsity"), "figures.0.sparsity"),
    "accuracy as text": (figure(robust_accuracy="45.40"), "figures.0.robust_accuracy"),
    "accuracy above 100": (figure(clean_accuracy=100.5), "figures.0.clean_accuracy"),
    "accuracy below 0": (figure(robust_accuracy=-1.0), "figures.0.robust_accuracy"),
    "more robust than correct": (figure(clean_accuracy=1.0), "robust accuracy at most 1.0"),
    "more digits than printed": (figure(robust_accuracy=40.123), "2 decimals from apbench-2024"),
    "all removed": (figure(sparsity=1.0), "figures.0.sparsity"),
    "unknown data set": (figure(dataset="mnist"), "figures.0.dataset"),
    "unknown structure": (figure(structure="rows"), "figures.0.structure"),
    "unknown source": (figure(source="elsewhere"), "got elsewhere"),
    "twice": (lambda data: data["figures"].insert(0, data["figures"][0]), "in order and once"),
    "out of order": (swap, "in order and once"),
    "no address": (source(url=""), "sources.apbench-2024.url"),
    "no https": (source(url="http://example.org/x"), "sources.apbench-2024.url"),
    "a script": (source(paper="javascript:alert(1)"), "sources.apbench-2024.paper"),
    "a quote in an address": (source(url='https://example.org/"x'), "sources.apbench-2024.url"),
    "no host": (source(url="https:///x"), "sources.apbench-2024.url"),
    "a password": (source(url="https://a:b@example.org/x"), "sources.apbench-2024.url"),
    "a tag behind an address": (figure(at="<b>"), "figures.0.at"),
    "two lines": (figure(note="one\ntwo"), "figures.0.note"),
    "turned text": (figure(method_name="\u202egp.exe"), "figures.0.method_name"),
    "a long name": (figure(method_name="x" * 61), "figures.0.method_name"),
    "no epsilon": (source(epsilon="about 8"), "sources.apbench-2024.epsilon"),
    "a source without figures": (
        lambda data: data["sources"].update(spare=data["sources"]["eed"]),
        "got spare",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, words = DAMAGE[case]
    data = json.loads(FILE.read_text())
    change(data)
    path = tmp_path / "reported.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError) as refusal:
        read(path)
    message = str(refusal.value)
    assert message.startswith("expected ") and len(message.splitlines()) == 1
    assert words in message and str(path) in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "as JSON"),
        ("[]", "as a JSON object"),
        ('{"schema_version": 1, "schema_version": 1}', "a name twice"),
        (FILE.read_text().replace("76.72", "NaN", 1), "as JSON"),
        (FILE.read_text()[:-9], "as JSON"),
    ],
    ids=["empty", "list", "name twice", "nan", "cut off"],
)
def test_what_is_no_such_json_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "reported.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=words) as refusal:
        read(path)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_missing_and_an_endless_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "reported.json"
    with pytest.raises(RecordError, match="got no such file; install robustprune again"):
        read(path)
    path.write_bytes(b" " * (LARGEST_REPORTED + 1))
    with pytest.raises(ManifestError, match="got more"):
        read(path)


def test_an_unchanged_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "reported.json"
    path.write_text(json.dumps(json.loads(FILE.read_text())))
    assert read(path) == read()


# --- The page -------------------------------------------------------------------------------------


def test_the_page_names_every_source() -> None:
    page = (ROOT / "docs" / "reported.md").read_text()
    table = page.partition("\n## Sources\n")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `([a-z0-9-]+)` \|", table, flags=re.MULTILINE)
    assert documented == list(read().sources)
    for name, entry in read().sources.items():
        count = len(rows(name))
        where = ", ".join(f"<{url}>" for url in dict.fromkeys((entry.paper, entry.url)))
        line = (
            f"| `{name}` | {entry.title} ({entry.year}) | {count} | {entry.attack} "
            f"| {entry.epsilon} | {where} |"
        )
        assert line in table, f"docs/reported.md must say\n{line}"
