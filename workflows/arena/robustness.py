"""Robustness: the same cells with one marker brighter or darker, or with another mask.

A probe is trained on untouched cells of one half of the slide and tested on a part of the other half, untouched and
changed.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from sets import DataSet, LabelledSlide
from skimage.segmentation import expand_labels, find_boundaries
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mxsplicer import drop_markers, open_mask, open_slide
from mxsplicer.tl.tasks import at_most_per_class

LABELS = ("lineage", "t_cell_subtype")
GAINS = (0.5, 2.0)
SIDE_PX = 640  # of the part that is changed
TRAINING_CELLS = 500  # of a class
UNTOUCHED = "untouched"


def dilate(mask: np.ndarray) -> np.ndarray:
    """Return the mask with cells grown by one pixel where there is room."""
    return np.asarray(expand_labels(mask, 1))


def erode(mask: np.ndarray) -> np.ndarray:
    """Return the mask without the outermost pixel of each cell."""
    return np.where(find_boundaries(mask, mode="inner"), 0, mask)


def shift(mask: np.ndarray) -> np.ndarray:
    """Return the mask one pixel further right and down."""
    moved = np.zeros_like(mask)
    moved[1:, 1:] = mask[:-1, :-1]
    return moved


MASKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mask dilated": dilate,
    "mask eroded": erode,
    "mask shifted": shift,
}


def make_variants(data: DataSet, folder: Path) -> DataSet:
    """Write a part of the slide untouched and with every change, and return them as the slides of one data set."""
    folder.mkdir(parents=True, exist_ok=True)
    one = data.slides[0]
    slide = drop_markers(open_slide(one.image), list(data.drop))
    side = min(SIDE_PX, slide.image.shape[1] // 2)
    part = np.s_[-side - 64 : -64, -side - 64 : -64]
    image = np.asarray(slide.image[(slice(None), *part)])
    mask = np.asarray(open_mask(one.mask, slide=slide)[part])
    slides = []
    for name, (pixels, outlines) in _changes(image, mask, slide.markers):
        stem = folder / name.replace(" ", "_")
        if not Path(f"{stem}.ome.tiff").exists():
            size = {"PhysicalSizeX": slide.pixel_size_um, "PhysicalSizeY": slide.pixel_size_um}
            about = {"axes": "CYX", "Channel": {"Name": list(slide.markers)}, **size}
            tifffile.imwrite(f"{stem}_mask.ome.tiff", outlines.astype(np.uint32), metadata={"axes": "YX", **size})
            tifffile.imwrite(f"{stem}.ome.tiff", pixels, tile=(256, 256), metadata=about)
        whole = np.setdiff1d(np.unique(mask), _at_border(mask))
        labels = one.labels[one.labels["cell_id"].isin(whole)]
        slides.append(
            LabelledSlide(Path(f"{stem}.ome.tiff"), Path(f"{stem}_mask.ome.tiff"), labels.assign(change=name))
        )
    return DataSet("robustness", tuple(slides), LABELS, data.patch_size_um)


def _changes(
    image: np.ndarray, mask: np.ndarray, markers: tuple[str, ...]
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    yield UNTOUCHED, (image, mask)
    for name, change in MASKS.items():
        yield name, (image, change(mask))
    highest = np.iinfo(image.dtype).max
    for channel, marker in enumerate(markers):
        for gain in GAINS:
            changed = image.copy()
            changed[channel] = np.clip(np.rint(image[channel] * gain), 0, highest).astype(image.dtype)
            yield f"{marker} x {gain:g}", (changed, mask)


def _at_border(mask: np.ndarray) -> np.ndarray:
    return np.unique(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]))


def trained_half(places: np.ndarray) -> np.ndarray:
    """Return the cells (n) in the left half of the slide, far from the part that is changed."""
    x = places[:, 0]
    return np.asarray(x < (x.min() + x.max()) / 2 - 32)


def score(
    trained: np.ndarray, table: pd.DataFrame, changed: np.ndarray, changed_table: pd.DataFrame, *, seed: int = 0
) -> list[dict[str, object]]:
    """Return, for each label and change, the loss of balanced accuracy and the share of cells that get another label.

    Parameters
    ----------
    trained, changed
        Features of the cells of the untouched half, and of the changed cells.
    table, changed_table
        Their labels; ``changed_table`` has ``change`` and ``cell_id``.
    """
    rows: list[dict[str, object]] = []
    for label in LABELS:
        known = np.flatnonzero((table[label].fillna("") != "").to_numpy() & np.isfinite(trained).all(axis=1))
        names = table[label].to_numpy(dtype=object).astype(str)
        codes = np.unique(names[known], return_inverse=True)[1]
        train = known[at_most_per_class(np.arange(len(known)), codes, TRAINING_CELLS, np.random.default_rng(seed))]
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=500))
        probe.fit(trained[train], names[train])
        found = np.isfinite(changed).all(axis=1) & (changed_table[label].fillna("") != "").to_numpy()
        predicted = changed_table[found].assign(predicted=probe.predict(changed[found]))
        untouched = predicted[predicted["change"] == UNTOUCHED].set_index("cell_id")
        before = balanced_accuracy_score(untouched[label].astype(str), untouched["predicted"])
        for change, cells in predicted.groupby("change", sort=False):
            both = cells.set_index("cell_id").join(untouched["predicted"].rename("before"), how="inner")
            after = balanced_accuracy_score(both[label].astype(str), both["predicted"])
            rows.append(
                {
                    "label": label,
                    "change": change,
                    "untouched": before,
                    "loss": before - after,
                    "flipped": (both["predicted"] != both["before"]).mean(),
                }
            )
    return rows


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per description, label and kind of change: mean over the markers, and the worst marker."""
    kind = rows["change"].where(rows["change"].isin([*MASKS, UNTOUCHED]), rows["change"].str.rsplit(" x ").str[-1])
    kind = kind.where(rows["change"].isin([*MASKS, UNTOUCHED]), "gain x " + kind)
    groups = rows.assign(kind=kind).groupby(["description", "label", "kind"], sort=False)
    worst = rows.loc[groups["loss"].idxmax(), "change"].to_numpy()
    table = groups.agg(
        untouched=("untouched", "mean"), loss=("loss", "mean"), worst_loss=("loss", "max"), flipped=("flipped", "mean")
    )
    return table.assign(worst=worst, worst_flipped=groups["flipped"].max()).reset_index()
