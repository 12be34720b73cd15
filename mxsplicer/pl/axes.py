"""What all figures share: where they are drawn, and what their axes look like."""

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return ``ax``, or the axes of a new figure of ``size`` inches."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def bare(ax: Axes) -> None:
    """Take ticks and frame away, for maps whose axes have no meaning of their own."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def scale_bar(ax: Axes, *, width_um: float, um_per_unit: float = 1.0, color: str = "white") -> None:
    """Draw a bar of a round length, about a fifth of the picture, in the lower left corner.

    Parameters
    ----------
    ax
        Where an image or points are shown, y growing downwards or upwards.
    width_um
        Width of what is shown.
    um_per_unit
        Micrometres of one unit of the x axis: the pixel size for an image shown in pixels.
    color
        Of the bar and its length.
    """
    rounds = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
    length_um = max((one for one in rounds if one <= width_um / 4), default=rounds[0])
    length = length_um / um_per_unit / abs(ax.get_xlim()[1] - ax.get_xlim()[0])  # as a part of the axes
    ax.add_patch(Rectangle((0.03, 0.03), length, 0.009, transform=ax.transAxes, color=color, zorder=5))
    text = f"{length_um:g} µm" if length_um < 1000 else f"{length_um / 1000:g} mm"
    ax.text(0.03, 0.05, text, transform=ax.transAxes, color=color, fontsize=9, va="bottom", zorder=5)
