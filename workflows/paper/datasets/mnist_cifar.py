"""MNIST above CIFAR, the benchmark for simplicity bias (Farndale et al. 2025, arXiv 2503.07444, figure 2).

A digit 0 stands above a car and a 1 above a truck, so the digit alone predicts the class. Four mosaics are written:
``train`` for self-supervised learning, and ``rNONE``, ``rMNIST`` and ``rCIFAR`` for the classifier, in the last two of
which the digits, or the photographs, are shuffled among the classes. A column ``split`` marks the training and the
test images of the classifier; no test image is in ``train``. ``--without-digits`` leaves the upper half black: what
can be learned of the photographs where nothing else predicts the class.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from mosaic import write_mosaic
from PIL import Image

SIDE = 64  # two images of 32 px, one above the other, in the middle of a square
CLASSES = (("0", "automobile"), ("1", "truck"))


def main() -> None:
    """Read the two archives and write the mosaics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mnist", type=Path, help="zip of PNG files in folders named by their digit")
    parser.add_argument("cifar", type=Path, help="zip of images in folders named by their class")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--train", type=int, default=4000, help="images per class to learn from")
    parser.add_argument("--test", type=int, default=1000, help="images per class to test on")
    parser.add_argument("--without-digits", action="store_true", help="photographs alone")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    args = (given.train + given.test, rng)
    digits = [read_class(given.mnist, digit, *args) for digit, _ in CLASSES]
    photographs = [read_class(given.cifar, name, *args) for _, name in CLASSES]
    given.out.mkdir(parents=True, exist_ok=True)
    split = np.where(np.arange(given.train + given.test) < given.train, "train", "test")
    labels = pd.DataFrame({"class": np.repeat([name for _, name in CLASSES], len(split)), "split": np.tile(split, 2)})
    upper, lower = np.concatenate(digits), np.concatenate(photographs)
    if given.without_digits:
        upper[:] = 0
    train = (labels["split"] == "train").to_numpy()
    sets = {
        "train": (upper[train], lower[train], labels[train]),
        "rNONE": (upper, lower, labels),
        "rMNIST": (shuffled_within(upper, train, rng), lower, labels),
        "rCIFAR": (upper, shuffled_within(lower, train, rng), labels),
    }
    for name, (above, below, table) in sets.items():
        images = (put_together(a, b) for a, b in zip(above, below, strict=True))
        write_mosaic(images, table, given.out / name, channels=("red", "green", "blue"), side_px=SIDE)


def read_class(archive: Path, name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n images of a class, drawn at random, (n, 3, 32, 32) uint8; smaller ones stand in the middle."""
    with zipfile.ZipFile(archive) as files:
        members = sorted(member for member in files.namelist() if Path(member).parent.name == name)
        if len(members) < n:
            msg = f"{archive} holds {len(members)} images of class {name!r}; {n} are needed."
            raise SystemExit(msg)
        chosen = [members[i] for i in rng.permutation(len(members))[:n]]
        images = [np.asarray(Image.open(io.BytesIO(files.read(member))).convert("RGB")) for member in chosen]
    out = np.zeros((n, 3, 32, 32), np.uint8)
    for i, image in enumerate(images):
        height, width = image.shape[:2]
        top, left = (32 - height) // 2, (32 - width) // 2
        out[i, :, top : top + height, left : left + width] = np.moveaxis(image, -1, 0)
    return out


def shuffled_within(images: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the images in random order, training and test images apart."""
    out = images.copy()
    for part in (train, ~train):
        out[part] = images[part][rng.permutation(part.sum())]
    return out


def put_together(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return two images (3, 32, 32), one above the other, in the middle of a square of 64 px."""
    out = np.zeros((3, SIDE, SIDE), np.uint8)
    out[:, :32, 16:48], out[:, 32:, 16:48] = above, below
    return out


if __name__ == "__main__":
    main()
