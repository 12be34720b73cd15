"""Reading a representation from disk: rows and columns in parts, to bound the memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from anndata import AnnData

AT_ONCE = 16_384  # cells; with 512 features they take 67 MB in float64
_COLUMN_BYTES, _BLOCK_BYTES = 1 << 30, 64 << 20


def row_slices(n: int) -> Sequence[slice]:
    """Return consecutive slices of ``AT_ONCE`` rows that are read at once and cover ``n`` rows."""
    return [slice(start, min(start + AT_ONCE, n)) for start in range(0, n, AT_ONCE)]


def read_rows(matrix: Any, rows: np.ndarray) -> np.ndarray:
    """Read some rows, given in ascending order, as float32; a dataset on disk is read once."""
    out = np.empty((len(rows), matrix.shape[1]), dtype=np.float32)
    for part in row_slices(matrix.shape[0]):
        first, last = np.searchsorted(rows, (part.start, part.stop))
        if last > first:
            out[first:last] = matrix[part][rows[first:last] - part.start]
    return out


def read_features(matrix: Any, rows: np.ndarray) -> np.ndarray:
    """Read some rows, given in ascending order, as float32; of a dataset on disk only the chunks that hold them.

    For scattered rows this decompresses less than :func:`read_rows`, which reads larger slices.
    """
    if isinstance(matrix, np.ndarray):
        return np.asarray(matrix[rows], dtype=np.float32)
    out = np.empty((len(rows), matrix.shape[1]), dtype=np.float32)
    height = (getattr(matrix, "chunks", None) or (AT_ONCE,))[0]
    ends = np.flatnonzero(np.diff(rows // height)) + 1
    for part in np.split(np.arange(len(rows)), ends) if len(rows) else []:
        start = int(rows[part[0]])
        out[part] = matrix[start : int(rows[part[-1]]) + 1][rows[part] - start]
    return out


def read_columns(matrix: Any, at_once: int = 16, *, lean: bool = False) -> Iterator[tuple[slice, np.ndarray]]:
    """Read all columns as float32 and yield some at a time (N, w); a dataset on disk is read about once.

    At most ``at_once`` columns are yielded together, and fewer for many cells: about 64 MB, or 16 MB if ``lean``. A
    dataset that is chunked by rows is read once for every ``_COLUMN_BYTES`` of its columns.
    """
    n, d = matrix.shape
    group, width = _widths(matrix, at_once, lean)
    on_disk = not isinstance(matrix, np.ndarray)
    read = np.empty((n, min(group, d)), dtype=np.float32) if on_disk else matrix
    for first in range(0, d, group):
        start, stop = (first, min(first + group, d)) if on_disk else (0, d)
        if on_disk:
            for part in row_slices(n):
                read[part, : stop - start] = matrix[part, start:stop]
        for left in range(first, stop, width):
            some = slice(left, min(left + width, stop))
            # A copy, because the buffer is reused for the next columns.
            yield some, np.array(read[:, some.start - start : some.stop - start], dtype=np.float32)


def count_column_groups(matrix: Any, at_once: int = 16, *, lean: bool = False) -> int:
    """Return the number of groups of columns that :func:`read_columns` yields."""
    d = matrix.shape[1]
    group, width = _widths(matrix, at_once, lean)
    return sum(-(-min(group, d - first) // width) for first in range(0, d, group))


def _widths(matrix: Any, at_once: int, lean: bool) -> tuple[int, int]:
    """Return how many columns are read from disk at once, and how many of them are yielded at once."""
    n, d = matrix.shape
    chunks = getattr(matrix, "chunks", None)
    width = max(1, min(at_once, _BLOCK_BYTES // (4 if lean else 1) // (4 * max(n, 1))))
    if isinstance(matrix, np.ndarray):
        return d, width
    if chunks is not None and chunks[1] < d:
        return max(1, round(at_once / chunks[1])) * chunks[1], width
    return max(at_once, _COLUMN_BYTES // (4 * max(n, 1))), width


def rows_by_slide(adata: AnnData) -> Mapping[str, np.ndarray]:
    """Return the rows to read of each slide, ascending, with slides sorted by name."""
    if "slide" not in adata.obs:
        return {"": np.arange(adata.n_obs)}
    of_cell = adata.obs["slide"].astype("category").cat.remove_unused_categories().cat
    codes = of_cell.codes.to_numpy()
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(of_cell.categories) + 1))
    rows = {str(name): order[ends[code] : ends[code + 1]] for code, name in enumerate(of_cell.categories)}
    return dict(sorted(rows.items()))
