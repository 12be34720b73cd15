"""The same slide in every container, with names, pixel size and mask in every spelling, gives one table of cells."""

import zipfile

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxsplicer.cells.measure import measure_cells
from mxsplicer.images.opening import open_slide
from mxsplicer.masks.files import open_mask
from mxsplicer.testing import tiny_slide

SLIDE, MASK = tiny_slide(cells_at=[(y, x) for y in range(14, 90, 18) for x in range(14, 100, 18)], shape_px=(98, 110))
IMAGE, NAMES, UM = np.asarray(SLIDE.image), list(SLIDE.markers), SLIDE.pixel_size_um
EXPECTED = measure_cells(SLIDE, MASK)

# The pixel size in the file: number and unit.
SIZES = [
    *((f"{UM:g}", unit) for unit in ("µm", "um", "micron", "Micrometer", "UnitsLength.MICROMETER", "?m", "Âµm")),
    *((f"{UM * 1000:g}", "nm"), (f"{UM / 1000:g}", "mm"), (f"{UM * 1e4:g}", "Å"), (str(UM).replace(".", ","), "µm")),
]


def ome_xml(image, size, *, files=None, names=NAMES, label="slide"):
    """Return the OME-XML of one image (C, Y, X)."""
    number, unit = size
    channels = "".join(f'<Channel ID="Channel:0:{i}" Name="{name}"/>' for i, name in enumerate(names))
    planes = "<TiffData/>"
    if files is not None:
        planes = "".join(
            f'<TiffData FirstC="{i}" IFD="{i if len(set(files)) == 1 else 0}" PlaneCount="1">'
            f'<UUID FileName="{file}">urn:uuid:{i if len(set(files)) > 1 else 0}</UUID></TiffData>'
            for i, file in enumerate(files)
        )
    physical = "".join(f'PhysicalSize{axis}="{number}" PhysicalSize{axis}Unit="{unit}" ' for axis in "XY")
    return (
        f'<Image ID="Image:{label}" Name="{label}"><Pixels ID="Pixels:{label}" DimensionOrder="XYCZT" Type="uint16" '
        f'SizeX="{image.shape[2]}" SizeY="{image.shape[1]}" SizeC="{len(image)}" SizeZ="1" SizeT="1" {physical}>'
        f"{channels}{planes}</Pixels></Image>"
    )


def document(*images, uuid=""):
    begin = f' UUID="urn:uuid:{uuid}"' if uuid else ""
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{space}"{begin}>{"".join(images)}</OME>'.encode()


def pages(path, planes, description=None, **options):
    with tifffile.TiffWriter(path) as writer:
        for number, plane in enumerate(planes):
            given_options = {"photometric": "minisblack", "metadata": None, "contiguous": False, **options}
            writer.write(plane, description=description if number == 0 else None, **given_options)
    return path


def ome_tiff(folder, size, **options):
    return pages(folder / "S01.ome.tif", IMAGE, document(ome_xml(IMAGE, size)), **options)


def tiled_ome_tiff(folder, size):
    return ome_tiff(folder, size, tile=(32, 32), compression="zlib")


def outdated_name(folder, size):
    xml = document(ome_xml(IMAGE, size, files=[r"D:\scans\old.ome.tif"] * 3))
    return pages(folder / "S01.ome.tif", IMAGE, xml)


def macro_first(folder, size):
    small = IMAGE[:1, ::5, ::5]
    first, second = ome_xml(small, size, names=["macro"], label="macro"), ome_xml(IMAGE, size)
    xml = document(
        first.replace("<TiffData/>", '<TiffData IFD="0" PlaneCount="1"/>'),
        second.replace("<TiffData/>", '<TiffData IFD="1" PlaneCount="3"/>'),
    )
    return pages(folder / "S01.ome.tif", [*small, *IMAGE], xml)


def image_per_channel(folder, size):
    images = [
        ome_xml(IMAGE[i : i + 1], size, names=[name], label=name).replace(
            "<TiffData/>", f'<TiffData IFD="{i}" PlaneCount="1"/>'
        )
        for i, name in enumerate(NAMES)
    ]
    return pages(folder / "S01.ome.tif", IMAGE, document(*images))


def file_per_channel(folder, size, names=None):
    files = names or [f"S01-{name}.ome.tif" for name in NAMES]
    xml = ome_xml(IMAGE, size, files=[f"S01-{name}.ome.tif" for name in NAMES])
    for number, (file, plane) in enumerate(zip(files, IMAGE, strict=True)):
        pages(folder / file, [plane], document(xml, uuid=str(number)))
    return folder / files[1]


def renamed_set(folder, size):
    return file_per_channel(folder, size, names=["a.ome.tif", "b.ome.tif", "c.ome.tif"])


def companion(folder, size):
    files = [f"S01-{name}.ome.tif" for name in NAMES]
    (folder / "S01.companion.ome").write_bytes(document(ome_xml(IMAGE, size, files=files)))
    for file, plane in zip(files, IMAGE, strict=True):
        pages(folder / file, [plane], document('<BinaryOnly MetadataFile="S01.companion.ome" UUID="urn:uuid:9"/>'))
    return folder / "S01.companion.ome"


def folder_of_channels(folder, size):
    (folder / "S01").mkdir()
    for name, plane in zip(NAMES, IMAGE, strict=True):
        pages(folder / "S01" / f"S01_{name}.ome.tif", [plane], document(ome_xml(plane[None], size, names=[name])))
    return folder / "S01"


def zarr_image(group, size, version, names=NAMES):
    group.create_array("0", data=IMAGE, chunks=(1, 32, 32))
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": size[1]} for a in "yx")]
    scale = {"type": "scale", "scale": [1, float(size[0]), float(size[0])]}
    if version == "0.6":
        scale |= {"input": "0", "output": "physical"}
    described = {"coordinateSystems": [{"name": "physical", "axes": axes}]} if version == "0.6" else {"axes": axes}
    multiscale = described | {"datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    attributes = {"multiscales": [multiscale], "omero": {"channels": [{"label": name} for name in names]}}
    group.attrs.put(attributes if version == "0.4" else {"ome": {"version": version, **attributes}})


def ome_zarr(version):
    def write(folder, size):
        number = size[0].replace(",", ".")
        group = zarr.open_group(folder / "S01.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
        zarr_image(group, (number, size[1]), version)
        return folder / "S01.zarr"

    return write


def zipped(folder, size):
    store = ome_zarr("0.5")(folder, size)
    with zipfile.ZipFile(folder / "S01.ozx", "w") as archive:
        for file in store.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(store))
    return folder / "S01.ozx"


def bioformats2raw(folder, size):
    group = zarr.open_group(folder / "S01.zarr", mode="w", zarr_format=2)
    group.attrs.put({"bioformats2raw.layout": 3})
    zarr_image(group.create_group("0"), (size[0].replace(",", "."), size[1]), "0.4")
    return folder / "S01.zarr"


def imagej(labels):
    def write(folder, _):
        metadata = {"axes": "CYX", "unit": "micron", "Labels": [labels.format(i, n) for i, n in enumerate(NAMES, 1)]}
        options = {"imagej": True, "resolution": (1 / UM, 1 / UM), "metadata": metadata}
        tifffile.imwrite(folder / "S01.tif", IMAGE, **options)
        return folder / "S01.tif"

    return write


RESOLUTION = {"resolution": (1e4 / UM, 1e4 / UM), "resolutionunit": "CENTIMETER"}


def named_pages(folder, _):
    with tifffile.TiffWriter(folder / "S01.tif") as writer:
        for plane, name in zip(IMAGE, NAMES, strict=True):
            options = {"photometric": "minisblack", "metadata": None, "contiguous": False, **RESOLUTION}
            writer.write(plane, extratags=[(285, "s", 0, name, True)], **options)
    return folder / "S01.tif"


def qptiff(folder, _):
    with tifffile.TiffWriter(folder / "S01.qptiff") as writer:
        for plane, name in zip(IMAGE, NAMES, strict=True):
            xml = f"<PerkinElmer-QPI-ImageDescription><Biomarker>{name}</Biomarker></PerkinElmer-QPI-ImageDescription>"
            options = {"photometric": "minisblack", "metadata": None, "software": "PerkinElmer-QPI", **RESOLUTION}
            writer.write(plane, description=f'<?xml version="1.0" encoding="utf-8"?>{xml}', **options)
    return folder / "S01.qptiff"


def stored_as_rgb(folder, _):
    options = {"photometric": "rgb", "metadata": None, **RESOLUTION}
    tifffile.imwrite(folder / "S01.tif", np.moveaxis(IMAGE, 0, -1), **options)
    return folder / "S01.tif"


def plain_pages(folder, _):
    return pages(folder / "S01.tif", IMAGE, **RESOLUTION)


CONTAINERS = {
    one.__name__: one
    for one in (
        *(ome_tiff, tiled_ome_tiff, outdated_name, macro_first, image_per_channel, file_per_channel, renamed_set),
        *(companion, folder_of_channels, zipped, bioformats2raw, named_pages, qptiff, stored_as_rgb, plain_pages),
    )
} | {
    **{f"OME-Zarr {version}": ome_zarr(version) for version in ("0.4", "0.5", "0.6")},
    **{f"ImageJ {labels}": imagej(labels) for labels in ("{1}", "c:{}/3 - {}")},
}
UNNAMED = ("stored_as_rgb", "plain_pages")

TABLES = {
    "in the file": None,
    "given": NAMES,
    "mcmicro": "channel_number,cycle_number,marker_name\n" + "".join(f"{i},1,{n}\n" for i, n in enumerate(NAMES, 1)),
    "steinbock": "channel,name,keep\n" + "".join(f"X{i},{name},1\n" for i, name in enumerate(NAMES)),
    "semicolons, capitals, byte order mark": "\ufeffMarker_Name;Filter\r\n" + "".join(f"{n};x\r\n" for n in NAMES),
    "no header": "".join(f"{name}\n" for name in NAMES),
}


def mask_tiff(dtype, **options):
    def write(folder):
        tifffile.imwrite(folder / "mask.tif", MASK.astype(dtype), photometric="minisblack", **options)
        return folder / "mask.tif"

    return write


def mask_npy(dtype):
    def write(folder):
        np.save(folder / "mask.npy", MASK.astype(dtype))
        return folder / "mask.npy"

    return write


def mask_zarr(folder):
    zarr.create_array(folder / "mask.zarr", data=MASK.astype(np.int64), chunks=(32, 32))
    return folder / "mask.zarr"


def mask_labels(folder):
    group = zarr.open_group(folder / "labels.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=MASK[None, None], chunks=(1, 1, 32, 32))
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "czyx"]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": []}]}
    group.attrs.put({"ome": {"version": "0.5", "multiscales": [multiscale], "image-label": {}}})
    return folder / "labels.zarr"


MASKS = {
    "uint16": mask_tiff(np.uint16),
    "uint32 in tiles": mask_tiff(np.uint32, tile=(32, 32), compression="zlib"),
    "big-endian int32": mask_tiff(np.int32, byteorder=">"),
    "OME-TIFF": mask_tiff(np.uint32, ome=True),
    "float32": mask_tiff(np.float32),
    "npy of float64": mask_npy(np.float64),
    "npy of int64": mask_npy(np.int64),
    "zarr array": mask_zarr,
    "labels of an OME-Zarr": mask_labels,
}


def opened(folder, container, size, table, size_given):
    """Write the slide and open it as a user would."""
    options = {}
    if table == "in the file" and container in UNNAMED:
        table = "given"
    if isinstance(TABLES[table], str):
        (folder / "markers.csv").write_text(TABLES[table], encoding="utf-8")
        options["markers"] = folder / "markers.csv"
    elif table != "in the file":
        options["markers"] = TABLES[table]
    return open_slide(CONTAINERS[container](folder, size), pixel_size_um=UM if size_given else None, **options)


def assert_same_cells(slide, mask):
    cells = measure_cells(slide, mask)
    order, expected = (np.argsort(one.table["cell_id"].to_numpy()) for one in (cells, EXPECTED))
    assert sorted(cells.markers) == sorted(EXPECTED.markers)
    columns = [cells.markers.index(marker) for marker in EXPECTED.markers]  # a folder sorts its files by name
    assert cells.ledger == EXPECTED.ledger
    pd.testing.assert_frame_equal(
        cells.table.iloc[order].reset_index(drop=True), EXPECTED.table.iloc[expected].reset_index(drop=True), rtol=1e-5
    )
    np.testing.assert_allclose(cells.intensities[order][:, columns], EXPECTED.intensities[expected], rtol=1e-6)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_slide_in_any_container_has_the_same_cells(tmp_path, container):
    slide = opened(tmp_path, container, SIZES[0], "in the file", size_given=False)

    assert_same_cells(slide, open_mask(MASKS["uint16"](tmp_path), slide=slide))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    container=st.sampled_from(list(CONTAINERS)),
    size=st.sampled_from(SIZES),
    table=st.sampled_from(list(TABLES)),
    size_given=st.booleans(),
    mask=st.sampled_from(list(MASKS)),
)
def test_names_pixel_size_and_mask_in_any_spelling_give_one_table(
    tmp_path_factory, container, size, table, size_given, mask
):
    folder = tmp_path_factory.mktemp("slide")

    slide = opened(folder, container, size, table, size_given)

    assert_same_cells(slide, open_mask(MASKS[mask](folder), slide=slide))
