"""The report of a result folder."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mxsplicer.embedding.h5ad import open_cells
from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.result.folder import Result
from mxsplicer.result.slides import open_images
from mxsplicer.tl.drawn_outlines import cells_inside


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
            overwrite=overwrite,
        )
