"""Label images of every kind are read as uint32, or refused in one sentence."""

import errno
import gc
import os
import pickle
import tempfile
from collections import Counter

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxsplicer.errors import InputError
from mxsplicer.masks.files import check_mask, open_mask
from mxsplicer.testing import tiny_slide

LABELS = np.random.default_rng(0).integers(0, 200, (50, 70))


def as_tiff(path, labels, **options):
    tifffile.imwrite(path, labels, photometric="minisblack", **options)
    return path


def as_npy(path, labels):
    np.save(path.with_suffix(".npy"), labels)
    return path.with_suffix(".npy")


def as_zarr(path, labels, version=3):
    zarr.save_array(path.with_suffix(".zarr"), labels, zarr_format=version)
    return path.with_suffix(".zarr")


WRITERS = {
    "TIFF": as_tiff,
    "tiled TIFF": lambda path, labels: as_tiff(path, labels, tile=(16, 16), compression="zlib"),
    "npy": as_npy,
    "zarr 3": as_zarr,
    "zarr 2": lambda path, labels: as_zarr(path, labels, version=2),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
def test_whole_numbers_of_any_type_are_ids(tmp_path, writer, dtype):
    labels = LABELS.astype(dtype)

    mask = open_mask(WRITERS[writer](tmp_path / "mask.tif", labels))

    assert (mask.shape, mask.dtype, mask.ndim) == (labels.shape, np.uint32, 2)
    assert mask[...].dtype == np.uint32
    np.testing.assert_array_equal(mask[...], labels)
    np.testing.assert_array_equal(mask[10:40:3, -20:], labels[10:40:3, -20:])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.one_of(st.integers(-(2**62), 2**62), st.floats(width=64)))
def test_an_id_is_read_exactly_or_refused(tmp_path, value):
    labels = np.zeros((4, 4), np.int64 if isinstance(value, int) else np.float64)
    labels[1, 2] = value
    mask = open_mask(as_npy(tmp_path / "mask", labels))

    if 0 <= value < 2**32 and value == int(value):
        assert mask[1, 2] == value
    else:
        with pytest.raises(InputError, match=r"mask mask\.npy holds"):
            mask[...]


def test_a_page_of_a_file_of_several_is_chosen(tmp_path):
    pages = np.stack([LABELS, LABELS * 2]).astype(np.uint16)
    path = as_tiff(tmp_path / "mask.tif", pages)

    np.testing.assert_array_equal(open_mask(path, page=1)[5:9, 3], LABELS[5:9, 3] * 2)
    with pytest.raises(InputError, match=r"holds 2 label images, \(2, 50, 70\)\. Choose one by `page`"):
        open_mask(path)
    with pytest.raises(InputError, match="has no page 2"):
        open_mask(path, page=2)


@pytest.mark.parametrize("shape", [(1, 50, 70), (1, 50, 70, 1), (1, 1, 1, 50, 70)])
def test_axes_of_length_one_are_left_out(tmp_path, shape):
    for write in (as_npy, as_zarr):
        mask = open_mask(write(tmp_path / "mask", LABELS.reshape(shape)))

        np.testing.assert_array_equal(mask[10:20, 3], LABELS[10:20, 3])


def test_of_a_pyramid_the_level_that_fits_the_slide_is_taken(tmp_path):
    path = tmp_path / "mask.ome.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(LABELS.astype(np.uint32), subifds=1, photometric="minisblack")
        tiff.write(LABELS[::2, ::2].astype(np.uint32), subfiletype=1, photometric="minisblack")
    coarse, _ = tiny_slide(shape_px=(25, 35), cells_at=[(9, 9)])

    np.testing.assert_array_equal(open_mask(path)[...], LABELS)
    np.testing.assert_array_equal(open_mask(path, slide=coarse)[...], LABELS[::2, ::2])


def test_labels_of_an_ome_zarr_are_found_in_it(tmp_path):
    group = zarr.create_group(tmp_path / "slide.ome.zarr" / "labels", attributes={"ome": {"labels": ["cells"]}})
    axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    half = [{"type": "scale", "scale": [1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}, {"path": "1", "coordinateTransformations": half}]
    multiscales = [{"axes": axes, "datasets": datasets}]
    cells = group.create_group("cells", attributes={"ome": {"multiscales": multiscales, "image-label": {}}})
    cells.create_array("0", data=LABELS.astype(np.uint32))
    cells.create_array("1", data=LABELS[::2, ::2].astype(np.uint32))
    zarr.create_group(tmp_path / "slide.ome.zarr")

    for place in ("slide.ome.zarr", "slide.ome.zarr/labels", "slide.ome.zarr/labels/cells"):
        np.testing.assert_array_equal(open_mask(tmp_path / place)[5:9, ::3], LABELS[5:9, ::3])
    coarse, _ = tiny_slide(shape_px=(25, 35), cells_at=[(9, 9)])
    np.testing.assert_array_equal(open_mask(tmp_path / "slide.ome.zarr", slide=coarse)[...], LABELS[::2, ::2])


def test_an_intensity_image_is_not_a_mask(tmp_path):
    mask = open_mask(as_tiff(tmp_path / "mask.tif", np.random.default_rng(0).random((8, 8), np.float32)))

    with pytest.raises(InputError, match="looks like an image of intensities or probabilities"):
        mask[...]


def make_colour(path):
    tifffile.imwrite(path, np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    return path


def make_pickle(path):
    np.save(path.with_suffix(".npy"), np.array([{}], object), allow_pickle=True)
    return path.with_suffix(".npy")


def make_folder(path):
    path.mkdir()
    return path


def make_group(path):
    zarr.create_group(path)
    return path


def make_text(path):
    path.write_text("cell_id,x,y")
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path, "not found"),
        (make_colour, r"\(8, 9, 3\), and its colours are not the ids of cells"),
        (make_pickle, "is not a readable .npy array"),
        (make_folder, "is a folder but not a zarr array"),
        (make_group, "is a zarr group without labels"),
        (make_text, "is not a file of labels"),
        (lambda path: as_npy(path, np.zeros((3, 3), complex)), "integers are needed"),
        (lambda path: as_npy(path, np.zeros(9, int)), r"\(9,\); a label image \(Y, X\) is needed"),
    ],
)
def test_a_file_that_is_not_a_mask_is_refused(tmp_path, make, sentence):
    path = make(tmp_path / "mask")

    with pytest.raises(InputError, match=sentence):
        open_mask(path)


@pytest.mark.parametrize("options", [{"rowsperstrip": 4}, {"rowsperstrip": 1000}, {"page": 1}], ids=str)
def test_strips_as_wide_as_the_slide_are_decoded_once_whatever_is_read(tmp_path, monkeypatch, options):
    labels = np.random.default_rng(1).integers(0, 2**20, (700, 8300)).astype(np.uint32)
    page, rows = options.get("page"), options.get("rowsperstrip", 16)
    written = labels if page is None else np.stack([labels + 1, labels])
    path = as_tiff(tmp_path / "mask.tif", written, rowsperstrip=rows, compression="zlib")
    read = Counter()
    pread = os.pread
    monkeypatch.setattr(
        "mxsplicer.images.tiff.os.pread", lambda file, n, place: (read.update([place]), pread(file, n, place))[1]
    )

    mask = open_mask(path, page=page)
    for y, x in np.ndindex(2, 17):
        window = (slice(350 * y, 350 * (y + 1)), slice(512 * x, 512 * (x + 1)))
        np.testing.assert_array_equal(mask[window], labels[window])

    assert set(read.values()) == {1}
    assert len(read) == -(-700 // rows)
    np.testing.assert_array_equal(mask[600:20:-7, [1, 8299]], labels[600:20:-7, [1, 8299]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(mask))[5, 3:7000], labels[5, 3:7000])


def test_on_a_full_disk_strips_are_decoded_again_with_a_warning(tmp_path, monkeypatch, caplog):
    labels = np.arange(40 * 5000, dtype=np.uint32).reshape(40, 5000)
    mask = open_mask(as_tiff(tmp_path / "mask.tif", labels, rowsperstrip=3, compression="zlib"))

    def refuse(*_arguments, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mxsplicer.masks.copies.zarr.create_array", refuse)

    np.testing.assert_array_equal(mask[3:20, 100:4000], labels[3:20, 100:4000])
    np.testing.assert_array_equal(mask[...], labels)
    assert "No space left on device" in caplog.text
    assert "TMPDIR" in caplog.text
    assert len(caplog.records) == 1


def test_the_tiled_copy_of_a_mask_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    labels = np.arange(40 * 5000, dtype=np.uint32).reshape(40, 5000)
    mask = open_mask(as_tiff(tmp_path / "mask.tif", labels, rowsperstrip=3, compression="zlib"))
    assert mask[39, 4999] == labels[39, 4999]
    assert len(list(tmp_path.glob("mxsplicer-mask-*"))) == 1

    del mask
    gc.collect()

    assert list(tmp_path.glob("mxsplicer-mask-*")) == []


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((96, 64), "Height and width look swapped: transpose the mask"),
        ((32, 48), "2 times smaller: give the mask of the level"),
        ((16, 24), "4 times smaller"),
        ((128, 192), "2 times larger"),
        ((64, 90), "It may belong to another slide"),
        ((2, 64, 96), "choose one by `page`"),
    ],
)
def test_a_mask_of_another_shape_is_refused_with_the_likely_cause(shape, hint):
    slide, _ = tiny_slide(shape_px=(64, 96))

    with pytest.raises(InputError) as refused:
        check_mask(np.zeros(shape, np.uint32), slide)

    assert f"mask is {shape} but slide 'tiny' is (64, 96) (Y, X) at level 0." in str(refused.value)
    assert hint in str(refused.value)
