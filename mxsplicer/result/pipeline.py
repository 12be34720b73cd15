"""From slides to a result: all stages in one call.

Every stage writes under a temporary name and renames when it is done, and ``settings.json`` records what the folder was
begun with. So the same call continues where it stopped, a finished one does nothing, and a different one is refused.
"""

import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mxsplicer.cells.measure import measure_cells
from mxsplicer.cells.selection import keep_inside
from mxsplicer.embedding.embed import embed_blocks, join_blocks
from mxsplicer.embedding.journal import BlockJournal
from mxsplicer.embedding.sources import Source, from_slide, from_store
from mxsplicer.images.slide import Slide
from mxsplicer.masks.files import open_mask, open_nuclei
from mxsplicer.patches.extraction import extract_patches
from mxsplicer.patches.store import PatchStore
from mxsplicer.result.analysis import analyse, split_result
from mxsplicer.result.cohort import training_cells_of_slides
from mxsplicer.result.folder import Result, log_to
from mxsplicer.result.job import Job, JobSlide, open_job
from mxsplicer.result.options import Options, Running
from mxsplicer.result.outcomes import record_output
from mxsplicer.result.patch_size import fit_patches
from mxsplicer.result.planning import check_memory, choose_steps
from mxsplicer.result.reporting import write_result_report
from mxsplicer.result.settings import begin_result, is_begun, report_choices
from mxsplicer.result.slides import SlideRecord, image_files, write_records
from mxsplicer.segmentation.segment import segment
from mxsplicer.splicer.built_in import measure_moments
from mxsplicer.splicer.recipe import Recipe
from mxsplicer.splicer.run import Run, load_run, untrained
from mxsplicer.system.locks import folder_lock
from mxsplicer.system.memory import give_back
from mxsplicer.system.own_process import is_own_process
from mxsplicer.tl.clustering import compile_early
from mxsplicer.tl.drawn_outlines import find_roi_files
from mxsplicer.tl.labels import check_labels

logger = logging.getLogger(__name__)

_MATCHED = ("cell_id", "x_px", "y_px")  # columns of cells that are compared with a table of labels


def embed_slides(
    slides: str | Path | Sequence[str | Path | SlideRecord] = (),
    out: str | Path | None = None,
    *,
    options: Options | None = None,
    device: str = "auto",
    workers: int | None = None,
    executor: str = "threads",
    max_bytes: int | None = None,
    overwrite: bool = False,
) -> Result:
    """Turn slides into an AnnData of their cells with an embedding, and a report.

    Parameters
    ----------
    slides
        Image files of one panel, or records with their masks and tables; none if ``options.cohort`` is a table of them.
        One model is trained on all slides, on equally many cells of each as far as it has them.
    out
        Result folder; ``SLIDE.mxs`` by default for a single slide.
    options
        Everything that changes the result.
    device, workers, executor, max_bytes
        Where, on how many workers of which kind, and in how much memory; the result is the same.
    overwrite
        Replace a result that was made from other slides or with other options.

    Raises
    ------
    InputError
        If anything given does not fit; nothing is written then. Or if another command works on the same folder.

    Notes
    -----
    A slide that fails while the others continue is left out, with the reason in ``Result.failed``: from the start for
    slides of a cohort's table, once the result is begun for slides that were named. The same call leaves it out again.
    """
    running = Running(device, workers, executor, max_bytes)
    job = open_job(slides, out, options or Options(), running, overwrite=overwrite)
    check_memory(job)
    with folder_lock(job.result.path):
        if not is_begun(job):
            check_before_writing(job)
            check_memory(job)
        begin_result(job, overwrite=overwrite)
        if job.result.index.is_file():
            logger.info("%s is complete", job.result.path)
        else:
            with log_to(job.result):
                _run_stages(job)
    record_output(job.result.path)
    return job.result


def _run_stages(job: Job) -> None:
    """Run the stages of the pipeline that are not done."""
    for name, reason in job.failed.items():
        logger.warning("without slide %s: %s", name, reason)
    result = job.result
    if is_own_process() and not (result.cells.is_file() or job.options.only_cells or job.running.max_bytes):
        compile_early()
    make_masks(job)
    if not result.cells.is_file():
        if not result.embedded.is_file():
            embed_cells(job)
            for one in job.slides:
                one.cells = None  # millions of cells take hundreds of megabytes
            with job.timed("embedding"):
                join_blocks(result.embedded, slides=[one.name for one in job.slides])
        give_back()
        analyse(job)
        gc.collect()  # an AnnData refers to itself
        give_back()
    BlockJournal.of(result.embedded).remove()
    split_result(result, [one.name for one in job.slides], wanted=job.options.per_slide)
    if not (result.report.is_file() or job.options.only_cells):
        with job.timed("report"):
            masks = [one.made_mask for one in job.slides]
            write_result_report(result.path, slides=job.images, masks=masks)
    run = job.model.path.resolve() if job.model and job.model.path else result.run.relative_to(result.path)
    write_records(result, [_finished_record(job, one) for one in job.slides], run=str(run))


def _finished_record(job: Job, one: JobSlide) -> SlideRecord:
    patches = job.result.patches_of(one.name)
    return replace(one.record, patches=patches if patches.exists() else None, fingerprints=job.inputs[one.name])


def check_before_writing(job: Job) -> None:
    """Run the stage of cells early if all masks are given: what does not fit is found before anything is written."""
    if any(one.mask is None for one in job.slides):
        return
    began = time.monotonic()
    measure(job)
    fit_patches(job)
    choose_steps(job)
    job.for_each_slide("labels", lambda one: _check_labels(job, one))
    if job.options.labels is not None:
        of_slides = {one.name: _matched_columns(one) for one in job.slides}
        cells = pd.concat(of_slides, names=["slide"]).reset_index("slide")
        check_labels(job.options.labels, job.options.label, cells, image_files(job.records))
    job.seconds["cells"] = time.monotonic() - began


def make_masks(job: Job) -> None:
    """Run the stage of masks: segment the slides without one, with their nuclei if the segmenter finds them."""

    def make_mask(one: JobSlide) -> None:
        if one.mask is not None:
            return
        path, nuclei = job.result.mask_of(one.name), job.result.nuclei_of(one.name)
        if not path.exists():
            with job.timed("segmentation"):
                _segment(job, one.slide, path, nuclei)
        one.mask = open_mask(path, slide=one.slide)
        one.nuclei = open_nuclei(nuclei, one.slide) if nuclei.exists() else None
        one.record = replace(one.record, mask=path)

    job.for_each_slide("segmentation", make_mask)


def measure(job: Job) -> None:
    """Run the stage of cells: measure those of every slide."""
    options, running = job.options, job.running
    outlines = find_roi_files(options.roi, [one.name for one in job.slides]) if options.roi is not None else {}

    def measure_slide(one: JobSlide) -> None:
        cells = measure_cells(
            one.slide,
            one.made_mask,
            nuclei=one.nuclei,
            statistics=("mean", *options.measure),
            min_area_um2=options.min_area_um2,
            workers=running.workers,
            executor=running.executor,
            max_bytes=running.max_bytes,
        )
        one.cells = keep_inside(cells, outlines[one.name], one.slide) if outlines else cells

    job.for_each_slide("cells", measure_slide)


def embed_cells(job: Job) -> None:
    """Run the stages of training and embedding: train or take a model, and write z of every cell to the journal."""
    if any(one.cells is None for one in job.slides):
        with job.timed("cells"):
            measure(job)
    fit_patches(job)
    choose_steps(job)
    report_choices(job)
    job.save_settings()
    stores = {} if job.model and not job.options.keep_patches else _cut_stores(job)
    run = job.model or _train(job, list(stores.values()), job.result.run, job.recipe)
    baselines = _make_baselines(job, list(stores.values()), run)
    with job.timed("embedding"):
        sources = job.for_each_slide("embedding", lambda one: _source_of(job, one, stores.get(one.name)))
        by_name = {one.name: one for one in job.slides}
        embed_blocks(
            job.result.embedded,
            run,
            sources,
            baselines=baselines,
            closed_form=job.has_labels and job.options.baselines,
            device=job.running.device,
            fill_missing=job.options.fill_missing or run.fills_missing,
            on_failure=lambda name, error: job.leave_out(by_name[name], "embedding", error),
        )


def _matched_columns(one: JobSlide) -> pd.DataFrame:
    """Return the columns of the cells of a slide that are compared with a table of labels."""
    cells = one.measured_cells
    matched = cells.table[list(_MATCHED)]
    return matched if cells.object_ids is None else matched.assign(object_id=cells.object_ids)


def _check_labels(job: Job, one: JobSlide) -> None:
    if one.record.labels is not None:
        cells = _matched_columns(one).assign(slide=one.name)
        check_labels(one.record.labels, job.options.label, cells, image_files([one.record]))


def _segment(job: Job, slide: Slide, path: Path, nuclei: Path) -> None:
    options = job.options
    path.parent.mkdir(parents=True, exist_ok=True)
    segment(
        slide,
        path,
        nuclear_marker=options.nuclear_marker,
        nucleus_diameter_um=options.nucleus_diameter_um,
        expansion_um=options.expansion_um,
        membrane_marker=options.membrane_marker,
        segmenter=options.segmenter,
        nuclei_path=nuclei if options.finds_nuclei else None,
        workers=job.running.workers,
        executor=job.running.executor,
        max_bytes=job.running.max_bytes,
        overwrite=True,  # nuclei of a call that was killed between the two files
    )


def _cut_stores(job: Job) -> dict[str, PatchStore]:
    """Run the stage of cutting: the training sample of every slide, or the patches of all cells if they are kept.

    The sample has equally many cells of each slide, so that a large slide does not dominate the training.
    """
    n_cells = {one.name: len(one.measured_cells) for one in job.slides}
    keep_all = job.options.keep_patches
    n_sampled = n_cells if keep_all else training_cells_of_slides(job.training_cells, n_cells)

    def cut(one: JobSlide) -> tuple[str, PatchStore]:
        path = job.result.patches_of(one.name)
        if path.exists():
            return one.name, PatchStore.open(path)
        with job.timed("patches"):
            return one.name, _cut_store(job, one, path, n_sampled[one.name])

    return dict(job.for_each_slide("patches", cut))


def _cut_store(job: Job, one: JobSlide, path: Path, n_cells: int) -> PatchStore:
    path.parent.mkdir(parents=True, exist_ok=True)
    return extract_patches(
        one.slide,
        one.made_mask,
        path,
        patch_size_um=job.patch_size_on(one.slide),
        nuclei=one.nuclei if job.options.shows_nuclei else None,
        cells=one.measured_cells,
        max_cells=n_cells,
        seed=job.options.seed,
        workers=job.running.workers,
        executor=job.running.executor,
        max_bytes=job.running.max_bytes,
    )


def _train(job: Job, stores: Sequence[PatchStore], path: Path, recipe: Recipe) -> Run:
    if path.exists():
        return load_run(path, encoder=recipe.encoder)
    if not recipe.trains:
        with job.timed("scales"):
            return measure_moments(stores, path, recipe=recipe, panel=job.options.panel)
    from mxsplicer.splicer.training import train  # Fabric takes a second to load

    n_cells = sum(store.n_cells for store in stores)
    steps = recipe.count_steps(max(1, n_cells // min(recipe.batch_size, n_cells)))
    with job.timed("training" if path == job.result.run else f"training the baseline ({recipe.method})"):
        logger.info("%d steps of %d cells, on %d cells", steps, min(recipe.batch_size, n_cells), n_cells)
        return train(
            stores,
            path,
            recipe=recipe,
            panel=job.options.panel,
            device=job.running.device,
            alone=True,  # other tasks of srun would wait for the lock of the result, and this one for them
            max_bytes=job.running.max_bytes,
        )


def _make_baselines(job: Job, stores: Sequence[PatchStore], run: Run) -> dict[str, Run]:
    """Run the stage of baselines: return encoders to compare with, if there are labels to score them on."""
    if not job.scores_untrained:
        return {}
    baselines = {"X_untrained": untrained(run, seed=job.options.seed)}
    if job.trains_joint:
        baselines["X_joint"] = _train(job, stores, job.result.joint, replace(job.recipe, method="joint"))
    return baselines


def _source_of(job: Job, one: JobSlide, store: PatchStore | None) -> Source:
    """Return a slide of the call as something to embed: from its patch store if that has all cells."""
    cells = one.measured_cells
    if store is not None and store.n_cells == len(cells):
        return from_store(store, cells=cells)
    return from_slide(
        one.slide,
        one.made_mask,
        cells,
        patch_size_um=job.patch_size_on(one.slide),
        workers=job.running.workers,
        executor=job.running.executor,
        max_bytes=job.running.max_bytes,
    )
