"""NCT-CRC-HE-100K (Kather et al. 2019): nine tissue types in stained sections.

Reads the unpacked archive: ``<class>/<class>-<letters>.tif``, (224, 224, 3) uint8. Masks of nuclei, which are not
published with it, are a folder of the same files (``.png`` or ``.tif``), above 0 in nuclei; they make the nuclei a
component of their own.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from mosaic import arguments, read_image, read_region, refuse, some, split_at_random, write_mosaic

CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
SIDE = 224


def main() -> None:
    """Read the images and write the mosaic ``nct_crc``."""
    parser = arguments(__doc__)
    parser.add_argument("--masks", type=Path, help="folder of masks of nuclei")
    given = parser.parse_args()
    found = {name: some((given.source / name).glob(f"{name}-*.tif"), given.per_class, given.seed) for name in CLASSES}
    for name, files in found.items():
        if not files:
            refuse(f"{given.source / name}/{name}-*.tif not found; give the folder that contains the nine classes.")
    files = [file for of_class in found.values() for file in of_class]
    labels = pd.DataFrame({"class": [file.parent.name for file in files]})
    labels["split"] = split_at_random(len(labels), given.seed)
    regions = None
    if given.masks is not None:
        regions = np.stack([read_region(mask_of(file, given.source, given.masks), SIDE) for file in files])
    given.out.mkdir(parents=True, exist_ok=True)
    images = (read_image(file, (3, SIDE, SIDE)) for file in files)
    channels = ("red", "green", "blue")
    write_mosaic(images, labels, given.out / "nct_crc", channels=channels, side_px=SIDE, regions=regions)


def mask_of(file: Path, source: Path, masks: Path) -> Path:
    """Return where the mask of an image lies."""
    mask = masks / file.relative_to(source)
    return mask if mask.is_file() else mask.with_suffix(".png")


if __name__ == "__main__":
    main()
