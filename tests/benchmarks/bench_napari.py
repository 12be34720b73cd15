"""How fast the panel paints and answers, at 50 thousand and at a million cells, beside what it is measured against.

Run by hand, with napari and a screen::

    xvfb-run -a -s "-screen 0 1600x1000x24" python tests/benchmarks/bench_napari.py [--cells 50000 1000000]

Cells are squares on a grid, ten pixels apart, with features drawn at random; each figure is the smallest of several.
Other programs on the machine make all of them larger: the ratios between lines of one run are what can be relied on.
Software rendering of OpenGL is part of what is called "on the screen".
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import zarr
from napari_mxsplicer.layers import limits_of
from napari_mxsplicer.painting import Numbers, Paint, PaintedLevel, RowIndex
from napari_mxsplicer.raster import Raster, inside_polygon

from mxsplicer.result import write_features

_STEP_PX = 10  # from cell to cell; a cell is 8 by 8
_TIMES = 5
_FEATURES = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[50_000, 1_000_000])
    options = parser.parse_args()
    import napari

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1300, 900)
    for n in options.cells:
        side = round(n**0.5)
        values = np.random.default_rng(0).normal(size=(_TIMES + 1, side * side)).astype(np.float32)
        sys.stdout.write(f"{side * side:,} cells on {side * _STEP_PX:,} x {side * _STEP_PX:,} pixels\n")
        measure_painting(viewer, side, values)
        measure_map(values)
        measure_reading(side * side)
        viewer.layers.clear()
    measure_napari_itself(viewer, round(min(options.cells) ** 0.5))
    viewer.close()


def measure_painting(viewer: Any, side: int, values: np.ndarray) -> None:
    """Paint other values, as a change of feature does."""
    from qtpy.QtWidgets import QApplication

    levels = [_labels(side)]
    while max(levels[-1].shape) > 2048:
        levels.append(levels[-1][::2, ::2])
    paint = Paint(RowIndex(np.random.default_rng(0).permutation(side * side) + 1))
    painted = [PaintedLevel(Numbers(level, paint.index), paint) for level in levels]
    paint.set(values[0])
    layer = viewer.add_image(
        painted if len(painted) > 1 else painted[0],
        multiscale=len(painted) > 1,
        contrast_limits=limits_of(values[0]),
        interpolation2d="nearest",
    )
    viewer.reset_view()
    turn = itertools.count()

    def recolour() -> None:
        paint.set(values[next(turn) % len(values)])
        layer.refresh(extent=False)

    def on_the_screen() -> None:
        recolour()
        QApplication.processEvents()
        viewer.screenshot(flash=False)

    on_the_screen()
    bare = _best(lambda: viewer.screenshot(flash=False))
    _say("recolour, the call", _best(recolour))
    _say("recolour, to pixels on the screen", _best(on_the_screen) - bare)


def measure_map(values: np.ndarray) -> None:
    """Draw the map of the cells, move it, and draw a lasso in it."""
    raster = Raster(np.random.default_rng(1).normal(size=(values.shape[1], 2)))
    table = np.full((256, 4), 255, np.uint8)
    widths = itertools.count(4, 0.01)

    def draw() -> None:
        raster.draw(values[1], table, (-2, 2))

    def moved() -> None:
        width = float(next(widths))
        raster.look((-width, width, -4, 4), (260, 320))
        draw()

    moved()
    _say("map of the cells, redrawn", _best(draw))
    _say("map of the cells, moved and redrawn", _best(moved))
    angles = np.linspace(0, 6, 60)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    _say("lasso of 60 corners", _best(lambda: inside_polygon(raster.xy, circle)))


def measure_reading(n_cells: int) -> None:
    """Read one feature of all cells."""
    path = Path(mkdtemp()) / "features.zarr"
    write_features(path, np.random.default_rng(2).normal(size=(n_cells, _FEATURES)).astype(np.float32))
    features, turn = zarr.open_array(path, mode="r"), itertools.count()
    _say("one feature read from the disk", _best(lambda: features[next(turn) % _FEATURES]))


def measure_napari_itself(viewer: Any, side: int) -> None:
    """Recolour by napari's own colormap of labels, which is what the panel is measured against."""
    from napari.utils.colormaps import DirectLabelColormap

    labels, rng = viewer.add_labels(_labels(side)), np.random.default_rng(3)

    def recolour() -> None:
        colors = {None: np.zeros(4)} | dict(enumerate(rng.random((side * side + 1, 4))))
        labels.colormap = DirectLabelColormap(color_dict=colors)

    sys.stdout.write(f"{side * side:,} cells, napari's DirectLabelColormap\n")
    _say("recolour, the call", _best(recolour, times=2))


def _labels(side: int) -> np.ndarray:
    labels = np.zeros((side * _STEP_PX,) * 2, dtype=np.int32)
    ids = np.arange(1, side * side + 1, dtype=np.int32).reshape(side, side)
    tiles = labels.reshape(side, _STEP_PX, side, _STEP_PX)
    tiles[:, 1:9, :, 1:9] = ids[:, None, :, None]
    return labels


def _best(call: Callable[[], object], *, times: int = _TIMES) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _say(what: str, seconds: float) -> None:
    sys.stdout.write(f"  {what:40}{seconds * 1000:10.1f} ms\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
