"""Nuclei that are numbered apart from their cells, as two segmentations number them: matched by overlap."""

import logging
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.tiles import TileGrid
from mxsplicer.system.progress import track

logger = logging.getLogger(__name__)

_TILE_PX, _SAMPLE_PX, _SAMPLES = 2048, 1024, 16
_MOST_ASTRAY = 0.05  # of the nuclear pixels inside cells lie in another cell than that of their number
# Share of a nucleus in its cell, and of the nuclei that reach it: about 98 % of the right slide, 55 % of another one.
_INSIDE, _FEWEST_INSIDE = 0.8, 0.8


def match_nuclei(nuclei: LazyImage, mask: LazyImage, *, name: str) -> LazyImage:
    """Return nuclei with the ids of the cells that they lie in.

    Where nuclei have the ids of their cells already, which is seen in some windows, they are returned as they are.
    Otherwise each nucleus gets the id of the cell that it overlaps most, and one outside all cells an id that no cell
    has. For that both masks are read once, when pixels are first needed.

    Parameters
    ----------
    nuclei, mask
        Label images (Y, X) of one shape.
    name
        Name of the slide, for messages.

    Raises
    ------
    InputError
        When pixels are read, if most nuclei do not lie inside a cell: the masks are of different slides or displaced.
    """
    if tuple(nuclei.shape) != tuple(mask.shape) or share_astray(nuclei, mask) <= _MOST_ASTRAY:
        return nuclei
    return MatchedNuclei(nuclei, mask, name)


def share_astray(nuclei: LazyImage, mask: LazyImage) -> float:
    """Return the share of the nuclear pixels inside cells that lie in a cell of another id, in some windows."""
    grid = TileGrid((mask.shape[0], mask.shape[1]), (_SAMPLE_PX, _SAMPLE_PX))
    n_inside = n_astray = 0
    for number in np.random.default_rng(0).permutation(len(grid))[:_SAMPLES]:
        window = grid[int(number)]
        of_cells, of_nuclei = np.asarray(mask[window]), np.asarray(nuclei[window])
        inside = (of_cells > 0) & (of_nuclei > 0)
        n_inside += int(inside.sum())
        n_astray += int((inside & (of_cells != of_nuclei)).sum())
    return n_astray / n_inside if n_inside else 0.0


class _Matches(NamedTuple):
    nuclei: np.ndarray  # ids, ascending
    cells: np.ndarray  # the id that each gets


class MatchedNuclei:
    """A label image (Y, X) of nuclei, read with the id of the cell that each overlaps most."""

    dtype = np.dtype(np.uint32)
    ndim = 2

    def __init__(self, nuclei: LazyImage, mask: LazyImage, name: str) -> None:
        self._nuclei, self._mask, self._name = nuclei, mask, name
        self.shape = (nuclei.shape[0], nuclei.shape[1])

    def __getitem__(self, key: Any) -> np.ndarray:
        nuclei = np.asarray(self._nuclei[key])
        matches = self._matches
        found = np.searchsorted(matches.nuclei, nuclei.ravel()).reshape(nuclei.shape)
        padded = np.append(matches.cells, np.uint32(0))
        return np.where(nuclei > 0, padded[found], 0).astype(np.uint32)

    def __getstate__(self) -> dict[str, Any]:
        _ = self._matches  # found once, not by every process
        return self.__dict__

    @cached_property
    def _matches(self) -> _Matches:
        pairs, cell_ids = count_overlaps(self._nuclei, self._mask)
        best = best_cells(pairs)
        outside = best["cell"].isna()
        if not nuclei_lie_inside(best):
            n_inside = int(best["inside"].sum())
            msg = (
                f"only {n_inside:,} of {len(best):,} nuclei of slide {self._name!r} lie inside a cell, so they cannot "
                "be matched with the cells."
            )
            raise InputError(msg, "Give the nuclei and cells of the same slide and level.")
        logger.warning(
            "the nuclei of slide %r are numbered apart from its cells, so each belongs to the cell that it overlaps "
            "most: %d nuclei to %d cells; %d lie outside all cells",
            self._name,
            int((~outside).sum()),
            best["cell"].nunique(),
            int(outside.sum()),
        )
        cells = best["cell"].fillna(0).to_numpy(np.uint32)
        cells[outside.to_numpy()] = cell_ids.max(initial=0) + 1 + np.arange(int(outside.sum()), dtype=np.uint32)
        return _Matches(best.index.to_numpy(np.uint32), cells)


def count_overlaps(nuclei: LazyImage, mask: LazyImage, *, tile_px: int = _TILE_PX) -> tuple[pd.DataFrame, np.ndarray]:
    """Count the pixels that each nucleus shares with each cell, tile by tile.

    Returns
    -------
    A table of ``nucleus``, ``cell`` (0: outside all cells) and ``n``, and the ids of all cells, ascending.
    """
    grid = TileGrid((mask.shape[0], mask.shape[1]), (tile_px, tile_px))
    found, ids = [], []
    for window in track(grid, "Comparing nuclei", total=len(grid)):
        of_cells, of_nuclei = (np.asarray(one[window]).astype(np.uint64).ravel() for one in (mask, nuclei))
        ids.append(np.unique(of_cells))
        both, n = np.unique((of_nuclei << np.uint64(32) | of_cells)[of_nuclei > 0], return_counts=True)
        found.append(pd.DataFrame({"nucleus": both >> np.uint64(32), "cell": both & np.uint64(2**32 - 1), "n": n}))
    cell_ids = np.unique(np.concatenate(ids))
    return pd.concat(found).groupby(["nucleus", "cell"])["n"].sum().reset_index(), cell_ids[cell_ids > 0]


def best_cells(overlaps: pd.DataFrame) -> pd.DataFrame:
    """Return for each nucleus, the index, the ``cell`` that it overlaps most, and whether it lies ``inside`` of it."""
    size = overlaps.groupby("nucleus")["n"].sum()
    in_cells = overlaps[overlaps["cell"] > 0].sort_values("n", ascending=False, kind="stable")
    best = in_cells.drop_duplicates("nucleus").set_index("nucleus").reindex(size.index)
    return pd.DataFrame({"cell": best["cell"], "inside": (best["n"] / size).fillna(0) >= _INSIDE})


def nuclei_lie_inside(best: pd.DataFrame) -> bool:
    """Return whether enough nuclei of :func:`best_cells` lie inside a cell for both masks to be of one slide."""
    return len(best) == 0 or float(best["inside"].mean()) >= _FEWEST_INSIDE
