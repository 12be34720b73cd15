"""The stages after the embedding: correlations, clusters, mixing of slides and scores, into the AnnData."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mxsplicer import tl
from mxsplicer.embedding.h5ad import complete_cells, open_cells, split_cells
from mxsplicer.errors import InputError
from mxsplicer.result.cohort import (
    FILES,
    join_labels_of_slides,
)
from mxsplicer.result.folder import Result, write_features
from mxsplicer.result.options import Options
from mxsplicer.result.work import Work, record
from mxsplicer.splicer.run import Run, load_run
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.memory import give_back
from mxsplicer.tl.harmony import harmonize
from mxsplicer.tl.labels import (
    join_labels,
    join_samples,
    obs_name,
)
from mxsplicer.tl.representations import LEARNED, MEAN_INTENSITY

logger = logging.getLogger(__name__)

_STRETCHES, _STRETCH = 20, 1_000  # cells whose features tell how they are shared out among chunks
_PACKAGES = ("mxsplicer", "torch", "numpy", "zarr", "tifffile", "scikit-image", "scikit-learn", "anndata", "scanpy")


def analyse(work: Work) -> None:
    """Correlate, cluster and score the embedded cells, and write the AnnData."""
    options, result = work.options, work.result
    run = work.model or load_run(result.run, encoder=options.recipe.encoder)
    use_rep = f"X_{run.method}"
    with open_cells(result.embedded) as adata:
        adata.uns["spatialdata_attrs"] = {
            "region": [slide.name for slide in work.slides],
            "region_key": "slide",
            "instance_key": "cell_id",
        }
        adata.uns["mxsplicer"] = _about(work, run) | adata.uns["mxsplicer"]
        shares = run.chunk_shares(_some_rows(adata.obsm[use_rep]))
        if shares is not None:
            adata.uns["mxsplicer"]["chunks"]["share"] = shares
        if options.about_slides is not None:
            join_samples(adata, options.about_slides, leave=FILES)
        if not options.only_cells:
            of_slides = {entry.slide.name: entry.sample.labels for entry in work.entries if entry.sample.labels}
            interpret(adata, use_rep, options, of_slides, work.timed)
            write_features(result.features, adata.obsm[use_rep])
        adata.uns["mxsplicer"]["seconds"] = work.seconds
    complete_cells(adata, result.embedded, result.cells)


def split_result(result: Result, slides: Sequence[str], *, wanted: bool = True) -> None:
    """Write an AnnData of each slide beside the one of all, where there are several."""
    places = {name: result.of_slide(name, "cells.h5ad") for name in slides}
    places = {name: place for name, place in places.items() if place != result.cells and not place.exists()}
    if places and wanted:
        split_cells(result.cells, places)


def interpret(
    adata: AnnData,
    use_rep: str,
    options: Options,
    labels_of: Mapping[str, Path],
    timed: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Correlate and cluster embedded cells, and score them where there are labels.

    Parameters
    ----------
    adata
        The cells; what is known of their slides stands in ``obs`` already.
    use_rep
        Key of the representation.
    options
        Tells labels, groups and the seed.
    labels_of
        Tables of labels of single slides, by the slide's name.
    timed
        Around each stage, called with its name.
    """
    basis = use_rep
    if options.harmony is not None:
        with timed("harmony"):
            harmonize(adata, batch=obs_name(options.harmony), use_rep=use_rep, seed=options.seed)
            basis = "X_harmony"
    with timed("correlation and clusters"):
        tl.correlate(adata, use_rep=use_rep, key_added="splicer_correlation", lean=True)
        give_back()
        tl.cluster(adata, use_rep=basis, seed=options.seed)
        tl.name_clusters(adata)
    if adata.obs["slide"].nunique() > 1:
        with timed("mixing of slides"):
            _mix(adata, use_rep, seed=options.seed)
    if options.labels is not None or labels_of:
        with timed("scores"):
            _score(adata, options, labels_of)


def _mix(adata: AnnData, use_rep: str, *, seed: int) -> None:
    """Measure whether slides and batches can be told apart, before and after: by intensities, by what was learned."""
    learned = [use_rep, *(["X_harmony"] if "X_harmony" in adata.obsm else [])]
    names = {key: name for name, key in LEARNED.items()}
    shown = [names.get(key, key) for key in learned]
    found = []
    for batch in ("slide", "batch"):
        if batch not in adata.obs or adata.obs[batch].nunique() < 2:
            continue
        try:
            found.append(tl.measure_mixing(adata, batch=batch, representations=[MEAN_INTENSITY, *shown], seed=seed))
        except InputError as error:  # slides of too few cells
            logger.warning("whether a cell's %s can be told from its features is not known: %s", batch, error)
    if found:
        mixing = pd.concat(found, ignore_index=True)
        adata.uns["mxsplicer_mixing"] = mixing.assign(learned=mixing["representation"].isin(shown))


def _score(adata: AnnData, options: Options, labels_of: Mapping[str, Path]) -> None:
    groups = options.groups and obs_name(options.groups)
    joined = (
        join_labels(adata, options.labels, options.label)
        if options.labels
        else join_labels_of_slides(adata, labels_of, options.label)
    )
    for label in joined:
        try:
            tl.probe(adata, label=label, groups=groups, seed=options.seed)
        except InputError as error:  # hours of training are worth more than one score
            logger.warning("%s is not scored: %s", label, error)


def _some_rows(z: Any) -> np.ndarray:
    """Return stretches of a representation from all over it: rows that lie together are read fast."""
    starts = np.linspace(0, max(0, len(z) - _STRETCH), _STRETCHES, dtype=int)
    return (
        z[:] if len(z) <= _STRETCH * _STRETCHES else np.concatenate([z[start : start + _STRETCH] for start in starts])
    )


def _about(work: Work, run: Run) -> dict[str, Any]:
    """Return what ``uns["mxsplicer"]`` says of how the AnnData was made."""
    known = record(work)
    settings = known["options"]
    if work.model is not None:  # the run was trained with its own
        settings |= {key: run.settings[key] for key in settings.keys() & run.settings.keys() - {"patch_size_um"}}
    settings = {
        key: json.dumps(value) if isinstance(value, dict) else value  # a marker's name may be no key of an HDF5 file
        for key, value in settings.items()
        if value not in (None, [], {})
    }
    names = run.settings["components"]
    widths = np.array(run.settings.get("chunk_widths", [run.settings["chunk_width"]] * len(names)))
    if not run.has_chunks:  # such methods hold the whole embedding to something
        widths, names = widths.sum(keepdims=True), ["whole"]
    ends = widths.cumsum()
    masks = {
        entry.slide.name: entry.sample.mask or work.result.of_slide(entry.slide.name, "mask.zarr")
        for entry in work.entries
    }
    return {
        "version": version("mxsplicer"),
        "versions": {package: version(package) for package in _PACKAGES},
        "method": run.method,
        "settings": {**settings, "training": json.dumps(run.settings)},
        "fingerprints": {
            "weights": run.fingerprint(),
            "slides": {
                name: {"image": known["inputs"][name]["image"], "mask": fingerprint(mask)}
                for name, mask in masks.items()
            },
        },
        # Two arrays, because a marker such as HLA-DR/DP is no key of an HDF5 file.
        "chunks": {"component": np.array(names), "span": np.stack([ends - widths, ends], axis=1)},
        "patch_size_um": work.patch_size_um,
        "pixel_size_um": run.pixel_size_um,
    }
