"""Measure the intensities of cells in every marker, reading the image once, tile by tile.

A cell that lies in one tile is measured there; what a cell that crosses tiles has in each of them is kept until its
last tile.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from mxsplicer.cells.pixels import CellPixels, cut_into_runs, find_rim, find_surroundings, whole_cells
from mxsplicer.cells.statistics import Statistics, pixel_statistics, sum_by_cell
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.images.tiles import TileGrid, Window, choose_tiles, expand_window
from mxsplicer.masks.files import read_labels
from mxsplicer.system.memory import Budget
from mxsplicer.system.progress import track
from mxsplicer.system.workers import map_in_order


def measure_spread(intensities: np.ndarray) -> np.ndarray:
    """Return the spread of intensities: the standard deviation of each marker between cells, (N, C) to (C,), or 0.

    It follows the gain of a staining or camera, and does not change with a constant offset.
    """
    if not len(intensities):
        return np.zeros(intensities.shape[1])
    spread: np.ndarray = np.nan_to_num(intensities.astype(np.float64).std(axis=0))
    return spread


def measure_markers(
    slide: Slide,
    mask: LazyImage,
    nuclei: LazyImage | None,
    table: pd.DataFrame,
    wanted: Statistics,
    tile_px: int,
    workers: int | None,
    budget: Budget,
    executor: str,
) -> dict[str, np.ndarray]:
    """Measure the intensities of cells: mean and the wanted statistics in each marker, (N, C) float32 each."""
    names, shape = ("mean", *wanted.names), (len(table), len(slide.markers))
    of_table = len(names) * shape[0] * shape[1] * 4
    budget.require(of_table, f"the table of {shape[0]} cells, {shape[1]} markers and {len(names)} measures")
    grid, n_workers = choose_tiles(
        slide.shape_px,
        slide.tile_px,
        max_px=tile_px,
        bytes_per_px=slide.image.dtype.itemsize * shape[1] + wanted.bytes_per_px,
        budget=budget,
        reserved=of_table,
        workers=workers,
    )
    cells = _KnownCells.of(table, grid, wanted)
    result = {name: np.full(shape, np.nan, dtype=np.float32) for name in names}
    crossing_sums = {
        compartment: _CrossingSums(cells, len(slide.markers)) for compartment in ("whole", *wanted.compartments)
    }
    crossing_pixels = _CrossingValues(cells, wanted.of_all_pixels)

    def write(compartment: str, rows: np.ndarray, counts: np.ndarray, totals: np.ndarray) -> None:
        result["mean" if compartment == "whole" else compartment][rows] = totals / counts[:, None]
        if compartment == "whole" and "sum" in result:
            result["sum"][rows] = totals

    of_tile = partial(_measure_tile, slide, mask, nuclei, cells, wanted)
    work = map_in_order(of_tile, grid, n_workers, executor=executor, activity="measuring cells")
    for number, tile in enumerate(track(work, "Measuring cells", total=len(grid))):
        for compartment, (pixels, totals) in tile.sums.items():
            here = ~cells.crossing[pixels.cells]
            write(compartment, pixels.cells[here], pixels.counts[here], totals[here])
            crossing_sums[compartment].add(pixels.cells[~here], pixels.counts[~here], totals[~here])
        for name, values in tile.of_pixels.items():
            result[name][tile.complete] = values
        crossing_pixels.add(tile.crossing)
        for rows, of_crossing in crossing_pixels.finish(number):
            for name, values in of_crossing.items():
                result[name][rows] = values
    for compartment, of_compartment in crossing_sums.items():
        write(compartment, *of_compartment.finish())
    return result


@dataclass(frozen=True)
class _KnownCells:
    """The cells whose intensities are measured, and which tiles they lie in."""

    ids: np.ndarray  # ascending
    crossing: np.ndarray  # (N,) whether the cell, or its surroundings, lie in more than one tile
    last_tile: np.ndarray  # (N,)

    @classmethod
    def of(cls, table: pd.DataFrame, grid: TileGrid, wanted: Statistics) -> "_KnownCells":
        height, width = grid.shape_px
        halo = wanted.halo_px if "surroundings" in wanted.names else 0
        y0, x0 = (np.maximum(table[side].to_numpy() - halo, 0) for side in ("y0", "x0"))
        y1 = np.minimum(table["y1"].to_numpy() + halo, height)
        x1 = np.minimum(table["x1"].to_numpy() + halo, width)
        first, last = grid.number_of(y0, x0), grid.number_of(y1 - 1, x1 - 1)
        return cls(table["cell_id"].to_numpy(), first != last, last)


@dataclass(frozen=True)
class _Measured:
    """The intensities of the cells in one tile; cells are rows of the table."""

    sums: dict[str, tuple[CellPixels, np.ndarray]]  # by compartment: its pixels, and their sum per cell (n, C)
    complete: np.ndarray  # cells that lie in this tile only
    of_pixels: dict[str, np.ndarray]  # of those, (n, C)
    crossing: list[tuple[int, np.ndarray]]  # other cells, and their pixels in this tile (C, n)


def _measure_tile(
    slide: Slide, mask: LazyImage, nuclei: LazyImage | None, cells: _KnownCells, wanted: Statistics, core: Window
) -> _Measured:
    compartments = _find_compartments(slide, mask, nuclei, cells, wanted, core)
    whole = compartments.get("whole")
    n_markers = len(slide.markers)
    sums = {name: (pixels, np.empty((len(pixels.cells), n_markers))) for name, pixels in compartments.items()}
    measured = _Measured(sums, *_NONE)
    if not compartments:
        return measured
    image = np.asarray(slide.image[:, *core])
    if whole is None or not wanted.of_all_pixels:
        for channel, values in _planes(slide, image, core):
            for pixels, totals in measured.sums.values():
                totals[:, channel] = sum_by_cell(values.take(pixels.indices), pixels)
        return measured

    here = ~cells.crossing[whole.cells]
    of_here = whole.where(np.repeat(here, whole.counts))
    of_pixels = {name: np.empty((len(of_here.cells), len(image)), dtype=np.float32) for name in wanted.of_all_pixels}
    beyond = whole.where(np.repeat(~here, whole.counts))
    kept = np.empty((len(image), len(beyond.indices)), dtype=image.dtype.newbyteorder("="))
    for channel, values in _planes(slide, image, core):
        for pixels, totals in measured.sums.values():
            totals[:, channel] = sum_by_cell(values.take(pixels.indices), pixels)
        kept[channel] = values.take(beyond.indices)
        for name, found in pixel_statistics(values.take(of_here.indices), of_here, wanted.of_all_pixels):
            of_pixels[name][:, channel] = found
    crossing = [
        (int(cell), kept[:, start : start + n].copy())
        for cell, start, n in zip(beyond.cells, beyond.starts, beyond.counts, strict=True)
    ]
    return _Measured(measured.sums, of_here.cells, of_pixels, crossing)


_NONE = (np.empty(0, dtype=np.int64), dict[str, np.ndarray](), list[tuple[int, np.ndarray]]())


def _find_compartments(
    slide: Slide, mask: LazyImage, nuclei: LazyImage | None, cells: _KnownCells, wanted: Statistics, core: Window
) -> dict[str, CellPixels]:
    """Return the pixels of each compartment in a tile whose intensities are measured, if it has any."""
    window = expand_window(core, wanted.halo_px, slide.shape_px)
    labels = read_labels("mask", mask, slide, window)
    top, left = core[0].start - window[0].start, core[1].start - window[1].start
    shape = core[0].stop - core[0].start, core[1].stop - core[1].start
    inside = (slice(top, top + shape[0]), slice(left, left + shape[1]))
    own = cut_into_runs(labels[inside]).numbered(cells.ids)
    whole = whole_cells(own, shape[1])
    compartments = {"whole": whole}
    if "ring" in wanted.names:
        rim = find_rim(labels, wanted.rim_px)[inside]
        compartments["ring"] = whole.where(rim.ravel().take(whole.indices))
    if "nucleus" in wanted.names and nuclei is not None:
        of_nuclei = read_labels("nucleus mask", nuclei, slide, core)
        compartments["nucleus"] = whole.where((of_nuclei == labels[inside]).ravel().take(whole.indices))
    if "surroundings" in wanted.names:
        runs = cut_into_runs(labels).numbered(cells.ids)
        compartments["surroundings"] = find_surroundings(runs, own, wanted.around_px, top, left, shape)
    return {compartment: pixels for compartment, pixels in compartments.items() if len(pixels.cells)}


def _planes(slide: Slide, image: np.ndarray, core: Window) -> Iterator[tuple[int, np.ndarray]]:
    for channel, plane in enumerate(image):
        values = np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("=")).ravel()
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            rows, columns = core
            msg = (
                f"marker {slide.markers[channel]!r} of slide {slide.name!r} holds NaN or infinite values between rows "
                f"{rows.start} and {rows.stop}, columns {columns.start} and {columns.stop}."
            )
            raise InputError(msg, "Write 0 there.")
        yield channel, values


class _CrossingSums:
    """Sums of intensities over one compartment of the cells that cross tiles."""

    def __init__(self, cells: _KnownCells, n_markers: int) -> None:
        self._rows = np.flatnonzero(cells.crossing)
        self._counts = np.zeros(len(self._rows), dtype=np.int64)
        self._totals = np.zeros((len(self._rows), n_markers))

    def add(self, rows: np.ndarray, counts: np.ndarray, totals: np.ndarray) -> None:
        places = np.searchsorted(self._rows, rows)  # each row once, so that no sum is lost
        self._counts[places] += counts
        self._totals[places] += totals

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        some = self._counts > 0
        return self._rows[some], self._counts[some], self._totals[some]


class _CrossingValues:
    """Intensities, pixel by pixel, in the cells that cross tiles, kept until the last of their tiles is read."""

    def __init__(self, cells: _KnownCells, names: Sequence[str]) -> None:
        self._last_tile, self._names = cells.last_tile, names
        self._pieces: dict[int, list[np.ndarray]] = {}
        self._ending: dict[int, list[int]] = {}  # by tile

    def add(self, pieces: list[tuple[int, np.ndarray]]) -> None:
        for cell, values in pieces:
            if cell not in self._pieces:
                self._pieces[cell] = []
                self._ending.setdefault(int(self._last_tile[cell]), []).append(cell)
            self._pieces[cell].append(values)

    def finish(self, tile: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        rows = self._ending.pop(tile, [])
        if not rows:
            return
        values_of = [np.concatenate(self._pieces.pop(cell), axis=1) for cell in rows]
        counts = np.array([one.shape[1] for one in values_of])
        pixels = CellPixels(np.array(rows), np.cumsum(counts) - counts, counts, np.empty(0, dtype=np.int64))
        found = {name: np.empty((len(rows), len(values_of[0])), dtype=np.float32) for name in self._names}
        for channel, values in enumerate(np.concatenate(values_of, axis=1)):
            for name, statistic in pixel_statistics(values, pixels, self._names):
                found[name][:, channel] = statistic
        yield pixels.cells, found
