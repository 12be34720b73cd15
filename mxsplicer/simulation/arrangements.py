"""Patterns that differ only in the arrangement of what they consist of, not in its amount, size or place.

docs/simulation-arrangements.md describes the biological model of each. Positions are drawn from the pixels of each
cell in the order of its rows, so that neighbouring blocks, which both render a cell at their border, draw alike.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from mxsplicer.simulation.randomness import Array, Keys, uniform
from mxsplicer.simulation.settings import (
    COMET_DEPTH_UM,
    COMET_LENGTH_UM,
    DOCKING_UM,
    EPITHELIAL,
    FIBRE_PERIODS_UM,
    INFECTED_SHARE,
    N_COMETS,
    N_GRANULES,
    OPPOSITE_DEGREES,
    OVERLAP_UM,
    OVERLAPPING_SHARE,
    T_CELL,
    TOUCHING,
)

_ATTEMPTS = 8  # at a position that lies inside the cell
_COMET_POINTS = 10


def with_arrangements(keys: Keys, cells: pd.DataFrame) -> pd.DataFrame:
    """Draw the states of cells that their arrangements show, and the direction of the granules of T cells.

    ``cells`` are those of a block and around it. The column ``synapse`` is -1 where a T cell does not touch exactly one
    infected cell, with another cell on its opposite side.
    """
    key = cells["key"].to_numpy()
    epithelial = (cells["lineage"] == EPITHELIAL).to_numpy()
    half = {name: uniform(keys(name), key) < 0.5 for name in ("alignment", "docking", "growth", "synapse")}
    infected = uniform(keys("infected"), key) < INFECTED_SHARE
    towards, away = _opposite_neighbours(cells, infected)
    labelled = np.isfinite(towards)
    pole = np.where(half["synapse"], away, towards)
    return cells.assign(
        **{name: np.where(epithelial, half[name], -1).astype(int) for name in ("alignment", "docking", "growth")},
        synapse=np.where(labelled, half["synapse"], -1).astype(int),
        infected=infected,
        granule_pole=np.where(labelled, pole, cells["pole"]),
    )


def _opposite_neighbours(cells: pd.DataFrame, infected: Array) -> tuple[Array, Array]:
    """Return for an arrangement the directions from T cells to their one infected neighbour and opposite it, or nan."""
    points = cells[["x", "y"]].to_numpy()
    radius = cells["radius"].to_numpy()
    tree = cKDTree(points)
    towards, away = np.full(len(cells), np.nan), np.full(len(cells), np.nan)
    for i in np.flatnonzero(cells["lineage"] == T_CELL):
        near = np.array([j for j in tree.query_ball_point(points[i], 2.5 * radius.max()) if j != i], dtype=int)
        if not len(near):
            continue
        step = points[near] - points[i]
        near, step = (one[np.hypot(*step.T) < TOUCHING * (radius[i] + radius[near])] for one in (near, step))
        if infected[near].sum() != 1:
            continue
        direction = np.arctan2(step[:, 1], step[:, 0])
        target = direction[infected[near]][0]
        angle = np.degrees(np.abs(np.angle(np.exp(1j * (direction - target)))))
        if angle.max() >= OPPOSITE_DEGREES:
            towards[i], away[i] = target, direction[angle.argmax()]
    return towards, away


@dataclass(frozen=True)
class Arrangements:
    """The arrangements inside the cells of a window.

    Attributes
    ----------
    inside
        0 or 1 + the row in ``cells`` of each pixel (Y, X).
    dx, dy
        Distance of each pixel to the centre of its cell in µm (Y, X).
    depth
        Distance of each pixel to the border of its cell in µm (Y, X).
    """

    keys: Keys
    cells: pd.DataFrame
    inside: Array
    dx: Array
    dy: Array
    depth: Array
    pixel_size_um: float

    def patterns(self) -> dict[str, Array]:
        """Return each pattern by its name, (Y, X)."""
        actin, microtubules = self._fibres()
        stress_granules, bodies = self._granules()
        return {
            "actin": actin,
            "microtubules": microtubules,
            "stress granules": stress_granules,
            "bodies": bodies,
            "comets": self._comets(),
        }

    def _fibres(self) -> tuple[Array, Array]:
        """Return two systems of fibres; those of a cell are parallel or cross each other."""
        key = self.cells["key"].to_numpy()
        angle = 2 * np.pi * uniform(self.keys("fibre angle"), key)
        crossing = (self.cells["alignment"] == 1).to_numpy()
        systems = []
        for number, (period, second) in enumerate(zip(FIBRE_PERIODS_UM, (False, True), strict=True)):
            direction = angle + np.pi / 2 * (crossing & second)
            across = self.dx * self._each(np.cos(direction)) + self.dy * self._each(np.sin(direction))
            fibre = np.floor(across / period + self._each(64 * uniform(self.keys(f"fibre phase {number}"), key)))
            nearest = np.full(self.inside.shape, np.inf)
            cell_key = self._each_key(key)
            phase = self._each(64 * uniform(self.keys(f"fibre phase {number}"), key))
            for step in (-1, 0, 1):
                shift = 0.5 * (uniform(self.keys(f"fibre {number}"), cell_key, fibre + step) - 0.5)
                nearest = np.minimum(nearest, np.abs(across - (fibre + step + 0.5 + shift - phase) * period))
            systems.append(np.exp(-((nearest / 0.35) ** 2)).astype(np.float32) + np.float32(0.05))
        return systems[0], systems[1]

    def _granules(self) -> tuple[Array, Array]:
        """Return granules and smaller bodies, which lie next to them or anywhere."""
        pixels = _PixelsOf(self.inside, self.depth >= 1.0, len(self.cells))
        docked = (self.cells["docking"] == 0).to_numpy()
        granules, bodies = np.zeros(self.inside.shape), np.zeros(self.inside.shape)
        for number in range(N_GRANULES):
            place = pixels.draw(self._chance(f"granule {number}"))
            hidden = pixels.draw(self._chance(f"other granule {number}"))
            overlaps = self._chance(f"overlaps {number}") < OVERLAPPING_SHARE
            next_to = np.where(docked[:, None], place, hidden)
            body = self._next_to(next_to, f"body {number}", DOCKING_UM)
            overlapping = self._next_to(place, f"overlapping body {number}", OVERLAP_UM)
            body = np.where((~docked & overlaps)[:, None], overlapping, body)
            _deposit(granules, place, 0.6 + 0.8 * self._chance(f"size of granule {number}"), self.inside)
            _deposit(bodies, body, 0.6 + 0.8 * self._chance(f"size of body {number}"), self.inside)
        return granules, bodies

    def _next_to(self, place: Array, name: str, distance_um: float) -> Array:
        """Return positions at a distance in a random direction, inside the same cell."""
        found = place.copy()
        todo = place[:, 0] >= 0
        for attempt in range(_ATTEMPTS):
            angle = 2 * np.pi * self._chance(f"{name} {attempt}")
            step = distance_um / self.pixel_size_um * np.stack([np.sin(angle), np.cos(angle)], axis=1)
            there = place + step
            row, column = np.rint(there).astype(int).T
            fits = (row >= 0) & (column >= 0) & (row < self.inside.shape[0]) & (column < self.inside.shape[1])
            fits[fits] &= self.inside[row[fits], column[fits]] == np.flatnonzero(fits) + 1
            now = todo & fits
            found[now] = there[now]
            todo &= ~fits
        return found

    def _comets(self) -> Array:
        """Return comets whose heads point away from the centre of the cell or towards it."""
        far = np.hypot(self.dx, self.dy) >= COMET_DEPTH_UM * 0.75
        pixels = _PixelsOf(self.inside, (self.depth >= COMET_DEPTH_UM) & far, len(self.cells))
        sign = np.where(self.cells["growth"] == 1, -1.0, 1.0)
        image = np.zeros(self.inside.shape)
        along = (np.arange(_COMET_POINTS) + 0.5) / _COMET_POINTS * COMET_LENGTH_UM  # behind the head
        weight = np.exp(-along / (COMET_LENGTH_UM / 3))
        along = (weight * along).sum() / weight.sum() - along  # the centre of mass is at 0
        for number in range(N_COMETS):
            place = pixels.draw(self._chance(f"comet {number}"))
            known = place[:, 0] >= 0
            row, column = np.where(known[:, None], place, 0).astype(int).T
            outwards = np.arctan2(self.dy[row, column], self.dx[row, column])
            step = np.stack([np.sin(outwards), np.cos(outwards)], axis=1) * sign[:, None] / self.pixel_size_um
            size = 0.6 + 0.8 * self._chance(f"size of comet {number}")
            for distance, share in zip(along, weight, strict=True):
                _deposit(image, np.where(known[:, None], place + distance * step, -1), share * size, self.inside)
        return image

    def _chance(self, name: str) -> Array:
        return uniform(self.keys(name), self.cells["key"].to_numpy())

    def _each(self, values: Array) -> Array:
        return np.append(0, values)[self.inside]

    def _each_key(self, keys: Array) -> Array:
        return np.append(np.uint64(0), keys.astype(np.uint64))[self.inside]


class _PixelsOf:
    """The pixels of each cell in which something may be arranged."""

    def __init__(self, inside: Array, allowed: Array, n_cells: int) -> None:
        of = np.where(allowed, inside, 0)
        rows, columns = np.nonzero(of)
        order = np.argsort(of[rows, columns], kind="stable")
        self._rows, self._columns = rows[order], columns[order]
        self._count = np.bincount(of[rows, columns], minlength=n_cells + 1)[1:]
        self._start = np.concatenate([[0], np.cumsum(self._count)[:-1]])

    def draw(self, chance: Array) -> Array:
        """Return a pixel (row, column) of each cell, (-1, -1) where none is allowed."""
        at = np.minimum(self._start + (chance * self._count).astype(int), max(len(self._rows) - 1, 0))
        if not len(self._rows):
            return np.full((len(chance), 2), -1.0)
        found = np.stack([self._rows[at], self._columns[at]], axis=1).astype(float)
        return np.where((self._count > 0)[:, None], found, -1.0)


def _deposit(image: Array, place: Array, amount: Array, inside: Array) -> None:
    """Add an amount to an arrangement at a position (row, column) of each cell, divided among four pixels."""
    cell = np.arange(len(place)) + 1
    top, left = np.floor(place).T
    down, right = (place - np.floor(place)).T
    for y, x, share in (
        (0, 0, (1 - down) * (1 - right)),
        (0, 1, (1 - down) * right),
        (1, 0, down * (1 - right)),
        (1, 1, down * right),
    ):
        row, column = (top + y).astype(int), (left + x).astype(int)
        fits = (row >= 0) & (column >= 0) & (row < image.shape[0]) & (column < image.shape[1]) & (place[:, 0] >= 0)
        row, column = row[fits], column[fits]
        same = inside[row, column] == cell[fits]
        np.add.at(image, (row[same], column[same]), (np.broadcast_to(amount, len(place)) * share)[fits][same])
