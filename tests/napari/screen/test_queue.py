"""The queue of cells to name next on a screen, by real keys."""

import json

import numpy as np
import pytest
from napari_mxsplicer.names import Names
from napari_mxsplicer.opening import open_in
from napari_mxsplicer.study import open_study
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog


@pytest.fixture
def opened(own_clustered, qapp, hands):
    """Return the panel of a visible viewer, with two clusters named and the queue open."""
    import napari

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    panel = open_in(viewer, own_clustered, at_once=False)
    hands.wait_until(lambda: panel.state.names is not None)
    panel.state.names.name_cluster("0", "Tumour")
    panel.state.names.name_cluster("1", "T cell")
    panel.reveal(panel.queue)
    hands.wait_until(lambda: panel.queue.images.view is not None)
    panel.window().activateWindow()
    hands.wait_until(panel.isActiveWindow)
    yield panel
    panel.disconnect_all()
    viewer.close()


def settled(panel, hands):
    """Wait until the queue is refreshed, and return the cell to name."""
    hands.wait_until(lambda: not panel.queue.proposing.is_busy)
    rows = [one.row for one in panel.queue.proposals]
    assert len(set(rows)) == len(rows)  # no cell is to be named twice
    return panel.queue.current.row


def test_keys_name_the_cells_that_are_proposed(opened, hands, monkeypatch, tmp_path):
    panel, queue, state = opened, opened.queue, opened.state
    assert [one.text() for one in queue.class_buttons] == ["1  Tumour", "2  T cell"]
    fixed = [one.pos() for one in (queue.images, queue.new_name, *queue.buttons, queue.class_buttons[0])]
    assert state.picked == queue.current.row
    expected = {}
    for key, name in ((Qt.Key.Key_2, "T cell"), (Qt.Key.Key_1, "Tumour"), (Qt.Key.Key_O, "other")):
        expected[settled(panel, hands)] = name
        hands.press(queue, key)
    skipped = settled(panel, hands)
    canvas = hands.canvas(panel.viewer)
    canvas.setFocus()
    hands.press(canvas, Qt.Key.Key_S)  # while the image has the focus, too
    expected[settled(panel, hands)] = "Macrophage"
    hands.qtbot.keyClicks(queue.new_name, "Macrophage")
    hands.press(queue.new_name, Qt.Key.Key_Return)
    of_cells = state.names.cells.columns["cell_type"]
    assert {int(row): of_cells[row] for row in np.flatnonzero(of_cells.codes >= 0)} == expected
    assert skipped not in {settled(panel, hands), *(one.row for one in queue.answered.proposals)}
    assert "3  Macrophage" in [one.text() for one in queue.class_buttons]
    hands.pump()
    now = [one.pos() for one in (queue.images, queue.new_name, *queue.buttons, queue.class_buttons[0])]
    assert now == fixed
    hands.wait_until(lambda: state.names.cells.is_saved and state.names.cells.path.is_file())
    again = Names(open_study(state.study.folder)).cells.columns["cell_type"]
    assert (again == "Macrophage").sum() == 1

    last = next(row for row, name in expected.items() if name == "Macrophage")
    hands.qtbot.keyClick(queue, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    hands.pump()
    assert queue.current.row == last
    assert "Macrophage" not in state.names.classes

    queue.predict()
    hands.wait_until(lambda: queue.predictions is not None)
    assert state.categories[-1] == "unknown"
    assert "% of the cells are unknown" in queue.note.text()
    assert "does not count cells of classes that have no name" in queue.note.text()
    file = tmp_path / "classifier.json"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(file), ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(file), ""))
    queue.ask_save()
    assert json.loads(file.read_text())["format"] == "mxsplicer classifier"
    before, queue.predictions = queue.predictions, None
    queue.ask_load()
    hands.wait_until(lambda: queue.predictions is not None)
    assert (before.codes == queue.predictions.codes).mean() > 0.99
    queue.write()
    hands.wait_until(lambda: "Wrote" in panel.message.text())
    assert {"cell_type", "predicted", "predicted_confidence"} <= set(open_study(state.study.folder).obs_names)
