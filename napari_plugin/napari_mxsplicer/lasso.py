"""The lasso: which points lie inside the polygons that a user draws."""

from collections.abc import Sequence

import numpy as np

_AT_ONCE = 1 << 15  # points, so that other threads can run in between


def inside_polygon(xy: np.ndarray, corners: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Return which points (N, 2) lie inside the polygon of a lasso, as booleans."""
    from matplotlib.path import Path

    corners = np.asarray(corners, dtype=np.float64)
    out = np.zeros(len(xy), dtype=bool)
    if len(corners) < 3:
        return out
    (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
    path, (x, y) = Path(corners), xy.T
    near = np.flatnonzero((x >= left) & (x <= right) & (y >= bottom) & (y <= top))
    for first in range(0, len(near), _AT_ONCE):
        some = near[first : first + _AT_ONCE]
        out[some] = path.contains_points(xy[some])
    return out


def rows_inside(xy: np.ndarray, polygons: Sequence[np.ndarray]) -> np.ndarray:
    """Return which points (N, 2) lie inside any lasso, as their rows, ascending."""
    inside = np.zeros(len(xy), dtype=bool)
    for corners in polygons:
        inside |= inside_polygon(xy, corners)
    return np.flatnonzero(inside)
