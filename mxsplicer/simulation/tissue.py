"""The simulated tissue: the region at every point, and the cells of every block with their identity."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from mxsplicer.simulation.randomness import (
    Array,
    Keys,
    choose,
    hash_coordinates,
    normal,
    random_blob,
    smooth_noise,
    uniform,
)
from mxsplicer.simulation.settings import (
    BY_LINEAGE,
    EMPTY,
    ENDOTHELIAL,
    EPITHELIAL,
    EPITHELIUM,
    FIBROBLAST,
    HALO_UM,
    LINEAGES_OF,
    LYMPHOID,
    PANELS,
    REGIONS,
    SPACING_UM,
    STROMA,
    SUBTYPE_SHARES,
    T_CELL,
    Marker,
)


@dataclass(frozen=True)
class Tissue:
    """A simulated slide of tissue: its seed, size and blocks."""

    keys: Keys
    size_px: int
    pixel_size_um: float
    tile_px: int
    panel: str = "orion-crc"

    @property
    def markers(self) -> tuple[Marker, ...]:
        """The channels, in their order."""
        return PANELS[self.panel]

    @property
    def shows_arrangements(self) -> bool:
        """Whether cells have the states of the panel of arrangements."""
        return self.panel == "arrangements"

    @property
    def block_px(self) -> int:
        """Side of a block, which is rendered at once; at half its size it is one tile of the next level."""
        return 2 * self.tile_px

    @property
    def blocks_across(self) -> int:
        """Number of blocks along each side."""
        return -(-self.size_px // self.block_px)

    def ground(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the region at points in µm, and the direction in which cells are elongated there."""
        key, side = self.keys, self.size_px * self.pixel_size_um
        wobble = smooth_noise(key("wobble"), x, y, 45.0) - 0.5
        inset = np.minimum(np.minimum(x, side - x), np.minimum(y, side - y))
        glass = inset < min(60.0, 0.06 * side) * 2 * smooth_noise(key("outline"), x, y, 110.0)
        glass |= smooth_noise(key("tears"), x, y, 240.0) > 0.93

        gland, direction, kind = random_blob(key("glands"), x, y, 150.0, (50.0, 78.0))
        gland = gland + 0.5 * wobble
        lumen = np.where(kind < 0.6, 0.30, 0.0)  # the others are solid nests
        aggregate, _, _ = random_blob(key("aggregates"), x, y, 300.0, (52.0, 84.0))
        fibres = 2 * np.pi * smooth_noise(key("fibres"), x, y, 160.0)

        region = np.full(x.shape, STROMA)
        region[gland < 1] = EPITHELIUM
        region[gland < lumen] = EMPTY
        region[aggregate + 0.6 * wobble < 1] = LYMPHOID
        region[glass] = EMPTY
        return region, np.where(region == EPITHELIUM, direction, fibres)

    def cells_around(self, row: int, column: int, first_ids: Array) -> pd.DataFrame:
        """Return the cells, with their ids, whose centres lie in a block or in its halo."""
        side, halo = self.block_px * self.pixel_size_um, HALO_UM
        near = []
        for r in range(max(0, row - 1), min(self.blocks_across, row + 2)):
            for c in range(max(0, column - 1), min(self.blocks_across, column + 2)):
                cells = cells_of_block(self, r, c)
                near.append(cells.assign(cell_id=first_ids[r, c] + np.arange(len(cells)), own=(r, c) == (row, column)))
        cells = pd.concat(near, ignore_index=True)
        inside = cells["x"].between(column * side - halo, (column + 1) * side + halo)
        inside &= cells["y"].between(row * side - halo, (row + 1) * side + halo)
        return cells[inside].reset_index(drop=True)


@lru_cache(maxsize=64)
def cells_of_block(tissue: Tissue, row: int, column: int) -> pd.DataFrame:
    """Return the cells of the simulated tissue whose centres lie in a block, with type, size and shape."""
    side = tissue.block_px * tissue.pixel_size_um
    left, top = column * side, row * side
    points = pd.concat([_lattice(tissue, region, left, top, side) for region in SPACING_UM], ignore_index=True)
    points = points[~_crowded(points)]
    end = tissue.size_px * tissue.pixel_size_um
    points = points[points["x"].between(left, min(left + side, end), inclusive="left")]
    points = points[points["y"].between(top, min(top + side, end), inclusive="left")]
    return _with_identity(tissue.keys, points.reset_index(drop=True))


def _lattice(tissue: Tissue, region: int, left: float, top: float, side: float) -> pd.DataFrame:
    spacing, key, margin = SPACING_UM[region], tissue.keys(f"lattice {region}"), 12.0
    rise = spacing * 0.866  # rows of a triangular lattice
    rows = np.arange(np.floor((top - margin) / rise), np.ceil((top + side + margin) / rise) + 1)
    columns = np.arange(np.floor((left - margin) / spacing) - 1, np.ceil((left + side + margin) / spacing) + 1)
    r, c = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    x = (c + 0.5 * (r % 2) + 0.55 * (uniform(key + 1, r, c) - 0.5)) * spacing
    y = (r + 0.55 * (uniform(key + 2, r, c) - 0.5)) * rise
    ground, direction = tissue.ground(x, y)
    keys = hash_coordinates(key, r, c)
    points = pd.DataFrame({"x": x, "y": y, "region": region, "direction": direction, "key": keys})
    here: pd.DataFrame = points[ground == region]
    return here


def _crowded(points: pd.DataFrame) -> Array:
    # Where two regions meet, a point of one lattice is removed in favour of one of a later lattice. The rule uses all
    # points, also those that are removed themselves, so that neighbouring blocks decide alike.
    region = points["region"].to_numpy()
    pairs = cKDTree(points[["x", "y"]].to_numpy()).query_pairs(5.0, output_type="ndarray")
    first, second = region[pairs].T
    crowded = np.zeros(len(points), dtype=bool)
    crowded[pairs[first < second, 0]] = True
    crowded[pairs[first > second, 1]] = True
    return crowded


def _with_identity(keys: Keys, cells: pd.DataFrame) -> pd.DataFrame:
    key, region = cells["key"].to_numpy(), cells["region"].to_numpy()
    shares = np.array([LINEAGES_OF.get(place, (1.0,) + 6 * (0.0,)) for place in range(len(REGIONS))])[region]
    lineage = choose(shares, uniform(keys("lineage"), key))
    is_t = lineage == T_CELL
    by_lineage = {name: np.array(values)[lineage] for name, values in BY_LINEAGE.items()}
    elongated = np.isin(lineage, (EPITHELIAL, ENDOTHELIAL, FIBROBLAST))
    rotation = np.where(elongated, 0.25 * normal(keys("turn"), key), np.pi * uniform(keys("turn"), key))
    return cells.assign(
        lineage=lineage,
        subtype=np.where(is_t, choose(np.array(SUBTYPE_SHARES), uniform(keys("subtype"), key)), -1),
        localisation=np.where(lineage == EPITHELIAL, uniform(keys("localisation"), key) < 0.5, -1).astype(int),
        coincidence=np.where(is_t, uniform(keys("coincidence"), key) < 0.5, -1).astype(int),
        cycling=uniform(keys("cycling"), key) < by_lineage["cycling"],
        radius=0.5 * by_lineage["diameter"] * np.exp(0.13 * normal(keys("size"), key)),
        elongation=1 + (by_lineage["elongation"] - 1) * (0.6 + 0.8 * uniform(keys("elongation"), key)),
        angle=np.where(elongated, cells["direction"], 0.0) + rotation,
        nucleus=by_lineage["nucleus"] * (0.92 + 0.16 * uniform(keys("nucleus"), key)),
        pole=2 * np.pi * uniform(keys("pole"), key),
    )
