"""The composition of all stages, and what is written when they are done."""

import gc
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mxsplicer.embedding.blocks import BlockJournal
from mxsplicer.embedding.embed import join_blocks
from mxsplicer.embedding.h5ad import open_cells
from mxsplicer.errors import InputError
from mxsplicer.images.slide import LazyImage, Slide
from mxsplicer.result.analysis import analyse, split_result
from mxsplicer.result.beginning import begin, is_begun
from mxsplicer.result.cohort import (
    Sample,
)
from mxsplicer.result.folder import Result, failures, logged, open_images, write_index
from mxsplicer.result.measuring import measure_before_writing
from mxsplicer.result.opening import prepare
from mxsplicer.result.options import Options, Running
from mxsplicer.result.outcomes import note
from mxsplicer.result.planning import check_memory
from mxsplicer.result.stages import embed, make_masks
from mxsplicer.result.work import Work, mask_of, record
from mxsplicer.system.location import absolute
from mxsplicer.system.locks import folder_lock
from mxsplicer.system.memory import give_back
from mxsplicer.tl.outlines import cells_inside

logger = logging.getLogger(__name__)


def embed_slides(
    slides: str | Path | Sequence[str | Path | Sample] = (),
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
        Image files of one panel, or samples with their masks and tables; none where ``options.cohort`` names a table of
        them. One model is trained over all, on as many cells of each slide, as far as it has them.
    out
        Result folder; ``SLIDE.mxs`` by default for a single slide.
    options
        All that changes the outcome.
    device, workers, executor, max_bytes
        Where, on how many workers of which kind, and in how much memory; the outcome is the same.
    overwrite
        Replace a result that was made from other slides or with other options.

    Raises
    ------
    InputError
        If anything given does not fit; nothing is written then. Or if another command works on the same folder.

    Notes
    -----
    A slide that fails while the others go on is left out, with its reason in ``Result.failed``: of a cohort's table
    from the start, of slides that were named once the result is begun. The same call leaves it out again.
    """
    paths = [slides] if isinstance(slides, str | Path) else list(slides)
    work = prepare(paths, out, options or Options(), Running(device, workers, executor, max_bytes), overwrite=overwrite)
    check_memory(work)
    with folder_lock(work.result.path):
        if not is_begun(work):
            measure_before_writing(work)
            check_memory(work)
        begin(work, overwrite=overwrite)
        if work.result.index.is_file():
            logger.info("%s is complete", work.result.path)
        else:
            with logged(work.result):
                _make(work)
    note(work.result.path)
    return work.result


def _make(work: Work) -> None:
    """Go through the stages that are not done."""
    for name, reason in work.failed.items():
        logger.warning("without slide %s: %s", name, reason)
    make_masks(work)
    if not work.result.cells.is_file():
        if not work.result.embedded.is_file():
            embed(work)
            for entry in work.entries:
                entry.cells = None  # of millions of cells they are hundreds of megabytes
            with work.timed("embedding"):
                join_blocks(work.result.embedded, slides=[slide.name for slide in work.slides])
        give_back()
        analyse(work)
        gc.collect()  # an AnnData refers to itself
        give_back()
    split_result(work.result, [slide.name for slide in work.slides], wanted=work.options.per_slide)
    BlockJournal.of(work.result.embedded).remove()
    if not (work.result.report.is_file() or work.options.only_cells):
        with work.timed("report"):
            masks = [mask_of(entry) for entry in work.entries]
            write_result_report(work.result.path, slides=work.slides, masks=masks)
    _finish(work)


def _finish(work: Work) -> None:
    result, root, inputs = work.result, work.result.path, record(work)["inputs"]
    slides = []
    for entry in work.entries:
        slide, mask = entry.slide, entry.sample.mask
        table = entry.sample.markers or work.options.markers
        made_mask, patches = (result.of_slide(slide.name, file) for file in ("mask.zarr", "patches.zarr"))
        slides.append(
            {
                "name": slide.name,
                "image": absolute(slide.path) if slide.path else "",
                "mask": absolute(mask) if mask else str(made_mask.relative_to(root)),
                "mask_page": work.options.mask_page if mask else None,
                "markers": list(slide.markers),
                "selected": entry.channels is not None,
                "markers_table": str(table.resolve()) if table else None,
                "rename": list(work.options.rename),
                "drop": list(work.options.drop),
                "pixel_size_um": slide.pixel_size_um,
                "shape_px": list(slide.shape_px),
                "patches": str(patches.relative_to(root)) if patches.exists() else None,
                "fingerprints": inputs[slide.name],
            }
        )
    run = work.model.path.resolve() if work.model and work.model.path else result.run.relative_to(root)
    write_index(result, slides, run=str(run))


def write_result_report(
    path: str | Path,
    *,
    slides: Sequence[Slide] | None = None,
    masks: Sequence[LazyImage] | None = None,
    out: str | Path | None = None,
    roi: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report of a result folder from what lies in it.

    Parameters
    ----------
    path
        The result folder.
    slides, masks
        Of the result, where they are open already; otherwise they are opened where the result says they are, and a
        slide that was moved is left out of the pictures.
    out
        The page; ``report.html`` in the folder by default, and ``report_<name of the outlines>.html`` of outlines.
    roi
        Outlines (GeoJSON): the page is about the cells in them alone; of several slides a folder of files. Correlations
        and scores stay those of the cells that they were made of.
    """
    from mxsplicer.report import write_report  # with Matplotlib and scikit-learn a second to load

    path = Path(path)
    if not (path / "cells.h5ad").is_file():
        msg = f"{path} holds no cells.h5ad: it is no finished result. Run `mxsplicer embed` first."
        raise InputError(msg)
    if slides is None or masks is None:
        slides, masks = open_images(path)
    log = path / "run" / "log.jsonl"
    page = path / ("report.html" if roi is None else f"report_{Path(roi).name.partition('.')[0]}.html")
    with open_cells(path / "cells.h5ad") as adata:
        return write_report(
            cells_inside(adata, roi),
            page if out is None else out,
            slides=slides,
            masks=masks,
            log=log if log.is_file() else None,
            scores=pd.DataFrame(adata.uns["mxsplicer_probe"]) if "mxsplicer_probe" in adata.uns else None,
            failed=failures(path / "settings.json"),
            overwrite=overwrite,
        )
