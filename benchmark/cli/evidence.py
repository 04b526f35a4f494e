"""Commands about what a record proves: verify, challenge, audit."""

import secrets
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.base import (
    app,
    err,
    out,
    print_table,
    progress_bar,
    project_manifest,
    protocol_of,
    where,
    with_data,
)
from benchmark.errors import RecordError

if TYPE_CHECKING:  # the heavy imports wait until a command needs them
    from benchmark.pipeline.auditing import Audit, Finding
    from benchmark.pipeline.challenging import Answer
    from benchmark.pipeline.verifying import Verification


@app.command()
def verify(
    record: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoint ids or record files; default: every record there is."),
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="Only records under these protocols.")
    ] = None,
    bounds: Annotated[
        float,
        typer.Option(help="Share of the examples whose bounds are computed again, in [0, 1]."),
    ] = 0.1,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of the choice of those examples; default: nobody knows it beforehand."
        ),
    ] = None,
    complete: Annotated[
        bool,
        typer.Option(
            "--complete", help="Adversarial inputs that are not at hand are a difference, too."
        ),
    ] = False,
) -> None:
    """Checks again all that a record claims and that can be checked in seconds.

    One forward pass an attack shows that the stored adversarial inputs fool the network; bounds of
    a share of the examples are computed again; zeros are counted and accuracies computed anew. Any
    difference is named, and the exit code is 9. Without names, records whose data are not at hand
    are left out, and inputs that are not at hand are counted as unseen.
    """
    from benchmark.pipeline.verifying import verify_all

    paths = _records_named(record or [], protocol or [])
    if not (record or protocol):
        needs = [(path, _data_of(path)) for path in paths]
        paths = with_data(needs, lambda some: f"{len(some)} records")
    drawn = secrets.randbits(32) if seed is None else seed
    out.print(f"bounds of {bounds:.0%} of the examples, seed {drawn}", soft_wrap=True)
    with progress_bar("verify") as watch:
        found = verify_all(
            where.project,
            paths,
            share=bounds,
            seed=drawn,
            complete=complete or bool(record),
            watch=watch,
        )
    rows = [
        (
            one.checkpoint,
            one.protocol,
            "FAILED" if one.findings else "verified",
            f"[{one.certified:.1%}, {one.attacked:.1%}]",
            f"{one.examples:,}",
            f"{one.inputs:,}",
            f"{one.bounds:,}",
            f"{one.ties:,}",
            f"{one.unseen:,}",
        )
        for one in found
    ]
    headers = ("record", "protocol", "result", "[certified, attacked]", "examples")
    print_table((*headers, "inputs", "bounds", "ties", "unseen"), rows)
    if unseen := [one for one in found if one.unseen]:
        err.print(
            f"{len(unseen)} records name adversarial inputs that are not at hand: of their unseen "
            "examples the attacked end is the record's word. `robustprune evaluate` makes them "
            "again, to the same digests",
            soft_wrap=True,
        )
    _refuse_differences(found)


def _data_of(path: Path) -> str:
    """Returns the data set that a record needs; empty for a protocol that nobody knows.

    Such a record is no gap, but a difference, and named as one.
    """
    from benchmark.protocols import PROTOCOLS

    chosen = PROTOCOLS.get(path.parent.name)
    return chosen.dataset if chosen else ""


def _records_named(names: Sequence[str], protocols: Sequence[str]) -> list[Path]:
    """Returns the record files of checkpoint ids and paths; without names those of all records.

    Raises:
        UnknownName: no such protocol or checkpoint.
        RecordError: there is no such record.
    """
    from benchmark import records
    from benchmark.protocols import protocol as find

    results = where.project.results
    chosen = [find(name).id for name in protocols]
    known = [p for p in sorted(results.glob("*/*.json")) if not chosen or p.parent.name in chosen]
    manifest = project_manifest()
    paths = [] if names else known
    for name in names:
        if name.endswith(".json"):
            paths.append(Path(name).resolve())
            continue
        stem = records.record_path(results, "", manifest.find(name).id).name
        paths += (found := [path for path in known if path.name == stem])
        if not found:
            raise RecordError(
                f"expected a record of {name}, found none; make it with `robustprune evaluate`"
            )
    if not paths:
        of = f" of {', '.join(chosen)}" if chosen else ""
        raise RecordError(
            f"expected records{of} under {results}, found none; make them with `robustprune run`"
        )
    return list(dict.fromkeys(paths))


def _refuse_differences(found: Sequence["Verification"]) -> None:
    """Prints what differs.

    Raises:
        RecordError: anything does.
    """
    failed = [one for one in found if one.findings]
    for one in failed:
        for line in one.findings:
            err.print(f"{one.checkpoint}: {line}", soft_wrap=True)
    if failed:
        raise RecordError(
            f"expected {len(found)} records to hold, got {len(failed)} that do not; restore them "
            "or evaluate again"
        )


@app.command()
def challenge(
    checkpoint: Annotated[str, typer.Argument(help="Id of the checkpoint.")],
    file: Annotated[
        Path,
        typer.Argument(
            help="An .npz with index (n,), positions in the test split, and inputs (n, C, H, W), "
            "float in [0, 1] or uint8."
        ),
    ],
    credit: Annotated[str, typer.Option(help="Who found the inputs, as shown to all.")],
    attack: Annotated[str, typer.Option(help="What found them, in one line.")] = "not stated",
    url: Annotated[str, typer.Option(help="https address of a paper or code.")] = "",
    contact: Annotated[str, typer.Option(help="How to reach you.")] = "",
    protocol: Annotated[str, typer.Option(help="Default: the protocol of the data set.")] = "",
) -> None:
    """Verifies anyone's adversarial inputs and lowers the attacked bound, with credit.

    Inputs must lie in the box and within epsilon of their originals, all of them. Those that fool
    the network are stored; one that breaks a certified example refutes the certificate (exit code
    8). A file that breaks nothing new leaves with exit code 7.
    """
    from benchmark.pipeline import challenging
    from benchmark.protocols import protocol as find

    entry = project_manifest().find(checkpoint)
    chosen = find(protocol or protocol_of({entry.dataset}))
    today = datetime.now(UTC).date().isoformat()
    sender = challenging.Sender(credit, attack, today, url, contact)
    answer = challenging.challenge(where.project, entry, chosen, file, sender)
    _print_answer(answer)


def _print_answer(answer: "Answer") -> None:
    made, rest = answer.challenge, answer.left_out
    out.print(
        f"verified {answer.verified} of {answer.sent} inputs against {made.checkpoint_id}"
        f"{f'; left out: {rest}' if rest else ''}",
        soft_wrap=True,
    )
    if answer.known:
        out.print(f"already known, from {made.credit} on {made.date}", soft_wrap=True)
    out.print(
        f"newly broken {answer.broken}, attacked bound from {answer.before:.1%} to "
        f"{answer.after:.1%} (best known, all challenges together)",
        soft_wrap=True,
    )
    if not answer.known:
        out.print(f"credited to {made.credit} in {answer.path}", soft_wrap=True)


@app.command()
def audit(
    checkpoint: Annotated[list[str], typer.Argument(help="One or more checkpoint ids.")],
    protocol: Annotated[str, typer.Option(help="Default: the protocol of the data set.")] = "",
    fraction: Annotated[float, typer.Option(help="Share of the examples, in (0, 1].")] = 0.1,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of sample and draws; default: nobody knows it beforehand."),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the bounds, in (0, 1).")] = 0.95,
) -> None:
    """Measures a random share of each record again and says what that means for the rest.

    Every attack draws afresh and spares nobody. A prediction or a certificate that does not hold is
    a contradiction (exit code 8). A survivor that falls now is an honest effect of random draws;
    the inputs that broke it are kept, ready to be sent as a challenge.
    """
    from benchmark.pipeline import auditing
    from benchmark.protocols import protocol as find

    manifest = project_manifest()
    entries = [manifest.find(name) for name in dict.fromkeys(checkpoint)]
    chosen = find(protocol or protocol_of({entry.dataset for entry in entries}))
    draw = auditing.Draw(secrets.randbits(32) if seed is None else seed, fraction, confidence)
    out.print(f"seed {draw.seed}", soft_wrap=True)
    with progress_bar("audit") as watch:
        audits = auditing.audit_all(where.project, entries, chosen, draw, watch)
    for one in audits:
        _print_audit(one)
    auditing.refuse_contradictions(audits)


# What each kind of finding is about, in words.
_CLAIMS = {
    "clean": "predicted classes",
    "zero-gradient": "zero gradients",
    "certificate": "certificates",
    "smoothed": "smoothed certificates",
    "robust": "survivors",
    "broken": "broken examples",
}


def _print_audit(one: "Audit") -> None:
    report = one.report
    out.print(
        f"{report.checkpoint_id}: {len(report.sampled)} of {report.examples} examples "
        f"({report.tier}) measured again under {report.protocol}",
        soft_wrap=True,
    )
    for finding in report.findings:
        if finding.claims:
            words = _found(finding, report.confidence)
            out.print(f"  {_CLAIMS[finding.kind]}: {words}", soft_wrap=True)
        elif finding.kind == "flags":
            words = ", ".join(finding.flags) or "none raised that the record lacks"
            out.print(f"  flags of the network: {words}", soft_wrap=True)
    if one.challenge is not None:
        _print_newly_broken(one)
    out.print(f"  report in {one.path}", soft_wrap=True)


def _found(finding: "Finding", confidence: float) -> str:
    """Returns what was found of one kind, and what that says about the rest."""
    if not finding.sampled:
        return f"none of {finding.claims} sampled, so nothing is said about them"
    if finding.at_most is None:
        return f"{finding.again} of {finding.sampled} sampled broken again"
    wrong = "newly broken" if finding.kind == "robust" else "wrong"
    return (
        f"{finding.wrong} {wrong} of {finding.sampled} sampled; with {100 * confidence:g} % "
        f"confidence at most {finding.at_most} of {finding.claims} outcomes are wrong "
        f"({finding.at_most / finding.claims:.1%})"
    )


def _print_newly_broken(one: "Audit") -> None:
    report = one.report
    command = ["robustprune", "challenge", report.checkpoint_id, str(one.challenge)]
    command += ["--protocol", report.protocol, "--attack", f"audit with seed {report.seed}"]
    out.print(
        f"  survivors newly broken: test examples {list(report.finding('robust').examples[:10])}; "
        "attacks draw at random, so this is no contradiction but a better bound; send it with",
        soft_wrap=True,
    )
    out.print(f"    {shlex.join(command)} --credit NAME", soft_wrap=True)
