"""Local correlation: where in the tissue a feature correlates with a marker."""

import numpy as np
from anndata import AnnData
from scipy.spatial import KDTree

from mxsplicer.errors import InputError
from mxsplicer.system.progress import track
from mxsplicer.tl.defaults import SCALE
from mxsplicer.tl.features import feature_names, find_feature
from mxsplicer.tl.labels import obs_name
from mxsplicer.tl.reading import row_slices, rows_by_slide
from mxsplicer.tl.representations import representation

SCALES = {"cell": 0.0, "neighbourhood": 50.0, "region": 250.0}  # µm
_STEPS = 8  # strips per radius
_MIN_CELLS = 10  # fewer give no reliable correlation


def local_correlation(
    adata: AnnData,
    marker: str | None,
    feature: int | str,
    *,
    scale: str = SCALE,
    radius_um: float | None = None,
    n_neighbours: int | None = None,
    use_rep: str = "X_splicer",
    key_added: str | None = None,
) -> str:
    """Correlate a marker with a feature in the neighbourhood of every cell.

    At the scale ``"cell"`` it is the contribution of each cell: the product of the two standardised values, whose mean
    over all cells is Pearson's r. At the other scales it is Pearson's r of the cells in the neighbourhood, including
    the cell itself. Discs are approximated by strips of an eighth of their radius, so a million cells take seconds.

    Parameters
    ----------
    adata
        Cells with ``obsm["spatial"]`` in µm; a neighbourhood has cells of one slide only.
    marker
        Name of the marker; None for all markers, which sets a layer.
    feature
        Number of the feature in the representation, from 0, or its name, such as ``"CD4 rim"``.
    scale
        ``"cell"``, ``"neighbourhood"`` (within 50 µm) or ``"region"`` (within 250 µm).
    radius_um
        Radius of the neighbourhood, instead of ``scale``.
    n_neighbours
        Number of nearest cells in the neighbourhood, including the cell itself, instead of ``scale``.
    use_rep
        Key of the representation.
    key_added
        Key of the result; by default as below.

    Sets
    ----
    ``adata.obs["local_<marker>_<feature>_<scale>"]``
        -1 to 1, or any number at the scale ``"cell"``; float32. NaN where the neighbourhood has fewer than 10 cells, or
        the marker or the feature is constant in it. ``<feature>`` is the name of the feature if it has one,
        ``local_CD3e_CD4_rim_cell``, else its number. For another representation than ``X_splicer``, its name precedes
        the feature: ``local_CD3e_joint12_cell``.
    ``adata.layers["local_<feature>_<scale>"]``
        The same for every marker, if ``marker`` is None.

    Returns
    -------
    The key that was set.

    Raises
    ------
    InputError
        If the marker, the feature or the scale is unknown, or both ``radius_um`` and ``n_neighbours`` are given.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(500, 1))
    >>> points = rng.uniform(0, 200, (500, 2))
    >>> sign = np.where(points[:, :1] < 100, 1, -1)  # negative correlation on the right
    >>> adata = AnnData(z * sign, obsm={"X_splicer": z, "spatial": points})
    >>> adata.var_names = ["CD3e"]
    >>> name = local_correlation(adata, "CD3e", 0, radius_um=30)
    >>> left, right = adata.obs[name][points[:, 0] < 50], adata.obs[name][points[:, 0] > 150]
    >>> print(name, left.min().round(2), right.max().round(2))
    local_CD3e_0_30um 1.0 -1.0
    """
    z = representation(adata, use_rep)
    _check(adata, marker, scale)
    number = find_feature(adata, feature, use_rep)
    neighbourhood = _name_of(scale, radius_um, n_neighbours)
    of_feature = _standardized(np.asarray(z[:, number], dtype=np.float64)[:, None])[:, 0]
    markers = range(adata.n_vars) if marker is None else [adata.var_names.get_loc(marker)]
    out = np.empty((adata.n_obs, len(markers)), dtype=np.float32)
    x = _standardized_markers(adata, list(markers))
    if neighbourhood == "cell":
        out[:] = x * of_feature[:, None]
    else:
        points = np.asarray(adata.obsm["spatial"], dtype=np.float64)
        for rows in track(list(rows_by_slide(adata).values()), "Computing local correlations"):
            if n_neighbours is not None:
                out[rows] = _among_nearest(points[rows], x[rows], of_feature[rows], n_neighbours)
            else:
                out[rows] = _within(points[rows], x[rows], of_feature[rows], radius_um or SCALES[scale])
    of_rep = "" if use_rep == "X_splicer" else use_rep.removeprefix("X_")
    of_rep += feature_names(adata, use_rep=use_rep)[number].removeprefix("feature ")
    if marker is None:
        name = key_added or obs_name(f"local_{of_rep}_{neighbourhood}")
        adata.layers[name] = out
    else:
        name = key_added or obs_name(f"local_{marker}_{of_rep}_{neighbourhood}")
        adata.obs[name] = out[:, 0]
    return name


def _check(adata: AnnData, marker: str | None, scale: str) -> None:
    if marker is not None and marker not in adata.var_names:
        msg = f"marker {marker!r} was not found; the cells have the markers {', '.join(adata.var_names)}."
        raise InputError(msg)
    if scale not in SCALES:
        msg = f"scale {scale!r} is unknown; the scales are {', '.join(SCALES)}."
        raise InputError(msg)


def _name_of(scale: str, radius_um: float | None, n_neighbours: int | None) -> str:
    """Return the name of a local correlation's neighbourhood, as it stands in the key of the result."""
    if radius_um is not None and n_neighbours is not None:
        msg = "both `radius_um` and `n_neighbours` are given."
        raise InputError(msg, "Pass one of them.")
    if radius_um is not None:
        if radius_um <= 0:
            msg = f"`radius_um` is {radius_um:g}; it must be more than 0."
            raise InputError(msg)
        return f"{radius_um:g}um"
    if n_neighbours is not None:
        if n_neighbours < 3:
            msg = f"`n_neighbours` is {n_neighbours}; a correlation needs 3 or more cells."
            raise InputError(msg)
        return f"{n_neighbours}nearest"
    return scale


def _standardized_markers(adata: AnnData, markers: list[int]) -> np.ndarray:
    some = adata.X[:, markers]
    return _standardized(np.asarray(some.toarray() if hasattr(some, "toarray") else some, dtype=np.float64))


def _standardized(values: np.ndarray) -> np.ndarray:
    # A common offset and scale do not change the local correlations, and sums of centred values keep their digits.
    sd = values.std(axis=0)
    mean = values.mean(axis=0)
    return np.asarray((values - mean) / np.where(sd > 1e-6 * np.abs(mean), sd, np.inf))


def _within(points: np.ndarray, x: np.ndarray, z: np.ndarray, radius_um: float) -> np.ndarray:
    """Return the local correlation within a disc around each cell (n, m)."""
    # Cells are sorted by strip (an eighth of the radius high) and by x. A disc contains one interval of each strip, and
    # the sum over an interval is the difference of two cumulative sums.
    height = radius_um / _STEPS
    xy = points - points.min(axis=0)
    strip = np.floor(xy[:, 1] / height)
    length = xy[:, 0].max() + 3 * radius_um
    order = np.lexsort((xy[:, 0], strip))
    strip, along = strip[order], xy[order, 0]
    position = strip * length + along
    intervals = []
    for step in range(1 - _STEPS, _STEPS):
        reach, middle = np.sqrt(radius_um**2 - (step * height) ** 2), (strip + step) * length + along
        ends = np.searchsorted(position, [middle - reach, middle + reach])
        intervals.append(ends.astype(np.int32))

    def sum_in_discs(values: np.ndarray) -> np.ndarray:
        """Return sums over the disc of each cell, of columns (n, w) sorted by ``order``."""
        sums = np.zeros((len(values) + 1, values.shape[1]))
        np.cumsum(values, axis=0, out=sums[1:])
        return np.asarray(sum(sums[last] - sums[first] for first, last in intervals))

    of_z = z[order]
    n, sum_z, sum_zz = sum_in_discs(np.stack([np.ones(len(z)), of_z, of_z**2], axis=1)).T
    out = np.empty(x.shape, dtype=np.float32)
    for column in range(x.shape[1]):
        own = x[order, column]
        sum_x, sum_xx, sum_xz = sum_in_discs(np.stack([own, own**2, own * of_z], axis=1)).T
        out[order, column] = _pearson(n, sum_x, sum_z, sum_xx, sum_zz, sum_xz)
    return out


def _among_nearest(points: np.ndarray, x: np.ndarray, z: np.ndarray, n_neighbours: int) -> np.ndarray:
    """Return the local correlation among the nearest cells of each cell, including itself (n, m)."""
    tree, k = KDTree(points), min(n_neighbours, len(points))
    out = np.empty(x.shape, dtype=np.float32)
    for part in row_slices(len(points)):
        near = tree.query(points[part], k=range(1, k + 1), workers=-1)[1]  # (rows, k)
        near_z = z[near]
        sum_z, sum_zz = near_z.sum(axis=1), np.square(near_z).sum(axis=1)
        for column in range(x.shape[1]):
            own = x[near, column]
            sums = own.sum(axis=1), sum_z, np.square(own).sum(axis=1), sum_zz, (own * near_z).sum(axis=1)
            out[part, column] = _pearson(np.full(len(near), float(k)), *sums, fewest=min(_MIN_CELLS, n_neighbours))
    return out


def _pearson(
    n: np.ndarray,
    sum_x: np.ndarray,
    sum_z: np.ndarray,
    sum_xx: np.ndarray,
    sum_zz: np.ndarray,
    sum_xz: np.ndarray,
    fewest: int = _MIN_CELLS,
) -> np.ndarray:
    of_x, of_z = sum_xx - sum_x**2 / n, sum_zz - sum_z**2 / n
    # The thresholds exclude constants, whose variance is not exactly 0 after rounding.
    defined = (n > fewest - 0.5) & (of_x > 1e-9 * (sum_xx + n)) & (of_z > 1e-9 * (sum_zz + n))
    scale = np.sqrt(np.where(defined, of_x * of_z, 1.0))
    return np.asarray(np.where(defined, np.clip((sum_xz - sum_x * sum_z / n) / scale, -1, 1), np.nan))
