"""The claims of the five papers: what each says, with its source, and what counts as reproduced.

One literal table. Sources are the papers as far as they were at hand (tables of the authors'
repositories, abstracts, scripts); where they print no figure the entry says so. Every threshold is
fixed here, whatever the rows say.
"""

from dataclasses import dataclass

from benchmark.findings.judging import Better, Cheaper, HigherCurve, Judge, Keeps, Steadier

ATTACKED = ("adversarial", "trades")
BOUNDED = ("crown-ibp", "mixtrain")
SMOOTHED = ("smoothing",)

# Shares of the dense network's accuracy that must be kept.
COMPACT_ROBUST, COMPACT_CERTIFIED, NEARLY_ALL = 0.925, 0.85, 0.95

LAYERWISE, GLOBAL = "lwm-layerwise", "lwm-global"

# PwoA with the weights of its bottleneck that its authors have for MNIST, and with its defaults.
PWOA = ("pwoa:lambda-x=0.0002:lambda-y=5e-05", "pwoa")

# BAP with its defaults, and where DeepFool looks at fewer classes to save time.
BAP = ("bap", "bap:candidates=4")

_HYDRA = "HYDRA, NeurIPS 2020 (results table in the authors' repository)"
_COMPACT = "Towards Compact and Robust Deep Neural Networks, 2019 (abstract)"
_ATMC = "ATMC, NeurIPS 2019 (figure of the authors' repository; it prints curves and no numbers)."
_BAP = "Blind Adversarial Pruning, 2020 (abstract; no figure was at hand)."
_PWOA = "PwoA, ICDM 2022 (abstract and the authors' scripts; no table was at hand)"

_EVERY_SEED = (
    "Reproduced if it is better for every seed and objective by the exact McNemar test at 0.05, "
    "corrected after Holm for all these tests; partly if for some of them. Seeds for which neither "
    "network learned, both at 1.5 times the accuracy of guessing or less on clean examples, do not "
    "count. Neither does the size of the lead: data and networks are not the paper's."
)


@dataclass(frozen=True)
class Claim:
    """What a paper says and how it is looked at; the texts are as in `values.Finding`."""

    key: str
    title: str
    says: str
    source: str
    counts_as: str
    judge: Judge


def _gain(percent: int, figures: str) -> Claim:
    return Claim(
        f"hydra-{percent}",
        f"HYDRA: more robust than magnitude pruning at {percent} %",
        f"At {percent} % sparsity HYDRA's networks are more robust than those of layerwise "
        "magnitude pruning, which get the same training.",
        f"{_HYDRA}: {figures} points of accuracy under PGD, CIFAR-10, trained by TRADES, in the "
        "released scripts with pseudo-labelled images besides.",
        _EVERY_SEED,
        Better("hydra", LAYERWISE, percent / 100, ATTACKED),
    )


CLAIMS: tuple[Claim, ...] = (
    _gain(99, "+7.4 (VGG-16) and +10.0 (WRN-28-4)"),
    _gain(95, "+3.5 (VGG-16) and +5.0 (WRN-28-4)"),
    _gain(90, "+0.7 (VGG-16) and +1.4 (WRN-28-4)"),
    Claim(
        "hydra-smoothed",
        "HYDRA: more certified by smoothing at 99 %",
        "The gain holds for certificates by randomized smoothing, after training for them.",
        f"{_HYDRA}: +10.3 (VGG-16) and +6.9 (WRN-28-4) points at 99 % on CIFAR-10.",
        _EVERY_SEED,
        Better("hydra", LAYERWISE, 0.99, SMOOTHED, "smoothed"),
    ),
    Claim(
        "hydra-certified",
        "HYDRA: more certified by bounds at 99 %",
        "The gain holds for certificates by bounds, after MixTrain or CROWN-IBP.",
        "HYDRA, NeurIPS 2020 (its tables for these objectives were not at hand).",
        _EVERY_SEED,
        Better("hydra", LAYERWISE, 0.99, BOUNDED, "certified"),
    ),
    Claim(
        "hydra-keeps",
        "HYDRA: keeps certified accuracy at 90 %",
        "At 90 % sparsity next to nothing of the certified accuracy is lost.",
        f"{_HYDRA}: 60.7 of 61.1 (VGG-16) and 63.0 of 63.3 (WRN-28-4) certified by smoothing on "
        "CIFAR-10. Looked at here is the accuracy that bounds certify.",
        "Reproduced if for every certified objective at least 95 % of the dense network's "
        "certified accuracy is kept, as the mean over the seeds; partly if for one of them.",
        Keeps(("hydra",), 0.9, NEARLY_ALL, BOUNDED, "certified"),
    ),
    Claim(
        "compact-robust",
        "Compact and robust: keeps robust accuracy at 90 %",
        "Pruned tenfold with a robust objective before and after, networks keep most of their "
        "robust accuracy.",
        f"{_COMPACT}: 92.5 % of it, on average over four networks on CIFAR-10.",
        "Reproduced if at least 92.5 % of the dense network's robust accuracy is kept under every "
        "attacked objective, as the mean over the seeds; partly if under one of them.",
        Keeps(("compact-robust",), 0.9, COMPACT_ROBUST, ATTACKED),
    ),
    Claim(
        "compact-certified",
        "Compact and robust: keeps certified accuracy at 90 %",
        "With verifiable training before and after, tenfold pruned networks keep most of their "
        "certified accuracy.",
        f"{_COMPACT}: 85.0 % of it, on average over four networks on CIFAR-10.",
        "Reproduced if at least 85 % of the dense network's certified accuracy is kept under every "
        "certified objective, as the mean over the seeds; partly if under one of them.",
        Keeps(("compact-robust",), 0.9, COMPACT_CERTIFIED, BOUNDED, "certified"),
    ),
    Claim(
        "atmc",
        "ATMC: more robust than adversarial pruning at 99 %",
        "At high compression one constrained training keeps more robustness than pruning an "
        "adversarially trained network by magnitude and finetuning it.",
        f"{_ATMC} Its baseline AP stands here as global magnitude pruning: as in ATMC, one "
        "budget for all layers.",
        _EVERY_SEED,
        Better("atmc", GLOBAL, 0.99, ATTACKED),
    ),
    Claim(
        "atmc-bits",
        "ATMC: 8 bits are enough at 90 %",
        "Weights can be quantised in the same training, to 8 bits, and the network stays robust.",
        _ATMC,
        "Reproduced if at least 95 % of the robust accuracy of ATMC without quantisation is kept, "
        "as the mean over the seeds.",
        Keeps(("atmc:bits=8",), 0.9, NEARLY_ALL, ATTACKED, of="atmc"),
    ),
    Claim(
        "bap-schedule",
        "BAP: depends less on the schedule",
        "Blind adversarial pruning depends less on when sparsity is reached than gradual pruning "
        "against attacks of one strength.",
        _BAP,
        "Reproduced if the standard deviation over ends of the schedule, in the mean over the "
        "seeds, is smaller for robust accuracy and for AER's robustness; partly if for one.",
        Steadier("bap", "adversarial-gradual", 0.9, ATTACKED),
    ),
    Claim(
        "bap-curve",
        "BAP: robust over a wider range of epsilons at 90 %",
        "The whole curve of accuracy against the strength of the attack improves over gradual "
        "pruning against attacks of one strength.",
        _BAP,
        "Reproduced if for every seed the mean accuracy from epsilon 0 to the largest attacked "
        "(AER's robustness) is higher and its 95 % interval lies above the other one.",
        HigherCurve(BAP, "adversarial-gradual", 0.9, ATTACKED),
    ),
    Claim(
        "pwoa",
        "PwoA: stays near its teacher at 75 %",
        "A robust network can be pruned on clean images alone and stays about as robust as it was.",
        f"{_PWOA}: 75 % of the weights are removed.",
        "Reproduced if at 75 % at least 95 % of the teacher's robust accuracy is kept, as the mean "
        "over the seeds. The teacher is the dense network.",
        Keeps(PWOA, 0.75, NEARLY_ALL, ATTACKED),
    ),
    Claim(
        "pwoa-cost",
        "PwoA: without adversarial examples, and cheaper",
        "Pruning needs no adversarial example, and so a fraction of the time.",
        f"{_PWOA}.",
        "Reproduced if no batch of pruning and finetuning costs an attack step and, for every "
        "seed, it takes fewer hours on the same device than compact-robust, which has as many "
        "epochs; partly if one of the two.",
        Cheaper(PWOA, "compact-robust", 0.9, ATTACKED),
    ),
)
