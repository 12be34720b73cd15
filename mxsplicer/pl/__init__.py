"""Draw embedded cells and slides. Each function draws into the axes it is given, or a new figure, and shows nothing.

A name is loaded when it is first used, because Matplotlib takes a second to import.
"""

from typing import TYPE_CHECKING

from mxsplicer.system.imports import lazily

if TYPE_CHECKING:
    from mxsplicer.pl.clusters import markers_by_cluster, neighbourhoods
    from mxsplicer.pl.colors import QUALITATIVE, composite, contrast_limits
    from mxsplicer.pl.correlations import correlation, marker_diagonal, marker_support, volcano
    from mxsplicer.pl.galleries import gallery
    from mxsplicer.pl.slides import slide
    from mxsplicer.pl.spectra import spectrum
    from mxsplicer.pl.tissue import local_map, spatial
    from mxsplicer.pl.training import losses
    from mxsplicer.pl.umap import embedding

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
        "embedding": "umap",
        "gallery": "galleries",
        "local_map": "tissue",
        "losses": "training",
        "marker_diagonal": "correlations",
        "marker_support": "correlations",
        "markers_by_cluster": "clusters",
        "neighbourhoods": "clusters",
        "slide": "slides",
        "spatial": "tissue",
        "spectrum": "spectra",
        "volcano": "correlations",
    },
)
