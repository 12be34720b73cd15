"""A synthetic tissue whose truth is known, as a pyramidal OME-TIFF with its mask and a table of its cells.

Every cell is a function of the seed and of its place, so a slide of any size is made block by block without holding it:
where the cells lie, what they are, what light they send, what the microscope makes of it. docs/simulation.md lists
every setting with the figure or the real image it comes from; they were fixed before anything was trained on them.
"""

import hashlib
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import tifffile
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import ndtri
from skimage.measure import label as connected_parts

from mxsplicer.errors import InputError
from mxsplicer.system.progress import track

Array = np.ndarray[Any, Any]

REGIONS = ("empty", "epithelium", "stroma", "lymphoid")
EMPTY, EPITHELIUM, STROMA, LYMPHOID = range(4)
LINEAGES = ("epithelial", "T cell", "B cell", "macrophage", "endothelial", "fibroblast", "other immune")
EPITHELIAL, T_CELL, B_CELL, MACROPHAGE, ENDOTHELIAL, FIBROBLAST, OTHER = range(7)
T_CELL_SUBTYPES = ("helper", "cytotoxic", "regulatory")
HELPER, CYTOTOXIC, REGULATORY = range(3)
LOCALISATIONS = ("whole membrane", "one side")  # of PD-L1 in an epithelial cell
COINCIDENCES = ("same side", "opposite sides")  # of the caps of PD-1 and CD45RO on a T cell

_HALO_UM = 32.0  # beyond a block: two of the largest cells and the reach of the optics


@dataclass(frozen=True)
class _Marker:
    name: str
    counts: float = 0.0  # mean over a positive cell, above background
    pattern: str = "membrane"
    expressed_by: tuple[tuple[int, float], ...] = ()  # lineage, level relative to `counts`
    unspecific: float = 0.0  # relative to `counts`: median of what any cell sends without the protein
    autofluorescence: float = 60.0  # counts of tissue without any antibody


# Orion-CRC's panel in its order.
_PANEL = (
    _Marker("Hoechst", 9000, "nucleus", tuple((lineage, 1.0) for lineage in range(7)), 0.02, 80),
    _Marker("AF1", autofluorescence=900),
    _Marker("CD31", 2500, "membrane", ((ENDOTHELIAL, 1.0),), 0.03, 150),
    _Marker("CD45", 3000, "membrane", ((T_CELL, 1.0), (B_CELL, 0.9), (MACROPHAGE, 0.6), (OTHER, 0.8)), 0.03, 120),
    _Marker("CD68", 1800, "cytoplasm", ((MACROPHAGE, 1.0),), 0.04, 120),
    _Marker("Argo550", autofluorescence=40),
    _Marker("CD4", 400, "membrane", ((MACROPHAGE, 0.5),), 1.0, 100),
    _Marker("FOXP3", 300, "nucleus", (), 1.0, 60),
    _Marker("CD8a", 450, "membrane", (), 1.0, 80),
    _Marker("CD45RO", 900, "cap", ((T_CELL, 1.0),), 0.2, 80),
    _Marker("CD20", 4000, "membrane", ((B_CELL, 1.0),), 0.03, 60),
    _Marker("PD-L1", 600, "membrane", ((EPITHELIAL, 1.0), (MACROPHAGE, 0.8)), 0.1, 60),
    _Marker("CD3e", 2200, "membrane", ((T_CELL, 1.0),), 0.04, 60),
    _Marker("CD163", 1500, "membrane", ((MACROPHAGE, 1.0),), 0.04, 50),
    _Marker("E-Cadherin", 5000, "membrane", ((EPITHELIAL, 1.0),), 0.02, 50),
    _Marker("PD-1", 450, "cap", ((T_CELL, 1.0),), 0.4, 40),
    _Marker("Ki-67", 2500, "nucleus", (), 0.03, 40),
    _Marker("Pan-CK", 12000, "cytoplasm", ((EPITHELIAL, 1.0),), 0.01, 40),
    _Marker("SMA", 8000, "cytoplasm", ((FIBROBLAST, 1.0), (ENDOTHELIAL, 0.15)), 0.01, 40),
)
MARKERS = tuple(marker.name for marker in _PANEL)

_SPACING_UM = {EPITHELIUM: 10.8, STROMA: 11.0, LYMPHOID: 7.7}  # of the jittered lattice that cells of a region lie on
_LINEAGES_OF = {  # region: share of each lineage, in the order of LINEAGES
    EPITHELIUM: (0.95, 0.03, 0.0, 0.02, 0.0, 0.0, 0.0),
    STROMA: (0.0, 0.20, 0.04, 0.14, 0.10, 0.44, 0.08),
    LYMPHOID: (0.0, 0.48, 0.44, 0.04, 0.02, 0.0, 0.02),
}
_SUBTYPES = (0.45, 0.35, 0.20)  # of T cells, the same in every region
_DIAMETER_UM = (13.5, 8.6, 8.6, 12.0, 10.0, 11.5, 9.5)  # by lineage, where no neighbour is in the way
_ELONGATION = (1.35, 1.1, 1.1, 1.35, 2.4, 3.2, 1.15)  # long axis over short axis
_NUCLEUS = (0.62, 0.80, 0.80, 0.60, 0.70, 0.62, 0.68)  # diameter relative to the cell's
_CYCLING = (0.30, 0.06, 0.15, 0.02, 0.02, 0.03, 0.02)  # share with Ki-67
_SPREAD_OF_EXPRESSION = 0.5  # standard deviation of log counts between cells that express a marker
_SPREAD_OF_UNSPECIFIC = 0.6  # and between those that do not

_MEMBRANE_UM = 0.5
_FOCUS_UM, _OUT_OF_FOCUS_UM, _OUT_OF_FOCUS_SHARE = 0.40, 2.0, 0.50
_BLEED = 0.01  # of each channel into the next
_OFFSET = 100.0  # counts of the camera in the dark
_ELECTRONS_PER_COUNT, _READ_NOISE_ELECTRONS = 0.46, 1.6
_FIELD_UM, _VIGNETTING = 512.0, 0.08  # what is left of the illumination's fall towards the corner of a field
_SPREAD_OF_GAIN = 0.25  # standard deviation of log gain between slides


@dataclass(frozen=True)
class SimulatedSlide:
    """The three files of a simulated slide."""

    image: Path
    mask: Path
    truth: Path


def simulate_slide(
    path: str | Path,
    *,
    size_px: int = 2048,
    seed: int = 0,
    slide_number: int = 0,
    pixel_size_um: float = 0.5,
    tile_px: int = 512,
    overwrite: bool = False,
) -> SimulatedSlide:
    """Make a multiplex image of a tissue that never was, with the outline and the true identity of every cell.

    The panel is that of Orion-CRC (Lin et al. 2023): 19 channels, of which AF1 and Argo550 stain nothing. Slides of one
    ``seed`` are a cohort: each ``slide_number`` is another piece of the same kind of tissue, stained and exposed a
    little differently. The same arguments make the same pixels. Memory does not grow with the slide.

    Parameters
    ----------
    path
        Image to write, ``NAME.ome.tiff``; the mask ``NAME_mask.ome.tiff`` (uint32, 0 is background) and the truth
        ``NAME_truth.csv`` (one row per cell) are put beside it.
    size_px
        Height and width of the slide.
    seed
        Number of the cohort.
    slide_number
        Number of the slide in its cohort.
    pixel_size_um
        Width of a pixel in micrometres; cells keep their size.
    tile_px
        Side of a tile of the files, a multiple of 16. Four tiles are rendered at once; what is where does not depend on
        it, only the camera's noise does.
    overwrite
        Replace files that exist.

    Returns
    -------
    The paths of the three files. The columns of the truth are described in docs/simulation.md.

    Raises
    ------
    InputError
        If a file exists, the name does not end in ``.ome.tiff`` or ``.ome.tif``, or a number is out of range.

    Examples
    --------
    >>> folder = Path(tempfile.mkdtemp())
    >>> made = simulate_slide(folder / "tissue.ome.tiff", size_px=256)
    >>> made.truth.name
    'tissue_truth.csv'
    >>> tifffile.imread(made.image).shape
    (19, 256, 256)
    """
    files = _files(Path(path), overwrite=overwrite)
    _check_numbers(size_px, seed, slide_number, pixel_size_um, tile_px)
    tissue = _Tissue(_Keys(seed, slide_number), size_px, pixel_size_um, tile_px)
    with tempfile.TemporaryDirectory(prefix=".simulating-", dir=files.image.parent) as folder:
        unfinished = SimulatedSlide(Path(folder, "image.tiff"), Path(folder, "mask.tiff"), Path(folder, "truth.csv"))
        pyramid = _Pyramid(tissue, Path(folder))
        with unfinished.truth.open("w", encoding="utf-8", newline="") as table:
            for place, truth in enumerate(track(pyramid.blocks(), "Simulating tissue", total=pyramid.n_blocks)):
                truth.to_csv(table, index=False, header=place == 0, float_format="%.4f")
        pyramid.write(unfinished)
        for field in ("mask", "truth", "image"):  # the image last: where it stands, the slide is complete
            getattr(unfinished, field).replace(getattr(files, field))
    return files


def _files(path: Path, *, overwrite: bool) -> SimulatedSlide:
    stem, dot, ending = path.name.partition(".ome.tif")
    if not stem or not dot or ending not in ("", "f"):
        msg = f"the simulated slide is to be called {path.name!r}, but it is an OME-TIFF: end its name in .ome.tiff."
        raise InputError(msg)
    if not path.parent.is_dir():
        msg = f"the folder {str(path.parent)!r} does not exist: make it first."
        raise InputError(msg)
    files = SimulatedSlide(path, path.with_name(f"{stem}_mask.ome.tiff"), path.with_name(f"{stem}_truth.csv"))
    for file in (files.image, files.mask, files.truth):
        if file.exists() and not overwrite:
            msg = f"{str(file)!r} exists: choose another name, or allow it to be replaced with --overwrite."
            raise InputError(msg)
    return files


def _check_numbers(size_px: int, seed: int, slide_number: int, pixel_size_um: float, tile_px: int) -> None:
    if size_px < 64:
        msg = f"the slide is to be {size_px} pixels wide; at least 64 are needed to hold a few cells."
        raise InputError(msg)
    if seed < 0 or slide_number < 0:
        msg = f"seed {seed} and slide number {slide_number} were given; both count from 0."
        raise InputError(msg)
    if not 0.1 <= pixel_size_um <= 1.0:
        msg = f"a pixel is to be {pixel_size_um} µm wide; cells can be drawn at 0.1 to 1.0 µm."
        raise InputError(msg)
    if tile_px < 64 or tile_px % 16:
        msg = f"tiles are to be {tile_px} pixels wide; TIFF wants a multiple of 16, and at least 64 are needed here."
        raise InputError(msg)


# Chance. A number depends on the seed, on what it is for and on where it is, and on nothing else.


@dataclass(frozen=True)
class _Keys:
    seed: int
    slide_number: int

    def __call__(self, purpose: str) -> int:
        text = f"{self.seed}/{self.slide_number}/{purpose}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _hash(key: int, *coordinates: Array) -> Array:
    # The finaliser of SplitMix64 (Steele et al. 2014), once per coordinate.
    mixed: Array = np.full(1, key, dtype=np.uint64)
    for coordinate in coordinates:
        mixed = (mixed ^ np.asarray(coordinate).astype(np.int64).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def _uniform(key: int, *coordinates: Array) -> Array:
    return np.asarray((_hash(key, *coordinates) >> np.uint64(11)) * 2.0**-53)  # [0, 1)


def _normal(key: int, *coordinates: Array) -> Array:
    return np.asarray(ndtri(np.maximum(_uniform(key, *coordinates), 1e-12)))


def _choose(shares: Array, chance: Array) -> Array:
    """Return the place of each chance (N,) among the cumulative shares (N, K) or (K,)."""
    total = np.cumsum(np.broadcast_to(shares, (len(chance), np.shape(shares)[-1])), axis=1)
    return np.asarray(np.minimum((chance[:, None] >= total).sum(axis=1), total.shape[1] - 1))


def _noise(key: int, x: Array, y: Array, scale_um: float) -> Array:
    """Return smooth noise in [0, 1] that varies over about ``scale_um``."""
    column, row = np.floor(x / scale_um), np.floor(y / scale_um)
    u, v = x / scale_um - column, y / scale_um - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    top = _uniform(key, row, column) * (1 - u) + _uniform(key, row, column + 1) * u
    bottom = _uniform(key, row + 1, column) * (1 - u) + _uniform(key, row + 1, column + 1) * u
    return np.asarray(top * (1 - v) + bottom * v)


def _nearest_blob(key: int, x: Array, y: Array, spacing_um: float, radii_um: tuple[float, float]) -> tuple[Array, ...]:
    """Return distance / radius, direction and chance of the nearest of the blobs scattered over a jittered lattice."""
    column, row = np.floor(x / spacing_um), np.floor(y / spacing_um)
    nearest, direction, chance = np.full(x.shape, np.inf), np.zeros(x.shape), np.zeros(x.shape)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            place = (row + down, column + right)
            dx = x - (place[1] + 0.5 + 0.6 * (_uniform(key + 1, *place) - 0.5)) * spacing_um
            dy = y - (place[0] + 0.5 + 0.6 * (_uniform(key + 2, *place) - 0.5)) * spacing_um
            radius = radii_um[0] + (radii_um[1] - radii_um[0]) * _uniform(key + 3, *place)
            distance = np.hypot(dx, dy) / radius
            closer = distance < nearest
            nearest = np.where(closer, distance, nearest)
            direction = np.where(closer, np.arctan2(dy, dx), direction)
            chance = np.where(closer, _uniform(key + 4, *place), chance)
    return nearest, direction, chance


# The tissue: which ground is where, and which cells stand on it.


@dataclass(frozen=True)
class _Tissue:
    keys: _Keys
    size_px: int
    pixel_size_um: float
    tile_px: int

    @property
    def block_px(self) -> int:
        """Side of what is rendered at once; its mean by 2 is one tile of the next level."""
        return 2 * self.tile_px

    @property
    def blocks_across(self) -> int:
        return -(-self.size_px // self.block_px)

    def ground(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the region at points in µm, and the direction in which cells are drawn out there."""
        key, side = self.keys, self.size_px * self.pixel_size_um
        wobble = _noise(key("wobble"), x, y, 45.0) - 0.5
        inset = np.minimum(np.minimum(x, side - x), np.minimum(y, side - y))
        glass = inset < min(60.0, 0.06 * side) * 2 * _noise(key("outline"), x, y, 110.0)
        glass |= _noise(key("tears"), x, y, 240.0) > 0.93

        gland, direction, kind = _nearest_blob(key("glands"), x, y, 150.0, (50.0, 78.0))
        gland = gland + 0.5 * wobble
        lumen = np.where(kind < 0.6, 0.30, 0.0)  # the others are solid nests
        aggregate, _, _ = _nearest_blob(key("aggregates"), x, y, 300.0, (52.0, 84.0))
        fibres = 2 * np.pi * _noise(key("fibres"), x, y, 160.0)

        region = np.full(x.shape, STROMA)
        region[gland < 1] = EPITHELIUM
        region[gland < lumen] = EMPTY
        region[aggregate + 0.6 * wobble < 1] = LYMPHOID
        region[glass] = EMPTY
        return region, np.where(region == EPITHELIUM, direction, fibres)

    def cells_around(self, row: int, column: int, first_ids: Array) -> pd.DataFrame:
        """Return the cells, with their ids, whose centre lies in a block or in its halo."""
        side, halo = self.block_px * self.pixel_size_um, _HALO_UM
        near = []
        for r in range(max(0, row - 1), min(self.blocks_across, row + 2)):
            for c in range(max(0, column - 1), min(self.blocks_across, column + 2)):
                cells = _cells_of_block(self, r, c)
                near.append(cells.assign(cell_id=first_ids[r, c] + np.arange(len(cells)), own=(r, c) == (row, column)))
        cells = pd.concat(near, ignore_index=True)
        inside = cells["x"].between(column * side - halo, (column + 1) * side + halo)
        inside &= cells["y"].between(row * side - halo, (row + 1) * side + halo)
        return cells[inside].reset_index(drop=True)


@lru_cache(maxsize=64)
def _cells_of_block(tissue: _Tissue, row: int, column: int) -> pd.DataFrame:
    side = tissue.block_px * tissue.pixel_size_um
    left, top = column * side, row * side
    points = pd.concat([_lattice(tissue, region, left, top, side) for region in _SPACING_UM], ignore_index=True)
    points = points[~_crowded(points)]
    end = tissue.size_px * tissue.pixel_size_um
    points = points[points["x"].between(left, min(left + side, end), inclusive="left")]
    points = points[points["y"].between(top, min(top + side, end), inclusive="left")]
    return _with_identity(tissue.keys, points.reset_index(drop=True))


def _lattice(tissue: _Tissue, region: int, left: float, top: float, side: float) -> pd.DataFrame:
    spacing, key, margin = _SPACING_UM[region], tissue.keys(f"lattice {region}"), 12.0
    rise = spacing * 0.866  # rows of a triangular lattice
    rows = np.arange(np.floor((top - margin) / rise), np.ceil((top + side + margin) / rise) + 1)
    columns = np.arange(np.floor((left - margin) / spacing) - 1, np.ceil((left + side + margin) / spacing) + 1)
    r, c = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    x = (c + 0.5 * (r % 2) + 0.55 * (_uniform(key + 1, r, c) - 0.5)) * spacing
    y = (r + 0.55 * (_uniform(key + 2, r, c) - 0.5)) * rise
    ground, direction = tissue.ground(x, y)
    points = pd.DataFrame({"x": x, "y": y, "region": region, "direction": direction, "key": _hash(key, r, c)})
    here: pd.DataFrame = points[ground == region]
    return here


def _crowded(points: pd.DataFrame) -> Array:
    # Where two regions meet, a point of one lattice gives way to one of a later lattice. The rule looks only at the
    # points, never at what became of them, so that each block decides alike.
    region = points["region"].to_numpy()
    pairs = cKDTree(points[["x", "y"]].to_numpy()).query_pairs(5.0, output_type="ndarray")
    first, second = region[pairs].T
    crowded = np.zeros(len(points), dtype=bool)
    crowded[pairs[first < second, 0]] = True
    crowded[pairs[first > second, 1]] = True
    return crowded


def _with_identity(keys: _Keys, cells: pd.DataFrame) -> pd.DataFrame:
    key, region = cells["key"].to_numpy(), cells["region"].to_numpy()
    shares = np.array([_LINEAGES_OF.get(place, (1.0,) + 6 * (0.0,)) for place in range(len(REGIONS))])[region]
    lineage = _choose(shares, _uniform(keys("lineage"), key))
    is_t = lineage == T_CELL
    by_lineage = {name: np.array(values)[lineage] for name, values in _BY_LINEAGE.items()}
    drawn_out = np.isin(lineage, (EPITHELIAL, ENDOTHELIAL, FIBROBLAST))
    turn = np.where(drawn_out, 0.25 * _normal(keys("turn"), key), np.pi * _uniform(keys("turn"), key))
    return cells.assign(
        lineage=lineage,
        subtype=np.where(is_t, _choose(np.array(_SUBTYPES), _uniform(keys("subtype"), key)), -1),
        localisation=np.where(lineage == EPITHELIAL, _uniform(keys("localisation"), key) < 0.5, -1).astype(int),
        coincidence=np.where(is_t, _uniform(keys("coincidence"), key) < 0.5, -1).astype(int),
        cycling=_uniform(keys("cycling"), key) < by_lineage["cycling"],
        radius=0.5 * by_lineage["diameter"] * np.exp(0.13 * _normal(keys("size"), key)),
        elongation=1 + (by_lineage["elongation"] - 1) * (0.6 + 0.8 * _uniform(keys("elongation"), key)),
        angle=np.where(drawn_out, cells["direction"], 0.0) + turn,
        nucleus=by_lineage["nucleus"] * (0.92 + 0.16 * _uniform(keys("nucleus"), key)),
        pole=2 * np.pi * _uniform(keys("pole"), key),
    )


_BY_LINEAGE = {"diameter": _DIAMETER_UM, "elongation": _ELONGATION, "nucleus": _NUCLEUS, "cycling": _CYCLING}


# One block: the outlines of its cells, then the light of every channel.


def _render(tissue: _Tissue, row: int, column: int, first_ids: Array) -> tuple[Array, Array, pd.DataFrame]:
    """Return a block: image (C, Y, X) uint16, mask (Y, X) uint32, and the truth of the cells whose centre is in it."""
    side, halo = tissue.block_px, int(np.ceil(_HALO_UM / tissue.pixel_size_um / 8)) * 8
    top, left = row * side, column * side
    end = -(-tissue.size_px // 64) * 64  # a little beyond the slide, so that coarser levels find whole pixels
    height, width = min(side, end - top), min(side, end - left)
    window = _Window(tissue, top - halo, left - halo, (height + 2 * halo, width + 2 * halo))
    cells = tissue.cells_around(row, column, first_ids)
    inside = window.outlines(cells)  # (Y, X), 0 or 1 + the row in `cells`
    core = np.s_[halo : halo + height, halo : halo + width]
    chance = np.random.default_rng([tissue.keys("noise"), row, column])
    image = np.zeros((len(_PANEL), side, side), dtype=np.uint16)
    for channel, light in enumerate(window.light(cells, inside)):
        noise = chance.standard_normal((side, side), dtype=np.float32)
        image[channel, :height, :width] = _camera(light[core], noise[:height, :width])
    mask = np.zeros((side, side), dtype=np.uint32)
    mask[:height, :width] = np.append(0, cells["cell_id"])[inside[core]]
    return image, mask, window.truth(cells, inside)


@dataclass(frozen=True)
class _Window:
    """A part of the slide in which pixels are worked out; it may reach beyond the slide."""

    tissue: _Tissue
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
        """Return which cell each pixel belongs to: the one it is closest to, measured in that cell's own radii."""
        scale = self.tissue.pixel_size_um
        nearest = np.ones(self.shape, dtype=np.float32)  # beyond one radius no cell reaches
        inside = np.zeros(self.shape, dtype=np.int32)
        x, y = cells["x"].to_numpy() / scale - self.left, cells["y"].to_numpy() / scale - self.top
        long = (cells["radius"] * np.sqrt(cells["elongation"])).to_numpy() / scale
        short = (cells["radius"] / np.sqrt(cells["elongation"])).to_numpy() / scale
        cosine, sine = np.cos(cells["angle"].to_numpy()), np.sin(cells["angle"].to_numpy())
        bumps = _uniform(self.tissue.keys("bumps"), cells["key"].to_numpy()[:, None], np.arange(3))
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
        parts = connected_parts(inside, background=0, connectivity=1)
        column, row = np.rint(x).astype(int), np.rint(y).astype(int)
        held = (column >= 0) & (column < self.shape[1]) & (row >= 0) & (row < self.shape[0])
        main = np.full(len(x) + 1, -1)
        main[1:][held] = parts[row[held], column[held]]
        return np.where(parts == main[inside], inside, 0)

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
                "region": _named(REGIONS, cells["region"]),
                "lineage": _named(LINEAGES, cells["lineage"]),
                "t_cell_subtype": _named(T_CELL_SUBTYPES, cells["subtype"]),
                "localisation": _named(LOCALISATIONS, cells["localisation"]),
                "coincidence": _named(COINCIDENCES, cells["coincidence"]),
                "cycling": cells["cycling"],
            }
        )
        return table[cells["own"].to_numpy() & (area > 0)]

    def light(self, cells: pd.DataFrame, inside: Array) -> Iterator[Array]:
        """Yield the expected counts of each channel, (Y, X), as they reach the camera."""
        keys, key = self.tissue.keys, cells["key"].to_numpy()
        weights = self._patterns(cells, inside)
        glow, flat = self._autofluorescence(inside), self._flat_field()
        previous = np.zeros(1, dtype=np.float32)
        for marker in _PANEL:
            emitted = np.zeros(inside.shape, dtype=np.float32)
            for pattern, level in _levels(marker, cells).items():
                spread = np.exp(_SPREAD_OF_EXPRESSION * _normal(keys(f"level {marker.name}"), key))
                emitted += weights[pattern] * _per_pixel(marker.counts * level * spread, inside)
            if marker.unspecific:
                spread = np.exp(_SPREAD_OF_UNSPECIFIC * _normal(keys(f"unspecific {marker.name}"), key))
                emitted += weights["diffuse"] * _per_pixel(marker.counts * marker.unspecific * spread, inside)
            seen = self._optics(emitted)
            gain = float(np.exp(_SPREAD_OF_GAIN * _normal(keys(f"gain {marker.name}"), np.zeros(1))[0]))
            yield _OFFSET + gain * flat * (seen + _BLEED * previous + marker.autofluorescence * glow)
            previous = seen

    def _patterns(self, cells: pd.DataFrame, inside: Array) -> dict[str, Array]:
        """Return where in each cell light comes from; every pattern has mean 1 over every cell."""
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
        membrane = np.exp(-((depth / _MEMBRANE_UM) ** 2)) * self._grain("membrane")
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
        area = np.maximum(np.bincount(inside.ravel(), minlength=len(cells) + 1), 1)
        for name, weight in patterns.items():
            mean = np.bincount(inside.ravel(), weight.ravel(), minlength=len(cells) + 1) / area
            mean[0] = np.inf  # nothing outside cells
            patterns[name] = (weight / np.maximum(mean, 1e-3)[inside]).astype(np.float32)
        return patterns

    def _grain(self, name: str) -> Array:
        grain = _uniform(self.tissue.keys(f"grain {name}"), self.rows, self.columns).astype(np.float32)
        return np.asarray(0.5 + ndimage.uniform_filter(grain, 2))

    def _optics(self, emitted: Array) -> Array:
        scale = self.tissue.pixel_size_um
        sharp = ndimage.gaussian_filter(emitted, _FOCUS_UM / scale, truncate=3)
        # Two box filters come close to a Gaussian of the same variance, at a cost that does not grow with its width.
        box = 2 * round((np.sqrt(6 * (_OUT_OF_FOCUS_UM / scale) ** 2 + 1) - 1) / 2) + 1
        blurred = ndimage.uniform_filter(ndimage.uniform_filter(emitted, box), box)
        return np.asarray((1 - _OUT_OF_FOCUS_SHARE) * sharp + _OUT_OF_FOCUS_SHARE * blurred)

    def _autofluorescence(self, inside: Array) -> Array:
        """Return the glow of unstained tissue, about 1 in tissue and 0.1 on glass: slow waves and small granules."""
        step, scale = 8, self.tissue.pixel_size_um
        y, x = np.broadcast_arrays(*((axis + step / 2) * scale for axis in (self.rows[::step], self.columns[::step])))
        region, _ = self.tissue.ground(x, y)
        slow = np.array([0.1, 0.9, 1.1, 0.8])[region] * (0.6 + 0.8 * _noise(self.tissue.keys("glow"), x, y, 90.0))
        glow = ndimage.zoom(slow.astype(np.float32), step, order=1, mode="nearest", grid_mode=True)
        granules = _uniform(self.tissue.keys("granules"), self.rows, self.columns) < 4e-4 * scale**2 / 0.25
        granules &= inside > 0
        return np.asarray(glow + 25 * ndimage.gaussian_filter(granules.astype(np.float32), 0.5 / scale, truncate=3))

    def _flat_field(self) -> Array:
        y, x = (axis * self.tissue.pixel_size_um / _FIELD_UM % 1 - 0.5 for axis in (self.rows, self.columns))
        return np.asarray(1 - _VIGNETTING * 2 * (y**2 + x**2), dtype=np.float32)


def _named(names: tuple[str, ...], codes: pd.Series) -> Array:
    return np.array([*names, ""], dtype=object)[codes]  # -1 is the empty name at the end


def _per_pixel(values: Array | pd.Series, inside: Array, *, outside: float = 0) -> Array:
    return np.append(outside, values).astype(np.float32)[inside]


def _levels(marker: _Marker, cells: pd.DataFrame) -> dict[str, Array]:
    """Return how much of a marker each cell has, relative to its counts, by the pattern in which it has it."""
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
    elif marker.name == "PD-L1":
        partial = cells["localisation"].to_numpy() == 1
        return {"membrane": level * ~partial, "cap": level * partial}
    elif marker.name == "PD-1":
        apart = cells["coincidence"].to_numpy() == 1
        return {"cap": level * ~apart, "opposite cap": level * apart}
    return {marker.pattern: level} if level.any() else {}


def _camera(light: Array, noise: Array) -> Array:
    """Return what a camera counts: photons arrive by chance (Poisson's law in its normal limit) and it adds its own."""
    electrons = (light - _OFFSET) * _ELECTRONS_PER_COUNT
    spread = np.sqrt(np.maximum(electrons, 0) + _READ_NOISE_ELECTRONS**2) / _ELECTRONS_PER_COUNT
    seen = light + spread * noise
    return np.clip(np.rint(seen), 0, 65535).astype(np.uint16)


# The files: blocks are rendered in the order of a quadtree, so that a coarser tile needs only its four children.


class _Pyramid:
    def __init__(self, tissue: _Tissue, folder: Path) -> None:
        self._tissue = tissue
        self._levels = 1
        while tissue.size_px > tissue.tile_px << (self._levels - 1):
            self._levels += 1
        self._image = _Tiles(folder / "image.tiles", tissue, self._levels, len(_PANEL))
        self._mask = _Tiles(folder / "mask.tiles", tissue, self._levels, 1)
        self.n_blocks = tissue.blocks_across**2

    def blocks(self) -> Iterator[pd.DataFrame]:
        """Render the slide and yield the truth of one block after the other."""
        root = max(1, self._levels - 1)
        counts = {place: len(_cells_of_block(self._tissue, *place)) for place in self._order(root, 0, 0)}
        self._first_ids = np.ones((self._tissue.blocks_across,) * 2, dtype=np.int64)
        first = 1
        for place, count in counts.items():
            self._first_ids[place] = first
            first += count
        yield from self._branch(root, 0, 0)

    def _order(self, level: int, row: int, column: int) -> Iterator[tuple[int, int]]:
        if max(row, column) << (level - 1) >= self._tissue.blocks_across:
            return
        if level == 1:
            yield row, column
        else:
            for quarter in range(4):
                yield from self._order(level - 1, 2 * row + quarter // 2, 2 * column + quarter % 2)

    def _branch(self, level: int, row: int, column: int) -> Generator[pd.DataFrame, None, tuple[Array, Array] | None]:
        """Render what one tile of ``level`` shows; return that tile, (C, Y, X) and (1, Y, X)."""
        if max(row, column) << (level - 1) >= self._tissue.blocks_across:
            return None
        side = self._tissue.tile_px
        if level == 1:
            image, mask, truth = _render(self._tissue, row, column, self._first_ids)
            yield truth
            for tiles, block in ((self._image, image), (self._mask, mask[None])):
                for quarter in range(4):
                    y, x = quarter // 2, quarter % 2
                    part = block[:, y * side : (y + 1) * side, x * side : (x + 1) * side]
                    tiles.put(0, 2 * row + y, 2 * column + x, part)
            tile = _halved(image), mask[None, ::2, ::2]
        else:
            tile = (
                np.zeros((len(_PANEL), side, side), dtype=np.uint16),
                np.zeros((1, side, side), dtype=np.uint32),
            )
            half = side // 2
            for quarter in range(4):
                y, x = quarter // 2, quarter % 2
                child = yield from self._branch(level - 1, 2 * row + y, 2 * column + x)
                if child is not None:
                    place = np.s_[:, y * half : (y + 1) * half, x * half : (x + 1) * half]
                    tile[0][place], tile[1][place] = _halved(child[0]), child[1][:, ::2, ::2]
        self._image.put(level, row, column, tile[0])
        self._mask.put(level, row, column, tile[1])
        return tile

    def write(self, files: SimulatedSlide) -> None:
        """Put the tiles into their files."""
        scale = self._tissue.pixel_size_um
        size = {"PhysicalSizeX": scale, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": scale, "PhysicalSizeYUnit": "µm"}
        self._image.write(files.image, "uint16", {"axes": "CYX", "Channel": {"Name": list(MARKERS)}, **size})
        self._mask.write(files.mask, "uint32", {"axes": "YX", **size})


class _Tiles:
    """Compressed tiles of every level, kept in one file in the order they come until a TIFF wants them in its own."""

    def __init__(self, path: Path, tissue: _Tissue, levels: int, channels: int) -> None:
        self._path, self._channels, self._side = path, channels, tissue.tile_px
        self._sizes = [-(-tissue.size_px // 2**level) for level in range(levels)]
        across = [-(-size // self._side) for size in self._sizes]
        self._places = [np.zeros((channels, n, n, 2), dtype=np.int64) for n in across]  # start and length in the file
        self._end = 0

    def put(self, level: int, row: int, column: int, tile: Array) -> None:
        if level >= len(self._sizes) or max(row, column) >= self._places[level].shape[1]:
            return
        with self._path.open("ab") as file:
            for channel, plane in enumerate(tile):
                encoded = imagecodecs.deflate_encode(imagecodecs.delta_encode(plane, axis=-1), level=1)
                file.write(encoded)
                self._places[level][channel, row, column] = self._end, len(encoded)
                self._end += len(encoded)

    def write(self, path: Path, dtype: str, metadata: dict[str, Any]) -> None:
        with tifffile.TiffWriter(path, bigtiff=self._end > 2**31, ome=True) as tiff:
            for level, size in enumerate(self._sizes):
                tiff.write(
                    self._read(level),
                    shape=(self._channels, size, size)[self._channels == 1 :],
                    dtype=dtype,
                    tile=(self._side, self._side),
                    photometric="minisblack",
                    compression="zlib",
                    predictor=True,
                    subfiletype=1 if level else 0,
                    subifds=0 if level else len(self._sizes) - 1,
                    metadata=None if level else metadata,
                )

    def _read(self, level: int) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            for start, length in self._places[level].reshape(-1, 2):
                file.seek(start)
                yield file.read(length)


def _halved(image: Array) -> Array:
    """Return (C, Y, X) at half the size, each pixel the mean of four."""
    sums = image[:, ::2, ::2].astype(np.uint32)
    for y, x in ((0, 1), (1, 0), (1, 1)):
        sums += image[:, y::2, x::2]
    return ((sums + 2) // 4).astype(image.dtype)
