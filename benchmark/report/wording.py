"""Numbers and names as the pages print them.

Never `nan`, never a raw id in a path, never a foreign URL scheme.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmark.errors import shorten

MISSING = "—"


def number(value: object) -> float:
    """Returns a number as float; NaN for whatever is missing or no number."""
    if type(value) is float:  # by far the most frequent
        return value
    if isinstance(value, bool | np.bool_):
        return math.nan
    if isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    return math.nan


def text(value: object, limit: int = 80) -> str:
    """Returns a printable line of at most `limit` characters; empty for None and NaN."""
    if type(value) is str and value.isalnum() and len(value) <= limit:  # what most names are
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    printed = str(value)
    return "" if printed in ("<NA>", "NaT") else shorten(printed, limit)


def items(value: object) -> list[Any]:
    """Returns a list column's cell as a list; empty where the row has none (NaN or None)."""
    return list(value) if isinstance(value, list | tuple) else []


def entries(value: object) -> list[dict[str, Any]]:
    """Returns a list-of-dicts column's cell; empty where the row has none (NaN or None)."""
    return [entry for entry in items(value) if isinstance(entry, dict)]


def mapping(value: object) -> dict[str, Any]:
    """Returns a dict column's cell as a dict; empty where the row has none (NaN or None)."""
    return dict(value) if isinstance(value, dict) else {}


def percent(share: float) -> str:
    """Returns a share in percent with one decimal and no sign, or an em dash.

    >>> percent(0.8725), percent(float("nan"))
    ('87.2', '—')
    """
    return f"{100 * share:.1f}" if math.isfinite(share) else MISSING


def sparsity_percent(share: float) -> str:
    """Returns a sparsity in percent with as many decimals as its nines need.

    >>> sparsity_percent(0.9), sparsity_percent(0.9995)
    ('90', '99.95')
    """
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") if math.isfinite(share) else MISSING


def points(share: float) -> str:
    """Returns a difference of shares in points, with its sign, or an em dash.

    >>> points(0.023), points(-0.004), points(-0.0001)
    ('+2.3', '−0.4', '0.0')
    """
    if not math.isfinite(share):
        return MISSING
    printed = f"{100 * share:+.1f}"
    return "0.0" if printed in ("+0.0", "-0.0") else printed.replace("-", "−")


def count(value: object) -> str:
    """Returns a whole number with thousands separated, or an em dash.

    >>> count(12345)
    '12,345'
    """
    amount = number(value)
    return f"{round(amount):,}" if math.isfinite(amount) else MISSING


def scaled(value: object, unit: str = "") -> str:
    """Returns a large amount with a decimal prefix and three significant digits, or an em dash.

    >>> scaled(34200, "B"), scaled(512, "B")
    ('34.2 kB', '512 B')
    """
    amount = number(value)
    if not math.isfinite(amount):
        return MISSING
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= factor:
            return f"{amount / factor:.3g} {prefix}{unit}"
    return f"{amount:.3g} {unit}".strip()


def duration(seconds: object) -> str:
    """Returns a duration in the units a person would use, or an em dash.

    >>> duration(3.25), duration(75), duration(7500)
    ('3.2 s', '1 min 15 s', '2 h 05 min')
    """
    amount = number(seconds)
    if not math.isfinite(amount):
        return MISSING
    if amount < 60:
        return f"{amount:.1f} s"
    minutes, rest = divmod(round(amount), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(value: object) -> str:
    """Returns milliseconds with about three digits, and no more than three decimals.

    >>> milliseconds(0.0614), milliseconds(12.345), milliseconds(2345.6)
    ('0.061', '12.3', '2,346')
    """
    amount = number(value)
    if not math.isfinite(amount):
        return MISSING
    decimals = max(0, min(3, 2 - math.floor(math.log10(amount)))) if amount > 0 else 3
    return f"{amount:,.{decimals}f}"


def slug(raw: str, limit: int = 60) -> str:
    """Returns a file name for any string: [a-z0-9-] only, bounded, one for each string.

    >>> slug("dense/digits/0")
    'dense-digits-0-0dcda76ce2'

    Args:
        raw: any text.
        limit: most characters kept of it; a digest of all of it follows.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", raw[: 4 * limit].lower())[:limit].strip("-")
    digest = hashlib.sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{readable}-{digest}".lstrip("-")


def folder(raw: str) -> str:
    """Returns the folder of a protocol: its id where that is safe, else its slug."""
    reserved = ("figures", "static")
    safe = re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", raw) and len(raw) <= 60
    return raw if safe and raw not in reserved else slug(raw)


def link(value: object) -> str:
    """Returns a URL that is safe to link to (http or https), else an empty string."""
    printed = text(value, 500)
    try:
        parts = urlsplit(printed)
    except ValueError:
        return ""
    return printed if parts.scheme in ("http", "https") and parts.netloc else ""


@dataclass(frozen=True)
class FlagWords:
    """How a flag reads.

    Attributes:
        words: short form for the board.
        meaning: what it says about the row, in a sentence or two.
        informational: it describes how a number was made and casts no doubt on it.
    """

    words: str
    meaning: str
    informational: bool = False


FLAGS: dict[str, FlagWords] = {
    "randomised-output": FlagWords(
        "randomised output",
        "Two passes over the same inputs gave different logits. Attacks that follow gradients "
        "then meet noise, so the robust accuracy may be too high.",
    ),
    "softmax-output": FlagWords(
        "softmax output",
        "The network seems to return probabilities instead of logits. Gradients through a "
        "saturated softmax vanish, so the robust accuracy may be too high.",
    ),
    "batch-dependent": FlagWords(
        "depends on the batch",
        "The answer to an input changes with the inputs beside it, so an accuracy belongs to the "
        "batches it was measured in and not to the network.",
    ),
    "stateful-forward": FlagWords(
        "changes from call to call",
        "The network answered otherwise, or had other gradients or state, after it was evaluated "
        "than before. What was attacked is not what was published.",
    ),
    "revived-weights": FlagWords(
        "zero weights came back",
        "Weights that count as zero were no longer zero while the network was evaluated, so the "
        "stated sparsity is not that of the network that was measured.",
    ),
    "hidden-weights": FlagWords(
        "hidden weights",
        "The forward pass uses weights that are no parameters of the network, so the count of "
        "zeros misses them and the stated sparsity is too high.",
    ),
    "test-beats-training": FlagWords(
        "better on test than on training data",
        "Test examples fare better than training examples, beyond chance. The network has seen "
        "them, or recognises them.",
    ),
    "zero-gradients": FlagWords(
        "zero gradients",
        "The network is flat around examples that no attack broke and nothing proves. Attacks that "
        "follow gradients cannot move there, so the robust accuracy may be too high.",
    ),
    "vanishing-gradients": FlagWords(
        "vanishing gradients",
        "The loss is saturated at examples that no attack broke and nothing proves: the network "
        "has a gradient there, and float32 loses it in the loss. PGD cannot move, so the robust "
        "accuracy may be too high.",
    ),
    "noise-beats-gradients": FlagWords(
        "noise beats gradients",
        "Random points broke examples that iterated gradient attacks did not. Gradients mislead "
        "there, so more may be broken than was found.",
    ),
    "single-step-beats-iterated": FlagWords(
        "one step beats many",
        "One full gradient step broke examples that iterated gradient attacks did not. Gradients "
        "mislead there, so more may be broken than was found.",
    ),
    "transfer-beats-white-box": FlagWords(
        "transfer beats white box",
        "Adversarial inputs of the dense parent broke examples that attacks on the network's own "
        "gradients did not. That is a sign of masked gradients.",
    ),
    "planted-missed": FlagWords(
        "planted examples missed",
        "Gradients did not lead to adversarial examples that were known to be there. What the "
        "attacks did not find may exist as well, so the robust accuracy may be too high.",
    ),
    "not-at-chance-for-huge-epsilon": FlagWords(
        "survives a huge epsilon",
        "More examples than chance allows survived an attack that may change the image entirely. "
        "Such an attack cannot fail unless gradients lead nowhere.",
    ),
    "accuracy-rises-with-epsilon": FlagWords(
        "accuracy rises with epsilon",
        "PGD broke fewer examples in a larger ball than in a smaller one inside it, so it does not "
        "find what is there.",
    ),
    "bounds-unsupported": FlagWords(
        "bounds unsupported",
        "A bound method cannot handle this network; examples it could not bound count as not "
        "certified. This casts no doubt on the attacks.",
        informational=True,
    ),
    "zero-gradients-in-attack": FlagWords(
        "zero gradients in attack",
        "AutoAttack met inputs on its way where the loss gradient vanished and could not move on "
        "from there, so the robust accuracy may be too high.",
    ),
    "dynamic-forward": FlagWords(
        "dynamic forward pass",
        "The network computes gradients inside its forward pass, so it may optimise its answer "
        "while it is attacked. The attacks here were not designed for that.",
    ),
    "square-lowers-accuracy": FlagWords(
        "Square lowers accuracy",
        "The gradient-free Square attack broke over 0.2 points of examples that the "
        "gradient-based attacks had left. That is a sign of masked gradients.",
    ),
    "pgd-stronger-than-autoattack": FlagWords(
        "PGD stronger than AutoAttack",
        "PGD broke examples that AutoAttack did not. Robust accuracy counts both, but "
        "AutoAttack alone overstates it.",
    ),
    "autoattack-far-below-pgd": FlagWords(
        "AutoAttack far below PGD",
        "AutoAttack lies five points or more under PGD, so PGD is a poor guide to the "
        "robustness of this network.",
    ),
    "pgd-not-converged": FlagWords(
        "PGD not converged",
        "The second half of PGD's steps broke examples that nothing else broke, so more steps "
        "might break more, and the robust accuracy may be too high.",
    ),
    "too-few-classes": FlagWords(
        "too few classes for an attack",
        "AutoAttack reports that one of its losses or targets needs more classes than this data "
        "set has.",
    ),
    "autoattack-warning": FlagWords(
        "AutoAttack warns",
        "AutoAttack gave a warning that this benchmark has no words of its own for.",
    ),
    "crown-ibp-for-crown": FlagWords(
        "CROWN-IBP in place of CROWN",
        "The network has more ReLU units than the protocol allows for full CROWN. CROWN-IBP "
        "bounds are looser: the certified accuracy is still proven, and may be lower than CROWN "
        "would give.",
        informational=True,
    ),
}


def flag_words(name: str) -> FlagWords:
    """Returns the words of a flag; an unknown one is read out as it is named."""
    known = FLAGS.get(name)
    return known or FlagWords(shorten(name, 60).replace("-", " ").replace("_", " "), "")
