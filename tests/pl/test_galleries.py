import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.figure import Figure

from mxsplicer import pl, tl
from mxsplicer.cells.measure import measure_cells
from mxsplicer.errors import InputError
from mxsplicer.pl.galleries import contact_sheet, cut_cells
from mxsplicer.testing import tiny_slide


@pytest.fixture
def two():
    """Return two slides of four cells each, their masks and an AnnData."""
    at = [(20, 30), (40, 70), (45, 20), (12, 80)]
    slides, masks, tables = [], [], []
    for seed, name in enumerate(["A", "B"]):
        slide, mask = tiny_slide(cells_at=at, seed=seed)
        slides.append(slide.__class__(name, slide.image, slide.markers, slide.pixel_size_um))
        masks.append(mask)
        cells = measure_cells(slide, mask, min_area_um2=0)
        tables.append(cells.table.assign(slide=name, **dict(zip(slide.markers, cells.intensities.T, strict=True))))
    obs = pd.concat(tables, ignore_index=True)
    intensity = obs[list(slides[0].markers)].to_numpy(np.float32)
    obs.index = [f"{slide}_{cell}" for slide, cell in zip(obs["slide"], obs["cell_id"], strict=True)]
    obs["leiden"] = pd.Categorical(["0", "1"] * 4)
    z = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    adata = AnnData(intensity, obs=obs, var=pd.DataFrame(index=list(slides[0].markers)), obsm={"X_splicer": z})
    return slides, masks, adata


def test_each_cell_is_cut_from_its_own_slide(two):
    slides, masks, adata = two

    images = cut_cells(adata.obs.iloc[[5, 0, 6]], slides, masks, markers=["CD20"], patch_size_um=8)

    assert images.patches.shape == (3, 1, 16, 16)
    for patch, (_, cell) in zip(images.patches, adata.obs.iloc[[5, 0, 6]].iterrows(), strict=True):
        slide = slides["AB".index(cell["slide"])]
        y, x = round(cell["y_px"]), round(cell["x_px"])
        assert patch[0, 8, 8] == slide.image[2, y, x]


def test_a_cell_of_a_slide_that_is_not_given_stays_empty(two):
    slides, masks, adata = two

    images = cut_cells(adata.obs, slides[:1], masks[:1], patch_size_um=8)

    assert images.found.tolist() == [True] * 4 + [False] * 4
    assert not images.patches[4:].any()


def test_one_contrast_holds_for_all_cells_of_a_sheet(two):
    slides, masks, adata = two
    images = cut_cells(adata.obs, slides, masks, markers=["DAPI"], patch_size_um=8)

    sheet = contact_sheet(images, [[0, 1], [2]], markers=["DAPI"], limits={"DAPI": (0, 6000)}, outline=False)

    assert sheet.shape == (34, 34, 3)
    brightness = (images.patches[2, 0] / 6000) ** 0.7
    np.testing.assert_allclose(sheet[18:34, :16, 2] / 255, np.clip(brightness, 0, 1), atol=0.005)
    assert (sheet[18:, 18:] == 255).all()  # no cell there


@pytest.mark.parametrize("kind", ["names", "examples", "similar"])
def test_a_gallery_shows_names_examples_or_similar_cells(two, kind):
    slides, masks, adata = two
    cells = {
        "names": lambda: ["A_1", "B_3"],
        "examples": lambda: tl.pick_examples(adata, n=1),
        "similar": lambda: tl.similar(adata, ["A_1", "B_2"], n=2),
    }[kind]()

    axes = pl.gallery(
        adata,
        slides=slides,
        masks=masks,
        cells=cells,
        markers=["DAPI", "CD20"],
        patch_size_um=8,
        ax=Figure().subplots(),
    )

    height, width = axes.images[0].get_array().shape[:2]
    rows, columns = {"names": (1, 2), "examples": (6, 1), "similar": (2, 3)}[kind]
    assert (height, width) == (34 * rows - 2, 34 * columns - 2)


def test_a_gallery_has_the_contrast_of_all_cells_whichever_are_shown(two):
    slides, masks, adata = two
    dim = int(adata[:, "CD20"].X[:, 0].argmin())
    options = {"slides": slides, "masks": masks, "markers": ["CD20"], "patch_size_um": 8, "outline": False}

    def brightness(changed, name):
        axes = pl.gallery(changed, cells=[name], ax=Figure().subplots(), **options)
        return axes.images[0].get_array().max(), axes.get_title()

    name = adata.obs_names[dim]
    brighter = adata.copy()
    brighter.X[(dim + 1) % 8, 2] *= 50
    scaled = adata.copy()
    scaled.X -= scaled.X.mean(axis=0)

    assert brightness(brighter, name)[0] < brightness(adata, name)[0]
    assert brightness(adata, name)[1] == "8 µm wide"
    assert brightness(scaled, name)[1] == "8 µm wide; contrast of these cells alone"


def test_a_cell_that_does_not_exist_is_named(two):
    slides, masks, adata = two

    with pytest.raises(InputError, match="cell 'C_1' not found; cells are named SLIDE_CELLID, such as 'A_1'"):
        pl.gallery(adata, slides=slides, masks=masks, cells=["C_1"], markers=["DAPI"])
