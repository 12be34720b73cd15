import numpy as np
import pandas as pd
import pytest
from anndata import AnnData


@pytest.fixture
def adata():
    """Return 40 cells on two slides with clusters, a UMAP, positions and correlations."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"slide": ["a", "b"] * 20, "leiden": pd.Categorical(["0", "1", None, "0"] * 10), "area_um2": 50.0},
        index=[str(i) for i in range(40)],
    )
    cells = AnnData(
        rng.gamma(2, 10, (40, 3)).astype(np.float32), obs=obs, var=pd.DataFrame(index=["DAPI", "CD4", "CD8"])
    )
    cells.obsm["spatial"], cells.obsm["X_umap"] = rng.uniform(0, 100, (40, 2)), rng.normal(size=(40, 2))
    cells.varm["splicer_correlation"] = rng.uniform(-1, 1, (3, 8))
    return cells
