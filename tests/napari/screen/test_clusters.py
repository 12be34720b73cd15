"""The table of clusters on a screen: what the panel opens with, and naming by mouse and keys."""

from contextlib import suppress

import anndata
import numpy as np
import pytest
from napari_mxsplicer.layers import ROLE
from napari_mxsplicer.names import Names
from napari_mxsplicer.opening import open_in
from napari_mxsplicer.state import Painted
from napari_mxsplicer.study import open_study
from napari_mxsplicer.widgets.cluster_model import COUNT, EXAMPLES, IMAGES, NAME, VERDICT
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QLineEdit


@pytest.fixture
def opened(own_clustered, qapp, hands):
    """Return a visible viewer and its panel, showing clusters whose names can be saved."""
    import napari

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    panel = open_in(viewer, own_clustered, at_once=False)
    hands.wait_until(lambda: panel.state.names is not None and panel.clusters.model.rowCount() == 18)
    panel.window().activateWindow()  # keys of shortcuts go to the active window
    hands.wait_until(panel.isActiveWindow)
    yield viewer, panel
    with suppress(RuntimeError):  # closed by the test
        panel.disconnect_all()
    viewer.close()


def click_row(panel, hands, row, column=NAME):
    """Click a field of the table."""
    table = panel.clusters.table
    index = panel.clusters.model.index(row, column)
    table.scrollTo(index)
    place = table.visualRect(index).center()
    hands.click(table.viewport(), place.x(), place.y())


def editor_of(panel):
    """Return the line in which a name is typed, or None."""
    lines = panel.clusters.table.viewport().findChildren(QLineEdit)
    return next((one for one in lines if one.isVisible()), None)


def test_the_panel_opens_with_clusters_on_the_canvas_and_in_the_table(opened, hands):
    viewer, panel = opened
    model = panel.clusters.model
    assert panel.clusters.isVisible()
    assert panel.state.painted == Painted("column", "leiden")
    assert panel.summary.text().startswith("leiden, ")
    hands.wait_until(lambda: all(model.index(row, EXAMPLES).data(IMAGES) for row in range(18)))
    table = anndata.read_h5ad(panel.state.study.cells).uns["mxsplicer_clusters"]
    for row, (_, of_table) in enumerate(table.iterrows()):
        assert model.index(row, COUNT).data() == f"{of_table['count']:,}"
        assert model.index(row, VERDICT).data() == of_table["verdict"]
        assert model.index(row, NAME).data() == ""
    visible = [layer for layer in viewer.layers if layer.metadata.get(ROLE) == "marker" and layer.visible]
    assert [layer.name for layer in visible] == ["Hoechst"]


def test_eighteen_clusters_are_named_in_at_most_forty_actions(opened, hands):
    """An action is a click, a name that is typed, or another key."""
    _, panel = opened
    actions = 1
    click_row(panel, hands, 0)
    for row in range(18):
        hands.qtbot.keyClicks(editor_of(panel), f"kind {row}")
        hands.press(editor_of(panel), Qt.Key.Key_Return)
        actions += 2
    assert actions <= 40
    expected = {str(row): f"kind {row}" for row in range(18)}
    assert panel.state.names.of_clusters == expected
    assert Names(open_study(panel.state.study.folder)).of_clusters == expected
    assert [panel.clusters.model.index(row, NAME).data() for row in range(18)] == list(expected.values())


def test_ctrl_z_takes_back_names_one_by_one_while_the_next_is_typed(opened, hands):
    _, panel = opened
    names = panel.state.names
    click_row(panel, hands, 2)
    for name in ("B cell", "T cell"):
        hands.qtbot.keyClicks(editor_of(panel), name)
        hands.press(editor_of(panel), Qt.Key.Key_Return)
    hands.qtbot.keyClick(editor_of(panel), Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    hands.pump()
    assert names.of_clusters == {"2": "B cell"}
    assert panel.clusters.current.name == "3"
    hands.qtbot.keyClick(panel.clusters.table, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert names.of_clusters == {}
    shift = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    hands.qtbot.keyClick(panel.clusters.table, Qt.Key.Key_Z, shift)
    assert names.of_clusters == {"2": "B cell"}
    hands.qtbot.keyClick(panel.clusters.table, "l")  # begins a name, whatever the key is a shortcut for
    assert editor_of(panel).text() == "l"


def test_a_row_selects_its_cells_and_escape_clears_the_selection(opened, hands):
    _, panel = opened
    study, clusters = panel.state.study, panel.clusters
    click_row(panel, hands, 4, VERDICT)
    np.testing.assert_array_equal(panel.state.selection, np.flatnonzero(np.asarray(study.clusters) == "4"))
    assert editor_of(panel) is None
    hands.wait_until(lambda: clusters.strip.strip is not None)
    rows = clusters.strip.strip.rows
    assert (study.clusters.codes[rows[rows >= 0]] == 4).all()
    assert clusters.model.clusters[4].reason in clusters.reason.text()
    hands.click(clusters.strip, 10, 30)
    assert panel.state.picked == rows[0, 0]
    hands.press(clusters.table, Qt.Key.Key_Escape)
    assert panel.state.selection is None


def test_a_row_selects_its_cells_again_after_the_selection_was_changed_elsewhere(opened, hands):
    _, panel = opened
    click_row(panel, hands, 4, VERDICT)
    panel.state.select(None)
    click_row(panel, hands, 4, VERDICT)
    assert len(panel.state.selection) == panel.state.study.cluster_counts["4"]


def test_the_current_row_can_be_seen_on_the_background_of_the_table(opened, hands):
    _, panel = opened
    click_row(panel, hands, 4, VERDICT)
    table = panel.clusters.table
    picture = table.viewport().grab().toImage()
    places = [table.visualRect(panel.clusters.model.index(row, VERDICT)).bottomRight() for row in (4, 6)]
    current, other = (picture.pixelColor(place.x() - 4, place.y() - 4).name() for place in places)
    assert current != other


def test_the_preset_of_a_cluster_shows_the_markers_of_its_example_cells(opened, hands):
    viewer, panel = opened
    click_row(panel, hands, 4, VERDICT)
    hands.wait_until(lambda: panel.clusters.strip.strip is not None)
    panel.presets.show_markers_of_cluster()
    channels = {layer.name for layer in viewer.layers if layer.metadata.get(ROLE) == "marker" and layer.visible}
    assert set(panel.clusters.strip.strip.markers) <= channels
    assert panel.message.text().startswith("Markers of cluster 4: ")


def test_the_queue_dims_no_cell_of_other_clusters(opened, hands):
    _, panel = opened
    click_row(panel, hands, 4, VERDICT)
    panel.reveal(panel.queue)
    assert panel.state.selection is None


def test_nothing_below_the_table_moves_when_a_row_is_chosen(opened, hands):
    _, panel = opened
    parts = (panel.clusters.table, panel.clusters.strip, panel.clusters.write)
    before = [part.geometry() for part in parts]
    click_row(panel, hands, 1, COUNT)
    hands.wait_until(lambda: panel.clusters.strip.strip is not None)
    assert [part.geometry() for part in parts] == before


@pytest.mark.parametrize("how", ["another row", "closing the panel", "writing"])
def test_a_name_that_is_being_typed_is_not_lost(opened, hands, how):
    viewer, panel = opened
    study = panel.state.study
    click_row(panel, hands, 2)
    hands.qtbot.keyClicks(editor_of(panel), "half a na")
    if how == "another row":
        click_row(panel, hands, 4, COUNT)
    elif how == "writing":
        hands.click(panel.clusters.write, 10, 10)
        hands.wait_until(lambda: "cell_type" in study.obs_names)
    else:
        viewer.window.remove_dock_widget(panel)
    assert Names(open_study(study.folder)).of_clusters == {"2": "half a na"}


def test_names_are_written_into_the_table_and_listed_first(opened, hands):
    _, panel = opened
    state = panel.state
    state.names.name_cluster("7", "B cell")
    entries = [panel.paint.itemText(place) for place in range(panel.paint.count())]
    assert entries[1:4] == ["Clusters and names", "leiden", "names"]
    assert entries.index("CD20") < entries.index("Other columns") < entries.index("feature 0")
    panel.paint.setCurrentIndex(3)
    panel.paint.activated.emit(3)
    assert state.categories == ("B cell",)
    assert panel.paint.currentText() == "names"
    state.names.name_cluster("8", "T cell")
    assert state.categories == ("B cell", "T cell")  # at once
    hands.click(panel.clusters.write, 10, 10)
    hands.wait_until(lambda: "Wrote cell_type" in panel.message.text())
    written = anndata.read_h5ad(state.study.cells).obs["cell_type"]
    assert written.value_counts().to_dict() == {
        "B cell": state.study.cluster_counts["7"],
        "T cell": state.study.cluster_counts["8"],
    }


def test_the_list_of_colours_opens_at_its_beginning(opened, hands):
    _, panel = opened
    panel.state.paint(Painted("feature", "40"))
    panel.paint.showPopup()
    hands.pump()
    view = panel.paint.view()
    assert view.indexAt(view.viewport().rect().topLeft()).row() <= 1
    panel.paint.hidePopup()
    QApplication.processEvents()
