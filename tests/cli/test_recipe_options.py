from dataclasses import fields, replace

import pytest

from mxsplicer.cli.options import recipe_from_options
from mxsplicer.errors import InputError
from mxsplicer.result.options import NAMES
from mxsplicer.splicer.recipe import PRESETS, Recipe


def test_options_come_on_top_of_a_preset():
    recipe = recipe_from_options(("paper", {"epochs": 3}))

    assert recipe == replace(Recipe(**PRESETS["paper"]), epochs=3)
    assert recipe_from_options(("default", {})) == Recipe()


@pytest.mark.parametrize(
    ("option", "given", "fields"),
    [
        (
            "loss",
            ["sigreg", "CD8a=simclr", "HLA=DR=vicreg"],
            {"loss": "sigreg", "losses": {"CD8a": "simclr", "HLA=DR": "vicreg"}},
        ),
        ("loss", ["CD8a=simclr"], {"losses": {"CD8a": "simclr"}}),
        ("component_weight", ["CD8a=2", "DAPI=0.5"], {"weights": {"CD8a": 2.0, "DAPI": 0.5}}),
        ("chunk_width", ["16", "CD4=24"], {"chunk_width": 16, "widths": {"CD4": 24}}),
        ("no_component", ["AF1", "Argo550"], {"omit": ("AF1", "Argo550")}),
        ("deconstruct", "marker+halves", {"deconstruction": "marker+halves"}),
    ],
)
def test_an_option_can_be_given_for_single_components(option, given, fields):
    assert recipe_from_options((None, {option: given})) == Recipe(**fields)


def test_a_file_of_groups_becomes_part_of_the_recipe(tmp_path):
    (tmp_path / "pairs.yaml").write_text("T cells: [CD3e, CD8a]")

    recipe = recipe_from_options((None, {"deconstruct": f"marker+{tmp_path / 'pairs.yaml'}"}))

    assert recipe == Recipe(deconstruction="marker+groups", groups={"T cells": ("CD3e", "CD8a")})


@pytest.mark.parametrize(
    ("option", "given", "message"),
    [
        ("component_weight", ["2"], "`component_weight` 2 does not name a component"),
        ("component_weight", ["CD8a=much"], "`component_weight` 'much' is not a number"),
        ("component_weight", ["CD8a=0"], "weight of CD8a is 0.0; it must be above 0"),
        ("chunk_width", ["CD8a=2.5"], "`chunk_width` '2.5' is not an integer"),
        ("chunk_width", ["variance", "16"], "`chunk_width` 'variance' is not an integer"),
        ("loss", ["barlow"], "loss 'barlow' not found. Choose `loss` from vicreg, simclr, sigreg, module:Class"),
        ("loss", ["CD8a=mse"], "loss 'mse' not found"),
        ("deconstruct", "groups", "no groups of markers are given. Name their file"),
        ("deconstruct", "marker+thirds", "deconstruction 'thirds' not found"),
    ],
)
def test_an_invalid_value_is_refused(option, given, message):
    with pytest.raises(InputError, match=message):
        recipe_from_options((None, {option: given}))


@pytest.mark.parametrize("name", ["train", "embed"])
def test_every_field_of_a_recipe_has_an_option(command, name):
    shown = command(name, "--help-all").out
    with_another = {"losses": "loss", "widths": "chunk_width", "groups": "deconstruct"}
    for field in fields(Recipe):
        option = with_another.get(field.name, NAMES.get(field.name, field.name))
        assert f"--{option.replace('_', '-')}" in shown


def test_later_options_win_over_earlier_ones_and_their_presets():
    of_file = ("default", {"epochs": 7, "deconstruct": "marker", "chunk_width": ["CD4=16"]})

    recipe = recipe_from_options(of_file, ("paper", {"epochs": 3}))

    assert recipe == replace(Recipe(**PRESETS["paper"]), epochs=3, widths={"CD4": 16})
