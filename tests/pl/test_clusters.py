import numpy as np
import pytest
from matplotlib.figure import Figure

from mxsplicer import pl
from mxsplicer.errors import InputError
from mxsplicer.pl.heatmap_order import order_by_similarity


def test_a_marker_that_is_bright_in_a_cluster_has_a_positive_z_score(adata):
    adata.X[(adata.obs["leiden"] == "1").to_numpy(), 1] += 500

    axes = pl.markers_by_cluster(adata, ax=Figure().subplots())

    clusters = [label.get_text().split()[0] for label in axes.get_yticklabels()]
    markers = [label.get_text() for label in axes.get_xticklabels()]
    z = axes.collections[0].get_array().reshape(len(clusters), len(markers))
    assert set(markers) == {"DAPI", "CD4", "CD8"}
    assert z[clusters.index("1"), markers.index("CD4")] > 1
    assert z[clusters.index("0"), markers.index("CD4")] < 0


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (pl.markers_by_cluster, r"un `?mxsplicer\.tl\.cluster`? first"),
        (pl.neighbourhoods, r"'x_nhood_enrichment'\] not found.*tl\.enrich_neighbourhoods"),
    ],
)
def test_clusters_that_are_missing_are_named_with_the_function_to_run(adata, draw, message):
    with pytest.raises(InputError, match=message):
        draw(adata, groupby="x")


def test_similar_rows_are_neighbours():
    order = order_by_similarity(np.array([[0.0, 1], [1, 0], [0, 0.9], [0.9, 0]]))

    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
