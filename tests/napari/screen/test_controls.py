"""Controls stay in place, the UMAP comes back, gates, presets of channels, the scale bar and shortcuts."""

import numpy as np
import pytest
from napari_mxsplicer.layers import MARKER, ROLE
from napari_mxsplicer.state import Painted
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QMessageBox, QPushButton


def places(panel):
    """Return where every button and menu of the panel is on the screen."""
    shown = [one for one in panel.findChildren(QPushButton) if one.isVisible()]
    return {one.text(): _xy(one) for one in shown}


def _xy(widget):
    point = widget.mapToGlobal(QPoint(0, 0))
    return point.x(), point.y()


def channels(viewer):
    return {one.metadata[MARKER] for one in viewer.layers if one.metadata.get(ROLE) == "marker" and one.visible}


def open_gate(panel):
    panel.reveal(panel.gating)
    return panel.gating


@pytest.mark.parametrize(
    ("page", "known"),
    [
        ("clusters", {"Nuclei", "?"}),
        ("umap", {"Undo", "Clear selection", "Lasso", "Find similar cells"}),
        ("correlations", {"Local correlation"}),
    ],
)
def test_no_control_moves_while_words_and_messages_change(fresh, hands, page, known):
    _, panel = fresh
    state = panel.state
    panel.reveal(getattr(panel, page))
    hands.qtbot.wait(400)
    before = places(panel)
    assert known <= set(before)
    for change in (
        lambda: state.hover(3),
        lambda: panel.notify("a message that needs two lines or three in a panel as narrow as this one is " * 2),
        lambda: state.select(np.arange(100)),
        lambda: state.paint(Painted("values", "a name that fills more than one line of text " * 2, state.values)),
        lambda: state.paint(Painted("column", "lineage")),
        lambda: panel.correlations.filter.setText("5"),
        lambda: panel.notify(""),
        lambda: state.hover(None),
        panel.channels.click,
        state.undo,
    ):
        change()
        hands.qtbot.wait(300)
        after = places(panel)
        assert not {text: (at, after[text]) for text, at in before.items() if text in after and after[text] != at}
    panel.correlations.filter.clear()


def test_a_fixed_label_shows_what_fits_and_keeps_the_whole_text(fresh):
    from napari_mxsplicer.widgets.base import FixedLabel

    label = FixedLabel(2)
    label.resize(200, 40)
    height = label.height()
    label.setText("words " * 60)
    assert label.height() == height
    assert label.text() == label.toolTip() == "words " * 60
    assert FixedLabel.__mro__[1].text(label).endswith("…")


def turn_wheel(widget, steps):
    middle = QPointF(widget.rect().center())
    for _ in range(abs(steps)):
        event = QWheelEvent(
            middle,
            QPointF(widget.mapToGlobal(middle.toPoint())),
            QPoint(0, 0),
            QPoint(0, 120 if steps > 0 else -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(widget, event)


def test_the_wheel_over_the_umap_never_shrinks_it_and_its_view_is_reset(fresh, hands):
    _, panel = fresh
    panel.reveal(panel.umap)
    hands.pump()
    scatter = panel.umap.scatter
    scatter.show_all()
    hands.pump()
    home = scatter.getViewBox().viewRect()
    turn_wheel(scatter.viewport(), -40)
    hands.pump()
    seen = scatter.getViewBox().viewRect()
    assert seen.width() == pytest.approx(home.width(), rel=0.05)
    turn_wheel(scatter.viewport(), 200)
    hands.pump()
    assert scatter.getViewBox().viewRect().width() > home.width() / 2000
    assert scatter.reset.isVisibleTo(scatter)
    hands.qtbot.mouseClick(scatter.reset, Qt.MouseButton.LeftButton)
    hands.pump()
    seen = scatter.getViewBox().viewRect()
    assert seen.width() == pytest.approx(home.width(), rel=1e-3)
    assert seen.center().x() == pytest.approx(home.center().x(), abs=0.01 * home.width())
    assert not scatter.reset.isVisibleTo(scatter)


def test_colouring_by_clusters_shows_the_nuclei_instead_of_the_last_marker(fresh, hands):
    viewer, panel = fresh
    panel.state.show_marker("CD20")
    assert channels(viewer) == {"CD20"}
    panel.reveal(panel.umap)
    panel.state.paint(Painted("column", "lineage"))
    assert channels(viewer) == {"Hoechst"}
    assert panel.state.marker is None


def test_nothing_outshines_the_selected_cells_of_a_dark_cluster(fresh, hands):
    """The channels between the cells are dimmed like the cells that are not selected."""
    viewer, panel = fresh
    panel.state.paint(Painted("column", "lineage"))
    hands.pump()
    before = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(float).max(axis=2)
    panel.state.select(np.flatnonzero(panel.state.values == 0)[:5])
    hands.pump()
    layer = next(one for one in viewer.layers if one.metadata.get(ROLE) == "selection")
    cover = np.asarray(layer.data[0][:, :] if layer.multiscale else layer.data[:, :])
    painted = next(one for one in viewer.layers if one.metadata.get(ROLE) == "painted")
    colours = np.asarray(painted.data[0][:, :] if painted.multiscale else painted.data[:, :])
    assert (cover[np.isnan(colours)] == 1).all()
    after = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(float).max(axis=2)
    assert np.median(after[before > 60]) < 0.6 * np.median(before[before > 60])
    panel.state.select(None)
    assert np.isnan(np.asarray(layer.data[0][:, :] if layer.multiscale else layer.data[:, :])).all()


def test_a_threshold_in_the_histogram_of_a_marker_selects_cells(fresh, hands):
    _, panel = fresh
    gate, state = open_gate(panel), panel.state
    state.show_marker("CD20")
    hands.pump()
    values = state.study.marker("CD20")
    gate.select_above()
    hands.pump()
    np.testing.assert_array_equal(state.selection, np.flatnonzero(values >= gate.plot.threshold))
    n = len(state.selection)
    assert f"{n:,} of {len(values):,} cells" in gate.note.text()

    plot, view = gate.plot, gate.plot.getViewBox()
    panel.window().raise_()
    at = plot.mapFromScene(view.mapViewToScene(QPointF(plot.line.value(), view.viewRect().center().y())))
    further = (at.x() + 40, at.y())
    hands.drag(plot.viewport(), [(at.x(), at.y()), (at.x() + 10, at.y()), (at.x() + 25, at.y()), further])
    assert len(state.selection) < n
    np.testing.assert_array_equal(state.selection, np.flatnonzero(values >= gate.plot.threshold))

    gate.value.setText("1e12")
    gate.value.returnPressed.emit()
    assert panel.message.text() == "No cell is on this side of the threshold."
    gate.value.setText("many")
    gate.value.returnPressed.emit()
    assert panel.message.text() == "'many' is not a number."


def test_a_gate_within_the_selection_keeps_cells_of_it(fresh, hands):
    _, panel = fresh
    gate, state = open_gate(panel), panel.state
    some = np.arange(0, state.study.n_cells, 2)
    state.select(some)
    state.show_marker("CD3e")
    gate.among.setCurrentText("within the selection")
    gate.select_above()
    above = state.selection
    gate.select_below()
    assert sorted([*above, *state.selection]) == some.tolist()
    gate.among.setCurrentText("among all cells")


def test_presets_show_the_nuclei_the_markers_of_a_cluster_and_the_last_channels(fresh, hands):
    viewer, panel = fresh
    state, presets = panel.state, panel.presets
    state.show_marker("CD8a")
    presets.show_nuclei()
    assert channels(viewer) == {"Hoechst"}
    presets.show_last()
    assert channels(viewer) == {"CD8a"}
    presets.show_last()
    assert channels(viewer) == {"Hoechst"}

    presets.show_markers_of_cluster()
    assert "Select a cluster" in panel.message.text()
    lineage = state.study.column("lineage")
    state.paint(Painted("column", "lineage"))
    state.pick(int(np.flatnonzero(np.asarray(lineage) == "B cell")[0]))
    presets.show_markers_of_cluster()
    assert {"Hoechst", "CD20"} < channels(viewer)
    assert "CD20" in panel.message.text()
    colormaps = {one.metadata[MARKER]: one.colormap.name for one in viewer.layers if one.metadata.get(MARKER)}
    assert len({colormaps[one] for one in channels(viewer)}) == len(channels(viewer))
    presets.toggle_cells()
    assert not panel.canvas.layer("painted").visible
    presets.toggle_cells()


def test_a_scale_bar_is_shown_in_micrometres(fresh, hands):
    viewer, _ = fresh
    bar = viewer.canvas.overlays.scale_bar if hasattr(viewer, "canvas") else viewer.scale_bar
    assert bar.visible
    with_bar = viewer.screenshot(canvas_only=True, flash=False)[-60:, -200:, :3].astype(int)
    bar.visible = False
    hands.pump()
    without = viewer.screenshot(canvas_only=True, flash=False)[-60:, -200:, :3].astype(int)
    bar.visible = True
    assert (np.abs(with_bar - without) > 100).sum() > 100


def test_keys_call_what_they_are_listed_for(fresh, hands):
    viewer, panel = fresh
    state = panel.state
    panel.window().activateWindow()
    hands.wait_until(panel.window().isActiveWindow)
    panel.reveal(panel.umap)
    panel.umap.scatter.setFocus()
    state.select(np.arange(5))
    hands.press(panel.umap.scatter, Qt.Key.Key_X)
    assert state.selection is None
    hands.press(panel.umap.scatter, Qt.Key.Key_U)
    assert state.selection.tolist() == list(range(5))
    hands.press(panel.umap.scatter, Qt.Key.Key_N)
    assert channels(viewer) == {"Hoechst"}

    panel.reveal(panel.correlations)
    panel.correlations.filter.setFocus()
    hands.qtbot.keyClicks(panel.correlations.filter, "lox")
    assert panel.correlations.filter.text() == "lox"
    assert state.selection is not None
    assert not panel.umap.lasso.isChecked()
    panel.correlations.filter.clear()

    panel.reveal(panel.umap)
    panel.umap.scatter.setFocus()
    hands.qtbot.keyClick(panel.umap.scatter, "?")
    hands.pump()
    box = next(one for one in QApplication.topLevelWidgets() if isinstance(one, QMessageBox) and one.isVisible())
    assert all(what in box.text() for what in panel.shortcuts.listed.values())
    box.close()


def test_keys_of_napari_keep_their_meaning_for_layers_from_elsewhere(fresh, hands):
    viewer, panel = fresh
    layer = viewer.add_labels(np.zeros((20, 20), dtype=int), name="mine")
    contexts = {one.context() for one in panel.shortcuts._keys.values()}
    assert contexts == {Qt.ShortcutContext.WidgetWithChildrenShortcut}
    viewer.layers.remove(layer)
    viewer.layers.selection.active = panel.canvas.layer("painted")
    contexts = {one.context() for one in panel.shortcuts._keys.values()}
    assert contexts == {Qt.ShortcutContext.WindowShortcut}
