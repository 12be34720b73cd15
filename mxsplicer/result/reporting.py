"""The report of a result folder."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mxsplicer.embedding.h5ad import open_cells
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.result.folder import Result
from mxsplicer.result.slides import open_images
from mxsplicer.system.files import write_json
from mxsplicer.tl.drawn_outlines import cells_inside

logger = logging.getLogger(__name__)


def write_result_report(
    path: str | Path,
    *,
    slides: Sequence[Slide] | None = None,
    masks: Sequence[LazyImage] | None = None,
    out: str | Path | None = None,
    roi: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report of a result folder from its files.

    Parameters
    ----------
    path
        The result folder.
    slides, masks
        Of the result, if they are open already. Otherwise they are opened where the result says they are, and a slide
        that was moved is left out of the figures.
    out
        The page; ``report.html`` in the folder by default, and ``report_<name of the outlines>.html`` with ``roi``.
    roi
        Outlines (GeoJSON) of a region: the page covers only the cells in it; for several slides a folder of files.
        Correlations and scores are not computed again.
    overwrite
        Replace an existing page.
    """
    from mxsplicer.report import write_report  # with Matplotlib and scikit-learn a second to load

    result = Result(Path(path))
    if not result.cells.is_file():
        msg = f"{path} has no {result.cells.name}, so it is not a finished result."
        raise InputError(msg, "Run `mxsplicer embed` first.")
    if slides is None or masks is None:
        slides, masks = open_images(result.path)
    page = result.report if roi is None else result.report_of(roi)
    with open_cells(result.cells) as adata:
        return write_report(
            cells_inside(adata, roi),
            page if out is None else out,
            slides=slides,
            masks=masks,
            log=result.training_log if result.training_log.is_file() else None,
            scores=pd.DataFrame(adata.uns["mxsplicer_probe"]) if "mxsplicer_probe" in adata.uns else None,
            failed=result.failed,
            web_page=_web_page(result) if roi is None else None,
            overwrite=overwrite,
        )


def record_web_page(path: str | Path, web_page: str | Path) -> None:
    """Record in a finished result where its web page lies, and link the report to it.

    A result that must not be changed stays as it is, with a warning.
    """
    from mxsplicer.report.web_link import link_web_page

    result, web_page = Result(Path(path)), Path(web_page)
    try:
        index: dict[str, Any] = json.loads(result.index.read_text(encoding="utf-8"))
        index["files"]["web_page"] = os.path.relpath(web_page.resolve(), result.path.resolve())
        write_json(result.index, index)
        if result.report.is_file() and not link_web_page(result.report, web_page):
            logger.warning("%s is of an earlier version; write it again to link it to the web page", result.report.name)
    except (OSError, ValueError) as error:  # ValueError: on another drive
        logger.warning("the report is not linked to the web page: %s", error)


def _web_page(result: Result) -> Path | None:
    """Return the folder of the web page that a result recorded, if it exists."""
    if not result.index.is_file():
        return None
    recorded = json.loads(result.index.read_text(encoding="utf-8"))["files"].get("web_page")
    folder = None if recorded is None else result.path / recorded
    return folder if folder is not None and (folder / "index.html").is_file() else None
