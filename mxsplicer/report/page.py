"""Write the page: each section is computed by one function and laid out by the template."""

import base64
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from anndata import AnnData
from markupsafe import Markup

from mxsplicer.errors import InputError
from mxsplicer.images.lazy_images import LazyImage
from mxsplicer.images.slide import Slide
from mxsplicer.report import header
from mxsplicer.report.clusters import clusters_section, explained_clusters, profiles_of, verdicts_section
from mxsplicer.report.correlations import correlations_section
from mxsplicer.report.examples import cut_examples, examples_section
from mxsplicer.report.explorer import explorer_data
from mxsplicer.report.figures import STYLE
from mxsplicer.report.ledger import ledger_section
from mxsplicer.report.limitations import limitations_section
from mxsplicer.report.markers import marker_cards
from mxsplicer.report.quality import quality_section
from mxsplicer.report.scores import mixing_tables, score_overview, scores_section
from mxsplicer.report.settings import settings_section, stage_times
from mxsplicer.report.slides import slides_section
from mxsplicer.report.spectrum import spectrum_section
from mxsplicer.report.tissue import tissue_section
from mxsplicer.report.training import training_section
from mxsplicer.report.umap import umap_section
from mxsplicer.report.web_link import web_link
from mxsplicer.system.files import atomic_write, check_free
from mxsplicer.tl.correlation import correlation_key
from mxsplicer.tl.reading import read_rows
from mxsplicer.tl.representations import learned_key

logger = logging.getLogger(__name__)

_SAMPLE = 25_000  # cells for the singular values, and for the nearest neighbours among slides


def write_report(
    adata: AnnData,
    path: str | Path,
    *,
    slides: Sequence[Slide] = (),
    masks: Sequence[LazyImage] = (),
    log: str | Path | None = None,
    scores: pd.DataFrame | None = None,
    failed: Mapping[str, str] | None = None,
    web_page: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one HTML page with the methods, the results and their limitations.

    The page contains its images, so it can be mailed, archived and opened without a network. Sections whose input is
    missing are left out.

    Parameters
    ----------
    adata
        Embedded cells. The page is complete if they are clustered and correlated with the markers.
    path
        The page to write, such as ``report.html``. It appears when it is complete.
    slides
        Slides of the cells, for images; their names are those in ``adata.obs["slide"]``.
    masks
        Label image (Y, X) of each of ``slides``, for outlines.
    log
        ``log.jsonl`` of the run folder, for the losses.
    scores
        What :func:`mxsplicer.tl.probe` returned; by default ``adata.uns["mxsplicer_probe"]``.
    failed
        Slides that failed, each with the reason.
    web_page
        Folder of :func:`mxsplicer.export.write_web` to link to.
    overwrite
        Replace an existing page.

    Returns
    -------
    The path of the page.

    Raises
    ------
    InputError
        If ``path`` exists and ``overwrite`` is False, or if there are masks but not one for every slide.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    if masks and len(masks) != len(slides):
        msg = f"{len(masks)} masks were given for {len(slides)} slides."
        raise InputError(msg, "Pass one mask for each slide in the same order, or no `masks`.")
    if scores is None:
        scores = adata.uns.get("mxsplicer_probe")
    with mpl.rc_context(STYLE):
        content = _content(adata, slides, masks, Path(log) if log is not None else None, scores, failed or {})
    link = web_link(path, None if web_page is None else Path(web_page))
    page = _template().render(content, web_page=Markup(link))
    with atomic_write(path, shared=True) as temporary:
        temporary.write_text(page, encoding="utf-8")
    logger.info("Report of %d cells: %s (%.1f MB)", adata.n_obs, path, len(page) / 1e6)
    return path


def _content(
    adata: AnnData,
    slides: Sequence[Slide],
    masks: Sequence[LazyImage],
    log: Path | None,
    scores: pd.DataFrame | None,
    failed: Mapping[str, str],
) -> dict[str, Any]:
    about = adata.uns.get("mxsplicer", {})
    evaluated = adata.uns.get("mxsplicer_evaluation", {})
    cards = marker_cards(adata, slides)
    profiles = profiles_of(adata)
    key = learned_key(adata)
    rows = np.sort(np.random.default_rng(0).choice(adata.n_obs, min(_SAMPLE, adata.n_obs), replace=False))
    z = read_rows(adata.obsm[key], rows) if key in adata.obsm else None
    explained = explained_clusters(adata, profiles)
    examples = cut_examples(adata, profiles, explained, slides, masks)
    verdicts = verdicts_section(adata, explained, examples)
    names = {} if verdicts is None else {row["cluster"]: row["name"] for row in verdicts["rows"]}
    cells = explorer_data(adata, names)
    return {
        "title": header.title(adata),
        "summary": header.summary(adata),
        "verdicts": verdicts,
        "tissue": tissue_section(adata, slides, masks),
        "markers": cards,
        "quality": quality_section(adata, cards),
        "ledger": ledger_section(about),
        "training": training_section(log),
        "spectrum": spectrum_section(key, z),
        "umap": umap_section(adata),
        "explorer": None if cells is None else json.dumps(cells, ensure_ascii=True).replace("<", "\\u003c"),
        "clusters": clusters_section(adata, profiles),
        "examples": examples_section(examples, names),
        "correlations": correlations_section(adata),
        "scores": scores_section(scores, evaluated),
        "overview": score_overview(scores),
        "mixing": mixing_tables(evaluated),
        "notes": [str(one) for one in evaluated.get("notes", [])],
        "slides": slides_section(adata, failed),
        "limitations": limitations_section(adata, cards, scores, correlation_key(adata), z, rows),
        "settings": settings_section(about),
        "durations": stage_times(about),
        "version": about.get("version") or version("mxsplicer"),
        "script": _script(),
        "script_hash": base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode(),
    }


def _script() -> str:
    return files("mxsplicer.report").joinpath("page.js").read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("mxsplicer.report").joinpath("template.html").read_text(encoding="utf-8")
    return environment.from_string(source)
