import json
import os
import shutil
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from napari_mxsplicer.annotations import Annotations
from napari_mxsplicer.export import code, write_map, write_picture
from napari_mxsplicer.layers import ROLE, SLIDE
from napari_mxsplicer.opening import add, result_layers, slide_layers
from napari_mxsplicer.significance import by_chance
from napari_mxsplicer.state import Painted, State
from napari_mxsplicer.study import open_study
from scipy.stats import false_discovery_control

from mxsplicer import InputError


@pytest.fixture
def state(sample):
    """Return a state that shows the sample."""
    made, study = State(), open_study(sample)
    made.open(study, study.slide_names[0], study.rows_of(study.slide_names[0]))
    return made


def test_a_change_to_what_holds_is_no_change(state):
    told = []
    state.selection_changed.connect(lambda: told.append("selection"))
    state.painted_changed.connect(lambda: told.append("painted"))
    for _ in range(2):
        state.select(np.array([5, 3, 3]))
        state.paint(Painted("feature", "2"))
    assert told == ["selection", "painted"]
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


def test_the_sentence_counts_cells_without_value(state):
    values = np.ones(state.study.n_cells, dtype=np.float32)
    values[:7] = np.nan
    state.paint(Painted("values", "something", values))
    assert state.sentence() == f"something, {state.study.n_cells:,} cells, 7 without value"


def test_a_cell_is_told_by_its_category(state):
    state.paint(Painted("column", "lineage"))
    lineage = state.study.column("lineage")[4]
    assert state.told(4).startswith(f"cell {state.study.cell_ids[4]}, lineage {lineage}")


def test_chance_is_that_of_benjamini_and_hochberg():
    p = np.random.default_rng(0).uniform(0, 0.2, (7, 11)) ** 2
    np.testing.assert_array_equal(by_chance(p), false_discovery_control(p.ravel()).reshape(p.shape) > 0.05)
    assert by_chance(np.array([np.nan, 0.9])).all()


def test_the_map_is_written_as_a_table(state, tmp_path):
    write_map(state, tmp_path / "map.csv")
    table = pd.read_csv(tmp_path / "map.csv", index_col="marker")
    assert list(table.index) == state.study.markers
    np.testing.assert_allclose(table.to_numpy(), state.r, atol=1e-5)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_is_written(state, tmp_path, ending):
    state.paint(Painted("feature", "3") if ending == "png" else Painted("column", "lineage"))
    write_picture(state, tmp_path / f"picture.{ending}")
    assert (tmp_path / f"picture.{ending}").stat().st_size > 10_000
    with pytest.raises(InputError, match="no ending"):
        write_picture(state, tmp_path / "picture.doc")


@pytest.mark.filterwarnings("ignore")  # scanpy's own
@pytest.mark.parametrize("painted", [Painted("feature", "3"), Painted("marker", "CD20"), Painted("column", "lineage")])
def test_the_code_runs_and_shows_the_same(state, painted, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda *_, **__: None)
    state.paint(painted)
    names = {}
    exec(code(state), names)
    if painted.kind == "feature":
        np.testing.assert_array_equal(names["adata"].obs["feature_3"], state.values)
    plt.close("all")


def test_names_are_kept_by_slide_and_id_and_read_again(sample, tmp_path, monkeypatch):
    study = open_study(sample)
    monkeypatch.setattr("napari_mxsplicer.annotations.annotations_path", lambda _: tmp_path / "names.csv")
    given = Annotations(study)
    given.give("kind", np.array([3, 4, 9]), "B cell")
    given.give("kind", np.array([4]), "")
    given.give("other", np.array([5]), "odd")
    given.save()
    again = Annotations(study)
    assert np.flatnonzero(again.columns["kind"] == "B cell").tolist() == [3, 9]
    assert np.flatnonzero(again.columns["other"] == "odd").tolist() == [5]
    again.give("kind", np.array([5]), "odd")
    assert list(again.columns["kind"].categories) == ["B cell", "odd"]
    table = pd.read_csv(tmp_path / "names.csv")
    assert table["cell_id"].tolist() == study.cell_ids[[3, 5, 9]].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["names.csv"]


def test_names_are_put_into_obs_and_nothing_else_of_the_table_changes(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "sample.mxs")
    study = open_study(tmp_path / "sample.mxs")
    before = anndata.read_h5ad(study.cells)
    given = Annotations(study)
    for _ in range(2):  # a second time in place of the first
        given.give("kind", np.array([3, 4, 9]), "B cell")
        assert given.put_into_table() == study.cells
    after = anndata.read_h5ad(study.cells)
    assert np.flatnonzero(after.obs["kind"] == "B cell").tolist() == [3, 4, 9]
    assert after.obs["kind"].isna().sum() == after.n_obs - 3
    pd.testing.assert_frame_equal(after.obs.drop(columns="kind"), before.obs)
    np.testing.assert_array_equal(after.obsm["X_splicer"], before.obsm["X_splicer"])
    assert not list(study.cells.parent.glob("*.partial"))
    again = open_study(tmp_path / "sample.mxs")
    assert list(again.column("kind")[[3, 4]]) == ["B cell"] * 2


@pytest.mark.parametrize("column", ["", "a b", "lineage"])
def test_a_column_that_obs_cannot_have_is_refused(sample, column):
    with pytest.raises(InputError, match="column"):
        Annotations(open_study(sample)).give(column, np.array([1]), "x")


@pytest.fixture
def two_slides(sample, tmp_path):
    """Return a result of two slides, whose ids are the same: half the cells of the sample are of another."""
    folder = tmp_path / "two.mxs"
    folder.mkdir()
    index = json.loads((sample / "mxsplicer.json").read_text())
    first = index["slides"][0]
    index["slides"] = [first, first | {"name": "second"}]
    (folder / "mxsplicer.json").write_text(json.dumps(index))
    adata = anndata.read_h5ad(sample / "cells.h5ad")
    adata.obs["slide"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, "second", first["name"]))
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


@pytest.fixture
def viewer(tmp_path, monkeypatch):
    """Return a viewer without a window."""
    monkeypatch.setitem(os.environ, "NAPARI_CONFIG", str(tmp_path / "settings.yaml"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        components = pytest.importorskip("napari.components", reason="napari is not installed")
        return components.ViewerModel()


@pytest.mark.filterwarnings("ignore")  # napari's own
def test_another_slide_is_shown_with_its_own_cells_and_the_first_is_hidden(two_slides, viewer):
    from napari_mxsplicer.canvas import Canvas

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
    labels, painted = (canvas.layer(role).data for role in ("cells", "map"))
    at = np.asarray(labels[:, :]) == state.study.cell_ids[row]
    np.testing.assert_array_equal(np.unique(np.asarray(painted[:, :])[at]), state.values[row])

    assert canvas.show_slide("sample")
    assert state.slide == "sample"
    assert {layer.metadata[SLIDE] for layer in viewer.layers if layer.visible} == {"sample"}
    assert canvas.layer("map").metadata[ROLE] == "map"
    canvas.disconnect()
