"""A mask is the same in every file that programs write; a file that holds no labels is refused in one sentence."""

import gzip
import zipfile

import numpy as np
import pytest
import tifffile
import zarr

from mxsplicer.cells.measure import measure_cells
from mxsplicer.errors import InputError
from mxsplicer.images.opening import slide_name
from mxsplicer.images.slide import Slide
from mxsplicer.masks.files import open_mask, open_nuclei
from mxsplicer.masks.folders import find_masks, find_outlines

CELLS = np.kron(np.arange(1, 13).reshape(3, 4), np.pad(np.ones((8, 8), int), 2)).astype(np.uint16)  # (36, 48)
NUCLEI = np.kron(np.arange(1, 13).reshape(3, 4), np.pad(np.ones((4, 4), int), 4)).astype(np.uint16)
SLIDE = Slide("S1", np.random.default_rng(0).integers(0, 99, (2, 36, 48), np.uint16), ("DAPI", "CD4"), 0.5)


def png(path, labels):
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(labels)))


def npy(path, labels):
    with path.open("wb") as file:
        np.save(file, labels)


def tiff(path, labels, **options):
    tifffile.imwrite(path, labels, photometric="minisblack", **options)


ALONE = {
    "mask.TIF": tiff,
    "mask.btf": lambda path, labels: tiff(path, labels, bigtiff=True),
    "mask.ome.tf8": lambda path, labels: tiff(path, labels, bigtiff=True),
    "mask.png": png,
    "mask.PNG": png,
    "mask.NPY": npy,
    "mask.npz": np.savez_compressed,
    "named.npz": lambda path, labels: np.savez(path, X=np.zeros((2, 2)), y=labels),
    "mask.zarr": zarr.save_array,
}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_label_image_is_read_from_every_format(tmp_path, name, dtype):
    ALONE[name](tmp_path / name, CELLS.astype(dtype))

    mask = open_mask(tmp_path / name, slide=SLIDE)

    assert mask.dtype == np.uint32
    np.testing.assert_array_equal(mask[...], CELLS)


BOTH = {
    "(1, Y, X, 2) npy": ("both.npy", lambda path, both: np.save(path, both[None])),
    "(Y, X, 2) npy": ("both.npy", np.save),
    "(Y, X, 2) npz": ("both.npz", np.savez),
    "(Y, X, 2) TIFF": ("both.tif", tiff),
    "(Y, X, 2) TIFF of samples": ("both.tif", lambda path, both: tiff(path, both, planarconfig="contig")),
    "(2, Y, X) TIFF": ("both.tif", lambda path, both: tiff(path, np.moveaxis(both, -1, 0))),
    "(2, Y, X) zarr": ("both.zarr", lambda path, both: zarr.save_array(path, np.moveaxis(both, -1, 0))),
}


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("slide", [SLIDE, None])
def test_cells_and_nuclei_of_one_file_are_pages(tmp_path, how, slide):
    name, write = BOTH[how]
    write(tmp_path / name, np.stack([CELLS, NUCLEI], axis=-1))

    np.testing.assert_array_equal(open_mask(tmp_path / name, page=0, slide=slide)[...], CELLS)
    np.testing.assert_array_equal(open_nuclei(tmp_path / name, SLIDE, page=1)[...], NUCLEI)
    with pytest.raises(InputError, match=r"holds 2 label images, .*Choose one by `page`, from 0"):
        open_mask(tmp_path / name, slide=slide)
    with pytest.raises(InputError, match=r"Choose one by `nuclei_page`"):
        open_nuclei(tmp_path / name, SLIDE)
    with pytest.raises(InputError, match=r"has no page 2; its 2 pages are counted from 0"):
        open_mask(tmp_path / name, page=2, slide=slide)


def test_a_coloured_picture_of_labels_and_other_files_are_refused_without_formats_of_slides(tmp_path):
    png(tmp_path / "picture.png", np.stack([CELLS] * 3, axis=-1).astype(np.uint8))
    (tmp_path / "mask.jpg").write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    (tmp_path / "mask.csv").write_text("cell,x,y\n")
    np.savez(tmp_path / "two.npz", a=CELLS, b=CELLS)
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")

    messages = {}
    for path in tmp_path.iterdir():
        with pytest.raises(InputError) as error:
            open_mask(path, slide=SLIDE)
        messages[path.name] = str(error.value)

    assert "is a colour picture" in messages["picture.png"]
    assert "holds 2 arrays (a, b)" in messages["two.npz"]
    for name in ("mask.jpg", "mask.csv"):
        assert f"mask {name} is not a file of labels" in messages[name]
        assert "PNG, .npy, .npz" in messages[name]
    assert not any("qptiff" in sentence or "stack" in sentence for sentence in messages.values())
    assert all(len(sentence) < 300 for sentence in messages.values())


@pytest.mark.parametrize("ending", [".geojson", ".GEOJSON", ".geojson.gz", ".zip", ".geojson.zip"])
def test_outlines_are_read_zipped_or_not(tmp_path, ending):
    text = '{"type": "Polygon", "coordinates": [[[2, 2], [10, 2], [10, 10], [2, 10], [2, 2]]]}'
    text = f'{{"type": "FeatureCollection", "features": [{{"type": "Feature", "geometry": {text}}}]}}'
    path = tmp_path / f"cells{ending}"
    if ending.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("cells.geojson", text)
            archive.writestr("__MACOSX/._cells.geojson", "no JSON")
    else:
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())

    np.testing.assert_array_equal(open_mask(path, slide=SLIDE)[...] > 0, (CELLS == 1))


@pytest.mark.parametrize("numbering", ["permuted", "off by one", "the same", "two in a cell"])
def test_nuclei_get_the_ids_of_the_cells_they_overlap(tmp_path, numbering, caplog):
    nuclei = NUCLEI.copy()
    if numbering == "permuted":
        nuclei = np.r_[0, np.random.default_rng(0).permutation(12) + 1][nuclei].astype(np.uint16)
    elif numbering == "off by one":
        nuclei = np.where(nuclei > 0, nuclei + 1, 0).astype(np.uint16)
        nuclei[0, 0] = 1  # a nucleus outside all cells
    elif numbering == "two in a cell":
        nuclei = np.where(nuclei > 0, 40 + nuclei, 0).astype(np.uint16)
        nuclei[4:8, 4:6] = 99
    np.save(tmp_path / "nuclei.npy", nuclei)

    found = open_nuclei(tmp_path / "nuclei.npy", SLIDE, mask=CELLS)
    cells = measure_cells(SLIDE, CELLS, nuclei=found, statistics=["nucleus"], min_area_um2=0)

    np.testing.assert_array_equal(np.where(CELLS > 0, found[...], 0), NUCLEI)
    np.testing.assert_array_equal(found[5:9, ::3], found[...][5:9, ::3])
    assert (cells.table["nucleus_area_um2"] == 4.0).all()
    assert ("numbered apart from its cells" in caplog.text) == (numbering != "the same")
    assert cells.nuclei_ledger["in nucleus mask"] == (13 if numbering == "off by one" else 12)


def test_nuclei_of_another_slide_are_refused(tmp_path):
    np.save(tmp_path / "nuclei.npy", np.roll(NUCLEI, (4, 4), axis=(0, 1)) + 100 * (np.roll(NUCLEI, (4, 4), (0, 1)) > 0))

    with pytest.raises(InputError, match=r"only 0 of 12 nuclei of slide 'S1' lie inside a cell"):
        open_nuclei(tmp_path / "nuclei.npy", SLIDE, mask=CELLS)[...]


FOLDERS = [  # files in the folder, slides, kind, the file of each slide
    (["core_1.tif", "core_1_2.tif"], ["core_1", "core_1_2"], "cells", ["core_1.tif", "core_1_2.tif"]),
    (["core_1.tif", "core_1_2.tif"], ["core_1"], "cells", ["core_1.tif"]),
    (
        ["core_1_mask.tif", "core_1_2_mask.tif"],
        ["core_1", "core_1_2"],
        "cells",
        ["core_1_mask.tif", "core_1_2_mask.tif"],
    ),
    (["core_1_mask.tif", "core_1_2_mask.tif"], ["core_1"], "cells", ["core_1_mask.tif"]),
    (["fov8_whole_cell.tiff", "fov8_nuclear.tiff"], ["fov8"], "cells", ["fov8_whole_cell.tiff"]),
    (["fov8_whole_cell.tiff", "fov8_nuclear.tiff"], ["fov8"], "nuclei", ["fov8_nuclear.tiff"]),
    (["fov8.tiff"], ["fov8"], "nuclei", ["fov8.tiff"]),
    (["a-1_mask.tif", "._a-1_mask.tif", "a-1_mask.csv", "a-1.txt"], ["a-1"], "cells", ["a-1_mask.tif"]),
    (["unmicst-a-1/cell.ome.tif", "unmicst-a-1/nuclei.ome.tif"], ["a-1"], "cells", ["unmicst-a-1/cell.ome.tif"]),
    (["unmicst-a-1/cell.ome.tif", "unmicst-a-1/nuclei.ome.tif"], ["a-1"], "nuclei", ["unmicst-a-1/nuclei.ome.tif"]),
    (["S1_cp_masks.png", "S1.ome.tif.csv"], ["S1"], "cells", ["S1_cp_masks.png"]),
    (["S1_cp_masks.tif", "S1_seg.npy"], ["S1"], "cells", ["S1_cp_masks.tif"]),
    (["s1_MASK.tif", "S10_mask.tif"], ["S1", "s10"], "cells", ["s1_MASK.tif", "S10_mask.tif"]),
    (["tumor1.tif", "Tumor1.tif"], ["Tumor1"], "cells", ["Tumor1.tif"]),
    (["tumor1.tif", "Tumor1.tif"], ["Tumor1", "tumor1"], "cells", ["Tumor1.tif", "tumor1.tif"]),
    (["S1.geojson.gz", "S2.zip.txt"], ["S1"], "cells", ["S1.geojson.gz"]),
    (["S1.OME.TIF", "S10.OME.TIF"], ["S1", "S10"], "cells", ["S1.OME.TIF", "S10.OME.TIF"]),
]


@pytest.mark.parametrize(("files", "slides", "kind", "wanted"), FOLDERS)
def test_the_mask_of_a_slide_is_found_in_a_folder_by_its_name(tmp_path, files, slides, kind, wanted):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    assert [str(path.relative_to(tmp_path)) for path in find_masks(tmp_path, slides, kind)] == wanted


def test_several_masks_of_a_slide_are_named_and_outlines_are_found_alike(tmp_path):
    for name in ("S1_mask.tif", "S1_labels.png", "S2_a.geojson", "S2_a_3.geojson"):
        (tmp_path / name).write_text("{}")

    with pytest.raises(InputError, match=r"holds 2 masks whose name begins with 'S1' \(S1_labels.png, S1_mask.tif\)"):
        find_masks(tmp_path, ["S1"], "cells")
    with pytest.raises(InputError, match=r"holds 0 masks whose name begins with 'S3' \(none\)"):
        find_masks(tmp_path, ["S3"], "cells")
    found = find_outlines(tmp_path, ["S2_a", "S2_a_3", "S1"])
    assert {slide: path.name for slide, path in found.items()} == {"S2_a": "S2_a.geojson", "S2_a_3": "S2_a_3.geojson"}


@pytest.mark.parametrize("name", ["S1.OME.TIF", "S1.ome.btf", "S1.ome.tf8", "S1.TIFF", "S1.qptiff", "S1.ome.zarr"])
def test_a_slide_is_named_without_the_endings_of_its_file(name):
    assert slide_name(name) == "S1"
