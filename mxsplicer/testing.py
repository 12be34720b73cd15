"""Small slides whose answer is known, for tests and examples."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import PatchStore
from mxsplicer.slides.slide import Slide


def tiny_slide(
    *,
    cells_at: Sequence[tuple[int, int]] = ((20, 30), (40, 70)),
    shape_px: tuple[int, int] = (64, 96),
    markers: Sequence[str] = ("DAPI", "CD3e", "CD20"),
    radius_px: int = 5,
    seed: int = 0,
) -> tuple[Slide, np.ndarray]:
    """Return a slide in memory, half a micrometre per pixel, and its mask; the same for the same arguments.

    Parameters
    ----------
    cells_at
        Centre (y, x) in pixels of each cell, a disc; the first has id 1. Where discs overlap the later one is whole.

    Returns
    -------
    The slide, image (C, Y, X) uint16 of noise with brighter cells, and the mask (Y, X) uint32.

    Examples
    --------
    >>> slide, mask = tiny_slide(cells_at=[(20, 30)])
    >>> slide.image.shape, int(mask[20, 30])
    ((3, 64, 96), 1)
    """
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 500, (len(markers), *shape_px), dtype=np.uint16)
    mask = np.zeros(shape_px, np.uint32)
    y, x = np.ogrid[: shape_px[0], : shape_px[1]]
    for cell_id, (centre_y, centre_x) in enumerate(cells_at, start=1):
        inside = (y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius_px**2
        mask[inside] = cell_id
        image[:, inside] += rng.integers(500, 5000, (len(markers), 1), dtype=np.uint16)
    return Slide("tiny", image, tuple(markers), pixel_size_um=0.5), mask


def tiny_store(
    path: str | Path | None = None, *, cells_at: Sequence[tuple[int, int]] = ((20, 30), (40, 70))
) -> PatchStore:
    """Return the patches (16 µm, 32 pixels) of :func:`tiny_slide`, in a folder that is new unless ``path`` is given.

    Examples
    --------
    >>> tiny_store().patches.shape
    (2, 3, 32, 32)
    """
    slide, mask = tiny_slide(cells_at=cells_at)
    return extract_patches(slide, mask, path or Path(mkdtemp()) / "tiny.zarr", patch_size_um=16)
