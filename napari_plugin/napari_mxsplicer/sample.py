"""Sample data: a small simulated tissue with the features of an encoder that nobody trained, in a temporary folder."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

import mxsplicer
from mxsplicer.result.folder import Result, write_features, write_index
from napari_mxsplicer.layers import LayerData
from napari_mxsplicer.reader import read_result

_SIZE_PX, _FEATURES = 512, 48


def sample_layers() -> list[LayerData]:
    """Return the layers of a small result that is made now; nothing is downloaded."""
    return read_result(str(make_sample(Path(tempfile.mkdtemp(prefix="mxsplicer-")))))


def make_sample(folder: Path, *, size_px: int = _SIZE_PX, seed: int = 0) -> Path:
    """Simulate a slide and write what looks like the result of embedding it; the same for the same seed.

    No network is trained: the features are mixtures, drawn at random, of what a cell measures. They follow markers, as
    learned ones do, and show how the panel works, not how good a method is.
    """
    files = mxsplicer.simulate_slide(folder / "sample.ome.tiff", size_px=size_px, seed=seed)
    slide = mxsplicer.open_slide(files.image, drop=["AF1", "Argo550"])
    cells = mxsplicer.measure_cells(slide, mxsplicer.open_mask(files.mask))
    measured = _standardised(
        np.column_stack([np.log1p(cells.intensities), cells.table[["area_um2", "eccentricity"]].to_numpy()])
    )
    rng = np.random.default_rng(seed)
    # Few of the measurements enter each feature, so that a feature follows some markers and not all a little.
    mixing = rng.normal(size=(measured.shape[1], _FEATURES)) * (rng.random((measured.shape[1], _FEATURES)) < 0.15)
    z = (np.tanh(measured @ mixing) + rng.normal(scale=0.15, size=(len(measured), _FEATURES))).astype(np.float32)
    left, singular, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    xy_um = cells.table[["x", "y"]].to_numpy()
    truth = pd.read_csv(files.truth).set_index("cell_id").loc[cells.table["cell_id"]]
    obs = pd.DataFrame(
        {
            "cell_id": cells.table["cell_id"].to_numpy(),
            "slide": pd.Categorical([slide.name] * len(z)),
            "x_px": cells.table["x_px"].to_numpy(),
            "y_px": cells.table["y_px"].to_numpy(),
            "area_um2": cells.table["area_um2"].to_numpy(),
            "lineage": pd.Categorical(truth["lineage"]),
        },
        index=[f"{slide.name}_{cell}" for cell in cells.table["cell_id"]],
    )
    adata = AnnData(
        np.asarray(cells.intensities, dtype=np.float32),
        obs=obs,
        var=pd.DataFrame(index=list(slide.markers)),
        obsm={"spatial": xy_um, "X_splicer": z, "X_pca": (left[:, :2] * singular[:2]).astype(np.float32)},
    )
    mxsplicer.tl.correlate(adata)
    result = Result(folder / "sample.mxs", (slide.name,))
    result.path.mkdir()
    adata.write_h5ad(result.cells)
    write_features(result.features, z)
    entry: dict[str, Any] = {
        "name": slide.name,
        "image": str(files.image),
        "mask": str(files.mask),
        "mask_page": None,
        "markers": list(slide.markers),
        "markers_table": None,
        "rename": [],
        "drop": ["AF1", "Argo550"],
        "pixel_size_um": slide.pixel_size_um,
        "shape_px": list(slide.shape_px),
        "patches": None,
        "fingerprints": {},
    }
    write_index(result, [entry], run="run")
    return result.path


def _standardised(columns: np.ndarray) -> np.ndarray:
    sd = columns.std(axis=0)
    return np.asarray((columns - columns.mean(axis=0)) / np.where(sd > 0, sd, 1))
