import json
import subprocess
import sys

import pytest

from mxsplicer.errors import InputError
from mxsplicer.splicer.encoders import ResNet
from mxsplicer.splicer.objectives import find_objective
from mxsplicer.splicer.recipe import PRESETS, Recipe
from mxsplicer.splicer.views import Views
from mxsplicer.testing import check_objective


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


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write a user's own file into the current folder."""
    (tmp_path / "mine_of_recipes.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield "mine_of_recipes"
    sys.modules.pop("mine_of_recipes", None)


OWN = """
from mxsplicer.splicer.deconstruction import Component, interior
from mxsplicer.splicer.losses.vicreg import VICReg
from mxsplicer.splicer.objectives import Objective
from mxsplicer.splicer.objectives.splicer import Splicer

class Both(Splicer):
    "SpliCER, and two views of the whole held to each other."

    def pictures(self, *given):
        return (*super().pictures(*given), super().pictures(*given)[0])

    def embed(self, *views):
        return *super().embed(*views[:-1]), self.projector(self.encoder(views[-1]))

    def terms(self, z, *e):
        joint = self.whole(e[0], e[-1])["invariance"] / len(self.chunk_names)
        return super().terms(z, *e[:-1]) | {"joint": joint.expand(len(self.chunk_names))}

class Unfinished(Objective):
    def embed(self, *views):
        return views

class Stiff(VICReg):
    def __init__(self):
        super().__init__(invariance_weight=50.0)

class Wordless:
    pass

class PerCell(VICReg):
    def terms(self, e_a, e_b):
        return {"difference": (e_a - e_b).pow(2).mean(dim=1)}

def in_pairs(markers):
    return [Component("a pair", (0, 1))]

def beyond(markers):
    return [Component("a pair", (0, 99))]

def cores(markers):
    return (Component(f"{name} core", (i,), lambda regions: interior(regions)) for i, name in enumerate(markers))

def wide(markers):
    return [Component("everything", (0,), lambda regions: regions >= 0)]

def crooked(markers):
    return [Component("a corner", (0,), lambda regions: regions[:, :3, :3] > 0)]

def words(markers):
    return list(markers)

def none(markers):
    return []

def late(markers):
    return [Component(markers[7], (7,))]
"""


def objective(recipe, markers=("DAPI", "CD3e")):
    components = recipe.components(markers)
    return recipe.objective(ResNet(2, 16, width=4), components, [8] * len(components), patch_px=16)


def test_an_objective_of_ones_own_keeps_the_contract_with_a_view_more(mine):
    check_objective(find_objective(f"{mine}:Both"))


def test_a_part_of_ones_own_that_stays_within_the_cell_needs_no_surroundings(mine):
    assert objective(Recipe(deconstruction=f"{mine}:cores")).chunk_names == ("DAPI core", "CD3e core")


def test_losses_and_deconstructions_of_ones_own_are_taken_by_name(mine):
    made = objective(Recipe(loss=f"{mine}:Stiff", deconstruction=f"marker+{mine}:in_pairs"))

    assert made.chunk_names == ("DAPI", "CD3e", "a pair")
    assert made.chunks.losses[0].invariance_weight == 50.0
    assert made.chunks.losses[0] is made.chunks.losses[2]  # so that all chunks are computed at once


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mine_of_recipes:Wordless"}, "loss 'mine_of_recipes:Wordless' fails on embeddings .*AttributeError"),
        ({"loss": "mine_of_recipes:PerCell"}, r"terms of loss .* are {'difference': \(3, 8\)} for 3 chunks"),
        ({"loss": "mine_of_recipes:Gone"}, "has no 'Gone' to call as a loss"),
        (
            {"deconstruction": "mine_of_recipes:beyond"},
            r"gives component 'a pair' the channels \(0, 99\), of 2; it must",
        ),
        ({"deconstruction": "mine_of_recipes:wide"}, "component everything shows more than the cell"),
        ({"deconstruction": "mine_of_recipes:crooked"}, "part of component 'a corner' that is no mask"),
        ({"deconstruction": "mine_of_recipes:words"}, "returns str among its components"),
        ({"deconstruction": "mine_of_recipes:none"}, "returns no component"),
        ({"deconstruction": "mine_of_recipes:late"}, "fails on 2 markers .*IndexError"),
        ({"method": "mine_of_recipes:Stiff"}, "no subclass of mxsplicer.splicer.objectives.Objective"),
        ({"method": "mine_of_recipes:Unfinished"}, "has no pairs and no terms"),
    ],
)
def test_what_is_no_part_of_a_recipe_is_refused_in_a_sentence(mine, changes, message):
    with pytest.raises(InputError, match=message):
        objective(Recipe(**changes))


def test_a_recipe_is_read_without_running_what_it_names():
    recipe = Recipe.from_settings(
        {"loss": "no.such:Loss", "method": "no.such:Method", "deconstruction": "no.such:parts"}
    )

    assert recipe.own_code() == ("no.such:Method", "no.such:Loss", "no.such:parts")


def test_defaults_are_known_without_torch():
    code = "import sys, mxsplicer.splicer.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
