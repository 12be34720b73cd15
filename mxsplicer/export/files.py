"""What all exports share: files that appear under their name when they are whole, and the cells of one slide."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError


@contextmanager
def appearing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary name beside ``path``, and rename what was written there at the end of the ``with`` block.

    Raises
    ------
    InputError
        If ``path`` exists and may not be replaced.
    """
    if path.exists() and not overwrite:
        msg = f"{path} exists; choose another name, or give --overwrite to replace it."
        raise InputError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.partial")
    _remove(unfinished)
    try:
        yield unfinished
        if unfinished.is_dir():  # a folder takes the place of none but an empty one
            _remove(path)
        unfinished.replace(path)
    finally:
        _remove(unfinished)


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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
