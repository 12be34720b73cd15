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


def test_fields_that_an_older_run_lacks_have_their_defaults():
    assert Recipe.from_settings({"method": "joint"}) == Recipe(method="joint")


def test_settings_that_were_removed_are_ignored_unless_they_changed_the_training():
    assert Recipe.from_settings({"epochs": 3, "width_rule": "equal", "controls": []}) == Recipe(epochs=3)
    views = {"shared_geometry": True, "spanning": False}
    assert Recipe.from_settings({"views": views}) == Recipe(views=Views(shared_geometry=True))
    with pytest.raises(InputError, match=r"`views` is 'spanning' .* removed. Leave out `views`"):
        Recipe.from_settings({"views": {"spanning": True}})
    with pytest.raises(InputError, match=r"`width_rule` is 'rank' .* removed. Leave out `width_rule`"):
        Recipe.from_settings({"width_rule": "rank"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mse"}, "loss 'mse' not found. Choose `loss` from vicreg"),
        ({"surroundings": "blur"}, "surroundings 'blur' not found. Choose `surroundings` from hide, keep"),
        ({"views": "sideways"}, "sideways"),
        ({"chunk_width": 0}, "`chunk_width` is 0; it must be at least 1"),
        ({"epochs": 0}, "`epochs` is 0"),
        ({"redundancy_weight": -1.0}, "`redundancy_weight` is -1.0; it must be at least 0"),
        ({"groups": {"T": ("CD3e",)}}, "groups of markers are given but not used"),
        ({"learning_rate": float("nan")}, "`learning_rate` is nan; it must be above 0"),
    ],
)
def test_impossible_settings_raise(changes, message):
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
from mxsplicer.splicer.objectives import ExtendedSplicer, Objective

class Both(ExtendedSplicer):
    "SpliCER, and the invariance of two views of the whole."

    def view_inputs(self, *given):
        return (*super().view_inputs(*given), super().view_inputs(*given)[0])

    def embed(self, *views):
        return *super().embed(*views[:-1]), self.projector(self.encoder(views[-1]))

    def terms(self, z, *e):
        joint = self.whole(e[0], e[-1])["invariance"] / len(self.chunk_names)
        return super().terms(z, *e[:-1]) | {"joint": joint.expand(len(self.chunk_names))}

class Old(ExtendedSplicer):
    def pictures(self, *given):
        return super().view_inputs(*given)

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
    return recipe.objective(ResNet(2, 16, width=4), components, patch_px=16)


def test_chunks_are_equal_unless_another_width_is_given_for_a_component_or_its_marker():
    made = objective(Recipe(chunk_width=8, widths={"DAPI": 10, "CD3e rim": 7}))

    widths = dict(zip(made.chunk_names, made.chunks.widths, strict=True))
    assert widths == {"DAPI rim": 10, "CD3e rim": 7, "DAPI interior": 10, "CD3e interior": 8}


def test_a_users_objective_with_a_further_view_keeps_the_contract(mine):
    check_objective(find_objective(f"{mine}:Both"))


def test_a_users_component_within_the_cell_needs_no_surroundings(mine):
    assert objective(Recipe(deconstruction=f"{mine}:cores")).chunk_names == ("DAPI core", "CD3e core")


def test_a_users_losses_and_deconstructions_are_found_by_name(mine):
    made = objective(Recipe(loss=f"{mine}:Stiff", deconstruction=f"marker+{mine}:in_pairs"))

    assert made.chunk_names == ("DAPI", "CD3e", "a pair")
    assert made.chunks.losses[0].invariance_weight == 50.0
    assert made.chunks.losses[0] is made.chunks.losses[2]  # so that all chunks are computed at once


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mine_of_recipes:Wordless"}, "loss 'mine_of_recipes:Wordless' fails on embeddings .*AttributeError"),
        (
            {"loss": "mine_of_recipes:PerCell"},
            r"terms of loss .* have the shapes {'difference': \(3, 8\)} for 3 chunks",
        ),
        ({"loss": "mine_of_recipes:Gone"}, "has no 'Gone' to call as a loss"),
        (
            {"deconstruction": "mine_of_recipes:beyond"},
            r"gives component 'a pair' the channels \(0, 99\), of 2. It must",
        ),
        ({"deconstruction": "mine_of_recipes:wide"}, "component everything shows more than the cell"),
        ({"deconstruction": "mine_of_recipes:crooked"}, "component 'a corner' whose pixels are not booleans"),
        ({"deconstruction": "mine_of_recipes:words"}, "returns str among its components"),
        ({"deconstruction": "mine_of_recipes:none"}, "returns an empty list"),
        ({"deconstruction": "mine_of_recipes:late"}, "fails on 2 markers .*IndexError"),
        ({"method": "mine_of_recipes:Stiff"}, "not a subclass of mxsplicer.splicer.objectives.Objective"),
        ({"method": "mine_of_recipes:Old"}, "defines pictures, which is now view_inputs"),
        ({"method": "mine_of_recipes:Unfinished"}, "lacks pairs and terms"),
    ],
)
def test_unusable_code_of_a_user_raises_in_a_sentence(mine, changes, message):
    with pytest.raises(InputError, match=message):
        objective(Recipe(**changes))


def test_a_recipe_is_read_without_importing_what_it_names():
    recipe = Recipe.from_settings(
        {"loss": "no.such:Loss", "method": "no.such:Method", "deconstruction": "no.such:parts"}
    )

    assert recipe.own_code() == ("no.such:Method", "no.such:Loss", "no.such:parts")


def test_defaults_are_known_without_torch():
    code = "import sys, mxsplicer.splicer.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
