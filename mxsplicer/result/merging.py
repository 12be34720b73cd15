"""Results brought together: those of single slides become one cohort, and a new slide joins a finished one."""

import json
import logging
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mxsplicer.embedding.h5ad import complete_cells, join_cells, join_obs, open_cells, read_uns
from mxsplicer.errors import InputError
from mxsplicer.images.readers import slide_name
from mxsplicer.result.analysis import interpret, split_result
from mxsplicer.result.cohort import FILES, Sample, read_cohort
from mxsplicer.result.composition import embed_slides, write_result_report
from mxsplicer.result.folder import Result, logged, open_result, write_features, write_index
from mxsplicer.result.opening import samples_of
from mxsplicer.result.options import Options
from mxsplicer.result.outcomes import is_of_slide, note, reason_of
from mxsplicer.system.files import write_json
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.location import absolute, locate
from mxsplicer.system.locks import folder_lock
from mxsplicer.tl.labels import check_samples, join_samples
from mxsplicer.tl.rows import learned_features
from mxsplicer.tl.transfer import transfer_clusters

logger = logging.getLogger(__name__)

_OF_SLIDES = ("ledger", "nuclei_ledger", "missing_markers", "normalization")  # of uns["mxsplicer"], by slide


def merge_results(
    results: Sequence[str | Path],
    out: str | Path,
    *,
    options: Options | None = None,
    failed: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Result:
    """Bring slides that one model embedded together: one AnnData, clustered, scored and reported as a whole.

    Parameters
    ----------
    results
        Result folders, of slides of different names; those that stopped at their cells (``only_cells``) are enough.
    out
        Result folder to make. It refers to the model, images and masks where they lie.
    options
        ``cohort`` or ``samples``, ``labels``, ``label``, ``groups`` and the seed count here. Of the table of a cohort
        the slides that are there tell their patients, batches and labels.
    failed
        Slides that are not among the results, and why.
    overwrite
        Replace a result that was merged from something else.

    Raises
    ------
    InputError
        If the results are of different models or markers, or two are of one slide.
    """
    options, failed = options or Options(), dict(failed or {})
    folders = [Path(path) for path in results]
    indices = [open_result(folder) for folder in folders]
    entries = [_moved(one, folder) for folder, index in zip(folders, indices, strict=True) for one in index["slides"]]
    names = [str(entry["name"]) for entry in entries]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        msg = f"slide {twice.pop()!r} is in two of the results. Give each slide once."
        raise InputError(msg)
    if options.about_slides is not None:
        check_samples(options.about_slides, names, None if options.groups == "slide" else options.groups)
    labels_of = _labels_of(options.cohort, names)
    result = Result(Path(out), (*names, *failed))
    merged = {
        "options": {"merged": [str(folder.resolve()) for folder in folders], **_said(options)},
        "inputs": {entry["name"]: entry["fingerprints"] for entry in entries},
        "files": {"model": _common_settings(folders)["fingerprints"]["weights"]},
        "slides": [*names, *failed],
        "failed": failed,
    }
    with folder_lock(result.path):
        if _is_done(result, merged, overwrite=overwrite):
            return result
        result.path.mkdir(parents=True, exist_ok=True)
        write_json(result.settings, {**merged, "seconds": {}})
        with logged(result):
            seconds: dict[str, float] = {}
            if not result.cells.is_file():
                _join(folders, result, options, labels_of, seconds)
            run = str((folders[0] / indices[0]["files"]["run"]).resolve())
            _finish(result, entries, run, seconds)
            write_json(result.settings, {**merged, "seconds": seconds})
    note(result.path)
    return result


def append_slides(
    slides: Sequence[str | Path],
    path: str | Path,
    *,
    options: Options | None = None,
    **how: Any,
) -> Result:
    """Add slides to a finished result: its model embeds them, and their cells join the clusters that there are.

    Nothing is trained or clustered anew, and the rows that were there stay as they are, to the last bit. A new cell has
    ``leiden_confidence``, the share of its neighbours' votes that its cluster got; the others have none. Interrupted,
    the same call goes on.

    Parameters
    ----------
    slides
        Image files of the model's panel; none where ``options.cohort`` names a table, whose slides that the result
        lacks are added.
    path
        The result; its ``cells.h5ad`` is replaced when the new one is whole.
    options
        As for :func:`~mxsplicer.result.embed_slides`, but for what concerns training and scores.
    how
        ``device``, ``workers``, ``executor`` and ``max_bytes``, as there.

    Raises
    ------
    InputError
        If the result is not finished or has no clusters, or a slide is in it already or does not fit its model.
    """
    options, path = options or Options(), Path(path)
    open_result(path)
    with folder_lock(path):
        index = open_result(path)
        known = {str(entry["name"]) for entry in index["slides"]}
        samples = _new_samples(slides, options, known, path)
        record = json.loads((path / "settings.json").read_text(encoding="utf-8"))
        failed = {str(name): str(reason) for name, reason in record.get("failed", {}).items()}
        if options.about_slides is not None:
            check_samples(options.about_slides, [name for name, _ in samples], None)
        alone = replace(
            options,
            cohort=None,
            samples=None,
            masks=(),
            nuclei=(),
            labels=None,
            label=(),
            groups=None,
            model=path / index["files"]["run"],
            only_cells=True,
        )
        added = []
        for name, sample in samples:
            try:
                added.append(embed_slides([sample], path / "slides" / name, options=alone, **how))
                failed.pop(name, None)
            except Exception as error:
                if options.cohort is None or not is_of_slide(error):
                    raise
                failed[name] = f"appending: {reason_of(error)}"
                logger.error("slide %s is not added (%s)", name, failed[name])
        names = [*dict.fromkeys([*record.get("slides", sorted(known)), *(name for name, _ in samples)])]
        result = Result(path, tuple(names))
        entries = [_moved(entry, one.path) for one in added for entry in open_result(one.path)["slides"]]
        if added:
            with logged(result):
                _append(result, [one.cells for one in added], options)
                write_index(result, [*index["slides"], *entries], run=index["files"]["run"])
        inputs = record["inputs"] | {entry["name"]: entry["fingerprints"] for entry in entries}
        write_json(result.settings, {**record, "slides": names, "failed": failed, "inputs": inputs})
        if added:
            write_result_report(path, overwrite=True)
    note(path)
    return result


def _new_samples(
    slides: Sequence[str | Path], options: Options, known: Collection[str], path: Path
) -> list[tuple[str, Sample]]:
    samples = [(one.name or slide_name(one.path), one) for one in samples_of(slides, options)]
    there = [name for name, _ in samples if name in known]
    if options.cohort is not None:
        samples = [(name, sample) for name, sample in samples if name not in known]
    elif there:
        msg = f"{path} has a slide {there[0]!r} already. Give slides that it lacks, or rename the file of another one."
        raise InputError(msg)
    return samples


def _append(result: Result, files: Sequence[Path], options: Options) -> None:
    """Write the cells of a result with those of other files after them."""
    with open_cells(result.cells) as adata:
        use_rep, uns, varm = learned_features(adata), dict(adata.uns), dict(adata.varm)
        there = set(adata.obs["slide"].astype(str))
        maps, parts = [np.asarray(adata.obsm["X_umap"])] if "X_umap" in adata.obsm else [], []
        about, taken = dict(uns["mxsplicer"]), []
        for file in files:
            with open_cells(file) as fresh:
                if set(fresh.obs["slide"].astype(str)) <= there:  # of a call that was killed after this
                    continue
                found = transfer_clusters(adata, fresh.obsm[use_rep], use_rep=use_rep, seed=options.seed)
                fresh.obs["leiden"], fresh.obs["leiden_confidence"] = found.clusters, found.confidence
                if options.about_slides is not None:
                    join_samples(fresh, options.about_slides, leave=FILES)
                parts.append(fresh.obs.copy())
                about = _with_slides(about, fresh.uns["mxsplicer"])
                taken.append(file)
                if found.umap is not None:
                    maps.append(found.umap)
        if taken:
            obs = join_obs([adata.obs, *parts])
    if taken:
        uns["mxsplicer"] = about
        uns["spatialdata_attrs"] = _regions(obs)
        obsm = {"X_umap": np.concatenate(maps)} if maps else {}
        join_cells([result.cells, *taken], result.cells, uns=uns, varm=varm, obs=obs, obsm=obsm)
    with open_cells(result.cells) as adata:
        write_features(result.features, adata.obsm[use_rep])


def _join(
    folders: Sequence[Path],
    result: Result,
    options: Options,
    labels_of: Mapping[str, Path],
    seconds: dict[str, float],
) -> None:
    """Write the cells of all folders as those of one result, with what is made of them together."""

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        began = time.monotonic()
        logger.info("%s", stage)
        yield
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - began

    with timed("joining"):
        about = _common_settings(folders)
        join_cells([folder / "cells.h5ad" for folder in folders], result.embedded, uns={})
    with open_cells(result.embedded) as adata:
        use_rep = f"X_{about['method']}"
        adata.uns["spatialdata_attrs"] = _regions(adata.obs)
        adata.uns["mxsplicer"] = about
        if options.about_slides is not None:
            join_samples(adata, options.about_slides, leave=FILES)
        interpret(adata, use_rep, options, labels_of, timed)
        about["seconds"] = seconds
        write_features(result.features, adata.obsm[use_rep])
    complete_cells(adata, result.embedded, result.cells)


def _common_settings(folders: Sequence[Path]) -> dict[str, Any]:
    """Return ``uns["mxsplicer"]`` of all cells, or raise where they are not of one model."""
    merged: dict[str, Any] = {}
    for folder in folders:
        about = read_uns(folder / "cells.h5ad", "mxsplicer")
        if merged and about["fingerprints"]["weights"] != merged["fingerprints"]["weights"]:
            msg = f"{folders[0]} and {folder} were embedded by different models. Embed all slides by one, by --model."
            raise InputError(msg)
        merged = _with_slides(merged, about) if merged else about
    return merged


def _with_slides(about: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of some slides with what is said of others."""
    slides = {**about["fingerprints"]["slides"], **more["fingerprints"]["slides"]}
    joined = {**about, "fingerprints": {**about["fingerprints"], "slides": slides}}
    for key in _OF_SLIDES:
        if key in about or key in more:
            joined[key] = {**about.get(key, {}), **more.get(key, {})}
    return joined


def _regions(obs: pd.DataFrame) -> dict[str, Any]:
    return {"region": list(map(str, obs["slide"].cat.categories)), "region_key": "slide", "instance_key": "cell_id"}


def _finish(result: Result, entries: Sequence[Mapping[str, Any]], run: str, seconds: dict[str, float]) -> None:
    split_result(result, [str(entry["name"]) for entry in entries])
    write_index(result, entries, run=run)  # the report finds the images by it
    began = time.monotonic()
    write_result_report(result.path, overwrite=True)
    seconds["report"] = time.monotonic() - began
    write_index(result, entries, run=run)


def _is_done(result: Result, meant: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return whether the result is there; go on with one that was begun, remove another where wanted, or refuse it."""
    if not result.path.exists():
        return False
    if not result.settings.is_file() and any(result.path.iterdir()):
        msg = f"{result.path} exists and is not a result of mxsplicer. Choose another folder by --out."
        raise InputError(msg)
    found = json.loads(result.settings.read_text(encoding="utf-8")) if result.settings.is_file() else {}
    if {key: found.get(key) for key in meant} == dict(meant):
        return bool(result.index.is_file() and result.report.is_file())
    if found and not overwrite:
        msg = f"{result.path} exists and was merged from something else. Choose another --out, or give --overwrite."
        raise InputError(msg)
    shutil.rmtree(result.path)
    return False


def _said(options: Options) -> dict[str, Any]:
    """Return what a merged result depends on beside its slides."""
    tables = {"cohort": options.cohort, "samples": options.samples, "labels": options.labels}
    prints = {name: fingerprint(path) for name, path in tables.items() if path is not None}
    return {"tables": prints, "label": list(options.label), "groups": options.groups, "seed": options.seed}


def _labels_of(cohort: Path | None, names: Sequence[str]) -> dict[str, Path]:
    samples = read_cohort(cohort) if cohort is not None else []
    return {str(one.name): one.labels for one in samples if one.labels is not None and one.name in names}


def _moved(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a slide's entry of an index with paths that hold from any folder."""
    mask = locate(entry["mask"])
    patches = entry["patches"] and str((folder / entry["patches"]).resolve())
    return {**entry, "mask": absolute(folder / mask if isinstance(mask, Path) else mask), "patches": patches}
