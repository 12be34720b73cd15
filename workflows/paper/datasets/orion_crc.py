"""A patient of Orion-CRC (Lin et al. 2023): a slide of 19 markers, its mask and its table of cells.

Reads one folder of s3://lin-2023-orion-crc/data, ``CRC01``, say: ``P*_S*.ome.tiff``, ``*-mask.ome.tif``, ``P*_S*.csv``
(one row per cell, ``CellID`` and a mean per marker) and ``markers.csv``. It is a slide already, so nothing is copied:
image and mask get names that the workflow knows. Types are not published; ``--types`` is a table of yours (``CellID``
and columns of words). Without it the table of labels holds the cells alone.
"""

import argparse
from pathlib import Path

import pandas as pd
import tifffile
from mosaic import link, refuse


def main() -> None:
    """Link the slide and its mask, and write the table of labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder of one patient")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--types", type=Path, help="CSV of cell types")
    given = parser.parse_args()
    image = only(given.source, "P*_S*.ome.tiff")
    mask = only(given.source, "*-mask.ome.tif")
    table = only(given.source, "P*_S*.csv")
    with tifffile.TiffFile(image) as slide, tifffile.TiffFile(mask) as label_image:
        shape, size = slide.series[0].shape, label_image.series[0].shape
    if len(shape) != 3 or shape[1:] != size:
        refuse(f"{image} is {shape} and {mask} is {size}; a slide (C, Y, X) and a mask (Y, X) of one size are needed.")
    cells = pd.read_csv(table, usecols=["CellID"])
    if given.types is not None:
        cells = cells.merge(pd.read_csv(given.types), on="CellID", how="left", validate="one_to_one")
    given.out.mkdir(parents=True, exist_ok=True)
    name = given.source.resolve().name
    for file, end in ((image, ".ome.tiff"), (mask, "_mask.ome.tiff")):
        link(file, given.out / f"{name}{end}")
    cells.rename(columns={"CellID": "cell_id"}).to_csv(given.out / f"{name}_labels.csv", index=False)


def only(folder: Path, pattern: str) -> Path:
    """Return the one file of a folder that a pattern fits."""
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        refuse(f"{folder} holds {len(files)} files {pattern}; one is needed.")
    return files[0]


if __name__ == "__main__":
    main()
