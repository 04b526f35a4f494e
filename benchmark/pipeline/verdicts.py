"""What came of checking a submission, as a report in Markdown that any page may show."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.pipeline.auditing import Audit
from benchmark.pipeline.changing import Changes
from benchmark.pipeline.receiving import Validation
from benchmark.pipeline.reviewing import Review
from benchmark.pipeline.verifying import Verification
from benchmark.report.markdown import code, table
from benchmark.report.wording import percent


def report(found: Validation) -> str:
    """Returns a validation in words; equal validations give equal text."""
    said, method = found.submission, found.submission.method
    verdict = "**Refused.**" if found.problems else "**Holds.**"
    facts = [
        ("method", f"{code(method.title)} ({code(method.name)})"),
        ("authors", code(", ".join(method.authors))),
        ("paper", code(method.paper)),
        ("code", code(method.code)),
        ("licence", code(method.licence)),
        ("contact", code(said.contact)),
        ("extra data, as stated", code(said.statement.extra_data)),
        ("test data unused, as stated", code(str(said.statement.test_data_unused).lower())),
        ("checkpoints", str(len(said.checkpoints))),
        ("digest of the bundle's files", code(found.digest)),
        (
            "computed again",
            f"bounds of {percent(found.scrutiny.share)} % of the examples, seed "
            f"{found.scrutiny.seed}",
        ),
    ]
    parts = [f"# Submission {code(said.name)}", verdict, table(("", ""), facts)]
    if found.problems:
        parts += ["## Problems", _listed([str(problem) for problem in found.problems])]
    if found.notes:
        parts += ["## Notes", _listed(list(found.notes))]
    if found.verified:
        parts += ["## Records verified", _table_of(found.verified)]
    if found.standings:
        parts.append(found.comparison)
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def refusal(source: Path, error: BenchmarkError) -> str:
    """Returns a report on what is no submission at all."""
    return f"# Submission {code(source.name)}\n\n**Refused.**\n\n{_listed([str(error)])}\n"


# A comment on a pull request holds this much.
LARGEST_REVIEW = 55_000


def review(found: Review) -> str:
    """Returns a review in words, at most `LARGEST_REVIEW` characters of it."""
    verdict = (
        "**Something speaks against it.**" if found.problems else "**Nothing speaks against it.**"
    )
    parts = ["# Review", verdict, _changes(found.changes)]
    if found.problems:
        parts += ["## Problems", _listed(list(found.problems[:_MOST]), len(found.problems))]
    for path, answer in found.submitted:
        if isinstance(answer, BenchmarkError):
            parts.append(refusal(Path(path), answer))
        else:
            parts.append(report(answer))
    if found.verified:
        parts += ["## Records verified", _table_of(found.verified)]
    if found.audits:
        parts += ["## Records audited", _audited(found.audits)]
    if found.comparison:
        parts.append(found.comparison)
    text = "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
    if len(text) <= LARGEST_REVIEW:
        return text
    return text[:LARGEST_REVIEW] + "\n\nCut here: the whole is in the artifact of the run.\n"


# Problems, records and audits that are listed one by one.
_MOST = 100


def _changes(found: Changes) -> str:
    counts = {
        "bundles": len(found.bundles),
        "new checkpoints": len(found.added),
        "altered entries": len(found.altered),
        "weights elsewhere or other": len(found.moved),
        "removed entries": len(found.removed),
        "new or altered records, evidence, challenges": len(found.records),
        "removed files of data": len(found.lost),
        "files of data that belong nowhere": len(found.strays),
        "other files, not judged here": len(found.others),
    }
    return table(("what changed", "#number"), [(name, str(n)) for name, n in counts.items()])


def _audited(audits: Sequence[Audit]) -> str:
    rows = []
    for one in audits[:_MOST]:
        said = one.report
        wrong = sum(f.wrong for f in said.findings if f.kind != "robust")
        fallen = said.finding("robust").wrong
        cells = (str(len(said.sampled)), str(wrong), str(fallen))
        rows.append((code(said.checkpoint_id), code(said.protocol), *cells))
    heads = ("record", "protocol", "#examples again", "#contradicted", "#survivors newly broken")
    return table(heads, rows)


def _listed(lines: list[str], of: int = 0) -> str:
    more = [f"- and {of - len(lines)} more"] if of > len(lines) else []
    return "\n".join([*(f"- {code(line, 600)}" for line in lines), *more])


def _table_of(verified: Sequence[Verification]) -> str:
    return table(
        ("record", "protocol", "result", "#examples", "#inputs", "#bounds", "#ties"),
        [
            (
                code(one.checkpoint),
                code(one.protocol),
                f"{len(one.findings)} differences" if one.findings else "verified",
                *(str(count) for count in (one.examples, one.inputs, one.bounds, one.ties)),
            )
            for one in verified[:_MOST]
        ],
    )
