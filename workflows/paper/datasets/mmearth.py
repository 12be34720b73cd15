"""MMEarth (Nedungadi et al. 2024): places anywhere on earth in the 13 bands of Sentinel-2, to train on without labels.

Reads a folder with ``data_*.h5``, whose array ``sentinel2`` is (N, 13, P, P) uint16, and ``data_*_splits.json``, lists
of rows by split. The biome, where the file has it (``biome``, one-hot), is the class.
"""

import json

import h5py
import numpy as np
import pandas as pd
from mosaic import arguments, refuse, write_mosaic

BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8A", "B8", "B9", "B10", "B11", "B12")  # as in the file


def main() -> None:
    """Read rows of the splits ``train`` and ``val`` and write the mosaic ``mmearth``."""
    given = arguments(__doc__).parse_args()
    paths = [*given.source.glob("data_*.h5"), *given.source.glob("data_*_splits.json")]
    if [path.suffix for path in paths] != [".h5", ".json"]:
        refuse(f"{given.source} holds {len(paths)} of one data_*.h5 and one data_*_splits.json.")
    splits = json.loads(paths[1].read_text(encoding="utf-8"))
    with h5py.File(paths[0], "r") as file:
        shape = file["sentinel2"].shape if "sentinel2" in file else ()
        if len(shape) != 4 or shape[1] != len(BANDS) or shape[2] != shape[3]:
            refuse(f"sentinel2 of {paths[0]} is {shape}; (N, 13, P, P) is needed.")
        parts = {"train": given.per_class, "test": given.per_class // 4}
        rows = {
            part: np.sort(np.random.default_rng(given.seed).permutation(splits[of])[:n])
            for (part, n), of in zip(parts.items(), ("train", "val"), strict=True)
        }
        images = np.concatenate([file["sentinel2"][part] for part in rows.values()])
        labels = pd.DataFrame({"split": np.repeat(list(rows), [len(part) for part in rows.values()])})
        if "biome" in file:
            labels["class"] = np.concatenate([file["biome"][part].argmax(axis=1) for part in rows.values()])
            labels["class"] = "biome " + labels["class"].astype(str)
    side = shape[2] // 16 * 16  # tiles of a TIFF are multiples of 16 px
    given.out.mkdir(parents=True, exist_ok=True)
    cropped = images[:, :, :side, :side]
    write_mosaic(cropped, labels, given.out / "mmearth", channels=BANDS, side_px=side, dtype="uint16")


if __name__ == "__main__":
    main()
