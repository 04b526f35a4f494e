"""The handbook of methods: a page from each method's file, and what works, found by running it."""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch

import methods
from benchmark.architectures import Classifier, initialise
from benchmark.attacks import Steps
from benchmark.datasets import TensorSplit, load
from benchmark.digests import seed_from
from benchmark.distributed import steady
from benchmark.errors import BenchmarkError
from benchmark.files import write_atomically
from benchmark.manifest import empty_network
from benchmark.objectives import OBJECTIVES
from benchmark.protocols import PROTOCOLS
from benchmark.pruning import STRUCTURES, Structure
from benchmark.recipes import RECIPES, Recipe, objective_of
from benchmark.schemas import descriptions
from benchmark.training import Run, Stage

# A dry run: enough batches that everything a method does happens at least once.
EXAMPLES = 96
STAGE = Stage(epochs=2, learning_rate=0.01, batch_size=24)
SPARSITY = Fraction(1, 2)

_STARTS = {
    methods.PARENT: "the dense parent, trained under the cell's objective",
    methods.UNTRAINED: "an untrained network, with the epochs of pretraining to spend",
}


# --- pages ----------------------------------------------------------------------------------------


def page(name: str) -> str:
    """Returns the page of a method, in Markdown, from its file's docstring and its class.

    Args:
        name: of a method of this project.

    Raises:
        UnknownName: no such method.
    """
    kind = methods.method(name)
    said = inspect.getdoc(inspect.getmodule(kind)) or ""
    title, _, body = said.partition("\n")
    chosen = methods.configured(name)
    facts = {
        "authors": ", ".join(kind.info.authors),
        "paper": kind.info.paper,
        "code": f"<{kind.info.code}>" if kind.info.code else "",
        "removes": ", ".join(_PLURALS[structure] for structure in kind.structures),
        "sparsity": _SCOPES[kind.scope],
        "starts from": _STARTS.get(methods.start_of(chosen), methods.start_of(chosen)),
        "objectives": _objectives(kind),
    }
    return "\n".join(
        [
            f"# {_escape(kind.info.title)}",
            "",
            f"`{name}` — {_escape(kind.info.summary)}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {fact} | {_cell(text)} |" for fact, text in facts.items() if text),
            "",
            "## What it is",
            "",
            _escape(title),
            "",
            _escape(body.strip()),
            "",
            "## Settings",
            "",
            *_settings(name, kind),
            "",
            "## How to run it",
            "",
            "```",
            *_commands(name, kind),
            "```",
            "",
            f"[All methods](README.md). Made by `robustprune handbook` from `{_source(kind)}`.",
            "",
        ]
    )


_PLURALS: dict[Structure, str] = {
    "unstructured": "single weights",
    "filter": "filters",
    "channel": "channels",
}
_SCOPES = {
    "layerwise": "met exactly in each layer",
    "global": "met exactly over the whole network",
}


def _objectives(kind: type[methods.Method]) -> str:
    return ", ".join(getattr(kind, "objectives", ())) or "all"


def _escape(text: str) -> str:
    """Returns text whose formulas Markdown leaves alone, outside of `code` and addresses."""
    parts = re.split(r"(`[^`\n]*`|https?://\S+)", text)
    kept = [
        part if number % 2 else re.sub(r"([*_<>\[\]])", r"\\\1", part)
        for number, part in enumerate(parts)
    ]
    return "".join(kept)


def _cell(text: str) -> str:
    """Returns text for one cell of a table."""
    shown = text if text.startswith("<https://") else _escape(text)
    return " ".join(shown.replace("|", "\\|").split())


def _source(kind: type[methods.Method]) -> str:
    return kind.__module__.replace(".", "/") + ".py"


def _settings(name: str, kind: type[methods.Method]) -> list[str]:
    """Returns the lines of the table of hyper-parameters: spelling, default, meaning."""
    said = descriptions(kind)
    fields: tuple[Any, ...] = dataclasses.fields(kind)  # type: ignore[arg-type]
    if not fields:
        return ["None."]
    default = methods.configured(name)
    hints = get_type_hints(kind)
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for field in fields:
        value = methods.spelled(getattr(default, field.name))
        choices = ", ".join(str(choice) for choice in get_args(hints[field.name]))
        meaning = said[field.name] + (f" One of: {choices}." if choices else "")
        lines.append(
            f"| `{field.name.replace('_', '-')}` | {f'`{value}`' if value else 'empty'} "
            f"| {_cell(meaning)} |"
        )
    return lines


def _commands(name: str, kind: type[methods.Method]) -> list[str]:
    objective = getattr(kind, "objectives", ("adversarial",))[0]
    chosen = f" --objective {objective}" if objective != "adversarial" else ""
    level = "0.5,0.9,0.99" if kind.largest_sparsity else "0"
    lines = [f"robustprune compress {name} --recipe digits{chosen} --sparsity {level}"]
    for structure in kind.structures[1:]:
        lines.append(
            f"robustprune compress {name} --recipe digits{chosen} --structure {structure} "
            "--sparsity 0.5"
        )
    return [*lines, "robustprune run --protocol digits-linf"]


# --- what works -----------------------------------------------------------------------------------


def dry_run(name: str, objective: str, structure: Structure) -> str:
    """Compresses a tiny network on a few images of digits, and finetunes it.

    Args:
        name: method.
        objective: of all stages.
        structure: what it is asked to remove, at a sparsity of one half.

    Returns:
        Why that does not work; empty if it does.
    """
    kind = methods.method(name)
    level = min(SPARSITY, kind.largest_sparsity)
    if reason := methods.supports(kind, name, level, structure, objective):
        return reason
    task = _task(objective, structure, level)
    model = _network()
    try:
        pruned = methods.compress(name, methods.configured(name), model, task)
        if not pruned.finetuned:
            task.finetune.fit(pruned.model, mask=pruned.mask)
    except BenchmarkError as error:
        return str(error)
    return ""


def _network() -> Classifier:
    """Returns an untrained network."""
    model = empty_network("cnn-tiny", "digits")
    initialise(model, torch.Generator().manual_seed(seed_from("handbook")))
    return model


def _task(objective: str, structure: Structure, sparsity: Fraction) -> methods.Task:
    return methods.Task(
        sparsity=sparsity,
        structure=structure,
        generator=torch.Generator().manual_seed(seed_from("handbook", "draws")),
        prune=_training(objective, "prune"),
        finetune=_training(objective, "finetune"),
    )


def _training(objective: str, stage: str) -> methods.Training:
    split = load("digits", "train", None)
    some = torch.arange(EXAMPLES)
    recipe: Recipe = dataclasses.replace(RECIPES["digits"], steps=Steps(2, Fraction(1, 2)))
    threat = PROTOCOLS["digits-linf"].threat
    return methods.Training(
        split=TensorSplit(split.pixels(some), split.labels[:EXAMPLES], split.scale),
        objective=objective_of(objective, threat, recipe, stage),
        stage=STAGE,
        run=Run(torch.device("cpu"), seed=seed_from("handbook", stage)),
    )


def listed() -> list[str]:
    """Returns the methods of this project that have a page: its files, without controls."""
    # Without loading any: a package whose method does not load must not end a report.
    return methods.own_names()


def works(name: str) -> dict[str, str]:
    """Returns what a method can remove under each objective, such as `weights, filters`.

    Each combination is run; one that a method declares and that fails nevertheless says so.
    """
    failures = {cell: dry_run(name, *cell) for cell in declared(methods.method(name))}
    return in_words(methods.method(name), failures)


Cell = tuple[str, Structure]


def declared(kind: type[methods.Method]) -> list[Cell]:
    """Returns the objectives and structures that a method claims to work with."""
    pairs = product(OBJECTIVES, STRUCTURES)
    return [(o, s) for o, s in pairs if not methods.supports(kind, "", Fraction(0), s, o)]


def in_words(kind: type[methods.Method], failures: Mapping[Cell, str]) -> dict[str, str]:
    """Returns a row of the table: in words, what works under each objective.

    Args:
        kind: the method.
        failures: why a declared combination fails; empty where it works.
    """
    cells: dict[str, list[str]] = {objective: [] for objective in OBJECTIVES}
    for (objective, structure), failed in failures.items():
        word = _WORDS[structure] if kind.largest_sparsity else "nothing"
        cells[objective].append(f"{word} FAIL: {failed}" if failed else word)
    return {objective: ", ".join(dict.fromkeys(words)) for objective, words in cells.items()}


_WORDS: dict[Structure, str] = {
    "unstructured": "weights",
    "filter": "filters",
    "channel": "channels",
}


def overview(cells: dict[str, dict[str, str]]) -> str:
    """Returns the page that lists all methods and what works.

    Args:
        cells: `works` of each method, by name.
    """
    head = ["method", "what it is", *OBJECTIVES]
    lines = [
        "# Methods",
        "",
        "A page a method, made from its file, and what each can remove under each objective. Every",
        "combination was run, on a tiny network and a few images: pruned to one half, checked by",
        "the registry as every result is, and finetuned. A dash is one that a method does not",
        "offer; its page says why.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    lines += [row(name, methods.method(name).info.summary, cells[name]) for name in cells]
    lines += [
        "",
        "Each but `dense` also comes with two sanity controls, `shuffled-<method>` and",
        "`reinitialised-<method>`: see [statistics](../statistics.md).",
        "",
        "Settings are part of a method's spelling, of its checkpoints' ids and of its name on the",
        "board: `robustprune compress hydra:start=benign:finetune=no`.",
        "",
        "Made by `robustprune handbook`.",
        "",
    ]
    return "\n".join(lines)


def row(name: str, summary: str, cells: Mapping[str, str]) -> str:
    """Returns a method's line of the table."""
    shown = [f"[`{name}`]({name}.md)", _cell(summary), *(cells[o] or "–" for o in OBJECTIVES)]
    return f"| {' | '.join(shown)} |"


def with_row(overview_page: str, name: str, line: str) -> str:
    """Returns the page that lists all methods with one line replaced, or put in its place."""
    before: list[str] = []
    after: list[str] = []
    for text in overview_page.splitlines():
        found = re.match(r"\| \[`([a-z0-9-]+)`\]", text)
        if found and found[1] == name:
            continue
        (after if after or (found and found[1] > name) else before).append(text)
    if not after:  # it is the last one
        last = max(number for number, text in enumerate(before) if text.startswith("|"))
        before, after = before[: last + 1], before[last + 1 :]
    return "\n".join([*before, line, *after, ""])


def write_one(folder: Path, name: str, text: str, line: str) -> list[Path]:
    """Writes a method's page, and its line of the overview; returns the files that changed.

    Args:
        folder: of the pages; the overview is there already.
        name: the method.
        text: its page.
        line: its line.

    Raises:
        StorageError: the disk refuses.
    """
    overview_page = folder / "README.md"
    pages = {folder / f"{name}.md": text}
    if overview_page.is_file():
        pages[overview_page] = with_row(overview_page.read_text(), name, line)
    changed = [p for p, page in pages.items() if not p.is_file() or p.read_text() != page]
    for path in changed:
        write_atomically(path, pages[path].encode())
    return changed


def write(folder: Path) -> list[Path]:
    """Writes a page a method and the overview, running every combination; returns their paths.

    Raises:
        StorageError: the disk refuses.
    """
    names = listed()
    pages = {folder / f"{name}.md": page(name) for name in names}
    with steady():
        pages[folder / "README.md"] = overview({name: works(name) for name in names})
    for path, text in pages.items():
        write_atomically(path, text.encode())
    return list(pages)
