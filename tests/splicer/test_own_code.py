"""Code of a user's own, from training to embedding: what a user names is imported, what a file names is not."""

import sys

import numpy as np
import pytest

from mxsplicer.embedding.embed import embed
from mxsplicer.errors import InputError
from mxsplicer.splicer import training
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import load_run, untrained
from mxsplicer.splicer.training import train
from mxsplicer.testing import tiny_store

MINE = """
from pathlib import Path
from torch import nn

Path("imported").touch()

class Mine(nn.Module):
    def __init__(self, n_markers, patch_px, width):
        super().__init__()
        self.convolution = nn.Conv2d(n_markers, width, 5)

    def forward(self, x):
        return self.convolution(x).relu().mean(dim=(2, 3))
"""


RECIPE = Recipe(encoder="own_module:Mine", encoder_width=6, epochs=1, component_width=4, chunk_width=4)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a user's own file into the current folder."""
    file = tmp_path / "own_module.py"
    file.write_text(MINE)
    monkeypatch.chdir(tmp_path)
    yield file
    sys.modules.pop("own_module", None)


@pytest.fixture
def store():
    return tiny_store(cells_at=[(y, x) for y in (12, 32, 52) for x in (16, 48, 80)])


@pytest.fixture
def run(own, store, tmp_path):
    run = train(store, tmp_path / "run", recipe=RECIPE)
    del sys.modules["own_module"]
    (tmp_path / "imported").unlink()
    return run, store


def test_a_run_never_imports_the_class_that_it_names(run, tmp_path):
    with pytest.raises(
        InputError, match=r"its author's class own_module:Mine, and no code is run .* pass `encoder='own_module:Mine'`"
    ):
        load_run(tmp_path / "run")

    assert "own_module" not in sys.modules
    assert not (tmp_path / "imported").exists()


def test_a_run_with_a_class_of_ones_own_embeds_when_that_is_named_again(run, tmp_path):
    trained, store = run

    again = load_run(tmp_path / "run", encoder="own_module:Mine")

    z = embed(again, store).obsm["X_splicer"]
    assert z.shape == (9, 6)
    np.testing.assert_array_equal(z, embed(trained, store).obsm["X_splicer"])
    assert not np.allclose(z, embed(untrained(again), store).obsm["X_splicer"])


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_run_that_was_interrupted_does_not_go_on_with_other_code(own, store, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "run", recipe=RECIPE)
    own.write_text(MINE.replace("relu()", "tanh()"))

    with pytest.raises(InputError, match="or with other code of yours"):
        train(store, tmp_path / "run", recipe=RECIPE)

    own.write_text(MINE)
    with pytest.raises(KeyboardInterrupt):  # it goes on
        train(store, tmp_path / "run", recipe=RECIPE)
