"""The section "Effective rank of the features": singular values."""

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer import pl
from mxsplicer.report.figures import inline_figure, new_figure


def spectrum_section(key: str, z: np.ndarray | None) -> dict[str, Any] | None:
    """Return a figure of the singular values of a representation.

    Parameters
    ----------
    key
        Name of the representation.
    z
        The representation (n, d) of some cells.
    """
    if z is None or len(z) < 2:
        return None
    figure = new_figure(5.6, 3.2)
    cells = AnnData(obs=pd.DataFrame(index=pd.RangeIndex(len(z)).astype(str)), obsm={key: z})
    pl.spectrum(cells, use_rep=key, ax=figure.subplots())
    image = inline_figure(figure, "Singular values of the features.", vector=True)
    return {"figure": image, "n": f"{len(z):,}"}
