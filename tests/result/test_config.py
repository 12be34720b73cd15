"""Options written as TOML or as on the command line are the options that were given."""

import json
import tomllib

import pytest

from mxsplicer.result.config import write_config
from mxsplicer.result.options import Options, Running, names_slides, read_option, write_options
from mxsplicer.result.settings import describe_differences
from mxsplicer.result.slides import SlideRecord
from mxsplicer.splicer.recipe import PRESETS, Recipe
from mxsplicer.splicer.views import Views


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(loss="sigreg", losses={"CD8a": "simclr"}, weights={"HLA=DR": 2.0}, surroundings="keep"),
        Recipe(widths={"CD4": 24}, omit=("AF1", "Argo550"), epochs=3),
        Recipe(**PRESETS["paper"]),
    ],
)
def test_a_recipe_written_as_options_is_read_again(recipe):
    made = {}
    for name, value in write_options(vars(recipe)).items():
        made |= read_option(name, value)

    assert Recipe(**made) == recipe


def test_a_result_made_with_a_setting_that_was_removed_was_made_differently():
    now = {"options": {"epochs": 3}, "inputs": {}, "files": {}}

    assert describe_differences(now | {"options": {"epochs": 3, "width_rule": "equal"}}, now) == []
    differences = describe_differences(now | {"options": {"epochs": 3, "width_rule": "rank"}}, now)
    assert differences == ["width-rule was rank, which was removed"]


def test_groups_of_markers_are_kept_with_the_options(tmp_path):
    recipe = Recipe(deconstruction="marker+groups", groups={"T cells": ("CD3e", "CD8a")})

    write_config(tmp_path / "config.toml", Options(recipe=recipe), Running(max_bytes=1 << 30))

    config = tomllib.loads((tmp_path / "config.toml").read_text())
    assert config["deconstruct"] == f"marker+{(tmp_path / 'groups.yaml').resolve()}"
    assert json.loads((tmp_path / "groups.yaml").read_text()) == {"T cells": ["CD3e", "CD8a"]}
    assert config["max-memory"] == str(1 << 30)


def test_what_only_python_can_express_is_a_comment(tmp_path):
    slide = SlideRecord("mine", tmp_path / "S01.ome.tiff", mask=tmp_path / "mask.tiff")

    write_config(tmp_path / "config.toml", Options(recipe=Recipe(views=Views(upright=True))), Running(), slides=[slide])

    text = (tmp_path / "config.toml").read_text()
    assert "# The views were given in Python: Views(" in text
    assert "# The slides were given in Python" in text
    assert not {"views", "slides"} & tomllib.loads(text).keys()


@pytest.mark.parametrize(
    ("header", "names"),
    [("slide,path,patient", True), ("slide\tpath", True), ("# of a study\nslide,patient", False), ("", False)],
)
def test_a_table_names_slides_if_it_has_their_paths(tmp_path, header, names):
    (tmp_path / "slides.csv").write_text(header + "\nS01,S01.tif,P1\n")

    assert names_slides(tmp_path / "slides.csv") is names
