"""`mxsplicer correlate`: which feature follows which marker."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mxsplicer.cli.options import AsJson, Overwrite, ResultPath, Seed, UseRep, register
from mxsplicer.errors import InputError
from mxsplicer.tl.defaults import MAX_R2_CELLS, N_PARTNERS, SCALE

if TYPE_CHECKING:
    from anndata import AnnData


# Options of this command alone.
_Covariate = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MARKER",
        help="Marker that the partial correlation controls for; repeat for several. By default the nuclear marker "
        "and those of autofluorescence.",
        show_default=False,
    ),
]
_Local = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MARKER=FEATURE|FEATURE",
        help="Write the local correlation of a feature with a marker to obs, or with every marker to a layer; a "
        "feature is its name or its number. Repeat for several.",
        show_default=False,
    ),
]
_Scale = Annotated[str, typer.Option(metavar="cell|neighbourhood|region", help="Scale of --local.")]
_MaxCells = Annotated[int, typer.Option(min=200, help="Compute R² on a random sample of at most this many cells.")]


def add_correlate(app: typer.Typer) -> None:
    """Add the command `mxsplicer correlate`."""
    register(app, correlate_command)


def correlate_command(
    result: ResultPath,
    use_rep: UseRep = None,
    *,
    roi: Path | None,
    covariate: _Covariate = None,
    local: _Local = None,
    scale: _Scale = SCALE,
    radius_um: Annotated[float | None, typer.Option(help="Radius of --local, instead of a scale.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Features to show for each marker.")] = N_PARTNERS,
    max_cells: _MaxCells = MAX_R2_CELLS,
    seed: Seed = 0,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Correlate markers with features, add the correlations to cells.h5ad, and show the strongest.

    The rest of the file does not change. Correlations that were computed with the same settings are shown, not computed
    again. Those of --roi tumour.geojson are stored as tumour_correlation and so on, next to those of all cells.
    """
    from mxsplicer import tl
    from mxsplicer.embedding.h5ad import open_cells, save_cells
    from mxsplicer.result.folder import find_cells
    from mxsplicer.system.progress import shown
    from mxsplicer.tl.representations import learned_key

    path = find_cells(result)
    with open_cells(path) as adata, shown():
        learned = learned_key(adata)
        use_rep = use_rep or learned
        pairs = [_parse_local(text, adata, use_rep) for text in local or []]
        key = _correlation_name("splicer" if use_rep == learned else use_rep.removeprefix("X_"), roi)
        settings = {"use_rep": use_rep, "max_cells": max_cells, "seed": seed}
        layers = []
        with tl.restricted(adata, roi) as cells:
            changed = overwrite or _is_missing(cells, key, settings | {"n_cells": cells.n_obs}, covariate)
            if changed:
                tl.correlate(cells, key_added=key, given=covariate, **settings)  # type: ignore[arg-type]
            for marker, feature in pairs:
                name = tl.local_correlation(cells, marker, feature, scale=scale, radius_um=radius_um, use_rep=use_rep)
                layers += [name] if marker is None else []
                changed = True
                typer.echo(f'{"layers" if marker is None else "obs"}["{name}"]', err=True)
        if changed:
            save_cells(adata, path, layers=layers)
        typer.echo(f"{path} is {'written' if changed else 'complete'}.", err=True)
        table = tl.partners(adata, key=key, top=top)
        support = _support(adata, key)
        about = adata.uns[key]
    if as_json:
        typer.echo(json.dumps(_facts(table, support, about), ensure_ascii=False, indent=1))
        return
    _show(table, support)
    for sentence in about["left_out"]:
        typer.echo(f"Left out: {sentence}.")


def _correlation_name(prefix: str, roi: Path | None) -> str:
    """Return the name that `mxsplicer correlate` stores correlations by: "splicer" for the embedding."""
    from mxsplicer.tl.labels import obs_name

    if roi is not None:
        inside = obs_name(roi.name.partition(".")[0])
        prefix = inside if prefix == "splicer" else f"{inside}_{prefix}"
    return f"{prefix}_correlation"


def _parse_local(text: str, adata: "AnnData", use_rep: str) -> tuple[str | None, int]:
    """Return the marker, None for all, and the feature that the option ``local`` of `mxsplicer correlate` names."""
    from mxsplicer.tl.features import find_feature

    marker, equals, feature = text.rpartition("=")
    if not feature or (equals and not marker):
        msg = (
            f"--local {text!r} is neither MARKER=FEATURE nor FEATURE. Give a marker, an equals sign and the name or "
            "the number of a feature, or the feature alone for all markers."
        )
        raise InputError(msg)
    return marker or None, find_feature(adata, feature, use_rep)


def _is_missing(adata: "AnnData", key: str, settings: dict[str, Any], covariates: list[str] | None) -> bool:
    """Return whether `mxsplicer correlate` has to compute correlations; raise where others would be lost."""
    if key not in adata.uns:  # Pearson's r alone may be there, from an earlier version: it stays the same
        return True
    about = adata.uns[key]
    differ = [
        f"{name.replace('_', '-')} was {about[name]}, now {value}"
        for name, value in settings.items()
        if str(about[name]) != str(value)
    ]
    if covariates is not None and list(about["given"]) != covariates:
        differ.append(f"covariate was {', '.join(about['given']) or 'nothing'}, now {', '.join(covariates)}")
    if differ:
        msg = f"The cells have correlations that were computed differently ({'; '.join(differ)})."
        raise InputError(msg, "Pass `overwrite=True` to replace them.")
    return False


def _support(adata: "AnnData", key: str) -> dict[str, dict[str, float]]:
    """Return what `mxsplicer correlate` prints of each marker: how well all features together represent it."""
    prefix = key.removesuffix("_correlation") + "_"
    columns = [column for column in adata.var.columns if column.startswith(prefix)]
    table = adata.var[columns].rename(columns=lambda column: column.removeprefix(prefix))
    table.insert(0, "marker", table.index.astype(str))
    return {row.pop("marker"): row for row in table.to_dict("records")}


def _facts(table: Any, support: dict[str, dict[str, float]], about: dict[str, Any]) -> dict[str, Any]:
    of_markers = [
        {"marker": marker, **{name: _number(value) for name, value in support[marker].items()}}
        | {
            "partners": [
                {name: _number(value) for name, value in row.items() if name != "marker"}
                for row in rows.to_dict("records")
            ]
        }
        for marker, rows in table.groupby("marker", sort=False)
    ]
    words = ("use_rep", "n_cells", "given", "light_from", "p_5pct_fdr", "folds_by", "n_cells_r2", "left_out")
    return {name: _number(about[name]) for name in words if name in about} | {"markers": of_markers}


def _number(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124, JSON has no NaN


def _show(table: Any, support: dict[str, dict[str, float]]) -> None:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("marker", no_wrap=True)
    columns = {"mean_abs_r": "|r|", "r2_mean": "R²", "r2_texture": "texture", "r2_localisation": "place"}
    columns = {name: head for name, head in columns.items() if any(name in one for one in support.values())}
    for head in columns.values():
        shown.add_column(head, justify="right", no_wrap=True)
    for place in range(table.groupby("marker").size().max()):
        shown.add_column(_place(place + 1), no_wrap=True)
    names = [name.removeprefix("feature ") for name in table["name"]]
    table = table.assign(name=[name.ljust(max(map(len, names))) for name in names])
    for marker, rows in table.groupby("marker", sort=False):
        partners = [_partner(row) for row in rows.to_dict("records")]
        shown.add_row(marker, *[f"{support[marker][name]:.2f}" for name in columns], *partners)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.width = max(console.width, 160)  # a number that is cut short is useless
    values = "feature, r" + (" (partial r)" if "partial_r" in table else "")
    console.print(f"Features that follow each marker most: {values}. |r|: mean over all features, R²: all together.")
    console.print(shown)
    if "by_chance" in table and table["by_chance"].any():
        typer.echo("~ is not distinguishable from chance.")


def _place(number: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _partner(row: dict[Any, Any]) -> str:
    partial = f" ({row['partial_r']:+.2f})" if "partial_r" in row else ""
    return f"{row['name']} {row['r']:+.2f}{partial}{' ~' if row.get('by_chance') else ''}"
