"""`mxsplicer annotate`: classifiers are trained on a table of names, saved, and applied to results."""

import json

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

KINDS = ("B cell", "T cell", "tumour")


def write(path, *, seed=0, model="f00d", ids=True, features=True, n=600):
    """Write cells of three types as an .h5ad file, and return them."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    z = rng.normal(size=(n, 12)).astype(np.float32)
    z[:, :3] += 6 * np.eye(3)[kind]
    obs = pd.DataFrame(
        {"cell_id": np.arange(1, n + 1), "slide": pd.Categorical(["S1"] * n), "kind": np.array(KINDS)[kind]},
        index=[f"S1_{i}" for i in range(1, n + 1)],
    )
    uns = {"mxsplicer": {"fingerprints": {"weights": model}, "features": np.array([f"f{i}" for i in range(12)])}}
    if not ids:
        obs, uns = obs[["kind"]].set_axis([str(i) for i in range(1, n + 1)]), {}
    adata = AnnData(np.ones((n, 1), np.float32), obs=obs, uns=uns, obsm={"X_splicer": z} if features else {})
    adata.write_h5ad(path)
    return adata


@pytest.fixture
def cells(tmp_path):
    """Write ``a.h5ad``, and names of 20 cells of two of its three types."""
    adata = write(tmp_path / "a.h5ad")
    named = adata.obs[adata.obs["kind"] != "T cell"].groupby("kind", observed=True).head(20)
    named[["slide", "cell_id", "kind"]].rename(columns={"kind": "name"}).to_csv(tmp_path / "names.csv", index=False)
    return adata


def test_a_classifier_is_trained_saved_and_applied_to_another_result(command, cells, tmp_path):
    other = write(tmp_path / "b.h5ad", seed=1)

    trained = command("annotate", "a.h5ad", "--names", "names.csv", "--save", "classifier.json")
    applied = command("annotate", "b.h5ad", "--apply", "classifier.json")

    assert (trained.code, applied.code) == (0, 0), trained.err + applied.err
    assert set(trained.written) == {"a.h5ad", "classifier.json"}
    assert applied.written == ["b.h5ad"]
    found = anndata.read_h5ad(tmp_path / "b.h5ad")
    truth = np.where(other.obs["kind"] == "T cell", "unknown", other.obs["kind"])
    assert (found.obs["predicted"].astype(str) == truth).mean() > 0.9
    assert found.obs["predicted_confidence"].between(0, 1).all()
    np.testing.assert_array_equal(found.obsm["X_splicer"], other.obsm["X_splicer"])
    count = int((found.obs["predicted"] == "unknown").sum())
    assert f"b.h5ad: 600 cells, {100 * count / 600:.1f} % unknown" in applied.out
    assert f"{count:,}" in next(line for line in applied.out.splitlines() if line.strip().startswith("unknown"))
    assert "among the named classes" in applied.out
    assert found.uns["mxsplicer_annotation"]["predicted"]["trained_on"] == {"B cell": 20, "tumour": 20}


def test_the_same_command_is_complete_and_another_classifier_overwrites_nothing(command, cells, tmp_path):
    command("annotate", "a.h5ad", "--names", "names.csv", "--save", "one.json")

    again = command("annotate", "a.h5ad", "--apply", "one.json")

    assert (again.code, again.written) == (0, [])
    assert "a.h5ad is complete" in again.out
    changed = pd.read_csv(tmp_path / "names.csv").replace("tumour", "vessel")
    changed.to_csv(tmp_path / "changed.csv", index=False)
    refused = command("annotate", "a.h5ad", "--names", "changed.csv", "--save", "two.json")
    assert (refused.code, refused.written) == (2, [])
    assert "'predicted'" in refused.err
    assert "--overwrite" in refused.err
    assert command("annotate", "a.h5ad", "--names", "changed.csv", "--overwrite").written == ["a.h5ad"]
    assert command("annotate", "a.h5ad", "--names", "names.csv", "--key-added", "second").written == ["a.h5ad"]


def test_several_results_are_annotated_or_none(command, cells, tmp_path):
    write(tmp_path / "b.h5ad", seed=1)
    write(tmp_path / "c.h5ad", seed=2, model="beef")
    command("annotate", "a.h5ad", "--names", "names.csv", "--save", "classifier.json")

    refused = command("annotate", "b.h5ad", "c.h5ad", "--apply", "classifier.json")

    assert (refused.code, refused.written) == (2, [])
    assert "another model (weights beef)" in refused.err
    done = command("annotate", "a.h5ad", "b.h5ad", "--apply", "classifier.json", "--json")
    assert done.written == ["b.h5ad"]
    assert set(json.loads(done.out)["results"]) == {"a.h5ad", "b.h5ad"}


def test_cells_with_ids_in_the_index_only_are_named_and_annotated(command, tmp_path):
    adata = write(tmp_path / "squidpy.h5ad", ids=False)
    named = adata.obs.groupby("kind", observed=True).head(20)
    pd.DataFrame({"cell_id": named.index, "name": named["kind"]}).to_csv(tmp_path / "names.csv", index=False)

    done = command("annotate", "squidpy.h5ad", "--names", "names.csv")

    assert done.code == 0, done.err
    assert "obs has no cell_id, so cells are matched by their names in the index" in " ".join(done.err.split())
    found = anndata.read_h5ad(tmp_path / "squidpy.h5ad")
    assert (found.obs["predicted"].astype(str) == found.obs["kind"]).mean() > 0.9


def test_a_column_of_obs_trains(command, cells):
    done = command("annotate", "a.h5ad", "--names", "kind", "--key-added", "again")

    assert done.code == 0
    assert "a.h5ad: 600 cells" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--apply FILE.json or --names TABLE"),
        (["--apply", "missing.json"], "missing.json not found"),
        (["--apply", "names.csv"], "not a classifier"),
        (["--names", "nothing.csv"], "neither a file nor a column of obs"),
        (["--names", "two.csv"], "--column"),
        (["--names", "few.csv"], "needs a name with three cells"),
        (["--apply", "names.csv", "--save", "x.json"], "--save is for"),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(command, cells, tmp_path, arguments, message):
    table = pd.read_csv(tmp_path / "names.csv")
    table.rename(columns={"name": "first"}).assign(second="a").to_csv(tmp_path / "two.csv", index=False)
    table.head(2).to_csv(tmp_path / "few.csv", index=False)

    failed = command("annotate", "a.h5ad", *arguments)

    assert (failed.code, failed.written) == (2, [])
    assert message in " ".join(failed.err.split())


def test_a_result_without_features_is_refused(command, cells, tmp_path):
    command("annotate", "a.h5ad", "--names", "names.csv", "--save", "classifier.json")
    write(tmp_path / "bare.h5ad", features=False)

    failed = command("annotate", "bare.h5ad", "--apply", "classifier.json")

    assert failed.code == 2
    assert "'X_splicer' was not found" in failed.err
    with h5py.File(tmp_path / "bare.h5ad") as file:
        assert "predicted" not in file["obs"]
