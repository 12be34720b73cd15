"""The arena's data sets: slides, the labels of their cells, and how cells are divided into folds.

Simulated tissue is made here; the others are read from a folder of public data and are left out where it lacks them.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import tifffile
from anndata import AnnData

from mxsplicer import drop_markers, extract_patches, measure_cells, open_mask, open_slide, segment, simulate_slide
from mxsplicer.patches.store import NUCLEUS, THIS_CELL

LOADERS = Path(__file__).resolve().parents[1] / "paper/datasets"
STATES = ("lineage", "t_cell_subtype", "localisation", "coincidence")  # labels of simulated tissue
ARRANGEMENTS = ("alignment", "docking", "growth", "synapse")  # labels of the same tissue with another panel
RARE = 60  # cells of a type, at least, for it to be scored
PER_CLASS = 400  # cells of a type of real tissue, at most
SEEDS = (0, 1, 2)


@dataclass(frozen=True, eq=False)
class LabelledSlide:
    """An image, the mask of its cells, and a table with ``cell_id`` and one column per label."""

    image: Path
    mask: Path
    labels: pd.DataFrame

    @property
    def name(self) -> str:
        """The name that mxsplicer gives the slide."""
        return self.image.name.partition(".ome.tif")[0]


@dataclass(frozen=True, eq=False)
class DataSet:
    """Slides of one panel, and how their labels are scored.

    Attributes
    ----------
    labels
        Columns of the tables of labels that are scored.
    patch_size_um
        Side of the square that descriptions of pixels see. The default command chooses its own.
    fold_by
        Column whose values stay in one fold; None for quadrants of the slide.
    clusters
        The label that clusters are compared with.
    drop
        Channels without biology.
    """

    name: str
    slides: tuple[LabelledSlide, ...]
    labels: tuple[str, ...]
    patch_size_um: float
    fold_by: str | None = None
    clusters: str | None = None
    drop: tuple[str, ...] = ()
    min_cells: int = 5  # of a class in every fold

    @property
    def group(self) -> str:
        """The name under which seeds of one simulation are pooled."""
        return self.name.partition(" seed ")[0]


@dataclass(frozen=True, eq=False)
class Cells:
    """The labelled cells of a data set.

    Attributes
    ----------
    pixels
        Intensities as they were read, (n, C, P, P).
    inside
        The pixels of the cell, (n, P, P).
    table
        Labels and ``slide`` in ``obs``, places in ``obsm["spatial"]``, markers as ``var_names``; ``X`` is empty.
    """

    pixels: np.ndarray
    inside: np.ndarray
    table: AnnData

    def take(self, rows: np.ndarray) -> "Cells":
        """Return some of the cells."""
        return Cells(self.pixels[rows], self.inside[rows], self.table[rows].copy())


def read_cells(data: DataSet) -> Cells:
    """Cut a patch around every labelled cell."""
    pixels, inside, tables, places = [], [], [], []
    for one in data.slides:
        slide = open_slide(one.image)
        slide = drop_markers(slide, [name for name in data.drop if name in slide.markers])
        labels = one.labels.set_index("cell_id")
        labels = labels[(labels[list(data.labels)].fillna("") != "").any(axis=1)]
        mask = open_mask(one.mask, slide=slide)
        measured = measure_cells(slide, mask, workers=1)
        with TemporaryDirectory() as folder:
            store = extract_patches(
                slide,
                mask,
                Path(folder, "patches.zarr"),
                patch_size_um=data.patch_size_um,
                cells=measured,
                cell_ids=np.intersect1d(measured.table["cell_id"], labels.index),  # small cells are left out
                workers=1,
            )
            cut, regions = store.read_rows(np.arange(store.n_cells))
            cells = store.cells
        pixels.append(cut)
        inside.append(np.isin(regions, (THIS_CELL, NUCLEUS)))
        tables.append(labels.loc[cells["cell_id"]].reset_index().assign(slide=one.name))
        places.append(cells[["x", "y"]].to_numpy())
    obs = pd.concat(tables, ignore_index=True).astype(dict.fromkeys(data.labels, "string"))
    obs.index = pd.Index([f"{slide}:{cell}" for slide, cell in zip(obs["slide"], obs["cell_id"], strict=True)])
    table = AnnData(obs=obs, var=pd.DataFrame(index=pd.Index(slide.markers)), obsm={"spatial": np.concatenate(places)})
    return Cells(np.concatenate(pixels), np.concatenate(inside), table)


def tissue(folder: Path, seed: int, size_px: int) -> DataSet:
    """Simulate tissue whose truth is known."""
    slide = _simulated(folder, seed, size_px, "orion-crc", STATES)
    return DataSet(f"tissue seed {seed}", (slide,), STATES, 16.0, clusters="lineage", drop=("AF1", "Argo550"))


def arrangements(folder: Path, seed: int, size_px: int) -> DataSet:
    """Simulate the same tissue with markers whose states only an arrangement shows."""
    slide = _simulated(folder, seed, size_px, "arrangements", ARRANGEMENTS)
    return DataSet(f"arrangements seed {seed}", (slide,), ARRANGEMENTS, 16.0)


def _simulated(folder: Path, seed: int, size_px: int, panel: str, labels: tuple[str, ...]) -> LabelledSlide:
    stem = folder / f"{panel}_{seed}_{size_px}"
    if not Path(f"{stem}.ome.tiff").exists():
        simulate_slide(f"{stem}.ome.tiff", size_px=size_px, seed=seed, panel=panel)
    table = pd.read_csv(f"{stem}_truth.csv", keep_default_na=False)[["cell_id", *labels]]
    return LabelledSlide(Path(f"{stem}.ome.tiff"), Path(f"{stem}_mask.ome.tiff"), table)


def mibi(source: Path) -> DataSet:
    """Read fields of breast tissue (Risom et al. 2022); cells are folded by patient."""
    sys.path.insert(0, str(LOADERS))
    from mibi_dcis import LINEAGES

    lineage_of = {one: name for name, members in LINEAGES.items() for one in members}
    types = pd.read_csv(source / "derived/cell_types_silver.csv.gz")
    types = types[types["confident"]].rename(columns={"label": "cell_id"})
    types = types.groupby("cell_type").filter(lambda cells: len(cells) >= RARE)
    types = types.sample(frac=1, random_state=0).groupby("cell_type").head(PER_CLASS).sort_index()
    types["lineage"] = types["cell_type"].map(lineage_of).fillna("")
    types["patient"] = types["fov"].map(pd.read_csv(source / "manifest.csv").set_index("fov")["patient"])
    slides = tuple(
        LabelledSlide(
            source / f"images/{field}.ome.tif",
            source / f"derived/masks_watershed/{field}_mask.tif",
            table[["cell_id", "cell_type", "lineage", "patient"]],
        )
        for field, table in types.groupby("fov")
    )
    return DataSet("MIBI", slides, ("lineage", "cell_type"), 16.0, fold_by="patient", clusters="lineage")


def cell_cycle(source: Path, folder: Path) -> DataSet:
    """Read cells whose phase was sorted by hand (Blasi et al. 2016); folds are of random cells."""
    image = folder / "cell_cycle/cells.ome.tiff"
    if not image.exists():
        subprocess.run([sys.executable, LOADERS / "cell_cycle.py", source, image.parent], check=True)
    slide = LabelledSlide(
        image, image.with_name("cells_mask.ome.tiff"), pd.read_csv(image.with_name("cells_labels.csv"))
    )
    return DataSet("cell cycle", (slide,), ("phase",), 40.0, fold_by="group")


def translocation(source: Path) -> DataSet:
    """Read cells in which a protein lies in the nucleus or not (BBBC013); folds are of random cells."""
    labels = pd.read_csv(source / "row_A_labels.csv")[["cell_id", "treated"]]
    labels["group"] = np.random.default_rng(0).integers(20, size=len(labels)).astype(str)
    slide = LabelledSlide(source / "row_A.ome.tiff", source / "row_A_mask.ome.tiff", labels)
    return DataSet("translocation", (slide,), ("treated",), 64.0, fold_by="group")


def pancreas(source: Path, folder: Path) -> DataSet:
    """Read two crops of pancreas with published types (Damond et al. 2019), a few dozen cells of a type."""
    names = list(pd.read_csv(source / "panel.csv")["target"])
    slides = []
    for crop in ("E34", "G01"):
        image = folder / f"pancreas_{crop}.ome.tiff"
        about = {"axes": "CYX", "Channel": {"Name": names}, "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}
        tifffile.imwrite(image, tifffile.imread(source / f"{crop}_imc.tiff"), metadata=about)
        labels = pd.read_csv(source / f"{crop}_cell_types.csv").rename(columns={"CellNumber": "cell_id"})
        slides.append(LabelledSlide(image, source / f"{crop}_mask.tiff", labels[["cell_id", "CellType"]]))
    return DataSet("pancreas", tuple(slides), ("CellType",), 24.0, min_cells=2)


def breast_mif(source: Path, folder: Path) -> DataSet:
    """Read a crop of breast tissue with published phenotypes at centroids (CSM); the mask is made here."""
    image = source / "ABCM22001_B14_MiniCrop.ome.tif"
    mask = folder / "breast_mif_mask.ome.tiff"
    slide = open_slide(image, pixel_size_um=0.5)
    if not mask.exists():
        segment(slide, mask)
    table = pd.read_csv(image.with_name("ABCM22001_B14_MiniCrop_cells.csv"))
    ids = np.asarray(open_mask(mask, slide=slide)[...])
    at = ids[table["y"].round().astype(int).clip(0, 499), table["x"].round().astype(int).clip(0, 499)]
    table = table.assign(cell_id=at)[at > 0].drop_duplicates("cell_id")
    copy = folder / "breast_mif.ome.tiff"
    if not copy.exists():
        about = {"axes": "CYX", "Channel": {"Name": list(slide.markers)}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        tifffile.imwrite(copy, tifffile.imread(image), metadata=about)
    return DataSet(
        "breast mIF", (LabelledSlide(copy, mask, table[["cell_id", "Phenotype"]]),), ("Phenotype",), 16.0, min_cells=2
    )


SIMULATED = {"tissue": tissue, "arrangements": arrangements}


def choose(
    names: Sequence[str], folder: Path, source: Path | None, size_px: int
) -> list[tuple[str, Callable[[], DataSet]]]:
    """Return the data sets that were asked for, as functions that prepare them in ``folder``.

    Parameters
    ----------
    names
        ``tissue`` and ``arrangements`` (all seeds; ``tissue0`` is one of them), ``mibi``, ``cell_cycle``,
        ``translocation``, ``pancreas``, ``breast_mif``.
    source
        Folder of the public data.
    size_px
        Side of the simulated slides.
    """
    public = {
        "mibi": ("mibi-dcis-risom2022", mibi),
        "cell_cycle": ("ifc-cellcycle-blasi2016", lambda path: cell_cycle(path, folder)),
        "translocation": ("translocation-u2os", translocation),
        "pancreas": ("imc-pancreas-damond2019", lambda path: pancreas(path, folder)),
        "breast_mif": ("mif-breast-csm", lambda path: breast_mif(path, folder)),
    }
    chosen: list[tuple[str, Callable[[], DataSet]]] = []
    for name in names:
        family = name.rstrip("0123456789")
        if family in SIMULATED:
            seeds = [int(name.removeprefix(family))] if name != family else SEEDS
            simulate = SIMULATED[family]
            chosen += [(f"{family}{seed}", partial(simulate, folder, seed, size_px)) for seed in seeds]
        elif name not in public:
            msg = f"data set {name!r} is unknown; there are {', '.join([*SIMULATED, *public])}."
            raise SystemExit(msg)
        elif source is None or not (source / public[name][0]).is_dir():
            sys.stderr.write(f"without {name}: {public[name][0]} was not found in the folder of public data.\n")
        else:
            path, load = source / public[name][0], public[name][1]
            chosen.append((name, partial(load, path)))
    return chosen
