"""Whether two clusters are the same cells in different places: a seam, uneven illumination, blur, a slide or a batch.

Two clusters of the same kind of cell differ only technically if the place of a cell decides which of them it belongs
to, and if all other kinds of cells differ between these places in the same way and by as much.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

_N_NEAR = 20  # cells of the two clusters around a cell
_FEWEST_NEAR = 5
_MOST_HERE = 0.8  # share of one cluster among them, in a place that belongs to it
_SEPARATED = 0.85  # AUROC
_N_MATCHED = 5  # most similar cells in the other places
_LIKEWISE = (0.5, 1.5)  # the difference of other cells, in units of that of the two clusters
_LIKEWISE_IN_COLUMN = (0.25, np.inf)  # kinds of cells lose more or less sharpness in the same blur
_MOST_LIKEWISE = 0.75  # share of these cells, by kinds of cells
_FEWEST_OF_KIND, _FEWEST_KINDS, _FEWEST_CELLS = 10, 3, 30
_MAX_MATCHED = 2_000
_LARGER = 1.5  # times as many cells in its places, above which a cluster is the usual one
_SEAM_CELLS, _SEAM_SHARP = 20, 0.9  # nearest cells on each side of a seam, and how many are on the right one


@dataclass(frozen=True)
class Places:
    """How places are shared between two clusters, for some cells.

    Attributes
    ----------
    share
        For each cell (N,), the share of the first cluster among the cells of the two clusters in the same place; NaN
        without enough of them, and for other cells if the clusters are not apart.
    separated
        How well this share distinguishes the cells of the two clusters: AUROC.
    """

    share: np.ndarray
    separated: float

    @property
    def are_apart(self) -> bool:
        """Whether the place of a cell decides to which of the clusters it belongs."""
        return bool(self.separated >= _SEPARATED)


def places_around(points: np.ndarray, slide: np.ndarray, first: np.ndarray, second: np.ndarray) -> Places:
    """Return the share of the first of two clusters among the 20 cells of both that are nearest to each cell.

    Parameters
    ----------
    points
        Positions (N, 2) in µm.
    slide
        Code of the slide of each cell; neighbours are of the same slide.
    first, second
        Which cells are of each of the clusters.
    """
    share = np.full(len(points), np.nan)
    either = first | second
    of_slides = []
    for one in np.unique(slide[either]):
        pair = np.flatnonzero((slide == one) & either)
        if len(pair) <= _FEWEST_NEAR:
            continue
        tree, k = KDTree(points[pair]), min(_N_NEAR, len(pair) - 1)
        share[pair] = first[pair][tree.query(points[pair], k=range(2, k + 2))[1]].mean(axis=1)  # not the cell itself
        of_slides.append((one, pair, tree, k))
    separated = _auroc(share[first], share[second])
    if Places(share, separated).are_apart:  # other cells are compared only then
        for one, pair, tree, k in of_slides:
            others = np.flatnonzero((slide == one) & ~either)
            if len(others):
                share[others] = first[pair][tree.query(points[others], k=range(1, k + 1))[1]].mean(axis=1)
    return Places(share, separated)


def places_of_groups(group: np.ndarray, first: np.ndarray, second: np.ndarray) -> Places:
    """Return the share of the first of two clusters among the cells of both in the same group, as a slide or a batch.

    Parameters
    ----------
    group
        Code of the group of each cell (N,).
    first, second
        Which cells are of each of the clusters.
    """
    n = int(group.max(initial=-1)) + 1
    firsts = np.bincount(group[first], minlength=n)[group] - first  # without the cell itself
    both = firsts + np.bincount(group[second], minlength=n)[group] - second
    share = np.where(both >= _FEWEST_NEAR, firsts / np.maximum(both, 1), np.nan)
    return Places(share, _auroc(share[first], share[second]))


@dataclass(frozen=True)
class Shift:
    """Whether other kinds of cells differ between the places of two clusters as these do; ``likewise`` may be NaN."""

    likewise: float  # share of the other cells in the places of the first cluster, by kinds of cells
    is_usual: bool  # the places of the first cluster hold most of the cells: the other one is the exception

    @property
    def is_technical(self) -> bool:
        """Whether the first cluster is the other one, changed by its place."""
        return bool(self.likewise >= _MOST_LIKEWISE) and not self.is_usual


def shift_of_others(
    places: Places, values: np.ndarray, codes: np.ndarray, first: int, second: int, column: int | None = None
) -> Shift:
    """Compare other cells in the places of two clusters, each with the most similar cells in the other places.

    Cells are similar if they agree in everything but the direction in which the two clusters differ.

    Parameters
    ----------
    places
        Of the two clusters.
    values
        What is compared (N, columns), standardised.
    codes
        Cluster of each cell: the kinds of cells.
    first, second
        The two clusters.
    column
        Compare the difference in this column alone; in all by default.
    """
    own, other = codes == first, codes == second
    mean = values[own].mean(axis=0) - values[other].mean(axis=0)
    if column is not None:
        mean = np.where(np.arange(len(mean)) == column, mean, 0)
    length = max(float(np.linalg.norm(mean)), 1e-9)
    along = values @ (mean / length)
    rest = values - along[:, None] * (mean / length)
    rng, free = np.random.default_rng(0), ~(own | other)
    here = _some(np.flatnonzero(free & (places.share >= _MOST_HERE)), rng)
    there = _some(np.flatnonzero(free & (places.share <= 1 - _MOST_HERE)), rng)
    is_usual = bool((places.share >= _MOST_HERE).sum() > _LARGER * (places.share <= 1 - _MOST_HERE).sum())
    if min(len(here), len(there)) < _FEWEST_CELLS:
        return Shift(np.nan, is_usual)
    similar = KDTree(rest[there]).query(rest[here], k=range(1, _N_MATCHED + 1))[1]
    difference = (along[here] - along[there][similar].mean(axis=1)) / length
    kinds, counts = np.unique(codes[here], return_counts=True)
    kinds, counts = kinds[counts >= _FEWEST_OF_KIND], counts[counts >= _FEWEST_OF_KIND]
    if len(kinds) < _FEWEST_KINDS:
        return Shift(np.nan, is_usual)
    medians = np.array([np.median(difference[codes[here] == kind]) for kind in kinds])
    least, most = _LIKEWISE if column is None else _LIKEWISE_IN_COLUMN
    likewise = (medians >= least) & (medians <= most)
    return Shift(float(counts[likewise].sum() / counts.sum()), is_usual)


def find_seam(points: np.ndarray, first: np.ndarray) -> str | None:
    """Return where a straight border lies between the cells of two clusters on one slide, "x = 384 µm", or None.

    Parameters
    ----------
    points
        Positions (n, 2) in µm of the cells of both clusters.
    first
        Which of them are of the first cluster.
    """
    for axis, name in enumerate("xy"):
        order = np.argsort(points[:, axis], kind="stable")
        at, is_first = points[order, axis], first[order]
        left = np.cumsum(is_first) / max(first.sum(), 1) - np.cumsum(~is_first) / max((~first).sum(), 1)
        place = int(np.abs(left).argmax()) + 1  # cells on the left
        if min(place, len(at) - place) < _SEAM_CELLS:
            continue
        nearest = is_first[place - _SEAM_CELLS : place + _SEAM_CELLS]
        agrees = (nearest == (np.arange(len(nearest)) < _SEAM_CELLS)).mean()
        if max(agrees, 1 - agrees) >= _SEAM_SHARP:
            return f"{name} = {at[place - 1 : place + 1].mean():.0f} µm"
    return None


def _some(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(rows, _MAX_MATCHED, replace=False) if len(rows) > _MAX_MATCHED else rows


def _auroc(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import rankdata  # half a second to load

    first, second = first[np.isfinite(first)], second[np.isfinite(second)]
    if not len(first) or not len(second):
        return np.nan
    ranks = rankdata(np.concatenate([first, second]))[: len(first)]
    return float((ranks.sum() - len(first) * (len(first) + 1) / 2) / (len(first) * len(second)))
