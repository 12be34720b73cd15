"""Each link between the views, by mouse and keys, in a viewer on a screen."""

import numpy as np
import pytest
from napari_mxsplicer.canvas import camera_of
from napari_mxsplicer.layers import PAINT, ROLE
from napari_mxsplicer.state import Painted
from napari_mxsplicer.study import Chunks
from qtpy.QtCore import QPointF, Qt
from qtpy.QtWidgets import QApplication, QFileDialog, QScrollArea


def on_heatmap(panel, row, column):
    """Return where a place of the map, in rows and columns, lies on its widget."""
    heatmap = panel.correlations.heatmap
    point = heatmap.mapFromScene(heatmap.getViewBox().mapViewToScene(QPointF(column + 0.5, row + 0.5)))
    return heatmap.viewport(), point.x(), point.y()


def on_map(panel, x, y):
    """Return where a point of the map of the cells lies on its widget."""
    cells = panel.cells.map
    point = cells.mapFromScene(cells.getViewBox().mapViewToScene(QPointF(x, y)))
    return point.x(), point.y()


def on_canvas(viewer, canvas, y_um, x_um):
    """Return where a point of the world lies on the canvas."""
    (centre_y, centre_x), zoom = camera_of(viewer).center[-2:], camera_of(viewer).zoom
    return canvas.width() / 2 + (x_um - centre_x) * zoom, canvas.height() / 2 + (y_um - centre_y) * zoom


def visible(viewer, role):
    return [layer for layer in viewer.layers if layer.metadata.get(ROLE) == role and layer.visible]


def picture(viewer):
    return viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(float)


def test_a_click_into_the_map_paints_the_feature_and_shows_the_marker_alone(fresh, hands):
    viewer, panel = fresh
    before = picture(viewer)
    heatmap = panel.correlations.heatmap
    marker, feature = heatmap._rows[3], heatmap._columns[7]

    hands.click(*on_heatmap(panel, 3, 7))

    assert panel.state.painted == Painted("feature", str(feature))
    assert [layer.name for layer in visible(viewer, "marker")] == [panel.state.study.markers[marker]]
    r = panel.state.r[marker, feature]
    assert panel.sentence.text().startswith(f"feature {feature}, r = {r:+.2f} with {panel.state.study.markers[marker]}")
    hands.pump()
    after = picture(viewer)
    assert after.std() > 5
    assert np.abs(after - before).mean() > 1


def test_what_is_on_the_canvas_is_the_feature_of_each_cell(fresh):
    viewer, panel = fresh
    panel.state.paint(Painted("feature", "5"))
    layer = visible(viewer, "map")[0]
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


def test_the_chunk_that_draws_most_upon_a_feature_is_marked_and_told(fresh, hands, monkeypatch):
    _, panel = fresh
    study, heatmap = panel.state.study, panel.correlations.heatmap
    share = np.random.default_rng(0).dirichlet(np.ones(3), study.n_features)
    monkeypatch.setattr(study, "chunks", Chunks(("CD20 rim", "CD8a", "T cells"), share), raising=False)
    panel.correlations.filter.setText(">0")  # drawn anew
    hands.pump()
    marked = heatmap._strips[1].image[0]
    assert len(np.unique(marked, axis=0)) == 3
    follows = heatmap._strips[0].image[0]
    column = next(place for place in range(len(marked)) if (marked[place] == follows[place]).all())  # CD20 and CD20
    told = study.chunks.told(heatmap._columns[column])

    viewport, x, y = on_heatmap(panel, -2, column)
    hands.move(viewport, x, y)
    assert told in heatmap.toolTip()
    hands.click(viewport, x, y)
    assert panel.state.painted.feature == heatmap._columns[column]
    assert told in panel.sentence.text()


def test_a_click_on_the_name_of_a_marker_paints_the_marker(fresh, hands):
    _, panel = fresh
    viewport, _, y = on_heatmap(panel, 5, 0)
    hands.click(viewport, 20, y)
    assert panel.state.painted == Painted("marker", panel.state.study.markers[panel.correlations.heatmap._rows[5]])


def test_the_cell_under_the_pointer_is_told_and_a_click_stays(fresh, hands):
    viewer, panel = fresh
    study = panel.state.study
    row = 11
    canvas = hands.canvas(viewer)
    x, y = on_canvas(viewer, canvas, *(study.xy_px[row][::-1] * 0.5))

    hands.move(canvas, x, y)
    assert panel.state.hovered == row
    assert f"cell {study.cell_ids[row]}," in panel.cell.values.text()

    hands.click(canvas, x, y)
    assert panel.state.picked == row
    ring = next(layer for layer in viewer.layers if layer.metadata.get(ROLE) == "marks")
    np.testing.assert_allclose(ring.data[0] * ring.scale, study.xy_px[row][::-1] * 0.5)
    hands.wait_until(lambda: panel.cell.strip.strip is not None)
    assert panel.cell.strip.strip.pictures.std() > 5


def test_similar_cells_are_found_and_shown(fresh, hands):
    viewer, panel = fresh
    panel.state.pick(11)
    panel.cell._find()
    hands.wait_until(lambda: len(panel.state.marked) > 0)
    ring = next(layer for layer in viewer.layers if layer.metadata.get(ROLE) == "marks")
    assert len(ring.data) == len(panel.state.marked) + 1
    panel.state.mark(np.zeros(0, dtype=np.int64))


def test_a_lasso_on_the_map_of_the_cells_chooses_them_everywhere_and_undo_takes_it_back(fresh, hands):
    viewer, panel = fresh
    state = panel.state
    before = state.r.copy()
    xy = state.study.umap
    (left, bottom), (right, top) = np.percentile(xy, [10, 90], axis=0)
    corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom + 0.01)]
    panel.cells.map.window().raise_()
    panel.cells.lasso.setChecked(True)
    hands.drag(panel.cells.map.viewport(), [on_map(panel, *corner) for corner in corners])
    panel.cells.lasso.setChecked(False)

    inside = ((xy > (left, bottom)) & (xy < (right, top))).all(axis=1)
    hands.wait_until(lambda: state.selection is not None)
    chosen = np.isin(np.arange(len(xy)), state.selection)
    assert (chosen == inside).mean() > 0.95
    hands.wait_until(lambda: state.map_of != "all cells")
    assert f"{chosen.sum():,} selected" in panel.sentence.text()
    assert not np.allclose(state.r, before)
    cover = next(layer for layer in viewer.layers if layer.metadata.get(ROLE) == "selection")
    values = np.asarray(cover.data[0][:, :] if cover.multiscale else cover.data[:, :])
    labels = np.asarray(visible(viewer, "map")[0].metadata[PAINT].labels[0][:, :])
    assert np.isnan(values[labels == state.study.cell_ids[state.selection[0]]]).all()
    assert (values[labels == state.study.cell_ids[np.flatnonzero(~chosen)[0]]] == 1).all()

    state.undo()
    assert state.selection is None
    hands.wait_until(lambda: state.map_of == "all cells")
    np.testing.assert_array_equal(state.r, before)


def test_a_region_drawn_in_the_image_chooses_the_cells_in_it(fresh, hands):
    viewer, panel = fresh
    panel.canvas.draw_region()
    canvas = hands.canvas(viewer)
    corners = [(60, 60), (60, 180), (180, 180), (180, 60), (62, 60)]
    hands.drag(canvas, [on_canvas(viewer, canvas, *corner) for corner in corners])
    xy = panel.state.study.xy_px * 0.5
    inside = ((xy > 60) & (xy < 180)).all(axis=1)
    hands.wait_until(lambda: panel.state.selection is not None)
    chosen = np.isin(np.arange(len(xy)), panel.state.selection)
    assert (chosen == inside).mean() > 0.97

    # The mouse is the tissue's again, and what was drawn goes with the selection.
    region = next(layer for layer in viewer.layers if layer.metadata.get(ROLE) == "region")
    hands.wait_until(lambda: region.mode == "pan_zoom")
    assert viewer.layers.selection.active is visible(viewer, "map")[0]
    hands.click(canvas, *on_canvas(viewer, canvas, *xy[11][::-1]))
    assert panel.state.picked == 11
    assert len(region.data) == 1
    panel.state.undo()
    assert len(region.data) == 0
    hands.pump()
    assert panel.state.selection is None
    viewer.layers.remove(region)


def test_partners_of_a_feature_are_markers_and_a_click_looks_at_one(fresh, hands):
    _, panel = fresh
    panel.state.paint(Painted("feature", "9"))
    best = panel.state.study.markers[int(np.abs(panel.state.r[:, 9]).argmax())]
    hands.wait_until(lambda: bool(panel.partners.bars.partners) and panel.partners.bars.partners[0].name == best)
    hands.click(panel.partners.bars, 10, 8)
    assert panel.state.marker == best


def test_pictures_of_high_middle_and_low_cells_lead_to_them(fresh, hands):
    viewer, panel = fresh
    panel.state.paint(Painted("marker", "CD20"))
    panel.state.look_at("CD20")
    strip = panel.exemplars.strip
    hands.wait_until(lambda: strip.strip is not None and "CD20" in strip.strip.markers)
    values = panel.state.values[strip.strip.rows]
    assert values[0].min() > values[1].max() > values[2].max()
    bright = strip.strip.pictures.astype(float)[..., 0].mean(axis=(1, 2, 3))  # orange is red
    assert bright[0] > bright[2]
    hands.click(strip, 10, 30)
    assert panel.state.picked == strip.strip.rows[0, 0]
    np.testing.assert_allclose(camera_of(viewer).center[-2:], panel.state.study.xy_px[panel.state.picked][::-1] * 0.5)


def test_a_category_is_painted_in_its_colours_with_a_legend(fresh, hands):
    viewer, panel = fresh
    panel.paint.setCurrentText("lineage")
    panel.paint.activated.emit(panel.paint.currentIndex())
    hands.pump()
    assert "T&nbsp;cell" in panel.cells.legend.text()
    assert not panel.cells.scale.isVisible()
    strip = panel.exemplars.strip
    hands.wait_until(lambda: strip.strip is not None and len(strip.strip.rows) == len(panel.state.categories))
    assert (panel.state.values[strip.strip.rows[1]] == 1).all()
    panel.findChild(QScrollArea).ensureWidgetVisible(panel.cells.legend)
    hands.click(panel.cells.legend, 24, 8)
    np.testing.assert_array_equal(panel.state.selection, np.flatnonzero(panel.state.values == 0))
    hands.wait_until(lambda: len(strip.strip.rows) == 1)
    panel.state.undo()
    layer = visible(viewer, "map")[0]
    assert tuple(layer.contrast_limits) == (-0.5, len(panel.state.categories) - 0.5)
    panel.state.paint(Painted("feature", "1"))
    assert layer.colormap.name == "viridis"
    hands.pump()
    low, high = panel.cells.scale.ends
    np.testing.assert_allclose([float(low), float(high)], layer.contrast_limits, rtol=0.01)


def test_cells_are_named_saved_and_carried_to_all_by_a_classifier(fresh, hands, tmp_path, monkeypatch):
    _, panel = fresh
    naming, study = panel.naming, panel.state.study
    hands.wait_until(lambda: naming.annotations is not None)
    monkeypatch.setattr(naming.annotations, "path", tmp_path / "annotations.csv")
    lineage = np.asarray(study.column("lineage"))
    for name in ("epithelial", "T cell"):
        rows = np.flatnonzero(lineage == name)
        panel.state.select(rows[: len(rows) // 2])
        naming.name.setText(name)
        naming.give()
    hands.wait_until(lambda: naming.annotations.is_saved and not naming.files.is_busy)
    assert (tmp_path / "annotations.csv").is_file()
    naming.train()
    hands.wait_until(lambda: naming.calls is not None)
    true = np.isin(lineage, naming.calls.classes)
    called = np.array(naming.calls.classes)[naming.calls.codes]
    assert (called == lineage)[true].mean() > 0.8
    assert panel.state.categories == naming.calls.classes
    naming.show_confidence()
    assert panel.state.values.min() >= 0.5


def test_the_map_over_the_cells_in_view_is_computed_beside_the_interface(fresh, hands):
    viewer, panel = fresh
    over = panel.correlations.over
    camera_of(viewer).zoom *= 3
    hands.pump()
    over.setCurrentText("cells in view")
    over.activated.emit(over.currentIndex())
    hands.wait_until(lambda: "in view" in panel.state.map_of)
    n = int(panel.state.map_of.split()[0].replace(",", ""))
    assert 10 < n < panel.state.study.n_cells / 3
    over.setCurrentText("all cells")
    over.activated.emit(over.currentIndex())
    hands.wait_until(lambda: panel.state.map_of == "all cells")


def test_what_is_shown_is_taken_along(fresh, hands, tmp_path, monkeypatch):
    _, panel = fresh
    taking, state = panel.taking, panel.state
    for name, save in (("map.csv", taking.save_map), ("map.svg", taking.save_picture)):
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, name=name: (str(tmp_path / name), ""))
        save()
        state.paint(Painted("feature", "2"))  # does not change what is being written
        hands.wait_until(lambda: not taking.work.is_busy)
        assert panel.told.text() == f"Wrote {name}."
    assert len((tmp_path / "map.csv").read_text().splitlines()) == len(state.study.markers) + 1
    assert (tmp_path / "map.svg").stat().st_size > 10_000
    taking.copy_code()
    assert "feature_2" in QApplication.clipboard().text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_panel_takes_the_colours_of_the_theme(fresh, hands, theme):
    viewer, panel = fresh
    viewer.theme = theme
    hands.pump()
    assert panel.correlations.heatmap.theme.is_dark == (theme == "dark")
    viewer.theme = "dark"


def test_everything_fits_330_pixels(fresh):
    _, panel = fresh
    assert panel.minimumSizeHint().width() <= 330
    inner = panel.findChild(type(panel.sentence).__mro__[1], "")
    assert inner is None or inner.minimumSizeHint().width() <= 330
