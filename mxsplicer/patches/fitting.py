"""The side of a patch that fits the cells, where an encoder sees nothing but the cell.

A square of 32 µm around a cell of 9 µm consists of nine tenths of zeros. It costs four times as much as a square of
16 µm, and shows the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

_SHARE = 0.99  # of the cells fit into their patches
_MULTIPLE_PX, _LEAST_PX, _MOST_PX = 8, 16, 96  # networks shrink a patch several times


@dataclass(frozen=True)
class PatchFit:
    """The side of a patch that follows from the cells."""

    patch_px: int
    patch_size_um: float
    n_cells: int
    n_larger: int  # cells of which pixels lie outside their patches


def fit_patch(
    slides: Mapping[str, tuple[pd.DataFrame, float]], *, shapes_px: Mapping[str, tuple[int, int]] | None = None
) -> PatchFit:
    """Choose the smallest side of a patch into which 99 % of the cells fit, one for all slides.

    The side is a multiple of 8 px, from 16 to 96 px. It depends on the cells alone, so the same mask gives the same
    side.

    Parameters
    ----------
    slides
        For each slide its table of cells, as :attr:`Cells.table` has it, and its pixel size in µm.
    shapes_px
        Height and width of each slide, which a patch must not exceed.

    Examples
    --------
    >>> cells = pd.DataFrame({"x_px": [15.0], "y_px": [9.0], "x0": [5], "x1": [26], "y0": [6], "y1": [13]})
    >>> fit_patch({"S01": (cells, 0.5)}).patch_px
    24
    """
    pixel_size_um = next(iter(slides.values()))[1]
    extents = [measure_extents(table) * size_um for table, size_um in slides.values()]  # µm
    wanted = float(np.percentile(np.concatenate(extents), 100 * _SHARE)) / pixel_size_um
    patch_px = int(np.clip(np.ceil(wanted / _MULTIPLE_PX) * _MULTIPLE_PX, _LEAST_PX, _MOST_PX))
    for shape in (shapes_px or {}).values():
        patch_px = min(patch_px, min(shape) // 2 * 2)
    patch_size_um = patch_px * pixel_size_um
    n_larger = sum(int((extent > patch_size_um).sum()) for extent in extents)
    return PatchFit(patch_px, patch_size_um, sum(map(len, extents)), n_larger)


def measure_extents(table: pd.DataFrame) -> np.ndarray:
    """Return the side of the patch around its centroid that each cell fits into with all of its pixels, (n,) in px."""
    y, x = table["y_px"].to_numpy(), table["x_px"].to_numpy()
    reach = [
        y - table["y0"].to_numpy(),
        table["y1"].to_numpy() - 1 - y,
        x - table["x0"].to_numpy(),
        table["x1"].to_numpy() - 1 - x,
    ]
    extents: np.ndarray = 2 * np.max(reach, axis=0) + 1
    return extents


def describe_larger(n_larger: int, n_cells: int) -> str:
    """Return the end of a sentence: how many cells do not fit into their patches, if any."""
    if not n_larger:
        return ""
    some = f"{n_larger:,} of {n_cells:,} cells are" if n_larger > 1 else f"1 of {n_cells:,} cells is"
    return f"; {some} larger, and cut off at the edge"
