"""What all exports share: files that appear under their name when they are whole, and the cells of one slide."""

import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError


def cells_of_slide(adata: AnnData, slide: str | None) -> pd.DataFrame:
    """Return the rows of ``adata.obs`` of one slide, which has to be named where there are several."""
    obs: pd.DataFrame = adata.obs
    if slide is None and "slide" in obs and obs["slide"].nunique() > 1:
        msg = f"the cells are of {obs['slide'].nunique()} slides; say which one is meant by slide."
        raise InputError(msg)
    if slide is not None:
        obs = obs[(obs["slide"].astype(str) == slide).to_numpy()]
        if not len(obs):
            msg = f"there is no cell of slide {slide!r}; the slides are {', '.join(sorted(set(adata.obs['slide'])))}."
            raise InputError(msg)
    return obs
