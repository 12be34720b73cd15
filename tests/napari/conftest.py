"""A small result for the tests of the panel. Tests that open windows are in ``screen``: `make test-panel`."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from mxsplicer.splicer.moment_names import names_of_moments


def pytest_ignore_collect(collection_path, config):
    """Skip the tests that open windows unless pytest-qt is loaded."""
    return True if "screen" in collection_path.parts and not config.pluginmanager.has_plugin("pytest-qt") else None


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """Return the folder of a small result; read only."""
    from mxsplicer import simulate_result

    return simulate_result(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="session")
def returned():
    """Return a function that runs a generator to its end and returns its result."""

    def run(generator):
        while True:
            try:
                next(generator)
            except StopIteration as end:
                return end.value

    return run


@pytest.fixture(scope="session")
def named(sample, tmp_path_factory) -> Path:
    """Return the sample as a result whose features have names, of moments and learned; read only."""
    folder = shutil.copytree(sample, tmp_path_factory.mktemp("named") / "named.mxs")
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    markers, n = list(adata.var_names[:4]), adata.obsm["X_splicer"].shape[1]
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    names = names_of_moments(markers, {"together": pairs, "near": pairs, "along": pairs})
    shares = np.tile(np.float32([0.7, 0.3]), (n, 1))
    adata.uns["mxsplicer"] = dict(adata.uns.get("mxsplicer", {})) | {
        "method": "splicer",
        "features": np.array([*names, *(f"learned {number + 1}" for number in range(n - len(names)))]),
        "chunks": {"component": np.array(markers[:2]), "share": shares},
    }
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


@pytest.fixture
def two_slides(sample, tmp_path):
    """Return a result of two slides with the same ids: half of the sample's cells are assigned to a second slide."""
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


@pytest.fixture(scope="session")
def clustered(sample, tmp_path_factory) -> Path:
    """Return the sample with eighteen clusters, whose verdicts are stored; read only."""
    from mxsplicer import tl

    folder = shutil.copytree(sample, tmp_path_factory.mktemp("clustered") / "clustered.mxs")
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    code = pd.factorize(adata.obs["lineage"])[0] % 6 + 6 * (np.arange(adata.n_obs) % 3)
    adata.obs["leiden"] = pd.Categorical.from_codes(code, [str(one) for one in range(18)])
    tl.explain_clusters(adata)
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


@pytest.fixture
def own_clustered(clustered, tmp_path) -> Path:
    """Return a copy of the sample with clusters, in which names can be saved."""
    return shutil.copytree(clustered, tmp_path / "own.mxs")
