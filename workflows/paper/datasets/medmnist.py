"""A set of MedMNIST (Yang et al. 2023), such as PneumoniaMNIST.

Reads ``<name>.npz`` with ``train_images``, ``train_labels``, the same of ``val`` and ``test``: images (N, P, P) or
(N, P, P, 3) uint8, labels (N, 1). ``train`` and ``val`` train the classifier. Masks are an npz with ``train_images``,
... of the same number and size, above 0 inside (lungs).
"""

from pathlib import Path

import numpy as np
import pandas as pd
from mosaic import arguments, refuse, write_mosaic

PARTS = ("train", "val", "test")


def main() -> None:
    """Read the arrays and write a mosaic named as the file."""
    parser = arguments(__doc__)
    parser.add_argument("--masks", type=Path, help="npz of regions")
    given = parser.parse_args()
    images, classes, split = read(given.source)
    regions = read(given.masks)[0][:, 0] > 0 if given.masks is not None else None
    if regions is not None and regions.shape != (len(images), *images.shape[2:]):
        refuse(f"masks of {given.masks} are {regions.shape}, images of {given.source} {images.shape}.")
    labels = pd.DataFrame({"class": [f"class {number}" for number in classes], "split": split})
    chosen = labels.sample(frac=1, random_state=given.seed).groupby(["class", "split"]).head(given.per_class)
    rows = np.sort(chosen.index.to_numpy())
    side = -(-images.shape[2] // 16) * 16  # tiles of a TIFF are multiples of 16 px
    given.out.mkdir(parents=True, exist_ok=True)
    write_mosaic(
        (padded(images[row], side) for row in rows),
        labels.iloc[rows],
        given.out / given.source.stem,
        channels=("grey",) if images.shape[1] == 1 else ("red", "green", "blue"),
        side_px=side,
        regions=None if regions is None else np.stack([padded(regions[row], side) for row in rows]),
    )


def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images (N, C, P, P), the class and the split of each; validation is training here."""
    with np.load(path) as file:
        missing = [f"{part}_images" for part in PARTS if f"{part}_images" not in file]
        if missing:
            refuse(f"{path} lacks {', '.join(missing)}; it holds {', '.join(file)}.")
        images = np.concatenate([file[f"{part}_images"] for part in PARTS])
        numbers = [len(file[f"{part}_images"]) for part in PARTS]
        labels = [file[f"{part}_labels"] for part in PARTS if f"{part}_labels" in file]
    images = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
    classes = np.concatenate(labels)[:, 0] if labels else np.zeros(len(images), int)
    return images, classes, np.repeat(["train", "train", "test"], numbers)


def padded(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image in the middle of a square, its edges repeated."""
    before = (side - image.shape[-1]) // 2
    after = side - image.shape[-1] - before
    return np.pad(image, [(0, 0)] * (image.ndim - 2) + [(before, after)] * 2, mode="edge")


if __name__ == "__main__":
    main()
