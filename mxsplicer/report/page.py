"""The page: every part is made by one function, from the cells and what lies beside them, and set by the template."""

import logging
import os
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
from anndata import AnnData

from mxsplicer.errors import InputError
from mxsplicer.report import parts
from mxsplicer.report.pictures import STYLE
from mxsplicer.slides.slide import LazyImage, Slide

logger = logging.getLogger(__name__)


def write_report(
    adata: AnnData,
    path: str | Path,
    *,
    slides: Sequence[Slide] = (),
    masks: Sequence[LazyImage] = (),
    log: str | Path | None = None,
    scores: pd.DataFrame | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one HTML page that tells what was done, what came out, and what to doubt.

    The page holds its pictures itself: it can be mailed, archived and opened without a network. Parts whose input is
    missing are left out, and the page says what would add them.

    Parameters
    ----------
    adata
        Embedded cells; clustered and correlated ones give the full page.
    path
        The page to write, ``report.html``. It appears when it is complete.
    slides
        The slides the cells are from, for pictures; their names are those in ``adata.obs["slide"]``.
    masks
        Label image (Y, X) of each of ``slides``, for outlines.
    log
        ``log.jsonl`` of the run folder, for the losses.
    scores
        What :func:`mxsplicer.tl.probe` returned; by default what it left in ``adata``.
    overwrite
        Replace a page that is there.

    Returns
    -------
    The path of the page.

    Raises
    ------
    InputError
        If ``path`` exists and ``overwrite`` is off, or if there are masks but not one for every slide.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        msg = f"report {path} exists; choose another name, or give --overwrite to replace it."
        raise InputError(msg)
    if masks and len(masks) != len(slides):
        msg = f"{len(masks)} masks were given for {len(slides)} slides; give one for each, in the same order, or none."
        raise InputError(msg)
    if scores is None:
        scores = adata.uns.get("mxsplicer_probe")
    with mpl.rc_context(STYLE):
        content = _content(adata, slides, masks, Path(log) if log is not None else None, scores)
    page = _template().render(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    logger.info("Report of %d cells: %s (%.1f MB)", adata.n_obs, path, len(page) / 1e6)
    return path


def _content(
    adata: AnnData,
    slides: Sequence[Slide],
    masks: Sequence[LazyImage],
    log: Path | None,
    scores: pd.DataFrame | None,
) -> dict[str, Any]:
    about = adata.uns.get("mxsplicer", {})
    panel = parts.marker_panel(adata, slides)
    return {
        "title": parts.title(adata),
        "summary": parts.summary(adata, scores),
        "tissue": parts.tissue(adata, slides, masks),
        "panel": panel,
        "ledger": parts.ledger(about),
        "losses": parts.losses(log),
        "embedding": parts.embedding(adata),
        "clusters": parts.clusters(adata),
        "correlation": parts.correlation(adata),
        "scores": parts.scores(scores),
        "settings": parts.settings(about),
        "seconds": parts.seconds(about),
        "doubts": parts.doubts(adata, panel, scores),
        "version": about.get("version") or version("mxsplicer"),
    }


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("mxsplicer.report").joinpath("template.html").read_text(encoding="utf-8")
    return environment.from_string(source)
