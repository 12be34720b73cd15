"""Draw random numbers that depend only on the seed, on their purpose and on coordinates."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Keys:
    """A key of the random numbers for each purpose, which depends on the seed and on the number of the slide."""

    seed: int
    slide_number: int

    def __call__(self, purpose: str) -> int:
        """Return the key of a purpose. Changing a purpose changes the pixels of every slide."""
        text = f"{self.seed}/{self.slide_number}/{purpose}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hash_coordinates(key: int, *coordinates: Array) -> Array:
    """Return 64 random bits at integer coordinates: the finaliser of SplitMix64 (Steele et al. 2014), chained."""
    mixed: Array = np.full(1, key, dtype=np.uint64)
    for coordinate in coordinates:
        mixed = (mixed ^ np.asarray(coordinate).astype(np.int64).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def uniform(key: int, *coordinates: Array) -> Array:
    """Return random numbers, uniform in [0, 1), at integer coordinates."""
    return np.asarray((hash_coordinates(key, *coordinates) >> np.uint64(11)) * 2.0**-53)


def normal(key: int, *coordinates: Array) -> Array:
    """Return random numbers, standard normal, at integer coordinates."""
    return np.asarray(ndtri(np.maximum(uniform(key, *coordinates), 1e-12)))


def choose(shares: Array, chance: Array) -> Array:
    """Return which of K classes, with shares (N, K) or (K,), each random number of ``chance`` (N,) selects."""
    total = np.cumsum(np.broadcast_to(shares, (len(chance), np.shape(shares)[-1])), axis=1)
    return np.asarray(np.minimum((chance[:, None] >= total).sum(axis=1), total.shape[1] - 1))


def smooth_noise(key: int, x: Array, y: Array, scale_um: float) -> Array:
    """Return smooth random noise in [0, 1] that varies over about ``scale_um``."""
    column, row = np.floor(x / scale_um), np.floor(y / scale_um)
    u, v = x / scale_um - column, y / scale_um - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    top = uniform(key, row, column) * (1 - u) + uniform(key, row, column + 1) * u
    bottom = uniform(key, row + 1, column) * (1 - u) + uniform(key, row + 1, column + 1) * u
    return np.asarray(top * (1 - v) + bottom * v)


def random_blob(key: int, x: Array, y: Array, spacing_um: float, radii_um: tuple[float, float]) -> tuple[Array, ...]:
    """Draw random blobs on a jittered lattice; return distance / radius, direction and a number of the nearest one."""
    column, row = np.floor(x / spacing_um), np.floor(y / spacing_um)
    nearest, direction, chance = np.full(x.shape, np.inf), np.zeros(x.shape), np.zeros(x.shape)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            place = (row + down, column + right)
            dx = x - (place[1] + 0.5 + 0.6 * (uniform(key + 1, *place) - 0.5)) * spacing_um
            dy = y - (place[0] + 0.5 + 0.6 * (uniform(key + 2, *place) - 0.5)) * spacing_um
            radius = radii_um[0] + (radii_um[1] - radii_um[0]) * uniform(key + 3, *place)
            distance = np.hypot(dx, dy) / radius
            closer = distance < nearest
            nearest = np.where(closer, distance, nearest)
            direction = np.where(closer, np.arctan2(dy, dx), direction)
            chance = np.where(closer, uniform(key + 4, *place), chance)
    return nearest, direction, chance
