"""What can be taken along: the map as a table, the picture, and the code that gives the same picture in a notebook."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mxsplicer import InputError
from mxsplicer.pl import QUALITATIVE
from napari_mxsplicer.state import ALL, Painted, State
from napari_mxsplicer.study import MAP_ENDINGS, Study

_MOST_LISTED = 2000  # cells of a selection that code names one by one


def map_table(state: State) -> pd.DataFrame:
    """Return the map that is shown, markers as rows and features as columns."""
    assert state.study is not None
    return pd.DataFrame(state.r, index=pd.Index(state.study.markers, name="marker"), columns=feature_names(state))


def feature_names(state: State) -> list[str]:
    """Return what the columns of the map are called."""
    return [f"feature_{number}" for number in range(state.r.shape[1])]


def write_map(state: State, path: Path) -> None:
    """Write the map as CSV."""
    map_table(state).to_csv(path, float_format="%.6g")


def write_picture(state: State, path: Path) -> None:
    """Draw the map beside the cells as they are painted on the tissue, and write it as PNG, SVG or PDF.

    Raises
    ------
    InputError
        If the ending is none that matplotlib can write, or nothing is painted.
    """
    from anndata import AnnData
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    import mxsplicer

    study = state.study
    if study is None or state.painted is None:
        msg = "nothing is painted yet: choose a feature or a marker first."
        raise InputError(msg)
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    adata = AnnData(var=pd.DataFrame(index=study.markers), obs=pd.DataFrame(index=[]))
    adata.varm[state.map_name or "r"] = np.asarray(state.r)
    if state.r.size:
        mxsplicer.pl.correlation(adata, key=state.map_name or "r", ax=left)
        left.set_title(f"{state.map_name}, {state.map_of}")
    if study.spatial_um is not None:
        mxsplicer.pl.spatial(_cells_as_painted(state), color=state.painted.title, ax=right)
        selected = "" if state.selection is None else f", {len(state.selection):,} selected cells"
        right.set_title(state.painted.title + selected)
    if path.suffix.lstrip(".").lower() not in figure.canvas.get_supported_filetypes():
        msg = f"{path.name} has no ending that a picture can have: give .png, .svg or .pdf."
        raise InputError(msg)
    figure.savefig(path, dpi=200)


def _cells_as_painted(state: State) -> Any:
    """Return the cells of the slide that have a value, as an AnnData with the column that is painted.

    Where cells are selected, these alone have a category or are there at all.
    """
    from anndata import AnnData

    study, painted = state.study, state.painted
    assert study is not None
    assert painted is not None
    rows = state.rows[np.isfinite(state.values[state.rows])]
    chosen = np.ones(len(rows), dtype=bool) if state.selection is None else np.isin(rows, state.selection)
    values: Any = state.values[rows]
    if state.categories:
        codes = np.where(chosen, values, -1).astype(int)
        values = pd.Categorical.from_codes(codes, categories=pd.Index(state.categories))
    else:
        rows, values = rows[chosen], values[chosen]
    obs = pd.DataFrame({painted.title: values}, index=rows.astype(str))
    if "area_um2" in study.obs_names:
        obs["area_um2"] = study.column("area_um2")[rows]
    return AnnData(obs=obs, obsm={"spatial": study.spatial_um[rows] if study.spatial_um is not None else None})


def code(state: State, table: np.ndarray, limits: tuple[float, float]) -> str:
    """Return Python that shows the same in a notebook, with scanpy and mxsplicer.

    ``table`` (n, 4) uint8 and ``limits`` are the colours that the cells are painted in on the canvas.
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
    found = _column_of(study, painted)
    if not found:
        return "\n".join([*lines, f"# {painted.title} was computed in the panel and is not in the file.", ""])
    lines += [*found, *_look_of(state, table, limits)]
    if study.spatial_um is not None:
        several = len(study.slide_names) > 1
        lines.append(f'tissue = adata[adata.obs["slide"] == {state.slide!r}]' if several else "tissue = adata")
        lines.append('ax = sc.pl.embedding(tissue, basis="spatial", show=False, **look)')
        lines += ["ax.invert_yaxis()  # downwards, as in the image", 'ax.set_aspect("equal")']
    if study.umap_key:
        lines.append(f"sc.pl.embedding(adata, basis={study.umap_key!r}, **look)")
    return "\n".join([*lines, *_map_of(state), ""])


def _column_of(study: Study, painted: Painted) -> list[str]:
    """Return what sets ``color`` to the column or the marker that is painted; nothing where no file has it."""
    if painted.feature is not None:
        column = f"feature_{painted.name}"
        values = f'adata.obsm["{study.representation}"][:, {painted.name}]'
        return [f'color = "{column}"', f"adata.obs[color] = {values}"]
    if painted.code:
        return painted.code.splitlines()
    return [f"color = {painted.name!r}"] if painted.kind != "values" or painted.name in study.obs_names else []


def _look_of(state: State, table: np.ndarray, limits: tuple[float, float]) -> list[str]:
    """Return what sets ``look`` to the colours, and to grey what is not selected."""
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
            f"# {len(state.selection):,} cells are selected in the panel. Name them, and put names into the .h5ad."
        )
    return [*lines, f"look = dict({look})"]


def _map_of(state: State) -> list[str]:
    """Return what draws the map of correlations that is shown."""
    study = state.study
    assert study is not None
    if not state.r.size:
        return []
    key = study.representation.removeprefix("X_") + MAP_ENDINGS[state.map_name]
    drawn = f"mxsplicer.pl.correlation({{}}, key={key!r}{{}})"
    compute = f"mxsplicer.tl.correlate({{}}, use_rep={study.representation!r})"
    if state.map_of == ALL:
        return ([] if state.map_name in study.maps else [compute.format("adata")]) + [drawn.format("adata", "")]
    if _is_listed(state) and state.map_of.endswith("selected cells"):
        chosen = 'chosen = adata[adata.obs["selected"]].copy()'
        return [chosen, compute.format("chosen"), drawn.format("chosen", ", dim=False")]
    return [f"# The map of correlations was over {state.map_of}."]


def _is_listed(state: State) -> bool:
    return state.selection is not None and len(state.selection) <= _MOST_LISTED


def code_of_names(study: Study, path: Path, column: str, names: Sequence[str]) -> str:
    """Return Python that joins a column of the names in a file with ``adata.obs``, and sets ``color`` to it."""
    keys = ["slide", study.id_column] if "slide" in study.obs_names else [study.id_column]
    index = ["slide", "cell_id"][-len(keys) :]
    return (
        f"color = {column!r}\n"
        f"names = pd.read_csv({str(path.resolve())!r}).set_index({index!r})[color]\n"
        f"names = names.astype(pd.CategoricalDtype({list(names)!r}))\n"
        f"adata.obs = adata.obs.join(names, on={keys!r})"
    )
