import shutil

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari_mxsplicer.correlations import (
    cluster_order,
    correlate_around_cells,
    correlate_rows,
    filter_features,
    interval,
    partners_of_feature,
    partners_of_marker,
)
from napari_mxsplicer.exemplars import exemplars, exemplars_by_category
from napari_mxsplicer.neighbours import similar_rows
from napari_mxsplicer.study import ChunkShares, feature_groups, open_study
from scipy.stats import spearmanr

import mxsplicer


@pytest.fixture(scope="module")
def study(sample):
    return open_study(sample)


@pytest.fixture(scope="module")
def adata(sample):
    return anndata.read_h5ad(sample / "cells.h5ad")


def test_columns_equal_those_of_the_table(study, adata):
    np.testing.assert_array_equal(study.feature(7), adata.obsm["X_splicer"][:, 7])
    np.testing.assert_array_equal(study.feature_block(3, 9), adata.obsm["X_splicer"][:, 3:9].T)
    np.testing.assert_array_equal(study.marker("CD20"), np.asarray(adata[:, "CD20"].X).ravel())
    assert list(study.column("lineage")) == list(adata.obs["lineage"])


def test_a_feature_is_labelled_with_the_chunk_that_has_the_largest_share(study, adata, tmp_path):
    assert study.chunks is None  # nothing was trained
    shared = adata.copy()
    share = np.full((adata.obsm["X_splicer"].shape[1], 4), 0.2)
    share[:, 2] = 0.4
    names = np.array(["CD8a rim", "CD8 rim", "CD20 with DAPI", "T cells"])
    shared.uns["mxsplicer"] = {"chunks": {"component": names, "share": share}}
    shared.write_h5ad(tmp_path / "shared.h5ad")

    found = open_study(tmp_path / "shared.h5ad").chunks

    assert found.describe(7) == "chunk CD20 with DAPI (40 %)"
    for chunk, number in enumerate([1, 0, 2, 6]):  # of the last no marker
        leads = ChunkShares(tuple(names), np.eye(4)[[chunk]])
        assert leads.marker_numbers(["CD8", "CD8a", "CD20"]).tolist() == [number]
    assert ChunkShares(("CD8",), np.zeros((1, 1))).describe(0) == "no chunk"


def test_the_list_of_features_starts_with_levels_and_goes_on_marker_by_marker(study, named):
    opened = open_study(named)
    first, second = opened.markers[:2]

    groups = {heading: [opened.feature_names[one] for one in columns] for heading, columns in feature_groups(opened)}

    assert list(groups)[:3] == ["Levels of markers", f"Patterns of {first}", f"Patterns of {second}"]
    assert groups["Levels of markers"] == [f"{marker} level" for marker in opened.markers[:4]]
    assert groups[f"Patterns of {second}"][:4] == [f"{second} {kind}" for kind in ("rim", "side", "spread", "polarity")]
    assert all(f"{first} with {second}" in groups[f"Patterns of {marker}"] for marker in (first, second))
    assert list(groups)[-2:] == ["Shape of the cell", "Learned features"]
    assert groups["Shape of the cell"] == ["area of the cell", "elongation of the cell"]
    assert groups["Learned features"][:2] == ["learned 1", "learned 2"]
    assert feature_groups(study) == [("", list(range(study.n_features)))]


def test_the_first_feature_shown_does_not_follow_the_nuclear_stain(sample, monkeypatch):
    study = open_study(sample)
    r = study.correlations["Pearson"] * 0.9
    r[study.markers.index("Hoechst"), 5] = 1.0
    monkeypatch.setitem(study.correlations, "Pearson", r)

    marker, feature = study.strongest()

    assert study.markers[marker] != "Hoechst"
    assert abs(r[marker, feature]) == np.abs(r[1:]).max()


def test_features_of_a_marker_are_grouped_by_chunk_with_its_own_chunk_first():
    r = np.array([[0.9, 0.8, 0.7, 0.6, 0.1], [0.1, 0.1, 0.1, 0.1, 0.5]])
    assert cluster_order(r)[1].tolist() == [0, 1, 2, 3, 4]
    assert cluster_order(r, np.array([1, 0, 5, 0, 1]))[1].tolist() == [1, 3, 0, 2, 4]


def test_a_table_alone_gives_the_same_values_as_its_result(study, sample, adata):
    alone = open_study(sample / "cells.h5ad")
    np.testing.assert_array_equal(alone.feature(7), study.feature(7))
    np.testing.assert_array_equal(alone.feature_block(3, 9), study.feature_block(3, 9))
    assert alone.slide_names == study.slide_names


@pytest.mark.parametrize("change", ["sorted", "filtered", "swapped"])
def test_features_are_those_of_the_table_after_it_was_changed_in_scanpy(sample, adata, tmp_path, change):
    folder = shutil.copytree(sample, tmp_path / "changed.mxs")
    rows = np.argsort(adata.obs["area_um2"].to_numpy())
    rows = {"sorted": rows, "filtered": np.sort(rows[5:]), "swapped": np.r_[1, 0, 2 : len(rows)]}[change]
    changed = adata[rows].copy()
    changed.write_h5ad(folder / "cells.h5ad")

    opened = open_study(folder)

    np.testing.assert_array_equal(opened.feature(7), changed.obsm["X_splicer"][:, 7])
    np.testing.assert_array_equal(opened.feature_block(3, 9), changed.obsm["X_splicer"][:, 3:9].T)


def test_names_of_earlier_clusters_are_not_offered_for_painting(sample, adata, tmp_path):
    folder = shutil.copytree(sample, tmp_path / "changed.mxs")
    changed = adata.copy()
    changed.obs["kind"] = np.where(np.arange(adata.n_obs) % 2, "0", "1")
    changed.obs["kind_name"] = "0: " + changed.obs["lineage"].astype(str)
    changed.write_h5ad(folder / "cells.h5ad")

    assert "kind" in open_study(folder).paintable_columns
    assert "kind_name" not in open_study(folder).paintable_columns


def test_a_table_without_ids_is_refused_with_the_name_that_is_accepted(adata, tmp_path):
    without = adata.copy()
    del without.obs["cell_id"]
    without.obs_names = ["cell" + "x" * row for row in range(adata.n_obs)]
    without.write_h5ad(tmp_path / "without.h5ad")
    with pytest.raises(mxsplicer.InputError, match=r"obs has no column of them.*such as 'cell'.*obs\['cell_id'\]"):
        _ = open_study(tmp_path / "without.h5ad").cell_ids


def test_correlations_over_all_cells_equal_the_stored_ones(returned, study):
    r = returned(correlate_rows(study, np.arange(study.n_cells)))
    np.testing.assert_allclose(r, study.correlations["Pearson"], atol=1e-5)


def test_rank_correlations_over_some_cells_equal_spearmans(returned, study):
    rows = np.arange(0, study.n_cells, 3)
    r = returned(correlate_rows(study, rows, kind="Spearman"))
    expected = spearmanr(study.marker("CD20")[rows], study.feature(5)[rows]).statistic
    assert r[study.markers.index("CD20"), 5] == pytest.approx(expected, abs=1e-5)


def test_partial_correlations_over_all_cells_equal_the_stored_ones(returned, study):
    r = returned(correlate_rows(study, np.arange(study.n_cells), kind="partial"))
    np.testing.assert_allclose(r, study.correlations["partial"], atol=1e-4)


def test_partial_correlations_over_some_cells_adjust_for_nuclei_and_neighbourhood_intensity(returned, study, adata):
    rows = np.flatnonzero(np.asarray(adata.obs["lineage"] == "T cell"))
    r = returned(correlate_rows(study, rows, kind="partial"))
    marker = study.markers.index("CD8a")
    places = [study.markers.index(name) for name in study.confounders]
    fixed = np.column_stack(
        [np.asarray(adata.X)[rows][:, places], study.neighbourhood_intensity[rows, marker], np.ones(len(rows))]
    )
    left = [
        values - fixed @ np.linalg.lstsq(fixed, values, rcond=None)[0]
        for values in (study.marker("CD8a")[rows].astype(float), study.feature(4)[rows].astype(float))
    ]
    assert r[marker, 4] == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-3)


def test_two_cells_are_too_few_for_a_correlation(returned, study):
    with pytest.raises(mxsplicer.InputError, match="2 cells are too few"):
        returned(correlate_rows(study, np.array([0, 1])))


def test_partners_have_the_strongest_correlations_within_their_intervals(study):
    r, rows = study.correlations["Pearson"], np.arange(study.n_cells)
    marker = study.markers.index("CD20")
    found = partners_of_marker(study, marker, r, rows)
    assert found[0].name == f"feature {np.abs(r[marker]).argmax()}"
    assert found[0].feature == np.abs(r[marker]).argmax()
    assert found[0].r == pytest.approx(r[marker, np.abs(r[marker]).argmax()], abs=1e-4)
    for one in found + partners_of_feature(study, 5, r, rows):
        assert one.low <= one.r <= one.high
        assert one.n == study.n_cells


def test_similar_neighbours_widen_the_interval():
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.arange(50), 40)
    x, y = (rng.normal(size=50)[blocks] + 0.1 * rng.normal(size=2000) for _ in range(2))
    _, low, high = interval(x, y, blocks)
    _, low_of_cells, high_of_cells = interval(x, y, np.arange(2000))
    assert high - low > 3 * (high_of_cells - low_of_cells)


def test_exemplars_are_cells_with_high_middle_and_low_values_among_the_given_rows():
    values = np.arange(1000.0)
    values[900:] = np.nan
    found = exemplars(values, np.arange(0, 1000, 2), n=4)
    assert (found[0] > 880).all()
    assert (np.abs(found[1] - 450) < 20).all()
    assert (found[2] < 20).all()
    assert (exemplars(values, np.array([3, 5]), n=4) >= 0).sum() == 6


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.nan]), min_size=1, max_size=60), st.integers(1, 4))
def test_exemplars_of_categories_come_from_the_most_common_ones(codes, most):
    codes, rows = np.array(codes, dtype=np.float32), np.arange(0, len(codes), 2)
    shown, drawn = exemplars_by_category(codes, rows, n=3, most=most)
    present, counts = np.unique(codes[rows][np.isfinite(codes[rows])], return_counts=True)
    assert len(shown) == min(most, len(present))
    assert sorted(counts)[-len(shown) :] == sorted(counts[np.isin(present, shown)]) or not len(shown)
    for code, row in zip(shown, drawn, strict=True):
        cells = row[row >= 0]
        assert len(set(cells)) == len(cells) == min(3, (codes[rows] == code).sum())
        assert (codes[cells] == code).all()
        assert np.isin(cells, rows).all()


def test_similar_cells_exclude_the_cell_itself(study):
    rows = similar_rows(study, 10, n=5)
    assert len(set(rows)) == 5
    assert 10 not in rows
    some = np.arange(study.n_cells) % 5 == 1
    assert some[similar_rows(study, 10, n=5, among=some)].all()


def test_features_are_grouped_by_the_marker_they_correlate_with_most(study):
    r = study.correlations["Pearson"]
    rows, columns = cluster_order(r)
    assert sorted(rows) == list(range(len(r)))
    assert sorted(columns) == list(range(r.shape[1]))
    strongest = np.abs(r[rows][:, columns]).argmax(axis=0)
    assert (np.diff(strongest) >= 0).all()


@pytest.mark.parametrize(
    ("text", "left"),
    [("", [0, 1, 2]), ("1", [1]), ("0-1", [0, 1]), ("cd8", [1, 2]), (">0.5", [0, 1]), ("cd8 <0.5", [2]), ("x", [])],
)
def test_the_filter_keeps_features_by_number_marker_and_strength(text, left):
    r = np.array([[0.9, 0.0, 0.1], [0.1, -0.8, 0.3]])
    assert filter_features(r, ["CD3", "CD8a"], text).tolist() == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("CD4 rim", [2]),  # a name
        ("learned 7", [4]),  # a name that ends in a number
        ("rim", [2, 3]),
        ("cd4", [0, 2, 3, 4]),  # what describes CD4, and what correlates most with it
        ("cd4 rim >0.5", [2]),
        ("cd4 1-2", [2]),
        ("x", []),
    ],
)
def test_the_filter_keeps_features_by_their_names(text, left):
    names = ["CD4 level", "CD45 level", "CD4 rim", "CD45 rim", "learned 7"]
    r = np.array([[0.9, 0.1, 0.6, 0.5, 0.3], [0.1, 0.8, 0.7, 0.4, 0.2]])
    by_marker = {"CD4": np.array([0, 2]), "CD45": np.array([1, 3])}

    assert filter_features(r, ["CD4", "CD45"], text, names=names, by_marker=by_marker).tolist() == left


def test_the_filter_keeps_the_five_best_features_of_a_marker_that_is_nowhere_strongest():
    r = np.stack([np.linspace(0.5, 0.9, 9), np.linspace(0.4, -0.1, 9)])
    assert filter_features(r, ["CD3", "CD4"], "cd4").tolist() == [0, 1, 2, 3, 4]


def test_local_correlation_is_computed_over_the_cells_within_the_radius(study, adata):
    values = correlate_around_cells(study, "CD20", 5, 60.0)
    points = adata.obsm["spatial"]
    row = int(np.argmin(np.hypot(*(points - points.mean(axis=0)).T)))
    near = np.hypot(*(points - points[row]).T) < 60
    expected = np.corrcoef(np.asarray(adata[:, "CD20"].X).ravel()[near], adata.obsm["X_splicer"][near, 5])[0, 1]
    assert values[row] == pytest.approx(expected, abs=0.1)  # discs are drawn to an eighth of their radius
