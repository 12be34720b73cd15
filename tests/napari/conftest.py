"""A small result for the panel's tests. Those that need a screen, in ``screen``, are run by `make test-panel`."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest


def pytest_ignore_collect(collection_path, config):
    """Leave out what opens windows, unless pytest-qt was asked for."""
    return True if "screen" in collection_path.parts and not config.pluginmanager.has_plugin("pytest-qt") else None


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """Return the folder of a small result; read only."""
    from mxsplicer import simulate_result

    return simulate_result(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="session")
def returned():
    """Return what runs a generator to its end and returns what it returns."""

    def run(generator):
        while True:
            try:
                next(generator)
            except StopIteration as end:
                return end.value

    return run


@pytest.fixture
def two_slides(sample, tmp_path):
    """Return a result of two slides, whose ids are the same: half the cells of the sample are of another."""
    folder = tmp_path / "two.mxs"
    folder.mkdir()
    index = json.loads((sample / "mxsplicer.json").read_text())
    first = index["slides"][0]
    index["slides"] = [first, first | {"name": "second"}]
    (folder / "mxsplicer.json").write_text(json.dumps(index))
    adata = anndata.read_h5ad(sample / "cells.h5ad")
    adata.obs["slide"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, "second", first["name"]))
    adata.write_h5ad(folder / "cells.h5ad")
    return folder
