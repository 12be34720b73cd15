"""Slides of different panels on one panel: the markers that all slides have, or those that any slide has.

In a batch, cells of all slides are mixed. A marker that a cell's slide lacks is NaN in all pixels of its patch: the
encoder sees the mean of the marker there, and the loss of its components leaves the cell out.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from mxsplicer.errors import InputError
from mxsplicer.images.units import same_scale
from mxsplicer.patches.store import PatchStore, PatchStoreView

PANELS = ("same", "shared", "union")


def on_one_panel(stores: Sequence[PatchStore], panel: str) -> list[PatchStore]:
    """Return stores with the markers of one panel, in the order of the first store.

    Parameters
    ----------
    panel
        ``"same"`` leaves them as they are, ``"shared"`` has the markers of all slides, and ``"union"`` those of any
        slide, with NaN in patches of slides that lack one.

    Raises
    ------
    InputError
        If the panel is unknown, or no marker is on all slides.
    """
    if panel not in PANELS:
        msg = f"panel {panel!r} not found."
        raise InputError(msg, f"Choose `panel` from {', '.join(PANELS)}.")
    panels = [store.markers for store in stores]
    if panel == "same" or len(set(panels)) == 1:
        return list(stores)
    every = list(dict.fromkeys(marker for markers in panels for marker in markers))
    shared = [marker for marker in every if all(marker in markers for markers in panels)]
    if not shared:
        msg = f"no marker is on all {len(stores)} slides."
        raise InputError(msg, "Rename markers that are the same when patches are cut.")
    return [_with_markers(store, shared if panel == "shared" else every) for store in stores]


def known_markers(patches: np.ndarray) -> np.ndarray | None:
    """Return which markers of the panel each cell's slide has, (B, C), from patches (B, C, P, P); None if all."""
    if patches.dtype.kind != "f":
        return None
    known = ~np.isnan(patches[:, :, 0, 0])
    return None if known.all() else known


def _with_markers(store: PatchStore, markers: Sequence[str]) -> PatchStoreView:
    """Return a view of a store with the markers of a panel, in this order; those that it lacks are NaN."""
    channels = [store.markers.index(marker) if marker in store.markers else -1 for marker in markers]
    dtype = np.result_type(store.patches.dtype, np.float32) if -1 in channels else store.patches.dtype
    return PatchStoreView(store, partial(_select, channels=channels, dtype=dtype), dtype=dtype, markers=markers)


def _select(patches: np.ndarray, channels: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    selected: np.ndarray = patches[:, channels].astype(dtype, copy=False)
    if -1 in channels:
        selected[:, np.array(channels) < 0] = np.nan
    return selected


def shared_markers(panels: Sequence[Sequence[str]]) -> list[str]:
    """Return the markers that all panels have, in the order of the first.

    Examples
    --------
    >>> shared_markers([["DAPI", "CD3e", "CD8a"], ["CD8a", "DAPI", "CD20"]])
    ['DAPI', 'CD8a']
    """
    return [marker for marker in panels[0] if all(marker in panel for panel in panels)]


def every_marker(panels: Sequence[Sequence[str]]) -> list[str]:
    """Return the markers of all panels, in order of first appearance.

    Examples
    --------
    >>> every_marker([["DAPI", "CD3e", "CD8a"], ["CD8a", "DAPI", "CD20"]])
    ['DAPI', 'CD3e', 'CD8a', 'CD20']
    """
    return list(dict.fromkeys(marker for panel in panels for marker in panel))


def describe_panels(panels: Sequence[Sequence[str]]) -> str:
    """Return a sentence on which markers all slides share, and which markers only some slides have."""
    shared = shared_markers(panels)
    partly = [
        f"{marker} ({sum(marker in panel for panel in panels)} of {len(panels)} slides)"
        for marker in every_marker(panels)
        if marker not in shared
    ]
    return f"{len(shared)} markers are on all slides ({', '.join(shared)}); only on some are {', '.join(partly)}"


def check_agreement(stores: Sequence[PatchStore]) -> tuple[tuple[str, ...], int, float]:
    """Return the one panel of markers, and the patch side and pixel size of all stores, or raise if they differ."""
    first = stores[0]
    for store in stores[1:]:
        if store.markers != first.markers:
            differ = sorted(set(store.markers) ^ set(first.markers))
            msg = (
                f"slides {first.slide_name!r} and {store.slide_name!r} differ in their markers"
                f"{': ' + ', '.join(differ) if differ else ' in their order'}, and one model needs one panel."
            )
            remedy = "Train on the markers of all slides with `panel='shared'`, or of any with `panel='union'`."
            raise InputError(msg, remedy)
        alike = same_scale(store.pixel_size_um, first.pixel_size_um)
        if store.patch_px != first.patch_px or not alike:
            msg = (
                f"slides {first.slide_name!r} and {store.slide_name!r} differ in scale: {first.patch_px} px of "
                f"{first.pixel_size_um:g} µm and {store.patch_px} px of {store.pixel_size_um:g} µm."
            )
            size = f"`patch_size_um={first.patch_px * store.pixel_size_um:g}`"
            raise InputError(msg, f"Cut the patches of {store.slide_name!r} again with {size}." if alike else "")
    return first.markers, first.patch_px, first.pixel_size_um
