import numpy as np
import pytest
from matplotlib.figure import Figure

from mxsplicer import pl
from mxsplicer.errors import InputError


def test_discs_on_the_tissue_have_the_area_of_their_cell(adata):
    axes = pl.spatial(adata, slide="b", ax=Figure().subplots())

    discs = axes.collections[0]
    assert len(discs.get_offsets()) == 20
    np.testing.assert_allclose(np.pi / 4 * discs.get_widths() ** 2, 50)


def test_a_local_correlation_is_white_at_zero_and_refused_if_it_is_undefined_everywhere(adata):
    adata.obsm["X_splicer"] = np.random.default_rng(1).normal(size=(40, 2))

    axes = pl.local_map(adata, "CD4", 1, scale="region", ax=Figure().subplots())

    (discs,) = axes.collections
    assert discs.get_clim() == (-1, 1)
    assert axes.get_title() == "CD4 and feature 1, region"
    adata.uns["mxsplicer"] = {"features": np.array(["CD4 level", "CD4 rim"])}
    named = pl.local_map(adata, "CD4", "CD4 rim", scale="region", ax=Figure().subplots())
    assert named.get_title() == "CD4 and CD4 rim, region"
    adata.X[:, 1] = 0
    with pytest.raises(InputError, match="'CD4' and CD4 rim have no local correlation"):
        pl.local_map(adata, "CD4", 1, scale="region")
