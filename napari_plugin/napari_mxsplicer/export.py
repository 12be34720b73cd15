"""What can be taken along: the map as a table, the picture, and the code that gives the same picture in a notebook."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mxsplicer.errors import InputError
from napari_mxsplicer.state import State


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
        right.set_title(state.painted.title)
    if path.suffix.lstrip(".").lower() not in figure.canvas.get_supported_filetypes():
        msg = f"{path.name} has no ending that a picture can have: give .png, .svg or .pdf."
        raise InputError(msg)
    figure.savefig(path, dpi=200)


def _cells_as_painted(state: State) -> Any:
    """Return the cells of the slide that have a value, as an AnnData with the column that is painted."""
    from anndata import AnnData

    study, painted = state.study, state.painted
    assert study is not None
    assert painted is not None
    rows = state.rows[np.isfinite(state.values[state.rows])]
    values: Any = state.values[rows]
    if state.categories:
        values = pd.Categorical.from_codes(values.astype(int), categories=pd.Index(state.categories))
    obs = pd.DataFrame({painted.title: values}, index=rows.astype(str))
    if "area_um2" in study.obs_names:
        obs["area_um2"] = study.column("area_um2")[rows]
    return AnnData(obs=obs, obsm={"spatial": study.spatial_um[rows] if study.spatial_um is not None else None})


def code(state: State) -> str:
    """Return Python that shows the same in a notebook, with scanpy and mxsplicer."""
    study = state.study
    if study is None or state.painted is None:
        return ""
    painted, lines = state.painted, ["import anndata", "import scanpy as sc", "", "import mxsplicer", ""]
    lines.append(f"adata = anndata.read_h5ad({str(study.cells)!r})")
    color = painted.name
    if painted.feature is not None:
        color = f"feature_{painted.name}"
        lines.append(f'adata.obs["{color}"] = adata.obsm["{study.representation}"][:, {painted.name}]')
    if len(study.slide_names) > 1 and state.slide is not None:
        lines.append(f'adata = adata[adata.obs["slide"] == {state.slide!r}].copy()')
    if painted.kind == "values" and painted.name not in study.obs_names:
        lines.append(f"# {painted.title} was computed in the panel and is not in the file.")
    else:
        lines.append(f"mxsplicer.pl.spatial(adata, color={color!r})")
        if study.umap_key:
            lines.append(f"sc.pl.embedding(adata, basis={study.umap_key!r}, color={color!r})")
    key = f"{study.representation.removeprefix('X_')}_correlation"
    if study.maps:
        lines.append(f"mxsplicer.pl.correlation(adata, key={key!r})")
    return "\n".join(lines) + "\n"
