import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from mxsplicer import tl


def cells_in(clusters, seed=0):
    """Return cells with the given clusters, whose centres lie 10 apart on a line."""
    z = np.random.default_rng(seed).normal(size=(len(clusters), 3)).astype(np.float32)
    z[:, 0] += 10 * np.asarray(clusters)
    obs = pd.DataFrame({"leiden": pd.Categorical([str(one) for one in clusters])})
    obs.index = [f"S_{i}" for i in range(len(clusters))]
    return AnnData(obs=obs, obsm={"X_splicer": z})


def test_typical_cells_are_near_their_centre_borderline_ones_between_two_and_outliers_far():
    adata = cells_in(np.repeat([0, 1], 400))
    adata.obsm["X_splicer"][5] = [4.9, 0, 0]  # of cluster 0, half-way to cluster 1
    adata.obsm["X_splicer"][6] = [-30, 0, 0]

    chosen = tl.pick_examples(adata, n=4)

    own = chosen[chosen["group"] == "0"]
    assert own.loc["S_5", "kind"] == "borderline"
    assert own.loc["S_6", "kind"] == "outlier"
    distance = own.groupby("kind")["distance"]
    assert distance.max()["typical"] < distance.min()["outlier"]
    assert (own["nearest_other"] == "1").all()
    assert (adata.obs_names[chosen["row"]] == chosen.index).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 30))
def test_no_cell_is_chosen_twice_and_every_cluster_has_an_example(clusters, n, max_cells):
    adata = cells_in(clusters)

    chosen = tl.pick_examples(adata, n=n, max_cells=max_cells)

    assert chosen["row"].is_unique
    assert set(chosen["group"]) == {str(one) for one in clusters}
    assert chosen.groupby(["group", "kind"]).size().max() <= n
    assert (adata.obs["leiden"].to_numpy()[chosen["row"]].astype(str) == chosen["group"]).all()


def test_only_allowed_cells_are_chosen():
    adata = cells_in(np.repeat([0, 1], 100))

    chosen = tl.pick_examples(adata, among=np.arange(200) % 5 == 0)

    assert (chosen["row"] % 5 == 0).all()
    with pytest.raises(KeyError):
        chosen["cell_id"]
