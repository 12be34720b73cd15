"""Checks that several exports share: the cells of one slide, and a zarr store that may be replaced."""

from pathlib import Path

import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.system.files import check_free


def cells_of_slide(adata: AnnData, slide: str | None) -> pd.DataFrame:
    """Check that an export is of one slide, and return the rows of ``adata.obs`` of its cells.

    Raises
    ------
    InputError
        If there are several slides and ``slide`` is None, or if the slide has no cells.
    """
    obs: pd.DataFrame = adata.obs
    if slide is None and "slide" in obs and obs["slide"].nunique() > 1:
        msg = f"the cells are from {obs['slide'].nunique()} slides, and this file is about one."
        raise InputError(msg, "Pass the name of the `slide`.")
    if slide is not None:
        obs = obs[(obs["slide"].astype(str) == slide).to_numpy()]
        if not len(obs):
            msg = f"slide {slide!r} has no cells; the slides are {', '.join(sorted(set(adata.obs['slide'])))}."
            raise InputError(msg)
    return obs


def check_zarr_is_free(path: Path, *, overwrite: bool) -> None:
    """Check that an export may write to ``path``: raise if it must not be replaced, or is not a zarr group."""
    check_free(path, overwrite=overwrite)
    if path.exists() and not any((path / name).is_file() for name in ("zarr.json", ".zgroup")):
        msg = f"{path} exists and is not a zarr group, so it is not replaced."
        raise InputError(msg, "Choose another name.")
