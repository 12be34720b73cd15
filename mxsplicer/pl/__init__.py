"""Figures of embedded cells and of slides: each draws into the axes it is given, or into new ones, and shows nothing.

A name is loaded when it is first used: matplotlib takes a second.
"""

from typing import TYPE_CHECKING

from mxsplicer.system.imports import lazily

if TYPE_CHECKING:
    from mxsplicer.pl.colors import QUALITATIVE, composite, contrast_limits
    from mxsplicer.pl.correlations import correlation, local_map, marker_diagonal, marker_support, volcano
    from mxsplicer.pl.galleries import gallery
    from mxsplicer.pl.maps import embedding, spatial
    from mxsplicer.pl.matrices import markers_by_cluster, neighbourhoods
    from mxsplicer.pl.spectra import spectrum
    from mxsplicer.pl.tissue import slide
    from mxsplicer.pl.training import losses

__all__ = [
    "QUALITATIVE",
    "composite",
    "contrast_limits",
    "correlation",
    "embedding",
    "gallery",
    "local_map",
    "losses",
    "marker_diagonal",
    "marker_support",
    "markers_by_cluster",
    "neighbourhoods",
    "slide",
    "spatial",
    "spectrum",
    "volcano",
]

__getattr__ = lazily(
    __name__,
    {
        "QUALITATIVE": "colors",
        "composite": "colors",
        "contrast_limits": "colors",
        "correlation": "correlations",
        "embedding": "maps",
        "gallery": "galleries",
        "local_map": "correlations",
        "losses": "training",
        "marker_diagonal": "correlations",
        "marker_support": "correlations",
        "markers_by_cluster": "matrices",
        "neighbourhoods": "matrices",
        "slide": "tissue",
        "spatial": "maps",
        "spectrum": "spectra",
        "volcano": "correlations",
    },
)
