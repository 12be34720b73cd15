"""The loaders of the paper's datasets, on small files of the same layout."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mxsplicer import extract_patches, open_mask, open_slide

DATASETS = Path(__file__).parents[2] / "workflows/paper/datasets"


def write_archive(path: Path, classes: dict[str, int], side: int) -> None:
    """Write a zip of 12 noisy images per class, which differ in mean brightness."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for name, brightness in classes.items():
            for number in range(12):
                file = io.BytesIO()
                Image.fromarray(rng.integers(brightness, brightness + 20, (side, side), np.uint8)).save(file, "png")
                archive.writestr(f"train/{name}/{number}.png", file.getvalue())


def make_mosaics(folder: Path, *options: str) -> Path:
    """Return a folder with MNIST above CIFAR, made from small archives."""
    write_archive(folder / "mnist.zip", {"0": 10, "1": 100}, 28)
    write_archive(folder / "cifar.zip", {"automobile": 10, "truck": 100}, 32)
    script = [sys.executable, DATASETS / "mnist_cifar.py", folder / "mnist.zip", folder / "cifar.zip", folder / "out"]
    subprocess.run([*script, "--train", "8", "--test", "4", *options], check=True)
    return folder / "out"


@pytest.fixture(scope="module")
def mosaics(tmp_path_factory):
    return make_mosaics(tmp_path_factory.mktemp("mnist_cifar"))


def patches(folder: Path, name: str, tmp_path: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the pictures of a mosaic as mxsplicer cuts them, and their labels in the same order."""
    slide = open_slide(folder / f"{name}.ome.tiff")
    store = extract_patches(
        slide, open_mask(folder / f"{name}_mask.ome.tiff", slide=slide), tmp_path / "s.zarr", patch_size_um=64
    )
    labels = pd.read_csv(folder / f"{name}_labels.csv").set_index("cell_id").loc[store.cells["cell_id"]]
    return store.patches[:], labels


def test_a_patch_of_the_mosaic_is_a_digit_above_a_photograph_of_its_class(mosaics, tmp_path):
    pictures, labels = patches(mosaics, "train", tmp_path)

    assert len(pictures) == len(labels) == 16
    assert set(labels["split"]) == {"train"}
    bright = (labels["class"] == "truck").to_numpy()
    digit, photograph = pictures[:, 0, 2:30, 18:46].mean(axis=(1, 2)), pictures[:, 0, 32:, 16:48].mean(axis=(1, 2))
    np.testing.assert_array_equal(digit > 60, bright)
    np.testing.assert_array_equal(photograph > 60, bright)
    assert not pictures[:, :, :, :16].any()  # nothing outside the images


def test_photographs_can_stand_alone(mosaics, tmp_path):
    alone = make_mosaics(tmp_path, "--without-digits")

    pictures, labels = patches(alone, "rNONE", tmp_path)

    with_digits, _ = patches(mosaics, "rNONE", tmp_path / "with")
    assert not pictures[:, :, :32].any()
    np.testing.assert_array_equal(pictures[:, :, 32:], with_digits[:, :, 32:])
    assert labels["split"].value_counts().to_dict() == {"train": 16, "test": 8}


@pytest.mark.parametrize(("name", "shuffled"), [("rMNIST", "digit"), ("rCIFAR", "photograph"), ("rNONE", "none")])
def test_one_half_of_a_randomised_set_does_not_predict_the_class(mosaics, tmp_path, name, shuffled):
    pictures, labels = patches(mosaics, name, tmp_path)

    bright = (labels["class"] == "truck").to_numpy()
    halves = {"digit": pictures[:, 0, 2:30, 18:46], "photograph": pictures[:, 0, 32:, 16:48]}
    for half, pixels in halves.items():
        agreement = ((pixels.mean(axis=(1, 2)) > 60) == bright).mean()
        assert (agreement < 1) if half == shuffled else (agreement == 1)
    assert labels["split"].value_counts().to_dict() == {"train": 16, "test": 8}
