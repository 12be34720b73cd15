import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import scanpy as sc
from sklearn.metrics import adjusted_rand_score

from mxsplicer import tl
from mxsplicer.errors import InputError
from mxsplicer.tl.clustering import compile_early


def _two_groups(cells, n):
    adata = cells(n)
    adata.obsm["X_splicer"][(adata.obs["kind"] == "T cell").to_numpy(), :4] += 4
    return adata


def test_clusters_follow_the_representation_and_the_largest_is_named_0(cells):
    adata = _two_groups(cells, 300)

    tl.cluster(adata, resolution=0.1)

    assert adjusted_rand_score(adata.obs["kind"], adata.obs["leiden"]) > 0.95
    counts = adata.obs["leiden"].value_counts(sort=False)
    assert list(counts.index) == sorted(counts.index, key=int)
    assert counts.is_monotonic_decreasing
    assert adata.obsm["X_umap"].shape == (300, 2)


@pytest.mark.parametrize("n", [3, 4, 30])
def test_few_cells_are_clustered_too(cells, n):
    adata = cells(n)

    tl.cluster(adata)

    assert adata.obs["leiden"].notna().all()
    assert np.isfinite(adata.obsm["X_umap"]).all()


def test_what_was_compiled_early_is_not_compiled_again(cells):
    compile_early().join()
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist

    compiled = [function.signatures.copy() for function in (smooth_knn_dist, compute_membership_strengths)]
    adata = _two_groups(cells, 100)
    tl.cluster(adata, resolution=0.1)

    assert all(compiled)
    assert compiled == [smooth_knn_dist.signatures, compute_membership_strengths.signatures]
    assert adjusted_rand_score(adata.obs["kind"], adata.obs["leiden"]) > 0.95


def test_above_max_cells_the_others_get_the_cluster_of_their_nearest_sampled_cells(cells):
    adata = _two_groups(cells, 400)

    tl.cluster(adata, resolution=0.1, max_cells=250)

    assert adjusted_rand_score(adata.obs["kind"], adata.obs["leiden"]) > 0.95
    assert adata.uns["mxsplicer_cluster"]["n_clustered"] == 250
    assert np.isfinite(adata.obsm["X_umap"]).all()


def test_the_same_seed_gives_the_same_clusters_also_after_writing_and_reading(cells, tmp_path):
    first, second = cells(120), cells(120)
    tl.cluster(first, seed=4)
    tl.cluster(second, seed=4)

    first.write_h5ad(tmp_path / "cells.h5ad")

    back = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert (back.obs["leiden"] == second.obs["leiden"]).all()
    np.testing.assert_array_equal(back.obsm["X_umap"], second.obsm["X_umap"])


def test_functions_of_rapids_get_the_right_arguments(cells, monkeypatch):
    calls = []

    def neighbors(adata, n_neighbors=15, n_pcs=None, *, use_rep=None, random_state=0, algorithm="brute"):
        calls.append((n_neighbors, use_rep, random_state, algorithm))
        sc.pp.neighbors(adata, n_neighbors=n_neighbors, use_rep=use_rep, transformer="sklearn")

    def leiden(adata, resolution=1.0, *, random_state=0):
        sc.tl.leiden(adata, resolution=resolution, flavor="igraph", n_iterations=2, directed=False)

    def umap(adata, *, random_state=0):
        adata.obsm["X_umap"] = np.zeros((adata.n_obs, 2))

    pp, of_tl = SimpleNamespace(neighbors=neighbors), SimpleNamespace(leiden=leiden, umap=umap)
    monkeypatch.setitem(sys.modules, "rapids_singlecell", SimpleNamespace(pp=pp, tl=of_tl))
    adata = _two_groups(cells, 300)

    tl.cluster(adata, resolution=0.1, backend="rapids", seed=3)

    assert adjusted_rand_score(adata.obs["kind"], adata.obs["leiden"]) > 0.95
    assert calls == [(15, "z", 3, "brute")]
    assert adata.uns["mxsplicer_cluster"]["backend"] == "rapids"
    assert adata.obsm["X_umap"].dtype == np.float32


def test_two_cells_raise(cells):
    with pytest.raises(InputError, match="2 cells cannot be clustered"):
        tl.cluster(cells(2))
