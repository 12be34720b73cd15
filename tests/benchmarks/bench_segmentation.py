"""Score the built-in segmentation on simulated tissue, whose true outlines are known.

Run by hand: ``python tests/benchmarks/bench_segmentation.py [--size-px 1024] [--seeds 0 1 2] [--slide SLIDE MASK]``.
A cell is found if an outline overlaps it with an intersection over union of at least 0.5; no outline counts twice.
Cells and nuclei are scored separately: the simulation knows only cells, so nuclei are scored by whether each lies in
one cell and each cell has one. The overlap is printed for several widths of expansion.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mxsplicer.images.opening import open_slide
from mxsplicer.masks.files import open_mask
from mxsplicer.segmentation.segment import segment
from mxsplicer.simulation import simulate_slide


def main() -> None:
    """Print a line for each slide and expansion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-px", type=int, default=1024)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--expansion-um", type=float, nargs="+", default=[2.0, 3.0, 4.0])
    parser.add_argument("--slide", type=Path, nargs=2, default=None, help="a slide of yours and its true mask")
    options = parser.parse_args()
    sys.stdout.write(
        f"{'slide':<14}{'grown':>7}{'true':>8}{'found':>8}{'F1':>7}{'IoU':>7}{'in cells':>10}{'single':>8}\n"
    )
    with TemporaryDirectory() as folder:
        if options.slide:
            slides = [tuple(options.slide)]
        else:
            made = [simulate_slide(f"{folder}/{n}.ome.tiff", size_px=options.size_px, seed=n) for n in options.seeds]
            slides = [(one.image, one.mask) for one in made]
        for image, mask in slides:
            slide = open_slide(image)
            truth = open_mask(mask, slide=slide)[:, :]
            for expansion_um in options.expansion_um:
                paths = [f"{folder}/{name}.zarr" for name in ("cells", "nuclei")]
                segment(slide, paths[0], expansion_um=expansion_um, nuclei_path=paths[1], overwrite=True)
                found, nuclei = (open_mask(path)[:, :] for path in paths)
                line = f"{slide.name:<14}{expansion_um:>7.1f}{len(np.unique(truth)) - 1:>8}{found.max():>8}"
                sys.stdout.write(f"{line}{score(found, truth)}{placed(nuclei, truth)}\n")
                sys.stdout.flush()


def score(found: np.ndarray, truth: np.ndarray) -> str:
    """Return F1 at an overlap of 0.5, and the mean overlap of what was found."""
    ious = overlaps(found, truth)
    hits = ious >= 0.5  # two outlines cannot both overlap a third by more than half
    n_true, n_found = (len(np.unique(labels[labels > 0])) for labels in (truth, found))
    f1 = 2 * hits.sum() / (n_true + n_found)
    return f"{f1:>7.3f}{ious[hits].mean():>7.3f}"


def placed(nuclei: np.ndarray, truth: np.ndarray) -> str:
    """Return the share of nuclei that lie in a cell by their middle, and of cells with exactly one such nucleus."""
    ids, first = np.unique(nuclei, return_inverse=True)
    y, x = np.indices(nuclei.shape)
    n = np.bincount(first.ravel())
    middle = [np.round(np.bincount(first.ravel(), weights=one.ravel()) / n).astype(int)[ids > 0] for one in (y, x)]
    cells = truth[middle[0], middle[1]]
    per_cell = np.bincount(cells[cells > 0], minlength=int(truth.max()) + 1)[np.unique(truth[truth > 0])]
    return f"{np.mean(cells > 0):>10.3f}{np.mean(per_cell == 1):>8.3f}"


def overlaps(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the intersection over union of every pair of outlines that touch."""
    both = (truth > 0) & (found > 0)
    pairs, shared = np.unique(np.stack([truth[both], found[both]]), axis=1, return_counts=True)
    areas = [np.bincount(labels.ravel()) for labels in (truth, found)]
    ious: np.ndarray = shared / (areas[0][pairs[0]] + areas[1][pairs[1]] - shared)
    return ious


if __name__ == "__main__":
    main()
