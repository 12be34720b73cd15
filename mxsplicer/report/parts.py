"""The parts of the page, in the order a reader meets them. A part without its input is None."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from mxsplicer import pl
from mxsplicer.images.markers import find_nuclear_marker, is_nuclear
from mxsplicer.images.slide import LazyImage, Slide, overview
from mxsplicer.pl import colors
from mxsplicer.pl.training import last_losses, read_log
from mxsplicer.report.pictures import Picture, new_figure, of_figure, of_pixels
from mxsplicer.tl.naming import cluster_profiles, suggest_names
from mxsplicer.tl.representations import METHOD_TITLES
from mxsplicer.tl.rows import learned_features, rows_by_slide
from mxsplicer.tl.verdicts import verdict

_MOST_SLIDES = 60  # pictures of slides on one page
_MOST_MARKERS = 64
_MOST_NAMED = 8  # markers of a slide that are to be looked at
_GROUND = 0.02  # of the 99th percentile over all cells
_CROP_UM = 150.0
# Of the feature that follows a marker best: its column, where it lies, and how it is written.
_OF_BEST: dict[str, tuple[str, Callable[[float], str]]] = {
    "Spearman": ("spearman", lambda value: f"{value:+.2f}"),
    "partial r": ("partial_correlation", lambda value: f"{value:+.2f}"),
    "p": ("correlation_p", lambda value: "< 0.001" if value < 1e-3 else f"{value:.3f}"),
}
_OF_ALL = {"R² of mean": "r2_mean", "R² of texture": "r2_texture", "R² of place": "r2_localisation"}


def title(adata: AnnData) -> str:
    """Return the name of the slide, or how many there are."""
    names = _slide_names(adata)
    return names[0] if len(names) == 1 else f"{len(names)} slides"


# As they follow each other; a file of HDF5 gives them back by the alphabet.
_STAGES = ("segmentation", "cells", "patches", "training", "embedding", "harmony", "correlation", "mixing", "scores")


def summary(adata: AnnData, scores: pd.DataFrame | None) -> dict[str, Any]:
    """Return the figures and the sentences at the head of the page."""
    method = str(adata.uns.get("mxsplicer", {}).get("method", "splicer"))
    key = learned_features(adata)
    return {
        "n_cells": adata.n_obs,
        "roi": str(adata.uns.get("mxsplicer", {}).get("roi", "")),
        "n_slides": len(_slide_names(adata)),
        "n_markers": adata.n_vars,
        "n_features": adata.obsm[key].shape[1] if key in adata.obsm else 0,
        "n_clusters": adata.obs["leiden"].nunique() if "leiden" in adata.obs else 0,
        "method": METHOD_TITLES.get(method, method),
        "use_rep": key,
        "verdicts": verdict(scores) if scores is not None and len(scores) else [],
    }


def tissue(adata: AnnData, slides: Sequence[Slide], masks: Sequence[LazyImage]) -> dict[str, Any] | None:
    """Return pictures of the slides and, for one of them, a window with outlined cells."""
    if not slides:
        return None
    markers = _telling_markers(adata)
    shown = slides[:_MOST_SLIDES]
    markers = [marker for marker in markers if all(marker in slide.markers for slide in shown)]
    names = ", ".join(markers)
    if len(slides) == 1:
        height, width = slides[0].shape_px
        figure = new_figure(7, min(max(7 * height / width, 2), 12))
        pl.slide(slides[0], markers=markers, max_side_px=1200, legend=False, ax=figure.subplots())
        whole = of_figure(figure, f"Slide {slides[0].name} in the colours of {names}.", dpi=150)
    else:
        by_name = {slide.name: slide for slide in shown}
        whole = _side_by_side(
            list(by_name),
            lambda name, ax: pl.slide(by_name[name], markers=markers, max_side_px=320, legend=False, ax=ax),
            f"{len(shown)} slides in the colours of {names}.",
        )
    crop = None
    chosen = int(np.argmax([(adata.obs["slide"] == slide.name).sum() for slide in slides]))
    if masks:
        slide, mask = slides[chosen], masks[chosen]
        figure = new_figure(7, 7)
        window = _densest_window(adata, slide)
        pl.slide(slide, markers=markers, mask=mask, window=window, legend=False, ax=figure.subplots())
        crop = of_figure(figure, f"A window of slide {slide.name} with the outline of every cell in white.", dpi=130)
    return {
        "whole": whole,
        "crop": crop,
        "crop_slide": slides[chosen].name,
        "markers": list(zip(markers, colors.CHANNELS, strict=False)),
        "not_shown": len(slides) - len(shown),
        "slides": [
            {
                "name": slide.name,
                "size": f"{slide.shape_px[1]:,} × {slide.shape_px[0]:,} px",
                "mm": f"{slide.shape_px[1] * slide.pixel_size_um / 1000:.2f} × "
                f"{slide.shape_px[0] * slide.pixel_size_um / 1000:.2f} mm",
                "pixel": f"{slide.pixel_size_um:.4g} µm ({slide.pixel_size_from})",
                "markers": f"{len(slide.markers)} ({slide.markers_from})",
                "storage": slide.storage,
            }
            for slide in slides
        ],
    }


def marker_panel(adata: AnnData, slides: Sequence[Slide]) -> list[dict[str, Any]]:
    """Return one card per marker: its picture where it is brightest, how bright cells are, where it is all zero."""
    by_name = {slide.name: slide for slide in slides}
    by_slide = rows_by_slide(adata)
    names = list(by_slide)
    cards = []
    for place, marker in enumerate(adata.var_names.astype(str)):
        values = _column(adata, place)  # one marker at a time: of millions of cells a copy of all is a gigabyte
        of_slides = [values[rows] for rows in by_slide.values()]
        top = [float(np.percentile(own, 99)) for own in of_slides]
        zero = [bool(own.max() <= 0) for own in of_slides]
        p1, p50, p99 = np.percentile(values, [1, 50, 99])
        card: dict[str, Any] = {
            "marker": marker,
            "p1": _number(p1),
            "p50": _number(p50),
            "p99": _number(p99),
            "top": float(p99),
            "range": f"{p99 / p50:.1f}×" if p50 > 0 else "–",
            "zero_in": sum(zero),
            "zero_on": zero,
            "all_zero": all(zero),
            "medians": [float(np.median(own)) for own in of_slides],
            "n_slides": len(names),
            "histogram": _histogram(values),
            "picture": None,
            "slide": "",
        }
        brightest = by_name.get(names[int(np.argmax(top))])
        if brightest is not None and marker in brightest.markers and place < _MOST_MARKERS:
            channel = overview(brightest, max_side_px=300, channels=brightest.channels_of([marker]))[0][0]
            grey = colors.composite(channel[None], [colors.contrast_limits(channel)], ["#ffffff"])[..., 0]
            card |= {"picture": of_pixels(grey, f"{marker} on slide {brightest.name}"), "slide": brightest.name}
        cards.append(card)
    return cards


def slide_quality(adata: AnnData, panel: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one row per slide: how many cells, how large, how many cut, and which markers differ from other slides."""
    by_slide = rows_by_slide(adata)
    names = list(by_slide)
    medians = np.array([card["medians"] for card in panel]).T  # (slides, markers)
    usual = np.median(medians, axis=0)
    # A median of few counts, or of none, is no measure of staining: a part of what bright cells have is added to both.
    ground = np.array([max(_GROUND * card["top"], 1e-9) for card in panel])
    ratio = np.log2((medians + ground) / (usual + ground))
    columns: dict[str, tuple[str, Callable[[np.ndarray], str]]] = {
        "median area, µm²": ("area_um2", lambda own: f"{np.median(own):.0f}"),
        "at the edge": ("at_border", lambda own: f"{own.astype(bool).mean():.1%}"),
        "patch cut": ("patch_valid_fraction", lambda own: f"{(own < 1).mean():.1%}"),
    }
    present = {said: one for said, one in columns.items() if one[0] in adata.obs}
    rows = []
    for place, (name, here) in enumerate(by_slide.items()):
        zero = [card["marker"] for card in panel if card["zero_on"][place]]
        off = [
            f"{card['marker']} ({_times(2 ** float(one))})"
            for card, one in sorted(zip(panel, ratio[place], strict=True), key=lambda both: -abs(both[1]))
            if len(names) > 2 and abs(one) > 2 and card["marker"] not in zero
        ]
        said = [f"all zero: {_few(zero)}"] if zero else []
        said += [f"far from the other slides: {_few(off)}"] if off else []
        cells = [f"{len(here):,}", *(show(adata.obs[key].to_numpy()[here]) for key, show in present.values())]
        rows.append({"name": name, "cells": cells, "said": "; ".join(said) or "–"})
    picture = None
    if len(names) > 1:
        figure = new_figure(min(9.6, 2.4 + 0.2 * len(panel)), min(10, 1.6 + 0.17 * len(names)))
        ax = figure.subplots()
        drawn = ax.pcolormesh(np.clip(ratio, -3, 3), cmap=colors.SIGNED, vmin=-3, vmax=3, rasterized=True)
        ax.set_yticks(np.arange(len(names)) + 0.5, [_short(name) for name in names], fontsize=min(8, 400 / len(names)))
        ax.set_xticks(np.arange(len(panel)) + 0.5, [card["marker"] for card in panel], fontsize=7, rotation=90)
        ax.invert_yaxis()
        figure.colorbar(drawn, ax=ax, label="log2 of ratio", fraction=0.03, pad=0.01)
        picture = of_figure(figure, "Heatmap: how bright the median cell is in each marker on each slide.", vector=True)
    return {"columns": ["cells", *present], "rows": rows, "picture": picture}


def ledger(about: dict[str, Any]) -> dict[str, Any] | None:
    """Return the fate of every id of the masks, per slide and in all; the fates add up to what the mask holds."""
    entries = about.get("ledger")
    if not entries:
        return None
    table = pd.DataFrame({name: dict(fates) for name, fates in entries.items()}).T.fillna(0).astype(int)
    fates = [fate for fate in table.columns if fate != "in mask"]
    table = table[[*fates, *(["in mask"] if "in mask" in table else [])]]
    total = table.sum()
    closes = "in mask" not in table or bool((table[fates].sum(axis=1) == table["in mask"]).all())
    rows = [(name, [f"{n:,}" for n in row]) for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return {"columns": list(table.columns), "rows": rows, "total": [f"{n:,}" for n in total], "closes": closes}


def losses(log: Path | None) -> dict[str, Any] | None:
    """Return the loss of each chunk over time, as a picture and a table."""
    if log is None or not log.is_file():
        return None
    table = read_log(log)
    if table.empty:
        return None
    chunks = table["chunk"].nunique()
    columns = min(6, chunks)
    figure = new_figure(9.6 if columns > 3 else 2.8 * columns, 1.15 * -(-chunks // columns) + 0.5)
    pl.losses(table, figure=figure)
    last = last_losses(table)
    return {
        "picture": of_figure(figure, f"Loss of {chunks} chunks over {table['step'].max()} steps.", vector=True),
        "steps": int(table["step"].max()),
        "columns": list(last.columns),
        "rows": [
            (name, [f"{value:.3g}" for value in row]) for name, row in zip(last.index, last.to_numpy(), strict=True)
        ],
    }


def embedding(adata: AnnData) -> dict[str, Any] | None:
    """Return the map of cells by cluster, and one small map per marker."""
    if "X_umap" not in adata.obsm or "leiden" not in adata.obs:
        return None
    figure = new_figure(7, 6)
    ax = pl.embedding(adata, ax=figure.subplots())
    ax.set_title("")
    by_cluster = of_figure(figure, f"Map of {adata.n_obs:,} cells, coloured by cluster.", dpi=140)
    # A small map needs no more points than pixels.
    few = adata if adata.n_obs <= 20_000 else adata[np.random.default_rng(0).choice(adata.n_obs, 20_000, replace=False)]
    markers = list(adata.var_names[:_MOST_MARKERS])
    columns = 6
    rows = -(-len(markers) // columns)
    figure = new_figure(9.6, 1.75 * rows)
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr,call-arg]
    for ax, marker in zip(figure.subplots(rows, columns, squeeze=False).flat, [*markers, *[None] * 5], strict=False):
        if marker is None:
            ax.set_visible(False)
        else:
            pl.embedding(few, color=marker, legend=False, ax=ax)
            ax.set_title(_short(marker), fontsize=8, pad=2)
    by_marker = of_figure(
        figure, f"The same map {len(markers)} times, coloured by the intensity of one marker each.", dpi=130
    )
    return {"by_cluster": by_cluster, "by_marker": by_marker}


def profiles_of(adata: AnnData) -> pd.DataFrame | None:
    """Return how bright each marker is in each cluster, where there are clusters."""
    return cluster_profiles(adata) if "leiden" in adata.obs else None


def clusters(adata: AnnData, profiles: pd.DataFrame | None) -> dict[str, Any] | None:
    """Return where the clusters lie in the tissue, which markers are bright in them, and a table of both."""
    if profiles is None:
        return None
    names = _slide_names(adata)
    shown = names[:_MOST_SLIDES]
    if len(names) == 1:
        figure = new_figure(9.2, 7.5)
        pl.spatial(adata, ax=figure.subplots())
        places = of_figure(figure, "Cells where they lie in the tissue, coloured by cluster.", dpi=140)
    else:
        places = _side_by_side(
            shown,
            lambda name, ax: pl.spatial(adata, slide=name, legend=False, ax=ax),
            f"Cells of {len(shown)} slides where they lie, coloured by cluster.",
        )
    figure = new_figure(min(9.6, 2.6 + 0.26 * adata.n_vars), 1.6 + 0.2 * len(profiles))
    pl.markers_by_cluster(adata, ax=figure.subplots())
    heatmap = of_figure(figure, "Heatmap: how bright each marker is in each cluster.", vector=True)
    counts = adata.obs["leiden"].value_counts()
    suggested = suggest_names(profiles)
    rows_of_table = []
    for code, name in enumerate(adata.obs["leiden"].astype("category").cat.categories):
        if name not in profiles.index:
            continue
        bright = profiles.loc[name].sort_values(ascending=False)
        rows_of_table.append(
            {
                "name": name,
                "color": colors.category_color(code),
                "n": f"{counts[name]:,}",
                "share": f"{counts[name] / adata.n_obs:.1%}",
                "words": suggested[str(name)],
                "bright": ", ".join(bright.index[:4][bright.to_numpy()[:4] > 0.5]) or "none stands out",
            }
        )
    beside = None
    if "leiden_nhood_enrichment" in adata.uns:
        figure = new_figure(min(9.6, 2.2 + 0.24 * len(profiles)), min(9, 1.6 + 0.22 * len(profiles)))
        pl.neighbourhoods(adata, ax=figure.subplots())
        beside = of_figure(figure, "Heatmap: which clusters lie beside which in the tissue.", vector=True)
    return {
        "places": places,
        "heatmap": heatmap,
        "rows": rows_of_table,
        "not_shown": len(names) - len(shown),
        "beside": beside,
    }


def spectrum(key: str, z: np.ndarray | None) -> dict[str, Any] | None:
    """Return the singular values of the representation of some cells."""
    if z is None or len(z) < 2:
        return None
    figure = new_figure(5.6, 3.2)
    cells = AnnData(obs=pd.DataFrame(index=pd.RangeIndex(len(z)).astype(str)), obsm={key: z})
    pl.spectrum(cells, use_rep=key, ax=figure.subplots())
    return {"picture": of_figure(figure, "Singular values of the learned features.", vector=True), "n": f"{len(z):,}"}


def correlation_key(adata: AnnData) -> str | None:
    """Return where the correlations of the learned features with the markers lie, where there are any."""
    of_method = f"{learned_features(adata).removeprefix('X_')}_correlation"
    return next((key for key in ("splicer_correlation", of_method) if key in adata.varm), None)


def correlation(adata: AnnData) -> dict[str, Any] | None:
    """Return which learned features follow which marker, and what is known of how far to believe it."""
    key = correlation_key(adata)
    if key is None:
        return None
    prefix = key.removesuffix("_correlation")
    about = adata.uns.get(key, {})
    r = np.asarray(adata.varm[key], dtype=np.float64)
    figure = new_figure(9.6, 1.1 + 0.19 * len(r))
    pl.correlation(adata, key=key, ax=figure.subplots())
    picture = of_figure(figure, "Heatmap: correlation of every marker with every learned feature.", vector=True)
    partial = None
    if f"{prefix}_partial_correlation" in adata.varm:
        figure = new_figure(9.6, 1.1 + 0.19 * len(r))
        pl.correlation(adata, key=f"{prefix}_partial_correlation", order_by=key, ax=figure.subplots())
        partial = of_figure(figure, "Heatmap: partial correlation of every marker with every feature.", vector=True)
    best = np.abs(r).argmax(axis=1)
    at = (np.arange(len(r)), best)
    table: dict[str, list[str]] = {
        "feature": [str(one) for one in best],
        "r": [f"{one:+.2f}" for one in r[at]],
        "mean |r|": [f"{one:.2f}" for one in np.abs(r).mean(axis=1)],
    }
    for column, (suffix, form) in _OF_BEST.items():
        if f"{prefix}_{suffix}" in adata.varm:
            table[column] = [form(one) for one in np.asarray(adata.varm[f"{prefix}_{suffix}"], dtype=np.float64)[at]]
    for column, suffix in _OF_ALL.items():
        if f"{prefix}_{suffix}" in adata.var:
            values = adata.var[f"{prefix}_{suffix}"].to_numpy(dtype=np.float64)
            table[column] = [f"{one:.2f}" if np.isfinite(one) else "–" for one in values]
    order = np.argsort(-np.abs(r[at]), kind="stable")
    markers = [str(name) for name in adata.var_names]
    return {
        "picture": picture,
        "partial": partial,
        "given": ", ".join(str(one) for one in about.get("given", [])),
        "columns": list(table),
        "rows": [
            {"marker": markers[i], "bar": float(abs(r[at][i])), "cells": [column[i] for column in table.values()]}
            for i in order
        ],
        "left_out": [str(one) for one in about.get("left_out", [])],
        "has_p": "p" in table,
        "has_r2": any(column in table for column in _OF_ALL),
    }


def settings(about: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return what was set, which versions ran, and the fingerprints of what went in."""
    prints = about.get("fingerprints", {})
    inputs = [("weights", str(prints["weights"]))] if "weights" in prints else []
    for name, both in prints.get("slides", {}).items():
        inputs += [(f"{name}: {kind}", str(value)) for kind, value in both.items()]
    keys = ("method", "patch_size_um", "pixel_size_um")
    chosen = {key: _text(about[key]) for key in keys if key in about}
    others = dict(about.get("settings", {}))
    trained = others.pop("training", "{}")  # the run's own, of which most is said already
    chosen |= {key: _text(value) for key, value in (json.loads(trained) | others).items() if key not in chosen}
    return {
        "settings": [(key, value) for key, value in chosen.items() if value not in ("", "{}", "None")],
        "versions": [(str(name), str(one)) for name, one in about.get("versions", {}).items()],
        "inputs": inputs,
    }


def seconds(about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how long each stage took, with the length of its bar, in the order in which they follow each other."""
    stages = {str(name): float(value) for name, value in about.get("seconds", {}).items()}
    stages = dict(sorted(stages.items(), key=lambda stage: (_place_of_stage(stage[0]), stage[0])))
    longest = max(stages.values(), default=0) or 1
    return [{"stage": name, "time": _duration(value), "bar": value / longest} for name, value in stages.items()]


def _place_of_stage(name: str) -> int:
    return next((place for place, one in enumerate(_STAGES) if name.startswith(one)), len(_STAGES))


def _side_by_side(names: Sequence[str], draw: Callable[[str, Axes], object], alt: str) -> Picture:
    """Return one small picture for each slide, at most six in a row."""
    columns = min(6, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(9.6, 9.6 / columns * rows + 0.2 * rows)
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, name in zip(every, names, strict=False):
        draw(name, ax)
        ax.set_title(_short(name), fontsize=8 if columns < 5 else 6)
    for ax in every[len(names) :]:
        ax.set_visible(False)
    return of_figure(figure, alt, dpi=170)


def _slide_names(adata: AnnData) -> list[str]:
    return list(rows_by_slide(adata))


def _column(adata: AnnData, place: int) -> np.ndarray:
    column = adata.X[:, place]
    return np.asarray(column.toarray() if hasattr(column, "toarray") else column).ravel()


def _telling_markers(adata: AnnData) -> list[str]:
    # Nuclei first; then three markers that are bright in some cells and not in others, and not in the same ones.
    names = [str(name) for name in adata.var_names]
    nuclear = find_nuclear_marker(names)
    some = adata.X[:: max(1, adata.n_obs // 20_000)]
    logged = np.log1p(np.maximum(some.toarray() if hasattr(some, "toarray") else np.asarray(some), 0))
    contrast = np.percentile(logged, 98, axis=0) - np.percentile(logged, 40, axis=0)
    sd = logged.std(axis=0)
    standard = (logged - logged.mean(axis=0)) / np.where(sd > 0, sd, 1)
    chosen = [names.index(nuclear)] if nuclear else []
    nuclear_like = {i for i, name in enumerate(names) if is_nuclear(name)}
    while len(chosen) < min(len(colors.CHANNELS), len(names)):
        free = [i for i in range(len(names)) if i not in chosen and (i not in nuclear_like or len(names) <= 4)]
        if not free:
            break
        alike = np.abs(standard[:, free].T @ standard[:, chosen]).max(axis=1, initial=0) / len(standard)
        chosen.append(free[int(np.argmax(contrast[free] * (1 - alike)))])
    return [names[i] for i in chosen]


def _densest_window(adata: AnnData, slide: Slide) -> tuple[slice, slice]:
    height, width = slide.shape_px
    side = min(round(_CROP_UM / slide.pixel_size_um), height, width)
    here = (adata.obs["slide"] == slide.name).to_numpy() if "slide" in adata.obs else np.full(adata.n_obs, True)
    points = np.asarray(adata.obsm["spatial"])[here] / slide.pixel_size_um  # x, y in pixels
    rows, columns = max(1, height // side), max(1, width // side)
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=(rows, columns), range=((0, height), (0, width)))
    row, column = np.unravel_index(int(counts.argmax()), counts.shape)
    top, left = min(int(row) * height // rows, height - side), min(int(column) * width // columns, width - side)
    return slice(top, top + side), slice(left, left + side)


def _histogram(values: np.ndarray) -> list[float]:
    logged = np.log1p(np.maximum(values, 0))
    counts, _ = np.histogram(logged, bins=24, range=(float(logged.min()), float(logged.max()) + 1e-6))
    return [float(n) for n in np.sqrt(counts / max(counts.max(), 1))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:21]}…"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 1 else f"{ratio:.1g}×"


def _few(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(str(one) for one in value)
    return str(value)


def _duration(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
