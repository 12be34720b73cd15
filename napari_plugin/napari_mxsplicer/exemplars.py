"""Exemplar cells of what is painted, such as those with the highest and lowest values, and their images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mxsplicer import cut_patches, drop_markers, find_nuclear_marker
from mxsplicer.pl import CHANNELS, draw_cell
from napari_mxsplicer.layers import OpenedSlide
from napari_mxsplicer.study import Study

KINDS = ("highest", "middle", "lowest")
HEADROOM = 1.4  # the sum of several colours would be white without it
_ENDS = 0.01  # fraction of the cells from which each kind is drawn


@dataclass(frozen=True, eq=False)
class Strip:
    """Images of exemplar cells (kinds, n, P, P, 3) uint8 and their rows (kinds, n), -1 where there are too few."""

    images: np.ndarray
    rows: np.ndarray
    markers: tuple[str, ...]


def exemplars(values: np.ndarray, rows: np.ndarray, *, n: int = 6, seed: int = 0) -> np.ndarray:
    """Draw exemplar cells (3, n) with high, middle and low values among ``rows``; -1 where there are too few.

    They are drawn at random from the highest and lowest percent and from the percent around the median, so that a
    single outlier does not represent a feature.
    """
    rows = rows[np.isfinite(values[rows])]
    ordered = rows[np.argsort(values[rows], kind="stable")]
    share = max(n, round(_ENDS * len(rows)))
    middle = max(0, len(rows) // 2 - share // 2)
    rng = np.random.default_rng(seed)
    out = np.full((3, n), -1, dtype=np.int64)
    groups = (ordered[-share:][::-1], ordered[middle : middle + share], ordered[:share])
    for place, group in enumerate(groups):
        drawn = np.sort(rng.choice(len(group), min(n, len(group)), replace=False))
        out[place, : len(drawn)] = group[drawn]
    return out


def exemplars_by_category(
    codes: np.ndarray, rows: np.ndarray, *, n: int = 6, most: int = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw exemplar cells (categories, n) of the most common categories among ``rows``; -1: too few.

    ``codes`` (N,) are the categories of the cells, NaN for none. The codes drawn from, ascending, are returned first.
    """
    rows = rows[np.isfinite(codes[rows])]
    present, counts = np.unique(codes[rows].astype(np.int64), return_counts=True)
    shown = np.sort(present[np.argsort(-counts, kind="stable")[:most]])
    rng = np.random.default_rng(seed)
    out = np.full((len(shown), n), -1, dtype=np.int64)
    for place, code in enumerate(shown):
        of_it = rows[codes[rows] == code]
        drawn = np.sort(rng.choice(len(of_it), min(n, len(of_it)), replace=False))
        out[place, : len(drawn)] = of_it[drawn]
    return shown, out


def cut_strip(study: Study, opened: OpenedSlide, rows: np.ndarray, marker: str | None) -> Strip:
    """Cut exemplar cells ``rows`` (kinds, n) out of the slide, as large as patches; the marker is orange."""
    slide = opened.slide
    assert slide is not None
    nuclear = find_nuclear_marker(slide.markers)
    wanted = [one for one in dict.fromkeys((nuclear, marker)) if one in slide.markers] or [slide.markers[0]]
    images = cut_images(study, opened, rows[rows >= 0], wanted)
    out = np.zeros((*rows.shape, *images.shape[1:]), dtype=np.uint8)
    out[rows >= 0] = images
    return Strip(out, rows, tuple(wanted))


def colors_of(markers: Sequence[str]) -> Sequence[str]:
    """Return the colours in which images of exemplar cells show these markers: the first one is for the nuclei."""
    return CHANNELS if find_nuclear_marker(markers) in markers[:1] else CHANNELS[1:]


def cut_images(
    study: Study,
    opened: OpenedSlide,
    rows: np.ndarray,
    markers: Sequence[str],
    *,
    outlined: bool = True,
) -> np.ndarray:
    """Cut cells ``rows`` (n,) out of the slide, as images (n, P, P, 3) uint8 as large as patches; each is outlined.

    The contrast of a marker is that of the slide, so that a cell without it looks dark in every image.
    """
    patches, regions = cut_cells(study, opened, rows, markers)
    limits = [(low, low + HEADROOM * (high - low)) for low, high in map(opened.limits, markers)]
    images = [
        draw_cell(patch, limits, region=region if outlined else None, scale=1, channel_colors=colors_of(markers))
        for patch, region in zip(patches, regions, strict=True)
    ]
    side = patches.shape[-1]
    return np.stack(images) if images else np.zeros((0, side, side, 3), dtype=np.uint8)


def cut_cells(
    study: Study, opened: OpenedSlide, rows: np.ndarray, markers: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Cut patches (n, markers, P, P) of cells out of the slide, and the regions (n, P, P) of their pixels."""
    slide = opened.slide
    assert slide is not None
    assert study.xy_px is not None
    few = drop_markers(slide, [one for one in slide.markers if one not in markers])
    x, y = study.xy_px[rows].T
    patches, regions = cut_patches(few, opened.labels[0], x, y, study.cell_ids[rows], patch_size_um=study.patch_size_um)
    return patches[:, few.channels_of(markers)], regions
