"""What every pruning method promises, and whether one keeps it.

`checks` holds the promises as one table; `examining` runs a method and finds what they ask about;
`checking` does it in a child process, since it runs code that nobody has looked at yet.
"""

from benchmark.contract.checking import Cost, Finding, Limits, Report, examined, explained, table
from benchmark.contract.checks import CHECKS, MEGABYTES, SECONDS, Answer, Check, ask
from benchmark.contract.examining import Subject
from benchmark.contract.sources import Source, source_of

__all__ = [
    "CHECKS",
    "MEGABYTES",
    "SECONDS",
    "Answer",
    "Check",
    "Cost",
    "Finding",
    "Limits",
    "Report",
    "Source",
    "Subject",
    "ask",
    "examined",
    "explained",
    "source_of",
    "table",
]
