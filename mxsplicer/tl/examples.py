"""Example cells of each cluster: typical cells, borderline cells and outliers."""

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial.distance import cdist

from mxsplicer.tl.clustering import cluster_codes
from mxsplicer.tl.reading import read_rows
from mxsplicer.tl.representations import representation

KINDS = ("typical", "borderline", "outlier")


def pick_examples(
    adata: AnnData,
    *,
    groupby: str = "leiden",
    use_rep: str = "X_splicer",
    n: int = 8,
    max_cells: int = 2000,
    among: np.ndarray | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Choose typical, borderline and outlying cells of each cluster, by distances in a representation.

    *Typical* cells are drawn from the quarter nearest to the centre of their cluster, *borderline* cells are about as
    near to the centre of another cluster as to their own, *outliers* are farthest from their own centre. No cell is
    chosen twice. Large clusters are sampled at random, so memory does not grow with the number of cells. The
    representation may lie on disk; it is read once.

    Parameters
    ----------
    adata
        Cells with clusters in ``obs`` and a representation in ``obsm``.
    groupby
        Column of the clusters.
    use_rep
        Key of the representation.
    n
        Number of cells of each kind and cluster; fewer where a cluster is small.
    max_cells
        Largest number of cells of one cluster that are considered.
    among
        Which cells may be chosen, one boolean per cell; all by default.
    seed
        Seed of the sample and of the typical cells.

    Returns
    -------
    One row per chosen cell, with the index of ``obs_names``: ``group`` (the cluster), ``kind``, ``row`` (in ``adata``),
    ``distance`` (Euclidean, to the centre of the cluster), ``nearest_other`` (the other cluster with the nearest
    centre, "" if there is only one cluster), and ``slide``, ``cell_id``, ``x_px``, ``y_px`` from ``obs``.

    Raises
    ------
    InputError
        If the clusters or the representation were not found.
    """
    names, codes = cluster_codes(adata, groupby)
    z = representation(adata, use_rep)
    rng = np.random.default_rng(seed)
    allowed = np.ones(adata.n_obs, dtype=bool) if among is None else np.asarray(among, dtype=bool)
    members = [np.flatnonzero((codes == code) & allowed) for code in range(len(names))]
    sample = [rng.choice(rows, max_cells, replace=False) if len(rows) > max_cells else rows for rows in members]
    rows = np.sort(np.concatenate(sample)) if sample else np.empty(0, dtype=np.int64)
    of_row = codes[rows]
    present = np.unique(of_row)
    features = read_rows(z, rows)
    centres = np.stack([features[of_row == code].mean(axis=0) for code in present]) if len(present) else features[:0]
    tables = []
    for number, code in enumerate(present):
        own = np.flatnonzero(of_row == code)
        distances = cdist(features[own], centres)  # (cells, clusters)
        to_own, to_others = distances[:, number].copy(), distances
        to_others[:, number] = np.inf
        picked = _pick(to_own, to_others.min(axis=1), n, rng)
        at = np.concatenate([picked[kind] for kind in KINDS])
        other = present[to_others[at].argmin(axis=1)]
        tables.append(
            pd.DataFrame(
                {
                    "group": names[code],
                    "kind": np.repeat(KINDS, [len(picked[kind]) for kind in KINDS]),
                    "row": rows[own[at]],
                    "distance": to_own[at],
                    "nearest_other": [names[one] if len(present) > 1 else "" for one in other],
                }
            )
        )
    columns = {"group": str, "kind": str, "row": np.int64, "distance": float, "nearest_other": str}
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    table = pd.concat(tables, ignore_index=True) if tables else empty
    for column in ("slide", "cell_id", "x_px", "y_px"):
        if column in adata.obs:
            table[column] = adata.obs[column].to_numpy()[table["row"]]
    return table.set_index(adata.obs_names[table["row"]])


def _pick(to_own: np.ndarray, to_other: np.ndarray, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the indices of the example cells of each kind; the kinds share the cells of a small cluster equally."""
    n = min(n, -(-len(to_own) // len(KINDS)))
    near = np.argsort(to_own, kind="stable")
    typical = np.sort(rng.permutation(max(n, len(near) // 4))[:n])
    free = np.ones(len(near), dtype=bool)
    picked = {"typical": near[typical]}
    free[picked["typical"]] = False
    by_margin = np.argsort(np.abs(to_other - to_own), kind="stable") if np.isfinite(to_other).any() else near[:0]
    picked["borderline"] = by_margin[free[by_margin]][:n]
    free[picked["borderline"]] = False
    far = near[::-1]
    picked["outlier"] = far[free[far]][:n]
    return picked
