"""Any slice of an opened TIFF is what tifffile reads of the whole file."""

import csv
import re

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxsplicer.errors import InputError
from mxsplicer.images.tiff import open_tiff

FILES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["uint8", "uint16", "uint32", "float32"]),
        "byteorder": st.sampled_from("<>"),
        "compression": st.sampled_from([None, "zlib", "lzw", "zstd"]),
        "layout": st.sampled_from([{"tile": (16, 32)}, {"rowsperstrip": 7}, {}]),
        "channels": st.sampled_from(["pages", "separate", "contig"]),
        "shape": st.tuples(st.integers(2, 5), st.integers(8, 70), st.integers(8, 70)),
        "seed": st.integers(0, 99),
    }
)


def write(path, *, dtype, byteorder, compression, layout, channels, shape, seed):
    image = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    if channels == "contig":
        image = np.moveaxis(image, 0, -1)
    tifffile.imwrite(
        path,
        image,
        byteorder=byteorder,
        compression=compression,
        photometric="minisblack",
        planarconfig=None if channels == "pages" else channels,
        metadata=None,
        **layout,
    )
    return image


def index_of(length):
    ends = st.one_of(st.none(), st.integers(-length - 3, length + 3))
    steps = st.sampled_from([None, 1, 2, 5, -1, -3])
    return st.one_of(st.integers(-length, length - 1), st.builds(slice, ends, ends, steps))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=FILES, data=st.data())
def test_a_slice_of_a_file_is_the_slice_of_its_array(tmp_path, file, data):
    path = tmp_path / "slide.tif"
    written = write(path, **file)

    image = open_tiff(path).image

    whole = tifffile.imread(path)
    np.testing.assert_array_equal(whole, written)
    assert (image.shape, np.dtype(image.dtype).kind) == (whole.shape, whole.dtype.kind)
    for _ in range(5):
        key = data.draw(st.tuples(*(index_of(n) for n in whole.shape[: data.draw(st.integers(1, 3))])))
        np.testing.assert_array_equal(image[key], whole[key], strict=False)
        assert np.shape(image[key]) == whole[key].shape


def test_every_level_of_a_pyramid_is_opened(tmp_path):
    image = np.random.default_rng(0).integers(0, 9999, (3, 200, 180), dtype=np.uint16)
    options = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "slide.ome.tif", ome=True) as writer:
        writer.write(image, subifds=2, **(options | {"metadata": {"axes": "CYX"}}))
        for step in (2, 4):
            writer.write(image[:, ::step, ::step], subfiletype=1, **options)

    series = open_tiff(tmp_path / "slide.ome.tif")

    np.testing.assert_array_equal(series.image[...], image)
    assert [level.shape for level in series.pyramid] == [(3, 100, 90), (3, 50, 45)]
    np.testing.assert_array_equal(series.pyramid[1][2, 10:, 3:20], image[2, ::4, ::4][10:, 3:20])


@pytest.mark.parametrize("layout", [{"tile": (32, 32)}, {"rowsperstrip": 16}])
def test_a_jpeg_is_decoded_as_tifffile_decodes_it(tmp_path, layout):
    y, x = np.mgrid[:90, :70]
    image = np.stack([y, x, y + x]).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "slide.tif", image, compression="jpeg", photometric="minisblack", metadata=None, **layout
    )

    opened = open_tiff(tmp_path / "slide.tif").image

    whole = tifffile.imread(tmp_path / "slide.tif")
    np.testing.assert_array_equal(opened[1, 20:80, 5:66], whole[1, 20:80, 5:66])


def test_tiles_that_a_sparse_file_leaves_out_are_zero(tmp_path):
    def tiles():
        for tile in range(8):
            yield None if tile % 2 else np.full((16, 16), tile, np.uint16)

    tifffile.imwrite(
        tmp_path / "slide.tif",
        tiles(),
        shape=(2, 32, 32),
        dtype=np.uint16,
        tile=(16, 16),
        compression="zlib",
        photometric="minisblack",
        metadata=None,
    )

    image = open_tiff(tmp_path / "slide.tif").image[...]

    assert [int(image[c, y, x]) for c in (0, 1) for y in (0, 20) for x in (0, 20)] == [0, 0, 2, 0, 4, 0, 6, 0]


def test_the_planes_of_a_multi_file_image_come_each_from_their_file(shared_data):
    folder = shared_data / "reader-corpus" / "tlnagy__exampletiffs" / "master"

    image = open_tiff(folder / "multifile-Z1.ome.tiff").image

    for z in range(5):
        with tifffile.TiffFile(folder / f"multifile-Z{z + 1}.ome.tiff") as alone:
            np.testing.assert_array_equal(image[z], alone.pages[0].asarray())


def test_every_odd_file_is_read_as_tifffile_reads_it_or_refused(shared_data):
    corpus = shared_data / "reader-corpus"
    table = list(csv.DictReader((corpus / "manifest.csv").read_text(encoding="utf-8").splitlines()))
    refused = []
    for row in table:
        path, sentence = corpus / row["file"], row["tifffile_2026.3.3_says"]
        try:
            image = open_tiff(path).image
            pixels = image[...] if np.prod(image.shape) < 1e7 else image[:64, 100:164]
        except InputError:
            refused.append(row["file"])
            continue
        assert "OPEN FAILS" not in sentence
        assert "PIXELS FAIL" not in sentence
        # A part of a multi-file image opens the whole of it; tifffile knows that only of the master.
        master = re.sub(r"multifile-Z\d", "multifile-Z1", str(path))
        with tifffile.TiffFile(master) as tiff:
            theirs = tiff.series[0].asarray()
        theirs = np.squeeze(theirs) if theirs.ndim != image.ndim else theirs
        theirs = theirs if theirs.size < 1e7 else theirs[:64, 100:164]
        np.testing.assert_array_equal(pixels, theirs.reshape(pixels.shape), err_msg=path.name)
    readable = [row["file"] for row in table if "pixels ok" in row["tifffile_2026.3.3_says"]]
    # Files of the fuzzer that have no pixels are of no use to anyone; fax codecs are not in every imagecodecs.
    lost = [file for file in readable if file in refused and "oom_crash" not in file]
    assert [file for file in lost if "fax" not in file and "_g4" not in file] == []


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_file_is_refused_when_it_is_opened(tmp_path, compression):
    path = tmp_path / "slide.tif"
    image = np.random.default_rng(0).integers(0, 9999, (3, 64, 64), dtype=np.uint16)
    tifffile.imwrite(path, image, compression=compression, photometric="minisblack", metadata=None)
    whole = path.read_bytes()

    for part in (0.9, 0.5, 0.1, 0.001):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(InputError, match=r"slide\.tif .*(truncated|not a TIFF|damaged)"):
            open_tiff(path)


def test_a_damaged_tile_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, np.ones((2, 64, 64), np.uint16), compression="zlib", photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[1].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(bytes(content))

    image = open_tiff(path).image

    assert image[0].all()
    with pytest.raises(InputError, match=r"slide\.tif is damaged: strip 0 of page 1"):
        image[1]


@pytest.mark.parametrize("n_pages", [3, 120])
def test_pages_that_point_to_each_other_in_a_circle_end(tmp_path, n_pages):
    path = tmp_path / "slide.tif"
    pages = np.zeros((n_pages, 8, 8), np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for page in pages:
            writer.write(page, photometric="minisblack", metadata=None, contiguous=False)
    with tifffile.TiffFile(path) as tiff:
        offsets = [page.offset for page in tiff.pages]
    content = bytearray(path.read_bytes())
    n_tags = int.from_bytes(content[offsets[-1] : offsets[-1] + 2], "little")
    place = offsets[-1] + 2 + 12 * n_tags
    content[place : place + 4] = offsets[1].to_bytes(4, "little")
    path.write_bytes(bytes(content))

    if n_pages > 100:
        with pytest.raises(InputError, match="its pages point to each other in a circle"):
            open_tiff(path)
    else:
        assert open_tiff(path).image.shape[1:] == (8, 8)


def test_an_image_without_samples_is_refused(tmp_path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["SamplesPerPixel"].overwrite(0)

    with pytest.raises(InputError, match=r"slide\.tif"):
        open_tiff(path).image[...]
