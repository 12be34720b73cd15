"""Verdicts on clusters of cells whose truth is known."""

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mxsplicer import tl
from mxsplicer.errors import InputError

MARKERS = ["Hoechst", "CD163", "SMA", "CD4", "AF1"]
POSITIVE = {"macrophage": "CD163", "fibroblast": "SMA", "next to macrophage": "SMA", "stained": "SMA", "few": "SMA"}


@pytest.fixture
def adata():
    """Macrophages express CD163, which spills over to fibroblasts near them; others have more CD4 without a pattern."""
    rng = np.random.default_rng(0)
    sizes = {"macrophage": 200, "next to macrophage": 200, "fibroblast": 400, "stained": 150, "few": 8}
    kind = np.repeat(list(sizes), list(sizes.values()))
    n = len(kind)
    intensity = rng.lognormal(np.log(50), 0.2, (n, len(MARKERS)))
    for one, marker in POSITIVE.items():
        intensity[kind == one, MARKERS.index(marker)] *= 40
    intensity[kind == "next to macrophage", 1] *= 4
    intensity[kind == "stained", 3] *= 1.8
    intensity[kind == "few", 3] *= 2.5
    points = rng.uniform(0, 400, (n, 2)) + np.array([1000, 0])
    points[:400] = np.tile(10 * np.stack(np.divmod(np.arange(200), 20), axis=1), (2, 1))
    points[200:400] += 3  # each next to one macrophage
    z = np.hstack([np.log(intensity), 3 * np.array([[one == other for other in sizes] for one in kind])])
    spread = rng.normal(0, 1, n)
    names = [f"{marker} level" for marker in MARKERS] + ["CD4 spread"] + [f"learned {i}" for i in range(5)]
    z = np.hstack([z[:, :5], spread[:, None], z[:, 5:]])
    return AnnData(
        intensity.astype(np.float32),
        obs=pd.DataFrame({"leiden": pd.Categorical(kind)}, index=[f"S_{i}" for i in range(n)]),
        var=pd.DataFrame(index=MARKERS),
        obsm={"spatial": points, "X_splicer": z.astype(np.float32)},
        uns={"mxsplicer": {"features": np.array(names)}, "mxsplicer_cluster": {"use_rep": "X_not_stored"}},
    )


def test_each_kind_of_artefact_is_recognised_and_real_clusters_are_not_called_one(adata):
    table = tl.explain_clusters(adata)

    assert table["verdict"].to_dict() == {
        "macrophage": "real",
        "fibroblast": "real",
        "next to macrophage": "spill-over",
        "stained": "unspecific staining",
        "few": "too small or unstable",
    }
    assert table["count"].to_dict() == adata.obs["leiden"].value_counts().to_dict()


def test_spill_over_has_its_marker_its_source_and_its_share(adata):
    row = tl.explain_clusters(adata).loc["next to macrophage"]

    assert (row["marker"], row["source"], row["sibling"]) == ("CD163", "macrophage", "fibroblast")
    assert row["spillover"] > 0.9
    assert row["spillover_sibling"] < 0.2
    assert row["name"] == "SMA+ (CD163 spill-over)"
    assert "mostly of cluster macrophage" in row["reason"]


def test_cells_of_one_cluster_that_differ_twofold_are_not_spill_over(adata):
    rows = np.flatnonzero(adata.obs["leiden"] == "next to macrophage")
    adata.obsm["spatial"][rows] += 10_000
    adata.X[rows[::2], 1] *= 4

    row = tl.explain_clusters(adata).loc["next to macrophage"]

    assert (row["marker"], row["source"], row["verdict"]) == ("CD163", "next to macrophage", "real")


def test_a_marker_that_has_its_pattern_is_not_unspecific(adata):
    adata.obsm["X_splicer"][(adata.obs["leiden"] == "stained").to_numpy(), 5] += 2

    row = tl.explain_clusters(adata).loc["stained"]

    assert (row["verdict"], row["marker"]) == ("real", "CD4")
    assert "CD4+" in row["name"]


def test_a_cluster_that_a_channel_without_antibody_sets_apart_is_unspecific(adata):
    adata.X[(adata.obs["leiden"] == "stained").to_numpy(), 4] *= 5

    row = tl.explain_clusters(adata).loc["stained"]

    assert (row["verdict"], row["marker"]) == ("unspecific staining", "AF1")


def test_clusters_of_the_border_or_of_one_slide_are_technical(adata):
    adata.obs["at_border"] = (adata.obs["leiden"] == "stained").to_numpy()
    assert tl.explain_clusters(adata)["verdict"]["stained"] == "technical"

    adata.obs["at_border"] = False
    adata.obs["batch"] = np.where(adata.obs["leiden"] == "stained", "B", "A")
    row = tl.explain_clusters(adata).loc["stained"]
    assert (row["verdict"], "batch B" in row["reason"]) == ("technical", True)


@pytest.fixture
def tissue():
    """Four kinds of cells everywhere in a square of 1 mm, with a spread of markers that follows their level."""
    rng = np.random.default_rng(0)
    markers = ["Hoechst", "CD3e", "CD20", "SMA", "Pan-CK", "CD31"]
    kind = rng.integers(0, 4, 2400)
    intensity = rng.lognormal(np.log(100), 0.15, (2400, len(markers)))
    intensity[np.arange(2400), kind + 1] *= 20
    spread = np.log(intensity) + rng.normal(0, 0.2, intensity.shape)
    names = [f"{marker} {what}" for what in ("level", "spread") for marker in markers]
    points = rng.uniform(0, 1000, (2400, 2))
    return AnnData(
        intensity.astype(np.float32),
        obs=pd.DataFrame({"leiden": kind.astype(str)}, index=[f"S_{i}" for i in range(2400)]),
        var=pd.DataFrame(index=markers),
        obsm={"spatial": points, "X_splicer": np.hstack([np.log(intensity), spread]).astype(np.float32)},
        uns={"mxsplicer": {"features": np.array(names)}, "mxsplicer_cluster": {"use_rep": "X_not_stored"}},
    )


def split(adata, kind, inside):
    """Give the cells of a kind inside a place a cluster of their own."""
    own = (adata.obs["leiden"] == kind).to_numpy()
    adata.obs["leiden"] = np.where(own & inside, f"{kind} there", adata.obs["leiden"])


@pytest.mark.parametrize(
    ("artefact", "called"),
    [("seam", "seam"), ("shading", "uneven illumination or staining"), ("blur", "out of focus"), ("batch", "batch")],
)
def test_a_cluster_that_a_technical_effect_splits_from_another_is_technical(tissue, artefact, called):
    x, y = tissue.obsm["spatial"].T
    if artefact == "blur":
        there = (x < 450) & (y < 450)
        tissue.obsm["X_splicer"][there, 6:] -= 0.7
    elif artefact == "batch":
        there = np.random.default_rng(1).random(len(x)) < 0.4
        tissue.obs["batch"] = np.where(there, "B", "A")
        tissue.X[there] *= 1.8
    else:
        there = x > 520
        tissue.X *= (np.exp(-x / 900) if artefact == "shading" else np.where(there, 1.8, 1))[:, None]
        there = (x > 520 + np.random.default_rng(1).normal(0, 60, len(x))) if artefact == "shading" else there
    split(tissue, "0", there)

    table = tl.explain_clusters(tissue)

    row = table.loc["0 there"]
    assert (row["verdict"], row["technical"], row["split_from"]) == ("technical", called, "0")
    assert row["name"].endswith(f"({called})")
    assert (table["verdict"][["1", "2", "3"]] == "real").all()
    if artefact == "seam":
        assert float(row["reason"].rpartition("x = ")[2].removesuffix(" µm.")) == pytest.approx(520, abs=5)


def test_a_kind_of_cell_of_one_place_or_one_batch_is_real_where_other_cells_do_not_differ(tissue):
    x = tissue.obsm["spatial"][:, 0]
    own = (tissue.obs["leiden"] == "0").to_numpy()
    tissue.X[own & (x > 500), 5] *= 5
    split(tissue, "0", x > 500)
    assert (tl.explain_clusters(tissue)["verdict"] == "real").all()

    tissue.obs["batch"] = np.where(x > 500, "B", "A")
    del tissue.obsm["spatial"]
    table = tl.explain_clusters(tissue)

    assert (table["verdict"] == "real").all()
    assert (
        "of batch B, and 0% of those of the most similar cluster; other cells there do not"
        in table["reason"]["0 there"]
    )


def test_clusters_that_leiden_does_not_find_again_are_unstable(tissue):
    tl.cluster(tissue, resolution=0.3)
    found = tissue.obs["leiden"].astype(str)
    largest = np.flatnonzero(found == "0")
    found.iloc[largest[::4]] = "random"
    tissue.obs["leiden"] = found
    del tissue.uns["mxsplicer_cluster"]["clusters"]

    table = tl.explain_clusters(tissue)

    assert table["verdict"]["random"] == "too small or unstable"
    assert table["jaccard"]["random"] < 0.4
    assert (table["jaccard"].drop(["random", "0"]) > 0.8).all()


def test_tests_that_are_not_possible_are_named(adata):
    del adata.obsm["spatial"], adata.obsm["X_splicer"]

    row = tl.explain_clusters(adata).loc["next to macrophage"]

    assert row["verdict"] == "real"
    assert row["reason"].endswith("Not tested: spill-over, unspecific staining, focus, stability.")


def test_the_table_is_stored_and_survives_writing_and_new_clusters_make_a_new_one(adata, tmp_path):
    table = tl.explain_clusters(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")

    back = anndata.read_h5ad(tmp_path / "cells.h5ad")

    pd.testing.assert_frame_equal(tl.explanation_of(back), table, check_dtype=False, check_index_type=False)
    back.obs["leiden"] = "all"
    assert tl.explanation_of(back)["verdict"].to_dict() == {"all": "real"}


def test_a_stored_table_is_of_the_same_cells_and_not_only_of_as_many(adata):
    table = tl.explain_clusters(adata)
    assert tl.stored_explanation(adata) is not None

    swapped = adata.copy()
    swapped.obs["leiden"] = swapped.obs["leiden"].to_numpy()[np.r_[399, 1:399, 0, 400 : adata.n_obs]]

    assert (swapped.obs["leiden"].value_counts() == adata.obs["leiden"].value_counts()).all()
    assert tl.stored_explanation(swapped) is None
    adata.uns["mxsplicer_clusters"] = table.drop(columns="fingerprint")  # of an earlier version
    assert tl.stored_explanation(adata) is None


def test_clusters_with_the_same_markers_are_named_after_the_feature_that_sets_them_apart(adata):
    is_macrophage = (adata.obs["leiden"] == "macrophage").to_numpy()
    other_half = is_macrophage & (np.arange(adata.n_obs) % 2 == 0)
    adata.obs["leiden"] = np.where(other_half, "macrophage 2", adata.obs["leiden"])
    assert tl.explain_clusters(adata)["name"][["macrophage", "macrophage 2"]].to_list() == ["CD163+", "CD163+"]

    adata.uns["mxsplicer"]["features"][-1] = "CD163 side"
    adata.obsm["X_splicer"][:, -1] = np.random.default_rng(1).normal(3 * other_half, 1)

    names = tl.explain_clusters(adata)["name"]
    assert names[["macrophage", "macrophage 2"]].to_list() == ["CD163+, CD163 side low", "CD163+, CD163 side high"]


def test_thousands_of_clusters_are_explained_and_a_column_of_ids_is_refused():
    rng = np.random.default_rng(0)
    cells = AnnData(rng.lognormal(4, 1, (5_001, 2)).astype(np.float32), var=pd.DataFrame(index=["CD3e", "CD20"]))
    cells.obs["leiden"] = (np.arange(5_001) // 3).astype(str)
    cells.obs["id"] = np.arange(5_001).astype(str)

    assert len(tl.explain_clusters(cells)) == 1_667
    with pytest.raises(InputError, match=r"obs\['id'\] has 5,001 clusters; at most 5,000 can be explained"):
        tl.explain_clusters(cells, "id")


def test_the_names_in_obs_are_those_of_the_explanation(adata):
    table = tl.explain_clusters(adata)
    names = tl.name_clusters(adata)

    assert names.to_dict() == table["name"].to_dict()
    assert adata.obs["leiden_name"].iloc[200] == "next to macrophage: SMA+ (CD163 spill-over)"
    assert tl.names_of_clusters(adata) == {cluster: f"{cluster}: {name}" for cluster, name in names.items()}


def test_a_cell_may_lack_a_position_and_a_flag_of_the_border(adata):
    adata.obsm["spatial"][500] = np.nan
    adata.obs["at_border"] = pd.array([None] * adata.n_obs, dtype="boolean")

    assert tl.explain_clusters(adata)["verdict"]["next to macrophage"] == "spill-over"


def test_cells_without_a_cluster_are_left_out(adata):
    adata.obs.loc[adata.obs["leiden"] == "few", "leiden"] = None
    assert "few" not in tl.explain_clusters(adata).index

    adata.obs["leiden"] = pd.Categorical([None] * adata.n_obs)
    with pytest.raises(InputError, match="no cluster of any cell"):
        tl.explain_clusters(adata)
