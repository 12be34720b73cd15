"""Slides in the containers of makers and programs: folders of channels, names in pages and labels, NGFF 0.6, zips."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from mxsplicer.errors import InputError
from mxsplicer.images.opening import open_slide
from mxsplicer.masks.files import open_mask

IMAGE = np.random.default_rng(0).integers(0, 9999, (3, 120, 130), dtype=np.uint16)
NAMES = ["DAPI", "CD3", "CD20"]


def folder_of(path, files, pixels=IMAGE, **options):
    path.mkdir()
    for file, plane in zip(files, pixels, strict=True):
        tifffile.imwrite(path / file, plane, photometric="minisblack", **options)
    return path


FOLDERS = {
    "MIBI": ["DAPI.tiff", "CD3.tiff", "CD20.tiff"],
    "numbered": ["01_DAPI.tif", "02_CD3.tif", "10_CD20.tif"],
    "Xenium": ["ch0000_DAPI.ome.tif", "ch0001_CD3.ome.tif", "ch0002_CD20.ome.tif"],
    "COMET": ["scan_c00_DAPI.tif", "scan_c01_CD3.tif", "scan_c02_CD20.tif"],
    "MACSima": [f"00{i}_S_R-01_W-B-1_ROI-01_A-{name}_C-REA{i}.tif" for i, name in enumerate(NAMES)],
    "with the name of the slide": [f"Slide 1_{name}_region_002.tif" for name in NAMES],
    "capital endings": ["DAPI.TIF", "CD3.TIF", "CD20.TIFF"],
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_one_tiff_per_channel_is_a_slide(tmp_path, kind):
    slide = open_slide(folder_of(tmp_path / "fov0", FOLDERS[kind]), pixel_size_um=0.5)

    assert (slide.name, sorted(slide.markers)) == ("fov0", sorted(NAMES))
    order = [NAMES.index(marker) for marker in slide.markers]
    np.testing.assert_array_equal(slide.image[...], IMAGE[order])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(slide.image))[1, 5:9, ::3], IMAGE[order][1, 5:9, ::3])


def test_a_field_whose_channels_lie_in_tifs_is_called_as_the_field(tmp_path):
    (tmp_path / "fov7").mkdir()

    assert open_slide(folder_of(tmp_path / "fov7" / "TIFs", FOLDERS["MIBI"]), pixel_size_um=0.5).name == "fov7"


def test_a_table_gives_the_order_of_the_channels_of_a_folder(tmp_path):
    folder = folder_of(tmp_path / "fov0", FOLDERS["MIBI"])
    (tmp_path / "markers.csv").write_text("marker_name,remove\nCD20,\nDAPI,\nCD3,TRUE\n", encoding="utf-8")

    slide = open_slide(folder, markers=tmp_path / "markers.csv", pixel_size_um=0.5)

    assert slide.markers == ("CD20", "DAPI")
    np.testing.assert_array_equal(slide.image[...], IMAGE[[2, 0]])


def macsima(path, shapes=(120, 120, 120), sizes=(0.17, 0.17, 0.17)):
    path.mkdir()
    for i, (plane, name, height, size) in enumerate(zip(IMAGE, NAMES, shapes, sizes, strict=True)):
        meta = {"axes": "YX", "Channel": {"Name": [name]}, "PhysicalSizeX": size, "PhysicalSizeY": size}
        tifffile.imwrite(path / f"C-00{i}_S-000_S_FITC_A-x{i}.ome.tif", plane[:height], ome=True, metadata=meta)
    return path


def test_names_and_pixel_size_of_the_files_of_a_folder_are_read(tmp_path):
    slide = open_slide(macsima(tmp_path / "ROI-1"))

    assert (slide.markers, slide.pixel_size_um) == (tuple(NAMES), 0.17)


def test_channels_that_differ_by_pixels_are_cropped_and_so_is_the_mask(tmp_path, caplog):
    slide = open_slide(macsima(tmp_path / "ROI-1", shapes=(120, 119, 118)))
    labels = np.arange(120 * 130, dtype=np.uint32).reshape(120, 130)
    tifffile.imwrite(tmp_path / "mask.tif", labels)

    np.testing.assert_array_equal(slide.image[...], IMAGE[:, :118])
    np.testing.assert_array_equal(open_mask(tmp_path / "mask.tif", slide=slide)[...], labels[:118])
    assert "its files are 118 to 120 px high" in caplog.text
    tifffile.imwrite(tmp_path / "other.tif", labels[:100])
    with pytest.raises(InputError, match=r"mask is \(100, 130\)"):
        open_mask(tmp_path / "other.tif", slide=slide)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"shapes": (120, 60, 120)}, "differ in height and width: C-000_S-000_S_FITC_A-x0.ome.tif is|differ in height"),
        ({"sizes": (0.17, 0.34, 0.17)}, r"differ in the size of a pixel: .* has 0.17 µm, .* has 0.34 µm"),
    ],
)
def test_files_that_are_not_channels_of_one_image_are_refused(tmp_path, change, sentence):
    with pytest.raises(InputError, match=sentence):
        open_slide(macsima(tmp_path / "ROI-1", **change))


def test_a_folder_of_slides_or_of_folders_is_refused_with_what_to_give(tmp_path):
    folder_of(tmp_path / "fov0", FOLDERS["MIBI"])
    with pytest.raises(InputError, match=r"is a folder of 1 folders .* Give one of them as a slide, such as .*fov0"):
        open_slide(tmp_path)
    folder_of(tmp_path / "slides", ["a.tif", "b.tif"], [IMAGE, IMAGE])
    with pytest.raises(InputError, match=r"a\.tif has 3 channels; a folder is one slide only if each file is one"):
        open_slide(tmp_path / "slides", pixel_size_um=0.5)


def test_masks_and_thumbnails_in_a_folder_are_not_channels(tmp_path, caplog):
    files = [*FOLDERS["MIBI"], "segmentation_mask.tiff"]
    slide = open_slide(folder_of(tmp_path / "fov0", files, [*IMAGE, IMAGE[0] * 0]), pixel_size_um=0.5)

    assert len(slide.markers) == 3
    assert "left out, by their names: segmentation_mask.tiff" in caplog.text


def test_pages_that_name_their_channels_are_the_channels(tmp_path):
    with tifffile.TiffWriter(tmp_path / "slide.tiff") as writer:
        for plane, name in zip(IMAGE, NAMES, strict=True):
            tag = (285, "s", 0, f"{name}(Ir191Di)", True)
            writer.write(plane, photometric="minisblack", metadata=None, extratags=[tag], contiguous=False)

    slide = open_slide(tmp_path / "slide.tiff", pixel_size_um=1)

    assert list(slide.markers) == [f"{name}(Ir191Di)" for name in NAMES]
    np.testing.assert_array_equal(slide.image[...], IMAGE)


@pytest.mark.parametrize("axis", "TZ")
def test_time_points_or_planes_of_an_ome_tiff_that_are_named_are_channels(tmp_path, axis):
    size = {"T": 1, "Z": 1, "C": 1} | {axis: 3}
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="130" SizeY="120" SizeC="1" '
        f'SizeZ="{size["Z"]}" SizeT="{size["T"]}" PhysicalSizeX="1"><TiffData/></Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(tmp_path / "slide.ome.tiff") as writer:
        for number, (plane, name) in enumerate(zip(IMAGE, NAMES, strict=True)):
            options = {"photometric": "minisblack", "metadata": None, "contiguous": False}
            description = xml if number == 0 else None
            writer.write(plane, description=description, extratags=[(285, "s", 0, name, True)], **options)

    slide = open_slide(tmp_path / "slide.ome.tiff")

    assert (list(slide.markers), slide.pixel_size_um) == (NAMES, 1.0)
    np.testing.assert_array_equal(slide.image[...], IMAGE)


LABELS = {
    "Fiji": "c:{}/3 - {}",
    "Fiji, with depth and time": "c:{}/3 z:1/1 t:1/1 - {}",
    "Fiji, slices": "z:{}/3 - {}",
    "channels": "Channel {}: {}",
    "the name": "{1}",
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("axes", ["CYX", "ZYX", "TYX"])
def test_labels_of_an_imagej_stack_name_the_channels(tmp_path, kind, axes):
    labels = [LABELS[kind].format(number, name) for number, name in enumerate(NAMES, 1)]
    tifffile.imwrite(tmp_path / "slide.tif", IMAGE, imagej=True, metadata={"axes": axes, "Labels": labels})

    assert list(open_slide(tmp_path / "slide.tif", pixel_size_um=0.5).markers) == NAMES


def test_labels_that_are_one_file_name_are_not_names(tmp_path):
    labels = [f"c:{number}/3 - slide.czi" for number in (1, 2, 3)]
    tifffile.imwrite(tmp_path / "slide.tif", IMAGE, imagej=True, metadata={"axes": "CYX", "Labels": labels})

    with pytest.raises(InputError, match="lacks the names of its 3 channels"):
        open_slide(tmp_path / "slide.tif", pixel_size_um=0.5)


def ngff_06(path, transformation):
    group = zarr.open_group(path, mode="w", zarr_format=3)
    for name, step in (("s0", 1), ("s1", 2)):
        group.create_array(name, data=IMAGE[:, ::step, ::step], chunks=(1, 64, 64))
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    systems = [
        {"name": "other", "axes": [{"name": a, "type": "array"} for a in "abc"]},
        {"name": "physical", "axes": axes},
    ]
    datasets = [
        {"path": name, "coordinateTransformations": [transformation(step) | {"input": name, "output": "physical"}]}
        for name, step in (("s0", 1), ("s1", 2))
    ]
    multiscale = {"name": "slide", "coordinateSystems": systems, "datasets": datasets}
    omero = {"channels": [{"label": name} for name in NAMES]}
    group.attrs.put({"ome": {"version": "0.6", "multiscales": [multiscale], "omero": omero}})
    return path


def scaled(step):
    return {"type": "scale", "scale": [1, 0.5 * step, 0.5 * step]}


def shifted(step):
    return {"type": "sequence", "transformations": [scaled(step), {"type": "translation", "translation": [0, 1, 1]}]}


def rotated(_):
    return {"type": "rotation", "rotation": [[1, 0, 0], [0, 0, 1], [0, -1, 0]]}


@pytest.mark.parametrize("transformation", [scaled, shifted])
def test_an_ome_zarr_0_6_is_read_by_its_coordinate_systems(tmp_path, transformation):
    slide = open_slide(ngff_06(tmp_path / "slide.ome.zarr", transformation))

    assert (list(slide.markers), slide.pixel_size_um) == (NAMES, 0.5)
    np.testing.assert_array_equal(slide.image[...], IMAGE)
    np.testing.assert_array_equal(slide.pyramid[0][...], IMAGE[:, ::2, ::2])


def test_a_transformation_without_a_scale_gives_no_pixel_size(tmp_path):
    with pytest.raises(InputError, match="lacks a plausible pixel size"):
        open_slide(ngff_06(tmp_path / "slide.ome.zarr", rotated))


def zipped(folder, archive, top=Path()):
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                opened.write(file, top / file.relative_to(folder))
    return archive


@pytest.mark.parametrize(
    ("name", "top"), [("slide.ozx", ""), ("slide.ome.zarr.zip", ""), ("slide.zip", "slide.ome.zarr")]
)
def test_a_zipped_ome_zarr_is_read(tmp_path, name, top):
    archive = zipped(ngff_06(tmp_path / "slide.ome.zarr", scaled), tmp_path / name, Path(top))

    slide = open_slide(archive)

    assert (slide.name, list(slide.markers), slide.pixel_size_um) == ("slide", NAMES, 0.5)
    np.testing.assert_array_equal(slide.image[1:, 10:30, ::3], IMAGE[1:, 10:30, ::3])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(slide)).pyramid[0][...], IMAGE[:, ::2, ::2])


def test_a_zip_of_something_else_is_refused(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("no image")

    with pytest.raises(InputError, match=r"slide\.zip"):
        open_slide(zipped(tmp_path / "text", tmp_path / "slide.zip"))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a slide.dcm", r"a slide\.dcm is a DICOM file, which is not read. Convert it by .bioformats2raw"),
        ("a slide.czi", r"Convert it by .bioformats2raw \"a slide\.czi\" \"a slide\.zarr\"."),
        ("slide.LIF", "bioformats2raw"),
        ("slide.nd2", "bioformats2raw"),
        ("slide.mcd", r"steinbock preprocess imc images.* `markers` panel\.csv and `pixel_size_um` 1"),
        ("slide.png", "Export the image as OME-TIFF"),
    ],
)
def test_a_format_of_a_microscope_is_refused_with_the_command_that_converts_it(tmp_path, name, command):
    (tmp_path / name).write_bytes(b"ZISRAWFILE")

    with pytest.raises(InputError, match=command):
        open_slide(tmp_path / name)
