"""The loaders of published sets, each on small generated files of exactly its layout."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from mxsplicer import extract_patches, measure_cells, open_mask, open_slide

RNG = np.random.default_rng(0)


def noise(*shape, dtype=np.uint8):
    """Return random pixels."""
    return RNG.integers(1, 200, shape).astype(dtype)


def save(path, picture):
    """Write a picture (Y, X, C) or a mask (Y, X), as the name of the file says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(picture).save(path)
    else:
        tifffile.imwrite(path, picture, planarconfig="contig" if picture.ndim == 3 else None)


def eurosat(folder):
    """Write two pictures per class, and one that does not belong there."""
    names = "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake"
    first = noise(64, 64, 13, dtype=np.uint16)
    for name in names.split():
        for number in (1, 2):
            save(folder / name / f"{name}_{number}.tif", first if name == "AnnualCrop" and number == 1 else first + 1)
    save(folder / "SeaLake/Bombay_1.tif", first)
    return np.moveaxis(first, -1, 0), 20


def mmearth(folder):
    """Write six places of 18 px."""
    folder.mkdir()
    pictures = noise(6, 13, 18, 18, dtype=np.uint16)
    with h5py.File(folder / "data_tiny_v001.h5", "w") as file:
        file["sentinel2"], file["biome"] = pictures, np.eye(14, dtype=np.uint8)[:6]
    splits = {"train": [5, 1, 2, 3], "val": [0], "test": [4]}
    (folder / "data_tiny_v001_splits.json").write_text(json.dumps(splits), "utf-8")
    return pictures[1, :, :16, :16], 5


def nct_crc(folder):
    """Write one picture per class, with a mask of nuclei."""
    first = noise(224, 224, 3)
    for name in ["ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"]:
        save(folder / name / f"{name}-AAAA.tif", first)
        save(folder.parent / "masks" / name / f"{name}-AAAA.png", blob(224))
    return np.moveaxis(first, -1, 0), 9


def camelyon17(folder):
    """Write a picture from each of five hospitals."""
    rows, first = [], noise(96, 96, 3)
    for center in range(5):
        name = f"patient_00{center}_node_1/patch_patient_00{center}_node_1_x_96_y_192.png"
        save(folder / "patches" / name, first)
        save(folder.parent / "masks" / name, blob(96))
        rows.append((f"00{center}", 1, 96, 192, center % 2, center, center, 0))
    columns = ["patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metadata.csv")
    return np.moveaxis(first, -1, 0), 4


def medmnist(folder):
    """Write ten pictures of 28 px in three parts, with a mask of lungs."""
    numbers = {"train": 5, "val": 2, "test": 3}
    arrays = {f"{part}_images": noise(n, 28, 28) for part, n in numbers.items()}
    labels = {f"{part}_labels": np.arange(n)[:, None] % 2 for part, n in numbers.items()}
    np.savez(folder, **arrays, **labels)
    np.savez(folder.parent / "masks.npz", **{name: np.stack([blob(28)] * len(of)) for name, of in arrays.items()})
    return np.pad(arrays["train_images"][0], 2, mode="edge")[None], 10


def blob(side):
    """Return a mask (side, side) that is 255 in its left third."""
    return np.where(np.arange(side)[None].repeat(side, axis=0) < side // 3, 255, 0).astype(np.uint8)


LOADERS = {  # name: what writes its files, their place, the slide that is made, whether it takes masks
    "eurosat": (eurosat, "EuroSAT_MS", "eurosat", None),
    "mmearth": (mmearth, "data_tiny_v001", "mmearth", None),
    "nct_crc": (nct_crc, "NCT-CRC-HE-100K", "nct_crc", "masks"),
    "camelyon17": (camelyon17, "camelyon17_v1.0", "camelyon17", "masks"),
    "medmnist": (medmnist, "pneumoniamnist.npz", "pneumoniamnist", "masks.npz"),
}


def cut(folder, slide_name, store):
    """Return the patches of a mosaic and its labels, as the workflow cuts them."""
    slide = open_slide(folder / f"{slide_name}.ome.tiff")
    mask = open_mask(folder / f"{slide_name}_mask.ome.tiff", slide=slide)
    side = tifffile.imread(folder / f"{slide_name}_mask.ome.tiff").shape[1]
    labels = pd.read_csv(folder / f"{slide_name}_labels.csv").set_index("cell_id")
    columns = int(np.ceil(np.sqrt(len(labels))))
    cells = measure_cells(slide, mask)
    made = extract_patches(slide, mask, store, patch_size_um=side / columns, cells=cells, cell_ids=labels.index)
    return made, labels.loc[made.cells["cell_id"]]


@pytest.mark.parametrize("name", LOADERS)
def test_every_loader_makes_a_slide_whose_patches_are_the_pictures(load, name, tmp_path):
    write, place, slide, _ = LOADERS[name]
    first, n = write(tmp_path / place)

    load(f"datasets/{name}", tmp_path / place, tmp_path / "out")

    store, labels = cut(tmp_path / "out", slide, tmp_path / "s.zarr")
    assert store.n_cells == len(labels) == n
    assert {"class", "split"} <= set(labels.columns)
    assert set(labels["split"]) <= {"train", "test"}
    at = int(np.flatnonzero(store.cells["cell_id"] == 1)[0])
    np.testing.assert_array_equal(store.patches[at], first)


@pytest.mark.parametrize("name", [name for name, (*_, masks) in LOADERS.items() if masks])
def test_a_mask_becomes_the_region_of_each_picture(load, name, tmp_path):
    write, place, slide, masks = LOADERS[name]
    write(tmp_path / place)

    load(f"datasets/{name}", tmp_path / place, tmp_path / "out", "--masks", tmp_path / masks)

    store, labels = cut(tmp_path / "out", slide, tmp_path / "s.zarr")
    inside = store.regions[:] != 0  # what `--deconstruct mask` calls inside
    side = store.patch_px
    assert store.n_cells == len(labels)
    assert inside[:, :, : side // 3 - 2].all()
    assert not inside[:, :, side // 2 + 2 :].any()


@pytest.mark.parametrize("name", [*LOADERS, "orion_crc"])
def test_every_loader_refuses_another_folder_in_a_sentence(load, name, tmp_path):
    place = tmp_path / "other.npz" if name == "medmnist" else tmp_path / "other"
    if name == "medmnist":
        np.savez(place, images=noise(2, 28, 28))
    else:
        place.mkdir()

    with pytest.raises(SystemExit, match=r"lacks|not found|holds"):
        load(f"datasets/{name}", place, tmp_path / "out")


def test_a_patient_of_orion_becomes_a_slide_with_its_mask_and_types(load, tmp_path):
    source = tmp_path / "CRC01"
    source.mkdir()
    markers = ["Hoechst", "AF1", "CD3e"]
    image, mask = noise(3, 64, 64, dtype=np.uint16), np.zeros((64, 64), np.int32)
    mask[20:30, 20:30], mask[40:50, 40:50] = 1, 2
    about = {"axes": "CYX", "Channel": {"Name": markers}, "PhysicalSizeX": 0.325, "PhysicalSizeY": 0.325}
    tifffile.imwrite(source / "P37_S29_A24-zlib.ome.tiff", image, photometric="minisblack", metadata=about)
    tifffile.imwrite(source / "P37_S29-CRC01-mask.ome.tif", mask, metadata={"axes": "YX"})
    pd.DataFrame({"CellID": [1, 2], "Hoechst": [5.0, 6.0]}).to_csv(source / "P37_S29-CRC01.csv", index=False)
    pd.DataFrame({"CellID": [2, 1], "type": ["T cell", "B cell"]}).to_csv(tmp_path / "types.csv", index=False)

    load("datasets/orion_crc", source, tmp_path / "out", "--types", tmp_path / "types.csv")

    slide = open_slide(tmp_path / "out/CRC01.ome.tiff")
    assert list(slide.markers) == markers
    assert open_mask(tmp_path / "out/CRC01_mask.ome.tiff", slide=slide).shape == (64, 64)
    labels = pd.read_csv(tmp_path / "out/CRC01_labels.csv")
    assert labels[["cell_id", "type"]].to_numpy().tolist() == [[1, "B cell"], [2, "T cell"]]


def test_the_real_pneumonia_set_is_read(load, shared_data, tmp_path):
    source = shared_data / "medmnist-pneumonia/pneumoniamnist.npz"
    if not source.is_file():
        pytest.skip("PneumoniaMNIST is not among the real slides")

    load("datasets/medmnist", source, tmp_path, "--per-class", 20)

    labels = pd.read_csv(tmp_path / "pneumoniamnist_labels.csv")
    assert labels.groupby(["class", "split"]).size().eq(20).all()
    store, _ = cut(tmp_path, "pneumoniamnist", tmp_path / "s.zarr")
    assert store.patches.shape == (80, 1, 32, 32)
    assert store.patches[:].std() > 10


def test_a_mask_is_degraded_as_each_error_says_and_ids_stay(load, tmp_path):
    ids = np.arange(1, 101, dtype=np.uint32).reshape(10, 10)
    mask = np.zeros((160, 160), np.uint32)
    mask.reshape(10, 16, 10, 16)[:, 2:, :, 2:] = ids[:, None, :, None]  # squares of 14 px, 2 px apart
    mask[:, 16:32] = np.where(mask[:, 16:32] == 0, mask[:, 18:34], mask[:, 16:32])  # two columns touch
    tifffile.imwrite(tmp_path / "s.ome.tiff", noise(1, 160, 160), metadata={"axes": "CYX", "PhysicalSizeX": 0.5})
    tifffile.imwrite(tmp_path / "s_mask.ome.tiff", mask, metadata={"axes": "YX", "PhysicalSizeX": 0.5})
    pd.DataFrame({"cell_id": range(1, 101)}).to_csv(tmp_path / "s_labels.csv", index=False)

    load("datasets/degrade", tmp_path / "s.ome.tiff", tmp_path / "out")

    made = {path.name[: -len("_mask.ome.tiff")]: tifffile.imread(path) for path in (tmp_path / "out").glob("*_mask*")}
    np.testing.assert_array_equal(made["exact"], mask)
    covered = {error: (wrong > 0).mean() for error, wrong in made.items()}
    assert covered["eroded"] < covered["missing"] < covered["exact"] == covered["merged"] < covered["dilated"]
    np.testing.assert_array_equal(made["shifted"][3:, 3:], mask[:-3, :-3])
    assert 5 < 100 - len(np.unique(made["missing"][made["missing"] > 0])) < 40
    assert 90 < len(np.unique(made["merged"][made["merged"] > 0])) < 100
    assert all(set(np.unique(wrong)) <= set(range(101)) for wrong in made.values())


def test_a_real_field_of_mibi_is_a_slide_with_typed_cells_of_a_patient(load, shared_data, tmp_path):
    source, field = shared_data / "mibi-dcis-risom2022", "Point2206_pt1116_31620"
    if not source.is_dir():
        pytest.skip("the MIBI fields are not among the real slides")

    load("datasets/mibi_dcis", source, tmp_path, "--fields", field, "--cells", 5)

    slide = open_slide(tmp_path / f"{field}.ome.tiff")
    mask = np.asarray(open_mask(tmp_path / f"{field}_mask.ome.tiff", slide=slide)[:, :])
    labels = pd.read_csv(tmp_path / f"{field}_labels.csv")
    assert len(slide.markers) == 41
    assert set(labels["patient"]) == {"pt1116"}
    assert set(labels["cell_id"]) <= set(np.unique(mask))
    assert labels["lineage"].value_counts().between(1, 5).all()


def test_cells_sorted_by_hand_lie_in_the_middle_of_their_pictures(load, shared_data, tmp_path):
    source = shared_data / "ifc-cellcycle-blasi2016"
    if not source.is_dir():
        pytest.skip("the sorted cells are not among the real slides")

    load("datasets/cell_cycle", source, tmp_path)

    labels = pd.read_csv(tmp_path / "cells_labels.csv")
    assert labels["phase"].value_counts().to_dict() == {"G1": 450, "G2": 450, "S_phase": 450, "Prophase": 306}
    slide = open_slide(tmp_path / "cells.ome.tiff")
    cells = measure_cells(slide, open_mask(tmp_path / "cells_mask.ome.tiff", slide=slide))
    places = cells.table[["x_px", "y_px"]].to_numpy() % 64
    assert len(cells.table) == len(labels)
    assert np.abs(places - 31.5).max() <= 1
