"""A synthetic frame shaped like the digits board, for the tests of leaderboard and report."""

import hashlib

import numpy as np
import pandas as pd

from benchmark.report import AttackColumn, ProtocolPage

EXAMPLES = 594
DIGEST = hashlib.sha256(b"protocol").hexdigest()
HOSTILE = "<script>alert(1)</script> \"quoted\" 'single' $x_{"
SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.99)
# Robust accuracy at the sparsities: magnitude pruning holds on longer than random pruning.
ROBUST = {
    "random": (0.66, 0.61, 0.50, 0.41, 0.17),
    "lwm-layerwise": (0.71, 0.70, 0.66, 0.60, 0.30),
    "lwm-global": (0.71, 0.70, 0.66, 0.61, 0.42),
}
LAYERS = (
    ("body.0.weight", (16, 1, 3, 3)),
    ("body.2.weight", (32, 16, 3, 3)),
    ("body.5.weight", (10, 512)),
)


def protocol_page(**changes):
    values = {
        "id": "digits-linf",
        "title": "Digits, Linf",
        "threat": "Linf 3/16",
        "version": 1,
        "digest": DIGEST,
        "description": "Scikit-learn's 8×8 digits.\n\nEvaluated in minutes on a CPU.",
        "settings": [
            ("pgd", "50 steps, step size 1/32, 5 restarts"),
            ("autoattack", "standard: apgd-ce, apgd-t, fab-t, square; batch 128"),
            ("bounds", "IBP and CROWN, best per example, margin 1e-4"),
        ],
        "tiers": {"quick": 100, "standard": 300, "full": EXAMPLES},
        "attacks": (
            AttackColumn("pgd", "PGD", "correct under projected gradient descent", era=True),
            AttackColumn("autoattack", "AutoAttack", "correct under AutoAttack"),
        ),
    }
    return ProtocolPage(**{**values, **changes})


# Simple drawings of 0, 1, 4 and 7, eight pixels high and wide.
DRAWN = {
    0: (0x3C, 0x66, 0xC3, 0xC3, 0xC3, 0xC3, 0x66, 0x3C),
    1: (0x18, 0x38, 0x78, 0x18, 0x18, 0x18, 0x18, 0x7E),
    4: (0x0C, 0x1C, 0x34, 0x64, 0xFF, 0x04, 0x04, 0x04),
    7: (0xFF, 0x03, 0x06, 0x0C, 0x18, 0x18, 0x30, 0x30),
}


def outcomes_of(robust, generator, examples=EXAMPLES, best_known=None):
    """Nested outcomes with exactly the rounded counts: certified within robust within clean."""
    order = generator.permutation(examples)
    known = robust if best_known is None else best_known
    clean = min(1.0, robust + 0.22)
    counts = {"clean": clean, "robust": robust, "best_known": known}
    counts |= {"pgd": min(clean, robust + 5 / examples), "autoattack": robust}
    outcomes = {"index": np.arange(examples)}
    for name, share in {**counts, "certified": 0.7 * robust}.items():
        outcomes[name] = np.zeros(examples, dtype=bool)
        outcomes[name][order[: round(share * examples)]] = True
    return outcomes


def strip_of(attack="apgd-ce", examples=8, channels=1, **changes):
    """Drawn digits with an adversarial input each, at most 3/16 away in every pixel."""
    generator = np.random.default_rng(3)
    labels = [list(DRAWN)[place % len(DRAWN)] for place in range(examples)]
    bits = [[[row >> (7 - bit) & 1 for bit in range(8)] for row in DRAWN[one]] for one in labels]
    originals = np.repeat(np.array(bits, dtype=np.float32)[:, None] * 0.9375, channels, axis=1)
    signs = generator.choice([-1.0, 0.0, 1.0], size=originals.shape)
    strip = {
        "attack": attack,
        "evaluation": "autoattack",
        "epsilon": "3/16",
        "total": 34,
        "labels": labels,
        "predictions": [(label + 1) % 10 for label in labels],
        "originals": originals,
        "adversarial": np.clip(originals + signs * 3 / 16, 0, 1).astype(np.float32),
    }
    return {**strip, **changes}


def make_row(method="lwm-global", sparsity=0.9, outcomes=None, **changes):
    objective = changes.get("objective", "adversarial")
    structure = changes.get("structure", "unstructured")
    seed = changes.get("seed", 0)
    checkpoint = f"{method}/digits/cnn-tiny/{objective}/{structure}-{round(100 * sparsity)}/{seed}"
    total = sum(int(np.prod(shape)) for _, shape in LAYERS)
    row = {
        "checkpoint_id": checkpoint,
        "method": method,
        "display_name": f"{method} {round(100 * sparsity)} %"
        if sparsity
        else f"{method} ({objective})",
        "dataset": "digits",
        "architecture": "cnn-tiny",
        "objective": objective,
        "structure": structure,
        "sparsity": sparsity,
        "seed": 0,
        "sha256": hashlib.sha256(checkpoint.encode()).hexdigest(),
        "authors": ["A. Author", "B. Author"],
        "paper": "https://example.org/paper",
        "code": "",
        "licence": "MIT",
        "extra_data": "none",
        "recipe": "digits-1",
        "budget": {
            "epochs": 60,
            "pretrain_epochs": 40,
            "prune_epochs": 0,
            "finetune_epochs": 20,
            "attack_steps": 10,
            "hours": 0.021,
            "device": "cpu",
        },
        "protocol": "digits-linf",
        "protocol_version": 1,
        "protocol_digest": DIGEST,
        "data_digest": hashlib.sha256(b"data").hexdigest(),
        "tier": "full",
        "examples": EXAMPLES,
        "threat": "Linf 3/16",
        "status": "done",
        "reason": "",
        "smoothed_accuracy": float("nan"),
        "smoothed_radius": float("nan"),
        "smoothed_sigma": float("nan"),
        "smoothed_examples": float("nan"),
        "measured_sparsity": sparsity,
        "sparsity_weights": sparsity,
        "sparsity_parameters": 0.99 * sparsity,
        "density": 1 - sparsity,
        "compression_ratio": 1 / (1 - sparsity),
        "multiply_adds_dense": 100_000,
        "multiply_adds_sparse": 100_000 * (1 - sparsity),
        "bytes_stored": 4 * total * (1 - sparsity) + 1500,
        "bytes_dense": 4 * total,
        "seconds": 34.5,
        "layers": [
            {
                "name": name,
                "shape": list(shape),
                "zeros": round(sparsity * int(np.prod(shape))),
                "total": int(np.prod(shape)),
                "multiply_adds": 12_000,
            }
            for name, shape in LAYERS
        ],
        **speed_of(sparsity, structure),
        "flags": [],
        "unrankable": "",
        "challenges": [],
        "evidence": [],
        "strips": [],
        "cost": {
            "clean": cost_of(0.1, 594, 0),
            "pgd": cost_of(4.5, 130_000, 130_000, attacked=300, proven=220, forwards_saved=9_000),
            "autoattack": cost_of(
                29.9, 2_300_000, 600_000, attacked=300, proven=220, forwards_saved=1_200_000
            ),
        },
        "environment": {"python": "3.11.7", "torch": "2.14.1", "device": "cpu"},
    }
    return {**row, **measured(outcomes or {}), **changes}


def speed_of(sparsity, structure, batches=(1, 64), networks=("dense", "masked", "compact")):
    """Latencies as whole filters give them: a compact network's go with what is left."""
    left = 1 - sparsity if structure == "filter" else 1.0
    medians = {"dense": 0.25, "masked": 0.24, "compact": 0.03 + 0.2 * left}
    return {
        "compact_parameters": round(50_000 * left),
        "compact_multiply_adds": round(100_000 * left),
        "latency_processor": "AMD EPYC 7B13 64-Core Processor",
        "latency": [
            {
                "network": name,
                "batch": batch,
                "rounds": 31,
                "lower": 0.96 * batch * medians[name],
                "median": batch * medians[name],
                "upper": 1.25 * batch * medians[name],
            }
            for name in networks
            if name != "dense" or sparsity
            for batch in batches
        ],
    }


def cost_of(seconds, forwards, backwards, attacked=0, proven=0, forwards_saved=0):
    return {
        "seconds": seconds,
        "forwards": forwards,
        "backwards": backwards,
        "attacked": attacked,
        "proven": proven,
        "forwards_saved": forwards_saved,
    }


def measured(outcomes):
    """The columns that are computed from outcomes."""
    missing = float("nan")
    if not outcomes:
        names = ("clean", "pgd", "autoattack", "robust", "best_known", "certified")
        empty = {f"{name}_accuracy": missing for name in names}
        aer = {f"aer_{name}": missing for name in ("robustness", "low", "high")}
        lists = {"attacks": [], "curve": [], "certified_curve": [], "outcomes": {}}
        return {**empty, **aer, **lists, "attack_accuracies": {}, "aer_epsilon": ""}
    examples = len(outcomes["robust"])
    whole = {"index": np.arange(examples), "best_known": outcomes["robust"]}
    outcomes = {**whole, **outcomes}
    clean, robust, certified = (float(outcomes[n].mean()) for n in ("clean", "robust", "certified"))
    broken = round((clean - robust) * examples)
    steps = ((0.0625, "1/16"), (0.125, "1/8"), (0.1875, "3/16"), (0.25, "1/4"))
    return {
        "clean_accuracy": clean,
        "pgd_accuracy": min(clean, robust + 5 / examples),
        "autoattack_accuracy": robust,
        "attack_accuracies": {"pgd": min(clean, robust + 5 / examples), "autoattack": robust},
        "aer_robustness": (clean + robust) / 2,
        "aer_low": (clean + robust) / 2 - 0.03,
        "aer_high": (clean + robust) / 2 + 0.02,
        "aer_epsilon": "1/4",
        "robust_accuracy": robust,
        "best_known_accuracy": float(outcomes["best_known"].mean()),
        "certified_accuracy": certified,
        "attacks": [
            {
                "name": "pgd",
                "evaluation": "pgd",
                "attempted": round(clean * examples),
                "broken": broken - 5,
            },
            {"name": "apgd-ce", "evaluation": "autoattack", "attempted": 300, "broken": 3},
            {"name": "apgd-t", "evaluation": "autoattack", "attempted": 297, "broken": 2},
        ],
        "curve": [
            {
                "epsilon": name,
                "value": value,
                "robust_accuracy": clean - (clean - robust) * value / 0.1875,
            }
            for value, name in steps
        ],
        "certified_curve": [
            {
                "epsilon": name,
                "value": value,
                "certified_accuracy": max(0.0, clean - (clean - certified) * value / 0.1875),
                "methods": {"crown": 200, "ibp": 20},
            }
            for value, name in steps
        ],
        "outcomes": outcomes,
    }


def board_frame():
    """18 rows: two dense, three controls at five sparsities (one failed), one of another tier."""
    generator = np.random.default_rng(2)
    rows = [
        make_row("dense", 0.0, outcomes_of(0.72, generator)),
        make_row("dense", 0.0, outcomes_of(0.005, generator), objective="benign"),
    ]
    for method, shares in ROBUST.items():
        for sparsity, robust in zip(SPARSITIES, shares, strict=True):
            rows.append(make_row(method, sparsity, outcomes_of(robust, generator)))
    rows[4] = make_row(
        "random",
        0.9,
        status="failed",
        reason="RuntimeError: logits are not finite",
        examples=np.nan,
    )
    rows[8]["flags"] = [
        {"name": "square-lowers-accuracy", "rate": 0.004, "detail": "3 of 594 examples"},
        {"name": "crown-ibp-for-crown", "rate": 1.0, "detail": "20,000 ReLU units, limit 10,000"},
        {
            "name": "brand-new <b>flag</b>",
            "rate": float("nan"),
            "detail": "<img src=x onerror=alert(1)>",
        },
    ]
    rows[8]["smoothed_accuracy"], rows[8]["smoothed_radius"] = 0.81, 0.5
    rows[8]["smoothed_sigma"], rows[8]["smoothed_examples"] = 0.25, 100
    rows[9]["display_name"] = HOSTILE
    rows[9]["paper"], rows[9]["code"] = (
        "javascript:alert(1)",
        'https://example.org/a?b=1&c="><script>',
    )
    rows[9]["checkpoint_id"] = "../../etc/<script>/passwd"
    rows[9]["environment"] = {"<i>python": "</dd><script>"}
    rows[9]["certified_accuracy"], rows[9]["certified_curve"] = float("nan"), []
    quick = outcomes_of(0.7, generator, 100)
    rows.append(make_row("dense", 0.0, quick, tier="quick", examples=100))
    return pd.DataFrame(rows)


def evidence_frame():
    """The board again, with evidence, a challenge, a row that gets no rank, and seeds."""
    frame = board_frame()
    rows = frame.to_dict("records")
    strips = [strip_of("apgd-ce"), strip_of("apgd-t", 3, total=3), strip_of("pgd", total=77)]
    strips[2]["evaluation"] = "pgd"
    files = [
        {"file": f"{start:06d}.npz", "bytes": size, "sha256": "ab" * 32, "inputs": inputs}
        for start, size, inputs in ((0, 34_200, 180), (512, 5_100, 21))
    ]
    rows[16].update(strips=strips, evidence=files)
    rows[15].update(evidence=files, challenges=CHALLENGES)
    rows[15].update(measured(outcomes_of(0.61, np.random.default_rng(4), best_known=0.58)))
    rows[6]["flags"] = [
        {"name": "zero-gradients", "rate": 0.31, "detail": "184 of 594 examples"},
        {"name": "zero-gradients-in-attack", "rate": 0.02, "detail": "12 of 594 examples"},
    ]
    rows[6]["unrankable"] = "zero-gradients at 31.0 %, tolerated up to 5.0 %"
    generator = np.random.default_rng(5)
    for seed, robust in ((1, 0.63), (2, 0.67)):
        rows.append(make_row("lwm-global", 0.9, outcomes_of(robust, generator), seed=seed))
    return pd.DataFrame(rows)


CHALLENGES = [
    {
        "credit": "Ada L.",
        "attack": "momentum with restarts",
        "broken": 15,
        "date": "2026-03-01",
    },
    {"credit": HOSTILE, "attack": "</td><script>x", "broken": 3, "date": "<b>soon</b>"},
]


def other_pages():
    """Protocols that have no rows yet."""
    return [
        protocol_page(
            id="mnist-linf",
            title="MNIST, Linf",
            threat="Linf 3/10",
            digest="0" * 64,
            tiers={"quick": 200, "standard": 1000, "full": 10_000},
        ),
        protocol_page(
            id="cifar10-linf",
            title="CIFAR-10, Linf",
            threat="Linf 8/255",
            digest="1" * 64,
            tiers={"quick": 100, "standard": 1000, "full": 10_000},
        ),
    ]
