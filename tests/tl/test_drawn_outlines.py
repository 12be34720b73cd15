"""Cells in outlines are found and subset, and what is set for them is copied back to all cells."""

import json

import numpy as np
import pytest

from mxsplicer import tl
from mxsplicer.errors import InputError


def write(path, left, top, right, bottom):
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    path.write_text(json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}))
    return path


@pytest.fixture
def placed(cells):
    """Return cells of two slides of 1,000 x 1,000 px."""
    adata = cells(300, n_slides=2)
    adata.obs["x_px"], adata.obs["y_px"] = 2 * adata.obsm["spatial"].T
    adata.uns["mxsplicer"]["ledger"] = {
        slide: {"in mask": n + 7, "kept": n, "too small": 7} for slide, n in adata.obs["slide"].value_counts().items()
    }
    return adata


def test_cells_of_a_slide_without_outlines_are_outside(placed, tmp_path):
    write(tmp_path / "S01.geojson", -50, 100, 600, 90_000)  # beyond the slide, whose size is unknown

    rows = tl.rows_inside(placed, tmp_path)

    x, y = np.floor(placed.obs[["x_px", "y_px"]].to_numpy().T + 0.5)
    np.testing.assert_array_equal(rows, np.flatnonzero((placed.obs["slide"] == "S01") & (x < 600) & (y >= 100)))


def test_the_ledger_of_cells_inside_closes_and_names_the_outlines(placed, tmp_path):
    write(tmp_path / "S00.geojson", 0, 0, 500, 500)

    inside = tl.cells_inside(placed, tmp_path)

    about = inside.uns["mxsplicer"]
    assert about["roi"] == tmp_path.name
    assert all(sum(outcomes.values()) == 2 * outcomes["in mask"] for outcomes in about["ledger"].values())
    assert about["ledger"]["S00"]["kept"] == inside.n_obs
    assert about["ledger"]["S01"]["kept"] == 0
    assert "roi" not in placed.uns["mxsplicer"]


def test_what_is_set_inside_is_copied_back_and_the_rest_stays(placed, tmp_path):
    write(tmp_path / "S00.geojson", 0, 0, 800, 800)
    write(tmp_path / "S01.geojson", 0, 0, 800, 800)
    before = placed.copy()

    with tl.restricted(placed, tmp_path) as inside_only:
        inside_only.obs["number"] = 1.0
        tl.cluster(inside_only)
        tl.correlate(inside_only, key_added="here_correlation")

    inside = np.isin(np.arange(300), tl.rows_inside(before, tmp_path))
    assert 0 < inside.sum() < 300
    assert placed.uns["mxsplicer"] == before.uns["mxsplicer"]
    assert (placed.obs["leiden"].notna() == inside).all()
    assert (placed.obs["number"].notna() == inside).all()
    assert (np.isfinite(placed.obsm["X_umap"]).all(axis=1) == inside).all()
    np.testing.assert_array_equal(placed.obsm["X_splicer"], before.obsm["X_splicer"])
    assert placed.varm["here_correlation"].shape == (5, 32)
    assert list(placed.obs.columns[: len(before.obs.columns)]) == list(before.obs.columns)
    assert (placed.obs[before.obs.columns].dtypes == before.obs.dtypes).all()


def test_without_a_file_the_cells_are_returned_unchanged(placed):
    assert tl.cells_inside(placed, None) is placed
    with tl.restricted(placed, None) as inside_only:
        assert inside_only is placed


def test_outlines_without_a_cell_raise(placed, tmp_path):
    write(tmp_path / "S00.geojson", 5000, 5000, 5100, 5100)

    with pytest.raises(InputError, match="none of the 300 cells lies in an outline"):
        tl.rows_inside(placed, tmp_path)
