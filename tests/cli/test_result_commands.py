"""What is done with a finished result on the command line: cluster, export, report, verify."""

import json
import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from mxsplicer.pipeline import Options, embed_slides
from mxsplicer.slides.simulation import simulate_slide
from mxsplicer.splicer.recipe import Recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder of a small slide and its result."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    simulated = simulate_slide(folder / "S01.ome.tiff", size_px=320, seed=1)
    options = Options(patch_size_um=8.0, recipe=Recipe(epochs=1, encoder_width=8, component_width=2, chunk_width=8))
    embed_slides(simulated.image, folder / "S01.mxs", options=options, device="cpu")
    return folder


@pytest.fixture
def result(made, tmp_path):
    """Return a copy of the result in ``tmp_path``; its slide stays where it was."""
    shutil.copytree(made / "S01.mxs", tmp_path / "S01.mxs")
    return tmp_path / "S01.mxs"


def test_clusters_are_made_anew_in_place_and_named(command, result):
    before = anndata.read_h5ad(result / "cells.h5ad")

    done = command("cluster", result, "--resolution", 0.2, "--n-neighbors", 10)

    after = anndata.read_h5ad(result / "cells.h5ad")
    assert done.code == 0
    assert done.written == ["S01.mxs/cells.h5ad"]
    assert after.uns["mxsplicer_cluster"]["resolution"] == 0.2
    assert after.obs["leiden"].nunique() < before.obs["leiden"].nunique()
    assert set(after.obs["leiden_name"].str.split(":").str[0]) == set(after.obs["leiden"])
    np.testing.assert_array_equal(after.obsm["X_splicer"], before.obsm["X_splicer"])
    assert f"{after.n_obs:,}"[:1].isdigit()
    assert " cells  " in done.out


def test_a_result_that_agrees_with_its_inputs_is_said_to(command, result):
    done = command("verify", result)

    assert (done.code, done.written) == (0, [])
    assert done.out.count("ok   ") == 6
    assert "to the last digit" in done.out


def test_changed_features_weights_or_pixels_are_found(command, result, made):
    with h5py.File(result / "cells.h5ad", "r+") as file:
        file["obsm/X_splicer"][:] += np.float32(0.1)
    weights = result / "run" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    index = json.loads((result / "mxsplicer.json").read_text())
    index["slides"][0]["mask"] = "elsewhere.tif"
    (result / "mxsplicer.json").write_text(json.dumps(index))

    done = command("verify", result / "cells.h5ad", "--json")

    assert done.code == 1
    found = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert not found["weights"]["agrees"]
    assert "elsewhere.tif is gone" in found["mask of S01"]["said"]
    assert found["image of S01"]["agrees"]
    index["slides"][0]["mask"] = "mask.zarr"
    (result / "mxsplicer.json").write_text(json.dumps(index))
    said = command("verify", result).out
    assert "WRONG  features of 64 cells of S01: 64 differ" in said
    assert "ok     intensities of 64 cells" in said


def test_a_result_is_exported_in_every_format_at_once(command, result):
    done = command(
        "export", result, "--csv", "c.csv", "--geojson", "q.geojson", "--labels-zarr", "l.ome.zarr", "--features"
    )

    assert done.code == 0
    table = pd.read_csv(result.parent / "c.csv")
    cells = anndata.read_h5ad(result / "cells.h5ad")
    features = json.loads((result.parent / "q.geojson").read_text())["features"]
    assert len(table) == len(features) == cells.n_obs
    np.testing.assert_allclose(table["splicer_0"], cells.obsm["X_splicer"][:, 0], rtol=1e-5)
    assert (result.parent / "l.ome.zarr" / "labels" / "leiden" / "0").is_dir()
    again = command("export", result, "--csv", "c.csv")
    assert (again.code, again.written) == (2, [])
    assert "--overwrite" in again.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "S01.mxs"), "nothing is to be exported"),
        (("export", "nowhere.mxs", "--csv", "c.csv"), "no finished result"),
        (("cluster", "nowhere.mxs"), "neither a finished result nor an .h5ad file"),
        (("cluster", "S01.mxs", "--use-rep", "X_pca"), "no representation 'X_pca'"),
        (("cluster", "S01.mxs", "--backend", "rapids"), "needs rapids-singlecell"),
        (("verify", "nowhere.mxs"), "neither a finished result nor an .h5ad file"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(command, result, arguments, said):
    done = command(*arguments)

    assert (done.code, done.written) == (2, [])
    assert said in " ".join(done.err.split())
