"""Presets of channels: the nuclei, the markers of a cluster, and the channels that were visible before."""

from typing import Any

import numpy as np
from qtpy.QtWidgets import QHBoxLayout

from mxsplicer import find_nuclear_marker
from napari_mxsplicer.gates import raised_markers
from napari_mxsplicer.layers import COLORMAPS
from napari_mxsplicer.study import Study
from napari_mxsplicer.widgets.base import Context, PanelPart, button
from napari_mxsplicer.widgets.channels import ChannelLoader


class PresetsPart(PanelPart):
    """The part of the panel with a button for each preset of channels."""

    def __init__(self, context: Context, loader: ChannelLoader) -> None:
        super().__init__(context)
        self._loader = loader
        self.row = QHBoxLayout(self)
        self.row.setContentsMargins(0, 0, 0, 0)
        self.row.setSpacing(4)
        tips = {
            "Nuclei": ("Show the channel of the nuclei only", self.show_nuclei),
            "Top markers": (
                "Show the markers of the selected cluster, or of that of the clicked cell, with the nuclei; for other "
                "selected cells, the markers that are raised most in them",
                self.show_markers_of_cluster,
            ),
            "Last": ("Show the channels that were visible before", self.show_last),
            "Cells": ("Show or hide the colours of the cells", self.toggle_cells),
        }
        for text, (tip, call) in tips.items():
            self.row.addWidget(button(text, tip, call))

    def show_nuclei(self) -> None:
        """Show the channel of the nuclei only."""
        nuclei = self._nuclei()
        if nuclei is None:
            self.context.notify("No marker is known as a stain of nuclei by its name.")
            return
        self._show({nuclei: COLORMAPS[0]})

    def show_markers_of_cluster(self) -> None:
        """Show the markers of the selected cluster or the picked cell's, else those raised in the selection."""
        study, rows = self.state.study, self._rows_of_cluster()
        if study is None or rows is None:
            self.context.notify("Select a cluster, for example by its name below the UMAP, or click a cell of it.")
            return
        cluster, nuclei = self._cluster_of(rows), self._nuclei()
        shown = [one for one in self.state.cluster_markers.get(cluster, ()) if one != nuclei]
        about = f"Markers of cluster {cluster}" if shown else f"Raised most in these {len(rows):,} cells"
        shown = (shown or self._raised(study, rows))[: len(COLORMAPS) - 1]
        channels = ([] if nuclei is None else [(nuclei, COLORMAPS[0])]) + list(zip(shown, COLORMAPS[1:], strict=False))
        if self._show(dict(channels)):
            self.context.notify(f"{about}: {', '.join(shown) or 'no marker'}.")

    def show_last(self) -> None:
        """Show the channels that were visible before."""
        if not self.canvas.last_channels:
            self.context.notify("No other channels were visible before.")
            return
        self._show(dict(self.canvas.last_channels))

    def toggle_cells(self) -> None:
        """Show or hide the colours of the cells, under which the channels lie."""
        layer = self.canvas.layer("painted")
        if layer is not None:
            layer.visible = not layer.visible

    def _show(self, channels: dict[str, Any]) -> bool:
        """Show channels, and return whether the image of the slide is open."""
        opened = self.canvas.opened
        if opened is None or opened.slide is None:
            self.context.notify("Channels need the image of the slide, which is not open.")
            return False
        self.context.notify("")
        if set(self.canvas.visible_channels()) != set(channels):
            self.canvas.remember_channels()
            last = self.canvas.last_channels
            self.state.show_marker(None)
            self._loader.show_channels(channels)
            self.canvas.last_channels = last
        return True

    def _nuclei(self) -> str | None:
        return find_nuclear_marker(self.state.study.markers) if self.state.study is not None else None

    def _cluster_of(self, rows: np.ndarray) -> str:
        """Return the cluster that these cells are, all of it; "" if they are not one."""
        study = self.state.study
        if study is None or not study.clustering or not len(rows):
            return ""
        codes = study.clusters.codes[rows]
        name = str(study.clusters.categories[codes[0]])
        return name if (codes == codes[0]).all() and len(rows) == study.cluster_counts.get(name) else ""

    @staticmethod
    def _raised(study: Study, rows: np.ndarray) -> list[str]:
        """Return the markers that are raised most in these cells."""
        names = [one for one in study.markers if one not in study.confounders]
        intensities = np.array([study.marker(one) for one in names]).reshape(len(names), study.n_cells)
        return [names[place] for place in raised_markers(intensities, rows)]

    def _rows_of_cluster(self) -> np.ndarray | None:
        state = self.state
        if state.selection is not None:
            return state.selection
        if state.picked is None or not state.categories or np.isnan(state.values[state.picked]):
            return None
        return np.flatnonzero(state.values == state.values[state.picked])
