"""Local correlation: where in the tissue a feature correlates with a marker."""

import numpy as np
import pandas as pd
from anndata import AnnData

import mxsplicer
from mxsplicer import InputError
from napari_mxsplicer.study import Study


def local_correlation(study: Study, marker: str, feature: int, radius_um: float) -> np.ndarray:
    """Return Pearson's r (N,) of a marker and a feature among the cells around each cell, NaN where they are few.

    Raises
    ------
    InputError
        If the table lacks positions in micrometres.
    """
    if study.spatial_um is None:
        msg = f"the local correlation needs positions in obsm['spatial'], not found in {study.cells.name}."
        raise InputError(msg)
    adata = AnnData(
        study.marker(marker)[:, None],
        obs=pd.DataFrame({"slide": study.slides}, index=pd.RangeIndex(study.n_cells).astype(str)),
        var=pd.DataFrame(index=[marker]),
        obsm={"spatial": study.spatial_um, "X_one": study.feature(feature)[:, None]},
    )
    name = mxsplicer.tl.local_correlation(adata, marker, 0, radius_um=radius_um, use_rep="X_one")
    return np.asarray(adata.obs[name], dtype=np.float32)
