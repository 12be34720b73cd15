"""The page: every part is made by one function, from the cells and what lies beside them, and set by the template."""

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

from mxsplicer.errors import InputError
from mxsplicer.images.slide import LazyImage, Slide
from mxsplicer.report import parts, scoring
from mxsplicer.report.cohort import cohort
from mxsplicer.report.doubts import doubts
from mxsplicer.report.explorer import explorer
from mxsplicer.report.pictures import STYLE
from mxsplicer.report.sheets import contact_sheets
from mxsplicer.system.files import atomic_write, check_free
from mxsplicer.tl.naming import suggest_names
from mxsplicer.tl.rows import learned_features, take

logger = logging.getLogger(__name__)

_SAMPLE = 25_000  # cells whose representation is looked at


def write_report(
    adata: AnnData,
    path: str | Path,
    *,
    slides: Sequence[Slide] = (),
    masks: Sequence[LazyImage] = (),
    log: str | Path | None = None,
    scores: pd.DataFrame | None = None,
    failed: Mapping[str, str] | None = None,
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
    failed
        Slides that could not be used, and why.
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
    check_free(path, overwrite=overwrite)
    if masks and len(masks) != len(slides):
        msg = f"{len(masks)} masks were given for {len(slides)} slides; give one for each, in the same order, or none."
        raise InputError(msg)
    if scores is None:
        scores = adata.uns.get("mxsplicer_probe")
    with mpl.rc_context(STYLE):
        content = _content(adata, slides, masks, Path(log) if log is not None else None, scores, failed or {})
    page = _template().render(content)
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
    panel = parts.marker_panel(adata, slides)
    profiles = parts.profiles_of(adata)
    names = {} if profiles is None else dict(suggest_names(profiles))
    key = learned_features(adata)
    rows = np.sort(np.random.default_rng(0).choice(adata.n_obs, min(_SAMPLE, adata.n_obs), replace=False))
    z = take(adata.obsm[key], rows) if key in adata.obsm else None
    cells = explorer(adata, names)
    return {
        "title": parts.title(adata),
        "summary": parts.summary(adata, scores),
        "tissue": parts.tissue(adata, slides, masks),
        "panel": panel,
        "quality": parts.slide_quality(adata, panel),
        "ledger": parts.ledger(about),
        "losses": parts.losses(log),
        "spectrum": parts.spectrum(key, z),
        "embedding": parts.embedding(adata),
        "explorer": None if cells is None else json.dumps(cells, ensure_ascii=True).replace("<", "\\u003c"),
        "clusters": parts.clusters(adata, profiles),
        "sheets": contact_sheets(adata, profiles, slides, masks),
        "correlation": parts.correlation(adata),
        "cohort": cohort(adata, failed),
        "scores": scoring.scores(scores, evaluated),
        "mixing": scoring.mixing(evaluated),
        "notes": [str(one) for one in evaluated.get("notes", [])],
        "settings": parts.settings(about),
        "seconds": parts.seconds(about),
        "doubts": doubts(adata, panel, scores, parts.correlation_key(adata), z, rows),
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
