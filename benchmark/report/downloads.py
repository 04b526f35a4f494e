"""A board as files: CSV and JSON with the frame's numbers, LaTeX for papers, BibTeX of methods.

Text in a CSV file that a spreadsheet would take for a formula gets an apostrophe in front.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from benchmark.report.remarks import ranked
from benchmark.report.shares import Row, interval
from benchmark.report.views import display_name
from benchmark.report.wording import MISSING, number, percent, sparsity_percent, text

# Columns of a board's files, as `docs/records.md` explains them.
COLUMNS = (
    *("protocol", "protocol_version", "protocol_digest", "data_digest", "tier", "examples"),
    *("threat", "cell", "rank", "rank_low", "rank_high", "tied_with_best", "p_best", "rivals"),
    *("checkpoint_id", "method", "display_name", "dataset", "architecture", "objective"),
    *("structure", "sparsity", "seed", "recipe", "pipeline", "extra_data", "licence", "paper"),
    *("code", "sha256", "status", "reason", "unrankable", "missing_controls", "incomplete"),
    "narrow",
    *("clean_accuracy", "pgd_accuracy", "autoattack_accuracy", "robust_accuracy"),
    *("best_known_accuracy", "certified_accuracy", "smoothed_accuracy", "smoothed_radius"),
    *("aer_robustness", "aer_low", "aer_high", "aer_epsilon"),
    *("gain", "gain_low", "gain_high", "gain_over", "seeds", "seed_mean", "seed_spread"),
    *("seed_low", "seed_high", "measured_sparsity", "density", "compression_ratio"),
    *("multiply_adds_dense", "multiply_adds_sparse", "bytes_stored", "bytes_dense"),
    *("compact_parameters", "compact_multiply_adds", "latency_processor", "latency_dense"),
    *("latency_masked", "latency_compact", "evidence_level", "seconds"),
)


def plain(value: object) -> str | int | float | bool | None:
    """Returns a cell as plain data; None for whatever is missing."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return text(value, 500) or None


def as_csv(rows: Iterable[Row]) -> bytes:
    """Returns rows as CSV in UTF-8; numbers have all their digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(plain(row.get(name))) for name in COLUMNS])
    return stream.getvalue().encode()


def _cell(value: str | float | None) -> str:
    """Returns what a cell of a CSV file holds: never something that a spreadsheet would run."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(value)
    return f"'{value}" if value[0] in "=+-@\t\r" else value


def as_json(rows: Iterable[Row]) -> bytes:
    """Returns rows as a JSON list of objects; what is missing is null."""
    lines = [{name: plain(row.get(name)) for name in COLUMNS} for row in rows]
    return (json.dumps(lines, indent=1, ensure_ascii=True) + "\n").encode()


def as_latex(rows: Sequence[Row], title: str) -> bytes:
    """Returns ranked rows as a table for `booktabs`, a rule between the groups.

    Args:
        rows: in the order of the board.
        title: protocol and tier, for the caption.
    """
    lines = [
        "% Needs \\usepackage{booktabs}. Accuracies in percent; 95 % intervals in brackets.",
        "\\begin{table}",
        f"\\caption{{{escaped(title)}. Interval: certified and attacked accuracy.}}",
        "\\begin{tabular}{llrrrrr}",
        "\\toprule",
        "Method & Objective & Sparsity & Rank & Clean & Interval & Gain \\\\",
    ]
    cell = ""
    for row in rows:
        if not ranked(row):
            continue
        if row["cell"] != cell:
            cell = row["cell"]
            lines.append("\\midrule")
        lines.append(_latex_row(row))
    lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(lines).encode()


def _latex_row(row: Row) -> str:
    found = interval(row)
    place = f"{int(row['rank'])}" if not row["tied_with_best"] else "$=$1"
    low, high = number(row.get("gain_low")), number(row.get("gain_high"))
    gain = MISSING
    if math.isfinite(low) and math.isfinite(high):
        value = number(row.get("gain"))
        gain = f"${100 * value:+.1f}$ [${100 * low:+.1f}$, ${100 * high:+.1f}$]"
    cells = (
        escaped(display_name(row)),
        escaped(text(row.get("objective"), 60)),
        sparsity_percent(number(row.get("measured_sparsity"))),
        place,
        percent(found.clean.value),
        f"[{percent(found.certified.value)}, {percent(found.attacked.value)}]",
        gain,
    )
    return (
        " & ".join("--" if cell == MISSING else cell.replace(MISSING, "--") for cell in cells)
        + " \\\\"
    )


_SPECIAL = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escaped(words: str) -> str:
    """Returns text as LaTeX shows it, with nothing in it that LaTeX would run."""
    return "".join(_SPECIAL.get(character, character) for character in words)


def as_bibtex(entries: Mapping[str, Mapping[str, str]]) -> bytes:
    """Returns BibTeX entries.

    Args:
        entries: key → field → value, foreign text included.
    """
    parts = []
    for key, fields in sorted(entries.items()):
        lines = [f"  {name} = {{{escaped(value)}}}" for name, value in fields.items() if value]
        safe = re.sub(r"[^a-z0-9-]", "-", key.lower())
        parts.append(f"@misc{{{safe},\n" + ",\n".join(lines) + "\n}\n")
    return "\n".join(parts).encode()
