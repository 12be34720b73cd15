"""Cells similar to a cell by their features."""

import anndata
import numpy as np
import pandas as pd

import mxsplicer
from napari_mxsplicer.study import Study


def similar_rows(study: Study, row: int, *, n: int = 12, among: np.ndarray | None = None) -> np.ndarray:
    """Return the rows of the ``n`` nearest neighbours of a cell, the most similar ones first.

    All slides are searched, or the cells for which ``among`` (N,) is true.
    """
    with mxsplicer.open_h5ad(study.cells) as file:
        adata = anndata.AnnData(
            obs=pd.DataFrame(index=pd.RangeIndex(study.n_cells).astype(str)),
            obsm={study.representation: file["obsm"][study.representation]},
        )
        found = mxsplicer.tl.similar(adata, int(row), n=n, use_rep=study.representation, among=among)
    return np.asarray(found["row"], dtype=np.int64)
