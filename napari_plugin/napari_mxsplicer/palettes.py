"""Colours of categories and of signed values, distinguishable with a colour-vision deficiency."""

from typing import Any

import numpy as np

from mxsplicer.pl import QUALITATIVE

CATEGORIES, SIGNED = "mxsplicer categories", "mxsplicer signed"
# Blue to orange through the background.
_ON_DARK = ((0.62, 0.83, 1.0), (0.16, 0.48, 0.80), (0.13, 0.14, 0.16), (0.84, 0.42, 0.10), (1.0, 0.82, 0.60))
_ON_LIGHT = ((0.03, 0.19, 0.42), (0.27, 0.58, 0.79), (0.97, 0.97, 0.97), (0.90, 0.49, 0.20), (0.50, 0.20, 0.02))


def diverging(*, on_dark: bool) -> np.ndarray:
    """Return a palette of 256 colours from -1 to 1, (256, 4) uint8."""
    anchors = np.array(_ON_DARK if on_dark else _ON_LIGHT)
    places, at = np.linspace(0, 1, len(anchors)), np.linspace(0, 1, 256)
    rgb = np.column_stack([np.interp(at, places, anchors[:, band]) for band in range(3)])
    return np.column_stack([rgb * 255, np.full(256, 255)]).astype(np.uint8)


def signed_colormap() -> Any:
    """Return the palette for signed values, napari's colormap from blue through near black to orange."""
    from napari.utils.colormaps import Colormap

    return Colormap([(*color, 1.0) for color in _ON_DARK], name=SIGNED)


def categorical_colormap(n: int) -> dict[str, Any]:
    """Return the palette with one colour for each of ``n`` categories, numbered from 0; at least two.

    It is what napari makes a colormap of, so that layers can be described without napari.
    """
    colors = [QUALITATIVE[code % len(QUALITATIVE)] for code in range(max(n, 2))]
    controls = np.linspace(0, 1, len(colors) + 1)
    return {"colors": colors, "controls": controls, "interpolation": "zero", "name": CATEGORIES}
