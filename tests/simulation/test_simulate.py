import gc
import hashlib
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops_table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mxsplicer.errors import InputError
from mxsplicer.simulation import MARKERS, SimulatedSlide, simulate_slide
from mxsplicer.simulation.settings import ALIGNMENTS, ARRANGEMENT_PANEL, DOCKINGS, GROWTHS, SYNAPSES

SIDE = 1100  # more than one block of 1024, so that there is a seam


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimulatedSlide:
    return simulate_slide(tmp_path_factory.mktemp("simulated") / "tissue.ome.tiff", size_px=SIDE, seed=3)


@pytest.fixture(scope="module")
def image(made):
    return tifffile.imread(made.image)


@pytest.fixture(scope="module")
def mask(made):
    return tifffile.imread(made.mask)


@pytest.fixture(scope="module")
def truth(made):
    return read_truth(made)


def read_truth(made):
    return pd.read_csv(made.truth, keep_default_na=False).set_index("cell_id").sort_index()


def mean_intensities(image, mask, cell_ids):
    area = np.bincount(mask.ravel())
    sums = np.stack([np.bincount(mask.ravel(), channel.ravel().astype(float)) for channel in image], axis=1)
    return sums[cell_ids] / area[cell_ids, None]


def balanced_accuracy(features, labels):
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    return cross_val_score(probe, features, labels, cv=4, scoring="balanced_accuracy").mean()


def test_the_image_is_a_tiled_compressed_pyramid_with_names_and_pixel_size(made):
    with tifffile.TiffFile(made.image) as file:
        series = file.series[0]
        assert (series.axes, series.shape, series.dtype) == ("CYX", (19, SIDE, SIDE), np.uint16)
        assert [level.shape[1:] for level in series.levels] == [(SIDE, SIDE), (550, 550), (275, 275)]
        page = series.pages[0]
        assert (page.tilewidth, page.tilelength, page.compression.name) == (512, 512, "ADOBE_DEFLATE")
        pixels = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels")
    assert [channel.get("Name") for channel in pixels.findall("{*}Channel")] == list(MARKERS)
    assert float(pixels.get("PhysicalSizeX")) == float(pixels.get("PhysicalSizeY")) == 0.5
    assert MARKERS[0] == "Hoechst"


def test_a_coarser_level_is_the_mean_of_four_pixels(made, image):
    half = tifffile.imread(made.image, level=1)

    four = image.reshape(19, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4))

    assert np.abs(half - four).max() <= 0.5
    assert (
        np.abs(tifffile.imread(made.image, level=2) - half.reshape(19, 275, 2, 275, 2).mean(axis=(2, 4))).max() <= 0.5
    )


def test_a_coarser_level_of_the_mask_holds_ids_of_the_finer_one(made, mask):
    np.testing.assert_array_equal(tifffile.imread(made.mask, level=1), mask[::2, ::2])
    np.testing.assert_array_equal(tifffile.imread(made.mask, level=2), mask[::4, ::4])


def test_mask_and_truth_name_the_same_cells_at_the_same_place_and_size(mask, truth):
    measured = pd.DataFrame(regionprops_table(mask, properties=("label", "area", "centroid"))).set_index("label")

    assert mask.dtype == np.uint32
    assert truth.index.is_unique
    assert measured.index.equals(truth.index)
    np.testing.assert_allclose(truth["x_px"], measured["centroid-1"], atol=1e-3)
    np.testing.assert_allclose(truth["y_px"], measured["centroid-0"], atol=1e-3)
    np.testing.assert_allclose(truth["area_um2"], measured["area"] * 0.25, atol=1e-3)
    np.testing.assert_allclose(truth["x"], truth["x_px"] * 0.5, atol=1e-3)


def test_every_cell_is_in_one_piece_also_where_blocks_meet(mask, truth):
    pieces = label(mask, background=0, connectivity=1)

    assert pieces.max() == len(truth)


def test_cells_are_as_dense_as_in_tissue_and_touch(mask, truth):
    covered_mm2 = (mask > 0).sum() * 0.25e-6
    touching = set(mask[:, :-1][(mask[:, :-1] != mask[:, 1:]) & (mask[:, :-1] > 0) & (mask[:, 1:] > 0)])

    assert 5_000 < len(truth) / covered_mm2 < 16_000
    assert len(touching) > 0.7 * len(truth)


def test_the_same_seed_gives_the_same_pixels_and_another_seed_does_not(tmp_path):
    once, again, other = (
        simulate_slide(tmp_path / f"{name}.ome.tiff", size_px=300, seed=seed)
        for name, seed in (("once", 5), ("again", 5), ("other", 6))
    )

    np.testing.assert_array_equal(tifffile.imread(once.image), tifffile.imread(again.image))
    np.testing.assert_array_equal(tifffile.imread(once.mask), tifffile.imread(again.mask))
    assert once.truth.read_text() == again.truth.read_text()
    assert (tifffile.imread(once.image) != tifffile.imread(other.image)).any()


def test_the_same_cells_appear_whatever_the_grid_of_tiles(tmp_path):
    coarse, fine = (simulate_slide(tmp_path / f"{n}.ome.tiff", size_px=600, tile_px=n) for n in (512, 112))

    outlines = [tifffile.imread(slide.mask) for slide in (coarse, fine)]
    np.testing.assert_array_equal(outlines[0] > 0, outlines[1] > 0)
    places = ["x_px", "y_px", "lineage", "t_cell_subtype", "localisation", "coincidence"]
    tables = [read_truth(slide)[places].sort_values(["x_px", "y_px"], ignore_index=True) for slide in (coarse, fine)]
    pd.testing.assert_frame_equal(*tables)
    light = [tifffile.imread(slide.image, key=1).astype(float) for slide in (coarse, fine)]
    assert abs(light[0].mean() / light[1].mean() - 1) < 0.001


def test_the_same_tissue_appears_in_a_slide_of_another_size(tmp_path, image, mask):
    other = simulate_slide(tmp_path / "other.ome.tiff", size_px=SIDE - 100, seed=3)
    inner = np.s_[..., 200:800, 200:800]  # away from the glass at the edge, which follows the size

    np.testing.assert_array_equal(tifffile.imread(other.image)[inner], image[inner])
    np.testing.assert_array_equal(tifffile.imread(other.mask)[inner] > 0, mask[inner] > 0)


def test_lineage_shows_in_mean_intensity_but_where_a_marker_sits_does_not(image, mask, truth):
    means = np.log(mean_intensities(image, mask, truth.index))

    assert balanced_accuracy(means, truth["lineage"]) > 0.9
    for state in ("localisation", "coincidence"):
        defined = (truth[state] != "").to_numpy()
        assert 0.42 < balanced_accuracy(means[defined], truth[state][defined]) < 0.58, state


@pytest.mark.parametrize(
    ("state", "lineage", "markers"),
    [("localisation", "epithelial", ["PD-L1"]), ("coincidence", "T cell", ["PD-1", "CD45RO"])],
)
def test_a_state_belongs_to_one_lineage_and_leaves_the_mean_alone(made, truth, state, lineage, markers):
    defined = (truth[state] != "").to_numpy()
    assert set(truth["lineage"][defined]) == {lineage}
    assert (truth["lineage"][~defined] != lineage).all()

    means = np.log(mean_intensities(tifffile.imread(made.image), tifffile.imread(made.mask), truth.index))[defined]
    first = (truth[state][defined] == truth[state][defined].iloc[0]).to_numpy()
    assert 0.4 < first.mean() < 0.6
    for marker in markers:
        values = means[:, MARKERS.index(marker)]
        error = values.std() * np.sqrt(1 / first.sum() + 1 / (~first).sum())
        assert abs(values[first].mean() - values[~first].mean()) < 3.5 * error, marker


def test_a_t_cell_has_a_subtype_that_the_mean_shows_worse_than_the_membrane_does(image, mask, truth):
    is_t = (truth["lineage"] == "T cell").to_numpy()
    assert set(truth["t_cell_subtype"][is_t]) == {"helper", "cytotoxic", "regulatory"}
    assert set(truth["t_cell_subtype"][~is_t]) == {""}

    near_border = np.zeros(mask.shape, dtype=bool)
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            near_border |= np.roll(mask, step, axis) != mask
    ring = mean_intensities(image, np.where(near_border, mask, 0), truth.index)
    inside = mean_intensities(image, np.where(near_border, 0, mask), truth.index[is_t])
    means = mean_intensities(image, mask, truth.index)[is_t]
    subtype = truth["t_cell_subtype"][is_t]

    by_mean = balanced_accuracy(np.log(means), subtype)
    by_membrane = balanced_accuracy(np.log(ring[is_t] / inside), subtype)
    assert by_mean < 0.82
    assert by_membrane > by_mean + 0.1


def test_brightness_of_markers_differs_more_than_twentyfold(image, mask, truth):
    means = mean_intensities(image, mask, truth.index) - image[:, mask == 0].min(axis=1)
    brightest = np.percentile(means, 99, axis=0)[[MARKERS.index(name) for name in ("Pan-CK", "CD4", "FOXP3", "CD8a")]]

    assert brightest[0] > 20 * brightest[1:].min()


def test_nuclei_stand_out_in_hoechst(image, mask, truth):
    hoechst = image[0].astype(float)
    nuclei = label(hoechst > threshold_otsu(hoechst))
    centres = truth[["y_px", "x_px"]].round().astype(int).to_numpy()

    assert (nuclei[tuple(centres.T)] > 0).mean() > 0.6
    assert (nuclei[mask == 0] > 0).mean() < 0.02


def test_slides_of_a_cohort_differ_in_gain_but_not_in_what_tissue_is(tmp_path, image, truth):
    other = simulate_slide(tmp_path / "other.ome.tiff", size_px=800, seed=3, slide_number=1)

    other_truth, other_image = read_truth(other), tifffile.imread(other.image)
    ratio = np.median(other_image, axis=(1, 2)) / np.median(image, axis=(1, 2))
    assert np.log(ratio).std() > 0.05
    assert len(other_truth) / 800**2 == pytest.approx(len(truth) / SIDE**2, rel=0.3)
    by_lineage = [one.groupby("lineage")["area_um2"].median() for one in (truth, other_truth)]
    np.testing.assert_allclose(by_lineage[0], by_lineage[1], rtol=0.15)


def test_memory_does_not_grow_with_the_slide(tmp_path):
    peaks = []
    for size in (256, 384):
        gc.collect()
        tracemalloc.start()
        simulate_slide(tmp_path / f"{size}.ome.tiff", size_px=size, tile_px=64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < 1.4 * peaks[0]  # of a slide 2.25 times as large


def test_an_existing_file_is_kept_without_overwrite(tmp_path):
    path = tmp_path / "tissue.ome.tiff"
    (tmp_path / "tissue_truth.csv").write_text("mine")

    with pytest.raises(InputError, match="exists"):
        simulate_slide(path, size_px=64)
    assert not path.exists()

    simulate_slide(path, size_px=64, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "tissue.ome.tiff",
        "tissue_mask.ome.tiff",
        "tissue_truth.csv",
    ]


def test_an_interrupted_simulation_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tifffile, "TiffWriter", interrupted)

    with pytest.raises(KeyboardInterrupt):
        simulate_slide(tmp_path / "tissue.ome.tiff", size_px=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("tissue.tiff", {}, "End the name in .ome.tiff"),
        ("nowhere/tissue.ome.tiff", {}, "does not exist"),
        ("tissue.ome.tiff", {"size_px": 10}, "at least 64"),
        ("tissue.ome.tiff", {"seed": -1}, "neither can be negative"),
        ("tissue.ome.tiff", {"pixel_size_um": 5.0}, "0.1 to 1.0"),
        ("tissue.ome.tiff", {"tile_px": 100}, "multiple of 16"),
        ("tissue.ome.tiff", {"panel": "codex"}, "the panels are orion-crc, arrangements"),
    ],
)
def test_a_mistake_is_named_in_one_sentence(tmp_path: Path, name, options, says):
    with pytest.raises(InputError, match=says):
        simulate_slide(tmp_path / name, **options)


def test_the_pixels_of_a_slide_stay_the_same_from_version_to_version(tmp_path):
    made = simulate_slide(tmp_path / "tissue.ome.tiff", size_px=256, seed=0)

    files = (tifffile.imread(made.image).tobytes(), tifffile.imread(made.mask).tobytes(), made.truth.read_bytes())
    digests = [hashlib.blake2b(file, digest_size=8).hexdigest() for file in files]
    assert digests == ["f1588d6dfd8e3cb9", "0706adf07586df11", "8d019a42412c9f4b"]


def test_the_panel_of_arrangements_shows_the_same_cells_with_other_markers(tmp_path, made, mask, truth):
    other = simulate_slide(tmp_path / "other.ome.tiff", size_px=SIDE, seed=3, panel="arrangements")

    other_truth = read_truth(other)
    np.testing.assert_array_equal(tifffile.imread(other.mask), mask)
    pd.testing.assert_frame_equal(other_truth[truth.columns], truth)
    epithelial = (other_truth["lineage"] == "epithelial").to_numpy()
    for state, names in (("alignment", ALIGNMENTS), ("docking", DOCKINGS), ("growth", GROWTHS), ("synapse", SYNAPSES)):
        labelled = other_truth[state] != ""
        assert set(other_truth[state][labelled]) == set(names)
        assert 0.35 < (other_truth[state][labelled] == names[0]).mean() < 0.65
        if state == "synapse":
            assert (other_truth["lineage"][labelled] == "T cell").all()
        else:
            np.testing.assert_array_equal(labelled, epithelial)


def test_states_of_arrangements_do_not_change_what_a_cell_has_of_a_marker(tmp_path):
    made = simulate_slide(tmp_path / "tissue.ome.tiff", size_px=SIDE, seed=3, panel="arrangements")
    table = read_truth(made)
    image, mask = tifffile.imread(made.image), tifffile.imread(made.mask)
    means = np.log(mean_intensities(image, mask, table.index))

    for state in ("alignment", "docking", "growth", "synapse"):
        labelled = (table[state] != "").to_numpy()
        assert 0.35 < balanced_accuracy(means[labelled], table[state][labelled]) < 0.65


def test_fibres_of_a_cell_are_parallel_or_cross(tmp_path):
    made = simulate_slide(tmp_path / "tissue.ome.tiff", size_px=512, seed=3, panel="arrangements")
    image, mask, table = tifffile.imread(made.image).astype(float), tifffile.imread(made.mask), read_truth(made)
    names = [marker.name for marker in ARRANGEMENT_PANEL]
    directions = []
    for name in ("F-actin", "alpha-tubulin"):
        down, right = np.gradient(np.log(image[names.index(name)] + 1))
        double = ((right + 1j * down) ** 2).ravel()  # twice the angle of the gradient
        directions.append(np.bincount(mask.ravel(), double.real) + 1j * np.bincount(mask.ravel(), double.imag))
    alike = np.cos(np.angle(directions[0] * directions[1].conj()))[table.index]

    parallel, crossing = ((table["alignment"] == name).to_numpy() for name in ALIGNMENTS)
    assert np.median(alike[parallel]) > 0.9
    assert np.median(alike[crossing]) < -0.9
