"""The correlation heatmap of markers and features, which can be clicked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QFontMetrics

from mxsplicer.pl import QUALITATIVE
from napari_mxsplicer.study import ChunkShares
from napari_mxsplicer.widgets.theme import Theme

_FAINT = 0.25  # opacity of a correlation that is not significant
_ROW_PX, _LEAST_PX, _MOST_PX = 16, 7, 480  # height of a row if there are few, at least, and of all rows
_LABEL_PX, _UPWARDS_PX = 32, 140  # widest label of a column that is not written upwards; height of those that are
_STRIP, _GAP = 0.7, 0.2  # heights, in rows, of a strip above the heatmap and of the gap below it


class Heatmap(pg.PlotWidget):
    """A heatmap of markers (rows) and features (columns)."""

    cell_clicked = Signal(int, int)  # marker, feature
    marker_clicked = Signal(int)
    feature_clicked = Signal(int)
    stepped = Signal(int, int)  # rows and columns to move by, with the arrow keys

    def __init__(self, parent: Any = None) -> None:
        self._left, self._top = _Labels("left"), _Labels("top")
        super().__init__(parent, axisItems={"left": self._left, "top": self._top}, enableMenu=False)
        self._rows: np.ndarray = np.zeros(0, dtype=int)
        self._columns: np.ndarray = np.zeros(0, dtype=int)
        self._r, self._is_faint = np.zeros((0, 0)), np.zeros((0, 0))
        self._image = pg.ImageItem(axisOrder="row-major")
        # The marker that a feature correlates with most and, above it, the marker of its leading chunk.
        self._strips = [pg.ImageItem(axisOrder="row-major") for _ in range(2)]
        self._frame = pg.PlotCurveItem()
        for item in (self._image, *self._strips, self._frame):
            self.addItem(item)
        view = self.getViewBox()
        view.invertY(True)
        view.setMouseEnabled(x=True, y=False)
        view.setDefaultPadding(0)
        self.hideButtons()
        self.showAxis("top")
        self.hideAxis("bottom")
        self.getPlotItem().layout.setContentsMargins(0, 0, 4, 2)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Correlation of markers and features")
        self.scene().sigMouseClicked.connect(self._clicked)
        self.scene().sigMouseMoved.connect(self._moved)
        self._left.clicked.connect(lambda place: self._emit(self.marker_clicked, self._rows, place))
        self._top.clicked.connect(lambda place: self._emit(self.feature_clicked, self._columns, place))
        self.theme = Theme.dark()
        self._markers: Sequence[str] = ()
        self._chunks: ChunkShares | None = None
        self._names: Sequence[str] = ()

    def set_theme(self, theme: Theme) -> None:
        """Use the colours of napari's theme."""
        self.theme = theme
        self.setBackground(theme.background)
        for axis in (self._left, self._top):
            axis.setPen(theme.faint)
            axis.setTextPen(theme.text)
        self._frame.setPen(pg.mkPen(theme.accent, width=2))
        self._draw()

    def show_correlations(
        self,
        r: np.ndarray,
        markers: Sequence[str],
        *,
        rows: np.ndarray,
        columns: np.ndarray,
        not_significant: np.ndarray | None = None,
        chunks: ChunkShares | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """Show correlations (markers, features) in this order, with ``names`` of all features.

        Those that are ``not_significant`` are faint.
        """
        self._chunks = chunks
        moved = len(columns) != len(self._columns)
        self._r, self._markers, self._rows, self._columns = r, markers, rows, columns
        self._is_faint = np.zeros(r.shape, dtype=bool) if not_significant is None else not_significant
        self._left.names = [markers[row] for row in rows]
        self._names = names
        labels = [name.removeprefix("feature ") for name in names]
        self._top.names = [labels[column] for column in columns]
        for axis in (self._left, self._top):
            axis.setTicks(None)  # redraws the labels even if the range stays the same
        top = self._top.fit(self.fontMetrics(), labels)  # of all features: a filter moves nothing below the heatmap
        self.setFixedHeight(22 + top + max(_LEAST_PX, min(_ROW_PX, _MOST_PX // max(1, len(rows)))) * max(1, len(rows)))
        self._left.setWidth(max([self.fontMetrics().horizontalAdvance(name) for name in self._left.names] or [0]) + 12)
        self._draw()
        view = self.getViewBox()
        view.setLimits(xMin=0, xMax=max(1, len(columns)), minXRange=min(8, max(1, len(columns))))
        if moved:
            view.setRange(xRange=(0, max(1, len(columns))), padding=0)
        above = (1 if chunks is None else 2) * (_STRIP + _GAP) + 0.1
        view.setRange(yRange=(-above, max(1, len(rows))), padding=0)

    def frame(self, marker: int | None, feature: int | None) -> None:
        """Draw a frame around a cell, a row or a column of the heatmap."""
        rows = np.flatnonzero(self._rows == (-1 if marker is None else marker))
        columns = np.flatnonzero(self._columns == (-1 if feature is None else feature))
        xs: list[int] = []
        ys: list[int] = []
        if len(columns):
            left, right = columns[0], columns[0] + 1
            xs += [left, right, right, left, left]
            ys += [0, 0, len(self._rows), len(self._rows), 0]
        if len(rows):
            top, bottom = rows[0], rows[0] + 1
            xs += [0, len(self._columns), len(self._columns), 0, 0]
            ys += [top, top, bottom, bottom, top]
        connect = np.ones(len(xs), dtype=np.int32)
        connect[4::5] = 0
        self._frame.setData(np.array(xs, dtype=float), np.array(ys, dtype=float), connect=connect)
        if len(columns):
            self._bring_into_view(float(columns[0]))

    def step(self, marker: int | None, feature: int | None, down: int, right: int) -> tuple[int | None, int | None]:
        """Return the marker and the feature some rows and columns away in the order shown."""
        return _further(self._rows, marker, down), _further(self._columns, feature, right)

    def set_waiting(self, waiting: bool) -> None:
        """Dim the heatmap while correlations are computed."""
        self._image.setOpacity(0.35 if waiting else 1.0)

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        """Step with the arrow keys."""
        steps = {
            Qt.Key.Key_Left: (0, -1),
            Qt.Key.Key_Right: (0, 1),
            Qt.Key.Key_Up: (-1, 0),
            Qt.Key.Key_Down: (1, 0),
        }
        if event.key() in steps:
            self.stepped.emit(*steps[event.key()])
            event.accept()
        else:
            super().keyPressEvent(event)

    def _draw(self) -> None:
        shown = self._r[np.ix_(self._rows, self._columns)]
        if not shown.size:
            for item in (self._image, *self._strips):
                item.clear()
            return
        table = self.theme.diverging()
        places = np.clip((np.nan_to_num(shown) + 1) * 127.5, 0, 255).astype(np.uint8)
        rgba = table[places].copy()
        rgba[..., 3] = np.where(self._is_faint[np.ix_(self._rows, self._columns)], 255 * _FAINT, 255)
        self._image.setImage(rgba, autoLevels=False)
        self._image.setRect(QRectF(0, 0, shown.shape[1], shown.shape[0]))
        # The strongest marker of each feature.
        self._draw_strip(0, self._rows[np.abs(np.nan_to_num(shown)).argmax(axis=0)])
        if self._chunks is None:
            self._strips[1].clear()
        else:
            self._draw_strip(1, self._chunks.marker_numbers(self._markers)[self._columns])

    def _draw_strip(self, place: int, numbers: np.ndarray) -> None:
        colors = np.array([pg.mkColor(QUALITATIVE[number % len(QUALITATIVE)]).getRgb() for number in numbers])
        self._strips[place].setImage(colors[None].astype(np.uint8), autoLevels=False)
        self._strips[place].setRect(QRectF(0, -(place + 1) * (_STRIP + _GAP), len(numbers), _STRIP))

    def _bring_into_view(self, column: float) -> None:
        view = self.getViewBox()
        (left, right), _ = view.viewRange()
        if not left <= column < right:
            half = (right - left) / 2
            view.setRange(xRange=(column - half, column + half), padding=0)

    def _at(self, position: Any) -> tuple[int, int] | None:
        """Return the row and the column shown at a point of the scene; strips have negative rows."""
        view = self.getViewBox()
        if not view.sceneBoundingRect().contains(position):
            return None
        point = view.mapSceneToView(position)
        row, column = point.y() if point.y() > 0 else point.y() / (_STRIP + _GAP), int(np.floor(point.x()))
        return (int(np.floor(row)), column) if row < len(self._rows) and 0 <= column < len(self._columns) else None

    def _clicked(self, event: Any) -> None:
        place = self._at(event.scenePos()) if event.button() == Qt.MouseButton.LeftButton else None
        if place is None:
            return
        if place[0] < 0:
            self.feature_clicked.emit(int(self._columns[place[1]]))
        else:
            self.cell_clicked.emit(int(self._rows[place[0]]), int(self._columns[place[1]]))

    def _moved(self, position: Any) -> None:
        place = self._at(position)
        self.setToolTip("" if place is None else self._describe(*place))

    def _describe(self, row: int, column: int) -> str:
        feature = int(self._columns[column])
        if row < -1 and self._chunks is not None:
            return f"{self._names[feature]}: {self._chunks.describe(feature)} has the largest share"
        strongest = int(self._rows[np.abs(np.nan_to_num(self._r[self._rows, feature])).argmax()])
        marker = strongest if row < 0 else int(self._rows[row])
        most = " (its most correlated marker)" if marker == strongest else ""
        chance = ", not significant" if self._is_faint[marker, feature] else ""
        chunk = "" if self._chunks is None else f"; {self._chunks.describe(feature)}"
        return f"{self._names[feature]}, {self._markers[marker]}: {self._r[marker, feature]:+.2f}{chance}{most}{chunk}"

    def _emit(self, signal: Any, order: np.ndarray, place: int) -> None:
        if 0 <= place < len(order):
            signal.emit(int(order[place]))


class _Labels(pg.AxisItem):
    """Labels of rows or columns of the heatmap, as many as fit, which can be clicked. Long ones are written upwards."""

    clicked = Signal(int)

    def __init__(self, orientation: str) -> None:
        super().__init__(orientation)
        self.names: Sequence[str] = ()
        self.is_upwards = False
        self.setStyle(tickLength=0, autoExpandTextSpace=False, hideOverlappingLabels=False)

    def fit(self, metrics: Any, names: Sequence[str]) -> int:
        """Write column labels upwards if ``names`` are long; set and return the height that they need, in pixels."""
        longest = max([metrics.horizontalAdvance(name) for name in names] or [0])
        self.is_upwards = longest > _LABEL_PX
        height = min(longest + 8, _UPWARDS_PX) if self.is_upwards else 18
        self.setHeight(height)
        return height

    def tickValues(self, lowest: float, highest: float, size: float) -> list[tuple[float, list[float]]]:  # noqa: N802
        """Return the centres of the rows or columns that get a label."""
        lowest, highest = sorted((lowest, highest))
        room = 11 if self.orientation == "left" else 13 if self.is_upwards else _LABEL_PX  # pixels per label
        step = max(1, int(np.ceil(room * (highest - lowest) / max(size, 1))))
        first, last = max(0, int(np.floor(lowest))), min(len(self.names), int(np.ceil(highest)))
        return [(step, [place + 0.5 for place in range(first, last, step)])]

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:  # noqa: N802
        """Return the labels."""
        return [self.names[int(value)] if 0 <= value < len(self.names) else "" for value in values]

    def drawPicture(self, p: Any, axisSpec: Any, tickSpecs: Any, textSpecs: Any) -> None:  # noqa: N802
        """Draw the labels, upwards if they are long, and shortened in the middle if they are longer still."""
        super().drawPicture(p, axisSpec, tickSpecs, [] if self.is_upwards else textSpecs)
        if not self.is_upwards:
            return
        area, (low, high) = self.mapRectFromParent(self.geometry()), self.range
        metrics, flags = QFontMetrics(p.font()), Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        for _, places in self.tickValues(low, high, area.width()):
            for place, name in zip(places, self.tickStrings(places, 1, 1), strict=True):
                p.save()
                p.translate(area.left() + area.width() * (place - low) / (high - low), area.bottom() - 3)
                p.rotate(-90)
                shown = metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, int(area.height()) - 4)
                p.drawText(QRectF(0, -10, area.height(), 20), int(flags), shown)
                p.restore()

    def mouseClickEvent(self, event: Any) -> None:  # noqa: N802
        """Emit the label that was clicked."""
        view = self.linkedView()
        point = view.mapSceneToView(event.scenePos())
        self.clicked.emit(int(np.floor(point.y() if self.orientation == "left" else point.x())))
        event.accept()


def _further(order: np.ndarray, one: int | None, by: int) -> int | None:
    if not len(order) or one is None:
        return one
    place = np.flatnonzero(order == one)
    if not len(place):
        return int(order[0])
    return int(order[np.clip(place[0] + by, 0, len(order) - 1)])
