"""A small result without training: simulated tissue whose features are random mixtures of measurements.

It shows how a viewer or an analysis works with a result, in seconds; not how good a method is.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.cells.measure import Cells, measure_cells
from mxsplicer.embedding.h5ad import write_cells
from mxsplicer.images.opening import open_slide
from mxsplicer.images.slide import Slide
from mxsplicer.masks.files import open_mask
from mxsplicer.result.features import write_features
from mxsplicer.result.folder import Result
from mxsplicer.result.slides import SlideRecord, write_records
from mxsplicer.simulation import simulate_slide
from mxsplicer.tl.correlation import correlate

_N_FEATURES = 48
_DROPPED = ("AF1", "Argo550")  # autofluorescence and an empty channel


def simulate_result(folder: str | Path, *, size_px: int = 512, seed: int = 0) -> Path:
    """Simulate a slide and write a result for it with features that no network learned.

    Each feature is a random mixture of a few measurements of the cell, so that it correlates with some markers, as
    learned features do. The same seed gives the same result.

    Parameters
    ----------
    folder
        Where to write ``sample.ome.tiff``, its mask and truth, and the result ``sample.mxs``.
    size_px
        Side of the slide in pixels.
    seed
        Seed of the tissue and of the features.

    Returns
    -------
    The folder of the result, which :func:`open_result` and the napari panel open.

    Examples
    --------
    >>> simulate_result(getfixture("tmp_path"), size_px=256).name
    'sample.mxs'
    """
    folder = Path(folder)
    files = simulate_slide(folder / "sample.ome.tiff", size_px=size_px, seed=seed)
    slide = open_slide(files.image, drop=_DROPPED)
    cells = measure_cells(slide, open_mask(files.mask))
    adata = _to_anndata(slide, cells, pd.read_csv(files.truth), seed)
    correlate(adata)
    result = Result(folder / "sample.mxs", (slide.name,))
    result.path.mkdir()
    write_cells(adata, result.cells)
    write_features(result.features, adata.obsm["X_splicer"], adata.obs_names)
    record = SlideRecord(slide.name, files.image, mask=files.mask, drop=_DROPPED).as_opened(slide)
    write_records(result, [record], run=result.run.name)
    return result.path


def _to_anndata(slide: Slide, cells: Cells, truth: pd.DataFrame, seed: int) -> AnnData:
    table, intensities = cells.table, np.asarray(cells.intensities)
    measured = np.column_stack([np.log1p(intensities), table[["area_um2", "eccentricity"]].to_numpy()])
    z = _mix(measured, seed)
    left, singular, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    obs = pd.DataFrame(
        {
            "cell_id": table["cell_id"].to_numpy(),
            "slide": pd.Categorical([slide.name] * len(z)),
            "x_px": table["x_px"].to_numpy(),
            "y_px": table["y_px"].to_numpy(),
            "area_um2": table["area_um2"].to_numpy(),
            "lineage": pd.Categorical(truth.set_index("cell_id").loc[table["cell_id"], "lineage"]),
        },
        index=[f"{slide.name}_{cell}" for cell in table["cell_id"]],
    )
    return AnnData(
        intensities.astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=list(slide.markers)),
        obsm={
            "spatial": table[["x", "y"]].to_numpy(),
            "X_splicer": z,
            "X_pca": (left[:, :2] * singular[:2]).astype(np.float32),
        },
    )


def _mix(measured: np.ndarray, seed: int) -> np.ndarray:
    """Return the features of the simulated result (N, features), float32: random mixtures of its measurements."""
    rng = np.random.default_rng(seed)
    sd = measured.std(axis=0)
    standardized = (measured - measured.mean(axis=0)) / np.where(sd > 0, sd, 1)
    shape = (measured.shape[1], _N_FEATURES)
    # Few measurements enter each feature, so that it correlates strongly with some markers and not weakly with all.
    mixing = rng.normal(size=shape) * (rng.random(shape) < 0.15)
    noise = rng.normal(scale=0.15, size=(len(measured), _N_FEATURES))
    return np.asarray(np.tanh(standardized @ mixing) + noise, dtype=np.float32)
