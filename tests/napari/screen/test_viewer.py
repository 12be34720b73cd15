"""The plugin in napari: opening, samples, docks, several viewers, closing."""

import re

import anndata
import numpy as np
import pytest
from napari_mxsplicer.canvas import camera_of
from napari_mxsplicer.layers import MARKER, ROLE, SLIDE
from napari_mxsplicer.opening import open_in
from napari_mxsplicer.state import Painted
from napari_mxsplicer.widgets.cluster_model import EXAMPLES
from npe2 import PluginManifest
from qtpy.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QAbstractButton, QApplication, QComboBox, QLabel, QRadioButton, QWidget

PANEL = "Explore and name cells"


@pytest.fixture
def viewer(qapp, tmp_path):  # closed before the folder of the test is removed
    """Return a viewer without a window."""
    import napari

    made = napari.Viewer(show=False)
    yield made
    made.close()


@pytest.fixture
def shown_viewer(qapp, tmp_path):
    """Return a viewer in a window."""
    import napari

    made = napari.Viewer(show=True)
    qapp.processEvents()
    yield made
    made.close()


def panel_of(viewer):
    """Return the panel docked in a viewer."""
    return viewer.window.add_plugin_dock_widget("mxsplicer", PANEL)[1]


def test_every_name_in_the_manifest_can_be_imported():
    manifest = PluginManifest.from_distribution("mxsplicer")
    manifest.validate_imports()
    assert manifest.name == "mxsplicer"
    assert not any("zarr" in pattern for one in manifest.contributions.readers for pattern in one.filename_patterns)


def test_a_result_opens_by_its_index_without_a_dialog(viewer, sample):
    layers = viewer.open(str(sample / "mxsplicer.json"), plugin=None)
    assert layers[-1].name == "mxsplicer coloured cells"
    assert panel_of(viewer).state.study.folder == sample


@pytest.mark.parametrize(("dropped", "n_dialogs"), [("mxsplicer.json", 0), ("", 1)])
def test_a_result_dropped_on_the_canvas_opens(shown_viewer, sample, dropped, n_dialogs):
    """For a folder, napari asks which reader to use."""
    urls = QMimeData()
    urls.setUrls([QUrl.fromLocalFile(str(sample / dropped))])
    target = next(one for one in QApplication.allWidgets() if type(one).__name__ == "QtViewer" and one.isVisible())
    place, copy, left = target.rect().center(), Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
    none = Qt.KeyboardModifier.NoModifier
    entered = QDragEnterEvent(place, copy, urls, left, none)
    QApplication.sendEvent(target, entered)
    assert entered.isAccepted()
    asked = []

    def answer():
        dialog = QApplication.activeModalWidget()
        if dialog is not None:
            asked.append(dialog)
            ours = [one for one in dialog.findChildren(QRadioButton) if one.text() == "mxsplicer"]
            ours[0].setChecked(True)
            dialog.accept()

    timer = QTimer()
    timer.timeout.connect(answer)
    timer.start(200)
    QApplication.sendEvent(target, QDropEvent(QPointF(place), copy, urls, left, none))
    timer.stop()
    assert len(asked) == n_dialogs
    assert "mxsplicer coloured cells" in shown_viewer.layers
    assert {"DAPI", "CD8a"} & {layer.name for layer in shown_viewer.layers}


def test_a_sample_opens_and_the_panel_finds_it(viewer):
    panel = panel_of(viewer)
    assert "Open a result" in panel.summary.text()
    viewer.open_sample("mxsplicer", "simulated")
    assert panel.state.painted is not None
    assert "cells" in panel.summary.text()


def test_layers_from_elsewhere_are_not_changed(viewer, sample):
    mine = viewer.add_image(np.zeros((20, 20)), name="mine")
    panel = open_in(viewer, sample)
    panel.state.show_marker("CD20")
    panel.state.select(np.arange(10))
    assert mine.visible
    assert mine.name == "mine"
    assert "mine" in viewer.layers


def test_removing_its_layers_empties_the_panel(viewer, sample):
    panel = open_in(viewer, sample, at_once=False)
    viewer.layers.clear()
    assert panel.state.study is None
    assert "Open a result" in panel.summary.text()


def test_two_viewers_are_independent(viewer, sample, qapp):
    import napari

    first, other = open_in(viewer, sample, at_once=False), napari.Viewer(show=False)
    second = open_in(other, sample, at_once=False)
    first.state.select(np.arange(5))
    assert second.state.selection is None
    covers = [layer for layer in other.layers if layer.metadata.get(ROLE) == "selection"]
    assert all(np.isnan(np.asarray(one.data[0] if one.multiscale else one.data)).all() for one in covers)
    other.close()
    assert first.state.study is not None


def test_another_slide_is_opened_with_the_visible_channels_and_adds_others_on_demand(viewer, two_slides, hands):
    panel = open_in(viewer, two_slides)
    state, names = panel.state, panel.state.study.slide_names
    state.show_marker("CD20")
    panel.slides.setCurrentText(names[1])
    panel.slides.activated.emit(1)
    hands.wait_until(lambda: state.slide == names[1])

    def channels():
        return [one for one in viewer.layers if one.metadata.get(ROLE) == "marker" and one.metadata[SLIDE] == names[1]]

    assert [(one.metadata[MARKER], one.visible) for one in channels()] == [("CD20", True)]
    state.show_marker("CD8a")
    assert [(one.metadata[MARKER], one.visible) for one in channels()] == [("CD20", False), ("CD8a", True)]
    order = [one.metadata.get(ROLE) for one in viewer.layers if one.metadata.get(SLIDE) == names[1]]
    assert order.index("painted") > max(place for place, role in enumerate(order) if role == "marker")


def test_features_with_names_are_listed_in_groups_and_labelled_upwards(shown_viewer, named, hands):
    panel = open_in(shown_viewer, named, at_once=False)
    names, first = panel.state.study.feature_names, panel.state.study.markers[0]
    headings = [
        panel.paint.itemText(place)
        for place in range(panel.paint.count())
        if not panel.paint.model().item(place).isEnabled()
    ]

    levels = headings.index("Levels of markers")
    assert headings[levels + 1] == f"Patterns of {first}"
    panel.state.show_marker(first)
    panel.state.paint(Painted("feature", str(names.index(f"{first} rim"))))
    hands.pump()
    assert panel.paint.currentText() == f"{first} rim"
    assert panel.summary.text().startswith(f"{first} rim, r = ")
    panel.reveal(panel.correlations)
    hands.pump()
    labels = panel.correlations.heatmap.getAxis("top")
    assert labels.is_upwards
    assert set(labels.names) == set(names)
    assert labels.height() == pytest.approx(labels.fit(panel.fontMetrics(), names), abs=1)
    panel.state.paint(Painted("marker", first))
    bars = panel.partners.bars
    hands.wait_until(lambda: any(one.feature is not None for one in bars.partners))
    best = bars.partners[0]
    assert best.name == names[best.feature]
    hands.click(bars, 10, 8)
    assert panel.state.painted == Painted("feature", str(best.feature))
    assert panel.paint.currentText() == best.name


def test_hidden_channels_are_added_one_by_one_or_all_by_a_button(viewer, sample, hands):
    """The layers that the user selected stay selected."""
    panel = open_in(viewer, sample, at_once=False)
    markers = panel.state.study.markers

    def channels():
        return {one.metadata[MARKER]: one.visible for one in viewer.layers if one.metadata.get(ROLE) == "marker"}

    assert channels() == {"Hoechst": True}
    hands.wait_until(lambda: panel.canvas.layer("cells") is not None)
    viewer.layers.selection.clear()
    viewer.layers.selection.update(viewer.layers[:2])
    before = set(viewer.layers.selection)
    hidden = next(marker for marker in markers if marker not in channels())

    panel.state.show_marker(hidden)
    assert channels() == dict.fromkeys(channels(), False) | {hidden: True}
    assert set(viewer.layers.selection) == before

    panel.channels.click()
    hands.wait_until(lambda: set(channels()) == set(markers))
    assert not panel.channels.isEnabled()
    assert set(viewer.layers.selection) == before
    roles = [one.metadata.get(ROLE) for one in viewer.layers]
    assert roles.index("cells") > max(place for place, role in enumerate(roles) if role == "marker")


def test_a_closed_panel_is_disconnected(viewer, sample):
    moves, drags = len(viewer.mouse_move_callbacks), len(viewer.mouse_drag_callbacks)
    theme, inserted = len(viewer.events.theme.callbacks), len(viewer.layers.events.inserted.callbacks)
    camera, active = (len(one.callbacks) for one in (camera_of(viewer).events, viewer.layers.selection.events.active))
    panel = open_in(viewer, sample, at_once=False)
    state = panel.state
    viewer.window.remove_dock_widget(panel)
    assert len(viewer.mouse_move_callbacks) == moves
    assert len(viewer.mouse_drag_callbacks) == drags
    assert len(viewer.events.theme.callbacks) == theme
    assert len(viewer.layers.events.inserted.callbacks) == inserted
    assert len(camera_of(viewer).events.callbacks) == camera
    assert len(viewer.layers.selection.events.active.callbacks) == active
    assert not any(len(getattr(state, name)) for name in state._SIGNALS)


def test_a_closed_panel_runs_no_delayed_calls(viewer, sample, qtbot):
    panel = open_in(viewer, sample)
    viewer.window.remove_dock_widget(panel)
    viewer.layers.clear()
    qtbot.wait(500)  # longer than any delay; pytest-qt fails the test for an error in a callback
    assert not viewer.layers


def test_a_table_is_joined_with_a_labels_layer_by_id(viewer, sample, tmp_path, hands):
    """The table is shuffled, and the ids of the cells are far apart."""
    adata = anndata.read_h5ad(sample / "cells.h5ad")
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    far = 1_000_003 + 977 * np.arange(int(adata.obs["cell_id"].max()) + 1, dtype=np.int64)
    from mxsplicer import open_mask

    labels = np.asarray(open_mask(sample.parent / "sample_mask.ome.tiff")[:, :]).astype(np.int64)
    labels = np.where(labels > 0, far[labels], 0)
    adata.obs["cell_id"] = far[adata.obs["cell_id"]]
    adata.write_h5ad(tmp_path / "shuffled.h5ad")
    viewer.add_labels(labels, name="cells", scale=(0.5, 0.5))
    panel = panel_of(viewer)
    panel.opening.labels.setCurrentText("cells")
    panel.opening.join_table(str(tmp_path / "shuffled.h5ad"))
    hands.wait_until(lambda: panel.state.painted is not None)
    assert panel.clusters.table.isColumnHidden(EXAMPLES)  # no image is open to cut them from

    panel.state.paint(Painted("feature", "3"))
    layer = next(layer for layer in viewer.layers if layer.metadata.get(ROLE) == "painted")
    feature = panel.state.painted.feature
    painted = np.asarray(layer.data)
    for row in (0, 100, adata.n_obs - 1):
        at = labels == adata.obs["cell_id"].iloc[row]
        np.testing.assert_array_equal(np.unique(painted[at]), adata.obsm["X_splicer"][row, feature])


def test_labels_of_another_slide_are_refused(viewer, sample, hands):
    viewer.add_labels(np.full((30, 30), 999_999_999), name="strange")
    panel = panel_of(viewer)
    panel.opening.join_table(str(sample / "cells.h5ad"))
    hands.wait_until(lambda: not panel.opening.work.is_busy)
    assert "occurs in the labels layer 'strange'" in panel.message.text()
    assert panel.state.study is None


def test_view_opens_the_viewer_with_the_panel(sample, monkeypatch, qapp):
    import napari
    from typer.testing import CliRunner

    from mxsplicer.cli import app

    seen = []
    monkeypatch.setattr(napari, "run", lambda: seen.append(napari.current_viewer()))
    result = CliRunner().invoke(app, ["view", str(sample)])
    assert result.exit_code == 0, result.output
    assert "mxsplicer coloured cells" in seen[0].layers
    assert PANEL in " ".join(seen[0].window.dock_widgets)
    seen[0].close()


def test_view_shows_the_slide_that_is_named(two_slides, monkeypatch, qapp):
    import napari
    from typer.testing import CliRunner

    from mxsplicer import InputError
    from mxsplicer.cli import app

    seen = []
    monkeypatch.setattr(napari, "run", lambda: seen.append(napari.current_viewer()))
    result = CliRunner().invoke(app, ["view", str(two_slides), "--slide", "second"])
    assert result.exit_code == 0, result.output
    assert {layer.metadata[SLIDE] for layer in seen[0].layers if SLIDE in layer.metadata} == {"second"}
    seen[0].close()
    error = CliRunner().invoke(app, ["view", str(two_slides), "--slide", "third"]).exception
    assert isinstance(error, InputError)
    assert "has no slide 'third'; it has " in str(error)


def test_the_panel_calls_things_by_the_words_of_the_field(viewer, sample, hands):
    panel = open_in(viewer, sample, at_once=False)
    buttons = {one.text() for one in panel.findChildren(QAbstractButton)}
    assert {"Clear selection", "Show confidence", "Local correlation", "Most correlated", "Export"} <= buttons
    named = {one.accessibleName() for one in panel.findChildren(QWidget)}
    shown = buttons | named | {one.text() for one in panel.findChildren(QLabel)}
    shown |= {box.itemText(place) for box in panel.findChildren(QComboBox) for place in range(box.count())}
    dialect = re.compile(r"^none$|where\?|\bpaint|\bmend\b", re.IGNORECASE)
    assert not [text for text in shown if dialect.search(text)]
