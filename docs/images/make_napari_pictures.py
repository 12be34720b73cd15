"""Take the screenshots of docs/napari.md from the result of `make demo`; they need napari and a screen.

xvfb-run -a -s "-screen 0 1600x1000x24" .venv/bin/python docs/images/make_napari_pictures.py [RESULT]
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import napari
import numpy as np
from napari_mxsplicer.opening import open_in
from napari_mxsplicer.state import Painted
from napari_mxsplicer.widgets.cluster_model import NAME
from PIL import Image
from qtpy.QtWidgets import QApplication

ROOT = Path(__file__).parents[2]


NAMES = {
    "0": "Tumour",
    "1": "CD4 T cell",
    "3": "B cell",
    "4": "Fibroblast",
    "5": "CD8 T cell",
    "6": "Macrophage",
    "8": "Endothelium",
}


def main() -> None:
    """Open the demo, follow the steps of the page, and take screenshots."""
    result = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "demo/tissue.mxs"
    with TemporaryDirectory() as folder:
        show(linked(result, Path(folder) / result.name))


def linked(result: Path, folder: Path) -> Path:
    """Return a folder with the files of a result, next to which names are saved without changing it."""
    folder.mkdir()
    for one in result.iterdir():
        if one.suffix != ".csv":
            (folder / one.name).symlink_to(one.resolve())
    return folder


def show(result: Path) -> None:
    """Open a result, and take the screenshots."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1440, 960)
    panel = open_in(viewer, result, at_once=False)
    settle(lambda: panel.canvas.layer("cells") is not None and panel.canvas.layer("marks") is not None)
    state, clusters, queue = panel.state, panel.clusters, panel.queue
    settle(lambda: state.names is not None and clusters.model.rowCount() > 0 and not clusters.cutting.is_busy)
    take(viewer, "napari.png")

    for cluster, name in NAMES.items():
        state.names.name_cluster(cluster, name)
    flagged = next((row for row, one in enumerate(clusters.model.clusters) if one.is_flagged), 0)
    clusters.table.setCurrentIndex(clusters.model.index(flagged, NAME))
    settle(lambda: clusters.strip.strip is not None)
    take(viewer, "napari_clusters.png")

    clusters.leave()
    panel.reveal(queue)
    settle(lambda: queue.images.view is not None and not queue.cutting.is_busy)
    take(viewer, "napari_queue.png")

    panel.reveal(panel.umap)
    viewer.reset_view()
    state.pick(None)
    state.paint(Painted("column", "lineage"))
    xy = state.study.umap
    middle = np.median(xy[np.asarray(state.study.column("lineage")) == "B cell"], axis=0)
    state.select(np.flatnonzero(((xy - middle) ** 2).sum(axis=1) < 2))
    settle(lambda: state.selection is not None)
    take(viewer, "napari_selection.png")
    panel.disconnect_all()
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
