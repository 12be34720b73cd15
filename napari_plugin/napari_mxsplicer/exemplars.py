"""Which cells show what a feature has learned: those of its highest, middle and lowest values; and their pictures."""

from dataclasses import dataclass

import numpy as np

from mxsplicer import cut_patches, drop_markers, find_nuclear_marker
from mxsplicer.pl import composite, contrast_limits
from napari_mxsplicer.layers import OpenedSlide
from napari_mxsplicer.study import Study

KINDS = ("highest", "middle", "lowest")
_ENDS = 0.01  # share of the cells from which the highest and the lowest are drawn


@dataclass(frozen=True, eq=False)
class Strip:
    """Pictures of cells, (kinds, n, P, P, 3) uint8, and their rows (kinds, n), -1 where there are too few cells."""

    pictures: np.ndarray
    rows: np.ndarray
    markers: tuple[str, ...]


def exemplars(values: np.ndarray, rows: np.ndarray, *, n: int = 6, seed: int = 0) -> np.ndarray:
    """Return rows (3, n) of cells of high, middle and low value among ``rows``; -1 where there are too few.

    They are drawn at random from the highest and lowest hundredth and from the hundredth around the median, so that
    one odd cell does not stand for a feature.
    """
    rows = rows[np.isfinite(values[rows])]
    ordered = rows[np.argsort(values[rows], kind="stable")]
    share = max(n, round(_ENDS * len(rows)))
    middle = max(0, len(rows) // 2 - share // 2)
    rng = np.random.default_rng(seed)
    out = np.full((3, n), -1, dtype=np.int64)
    parts = (ordered[-share:][::-1], ordered[middle : middle + share], ordered[:share])
    for place, part in enumerate(parts):
        drawn = np.sort(rng.choice(len(part), min(n, len(part)), replace=False))
        out[place, : len(drawn)] = part[drawn]
    return out


def of_categories(
    codes: np.ndarray, rows: np.ndarray, *, n: int = 6, most: int = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the most common of the categories that ``rows`` have, ascending, and rows (categories, n) of each.

    ``codes`` (N,) number the categories, NaN for none; they are drawn at random, -1 where there are too few.
    """
    rows = rows[np.isfinite(codes[rows])]
    there, counts = np.unique(codes[rows].astype(np.int64), return_counts=True)
    shown = np.sort(there[np.argsort(-counts, kind="stable")[:most]])
    rng = np.random.default_rng(seed)
    out = np.full((len(shown), n), -1, dtype=np.int64)
    for place, code in enumerate(shown):
        of_it = rows[codes[rows] == code]
        drawn = np.sort(rng.choice(len(of_it), min(n, len(of_it)), replace=False))
        out[place, : len(drawn)] = of_it[drawn]
    return shown, out


def picture(study: Study, opened: OpenedSlide, rows: np.ndarray, marker: str | None) -> Strip:
    """Cut the cells ``rows`` (kinds, n) out of the slide, as wide as the encoder saw them; the marker is orange."""
    slide = opened.slide
    assert slide is not None
    assert study.xy_px is not None
    nuclear = find_nuclear_marker(slide.markers)
    wanted = [one for one in dict.fromkeys((nuclear, marker)) if one in slide.markers] or [slide.markers[0]]
    few = drop_markers(slide, [one for one in slide.markers if one not in wanted])
    present = rows[rows >= 0]
    x, y = study.xy_px[present].T
    patches, _ = cut_patches(few, opened.labels[0], x, y, study.cell_ids[present], patch_size_um=study.patch_size_um)
    # One stretch for all of them: a bright cell is to look brighter than a faint one.
    limits = [contrast_limits(patches[:, channel]) for channel in range(patches.shape[1])]
    out = np.zeros((*rows.shape, *patches.shape[2:], 3), dtype=np.uint8)
    out[rows >= 0] = np.stack([composite(patch, limits) for patch in patches]) if len(patches) else 0
    return Strip(out, rows, few.markers)
