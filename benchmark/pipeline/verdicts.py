"""What came of checking a submission, as a report in Markdown that any page may show."""

from pathlib import Path

from benchmark.errors import BenchmarkError
from benchmark.pipeline.receiving import Validation
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
        parts += ["## Records verified", _verified(found)]
    if found.standings:
        parts.append(found.comparison)
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def refusal(source: Path, error: BenchmarkError) -> str:
    """Returns a report on what is no submission at all."""
    return f"# Submission {code(source.name)}\n\n**Refused.**\n\n{_listed([str(error)])}\n"


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {code(line, 600)}" for line in lines)


def _verified(found: Validation) -> str:
    return table(
        ("record", "protocol", "result", "#examples", "#inputs", "#bounds", "#ties"),
        [
            (
                code(one.checkpoint),
                code(one.protocol),
                f"{len(one.findings)} differences" if one.findings else "verified",
                *(str(count) for count in (one.examples, one.inputs, one.bounds, one.ties)),
            )
            for one in found.verified
        ],
    )
