import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mxsplicer import tl
from mxsplicer.errors import InputError


def tissue(n_slides=1):
    """Return cells whose clusters 0 and 1 are mixed on the left, with cluster 2 on the right."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 300, (600, 2))
    left = points[:, 0] < 150
    cluster = np.where(left, rng.integers(0, 2, 600), 2)
    obs = pd.DataFrame({"leiden": pd.Categorical(cluster.astype(str))}, index=[f"S_{i}" for i in range(600)])
    obs["slide"] = pd.Categorical([f"S{i % n_slides}" for i in range(600)])
    return AnnData(obs=obs, obsm={"spatial": points})


@pytest.mark.parametrize("n_slides", [1, 2])
def test_clusters_of_one_region_are_neighbours_and_those_of_two_are_not(n_slides):
    pytest.importorskip("squidpy")
    adata = tissue(n_slides)

    z = tl.enrich_neighbourhoods(adata, n_permutations=50)

    assert z.loc["0", "1"] > 2
    assert z.loc["0", "2"] < -2
    assert adata.uns["leiden_nhood_enrichment"]["zscore"].shape == (3, 3)


def test_without_squidpy_the_error_explains_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "squidpy", None)

    with pytest.raises(InputError, match="pip install squidpy"):
        tl.enrich_neighbourhoods(tissue())


def test_one_cluster_raises():
    pytest.importorskip("squidpy")
    adata = tissue()
    adata.obs["one"] = "a"

    with pytest.raises(InputError, match="'one' has 1 clusters"):
        tl.enrich_neighbourhoods(adata, groupby="one")
