import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.export import write_table
from mxsplicer.tl import reading


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "cell_id": np.arange(10, 60, dtype=np.uint32),
            "slide": pd.Categorical(["A"] * 30 + ["B"] * 20),
            "x_px": rng.uniform(0, 100, 50),
            "y_px": rng.uniform(0, 100, 50),
            "area_um2": rng.uniform(20, 90, 50),
            "major_axis_um": rng.uniform(8, 12, 50),
            "eccentricity": rng.uniform(0, 1, 50),
            "leiden": pd.Categorical([None, *["0", "1"] * 24, "2"]),
        }
    )
    obs.index = [f"{slide}_{cell}" for slide, cell in zip(obs["slide"], obs["cell_id"], strict=True)]
    return AnnData(
        rng.gamma(2, 10, (50, 3)).astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=["DAPI", "HLA-DR/DP", "Area"]),
        obsm={"X_splicer": rng.normal(size=(50, 4)).astype(np.float32)},
        uns={"mxsplicer": {"pixel_size_um": 0.5}},
    )


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_table_has_the_columns_of_mcmicro_in_pixels_for_any_slices(adata, tmp_path, monkeypatch, ending):
    monkeypatch.setattr(reading, "AT_ONCE", 7)

    path = write_table(adata, tmp_path / f"cells.{ending}", pixel_sizes_um={"B": 0.25}, use_rep="X_splicer")

    table = pd.read_parquet(path) if ending == "parquet" else pd.read_csv(path)
    assert list(table.columns)[:3] == ["CellID", "imageid", "DAPI"]
    assert table["CellID"].tolist() == list(range(10, 60))
    size = np.where(adata.obs["slide"] == "B", 0.25, 0.5)
    np.testing.assert_allclose(table["X_centroid"], adata.obs["x_px"])
    np.testing.assert_allclose(table["MajorAxisLength"], adata.obs["major_axis_um"] / size)
    np.testing.assert_allclose(table.iloc[:, [2, 3, 4]], adata.X, rtol=1e-6)
    np.testing.assert_allclose(table["Area"], adata.obs["area_um2"] / size**2)
    assert list(table.columns)[4] == "Area (marker)"
    np.testing.assert_allclose(table["splicer_3"], adata.obsm["X_splicer"][:, 3], rtol=1e-6)
    assert table["leiden"].isna().tolist() == [True] + [False] * 49
    assert [path.name for path in tmp_path.iterdir()] == [f"cells.{ending}"]


def test_features_are_called_by_their_names(adata, tmp_path):
    adata.uns["mxsplicer"]["features"] = np.array(["DAPI level", "Area level", "DAPI rim", "learned 1"])

    table = pd.read_csv(write_table(adata, tmp_path / "cells.csv", use_rep="X_splicer"))

    np.testing.assert_allclose(table["splicer_DAPI rim"], adata.obsm["X_splicer"][:, 2], rtol=1e-6)
    assert list(table.columns)[-4:] == [
        "splicer_DAPI level",
        "splicer_Area level",
        "splicer_DAPI rim",
        "splicer_learned 1",
    ]


def test_what_cannot_be_written_is_refused_before_a_file_is_touched(adata, tmp_path):
    with pytest.raises(InputError, match=r"cells\.xlsx does not end in \.csv, \.csv\.gz or \.parquet"):
        write_table(adata, tmp_path / "cells.xlsx")
    (tmp_path / "cells.csv").write_text("mine")
    with pytest.raises(InputError, match=r"exists\. Choose another name, or pass `overwrite=True`"):
        write_table(adata, tmp_path / "cells.csv")
    assert (tmp_path / "cells.csv").read_text() == "mine"
    write_table(adata, tmp_path / "cells.csv", overwrite=True)
    assert len(pd.read_csv(tmp_path / "cells.csv")) == 50
    del adata.uns["mxsplicer"]
    with pytest.raises(InputError, match="pixel size of slide 'A' is not known"):
        write_table(adata, tmp_path / "again.csv")


def test_a_value_that_the_first_rows_lack_is_written_to_parquet(adata, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "AT_ONCE", 7)
    adata.obs["late"] = [None] * 20 + ["T"] * 30
    adata.obs["mixed"] = [None] * 20 + [True, 1, "x"] * 10
    adata.obs["never"] = pd.Categorical([None] * 50)
    adata.obs["number"] = [np.nan] * 20 + [1.5] * 30

    table = pd.read_parquet(write_table(adata, tmp_path / "cells.parquet"))

    assert table["late"].isna().tolist() == table["number"].isna().tolist() == [True] * 20 + [False] * 30
    assert table["mixed"].tolist()[20:23] == ["True", "1", "x"]
    assert table["never"].isna().all()
    assert table["number"].dtype == np.float64
