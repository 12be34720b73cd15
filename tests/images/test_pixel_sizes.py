"""The size of a pixel is read in every spelling; what is not understood is reported, never replaced."""

import numpy as np
import pytest
import tifffile

from mxsplicer.errors import InputError
from mxsplicer.images.opening import open_slide

IMAGE = np.random.default_rng(0).integers(0, 999, (2, 20, 30), dtype=np.uint16)
ONE_UM = {"resolution": (10_000, 10_000), "resolutionunit": "CENTIMETER"}


def sized(path, attributes, **options):
    channels = '<Channel ID="C:0" Name="DAPI"/><Channel ID="C:1" Name="CD3e"/>'
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="30" SizeY="20" '
        f'SizeC="2" SizeZ="1" SizeT="1" {attributes}>{channels}<TiffData/></Pixels></Image></OME>'
    )
    options = {"photometric": "minisblack", "metadata": None, **options}
    tifffile.imwrite(path, IMAGE, description=xml.encode(), **options)
    return path


def units(number, unit):
    return f'PhysicalSizeX="{number}" PhysicalSizeXUnit="{unit}" PhysicalSizeY="{number}" PhysicalSizeYUnit="{unit}"'


MICROMETRE = [
    *("µm", "μm", "um", "UM", "micron", "microns", "Micron", "micrometer", "micrometers", "micrometre", "MICROMETER"),
    *(
        "UnitsLength.MICROMETER",
        "Âµm",
        "Î¼m",
        "Ã‚Âµm",
        "?m",
        "??m",
        "\ufffdm",
        "\\u00b5m",
        "&amp;#181;m",
        " µm ",
        "u",
        "µ",
    ),
    *("um/pixel", "µm/px", "microns per pixel", "[um]", ""),
]
OTHERS = {
    "nm": 500,
    "nanometer": 500,
    "mm": 5e-4,
    "cm": 5e-5,
    "m": 5e-7,
    "Å": 5000,
    "angstrom": 5000,
    "in": 0.5 / 25_400,
}
SPELLINGS = [(unit, "0.5") for unit in MICROMETRE] + [(unit, f"{number:.9g}") for unit, number in OTHERS.items()]
SPELLINGS += [("µm", "0,5"), ("µm", "5.0E-1"), ("µm", " 0.50 "), ("m", "0.5")]  # the last lost its micro sign


@pytest.mark.parametrize(("unit", "number"), SPELLINGS)
@pytest.mark.parametrize("tag", [{}, ONE_UM], ids=["alone", "contradicted"])
def test_a_unit_of_any_spelling_is_understood_and_wins_over_the_resolution_tag(tmp_path, caplog, unit, number, tag):
    slide = open_slide(sized(tmp_path / "slide.ome.tif", units(number, unit), **tag))

    assert slide.pixel_size_um == pytest.approx(0.5, rel=1e-6)
    assert slide.pixel_size_from == "OME-XML"
    assert ("OME-XML gives 0.5 µm per pixel and resolution tag 1" in caplog.text) == bool(tag)


@pytest.mark.parametrize("number", ["0.5 µm", "0,5um", "500 nm"])
@pytest.mark.parametrize("unit", ["µm", ""])
def test_a_number_may_be_written_with_its_unit(tmp_path, number, unit):
    slide = open_slide(sized(tmp_path / "slide.ome.tif", units(number, unit), **ONE_UM))

    assert (slide.pixel_size_um, slide.pixel_size_from) == (pytest.approx(0.5), "OME-XML")


@pytest.mark.parametrize("unit", ["furlong", "parsec", "xyz", "unknown"])
def test_a_number_of_an_unknown_unit_is_reported_and_not_replaced(tmp_path, unit):
    path = sized(tmp_path / "slide.ome.tif", units(0.5, unit), **ONE_UM)

    with pytest.raises(
        InputError, match=rf"it gives 0.5 in the unit '{unit}' \(OME-XML\), which is not a known length"
    ):
        open_slide(path)
    assert open_slide(path, pixel_size_um=0.5).pixel_size_from == "given"


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        (units(0.5, "pixel"), "it gives 0.5 in the unit 'pixel'"),
        (units(325, "µm"), "it gives 325 µm, and 0.02 to 20 µm are plausible"),
    ],
)
def test_an_implausible_number_is_not_replaced_by_the_resolution_tag(tmp_path, attributes, sentence):
    with pytest.raises(InputError, match=sentence):
        open_slide(sized(tmp_path / "slide.ome.tif", attributes, **ONE_UM))


@pytest.mark.parametrize("attributes", ["", units(0, "µm"), units(1, "pixel"), units("", "µm"), units("NaN", "µm")])
def test_the_resolution_tag_is_used_where_the_xml_gives_no_size(tmp_path, attributes):
    slide = open_slide(sized(tmp_path / "slide.ome.tif", attributes, **ONE_UM))

    assert (slide.pixel_size_um, slide.pixel_size_from) == (1.0, "resolution tag")


@pytest.mark.parametrize("axis", "XY")
def test_one_side_of_a_pixel_is_both(tmp_path, axis):
    assert open_slide(sized(tmp_path / "slide.ome.tif", f'PhysicalSize{axis}="0.5"')).pixel_size_um == 0.5


@pytest.mark.parametrize("unit", ["micron", "um", "\\u00B5m", "Microns", "micrometer"])
def test_the_unit_of_an_imagej_stack_is_understood(tmp_path, unit):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, IMAGE, imagej=True, resolution=(2, 2), metadata={"axes": "CYX", "unit": unit})

    assert open_slide(path, markers=["DAPI", "CD3e"]).pixel_size_um == 0.5


def test_an_ome_xml_of_another_level_is_not_believed(tmp_path):
    path = sized(tmp_path / "slide.ome.tif", units(0.5, "µm"))
    path.write_bytes(path.read_bytes().replace(b'SizeX="30" SizeY="20"', b'SizeX="60" SizeY="40"'))

    with pytest.raises(InputError, match=r"lacks .* pixel size .its OME-XML describes pages of another size or number"):
        open_slide(path)
