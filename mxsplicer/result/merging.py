"""Combine results: single slides become one cohort, and new slides join a finished result."""

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
from anndata import AnnData

from mxsplicer.embedding.h5ad import complete_cells, join_cells, join_obs, mixed_columns, open_cells, read_uns
from mxsplicer.errors import InputError
from mxsplicer.result.analysis import interpret, split_result
from mxsplicer.result.cohort import find_slides, read_cohort
from mxsplicer.result.config import write_merge_config
from mxsplicer.result.features import write_features
from mxsplicer.result.folder import Result, log_to, open_result
from mxsplicer.result.options import Options
from mxsplicer.result.outcomes import concerns_one_slide, describe_failure, read_outcomes, record_output
from mxsplicer.result.pipeline import embed_slides
from mxsplicer.result.reporting import write_result_report
from mxsplicer.result.slides import FILE_COLUMNS, SlideRecord, image_files, read_records, write_records
from mxsplicer.system.files import write_json
from mxsplicer.system.fingerprints import fingerprint
from mxsplicer.system.locks import folder_lock
from mxsplicer.tl.fingerprints import clusters_changed, fingerprint_clusters
from mxsplicer.tl.representations import learned_key
from mxsplicer.tl.sample_tables import check_samples, join_samples
from mxsplicer.tl.transfer import transfer_clusters

logger = logging.getLogger(__name__)

_KEYS_BY_SLIDE = (  # of uns["mxsplicer"]
    *("ledger", "nuclei_ledger", "missing_markers", "spread", "larger_cells", "nuclear_marker", "few_cells"),
)


def merge_results(
    results: Sequence[str | Path],
    out: str | Path,
    *,
    options: Options | None = None,
    failed: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Result:
    """Combine slides that one model embedded: one AnnData, clustered, scored and reported as a whole.

    Parameters
    ----------
    results
        Result folders, of slides with different names; those made with ``only_cells`` are enough. Or the files of
        their outcomes, as a workflow writes them; slides that failed are left out.
    out
        Result folder to make. It refers to the model, images and masks where they lie.
    options
        ``cohort`` or ``samples``, ``labels``, ``label``, ``groups`` and the seed are used. The rows of a cohort's table
        for the slides that are merged give their patients, batches and labels.
    failed
        Further slides that are not among the results, and why.
    overwrite
        Replace a result that was merged from something else.

    Raises
    ------
    InputError
        If the results are of different models or markers, or two are of one slide.
    """
    folders, not_made = read_outcomes(results)
    options, failed = options or Options(), {**not_made, **(failed or {})}
    parts = [Result(path) for path in folders]
    runs = [open_result(part.path)["files"]["run"] for part in parts]
    records = [record for part in parts for record in read_records(part.path)]
    names = [record.name for record in records]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        msg = f"slide {twice.pop()!r} is in two of the results."
        raise InputError(msg, "Give each slide once.")
    if options.about_slides is not None:
        groups = None if options.groups == "slide" else options.groups
        check_samples(options.about_slides, names, groups, image_files(records))
    records = _with_labels(records, options.cohort)
    result = Result(Path(out), (*names, *failed))
    settings = {
        "options": {"merged": [str(part.path.resolve()) for part in parts], **_options_as_json(options)},
        "inputs": {record.name: dict(record.fingerprints) for record in records},
        "files": {"model": _common_description(parts)["fingerprints"]["weights"]},
        "slides": [*names, *failed],
        "failed": failed,
    }
    with folder_lock(result.path):
        if _is_done(result, settings, overwrite=overwrite):
            logger.info("%s is complete", result.path)
            return result
        result.path.mkdir(parents=True, exist_ok=True)
        write_json(result.settings, {**settings, "seconds": {}})
        write_merge_config(result.config, results, options, out=result.path)
        with log_to(result):
            seconds: dict[str, float] = {}
            if not result.cells.is_file():
                _join(parts, result, options, records, seconds)
            _finish(result, records, str((parts[0].path / runs[0]).resolve()), seconds)
            write_json(result.settings, {**settings, "seconds": seconds})
    record_output(result.path)
    return result


def append_slides(
    slides: Sequence[str | Path],
    path: str | Path,
    *,
    options: Options | None = None,
    **running: Any,
) -> Result:
    """Merge new slides into a finished result: its model embeds them, and their cells join the existing clusters.

    Nothing is trained or clustered again, and the existing rows stay as they are, to the last bit. A new cell has
    ``leiden_confidence``, the share of its neighbours' votes for its cluster; the others have none. After an
    interruption the same call continues.

    Parameters
    ----------
    slides
        Image files of the model's panel; none if ``options.cohort`` is a table, whose slides that the result lacks are
        added.
    path
        The result; its ``cells.h5ad`` is replaced when the new one is complete.
    options
        As for :func:`~mxsplicer.embed_slides`, except what concerns training and scores.
    running
        ``device``, ``workers``, ``executor`` and ``max_bytes``, as there.

    Raises
    ------
    InputError
        If the result is not finished or has no clusters, or a slide is in it already or does not fit its model.
    """
    options, path = options or Options(), Path(path)
    open_result(path)
    with folder_lock(path):
        run, records = str(open_result(path)["files"]["run"]), read_records(path)
        new = _new_slides(slides, options, {record.name for record in records}, path)
        settings = Result(path).read_settings()
        failed = {str(name): str(reason) for name, reason in settings.get("failed", {}).items()}
        if options.about_slides is not None:
            images = image_files(new)
            check_samples(options.about_slides, [*images], None, images)
            _report_mixed(Result(path), images, options.about_slides)
        added = _embed_new(new, Result(path), path / run, options, failed, running)
        names = [*dict.fromkeys([*settings.get("slides", [one.name for one in records]), *(one.name for one in new)])]
        result = Result(path, tuple(names))
        added_records = [record for one in added for record in read_records(one.path)]
        if added:
            with log_to(result):
                _append(result, [one.cells for one in added], options)
                write_records(result, [*records, *added_records], run=run)
        inputs = settings["inputs"] | {one.name: dict(one.fingerprints) for one in added_records}
        write_json(result.settings, {**settings, "slides": names, "failed": failed, "inputs": inputs})
        if added:
            write_result_report(path, overwrite=True)
    record_output(path)
    return result


def _embed_new(
    new: Sequence[SlideRecord],
    result: Result,
    model: Path,
    options: Options,
    failed: dict[str, str],
    running: Mapping[str, Any],
) -> list[Result]:
    """Embed each slide to append into a result inside the merged one; note slides of a cohort that fail."""
    for_each = replace(
        options,
        cohort=None,
        samples=None,
        masks=(),
        nuclei=(),
        labels=None,
        label=(),
        groups=None,
        model=model,
        only_cells=True,
    )
    added = []
    for record in new:
        try:
            added.append(embed_slides([record], result.slides / record.name, options=for_each, **running))
            failed.pop(record.name, None)
        except Exception as error:
            if options.cohort is None or not concerns_one_slide(error):
                raise
            failed[record.name] = f"appending: {describe_failure(error)}"
            logger.error("slide %s is not added (%s)", record.name, failed[record.name])
    return added


def _report_mixed(result: Result, images: Mapping[str, str], table: Path) -> None:
    """Warn of columns that have numbers in the merged result and text in the table of the new slides."""
    if not images:
        return
    index = pd.Index([str(i) for i in range(len(images))])
    slides = AnnData(obs=pd.DataFrame({"slide": pd.Categorical(list(images))}, index=index))
    joined = join_samples(slides, table, leave=FILE_COLUMNS, images=images)
    with open_cells(result.cells) as adata:
        mixed = mixed_columns([adata.obs[[one for one in joined if one in adata.obs]], slides.obs[joined]])
    for column in mixed:
        values = ", ".join(map(str, pd.unique(slides.obs[column].dropna())[:3]))
        logger.warning("column %r becomes text in all cells: it has numbers and, in %s, %s", column, table.name, values)


def _new_slides(
    slides: Sequence[str | Path], options: Options, known: Collection[str], path: Path
) -> list[SlideRecord]:
    records = find_slides(slides, options)
    existing = [record.name for record in records if record.name in known]
    if options.cohort is not None:
        return [record for record in records if record.name not in known]
    if existing:
        msg = f"{path} has a slide {existing[0]!r} already."
        raise InputError(
            msg,
            "Give slides that it lacks, or name another one in a table with the columns slide and path, as `cohort`.",
        )
    return records


def _append(result: Result, files: Sequence[Path], options: Options) -> None:
    """Write the cells of a merged result: its own, and those of other files after them."""
    with open_cells(result.cells) as adata:
        use_rep, uns, varm = learned_key(adata), dict(adata.uns), dict(adata.varm)
        existing = set(adata.obs["slide"].astype(str))
        umaps = [np.asarray(adata.obsm["X_umap"])] if "X_umap" in adata.obsm else []
        tables, joined = [adata.obs], []
        description = dict(uns["mxsplicer"])
        for file in files:
            with open_cells(file) as new:
                if set(new.obs["slide"].astype(str)) <= existing:  # from a call that was killed after this
                    continue
                found = transfer_clusters(adata, new.obsm[use_rep], use_rep=use_rep, seed=options.seed)
                new.obs["leiden"], new.obs["leiden_confidence"] = found.clusters, found.confidence
                if options.about_slides is not None:
                    images = image_files(read_records(file.parent))
                    join_samples(new, options.about_slides, leave=FILE_COLUMNS, images=images)
                tables.append(new.obs.copy())
                description = _join_descriptions(description, new.uns["mxsplicer"])
                joined.append(file)
                if found.umap is not None:
                    umaps.append(found.umap)
        if joined:
            obs = join_obs(tables)
            if "mxsplicer_cluster" in uns and not clusters_changed(adata):
                uns["mxsplicer_cluster"] |= {"clusters": fingerprint_clusters(obs["leiden"])}
    if joined:
        uns["mxsplicer"] = description
        uns["spatialdata_attrs"] = _spatialdata_attrs(obs)
        obsm = {"X_umap": np.concatenate(umaps)} if umaps else {}
        join_cells([result.cells, *joined], result.cells, uns=uns, varm=varm, obs=obs, obsm=obsm)
    with open_cells(result.cells) as adata:
        write_features(result.features, adata.obsm[use_rep], adata.obs_names)


def _join(
    parts: Sequence[Result],
    result: Result,
    options: Options,
    records: Sequence[SlideRecord],
    seconds: dict[str, float],
) -> None:
    """Merge the cells of all results as those of one, with correlations, clusters and scores."""

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        began = time.monotonic()
        logger.info("%s", stage)
        yield
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - began

    with timed("joining"):
        description = _common_description(parts)
        join_cells([part.cells for part in parts], result.embedded, uns={})
    with open_cells(result.embedded) as adata:
        use_rep = f"X_{description['method']}"
        adata.uns["spatialdata_attrs"] = _spatialdata_attrs(adata.obs)
        adata.uns["mxsplicer"] = description
        if options.about_slides is not None:
            join_samples(adata, options.about_slides, leave=FILE_COLUMNS, images=image_files(records))
        interpret(adata, use_rep, options, records, timed)
        description["seconds"] = seconds
        write_features(result.features, adata.obsm[use_rep], adata.obs_names)
    complete_cells(adata, result.embedded, result.cells)


def _common_description(parts: Sequence[Result]) -> dict[str, Any]:
    """Return ``uns["mxsplicer"]`` of merged cells; raise if they are not of one model."""
    common: dict[str, Any] = {}
    for part in parts:
        description = read_uns(part.cells, "mxsplicer")
        if common and description["fingerprints"]["weights"] != common["fingerprints"]["weights"]:
            msg = f"{parts[0].path} and {part.path} were embedded by different models."
            raise InputError(msg, "Embed all slides with one `model`.")
        common = _join_descriptions(common, description) if common else description
    return common


def _join_descriptions(description: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merged ``uns["mxsplicer"]`` of some slides and of others."""
    slides = {**description["fingerprints"]["slides"], **more["fingerprints"]["slides"]}
    joined = {**description, "fingerprints": {**description["fingerprints"], "slides": slides}}
    for key in _KEYS_BY_SLIDE:
        if key in description or key in more:
            joined[key] = {**description.get(key, {}), **more.get(key, {})}
    return joined


def _spatialdata_attrs(obs: pd.DataFrame) -> dict[str, Any]:
    return {"region": list(map(str, obs["slide"].cat.categories)), "region_key": "slide", "instance_key": "cell_id"}


def _finish(result: Result, records: Sequence[SlideRecord], run: str, seconds: dict[str, float]) -> None:
    split_result(result, [record.name for record in records])
    write_records(result, records, run=run)  # the report finds the images by it
    began = time.monotonic()
    write_result_report(result.path, overwrite=True)
    seconds["report"] = time.monotonic() - began
    write_records(result, records, run=run)


def _is_done(result: Result, settings: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return whether the merge is finished; if not, clear the folder, continue the same call, or refuse."""
    if not result.path.exists():
        return False
    if not result.settings.is_file() and any(result.path.iterdir()):
        msg = f"{result.path} exists and is not a result of mxsplicer."
        raise InputError(msg, "Choose another `out`.")
    found = result.read_settings()
    # Compared as JSON returns it: tuples are lists.
    if {key: found.get(key) for key in settings} == json.loads(json.dumps(dict(settings))):
        return bool(result.index.is_file() and result.report.is_file())
    if found and not overwrite:
        msg = f"{result.path} exists and was merged from something else."
        raise InputError(msg, "Choose another `out`, or pass `overwrite=True` to replace it.")
    shutil.rmtree(result.path)
    return False


def _options_as_json(options: Options) -> dict[str, Any]:
    """Return the options that a merged result depends on."""
    tables = {"cohort": options.cohort, "samples": options.samples, "labels": options.labels}
    prints = {name: fingerprint(path) for name, path in tables.items() if path is not None}
    return {"tables": prints, "label": list(options.label), "groups": options.groups, "seed": options.seed}


def _with_labels(records: Sequence[SlideRecord], cohort: Path | None) -> list[SlideRecord]:
    """Return the slides to merge with the tables of labels that the table of a cohort names."""
    labels = {record.name: record.labels for record in read_cohort(cohort)} if cohort is not None else {}
    return [replace(record, labels=labels.get(record.name)) for record in records]
