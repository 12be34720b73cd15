import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mxsplicer.cells.measure import measure_cells
from mxsplicer.images.slide import Slide


@pytest.fixture(scope="module")
def tissue():
    """Return a slide, a mask with unusual cells (a ring, two pieces, one larger than a tile) and an AnnData."""
    rng = np.random.default_rng(0)
    mask = np.zeros((300, 420), np.uint32)
    for number, (y, x) in enumerate(np.ndindex(18, 26)):
        if number % 5:
            mask[16 * y + 4 : 16 * y + 4 + rng.integers(3, 14), 16 * x + 2 : 16 * x + rng.integers(4, 15)] = (
                3 * number + 7
            )
    mask[100:140, 100:140] = 9001
    mask[110:130, 112:128] = 0  # a ring
    mask[115:120, 116:120] = 9002  # a cell in it
    mask[200:204, 20:30] = mask[206:210, 20:30] = 9003  # two pieces
    mask[290:300, 10:410] = 9004  # across all tiles
    slide = Slide("S 1", rng.integers(0, 99, (2, 300, 420), dtype=np.uint16), ("DAPI", "CD4"), pixel_size_um=0.5)
    cells = measure_cells(slide, mask, min_area_um2=0)
    obs = cells.table.assign(slide=pd.Categorical(["S 1"] * len(cells)))
    obs.index = [f"S 1_{cell}" for cell in obs["cell_id"]]
    obs["leiden"] = pd.Categorical([str(i % 3) if i else None for i in range(len(obs))])
    adata = AnnData(
        cells.intensities,
        obs=obs,
        var=pd.DataFrame(index=list(slide.markers)),
        obsm={"spatial": obs[["x", "y"]].to_numpy(), "X_splicer": rng.normal(size=(len(obs), 4))},
        uns={"mxsplicer": {"pixel_size_um": 0.5}, "spatialdata_attrs": {"region": "elsewhere"}},
    )
    return slide, mask, adata


@pytest.fixture
def page(tmp_path):
    """Return a page in a headless Chromium."""
    module = runpy.run_path(str(Path(__file__).with_name("browser.py")))
    if module["CHROMIUM"] is None:
        pytest.skip("Chromium is not installed")
    with module["browser"](tmp_path / "profile") as page:
        yield page
