"""Sampling: choose the cells of a slide to cut if not all of them are."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mxsplicer.cells.measure import Cells
from mxsplicer.errors import InputError
from mxsplicer.patches.blocks import order_cells

_ID_COLUMNS = ("cell_id", "cellid")
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
    """Return for each cell the marker in which it is rare and bright, counted from 1; 0 for all other cells.

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
    """Return the number of cells to draw from each stratum, in proportion to the square root of its count."""
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


def choose_ids(cells: Cells, cell_ids: Sequence[int] | np.ndarray) -> Cells:
    """Return the cells that have these ids.

    Raises
    ------
    InputError
        If an id is not among the cells, or the list is empty.
    """
    wanted = np.unique(np.asarray(cell_ids, dtype=np.int64))
    known = cells.table["cell_id"].to_numpy()
    unknown = wanted[~np.isin(wanted, known)]
    if not len(wanted):
        msg = "the list of cells is empty."
        raise InputError(msg, "List one id per line.")
    if len(unknown):
        first = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        msg = (
            f"{len(unknown):,} of the {len(wanted):,} cells asked for are not among the {len(cells):,} cells of the "
            f"mask that are kept: {first}."
        )
        raise InputError(msg, "Correct the list, or lower `min_area_um2` if they are small.")
    return cells.take(np.isin(known, wanted))


def read_ids(path: str | Path) -> np.ndarray:
    """Read ids of cells from a file: one per line, or the column ``cell_id`` or ``CellID`` of a table.

    Raises
    ------
    InputError
        If the file does not exist or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"list of cells {path} not found."
        raise InputError(msg)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        msg = f"list of cells {path.name} is not text in UTF-8."
        raise InputError(msg, "Write one id per line, or a CSV with a column cell_id.") from error
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    rows = [[field.strip() for field in row] for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    header = [field.lower() for field in rows[0]] if rows else []
    column = next((header.index(name) for name in _ID_COLUMNS if name in header), None)
    if column is not None:
        rows = rows[1:]
    elif len(header) > 1:
        msg = f"list of cells {path.name} has the columns {', '.join(rows[0])}, but no column cell_id."
        raise InputError(msg)
    texts = [row[column or 0] if (column or 0) < len(row) else "" for row in rows]
    strange = next((text for text in texts if not text.removesuffix(".0").isdigit()), None)
    if strange is not None:
        msg = f"list of cells {path.name} holds {strange!r}, which is not a whole number as the ids of the mask are."
        raise InputError(msg)
    return np.array([int(text.removesuffix(".0")) for text in texts], dtype=np.int64)


def spread_sample(n: int, size: int, *, seed: int) -> np.ndarray:
    """Return ``size`` of ``n`` positions along the curve: one drawn at random from each of ``size`` equal stretches."""
    edges = np.arange(size + 1) * n // size
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])
