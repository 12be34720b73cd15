"""From slides to a result: all stages in one call.

Every stage writes under a temporary name and renames when it is done, and ``settings.json`` records what the folder was
begun with. So the same call continues where it stopped, a finished one does nothing, and a different one is refused.
"""

import gc
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mxsplicer.embedding.blocks import BlockJournal
from mxsplicer.embedding.embed import join_blocks
from mxsplicer.result.analysis import analyse, split_result
from mxsplicer.result.folder import Result, log_to
from mxsplicer.result.job import Job, JobSlide
from mxsplicer.result.opening import begin, is_begun, open_job
from mxsplicer.result.options import Options, Running
from mxsplicer.result.outcomes import record_output
from mxsplicer.result.planning import check_memory
from mxsplicer.result.reporting import write_result_report
from mxsplicer.result.slides import SlideRecord, write_index
from mxsplicer.result.stages import check_before_writing, embed_cells, make_masks
from mxsplicer.system.locks import folder_lock
from mxsplicer.system.memory import give_back

logger = logging.getLogger(__name__)


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
    """Turn slides into an AnnData of their cells with a learned embedding, and a report.

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
        begin(job, overwrite=overwrite)
        if job.result.index.is_file():
            logger.info("%s is complete", job.result.path)
        else:
            with log_to(job.result):
                _run_stages(job)
    record_output(job.result.path)
    return job.result


def _run_stages(job: Job) -> None:
    """Run the stages that are not done."""
    for name, reason in job.failed.items():
        logger.warning("without slide %s: %s", name, reason)
    result = job.result
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
    write_index(result, [_finished_record(job, one) for one in job.slides], run=str(run))


def _finished_record(job: Job, one: JobSlide) -> SlideRecord:
    patches = job.result.patches_of(one.name)
    return replace(one.record, patches=patches if patches.exists() else None, fingerprints=job.inputs[one.name])
