"""Of a file with several images the slide is read, the user learns which, and can choose another."""

import logging
import pickle

import numpy as np
import pytest
import tifffile
import zarr

from mxsplicer.errors import InputError
from mxsplicer.images.opening import open_slide

RNG = np.random.default_rng(0)
SLIDE = RNG.integers(0, 9999, (4, 120, 130), dtype=np.uint16)
NAMES = ["DAPI", "CD3e", "CD20", "PanCK"]
MACRO = RNG.integers(0, 255, (32, 32, 3), dtype=np.uint8)
SIZE = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}


def slide_meta(name="scene 1"):
    return {"axes": "CYX", "Name": name, "Channel": {"Name": NAMES}, **SIZE}


def write(path, *images):
    """Write an OME-TIFF of images, each given as pixels, metadata and options."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        for pixels, meta, options in images:
            writer.write(pixels, **{"photometric": "minisblack", **options}, metadata=meta)
    return path


def macro(name="macro image"):
    return MACRO, {"axes": "YXS", "Name": name}, {"photometric": "rgb"}


def grey(name, shape=(32, 32)):
    return np.full(shape, 7, np.uint16), {"axes": "YX", "Name": name, "Channel": {"Name": [name]}, **SIZE}, {}


def slide(name="scene 1", pixels=SLIDE):
    return pixels, slide_meta(name), {}


FILES = {
    "macro first": [macro(), slide()],
    "label and macro first": [grey("label image"), macro(), slide()],
    "thumbnail of all channels first": [slide("thumbnail", SLIDE[:, ::4, ::4]), slide()],
    "label image as large, last": [slide(), grey("labels", (120, 130))],
    "macro last": [slide(), macro()],
    "one large grey image first": [grey("brightfield", (120, 130)), slide()],
    "levels as images of their own": [slide(), slide("", SLIDE[:, ::2, ::2]), slide("", SLIDE[:, ::4, ::4])],
}


@pytest.mark.parametrize("kind", FILES)
def test_the_largest_image_of_several_channels_is_the_slide(tmp_path, caplog, kind):
    with caplog.at_level(logging.INFO):
        opened = open_slide(write(tmp_path / "slide.ome.tif", *FILES[kind]))

    np.testing.assert_array_equal(opened.image[...], SLIDE)
    assert (opened.markers, opened.pixel_size_um) == (tuple(NAMES), 0.5)
    assert "largest with several channels" in opened.images_in_file
    assert f"{len(FILES[kind])} images: 0" in caplog.text
    assert all(record.levelno == logging.INFO for record in caplog.records)


@pytest.mark.parametrize("chosen", ["1", 1, "scene 2", "SCENE 2"])
def test_another_image_is_chosen_by_number_or_name(tmp_path, chosen):
    path = write(tmp_path / "slide.ome.tif", slide(), slide("scene 2", SLIDE[:, ::-1]), macro())

    opened = open_slide(path, image=chosen)

    np.testing.assert_array_equal(opened.image[...], SLIDE[:, ::-1])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened)).image[1, 5:9], SLIDE[1, ::-1][5:9])


def test_scenes_of_one_size_are_a_warning(tmp_path, caplog):
    opened = open_slide(write(tmp_path / "slide.ome.tif", slide(), slide("scene 2", SLIDE[:, ::-1])))

    np.testing.assert_array_equal(opened.image[...], SLIDE)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "0 'scene 1' (120 x 130 px, 4 channels), 1 'scene 2'" in caplog.text


def test_an_image_that_the_file_lacks_is_refused_with_those_it_has(tmp_path):
    path = write(tmp_path / "slide.ome.tif", macro(), slide())

    for wanted in ("2", "scene 2"):
        with pytest.raises(
            InputError, match=rf"no image '{wanted}'; it holds 0 'macro image' .*colour\), 1 'scene 1' .*`image`\."
        ):
            open_slide(path, image=wanted)


def planes(names, image_names=None):
    image_names = image_names or names
    return [
        (plane, {"axes": "YX", "Name": image, **({"Channel": {"Name": [name]}} if name else {}), **SIZE}, {})
        for plane, name, image in zip(SLIDE, names, image_names, strict=True)
    ]


@pytest.mark.parametrize(
    "images",
    [
        planes(NAMES),
        planes(NAMES, ["Image:0", "Image:1", "Image:2", "Image:3"]),
        planes([None] * 4, NAMES),
        [macro(), *planes(NAMES)],
        [*planes(NAMES), grey("thumbnail", (120, 130))],
        [*planes(NAMES), grey("CD3e", (30, 32)), grey("DAPI", (30, 32))],
    ],
    ids=["named twice", "named channels", "named images", "after a macro", "and a thumbnail", "and their levels"],
)
def test_channels_that_are_images_of_their_own_are_joined(tmp_path, images):
    path = write(tmp_path / "slide.ome.tif", *images)

    opened = open_slide(path)

    assert (opened.markers, opened.pixel_size_um) == (tuple(NAMES), 0.5)
    np.testing.assert_array_equal(opened.image[...], SLIDE)
    np.testing.assert_array_equal(opened.image[[2, 0], 5:30:3, 7], SLIDE[[2, 0], 5:30:3, 7])
    assert open_slide(path, image="CD20").markers == ("CD20",)


def test_channels_without_names_are_joined_when_they_are_named(tmp_path):
    path = write(tmp_path / "slide.ome.tif", *planes([None] * 4, ["Image 0", "Image 1", "Image 2", "Image 3"]))

    with pytest.raises(InputError, match="lacks the names of its 4 channels"):
        open_slide(path)
    np.testing.assert_array_equal(open_slide(path, markers=NAMES).image[...], SLIDE)


def test_images_of_one_stain_are_scenes_and_not_channels(tmp_path, caplog):
    opened = open_slide(write(tmp_path / "slide.ome.tif", *planes(["DAPI"] * 4, ["A", "B", "C", "D"])))

    assert opened.markers == ("DAPI",)
    assert "4 images" in caplog.text


def test_levels_of_joined_channels_are_joined_too(tmp_path):
    with tifffile.TiffWriter(tmp_path / "slide.ome.tif", ome=True) as writer:
        for plane, name in zip(SLIDE, NAMES, strict=True):
            meta = {"axes": "YX", "Name": name, "Channel": {"Name": [name]}, **SIZE}
            options = {"photometric": "minisblack", "tile": (32, 32), "compression": "zlib"}
            writer.write(plane, subifds=1, metadata=meta, **options)
            writer.write(plane[::2, ::2], subfiletype=1, metadata=None, **options)

    opened = open_slide(tmp_path / "slide.ome.tif")

    np.testing.assert_array_equal(opened.pyramid[0][...], SLIDE[:, ::2, ::2])


def test_pages_written_one_by_one_are_the_channels_of_a_stack(tmp_path):
    with tifffile.TiffWriter(tmp_path / "slide.tif") as writer:
        for plane in SLIDE:
            writer.write(plane, photometric="minisblack", contiguous=False)

    opened = open_slide(tmp_path / "slide.tif", markers=NAMES, pixel_size_um=0.5)

    np.testing.assert_array_equal(opened.image[...], SLIDE)


def scene_of_zarr(group, pixels, markers):
    group.create_array("0", data=pixels)
    axes = [{"name": axis, "type": "channel" if axis == "c" else "space"} for axis in "cyx"]
    scale = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    channels = [{"label": marker} for marker in markers]
    group.attrs.put({"multiscales": [{"axes": axes, "datasets": datasets}], "omero": {"channels": channels}})


def bioformats2raw(root, scenes, names):
    store = zarr.open_group(root, mode="w", zarr_format=2)
    store.attrs.put({"bioformats2raw.layout": 3})
    for number, (pixels, markers) in enumerate(scenes):
        scene_of_zarr(store.create_group(str(number)), pixels, markers)
    (root / "OME").mkdir()
    images = "".join(
        f'<Image ID="Image:{number}" Name="{name}"><Pixels ID="Pixels:{number}"/></Image>'
        for number, name in enumerate(names)
    )
    xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{images}</OME>'
    (root / "OME" / "METADATA.ome.xml").write_text(xml)
    return root


def test_the_slide_of_an_ome_zarr_of_several_images_is_read(tmp_path):
    scenes = [(SLIDE[:3, ::4, ::4], NAMES[:3]), (SLIDE, NAMES), (SLIDE[:, :60, :60], NAMES)]
    root = bioformats2raw(tmp_path / "slide.zarr", scenes, ["macro", "scene 1", "scene 2"])

    opened = open_slide(root)

    assert opened.markers == tuple(NAMES)
    np.testing.assert_array_equal(opened.image[...], SLIDE)
    assert "1 'scene 1' (120 x 130 px, 4 channels" in opened.images_in_file
    for wanted in (2, "scene 2"):
        np.testing.assert_array_equal(open_slide(root, image=wanted).image[...], SLIDE[:, :60, :60])
    with pytest.raises(InputError, match=r"slide\.zarr has no image '3'"):
        open_slide(root, image=3)
