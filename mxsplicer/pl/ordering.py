"""The order of rows in a heatmap."""

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage


def order_by_similarity(rows: np.ndarray) -> np.ndarray:
    """Return an order in which similar rows are neighbours, by hierarchical clustering."""
    if len(rows) < 3:
        return np.arange(len(rows))
    return np.asarray(leaves_list(linkage(rows, method="average", optimal_ordering=len(rows) < 200)))
