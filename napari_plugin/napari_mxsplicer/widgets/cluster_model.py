"""The rows of the table of clusters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtGui import QImage

from napari_mxsplicer.clusters import Cluster
from napari_mxsplicer.widgets.strip import to_qimage

COLOUR, NAME, COUNT, VERDICT, EXAMPLES = range(5)
_HEADERS = ("", "Name", "Cells", "Verdict", "Example cells")
CLUSTER, IMAGES, SHARE = (Qt.ItemDataRole.UserRole + place for place in range(3))


class ClusterModel(QAbstractTableModel):
    """One row per cluster; only names can be edited."""

    def __init__(self) -> None:
        super().__init__()
        self.clusters: Sequence[Cluster] = ()
        self.row_of: dict[str, int] = {}
        self.name: Callable[[str, str], None] | None = None  # called with each new name; None: names are not known yet
        self._names: Mapping[str, str] = {}
        self._images: dict[str, list[QImage]] = {}

    def show_clusters(self, clusters: Sequence[Cluster]) -> None:
        """Show other clusters, or the same ones with their verdicts."""
        if [one.name for one in clusters] != [one.name for one in self.clusters]:
            self.beginResetModel()
            self.clusters, self._images = clusters, {}
            self.row_of = {one.name: row for row, one in enumerate(clusters)}
            self.endResetModel()
        else:
            self.clusters = clusters
            self._changed(NAME, EXAMPLES)

    def show_names(self, names: Mapping[str, str]) -> None:
        """Show the names of the clusters."""
        self._names = names
        self._changed(NAME, NAME)

    def show_images(self, cluster: str, images: np.ndarray) -> None:
        """Show the example cells (n, P, P, 3) of a cluster."""
        self._images[cluster] = [to_qimage(one) for one in images]
        if cluster in self.row_of:
            index = self.index(self.row_of[cluster], EXAMPLES)
            self.dataChanged.emit(index, index)

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        """Return the number of clusters."""
        return len(self.clusters)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        """Return the number of columns."""
        return len(_HEADERS)

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802
        """Return the title of a column."""
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return _HEADERS[section]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        return None

    def flags(self, index: QModelIndex) -> Any:
        """Return that rows can be selected, and names edited."""
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == NAME and self.name else flags

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a field shows."""
        one = self.clusters[index.row()]
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole):
            return {NAME: self._names.get(one.name, ""), COUNT: f"{one.count:,}", VERDICT: one.verdict}.get(
                index.column()
            )
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"Cluster {one.name}: {one.suggested}" if index.column() in (COLOUR, NAME) else one.reason
        if role == CLUSTER:
            return one
        if role == IMAGES:
            return self._images.get(one.name)
        if role == SHARE:
            return one.count / max(sum(other.count for other in self.clusters), 1)
        return None

    def setData(self, index: QModelIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:  # noqa: N802
        """Name a cluster."""
        if role != Qt.ItemDataRole.EditRole or index.column() != NAME or self.name is None:
            return False
        self.name(self.clusters[index.row()].name, str(value))
        return True

    def _changed(self, first: int, last: int) -> None:
        if self.clusters:
            self.dataChanged.emit(self.index(0, first), self.index(len(self.clusters) - 1, last))
