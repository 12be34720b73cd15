"""Names that the user gives to clusters and cells."""

import anndata
import numpy as np
import pandas as pd
import pytest
from napari_mxsplicer.names import Names
from napari_mxsplicer.study import open_study

from mxsplicer import InputError


@pytest.fixture
def study(own_clustered):
    return open_study(own_clustered)


def test_names_of_clusters_are_on_the_disk_at_once(study):
    Names(study).name_cluster("3", " T cell ")
    again = Names(study)
    assert again.of_clusters == {"3": "T cell"}
    assert (again.of_cells() == "T cell").sum() == study.cluster_counts["3"]
    assert [path.name for path in study.folder.glob("*.partial")] == []


def test_every_change_is_undone_and_redone_in_order_on_the_disk_too(study):
    names = Names(study)
    names.name_cluster("0", "B cell")
    names.name_cells(np.array([1, 2]), "T cell")
    names.name_cluster("0", "other")
    assert names.undo().after == "other"
    assert names.of_clusters == {"0": "B cell"}
    assert names.undo().cluster is None
    assert names.classes == ["B cell"]
    assert names.undo().cluster == "0"
    assert names.classes == []
    assert names.undo() is None
    assert Names(study).of_clusters == {}
    for _ in range(3):
        names.redo()
    assert names.classes == ["other", "T cell"]
    assert names.redo() is None
    assert Names(study).of_clusters == {"0": "other"}


def test_the_name_of_a_cell_overrides_that_of_its_cluster(study):
    names = Names(study)
    rows = np.flatnonzero(np.asarray(study.clusters) == "5")
    names.name_cluster("5", "B cell")
    names.name_cells(rows[:2], "T cell")
    of_cells = names.of_cells()
    assert list(of_cells[rows[:3]]) == ["T cell", "T cell", "B cell"]
    assert of_cells.isna().sum() == study.n_cells - len(rows)


def test_names_are_written_to_the_table_on_request_and_again(study):
    names = Names(study)
    before = anndata.read_h5ad(study.cells)
    names.name_cluster("5", "B cell")
    assert names.write_to_table() == ["cell_type"]
    names.name_cluster("6", "T cell")
    assert Names(study).column == "cell_type"
    assert names.write_to_table() == ["cell_type"]
    after = anndata.read_h5ad(study.cells)
    counts = study.cluster_counts
    assert after.obs["cell_type"].value_counts().to_dict() == {"B cell": counts["5"], "T cell": counts["6"]}
    pd.testing.assert_frame_equal(after.obs.drop(columns="cell_type"), before.obs)
    np.testing.assert_array_equal(after.obsm["X_splicer"], before.obsm["X_splicer"])
    assert not list(study.cells.parent.glob("*.partial"))
    assert Names(open_study(study.folder)).column == "cell_type"


def test_a_column_of_the_table_is_not_replaced_by_names(study):
    adata = anndata.read_h5ad(study.cells)
    adata.obs["cell_type"] = "mine"
    adata.write_h5ad(study.cells)
    names = Names(open_study(study.folder))
    names.name_cluster("5", "B cell")
    assert names.column == "cell_type_2"
    names.column = "cell_type"
    with pytest.raises(InputError, match="has a column 'cell_type' already"):
        names.write_to_table()


def test_names_of_earlier_clusters_are_kept_and_not_shown(study):
    Names(study).name_cluster("3", "T cell")
    adata = anndata.read_h5ad(study.cells)
    adata.obs["leiden"] = pd.Categorical(np.where(np.arange(adata.n_obs) < 9, "0", "3"))
    adata.write_h5ad(study.cells)
    again = Names(open_study(study.folder))
    assert again.of_clusters == {}
    assert "1 names of earlier clusters" in again.note
    again.name_cluster("0", "B cell")
    assert "T cell" in (study.folder / "cluster_names_1.csv").read_text()
    assert Names(open_study(study.folder)).of_clusters == {"0": "B cell"}


def test_a_table_of_cluster_names_without_a_column_is_refused(study):
    (study.folder / "cluster_names.csv").write_text("cluster,name\n0,B cell\n")
    with pytest.raises(InputError, match="has no column 'clusters'"):
        Names(study)


def test_names_that_cannot_be_saved_stay_and_the_problem_is_reported(study, monkeypatch):
    names = Names(study)
    monkeypatch.setattr(names, "_path", study.folder / "gone" / "names.csv")
    names.name_cluster("0", "B cell")
    assert "not saved" in names.problem
    assert names.of_clusters == {"0": "B cell"}
    assert names.can_undo
    monkeypatch.setattr(names, "_path", study.folder / "names.csv")
    names.name_cluster("1", "T cell")
    assert names.problem == ""
    assert "B cell" in (study.folder / "names.csv").read_text()
    monkeypatch.setattr(names.cells, "path", study.folder / "gone" / "cells.csv")
    names.name_cells(np.array([3]), "B cell")
    with pytest.raises(OSError, match="gone"):
        names.cells.save()
    assert not names.cells.is_saved
