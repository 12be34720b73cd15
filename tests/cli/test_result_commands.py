"""What is done with a finished result on the command line: cluster, export, report, verify."""

import base64
import json
import shutil
import zlib

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr

import mxsplicer
from mxsplicer.result.options import Options
from mxsplicer.result.pipeline import embed_slides
from mxsplicer.simulation import simulate_slide
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.tl import feature_names
from mxsplicer.tl.labels import obs_name


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


def test_clusters_are_computed_again_in_place_and_named(command, result):
    before = anndata.read_h5ad(result / "cells.h5ad")

    done = command("cluster", result, "--resolution", 0.2, "--n-neighbors", 10)

    after = anndata.read_h5ad(result / "cells.h5ad")
    assert done.code == 0
    assert done.written == ["S01.mxs/cells.h5ad"]
    assert after.uns["mxsplicer_cluster"]["resolution"] == 0.2
    assert after.obs["leiden"].nunique() < before.obs["leiden"].nunique()
    assert set(after.obs["leiden_name"].str.split(":").str[0]) == set(after.obs["leiden"])
    np.testing.assert_array_equal(after.obsm["X_splicer"], before.obsm["X_splicer"])
    largest = after.obs["leiden_name"].value_counts().iloc[0]
    assert done.out.splitlines()[0].split()[:3] == ["0", f"{largest:,}", "cells"]
    table = after.uns["mxsplicer_clusters"]
    assert table["count"].to_dict() == after.obs["leiden"].value_counts().to_dict()
    assert all(verdict in done.out for verdict in table["verdict"])


def test_clusters_with_the_same_settings_are_not_computed_again(command, result):
    options = ("--resolution", 0.3)
    first = command("cluster", result, *options)
    second = command("cluster", result, *options)
    other = command("cluster", result, *options, "--seed", 1)

    assert (first.code, second.code, other.code) == (0, 0, 0)
    assert (first.written, second.written, other.written) == (["S01.mxs/cells.h5ad"], [], ["S01.mxs/cells.h5ad"])
    assert second.out.splitlines()[-1].endswith("cells.h5ad is complete")
    assert second.out.splitlines()[:-1] == first.out.splitlines()[:-1]


def test_a_result_that_agrees_with_its_inputs_is_verified(command, result):
    done = command("verify", result)

    assert (done.code, done.written) == (0, [])
    assert done.out.count("ok   ") == 7
    assert "to the last digit" in done.out


@pytest.mark.parametrize("change", ["sorted", "filtered"])
def test_cells_that_scanpy_sorted_or_filtered_are_found_and_the_copy_of_their_features_is_written_again(
    command, result, change
):
    adata = anndata.read_h5ad(result / "cells.h5ad")
    rows = np.argsort(adata.obs["area_um2"].to_numpy())
    adata[rows if change == "sorted" else np.sort(rows[10:])].copy().write_h5ad(result / "cells.h5ad")

    found = command("verify", result)
    clustered = command("cluster", result)
    done = command("verify", result)

    assert (found.code, clustered.code, done.code) == (1, 0, 0)
    assert "WRONG  features.zarr: " in found.out
    assert "Viewers read cells.h5ad instead" in found.out
    changed = anndata.read_h5ad(result / "cells.h5ad")
    features = mxsplicer.open_features(result, changed.obs_names)
    np.testing.assert_array_equal(features[:].T, changed.obsm["X_splicer"])


def test_clusters_of_scanpy_are_exported_under_names_of_their_own_and_clustered_again_on_request(command, result):
    adata = anndata.read_h5ad(result / "cells.h5ad")
    place = pd.cut(adata.obs["x_px"], 5, labels=[*"01234"])
    adata.obs["leiden"] = place
    adata.write_h5ad(result / "cells.h5ad")

    exported = command("export", result, "--geojson", "q.geojson")
    clustered = command("cluster", result)

    features = json.loads((result.parent / "q.geojson").read_text())["features"]
    classes = {one["properties"]["name"]: one["properties"]["classification"]["name"] for one in features}
    assert (exported.code, clustered.code) == (0, 0)
    assert {name.split(":")[0] for name in classes.values()} == set("01234")
    assert all(classes[name].startswith(f"{cluster}: ") for name, cluster in place.items())
    assert clustered.written == ["S01.mxs/cells.h5ad"]


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
    assert "elsewhere.tif is missing" in found["mask of S01"]["detail"]
    assert found["image of S01"]["agrees"]
    index["slides"][0]["mask"] = "mask.zarr"
    (result / "mxsplicer.json").write_text(json.dumps(index))
    output = command("verify", result).out
    assert "WRONG  features of 64 cells of S01: 64 differ" in output
    assert "ok     intensities of 64 cells" in output


def test_a_result_is_exported_in_every_format_at_once(command, result):
    done = command(
        "export", result, "--csv", "c.csv", "--geojson", "q.geojson", "--labels-zarr", "l.ome.zarr", "--features"
    )

    assert done.code == 0
    table = pd.read_csv(result.parent / "c.csv")
    cells = anndata.read_h5ad(result / "cells.h5ad")
    features = json.loads((result.parent / "q.geojson").read_text())["features"]
    assert len(table) == len(features) == cells.n_obs
    np.testing.assert_allclose(table[f"splicer_{feature_names(cells)[0]}"], cells.obsm["X_splicer"][:, 0], rtol=1e-5)
    assert (result.parent / "l.ome.zarr" / "labels" / "leiden" / "0").is_dir()
    again = command("export", result, "--csv", "c.csv", "--features")
    other = command("export", result, "--csv", "c.csv")
    assert (again.code, again.written, again.out) == (0, [], "c.csv is complete\n")
    assert (other.code, other.written) == (2, [])
    assert "c.csv exists and was made from something else (other features)" in " ".join(other.err.split())
    assert "--overwrite" in other.err


@pytest.fixture
def left(tmp_path, result):
    """Draw an outline around the left half of the slide; return its file and the names of the cells in it."""
    ring = [[0, 0], [160, 0], [160, 320], [0, 320], [0, 0]]
    annotation = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    (tmp_path / "left.geojson").write_text(json.dumps(annotation))
    (tmp_path / "below.geojson").write_text(json.dumps(annotation).replace("160", "-160"))
    obs = anndata.read_h5ad(result / "cells.h5ad").obs
    return set(obs.index[np.floor(obs["x_px"] + 0.5) < 160])


def test_every_export_can_be_restricted_to_outlines(command, result, left):
    done = command(
        "export", result, "--roi", "left.geojson", "--csv", "c.csv", "--geojson", "q.geojson", "--labels-zarr", "l.zarr"
    )

    assert done.code == 0
    assert set("S01_" + pd.read_csv(result.parent / "c.csv")["CellID"].astype(str)) == left
    assert len(json.loads((result.parent / "q.geojson").read_text())["features"]) == len(left)
    labels = zarr.open_array(result.parent / "l.zarr" / "labels" / "cells" / "0", mode="r")[:]
    assert {f"S01_{cell}" for cell in np.unique(labels[labels > 0])} == left


def test_a_web_page_is_exported_and_refers_to_the_rows_of_all_cells(command, result, left):
    done = command("export", result, "--web", "page")
    inside = command("export", result, "--web", "inside", "--roi", "left.geojson")
    again = command("export", result, "--web", "page")
    other = command("export", result, "--web", "page", "--web-megapixels", 0.01)

    names = anndata.read_h5ad(result / "cells.h5ad").obs_names
    assert (done.code, done.out, inside.code) == (0, "page/index.html\n", 0)
    text = (result.parent / "inside" / "data" / "rows.js").read_text()
    rows = np.frombuffer(zlib.decompress(base64.b64decode(text.split('"')[3])), "<u4")
    assert set(names[rows]) == left
    assert not (result.parent / "page" / "data" / "rows.js").exists()
    assert (again.code, again.written, again.out) == (0, [], "page is complete\n")
    assert (other.code, other.written) == (2, [])
    assert "page exists and was made from something else (other web-megapixels)" in " ".join(other.err.split())
    link = '<p id="web-page"><a href="../page/index.html">'
    assert link in (result / "report.html").read_text()
    command("report", result, "--overwrite")
    assert link in (result / "report.html").read_text()
    shutil.rmtree(result.parent / "page")
    command("report", result, "--overwrite")
    assert '<p id="web-page"></p>' in (result / "report.html").read_text()


def test_clusters_can_be_restricted_to_outlines(command, result, left):
    done = command("cluster", result, "--roi", "left.geojson", "--resolution", 0.3)

    after = anndata.read_h5ad(result / "cells.h5ad")
    assert done.code == 0
    assert set(after.obs_names[after.obs["leiden"].notna()]) == left
    assert set(after.obs_names[np.isfinite(after.obsm["X_umap"][:, 0])]) == left
    assert after.uns["mxsplicer"]["ledger"]["S01"]["kept"] == after.n_obs
    again = command("report", result, "--overwrite")  # of all cells, half of which have no place in the UMAP
    assert (again.code, again.written) == (0, ["S01.mxs/.report.html.made_from.json", "S01.mxs/report.html"])
    once_more = command("report", result)
    assert (once_more.code, once_more.written, once_more.out) == (0, [], f"{result / 'report.html'} is complete\n")


def test_correlations_inside_outlines_are_stored_next_to_those_of_all_cells(command, result, left):
    before = anndata.read_h5ad(result / "cells.h5ad")

    done = command("correlate", result, "--roi", "left.geojson", "--local", "3", "--json")

    after = anndata.read_h5ad(result / "cells.h5ad")
    inside = after.obs_names.isin(left)
    assert done.code == 0
    assert json.loads(done.out)["n_cells"] == len(left)
    np.testing.assert_array_equal(after.varm["splicer_correlation"], before.varm["splicer_correlation"])
    r = np.corrcoef(after.X[inside, 2], after.obsm["X_splicer"][inside, 5])[0, 1]
    np.testing.assert_allclose(after.varm["left_correlation"][2, 5], r, atol=1e-5)
    local = after.layers[f"local_{obs_name(feature_names(before)[3])}_neighbourhood"]
    assert local.shape == after.shape
    assert np.isnan(local[~inside]).all()
    assert np.isfinite(local[inside]).any()


def test_the_report_that_embed_wrote_is_complete_until_the_cells_change(command, result):
    complete = command("report", result)
    (result / "cells.h5ad").touch()
    refused = command("report", result)

    assert (complete.code, complete.written) == (0, [])
    assert complete.out == f"{result / 'report.html'} is complete\n"
    assert refused.code == 2
    assert "report.html exists" in refused.err


def test_a_report_can_be_restricted_to_outlines(command, result, left):
    done = command("report", result, "--roi", "left.geojson")

    assert (done.code, done.written) == (0, ["S01.mxs/.report_left.html.made_from.json", "S01.mxs/report_left.html"])
    text = (result / "report_left.html").read_text()
    assert "outside the regions" in text
    assert "left.geojson" in text
    assert f"<dd>{len(left):,}</dd>" in text
    assert "The outcomes add up" in text


def test_scores_can_be_restricted_to_outlines(command, result, left):
    labels = pd.DataFrame({"cell_id": range(1000), "kind": ["odd" if one % 2 else "even" for one in range(1000)]})
    labels.to_csv(result.parent / "kinds.csv", index=False)

    done = command("evaluate", result, "--labels", "kinds.csv", "--roi", "left.geojson", "--guard-um", 0, "--json")

    answer = json.loads(done.out)
    assert done.code == 0
    assert answer["scores"][0]["n_labelled"] == len(left)
    assert f"Only the {len(left)} cells in the outlines of left.geojson are used." in answer["notes"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "--csv", "c.csv"),
        ("cluster",),
        ("correlate",),
        ("report",),
        ("evaluate", "--score", "leiden"),
    ],
)
def test_outlines_without_a_cell_are_refused_everywhere(command, result, left, arguments):
    done = command(arguments[0], result, *arguments[1:], "--roi", "below.geojson")

    assert (done.code, done.written) == (2, [])
    assert "lies in an outline of below.geojson" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("export", "S01.mxs"), "Nothing to export"),
        (("export", "S01.mxs", "--web", "page", "--web-megapixels", "0"), "--web-megapixels is 0"),
        (("export", "nowhere.mxs", "--csv", "c.csv"), "RESULT nowhere.mxs not found"),
        (("cluster", "nowhere.mxs"), "RESULT nowhere.mxs not found"),
        (("cluster", "S01.mxs", "--use-rep", "X_pca"), "representation 'X_pca' was not found"),
        (("cluster", "S01.mxs", "--backend", "rapids"), "needs rapids-singlecell"),
        (("verify", "S01.mx"), "RESULT S01.mx not found. Did you mean S01.mxs?"),
    ],
)
def test_an_impossible_command_is_answered_in_a_sentence(command, result, arguments, sentence):
    done = command(*arguments)

    assert (done.code, done.written) == (2, [])
    assert sentence in " ".join(done.err.split())
