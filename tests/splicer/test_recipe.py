import json
import subprocess
import sys

import pytest

from mxsplicer.errors import InputError
from mxsplicer.splicer.recipe import PRESETS, Recipe
from mxsplicer.splicer.views import Views


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(**PRESETS["paper"]),
        Recipe(views=Views(scale=(0.9, 1.1)), seed=4),
        Recipe(deconstruction="marker+groups", groups={"T cells": ("CD3e", "CD8a")}, omit=("AF1",), widths={"CD3e": 4}),
    ],
)
def test_a_recipe_comes_back_from_the_settings_of_a_run(recipe):
    settings = json.loads(json.dumps(recipe.to_settings() | {"steps": 20, "n_cells": 81}))

    assert Recipe.from_settings(settings) == recipe


def test_what_an_older_run_does_not_say_is_as_by_default():
    assert Recipe.from_settings({"method": "joint"}) == Recipe(method="joint")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mse"}, "there is no loss 'mse'; there are vicreg"),
        ({"surroundings": "blur"}, "there is no surroundings 'blur'; there are hide, keep"),
        ({"views": "sideways"}, "sideways"),
        ({"chunk_width": 0}, "chunk width is 0; it has to be at least 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"redundancy_weight": -1.0}, "redundancy weight is -1.0; it has to be at least 0"),
        ({"covariance_scope": "embedding", "loss": "simclr"}, "covariance is a term of the loss vicreg"),
        ({"groups": {"T": ("CD3e",)}}, "groups of markers are given and not used"),
        ({"learning_rate": float("nan")}, "learning rate is nan; it has to be above 0"),
    ],
)
def test_what_no_training_could_use_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Recipe(**changes)


def test_defaults_are_known_without_torch():
    code = "import sys, mxsplicer.splicer.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
