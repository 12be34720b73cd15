import os
import shutil
import warnings

import anndata
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from napari_mxsplicer.annotations import Annotations
from napari_mxsplicer.canvas import Canvas
from napari_mxsplicer.correlations import correlate_rows, is_not_significant
from napari_mxsplicer.export import annotation_code, notebook_code, write_correlations, write_figure
from napari_mxsplicer.layers import ROLE, SLIDE, limits_of, result_layers, slide_layers
from napari_mxsplicer.state import Painted, State
from napari_mxsplicer.study import open_study
from napari_mxsplicer.viewer_layers import add

from mxsplicer import InputError
from mxsplicer.pl.colors import QUALITATIVE, rgb


@pytest.fixture
def state(sample):
    """Return a state that shows the sample."""
    made, study = State(), open_study(sample)
    made.open(study, study.slide_names[0], study.rows_of(study.slide_names[0]))
    return made


def test_setting_the_same_value_again_emits_no_signal(state):
    emitted = []
    state.selection_changed.connect(lambda: emitted.append("selection"))
    state.painted_changed.connect(lambda: emitted.append("painted"))
    for _ in range(2):
        state.select(np.array([5, 3, 3]))
        state.paint(Painted("feature", "2"))
    assert emitted == ["selection", "painted"]
    assert state.selection.tolist() == [3, 5]


def test_undo_goes_back_through_selections(state):
    for rows in ([1], [2], None):
        state.select(None if rows is None else np.array(rows))
    state.undo()
    assert state.selection.tolist() == [2]
    state.undo()
    state.undo()
    state.undo()
    assert state.selection is None


def test_the_summary_counts_cells_without_a_value(state):
    values = np.ones(state.study.n_cells, dtype=np.float32)
    values[:7] = np.nan
    state.paint(Painted("values", "something", values))
    assert state.summary() == f"something, {state.study.n_cells:,} cells, 7 without a value"
    state.paint(Painted("values", "kind", values, missing="unnamed"))
    assert state.summary() == f"kind, {state.study.n_cells:,} cells, 7 unnamed"


def test_the_description_of_a_cell_names_its_category(state):
    state.paint(Painted("column", "lineage"))
    lineage = state.study.column("lineage")[4]
    assert state.describe_cell(4).startswith(f"cell {state.study.cell_ids[4]}, lineage {lineage}")


def test_features_are_called_by_their_names_and_learned_ones_have_their_chunk(named, tmp_path):
    state, study = State(), open_study(named)
    state.open(study, study.slide_names[0], study.rows_of(study.slide_names[0]))
    first = study.markers[0]
    state.show_marker(first)
    state.paint(Painted("feature", "4"))
    r = f"r = {state.r[0, 4]:+.2f} with {first}"

    assert state.summary() == f"{first} rim, {r}, {study.n_cells:,} cells"
    assert f"{first} rim {state.values[3]:.3g}" in state.describe_cell(3)
    state.paint(Painted("feature", str(study.n_features - 1)))
    assert state.summary().startswith(f"{study.feature_names[-1]}, r = ")
    assert f", chunk {first} (70 %), " in state.summary()
    write_correlations(state, tmp_path / "correlations.csv")
    assert list(pd.read_csv(tmp_path / "correlations.csv", index_col="marker").columns) == study.feature_names


def test_significance_is_that_of_the_example_of_benjamini_and_hochberg():
    # Benjamini & Hochberg 1995, section 4.1: of these 15 hypotheses the first four are rejected at 5 %.
    first, others = [0.0001, 0.0004, 0.0019, 0.0095], [0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262]
    p = np.array([*first, *others, 0.5719, 0.6528, 0.7590, 1.0])
    shuffled = np.random.default_rng(0).permutation(15)

    found = is_not_significant(p[shuffled].reshape(3, 5))

    np.testing.assert_array_equal(found.ravel(), shuffled >= 4)
    assert is_not_significant(np.array([np.nan, 0.9])).all()


def test_correlations_are_written_as_a_table(state, tmp_path):
    write_correlations(state, tmp_path / "correlations.csv")
    table = pd.read_csv(tmp_path / "correlations.csv", index_col="marker")
    assert list(table.index) == state.study.markers
    np.testing.assert_allclose(table.to_numpy(), state.r, atol=1e-5)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_figure_is_written(state, tmp_path, ending):
    state.paint(Painted("feature", "3") if ending == "png" else Painted("column", "lineage"))
    state.select(np.arange(0, state.study.n_cells, 2))
    write_figure(state, tmp_path / f"picture.{ending}")
    assert (tmp_path / f"picture.{ending}").stat().st_size > 10_000
    if ending == "svg":
        assert f"{len(state.selection)} selected cells" in (tmp_path / "picture.svg").read_text()
    with pytest.raises(InputError, match="not a figure format"):
        write_figure(state, tmp_path / "picture.doc")


VIRIDIS = (matplotlib.colormaps["viridis"](np.linspace(0, 1, 256)) * 255).astype(np.uint8)


def rgb_of_points(ax):
    """Return the place of each point of a plot, with its colour, sorted."""
    clouds = [one for one in ax.collections if len(one.get_offsets())]  # the others are entries of the legend
    drawn = np.concatenate([np.column_stack([one.get_offsets(), one.get_facecolors()[:, :3]]) for one in clouds])
    return drawn[np.lexsort(drawn.T[::-1])]


@pytest.mark.filterwarnings("ignore")  # scanpy's own
@pytest.mark.parametrize("painted", [Painted("feature", "3"), Painted("marker", "CD20"), Painted("column", "lineage")])
def test_the_code_runs_and_shows_the_same_colours(state, painted, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: None)
    state.paint(painted)
    low, high = limits_of(state.values)
    names = {}
    exec(notebook_code(state, VIRIDIS, (low, high)), names)
    names["ax"].figure.canvas.draw()
    shown = rgb_of_points(names["ax"])
    place = np.clip((state.values - low) / (high - low), 0, 1)
    expected = plt.get_cmap("viridis")(place)[:, :3]
    if state.categories:
        expected = np.array([rgb(QUALITATIVE[int(code)]) for code in state.values])
    expected = np.column_stack([state.study.spatial_um, expected])
    np.testing.assert_allclose(shown, expected[np.lexsort(expected.T[::-1])], atol=0.03)  # 17 stops stand for 256
    assert names["ax"].yaxis_inverted()
    plt.close("all")


@pytest.mark.filterwarnings("ignore")  # scanpy's own
def test_the_code_shows_the_selection_and_computed_or_named_values(sample, returned, tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: None)
    shutil.copytree(sample, tmp_path / "sample.mxs")
    study, state, names = open_study(tmp_path / "sample.mxs"), State(), {}
    state.open(study, study.slide_names[0], study.rows_of(study.slide_names[0]))
    rows = np.arange(0, study.n_cells, 3)
    state.select(rows)
    found = returned(correlate_rows(study, rows, kind="Spearman"))
    state.show_correlations("Spearman", found, over=f"{len(rows)} selected cells")
    given = Annotations(study)
    given.assign("kind", rows, "odd")
    given.assign("kind", rows[5:] + 1, "even")
    given.save()
    classes = ("odd", "even")
    made = annotation_code(study, given.path, "kind", classes)
    state.paint(Painted("values", "kind", given.columns["kind"].codes, categories=classes, code=made))
    exec(notebook_code(state, VIRIDIS, (0, 1)), names)
    assert (names["adata"].obs["kind"].cat.codes == given.columns["kind"].codes).all()
    assert np.flatnonzero(names["adata"].obs["selected"]).tolist() == rows.tolist()
    np.testing.assert_allclose(names["selected"].varm["splicer_spearman"], found, atol=1e-5)
    plt.close("all")


def test_the_colormap_of_numbers_is_restored_after_categories_were_painted(sample, viewer):
    state = State()
    canvas = Canvas(viewer, state)
    add(viewer, result_layers(sample))
    layer = canvas.layer("painted")
    for chosen in ("viridis", "magma"):
        layer.colormap = chosen
        for n in (2, 3):  # napari gives colormaps of one name and different colours different names
            codes = np.arange(state.study.n_cells) % n
            state.paint(Painted("values", f"{n} kinds", codes, categories=tuple("abc"[:n])))
            assert len(layer.colormap.colors) == n
        state.paint(Painted("values", "signed", np.zeros(state.study.n_cells), signed=True))
        state.paint(Painted("feature", str(n)))
        assert layer.colormap.name == chosen
    canvas.disconnect()


def test_the_panel_shows_the_result_whose_layer_is_active(sample, two_slides, viewer):
    state = State()
    canvas = Canvas(viewer, state)
    for path in (sample, two_slides):
        add(viewer, result_layers(path))
        assert state.study.folder == path
    maps = [layer for layer in viewer.layers if layer.metadata.get(ROLE) == "painted"]
    viewer.layers.selection.active = maps[0]
    assert state.study.folder == sample
    assert canvas.layer("painted") is maps[0]
    canvas.disconnect()


def test_the_description_of_a_cell_names_the_markers_in_which_it_is_bright(state):
    study = state.study
    values = study.marker("CD20")
    top = int(values.argmax())
    assert study.brightest(top)[0][1] < 0.01
    assert "bright in CD20 (top 0." in state.describe_cell(top)
    assert "CD20" not in [name for name, _ in study.brightest(int(values.argmin()))]


def test_names_are_saved_by_slide_and_id_and_read_again(sample, tmp_path, monkeypatch):
    study = open_study(sample)
    monkeypatch.setattr("napari_mxsplicer.annotations.annotations_path", lambda _: tmp_path / "names.csv")
    given = Annotations(study)
    given.assign("kind", np.array([3, 4, 9]), "B cell")
    given.assign("kind", np.array([4]), "")
    given.assign("other", np.array([5]), "odd")
    given.save()
    again = Annotations(study)
    assert np.flatnonzero(again.columns["kind"] == "B cell").tolist() == [3, 9]
    assert np.flatnonzero(again.columns["other"] == "odd").tolist() == [5]
    again.assign("kind", np.array([5]), "odd")
    assert list(again.columns["kind"].categories) == ["B cell", "odd"]
    table = pd.read_csv(tmp_path / "names.csv")
    assert table["cell_id"].tolist() == study.cell_ids[[3, 5, 9]].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["names.csv"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_names_are_read_as_a_spreadsheet_saves_them(sample, tmp_path, monkeypatch, encoding):
    study, file = open_study(sample), tmp_path / "names.csv"
    monkeypatch.setattr("napari_mxsplicer.annotations.annotations_path", lambda _: file)
    slide, cell = study.slides[3], study.cell_ids[3]
    file.write_text(f"Slide;Cell_ID;kind;place\n {slide} ;{cell}; Müller;NA\n", encoding=encoding)

    columns = Annotations(study).columns

    assert np.flatnonzero(columns["kind"] == "Müller").tolist() == [3]
    assert np.flatnonzero(columns["place"] == "NA").tolist() == [3]


def test_a_slide_whose_name_begins_with_a_hash_keeps_the_names_of_its_cells(two_slides, tmp_path):
    index, cells = two_slides / "mxsplicer.json", two_slides / "cells.h5ad"
    index.write_text(index.read_text().replace('"second"', '"#2"'))
    adata = anndata.read_h5ad(cells)
    adata.obs["slide"] = adata.obs["slide"].cat.rename_categories({"second": "#2"})
    adata.write_h5ad(cells)
    given = Annotations(open_study(two_slides))
    given.assign("kind", np.array([1, 2, 3]), "B cell")
    given.save()

    assert np.flatnonzero(Annotations(open_study(two_slides)).columns["kind"] == "B cell").tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "problem"),
    [("cell_id,kind\n1,B\n", "has no column 'slide'"), ("slide,cell_id,kind\nS,a,B\n", "whose id is not a number")],
)
def test_a_table_of_names_without_its_keys_is_refused(sample, tmp_path, monkeypatch, text, problem):
    monkeypatch.setattr("napari_mxsplicer.annotations.annotations_path", lambda _: tmp_path / "names.csv")
    (tmp_path / "names.csv").write_text(text)

    with pytest.raises(InputError, match=problem):
        Annotations(open_study(sample))


@pytest.mark.parametrize("column", ["", "a b", "lineage"])
def test_an_invalid_or_existing_column_is_refused(sample, column):
    with pytest.raises(InputError, match="column"):
        Annotations(open_study(sample)).assign(column, np.array([1]), "x")


@pytest.fixture
def viewer(tmp_path, monkeypatch):
    """Return a viewer without a window."""
    monkeypatch.setitem(os.environ, "NAPARI_CONFIG", str(tmp_path / "settings.yaml"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        components = pytest.importorskip("napari.components", reason="napari is not installed")
        return components.ViewerModel()


@pytest.mark.filterwarnings("ignore")  # napari's own
def test_showing_another_slide_hides_the_first(two_slides, viewer):
    state = State()
    canvas = Canvas(viewer, state)
    add(viewer, result_layers(two_slides))
    assert state.slide == "sample"
    assert (state.rows % 2 == 0).all()

    add(viewer, slide_layers(state.study, "second"))
    assert state.slide == "second"
    assert (state.rows % 2 == 1).all()
    assert {layer.metadata[SLIDE] for layer in viewer.layers if layer.visible} == {"second"}
    row = int(state.rows[10])
    labels, painted = (canvas.layer(role).data for role in ("cells", "painted"))
    at = np.asarray(labels[:, :]) == state.study.cell_ids[row]
    np.testing.assert_array_equal(np.unique(np.asarray(painted[:, :])[at]), state.values[row])

    assert canvas.show_slide("sample")
    assert state.slide == "sample"
    assert {layer.metadata[SLIDE] for layer in viewer.layers if layer.visible} == {"sample"}
    assert canvas.layer("painted").metadata[ROLE] == "painted"
    canvas.disconnect()
