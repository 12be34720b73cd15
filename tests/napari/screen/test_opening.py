"""Opening from the command line and in the panel: what fails, and what a table lacks."""

import anndata
import napari
import numpy as np
import pytest
import tifffile
from napari.settings import get_settings
from napari_mxsplicer.opening import open_in
from napari_mxsplicer.state import Painted
from typer.testing import CliRunner

from mxsplicer import InputError
from mxsplicer.cli import app


@pytest.fixture
def saved_size():
    """Set the size of windows that napari has saved, and restore it at the end."""
    settings = get_settings().application
    before = settings.window_size
    settings.window_size = (1234, 777)
    yield lambda: tuple(settings.window_size)
    settings.window_size = before


def test_a_failed_view_leaves_the_size_of_the_next_window(sample, tmp_path, qapp, saved_size, monkeypatch):
    """A viewer that was never shown would save its size of 640 by 480 when it is closed."""
    opened = []
    monkeypatch.setattr(napari, "Viewer", lambda *_, **__: opened.append("a viewer"))
    tifffile.imwrite(tmp_path / "mask.tif", np.full((30, 30), 99_999, dtype=np.uint32))
    arguments = ["view", str(sample / "cells.h5ad"), "--mask", str(tmp_path / "mask.tif")]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, InputError)
    assert "occurs in mask mask.tif" in str(error)
    assert not opened
    assert saved_size() == (1234, 777)


def test_a_table_without_features_is_coloured_by_a_marker_and_a_sentence_replaces_the_heatmap(
    sample, tmp_path, qapp, hands
):
    adata = anndata.read_h5ad(sample / "cells.h5ad")
    obs = adata.obs[["cell_id", "x_px", "y_px", "area_um2"]]
    plain = anndata.AnnData(adata.X, obs=obs, var=adata.var[[]], obsm={"spatial": adata.obsm["spatial"]})
    plain.write_h5ad(tmp_path / "plain.h5ad")
    viewer = napari.Viewer(show=False)
    panel = open_in(viewer, tmp_path / "plain.h5ad", mask=sample.parent / "sample_mask.ome.tiff")
    panel.reveal(panel.correlations)
    hands.pump()
    assert panel.correlations.missing.text().startswith("plain.h5ad has no features in obsm")
    assert panel.correlations.missing.isVisibleTo(panel)
    assert not panel.correlations.controls.isVisibleTo(panel)
    assert not panel.partners.isVisibleTo(panel)
    assert panel.state.painted.kind == "marker"
    assert "without a value" not in panel.summary.text()
    panel.presets.show_nuclei()
    assert panel.message.text() == "Channels need the image of the slide, which is not open."
    panel.reveal(panel.clusters)
    panel.reveal(panel.queue)
    hands.pump()
    panel.state.paint(Painted("column", "area_um2"))
    panel.state.select(np.arange(40))
    hands.pump()
    assert "40 selected" in panel.summary.text()
    viewer.close()
