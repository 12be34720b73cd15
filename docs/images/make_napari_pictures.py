"""Take the screenshots of the pages on the napari panel from the result of `make demo`; they need a screen.

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
from napari_mxsplicer.widgets.clusters import ClustersPart
from PIL import Image
from qtpy.QtWidgets import QApplication

ROOT = Path(__file__).parents[2]


# What a cluster is called by the markers that its suggested name begins and ends with.
NAMES = {
    ("Pan-CK", "PD-L1"): "Tumour",
    ("SMA",): "Fibroblast",
    ("CD3e", "CD4"): "CD4 T cell",
    ("Ki-67", "E-Cadherin"): "Dividing tumour",
    ("CD20", "CD45"): "B cell",
    ("CD3e", "CD8a"): "CD8 T cell",
    ("CD68", "CD45"): "Macrophage",
    ("CD31", "SMA"): "Endothelium",
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

    for one in clusters.model.clusters:
        state.names.name_cluster(one.name, NAMES.get(one.markers, ""))
    flagged = next((row for row, one in enumerate(clusters.model.clusters) if one.is_flagged), 0)
    choose(clusters, flagged)
    take(viewer, "napari_clusters.png")

    panel.reveal(queue)
    settle(lambda: queue.images.view is not None and not queue.cutting.is_busy)
    take(viewer, "napari_queue.png")

    state.pick(None)
    t_cells = next(row for row, one in enumerate(clusters.model.clusters) if "CD8a" in one.markers)
    panel.reveal(clusters)
    choose(clusters, t_cells)
    panel.canvas.show_closely(clusters.strip.strip.rows[0, 0])
    panel.presets.show_markers_of_cluster()
    panel.presets.toggle_cells()
    take(viewer, "napari_presets.png")

    panel.presets.toggle_cells()
    panel.presets.show_nuclei()
    clusters.leave()
    viewer.reset_view()
    panel.reveal(panel.gating)
    panel.gating.marker.setCurrentText("CD20")
    panel.gating.show_marker()
    panel.gating.select_above()
    take(viewer, "napari_gate.png")

    state.paint(Painted("column", "lineage"))
    xy = state.study.umap
    middle = np.median(xy[np.asarray(state.study.column("lineage")) == "B cell"], axis=0)
    state.select(np.flatnonzero(((xy - middle) ** 2).sum(axis=1) < 2))
    take(viewer, "napari_selection.png")
    panel.disconnect_all()
    viewer.close()


def choose(clusters: ClustersPart, row: int) -> None:
    """Make a row of the table the current one, and wait for its cells."""
    clusters.table.setCurrentIndex(clusters.model.index(row, NAME))
    settle(lambda: clusters.strip.strip is not None and not clusters.detail.is_busy)


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
    settle(lambda: True)
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
