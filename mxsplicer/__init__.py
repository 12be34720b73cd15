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

from mxsplicer.imports import lazily

if TYPE_CHECKING:
    from mxsplicer import exchange, pl, report, tl
    from mxsplicer.embedding import embed, embed_to_file, from_slide, from_store, open_cells
    from mxsplicer.errors import InputError
    from mxsplicer.evaluation import Evaluation, evaluate, write_scores
    from mxsplicer.patches.cutting import cut_patches
    from mxsplicer.patches.extraction import extract_patches, stream_blocks
    from mxsplicer.patches.planning import ExtractionPlan, plan_extraction
    from mxsplicer.patches.store import PatchStore
    from mxsplicer.pipeline import Options, embed_slides, plan_slides, write_result_report
    from mxsplicer.report import write_report
    from mxsplicer.result import Result, open_result
    from mxsplicer.slides.cells import Cells, measure_cells
    from mxsplicer.slides.doctor import Diagnosis, examine
    from mxsplicer.slides.masks import open_mask
    from mxsplicer.slides.readers import open_slide
    from mxsplicer.slides.segmentation import segment
    from mxsplicer.slides.simulation import simulate_slide
    from mxsplicer.slides.slide import Slide
    from mxsplicer.splicer.recipe import Recipe
    from mxsplicer.splicer.run import Run, load_run
    from mxsplicer.splicer.training import train
    from mxsplicer.splicer.views import Views
    from mxsplicer.verification import verify

_HOME = {
    "Cells": "slides.cells",
    "Diagnosis": "slides.doctor",
    "Evaluation": "evaluation",
    "ExtractionPlan": "patches.planning",
    "InputError": "errors",
    "Options": "pipeline",
    "PatchStore": "patches.store",
    "Recipe": "splicer.recipe",
    "Result": "result",
    "Run": "splicer.run",
    "Slide": "slides.slide",
    "Views": "splicer.views",
    "cut_patches": "patches.cutting",
    "embed": "embedding",
    "embed_slides": "pipeline",
    "embed_to_file": "embedding",
    "evaluate": "evaluation",
    "examine": "slides.doctor",
    "exchange": "",
    "extract_patches": "patches.extraction",
    "from_slide": "embedding",
    "from_store": "embedding",
    "load_run": "splicer.run",
    "measure_cells": "slides.cells",
    "open_cells": "embedding",
    "open_mask": "slides.masks",
    "open_result": "result",
    "open_slide": "slides.readers",
    "pl": "",
    "plan_extraction": "patches.planning",
    "plan_slides": "pipeline",
    "report": "",
    "segment": "slides.segmentation",
    "simulate_slide": "slides.simulation",
    "stream_blocks": "patches.extraction",
    "tl": "",
    "train": "splicer.training",
    "verify": "verification",
    "write_report": "report",
    "write_result_report": "pipeline",
    "write_scores": "evaluation",
}

__all__ = [
    "Cells",
    "Diagnosis",
    "Evaluation",
    "ExtractionPlan",
    "InputError",
    "Options",
    "PatchStore",
    "Recipe",
    "Result",
    "Run",
    "Slide",
    "Views",
    "cut_patches",
    "embed",
    "embed_slides",
    "embed_to_file",
    "evaluate",
    "examine",
    "exchange",
    "extract_patches",
    "from_slide",
    "from_store",
    "load_run",
    "measure_cells",
    "open_cells",
    "open_mask",
    "open_result",
    "open_slide",
    "pl",
    "plan_extraction",
    "plan_slides",
    "report",
    "segment",
    "simulate_slide",
    "stream_blocks",
    "tl",
    "train",
    "verify",
    "write_report",
    "write_result_report",
    "write_scores",
]


__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__
