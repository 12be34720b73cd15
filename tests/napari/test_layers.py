import json

import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from napari_mxsplicer.layers import PAINT, result_layers

MARKERS = ("DAPI", "CD3e")
UM = 0.25


def write_multiscale(group, levels, axes):
    """Write levels, finest first, as an OME-Zarr 0.4 below a group."""
    datasets = []
    for number, level in enumerate(levels):
        group.create_array(str(number), data=level)
        scale = [UM * 2**number if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    described = [
        {"name": axis, "type": "channel"} if axis == "c" else {"name": axis, "type": "space", "unit": "micrometer"}
        for axis in axes
    ]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": described, "datasets": datasets}]


@pytest.fixture
def on_zarr(tmp_path):
    """Return a result whose image and labels lie in one OME-Zarr of two levels, and what they hold."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 1000, (2, 80, 120)).astype(np.uint16)
    labels = np.zeros((80, 120), dtype=np.uint32)
    ids = np.array([70_001, 5, 900, 12])
    for place, one in enumerate(ids):
        labels[10:30, 10 + 25 * place : 30 + 25 * place] = one
    root = zarr.open_group(tmp_path / "slide.ome.zarr", mode="w", zarr_format=2)
    write_multiscale(root, [image, image[:, ::2, ::2]], "cyx")
    root.attrs["omero"] = {"channels": [{"label": marker} for marker in MARKERS]}
    inner = root.create_group("labels")
    inner.attrs["labels"] = ["cells"]
    write_multiscale(inner.create_group("cells"), [labels, labels[::2, ::2]], "yx")
    folder = tmp_path / "slide.mxs"
    folder.mkdir()
    obs = pd.DataFrame({"cell_id": ids.astype(np.uint32)}, index=[f"c{one}" for one in ids])
    z = rng.normal(size=(4, 3)).astype(np.float32)
    AnnData(
        rng.gamma(2, 9, (4, 2)).astype(np.float32),
        obs=obs.assign(slide=pd.Categorical(["slide"] * 4)),
        var=pd.DataFrame(index=list(MARKERS)),
        obsm={"X_splicer": z},
    ).write_h5ad(folder / "cells.h5ad")
    entry = {
        "name": "slide",
        "image": str(tmp_path / "slide.ome.zarr"),
        "mask": str(tmp_path / "slide.ome.zarr" / "labels" / "cells"),
        "mask_page": None,
        "markers": list(MARKERS),
        "markers_table": None,
        "pixel_size_um": UM,
        "shape_px": [80, 120],
    }
    index = {"format": "mxsplicer result", "version": 1, "slides": [entry], "files": {"cells": "cells.h5ad"}}
    (folder / "mxsplicer.json").write_text(json.dumps(index))
    return folder, image, labels, ids, z


def test_image_and_labels_of_an_ome_zarr_keep_its_levels(on_zarr):
    folder, image, labels, ids, z = on_zarr
    *markers, cells, painted = result_layers(folder)

    for channel, (levels, options, kind) in enumerate(markers):
        assert (kind, options["name"], options["scale"]) == ("image", MARKERS[channel], (UM, UM))
        np.testing.assert_array_equal(np.asarray(levels[0]), image[channel])
        np.testing.assert_array_equal(np.asarray(levels[1]), image[channel, ::2, ::2])
    np.testing.assert_array_equal(np.asarray(cells[0][1]), labels[::2, ::2])
    opened = painted[1]["metadata"][PAINT]
    opened.paint.set(z[:, 1])
    for level, of_labels in zip(painted[0], (labels, labels[::2, ::2]), strict=True):
        expected = np.full(of_labels.shape, np.nan, dtype=np.float32)
        for row, one in enumerate(ids):
            expected[of_labels == one] = z[row, 1]
        np.testing.assert_array_equal(np.asarray(level), expected)


def test_contrast_comes_from_percentiles_of_the_channel(on_zarr):
    folder, image, *_ = on_zarr
    for channel, (_, options, _) in enumerate(result_layers(folder)[:2]):
        low, high = options["contrast_limits"]
        coarse = image[channel, ::2, ::2]
        assert coarse.min() <= low < high <= coarse.max()
