"""Slides embedded one by one become one result; appending a slide leaves the existing rows as they are."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from typer.testing import CliRunner

from mxsplicer.cli import app
from mxsplicer.embedding.h5ad import join_cells, split_cells, write_obs
from mxsplicer.errors import InputError
from mxsplicer.images.opening import open_slide
from mxsplicer.result import analysis, pipeline
from mxsplicer.result.folder import open_result
from mxsplicer.result.merging import append_slides, merge_results
from mxsplicer.result.options import Options
from mxsplicer.result.outcomes import Outcome
from mxsplicer.result.pipeline import embed_slides
from mxsplicer.result.status import status_of
from mxsplicer.result.verification import verify
from mxsplicer.simulation import simulate_slide
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.tl.transfer import transfer_clusters

NAMES = ("S1", "S2", "S3", "S4")
SMALL = Recipe(epochs=1, batch_size=64, encoder_width=4, component_width=2, chunk_width=4)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Return a folder of slides, one of them broken, with the table of the first three and the broken one."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study")
    for number, name in enumerate(NAMES, start=1):
        simulate_slide(folder / f"{name}.ome.tiff", size_px=256, slide_number=number)
    (folder / "broken.ome.tiff").write_bytes((folder / "S1.ome.tiff").read_bytes()[:3000])
    rows = [
        {"slide": n, "path": f"{n}.ome.tiff", "mask": f"{n}_mask.ome.tiff", "patient": f"P{n}", "batch": n > "S1"}
        for n in (*NAMES[:3], "broken")
    ]
    table = pd.DataFrame(rows)
    table["labels"] = ["S1_truth.csv", "", "S3_truth.csv", ""]
    table.to_csv(folder / "samples.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def cohort(study):
    options = Options(
        cohort=study / "samples.csv",
        patch_size_um=8,
        recipe=SMALL,
        baselines=False,
        training_cells=90,
        label=("region",),
    )
    return embed_slides(out=study / "cohort.mxs", options=options, device="cpu")


def one_by_one(study, cohort, names):
    for name in names:
        yield embed_slides(
            study / f"{name}.ome.tiff",
            study / f"{name}.mxs",
            options=Options(masks=(study / f"{name}_mask.ome.tiff",), model=cohort.path, only_cells=True),
            device="cpu",
        )


def test_a_broken_slide_is_recorded_and_the_others_finish(study, cohort):
    adata = anndata.read_h5ad(cohort.cells)

    assert list(adata.obs["slide"].cat.categories) == ["S1", "S2", "S3"]
    assert set(cohort.failed) == {"broken"}
    assert cohort.failed["broken"].startswith("opening: ")
    assert set(adata.uns["mxsplicer"]["ledger"]) == {"S1", "S2", "S3"}
    assert dict(zip(adata.obs["slide"], adata.obs["patient"], strict=True)) == {n: f"P{n}" for n in ("S1", "S2", "S3")}
    assert not {"path", "mask", "labels"} & set(adata.obs)
    of_s2 = adata.obs["slide"] == "S2"
    assert adata.obs["region"][of_s2].isna().all()
    assert adata.obs["region"][~of_s2].notna().all()
    page = cohort.report.read_text(encoding="utf-8")
    assert "Slides that failed" in page
    assert "1 of 4 slides failed and could not be included" in page
    assert all(f"{name}: " in page for name in ("S1", "S2", "S3"))


def test_every_slide_gives_equally_many_training_cells(cohort):
    stores = [zarr.open_group(cohort.patches_of(name), mode="r") for name in ("S1", "S2", "S3")]

    assert [store["patches"].shape[0] for store in stores] == [30, 30, 30]


def test_a_cohort_has_an_anndata_of_each_slide_too(cohort):
    adata = anndata.read_h5ad(cohort.cells)

    for name in ("S1", "S2", "S3"):
        own = anndata.read_h5ad(cohort.cells_of(name))
        same = adata[adata.obs["slide"] == name]
        np.testing.assert_array_equal(own.obsm["X_splicer"], same.obsm["X_splicer"])
        assert list(own.obs_names) == list(same.obs_names)
        assert list(own.obs["leiden"]) == list(same.obs["leiden"])


def test_the_status_is_done_failed_or_stale(study, cohort):
    status = status_of(cohort.path)
    assert {item.name: item.state for item in status.items} == {
        "S1": "done",
        "S2": "done",
        "S3": "done",
        "broken": "failed",
        "model": "done",
        "embedding": "done",
        "report": "done",
    }

    mask = study / "S2_mask.ome.tiff"
    before = mask.read_bytes()
    mask.write_bytes(before + b"more")
    try:
        changed = status_of(cohort.path)
    finally:
        mask.write_bytes(before)

    assert changed.state == "stale"
    assert {item.name for item in changed.items if item.state == "stale"} == {"S2"}


def test_an_interrupted_call_continues_without_the_slide_that_failed(study, cohort, tmp_path, monkeypatch):
    options = Options(cohort=study / "samples.csv", patch_size_um=8, recipe=SMALL, model=cohort.path)
    failing, interrupted = pipeline.embed_blocks, pipeline.join_blocks

    def one_fails(path, run, sources, *, on_failure, **how):
        failing(path, run, sources[1:], on_failure=on_failure, **how)
        on_failure(sources[0].name, ValueError("a tile is damaged"))

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "embed_blocks", one_fails)
        patched.setattr(pipeline, "join_blocks", interrupt)
        with pytest.raises(KeyboardInterrupt):
            embed_slides(out=tmp_path / "out", options=options, device="cpu")
    assert status_of(tmp_path / "out").state == "interrupted"
    monkeypatch.setattr(pipeline, "join_blocks", interrupted)
    monkeypatch.setattr(analysis, "interpret", lambda *_: None)
    monkeypatch.setattr(pipeline, "write_result_report", lambda path, **_: (path / "report.html").touch())

    again = embed_slides(out=tmp_path / "out", options=options, device="cpu")

    assert again.failed["S1"] == "embedding: ValueError: a tile is damaged"
    assert list(anndata.read_h5ad(again.cells).obs["slide"].cat.categories) == ["S2", "S3"]
    assert [one["name"] for one in open_result(again.path)["slides"]] == ["S2", "S3"]


def test_appending_a_slide_keeps_every_bit_of_the_existing_rows(study, cohort, tmp_path):
    path = tmp_path / "grown.mxs"
    shutil.copytree(cohort.path, path)
    before = anndata.read_h5ad(path / "cells.h5ad")

    grown = append_slides(
        [study / "S4.ome.tiff"], path, options=Options(masks=(study / "S4_mask.ome.tiff",)), device="cpu"
    )

    after = anndata.read_h5ad(grown.cells)
    n = before.n_obs
    assert list(after.obs_names[:n]) == list(before.obs_names)
    assert set(after.obs["slide"][n:]) == {"S4"}
    np.testing.assert_array_equal(after.X[:n], before.X)
    for key in before.obsm:
        np.testing.assert_array_equal(after.obsm[key][:n], before.obsm[key])
    for column in before.obs:
        assert list(after.obs[column][:n].astype(str)) == list(before.obs[column].astype(str)), column
    for key in before.varm:
        np.testing.assert_array_equal(after.varm[key], before.varm[key])
    new = after.obs[n:]
    assert new["leiden"].notna().all()
    assert set(new["leiden"]) <= set(before.obs["leiden"].cat.categories)
    assert new["leiden_confidence"].between(0, 1).all()
    assert after.obs["leiden_confidence"][:n].isna().all()
    assert [one["name"] for one in open_result(path)["slides"]] == ["S1", "S2", "S3", "S4"]
    np.testing.assert_array_equal(zarr.open_array(grown.features, mode="r")[...], after.obsm["X_splicer"].T)
    assert all(check.agrees for check in verify(path, n_cells=20, device="cpu").checks)
    assert "S4: " in grown.report.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="has a slide 'S4' already"):
        append_slides([study / "S4.ome.tiff"], path, device="cpu")


def test_a_column_of_numbers_becomes_text_with_a_word_in_a_later_slide_and_this_is_reported_before(
    study, cohort, tmp_path, caplog
):
    path = tmp_path / "grown.mxs"
    shutil.copytree(cohort.path, path)
    file = path / "cells.h5ad"
    n = anndata.read_h5ad(file).n_obs
    write_obs(file, {"age": np.full(n, 61), "dose": np.full(n, 0.5)})
    (study / "later.csv").write_text("slide,path,mask,patient,age,dose\nS4,S4.ome.tiff,S4_mask.ome.tiff,3b,unknown,1\n")

    append_slides([], path, options=Options(cohort=study / "later.csv"), device="cpu")

    reported = [record.getMessage() for record in caplog.records]
    at = next(i for i, one in enumerate(reported) if "column 'age' becomes text" in one and "unknown" in one)
    assert at < next(i for i, one in enumerate(reported) if one == "embedding")
    obs = anndata.read_h5ad(file).obs
    is_new = obs["slide"] == "S4"
    assert obs["age"].astype(str).groupby(is_new).unique().map(list).to_dict() == {False: ["61"], True: ["unknown"]}
    assert obs["dose"].groupby(is_new).unique().map(list).to_dict() == {False: [0.5], True: [1.0]}
    assert obs["patient"][is_new].unique().tolist() == ["3b"]


def test_slides_embedded_one_by_one_are_merged_to_the_same_numbers(study, cohort, tmp_path):
    parts = [one.path for one in one_by_one(study, cohort, ("S1", "S2", "S3"))]
    made = {"mxsplicer.json", "settings.json", "config.toml", "cells.h5ad", "log.txt"}
    assert {file.name for file in parts[0].iterdir()} == made

    outcome = tmp_path / "X" / "outcome.json"
    outcome.parent.mkdir()
    outcome.write_text(json.dumps(asdict(Outcome(failed="why"))))
    options = Options(cohort=study / "samples.csv", label=("region",))

    merged = merge_results([*parts, outcome], tmp_path / "merged", options=options)

    whole, adata = anndata.read_h5ad(cohort.cells), anndata.read_h5ad(merged.cells)
    np.testing.assert_array_equal(adata.obsm["X_splicer"], whole.obsm["X_splicer"])
    np.testing.assert_array_equal(adata.X, whole.X)
    assert list(adata.obs["leiden"]) == list(whole.obs["leiden"])
    assert list(adata.obs["region"].astype(str)) == list(whole.obs["region"].astype(str))
    assert merged.failed == {"X": "why"}
    assert json.loads(merged.settings.read_text())["slides"] == ["S1", "S2", "S3", "X"]
    written = {file: file.stat().st_mtime_ns for file in merged.path.rglob("*") if file.is_file()}
    merge_results(parts, merged.path, options=options, failed={"X": "why"})
    repeated = CliRunner().invoke(app, ["merge", "--config", str(merged.config)])
    assert (repeated.exit_code, "X  why" in repeated.output) == (1, True)  # the same slide failed
    assert {file: file.stat().st_mtime_ns for file in merged.path.rglob("*") if file.is_file()} == written
    with pytest.raises(InputError, match="was merged from something else"):
        merge_results(parts[:2], merged.path)
    with pytest.raises(InputError, match="slide 'S1' is in two of the results"):
        merge_results([parts[0], parts[0]], tmp_path / "twice")


def test_a_missing_marker_is_filled_on_request_and_reported(study, cohort, tmp_path):
    markers = open_slide(study / "S4.ome.tiff").markers
    asked = Options(masks=(study / "S4_mask.ome.tiff",), model=cohort.path, drop=(markers[5],), only_cells=True)
    with pytest.raises(InputError, match=f"the model needs markers that slide 'S4' lacks: {markers[5]}"):
        embed_slides(study / "S4.ome.tiff", tmp_path / "refused", options=asked, device="cpu")

    filled = embed_slides(
        study / "S4.ome.tiff", tmp_path / "filled", options=replace(asked, fill_missing=True), device="cpu"
    )

    adata = anndata.read_h5ad(filled.cells)
    assert list(adata.var_names) == list(markers)
    assert (adata.X[:, 5] == 0).all()
    assert set(adata.obs["missing_markers"]) == {markers[5]}
    assert list(adata.uns["mxsplicer"]["missing_markers"]["S4"]) == [markers[5]]
    assert np.isfinite(adata.obsm["X_splicer"]).all()
    assert all(check.agrees for check in verify(filled.path, n_cells=20, device="cpu").checks)


def test_different_panels_are_reported_and_the_shared_markers_trained_on(study, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "interpret", lambda *_: None)
    monkeypatch.setattr(pipeline, "write_result_report", lambda path, **_: (path / "report.html").touch())
    one, other = (open_slide(study / f"{name}.ome.tiff").markers for name in ("S1", "S2"))
    renamed = [*other[:3], "own", *other[4:]]
    pd.DataFrame({"channel_number": range(1, 20), "marker_name": renamed}).to_csv(tmp_path / "S2.csv", index=False)
    table = pd.DataFrame({"slide": ["S1", "S2"], "path": [f"{study}/{name}.ome.tiff" for name in ("S1", "S2")]})
    table["mask"] = [f"{study}/{name}_mask.ome.tiff" for name in ("S1", "S2")]
    table.assign(markers=["", "S2.csv"]).to_csv(tmp_path / "samples.csv", index=False)
    options = Options(cohort=tmp_path / "samples.csv", patch_size_um=8, recipe=SMALL, training_cells=64)

    with pytest.raises(InputError, match=r"18 markers are on all slides .* only on some are .*own \(1 of 2 slides\)"):
        embed_slides(out=tmp_path / "out", options=options, device="cpu")
    result = embed_slides(out=tmp_path / "out", options=replace(options, panel="shared"), device="cpu")

    assert list(anndata.read_h5ad(result.cells).var_names) == [marker for marker in one if marker != other[3]]
    assert all(entry["selected"] for entry in open_result(result.path)["slides"])
    assert all(check.agrees for check in verify(result.path, n_cells=10, device="cpu").checks)

    union = embed_slides(out=tmp_path / "union", options=replace(options, panel="union"), device="cpu")

    cells = anndata.read_h5ad(union.cells)
    assert list(cells.var_names) == [*one, "own"]
    lacks = {"S1": "own", "S2": other[3]}
    for slide, marker in lacks.items():
        here = cells[cells.obs["slide"] == slide]
        assert set(here.obs["missing_markers"]) == {marker}
        assert not here[:, marker].X.any()
    assert all(check.agrees for check in verify(union.path, n_cells=10, device="cpu").checks)


def test_files_of_other_markers_or_the_same_cells_are_not_joined(tmp_path):
    def written(name, markers, cells):
        adata = anndata.AnnData(np.ones((len(cells), len(markers)), np.float32))
        adata.var_names, adata.obs_names = markers, cells
        adata.obs["slide"] = pd.Categorical([name] * len(cells))
        (tmp_path / name).mkdir()
        adata.write_h5ad(tmp_path / name / "cells.h5ad")
        return tmp_path / name / "cells.h5ad"

    a, b, c = written("a", ["x", "y"], ["a_1"]), written("b", ["x", "z"], ["b_1"]), written("c", ["x", "y"], ["a_1"])

    with pytest.raises(InputError, match=r"a and b differ in their markers \(y, z\)"):
        join_cells([a, b], tmp_path / "ab.h5ad", uns={})
    with pytest.raises(InputError, match="two cells are called 'a_1'"):
        join_cells([a, c], tmp_path / "ac.h5ad", uns={})


def test_joined_cells_are_split_again_unchanged(tmp_path):
    rng = np.random.default_rng(0)
    files = {}
    for name, n in (("a", 5), ("b", 3)):
        adata = anndata.AnnData(rng.normal(size=(n, 2)).astype(np.float32), layers={"std": rng.normal(size=(n, 2))})
        adata.obs_names = [f"{name}_{i}" for i in range(n)]
        adata.obs["slide"] = pd.Categorical([name] * n)
        adata.obs["kind"] = pd.Categorical(list("xyxyx")[:n])
        adata.obsm["X_splicer"] = rng.normal(size=(n, 20)).astype(np.float32)
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        files[name] = adata

    joined = join_cells([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "all.h5ad", uns={"about": "all"})
    split_cells(joined, {name: tmp_path / "split" / f"{name}.h5ad" for name in files})

    for name, adata in files.items():
        again = anndata.read_h5ad(tmp_path / "split" / f"{name}.h5ad")
        np.testing.assert_array_equal(again.X, adata.X)
        np.testing.assert_array_equal(again.obsm["X_splicer"], adata.obsm["X_splicer"])
        np.testing.assert_array_equal(again.layers["std"], adata.layers["std"])
        assert list(again.obs["kind"]) == list(adata.obs["kind"])
        assert list(again.obs["slide"].cat.categories) == [name]
        assert again.uns["about"] == "all"


def test_a_cell_gets_the_cluster_of_its_neighbours_and_less_confidence_between_two():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(0, 0.1, (50, 4)), rng.normal(3, 0.1, (50, 4))]).astype(np.float32)
    adata = anndata.AnnData(np.zeros((100, 1), np.float32), obsm={"X_splicer": z, "X_umap": z[:, :2]})
    adata.obs["leiden"] = pd.Categorical(["0"] * 50 + ["1"] * 50)

    found = transfer_clusters(adata, np.array([[0] * 4, [3] * 4, [1.5] * 4], np.float32))

    assert list(found.clusters[:2]) == ["0", "1"]
    np.testing.assert_allclose(found.confidence[:2], 1)
    assert 0.5 <= found.confidence[2] < 0.9
    assert found.umap.shape == (3, 2)
    with pytest.raises(InputError, match="clusters 'types' were not found"):
        transfer_clusters(adata, z, key="types")
