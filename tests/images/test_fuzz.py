"""Whatever bytes a file holds, it is read as an image of the shape it promises, or refused in a sentence.

The files are small and whole before they are cut, bitten or made to promise a terabyte. No other exception gets out,
nothing hangs, and nothing is allocated that the file could not hold: the address space of the process is limited while
they are opened. More examples: MXSPLICER_FUZZ=5000 pytest tests/images/test_fuzz.py.
"""

import io
import json
import math
import os
import re
import struct
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mxsplicer.errors import InputError
from mxsplicer.images.ngff import open_labels
from mxsplicer.images.opening import open_slide

EXAMPLES = int(os.environ.get("MXSPLICER_FUZZ", "60"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=20_000,  # ms: a hang
    derandomize=EXAMPLES <= 60,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
ROOM = 3 << 30  # bytes that a process may take beyond what it holds when it begins
IMAGE = np.random.default_rng(0).integers(0, 999, (3, 40, 50), dtype=np.uint16)


@contextmanager
def limited_memory():
    """Limit the memory of the process to ``ROOM`` more than now, if the system can do so."""
    if sys.platform != "linux":
        yield
        return
    import resource

    held = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def read_or_refused(path):
    """Open a file as a user would and read its corners and, where it is small, all of it."""
    with limited_memory():
        try:
            slide = opened(path)
            for image in (slide.image, *slide.pyramid):
                check_window(image, (slice(0, 1), slice(0, 8), slice(0, 8)))
                check_window(image, (slice(None), slice(-3, None), slice(-3, None)))
                check_window(image, (slice(None),) * 3)
        except InputError as error:
            assert_one_sentence(str(error))


def opened(path):
    try:
        return open_slide(path, pixel_size_um=0.5)
    except InputError as error:
        assert_one_sentence(str(error))
        channels = re.search(r"name its (\d+) channels", str(error))
        if channels is None:
            raise
        return open_slide(path, markers=[f"m{i}" for i in range(int(channels[1]))], pixel_size_um=0.5)


def check_window(image, key):
    wanted = tuple(len(range(*one.indices(n))) for one, n in zip(key, image.shape, strict=True))
    if math.prod(wanted) < 1e6:
        window = image[key]
        assert window.shape == wanted
        assert window.dtype == image.dtype


def assert_one_sentence(message):
    assert 20 < len(message) < 3000
    assert message.endswith(".")
    assert "Traceback" not in message


def write(kind, file):
    options = {"photometric": "minisblack", "metadata": None}
    names = {"axes": "CYX", "Channel": {"Name": ["A", "B", "C"]}, "PhysicalSizeX": 0.5}
    if kind == "OME pyramid":
        with tifffile.TiffWriter(file, ome=True) as writer:
            tiled = {"tile": (16, 16), "compression": "zlib", "photometric": "minisblack"}
            writer.write(IMAGE, subifds=1, metadata=names, **tiled)
            writer.write(IMAGE[:, ::2, ::2], subfiletype=1, metadata=None, **tiled)
    elif kind == "OME BigTIFF":
        tifffile.imwrite(file, IMAGE, ome=True, metadata=names, bigtiff=True, byteorder=">", photometric="minisblack")
    elif kind == "ImageJ":
        tifffile.imwrite(file, IMAGE, imagej=True, metadata={"axes": "CYX", "Labels": ["A", "B", "C"]})
    elif kind == "shaped":
        tifffile.imwrite(file, IMAGE, photometric="minisblack", rowsperstrip=7, compression="lzw")
    elif kind == "samples":
        tifffile.imwrite(file, IMAGE, planarconfig="separate", tile=(16, 32), compression="zstd", **options)
    elif kind == "JPEG":
        tifffile.imwrite(file, (IMAGE >> 2).astype(np.uint8), compression="jpeg", tile=(32, 32), **options)
    elif kind == "JPEG 2000":
        tifffile.imwrite(file, IMAGE, compression="jpeg2000", tile=(32, 32), **options)
    elif kind == "JPEG XR":
        tifffile.imwrite(file, IMAGE, compression="jpegxr", tile=(32, 32), **options)
    elif kind == "LERC":
        tifffile.imwrite(file, IMAGE, compression="lerc", tile=(32, 32), **options)
    else:
        tifffile.imwrite(file, IMAGE, compression="packbits", **options)


KINDS = [
    "OME pyramid",
    "OME BigTIFF",
    "ImageJ",
    "shaped",
    "samples",
    "JPEG",
    "JPEG 2000",
    "JPEG XR",
    "LERC",
    "PackBits",
]


def content_of(kind):
    if kind not in _CONTENT:
        file = io.BytesIO()
        write(kind, file)
        _CONTENT[kind] = file.getvalue()
    return _CONTENT[kind]


_CONTENT: dict[str, bytes] = {}


def judge(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slide.ome.tif")
        path.write_bytes(content)
        read_or_refused(path)


def places_of(content):
    """Return where each page of a TIFF begins and ends, and where its tags stand: (page offsets, tag offsets)."""
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
        pages = [page.aspage() if not isinstance(page, tifffile.TiffPage) else page for page in tiff.pages]
        pages += [level for page in pages for level in (page.pages or ())]
        return [page.offset for page in pages], [(tag.offset, tag.code) for page in pages for tag in page.tags]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_at_any_page_is_refused_or_read(kind):
    content = content_of(kind)
    pages, tags = places_of(content)

    for place in sorted({*pages, *(offset for offset, _ in tags[::3]), len(content) - 1, 1, 4, 8}):
        for end in (place, place + 1):
            judge(content[:end])


@FUZZ
@given(kind=st.sampled_from(KINDS), part=st.floats(0, 1))
def test_a_file_that_ends_anywhere_is_refused_or_read(kind, part):
    content = content_of(kind)

    judge(content[: int(part * len(content))])


@FUZZ
@given(
    kind=st.sampled_from(KINDS),
    bites=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6),
    at_the_head=st.booleans(),
)
def test_a_file_with_flipped_bytes_is_refused_or_read(kind, bites, at_the_head):
    content = bytearray(content_of(kind))
    for place, values in bites:
        start = int(place * (min(len(content), 700) if at_the_head else len(content)))
        content[start : start + len(values)] = values[: len(content) - start]

    judge(bytes(content))


# Of any tag: what a header may say that is wrong, up to a terabyte.
VALUES = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 7, 8, 16, 255, 256, 65535, 65536, 100_000, 1_000_000, 2**31 - 1, 2**31, 2**32 - 1]),
    st.integers(0, 2**32 - 1),
)
SIZES = [256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 339, 347, 32997]


@FUZZ
@given(
    kind=st.sampled_from(KINDS),
    changes=st.lists(
        st.tuples(st.sampled_from(SIZES), st.integers(0, 5), st.sampled_from(["value", "count", "type"]), VALUES),
        min_size=1,
        max_size=4,
    ),
)
def test_a_file_with_a_wrong_header_is_refused_or_read(kind, changes):
    content = bytearray(content_of(kind))
    _, tags = places_of(bytes(content))
    big, order = content[2:4] in (b"\x00+", b"+\x00"), "<" if content[:2] == b"II" else ">"
    for code, nth, what, value in changes:
        found = [offset for offset, of_tag in tags if of_tag == code]
        if not found:
            continue
        offset = found[nth % len(found)]
        if what == "type":
            struct.pack_into(f"{order}H", content, offset + 2, value % 20)
        elif what == "count":
            struct.pack_into(f"{order}{'Q' if big else 'I'}", content, offset + 4, value)
        else:
            short = struct.unpack_from(f"{order}H", content, offset + 2)[0] == 3
            place = offset + (12 if big else 8)
            struct.pack_into(f"{order}{'H' if short else 'I'}", content, place, value % 2**16 if short else value)

    judge(bytes(content))


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_that_promises_a_terabyte_is_refused_when_it_is_opened(kind, tmp_path):
    content = bytearray(content_of(kind))
    _, tags = places_of(bytes(content))
    big, order = content[2:4] in (b"\x00+", b"+\x00"), "<" if content[:2] == b"II" else ">"
    for offset, code in tags:
        if code in (256, 257, 278, 322, 323):  # width, length, rows per strip, tile width and length
            struct.pack_into(f"{order}HH", content, offset + 2, 4, 0)
            struct.pack_into(f"{order}{'QI' if big else 'II'}", content, offset + 4, 1, 1_000_000)
    path = tmp_path / "slide.ome.tif"
    path.write_bytes(content)

    with limited_memory(), pytest.raises(InputError, match=r"slide\.ome\.tif"):
        open_slide(path, markers=["A", "B", "C"], pixel_size_um=0.5)


def multiscale(**changes):
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    datasets = [{"path": str(i), "coordinateTransformations": scale} for i in range(2)]
    axes = [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx")]
    return {
        "multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}],
        "omero": {"channels": [{"label": name} for name in "ABC"]},
    } | changes


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Return an OME-Zarr of each format, its documents by name."""
    written = {}
    for form in (2, 3):
        path = tmp_path_factory.mktemp("zarr") / f"slide{form}.ome.zarr"
        attributes = multiscale() if form == 2 else {"ome": multiscale()}
        group = zarr.open_group(path, mode="w", zarr_format=form, attributes=attributes)
        for number, step in enumerate((1, 2)):
            level = IMAGE[:, ::step, ::step]
            shards = {"shards": (1, 32, 32)} if form == 3 else {}
            array = group.create_array(str(number), shape=level.shape, chunks=(1, 16, 16), dtype=level.dtype, **shards)
            array[...] = level
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name[0] in ".z"]
        written[form] = path, {file: file.read_bytes() for file in files if file.name != ".zgroup"}
    return written


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["0", "..", "/", "c", "x", "scale", "micrometer", 2**40, -1, 0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def places_in(document, prefix=()):
    """Return every path of keys into a JSON document."""
    yield prefix
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield from places_in(value, (*prefix, key))


def mutated(document, place, value, how):
    if not place:
        return value
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    if how == "remove":
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return document


@FUZZ
@given(data=st.data(), form=st.sampled_from([2, 3]), how=st.sampled_from(["replace", "replace", "remove"]))
def test_an_ome_zarr_with_changed_metadata_is_refused_or_read(stores, data, form, how):
    path, documents = stores[form]
    file = data.draw(st.sampled_from(sorted(documents)))
    document = json.loads(documents[file])
    place = data.draw(st.sampled_from(list(places_in(document))))
    try:
        file.write_text(json.dumps(mutated(document, place, data.draw(JSON), how)), encoding="utf-8")
        read_or_refused(path)
    finally:
        file.write_bytes(documents[file])


@FUZZ
@given(data=st.data(), form=st.sampled_from([2, 3]), values=st.binary(min_size=1, max_size=4))
def test_an_ome_zarr_with_flipped_bytes_is_refused_or_read(stores, data, form, values):
    path, _ = stores[form]
    file = data.draw(st.sampled_from(sorted(file for file in path.rglob("*") if file.is_file())))
    whole = file.read_bytes()
    start = int(data.draw(st.floats(0, 1)) * len(whole))
    try:
        cut = data.draw(st.booleans())
        file.write_bytes(whole[:start] if cut else whole[:start] + values + whole[start + len(values) :])
        read_or_refused(path)
        with limited_memory():
            try:
                open_labels(path)
            except InputError as error:
                assert_one_sentence(str(error))
    finally:
        file.write_bytes(whole)
