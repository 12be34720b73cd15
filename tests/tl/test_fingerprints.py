"""What was derived from cells or clusters is recognised as outdated when scanpy changed them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxsplicer import pl, tl
from mxsplicer.errors import InputError
from mxsplicer.tl.enrichment import enrichment_is_current
from mxsplicer.tl.fingerprints import clusters_changed, fingerprint_clusters, fingerprint_rows


@pytest.fixture
def adata(cells):
    """Return clustered cells with names of the clusters."""
    adata = cells(300)
    adata.obs["leiden"] = pd.Categorical(adata.obs["kind"].map({"T cell": "0", "B cell": "1"}))
    tl.name_clusters(adata)
    return adata


@given(order=st.permutations(range(6)), changed=st.integers(0, 5))
def test_a_fingerprint_of_clusters_depends_on_each_cell_and_not_on_their_order(order, changed):
    clusters = pd.Series(pd.Categorical([*"001122"]), index=[f"S_{i}" for i in range(6)])

    fingerprint = fingerprint_clusters(clusters)

    assert fingerprint_clusters(clusters.iloc[order]) == fingerprint
    assert fingerprint_clusters(clusters.astype(object).astype("str")) == fingerprint
    assert fingerprint_clusters(clusters.drop(f"S_{changed}")) != fingerprint
    other = clusters.astype(object)
    other.iloc[changed] = "3"
    assert fingerprint_clusters(other) != fingerprint
    assert (fingerprint_rows(clusters.index[order]) == fingerprint_rows(clusters.index)) == (list(order) == [*range(6)])


@pytest.mark.parametrize("change", ["sorted", "filtered", "as it was"])
def test_names_stay_with_clusters_that_were_sorted_or_filtered(adata, change):
    rows = {"sorted": np.argsort(adata.obs["area_um2"]), "filtered": np.arange(0, 300, 3), "as it was": slice(None)}
    names = tl.names_of_clusters(adata)

    assert tl.names_of_clusters(adata[rows[change]].copy()) == names
    assert all(name.startswith(f"{cluster}: ") for cluster, name in names.items())


@pytest.mark.parametrize("change", ["swapped", "merged", "split", "moved"])
def test_names_of_earlier_clusters_are_suggested_again(adata, change, caplog):
    clusters = adata.obs["leiden"].astype(object)
    if change == "swapped":
        clusters = clusters.map({"0": "1", "1": "0"})
    elif change == "merged":
        clusters[:] = "0"
    elif change == "split":
        clusters.iloc[:150] = "2"
    else:
        clusters.iloc[0] = "1" if clusters.iloc[0] == "0" else "0"
    adata.obs["leiden"] = pd.Categorical(clusters)

    names = tl.names_of_clusters(adata)

    assert "names of earlier clusters" in caplog.text
    assert set(names) == set(clusters)
    assert all(name.startswith(f"{cluster}: ") for cluster, name in names.items())


def test_names_that_a_person_gave_to_clusters_are_kept(adata):
    adata.obs["leiden_name"] = adata.obs["leiden_name"].cat.rename_categories(["T cells: CD8", "B cells"])

    assert sorted(tl.names_of_clusters(adata).values()) == ["B cells", "T cells: CD8"]
    assert not tl.names_fit(adata.obs["kind"].sample(frac=1, random_state=0), adata.obs["leiden_name"])


def test_an_enrichment_of_earlier_clusters_is_neither_drawn_nor_current(adata):
    adata.uns["leiden_nhood_enrichment"] = {
        "zscore": np.zeros((2, 2)),
        "clusters": fingerprint_clusters(adata.obs["leiden"]),
    }
    adata.uns["mxsplicer_cluster"] = {"clusters": fingerprint_clusters(adata.obs["leiden"])}
    assert enrichment_is_current(adata)
    assert not clusters_changed(adata)

    adata.obs["leiden"] = adata.obs["leiden"].cat.rename_categories({"0": "1", "1": "0"})

    assert clusters_changed(adata)
    with pytest.raises(InputError, match="of other cells or clusters than those in obs"):
        pl.neighbourhoods(adata)
