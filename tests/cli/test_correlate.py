import json

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData


@pytest.fixture
def result(tmp_path):
    """Return a result folder of 600 cells, with analyses of another tool in its AnnData."""
    rng = np.random.default_rng(0)
    x = rng.gamma(3, 50, (600, 3)).astype(np.float32)
    z = np.log1p(x) @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(600, 6))
    adata = AnnData(
        x,
        obs=pd.DataFrame({"slide": pd.Categorical(["S01"] * 600), "mine": 7}, index=[f"S01_{i}" for i in range(600)]),
        var=pd.DataFrame({"kept": 1}, index=["DAPI", "CD3e", "CD20"]),
        obsm={"X_splicer": z.astype(np.float32), "spatial": rng.uniform(0, 400, (600, 2))},
        layers={"raw": x + 1},
        uns={"mine": {"nested": np.arange(3)}, "mxsplicer": {"patch_size_um": 8.0}},
    )
    (tmp_path / "slide.mxs").mkdir()
    adata.write_h5ad(tmp_path / "slide.mxs" / "cells.h5ad")
    return tmp_path / "slide.mxs"


def read(result):
    return anndata.read_h5ad(result / "cells.h5ad")


def test_correlations_are_added_to_the_file_and_the_rest_stays(command, result):
    outcome = command("correlate", "slide.mxs")

    assert outcome.code == 0
    assert outcome.written == ["slide.mxs/cells.h5ad"]
    cells = read(result)
    assert {"splicer_correlation", "splicer_spearman", "splicer_partial_correlation"} < set(cells.varm)
    assert (cells.var["splicer_r2_mean"] > 0.8).all()
    assert (cells.obs["mine"] == 7).all()
    assert (cells.var["kept"] == 1).all()
    np.testing.assert_array_equal(cells.uns["mine"]["nested"], np.arange(3))
    np.testing.assert_array_equal(cells.layers["raw"], cells.X + 1)
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["DAPI", "CD3e", "CD20"]
    assert max(len(line.rstrip()) for line in lines[1:5]) <= 80
    assert "…" not in outcome.out


def test_existing_correlations_are_shown_and_not_computed_again(command, result):
    command("correlate", result / "cells.h5ad")

    outcome = command("correlate", "slide.mxs", "--json", "--top", 2)

    assert outcome.written == []
    facts = json.loads(outcome.out)
    assert [one["marker"] for one in facts["markers"]] == ["DAPI", "CD3e", "CD20"]
    assert [len(one["partners"]) for one in facts["markers"]] == [2, 2, 2]
    first = facts["markers"][1]["partners"][0]
    assert first["r"] == pytest.approx(read(result).varm["splicer_correlation"][1, first["feature"]])
    assert facts["given"] == ["DAPI"]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [(["--seed", 1], "seed was 0, now 1"), (["--covariate", "CD20"], "covariate was DAPI, now CD20")],
)
def test_other_correlations_are_replaced_only_on_demand(command, result, other, sentence):
    command("correlate", "slide.mxs")

    refused = command("correlate", "slide.mxs", *other)
    replaced = command("correlate", "slide.mxs", *other, "--overwrite")

    assert (refused.code, refused.written) == (2, [])
    assert f"({sentence}). Pass --overwrite" in refused.err.replace("\n", " ")
    assert (replaced.code, replaced.written) == (0, ["slide.mxs/cells.h5ad"])


def test_a_local_correlation_is_added_on_request(command, result):
    outcome = command("correlate", "slide.mxs", "--local", "CD3e=4", "--local", "2", "--scale", "region")

    cells = read(result)
    assert outcome.code == 0
    assert cells.obs["local_CD3e_4_region"].notna().all()
    assert np.isfinite(cells.layers["local_2_region"]).all()
    np.testing.assert_array_equal(cells.layers["raw"], cells.X + 1)


def test_features_are_shown_and_given_by_their_names(command, result):
    cells = read(result)
    kinds = ("level", "rim")
    cells.uns["mxsplicer"]["features"] = np.array([f"{marker} {kind}" for kind in kinds for marker in cells.var_names])
    cells.write_h5ad(result / "cells.h5ad")

    shown = command("correlate", "slide.mxs", "--local", "CD3e=CD20 rim", "--local", "DAPI level", "--local", "CD20=4")

    assert shown.code == 0
    of_cd3e = read(result).varm["splicer_correlation"][1]
    best = cells.uns["mxsplicer"]["features"][np.abs(of_cd3e).argmax()]
    (line,) = [line for line in shown.out.splitlines() if line.startswith("CD3e ")]
    assert f" {best:<10} {np.abs(of_cd3e).max():+.2f}" in line.replace("-", "+")
    facts = json.loads(command("correlate", "slide.mxs", "--json").out)
    assert facts["markers"][1]["partners"][0]["name"] == best
    written = read(result)
    assert {"local_CD3e_CD20_rim_neighbourhood", "local_CD20_CD3e_rim_neighbourhood"} < set(written.obs)
    assert "local_DAPI_level_neighbourhood" in written.layers


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--local", "CD3e"], "feature 'CD3e' was not found; the 6 features are 'feature 0' to 'feature 5'"),
        (["--local", "=4"], "--local '=4' is neither MARKER=FEATURE nor FEATURE"),
        (["--local", "CD3e="], "--local 'CD3e=' is neither MARKER=FEATURE nor FEATURE"),
        (["--local", "CD3e=99"], "feature 99 was not found; the 6 features are counted from 0"),
        (["--use-rep", "X_joint"], "representation 'X_joint' was not found"),
        (["--covariate", "CD4"], "marker 'CD4' was not found"),
    ],
)
def test_a_mistake_is_reported_and_nothing_is_written(command, result, arguments, sentence):
    outcome = command("correlate", "slide.mxs", *arguments)

    assert (outcome.code, outcome.written) == (2, [])
    assert sentence in outcome.err.replace("\n", " ")
