"""Learned single-cell representations for multiplex tissue imaging.

The stages, each of which is also a command::

    slide = mxsplicer.open_slide("slide.ome.tiff")
    mask = mxsplicer.segment(slide, "mask.zarr")
    store = mxsplicer.extract_patches(slide, mask, "patches.zarr")
    run = mxsplicer.train(store, "run")
    adata = mxsplicer.embed(run, store)

Names load what they need when they are first used, so importing the package is free.
"""

from typing import TYPE_CHECKING

from mxsplicer.system.imports import lazily

if TYPE_CHECKING:
    from mxsplicer import export, pl, report, tl
    from mxsplicer.cells.measure import Cells, measure_cells
    from mxsplicer.embedding.embed import embed, embed_to_file
    from mxsplicer.embedding.h5ad import open_cells, write_obs
    from mxsplicer.embedding.sources import from_slide, from_store
    from mxsplicer.errors import InputError
    from mxsplicer.evaluation import Evaluation, evaluate, write_scores
    from mxsplicer.images.markers import find_nuclear_marker
    from mxsplicer.images.readers import open_slide
    from mxsplicer.images.slide import LazyImage, Slide, drop_markers
    from mxsplicer.masks.doctor import Diagnosis, examine
    from mxsplicer.masks.files import open_mask
    from mxsplicer.patches.cutting import cut_patches
    from mxsplicer.patches.extraction import extract_patches, stream_blocks
    from mxsplicer.patches.planning import ExtractionPlan, plan_extraction
    from mxsplicer.patches.store import PatchStore
    from mxsplicer.report import write_report
    from mxsplicer.result.composition import embed_slides, write_result_report
    from mxsplicer.result.folder import Result, open_result, open_result_slide
    from mxsplicer.result.options import Options
    from mxsplicer.result.planning import plan_slides
    from mxsplicer.result.sample import simulate_result
    from mxsplicer.result.verification import verify
    from mxsplicer.segmentation.segment import segment
    from mxsplicer.simulation import simulate_slide
    from mxsplicer.splicer.recipe import Recipe
    from mxsplicer.splicer.run import Run, load_run
    from mxsplicer.splicer.training import train
    from mxsplicer.splicer.views import Views

_HOME = {
    "Cells": "cells.measure",
    "Diagnosis": "masks.doctor",
    "Evaluation": "evaluation",
    "ExtractionPlan": "patches.planning",
    "InputError": "errors",
    "LazyImage": "images.slide",
    "Options": "result.options",
    "PatchStore": "patches.store",
    "Recipe": "splicer.recipe",
    "Result": "result.folder",
    "Run": "splicer.run",
    "Slide": "images.slide",
    "Views": "splicer.views",
    "cut_patches": "patches.cutting",
    "drop_markers": "images.slide",
    "embed": "embedding.embed",
    "embed_slides": "result.composition",
    "embed_to_file": "embedding.embed",
    "evaluate": "evaluation",
    "examine": "masks.doctor",
    "export": "",
    "extract_patches": "patches.extraction",
    "from_slide": "embedding.sources",
    "from_store": "embedding.sources",
    "find_nuclear_marker": "images.markers",
    "load_run": "splicer.run",
    "measure_cells": "cells.measure",
    "open_cells": "embedding.h5ad",
    "open_mask": "masks.files",
    "open_result": "result.folder",
    "open_result_slide": "result.folder",
    "open_slide": "images.readers",
    "pl": "",
    "plan_extraction": "patches.planning",
    "plan_slides": "result.planning",
    "report": "",
    "segment": "segmentation.segment",
    "simulate_result": "result.sample",
    "simulate_slide": "simulation",
    "stream_blocks": "patches.extraction",
    "tl": "",
    "train": "splicer.training",
    "verify": "result.verification",
    "write_obs": "embedding.h5ad",
    "write_report": "report",
    "write_result_report": "result.composition",
    "write_scores": "evaluation",
}

__all__ = [
    "Cells",
    "Diagnosis",
    "Evaluation",
    "ExtractionPlan",
    "InputError",
    "LazyImage",
    "Options",
    "PatchStore",
    "Recipe",
    "Result",
    "Run",
    "Slide",
    "Views",
    "cut_patches",
    "drop_markers",
    "embed",
    "embed_slides",
    "embed_to_file",
    "evaluate",
    "examine",
    "export",
    "extract_patches",
    "find_nuclear_marker",
    "from_slide",
    "from_store",
    "load_run",
    "measure_cells",
    "open_cells",
    "open_mask",
    "open_result",
    "open_result_slide",
    "open_slide",
    "pl",
    "plan_extraction",
    "plan_slides",
    "report",
    "segment",
    "simulate_result",
    "simulate_slide",
    "stream_blocks",
    "tl",
    "train",
    "verify",
    "write_obs",
    "write_report",
    "write_result_report",
    "write_scores",
]


__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__
