"""Cells in a flow cytometer whose phase was sorted by hand (Blasi et al. 2016): labels that do not depend on intensity.

Reads a folder of montages, ``<phase>.ome.tif``, (C, Y, X): cells on a grid of 40 px, filled column by column, the rest
constant. The cell is the nucleus, found by its DNA stain; each image is shifted so that it is in the middle. The
images come from one sample, so folds are of random cells: no two share a pixel.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from mosaic import refuse, write_mosaic
from scipy import ndimage
from skimage.filters import threshold_otsu

GRID, SIDE = 40, 64
FAINTEST = 100  # range of DNA in an image with a cell; tiles that fill a montage up have 23
CHANNELS = ("bright field", "DNA", "dark field")
PHASES = ("G1", "S_phase", "G2", "Prophase")  # the others have fewer than 40 cells


def main() -> None:
    """Read the montages and write one mosaic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder of montages")
    parser.add_argument("out", type=Path, help="folder to write")
    given = parser.parse_args()
    images, masks, phases = [], [], []
    for phase in PHASES:
        for image in read_montage(given.source / f"{phase}.ome.tif"):
            nucleus = find_nucleus(image[1])
            if nucleus is not None:
                moved, mask = centred(image, nucleus)
                images.append(moved)
                masks.append(mask)
                phases.append(phase)
    group = np.random.default_rng(0).integers(20, size=len(phases))
    labels = pd.DataFrame({"phase": phases, "group": [f"group {number}" for number in group]})
    given.out.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(1).permutation(len(labels))  # so that the position carries no information
    write_mosaic(
        (images[i] for i in order),
        labels.iloc[order],
        given.out / "cells",
        channels=CHANNELS,
        side_px=SIDE,
        dtype="uint16",
        masks=np.stack(masks)[order],
    )


def read_montage(path: Path) -> list[np.ndarray]:
    """Return the images (C, 40, 40) of a montage that are not empty."""
    if not path.is_file():
        refuse(f"montage {path} not found; the folder must contain {', '.join(f'{one}.ome.tif' for one in PHASES)}.")
    image = tifffile.imread(path)
    if image.ndim != 3 or len(image) != len(CHANNELS) or any(side % GRID for side in image.shape[1:]):
        refuse(f"{path} is {image.shape}; (3, Y, X) with sides that are multiples of {GRID} px is needed.")
    rows, columns = (side // GRID for side in image.shape[1:])
    tiles = image.reshape(3, rows, GRID, columns, GRID).transpose(3, 1, 0, 2, 4).reshape(-1, 3, GRID, GRID)
    return [tile for tile in tiles if np.ptp(tile[1]) > FAINTEST]


def find_nucleus(dna: np.ndarray) -> np.ndarray | None:
    """Return the largest bright part of an image of DNA, or None where there is none of 20 px or more."""
    smooth = ndimage.gaussian_filter(dna.astype(float), 1)
    parts, n = ndimage.label(ndimage.binary_fill_holes(smooth > threshold_otsu(smooth)))
    sizes = ndimage.sum_labels(parts > 0, parts, np.arange(1, n + 1))
    return parts == 1 + int(np.argmax(sizes)) if n and sizes.max() >= 20 else None


def centred(image: np.ndarray, nucleus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and its mask in a square of 64 px, filled up at its edges, the nucleus in the middle."""
    y, x = (round(place) for place in ndimage.center_of_mass(nucleus))
    padding = [(0, 0)] + [(SIDE // 2 - place, SIDE // 2 - GRID + place) for place in (y, x)]
    return np.pad(image, padding, mode="edge"), np.pad(nucleus, padding[1:])


if __name__ == "__main__":
    main()
