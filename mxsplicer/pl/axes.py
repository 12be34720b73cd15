"""Axes: make them, hide their ticks, add a scale bar, write their numbers."""

from typing import Any

from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return ``ax``, or the axes of a new figure of ``size`` inches."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def hide_ticks_and_frame(ax: Axes) -> None:
    """Remove ticks and frame, for images and UMAPs, whose axes have no meaning."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def scale_bar(ax: Axes, *, width_um: float, um_per_unit: float = 1.0, inside: bool = True) -> None:
    """Draw a scale bar of a round length, at most a quarter of the width, at the lower left.

    Parameters
    ----------
    ax
        Axes that show an image or points.
    width_um
        Width of what is shown.
    um_per_unit
        Micrometres in one unit of the x axis: the pixel size for an image shown in pixels.
    inside
        Draw a white bar on the image; otherwise a dark one below it.
    """
    round_lengths = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
    length_um = max((one for one in round_lengths if one <= width_um / 4), default=round_lengths[0])
    length = length_um / um_per_unit / abs(ax.get_xlim()[1] - ax.get_xlim()[0])  # in axes coordinates
    color, bottom = ("white", 0.025) if inside else ("#333333", -0.02)
    left = 0.03 if inside else 0.0
    place: dict[str, Any] = {"transform": ax.transAxes, "zorder": 5, "clip_on": False}
    ax.add_patch(Rectangle((left, bottom), length, 0.008, color=color, **place))
    text = f"{length_um:g} µm" if length_um < 1000 else f"{length_um / 1000:g} mm"
    if inside:
        outline = [patheffects.withStroke(linewidth=2, foreground="#000000a0")]
        ax.text(left, bottom + 0.018, text, color=color, fontsize=11, va="bottom", path_effects=outline, **place)
    else:
        ax.text(left + length + 0.01, bottom + 0.004, text, color=color, fontsize=9, va="center", **place)


def plain_number(value: float, _position: object = None) -> str:
    """Format a tick of a logarithmic axis as a plain number: the report does not typeset formulas."""
    return f"{value:g}"
