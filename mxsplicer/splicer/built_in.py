"""The built-in model: moments whose scales are measured on cells of the slides. Nothing is trained.

What a training measures in the same way is here, too.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mxsplicer.patches.store import PatchStore
from mxsplicer.splicer.moments import Moments
from mxsplicer.splicer.normalization import SAMPLE_CELLS, Normalization, measure_normalization, sample_inputs
from mxsplicer.splicer.panels import check_agreement, on_one_panel
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run, load_run, save_run
from mxsplicer.splicer.slide_normalization import at_one_gain
from mxsplicer.system.files import atomic_write, check_free

_SAMPLE_BYTES = 256 << 20


def measure_moments(
    stores: Sequence[PatchStore],
    path: str | Path,
    *,
    recipe: Recipe,
    panel: str = "same",
    overwrite: bool = False,
) -> Run:
    """Measure the scales of moments on the patches of one or more slides, and write them as a run folder.

    Parameters
    ----------
    stores, path, panel, overwrite
        As for :func:`~mxsplicer.splicer.training.train`.
    recipe
        One that does not train.

    Raises
    ------
    InputError
        If the stores do not fit together, or the folder exists.
    """
    path = Path(path)
    stores, spread = align(stores, recipe, panel)
    markers, patch_px, pixel_size_um = check_agreement(stores)
    check_free(path, overwrite=overwrite)
    normalization, _ = measure_scales(stores, recipe, spread)
    encoder = Moments(len(markers)).eval()
    encoder.prepare(training_sample(stores, normalization, recipe), normalization, markers)
    of_embedding = {"components": [], "chunk_widths": [encoder.out_features], "has_chunks": False}
    settings = recipe.to_settings() | of_embedding | {"steps": 0} | about_stores(stores, panel)
    with atomic_write(path) as folder:
        folder.mkdir()
        save_run(Run(encoder, normalization, markers, patch_px, pixel_size_um, settings, path), folder)
    return load_run(path)


def align(stores: Sequence[PatchStore], recipe: Recipe, panel: str) -> tuple[list[PatchStore], Tensor | None]:
    """Return the stores on one panel and at one gain, and their spread then; None without correction of gains."""
    stores = on_one_panel(stores, panel)
    return at_one_gain(stores) if recipe.normalization == "gain" else (stores, None)


def measure_scales(
    stores: Sequence[PatchStore], recipe: Recipe, spread: Tensor | None
) -> tuple[Normalization, list[bool]]:
    """Return the normalisation of the stores, and whether each marker varies."""
    normalization, varies = measure_normalization(stores, seed=recipe.seed)
    return normalization if spread is None else replace(normalization, spread=spread), varies


def training_sample(stores: Sequence[PatchStore], normalization: Normalization, recipe: Recipe) -> Tensor:
    """Return patches of training cells as the encoder sees them, of at most 256 MB, (n, C, P, P)."""
    shape = stores[0].patches.shape[1:]
    n_cells = min(SAMPLE_CELLS, _SAMPLE_BYTES // (4 * math.prod(shape)))
    hide = recipe.surroundings == "hide"
    return sample_inputs(stores, normalization, hide=hide, n_cells=n_cells, seed=recipe.seed)


def about_stores(stores: Sequence[PatchStore], panel: str) -> dict[str, Any]:
    """Return the settings of a run that describe its stores."""
    return {
        "patch_size_um": stores[0].patch_size_um,
        "slides": [store.slide_name for store in stores],
        "n_cells": sum(store.n_cells for store in stores),
        **({} if panel == "same" else {"panel": panel}),
    }
