"""Camelyon17-WILDS (Bandi et al. 2018; Koh et al. 2021): metastases, and a hospital that was not trained on.

Reads the unpacked ``camelyon17_v1.0``: ``metadata.csv`` (patient, node, x_coord, y_coord, tumor, center, ...) and
``patches/patient_<p>_node_<n>/patch_patient_<p>_node_<n>_x_<x>_y_<y>.png``, 96 px. Hospitals 0, 3 and 4 train, 2 tests,
as in WILDS; 1 is left out. Masks of nuclei are a folder like ``patches``.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from mosaic import arguments, read_image, read_region, refuse, write_mosaic

SPLITS = {0: "train", 3: "train", 4: "train", 2: "test"}
SIDE = 96


def main() -> None:
    """Read the images and write the mosaic ``camelyon17``."""
    parser = arguments(__doc__)
    parser.add_argument("--masks", type=Path, help="folder of masks of nuclei")
    given = parser.parse_args()
    path = given.source / "metadata.csv"
    table = pd.read_csv(path, index_col=0, dtype={"patient": str}) if path.is_file() else pd.DataFrame()
    missing = {"patient", "node", "x_coord", "y_coord", "tumor", "center"} - set(table.columns)
    if missing:
        refuse(f"{path} lacks {', '.join(sorted(missing))}; give the folder camelyon17_v1.0.")
    table = (
        table.assign(split=table["center"].map(SPLITS)).dropna(subset="split").sample(frac=1, random_state=given.seed)
    )
    table = table.groupby(["split", "tumor"]).head(given.per_class).sort_index()
    names = [
        f"patient_{row.patient}_node_{row.node}/"
        f"patch_patient_{row.patient}_node_{row.node}_x_{row.x_coord}_y_{row.y_coord}.png"
        for row in table.itertuples()
    ]
    labels = table[["split", "center"]].assign(**{"class": np.where(table["tumor"] == 1, "tumour", "normal")})
    regions = None if given.masks is None else np.stack([read_region(given.masks / name, SIDE) for name in names])
    given.out.mkdir(parents=True, exist_ok=True)
    images = (read_image(given.source / "patches" / name, (3, SIDE, SIDE)) for name in names)
    channels = ("red", "green", "blue")
    write_mosaic(images, labels, given.out / "camelyon17", channels=channels, side_px=SIDE, regions=regions)


if __name__ == "__main__":
    main()
