"""Every dialect of TIFF that multiplex images come in is read as it was written, and no more than was asked for."""

import pickle
import re

import numpy as np
import pytest
import tifffile

from mxsplicer.errors import InputError
from mxsplicer.images.opening import open_slide
from mxsplicer.images.readers import READERS
from mxsplicer.testing import check_reader

NAMES = ["DAPI", "CD3e", "CD20"]
SIZE = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}


def image(dtype="uint16", shape=(3, 70, 90)):
    """Return smooth noise, which lossless codecs keep and rounding would show in."""
    values = np.random.default_rng(0).integers(0, 120, shape)
    return (values / 7 if np.dtype(dtype).kind == "f" else values - 60 * (np.dtype(dtype).kind == "i")).astype(dtype)


def ome(path, pixels, *, axes="CYX", names=NAMES, **options):
    metadata = {"axes": axes, "Channel": {"Name": names}, **SIZE}
    options = {"photometric": "minisblack", "metadata": metadata, "ome": True, **options}
    tifffile.imwrite(path, pixels, **options)
    return path


def plain(path, pixels, **options):
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack", "metadata": None, **options})
    return path


def pyramid(path, pixels, *, bigtiff=False, byteorder="<", **options):
    options = {"photometric": "minisblack", "tile": (32, 32), "compression": "zlib", **options}
    with tifffile.TiffWriter(path, ome=True, bigtiff=bigtiff, byteorder=byteorder) as writer:
        writer.write(pixels, subifds=2, metadata={"axes": "CYX", "Channel": {"Name": NAMES}, **SIZE}, **options)
        for step in (2, 4):
            writer.write(pixels[..., ::step, ::step], subfiletype=1, metadata=None, **options)
    return path


def ome_xml(files, *, begin="", order="XYCZT"):
    """Return the OME-XML of an image each of whose channels lies in a file of its own."""
    channels = "".join(
        f'<Channel ID="Channel:0:{i}" Name="{name}" SamplesPerPixel="1"/>' for i, name in enumerate(NAMES)
    )
    planes = "".join(
        f'<TiffData FirstC="{i}" FirstZ="0" FirstT="0" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{file}">urn:uuid:0000000{i}</UUID></TiffData>'
        for i, file in enumerate(files)
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {begin}>'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="{order}" Type="uint16" SizeX="90" SizeY="70" '
        f'SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="0.5">{channels}{planes}</Pixels></Image></OME>'
    )


def by_companion(path, pixels):
    """Write a file per channel and the OME-XML that joins them; return one of the files."""
    files = [f"slide-{name}.ome.tif" for name in NAMES]
    (path.parent / "slide.companion.ome").write_text(ome_xml(files), encoding="utf-8")
    for i, (file, channel) in enumerate(zip(files, pixels, strict=True)):
        part = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0000000{}">{}</OME>'.format(
                i, '<BinaryOnly MetadataFile="slide.companion.ome" UUID="urn:uuid:ffff"/>'
            )
        )
        plain(path.parent / file, channel, description=part, tile=(16, 16), compression="zlib")
    return path.parent / files[1]


def companion_itself(path, pixels):
    return by_companion(path, pixels).parent / "slide.companion.ome"


def by_uuid(path, pixels):
    """Write a file per channel, the OME-XML of all in each; return one of the files."""
    files = [f"slide-{name}.ome.tif" for name in NAMES]
    for i, (file, channel) in enumerate(zip(files, pixels, strict=True)):
        begin = f'UUID="urn:uuid:0000000{i}"'
        plain(path.parent / file, channel, description=ome_xml(files, begin=begin), tile=(16, 16), compression="lzw")
    return path.parent / files[2]


def by_master(path, pixels):
    """Write a file per channel, the OME-XML in the first; return the second, which refers to it."""
    files = [f"slide-{name}.ome.tif" for name in NAMES]
    for i, (file, channel) in enumerate(zip(files, pixels, strict=True)):
        begin = f'UUID="urn:uuid:0000000{i}"'
        part = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {begin}>'
        part += f'<BinaryOnly MetadataFile="{files[0]}" UUID="urn:uuid:00000000"/></OME>'
        plain(path.parent / file, channel, description=part if i else ome_xml(files, begin=begin))
    return path.parent / files[1]


def imagej(path, pixels, *, axes="CYX", labels=NAMES, unit="um", **options):
    metadata = {"axes": axes, "unit": unit, **({"Labels": labels} if labels else {})}
    tifffile.imwrite(path, pixels, imagej=True, resolution=(2, 2), metadata=metadata, **options)
    return path


def qptiff(path, pixels):
    head = '<?xml version="1.0" encoding="utf-8"?><PerkinElmer-QPI-ImageDescription>'
    options = {"photometric": "minisblack", "software": "PerkinElmer-QPI", "metadata": None, "compression": "lzw"}
    with tifffile.TiffWriter(path) as writer:
        for step, kind in ((1, "FullResolution"), (2, "ReducedResolution"), (4, "ReducedResolution")):
            for channel, name in zip(pixels, NAMES, strict=True):
                writer.write(
                    channel[::step, ::step],
                    tile=(16, 16),
                    subfiletype=int(step > 1),
                    resolution=(20_000, 20_000),
                    resolutionunit="CENTIMETER",
                    description=f"{head}<ImageType>{kind}</ImageType><Biomarker>{name}</Biomarker>"
                    "</PerkinElmer-QPI-ImageDescription>",
                    **options,
                )
    return path


def codec(compression, dtype="uint16", **options):
    return lambda path, pixels: ome(path, pixels.astype(dtype), compression=compression, **options), dtype


def lerc_pages(path, pixels):
    return ome(path, pixels, compression="lerc", tile=(32, 32))


def samples(planarconfig, **options):
    def write(path, pixels):
        return plain(
            path,
            pixels if planarconfig == "separate" else np.moveaxis(pixels, 0, -1),
            planarconfig=planarconfig,
            **options,
        )

    return write


def axes(order):
    """Write with its axes in that order, those that the image lacks of length one."""

    def write(path, pixels):
        stored = pixels[tuple(slice(None) if axis in "CYX" else None for axis in sorted(order, key="TCZYX".index))]
        return ome(
            path, np.transpose(stored, [sorted(order, key="TCZYX".index).index(one) for one in order]), axes=order
        )

    return write


def shaped(order):
    """Write by tifffile's own metadata, pages of whatever two axes come last."""
    return lambda path, pixels: plain(
        path, np.transpose(pixels, ["CYX".index(one) for one in order]), metadata={"axes": order}, compression="zlib"
    )


FILES = {
    "SubIFD pyramid": (pyramid, "uint16"),
    "SubIFD pyramid, BigTIFF, big-endian": (lambda p, x: pyramid(p, x, bigtiff=True, byteorder=">"), "uint16"),
    "companion": (by_companion, "uint16"),
    "companion itself": (companion_itself, "uint16"),
    "several files by UUID": (by_uuid, "uint16"),
    "several files, one master": (by_master, "uint16"),
    "ImageJ hyperstack": (imagej, "uint16"),
    "ImageJ, five axes": (lambda p, x: imagej(p, x[None, None], axes="TZCYX"), "uint16"),
    "ImageJ stack of slices": (lambda p, x: imagej(p, x, axes="ZYX"), "float32"),
    "pages": (plain, "uint16"),
    "pages in strips": (lambda p, x: plain(p, x, rowsperstrip=9, compression="zlib"), "uint16"),
    "qptiff": (qptiff, "uint16"),
    "samples apart": (samples("separate"), "uint16"),
    "samples apart, tiles": (samples("separate", tile=(16, 16), compression="zlib"), "uint16"),
    "samples together": (samples("contig"), "uint16"),
    "samples together, tiles": (samples("contig", tile=(16, 16), compression="lzw"), "float32"),
    **{f"axes {order}": (axes(order), "uint16") for order in ("TZCYX", "ZCTYX", "CZTYX", "TCYX", "CZYX")},
    **{f"pages of {order[1:]}": (shaped(order), "uint16") for order in ("CXY", "YXC", "XYC", "XCY", "YCX")},
    **{f"{dtype} {'big' if order == '>' else 'little'}-endian": (
        lambda p, x, order=order: ome(p, x, byteorder=order, compression="zlib", predictor=x.dtype.kind != "f"),
        dtype)
       for dtype in ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")
       for order in "<>"},
    "float16": (lambda p, x: plain(p, x, compression="zlib", predictor=3), "float16"),
    "uncompressed big-endian": (lambda p, x: ome(p, x, byteorder=">"), "int32"),
    "LZW": codec("lzw"),
    "LZW, predictor": codec("lzw", predictor=True, tile=(16, 16)),
    "deflate": codec("zlib", tile=(16, 32)),
    "deflate, float predictor": codec("zlib", "float32", predictor=3),
    "zstd": codec("zstd", "float32", tile=(16, 16)),
    "PackBits": codec("packbits", "uint8", rowsperstrip=8),
    "LERC": codec("lerc", "float32", tile=(32, 32)),
    "LERC with zstd": codec("lerc", tile=(32, 32), compressionargs={"compression": "zstd"}),
    "JPEG 2000": codec("jpeg2000", tile=(32, 32), compressionargs={"reversible": True}),
    "JPEG XR": codec("jpegxr", tile=(32, 32), compressionargs={"level": 1.0}),
    "JPEG XL": codec("jpegxl", tile=(32, 32), compressionargs={"lossless": True}),
    "LZMA": codec("lzma"),
    "PNG": codec("png", "uint8", tile=(32, 32)),
}  # fmt: skip


@pytest.mark.parametrize(("write", "dtype"), FILES.values(), ids=FILES)
def test_a_file_of_any_dialect_is_the_image_that_was_written(tmp_path, write, dtype):
    written = image(dtype)
    path = write(tmp_path / "slide.tif", written)

    form = next(form for form, read in READERS.items() if read(path) is not None)
    check_reader(READERS[form], path, written)

    names = None if form == "TIFF" else NAMES
    slide = open_slide(path, markers=NAMES, pixel_size_um=None if names else 0.5)
    assert slide.pixel_size_um == pytest.approx(0.5)
    assert list(slide.markers_in_file) == (names or [])


SCHEMAS = "http://www.openmicroscopy.org/Schemas/OME/"
IN_ONE_FILE = ome_xml(["slide.ome.tif"]).replace('IFD="0" PlaneCount="1"', 'IFD="0" PlaneCount="3"')
IN_ONE_FILE = re.sub("<UUID.*?</UUID>", "", IN_ONE_FILE)
LOGICAL = "".join(
    f'<LogicalChannel Name="{name}"><ChannelComponent Index="{i}" Pixels="Pixels:0"/></LogicalChannel>'
    for i, name in reversed(list(enumerate(NAMES)))
)


@pytest.mark.parametrize(
    "xml",
    [
        *(IN_ONE_FILE.replace("2016-06", year) for year in ("2009-09", "2013-06", "2099-01")),
        IN_ONE_FILE.replace("http:", "https:"),
        IN_ONE_FILE.replace(f'xmlns="{SCHEMAS}2016-06"', ""),
        re.sub(r"<(/?)(?=[A-Z])", r"<\1OME:", IN_ONE_FILE).replace("xmlns=", "xmlns:OME="),
        re.sub("<Channel.*?/>", "", IN_ONE_FILE).replace("<Pixels", f"{LOGICAL}<Pixels").replace("2016-06", "2008-02"),
    ],
    ids=["2009", "2013", "of a year to come", "https", "no namespace", "with a prefix", "before 2009"],
)
def test_ome_xml_of_any_version_names_the_channels(tmp_path, xml):
    written = image()

    slide = open_slide(plain(tmp_path / "slide.ome.tif", written, description=xml))

    assert (list(slide.markers), slide.pixel_size_um) == (NAMES, 0.5)
    np.testing.assert_array_equal(slide.image[...], written)


@pytest.mark.parametrize(
    ("options", "pieces"), [({"tile": (16, 16)}, 6), ({"rowsperstrip": 8}, 2 * 3)], ids=["tiles", "strips"]
)
def test_a_window_decodes_the_pieces_that_it_touches_and_no_other(tmp_path, monkeypatch, options, pieces):
    written = image()
    slide = open_slide(ome(tmp_path / "slide.ome.tif", written, compression="zlib", **options))
    decoded = []
    decode = slide.image._decode
    monkeypatch.setattr(
        slide.image, "_decode", lambda *given, **more: (decoded.append(given[1]), decode(*given, **more))[1]
    )

    window = slide.image[[0, 2], 20:33, 30:50] if "tile" in options else slide.image[[0, 2], 20:33]

    np.testing.assert_array_equal(
        window, written[[0, 2], 20:33, 30:50] if "tile" in options else written[[0, 2], 20:33]
    )
    assert len(decoded) == (2 * 2 * 3 if "tile" in options else pieces)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_an_image_travels_between_processes_as_the_name_of_its_file(tmp_path, compression):
    written = image(shape=(3, 300, 300))
    slide = open_slide(pyramid(tmp_path / "slide.ome.tif", written, compression=compression))

    pickled = pickle.dumps(slide)
    copy = pickle.loads(pickled)

    assert len(pickled) < 4000
    np.testing.assert_array_equal(copy.image[1, 7:99], written[1, 7:99])
    np.testing.assert_array_equal(copy.pyramid[1][...], written[:, ::4, ::4])


def test_an_uncompressed_image_is_not_read_by_whole_planes(tmp_path):
    slide = open_slide(ome(tmp_path / "slide.ome.tif", image(shape=(3, 600, 700))))

    assert slide.tile_px == (512, 512)


@pytest.mark.parametrize("write", [by_companion, by_uuid, by_master])
def test_a_file_that_is_missing_from_a_set_is_named(tmp_path, write):
    path = write(tmp_path / "slide.tif", image())
    lost = next(file for file in sorted(tmp_path.glob("slide-CD*")) if file != path)
    lost.unlink()

    with pytest.raises(InputError, match=rf"lacks 1 of the 3 pages it announces. Put into its folder: {lost.name}\."):
        open_slide(path)


def test_what_a_part_of_a_set_refers_to_must_be_there(tmp_path):
    path = by_companion(tmp_path / "slide.tif", image())
    (tmp_path / "slide.companion.ome").unlink()
    with pytest.raises(InputError, match=r"is part of an image described by .slide.companion.ome., which"):
        open_slide(path)

    companion = companion_itself(tmp_path / "slide.tif", image())
    for part in tmp_path.glob("slide-*"):
        part.unlink()
    with pytest.raises(InputError, match=r"slide\.companion\.ome is OME-XML without pixels"):
        open_slide(companion)


OUTDATED = ["/home/me/export/{}", "../scans/{}", r"D:\scans\2025\{}", r"..\scans\{}", "old name.ome.tif"]


@pytest.mark.parametrize("name", OUTDATED)
@pytest.mark.parametrize("uuid", ["00000000", "00000009", None], ids=["its own UUID", "another UUID", "no UUID"])
def test_a_file_that_is_called_otherwise_in_its_ome_xml_is_read_by_itself(tmp_path, name, uuid):
    written = image()
    begin = f'UUID="urn:uuid:{uuid}"' if uuid else ""
    xml = ome_xml([name.format("slide.ome.tif")] * 3, begin=begin)
    for channel in (1, 2):
        xml = xml.replace(f"urn:uuid:0000000{channel}", "urn:uuid:00000000")
        xml = xml.replace(f'FirstC="{channel}" FirstZ="0" FirstT="0" IFD="0"', f'FirstC="{channel}" IFD="{channel}"')

    slide = open_slide(plain(tmp_path / "slide.ome.tif", written, description=xml))

    assert list(slide.markers) == NAMES
    np.testing.assert_array_equal(slide.image[...], written)


@pytest.mark.parametrize("write", [by_companion, companion_itself, by_uuid])
@pytest.mark.parametrize("name", OUTDATED[:-1])
def test_the_files_of_a_set_are_found_by_their_own_names(tmp_path, write, name):
    written = image()
    path = write(tmp_path / "slide.tif", written)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        for one in NAMES:
            own = f"slide-{one}.ome.tif"
            longer = name.format(own)
            content = content.replace(f'FileName="{own}"'.encode(), f'FileName="{longer}"'.encode())
        if file.suffix == ".ome":
            file.write_bytes(content)
        elif write is by_uuid:
            xml = ome_xml([name.format(f"slide-{one}.ome.tif") for one in NAMES], begin=f'UUID="{uuid_of(file)}"')
            plain(file, tifffile.imread(file, is_ome=False), description=xml)

    np.testing.assert_array_equal(open_slide(path).image[...], written)


@pytest.mark.parametrize("write", [by_companion, by_uuid, by_master])
def test_the_folder_of_a_set_is_its_slide(tmp_path, write):
    written = image()
    (tmp_path / "slide").mkdir()
    write(tmp_path / "slide" / "slide.tif", written)

    slide = open_slide(tmp_path / "slide")

    assert list(slide.markers) == NAMES
    np.testing.assert_array_equal(slide.image[...], written)


def uuid_of(file):
    return f"urn:uuid:0000000{NAMES.index(file.name.removeprefix('slide-').removesuffix('.ome.tif'))}"


def test_renamed_files_of_a_set_are_found_by_their_uuids(tmp_path):
    written = image()
    by_uuid(tmp_path / "slide.tif", written)
    for number, one in enumerate(reversed(NAMES)):
        (tmp_path / f"slide-{one}.ome.tif").rename(tmp_path / f"renamed {number}.ome.tif")

    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(open_slide(path).image[...], written)


@pytest.mark.parametrize("name", ["/etc/passwd", "../slide.tif"])
def test_a_set_does_not_reach_outside_its_folder(tmp_path, name):
    path = plain(tmp_path / "slide.ome.tif", image()[0], description=ome_xml([name, "a.tif", "b.tif"]))

    with pytest.raises(InputError, match="outside its folder"):
        open_slide(path)


@pytest.mark.parametrize(
    "broken",
    [
        ('SizeC="3"', 'SizeC="3000000000"'),
        ('PlaneCount="1"', 'PlaneCount="2000000000"'),
        ('FirstC="1"', 'FirstC="1999999999"'),
    ],
)
def test_planes_that_nobody_could_store_are_refused(tmp_path, broken):
    xml = ome_xml(["slide.ome.tif"] * 3).replace(*broken)

    with pytest.raises(
        InputError, match=r"the OME-XML of slide\.ome\.tif announces \d,000,000,000|1,999,999,999 planes"
    ):
        open_slide(plain(tmp_path / "slide.ome.tif", image()[0], description=xml))


@pytest.mark.parametrize(
    ("unit", "um"), [("micron", 0.5), ("\\u00B5m", 0.5), ("nm", None), ("mm", None), ("pixel", None)]
)
def test_the_unit_of_an_imagej_stack_is_heeded(tmp_path, unit, um):
    path = imagej(tmp_path / "slide.tif", image(), unit=unit)

    if um is None:
        with pytest.raises(InputError, match="lacks a plausible pixel size"):
            open_slide(path)
    else:
        slide = open_slide(path)
        assert (slide.pixel_size_um, slide.pixel_size_from) == (um, "ImageJ")


def test_a_label_that_all_slices_share_names_no_channel(tmp_path):
    with pytest.raises(InputError, match="lacks the names of its 3 channels"):
        open_slide(imagej(tmp_path / "slide.tif", image(), labels=["export.tif"] * 3))


@pytest.mark.parametrize("order", ["ZYX", "TYX"])
def test_focal_planes_and_time_points_are_not_channels(tmp_path, order):
    with pytest.raises(InputError, match=rf"{order} \(3, 70, 90\); one channel axis .* Export a single plane"):
        open_slide(ome(tmp_path / "slide.ome.tif", image(), axes=order))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_is_read_at_a_url(tmp_path, compression):
    fsspec = pytest.importorskip("fsspec")
    written = image()
    path = pyramid(tmp_path / "slide.ome.tif", written, compression=compression)
    memory = fsspec.filesystem("memory")
    memory.put(str(path), "/slide.ome.tif")

    slide = open_slide("memory://slide.ome.tif")

    assert (slide.name, slide.path, slide.pixel_size_um) == ("slide", "memory://slide.ome.tif", 0.5)
    np.testing.assert_array_equal(slide.image[1:, 5:60, ::3], written[1:, 5:60, ::3])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(slide)).pyramid[0][0], written[0, ::2, ::2])
    memory.rm("/slide.ome.tif")
    with pytest.raises(InputError, match=r"nothing found at memory://slide\.ome\.tif"):
        open_slide("memory://slide.ome.tif")


@pytest.mark.parametrize("write", [by_companion, companion_itself, by_uuid, by_master])
def test_an_image_in_several_files_at_a_url_is_refused_with_a_remedy(tmp_path, write):
    fsspec = pytest.importorskip("fsspec")
    path = write(tmp_path / "slide.ome.tif", image())
    memory = fsspec.filesystem("memory")
    for file in tmp_path.iterdir():
        memory.pipe(f"/several/{file.name}", file.read_bytes())

    with pytest.raises(
        InputError, match=r"in several files, which are not read at a URL\. Copy all of them into one folder"
    ):
        open_slide(f"memory://several/{path.name}")
    memory.rm("/several", recursive=True)
