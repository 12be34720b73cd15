"""Links between the parts of the panel, by mouse and keys, in a viewer on a screen."""

import numpy as np
import pytest
from napari_mxsplicer.canvas import camera_of
from napari_mxsplicer.layers import PAINT, ROLE
from napari_mxsplicer.state import Painted
from napari_mxsplicer.study import ChunkShares
from qtpy.QtCore import QPointF, Qt
from qtpy.QtWidgets import QApplication, QFileDialog, QScrollArea


def show(panel, part):
    """Show the tab of a part of the panel."""
    panel.reveal(part)
    for _ in range(5):
        QApplication.processEvents()


def on_heatmap(panel, row, column):
    """Return the widget and the pixel of a row and a column of the heatmap."""
    heatmap = panel.correlations.heatmap
    show(panel, panel.correlations)
    point = heatmap.mapFromScene(heatmap.getViewBox().mapViewToScene(QPointF(column + 0.5, row + 0.5)))
    return heatmap.viewport(), point.x(), point.y()


def on_umap(panel, x, y):
    """Return the pixel of a point of the UMAP on its widget."""
    scatter = panel.umap.scatter
    show(panel, panel.umap)
    point = scatter.mapFromScene(scatter.getViewBox().mapViewToScene(QPointF(x, y)))
    return point.x(), point.y()


def on_canvas(viewer, canvas, y_um, x_um):
    """Return the pixel of a world position on the canvas."""
    (centre_y, centre_x), zoom = camera_of(viewer).center[-2:], camera_of(viewer).zoom
    return canvas.width() / 2 + (x_um - centre_x) * zoom, canvas.height() / 2 + (y_um - centre_y) * zoom


def visible(viewer, role):
    return [layer for layer in viewer.layers if layer.metadata.get(ROLE) == role and layer.visible]


def picture(viewer):
    return viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(float)


def test_a_click_in_the_heatmap_paints_the_feature_and_shows_only_the_marker(fresh, hands):
    viewer, panel = fresh
    before = picture(viewer)
    place, heatmap = on_heatmap(panel, 3, 7), panel.correlations.heatmap
    marker, feature = heatmap._rows[3], heatmap._columns[7]

    hands.click(*place)

    assert panel.state.painted == Painted("feature", str(feature))
    assert [layer.name for layer in visible(viewer, "marker")] == [panel.state.study.markers[marker]]
    r = panel.state.r[marker, feature]
    assert panel.summary.text().startswith(f"feature {feature}, r = {r:+.2f} with {panel.state.study.markers[marker]}")
    hands.pump()
    after = picture(viewer)
    assert after.std() > 5
    assert np.abs(after - before).mean() > 1


def test_the_canvas_shows_the_feature_of_each_cell(fresh):
    viewer, panel = fresh
    panel.state.paint(Painted("feature", "5"))
    layer = visible(viewer, "painted")[0]
    study, opened = panel.state.study, layer.metadata[PAINT]
    labels = np.asarray(opened.labels[0][:, :])
    painted = np.asarray(layer.data[0][:, :] if layer.multiscale else layer.data[:, :])
    for row in (0, 17, study.n_cells - 1):
        values = painted[labels == study.cell_ids[row]]
        assert len(values)
        np.testing.assert_array_equal(values, study.feature(5)[row])
    assert np.isnan(painted[labels == 0]).all()


def test_arrow_keys_step_through_features_and_markers_in_the_order_shown(fresh, hands):
    _, panel = fresh
    heatmap = panel.correlations.heatmap
    hands.click(*on_heatmap(panel, 2, 4))
    hands.press(heatmap, Qt.Key.Key_Right)
    hands.press(heatmap, Qt.Key.Key_Right)
    hands.press(heatmap, Qt.Key.Key_Down)
    assert panel.state.painted.feature == heatmap._columns[6]
    assert panel.state.marker == panel.state.study.markers[heatmap._rows[3]]


def test_the_leading_chunk_of_a_feature_is_marked_and_described(fresh, hands, monkeypatch):
    _, panel = fresh
    study, heatmap = panel.state.study, panel.correlations.heatmap
    share = np.random.default_rng(0).dirichlet(np.ones(3), study.n_features)
    monkeypatch.setattr(study, "chunks", ChunkShares(("CD20 rim", "CD8a", "T cells"), share), raising=False)
    show(panel, panel.correlations)
    panel.correlations.filter.setText(">0")  # redraws
    hands.pump()
    marked = heatmap._strips[1].image[0]
    assert len(np.unique(marked, axis=0)) == 3
    strongest = heatmap._strips[0].image[0]
    column = next(place for place in range(len(marked)) if (marked[place] == strongest[place]).all())  # CD20 and CD20
    description = study.chunks.describe(heatmap._columns[column])

    viewport, x, y = on_heatmap(panel, -2, column)
    hands.move(viewport, x, y)
    assert description in heatmap.toolTip()
    hands.click(viewport, x, y)
    assert panel.state.painted.feature == heatmap._columns[column]
    assert description in panel.summary.text()


def test_a_click_on_the_name_of_a_marker_paints_the_marker(fresh, hands):
    _, panel = fresh
    viewport, _, y = on_heatmap(panel, 5, 0)
    hands.click(viewport, 20, y)
    assert panel.state.painted == Painted("marker", panel.state.study.markers[panel.correlations.heatmap._rows[5]])


def test_the_cell_under_the_pointer_is_described_and_a_click_picks_it(fresh, hands):
    viewer, panel = fresh
    study = panel.state.study
    row = 11
    canvas = hands.canvas(viewer)
    x, y = on_canvas(viewer, canvas, *(study.xy_px[row][::-1] * 0.5))

    hands.move(canvas, x, y)
    assert panel.state.hovered == row
    assert f"cell {study.cell_ids[row]}," in panel.cell.values.text()

    show(panel, panel.cell)
    hands.click(canvas, x, y)
    assert panel.state.picked == row
    ring = next(layer for layer in viewer.layers if layer.metadata.get(ROLE) == "marks")
    np.testing.assert_allclose(ring.data[0] * ring.scale, study.xy_px[row][::-1] * 0.5)
    hands.wait_until(lambda: panel.cell.strip.strip is not None)
    assert panel.cell.strip.strip.images.std() > 5


def test_similar_cells_are_found_and_shown(fresh, hands):
    viewer, panel = fresh
    panel.state.pick(11)
    panel.cell._find()
    hands.wait_until(lambda: len(panel.state.marked) > 0)
    ring = next(layer for layer in viewer.layers if layer.metadata.get(ROLE) == "marks")
    assert len(ring.data) == len(panel.state.marked) + 1
    panel.state.mark(np.zeros(0, dtype=np.int64))


def test_a_lasso_in_the_umap_selects_cells_everywhere_and_undo_restores_the_selection(fresh, hands):
    viewer, panel = fresh
    state = panel.state
    before = state.r.copy()
    xy = state.study.umap
    (left, bottom), (right, top) = np.percentile(xy, [10, 90], axis=0)
    corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom + 0.01)]
    panel.umap.scatter.window().raise_()
    panel.umap.lasso.setChecked(True)
    hands.drag(panel.umap.scatter.viewport(), [on_umap(panel, *corner) for corner in corners])
    panel.umap.lasso.setChecked(False)

    inside = ((xy > (left, bottom)) & (xy < (right, top))).all(axis=1)
    hands.wait_until(lambda: state.selection is not None)
    assert state.correlated_over == "all cells"
    show(panel, panel.correlations)
    selected = np.isin(np.arange(len(xy)), state.selection)
    assert (selected == inside).mean() > 0.95
    hands.wait_until(lambda: state.correlated_over != "all cells")
    assert f"{selected.sum():,} selected" in panel.summary.text()
    assert not np.allclose(state.r, before)
    overlay = next(layer for layer in viewer.layers if layer.metadata.get(ROLE) == "selection")
    values = np.asarray(overlay.data[0][:, :] if overlay.multiscale else overlay.data[:, :])
    labels = np.asarray(visible(viewer, "painted")[0].metadata[PAINT].labels[0][:, :])
    assert np.isnan(values[labels == state.study.cell_ids[state.selection[0]]]).all()
    assert (values[labels == state.study.cell_ids[np.flatnonzero(~selected)[0]]] == 1).all()

    state.undo()
    assert state.selection is None
    hands.wait_until(lambda: state.correlated_over == "all cells")
    np.testing.assert_array_equal(state.r, before)


def test_an_outline_drawn_in_the_image_selects_the_cells_inside(fresh, hands):
    viewer, panel = fresh
    panel.canvas.draw_outline()
    canvas = hands.canvas(viewer)
    corners = [(60, 60), (60, 180), (180, 180), (180, 60), (62, 60)]
    hands.drag(canvas, [on_canvas(viewer, canvas, *corner) for corner in corners])
    xy = panel.state.study.xy_px * 0.5
    inside = ((xy > 60) & (xy < 180)).all(axis=1)
    hands.wait_until(lambda: panel.state.selection is not None)
    selected = np.isin(np.arange(len(xy)), panel.state.selection)
    assert (selected == inside).mean() > 0.97

    # The mouse moves the image again, and the outline is removed with the selection.
    outline = next(layer for layer in viewer.layers if layer.metadata.get(ROLE) == "outline")
    hands.wait_until(lambda: outline.mode == "pan_zoom")
    assert viewer.layers.selection.active is visible(viewer, "painted")[0]
    hands.click(canvas, *on_canvas(viewer, canvas, *xy[11][::-1]))
    assert panel.state.picked == 11
    assert len(outline.data) == 1
    panel.state.undo()
    assert len(outline.data) == 0
    hands.pump()
    assert panel.state.selection is None
    viewer.layers.remove(outline)


def test_a_click_on_a_partner_of_a_feature_shows_the_marker(fresh, hands):
    _, panel = fresh
    panel.state.paint(Painted("feature", "9"))
    show(panel, panel.partners)
    best = panel.state.study.markers[int(np.abs(panel.state.r[:, 9]).argmax())]
    hands.wait_until(lambda: bool(panel.partners.bars.partners) and panel.partners.bars.partners[0].name == best)
    hands.click(panel.partners.bars, 10, 8)
    assert panel.state.marker == best


def test_a_click_on_the_image_of_a_cell_centres_the_canvas_on_it(fresh, hands):
    viewer, panel = fresh
    panel.state.paint(Painted("marker", "CD20"))
    panel.state.show_marker("CD20")
    show(panel, panel.exemplars)
    strip = panel.exemplars.strip
    hands.wait_until(lambda: strip.strip is not None and "CD20" in strip.strip.markers)
    values = panel.state.values[strip.strip.rows]
    assert values[0].min() > values[1].max() > values[2].max()
    bright = strip.strip.images.astype(float)[..., 0].mean(axis=(1, 2, 3))  # orange is red
    assert bright[0] > bright[2]
    hands.click(strip, 10, 30)
    assert panel.state.picked == strip.strip.rows[0, 0]
    np.testing.assert_allclose(camera_of(viewer).center[-2:], panel.state.study.xy_px[panel.state.picked][::-1] * 0.5)


def test_a_category_is_painted_in_its_colours_with_a_legend(fresh, hands):
    viewer, panel = fresh
    panel.paint.setCurrentText("lineage")
    panel.paint.activated.emit(panel.paint.currentIndex())
    hands.pump()
    assert "T&nbsp;cell" in panel.umap.legend.text()
    show(panel, panel.umap)
    assert not panel.umap.scale.isVisible()
    show(panel, panel.exemplars)
    strip = panel.exemplars.strip
    hands.wait_until(lambda: strip.strip is not None and len(strip.strip.rows) == len(panel.state.categories))
    assert (panel.state.values[strip.strip.rows[1]] == 1).all()
    show(panel, panel.umap.legend)
    hands.click(panel.umap.legend, 24, 8)
    np.testing.assert_array_equal(panel.state.selection, np.flatnonzero(panel.state.values == 0))
    show(panel, panel.exemplars)
    hands.wait_until(lambda: len(strip.strip.rows) == 1)
    panel.state.undo()
    layer = visible(viewer, "painted")[0]
    assert tuple(layer.contrast_limits) == (-0.5, len(panel.state.categories) - 0.5)
    panel.state.paint(Painted("feature", "1"))
    assert layer.colormap.name == "viridis"
    hands.pump()
    low, high = panel.umap.scale.ends
    np.testing.assert_allclose([float(low), float(high)], layer.contrast_limits, rtol=0.01)


def test_names_of_selected_cells_are_saved_and_shown(fresh, hands, tmp_path, monkeypatch):
    _, panel = fresh
    naming, study, state = panel.naming, panel.state.study, panel.state
    hands.wait_until(lambda: state.names is not None)
    monkeypatch.setattr(state.names.cells, "path", tmp_path / "annotations.csv")
    state.select(np.flatnonzero(np.asarray(study.column("lineage")) == "T cell")[:9])
    naming.name.setText("T cell")
    naming.assign()
    hands.wait_until((tmp_path / "annotations.csv").is_file)
    hands.wait_until(lambda: state.names.cells.is_saved)
    assert state.categories == ("T cell",)
    assert np.isfinite(state.values).sum() == 9
    state.names.undo()
    assert state.names.classes == []


def test_correlations_over_the_cells_in_view_are_computed_in_a_thread(fresh, hands):
    viewer, panel = fresh
    over = panel.correlations.over
    camera_of(viewer).zoom *= 3
    hands.pump()
    over.setCurrentText("cells in view")
    over.activated.emit(over.currentIndex())
    hands.wait_until(lambda: "in view" in panel.state.correlated_over)
    n = int(panel.state.correlated_over.split()[0].replace(",", ""))
    assert 10 < n < panel.state.study.n_cells / 3
    over.setCurrentText("all cells")
    over.activated.emit(over.currentIndex())
    hands.wait_until(lambda: panel.state.correlated_over == "all cells")


def test_the_current_view_is_exported(fresh, hands, tmp_path, monkeypatch):
    _, panel = fresh
    export, state = panel.export, panel.state
    for name, save in (("correlations.csv", export.save_correlations), ("correlations.svg", export.save_figure)):
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, name=name: (str(tmp_path / name), ""))
        save()
        state.paint(Painted("feature", "2"))  # does not change the file that is being written
        hands.wait_until(lambda: not export.work.is_busy)
        assert panel.message.text() == f"Wrote {name}."
    assert len((tmp_path / "correlations.csv").read_text().splitlines()) == len(state.study.markers) + 1
    assert (tmp_path / "correlations.svg").stat().st_size > 10_000
    export.copy_code()
    assert "color = 'feature 2'" in QApplication.clipboard().text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_panel_uses_the_colours_of_the_theme(fresh, hands, theme):
    viewer, panel = fresh
    viewer.theme = theme
    hands.pump()
    assert panel.correlations.heatmap.theme.is_dark == (theme == "dark")
    orange = panel.clusters.delegate.theme.text_in("#ffb000")  # of a marker's name
    assert orange == ("#ffb000" if theme == "dark" else "#996a00")
    viewer.theme = "dark"


@pytest.mark.parametrize("painted", [Painted("feature", "0"), Painted("column", "lineage")])
def test_everything_fits_330_pixels(fresh, hands, painted):
    _, panel = fresh
    for part in panel.parts:  # a page has its style when it was shown
        panel.reveal(part)
        hands.pump()
    panel.state.paint(painted)
    hands.wait_until(lambda: bool(panel.partners.title.text()))
    hands.qtbot.wait(300)  # for delayed texts
    assert panel.minimumSizeHint().width() <= 330
    for area in panel.findChildren(QScrollArea):
        assert area.widget() is None or area.widget().minimumSizeHint().width() <= 330
