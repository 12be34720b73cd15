"""The size of patches where it is not given: it follows from the cells, and is kept in ``settings.json``."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mxsplicer.cells.shapes import join_shapes, measure_shapes
from mxsplicer.images.tiles import TileGrid
from mxsplicer.patches import PATCH_SIZE_UM
from mxsplicer.patches.fitting import fit_patch, measure_extents
from mxsplicer.result.job import Job
from mxsplicer.result.trials import TrialSlide

_FIT_TILE_PX, _FIT_TILES = 2048, 16  # of a mask, on which the side of a patch is estimated


def fit_patches(job: Job) -> None:
    """Choose the size of patches by the measured cells, if it was not given, and count cells that are larger."""
    if "larger_cells" in job.chosen or any(one.cells is None for one in job.slides):
        return
    slides = {one.name: (one.measured_cells.table, one.slide.pixel_size_um) for one in job.slides}
    if job.options.patch_size_um is None:
        fit = fit_patch(slides, shapes_px={one.name: one.slide.shape_px for one in job.slides})
        job.chosen |= {"patch_size_um": fit.patch_size_um, "patch_px": fit.patch_px}
    if job.sees_cells_only:
        job.chosen["larger_cells"] = {
            name: int((measure_extents(table) > job.patch_px).sum()) for name, (table, _) in slides.items()
        }


def fit_trials(job: Job, trials: Sequence[TrialSlide]) -> None:
    """Choose the size of patches for a plan as the run will, where it was not given."""
    if job.options.patch_size_um is not None:
        return
    cells = {
        trial.one.name: (_some_cells(trial, job.options.min_area_um2), trial.slide.pixel_size_um)
        for trial in trials
        if trial.mask is not None
    }
    cells = {name: (table, size) for name, (table, size) in cells.items() if len(table)}
    if not cells:
        job.chosen["patch_size_um"] = PATCH_SIZE_UM
        return
    fit = fit_patch(cells, shapes_px={one.name: one.slide.shape_px for one in job.slides})
    job.chosen |= {"patch_size_um": fit.patch_size_um, "patch_px": fit.patch_px}


def _some_cells(trial: TrialSlide, min_area_um2: float) -> pd.DataFrame:
    """Return the cells to choose the size of patches by: those of a mask, or of some tiles of a large one."""
    assert trial.mask is not None
    grid = TileGrid(trial.slide.shape_px, (_FIT_TILE_PX, _FIT_TILE_PX))
    numbers = np.random.default_rng(0).permutation(len(grid))[:_FIT_TILES]
    pieces = [measure_shapes(trial.slide, trial.mask, None, grid[int(number)]) for number in sorted(numbers)]
    pieces = [piece for piece in pieces if len(piece)]
    if not pieces:
        return pd.DataFrame()
    table = join_shapes(pieces, trial.slide)
    return table[table["area_um2"] >= min_area_um2]
