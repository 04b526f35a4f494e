"""From records to the ranked frame and the pages."""

import dataclasses
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import methods
from benchmark import handbook, leaderboard, records
from benchmark.attacks import Steps
from benchmark.datasets import DATASETS
from benchmark.errors import ContractError, RecordError
from benchmark.evaluations import AutoAttack, Iterated, Settings, Smoothing, Sparing
from benchmark.forks import map_forked
from benchmark.manifest import Manifest
from benchmark.outcomes import main_pgd
from benchmark.pipeline.compressing import failures_of
from benchmark.pipeline.project import Project
from benchmark.pipeline.strips import strips_of
from benchmark.protocols import FAST, FIVE_ATTACKS, PROTOCOLS, Protocol
from benchmark.pruning import STRUCTURES, as_sparsity
from benchmark.report import AttackColumn, MethodPage, ProtocolPage, flag_words, render
from benchmark.reported import reported

# What each evaluation does, in the words of the pages.
_WORDS = {
    "clean": "Clean: predictions on unmodified inputs",
    "bounds": "Bounds: proven lower bounds of the margin, the best of",
    "fgsm": "FGSM (Goodfellow et al. 2015): one step of full epsilon",
    "pgd": "PGD on cross-entropy",
    "cw": "CW: PGD on the margin of Carlini & Wagner (2017), kappa 0",
    "autoattack": "AutoAttack, version standard",
    "sanity": "Sanity checks: noise, a single step, the whole box, a planted input",
    "transfer": "Transfer from the dense parent: PGD against it",
    "smoothing": "Randomized smoothing (Cohen et al. 2019)",
}

# Why settings are what they are, by the name of the setting.
_REASONS = {
    "threat model": "Epsilon is an exact fraction: 0.031 and 8/255 would be two boards.",
    "tiers": "One fixed, class-balanced order of the test split; each tier is a prefix of the "
    "next, so that a quick look is a part of the full evaluation and nobody chooses examples.",
    "clean": "The unmodified accuracy, and whether the loss has a gradient at each input: without "
    "one, attacks that follow it see nothing.",
    "bounds": "What is proven needs no attack and can never be refuted. Cheap methods come first, "
    "dear ones only where the cheap ones fail; the margin leaves room for rounding.",
    "pgd": "The empirical robust accuracy of the papers. Restarts and many steps, because one run "
    "of few steps overstates robustness.",
    "curve": "A network that is not fooled at larger epsilons either hides its gradients; accuracy "
    "has to fall to nothing as the ball grows.",
    "autoattack": "The field's standard since Croce & Hein 2020: three gradient attacks without "
    "settings to tune, and one without gradients that uncovers masked ones.",
    "fgsm": "The weakest of PwoA's five attacks; a network that loses to it has nothing to hide.",
    "cw": "A margin loss does not saturate where cross-entropy does.",
    "sanity": "Noise, one step, a huge ball and planted inputs: attacks that are beaten by them "
    "were misled, and the row says so.",
    "transfer": "Inputs of the dense parent that fool the pruned network better than its own "
    "gradients do are a sign of masked gradients.",
    "smoothing": "Certifies another network, the smoothed one, under L2; it stands apart from "
    "the interval.",
    "shard": "Work is cut into shards so that a run can be killed and resumed; draws are keyed by "
    "a shard's first example, AutoAttack's by each example.",
    "seed": "Fixed, so that anyone gets the same outcomes from the same weights.",
    "certify first": "A proven example cannot be broken at that epsilon, so attacking it would "
    "only cost time.",
    "digest": "Of all settings together: a record under another digest is another protocol's.",
}


# What the accuracy under an attacking evaluation counts, by kind.
_MEANINGS = {
    "fgsm": "correct under one step of full epsilon along the gradient",
    "pgd": "correct under projected gradient descent",
    "cw": "correct under projected gradient descent on the margin",
    "autoattack": "correct under AutoAttack",
}

# What sets the boards with PwoA's attacks apart.
_FAST = (
    " AutoAttack looks at the network in bfloat16; what it finds counts only as confirmed in "
    "float32, and what is not confirmed is attacked again there. It may leave standing what the "
    "main protocol breaks, and never ranks with it."
)
_FIVE = (
    "\n\nThe attacks are the five of PwoA (Jian et al. 2022): FGSM, PGD-10, PGD-20, CW and "
    "AutoAttack. The main board of these data asks more: it measures a whole curve over epsilon, "
    "and checks whether the attacks can be trusted."
)


# Protocol and checkpoint of a record.
_Key = tuple[str, str]

# Records for which other processes are worth their start.
_MANY = 200

# Records that one process reads at a time.
_CHUNK = 50

# Columns that only a checkpoint's own page shows. Thousands of rows leave them packed until then.
_DETAILS = (*("attacks", "authors", "cost", "environment", "evidence", "layers"),)


def results(project: Project, protocols: Collection[str] = ()) -> pd.DataFrame:
    """Returns the ranked frame of all records; `docs/records.md` lists its columns.

    Args:
        project: whose records.
        protocols: ids of those whose records count; all without any.
    """
    files = records.paths(project.results)
    files = [path for path in files if not protocols or path.parent.name in protocols]
    table = records.frame(_rows(project, files, project.manifest()))
    return leaderboard.rank(table, _processes(project, files)) if len(table) else table


def report(project: Project) -> list[Path]:
    """Renders the site from records alone and returns the files written.

    Raises:
        RecordError: there is no record at all, or one that is damaged or stale.
    """
    files = records.paths(project.results)
    if not files:
        raise RecordError(
            f"expected records under {project.results}, found none; make checkpoints with "
            "`robustprune compress` if there are none, then evaluate them with `robustprune run`"
        )
    manifest, processes = project.manifest(), _processes(project, files)
    table, packed = _gathered(project, files, manifest, processes)
    failed = failures_of(project)
    pages = {
        name: dataclasses.replace(
            page(protocol),
            failures=tuple(one for one in failed if one.network.dataset == protocol.dataset),
        )
        for name, protocol in PROTOCOLS.items()
    }
    rest = partial(_rest, project, manifest, packed)
    own = method_pages()
    every = [*own, *foreign_pages(manifest, {page.name for page in own})]
    return render(table, project.site, pages, rest, processes, every, refusals())


def refusals() -> Callable[[str, float, str, str], str]:
    """Returns a function that says why a method of this project cannot do something.

    It takes the method's name, a sparsity, a structure and an objective, and returns an empty text
    for what works, and for methods that are unknown or do not load.
    """
    # Looked up once: every look-up asks what packages are installed.
    kinds = dict(_loaded())

    def refusal(name: str, sparsity: float, structure: str, objective: str) -> str:
        kind, unit = kinds.get(name), next((one for one in STRUCTURES if one == structure), None)
        if kind is None:
            return ""
        if unit is None:
            return f"{name} prunes {', '.join(kind.structures)}, not {structure}"
        return methods.supports(kind, name, as_sparsity(sparsity), unit, objective)

    return refusal


def _loaded() -> Iterator[tuple[str, type[methods.Method]]]:
    """Yields the methods of this project by name, without those that do not load."""
    for name in handbook.listed():
        try:
            yield name, methods.method(name)
        except ContractError:
            # A board is made of records: a method that does not load costs its own words alone.
            continue


def method_pages() -> list[MethodPage]:
    """Returns what the site says of each method of this project, from the method's own file."""
    found = []
    for name, kind in _loaded():
        info = kind.info
        # The pages of the site lead on by themselves.
        whole = handbook.page(name)
        document = whole[whole.index("| | |") :].rpartition("[All methods]")[0]
        found.append(
            MethodPage(
                name=name,
                title=info.title,
                summary=info.summary,
                authors=", ".join(info.authors),
                paper=info.paper,
                code=info.code,
                document=document,
            )
        )
    return found


def foreign_pages(manifest: Manifest, known: Collection[str]) -> list[MethodPage]:
    """Returns what the site says of methods whose files are not here, from the manifest alone.

    Args:
        manifest: with checkpoints that others made and handed in.
        known: names of the methods that have a page.
    """
    found: dict[str, MethodPage] = {}
    for entry in manifest.checkpoints:
        name, _, settings = entry.method.partition(":")
        title = entry.display_name
        if settings:
            title = title.removesuffix(f" ({settings.replace(':', ', ')})")
        if name not in known:
            page = MethodPage(
                name=name,
                title=title,
                summary="",
                authors=", ".join(entry.authors),
                paper=entry.paper,
                code=entry.code,
            )
            found.setdefault(name, page)
    return [found[name] for name in sorted(found)]


def _processes(project: Project, files: Sequence[Path]) -> int:
    """Returns how many processes read and render so many records."""
    return project.workers.count if len(files) >= _MANY else 1


def _rows(project: Project, files: Iterable[Path], manifest: Manifest) -> Iterator[records.Row]:
    return records.load(files, project.results, manifest, project.challenges)


def _gathered(
    project: Project, files: Sequence[Path], manifest: Manifest, processes: int
) -> tuple[pd.DataFrame, dict[_Key, bytes]]:
    """Returns the frame of all records without what is packed, and that, by record."""
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    columns: dict[str, list[Any]] = {}
    packed, known = {}, dict[Any, Any]()
    for found in map_forked(partial(_read, project, manifest), chunks, processes):
        for lines, details in found:
            packed[_key(lines[0])] = details
            _share_examples(lines, known)
            for line in lines:
                for name, value in line.items():
                    # Words that stand in thousands of rows are kept once.
                    kept = known.setdefault(value, value) if isinstance(value, str) else value
                    columns.setdefault(name, []).append(kept)
    return pd.DataFrame(columns), packed


def _share_examples(lines: Sequence[dict[str, Any]], known: dict[Any, Any]) -> None:
    """Makes the outcomes of a record's smaller tiers parts of those of its largest.

    Rows of a board are over the same examples, so their numbers are kept once.
    """
    whole = lines[-1]["outcomes"]
    for line in lines:
        index = whole["index"][: line["examples"]]
        parts = {name: values[: line["examples"]] for name, values in whole.items()}
        line["outcomes"] = parts | {"index": known.setdefault(index.tobytes(), index)}


def _key(line: Mapping[Any, Any]) -> _Key:
    return str(line["protocol"]), str(line["checkpoint_id"])


def _read(
    project: Project, manifest: Manifest, files: Sequence[Path]
) -> list[tuple[list[dict[str, Any]], bytes]]:
    """Returns the lines of each record, and packed what only its own page shows, by tier."""
    found = []
    rows = list(_rows(project, files, manifest))
    for row, lines in zip(rows, records.lines(rows), strict=True):
        details = {line["tier"]: {name: line.pop(name) for name in _DETAILS} for line in lines}
        folder = records.evidence_folder(project.evidence, row.protocol.id, row.checkpoint.id)
        there = folder.is_dir()
        for line in lines:
            # An attack makes a strip at most.
            line["strips_at_most"] = len(details[line["tier"]]["attacks"]) if there else 0
        for line in lines[:-1]:
            line["outcomes"] = {}  # they are the first of the largest tier's
        found.append((lines, _packed(details)))
    return found


def _packed(details: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Returns details by tier, with what all tiers share only once."""
    first, *others = details.values()
    shared = {n: v for n, v in first.items() if all(v is other[n] for other in others)}
    own = {t: {n: v for n, v in d.items() if n not in shared} for t, d in details.items()}
    return zlib.compress(json.dumps([shared, own]).encode(), 1)


def _unpacked(packed: bytes) -> dict[str, dict[str, Any]]:
    """Returns the details in `_packed`, by tier."""
    shared, own = json.loads(zlib.decompress(packed))
    return {tier: {**shared, **details, "strips": []} for tier, details in own.items()}


def _rest(
    project: Project, manifest: Manifest, packed: Mapping[_Key, bytes], line: Mapping[Any, Any]
) -> dict[str, Any]:
    """Returns what only the page of a checkpoint shows, images of its evidence included."""
    protocol, checkpoint = _key(line)
    details = _unpacked(packed[protocol, checkpoint])[line["tier"]]
    if line["strips_at_most"]:
        file = records.record_path(project.results, protocol, checkpoint)
        details["strips"] = [
            s for row in _rows(project, [file], manifest) for s in strips_of(project, row)
        ]
    return details


def page(protocol: Protocol) -> ProtocolPage:
    """Returns what the pages say about a protocol."""
    data, five, fast = DATASETS[protocol.dataset], protocol.id in FIVE_ATTACKS, protocol.id in FAST
    kind = ", five attacks" if five else ", fast" if fast else ""
    settings = [(name, _in_words(s)) for name, s in protocol.evaluations]
    if any(isinstance(s, Smoothing) for _, s in protocol.evaluations):
        settings.append(("smoothed radius", f"L2 {float(protocol.smoothed_radius):g}"))
    settings += [
        ("shard", f"{protocol.shard_size} examples"),
        ("seed", str(protocol.seed)),
        ("certify first", _certify_first(protocol)),
        *((f"no rank: {limit}", names) for limit, names in _unranking(protocol)),
    ]
    return ProtocolPage(
        id=protocol.id,
        title=f"{data.title}, {protocol.threat}{kind}",
        threat=str(protocol.threat),
        version=protocol.version,
        digest=protocol.digest,
        description=(
            f"{data.title} ({'×'.join(map(str, data.shape))}, {data.classes} classes). "
            f"An adversary may change each input within {protocol.threat}, inside the box [0, 1]. "
            "Examples come from one fixed, class-balanced list of the test split; smaller tiers "
            "are its prefixes."
            f"{_FIVE if five else _FAST if fast else ''}"
        ),
        settings=settings,
        tiers=dict(protocol.tiers),
        attacks=attack_columns(protocol),
        reported=reported(protocol.id),
        reasons=_REASONS,
        grid=_grid(protocol),
    )


def _grid(protocol: Protocol) -> dict[str, tuple[float, ...]]:
    """Returns the sparsities of a protocol, by structure."""
    plain, whole = protocol.unstructured, protocol.structured
    levels = {one: plain if one == "unstructured" else whole for one in STRUCTURES}
    return {one: tuple(float(level) for level in each) for one, each in levels.items()}


def attack_columns(protocol: Protocol) -> tuple[AttackColumn, ...]:
    """Returns the evaluations that search for adversarial inputs at the protocol's epsilon."""
    main, found = main_pgd(protocol), []
    for name, settings in protocol.evaluations:
        elsewhere = isinstance(settings, Iterated) and settings.epsilons
        if isinstance(settings, Sparing) and not elsewhere:
            label = "AutoAttack" if isinstance(settings, AutoAttack) else name.upper()
            era = main is not None and name == main[0]
            meaning = _MEANINGS[settings.kind]
            if isinstance(settings, Iterated):
                meaning = f"{meaning}, {settings.steps.count} steps"
            found.append(AttackColumn(name, label, meaning, era))
    return tuple(found)


def _certify_first(protocol: Protocol) -> str:
    if protocol.certify_first:
        return "examples proven robust at an attack's epsilon are not attacked there"
    return "no: proven examples are attacked, too"


def _unranking(protocol: Protocol) -> list[tuple[str, str]]:
    """Returns the flags that keep a row off the ranking, in words, by the limit they have."""
    limits: dict[Fraction, list[str]] = {}
    for name, tolerated in protocol.unrankable:
        limits.setdefault(tolerated, []).append(flag_words(name).words)
    return [
        (f"above {float(100 * tolerated):g} % of examples" if tolerated else "at any rate", text)
        for tolerated, text in ((t, ", ".join(sorted(w))) for t, w in sorted(limits.items()))
    ]


def _in_words(settings: Settings) -> str:
    """Returns an evaluation with every setting, in words."""
    parts = [_WORDS[settings.kind]]
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if value != ():
            parts.append(f"{field.name.replace('_', ' ')} {_value(value)}")
    return ", ".join(parts)


def _value(value: object) -> str:
    if isinstance(value, Steps):
        return f"{value.count} of size {value.size} epsilon"
    if isinstance(value, tuple):
        return " ".join(_value(item) for item in value)
    return str(value) if isinstance(value, Fraction | str) else f"{value:,}"
