"""An OME-Zarr is read by its specification, from a folder or a URL, or refused in a sentence."""

import functools
import http.server
import json
import pickle
import shutil
import sys
import threading

import numpy as np
import pytest
import zarr

from mxsplicer.errors import InputError
from mxsplicer.images.ngff import open_labels
from mxsplicer.images.opening import open_slide
from mxsplicer.images.readers import ome_zarr
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.location import absolute, locate
from mxsplicer.testing import check_reader

IMAGE = np.random.default_rng(0).integers(0, 9999, (3, 40, 52), dtype=np.uint16)
LABELS = np.arange(40 * 52, dtype=np.uint32).reshape(40, 52) // 7
NAMES = ["DAPI", "CD3e", "CD20"]
KINDS = {"t": "time", "c": "channel"}


def ome_zarr_at(
    store,
    image=IMAGE,
    *,
    axes="cyx",
    version="0.5",
    names=NAMES,
    unit="micrometer",
    size=0.5,
    whole=None,
    steps=(1, 2, 4),
    chunk=16,
    dtype=None,
    sparse=False,
    **extra,
):
    """Write a multiscale image whose axes stand as ``axes`` say; more attributes by keyword."""
    image = image.astype(dtype or image.dtype)
    stored = image[tuple(slice(None) if axis in axes_of(image) else None for axis in sorted(axes, key="tczyx".index))]
    stored = np.transpose(stored, [sorted(axes, key="tczyx".index).index(axis) for axis in axes])
    form = 3 if version == "0.5" else 2
    described = [
        {"name": axis, "type": KINDS.get(axis, "space")} | ({"unit": unit} if axis in "zyx" and unit else {})
        for axis in axes
    ]
    datasets = []
    for number, step in enumerate(steps):
        level = stored[tuple(slice(None, None, step) if axis in "yx" else slice(None) for axis in axes)]
        chunks = tuple(chunk if axis in "yx" else 1 for axis, n in zip(axes, level.shape, strict=True))
        array = zarr.create_array(
            store,
            name=str(number),
            shape=level.shape,
            chunks=chunks,
            dtype=level.dtype,
            zarr_format=form,
            config={"write_empty_chunks": not sparse},
            **extra.get("array", {}),
        )
        array[...] = level
        scale = [size * step if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    multiscale = {"axes": described, "datasets": datasets, "version": version}
    if whole:
        multiscale["coordinateTransformations"] = [
            {"type": "scale", "scale": [whole if axis in "yx" else 1.0 for axis in axes]}
        ]
    attributes = {"multiscales": [multiscale], **extra.get("attributes", {})}
    if names:
        attributes["omero"] = {"channels": [{"label": name, "color": "FF0000"} for name in names]}
    write_attributes(store, attributes, form)
    return store


def axes_of(image):
    return "cyx"[3 - image.ndim :]


def write_attributes(store, attributes, form):
    zarr.open_group(store, mode="a", zarr_format=form).attrs.put({"ome": attributes} if form == 3 else attributes)


WRITTEN = {
    "0.4": {"version": "0.4"},
    "0.5": {"version": "0.5"},
    "five axes": {"axes": "tczyx", "version": "0.4"},
    "channels last": {"axes": "yxc"},
    "channels between": {"axes": "tyzcx"},
    "shards": {"array": {"shards": (1, 32, 32)}},
    "big-endian": {"dtype": ">u2", "version": "0.4"},
    "float": {"dtype": "float32"},
    "int": {"dtype": "int16"},
    "no compression": {"array": {"compressors": None}},
    "one level": {"steps": (1,)},
}


@pytest.mark.parametrize("options", WRITTEN.values(), ids=WRITTEN)
def test_an_ome_zarr_is_read_as_it_was_written(tmp_path, options):
    path = ome_zarr_at(tmp_path / "CRC01.ome.zarr", **options)

    check_reader(ome_zarr.read_ome_zarr, path, IMAGE.astype(np.dtype(options.get("dtype", "u2")).newbyteorder("=")))
    slide = open_slide(path)

    assert (slide.name, slide.markers, slide.pixel_size_um) == ("CRC01", tuple(NAMES), 0.5)
    assert (slide.markers_from, slide.pixel_size_from) == ("OME-Zarr", "OME-Zarr scale")
    assert slide.tile_px == (16, 16)
    for level, step in zip(slide.pyramid, options.get("steps", (1, 2, 4))[1:], strict=True):
        np.testing.assert_array_equal(level[...], slide.image[:, ::step, ::step])
    np.testing.assert_array_equal(slide.image[[2, 0], 30:2:-3, -4:], IMAGE[[2, 0], 30:2:-3, -4:])


@pytest.mark.parametrize(
    ("options", "um"),
    [
        ({"size": 325, "unit": "nanometer"}, 0.325),
        ({"size": 0.0005, "unit": "millimeter"}, 0.5),
        ({"size": 1.0, "whole": 0.25}, 0.25),
        ({"size": 2.0, "whole": 0.25, "unit": "micrometer"}, 0.5),
        ({"size": 0.5, "unit": None}, 0.5),
    ],
)
def test_pixel_size_is_the_product_of_all_scales_in_their_unit(tmp_path, options, um):
    slide = open_slide(ome_zarr_at(tmp_path / "slide.ome.zarr", **options))

    assert slide.pixel_size_um == pytest.approx(um)
    assert ("µm assumed" in slide.pixel_size_from) == (options.get("unit", "micrometer") is None)


@pytest.mark.parametrize("options", [{"size": 1.0, "unit": None}, {"unit": "parsec"}, {"size": 0}, {"size": 1e9}])
def test_a_meaningless_scale_is_refused(tmp_path, options):
    with pytest.raises(
        InputError, match=r"slide\.ome\.zarr \(OME-Zarr\) lacks a plausible pixel size.* Give `pixel_size_um`"
    ):
        open_slide(ome_zarr_at(tmp_path / "slide.ome.zarr", **options))


def test_chunks_that_were_left_out_are_the_fill_value(tmp_path):
    image = np.zeros_like(IMAGE)
    image[:, 16:32, 16:32] = 7
    path = ome_zarr_at(tmp_path / "slide.ome.zarr", image, version="0.4", sparse=True)
    assert not (path / "0" / "0.0.0").exists()

    np.testing.assert_array_equal(open_slide(path).image[...], image)


def test_a_missing_array_is_refused(tmp_path):
    path = ome_zarr_at(tmp_path / "slide.ome.zarr")
    shutil.rmtree(path / "1")

    with pytest.raises(InputError, match=r"slide\.ome\.zarr lists a level '1', but holds no array '1'"):
        open_slide(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_chunk_that_does_not_decode_is_reported(tmp_path, version):
    path = ome_zarr_at(tmp_path / "slide.ome.zarr", version=version)
    chunk = next(file for file in (path / "0").rglob("*") if file.is_file() and file.name[0].isdigit())
    chunk.write_bytes(b"\xff" * 20)

    with pytest.raises(InputError, match=r"slide\.ome\.zarr cannot be read: a chunk of its array '0'"):
        open_slide(path).image[...]


def test_the_layout_of_bioformats2raw_is_opened_at_its_first_series(tmp_path):
    root = tmp_path / "CRC01.zarr"
    ome_zarr_at(root / "0", axes="tczyx", version="0.4", names=None)
    write_attributes(root, {"bioformats2raw.layout": 3}, 2)
    with pytest.raises(InputError, match="Give `markers`"):
        open_slide(root)
    (root / "OME").mkdir()
    channels = "".join(f'<Channel ID="C:{i}" Name="{name}"/>' for i, name in enumerate(NAMES))
    (root / "OME" / "METADATA.ome.xml").write_text(
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels>{channels}</Pixels></Image></OME>'
    )

    for path in (root, root / "0"):
        slide = open_slide(path, markers=NAMES)
        assert (slide.name, slide.image.shape) == ("CRC01", IMAGE.shape)
    assert open_slide(root).markers == tuple(NAMES)
    shutil.rmtree(root / "0")
    with pytest.raises(InputError, match=r"CRC01\.zarr has the layout of bioformats2raw but lacks its first image"):
        open_slide(root)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        (
            {"plate": {"wells": [{"path": "A/1"}]}},
            r"is a plate or a well .* such as .*slide\.zarr/A/1/0",
        ),
        ({"well": {"images": [{"path": "0"}]}}, "is a plate or a well"),
        ({"labels": ["cells"]}, "holds labels and no image. Give the image as the slide, and these labels as its mask"),
        ({"spatialdata_attrs": {}}, r"SpatialData store. Give one of its images, such as .*slide\.zarr/images/NAME"),
        ({}, "is a zarr group without an OME-Zarr image"),
    ],
)
@pytest.mark.parametrize("form", [2, 3])
def test_a_group_that_is_not_an_image_is_refused_with_a_remedy(tmp_path, attributes, sentence, form):
    write_attributes(tmp_path / "slide.zarr", attributes, form)

    with pytest.raises(InputError, match=sentence):
        open_slide(tmp_path / "slide.zarr")


@pytest.mark.parametrize(
    ("axes", "image", "sentence"),
    [
        ("zyx", IMAGE, r"axes ZYX \(3, 40, 52\); one channel axis"),
        ("tyx", IMAGE, r"axes TYX \(3, 40, 52\); one channel axis"),
    ],
)
def test_an_ome_zarr_without_one_channel_axis_is_refused(tmp_path, axes, image, sentence):
    path = ome_zarr_at(tmp_path / "slide.ome.zarr", axes="cyx" if image.ndim == 3 else "yx", image=image)
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["ome"]["multiscales"][0]["axes"] = [*axes]
    (path / "zarr.json").write_text(json.dumps(document))

    with pytest.raises(InputError, match=sentence):
        open_slide(path)


def test_pixels_that_no_slide_has_are_refused_although_chunks_may_be_absent(tmp_path):
    path = ome_zarr_at(tmp_path / "slide.ome.zarr", version="0.4", steps=(1,))
    document = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps(document | {"shape": [3, 2**24, 2**24]}))

    with pytest.raises(InputError, match=r"metadata of slide\.ome\.zarr is invalid \('0' is \(3, 16777216"):
        open_slide(path)


def test_a_chunk_larger_than_memory_is_refused_before_it_is_decoded(tmp_path):
    path = ome_zarr_at(tmp_path / "slide.ome.zarr", version="0.4")
    document = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(
        json.dumps(document | {"shape": [3, 99999, 99999], "chunks": [3, 99999, 99999]})
    )

    with pytest.raises(InputError, match=r"stored in chunks of .* 56 GiB each; .* Write it again in smaller chunks"):
        open_slide(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_of_an_ome_zarr_are_opened_by_name_or_alone(tmp_path, version):
    path = ome_zarr_at(tmp_path / "slide.ome.zarr", version=version)
    form = 3 if version == "0.5" else 2
    assert_no_labels(path)
    ome_zarr_at(
        path / "labels" / "cells",
        LABELS,
        axes="tczyx",
        version=version,
        names=None,
        attributes={"image-label": {"source": {}}},
    )
    write_attributes(path / "labels", {"labels": ["cells"]}, form)

    for place in (path / "labels" / "cells", path / "labels", path):
        labels, *_ = open_labels(place)
        assert labels.dtype == np.uint32
        np.testing.assert_array_equal(labels[5:, ::3], LABELS[5:, ::3])
    with pytest.raises(InputError, match="holds labels and no image"):
        open_slide(path / "labels" / "cells")
    write_attributes(path / "labels", {"labels": ["cells", "nuclei"]}, form)
    with pytest.raises(InputError, match=r"holds 2 label images. Give one of them: .*labels/cells, .*labels/nuclei"):
        open_labels(path)


def assert_no_labels(path):
    with pytest.raises(InputError, match=r"axes CYX .* a label image \(Y, X\) of integers is needed"):
        open_labels(path)


def test_labels_are_not_found_outside_a_zarr_group(tmp_path):
    zarr.create_array(tmp_path / "mask.zarr", shape=(4, 4), dtype="u4")

    assert open_labels(tmp_path / "mask.zarr") is None
    assert open_labels(tmp_path) is None
    assert open_labels(tmp_path / "absent.tif") is None


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    handler = functools.partial(_Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join(timeout=10)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_is_read_over_http(tmp_path, server, version):
    pytest.importorskip("aiohttp")
    ome_zarr_at(tmp_path / "CRC01.ome.zarr", version=version, array={"shards": (1, 32, 32)} if version == "0.5" else {})
    ome_zarr_at(tmp_path / "other.ome.zarr", version=version)

    slide = open_slide(f"{server}/CRC01.ome.zarr/")

    assert (slide.name, slide.markers, slide.path) == ("CRC01", tuple(NAMES), f"{server}/CRC01.ome.zarr")
    np.testing.assert_array_equal(slide.image[1:, 10:30, ::5], IMAGE[1:, 10:30, ::5])
    np.testing.assert_array_equal(slide.pyramid[0][...], IMAGE[:, ::2, ::2])
    assert fingerprint(slide.path) == fingerprint(slide.path) != fingerprint(f"{server}/other.ome.zarr")
    with pytest.raises(InputError, match=rf"nothing found at {server}/absent\.zarr"):
        open_slide(f"{server}/absent.zarr")


def test_a_server_that_does_not_answer_is_reported():
    pytest.importorskip("aiohttp")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/slide\.ome\.zarr.* cannot be read .* Check the address"):
        open_slide("http://127.0.0.1:9/slide.ome.zarr")


def test_an_ome_zarr_is_read_from_memory_and_from_a_file_url(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    path = ome_zarr_at(tmp_path / "CRC01.ome.zarr")
    memory = fsspec.filesystem("memory")
    memory.put(str(path), "/CRC01.ome.zarr", recursive=True)

    for url in ("memory://CRC01.ome.zarr", path.as_uri()):
        slide = open_slide(url)
        np.testing.assert_array_equal(slide.image[...], IMAGE)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(slide)).image[1], IMAGE[1])
    assert slide.path == path
    memory.rm("/CRC01.ome.zarr", recursive=True)


@pytest.mark.parametrize(("package", "url"), [("s3fs", "s3://bucket/slide.zarr"), ("aiohttp", "https://host/x.zarr")])
def test_the_package_that_reads_a_url_is_named_where_it_is_missing(monkeypatch, package, url):
    pytest.importorskip("fsspec")
    for module in [name for name in sys.modules if name.startswith(("s3fs", "fsspec.implementations.http"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    for scheme in ("s3", "https"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)

    with pytest.raises(InputError, match=rf"Install support for \w+:// with `pip install .*{package}"):
        open_slide(url)


def test_an_unknown_scheme_is_refused():
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match=r"gopher://host/slide.* is a URL that cannot be read .* Pass a path"):
        open_slide("gopher://host/slide")


def test_urls_and_paths_are_distinguished(tmp_path):
    assert locate("C:/slides/a.tif").name == "a.tif"
    assert locate(tmp_path) == tmp_path
    assert absolute(locate("s3://bucket/slide.zarr/")) == "s3://bucket/slide.zarr"
    assert absolute(tmp_path / "a.tif") == str(tmp_path.resolve() / "a.tif")
