import numpy as np
import pytest
from matplotlib.figure import Figure

from mxsplicer import pl
from mxsplicer.errors import InputError


def test_each_feature_is_under_the_marker_of_its_strongest_correlation(adata):
    axes = pl.correlation(adata, ax=Figure().subplots())

    shown = axes.collections[0].get_array().reshape(3, 8)
    assert (np.diff(np.abs(shown).argmax(axis=0)) >= 0).all()


def test_correlations_that_are_not_significant_are_pale(adata):
    adata.varm["splicer_correlation_p"] = np.where(np.arange(8) < 3, 1e-9, 0.5) * np.ones((3, 1))
    adata.uns["splicer_correlation"] = {"p_5pct_fdr": 0.01}

    _, veil = pl.correlation(adata, ax=Figure().subplots()).collections
    (bare,) = pl.correlation(adata, dim=False, ax=Figure().subplots()).collections

    assert (~np.ma.getmaskarray(veil.get_array())).sum() == 15
    assert bare.get_array().size == 24


def test_figures_of_correlations_show_every_marker(adata):
    for name in ("max_abs_r", "mean_abs_r", "r2_mean"):
        adata.var[f"splicer_{name}"] = [0.5, -0.1, np.nan]
    adata.varm["splicer_correlation_p"] = np.full((3, 8), 0.0)
    adata.uns["splicer_correlation"] = {"p_5pct_fdr": 0.01, "diagonal": np.eye(3), "among_markers": np.eye(3)}

    for draw in (pl.marker_support, pl.marker_diagonal):
        labels = draw(adata, ax=Figure().subplots()).get_yticklabels()
        assert {label.get_text() for label in labels} == {"DAPI", "CD4", "CD8"}
    legend = pl.volcano(adata, ax=Figure().subplots()).get_legend()
    assert {text.get_text() for text in legend.get_texts()} >= {"DAPI", "CD4", "CD8"}


@pytest.mark.parametrize("draw", [pl.correlation, pl.marker_support, pl.volcano, pl.marker_diagonal])
def test_cells_without_correlations_are_refused_with_the_function_to_run(adata, draw):
    del adata.varm["splicer_correlation"]

    with pytest.raises(InputError, match=r"not found.* Run `mxsplicer\.tl\.correlate`"):
        draw(adata)
