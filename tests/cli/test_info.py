"""`mxsplicer info` says what a slide is, about how many cells it has, and what patches of them take."""

import json
import platform

import numpy as np
import pytest
import tifffile

import mxsplicer
from mxsplicer.cells.estimate import estimate_cells
from mxsplicer.images.slide import Slide
from mxsplicer.testing import tiny_slide

RNG = np.random.default_rng(0)
CELLS_AT = [(y + RNG.integers(-3, 4), x + RNG.integers(-3, 4)) for y in range(20, 230, 17) for x in range(20, 290, 17)]
SLIDE, _ = tiny_slide(cells_at=CELLS_AT, shape_px=(250, 310))


@pytest.fixture
def slide(saved):
    return saved(SLIDE)


def test_a_slide_is_described_as_text(command, slide):
    outcome = command("info", slide, "--rename", "CD3e=CD3", "--drop", "CD20")

    assert (outcome.code, outcome.err, outcome.written) == (0, "", [])
    for part in (
        "2 channels, 250 x 310 pixels (Y, X), uint16",
        "0.5 µm (OME-XML)",
        "DAPI, CD3 (OME-TIFF)",
        "CD3e → CD3",
        "nuclei counted in",
        "of 32 µm are 64 px",
    ):
        assert part in outcome.out


def test_without_a_slide_versions_and_machine_are_reported_for_bug_reports(command):
    outcome = command("info")
    facts = json.loads(command("info", "--json").out)

    assert (outcome.code, outcome.err, outcome.written) == (0, "", [])
    assert facts["mxsplicer"] == mxsplicer.__version__
    assert facts["python"] == platform.python_version()
    assert facts["devices"].startswith("cpu")
    assert {"torch", "zarr", "anndata"} <= facts["packages"].keys()
    for part in (facts["mxsplicer"], facts["system"], f"torch {facts['packages']['torch']}"):
        assert part in outcome.out


def test_a_slide_is_described_as_json(command, slide):
    facts = json.loads(command("info", slide, "--json").out)

    assert (facts["shape"], facts["dtype"], facts["levels"]) == ([3, 250, 310], "uint16", [[250, 310]])
    assert (facts["pixel_size_um"], facts["pixel_size_from"]) == (0.5, "OME-XML")
    assert facts["markers"] == facts["markers_in_file"] == ["DAPI", "CD3e", "CD20"]
    assert facts["nuclear_marker"] == "DAPI"
    assert 0.7 * len(CELLS_AT) < facts["cells"]["n"] < 1.4 * len(CELLS_AT)
    assert facts["patches"]["bytes_each"] == 64 * 64 * (3 * 2 + 1)
    assert facts["image_bytes"] == SLIDE.image.nbytes
    assert facts["file_bytes"] > 0


def test_a_field_smaller_than_a_patch_is_described_too(command, slide):
    assert "do not fit on the slide" in command("info", slide, "--patch-size-um", 500).out


def test_what_a_file_lacks_is_reported_as_missing(command, tmp_path):
    tifffile.imwrite(tmp_path / "S01.tif", SLIDE.image, photometric="minisblack", metadata=None)

    outcome = command("info", "S01.tif")
    facts = json.loads(command("info", "S01.tif", "--json").out)

    assert (outcome.code, outcome.err) == (0, "")
    for part in (
        "unknown; pass --pixel-size-um",
        "channel 1, channel 2, channel 3 (no names; pass them by --markers)",
    ):
        assert part in " ".join(outcome.out.split())
    assert (facts["pixel_size_um"], facts["markers_in_file"], facts["cells"]) == (None, None, None)
    assert "about" in command("info", "S01.tif", "--pixel-size-um", 0.5, "--nuclear-marker", "channel 1").out


def test_an_unknown_nuclear_marker_is_refused(command, slide):
    outcome = command("info", slide, "--nuclear-marker", "DAPY")

    assert outcome.code == 2
    assert "Did you mean 'DAPI'" in outcome.err


class Endless:
    """An image too large to be read; it counts what is asked for."""

    dtype, ndim = np.dtype(np.uint16), 3

    def __init__(self, side):
        self.shape, self.n_read = (3, side, side), 0

    def __getitem__(self, key):
        rows, columns = (range(n)[one] for one, n in zip((*key, slice(None))[1:3], self.shape[1:], strict=True))
        self.n_read += len(rows) * len(columns)
        y, x = np.ix_(np.asarray(rows), np.asarray(columns))
        cells = (y % 20 - 10) ** 2 + (x % 20 - 10) ** 2 < 30  # one in 20 x 20 px, 10 x 10 µm
        return np.where(cells & (x < self.shape[2] / 2), 1000, 10).astype(np.uint16)


def test_of_a_slide_of_any_size_only_a_coarse_level_and_a_few_windows_are_read():
    image, coarse = Endless(100_000), np.full((3, 1000, 1000), 10, np.uint16)
    coarse[:, :, :500] = 1000
    slide = Slide("S01", image, ("DAPI", "CD3e", "CD20"), 0.5, pyramid=(coarse,))

    estimate = estimate_cells(slide)

    assert image.n_read <= 6 * 512**2
    assert estimate.tissue_mm2 == pytest.approx(1250, rel=0.05)
    assert estimate.n_cells == pytest.approx(12.5e6, rel=0.1)


def test_without_a_coarse_level_windows_spread_over_the_slide_are_counted():
    image = Endless(100_000)

    estimate = estimate_cells(Slide("S01", image, ("DAPI", "CD3e", "CD20"), 0.5))

    assert estimate.n_cells == pytest.approx(12.5e6, rel=0.2)
    assert image.n_read <= 2 * 64 * 512**2


def test_without_a_nuclear_marker_the_tissue_alone_is_the_basis():
    coarse = np.zeros((3, 1000, 1000), np.uint16)
    coarse[:, :, :60] = 1000
    slide = Slide("S01", Endless(100_000), ("CD4", "CD3e", "CD20"), 0.5, pyramid=(coarse,))

    estimate = estimate_cells(slide)

    assert estimate.n_cells == pytest.approx(0.06 * 2500 * 5000, rel=0.1)
    assert "nuclear marker not known" in estimate.basis


def test_where_one_window_decodes_the_whole_slide_the_area_alone_is_the_basis():
    image = Endless(100_000)

    estimate = estimate_cells(Slide("S01", image, ("DAPI", "CD3e", "CD20"), 0.5, tile_px=(100_000, 100_000)))

    assert (estimate.n_cells, image.n_read) == (7_500_000, 0)
    assert "no coarse level" in estimate.basis


@pytest.mark.parametrize("pyramid", [True, False])
def test_cells_are_estimated_by_the_tissue_and_not_by_the_slide(pyramid):
    rng = np.random.default_rng(0)
    image = np.zeros((1, 6000, 6000), np.uint8)
    places = [(y, x) for y in range(2010, 3500, 40) for x in range(4010, 5500, 40)]  # 6 % of the slide
    for y, x in places:
        image[0, y : y + 12, x : x + 12] = rng.integers(40, 90, (12, 12))
    levels = (image[:, ::4, ::4],) if pyramid else ()

    estimate = estimate_cells(Slide("S01", image, ("DNA",), 0.5, pyramid=levels, tile_px=(128, 128)))

    assert len(places) / 1.5 < estimate.n_cells < 1.5 * len(places)
    assert 0.03 * 9 < estimate.tissue_mm2 < 0.12 * 9


def test_glass_has_no_cells():
    assert estimate_cells(Slide("S01", np.zeros((1, 200, 200), np.uint16), ("DAPI",), 0.5)).n_cells == 0


def test_the_images_of_a_file_are_listed_and_one_can_be_chosen(command, tmp_path):
    with tifffile.TiffWriter(tmp_path / "S01.ome.tif", ome=True) as writer:
        for name, image in (("macro", SLIDE.image[:, ::8, ::8]), ("scene", SLIDE.image)):
            meta = {"axes": "CYX", "Name": name, "Channel": {"Name": list(SLIDE.markers)}, "PhysicalSizeX": 0.5}
            writer.write(image, photometric="minisblack", metadata=meta)

    outcome = command("info", "S01.ome.tif")

    listed = "2 images: 0 'macro' (32 x 39 px, 3 channels), 1 'scene' (250 x 310 px, 3 channels); read: 1"
    assert listed in " ".join(outcome.out.split())
    assert "choose another by --image" in " ".join(outcome.err.split())
    assert "32 x 39 pixels" in command("info", "S01.ome.tif", "--image", "macro").out
