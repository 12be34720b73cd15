"""MIBI of breast tissue (Risom et al. 2022): fields whose cells have a published type, and patients to fold by.

Reads a folder with ``images/<field>.ome.tif``, ``derived/masks_watershed/<field>_mask.tif``, ``manifest.csv`` (fov,
patient, silver_ok) and ``derived/cell_types_silver.csv.gz`` (fov, label, cell_type, confident); links the images and
masks under names that the workflow knows, and writes the labels. The types were linked to the cells through mean
expression, so the mean over the mask is favoured by construction.
"""

import argparse
from pathlib import Path

import pandas as pd
from mosaic import link, refuse

LINEAGES = {
    "tumour": ("TUMOR_LUMINAL", "TUMOR_ECADCK", "TUMOR_CK5", "TUMOR_EMT"),
    "myoepithelial": ("MYOEP",),
    "fibroblast": ("FIBRO_VIMonly", "NORMFIBRO", "CAF", "MYOFIBRO"),
    "endothelial": ("ENDO",),
    "myeloid": ("MONO", "APC", "MACS", "MONODC", "DC"),
    "T cell": ("CD4T", "CD8T", "TCELL"),
    "B cell": ("BCELL",),
    "mast cell": ("MAST",),
    "neutrophil": ("NEUT",),
}  # OTHER and IMMUNEOTHER have no lineage


def main() -> None:
    """Link what is there and write a table of labels per field."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--fields", nargs="+", required=True, help="as manifest.csv calls them")
    parser.add_argument("--cells", type=int, help="cells of a lineage in a field, at most")
    given = parser.parse_args()
    patients = pd.read_csv(given.source / "manifest.csv").set_index("fov")["patient"]
    types = pd.read_csv(given.source / "derived/cell_types_silver.csv.gz")
    lineage = {one: name for name, members in LINEAGES.items() for one in members}
    types = types[types["confident"]].assign(lineage=lambda table: table["cell_type"].map(lineage))
    given.out.mkdir(parents=True, exist_ok=True)
    for field in given.fields:
        image = given.source / "images" / f"{field}.ome.tif"
        mask = given.source / "derived/masks_watershed" / f"{field}_mask.tif"
        table = types[(types["fov"] == field) & types["lineage"].notna()]
        for file in (image, mask):
            if not file.is_file():
                refuse(f"{file} not found; fields are named as in manifest.csv, such as {patients.index[0]}.")
        if given.cells:
            table = table.sample(frac=1, random_state=0).groupby("lineage").head(given.cells).sort_index()
        link(image, given.out / f"{field}.ome.tiff")
        link(mask, given.out / f"{field}_mask.ome.tiff")
        labels = table.rename(columns={"label": "cell_id"})[["cell_id", "cell_type", "lineage"]]
        labels.assign(patient=patients[field]).to_csv(given.out / f"{field}_labels.csv", index=False)


if __name__ == "__main__":
    main()
