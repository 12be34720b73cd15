"""Sampling: choose the cells of a slide to cut if not all of them are."""

import numpy as np

from mxsplicer.cells.measure import Cells
from mxsplicer.errors import InputError
from mxsplicer.patches.blocks import order_cells

_SPREADS = 5  # a cell this many spreads above the median is bright; of normal noise, one in two million is


def choose_sample(cells: Cells, size: int | None, *, seed: int = 0) -> Cells:
    """Return a sample of the cells that is spread over the tissue and includes rare bright cells of every marker.

    A marker's *rare bright* cells are those whose mean intensity lies more than five spreads above the marker's median,
    the spread being the distance from the median to the 84th percentile (one standard deviation of normal noise). A
    marker that at least a sixth of the cells express has no rare cells: any sample contains some of those. A cell that
    is rare in several markers counts for the rarest of them.

    The sample is stratified: the rare bright cells of each marker are a stratum, and all other cells are one more. The
    size of the sample is allocated to the strata in proportion to the square root of their numbers of cells, and never
    exceeds the number. Within a stratum the sample is spread over space: the cells are sorted along a Hilbert curve
    and divided into equal stretches, and one cell is drawn from each. If no cell is rare, there is a single stratum,
    and the sample is spread over space only.

    Parameters
    ----------
    size
        Number of cells to draw. None for all.
    seed
        Seed of the random numbers; the same seed draws the same cells.

    Raises
    ------
    InputError
        If ``size`` is below 1.
    """
    if size is not None and size < 1:
        msg = f"{size} cells cannot be cut."
        raise InputError(msg, "Set `max_cells` to 1 or more.")
    if size is None or size >= len(cells):
        return cells
    order = order_cells(cells.table["x_px"].to_numpy(), cells.table["y_px"].to_numpy())
    stratum = find_strata(cells.intensities)[order]
    present, counts = np.unique(stratum, return_counts=True)
    drawn = [
        order[stratum == number][spread_sample(count, share, seed=seed + int(number))]
        for number, count, share in zip(present, counts.tolist(), _allocate(counts, size), strict=True)
    ]
    return cells.take(np.sort(np.concatenate(drawn)))


def find_strata(intensities: np.ndarray) -> np.ndarray:
    """Return the stratum of each cell for sampling: the marker in which it is rare and bright, from 1; else 0.

    Parameters
    ----------
    intensities
        Mean intensity of each marker in each cell (N, C).
    """
    median, high = np.quantile(intensities, [0.5, 0.84], axis=0)
    rare = intensities > median + _SPREADS * (high - median)  # (N, C)
    rarest_first = np.argsort(rare.sum(axis=0), kind="stable")
    stratum = np.zeros(len(intensities), dtype=np.int64)
    for channel in rarest_first[::-1]:
        stratum[rare[:, channel]] = channel + 1
    return stratum


def _allocate(counts: np.ndarray, size: int) -> list[int]:
    """Return the number of cells to sample from each stratum, in proportion to the square root of its count."""
    shares = np.zeros(len(counts), dtype=np.int64)
    weights = np.sqrt(counts)
    is_open = shares < counts  # strata that have cells left
    while (left := size - int(shares.sum())) > 0:
        wanted = weights * is_open / (weights * is_open).sum() * left
        # Round down, and give what is left to the largest remainders.
        more = np.floor(wanted).astype(np.int64)
        more[np.argsort(more - wanted, kind="stable")[: left - int(more.sum())]] += 1
        shares = np.minimum(shares + more, counts)
        is_open = shares < counts
    return shares.tolist()


def spread_sample(n: int, size: int, *, seed: int) -> np.ndarray:
    """Return a sample of positions along the curve: one drawn at random from each of ``size`` equal stretches."""
    edges = np.arange(size + 1) * n // max(size, 1)
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])
