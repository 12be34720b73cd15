"""The cells of every slide, measured; before anything is written where all masks are given."""

import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mxsplicer.cells.measure import measure_cells
from mxsplicer.cells.selection import keep_inside
from mxsplicer.errors import InputError
from mxsplicer.images.slide import Slide
from mxsplicer.result.work import Entry, Work, cells_of, mask_of
from mxsplicer.tl.labels import (
    check_labels,
    outline_files,
)


def measure(work: Work) -> None:
    """Measure the cells of every slide."""
    options, running = work.options, work.running
    files = roi_files(options.roi, work.slides) if options.roi is not None else {}

    def measure(entry: Entry) -> None:
        cells = measure_cells(
            entry.slide,
            mask_of(entry),
            nuclei=entry.nuclei,
            statistics=("mean", *options.measure),
            min_area_um2=options.min_area_um2,
            workers=running.workers,
            executor=running.executor,
            max_bytes=running.max_bytes,
        )
        entry.cells = keep_inside(cells, files[entry.slide.name], entry.slide) if files else cells

    work.of_each("cells", measure)


def measure_before_writing(work: Work) -> None:
    """Measure the cells where all masks are given: a mask or labels that do not fit are found before writing."""
    if None in work.given_masks:
        return
    began = time.monotonic()
    for entry in work.entries:
        entry.mask = entry.given_mask
    measure(work)
    work.of_each("labels", lambda entry: _check_labels_of(work, entry))
    if work.options.labels is not None:
        ids = {entry.slide.name: cells_of(entry).table[["cell_id"]] for entry in work.entries}
        of_all = pd.concat(ids, names=["slide"]).reset_index("slide")
        check_labels(work.options.labels, work.options.label, of_all)
    work.seconds["cells"] = time.monotonic() - began


def _check_labels_of(work: Work, entry: Entry) -> None:
    if entry.sample.labels is not None:
        cells = cells_of(entry).table[["cell_id"]].assign(slide=entry.slide.name)
        check_labels(entry.sample.labels, work.options.label, cells)


def roi_files(roi: Path, slides: Sequence[Slide]) -> dict[str, Path]:
    """Return the file of outlines of each slide, or raise where one lacks it."""
    files = outline_files(roi, [slide.name for slide in slides])
    missing = [slide.name for slide in slides if slide.name not in files]
    if missing:
        msg = f"folder {roi} of --roi holds no GeoJSON file for slide {missing[0]!r}; each slide needs one."
        raise InputError(msg)
    return files
