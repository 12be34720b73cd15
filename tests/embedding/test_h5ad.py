"""AnnData files are written in a form that anndata 0.10 reads, whatever pandas and anndata hold in memory."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from mxsplicer import InputError
from mxsplicer.embedding.h5ad import join_obs, named_layers, open_cells, save_cells, write_cells, write_obs, write_uns

KNOWN_TO_0_10 = {
    "anndata",
    "array",
    "categorical",
    "dataframe",
    "dict",
    "nullable-boolean",
    "nullable-integer",
    "numeric-scalar",
    "string",
    "string-array",
    "",  # attributes of h5py's own groups
}
NAMES = ["S1_1", "S1_2", "S1_3"]
STRINGS = {
    "object": pd.Series(["a", "b", "a"], dtype=object),
    "str": pd.Series(["a", "b", "a"], dtype="string"),
    "with a missing value": pd.Series(["a", None, "a"], dtype="string"),
    "objects with a missing value": pd.Series(["a", None, "a"], dtype=object),
    "categories": pd.Series(["a", "b", "a"], dtype="string").astype("category"),
    "ordered": pd.Series(pd.Categorical(["b", None, "a"], pd.array(["b", "a"], dtype="string"), ordered=True)),
}


def encodings(path):
    found = set()
    with h5py.File(path) as file:
        file.visititems(lambda _, one: found.add(str(one.attrs.get("encoding-type", ""))))
    return found


@pytest.fixture
def adata():
    obs = pd.DataFrame({name: one.array for name, one in STRINGS.items()}, index=pd.Index(NAMES, dtype="string"))
    return anndata.AnnData(
        np.arange(6, dtype=np.float32).reshape(3, 2),
        obs=obs.assign(count=[1, 2, 3], known=pd.array([True, None, False], dtype="boolean")),
        var=pd.DataFrame(index=pd.Index(["DAPI", "CD3e"], dtype="string")),
        layers={"std": np.ones((3, 2), np.float32)},
        obsm={"X_splicer": np.arange(12, dtype=np.float32).reshape(3, 4)},
        uns={
            "table": pd.DataFrame({"label": pd.array(["x"], dtype="string")}),
            "deep": {"names": np.array(["a"])},
        },
    )


def same(found, wanted):
    assert list(found.obs_names) == NAMES
    assert list(found.var_names) == ["DAPI", "CD3e"]
    for name, one in STRINGS.items():
        assert (
            found.obs[name].astype(object).where(found.obs[name].notna(), None).tolist()
            == one.astype(object).where(one.notna(), None).tolist()
        ), name
    assert found.obs["ordered"].cat.ordered
    assert found.uns["table"]["label"].tolist() == ["x"]
    np.testing.assert_array_equal(found.X, wanted.X)
    assert list(named_layers(found)) == ["std"]


def test_strings_of_any_kind_are_written_plain_and_read_back(adata, tmp_path):
    write_cells(adata, tmp_path / "cells.h5ad")

    assert encodings(tmp_path / "cells.h5ad") <= KNOWN_TO_0_10
    same(anndata.read_h5ad(tmp_path / "cells.h5ad"), adata)


def test_a_file_that_another_program_wrote_is_completed_with_plain_strings(adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    write_cells(adata, path)
    with h5py.File(path, "r+") as file, anndata.settings.override(allow_write_nullable_strings=True):
        for key in (file["obs"].attrs["_index"], "str", "with a missing value"):
            values = adata.obs_names if key == file["obs"].attrs["_index"] else STRINGS[key]
            anndata.io.write_elem(file["obs"], key, pd.array(values, dtype="string"))
    assert "nullable-string-array" in encodings(path)

    with open_cells(path) as cells:
        cells.obs["new"] = pd.array(["x", None, "y"], dtype="string")
        save_cells(cells, path)
    write_obs(path, {"newer": pd.array(["x", None, "y"], dtype="string")})
    write_uns(path, {"names": pd.DataFrame({"a": pd.array(["x"], dtype="string")})})

    assert encodings(path) <= KNOWN_TO_0_10
    found = anndata.read_h5ad(path)
    same(found, adata)
    for name in ("new", "newer"):
        assert found.obs[name].isna().tolist() == [False, True, False]
        assert found.obs[name].dropna().tolist() == ["x", "y"]


@pytest.mark.parametrize("empty", ["category", "float64", "absent"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([61, 48]), [61.0, 48.0]),
        (np.array([2.5, 1.0]), [2.5, 1.0]),
        (np.array([True, False]), ["True", "False"]),
        (pd.Categorical(["a", "b"]), ["a", "b"]),
        (pd.array([3, 4], dtype="Int64"), [3, 4]),
        (np.array([np.nan, np.nan]), [np.nan, np.nan]),
    ],
)
def test_a_column_that_one_slide_leaves_empty_is_joined_and_written(tmp_path, values, wanted, empty, first):
    given = pd.DataFrame({"age": values}, index=["a1", "a2"])
    lacking = pd.DataFrame(index=["b1"])
    if empty != "absent":
        lacking["age"] = pd.Series([np.nan], index=["b1"], dtype=empty)

    obs = join_obs([lacking, given] if first else [given, lacking])
    write_cells(anndata.AnnData(np.ones((3, 1), np.float32), obs=obs), tmp_path / "cells.h5ad")

    read = anndata.read_h5ad(tmp_path / "cells.h5ad").obs["age"]
    assert pd.isna(read["b1"])
    pd.testing.assert_series_equal(read[["a1", "a2"]].astype(object), pd.Series(wanted, ["a1", "a2"], object, "age"))


@pytest.mark.parametrize("how", ["truncated", "of something else", "with damaged data"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, how):
    path = tmp_path / "cells.h5ad"
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    anndata.AnnData(features, obsm={"X_splicer": features}).write_h5ad(path, compression="gzip")
    whole = bytearray(path.read_bytes())
    with h5py.File(path, "r") as file:
        at = file["obsm/X_splicer"].id.get_chunk_info(0).byte_offset
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "of something else": b"not HDF5",
        "with damaged data": whole[:at] + b"\0" * 16 + whole[at + 16 :],
    }
    path.write_bytes(damaged[how])
    with pytest.raises(InputError, match=r"cells.h5ad is (damaged|not an HDF5 file)"), open_cells(path) as cells:
        np.asarray(cells.obsm["X_splicer"])
