"""Take the screenshots of docs/napari.md from the result of `make demo`; they need napari and a screen.

xvfb-run -a -s "-screen 0 1600x1000x24" .venv/bin/python docs/images/make_napari_pictures.py [RESULT]
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from napari_mxsplicer.opening import open_in
from napari_mxsplicer.state import Painted
from PIL import Image
from qtpy.QtWidgets import QApplication, QScrollArea

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Open the demo, follow the steps of the page, and take screenshots."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1440, 960)
    panel = open_in(viewer, sys.argv[1] if len(sys.argv) > 1 else ROOT / "demo/tissue.mxs", at_once=False)
    settle(lambda: panel.canvas.layer("cells") is not None and panel.canvas.layer("marks") is not None)
    state = panel.state
    area = panel.findChild(QScrollArea).verticalScrollBar()
    marker = state.study.markers.index("CD20")
    state.show_marker("CD20")
    state.paint(Painted("feature", str(int(state.r[marker].argmax()))))
    settle(lambda: bool(panel.partners.bars.partners))
    take(viewer, "napari.png")

    viewer.scene.camera.zoom *= 2.5
    state.paint(Painted("column", "lineage"))
    xy = state.study.umap
    middle = np.median(xy[np.asarray(state.study.column("lineage")) == "B cell"], axis=0)
    state.select(np.flatnonzero(((xy - middle) ** 2).sum(axis=1) < 2))
    settle(lambda: state.correlated_over != "all cells")
    take(viewer, "napari_selection.png")

    state.select(None)
    settle(lambda: state.correlated_over == "all cells")
    state.paint(Painted("marker", "CD20"))
    settle(lambda: panel.exemplars.strip.strip is not None and bool(panel.partners.bars.partners))
    state.pick(int(panel.exemplars.strip.strip.rows[0, 0]))
    panel.canvas.centre_on(state.picked)
    panel.cell._find()
    settle(lambda: len(state.marked) > 0)
    settle(lambda: panel.cell.strip.strip is not None and (panel.cell.strip.strip.rows >= 0).sum() > 6)
    area.setValue(area.maximum())
    take(viewer, "napari_cells.png")
    viewer.close()


def settle(done: Callable[[], bool], *, seconds: float = 120) -> None:
    """Process events until a condition holds."""
    end = time.monotonic() + seconds
    while not done():
        QApplication.processEvents()
        time.sleep(0.01)
        if time.monotonic() > end:
            message = "the panel did not reach the state to show"
            raise RuntimeError(message)
    for _ in range(80):
        QApplication.processEvents()
        time.sleep(0.01)


def take(viewer: napari.Viewer, name: str) -> None:
    """Save a smaller screenshot of the window."""
    picture = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    height = round(1000 * picture.shape[0] / picture.shape[1])
    small = Image.fromarray(picture).resize((1000, height), Image.Resampling.LANCZOS)
    # 256 colours look the same here and compress better: half are chosen by area, so that the greys of the window stay
    # grey, half to cover all colours, so that legends stay true.
    by_area = small.quantize(128, method=Image.Quantize.MEDIANCUT).getpalette()[: 3 * 128]
    covering = small.quantize(128, method=Image.Quantize.MAXCOVERAGE).getpalette()[: 3 * 128]
    palette = Image.new("P", (1, 1))
    palette.putpalette(by_area + covering)
    few = small.quantize(palette=palette, dither=Image.Dither.NONE)
    few.save(Path(__file__).with_name(name), optimize=True)


if __name__ == "__main__":
    main()
