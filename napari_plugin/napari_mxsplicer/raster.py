"""Draw any number of points: they are binned into the pixels of the screen, and a pixel shows their mean."""

import numpy as np

_UNSELECTED = (128, 128, 128, 70)


class Raster:
    """Points (N, 2) drawn as a raster: seen through a window of a plane."""

    def __init__(self, xy: np.ndarray) -> None:
        self.xy = np.asarray(xy, dtype=np.float32)
        self._of: tuple[float, ...] = ()
        self._pixels = np.zeros(0, dtype=np.int32)
        self._counts = np.zeros(1, dtype=np.int64)
        self._shape = (0, 0)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Lowest x, highest x, lowest y, highest y of the points, with a margin."""
        seen = self.xy[np.isfinite(self.xy).all(axis=1)]
        if not len(seen):
            return 0.0, 1.0, 0.0, 1.0
        (left, bottom), (right, top) = seen.min(axis=0), seen.max(axis=0)
        x, y = max(right - left, 1e-6) * 0.03, max(top - bottom, 1e-6) * 0.03
        return float(left - x), float(right + x), float(bottom - y), float(top + y)

    def set_window(self, window: tuple[float, float, float, float], shape: tuple[int, int]) -> None:
        """Bin the points of a window (x from, x to, y from, y to) into (height, width) pixels."""
        if (*window, *shape) == self._of:
            return
        self._of, self._shape = (*window, *shape), shape
        left, right, bottom, top = window
        height, width = shape
        x = (self.xy[:, 0] - np.float32(left)) * np.float32(width / max(right - left, 1e-12))
        y = (self.xy[:, 1] - np.float32(bottom)) * np.float32(height / max(top - bottom, 1e-12))
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # False for NaN
        place = np.where(inside, y, 0).astype(np.int32) * width + np.where(inside, x, 0).astype(np.int32)
        # Points outside are counted in an extra pixel after the last.
        self._pixels = np.where(inside, place, height * width).astype(np.int32)
        self._counts = np.bincount(self._pixels, minlength=height * width + 1)

    def draw(
        self,
        values: np.ndarray,
        table: np.ndarray,
        limits: tuple[float, float],
        *,
        selection: np.ndarray | None = None,
        mix: bool = True,
    ) -> np.ndarray:
        """Draw the points as an image (height, width, 4) uint8, y upwards.

        Parameters
        ----------
        values
            One per point; points without a value (NaN) are left out.
        table
            Colours (n, 4) uint8 from the lowest to the highest value.
        limits
            The values of the first and the last colour.
        selection
            Rows in colour; the others are grey. All by default.
        mix
            Show the mean of the points of a pixel; otherwise one of them, as categories have no mean.
        """
        n = self._shape[0] * self._shape[1]
        out = np.zeros((n, 4), dtype=np.uint8)
        seen = np.isfinite(values)
        everything = bool(seen.all())
        if selection is not None:
            occupied = self._counts if everything else np.bincount(self._pixels[seen], minlength=n + 1)
            out[np.flatnonzero(occupied[:n])] = _UNSELECTED
            selection, everything = selection if everything else selection[seen[selection]], False
        some = seen if selection is None else selection
        pixels, shown = (self._pixels, values) if everything else (self._pixels[some], values[some])
        means: np.ndarray
        if mix:
            counts = self._counts if everything else np.bincount(pixels, minlength=n + 1)
            counts = counts[:n]
            filled = np.flatnonzero(counts)
            means = np.bincount(pixels, weights=shown, minlength=n + 1)[:n][filled] / counts[filled]
        else:
            one = np.full(n + 1, np.nan, dtype=np.float32)
            one[pixels] = shown
            filled = np.flatnonzero(np.isfinite(one[:n]))
            means = one[filled]
        low, high = limits
        place = (means - low) / max(high - low, 1e-12) * len(table)
        out[filled] = table[np.clip(place, 0, len(table) - 1).astype(np.intp)]
        return out.reshape(*self._shape, 4)

    def nearest(self, x: float, y: float, reach: float) -> int | None:
        """Return the nearest point to a position, or None if none is within reach."""
        near = np.flatnonzero(np.abs(self.xy[:, 0] - np.float32(x)) <= reach)
        distance = np.hypot(*(self.xy[near] - np.array([x, y], dtype=np.float32)).T)
        within = distance <= reach  # False for NaN
        return int(near[within][np.argmin(distance[within])]) if within.any() else None
