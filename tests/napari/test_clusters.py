"""The clusters of a study: verdicts and example cells."""

import anndata
import numpy as np
import pytest
from napari_mxsplicer.clusters import cut_examples, draw_examples, judge_clusters, read_clusters, shorten, words_of
from napari_mxsplicer.exemplars import colors_of, cut_images
from napari_mxsplicer.layers import open_slide
from napari_mxsplicer.study import open_study

from mxsplicer import tl


@pytest.fixture(scope="module")
def study(clustered):
    return open_study(clustered)


def test_clusters_have_the_verdicts_that_are_stored(study):
    clusters, are_judged = read_clusters(study)
    table = anndata.read_h5ad(study.cells).uns["mxsplicer_clusters"]
    assert are_judged
    assert [one.name for one in clusters] == [str(one) for one in range(18)]
    assert [one.count for one in clusters] == table["count"].tolist()
    assert [one.verdict for one in clusters] == table["verdict"].tolist()
    assert [one.suggested for one in clusters] == table["name"].tolist()
    assert [one.is_flagged for one in clusters] == (table["verdict"] != tl.REAL).tolist()


def test_verdicts_are_computed_where_none_are_stored(sample):
    """They are those of the library."""
    study = open_study(sample)
    clusters, are_judged = read_clusters(study)
    assert not are_judged
    assert {one.verdict for one in clusters} == {""}
    expected = tl.explain_clusters(anndata.read_h5ad(study.cells), "lineage")
    assert [one.verdict for one in judge_clusters(study)] == expected["verdict"].tolist()


def test_a_name_is_shortened_by_the_words_that_example_cells_do_not_show():
    words = words_of("CD3e+ CD45RO+ PD-1+ CD8a+", ["CD3e", "CD8a"])
    assert list(shorten(words, lambda text: len(text) < 30)) == words
    assert list(shorten(words, lambda text: len(text) < 15)) == [("CD3e+", 0), ("…", None), ("CD8a+", 1)]
    assert [word for word, _ in shorten(words, lambda _: False)] == ["CD3e+", "…", "CD8a+"]


def test_markers_have_the_same_colours_with_and_without_nuclei():
    assert list(colors_of(["Hoechst", "CD3e", "CD8a"]))[1:3] == list(colors_of(["CD3e", "CD8a"]))[:2]


def test_words_of_a_name_find_the_markers_shown():
    words = words_of("CD3e+ CD45RO+ CD4+", ["CD3e", "CD4"])
    assert words == [("CD3e+", 0), ("CD45RO+", None), ("CD4+", 1)]


def test_example_cells_are_of_their_cluster_and_the_first_ones_stay(study):
    few, many = (draw_examples(study, 4, np.arange(study.n_cells), n) for n in (3, 9))
    assert (study.clusters.codes[many] == 4).all()
    assert len(set(many.tolist())) == 9
    assert few.tolist() == many[:3].tolist()


def test_example_cells_are_outlined_at_one_contrast(study):
    """An image of a cell is the same whichever cells are cut with it."""
    opened = open_slide(study, study.slide_names[0])
    rows = np.argsort(study.marker("CD20"))[[0, -1]]
    dark, bright = cut_images(study, opened, rows, ["CD20"])
    np.testing.assert_array_equal(cut_images(study, opened, rows[:1], ["CD20"])[0], dark)
    plain = cut_images(study, opened, rows, ["CD20"], outlined=False)
    assert plain[1].mean() > 5 * plain[0].mean()
    for image, bare in ((dark, plain[0]), (bright, plain[1])):
        drawn = (image != bare).any(axis=-1)
        assert (image[drawn] == 255).all()
        assert 20 < drawn.sum() < 200
    assert [name for name, _ in cut_examples(study, opened, read_clusters(study)[0], 2)] == [str(i) for i in range(18)]
