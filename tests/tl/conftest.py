"""Simulated cells with known answers."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

MARKERS = ["Hoechst", "CD3e", "CD20", "CK", "Empty"]


def make_cells(n: int = 600, *, d: int = 32, n_slides: int = 1, seed: int = 0) -> AnnData:
    """Return cells of two types: X_splicer predicts the type well, intensities a little, X_untrained not at all."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    intensity = rng.gamma(2.0, 50.0, (n, len(MARKERS))).astype(np.float32)
    intensity[:, 1] *= 1 + 0.5 * kind
    intensity[:, 4] = 0
    z = rng.normal(size=(n, d)).astype(np.float32)
    z[:, :4] += 2 * kind[:, None]
    slide = rng.integers(0, n_slides, n)
    obs = pd.DataFrame(
        {
            "cell_id": np.arange(1, n + 1, dtype=np.uint32),
            "slide": pd.Categorical([f"S{i:02d}" for i in slide]),
            "kind": np.where(kind, "T cell", "B cell"),
            "area_um2": rng.gamma(9.0, 8.0, n),
            "eccentricity": rng.uniform(0, 1, n),
            "major_axis_um": rng.uniform(8, 14, n),
            "minor_axis_um": rng.uniform(5, 8, n),
        },
        index=[f"S{i:02d}_{cell}" for cell, i in enumerate(slide, start=1)],
    )
    return AnnData(
        intensity,
        obs=obs,
        var=pd.DataFrame(index=MARKERS),
        obsm={
            "spatial": rng.uniform(0, 500, (n, 2)),
            "X_splicer": z,
            "X_untrained": rng.normal(size=(n, d)).astype(np.float32),
        },
        uns={"mxsplicer": {"patch_size_um": 16.0}},
    )


@pytest.fixture(scope="session")
def cells() -> Callable[..., AnnData]:
    """Return the function that simulates cells."""
    return make_cells
