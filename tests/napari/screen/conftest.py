"""A viewer with the panel, opened once for all tests of one result, and a simulated mouse and keyboard."""

import os
import time
from collections.abc import Callable

import pytest
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QWidget


@pytest.fixture(scope="session", autouse=True)
def _own_settings(tmp_path_factory):
    os.environ.setdefault("NAPARI_CONFIG", str(tmp_path_factory.mktemp("napari") / "settings.yaml"))


@pytest.fixture(scope="module")
def shown(sample, qapp):
    """Return a visible viewer and its panel, showing the sample."""
    import napari
    from napari_mxsplicer.opening import open_in

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    panel = open_in(viewer, sample)
    pump()
    yield viewer, panel
    panel.disconnect_all()
    viewer.close()


@pytest.fixture
def fresh(shown):
    """Return the same with nothing selected."""
    from napari_mxsplicer.state import Painted

    viewer, panel = shown
    panel.reveal(panel.clusters)
    panel.correlations.filter.clear()
    panel.state.select(None)
    panel.state.pick(None)
    panel.state.hover(None)
    panel.state.paint(Painted("feature", "0"))
    viewer.reset_view()
    wait_until(lambda: not panel.correlations.work.is_busy)
    return viewer, panel


class Hands:
    """A simulated mouse and keyboard."""

    def __init__(self, qtbot) -> None:
        self.qtbot = qtbot

    pump = staticmethod(lambda times=5: pump(times))
    wait_until = staticmethod(lambda true, seconds=60: wait_until(true, seconds=seconds))

    def click(self, widget: QWidget, x: float, y: float) -> None:
        """Move to a point and click it."""
        point = QPoint(round(x), round(y))
        self.qtbot.mouseMove(widget, point)
        self.qtbot.mouseClick(widget, Qt.MouseButton.LeftButton, pos=point)
        pump()

    def press(self, widget: QWidget, key: Qt.Key) -> None:
        """Press a key."""
        self.qtbot.keyClick(widget, key)
        pump()

    def move(self, widget: QWidget, x: float, y: float) -> None:
        """Move the mouse."""
        _send_move(widget, QPoint(round(x), round(y)), Qt.MouseButton.NoButton)
        pump()

    def drag(self, widget: QWidget, points: list[tuple[float, float]]) -> None:
        """Press the left button at the first point, move along the others, and release it at the last."""
        places = [QPoint(round(x), round(y)) for x, y in points]
        self.qtbot.mousePress(widget, Qt.MouseButton.LeftButton, pos=places[0])
        for place in places[1:]:
            _send_move(widget, place, Qt.MouseButton.LeftButton)
            pump()  # Qt and vispy drop all but the last of several moves
        self.qtbot.mouseRelease(widget, Qt.MouseButton.LeftButton, pos=places[-1])
        pump()

    @staticmethod
    def canvas(viewer) -> QWidget:
        """Return the widget that napari draws into."""
        found = [
            one
            for one in QApplication.allWidgets()
            if type(one).__name__.startswith("CanvasBackend") and one.window().windowTitle() == viewer.title
        ]
        return found[-1]


@pytest.fixture
def hands(qtbot) -> Hands:
    """Return a mouse and a keyboard."""
    return Hands(qtbot)


def pump(times: int = 5) -> None:
    """Let Qt process events."""
    for _ in range(times):
        QApplication.processEvents()


def wait_until(true: Callable[[], bool], *, seconds: float = 60) -> None:
    """Let Qt process events until a condition is true."""
    end = time.monotonic() + seconds
    while not true():
        QApplication.processEvents()
        time.sleep(0.005)
        assert time.monotonic() < end, "the condition did not become true"


def _send_move(widget: QWidget, place: QPoint, pressed: Qt.MouseButton) -> None:
    # QTest's move event has no pressed button.
    event = QMouseEvent(
        QEvent.Type.MouseMove,
        QPointF(place),
        QPointF(widget.mapToGlobal(place)),
        Qt.MouseButton.NoButton,
        pressed,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(widget, event)
