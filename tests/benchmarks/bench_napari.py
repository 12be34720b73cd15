"""Time how fast the panel paints and answers, for 50 thousand and a million cells.

Run by hand, with napari and a screen::

    xvfb-run -a -s "-screen 0 1600x1000x24" python tests/benchmarks/bench_napari.py [--cells 50000 1000000]
    ... bench_napari.py --memory PX    # 10,000 cells on a slide of PX pixels per side, viewed in many places
    ... bench_napari.py --channels N   # 10,000 cells with N markers: the time to switch to a channel

Cells are squares on a grid, ten pixels apart, with random features; each number is the smallest of several. Other
programs on the machine make all of them larger: compare lines of one run. For work on the interface thread, the
processor time of that thread is printed next to elapsed time. OpenGL is rendered in software, which is part of what is
called "on the screen".
"""

import argparse
import gc
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import pandas as pd
import psutil
import tifffile
import zarr
from anndata import AnnData
from napari_mxsplicer.lasso import inside_polygon
from napari_mxsplicer.layers import limits_of
from napari_mxsplicer.opening import open_in
from napari_mxsplicer.painting import Paint, PaintedLevel, RowIndex, RowNumbers
from napari_mxsplicer.raster import Raster
from napari_mxsplicer.state import Painted
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication

from mxsplicer.result.features import write_features
from mxsplicer.tl.fingerprints import fingerprint_each

_STEP_PX = 10  # from cell to cell; a cell is 8 by 8
_TIMES, _MANY = 5, 20
_FEATURES = 8
_MARKERS = ("DAPI", "CD3", "CD20", "CK")


class Watched(QApplication):
    """Keeps how long each event took on the interface thread: processor time and clock, in seconds."""

    taken: list[tuple[float, float]] = []  # noqa: RUF012
    _inside = False

    def notify(self, receiver: Any, event: Any) -> bool:
        """Deliver an event."""
        if Watched._inside:  # of another that is being timed
            return super().notify(receiver, event)
        Watched._inside, clock, processor = True, time.perf_counter(), time.thread_time()
        try:
            return super().notify(receiver, event)
        finally:
            Watched._inside = False
            Watched.taken.append((time.thread_time() - processor, time.perf_counter() - clock))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--memory", type=int, metavar="PX")
    parser.add_argument("--channels", type=int, metavar="N")
    options = parser.parse_args()
    application = Watched(sys.argv[:1])
    import napari

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1300, 900)
    if options.memory or options.channels:
        if options.memory:
            measure_memory(viewer, options.memory)
        if options.channels:
            measure_channels(viewer, options.channels)
        viewer.close()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        return
    for n in options.cells:
        side = round(n**0.5)
        values = np.random.default_rng(0).normal(size=(_TIMES + 1, side * side)).astype(np.float32)
        sys.stdout.write(f"{side * side:,} cells on {side * _STEP_PX:,} x {side * _STEP_PX:,} pixels\n")
        measure_painting(viewer, side, values)
        measure_map(values)
        measure_reading(side * side)
        viewer.layers.clear()
        measure_panel(viewer, side)
        viewer.layers.clear()
    measure_napari_itself(viewer, round(min(options.cells) ** 0.5))
    viewer.close()
    del application


def measure_painting(viewer: Any, side: int, values: np.ndarray) -> None:
    """Paint other values, as a change of feature does."""
    levels = _pyramid(_labels(side))
    paint = Paint(RowIndex(np.random.default_rng(0).permutation(side * side) + 1))
    painted = [PaintedLevel(RowNumbers(level, paint.index), paint) for level in levels]
    paint.set(values[0])
    layer = viewer.add_image(
        painted if len(painted) > 1 else painted[0],
        multiscale=len(painted) > 1,
        contrast_limits=limits_of(values[0]),
        interpolation2d="nearest",
    )
    viewer.reset_view()
    count = itertools.count()

    def recolour() -> None:
        paint.set(values[next(count) % len(values)])
        layer.refresh(extent=False)

    def on_the_screen() -> None:
        recolour()
        QApplication.processEvents()
        viewer.screenshot(flash=False)

    on_the_screen()
    bare = _best(lambda: viewer.screenshot(flash=False), times=_MANY)
    _print("recolour, the call", _best(recolour))
    _print("recolour, to pixels on the screen", _best(on_the_screen, times=_MANY) - bare)
    tile, table = np.random.default_rng(0).integers(0, side * side, (900, 1300), dtype=np.int32), paint.table
    _print("  of which one np.take over the canvas", _best(lambda: np.take(table, tile)))


def measure_map(values: np.ndarray) -> None:
    """Draw the UMAP, move it, and draw a lasso in it."""
    raster = Raster(np.random.default_rng(1).normal(size=(values.shape[1], 2)))
    table = np.full((256, 4), 255, np.uint8)
    widths = itertools.count(4, 0.01)

    def draw() -> None:
        raster.draw(values[1], table, (-2, 2))

    def moved() -> None:
        width = float(next(widths))
        raster.set_window((-width, width, -4, 4), (260, 320))
        draw()

    moved()
    _print("UMAP, redrawn", _best(draw))
    _print("UMAP, moved and redrawn", _best(moved))
    angles = np.linspace(0, 6, 60)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    _print("lasso of 60 corners", _best(lambda: inside_polygon(raster.xy, circle)))


def measure_reading(n_cells: int) -> None:
    """Read one feature of all cells."""
    path = Path(mkdtemp()) / "features.zarr"
    z = np.random.default_rng(2).normal(size=(n_cells, _FEATURES)).astype(np.float32)
    write_features(path, z, range(n_cells))
    features, count = zarr.open_array(path, mode="r"), itertools.count()
    _print("one feature read from the disk", _best(lambda: features[next(count) % _FEATURES]))


def measure_panel(viewer: Any, side: int) -> None:
    """Open a result, and measure what each action takes on the interface thread."""
    with TemporaryDirectory() as folder:
        result = write_result(Path(folder), side)
        clock, processor = time.perf_counter(), time.thread_time()
        panel = open_in(viewer, result, at_once=False)
        viewer.screenshot(flash=False)
        taken = (time.thread_time() - processor, time.perf_counter() - clock)
        sys.stdout.write(f"  opened, the first image{' ':15}{_format(taken)}\n")
        state = panel.state
        _settle(lambda: not panel._warming.is_busy, after=2)
        angles = np.linspace(0, 6, 60)
        circle = np.column_stack([np.cos(angles), np.sin(angles)])
        cells = iter(range(0, side * side, 997))
        everything = state.study.n_cells // 2
        actions: dict[str, Callable[[int], Any]] = {
            "another feature": lambda k: state.paint(Painted("feature", str(k % _FEATURES))),
            "pointer on another cell": lambda _: state.hover(next(cells)),
            "lasso of 60 corners": lambda k: panel.umap.scatter._lasso_drawn(circle * (1 + k / 50), True),
            "selection of half the cells": lambda k: state.select(np.arange(k, everything)),
            "undo": lambda _: state.undo(),
        }
        sys.stdout.write("  on the interface thread: the call | the longest event after it; processor (clock)\n")
        for name, action in actions.items():
            calls, events = [], []
            for k in range(_TIMES):
                Watched.taken.clear()
                Watched._inside, clock, processor = True, time.perf_counter(), time.thread_time()
                action(k)
                calls.append((time.thread_time() - processor, time.perf_counter() - clock))
                Watched._inside = False
                _settle(lambda: not any(work.is_busy for part in panel.parts for work in part.works))
                events.append(max(Watched.taken))
            sys.stdout.write(f"    {name:38}{_format(min(calls))} | {_format(min(events))}\n")
            sys.stdout.flush()
        panel.disconnect_all()
        viewer.window.remove_dock_widget(panel)


def measure_memory(viewer: Any, width_px: int) -> None:
    """Open a result of few cells on a slide, view many places of it at full size, and print the memory used."""
    with TemporaryDirectory() as folder:
        result = write_result(Path(folder), 100, step=width_px // 100)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.tiff")) / 2**20
        before = _resident()
        panel = open_in(viewer, result)
        _settle(lambda: not panel._warming.is_busy)
        for place in np.random.default_rng(5).uniform(0.1, 0.9, (60, 2)) * width_px / 2:  # pixels are 0.5 µm
            viewer.scene.camera.center, viewer.scene.camera.zoom = tuple(place), 2.0
            QApplication.processEvents()
            viewer.screenshot(flash=False)
        used = _resident() - before
        pixels = width_px**2 * (4 + 2 * len(_MARKERS)) / 2**20
        sys.stdout.write(
            f"10,000 cells on {width_px:,} x {width_px:,} pixels: {pixels:,.0f} MB of pixels, {size:,.0f} MB of files; "
            f"the process uses {used:,.0f} MB more than before\n"
        )
        panel.disconnect_all()


def measure_channels(viewer: Any, n: int) -> None:
    """Open a result of many markers, and measure how long the interface blocks while channels appear and change."""
    markers = [f"M{number}" for number in range(n)]
    with TemporaryDirectory() as folder:
        result = write_result(Path(folder), 100, step=40, markers=markers)
        clock, processor = time.perf_counter(), time.thread_time()
        panel = open_in(viewer, result, at_once=False)
        viewer.screenshot(flash=False)
        taken = (time.thread_time() - processor, time.perf_counter() - clock)
        sys.stdout.write(f"{n} channels: the first image{' ':13}{_format(taken)}\n")
        gc.freeze()  # as `mxsplicer view` does
        Watched.taken.clear()
        until = time.monotonic() + 0.4 * n
        _settle(lambda: len(viewer.layers) == n + 4 or time.monotonic() > until, after=2)
        long = sorted((one for one in Watched.taken if one[0] > 0.016), reverse=True) or [(0.0, 0.0)]
        together = (sum(one[0] for one in long), sum(one[1] for one in long))
        sys.stdout.write(f"  then {len(viewer.layers)} layers; events of more than 16 ms, the longest and together\n")
        sys.stdout.write(f"    {len(long):<38}{_format(long[0])} | {_format(together)}\n")
        sys.stdout.write("  the call: median, longest | the longest event after it: median, longest\n")
        for what in ("another channel, for the first time", "a channel that was seen before"):
            calls, events = [], []
            for marker in markers[3:14]:
                Watched.taken.clear()
                Watched._inside, clock, processor = True, time.perf_counter(), time.thread_time()
                panel.state.show_marker(marker)
                calls.append((time.thread_time() - processor, time.perf_counter() - clock))
                Watched._inside = False
                _settle(lambda: not any(work.is_busy for part in panel.parts for work in part.works))
                events.append(max(Watched.taken))
            some = [sorted(one)[place] for one in (calls, events) for place in (len(calls) // 2, -1)]
            sys.stdout.write(
                f"  {what:40}{_format(some[0])}, {_format(some[1])} | {_format(some[2])}, {_format(some[3])}\n"
            )
        panel.disconnect_all()
        viewer.window.remove_dock_widget(panel)


def _resident() -> float:
    """Return the memory that this process holds, in MB."""
    return psutil.Process().memory_info().rss / 2**20


def _settle(done: Callable[[], bool], *, seconds: float = 120, after: float = 0.4) -> None:
    """Let Qt work until something is done, and a little longer."""
    until, end = time.monotonic() + after, time.monotonic() + seconds
    while time.monotonic() < until or (not done() and time.monotonic() < end):
        QApplication.processEvents()
        time.sleep(0.002)


def write_result(
    folder: Path,
    side: int,
    *,
    step: int = _STEP_PX,
    markers: Sequence[str] = _MARKERS,
    n_features: int = _FEATURES,
    n_clusters: int = 0,
    compression: str | None = "zlib",
) -> Path:
    """Write a result of cells on a grid, whose tables and images are as large as real ones of as many cells.

    Features of cells of one cluster are alike.
    """
    n, rng, levels = side * side, np.random.default_rng(4), _pyramid(_labels(side, step=step).astype(np.uint32))
    stacks = [np.stack([(level % (11 * k + 7)).astype(np.uint16) for k in range(len(markers))]) for level in levels]
    for name, pages, axes in (("mask", levels, "YX"), ("image", stacks, "CYX")):
        with tifffile.TiffWriter(folder / f"{name}.ome.tiff", bigtiff=True, ome=True) as file:
            for number, page in enumerate(pages):
                about = {"axes": axes} | ({"Channel": {"Name": list(markers)}} if axes == "CYX" else {})
                coarser = {"subfiletype": 1} if number else {"subifds": len(pages) - 1, "metadata": about}
                file.write(page, tile=(512, 512), compression=compression, photometric="minisblack", **coarser)
    y, x = np.divmod(np.arange(n), side)
    z = rng.standard_normal((n, n_features), dtype=np.float32)
    clusters = rng.integers(0, max(n_clusters, 1), n)
    if n_clusters:
        z += 3 * rng.standard_normal((n_clusters, n_features), dtype=np.float32)[clusters]
    adata = AnnData(
        rng.gamma(2, 9, (n, len(markers))).astype(np.float32),
        obs=pd.DataFrame(
            {
                "cell_id": np.arange(1, n + 1, dtype=np.uint32),
                "slide": pd.Categorical(["slide"] * n),
                "x_px": x * step + 4.5,
                "y_px": y * step + 4.5,
            },
            index=pd.RangeIndex(n).astype(str),
        ),
        var=pd.DataFrame(index=list(markers)),
        obsm={"X_splicer": z, "X_umap": rng.normal(size=(n, 2)).astype(np.float32)},
    )
    adata.varm["splicer_correlation"] = rng.uniform(-1, 1, (len(markers), n_features)).astype(np.float32)
    if n_clusters:
        adata.obs["leiden"] = pd.Categorical.from_codes(clusters, pd.RangeIndex(n_clusters).astype(str))
        adata.uns["mxsplicer_clusters"] = _explanation(clusters, markers, n_clusters)
    result = folder / "slide.mxs"
    result.mkdir()
    adata.write_h5ad(result / "cells.h5ad")
    write_features(result / "features.zarr", z, adata.obs_names)
    entry = {
        "name": "slide",
        "image": str(folder / "image.ome.tiff"),
        "mask": str(folder / "mask.ome.tiff"),
        "mask_page": None,
        "markers": list(markers),
        "markers_table": None,
        "pixel_size_um": 0.5,
        "shape_px": list(levels[0].shape),
    }
    files = {"cells": "cells.h5ad", "features": "features.zarr"}
    index = {"format": "mxsplicer result", "version": 1, "slides": [entry], "files": files}
    (result / "mxsplicer.json").write_text(json.dumps(index))
    return result


def _explanation(clusters: np.ndarray, markers: Sequence[str], n: int) -> pd.DataFrame:
    """Return a table of verdicts such as `explain_clusters` stores."""
    names = [f"{markers[code % len(markers)]}+" for code in range(n)]
    about = {"count": np.bincount(clusters, minlength=n), "name": names, "verdict": "real", "reason": "Not compared."}
    about["fingerprint"] = fingerprint_each(clusters, n)
    return pd.DataFrame(about, index=pd.Index([str(code) for code in range(n)], name="cluster"))


def measure_napari_itself(viewer: Any, side: int) -> None:
    """Recolour by napari's own colormap of labels, which is what the panel is measured against."""
    from napari.utils.colormaps import DirectLabelColormap

    labels, rng = viewer.add_labels(_labels(side)), np.random.default_rng(3)

    def recolour() -> None:
        colors = {None: np.zeros(4)} | dict(enumerate(rng.random((side * side + 1, 4))))
        labels.colormap = DirectLabelColormap(color_dict=colors)

    sys.stdout.write(f"{side * side:,} cells, napari's DirectLabelColormap\n")
    _print("recolour, the call", _best(recolour, times=2))


def _labels(side: int, *, step: int = _STEP_PX) -> np.ndarray:
    labels = np.zeros((side * step,) * 2, dtype=np.int32)
    ids = np.arange(1, side * side + 1, dtype=np.int32).reshape(side, side)
    tiles = labels.reshape(side, step, side, step)
    tiles[:, 1:9, :, 1:9] = ids[:, None, :, None]
    return labels


def _pyramid(labels: np.ndarray) -> list[np.ndarray]:
    levels = [labels]
    while max(levels[-1].shape) > 2048:
        levels.append(levels[-1][::2, ::2].copy())
    return levels


def _best(call: Callable[[], object], *, times: int = _TIMES) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _format(taken: tuple[float, float]) -> str:
    return f"{taken[0] * 1000:6.1f} ms ({taken[1] * 1000:.0f} ms)"


def _print(what: str, seconds: float) -> None:
    sys.stdout.write(f"  {what:40}{seconds * 1000:10.1f} ms\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
