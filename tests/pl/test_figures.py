import json

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.figure import Figure

from mxsplicer import pl
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.pl import colors
from mxsplicer.pl.training import last_losses, read_log


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"slide": ["a", "b"] * 20, "leiden": pd.Categorical(["0", "1", None, "0"] * 10), "area_um2": 50.0},
        index=[str(i) for i in range(40)],
    )
    cells = AnnData(
        rng.gamma(2, 10, (40, 3)).astype(np.float32), obs=obs, var=pd.DataFrame(index=["DAPI", "CD4", "CD8"])
    )
    cells.obsm["spatial"], cells.obsm["X_umap"] = rng.uniform(0, 100, (40, 2)), rng.normal(size=(40, 2))
    cells.varm["splicer_correlation"] = rng.uniform(-1, 1, (3, 8))
    return cells


@pytest.mark.parametrize("color", ["leiden", "CD4", "area_um2"])
@pytest.mark.parametrize("draw", [pl.embedding, pl.spatial])
def test_cells_are_drawn_by_category_marker_or_number(adata, draw, color):
    axes = Figure().subplots()

    assert draw(adata, color=color, ax=axes) is axes

    (points,) = axes.collections
    assert len(points.get_offsets()) == 40
    assert len(axes.figure.axes) == (1 if color == "leiden" else 2)  # numbers have a scale beside them


def test_cells_without_a_category_are_grey(adata):
    axes = pl.embedding(adata, ax=Figure().subplots())

    grey = np.isclose(axes.collections[0].get_facecolor()[:, :3], colors.rgb(colors.ABSENT)).all(axis=1)
    assert grey.sum() == 10


def test_discs_on_the_tissue_have_the_area_of_their_cell(adata):
    axes = pl.spatial(adata, slide="b", ax=Figure().subplots())

    discs = axes.collections[0]
    assert len(discs.get_offsets()) == 20
    np.testing.assert_allclose(np.pi / 4 * discs.get_widths() ** 2, 50)


def test_each_feature_stands_under_the_marker_it_follows_most(adata):
    axes = pl.correlation(adata, ax=Figure().subplots())

    shown = axes.collections[0].get_array().reshape(3, 8)
    assert (np.diff(np.abs(shown).argmax(axis=0)) >= 0).all()


def test_what_chance_explains_is_pale(adata):
    adata.varm["splicer_correlation_p"] = np.where(np.arange(8) < 3, 1e-9, 0.5) * np.ones((3, 1))
    adata.uns["splicer_correlation"] = {"p_5pct_fdr": 0.01}

    _, veil = pl.correlation(adata, ax=Figure().subplots()).collections
    (bare,) = pl.correlation(adata, dim=False, ax=Figure().subplots()).collections

    assert (~np.ma.getmaskarray(veil.get_array())).sum() == 15
    assert bare.get_array().size == 24


def test_figures_of_maps_show_every_marker(adata):
    for name in ("max_abs_r", "mean_abs_r", "r2_mean"):
        adata.var[f"splicer_{name}"] = [0.5, -0.1, np.nan]
    adata.varm["splicer_correlation_p"] = np.full((3, 8), 0.0)
    adata.uns["splicer_correlation"] = {"p_5pct_fdr": 0.01, "diagonal": np.eye(3), "among_markers": np.eye(3)}

    for draw in (pl.marker_support, pl.marker_diagonal):
        labels = draw(adata, ax=Figure().subplots()).get_yticklabels()
        assert {label.get_text() for label in labels} == {"DAPI", "CD4", "CD8"}
    legend = pl.volcano(adata, ax=Figure().subplots()).get_legend()
    assert {text.get_text() for text in legend.get_texts()} >= {"DAPI", "CD4", "CD8"}


def test_a_local_map_is_white_at_zero_and_refused_where_there_is_none(adata):
    adata.obsm["X_splicer"] = np.random.default_rng(1).normal(size=(40, 2))

    axes = pl.local_map(adata, "CD4", 1, scale="region", ax=Figure().subplots())

    (discs,) = axes.collections
    assert discs.get_clim() == (-1, 1)
    adata.X[:, 1] = 0
    with pytest.raises(InputError, match="'CD4' and feature 1 have no local correlation"):
        pl.local_map(adata, "CD4", 1, scale="region")


@pytest.mark.parametrize("draw", [pl.correlation, pl.marker_support, pl.volcano, pl.marker_diagonal])
def test_cells_without_maps_are_told_what_to_run(adata, draw):
    del adata.varm["splicer_correlation"]

    with pytest.raises(InputError, match=r"tl\.correlate"):
        draw(adata)


def test_bright_markers_of_a_cluster_are_positive(adata):
    adata.X[(adata.obs["leiden"] == "1").to_numpy(), 1] += 500

    axes = pl.markers_by_cluster(adata, ax=Figure().subplots())

    assert {label.get_text() for label in axes.get_xticklabels()} == {"DAPI", "CD4", "CD8"}


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda adata: pl.embedding(adata, basis="X_tsne"), "no map 'X_tsne'; run mxsplicer.tl.cluster"),
        (lambda adata: pl.embedding(adata, color="CD5"), "'CD5' is neither a column of obs nor a marker"),
        (lambda adata: pl.correlation(adata, key="x"), "run mxsplicer.tl.correlate first"),
        (lambda adata: pl.markers_by_cluster(adata, groupby="x"), "run mxsplicer.tl.cluster first"),
    ],
)
def test_what_is_missing_is_named(adata, draw, said):
    with pytest.raises(InputError, match=said):
        draw(adata)


def test_a_slide_is_shown_with_the_outlines_of_its_cells():
    image = np.full((2, 40, 60), 100, np.uint16)
    mask = np.zeros((40, 60), np.uint32)
    mask[10:20, 10:20] = 7
    slide = Slide("S01", image, ("DAPI", "CD4"), pixel_size_um=0.5)

    axes = pl.slide(slide, markers=["DAPI"], mask=mask, window=(slice(0, 40), slice(0, 60)), ax=Figure().subplots())

    picture = axes.images[0].get_array()
    assert picture.shape == (40, 60, 3)
    assert (picture[10, 10:20] == 255).all()
    assert (picture[15, 15] != 255).any()


def test_channels_add_up_in_their_colours():
    image = np.array([[[0, 10]], [[10, 10]]])

    picture = colors.composite(image, [(0, 10), (0, 10)], ["#ff0000", "#0000ff"])

    assert picture.tolist() == [[[0, 0, 255], [255, 0, 255]]]


def test_losses_have_a_panel_per_chunk_and_a_cut_line_is_passed_over(tmp_path):
    entries = [{"step": i, "chunks": {"DAPI": {"loss": 10 - i}, "CD4": {"loss": 20 - i}}} for i in range(1, 6)]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps(entry) for entry in entries) + '\n{"step": 6, "chu')

    figure = pl.losses(log, figure=Figure())

    assert [panel.get_title() for panel in figure.axes if panel.get_visible()] == ["DAPI", "CD4"]
    assert last_losses(read_log(log)).loc["CD4"].tolist() == [19, 15]


def test_a_long_chunk_s_name_fits_above_its_panel_with_its_end():
    table = pd.DataFrame({"step": [1, 2], "chunk": "Cytoker_651((3356))Pr141 interior", "loss": [2.0, 1.0]})

    title = pl.losses(table, figure=Figure()).axes[0].get_title()

    assert len(title) <= 22
    assert title.startswith("Cytoker_65")
    assert title.endswith("41 interior")
