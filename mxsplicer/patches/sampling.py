"""Sampling: which cells of a slide are cut where not all are."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mxsplicer.cells.measure import Cells
from mxsplicer.errors import InputError
from mxsplicer.patches.blocks import order_cells, spread_sample

_ID_COLUMNS = ("cell_id", "cellid")
_SPREADS = 5  # a cell so many spreads above the median stands out; of normal noise, one in two millions does


def choose_sample(cells: Cells, size: int | None, *, seed: int = 0) -> Cells:
    """Return a sample of the cells: spread over the tissue, with rare bright cells of every marker in their place.

    A marker's *rare bright* cells are those whose mean intensity lies more than five spreads above the marker's median,
    the spread being the distance from the median to the 84th percentile (one standard deviation of normal noise). A
    marker that a sixth of the cells or more express has none: any sample meets those. A cell that is rare in several
    markers counts for the rarest of them. The rare bright cells of each marker are a stratum, all other cells are one
    more, and each stratum gets a share of the sample in proportion to the square root of its number of cells, never
    more than it has. Inside a stratum the sample is spread over space: its cells are sorted along a Hilbert curve, cut
    into as many equal stretches as it has places, and one cell is drawn from each. Where no cell is rare (intensities
    say nothing) there is one stratum, and the sample is that of space alone.

    Parameters
    ----------
    size
        How many; all where None or where there are no more.
    seed
        The same seed draws the same cells.

    Raises
    ------
    InputError
        If ``size`` is below 1.
    """
    if size is not None and size < 1:
        msg = f"{size} cells cannot be cut; --cells is at least 1."
        raise InputError(msg)
    if size is None or size >= len(cells):
        return cells
    order = order_cells(cells.table["x_px"].to_numpy(), cells.table["y_px"].to_numpy())
    stratum = find_strata(cells.intensities)[order]
    present, counts = np.unique(stratum, return_counts=True)
    drawn = [
        order[stratum == number][spread_sample(count, share, seed=seed + int(number))]
        for number, count, share in zip(present, counts.tolist(), _shares(counts, size), strict=True)
    ]
    return cells.take(np.sort(np.concatenate(drawn)))


def find_strata(intensities: np.ndarray) -> np.ndarray:
    """Return for each cell (N, C) the marker, counted from 1, in which it is rare and bright; 0 for all others."""
    median, high = np.quantile(intensities, [0.5, 0.84], axis=0)
    rare = intensities > median + _SPREADS * (high - median)  # (N, C)
    rarest_first = np.argsort(rare.sum(axis=0), kind="stable")
    stratum = np.zeros(len(intensities), dtype=np.int64)
    for channel in rarest_first[::-1]:
        stratum[rare[:, channel]] = channel + 1
    return stratum


def _shares(counts: np.ndarray, size: int) -> list[int]:
    """Return how many to draw of each stratum, by the square root of its count, at most that; ``size`` in all."""
    shares = np.zeros(len(counts), dtype=np.int64)
    weights = np.sqrt(counts)
    open_to_more = shares < counts
    while (left := size - int(shares.sum())) > 0:
        wanted = weights * open_to_more / (weights * open_to_more).sum() * left
        # Whole numbers; the largest remainders get what rounding down has left.
        more = np.floor(wanted).astype(np.int64)
        more[np.argsort(more - wanted, kind="stable")[: left - int(more.sum())]] += 1
        shares = np.minimum(shares + more, counts)
        open_to_more = shares < counts
    return shares.tolist()


def choose_ids(cells: Cells, cell_ids: Sequence[int] | np.ndarray) -> Cells:
    """Return the cells that have these ids.

    Raises
    ------
    InputError
        If an id is not among the cells, or none is given.
    """
    wanted = np.unique(np.asarray(cell_ids, dtype=np.int64))
    known = cells.table["cell_id"].to_numpy()
    unknown = wanted[~np.isin(wanted, known)]
    if not len(wanted):
        msg = "the list of cells is empty. Give one id per line."
        raise InputError(msg)
    if len(unknown):
        first = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        msg = (
            f"{len(unknown):,} of the {len(wanted):,} cells asked for are not among the {len(cells):,} cells of the "
            f"mask that are kept: {first}. Correct the list, or lower --min-area-um2 where they are small."
        )
        raise InputError(msg)
    return cells.take(np.isin(known, wanted))


def read_ids(path: str | Path) -> np.ndarray:
    """Return ids of cells from a file: one per line, or the column ``cell_id`` or ``CellID`` of a table.

    Raises
    ------
    InputError
        If there is no such file, or it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"there is no list of cells {path}."
        raise InputError(msg)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        msg = f"list of cells {path.name} is not text in UTF-8. Give one id per line, or a CSV with a column cell_id."
        raise InputError(msg) from error
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    rows = [[field.strip() for field in row] for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    header = [field.lower() for field in rows[0]] if rows else []
    column = next((header.index(name) for name in _ID_COLUMNS if name in header), None)
    if column is not None:
        rows = rows[1:]
    elif len(header) > 1:
        msg = f"list of cells {path.name} has the columns {', '.join(rows[0])}; one called cell_id is needed."
        raise InputError(msg)
    texts = [row[column or 0] if (column or 0) < len(row) else "" for row in rows]
    strange = next((text for text in texts if not text.removesuffix(".0").isdigit()), None)
    if strange is not None:
        msg = f"list of cells {path.name} holds {strange!r}; whole numbers are needed, the mask's ids of cells."
        raise InputError(msg)
    return np.array([int(text.removesuffix(".0")) for text in texts], dtype=np.int64)
