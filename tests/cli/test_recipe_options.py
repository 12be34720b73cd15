from dataclasses import fields, replace

import pytest

from mxsplicer.cli.options import make_recipe
from mxsplicer.splicer.recipe import PRESETS, Recipe


def test_options_come_on_top_of_a_preset():
    recipe = make_recipe("paper", {"epochs": 3})

    assert recipe == replace(Recipe(**PRESETS["paper"]), epochs=3)
    assert make_recipe("default", {}) == Recipe()


@pytest.mark.parametrize("name", ["train", "embed"])
def test_every_field_of_a_recipe_has_an_option(command, name):
    shown = command(name, "--help").out
    for field in fields(Recipe):
        assert f"--{field.name.replace('_', '-')}" in shown
