"""Recipes: what their stages train, and digests that old checkpoints depend on."""

from dataclasses import fields
from fractions import Fraction

import pytest
from tiny import LINF

from benchmark.datasets import DATASETS
from benchmark.errors import UnknownName
from benchmark.objectives import OBJECTIVES, CrownIbp, MixTrain, Ramp, Smoothing
from benchmark.recipes import RECIPES, objective_of, recipe

# The first eight digits, as checkpoints in the manifest carry them.
DIGESTS = {
    "digits": "6442fa40",
    "mnist-short": "0df0c634",
    "mnist-board": "0518341b",
    "mnist-board-certified": "1f9678e2",
    "cifar10-short": "511636b5",
    "cifar10-literature": "bc5bc50b",
    "cifar10-jpeg-short": "5d05873a",
    "cifar100-literature": "761e5f17",
    "svhn-literature": "e5129858",
}


def test_recipes_that_checkpoints_name_stay_what_they_are():
    assert {name: RECIPES[name].digest[:8] for name in DIGESTS} == DIGESTS


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_entered_under_its_id_for_a_known_data_set(name):
    assert recipe(name).id == name
    assert recipe(name).dataset in DATASETS


@pytest.mark.parametrize("name", ["digits-certified", "mnist-certified", "mnist-board-certified"])
def test_certified_recipes_train_the_networks_of_the_others_with_adam(name):
    others = {"mnist-certified": "mnist-short"}
    other = RECIPES[others.get(name, name.removesuffix("-certified"))]
    chosen = recipe(name)
    assert (chosen.dataset, chosen.architecture) == (other.dataset, other.architecture)
    assert {chosen.pretrain.optimiser, chosen.prune.optimiser, chosen.finetune.optimiser} == {
        "adam"
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_pretraining_ramps(name):
    chosen = recipe("digits-certified")
    stages = {
        stage: objective_of(name, LINF, chosen, stage)
        for stage in ("pretrain", "prune", "finetune")
    }
    assert stages["prune"] == stages["finetune"]
    named = {field.name for field in fields(stages["prune"])}
    assert getattr(stages["prune"], "ramp", Ramp()) == Ramp()
    assert getattr(stages["prune"], "warmup", Fraction(0)) == 0
    ramps = {"ramp", "warmup"} & named
    assert (stages["pretrain"] == stages["prune"]) == (not ramps)


def test_pretraining_ramps_as_the_papers_do():
    chosen = recipe("mnist-certified")
    assert objective_of("crown-ibp", LINF, chosen, "pretrain") == CrownIbp(
        LINF, Ramp(Fraction(0), Fraction(60, 100)), 0.0, 0.0, 0.0
    )
    assert objective_of("mixtrain", LINF, chosen, "pretrain") == MixTrain(
        LINF, Ramp(Fraction(0), Fraction(10, 60)), 0.8, 5, 0.1, 2.5, Fraction(5, 60), 50.0
    )
    assert objective_of("smoothing", LINF, chosen, "pretrain") == Smoothing(0.25, 6.0)


def test_unknown_names_are_named():
    with pytest.raises(UnknownName, match="mnist-certified"):
        recipe("mnist-certifed")
    with pytest.raises(UnknownName, match="crown-ibp"):
        objective_of("crown-ib", LINF, recipe("digits"), "prune")
