"""The image of a slide: a few markers in colour, and the outlines of cells."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from skimage.segmentation import find_boundaries

from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide, overview
from mxsplicer.masks.files import check_mask
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new, hide_ticks_and_frame, scale_bar

Window = tuple[slice, slice]  # rows, columns


def slide(
    slide: Slide,
    *,
    markers: Sequence[str],
    mask: LazyImage | None = None,
    window: Window | None = None,
    max_side_px: int = 1024,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Show a slide, or a window of it, with up to four markers in colour and the cells outlined.

    The contrast of each marker is set by percentiles of its own pixels, so that brightness can be compared within a
    marker of one image, but not between markers.

    Parameters
    ----------
    slide
        Image (C, Y, X) with its markers and pixel size.
    markers
        One to four names; the first is blue, as nuclei usually are.
    mask
        Label image (Y, X); its cells are outlined if a window is shown.
    window
        Rows and columns to show at full resolution; by default the whole slide at a low resolution.
    max_side_px
        Longest side of the whole slide as shown.
    legend
        List the markers below the image.
    ax
        Where to draw; a new figure by default.
    """
    channels = slide.channels_of(list(markers)[: len(colors.CHANNELS)])
    if window is None:
        image, step = overview(slide, max_side_px=max_side_px, channels=channels)
    else:
        image, step = np.stack([slide.image[(channel, *window)] for channel in channels]), 1
    pixels = colors.composite(image, [colors.contrast_limits(channel) for channel in image])
    if mask is not None and window is not None:
        check_mask(mask, slide)
        pixels[find_boundaries(np.asarray(mask[window]), mode="inner")] = 255
    ax = axes_or_new(ax, (8, 8 * image.shape[1] / image.shape[2]))
    ax.imshow(pixels, interpolation="nearest" if window is not None else "antialiased")
    hide_ticks_and_frame(ax)
    scale_bar(ax, width_um=image.shape[2] * step * slide.pixel_size_um, um_per_unit=step * slide.pixel_size_um)
    if legend:
        handles = [
            Line2D([], [], marker="s", linestyle="", markersize=8, color=color, label=slide.markers[channel])
            for channel, color in zip(channels, colors.CHANNELS, strict=False)
        ]
        ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False, fontsize=9)
    return ax
