"""The head of the page: its title, and the numbers of cells, markers and clusters."""

from typing import Any

from anndata import AnnData

from mxsplicer.tl.reading import rows_by_slide
from mxsplicer.tl.representations import BUILT_IN, learned_key, title_of_method


def title(adata: AnnData) -> str:
    """Return the title at the head of the page: the name of the slide, or the number of slides."""
    names = list(rows_by_slide(adata))
    return names[0] if len(names) == 1 else f"{len(names)} slides"


def summary(adata: AnnData) -> dict[str, Any]:
    """Return the numbers at the head of the page."""
    method, key = title_of_method(adata), learned_key(adata)
    return {
        "n_cells": adata.n_obs,
        "roi": str(adata.uns.get("mxsplicer", {}).get("roi", "")),
        "n_slides": len(rows_by_slide(adata)),
        "n_markers": adata.n_vars,
        "n_features": adata.obsm[key].shape[1] if key in adata.obsm else 0,
        "n_clusters": adata.obs["leiden"].nunique() if "leiden" in adata.obs else 0,
        "method": "joint embedding" if method == "joint" else method,
        "is_trained": method != BUILT_IN,
        "use_rep": key,
    }
