"""Where in the tissue a feature follows a marker."""

import numpy as np
import pandas as pd
from anndata import AnnData

import mxsplicer
from mxsplicer import InputError
from napari_mxsplicer.study import Study


def local_correlation(study: Study, marker: str, feature: int, radius_um: float) -> np.ndarray:
    """Return Pearson's r of a marker and a feature among the cells around each cell (N,), NaN where few are near.

    Raises
    ------
    InputError
        If the table does not say where the cells lie in micrometres.
    """
    if study.spatial_um is None:
        msg = f"{study.cells.name} has no obsm['spatial']: it does not say where the cells lie in micrometres."
        raise InputError(msg)
    adata = AnnData(
        study.marker(marker)[:, None],
        obs=pd.DataFrame({"slide": study.slides}, index=pd.RangeIndex(study.n_cells).astype(str)),
        var=pd.DataFrame(index=[marker]),
        obsm={"spatial": study.spatial_um, "X_one": study.feature(feature)[:, None]},
    )
    name = mxsplicer.tl.local_correlation(adata, marker, 0, radius_um=radius_um, use_rep="X_one")
    return np.asarray(adata.obs[name], dtype=np.float32)
