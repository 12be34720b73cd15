import base64
import io
import json
import zlib
from dataclasses import replace

import anndata
import imagecodecs
import numpy as np
import pandas as pd
import pytest

from mxsplicer.errors import InputError
from mxsplicer.export import write_web
from mxsplicer.images.slide import Slide

EVIL = "</script><script>alert(1)</script>"


@pytest.fixture
def cells(tissue):
    """Return the slide, the mask and the AnnData of ``tissue`` with a UMAP, a label and correlations."""
    slide, mask, adata = tissue
    rng, adata = np.random.default_rng(1), adata.copy()
    adata.obsm["X_umap"] = rng.normal(size=(adata.n_obs, 2))
    adata.obsm["X_umap"][3] = np.nan  # without a position
    adata.obs["kind"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 2, 'a "b"', EVIL))
    adata.varm["splicer_correlation"] = np.array([[0.5, -0.2, 0.1, 0.0], [0.1, 0.9, -0.7, 0.3]])
    return slide, mask, adata


@pytest.fixture
def small_tiles(monkeypatch):
    """Use tiles of 64 px, so that a small slide has several levels."""
    monkeypatch.setattr("mxsplicer.export.web.tiles.TILE_PX", 64)
    monkeypatch.setattr("mxsplicer.export.web.page.TILE_PX", 64)
    monkeypatch.setattr("mxsplicer.export.web.tiles._BLOCK_PX", 128)


def read(folder, key):
    """Return the data of a script of a page."""
    text = (folder / f"{key}.js").read_text(encoding="ascii")
    start = f"receive({json.dumps(key)},"
    assert text.startswith(start)
    assert text.endswith(");\n")
    assert "<" not in text
    return json.loads(text[len(start) : -3])


def numbers(folder, key, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(read(folder, key))), dtype)


def joined(folder, slide, level, layer):
    """Return all tiles of a level as one image."""
    (width, height), tile = slide["levels"][level], slide["tile"]
    out = np.zeros((height, width), np.uint32)
    for row in range(-(-height // tile)):
        for column in range(-(-width // tile)):
            here = np.s_[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
            key = f"tiles/0/{level}/{layer}/{row}_{column}"
            if (data := read(folder, key)) and layer == "cells":
                out[here] = numbers(folder, key, "<u4").reshape(out[here].shape)
            elif data:
                out[here] = imagecodecs.jpeg8_decode(base64.b64decode(data))
    return out


def test_every_pixel_of_a_cell_holds_the_row_of_the_cell_at_every_level(cells, small_tiles, tmp_path):
    slide, mask, adata = cells
    some = adata[adata.obs["cell_id"] != 9001].copy()

    folder = write_web(some, tmp_path / "page", slides=[slide], masks=[mask])

    index = read(folder, "data/index")
    row_of = {cell: row for row, cell in enumerate(some.obs["cell_id"], start=1)}
    expected = np.vectorize(lambda cell: row_of.get(cell, 0))(mask)
    assert [len(index["slides"][0]["levels"]), index["n"]] == [4, some.n_obs]
    for level, step in enumerate((1, 2, 4, 8)):
        np.testing.assert_array_equal(joined(folder, index["slides"][0], level, "cells"), expected[::step, ::step])
    np.testing.assert_array_equal(numbers(folder, "data/id", "<u4"), some.obs["cell_id"])
    assert not index["has_names"]
    assert not index["has_rows"]


def test_intensities_of_tiles_agree_with_the_slide_at_every_level(cells, small_tiles, tmp_path):
    slide, mask, adata = cells
    smooth = np.add.outer(np.arange(300), np.arange(420)).astype(np.uint16) * 10
    slide = replace(slide, image=np.stack([smooth, smooth[::-1]]))

    folder = write_web(adata, tmp_path / "page", slides=[slide], masks=[mask])

    described = read(folder, "data/index")["slides"][0]
    for channel, about in enumerate(described["channels"]):
        for level, step in enumerate((1, 2, 4, 8)):
            root = joined(folder, described, level, str(channel)) / 255
            shown = about["low"] + root**2 * (about["full"] - about["low"])
            padded = np.pad(slide.image[channel], ((0, -300 % step), (0, -420 % step)), mode="edge").astype(float)
            means = padded.reshape(padded.shape[0] // step, step, -1, step).mean(axis=(1, 3))
            assert np.abs(shown - means).max() < 0.02 * about["full"]


def test_values_of_cells_are_kept_to_a_254th_of_their_range(cells, tmp_path):
    slide, mask, adata = cells

    folder = write_web(adata, tmp_path / "page", slides=[slide], masks=[mask])

    columns = {one["name"]: one for one in read(folder, "data/index")["columns"]}
    codes = numbers(folder, columns["leiden"]["key"], "u1")
    of_cell = np.where(codes == 255, -1, codes.astype(int))
    np.testing.assert_array_equal(of_cell, adata.obs["leiden"].cat.codes)
    for name, values in (("CD4", np.log1p(adata.X[:, 1])), ("feature 2", adata.obsm["X_splicer"][:, 2])):
        about = columns[name]
        found = about["low"] + numbers(folder, about["key"], "u1") / 254 * (about["high"] - about["low"])
        expected = np.clip(values, about["low"], about["high"])
        assert np.abs(found - expected).max() <= (about["high"] - about["low"]) / 254
    umap = numbers(folder, "data/umap", "<u2").reshape(2, -1)
    assert (umap[:, 3] == 65535).all()
    assert (np.delete(umap, 3, axis=1) < 65535).all()


def test_names_of_markers_slides_and_categories_can_neither_end_a_script_nor_name_a_file(cells, tmp_path):
    slide, mask, adata = cells
    adata.var_names = ["DAPI", EVIL]
    adata.obs["slide"] = adata.obs["slide"].cat.rename_categories({"S 1": "../<b>"})
    slide = Slide("../<b>", slide.image, ("DAPI", EVIL), pixel_size_um=0.5)

    folder = write_web(adata, tmp_path / "page", slides=[slide], masks=[mask])

    index = read(folder, "data/index")  # which checks that the file has no "<"
    assert index["slides"][0]["channels"][1]["name"] == EVIL
    assert index["slides"][0]["name"] == "../<b>"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page"]
    assert {path.parts[-1].isascii() for path in folder.rglob("*")} == {True}
    assert "://" not in "".join(path.read_text() for path in folder.glob("*.*"))
    assert read(folder, "data/names")[0] == adata.obs_names[0]  # which are not "<slide>_<id>" any more


def test_a_large_slide_is_halved_to_the_limit_and_read_from_its_pyramid(cells, small_tiles, tmp_path, monkeypatch):
    slide, mask, adata = cells
    halved = slide.image.reshape(2, 150, 2, 210, 2).mean(axis=(2, 4))
    monkeypatch.setattr("mxsplicer.export.web.tiles._OVERVIEW_PX", 100)
    finest = Unread(slide.image.shape, slide.image.dtype)
    del adata.obsm["X_splicer"]  # examples are cut at full resolution
    slide = replace(slide, image=finest, pyramid=(halved.astype(np.uint16), halved[:, ::2, ::2].astype(np.uint16)))

    folder = write_web(adata, tmp_path / "page", slides=[slide], masks=[mask], max_megapixels=0.05)

    described = read(folder, "data/index")["slides"][0]
    assert (described["step"], described["um"], described["levels"][0]) == (2, 1.0, [210, 150])


def test_the_rows_of_several_slides_are_those_of_the_table(cells, tmp_path):
    slide, mask, adata = cells
    other = adata.copy()
    other.obs["slide"] = other.obs["slide"].cat.rename_categories({"S 1": "S 2"})
    other.obs_names = [name.replace("S 1", "S 2") for name in other.obs_names]
    both = anndata.concat([adata, other[::-1]])
    both.obs["slide"] = both.obs["slide"].astype("category")
    slides = [slide, replace(slide, name="S 2", image=slide.image[::-1], markers=("CD4", "DAPI"))]

    folder = write_web(both, tmp_path / "page", slides=slides, masks=[mask, mask])

    index = read(folder, "data/index")
    second = numbers(folder, "tiles/1/0/cells/0_0", "<u4").reshape(300, 420)
    assert both.obs_names[second[201, 25] - 1] == "S 2_9003"
    assert [one["name"] for one in index["slides"][1]["channels"]] == ["CD4", "DAPI"]
    np.testing.assert_array_equal(numbers(folder, "data/slide", "<u2"), both.obs["slide"].cat.codes)
    assert not index["has_names"]


def test_a_pyramid_that_lacks_the_last_row_of_the_slide_is_read(cells, small_tiles, tmp_path, monkeypatch):
    slide, mask, adata = cells
    monkeypatch.setattr("mxsplicer.export.web.tiles._OVERVIEW_PX", 100)
    adata = adata[adata.obs["y_px"] < 240].copy()
    del adata.obsm["X_splicer"]
    image = np.broadcast_to(np.arange(257, dtype=np.uint16)[:, None] * 100, (2, 257, 420))
    slide = replace(slide, image=image, pyramid=(image[:, :256:2, ::2],))  # 128 rows, of which 129 are needed

    folder = write_web(adata, tmp_path / "page", slides=[slide], masks=[mask[:257]], max_megapixels=0.05)

    described = read(folder, "data/index")["slides"][0]
    assert described["levels"][0] == [210, 129]
    last_rows = joined(folder, described, 0, "0")[-2:].astype(int)
    assert np.abs(np.diff(last_rows, axis=0)).max() <= 4
    assert last_rows.min() > 100


class Unread:
    """An image that must not be read."""

    ndim = 3

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, dtype

    def __getitem__(self, key):
        msg = "the finest level was read"
        raise AssertionError(msg)


def test_a_page_that_fails_leaves_nothing_and_an_existing_one_stays(cells, tmp_path, monkeypatch):
    slide, mask, adata = cells
    folder = write_web(adata, tmp_path / "page", slides=[slide], masks=[mask])
    with pytest.raises(InputError, match="page exists"):
        write_web(adata, folder, slides=[slide], masks=[mask])

    def fail(*arguments, **options):
        msg = "the disk is full"
        raise OSError(msg)

    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("mxsplicer.export.web.page.write_columns", fail)
    for path, overwrite in ((folder, True), (tmp_path / "other", False)):
        with pytest.raises(OSError, match="full"):
            write_web(adata, path, slides=[slide], masks=[mask], overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_not_a_page_is_kept_despite_overwrite(cells, tmp_path):
    slide, mask, adata = cells
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")

    with pytest.raises(InputError, match="not a web page of mxsplicer"):
        write_web(adata, tmp_path / "mine", slides=[slide], masks=[mask], overwrite=True)
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"slides": []}, "0 slides and 1 masks"),
        ({"groupby": "clusters"}, "obs has no column 'clusters'"),
        ({"max_megapixels": 0}, "`max_megapixels` is 0"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(cells, tmp_path, change, found):
    slide, mask, adata = cells

    with pytest.raises(InputError, match=found):
        write_web(adata, tmp_path / "page", **{"slides": [slide], "masks": [mask], **change})
    assert not list(tmp_path.iterdir())


def test_the_page_opens_from_a_disk_and_its_parts_are_linked(cells, page, tmp_path):
    slide, mask, adata = cells
    adata.var_names = ["DAPI", EVIL]
    slide = replace(slide, markers=("DAPI", EVIL))
    folder = write_web(adata, tmp_path / "page", slides=[slide], masks=[mask])
    row = int(np.flatnonzero(adata.obs["cell_id"] == 9004)[0])  # across the bottom of the slide
    page.open((folder / "index.html").as_uri(), width=420, height=900)
    page.wait("document.documentElement.dataset.ready === 'yes'")
    page.wait("tiles.inFlight === 0 && tiles.wanted.length === 0")

    assert page.run("document.documentElement.scrollWidth") <= 420
    assert page.run("document.querySelectorAll('#legend .entry').length") == 3
    # Other colours of the cells leave the channels under them as they are.
    page.run(NEXT_FRAME)
    page.run("window.drawn = 0; const draw = drawing.drawChannel")
    page.run("drawing.drawChannel = (...all) => (drawn++, draw.apply(drawing, all))")
    page.run("colourBy(content.columns.at(-1)).then(() => colourBy(content.clusters))")
    assert page.run("drawn") == 0
    page.run("views.tissue.change()")
    page.wait("drawn > 0")
    # A click in the tissue picks the cell there; the text has its name and row.
    x, y = on_screen(page, "tissue", 200, 295)
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)
    page.wait(f"at('cell').textContent.includes('S 1_9004 (row {row} of')")
    # A name in the legend selects its cells, which can be saved by name and row.
    page.click("#legend .entry:nth-child(3) button")
    count = int((adata.obs["leiden"] == "1").sum())
    page.wait(f"at('selection').textContent.startsWith('{count} cells selected')")
    page.run("URL.createObjectURL = (blob) => { window.saved = blob.text(); return 'data:,'; }")
    page.click("#save")
    saved = pd.read_csv(io.StringIO(page.wait("window.saved")))
    assert saved.columns.tolist() == ["name", "row", "slide", "cell_id"]
    np.testing.assert_array_equal(saved["row"], np.flatnonzero(adata.obs["leiden"] == "1"))
    assert saved["name"].tolist() == adata.obs_names[saved["row"]].tolist()
    assert saved["cell_id"].tolist() == adata.obs["cell_id"].iloc[saved["row"]].tolist()
    # The heatmap, by keyboard: the second feature of the first row.
    page.run("at('heatmap').focus()")
    page.press("ArrowRight")
    page.press("Enter")
    page.wait("state.column.name.startsWith('feature')")
    place = page.run("content.heatmap.features[1]")
    assert page.run("state.column.name") == f"feature {place}"
    codes = page.run("[...state.codes]")
    assert codes == numbers(folder, f"data/feature_{place}", "u1").tolist()
    # An example cell is sought in the tissue.
    page.run("document.querySelector('#examples button').focus()")
    page.press("Enter")
    page.wait("content.examples.clusters[state.shownCluster].flat().includes(state.cell)")
    assert page.run(COLOURS) > 10
    assert not page.errors
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.urls)


def on_screen(page, view, x, y):
    """Return where a place of a view is in the window."""
    page.run(f"views.{view}.holder.scrollIntoView({{block: 'center'}})")
    box = f"const box = views.{view}.holder.getBoundingClientRect(), at = views.{view}.toScreen({x}, {y})"
    return page.run(f"(() => {{ {box}; return [box.x + at[0], box.y + at[1]]; }})()")


NEXT_FRAME = "new Promise((shown) => requestAnimationFrame(() => requestAnimationFrame(shown)))"

# Number of colours of the cells in the tissue.
COLOURS = """(() => {
  const { canvas } = views.tissue.layers[1];
  const { data } = views.tissue.layers[1].getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
})()"""
