"""Slides become a result folder: complete, resumable, and readable by other tools."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import zarr
from skimage.segmentation import expand_labels

from mxsplicer import report
from mxsplicer.embedding import h5ad
from mxsplicer.errors import InputError
from mxsplicer.images.markers import find_nuclear_marker
from mxsplicer.images.opening import open_slide
from mxsplicer.masks.files import open_mask
from mxsplicer.patches.store import PatchStore
from mxsplicer.result import analysis, cohort, pipeline
from mxsplicer.result import pipeline as stages
from mxsplicer.result.folder import open_result
from mxsplicer.result.options import Options
from mxsplicer.result.pipeline import embed_slides
from mxsplicer.result.planning import plan_slides
from mxsplicer.result.reporting import write_result_report
from mxsplicer.simulation import SimulatedSlide, simulate_slide
from mxsplicer.splicer import training
from mxsplicer.splicer.recipe import Recipe

SMALL = {
    "patch_size_um": 8.0,
    "recipe": Recipe(epochs=1, batch_size=64, encoder_width=8, component_width=2, chunk_width=8),
}


@pytest.fixture(autouse=True)
def one_thread():
    # UMAP's numba raises the number of OpenMP threads of the process, for which networks this small only wait.
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.set_num_threads(1)  # a fixture of the module comes before those of a test
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def simulated(folder) -> SimulatedSlide:
    return simulate_slide(folder / "S01.ome.tiff", size_px=320, seed=1)


@pytest.fixture(scope="module")
def options(simulated) -> Options:
    return Options(masks=(simulated.mask,), labels=simulated.truth, label=("lineage",), **SMALL)


@pytest.fixture(scope="module")
def result(folder, simulated, options):
    return embed_slides(simulated.image, folder / "S01.mxs", options=options, device="cpu")


@pytest.fixture(scope="module")
def adata(result):
    return anndata.read_h5ad(result.cells)


def files_of(path):
    return {str(file.relative_to(path)): file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


def test_a_result_holds_what_the_documents_promise(result):
    assert {path.name for path in result.path.iterdir()} == {
        "mxsplicer.json",
        "settings.json",
        "config.toml",
        "patches.zarr",
        "run",
        "baselines",
        "cells.h5ad",
        "features.zarr",
        "report.html",
        "log.txt",
    }
    assert {path.name for path in result.run.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "README.md",
        "log.jsonl",
    }
    assert "training" in result.log.read_text(encoding="utf-8")


def test_the_index_names_all_files(result, simulated):
    index = open_result(result.path)

    (slide,) = index["slides"]
    assert (slide["name"], slide["pixel_size_um"], slide["shape_px"]) == ("S01", 0.5, [320, 320])
    assert (slide["image"], slide["mask"]) == (str(simulated.image.resolve()), str(simulated.mask.resolve()))
    assert len(slide["markers"]) == 19
    assert set(slide["fingerprints"]) == {"image", "mask"}
    assert all((result.path / file).exists() for file in (*index["files"].values(), slide["patches"]))


def test_the_anndata_is_as_documented(adata, simulated):
    slide, mask = open_slide(simulated.image), open_mask(simulated.mask)[...]
    n = adata.n_obs
    kept = adata.uns["mxsplicer"]["ledger"]["S01"]["kept"]

    assert (adata.X.dtype, adata.shape) == (np.float32, (kept, 19))
    assert list(adata.var_names) == list(slide.markers)
    assert set(adata.obs["cell_id"]) <= set(np.unique(mask)) - {0}
    assert adata.obs["cell_id"].dtype == np.uint32
    assert list(adata.obs_names) == [f"S01_{cell}" for cell in adata.obs["cell_id"]]
    assert list(adata.obs["slide"].cat.categories) == ["S01"]
    for column in ("x_px", "y_px", "area_um2", "eccentricity", "major_axis_um", "minor_axis_um"):
        assert adata.obs[column].dtype == np.float64
    assert adata.obs["at_border"].dtype == bool
    assert adata.obs["patch_valid_fraction"].between(0, 1).all()
    assert adata.obs["lineage"].notna().all()
    n_features = len(adata.uns["mxsplicer"]["features"])
    assert 2 * 19 + 2 + 16 < n_features <= 5 * 19 + (38 + 10 + 10) + 2 + 16  # moments that vary, and learned
    for key in ("X_splicer", "X_untrained", "X_joint"):
        assert (adata.obsm[key].dtype, adata.obsm[key].shape) == (np.float32, (n, n_features))
    assert (adata.obsm["X_compartments"].shape, adata.obsm["X_blurred"].shape) == ((n, 19 * 5), (n, 19))
    np.testing.assert_allclose(adata.obsm["spatial"], adata.obs[["x_px", "y_px"]] * 0.5)
    assert adata.varm["splicer_correlation"].shape == (19, n_features)
    assert adata.uns["spatialdata_attrs"]["instance_key"] == "cell_id"
    assert set(adata.uns["mxsplicer"]) >= {
        "version",
        "versions",
        "settings",
        "fingerprints",
        "chunks",
        "ledger",
        "seconds",
        "method",
        "patch_size_um",
        "pixel_size_um",
    }
    chunks = adata.uns["mxsplicer"]["chunks"]
    assert chunks["share"].shape == (adata.obsm["X_splicer"].shape[1], len(chunks["component"]))
    varies = adata.obsm["X_splicer"].std(axis=0) > 0
    np.testing.assert_allclose(chunks["share"].sum(axis=1), varies, rtol=1e-5)
    one = adata.obs.iloc[n // 2]
    np.testing.assert_allclose(
        adata.X[n // 2], slide.image[...][:, mask == one["cell_id"]].mean(axis=1, dtype=float), rtol=1e-5
    )


def test_the_embedding_is_scored_together_with_its_baselines(adata):
    scores = pd.DataFrame(adata.uns["mxsplicer_probe"])

    assert set(scores["label"]) == {"lineage"}
    assert {
        "SpliCER",
        "joint",
        "untrained encoder",
        "compartment statistics",
        "moments of each compartment",
        "mean of the blurred image",
        "mean intensity",
    } <= set(scores["representation"])


def test_features_are_stored_feature_by_feature(result, adata):
    features = zarr.open_array(result.features, mode="r")

    np.testing.assert_array_equal(features[...], adata.obsm["X_splicer"].T)
    assert features.chunks == (1, adata.n_obs)


def test_a_finished_call_does_nothing_and_another_is_refused(result, simulated, options):
    before = files_of(result.path)

    embed_slides(simulated.image, result.path, options=options, device="cpu")
    with pytest.raises(InputError, match=r"exists and was made differently \(epochs was 1, now 2\)"):
        embed_slides(
            simulated.image,
            result.path,
            options=replace(options, recipe=replace(options.recipe, epochs=2)),
            device="cpu",
        )

    assert files_of(result.path) == before


def test_options_newer_than_a_result_count_as_their_defaults(result, simulated, options):
    text = result.settings.read_text(encoding="utf-8")
    older = json.loads(text)
    # Version 0.1.0 never recorded fold_by, so any value may continue there.
    for newer in ("deconstruction", "weights", "omit", "weight_decay", "fold_by"):
        del older["options"][newer]
    result.settings.write_text(json.dumps(older), encoding="utf-8")
    try:
        for repeated in (options, replace(options, groups="slide")):
            embed_slides(simulated.image, result.path, options=repeated, device="cpu")  # would be refused if different
        changed = replace(options, recipe=replace(options.recipe, weight_decay=0.5))
        with pytest.raises(InputError, match="weight-decay was"):
            embed_slides(simulated.image, result.path, options=changed, device="cpu")
    finally:
        result.settings.write_text(text, encoding="utf-8")


def test_a_table_that_was_edited_is_noticed(result, simulated, options):
    table = simulated.truth.read_text(encoding="utf-8")
    simulated.truth.write_text(table + "\n", encoding="utf-8")
    try:
        with pytest.raises(InputError, match="the content of `labels` changed"):
            embed_slides(simulated.image, result.path, options=options, device="cpu")
    finally:
        simulated.truth.write_text(table, encoding="utf-8")


def test_overwriting_never_deletes_the_input(result, simulated, options):
    other = replace(options, model=result.path)

    with pytest.raises(InputError, match="which `overwrite=True` would delete"):
        embed_slides(simulated.image, result.path, options=other, device="cpu", overwrite=True)

    assert result.cells.is_file()


def test_a_report_is_rewritten_from_the_result_alone(result):
    with pytest.raises(InputError, match="exists"):
        write_result_report(result.path)

    assert "S01" in write_result_report(result.path, overwrite=True).read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_scanpy_and_squidpy_work_on_the_output(adata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they warn of on import is theirs
        import scanpy as sc
        import squidpy as sq

        adata = adata.copy()
        sc.pp.neighbors(adata, use_rep="X_splicer")
        sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
        sc.tl.umap(adata)
        sq.gr.spatial_neighbors(adata, coord_type="generic")

    assert adata.obsm["X_umap"].shape == (adata.n_obs, 2)
    assert adata.obsp["spatial_connectivities"].nnz > 0


def test_an_interrupted_call_leaves_no_unfinished_file_and_continues(tmp_path, monkeypatch, result, simulated, options):
    out = tmp_path / "S01.mxs"
    # What each interruption finds complete; while cells.h5ad is completed in place, z exists in the blocks alone.
    steps = {
        (stages, "extract_patches"): [],
        (training, "train"): ["patches.zarr"],
        (pipeline, "join_blocks"): ["patches.zarr", "run"],
        (analysis, "complete_cells"): ["patches.zarr", "run", "embedded.h5ad"],
        (h5ad, "_update"): ["patches.zarr", "run"],
        (report, "write_report"): ["patches.zarr", "run", "cells.h5ad"],
        (pipeline, "write_records"): ["patches.zarr", "run", "cells.h5ad", "report.html"],
    }
    finals = ("patches.zarr", "run", "embedded.h5ad", "cells.h5ad", "report.html", "mxsplicer.json")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for (module, stage), complete in steps.items():
        with monkeypatch.context() as patched:
            patched.setattr(module, stage, interrupt)
            with pytest.raises(KeyboardInterrupt):
                embed_slides(simulated.image, out, options=options, device="cpu")
        assert [name for name in finals if (out / name).exists()] == complete
    before = files_of(out)
    again = embed_slides(simulated.image, out, options=options, device="cpu")

    assert not [name for name in files_of(out) if "partial" in name or "blocks" in name or name == "embedded.h5ad"]
    kept = {name: time for name, time in before.items() if name.startswith(("patches.zarr", "run/", "cells.h5ad"))}
    assert kept.items() <= files_of(out).items()
    whole, resumed = anndata.read_h5ad(result.cells), anndata.read_h5ad(again.cells)
    np.testing.assert_array_equal(resumed.obsm["X_splicer"], whole.obsm["X_splicer"])
    assert set(resumed.uns["mxsplicer"]["seconds"]) == set(whole.uns["mxsplicer"]["seconds"])


def test_a_model_embeds_a_slide_whose_channels_come_in_another_order(tmp_path, simulated, result, adata):
    slide = open_slide(simulated.image)
    order = np.random.default_rng(0).permutation(19)
    tifffile.imwrite(
        tmp_path / "S01.ome.tif",
        slide.image[...][order],
        photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": [slide.markers[i] for i in order]}},
    )

    applied = embed_slides(
        tmp_path / "S01.ome.tif",
        tmp_path / "applied",
        options=Options(masks=(simulated.mask,), model=result.path, pixel_size_um=0.5, patch_size_um=8),
        device="cpu",
    )

    assert not (applied.path / "patches.zarr").exists()
    assert not applied.run.exists()
    assert open_result(applied.path)["files"]["run"] == str(result.run.resolve())
    again = anndata.read_h5ad(applied.cells)
    assert list(again.var_names) == list(adata.var_names)
    np.testing.assert_array_equal(again[adata.obs_names].obsm["X_splicer"], adata.obsm["X_splicer"])


def test_a_slide_of_one_marker_is_embedded_scored_and_reported(tmp_path, simulated):
    pixels = open_slide(simulated.image).image[0]  # a picture (Y, X), whose marker is named by the table
    pixel = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "S01.ome.tif", pixels, photometric="minisblack", metadata={"axes": "YX", **pixel})
    (tmp_path / "markers.csv").write_text("marker_name\nDAPI\n", encoding="utf-8")
    given = Options(masks=(simulated.mask,), labels=simulated.truth, label=("lineage",), **SMALL)
    options = replace(given, markers=tmp_path / "markers.csv")

    result = embed_slides(tmp_path / "S01.ome.tif", options=options, out=tmp_path / "out", device="cpu")

    cells = anndata.read_h5ad(result.cells)
    assert list(cells.var_names) == ["DAPI"]
    assert cells.X.shape == (cells.n_obs, 1)
    assert np.isfinite(cells.obsm["X_splicer"]).all()
    assert np.abs(cells.varm["splicer_correlation"]).max() > 0.3
    assert {"SpliCER", "joint"} <= set(pd.DataFrame(cells.uns["mxsplicer_probe"])["representation"])
    assert "DAPI" in result.report.read_text(encoding="utf-8")


def test_options_on_names_measures_and_patches_apply_and_memory_changes_nothing(tmp_path, simulated, result, adata):
    slide = open_slide(simulated.image)
    image = np.concatenate([slide.image[...], slide.image[:1]])
    names = ["nuclei", *slide.markers[1:], "not wanted"]
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    tifffile.imwrite(tmp_path / "S01.ome.tif", image, photometric="minisblack", metadata=metadata)
    asked = Options(
        masks=(simulated.mask,),
        model=result.path,
        pixel_size_um=0.5,
        rename=(f"nuclei={slide.markers[0]}",),
        drop=("not wanted",),
        measure=("std",),
        keep_patches=True,
    )

    again = embed_slides(tmp_path / "S01.ome.tif", options=asked, out=tmp_path / "out", device="cpu", max_bytes=3 << 30)

    cells = anndata.read_h5ad(again.cells)
    np.testing.assert_array_equal(cells[adata.obs_names].obsm["X_splicer"], adata.obsm["X_splicer"])
    pixels = open_mask(simulated.mask)[...] == cells.obs["cell_id"].iloc[0]
    np.testing.assert_allclose(cells.layers["std"][0], slide.image[...][:, pixels].std(axis=1), rtol=1e-4)
    assert PatchStore.open(again.path / "patches.zarr").n_cells == adata.n_obs
    settings = json.loads(again.settings.read_text(encoding="utf-8"))["options"]
    assert (settings["drop"], settings["measure"], settings["keep_patches"]) == (["not wanted"], ["std"], True)
    assert "max_bytes" not in settings
    assert f'alt="{slide.markers[0]} on slide S01"' in write_result_report(again.path, overwrite=True).read_text()


def test_nuclei_are_measured_inside_their_cells_and_counted(tmp_path, simulated, result, adata):
    mask = open_mask(simulated.mask)[...]
    inner = np.where(expand_labels(mask == 0, 2), 0, mask)
    inner[:9, :9] = mask.max() + 1  # an id that no cell has
    tifffile.imwrite(tmp_path / "nuclei.tif", inner)
    asked = Options(masks=(simulated.mask,), nuclei=(tmp_path / "nuclei.tif",), measure=("nucleus",), model=result.path)

    again = embed_slides(simulated.image, options=asked, out=tmp_path / "out", device="cpu", executor="processes")

    cells = anndata.read_h5ad(again.cells)
    cell = cells.obs["cell_id"].iloc[0]
    pixels = (inner == cell) & (mask == cell)
    assert cells.obs["nucleus_area_um2"].iloc[0] == pytest.approx(pixels.sum() * 0.25)
    expected = open_slide(simulated.image).image[...][:, pixels].mean(axis=1)
    np.testing.assert_allclose(cells.layers["nucleus"][0], expected, rtol=1e-5)
    (ledger,) = cells.uns["mxsplicer"]["nuclei_ledger"].values()
    assert ledger["in nucleus mask"] == len(np.unique(inner)) - 1
    assert ledger["without a cell"] == 1
    np.testing.assert_array_equal(cells[adata.obs_names].obsm["X_splicer"], adata.obsm["X_splicer"])


@pytest.mark.parametrize("with_nuclei", [0, 1])
def test_areas_of_nuclei_are_kept_where_only_one_slide_of_a_cohort_has_nuclei(tmp_path, simulated, result, with_nuclei):
    nuclei = tmp_path / "nuclei.tif"
    tifffile.imwrite(nuclei, open_mask(simulated.mask)[...])
    table = pd.DataFrame(
        {"slide": ["A", "B"], "path": str(simulated.image), "mask": str(simulated.mask), "nuclei": "", "patient": "P"}
    )
    table.loc[with_nuclei, "nuclei"] = str(nuclei)
    table.to_csv(tmp_path / "cohort.csv", index=False)

    options = Options(cohort=tmp_path / "cohort.csv", model=result.path, only_cells=True)
    cells = anndata.read_h5ad(embed_slides([], tmp_path / "out", options=options, device="cpu").cells)

    known = cells.obs["nucleus_area_um2"].notna()
    assert known[cells.obs["slide"] == "AB"[with_nuclei]].all()
    assert not known[cells.obs["slide"] != "AB"[with_nuclei]].any()


def test_a_function_of_the_user_segments_the_cells(tmp_path, simulated, result, monkeypatch):
    (tmp_path / "own.py").write_text(
        "from skimage.measure import label\n\n\ndef cells(image):\n    return label(image[0] > image[0].mean())\n"
    )
    monkeypatch.chdir(tmp_path)
    asked = Options(segmenter="own:cells", model=result.path, min_area_um2=20)

    again = embed_slides(simulated.image, options=asked, out=tmp_path / "out", device="cpu", workers=1)

    cells = anndata.read_h5ad(again.cells)
    mask = open_mask(again.path / "mask.zarr")
    header = zarr.open_group(again.path / "mask.zarr", mode="r").attrs["mxsplicer"]
    assert header["segmenter"] == "own:cells"
    assert set(cells.obs["cell_id"]) <= set(np.unique(mask[...]))
    assert not (again.path / "nuclei.zarr").exists(), "a segmenter of whole cells finds no nuclei"


def test_a_dask_cluster_embeds_to_the_same_numbers(tmp_path, simulated, result, adata):
    distributed = pytest.importorskip("distributed")
    asked = Options(masks=(simulated.mask,), model=result.path)

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        again = embed_slides(
            simulated.image, options=asked, out=tmp_path / "out", device="cpu", executor=cluster.scheduler_address
        )

    cells = anndata.read_h5ad(again.cells)
    np.testing.assert_array_equal(cells[adata.obs_names].obsm["X_splicer"], adata.obsm["X_splicer"])


def test_too_little_memory_is_refused_at_once_and_nothing_is_written(tmp_path, simulated):
    with pytest.raises(
        InputError, match=r"^1G of memory is too little: correlations and clusters .* Raise `max_bytes` to at least"
    ):
        embed_slides(simulated.image, tmp_path / "S01.mxs", options=Options(**SMALL), max_bytes=1 << 30)

    assert list(tmp_path.iterdir()) == []


def test_a_plan_counts_cells_and_writes_nothing(folder, simulated, result, adata):
    before = files_of(folder)

    plan = plan_slides(simulated.image, options=Options(masks=(simulated.mask,), model=result.path), device="cpu")

    assert plan.n_cells == pytest.approx(adata.n_obs, rel=0.3)
    assert (plan.n_features, plan.not_counted) == (adata.obsm["X_splicer"].shape[1], ())
    assert plan.dominated_by in plan.seconds
    assert "mostly" in str(plan)
    assert files_of(folder) == before


def test_slides_of_a_cohort_share_one_model_and_are_segmented_without_masks(tmp_path):
    slides = [simulate_slide(tmp_path / f"S{i}.ome.tiff", size_px=256, slide_number=i) for i in (1, 2)]
    samples = tmp_path / "samples.csv"
    pd.DataFrame({"image": ["S2", "S1"], "patient id": ["B", "A"]}).to_csv(samples, index=False)

    result = embed_slides(
        [one.image for one in slides],
        tmp_path / "cohort",
        options=Options(samples=samples, groups="patient id", measure=("nucleus",), **SMALL),
        device="cpu",
    )

    adata = anndata.read_h5ad(result.cells)
    assert list(adata.obs["slide"].cat.categories) == ["S1", "S2"]
    assert dict(zip(adata.obs["slide"], adata.obs["patient_id"], strict=True)) == {"S1": "A", "S2": "B"}
    for name in ("S1", "S2"):
        mask, nuclei = (open_mask(place)[...] for place in (result.mask_of(name), result.nuclei_of(name)))
        np.testing.assert_array_equal(nuclei[nuclei > 0], mask[nuclei > 0])
        ids = np.unique(mask)
        assert set(adata.obs["cell_id"][adata.obs["slide"] == name]) <= set(ids)
        assert result.patches_of(name).is_dir()
    assert json.loads(result.index.read_text(encoding="utf-8"))["slides"][1]["mask"] == "slides/S2/mask.zarr"
    area = adata.obs["nucleus_area_um2"]
    assert np.all((area > 0) & (area <= adata.obs["area_um2"]))
    # The mean over the nucleus alone is brighter in its own marker than that of the whole cell.
    nuclear = adata.var_names.get_loc(find_nuclear_marker(list(adata.var_names)))
    assert np.mean(adata.layers["nucleus"][:, nuclear] > adata.X[:, nuclear]) > 0.95


def test_masks_are_found_in_a_folder_by_the_names_of_the_slides(tmp_path):
    for name in ("S1_mask.tif", "S10_mask.tif", "S2_mask.tif", "S2_labels.tif", "S2.txt"):
        (tmp_path / name).touch()

    assert cohort._masks_of_slides([tmp_path], ["S1", "S10"]) == [tmp_path / "S1_mask.tif", tmp_path / "S10_mask.tif"]
    with pytest.raises(InputError, match=r"holds 2 masks whose name begins with 'S2' \(S2_labels.tif, S2_mask.tif\)"):
        cohort._masks_of_slides([tmp_path], ["S2"])
