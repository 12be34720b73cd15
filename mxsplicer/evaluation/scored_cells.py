"""The cells that are scored: their file, their labels, and the same cells in other files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer.embedding.h5ad import open_cells, open_h5ad
from mxsplicer.errors import InputError
from mxsplicer.masks.geojson import is_geojson
from mxsplicer.result.folder import find_result, name_cells, open_result
from mxsplicer.result.slides import image_files, read_records
from mxsplicer.tl.drawn_outlines import join_outlines
from mxsplicer.tl.labels import join_labels
from mxsplicer.tl.reading import read_rows
from mxsplicer.tl.representations import (
    UNTRAINED,
    available,
    closed_form_keys,
    intensities_of,
    is_baseline,
    key_of,
    learned,
)

logger = logging.getLogger(__name__)

_MAX_DISTANCE_UM, _MAX_SHARE_MOVED = 1.0, 0.01  # between the centroids of the same cells in two files


def find_cells(path: str | Path) -> tuple[Path, Path | None]:
    """Return the AnnData file of the cells to score, and its result folder if it has one."""
    given = Path(path)
    result = given if given.is_dir() else given.parent
    cells = given / open_result(given)["files"]["cells"] if given.is_dir() else given
    with open_h5ad(cells):
        pass  # raises if it is not an AnnData file
    own = find_result(result) is not None and open_result(result)["files"]["cells"] == cells.name
    return cells, result if own else None


def check_names(adata: AnnData) -> list[str]:
    """Return a note if scored cells have the same name, and raise if markers have."""
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()]
        msg = f"{len(twice)} of {adata.n_vars} markers have the name of another one, such as {twice[0]!r}."
        raise InputError(msg, "Make the names distinct, for example by adata.var_names_make_unique().")
    if adata.obs_names.is_unique:
        return []
    twice = adata.obs_names[adata.obs_names.duplicated()]
    return [f"{len(twice):,} of {adata.n_obs:,} cells have the name of another one in obs_names, such as {twice[0]!r}."]


def join_labels_of(
    adata: AnnData, labels: str | Path | None, label: Sequence[str], result: Path | None = None
) -> list[str]:
    """Return the columns of ``obs`` to score cells on, after joining them from a file if one is given.

    A table may name the slides of ``result``, the folder of these cells, by their image files.
    """
    if labels is not None and not Path(labels).exists() and str(labels) in adata.obs:
        labels, label = None, [*label, str(labels)]
    if labels is None:
        if not label:
            words = [str(column) for column in adata.obs.select_dtypes(exclude="number")]
            msg = "no label was named."
            raise InputError(msg, f"Pass `labels`, or name a column of obs with `label`: {', '.join(words)}.")
        return list(label)
    path = Path(labels)
    if path.is_dir() or is_geojson(path):
        if len(label) > 1:
            msg = f"{path.name} holds outlines, which make one label, but {len(label)} labels are named."
            raise InputError(msg, "Name one `label`.")
        return [join_outlines(adata, path, label[0] if label else "annotation")]
    return join_labels(adata, path, label, images=image_files(read_records(result)) if result else None)


def rows_with(adata: AnnData, name: str) -> np.ndarray:
    """Return the rows of the cells to score: those that have a label."""
    if name not in adata.obs:
        msg = f"label {name!r} was not found; obs has the columns {', '.join(adata.obs.columns)}."
        raise InputError(msg)
    values = adata.obs[name].astype(object)
    return np.flatnonzero((values.notna() & (values.astype(str) != "")).to_numpy())


def draw_sample(
    adata: AnnData, rows: np.ndarray, compare: Sequence[str | Path], use_rep: Sequence[str], n: int, seed: int
) -> tuple[AnnData, int]:
    """Draw at most ``n`` cells to score, in memory, with the representations of all files.

    Cells are drawn at random from those that every file contains; their number is returned too.
    """
    others = {name_cells(Path(other)): find_cells(other)[0] for other in compare}
    if len(others) < len(compare):
        msg = f"two of the files to compare with have the name {next(iter(others))!r}."
        raise InputError(msg, "Give them different names.")
    names_of = {name: pd.Index(_obs_names(path)) for name, path in others.items()}
    for name, names in {"the cells": adata.obs_names if others else pd.Index([]), **names_of}.items():
        if not names.is_unique:
            twice = names[names.duplicated()][0]
            msg = f"obs_names of {others.get(name, name)} are not unique ({twice!r} is there twice)."
            raise InputError(msg, "Cells are matched by their names, so make them distinct.")
    for name, names in names_of.items():
        rows = rows[np.isin(adata.obs_names[rows], names)]
        if not len(rows):
            msg = (
                f"none of the scored cells was found in {others[name]}; cells are matched by obs_names, for example "
                f"{adata.obs_names[0]!r}."
            )
            raise InputError(msg)
    n_candidates = len(rows)
    if n_candidates > n:
        rows = np.sort(np.random.default_rng(seed).choice(rows, n, replace=False))
        logger.info("A random sample of %d of %d cells is used", n, n_candidates)
    keys = [*learned(adata).values(), *closed_form_keys(adata), *use_rep]
    for key in use_rep:
        _check_key(adata, key)
    obsm = {key: read_rows(adata.obsm[key], rows) for key in dict.fromkeys(keys)}
    if "spatial" in adata.obsm:
        obsm["spatial"] = np.asarray(adata.obsm["spatial"])[rows]
    sample = AnnData(
        X=adata.X[rows], obs=adata.obs.iloc[rows].copy(), var=adata.var[[]].copy(), obsm=obsm, uns=_about(adata)
    )
    for name, path in others.items():
        with open_cells(path) as other:
            found = [(title, key) for title, key in learned(other).items() if title != UNTRAINED]
            found += [(key, key) for key in use_rep if key in other.obsm]
            if not found:
                msg = f"{path} has no learned representation; its obsm has the keys {', '.join(other.obsm)}."
                raise InputError(msg)
            places = names_of[name].get_indexer(pd.Index(sample.obs_names))
            _check_places(sample, other, places, path)
            order = np.argsort(places)
            for title, key in found:
                z = read_rows(other.obsm[key], places[order])
                sample.obsm[f"{title} ({name})"] = z[np.argsort(order)]
    return sample, n_candidates


def draw_reference(adata: AnnData, n: int, seed: int) -> AnnData:
    """Draw at most ``n`` cells, scored or not, by which intensities are scaled."""
    rows = np.sort(np.random.default_rng(seed).permutation(adata.n_obs)[:n])
    keys = closed_form_keys(adata)
    obsm = {key: read_rows(adata.obsm[key], rows) for key in keys}
    if "spatial" in adata.obsm:
        obsm["spatial"] = np.asarray(adata.obsm["spatial"])[rows]
    about = {"mxsplicer": {"intensities": intensities_of(adata)}}
    return AnnData(X=adata.X[rows], obs=adata.obs.iloc[rows].copy(), var=adata.var[[]].copy(), obsm=obsm, uns=about)


def names_to_score(sample: AnnData, use_rep: Sequence[str] = ()) -> list[str]:
    """Return the representations that the scored cells have: that of the run, those of other files, and baselines."""
    names = available(sample)
    known = {"spatial", *(key_of(name) for name in names)}
    own = [name for name in names[:1] if not is_baseline(name)]
    return list(dict.fromkeys([*own, *(key for key in sample.obsm if key not in known), *use_rep, *names]))


def _check_places(sample: AnnData, other: AnnData, places: np.ndarray, path: Path) -> None:
    """Raise if scored cells have other centroids in another file, as cells of another mask have."""
    if "spatial" not in sample.obsm or "spatial" not in other.obsm:
        return
    distance_um = np.abs(np.asarray(sample.obsm["spatial"]) - np.asarray(other.obsm["spatial"])[places]).max(axis=1)
    moved = (distance_um > _MAX_DISTANCE_UM).mean()
    if moved > _MAX_SHARE_MOVED:
        msg = (
            f"{moved:.0%} of the cells of {path} have the name of a scored cell but another centroid (median distance "
            f"{np.median(distance_um):.3g} µm): the file was made with another mask."
        )
        raise InputError(msg, "Embed the same cells to compare them.")


def _check_key(adata: AnnData, key: str) -> None:
    if key not in adata.obsm:
        msg = f"representation {key!r} was not found; obsm has the keys {', '.join(adata.obsm) or '(none)'}."
        raise InputError(msg)


def _about(adata: AnnData) -> dict[str, Any]:
    about = adata.uns.get("mxsplicer", {})
    kept = {key: about[key] for key in ("method", "patch_size_um", "pixel_size_um", "settings") if key in about}
    return {"mxsplicer": {**kept, "intensities": intensities_of(adata)}}


def _obs_names(path: Path) -> Any:
    with open_h5ad(path) as file:
        obs = file["obs"]
        return anndata.io.read_elem(obs[obs.attrs["_index"]])
