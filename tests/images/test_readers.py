"""A slide opens with its markers and pixel size, or says what is missing and which option supplies it."""

import pickle

import numpy as np
import pytest
import tifffile

from mxsplicer.errors import InputError
from mxsplicer.images.opening import open_slide

IMAGE = np.random.default_rng(0).integers(0, 9999, (3, 40, 50), dtype=np.uint16)
NAMES = ["DAPI", "CD3e", "CD20"]


def ome_tiff(path, image=IMAGE, *, axes="CYX", names=NAMES, **metadata):
    metadata = {"axes": axes, **({"Channel": {"Name": names}} if names else {}), **metadata}
    tifffile.imwrite(path, image, photometric="minisblack", metadata=metadata, ome=True)
    return path


def plain_tiff(path, image=IMAGE, **options):
    tifffile.imwrite(path, image, **({"photometric": "minisblack", "metadata": None} | options))
    return path


def micrometres(size, unit="µm"):
    return {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": size, "PhysicalSizeYUnit": unit}


def test_markers_and_pixel_size_are_read_from_ome_xml(tmp_path):
    slide = open_slide(ome_tiff(tmp_path / "CRC01.ome.tiff", **micrometres(0.325)))

    assert (slide.name, slide.markers, slide.pixel_size_um) == ("CRC01", tuple(NAMES), 0.325)
    assert (slide.markers_from, slide.pixel_size_from) == ("OME-TIFF", "OME-XML")
    np.testing.assert_array_equal(slide.image[1, 3:9, ::7], IMAGE[1, 3:9, ::7])


@pytest.mark.parametrize(
    ("size", "unit", "um"),
    [(0.5, "µm", 0.5), (325, "nm", 0.325), (0.0005, "mm", 0.5), (5e-7, "m", 0.5), (0.5, "m", 0.5)],
)
def test_pixel_sizes_of_every_unit_are_micrometres_and_a_lost_micro_sign_is_put_back(tmp_path, size, unit, um):
    slide = open_slide(ome_tiff(tmp_path / "slide.ome.tif", **micrometres(size, unit)))

    assert slide.pixel_size_um == pytest.approx(um)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, "lacks a plausible pixel size. Give `pixel_size_um`"),
        (micrometres(1, "pixel"), "lacks a plausible pixel size. Give"),
        (micrometres(325, "µm"), "it gives 325 µm, and 0.02 to 20 µm are plausible"),
    ],
)
def test_a_missing_or_implausible_pixel_size_is_refused(tmp_path, metadata, expected):
    path = ome_tiff(tmp_path / "slide.ome.tif", **metadata)

    with pytest.raises(InputError, match=f"slide.ome.tif .*{expected}"):
        open_slide(path)
    assert open_slide(path, pixel_size_um=0.5).pixel_size_um == 0.5


@pytest.mark.parametrize("size", [0, -1, 325, float("nan")])
def test_a_pixel_size_that_cannot_be_right_is_not_taken_from_the_user_either(tmp_path, size):
    with pytest.raises(InputError, match=r"`pixel_size_um` is .* are plausible"):
        open_slide(ome_tiff(tmp_path / "slide.ome.tif"), pixel_size_um=size)


def test_arguments_override_the_metadata_of_the_file(tmp_path):
    path = ome_tiff(tmp_path / "slide.ome.tif", **micrometres(0.325))
    (tmp_path / "markers.csv").write_text("marker_name\nHoechst\nCD8\nCD4\n", encoding="utf-8")

    slide = open_slide(path, markers=tmp_path / "markers.csv", pixel_size_um=0.65, name="S01")

    assert (slide.name, slide.markers, slide.pixel_size_um) == ("S01", ("Hoechst", "CD8", "CD4"), 0.65)
    assert (slide.markers_from, slide.pixel_size_from) == ("markers.csv", "given")


def test_the_resolution_tag_gives_the_pixel_size_if_the_ome_xml_does_not(tmp_path):
    path = plain_tiff(tmp_path / "slide.tif", resolution=(20_000, 20_000), resolutionunit="CENTIMETER")

    slide = open_slide(path, markers=NAMES)

    assert (slide.pixel_size_um, slide.pixel_size_from) == (0.5, "resolution tag")


def test_repeated_names_are_kept_apart(tmp_path):
    path = ome_tiff(tmp_path / "slide.ome.tif", names=["DNA", "CD3e", "DNA"], **micrometres(0.5))

    assert open_slide(path).markers == ("DNA", "CD3e", "DNA_2")


def test_channels_without_names_are_asked_for(tmp_path):
    path = ome_tiff(tmp_path / "slide.ome.tif", names=None, **micrometres(0.5))

    with pytest.raises(InputError, match=r"lacks the names of its 3 channels\. Give `markers`, a table"):
        open_slide(path)
    assert open_slide(path, markers=NAMES).markers == tuple(NAMES)


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    with pytest.raises(
        InputError, match=r"lacks the names of its 3 channels and a .* size\. Give `markers`.*, and `pixel_size_um`\.$"
    ):
        open_slide(plain_tiff(tmp_path / "slide.tif"))


def test_a_table_of_another_length_is_refused_with_both_numbers(tmp_path):
    with pytest.raises(InputError, match=r"slide.ome.tif has 3 channels but 2 marker names \(given\)"):
        open_slide(ome_tiff(tmp_path / "slide.ome.tif", **micrometres(0.5)), markers=NAMES[:2])


@pytest.mark.parametrize("planarconfig", ["separate", "contig"])
def test_channels_stored_as_samples_are_channels(tmp_path, planarconfig):
    image = IMAGE if planarconfig == "separate" else np.moveaxis(IMAGE, 0, -1)
    path = plain_tiff(tmp_path / "slide.tif", image, planarconfig=planarconfig, tile=(16, 16), compression="zlib")

    slide = open_slide(path, markers=NAMES, pixel_size_um=0.5)

    assert slide.image.shape == IMAGE.shape
    np.testing.assert_array_equal(slide.image[...], IMAGE)
    np.testing.assert_array_equal(slide.image[[2, 0], 5:30, 40], IMAGE[[2, 0], 5:30, 40])
    np.testing.assert_array_equal(slide.image[1, 7], IMAGE[1, 7])


def test_an_imagej_stack_is_a_slide(tmp_path):
    tifffile.imwrite(tmp_path / "slide.tif", IMAGE, imagej=True, metadata={"axes": "CYX"})

    slide = open_slide(tmp_path / "slide.tif", markers=NAMES, pixel_size_um=0.5)

    np.testing.assert_array_equal(slide.image[...], IMAGE)


@pytest.mark.parametrize(
    ("image", "axes", "sentence"),
    [
        (IMAGE[None].repeat(2, 0), "ZCYX", r"ZCYX \(2, 3, 40, 50\); one channel axis is needed"),
        (IMAGE[None].repeat(2, 0), "TCYX", "one channel axis is needed"),
    ],
)
def test_axes_without_one_channel_axis_are_refused(tmp_path, image, axes, sentence):
    with pytest.raises(InputError, match=sentence):
        open_slide(ome_tiff(tmp_path / "slide.ome.tif", image, axes=axes, names=None))


def test_an_image_of_one_marker_is_a_slide_of_one_marker(tmp_path):
    path = ome_tiff(tmp_path / "slide.ome.tif", IMAGE[0], axes="YX", names=["DAPI"], **micrometres(0.5))

    slide = open_slide(path)

    assert slide.markers == ("DAPI",)
    assert slide.image.shape == (1, 40, 50)
    np.testing.assert_array_equal(slide.image[...], IMAGE[:1])
    np.testing.assert_array_equal(slide.image[[0, 0], 5:30:2, 40], IMAGE[[0, 0], 5:30:2, 40])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(slide.image))[0, 3:9], IMAGE[0, 3:9])


@pytest.mark.parametrize(("height", "square"), [(0.5, True), (0.51, True), (0.6, False), (0.25, False)])
def test_pixels_that_are_not_square_are_refused_without_a_given_size(tmp_path, height, square):
    sizes = micrometres(0.5, "µm") | {"PhysicalSizeY": height}
    path = ome_tiff(tmp_path / "slide.ome.tif", **sizes)

    if not square:
        with pytest.raises(InputError, match=f"it gives 0.5 x {height:g} µm, and pixels must be square: resample"):
            open_slide(path)

    assert open_slide(path, pixel_size_um=None if square else 0.5).pixel_size_um == 0.5


def test_a_colour_image_is_refused_unless_its_colours_are_named_as_markers(tmp_path, caplog):
    image = np.moveaxis(IMAGE, 0, -1).astype(np.uint8)
    path = plain_tiff(tmp_path / "slide.tif", image, photometric="rgb")

    with pytest.raises(InputError, match=r"YXS \(40, 50, 3\): a colour \(RGB\) image. Give the multiplex image"):
        open_slide(path, pixel_size_um=0.5)
    slide = open_slide(path, markers=NAMES, pixel_size_um=0.5)
    np.testing.assert_array_equal(slide.image[...], IMAGE.astype(np.uint8))
    assert "a colour (RGB) image. They are read as channels, since they were named." in caplog.text


def test_planes_of_depth_or_time_are_channels_if_they_are_named(tmp_path):
    path = ome_tiff(tmp_path / "slide.ome.tif", axes="ZYX", names=None, **micrometres(0.5))

    with pytest.raises(InputError, match=r"one channel axis is needed.*; or name the planes by `markers`, if they are"):
        open_slide(path)
    np.testing.assert_array_equal(open_slide(path, markers=NAMES).image[...], IMAGE)


def qptiff(path, descriptions):
    with tifffile.TiffWriter(path) as writer:
        for channel, description in zip(IMAGE, descriptions, strict=True):
            writer.write(
                channel,
                photometric="minisblack",
                description=description,
                software="PerkinElmer-QPI",
                metadata=None,
                resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER",
            )
    return path


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("<Biomarker>{}</Biomarker><Name>Opal</Name>", NAMES),
        ("<Name>{}</Name>", NAMES),
        ("<Responsivity><Filter><Name>{}</Name></Filter></Responsivity>", NAMES),
    ],
)
def test_the_pages_of_a_qptiff_name_their_channels(tmp_path, place, names):
    head = (
        '<?xml version="1.0" encoding="utf-8"?><PerkinElmer-QPI-ImageDescription><ImageType>FullResolution</ImageType>'
    )
    pages = [head + place.format(name) + "</PerkinElmer-QPI-ImageDescription>" for name in names]

    slide = open_slide(qptiff(tmp_path / "slide.qptiff", pages))

    assert (slide.name, slide.markers, slide.pixel_size_um) == ("slide", tuple(names), 0.5)
    np.testing.assert_array_equal(slide.image[...], IMAGE)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"file .* not found"):
        open_slide(tmp_path / "slide.tif")
    with pytest.raises(InputError, match=r"is a folder\. Give the image file"):
        open_slide(tmp_path)


REAL = {
    "mibi-dcis-risom2022/images/Point2206_pt1116_31620.ome.tif": ((41, 1024, 1024), "AR", 0.488281, {}),
    "mibi-breast-ark-fov8/images/fov8.ome.tif": ((22, 1024, 1024), "Background", 0.390625, {}),
    "mibi-lymphoid-maui/images/Point2_TIFsNoNoise.ome.tif": ((47, 1024, 1024), None, None, {"pixel_size_um": 0.5}),
    "mif-breast-csm/ABCM22001_B14_MiniCrop.ome.tif": ((7, 500, 500), None, None, {"pixel_size_um": 0.5}),
    "mif-vectra-phenoptr/FIHC4__0929309_HP_IM3_2_component_data.tif": ((5, 260, 348), "Alexa 594", 0.497147, {}),
    "imc-pancreas-damond2019/E34_imc.tiff": (
        (5, 100, 100),
        "H3",
        None,
        {"markers": "imc-pancreas-damond2019/panel.csv", "pixel_size_um": 1},
    ),
    "imc-mock-testdata/steinbock/ome/20210305_NE_mockData1_001.ome.tiff": (
        (5, 60, 60),
        None,
        None,
        {"pixel_size_um": 1},
    ),
    "imc-mock-testdata/analysis/ometiff/20210305_NE_mockData1/20210305_NE_mockData1_s0_a1_ac.ome.tiff": (
        (5, 60, 60),
        None,
        None,
        {"pixel_size_um": 1},
    ),
    "imc-hpap-spatialtis/HPAP002/Head/ROI2/stacked.tiff": (
        (4, 100, 100),
        "A",
        None,
        {"markers": ["A", "B", "C", "D"], "pixel_size_um": 1},
    ),
}


@pytest.mark.parametrize("file", REAL)
def test_real_slides_open_or_name_the_option_that_is_missing(shared_data, file):
    shape, first_marker, size, options = REAL[file]
    options = dict(options)
    if isinstance(options.get("markers"), str):
        options["markers"] = shared_data / options["markers"]
    for missing, option in (("markers", "`markers`"), ("pixel_size_um", "`pixel_size_um`")):
        if missing in options:
            with pytest.raises(InputError, match=option):
                open_slide(shared_data / file, **{key: value for key, value in options.items() if key != missing})

    slide = open_slide(shared_data / file, **options)

    assert slide.image.shape == shape
    assert first_marker in (None, slide.markers[0])
    assert slide.pixel_size_um == pytest.approx(size or options["pixel_size_um"], rel=1e-4)
    whole = tifffile.imread(shared_data / file, series=0)
    whole = np.moveaxis(whole, -1, 0) if whole.shape != shape else whole
    np.testing.assert_array_equal(slide.image[-1, 10:50, 20:60], whole[-1, 10:50, 20:60])


def test_every_odd_file_opens_or_is_refused(shared_data):
    for path in sorted((shared_data / "reader-corpus").rglob("*")):
        if path.is_file() and path.suffix not in (".csv", ".md"):
            for options in ({}, {"markers": NAMES, "pixel_size_um": 0.5}):
                try:
                    slide = open_slide(path, **options)
                except InputError as error:
                    sentence = str(error)
                    assert path.name in sentence or "slide" in sentence
                else:
                    assert slide.image[:, :4, :4].shape[0] == len(slide.markers)
