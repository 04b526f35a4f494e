"""From one checkpoint's ranked rows to its page: small frozen values, every number in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from benchmark.findings.judging import NOT_STATED
from benchmark.leaderboard import has_result
from benchmark.report.curves import SecurityCurve, security_curve
from benchmark.report.evidence import Evidence, address, evidence
from benchmark.report.methods import base_of, method_path
from benchmark.report.papers import triple_in_words
from benchmark.report.remarks import notes, rank_range, seeds_in_words
from benchmark.report.shares import (
    Row,
    Share,
    attack_share,
    attacked_curve,
    counted,
    exact,
    gain,
    interval,
    own_epsilon,
    same_epsilon,
    share,
)
from benchmark.report.speed import Speed, speed
from benchmark.report.views import (
    BoardRow,
    Fact,
    ProtocolPage,
    board_row,
    checkpoint_path,
    display_name,
)
from benchmark.report.wording import (
    MISSING,
    count,
    duration,
    entries,
    items,
    link,
    mapping,
    number,
    percent,
    scaled,
    text,
)


@dataclass(frozen=True)
class Accuracy:
    """An accuracy with both intervals: `share` brings Wilson's, `exact` is Clopper-Pearson's.

    `paper` is what papers call it; empty where they have no name of their own.
    """

    label: str
    paper: str
    share: Share
    exact: str
    meaning: str


@dataclass(frozen=True)
class Layer:
    """A layer's sparsity."""

    name: str
    shape: str
    zeros: str
    total: str
    multiply_adds: str
    sparsity: Share


@dataclass(frozen=True)
class Attack:
    """How many examples an attack was tried on and how many of them it broke."""

    name: str
    evaluation: str
    epsilon: str
    attempted: str
    broken: str
    share: Share


@dataclass(frozen=True)
class EpsilonRow:
    """Accuracies at one epsilon; `methods` says which bound proved how many examples."""

    epsilon: str
    protocol: bool
    robust: Share
    certified: Share
    methods: str


@dataclass(frozen=True)
class CostRow:
    """What an evaluation cost; `proven` examples it left out, where its record counts them."""

    evaluation: str
    seconds: str
    forwards: str
    backwards: str
    attacked: str
    proven: str
    saved: str


@dataclass(frozen=True)
class Tables:
    """The tables of a checkpoint's page; each is empty where the record has nothing for it."""

    attacks: tuple[Attack, ...]
    epsilons: tuple[EpsilonRow, ...]
    layers: tuple[Layer, ...]
    costs: tuple[CostRow, ...]


@dataclass(frozen=True)
class Facts:
    """The lists of names and values of a checkpoint's page."""

    summary: tuple[Fact, ...]
    standing: tuple[Fact, ...]
    smoothed: tuple[Fact, ...]
    sparsity: tuple[Fact, ...]
    budget: tuple[Fact, ...]
    environment: tuple[Fact, ...]
    provenance: tuple[Fact, ...]


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint under a protocol: its fullest tier in detail, its other tiers in a line each.

    Attributes:
        name: as displayed.
        path: of its page under the site.
        tier: the one in detail; `tiers` holds (name, examples, row) of all.
        status: `done`, `skipped` or `failed`, the latter two with a reason.
        seconds: what the whole evaluation took.
        line: its row on the board.
        robust: accuracy under every attack.
        accuracies: all of them with their intervals.
        evidence: what stands behind the result, if there is one.
        notes: what else must be said about the row.
        speed: how small and fast the compact network is, where known.
        curve: accuracies against epsilon, where known.
        method_path: page of its method.
        duel: where it meets others, empty without a result.
        python: how to load and evaluate it in Python; `shell` does so on the command line.
    """

    name: str
    path: str
    tier: str
    status: str
    reason: str
    examples: str
    threat: str
    seconds: str
    line: BoardRow
    tiers: tuple[tuple[str, str, BoardRow], ...]
    robust: Share
    accuracies: tuple[Accuracy, ...]
    evidence: Evidence | None
    notes: tuple[str, ...]
    facts: Facts
    tables: Tables
    speed: Speed | None
    curve: SecurityCurve | None
    method_path: str
    duel: str
    python: str
    shell: str


def checkpoint(page: ProtocolPage, rows: Sequence[Row]) -> CheckpointView:
    """Returns the view of one checkpoint.

    Args:
        page: the protocol.
        rows: the checkpoint's ranked rows under it, one a tier.
    """
    ordered = sorted(rows, key=_fullest)
    row = ordered[0]
    return CheckpointView(
        name=display_name(row),
        path=checkpoint_path(row),
        tier=text(row["tier"]),
        status=text(row["status"]),
        reason=text(row.get("reason"), 400),
        examples=count(row.get("examples")),
        threat=text(row.get("threat")) or page.threat,
        seconds=duration(row.get("seconds")),
        line=board_row(row, page),
        tiers=tuple(
            (text(r["tier"]), count(r.get("examples")), board_row(r, page)) for r in ordered
        ),
        robust=share(row, "robust_accuracy"),
        accuracies=_accuracies(page, row),
        evidence=evidence(row),
        notes=notes(row, page.digest),
        facts=_facts(row),
        tables=Tables(_attacks(row), _epsilons(row), _layers(row), _costs(row)),
        speed=speed(row),
        curve=security_curve(row),
        method_path=method_path(base_of(row)),
        duel=_duel(page, row),
        python=_python(row),
        shell=_shell(row),
    )


def _duel(page: ProtocolPage, row: Row) -> str:
    if not has_result(row):
        return ""
    return f"{page.folder}/compare.html#{urlencode({'first': text(row['checkpoint_id'], 300)})}"


def leading(rows: Sequence[Row]) -> Row:
    """Returns the row that a checkpoint's page shows in detail: its fullest tier with a result."""
    return min(rows, key=_fullest)


def _fullest(row: Row) -> tuple[bool, float, str]:
    return not has_result(row), -_examples(row), str(row["tier"])


def _facts(row: Row) -> Facts:
    environment = sorted(mapping(row.get("environment")).items())
    return Facts(
        summary=_summary(row),
        standing=_standing(row),
        smoothed=_smoothed(row),
        sparsity=_sparsity(row),
        budget=_budget(row),
        environment=tuple(Fact(text(name, 40), text(value, 120)) for name, value in environment),
        provenance=_provenance(row),
    )


def _examples(row: Row) -> float:
    examples = number(row.get("examples"))
    return examples if math.isfinite(examples) else 0.0


def _summary(row: Row) -> tuple[Fact, ...]:
    facts = (
        Fact("method", text(row["method"], 60)),
        Fact("objective", text(row["objective"], 60)),
        Fact("architecture", text(row["architecture"], 60)),
        Fact("structure", text(row["structure"], 60)),
        Fact("sparsity", f"{percent(number(row.get('measured_sparsity')))} %"),
        Fact("data set", text(row["dataset"], 60)),
        Fact("seed", text(row.get("seed"), 20)),
    )
    return tuple(fact for fact in facts if fact.value)


def _accuracies(page: ProtocolPage, row: Row) -> tuple[Accuracy, ...]:
    """Returns every accuracy of the network, best known accuracy where a challenge lowered it."""
    named = [("clean", "", share(row, "clean_accuracy"), "correct on unmodified inputs")]
    named += [
        (
            attack.label,
            "ERA" if attack.era else "",
            attack_share(row, attack.evaluation),
            attack.meaning,
        )
        for attack in page.attacks
    ]
    meaning = "correct under every attack of the protocol"
    named.append(("robust", "", share(row, "robust_accuracy"), meaning))
    ends = interval(row)
    if ends.lowered:
        meaning = f"{meaning} and every verified challenge"
        named.append(("best known", "", ends.attacked, meaning))
    meaning = "correct and proven at the protocol's epsilon"
    named.append(("certified", "VRA by bounds", ends.certified, meaning))
    return tuple(
        Accuracy(label, paper, value, exact(value.value, _examples(row)), meaning)
        for label, paper, value, meaning in named
    )


def _standing(row: Row) -> tuple[Fact, ...]:
    """Returns how the row stands among others: rank interval, gain over a control, seeds."""
    span, lead = rank_range(row), gain(row)
    facts = (
        Fact("95 % rank interval", span, note="paired bootstrap over examples"),
        Fact(
            "gain over the magnitude control",
            f"{lead.printed} points" if lead.known else "",
            note=f"over {lead.over}" if lead.over else "",
        ),
        Fact("training seeds", seeds_in_words(row)),
        Fact("accuracy, efficiency, robustness (AER)", triple_in_words(row)),
    )
    return tuple(fact for fact in facts if fact.value)


def _smoothed(row: Row) -> tuple[Fact, ...]:
    accuracy = number(row.get("smoothed_accuracy"))
    if not math.isfinite(accuracy):
        return ()
    examples = number(row.get("smoothed_examples"))
    counted_share, ends = counted(accuracy, examples), exact(accuracy, examples)
    note = f"95 % interval {counted_share.interval} % (Wilson), {ends} % (exact)" if ends else ""
    return (
        Fact(
            "certified accuracy of the smoothed classifier (VRA by smoothing)",
            f"{counted_share.printed} %",
            note=note,
        ),
        Fact("L2 radius", _plain(row.get("smoothed_radius"))),
        Fact("sigma", _plain(row.get("smoothed_sigma"))),
        Fact("examples", count(row.get("smoothed_examples"))),
    )


def _plain(value: object) -> str:
    amount = number(value)
    return f"{amount:.4g}" if math.isfinite(amount) else text(value, 120) or MISSING


def _attacks(row: Row) -> tuple[Attack, ...]:
    """Returns the attacks at the protocol's own epsilon, then those at others."""
    found = tuple(
        Attack(
            name=text(attack.get("name"), 40),
            evaluation=text(attack.get("evaluation"), 40),
            epsilon=text(attack.get("epsilon"), 20) or own_epsilon(row),
            attempted=count(attack.get("attempted")),
            broken=count(attack.get("broken")),
            share=Share(
                number(attack.get("broken")) / _examples(row) if _examples(row) else math.nan,
                reason="no examples",
            ),
        )
        for attack in entries(row.get("attacks"))
    )
    own = own_epsilon(row)
    return tuple(sorted(found, key=lambda attack: not same_epsilon(attack.epsilon, own)))


def _epsilons(row: Row) -> tuple[EpsilonRow, ...]:
    """Returns the union of the epsilons above 0 attacked and certified, ascending."""
    robust = {number(entry.get("value")): entry for entry in attacked_curve(row)}
    certified = {number(entry.get("value")): entry for entry in entries(row.get("certified_curve"))}
    own = own_epsilon(row)
    found = []
    for value in sorted(value for value in {*robust, *certified} if value > 0):
        attacked, proven = robust.get(value, {}), certified.get(value, {})
        printed = text((attacked or proven).get("epsilon"), 20)
        methods = mapping(proven.get("methods"))
        found.append(
            EpsilonRow(
                epsilon=printed,
                protocol=same_epsilon(printed, own),
                robust=_at(attacked, "robust_accuracy", row, "not attacked at this epsilon"),
                certified=_at(proven, "certified_accuracy", row, "no bounds at this epsilon"),
                methods=", ".join(f"{text(m, 20)} {count(n)}" for m, n in sorted(methods.items())),
            )
        )
    return tuple(found)


def _at(entry: Mapping[str, Any], column: str, row: Row, reason: str) -> Share:
    value = number(entry.get(column))
    return (
        counted(value, _examples(row)) if math.isfinite(value) else Share(math.nan, reason=reason)
    )


def _sparsity(row: Row) -> tuple[Fact, ...]:
    def shown(column: str) -> str:
        value = number(row.get(column))
        return f"{100 * value:.2f} %" if math.isfinite(value) else MISSING

    def before_after(before: str, after: str, unit: str = "") -> str:
        return f"{scaled(row.get(before), unit)} → {scaled(row.get(after), unit)}"

    ratio = number(row.get("compression_ratio"))
    return (
        Fact("sparsity (prunable parameters)", shown("measured_sparsity")),
        Fact("claimed", shown("sparsity")),
        Fact("share of zeros in all weights", shown("sparsity_weights")),
        Fact("share of zeros in all parameters", shown("sparsity_parameters")),
        Fact("density", shown("density")),
        Fact("compression ratio", f"{ratio:.4g}×" if math.isfinite(ratio) else MISSING),
        Fact(
            "multiply-adds, dense → sparse",
            before_after("multiply_adds_dense", "multiply_adds_sparse"),
        ),
        Fact("bytes, dense → stored", before_after("bytes_dense", "bytes_stored", "B")),
    )


def _layers(row: Row) -> tuple[Layer, ...]:
    found = []
    for layer in entries(row.get("layers")):
        zeros, total = number(layer.get("zeros")), number(layer.get("total"))
        shape = "×".join(text(side, 12) for side in items(layer.get("shape")))
        value = zeros / total if total else math.nan
        found.append(
            Layer(
                name=text(layer.get("name"), 80),
                shape=shape,
                zeros=count(zeros),
                total=count(total),
                multiply_adds=scaled(layer.get("multiply_adds")),
                sparsity=Share(value, reason="no weights"),
            )
        )
    return tuple(found)


BUDGET = {
    "epochs": "epochs",
    "pretrain_epochs": "of these: pretrain",
    "prune_epochs": "of these: prune",
    "finetune_epochs": "of these: finetune",
    "attack_steps": "attack steps in pruning and finetuning",
    "hours": "hours",
    "device": "device",
}


def _budget(row: Row) -> tuple[Fact, ...]:
    budget = mapping(row.get("budget"))
    if budget.get("device") == NOT_STATED:  # a network of others: its zeros are no measurements
        budget = {"device": NOT_STATED}
    ordered = sorted(
        budget, key=lambda name: (list(BUDGET).index(name) if name in BUDGET else 99, name)
    )
    facts = [Fact("recipe", text(row.get("recipe"), 60), code=True)]
    for name in ordered:
        label = BUDGET.get(name, text(name, 40).replace("_", " "))
        facts.append(Fact(label, _plain(budget[name])))
    return tuple(fact for fact in facts if fact.value)


def _costs(row: Row) -> tuple[CostRow, ...]:
    return tuple(
        CostRow(
            text(name, 40),
            duration(mapping(cost).get("seconds")),
            scaled(mapping(cost).get("forwards")),
            scaled(mapping(cost).get("backwards")),
            *(_counted(mapping(cost), name) for name in ("attacked", "proven", "forwards_saved")),
        )
        for name, cost in mapping(row.get("cost")).items()
    )


def _counted(cost: Mapping[str, Any], name: str) -> str:
    """Returns a count, empty where the record has none."""
    value = number(cost.get(name))
    return scaled(value) if math.isfinite(value) else ""


def _provenance(row: Row) -> tuple[Fact, ...]:
    paper, code = text(row.get("paper"), 300), text(row.get("code"), 300)
    facts = (
        Fact("checkpoint", text(row["checkpoint_id"], 300), code=True),
        Fact("sha256 of the weights", text(row.get("sha256"), 64), code=True),
        Fact("authors", ", ".join(text(author, 80) for author in items(row.get("authors")))),
        Fact("paper", paper, href=link(paper)),
        Fact("code", code, href=link(code)),
        Fact("licence", text(row.get("licence"), 60)),
        Fact("extra data", text(row.get("extra_data"), 120) or "none"),
        Fact("protocol", _protocol(row)),
        Fact("protocol digest", text(row.get("protocol_digest"), 64), code=True),
        Fact("data digest", text(row.get("data_digest"), 64), code=True),
    )
    return tuple(fact for fact in facts if fact.value)


def _protocol(row: Row) -> str:
    return f"{text(row['protocol'])}, version {text(row.get('protocol_version'), 20)}"


def _python(row: Row) -> str:
    name, protocol = text(row["checkpoint_id"], 300), text(row["protocol"])
    return (
        "import benchmark\n\n"
        f"model = benchmark.load_model({name!a})  # inputs in [0, 1], logits out\n"
        f"record = benchmark.evaluate({name!a}, {protocol!a}, tier={text(row['tier'])!a})"
    )


def _shell(row: Row) -> str:
    name, protocol, tier = address(row)
    return f"robustprune evaluate {name} --protocol {protocol} --tier {tier}"
