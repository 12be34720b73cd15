"""Pictures of the slide itself: a few markers in colour, and the outlines of cells."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from skimage.segmentation import find_boundaries

from mxsplicer.images.slide import LazyImage, Slide, check_mask, overview
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new, bare, scale_bar

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
    """Show a slide, or a window of it, with up to four markers in colour and cells outlined.

    Each marker is stretched between percentiles of its own pixels: brightness is comparable within a marker of one
    picture, not between markers.

    Parameters
    ----------
    slide
        Image (C, Y, X) with its markers and pixel size.
    markers
        One to four names; the first is shown in blue, as nuclei are.
    mask
        Label image (Y, X); its cells are outlined where a window is shown.
    window
        Rows and columns to show at full resolution; by default the whole slide, made small.
    max_side_px
        Longest side of the small copy.
    legend
        Name the markers under the picture.
    ax
        Where to draw; a new figure by default.
    """
    channels = slide.channels_of(list(markers)[: len(colors.CHANNELS)])
    if window is None:
        image, factor = overview(slide, max_side_px=max_side_px, channels=channels)
    else:
        image, factor = np.stack([slide.image[(channel, *window)] for channel in channels]), 1
    picture = colors.composite(image, [colors.contrast_limits(channel) for channel in image])
    if mask is not None and window is not None:
        check_mask(mask, slide)
        picture[find_boundaries(np.asarray(mask[window]), mode="inner")] = 255
    ax = axes_or_new(ax, (8, 8 * image.shape[1] / image.shape[2]))
    ax.imshow(picture, interpolation="nearest" if window is not None else "antialiased")
    bare(ax)
    scale_bar(ax, width_um=image.shape[2] * factor * slide.pixel_size_um, um_per_unit=factor * slide.pixel_size_um)
    if legend:
        handles = [
            Line2D([], [], marker="s", linestyle="", markersize=8, color=color, label=slide.markers[channel])
            for channel, color in zip(channels, colors.CHANNELS, strict=False)
        ]
        ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False, fontsize=9)
    return ax
