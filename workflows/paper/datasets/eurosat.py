"""EuroSAT (Helber et al. 2019): land use from the 13 bands of Sentinel-2, one channel per band.

Reads the unpacked ``EuroSAT_MS.zip`` or ``EuroSATallBands.zip``: ``<class>/<class>_<number>.tif``, (64, 64, 13) uint16.
Files of other names in a class (``SeaLake`` of one release has some) are left out.
"""

import pandas as pd
from mosaic import arguments, read_image, refuse, some, split_at_random, write_mosaic

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")  # as in the files
SIDE = 64


def main() -> None:
    """Read the images and write the mosaic ``eurosat``."""
    given = arguments(__doc__).parse_args()
    found = {name: some((given.source / name).glob(f"{name}_*.tif"), given.per_class, given.seed) for name in CLASSES}
    for name, files in found.items():
        if not files:
            refuse(f"{given.source / name}/{name}_*.tif not found; give the folder that contains the ten classes.")
    files = [file for of_class in found.values() for file in of_class]
    labels = pd.DataFrame({"class": [file.parent.name for file in files]})
    labels["split"] = split_at_random(len(labels), given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    images = (read_image(file, (len(BANDS), SIDE, SIDE)) for file in files)
    write_mosaic(images, labels, given.out / "eurosat", channels=BANDS, side_px=SIDE, dtype="uint16")


if __name__ == "__main__":
    main()
