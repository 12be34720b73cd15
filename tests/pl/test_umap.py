import numpy as np
import pytest
from matplotlib.figure import Figure

from mxsplicer import pl
from mxsplicer.errors import InputError
from mxsplicer.pl import colors


@pytest.mark.parametrize("color", ["leiden", "CD4", "area_um2"])
@pytest.mark.parametrize("draw", [pl.embedding, pl.spatial])
def test_cells_are_drawn_by_category_marker_or_number(adata, draw, color):
    axes = Figure().subplots()

    assert draw(adata, color=color, ax=axes) is axes

    (points,) = axes.collections
    assert len(points.get_offsets()) == 40
    assert len(axes.figure.axes) == (1 if color == "leiden" else 2)  # numbers have a colour bar


def test_cells_without_a_category_are_grey(adata):
    axes = pl.embedding(adata, ax=Figure().subplots())

    grey = np.isclose(axes.collections[0].get_facecolor()[:, :3], colors.rgb(colors.ABSENT)).all(axis=1)
    assert grey.sum() == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": "X_tsne"}, r"obsm\['X_tsne'\] not found\. Run `mxsplicer\.tl\.cluster` first"),
        ({"color": "CD5"}, "'CD5' is neither a column of obs nor a marker"),
    ],
)
def test_a_umap_or_colour_that_is_missing_is_named(adata, options, message):
    with pytest.raises(InputError, match=message):
        pl.embedding(adata, **options)
