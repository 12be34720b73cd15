"""Cells at their positions in the tissue, by category, number, or local correlation of a feature with a marker."""

import numpy as np
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection

from mxsplicer.errors import InputError
from mxsplicer.pl import colors
from mxsplicer.pl.axes import axes_or_new, hide_ticks_and_frame, scale_bar
from mxsplicer.pl.colors import category_codes, category_legend, color_points, number_legend
from mxsplicer.tl import local_correlation
from mxsplicer.tl.features import feature_names, find_feature

_USUAL_AREA_UM2 = 80.0  # of a cell whose area is unknown


def spatial(
    adata: AnnData,
    *,
    color: str = "leiden",
    slide: str | None = None,
    legend: bool = True,
    ax: Axes | None = None,
    seed: int = 0,
) -> Axes:
    """Show cells at their positions in the tissue. Each is a disc with the area of the cell.

    Parameters
    ----------
    adata
        Cells with ``obsm["spatial"]``, (x, y) in µm.
    color
        Column of ``obs``, or a marker.
    slide
        Name of the slide to show, where there are several.
    legend
        List the categories to the right, or add a colour bar for numbers.
    ax
        Where to draw; a new figure by default.
    seed
        Seed of the order in which cells are drawn; cells beyond 200,000 are not drawn.
    """
    if slide is not None:
        adata = adata[np.flatnonzero((adata.obs["slide"] == slide).to_numpy())]
    ax = axes_or_new(ax, (8, 7))
    points = np.asarray(adata.obsm["spatial"])
    low, high = points.min(axis=0), points.max(axis=0)
    ax.set_xlim(low[0] - 10, high[0] + 10)
    ax.set_ylim(high[1] + 10, low[1] - 10)  # y grows downwards, as in the image
    ax.set_aspect("equal")
    areas_um2 = adata.obs["area_um2"].to_numpy() if "area_um2" in adata.obs else np.full(adata.n_obs, _USUAL_AREA_UM2)
    order, style = color_points(adata, color, seed)
    diameters = 2 * np.sqrt(areas_um2[order] / np.pi)
    discs = EllipseCollection(
        diameters, diameters, np.zeros(len(order)), units="xy", offsets=points[order], offset_transform=ax.transData
    )
    discs.set(rasterized=True, linewidth=0, **style)
    ax.add_collection(discs)
    hide_ticks_and_frame(ax)
    scale_bar(ax, width_um=float(high[0] - low[0] + 20), inside=False)
    if legend and "array" in style:
        number_legend(adata, color, discs, ax)
    elif legend:
        category_legend(ax, category_codes(adata.obs[color])[0])
    return ax


def local_map(
    adata: AnnData,
    marker: str,
    feature: int | str,
    *,
    scale: str = "neighbourhood",
    use_rep: str = "X_splicer",
    slide: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show where in the tissue a feature is correlated with a marker: red positively, blue negatively.

    Parameters
    ----------
    adata
        Cells with their positions. The result of :func:`mxsplicer.tl.local_correlation` is kept in ``obs``.
    marker, feature, scale, use_rep
        As in :func:`mxsplicer.tl.local_correlation`.
    slide
        Name of the slide to show, where there are several.
    ax
        Where to draw; a new figure by default.
    """
    number = find_feature(adata, feature, use_rep)
    title = feature_names(adata, use_rep=use_rep)[number]
    name = local_correlation(adata, marker, number, scale=scale, use_rep=use_rep)
    if adata.obs[name].isna().all():
        msg = f"{marker!r} and {title} have no local correlation: cells lie too far apart, or one is constant."
        raise InputError(msg)
    ax = spatial(adata, color=name, slide=slide, legend=False, ax=ax)
    (discs,) = ax.collections
    values = np.abs(adata.obs[name].to_numpy())
    limit = 1.0 if scale != "cell" else float(np.nanpercentile(values, 99))
    discs.set(cmap=colormaps[colors.SIGNED].with_extremes(bad=colors.ABSENT), clim=(-limit, limit))
    ax.set_title(f"{marker} and {title}, {scale}", fontsize=10)
    label = "contribution to r" if scale == "cell" else "local r"
    ax.figure.colorbar(discs, ax=ax, label=label, fraction=0.03, pad=0.01)
    return ax
