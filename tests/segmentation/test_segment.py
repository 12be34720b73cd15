"""Nuclei are found and expand_window into cells, whatever the tiles, the dtype and the size of a pixel."""

import dataclasses
import itertools
import json
import re
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import ellipse, polygon2mask
from skimage.measure import label, regionprops

from mxsplicer.errors import InputError
from mxsplicer.images.ngff import open_labels
from mxsplicer.images.slide import Slide
from mxsplicer.masks.files import open_mask
from mxsplicer.segmentation import nuclei, segmenters
from mxsplicer.segmentation.segment import segment
from mxsplicer.system.memory import resident_bytes


def tissue(*, size_px=400, pixel_size_um=0.5, seed=0, dtype=np.uint16, counts=200.0):
    """Draw nuclei that differ in size and brightness, some touching, on an uneven background, and their labels."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((size_px, size_px), np.uint32)
    light = np.tile(np.linspace(0.03, 0.1, size_px), (size_px, 1))
    taken = []
    for _ in range(40 * size_px):
        y, x = rng.uniform(0, size_px, 2)
        long, short = rng.uniform(3.2, 4.6) / pixel_size_um, rng.uniform(2.6, 3.2) / pixel_size_um
        if all((y - v) ** 2 + (x - u) ** 2 > (6.5 / pixel_size_um) ** 2 for v, u in taken):
            taken.append((y, x))
            inside = ellipse(y, x, short, long, shape=truth.shape, rotation=rng.uniform(0, np.pi))
            truth[inside] = len(taken)
            light[inside] = rng.uniform(0.5, 1.5)
        if len(taken) == 150:
            break
    image = rng.poisson(light * counts)
    image = np.stack([np.zeros_like(image), image]).astype(dtype)
    return Slide("S01", image, ("CD3e", "DAPI"), pixel_size_um, tile_px=(128, 128)), truth


def matched(found, truth):
    """Return for each true label the best intersection over union with a found one."""
    found, truth = np.asarray(found), np.asarray(truth)
    table = np.zeros((int(truth.max()) + 1, int(found.max()) + 1))
    np.add.at(table, (truth, found), 1)
    union = table.sum(1, keepdims=True) + table.sum(0) - table
    iou = (table / np.maximum(union, 1))[1:, 1:]
    return iou[table.sum(1)[1:] > 0].max(axis=1)


@pytest.mark.parametrize(
    ("pixel_size_um", "dtype", "counts"),
    [(0.5, np.uint16, 5000), (0.5, np.uint8, 3), (0.325, np.float32, 200), (1.0, np.float32, 50), (0.8, np.uint8, 30)],
)
def test_nuclei_of_a_drawn_tissue_are_found(tmp_path, pixel_size_um, dtype, counts):
    slide, truth = tissue(size_px=round(200 / pixel_size_um), pixel_size_um=pixel_size_um, dtype=dtype, counts=counts)

    mask = segment(slide, tmp_path / "mask.zarr", expansion_um=0)

    assert np.mean(matched(mask[:], truth) > 0.5) > 0.9
    assert mask[:].max() < 1.1 * truth.max()


def test_the_mask_is_a_zarr_of_numbered_cells_with_its_settings(tmp_path):
    slide, _ = tissue(size_px=200)

    segment(slide, tmp_path / "mask.zarr")

    group = zarr.open_group(tmp_path / "mask.zarr", mode="r")
    mask = group["0"]
    assert (mask.dtype, mask.shape, mask.metadata.zarr_format) == (np.uint32, (200, 200), 3)
    assert np.unique(mask[:]).tolist() == list(range(int(mask[:].max()) + 1))
    assert group.attrs["mxsplicer"]["nuclear_marker"] == "DAPI"
    assert group.attrs["mxsplicer"]["pixel_size_um"] == 0.5


def test_a_large_mask_is_a_pyramid_of_labels_whose_finest_level_is_the_mask(tmp_path):
    image = np.zeros((1, 1030, 2051), np.uint16)
    for y, x in np.ndindex(20, 40):
        image[0, 50 * y + 20 : 50 * y + 34, 50 * x + 10 : 50 * x + 24] = 500
    slide = Slide("S01", image, ("DAPI",), pixel_size_um=0.5)

    whole = segment(slide, tmp_path / "mask.zarr")[:, :]

    levels = open_labels(tmp_path / "mask.zarr")
    assert [level.shape for level in levels] == [(1030, 2051), (515, 1026), (258, 513), (129, 257)]
    for number, level in enumerate(levels):
        np.testing.assert_array_equal(level[:, :], whole[:: 1 << number, :: 1 << number])
    mask = open_mask(tmp_path / "mask.zarr", slide=slide)
    np.testing.assert_array_equal(mask[:, :], whole)
    assert [level.shape for level in mask.pyramid] == [level.shape for level in levels[1:]]
    described = zarr.open_group(tmp_path / "mask.zarr", mode="r").attrs["ome"]["multiscales"][0]
    assert described["datasets"][2]["coordinateTransformations"][0]["scale"] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("seed", "tile_px", "workers", "more"), [(0, 128, 1, None), (1, 256, 3, None), (0, 2048, 2, 16)]
)
def test_neither_tiles_nor_threads_nor_memory_change_a_pixel_of_the_mask(tmp_path, seed, tile_px, workers, more):
    slide, _ = tissue(seed=seed)
    max_bytes = more and int((resident_bytes() + (more << 20)) / 0.9)

    nuclei = {"whole": tmp_path / "whole_nuclei.zarr", "tiled": tmp_path / "tiled_nuclei.zarr"}
    whole = segment(slide, tmp_path / "whole.zarr", tile_px=4096, workers=1, nuclei_path=nuclei["whole"])[:]
    tiled = segment(
        slide,
        tmp_path / "tiled.zarr",
        tile_px=tile_px,
        workers=workers,
        max_bytes=max_bytes,
        nuclei_path=nuclei["tiled"],
    )[:]

    np.testing.assert_array_equal(tiled, whole)
    np.testing.assert_array_equal(*(open_mask(path)[:, :] for path in nuclei.values()))
    _, first = np.unique(whole, return_index=True)
    assert np.all(np.diff(first[1:]) > 0), "cells are numbered by their first pixel"


def test_nuclei_have_the_numbers_of_the_cells_they_lie_in(tmp_path):
    slide, _ = tissue()

    cells = segment(slide, tmp_path / "mask.zarr", nuclei_path=tmp_path / "nuclei.zarr")[:]

    nuclei = open_mask(tmp_path / "nuclei.zarr")[:, :]
    assert (nuclei.dtype, nuclei.shape) == (np.uint32, cells.shape)
    np.testing.assert_array_equal(nuclei[nuclei > 0], cells[nuclei > 0])
    assert np.unique(nuclei).tolist() == np.unique(cells).tolist()
    np.testing.assert_array_equal(nuclei > 0, segment(slide, tmp_path / "bare.zarr", expansion_um=0)[:] > 0)


class InterruptedWriteError(Exception):
    """Stands for the end of the process."""


def segment_in_part(slide, path, *, writes, **options):
    """Segment a slide until some pieces of the mask are written and half of the next: what a kill would leave."""
    write, n = zarr.Array.__setitem__, itertools.count()

    def break_off(self, where, values):
        if next(n) < writes:
            write(self, where, values)
            return
        rows = where[0].start, (where[0].start + where[0].stop) // 2
        write(self, (slice(*rows), where[1]), values[: rows[1] - rows[0]])
        raise InterruptedWriteError

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(zarr.Array, "__setitem__", break_off)
        with pytest.raises(InterruptedWriteError):
            segment(slide, path, **options)


def on_the_disk(slide, folder):
    tifffile.imwrite(folder / "slide.ome.tiff", slide.image, tile=(64, 64), metadata={"axes": "CYX"})
    return dataclasses.replace(slide, path=folder / "slide.ome.tiff")


@pytest.mark.parametrize("writes", [0, 1, 2, 7, 16, 17, 18, 21, 25, 26, 27])
def test_what_was_interrupted_goes_on_and_the_mask_is_the_same(tmp_path, writes):
    slide = on_the_disk(tissue(size_px=600, seed=1)[0], tmp_path)
    options = {"tile_px": 256, "workers": 1, "halo_um": 20}
    whole = segment(slide, tmp_path / "whole.zarr", nuclei_path=tmp_path / "whole_nuclei.zarr", **options)
    again = [tmp_path / "again.zarr", tmp_path / "again_nuclei.zarr"]

    segment_in_part(slide, again[0], nuclei_path=again[1], writes=writes, **options)
    assert not any(one.exists() for one in again)
    mask = segment(slide, again[0], nuclei_path=again[1], **options)

    np.testing.assert_array_equal(mask[:], whole[:])
    for name in ("", "_nuclei"):
        files = [tree(tmp_path / f"{one}{name}.zarr") for one in ("whole", "again")]
        assert files[0] == files[1], "and so is every file"


def tree(folder):
    return {one.relative_to(folder): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def test_finished_tiles_are_not_segmented_again(tmp_path, monkeypatch):
    slide = on_the_disk(tissue(size_px=600, seed=1)[0], tmp_path)
    seen = []
    find = nuclei.find_nuclei
    monkeypatch.setattr(nuclei, "find_nuclei", lambda *given: seen.append(1) or find(*given))

    segment_in_part(slide, tmp_path / "mask.zarr", writes=5, tile_px=256, workers=1)
    n_first = len(seen)
    segment(slide, tmp_path / "mask.zarr", tile_px=256, workers=1)
    assert len(seen) == 9 + 1, "the tile that was being written is segmented twice"
    assert n_first > 1


def draw(path, corners):
    path.write_text(json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [corners]}}))


@pytest.mark.parametrize("tile_px", [128, 4096])
def test_in_outlines_the_same_cells_are_found_as_on_the_whole_slide(tmp_path, tile_px):
    slide, _ = tissue(size_px=500, seed=3)
    corners = [[40, 60], [300, 30], [230, 260], [40, 60]]  # x, y
    draw(tmp_path / "roi.geojson", corners)
    nuclei_path = tmp_path / "nuclei.zarr"
    whole = segment(slide, tmp_path / "whole.zarr", nuclei_path=nuclei_path)[:]

    inside = segment(slide, tmp_path / "inside.zarr", roi=tmp_path / "roi.geojson", tile_px=tile_px, workers=1)[:]

    centroids = [one.centroid for one in regionprops(open_mask(nuclei_path)[:, :])]
    drawn = polygon2mask(whole.shape, np.array(corners[:3])[:, ::-1] - 0.5)
    wanted = [number for number, at in enumerate(centroids, start=1) if drawn[tuple(np.round(at).astype(int))]]
    assert 10 < len(wanted) < len(centroids) / 2
    assert np.unique(inside).tolist() == list(range(len(wanted) + 1))
    np.testing.assert_array_equal(inside > 0, np.isin(whole, wanted))


def test_outlines_without_a_nucleus_are_refused(tmp_path):
    slide, _ = tissue(size_px=200)
    draw(tmp_path / "roi.geojson", [[0, 0], [2, 0], [2, 2], [0, 0]])
    with pytest.raises(InputError, match=r"no nucleus was found in the outlines of roi\.geojson"):
        segment(slide, tmp_path / "mask.zarr", roi=tmp_path / "roi.geojson")
    assert [one.name for one in tmp_path.iterdir()] == ["roi.geojson"]


def test_two_commands_do_not_write_one_mask(tmp_path):
    slide, _ = tissue(size_px=200)
    path = str(tmp_path / "mask.zarr")
    code = f"from mxsplicer.system.locks import folder_lock\nwith folder_lock({path!r}): print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match=r"mask\.zarr"):
            segment(slide, tmp_path / "mask.zarr")
        other.communicate(b"\n")

    segment(slide, tmp_path / "mask.zarr")


def test_a_mask_that_another_command_made_meanwhile_is_kept(tmp_path, monkeypatch):
    slide, _ = tissue(size_px=200)
    measure = segmenters.measure_levels

    def meanwhile(*given):
        monkeypatch.setattr(segmenters, "measure_levels", measure)
        segment(slide, tmp_path / "mask.zarr", expansion_um=0)
        return measure(*given)

    monkeypatch.setattr(segmenters, "measure_levels", meanwhile)
    with pytest.raises(InputError, match=r"mask\.zarr exists"):
        segment(slide, tmp_path / "mask.zarr")

    kept = segment(slide, tmp_path / "expected.zarr", expansion_um=0)
    np.testing.assert_array_equal(open_mask(tmp_path / "mask.zarr")[:, :], kept[:])


@pytest.mark.parametrize("changed", ["setting", "image"])
def test_with_another_setting_or_image_segmentation_starts_again(tmp_path, changed):
    slide = on_the_disk(tissue(size_px=600, seed=1)[0], tmp_path)
    segment_in_part(slide, tmp_path / "mask.zarr", writes=8, tile_px=256, workers=1)

    if changed == "image":
        slide = on_the_disk(tissue(size_px=600, seed=2)[0], tmp_path)
    other = {"expansion_um": 1.0} if changed == "setting" else {}
    mask = segment(slide, tmp_path / "mask.zarr", tile_px=256, workers=1, **other)

    expected = segment(slide, tmp_path / "expected.zarr", tile_px=256, workers=1, **other)
    np.testing.assert_array_equal(mask[:], expected[:])


def test_nuclei_of_a_segmenter_of_whole_cells_are_refused(tmp_path):
    slide, _ = tissue(size_px=200)

    with pytest.raises(InputError, match="finds whole cells"):
        segment(slide, tmp_path / "mask.zarr", segmenter=lambda image: image[0], nuclei_path=tmp_path / "nuclei.zarr")

    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), tile_px=st.sampled_from([128, 256]), halo_um=st.sampled_from([20, 31.5]))
def test_a_function_that_finds_the_same_things_in_any_tile_makes_the_same_mask_in_any(seed, tile_px, halo_um):
    rng = np.random.default_rng(seed)
    shape = rng.integers(100, 400, 2)
    image = np.zeros((2, *shape), np.uint8)
    for y, x in rng.uniform(0, shape, (rng.integers(1, 60), 2)):
        image[1][ellipse(y, x, *rng.uniform(2, 9, 2), shape=shape)] = 1
    slide = Slide("S01", image, ("CD3e", "DAPI"), 1.0)

    def blobs(tile):  # labels restart in every tile; touching pixels are one cell
        labels = label(tile[1])
        return np.where(np.bincount(labels.ravel())[labels] < 400, labels, 0)  # no larger than the halo sees

    with tempfile.TemporaryDirectory() as folder:
        whole, tiled = (
            segment(slide, f"{folder}/{name}.zarr", segmenter=blobs, tile_px=side, halo_um=halo_um)[:]
            for name, side in [("whole", 4096), ("tiled", tile_px)]
        )

    np.testing.assert_array_equal(tiled, whole)


def test_too_little_memory_for_one_tile_is_refused_with_the_memory_needed(tmp_path):
    slide, _ = tissue()

    with pytest.raises(InputError, match=r"Raise `max_bytes` to at least"):
        segment(slide, tmp_path / "mask.zarr", max_bytes=1 << 20)

    assert not list(tmp_path.iterdir())


def test_an_existing_mask_is_kept_unless_it_is_to_be_overwritten(tmp_path):
    slide, _ = tissue(size_px=100)
    segment(slide, tmp_path / "mask.zarr")

    with pytest.raises(InputError, match="exists"):
        segment(slide, tmp_path / "mask.zarr")

    segment(slide, tmp_path / "mask.zarr", overwrite=True)
    assert [one.name for one in tmp_path.iterdir()] == ["mask.zarr"]
    zarr.create_group(tmp_path / "image.zarr")
    with pytest.raises(InputError, match="not a mask that mxsplicer made"):
        segment(slide, tmp_path / "image.zarr", overwrite=True)


def test_a_slide_without_nuclei_is_refused_and_leaves_nothing(tmp_path):
    empty = Slide("S01", np.zeros((1, 64, 64), np.uint8), ("DAPI",), 0.5)

    with pytest.raises(InputError, match="no nucleus"):
        segment(empty, tmp_path / "mask.zarr")

    assert not list(tmp_path.iterdir())


def test_a_slide_whose_nuclear_marker_has_no_known_name_names_its_markers_and_the_option(tmp_path):
    slide = Slide("S01", np.zeros((2, 64, 64), np.uint8), ("CD3e", "CD20"), 0.5)

    with pytest.raises(InputError, match=r"CD3e, CD20.*`nuclear_marker`"):
        segment(slide, tmp_path / "mask.zarr")


def test_a_folder_that_is_not_a_mask_is_never_replaced(tmp_path):
    slide, _ = tissue(size_px=100)
    (tmp_path / "precious.txt").touch()

    with pytest.raises(InputError, match="not a mask that mxsplicer made"):
        segment(slide, tmp_path, overwrite=True)

    assert (tmp_path / "precious.txt").exists()


def test_any_function_from_image_to_labels_is_a_segmenter(tmp_path):
    slide, truth = tissue()
    truth_slide = Slide("S01", np.stack([truth * 0, truth]), slide.markers, 0.5)

    def by_truth(image):
        return image[1] * 1000  # sparse labels, other ones in every tile

    whole = segment(truth_slide, tmp_path / "mask.zarr", segmenter=by_truth, tile_px=96)[:]

    assert whole.max() == len(np.unique(truth)) - 1
    assert np.all(matched(whole, truth) == 1)


@pytest.mark.parametrize("wrong", [lambda image: image, lambda image: image[0] > 0, lambda image: image[0] / 2])
def test_a_segmenter_that_does_not_return_labels_is_refused(tmp_path, wrong):
    slide, _ = tissue(size_px=64)

    with pytest.raises(InputError, match="segmenter returned"):
        segment(slide, tmp_path / "mask.zarr", segmenter=wrong)


def test_a_tile_that_sees_a_cell_differently_from_its_neighbour_makes_no_second_cell_of_it(tmp_path):
    image = np.zeros((1, 64, 256), np.uint8)
    image[0, 20:40, 112:140] = 1  # across the seam of two tiles of 128 px, its centroid in the left one

    def forgetful(tile):
        labels = tile[0].astype(np.int32)
        labels[:, :30] = 0  # the right tile begins at 92: it loses part of the cell and sees its centroid in its core
        return labels

    slide = Slide("S01", image, ("DAPI",), 1.0)
    mask = segment(slide, tmp_path / "mask.zarr", segmenter=forgetful, tile_px=128, halo_um=36)[:]

    np.testing.assert_array_equal(mask, image[0])


def test_a_gap_with_nuclei_all_around_stays_empty(tmp_path):
    image = np.zeros((1, 160, 160), np.uint16)
    for angle in np.linspace(0, 2 * np.pi, 20, endpoint=False):
        image[0][ellipse(80 + 45 * np.sin(angle), 80 + 45 * np.cos(angle), 8, 8)] = 100

    mask = segment(Slide("S01", image, ("DAPI",), 0.5), tmp_path / "mask.zarr")[:]

    assert mask.max() == 20
    assert np.all(mask[60:100, 60:100] == 0)


def test_bare_glass_around_a_small_piece_of_tissue_does_not_hide_its_nuclei(tmp_path):
    part, truth = tissue()
    image = np.zeros((2, 2400, 2400), np.uint16)
    image[:, 1500:1900, 700:1100] = part.image

    mask = segment(Slide("S01", image, part.markers, 0.5), tmp_path / "mask.zarr", expansion_um=0)[:]

    assert np.mean(matched(mask[1500:1900, 700:1100], truth) > 0.5) > 0.9
    assert np.all(np.delete(mask, range(1480, 1920), axis=0) == 0)


def test_cells_of_a_real_field_are_found_at_the_centroids_that_people_published(tmp_path, shared_data):
    folder = shared_data / "mif-breast-csm"
    image = tifffile.imread(folder / "ABCM22001_B14_MiniCrop.ome.tif")
    points = pd.read_csv(folder / "ABCM22001_B14_MiniCrop_cells.csv")
    slide = Slide("B14", image, ("DAPI", *(f"M{i}" for i in range(1, len(image)))), 0.5)

    mask = segment(slide, tmp_path / "mask.zarr")[:]

    hit = mask[points["y"].round().astype(int).clip(0, 499), points["x"].round().astype(int).clip(0, 499)]
    assert len(np.unique(hit[hit > 0])) > 0.88 * len(points)
    assert mask.max() < 1.1 * len(points)


def test_the_nuclear_marker_that_is_taken_is_logged_with_the_other_candidates(tmp_path, caplog):
    slide, _ = tissue(size_px=200)
    slide = dataclasses.replace(slide, markers=("Histone H3", "DNA1"))

    with caplog.at_level("INFO"):
        segment(slide, tmp_path / "mask.zarr")

    assert "nuclei are found in the marker DNA1; other candidates: Histone H3" in caplog.text
    assert "were found on slide" not in caplog.text


def test_far_fewer_cells_than_the_tissue_could_hold_are_a_warning(tmp_path, caplog):
    slide, truth = tissue()
    mitotic = np.random.default_rng(0).poisson(20 + 900 * np.isin(truth, range(1, 8))).astype(np.uint16)
    image = np.stack([mitotic, slide.image[1]])
    slide = dataclasses.replace(slide, image=image, markers=("pHH3", "DNA1"))

    segment(slide, tmp_path / "mask.zarr", nuclear_marker="pHH3")
    segment(slide, tmp_path / "right.zarr")

    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.search(r"only \d cells were found on slide 'S01': they cover \d\.\d% of .* mm² of tissue", warning)
    assert "Name another `nuclear_marker`, for instance DNA1" in warning
    assert zarr.open_group(tmp_path / "mask.zarr", mode="r").attrs["mxsplicer"]["warning"] == warning
