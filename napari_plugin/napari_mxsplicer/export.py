"""Export: correlations as a table, a figure, and code that draws the same figure in a notebook."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mxsplicer import InputError
from mxsplicer.pl import QUALITATIVE
from napari_mxsplicer.state import ALL, Painted, State
from napari_mxsplicer.study import CORRELATION_SUFFIXES, Study

_MOST_LISTED = 2000  # cells of a selection that the code lists


def correlation_table(state: State) -> pd.DataFrame:
    """Return the table of correlations to export, markers as rows and features as columns."""
    assert state.study is not None
    return pd.DataFrame(state.r, index=pd.Index(state.study.markers, name="marker"), columns=state.study.feature_names)


def write_correlations(state: State, path: Path) -> None:
    """Export the correlations shown as CSV."""
    correlation_table(state).to_csv(path, float_format="%.6g")


def write_figure(state: State, path: Path) -> None:
    """Export the correlation heatmap next to the painted cells as a figure: PNG, SVG or PDF.

    Raises
    ------
    InputError
        If matplotlib cannot write this file type, or nothing is painted.
    """
    from anndata import AnnData
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    import mxsplicer

    study = state.study
    if study is None or state.painted is None:
        msg = "the cells are not coloured by anything yet."
        raise InputError(msg, "Choose a feature or a marker first.")
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    adata = AnnData(var=pd.DataFrame(index=study.markers), obs=pd.DataFrame(index=[]))
    adata.varm[state.correlation_kind or "r"] = np.asarray(state.r)
    if state.r.size:
        mxsplicer.pl.correlation(adata, key=state.correlation_kind or "r", ax=left)
        left.set_title(f"{state.correlation_kind}, {state.correlated_over}")
    if study.spatial_um is not None:
        mxsplicer.pl.spatial(_cells_as_painted(state), color=state.title, ax=right)
        selected = "" if state.selection is None else f", {len(state.selection):,} selected cells"
        right.set_title(state.title + selected)
    if path.suffix.lstrip(".").lower() not in figure.canvas.get_supported_filetypes():
        msg = f"{path.name!r} is not a figure format that can be written."
        raise InputError(msg, "Use .png, .svg or .pdf.")
    figure.savefig(path, dpi=200)


def _cells_as_painted(state: State) -> Any:
    """Return the cells to export in a figure, those of the slide with a value, with the painted column.

    With a selection, other cells are left out, or have no category.
    """
    from anndata import AnnData

    study, painted = state.study, state.painted
    assert study is not None
    assert painted is not None
    rows = state.rows[np.isfinite(state.values[state.rows])]
    selected = np.ones(len(rows), dtype=bool) if state.selection is None else np.isin(rows, state.selection)
    values: Any = state.values[rows]
    if state.categories:
        codes = np.where(selected, values, -1).astype(int)
        values = pd.Categorical.from_codes(codes, categories=pd.Index(state.categories))
    else:
        rows, values = rows[selected], values[selected]
    obs = pd.DataFrame({state.title: values}, index=rows.astype(str))
    if "area_um2" in study.obs_names:
        obs["area_um2"] = study.column("area_um2")[rows]
    return AnnData(obs=obs, obsm={"spatial": study.spatial_um[rows] if study.spatial_um is not None else None})


def notebook_code(state: State, table: np.ndarray, limits: tuple[float, float]) -> str:
    """Return exported Python code that shows the same in a notebook, with scanpy and mxsplicer.

    ``table`` (n, 4) uint8 and ``limits`` are the colours of the painted cells on the canvas and the limits of values.
    """
    study, painted = state.study, state.painted
    if study is None or painted is None:
        return ""
    lines = [
        "import anndata",
        "import numpy as np",
        "import pandas as pd",
        "import scanpy as sc",
        "from matplotlib.colors import LinearSegmentedColormap",
        "",
        "import mxsplicer",
        "",
    ]
    lines.append(f"adata = anndata.read_h5ad({str(study.cells.resolve())!r})")
    column = _column_code(study, painted)
    if not column:
        return "\n".join([*lines, f"# {state.title} was computed in the panel and is not in the file.", ""])
    lines += [*column, *_look_code(state, table, limits)]
    if study.spatial_um is not None:
        several = len(study.slide_names) > 1
        lines.append(f'tissue = adata[adata.obs["slide"] == {state.slide!r}]' if several else "tissue = adata")
        lines.append('ax = sc.pl.embedding(tissue, basis="spatial", show=False, **look)')
        lines += ["ax.invert_yaxis()  # downwards, as in the image", 'ax.set_aspect("equal")']
    if study.umap_key:
        lines.append(f"sc.pl.embedding(adata, basis={study.umap_key!r}, **look)")
    return "\n".join([*lines, *_correlation_code(state), ""])


def _column_code(study: Study, painted: Painted) -> list[str]:
    """Return exported code that sets ``color`` to the painted column or marker; nothing if no file has it."""
    if painted.feature is not None:
        values = f'adata.obsm["{study.representation}"][:, {painted.name}]'
        return [f"color = {study.feature_names[painted.feature]!r}", f"adata.obs[color] = {values}"]
    if painted.code:
        return painted.code.splitlines()
    return [f"color = {painted.name!r}"] if painted.kind != "values" or painted.name in study.obs_names else []


def _look_code(state: State, table: np.ndarray, limits: tuple[float, float]) -> list[str]:
    """Return exported code that sets ``look``: the colours, and grey for cells that are not selected."""
    lines: list[str] = []
    if state.categories:
        palette = [QUALITATIVE[code % len(QUALITATIVE)] for code in range(len(state.categories))]
        look = f"color=color, palette={palette}"
    else:
        stops = [
            f"#{red:02x}{green:02x}{blue:02x}"
            for red, green, blue, _ in table[np.linspace(0, len(table) - 1, 17, dtype=int)]
        ]
        lines.append(f'colors = LinearSegmentedColormap.from_list("panel", {stops})')
        look = f"color=color, color_map=colors, vmin={limits[0]:.6g}, vmax={limits[1]:.6g}"
    if _is_listed(state):
        assert state.selection is not None
        lines.append(f'adata.obs["selected"] = np.isin(np.arange(adata.n_obs), {state.selection.tolist()})')
        look += ', mask_obs="selected"'
    elif state.selection is not None:
        lines.append(
            f"# {len(state.selection):,} cells are selected in the panel. Name them, and write the names to the .h5ad."
        )
    return [*lines, f"look = dict({look})"]


def _correlation_code(state: State) -> list[str]:
    """Return exported code that draws the correlation heatmap shown."""
    study = state.study
    assert study is not None
    if not state.r.size:
        return []
    key = study.representation.removeprefix("X_") + CORRELATION_SUFFIXES[state.correlation_kind]
    drawn = f"mxsplicer.pl.correlation({{}}, key={key!r}{{}})"
    compute = f"mxsplicer.tl.correlate({{}}, use_rep={study.representation!r})"
    if state.correlated_over == ALL:
        stored = state.correlation_kind in study.correlations
        return [*([] if stored else [compute.format("adata")]), drawn.format("adata", "")]
    if _is_listed(state) and state.correlated_over.endswith("selected cells"):
        subset = 'selected = adata[adata.obs["selected"]].copy()'
        return [subset, compute.format("selected"), drawn.format("selected", ", dim=False")]
    return [f"# The correlations were computed over {state.correlated_over}."]


def _is_listed(state: State) -> bool:
    return state.selection is not None and len(state.selection) <= _MOST_LISTED


def annotation_code(
    study: Study, path: Path | None, column: str, names: Sequence[str], *, of_clusters: Mapping[str, str] | None = None
) -> str:
    """Return exported code that adds a column of names to ``adata.obs``, and sets ``color`` to it.

    ``path`` is the file with the names of single cells, which override ``of_clusters``.
    """
    ids, lines = study.id_column, [f"color = {column!r}"]
    if study.id_pattern:
        texts = f"adata.obs[{ids!r}].astype(str)" if ids else "adata.obs_names.to_series()"
        ids = "id_of_label"
        lines.append(f"adata.obs[{ids!r}] = {texts}.str.extract({study.id_pattern!r}, expand=False).astype(int)")
    keys = ["slide", ids] if "slide" in study.obs_names else [ids]
    index = ["slide", "cell_id"][-len(keys) :]
    of_cells = f"pd.read_csv({str(path.resolve())!r}).set_index({index!r})[color]" if path else ""
    if of_clusters:
        lines.append(f"names = adata.obs[{study.clustering!r}].astype(str).map({dict(of_clusters)!r})")
        if of_cells:
            lines.append(f"of_cells = adata.obs[{keys!r}].join({of_cells}, on={keys!r})[color]")
            lines.append("names = of_cells.fillna(names)")
    else:
        lines.append(f"names = adata.obs[{keys!r}].join({of_cells}, on={keys!r})[color]")
    lines.append(f"adata.obs[color] = names.astype(pd.CategoricalDtype({list(names)!r}))")
    return "\n".join(lines)
