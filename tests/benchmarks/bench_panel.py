"""Measure what a user of the panel waits for: the first picture, each click, an answer in the queue, and the memory.

Run by hand, with napari and a screen::

    xvfb-run -a -s "-screen 0 1600x1000x24" python tests/benchmarks/bench_panel.py [--cells 50000 1000000]
    ... bench_panel.py --write FOLDER --cells 50000    # only write the synthetic result
    ... bench_panel.py --result FOLDER/slide.mxs       # only measure a result

Each result is measured in a new process. Clicks are mouse events on the widgets. Next to the elapsed time, which other
programs on the machine make longer, stands the processor time of the process, over all its threads. It runs with
earlier versions of the panel, too, and leaves out what they lack.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

STARTED = time.perf_counter()
_MARKERS = ("DAPI", "CD3e", "CD20", "Pan-CK")
_STEP_PX = 8  # from cell to cell
_FEATURES, _CLUSTERS = 96, 18
_DELAYED_S = 0.6  # after which a part of the panel has begun what it computes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()
    if options.result:
        measure(options.result)
    elif options.write:
        write(options.write, options.cells[0])
    else:
        for n in options.cells:
            with TemporaryDirectory() as folder:
                write(Path(folder), n)
                one = [sys.executable, __file__, "--result", str(Path(folder) / "slide.mxs")]
                subprocess.run(one, check=True)


def write(folder: Path, n: int) -> None:
    """Write a synthetic result of about ``n`` cells."""
    from bench_napari import write_result

    folder.mkdir(exist_ok=True)
    write_result(
        folder,
        round(n**0.5),
        markers=_MARKERS,
        n_features=_FEATURES,
        n_clusters=_CLUSTERS,
        step=_STEP_PX,
        compression=None,
    )


def measure(result: Path) -> None:
    """Open a result, use the panel, and print what each step takes."""
    import napari
    import psutil
    from napari_mxsplicer.opening import open_in
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    viewer.screenshot(flash=False)
    empty = psutil.Process().memory_info().rss / 2**20
    report("napari without a result", time.perf_counter() - STARTED, time.process_time())
    clock = Clock()
    panel = open_in(viewer, result, at_once=False)
    viewer.screenshot(flash=False)
    report(f"{panel.state.study.n_cells:,} cells: the first picture", *clock.read())
    wait(lambda: not panel._warming.is_busy)
    table = getattr(panel, "clusters", None)
    if table is not None:
        wait(lambda: table.model.rowCount() > 0 and not table.cutting.is_busy and panel.state.names is not None)
    report("... and the panel complete", *clock.read())

    def step(name: str, action: Callable[[], Any], done: Callable[[], bool] = lambda: True) -> None:
        settle(panel)  # else the step would count what the one before began in threads
        clock = Clock()
        action()
        wait(done)
        viewer.screenshot(flash=False)
        report(name, *clock.read())

    click = click_in(QTest)
    reveal = getattr(panel, "reveal", lambda _part: None)
    heatmap = panel.correlations.heatmap
    reveal(panel.correlations)
    wait(heatmap.isVisible)
    view = heatmap.viewport()
    for share in (0.3, 0.6):
        step("a click in the heatmap", partial(click, view, share * view.width() + 60, 0.6 * view.height()))
    step("the cells coloured by cluster", lambda: choose(panel.paint, "leiden"))
    if table is not None:
        reveal(table)
        names = panel.state.names
        for row in (2, 5):
            rect = table.table.visualRect(table.model.index(row, 2))
            place = (table.table.viewport(), rect.center().x(), rect.center().y())
            step("a click on a cluster", partial(click, *place), lambda: not table.detail.is_busy)
        step("a name of a cluster", lambda: names.name_cluster("3", "T cell"))
        names.name_cluster("4", "B cell")
        measure_queue(panel, step, QTest)
    QApplication.processEvents()
    used = psutil.Process().memory_info().rss / 2**20 - empty
    sys.stdout.write(f"  memory beyond that of napari without a result: {used:,.0f} MB\n")
    panel.disconnect_all()
    viewer.close()


def settle(panel: Any) -> None:
    """Let Qt work until no part of the panel has computed anything in a thread for a while."""
    works = [work for part in getattr(panel, "parts", ()) for work in part.works]
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < _DELAYED_S:
        wait(lambda: True)
        time.sleep(0.005)
        if any(work.is_busy for work in works):
            quiet_since = time.monotonic()


def measure_queue(panel: Any, step: Callable[..., None], test: Any) -> None:
    """Open the queue, and answer with a key."""
    from qtpy.QtCore import Qt

    queue = getattr(panel, "queue", None)
    if queue is None:
        return
    step("the queue, opened", lambda: panel.reveal(queue), lambda: queue.images.view is not None)
    wait(lambda: not queue.cutting.is_busy)
    for key in (Qt.Key.Key_1, Qt.Key.Key_2, Qt.Key.Key_1):
        row = queue.current.row
        step(
            "an answer: the next cell",
            lambda key=key: test.keyClick(queue, key),
            lambda row=row: queue.current.row != row,
        )
        step("... the queue refreshed behind it", lambda: None, lambda: not queue.proposing.is_busy)
        wait(lambda: not queue.cutting.is_busy)


class Clock:
    """Elapsed time, and processor time of the process."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return the seconds of both since the start."""
        return time.perf_counter() - self._wall, time.process_time() - self._processor


def report(what: str, wall: float, processor: float) -> None:
    """Print the seconds of a step."""
    sys.stdout.write(f"  {what:42} {wall:7.2f} s elapsed, {processor:6.2f} s of processor time\n")
    sys.stdout.flush()


def wait(done: Callable[[], bool], *, seconds: float = 900) -> None:
    """Let Qt work until something is done."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)
    for _ in range(5):
        QApplication.processEvents()


def click_in(test: Any) -> Callable[[Any, float, float], None]:
    """Return a function that clicks a point of a widget."""
    from qtpy.QtCore import QPoint, Qt

    def click(widget: Any, x: float, y: float) -> None:
        test.mouseMove(widget, QPoint(round(x), round(y)))
        test.mouseClick(widget, Qt.MouseButton.LeftButton, pos=QPoint(round(x), round(y)))

    return click


def choose(box: Any, text: str) -> None:
    """Choose an entry of a list, as a user does."""
    place = box.findText(text)
    box.setCurrentIndex(place)
    box.activated.emit(place)


if __name__ == "__main__":
    main()
