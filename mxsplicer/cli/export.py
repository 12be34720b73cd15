"""`mxsplicer export`: write a result in the formats of other programs."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mxsplicer.cli.options import Overwrite, register
from mxsplicer.cli.outputs import Output
from mxsplicer.errors import InputError
from mxsplicer.export.web import MAX_MEGAPIXELS
from mxsplicer.system import progress

if TYPE_CHECKING:
    from mxsplicer.images.lazy_images import LazyImage
    from mxsplicer.images.slide import Slide


# Options of this command alone.
_Spatialdata = Annotated[
    Path | None, typer.Option(metavar="DIR", help="A SpatialData store of slides, masks and cells.")
]
_Geojson = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Outlines of the cells with their clusters as classes, for QuPath; for several slides, a folder.",
    ),
]
_SimplifyPx = Annotated[
    float, typer.Option(min=0, help="How far outlines may deviate from the pixels' edges; 0.5 halves the file.")
]
_Csv = Annotated[
    Path | None, typer.Option(metavar="FILE", help="One row per cell in mcmicro's columns, .csv or .csv.gz.")
]
_Features = Annotated[bool, typer.Option("--features", help="Write the features into the table too.")]
_LabelsZarr = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Cells and clusters as OME-Zarr labels; for several slides, a folder."),
]
_Web = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A page with tissue, UMAP, correlations and example cells: open DIR/index.html, also offline.",
    ),
]
_WebMegapixels = Annotated[
    float,
    typer.Option(
        help="Finest level of the page: the first with at most so many million pixels per channel, so 10,000 x 10,000 "
        "px stay sharp. 1e6 keeps every level."
    ),
]


def add_export(app: typer.Typer) -> None:
    """Add the command `mxsplicer export`."""
    register(app, export_command)


def export_command(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Folder that embed wrote.", show_default=False)],
    *,
    spatialdata: _Spatialdata = None,
    image: Annotated[bool, typer.Option("--image/--no-image", help="Copy the slides into the SpatialData.")] = True,
    geojson: _Geojson = None,
    simplify_px: _SimplifyPx = 0.0,
    csv: _Csv = None,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="The same table as Parquet.")] = None,
    features: _Features = False,
    labels_zarr: _LabelsZarr = None,
    web: _Web = None,
    web_megapixels: _WebMegapixels = MAX_MEGAPIXELS,
    groupby: Annotated[str, typer.Option(help="Column of obs to export as classes.")] = "leiden",
    roi: Path | None,
    overwrite: Overwrite = False,
) -> None:
    """Write cells, outlines and clusters of a result in the formats of other programs."""
    if not any((spatialdata, geojson, csv, parquet, labels_zarr, web)):
        msg = "Nothing to export."
        raise InputError(msg, "Pass --web, --spatialdata, --geojson, --csv, --parquet or --labels-zarr.")
    wanted = {
        kind: Output(path, options={"result", "roi", *_DEPENDS_ON[kind]})
        for kind, path in _paths(spatialdata, geojson, csv, parquet, labels_zarr, web).items()
    }
    wanted = {kind: one for kind, one in wanted.items() if not one.is_complete(overwrite=overwrite)}
    if wanted:
        job = _Export(
            result,
            roi,
            groupby=groupby,
            features=features,
            simplify_px=simplify_px,
            image=image,
            web_megapixels=web_megapixels,
        )
        with progress.shown():
            job.write({kind: one.path for kind, one in wanted.items()}, overwrite=overwrite)
        for one in wanted.values():
            one.record()


# The options that each format depends on.
_DEPENDS_ON: dict[str, tuple[str, ...]] = {
    "csv": ("features",),
    "parquet": ("features",),
    "geojson": ("groupby", "simplify_px"),
    "labels_zarr": ("groupby",),
    "spatialdata": ("image",),
    "web": ("groupby", "web_megapixels"),
}


def _paths(*paths: Path | None) -> dict[str, Path]:
    kinds = ("spatialdata", "geojson", "csv", "parquet", "labels_zarr", "web")
    return {kind: path for kind, path in zip(kinds, paths, strict=True) if path is not None}


@dataclass(frozen=True)
class _Export:
    """What `mxsplicer export` writes, and how."""

    result: Path
    roi: Path | None
    _: KW_ONLY
    groupby: str
    features: bool
    simplify_px: float
    image: bool
    web_megapixels: float

    def write(self, paths: Mapping[str, Path], *, overwrite: bool) -> None:
        """Write the cells in each of the formats."""
        from mxsplicer import export
        from mxsplicer.embedding.h5ad import open_cells
        from mxsplicer.result.features import open_features
        from mxsplicer.result.folder import find_cells, open_result
        from mxsplicer.result.reporting import record_web_page
        from mxsplicer.result.slides import open_images
        from mxsplicer.tl.drawn_outlines import cells_inside
        from mxsplicer.tl.representations import learned_key

        sizes = {one["name"]: float(one["pixel_size_um"]) for one in open_result(self.result)["slides"]}
        needs_images = not paths.keys() <= {"csv", "parquet"}
        slides, masks = open_images(self.result) if needs_images else ([], [])
        missing = sorted(set(sizes) - {slide.name for slide in slides})
        if needs_images and missing:
            msg = f"Slide {missing[0]!r} or its mask is no longer where it was."
            raise InputError(msg, "Put it back, or export a table only.")
        with open_cells(find_cells(self.result)) as every:
            adata = cells_inside(every, self.roi)
            for kind in ("csv", "parquet"):
                if kind in paths:
                    use_rep = learned_key(adata) if self.features else None
                    export.write_table(adata, paths[kind], pixel_sizes_um=sizes, use_rep=use_rep, overwrite=overwrite)
            present = set(adata.obs["slide"].astype(str))  # of some slides no cell may be inside
            for slide, mask in zip(slides, masks, strict=True):
                if slide.name in present:
                    self._write_slide(adata, slide, mask, paths, several=len(slides) > 1, overwrite=overwrite)
            if "spatialdata" in paths:
                export.write_spatialdata(
                    adata, paths["spatialdata"], slides=slides, masks=masks, image=self.image, overwrite=overwrite
                )
            if "web" in paths:
                rows = None if self.roi is None else every.obs_names.get_indexer(adata.obs_names)
                export.write_web(
                    adata,
                    paths["web"],
                    slides=slides,
                    masks=masks,
                    groupby=self.groupby,
                    max_megapixels=self.web_megapixels,
                    features=open_features(self.result, every.obs_names) if self.roi is None else None,
                    rows=rows,
                    overwrite=overwrite,
                )
                if self.roi is None:
                    record_web_page(self.result, paths["web"])
        for kind, path in paths.items():
            typer.echo(path / "index.html" if kind == "web" else path)

    def _write_slide(
        self,
        adata: Any,
        slide: "Slide",
        mask: "LazyImage",
        paths: Mapping[str, Path],
        *,
        several: bool,
        overwrite: bool,
    ) -> None:
        from mxsplicer import export

        how: dict[str, Any] = {"slide": slide.name, "groupby": self.groupby, "overwrite": overwrite}
        if (path := paths.get("geojson")) is not None:
            path = path / f"{slide.name}.geojson" if several else path
            export.write_outlines(adata, path, mask, simplify_px=self.simplify_px, **how)
        if (path := paths.get("labels_zarr")) is not None:
            path = path / f"{slide.name}.ome.zarr" if several else path
            export.write_labels(adata, path, mask, pixel_size_um=slide.pixel_size_um, **how)
            labels = path / "labels"
            typer.echo(f"In napari open {labels / 'cells'} or {labels / self.groupby}.", err=True)
