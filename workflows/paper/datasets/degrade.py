"""Masks with the errors that segmentation makes, for the same slide.

``eroded`` and ``dilated`` by 2 px, ``shifted`` by 3 px, ``merged``: a fifth of the cells take the id of the cell they
touch, ``missing``: a fifth are absent. Ids stay, so the labels do.
"""

import argparse
from pathlib import Path

import numpy as np
import tifffile
from mosaic import link
from skimage.segmentation import expand_labels, find_boundaries

SHARE = 0.2


def eroded(mask: np.ndarray) -> np.ndarray:
    """Return the mask without the outermost two pixels of each cell."""
    for _ in range(2):
        mask = np.where(find_boundaries(mask, mode="inner"), 0, mask)
    return mask


def dilated(mask: np.ndarray) -> np.ndarray:
    """Return the mask with cells grown by two pixels where there is room."""
    return expand_labels(mask, 2)


def shifted(mask: np.ndarray) -> np.ndarray:
    """Return the mask three pixels further right and down."""
    out = np.zeros_like(mask)
    out[3:, 3:] = mask[:-3, :-3]
    return out


def merged(mask: np.ndarray) -> np.ndarray:
    """Return the mask in which every fifth cell belongs to a cell that it touches."""
    new = np.arange(mask.max() + 1, dtype=mask.dtype)
    left, right = mask[:, :-2].ravel(), mask[:, 2:].ravel()
    touching = (left != right) & (left > 0) & (right > 0)
    swallowed = drawn(mask)
    for cell, other in np.unique(np.stack([left[touching], right[touching]], axis=1), axis=0):
        if swallowed[cell] and not swallowed[other]:
            new[cell] = other
    return new[mask]


def missing(mask: np.ndarray) -> np.ndarray:
    """Return the mask without every fifth cell."""
    return np.where(drawn(mask)[mask], 0, mask)


def drawn(mask: np.ndarray) -> np.ndarray:
    """Return which ids are drawn."""
    return np.random.default_rng(0).random(int(mask.max()) + 1) < SHARE


ERRORS = {"eroded": eroded, "dilated": dilated, "shifted": shifted, "merged": merged, "missing": missing}


def main() -> None:
    """Write the slide with another mask under another name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "slide", type=Path, help="<slide>.ome.tiff; <slide>_mask.ome.tiff and ..._labels.csv in the same folder"
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--errors", nargs="+", choices=["exact", *ERRORS], default=["exact", *ERRORS])
    given = parser.parse_args()
    source = str(given.slide).removesuffix(".ome.tiff")
    mask = tifffile.imread(f"{source}_mask.ome.tiff")
    with tifffile.TiffFile(f"{source}_mask.ome.tiff") as file:
        about = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    size = {key: about[key] for key in ("PhysicalSizeX", "PhysicalSizeY") if key in about}
    given.out.mkdir(parents=True, exist_ok=True)
    for error in given.errors:
        link(given.slide, given.out / f"{error}.ome.tiff")
        link(Path(f"{source}_labels.csv"), given.out / f"{error}_labels.csv")
        wrong = mask if error == "exact" else ERRORS[error](mask)
        tifffile.imwrite(
            given.out / f"{error}_mask.ome.tiff",
            wrong.astype(np.uint32),
            tile=(256, 256),
            compression="zlib",
            metadata={"axes": "YX", **size},
        )


if __name__ == "__main__":
    main()
