"""Compare the cells that were found with the tissue that could hold cells: a wrong nuclear marker finds few."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from mxsplicer.images.slide import Slide
from mxsplicer.images.tissue import find_tissue

logger = logging.getLogger(__name__)

_FEW = 0.1  # of the dense tissue: cells of sparse tissue cover a fifth of it, of dense tissue most


def describe_cells(slide: Slide, coarse: np.ndarray, n_cells: int, others: Sequence[str]) -> dict[str, Any]:
    """Return how many cells cover the tissue and, if they cover little of it, a warning, which is also logged.

    Parameters
    ----------
    coarse
        Coarse copy of the mask, (y, x).
    others
        Other markers that may stain nuclei.
    """
    tissue = find_tissue(slide, range(len(slide.markers)), only_dense=True)
    height, width = slide.shape_px
    cells_mm2 = float((coarse > 0).mean()) * height * width * (slide.pixel_size_um / 1000) ** 2
    if tissue is None or not tissue.area_mm2 or cells_mm2 >= _FEW * tissue.area_mm2:
        return {"cells": n_cells}
    hint = f", for instance {', '.join(others[:5])}" if others else ""
    warning = (
        f"only {n_cells:,} cells were found on slide {slide.name!r}: they cover {cells_mm2 / tissue.area_mm2:.1%} of "
        f"{tissue.area_mm2:.3g} mm² of tissue. Name another `nuclear_marker`{hint}, or check the pixel size."
    )
    logger.warning("%s", warning)
    return {"cells": n_cells, "warning": warning}
