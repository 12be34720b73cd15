"""The order of rows and columns in a heatmap."""

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage


def order_by_similarity(rows: np.ndarray) -> np.ndarray:
    """Return an order of a heatmap's rows in which similar ones are neighbours, by hierarchical clustering."""
    if len(rows) < 3:
        return np.arange(len(rows))
    return np.asarray(leaves_list(linkage(rows, method="average", optimal_ordering=len(rows) < 200)))


def heatmap_order(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of markers in a heatmap, similar ones together, and of features, by their strongest marker."""
    rows = order_by_similarity(r)
    strongest = np.abs(r[rows]).argmax(axis=0)
    signed = r[rows][strongest, np.arange(r.shape[1])]
    return rows, np.lexsort((-signed, strongest))
