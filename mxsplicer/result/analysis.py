"""The stages after the embedding: correlations, clusters, mixing of slides and scores, into the AnnData."""

import json
import logging
from collections.abc import Callable, Sequence
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
from mxsplicer.images.ngff import read_label_settings
from mxsplicer.result.cohort import join_labels_of_slides
from mxsplicer.result.features import write_features
from mxsplicer.result.folder import Result
from mxsplicer.result.job import Job
from mxsplicer.result.options import Options
from mxsplicer.result.slides import FILE_COLUMNS, SlideRecord, image_files
from mxsplicer.splicer.run import Run, load_run
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.memory import give_back
from mxsplicer.tl.harmony import harmonize
from mxsplicer.tl.labels import join_labels, obs_name
from mxsplicer.tl.representations import MEAN_INTENSITY
from mxsplicer.tl.representations import learned as learned_representations
from mxsplicer.tl.sample_tables import join_samples

logger = logging.getLogger(__name__)

_N_RUNS, _RUN_LENGTH = 20, 1_000  # rows of z on which chunk shares are computed
_PACKAGES = ("mxsplicer", "torch", "numpy", "zarr", "tifffile", "scikit-image", "scikit-learn", "anndata", "scanpy")


def analyse(job: Job) -> None:
    """Analyse the embedded cells, correlate, cluster and score them, and write the AnnData."""
    options, result = job.options, job.result
    run = job.model or load_run(result.run, encoder=job.recipe.encoder)
    use_rep = f"X_{run.method}"
    with open_cells(result.embedded) as adata:
        adata.uns["spatialdata_attrs"] = {
            "region": [one.name for one in job.slides],
            "region_key": "slide",
            "instance_key": "cell_id",
        }
        adata.uns["mxsplicer"] = _describe_call(job, run) | adata.uns["mxsplicer"]
        shares = run.chunk_shares(_some_rows(adata.obsm[use_rep]))
        if shares is not None:
            adata.uns["mxsplicer"]["chunks"]["share"] = shares
        if options.about_slides is not None:
            join_samples(adata, options.about_slides, leave=FILE_COLUMNS, images=image_files(job.records))
        if not options.only_cells:
            interpret(adata, use_rep, options, job.records, job.timed)
            write_features(result.features, adata.obsm[use_rep], adata.obs_names)
        adata.uns["mxsplicer"]["seconds"] = job.seconds
    complete_cells(adata, result.embedded, result.cells)


def split_result(result: Result, slides: Sequence[str], *, wanted: bool = True) -> None:
    """Write the analysed cells of each slide as an AnnData next to that of all, if there are several and ``wanted``."""
    places = {name: result.cells_of(name) for name in slides}
    places = {name: place for name, place in places.items() if place != result.cells and not place.exists()}
    if places and wanted:
        split_cells(result.cells, places)


def interpret(
    adata: AnnData,
    use_rep: str,
    options: Options,
    records: Sequence[SlideRecord],
    timed: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Analyse embedded cells: correlate and cluster them, and score them if there are labels.

    Parameters
    ----------
    adata
        The cells, with columns on their slides in ``obs``.
    use_rep
        Key of the representation.
    options
        Gives labels, groups and the seed.
    records
        The slides, with tables of labels of single ones.
    timed
        Context manager around each stage, called with the stage's name.
    """
    basis = use_rep
    if options.harmony is not None:
        with timed("harmony"):
            harmonize(adata, batch=obs_name(options.harmony), use_rep=use_rep, seed=options.seed)
            basis = "X_harmony"
    with timed("correlation and clusters"):
        tl.cluster(adata, use_rep=basis, seed=options.seed)  # what users wait for
        give_back()
        tl.correlate(adata, use_rep=use_rep, key_added="splicer_correlation", lean=True)
        give_back()
        tl.explain_clusters(adata)
        tl.name_clusters(adata)
    if adata.obs["slide"].nunique() > 1:
        with timed("mixing of slides"):
            _add_mixing(adata, use_rep, seed=options.seed)
    if options.labels is not None or any(record.labels for record in records):
        with timed("scores"):
            _score(adata, options, records)


def _add_mixing(adata: AnnData, use_rep: str, *, seed: int) -> None:
    """Analyse mixing: how well slides and batches can be predicted, from mean intensities and features."""
    learned = [use_rep, *(["X_harmony"] if "X_harmony" in adata.obsm else [])]
    names = {key: name for name, key in learned_representations(adata).items()}
    shown = [names.get(key, key) for key in learned]
    found = []
    for batch in ("slide", "batch"):
        if batch not in adata.obs or adata.obs[batch].nunique() < 2:
            continue
        try:
            found.append(tl.measure_mixing(adata, batch=batch, representations=[MEAN_INTENSITY, *shown], seed=seed))
        except InputError as error:  # slides of too few cells
            logger.warning("whether a cell's %s can be predicted from its features was not measured: %s", batch, error)
    if found:
        mixing = pd.concat(found, ignore_index=True)
        adata.uns["mxsplicer_mixing"] = mixing.assign(learned=mixing["representation"].isin(shown))


def _score(adata: AnnData, options: Options, records: Sequence[SlideRecord]) -> None:
    groups = options.groups and obs_name(options.groups)
    joined = (
        join_labels(adata, options.labels, options.label, images=image_files(records))
        if options.labels
        else join_labels_of_slides(adata, records, options.label)
    )
    for label in joined:
        try:
            tl.probe(adata, label=label, groups=groups, seed=options.seed)
        except InputError as error:  # hours of training are worth more than one score
            logger.warning("%s is not scored: %s", label, error)


def _some_rows(z: Any) -> np.ndarray:
    """Return runs of consecutive rows, spread evenly over a representation, whose spectrum is analysed."""
    if len(z) <= _RUN_LENGTH * _N_RUNS:
        return np.asarray(z[:])
    starts = np.linspace(0, len(z) - _RUN_LENGTH, _N_RUNS, dtype=int)
    return np.concatenate([z[start : start + _RUN_LENGTH] for start in starts])


def _describe_call(job: Job, run: Run) -> dict[str, Any]:
    """Return the call whose cells are analysed, ``uns["mxsplicer"]``: how the AnnData was made."""
    masks = {one.name: one.record.mask for one in job.slides}
    made = {name: read_label_settings(mask) for name, mask in masks.items() if isinstance(mask, Path)}
    few = {name: about["warning"] for name, about in made.items() if about and "warning" in about}
    nuclear = {name: about["nuclear_marker"] for name, about in made.items() if about and "nuclear_marker" in about}
    return {
        "version": version("mxsplicer"),
        "versions": {package: version(package) for package in _PACKAGES},
        "method": run.method,
        "models": {run.fingerprint(): run.method},  # by fingerprint, so that anndata.concat keeps all of them
        "settings": _settings_of(job, run),
        "fingerprints": {
            "weights": run.fingerprint(),
            "slides": {
                name: {"image": job.inputs[name]["image"], "mask": fingerprint(mask)}
                for name, mask in masks.items()
                if mask is not None
            },
        },
        "chunks": _chunks_of(run),
        **({"features": np.array(names)} if (names := run.feature_names) else {}),
        "patch_size_um": job.patch_size_um,
        **({"larger_cells": job.chosen["larger_cells"]} if "larger_cells" in job.chosen else {}),
        "pixel_size_um": run.pixel_size_um,
        **({"nuclear_marker": nuclear} if nuclear else {}),
        **({"few_cells": few} if few else {}),
    }


def _settings_of(job: Job, run: Run) -> dict[str, Any]:
    settings = job.settings()["options"]
    if not job.trains:  # the run has its own
        settings |= {key: run.settings[key] for key in settings.keys() & run.settings.keys() - {"patch_size_um"}}
    settings = {
        # As JSON, because the name of a marker may not be a valid key of an HDF5 file.
        key: json.dumps(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if value not in (None, [], {})
    }
    return {**settings, "training": json.dumps(run.settings)}


def _chunks_of(run: Run) -> dict[str, np.ndarray]:
    names = run.settings["components"]
    widths = np.array(run.settings.get("chunk_widths", [run.settings["chunk_width"]] * len(names)))
    if not run.has_chunks:  # the loss of such a method is on the whole embedding
        widths, names = widths.sum(keepdims=True), ["whole"]
    ends = widths.cumsum()
    # Two arrays, because a marker such as HLA-DR/DP is not a valid key of an HDF5 file.
    return {"component": np.array(names), "span": np.stack([ends - widths, ends], axis=1)}
