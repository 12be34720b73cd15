"""Colours of categories, intensities and image channels, suitable for people with a colour-vision deficiency."""

from collections.abc import Sequence

import numpy as np

# Wong 2011 (Nature Methods 8:441) without black, then the muted scheme of Tol (SRON/EPS/TN/09-002), then pale ones.
QUALITATIVE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442",
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499",
    "#bbbbbb", "#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#aaaa00", "#666666",
)  # fmt: skip
CHANNELS = ("#5a7dff", "#ffb000", "#ff4fa3", "#3fe0c5")  # added on black: nuclei first, then three markers
INTENSITY = "viridis"
SIGNED = "RdBu_r"
ABSENT = "#d9d9d9"
_GAMMA = 0.7  # below 1, so that faint signal is visible in a small image


def rgb(color: str) -> np.ndarray:
    """Return a colour as three floats between 0 and 1."""
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def category_color(code: int) -> str:
    """Return the colour of category number ``code``; colours repeat after 26. A negative code is grey."""
    return QUALITATIVE[code % len(QUALITATIVE)] if code >= 0 else ABSENT


def category_rgb(code: int) -> list[int]:
    """Return the colour of category number ``code`` as three integers from 0 to 255; a negative code is grey."""
    return [round(255 * one) for one in rgb(category_color(code))]


def composite(image: np.ndarray, limits: Sequence[tuple[float, float]], colors: Sequence[str] = CHANNELS) -> np.ndarray:
    """Combine channels into one RGB image, each channel in its own colour.

    Parameters
    ----------
    image
        Channels (C, y, x), any dtype.
    limits
        For each channel the intensity shown as black and the intensity shown in full colour.
    colors
        One per channel, as ``#rrggbb``.

    Returns
    -------
    Image (y, x, 3), uint8.
    """
    out = np.zeros((*image.shape[1:], 3))
    for channel, (low, high), color in zip(image, limits, colors, strict=False):
        brightness = np.clip((channel.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
        out += (brightness**_GAMMA)[..., None] * rgb(color)
    return np.asarray(np.clip(out, 0, 1) * 255, dtype=np.uint8)


def contrast_limits(channel: np.ndarray) -> tuple[float, float]:
    """Return the intensities to show as black and as full: percentiles 1 and 99.8 of the pixels above 0."""
    positive = channel[np.isfinite(channel) & (channel > 0)]
    if not positive.size:
        return 0.0, 1.0
    low, high = np.percentile(positive, [1, 99.8])
    if positive.size < 0.5 * channel.size or high <= low:
        low = 0.0  # most of the image is empty, so any intensity above 0 is signal
    return float(low), float(high)
