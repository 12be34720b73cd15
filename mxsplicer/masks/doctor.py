"""The mask doctor: check whether a mask is sound and fits its slide, and report likely causes and remedies.

The mask is read once, a tile at a time: its fragments (connected pixels of one id) are counted and measured, and so are
the borders of cells along every row and column. Then it is compared with the nuclear marker of the slide.
"""

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import TileGrid, Window
from mxsplicer.masks.alignment import alignment_findings
from mxsplicer.masks.files import NotLabelsError, check_mask
from mxsplicer.masks.findings import (
    Finding,
    background_findings,
    few_ids_findings,
    gap_findings,
    giant_findings,
    interpolation_findings,
    no_cells_finding,
    nuclei_findings,
    orientation_finding,
    repeat_findings,
    size_findings,
)
from mxsplicer.masks.fragments import LabelledCells, count_fragments
from mxsplicer.masks.seams import seam_findings, stripe_findings

logger = logging.getLogger(__name__)

_PART_PX, _PARTS = 2048, 4  # of a mask, where only a part is checked

__all__ = ["Diagnosis", "Finding", "examine", "warn_of_faults"]


@dataclass(frozen=True)
class Diagnosis:
    """The findings about a mask, and the number and size of its cells."""

    n_cells: int
    median_diameter_um: float | None
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether no finding is a fault."""
        return not any(finding.wrong for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as a dictionary that JSON can hold."""
        return {"healthy": self.healthy, **asdict(self)}


def examine(
    slide: Slide,
    mask: LazyImage,
    *,
    nuclear_marker: str | None = None,
    nuclei: LazyImage | None = None,
    tile_px: int = 2048,
) -> Diagnosis:
    """Check a mask and report what is wrong with it.

    Memory does not grow with the slide, except for a few numbers per cell.

    Parameters
    ----------
    slide
        Image (C, Y, X) with its markers and pixel size.
    mask
        Label image (Y, X) of any size; only one as high and wide as the slide is compared with its nuclei.
    nuclear_marker
        The marker that stains nuclei; by default it is recognised by its name.
    nuclei
        Mask of the nuclei, which should have the ids of their cells.
    tile_px
        Side of the tiles that are held in memory. The result does not depend on it.

    Examples
    --------
    >>> from mxsplicer.testing import tiny_slide
    >>> slide, mask = tiny_slide(cells_at=[(20, 30), (20, 60)])
    >>> [finding.name for finding in examine(slide, mask.T).findings]
    ['transposed']
    """
    findings = _shape_findings(slide, mask)
    try:
        fragments = count_fragments(mask, slide, tile_px)
    except NotLabelsError as error:
        found = Finding(
            "intensities", True, str(error), "It is an image of intensities or probabilities.", "Give the label image."
        )
        return Diagnosis(0, None, (*findings, found))
    if fragments.noise or not len(fragments.ids):
        return Diagnosis(0, None, (*findings, no_cells_finding(fragments)))
    cells = LabelledCells(fragments)
    median_um = float(np.median(cells.diameters)) * slide.pixel_size_um
    background = background_findings(fragments, cells)
    not_ids = background or few_ids_findings(cells) or interpolation_findings(cells)
    findings += not_ids
    if not not_ids:
        findings += (
            repeat_findings(cells) + gap_findings(cells) + giant_findings(cells) + size_findings(median_um, slide)
        )
        findings += seam_findings(mask, fragments, cells) + stripe_findings(
            slide, mask, fragments, cells, nuclear_marker
        )
    if nuclei is not None and not background:
        findings += nuclei_findings(mask, nuclei, tile_px=tile_px)
    if tuple(mask.shape) == slide.shape_px and not background:
        findings += alignment_findings(slide, mask, fragments, nuclear_marker)
    return Diagnosis(len(cells.ids), median_um, tuple(findings))


def warn_of_faults(slide: Slide, mask: LazyImage, *, nuclear_marker: str | None = None) -> list[Finding]:
    """Check a part of a mask, which takes a second, and log a warning if :func:`examine` would report a fault.

    Parameters
    ----------
    slide, mask, nuclear_marker
        As for :func:`examine`; the mask is as high and wide as the slide.

    Returns
    -------
    The faults.
    """
    marker = nuclear_marker or find_nuclear_marker(slide.markers)
    channel = 0 if marker is None else slide.channels_of([marker])[0]
    try:
        window = _busiest_window(mask)
        labels, image = np.asarray(mask[window]), np.nan_to_num(slide.image[channel, *window])
    except InputError:  # raised again where the cells are measured
        return []
    if not labels.any():
        return []
    part = replace(slide, image=image[None], markers=slide.markers[channel : channel + 1], pyramid=())
    faults = [finding for finding in examine(part, labels, nuclear_marker=marker).findings if finding.wrong]
    where = "" if labels.shape == tuple(mask.shape) else " in a part of the slide"
    for fault in faults:
        logger.warning(
            "the mask of slide %s may be wrong%s (%s): %s Run `mxsplicer check` on it.",
            slide.name,
            where,
            fault.name,
            fault.found,
        )
    return faults


def _busiest_window(mask: LazyImage) -> Window:
    """Return the window that the doctor checks instead of a whole mask: of some, that with most pixels of cells."""
    grid = TileGrid((mask.shape[0], mask.shape[1]), (_PART_PX, _PART_PX))
    numbers = np.random.default_rng(0).permutation(len(grid))[:_PARTS].tolist()
    return max((grid[number] for number in numbers), key=lambda window: np.count_nonzero(mask[window]))


def _shape_findings(slide: Slide, mask: LazyImage) -> list[Finding]:
    try:
        check_mask(mask, slide)
    except InputError as error:
        sentence = str(error)
    else:
        return []
    found, needed = tuple(mask.shape), slide.shape_px
    figures = {"mask_shape": found, "slide_shape": needed}
    if found == needed[::-1]:
        return [orientation_finding("transposed", "numpy.transpose", sentence, figures)]
    ratios = needed[0] / found[0], needed[1] / found[1]
    if abs(ratios[0] / ratios[1] - 1) < 0.02 and abs(ratios[0] - 1) > 0.2:
        levels = [level for level, image in enumerate(slide.pyramid, 1) if tuple(image.shape[1:]) == found]
        where = f"It has the size of level {levels[0]} of the slide's pyramid." if levels else "It has another scale."
        fix = "Segment the finest level, or enlarge the mask by repeating pixels (never by interpolating ids)."
        return [Finding("other level", True, sentence, where, fix, figures | {"ratio": round(ratios[0], 3)})]
    cause = "It belongs to another slide, or to a crop of this one."
    return [Finding("other shape", True, sentence, cause, "Give the mask of this slide.", figures)]
