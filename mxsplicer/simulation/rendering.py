"""Render one block of the simulated slide: the outlines of its cells, then the image of every channel."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.measure import label as connected_components

from mxsplicer.simulation.arrangements import Arrangements, with_arrangements
from mxsplicer.simulation.randomness import Array, normal, smooth_noise, uniform
from mxsplicer.simulation.settings import (
    ALIGNMENTS,
    BLEED_THROUGH,
    COINCIDENCES,
    CYTOTOXIC,
    DOCKINGS,
    ELECTRONS_PER_COUNT,
    FIELD_UM,
    FOCUS_UM,
    GROWTHS,
    HALO_UM,
    HELPER,
    LINEAGES,
    LOCALISATIONS,
    MEMBRANE_UM,
    OFFSET,
    OUT_OF_FOCUS_SHARE,
    OUT_OF_FOCUS_UM,
    READ_NOISE_ELECTRONS,
    REGIONS,
    REGULATORY,
    SPREAD_OF_EXPRESSION,
    SPREAD_OF_GAIN,
    SPREAD_OF_NONSPECIFIC,
    SYNAPSES,
    T_CELL_SUBTYPES,
    VIGNETTING,
    Marker,
)
from mxsplicer.simulation.tissue import Tissue


def render_block(tissue: Tissue, row: int, column: int, first_ids: Array) -> tuple[Array, Array, pd.DataFrame]:
    """Return the image (C, Y, X) uint16 and mask (Y, X) uint32 of a block, and the table of the cells centred in it."""
    side, halo = tissue.block_px, int(np.ceil(HALO_UM / tissue.pixel_size_um / 8)) * 8
    top, left = row * side, column * side
    end = -(-tissue.size_px // 64) * 64  # a little beyond the slide, so that pixels of coarser levels are complete
    height, width = min(side, end - top), min(side, end - left)
    window = _Window(tissue, top - halo, left - halo, (height + 2 * halo, width + 2 * halo))
    cells = tissue.cells_around(row, column, first_ids)
    if tissue.shows_arrangements:
        cells = with_arrangements(tissue.keys, cells)
    inside = window.outlines(cells)  # (Y, X), 0 or 1 + the row in `cells`
    core = np.s_[halo : halo + height, halo : halo + width]
    chance = np.random.default_rng([tissue.keys("noise"), row, column])
    image = np.zeros((len(tissue.markers), side, side), dtype=np.uint16)
    for channel, counts in enumerate(window.expected_counts(cells, inside)):
        noise = chance.standard_normal((side, side), dtype=np.float32)
        image[channel, :height, :width] = _camera(counts[core], noise[:height, :width])
    mask = np.zeros((side, side), dtype=np.uint32)
    mask[:height, :width] = np.append(0, cells["cell_id"])[inside[core]]
    return image, mask, window.truth(cells, inside)


@dataclass(frozen=True)
class _Window:
    """A window that is rendered; it may reach beyond the slide."""

    tissue: Tissue
    top: int
    left: int
    shape: tuple[int, int]

    @property
    def rows(self) -> Array:
        return np.arange(self.top, self.top + self.shape[0])[:, None]

    @property
    def columns(self) -> Array:
        return np.arange(self.left, self.left + self.shape[1])

    def outlines(self, cells: pd.DataFrame) -> Array:
        """Return which cell each pixel belongs to: the nearest, at distances in units of that cell's radii."""
        scale = self.tissue.pixel_size_um
        nearest = np.ones(self.shape, dtype=np.float32)  # no cell reaches beyond one radius
        inside = np.zeros(self.shape, dtype=np.int32)
        x, y = cells["x"].to_numpy() / scale - self.left, cells["y"].to_numpy() / scale - self.top
        long = (cells["radius"] * np.sqrt(cells["elongation"])).to_numpy() / scale
        short = (cells["radius"] / np.sqrt(cells["elongation"])).to_numpy() / scale
        cosine, sine = np.cos(cells["angle"].to_numpy()), np.sin(cells["angle"].to_numpy())
        bumps = uniform(self.tissue.keys("bumps"), cells["key"].to_numpy()[:, None], np.arange(3))
        for i in range(len(cells)):
            reach = long[i] * 1.2
            rows = slice(max(0, int(y[i] - reach)), max(0, int(y[i] + reach) + 2))
            columns = slice(max(0, int(x[i] - reach)), max(0, int(x[i] + reach) + 2))
            old = nearest[rows, columns]
            dy = np.arange(rows.start, rows.start + old.shape[0])[:, None] - y[i]
            dx = np.arange(columns.start, columns.start + old.shape[1]) - x[i]
            u, v = (dx * cosine[i] + dy * sine[i]) / long[i], (dy * cosine[i] - dx * sine[i]) / short[i]
            square = u * u + v * v + 1e-9
            # Two and three bumps around the outline: cos 2t, sin 2t and cos 3t of the angle t, without computing it.
            bump = 0.3 * ((bumps[i, 0] - 0.5) * (u * u - v * v) + (bumps[i, 1] - 0.5) * 2 * u * v) / square
            bump += 0.2 * (bumps[i, 2] - 0.5) * u * (u * u - 3 * v * v) / square**1.5
            distance = (np.sqrt(square) * (1 + bump)).astype(np.float32)
            closer = distance < old
            old[closer] = distance[closer]
            inside[rows, columns][closer] = i + 1
        return self._in_one_piece(inside, x, y)

    def _in_one_piece(self, inside: Array, x: Array, y: Array) -> Array:
        components = connected_components(inside, background=0, connectivity=1)
        column, row = np.rint(x).astype(int), np.rint(y).astype(int)
        visible = (column >= 0) & (column < self.shape[1]) & (row >= 0) & (row < self.shape[0])
        main = np.full(len(x) + 1, -1)
        main[1:][visible] = components[row[visible], column[visible]]
        return np.where(components == main[inside], inside, 0)

    def truth(self, cells: pd.DataFrame, inside: Array) -> pd.DataFrame:
        end = self.tissue.size_px
        on_slide = inside[max(0, -self.top) : end - self.top, max(0, -self.left) : end - self.left]
        rows, columns = np.nonzero(on_slide)
        which, n = on_slide[rows, columns] - 1, len(cells)
        area = np.bincount(which, minlength=n)
        with np.errstate(invalid="ignore"):
            x_px = np.bincount(which, columns, minlength=n) / area + max(0, self.left)
            y_px = np.bincount(which, rows, minlength=n) / area + max(0, self.top)
        scale = self.tissue.pixel_size_um
        table = pd.DataFrame(
            {
                "cell_id": cells["cell_id"],
                "x": x_px * scale,
                "y": y_px * scale,
                "x_px": x_px,
                "y_px": y_px,
                "area_um2": area * scale**2,
                "region": _names(REGIONS, cells["region"]),
                "lineage": _names(LINEAGES, cells["lineage"]),
                "t_cell_subtype": _names(T_CELL_SUBTYPES, cells["subtype"]),
                "localisation": _names(LOCALISATIONS, cells["localisation"]),
                "coincidence": _names(COINCIDENCES, cells["coincidence"]),
                "cycling": cells["cycling"],
            }
        )
        if self.tissue.shows_arrangements:
            states = {"alignment": ALIGNMENTS, "docking": DOCKINGS, "growth": GROWTHS, "synapse": SYNAPSES}
            table = table.assign(**{name: _names(values, cells[name]) for name, values in states.items()})
        return table[cells["own"].to_numpy() & (area > 0)]

    def expected_counts(self, cells: pd.DataFrame, inside: Array) -> Iterator[Array]:
        """Yield the expected counts of each channel, (Y, X), as they reach the camera."""
        keys, key = self.tissue.keys, cells["key"].to_numpy()
        weights = self._patterns(cells, inside)
        glow, flat = self._autofluorescence(inside), self._flat_field()
        previous = np.zeros(1, dtype=np.float32)
        for marker in self.tissue.markers:
            emitted = np.zeros(inside.shape, dtype=np.float32)
            for pattern, level in _expression_levels(marker, cells).items():
                spread = np.exp(SPREAD_OF_EXPRESSION * normal(keys(f"level {marker.name}"), key))
                emitted += weights[pattern] * _per_pixel(marker.counts * level * spread, inside)
            if marker.nonspecific:
                spread = np.exp(SPREAD_OF_NONSPECIFIC * normal(keys(f"unspecific {marker.name}"), key))
                emitted += weights["diffuse"] * _per_pixel(marker.counts * marker.nonspecific * spread, inside)
            seen = self._optics(emitted)
            gain = float(np.exp(SPREAD_OF_GAIN * normal(keys(f"gain {marker.name}"), np.zeros(1))[0]))
            yield OFFSET + gain * flat * (seen + BLEED_THROUGH * previous + marker.autofluorescence * glow)
            previous = seen

    def _patterns(self, cells: pd.DataFrame, inside: Array) -> dict[str, Array]:
        """Return the pattern of emission inside cells, by name; every pattern has mean 1 over every cell."""
        scale = self.tissue.pixel_size_um
        dx = np.float32(self.columns * scale) - _per_pixel(cells["x"], inside)
        dy = np.float32(self.rows * scale) - _per_pixel(cells["y"], inside)
        cosine, sine = _per_pixel(np.cos(cells["angle"]), inside), _per_pixel(np.sin(cells["angle"]), inside)
        # Nuclei are rounder than their cells.
        size, stretch = cells["radius"] * cells["nucleus"], cells["elongation"] ** 0.35
        u = (dx * cosine + dy * sine) / _per_pixel(size * stretch, inside, outside=1)
        v = (dy * cosine - dx * sine) / _per_pixel(size / stretch, inside, outside=1)
        border = np.zeros(inside.shape, dtype=bool)
        border[1:] |= inside[1:] != inside[:-1]
        border[:-1] |= inside[1:] != inside[:-1]
        border[:, 1:] |= inside[:, 1:] != inside[:, :-1]
        border[:, :-1] |= inside[:, 1:] != inside[:, :-1]
        depth = ndimage.distance_transform_edt(~border).astype(np.float32) * scale
        nucleus = np.clip((1 - np.sqrt(u * u + v * v)) * 5 + 0.5, 0, 1) * np.clip(depth / 0.5, 0, 1)
        membrane = np.exp(-((depth / MEMBRANE_UM) ** 2)) * self._grain("membrane")
        towards = dx * _per_pixel(np.cos(cells["pole"]), inside) + dy * _per_pixel(np.sin(cells["pole"]), inside)
        towards /= np.hypot(dx, dy) + 1e-3  # cosine of the angle to the pole
        cytoplasm = self._grain("cytoplasm")
        patterns = {
            "nucleus": nucleus * self._grain("chromatin"),
            "cytoplasm": (1 - nucleus) * cytoplasm,
            "diffuse": cytoplasm,
            "membrane": membrane,
            "cap": membrane * np.exp(2.5 * (towards - 1)),
            "opposite cap": membrane * np.exp(2.5 * (-towards - 1)),
        }
        if self.tissue.shows_arrangements:
            granules = dx * _per_pixel(np.cos(cells["granule_pole"]), inside)
            granules += dy * _per_pixel(np.sin(cells["granule_pole"]), inside)
            granules /= np.hypot(dx, dy) + 1e-3
            patterns["granules of T cells"] = membrane * np.exp(2.5 * (granules - 1))
            arranged = Arrangements(self.tissue.keys, cells, inside, dx, dy, depth, scale)
            patterns |= arranged.patterns()
        area = np.maximum(np.bincount(inside.ravel(), minlength=len(cells) + 1), 1)
        for name, weight in patterns.items():
            mean = np.bincount(inside.ravel(), weight.ravel(), minlength=len(cells) + 1) / area
            mean[0] = np.inf  # nothing outside cells
            patterns[name] = (weight / np.maximum(mean, 1e-3)[inside]).astype(np.float32)
        return patterns

    def _grain(self, name: str) -> Array:
        grain = uniform(self.tissue.keys(f"grain {name}"), self.rows, self.columns).astype(np.float32)
        return np.asarray(0.5 + ndimage.uniform_filter(grain, 2))

    def _optics(self, emitted: Array) -> Array:
        scale = self.tissue.pixel_size_um
        sharp = ndimage.gaussian_filter(emitted, FOCUS_UM / scale, truncate=3)
        # Two box filters come close to a Gaussian of the same variance, at a cost that does not grow with its width.
        box = 2 * round((np.sqrt(6 * (OUT_OF_FOCUS_UM / scale) ** 2 + 1) - 1) / 2) + 1
        blurred = ndimage.uniform_filter(ndimage.uniform_filter(emitted, box), box)
        return np.asarray((1 - OUT_OF_FOCUS_SHARE) * sharp + OUT_OF_FOCUS_SHARE * blurred)

    def _autofluorescence(self, inside: Array) -> Array:
        """Return autofluorescence, about 1 in tissue and 0.1 on glass: smooth variation and small granules."""
        step, scale = 8, self.tissue.pixel_size_um
        y, x = np.broadcast_arrays(*((axis + step / 2) * scale for axis in (self.rows[::step], self.columns[::step])))
        region, _ = self.tissue.ground(x, y)
        slow = np.array([0.1, 0.9, 1.1, 0.8])[region] * (0.6 + 0.8 * smooth_noise(self.tissue.keys("glow"), x, y, 90.0))
        glow = ndimage.zoom(slow.astype(np.float32), step, order=1, mode="nearest", grid_mode=True)
        granules = uniform(self.tissue.keys("granules"), self.rows, self.columns) < 4e-4 * scale**2 / 0.25
        granules &= inside > 0
        return np.asarray(glow + 25 * ndimage.gaussian_filter(granules.astype(np.float32), 0.5 / scale, truncate=3))

    def _flat_field(self) -> Array:
        y, x = (axis * self.tissue.pixel_size_um / FIELD_UM % 1 - 0.5 for axis in (self.rows, self.columns))
        return np.asarray(1 - VIGNETTING * 2 * (y**2 + x**2), dtype=np.float32)


def _names(names: tuple[str, ...], codes: pd.Series) -> Array:
    return np.array([*names, ""], dtype=object)[codes]  # -1 is the empty name at the end


def _per_pixel(values: Array | pd.Series, inside: Array, *, outside: float = 0) -> Array:
    return np.append(outside, values).astype(np.float32)[inside]


def _expression_levels(marker: Marker, cells: pd.DataFrame) -> dict[str, Array]:
    """Return the expression of a marker to render in each cell, relative to its counts, for each pattern."""
    lineage, subtype = cells["lineage"].to_numpy(), cells["subtype"].to_numpy()
    level = np.zeros(len(cells))
    for expressing, amount in marker.expressed_by:
        level[lineage == expressing] = amount
    if marker.name == "CD4":
        level[(subtype == HELPER) | (subtype == REGULATORY)] = 1
    elif marker.name == "CD8a":
        level[subtype == CYTOTOXIC] = 1
    elif marker.name == "FOXP3":
        level[subtype == REGULATORY] = 1
    elif marker.name == "Ki-67":
        level[cells["cycling"].to_numpy()] = 1
    elif marker.name == "viral antigen":
        level[cells["infected"].to_numpy()] = 1
    elif marker.name == "PD-L1":
        partial = cells["localisation"].to_numpy() == 1
        return {"membrane": level * ~partial, "cap": level * partial}
    elif marker.name == "PD-1":
        apart = cells["coincidence"].to_numpy() == 1
        return {"cap": level * ~apart, "opposite cap": level * apart}
    return {marker.pattern: level} if level.any() else {}


def _camera(counts: Array, noise: Array) -> Array:
    """Render the noise of a camera: photon noise (Poisson, in its normal limit) and read noise."""
    electrons = (counts - OFFSET) * ELECTRONS_PER_COUNT
    spread = np.sqrt(np.maximum(electrons, 0) + READ_NOISE_ELECTRONS**2) / ELECTRONS_PER_COUNT
    seen = counts + spread * noise
    return np.clip(np.rint(seen), 0, 65535).astype(np.uint16)
